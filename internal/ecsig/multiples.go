package ecsig

import (
	"crypto/elliptic"
	"math/big"
	"sync/atomic"

	"filippo.io/nistec"
)

const size = 32 // bytes of a coordinate, of a scalar and of a digest

// point is a key of P-256 uncompressed (SEC 1, 2.3.3).
type point [1 + 2*size]byte

// multiples of a key Q: by[i][d-1] is d·256^(31-i)·Q, so that u·Q is the sum of one of each row, by the bytes of u. They are not secret and neither
// is what they are used for, so which of them are read may show.
type multiples struct {
	by   [size][255]nistec.P256Point
	used atomic.Int64 // in this period
}

// multiplesOf takes some 40 verifications' time. It is nil for what is no point of the curve.
func multiplesOf(p point) *multiples {
	step, err := nistec.NewP256Point().SetBytes(p[:])
	if err != nil || step.IsInfinity() == 1 {
		return nil
	}
	m := new(multiples)
	for i := size - 1; i >= 0; i-- {
		sum := nistec.NewP256Point()
		for d := range m.by[i] {
			m.by[i][d] = *nistec.NewP256Point().Set(sum.Add(sum, step))
		}
		step.Add(sum, step)
	}
	return m
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
	var terms [size]nistec.P256Point // read before the first is added: the processor then waits for all of them at once, and not for one after the other
	for i, d := range scalar {
		if d != 0 {
			terms[i] = m.by[i][d-1]
		}
	}
	for i, d := range scalar {
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
