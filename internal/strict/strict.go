// Package strict decodes JSON from outside: bounded in size and depth before decoding, case-sensitive, valid UTF-8, and with unknown
// and duplicate members refused.
package strict

import (
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
	depth, inString, escaped := 0, false, false
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > l.Depth {
				return fmt.Errorf("document is nested deeper than %d", l.Depth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}
