package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"sealkeeper/policy"
)

// KeyState of the registry.
type KeyState string

const (
	KeyGenerated KeyState = "generated"
	KeyActive    KeyState = "active"
	KeyStopped   KeyState = "stopped"
)

// Key is a registry entry. Validity dates live here, never in the token.
type Key struct {
	ID        string         `json:"id"`
	Token     string         `json:"token"` // "online", "iaca"
	Purpose   policy.Purpose `json:"purpose"`
	Algorithm string         `json:"algorithm"` // "ES256", "ES384", "EdDSA"
	CKAID     []byte         `json:"cka_id"`
	SPKI      []byte         `json:"spki"`  // pinned, DER
	Chain     [][]byte       `json:"chain"` // DER, leaf first; the anchor is not part of it (the root's own chain is itself)
	State     KeyState       `json:"state"`
	NotBefore time.Time      `json:"not_before"` // private-key use
	NotAfter  time.Time      `json:"not_after"`
	Copies    bool           `json:"copies"` // made with the template that allows session copies
}

// Keys of the registry, sorted by id. The slice is shared and immutable.
func (l *Ledger) Keys() []Key { return *l.keys.Load() }

func (l *Ledger) key(id string) (Key, bool) {
	all := l.Keys()
	i, ok := slices.BinarySearchFunc(all, id, func(k Key, id string) int { return strings.Compare(k.ID, id) })
	if !ok {
		return Key{}, false
	}
	return all[i], true
}

func (l *Ledger) loadKeys(ctx context.Context) error {
	all := []Key{}
	err := scan(ctx, l.store, TableKeys, nil, func(e Entry) error {
		k, err := decode[Key](TableKeys, e.Value)
		if err == nil {
			all = append(all, *k)
		}
		return err
	})
	l.keys.Store(&all) // in the order of the rows' keys, which are the ids
	return err
}

// PutKey adds or changes an entry: purpose, token, algorithm, CKA_ID and SPKI of an existing one can't change. Journalled with a leaf.
func (l *Ledger) PutKey(ctx context.Context, k Key) error {
	if l.dead.Load() {
		return ErrStopped
	}
	switch k.State {
	case KeyGenerated, KeyActive, KeyStopped:
	default:
		return fmt.Errorf("key %q has state %q, which does not exist", k.ID, k.State)
	}
	if k.ID == "" || k.Token == "" || k.Purpose == "" || k.Algorithm == "" || len(k.CKAID) == 0 || len(k.SPKI) == 0 {
		return fmt.Errorf("key %q: id, token, purpose, algorithm, CKA_ID and SPKI are all needed", k.ID)
	}
	for {
		old, rev, err := get[Key](ctx, l, TableKeys, []byte(k.ID))
		if err != nil {
			return err
		}
		if old != nil && (old.Purpose != k.Purpose || old.Token != k.Token || old.Algorithm != k.Algorithm || old.Copies != k.Copies ||
			!bytes.Equal(old.CKAID, k.CKAID) || !bytes.Equal(old.SPKI, k.SPKI)) {
			return refuse("key.identity", "key %q is another key: what it is can't change, register it under a new id", k.ID)
		}
		if old != nil && old.State == KeyStopped && k.State != KeyStopped {
			return refuse("key.stopped", "key %q was stopped, which is for ever", k.ID)
		}
		spki := sha256.Sum256(k.SPKI)
		leaf := Leaf{Kind: "key", At: l.o.Clock.Now(), Name: k.ID, State: string(k.State), Operation: string(k.Purpose), Digest: spki[:]}
		row := Row{Table: TableKeys, Key: []byte(k.ID), Value: encode(k), If: If(rev)}
		out, err := l.commit(ctx, leaf, []Row{row}, false, func(uint64) {
			all := slices.Clone(l.Keys())
			i, known := slices.BinarySearchFunc(all, k.ID, func(k Key, id string) int { return strings.Compare(k.ID, id) })
			if known {
				all[i] = k
			} else {
				all = slices.Insert(all, i, k)
			}
			l.keys.Store(&all)
		})
		if err != nil || out.Conflict == nil {
			return err
		}
	}
}

// Meta values: small named facts ("domain-secret/online", "accepted-clock", "installation", …), journalled with a leaf.
func (l *Ledger) Meta(ctx context.Context, name string) (value []byte, ok bool, err error) {
	if l.dead.Load() {
		return nil, false, ErrStopped
	}
	value, rev, err := l.store.Get(ctx, TableMeta, []byte(name))
	if err != nil {
		return nil, false, l.readFailed(err)
	}
	return value, rev != 0, nil
}

// PutMeta stores a meta value; it is journalled under its name and hash.
func (l *Ledger) PutMeta(ctx context.Context, name string, value []byte) error {
	if l.dead.Load() {
		return ErrStopped
	}
	if value == nil {
		value = []byte{} // nil would delete
	}
	digest := sha256.Sum256(value)
	_, err := l.commit(ctx, Leaf{Kind: "meta", At: l.o.Clock.Now(), Name: name, Digest: digest[:]},
		[]Row{{Table: TableMeta, Key: []byte(name), Value: value, If: Any}}, false, nil)
	return err
}

// Certificate issued by the appliance.
type Certificate struct {
	Serial  []byte    `json:"serial"`
	Profile string    `json:"profile"`
	Name    string    `json:"name"`
	DER     []byte    `json:"der"`
	At      time.Time `json:"at"`
	Revoked time.Time `json:"revoked,omitzero"`
}

// Certificates lists all that were settled, oldest first.
func (l *Ledger) Certificates(ctx context.Context) ([]Certificate, error) {
	var all []Certificate
	err := scan(ctx, l.store, TableCertificates, nil, func(e Entry) error {
		c, err := decode[Certificate](TableCertificates, e.Value)
		if err == nil {
			all = append(all, *c)
		}
		return err
	})
	if err != nil {
		return nil, l.readFailed(err)
	}
	slices.SortStableFunc(all, func(a, b Certificate) int { return a.At.Compare(b.At) })
	return all, nil
}

// CRLState is the newest revocation list of the IACA; Number 0: none yet.
func (l *Ledger) CRLState(ctx context.Context) (number uint64, der []byte, thisUpdate, nextUpdate time.Time, err error) {
	c, _, err := get[CRLRecord](ctx, l, TableCRLs, crlKey)
	if err != nil || c == nil {
		return 0, nil, time.Time{}, time.Time{}, err
	}
	return c.Number, c.DER, c.ThisUpdate, c.NextUpdate, nil
}
