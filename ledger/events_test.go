package ledger

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
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

func newCarrier(t *testing.T) *carrier {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return &carrier{newTown(t), key, evidence.NewVerifier(evidence.Trust{Skew: time.Minute, Authorities: []evidence.Authority{{ID: "carrier-a",
		Kinds: []string{evidence.KindLineEvent}, Keys: []evidence.AuthorityKey{{ID: "k", Public: &key.PublicKey, NotBefore: noon.Add(-time.Hour)}}}}})}
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
	s := testSecrets()
	rows, delivered, err := c.Ledger.link(ctx, &s, policy.Issue{DocumentType: resident, Subject: policy.Pseudonym{person},
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
		if err != nil || r.Effect != effect || r.Changed != (effect == EventApplied) {
			c.t.Errorf("%+v, %v: want %s", r, err, effect)
		}
		return r
	}
}

func TestEventsOfALine(t *testing.T) {
	c := newCarrier(t)
	c.issue(c.request(policy.OpIssue, 1, c.phone(), false))
	c.vouch(1, "line-1", noon)
	lost := c.wantsEffect(EventApplied)(c.event("1", "line-1", 1, "lost", noon.Add(time.Second)))
	if !slices.Equal(c.locks(1), []policy.Lock{{Reason: "telecom_lost", Class: "telecom"}}) || len(lost.Lists) == 0 {
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

func TestReportsOfUnknownLinesWait(t *testing.T) {
	c := newCarrier(t)
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
	must(t, c.Ledger.sweep(context.Background()))
	if c.Ledger.letters.Load() != 0 {
		t.Errorf("%d letters after their time", c.Ledger.letters.Load())
	}
	c.check()
}
