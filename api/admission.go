package api

import (
	"context"
	"sync"
	"time"

	"sealkeeper/ca"
)

// admission bounds how many requests wait for a signature. It refuses early instead of queueing (F39), and one client can't take every
// place (F41). Locks, unlocks and revocations never pass through it (F40).
type admission struct {
	mu       sync.Mutex
	max      int
	share    int // of one client
	held     int
	clients  map[string]int       // bounded by held
	paced    map[string]time.Time // client → when its next refusal is due; of clients of the policy alone
	draining bool
}

// A refusal costs a tenth of an answer: reading, identity, the log. From a flood that would be more than all answers together. So who is
// refused more often than this waits for the refusal, and its connection with it.
const (
	refusalEvery = 4 * time.Millisecond
	refusalBurst = 64
	refusalLate  = time.Second // never more: it is what Retry-After says
)

// pause holds a refusal back if its client is refused more often than every refusalEvery. A drain is not held up.
func (a *admission) pause(ctx context.Context, client string) {
	now := time.Now()
	a.mu.Lock()
	if a.draining {
		a.mu.Unlock()
		return
	}
	if a.paced == nil {
		a.paced = map[string]time.Time{}
	}
	due := a.paced[client]
	if due.Before(now) {
		due = now
	}
	wait := min(due.Sub(now)-refusalBurst*refusalEvery, refusalLate)
	if wait < refusalLate {
		a.paced[client] = due.Add(refusalEvery)
	}
	a.mu.Unlock()
	if wait <= 0 {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// enter takes a place; leave gives it back and must be called once.
func (a *admission) enter(client string) (leave func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.draining:
		return nil, &ca.Problem{Code: "draining", Detail: "this appliance is shutting down", RetryIn: retryDrain}
	case a.held >= a.max:
		return nil, &ca.Problem{Code: "overloaded", Detail: "too many issue requests are in flight", RetryIn: retryBusy}
	case a.clients[client] >= a.share:
		return nil, &ca.Problem{Code: "client.busy", Detail: "this client has too many issue requests in flight", RetryIn: retryBusy}
	}
	a.held++
	a.clients[client]++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.held--
		if a.clients[client]--; a.clients[client] == 0 {
			delete(a.clients, client)
		}
	}, nil
}

func (a *admission) drain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.draining = true
}

func (a *admission) drained() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.draining
}
