package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"sealkeeper/contract"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// A ledger of before a compromise has the key in use, or about to be. What the root's list says of its certificate, or of a root's link, counts: it takes over from
// nobody, and nobody is told that it is good.
func TestWithdrawnKeysAreTakenForCompromised(t *testing.T) {
	l, c := emptyLedger(t)
	now := c.Now()
	a := &Authority{o: Options{Ledger: l, Clock: c, Guard: clock.NewGuard(c, time.Time{}, time.Hour, true), Log: slog.New(slog.DiscardHandler), Metrics: metrics.New(), BaseURL: "https://x.example"}}
	a.public.init()
	certificate := func(serial int64) []byte {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: now, NotAfter: now.Add(24 * time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	keys := map[string]ledger.Key{}
	for i, k := range []ledger.Key{
		{ID: "vc-1", Purpose: policy.PurposeSDJWT, State: ledger.KeyActive},
		{ID: "vc-2", Purpose: policy.PurposeSDJWT, State: ledger.KeyAnnounced},
		{ID: "iaca-1", Purpose: policy.PurposeIACA, State: ledger.KeyActive},
		{ID: "iaca-2", Purpose: policy.PurposeIACA, State: ledger.KeyAnnounced, Link: certificate(102)},
	} {
		k.Token, k.Algorithm, k.CKAID, k.SPKI, k.NotBefore, k.NotAfter, k.Chain = "online", "ES256", []byte(k.ID), []byte(k.ID), now, now.Add(time.Hour), [][]byte{certificate(int64(i + 1))}
		if err := l.PutKey(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		keys[k.ID] = k
	}
	want := func(when string, withdrawn ...string) {
		t.Helper()
		for id, k := range keys {
			is := false
			for _, w := range withdrawn {
				is = is || w == id
			}
			if got := a.withdrawn(k); got != is {
				t.Errorf("%s: %s is withdrawn: %v", when, id, got)
			}
		}
		if err := a.shelveCertificates(t.Context()); err != nil {
			t.Fatal(err)
		}
		var trust contract.TrustBundle
		if err := json.Unmarshal(a.public.objects["trust.json"].Bytes, &trust); err != nil {
			t.Fatal(err)
		}
		compromised := 0
		for _, k := range trust.Keys {
			if k.State == string(ledger.KeyCompromised) {
				compromised++
				if k.ID != "vc-2" {
					t.Errorf("%s: %s is told to be compromised", when, k.ID)
				}
			}
		}
		meta := string(a.public.objects[".well-known/jwt-vc-issuer"].Bytes)
		if gone := len(withdrawn) > 0; !strings.Contains(meta, `"vc-1"`) || strings.Contains(meta, `"vc-2"`) == gone || (compromised == 1) != gone {
			t.Errorf("%s: %d keys are told to be compromised, and the issuer's are %s", when, compromised, meta)
		}
	}
	want("before")
	for _, serial := range []int64{2, 102} {
		if err := l.AdoptRevocations(t.Context(), "iaca", []ledger.Revocation{{Serial: pad(big.NewInt(serial).Bytes()), CA: "iaca-1", CRL: "iaca", Reason: policy.KeyCompromise, At: now, NotAfter: now.AddDate(9, 0, 0)}}); err != nil {
			t.Fatal(err)
		}
	}
	want("after", "vc-2", "iaca-2")
}
