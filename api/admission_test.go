package api

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Who is refused more often than every 16 ms, after a burst of 64, waits for the refusal: 4 s at most, and no longer than until the appliance shuts down or the
// client is gone. Nobody else waits.
func TestRefusalsOfAFloodAreLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, began := newAdmission(4), time.Now()
		refuse := func(client string) time.Duration {
			at := time.Now()
			a.pause(t.Context(), client)
			return time.Since(at)
		}
		for i := range refusalBurst + 1 {
			if took := refuse("flood"); took != 0 {
				t.Fatalf("refusal %d of a burst is %v late", i+1, took)
			}
		}
		for range 100 {
			if took := refuse("flood"); took != refusalEvery {
				t.Fatalf("one refusal after the other: %v late, want %v", took, refusalEvery)
			}
		}
		if took := refuse("other"); took != 0 {
			t.Errorf("a client that floods nobody is refused %v late", took)
		}
		time.Sleep(time.Hour)
		var all sync.WaitGroup
		var mu sync.Mutex
		most, late := time.Duration(0), 0
		for range 1000 {
			all.Go(func() {
				took := refuse("flood")
				mu.Lock()
				defer mu.Unlock()
				if most = max(most, took); took == refusalLate {
					late++
				}
			})
		}
		all.Wait()
		if want := 1000 - refusalBurst - int(refusalLate/refusalEvery); most != refusalLate || late != want {
			t.Errorf("1000 refusals at once: %d of them %v late, want %d of %v", late, most, want, refusalLate)
		}

		a.paced["flood"] = time.Now().Add(time.Minute)
		gone, leave := context.WithCancel(t.Context())
		all.Go(func() { // its client
			at := time.Now()
			if a.pause(gone, "flood"); time.Since(at) != time.Second {
				t.Errorf("a client that is gone after 1 s is kept for %v", time.Since(at))
			}
		})
		time.Sleep(time.Second)
		leave()
		all.Wait()

		all.Go(func() {
			at := time.Now()
			if a.pause(t.Context(), "flood"); time.Since(at) != time.Second {
				t.Errorf("a drain that begins after 1 s is held up for %v", time.Since(at))
			}
		})
		time.Sleep(time.Second)
		a.drain()
		a.drain() // a second signal
		all.Wait()
		if took := refuse("flood"); took != 0 {
			t.Errorf("during a drain a refusal is %v late", took)
		}
		if spent := time.Since(began); spent < time.Hour {
			t.Errorf("only %v went by", spent)
		}
	})
}
