package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
	"sealkeeper/tests/programme"
	"sealkeeper/verifier"
)

// b7: a carrier that knows lines and no persons stops the cards on the phones that it vouched for, and can lift nothing but its own.
func TestCarrierEvents(t *testing.T) {
	t.Parallel()
	a, by := installProgramme(t, func(bundle map[string]any) {
		bundle["clients"] = append(bundle["clients"].([]any), map[string]any{"id": "telecom-b", "role": "carrier", "class": "telecom", "may": map[string]any{harness.KR: []string{"lock", "unlock"}}})
	})
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
	if _, err := a.As("telecom-b").Unlock(context.Background(), contract.ChangeRequest{DocumentType: harness.KR, Subject: "events-1", Reason: "telecom_lost"}); client.Code(err) != "lock.other_authority" {
		t.Errorf("a carrier lifts another's lock: %v", err)
	}
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
	old := a.Case(by, "ward-office-1", "office_qr", next, "events-1")
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

	// Refused through a client of another class; judged again when the policy lets it. Here nothing mends it but the carrier's own client.
	wrong := by.Event(c.Line(), 8, evidence.LineLost)
	if _, err := a.As("card-system").Event(context.Background(), wrong); client.Code(err) != "reason.forbidden" {
		t.Errorf("through a client of another class: %v", err)
	}
	dead, err := a.As("auditor").DeadEvents(context.Background())
	if err != nil || len(dead.Events) != 1 || dead.Events[0].Client != "card-system" || dead.Events[0].Code != "reason.forbidden" || dead.UnknownLines != 1 {
		t.Errorf("dead events: %+v, %v", dead, err)
	}
	event("telecom-a", wrong, "applied")
	if dead, err = a.As("auditor").DeadEvents(context.Background()); err != nil || len(dead.Events) != 0 {
		t.Errorf("dead events: %+v, %v", dead, err)
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

// Above a carrier's threshold cards stop at once and mdocs wait; an operator decides on the hour as a whole, from the command line.
func TestCarrierFlood(t *testing.T) {
	t.Parallel()
	a, by := installProgramme(t, func(bundle map[string]any) {
		for _, v := range bundle["authorities"].([]any) {
			if v := v.(map[string]any); v["id"] == "telecom-a" {
				v["flood"] = 1
			}
		}
	})
	type person struct {
		line    string
		mdoc    contract.StatusRef
		vc      contract.StatusRef
		subject string
		phone   *phone.Phone
	}
	var people []person
	for i := range 4 {
		p := newPhone(t, 1)
		subject := fmt.Sprint("flood-", i)
		c := a.Case(by, "portal", "ic_chip", p, subject)
		out, err := a.ask(c)
		if err != nil {
			t.Fatal(err)
		}
		m, s := byFormat(out)
		people = append(people, person{c.Line(), m.Status, s.Status, subject, p})
	}
	report := func(p person, seq uint64, kind, effect string) {
		t.Helper()
		if out, err := a.As("telecom-a").Event(context.Background(), by.Event(p.line, seq, kind)); err != nil || out.Effect != effect {
			t.Fatalf("%+v, %v: want %s", out, err, effect)
		}
	}
	floods := func(args ...string) ran {
		t.Helper()
		r := execute(t, harness.Sealctl, "", append(append([]string{"floods"}, args...), "--url", fmt.Sprintf("https://127.0.0.1:%d", a.Ports[0]), "--identity", filepath.Join(a.Dir, "clients", "operator-1"))...)
		if r.code != 0 {
			t.Fatalf("%v: %d %s", args, r.code, r.err)
		}
		return r
	}
	programme.Left(time.Hour, 5*time.Minute) // the threshold is an hour's
	report(people[0], 1, evidence.LineLost, "applied")
	for _, p := range people[1:] {
		report(p, 1, evidence.LineLost, "held")
		a.Eventually(p.vc, verifier.Suspended)
		if m := a.Status(p.mdoc); m != verifier.Valid {
			t.Errorf("the mdoc of a held card is %d", m)
		}
	}
	again := a.Case(by, "portal", "technical_refresh", people[1].phone, people[1].subject)
	if _, err := a.As("portal").Refresh(context.Background(), client.NewKey(), again.Request); client.Code(err) != "card.locked" {
		t.Errorf("a held card is refreshed: %v", err)
	}
	report(people[3], 2, evidence.LineFound, "applied") // it really was lost, and is found
	a.Eventually(people[3].vc, verifier.Valid)

	var list contract.Floods
	if err := json.Unmarshal([]byte(floods("--json").out), &list); err != nil || len(list.Floods) != 1 || list.Floods[0].Cards != 2 || list.Floods[0].MDocs != 2 || list.Floods[0].Carrier != "telecom-a" {
		t.Fatalf("%+v, %v", list, err)
	}
	hour := list.Floods[0].Hour.Format(time.RFC3339)
	if out := floods().out; !strings.Contains(out, hour) || !strings.Contains(out, "telecom-a") {
		t.Errorf("the table: %s", out)
	}
	if m := a.Metrics(); !strings.Contains(m, `sealkeeper_held_cards{carrier="telecom-a"} 2`) {
		t.Error("the metric does not say that two cards wait")
	}
	// A carrier's new key, that the policy does not list yet.
	if e := by.Event(people[0].line, 9, evidence.LineFound); true {
		e.Event = e.Event[:len(e.Event)-8] + "AAAAAAAA"
		if _, err := a.As("telecom-a").Event(context.Background(), e); client.Code(err) != "evidence.line_event_signature" {
			t.Errorf("a wrong signature: %v", err)
		}
	}
	r := execute(t, harness.Sealctl, "", "events", "dead", "--json", "--url", fmt.Sprintf("https://127.0.0.1:%d", a.Ports[0]), "--identity", filepath.Join(a.Dir, "clients", "operator-1"))
	if r.code != 0 || !strings.Contains(r.out, "evidence.line_event_signature") {
		t.Errorf("dead events: %d %s %s", r.code, r.out, r.err)
	}
	r = execute(t, harness.Sealctl, "", "events", "replay", "--all", "--url", fmt.Sprintf("https://127.0.0.1:%d", a.Ports[0]), "--identity", filepath.Join(a.Dir, "clients", "operator-1"))
	if r.code != 5 || !strings.Contains(r.out, "evidence.line_event_signature") {
		t.Errorf("replayed without mending the cause: %d %s %s", r.code, r.out, r.err)
	}
	floods("undo", "telecom-a", hour)
	for _, p := range people[1:3] {
		a.Eventually(p.vc, verifier.Valid)
	}
	report(people[1], 2, evidence.LineLost, "held") // the hour goes on
	floods("confirm", "telecom-a", hour)
	a.Eventually(people[1].mdoc, verifier.Invalid)
	a.Eventually(people[2].mdoc, verifier.Valid)
	a.Eventually(people[0].mdoc, verifier.Invalid) // before it was a flood
	if out := floods().out; !strings.Contains(out, "no card waits") {
		t.Errorf("after both decisions: %s", out)
	}
	if _, err := a.As("operator-1").DecideFlood(context.Background(), contract.FloodRequest{Carrier: "telecom-a", Hour: list.Floods[0].Hour, Decision: "undo"}); client.Code(err) != "flood.unknown" {
		t.Errorf("a decision on nothing: %v", err)
	}
	a.Stop()
	a.Check()
}
