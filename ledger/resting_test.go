package ledger

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What a commit wrote is in every read that begins after its answer, whichever connection reads.
func TestSQLiteReadsAreFresh(t *testing.T) {
	ctx := context.Background()
	s, err := OpenSQLite(ctx, filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const last = 200
	var answered atomic.Uint64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for after := uint64(0); after < last; {
				after = answered.Load()
				request, slot, err := s.(twoReader).getTwo([]byte("k"), []byte("k"))
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range []Entry{request, slot} {
					if e.Revision < after || e.Revision > 0 && string(e.Value) != fmt.Sprint(e.Revision) || e.Revision != slot.Revision {
						t.Errorf("after the answer to commit %d a read saw commit %d: %q", after, e.Revision, e.Value)
						return
					}
				}
			}
		})
	}
	for n := range last {
		op := Op{Leaf: []byte(`{"v":1,"kind":"x","at":"2026-11-20T12:00:00Z"}`)}
		for _, table := range []Table{TableRequests, TableSlots} {
			op.Rows = append(op.Rows, Row{Table: table, Key: []byte("k"), Value: fmt.Append(nil, n+1), If: Any})
		}
		out, err := s.Commit(ctx, []Op{op})
		if err != nil {
			t.Fatal(err)
		}
		answered.Store(out[0].Seq + 1)
	}
	all.Wait()
}

// A request is read by the connection that writes while that rests, and by a reader while a commit runs or waits for it: whoever locks a card
// must not stand behind those who ask for one.
func TestSQLiteReadsLetCommitsGoFirst(t *testing.T) {
	opened, err := OpenSQLite(context.Background(), filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	s := opened.(*sqlite)
	if _, err := s.Commit(context.Background(), []Op{{Leaf: []byte(`{"v":1,"kind":"x","at":"2026-11-20T12:00:00Z"}`)}}); err != nil {
		t.Fatal(err)
	}
	read := func() chan struct{} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, _, err := s.getTwo([]byte("k"), []byte("k")); err != nil {
				t.Error(err)
			}
		}()
		return done
	}
	for range cap(s.read.room) { // all readers are lent
		s.read.room <- struct{}{}
	}
	<-read()
	for name, busy := range map[string]func() (rest func()){
		"waits": func() func() { s.waiting.Store(true); return func() { s.waiting.Store(false) } },
		"runs":  func() func() { s.mu.Lock(); return s.mu.Unlock },
	} {
		rest := busy()
		done := read()
		select {
		case <-done:
			t.Errorf("while a commit %s, its connection is lent", name)
		case <-time.After(50 * time.Millisecond):
		}
		<-s.read.room // a reader comes back
		<-done
		rest()
		s.read.room <- struct{}{}
	}
	for range cap(s.read.room) {
		<-s.read.room
	}
}
