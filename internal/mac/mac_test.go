package mac

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"sync"
	"testing"
)

// Every MAC is that of the standard library, whatever was made before or is on its way.
func TestSame(t *testing.T) {
	key := [32]byte{1, 2, 3}
	k := New(key)
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			message := bytes.Repeat([]byte{byte(n)}, n)
			want := hmac.New(sha256.New, key[:])
			want.Write(message)
			for range 3 {
				if got := k.Sum(message); !bytes.Equal(got[:], want.Sum(nil)) {
					t.Errorf("a message of %d bytes has another MAC", n)
				}
			}
			if !bytes.Equal(message, bytes.Repeat([]byte{byte(n)}, n)) {
				t.Error("the message was changed")
			}
		})
	}
	all.Wait()
	if New([32]byte{3}).Sum(nil) == k.Sum(nil) {
		t.Error("another key has the same MAC")
	}
}

// What was said does not stay with the key.
func TestNothingStays(t *testing.T) {
	k := New([32]byte{1})
	k.Sum([]byte("900101-1234567"))
	h := k.idle.Get().(*keyed)
	if text := h.text[:cap(h.text)]; !bytes.Equal(text, make([]byte, len(text))) {
		t.Errorf("%q is left", text)
	}
}

func BenchmarkMAC(b *testing.B) {
	k, message := New([32]byte{1}), make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		k.Sum(message)
	}
}
