package ca

import (
	"context"
	"sync"

	"sealkeeper/policy"
)

// subjects lets one request at a time decide about a holder, so that a crowd at one holder's door waits in a row instead of burning its
// five tries against each other. It is a courtesy, not a safeguard: the safeguard is the epoch that the ledger compares.
type subjects struct {
	mu   sync.Mutex
	busy map[subjectKey]*turn
}

type subjectKey struct {
	documentType string
	subject      policy.Pseudonym
}

type turn struct {
	ch      chan struct{} // holds one token
	waiting int
}

// enter waits for its turn; leave must be called once.
func (s *subjects) enter(ctx context.Context, documentType string, p policy.Pseudonym) (leave func(), err error) {
	k := subjectKey{documentType, p}
	s.mu.Lock()
	if s.busy == nil {
		s.busy = map[subjectKey]*turn{}
	}
	t := s.busy[k]
	if t == nil {
		t = &turn{ch: make(chan struct{}, 1)}
		s.busy[k] = t
	}
	t.waiting++
	s.mu.Unlock()
	done := func() {
		s.mu.Lock()
		if t.waiting--; t.waiting == 0 {
			delete(s.busy, k)
		}
		s.mu.Unlock()
	}
	select {
	case t.ch <- struct{}{}:
		var once sync.Once
		return func() { once.Do(func() { <-t.ch; done() }) }, nil
	case <-ctx.Done():
		done()
		return nil, ctx.Err()
	}
}
