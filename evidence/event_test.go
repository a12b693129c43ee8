package evidence_test

import (
	"crypto/ecdsa"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
)

// newCarrier is a verifier that believes the events of one carrier through one client, and a maker of its events.
func newCarrier(t testing.TB) (*evidence.Verifier, func(header, payload map[string]any) string) {
	v, sign, _ := newCarrierKey(t)
	return v, sign
}

func newCarrierKey(t testing.TB) (*evidence.Verifier, func(header, payload map[string]any) string, *ecdsa.PrivateKey) {
	w, a := newFullWorld(t)
	carrier := a.list[len(a.list)-1] // line_ownership's
	carrier.Kinds = append(carrier.Kinds, evidence.KindLineEvent)
	carrier.Clients = []string{"telecom-a"}
	off := carrier
	off.ID, off.Off = "switched-off", true
	w.trust.Authorities = append(a.list[:len(a.list)-1:len(a.list)-1], carrier, off)
	return evidence.NewVerifier(w.trust), func(header, payload map[string]any) string {
		h := map[string]any{"typ": evidence.LineEventType, "kid": "k1"}
		p := map[string]any{"iss": carrier.ID, "jti": "0123456789abcdef", "iat": now.Unix(), "line": "line-1", "seq": 7, "kind": "lost", "occurred_at": now.Add(-time.Minute).Unix()}
		maps.Copy(h, header)
		maps.Copy(p, payload)
		maps.DeleteFunc(p, func(_ string, v any) bool { return v == nil })
		text, err := statement.Raw(a.keys[evidence.KindLineOwnership], h, p)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}, a.keys[evidence.KindLineOwnership]
}

func TestLineEvent(t *testing.T) {
	v, sign := newCarrier(t)
	e, err := v.LineEvent("telecom-a", now, sign(nil, nil))
	if err != nil || !e.Valid() || e.Line() != "line-1" || e.Seq() != 7 || e.Kind() != evidence.LineLost || e.ID() != "0123456789abcdef" ||
		!e.OccurredAt().Equal(now.Add(-time.Minute).Truncate(time.Second)) || e.Authority() != "of-line_ownership" {
		t.Fatalf("%+v, %v", e, err)
	}
	// Late is no reason to refuse, up to the age until which its id is remembered.
	if _, err := v.LineEvent("telecom-a", now.Add(evidence.MaxEventAge-time.Minute), sign(nil, nil)); err != nil {
		t.Error(err)
	}
	type m = map[string]any
	shown := map[string]bool{"signature": true} // below
	for name, c := range map[string]struct {
		client          string
		after           time.Duration
		header, payload m
		code            string
	}{
		"another client":      {client: "telecom-b", code: "scope"},
		"no such authority":   {payload: m{"iss": "nobody"}, code: "authority"},
		"authority off":       {payload: m{"iss": "switched-off"}, code: "authority_off"},
		"not for events":      {payload: m{"iss": "of-face_match"}, code: "authority"},
		"key off":             {header: m{"kid": "off"}, code: "key_off"},
		"key later":           {header: m{"kid": "later"}, code: "key_time"},
		"key earlier":         {header: m{"kid": "earlier"}, code: "key_time"},
		"key unknown":         {header: m{"kid": "k9"}, code: "key"},
		"another kind's typ":  {header: m{"typ": evidence.StatementType(evidence.KindLineOwnership)}, code: "type"},
		"more in the header":  {header: m{"crit": []string{"exp"}}, code: "malformed"},
		"a subject":           {payload: m{"sub": "x"}, code: "malformed"},
		"no seq":              {payload: m{"seq": nil}, code: "malformed"},
		"seq below 0":         {payload: m{"seq": -1}, code: "malformed"},
		"seq above 2^53":      {payload: m{"seq": uint64(1) << 53}, code: "malformed"},
		"no line":             {payload: m{"line": ""}, code: "malformed"},
		"long line":           {payload: m{"line": strings.Repeat("x", 129)}, code: "malformed"},
		"short id":            {payload: m{"jti": "short"}, code: "malformed"},
		"unknown kind":        {payload: m{"kind": "stolen"}, code: "malformed"},
		"no time":             {payload: m{"occurred_at": nil}, code: "malformed"},
		"issued too early":    {payload: m{"occurred_at": now.Add(time.Hour).Unix()}, code: "malformed"},
		"from the future":     {payload: m{"iat": now.Add(50 * time.Minute).Unix()}, code: "from_future"},
		"30 days and a day":   {after: evidence.MaxEventAge + 24*time.Hour, code: "expired"},
		"of the line's issue": {payload: m{"session": "x"}, code: "malformed"},
	} {
		shown[c.code] = true
		if c.client == "" {
			c.client = "telecom-a"
		}
		e, err := v.LineEvent(c.client, now.Add(c.after), sign(c.header, c.payload))
		var r *evidence.Refusal
		if !errors.As(err, &r) || r.Code() != "evidence.line_event_"+c.code || e.Valid() {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	for _, c := range evidence.Codes {
		if reason, of := strings.CutPrefix(c.Code, "evidence.line_event_"); of && !shown[reason] {
			t.Errorf("%s has no case here", c.Code)
		}
	}
	good := sign(nil, nil)
	later := sign(nil, m{"seq": 8})
	cut := strings.LastIndexByte(good, '.') + 1
	if _, err := v.LineEvent("telecom-a", now, good[:cut]+later[strings.LastIndexByte(later, '.')+1:]); err == nil || !strings.HasPrefix(err.Error(), "evidence.line_event_signature") {
		t.Errorf("another event's signature: %v", err)
	}
	// An event is no evidence item.
	w, a := newFullWorld(t)
	about, b, _ := w.full(t, a, person)
	b.Items[0] = evidence.Item{Kind: evidence.KindLineEvent, Token: good}
	if _, err := w.verifier.Verify(about, b); err == nil || !strings.HasPrefix(err.Error(), "evidence.kind_unknown") {
		t.Error(err)
	}
}
