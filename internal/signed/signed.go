// Package signed is data with signatures: a JSON payload, and who stands for it. What is signed is the payload's RFC 8785 form, so that
// layout and order of members mean nothing, behind the name of what kind of data it is, so that a signature for one is none for another.
//
// It says whose signatures are there and good. Whether these are enough, and what the payload means, is for others to say.
package signed

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/ecsig"
	"sealkeeper/internal/strict"
)

// domain is what every signed text begins with; the kind and the payload follow.
const domain = "sealkeeper/v1/signed"

// MaxSignatures of one envelope.
const MaxSignatures = 32

// Room is what an envelope adds to its payload at most, in bytes and in depth.
const (
	Room  = 16 << 10
	Depth = 1
)

// Envelope is the file as written.
type Envelope struct {
	Payload    jsontext.Value `json:"payload"`
	Signatures []Signature    `json:"signatures"`
}

// Signature by one key.
type Signature struct {
	Key   string `json:"kid"`
	Value string `json:"sig"` // base64url; of ECDSA keys r and s of full length, as in a JWS
}

// Key may sign.
type Key struct {
	ID     string // kid
	Public crypto.PublicKey
}

// Error is a signature that should not be there.
type Error struct{ Key, What string }

func (e *Error) Error() string { return fmt.Sprintf("the signature by %q: %s", e.Key, e.What) }

var keyForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:+-]{0,63}$`)

// GoodKeyID says whether a text can name a key.
func GoodKeyID(id string) bool { return keyForm.MatchString(id) }

// Is says whether a document looks like an envelope: its first member is one of the two, and it has no others.
func Is(data []byte) bool {
	d := jsontext.NewDecoder(bytes.NewBuffer(data))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return false
	}
	name, err := d.ReadToken()
	return err == nil && (name.String() == "payload" || name.String() == "signatures")
}

// Parse reads an envelope strictly. The limits are the payload's.
func Parse(data []byte, l strict.Limits) (*Envelope, error) {
	var e Envelope
	if err := strict.JSON(data, strict.Limits{Bytes: l.Bytes + Room, Depth: l.Depth + Depth}, &e); err != nil {
		return nil, err
	}
	switch {
	case e.Payload.Kind() != '{':
		return nil, errors.New("payload is missing or no object")
	case len(e.Signatures) == 0:
		return nil, errors.New("signatures is missing or empty: leave the envelope out, or sign it")
	case len(e.Signatures) > MaxSignatures:
		return nil, fmt.Errorf("there are %d signatures, at most %d are allowed", len(e.Signatures), MaxSignatures)
	}
	for i, s := range e.Signatures {
		switch {
		case !GoodKeyID(s.Key):
			return nil, &Error{s.Key, "this is no kid: use 1 to 64 letters, digits and _.:+-"}
		case slices.ContainsFunc(e.Signatures[:i], func(o Signature) bool { return o.Key == s.Key }):
			return nil, &Error{s.Key, "it is there twice"}
		case decode(s.Value) == nil:
			return nil, &Error{s.Key, "it is not canonical unpadded base64url"}
		}
	}
	return &e, nil
}

// Canonical is the RFC 8785 form of a JSON text.
func Canonical(payload []byte) ([]byte, error) {
	// This is Value.Canonicalize, into room that is enough: that would make room four times.
	form := bytes.NewBuffer(make([]byte, 0, len(payload)+len(payload)/4+64)) // an encoder wants a quarter to be left
	e := jsontext.NewEncoder(form, jsontext.CanonicalizeRawInts(true), jsontext.CanonicalizeRawFloats(true), jsontext.ReorderRawObjects(true))
	if err := e.WriteValue(payload); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(form.Bytes(), []byte("\n")), nil
}

func decode(s string) []byte {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil
	}
	return b
}

// By says which of the keys signed the payload as data of this kind. Signatures by keys that are not known count for nothing; a bad one by a
// known key is an error, because it is a mistake or an attack. Two kids of the same key are one signer, named by the first.
func (e *Envelope) By(kind string, keys []Key) (ids []string, err error) {
	text, err := input(kind, e.Payload)
	if err != nil {
		return nil, err
	}
	var seen []crypto.PublicKey
	for _, s := range e.Signatures {
		i := slices.IndexFunc(keys, func(k Key) bool { return k.ID == s.Key })
		if i < 0 {
			continue
		}
		public := keys[i].Public
		if !verify(public, text, decode(s.Value)) {
			return nil, &Error{s.Key, "it does not verify: the payload was changed after signing, or another key made it"}
		}
		if !slices.ContainsFunc(seen, func(o crypto.PublicKey) bool { return Same(o, public) }) {
			seen, ids = append(seen, public), append(ids, s.Key)
		}
	}
	return ids, nil
}

// Same says whether two public keys are one.
func Same(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// Algorithm of a key's signatures; empty for keys that can't sign.
func Algorithm(public crypto.PublicKey) string {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return "ES256"
		case elliptic.P384():
			return "ES384"
		}
	case ed25519.PublicKey:
		return "EdDSA"
	}
	return ""
}

func input(kind string, payload []byte) ([]byte, error) {
	canonical, err := Canonical(payload)
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte(domain), []byte{0}, []byte(kind), []byte{0}, canonical), nil
}

// digest of an ECDSA key's curve, and the length of a coordinate.
func digest(curve elliptic.Curve, text []byte) ([]byte, int) {
	if curve == elliptic.P256() {
		d := sha256.Sum256(text)
		return d[:], 32
	}
	d := sha512.Sum384(text)
	return d[:], 48
}

func verify(public crypto.PublicKey, text, signature []byte) bool {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if Algorithm(k) == "" {
			return false
		}
		d, _ := digest(k.Curve, text)
		return ecsig.Verify(k, d, signature)
	case ed25519.PublicKey:
		return len(signature) == ed25519.SignatureSize && ed25519.Verify(k, text, signature)
	}
	return false
}

// Sign gives a document one more signature; it may be an envelope, or a payload alone. One by the same kid is replaced. The payload stays as
// it is written.
func Sign(data []byte, l strict.Limits, kind, id string, key crypto.Signer, random io.Reader) ([]byte, error) {
	e := &Envelope{Payload: bytes.TrimSpace(data)}
	if Is(data) {
		var err error
		if e, err = Parse(data, l); err != nil {
			return nil, err
		}
	}
	if !GoodKeyID(id) {
		return nil, &Error{id, "this is no kid: use 1 to 64 letters, digits and _.:+-"}
	}
	text, err := input(kind, e.Payload)
	if err != nil {
		return nil, err
	}
	signature, err := sign(key, text, random)
	if err != nil {
		return nil, err
	}
	e.Signatures = slices.DeleteFunc(e.Signatures, func(s Signature) bool { return s.Key == id })
	e.Signatures = append(e.Signatures, Signature{Key: id, Value: base64.RawURLEncoding.EncodeToString(signature)})
	slices.SortFunc(e.Signatures, func(a, b Signature) int { return strings.Compare(a.Key, b.Key) })
	list, err := json.Marshal(e.Signatures, jsontext.WithIndentPrefix("  "), jsontext.WithIndent("  "))
	if err != nil {
		return nil, err
	}
	// Not encoded again: lines of a payload that people edit and review stay as they are.
	return slices.Concat([]byte("{\n  \"payload\": "), e.Payload, []byte(",\n  \"signatures\": "), list, []byte("\n}\n")), nil
}

func sign(key crypto.Signer, text []byte, random io.Reader) ([]byte, error) {
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		if Algorithm(k) == "" {
			break
		}
		d, n := digest(k.Curve, text)
		der, err := key.Sign(random, d, map[int]crypto.Hash{32: crypto.SHA256, 48: crypto.SHA384}[n])
		if err != nil {
			return nil, err
		}
		var rs struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) > 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.BitLen() > 8*n || rs.S.BitLen() > 8*n {
			return nil, errors.New("the key made something that is no ECDSA signature")
		}
		return slices.Concat(rs.R.FillBytes(make([]byte, n)), rs.S.FillBytes(make([]byte, n))), nil
	case ed25519.PublicKey:
		return key.Sign(random, text, crypto.Hash(0))
	}
	return nil, errors.New("only keys on P-256, P-384 and Ed25519 sign")
}
