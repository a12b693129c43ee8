// Package ca is the credential and certificate authority: it leads every request through the stages, in one order, and decides nothing.
//
//	issue.go    evidence → policy → lease → draft → reserve → sign → release
//	change.go   lock, unlock, revoke: policy → ledger → answer; wakes the publisher
//	publish.go  ledger state → policy → draft → reserve → sign → release → public listener and directory
//	custody.go  keys and certificates at init; the IACA's CRL
package ca

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
	"sealkeeper/signer"
)

// Options of New.
type Options struct {
	Ledger    *ledger.Ledger
	Signer    *signer.Signer
	Gate      *release.Gate
	Evidence  *evidence.Verifier
	Bundle    *policy.Bundle
	Guard     *clock.Guard
	Clock     clock.Clock
	Random    io.Reader
	Pseudonym [32]byte // key of pseudonyms
	BaseURL   string   // of the public listener
	Directory string   // publish directory; lists, certificates and CRL are written there durably
	ListTTL   time.Duration
	ListLife  time.Duration
	CRLLife   time.Duration
	Log       *slog.Logger
	Metrics   *metrics.Metrics
}

// Authority conducts.
type Authority struct{}

// Caller comes from the mTLS connection, never from a body.
type Caller struct {
	ID   string
	Role string
}

// Problem is a refusal or failure with a stable code. The edge maps codes to HTTP status in one table.
type Problem struct {
	Code     string
	Detail   string
	Decision *contract.Decision // nil if policy was not reached
	RetryIn  time.Duration      // overload: when to try again
	cause    error
}

func (p *Problem) Error() string { return p.Code + ": " + p.Detail }
func (p *Problem) Unwrap() error { return p.cause }

var errNotBuilt = errors.New("not built")

// Nonce mints an appliance nonce.
func (a *Authority) Nonce(ctx context.Context, c Caller, r contract.NonceRequest) (contract.NonceAnswer, error) {
	return contract.NonceAnswer{}, errNotBuilt
}

// Call is what makes a request repeatable.
type Call struct {
	Key  string   // Idempotency-Key header
	Hash [32]byte // SHA-256 over route and canonical body
}

// Issue issues (op "issue") or refreshes (op "refresh"). The released bytes are the JSON of contract.IssueAnswer.
func (a *Authority) Issue(ctx context.Context, c Caller, call Call, op policy.Operation, r contract.IssueRequest) (*release.Released, error) {
	return nil, errNotBuilt
}

// DryRun gives the decision that Issue would make, without effect. A denial is an answer, not an error.
func (a *Authority) DryRun(ctx context.Context, c Caller, op policy.Operation, r contract.IssueRequest) (contract.Decision, error) {
	return contract.Decision{}, errNotBuilt
}

// Change locks, unlocks or revokes.
func (a *Authority) Change(ctx context.Context, c Caller, op policy.Operation, r contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return contract.ChangeAnswer{}, errNotBuilt
}

// Holder reads a holder's state.
func (a *Authority) Holder(ctx context.Context, c Caller, r contract.StateRequest) (contract.Holder, error) {
	return contract.Holder{}, errNotBuilt
}

// WhoAmI says what a client may do. ok is false for a client that the policy does not know in this role.
func (a *Authority) WhoAmI(c Caller) (contract.WhoAmI, bool) { return contract.WhoAmI{}, false }

// Object is something public: a list, a certificate, the CRL, issuer metadata.
type Object struct {
	MediaType string
	Bytes     []byte
	Gzip      []byte // precompressed; nil where it gains nothing (CWT)
	ETag      string // strong, quoted, of Bytes; the gzip encoding has its own (ETagGzip)
	ETagGzip  string
	Modified  time.Time
	MaxAge    time.Duration
}

// Public returns the newest published object at a path without leading slash:
// "status-lists/{id}", "certificates/{iaca|ds|sdjwt-issuer|status-signer}.{cer|pem}", "crl/iaca.crl", ".well-known/jwt-vc-issuer". Reads never reach the HSM.
func (a *Authority) Public(path string) (Object, bool) { return Object{}, false }

// Status for operators; "ready" only when cards can be issued.
func (a *Authority) Status(ctx context.Context) contract.Status { return contract.Status{} }
