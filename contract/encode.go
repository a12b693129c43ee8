package contract

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// An issue's request is written once to be hashed, and its answer once to be sealed, stored and sent. Reflection over them, and a look at each
// rune of tokens and portraits, cost as much as a signature, so these two say themselves how they are written: the same bytes as the
// encoder's of any other message, which a test compares.

// AppendCanonical appends the one form that a request has however it came: that of the encoder, with the claims by name.
func (r *IssueRequest) AppendCanonical(b []byte) ([]byte, error) {
	w := writer{b: append(b, '{')}
	w.text("document_type", r.DocumentType)
	w.textIf("subject", r.Subject)
	w.textIf("session", r.Session)
	w.textIf("method", r.Method)
	w.begin("claims", '{')
	names := make([]string, 0, len(r.Claims))
	for name := range r.Claims {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		w.value(name, r.Claims[name])
	}
	w.end('}')
	w.textsIf("formats", r.Formats)
	w.bool("replace", r.Replace)
	w.text("proof", r.Proof)
	w.textIf("key_attestation", r.KeyAttestation)
	if len(r.AndroidAttestation) > 0 {
		w.value("android_attestation", r.AndroidAttestation)
	}
	w.textsIf("proofs", r.Proofs)
	w.textIf("previous_proof", r.PreviousProof)
	if len(r.Evidence) > 0 {
		w.begin("evidence", '[')
		for _, e := range r.Evidence {
			w.element('{')
			w.text("kind", e.Kind)
			w.text("token", e.Token)
			w.end('}')
		}
		w.end(']')
	}
	w.end('}')
	return w.b, w.err
}

// JSON is the answer as it is sent, but with the texts of its credentials, which are most of it, appended where they belong: text appends the
// one of a.Credentials[i]. They have size bytes in all.
func (a *IssueAnswer) JSON(size int, text func(b []byte, i int) ([]byte, error)) ([]byte, error) {
	w := writer{b: append(make([]byte, 0, size+1024+256*len(a.Credentials)), '{')}
	w.text("issuance", a.Issuance)
	w.text("device", a.Device)
	w.bool("replaced", a.Replaced)
	w.begin("credentials", '[')
	for i, c := range a.Credentials {
		w.element('{')
		w.text("format", c.Format)
		w.appended("credential", func(b []byte) ([]byte, error) { return text(b, i) })
		w.text("key_thumbprint", c.KeyThumbprint)
		w.begin("status", '{')
		w.text("uri", c.Status.URI)
		w.number("idx", c.Status.Index)
		w.end('}')
		w.time("valid_until", c.ValidUntil)
		w.end('}')
	}
	w.end(']')
	d := &a.Decision
	w.begin("decision", '{')
	w.textIf("id", d.ID)
	w.text("result", d.Result)
	w.textIf("code", d.Code)
	w.textIf("detail", d.Detail)
	w.texts("rules", d.Rules)
	w.textsIf("missing", d.Missing)
	w.text("policy", d.Policy)
	w.number("policy_version", d.PolicyVersion)
	w.textIf("identity", d.Identity)
	w.end('}')
	w.end('}')
	return w.b, w.err
}

// writer writes one JSON value. Members come in the order of their struct's fields. err is the first thing that can't be written.
type writer struct {
	b   []byte
	err error
}

// element puts the comma between elements, and begins one.
func (w *writer) element(c byte) {
	if w.b[len(w.b)-1] != '[' {
		w.b = append(w.b, ',')
	}
	w.b = append(w.b, c)
}

func (w *writer) name(n string) {
	if w.b[len(w.b)-1] != '{' {
		w.b = append(w.b, ',')
	}
	w.quote(n)
	w.b = append(w.b, ':')
}

func (w *writer) begin(n string, c byte) {
	w.name(n)
	w.b = append(w.b, c)
}

func (w *writer) end(c byte) { w.b = append(w.b, c) }

// itself says which bytes of a text are written as they are, whatever stands around them.
var itself = func() (t [256]bool) {
	for c := byte(' '); c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

func plain[T string | []byte](s T) bool {
	for i := range len(s) {
		if !itself[s[i]] {
			return false
		}
	}
	return true
}

func (w *writer) quote(s string) {
	if plain(s) {
		w.b = append(append(append(w.b, '"'), s...), '"')
		return
	}
	var err error
	if w.b, err = jsontext.AppendQuote(w.b, s); err != nil && w.err == nil {
		w.err = err
	}
}

func (w *writer) text(n, v string) {
	w.name(n)
	w.quote(v)
}

// appended is a text without anything that needs an escape.
func (w *writer) appended(n string, text func(b []byte) ([]byte, error)) {
	w.begin(n, '"')
	b, err := text(w.b)
	if err == nil && !plain(b[len(w.b):]) {
		err = errors.New(n + " has bytes that a text does not have as they are")
	}
	if err != nil {
		w.err = cmp.Or(w.err, err)
		return
	}
	w.b = append(b, '"')
}

func (w *writer) textIf(n, v string) {
	if v != "" {
		w.text(n, v)
	}
}

func (w *writer) texts(n string, v []string) {
	w.begin(n, '[')
	for i, t := range v {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.quote(t)
	}
	w.end(']')
}

func (w *writer) textsIf(n string, v []string) {
	if len(v) > 0 {
		w.texts(n, v)
	}
}

func (w *writer) bool(n string, v bool) {
	w.name(n)
	w.b = strconv.AppendBool(w.b, v)
}

func (w *writer) number(n string, v uint64) {
	w.name(n)
	w.b = strconv.AppendUint(w.b, v, 10)
}

func (w *writer) time(n string, v time.Time) {
	w.begin(n, '"')
	var err error
	if w.b, err = v.AppendText(w.b); err != nil && w.err == nil {
		w.err = err
	}
	w.end('"')
}

// value is what claims are, and what is hardly ever there.
func (w *writer) value(n string, v any) {
	switch v := v.(type) {
	case string:
		w.text(n, v)
	case bool:
		w.bool(n, v)
	default:
		w.name(n)
		text, err := json.Marshal(v, json.Deterministic(true))
		if err != nil && w.err == nil {
			w.err = err
		}
		w.b = append(w.b, text...)
	}
}
