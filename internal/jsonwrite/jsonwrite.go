// Package jsonwrite writes JSON for values that say themselves how they are written: those of each issue, where reflection, and a look at each rune
// of tokens and portraits, cost as much as a signature. What comes out is, byte for byte, what the encoder of every other value writes.
package jsonwrite

import (
	"cmp"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Object writes one JSON object. Members come in the order of their struct's fields, and n is the name of one: a text of ours, which needs no escape.
type Object struct {
	b   []byte
	err error // of the first thing that can't be written
}

// On begins an object behind what b holds.
func On(b []byte) Object { return Object{b: append(b, '{')} }

// Done ends it.
func (w *Object) Done() ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	return append(w.b, '}'), nil
}

func (w *Object) fail(err error) { w.err = cmp.Or(w.err, err) }

// comma stands before everything but the first in an object or array.
func (w *Object) comma() {
	if c := w.b[len(w.b)-1]; c != '{' && c != '[' {
		w.b = append(w.b, ',')
	}
}

func (w *Object) name(n string) {
	w.comma()
	w.b = append(append(append(w.b, '"'), n...), '"', ':')
}

// Begin opens a member that is an object or an array, Next an element, End either.
func (w *Object) Begin(n string, c byte) {
	w.name(n)
	w.b = append(w.b, c)
}

func (w *Object) Next(c byte) {
	w.comma()
	w.b = append(w.b, c)
}

// NextText is an element that is a text.
func (w *Object) NextText(v string) {
	w.comma()
	w.quote(v)
}

func (w *Object) End(c byte) { w.b = append(w.b, c) }

// plain says that a text is written as it is: of ASCII from the space on, without quotes and backslashes. Most of what is written are tokens and
// credentials, so eight bytes are looked at together. Of each, the highest bit is set if it is not ASCII, and of the differences if it is less than
// a space, or a quote or a backslash: their difference from these is 0, and 0 - 1 borrows. A byte that is lent from is refused anyway.
func plain[T string | []byte](s T) bool {
	const each, highest = 0x0101010101010101, 0x8080808080808080
	for ; len(s) >= 8; s = s[8:] {
		v := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		if (v|(v-each*' ')|((v^each*'"')-each)|((v^each*'\\')-each))&highest != 0 {
			return false
		}
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x80 || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func (w *Object) quote(s string) {
	if plain(s) {
		w.b = append(append(append(w.b, '"'), s...), '"')
		return
	}
	b, err := jsontext.AppendQuote(w.b, s)
	if err != nil {
		w.fail(err)
		return
	}
	w.b = b
}

func (w *Object) Text(n, v string) {
	w.name(n)
	w.quote(v)
}

func (w *Object) TextIf(n, v string) {
	if v != "" {
		w.Text(n, v)
	}
}

func (w *Object) Texts(n string, v []string) {
	w.Begin(n, '[')
	for _, t := range v {
		w.NextText(t)
	}
	w.End(']')
}

func (w *Object) TextsIf(n string, v []string) {
	if len(v) > 0 {
		w.Texts(n, v)
	}
}

// Appended is a text that text appends, and that needs no escape.
func (w *Object) Appended(n string, text func(b []byte) ([]byte, error)) {
	w.Begin(n, '"')
	b, err := text(w.b)
	if err == nil && !plain(b[len(w.b):]) {
		err = errors.New(n + " has bytes that a text does not have as they are")
	}
	if err != nil {
		w.fail(err)
		return
	}
	w.b = append(b, '"')
}

func (w *Object) Bytes(n string, v []byte) {
	w.name(n)
	w.base64(v)
}

func (w *Object) BytesIf(n string, v []byte) {
	if len(v) > 0 {
		w.Bytes(n, v)
	}
}

func (w *Object) Digests(n string, v [][32]byte) {
	w.Begin(n, '[')
	for i := range v {
		w.comma()
		w.base64(v[i][:])
	}
	w.End(']')
}

func (w *Object) base64(v []byte) {
	w.b = append(base64.StdEncoding.AppendEncode(append(w.b, '"'), v), '"')
}

func (w *Object) Time(n string, v time.Time) {
	w.Begin(n, '"')
	b, err := v.AppendText(w.b)
	if err != nil {
		w.fail(err)
		return
	}
	w.b = append(b, '"')
}

func (w *Object) TimeIf(n string, v time.Time) {
	if !v.IsZero() {
		w.Time(n, v)
	}
}

func (w *Object) Number(n string, v uint64) {
	w.name(n)
	w.b = strconv.AppendUint(w.b, v, 10)
}

func (w *Object) NumberIf(n string, v uint64) {
	if v != 0 {
		w.Number(n, v)
	}
}

func (w *Object) Integer(n string, v int64) {
	w.name(n)
	w.b = strconv.AppendInt(w.b, v, 10)
}

func (w *Object) IntegerOrNull(n string, v *int64) {
	if v != nil {
		w.Integer(n, *v)
		return
	}
	w.name(n)
	w.b = append(w.b, "null"...)
}

func (w *Object) Bool(n string, v bool) {
	w.name(n)
	w.b = strconv.AppendBool(w.b, v)
}

// Map has names that are not ours.
func (w *Object) Map(n string, v map[string]any) {
	w.Begin(n, '{')
	names := slices.AppendSeq(make([]string, 0, len(v)), maps.Keys(v))
	slices.Sort(names)
	for _, name := range names {
		w.comma()
		w.quote(name)
		w.b = append(w.b, ':')
		w.value(v[name])
	}
	w.End('}')
}

// Any is for what is hardly ever there.
func (w *Object) Any(n string, v any) {
	w.name(n)
	w.value(v)
}

func (w *Object) value(v any) {
	switch v := v.(type) {
	case string:
		w.quote(v)
	case bool:
		w.b = strconv.AppendBool(w.b, v)
	default:
		text, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			w.fail(err)
			return
		}
		w.b = append(w.b, text...)
	}
}
