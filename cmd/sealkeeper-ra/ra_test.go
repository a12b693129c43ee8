package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cas "github.com/smallstep/certificates/cas/apiv1"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/internal/fuzzing"
)

const address = "https://ra.example:9443"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

// daemon stands where the appliance is, to say what it would in trouble, and to count what reaches it.
type daemon struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	root *x509.Certificate

	mu     sync.Mutex
	tokens map[string]*ecdsa.PrivateKey // by kid
	asked  map[string][]string          // bodies, by path
	refuse map[string]contract.Problem  // instead of an answer, by path
	say    map[string]string            // instead of an answer, by path
	hold   map[string]chan struct{}     // answers that wait, by path
	age    time.Duration                // of the certificates that it makes
}

func (d *daemon) certify(c *x509.Certificate, public any) []byte {
	d.t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	must(d.t, err)
	c.SerialNumber, c.NotBefore, c.NotAfter = serial, time.Now().Add(-time.Minute-d.age), time.Now().Add(time.Hour)
	parent := d.root
	if parent == nil { // older than what it certifies
		parent, c.NotBefore = c, c.NotBefore.Add(-24*time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, d.key)
	must(d.t, err)
	return der
}

func (d *daemon) answer(der []byte) contract.CertificateAnswer {
	return contract.CertificateAnswer{Certificate: b64.EncodeToString(der), Issuer: b64.EncodeToString(d.root.Raw), Expires: time.Now().Add(time.Hour)}
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked[q.URL.Path] = append(d.asked[q.URL.Path], string(body))
	if held := d.hold[q.URL.Path]; held != nil {
		d.mu.Unlock()
		<-held
		d.mu.Lock()
	}
	if p, ok := d.refuse[q.URL.Path]; ok {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(p)
		return
	}
	if s, ok := d.say[q.URL.Path]; ok {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, s)
		return
	}
	var out any
	switch q.URL.Path {
	case "/v1/ra":
		e := contract.Enrolling{URL: address, Issuer: "sealkeeper", Root: text(d.root.Raw)}
		for id, k := range d.tokens {
			e.Keys = append(e.Keys, json.RawMessage(fmt.Sprintf(`{"kty":"EC","crv":"P-256","use":"sig","kid":%q,"x":%q,"y":%q}`, id, b64.EncodeToString(k.X.FillBytes(make([]byte, 32))), b64.EncodeToString(k.Y.FillBytes(make([]byte, 32))))))
		}
		out = e
	case "/v1/ra/server":
		var r contract.ServerRequest
		_ = json.Unmarshal(body, &r)
		der, _ := b64.DecodeString(r.CSR)
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			d.t.Error(err)
			return
		}
		out = d.answer(d.certify(&x509.Certificate{Subject: pkix.Name{CommonName: "ra.example"}, DNSNames: []string{"ra.example"}}, csr.PublicKey))
	case "/v1/ra/revocations":
		out = contract.RetireAnswer{Client: "office-1"}
	default:
		out = d.answer(d.certify(&x509.Certificate{Subject: pkix.Name{CommonName: "office-1"}}, d.key.Public()))
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

func (d *daemon) count(path string) int { d.mu.Lock(); defer d.mu.Unlock(); return len(d.asked[path]) }

func (d *daemon) set(f func()) { d.mu.Lock(); defer d.mu.Unlock(); f() }

// stand puts such an appliance up.
func stand(t testing.TB) (*daemon, string) {
	t.Helper()
	d := &daemon{t: t, key: newKey(t), tokens: map[string]*ecdsa.PrivateKey{"token-1": newKey(t)}, asked: map[string][]string{}, refuse: map[string]contract.Problem{}, say: map[string]string{}}
	der := d.certify(&x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, d.key.Public())
	var err error
	d.root, err = x509.ParseCertificate(der)
	must(t, err)
	own := newKey(t)
	s := httptest.NewUnstartedServer(d)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert,
		Certificates: []tls.Certificate{{Certificate: [][]byte{d.certify(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, own.Public())}, PrivateKey: own}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return d, s.URL
}

func (d *daemon) roots() *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(d.root)
	return roots
}

// open makes a registration authority before such an appliance. The rest of it is real.
func open(t testing.TB) (*ra, *daemon) {
	t.Helper()
	d, url := stand(t)
	own := newKey(t)
	c, err := client.New(client.Config{BaseURL: url, RootCAs: d.roots(), Attempts: 1, Timeout: 10 * time.Second,
		Certificate: tls.Certificate{Certificate: [][]byte{d.certify(&x509.Certificate{Subject: pkix.Name{CommonName: "ra-1"}}, own.Public())}, PrivateKey: own}})
	must(t, err)
	t.Cleanup(c.Close)
	r, err := newAuthority(context.Background(), c, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(r.close)
	return r, d
}

// installed is how the command is started before such an appliance: with an identity in a directory.
func (d *daemon) installed(appliance, listen string) options {
	d.t.Helper()
	dir, own := d.t.TempDir(), newKey(d.t)
	der, err := x509.MarshalPKCS8PrivateKey(own)
	must(d.t, err)
	for name, content := range map[string]string{"key.pem": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "ca.pem": text(d.root.Raw),
		"cert.pem": text(d.certify(&x509.Certificate{Subject: pkix.Name{CommonName: "ra-1"}}, own.Public()))} {
		must(d.t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return options{appliance: appliance, identity: dir, listen: listen}
}

// A start that does not get its port, and is repeated by systemd for as long, costs the appliance no certificate.
func TestAPortThatIsTaken(t *testing.T) {
	d, url := stand(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	if err := run(context.Background(), d.installed(url, l.Addr().String()), slog.New(slog.DiscardHandler)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("%v", err)
	}
	if n := d.count("/v1/ra") + d.count("/v1/ra/server"); n > 0 {
		t.Errorf("the appliance was asked %d times", n)
	}
}

// Of its two certificates that one is renewed that is due: while its client's is refused it does not ask for a server's each minute.
func TestOnlyWhatIsDueIsRenewed(t *testing.T) {
	r, d := open(t)
	d.set(func() { d.age = 10 * time.Hour })
	id, err := client.LoadIdentity(d.installed("", "").identity, "")
	must(t, err)
	want := func(server, own int) {
		t.Helper()
		r.renewDue(context.Background(), id, &anew{})
		if s, o := d.count("/v1/ra/server"), d.count("/v1/ra/renewals"); s != server || o != own {
			t.Errorf("%d certificates of a server and %d of its own were asked for, want %d and %d", s, o, server, own)
		}
	}
	d.set(func() {
		d.refuse = map[string]contract.Problem{"/v1/ra/renewals": {Status: 403, Code: "enrolment.revoked", Detail: "no"}}
	})
	want(1, 1) // the start's
	want(1, 2)
	must(t, r.renewServer()) // one that is old
	d.set(func() { d.age = 0 })
	want(3, 3)
	want(3, 4)
}

// An enrolment that is under way when the process is told to end is answered before it ends.
func TestAnEnrolmentIsAnsweredBeforeTheEnd(t *testing.T) {
	d, url := stand(t)
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	defer release()
	d.hold = map[string]chan struct{}{"/v1/ra/certificates": held}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	o := d.installed(url, "127.0.0.1:0")
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, o, slog.New(slog.NewJSONHandler(in, nil)))
		in.Close()
	}()
	var listens struct{ Address string }
	must(t, json.NewDecoder(out).Decode(&listens))
	go func() { _, _ = io.Copy(io.Discard, out) }()
	body := request(t, csr(t), d.token("token-1", d.tokens["token-1"], nil))
	answered := make(chan error, 1)
	go func() {
		h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: d.roots(), ServerName: "ra.example"}}}
		a, err := h.Post("https://"+listens.Address+"/1.0/sign", "application/json", strings.NewReader(body))
		if err == nil {
			if _, err = io.ReadAll(a.Body); a.StatusCode != 201 {
				err = errors.Join(err, errors.New(a.Status))
			}
			a.Body.Close()
		}
		answered <- err
	}()
	for began := time.Now(); d.count("/v1/ra/certificates") == 0; time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 8*time.Second {
			t.Fatal("the enrolment does not reach the appliance")
		}
	}
	stop()
	select {
	case err := <-ended:
		t.Fatalf("it ended while an enrolment was under way: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	release()
	if err := <-answered; err != nil {
		t.Errorf("an enrolment that was under way: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("an orderly end: %v", err)
	}
	if _, err := net.Dial("tcp", listens.Address); err == nil {
		t.Error("its port is still open")
	}
}

// token as the appliance makes it; change may spoil it.
func (d *daemon) token(kid string, key *ecdsa.PrivateKey, change func(header, claims map[string]any)) string {
	d.t.Helper()
	now := time.Now()
	h := map[string]any{"alg": "ES256", "typ": "sealkeeper-enrolment+jwt", "kid": kid}
	c := map[string]any{"iss": "sealkeeper", "aud": address + "/1.0/sign", "sub": "office-1", "sans": []string{"urn:sealkeeper:client:issuance:office-1"}, "jti": "AAAAAAAAAAAAAAAAAAAAAA", "sha": "00",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	if change != nil {
		change(h, c)
	}
	hb, _ := json.Marshal(h)
	cb, _ := json.Marshal(c)
	input := b64.EncodeToString(hb) + "." + b64.EncodeToString(cb)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	must(d.t, err)
	return input + "." + b64.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func csr(t testing.TB) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "office-1"}}, newKey(t))
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// ask sends a request as a client, with its certificate if it has one.
func ask(t testing.TB, r *ra, path, body string, as *x509.Certificate) (status int, answer string) {
	t.Helper()
	q := httptest.NewRequest(http.MethodPost, address+path, strings.NewReader(body))
	q.TLS = &tls.ConnectionState{}
	if as != nil {
		q.TLS.PeerCertificates = []*x509.Certificate{as}
	}
	w := httptest.NewRecorder()
	r.server().Handler.ServeHTTP(w, q)
	return w.Code, w.Body.String()
}

func request(t testing.TB, csr, token string) string {
	t.Helper()
	b, err := json.Marshal(map[string]string{"csr": csr, "ott": token})
	must(t, err)
	return string(b)
}

// What can't be an enrolment is refused here, with a stable code, and the appliance is not asked.
func TestWhatNeverReachesTheAppliance(t *testing.T) {
	r, d := open(t)
	key, good := d.tokens["token-1"], csr(t)
	token := d.token("token-1", key, nil)
	claim := func(name string, v any) string {
		return request(t, good, d.token("token-1", key, func(_, c map[string]any) { c[name] = v }))
	}
	header := func(name string, v any) string {
		return request(t, good, d.token("token-1", key, func(h, _ map[string]any) { h[name] = v }))
	}
	block := func(kind string, size int) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: make([]byte, size)}))
	}
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"nothing":                  {"", 400, "ra.malformed"},
		"no JSON":                  {"csr=1", 400, "ra.malformed"},
		"an unknown member":        {`{"csr":"","ott":"","role":"operator"}`, 400, "ra.malformed"},
		"a member twice":           {`{"csr":"","csr":"","ott":""}`, 400, "ra.malformed"},
		"another writing":          {`{"CSR":"","ott":""}`, 400, "ra.malformed"},
		"deep":                     {`{"templateData":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}`, 400, "ra.malformed"},
		"large":                    {`{"csr":"` + strings.Repeat("A", maxBody) + `"}`, 413, "ra.too_large"},
		"no request":               {request(t, "", token), 400, "ra.malformed"},
		"two requests":             {request(t, good+good, token), 400, "ra.malformed"},
		"a certificate instead":    {request(t, block("CERTIFICATE", 100), token), 400, "ra.malformed"},
		"a large request":          {request(t, block("CERTIFICATE REQUEST", 16<<10+1), token), 400, "ra.malformed"},
		"no token":                 {request(t, good, ""), 401, "evidence.token_malformed"},
		"a large token":            {request(t, good, strings.Repeat("A", 4<<10+1)), 401, "evidence.token_malformed"},
		"a token of another kind":  {header("typ", "JWT"), 401, "evidence.token_malformed"},
		"a token with more claims": {claim("role", "operator"), 401, "evidence.token_malformed"},
		"an unknown key":           {header("kid", "token-9"), 401, "evidence.token_foreign"},
		"another issuer":           {claim("iss", "somebody"), 401, "evidence.token_foreign"},
		"another authority":        {claim("aud", "https://other.example/1.0/sign"), 401, "evidence.token_foreign"},
		"for revoking":             {claim("aud", address+"/1.0/revoke"), 401, "evidence.token_foreign"},
		"an old token":             {claim("exp", time.Now().Add(-leeway-time.Second).Unix()), 401, "evidence.token_expired"},
		"a token of tomorrow":      {claim("nbf", time.Now().Add(time.Hour).Unix()), 401, "evidence.token_expired"},
	} {
		for _, path := range []string{"/1.0/sign", "/sign"} {
			status, answer := ask(t, r, path, c.body, nil)
			if status != c.status || !strings.Contains(answer, `"message":"`+c.code+": ") {
				t.Errorf("%s: %d %s, want %d %s", name, status, answer, c.status, c.code)
			}
		}
	}
	for _, body := range []string{"", "{}x", `{"client":"a","statement":"b","csr":"c","role":"d"}`, `{"client":"a","client":"b"}`} {
		if status, answer := ask(t, r, "/sealkeeper/rekey", body, nil); status != 400 || !strings.Contains(answer, "ra.malformed: ") {
			t.Errorf("a change of key by %q: %d %s", body, status, answer)
		}
	}
	if n := d.count("/v1/ra/certificates") + d.count("/v1/ra/rekeys"); n > 0 {
		t.Errorf("the appliance was asked %d times", n)
	}
	// And what the authority that is embedded would do by itself.
	if _, err := r.CreateCertificate(&cas.CreateCertificateRequest{Template: &x509.Certificate{}, CSR: &x509.CertificateRequest{}}); err == nil {
		t.Error("a client's certificate without a token")
	}
}

// An enrolment brings token and request to the appliance as they came, and its certificate back as `step` reads it.
func TestEnrolment(t *testing.T) {
	r, d := open(t)
	request64 := func(p string) string { b, _ := pem.Decode([]byte(p)); return b64.EncodeToString(b.Bytes) }
	token, asked := d.token("token-1", d.tokens["token-1"], nil), csr(t)
	body, err := json.Marshal(map[string]any{"csr": asked, "ott": token, "notAfter": "8760h", "notBefore": nil, "templateData": map[string]any{"subject": "operator"}})
	must(t, err)
	status, answer := ask(t, r, "/1.0/sign", string(body), nil)
	var got struct {
		Certificate string   `json:"crt"`
		CA          string   `json:"ca"`
		Chain       []string `json:"certChain"`
	}
	must(t, json.Unmarshal([]byte(answer), &got))
	if status != 201 || len(got.Chain) != 2 || got.Chain[0] != got.Certificate || got.Chain[1] != got.CA || got.CA != text(d.root.Raw) {
		t.Fatalf("%d %s", status, answer)
	}
	if want := fmt.Sprintf(`{"token":%q,"csr":%q}`, token, request64(asked)); len(d.asked["/v1/ra/certificates"]) != 1 || d.asked["/v1/ra/certificates"][0] != want {
		t.Errorf("%v", d.asked["/v1/ra/certificates"])
	}
}

// Its own clock may be a minute off: such a token goes to the appliance, whose clock decides.
func TestAClockThatIsOff(t *testing.T) {
	r, d := open(t)
	asked := csr(t)
	for i, off := range []time.Duration{2 * time.Second, leeway / 2, -2 * time.Second, -leeway / 2} {
		token := d.token("token-1", d.tokens["token-1"], func(_, c map[string]any) {
			if now := time.Now().Add(off); off > 0 { // made just now by a clock that is ahead, or ended just now by one that is behind
				c["iat"], c["nbf"], c["exp"] = now.Unix(), now.Unix(), now.Add(time.Hour).Unix()
			} else {
				c["exp"] = now.Unix()
			}
		})
		if status, answer := ask(t, r, "/1.0/sign", request(t, asked, token), nil); status != 201 || d.count("/v1/ra/certificates") != i+1 {
			t.Errorf("%s off: %d %s", off, status, answer)
		}
	}
	d.set(func() {
		d.refuse["/v1/ra/certificates"] = contract.Problem{Status: 422, Code: "evidence.token_expired", Detail: "the token is not valid now"}
	})
	ended := d.token("token-1", d.tokens["token-1"], func(_, c map[string]any) { c["exp"] = time.Now().Add(-time.Second).Unix() })
	if status, answer := ask(t, r, "/1.0/sign", request(t, asked, ended), nil); status != 403 || !strings.Contains(answer, "evidence.token_expired: ") {
		t.Errorf("the appliance's clock says that it ended: %d %s", status, answer)
	}
}

// What the appliance says is passed on with its code; what it can't say has one of its own, and nothing of the inside.
func TestTheAppliancesWord(t *testing.T) {
	r, d := open(t)
	body := request(t, csr(t), d.token("token-1", d.tokens["token-1"], nil))
	for code, c := range map[string]struct{ said, status int }{"enrolment.token_used": {409, 403}, "enrolment.unknown": {404, 403}, "client.revoked": {403, 403}, "overloaded": {503, 503}, "client.rate": {429, 503}} {
		d.set(func() { d.refuse["/v1/ra/certificates"] = contract.Problem{Status: c.said, Code: code, Detail: "why"} })
		if status, answer := ask(t, r, "/1.0/sign", body, nil); status != c.status || !strings.Contains(answer, `"message":"`+code+`: why"`) {
			t.Errorf("%s: %d %s", code, status, answer)
		}
	}
	d.set(func() {
		delete(d.refuse, "/v1/ra/certificates")
		d.say["/v1/ra/certificates"] = `{"certificate":"!","issuer":"?"}`
	})
	if status, answer := ask(t, r, "/1.0/sign", body, nil); status != 502 || !strings.Contains(answer, "ra.answer: ") {
		t.Errorf("an answer that is none: %d %s", status, answer)
	}
	d.set(func() { d.say["/v1/ra/certificates"] = `<html>` })
	if status, answer := ask(t, r, "/1.0/sign", body, nil); status != 503 || !strings.Contains(answer, "ra.unavailable: ") || strings.Contains(answer, "127.0.0.1") {
		t.Errorf("another server in its place: %d %s", status, answer)
	}
}

// Of those who send forged tokens the appliance sees the first, and not the next; others enrol meanwhile.
func TestForgedTokens(t *testing.T) {
	r, d := open(t)
	forged := request(t, csr(t), d.token("token-1", newKey(t), nil))
	d.set(func() {
		d.refuse["/v1/ra/certificates"] = contract.Problem{Status: 403, Code: "evidence.token_signature", Detail: "the token's signature does not verify"}
	})
	for i, want := range []int{403, 401, 401} {
		if status, answer := ask(t, r, "/1.0/sign", forged, nil); status != want || !strings.Contains(answer, "evidence.token_signature: ") {
			t.Errorf("forged token %d: %d %s", i+1, status, answer)
		}
	}
	if n := d.count("/v1/ra/certificates"); n != 1 {
		t.Errorf("the appliance saw %d forged tokens", n)
	}
	d.set(func() { delete(d.refuse, "/v1/ra/certificates") })
	if status, answer := ask(t, r, "/1.0/sign", request(t, csr(t), d.token("token-1", d.tokens["token-1"], nil)), nil); status != 201 {
		t.Errorf("a good token meanwhile: %d %s", status, answer)
	}
}

// A token key that has a successor is followed without a restart, and strangers can't make it ask the appliance more than once in a while.
func TestAnotherTokenKey(t *testing.T) {
	r, d := open(t)
	next := newKey(t)
	body := request(t, csr(t), d.token("token-2", next, nil))
	before := d.count("/v1/ra")
	age := func() {
		e := *r.enrolling.Load()
		e.at = e.at.Add(-followEvery)
		r.enrolling.Store(&e)
	}
	refused := func(what string, asked int) {
		t.Helper()
		if status, answer := ask(t, r, "/1.0/sign", body, nil); status != 401 || !strings.Contains(answer, "evidence.token_foreign") {
			t.Errorf("%s: %d %s", what, status, answer)
		}
		if n := d.count("/v1/ra") - before; n != asked {
			t.Errorf("%s: the appliance was asked %d times, not %d", what, n, asked)
		}
	}
	refused("just after the start", 0)
	age()
	refused("a key that is nobody's", 1)
	refused("again", 1)
	age()
	d.set(func() { d.refuse["/v1/ra"] = contract.Problem{Status: 503, Code: "overloaded", Detail: "later"} })
	refused("the appliance does not say", 2)
	refused("again", 2)
	d.set(func() { delete(d.refuse, "/v1/ra"); d.tokens = map[string]*ecdsa.PrivateKey{"token-2": next} })
	age()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if status, answer := ask(t, r, "/1.0/sign", body, nil); status != 201 {
				t.Errorf("a token of the successor: %d %s", status, answer)
			}
		})
	}
	all.Wait()
	if n := d.count("/v1/ra") - before; n != 3 {
		t.Errorf("the appliance was asked %d times, not 3", n)
	}
}

func (d *daemon) client(key *ecdsa.PrivateKey, uris ...string) *x509.Certificate {
	d.t.Helper()
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "office-1"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, s := range uris {
		u, err := url.Parse(s)
		must(d.t, err)
		c.URIs = append(c.URIs, u)
	}
	out, err := x509.ParseCertificate(d.certify(c, key.Public()))
	must(d.t, err)
	return out
}

// A renewal asks for the name and the key of the certificate that was shown, and for nothing else; the appliance's refusal counts.
func TestRenewal(t *testing.T) {
	r, d := open(t)
	key := newKey(t)
	if status, answer := ask(t, r, "/1.0/renew", "", nil); status/100 == 2 || d.count("/v1/ra/renewals") > 0 {
		t.Errorf("without a certificate: %d %s", status, answer)
	}
	if status, answer := ask(t, r, "/1.0/renew", "", d.client(key)); status/100 == 2 || d.count("/v1/ra/renewals") > 0 {
		t.Errorf("a certificate that names nobody: %d %s", status, answer)
	}
	if status, answer := ask(t, r, "/1.0/renew", "", d.client(key, "urn:sealkeeper:client:issuance:office-1")); status != 201 {
		t.Errorf("%d %s", status, answer)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	if got := d.asked["/v1/ra/renewals"]; len(got) != 1 || got[0] != fmt.Sprintf(`{"client":"office-1","key":%q}`, base64.RawURLEncoding.EncodeToString(spki)) {
		t.Errorf("%v", got)
	}
	d.set(func() {
		d.refuse["/v1/ra/renewals"] = contract.Problem{Status: 403, Code: "client.revoked", Detail: "for ever"}
	})
	if status, answer := ask(t, r, "/1.0/renew", "", d.client(key, "urn:sealkeeper:client:issuance:office-1")); status != 403 || !strings.Contains(answer, "client.revoked: for ever") {
		t.Errorf("revoked: %d %s", status, answer)
	}
}

// Who shows a certificate can end that one, and no other; of its reason there arrives what is printable, and not more than fits.
func TestRevocation(t *testing.T) {
	r, d := open(t)
	c := d.client(newKey(t), "urn:sealkeeper:client:issuance:office-1")
	body := func(serial string) string {
		b, err := json.Marshal(map[string]any{"serial": serial, "reason": "moved\x00\u2028" + strings.Repeat("x", 1000), "reasonCode": 0, "passive": true})
		must(t, err)
		return string(b)
	}
	if status, answer := ask(t, r, "/1.0/revoke", body("123"), c); status/100 == 2 || d.count("/v1/ra/revocations") > 0 {
		t.Errorf("another's: %d %s", status, answer)
	}
	if status, answer := ask(t, r, "/1.0/revoke", body(c.SerialNumber.String()), nil); status/100 == 2 || d.count("/v1/ra/revocations") > 0 {
		t.Errorf("without a certificate: %d %s", status, answer)
	}
	if status, answer := ask(t, r, "/1.0/revoke", body(c.SerialNumber.String()), c); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	var got contract.RetireRequest
	must(t, json.Unmarshal([]byte(d.asked["/v1/ra/revocations"][0]), &got))
	if got.Serial != fmt.Sprintf("%x", c.SerialNumber.Bytes()) || !strings.HasPrefix(got.Reason, "movedxxx") || len(got.Reason) != contract.MaxRetireReason {
		t.Errorf("%+v", got)
	}
}

// A request of enrolment is taken apart within bounds, and what is taken is one request in PEM.
func FuzzSigning(f *testing.F) {
	good := csr(f)
	seeds := fuzzing.Strings(request(f, good, "a.b.c"), `{"csr":"","ott":"","notAfter":"24h","notBefore":null,"templateData":{"a":[1]}}`, request(f, good+good, "x"), `{"csr":"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"}`,
		`{"templateData":`+strings.Repeat("[", 9)+strings.Repeat("]", 9)+`}`)
	fuzzing.Run(f, fuzzing.Options{Decode: func(in []byte) { _, _, _ = signing(in) }}, seeds, func(t *testing.T, in []byte) bool {
		der, _, err := signing(in)
		if err != nil {
			if der != nil || !strings.HasPrefix(err.Error(), "ra.malformed: ") {
				t.Fatalf("%x %v", der, err)
			}
			return false
		}
		if len(in) > maxBody || len(der) > 16<<10 || bytes.Count(in, []byte("BEGIN")) < 1 {
			t.Fatalf("took %q", in)
		}
		return true
	})
}
