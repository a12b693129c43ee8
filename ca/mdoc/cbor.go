package mdoc

import (
	"encoding/binary"
	"math"
)

// CBOR is written in the order in which the standard's CDDL is read, each byte once, with preferred heads and definite lengths (WD v4 8.3). These
// are the major types of RFC 8949 3.1 where they stand in a head's first byte.
const (
	unsigned = 0 << 5
	negative = 1 << 5
	bytesOf  = 2 << 5
	textOf   = 3 << 5
	arrayOf  = 4 << 5
	mapOf    = 5 << 5
	tagOf    = 6 << 5
)

// head begins an item: a number, a length or a tag, in the shortest form (RFC 8949 4.2.1).
func head(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n <= math.MaxUint8:
		return append(b, major|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

func integer(b []byte, n int64) []byte {
	if n < 0 {
		return head(b, negative, uint64(-1-n))
	}
	return head(b, unsigned, uint64(n))
}

func text(b []byte, s string) []byte { return append(head(b, textOf, uint64(len(s))), s...) }

func octets(b, s []byte) []byte { return append(head(b, bytesOf, uint64(len(s))), s...) }

// embedded is #6.24(bstr .cbor content).
func embedded(b, content []byte) []byte { return octets(head(b, tagOf, tagEncodedCBOR), content) }
