package ledger

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync/atomic"
	"time"

	"sealkeeper/internal/crashpoint"
)

// Dead letters: events that an identified carrier sent and that were refused, such as one by a key that the policy does not list yet. The
// carrier was told; who has mended the cause can have them judged again. What stands in them is sealed, so that nobody who reads the ledger
// learns a line.

// DeadRecord is a refused event.
type DeadRecord struct {
	Client string    `json:"client"`
	Code   string    `json:"code"` // why
	At     time.Time `json:"at"`
	Sealed []byte    `json:"sealed"` // nonce ‖ AES-256-GCM
}

// DeadLetter is one, for whoever looks at them.
type DeadLetter struct {
	ID, Client, Code string
	At               time.Time
}

const (
	deadMost = 10_000
	deadTTL  = 30 * 24 * time.Hour // afterwards every event is refused for its age
	infoDead = "sealkeeper/v1/dead-letter"
)

// buried counts the rows of TableDead.
type buried struct{ atomic.Int64 }

func deadSealer(s *Secrets) (cipher.AEAD, error) {
	key, err := hkdf.Expand(sha256.New, s.Lookup[:], infoDead, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Bury keeps a refused event. One that is there already stays as it is; above a bound nothing more is kept, and kept is false.
func (l *Ledger) Bury(ctx context.Context, client, code, text string, at time.Time) (kept bool, err error) {
	secrets, err := l.unlocked()
	if err != nil {
		return false, err
	}
	id := sha256.Sum256([]byte(text))
	if old, _, err := get[DeadRecord](ctx, l, TableDead, id[:16]); err != nil || old != nil {
		return old != nil, err
	}
	if l.buried.Load() >= deadMost {
		return false, nil
	}
	aead, err := deadSealer(secrets)
	if err != nil {
		return false, err
	}
	nonce, err := draw[[12]byte](l.random)
	if err != nil {
		return false, err
	}
	r := DeadRecord{Client: client, Code: code, At: at, Sealed: aead.Seal(nonce[:], nonce[:], []byte(text), id[:16])}
	_, err = l.commit(ctx, Leaf{Kind: "dead-letter", At: at, Client: client, Reason: code, Digest: id[:]}, []Row{{Table: TableDead, Key: id[:16], Value: encode(r)}}, false,
		func(uint64) { l.buried.Add(1) })
	return err == nil, err // a conflict: somebody else buried it at the same time
}

// DeadLetters lists what was refused.
func (l *Ledger) DeadLetters(ctx context.Context) (all []DeadLetter, err error) {
	err = scan(ctx, l.store, TableDead, nil, func(e Entry) error {
		r, err := decode[DeadRecord](TableDead, e.Value)
		if err != nil {
			return err
		}
		all = append(all, DeadLetter{ID: hex.EncodeToString(e.Key), Client: r.Client, Code: r.Code, At: r.At})
		return nil
	})
	return all, err
}

// Dead counts dead letters; Letters counts lines that were reported and that nobody is linked to.
func (l *Ledger) Dead() int64    { return l.buried.Load() }
func (l *Ledger) Letters() int64 { return l.letters.Load() }

// DeadLetter opens one.
func (l *Ledger) DeadLetter(ctx context.Context, id string) (client, text string, err error) {
	secrets, err := l.unlocked()
	if err != nil {
		return "", "", err
	}
	key, err := hex.DecodeString(id)
	if err != nil || len(key) != 16 {
		return "", "", refuse("event.not_dead", "%q is the id of no dead letter", id)
	}
	r, _, err := get[DeadRecord](ctx, l, TableDead, key)
	if err != nil {
		return "", "", err
	}
	if r == nil {
		return "", "", refuse("event.not_dead", "%q is the id of no dead letter", id)
	}
	aead, err := deadSealer(secrets)
	if err != nil {
		return "", "", err
	}
	if len(r.Sealed) < aead.NonceSize() {
		return "", "", errors.New("a dead letter is damaged")
	}
	b, err := aead.Open(nil, r.Sealed[:aead.NonceSize()], r.Sealed[aead.NonceSize():], key)
	return r.Client, string(b), err
}

// Raise forgets a dead letter whose event was carried out; none is no error.
func (l *Ledger) Raise(ctx context.Context, text string) error {
	if l.buried.Load() == 0 {
		return nil
	}
	id := sha256.Sum256([]byte(text))
	r, rev, err := get[DeadRecord](ctx, l, TableDead, id[:16])
	if err != nil || r == nil {
		return err
	}
	crashpoint.Here("ledger.raise.before-commit")
	_, err = l.commit(ctx, Leaf{Kind: "dead-letter-done", At: l.o.Clock.Now(), Client: r.Client, Digest: id[:]}, []Row{{Table: TableDead, Key: id[:16], If: If(rev)}}, false,
		func(uint64) { l.buried.Add(-1) })
	return err // a conflict: somebody else was quicker
}

func (l *Ledger) loadDead(ctx context.Context) error {
	return scan(ctx, l.store, TableDead, nil, func(Entry) error { l.buried.Add(1); return nil })
}

// sweepDead erases what would be refused for its age by now.
func (l *Ledger) sweepDead(ctx context.Context, now time.Time) error {
	return scan(ctx, l.store, TableDead, nil, func(e Entry) error {
		r, err := decode[DeadRecord](TableDead, e.Value)
		if err != nil || now.Sub(r.At) < deadTTL {
			return err
		}
		_, err = l.commit(ctx, Leaf{Kind: "sweep", At: now, Count: 1}, []Row{{Table: TableDead, Key: e.Key, If: If(e.Revision)}}, false, func(uint64) { l.buried.Add(-1) })
		return err
	})
}
