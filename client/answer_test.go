package client

import (
	"errors"
	"net/http"
	"testing"

	"sealkeeper/contract"
	"sealkeeper/internal/fuzzing"
)

// FuzzAnswer: what the appliance, or something in its place that has its certificate, answers. A refusal is always a Problem with the status.
func FuzzAnswer(f *testing.F) {
	seeds := fuzzing.Strings(
		`{"issuance":"i","device":"d","replaced":false,"credentials":[{"format":"dc+sd-jwt","credential":"e30.e30.AA~","key_thumbprint":"t",`+
			`"status":{"uri":"https://s.example/1","idx":7},"valid_until":"2027-01-01T00:00:00Z"}],"decision":{"result":"allowed","rules":["r"],"policy":"00","policy_version":1}}`,
		`{"type":"about:blank","title":"Forbidden","status":403,"detail":"d","code":"policy.denied","decision":{"result":"denied","code":"c","rules":["r"],"missing":["m"],"policy":"00","policy_version":1}}`)
	status := http.Header{"Content-Type": {"application/problem+json"}, "Retry-After": {"1"}}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, text []byte) bool {
		_, err := read[contract.IssueAnswer]("/v1/issue", http.StatusOK, nil, text)
		var p *Problem
		if _, refusal := read[contract.IssueAnswer]("/v1/issue", http.StatusForbidden, status, text); !errors.As(refusal, &p) || p.Status != http.StatusForbidden {
			t.Errorf("a refusal is read as %v", refusal)
		}
		return err == nil
	})
}

// FuzzRetryAfter: the header never makes a client wait for longer than 18 hours, or for a negative time.
func FuzzRetryAfter(f *testing.F) {
	fuzzing.Run(f, fuzzing.Options{Longest: 4 << 10}, fuzzing.Strings("1", "65535", "65536", "-1", "Tue, 24 Nov 2026 00:00:00 GMT"), func(t *testing.T, v []byte) bool {
		d := retryAfter(string(v))
		if d < 0 || d.Hours() > 18.3 {
			t.Errorf("%q: %s", v, d)
		}
		return d > 0
	})
}
