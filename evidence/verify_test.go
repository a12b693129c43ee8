package evidence_test

import (
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/tests/phone"
)

const audience = "https://issuer.example.org"

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// world is one appliance, one wallet provider and one phone with two keys.
type world struct {
	provider *phone.Provider
	trust    evidence.Trust
	verifier *evidence.Verifier
	phone    *phone.Phone
	nonces   byte
}

func newWorld(t testing.TB) *world {
	w := &world{provider: provider(t, phone.Bend{}), phone: newPhone(t, phone.New, 2)}
	w.trust = evidence.Trust{
		WalletProviders: []*x509.Certificate{w.provider.Anchor()}, NonceKey: [32]byte{1, 2, 3}, NonceLife: 5 * time.Minute,
		AttestationAge: 24 * time.Hour, Skew: time.Minute, MaxKeys: 4,
	}
	w.verifier = evidence.NewVerifier(w.trust)
	return w
}

func provider(t testing.TB, b phone.Bend) *phone.Provider {
	t.Helper()
	p, err := phone.NewBentProvider(now, rand.Reader, b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newPhone(t testing.TB, kind func(int) (*phone.Phone, error), keys int) *phone.Phone {
	t.Helper()
	p, err := kind(keys)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func about() evidence.About {
	return evidence.About{Client: "office-17", DocumentType: "mrc", Audience: audience, At: now}
}

// nonce is a fresh nonce for about.
func (w *world) nonce() string {
	w.nonces++
	n, _ := w.verifier.Nonce("office-17", "mrc", now.Add(-time.Second), [16]byte{w.nonces})
	return n
}

// good is a request that must be accepted.
func (w *world) good() evidence.Bundle {
	nonce := w.nonce()
	return evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, w.phone.Attest(w.provider, nonce, now))}
}
func TestGood(t *testing.T) {
	w := newWorld(t)
	_, err := w.verifier.Verify(about(), w.good())
	if err != nil {
		t.Fatal(err)
	}
}

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	good := w.good()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.verifier.Verify(about(), good); err != nil {
			b.Fatal(err)
		}
	}
}
