package scenario

import (
	"context"
	"testing"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/verifier"
)

// b7: a carrier that knows lines and no persons stops the cards on the phones that it vouched for, and can lift nothing but its own.
func TestCarrierEvents(t *testing.T) {
	t.Parallel()
	a, by := installProgramme(t, nil)
	event := func(through string, r contract.EventRequest, effect string) contract.EventAnswer {
		t.Helper()
		out, err := a.As(through).Event(context.Background(), r)
		if err != nil || out.Effect != effect || out.Changed != (effect == "applied") {
			t.Fatalf("%+v, %v: want %s", out, err, effect)
		}
		return out
	}
	locks := func(subject string) (reasons []string) {
		t.Helper()
		h, err := a.As("loss-desk").Holder(context.Background(), contract.StateRequest{DocumentType: harness.KR, Subject: subject})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range h.Locks {
			reasons = append(reasons, l.Reason)
		}
		return reasons
	}
	p := newPhone(t, 1)
	c := a.Case(by, "portal", "ic_chip", p, "events-1")
	out, err := a.ask(c)
	if err != nil {
		t.Fatal(err)
	}
	m, s := byFormat(out)

	lost := by.Event(c.Line(), 1, evidence.LineLost)
	first := event("telecom-a", lost, "applied")
	a.Eventually(s.Status, verifier.Suspended)
	a.Eventually(m.Status, verifier.Invalid)
	if again := event("telecom-a", lost, "applied"); again.Sequence != first.Sequence {
		t.Errorf("the same event again: entry %d, first %d", again.Sequence, first.Sequence)
	}
	// Numbers 3 and 2 come in the wrong order, 3 through a restart.
	a.Stop()
	a.Start()
	event("telecom-a", by.Event(c.Line(), 3, evidence.LineFound), "applied")
	event("telecom-a", by.Event(c.Line(), 2, evidence.LineLost), "stale")
	a.Eventually(s.Status, verifier.Valid)
	if m := a.Status(m.Status); m != verifier.Invalid {
		t.Errorf("the mdoc came back: %d", m)
	}

	// A found lifts what the carrier locked, and nothing else.
	event("telecom-a", by.Event(c.Line(), 4, evidence.LineLost), "applied")
	a.Change("loss-desk", lock, "events-1", "self_lost", "")
	event("telecom-a", by.Event(c.Line(), 5, evidence.LineFound), "applied")
	if l := locks("events-1"); len(l) != 1 || l[0] != "self_lost" {
		t.Errorf("locks %v", l)
	}
	a.Change("loss-desk", unlock, "events-1", "self_lost", "")

	// The number goes to another carrier: the phone is not its owner's line any more, and an old statement does not help.
	next := newPhone(t, 1)
	old := a.Case(by, "portal", "ic_chip", next, "events-1")
	old.Request.Replace = true
	event("telecom-a", by.Event(c.Line(), 6, evidence.LinePorted), "applied")
	if l := locks("events-1"); len(l) != 1 || l[0] != "line_changed" {
		t.Errorf("locks %v", l)
	}
	event("telecom-a", by.Event(c.Line(), 7, evidence.LineFound), "none")
	if _, err := a.ask(old); client.Code(err) != "line.reported" {
		t.Errorf("with a statement of before: %v", err)
	}

	// A line that is nobody's: the report waits for whoever it is vouched for with a statement of before.
	late := a.Case(by, "portal", "ic_chip", newPhone(t, 1), "events-2")
	event("telecom-a", by.Event(late.Line(), 1, evidence.LineLost), "unknown_line")
	if _, err := a.ask(late); client.Code(err) != "line.reported" {
		t.Errorf("with a statement of before: %v", err)
	}

	for name, f := range map[string]struct {
		through string
		event   contract.EventRequest
		code    string
	}{
		"an issuance service": {"portal", lost, "route.forbidden"},
		"not a JWS":           {"telecom-a", contract.EventRequest{Event: "lost"}, "evidence.line_event_malformed"},
		"a statement":         {"telecom-a", contract.EventRequest{Event: late.Request.Evidence[3].Token}, "evidence.line_event_type"},
		"another's signature": {"telecom-a", contract.EventRequest{Event: lost.Event[:len(lost.Event)-8] + "AAAAAAAA"}, "evidence.line_event_signature"},
	} {
		if _, err := a.As(f.through).Event(context.Background(), f.event); client.Code(err) != f.code {
			t.Errorf("%s: %v, want %s", name, err, f.code)
		}
	}
	a.Stop()
	a.Check()
}
