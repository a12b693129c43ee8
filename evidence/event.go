package evidence

import (
	"crypto/sha256"
	"slices"
	"time"

	"sealkeeper/internal/strict"
)

// KindLineEvent is what a carrier says of one of its lines after the line was vouched for. It is no evidence item: it comes by itself, late,
// twice and out of order, and names the line by the carrier's own pseudonym alone.
const KindLineEvent = "line_event"

// LineEventType is the typ of a line event's JWS.
const LineEventType = "sealkeeper-line-event+jwt"

// MaxEventAge after its iat, within which an event may come. For as long its id is remembered, so none has an effect twice.
const MaxEventAge = 30 * 24 * time.Hour

// What a line event reports.
const (
	LineLost       = "lost"
	LineFound      = "found"
	LinePorted     = "ported"
	LineTerminated = "terminated"
	LineSIMChanged = "sim_changed"
	LineNewOwner   = "owner_changed"
)

const maxLineSeq = 1<<53 - 1 // what every JSON writer can count

// LineEvent is one that was verified. Only Verifier.LineEvent makes one; the zero value is none.
type LineEvent struct {
	authority, id, line, kind string
	seq                       uint64
	issued, occurred, until   time.Time
	client                    string
	digest                    [32]byte
}

// Valid reports whether e came from a Verifier.
func (e LineEvent) Valid() bool { return e.authority != "" }

func (e LineEvent) Authority() string     { return e.authority }
func (e LineEvent) ID() string            { return e.id }
func (e LineEvent) Line() string          { return e.line } // the carrier's own pseudonym of the line
func (e LineEvent) Kind() string          { return e.kind }
func (e LineEvent) Seq() uint64           { return e.seq } // grows strictly with the events of a line
func (e LineEvent) IssuedAt() time.Time   { return e.issued }
func (e LineEvent) OccurredAt() time.Time { return e.occurred }
func (e LineEvent) Client() string        { return e.client } // through which it came
func (e LineEvent) Digest() [32]byte      { return e.digest } // of the payload: one id, one content
func (e LineEvent) Until() time.Time      { return e.until }  // from then on it is refused for its age

// LineEvent checks an event that came through a client at an instant. Errors are *Refusal.
func (v *Verifier) LineEvent(client string, at time.Time, text string) (LineEvent, error) {
	malformed := func(why string) error { return refuse(KindLineEvent+"_malformed", why) }
	if len(text) > maxStatement {
		return LineEvent{}, malformed("the event is larger than 8 KiB")
	}
	t, ok := split(text)
	if !ok {
		return LineEvent{}, malformed("the event is not three parts of canonical base64url")
	}
	h, err := v.statementHead(&t, KindLineEvent, LineEventType)
	if err != nil {
		return LineEvent{}, err
	}
	var p struct {
		Iss      string  `json:"iss"`
		JTI      string  `json:"jti"`
		Iat      *int64  `json:"iat"`
		Line     string  `json:"line"`
		Seq      *uint64 `json:"seq"`
		Kind     string  `json:"kind"`
		Occurred *int64  `json:"occurred_at"`
	}
	if err := strict.JSON(t.payload, statementPayload, &p); err != nil || p.Iss == "" || len(p.JTI) < 16 || len(p.JTI) > 128 || p.Line == "" || len(p.Line) > maxLine {
		return LineEvent{}, malformed("the event's payload is not one strict JSON object of iss, a jti of 16 to 128 characters, iat, a line of 1 to 128, seq, kind and occurred_at")
	}
	if p.Seq == nil || *p.Seq > maxLineSeq {
		return LineEvent{}, malformed("the event has no seq from 0 to 2^53-1")
	}
	issued, ok1 := instant(p.Iat)
	occurred, ok2 := instant(p.Occurred)
	if !ok1 || !ok2 || occurred.After(issued.Add(v.trust.Skew)) {
		return LineEvent{}, malformed("the event needs iat and occurred_at in whole seconds, and can't be issued before it occurred")
	}
	switch p.Kind {
	case LineLost, LineFound, LinePorted, LineTerminated, LineSIMChanged, LineNewOwner:
	default:
		return LineEvent{}, malformed("the event's kind is none of lost, found, ported, terminated, sim_changed and owner_changed")
	}
	_, key, err := v.keyOf(KindLineEvent, p.Iss, h.Kid, client, issued)
	if err != nil {
		return LineEvent{}, err
	}
	until := issued.Add(MaxEventAge)
	switch {
	case issued.After(at.Add(v.trust.Skew)):
		return LineEvent{}, refuse(KindLineEvent+"_from_future", "the event's iat is later than now; check the carrier's clock")
	case at.After(until):
		return LineEvent{}, refuse(KindLineEvent+"_expired", "the event was issued more than 30 days ago")
	case !t.signedByKnown(&v.keys, key.Public):
		return LineEvent{}, refuse(KindLineEvent+"_signature", "the event isn't signed by the key that it names with that key's alg")
	}
	v.heads.keep(t.head, h)
	return LineEvent{authority: p.Iss, id: p.JTI, line: p.Line, kind: p.Kind, seq: *p.Seq, issued: issued, occurred: occurred, until: until,
		client: client, digest: sha256.Sum256(t.payload)}, nil
}

// statementHead is all that may stand in the header of what an authority says.
type statementHead struct {
	Typ string `json:"typ"`
	Alg string `json:"alg"`
	Kid string `json:"kid"`
}

// statementHead reads the header of what an authority says.
func (v *Verifier) statementHead(t *token, kind, typ string) (statementHead, error) {
	h, known := v.heads.get(t.head)
	if !known && (!t.header(strict.JSON, statementHeader, &h) || h.Kid == "") {
		return h, refuse(kind+"_malformed", "the header is not one strict JSON object of typ, alg and kid")
	}
	if h.Typ != typ {
		return h, refuse(kind+"_type", "the typ is not "+typ)
	}
	t.alg = h.Alg
	return h, nil
}

// keyOf finds the key that an authority names for something that it says through a client, and refuses one that must not be believed.
func (v *Verifier) keyOf(kind, authority, kid, client string, issued time.Time) (Authority, AuthorityKey, error) {
	no := func(reason, detail string) (Authority, AuthorityKey, error) {
		return Authority{}, AuthorityKey{}, refuse(kind+"_"+reason, detail)
	}
	a, known := v.authorities[authority]
	switch {
	case !known || !slices.Contains(a.Kinds, kind):
		return no("authority", "nobody of that name may make statements of kind "+kind)
	case a.Off:
		return no("authority_off", "this authority is switched off")
	case len(a.Clients) > 0 && !slices.Contains(a.Clients, client):
		return no("scope", "this authority's statements don't come through this client")
	}
	i := slices.IndexFunc(a.Keys, func(k AuthorityKey) bool { return k.ID == kid })
	if i < 0 {
		return no("key", "the authority has no key of that kid")
	}
	switch key := a.Keys[i]; {
	case key.Off:
		return no("key_off", "the authority's key is switched off")
	case issued.Before(key.NotBefore) || !key.NotAfter.IsZero() && issued.After(key.NotAfter):
		return no("key_time", "the authority's key was not in use when the statement was made")
	default:
		return a, key, nil
	}
}
