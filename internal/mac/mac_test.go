package mac

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"sync"
	"testing"
)

// Every MAC is that of the standard library, whatever was begun before or is on its way.
func TestSame(t *testing.T) {
	key := [32]byte{1, 2, 3}
	k := New(key)
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			message := bytes.Repeat([]byte{byte(n)}, n)
			want, got := hmac.New(sha256.New, key[:]), k.Begin()
			want.Write(message)
			got.Write(message[:n/2])
			k.Begin().Write(message)
			got.Write(message[n/2:])
			if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Errorf("a message of %d bytes has another MAC", n)
			}
			got.Reset()
			got.Write(message)
			if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Errorf("a message of %d bytes has another MAC after a reset", n)
			}
		})
	}
	all.Wait()
	if other := New([32]byte{3}).Begin(); bytes.Equal(other.Sum(nil), k.Begin().Sum(nil)) {
		t.Error("another key has the same MAC")
	}
}

func BenchmarkMAC(b *testing.B) {
	k, message := New([32]byte{1}), make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		h := k.Begin()
		h.Write(message)
		h.Sum(nil)
	}
}
