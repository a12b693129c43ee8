package index

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// SwapOrNot is the order of lists that were opened before shuffles: the swap-or-not shuffle of Hoang, Morris and Rogaway, "An Enciphering Scheme Based on a
// Card Shuffle", CRYPTO 2012, with AES-256 as the round function's PRF. It takes no memory and some hundred AES blocks an index.
//
//	list key  = HMAC-SHA256(key, "sealkeeper/v1/index/list" ‖ 0x00 ‖ id)
//	K_r       = be128(AES-256(list key, 0x00 ‖ be32(r) ‖ 0^11)) mod n          the round's pivot
//	bit_r(x)  = lowest bit of AES-256(list key, 0x01 ‖ be32(r) ‖ 0^3 ‖ be64(x)), last byte
//	round r   : x' = (K_r − x) mod n;  x̂ = max(x, x');  if bit_r(x̂) = 1 then x = x'
//
// for r = 0 … rounds−1, starting from x = i; the result is the index. Each round is an involution (x and its partner x' share x̂, so both
// are swapped or neither), so the whole is a permutation whatever AES does.
func SwapOrNot(key [32]byte, id string, n uint64) (Order, error) {
	block, err := listKey(key, "v1", id, n, 1<<40) // the pivots' reduction mod n has a bias below 2^-88
	if err != nil {
		return nil, err
	}
	p := &swapOrNot{block: block, n: n, pivots: make([]uint64, rounds(n))}
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

// rounds for n entries. The paper bounds the advantage of an adversary who knows q of the n values by
//
//	8·n^1.5 / (r+4) · ((q+n) / 2n)^(r/4+1)
//
// 24·lg n = 480 rounds give 2^24 · 0.75^121 ≈ 2^-26 for n = 2^20 and half of the list known, and 2^-86 while less than a sixteenth is.
func rounds(n uint64) int { return max(90, 24*bits.Len64(n-1)) }

type swapOrNot struct {
	block  cipher.Block
	n      uint64
	pivots []uint64
}

func (p *swapOrNot) Len() uint64 { return p.n }

func (p *swapOrNot) At(i uint64) uint64 {
	if i >= p.n {
		panic(fmt.Sprintf("index: counter %d of a list with %d entries", i, p.n))
	}
	x := i
	for r, pivot := range p.pivots {
		y := pivot - x
		if pivot < x {
			y += p.n
		}
		var b [aes.BlockSize]byte
		binary.BigEndian.PutUint64(b[:], 1<<56|uint64(r)<<24)
		binary.BigEndian.PutUint64(b[8:], max(x, y))
		p.block.Encrypt(b[:], b[:])
		if b[aes.BlockSize-1]&1 == 1 {
			x = y
		}
	}
	return x
}
