// Package verifier is for banks, shops and airports: it checks mdocs, SD-JWT VCs and status lists against the issuing authority's root
// certificates. It needs no network and no clock: the caller fetches lists and says what time it is.
//
//	card, err := verifier.VerifySDJWT(presented, roots, now)
//	err = card.VerifyKeyBinding(nonce, audience, now, time.Minute)          // the phone that shows it is the phone that got it
//	list := GET card.Status.URI                                             // cacheable; see Cache-Control. Status is nil if the card has none
//	status, err := verifier.VerifyStatus(list, card.Status.URI, card.Status.Index, roots, now)
//	ok := err == nil && status == verifier.Valid
//
// It is strict on purpose. A credential that only some readers understand is worse than one that none accepts, so duplicate members,
// unreferenced disclosures, indefinite lengths, padded base64, anchors inside a chain and keys in it that are neither EC nor Ed25519 are
// refused; sizes and depths are bounded before anything is decoded.
package verifier

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Limits of what is decoded.
const (
	MaxCredential = 1 << 20 // bytes; a portrait is some 100 KB
	MaxEntries    = 1 << 26 // entries of a status list: 8 MiB for one bit each
	maxToken      = 96 << 20
	maxDepth      = 16
	maxChain      = 4
	leeway        = time.Minute // how far a list's or credential's iat may lie ahead of the verifier's clock
)

// StatusRef says where a credential's status stands.
type StatusRef struct {
	URI   string
	Index uint64
}

var errStatus = errors.New("the credential has a status that is no status list: whether it was revoked can't be known")

// b64 refuses padding, line breaks and non-canonical tails: two texts for the same bytes would be two names for one thing.
func b64(s string) ([]byte, error) {
	for i := range len(s) {
		if s[i] == '\n' || s[i] == '\r' { // encoding/base64 skips them
			return nil, errors.New("line break in base64url")
		}
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// checkChain verifies a chain as it travelled (leaf first, without anchor) up to one of the roots and returns the leaf.
func checkChain(ders [][]byte, roots []*x509.Certificate, at time.Time) (*x509.Certificate, error) {
	if len(ders) == 0 || len(ders) > maxChain {
		return nil, fmt.Errorf("the signer's chain has %d certificates, 1 to %d are allowed", len(ders), maxChain)
	}
	anchors, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range roots {
		anchors.AddCert(r)
	}
	var leaf *x509.Certificate
	for i, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the signer's chain: %w", i, err)
		}
		if bytes.Equal(c.RawSubject, c.RawIssuer) {
			return nil, errors.New("the signer's chain contains a trust anchor or a self-signed signer (HAIP 6.1, ISO/IEC 18013-5 B.1.1)")
		}
		// Signatures are verified from the leaf upwards, before anything shows that the chain leads to a root: with a key that anybody chose.
		// A modulus of RSA may be as long as the credential.
		switch c.PublicKey.(type) {
		case *ecdsa.PublicKey, ed25519.PublicKey:
		default:
			return nil, fmt.Errorf("certificate %d of the signer's chain has a key that is neither EC nor Ed25519", i)
		}
		if i == 0 {
			leaf = c
		} else {
			between.AddCert(c)
		}
	}
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, fmt.Errorf("certificate %s is not one of a signer", leaf.Subject)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: anchors, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, fmt.Errorf("the signer's chain: %w", err)
	}
	return leaf, nil
}

// coseAlgorithms are RFC 9053's numbers.
var coseAlgorithms = map[int64]string{-7: "ES256", -35: "ES384", -8: "EdDSA"}

// verifySignature checks a raw signature (r‖s, or Ed25519). The algorithm must be the one that belongs to the key.
func verifySignature(alg string, key crypto.PublicKey, message, sig []byte) error {
	bad := errors.New("the signature is wrong")
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		var digest []byte
		switch {
		case alg == "ES256" && k.Curve == elliptic.P256():
			d := sha256.Sum256(message)
			digest = d[:]
		case alg == "ES384" && k.Curve == elliptic.P384():
			d := sha512.Sum384(message)
			digest = d[:]
		default:
			return fmt.Errorf("algorithm %q does not fit the key", alg)
		}
		half := (k.Params().BitSize + 7) / 8
		if len(sig) != 2*half || !ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])) {
			return bad
		}
	case ed25519.PublicKey:
		if alg != "EdDSA" {
			return fmt.Errorf("algorithm %q does not fit the key", alg)
		}
		if len(k) != ed25519.PublicKeySize || !ed25519.Verify(k, message, sig) {
			return bad
		}
	default:
		return fmt.Errorf("keys of type %T are not supported", key)
	}
	return nil
}

// point makes a public key out of coordinates, which must have the curve's exact length and lie on it.
func point(curve elliptic.Curve, x, y []byte) (*ecdsa.PublicKey, error) {
	size := (curve.Params().BitSize + 7) / 8
	if len(x) != size || len(y) != size {
		return nil, errors.New("a coordinate of the key has a wrong length")
	}
	return ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...))
}
