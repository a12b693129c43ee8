// Package client talks to a sealkeeper appliance: for issuance services, carriers and desks, over mTLS.
//
// A retry is safe here, and made without asking: Issue and Refresh carry an idempotency key, so a request whose answer was lost gives the
// same bytes again and never a second card. Every call is tried again after a connection error and after 429 or 503, not before the
// appliance's Retry-After, with jitter, until its context ends or Attempts are used up. Two exceptions: Unlock is not tried again once it
// may have reached the appliance, since a late second one could lift a lock that was set in between; and a refused certificate, ours or
// theirs, does not get better by trying.
//
// A service that may crash between asking and storing the answer makes the key itself with NewKey, stores it, and uses it again.
//
// Refusals are *Problem, with the appliance's stable code. Nothing is ever logged, and no error quotes a body.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sealkeeper/contract"
)

const (
	defaultAttempts = 5
	defaultTimeout  = 15 * time.Second
	firstWait       = 100 * time.Millisecond
	longestWait     = 5 * time.Second
	maxAnswer       = 16 << 20 // an answer with several copies and portraits is some 3 MiB
)

// Config of New.
type Config struct {
	BaseURL     string          // https://host:port of the issuance listener
	Certificate tls.Certificate // this client's, with its key; or
	Identity    *Identity       // that renews itself: each renewal gets new connections, and no request fails for it
	RootCAs     *x509.CertPool  // anchors of the appliance's certificate: the system's are not asked; nil: the identity's, also those that it comes to know
	Attempts    int             // tries of one call; 0: 5
	Timeout     time.Duration   // of one try; 0: 15 s
}

// Client is safe for concurrent use.
type Client struct {
	base       string
	config     Config
	http       atomic.Pointer[http.Client]
	generation atomic.Uint64 // of the identity that http speaks for
	renewing   sync.Mutex    // who changes the two
	attempts   int
	wait       func(ctx context.Context, d time.Duration) error
}

// Problem is the appliance's refusal (RFC 9457). Code is stable.
type Problem struct {
	contract.Problem
	RetryAfter time.Duration // 429 and 503; zero: not said
}

func (p *Problem) Error() string {
	return fmt.Sprintf("the appliance answered %d %s: %s (%s)", p.Status, p.Code, p.Detail, p.Instance)
}

// Code of err if it is or wraps a *Problem, else nothing.
func Code(err error) string {
	var p *Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

// New checks the configuration. It does not connect.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.BaseURL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return nil, errors.New("the base URL must be https://host:port")
	}
	var first uint64
	if c.Identity != nil {
		now := c.Identity.now.Load()
		c.Certificate, first = now.certificate, now.generation
		if c.RootCAs == nil || c.RootCAs.Equal(c.Identity.Roots()) { // these change
			c.RootCAs = nil
		}
	}
	if len(c.Certificate.Certificate) == 0 || c.Certificate.PrivateKey == nil {
		return nil, errors.New("a client certificate with its key is needed: the appliance speaks mTLS only")
	}
	if c.RootCAs == nil && c.Identity == nil {
		return nil, errors.New("the anchors of the appliance's certificate are needed")
	}
	if c.Attempts < 0 || c.Timeout < 0 {
		return nil, errors.New("attempts and timeout must not be negative")
	}
	if c.Attempts == 0 {
		c.Attempts = defaultAttempts
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	made := &Client{base: strings.TrimSuffix(c.BaseURL, "/"), config: c, attempts: c.Attempts, wait: wait}
	made.http.Store(made.connect(c.Certificate))
	made.generation.Store(first)
	return made, nil
}

// connection is what requests go over now. A certificate that was renewed gets connections of its own; those under way end on theirs.
func (c *Client) connection() *http.Client {
	if i := c.config.Identity; i != nil {
		if now := i.now.Load(); now.generation > c.generation.Load() {
			c.reconnect(now)
		}
	}
	return c.http.Load()
}

// reconnect goes on with a newer certificate, and never back: a request that was held up may come with one that is not the newest any more.
func (c *Client) reconnect(now *identity) {
	c.renewing.Lock()
	defer c.renewing.Unlock()
	if now.generation <= c.generation.Load() {
		return
	}
	old := c.http.Swap(c.connect(now.certificate))
	c.generation.Store(now.generation)
	old.CloseIdleConnections()
	time.AfterFunc(2*c.config.Timeout, old.CloseIdleConnections) // those that were busy
}

func (c *Client) connect(cert tls.Certificate) *http.Client {
	roots := c.config.RootCAs
	if roots == nil {
		roots = c.config.Identity.Roots()
	}
	t := &http.Transport{
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			RootCAs:    roots,
			// Always this one, even if the server's list of anchors does not name its issuer: the server's refusal says more than our silence.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
		},
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     50 * time.Second, // less than the appliance's 60 s
	}
	return &http.Client{Transport: t, Timeout: c.config.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.Load().CloseIdleConnections() }

// NewKey makes an idempotency key of 192 random bits.
func NewKey() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Nonce asks for a nonce for one issue or refresh request.
func (c *Client) Nonce(ctx context.Context, r contract.NonceRequest) (contract.NonceAnswer, error) {
	return do[contract.NonceAnswer](ctx, c, call{path: "/v1/nonces", body: r})
}

// Code makes a code for a person at the counter, which one phone may scan.
func (c *Client) Code(ctx context.Context, r contract.CodeRequest) (contract.CodeAnswer, error) {
	return do[contract.CodeAnswer](ctx, c, call{path: "/v1/codes", body: r})
}

// Session opens a session: what evidence items are bound to.
func (c *Client) Session(ctx context.Context, r contract.SessionRequest) (contract.SessionAnswer, error) {
	return do[contract.SessionAnswer](ctx, c, call{path: "/v1/sessions", body: r})
}

// Issue asks for credentials for a new phone. key is the idempotency key; empty: one is made, good for the tries of this call.
func (c *Client) Issue(ctx context.Context, key string, r contract.IssueRequest) (contract.IssueAnswer, error) {
	return do[contract.IssueAnswer](ctx, c, call{path: "/v1/credentials", body: r, key: orNew(key)})
}

// Refresh asks for new credentials for the phone that has the card.
func (c *Client) Refresh(ctx context.Context, key string, r contract.IssueRequest) (contract.IssueAnswer, error) {
	return do[contract.IssueAnswer](ctx, c, call{path: "/v1/credentials/refresh", body: r, key: orNew(key)})
}

// DryRun gives the decision that Issue would make now, without effect. A denial is an answer, not an error.
func (c *Client) DryRun(ctx context.Context, r contract.IssueRequest) (contract.Decision, error) {
	return do[contract.Decision](ctx, c, call{path: "/v1/credentials/dry-run", body: r})
}

// DryRunRefresh gives the decision that Refresh would make now.
func (c *Client) DryRunRefresh(ctx context.Context, r contract.IssueRequest) (contract.Decision, error) {
	return do[contract.Decision](ctx, c, call{path: "/v1/credentials/refresh/dry-run", body: r})
}

// Lock adds a lock reason. When it returns, the lock is durable and its list is on its way.
func (c *Client) Lock(ctx context.Context, r contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return do[contract.ChangeAnswer](ctx, c, call{path: "/v1/locks", body: r})
}

// Unlock removes a lock reason of this client's class of authority. It is not repeated if it may have arrived.
func (c *Client) Unlock(ctx context.Context, r contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return do[contract.ChangeAnswer](ctx, c, call{path: "/v1/unlocks", body: r, once: true})
}

// Revoke ends a phone's card for ever.
func (c *Client) Revoke(ctx context.Context, r contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return do[contract.ChangeAnswer](ctx, c, call{path: "/v1/revocations", body: r})
}

// Event brings a carrier's event. It may be sent as often as it takes: the same event has the same answer.
func (c *Client) Event(ctx context.Context, r contract.EventRequest) (contract.EventAnswer, error) {
	return do[contract.EventAnswer](ctx, c, call{path: "/v1/events", body: r})
}

// Renew says that a card has to be made anew.
func (c *Client) Renew(ctx context.Context, r contract.RenewalRequest) (contract.ChangeAnswer, error) {
	return do[contract.ChangeAnswer](ctx, c, call{path: "/v1/renewals", body: r})
}

// Schedule orders a lock or a closing for later.
func (c *Client) Schedule(ctx context.Context, r contract.ScheduleRequest) (contract.ChangeAnswer, error) {
	return do[contract.ChangeAnswer](ctx, c, call{path: "/v1/schedules", body: r})
}

// CancelSchedule takes an order back.
func (c *Client) CancelSchedule(ctx context.Context, r contract.ScheduleCancel) (contract.ChangeAnswer, error) {
	return do[contract.ChangeAnswer](ctx, c, call{path: "/v1/schedules/cancel", body: r})
}

// Acknowledge shows that a phone has its credentials. It is not repeated if it may have arrived: its nonce is good once.
func (c *Client) Acknowledge(ctx context.Context, r contract.AcknowledgementRequest) (contract.ChangeAnswer, error) {
	return do[contract.ChangeAnswer](ctx, c, call{path: "/v1/acknowledgements", body: r, once: true})
}

// DeadEvents lists events that were refused.
func (c *Client) DeadEvents(ctx context.Context) (contract.DeadEvents, error) {
	return do[contract.DeadEvents](ctx, c, call{path: "/v1/events/dead"})
}

// ReplayEvent has a refused event judged again.
func (c *Client) ReplayEvent(ctx context.Context, r contract.ReplayRequest) (contract.EventAnswer, error) {
	return do[contract.EventAnswer](ctx, c, call{path: "/v1/events/replay", body: r})
}

// Floods lists what carriers reported above their thresholds.
func (c *Client) Floods(ctx context.Context) (contract.Floods, error) {
	return do[contract.Floods](ctx, c, call{path: "/v1/floods"})
}

// DecideFlood confirms or undoes a flood. A repetition after a lost answer is refused with flood.deciding or flood.unknown, and does nothing.
func (c *Client) DecideFlood(ctx context.Context, r contract.FloodRequest) (contract.FloodAnswer, error) {
	return do[contract.FloodAnswer](ctx, c, call{path: "/v1/floods/decisions", body: r})
}

// Officers shows the registry of security officers.
func (c *Client) Officers(ctx context.Context) (contract.Officers, error) {
	return do[contract.Officers](ctx, c, call{path: "/v1/officers"})
}

// Clients lists who may connect, what they may do, and when they were there last.
func (c *Client) Clients(ctx context.Context) (contract.Clients, error) {
	return do[contract.Clients](ctx, c, call{path: "/v1/clients"})
}

// Proposals lists what was proposed to the officers.
func (c *Client) Proposals(ctx context.Context) (contract.Proposals, error) {
	return do[contract.Proposals](ctx, c, call{path: "/v1/officers/proposals"})
}

// Campaigns shows what officers had done about many cards, and what became of them.
func (c *Client) Campaigns(ctx context.Context) (contract.Campaigns, error) {
	return do[contract.Campaigns](ctx, c, call{path: "/v1/campaigns"})
}

// PaceCampaign has a campaign mark more or fewer cards a second; 0 has it rest.
func (c *Client) PaceCampaign(ctx context.Context, r contract.CampaignPace) (contract.Campaigns, error) {
	return do[contract.Campaigns](ctx, c, call{path: "/v1/campaigns/pace", body: r})
}

// CountCards counts what a selection is about now.
func (c *Client) CountCards(ctx context.Context, r contract.CardsQuery) (contract.CardsCount, error) {
	return do[contract.CardsCount](ctx, c, call{path: "/v1/campaigns/count", body: r})
}

// HolderFor tells by which pseudonym a holder is named in what officers sign.
func (c *Client) HolderFor(ctx context.Context, r contract.StateRequest) (contract.OfficersHolder, error) {
	return do[contract.OfficersHolder](ctx, c, call{path: "/v1/officers/holders", body: r})
}

// Token asks for the one-time token of a client that officers enrolled.
func (c *Client) Token(ctx context.Context, r contract.TokenRequest) (contract.TokenAnswer, error) {
	return do[contract.TokenAnswer](ctx, c, call{path: "/v1/clients/tokens", body: r})
}

// Enrolling, Register, RenewClient, RekeyClient, Retire and ServerCertificate are for registration authorities.
func (c *Client) Enrolling(ctx context.Context) (contract.Enrolling, error) {
	return do[contract.Enrolling](ctx, c, call{path: "/v1/ra"})
}

// Register brings a client's token and certificate request.
func (c *Client) Register(ctx context.Context, r contract.RegisterRequest) (contract.CertificateAnswer, error) {
	return do[contract.CertificateAnswer](ctx, c, call{path: "/v1/ra/certificates", body: r})
}

// RenewClient asks for another certificate for the key that a client registered.
func (c *Client) RenewClient(ctx context.Context, r contract.RenewClientRequest) (contract.CertificateAnswer, error) {
	return do[contract.CertificateAnswer](ctx, c, call{path: "/v1/ra/renewals", body: r})
}

// RekeyClient brings a statement by which a client changes its key.
func (c *Client) RekeyClient(ctx context.Context, r contract.RekeyRequest) (contract.CertificateAnswer, error) {
	return do[contract.CertificateAnswer](ctx, c, call{path: "/v1/ra/rekeys", body: r})
}

// Retire has a client revoked that said so.
func (c *Client) Retire(ctx context.Context, r contract.RetireRequest) (contract.RetireAnswer, error) {
	return do[contract.RetireAnswer](ctx, c, call{path: "/v1/ra/revocations", body: r})
}

// ServerCertificate is a registration authority's own.
func (c *Client) ServerCertificate(ctx context.Context, r contract.ServerRequest) (contract.CertificateAnswer, error) {
	return do[contract.CertificateAnswer](ctx, c, call{path: "/v1/ra/server", body: r})
}

// Proposal shows one, with all that was signed.
func (c *Client) Proposal(ctx context.Context, id string) (contract.Proposal, error) {
	return do[contract.Proposal](ctx, c, call{path: "/v1/officers/proposals/show", body: contract.ProposalQuery{ID: id}})
}

// Propose brings a signed proposal. The same again is no error.
func (c *Client) Propose(ctx context.Context, r contract.ProposeRequest) (contract.Proposal, error) {
	return do[contract.Proposal](ctx, c, call{path: "/v1/officers/proposals/new", body: r})
}

// Approve brings one officer's approval. It is not repeated if it may have arrived: a second one of the same officer is refused, aloud.
func (c *Client) Approve(ctx context.Context, r contract.ApprovalRequest) (contract.Proposal, error) {
	return do[contract.Proposal](ctx, c, call{path: "/v1/officers/approvals", body: r, once: true})
}

// Reject brings one officer's rejection.
func (c *Client) Reject(ctx context.Context, r contract.ApprovalRequest) (contract.Proposal, error) {
	return do[contract.Proposal](ctx, c, call{path: "/v1/officers/rejections", body: r, once: true})
}

// Execute has a proposal carried out that enough officers approved. It happens once.
func (c *Client) Execute(ctx context.Context, id string) (contract.Proposal, error) {
	return do[contract.Proposal](ctx, c, call{path: "/v1/officers/executions", body: contract.ProposalQuery{ID: id}, once: true})
}

// Holder reads a holder's state.
func (c *Client) Holder(ctx context.Context, r contract.StateRequest) (contract.Holder, error) {
	return do[contract.Holder](ctx, c, call{path: "/v1/holders/state", body: r})
}

// Activate puts a policy bundle to use. Once it returns, every new request is judged by it. The same bundle again is no error.
func (c *Client) Activate(ctx context.Context, r contract.PolicyRequest) (contract.Policy, error) {
	return do[contract.Policy](ctx, c, call{path: "/v1/policies", body: r})
}

// FeedPhones hands over what is revoked of attestation keys and wallets. The same file again is no error.
func (c *Client) FeedPhones(ctx context.Context, r contract.PhoneStatusRequest) (contract.PhoneStatus, error) {
	return do[contract.PhoneStatus](ctx, c, call{path: "/v1/phones/status", body: r})
}

// Policy is the bundle in use, with its file.
func (c *Client) Policy(ctx context.Context) (contract.Policy, error) {
	return do[contract.Policy](ctx, c, call{path: "/v1/policies/active"})
}

// Decisions reads journalled decisions, for auditors and operators.
func (c *Client) Decisions(ctx context.Context, r contract.DecisionQuery) (contract.DecisionPage, error) {
	return do[contract.DecisionPage](ctx, c, call{path: "/v1/decisions", body: r})
}

// WhoAmI says who the appliance takes this client for, and what it may do.
func (c *Client) WhoAmI(ctx context.Context) (contract.WhoAmI, error) {
	return do[contract.WhoAmI](ctx, c, call{path: "/v1/whoami"})
}

func orNew(key string) string {
	if key == "" {
		return NewKey()
	}
	return key
}

// call is one call, whatever the number of its tries.
type call struct {
	path string
	body any    // nil: GET
	key  string // Idempotency-Key
	once bool   // not to be repeated if it may have arrived
}

func do[Answer any](ctx context.Context, c *Client, k call) (Answer, error) {
	var body []byte
	if k.body != nil {
		var err error
		if body, err = json.Marshal(k.body); err != nil {
			var none Answer
			return none, fmt.Errorf("encoding the request: %w", err)
		}
	}
	for try := 1; ; try++ {
		answer, err := once[Answer](ctx, c, k, body)
		if err == nil {
			return answer, nil
		}
		atLeast, again := retryable(err, k.once)
		if !again || try >= c.attempts || ctx.Err() != nil {
			return answer, err
		}
		if c.wait(ctx, max(atLeast, 0)+backoff(try)) != nil {
			return answer, err // the context ends before another try could help: what is known is the last refusal
		}
	}
}

func once[Answer any](ctx context.Context, c *Client, k call, body []byte) (answer Answer, err error) {
	method := http.MethodGet
	if k.body != nil {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+k.path, bytes.NewReader(body))
	if err != nil {
		return answer, fmt.Errorf("making the request: %w", err)
	}
	if k.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if k.key != "" {
		r.Header.Set("Idempotency-Key", k.key)
	}
	w, err := c.connection().Do(r)
	if err != nil {
		return answer, &lost{fmt.Errorf("asking %s: %w", k.path, err)}
	}
	defer w.Body.Close()
	text, err := io.ReadAll(io.LimitReader(w.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer, &lost{fmt.Errorf("reading the answer of %s: %w", k.path, err)}
	case len(text) > maxAnswer:
		return answer, fmt.Errorf("the answer of %s has more than %d bytes", k.path, maxAnswer)
	}
	return read[Answer](k.path, w.StatusCode, w.Header, text)
}

// read decodes what came back.
func read[Answer any](path string, status int, header http.Header, text []byte) (answer Answer, err error) {
	if status == http.StatusOK {
		if err := json.Unmarshal(text, &answer); err != nil {
			var none Answer
			return none, fmt.Errorf("the answer of %s is not what the contract says", path)
		}
		return answer, nil
	}
	p := &Problem{RetryAfter: retryAfter(header.Get("Retry-After"))}
	if header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(text, &p.Problem) != nil {
		p.Problem = contract.Problem{Detail: "not an answer of the appliance: is something between?"}
	}
	p.Status = status
	return answer, p
}

// lost is a try without an answer.
type lost struct{ error }

func (l *lost) Unwrap() error { return l.error }

// retryable reports whether another try may help, and how long it has to wait at least.
func retryable(err error, onlyOnce bool) (atLeast time.Duration, again bool) {
	var p *Problem
	if errors.As(err, &p) {
		// A busy appliance has done nothing yet. But an interrupted request may have been carried out.
		if onlyOnce && p.Code == "request.cancelled" {
			return 0, false
		}
		return p.RetryAfter, p.Status == http.StatusTooManyRequests || p.Status == http.StatusServiceUnavailable
	}
	var l *lost
	if !errors.As(err, &l) {
		return 0, false
	}
	var certificate *tls.CertificateVerificationError
	var op *net.OpError
	isOp := errors.As(err, &op)
	switch {
	case errors.As(err, &certificate): // theirs is not believed
		return 0, false
	case isOp && op.Op == "remote error": // a TLS alert: ours is not
		return 0, false
	case onlyOnce: // only if it never left
		return 0, isOp && op.Op == "dial"
	}
	return 0, true
}

// retryAfter reads the header's seconds; a date is not used by the appliance.
func retryAfter(v string) time.Duration {
	s, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(s) * time.Second
}

// backoff is between half of and the whole of an exponentially growing wait, so that clients that were refused together don't return together.
func backoff(try int) time.Duration {
	d := min(firstWait<<min(try-1, 10), longestWait)
	return d/2 + upTo(d/2)
}

// upTo is a random wait of at most d.
func upTo(d time.Duration) time.Duration {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(d)+1))
	if err != nil {
		return d
	}
	return time.Duration(n.Int64())
}

func wait(ctx context.Context, d time.Duration) error {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return context.DeadlineExceeded
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
