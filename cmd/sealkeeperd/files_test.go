package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/internal/signed"
)

func pemSeeds(f *testing.F) [][]byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		f.Fatal(err)
	}
	year := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cert, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: year, NotAfter: year.AddDate(1, 0, 0)},
		&x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	return [][]byte{public, one, slices.Concat(one, public, one), []byte("text before\n" + string(one)),
		[]byte(`{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`)}
}

// FuzzAnchors: files of trust anchors that a configuration names.
func FuzzAnchors(f *testing.F) {
	fuzzing.Run(f, fuzzing.Options{}, pemSeeds(f), func(t *testing.T, data []byte) bool {
		certs, err := anchors(data)
		if (err == nil) != (len(certs) > 0) || slices.Contains(certs, nil) {
			t.Errorf("%d certificates with %v", len(certs), err)
		}
		return err == nil
	})
}

// FuzzPolicyKey: files of the keys that sign policies. A key that is taken has an algorithm.
func FuzzPolicyKey(f *testing.F) {
	fuzzing.Run(f, fuzzing.Options{}, pemSeeds(f), func(t *testing.T, data []byte) bool {
		public, err := policyKey(data)
		if err == nil && signed.Algorithm(public) == "" {
			t.Errorf("taken: %T", public)
		}
		return err == nil
	})
}
