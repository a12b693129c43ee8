package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/internal/clock"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// A published list that is ahead of the ledger fences it, also if another CA's, which is looked at before, has no list yet.
func TestEveryPublishedCRLIsCompared(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := ledger.Open(ctx, ledger.Options{Path: filepath.Join(dir, "ledger.db"), Clock: clock.NewFake(now)})
	must(err)
	defer l.Close()
	a := &Authority{o: Options{Ledger: l, Directory: dir, Log: slog.New(slog.DiscardHandler)}}
	for _, id := range []string{"client-ca-1", "client-ca-2"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: id}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(9, 0, 0),
			BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(id)}, &x509.Certificate{Subject: pkix.Name{CommonName: id}}, key.Public(), key)
		must(err)
		must(l.PutKey(ctx, ledger.Key{ID: id, Token: "online", Purpose: policy.PurposeClientCA, Algorithm: "ES256", CKAID: []byte(id), SPKI: []byte(id), State: ledger.KeyActive,
			NotBefore: now, NotAfter: now.AddDate(5, 0, 0), Chain: [][]byte{der}}))
		must(a.compareCRLs(ctx)) // nothing is published
		if id == "client-ca-1" {
			continue
		}
		ca, err := x509.ParseCertificate(der)
		must(err)
		list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: now, NextUpdate: now.AddDate(0, 0, 30)}, ca, key)
		must(err)
		must(os.MkdirAll(filepath.Join(dir, "crl"), 0o755))
		must(os.WriteFile(filepath.Join(dir, "crl", id+".crl"), list, 0o644))
	}
	var f *ledger.Fenced
	if err := a.compareCRLs(ctx); !errors.As(err, &f) || !strings.Contains(err.Error(), "the published CRL client-ca-2 has number 7 and the ledger 0") {
		t.Errorf("not fenced: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "crl", "client-ca-2.json")); err != nil || !strings.Contains(string(b), `"version":7`) {
		t.Errorf("beside the list: %s, %v", b, err)
	}
}
