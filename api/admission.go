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
	mu      sync.Mutex
	max     int
	share   int // of one client
	held    int
	clients map[string]int       // bounded by held
	paced   map[string]time.Time // client → when its next refusal is due; of clients that have a certificate of ours alone
	drains  chan struct{}        // closed when a drain begins
}

func newAdmission(most int) admission {
	return admission{max: most, share: max(1, most/shareOfIssues), clients: map[string]int{}, paced: map[string]time.Time{}, drains: make(chan struct{})}
}

// A refusal costs a fifth of an answer: taking it off the wire, identity, the log, and putting it on the wire. From a flood that would be more than all
// answers together. So who is refused more often than this waits for the refusal, and its connection with it.
const (
	refusalEvery = 16 * time.Millisecond
	refusalBurst = 64
	refusalLate  = 4 * time.Second // never more
)

// pause holds a refusal back if its client is refused more often than every refusalEvery. No drain is held up.
func (a *admission) pause(ctx context.Context, client string) {
	now := time.Now()
	a.mu.Lock()
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
	case <-a.drains:
	}
}

// enter takes a place; leave gives it back and must be called once.
func (a *admission) enter(client string) (leave func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.drained():
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
	if !a.drained() {
		close(a.drains)
	}
}

func (a *admission) drained() bool {
	select {
	case <-a.drains:
		return true
	default:
		return false
	}
}
