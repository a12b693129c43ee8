// Package ecsig verifies ECDSA signatures that are r‖s, each of full length, as JOSE and COSE write them (RFC 7518 3.4, RFC 9053 2.1).
package ecsig

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
)

// Verify accepts a signature of the curve's length alone, on P-256 or P-384.
func Verify(key *ecdsa.PublicKey, digest, raw []byte) bool {
	switch key.Curve {
	case elliptic.P256():
		return len(raw) == 2*32 && ecdsa.VerifyASN1(key, digest, der(raw))
	case elliptic.P384():
		return len(raw) == 2*48 && ecdsa.VerifyASN1(key, digest, der(raw))
	}
	return false
}

// der is Ecdsa-Sig-Value (RFC 3279 2.2.3), which the standard library verifies. Both curves' are shorter than 128 bytes.
func der(raw []byte) []byte {
	b := append(make([]byte, 0, len(raw)+8), 0x30, 0)
	b = integer(b, raw[:len(raw)/2])
	b = integer(b, raw[len(raw)/2:])
	b[1] = byte(len(b) - 2)
	return b
}

// integer is the shortest form of a number that is not negative: without leading zeros, but for one before a byte that would be read as a sign.
func integer(b, n []byte) []byte {
	n = bytes.TrimLeft(n, "\x00")
	if len(n) == 0 || n[0] >= 0x80 {
		return append(append(b, 0x02, byte(len(n)+1), 0), n...)
	}
	return append(append(b, 0x02, byte(len(n))), n...)
}
