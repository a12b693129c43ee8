package evidence_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"sealkeeper/evidence"
	"sealkeeper/internal/fuzzing"
)

// believed says whether what was accepted is what somebody with the key made: one of the good ones, or what was signed last.
type believed struct{ good, last string }

// by signs header and payload of an input again.
func (b *believed) by(key *ecdsa.PrivateKey, input []byte) []byte {
	parts := strings.SplitN(string(input), ".", 3)
	if len(parts) < 2 {
		return input
	}
	b.last = parts[0] + "." + parts[1]
	sum := sha256.Sum256([]byte(b.last))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return input
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return []byte(b.last + "." + base64.RawURLEncoding.EncodeToString(sig))
}

func (b *believed) may(token string) bool {
	part := signedPart(token)
	return part == b.last || strings.Contains(b.good, "\n"+part+"\n")
}

func signedPart(token string) string { return token[:max(0, strings.LastIndexByte(token, '.'))] }

func FuzzStatement(f *testing.F) {
	w, a := newFullWorld(f)
	about, b, _ := w.full(f, a, person)
	var seeds [][]byte
	made := believed{good: "\n"}
	for _, item := range b.Items {
		seeds = append(seeds, []byte(item.Kind+"\n"+item.Token))
		made.good += signedPart(item.Token) + "\n"
	}
	o := fuzzing.Options{Repair: func(in []byte) []byte {
		kind, token, _ := bytes.Cut(in, []byte("\n"))
		key := a.keys[string(kind)]
		if key == nil {
			return in
		}
		return slices.Concat(kind, []byte("\n"), made.by(key, token))
	}}
	fuzzing.Run(f, o, seeds, func(t *testing.T, in []byte) bool {
		kind, token, _ := strings.Cut(string(in), "\n")
		bent := b
		bent.Items = []evidence.Item{{Kind: kind, Token: token}}
		v, err := w.verifier.Verify(about, bent)
		if err == nil && !made.may(token) {
			t.Errorf("a statement was believed that nobody made: %s", token)
		}
		if (err == nil) != v.Valid() {
			t.Error("valid and refused at once")
		}
		return err == nil
	})
}

func FuzzSession(f *testing.F) {
	w, _ := newFullWorld(f)
	_, text := w.session(f, person, w.nonce())
	fuzzing.Run(f, fuzzing.Options{}, fuzzing.Strings(text, ""), func(t *testing.T, in []byte) bool {
		o, err := w.verifier.Open("office-17", "mrc", string(in))
		if (err == nil) != (string(in) == text) || (err == nil) != o.Valid() {
			t.Errorf("%q: %v", in, err)
		}
		return err == nil
	})
}

func FuzzLineEvent(f *testing.F) {
	v, sign, key := newCarrierKey(f)
	good := sign(nil, nil)
	made := believed{good: "\n" + signedPart(good) + "\n"}
	o := fuzzing.Options{Repair: func(in []byte) []byte { return made.by(key, in) }}
	seeds := fuzzing.Strings(good, sign(nil, map[string]any{"seq": -1}), sign(map[string]any{"typ": "x"}, nil))
	fuzzing.Run(f, o, seeds, func(t *testing.T, in []byte) bool {
		e, err := v.LineEvent("telecom-a", now, string(in))
		if (err == nil) != e.Valid() {
			t.Error("valid and refused at once")
		}
		if err == nil && !made.may(string(in)) {
			t.Errorf("an event was believed that nobody made: %s", in)
		}
		return err == nil
	})
}
