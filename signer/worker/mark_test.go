package worker

import (
	"bytes"
	"testing"

	"sealkeeper/signer/wire"
)

// What a worker writes beside keys is a mark and nothing else; a newer one takes the place of older ones of its installation only, and the
// workers of one token see the same.
func TestNothingIsWrittenButMarks(t *testing.T) {
	h := newHSM(t)
	one, two := h.ready(h.hello()), h.ready(h.hello())
	mine := func(n uint64) wire.Mark { return wire.Mark{Installation: [16]byte{1}, Counter: n} }
	other := wire.Mark{Installation: [16]byte{2}, Counter: 7}
	marks := func(c *child, write []byte, want ...wire.Mark) {
		t.Helper()
		a := c.ask(wire.Request{Op: wire.OpMark, Mark: write})
		if a.Class != wire.OK || len(a.Marks) != len(want) {
			t.Fatalf("%d marks instead of %d: %s %s", len(a.Marks), len(want), a.Class, a.Error)
		}
		for _, w := range want {
			found := false
			for _, b := range a.Marks {
				found = found || bytes.Equal(b, w.Bytes())
			}
			if !found {
				t.Fatalf("mark %d is missing", w.Counter)
			}
		}
	}
	marks(one, nil)
	marks(one, mine(1).Bytes(), mine(1))
	marks(two, nil, mine(1))
	marks(two, mine(1).Bytes(), mine(1)) // there already
	marks(one, other.Bytes(), mine(1), other)
	marks(two, mine(2).Bytes(), mine(2), other)
	marks(one, mine(2).Bytes(), mine(2), other)
	for _, b := range [][]byte{[]byte("a digest from outside, 32 bytes."), mine(3).Bytes()[1:], append(mine(3).Bytes(), 0), mine(0).Bytes()} {
		if a := one.ask(wire.Request{Op: wire.OpMark, Mark: b}); a.Class != wire.Faulty {
			t.Errorf("%x was written: %+v", b, a)
		}
	}
	marks(h.ready(h.hello()), nil, mine(2), other)
}
