package ecsig

import (
	"crypto/elliptic"
	"math/big"
	"sync/atomic"

	"filippo.io/nistec"
)

const (
	size = 32 // bytes of a coordinate, of a scalar and of a digest

	width = 11                       // bits of a digit
	half  = 1 << (width - 1)         // of a row's multiples; those that are left are negatives
	rows  = (8*size + width) / width // digits of a scalar, its last carry included
)

// point is a key of P-256 uncompressed (SEC 1, 2.3.3).
type point [1 + 2*size]byte

// multiples of a key Q: by[i][d-1] is d·2^(width·i)·Q, so that u·Q is the sum of one of each row, or its negative, by the digits of u. They are not
// secret and neither is what they are used for, so which of them are read may show.
type multiples struct {
	by   [rows][half]nistec.P256Point
	used atomic.Int64 // in this period
}

// multiplesOf takes some 150 verifications' time. It is nil for what is no point of the curve.
func multiplesOf(p point) *multiples {
	step, err := nistec.NewP256Point().SetBytes(p[:])
	if err != nil || step.IsInfinity() == 1 {
		return nil
	}
	m := new(multiples)
	for i := range m.by {
		sum := nistec.NewP256Point()
		for d := range m.by[i] {
			m.by[i][d].Set(sum.Add(sum, step))
		}
		step.Double(sum)
	}
	return m
}

// digitsOf are a scalar's from -half+1 to half, the least significant first.
func digitsOf(scalar *[size]byte) (digits [rows]int) {
	var padded [2 + size]byte // so that there are three bytes from each
	copy(padded[2:], scalar[:])
	carry := 0
	for i := range digits {
		at := len(padded) - 1 - width*i/8
		three := int(padded[at-2])<<16 | int(padded[at-1])<<8 | int(padded[at])
		digits[i] = three>>(width*i%8)&(1<<width-1) + carry
		if carry = 0; digits[i] > half {
			digits[i] -= 1 << width
			carry = 1
		}
	}
	return digits
}

var order = elliptic.P256().Params().N

// verify is FIPS 186-5 6.4.2 for a digest of the order's length. Its points are the standard library's own code (crypto/internal/fips140/nistec).
func (m *multiples) verify(digest, raw []byte) bool {
	r, s := new(big.Int).SetBytes(raw[:size]), new(big.Int).SetBytes(raw[size:])
	if r.Sign() == 0 || r.Cmp(order) >= 0 || s.Sign() == 0 || s.Cmp(order) >= 0 {
		return false
	}
	w := s.ModInverse(s, order)
	u := new(big.Int).SetBytes(digest)
	var scalar [size]byte
	sum, err := nistec.NewP256Point().ScalarBaseMult(u.Mod(u.Mul(u, w), order).FillBytes(scalar[:]))
	if err != nil {
		return false
	}
	u.Mod(u.Mul(r, w), order).FillBytes(scalar[:])
	digits := digitsOf(&scalar)
	var terms [rows]nistec.P256Point // read before the first is added: the processor then waits for all of them at once, and not for one after the other
	for i, d := range digits {
		if d > 0 {
			terms[i] = m.by[i][d-1]
		} else if d < 0 {
			terms[i] = m.by[i][-d-1]
		}
	}
	for i, d := range digits {
		if d < 0 {
			terms[i].Negate(&terms[i])
		}
		if d != 0 {
			sum.Add(sum, &terms[i])
		}
	}
	x, err := sum.BytesX()
	if err != nil { // the point at infinity
		return false
	}
	return u.Mod(u.SetBytes(x), order).Cmp(r) == 0
}
