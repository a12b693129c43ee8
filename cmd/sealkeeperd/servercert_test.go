package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"os"
	"testing"
	"time"

	"sealkeeper/internal/config"
)

// Another certificate is due at two thirds of its life, and at once if it begins later than now: the wall that dated it was wrong.
func TestWhenTheServersCertificateIsDue(t *testing.T) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	leaf := &x509.Certificate{NotBefore: from, NotAfter: from.Add(90 * time.Hour)}
	for after, want := range map[time.Duration]time.Duration{0: 60 * time.Hour, 59 * time.Hour: time.Hour, 60 * time.Hour: 0, 61 * time.Hour: -time.Hour, -time.Second: 0, -70 * 24 * time.Hour: 0} {
		if wait := untilRenewal(leaf, from.Add(after)); wait != want {
			t.Errorf("%v after its begin it is due in %v, want %v", after, wait, want)
		}
	}
}

// A renewal that was interrupted between certificate and key is ended before the next one begins, which needs the file that the key waits in.
func TestARenewalAfterOneThatWasInterrupted(t *testing.T) {
	c := &config.Config{Data: t.TempDir(), Hosts: []string{"localhost"}, TLSLife: time.Hour}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(c.TLSDir(), 0o700))
	none := func(*x509.Certificate) ([]byte, bool) { return nil, true }
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	certify := func(_ context.Context, _ string, spki []byte, hosts []string, life time.Duration) ([]byte, error) {
		public, err := x509.ParsePKIXPublicKey(spki)
		must(err)
		return x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(life), DNSNames: hosts}, &x509.Certificate{SerialNumber: big.NewInt(1)}, public, issuer)
	}
	must(enrolServer(t.Context(), c, certify, none))
	before, err := os.ReadFile(c.ServerKey())
	must(err)
	must(enrolServer(t.Context(), c, certify, none))
	must(os.Rename(c.ServerKey(), nextKey(c)))
	must(os.WriteFile(c.ServerKey(), before, 0o600)) // as if it had been killed there
	_, err = serverCertificate(c)
	must(err)
	gone := errors.New("killed")
	if err := enrolServer(t.Context(), c, func(context.Context, string, []byte, []string, time.Duration) ([]byte, error) { return nil, gone }, none); !errors.Is(err, gone) {
		t.Fatal(err)
	}
	if _, err := tls.LoadX509KeyPair(c.ServerCert(), c.ServerKey()); err != nil {
		t.Errorf("when the next key is written the last one is in no other file: %v", err)
	}
	must(enrolServer(t.Context(), c, certify, none))
	if _, err := os.Stat(nextKey(c)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key waits: %v", err)
	}
}
