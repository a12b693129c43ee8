package release

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"math/big"
	"strings"
	"testing"

	"sealkeeper/ledger"
)

func mustPin(t *testing.T, algorithm string, public crypto.PublicKey) *pin {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPin(ledger.Key{ID: "k", Algorithm: algorithm, SPKI: spki})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ecSign(t *testing.T, k *ecdsa.PrivateKey, tbs []byte) []byte {
	t.Helper()
	h := sha256.New()
	if k.Curve == elliptic.P384() {
		h = sha512.New384()
	}
	h.Write(tbs)
	r, s, err := ecdsa.Sign(rand.Reader, k, h.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	size := k.Params().BitSize / 8
	raw := make([]byte, 2*size)
	r.FillBytes(raw[:size])
	s.FillBytes(raw[size:])
	return raw
}

// F13: every way in which a signature can be wrong, for each algorithm.
func TestOnlyGoodSignaturesVerify(t *testing.T) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	other256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	other384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	edPublic, ed, _ := ed25519.GenerateKey(rand.Reader)
	_, otherEd, _ := ed25519.GenerateKey(rand.Reader)
	tbs := []byte("the exact bytes")
	hash := sha256.Sum256(tbs)
	for algorithm, c := range map[string]struct {
		public crypto.PublicKey
		sign   func(tbs []byte) []byte
		swap   func(tbs []byte) []byte
	}{
		"ES256": {p256.Public(), func(b []byte) []byte { return ecSign(t, p256, b) }, func(b []byte) []byte { return ecSign(t, other256, b) }},
		"ES384": {p384.Public(), func(b []byte) []byte { return ecSign(t, p384, b) }, func(b []byte) []byte { return ecSign(t, other384, b) }},
		"EdDSA": {edPublic, func(b []byte) []byte { return ed25519.Sign(ed, b) }, func(b []byte) []byte { return ed25519.Sign(otherEd, b) }},
	} {
		t.Run(algorithm, func(t *testing.T) {
			p := mustPin(t, algorithm, c.public)
			good := c.sign(tbs)
			if err := p.verify(exactly(tbs), good); err != nil {
				t.Fatal(err)
			}
			for i := range 8 * len(good) {
				bad := bytes.Clone(good)
				bad[i/8] ^= 1 << (i % 8)
				if p.verify(exactly(tbs), bad) == nil {
					t.Errorf("bit %d was flipped and it verifies", i)
				}
			}
			half := len(good) / 2
			for what, bad := range map[string][]byte{
				"none": nil, "empty": {}, "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "leading zero": append([]byte{0}, good...),
				"zeros": make([]byte, len(good)), "r = 0": append(make([]byte, half), good[half:]...), "s = 0": append(bytes.Clone(good[:half]), make([]byte, half)...),
				"swapped key": c.swap(tbs), "other bytes": c.sign([]byte("the exact byteS")), "halves swapped": append(bytes.Clone(good[half:]), good[:half]...),
			} {
				if p.verify(exactly(tbs), bad) == nil {
					t.Errorf("%s: it verifies", what)
				}
			}
			if p.verify(exactly([]byte("the exact byteS")), good) == nil {
				t.Error("it verifies for other bytes")
			}
		})
	}
	t.Run("DER is not a raw signature", func(t *testing.T) {
		der, err := ecdsa.SignASN1(rand.Reader, p256, hash[:])
		if err != nil {
			t.Fatal(err)
		}
		if mustPin(t, "ES256", p256.Public()).verify(exactly(tbs), der) == nil {
			t.Error("it verifies")
		}
	})
}

func TestPinsAreOfTheirAlgorithm(t *testing.T) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	edPublic, _, _ := ed25519.GenerateKey(rand.Reader)
	for _, c := range []struct {
		algorithm string
		public    crypto.PublicKey
	}{{"ES256", p384.Public()}, {"ES384", p256.Public()}, {"EdDSA", p256.Public()}, {"ES256", edPublic}, {"ES512", p256.Public()}, {"", p256.Public()}} {
		spki, err := x509.MarshalPKIXPublicKey(c.public)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newPin(ledger.Key{ID: "k", Algorithm: c.algorithm, SPKI: spki}); err == nil || !strings.Contains(err.Error(), `key "k"`) {
			t.Errorf("%T for %q: %v", c.public, c.algorithm, err)
		}
	}
	if _, err := newPin(ledger.Key{ID: "k", Algorithm: "ES256", SPKI: []byte("not DER")}); err == nil {
		t.Error("garbage was pinned")
	}
}

// fixedNonce signs with k = 1/t mod n for a constant t: the valid signatures of a token whose random numbers stand still.
func fixedNonce(key *ecdsa.PrivateKey, tbs []byte) []byte {
	curve, n := key.Curve, key.Params().N
	k := big.NewInt(4711)
	//lint:ignore SA1019 the point is to sign as no library does
	x, _ := curve.ScalarBaseMult(k.Bytes())
	r := new(big.Int).Mod(x, n)
	h := sha256.Sum256(tbs)
	d, err := key.Bytes()
	if err != nil {
		panic(err)
	}
	s := new(big.Int).Mul(r, new(big.Int).SetBytes(d))
	s.Add(s, new(big.Int).SetBytes(h[:]))
	s.Mul(s, new(big.Int).ModInverse(k, n)).Mod(s, n)
	raw := make([]byte, 64)
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return raw
}

// F49: a token whose random numbers stand still is noticed at its second signature.
func TestRepeatedRandomNumbersAreRefused(t *testing.T) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p := mustPin(t, "ES256", key.Public())
	verify := func(tbs string) error {
		return p.verify(exactly([]byte(tbs)), fixedNonce(key, []byte(tbs)))
	}
	if err := verify("first"); err != nil {
		t.Fatal(err)
	}
	if err := verify("first"); err != nil {
		t.Errorf("the same signature again, as deterministic ECDSA makes it: %v", err)
	}
	for range 2 {
		if err := verify("second"); !errors.Is(err, errDuplicate) {
			t.Errorf("got %v", err)
		}
	}
}

func TestMemoryOfRIsBounded(t *testing.T) {
	p := &pin{seen: map[nonce][32]byte{}}
	number := func(i int) (n nonce) { binary.BigEndian.PutUint64(n[:], uint64(i)); return n }
	for i := range 3 * recent {
		if err := p.fresh(number(i), [32]byte{1}); err != nil {
			t.Fatal(err)
		}
		if len(p.seen) > recent {
			t.Fatalf("%d values are remembered", len(p.seen))
		}
	}
	if err := p.fresh(number(3*recent-1), [32]byte{2}); err != errDuplicate {
		t.Errorf("the newest value again: %v", err)
	}
	if err := p.fresh(number(2*recent), [32]byte{2}); err != errDuplicate {
		t.Errorf("the oldest value that is remembered again: %v", err)
	}
	if err := p.fresh(number(2*recent-1), [32]byte{2}); err != nil {
		t.Errorf("a value that is forgotten: %v", err)
	}
}
