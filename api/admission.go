package api

import (
	"sync"

	"sealkeeper/ca"
)

// admission bounds how many requests wait for a signature. It refuses early instead of queueing (F39), and one client can't take every
// place (F41). Locks, unlocks and revocations never pass through it (F40).
type admission struct {
	mu       sync.Mutex
	max      int
	share    int // of one client
	held     int
	clients  map[string]int // bounded by held
	draining bool
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
