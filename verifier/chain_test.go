package verifier

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"
)

// No key below the root is used that is neither EC nor Ed25519, even where the chain is good: the keys of a chain are anybody's until it is
// shown to lead to a root, and one of RSA costs as much as whoever chose it wants. Roots are the verifier's own.
func TestKeysOfChains(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ec := func() crypto.Signer {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	_, ed, err1 := ed25519.GenerateKey(rand.Reader)
	modulus, err2 := rsa.GenerateKey(rand.Reader, 2048)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	certify := func(name string, key crypto.Signer, by *x509.Certificate, with crypto.Signer, ca bool) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0),
			KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, IsCA: ca}
		if ca {
			c.KeyUsage = x509.KeyUsageCertSign
		}
		if by == nil {
			by = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), with)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, x := range map[string]struct {
		root, between, leaf crypto.Signer
		refused             string
	}{
		"EC":                       {ec(), ec(), ec(), ""},
		"Ed25519":                  {ec(), ed, ed, ""},
		"RSA between":              {ec(), modulus, ec(), "certificate 1 of the signer's chain has a key that is neither EC nor Ed25519"},
		"RSA at the signer":        {ec(), ec(), modulus, "certificate 0 of the signer's chain has a key that is neither EC nor Ed25519"},
		"RSA at the root, its own": {modulus, ec(), ec(), ""},
	} {
		root := certify("root", x.root, nil, x.root, true)
		between := certify("between", x.between, root, x.root, true)
		leaf := certify("leaf", x.leaf, between, x.between, false)
		_, err := checkChain([][]byte{leaf.Raw, between.Raw}, []*x509.Certificate{root}, now)
		if (err == nil) != (x.refused == "") || err != nil && !strings.Contains(err.Error(), x.refused) {
			t.Errorf("%s: %v, want %q", name, err, x.refused)
		}
	}
}
