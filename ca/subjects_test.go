package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"sealkeeper/policy"
)

// waiting returns once n callers wait.
func (s *subjects) waiting(n int) {
	for {
		s.mu.Lock()
		got := 0
		for _, r := range s.busy {
			got += len(r.urgent) + len(r.others)
		}
		s.mu.Unlock()
		if got == n {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// A lock waits for whoever decides about the holder right now, and for nobody else who was there before it.
func TestLocksGoToTheHeadOfTheRow(t *testing.T) {
	var s subjects
	ctx, who := context.Background(), policy.Pseudonym{1}
	leave, err := s.enter(ctx, "kr", who, false)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order []string
	var wg sync.WaitGroup
	for i, name := range []string{"issue 1", "issue 2", "lock 1", "lock 2"} {
		wg.Go(func() {
			leave, err := s.enter(ctx, "kr", who, i > 1)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
			leave()
		})
		s.waiting(i + 1)
	}
	gone, cancel := context.WithCancel(ctx)
	wg.Go(func() {
		if _, err := s.enter(gone, "kr", who, true); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that left: %v", err)
		}
	})
	s.waiting(5)
	cancel()
	s.waiting(4)
	other, err := s.enter(ctx, "kr", policy.Pseudonym{2}, false)
	if err != nil {
		t.Fatal(err)
	}
	other()
	leave()
	leave() // twice is once
	wg.Wait()
	if want := []string{"lock 1", "lock 2", "issue 1", "issue 2"}; !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
	if len(s.busy) != 0 {
		t.Errorf("%d rows are left", len(s.busy))
	}
}

// Callers come and give up at every moment: never two at once, and the turn is never lost.
func TestTurnIsNeverLost(t *testing.T) {
	var s subjects
	var inside, served int
	var wg sync.WaitGroup
	for i := range 400 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%7)*200*time.Microsecond)
			defer cancel()
			if i%3 == 0 {
				ctx = context.Background()
			}
			leave, err := s.enter(ctx, "kr", policy.Pseudonym{1}, i%2 == 0)
			if err != nil {
				return
			}
			if inside++; inside != 1 { // the race detector looks as well
				t.Error(fmt.Errorf("%d at once", inside))
			}
			served++
			inside--
			leave()
		})
	}
	wg.Wait()
	if len(s.busy) != 0 || served < 134 {
		t.Errorf("%d rows are left, %d served", len(s.busy), served)
	}
}
