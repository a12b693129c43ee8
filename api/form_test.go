package api

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sealkeeper/contract"
)

// A form says the same as the pattern that it was made of, of every text.
func TestFormsAreTheContractsPatterns(t *testing.T) {
	for _, pattern := range []string{contract.IdempotencyKeyPattern, contract.DocumentTypePattern, contract.ReasonPattern, contract.DevicePattern, contract.KindPattern,
		contract.ThumbprintPattern, contract.AuthorityPattern, contract.MethodPattern, contract.SchedulePattern} {
		f, want := formOf(pattern), regexp.MustCompile(pattern)
		for c := range 256 {
			for _, s := range []string{string([]byte{byte(c)}), string(rune(c)), "a" + string([]byte{byte(c)}), strings.Repeat("a", 30) + string([]byte{byte(c)}) + strings.Repeat("a", 12)} {
				if f.fits(s) != want.MatchString(s) {
					t.Errorf("%s of %q: %v", pattern, s, f.fits(s))
				}
			}
		}
		for n := range 150 {
			if s := strings.Repeat("a", n); f.fits(s) != want.MatchString(s) {
				t.Errorf("%s of %d characters: %v", pattern, n, f.fits(s))
			}
		}
		rapid.Check(t, func(t *rapid.T) {
			if s := rapid.OneOf(rapid.StringMatching(pattern), rapid.String(), rapid.StringMatching(`[A-Za-z0-9._\n-]{0,140}`)).Draw(t, "text"); f.fits(s) != want.MatchString(s) {
				t.Fatalf("%s of %q: %v", pattern, s, f.fits(s))
			}
		})
	}
}
