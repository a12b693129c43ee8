package strict

import (
	"strings"
	"testing"

	"sealkeeper/internal/fuzzing"
)

type doc struct {
	Name string         `json:"name"`
	List []int          `json:"list,omitempty"`
	Any  map[string]any `json:"any,omitempty"`
}

var limits = Limits{Bytes: 64, Depth: 3}

func TestJSON(t *testing.T) {
	for _, c := range []struct {
		name, in string
		strict   bool // accepted by JSON
		loose    bool // accepted by Loose
	}{
		{"good", `{"name":"a","list":[1]}`, true, true},
		{"unknown member", `{"name":"a","x":1}`, false, true},
		{"duplicate member", `{"name":"a","name":"b"}`, false, false},
		{"duplicate member deep inside", `{"any":{"a":{"b":1,"b":2}}}`, false, false},
		{"duplicate by escape", `{"name":"a","\u006eame":"b"}`, false, false},
		{"duplicate unknown member", `{"x":1,"x":2}`, false, false},
		{"another case", `{"Name":"a"}`, false, true},
		{"invalid UTF-8", "{\"name\":\"\xff\"}", false, false},
		{"lone surrogate", `{"name":"\ud800"}`, false, false},
		{"two documents", `{"name":"a"}{"name":"b"}`, false, false},
		{"bytes behind", `{"name":"a"}x`, false, false},
		{"nothing", ``, false, false},
		{"another type", `{"name":1}`, false, false},
		{"as deep as allowed", `{"any":{"a":[1]}}`, true, true},
		{"deeper", `{"any":{"a":[[1]]}}`, false, false},
		{"brackets in a string are no depth", `{"name":"[[[[\"[[[["}`, true, true},
		{"as long as allowed", `{"name":"` + strings.Repeat("a", 64-11) + `"}`, true, true},
		{"longer", `{"name":"` + strings.Repeat("a", 64-10) + `"}`, false, false},
	} {
		for _, f := range []struct {
			name string
			do   func([]byte, Limits, any) error
			ok   bool
		}{{"JSON", JSON, c.strict}, {"Loose", Loose, c.loose}} {
			if err := f.do([]byte(c.in), limits, new(doc)); (err == nil) != f.ok {
				t.Errorf("%s: %s: %v, accepted must be %v", f.name, c.name, err, f.ok)
			}
		}
	}
}

// A name is bounded wherever it stands and however it ends: the decoder's error would hold it many times.
func TestNamesAreBounded(t *testing.T) {
	long, wide := strings.Repeat("m", maxName), Limits{Bytes: 1 << 16, Depth: 3}
	for in, ok := range map[string]bool{
		`{"` + long + `":1}`: false, `{"` + long: false, `{"` + long + `"`: false, `{"a":1,"` + long: false, `{"a":[{"` + long + `"`: false,
		`{"any":{"a":["` + long + `","` + long + `"],"b":"` + long + `"}}`: true,
	} {
		if err := JSON([]byte(in), wide, new(doc)); (err == nil) != ok || !ok && !strings.Contains(err.Error(), "name is longer") {
			t.Errorf("%.20s…: %.80v", in, err)
		}
	}
}

// Empty values are short in a document and long in memory: there is a bound for their number.
func TestValues(t *testing.T) {
	l := Limits{Bytes: 4096, Depth: 2}
	for n, ok := range map[int]bool{256: true, 257: false} {
		text := `["` + strings.Repeat(",", 500) + `"` + strings.Repeat(",1", n-1) + `]`
		if err := JSON([]byte(text), l, new([]any)); (err == nil) != ok {
			t.Errorf("%d values: %v", n, err)
		}
	}
}

// Taking an escape out of a string costs as much as ten other bytes: there is a bound for their number, which a text of nothing but \u escapes is within.
func TestEscapes(t *testing.T) {
	l := Limits{Bytes: 6000, Depth: 3}
	for text, ok := range map[string]bool{
		strings.Repeat(`\n`, 1000): true, strings.Repeat(`\n`, 1001): false, strings.Repeat(`\uac00`, 998): true, strings.Repeat(`\\`, 1000): true,
		strings.Repeat(`\n`, 600) + `","any":{"a":"` + strings.Repeat(`\"`, 400): true, strings.Repeat(`\n`, 600) + `","any":{"a":"` + strings.Repeat(`\"`, 401): false,
	} {
		in := `{"name":"` + text + `"`
		if strings.Contains(in, `"any"`) {
			in += "}"
		}
		if err := JSON([]byte(in+"}"), l, new(doc)); (err == nil) != ok || !ok && !strings.Contains(err.Error(), "more than 1000 escapes") {
			t.Errorf("%.40s…, %d bytes: %v", text, len(in), err)
		}
	}
}

func TestLongNames(t *testing.T) {
	l := Limits{Bytes: 1 << 16, Depth: 2}
	for n, ok := range map[int]bool{maxName - 1: true, maxName: false} {
		if err := Loose([]byte(`{"`+strings.Repeat("n", n)+`" : 1}`), l, new(doc)); (err == nil) != ok {
			t.Errorf("a name of %d bytes: %v", n, err)
		}
	}
	if err := Loose([]byte(`{"name":"`+strings.Repeat("v", 1<<15)+`"}`), l, new(doc)); err != nil {
		t.Errorf("a long value: %v", err)
	}
}

// Names are case-sensitive: what looks like a member and is none does not slip into it.
func TestLooseIsCaseSensitive(t *testing.T) {
	var d doc
	if err := Loose([]byte(`{"NAME":"x"}`), limits, &d); err != nil || d.Name != "" {
		t.Errorf("%+v, %v", d, err)
	}
}

func FuzzJSON(f *testing.F) {
	seeds := fuzzing.Strings(`{"name":"a","list":[1]}`, `{"name":"a","name":"b"}`, `{"any":{"a":[[1]]}}`, `"\\"`, `[[[[`, "{\"name\":\"\xff\"}")
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, data []byte) bool {
		strict, loose := JSON(data, limits, new(doc)), Loose(data, limits, new(doc))
		if strict == nil && loose != nil {
			t.Errorf("JSON takes what Loose refuses: %v", loose)
		}
		if strict == nil && len(data) > limits.Bytes {
			t.Errorf("%d bytes were taken", len(data))
		}
		return loose == nil
	})
}
