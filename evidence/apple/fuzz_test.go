package apple

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"sealkeeper/internal/fuzzing"
)

func explained() map[string]bool {
	m := map[string]bool{}
	for _, c := range Codes {
		m[c.Code] = true
	}
	return m
}

func FuzzVerify(f *testing.F) {
	a2, _, r2 := vectors(f, "ios-14.2.yaml")
	a3, _, _ := vectors(f, "ios-14.3.yaml")
	known, trust, rules, want := explained(), Trust{Root: Root()}, rulesOf(a3), a3.want()
	seeds := [][]byte{b64(a3.Attestation), b64(a2.Attestation), r2[0]}
	fuzzing.Run(f, fuzzing.Options{Longest: 2 * maxObject}, seeds, func(t *testing.T, object []byte) bool {
		a, err := Verify(object, want, trust, rules)
		if err != nil {
			if r, ok := err.(*Refusal); !ok || !known[r.Code()] || a != nil {
				t.Errorf("%v, %v", a, err)
			}
			return false
		}
		// Only the receipt, the order of members and the writing of CBOR are not under the nonce or a signature.
		if a.ID() != want.KeyID || a.Name() != a3.Team+"."+a3.Bundle || a.Counter() != 0 {
			t.Errorf("%+v", a)
		}
		if again, err := Recall(a.Record()); err != nil || again.ID() != a.ID() {
			t.Error(err)
		}
		return true
	})
}

func FuzzAssert(f *testing.F) {
	att, ass, _ := vectors(f, "ios-14.3.yaml")
	_, other, _ := vectors(f, "ios-14.2.yaml")
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{1}, 32))
	if err != nil {
		f.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	known, hash := explained(), ass.want().ClientDataHash
	name := att.Team + "." + att.Bundle
	app := &App{name: name, counter: 7, point: point}
	sign := func(input []byte) []byte { // the signature over whatever authenticatorData the input has
		var o struct {
			Signature []byte `cbor:"signature"`
			AuthData  []byte `cbor:"authenticatorData"`
		}
		if cbor.Unmarshal(input, &o) != nil {
			return input
		}
		n := nonce(o.AuthData, hash)
		digest := sha256.Sum256(n[:])
		if o.Signature, err = ecdsa.SignASN1(rand.Reader, key, digest[:]); err != nil {
			return input
		}
		b, err := cbor.Marshal(o)
		if err != nil {
			return input
		}
		return b
	}
	later := b64(ass.Assertion)
	later[len(later)-1] = 8 // the counter is last
	seeds := [][]byte{b64(ass.Assertion), b64(other.Assertion), sign(b64(ass.Assertion)), sign(later)}
	fuzzing.Run(f, fuzzing.Options{Repair: sign, Longest: 2 * maxAssertion}, seeds, func(t *testing.T, assertion []byte) bool {
		next, err := app.Assert(assertion, hash)
		if err != nil {
			if r, ok := err.(*Refusal); !ok || !known[r.Code()] || next != nil {
				t.Errorf("%v, %v", next, err)
			}
			return false
		}
		if next.Counter() <= 7 || next.ID() != app.ID() || !bytes.Contains(assertion, binary.BigEndian.AppendUint32(nil, next.Counter())) {
			t.Errorf("%+v", next)
		}
		return true
	})
}

func FuzzRecall(f *testing.F) {
	att, _, _ := vectors(f, "ios-14.3.yaml")
	a, err := Verify(b64(att.Attestation), att.want(), Trust{Root: Root()}, rulesOf(att))
	if err != nil {
		f.Fatal(err)
	}
	fuzzing.Run(f, fuzzing.Options{}, [][]byte{a.Record(), {1}}, func(t *testing.T, record []byte) bool {
		a, err := Recall(record)
		if err == nil && !bytes.Equal(a.Record(), record) {
			t.Errorf("%x came out as %x", record, a.Record())
		}
		return err == nil
	})
}
