package fuzzing

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
)

// form says how a node is written.
type form byte

const (
	raw     form = iota // leaf as it is
	concat              // kids one after the other
	lines               // kids, a line end between
	dotted              // kids, "." between: compact JOSE
	tildes              // kids, "~" between: SD-JWT
	object              // JSON: kids are members
	member              // JSON: key, value
	array               // JSON
	quoted              // JSON text around its kids
	url64               // base64url without padding around its kids
	std64               // base64 with padding around its kids
	der                 // tag, length, leaf or kids
	cborRaw             // CBOR integer, simple value, float
	cborBytes
	cborText
	cborArray
	cborMap // kids are pairs
	cborTag // head is the tag
	pair    // CBOR: key, value
	framed  // four bytes of length, kids
)

// node is a value inside an input, so that changes can be made where they mean something.
type node struct {
	form form
	head []byte // DER: tag; CBOR tag: its bytes
	leaf []byte
	kids []*node
	lie  int  // added to the length that is written
	wide bool // the length is written longer than needed
}

// guess finds out what an input is made of. What it makes of it is written back as the same bytes.
func guess(b []byte, depth int) *node {
	if n := structured(b, depth); n != nil {
		return n
	}
	if bytes.IndexByte(b, '\n') >= 0 {
		n := &node{form: lines}
		for _, l := range bytes.Split(b, []byte("\n")) {
			n.kids = append(n.kids, words(l))
		}
		return n
	}
	return &node{form: raw, leaf: b}
}

// words cuts a line of text after spaces, quotes and colons.
func words(l []byte) *node {
	n := &node{form: concat}
	from := 0
	for i, c := range l {
		if c == ' ' || c == '"' || c == ':' || c == ',' {
			n.kids = append(n.kids, &node{form: raw, leaf: l[from : i+1]})
			from = i + 1
		}
	}
	n.kids = append(n.kids, &node{form: raw, leaf: l[from:]})
	return n
}

// structured is nil for bytes without a structure that is known here.
func structured(b []byte, depth int) *node {
	if depth > 12 || len(b) < 2 {
		return nil
	}
	switch b[0] {
	case '{', '[':
		if n, rest := parseJSON(b, depth); n != nil && len(rest) == 0 {
			return n
		}
	case 0x30:
		if n, rest := parseDER(b, depth); n != nil && len(rest) == 0 {
			return n
		}
	}
	if len(b) > 5 && binary.BigEndian.Uint32(b) == uint32(len(b)-4) {
		if n, rest := parseCBOR(b[4:], depth); n != nil && len(rest) == 0 {
			return &node{form: framed, kids: []*node{n}}
		}
	}
	if b[0] >= 0x80 && b[0] < 0xdc {
		if n, rest := parseCBOR(b, depth); n != nil && len(rest) == 0 {
			return n
		}
	}
	if len(b) < 16 {
		return nil
	}
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '+' || c == '/' || c == '=' || c == '.' || c == '~') {
			return nil
		}
	}
	for _, s := range []struct {
		form form
		by   string
	}{{tildes, "~"}, {dotted, "."}} {
		if bytes.Contains(b, []byte(s.by)) {
			n := &node{form: s.form}
			for _, part := range bytes.Split(b, []byte(s.by)) {
				if kid := structured(part, depth+1); kid != nil {
					n.kids = append(n.kids, kid)
				} else if text, err := base64.RawURLEncoding.Strict().DecodeString(string(part)); err == nil && len(text) > 0 {
					n.kids = append(n.kids, &node{form: url64, kids: []*node{{form: raw, leaf: text}}})
				} else {
					n.kids = append(n.kids, &node{form: raw, leaf: part})
				}
			}
			return n
		}
	}
	for _, e := range []struct {
		form form
		enc  *base64.Encoding
	}{{std64, base64.StdEncoding.Strict()}, {url64, base64.RawURLEncoding.Strict()}} {
		if text, err := e.enc.DecodeString(string(b)); err == nil {
			if kid := structured(text, depth+1); kid != nil {
				return &node{form: e.form, kids: []*node{kid}}
			}
		}
	}
	return nil
}

func space(b []byte) []byte { return bytes.TrimLeft(b, " \t\r\n") }

// parseJSON takes one value off b; white space is lost. It is nil where there is none.
func parseJSON(b []byte, depth int) (*node, []byte) {
	if b = space(b); len(b) == 0 || depth > 40 {
		return nil, b
	}
	switch b[0] {
	case '{', '[':
		n, end := &node{form: array}, byte(']')
		if b[0] == '{' {
			n, end = &node{form: object}, '}'
		}
		b = space(b[1:])
		for first := true; ; first = false {
			if len(b) == 0 {
				return nil, b
			}
			if b[0] == end && first {
				return n, space(b[1:])
			}
			var kid *node
			if kid, b = parseJSON(b, depth+1); kid == nil {
				return nil, b
			}
			if b = space(b); n.form == object {
				if len(b) == 0 || b[0] != ':' {
					return nil, b
				}
				var value *node
				if value, b = parseJSON(b[1:], depth+1); value == nil {
					return nil, b
				}
				kid = &node{form: member, kids: []*node{kid, value}}
			}
			n.kids = append(n.kids, kid)
			if b = space(b); len(b) > 0 && b[0] == ',' {
				b = space(b[1:])
				continue
			}
			if len(b) == 0 || b[0] != end {
				return nil, b
			}
			return n, space(b[1:])
		}
	case '"':
		for i := 1; i < len(b); i++ {
			switch b[i] {
			case '\\':
				i++
			case '"':
				if kid := structured(b[1:i], depth+1); kid != nil {
					return &node{form: quoted, kids: []*node{kid}}, b[i+1:]
				}
				return &node{form: raw, leaf: b[:i+1]}, b[i+1:]
			}
		}
		return nil, b
	default:
		i := bytes.IndexAny(b, ",:]} \t\r\n")
		if i < 0 {
			i = len(b)
		}
		if i == 0 {
			return nil, b
		}
		return &node{form: raw, leaf: b[:i]}, b[i:]
	}
}

func parseDER(b []byte, depth int) (*node, []byte) {
	if len(b) < 2 || b[0]&0x1f == 0x1f || depth > 40 {
		return nil, b
	}
	n := &node{form: der, head: b[:1]}
	size, at := int(b[1]), 2
	if size >= 0x80 {
		k := size & 0x7f
		if k == 0 || k > 3 || len(b) < 2+k {
			return nil, b
		}
		for size = 0; at < 2+k; at++ {
			size = size<<8 | int(b[at])
		}
	}
	if !bytes.Equal(appendDERLength(nil, size), b[1:at]) || len(b)-at < size {
		return nil, b
	}
	content, rest := b[at:at+size], b[at+size:]
	if b[0]&0x20 != 0 {
		for left := content; len(left) > 0; {
			var kid *node
			if kid, left = parseDER(left, depth+1); kid == nil {
				return nil, b
			}
			n.kids = append(n.kids, kid)
		}
		return n, rest
	}
	inner := content
	if b[0] == 3 && len(inner) > 0 && inner[0] == 0 {
		inner = inner[1:]
	}
	if (b[0] == 3 || b[0] == 4) && len(inner) > 2 && inner[0] == 0x30 {
		if kid, left := parseDER(inner, depth+1); kid != nil && len(left) == 0 {
			n.kids = []*node{{form: raw, leaf: content[:len(content)-len(inner)]}, kid}
			return n, rest
		}
	}
	n.leaf = content
	return n, rest
}

func parseCBOR(b []byte, depth int) (*node, []byte) {
	if len(b) == 0 || depth > 40 {
		return nil, b
	}
	major, arg, at := b[0]>>5, uint64(b[0]&31), 1
	if arg >= 24 {
		k := 1 << (arg - 24)
		if arg > 27 || len(b) < 1+k {
			return nil, b
		}
		for arg = 0; at < 1+k; at++ {
			arg = arg<<8 | uint64(b[at])
		}
	}
	whole, rest := b[:at], b[at:]
	if major != 7 && !bytes.Equal(appendCBORHead(nil, major, arg, false), whole) {
		return nil, b
	}
	switch major {
	case 2, 3:
		if arg > uint64(len(rest)) {
			return nil, b
		}
		n := &node{form: cborBytes, leaf: rest[:arg]}
		if major == 3 {
			n.form = cborText
		} else if kid := structured(n.leaf, depth+1); kid != nil {
			n.leaf, n.kids = nil, []*node{kid}
		}
		return n, rest[arg:]
	case 4, 5, 6:
		n := &node{form: cborArray}
		if major == 5 {
			n.form = cborMap
		}
		if major == 6 {
			n.form, n.head, arg = cborTag, whole, 1
		}
		if arg > uint64(len(rest)) {
			return nil, b
		}
		for range arg {
			var kid, value *node
			if kid, rest = parseCBOR(rest, depth+1); kid == nil {
				return nil, b
			}
			if major == 5 {
				if value, rest = parseCBOR(rest, depth+1); value == nil {
					return nil, b
				}
				kid = &node{form: pair, kids: []*node{kid, value}}
			}
			n.kids = append(n.kids, kid)
		}
		return n, rest
	}
	return &node{form: cborRaw, leaf: whole}, rest
}

func appendDERLength(to []byte, n int) []byte {
	switch {
	case n < 0:
		return append(to, 0x80)
	case n < 0x80:
		return append(to, byte(n))
	case n < 0x100:
		return append(to, 0x81, byte(n))
	case n < 0x10000:
		return append(to, 0x82, byte(n>>8), byte(n))
	}
	return append(to, 0x83, byte(n>>16), byte(n>>8), byte(n))
}

func appendCBORHead(to []byte, major byte, n uint64, wide bool) []byte {
	switch major <<= 5; {
	case wide || n > 0xffffffff:
		return binary.BigEndian.AppendUint64(append(to, major|27), n)
	case n < 24:
		return append(to, major|byte(n))
	case n < 0x100:
		return append(to, major|24, byte(n))
	case n < 0x10000:
		return binary.BigEndian.AppendUint16(append(to, major|25), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(to, major|26), uint32(n))
}

// writer writes a tree. Changes can put a node inside itself, or make one base64 of another many times over: depth, size, the number of
// steps and all bytes that were ever written end that.
type writer struct{ longest, steps, left int }

func (n *node) bytes(to []byte, longest int) []byte {
	w := writer{longest, 1 << 14, 8 * longest}
	to = w.write(n, to, 0)
	return to[:min(len(to), longest)]
}

func (w *writer) write(n *node, to []byte, depth int) []byte {
	if w.steps--; w.steps < 0 || w.left < 0 || depth > 300 || len(to) > w.longest {
		return to
	}
	between := func(open, by, end string) []byte {
		to = append(to, open...)
		for i, k := range n.kids {
			if i > 0 {
				to = append(to, by...)
			}
			to = w.write(k, to, depth+1)
		}
		return append(to, end...)
	}
	inner := func() []byte { // kids, or the leaf, on their own
		b := append([]byte(nil), n.leaf...)
		for _, k := range n.kids {
			b = w.write(k, b, depth+1)
		}
		b = b[:min(len(b), w.longest)]
		w.left -= len(b)
		return b
	}
	switch n.form {
	case concat, pair:
		return between("", "", "")
	case lines:
		return between("", "\n", "")
	case dotted:
		return between("", ".", "")
	case tildes:
		return between("", "~", "")
	case object:
		return between("{", ",", "}")
	case member:
		return between("", ":", "")
	case array:
		return between("[", ",", "]")
	case quoted:
		return between(`"`, "", `"`)
	case url64:
		return base64.RawURLEncoding.AppendEncode(to, inner())
	case std64:
		return base64.StdEncoding.AppendEncode(to, inner())
	case der:
		b := inner()
		to = append(to, n.head...)
		if n.wide {
			to = append(to, 0x84, 0)
			return append(append(to, byte(len(b)>>16), byte(len(b)>>8), byte(len(b))), b...)
		}
		return append(appendDERLength(to, len(b)+n.lie), b...)
	case cborBytes, cborText:
		b := inner()
		return append(appendCBORHead(to, byte(n.form-cborBytes)+2, uint64(len(b)+n.lie), n.wide), b...)
	case cborArray, cborMap:
		to = appendCBORHead(to, byte(n.form-cborArray)+4, uint64(len(n.kids)+n.lie), n.wide)
		return between("", "", "")
	case cborTag:
		to = append(to, n.head...)
		return between("", "", "")
	case framed:
		b := inner()
		return append(binary.BigEndian.AppendUint32(to, uint32(len(b)+n.lie)), b...)
	}
	return append(to, n.leaf...)
}
