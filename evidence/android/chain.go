package android

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"
	"time"
)

// Bounds before parsing. Software chains have 3 certificates, factory chains 4, remotely provisioned ones 5; the largest real one has 5 KiB
// (an ML-DSA leaf).
const (
	minChain       = 3
	MaxChain       = 6
	MaxCertificate = 8 << 10
	maxDER         = 24 << 10
)

var oidAttestation = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 1, 17}

// chain is leaf first, root last. crypto/x509 parses the certificates but does not judge them: its Verify holds all of them to their
// dates and wants every issuer to be a CA, and phones in the field have neither.
type chain []*x509.Certificate

func parseChain(ders [][]byte) (chain, error) {
	if len(ders) < minChain || len(ders) > MaxChain {
		return nil, refuse("chain_length", "a chain has 3 to 6 certificates, leaf first, with its root")
	}
	size := 0
	for _, der := range ders {
		if size += len(der); len(der) > MaxCertificate || size > maxDER {
			return nil, refuse("chain_size", "a certificate is larger than 8 KiB, or all together are larger than 24 KiB")
		}
	}
	c := make(chain, 0, len(ders))
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil || cert.SerialNumber.Sign() <= 0 || cert.SerialNumber.BitLen() > 160 {
			return nil, refuse("chain_malformed", "a certificate is not DER by RFC 5280, or has a serial number that is not positive or longer than 20 octets")
		}
		c = append(c, cert)
	}
	return c, nil
}

func (c chain) root() *x509.Certificate { return c[len(c)-1] }

func spki(cert *x509.Certificate) [32]byte { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// known checks that the chain is one in order and ends in a pinned root.
func (c chain) known(roots [][32]byte) error {
	if !slices.Contains(roots, spki(c.root())) {
		return refuse("root_unknown", "the chain doesn't end in a root that this appliance was told to trust")
	}
	for i, cert := range c {
		issuer := c[min(i+1, len(c)-1)]
		if !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
			return refuse("chain_order", "the chain is not in order, leaf first, each certificate issued by the next and the last by itself")
		}
	}
	return nil
}

// extension gives the attestation extension of the leaf and refuses a chain that has another one, above it: that chain goes on below a
// key that secure hardware attested, and its end was written by whoever may use that key.
func (c chain) extension() (found []byte, err error) {
	for i, cert := range c {
		for _, e := range cert.Extensions {
			if !e.Id.Equal(oidAttestation) {
				continue
			}
			if i > 0 {
				return nil, refuse("chain_extended", "a certificate above the leaf has an attestation extension: the chain goes on below an attested key")
			}
			found = e.Value
		}
	}
	if found == nil {
		return nil, refuse("extension_missing", "the leaf has no attestation extension: the key was made without an attestation challenge")
	}
	return found, nil
}

// remote tells a factory's chain by the name that Google's root signed: the certificate next to it names a serial number.
// Everything else is held to the stricter rule.
func (c chain) remote() bool { return c[len(c)-2].Subject.SerialNumber == "" }

// within holds the certificates between leaf and root to their dates: no chain before its time, remotely provisioned ones not after it
// either. The leaf's dates are those of the key's use, and often 1970 to 2106; the root's key is pinned.
func (c chain) within(at time.Time) error {
	for _, cert := range c[1 : len(c)-1] {
		if at.Before(cert.NotBefore) {
			return refuse("chain_not_yet_valid", "a certificate of the chain is not valid yet")
		}
		if c.remote() && at.After(cert.NotAfter) {
			return refuse("chain_expired", "a certificate of a remotely provisioned chain is expired: the phone has to fetch new ones")
		}
	}
	return nil
}

// ends is the first end of a remotely provisioned chain.
func (c chain) ends() (first time.Time) {
	if !c.remote() {
		return time.Time{}
	}
	for _, cert := range c[1 : len(c)-1] {
		if first.IsZero() || cert.NotAfter.Before(first) {
			first = cert.NotAfter
		}
	}
	return first
}

// serials are written as Google's status list does: hexadecimal, small letters, no zeros in front.
func (c chain) serials() []string {
	s := make([]string, len(c))
	for i, cert := range c {
		s[i] = cert.SerialNumber.Text(16)
	}
	return s
}

// signatures verifies each certificate with the next one's key, the root's with its own.
func (c chain) signatures(m *Memo) error {
	if !c.remote() && len(c) != 4 {
		return refuse("chain_length", "a factory's chain has 4 certificates: leaf, attestation key, intermediate, root")
	}
	for i, issuer := range c[1:] {
		// The attestation key's own certificate is no CA in some factories' chains; all above it are.
		if i > 0 && !(issuer.BasicConstraintsValid && issuer.IsCA) {
			return refuse("chain_authority", "a certificate above the attestation key's is not a CA")
		}
		if !verifies(issuer.PublicKey) {
			return refuse("chain_key", "an issuer's key is neither EC P-256 or P-384 nor RSA of 2048 to 4096 bits")
		}
	}
	for i := len(c) - 1; i >= 0; i-- {
		cert, issuer := c[i], c[min(i+1, len(c)-1)]
		if i == 0 { // each phone's own
			m = nil
		}
		if !m.signed(cert, issuer) {
			return refuse("chain_signature", "a certificate is not signed by the next one's key")
		}
	}
	return nil
}

func verifies(key crypto.PublicKey) bool {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256() || key.Curve == elliptic.P384()
	case *rsa.PublicKey:
		return key.N.BitLen() >= 2048 && key.N.BitLen() <= 4096 && key.E >= 3
	}
	return false
}

// Values of KeyMint's Algorithm and EcCurve.
const (
	algorithmEC  = 3
	curveP256    = 1
	curveP384    = 2
	curveEd25519 = 4
)

// leafKey is the attested key, if it is one that a holder may have, and what the secure hardware says of it says the same.
func (c chain) leafKey(d *Description) (crypto.PublicKey, error) {
	var curve, bits uint64
	switch key := c[0].PublicKey.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			curve, bits = curveP256, 256
		case elliptic.P384():
			curve, bits = curveP384, 384
		}
	case ed25519.PublicKey:
		curve, bits = curveEd25519, 256
	}
	if curve == 0 {
		return nil, refuse("key_unsupported", "the attested key must be EC P-256, EC P-384 or Ed25519")
	}
	algorithm, _ := d.Hardware.Number(Algorithm)
	size, hasSize := d.Hardware.Number(KeySize)
	named, hasCurve := d.Hardware.Number(ECCurve)
	if algorithm != algorithmEC || hasSize && size != bits || hasCurve && named != curve || !hasSize && !hasCurve {
		return nil, refuse("key_mismatch", "the algorithm, size or curve that the secure hardware states are not those of the certified key")
	}
	return c[0].PublicKey, nil
}

// level is what the certificate of the attestation key says of where it lives, empty if it says nothing: factories' trusted environments
// don't, their StrongBoxes do, and remotely provisioned ones always do.
func (c chain) level() string {
	if c.remote() {
		if o := c[1].Subject.Organization; len(o) == 1 {
			return o[0]
		}
		return "unknown"
	}
	for _, cert := range c[1 : len(c)-1] {
		for _, a := range cert.Subject.Names {
			if s, ok := a.Value.(string); ok && strings.Contains(strings.ToLower(s), "strongbox") {
				return "StrongBox"
			}
		}
	}
	return ""
}
