package client_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
)

// registration stands where the registration authority is: it certifies whatever key it is asked for, and can hold a renewal back.
type registration struct {
	*pki
	arrived, release chan struct{} // of renewals; nil: none is held back
	more             []string      // that it answers besides
	from, until      time.Duration // of certificates, from now; zero: a minute ago, and an hour
}

func (r *registration) certify(public any) string {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		r.t.Error(err)
	}
	from, until := -time.Minute, time.Hour
	if r.until != 0 {
		from, until = r.from, r.until
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "office-1"}, NotBefore: time.Now().Add(from),
		NotAfter: time.Now().Add(until), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, r.cert, public, r.key)
	if err != nil {
		r.t.Error(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (r *registration) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	public := q.TLS.PeerCertificates[0].PublicKey
	switch q.URL.Path {
	case "/1.0/renew":
		if r.arrived != nil {
			r.arrived <- struct{}{}
			<-r.release
		}
	case "/sealkeeper/rekey":
		var asked contract.RekeyRequest
		if err := json.NewDecoder(q.Body).Decode(&asked); err != nil {
			r.t.Error(err)
		}
		der, _ := base64.RawURLEncoding.DecodeString(asked.CSR)
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			r.t.Error(err)
			return
		}
		public = csr.PublicKey
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"certChain": append([]string{r.certify(public)}, r.more...)})
}

// enrolled is a client's directory, and its identity.
func (r *registration) enrolled() (dir, url string, id *client.Identity) {
	r.t.Helper()
	s := httptest.NewUnstartedServer(r)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{r.leaf("")}}
	s.StartTLS()
	r.t.Cleanup(s.Close)
	key := newKey(r.t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		r.t.Fatal(err)
	}
	dir = r.t.TempDir()
	for name, b := range map[string][]byte{"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "cert.pem": []byte(r.certify(key.Public())),
		"ca.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.cert.Raw})} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	if id, err = client.LoadIdentity(dir, s.URL); err != nil {
		r.t.Fatal(err)
	}
	return dir, s.URL, id
}

// whole says that the directory has what is in use: one key with its certificate, and no change that was begun.
func whole(t *testing.T, dir, url string, id *client.Identity) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "next-key.pem")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a change of key is under way: %v", err)
	}
	if again, err := client.LoadIdentity(dir, url); err != nil || !again.Certificate().Leaf.Equal(id.Certificate().Leaf) {
		t.Errorf("the directory is not what is in use: %v", err)
	}
}

// A renewal whose answer comes late does not put a certificate of the old key beside the new key; who uses the identity, revokes it or gives up meanwhile does not wait.
func TestALateRenewalBesideAChangeOfKey(t *testing.T) {
	r := &registration{pki: newPKI(t), arrived: make(chan struct{}), release: make(chan struct{})}
	release := sync.OnceFunc(func() { close(r.release) })
	dir, url, id := r.enrolled()
	defer release()
	ctx := context.Background()
	before := id.Certificate().Leaf.PublicKey.(*ecdsa.PublicKey)
	renewed, rekeyed := make(chan error, 1), make(chan error, 1)
	go func() { renewed <- id.Renew(ctx) }()
	<-r.arrived
	go func() { rekeyed <- id.Rekey(ctx) }()
	brief, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := id.Rekey(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a change of key while a renewal is under way: %v", err)
	}
	if err := id.Revoke(ctx, "stolen"); err != nil || id.Name() != "office-1" || id.Due().IsZero() {
		t.Errorf("used meanwhile: %v", err)
	}
	release()
	if err := errors.Join(<-renewed, <-rekeyed); err != nil {
		t.Error(err)
	}
	if before.Equal(id.Certificate().Leaf.PublicKey) {
		t.Error("the key did not change")
	}
	whole(t, dir, url, id)
}

// A client learns another root by a CA certificate of its name and key that a root signed which it has, in any number of steps, and by nothing else: not by
// the registration authority's word, and not by a certificate of a client.
func TestRootsAreLearnedByLinksAlone(t *testing.T) {
	r := &registration{pki: newPKI(t)}
	dir, url, id := r.enrolled()
	serial := int64(100)
	certify := func(name string, key *ecdsa.PrivateKey, isCA bool, until time.Time, issuer *x509.Certificate, by *ecdsa.PrivateKey) *x509.Certificate {
		t.Helper()
		serial++
		c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until, IsCA: isCA, BasicConstraintsValid: true}
		if isCA {
			c.KeyUsage = x509.KeyUsageCertSign
		}
		if issuer == nil {
			issuer = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, &x509.Certificate{RawSubject: issuer.RawSubject, Subject: issuer.Subject, SubjectKeyId: issuer.SubjectKeyId}, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	text := func(all ...*x509.Certificate) (out []string) {
		for _, c := range all {
			out = append(out, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
		}
		return out
	}
	later, one, two := time.Now().Add(time.Hour), newKey(t), newKey(t)
	first := certify("one", one, true, later, nil, one)
	second := certify("two", two, true, later, nil, two)
	link := certify("one", one, true, later, r.cert, r.key)
	for name, c := range map[string][]*x509.Certificate{
		"no link":                {first},
		"a client's certificate": {certify("one", one, false, later, r.cert, r.key), first},
		"another name":           {certify("two", one, true, later, r.cert, r.key), first},
		"another key":            {certify("one", two, true, later, r.cert, r.key), first},
		"a link that has ended":  {certify("one", one, true, time.Now().Add(-time.Second), r.cert, r.key), first},
		"its own link":           {certify("one", one, true, later, r.cert, one), first},
		"no root":                {link, certify("one", one, true, later, r.cert, two)},
		"a link to another":      {link, second},
	} {
		r.more = text(c...)
		if err := id.Renew(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !id.Roots().Equal(r.pool) {
			t.Errorf("%s: it learned a root", name)
		}
	}
	r.more = text(certify("two", two, true, later, first, one), second, first, link)
	if err := id.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	want := r.pool.Clone()
	want.AddCert(first)
	want.AddCert(second)
	if again, err := client.LoadIdentity(dir, url); err != nil || !id.Roots().Equal(want) || !again.Roots().Equal(want) {
		t.Errorf("by links: %v", err)
	}
	whole(t, dir, url, id)
}

// Renewals and changes of key that are asked for at once come one after the other.
func TestChangesAtOnce(t *testing.T) {
	r := &registration{pki: newPKI(t)}
	dir, url, id := r.enrolled()
	var all sync.WaitGroup
	for _, change := range []func(context.Context) error{id.Renew, id.Rekey, id.Renew, id.Rekey} {
		all.Go(func() {
			for range 5 {
				if err := change(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	whole(t, dir, url, id)
}

// No wait is longer than a minute, however far the renewal is: the machine may be suspended meanwhile, or the wall set.
func TestARenewalIsLookedForAgain(t *testing.T) {
	r := &registration{pki: newPKI(t)}
	_, _, id := r.enrolled()
	first := id.Certificate().Leaf
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	waits := 0
	client.IdentityWaiting(id, func(_ context.Context, d time.Duration) error {
		if d > time.Minute {
			t.Errorf("it waits for %v", d)
		}
		switch waits++; waits {
		case 1: // as if it had slept for most of the certificate's life
			r.from, r.until = -time.Hour, time.Minute
			if err := id.Renew(ctx); err != nil {
				t.Error(err)
			}
			first, r.until = id.Certificate().Leaf, 0
		case 2:
			cancel()
		}
		return ctx.Err()
	})
	id.Run(ctx, func(err error) { t.Error(err) })
	if id.Certificate().Leaf.Equal(first) || time.Until(id.Due()) < 30*time.Minute {
		t.Errorf("not renewed, the next one is due at %v", id.Due())
	}
}

// Whoever is too late is in no hurry: once the certificate ended, a try a minute, and not all at the same time.
func TestTriesAfterTheEnd(t *testing.T) {
	r := &registration{pki: newPKI(t), from: -time.Hour, until: -time.Minute}
	dir, _, _ := r.enrolled()
	id, err := client.LoadIdentity(dir, "https://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	failures := 0
	client.IdentityWaiting(id, func(_ context.Context, d time.Duration) error {
		if d < 59*time.Second {
			t.Errorf("it tries again in %v", d)
		}
		cancel()
		return ctx.Err()
	})
	id.Run(ctx, func(error) { failures++ })
	if failures != 1 {
		t.Errorf("%d failures", failures)
	}
}

// A certificate that can't be written is used, and written when there is room again: to throw it away would be to ask for another one with each try, and to
// forget that it is not written would leave the one that a restart finds to its end.
func TestACertificateThatCantBeWritten(t *testing.T) {
	r := &registration{pki: newPKI(t), from: -time.Hour, until: time.Minute}
	dir, url, id := r.enrolled()
	due, before := id.Due(), id.Certificate().Leaf
	r.until = 0
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(r.certify(before.PublicKey)))
	for what, take := range map[string]func() error{"renewed": func() error { return id.Renew(context.Background()) },
		"taken": func() error {
			return id.Take(contract.CertificateAnswer{Certificate: base64.RawURLEncoding.EncodeToString(block.Bytes)})
		}} {
		was := id.Certificate().Leaf
		if err := take(); err == nil || !id.Due().After(due) || id.Certificate().Leaf.Equal(was) {
			t.Errorf("%s: %v, due at %v", what, err, id.Due())
		}
	}
	if err := id.CatchUp(context.Background()); err == nil {
		t.Error("nobody is told that it can't be written yet")
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+"-away", dir)); err != nil {
		t.Fatal(err)
	}
	if found, err := client.LoadIdentity(dir, url); err != nil || !found.Certificate().Leaf.Equal(before) {
		t.Errorf("the directory has another certificate than before: %v", err)
	}
	if err := id.CatchUp(context.Background()); err != nil {
		t.Errorf("with room again: %v", err)
	}
	whole(t, dir, url, id)
	if found, err := client.LoadIdentity(dir, url); err != nil || !found.Certificate().Leaf.Equal(id.Certificate().Leaf) {
		t.Errorf("with room again the directory has another certificate than what is in use: %v", err)
	}
}

// A request that was held up between two renewals does not bring the old certificate back.
func TestConnectionsOnlyMoveForward(t *testing.T) {
	r := &registration{pki: newPKI(t)}
	_, _, id := r.enrolled()
	c, err := client.New(client.Config{BaseURL: "https://localhost:1", Identity: id, RootCAs: id.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var late []func()
	for range 2 {
		if err := id.Renew(context.Background()); err != nil {
			t.Fatal(err)
		}
		late = append(late, client.Late(c))
	}
	late[1]()
	late[0]()
	if !bytes.Equal(client.Shown(c), id.Certificate().Leaf.Raw) {
		t.Error("the certificate before the last is shown")
	}
}
