// Package phone is a simulated phone and its wallet provider, for tests and for the demo.
//
// It is the only stand-in of the project, because a phone's secure chip can't be had in a test. Its keys are real, its formats are those
// of the wire (OpenID4VCI 1.0 D.1 and F.1), and it imports nothing of the appliance: what it makes is written from the specifications a
// second time. Options bend a token into every wrong variant that a test needs. It panics on its caller's mistakes.
package phone

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"time"
)

// Phone is one device with the private keys of its secure chip.
type Phone struct {
	keys []crypto.Signer
}

// New makes a phone with n keys on P-256.
func New(n int) (*Phone, error) {
	return newPhone(n, func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
}

// NewP384 makes a phone with n keys on P-384.
func NewP384(n int) (*Phone, error) {
	return newPhone(n, func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) })
}

// NewEd25519 makes a phone with n Ed25519 keys.
func NewEd25519(n int) (*Phone, error) {
	return newPhone(n, func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	})
}

func newPhone(n int, generate func() (crypto.Signer, error)) (*Phone, error) {
	p := &Phone{}
	for range n {
		key, err := generate()
		if err != nil {
			return nil, fmt.Errorf("make a phone's key: %w", err)
		}
		p.keys = append(p.keys, key)
	}
	return p, nil
}

// Len is the number of keys.
func (p *Phone) Len() int { return len(p.keys) }

// Attest asks the wallet provider for a key attestation (typ key-attestation+jwt) over all keys of the phone, valid for an hour from
// at, with the highest levels.
func (p *Phone) Attest(provider *Provider, nonce string, at time.Time, options ...Option) string {
	keys := make([]json.RawMessage, len(p.keys))
	for i := range keys {
		keys[i] = p.JWK(i)
	}
	return compact(provider.leafKey,
		map[string]any{"typ": "key-attestation+jwt", "alg": algorithm(provider.leafKey.Public()), "x5c": provider.X5C()},
		map[string]any{
			"iat": at.Unix(), "exp": at.Add(time.Hour).Unix(), "nonce": nonce, "attested_keys": keys,
			"key_storage": []string{"iso_18045_high"}, "user_authentication": []string{"iso_18045_high"},
		}, options)
}

// Prove makes a proof of possession (typ openid4vci-proof+jwt) with key i, whose public half stands in the header. attestation goes
// into the header too, unless it is empty.
func (p *Phone) Prove(i int, audience, nonce string, at time.Time, attestation string, options ...Option) string {
	header := map[string]any{"typ": "openid4vci-proof+jwt", "alg": algorithm(p.PublicKey(i)), "jwk": p.JWK(i)}
	if attestation != "" {
		header["key_attestation"] = attestation
	}
	return compact(p.keys[i], header, map[string]any{"aud": audience, "iat": at.Unix(), "nonce": nonce}, options)
}

// Sign signs a message as JOSE and COSE both want it: ECDSA r ‖ s over SHA-256 (P-256) or SHA-384 (P-384), or Ed25519. For key binding
// JWTs and mdoc device signatures.
func (p *Phone) Sign(i int, message []byte) []byte { return sign(p.keys[i], message) }

// PublicKey is an *ecdsa.PublicKey or an ed25519.PublicKey.
func (p *Phone) PublicKey(i int) crypto.PublicKey { return p.keys[i].Public() }

// JWK is the public key as JWK, required members only, in lexicographic order (RFC 7638 3).
func (p *Phone) JWK(i int) json.RawMessage { return jwk(p.PublicKey(i), "") }

// HolderJWK is the private key as JWK. A real phone has no such function.
func (p *Phone) HolderJWK(i int) []byte {
	switch key := p.keys[i].(type) {
	case *ecdsa.PrivateKey:
		d, err := key.Bytes()
		must(err)
		return jwk(key.Public(), b64(d))
	case ed25519.PrivateKey:
		return jwk(key.Public(), b64(key.Seed()))
	}
	panic("phone: unknown kind of key")
}

// Thumbprint is the RFC 7638 SHA-256 thumbprint in base64url.
func (p *Phone) Thumbprint(i int) string {
	sum := sha256.Sum256(p.JWK(i))
	return b64(sum[:])
}

// Option bends a token away from what is right.
type Option func(*parts)

type parts struct {
	header, claims map[string]any
	rawHeader      []byte
	rawClaims      []byte
	key            crypto.Signer
}

// Header sets a member of the JOSE header; nil removes it.
func Header(name string, value any) Option { return func(p *parts) { set(p.header, name, value) } }

// Claim sets a claim; nil removes it.
func Claim(name string, value any) Option { return func(p *parts) { set(p.claims, name, value) } }

// Expires sets exp.
func Expires(at time.Time) Option { return Claim("exp", at.Unix()) }

// Levels sets what an attestation says of the key store and of how the user is recognised.
func Levels(keyStorage, userAuthentication string) Option {
	return func(p *parts) {
		set(p.claims, "key_storage", []string{keyStorage})
		set(p.claims, "user_authentication", []string{userAuthentication})
	}
}

// RawHeader replaces the whole header's bytes, RawClaims the payload's.
func RawHeader(b string) Option { return func(p *parts) { p.rawHeader = []byte(b) } }

// RawClaims replaces the whole payload's bytes.
func RawClaims(b string) Option { return func(p *parts) { p.rawClaims = []byte(b) } }

// SignedBy signs with another key, and leaves the header as it is.
func SignedBy(key crypto.Signer) Option { return func(p *parts) { p.key = key } }

// SignedByKey signs with key i of phone o, and leaves the header as it is.
func SignedByKey(o *Phone, i int) Option { return SignedBy(o.keys[i]) }

func set(m map[string]any, name string, value any) {
	if value == nil {
		delete(m, name)
		return
	}
	m[name] = value
}

// compact makes a JWS in compact serialization, RFC 7515 7.1.
func compact(key crypto.Signer, header, claims map[string]any, options []Option) string {
	p := &parts{header: header, claims: claims, key: key}
	for _, o := range options {
		o(p)
	}
	if p.rawHeader == nil {
		p.rawHeader = encode(p.header)
	}
	if p.rawClaims == nil {
		p.rawClaims = encode(p.claims)
	}
	input := b64(p.rawHeader) + "." + b64(p.rawClaims)
	return input + "." + b64(sign(p.key, []byte(input)))
}

func sign(key crypto.Signer, message []byte) []byte {
	var digest []byte
	var size int
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(k, message)
	case *ecdsa.PrivateKey:
		size = (k.Curve.Params().BitSize + 7) / 8
		if size == 48 {
			d := sha512.Sum384(message)
			digest = d[:]
			break
		}
		d := sha256.Sum256(message)
		digest = d[:]
	default:
		panic(fmt.Sprintf("phone: can't sign with a %T", key))
	}
	der, err := key.Sign(rand.Reader, digest, nil)
	must(err)
	var rs struct{ R, S *big.Int }
	_, err = asn1.Unmarshal(der, &rs)
	must(err)
	raw := make([]byte, 2*size)
	rs.R.FillBytes(raw[:size])
	rs.S.FillBytes(raw[size:])
	return raw
}

func algorithm(key crypto.PublicKey) string {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return "ES256"
		case elliptic.P384():
			return "ES384"
		}
		return "ES512"
	case ed25519.PublicKey:
		return "EdDSA"
	}
	return "RS256"
}

func jwk(key crypto.PublicKey, d string) json.RawMessage {
	m := map[string]string{} // encoding/json sorts the names
	if d != "" {
		m["d"] = d
	}
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		must(err)
		n := len(point) / 2
		m["kty"], m["crv"], m["x"], m["y"] = "EC", key.Curve.Params().Name, b64(point[1:1+n]), b64(point[1+n:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(key)
	}
	return encode(m)
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	must(err)
	return b
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func must(err error) {
	if err != nil {
		panic("phone: " + err.Error())
	}
}
