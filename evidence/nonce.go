package evidence

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"
)

// A nonce is base64url(version 1 | milliseconds u16 | unix seconds u48 | 16 random | MAC 32), big endian. Nothing about it is stored until it
// is used: the MAC says that this appliance made it, for whom and when. 57 bytes are a multiple of 3, so the text has no spare bits.
//
// It is as old as its second says. The milliseconds, which are 0 in nonces of before, say where its mark lies among others.
const (
	nonceVersion = 1
	nonceMAC     = 1 + 8 + 16 // where the MAC begins
	nonceSize    = nonceMAC + sha256.Size
	nonceLabel   = "sealkeeper/evidence/nonce/1"
)

// Nonce mints a nonce for a client and document type: it authenticates itself (MAC over client, document type and time), so nothing is
// stored until it is used. random must be crypto/rand outside tests.
func (v *Verifier) Nonce(client, documentType string, at time.Time, random [16]byte) (nonce string, expires time.Time) {
	raw := make([]byte, nonceMAC, nonceSize)
	raw[0] = nonceVersion
	binary.BigEndian.PutUint64(raw[1:], uint64(at.Unix()))
	binary.BigEndian.PutUint16(raw[1:], uint16(at.Nanosecond()/1e6))
	copy(raw[9:], random[:])
	sum := v.nonceMAC(client, documentType, raw)
	raw = append(raw, sum[:]...)
	return base64.RawURLEncoding.EncodeToString(raw), time.Unix(at.Unix(), 0).UTC().Add(v.trust.NonceLife)
}

// nonceMAC covers label, client, document type and the nonce's head. Each of the three texts is preceded by its length, so that no two
// different pairs of client and type give the same bytes.
func (v *Verifier) nonceMAC(client, documentType string, head []byte) [sha256.Size]byte {
	return keyed(v.nonces, head, nonceLabel, client, documentType)
}

// checkNonce says whether this appliance minted the nonce for this client and document type, a short while ago, and what to burn so
// that it works once only. The mark may be forgotten when the nonce is refused for its age by every clock within Skew.
//
// minted is when, with the milliseconds.
func (v *Verifier) checkNonce(about About, nonce string) (_ Burn, minted time.Time, _ error) {
	if nonce == "" {
		return Burn{}, minted, refuse("nonce_missing", "the proof has no nonce; ask for one first")
	}
	if len(nonce) != base64.RawURLEncoding.EncodedLen(nonceSize) {
		return Burn{}, minted, refuse("nonce_malformed", "the nonce doesn't have the length of this appliance's nonces")
	}
	raw, ok := decode64(nonce)
	if !ok || raw[0] != nonceVersion {
		return Burn{}, minted, refuse("nonce_malformed", "the nonce is not one of this appliance's format")
	}
	if sum := v.nonceMAC(about.Client, about.DocumentType, raw[:nonceMAC]); !hmac.Equal(raw[nonceMAC:], sum[:]) {
		return Burn{}, minted, refuse("nonce_foreign", "the nonce was not made here for this client and document type")
	}
	// Authentic from here on: the time is one that Nonce wrote.
	ms, second := binary.BigEndian.Uint16(raw[1:]), binary.BigEndian.Uint64(raw[1:])&(1<<48-1)
	made := time.Unix(int64(second), 0).UTC()
	if made.After(about.At.Add(v.trust.Skew)) {
		return Burn{}, minted, refuse("nonce_from_future", "the nonce was made later than now; check the appliance's clock")
	}
	expires := made.Add(v.trust.NonceLife)
	if about.At.After(expires) {
		return Burn{}, minted, refuse("nonce_expired", "the nonce is older than its life of "+v.trust.NonceLife.String()+"; ask for a new one")
	}
	minted = made.Add(time.Duration(ms) * time.Millisecond)
	return Burn{Kind: BurnNonce, ID: burnID(minted, sha256.Sum256(raw[1:nonceMAC])), Until: expires.Add(v.trust.Skew)}, minted, nil
}
