package index

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"math/big"
	"testing"
)

var testKey = sha256.Sum256([]byte("index test key"))

// Both orders: of lists that are opened now, and of those that were before.
var makers = []struct {
	name string
	of   func(key [32]byte, id string, n uint64) (Order, error)
	most uint64
}{{"shuffled", New, MaxSize}, {"swap or not", SwapOrNot, 1 << 40}}

func listKeyOf(version, id string) cipher.Block {
	m := hmac.New(sha256.New, testKey[:])
	m.Write([]byte("sealkeeper/" + version + "/index/list"))
	m.Write([]byte{0})
	m.Write([]byte(id))
	block, err := aes.NewCipher(m.Sum(nil))
	if err != nil {
		panic(err)
	}
	return block
}

// slowShuffle is the construction of the package comment, written from that text alone with big numbers.
func slowShuffle(id string, n int64) []int64 {
	block, counter := listKeyOf("v2", id), new(big.Int)
	var left []byte
	next := func() *big.Int {
		if len(left) == 0 {
			left = make([]byte, 16)
			block.Encrypt(left, counter.FillBytes(make([]byte, 16)))
			counter.Add(counter, big.NewInt(1))
		}
		u := new(big.Int).SetBytes(left[:8])
		left = left[8:]
		return u
	}
	two64 := new(big.Int).Lsh(big.NewInt(1), 64)
	draw := func(m int64) int64 {
		least := new(big.Int).Mod(two64, big.NewInt(m))
		for {
			hi, lo := new(big.Int).DivMod(new(big.Int).Mul(next(), big.NewInt(m)), two64, new(big.Int))
			if lo.Cmp(least) >= 0 {
				return hi.Int64()
			}
		}
	}
	x := make([]int64, n)
	for i := range x {
		x[i] = int64(i)
	}
	for i := n - 1; i >= 1; i-- {
		j := draw(i + 1)
		x[i], x[j] = x[j], x[i]
	}
	return x
}

// slowSwapOrNot is the construction of SwapOrNot's comment, written from that text alone with big numbers.
func slowSwapOrNot(id string, n, i int64) int64 {
	block := listKeyOf("v1", id)
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
	for _, m := range makers {
		for _, n := range []uint64{1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 31, 64, 101, 255, 256, 257, 1000, 1024, 4097, 1 << 13} {
			p, err := m.of(testKey, "list", n)
			if err != nil {
				t.Fatal(err)
			}
			if p.Len() != n {
				t.Errorf("%s, n=%d: Len() = %d", m.name, n, p.Len())
			}
			seen := make([]bool, n)
			for i := range n {
				x := p.At(i)
				if x >= n || seen[x] {
					t.Fatalf("%s, n=%d: counter %d has index %d, which is outside or taken", m.name, n, i, x)
				}
				seen[x] = true
			}
		}
	}
}

func TestShuffleAsPublished(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 5, 100, 1024, 1<<16 - 1, 1 << 16} {
		p, err := New(testKey, "golden", uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range slowShuffle("golden", n) {
			if got := p.At(uint64(i)); got != uint64(want) {
				t.Fatalf("n=%d: At(%d) = %d, the construction gives %d", n, i, got, want)
			}
		}
	}
}

func TestSwapOrNotAsPublished(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 5, 100, 1024, 1 << 20, 1<<20 - 1, 1 << 40} {
		p, err := SwapOrNot(testKey, "golden", uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []int64{0, 1, 2, n / 3, n / 2, n - 1} {
			if i >= n {
				continue
			}
			if got, want := p.At(uint64(i)), slowSwapOrNot("golden", n, i); got != uint64(want) {
				t.Errorf("n=%d: At(%d) = %d, the construction gives %d", n, i, got, want)
			}
		}
	}
}

// The same numbers for ever: a ledger that was written by an earlier version counts on them.
func TestGoldenValues(t *testing.T) {
	for i, m := range makers {
		p, err := m.of(testKey, "golden", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(p.At(0), p.At(1), p.At(2), p.At(3), p.At(1<<20-1)); got != golden[i] {
			t.Errorf("%s: indices %s, want %s", m.name, got, golden[i])
		}
	}
}

// Each of 0 … m−1 is drawn as often as the others.
func TestDraw(t *testing.T) {
	s := stream{of: cipher.NewCTR(listKeyOf("v2", "draw"), make([]byte, aes.BlockSize))}
	const m, each = 6, 20000
	var drawn [m]int
	for range m * each {
		drawn[s.draw(m)]++
	}
	chi := 0.0
	for _, n := range drawn {
		chi += float64((n-each)*(n-each)) / each
	}
	if chi > 30 { // 5 degrees of freedom: once in 70,000 keys, and this one is always the same
		t.Errorf("%v: chi squared is %f", drawn, chi)
	}
	// Three quarters of 2^64: each third number would be drawn twice as often if none was refused.
	const large = 3 << 62
	thirds := 0
	for range each {
		if s.draw(large)%3 == 0 {
			thirds++
		}
	}
	if thirds < each/3-400 || thirds > each/3+400 {
		t.Errorf("%d of %d numbers are a multiple of three", thirds, each)
	}
}

// Another key or list has another order; the same ones have the same.
func TestKeyAndListSeparate(t *testing.T) {
	for _, m := range makers {
		order := func(key [32]byte, id string) (s string) {
			p, err := m.of(key, id, 1000)
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
			t.Errorf("%s: the order does not depend on key and list, or not on them alone", m.name)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, m := range makers {
		for _, c := range []struct {
			id string
			n  uint64
		}{{"list", 0}, {"list", m.most + 1}, {"", 8}} {
			if p, err := m.of(testKey, c.id, c.n); err == nil || p != nil {
				t.Errorf("%s: (%q, %d) = %v, %v", m.name, c.id, c.n, p, err)
			}
		}
		p, err := m.of(testKey, "list", 8)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []uint64{8, 1 << 63, 1<<64 - 1} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: counter %d of a list of 8 got an index", m.name, i)
					}
				}()
				p.At(i)
			}()
		}
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		if _, err := New(testKey, "list", 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}

// The first was computed once more with openssl enc -aes-256-ctr and numbers without bounds.
var golden = [...]string{"242024 179607 916408 644636 5407", "160053 465194 583890 394057 420196"}
