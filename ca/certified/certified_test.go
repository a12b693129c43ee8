package certified

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/verifier/verifiertest"
)

var now = time.Date(2026, 11, 23, 18, 47, 50, 123456789, time.UTC)

func TestChains(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s, other := a.NewSigner(t, "one", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0)), a.NewSigner(t, "two", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	good := ledger.Key{ID: "ds-1", Purpose: policy.PurposeMDoc, Algorithm: "ES256", SPKI: s.Leaf.RawSubjectPublicKeyInfo, Chain: [][]byte{s.Leaf.Raw}}
	k, err := New(good)
	if err != nil || !k.Valid() || !k.Is(good) || !k.NotAfter().Equal(s.Leaf.NotAfter) {
		t.Fatal(err)
	}
	if (&Key{Key: good}).Valid() || (*Key)(nil).Valid() {
		t.Error("a key that nobody checked is valid")
	}
	for name, change := range map[string]func(*ledger.Key){
		"no chain":              func(k *ledger.Key) { k.Chain = nil },
		"anchor in the chain":   func(k *ledger.Key) { k.Chain = [][]byte{s.Leaf.Raw, a.Root.Raw} },
		"another signer's leaf": func(k *ledger.Key) { k.Chain = [][]byte{other.Leaf.Raw} },
		"another pinned key":    func(k *ledger.Key) { k.SPKI = other.Leaf.RawSubjectPublicKeyInfo },
		"no certificate":        func(k *ledger.Key) { k.Chain = [][]byte{{0x30}} },
	} {
		bad := good
		change(&bad)
		if _, err := New(bad); err == nil {
			t.Errorf("%s: taken", name)
		}
		if k.Is(bad) {
			t.Errorf("%s: the key that was checked before is taken for it", name)
		}
	}
	renewed := good
	renewed.Purpose = policy.PurposeSDJWT
	if k.Is(renewed) {
		t.Error("a key of another purpose is taken for it")
	}
}

// What was drafted before is drafted again by a retry: the values are those of HKDF.
func TestStreamIsHKDF(t *testing.T) {
	seed := [32]byte{1, 2, 3}
	prk, err := hkdf.Extract(sha256.New, seed[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	const name = "홍 \"/\x00\xff"
	s := NewStream(seed, "mdoc", 7)
	for range 2 {
		for n := 1; n <= 32; n++ {
			for label, got := range map[string]func() []byte{
				`random/"a"/3`:               func() []byte { return s.Nth(3, n, "random", "a") },
				`decoy/0`:                    func() []byte { return s.Nth(0, n, "decoy") },
				fmt.Sprintf("salt/%q", name): func() []byte { return s.Bytes(n, "salt", name) },
				`random/"a"/"b"`:             func() []byte { return s.Bytes(n, "random", "a", "b") },
			} {
				want, err := hkdf.Expand(sha256.New, prk, "sealkeeper/v1/mdoc/7/"+label, n)
				if got := got(); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%s: %x instead of %x", label, got, want)
				}
			}
		}
	}
}

// What a draft put together is not what the next one begins with, nor what stands behind it in the same memory; nor does a large card stay.
func TestRoomIsLeftEmpty(t *testing.T) {
	r := TakeRoom()
	r.Parts[0] = append(r.Parts[0], "홍길동"...)
	r.Parts[1] = append(r.Parts[1], bytes.Repeat([]byte("portrait"), largestKept)...)
	r.Parts[2] = append(r.Parts[2], "900101-1234567"...)[:2]
	r.Leave()
	for i, b := range r.Parts {
		if len(b) != 0 || cap(b) > largestKept || len(bytes.Trim(b[:cap(b)], "\x00")) != 0 {
			t.Errorf("part %d has %q", i, b[:cap(b)])
		}
	}
}
