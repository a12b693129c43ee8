package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// No index is ever given out twice: not by concurrent callers, not after a restart, not when a list is full.
func TestEveryIndexOnce(t *testing.T) {
	h := newHouse(t)
	var mu sync.Mutex
	seen := map[string]bool{}
	take := func(f policy.Format, n int) {
		tickets, err := h.Lease(context.Background(), resident, f, n)
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, ticket := range tickets {
			place := fmt.Sprintf("%s/%d", ticket.List(), ticket.Index())
			if seen[place] || ticket.Index() >= h.o.ListSize || ticket.Format() != f || ticket.URI() != "https://status.example/status-lists/"+ticket.List() {
				t.Errorf("index %s at %s for %s: taken before, or out of the list", place, ticket.URI(), ticket.Format())
			}
			seen[place] = true
		}
	}
	for range 3 {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { take(policy.SDJWT, 37); take(policy.MDoc, 1) })
		}
		wg.Wait()
		h.again()
	}
	take(policy.SDJWT, 2000) // more than a list has
	open := 0
	must(t, h.Audit().Lists(context.Background(), func(_ uint64, r ListRecord) error {
		if r.Closed.IsZero() {
			open++
		}
		if want := map[policy.Format]int{policy.MDoc: 1, policy.SDJWT: 2}[r.Format]; r.Bits != want || len(r.ID) != 22 {
			t.Errorf("%+v", r)
		}
		return nil
	}))
	if open != 2 || len(seen) != 3*8*38+2000 {
		t.Errorf("%d lists are open, %d indices taken", open, len(seen))
	}
	for _, bad := range []struct {
		kind string
		f    policy.Format
		n    int
	}{{"", policy.MDoc, 1}, {"a\x00b", policy.MDoc, 1}, {resident, "jwt_vc", 1}, {resident, policy.MDoc, 0}} {
		if _, err := h.Lease(context.Background(), bad.kind, bad.f, bad.n); err == nil {
			t.Errorf("leased for %+v", bad)
		}
	}
}

func TestLeaseNeedsSecrets(t *testing.T) {
	h := newHouse(t)
	h.secrets.Store(nil)
	if _, err := h.Lease(context.Background(), resident, policy.MDoc, 1); err == nil {
		t.Error("indices were leased in an order that is no secret")
	}
}

// A closed list stays published while a credential points to it, and no longer.
func TestClosedListsLastAsLongAsTheirCredentials(t *testing.T) {
	w := newTown(t)
	q := w.request(policy.OpIssue, 1, w.phone(), false)
	w.issue(q) // valid for 90 days
	old := w.Lists()
	for _, f := range []policy.Format{policy.MDoc, policy.SDJWT} {
		_, err := w.Lease(context.Background(), resident, f, int(w.o.ListSize))
		must(t, err)
	}
	for _, restarted := range []bool{false, true} {
		if restarted {
			w.again()
		}
		if got := w.Lists(); len(got) != 4 || !slices.Contains(got, old[0]) || !slices.Contains(got, old[1]) {
			t.Errorf("restarted %t: lists %v, want also %v", restarted, got, old)
		}
	}
	w.clock.Advance(92 * 24 * time.Hour)
	if got := w.Lists(); len(got) != 2 || slices.Contains(got, old[0]) || slices.Contains(got, old[1]) {
		t.Errorf("lists %v, of which %v have no credential left", got, old)
	}
}

// A list whose cards all ended before another one was signed has no image after the next start, and the high-water record does not name it; its version
// stays known, its changes stay in the ledger, and whatever still comes for it is kept there.
func TestListsOfThePastHaveNoImages(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false)) // valid for 90 days
	w.change("telecom-a", policy.OpLock, 1, "telecom_lost")
	w.publishAll()
	old := w.Lists()
	w.change("ministry", policy.OpRevoke, 1, "deceased") // and this is never published
	for _, f := range []policy.Format{policy.MDoc, policy.SDJWT} {
		_, err := w.Lease(ctx, resident, f, int(w.o.ListSize))
		must(t, err)
	}
	named := func() (n int) {
		t.Helper()
		must(t, w.Close())
		b, err := os.ReadFile(w.o.HighWater)
		must(t, err)
		h, err := parseHead(b)
		must(t, err)
		w.open()
		for _, id := range old {
			if h.Lists[id] > 0 {
				n++
			}
		}
		return n
	}
	const ends = 92 * 24 * time.Hour
	w.clock.Advance(ends)
	if n := named(); n != 2 {
		t.Errorf("the wall alone had %d of 2 lists forgotten", 2-n)
	}
	for _, id := range old {
		if _, err := w.List(id); err != nil || w.lists[id].next == nil {
			t.Errorf("the wall alone had list %s forgotten: %v", id, err)
		}
	}
	image := func(id string) []byte {
		t.Helper()
		var out []byte
		must(t, w.Audit().Lists(ctx, func(_ uint64, r ListRecord) (err error) {
			if r.ID == id {
				out, err = w.Audit().Image(ctx, r, w.through)
			}
			return err
		}))
		return out
	}
	before := map[string][]byte{}
	for _, id := range old {
		before[id] = image(id)
	}
	w.publishAll() // those that are open: now the time is one that was signed
	w.again()
	if n := named(); n != 0 {
		t.Errorf("the high-water record names %d lists of the past", n)
	}
	w.clock.Jump(-ends) // whoever believes this wall does not publish them either
	for _, id := range old {
		if li := w.lists[id]; li.next != nil || li.prev != nil || len(li.changes) > 0 {
			t.Errorf("list %s has an image", id)
		}
		if h, ok := w.ListHead(id); !ok || h.Version != 1 || h.Urgent {
			t.Errorf("list %s: %+v", id, h)
		}
		if _, err := w.List(id); err == nil || slices.Contains(w.Lists(), id) || slices.Contains(w.ListsAt(noon), id) {
			t.Errorf("list %s is published: %v", id, err)
		}
		if !bytes.Equal(image(id), before[id]) {
			t.Errorf("list %s has another image in the ledger", id)
		}
	}
	// An officer's hold, and what a published list of before brings back, come to it none the less.
	x := w.hold(Selection{DocumentType: resident})
	must(t, w.restored(ctx, nil, []state.Change{{List: old[1], Index: 5, To: state.Invalid}}, 0, 0))
	w.lift(x.ID)
	_, d, err := w.compare(ctx, Published{Lists: []Shown{{ID: old[0], Version: 2, Bits: w.lists[old[0]].row.Bits, Image: before[old[0]]}}})
	if err != nil || len(d.Lists) != 1 || d.Lists[0].Doubt != "" || !d.Lists[0].Known {
		t.Errorf("%+v, %v", d, err)
	}
	if got := image(old[1]); bytes.Equal(got, before[old[1]]) {
		t.Errorf("the change is not in the ledger")
	}
	w.again()
	w.published(old[0], 9)
	must(t, w.Close())
	w.fenced("version 9 of list " + old[0] + " and the ledger 1")
	must(t, w.Unfence(ctx))
	w.again()
	if h, _ := w.ListHead(old[0]); h.Version != 1009 {
		t.Errorf("%+v", h)
	}
	w.publishAll()
	w.check()
}

// Of two reservations of one version only one settles, and an older one never replaces a newer one.
func TestOneListVersionSettlesOnce(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	id := w.ticket(policy.SDJWT).List()
	a, _ := w.list(id)
	b, _ := w.list(id)
	if _, first, err := w.Settle(ctx, a, settlement(a, "A")); err != nil || !first {
		t.Fatal(first, err)
	}
	got, first, err := w.Settle(ctx, b, settlement(b, "B"))
	if err != nil || first || string(got) != "A" {
		t.Errorf("the second one got %q, %t, %v", got, first, err)
	}
	c, _ := w.list(id)
	w.clock.Advance(time.Second)
	d, _ := w.list(id)
	for _, r := range []*Reservation{d, c} {
		if _, _, err := w.Settle(ctx, r, settlement(r, r.ID())); err != nil {
			t.Fatal(err)
		}
	}
	if s, _ := w.List(id); string(s.Token) != d.ID() || s.Facts.PrevVersion != 2 {
		t.Errorf("version %d with token %q", s.Facts.PrevVersion, s.Token)
	}
	w.again()
	if s, _ := w.List(id); string(s.Token) != d.ID() || !w.LastIssued().Equal(noon.Add(time.Second)) {
		t.Errorf("after a restart: %q, issued %s", s.Token, w.LastIssued())
	}
	w.check()
}

func TestWhatAListReservationRefuses(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	id := w.Lists()[0]
	approve := func(bend func(*policy.ListFacts)) *policy.Approval {
		s, err := w.List(id)
		must(t, err)
		f := s.Facts
		f.Version, f.IssuedAt, f.Expires, f.TTL = f.PrevVersion+1, noon, noon.Add(time.Hour), time.Minute
		bend(&f)
		a, d := policy.DecideList(nil, f, noon)
		if a == nil {
			t.Fatalf("refused: %s %s", d.Code, d.Detail)
		}
		return a
	}
	draft := []Draft{{KeyID: "list", Purpose: policy.PurposeList, TBSHash: sha256.Sum256([]byte("tbs"))}}
	stale := approve(func(*policy.ListFacts) {})
	w.publishAll()
	_, err := w.Reserve(ctx, stale, draft, nil)
	refused(t, err, "list.version")
	_, err = w.Reserve(ctx, approve(func(f *policy.ListFacts) { f.ID = "other" }), draft, nil)
	refused(t, err, "list.unknown")
	_, err = w.Reserve(ctx, approve(func(f *policy.ListFacts) { f.URI += "x" }), draft, nil)
	refused(t, err, "list.other")
	_, err = w.Reserve(ctx, approve(func(f *policy.ListFacts) {}), draft, &Call{Key: "k"})
	refused(t, err, "call.unexpected")
	_, err = w.Reserve(ctx, approve(func(f *policy.ListFacts) {}), append(draft, draft...), nil)
	refused(t, err, "draft.count")

	// An image that shows less than was committed up to its number.
	w.change("ministry", policy.OpRevoke, 1, "deceased")
	s, err := w.List(id)
	must(t, err)
	_, err = w.Reserve(ctx, approve(func(f *policy.ListFacts) { f.Next, f.Changes, f.Through = s.Facts.Prev, nil, s.Facts.Through }), draft, nil)
	refused(t, err, "list.image")
	if _, err = w.Reserve(ctx, approve(func(*policy.ListFacts) {}), draft, nil); err != nil {
		t.Error(err)
	}
}

func TestImageBits(t *testing.T) {
	// Token Status List, 4.1: 1-bit and 2-bit examples
	one := make([]byte, 2)
	for i, v := range []byte{1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1} {
		set(one, 1, uint64(i), v)
	}
	two := make([]byte, 3)
	for i, v := range []byte{1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3} {
		set(two, 2, uint64(i), v)
	}
	if one[0] != 0xb9 || one[1] != 0xa3 || two[0] != 0xc9 || two[1] != 0x44 || two[2] != 0xf9 {
		t.Errorf("%x, %x", one, two)
	}
	set(two, 2, 3, 0)
	if two[0] != 0x09 {
		t.Errorf("%x after an entry was set back", two)
	}
}
