package ledger

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fullStore has no room while it is full.
type fullStore struct {
	Store
	full  atomic.Bool
	tried atomic.Int64 // held cards that were looked at meanwhile
}

func (s *fullStore) Get(ctx context.Context, t Table, key []byte) ([]byte, uint64, error) {
	if t == TableHeld && s.full.Load() {
		s.tried.Add(1)
	}
	return s.Store.Get(ctx, t, key)
}

func (s *fullStore) Commit(ctx context.Context, batch []Op) ([]Outcome, error) {
	if s.full.Load() {
		return nil, ErrFull
	}
	return s.Store.Commit(ctx, batch)
}

// fills opens the ledger again, in a store that can be full.
func (h *house) fills() *fullStore {
	h.t.Helper()
	secrets := h.secrets.Load()
	must(h.t, h.Close())
	disk, err := OpenSQLite(context.Background(), h.o.Path)
	must(h.t, err)
	s := &fullStore{Store: disk}
	h.Ledger, err = open(context.Background(), h.o, s)
	must(h.t, err)
	h.secrets.Store(secrets) // and nobody is woken
	return s
}

// decided has many held cards of a carrier's hour confirmed, and nobody carries it out yet. Of every broken one of them the row is.
func (h *house) decided(carrier string, cards, broken int) {
	h.t.Helper()
	begin := noon.Truncate(time.Hour)
	batch := floodKey(carrier, begin.Unix()+hour)
	rows := []Row{{Table: TableFloods, Key: batch, Value: encode(FloodDecision{Client: "operator", At: noon, Through: 1 << 40})}}
	for i := range cards {
		row := Row{Table: TableHeld, Key: append(bytes.Clone(batch), slotKey(resident, numbered(i))...), Value: encode(HeldRecord{Line: []byte("nobody's")})}
		if broken > 0 && i%broken == 0 {
			row.Value = []byte("broken")
		}
		rows = append(rows, row)
	}
	_, err := h.commit(context.Background(), Leaf{Kind: "meta"}, rows, false, func(uint64) {
		for _, row := range rows[1:] {
			h.floods.add(row.Key, 1)
		}
	})
	must(h.t, err)
}

// On a full disk no card can be decided on: that is found out by a few of them, and said once.
func TestFloodOnAFullDisk(t *testing.T) {
	h := newHouse(t)
	s := h.fills()
	h.decided("carrier-a", 1000, 0)
	s.full.Store(true)
	err := h.carryOutFloods(t.Context())
	var refused *Refusal
	if !errors.As(err, &refused) || refused.Code() != "ledger.full" || len(err.Error()) > 200 {
		t.Errorf("an error of %d bytes: %.300v", len(err.Error()), err)
	}
	if n := s.tried.Load(); n == 0 || n > 3*floodAtOnce {
		t.Errorf("%d of 1000 cards were tried", n)
	}
	s.full.Store(false)
	for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); err = h.carryOutFloods(t.Context()) {
		time.Sleep(20 * time.Millisecond) // the committer looks for room once a second
	}
	if err != nil || len(h.HeldCards()) > 0 {
		t.Errorf("with room again: %v, and %v are held", err, h.HeldCards())
	}
}

// A card that fails keeps no other one from being decided on, not of its carrier's hour nor of another one's, and many of them make one error.
func TestFloodOfCardsThatFail(t *testing.T) {
	h := newHouse(t)
	h.fills()
	h.decided("carrier-a", 100, 2)
	h.decided("carrier-b", 10, 0)
	err := h.carryOutFloods(t.Context())
	if err == nil || len(err.Error()) > 300 || !strings.Contains(err.Error(), "49") {
		t.Errorf("50 of 100 cards failed, and the error is: %.400v", err)
	}
	if held := h.HeldCards(); held["carrier-a"] != 50 || held["carrier-b"] != 0 {
		t.Errorf("%v cards are held, 50 could not be decided on", held)
	}
}

// lines are those of a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// of are those about something since the last time.
func (l *lines) of(what string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = strings.Count(l.text.String(), what)
	l.text.Reset()
	return n
}

// What is tried again each second on a full disk is said at once, and then once a minute; when it is full again, at once again.
func TestAFullDiskIsSaidNowAndThen(t *testing.T) {
	for says, c := range map[string]struct {
		begin  func(*house)
		try    func(*house, *fullStore)
		undone func(*house) bool
	}{
		"carrying out a decision": {
			func(h *house) { h.decided("carrier-a", 2, 0) },
			func(h *house, _ *fullStore) { _ = h.carryOutFloods(context.Background()) },
			func(h *house) bool { return len(h.HeldCards()) > 0 },
		},
		"journalling what was denied": {
			func(*house) {},
			func(h *house, s *fullStore) {
				if s.full.Load() {
					h.unrecorded(1)
				}
				h.commitDenials()
			},
			func(h *house) bool { h.denied.mu.Lock(); defer h.denied.mu.Unlock(); return h.denied.lost > 0 },
		},
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel() // the committer looks for room once a second
			h := newHouse(t)
			log := &lines{}
			h.o.Log = slog.New(slog.NewTextHandler(log, nil))
			s := h.fills()
			for range 2 {
				c.begin(h)
				s.full.Store(true)
				for i, want := range []int{1, 0, 1, 0} {
					if i == 2 {
						h.clock.Advance(time.Minute)
					}
					for range 10 {
						c.try(h, s)
					}
					if n := log.of(says); n != want {
						t.Errorf("%d lines in round %d, want %d", n, i, want)
					}
				}
				s.full.Store(false)
				for end := time.Now().Add(10 * time.Second); c.undone(h) && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
					c.try(h, s)
				}
				if log.of(says); c.undone(h) {
					t.Fatal("it does not end")
				}
			}
		})
	}
}
