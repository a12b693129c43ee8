package backup

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func newKey(t testing.TB, threshold int, holders ...string) (*Key, []*Share) {
	t.Helper()
	k, shares, err := NewKey(threshold, holders, noon, rand.Reader)
	must(t, err)
	return k, shares
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func says(t testing.TB, err error, what ...string) {
	t.Helper()
	for _, w := range what {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%v does not say %q", err, w)
		}
	}
}

// Any M of N shares open the key, in any order, and no fewer do.
func TestAnyThresholdOfShares(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(2, 7).Draw(r, "n")
		m := rapid.IntRange(2, n).Draw(r, "m")
		holders := []string{"ahn", "choi", "han", "kim", "lee", "park", "seo"}[:n]
		k, shares, err := NewKey(m, holders, noon, rand.Reader)
		if err != nil {
			r.Fatal(err)
		}
		if k, err = ParseKey(k.JSON()); err != nil {
			r.Fatal(err)
		}
		some := rapid.Permutation(shares).Draw(r, "order")[:rapid.IntRange(0, n).Draw(r, "there")]
		o, err := k.Open(some)
		if (err == nil) != (len(some) >= m) {
			r.Fatalf("%d shares of %d of %d: %v", len(some), m, n, err)
		}
		if err == nil && o.identity.Recipient().String() != k.file.Recipient {
			r.Fatal("another identity")
		}
	})
}

func TestShareFiles(t *testing.T) {
	k, shares := newKey(t, 2, "kim", "lee", "park")
	file, err := shares[0].Close("correct horse", 10)
	must(t, err)
	s, err := OpenShare(file, "correct horse")
	must(t, err)
	must(t, k.Check(s))
	if _, err := OpenShare(file, "wrong horse"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	file[len(file)-1] ^= 1
	if _, err := OpenShare(file, "correct horse"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("a damaged file: %v", err)
	}
	if _, err := k.Open([]*Share{s, shares[2]}); err != nil {
		t.Error(err)
	}
}

// Whose share is wrong is said, and why: it is never found out by the result alone.
func TestWrongSharesAreNamed(t *testing.T) {
	k, shares := newKey(t, 2, "kim", "lee", "park")
	_, others := newKey(t, 2, "kim", "lee", "park")
	changed := *shares[1]
	changed.value = shares[2].value
	swapped := *shares[1]
	swapped.Officer = "park"
	renumbered := *shares[1]
	renumbered.number, renumbered.Officer = 3, "park"
	lower := *shares[1]
	lower.of = 1
	for _, c := range []struct {
		with *Share
		what []string
	}{
		{others[1], []string{"lee", "backup key", k.ID[:12]}},
		{&changed, []string{"share of lee", "changed"}},
		{&swapped, []string{"number 2, of park"}},
		{&renumbered, []string{"share of park", "changed"}},
		{&lower, []string{"of lee"}},
		{shares[0], []string{"kim", "twice"}},
	} {
		_, err := k.Open([]*Share{shares[0], c.with})
		says(t, err, c.what...)
	}
	_, err := k.Open(shares[:1])
	says(t, err, "1 shares", "2 of 3")
}

// Nothing of a public half can be changed, and none is taken that one person could open.
func TestKeyIsOneThing(t *testing.T) {
	k, _ := newKey(t, 2, "kim", "lee", "park")
	other, _ := newKey(t, 2, "kim", "lee", "park")
	for name, change := range map[string]func(*keyFile){
		"threshold":   func(f *keyFile) { f.Threshold = 3 },
		"holders":     func(f *keyFile) { f.Holders = []string{"kim", "mallory", "park"} },
		"recipient":   func(f *keyFile) { f.Recipient = other.file.Recipient },
		"commitments": func(f *keyFile) { f.Commitments = other.file.Commitments },
		"identity":    func(f *keyFile) { f.Identity = other.file.Identity },
		"made":        func(f *keyFile) { f.Made = f.Made.Add(time.Second) },
	} {
		f := k.file
		change(&f)
		b, err := json.Marshal(f)
		must(t, err)
		if _, err := ParseKey(b); err == nil {
			t.Errorf("%s was changed, and nobody saw it", name)
		}
	}
	for name, change := range map[string]func(*keyFile){
		"one officer":      func(f *keyFile) { f.Threshold, f.Commitments = 1, f.Commitments[:1] },
		"twice":            func(f *keyFile) { f.Holders = []string{"kim", "kim", "park"} },
		"no commitments":   func(f *keyFile) { f.Commitments = nil },
		"identity element": func(f *keyFile) { f.Commitments[0] = strings.Repeat("00", 32) },
		"no element":       func(f *keyFile) { f.Commitments[1] = strings.Repeat("ff", 32) },
		"no recipient":     func(f *keyFile) { f.Recipient = "age1" },
	} {
		f := k.file
		f.Commitments = slices.Clone(f.Commitments)
		change(&f)
		f.ID = f.id()
		b, err := json.Marshal(f)
		must(t, err)
		if _, err := ParseKey(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	// Whoever writes a key of his own around a foreign identity has shares that fit and open nothing.
	f, shares := other.file, []*Share(nil)
	mine, parts := newKey(t, 2, "kim", "lee", "park")
	f.Commitments = mine.file.Commitments
	f.ID = f.id()
	forged, err := f.key()
	must(t, err)
	for _, p := range parts {
		s := *p
		s.KeyID = forged.ID
		shares = append(shares, &s)
	}
	_, err = forged.Open(shares)
	says(t, err, "sealed identity")
}
