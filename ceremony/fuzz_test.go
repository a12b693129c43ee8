package ceremony

import (
	"bytes"
	"testing"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/internal/signed"
)

// What is read of a paper is what it says, in its one form; nothing that was changed after signing verifies.
func FuzzTranscript(f *testing.F) {
	h, transcript := held(f, "Test")
	whole := h.sign(transcript, "kim", "lee")
	seeds := [][]byte{whole, transcript, h.opening, []byte(`{"payload":{"kind":"ceremony-transcript"},"signatures":[]}`)}
	fuzzing.Run(f, fuzzing.Options{Longest: limits.Bytes + 1, Decode: func(data []byte) { _, _ = Read(data) }}, seeds, func(t *testing.T, data []byte) bool {
		p, err := Read(data)
		if err != nil {
			if _, err := Verify(data, Outside{}); err == nil {
				t.Fatal("what can't be read was verified")
			}
			return false
		}
		if canonical, err := signed.Canonical(p.payload); err != nil || !bytes.Equal(canonical, p.payload) {
			t.Fatalf("%v: not in its one form: %s", err, p.payload)
		}
		for _, s := range p.Text() {
			if bytes.ContainsAny([]byte(s), "\r\n\x1b") {
				t.Fatalf("a line of its text is more than one: %q", s)
			}
		}
		if r, err := Verify(data, Outside{}); err == nil && r.Clean() && !bytes.Equal(p.payload, transcript) {
			t.Fatalf("another transcript verifies: %s", data)
		}
		if o, err := Open(data, h.registry); err == nil && !bytes.Equal(o.payload, mustPayload(h.opening)) {
			t.Fatalf("another statement opens: %s", data)
		}
		return true
	})
}

func mustPayload(data []byte) []byte {
	e, err := signed.Parse(data, limits)
	if err != nil {
		panic(err)
	}
	return e.Payload
}
