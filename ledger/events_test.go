package ledger

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sealkeeper/evidence"
	statements "sealkeeper/evidence/statement"
	"sealkeeper/policy"
)

// carrier sends its events through telecom-a.
type carrier struct {
	*town
	key      *ecdsa.PrivateKey
	verifier *evidence.Verifier
}

// newCarrier reports as many lines as it likes in an hour; above flood they are held.
func newCarrier(t *testing.T, flood int, unlocks ...int) *carrier {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	point, err := key.PublicKey.Bytes()
	must(t, err)
	data, err := os.ReadFile(filepath.Join("..", "deploy", "policies", "demo.json"))
	must(t, err)
	var b map[string]any
	must(t, json.Unmarshal(data, &b))
	b64 := base64.RawURLEncoding.EncodeToString
	for _, one := range b["clients"].([]any) {
		if one := one.(map[string]any); one["id"] == "telecom-a" && unlocks != nil {
			one["unlocks"] = unlocks[0]
		}
	}
	b["authorities"] = []any{map[string]any{"id": "carrier-a", "kinds": []string{evidence.KindLineEvent}, "flood": flood, "keys": []any{map[string]any{
		"kid": "k", "not_before": noon.Add(-time.Hour), "not_after": noon.AddDate(1, 0, 0),
		"jwk": map[string]string{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}}}}}
	data, err = json.Marshal(b)
	must(t, err)
	c := &carrier{town: newTown(t), key: key}
	c.bundle, err = policy.Parse("carrier.json", data)
	must(t, err)
	c.verifier = evidence.NewVerifier(evidence.Trust{Skew: time.Minute, Authorities: c.bundle.Authorities()})
	return c
}

func (c *carrier) event(id, line string, seq uint64, kind string, occurred time.Time) (EventResult, error) {
	text, err := statements.SignEvent(c.key, "k", statements.Event{Issuer: "carrier-a", ID: "event-0123456789-" + id, IssuedAt: occurred, Line: line, Seq: seq, Kind: kind, OccurredAt: occurred})
	must(c.t, err)
	e, err := c.verifier.LineEvent("telecom-a", c.clock.Now(), text)
	must(c.t, err)
	a, d := c.bundle.DecideEvent(e, c.clock.Now())
	if a == nil {
		c.t.Fatal(d)
	}
	return c.Ledger.Event(context.Background(), a)
}

// vouch links the person's phone to a line, as an issue with a carrier's statement does.
func (c *carrier) vouch(person byte, line string, since time.Time) {
	c.t.Helper()
	must(c.t, c.tryVouch(person, line, since))
}

func (c *carrier) tryVouch(person byte, line string, since time.Time) error {
	ctx, key := context.Background(), slotKey(resident, policy.Pseudonym{person})
	slot, rev, err := c.Ledger.slot(ctx, key)
	must(c.t, err)
	s, err := c.Ledger.unlocked()
	must(c.t, err)
	rows, delivered, err := c.Ledger.link(ctx, s, policy.Issue{DocumentType: resident, Subject: policy.Pseudonym{person},
		Line: &policy.Line{Authority: "carrier-a", Line: line, Since: since}}, key, rev, slot.Device.ID)
	if err != nil {
		return err
	}
	out, err := c.Ledger.commit(ctx, Leaf{Kind: "reserve", At: c.clock.Now()}, rows, false, func(uint64) { delivered() })
	must(c.t, err)
	if out.Conflict != nil {
		c.t.Fatal(out.Conflict)
	}
	return nil
}

func (c *carrier) locks(person byte) []policy.Lock {
	s, err := c.Ledger.Subject(context.Background(), resident, policy.Pseudonym{person})
	must(c.t, err)
	return s.Slot().Locks
}

func (c *carrier) wantsEffect(effect string) func(EventResult, error) EventResult {
	return func(r EventResult, err error) EventResult {
		c.t.Helper()
		if err != nil || r.Effect != effect || r.Changed != (effect == EventApplied || effect == EventHeld) {
			c.t.Errorf("%+v, %v: want %s", r, err, effect)
		}
		return r
	}
}

func TestEventsOfALine(t *testing.T) {
	c := newCarrier(t, 100)
	c.issue(c.request(policy.OpIssue, 1, c.phone(), false))
	c.vouch(1, "line-1", noon)
	lost := c.wantsEffect(EventApplied)(c.event("1", "line-1", 1, "lost", noon.Add(time.Second)))
	if !slices.Equal(c.locks(1), []policy.Lock{{Reason: "telecom_lost", Class: "telecom", By: "telecom-a"}}) || len(lost.Lists) == 0 {
		t.Errorf("locks %v, %+v", c.locks(1), lost)
	}
	if again := c.wantsEffect(EventApplied)(c.event("1", "line-1", 1, "lost", noon.Add(time.Second))); again.Seq != lost.Seq {
		t.Errorf("the same event again: %+v, first %+v", again, lost)
	}
	_, err := c.event("1", "line-1", 9, "found", noon.Add(time.Second))
	refused(t, err, "event.id_reused")
	c.wantsEffect(EventApplied)(c.event("3", "line-1", 3, "found", noon.Add(3*time.Second)))
	c.wantsEffect(EventStale)(c.event("2", "line-1", 2, "lost", noon.Add(2*time.Second)))
	if len(c.locks(1)) != 0 {
		t.Errorf("locks %v", c.locks(1))
	}
	c.again() // and after a restart
	c.wantsEffect(EventStale)(c.event("2", "line-1", 2, "lost", noon.Add(2*time.Second)))
	c.check()
}

// b7: what a carrier lifts in an hour is bounded, by events and changes together and through a restart; what it locks is not.
func TestUnlocksAreLimited(t *testing.T) {
	c := newCarrier(t, 100, 3)
	c.issue(c.request(policy.OpIssue, 1, c.phone(), false))
	c.vouch(1, "line-1", noon)
	seq := uint64(0)
	report := func(kind string) (EventResult, error) {
		seq++
		return c.event(fmt.Sprint(kind, seq), "line-1", seq, kind, noon.Add(time.Duration(seq)*time.Second))
	}
	tryUnlock := func() error {
		s, err := c.Ledger.Subject(context.Background(), resident, policy.Pseudonym{1})
		must(t, err)
		a, d := c.bundle.DecideChange(policy.ChangeRequest{Client: "telecom-a", Operation: policy.OpUnlock, DocumentType: resident, Subject: policy.Pseudonym{1}, Reason: "telecom_lost"}, s.Slot(), c.clock.Now())
		if a == nil {
			t.Fatal(d)
		}
		_, err = c.Ledger.Change(context.Background(), a)
		return err
	}
	for i := range 3 {
		c.wantsEffect(EventApplied)(report("lost"))
		if i == 1 {
			must(t, tryUnlock())
			must(t, tryUnlock()) // nothing to lift takes nothing
		} else {
			c.wantsEffect(EventApplied)(report("found"))
		}
	}
	c.wantsEffect(EventApplied)(report("lost"))
	c.again()
	before := c.Ledger.through
	_, err := report("found")
	refused(t, err, "budget.exhausted")
	refused(t, tryUnlock(), "budget.exhausted")
	if c.Ledger.through != before || len(c.locks(1)) != 1 {
		t.Errorf("refused, and the journal is at %d, before at %d; locks %v", c.Ledger.through, before, c.locks(1))
	}
	for range 10 {
		if _, err := report("lost"); err != nil {
			t.Errorf("a loss while nothing can be lifted: %v", err)
		}
	}
	c.clock.Advance(time.Hour)
	if r, err := report("found"); err != nil || !r.Changed {
		t.Errorf("in the next hour: %+v, %v", r, err)
	}
	c.check()
}

func TestReportsOfUnknownLinesWait(t *testing.T) {
	c := newCarrier(t, 100)
	c.issue(c.request(policy.OpIssue, 1, c.phone(), false))
	for i := range 3 {
		c.wantsEffect(EventUnknown)(c.event(fmt.Sprint(i), fmt.Sprint("line-", i), 1, "lost", noon.Add(time.Second)))
	}
	refused(t, c.tryVouch(1, "line-1", noon), "line.reported")
	c.vouch(1, "line-1", noon.Add(2*time.Second)) // it was found, and the carrier vouches anew
	if len(c.locks(1)) != 0 || c.Ledger.letters.Load() != 2 {
		t.Errorf("locks %v, %d letters", c.locks(1), c.Ledger.letters.Load())
	}
	c.wantsEffect(EventApplied)(c.event("later", "line-1", 2, "lost", noon.Add(3*time.Second)))
	c.clock.Advance(LetterTTL + time.Minute)
	must(t, c.sweep(context.Background()))
	if c.Ledger.letters.Load() != 0 {
		t.Errorf("%d letters after their time", c.Ledger.letters.Load())
	}
	c.check()
}

// Above the threshold cards are suspended, MSOs wait, and one decision is about all of them; it comes to its end also after a restart.
func TestFloods(t *testing.T) {
	c := newCarrier(t, 2)
	for i := range byte(6) {
		c.issue(c.request(policy.OpIssue, i+1, c.phone(), false))
		c.vouch(i+1, fmt.Sprint("line-", i+1), noon)
	}
	report := func(person int, seq uint64, kind, effect string) {
		t.Helper()
		c.wantsEffect(effect)(c.event(fmt.Sprint(kind, person, seq), fmt.Sprint("line-", person), seq, kind, c.clock.Now()))
	}
	begin := noon.Truncate(time.Hour)
	waits := func(cards, msos int, deciding string) {
		t.Helper()
		all, err := c.Ledger.Floods(context.Background())
		must(t, err)
		var want []Flood
		if cards > 0 {
			want = []Flood{{Carrier: "carrier-a", Hour: begin, Cards: cards, MSOs: msos, Deciding: deciding}}
		}
		if !slices.Equal(all, want) || c.Ledger.HeldCards()["carrier-a"] != cards {
			t.Errorf("waiting: %+v, %v; want %+v", all, c.Ledger.HeldCards(), want)
		}
	}
	decided := func() {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if all, err := c.Ledger.Floods(context.Background()); err != nil || len(all) == 0 && len(c.Ledger.HeldCards()) == 0 || time.Now().After(end) {
				must(t, err)
				break
			}
		}
	}
	c.clock.Advance(time.Minute)
	report(1, 1, "lost", EventApplied)
	report(2, 1, "ported", EventApplied)
	c.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
	waits(0, 0, "")
	report(3, 1, "lost", EventHeld)
	report(4, 1, "ported", EventHeld)
	report(5, 1, "lost", EventHeld)
	report(6, 1, "lost", EventHeld)
	for person := 3; person <= 6; person++ {
		c.wants(byte(person), "mso_mdoc valid", "dc+sd-jwt suspended")
	}
	waits(4, 4, "")
	c.again() // and after a restart
	waits(4, 4, "")
	report(5, 2, "found", EventApplied) // its own report
	c.wants(5, "mso_mdoc valid", "dc+sd-jwt valid")
	c.change("ministry", policy.OpLock, 6, "admin_hold") // somebody else's lock is none of the flood
	c.wants(6, "mso_mdoc revoked", "dc+sd-jwt suspended")
	waits(3, 2, "")

	_, err := c.Ledger.DecideFlood(context.Background(), "operator", "carrier-a", begin.Add(time.Hour), true, nil)
	refused(t, err, "flood.unknown")
	n, err := c.Ledger.DecideFlood(context.Background(), "operator", "carrier-a", begin, true, nil)
	if must(t, err); n != 3 {
		t.Errorf("%d cards are decided on", n)
	}
	decided()
	for _, person := range []byte{3, 4} {
		c.wants(person, "mso_mdoc valid", "dc+sd-jwt valid")
	}
	if l := c.locks(6); len(l) != 1 || l[0].Reason != "admin_hold" {
		t.Errorf("locks %v", l)
	}
	c.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended") // before it was a flood
	waits(0, 0, "")
	c.check()

	// The same hour goes on: what comes now waits for a decision of its own, which the process does not live to carry out.
	report(3, 2, "lost", EventHeld)
	report(4, 2, "lost", EventHeld)
	_, err = c.Ledger.commit(context.Background(), Leaf{Kind: "flood", At: noon, Name: "carrier-a", Operation: "confirm"}, []Row{{Table: TableFloods, Key: floodKey("carrier-a", begin.Unix()+3600),
		Value: encode(FloodDecision{Through: c.Ledger.through})}}, false, nil)
	must(t, err)
	waits(2, 2, "confirm")
	c.again()
	decided()
	for _, person := range []byte{3, 4} {
		c.wants(person, "mso_mdoc revoked", "dc+sd-jwt suspended")
	}
	// A report of the next hour is none of the flood.
	c.clock.Advance(time.Hour)
	report(5, 3, "lost", EventApplied)
	c.wants(5, "mso_mdoc revoked", "dc+sd-jwt suspended")
	c.check()
}
