package contract

import (
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

// JSON is the answer as it is sent.
func (a *IssueAnswer) JSON() ([]byte, error) {
	size := 1024 // what stands beside the credentials
	for _, c := range a.Credentials {
		size += len(c.Credential) + 256
	}
	w := writer{b: append(make([]byte, 0, size), '{')}
	w.text("issuance", a.Issuance)
	w.text("device", a.Device)
	w.bool("replaced", a.Replaced)
	w.begin("credentials", '[')
	for _, c := range a.Credentials {
		w.element('{')
		w.text("format", c.Format)
		w.text("credential", c.Credential)
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

func (w *writer) quote(s string) {
	for i := range len(s) {
		if !itself[s[i]] {
			var err error
			if w.b, err = jsontext.AppendQuote(w.b, s); err != nil && w.err == nil {
				w.err = err
			}
			return
		}
	}
	w.b = append(append(append(w.b, '"'), s...), '"')
}

func (w *writer) text(n, v string) {
	w.name(n)
	w.quote(v)
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
