// Package mac is HMAC-SHA256 under a key that is used again and again, and is hashed once for it.
package mac

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
)

// Key for any number of MACs, also at once. The zero value has none.
type Key struct{ keyed hash.Cloner }

// New hashes a key.
func New(key [32]byte) Key {
	h := hmac.New(sha256.New, key[:])
	h.Reset() // from here on it holds the hashes' states and not the key
	return Key{h.(hash.Cloner)}
}

// Begin is hmac.New.
func (k Key) Begin() hash.Hash {
	h, err := k.keyed.Clone()
	if err != nil {
		panic(err) // SHA-256 can be cloned
	}
	return h
}
