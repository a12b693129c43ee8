package android

// Classes of ASN.1 tags (X.690 8.1.2.2).
const (
	universal = 0
	context   = 2
)

// Universal tags that KeyDescription uses.
const (
	tagBoolean    = 1
	tagInteger    = 2
	tagOctets     = 4
	tagNull       = 5
	tagEnumerated = 10
	tagSequence   = 16
	tagSet        = 17
)

// element is one DER element, its content not looked into.
type element struct {
	class       byte
	constructed bool
	tag         uint32
	content     []byte
}

// next reads the first element of b. It takes distinguished encoding only (X.690 10.1, 8.1.2.4): definite lengths in the fewest octets
// and tags in their one form. encoding/asn1 stops silently at tags that it doesn't know and can't tell an absent INTEGER from a zero;
// here neither may happen, because absence of a field is a statement about the key.
func next(b []byte) (e element, rest []byte, ok bool) {
	if len(b) < 2 {
		return element{}, nil, false
	}
	e.class, e.constructed, e.tag = b[0]>>6, b[0]&0x20 != 0, uint32(b[0]&0x1f)
	b = b[1:]
	if e.tag == 0x1f {
		e.tag = 0
		for i := 0; ; i++ {
			if i >= len(b) || i == 4 || i == 0 && b[0] == 0x80 {
				return element{}, nil, false
			}
			e.tag = e.tag<<7 | uint32(b[i]&0x7f)
			if b[i] < 0x80 {
				b = b[i+1:]
				break
			}
		}
		if e.tag < 0x1f || len(b) == 0 {
			return element{}, nil, false
		}
	}
	size := int(b[0])
	b = b[1:]
	if size >= 0x80 {
		n := size & 0x7f
		if n == 0 || n > 3 || len(b) < n || b[0] == 0 {
			return element{}, nil, false
		}
		size = 0
		for _, c := range b[:n] {
			size = size<<8 | int(c)
		}
		if b = b[n:]; size < 0x80 {
			return element{}, nil, false
		}
	}
	if size > len(b) {
		return element{}, nil, false
	}
	e.content = b[:size]
	return e, b[size:], true
}

// is reports whether e is a universal type in its DER form: constructed for SEQUENCE and SET, primitive for all else.
func (e element) is(tag uint32) bool {
	return e.class == universal && e.tag == tag && e.constructed == (tag == tagSequence || tag == tagSet)
}

// reader walks the elements of one content. After the first fault it only gives zero values; ok says whether there was one.
type reader struct {
	left []byte
	bad  bool
}

func (r *reader) take(tag uint32) []byte {
	if r.bad {
		return nil
	}
	e, rest, ok := next(r.left)
	if !ok || !e.is(tag) {
		r.bad = true
		return nil
	}
	r.left = rest
	return e.content
}

func (r *reader) number(tag uint32) uint64 {
	n, ok := number(r.take(tag))
	r.bad = r.bad || !ok
	return n
}

func (r *reader) boolean() bool {
	b := r.take(tagBoolean)
	if len(b) != 1 || b[0] != 0 && b[0] != 0xff { // X.690 11.1
		r.bad = true
		return false
	}
	return b[0] == 0xff
}

// done reports whether everything was read and nothing was wrong.
func (r *reader) done() bool { return !r.bad && len(r.left) == 0 }

// number is the content of an INTEGER or ENUMERATED, in the fewest octets (X.690 8.3.2), not negative, below 2^64.
func number(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 9 || b[0] >= 0x80 || len(b) > 1 && b[0] == 0 && b[1] < 0x80 || len(b) == 9 && b[0] != 0 {
		return 0, false
	}
	n := uint64(0)
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n, true
}
