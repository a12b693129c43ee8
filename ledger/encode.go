package ledger

import (
	"bytes"
	"reflect"
	"sync"

	"github.com/go-json-experiment/json"

	"sealkeeper/internal/jsonwrite"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// An issue writes a dozen rows and two leaves, an enrolment nearly as many: their records say themselves how they are written, and a test compares
// with the encoder of any other record.

// written is a record that says itself how it is written.
type written interface{ write(w *jsonwrite.Object) }

func (r SlotRecord) write(w *jsonwrite.Object) {
	w.Text("document_type", r.DocumentType)
	w.Bytes("subject", r.Subject[:])
	w.Begin("state", '{')
	s := &r.State
	w.Number("epoch", s.Epoch)
	if d := s.Device; d != nil {
		w.Begin("device", '{')
		w.Text("id", d.ID)
		w.Digests("keys", d.Keys)
		w.Time("since", d.Since)
		w.End('}')
	}
	if len(s.Locks) > 0 {
		w.Any("locks", s.Locks)
	}
	if len(s.Held) > 0 {
		w.Any("held", s.Held)
	}
	if len(s.Credentials) > 0 {
		w.Begin("credentials", '[')
		for i := range s.Credentials {
			writeCredential(w, &s.Credentials[i])
		}
		w.End(']')
	}
	w.TextIf("closed", s.Closed)
	w.Number("attributes", s.Attributes) // omitempty leaves no number out
	if len(s.Stopped) > 0 {
		w.Any("stopped", s.Stopped)
	}
	if len(s.Renew) > 0 {
		w.Any("renew", s.Renew)
	}
	if len(s.Orders) > 0 {
		w.Any("orders", s.Orders)
	}
	w.End('}')
}

func writeCredential(w *jsonwrite.Object, c *state.Credential) {
	w.Next('{')
	w.Text("reservation", c.Reservation)
	w.Text("device", c.Device)
	w.Text("format", string(c.Format))
	w.Text("list", c.List)
	w.Number("index", c.Index)
	w.Bytes("key", c.Key[:])
	w.Time("made", c.Made)
	w.Time("not_after", c.NotAfter)
	w.Text("phase", string(c.Phase))
	if c.Outdated {
		w.Any("outdated", true)
	}
	if c.Shown {
		w.Any("shown", true)
	}
	w.End('}')
}

func (r ReservationRecord) write(w *jsonwrite.Object) {
	w.Text("id", r.ID)
	w.NumberIf("seq", r.Seq)
	w.Text("kind", string(r.Kind))
	w.Text("progress", string(r.Progress))
	w.TextIf("client", r.Client)
	w.Time("at", r.At)
	w.Bytes("policy", r.Policy[:])
	w.NumberIf("policy_version", r.PolicyVersion)
	w.TextIf("identity", r.Identity)
	w.Number("lane", uint64(r.Lane))
	w.TextIf("document_type", r.DocumentType)
	if r.Subject != [32]byte{} {
		w.Bytes("subject", r.Subject[:])
	}
	if r.Salt != [16]byte{} {
		w.Bytes("salt", r.Salt[:])
	}
	w.TextIf("device", r.Device)
	if !reflect.ValueOf(&r.Before).Elem().IsZero() { // whatever it has come to have
		w.Any("before", r.Before)
	}
	w.Begin("items", '[')
	for i := range r.Items {
		it := &r.Items[i]
		w.Next('{')
		w.Text("key", it.KeyID)
		w.Text("purpose", string(it.Purpose))
		w.Bytes("tbs", it.TBSHash[:])
		w.TextIf("format", string(it.Format))
		w.TextIf("list", it.List)
		w.NumberIf("index", it.Index)
		if it.Key != [32]byte{} {
			w.Bytes("thumbprint", it.Key[:])
		}
		w.TimeIf("not_after", it.NotAfter)
		w.TextIf("worker", it.Worker)
		w.End('}')
	}
	w.End(']')
	if len(r.Superseded) > 0 {
		w.Any("superseded", r.Superseded)
	}
	w.BytesIf("request", r.Request)
	w.TextIf("replaces", r.Replaces)
	if r.List != nil {
		w.Any("list", r.List)
	}
	if r.Cert != nil {
		w.Begin("cert", '{')
		r.Cert.write(w)
		w.End('}')
	}
	if r.CRL != nil {
		w.Any("crl", r.CRL)
	}
}

func (c Certificate) write(w *jsonwrite.Object) {
	w.Bytes("serial", c.Serial)
	w.Text("profile", c.Profile)
	w.Text("name", c.Name)
	w.Text("ca", c.CA)
	w.TextIf("crl", c.CRL)
	w.Time("not_after", c.NotAfter)
	w.Bytes("der", c.DER)
	w.Time("at", c.At)
	w.TextIf("client", c.Client)
}

func (c ClientRecord) write(w *jsonwrite.Object) {
	w.Text("id", c.ID)
	w.Text("role", c.Role)
	w.TextIf("channel", c.Channel)
	w.TextIf("office", c.Office)
	w.TextIf("district", c.District)
	w.TextIf("carrier", c.Carrier)
	w.Integer("life", c.Life)
	w.Text("state", string(c.State))
	if c.Named {
		w.Bool("named", true)
	}
	w.TextIf("proposal", c.Proposal)
	w.Time("at", c.At)
	w.TimeIf("until", c.Until)
	if c.Token != nil {
		w.Bytes("token", c.Token)
	}
	if c.Key != nil {
		w.Bytes("key", c.Key)
	}
	if len(c.Certificates) > 0 {
		w.Begin("certificates", '[')
		for i := range c.Certificates {
			w.Next('{')
			w.Bytes("serial", c.Certificates[i].Serial)
			w.Time("at", c.Certificates[i].At)
			w.Time("not_after", c.Certificates[i].NotAfter)
			w.End('}')
		}
		w.End(']')
	}
	w.TimeIf("revoked", c.Revoked)
	w.TextIf("revoked_by", c.RevokedBy)
	w.TextIf("reason", c.Reason)
}

func (r AttemptRecord) write(w *jsonwrite.Object) {
	w.TextIf("worker", r.Worker)
	w.Time("at", r.At)
	w.Text("state", string(r.State))
}

func (r RequestRecord) write(w *jsonwrite.Object) {
	w.Text("client", r.Client)
	w.Bytes("request", r.Request[:])
	w.Bytes("row_salt", r.RowSalt[:])
	w.Text("reservation", r.Reservation)
	w.Time("at", r.At)
	w.TimeIf("settled", r.Settled)
	w.TimeIf("ack_by", r.AckBy)
}

func (r BurnRecord) write(w *jsonwrite.Object) { w.Time("until", r.Until) }

func (r LatchRecord) write(w *jsonwrite.Object) { w.Time("at", r.At) }

func (r LineRecord) write(w *jsonwrite.Object) {
	w.Bytes("subject", r.Subject[:])
	w.Texts("types", r.Types)
	w.Begin("line", '{')
	if r.Line.Loss != nil {
		w.Any("loss", r.Line.Loss)
	}
	if r.Line.Void != nil {
		w.Any("void", r.Line.Void)
	}
	w.End('}')
}

func (r LinkRecord) write(w *jsonwrite.Object) {
	w.Bytes("line", r.Line)
	w.Text("device", r.Device)
	w.Time("since", r.Since)
	if len(r.Held) > 0 {
		w.Any("held", r.Held)
	}
	w.BytesIf("flood", r.Flood)
}

func (r CredentialRecord) write(w *jsonwrite.Object) {
	w.Text("reservation", r.Reservation)
	w.Integer("item", int64(r.Item))
	w.Text("format", string(r.Format))
	w.Time("not_after", r.NotAfter)
}

func (r IndexRecord) write(w *jsonwrite.Object) {
	w.Number("index", r.Index)
	r.CredentialRecord.write(w)
}

func (r DecisionRecord) write(w *jsonwrite.Object) {
	w.Time("at", r.At)
	w.Text("client", r.Client)
	w.Text("operation", string(r.Operation))
	w.TextIf("document_type", r.DocumentType)
	w.Text("result", r.Result)
	w.TextIf("code", r.Code)
	w.TextsIf("rules", r.Rules)
	w.TextsIf("missing", r.Missing)
	w.Bytes("policy", r.Policy[:])
	w.Number("policy_version", r.PolicyVersion)
	w.TextIf("identity", r.Identity)
	if r.Of != nil {
		w.Begin("of", '{')
		writeInput(w, &r.Of.Input)
		if c := &r.Of.Claims; !reflect.ValueOf(c).Elem().IsZero() {
			w.Begin("claims", '{')
			w.TextIf("code", c.Code)
			w.TextsIf("missing", c.Missing)
			w.TextsIf("absent", c.Absent)
			w.TextsIf("uncovered", c.Uncovered)
			if c.Age != nil {
				w.Integer("age", int64(*c.Age))
			}
			w.End('}')
		}
		w.End('}')
	}
	w.Bytes("salt", r.Salt[:])
}

// input of a decision. omitempty leaves out no number and no bool.
func writeInput(w *jsonwrite.Object, in *policy.Input) {
	w.Begin("input", '{')
	w.TimeIf("at", in.At)
	w.TextIf("client", in.Client)
	if c := in.Enrolled; c != nil {
		w.Begin("enrolled", '{')
		w.Text("id", c.ID)
		w.Text("role", c.Role)
		w.TextIf("channel", c.Channel)
		w.TextIf("office", c.Office)
		w.TextIf("district", c.District)
		w.TextIf("carrier", c.Carrier)
		w.Integer("life", c.Life)
		w.End('}')
	}
	w.TextIf("operation", string(in.Operation))
	w.TextIf("type", in.DocumentType)
	w.TextIf("method", in.Method)
	if len(in.Formats) > 0 {
		w.Begin("formats", '[')
		for _, f := range in.Formats {
			w.NextText(string(f))
		}
		w.End(']')
	}
	w.Bool("replace", in.Replace)
	if len(in.Claims) > 0 {
		w.Any("claims", in.Claims)
	}
	w.TextsIf("latched", in.Latched)
	w.TextIf("reason", in.Reason)
	w.TextIf("device", in.Device)
	if e := &in.Evidence; !reflect.ValueOf(e).Elem().IsZero() {
		w.Begin("evidence", '{')
		w.Integer("keys", int64(e.Keys))
		w.Bool("same_device", e.SameDevice)
		w.Bool("former_key", e.FormerKey)
		w.TextsIf("kinds", e.Kinds)
		w.TextsIf("key_storage", e.KeyStorage)
		w.TextsIf("user_authentication", e.UserAuthentication)
		w.TextIf("attestation_issuer", e.AttestationIssuer)
		w.TextIf("app", e.App)
		w.Bool("reused", e.Reused)
		if len(e.Statuses) > 0 {
			w.Begin("statuses", '[')
			for _, s := range e.Statuses {
				w.Next('{')
				w.Text("name", s.Name)
				w.TimeIf("ends", s.Ends)
				w.Bool("unknown", s.Unknown)
				w.End('}')
			}
			w.End(']')
		}
		if len(e.Statements) > 0 {
			w.Begin("statements", '[')
			for i := range e.Statements {
				w.Next('{')
				writeStatement(w, &e.Statements[i])
				w.End('}')
			}
			w.End(']')
		}
		w.End('}')
	}
	if s := &in.Slot; !reflect.ValueOf(s).Elem().IsZero() {
		w.Begin("slot", '{')
		w.Bool("bound", s.Bound)
		if len(s.Locks) > 0 {
			w.Any("locks", s.Locks)
		}
		w.Integer("live", int64(s.Live))
		w.Integer("msos", int64(s.MSOs))
		w.TimeIf("newest", s.Newest)
		w.TextIf("closed", s.Closed)
		w.TextsIf("renew", s.Renew)
		w.NumberIf("attributes", s.Attributes)
		if s.Outdated != 0 {
			w.Integer("outdated", int64(s.Outdated))
		}
		if len(s.Scheduled) > 0 {
			w.Any("scheduled", s.Scheduled)
		}
		w.End('}')
	}
	w.End('}')
}

func writeStatement(w *jsonwrite.Object, s *policy.StatementInput) {
	w.Text("authority", s.Authority)
	w.TextIf("kid", s.Key)
	w.TimeIf("issued_at", s.IssuedAt)
	if p := s.InPerson; p != nil {
		w.Begin("in_person", '{')
		w.Text("officer", p.Officer)
		w.Text("office", p.Office)
		w.Text("district", p.District)
		w.Text("method", p.Method)
		w.Bool("card_seen", p.CardSeen)
		w.IntegerOrNull("not_before", p.NotBefore)
		w.IntegerOrNull("not_after", p.NotAfter)
		w.TextIf("reference", p.Reference)
		w.End('}')
	}
	if m := s.RegistryMatch; m != nil && (m.District != "" || m.CardStatus != "" || m.CardExpiry != "" || len(m.Except) > 0 || m.Epoch != 0) {
		w.Begin("registry_match", '{')
		w.TextIf("district", m.District)
		w.TextIf("card_status", m.CardStatus)
		w.TextIf("card_expiry", m.CardExpiry)
		w.TextsIf("except", m.Except)
		w.NumberIf("epoch", m.Epoch)
		w.End('}')
	}
	if m := s.FaceMatch; m != nil {
		w.Begin("face_match", '{')
		w.Text("level", m.Level)
		w.Integer("liveness", int64(m.Liveness))
		w.Text("algorithm", m.Algorithm)
		w.Text("reference", m.Reference)
		w.End('}')
	}
	if c := s.ChipRead; c != nil {
		w.Begin("chip_read", '{')
		w.Bool("passive", c.Passive)
		w.Text("chip", c.Chip)
		w.Text("challenge", c.Challenge)
		w.Bool("pin_verified", c.PINVerified)
		w.Text("card", c.Card)
		w.Text("card_expiry", c.CardExpiry)
		w.End('}')
	}
	if l := s.LineOwnership; l != nil {
		w.Begin("line_ownership", '{')
		w.Text("line", l.Line)
		w.Text("subscriber", l.Subscriber)
		w.Text("line_kind", l.LineKind)
		w.End('}')
	}
}

func (l Leaf) write(w *jsonwrite.Object) {
	w.Integer("v", int64(l.V))
	w.Text("kind", l.Kind)
	w.Time("at", l.At)
	w.TextIf("client", l.Client)
	w.TextIf("policy", l.Policy)
	w.NumberIf("policy_version", l.PolicyVersion)
	w.BytesIf("subject", l.Subject)
	w.TextIf("reservation", l.Reservation)
	w.TextIf("replaces", l.Replaces)
	w.TextIf("operation", l.Operation)
	w.TextIf("reason", l.Reason)
	w.TextIf("class", l.Class)
	w.TextIf("effect", l.Effect)
	if len(l.Items) > 0 {
		w.Begin("items", '[')
		for _, it := range l.Items {
			w.Next('{')
			w.Integer("item", int64(it.Item))
			w.TextIf("key", it.Key)
			w.TextIf("purpose", string(it.Purpose))
			w.BytesIf("tbs_sha256", it.TBS)
			w.Integer("attempt", int64(it.Attempt))
			w.TextIf("worker", it.Worker)
			w.End('}')
		}
		w.End(']')
	}
	w.TextIf("name", l.Name)
	w.TextIf("state", l.State)
	w.NumberIf("version", l.Version)
	w.NumberIf("count", l.Count)
	w.BytesIf("digest", l.Digest)
	if len(l.Reasons) > 0 {
		w.Any("reasons", l.Reasons)
	}
	if len(l.Signers) > 0 {
		w.Any("signers", l.Signers)
	}
	w.TextIf("format", string(l.Format))
	if len(l.Charges) > 0 {
		w.Begin("charges", '[')
		for _, c := range l.Charges {
			w.Next('{')
			w.Text("budget", c.Budget)
			w.Integer("window", c.Window)
			w.Number("limit", c.Limit)
			w.Bytes("tag", c.Tag)
			w.End('}')
		}
		w.End(']')
	}
	w.TextIf("latch", l.Latch)
	w.BytesIf("decision", l.Decision)
	w.TextIf("proposal", l.Proposal)
	w.BytesIf("registry", l.Registry)
	w.TextIf("about", l.About)
	w.NumberIf("dropped", l.Dropped)
	if len(l.Keys) > 0 {
		w.Any("keys", l.Keys)
	}
	if len(l.Certificates) > 0 {
		w.Any("certificates", l.Certificates)
	}
}

// writing is room that records are written in, before each gets as much as it needs: rows stay until they are committed.
type writing struct {
	w    jsonwrite.Object
	room []byte
}

var writings = sync.Pool{New: func() any { return &writing{room: make([]byte, 0, 4096)} }}

func encodeWritten(v written) []byte {
	t := writings.Get().(*writing)
	t.w = jsonwrite.On(t.room[:0])
	v.write(&t.w)
	t.room = ours(t.w.Done())
	var sealed []byte
	switch r := v.(type) {
	case *RequestRecord:
		sealed = r.Sealed
	case RequestRecord:
		sealed = r.Sealed
	}
	b := make([]byte, 0, len(t.room)+1+len(sealed))
	b = append(b, t.room...)
	if len(sealed) > 0 {
		b = append(append(b, 0), sealed...)
	}
	writings.Put(t)
	return b
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
func marshal(v any) []byte { return ours(json.Marshal(v, json.Deterministic(true))) }

func ours(b []byte, err error) []byte {
	if err != nil {
		panic("encoding a record of our own: " + err.Error()) // only our own record types get here
	}
	return b
}
