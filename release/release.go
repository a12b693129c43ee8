// Package release is the exit gate: it verifies every signature with the pinned public key, in other code than that which signed,
// settles the reservation, and only then lets a byte leave.
package release

import (
	"context"
	"errors"

	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/signer"
)

// Gate of one appliance.
type Gate struct{}

var errNotBuilt = errors.New("not built")

// New makes the gate.
func New(l *ledger.Ledger, s *signer.Signer, m *metrics.Metrics) *Gate { return nil }

// Checked are signatures that were verified with the pinned keys. The zero value is refused.
type Checked struct{}

// Raw is the verified raw signature of item i: r‖s or Ed25519. It panics on the zero value.
func (c *Checked) Raw(i int) []byte { return nil }

// TBS is the exact bytes of item i that were signed.
func (c *Checked) TBS(i int) []byte { return nil }

// Len is the number of items.
func (c *Checked) Len() int { return 0 }

// Check verifies all signatures. A bad one quarantines its worker, is counted, never leaves, and is made again elsewhere (3 tries).
func (g *Gate) Check(ctx context.Context, r *ledger.Reservation, tbs [][]byte, s *signer.Signatures) (*Checked, error) {
	return nil, errNotBuilt
}

// Released is an answer that may leave: it is settled. The zero value holds nothing.
type Released struct{}

// Bytes of the answer that won.
func (r *Released) Bytes() []byte { return nil }

// First reports whether this call's own answer won.
func (r *Released) First() bool { return false }

// Pass settles the reservation with the joined answer and hands out the one that won. A Checked passes once.
func (g *Gate) Pass(ctx context.Context, c *Checked, answer []byte) (*Released, error) {
	return nil, errNotBuilt
}

// Recalled wraps an answer that the ledger had settled before.
func Recalled(r ledger.Recall) *Released { return nil }
