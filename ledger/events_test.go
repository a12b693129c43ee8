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
	b["lock_reasons"].(map[string]any)["line_changed"] = []string{"telecom"} // a lock of its own for a line that changed
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
	report(4, 2, "found", EventNone) // nobody said that it was lost
	c.wants(4, "mso_mdoc valid", "dc+sd-jwt suspended")
	waits(3, 3, "")
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

// flooded links phones to lines of the same numbers, in an hour whose reports are held, each line's from now on.
func (c *carrier) flooded(persons ...byte) {
	c.t.Helper()
	for _, person := range persons {
		c.issue(c.request(policy.OpIssue, person, c.phone(), false))
		c.vouch(person, fmt.Sprint("line-", person), noon)
	}
	c.clock.Advance(time.Minute)
	c.floods1()
}

// floods1 takes what a carrier with a threshold of 1 may report in this hour before it is a flood.
func (c *carrier) floods1() {
	c.t.Helper()
	c.wantsEffect(EventUnknown)(c.event("first"+c.clock.Now().Format("15"), "nobody's", uint64(c.clock.Now().Unix()), "lost", c.clock.Now()))
}

// A loss that is reported after the decision, or in a later hour, is none of what was decided on: undone with the rest, it would be a lost phone that is valid.
func TestReportsAfterADecisionWait(t *testing.T) {
	for name, when := range map[string]struct {
		later  time.Duration
		before bool // the decision; else between it and its being carried out
	}{"in the same hour": {0, false}, "in the next hour": {time.Hour, false}, "in the next hour, before the decision": {time.Hour, true}} {
		for _, kind := range []string{"lost", "ported"} {
			t.Run(kind+" "+name, func(t *testing.T) {
				c, later := newCarrier(t, 1), when.later
				c.fills() // nobody is woken by a decision that is made without DecideFlood
				c.flooded(1, 2)
				ctx, begin := context.Background(), noon.Truncate(time.Hour)
				for person := 1; person <= 2; person++ {
					c.wantsEffect(EventHeld)(c.event(fmt.Sprint("held", person), fmt.Sprint("line-", person), 1, "lost", c.clock.Now()))
				}
				decide := func() {
					_, err := c.Ledger.commit(ctx, Leaf{Kind: "flood", At: c.clock.Now(), Name: "carrier-a", Operation: "undo"}, []Row{{Table: TableFloods, Key: floodKey("carrier-a", begin.Unix()+hour),
						Value: encode(FloodDecision{Undo: true, Through: c.Ledger.through, Client: "operator", At: c.clock.Now()})}}, false, nil)
					must(t, err)
				}
				report := func() {
					c.clock.Advance(later)
					if later > 0 {
						c.floods1()
					}
					c.clock.Advance(time.Second)
					if _, err := c.event("later", "line-1", 2, kind, c.clock.Now()); err != nil {
						t.Fatal(err)
					}
				}
				if when.before {
					report()
					decide()
				} else {
					decide()
					report()
				}
				if n := c.HeldCards()["carrier-a"]; n != 2 {
					t.Errorf("%d cards are held, want 2", n)
				}
				must(t, c.carryOutFloods(ctx))
				c.wants(1, "mso_mdoc valid", "dc+sd-jwt suspended")
				c.wants(2, "mso_mdoc valid", "dc+sd-jwt valid")
				all, err := c.Floods(ctx)
				must(t, err)
				if want := []Flood{{Carrier: "carrier-a", Hour: begin.Add(later), Cards: 1, MSOs: 1}}; !slices.Equal(all, want) || c.HeldCards()["carrier-a"] != 1 {
					t.Errorf("waiting: %+v, %v; want %+v", all, c.HeldCards(), want)
				}
				c.check()
				// Its own decision is about all of it.
				_, err = c.DecideFlood(ctx, "operator", "carrier-a", begin.Add(later), true, nil)
				must(t, err)
				must(t, c.carryOutFloods(ctx))
				c.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
				if len(c.HeldCards()) > 0 {
					t.Errorf("%v are held", c.HeldCards())
				}
				c.check()
			})
		}
	}
}

// A loss that was confirmed and is reported once more before its card's turn is no less confirmed: left held, a later undo would make a lost phone valid.
func TestAConfirmationOutlastsItsReports(t *testing.T) {
	for _, kind := range []string{"lost", "ported"} {
		t.Run(kind, func(t *testing.T) {
			c := newCarrier(t, 1)
			c.fills() // nobody is woken by a decision that is made without DecideFlood
			c.flooded(1, 2, 3)
			ctx, begin := context.Background(), noon.Truncate(time.Hour)
			report := func(person int, seq uint64, kind, effect string) {
				t.Helper()
				c.clock.Advance(time.Second)
				c.wantsEffect(effect)(c.event(fmt.Sprint(kind, person, seq), fmt.Sprint("line-", person), seq, kind, c.clock.Now()))
			}
			report(1, 1, "lost", EventHeld)
			report(2, 1, "lost", EventHeld)
			_, err := c.Ledger.commit(ctx, Leaf{Kind: "flood", At: c.clock.Now(), Name: "carrier-a", Operation: "confirm"}, []Row{{Table: TableFloods, Key: floodKey("carrier-a", begin.Unix()+hour),
				Value: encode(FloodDecision{Through: c.Ledger.through, Client: "operator", At: c.clock.Now()})}}, false, nil)
			must(t, err)
			if _, err := c.event("later", "line-1", 2, kind, c.clock.Now()); err != nil {
				t.Fatal(err)
			}
			if _, err := c.event("last", "line-1", 3, kind, c.clock.Now()); err != nil {
				t.Fatal(err)
			}
			// Found and lost again, and reported for the first time: nobody confirmed these.
			report(2, 2, "found", EventApplied)
			report(2, 3, "lost", EventHeld)
			report(3, 1, "lost", EventHeld)
			must(t, c.carryOutFloods(ctx))
			c.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
			c.wants(2, "mso_mdoc valid", "dc+sd-jwt suspended")
			c.wants(3, "mso_mdoc valid", "dc+sd-jwt suspended")
			if n := c.HeldCards()["carrier-a"]; n != 2 {
				t.Errorf("%d cards are held, want 2", n)
			}
			c.check()
			_, err = c.DecideFlood(ctx, "operator", "carrier-a", begin, true, nil)
			must(t, err)
			must(t, c.carryOutFloods(ctx))
			c.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
			c.wants(2, "mso_mdoc valid", "dc+sd-jwt valid")
			c.wants(3, "mso_mdoc valid", "dc+sd-jwt valid")
			if len(c.HeldCards()) > 0 {
				t.Errorf("%v are held", c.HeldCards())
			}
			c.check()
		})
	}
}

// Who locks a card that a flood holds is not held: its MSOs are revoked, and neither a found nor a decision lifts that lock. Unlocked again, it stays so.
func TestALockOfACardThatIsHeld(t *testing.T) {
	for _, undo := range []bool{true, false} {
		t.Run(decisionName(undo), func(t *testing.T) {
			c := newCarrier(t, 1)
			c.fills()
			c.flooded(1, 2, 3, 4)
			ctx := context.Background()
			report := func(person int, seq uint64, kind, effect string) {
				t.Helper()
				c.clock.Advance(time.Second)
				c.wantsEffect(effect)(c.event(fmt.Sprint(kind, person, seq), fmt.Sprint("line-", person), seq, kind, c.clock.Now()))
			}
			waits := func(n int) {
				t.Helper()
				if rows := c.rows(TableHeld); c.HeldCards()["carrier-a"] != n || rows != n {
					t.Errorf("%v cards are held in %d rows, want %d", c.HeldCards(), rows, n)
				}
			}
			locked := func(person byte, reasons ...string) {
				t.Helper()
				var got []string
				for _, lock := range c.locks(person) {
					got = append(got, lock.Reason)
				}
				if !slices.Equal(got, reasons) {
					t.Errorf("locks of %d: %v, want %v", person, got, reasons)
				}
			}
			for person := 1; person <= 4; person++ {
				report(person, 1, "lost", EventHeld)
			}
			report(2, 2, "ported", EventHeld)
			waits(4)
			for _, person := range []byte{1, 2, 4} {
				if r := c.change("telecom-a", policy.OpLock, person, "telecom_lost"); !r.Changed || len(r.Lists) == 0 {
					t.Errorf("the lock of %d: %+v", person, r)
				}
				c.wants(person, "mso_mdoc revoked", "dc+sd-jwt suspended")
				if r := c.change("telecom-a", policy.OpLock, person, "telecom_lost"); r.Changed {
					t.Errorf("the lock of %d again: %+v", person, r)
				}
			}
			waits(2) // 2 with its other lock, and 3
			c.check()
			report(1, 2, "found", EventNone)
			report(4, 2, "lost", EventNone)
			c.change("telecom-a", policy.OpUnlock, 2, "telecom_lost")
			waits(2)
			_, err := c.DecideFlood(ctx, "operator", "carrier-a", noon.Truncate(time.Hour), undo, nil)
			must(t, err)
			must(t, c.carryOutFloods(ctx))
			waits(0)
			locked(1, "telecom_lost")
			locked(4, "telecom_lost")
			if undo {
				locked(2)
				c.wants(3, "mso_mdoc valid", "dc+sd-jwt valid")
			} else {
				locked(2, "line_changed")
				c.wants(3, "mso_mdoc revoked", "dc+sd-jwt suspended")
			}
			c.check()
			c.change("telecom-a", policy.OpUnlock, 1, "telecom_lost")
			locked(1)
		})
	}
}

// A held card whose number went to somebody else is decided on as any other, and stays its holder's; what was reported of the line since is none of it.
func TestADecisionOnALineThatIsSomebodyElses(t *testing.T) {
	for name, how := range map[string]struct {
		undo bool
		then string // what is reported of the other person's line
	}{"undo, lost": {true, "lost"}, "confirm, lost": {false, "lost"}, "undo, found": {true, "found"}, "confirm, found": {false, "found"}} {
		t.Run(name, func(t *testing.T) {
			undo := how.undo
			c := newCarrier(t, 1)
			c.fills()
			c.flooded(1)
			ctx := context.Background()
			c.wantsEffect(EventHeld)(c.event("1", "line-1", 1, "lost", c.clock.Now()))
			c.clock.Advance(time.Hour)
			c.issue(c.request(policy.OpIssue, 2, c.phone(), false))
			c.vouch(2, "line-1", c.clock.Now())
			c.clock.Advance(time.Second)
			effect, locked := EventApplied, 2
			if how.then == "found" {
				effect, locked = EventNone, 1
			}
			c.wantsEffect(effect)(c.event("2", "line-1", 2, how.then, c.clock.Now()))
			_, err := c.DecideFlood(ctx, "operator", "carrier-a", noon.Truncate(time.Hour), undo, nil)
			must(t, err)
			must(t, c.carryOutFloods(ctx))
			if undo {
				c.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
			} else {
				c.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
			}
			for person := byte(1); person <= 2; person++ {
				r, _, err := get[SlotRecord](ctx, c.Ledger, TableSlots, slotKey(resident, policy.Pseudonym{person}))
				must(t, err)
				if r.Subject != (policy.Pseudonym{person}) {
					t.Errorf("the card of %d is written as that of %x", person, r.Subject[:1])
				}
			}
			if len(c.HeldCards()) > 0 {
				t.Errorf("%v are held", c.HeldCards())
			}
			c.clock.Advance(time.Minute)
			if _, err := c.event("3", "line-1", 3, "ported", c.clock.Now()); err != nil {
				t.Fatal(err)
			}
			if locks := c.locks(2); len(locks) != locked {
				t.Errorf("locks of 2: %v", locks)
			}
			c.check()
		})
	}
}

// What somebody who may lifted meanwhile stays lifted, however the flood is decided on.
func TestADecisionLocksNothing(t *testing.T) {
	for _, undo := range []bool{true, false} {
		t.Run(decisionName(undo), func(t *testing.T) {
			c := newCarrier(t, 1)
			c.fills()
			c.flooded(1, 2, 3)
			ctx, begin := context.Background(), noon.Truncate(time.Hour)
			report := func(person int, seq uint64, kind, effect string) {
				t.Helper()
				c.wantsEffect(effect)(c.event(fmt.Sprint(kind, person, seq), fmt.Sprint("line-", person), seq, kind, c.clock.Now()))
			}
			report(1, 1, "lost", EventHeld)
			report(2, 1, "lost", EventHeld)
			report(2, 2, "ported", EventHeld)
			report(3, 1, "ported", EventHeld)
			c.change("telecom-a", policy.OpUnlock, 1, "telecom_lost")
			c.change("telecom-a", policy.OpUnlock, 2, "telecom_lost")
			c.change("telecom-a", policy.OpUnlock, 3, "line_changed")
			_, err := c.DecideFlood(ctx, "operator", "carrier-a", begin, undo, nil)
			must(t, err)
			must(t, c.carryOutFloods(ctx))
			for _, person := range []byte{1, 3} {
				if c.wants(person, "mso_mdoc valid", "dc+sd-jwt valid"); len(c.locks(person)) > 0 {
					t.Errorf("locks of %d: %v", person, c.locks(person))
				}
			}
			if undo {
				if c.wants(2, "mso_mdoc valid", "dc+sd-jwt valid"); len(c.locks(2)) > 0 {
					t.Errorf("locks of 2: %v", c.locks(2))
				}
			} else if c.wants(2, "mso_mdoc revoked", "dc+sd-jwt suspended"); len(c.locks(2)) != 1 || c.locks(2)[0].Reason != "line_changed" {
				t.Errorf("locks of 2: %v", c.locks(2))
			}
			if len(c.HeldCards()) > 0 {
				t.Errorf("%v are held", c.HeldCards())
			}
			c.check()
			if !undo {
				return
			}
			// What was undone asks for nothing any more, also where it had been lifted before.
			c.clock.Advance(time.Hour)
			report(3, 2, "lost", EventApplied)
			report(3, 3, "found", EventApplied)
			if len(c.locks(3)) > 0 {
				t.Errorf("locks of 3: %v", c.locks(3))
			}
			c.check()
		})
	}
}
