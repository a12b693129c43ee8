package contract

import (
	"bytes"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

// Whatever stands in them, also in members that were added since, a request and an answer are written as the encoder of all other messages does.
func TestIssuesAreWrittenAlike(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 1000 {
		var q IssueRequest
		var a IssueAnswer
		if n > 0 {
			someOf(r, reflect.ValueOf(&q).Elem())
			someOf(r, reflect.ValueOf(&a).Elem())
			for i := range a.Credentials {
				a.Credentials[i].Credential = strings.Repeat("aB3_-.~", r.IntN(100))
			}
		}
		for _, c := range []struct {
			v     any
			write func() ([]byte, error)
		}{{q, func() ([]byte, error) { return q.AppendCanonical(nil) }}, {a, func() ([]byte, error) { return whole(a) }}} {
			want, err := json.Marshal(c.v, json.Deterministic(true))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := c.write(); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%T:\n%s\nis written as\n%s\n%v", c.v, want, got, err)
			}
		}
	}
}

// What is no text has no form: a request is not hashed, and an answer does not leave.
func TestNoTextIsNotWritten(t *testing.T) {
	const bad = "a\xffb"
	for name, q := range map[string]IssueRequest{"type": {DocumentType: bad}, "claim": {Claims: map[string]any{"a": bad}}, "claim's name": {Claims: map[string]any{bad: 1.0}},
		"within a claim": {Claims: map[string]any{"a": []any{bad}}}, "evidence": {Evidence: []EvidenceItem{{Token: bad}}}} {
		if _, err := q.AppendCanonical(nil); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	for _, text := range []string{bad, "a\"", "a\\", "a\n", "홍"} { // no credential has such a text, so nobody takes pains to escape it
		if out, err := whole(IssueAnswer{Credentials: []Credential{{Credential: text}}}); err == nil {
			t.Errorf("an answer: written as %s", out)
		}
	}
	a := IssueAnswer{Credentials: make([]Credential, 2)}
	if _, err := a.JSON(0, func(b []byte, i int) ([]byte, error) { return b, []error{nil, io.ErrClosedPipe}[i] }); err != io.ErrClosedPipe {
		t.Errorf("a credential that could not be joined: %v", err)
	}
	if _, err := whole(IssueAnswer{Device: bad}); err == nil {
		t.Error("a device: written")
	}
	a.Credentials[0] = Credential{ValidUntil: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}
	if _, err := whole(a); err == nil {
		t.Error("a year that has no form: written")
	}
}

func whole(a IssueAnswer) ([]byte, error) {
	return a.JSON(0, func(b []byte, i int) ([]byte, error) { return append(b, a.Credentials[i].Credential...), nil })
}

var texts = []string{"", "a", "홍길동", "\x00\t\n\"\\", "</a&b>", "\u2028\u2029\u007f", "\U0001f600", strings.Repeat("aB3_-.~", 200), strings.Repeat("로", 100), strings.Repeat("x", 50) + "\""}

func someText(r *rand.Rand) string { return texts[r.IntN(len(texts))] }

func someOf(r *rand.Rand, v reflect.Value) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Unix(r.Int64N(1<<34), r.Int64N(3)*500).In([]*time.Location{time.UTC, time.FixedZone("", 9*3600)}[r.IntN(2)])))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(someText(r))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Uint64:
		v.SetUint(r.Uint64() >> r.IntN(64))
	case reflect.Struct:
		for i := range v.NumField() {
			someOf(r, v.Field(i))
		}
	case reflect.Slice:
		if n := r.IntN(4); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n-1, n-1))
			for i := range n - 1 {
				someOf(r, v.Index(i))
			}
		}
	case reflect.Map:
		m := map[string]any{}
		for range r.IntN(5) {
			m[someText(r)] = someValue(r, 3)
		}
		v.Set(reflect.ValueOf(m))
	default:
		panic("a member of kind " + v.Kind().String() + ": fill it here, and write it in encode.go")
	}
}

func someValue(r *rand.Rand, depth int) any {
	switch n := r.IntN(7); {
	case n == 0:
		return nil
	case n == 1:
		return r.IntN(2) == 0
	case n == 2:
		return []float64{0, 1, -7, 0.5, 1e21, 1e-7, 1<<53 - 1}[r.IntN(7)]
	case n == 3 && depth > 0:
		list := make([]any, r.IntN(3))
		for i := range list {
			list[i] = someValue(r, depth-1)
		}
		return list
	case n == 4 && depth > 0:
		m := map[string]any{}
		for range r.IntN(4) {
			m[someText(r)] = someValue(r, depth-1)
		}
		return m
	}
	return someText(r)
}
