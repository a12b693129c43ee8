package api

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"sealkeeper/internal/clock"
)

// issuer is a CA of this test: certificates of clients and of the listener.
type issuer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newIssuer(t *testing.T, from, until time.Time) *issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{t: t, key: key}
	i.cert = i.certify(&x509.Certificate{NotBefore: from, NotAfter: until, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, key).Leaf
	return i
}

func (i *issuer) certify(of *x509.Certificate, key *ecdsa.PrivateKey) tls.Certificate {
	i.t.Helper()
	of.SerialNumber, i.cert = big.NewInt(7), cmp.Or(i.cert, of)
	der, err := x509.CreateCertificate(rand.Reader, of, i.cert, key.Public(), i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// client has a certificate of carrier-1, good in this time and for this use.
func (i *issuer) client(from, until time.Time, use x509.ExtKeyUsage) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	return i.certify(&x509.Certificate{NotBefore: from, NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{use}, KeyUsage: x509.KeyUsageDigitalSignature,
		URIs: []*url.URL{{Scheme: "urn", Opaque: "sealkeeper:client:carrier:carrier-1"}}, DNSNames: []string{"localhost"}}, key)
}

// A wall that is wrong keeps no carrier out: while it is not trusted a certificate is good if it is so by the wall or by the time of lists. It lets
// nobody in whom neither of the two does.
func TestAWrongWallKeepsNoCarrierOut(t *testing.T) {
	const day = 24 * time.Hour
	ca, other := newIssuer(t, noon.Add(-1000*day), noon.Add(1000*day)), newIssuer(t, noon.Add(-1000*day), noon.Add(1000*day))
	carrier := func(from, until time.Duration) tls.Certificate {
		return ca.client(noon.Add(from), noon.Add(until), x509.ExtKeyUsageClientAuth)
	}
	now := carrier(-day, 30*day)
	for _, c := range []struct {
		name       string
		lastSigned time.Duration // of the last list before the start, which is at noon by the wall
		jump       time.Duration // of the wall after it
		with       tls.Certificate
		want       string
	}{
		{"the wall is right", -time.Hour, 0, now, "ok"},
		{"the wall is right, the certificate over", -time.Hour, 0, carrier(-day, -time.Hour), "handshake"},
		{"the wall is right, the certificate to come", -time.Hour, 0, carrier(day, 2*day), "handshake"},
		{"the wall jumped ahead", -time.Hour, 400 * day, now, "ok"},
		{"the wall jumped back", -time.Hour, -400 * day, now, "ok"},
		{"the wall jumped ahead, the certificate over before", -time.Hour, 400 * day, carrier(-day, -time.Hour), "handshake"},
		{"the wall jumped, another CA", -time.Hour, 400 * day, other.client(noon.Add(-day), noon.Add(30*day), x509.ExtKeyUsageClientAuth), "handshake"},
		{"the wall jumped, a server's certificate", -time.Hour, 400 * day, ca.client(noon.Add(-day), noon.Add(30*day), x509.ExtKeyUsageServerAuth), "handshake"},
		{"the wall jumped, no certificate", -time.Hour, 400 * day, tls.Certificate{}, "handshake"},
		{"a start after a long stop, a certificate of since then", -100 * day, 0, now, "ok"},
		{"a start with the wall behind", 100 * day, 0, carrier(90*day, 120*day), "ok"},
		{"a start after a long stop, a certificate that is over by now but was good then", -100 * day, 0, carrier(-110*day, -90*day), "ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t, 0)
			h.edge.o.Guard = clock.NewGuard(h.clock, noon.Add(c.lastSigned), 2*time.Hour, false)
			h.edge.o.ClientCAs = func() *x509.CertPool { p := x509.NewCertPool(); p.AddCert(ca.cert); return p }
			h.edge.Present(ca.client(noon.Add(-day), noon.Add(30*day), x509.ExtKeyUsageServerAuth))
			h.edge.o.Certificate = *h.edge.certificate.Load()
			s, err := h.edge.Issuance()
			if err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go s.ServeTLS(l, "", "")
			defer s.Close()
			trust := x509.NewCertPool()
			trust.AddCert(ca.cert)
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust, ServerName: "localhost", Time: func() time.Time { return noon },
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.with, nil }}}
			defer transport.CloseIdleConnections()
			lock := func() string {
				r, err := http.NewRequest("POST", "https://"+l.Addr().String()+"/v1/locks", strings.NewReader(bodies["/v1/locks"]))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Content-Type", "application/json")
				w, err := transport.RoundTrip(r)
				if err != nil {
					return "handshake"
				}
				defer w.Body.Close()
				if w.StatusCode != http.StatusOK {
					return w.Status
				}
				return "ok"
			}
			before := lock()
			h.clock.Jump(c.jump)
			if got := lock(); got != c.want || got == "ok" && before != "ok" {
				t.Errorf("a lock over a connection that was open before: %s, then %s; want %s", before, got, c.want)
			}
			transport.CloseIdleConnections()
			if got := lock(); got != c.want {
				t.Errorf("a lock over a new connection: %s, want %s", got, c.want)
			}
			if c.want != "ok" && len(h.calls) > 0 {
				t.Error("the authority was reached")
			}
		})
	}
}
