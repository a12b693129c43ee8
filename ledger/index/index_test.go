package index

import (
	"crypto/aes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"math/big"
	"testing"
)

var testKey = sha256.Sum256([]byte("index test key"))

// slow is the construction of the package comment, written from that text alone with big numbers.
func slow(key [32]byte, id string, n, i int64) int64 {
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte("sealkeeper/v1/index/list"))
	m.Write([]byte{0})
	m.Write([]byte(id))
	block, err := aes.NewCipher(m.Sum(nil))
	if err != nil {
		panic(err)
	}
	be := func(x int64, size int) []byte { return big.NewInt(x).FillBytes(make([]byte, size)) }
	encrypt := func(parts ...[]byte) []byte {
		var in []byte
		for _, p := range parts {
			in = append(in, p...)
		}
		out := make([]byte, 16)
		block.Encrypt(out, in)
		return out
	}
	lg := 0
	for v := n - 1; v > 0; v /= 2 {
		lg++
	}
	count := 24 * lg
	if count < 90 {
		count = 90
	}
	N, x := big.NewInt(n), big.NewInt(i)
	for r := int64(0); r < int64(count); r++ {
		k := new(big.Int).Mod(new(big.Int).SetBytes(encrypt([]byte{0}, be(r, 4), make([]byte, 11))), N)
		partner := new(big.Int).Mod(new(big.Int).Sub(k, x), N)
		top := x
		if partner.Cmp(x) > 0 {
			top = partner
		}
		if encrypt([]byte{1}, be(r, 4), make([]byte, 3), be(top.Int64(), 8))[15]&1 == 1 {
			x = partner
		}
	}
	return x.Int64()
}

// I2: an index belongs to at most one credential. So every counter value has its own index, and all are inside the list.
func TestEveryIndexExactlyOnce(t *testing.T) {
	for _, n := range []uint64{1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 31, 64, 101, 255, 256, 257, 1000, 1024, 4097, 1 << 13} {
		p, err := New(testKey, "list", n)
		if err != nil {
			t.Fatal(err)
		}
		seen, k := make([]bool, n), uint64(0)
		for i := uint64(0); i < n && n <= 257; i += k { // some more together each time
			k = min(k%20+1, n-i)
			for j, x := range p.From(i, int(k)) {
				if x != p.At(i+uint64(j)) {
					t.Fatalf("n=%d: counter %d has another index among %d from %d on", n, i+uint64(j), k, i)
				}
			}
		}
		for i := range n {
			x := p.At(i)
			if x >= n || seen[x] {
				t.Fatalf("n=%d: counter %d has index %d, which is outside or taken", n, i, x)
			}
			seen[x] = true
		}
	}
}

func TestGoldenValues(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 5, 100, 1024, 1 << 20, 1<<20 - 1, 1 << 40} {
		p, err := New(testKey, "golden", uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []int64{0, 1, 2, n / 3, n / 2, n - 1} {
			if i >= n {
				continue
			}
			if got, want := p.At(uint64(i)), slow(testKey, "golden", n, i); got != uint64(want) {
				t.Errorf("n=%d: At(%d) = %d, the construction gives %d", n, i, got, want)
			}
		}
	}
	// The same numbers for ever: a ledger that was written by an earlier version counts on them.
	p, err := New(testKey, "golden", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.At(0), p.At(1), p.At(2), p.At(3), p.At(1<<20-1)); got != golden {
		t.Errorf("indices %s, want %s", got, golden)
	}
}

// Another key or list has another order; the same ones have the same.
func TestKeyAndListSeparate(t *testing.T) {
	order := func(key [32]byte, id string) (s string) {
		p, err := New(key, id, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(40) {
			s += fmt.Sprint(p.At(i), " ")
		}
		return s
	}
	a := order(testKey, "a")
	if a != order(testKey, "a") || a == order(testKey, "b") || a == order(sha256.Sum256([]byte("other")), "a") {
		t.Error("the order does not depend on key and list, or not on them alone")
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		id string
		n  uint64
	}{{"list", 0}, {"list", MaxSize + 1}, {"", 8}} {
		if p, err := New(testKey, c.id, c.n); err == nil || p != nil {
			t.Errorf("New(%q, %d) = %v, %v", c.id, c.n, p, err)
		}
	}
	p, err := New(testKey, "list", 8)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from uint64
		k    int
	}{{8, 1}, {1 << 63, 1}, {7, 2}, {0, 9}, {0, 0}, {0, -1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d counters from %d on, of a list of 8, got an index", c.k, c.from)
				}
			}()
			p.From(c.from, c.k)
		}()
	}
}

// BenchmarkFrom is by the indices that are made together.
func BenchmarkFrom(b *testing.B) {
	p, err := New(testKey, "list", 1<<20)
	if err != nil {
		b.Fatal(err)
	}
	for _, k := range []int{1, 4, 8, 16} {
		b.Run(fmt.Sprint(k), func(b *testing.B) {
			b.ReportAllocs()
			for i := uint64(0); b.Loop(); i += uint64(k) {
				p.From(i&(1<<20-1), k)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*k), "ns/index")
		})
	}
}

const golden = "160053 465194 583890 394057 420196"
