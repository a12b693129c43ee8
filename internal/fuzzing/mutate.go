package fuzzing

import (
	"bytes"
	"math/rand/v2"
	"slices"
)

// mutator makes inputs from seeds: some changes in a seed's tree, then sometimes some in its bytes.
type mutator struct {
	r       *rand.Rand
	longest int
	seeds   [][]byte
	trees   []*node
	nodes   [][]*node // of each tree
	undo    []func()
	out     []byte
}

func newMutator(r *rand.Rand, longest int, seeds [][]byte) *mutator {
	m := &mutator{r: r, longest: longest}
	if m.longest == 0 {
		m.longest = 64 << 10
	}
	if len(seeds) == 0 {
		seeds = [][]byte{nil}
	}
	for _, s := range seeds {
		m.seeds = append(m.seeds, bytes.Clone(s))
		tree := guess(m.seeds[len(m.seeds)-1], 0)
		m.trees = append(m.trees, tree)
		var all []*node
		var walk func(*node)
		walk = func(n *node) {
			all = append(all, n)
			for _, k := range n.kids {
				walk(k)
			}
		}
		walk(tree)
		m.nodes = append(m.nodes, all)
	}
	return m
}

// next gives another input, valid until the next call.
func (m *mutator) next() []byte {
	which := m.r.IntN(len(m.seeds))
	longest := min(m.longest, 4*len(m.seeds[which])+1024)
	if m.r.IntN(400) == 0 { // large inputs cost more than they find: few of them
		longest = m.longest
	}
	m.out = m.out[:0]
	if changes := m.r.IntN(5); changes > 0 && len(m.nodes[which]) > 1 {
		for range changes {
			m.change(which, longest)
		}
		m.out = m.trees[which].bytes(m.out, longest)
		for i := len(m.undo) - 1; i >= 0; i-- {
			m.undo[i]()
		}
		m.undo = m.undo[:0]
		if m.r.IntN(4) > 0 {
			return m.out
		}
	} else {
		m.out = append(m.out, m.seeds[which]...)
	}
	for range 1 + m.r.IntN(4) {
		m.out = m.bytes(m.out, longest)
	}
	m.out = m.out[:min(len(m.out), longest)]
	return m.out
}

// change does one thing to one node, and remembers how to undo it.
func (m *mutator) change(which, longest int) {
	n := pick(m.r, m.nodes[which])
	was := *n
	m.undo = append(m.undo, func() { *n = was })
	if len(n.kids) == 0 {
		if n.head != nil && m.r.IntN(4) == 0 {
			m.head(n)
			return
		}
		n.leaf = m.bytes(slices.Clone(n.leaf), longest)
		return
	}
	n.kids = slices.Clone(n.kids)
	i, j := m.r.IntN(len(n.kids)), m.r.IntN(len(n.kids))
	switch m.r.IntN(12) {
	case 0:
		n.kids = slices.Insert(n.kids, j, n.kids[i]) // twice
	case 1, 2:
		n.kids = slices.Delete(n.kids, i, i+1)
	case 3:
		n.kids[i], n.kids[j] = n.kids[j], n.kids[i]
	case 4:
		n.kids = n.kids[:i]
	case 5, 6:
		n.kids[i] = m.donor(which, n.kids[i].form)
	case 7:
		n.kids = slices.Insert(n.kids, j, m.donor(which, n.kids[i].form))
	case 8: // deeper
		for range 1 << m.r.IntN(7) {
			n.kids[i] = &node{form: n.form, head: n.head, kids: []*node{n.kids[i]}}
		}
	case 9: // longer
		size := max(1, len(n.kids[i].bytes(nil, longest)))
		times := 1 << m.r.IntN(6)
		if longest == m.longest && m.r.IntN(2) == 0 {
			times = longest / size
		}
		n.kids = slices.Insert(n.kids, i, slices.Repeat([]*node{n.kids[i]}, min(times, 1+longest/size))...)
	default:
		m.head(n)
	}
}

// head changes what stands before the content: its tag, its length, or how that is written.
func (m *mutator) head(n *node) {
	switch m.r.IntN(5) {
	case 0:
		n.wide = true
	case 1:
		n.lie = 1 - 2*m.r.IntN(2)
	case 2:
		n.lie = m.r.IntN(1 << m.r.IntN(31))
	case 3:
		if len(n.head) > 0 {
			n.head = []byte{byte(m.r.Uint32())}
		}
	case 4:
		if len(n.head) > 0 {
			n.head = m.bytes(slices.Clone(n.head), 16)
		}
	}
}

// donor is a node from any seed, of the same form if one is met soon.
func (m *mutator) donor(which int, f form) *node {
	if m.r.IntN(2) == 0 {
		which = m.r.IntN(len(m.nodes))
	}
	n := pick(m.r, m.nodes[which])
	for range 4 {
		if n.form == f {
			break
		}
		n = pick(m.r, m.nodes[which])
	}
	return n
}

// tokens are pieces at which decoders were seen to stumble.
var tokens = [][]byte{
	[]byte("null"), []byte("true"), []byte("{}"), []byte("[]"), []byte(`""`), []byte("-0"), []byte("1e999"), []byte("1E400"), []byte("0.1"), []byte("18446744073709551616"),
	[]byte("9223372036854775807"), []byte("-9223372036854775808"), []byte("253402300800"), []byte("9007199254740993"), []byte(`"\u0000"`), []byte(`"\ud800"`), []byte(`"\u2028"`),
	[]byte(`\u006e`), []byte("\xff"), []byte("\xef\xbb\xbf"), []byte("\xed\xa0\x80"), []byte("\x00"), []byte("\r\n"), []byte(".."), []byte("="), []byte("=="), []byte("~"), []byte("%00"), []byte("../"),
	[]byte("&a"), []byte("*a"), []byte("<<: "), []byte("!!binary "), []byte("- "), []byte("? "), []byte("| "), []byte("NaN"), []byte("+Inf"), []byte("0x7fffffff"), []byte("1_000"),
	{0x9f}, {0xbf}, {0x5f}, {0xff}, {0xf6}, {0xf7}, {0xf9, 0x7e, 0}, {0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0}, {0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	{0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x5a, 0x7f, 0xff, 0xff, 0xff}, {0xba, 0, 1, 0, 0}, {0xc2, 0x40}, {0xd8, 24, 0x41, 0xa0},
	{0x30, 0x80}, {0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}, {0x02, 0x01, 0x00}, {0x05, 0x00}, {0x06, 0x03, 0x2a, 0x80, 0x01}, {0x03, 0x01, 0x00}, {0x03, 0x02, 0x07, 0xff}, {0x1f, 0x81, 0x80, 0x00},
	{0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {0x7f, 0xff, 0xff, 0xff}, {0x80, 0, 0, 0}, {0, 0, 0, 1},
}

// bytes changes some without knowing what they are.
func (m *mutator) bytes(b []byte, longest int) []byte {
	if len(b) == 0 {
		return append(b, pick(m.r, tokens)...)
	}
	at := m.r.IntN(len(b))
	end := min(len(b), at+1+m.r.IntN(1<<m.r.IntN(8)))
	switch m.r.IntN(12) {
	case 0, 1:
		b[at] ^= 1 << m.r.IntN(8)
	case 2:
		b[at] = byte(m.r.Uint32())
	case 3:
		b[at] += byte(m.r.IntN(17)) - 8
	case 4:
		b = slices.Insert(b, at, pick(m.r, tokens)...)
	case 5:
		t := pick(m.r, tokens)
		b = slices.Replace(b, at, min(len(b), at+len(t)), t...)
	case 6:
		b = slices.Delete(b, at, end)
	case 7:
		b = b[:at]
	case 8:
		part := slices.Clone(b[at:end])
		b = slices.Insert(b, m.r.IntN(len(b)), part...)
	case 9: // longer
		part := slices.Clone(b[at:end])
		times := 1 << m.r.IntN(6)
		if longest == m.longest && m.r.IntN(2) == 0 {
			times = longest / len(part)
		}
		b = slices.Insert(b, at, bytes.Repeat(part, min(times, 1+longest/len(part)))...)
	case 10: // a piece of another
		other := pick(m.r, m.seeds)
		if len(other) > 0 {
			from := m.r.IntN(len(other))
			b = slices.Replace(b, at, end, other[from:min(len(other), from+1+m.r.IntN(256))]...)
		}
	case 11: // a token alone
		b = append(b[:0], pick(m.r, tokens)...)
	}
	return b
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }
