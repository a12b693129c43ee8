// Package index hands out status indices in an order that nobody can predict or link: a keyed permutation of 0 … n−1, so that a counter
// gives unique, random-looking indices without remembering which ones are taken (HAIP 6.1, ARF VCR_17, Token Status List 13.3).
//
// # Construction
//
// It is published so that an auditor who is given the key can recompute every index. The order of a list is a Fisher–Yates shuffle of
// 0 … n−1 by a stream of random numbers that only the key gives:
//
//	list key = HMAC-SHA256(key, "sealkeeper/v2/index/list" ‖ 0x00 ‖ id)
//	stream   = AES-256-CTR(list key, counter block from 0 on) of zeros, read as be64, one after the other
//	draw(m)  : u from the stream; hi·2^64 + lo = u·m; again while lo < 2^64 mod m; else hi      uniform in 0 … m−1
//	shuffle  : x = 0, 1, … n−1; for i = n−1 … 1: j = draw(i+1), swap x[i] and x[j]
//
// Counter value c has the index x[c]. Every order is as likely as any other as far as AES is a pseudorandom function, whatever part of it is
// known. Lists of ledgers of before have another order, which swapornot.go makes.
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

// MaxSize bounds n: an order takes four bytes of memory for each entry, and 15 ns to be made.
const MaxSize = 1 << 24

// Order of a list's indices. It is safe for concurrent use.
type Order interface {
	// Len is n.
	Len() uint64
	// At returns the index of counter value i < n. It panics on i ≥ n: such an index would belong to no list, and signing it can't be undone.
	At(i uint64) uint64
}

type shuffled []uint32

func (s shuffled) Len() uint64        { return uint64(len(s)) }
func (s shuffled) At(i uint64) uint64 { return uint64(s[i]) }

// New makes the order of one list: key is derived from the domain secret, id is the list's.
func New(key [32]byte, id string, n uint64) (Order, error) {
	block, err := listKey(key, "v2", id, n, MaxSize)
	if err != nil {
		return nil, err
	}
	s := make(shuffled, n)
	for i := range s {
		s[i] = uint32(i)
	}
	numbers := stream{of: cipher.NewCTR(block, make([]byte, aes.BlockSize))}
	for i := n - 1; i > 0; i-- {
		j := numbers.draw(i + 1)
		s[i], s[j] = s[j], s[i]
	}
	return s, nil
}

// listKey is the key of one list's order.
func listKey(key [32]byte, version, id string, n, most uint64) (cipher.Block, error) {
	if n == 0 || n > most {
		return nil, fmt.Errorf("an order has 1 to %d entries, not %d", most, n)
	}
	if id == "" {
		return nil, fmt.Errorf("an order belongs to a list, and the list has no id")
	}
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte("sealkeeper/" + version + "/index/list\x00" + id))
	block, err := aes.NewCipher(m.Sum(nil))
	if err != nil {
		return nil, fmt.Errorf("keying the order of list %s: %w", id, err)
	}
	return block, nil
}

// stream of random numbers.
type stream struct {
	of    cipher.Stream
	block [4096]byte
	left  []byte
}

func (s *stream) next() uint64 {
	if len(s.left) == 0 {
		clear(s.block[:])
		s.of.XORKeyStream(s.block[:], s.block[:])
		s.left = s.block[:]
	}
	u := binary.BigEndian.Uint64(s.left)
	s.left = s.left[8:]
	return u
}

// draw is uniform in 0 … m−1 (Lemire, "Fast Random Integer Generation in an Interval", 2019).
func (s *stream) draw(m uint64) uint64 {
	hi, lo := bits.Mul64(s.next(), m)
	if lo < m { // seldom; the remainder costs a division
		for least := -m % m; lo < least; {
			hi, lo = bits.Mul64(s.next(), m)
		}
	}
	return hi
}
