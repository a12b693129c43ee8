package enrolment

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

func (o *office) until(key, state string) {
	o.t.Helper()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		for _, k := range o.Operations().Keys {
			if k.ID == key && k.State == state {
				return
			}
		}
		if time.Since(began) > 4*time.Minute { // some of them are planned
			o.t.Fatalf("key %s does not become %s: %+v", key, state, o.Operations().Keys)
		}
	}
}

// authority is a CA's published certificate.
func (o *office) authority(key string) *x509.Certificate {
	o.t.Helper()
	block, _ := pem.Decode(o.Get("/certificates/" + key + ".pem"))
	c, err := x509.ParseCertificate(block.Bytes)
	must(o.t, err)
	return c
}

// shown is how a server at a port verifies with one root alone, and whose clients it asks for.
func shown(port int, root *x509.Certificate) (chain []*x509.Certificate, asks [][]byte, err error) {
	pool := x509.NewCertPool()
	pool.AddCert(root)
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{RootCAs: pool, GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asks = r.AcceptableCAs
		return new(tls.Certificate), nil
	}})
	if err != nil {
		return nil, asks, err
	}
	defer conn.Close()
	return conn.ConnectionState().VerifiedChains[0], asks, nil
}

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// roll has another CA take the place of the one before.
func (o *office) roll(n int, activate, use, until time.Time) {
	o.t.Helper()
	id := fmt.Sprintf("client-ca-%d", n)
	o.decide(officer.ClientRollover, &officer.ClientCA{ID: id, Succeeds: fmt.Sprintf("client-ca-%d", n-1), Algorithm: "ES256", Name: "Test clients " + id, Announce: now(), Activate: activate, UseUntil: use, Until: until, Reason: "its end is near"})
}

func (o *office) raPort() (port int) {
	u, err := url.Parse(o.ra)
	must(o.t, err)
	_, err = fmt.Sscan(u.Port(), &port)
	must(o.t, err)
	return port
}

// certified waits until a server has a certificate by a CA.
func (o *office) certified(port int, by *x509.Certificate) {
	o.t.Helper()
	eventually(o.t, fmt.Sprintf("the server at port %d has a certificate by %s", port, by.Subject), func() bool {
		chain, _, err := shown(port, by)
		return err == nil && len(chain) == 2
	})
}

// eventually waits for what follows from a hand-over.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("%s: not within %s", what, time.Since(began))
		}
	}
}

func (o *office) enrolled(id string) (*client.Identity, string) {
	o.t.Helper()
	o.enrol(time.Hour, id)
	dir := filepath.Join(o.t.TempDir(), id)
	i, err := client.Enrol(context.Background(), dir, o.token(id).Token)
	must(o.t, err)
	return i, dir
}

// asks is a client's request over connections of its own.
func (o *office) asks(id *client.Identity) error {
	o.t.Helper()
	c, err := client.New(client.Config{BaseURL: fmt.Sprintf("https://127.0.0.1:%d", o.Ports[0]), Identity: id, Attempts: 1})
	must(o.t, err)
	defer c.Close()
	_, err = c.WhoAmI(context.Background())
	return err
}

func rootsIn(t testing.TB, dir string) (all []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	must(t, err)
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		all = append(all, c.Subject.CommonName)
	}
	return all
}

// The clients' CA is succeeded twice, and the second one ends, while clients, servers and the registration authority go on: whoever knows the CA of before
// alone verifies every server over the link, a renewal brings the new root, clients of both are let in, and nobody is whose CA was not put to use.
func TestAnotherClientCA(t *testing.T) {
	t.Parallel()
	ra := build(t)
	o := open(t)
	o.serve(ra)
	ctx := context.Background()
	first := o.authority("client-ca-1")
	began := time.Now()
	stays, staysIn := o.enrolled("office-10") // has the first root alone, and does not renew for a while
	tick := time.Second                       // of the plan: longer where an enrolment takes long, for what has to be done before an instant
	if time.Since(began) > 2*time.Second {
		tick *= 2
	}
	begun := now()
	ends := begun.Add(125 * tick)
	o.roll(2, begun.Add(30*tick), begun.Add(100*tick), ends)
	o.until("client-ca-2", "announced")
	eventually(t, "the root that is to come is published", func() bool {
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/certificates/client-ca-2.link.pem", o.Ports[1]))
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
	second := o.authority("client-ca-2")
	if _, asks, err := shown(o.Ports[0], first); err != nil || slices.ContainsFunc(asks, func(n []byte) bool { return string(n) == string(second.RawSubject) }) {
		t.Errorf("a CA that is announced alone is believed: %v", err)
	}
	early, earlyIn := o.enrolled("office-11") // told of the second root before it certifies
	if roots := rootsIn(t, earlyIn); !slices.Equal(roots, []string{first.Subject.CommonName, second.Subject.CommonName}) {
		t.Errorf("a client that enrols after the announcement has roots %q", roots)
	}
	o.until("client-ca-2", "active")

	// Both servers get certificates by the second CA at once, and whoever has the first root alone verifies them over the link.
	for name, port := range map[string]int{"the appliance": o.Ports[0], "the registration authority": o.raPort()} {
		o.certified(port, second)
		if chain, _, err := shown(port, first); err != nil || len(chain) != 3 || string(chain[1].RawSubject) != string(second.RawSubject) {
			t.Errorf("%s, with the first root alone: %d %v", name, len(chain), err)
		}
	}
	if err := o.asks(stays); err != nil {
		t.Errorf("a client of the first CA that does not know the second one: %v", err)
	}
	later, laterIn := o.enrolled("office-12")
	if roots := rootsIn(t, laterIn); !slices.Equal(roots, []string{second.Subject.CommonName}) {
		t.Errorf("a client that enrols after the hand-over has roots %q", roots)
	}
	for name, id := range map[string]*client.Identity{"first": stays, "first, told early": early, "second": later} { // all at the same time
		if err := o.asks(id); err != nil {
			t.Errorf("a client of the %s CA: %v", name, err)
		}
	}
	if _, err := o.As("ward-office-1").WhoAmI(ctx); err != nil {
		t.Errorf("a named client: %v", err)
	}
	if !slices.ContainsFunc(o.Operations().Conditions, func(c contract.Condition) bool {
		return c.Name == "key-use-ending" && strings.Contains(c.What, "client-ca-2 ") && strings.HasSuffix(c.Do, "sealctl propose client-ca.rollover")
	}) {
		t.Errorf("no alarm says what to do about a CA whose use ends: %+v", o.Operations().Conditions)
	}
	must(t, stays.Renew(ctx))
	if roots := rootsIn(t, staysIn); !slices.Equal(roots, []string{first.Subject.CommonName, second.Subject.CommonName}) || string(stays.Certificate().Leaf.RawIssuer) != string(second.RawSubject) {
		t.Errorf("after the renewal its roots are %q, and its certificate is by %s", roots, stays.Certificate().Leaf.Issuer)
	}
	if again, err := client.LoadIdentity(staysIn, o.ra); err != nil || o.asks(again) != nil {
		t.Errorf("after a restart of the client: %v", err)
	}

	// Somebody else's CA of the same name is no CA here.
	mine, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), RawSubject: second.RawSubject, SubjectKeyId: second.SubjectKeyId, NotBefore: begun.Add(-time.Hour), NotAfter: begun.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}
	leaf := *later.Certificate().Leaf
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: leaf.SerialNumber, Subject: pkix.Name{CommonName: "office-12"}, URIs: leaf.URIs, NotBefore: begun.Add(-time.Minute), NotAfter: begun.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, mine.Public(), mine)
	must(t, err)
	wrong, err := client.New(client.Config{BaseURL: fmt.Sprintf("https://127.0.0.1:%d", o.Ports[0]), Certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: mine}, RootCAs: later.Roots(), Attempts: 1})
	must(t, err)
	if w, err := wrong.WhoAmI(ctx); err == nil {
		t.Errorf("a certificate by another CA of the same name: %+v", w)
	}

	// Tokens have another key; one that was handed out before is good.
	o.enrol(time.Hour, "office-13")
	old := o.token("office-13")
	at := now().Add(3 * time.Second)
	o.decide(officer.KeyGenerate, &officer.Generate{ID: "token-2", Purpose: policy.PurposeToken, Token: "online", Algorithm: "ES256", Succeeds: "token-1", Announce: begun, Activate: at, UseUntil: at.AddDate(5, 0, 0), Reason: "its end is near"})

	o.decide(officer.ClientRevoke, &officer.Dismiss{Clients: []string{"office-11"}, Reason: "the office is closed"})
	o.listed(early.Certificate().Leaf) // by the first CA, whose list goes on
	o.roll(3, begun.Add(90*tick), begun.AddDate(4, 0, 0), begun.AddDate(5, 0, 0))
	o.until("token-2", "active")
	if _, err := client.Enrol(ctx, filepath.Join(t.TempDir(), "office-13"), old.Token); err != nil {
		t.Errorf("by a token of the key before: %v", err)
	}
	o.enrol(time.Hour, "office-14")
	fresh := o.token("office-14")
	eventually(t, "a token of the new key", func() bool {
		_, err := client.Enrol(ctx, filepath.Join(t.TempDir(), "office-14"), fresh.Token)
		return err == nil
	})
	o.until("client-ca-3", "active")
	third := o.authority("client-ca-3")
	o.certified(o.Ports[0], third)
	o.certified(o.raPort(), third)
	if err := o.asks(later); err != nil {
		t.Errorf("a client that knows the second root alone: %v", err)
	}
	must(t, later.Renew(ctx))
	if roots := rootsIn(t, laterIn); !slices.Equal(roots, []string{second.Subject.CommonName, third.Subject.CommonName}) {
		t.Errorf("its roots are %q", roots)
	}
	missed, _ := client.LoadIdentity(staysIn, o.ra) // does not renew any more
	must(t, stays.Renew(ctx))

	time.Sleep(time.Until(ends.Add(2 * time.Second)))
	for name, id := range map[string]*client.Identity{"second": later, "first": stays} {
		if err := o.asks(id); err != nil {
			t.Errorf("a client of once the %s CA, after the end of the second one: %v", name, err)
		}
		if err := id.Renew(ctx); err != nil {
			t.Errorf("a renewal of it: %v", err)
		}
	}
	if err := o.asks(missed); err == nil {
		t.Error("a certificate by a CA that has ended is good")
	}
	if _, _, err := shown(o.Ports[0], second); err == nil {
		t.Error("a root that has ended is of use")
	}
	if _, asks, err := shown(o.Ports[0], third); err != nil || slices.ContainsFunc(asks, func(n []byte) bool { return string(n) == string(second.RawSubject) }) {
		t.Errorf("the CA that has ended is believed: %v", err)
	}
	for _, c := range o.Operations().Conditions {
		if strings.Contains(fmt.Sprint(c), "client-ca-2") {
			t.Errorf("an alarm about a CA that has ended and has a successor: %+v", c)
		}
	}
	o.Stop()
	o.Check()
	o.Start()
	if err := o.asks(later); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// The stock `step` renews over a hand-over with the root of before alone, has certificates by both CAs, and is given the new root as the guide says.
func TestStockStepOverAnotherClientCA(t *testing.T) {
	t.Parallel()
	step := stock(t)
	ra := build(t)
	o := open(t)
	o.serve(ra)
	first := o.authority("client-ca-1")
	o.enrol(time.Hour, "office-20")
	token := o.token("office-20")
	home := t.TempDir()
	run := runs(t, step, home)
	run(true, "ca", "bootstrap", "--ca-url", token.URL, "--fingerprint", token.Fingerprint)
	run(true, "ca", "certificate", "office-20", "cert.pem", "key.pem", "--token", token.Token)
	begun := now()
	o.roll(2, begun.Add(4*time.Second), begun.AddDate(4, 0, 0), begun.AddDate(5, 0, 0))
	o.until("client-ca-2", "active")
	second := o.authority("client-ca-2")
	o.certified(o.raPort(), second)
	o.certified(o.Ports[0], second)
	by := func(ca *x509.Certificate) {
		t.Helper()
		cert := certificate(t, filepath.Join(home, "cert.pem"))
		if string(cert.RawIssuer) != string(ca.RawSubject) {
			t.Errorf("the certificate is by %s", cert.Issuer)
		}
		pair, err := tls.LoadX509KeyPair(filepath.Join(home, "cert.pem"), filepath.Join(home, "key.pem"))
		must(t, err)
		roots := x509.NewCertPool()
		roots.AddCert(first)
		c, err := client.New(client.Config{BaseURL: fmt.Sprintf("https://127.0.0.1:%d", o.Ports[0]), Certificate: pair, RootCAs: roots, Attempts: 1})
		must(t, err)
		if _, err := c.WhoAmI(t.Context()); err != nil {
			t.Errorf("with a certificate by %s: %v", ca.Subject, err)
		}
	}
	by(first)
	run(true, "ca", "health")
	run(true, "ca", "renew", "--force", "cert.pem", "key.pem") // with the first root alone
	by(second)
	run(true, "ca", "renew", "--force", "cert.pem", "key.pem") // by a certificate of the second CA
	sum := sha256.Sum256(second.Raw)
	run(true, "ca", "bootstrap", "--force", "--ca-url", token.URL, "--fingerprint", hex.EncodeToString(sum[:]))
	if trusted := certificate(t, filepath.Join(home, ".step", "certs", "root_ca.crt")); !trusted.Equal(second) {
		t.Errorf("it trusts %s", trusted.Subject)
	}
	run(true, "ca", "renew", "--force", "cert.pem", "key.pem")
	by(second)
	o.enrol(time.Hour, "office-21")
	token = o.token("office-21")
	if token.Fingerprint != hex.EncodeToString(sum[:]) {
		t.Errorf("a token names the root %s", token.Fingerprint)
	}
	run(true, "ca", "certificate", "office-21", "other.pem", "other-key.pem", "--token", token.Token)
	run(true, "ca", "revoke", "--cert", "cert.pem", "--key", "key.pem")
	run(false, "ca", "renew", "--force", "cert.pem", "key.pem")
	o.Stop()
	o.Check()
}
