package android

import "testing"

// One element has one encoding (X.690 10.1, 8.1.2.4): each of these is another one of a number, or none.
func TestOneEncodingOfAnElement(t *testing.T) {
	for what, v := range map[string]struct {
		in string
		ok bool
	}{
		"a number":                         {"\x02\x01\x05", true},
		"tag 31":                           {"\xbf\x1f\x00", true},
		"tag 704":                          {"\xbf\x85\x40\x00", true},
		"tag 704 with a zero in front":     {"\xbf\x80\x85\x40\x00", false},
		"tag 30 in high form":              {"\xbf\x1e\x00", false},
		"a tag of five octets":             {"\xbf\x81\x81\x81\x81\x01\x00", false},
		"a tag without end":                {"\xbf\x85", false},
		"a tag without length":             {"\xbf\x85\x40", false},
		"127 octets":                       {"\x04\x7f" + string(make([]byte, 127)), true},
		"128 octets":                       {"\x04\x81\x80" + string(make([]byte, 128)), true},
		"127 octets in long form":          {"\x04\x81\x7f" + string(make([]byte, 127)), false},
		"128 octets, length of two octets": {"\x04\x82\x00\x80" + string(make([]byte, 128)), false},
		"256 octets":                       {"\x04\x82\x01\x00" + string(make([]byte, 256)), true},
		"indefinite":                       {"\x30\x80\x00\x00", false},
		"a length of four octets":          {"\x04\x84\x01\x00\x00\x00", false},
		"a length cut":                     {"\x04\x82\x01", false},
		"content cut":                      {"\x04\x02\x00", false},
		"one octet":                        {"\x04", false},
	} {
		e, rest, ok := next([]byte(v.in + "rest"))
		if !v.ok && (what == "content cut" || what == "a length cut" || what == "one octet" || what == "a tag without end" || what == "a tag without length") {
			e, rest, ok = next([]byte(v.in))
		}
		if ok != v.ok || ok && (string(rest) != "rest" || len(e.content) > len(v.in)) {
			t.Errorf("%s: %v, content %x, rest %q", what, ok, e.content, rest)
		}
	}
}
