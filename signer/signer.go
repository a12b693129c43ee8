// Package signer uses the keys. It is handed a reservation that the ledger committed and the exact bytes it was made for, and has them
// signed by an HSM worker process; there is no other way in.
//
// Workers are this program's own binary run again. They talk over a socketpair, requests travel in batches with a deadline, and a worker
// that hangs or dies is killed and replaced while its unanswered attempts go to another one: callers notice latency at most.
package signer

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/signer/wire"
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
	// Environment, if not nil, is added to Command's for the worker at a place from 1 to Workers. A worker that is replaced leaves its place to
	// its successor, so that each place can have a server of the HSM of its own.
	Environment func(place int) []string
	// Confine, if not nil, is called once on the one thread that starts this token's workers. What it takes from that thread, they never get.
	Confine func() error
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

// Busy: the lane is full; try again later.
var ErrBusy = errors.New("the signing lane is full")

// Down: no worker can sign (HSM gone, PIN refused); the error that wraps it says why.
var ErrDown = errors.New("the HSM can't sign")

// ErrKeyEnded: the key was stopped after the reservation was made. It is replaced by one with another key.
var ErrKeyEnded = errors.New("the key signs nothing more")

// ErrOldToken: the ledger knows a key that the token lacks (with ErrDown; only the newest token has all, so nothing that is accepted helps),
// or the token's mark is not the last one.
var ErrOldToken = errors.New("FENCED: the token is older than the ledger, or another one")

// makingWithin bounds the making of a key: 60 to 90 ms on SoftHSM, seconds on a card.
const makingWithin = 30 * time.Second

// Signer runs the workers.
type Signer struct {
	ledger *ledger.Ledger
	pools  []*pool
	once   sync.Once
	closed error
}

// New starts the workers of all tokens that are not on demand and waits until each is ready or failed. It fails if a token has no worker
// at all: start again when what the error says is mended.
func New(ctx context.Context, o Options) (*Signer, error) {
	if o.Deadline <= 0 {
		o.Deadline = time.Second
	}
	if o.Queue <= 0 {
		o.Queue = 1024
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New()
	}
	if o.Ledger == nil {
		return nil, errors.New("a signer without a ledger signs nothing")
	}
	names := map[string]bool{}
	for _, t := range o.Tokens {
		if t.Name == "" || names[t.Name] || t.Command == nil || t.PIN == nil {
			return nil, fmt.Errorf("token %q needs a name of its own, a PIN source and a worker command", t.Name)
		}
		names[t.Name] = true
	}
	s := &Signer{ledger: o.Ledger}
	for _, t := range o.Tokens {
		hello := func(ctx context.Context) (wire.Hello, error) { return greeting(ctx, o.Ledger, t) }
		s.pools = append(s.pools, newPool(t, o.Deadline, o.Queue, hello, o.Log, o.Metrics))
	}
	var failed []error
	for _, p := range s.pools {
		if p.token.OnDemand {
			continue
		}
		failed = append(failed, p.started(ctx))
	}
	if err := errors.Join(failed...); err != nil {
		s.Close(ctx)
		return nil, fmt.Errorf("starting the signer: %w", err)
	}
	return s, nil
}

// greeting is what a worker of t gets to know, all but the PIN. A generated key is part of it: its own certificate is the first thing
// that it is used for. Which reservation may use which key, the ledger decides.
func greeting(ctx context.Context, l *ledger.Ledger, t Token) (wire.Hello, error) {
	h := wire.Hello{Module: t.Module, Token: t.Label, Serial: t.Serial, Sessions: t.Sessions, Copies: t.Copies}
	for _, k := range l.Keys() {
		if k.Token == t.Name && loaded(l, k) {
			h.Keys = append(h.Keys, wire.Key{
				ID: k.ID, CKAID: k.CKAID, Purpose: string(k.Purpose), Algorithm: k.Algorithm, SPKI: k.SPKI, Copies: k.Copies,
			})
		}
	}
	switch value, ok, err := l.Meta(ctx, SecretMeta(t.Name)); {
	case err != nil:
		return h, err
	case ok:
		var w wire.Wrapped
		if err := cbor.Unmarshal(value, &w); err != nil {
			return h, fmt.Errorf("the ledger's %s is not a wrapped secret: %w", SecretMeta(t.Name), err)
		}
		h.Secret = []wire.Wrapped{w}
	}
	return h, nil
}

// loaded: a worker has the key. All that is to come is there before its turn, so that a hand-over starts no worker.
func loaded(l *ledger.Ledger, k ledger.Key) bool {
	switch k.State {
	case ledger.KeyGenerated, ledger.KeyCertified, ledger.KeyAnnounced:
		return true
	}
	return l.Finishes(k)
}

// Close drains queued signatures until ctx ends, then ends the workers.
func (s *Signer) Close(ctx context.Context) error {
	if s == nil {
		return nil
	}
	s.once.Do(func() {
		failed := make([]error, len(s.pools))
		var all sync.WaitGroup
		for i, p := range s.pools {
			all.Go(func() { failed[i] = p.close(ctx) })
		}
		all.Wait()
		s.closed = errors.Join(failed...)
	})
	return s.closed
}

// Signatures belong to one reservation; only Sign makes them.
type Signatures struct {
	signer      *Signer
	reservation *ledger.Reservation
	raw         [][]byte
	workers     []string
}

// Of returns the reservation, Raw the raw signature of item i, Worker who made it. The zero value has none of them.
func (g *Signatures) Of() *ledger.Reservation {
	if g == nil {
		return nil
	}
	return g.reservation
}

func (g *Signatures) Raw(i int) []byte {
	if g == nil || i < 0 || i >= len(g.raw) {
		return nil
	}
	return g.raw[i]
}

func (g *Signatures) Worker(i int) string {
	if g == nil || i < 0 || i >= len(g.workers) {
		return ""
	}
	return g.workers[i]
}

// attempts journals the tries of one reservation.
type attempts struct {
	ledger      *ledger.Ledger
	reservation *ledger.Reservation
}

func (a attempts) lost(ctx context.Context, items []int, worker string) error {
	return a.ledger.Lost(ctx, a.reservation, items, worker)
}

// again does not name a worker: whoever is free first takes the item.
func (a attempts) again(ctx context.Context, items []int) error {
	return a.ledger.Attempt(ctx, a.reservation, items, "")
}

// Room says whether a token would take n more signatures of a lane on now: ErrBusy or ErrDown if not. It promises nothing. Asked before a
// reservation is made, it lets overload cost neither an index nor a commit.
func (s *Signer) Room(token string, lane policy.Lane, n int) error {
	p, err := s.pool(token)
	if err != nil {
		return err
	}
	return p.room(lane, n)
}

// Sign claims the reservation and has every item signed. tbs are the exact bytes, in the order of the reservation's items.
// Algorithm: ES256 and ES384 sign SHA-256 and SHA-384 of the TBS, EdDSA the TBS itself.
//
// If ctx ends first, answers that are still on their way are dropped. After that, as after ErrBusy and ErrDown, the reservation is claimed
// and stays pending: the retry resumes it.
func (s *Signer) Sign(ctx context.Context, r *ledger.Reservation, tbs [][]byte) (*Signatures, error) {
	if s == nil || r == nil {
		return nil, errors.New("signing needs a signer and a reservation")
	}
	own := make([][]byte, len(tbs)) // nobody changes the bytes between their comparison and their way to the worker
	for i, b := range tbs {
		own[i] = bytes.Clone(b)
	}
	if err := r.Claim(s.ledger, own); err != nil {
		return nil, fmt.Errorf("claiming a reservation: %w", err)
	}
	g := &Signatures{signer: s, reservation: r, raw: make([][]byte, len(own)), workers: make([]string, len(own))}
	all := make([]int, len(own))
	for i := range all {
		all[i] = i
	}
	if err := s.sign(ctx, g, all, own); err != nil {
		return nil, fmt.Errorf("signing reservation %s: %w", r.ID(), err)
	}
	return g, nil
}

// sign has the items signed by the tokens of their keys and puts the signatures into g.
func (s *Signer) sign(ctx context.Context, g *Signatures, items []int, tbs [][]byte) error {
	described, lane := g.reservation.Items(), g.reservation.Lane()
	if lane < policy.LaneLock || lane > policy.LaneBatch {
		return fmt.Errorf("lane %d does not exist", lane)
	}
	c := newCall(attempts{s.ledger, g.reservation}, len(described))
	c.left = len(items)
	jobs := map[*pool][]*job{}
	for n, i := range items {
		p, err := s.holder(described[i])
		if err != nil {
			return err
		}
		if len(tbs[n]) > maxBytes {
			return fmt.Errorf("item %d has %d bytes, at most %d can be signed", i, len(tbs[n]), maxBytes)
		}
		jobs[p] = append(jobs[p], &job{keyID: described[i].KeyID, purpose: described[i].Purpose, tbs: tbs[n], lane: lane, call: c, item: i})
	}
	if err := c.wait(ctx, jobs); err != nil {
		for p := range jobs { // nobody signs the rest
			p.forget(c)
		}
		return err
	}
	for _, i := range items {
		g.raw[i], g.workers[i] = c.raw[i], c.workers[i]
	}
	return nil
}

// wait queues the jobs and waits until all are signed, one failed, or ctx ends.
func (c *call) wait(ctx context.Context, jobs map[*pool][]*job) error {
	for p, js := range jobs {
		if err := p.enqueue(js); err != nil {
			return err
		}
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// holder finds the pool of an item's key, which must be of use and of the item's purpose.
func (s *Signer) holder(i ledger.Item) (*pool, error) {
	for _, k := range s.ledger.Keys() {
		if k.ID != i.KeyID {
			continue
		}
		if k.Purpose != i.Purpose {
			return nil, fmt.Errorf("key %q is for %s, not for %s", k.ID, k.Purpose, i.Purpose)
		}
		if k.State != ledger.KeyGenerated && !s.ledger.Finishes(k) { // a generated root signs itself
			return nil, fmt.Errorf("%w: key %q is %s, or its certificate is revoked", ErrKeyEnded, k.ID, k.State)
		}
		return s.pool(k.Token)
	}
	return nil, fmt.Errorf("key %q is not in the registry", i.KeyID)
}

func (s *Signer) pool(token string) (*pool, error) {
	for _, p := range s.pools {
		if p.token.Name == token {
			return p, nil
		}
	}
	return nil, fmt.Errorf("token %q is not configured", token)
}

// Derive returns HMAC-SHA256(domain secret, label), computed inside the token.
func (s *Signer) Derive(ctx context.Context, label string) ([32]byte, error) {
	var out [32]byte
	failed := []error{errors.New("no token holds the domain secret: make it with init")}
	for _, onDemand := range []bool{false, true} {
		for _, p := range s.pools {
			if p.token.OnDemand != onDemand {
				continue
			}
			_, ok, err := s.ledger.Meta(ctx, SecretMeta(p.token.Name))
			if err != nil {
				return out, fmt.Errorf("deriving %q: %w", label, err)
			}
			if !ok {
				continue
			}
			if out, err = s.derive(ctx, p, label); err == nil {
				return out, nil
			}
			failed = append(failed[:len(failed):len(failed)], err)
		}
	}
	if len(failed) > 1 {
		failed = failed[1:]
	}
	return out, fmt.Errorf("deriving %q: %w", label, errors.Join(failed...))
}

// derive asks one token until its answer is the one that the ledger knows. No signature is there to be verified: a MAC that is wrong by one
// bit would quietly give every person another pseudonym, and a second phone with it. So the fingerprint of each derived secret is kept from
// its first use, when two answers have to agree.
func (s *Signer) derive(ctx context.Context, p *pool, label string) (out [32]byte, err error) {
	name := "derived/" + label
	known, ok, err := s.ledger.Meta(ctx, name)
	if err != nil {
		return out, err
	}
	for range deriveTries {
		r, err := p.ask(ctx, wire.Request{Op: wire.OpDerive, Label: label}, p.deadline, true)
		if err != nil {
			return out, err
		}
		if len(r.Secret) != len(out) {
			return out, fmt.Errorf("%w: token %q derived %d bytes", ErrDown, p.token.Name, len(r.Secret))
		}
		copy(out[:], r.Secret)
		wire.Wipe(r.Secret)
		sum := sha256.Sum256(slices.Concat([]byte(name), []byte{0}, out[:])) // of 256 random bits: it says nothing of them
		switch {
		case ok && subtle.ConstantTimeCompare(sum[:], known) == 1:
			return out, nil
		case !ok && known != nil && subtle.ConstantTimeCompare(sum[:], known) == 1:
			return out, s.ledger.PutMeta(ctx, name, known)
		case !ok:
			known = sum[:]
		}
	}
	return [32]byte{}, fmt.Errorf("%w: token %q does not derive the secret %q that the ledger knows: its domain secret is another one, or its MACs are wrong",
		ErrDown, p.token.Name, label)
}

const deriveTries = 4

// Quarantine kills the worker that made a bad signature; a new one is started and must pass its checks.
func (s *Signer) Quarantine(g *Signatures, item int) {
	for _, p := range s.pools {
		p.quarantine(g.Worker(item))
	}
}

// Resign has item i of an already claimed reservation signed again by another worker after its signature was bad (journalled as a new attempt).
func (s *Signer) Resign(ctx context.Context, g *Signatures, item int, tbs []byte) (*Signatures, error) {
	if s == nil || g == nil || g.signer != s || !g.reservation.Claimed(s.ledger) {
		return nil, errors.New("signing again needs signatures that this signer made for a claimed reservation")
	}
	items := g.reservation.Items()
	own := bytes.Clone(tbs)
	if item < 0 || item >= len(items) || items[item].TBSHash != sha256.Sum256(own) {
		return nil, fmt.Errorf("reservation %s: item %d was not reserved with these bytes", g.reservation.ID(), item)
	}
	if err := (attempts{s.ledger, g.reservation}).again(ctx, []int{item}); err != nil {
		return nil, fmt.Errorf("journalling another attempt at reservation %s: %w", g.reservation.ID(), err)
	}
	next := &Signatures{signer: s, reservation: g.reservation, raw: slices.Clone(g.raw), workers: slices.Clone(g.workers)}
	if err := s.sign(ctx, next, []int{item}, [][]byte{own}); err != nil {
		return nil, fmt.Errorf("signing item %d of reservation %s again: %w", item, g.reservation.ID(), err)
	}
	return next, nil
}

// NewKey is a key pair that a token made.
type NewKey struct {
	CKAID []byte
	SPKI  []byte
}

// NewID draws the CKA_ID of a key that is to be made.
func NewID() []byte {
	id := make([]byte, 16)
	rand.Read(id) // never fails (Go 1.24)
	return id
}

// Generate makes a key pair with a CKA_ID that the ledger knows already; the pair of an earlier call with the same is returned. The caller
// registers it; until then no worker uses it.
func (s *Signer) Generate(ctx context.Context, token, label, algorithm string, id []byte, copies bool) (NewKey, error) {
	p, err := s.pool(token)
	if err != nil {
		return NewKey{}, err
	}
	request := wire.Request{Op: wire.OpGenerate, Generate: &wire.Generate{Label: label, Algorithm: algorithm, CKAID: id, Copies: copies}}
	r, err := p.ask(ctx, request, makingWithin, false)
	if err != nil {
		return NewKey{}, fmt.Errorf("making key %q: %w", label, err)
	}
	return NewKey{CKAID: r.CKAID, SPKI: r.SPKI}, nil
}

// destroyWithin bounds what an officer waits for while a key is destroyed.
const destroyWithin = 5 * time.Second

// Destroy takes a key pair off a token. One that is not there is no error.
func (s *Signer) Destroy(ctx context.Context, token string, id []byte) error {
	p, err := s.pool(token)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, destroyWithin)
	defer cancel()
	if _, err := p.ask(ctx, wire.Request{Op: wire.OpDestroy, Destroy: id}, max(destroyWithin, p.deadline), true); err != nil {
		return fmt.Errorf("destroying a key on token %q: %w", token, err)
	}
	return nil
}

// listWithin bounds the listing of a token's private keys: two calls of the module for each.
const listWithin = 10 * time.Second

// KeysOn names the CKA_IDs of the private keys that a token has, whoever made them.
func (s *Signer) KeysOn(ctx context.Context, token string) ([][]byte, error) {
	p, err := s.pool(token)
	if err != nil {
		return nil, err
	}
	r, err := p.ask(ctx, wire.Request{Op: wire.OpKeys}, max(listWithin, p.deadline), false) // whoever asks comes again
	return r.Keys, err
}

// NewSecret makes the domain secret inside a token and returns it wrapped (init). It never exists outside the token unwrapped.
func (s *Signer) NewSecret(ctx context.Context, token string) (wrappingKey, blob []byte, err error) {
	p, err := s.pool(token)
	if err != nil {
		return nil, nil, err
	}
	r, err := p.ask(ctx, wire.Request{Op: wire.OpSecret}, makingWithin, false)
	if err != nil {
		return nil, nil, fmt.Errorf("making the domain secret: %w", err)
	}
	return r.CKAID, r.Blob, nil
}

// Reload makes workers of a token look up the registry's keys again (after PutKey, after init): new workers are started, and the old ones
// finish their batches and end. It also tries a stopped token again, unless its PIN was refused and the marker is still there.
func (s *Signer) Reload(ctx context.Context, token string) error {
	p, err := s.pool(token)
	if err != nil {
		return err
	}
	return p.reload(ctx)
}

// Health of one token, for readiness, metrics and doctor.
type Health struct {
	Token   string `json:"token"`
	Ready   int    `json:"ready"`
	Wanted  int    `json:"wanted"`
	Problem string `json:"problem,omitempty"`

	PINRefused bool `json:"pin_refused"`
	Restarts   int  `json:"restarts"` // workers replaced within the last ten minutes, at most 100 are counted
}

// Health reports all tokens.
func (s *Signer) Health() []Health {
	out := make([]Health, 0, len(s.pools))
	for _, p := range s.pools {
		out = append(out, p.health())
	}
	return out
}

// SecretMeta is the ledger meta name under which a token's wrapped domain secret is kept (value: CBOR of wire.Wrapped).
func SecretMeta(token string) string { return "domain-secret/" + token }
