package jsonwrite

import (
	"bytes"
	"encoding/base64"
	stdjson "encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

type element struct {
	Integer int64  `json:"integer"`
	Bytes   []byte `json:"bytes"`
}

// all has a member for each method.
type all struct {
	Text     string         `json:"text"`
	TextIf   string         `json:"text_if,omitempty"`
	Texts    []string       `json:"texts"`
	TextsIf  []string       `json:"texts_if,omitempty"`
	Appended string         `json:"appended"`
	Bytes    []byte         `json:"bytes"`
	BytesIf  []byte         `json:"bytes_if,omitempty"`
	Digests  [][32]byte     `json:"digests"`
	Time     time.Time      `json:"time"`
	TimeIf   time.Time      `json:"time_if,omitzero"`
	Number   uint64         `json:"number"`
	NumberIf uint64         `json:"number_if,omitzero"`
	Integer  int64          `json:"integer"`
	OrNull   *int64         `json:"or_null"`
	Bool     bool           `json:"bool"`
	Map      map[string]any `json:"map"`
	Any      any            `json:"any"`
	Of       []element      `json:"of"`
}

func (v *all) write() ([]byte, error) {
	w := On([]byte("behind "))
	w.Text("text", v.Text)
	w.TextIf("text_if", v.TextIf)
	w.Texts("texts", v.Texts)
	w.TextsIf("texts_if", v.TextsIf)
	w.Appended("appended", func(b []byte) ([]byte, error) { return append(b, v.Appended...), nil })
	w.Bytes("bytes", v.Bytes)
	w.BytesIf("bytes_if", v.BytesIf)
	w.Digests("digests", v.Digests)
	w.Time("time", v.Time)
	w.TimeIf("time_if", v.TimeIf)
	w.Number("number", v.Number)
	w.NumberIf("number_if", v.NumberIf)
	w.Integer("integer", v.Integer)
	w.IntegerOrNull("or_null", v.OrNull)
	w.Bool("bool", v.Bool)
	w.Map("map", v.Map)
	w.Any("any", v.Any)
	w.Begin("of", '[')
	for _, e := range v.Of {
		w.Next('{')
		w.Integer("integer", e.Integer)
		w.Bytes("bytes", e.Bytes)
		w.End('}')
	}
	w.End(']')
	return w.Done()
}

func TestWrittenAlike(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", "a", "홍길동", "\x00\t\n\"\\", "</a&b>", "\u2028\u2029\u007f", "\U0001f600", strings.Repeat("aB3_-.~", 200), strings.Repeat("로", 100), strings.Repeat("x", 50) + "\"", "{", "[", "\ufffd", "a\xffb", "\xed\xa0\x80"}
	for range 3000 {
		data := make([]byte, r.IntN(80))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		compare(t, texts[r.IntN(len(texts))], texts[r.IntN(len(texts))], data, r.Int64()>>r.IntN(64)*(1-2*r.Int64N(2)), r.IntN(3201)-1600)
	}
}

func FuzzWrittenAlike(f *testing.F) {
	f.Add("a", "한글 <&>\u2028", []byte{1, 2}, int64(1<<33+7), 9*60)
	f.Add("\"\\", "\xff", []byte{}, int64(-1), -1)
	f.Fuzz(compare)
}

// compare fills every member with what the texts, bytes and numbers make of it: the same bytes come out as from the encoder, and the standard
// library reads in them what was meant. What the encoder has no form for is not written.
func compare(t *testing.T, text, other string, data []byte, n int64, zone int) {
	v := all{Text: text, TextIf: other, Texts: []string{text, other}, Appended: base64.RawURLEncoding.EncodeToString(data), Bytes: data, BytesIf: data,
		Time: time.Unix(n, n&0xffff).In(time.FixedZone("", 60*zone)), Number: uint64(n), NumberIf: uint64(n), Integer: n, Bool: n&1 == 0,
		Map: map[string]any{text: other, other: text, "a": n&2 == 0, "b" + text: []any{text, nil}},
		Any: []any{n, string(data), math.Float64frombits(uint64(n)), map[string]any{other: text, text: 1}}[n&3]}
	if len(data) > 0 {
		v.OrNull = &n
		v.TextsIf, v.Digests, v.TimeIf = v.Texts[:1+n>>3&1], [][32]byte{{data[0]}, {1: data[0]}}[:1+n>>4&1], v.Time
		v.Of = []element{{n, data}, {-n, data[1:]}}
	}
	got, err := v.write()
	want, refused := json.Marshal(v, json.Deterministic(true))
	if refused != nil {
		if err == nil || got != nil {
			t.Errorf("%+v is written as\n%s\nbut has no form: %v", v, got, refused)
		}
		return
	}
	if err != nil || string(got) != "behind "+string(want) {
		t.Fatalf("%s\nis written as\n%s\n%v", want, got, err)
	}
	var back struct {
		Text, Appended string
		Texts          []string
		Bytes          []byte
		Time           time.Time
		Number         uint64
		Integer        int64
		Map            map[string]any
	}
	if err := stdjson.Unmarshal(want, &back); err != nil || back.Text != text || back.Appended != v.Appended || !slices.Equal(back.Texts, v.Texts) || !bytes.Equal(back.Bytes, data) ||
		!back.Time.Equal(v.Time) || back.Number != v.Number || back.Integer != n || !reflect.DeepEqual(back.Map["b"+text], []any{text, nil}) {
		t.Fatalf("%s\nis read as %+v\n%v", want, back, err)
	}
}

// A text that was promised to need no escape needs none, and the first thing that can't be written is what the caller hears of.
func TestWhatIsNotWritten(t *testing.T) {
	as := func(s string, err error) func(b []byte) ([]byte, error) {
		return func(b []byte) ([]byte, error) { return append(b, s...), err }
	}
	for _, text := range []string{"a\"", "a\\", "a\n", "홍", "a\xffb"} {
		w := On(nil)
		w.Appended("a", as(text, nil))
		if b, err := w.Done(); err == nil || b != nil {
			t.Errorf("%q is written as %s", text, b)
		}
	}
	w := On(nil)
	w.Appended("a", as("", io.ErrClosedPipe))
	w.Text("b", "a\xffb")
	w.Time("c", time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))
	w.Any("d", math.NaN())
	w.Text("e", "f")
	if b, err := w.Done(); err != io.ErrClosedPipe || b != nil {
		t.Errorf("%s, %v", b, err)
	}
}

// A text is written as it is if each of its bytes is, wherever it stands and whatever stands beside it.
func TestPlain(t *testing.T) {
	itself := func(c byte) bool { return c >= ' ' && c < 0x80 && c != '"' && c != '\\' }
	for size := range 20 {
		for at := range size {
			for _, beside := range "\x7f !#[]~" {
				text := []byte(strings.Repeat(string(beside), size))
				for c := range 256 {
					if text[at] = byte(c); plain(text) != itself(byte(c)) || plain(string(text)) != itself(byte(c)) {
						t.Fatalf("%q", text)
					}
				}
			}
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	text := make([]byte, 24)
	for range 200_000 { // several of them, which could hide each other
		for i := range text {
			text[i] = "\x00\x1f\x20!\"#[\\]\x7f\x80\x9f\xa0\xa1\xa2\xdb\xdc\xff0aA"[r.IntN(21)]
		}
		text := text[:r.IntN(len(text)+1)]
		if want := !slices.ContainsFunc(text, func(c byte) bool { return !itself(c) }); plain(text) != want {
			t.Fatalf("%q", text)
		}
	}
}
