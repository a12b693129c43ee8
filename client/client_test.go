package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"sealkeeper/api"
	"sealkeeper/ca"
	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/metrics"
)

// authority answers with the operation's name, after as many refusals as it is told to make.
type authority struct {
	api.Enrolments

	mu    sync.Mutex
	fails []error
	seen  []string
	keys  []string
	hash  [][32]byte
}

func (a *authority) next(op string, c ca.Caller) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, op+" by "+c.Role+" "+c.ID)
	if len(a.fails) == 0 {
		return nil
	}
	err := a.fails[0]
	a.fails = a.fails[1:]
	return err
}

func (a *authority) issue(op string, c ca.Caller, k ca.Call) ([]byte, error) {
	a.mu.Lock()
	a.keys, a.hash = append(a.keys, k.Key), append(a.hash, k.Hash)
	a.mu.Unlock()
	return []byte(`{"issuance":"` + op + `","device":"d","replaced":false,"credentials":[],"decision":{"result":"allowed","rules":[],"policy":"","policy_version":1}}`), a.next(op, c)
}

func (a *authority) Nonce(_ context.Context, c ca.Caller, r contract.NonceRequest) (contract.NonceAnswer, error) {
	return contract.NonceAnswer{Nonce: "nonce of " + r.DocumentType}, a.next("nonce", c)
}
func (a *authority) Activate(_ context.Context, c ca.Caller, r contract.PolicyRequest) (contract.Policy, error) {
	return contract.Policy{Version: 2, Signers: []string{}, Bundle: string(r.Bundle)}, a.next("activate", c)
}

func (a *authority) FeedPhones(_ context.Context, c ca.Caller, r contract.PhoneStatusRequest) (contract.PhoneStatus, error) {
	return contract.PhoneStatus{Signer: string(r.Status)}, a.next("phones", c)
}

func (a *authority) Decisions(context.Context, contract.DecisionQuery) (contract.DecisionPage, error) {
	return contract.DecisionPage{}, nil
}

func (a *authority) Policy(context.Context) (contract.Policy, error) {
	return contract.Policy{Version: 2, Signers: []string{}}, nil
}

func (a *authority) Code(_ context.Context, c ca.Caller, _ contract.CodeRequest) (contract.CodeAnswer, error) {
	return contract.CodeAnswer{}, a.next("code", c)
}
func (a *authority) Session(_ context.Context, c ca.Caller, r contract.SessionRequest) (contract.SessionAnswer, error) {
	return contract.SessionAnswer{Session: "session of " + r.Subject, Pseudonyms: map[string]string{}}, a.next("session", c)
}
func (a *authority) Issue(_ context.Context, c ca.Caller, k ca.Call, _ contract.IssueRequest) ([]byte, error) {
	return a.issue("issue", c, k)
}
func (a *authority) Refresh(_ context.Context, c ca.Caller, k ca.Call, _ contract.IssueRequest) ([]byte, error) {
	return a.issue("refresh", c, k)
}
func (a *authority) DryRunIssue(_ context.Context, c ca.Caller, _ contract.IssueRequest) (contract.Decision, error) {
	return contract.Decision{Result: "denied", Code: "slot.occupied"}, a.next("dry-run issue", c)
}
func (a *authority) DryRunRefresh(_ context.Context, c ca.Caller, _ contract.IssueRequest) (contract.Decision, error) {
	return contract.Decision{Result: "allowed"}, a.next("dry-run refresh", c)
}
func (a *authority) Lock(_ context.Context, c ca.Caller, _ contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return contract.ChangeAnswer{Sequence: 1}, a.next("lock", c)
}
func (a *authority) Unlock(_ context.Context, c ca.Caller, _ contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return contract.ChangeAnswer{Sequence: 2}, a.next("unlock", c)
}
func (a *authority) Revoke(_ context.Context, c ca.Caller, _ contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return contract.ChangeAnswer{Sequence: 3}, a.next("revoke", c)
}
func (a *authority) Event(_ context.Context, c ca.Caller, _ contract.EventRequest) (contract.EventAnswer, error) {
	return contract.EventAnswer{Sequence: 4}, a.next("event", c)
}
func (a *authority) Renew(_ context.Context, c ca.Caller, _ contract.RenewalRequest) (contract.ChangeAnswer, error) {
	return contract.ChangeAnswer{Sequence: 5}, a.next("renew", c)
}
func (a *authority) Schedule(_ context.Context, c ca.Caller, _ contract.ScheduleRequest) (contract.ChangeAnswer, error) {
	return contract.ChangeAnswer{Sequence: 6}, a.next("schedule", c)
}
func (a *authority) CancelSchedule(_ context.Context, c ca.Caller, _ contract.ScheduleCancel) (contract.ChangeAnswer, error) {
	return contract.ChangeAnswer{Sequence: 7}, a.next("cancel", c)
}
func (a *authority) Acknowledge(_ context.Context, c ca.Caller, _ contract.AcknowledgementRequest) (contract.ChangeAnswer, error) {
	return contract.ChangeAnswer{Sequence: 8}, a.next("acknowledge", c)
}
func (a *authority) DeadEvents(context.Context) (contract.DeadEvents, error) {
	return contract.DeadEvents{}, nil
}
func (a *authority) ReplayEvent(_ context.Context, c ca.Caller, _ contract.ReplayRequest) (contract.EventAnswer, error) {
	return contract.EventAnswer{}, a.next("replay", c)
}
func (a *authority) Floods(context.Context) (contract.Floods, error) { return contract.Floods{}, nil }
func (a *authority) DecideFlood(_ context.Context, c ca.Caller, _ contract.FloodRequest) (contract.FloodAnswer, error) {
	return contract.FloodAnswer{Cards: 3}, a.next("flood", c)
}
func (a *authority) Clients(context.Context) (contract.Clients, error) {
	return contract.Clients{}, nil
}

func (a *authority) Officers(context.Context) (contract.Officers, error) {
	return contract.Officers{}, nil
}
func (a *authority) Proposals(context.Context) (contract.Proposals, error) {
	return contract.Proposals{}, nil
}
func (a *authority) Proposal(context.Context, contract.ProposalQuery) (contract.Proposal, error) {
	return contract.Proposal{}, nil
}
func (a *authority) Propose(_ context.Context, c ca.Caller, _ contract.ProposeRequest) (contract.Proposal, error) {
	return contract.Proposal{}, a.next("propose", c)
}
func (a *authority) Approve(_ context.Context, c ca.Caller, _ contract.ApprovalRequest) (contract.Proposal, error) {
	return contract.Proposal{}, a.next("approve", c)
}
func (a *authority) Reject(_ context.Context, c ca.Caller, _ contract.ApprovalRequest) (contract.Proposal, error) {
	return contract.Proposal{}, a.next("reject", c)
}
func (a *authority) Execute(_ context.Context, c ca.Caller, _ contract.ProposalQuery) (contract.Proposal, error) {
	return contract.Proposal{}, a.next("execute", c)
}
func (a *authority) Holder(_ context.Context, c ca.Caller, _ contract.StateRequest) (contract.Holder, error) {
	return contract.Holder{Epoch: 7}, a.next("state", c)
}
func (a *authority) Campaigns(context.Context) (contract.Campaigns, error) {
	return contract.Campaigns{}, nil
}
func (a *authority) PaceCampaign(_ context.Context, c ca.Caller, _ contract.CampaignPace) (contract.Campaigns, error) {
	return contract.Campaigns{}, a.next("pace", c)
}
func (a *authority) CountCards(context.Context, contract.CardsQuery) (contract.CardsCount, error) {
	return contract.CardsCount{}, nil
}
func (a *authority) Token(_ context.Context, c ca.Caller, r contract.TokenRequest) (contract.TokenAnswer, error) {
	return contract.TokenAnswer{Client: r.Client}, a.next("token", c)
}
func (a *authority) HolderFor(_ context.Context, c ca.Caller, _ contract.StateRequest) (contract.OfficersHolder, error) {
	return contract.OfficersHolder{}, a.next("holder-for", c)
}
func (a *authority) Admit(ca.Caller) error { return nil }

func (a *authority) WhoAmI(c ca.Caller) (contract.WhoAmI, bool) {
	return contract.WhoAmI{Client: c.ID, Role: c.Role, Expires: c.Expires}, c.ID != "nobody"
}
func (a *authority) Public(string) (ca.Object, bool)        { return ca.Object{}, false }
func (a *authority) Status(context.Context) contract.Status { return contract.Status{} }

// pki is one authority for servers and clients.
type pki struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newPKI(t *testing.T) *pki {
	key := newKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	p := &pki{t: t, key: key, cert: cert, pool: x509.NewCertPool()}
	p.pool.AddCert(cert)
	return p
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// leaf makes a certificate: for a client with this name, or for 127.0.0.1 if there is none.
func (p *pki) leaf(name string) tls.Certificate {
	p.t.Helper()
	key := newKey(p.t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
	if name == "" {
		tmpl.ExtKeyUsage, tmpl.IPAddresses = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []net.IP{net.IPv4(127, 0, 0, 1)}
	} else {
		u, err := url.Parse(name)
		if err != nil {
			p.t.Fatal(err)
		}
		tmpl.ExtKeyUsage, tmpl.URIs = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.cert, key.Public(), p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// appliance is the issuance listener over an authority that the test commands.
type appliance struct {
	*authority
	pki  *pki
	edge *api.Edge
	url  string
	// cut: how many more connections end after the request's bytes went in
	wire *cutter
}

func start(t *testing.T) *appliance {
	t.Helper()
	p := newPKI(t)
	a := &appliance{authority: &authority{}, pki: p}
	e, err := api.New(api.Options{Authority: a.authority, Certificate: p.leaf(""), ClientCAs: func() *x509.CertPool { return p.pool }, Clock: clock.System(), Guard: clock.NewGuard(clock.System(), time.Time{}, time.Hour, false),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: metrics.New()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Issuance()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.wire = &cutter{Handler: s.Handler}
	s.Handler = a.wire
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { s.Close() })
	a.edge, a.url = e, "https://"+l.Addr().String()
	return a
}

// cutter answers, but cuts the connection instead of sending the answer, as often as told.
type cutter struct {
	http.Handler
	mu   sync.Mutex
	cuts int
}

type nowhere struct{ h http.Header }

func (n nowhere) Header() http.Header         { return n.h }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	cut := c.cuts > 0
	if cut {
		c.cuts--
	}
	c.mu.Unlock()
	if !cut {
		c.Handler.ServeHTTP(w, r)
		return
	}
	c.Handler.ServeHTTP(nowhere{http.Header{}}, r)
	panic(http.ErrAbortHandler)
}

func (a *appliance) client(t *testing.T, name string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{BaseURL: a.url, Certificate: a.pki.leaf(name), RootCAs: a.pki.pool, Attempts: 3})
	if err != nil {
		t.Fatal(err)
	}
	client.NoWaiting(c)
	t.Cleanup(c.Close)
	return c
}

const ward = "urn:sealkeeper:client:issuance:ward-office"

var (
	request = contract.IssueRequest{DocumentType: "kr-resident", Subject: "900101-1234567", Claims: map[string]any{}, Proof: "p"}
	change  = contract.ChangeRequest{DocumentType: "kr-resident", Subject: "900101-1234567", Reason: "self_lost"}
)

func TestEveryCallReachesItsOperation(t *testing.T) {
	a := start(t)
	c, ctx := a.client(t, ward), context.Background()
	ok := func(what string, got, want any, err error) {
		t.Helper()
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	n, err := c.Nonce(ctx, contract.NonceRequest{DocumentType: "kr-resident"})
	ok("nonce", n.Nonce, "nonce of kr-resident", err)
	i, err := c.Issue(ctx, "", request)
	ok("issue", i.Issuance, "issue", err)
	i, err = c.Refresh(ctx, "", request)
	ok("refresh", i.Issuance, "refresh", err)
	d, err := c.DryRun(ctx, request)
	ok("dry run", d.Code, "slot.occupied", err) // an answer, not an error
	d, err = c.DryRunRefresh(ctx, request)
	ok("dry run refresh", d.Result, "allowed", err)
	l, err := c.Lock(ctx, change)
	ok("lock", l.Sequence, uint64(1), err)
	l, err = c.Unlock(ctx, change)
	ok("unlock", l.Sequence, uint64(2), err)
	l, err = c.Revoke(ctx, change)
	ok("revoke", l.Sequence, uint64(3), err)
	s, err := c.Holder(ctx, contract.StateRequest{DocumentType: "kr-resident", Subject: "1"})
	ok("holder", s.Epoch, uint64(7), err)
	w, err := c.WhoAmI(ctx)
	ok("whoami", w.Client+" "+w.Role, "ward-office issuance", err)
	want := "nonce issue refresh dry-run issue dry-run refresh lock unlock revoke state"
	if got := strings.ReplaceAll(strings.Join(a.seen, " "), " by issuance ward-office", ""); got != want {
		t.Errorf("the authority saw %s", got)
	}
	if a.keys[0] == a.keys[1] || len(a.keys[0]) != 32 {
		t.Errorf("keys %q: each call needs a new one", a.keys)
	}
}

func TestRefusalsAreTyped(t *testing.T) {
	a := start(t)
	a.fails = []error{&ca.Problem{Code: "slot.occupied", Detail: "another phone has this card", Decision: &contract.Decision{Result: "denied", Rules: []string{"I:one-device"}}}}
	_, err := a.client(t, ward).Issue(context.Background(), "", request)
	var p *client.Problem
	if !errors.As(err, &p) || p.Code != "slot.occupied" || p.Status != 409 || p.Decision == nil || p.Decision.Rules[0] != "I:one-device" || client.Code(err) != "slot.occupied" {
		t.Fatalf("%v", err)
	}
	if len(a.seen) != 1 {
		t.Fatalf("a refusal was tried again: %v", a.seen)
	}
	for name, code := range map[string]string{
		"urn:sealkeeper:client:carrier:c":       "route.forbidden",
		"urn:sealkeeper:client:issuance:nobody": "client.unknown",
		"urn:sealkeeper:client:admin:a":         "client.unidentified",
	} {
		if _, err := a.client(t, name).Issue(context.Background(), "", request); client.Code(err) != code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if client.Code(nil) != "" || client.Code(io.EOF) != "" {
		t.Error("codes from nowhere")
	}
}

// A busy or interrupted appliance is asked again, with the same key and the same request; not for ever.
func TestRetriesAreTheSameRequest(t *testing.T) {
	busy := &ca.Problem{Code: "overloaded", RetryIn: time.Second}
	for _, c := range []struct {
		name  string
		fails []error
		cuts  int
		tries int
		code  string
	}{
		{"at once", nil, 0, 1, ""},
		{"overloaded twice", []error{busy, busy}, 0, 3, ""},
		{"overloaded for ever", []error{busy, busy, busy, busy}, 0, 3, "overloaded"},
		{"interrupted, then busy", []error{&ca.Problem{Code: "request.cancelled"}, &ca.Problem{Code: "client.busy"}}, 0, 3, ""},
		{"answer lost", nil, 1, 2, ""},
		{"answer lost twice", nil, 2, 3, ""},
		{"internal failure", []error{&ca.Problem{Code: "internal"}}, 0, 1, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := start(t)
			cl := a.client(t, ward)
			a.fails, a.wire.cuts = c.fails, c.cuts
			key := client.NewKey()
			answer, err := cl.Issue(context.Background(), key, request)
			if client.Code(err) != c.code || c.code == "" && (err != nil || answer.Issuance != "issue") {
				t.Fatal(answer, err)
			}
			if len(a.keys) != c.tries {
				t.Fatalf("%d tries", len(a.keys))
			}
			for i := range a.keys {
				if a.keys[i] != key || a.hash[i] != a.hash[0] {
					t.Errorf("try %d was another request", i)
				}
			}
		})
	}
}

// An unlock whose answer was lost may have been carried out, and the card may have been locked again since: it is not repeated.
func TestLostUnlockIsNotRepeated(t *testing.T) {
	for _, c := range []struct {
		call  func(*client.Client) error
		fails []error
		cuts  int
		tries int
		good  bool
	}{
		{func(c *client.Client) error { _, err := c.Unlock(context.Background(), change); return err }, nil, 1, 1, false},
		{func(c *client.Client) error { _, err := c.Unlock(context.Background(), change); return err }, []error{&ca.Problem{Code: "request.cancelled"}}, 0, 1, false},
		{func(c *client.Client) error { _, err := c.Unlock(context.Background(), change); return err }, []error{&ca.Problem{Code: "subject.contended"}}, 0, 2, true},
		{func(c *client.Client) error { _, err := c.Lock(context.Background(), change); return err }, nil, 1, 2, true},
		{func(c *client.Client) error { _, err := c.Revoke(context.Background(), change); return err }, []error{nil, &ca.Problem{Code: "request.cancelled"}}, 1, 3, true},
	} {
		a := start(t)
		cl := a.client(t, ward)
		a.fails, a.wire.cuts = c.fails, c.cuts
		if err := c.call(cl); (err == nil) != c.good || len(a.seen) != c.tries {
			t.Errorf("%v after %v", err, a.seen)
		}
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	a := start(t)
	cl := a.client(t, ward)
	var waits []time.Duration
	client.Waiting(cl, func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil })
	a.fails = []error{&ca.Problem{Code: "overloaded", RetryIn: 7 * time.Second}, &ca.Problem{Code: "hsm.down", RetryIn: 3 * time.Second}}
	if _, err := cl.Issue(context.Background(), "", request); err != nil {
		t.Fatal(err)
	}
	if len(waits) != 2 || waits[0] < 7*time.Second || waits[0] > 8*time.Second || waits[1] < 3*time.Second || waits[1] > 4*time.Second {
		t.Fatal(waits)
	}
}

func TestAContextThatEndsEndsTheCall(t *testing.T) {
	a := start(t)
	cl, err := client.New(client.Config{BaseURL: a.url, Certificate: a.pki.leaf(ward), RootCAs: a.pki.pool})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	a.fails = []error{&ca.Problem{Code: "overloaded", RetryIn: time.Hour}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := cl.Issue(ctx, "", request); client.Code(err) != "overloaded" { // at once: no try fits into the minute
		t.Fatal(err)
	}
	cancel()
	if _, err := cl.Issue(ctx, "", request); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	a, other := start(t), newPKI(t)
	for name, c := range map[string]client.Config{
		"server of another authority": {BaseURL: a.url, Certificate: a.pki.leaf(ward), RootCAs: other.pool},
		"client of another authority": {BaseURL: a.url, Certificate: other.leaf(ward), RootCAs: a.pki.pool},
		"server as client":            {BaseURL: a.url, Certificate: a.pki.leaf(""), RootCAs: a.pki.pool},
	} {
		cl, err := client.New(c)
		if err != nil {
			t.Fatal(err)
		}
		client.NoWaiting(cl)
		if _, err := cl.WhoAmI(context.Background()); err == nil || client.Code(err) != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	// TLS 1.2, and no client certificate at all.
	for name, conf := range map[string]*tls.Config{
		"TLS 1.2":        {RootCAs: a.pki.pool, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{a.pki.leaf(ward)}},
		"no certificate": {RootCAs: a.pki.pool},
	} {
		h := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
		if w, err := h.Get(a.url + "/v1/whoami"); err == nil {
			w.Body.Close()
			t.Errorf("%s: %s", name, w.Status)
		}
	}
	if len(a.seen) != 0 {
		t.Errorf("the authority saw %v", a.seen)
	}
}

// A refused certificate, theirs or ours, does not get better by trying, and a lost connection does.
func TestWhatIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		err   error
		call  bool // any call but unlock
		once  bool // unlock
		thing string
	}{
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, false, false, "their certificate"},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: unknown certificate authority")}, false, false, "our certificate"},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, true, true, "nobody listens"},
		{&net.OpError{Op: "read", Err: errors.New("connection reset by peer")}, true, false, "answer lost"},
		{io.ErrUnexpectedEOF, true, false, "answer cut off"},
	} {
		if client.Retryable(c.err, false) != c.call || client.Retryable(c.err, true) != c.once {
			t.Error(c.thing)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	p := newPKI(t)
	good := client.Config{BaseURL: "https://sealkeeper.internal:8443", Certificate: p.leaf(ward), RootCAs: p.pool}
	if _, err := client.New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*client.Config){
		"http":        func(c *client.Config) { c.BaseURL = "http://sealkeeper.internal" },
		"no host":     func(c *client.Config) { c.BaseURL = "https://" },
		"query":       func(c *client.Config) { c.BaseURL += "?a=b" },
		"password":    func(c *client.Config) { c.BaseURL = "https://a:b@c" },
		"certificate": func(c *client.Config) { c.Certificate = tls.Certificate{} },
		"key":         func(c *client.Config) { c.Certificate.PrivateKey = nil },
		"roots":       func(c *client.Config) { c.RootCAs = nil },
		"attempts":    func(c *client.Config) { c.Attempts = -1 },
	} {
		c := good
		spoil(&c)
		if _, err := client.New(c); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// Draining refuses new issue requests, while the connection's other work goes on.
func TestDraining(t *testing.T) {
	a := start(t)
	cl := a.client(t, ward)
	a.edge.BeginDrain()
	if _, err := cl.Issue(context.Background(), "", request); client.Code(err) != "draining" {
		t.Fatal(err)
	}
	if _, err := cl.Lock(context.Background(), change); err != nil {
		t.Fatal(err)
	}
}
