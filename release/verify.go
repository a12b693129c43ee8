package release

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"sealkeeper/internal/ecsig"
	"sealkeeper/ledger"
)

// errDuplicate: the signature is valid, and together with an earlier one it tells the private key.
var errDuplicate = errors.New("its r was used before for other bytes: the token's random numbers repeat, so stop this key")

// pin is a pinned public key, and the values of r that were seen under it.
type pin struct {
	algorithm string
	spki      []byte
	ec        *ecdsa.PublicKey
	known     ecsig.Keys // this one
	ed        ed25519.PublicKey

	mu   sync.Mutex
	ring [recent]nonce // in order of arrival, wrapping around
	next int
	seen map[nonce][32]byte // r → hash of the TBS, of everything in ring
}

// recent is how many values of r are remembered per key. A generator that is stuck, or starts again from one seed with each worker, repeats
// far sooner.
const recent = 4096

type nonce [48]byte

func newPin(k ledger.Key) (*pin, error) {
	public, err := x509.ParsePKIXPublicKey(k.SPKI)
	if err != nil {
		return nil, fmt.Errorf("key %q: the pinned public key: %w", k.ID, err)
	}
	p := &pin{algorithm: k.Algorithm, spki: k.SPKI, seen: map[nonce][32]byte{}}
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		if k.Algorithm == "ES256" && public.Curve == elliptic.P256() || k.Algorithm == "ES384" && public.Curve == elliptic.P384() {
			p.ec = public
			return p, nil
		}
	case ed25519.PublicKey:
		if k.Algorithm == "EdDSA" {
			p.ed = public
			return p, nil
		}
	}
	return nil, fmt.Errorf("key %q: the pinned %T is not a key for %q", k.ID, public, k.Algorithm)
}

// exact is what was signed, in bytes that nobody else has, and its SHA-256, whatever the algorithm hashes with.
type exact struct {
	tbs  []byte
	hash [32]byte
}

func exactly(tbs []byte) exact {
	own := bytes.Clone(tbs)
	return exact{own, sha256.Sum256(own)}
}

// verify accepts exactly one form of a signature: r‖s of the curve's fixed length (RFC 9053 2.1, RFC 7518 3.4), or the 64 bytes of
// Ed25519 (RFC 8032).
func (p *pin) verify(x exact, raw []byte) error {
	if p.ec == nil {
		if len(raw) != ed25519.SignatureSize || !ed25519.Verify(p.ed, x.tbs, raw) {
			return errors.New("it does not verify with the pinned key")
		}
		return nil // deterministic: equal R for equal bytes, and no others
	}
	size := (p.ec.Params().BitSize + 7) / 8
	if len(raw) != 2*size {
		return fmt.Errorf("it has %d bytes, %s has %d", len(raw), p.algorithm, 2*size)
	}
	digest := x.hash[:]
	if p.algorithm == "ES384" {
		long := sha512.Sum384(x.tbs)
		digest = long[:]
	}
	if !p.known.Verify(p.ec, digest, raw) {
		return errors.New("it does not verify with the pinned key")
	}
	var n nonce
	copy(n[:], raw[:size])
	return p.fresh(n, x.hash)
}

// fresh remembers r, and refuses one that is known with other bytes. With the same bytes it is the same signature again, as deterministic
// ECDSA (RFC 6979) makes it.
func (p *pin) fresh(n nonce, hash [32]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if before, known := p.seen[n]; known {
		if before != hash {
			return errDuplicate
		}
		return nil
	}
	if len(p.seen) == recent {
		delete(p.seen, p.ring[p.next])
	}
	p.ring[p.next], p.seen[n] = n, hash
	p.next = (p.next + 1) % recent
	return nil
}
