// Package signer uses the keys. It is handed a reservation that the ledger committed and the exact bytes it was made for, and has them
// signed by an HSM worker process; there is no other way in.
//
// Workers are this program's own binary run again. They talk over a socketpair, requests travel in batches with a deadline, and a worker
// that hangs or dies is killed and replaced while its unanswered attempts go to another one: callers notice latency at most.
package signer

import (
	"context"
	"errors"
	"log/slog"
	"os/exec"
	"time"

	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// Token is one PKCS#11 token and the workers that use it.
type Token struct {
	Name     string // "online", "iaca": ledger.Key.Token
	Module   string
	Label    string
	Serial   string
	PIN      func() ([]byte, error) // read at each worker start, wiped after use
	Marker   string                 // file that a refused PIN leaves; while it exists no worker of this token is started
	Workers  int
	Sessions int
	OnDemand bool // start a worker only when there is something to sign, end it after Idle (the IACA's token)
	Idle     time.Duration
	Copies   bool // use session-object copies (embedded SoftHSM only)
	// Command makes the worker process, without starting it; signer adds the socket as file descriptor 3. It is the daemon's binary
	// with the hidden command "worker", and the environment that the module needs.
	Command func() *exec.Cmd
}

// Options of New.
type Options struct {
	Ledger   *ledger.Ledger
	Tokens   []Token
	Deadline time.Duration // of one batch in a worker (default 1 s)
	Queue    int           // bound of each sheddable lane (default 1024)
	Log      *slog.Logger
	Metrics  *metrics.Metrics
}

// Signer runs the workers.
type Signer struct{}

// Busy: the lane is full; try again later.
var ErrBusy = errors.New("the signing lane is full")

// Down: no worker can sign (HSM gone, PIN refused); the error that wraps it says why.
var ErrDown = errors.New("the HSM can't sign")

var errNotBuilt = errors.New("not built")

// New starts the workers of all tokens that are not on demand and waits until each is ready or failed.
func New(ctx context.Context, o Options) (*Signer, error) { return nil, errNotBuilt }

// Close drains queued signatures until ctx ends, then ends the workers.
func (s *Signer) Close(ctx context.Context) error { return nil }

// Signatures belong to one reservation; only Sign makes them.
type Signatures struct{}

// Of returns the reservation, Raw the raw signature of item i, Worker who made it.
func (g *Signatures) Of() *ledger.Reservation { return nil }
func (g *Signatures) Raw(i int) []byte        { return nil }
func (g *Signatures) Worker(i int) string     { return "" }

// Sign claims the reservation and has every item signed. tbs are the exact bytes, in the order of the reservation's items.
// Algorithm: ES256 and ES384 sign SHA-256 and SHA-384 of the TBS, EdDSA the TBS itself.
func (s *Signer) Sign(ctx context.Context, r *ledger.Reservation, tbs [][]byte) (*Signatures, error) {
	return nil, errNotBuilt
}

// Derive returns HMAC-SHA256(domain secret, label), computed inside the token.
func (s *Signer) Derive(ctx context.Context, label string) ([32]byte, error) {
	return [32]byte{}, errNotBuilt
}

// Quarantine kills the worker that made a bad signature; a new one is started and must pass its checks.
func (s *Signer) Quarantine(g *Signatures, item int) {}

// Resign has item i of an already claimed reservation signed again by another worker after its signature was bad (journalled as a new attempt).
func (s *Signer) Resign(ctx context.Context, g *Signatures, item int, tbs []byte) (*Signatures, error) {
	return nil, errNotBuilt
}

// NewKey is a key pair that a token made.
type NewKey struct {
	CKAID []byte
	SPKI  []byte
}

// Generate makes a key pair (init and ceremonies). The caller registers it in the ledger; until then no worker uses it.
func (s *Signer) Generate(ctx context.Context, token, label, algorithm string, copies bool) (NewKey, error) {
	return NewKey{}, errNotBuilt
}

// NewSecret makes the domain secret inside a token and returns it wrapped (init). It never exists outside the token unwrapped.
func (s *Signer) NewSecret(ctx context.Context, token string) (wrappingKey, blob []byte, err error) {
	return nil, nil, errNotBuilt
}

// Reload makes workers of a token look up the registry's keys again (after PutKey, after init).
func (s *Signer) Reload(ctx context.Context, token string) error { return errNotBuilt }

// Health of one token, for readiness, metrics and doctor.
type Health struct {
	Token   string `json:"token"`
	Ready   int    `json:"ready"`
	Wanted  int    `json:"wanted"`
	Problem string `json:"problem,omitempty"`
}

// Health reports all tokens.
func (s *Signer) Health() []Health { return nil }

// SecretMeta is the ledger meta name under which a token's wrapped domain secret is kept (value: CBOR of wire.Wrapped).
func SecretMeta(token string) string { return "domain-secret/" + token }

var _ = policy.LaneLock
