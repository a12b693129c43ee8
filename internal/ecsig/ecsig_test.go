package ecsig

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

type pair struct{ R, S *big.Int }

// What is verified are the two numbers, in the one form that DER has for them.
func TestForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom([]int{32, 48}).Draw(t, "size")
		number := func(name string) []byte {
			zeros := rapid.IntRange(0, n).Draw(t, "zeros of "+name)
			return append(make([]byte, zeros), rapid.SliceOfN(rapid.Byte(), n-zeros, n-zeros).Draw(t, name)...)
		}
		r, s := number("r"), number("s")
		want, err := asn1.Marshal(pair{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)})
		if got := der(append(bytes.Clone(r), s...)); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%x instead of %x (%v)", got, want, err)
		}
	})
}

// The answer is that of the standard library for the numbers, also for those that no signature has.
func TestVerify(t *testing.T) {
	digest := sha256.Sum256([]byte("signed"))
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		n := curve.Params().BitSize / 8
		order := curve.Params().N.FillBytes(make([]byte, n))
		for range 5 {
			r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
			if err != nil {
				t.Fatal(err)
			}
			raw := append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)
			if !Verify(&key.PublicKey, digest[:], raw) {
				t.Fatalf("%s: %x is not accepted", curve.Params().Name, raw)
			}
			twin := append(bytes.Clone(raw[:n]), new(big.Int).Sub(curve.Params().N, s).FillBytes(make([]byte, n))...)
			flipped := bytes.Clone(raw)
			flipped[len(raw)/3] ^= 4
			for _, other := range [][]byte{twin, flipped, make([]byte, 2*n), append(make([]byte, n), raw[n:]...), append(bytes.Clone(raw[:n]), make([]byte, n)...),
				append(bytes.Clone(order), raw[n:]...), append(bytes.Clone(raw[:n]), order...), bytes.Repeat([]byte{0xff}, 2*n)} {
				want := ecdsa.Verify(&key.PublicKey, digest[:], new(big.Int).SetBytes(other[:n]), new(big.Int).SetBytes(other[n:]))
				if got := Verify(&key.PublicKey, digest[:], other); got != want {
					t.Errorf("%s: %x: %v", curve.Params().Name, other, got)
				}
			}
			for _, short := range [][]byte{nil, raw[:n], raw[:2*n-1], append(bytes.Clone(raw), 0), der(raw)} {
				if Verify(&key.PublicKey, digest[:], short) {
					t.Errorf("%s: %d bytes are accepted", curve.Params().Name, len(short))
				}
			}
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 64, 96, 132} {
		if Verify(&other.PublicKey, digest[:], make([]byte, size)) {
			t.Error("a curve that is not known here is accepted")
		}
	}
}
