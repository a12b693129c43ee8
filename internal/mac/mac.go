// Package mac is HMAC-SHA256 under a key that is used again and again, and is hashed once for it.
package mac

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"slices"
	"sync"
)

// Key for any number of MACs, also at once. The zero value has none.
type Key struct{ idle *sync.Pool }

// keyed is at the beginning of a MAC. It holds the hashes' states and not the key.
type keyed struct {
	hash.Hash
	text []byte // so that a caller's own need not outlive the call
}

// New hashes a key.
func New(key [32]byte) Key {
	h := hmac.New(sha256.New, key[:])
	h.Reset()
	first := h.(hash.Cloner)
	return Key{&sync.Pool{New: func() any {
		h, err := first.Clone()
		if err != nil {
			panic(err) // SHA-256 can be cloned
		}
		return &keyed{Hash: h}
	}}}
}

// Sum is the MAC of a text.
func (k Key) Sum(text []byte) (sum [sha256.Size]byte) {
	h := k.idle.Get().(*keyed)
	h.text = append(slices.Grow(h.text[:0], len(text)+sha256.Size), text...) // with room for the MAC, so that there is one copy to clear
	h.Write(h.text)
	h.text = h.Hash.Sum(h.text)
	copy(sum[:], h.text[len(text):])
	clear(h.text)
	h.Reset()
	k.idle.Put(h)
	return sum
}
