package ca

import (
	"context"
	"slices"
	"sync"

	"sealkeeper/policy"
)

// subjects lets one request at a time decide about a holder, so that a crowd at one holder's door waits in a row instead of burning its
// five tries against each other. A lock or revocation goes to the head of the row. It is a courtesy, not a safeguard: the safeguard is the
// epoch that the ledger compares.
type subjects struct {
	mu   sync.Mutex
	busy map[subjectKey]*row
}

type subjectKey struct {
	documentType string
	subject      policy.Pseudonym
}

// row is who waits for a holder, while somebody has the turn.
type row struct{ urgent, others []chan struct{} }

// enter waits for its turn; leave must be called once. Whoever has the turn waits for nothing but the ledger.
func (s *subjects) enter(ctx context.Context, documentType string, p policy.Pseudonym, urgent bool) (leave func(), err error) {
	k := subjectKey{documentType, p}
	leave = sync.OnceFunc(func() { s.next(k) })
	s.mu.Lock()
	if s.busy == nil {
		s.busy = map[subjectKey]*row{}
	}
	r := s.busy[k]
	if r == nil {
		s.busy[k] = &row{}
		s.mu.Unlock()
		return leave, nil
	}
	called := make(chan struct{})
	if urgent {
		r.urgent = append(r.urgent, called)
	} else {
		r.others = append(r.others, called)
	}
	s.mu.Unlock()
	select {
	case <-called:
		return leave, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	select {
	case <-called: // at the same time: the turn is here and goes on
		s.mu.Unlock()
		leave()
	default:
		is := func(c chan struct{}) bool { return c == called }
		r.urgent, r.others = slices.DeleteFunc(r.urgent, is), slices.DeleteFunc(r.others, is)
		s.mu.Unlock()
	}
	return nil, ctx.Err()
}

// next gives the turn to the head of the row.
func (s *subjects) next(k subjectKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.busy[k]
	switch {
	case len(r.urgent) > 0:
		close(r.urgent[0])
		r.urgent = r.urgent[1:]
	case len(r.others) > 0:
		close(r.others[0])
		r.others = r.others[1:]
	default:
		delete(s.busy, k)
	}
}
