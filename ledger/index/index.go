// Package index hands out status indices in an order that nobody can predict or link: a keyed permutation of 0 … n−1, so that a counter
// gives unique, random-looking indices without remembering which ones are taken (HAIP 6.1, ARF VCR_17, Token Status List 13.3).
//
// The construction is the swap-or-not shuffle of Hoang, Morris and Rogaway, "An Enciphering Scheme Based on a Card Shuffle", CRYPTO 2012
// (the one of Ethereum's consensus layer), with AES-256 as the round function's PRF. It works for every n and is proven secure for
// adversaries who see almost all of the permutation.
//
// # Construction
//
// It is published so that an auditor who is given the key can recompute every index:
//
//	list key  = HMAC-SHA256(key, "sealkeeper/v1/index/list" ‖ 0x00 ‖ id)
//	K_r       = be128(AES-256(list key, 0x00 ‖ be32(r) ‖ 0^11)) mod n          the round's pivot
//	bit_r(x)  = lowest bit of AES-256(list key, 0x01 ‖ be32(r) ‖ 0^3 ‖ be64(x)), last byte
//	round r   : x' = (K_r − x) mod n;  x̂ = max(x, x');  if bit_r(x̂) = 1 then x = x'
//
// for r = 0 … rounds−1, starting from x = i; the result is the index. Each round is an involution (x and its partner x' share x̂, so both
// are swapped or neither), so the whole is a permutation whatever AES does.
package index

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// MaxSize bounds n: far above any list, and small enough that the pivot's reduction mod n has a bias below 2^-88.
const MaxSize = 1 << 40

// rounds for n entries. The paper bounds the advantage of an adversary who knows q of the n values by
//
//	8·n^1.5 / (r+4) · ((q+n) / 2n)^(r/4+1)
//
// For n = 2^20 and half of the list known, the 90 rounds of Ethereum and the often quoted 6·lg n = 120 leave that bound above 1: it says
// nothing. 24·lg n = 480 rounds give 2^24 · 0.75^121 ≈ 2^-26 there and 2^-86 while less than a sixteenth is known; an index is made once
// per credential, beside signatures that cost many times as much. Small lists get at least 90.
func rounds(n uint64) int { return max(90, 24*bits.Len64(n-1)) }

// Permutation of 0 … n−1 under a key. It is safe for concurrent use.
type Permutation struct {
	block  cipher.Block
	n      uint64
	pivots []uint64
}

// New makes the permutation of one list: key is derived from the domain secret, id is the list's.
func New(key [32]byte, id string, n uint64) (*Permutation, error) {
	if n == 0 || n > MaxSize {
		return nil, fmt.Errorf("a permutation has 1 to %d entries, not %d", uint64(MaxSize), n)
	}
	if id == "" {
		return nil, fmt.Errorf("a permutation belongs to a list, and the list has no id")
	}
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte("sealkeeper/v1/index/list\x00" + id))
	block, err := aes.NewCipher(m.Sum(nil))
	if err != nil {
		return nil, fmt.Errorf("keying the permutation of list %s: %w", id, err)
	}
	p := &Permutation{block: block, n: n, pivots: make([]uint64, rounds(n))}
	for r := range p.pivots {
		var b [aes.BlockSize]byte
		binary.BigEndian.PutUint32(b[1:], uint32(r))
		block.Encrypt(b[:], b[:])
		// hi·2^64 + lo mod n: reducing hi first keeps bits.Div64 from overflowing.
		hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
		_, p.pivots[r] = bits.Div64(hi%n, lo, n)
	}
	return p, nil
}

// Len is n.
func (p *Permutation) Len() uint64 { return p.n }

// At returns the index of counter value i < n. It panics on i ≥ n: such an index would belong to no list, and signing it can't be undone.
func (p *Permutation) At(i uint64) uint64 { return p.From(i, 1)[0] }

// From returns the indices of k counter values from i on. They go through the rounds together, so that the processor need not wait for one
// block before it begins the next. It panics as At does.
func (p *Permutation) From(i uint64, k int) []uint64 {
	if k < 1 || i >= p.n || uint64(k) > p.n-i {
		panic(fmt.Sprintf("index: %d counters from %d on of a list with %d entries", k, i, p.n))
	}
	x, partner, b := make([]uint64, k), make([]uint64, k), make([]byte, k*aes.BlockSize)
	for j := range x {
		x[j] = i + uint64(j)
	}
	for r, pivot := range p.pivots {
		for j, x := range x {
			y := pivot - x
			if pivot < x {
				y += p.n
			}
			partner[j] = y
			block := b[j*aes.BlockSize:][:aes.BlockSize]
			binary.BigEndian.PutUint64(block, 1<<56|uint64(r)<<24)
			binary.BigEndian.PutUint64(block[8:], max(x, y))
			p.block.Encrypt(block, block)
		}
		for j, y := range partner {
			if b[j*aes.BlockSize+aes.BlockSize-1]&1 == 1 {
				x[j] = y
			}
		}
	}
	return x
}
