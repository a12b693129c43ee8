// Package backup makes one encrypted file of everything that an installation can't make again (ledger, tokens, PINs, TLS keys, publish state),
// and puts it back. Files are encrypted to a key that no person and no machine has: it exists as shares, one for each officer, of which as many
// as the threshold says open it together. Making a backup takes the public half alone.
package backup

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"filippo.io/age"
	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"
	"github.com/go-json-experiment/json"

	"sealkeeper/internal/strict"
)

// Bounds of a key.
const (
	minThreshold = 2
	maxHolders   = 32
	maxKey       = 16 << 10
	maxShare     = 4 << 10
)

// field is where secrets are split: its arithmetic takes the same time for every secret.
var field = group.Ristretto255

var (
	holderForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`) // an officer's id
	keyIDForm  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Key is the public half of a backup key, with what makes its shares fit together. It is no secret.
type Key struct {
	ID        string    // SHA-256 of all the rest
	Made      time.Time // for people
	Threshold int       // how many shares open a backup
	Holders   []string  // officers; the n-th has share n
	file      keyFile
	recipient *age.X25519Recipient
	committed secretsharing.SecretCommitment
}

type keyFile struct {
	V           int       `json:"v"`
	ID          string    `json:"id"`
	Made        time.Time `json:"made"`
	Recipient   string    `json:"recipient"` // of age
	Threshold   int       `json:"threshold"`
	Holders     []string  `json:"holders"`
	Commitments []string  `json:"commitments"` // Feldman's, to the coefficients of the polynomial that was split: Ristretto255, hexadecimal
	Identity    []byte    `json:"identity"`    // of age, sealed with AES-256-GCM under a key derived from the secret that was split
}

// Share is an officer's part of a backup key. Alone it says nothing about it.
type Share struct {
	Officer string
	KeyID   string
	number  int
	of      int // threshold
	value   group.Scalar
}

type shareFile struct {
	V         int    `json:"v"`
	Key       string `json:"key"`
	Officer   string `json:"officer"`
	Number    int    `json:"number"`
	Threshold int    `json:"threshold"`
	Value     string `json:"value"` // hexadecimal
}

// NewKey makes a backup key and its shares, one for each holder. What was split is forgotten.
func NewKey(threshold int, holders []string, made time.Time, random io.Reader) (*Key, []*Share, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, nil, err
	}
	secret := field.RandomNonZeroScalar(random)
	split := secretsharing.New(random, uint(max(threshold, 1)-1), secret)
	f := keyFile{V: 1, Made: made.UTC().Truncate(time.Second), Recipient: identity.Recipient().String(), Threshold: threshold, Holders: slices.Clone(holders)}
	for _, c := range split.CommitSecret() {
		b, err := c.MarshalBinaryCompress()
		if err != nil {
			return nil, nil, err
		}
		f.Commitments = append(f.Commitments, hex.EncodeToString(b))
	}
	lid, err := f.lid(secret)
	if err != nil {
		return nil, nil, err
	}
	f.Identity = lid.Seal(nil, make([]byte, lid.NonceSize()), []byte(identity.String()), []byte(f.Recipient)) // the key is used this once
	f.ID = f.id()
	k, err := f.key()
	if err != nil {
		return nil, nil, err
	}
	var shares []*Share
	for i, s := range split.Share(uint(len(holders))) {
		shares = append(shares, &Share{Officer: holders[i], KeyID: k.ID, number: i + 1, of: threshold, value: s.Value})
	}
	return k, shares, nil
}

// id binds everything that a share refers to.
func (f keyFile) id() string {
	f.ID = ""
	b, err := json.Marshal(f, json.Deterministic(true))
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// lid closes and opens the identity.
func (f keyFile) lid(secret group.Scalar) (cipher.AEAD, error) {
	b, err := secret.MarshalBinary()
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, b, nil, "sealkeeper/v1/backup-identity", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// ParseKey reads a public half strictly.
func ParseKey(data []byte) (*Key, error) {
	var f keyFile
	if err := strict.JSON(data, strict.Limits{Bytes: maxKey, Depth: 2, Values: 256}, &f); err != nil {
		return nil, fmt.Errorf("the backup key: %w", err)
	}
	k, err := f.key()
	if err != nil {
		return nil, fmt.Errorf("the backup key: %w", err)
	}
	return k, nil
}

func (f keyFile) key() (*Key, error) {
	switch {
	case f.V != 1:
		return nil, fmt.Errorf("it has version %d, and this program knows version 1", f.V)
	case len(f.Holders) > maxHolders || f.Threshold < minThreshold || f.Threshold > len(f.Holders):
		return nil, fmt.Errorf("%d of %d shares: it takes %d to %d officers, and a threshold of at least %d", f.Threshold, len(f.Holders), minThreshold, maxHolders, minThreshold)
	case len(f.Commitments) != f.Threshold:
		return nil, fmt.Errorf("it has %d commitments for a threshold of %d", len(f.Commitments), f.Threshold)
	case len(f.Identity) < 32 || len(f.Identity) > 256:
		return nil, errors.New("its sealed identity is none")
	case f.Made.IsZero() || f.Made.Location() != time.UTC || f.Made.Nanosecond() != 0:
		return nil, errors.New("it does not say in a full second of UTC when it was made")
	case f.ID != f.id():
		return nil, errors.New("its id is not that of what it says: it was changed")
	}
	for i, h := range f.Holders {
		if !holderForm.MatchString(h) || slices.Contains(f.Holders[:i], h) {
			return nil, fmt.Errorf("%.40q is no officer's id, or stands there twice", h)
		}
	}
	k := &Key{ID: f.ID, Made: f.Made, Threshold: f.Threshold, Holders: f.Holders, file: f}
	var err error
	if k.recipient, err = age.ParseX25519Recipient(f.Recipient); err != nil || k.recipient.String() != f.Recipient {
		return nil, errors.New("its recipient is none of age")
	}
	for i, c := range f.Commitments {
		b, err := hex.DecodeString(c)
		e := field.NewElement()
		if err == nil {
			err = e.UnmarshalBinary(b)
		}
		if err != nil || hex.EncodeToString(b) != c || e.IsIdentity() && i == 0 {
			return nil, fmt.Errorf("commitment %d is no element of Ristretto255", i+1)
		}
		k.committed = append(k.committed, e)
	}
	return k, nil
}

// JSON is the public half as ParseKey reads it.
func (k *Key) JSON() []byte {
	b, err := json.Marshal(k.file, json.Deterministic(true))
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

// Close seals a share with its officer's passphrase (age, scrypt). The result is the officer's share file.
func (s *Share) Close(passphrase string, work int) ([]byte, error) {
	v, err := s.value.MarshalBinary()
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(shareFile{V: 1, Key: s.KeyID, Officer: s.Officer, Number: s.number, Threshold: s.of, Value: hex.EncodeToString(v)}, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, err
	}
	to.SetWorkFactor(work)
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	return out.Bytes(), err
}

// WorkFactor of scrypt for share files: a second of a machine for whoever guesses, each time.
const WorkFactor = 18

// ErrPassphrase: the file is not opened by this passphrase, or was changed.
var ErrPassphrase = errors.New("the passphrase does not open it, or it was damaged")

// OpenShare reads an officer's share file.
func OpenShare(file []byte, passphrase string) (*Share, error) {
	if len(file) > maxShare {
		return nil, fmt.Errorf("it has %d bytes, which no share file has", len(file))
	}
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	id.SetMaxWorkFactor(WorkFactor) // more would be memory that a foreign file asks for
	plain, err := age.Decrypt(bytes.NewReader(file), id)
	if err != nil {
		if _, wrong := errors.AsType[*age.NoIdentityMatchError](err); wrong {
			return nil, ErrPassphrase
		}
		return nil, fmt.Errorf("it is no share file: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(plain, maxShare))
	if err != nil {
		return nil, ErrPassphrase
	}
	return ParseShare(data)
}

// ParseShare reads what is inside of a share file.
func ParseShare(data []byte) (*Share, error) {
	var f shareFile
	if err := strict.JSON(data, strict.Limits{Bytes: maxShare, Depth: 1}, &f); err != nil {
		return nil, fmt.Errorf("the share: %w", err)
	}
	if f.V != 1 || !keyIDForm.MatchString(f.Key) || !holderForm.MatchString(f.Officer) || f.Number < 1 || f.Number > maxHolders || f.Threshold < minThreshold || f.Threshold > maxHolders {
		return nil, errors.New("the share does not say of which key and which officer it is")
	}
	b, err := hex.DecodeString(f.Value)
	v := field.NewScalar()
	if err == nil && len(b) != int(field.Params().ScalarLength) {
		err = errors.New("length")
	}
	if err == nil {
		err = v.UnmarshalBinary(b)
	}
	if err == nil {
		var again []byte
		if again, err = v.MarshalBinary(); err == nil && hex.EncodeToString(again) != f.Value {
			err = errors.New("not written in its one form")
		}
	}
	if err != nil {
		return nil, errors.New("the share's value is no number of Ristretto255")
	}
	return &Share{Officer: f.Officer, KeyID: f.Key, number: f.Number, of: f.Threshold, value: v}, nil
}

// Check says whether a share is the one that its officer got of this key. Only the key's own commitments are asked, not the other shares.
func (k *Key) Check(s *Share) error {
	switch {
	case s.KeyID != k.ID:
		return fmt.Errorf("the share of %s is one of backup key %.12s…, and this is %.12s…: look for the share that was made with it", s.Officer, s.KeyID, k.ID)
	case s.number > len(k.Holders) || k.Holders[s.number-1] != s.Officer || s.of != k.Threshold:
		return fmt.Errorf("the share says that it is number %d, of %s, and the backup key does not", s.number, s.Officer)
	case !secretsharing.Verify(uint(k.Threshold-1), s.share(), k.committed):
		return fmt.Errorf("the share of %s is not the one that was made: it was changed", s.Officer)
	}
	return nil
}

func (s *Share) share() secretsharing.Share {
	return secretsharing.Share{ID: field.NewScalar().SetUint64(uint64(s.number)), Value: s.value}
}

// Opener opens backups of one key. Only Open makes one.
type Opener struct {
	key      *Key
	identity *age.X25519Identity
	By       []string // officers whose shares made it
}

// Open puts shares together. Each is checked by itself first, so that a wrong one is named.
func (k *Key) Open(shares []*Share) (*Opener, error) {
	var parts []secretsharing.Share
	var by []string
	for _, s := range shares {
		if err := k.Check(s); err != nil {
			return nil, err
		}
		if slices.Contains(by, s.Officer) {
			return nil, fmt.Errorf("the share of %s is there twice: it counts once", s.Officer)
		}
		parts, by = append(parts, s.share()), append(by, s.Officer)
	}
	if len(parts) < k.Threshold {
		return nil, fmt.Errorf("there are %d shares, and it takes %d of %d: those of %v", len(parts), k.Threshold, len(k.Holders), k.Holders)
	}
	secret, err := secretsharing.Recover(uint(k.Threshold-1), parts)
	if err != nil {
		return nil, err
	}
	lid, err := k.file.lid(secret)
	if err != nil {
		return nil, err
	}
	text, err := lid.Open(nil, make([]byte, lid.NonceSize()), k.file.Identity, []byte(k.file.Recipient))
	if err != nil {
		return nil, errors.New("the shares fit together, and the backup key's sealed identity is not theirs")
	}
	identity, err := age.ParseX25519Identity(string(text))
	clear(text)
	if err != nil || identity.Recipient().String() != k.file.Recipient {
		return nil, errors.New("the backup key's sealed identity is not that of its recipient")
	}
	return &Opener{key: k, identity: identity, By: by}, nil
}
