package ledger

import (
	"context"
	"sync"
	"testing"
	"time"

	"sealkeeper/policy"
)

// watched counts the rows of requests that are read.
type watched struct {
	Store
	mu    sync.Mutex
	rows  int
	after func() // of the next scan of them; nil: nothing
}

func (s *watched) Get(ctx context.Context, t Table, key []byte) ([]byte, uint64, error) {
	s.count(t, 1)
	return s.Store.Get(ctx, t, key)
}

func (s *watched) Scan(ctx context.Context, t Table, from []byte, limit int) ([]Entry, error) {
	all, err := s.Store.Scan(ctx, t, from, limit)
	s.count(t, len(all))
	if t == TableRequests {
		s.mu.Lock()
		after := s.after
		s.after = nil
		s.mu.Unlock()
		if after != nil {
			after()
		}
	}
	return all, err
}

func (s *watched) count(t Table, n int) {
	if t == TableRequests {
		s.mu.Lock()
		s.rows += n
		s.mu.Unlock()
	}
}

// watch closes the ledger and opens it with a store that is watched.
func (w *town) watch() *watched {
	w.t.Helper()
	must(w.t, w.Close())
	file, err := OpenSQLite(context.Background(), w.o.Path)
	must(w.t, err)
	s := &watched{Store: file}
	w.Ledger, err = open(context.Background(), w.o, s)
	must(w.t, err)
	w.Unlock(testSecrets())
	return s
}

// A request, with its answer of some kilobytes, is read once after a start, and then when it is over: there may be a million of a day, and 144 rounds.
func TestRoundsReadWhatIsOver(t *testing.T) {
	w := newTown(t)
	w.acknowledges("2h")
	const cards = 60
	for i := range cards {
		w.issue(w.request(policy.OpIssue, byte(i+1), w.phone(), false))
		w.clock.Advance(time.Minute)
	}
	w.reserve(w.request(policy.OpIssue, cards+1, w.phone(), false)) // and nobody finishes it
	s := w.watch()
	ended := 0
	for range 160 {
		n, err := w.GiveUp(t.Context(), w.clock.Now())
		must(t, err)
		ended += n
		must(t, w.sweep(t.Context()))
		w.clock.Advance(10 * time.Minute)
	}
	t.Logf("%d rows of requests were read of %d cards", s.rows, cards)
	if s.rows > 5*cards {
		t.Errorf("%d rows of requests were read of %d cards", s.rows, cards)
	}
	if n := w.asked(); n != 0 || ended != cards+1 {
		t.Errorf("%d of %d cards were given up, and %d requests stay", ended, cards+1, n)
	}
	w.check()
}

// What is finished while those of before the start are read waits for nobody afterwards, and is erased in its time.
func TestFinishedWhileRequestsAreRead(t *testing.T) {
	w := newTown(t)
	s := w.watch()
	r, tbs := w.reserve(w.request(policy.OpIssue, 1, w.phone(), false))
	s.after = func() { w.settle(r, tbs, "card") }
	for _, want := range []int{1, 0} {
		_, err := w.GiveUp(t.Context(), w.clock.Now())
		must(t, err)
		if n := w.asked(); n != want || len(w.Ledger.requests.open) != 0 {
			t.Errorf("%d requests are remembered, want %d, and %d wait to be finished", n, want, len(w.Ledger.requests.open))
		}
		w.clock.Advance(24 * time.Hour)
	}
	w.check()
}

// A row that can't be read keeps no other card valid and no other answer.
func TestOneDamagedRowKeepsNoOtherCard(t *testing.T) {
	w := newTown(t)
	w.acknowledges("2h")
	var damaged *Reservation
	for p := byte(1); p <= 5; p++ {
		if p == 3 {
			damaged, _ = w.reserve(w.request(policy.OpIssue, p, w.phone(), false))
			continue
		}
		w.issue(w.request(policy.OpIssue, p, w.phone(), false))
	}
	_, err := w.Ledger.commit(t.Context(), Leaf{Kind: "meta"}, []Row{{Table: TableReservations, Key: []byte(damaged.ID()), Value: []byte("broken"), If: Any}}, false, nil)
	must(t, err)
	ended := 0
	for range 2 { // the cards end, and then their answers
		w.clock.Advance(25 * time.Hour)
		n, err := w.GiveUp(t.Context(), w.clock.Now())
		if ended += n; err == nil {
			t.Error("nobody is told of the row that can't be read")
		}
	}
	if n := w.asked(); ended != 4 || n != 1 {
		t.Errorf("%d of 4 cards were given up, and %d requests are kept: want the damaged one", ended, n)
	}
}
