package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Mark is what a token carries beside its keys: how often the appliance has started with it. It is all that the daemon can have written to a
// token apart from new keys: a fixed size, a fixed beginning, and a worker that gives it a fixed label.
type Mark struct {
	Installation [16]byte
	Counter      uint64 // from 1 on
	MAC          [32]byte
}

// MarkSize is the size of an encoded mark.
const MarkSize = len(markBegin) + 16 + 8 + 32

const markBegin = "skmark1\x00"

// Covered is what the MAC is computed over: all that comes before it.
func (m Mark) Covered() []byte {
	return binary.BigEndian.AppendUint64(append([]byte(markBegin), m.Installation[:]...), m.Counter)
}

// Bytes is the mark's one encoding.
func (m Mark) Bytes() []byte { return append(m.Covered(), m.MAC[:]...) }

// ParseMark takes nothing but what Bytes makes. It knows no key: whether the MAC is right, only the daemon can tell.
func ParseMark(b []byte) (m Mark, err error) {
	rest, ok := bytes.CutPrefix(b, []byte(markBegin))
	if !ok || len(b) != MarkSize {
		return m, errors.New("not a mark of version 1")
	}
	rest = rest[copy(m.Installation[:], rest):]
	m.Counter = binary.BigEndian.Uint64(rest)
	copy(m.MAC[:], rest[8:])
	if m.Counter == 0 {
		return m, errors.New("a mark counts from 1 on")
	}
	return m, nil
}
