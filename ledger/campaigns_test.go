package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sealkeeper/internal/clock"
	"sealkeeper/policy"
	"sealkeeper/tests/phone"
)

// proposed keeps a proposal that officers are taken to have approved, and is its execution.
func (w *town) proposed(action string) *Execution {
	w.t.Helper()
	w.requests++
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(fmt.Sprint(action, w.requests, w.clock.Now()))))
	must(w.t, w.Said(context.Background(), w.clock.Now(), ProposalEntry{ID: id, ProposalRecord: ProposalRecord{Action: action, State: ProposalOpen, At: w.clock.Now(), Expires: w.clock.Now().Add(time.Hour)}}, "proposal", "kim"))
	return &Execution{ID: id, Action: action, By: []string{"kim", "lee"}}
}

func (w *town) campaign(id string) Campaign {
	w.t.Helper()
	for _, c := range w.Campaigns() {
		if c.ID == id {
			return c
		}
	}
	w.t.Fatalf("campaign %s is gone", id)
	return Campaign{}
}

func numbered(i int) (p policy.Pseudonym) {
	binary.BigEndian.PutUint64(p[:], uint64(i+1))
	return p
}

// Every card of a selection is marked once and accounted for exactly, whatever dies, rests or changes meanwhile, and the campaign ends when none waits.
// SEAL_CAMPAIGN_CARDS sets how many there are.
func TestCampaignAccountsForEveryCard(t *testing.T) {
	cards := 60
	if n, err := strconv.Atoi(os.Getenv("SEAL_CAMPAIGN_CARDS")); err == nil && n > 0 {
		cards = n
	}
	seed := uint64(20261129)
	if n, err := strconv.ParseUint(os.Getenv("SEAL_CAMPAIGN_SEED"), 10, 64); err == nil {
		seed = n
	}
	rnd := rand.New(rand.NewPCG(seed, 2))
	w := newTown(t)
	w.again() // the first list
	type holder struct {
		phone                          *phone.Phone
		locked, gone, waiting, renewed bool
	}
	everybody := make([]holder, cards)
	request := func(op policy.Operation, i int, replace bool) *request {
		q := w.request(op, 1, everybody[i].phone, replace)
		q.person = numbered(i)
		return q
	}
	change := func(op policy.Operation, i int, reason string) {
		t.Helper()
		s, err := w.Subject(t.Context(), resident, numbered(i))
		must(t, err)
		a, d := w.bundle.DecideChange(policy.ChangeRequest{Client: "loss-desk", Operation: op, DocumentType: resident, Subject: numbered(i), Reason: reason}, s.Slot(), w.clock.Now())
		if a == nil {
			t.Fatalf("refused: %s %s", d.Code, d.Detail)
		}
		_, err = w.Change(t.Context(), a)
		must(t, err)
	}
	want := 0
	for i := range everybody {
		h := &everybody[i]
		h.phone = w.phone()
		if rnd.IntN(8) == 0 { // its answer never came: what was reserved may have been signed
			w.reserve(request(policy.OpIssue, i, false))
		} else {
			w.issue(request(policy.OpIssue, i, false))
			switch rnd.IntN(8) {
			case 0:
				change(policy.OpRevoke, i, "user_request")
				h.gone = true
			case 1: // its MSO is revoked by the lock, its SD-JWT VC suspended
				change(policy.OpLock, i, "self_lost")
				h.locked = true
			}
		}
		if !h.gone {
			want++
			h.waiting = !h.locked
		}
	}
	w.clock.Advance(time.Second)
	if n, _, err := w.CountSelected(t.Context(), Selection{DocumentType: resident}, w.clock.Now()); err != nil || n != want {
		t.Fatalf("%d cards are counted before, %d are there: %v", n, want, err)
	}
	x := w.proposed("reissue.mass")
	must(t, w.StartCampaign(t.Context(), CampaignRecord{Operation: CampaignReissue, Selection: Selection{DocumentType: resident}, Reason: "a drill", PerSecond: max(7, cards/20), At: w.clock.Now()}, x))
	refused(t, w.StartCampaign(t.Context(), CampaignRecord{Operation: CampaignReissue}, x), "proposal.executed")
	left := want
	for round := 0; w.campaign(x.ID).Done.IsZero(); round++ {
		if round > 4000 {
			t.Fatalf("it does not end: %+v", w.campaign(x.ID))
		}
		w.clock.Advance(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		if rnd.IntN(4) == 0 { // it dies in the middle
			go func() { time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond); cancel() }()
		}
		err := w.step(ctx, w.clock.Now())
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		cancel()
		if !w.campaign(x.ID).Done.IsZero() {
			break
		}
		switch rnd.IntN(12) {
		case 0:
			w.again()
		case 1: // it rests, and is asked to go on
			must(t, w.PaceCampaign(t.Context(), "operator", x.ID, 0))
			before := w.campaign(x.ID)
			w.again()
			w.clock.Advance(time.Second)
			must(t, w.step(t.Context(), w.clock.Now()))
			if after := w.campaign(x.ID); after.Total() != before.Total() {
				t.Fatalf("it rests, and marks cards: %+v", after)
			}
			must(t, w.PaceCampaign(t.Context(), "operator", x.ID, max(11, cards/10)))
		}
		if c := w.campaign(x.ID); c.Total() > want {
			t.Fatalf("%d cards of %d", c.Total(), want)
		}
		for range max(2, cards/20) { // some phones come, and some holders do something else
			i := rnd.IntN(cards)
			if left < cards/10+2 { // the last ones are looked for
				for j := range everybody {
					if everybody[j].waiting && !everybody[j].renewed {
						i = j
						break
					}
				}
			}
			h := &everybody[i]
			if !h.waiting || h.renewed {
				continue
			}
			s, err := w.Subject(t.Context(), resident, numbered(i))
			must(t, err)
			if len(s.Slot().Renew) == 0 {
				continue // not marked yet
			}
			switch rnd.IntN(6) {
			case 0:
				change(policy.OpRevoke, i, "user_request")
			case 1:
				h.phone = w.phone()
				w.issue(request(policy.OpIssue, i, true))
			default:
				w.issue(request(policy.OpRefresh, i, false))
			}
			h.renewed, left = true, left-1
		}
	}
	c := w.campaign(x.ID)
	locked := 0
	for _, h := range everybody {
		if h.locked {
			locked++
		}
	}
	if c.Total() != want || c.Cards[CardWaiting] != 0 || c.Cards[CardLocked] != locked || c.Cards[CardReissued]+c.Cards[CardEnded] != want-locked || c.Cards[CardFailed] != 0 || c.First.IsZero() {
		t.Errorf("seed %d: %d cards, %d of them locked, and it says %+v", seed, want, locked, c)
	}
	rows := map[string]int{}
	must(t, w.Audit().CampaignCards(t.Context(), func(_ string, r CardRecord) error { rows[r.State]++; return nil }))
	if fmt.Sprint(rows) != fmt.Sprint(c.Cards) {
		t.Errorf("rows %v, counted %v", rows, c.Cards)
	}
	refused(t, w.PaceCampaign(t.Context(), "operator", x.ID, 5), "campaign.done")
	refused(t, w.PaceCampaign(t.Context(), "operator", "nobody's", 5), "campaign.unknown")
	t.Logf("%d cards: %v", want, c.Cards)
	w.check()
}

// A card whose new credentials were given up is marked again; one that expires waits for nobody.
func TestCampaignDoesNotLetGo(t *testing.T) {
	w := newTown(t)
	p := w.phone()
	w.issue(w.request(policy.OpIssue, 1, p, false))
	w.issue(w.request(policy.OpIssue, 2, w.phone(), false))
	w.clock.Advance(time.Second)
	x := w.proposed("reissue.mass")
	must(t, w.StartCampaign(t.Context(), CampaignRecord{Operation: CampaignReissue, Selection: Selection{Key: "ds"}, PerSecond: 10, At: w.clock.Now()}, x))
	on := func(d time.Duration) Campaign {
		t.Helper()
		w.clock.Advance(d)
		must(t, w.step(t.Context(), w.clock.Now()))
		return w.campaign(x.ID)
	}
	on(time.Second)
	if got := w.slotOf(1).Renew; fmt.Sprint(got) != "["+RenewCompromised+"]" {
		t.Fatalf("marked for %v", got)
	}
	w.reserve(w.request(policy.OpRefresh, 1, p, false)) // and nobody finishes it
	if c := on(2 * time.Second); c.Cards[CardWaiting] != 2 {
		t.Errorf("%+v", c)
	}
	w.clock.Advance(25 * time.Hour)
	_, err := w.GiveUp(t.Context(), w.clock.Now())
	must(t, err)
	on(2 * time.Second)
	if got := w.slotOf(1).Renew; len(got) != 1 {
		t.Errorf("it lost its mark: %v", got)
	}
	w.clock.Advance(time.Second)
	w.issue(w.request(policy.OpRefresh, 1, p, false))
	if c := on(2 * time.Second); c.Cards[CardReissued] != 1 || c.Cards[CardWaiting] != 1 {
		t.Errorf("%+v", c)
	}
	if c := on(91 * 24 * time.Hour); c.Cards[CardExpired] != 1 || c.Done.IsZero() {
		t.Errorf("%+v", c)
	}
	w.check()
}

// A mass hold ends no re-issue, whichever of the two comes first, and neither does one of before holds were terms of lists: cards that it stops wait, and are made
// anew after its lift. One that has a lock of its own waits for nobody.
func TestHoldEndsNoReissue(t *testing.T) {
	for name, first := range map[string]bool{"hold first": true, "re-issue first": false} {
		for _, old := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, of before: %v", name, old), func(t *testing.T) {
				w := newTown(t)
				p := w.phone()
				w.issue(w.request(policy.OpIssue, 1, p, false))
				w.issue(w.request(policy.OpIssue, 2, w.phone(), false))
				w.change("loss-desk", policy.OpLock, 2, "self_lost")
				w.clock.Advance(time.Second)
				x := w.proposed("reissue.mass")
				start := func() {
					must(t, w.StartCampaign(t.Context(), CampaignRecord{Operation: CampaignReissue, Selection: Selection{DocumentType: resident}, PerSecond: 10, At: w.clock.Now()}, x))
					w.advance(2)
				}
				if !first {
					start()
				}
				var h *Execution
				if old {
					h = w.holdBefore(Selection{DocumentType: resident}, 10)
					w.advance(3)
				} else {
					h = w.hold(Selection{DocumentType: resident})
				}
				if first {
					start()
				}
				for range 5 {
					w.advance(2)
					w.again()
				}
				if c := w.campaign(x.ID); !c.Done.IsZero() || c.Cards[CardWaiting] != 1 || c.Cards[CardLocked] != 1 {
					t.Errorf("under the hold: %+v", c)
				}
				w.lift(h.ID)
				w.advance(5)
				if got := w.slotOf(1).Renew; !slices.Contains(got, RenewCompromised) {
					t.Errorf("after the lift it is to be made anew for %v", got)
				}
				w.issue(w.request(policy.OpRefresh, 1, p, false))
				w.advance(3)
				if c := w.campaign(x.ID); c.Done.IsZero() || c.Cards[CardReissued] != 1 || c.Cards[CardLocked] != 1 {
					t.Errorf("after the lift: %+v", c)
				}
				w.check()
			})
		}
	}
}

// A revocation of many revokes those of the selection, and no other.
func TestCampaignRevokes(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.clock.Advance(time.Hour)
	cut := w.clock.Now()
	w.issue(w.request(policy.OpIssue, 2, w.phone(), false))
	x := w.proposed("revoke.mass")
	w.clock.Advance(time.Second)
	must(t, w.StartCampaign(t.Context(), CampaignRecord{Operation: CampaignRevoke, Selection: Selection{DocumentType: resident, From: cut}, PerSecond: 10, At: w.clock.Now()}, x))
	for range 3 {
		w.clock.Advance(time.Second)
		must(t, w.step(t.Context(), w.clock.Now()))
	}
	if c := w.campaign(x.ID); c.Cards[CardRevoked] != 1 || c.Total() != 1 || c.Done.IsZero() {
		t.Errorf("%+v", c)
	}
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
	w.wants(2, "mso_mdoc revoked", "dc+sd-jwt revoked")
	w.check()
}

// ran begins a campaign over all cards since the cut, and gives it time to mark them.
func (w *town) ran(operation string, cut time.Time) (id string) {
	w.t.Helper()
	w.clock.Advance(time.Second)
	x := w.proposed(operation + ".mass")
	must(w.t, w.StartCampaign(w.t.Context(), CampaignRecord{Operation: operation, Selection: Selection{DocumentType: resident, From: cut}, PerSecond: 10, At: w.clock.Now()}, x))
	for range 3 {
		w.clock.Advance(time.Second)
		must(w.t, w.step(w.t.Context(), w.clock.Now()))
	}
	return x.ID
}

// A campaign that ended as long ago as its proposal is kept is forgotten with its cards, one that is under way or ended since is not, and what a crash
// leaves of it is forgotten by the next process.
func TestCampaignsAreSwept(t *testing.T) {
	w := newTown(t)
	cut := w.clock.Now()
	for i := range 5 {
		w.issue(w.request(policy.OpIssue, byte(i+1), w.phone(), false))
	}
	open := w.ran(CampaignReissue, cut) // nobody comes
	done := w.ran(CampaignRevoke, cut)
	w.campaign(open)
	if c := w.campaign(done); c.Done.IsZero() || c.Total() != 5 {
		t.Fatalf("%+v", c)
	}
	ids := func() (all []string) {
		for _, c := range w.Campaigns() {
			all = append(all, c.ID)
		}
		slices.Sort(all)
		return all
	}
	both := ids()
	w.clock.Advance(KeepCampaigns - time.Second)
	must(t, w.sweep(t.Context()))
	if !slices.Equal(ids(), both) {
		t.Errorf("swept too early: %v of %v", ids(), both)
	}
	w.clock.Advance(2 * time.Second)
	if gone, err := w.sweepCards(t.Context(), w.campaign(done), w.clock.Now(), 3); gone || err != nil { // and the process dies
		t.Fatal(gone, err)
	}
	w.again()
	if n := w.campaign(done).Total(); n != 2 {
		t.Errorf("%d cards are left", n)
	}
	must(t, w.sweep(t.Context()))
	w.again()
	rows := 0
	must(t, w.Audit().CampaignCards(t.Context(), func(id string, _ CardRecord) error {
		if id == done {
			rows++
		}
		return nil
	}))
	if slices.Contains(ids(), done) || rows != 0 {
		t.Errorf("campaigns %v, and %d cards of the one that was swept", ids(), rows)
	}
	w.check()
}

// TestSweepThatDies is run twice by tests/faults in one directory: it is killed at a crash point, three of five cards a commit, and looks at what was left then.
func TestSweepThatDies(t *testing.T) {
	dir, left := os.Getenv("SEAL_SWEEP_DIR"), os.Getenv("SEAL_SWEEP_LEFT")
	if dir == "" {
		t.Skip("part of make faults")
	}
	sweep := func(w *town, id string) {
		for gone := false; !gone; {
			var err error
			gone, err = w.sweepCards(t.Context(), w.campaign(id), w.clock.Now(), 3)
			must(t, err)
		}
	}
	if left == "" {
		w := townIn(houseIn(t, dir, noon))
		cut := w.clock.Now()
		for i := range 5 {
			w.issue(w.request(policy.OpIssue, byte(i+1), w.phone(), false))
		}
		done := w.ran(CampaignRevoke, cut)
		w.clock.Advance(KeepCampaigns + time.Second)
		sweep(w, done)
		t.Fatal("nobody died")
	}
	w := &town{house: houseIn(t, dir, noon.Add(KeepCampaigns+time.Minute))}
	if all := w.Campaigns(); left == "none" {
		if len(all) > 0 {
			t.Fatalf("campaigns that are swept: %v", all)
		}
	} else if len(all) != 1 || strconv.Itoa(all[0].Total()) != left {
		t.Fatalf("%v, want one with %s cards", all, left)
	} else {
		sweep(w, all[0].ID)
	}
	must(t, w.Audit().CampaignCards(t.Context(), func(id string, _ CardRecord) error {
		t.Errorf("a card of campaign %s is left", id)
		return nil
	}))
	w.check()
}

// The journal alone has to show that a campaign was kept long enough. Its last leaf has the wall's time, which is later than the instant for which the
// cards were counted, or much later when lists don't believe the wall.
func TestCampaignIsKeptFromItsLastLeaf(t *testing.T) {
	w := newTown(t)
	at := w.clock.Now()
	x := w.proposed("revoke.mass")
	must(t, w.StartCampaign(t.Context(), CampaignRecord{Operation: CampaignRevoke, Selection: Selection{DocumentType: resident}, PerSecond: 10, At: at}, x))
	w.clock.Advance(time.Hour)
	for range 3 {
		at = at.Add(time.Second)
		must(t, w.step(t.Context(), at))
	}
	said := map[string]time.Time{}
	leaves := func() {
		t.Helper()
		must(t, w.Audit().Journal(t.Context(), func(_ uint64, l Leaf, _ []byte) error {
			if l.Kind == "campaign" {
				said[l.State] = l.At
			}
			return nil
		}))
	}
	leaves()
	done := said["done"]
	if done.IsZero() || w.campaign(x.ID).Done.Before(done) {
		t.Errorf("it ended at %s, the journal says at %s", w.campaign(x.ID).Done, done)
	}
	w.clock.Jump(at.Add(KeepCampaigns + time.Minute).Sub(w.clock.Now()))
	must(t, w.sweep(t.Context()))
	w.clock.Jump(done.Add(KeepCampaigns + time.Second).Sub(w.clock.Now()))
	must(t, w.sweep(t.Context()))
	if leaves(); !said["swept"].After(done.Add(KeepCampaigns)) {
		t.Errorf("it ended at %s and was swept at %s", done, said["swept"])
	}
	w.check()
}

// pacedStore counts how often cards are looked through, each time for so long.
type pacedStore struct {
	Store
	clock *clock.Fake
	took  time.Duration
	looks int
}

func (s *pacedStore) Scan(ctx context.Context, t Table, from []byte, limit int) ([]Entry, error) {
	if t == TableCards {
		s.looks++
		s.clock.Advance(s.took)
	}
	return s.Store.Scan(ctx, t, from, limit)
}

// paced opens the ledger again, in a store that counts.
func (w *town) paced() *pacedStore {
	w.t.Helper()
	must(w.t, w.Close())
	disk, err := OpenSQLite(context.Background(), w.o.Path)
	must(w.t, err)
	s := &pacedStore{Store: disk, clock: w.clock}
	w.Ledger, err = open(context.Background(), w.o, s)
	must(w.t, err)
	w.Unlock(testSecrets())
	s.looks = 0
	return s
}

// However many cards wait, looking through them takes a small part of the time, and of a wall that is set back nobody notices anything.
func TestCampaignLooksAtItsCardsWithPauses(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.clock.Advance(time.Second)
	x := w.proposed("reissue.mass")
	must(t, w.StartCampaign(t.Context(), CampaignRecord{Operation: CampaignReissue, Selection: Selection{DocumentType: resident}, PerSecond: 10, At: w.clock.Now()}, x))
	must(t, w.step(t.Context(), w.clock.Now()))
	s := w.paced()
	looks := func(took time.Duration) int {
		t.Helper()
		s.took, s.looks = took, 0
		must(t, w.step(t.Context(), w.clock.Now()))
		return s.looks
	}
	for _, c := range []struct{ took, pause time.Duration }{
		{time.Millisecond, time.Second},
		{30 * time.Second, 10 * time.Minute},
		{200 * time.Second, time.Hour},
		{2 * time.Hour, time.Hour},
	} {
		if n := looks(c.took); n != 1 {
			t.Fatalf("%d looks when one is due", n)
		}
		for _, later := range []time.Duration{0, c.pause - time.Millisecond} {
			if w.clock.Advance(later); looks(0) != 0 {
				t.Fatalf("a look of %s is followed by another one after %s", c.took, later)
			}
		}
		w.clock.Advance(time.Millisecond)
	}
	looks(time.Second)
	w.clock.Jump(-2 * time.Hour)
	w.clock.Advance(20 * time.Second)
	if n := looks(0); n != 1 {
		t.Errorf("%d looks after the wall was set back", n)
	}
}

// A campaign that fails takes no turn from the others, whether it still has cards to do or has them watched.
func TestCampaignThatFailsStopsNoOther(t *testing.T) {
	w := newTown(t)
	spoil := func(id string) {
		t.Helper()
		_, err := w.Ledger.commit(t.Context(), Leaf{Kind: "meta"}, []Row{{Table: TableCards, Key: cardKey(id, []byte("a card")), Value: []byte("broken")}}, false, nil)
		must(t, err)
	}
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.clock.Advance(time.Second)
	cut := w.clock.Now()
	hold := w.holdBefore(Selection{DocumentType: resident, To: cut}, 10).ID
	w.advance(2)
	w.issue(w.request(policy.OpIssue, 2, w.phone(), false))
	watched := w.ran(CampaignReissue, cut)
	w.lift(hold)
	spoil(hold)
	spoil(watched)
	w.clock.Advance(time.Second)
	x := w.proposed("revoke.mass")
	must(t, w.StartCampaign(t.Context(), CampaignRecord{Operation: CampaignRevoke, Selection: Selection{DocumentType: resident, From: cut}, PerSecond: 10, At: w.clock.Now()}, x))
	for range 2 {
		w.clock.Advance(time.Second)
		err := w.step(t.Context(), w.clock.Now())
		for _, id := range []string{hold, watched} {
			if err == nil || !strings.Contains(err.Error(), id[:12]) {
				t.Errorf("campaign %.12s failed, and the error is: %v", id, err)
			}
		}
	}
	if c := w.campaign(x.ID); c.Cards[CardRevoked] != 1 || c.Done.IsZero() {
		t.Errorf("the newest campaign: %+v", c)
	}
}

// The cards of a campaign are marked without waiting until those of older ones were looked through, which may take as long as it takes.
func TestMarkingWaitsForNoLook(t *testing.T) {
	w := newTown(t)
	cut := w.clock.Now()
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.ran(CampaignReissue, cut)
	w.clock.Advance(time.Second)
	x := w.proposed("revoke.mass")
	must(t, w.StartCampaign(t.Context(), CampaignRecord{Operation: CampaignRevoke, Selection: Selection{DocumentType: resident}, PerSecond: 10, At: w.clock.Now()}, x))
	s := w.paced()
	must(t, w.AdvanceCampaigns(t.Context(), w.clock.Now()))
	if c := w.campaign(x.ID); c.Cards[CardRevoked] != 1 || s.looks != 0 {
		t.Errorf("after %d looks at cards the newest campaign is %+v", s.looks, c)
	}
}

// step is a second of campaigns: what is due of each.
func (w *town) step(ctx context.Context, at time.Time) error {
	return errors.Join(w.WatchCampaigns(ctx, at), w.AdvanceCampaigns(ctx, at))
}
