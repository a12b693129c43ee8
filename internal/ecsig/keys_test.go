package ecsig

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"sealkeeper/internal/fuzzing"
)

type signer struct {
	*ecdsa.PrivateKey
	point
}

func newSigner(t testing.TB) signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, point(text)}
}

func (s signer) sign(t testing.TB, digest []byte) []byte {
	r, v, err := ecdsa.Sign(rand.Reader, s.PrivateKey, digest)
	if err != nil {
		t.Fatal(err)
	}
	return append(r.FillBytes(make([]byte, size)), v.FillBytes(make([]byte, size))...)
}

// Every one of the vectors that were made to break such arithmetic, by the multiples alone.
func TestWycheproof(t *testing.T) {
	data, err := os.ReadFile("testdata/ecdsa_secp256r1_sha256_p1363_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		NumberOfTests int
		TestGroups    []struct {
			PublicKey struct{ Uncompressed string }
			Tests     []struct {
				TcID                      int
				Comment, Msg, Sig, Result string
			}
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	n := 0
	for _, g := range file.TestGroups {
		m := multiplesOf(point(unhex(g.PublicKey.Uncompressed)))
		for _, c := range g.Tests {
			n++
			digest, sig := sha256.Sum256(unhex(c.Msg)), unhex(c.Sig)
			if got := len(sig) == 2*size && m.verify(digest[:], sig); got != (c.Result == "valid") {
				t.Errorf("%d, %s: %v, must be %s", c.TcID, c.Comment, got, c.Result)
			}
		}
	}
	if n != file.NumberOfTests || n < 250 {
		t.Errorf("%d of %d vectors", n, file.NumberOfTests)
	}
}

// Each row's numbers are what they are said to be, by the standard library's own multiplication.
func TestMultiples(t *testing.T) {
	s := newSigner(t)
	m := multiplesOf(s.point)
	for i := range rows {
		for _, d := range []int{1, 2, half - 1, half} {
			u := new(big.Int).Lsh(big.NewInt(int64(d)), uint(width*i))
			u.Mod(u, order)
			//lint:ignore SA1019 an independent second opinion
			x, y := elliptic.P256().ScalarMult(s.X, s.Y, u.Bytes())
			want := append(append([]byte{4}, x.FillBytes(make([]byte, size))...), y.FillBytes(make([]byte, size))...)
			if got := m.by[i][d-1].Bytes(); !bytes.Equal(got, want) {
				t.Errorf("%d·2^%d: %x instead of %x", d, width*i, got, want)
			}
		}
	}
	for _, bad := range []point{{}, {4}, {4, 1}} {
		if multiplesOf(bad) != nil {
			t.Errorf("%x has multiples", bad)
		}
	}
}

// Digits are in their bounds and mean the scalar.
func TestDigits(t *testing.T) {
	check := func(t interface{ Fatalf(string, ...any) }, scalar [size]byte) {
		sum := new(big.Int)
		for i, d := range digitsOf(&scalar) {
			if d <= -half || d > half {
				t.Fatalf("%x has the digit %d", scalar, d)
			}
			sum.Add(sum, new(big.Int).Lsh(big.NewInt(int64(d)), uint(width*i)))
		}
		if sum.Cmp(new(big.Int).SetBytes(scalar[:])) != 0 {
			t.Fatalf("the digits of %x make %x", scalar, sum)
		}
	}
	var all, middle [size]byte
	for i := range all {
		all[i], middle[i] = 0xff, 0x80
	}
	check(t, [size]byte{})
	check(t, all)
	check(t, middle)
	for bit := range 8 * size {
		one := new(big.Int).Lsh(big.NewInt(1), uint(bit))
		check(t, [size]byte(one.FillBytes(make([]byte, size))))
		check(t, [size]byte(one.Sub(one, big.NewInt(1)).FillBytes(make([]byte, size))))
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, [size]byte(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "scalar")))
	})
}

// A key that comes often gets multiples, by good signatures alone, and the answers stay what they were.
func TestKeysThatComeOften(t *testing.T) {
	var k Keys
	s, other := newSigner(t), newSigner(t)
	digest := sha256.Sum256([]byte("signed"))
	good := s.sign(t, digest[:])
	bad := bytes.Clone(good)
	bad[40] ^= 1
	for range 3 * often {
		if k.Verify(&s.PublicKey, digest[:], bad) || k.Verify(&other.PublicKey, digest[:], good) {
			t.Fatal("a bad signature is accepted")
		}
	}
	if k.tables()[s.point] != nil || len(k.good) != 0 {
		t.Error("bad signatures are counted")
	}
	for i := range often {
		if k.tables()[s.point] != nil {
			t.Errorf("multiples after %d", i)
		}
		if !k.Verify(&s.PublicKey, digest[:], good) {
			t.Fatal("a good signature is refused")
		}
	}
	if k.tables()[s.point] == nil || k.tables()[other.point] != nil {
		t.Fatal("the key that came often, and only that one, must have multiples")
	}
	if n := k.tables()[s.point].used.Load(); n != often { // or another as frequent would take its place
		t.Errorf("%d of its signatures are counted for its place", n)
	}
	if !k.Verify(&s.PublicKey, digest[:], good) || k.Verify(&s.PublicKey, digest[:], bad) || k.Verify(&other.PublicKey, digest[:], good) {
		t.Error("with multiples the answer is another one")
	}
	for _, short := range [][]byte{nil, good[:63], append(bytes.Clone(good), 0)} {
		if k.Verify(&s.PublicKey, digest[:], short) {
			t.Errorf("%d bytes are accepted", len(short))
		}
	}
	long, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, v, err := ecdsa.Sign(rand.Reader, long, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	if raw := append(r.FillBytes(make([]byte, 48)), v.FillBytes(make([]byte, 48))...); !k.Verify(&long.PublicKey, digest[:], raw) {
		t.Error("P-384 is refused")
	}
}

// Memory that changed under a table refuses nobody and lets nothing in: the standard library says no, and the table is forgotten.
func TestChangedMultiples(t *testing.T) {
	var k Keys
	s, other := newSigner(t), newSigner(t)
	digest := sha256.Sum256([]byte("signed"))
	good := s.sign(t, digest[:])
	k.replace(s.point, multiplesOf(other.point)) // as wrong as can be
	if !k.Verify(&s.PublicKey, digest[:], good) {
		t.Error("a good signature is refused")
	}
	if k.tables()[s.point] != nil {
		t.Error("the wrong table is kept")
	}
	bad := bytes.Clone(good)
	bad[3] ^= 1
	k.replace(s.point, multiplesOf(s.point))
	if k.Verify(&s.PublicKey, digest[:], bad) || k.tables()[s.point] == nil {
		t.Error("a bad signature is accepted, or costs a table")
	}
}

// There is room for so many tables and no more; a key that comes more than twice as often as another takes its place, one that doesn't, doesn't.
func TestRoomForMultiples(t *testing.T) {
	var k Keys
	one := multiplesOf(newSigner(t).point)
	for i := range most {
		m := &multiples{by: one.by}
		m.used.Store(int64(often + i))
		k.replace(point{4, byte(i)}, m)
	}
	k.counted, k.good = 1, map[point]int{} // in the middle of a period
	s := newSigner(t)
	digest := sha256.Sum256([]byte("signed"))
	good := s.sign(t, digest[:])
	for i := 1; ; i++ {
		if !k.Verify(&s.PublicKey, digest[:], good) {
			t.Fatal("a good signature is refused")
		}
		if k.tables()[s.point] != nil {
			if i != 2*often {
				t.Errorf("its place was taken after %d", i)
			}
			break
		}
		if i > 3*often {
			t.Fatal("a key that comes often never gets multiples")
		}
	}
	if of := k.tables(); len(of) != most || of[point{4, 0}] != nil {
		t.Errorf("%d tables, or not the least used one was given up", len(of))
	}
	for i := range period { // of so many keys that none comes often
		if k.count(point{5, byte(i), byte(i >> 8)}) {
			t.Fatal("a key that came once")
		}
	}
	if len(k.good) > period {
		t.Errorf("%d keys are counted", len(k.good))
	}
}

// Many at once: one of them makes the table.
func TestKeysAtOnce(t *testing.T) {
	var k Keys
	s := newSigner(t)
	digest := sha256.Sum256([]byte("signed"))
	good := s.sign(t, digest[:])
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range often / 2 {
				if !k.Verify(&s.PublicKey, digest[:], good) {
					t.Error("a good signature is refused")
				}
			}
		})
	}
	all.Wait()
	if k.tables()[s.point] == nil {
		t.Error("no multiples")
	}
	due, fresh := 0, Keys{}
	for range 3 * often { // all of them before the table is there
		if fresh.count(s.point) {
			due++
		}
	}
	if due != 1 {
		t.Errorf("%d tables of one key", due)
	}
}

// Multiples answer as the standard library does, for whatever stands in place of digest and signature.
func FuzzKeys(f *testing.F) {
	s := newSigner(f)
	m := multiplesOf(s.point)
	digest := sha256.Sum256([]byte("signed"))
	n := order.FillBytes(make([]byte, size))
	good := append(digest[:], s.sign(f, digest[:])...)
	seeds := [][]byte{good, append(bytes.Clone(digest[:]), bytes.Repeat(n, 2)...), make([]byte, 3*size), bytes.Repeat([]byte{0xff}, 3*size)}
	repair := func(b []byte) []byte {
		if len(b) < size {
			return b
		}
		return append(bytes.Clone(b[:size]), s.sign(f, b[:size])...)
	}
	fuzzing.Run(f, fuzzing.Options{Longest: 3 * size, Repair: repair}, seeds, func(t *testing.T, b []byte) bool {
		if len(b) != 3*size {
			return false
		}
		got, want := m.verify(b[:size], b[size:]), Verify(&s.PublicKey, b[:size], b[size:])
		if got != want {
			t.Errorf("%x: %v, the standard library says %v", b, got, want)
		}
		return got
	})
}

func BenchmarkVerify(b *testing.B) {
	s := newSigner(b)
	digest := sha256.Sum256([]byte("signed"))
	good := s.sign(b, digest[:])
	var k Keys
	k.replace(s.point, multiplesOf(s.point))
	for name, verify := range map[string]func(*ecdsa.PublicKey, []byte, []byte) bool{"known": k.Verify, "any": Verify} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !verify(&s.PublicKey, digest[:], good) {
					b.Fatal("refused")
				}
			}
		})
	}
}
