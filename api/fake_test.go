package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"sealkeeper/ca"
	"sealkeeper/contract"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/metrics"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const policyHash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// fake is an Authority that answers what the contract shows, or the error it is told to.
type fake struct {
	mu      sync.Mutex
	err     error
	panic   any
	calls   []string // operation, client
	last    ca.Call
	revoked string        // serial of a revoked certificate
	gate    chan struct{} // if set: Issue waits for it
	in      chan struct{} // if set: Issue says that it waits
	ready   bool
	gone    map[string]bool      // clients that the policy does not know any more
	newer   map[string]ca.Object // by path: what is public instead of the usual
}

func (f *fake) call(op string, c ca.Caller) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, op+" "+c.ID)
	if f.panic != nil {
		panic(f.panic)
	}
	return f.err
}

var decided = contract.Decision{Result: "allowed", Rules: []string{"permit-issue"}, Policy: policyHash, PolicyVersion: 1, Identity: "asserted-by-client"}

const issued = `{"issuance":"01JDD7Q0B5GZ","device":"4tQe2Qk0mWmM4vXoZP0b6Q","replaced":false,"credentials":[{"format":"dc+sd-jwt","credential":"e30.e30.c2ln~",` +
	`"key_thumbprint":"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs","status":{"uri":"https://cards.example/status-lists/f3a1c2","idx":412703},` +
	`"valid_until":"2027-02-21T00:00:00Z"}],"decision":{"result":"allowed","rules":["permit-issue"],"policy":"` + policyHash + `","policy_version":1}}`

func (f *fake) Nonce(_ context.Context, c ca.Caller, _ contract.NonceRequest) (contract.NonceAnswer, error) {
	return contract.NonceAnswer{Nonce: "AWkicQDP2uKf5FQ0m1Sx8g3nT2Nc1mVw6V5k7vR0b5eGZbX3dQ", ExpiresAt: noon.Add(5 * time.Minute)}, f.call("nonce", c)
}

func (f *fake) Activate(_ context.Context, c ca.Caller, r contract.PolicyRequest) (contract.Policy, error) {
	return contract.Policy{Hash: strings.Repeat("0", 64), Version: 2, Signers: []string{"alice"}, Active: true, At: noon}, f.call("activate", c)
}

func (f *fake) FeedPhones(_ context.Context, c ca.Caller, _ contract.PhoneStatusRequest) (contract.PhoneStatus, error) {
	return contract.PhoneStatus{AsOf: noon, Until: noon.Add(24 * time.Hour), Signer: "feed", Revoked: 5}, f.call("phones", c)
}

func (f *fake) Decisions(_ context.Context, r contract.DecisionQuery) (contract.DecisionPage, error) {
	return contract.DecisionPage{Decisions: []contract.JournalledDecision{{At: noon, Client: "ward-office-1", Operation: "issue", DocumentType: "kr-resident", Decision: decided,
		Of: []byte(`{"input":{}}`)}}}, f.err
}

func (f *fake) Policy(context.Context) (contract.Policy, error) {
	return contract.Policy{Hash: strings.Repeat("0", 64), Version: 1, Signers: []string{}, Active: true, At: noon, Bundle: "{}"}, f.err
}

func (f *fake) Session(_ context.Context, c ca.Caller, _ contract.SessionRequest) (contract.SessionAnswer, error) {
	return contract.SessionAnswer{Session: session, ID: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", Nonce: "AWkicQDP2uKf5FQ0m1Sx8g3nT2Nc1mVw6V5k7vR0b5eGZbX3dQ",
		ExpiresAt: noon.Add(5 * time.Minute), Pseudonyms: map[string]string{"register": "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"}}, f.call("session", c)
}

func (f *fake) Code(_ context.Context, c ca.Caller, _ contract.CodeRequest) (contract.CodeAnswer, error) {
	return contract.CodeAnswer{Code: session, ID: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", ExpiresAt: noon.Add(90 * time.Second), Pseudonyms: map[string]string{}}, f.call("code", c)
}

const session = "AQRM_AnI6DOXkNlZcKoF1mG6QG5kTqkUvZl2TqkA6i4wJ0a3yD3j9i0gVYyPzq3r1xwTqkA6i4wJ0a3yD3j9i0gVYyPzq3r1xw"

func (f *fake) Issue(_ context.Context, c ca.Caller, k ca.Call, _ contract.IssueRequest) ([]byte, error) {
	if f.gate != nil {
		f.in <- struct{}{}
		<-f.gate
	}
	err := f.call("issue", c)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = k
	return []byte(issued), err
}

func (f *fake) Refresh(ctx context.Context, c ca.Caller, k ca.Call, r contract.IssueRequest) ([]byte, error) {
	f.last = k
	return []byte(issued), f.call("refresh", c)
}

func (f *fake) DryRunIssue(_ context.Context, c ca.Caller, _ contract.IssueRequest) (contract.Decision, error) {
	return decided, f.call("dry-run issue", c)
}

func (f *fake) DryRunRefresh(_ context.Context, c ca.Caller, _ contract.IssueRequest) (contract.Decision, error) {
	return decided, f.call("dry-run refresh", c)
}

func (f *fake) change(op string, c ca.Caller) (contract.ChangeAnswer, error) {
	return contract.ChangeAnswer{Changed: true, Sequence: 4711, Lists: []string{"https://cards.example/status-lists/f3a1c2"}, Decision: decided,
		Holder: contract.Holder{DocumentType: "kr-resident", Bound: true, Device: "4tQe2Qk0mWmM4vXoZP0b6Q", Epoch: 2,
			Locks: []contract.Lock{{Reason: "telecom_lost", Class: "telecom"}}, Credentials: []contract.CredentialStatus{}}}, f.call(op, c)
}

func (f *fake) Renew(_ context.Context, c ca.Caller, _ contract.RenewalRequest) (contract.ChangeAnswer, error) {
	return f.change("renew", c)
}

func (f *fake) Schedule(_ context.Context, c ca.Caller, _ contract.ScheduleRequest) (contract.ChangeAnswer, error) {
	return f.change("schedule", c)
}

func (f *fake) CancelSchedule(_ context.Context, c ca.Caller, _ contract.ScheduleCancel) (contract.ChangeAnswer, error) {
	return f.change("cancel", c)
}

func (f *fake) Acknowledge(_ context.Context, c ca.Caller, _ contract.AcknowledgementRequest) (contract.ChangeAnswer, error) {
	return f.change("acknowledge", c)
}

func (f *fake) Lock(_ context.Context, c ca.Caller, _ contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return f.change("lock", c)
}

func (f *fake) Unlock(_ context.Context, c ca.Caller, _ contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return f.change("unlock", c)
}

func (f *fake) Revoke(_ context.Context, c ca.Caller, _ contract.ChangeRequest) (contract.ChangeAnswer, error) {
	return f.change("revoke", c)
}

func (f *fake) Event(_ context.Context, c ca.Caller, _ contract.EventRequest) (contract.EventAnswer, error) {
	return contract.EventAnswer{Event: "event-0123456789", Effect: "applied", Changed: true, Sequence: 4711, Lists: []string{"https://cards.example/status-lists/f3a1c2"}, Decision: decided}, f.call("event", c)
}

func (f *fake) DeadEvents(context.Context) (contract.DeadEvents, error) {
	return contract.DeadEvents{Events: []contract.DeadEvent{{ID: strings.Repeat("0", 32), Client: "telecom-a", Code: "evidence.line_event_key", At: noon}}}, f.err
}

func (f *fake) ReplayEvent(_ context.Context, c ca.Caller, _ contract.ReplayRequest) (contract.EventAnswer, error) {
	return contract.EventAnswer{Event: "event-0123456789", Effect: "applied", Changed: true, Sequence: 4711, Lists: []string{}, Decision: decided}, f.call("replay", c)
}

func (f *fake) Floods(context.Context) (contract.Floods, error) {
	return contract.Floods{Floods: []contract.Flood{{Carrier: "telecom-a", Hour: noon, Cards: 3, MDocs: 2}}}, f.err
}

func (f *fake) DecideFlood(_ context.Context, c ca.Caller, r contract.FloodRequest) (contract.FloodAnswer, error) {
	return contract.FloodAnswer{Carrier: "telecom-a", Hour: noon, Decision: "undo", Cards: 3}, f.call("flood", c)
}

func (f *fake) Clients(context.Context) (contract.Clients, error) {
	return contract.Clients{Clients: []contract.ClientInfo{{Client: "office-11110-1", Role: "issuance", State: "active", Office: "11110", Enrolled: true,
		May: map[string][]string{"kr-resident": {"issue"}}, Until: noon.Add(24 * time.Hour), Seen: noon}}}, f.call("clients", ca.Caller{})
}

func (f *fake) Officers(context.Context) (contract.Officers, error) {
	return contract.Officers{Epoch: 1, Officers: []contract.Officer{{ID: "kim", Name: "Kim", Role: "officer", Fingerprint: "0123"}},
		Rules: []contract.OfficerRule{{Action: "issuing.stop", Need: 1, Delay: "0s", Life: "1h0m0s", Supported: true}}, Registry: "{}"}, f.err
}

var proposed = contract.Proposal{ID: strings.Repeat("0", 64), Action: "issuing.stop", State: "ready", Text: []string{"issuing.stop"}, By: "kim", Epoch: 1, Made: noon, Expires: noon.Add(time.Hour),
	Need: 1, Approved: []string{"kim"}, Rejected: []string{}}

func (f *fake) Campaigns(context.Context) (contract.Campaigns, error) {
	return contract.Campaigns{Campaigns: []contract.Campaign{{ID: strings.Repeat("0", 64), Operation: "reissue", Key: "ds-1", Reason: "found outside", PerSecond: 50, Started: noon, By: []string{"kim", "lee"}, Total: 1, Waiting: 1}}}, f.err
}

func (f *fake) PaceCampaign(ctx context.Context, c ca.Caller, _ contract.CampaignPace) (contract.Campaigns, error) {
	out, _ := f.Campaigns(ctx)
	return out, f.call("pace", c)
}

func (f *fake) CountCards(context.Context, contract.CardsQuery) (contract.CardsCount, error) {
	return contract.CardsCount{Cards: 3, Credentials: 6}, f.err
}

func (f *fake) HolderFor(_ context.Context, c ca.Caller, _ contract.StateRequest) (contract.OfficersHolder, error) {
	return contract.OfficersHolder{DocumentType: "kr-resident", Pseudonym: strings.Repeat("0", 64), Locks: []contract.Lock{{Reason: "admin_hold", Class: "ministry"}}}, f.call("holder-for", c)
}

func (f *fake) Token(_ context.Context, c ca.Caller, r contract.TokenRequest) (contract.TokenAnswer, error) {
	return contract.TokenAnswer{Client: r.Client, Token: "a.b.c", Expires: noon, URL: "https://ra.example", Fingerprint: strings.Repeat("0", 64)}, f.call("token", c)
}

var certified = contract.CertificateAnswer{Certificate: "MAA", Issuer: "MAA", Expires: noon}

func (f *fake) Enrolling(context.Context) (contract.Enrolling, error) {
	return contract.Enrolling{URL: "https://ra.example", Issuer: "sealkeeper", Root: "-----BEGIN", Keys: []json.RawMessage{[]byte(`{"kty":"EC"}`)}}, f.err
}

func (f *fake) RegisterClient(_ context.Context, c ca.Caller, _ contract.RegisterRequest) (contract.CertificateAnswer, error) {
	return certified, f.call("register-client", c)
}

func (f *fake) RenewClient(_ context.Context, c ca.Caller, _ contract.RenewClientRequest) (contract.CertificateAnswer, error) {
	return certified, f.call("renew-client", c)
}

func (f *fake) RekeyClient(_ context.Context, c ca.Caller, _ contract.RekeyRequest) (contract.CertificateAnswer, error) {
	return certified, f.call("rekey-client", c)
}

func (f *fake) RetireClient(_ context.Context, c ca.Caller, _ contract.RetireRequest) (contract.RetireAnswer, error) {
	return contract.RetireAnswer{Client: "office-1"}, f.call("retire-client", c)
}

func (f *fake) CertifyRA(_ context.Context, c ca.Caller, _ contract.ServerRequest) (contract.CertificateAnswer, error) {
	return certified, f.call("certify-ra", c)
}

func (f *fake) Proposals(context.Context) (contract.Proposals, error) {
	return contract.Proposals{Proposals: []contract.Proposal{proposed}}, f.err
}

func (f *fake) Proposal(context.Context, contract.ProposalQuery) (contract.Proposal, error) {
	return proposed, f.err
}

func (f *fake) Propose(_ context.Context, c ca.Caller, _ contract.ProposeRequest) (contract.Proposal, error) {
	return proposed, f.call("propose", c)
}

func (f *fake) Approve(_ context.Context, c ca.Caller, _ contract.ApprovalRequest) (contract.Proposal, error) {
	return proposed, f.call("approve", c)
}

func (f *fake) Reject(_ context.Context, c ca.Caller, _ contract.ApprovalRequest) (contract.Proposal, error) {
	return proposed, f.call("reject", c)
}

func (f *fake) Execute(_ context.Context, c ca.Caller, _ contract.ProposalQuery) (contract.Proposal, error) {
	return proposed, f.call("execute", c)
}

func (f *fake) Holder(_ context.Context, c ca.Caller, _ contract.StateRequest) (contract.Holder, error) {
	return contract.Holder{DocumentType: "kr-resident", Locks: []contract.Lock{}, Credentials: []contract.CredentialStatus{}}, f.call("state", c)
}

func (f *fake) Admit(c ca.Caller) error {
	if f.revoked != "" && c.Serial == f.revoked {
		return &ca.Problem{Code: "client.revoked", Detail: "revoked"}
	}
	return nil
}

func (f *fake) WhoAmI(c ca.Caller) (contract.WhoAmI, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return contract.WhoAmI{Client: c.ID, Role: c.Role, May: map[string][]string{"kr-resident": {"issue"}}, Expires: c.Expires, Policy: policyHash}, !f.gone[c.ID]
}

func object(media, body, zipped string, expires time.Time) ca.Object {
	sum := sha256.Sum256([]byte(body))
	o := ca.Object{MediaType: media, Bytes: []byte(body), ETag: `"` + hex.EncodeToString(sum[:16]) + `"`, Modified: noon.Add(-time.Minute), MaxAge: 30 * time.Second, Expires: expires}
	if zipped != "" {
		o.Gzip, o.ETagGzip = []byte(zipped), o.ETag[:33]+`-gzip"`
	}
	return o
}

func (f *fake) Public(path string) (ca.Object, bool) {
	f.mu.Lock()
	newer, is := f.newer[path]
	f.mu.Unlock()
	if is {
		return newer, true
	}
	o, ok := map[string]ca.Object{
		"status-lists/jwt":           object("application/statuslist+jwt", "aaa.bbb.ccc", "zipped", noon.Add(time.Hour)),
		"status-lists/cwt":           object("application/statuslist+cwt", "\xd2\x84", "", noon.Add(time.Hour)),
		"status-lists/dying":         object("application/statuslist+jwt", "aaa.bbb.ddd", "zipped", noon.Add(7*time.Second)),
		"status-lists/dead":          object("application/statuslist+jwt", "aaa.bbb.eee", "zipped", noon.Add(-time.Second)),
		"certificates/iaca.pem":      object("application/x-pem-file", "-----BEGIN", "", time.Time{}),
		"certificates/iaca.cer":      object("application/pkix-cert", "0\x82", "", time.Time{}),
		"crl/iaca.crl":               object("application/pkix-crl", "0\x81", "", noon.Add(time.Hour)),
		"trust.json":                 object("application/json", `{"issuer":"https://issuer.example","as_of":"2026-11-24T00:00:00Z","keys":[]}`, "", time.Time{}),
		".well-known/jwt-vc-issuer":  object("application/json", `{"issuer":"https://issuer.example","jwks":{"keys":[]}}`, "", time.Time{}),
		"holders/900101-1234567.txt": object("text/plain", "must never be reached", "", time.Time{}),
	}[path]
	return o, ok
}

func (f *fake) Status(context.Context) contract.Status {
	s := contract.Status{Version: "test", Ready: f.ready, Problems: []string{}, Tokens: []contract.TokenStatus{}, Keys: []contract.KeyStatus{}, Lists: []contract.ListStatus{}, Clock: "trusted",
		Certificates: []contract.CertificateStatus{}, Conditions: []contract.Condition{}}
	if !f.ready {
		s.Problems = append(s.Problems, "token online: no worker is ready")
	}
	return s
}

// house is an edge over a fake, with its log.
type house struct {
	*fake
	edge  *Edge
	clock *clock.Fake
	log   *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *syncBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

func newHouse(t testing.TB, issues int) *house {
	t.Helper()
	h := &house{fake: &fake{ready: true, gone: map[string]bool{}}, clock: clock.NewFake(noon), log: &syncBuffer{}}
	e, err := New(Options{Authority: h.fake, Clock: h.clock, Guard: clock.NewGuard(h.clock, time.Time{}, time.Hour, false), Log: slog.New(slog.NewJSONHandler(h.log, nil)), Metrics: metrics.New(), MaxIssues: issues})
	if err != nil {
		t.Fatal(err)
	}
	h.edge = e
	return h
}

// connection is what a handshake leaves: a verified chain whose leaf has these names, valid from noon − 1 h to noon + 1 h.
func connection(uris ...string) *tls.ConnectionState {
	leaf := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour)}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			panic(err)
		}
		leaf.URIs = append(leaf.URIs, parsed)
	}
	root := &x509.Certificate{NotBefore: noon.Add(-100 * time.Hour), NotAfter: noon.Add(100 * time.Hour)}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf, root}}}
}

const goodKey = "5yU0zqKQp4o2m9cX1vWl7Ra3tE8bN6hd"

var bodies = map[string]string{
	"/v1/nonces":                      `{"document_type":"kr-resident"}`,
	"/v1/decisions":                   `{"since":"2026-03-07T00:00:00Z","limit":10}`,
	"/v1/phones/status":               `{"status":"{\"payload\":{},\"signatures\":[]}"}`,
	"/v1/codes":                       `{"document_type":"kr-resident","subject":"900101-1234567","authorities":["ward-office-1"]}`,
	"/v1/policies":                    `{"bundle":"{\"format\":1}","dry_run":true}`,
	"/v1/sessions":                    `{"document_type":"kr-resident","subject":"900101-1234567","key_thumbprint":"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs","authorities":["register"]}`,
	"/v1/credentials":                 `{"document_type":"kr-resident","subject":"900101-1234567","claims":{"family_name":"Hong"},"proof":"e30.e30.c2ln"}`,
	"/v1/credentials/refresh":         `{"document_type":"kr-resident","subject":"900101-1234567","claims":{"family_name":"Hong"},"proof":"e30.e30.c2ln"}`,
	"/v1/credentials/dry-run":         `{"document_type":"kr-resident","subject":"900101-1234567","claims":{"family_name":"Hong"},"proof":"e30.e30.c2ln"}`,
	"/v1/credentials/refresh/dry-run": `{"document_type":"kr-resident","subject":"900101-1234567","claims":{"family_name":"Hong"},"proof":"e30.e30.c2ln"}`,
	"/v1/locks":                       `{"document_type":"kr-resident","subject":"900101-1234567","reason":"telecom_lost"}`,
	"/v1/unlocks":                     `{"document_type":"kr-resident","subject":"900101-1234567","reason":"telecom_lost"}`,
	"/v1/revocations":                 `{"document_type":"kr-resident","subject":"900101-1234567","reason":"deceased"}`,
	"/v1/events":                      `{"event":"a.b.c"}`,
	"/v1/renewals":                    `{"document_type":"kr-resident","subject":"900101-1234567","reasons":["address"],"attributes":2}`,
	"/v1/schedules":                   `{"document_type":"kr-resident","subject":"900101-1234567","schedule":"case-17","operation":"lock","reason":"admin_hold","from":"2026-12-01T00:00:00+09:00","to":"2027-03-01T00:00:00+09:00"}`,
	"/v1/schedules/cancel":            `{"document_type":"kr-resident","subject":"900101-1234567","schedule":"case-17"}`,
	"/v1/acknowledgements":            `{"document_type":"kr-resident","subject":"900101-1234567","issuance":"01JDD7Q0B5GZ","proof":"e30.e30.c2ln"}`,
	"/v1/campaigns/count":             `{"document_type":"kr-resident","key":"ds-1"}`,
	"/v1/campaigns/pace":              `{"id":"0000000000000000000000000000000000000000000000000000000000000000","per_second":0}`,
	"/v1/officers/holders":            `{"document_type":"kr-resident","subject":"900101-1234567"}`,
	"/v1/officers/proposals/new":      `{"proposal":"{}"}`,
	"/v1/officers/proposals/show":     `{"id":"0000000000000000000000000000000000000000000000000000000000000000"}`,
	"/v1/officers/approvals":          `{"id":"0000000000000000000000000000000000000000000000000000000000000000","envelope":"{}"}`,
	"/v1/officers/rejections":         `{"id":"0000000000000000000000000000000000000000000000000000000000000000","envelope":"{}"}`,
	"/v1/officers/executions":         `{"id":"0000000000000000000000000000000000000000000000000000000000000000"}`,
	"/v1/clients/tokens":              `{"client":"office-1"}`,
	"/v1/ra/certificates":             `{"token":"e30.e30.c2ln","csr":"MAA"}`,
	"/v1/ra/renewals":                 `{"client":"office-1","key":"MAA"}`,
	"/v1/ra/rekeys":                   `{"client":"office-1","statement":"e30.e30.c2ln","csr":"MAA"}`,
	"/v1/ra/revocations":              `{"serial":"01ab","reason":"moved"}`,
	"/v1/ra/server":                   `{"csr":"MAA"}`,
	"/v1/events/replay":               `{"id":"00000000000000000000000000000000"}`,
	"/v1/floods/decisions":            `{"carrier":"telecom-a","hour":"2026-03-01T12:00:00Z","decision":"undo"}`,
	"/v1/holders/state":               `{"document_type":"kr-resident","subject":"900101-1234567"}`,
}

// request is a good one for the route, by a client of this role.
func request(method, path, role string) *http.Request {
	var body io.Reader
	if b := bodies[path]; b != "" && method == http.MethodPost {
		body = strings.NewReader(b)
	}
	r := httptest.NewRequest(method, path, body)
	r.TLS = connection("urn:sealkeeper:client:" + role + ":" + role + "-1")
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
		if path == "/v1/credentials" || path == "/v1/credentials/refresh" {
			r.Header.Set("Idempotency-Key", goodKey)
		}
	}
	return r
}

func with(r *http.Request, body string) *http.Request {
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	return r
}

func answer(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
