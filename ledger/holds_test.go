package ledger

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sealkeeper/ledger/state"
	"sealkeeper/policy"
	"sealkeeper/tests/phone"
)

// hold places one, and waits until it is true of its lists.
func (w *town) hold(s Selection) *Execution {
	w.t.Helper()
	x := w.proposed("hold.mass")
	must(w.t, w.StartCampaign(context.Background(), CampaignRecord{Operation: CampaignHold, Selection: s, Reason: "a broken wallet", At: w.clock.Now()}, x))
	w.found(x.ID)
	return x
}

// On a full disk a hold comes true in the room that is kept for locks; cards that are revoked one by one leave that to single reports.
func TestHoldOnAFullDisk(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.commits.disk = &diskReserve{path: filepath.Join(t.TempDir(), "none", "reserve"), bytes: 1, log: slog.New(slog.DiscardHandler), spent: true}
	w.clock.Advance(time.Hour)
	cut := w.clock.Now()
	x := w.hold(Selection{DocumentType: resident, To: cut})
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt suspended")
	w.lift(x.ID)
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
	refused(t, w.PaceCampaign(t.Context(), "operator", w.revoking(cut), 7), "ledger.full")
}

// revoking begins a mass revocation.
func (w *town) revoking(cut time.Time) (id string) {
	w.t.Helper()
	x := w.proposed("revoke.mass")
	must(w.t, w.StartCampaign(context.Background(), CampaignRecord{Operation: CampaignRevoke, Selection: Selection{DocumentType: resident, To: cut}, Reason: "a broken wallet", PerSecond: 10, At: w.clock.Now()}, x))
	return x.ID
}

func (w *town) found(hold string) {
	w.t.Helper()
	for began := time.Now(); w.campaign(hold).Found.IsZero(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			w.t.Fatal("the hold finds no cards")
		}
	}
}

func (w *town) lift(hold string) {
	w.t.Helper()
	must(w.t, w.LiftHold(context.Background(), hold, 0, w.clock.Now(), w.proposed("hold.lift")))
}

// holdBefore places a hold as programs did before holds were terms of lists.
func (w *town) holdBefore(s Selection, perSecond int) *Execution {
	w.t.Helper()
	x := w.proposed("hold.mass")
	r := CampaignRecord{Operation: CampaignHold, Selection: s, Reason: "a broken wallet", PerSecond: perSecond, At: w.clock.Now(), By: x.By}
	leaf := Leaf{Kind: "campaign", Name: x.ID, Operation: r.Operation, State: "started", Reason: r.Reason, Count: uint64(perSecond)}
	must(w.t, w.execute(context.Background(), x, leaf, []Row{{Table: TableCampaigns, Key: []byte(x.ID), Value: encode(r)}}, func(uint64) { w.begun(x.ID, r) }))
	return x
}

func (w *town) advance(seconds int) {
	w.t.Helper()
	for range seconds {
		w.clock.Advance(time.Second)
		must(w.t, w.step(context.Background(), w.clock.Now()))
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
		status := image(list)[c.Index/per] >> (c.Index % per * uint64(list.Facts.Bits)) & byte(1<<list.Facts.Bits-1)
		if c.Format == policy.MDoc {
			mso = append(mso, status)
		} else {
			sdjwt = append(sdjwt, status)
		}
	}
	return sdjwt, mso
}

// A hold is true of its cards and their lists with the commit that places it, and of nothing with the one that lifts it: what was approved before is refused,
// the holder's state shows it, nothing of the kind is issued. Each list of SD-JWT VCs is signed once for it and once for its lift, no MSO is touched, no card's row
// is written, and afterwards each card is what it is without it.
func TestHold(t *testing.T) {
	w := newTown(t)
	one, two, other := w.phone(), w.phone(), w.phone()
	w.issue(w.request(policy.OpIssue, 1, one, false))
	w.issue(w.request(policy.OpIssue, 2, two, false))
	w.clock.Advance(45 * 24 * time.Hour)
	cut := w.clock.Now()
	again, anew := w.request(policy.OpRefresh, 1, one, false), w.request(policy.OpIssue, 3, other, false)
	a, b := w.approve(again), w.approve(anew)
	w.publishAll()
	cards := rowsOf(t, w, TableSlots)
	x := w.hold(Selection{DocumentType: resident})
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
	if got := says(); !slices.Equal(got, at) {
		t.Errorf("%q", got)
	}
	if !maps.Equal(rowsOf(t, w, TableSlots), cards) {
		t.Error("a card's row was written")
	}
	signed := map[string]int{}
	sign := func(want map[policy.Format]int) {
		t.Helper()
		for _, id := range w.Lists() {
			s, err := w.List(id)
			must(t, err)
			n := 0
			for h, _ := w.ListHead(id); !h.Dirty.IsZero(); h, _ = w.ListHead(id) {
				if !h.Urgent {
					t.Errorf("list %s waits", id)
				}
				r, _ := w.list(id)
				_, _, err := w.Settle(t.Context(), r, settlement(r, "token"))
				must(t, err)
				n++
			}
			if signed[id] += n; n != want[s.Facts.Format] {
				t.Errorf("a list of %s was signed %d times", s.Facts.Format, n)
			}
		}
	}
	sign(map[policy.Format]int{policy.SDJWT: 1})
	if sdjwt, mso := w.inLists(policy.Pseudonym{1}); sdjwt[0] != state.Suspended || mso[0] != state.Valid {
		t.Fatalf("%v %v", sdjwt, mso)
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

	if !w.change("loss-desk", policy.OpLock, 2, "self_lost").Changed { // a lock of its own, under the hold
		t.Error("the card was not locked")
	}
	for _, p := range []byte{1, 2} {
		if sdjwt, _ := w.inLists(policy.Pseudonym{p}); sdjwt[0] != state.Suspended {
			t.Errorf("card %d: %v", p, sdjwt)
		}
	}
	if c := w.campaign(x.ID); c.Hold == nil || !c.Hold.Whole || c.Hold.Lists != 2 || c.Found.IsZero() || !c.Done.IsZero() || c.Total() != 0 {
		t.Errorf("%+v", c)
	}
	refused(t, w.PaceCampaign(t.Context(), "operator", x.ID, 5), "campaign.at_once")
	w.publishAll()
	w.check()
	d, _ = w.drafts(again, a, nil)
	_, err = w.Reserve(t.Context(), a, d, &again.call)
	refused(t, err, "card.held")
	refused(t, w.LiftHold(t.Context(), "nobody's", 0, w.clock.Now(), w.proposed("hold.lift")), "campaign.unknown")

	// A second one, over what was issued before the cut: lifting the first lifts only that.
	y := w.hold(Selection{DocumentType: resident, To: cut})
	if _, held := w.HoldsNew(resident, w.clock.Now()); !held {
		t.Error("the first hold does not hold any more")
	}
	if c := w.campaign(y.ID); c.Hold == nil || c.Hold.Whole || c.Hold.Lists != 2 || c.Hold.Cards != 2 || c.Hold.Credentials != 3 { // one MSO was revoked
		t.Errorf("%+v %+v", c, c.Hold)
	}
	lift := w.proposed("hold.lift")
	must(t, w.LiftHold(t.Context(), x.ID, 0, w.clock.Now(), lift))
	refused(t, w.LiftHold(t.Context(), x.ID, 0, w.clock.Now(), lift), "campaign.done")
	if c := w.campaign(x.ID); c.Done.IsZero() || c.Lifted.IsZero() {
		t.Errorf("%+v", c)
	}
	w.issue(anew) // what is made now is none of the second's
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt suspended")
	w.wants(3, "mso_mdoc valid", "dc+sd-jwt valid")
	w.again()
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt suspended")
	sign(map[policy.Format]int{policy.SDJWT: 1}) // placed and lifted meanwhile: once
	w.lift(y.ID)
	sign(map[policy.Format]int{policy.SDJWT: 1})
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
	w.wants(2, "mso_mdoc revoked", "dc+sd-jwt suspended") // its own lock stays
	w.wants(3, "mso_mdoc valid", "dc+sd-jwt valid")
	w.issue(w.request(policy.OpRefresh, 1, one, false))
	w.publishAll()
	w.check()
	w.again()
	w.check()
}

func rowsOf(t *testing.T, w *town, table Table) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	must(t, scan(t.Context(), w.store, table, nil, func(e Entry) error { all[string(e.Key)] = e.Revision; return nil }))
	return all
}

// A hold that was placed before holds were terms of lists goes on as it began: whatever dies in the middle, of holding and of lifting, each card of its selection
// is held once and released once, and no other is.
func TestHoldOfBefore(t *testing.T) {
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
	x := w.holdBefore(Selection{DocumentType: resident, To: cut}, 7)
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
			if err := w.step(ctx, w.clock.Now()); err != nil && ctx.Err() == nil {
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
	y := w.holdBefore(Selection{DocumentType: resident, To: cut}, 9)
	w.advance(2)
	must(t, w.LiftHold(t.Context(), y.ID, 100, w.clock.Now(), w.proposed("hold.lift")))
	w.advance(3)
	if c, n := w.campaign(y.ID), shows(state.Valid); n != cards+5 || c.Done.IsZero() || c.Total() >= cards || c.Cards[CardReleased] != c.Total() {
		t.Errorf("%d cards are valid: %+v", n, c)
	}
	w.check()
}

// A hold that died while it looked for its cards begins anew: what it wrote before is true of nothing, and is written over. One that is lifted meanwhile is true
// of nothing at any time. One that a restored ledger has is laid over its lists again; what was locked under it in the lost part can't be seen there, and
// where an MSO shows it the card is locked.
func TestHoldDiesInTheMiddle(t *testing.T) {
	w := newTown(t)
	w.key("sd2", policy.PurposeSDJWT)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.signer = "sd2"
	w.issue(w.request(policy.OpIssue, 2, w.phone(), false))
	w.publishAll()
	two, _, err := w.slot(t.Context(), slotKey(resident, policy.Pseudonym{2}))
	must(t, err)
	list := two.Credentials[1].List

	dying := func() *Execution {
		t.Helper()
		x := w.proposed("hold.mass")
		r := CampaignRecord{Operation: CampaignHold, Selection: Selection{Key: "sd2"}, At: w.clock.Now(), By: x.By, Term: true}
		must(t, w.execute(t.Context(), x, Leaf{Kind: "campaign", Name: x.ID, Operation: CampaignHold, State: "started"}, []Row{{Table: TableCampaigns, Key: []byte(x.ID), Value: encode(r)}}, func(uint64) { w.begun(x.ID, r) }))
		wrong, err := packed(bytes.Repeat([]byte{0xff}, 128))
		must(t, err)
		_, err = w.Ledger.commit(t.Context(), Leaf{Kind: "hold-masks", At: w.clock.Now(), Name: x.ID}, []Row{{Table: TableMasks, Key: maskKey(x.ID, list), Value: encode(wrong)}}, false, nil)
		must(t, err)
		return x
	}
	x := dying()
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
	q := w.request(policy.OpRefresh, 2, w.phone(), false)
	if _, d := w.decide(q, w.slotOf(2), false); d.Code != "card.held" {
		t.Errorf("%+v", d)
	}
	w.again()
	w.found(x.ID)
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
	w.wants(2, "mso_mdoc valid", "dc+sd-jwt suspended")
	if h := w.campaign(x.ID).Hold; h.Cards != 1 || h.Credentials != 2 || h.Lists != 2 || h.Whole {
		t.Errorf("%+v", h)
	}
	y := dying()
	w.lift(y.ID)
	w.again()
	if c := w.campaign(y.ID); c.Hold != nil || c.Done.IsZero() {
		t.Errorf("%+v", c)
	}
	w.publishAll()
	w.check()

	restore := w.backup()
	w.clock.Advance(time.Hour)
	w.change("telecom-a", policy.OpLock, 2, "telecom_lost")
	z := w.hold(Selection{DocumentType: resident})
	w.publishAll()
	shown := w.shown()
	restore()
	w.fenced()
	d, err := w.Difference(t.Context(), shown)
	must(t, err)
	if d.Holds != 1 || d.Cards != (CardCounts{Locked: 2}) {
		t.Errorf("the difference is %+v", d)
	}
	_, err = w.Lift(t.Context(), shown, nil, nil)
	must(t, err)
	w.lift(x.ID)
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended") // of a hold that nobody here knows: a lock as any that was published
	w.wants(2, "mso_mdoc revoked", "dc+sd-jwt suspended")
	for _, p := range []byte{1, 2} {
		if got := w.slot1(p).Locks; !slices.Equal(got, []policy.Lock{policy.Restored}) {
			t.Errorf("person %d has locks %v", p, got)
		}
	}
	for _, c := range w.Campaigns() {
		if c.ID == z.ID {
			t.Error("the lost hold is there")
		}
	}
	w.publishAll()
	w.again()
	w.check()
}

// What a search found before it died is true of nothing, also in lists in which the next one finds nothing; and masks that are not those that the journal
// has are not taken for them.
func TestHoldForgetsWhatDied(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.publishAll()
	x := w.proposed("hold.mass")
	r := CampaignRecord{Operation: CampaignHold, Selection: Selection{Key: "ds"}, At: w.clock.Now(), By: x.By, Term: true}
	must(t, w.execute(t.Context(), x, Leaf{Kind: "campaign", Name: x.ID, Operation: CampaignHold, State: "started"}, []Row{{Table: TableCampaigns, Key: []byte(x.ID), Value: encode(r)}}, func(uint64) { w.begun(x.ID, r) }))
	m, err := w.find(t.Context(), w.campaign(x.ID))
	must(t, err)
	rows, _, err := m.rows(x.ID)
	must(t, err)
	if len(rows) != 2 {
		t.Fatalf("it found %d lists", len(rows))
	}
	_, err = w.Ledger.commit(t.Context(), Leaf{Kind: "hold-masks", At: w.clock.Now(), Name: x.ID}, rows, false, nil) // and the process dies
	must(t, err)
	w.change("telecom-a", policy.OpLock, 1, "telecom_lost") // its MSO is revoked: the key has signed nothing of it that is live
	w.again()
	w.found(x.ID)
	w.change("telecom-a", policy.OpUnlock, 1, "telecom_lost")
	if h := w.campaign(x.ID).Hold; h.Cards != 0 || h.Lists != 0 {
		t.Errorf("%+v", h)
	}
	for range 2 {
		w.wants(1, "mso_mdoc revoked", "dc+sd-jwt valid")
		if n := len(rowsOf(t, w, TableMasks)); n != 0 {
			t.Errorf("%d masks are left", n)
		}
		w.publishAll()
		w.check()
		w.again()
	}
	rows[1].If = Any
	_, err = w.Ledger.commit(t.Context(), Leaf{Kind: "hold-masks", At: w.clock.Now(), Name: x.ID}, rows[1:], false, nil)
	must(t, err)
	must(t, w.Close())
	if l, err := Open(t.Context(), w.o); err == nil || !strings.Contains(err.Error(), "has other masks there, of 1 lists") {
		t.Errorf("masks that nobody placed are true: %v", err)
		if l != nil {
			l.Close()
		}
	}
}

// A card that was read is of its hold until the lift, although its only credential of the key ends meanwhile; one that was locked before is not
// (TestHoldForgetsWhatDied), and gets nothing of that key none the less.
func TestHoldByTheKeyOfRevokedMSOs(t *testing.T) {
	w := newTown(t)
	p, q := w.phone(), w.phone()
	w.issue(w.request(policy.OpIssue, 1, p, false))
	w.issue(w.request(policy.OpIssue, 2, q, false))
	toggle := func(person byte) {
		w.change("telecom-a", policy.OpLock, person, "telecom_lost")
		w.change("telecom-a", policy.OpUnlock, person, "telecom_lost")
	}
	toggle(2)
	w.clock.Advance(time.Second)
	x := w.hold(Selection{Key: "ds"})
	toggle(1)
	for range 2 {
		w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
		w.wants(2, "mso_mdoc revoked", "dc+sd-jwt valid")
		_, _, err := w.tryReserve(w.request(policy.OpRefresh, 2, q, false))
		refused(t, err, "card.held")
		w.publishAll()
		w.again()
	}
	w.lift(x.ID)
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt valid")
	w.publishAll()
	w.check()
}

// A ledger of before holds were terms of lists gets their tables when it is opened, and a hold that stood goes on beside a new one.
func TestHoldsComeToAnOlderLedger(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.clock.Advance(time.Second)
	x := w.holdBefore(Selection{DocumentType: resident}, 10)
	w.advance(1)
	w.publishAll()
	w.older(4, "DROP TABLE holds", "DROP TABLE masks")
	w.again()
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt suspended")
	y := w.hold(Selection{DocumentType: resident})
	w.lift(x.ID)
	w.advance(3)
	if c := w.campaign(x.ID); c.Done.IsZero() || c.Cards[CardReleased] != 1 {
		t.Errorf("%+v", c)
	}
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt suspended")
	w.publishAll()
	w.again()
	w.lift(y.ID)
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
	w.publishAll()
	w.check()
}

// oracle is what is held, counted the naive way: for each hold the credentials of the cards that it selected, one by one.
type oracle struct {
	w     *town
	holds []*heldSet
	past  []pastImage
}

type heldSet struct {
	id     string
	of     Selection
	at     time.Time
	cards  map[policy.Pseudonym]bool
	places map[state.Place]bool
	lists  []string // that there were
	ended  bool
}

type pastImage struct {
	list    ListRecord
	through uint64
	image   []byte
}

// place notes what a hold is about, before it is placed.
func (o *oracle) place(s Selection) *heldSet {
	h := &heldSet{of: s, at: o.w.clock.Now(), lists: o.w.Lists(), cards: map[policy.Pseudonym]bool{}, places: map[state.Place]bool{}}
	reservations := map[string]ReservationRecord{}
	must(o.w.t, o.w.Audit().Reservations(context.Background(), func(_ uint64, r ReservationRecord) error { reservations[r.ID] = r; return nil }))
	must(o.w.t, o.w.Audit().Slots(context.Background(), func(_ []byte, _ uint64, r SlotRecord) error {
		live := func(c state.Credential) bool {
			return (c.Phase == state.Reserved || c.Phase == state.Signed || c.Phase == state.Active) && !h.at.After(c.NotAfter)
		}
		for _, c := range r.State.Credentials {
			res := reservations[c.Reservation]
			for _, it := range res.Items {
				if it.List == c.List && it.Index == c.Index && live(c) && r.DocumentType == s.DocumentType && (s.Key == "" || it.KeyID == s.Key) &&
					!res.At.Before(s.From) && (s.To.IsZero() || res.At.Before(s.To)) {
					h.cards[r.Subject] = true
				}
			}
		}
		for _, c := range r.State.Credentials {
			if h.cards[r.Subject] && live(c) {
				h.places[state.Place{List: c.List, Index: c.Index}] = true
			}
		}
		return nil
	}))
	return h
}

// compare holds every list against its changes and what is held.
func (o *oracle) compare(fatal func(string, ...any)) {
	own := map[state.Place]byte{}
	type at struct {
		seq uint64
		state.Place
		to byte
	}
	var all []at
	must(o.w.t, o.w.Audit().Changes(context.Background(), func(seq uint64, list string, r ChangeRecord) error {
		all = append(all, at{seq, state.Place{List: list, Index: r.Index}, r.To})
		return nil
	}))
	slices.SortStableFunc(all, func(a, b at) int { return cmp.Compare(a.seq, b.seq) })
	for _, c := range all {
		own[c.Place] = c.to
	}
	for _, id := range o.w.Lists() {
		s, err := o.w.List(id)
		must(o.w.t, err)
		shown, per := image(s), uint64(8/s.Facts.Bits)
		for i := range uint64(len(shown)) * per {
			p := state.Place{List: id, Index: i}
			want := own[p]
			for _, h := range o.holds {
				// who was given nothing is held by a hold of everything, which nobody can tell
				if !h.ended && s.Facts.Format == policy.SDJWT && want != state.Invalid && (h.places[p] || h.of.whole() && slices.Contains(h.lists, id)) {
					want = state.Suspended
				}
			}
			if got := shown[i/per] >> (i % per * uint64(s.Facts.Bits)) & byte(1<<s.Facts.Bits-1); got != want {
				fatal("index %d of list %s (%s) shows %d, want %d", i, id, s.Facts.Format, got, want)
			}
		}
		o.w.mu.RLock()
		if li := o.w.lists[id]; li.version.Token != nil {
			o.past = append(o.past, pastImage{li.row, li.version.Through, li.upTo(li.version.Through)})
		}
		o.w.mu.RUnlock()
	}
	for range min(2, len(o.past)) { // also of what was lifted since
		p := o.past[rand.IntN(len(o.past))]
		again, err := o.w.Audit().Image(context.Background(), p.list, p.through)
		if err != nil || !bytes.Equal(again, p.image) {
			fatal("the image of list %s after entry %d is another one now: %v", p.list.ID, p.through, err)
		}
	}
}

// Under any history of issues, locks, revocations, holds, lifts, restarts and time, every list shows each card's own status, and suspends besides exactly what the
// holds that stand selected; who is held is refused, and who is not is not.
func TestHoldsUnderAnyHistory(t *testing.T) {
	const people = 5
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue { // each is a ledger of its own, with real commits
		must(t, checks.Value.Set("24"))
		defer func() { must(t, checks.Value.Set(checks.DefValue)) }()
	}
	var found, empty int
	first := newTown(t)
	must(t, first.Close())
	rapid.Check(t, func(rt *rapid.T) {
		w := &town{house: newHouse(t), bundle: first.bundle, provider: first.provider, verifier: first.verifier}
		defer func() { must(t, w.Close()) }()
		w.o.HighWater = ""
		again := func() { // what is asked is not whether the disk keeps its word
			w.again()
			err := w.store.(*sqlite).between(context.Background(), "PRAGMA synchronous=OFF")
			must(t, err)
		}
		again()
		for id, p := range map[string]policy.Purpose{"list": policy.PurposeList, "ds": policy.PurposeMDoc, "sd": policy.PurposeSDJWT, "sd2": policy.PurposeSDJWT} {
			w.key(id, p)
		}
		o := &oracle{w: w}
		phones := map[byte]*phone.Phone{}
		fatal := func(format string, args ...any) { rt.Helper(); rt.Fatalf(format, args...) }
		for person := byte(1); person <= 3; person++ {
			phones[person] = w.phone()
			w.issue(w.request(policy.OpIssue, person, phones[person], false))
		}
		for range rapid.IntRange(6, 20).Draw(rt, "steps") {
			person := byte(rapid.IntRange(1, people).Draw(rt, "person"))
			who := policy.Pseudonym{person}
			slot := w.slotOf(person)
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0, 1, 2: // a card, or a refresh
				w.signer = rapid.SampledFrom([]string{"sd", "sd2"}).Draw(rt, "signer")
				op := policy.OpRefresh
				if !slot.Bound {
					phones[person], op = w.phone(), policy.OpIssue
				}
				q := w.request(op, person, phones[person], false)
				held := slices.ContainsFunc(o.holds, func(h *heldSet) bool {
					s, _, err := w.slot(context.Background(), slotKey(resident, who))
					must(t, err)
					is := h.cards[who] && slices.ContainsFunc(s.Credentials, func(c state.Credential) bool {
						return c.Live() && !w.clock.Now().After(c.NotAfter) && h.places[state.Place{List: c.List, Index: c.Index}]
					})
					new := (h.of.Key == "" || h.of.Key == w.signer || h.of.Key == "ds") && !w.clock.Now().Before(h.of.From) && (h.of.To.IsZero() || w.clock.Now().Before(h.of.To))
					return !h.ended && (is || new)
				})
				a, d := w.decide(q, slot, false)
				if a == nil {
					if d.Code == "card.held" && !held {
						fatal("%d is refused, and not held", person)
					}
					continue
				}
				drafts, tbs := w.drafts(q, a, nil)
				r, err := w.Reserve(context.Background(), a, drafts, &q.call)
				if held {
					refused(t, err, "card.held")
					continue
				}
				must(t, err)
				if rapid.IntRange(0, 5).Draw(rt, "unfinished") > 0 {
					w.settle(r, tbs, "a card")
				}
			case 3:
				for _, op := range []policy.Operation{policy.OpLock, policy.OpUnlock} {
					if slot.Bound && rapid.Bool().Draw(rt, string(op)) {
						w.change("telecom-a", op, person, "telecom_lost")
					}
				}
			case 4:
				if slot.Bound {
					w.change("loss-desk", policy.OpRevoke, person, "user_request")
				}
			case 5, 6: // a hold, or a lift
				standing := slices.DeleteFunc(slices.Clone(o.holds), func(h *heldSet) bool { return h.ended })
				if len(standing) >= 3 || len(standing) > 0 && rapid.Bool().Draw(rt, "lift") {
					h := rapid.SampledFrom(standing).Draw(rt, "which")
					w.lift(h.id)
					h.ended = true
					continue
				}
				s := Selection{DocumentType: resident, Key: rapid.SampledFrom([]string{"", "", "sd", "sd2", "ds"}).Draw(rt, "key")}
				if rapid.IntRange(0, 3).Draw(rt, "from") == 0 {
					s.From = w.clock.Now().Add(-time.Duration(rapid.SampledFrom([]int{0, 1, 25, 1000}).Draw(rt, "from hours")) * time.Hour)
				}
				if rapid.IntRange(0, 3).Draw(rt, "to") == 0 {
					s.To = w.clock.Now().Add(time.Duration(rapid.SampledFrom([]int{1, 0, -1, -30}).Draw(rt, "to hours")) * time.Hour)
				}
				h := o.place(s)
				x := w.proposed("hold.mass")
				must(t, w.StartCampaign(context.Background(), CampaignRecord{Operation: CampaignHold, Selection: s, Reason: "any", At: h.at}, x))
				if rapid.Bool().Draw(rt, "dies") {
					again()
				}
				h.id = x.ID
				w.found(h.id)
				o.holds = append(o.holds, h)
				if len(h.places) > 0 {
					found++
				} else {
					empty++
				}
			case 7:
				again()
			case 8:
				w.publishAll()
			default:
				w.clock.Advance(time.Duration(rapid.SampledFrom([]int{1, 60, 24 * 60, 40 * 24 * 60}).Draw(rt, "minutes")) * time.Minute)
			}
			o.compare(fatal)
			if t.Failed() {
				rt.FailNow()
			}
		}
		for _, h := range o.holds {
			if !h.ended {
				w.lift(h.id)
				h.ended = true
			}
		}
		o.compare(fatal)
		w.publishAll()
		again()
		w.check()
	})
	if found < 10 {
		t.Errorf("of %d holds %d were about a card", found+empty, found)
	}
}
