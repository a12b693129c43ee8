package ca

import (
	"context"
	"sync"
)

// turns bounds how many issue requests are worked on at once. More at the same time make nothing faster: they only wait for each other in
// every queue further in, locks with them. Who finds no turn waits here, where a request that its client gave up costs no signature yet. A
// free turn goes to the clients in a round, not to the longest queue, and one client never has all of them (F41).
//
// How many may wait is the edge's to bound.
type turns struct {
	most, share int

	mu      sync.Mutex
	taken   int
	clients map[string]*clientTurns // with a turn or waiting
	round   []*clientTurns          // with somebody waiting, the next first
}

type clientTurns struct {
	id      string
	taken   int
	waiting []chan struct{}
}

func newTurns(most int) *turns {
	return &turns{most: most, share: max(1, most*3/4), clients: map[string]*clientTurns{}}
}

// enter waits for a turn; leave gives it back, and may be called again.
func (t *turns) enter(ctx context.Context, client string) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	c := t.clients[client]
	if c == nil {
		c = &clientTurns{id: client}
		t.clients[client] = c
	}
	leave = sync.OnceFunc(func() { t.mu.Lock(); defer t.mu.Unlock(); t.leave(c) })
	if t.taken < t.most && c.taken < t.share { // then nobody waits who could have it: leave looks for them
		t.taken, c.taken = t.taken+1, c.taken+1
		t.mu.Unlock()
		return leave, nil
	}
	called := make(chan struct{})
	if c.waiting = append(c.waiting, called); len(c.waiting) == 1 {
		t.round = append(t.round, c)
	}
	t.mu.Unlock()
	select {
	case <-called:
		return leave, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, w := range c.waiting {
		if w == called {
			if c.waiting = append(c.waiting[:i], c.waiting[i+1:]...); len(c.waiting) == 0 {
				t.out(c)
			}
			t.forget(c)
			return nil, ctx.Err()
		}
	}
	t.leave(c) // called at the same time: the turn is here and goes on
	return nil, ctx.Err()
}

// leave gives a turn to the first client of the round that may have it. Holds mu, as the two below.
func (t *turns) leave(c *clientTurns) {
	t.taken, c.taken = t.taken-1, c.taken-1
	for _, next := range t.round {
		if next.taken >= t.share {
			continue
		}
		t.taken, next.taken = t.taken+1, next.taken+1
		close(next.waiting[0])
		next.waiting = next.waiting[1:]
		t.out(next)
		if len(next.waiting) > 0 {
			t.round = append(t.round, next)
		}
		break
	}
	t.forget(c)
}

func (t *turns) out(c *clientTurns) {
	for i, r := range t.round {
		if r == c {
			t.round = append(t.round[:i], t.round[i+1:]...)
			return
		}
	}
}

func (t *turns) forget(c *clientTurns) {
	if c.taken == 0 && len(c.waiting) == 0 {
		delete(t.clients, c.id)
	}
}
