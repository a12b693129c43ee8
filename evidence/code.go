package evidence

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"
)

// A code is a session without a phone yet: an office makes it for the person at the counter, its officer's statement names it, and the first
// phone that scans it (a QR code, mostly) and gets a card with it uses it up. Like a session it authenticates itself and nothing is stored
// before it is used.
//
// As bytes: version 1 | 16 random | AES-256-GCM(subject 32 | second 8), and then base64url, under a key as that of sessions.
const (
	codeVersion = 1
	codeHead    = 1 + 16
	codeBody    = 32 + 8
	codeSize    = codeHead + codeBody + 16
	codeLabel   = "sealkeeper/evidence/code/1"
)

// CodeLife is how long a code may be scanned (fact 22).
const CodeLife = 90 * time.Second

// OfficeCode is an opened code. The zero value is none.
type OfficeCode struct {
	id      [32]byte
	subject [32]byte
	made    time.Time // whole second
}

// SealCode makes a code for a person. random must be crypto/rand outside tests.
func (v *Verifier) SealCode(client, documentType string, subject [32]byte, at time.Time, random [16]byte) (text string, code OfficeCode, expires time.Time) {
	raw := make([]byte, codeHead, codeSize)
	raw[0] = codeVersion
	copy(raw[1:], random[:])
	made := time.Unix(at.Unix(), 0).UTC()
	body := binary.BigEndian.AppendUint64(append(make([]byte, 0, codeBody), subject[:]...), uint64(made.Unix()))
	raw = v.gcm(codeLabel, client, documentType, raw[1:codeHead]).Seal(raw, make([]byte, sessionNonceLen), body, raw[:1])
	return base64.RawURLEncoding.EncodeToString(raw), OfficeCode{id: sha256.Sum256(raw), subject: subject, made: made}, made.Add(CodeLife)
}

// OpenCode authenticates a code's text and asks how old it is.
func (v *Verifier) OpenCode(client, documentType, text string, at time.Time) (OfficeCode, error) {
	if len(text) != base64.RawURLEncoding.EncodedLen(codeSize) {
		return OfficeCode{}, refuse("code_malformed", "the code doesn't have the length of this appliance's codes")
	}
	raw, ok := decode64(text)
	if !ok || raw[0] != codeVersion {
		return OfficeCode{}, refuse("code_malformed", "the code is not one of this appliance's format")
	}
	body, err := v.gcm(codeLabel, client, documentType, raw[1:codeHead]).Open(nil, make([]byte, sessionNonceLen), raw[codeHead:], raw[:1])
	if err != nil {
		return OfficeCode{}, refuse("code_foreign", "the code was not made here for this client and document type")
	}
	c := OfficeCode{id: sha256.Sum256(raw), subject: [32]byte(body[:32]), made: time.Unix(int64(binary.BigEndian.Uint64(body[32:])), 0).UTC()}
	if age := at.Sub(c.made); age > CodeLife || age < -v.trust.Skew {
		return OfficeCode{}, refuse("code_expired", "the code is older than 90 seconds: make a new one")
	}
	return c, nil
}

// Valid reports whether c came from this package.
func (c OfficeCode) Valid() bool { return !c.made.IsZero() }

// Subject is the pseudonym of the person.
func (c OfficeCode) Subject() [32]byte { return c.subject }

// ID names the code in the officer's statement, as a session's id does.
func (c OfficeCode) ID() string { return base64.RawURLEncoding.EncodeToString(c.id[:]) }

// burn of the code that a session was opened with.
func (v *Verifier) burnCode(s Session) Burn {
	return Burn{Kind: BurnCode, ID: burnID(s.code.made, s.code.id), Until: s.code.made.Add(CodeLife + v.trust.NonceLife + 2*v.trust.Skew)}
}

// gcm is used for one message: its key is made of what the message is for and 16 random bytes.
func (v *Verifier) gcm(label, client, documentType string, random []byte) cipher.AEAD {
	key := keyed(v.sessions, nil, label, string(random), client, documentType)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // 32 bytes are an AES-256 key
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm
}
