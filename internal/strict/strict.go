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
}

// JSON decodes one document into v.
func JSON(data []byte, l Limits, v any) error {
	if err := check(data, l); err != nil {
		return err
	}
	return json.Unmarshal(data, v, json.RejectUnknownMembers(true), jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))
}

// Loose is JSON, but members that v does not name are allowed: for formats whose specification says that others may be present.
func Loose(data []byte, l Limits, v any) error {
	if err := check(data, l); err != nil {
		return err
	}
	return json.Unmarshal(data, v, json.RejectUnknownMembers(false), jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))
}

func check(data []byte, l Limits) error {
	if len(data) > l.Bytes {
		return fmt.Errorf("document has %d bytes, at most %d are allowed", len(data), l.Bytes)
	}
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			i = endOfString(data, i+1)
		case '{', '[':
			if depth++; depth > l.Depth {
				return fmt.Errorf("document is nested deeper than %d", l.Depth)
			}
		case '}', ']':
			depth--
		}
	}
	return nil
}

// endOfString is the place of the quote that ends the string whose first byte is at i. Strings are nearly all of a request, and few of them
// hold an escape: these are stepped through, so that nothing costs more than its length.
func endOfString(data []byte, i int) int {
	n := bytes.IndexByte(data[i:], '"')
	if n < 0 {
		return len(data)
	}
	if bytes.IndexByte(data[i:i+n], '\\') < 0 {
		return i + n
	}
	for ; i < len(data) && data[i] != '"'; i++ {
		if data[i] == '\\' {
			i++
		}
	}
	return i
}
