package ledger

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

func (w *town) hold(s Selection, perSecond int) *Execution {
	w.t.Helper()
	x := w.proposed("hold.mass")
	must(w.t, w.StartCampaign(context.Background(), CampaignRecord{Operation: CampaignHold, Selection: s, Reason: "a broken wallet", PerSecond: perSecond, At: w.clock.Now()}, x))
	return x
}

func (w *town) advance(seconds int) {
	w.t.Helper()
	for range seconds {
		w.clock.Advance(time.Second)
		must(w.t, w.AdvanceCampaigns(context.Background(), w.clock.Now()))
	}
}

// inLists is what a card's SD-JWT VCs and MSOs show in their lists' next versions.
func (w *town) inLists(p policy.Pseudonym) (sdjwt, mso []byte) {
	w.t.Helper()
	s, _, err := w.slot(context.Background(), slotKey(resident, p))
	must(w.t, err)
	for _, c := range s.Credentials {
		list, err := w.List(c.List)
		must(w.t, err)
		per := uint64(8 / list.Facts.Bits)
		status := list.Facts.Next[c.Index/per] >> (c.Index % per * uint64(list.Facts.Bits)) & byte(1<<list.Facts.Bits-1)
		if c.Format == policy.MDoc {
			mso = append(mso, status)
		} else {
			sdjwt = append(sdjwt, status)
		}
	}
	return sdjwt, mso
}

// A hold is true of its cards the moment that it is durable, whatever has come to their rows: what was approved before is refused, the holder's state shows it,
// nothing of the kind is issued. Its lists follow, no MSO is touched, and when it is lifted each card is what it is without it.
func TestHold(t *testing.T) {
	w := newTown(t)
	one, two, other := w.phone(), w.phone(), w.phone()
	w.issue(w.request(policy.OpIssue, 1, one, false))
	w.issue(w.request(policy.OpIssue, 2, two, false))
	w.clock.Advance(45 * 24 * time.Hour)
	cut := w.clock.Now()
	again, anew := w.request(policy.OpRefresh, 1, one, false), w.request(policy.OpIssue, 3, other, false)
	a, b := w.approve(again), w.approve(anew)
	x := w.hold(Selection{DocumentType: resident}, 10)
	refused(t, w.StartCampaign(t.Context(), CampaignRecord{Operation: CampaignHold}, x), "proposal.executed")

	d, _ := w.drafts(again, a, nil)
	_, err := w.Reserve(t.Context(), a, d, &again.call)
	refused(t, err, "card.held")
	d, _ = w.drafts(anew, b, nil)
	_, err = w.Reserve(t.Context(), b, d, &anew.call)
	refused(t, err, "card.held")
	says := func() (all []string) {
		s, err := w.Subject(t.Context(), resident, policy.Pseudonym{1})
		must(t, err)
		for _, c := range s.Credentials() {
			all = append(all, string(c.Format)+" "+c.Status)
		}
		return all
	}
	at := []string{"mso_mdoc valid", "dc+sd-jwt suspended"}
	if got := says(); !slices.Equal(got, at) { // before any row of it was written
		t.Errorf("%q", got)
	}
	if sdjwt, _ := w.inLists(policy.Pseudonym{1}); sdjwt[0] != state.Valid {
		t.Fatalf("%v", sdjwt)
	}
	s, err := w.Subject(t.Context(), resident, policy.Pseudonym{1})
	must(t, err)
	if _, d := w.decide(again, s.Slot(), false); d.Code != "card.held" {
		t.Errorf("%+v", d)
	}
	if lock, held := w.HoldsNew(resident, w.clock.Now()); !held || lock.By != x.ID {
		t.Errorf("%+v", lock)
	}
	w.again()
	if got := says(); !slices.Equal(got, at) {
		t.Errorf("%q", got)
	}

	if !w.change("loss-desk", policy.OpLock, 2, "self_lost").Changed { // a lock of its own, before the hold came to the card
		t.Error("the card was not locked")
	}
	w.advance(2)
	for _, p := range []byte{1, 2} {
		if sdjwt, _ := w.inLists(policy.Pseudonym{p}); sdjwt[0] != state.Suspended {
			t.Errorf("card %d: %v", p, sdjwt)
		}
	}
	if _, mso := w.inLists(policy.Pseudonym{1}); mso[0] != state.Valid {
		t.Errorf("an MSO of a held card is %v", mso)
	}
	if c := w.campaign(x.ID); c.Cards[CardHeld] != 2 || c.Total() != 2 || c.Found.IsZero() || !c.Done.IsZero() {
		t.Errorf("%+v", c)
	}
	w.publishAll()
	w.check()
	d, _ = w.drafts(again, a, nil)
	if _, err = w.Reserve(t.Context(), a, d, &again.call); err != ErrConflict { // decided before the card changed
		t.Errorf("%v", err)
	}
	refused(t, w.LiftHold(t.Context(), "nobody's", 10, w.clock.Now(), w.proposed("hold.lift")), "campaign.unknown")

	// A second one, over what was issued before the cut: lifting the first lifts only that.
	y := w.hold(Selection{DocumentType: resident, To: cut}, 10)
	w.advance(2)
	if _, held := w.HoldsNew(resident, w.clock.Now()); !held {
		t.Error("the first hold does not hold any more")
	}
	lift := w.proposed("hold.lift")
	must(t, w.LiftHold(t.Context(), x.ID, 1, w.clock.Now(), lift))
	w.advance(1)
	refused(t, w.LiftHold(t.Context(), x.ID, 1, w.clock.Now(), w.proposed("hold.lift")), "campaign.done")
	w.advance(5)
	if c := w.campaign(x.ID); c.Cards[CardReleased] != 2 || c.Total() != 2 || c.Done.IsZero() {
		t.Errorf("%+v", c)
	}
	w.issue(anew) // what is made now is none of the second's
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt suspended")
	must(t, w.LiftHold(t.Context(), y.ID, 10, w.clock.Now(), w.proposed("hold.lift")))
	w.advance(3)
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
	w.wants(2, "mso_mdoc revoked", "dc+sd-jwt suspended") // its own lock stays
	w.wants(3, "mso_mdoc valid", "dc+sd-jwt valid")
	w.issue(w.request(policy.OpRefresh, 1, one, false))
	w.publishAll()
	w.check()
}

// Whatever dies in the middle, of holding and of lifting, each card of a selection is held once and released once, and no other is.
func TestHoldDiesInTheMiddle(t *testing.T) {
	rnd := rand.New(rand.NewPCG(20261129, 3))
	w := newTown(t)
	w.again() // the first list
	const cards = 40
	issue := func(i int) {
		q := w.request(policy.OpIssue, 1, w.phone(), false)
		q.person = numbered(i)
		w.issue(q)
	}
	for i := range cards {
		issue(i)
	}
	w.clock.Advance(time.Hour)
	cut := w.clock.Now()
	for i := cards; i < cards+5; i++ {
		issue(i)
	}
	w.clock.Advance(time.Second)
	x := w.hold(Selection{DocumentType: resident, To: cut}, 7)
	run := func(until func(Campaign) bool) {
		t.Helper()
		for round := 0; !until(w.campaign(x.ID)); round++ {
			if round > 400 {
				t.Fatalf("it does not end: %+v", w.campaign(x.ID))
			}
			w.clock.Advance(time.Second)
			ctx, cancel := context.WithCancel(t.Context())
			if rnd.IntN(3) == 0 {
				go func() { time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond); cancel() }()
			}
			if err := w.AdvanceCampaigns(ctx, w.clock.Now()); err != nil && ctx.Err() == nil {
				t.Fatal(err)
			}
			cancel()
			if rnd.IntN(4) == 0 {
				w.again()
			}
		}
	}
	shows := func(want byte) (n int) {
		for i := range cards + 5 {
			sdjwt, mso := w.inLists(numbered(i))
			if mso[0] != state.Valid {
				t.Errorf("an MSO of card %d is %v", i, mso)
			}
			if slices.Contains(sdjwt, want) {
				n++
			}
		}
		return n
	}
	run(func(c Campaign) bool { return !c.Found.IsZero() })
	if c, n := w.campaign(x.ID), shows(state.Suspended); n != cards || c.Cards[CardHeld] != cards || c.Total() != cards {
		t.Errorf("%d cards are suspended: %+v", n, c)
	}
	w.check()
	must(t, w.LiftHold(t.Context(), x.ID, 7, w.clock.Now(), w.proposed("hold.lift")))
	run(func(c Campaign) bool { return !c.Done.IsZero() })
	if c, n := w.campaign(x.ID), shows(state.Valid); n != cards+5 || c.Cards[CardReleased] != cards || c.Total() != cards {
		t.Errorf("%d cards are valid: %+v", n, c)
	}
	w.publishAll()
	w.check()

	// Lifted while it still looks for its cards: it looks for no more, and those that it held are free.
	y := w.hold(Selection{DocumentType: resident, To: cut}, 9)
	w.advance(2)
	must(t, w.LiftHold(t.Context(), y.ID, 100, w.clock.Now(), w.proposed("hold.lift")))
	w.advance(3)
	if c, n := w.campaign(y.ID), shows(state.Valid); n != cards+5 || c.Done.IsZero() || c.Total() >= cards || c.Cards[CardReleased] != c.Total() {
		t.Errorf("%d cards are valid: %+v", n, c)
	}
	w.check()
}
