package ledger

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"sealkeeper/internal/clock"
	"sealkeeper/policy"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// house is a ledger in a directory of its own, with a clock that stands.
type house struct {
	*Ledger
	t     *testing.T
	dir   string
	clock *clock.Fake
	o     Options
}

func testSecrets() (s Secrets) {
	for i := range 32 {
		s.Index[i], s.Lookup[i], s.Salt[i], s.Commit[i] = byte(i), byte(i+50), byte(i+100), byte(i+150)
	}
	return s
}

func newHouse(t *testing.T) *house {
	t.Helper()
	return houseIn(t, t.TempDir(), noon)
}

func houseIn(t *testing.T, dir string, at time.Time) *house {
	t.Helper()
	c := clock.NewFake(at)
	h := &house{t: t, dir: dir, clock: c, o: Options{
		Path: filepath.Join(dir, "ledger.db"), HighWater: filepath.Join(dir, "high-water.json"), Publish: filepath.Join(dir, "public"),
		Clock: c, Log: slog.New(slog.DiscardHandler), BaseURL: "https://status.example", ListSize: 1024,
		Fatal: func(err error) { t.Errorf("the disk failed: %v", err) },
	}}
	h.open()
	t.Cleanup(func() { h.Close() })
	return h
}

func (h *house) open() {
	h.t.Helper()
	l, err := Open(context.Background(), h.o)
	if err != nil {
		h.t.Fatal(err)
	}
	l.Unlock(testSecrets())
	h.Ledger = l
}

// again closes the ledger and opens it.
func (h *house) again() {
	h.t.Helper()
	must(h.t, h.Close())
	h.open()
}

// sweep erases what is over by the wall, which is trusted.
func (h *house) sweep(ctx context.Context) error {
	return h.Sweep(ctx, clock.NewGuard(h.clock, time.Time{}, 0, true))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused demands a *Refusal with a code.
func refused(t testing.TB, err error, code string) {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) || r.Code() != code {
		t.Fatalf("got %v, want a refusal %s", err, code)
	}
}

func (h *house) key(id string, p policy.Purpose) Key {
	h.t.Helper()
	k := Key{ID: id, Token: "online", Purpose: p, Algorithm: "ES256", CKAID: []byte(id), SPKI: []byte("spki of " + id), State: KeyActive,
		NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(5, 0, 0)}
	must(h.t, h.PutKey(context.Background(), k))
	return k
}

// list decides, reserves, claims and settles the next version of a list.
func (h *house) list(id string) (*Reservation, []byte) {
	h.t.Helper()
	s, err := h.List(id)
	must(h.t, err)
	f := s.Facts
	f.Version, f.IssuedAt, f.Expires, f.TTL = f.PrevVersion+1, h.clock.Now().Truncate(time.Second), h.clock.Now().Add(24*time.Hour).Truncate(time.Second), time.Minute
	a, d := policy.DecideList(nil, f, h.clock.Now())
	if a == nil {
		h.t.Fatalf("the list was refused: %s %s", d.Code, d.Detail)
	}
	tbs := []byte("tbs")
	r, err := h.Reserve(context.Background(), a, []Draft{{KeyID: "list", Purpose: policy.PurposeList, TBSHash: sha256.Sum256(tbs)}}, nil)
	must(h.t, err)
	must(h.t, r.Claim(h.Ledger, [][]byte{tbs}))
	return r, tbs
}
