package strict

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// FuzzDepth compares the depth that is measured before decoding with one that is counted byte by byte: a JSON text is refused if it is too
// deep and only then, and of another one the decoder sees nothing that is too deep.
func FuzzDepth(f *testing.F) {
	for _, s := range []string{`{"a":[[1]]}`, `["\\",[[]]]`, `["\"",[[]]]`, `"\\\"[[[[[`, `"[[[[`, `"\`, `[[[[[`, `]]][[[[[[`, `"a""b"[[[[[`, `["a":[[[[[`, `{"a":"b":[[[[[`, `{"a":{"b":[{"c":[[]]}]}}`, `{}[[[[[`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		depth, tooDeep, inString, escaped := 0, len(data), false, false
		for i, c := range data {
			switch {
			case escaped:
				escaped = false
			case inString && c == '\\':
				escaped = true
			case c == '"':
				inString = !inString
			case inString:
			case c == '{' || c == '[':
				if depth++; depth > 4 {
					tooDeep = min(tooDeep, i)
				}
			case c == '}' || c == ']':
				depth--
			}
		}
		err := Within(data, Limits{Bytes: len(data), Depth: 4, Values: len(data) + 1})
		if err != nil {
			if tooDeep == len(data) && !strings.Contains(err.Error(), "name is longer") {
				t.Errorf("%q is nowhere too deep: %v", data, err)
			}
			return
		}
		var syntactic *jsontext.SyntacticError
		if tooDeep < len(data) && (!errors.As(json.Unmarshal(data, new(any)), &syntactic) || syntactic.ByteOffset > int64(tooDeep)) {
			t.Errorf("%q is too deep at byte %d, and the decoder gets there: %v", data, tooDeep, syntactic)
		}
	})
}

// What is no JSON after its first bytes costs no look at the rest.
func TestStopsWhereTheDecoderDoes(t *testing.T) {
	for _, s := range []string{`{"b"b"`, `{"b":"b":"`, `[{}{`, `["a":"`, `[[][`} {
		data := append([]byte(s), bytes.Repeat([]byte(`b"`), 8<<20)...)
		least := time.Hour
		for range 5 { // one that something else held up says nothing
			start := time.Now()
			if err := JSON(data, Limits{Bytes: len(data), Depth: 4, Values: 9}, new(any)); err == nil || !errors.As(err, new(*jsontext.SyntacticError)) {
				t.Errorf("%s: %v", s, err)
			}
			least = min(least, time.Since(start))
		}
		if least > 50*time.Millisecond { // seen to its end, it is more than 100 ms
			t.Errorf("%s: it took %v", s, least)
		}
	}
}
