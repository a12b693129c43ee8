package ledger

import (
	"bytes"
	"encoding/base64"
	"reflect"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// An issue writes a dozen rows and two leaves, an enrolment nearly as many. Reflection over their records cost as much as a signature, so these say
// themselves how they are written: the same bytes as the encoder's of any other record, which a test compares.

// writer writes one JSON object. Members come in the order of their struct's fields.
type writer struct{ b []byte }

func (w *writer) name(n string) {
	if w.b[len(w.b)-1] != '{' {
		w.b = append(w.b, ',')
	}
	w.b = append(append(append(w.b, '"'), n...), '"', ':')
}

func (w *writer) text(n, v string) {
	w.name(n)
	var err error
	if w.b, err = jsontext.AppendQuote(w.b, v); err != nil {
		panic("encoding a text of our own: " + err.Error()) // as encode does
	}
}

func (w *writer) textIf(n, v string) {
	if v != "" {
		w.text(n, v)
	}
}

func (w *writer) bytes(n string, v []byte) {
	w.name(n)
	w.b = append(base64.StdEncoding.AppendEncode(append(w.b, '"'), v), '"')
}

func (w *writer) bytesIf(n string, v []byte) {
	if len(v) > 0 {
		w.bytes(n, v)
	}
}

func (w *writer) time(n string, v time.Time) {
	if year := v.Year(); year < 0 || year > 9999 {
		w.any(n, v) // which says what is wrong with it
		return
	}
	w.name(n)
	w.b = append(v.AppendFormat(append(w.b, '"'), time.RFC3339Nano), '"')
}

func (w *writer) timeIf(n string, v time.Time) {
	if !v.IsZero() {
		w.time(n, v)
	}
}

func (w *writer) number(n string, v uint64) {
	w.name(n)
	w.b = strconv.AppendUint(w.b, v, 10)
}

func (w *writer) integer(n string, v int64) {
	w.name(n)
	w.b = strconv.AppendInt(w.b, v, 10)
}

func (w *writer) numberIf(n string, v uint64) {
	if v != 0 {
		w.number(n, v)
	}
}

func (w *writer) textsIf(n string, v []string) {
	if len(v) > 0 {
		w.texts(n, v)
	}
}

func (w *writer) texts(n string, v []string) {
	w.begin(n, '[')
	for i, t := range v {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		var err error
		if w.b, err = jsontext.AppendQuote(w.b, t); err != nil {
			panic("encoding a text of our own: " + err.Error())
		}
	}
	w.end(']')
}

func (w *writer) count(n string, v int) { w.integer(n, int64(v)) }

func (w *writer) bool(n string, v bool) {
	w.name(n)
	w.b = strconv.AppendBool(w.b, v)
}

// any is for what is hardly ever there.
func (w *writer) any(n string, v any) {
	w.name(n)
	w.b = append(w.b, marshal(v)...)
}

func (w *writer) begin(n string, c byte) {
	w.name(n)
	w.b = append(w.b, c)
}

// next begins an element that is an object.
func (w *writer) next() {
	if w.b[len(w.b)-1] != '[' {
		w.b = append(w.b, ',')
	}
	w.b = append(w.b, '{')
}

func (w *writer) end(c byte) { w.b = append(w.b, c) }

// written is a record that says itself how it is written.
type written interface{ write(w *writer) }

func (r SlotRecord) write(w *writer) {
	w.text("document_type", r.DocumentType)
	w.bytes("subject", r.Subject[:])
	w.begin("state", '{')
	s := &r.State
	w.number("epoch", s.Epoch)
	if d := s.Device; d != nil {
		w.begin("device", '{')
		w.text("id", d.ID)
		w.begin("keys", '[')
		for i, k := range d.Keys {
			if i > 0 {
				w.b = append(w.b, ',')
			}
			w.b = append(base64.StdEncoding.AppendEncode(append(w.b, '"'), k[:]), '"')
		}
		w.end(']')
		w.time("since", d.Since)
		w.end('}')
	}
	if len(s.Locks) > 0 {
		w.any("locks", s.Locks)
	}
	if len(s.Held) > 0 {
		w.any("held", s.Held)
	}
	if len(s.Credentials) > 0 {
		w.begin("credentials", '[')
		for i := range s.Credentials {
			w.credential(&s.Credentials[i])
		}
		w.end(']')
	}
	w.textIf("closed", s.Closed)
	w.number("attributes", s.Attributes) // omitempty leaves no number out
	if len(s.Stopped) > 0 {
		w.any("stopped", s.Stopped)
	}
	if len(s.Renew) > 0 {
		w.any("renew", s.Renew)
	}
	if len(s.Orders) > 0 {
		w.any("orders", s.Orders)
	}
	w.end('}')
}

func (w *writer) credential(c *state.Credential) {
	w.next()
	w.text("reservation", c.Reservation)
	w.text("device", c.Device)
	w.text("format", string(c.Format))
	w.text("list", c.List)
	w.number("index", c.Index)
	w.bytes("key", c.Key[:])
	w.time("made", c.Made)
	w.time("not_after", c.NotAfter)
	w.text("phase", string(c.Phase))
	if c.Outdated {
		w.any("outdated", true)
	}
	if c.Shown {
		w.any("shown", true)
	}
	w.end('}')
}

func (r ReservationRecord) write(w *writer) {
	w.text("id", r.ID)
	w.numberIf("seq", r.Seq)
	w.text("kind", string(r.Kind))
	w.text("progress", string(r.Progress))
	w.textIf("client", r.Client)
	w.time("at", r.At)
	w.bytes("policy", r.Policy[:])
	w.numberIf("policy_version", r.PolicyVersion)
	w.textIf("identity", r.Identity)
	w.number("lane", uint64(r.Lane))
	w.textIf("document_type", r.DocumentType)
	if r.Subject != [32]byte{} {
		w.bytes("subject", r.Subject[:])
	}
	if r.Salt != [16]byte{} {
		w.bytes("salt", r.Salt[:])
	}
	w.textIf("device", r.Device)
	if !reflect.ValueOf(&r.Before).Elem().IsZero() { // whatever it has come to have
		w.any("before", r.Before)
	}
	w.begin("items", '[')
	for i := range r.Items {
		it := &r.Items[i]
		w.next()
		w.text("key", it.KeyID)
		w.text("purpose", string(it.Purpose))
		w.bytes("tbs", it.TBSHash[:])
		w.textIf("format", string(it.Format))
		w.textIf("list", it.List)
		w.numberIf("index", it.Index)
		if it.Key != [32]byte{} {
			w.bytes("thumbprint", it.Key[:])
		}
		w.timeIf("not_after", it.NotAfter)
		w.textIf("worker", it.Worker)
		w.end('}')
	}
	w.end(']')
	if len(r.Superseded) > 0 {
		w.any("superseded", r.Superseded)
	}
	w.bytesIf("request", r.Request)
	w.textIf("replaces", r.Replaces)
	if r.List != nil {
		w.any("list", r.List)
	}
	if r.Cert != nil {
		w.begin("cert", '{')
		r.Cert.write(w)
		w.end('}')
	}
	if r.CRL != nil {
		w.any("crl", r.CRL)
	}
}

func (c Certificate) write(w *writer) {
	w.bytes("serial", c.Serial)
	w.text("profile", c.Profile)
	w.text("name", c.Name)
	w.text("ca", c.CA)
	w.textIf("crl", c.CRL)
	w.time("not_after", c.NotAfter)
	w.bytes("der", c.DER)
	w.time("at", c.At)
	w.textIf("client", c.Client)
}

func (c ClientRecord) write(w *writer) {
	w.text("id", c.ID)
	w.text("role", c.Role)
	w.textIf("channel", c.Channel)
	w.textIf("office", c.Office)
	w.textIf("district", c.District)
	w.textIf("carrier", c.Carrier)
	w.integer("life", c.Life)
	w.text("state", string(c.State))
	if c.Named {
		w.bool("named", true)
	}
	w.textIf("proposal", c.Proposal)
	w.time("at", c.At)
	w.timeIf("until", c.Until)
	if c.Token != nil {
		w.bytes("token", c.Token)
	}
	if c.Key != nil {
		w.bytes("key", c.Key)
	}
	if len(c.Certificates) > 0 {
		w.begin("certificates", '[')
		for i := range c.Certificates {
			w.next()
			w.bytes("serial", c.Certificates[i].Serial)
			w.time("at", c.Certificates[i].At)
			w.time("not_after", c.Certificates[i].NotAfter)
			w.end('}')
		}
		w.end(']')
	}
	w.timeIf("revoked", c.Revoked)
	w.textIf("revoked_by", c.RevokedBy)
	w.textIf("reason", c.Reason)
}

func (r AttemptRecord) write(w *writer) {
	w.textIf("worker", r.Worker)
	w.time("at", r.At)
	w.text("state", string(r.State))
}

func (r RequestRecord) write(w *writer) {
	w.text("client", r.Client)
	w.bytes("request", r.Request[:])
	w.bytes("row_salt", r.RowSalt[:])
	w.text("reservation", r.Reservation)
	w.time("at", r.At)
	w.timeIf("settled", r.Settled)
	w.timeIf("ack_by", r.AckBy)
}

func (r BurnRecord) write(w *writer) { w.time("until", r.Until) }

func (r LatchRecord) write(w *writer) { w.time("at", r.At) }

func (r LineRecord) write(w *writer) {
	w.bytes("subject", r.Subject[:])
	w.texts("types", r.Types)
	w.begin("line", '{')
	if r.Line.Loss != nil {
		w.any("loss", r.Line.Loss)
	}
	if r.Line.Void != nil {
		w.any("void", r.Line.Void)
	}
	w.end('}')
}

func (r LinkRecord) write(w *writer) {
	w.bytes("line", r.Line)
	w.text("device", r.Device)
	w.time("since", r.Since)
	if len(r.Held) > 0 {
		w.any("held", r.Held)
	}
	w.bytesIf("flood", r.Flood)
}

func (r CredentialRecord) write(w *writer) {
	w.text("reservation", r.Reservation)
	w.count("item", r.Item)
	w.text("format", string(r.Format))
	w.time("not_after", r.NotAfter)
}

func (r IndexRecord) write(w *writer) {
	w.number("index", r.Index)
	r.CredentialRecord.write(w)
}

func (r DecisionRecord) write(w *writer) {
	w.time("at", r.At)
	w.text("client", r.Client)
	w.text("operation", string(r.Operation))
	w.textIf("document_type", r.DocumentType)
	w.text("result", r.Result)
	w.textIf("code", r.Code)
	w.textsIf("rules", r.Rules)
	w.textsIf("missing", r.Missing)
	w.bytes("policy", r.Policy[:])
	w.number("policy_version", r.PolicyVersion)
	w.textIf("identity", r.Identity)
	if r.Of != nil {
		w.begin("of", '{')
		w.input(&r.Of.Input)
		if c := &r.Of.Claims; !reflect.ValueOf(c).Elem().IsZero() {
			w.begin("claims", '{')
			w.textIf("code", c.Code)
			w.textsIf("missing", c.Missing)
			w.textsIf("absent", c.Absent)
			w.textsIf("uncovered", c.Uncovered)
			if c.Age != nil {
				w.count("age", *c.Age)
			}
			w.end('}')
		}
		w.end('}')
	}
	w.bytes("salt", r.Salt[:])
}

// input of a decision. omitempty leaves out no number and no bool.
func (w *writer) input(in *policy.Input) {
	w.begin("input", '{')
	w.timeIf("at", in.At)
	w.textIf("client", in.Client)
	if in.Enrolled != nil {
		w.any("enrolled", in.Enrolled)
	}
	w.textIf("operation", string(in.Operation))
	w.textIf("type", in.DocumentType)
	w.textIf("method", in.Method)
	if len(in.Formats) > 0 {
		w.any("formats", in.Formats)
	}
	w.bool("replace", in.Replace)
	if len(in.Claims) > 0 {
		w.any("claims", in.Claims)
	}
	w.textsIf("latched", in.Latched)
	w.textIf("reason", in.Reason)
	w.textIf("device", in.Device)
	if e := &in.Evidence; !reflect.ValueOf(e).Elem().IsZero() {
		w.begin("evidence", '{')
		w.count("keys", e.Keys)
		w.bool("same_device", e.SameDevice)
		w.bool("former_key", e.FormerKey)
		w.textsIf("kinds", e.Kinds)
		w.textsIf("key_storage", e.KeyStorage)
		w.textsIf("user_authentication", e.UserAuthentication)
		w.textIf("attestation_issuer", e.AttestationIssuer)
		w.textIf("app", e.App)
		w.bool("reused", e.Reused)
		if len(e.Statuses) > 0 {
			w.any("statuses", e.Statuses)
		}
		if len(e.Statements) > 0 {
			w.any("statements", e.Statements)
		}
		w.end('}')
	}
	if s := &in.Slot; !reflect.ValueOf(s).Elem().IsZero() {
		w.begin("slot", '{')
		w.bool("bound", s.Bound)
		if len(s.Locks) > 0 {
			w.any("locks", s.Locks)
		}
		w.count("live", s.Live)
		w.count("msos", s.MSOs)
		w.timeIf("newest", s.Newest)
		w.textIf("closed", s.Closed)
		w.textsIf("renew", s.Renew)
		w.numberIf("attributes", s.Attributes)
		if s.Outdated != 0 {
			w.count("outdated", s.Outdated)
		}
		if len(s.Scheduled) > 0 {
			w.any("scheduled", s.Scheduled)
		}
		w.end('}')
	}
	w.end('}')
}

func (l Leaf) write(w *writer) {
	w.count("v", l.V)
	w.text("kind", l.Kind)
	w.time("at", l.At)
	w.textIf("client", l.Client)
	w.textIf("policy", l.Policy)
	w.numberIf("policy_version", l.PolicyVersion)
	w.bytesIf("subject", l.Subject)
	w.textIf("reservation", l.Reservation)
	w.textIf("replaces", l.Replaces)
	w.textIf("operation", l.Operation)
	w.textIf("reason", l.Reason)
	w.textIf("class", l.Class)
	w.textIf("effect", l.Effect)
	if len(l.Items) > 0 {
		w.begin("items", '[')
		for _, it := range l.Items {
			w.next()
			w.count("item", it.Item)
			w.textIf("key", it.Key)
			w.textIf("purpose", string(it.Purpose))
			w.bytesIf("tbs_sha256", it.TBS)
			w.count("attempt", it.Attempt)
			w.textIf("worker", it.Worker)
			w.end('}')
		}
		w.end(']')
	}
	w.textIf("name", l.Name)
	w.textIf("state", l.State)
	w.numberIf("version", l.Version)
	w.numberIf("count", l.Count)
	w.bytesIf("digest", l.Digest)
	if len(l.Reasons) > 0 {
		w.any("reasons", l.Reasons)
	}
	if len(l.Signers) > 0 {
		w.any("signers", l.Signers)
	}
	w.textIf("format", string(l.Format))
	if len(l.Charges) > 0 {
		w.begin("charges", '[')
		for _, c := range l.Charges {
			w.next()
			w.text("budget", c.Budget)
			w.integer("window", c.Window)
			w.number("limit", c.Limit)
			w.bytes("tag", c.Tag)
			w.end('}')
		}
		w.end(']')
	}
	w.textIf("latch", l.Latch)
	w.bytesIf("decision", l.Decision)
	w.textIf("proposal", l.Proposal)
	w.textIf("about", l.About)
	w.numberIf("dropped", l.Dropped)
	if len(l.Keys) > 0 {
		w.any("keys", l.Keys)
	}
	if len(l.Certificates) > 0 {
		w.any("certificates", l.Certificates)
	}
}

func encodeWritten(v written) []byte {
	var sealed []byte
	room := 1024 // which a row of an issue hardly ever passes
	switch r := v.(type) {
	case *RequestRecord:
		sealed = r.Sealed
	case RequestRecord:
		sealed = r.Sealed
	case AttemptRecord, BurnRecord, CredentialRecord, LatchRecord, LineRecord, LinkRecord, IndexRecord:
		room = 160
	}
	w := writer{b: append(make([]byte, 0, room+len(sealed)), '{')}
	v.write(&w)
	w.end('}')
	if len(sealed) > 0 {
		w.b = append(append(w.b, 0), sealed...)
	}
	return w.b
}

// apart gives the JSON of a request's row and the sealed answer behind it. Answers are most of what the ledger holds, and in base64 each would
// take a page more. (Rows of before have it inside the JSON, which never holds a zero.)
func apart(value []byte) (text, sealed []byte) {
	if i := bytes.IndexByte(value, 0); i >= 0 {
		return value[:i], value[i+1:]
	}
	return value, nil
}

// marshal is how every other record is written.
func marshal(v any) []byte {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		panic("encoding a record of our own: " + err.Error()) // only our own record types get here
	}
	return b
}
