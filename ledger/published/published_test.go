package published

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A ledger that was restored from before another root took over knows that one by what is published of keys, if its own root vouches for it.
func TestRootsAfterTheLedgers(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	cert := func(name string, k *ecdsa.PrivateKey, by *x509.Certificate, signer *ecdsa.PrivateKey) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), IsCA: true,
			BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
		if by == nil {
			by = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, by, k.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	k1, k2, k3 := key(), key(), key()
	first := cert("one", k1, nil, k1)
	second, stranger := cert("two", k2, nil, k2), cert("one", k3, nil, k3)
	dir := t.TempDir()
	publish := func(link *x509.Certificate) {
		b, err := json.Marshal(map[string]any{"issuer": "x", "as_of": now, "keys": []any{map[string]any{"id": "iaca-1", "purpose": "iaca", "state": "deactivated", "certificate": first.Raw}, map[string]any{"id": "iaca-2", "purpose": "iaca", "state": "active", "certificate": second.Raw, "link": link.Raw}}})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "trust.json"), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := linked(dir, []*x509.Certificate{first}); len(got) != 0 {
		t.Errorf("nothing is published, and it gives %d roots", len(got))
	}
	publish(cert("two", k2, first, k1))
	if got := linked(dir, []*x509.Certificate{first}); len(got) != 2 || !got[1].Equal(second) {
		t.Errorf("%d roots by the link", len(got))
	}
	publish(cert("two", k2, stranger, k3))
	if got := linked(dir, []*x509.Certificate{first}); len(got) != 1 || !got[0].Equal(first) {
		t.Errorf("%d roots by a stranger's link", len(got))
	}
	if err := os.WriteFile(filepath.Join(dir, "trust.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := linked(dir, []*x509.Certificate{first}); len(got) != 0 {
		t.Errorf("%d roots by a damaged bundle", len(got))
	}
}
