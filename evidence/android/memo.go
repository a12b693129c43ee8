package android

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
)

// maxMemo bounds what is remembered. A factory's certificates are those of 100,000 phones and more, and Google's own are those of all.
const maxMemo = 4096

// Memo remembers which certificates above the leaf are signed by which keys: that never changes, while everything else about a chain is judged each
// time. Refused ones are not remembered, so that nobody can push out good ones for less than they cost him. Safe for concurrent use; nil remembers nothing.
type Memo struct {
	mu   sync.RWMutex
	good map[[32]byte]struct{} // SHA-256 over the issuer's SubjectPublicKeyInfo's SHA-256, and the certificate
}

// NewMemo makes an empty one.
func NewMemo() *Memo { return &Memo{good: map[[32]byte]struct{}{}} }

// signed reports whether cert is signed by issuer's key.
func (m *Memo) signed(cert, issuer *x509.Certificate) bool {
	check := func() bool {
		return issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil // never SHA-1
	}
	if m == nil {
		return check()
	}
	by := spki(issuer)
	id := sha256.Sum256(append(by[:], cert.Raw...))
	m.mu.RLock()
	_, known := m.good[id]
	m.mu.RUnlock()
	if known {
		return true
	}
	if !check() {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.good) >= maxMemo {
		for old := range m.good { // any one; what is still in use comes back with its next phone
			delete(m.good, old)
			break
		}
	}
	m.good[id] = struct{}{}
	return true
}
