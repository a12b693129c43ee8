package ca

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func (t *turns) state() (taken, waiting, clients int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.round {
		waiting += len(c.waiting)
	}
	return t.taken, waiting, len(t.clients)
}

// queue waits for a turn in the background; each turn that is given says whose it is.
func queue(t *turns, ctx context.Context, client string, n int, got chan<- string, leaves chan<- func()) {
	for range n {
		_, before, _ := t.state()
		go func() {
			if leave, err := t.enter(ctx, client); err == nil {
				leaves <- leave
				got <- client
			} else {
				got <- "gone"
			}
		}()
		for now := before; now == before; _, now, _ = t.state() {
			time.Sleep(time.Millisecond)
		}
	}
}

// A client with a hundred requests in the queue has no more turns than each of two others with two, and never all of them (F41).
func TestTurnsGoToTheClientsInARound(t *testing.T) {
	turns := newTurns(4)
	ctx := context.Background()
	got, leaves := make(chan string, 200), make(chan func(), 200)
	for range 3 {
		leave, err := turns.enter(ctx, "flood")
		if err != nil {
			t.Fatal(err)
		}
		leaves <- leave
	}
	queue(turns, ctx, "flood", 100, got, leaves) // its share is used up, though one turn is free
	if taken, waiting, _ := turns.state(); taken != 3 || waiting != 100 {
		t.Fatalf("%d turns are taken and %d wait", taken, waiting)
	}
	leave, err := turns.enter(ctx, "ward") // that one
	if err != nil {
		t.Fatal(err)
	}
	leaves <- leave
	queue(turns, ctx, "a", 2, got, leaves)
	queue(turns, ctx, "b", 2, got, leaves)
	counts := map[string]int{}
	for range 6 {
		(<-leaves)()
		counts[<-got]++
	}
	if counts["a"] != 2 || counts["b"] != 2 || counts["flood"] != 2 {
		t.Errorf("of six turns: %v, want two each", counts)
	}
	for range 4 + 98 {
		(<-leaves)()
	}
	if taken, waiting, clients := turns.state(); taken != 0 || waiting != 0 || clients != 0 {
		t.Errorf("in the end %d turns are taken, %d wait, %d clients are remembered", taken, waiting, clients)
	}
}

// Who gave up waiting gets no turn and blocks none, also when the turn came at the same moment.
func TestWhoGaveUpGetsNoTurn(t *testing.T) {
	turns := newTurns(1)
	leave, err := turns.enter(context.Background(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	got, leaves := make(chan string, 10), make(chan func(), 10)
	queue(turns, ctx, "a", 3, got, leaves)
	queue(turns, ctx, "b", 2, got, leaves)
	cancel()
	for range 5 {
		if who := <-got; who != "gone" {
			t.Errorf("%s got a turn", who)
		}
	}
	leave()
	leave() // once is enough, twice is harmless
	if _, err := turns.enter(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("a request that is over: %v", err)
	}

	var all sync.WaitGroup
	for range 2000 {
		ctx, cancel := context.WithCancel(context.Background())
		all.Go(cancel)
		all.Go(func() {
			if leave, err := turns.enter(ctx, "a"); err == nil {
				leave()
			}
		})
	}
	all.Wait()
	if taken, waiting, clients := turns.state(); taken != 0 || waiting != 0 || clients != 0 {
		t.Errorf("in the end %d turns are taken, %d wait, %d clients are remembered", taken, waiting, clients)
	}
}
