// Package certified is what all signed formats share: the signing key with its certificates, the times that these allow, what a draft
// may be made from, and the pseudorandom values in it.
package certified

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sealkeeper/ledger"
)

// Key is a signing key whose certificates were parsed and found to be of use, once for all that it signs. The zero value signs nothing.
type Key struct {
	ledger.Key
	leaf *x509.Certificate
	once sync.Map // name → what was made of the key
}

// New checks the chain of k. An anchor in it would invite verifiers to trust what travels with the credential: WD v4 B.1.1 and HAIP 6.1
// forbid it, and a self-signed signer. A leaf with another key than the pinned one would make signatures that nobody can verify.
func New(k ledger.Key) (*Key, error) {
	var leaf *x509.Certificate
	for i, der := range k.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the signer's chain: %w", i, err)
		}
		if bytes.Equal(c.RawSubject, c.RawIssuer) {
			return nil, fmt.Errorf("certificate %d of the signer's chain (%s) is an anchor: leave it out", i, c.Subject)
		}
		if i == 0 {
			leaf = c
		}
	}
	if leaf == nil {
		return nil, errors.New("the signer has no certificate")
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, k.SPKI) {
		return nil, fmt.Errorf("certificate %s is not for the signer's pinned key", leaf.Subject)
	}
	return &Key{Key: k, leaf: leaf}, nil
}

// Valid reports whether k came from New.
func (k *Key) Valid() bool { return k != nil && k.leaf != nil }

// Is reports whether k was made from what the registry says now, as far as drafts depend on it.
func (k *Key) Is(r ledger.Key) bool {
	return k.Valid() && k.ID == r.ID && k.Purpose == r.Purpose && k.Algorithm == r.Algorithm && bytes.Equal(k.SPKI, r.SPKI) &&
		slices.EqualFunc(k.Chain, r.Chain, bytes.Equal)
}

// Once is what make gives, the first time for each name: bytes that are the same in everything that the key signs. They are not to be changed.
func (k *Key) Once(name string, make func() []byte) []byte {
	if b, ok := k.once.Load(name); ok {
		return b.([]byte)
	}
	b, _ := k.once.LoadOrStore(name, make())
	return b.([]byte)
}

// NotAfter is the last instant of the key's own certificate.
func (k *Key) NotAfter() time.Time { return k.leaf.NotAfter }

// Validity coarsens the times of a credential to the grain, so that those of one batch can't be linked by them (WD v4 12.3.4, RFC 9901 10.1),
// and keeps them inside the signer's certificate: from is never before its notBefore, until never after its notAfter.
func (k *Key) Validity(at time.Time, grain, lifetime time.Duration) (from, until time.Time, err error) {
	if at.Unix() <= 0 || grain < 0 || lifetime < time.Second {
		return from, until, errors.New("a credential needs an instant, a time grain and a lifetime")
	}
	from = at.UTC().Truncate(time.Second)
	if g := int64(grain / time.Second); g > 1 {
		from = time.Unix(at.Unix()-at.Unix()%g, 0).UTC()
	}
	if from.Before(k.leaf.NotBefore) {
		from = k.leaf.NotBefore.UTC().Add(time.Second - 1).Truncate(time.Second)
	}
	until = from.Add(lifetime.Truncate(time.Second))
	if until.After(k.leaf.NotAfter) {
		until = k.leaf.NotAfter.UTC().Truncate(time.Second)
	}
	if !until.After(from) || at.After(k.leaf.NotAfter) {
		return from, until, fmt.Errorf("certificate %s is valid from %s until %s, not at %s", k.leaf.Subject,
			k.leaf.NotBefore.Format(time.RFC3339), k.leaf.NotAfter.Format(time.RFC3339), at.Format(time.RFC3339))
	}
	return from, until, nil
}
