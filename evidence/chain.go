package evidence

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	maxChain  = 6
	maxDER    = 64 << 10
	maxChains = 1024 // verified chains that are remembered; a nation has a handful of wallet providers
)

// attester is a wallet provider's leaf whose chain was verified. It may be used between from and until only: in that interval no
// certificate of the chain, the anchor included, is outside its validity.
type attester struct {
	key         *ecdsa.PublicKey
	spki        []byte
	anchor      [32]byte // SHA-256 of the root's SubjectPublicKeyInfo
	subject     string
	from, until time.Time
}

// chains verifies attestation chains and remembers the good ones. Refused chains are not remembered: they cost the sender at least as
// much, and must not be able to push out good ones.
type chains struct {
	anchors []*x509.Certificate
	roots   *x509.CertPool

	mu   sync.RWMutex
	good map[[32]byte]*attester // by id of what was presented
}

func newChains(anchors []*x509.Certificate) chains {
	roots := x509.NewCertPool()
	for _, c := range anchors {
		roots.AddCert(c)
	}
	return chains{anchors: anchors, roots: roots, good: map[[32]byte]*attester{}}
}

// presented is a chain as it stands in a header, not looked into, and the id by which it is remembered.
type presented struct {
	x5c jsontext.Value
	id  [32]byte // SHA-256
}

func present(x5c jsontext.Value) presented { return presented{x5c, sha256.Sum256(x5c)} }

func (c *chains) verify(p presented, at time.Time) (*attester, error) {
	c.mu.RLock()
	a := c.good[p.id]
	c.mu.RUnlock()
	if a != nil && !at.Before(a.from) && !at.After(a.until) {
		return a, nil
	}
	a, err := c.check(p.x5c, at)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.good[p.id]; !known && len(c.good) >= maxChains {
		for old := range c.good { // any one; a chain that is still in use comes back with its next attestation
			delete(c.good, old)
			break
		}
	}
	c.good[p.id] = a
	return a, nil
}

// check verifies a chain from nothing: leaf first, each certificate signed by the next, the last by an anchor that is not in it
// (RFC 7515 4.1.6, HAIP 1.0). Number, size, names and key types come before the first signature, so that no chain is dear to refuse.
func (c *chains) check(x5c jsontext.Value, at time.Time) (*attester, error) {
	certs, err := parseChain(x5c)
	if err != nil {
		return nil, err
	}
	for i, cert := range certs {
		if algorithm(cert.PublicKey) != "ES256" && algorithm(cert.PublicKey) != "ES384" {
			return nil, refuse("attestation_chain_key", "a certificate of x5c has a key that is neither EC P-256 nor EC P-384")
		}
		selfSigned := bytes.Equal(cert.RawSubject, cert.RawIssuer) && cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
		if selfSigned || slices.ContainsFunc(c.anchors, cert.Equal) {
			return nil, refuse("attestation_chain_anchor", "x5c holds a trust anchor or a self-signed certificate; send the chain without it")
		}
		if i > 0 && !bytes.Equal(certs[i-1].RawIssuer, cert.RawSubject) ||
			slices.ContainsFunc(certs[:i], func(o *x509.Certificate) bool { return bytes.Equal(o.RawSubject, cert.RawSubject) }) {
			return nil, refuse("attestation_chain_order", "x5c is not a chain in order, leaf first, each certificate issued by the next, no name twice")
		}
	}
	leaf := certs[0]
	subject := leaf.Subject.String()
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 || subject == "" || len(subject) > 256 ||
		strings.ContainsFunc(subject, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, refuse("attestation_leaf", "the leaf of x5c must be an end entity with keyUsage digitalSignature and a printable subject")
	}
	between := x509.NewCertPool()
	for _, cert := range certs[1:] {
		between.AddCert(cert)
	}
	paths, err := leaf.Verify(x509.VerifyOptions{
		Roots: c.roots, Intermediates: between, CurrentTime: at,
		KeyUsages:                 []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		MaxConstraintComparisions: 10_000,
	})
	if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return nil, refuse("attestation_chain_expired", "a certificate of the key attestation's chain is expired or not valid yet")
	}
	if err != nil {
		return nil, refuse("attestation_untrusted", "x5c doesn't lead to a configured wallet provider")
	}
	whole := slices.IndexFunc(paths, func(path []*x509.Certificate) bool {
		return len(path) == len(certs)+1 && slices.EqualFunc(path[:len(certs)], certs, (*x509.Certificate).Equal)
	})
	if whole < 0 {
		return nil, refuse("attestation_chain_order", "x5c holds a certificate that is not on the way from the leaf to the anchor")
	}
	a := &attester{key: leaf.PublicKey.(*ecdsa.PublicKey), spki: leaf.RawSubjectPublicKeyInfo, subject: subject, from: leaf.NotBefore, until: leaf.NotAfter}
	a.anchor = sha256.Sum256(paths[whole][len(certs)].RawSubjectPublicKeyInfo)
	for _, cert := range paths[whole] {
		if cert.NotBefore.After(a.from) {
			a.from = cert.NotBefore
		}
		if cert.NotAfter.Before(a.until) {
			a.until = cert.NotAfter
		}
	}
	return a, nil
}

func parseChain(x5c jsontext.Value) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	size := 0
	ok := each(x5c, maxChain, func(v jsontext.Value) bool {
		s, ok := text(v)
		if !ok || strings.ContainsAny(s, "\r\n") {
			return false
		}
		if size += base64.StdEncoding.DecodedLen(len(s)); size > maxDER {
			return false
		}
		der, err := base64.StdEncoding.Strict().DecodeString(s) // x5c is padded and not of the URL alphabet, RFC 7515 4.1.6
		if err != nil {
			return false
		}
		cert, err := x509.ParseCertificate(der)
		certs = append(certs, cert)
		return err == nil
	})
	if !ok || len(certs) == 0 {
		return nil, refuse("attestation_chain_malformed", "x5c is not an array of 1 to 6 certificates in base64, 64 KiB together")
	}
	return certs, nil
}
