// Package api is the edge: three listeners in front of the authority, and nothing behind it. What arrives is bounded, identified, allowed
// by one role × route table and strictly decoded here, once for all routes; what leaves is a whole answer or an RFC 9457 problem with a
// stable code. It knows no ledger, no signer and no credential format.
//
// The order for every request of the issuance listener is
//
//	identity → client known → route → role → query → admission → idempotency key → media type → size → strict decoding → values → authority
//
// Who asks comes first, so that a stranger learns nothing from the difference between 404, 405 and 415; size comes before decoding, so
// that nothing is allocated for what is refused; admission comes before the body, so that overload costs no parsing.
package api

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"sealkeeper/ca"
	"sealkeeper/contract"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/metrics"
)

// Limits of the edge, together.
const (
	maxIssueBody  = 256 << 10 // a portrait of 100 KiB as base64, a proof and an attestation chain (six certificates)
	maxBody       = 16 << 10
	maxEnrolBody  = 32 << 10   // a certificate request of 16 KiB as base64, and a token
	maxPolicyBody = 768 << 10  // a bundle as one string, with its quotes and line ends escaped
	maxStatusBody = 1280 << 10 // a status of phones, likewise
	maxSignedBody = 1280 << 10 // a proposal that holds a bundle, its quotes escaped twice
	maxDepth      = 16
	maxHeader     = 16 << 10
	deadline      = 10 * time.Second // of one request in the authority
	readHeader    = 5 * time.Second  // T13, F24: a client that drips its header or body is closed
	readRequest   = 10 * time.Second
	readAdmitted  = 3 * time.Second // the body of a request that holds a place for issuing, or two clients that drip would hold all of them
	writeAnswer   = 30 * time.Second
	writeAdmitted = 5 * time.Second // an answer that is sent from a place for issuing: the place is what bounds such answers in memory
	idle          = 60 * time.Second
	defaultIssues = 256
	shareOfIssues = 2 // F41: one client may hold at most 1/2 of the places
	retryBusy     = time.Second
	retryDrain    = 2 * time.Second
)

// Enrolments is what it needs for clients that officers enrolled.
type Enrolments interface {
	Token(ctx context.Context, c ca.Caller, r contract.TokenRequest) (contract.TokenAnswer, error)
	Enrolling(ctx context.Context) (contract.Enrolling, error)
	RegisterClient(ctx context.Context, c ca.Caller, r contract.RegisterRequest) (contract.CertificateAnswer, error)
	RenewClient(ctx context.Context, c ca.Caller, r contract.RenewClientRequest) (contract.CertificateAnswer, error)
	RekeyClient(ctx context.Context, c ca.Caller, r contract.RekeyRequest) (contract.CertificateAnswer, error)
	RetireClient(ctx context.Context, c ca.Caller, r contract.RetireRequest) (contract.RetireAnswer, error)
	CertifyRA(ctx context.Context, c ca.Caller, r contract.ServerRequest) (contract.CertificateAnswer, error)
}

// Authority is what the edge needs of the conductor.
type Authority interface {
	Enrolments
	Nonce(ctx context.Context, c ca.Caller, r contract.NonceRequest) (contract.NonceAnswer, error)
	Code(ctx context.Context, c ca.Caller, r contract.CodeRequest) (contract.CodeAnswer, error)
	Session(ctx context.Context, c ca.Caller, r contract.SessionRequest) (contract.SessionAnswer, error)
	Activate(ctx context.Context, c ca.Caller, r contract.PolicyRequest) (contract.Policy, error)
	Policy(ctx context.Context) (contract.Policy, error)
	Decisions(ctx context.Context, r contract.DecisionQuery) (contract.DecisionPage, error)
	FeedPhones(ctx context.Context, c ca.Caller, r contract.PhoneStatusRequest) (contract.PhoneStatus, error)
	Issue(ctx context.Context, c ca.Caller, call ca.Call, r contract.IssueRequest) ([]byte, error)
	Refresh(ctx context.Context, c ca.Caller, call ca.Call, r contract.IssueRequest) ([]byte, error)
	DryRunIssue(ctx context.Context, c ca.Caller, r contract.IssueRequest) (contract.Decision, error)
	DryRunRefresh(ctx context.Context, c ca.Caller, r contract.IssueRequest) (contract.Decision, error)
	Lock(ctx context.Context, c ca.Caller, r contract.ChangeRequest) (contract.ChangeAnswer, error)
	Unlock(ctx context.Context, c ca.Caller, r contract.ChangeRequest) (contract.ChangeAnswer, error)
	Revoke(ctx context.Context, c ca.Caller, r contract.ChangeRequest) (contract.ChangeAnswer, error)
	Event(ctx context.Context, c ca.Caller, r contract.EventRequest) (contract.EventAnswer, error)
	Renew(ctx context.Context, c ca.Caller, r contract.RenewalRequest) (contract.ChangeAnswer, error)
	Schedule(ctx context.Context, c ca.Caller, r contract.ScheduleRequest) (contract.ChangeAnswer, error)
	CancelSchedule(ctx context.Context, c ca.Caller, r contract.ScheduleCancel) (contract.ChangeAnswer, error)
	Acknowledge(ctx context.Context, c ca.Caller, r contract.AcknowledgementRequest) (contract.ChangeAnswer, error)
	DeadEvents(ctx context.Context) (contract.DeadEvents, error)
	ReplayEvent(ctx context.Context, c ca.Caller, r contract.ReplayRequest) (contract.EventAnswer, error)
	Floods(ctx context.Context) (contract.Floods, error)
	DecideFlood(ctx context.Context, c ca.Caller, r contract.FloodRequest) (contract.FloodAnswer, error)
	Officers(ctx context.Context) (contract.Officers, error)
	Clients(ctx context.Context) (contract.Clients, error)
	Campaigns(ctx context.Context) (contract.Campaigns, error)
	PaceCampaign(ctx context.Context, c ca.Caller, r contract.CampaignPace) (contract.Campaigns, error)
	CountCards(ctx context.Context, r contract.CardsQuery) (contract.CardsCount, error)
	HolderFor(ctx context.Context, c ca.Caller, r contract.StateRequest) (contract.OfficersHolder, error)
	Proposals(ctx context.Context) (contract.Proposals, error)
	Proposal(ctx context.Context, r contract.ProposalQuery) (contract.Proposal, error)
	Propose(ctx context.Context, c ca.Caller, r contract.ProposeRequest) (contract.Proposal, error)
	Approve(ctx context.Context, c ca.Caller, r contract.ApprovalRequest) (contract.Proposal, error)
	Reject(ctx context.Context, c ca.Caller, r contract.ApprovalRequest) (contract.Proposal, error)
	Execute(ctx context.Context, c ca.Caller, r contract.ProposalQuery) (contract.Proposal, error)
	Holder(ctx context.Context, c ca.Caller, r contract.StateRequest) (contract.Holder, error)
	Admit(c ca.Caller) error
	WhoAmI(c ca.Caller) (contract.WhoAmI, bool)
	Public(path string) (ca.Object, bool)
	Status(ctx context.Context) contract.Status
}

// Of is the real Authority. The operations are named here, so that no route can ask for one that comes from outside.
func Of(a *ca.Authority) Authority { return conductor{a} }

type conductor struct{ *ca.Authority }

func (c conductor) Issue(ctx context.Context, who ca.Caller, call ca.Call, r contract.IssueRequest) ([]byte, error) {
	out, err := c.Authority.Issue(ctx, who, call, "issue", r)
	if err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (c conductor) Refresh(ctx context.Context, who ca.Caller, call ca.Call, r contract.IssueRequest) ([]byte, error) {
	out, err := c.Authority.Issue(ctx, who, call, "refresh", r)
	if err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (c conductor) DryRunIssue(ctx context.Context, who ca.Caller, r contract.IssueRequest) (contract.Decision, error) {
	return c.DryRun(ctx, who, "issue", r)
}

func (c conductor) DryRunRefresh(ctx context.Context, who ca.Caller, r contract.IssueRequest) (contract.Decision, error) {
	return c.DryRun(ctx, who, "refresh", r)
}

func (c conductor) Lock(ctx context.Context, who ca.Caller, r contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return c.Change(ctx, who, "lock", r)
}

func (c conductor) Unlock(ctx context.Context, who ca.Caller, r contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return c.Change(ctx, who, "unlock", r)
}

func (c conductor) Revoke(ctx context.Context, who ca.Caller, r contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return c.Change(ctx, who, "revoke", r)
}

// Options of New.
type Options struct {
	Authority   Authority             // Of(…)
	Certificate tls.Certificate       // of the issuance listener
	ClientCAs   func() *x509.CertPool // anchors of client certificates at a handshake; nothing else is believed
	Clock       clock.Clock
	Guard       *clock.Guard // of the same clock: while it does not trust the wall, clients' certificates are judged by the time of lists as well
	Log         *slog.Logger
	Metrics     *metrics.Metrics
	Random      io.Reader       // request ids; nil: crypto/rand
	Hardening   map[string]bool // what confines this process, as found at start; shown in status and metrics
	MaxIssues   int             // issue, refresh and dry-run requests at once; 0: 256
}

// Edge makes the three listeners' servers and drains them together.
type Edge struct {
	o           Options
	issues      admission
	certificate atomic.Pointer[tls.Certificate] // of the issuance listener
}

// New checks the options. It starts nothing: the caller listens, serves and shuts down.
func New(o Options) (*Edge, error) {
	if o.Authority == nil || o.Clock == nil || o.Guard == nil || o.Log == nil || o.Metrics == nil {
		return nil, errors.New("the edge needs an authority, a clock and its guard, a logger and metrics")
	}
	if o.MaxIssues < 0 {
		return nil, errors.New("the number of issue requests at once must not be negative")
	}
	if o.MaxIssues == 0 {
		o.MaxIssues = defaultIssues
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	for control, held := range o.Hardening {
		v := 0.0
		if held {
			v = 1
		}
		o.Metrics.Hardening.WithLabelValues(control).Set(v)
	}
	e := &Edge{o: o, issues: newAdmission(o.MaxIssues)}
	e.Present(o.Certificate)
	return e, nil
}

// Present has the issuance listener show another certificate in handshakes from now on. Open connections stay as they are.
func (e *Edge) Present(c tls.Certificate) {
	if c.Leaf != nil {
		e.o.Metrics.CertExpires.WithLabelValues("tls-server").Set(float64(c.Leaf.NotAfter.Unix()))
	}
	e.certificate.Store(&c)
}

// Issuance is the mTLS server for issuance services, carriers, desks, operators and auditors: serve it with ServeTLS(l, "", "").
//
// TLS 1.3 alone. No session tickets: a resumed session would not show its certificate chain to the verifier again. HTTP/1.1 alone: it
// costs a fifth less CPU here than HTTP/2, and has no streams to reset.
func (e *Edge) Issuance() (*http.Server, error) {
	if len(e.o.Certificate.Certificate) == 0 || e.o.ClientCAs == nil {
		return nil, errors.New("the issuance listener needs a server certificate and the anchors of client certificates")
	}
	s := e.server(e.IssuanceHandler())
	base := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return e.certificate.Load(), nil },
		ClientAuth:             tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true,
		// An answer is of use when all of it is there: not in records of one packet each, as pages are that are shown while they come.
		DynamicRecordSizingDisabled: true,
		NextProtos:                  []string{"http/1.1"},
		Time:                        e.o.Clock.Now,
	}
	s.TLSConfig = base.Clone()
	s.TLSConfig.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { // a CA takes the place of another while connections come in
		now := base.Clone()
		now.ClientCAs = e.o.ClientCAs()
		if _, err := e.o.Guard.Trusted(); err != nil { // crypto/tls judges by one instant
			now.ClientAuth = tls.RequireAnyClientCert
			now.VerifyConnection = func(cs tls.ConnectionState) error {
				_, err := e.verify(cs.PeerCertificates)
				return err
			}
		}
		return now, nil
	}
	return s, nil
}

// Public is the read-only server for verifiers. It may stand behind a CDN; TLS is the caller's choice, since everything it hands out is
// signed or, as certificates, compared with an anchor.
func (e *Edge) Public() *http.Server { return e.server(e.PublicHandler()) }

// Operations is the server for operators: metrics, liveness, readiness, status. It has no authentication: bind it to loopback.
func (e *Edge) Operations() *http.Server { return e.server(e.OperationsHandler()) }

func (e *Edge) server(h http.Handler) *http.Server {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeader,
		ReadTimeout:       readRequest,
		WriteTimeout:      writeAnswer,
		IdleTimeout:       idle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(e.o.Log.Handler(), slog.LevelWarn),
		Protocols:         new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	return s
}

// BeginDrain makes readiness fail and refuses new issue requests, while those in flight finish; locks, unlocks and revocations go on
// until the listeners close. Call it before http.Server.Shutdown.
func (e *Edge) BeginDrain() { e.issues.drain() }
