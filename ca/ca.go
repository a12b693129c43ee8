// Package ca is the credential and certificate authority: it leads every request through the stages, in one order, and decides nothing.
//
//	issue.go    evidence → policy → lease → draft → reserve → sign → release
//	change.go   lock, unlock, revoke: policy → ledger → answer; wakes the publisher
//	publish.go  ledger state → policy → draft → reserve → sign → release → public listener and directory
//	custody.go  keys and certificates at init
//	crl.go      ledger's revocations → policy → draft → reserve → sign → release → public listener and directory
package ca

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sealkeeper/ca/x509"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/lasting"
	"sealkeeper/internal/mac"
	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
	"sealkeeper/signer"
)

// Options of New.
type Options struct {
	Ledger      *ledger.Ledger
	Signer      *signer.Signer
	Gate        *release.Gate
	Trust       evidence.Trust // all but the authorities, which are the bundle's
	Policy      PolicySource
	Guard       *clock.Guard
	Clock       clock.Clock
	Random      io.Reader
	Pseudonym   [32]byte // key of pseudonyms, derived from the domain secret
	X509        x509.Params
	RA          RA
	BaseURL     string // of the public listener
	Directory   string // publish directory: lists, certificates and CRL are written there durably; empty: none
	ListTTL     time.Duration
	ListLife    time.Duration
	CRLLife     time.Duration
	CRLParts    int           // parts of the client CA's list, beside the whole; 1: none
	GiveUpEvery time.Duration // how often unfinished reservations are looked for; default 10 min
	Version     string
	Log         *slog.Logger
	Metrics     *metrics.Metrics
}

// Authority conducts.
type Authority struct {
	o          Options
	pseudonyms mac.Key
	ruling     atomic.Pointer[rules]

	activating sync.Mutex // one bundle at a time
	signedBy   atomic.Pointer[[]string]
	leftAlone  string                 // why the configuration's bundle is not the one in use; empty: it is, or was
	refused    atomic.Pointer[string] // the last bundle that was offered since, and why it was refused; nil: none
	past       past

	officers   sync.Mutex   // one saying or execution at a time
	journalled time.Time    // the last refused saying that was; under officers
	retired    []time.Time  // when registration authorities revoked a client; under officers
	alarms     atomic.Int64 // refused sayings since the start; not under officers, which an execution holds for as long as its HSM takes

	phones  atomic.Pointer[policy.PhoneStatus] // what was fed last; nil: nothing
	feeding sync.Mutex                         // one at a time

	keys     sync.Map // by id: *certified.Key
	ring     keyring
	subjects subjects
	turns    *turns
	public   shelf
	shelving sync.Mutex // certificates and what is made of them
	selftest selftests
	crls     crlErrors
	faults   *lasting.Faults // of what is tried again for as long as it fails
	seen     sync.Map        // by client id: when it last asked for something, *atomic.Int64 of unix seconds; since the start
}

// turnsPerCore is how many issue requests are worked on at once for each core: enough to share commits and the HSM's frames (16 made commits a third smaller and cost 12 % more CPU a request), and the
// fewest with which the machine is busy, since each one more only makes all of them later.
const turnsPerCore = 32

// New makes the authority and puts what was published before on its shelf, so that readers are served before anything is signed.
func New(ctx context.Context, o Options) (*Authority, error) {
	if o.GiveUpEvery <= 0 {
		o.GiveUpEvery = 10 * time.Minute
	}
	a := &Authority{o: o, pseudonyms: mac.New(o.Pseudonym), turns: newTurns(turnsPerCore * runtime.GOMAXPROCS(0)), faults: lasting.New(o.Clock)}
	if err := a.startPolicy(ctx); err != nil {
		return nil, err
	}
	if err := a.startPhones(ctx); err != nil {
		return nil, fmt.Errorf("reading the status of phones: %w", err)
	}
	a.public.init()
	a.ring.init(o.Ledger.Keys(), o.Guard.ForLists())
	for _, id := range o.Ledger.ListsAt(o.Guard.ForLists()) {
		s, err := o.Ledger.List(id)
		if err != nil {
			return nil, fmt.Errorf("reading list %s: %w", id, err)
		}
		if s.Token != nil {
			if err := a.shelveAgain(s); err != nil { // a directory that is full is no reason to take no locks: the publisher tries again
				a.listTried(id, fmt.Errorf("at the start: %w", err), 0)
			}
		}
	}
	if err := a.compareCRLs(ctx); err != nil {
		return nil, err
	}
	if err := a.adoptCRLs(ctx); err != nil {
		return nil, err
	}
	a.showCertificates(ctx)
	o.Metrics.OnLook(a.look)
	return a, nil
}

// Caller comes from the mTLS connection, never from a body.
type Caller struct {
	ID      string
	Role    string
	Expires time.Time // of the client certificate
	Serial  string    // of the client certificate: its 20 octets
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

// Unwrap gives the cause, which is for logs and never for clients.
func (p *Problem) Unwrap() error { return p.cause }

// Codes of the conductor itself, each explained for the reader of docs/errors.md.
var Codes = map[string]string{
	"clock.untrusted":       "The wall clock disagrees with elapsed time; issuing is stopped until an officer accepts the clock. Locks and lists go on.",
	"hsm.down":              "No HSM worker can sign. Nothing was issued; retry with the same idempotency key.",
	"ledger.stopped":        "The ledger stopped after a disk error. Nothing was issued; retry with the same idempotency key.",
	"overloaded":            "The signing lane is full. Nothing was issued; retry with the same idempotency key after Retry-After.",
	"request.cancelled":     "The request ended before its answer was ready. Retry with the same idempotency key to get it.",
	"subject.contended":     "The holder's state kept changing while the request was decided. Retry with the same idempotency key.",
	"bundle.malformed":      "The file is no policy bundle, or not a well-formed one; the detail names the line.",
	"bundle.unsigned":       "The bundle has no signatures, or no policy keys are registered with which it could be signed: then it changes by the configuration and a restart alone.",
	"bundle.under_signed":   "Fewer of the registered policy keys signed the bundle than must.",
	"bundle.signature":      "A signature by a registered policy key does not verify: the bundle was changed after it was signed.",
	"bundle.test_failed":    "A test that the bundle carries does not come out as it says; the detail names the first.",
	"bundle.old":            "The bundle's version is lower than the active one's.",
	"bundle.version_reused": "The bundle has the active one's version and says something else.",
	"phones.unconfigured":   "The policy bundle has no key that a status of phones could be signed with.",
	"phones.malformed":      "The status of phones is not the signed JSON of docs/phones.md.",
	"phones.unsigned":       "None of the policy bundle's keys signed the status of phones.",
	"phones.signature":      "A signature of the status of phones does not verify.",
	"phones.from_future":    "The status of phones is of an instant later than now: a clock is wrong.",
	"phones.stale":          "The status of phones is older than the policy bundle allows: fetch the lists again.",
	"phones.old":            "A newer status of phones was fed before.",
	"officer.required":      "Officers are registered, so this takes a proposal that they approve: sealctl propose.",
	"officer.none":          "No officers are registered, so there is nobody to approve a proposal.",
	"backup.key":            "The backup key is none, or not the one that the proposal's text names.",
	"proposal.unsupported":  "Nothing carries this action out in this version, so it can't be proposed.",
	"proposal.moot":         "There is nothing to do (any more) of what the proposal asks for; the detail says why. It was not carried out.",
	"decision.unknown":      "There is no such decision, or it is older than decisions are kept.",
	"session.authority":     "The policy lists no evidence authority of a name that the session was asked for.",
	"session.key":           "The thumbprint that the session was asked for is not one of RFC 7638 with SHA-256.",
	"subject.ambiguous":     "The request names a person and a session: the session names the person already.",
	"subject.malformed":     "The subject number is empty, too long or has characters that are not allowed.",
	"key.unregistered":      "No key of that name is in the registry.",
	"certificate.other":     "The certificate is another one's than the proposal says: look at sealctl clients and propose it again.",
	"certificate.own":       "It is the certificate of the client through which this is asked: who would take the hold back? Have it carried out through another one.",
	"key.root":              "The key is that of a CA which certified: it ends when another root takes its place (iaca.rollover, client-ca.rollover).",
	"key.exists":            "There is or was a key of that name: each key has a name of its own.",
	"key.plan":              "The plan for a key would not come to its end; the detail says why.",
	"key.state":             "The key's state does not allow what was decided, or is another one than the proposal says; the detail says which.",
	"key.missing":           "No active signing key serves this format. An operator has to look at the key registry.",
	"internal":              "Something failed inside the appliance. Nothing was released; retry with the same idempotency key.",
}

// Call is what makes a request repeatable.
type Call struct {
	Key  string   // Idempotency-Key header
	Hash [32]byte // SHA-256 over route and canonical body
}

// problem gives every error that leaves the conductor a stable code.
func problem(err error, d *policy.Decision) error {
	var p *Problem
	if err == nil || errors.As(err, &p) {
		return err
	}
	p = &Problem{Code: "internal", Detail: "the request could not be completed", cause: err}
	var coded interface{ Code() string }
	switch {
	case errors.As(err, &coded):
		p.Code = coded.Code()
		p.Detail = strings.TrimPrefix(err.Error(), p.Code+": ")
	case errors.Is(err, signer.ErrBusy):
		p.Code, p.Detail, p.RetryIn = "overloaded", "the signing lane is full", time.Second
	case errors.Is(err, signer.ErrDown):
		p.Code, p.Detail, p.RetryIn = "hsm.down", "no HSM worker can sign now", 2*time.Second
	case errors.Is(err, ledger.ErrStopped):
		p.Code, p.Detail, p.RetryIn = "ledger.stopped", "the ledger is stopped", 5*time.Second
	case errors.Is(err, ledger.ErrConflict):
		p.Code, p.Detail, p.RetryIn = "subject.contended", "the holder's state kept changing", time.Second
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		p.Code, p.Detail, p.RetryIn = "request.cancelled", "the request ended before its answer was ready", time.Second
	}
	if d != nil {
		w := decision(*d)
		p.Decision = &w
	}
	return p
}

// named is a decision with the id under which it is journalled.
func named(d policy.Decision, id string) contract.Decision {
	w := decision(d)
	w.ID = id
	return w
}

func decision(d policy.Decision) contract.Decision {
	rules := d.Rules
	if rules == nil {
		rules = []string{}
	}
	return contract.Decision{Result: d.Result.String(), Code: d.Code, Detail: d.Detail, Rules: rules, Missing: d.Missing,
		Policy: d.Policy.String(), PolicyVersion: d.Version, Identity: d.Identity}
}

// asked is what was decided about.
type asked struct {
	client string
	op     policy.Operation
	typ    string
	at     time.Time
}

// judged is decided for what a client asked for: what is denied is journalled, as far as there is room, and the client gets its id.
func (a *Authority) judged(q asked, d policy.Decision) error {
	err := a.decided(q.op, d)
	var p *Problem
	if d.Result == policy.Denied && errors.As(err, &p) {
		p.Decision.ID = a.o.Ledger.Denied(q.client, q.op, q.typ, q.at, d)
	}
	return err
}

// untrue is the decision about a request whose evidence does not hold: there is nothing that a bundle could be asked.
func untrue(b *policy.Bundle, p *Problem) policy.Decision {
	return policy.Decision{Result: policy.Denied, Code: p.Code, Detail: p.Detail, Rules: []string{policy.RuleEvidence}, Policy: b.Hash(), Version: b.Version()}
}

// unmet is the decision once the ledger found that a condition of it does not hold. ok is false for every other error.
func unmet(d policy.Decision, err error) (_ policy.Decision, ok bool) {
	var r *ledger.Refusal
	if !errors.As(err, &r) {
		return d, false
	}
	budget, denies := r.Denies()
	switch {
	case !denies:
		return d, false
	case budget != "": // another bundle may have a larger one: what it was made of is kept
		return d.Exhausted(budget, r.Detail()), true
	}
	rule := policy.RuleEvidence
	if r.Code() == "card.held" {
		rule = policy.RuleLocks
	}
	d.Result, d.Code, d.Detail, d.Rules, d.Missing, d.Record = policy.Denied, r.Code(), r.Detail(), []string{rule}, nil, nil
	return d, true
}

// decided turns a decision that is not Allowed into a problem, and counts it either way.
func (a *Authority) decided(op policy.Operation, d policy.Decision) error {
	a.o.Metrics.Decisions.WithLabelValues(string(op), d.Result.String(), d.Code).Inc()
	if d.Result == policy.Allowed {
		return nil
	}
	w := decision(d)
	return &Problem{Code: d.Code, Detail: d.Detail, Decision: &w}
}

// pseudonym replaces a subject number, at once and for good.
func (a *Authority) pseudonym(subject string) (policy.Pseudonym, error) {
	if len(subject) == 0 || len(subject) > 64 {
		return policy.Pseudonym{}, &Problem{Code: "subject.malformed", Detail: "a subject number has 1 to 64 characters"}
	}
	for _, c := range []byte(subject) {
		if c <= ' ' || c > '~' {
			return policy.Pseudonym{}, &Problem{Code: "subject.malformed", Detail: "a subject number is printable ASCII without spaces"}
		}
	}
	return a.pseudonyms.Sum(append([]byte("v1\x00"), subject...)), nil
}

// Nonce mints an appliance nonce.
func (a *Authority) Nonce(ctx context.Context, c Caller, r contract.NonceRequest) (contract.NonceAnswer, error) {
	now, err := a.now()
	if err != nil {
		return contract.NonceAnswer{}, err
	}
	if err := a.judged(asked{c.ID, "nonce", r.DocumentType, now}, a.rules().bundle.DecideNonce(c.ID, r.DocumentType)); err != nil {
		return contract.NonceAnswer{}, err
	}
	var random [16]byte
	if _, err := io.ReadFull(a.o.Random, random[:]); err != nil {
		return contract.NonceAnswer{}, problem(fmt.Errorf("reading randomness: %w", err), nil)
	}
	n, until := a.rules().evidence.Nonce(c.ID, r.DocumentType, now, random)
	return contract.NonceAnswer{Nonce: n, ExpiresAt: until}, nil
}

// now is the time for issuing: it exists only while the clock is trusted.
func (a *Authority) now() (time.Time, error) {
	t, err := a.o.Guard.Trusted()
	if err != nil {
		return t, &Problem{Code: "clock.untrusted", Detail: "the appliance does not trust its clock; issuing is stopped", cause: err}
	}
	return t, nil
}

// WhoAmI says what a client may do; the map is not to be changed. ok is false for a client that the policy does not know in this role.
func (a *Authority) WhoAmI(c Caller) (contract.WhoAmI, bool) {
	r := a.rules()
	known, ok := r.clients.Load(c.ID)
	if !ok { // asked with every request, and another answer only by another bundle
		i, ok := r.bundle.Client(c.ID)
		if !ok {
			return contract.WhoAmI{}, false
		}
		w := contract.WhoAmI{Client: i.ID, Role: i.Role, Class: i.Class, Issuer: i.Issuer, May: map[string][]string{}, Policy: r.bundle.Hash().String()}
		for t, ops := range i.May {
			for _, op := range ops {
				w.May[t] = append(w.May[t], string(op))
			}
		}
		known, _ = r.clients.LoadOrStore(c.ID, w)
	}
	w := known.(contract.WhoAmI)
	if e, known := a.o.Ledger.Client(c.ID); w.Role != c.Role || known && e.State == ledger.ClientRevoked {
		return contract.WhoAmI{}, false
	}
	w.Expires = c.Expires
	return w, true
}

// activeKey picks the active key of a purpose that may be used now; the newest one if there are several. An active key's time has come: a request
// that was begun a moment before its hand-over is signed by it, too.
func (a *Authority) activeKey(p policy.Purpose, at time.Time) (ledger.Key, error) {
	var best ledger.Key
	for _, k := range a.o.Ledger.Keys() {
		if k.Purpose == p && a.o.Ledger.Signs(k) && at.Before(k.NotAfter) && (best.ID == "" || k.Since.After(best.Since)) {
			best = k
		}
	}
	if best.ID == "" {
		return best, &Problem{Code: "key.missing", Detail: fmt.Sprintf("no active key for purpose %s at %s", p, at.Format(time.RFC3339))}
	}
	return best, nil
}

// sign takes a committed reservation through the HSM and the exit gate, up to the point where its answer can be joined.
func (a *Authority) sign(ctx context.Context, r *ledger.Reservation, tbs [][]byte) (*release.Checked, error) {
	s, err := a.o.Signer.Sign(ctx, r, tbs)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", r.ID(), err)
	}
	c, err := a.o.Gate.Check(ctx, r, tbs, s)
	if err != nil {
		return nil, fmt.Errorf("checking %s: %w", r.ID(), err)
	}
	return c, nil
}
