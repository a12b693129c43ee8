package ledger

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"sealkeeper/policy"
)

// A ledger of before a compromise takes in what the root's published list says: the key is active, and signs nothing more with a certificate that is revoked,
// also not what was reserved before, and also after a restart. A hold stands against no key.
func TestKeyOfARevokedCertificateSignsNothing(t *testing.T) {
	h := newHouse(t)
	ctx, serial := t.Context(), append([]byte{0x40, 7}, make([]byte, 18)...)
	h.key("iaca-1", policy.PurposeIACA)
	k := h.key("ds-1", policy.PurposeMDoc)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(serial), NotAfter: noon.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	must(t, err)
	k.Chain = [][]byte{der}
	must(t, h.PutKey(ctx, k))
	reserve := func() (*Reservation, error) {
		a, d := policy.DecideSelftest(nil, "ds-1", policy.PurposeMDoc, true, time.Time{}, noon)
		if a == nil {
			t.Fatal(d)
		}
		return h.Reserve(ctx, a, []Draft{{KeyID: "ds-1", Purpose: policy.PurposeMDoc, TBSHash: sha256.Sum256([]byte("tbs"))}}, nil)
	}
	published := func(reason policy.RevocationReason) {
		t.Helper()
		must(t, h.AdoptRevocations(ctx, "iaca", []Revocation{{Serial: serial, CA: "iaca-1", CRL: "iaca", Reason: reason, At: noon, NotAfter: noon.AddDate(9, 0, 0)}}))
	}
	published(policy.CertificateHold)
	if _, err := reserve(); err != nil || !h.Finishes(k) {
		t.Fatal(err)
	}
	published(policy.Unspecified)
	for range 2 {
		_, err := reserve()
		refused(t, err, KeyInactive)
		if r, is := h.Withdrawn("ds-1"); !is || !r.At.Equal(noon) || h.Finishes(k) {
			t.Errorf("%+v, finishes: %t", r, h.Finishes(k))
		}
		if _, is := h.Withdrawn("iaca-1"); is {
			t.Error("so is a key whose certificate nobody revoked")
		}
		h.again()
	}
}
