// Package verifiertest makes a small issuing authority out of software keys, for tests of those who issue or verify credentials.
package verifiertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"testing"
	"time"
)

// DocumentSigner is the extended key usage of ISO/IEC 18013-5 B.3.
var DocumentSigner = asn1.ObjectIdentifier{1, 0, 18013, 5, 1, 2}

// Authority is a root.
type Authority struct {
	Root *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Signer is a key with its certificate.
type Signer struct {
	Algorithm string
	Leaf      *x509.Certificate
	key       crypto.Signer
}

// NewAuthority makes a root that is valid around the given instant.
func NewAuthority(t testing.TB, at time.Time) *Authority {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Country: []string{"UT"}, CommonName: "Test IACA"},
		NotBefore: at.AddDate(-1, 0, 0), NotAfter: at.AddDate(9, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		SubjectKeyId: keyID(&key.PublicKey),
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	return &Authority{Root: must(x509.ParseCertificate(der)), key: key}
}

// NewSigner makes a key and certificate for "ES256", "ES384" or "EdDSA", valid from notBefore until notAfter.
func (a *Authority) NewSigner(t testing.TB, name, algorithm string, notBefore, notAfter time.Time) *Signer {
	t.Helper()
	s := &Signer{Algorithm: algorithm, key: NewKey(t, algorithm)}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Country: []string{"UT"}, CommonName: name},
		NotBefore: notBefore, NotAfter: notAfter, KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: keyID(s.key.Public()),
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{DocumentSigner},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, a.Root, s.key.Public(), a.key))
	s.Leaf = must(x509.ParseCertificate(der))
	return s
}

// Sign returns a raw signature (r‖s or Ed25519), as an HSM does.
func (s *Signer) Sign(t testing.TB, message []byte) []byte {
	t.Helper()
	return Sign(s.key, message)
}

// NewKey makes a key for "ES256", "ES384" or "EdDSA".
func NewKey(t testing.TB, algorithm string) crypto.Signer {
	t.Helper()
	switch algorithm {
	case "ES256":
		return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	case "ES384":
		return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	case "EdDSA":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	t.Fatalf("algorithm %q", algorithm)
	return nil
}

// Sign returns a raw signature by any of NewKey's keys.
func Sign(key crypto.Signer, message []byte) []byte {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		digest, size := sha256.New(), 32
		if k.Curve == elliptic.P384() {
			digest, size = sha512.New384(), 48
		}
		digest.Write(message)
		r, s, err := ecdsa.Sign(rand.Reader, k, digest.Sum(nil))
		if err != nil {
			panic(err)
		}
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case ed25519.PrivateKey:
		return ed25519.Sign(k, message)
	}
	panic(fmt.Sprintf("no key of NewKey: %T", key))
}

func serial() *big.Int {
	return must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)))
}

// keyID is SHA-1 of the public key's bits (RFC 5280 4.2.1.2).
func keyID(key crypto.PublicKey) []byte {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(must(x509.MarshalPKIXPublicKey(key)), &info); err != nil {
		panic(err)
	}
	sum := sha1.Sum(info.Key.Bytes)
	return sum[:]
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
