// Package ledger is the durable truth: subjects, status indices, reservations, attempts, keys, answers and the transparency log's leaves
// with their Merkle hashes, all in one commit.
//
// It compares, it never judges: an approval brings conditions, and the batch that uses it commits only if they hold.
//
//	Lease    → Ticket       a status index out of a durably leased block; a lost block is burnt
//	Reserve  → Reservation  the one durable write before the HSM, journalled and logged
//	Attempt                 each further try at a signature, durable before its frame is sent
//	Settle                  compare-and-set: the first signature wins, later ones get the stored answer
//
// Group commit: many callers, one fsync; nothing is acknowledged before it. An error of the disk ends the ledger (Options.Fatal):
// recovery is the same code as start.
package ledger

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/metrics"
	"sealkeeper/policy"
)

// Options of Open.
type Options struct {
	Path      string // SQLite file
	HighWater string // file outside the ledger, better on another disk; compared at start
	Publish   string // publish directory; versions of lists found there are compared at start
	Clock     clock.Clock
	Log       *slog.Logger
	Metrics   *metrics.Metrics
	BaseURL   string        // public base URL; a list's URI is BaseURL + "/status-lists/" + id
	ListSize  uint64        // entries per status list, a power of two ≥ 1024 (default 1<<20)
	AnswerTTL time.Duration // how long sealed answers are kept (default 24 h)
	Fatal     func(error)   // called once when the disk failed; must not return control to issuing (default: panic)
}

// Ledger is open.
type Ledger struct{}

// Fenced means that something outside is ahead of the ledger (an old backup was restored, or the disk lies): nothing may be signed.
type Fenced struct{ Reasons []string }

func (f *Fenced) Error() string { return "FENCED" }

// ErrConflict: the subject's epoch moved between decision and commit; decide again (at most 5 times).
var ErrConflict = errors.New("the subject changed since the decision")

// ErrStopped: the ledger ended after a disk error or Close.
var ErrStopped = errors.New("the ledger is stopped")

// Refusal is a condition that did not hold.
type Refusal struct{ code, detail string }

// Code is stable: nonce.replayed, attestation.replayed, idempotency.mismatch, reservation.superseded, …
func (r *Refusal) Code() string  { return r.code }
func (r *Refusal) Error() string { return r.code + ": " + r.detail }

var errNotBuilt = errors.New("not built")

// Open opens or creates the ledger, migrates it, and compares it with the high-water record and the publish directory. It returns
// *Fenced (and an open ledger for reading) if anything outside is ahead.
func Open(ctx context.Context, o Options) (*Ledger, error) { return nil, errNotBuilt }

// Close writes the high-water record and closes the file.
func (l *Ledger) Close() error { return errNotBuilt }

// Secrets are keys derived from the domain secret in a worker.
type Secrets struct {
	Index  [32]byte // status index permutation
	Lookup [32]byte // idempotency lookup
	Salt   [32]byte // salts of credentials
	Commit [32]byte // salted commitments in log leaves
}

// Labels under which the secrets are derived: HMAC-SHA256(domain secret, label).
const (
	LabelIndex     = "sealkeeper/v1/index"
	LabelLookup    = "sealkeeper/v1/lookup"
	LabelSalt      = "sealkeeper/v1/salt"
	LabelCommit    = "sealkeeper/v1/commit"
	LabelNonce     = "sealkeeper/v1/nonce"     // evidence
	LabelPseudonym = "sealkeeper/v1/pseudonym" // ca
)

// Unlock gives the ledger its secrets; Lease, Recall and Reserve of credentials need them.
func (l *Ledger) Unlock(s Secrets) {}

// Meta values: small named facts ("domain-secret/online", "accepted-clock", "installation", …), journalled with a leaf.
func (l *Ledger) Meta(ctx context.Context, name string) (value []byte, ok bool, err error) {
	return nil, false, errNotBuilt
}

// PutMeta stores a meta value; it is journalled under its name and hash.
func (l *Ledger) PutMeta(ctx context.Context, name string, value []byte) error { return errNotBuilt }

// Head is the log's size and root hash.
func (l *Ledger) Head(ctx context.Context) (size uint64, root [32]byte, err error) {
	return 0, root, errNotBuilt
}

// LastIssued is the newest iat of any signed list; zero if there is none.
func (l *Ledger) LastIssued() time.Time { return time.Time{} }

// Arrive announces a request that will soon commit; call the result when it no longer will. The commit window waits (1-2 ms at most)
// only while announced requests are on their way.
func (l *Ledger) Arrive() (leave func()) { return func() {} }

// ---- subjects

// Snapshot is a subject's state at one instant.
type Snapshot struct{}

// Slot is what policy may see.
func (s Snapshot) Slot() policy.Slot { return policy.Slot{} }

// Credentials of the subject that are not expired.
func (s Snapshot) Credentials() []CredentialInfo { return nil }

// CredentialInfo describes one credential of a holder.
type CredentialInfo struct {
	Device   string
	Format   policy.Format
	URI      string
	Index    uint64
	Status   string // "reserved", "valid", "suspended", "revoked"
	NotAfter time.Time
	Key      [32]byte // thumbprint
}

// Subject reads the state for one document type. An unknown subject is an empty slot with epoch 0.
func (l *Ledger) Subject(ctx context.Context, documentType string, p policy.Pseudonym) (Snapshot, error) {
	return Snapshot{}, errNotBuilt
}

// Change commits an approved lock, unlock or revocation: state.Apply, status changes of all unexpired credentials of the slot, leaf.
// Result tells what happened; an approval with Effect "none" is journalled without a change.
func (l *Ledger) Change(ctx context.Context, a *policy.Approval) (ChangeResult, error) {
	return ChangeResult{}, errNotBuilt
}

// ChangeResult of an acknowledged change.
type ChangeResult struct {
	Seq     uint64 // journal sequence number; a list published through it carries the change
	Lists   []string
	Changed bool
	Slot    policy.Slot // the state after it
}

// ---- issuing

// Ticket is a leased status index. It can be used in one Reserve; zero means spent.
type Ticket struct{}

// List id, URI and index of the ticket; empty when spent.
func (t *Ticket) List() string          { return "" }
func (t *Ticket) URI() string           { return "" }
func (t *Ticket) Index() uint64         { return 0 }
func (t *Ticket) Format() policy.Format { return "" }

// Lease takes n unused indices for a document type and format. A block of them was made durable before.
func (l *Ledger) Lease(ctx context.Context, documentType string, f policy.Format, n int) ([]*Ticket, error) {
	return nil, errNotBuilt
}

// IdempotencyKey is the caller's secret name for a request: at least 128 random bits. Never logged, never stored.
type IdempotencyKey string

// Seed is what a request's salts and digest ids are derived from: HKDF(salt key ‖ caller's key, row salt). A retry gets the same seed.
func (l *Ledger) Seed(k IdempotencyKey, rowSalt [32]byte) [32]byte { return [32]byte{} }

// Recall looks a request up before its evidence is looked at: a retry must not meet its own burnt nonce. A known key with another
// request hash is refused with idempotency.mismatch.
func (l *Ledger) Recall(ctx context.Context, client string, k IdempotencyKey, request [32]byte) (Recall, error) {
	return Recall{}, errNotBuilt
}

// Recall is what is known of a request: nothing (fresh), a reservation without an answer (pending), or the answer.
type Recall struct {
	Pending *Pending
	Answer  []byte // opened with the caller's key
	Done    bool
}

// Pending is a reservation that was made for this very request and not yet settled.
type Pending struct{}

// At is the instant of the reserved decision; evidence and policy are judged as of then.
func (p *Pending) At() time.Time { return time.Time{} }

// RowSalt gives the same Seed again.
func (p *Pending) RowSalt() [32]byte { return [32]byte{} }

// Tickets are the reserved indices, in the order of the drafts; they can only be used to rebuild drafts for Resume.
func (p *Pending) Tickets() []*Ticket { return nil }

// Keys are the registry ids of the reserved signing keys, in the order of the drafts.
func (p *Pending) Keys() []string { return nil }

// Before is the subject's state that the reserved decision had judged.
func (p *Pending) Before() policy.Slot { return policy.Slot{} }

// Draft is one signature that is wanted: what Reserve makes durable before any HSM is asked.
type Draft struct {
	Ticket   *Ticket // credentials only
	KeyID    string
	Purpose  policy.Purpose
	TBSHash  [32]byte // SHA-256 of the exact TBS
	NotAfter time.Time
	KeyIndex int // credentials: which of the approval's keys it is bound to
}

// Call identifies the request for retries; nil for the appliance's own signatures.
type Call struct {
	Key     IdempotencyKey
	Request [32]byte
	RowSalt [32]byte // fresh random from the conductor, or Pending.RowSalt
}

// Reserve is the one durable write before the HSM. In one transaction it compares the approval's conditions, advances the subject's
// epoch, burns nonces and evidence ids, revokes what is superseded, journals {TBS hash, key, policy hash, client} with the first
// attempt, and appends the leaf with its Merkle hashes. Errors: ErrConflict, *Refusal, ErrStopped.
func (l *Ledger) Reserve(ctx context.Context, a *policy.Approval, d []Draft, c *Call) (*Reservation, error) {
	return nil, errNotBuilt
}

// Resume hands out the reservation again if the rebuilt drafts have the reserved hashes and keys and nothing superseded it. Otherwise
// ErrRebuild: call ReserveAgain. Every resume journals new attempts.
func (l *Ledger) Resume(ctx context.Context, p *Pending, a *policy.Approval, d []Draft, c *Call) (*Reservation, error) {
	return nil, errNotBuilt
}

// ErrRebuild: the reserved bytes can't be made again (the key was stopped, the policy or a certificate changed).
var ErrRebuild = errors.New("the reserved bytes can't be rebuilt")

// ReserveAgain replaces a reservation that can't be rebuilt, for the same subject and device: new tickets, the old indices burnt, no
// second revocation.
func (l *Ledger) ReserveAgain(ctx context.Context, p *Pending, a *policy.Approval, d []Draft, c *Call) (*Reservation, error) {
	return nil, errNotBuilt
}

// Reservation is the only way to a signature. Claim and Settle work once each; the zero value is spent.
type Reservation struct{}

// Item is one signature of a reservation.
type Item struct {
	KeyID   string
	Purpose policy.Purpose
	TBSHash [32]byte
}

// ID names the reservation in journal, attempts and logs.
func (r *Reservation) ID() string { return "" }

// Seq is the reservation's journal sequence number.
func (r *Reservation) Seq() uint64 { return 0 }

// Items to be signed, in the order of the drafts.
func (r *Reservation) Items() []Item { return nil }

// Lane of the approval.
func (r *Reservation) Lane() policy.Lane { return 0 }

// Claim spends the right to sign: it returns an error for nil, zero and used reservations, for those of another ledger, and if the
// hashes of tbs are not the reserved ones, in order. Only the signer calls it.
func (r *Reservation) Claim(l *Ledger, tbs [][]byte) error { return errNotBuilt }

// Claimed reports whether r is one of l's and was claimed and not settled; release checks it.
func (r *Reservation) Claimed(l *Ledger) bool { return false }

// Superseded lists the lists in which Reserve revoked the replaced device's credentials; empty if nothing was replaced.
func (r *Reservation) Superseded() []string { return nil }

// Device is the id of the device that the reservation bound or refreshed; empty for the appliance's own signatures.
func (r *Reservation) Device() string { return "" }

// Attempt journals one more try at some items of a claimed reservation (the first try is part of Reserve); it is durable when it returns.
func (l *Ledger) Attempt(ctx context.Context, r *Reservation, items []int, worker string) error {
	return errNotBuilt
}

// Lost journals that a worker died or hung with these items unanswered: their outcome is unknown.
func (l *Ledger) Lost(ctx context.Context, r *Reservation, items []int, worker string) error {
	return errNotBuilt
}

// Settlement is what a verified signature leads to.
type Settlement struct {
	Signatures [][]byte // verified, in the order of the items
	Workers    []string // who made them
	Answer     []byte   // whole answer for the caller (sealed with its key), or the public object (list, certificate, CRL)
}

// Settle stores the answer by compare-and-set and returns the one that won: a.Answer, or the stored answer of whoever was first.
func (l *Ledger) Settle(ctx context.Context, r *Reservation, s Settlement) (answer []byte, first bool, err error) {
	return nil, false, errNotBuilt
}

// ---- status lists

// ListSnapshot is a list's state at one commit: enough to decide, draft and publish its next version.
type ListSnapshot struct {
	Facts policy.ListFacts // without Version, IssuedAt, Expires, TTL
	Token []byte           // the signed token of PrevVersion; nil: none yet
	Until time.Time        // PrevVersion's exp
	Dirty time.Time        // commit time of the oldest unpublished change; zero: none
}

// Lists names all lists that must be kept published.
func (l *Ledger) Lists() []string { return nil }

// List takes a snapshot. The image holds every change acknowledged so far.
func (l *Ledger) List(id string) (ListSnapshot, error) { return ListSnapshot{}, errNotBuilt }

// Changed receives (never blocks, never more than one pending) whenever a status changed or a list was opened.
func (l *Ledger) Changed() <-chan struct{} { return nil }

// ---- keys and certificates

// KeyState of the registry.
type KeyState string

const (
	KeyGenerated KeyState = "generated"
	KeyActive    KeyState = "active"
	KeyStopped   KeyState = "stopped"
)

// Key is a registry entry. Validity dates live here, never in the token.
type Key struct {
	ID        string         `json:"id"`
	Token     string         `json:"token"` // "online", "iaca"
	Purpose   policy.Purpose `json:"purpose"`
	Algorithm string         `json:"algorithm"` // "ES256", "ES384", "EdDSA"
	CKAID     []byte         `json:"cka_id"`
	SPKI      []byte         `json:"spki"`  // pinned, DER
	Chain     [][]byte       `json:"chain"` // DER, leaf first; the anchor is not part of it (the root's own chain is itself)
	State     KeyState       `json:"state"`
	NotBefore time.Time      `json:"not_before"` // private-key use
	NotAfter  time.Time      `json:"not_after"`
	Copies    bool           `json:"copies"` // made with the template that allows session copies
}

// Keys of the registry, sorted by id. The slice is shared and immutable.
func (l *Ledger) Keys() []Key { return nil }

// PutKey adds or changes an entry: purpose, token, algorithm, CKA_ID and SPKI of an existing one can't change. Journalled with a leaf.
func (l *Ledger) PutKey(ctx context.Context, k Key) error { return errNotBuilt }

// Certificate issued by the appliance.
type Certificate struct {
	Serial  []byte    `json:"serial"`
	Profile string    `json:"profile"`
	Name    string    `json:"name"`
	DER     []byte    `json:"der"`
	At      time.Time `json:"at"`
	Revoked time.Time `json:"revoked,omitzero"`
}

// Certificates lists all that were settled.
func (l *Ledger) Certificates(ctx context.Context) ([]Certificate, error) { return nil, errNotBuilt }

// CRLState is the newest revocation list of the IACA; Number 0: none yet.
func (l *Ledger) CRLState(ctx context.Context) (number uint64, der []byte, thisUpdate, nextUpdate time.Time, err error) {
	return 0, nil, time.Time{}, time.Time{}, errNotBuilt
}

var _ = evidence.BurnNonce
