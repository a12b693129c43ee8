// Package release is the exit gate: it verifies every signature with the pinned public key, in other code than that which signed,
// settles the reservation, and only then lets a byte leave.
//
// A signature that does not verify never leaves, whatever made it so: a broken module, a swapped key, a flipped bit, a hand in the
// worker. Neither does one whose r was seen before under the same key: two ECDSA signatures with one r give the private key away.
package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/signer"
)

// tries at making a signature again after a bad one.
const tries = 3

// Gate of one appliance.
type Gate struct {
	ledger  *ledger.Ledger
	signer  *signer.Signer
	metrics *metrics.Metrics

	mu   sync.Mutex
	pins map[string]*pin // by key id
}

// New makes the gate.
func New(l *ledger.Ledger, s *signer.Signer, m *metrics.Metrics) *Gate {
	if m == nil {
		m = metrics.New()
	}
	return &Gate{ledger: l, signer: s, metrics: m, pins: map[string]*pin{}}
}

// Checked are signatures that were verified with the pinned keys. The zero value is refused.
type Checked struct {
	gate        *Gate
	reservation *ledger.Reservation
	tbs         [][]byte
	raw         [][]byte
	workers     []string
	spent       atomic.Bool
}

// Raw is the verified raw signature of item i: r‖s or Ed25519. It panics on the zero value.
func (c *Checked) Raw(i int) []byte { return c.raw[i] }

// TBS is the exact bytes of item i that were signed.
func (c *Checked) TBS(i int) []byte { return c.tbs[i] }

// Len is the number of items.
func (c *Checked) Len() int {
	if c == nil {
		return 0
	}
	return len(c.raw)
}

// Check verifies all signatures. A bad one quarantines its worker, is counted, never leaves, and is made again elsewhere (3 tries).
func (g *Gate) Check(ctx context.Context, r *ledger.Reservation, tbs [][]byte, s *signer.Signatures) (*Checked, error) {
	switch {
	case g == nil || r == nil || s == nil:
		return nil, errors.New("checking needs a gate, a reservation and its signatures")
	case !r.Claimed(g.ledger):
		return nil, errors.New("the reservation is not this ledger's, was not claimed, or is settled")
	case s.Of() != r:
		return nil, fmt.Errorf("these signatures were not made for reservation %s", r.ID())
	}
	items := r.Items()
	if len(tbs) != len(items) {
		return nil, fmt.Errorf("reservation %s has %d items, not %d", r.ID(), len(items), len(tbs))
	}
	c := &Checked{gate: g, reservation: r}
	for i, item := range items {
		own := exactly(tbs[i]) // what is compared here is what Join puts into the answer
		if own.hash != item.TBSHash {
			return nil, fmt.Errorf("reservation %s: item %d was not reserved with these bytes", r.ID(), i)
		}
		p, err := g.pin(item)
		if err != nil {
			return nil, fmt.Errorf("reservation %s: item %d: %w", r.ID(), i, err)
		}
		for try := 0; ; try++ {
			bad := p.verify(own, s.Raw(i))
			if bad == nil {
				break
			}
			g.metrics.Signatures.WithLabelValues(item.KeyID, string(item.Purpose), "bad").Inc()
			g.signer.Quarantine(s, i)
			bad = fmt.Errorf("reservation %s: item %d: worker %s made a signature that is not released: %w", r.ID(), i, s.Worker(i), bad)
			if try == tries {
				return nil, bad
			}
			next, err := g.signer.Resign(ctx, s, i, own.tbs)
			if err != nil {
				return nil, errors.Join(bad, err)
			}
			s = next
		}
		g.metrics.Signatures.WithLabelValues(item.KeyID, string(item.Purpose), "ok").Inc()
		c.tbs, c.raw, c.workers = append(c.tbs, own.tbs), append(c.raw, s.Raw(i)), append(c.workers, s.Worker(i))
	}
	return c, nil
}

// pin finds the pinned key of an item.
func (g *Gate) pin(i ledger.Item) (*pin, error) {
	keys := g.ledger.Keys()
	n := slices.IndexFunc(keys, func(k ledger.Key) bool { return k.ID == i.KeyID })
	if n < 0 {
		return nil, fmt.Errorf("key %q is not in the registry", i.KeyID)
	}
	k := keys[n]
	if k.Purpose != i.Purpose {
		return nil, fmt.Errorf("key %q is for %s, not for %s", k.ID, k.Purpose, i.Purpose)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.pins[k.ID]
	if p == nil || p.algorithm != k.Algorithm || !bytes.Equal(p.spki, k.SPKI) {
		var err error
		if p, err = newPin(k); err != nil {
			return nil, err
		}
		g.pins[k.ID] = p
	}
	return p, nil
}

// Released is an answer that may leave: it is settled. The zero value holds nothing.
type Released struct {
	answer []byte
	first  bool
}

// Bytes of the answer that won.
func (r *Released) Bytes() []byte {
	if r == nil {
		return nil
	}
	return r.answer
}

// First reports whether this call's own answer won.
func (r *Released) First() bool { return r != nil && r.first }

// Pass settles the reservation with the joined answer and hands out the one that won. A Checked passes once.
func (g *Gate) Pass(ctx context.Context, c *Checked, answer []byte) (*Released, error) {
	switch {
	case g == nil || c == nil || c.gate == nil:
		return nil, errors.New("passing needs a gate and checked signatures")
	case c.gate != g:
		return nil, errors.New("the signatures were checked at another gate")
	case !c.spent.CompareAndSwap(false, true):
		return nil, fmt.Errorf("the signatures of reservation %s have passed before", c.reservation.ID())
	}
	won, first, err := g.ledger.Settle(ctx, c.reservation, ledger.Settlement{Signatures: c.raw, Workers: c.workers, Answer: answer})
	if err != nil {
		return nil, fmt.Errorf("settling reservation %s: %w", c.reservation.ID(), err)
	}
	return &Released{answer: won, first: first}, nil
}

// Recalled wraps an answer that the ledger had settled before.
func Recalled(r ledger.Recall) *Released {
	if !r.Done {
		return &Released{}
	}
	return &Released{answer: r.Answer}
}
