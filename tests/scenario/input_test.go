package scenario

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
)

// signatures adds up what the HSM signed, by the appliance's own count of attempts.
func (a *appliance) signatures() (n int) {
	a.t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^sealkeeper_signature_attempts_total\{[^}]*\} (\d+)$`).FindAllStringSubmatch(a.Metrics(), -1) {
		v, _ := strconv.Atoi(m[1])
		n += v
	}
	return n
}

// untouched fails if do changed the journal or made the HSM sign. That something was denied is an entry of its own, up to a second later:
// those are left out.
func (a *appliance) untouched(t *testing.T, do func()) {
	t.Helper()
	journal, signatures := a.Operations().Journal, a.signatures()
	do()
	if got := a.Operations().Journal; got != journal {
		denials := map[uint64]bool{}
		all, err := a.As("auditor").Decisions(t.Context(), contract.DecisionQuery{Since: time.Now().Add(-time.Minute), Limit: contract.MaxDecisions})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all.Decisions {
			if d.Decision.Result == "denied" && d.Sequence >= journal && d.Sequence < got {
				denials[d.Sequence] = true
			}
		}
		if grew := got - journal - uint64(len(denials)); grew != 0 {
			t.Errorf("the journal grew by %d", grew)
		}
	}
	if got := a.signatures(); got != signatures {
		t.Errorf("the HSM signed %d times", got-signatures)
	}
}

// settled waits until nothing is on its way to be published.
func (a *appliance) settled() {
	a.t.Helper()
	last, still, changed, began := uint64(0), 0, time.Now(), time.Now()
	for ; still < 5 || time.Since(changed) < time.Second; time.Sleep(20 * time.Millisecond) { // keys are tested after a start, one after the other
		s := a.Operations()
		still++
		for _, l := range s.Lists {
			if l.Dirty {
				still, changed = 0, time.Now()
			}
		}
		if s.Journal != last {
			last, still, changed = s.Journal, 0, time.Now()
		}
		if time.Since(began) > 2*time.Minute {
			a.t.Fatal("the appliance does not come to rest")
		}
	}
}

// Whatever is wrong with a connection or a request: it is answered with its stable code, and nothing changes.
func TestWrongInput(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	spent := a.Request(newPhone(t, 1), "input-0")
	if _, err := a.As("ward-office-1").Issue(t.Context(), client.NewKey(), spent); err != nil {
		t.Fatal(err)
	}
	phone1, phone2 := newPhone(t, 1), newPhone(t, 1)
	good, other := a.Request(phone1, "input-1"), a.Request(phone2, "input-2")
	body := func(r contract.IssueRequest, change func(*contract.IssueRequest)) []byte {
		if change != nil {
			change(&r)
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	fine := body(good, nil)
	with := func(member string) []byte { return append(append([]byte("{"), member+","...), fine[1:]...) }
	a.settled()

	const issue, json = "/v1/credentials", "application/json"
	for _, c := range []struct {
		name, id, method, path, media, key string
		body                               []byte
		status                             int
		code                               string
	}{
		{"unknown route", "ward-office-1", "POST", "/v1/sign", json, "", fine, 404, "route.unknown"},
		{"no traversal", "ward-office-1", "GET", "/v1/../metrics", "", "", nil, 404, "route.unknown"},
		{"wrong method", "ward-office-1", "GET", issue, "", "", nil, 405, "request.method"},
		{"a carrier does not issue", "telecom-a", "POST", issue, json, "k", fine, 403, "route.forbidden"},
		{"an auditor locks nobody", "auditor", "POST", "/v1/locks", json, "", []byte(`{}`), 403, "route.forbidden"},
		{"query", "ward-office-1", "POST", issue + "?replace=true", json, "k", fine, 400, "request.query"},
		{"no content type", "ward-office-1", "POST", issue, "", "k", fine, 415, "request.media_type"},
		{"form", "ward-office-1", "POST", issue, "application/x-www-form-urlencoded", "k", fine, 415, "request.media_type"},
		{"content type with a parameter", "ward-office-1", "POST", issue, json + "; charset=utf-16", "k", fine, 415, "request.media_type"},
		{"no idempotency key", "ward-office-1", "POST", issue, json, "", fine, 400, "idempotency.key_malformed"},
		{"short idempotency key", "ward-office-1", "POST", issue, json, "retry-1", fine, 400, "idempotency.key_malformed"},
		{"idempotency key of another alphabet", "ward-office-1", "POST", issue, json, strings.Repeat("ä", 22), fine, 400, "idempotency.key_malformed"},
		{"long idempotency key", "ward-office-1", "POST", issue, json, strings.Repeat("k", 129), fine, 400, "idempotency.key_malformed"},
		{"10 MB", "ward-office-1", "POST", issue, json, "k", bytes.Repeat([]byte(" "), 10<<20), 413, "request.too_large"},
		{"a large body of unknown size", "ward-office-1", "POST", issue, json, "k", bytes.Repeat([]byte(" "), 300<<10), 413, "request.too_large"},
		{"a large lock", "telecom-a", "POST", "/v1/locks", json, "", bytes.Repeat([]byte(" "), 17<<10), 413, "request.too_large"},
		{"nothing", "ward-office-1", "POST", issue, json, "k", nil, 400, "request.malformed"},
		{"null", "ward-office-1", "POST", issue, json, "k", []byte("null"), 400, "request.malformed"},
		{"a list", "ward-office-1", "POST", issue, json, "k", []byte("[]"), 400, "request.malformed"},
		{"half a document", "ward-office-1", "POST", issue, json, "k", fine[:len(fine)/2], 400, "request.malformed"},
		{"two documents", "ward-office-1", "POST", issue, json, "k", append(fine[:len(fine):len(fine)], fine...), 400, "request.malformed"},
		{"not UTF-8", "ward-office-1", "POST", issue, json, "k", bytes.Replace(fine, []byte(`"input-1"`), []byte("\"\xff\""), 1), 400, "request.malformed"},
		{"a wrong type", "ward-office-1", "POST", issue, json, "k", bytes.Replace(fine, []byte(`"subject":"input-1"`), []byte(`"subject":1`), 1), 400, "request.malformed"},
		{"duplicate member", "ward-office-1", "POST", issue, json, "k", with(`"subject":"somebody-else"`), 400, "request.duplicate_member"},
		{"duplicate member, below", "ward-office-1", "POST", issue, json, "k", bytes.Replace(fine, []byte(`"claims":{`), []byte(`"claims":{"address":"x",`), 1), 400, "request.duplicate_member"},
		{"unknown member", "ward-office-1", "POST", issue, json, "k", with(`"sign_this":"x"`), 400, "request.unknown_member"},
		{"names are case-sensitive", "ward-office-1", "POST", issue, json, "k", bytes.Replace(fine, []byte(`"subject"`), []byte(`"Subject"`), 1), 400, "request.unknown_member"},
		{"deep nesting", "ward-office-1", "POST", issue, json, "k", bytes.Replace(fine, []byte(`"claims":{`), []byte(`"claims":{"x":`+strings.Repeat("[", 1000)+strings.Repeat("]", 1000)+`,`), 1), 400, "request.malformed"},
		{"no such type", "ward-office-1", "POST", issue, json, "k", body(good, func(r *contract.IssueRequest) { r.DocumentType = "library-card" }), 422, "evidence.nonce_foreign"},
		{"replayed nonce", "ward-office-1", "POST", issue, json, "k", body(spent, func(r *contract.IssueRequest) { r.Subject = "input-3" }), 409, "nonce.replayed"},
		{"another phone's attestation", "ward-office-1", "POST", issue, json, "k", body(good, func(r *contract.IssueRequest) { r.KeyAttestation = other.KeyAttestation }), 422, ""},
		{"another phone's proof", "ward-office-1", "POST", issue, json, "k", body(good, func(r *contract.IssueRequest) { r.Proof = other.Proof }), 422, ""},
		{"no attestation", "ward-office-1", "POST", issue, json, "k", body(good, func(r *contract.IssueRequest) { r.KeyAttestation = "" }), 0, ""},
		{"a claim that the card does not have", "ward-office-1", "POST", issue, json, "k", body(good, func(r *contract.IssueRequest) { r.Claims = claims(); r.Claims["resident_number"] = "1" }), 422, "claims.unknown"},
		{"a lie about age", "ward-office-1", "POST", issue, json, "k", body(good, func(r *contract.IssueRequest) { r.Claims = claims(); r.Claims["age_over_19"] = false }), 422, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			key := c.key
			if key == "k" {
				key = client.NewKey()
			}
			a.untouched(t, func() {
				status, answer := a.send(t, c.id, c.method, c.path, c.media, key, c.body)
				var p contract.Problem
				if err := jsonStrict(answer, &p); err != nil {
					t.Fatalf("%d, no problem document: %v %.200s", status, err, answer)
				}
				if p.Status != status || p.Type != "urn:sealkeeper:problem:"+p.Code || p.Instance == "" || p.Title == "" {
					t.Errorf("problem %+v", p)
				}
				if c.status != 0 && status != c.status || c.code != "" && p.Code != c.code || status < 400 || status >= 500 {
					t.Errorf("answered %d %s (%s), wanted %d %s", status, p.Code, p.Detail, c.status, c.code)
				}
				if strings.Contains(string(answer), canary) {
					t.Error("the refusal quotes the request")
				}
			})
		})
	}

	t.Run("connections", func(t *testing.T) {
		a.untouched(t, func() { a.wrongConnections(t) })
	})
	t.Run("a body that stops", func(t *testing.T) {
		if testing.Short() {
			t.Skip("waits for the appliance's limit of 10 s")
		}
		a.untouched(t, func() {
			conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a.Ports[0]), a.TLS("ward-office-1"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: %s\r\nContent-Length: 1000\r\n\r\n{", issue, client.NewKey())
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			r, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("no answer: %v", err)
			}
			answer, _ := io.ReadAll(r.Body)
			if r.StatusCode != 408 || code(answer) != "request.too_slow" || !r.Close {
				t.Errorf("%d %s, closes: %v", r.StatusCode, answer, r.Close)
			}
			if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the connection stays: %v", err)
			}
		})
	})

	// The request that was bent in all these ways is still good: no refusal burnt its nonce or took its subject's slot.
	if _, err := a.As("ward-office-1").Issue(t.Context(), client.NewKey(), good); err != nil {
		t.Errorf("the good request at last: %v", err)
	}
}

func (a *appliance) send(t *testing.T, id, method, path, media, key string, body []byte) (int, []byte) {
	t.Helper()
	r, err := http.NewRequest(method, fmt.Sprintf("https://127.0.0.1:%d", a.Ports[0]), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if r.URL.Opaque = path; media != "" {
		r.Header.Set("Content-Type", media)
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	switch {
	case len(body) > 1<<20: // refused by its announced size, before a byte of it is sent
		r.Header.Set("Expect", "100-continue")
	case len(body) > 256<<10:
		r.ContentLength = -1 // chunked
	}
	// A connection of its own, that the request does not say it will close: then a daemon that refuses by the header takes the body in before it closes,
	// and a slow machine does not lose the answer by still writing.
	h := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: a.TLS(id), ExpectContinueTimeout: 20 * time.Second}}
	defer h.CloseIdleConnections()
	w, err := h.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	answer, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q", got)
	}
	return w.StatusCode, answer
}

func jsonStrict(b []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(to)
}

// wrongConnections tries every certificate but a right one.
func (a *appliance) wrongConnections(t *testing.T) {
	whoami := func(change func(*tls.Config)) (int, string, error) {
		c := a.TLS("auditor")
		change(c)
		h := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
		r, err := h.Get(fmt.Sprintf("https://127.0.0.1:%d/v1/whoami", a.Ports[0]))
		if err != nil {
			return 0, "", err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return r.StatusCode, code(b), err
	}
	use := func(keyPEM, certPEM []byte) func(*tls.Config) {
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil } // whatever CAs the server names
		}
	}
	const name = "urn:sealkeeper:client:auditor:auditor"
	if status, _, err := whoami(func(*tls.Config) {}); err != nil || status != 200 {
		t.Fatalf("the right certificate: %d %v", status, err)
	}
	// A certificate of its own that names the installation's real CA as its issuer, and one signed by a real client's key.
	auditor := a.TLS("auditor").Certificates[0]
	leaf, err := x509.ParseCertificate(auditor.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	caPEM, err := os.ReadFile(filepath.Join(a.Dir, "clients", "auditor", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(caPEM)
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	leafKey := auditor.PrivateKey.(*ecdsa.PrivateKey)
	hour := time.Now().Add(time.Hour)
	for what, change := range map[string]func(*tls.Config){
		"no certificate":                       func(c *tls.Config) { c.Certificates = nil },
		"TLS 1.2":                              func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"a certificate of another CA":          use(strangeClient(t, name, hour)),
		"an expired one of another CA":         use(strangeClient(t, name, time.Now().Add(-time.Hour))),
		"a certificate that claims our CA":     use(certify(t, &x509.Certificate{RawSubject: ca.RawSubject, SubjectKeyId: ca.SubjectKeyId}, strangeKey(t), name, hour)),
		"a certificate that a client made":     use(certify(t, leaf, leafKey, "urn:sealkeeper:client:issuance:ward-office-1", hour)),
		"the appliance's own certificate":      use(read(t, a, "data/tls/server.key"), read(t, a, "data/tls/server.pem")),
		"a certificate without its key (http)": func(c *tls.Config) { c.Certificates[0].PrivateKey = strangeKey(t) },
	} {
		if status, code, err := whoami(change); err == nil {
			t.Errorf("%s: answered %d %s", what, status, code)
		}
	}
	// Plain HTTP on the TLS port
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a.Ports[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /v1/whoami HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if answer, _ := io.ReadAll(conn); strings.Contains(string(answer), "auditor") || strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Errorf("plain HTTP was answered: %.100s", answer)
	}
}

func read(t *testing.T, a *appliance, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(a.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The policy is asked who a certificate's owner is: a certificate that our CA made is worth nothing after the policy knows its client in
// another role, or not at all, and an expired one never is.
func TestCertificateAndPolicyDisagree(t *testing.T) {
	t.Parallel()
	a := install(t)
	bundle := string(read(t, a, "policy.json"))
	changed := strings.Replace(strings.Replace(bundle, `"id": "auditor", "role": "auditor"`, `"id": "auditor", "role": "operator"`, 1), `"id": "telecom-a"`, `"id": "telecom-b"`, 1)
	changed = strings.Replace(changed, `"version": 1`, `"version": 2`, 1)
	if strings.Contains(changed, `"role": "auditor"`) || !strings.Contains(changed, "telecom-b") {
		t.Fatal("the policy bundle looks different now")
	}
	a.Write("policy.json", changed)
	a.start()
	a.settled()
	a.untouched(t, func() {
		for _, id := range []string{"auditor", "telecom-a"} {
			status, answer, err := a.Post(id, "/v1/holders/state", "", contract.StateRequest{DocumentType: kr, Subject: "x"})
			if err != nil || status != 403 || code(answer) != "client.unknown" {
				t.Errorf("%s: %d %s %v", id, status, answer, err)
			}
		}
		if _, err := a.As("loss-desk").WhoAmI(t.Context()); err != nil {
			t.Errorf("a client that did not change: %v", err)
		}
	})
}
