// Package index hands out status indices in an order that nobody can predict or link: a keyed permutation of 0 … n−1, so that a counter
// gives unique, random-looking indices without remembering which ones are taken (HAIP 6.1, ARF VCR_17, Token Status List 13.3).
//
// The construction is the swap-or-not shuffle of Hoang, Morris and Rogaway, "An Enciphering Scheme Based on a Card Shuffle", CRYPTO 2012
// (the one of Ethereum's consensus layer), with AES-256 as the round function's PRF. It works for every n and is proven secure for
// adversaries who see almost all of the permutation.
package index

// Permutation of 0 … n−1 under a key. It is safe for concurrent use.
type Permutation struct{}

// New makes the permutation of one list: key is derived from the domain secret, id is the list's.
func New(key [32]byte, id string, n uint64) (*Permutation, error) { return nil, nil }

// At returns the index of counter value i < n.
func (p *Permutation) At(i uint64) uint64 { return 0 }
