package main

import "testing"

// A list's signature ends in any byte, also in one that is a line's end in a text.
func TestTrimmed(t *testing.T) {
	for in, want := range map[string]string{
		"eyJhbGciOiJFUzI1NiJ9.e30.AA\n": "eyJhbGciOiJFUzI1NiJ9.e30.AA",
		"\xd2\x84\x43\xa1\x01\x26\x0a":  "\xd2\x84\x43\xa1\x01\x26\x0a",
		"\xd2\x84\x43\xa1\x01\x26\x20":  "\xd2\x84\x43\xa1\x01\x26\x20",
	} {
		if got := string(trimmed([]byte(in))); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}
