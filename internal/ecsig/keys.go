package ecsig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"maps"
	"sync"
	"sync/atomic"
)

const (
	often  = 256     // good signatures by a key, after which its multiples cost what they would have saved
	most   = 16      // keys with multiples, 2.4 MB each
	period = 1 << 14 // good signatures by keys without, after which all are counted anew
)

// Keys verifies as Verify does, in a third of the time for the P-256 keys that come most: it has multiples of them at hand. It may say yes from
// these alone; no is always the standard library's to say, so that a table that memory changed refuses nobody, and is forgotten when it shows.
//
// It is meant for keys of known parties, and not for those of phones, which come once. The zero value is ready, for any number of goroutines.
type Keys struct {
	of atomic.Pointer[map[point]*multiples] // is replaced, never changed

	mu      sync.Mutex
	counted int           // in this period
	good    map[point]int // signatures in this period by keys without multiples
}

// Verify accepts what Verify accepts.
func (k *Keys) Verify(key *ecdsa.PublicKey, digest, raw []byte) bool {
	if key.Curve != elliptic.P256() || len(digest) != size || len(raw) != 2*size {
		return Verify(key, digest, raw)
	}
	text, err := key.Bytes()
	if err != nil || len(text) != len(point{}) {
		return Verify(key, digest, raw)
	}
	p := point(text)
	m := k.tables()[p]
	if m != nil && m.verify(digest, raw) {
		m.used.Add(1)
		return true
	}
	if !Verify(key, digest, raw) {
		return false
	}
	if m != nil {
		k.replace(p, nil)
	} else if k.count(p) {
		// The signature that is known to be good is what a new table is tried with.
		if m = multiplesOf(p); m != nil && m.verify(digest, raw) {
			m.used.Store(often) // so many of its signatures were good in this period
			k.replace(p, m)
		}
	}
	return true
}

// tables are for reading alone.
func (k *Keys) tables() map[point]*multiples {
	if of := k.of.Load(); of != nil {
		return *of
	}
	return nil
}

// count says whether to make multiples of the key now: to one caller, and only if there is room for them, or will be in place of a key that
// came less than half as often.
func (k *Keys) count(p point) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.counted == 0 {
		k.good = map[point]int{}
		for _, m := range k.tables() {
			m.used.Store(0)
		}
	}
	k.counted = (k.counted + 1) % period
	k.good[p]++
	if k.good[p] < often {
		return false
	}
	if _, least, full := k.least(); full && least > int64(k.good[p])/2 {
		return false
	}
	k.good[p] = -period // others that come before the table is there make no second one
	return true
}

// least finds whose multiples were used least in this period, if there is no room for more.
func (k *Keys) least() (p point, used int64, full bool) {
	tables := k.tables()
	if len(tables) < most {
		return p, 0, false
	}
	for q, m := range tables {
		if n := m.used.Load(); !full || n < used {
			p, used, full = q, n, true
		}
	}
	return p, used, true
}

// replace puts the multiples of a key in the place of what was there, if it is nil takes them away.
func (k *Keys) replace(p point, m *multiples) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := map[point]*multiples{}
	maps.Copy(next, k.tables())
	if m == nil {
		delete(next, p)
	} else {
		if q, _, full := k.least(); full && next[p] == nil {
			delete(next, q)
		}
		next[p] = m
	}
	k.of.Store(&next)
}
