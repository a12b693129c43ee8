package worker

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"testing"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/signer/wire"
)

// FuzzPublicKey: CKA_EC_POINT as a token may give it. What is taken is a key of the algorithm, with the point that stood there.
func FuzzPublicKey(f *testing.F) {
	var seeds [][]byte
	add := func(point []byte) {
		wrapped, err := asn1.Marshal(point)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, point, wrapped)
	}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			f.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		add(point)
	}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	add(public)
	fuzzing.Run(f, fuzzing.Options{Longest: 4 << 10}, seeds, func(t *testing.T, point []byte) (taken bool) {
		for _, alg := range []string{wire.ES256, wire.ES384, wire.EdDSA} {
			spki, err := publicKey(alg, point)
			if err != nil {
				continue
			}
			taken = true
			key, err := x509.ParsePKIXPublicKey(spki)
			if err != nil {
				t.Fatalf("%s: %v", alg, err)
			}
			var again []byte
			switch k := key.(type) {
			case *ecdsa.PublicKey:
				if again, err = k.Bytes(); err != nil {
					t.Fatal(err)
				}
			case ed25519.PublicKey:
				again = k
			}
			if n := len(point) - len(again); n < 0 || string(point[n:]) != string(again) {
				t.Errorf("%s: the point %x became %x", alg, point, again)
			}
		}
		return taken
	})
}

// FuzzNumber: a CK_ULONG of any length. What is no CK_ULONG is no number that is used.
func FuzzNumber(f *testing.F) {
	fuzzing.Run(f, fuzzing.Options{Longest: 64}, [][]byte{nil, {1}, {3, 0, 0, 0, 0, 0, 0, 0}, {3, 0, 0, 0, 0, 0, 0, 0, 0}}, func(t *testing.T, b []byte) bool {
		if number(b) != ^uint(0) && len(b) != 8 {
			t.Errorf("%x is %d", b, number(b))
		}
		return len(b) == 8
	})
}
