package strict

import "testing"

// FuzzDepth compares the depth that is measured before decoding with one that is counted byte by byte.
func FuzzDepth(f *testing.F) {
	for _, s := range []string{`{"a":[[1]]}`, `["\\",[[]]]`, `["\"",[[]]]`, `"\\\"[[[[[`, `"[[[[`, `"\`, `[[[[[`, `]]][[[[[[`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		depth, deepest, inString, escaped := 0, 0, false, false
		for _, c := range data {
			switch {
			case escaped:
				escaped = false
			case inString && c == '\\':
				escaped = true
			case c == '"':
				inString = !inString
			case inString:
			case c == '{' || c == '[':
				depth++
				deepest = max(deepest, depth)
			case c == '}' || c == ']':
				depth--
			}
		}
		if err := check(data, Limits{Bytes: len(data), Depth: 4}); (err != nil) != (deepest > 4) {
			t.Errorf("%q has depth %d: %v", data, deepest, err)
		}
	})
}
