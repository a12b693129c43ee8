// Package strict decodes JSON from outside: bounded in size and depth before decoding, case-sensitive, valid UTF-8, and with unknown
// and duplicate members refused.
package strict

import (
	"bytes"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits bound a document before anything is allocated for it.
type Limits struct {
	Bytes int // whole document
	Depth int // nested arrays and objects

	// Values are members and elements, default a sixteenth of Bytes. Decoded into any, each costs up to 90 bytes for the two that it came in.
	Values int

	// Escapes are those in strings, default a sixth of Bytes, as many as a text of nothing but \u escapes has. To take one out costs as much time as
	// ten other bytes.
	Escapes int
}

func (l Limits) escapes() int {
	if l.Escapes > 0 {
		return l.Escapes
	}
	return max(64, l.Bytes/6)
}

func (l Limits) values() int {
	if l.Values > 0 {
		return l.Values
	}
	return max(64, l.Bytes/16)
}

// JSON decodes one document into v.
func JSON(data []byte, l Limits, v any) error {
	if err := Within(data, l); err != nil {
		return err
	}
	return json.Unmarshal(data, v, json.RejectUnknownMembers(true), jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))
}

// Loose is JSON, but members that v does not name are allowed: for formats whose specification says that others may be present.
func Loose(data []byte, l Limits, v any) error {
	if err := Within(data, l); err != nil {
		return err
	}
	return json.Unmarshal(data, v, json.RejectUnknownMembers(false), jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))
}

// Within refuses a document that is larger, deeper, or of more values or escapes than the limits allow. It may be no JSON: whoever decodes it will say so.
func Within(data []byte, l Limits) error {
	if len(data) > l.Bytes {
		return fmt.Errorf("document has %d bytes, at most %d are allowed", len(data), l.Bytes)
	}
	depth, values, escapes := 0, 1, 0
	var objects uint64 // bit n: the container at depth n is an object; nothing that is wanted is deeper than 63
	name := false      // a string that begins here would be a member's name
	fresh := true      // a string, an object or an array may begin here
	named := false     // a colon may stand here
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			if !fresh {
				return nil // the decoder stops here, and says where: what follows is not worth a look
			}
			from := i
			var n int
			if i, n = endOfString(data, i+1); name && i-from > maxName {
				return fmt.Errorf("a member's name is longer than %d bytes", maxName)
			}
			if escapes += n; escapes > l.escapes() {
				return fmt.Errorf("document has more than %d escapes in its strings", l.escapes())
			}
			fresh, named, name = false, name, false
		case ':':
			if !named {
				return nil
			}
			fresh, named = true, false
		case '{', '[':
			if !fresh {
				return nil
			}
			if depth++; depth > min(l.Depth, 63) {
				return fmt.Errorf("document is nested deeper than %d", l.Depth)
			}
			if name = data[i] == '{'; name {
				objects |= 1 << max(depth, 0)
			} else {
				objects &^= 1 << max(depth, 0)
			}
		case '}', ']':
			depth--
			fresh, named = false, false
		case ',':
			fresh, named = true, false
			if values++; values > l.values() {
				return fmt.Errorf("document has more than %d values", l.values())
			}
			name = objects&(1<<max(depth, 0)) != 0
		}
	}
	return nil
}

// maxName bounds names: the decoder's error about an unknown one holds it ten times.
const maxName = 1024

// endOfString is the place of the quote that ends the string whose first byte is at i, and how many escapes are before it. Strings are nearly all
// of a request, and few of them hold an escape: these are stepped through, so that nothing costs more than its length.
func endOfString(data []byte, i int) (end, escapes int) {
	n := bytes.IndexByte(data[i:], '"')
	if n < 0 {
		return len(data), 0
	}
	if bytes.IndexByte(data[i:i+n], '\\') < 0 {
		return i + n, 0
	}
	for ; i < len(data) && data[i] != '"'; i++ {
		if data[i] == '\\' {
			i++
			escapes++
		}
	}
	return i, escapes
}
