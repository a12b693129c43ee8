package ledger

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sealkeeper/internal/metrics"
	"sealkeeper/policy"
)

// gate is a store whose commits wait to be let through, and which can break.
type gate struct {
	Store
	entered chan []Op
	let     chan error
}

func newGate(t *testing.T) *gate {
	t.Helper()
	s, err := OpenSQLite(context.Background(), filepath.Join(t.TempDir(), "ledger.db"))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return &gate{Store: s, entered: make(chan []Op), let: make(chan error)}
}

func (g *gate) Commit(ctx context.Context, batch []Op) ([]Outcome, error) {
	g.entered <- batch
	if err := <-g.let; err != nil {
		return nil, err
	}
	return g.Store.Commit(ctx, batch)
}

func names(batch []Op) (all string) {
	for _, o := range batch {
		all += string(o.Leaf)
	}
	return all
}

func startCommitter(g *gate, fail func(error)) *committer {
	c := newCommitter(g, metrics.New(), func(batch []*write, _ uint64, _ bool) {
		for _, w := range batch {
			if w.applied != nil && w.out.Conflict == nil {
				w.applied(w.out.Seq)
			}
		}
	}, fail, noReserve())
	go c.run()
	return c
}

// queued submits without waiting for the answer, in order: it returns once the op is in its queue.
func queued(c *committer, wg *sync.WaitGroup, leaf string, urgent bool) {
	q := c.normal
	if urgent {
		q = c.urgent
	}
	before := len(q)
	wg.Go(func() { c.submit(context.Background(), Op{Leaf: []byte(leaf)}, urgent, nil) })
	for len(q) == before {
		yield()
	}
}

func yield() { ch := make(chan struct{}); go close(ch); <-ch }

func TestOpsThatWaitShareACommitAndUrgentOnesAreFirst(t *testing.T) {
	g := newGate(t)
	c := startCommitter(g, func(err error) { t.Error(err) })
	var wg sync.WaitGroup
	wg.Go(func() { c.submit(context.Background(), Op{Leaf: []byte("first")}, false, nil) })
	if got := names(<-g.entered); got != "first" {
		t.Fatalf("a lone op waited for %q", got)
	}
	for i := range 5 {
		queued(c, &wg, fmt.Sprint(i), false)
	}
	queued(c, &wg, "lock", true)
	g.let <- nil
	if got := names(<-g.entered); got != "lock01234" {
		t.Errorf("the next batch is %q", got)
	}
	g.let <- nil
	wg.Wait()
	c.end()
}

func TestLocksDontWaitBehindAFullQueue(t *testing.T) {
	g := newGate(t)
	c := newCommitter(g, metrics.New(), func([]*write, uint64, bool) {}, func(err error) { t.Error(err) }, noReserve())
	for range queueBound {
		c.normal <- &write{op: Op{Leaf: []byte("x")}, done: make(chan struct{})}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.submit(ctx, Op{Leaf: []byte("issue")}, false, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("an op got into a full queue: %v", err)
	}
	var wg sync.WaitGroup
	queued(c, &wg, "lock", true)
	go c.run()
	if batch := <-g.entered; string(batch[0].Leaf) != "lock" {
		t.Errorf("the first op committed is %q", batch[0].Leaf)
	}
	go c.end()
	for open := true; open; {
		g.let <- nil
		select {
		case <-g.entered:
		case <-c.ended:
			open = false
		}
	}
	wg.Wait()
}

func TestWindowWaitsForThoseOnTheirWay(t *testing.T) {
	g := newGate(t)
	c := startCommitter(g, func(err error) { t.Error(err) })
	var wg sync.WaitGroup
	leave1, leave2 := c.arrive(), c.arrive()
	wg.Go(func() { c.submit(context.Background(), Op{Leaf: []byte("a")}, false, nil) })
	wg.Go(func() { c.submit(context.Background(), Op{Leaf: []byte("b")}, false, nil) })
	n := len(<-g.entered) // both, unless the second took longer than the window
	g.let <- nil
	if n == 1 {
		<-g.entered
		g.let <- nil
	}
	wg.Wait()
	leave1()
	leave1() // once counts
	leave2()
	if n := c.announced.Load(); n != 0 {
		t.Errorf("%d requests are announced for ever", n)
	}
	c.end()
}

// One error of the disk ends everything, is told once, and is told before anybody could go on.
func TestDiskErrorIsTheEnd(t *testing.T) {
	for _, persisted := range []bool{false, true} { // "it did not happen", "it happened and the answer was lost"
		t.Run(fmt.Sprintf("persisted=%t", persisted), func(t *testing.T) {
			ctx := context.Background()
			h := newHouse(t)
			must(t, h.PutMeta(ctx, "before", []byte("1")))
			must(t, h.Close())
			s, err := OpenSQLite(ctx, h.o.Path)
			must(t, err)
			b := &breaking{Store: s, persisted: persisted}
			var fatal []error
			o := h.o
			o.Fatal = func(err error) { fatal = append(fatal, err) }
			l, err := open(ctx, o, b)
			must(t, err)
			l.Unlock(testSecrets())
			b.broken = true
			err = l.PutMeta(ctx, "lost", []byte("2"))
			if !errors.Is(err, ErrStopped) || !errors.Is(err, errDisk) {
				t.Errorf("the caller got %v", err)
			}
			b.broken = false // it works again: that must not matter
			if err := l.PutMeta(ctx, "after", []byte("3")); !errors.Is(err, ErrStopped) {
				t.Errorf("a stopped ledger took %v", err)
			}
			_, err = l.Lease(ctx, resident, policy.MDoc, 1)
			if !errors.Is(err, ErrStopped) {
				t.Errorf("a stopped ledger leased: %v", err)
			}
			if _, _, err := l.Meta(ctx, "before"); !errors.Is(err, ErrStopped) {
				t.Errorf("a stopped ledger reads: %v", err)
			}
			if len(fatal) != 1 || !errors.Is(fatal[0], errDisk) {
				t.Errorf("Fatal was called %d times: %v", len(fatal), fatal)
			}
			l.Close()
			h.open() // recovery is the same code as start
			if v, _, _ := h.Meta(ctx, "before"); string(v) != "1" {
				t.Errorf("an acknowledged value is gone: %q", v)
			}
			if _, ok, _ := h.Meta(ctx, "lost"); ok != persisted {
				t.Errorf("the unacknowledged value is there: %t", ok)
			}
		})
	}
}

var errDisk = errors.New("input/output error")

type breaking struct {
	Store
	broken, persisted bool
}

func (b *breaking) Commit(ctx context.Context, batch []Op) ([]Outcome, error) {
	if !b.broken {
		return b.Store.Commit(ctx, batch)
	}
	if b.persisted {
		if _, err := b.Store.Commit(ctx, batch); err != nil {
			return nil, err
		}
	}
	return nil, errDisk
}

// The committer answers while it has nothing to do and between commits, not while a commit hangs, and no op is made of it.
func TestPulse(t *testing.T) {
	g := newGate(t)
	c := startCommitter(g, func(err error) { t.Error(err) })
	if err := c.pulse(t.Context()); err != nil {
		t.Fatalf("idle: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { c.submit(context.Background(), Op{Leaf: []byte("hangs")}, true, nil) })
	<-g.entered
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.pulse(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a commit hangs, and the committer answered: %v", err)
	}
	g.let <- nil
	wg.Wait()
	if err := c.pulse(t.Context()); err != nil {
		t.Errorf("after the commit: %v", err)
	}
	if size, _, err := g.Store.Head(t.Context()); err != nil || size != 1 {
		t.Errorf("%d entries, want the one that was submitted: %v", size, err)
	}
	c.end()
	if err := c.pulse(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("ended: %v", err)
	}
}
