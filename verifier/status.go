package verifier

import (
	"bytes"
	"compress/zlib"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Values of a status (Token Status List, draft 20, 7.1).
const (
	Valid     = 0
	Invalid   = 1
	Suspended = 2
	Outdated  = 3 // application-specific: the card has to be renewed, because what it says of the person has changed
)

// Media types of the two token forms.
const (
	MediaJWT = "application/statuslist+jwt"
	MediaCWT = "application/statuslist+cwt"
)

// VerifyStatus checks a fetched status list token, JWT or CWT, and returns the status at an index: the list must be the one that the
// credential points to, signed under one of the roots, not expired, and long enough. The roots are those of the credential's own issuer: any signer below any of
// them is believed about the list.
func VerifyStatus(token []byte, uri string, index uint64, roots []*x509.Certificate, at time.Time) (byte, error) {
	l, err := DecodeStatusList(token, MaxEntries)
	if err != nil {
		return 0, err
	}
	if err := l.Verify(roots, at); err != nil {
		return 0, err
	}
	if l.Subject != uri {
		return 0, fmt.Errorf("the status list is %q, the credential points to %q", l.Subject, uri)
	}
	v, ok := l.Get(index)
	if !ok {
		return 0, fmt.Errorf("index %d lies outside the status list", index)
	}
	return v, nil
}

// StatusList is a decoded list of either form. Until Verify, nothing of it is to be believed.
type StatusList struct {
	MediaType string
	Subject   string // the list's URI
	IssuedAt  time.Time
	Expires   time.Time // zero: none (JWT only)
	TTL       time.Duration
	Version   uint64 // claim sealkeeper_version; 0: none
	Bits      int
	Image     []byte   // the whole array
	Chain     [][]byte // DER, leaf first

	alg              string
	input, signature []byte
}

// DecodeStatusList decodes a token, bounded: an array of more than maxEntries entries is refused before it is inflated further.
func DecodeStatusList(data []byte, maxEntries uint64) (*StatusList, error) {
	if len(data) > maxToken {
		return nil, fmt.Errorf("the status list has %d bytes, at most %d are allowed", len(data), maxToken)
	}
	var (
		l   *StatusList
		lst []byte
		err error
	)
	if major(data) == 6 {
		l, lst, err = decodeCWT(data)
	} else {
		l, lst, err = decodeJWT(data)
	}
	if err != nil {
		return nil, fmt.Errorf("status list: %w", err)
	}
	switch l.Bits {
	case 1, 2, 4, 8:
	default:
		return nil, fmt.Errorf("status list: %d bits an entry are not 1, 2, 4 or 8", l.Bits)
	}
	if l.Subject == "" || l.IssuedAt.IsZero() {
		return nil, errors.New("status list: sub or iat is missing")
	}
	if l.Image, err = inflate(lst, (min(maxEntries, MaxEntries)*uint64(l.Bits)+7)/8); err != nil {
		return nil, fmt.Errorf("status list: %w", err)
	}
	return l, nil
}

// Get returns the status at an index; ok is false out of bounds, which a verifier must refuse (8.3).
func (l *StatusList) Get(index uint64) (status byte, ok bool) {
	if l.Bits == 0 || index >= uint64(len(l.Image))*8/uint64(l.Bits) {
		return 0, false
	}
	at := index * uint64(l.Bits)
	return l.Image[at/8] >> (at % 8) & byte(1<<l.Bits-1), true // least significant bits first (4.1)
}

// VerifySignature checks the signature alone, with a key that the caller trusts for other reasons: auditors who look at old lists.
func (l *StatusList) VerifySignature(key crypto.PublicKey) error {
	return verifySignature(l.alg, key, l.input, l.signature)
}

// Verify checks the signature with the chain's leaf, the chain up to one of the roots, and the list's times.
func (l *StatusList) Verify(roots []*x509.Certificate, at time.Time) error {
	leaf, err := checkChain(l.Chain, roots, at)
	if err != nil {
		return err
	}
	if err := verifySignature(l.alg, leaf.PublicKey, l.input, l.signature); err != nil {
		return fmt.Errorf("status list: %w", err)
	}
	switch {
	case l.IssuedAt.After(at.Add(leeway)):
		return fmt.Errorf("the status list was issued in the future, at %s", l.IssuedAt.Format(time.RFC3339))
	case !l.Expires.IsZero() && !at.Before(l.Expires):
		return fmt.Errorf("the status list expired at %s: fetch a new one", l.Expires.Format(time.RFC3339))
	}
	return nil
}

// inflate reads one ZLIB stream and nothing behind it.
func inflate(b []byte, limit uint64) ([]byte, error) {
	in := bytes.NewReader(b)
	r, err := zlib.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("lst: %w", err)
	}
	image, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("lst: %w", err)
	}
	switch {
	case uint64(len(image)) > limit:
		return nil, fmt.Errorf("the list inflates to more than %d bytes", limit)
	case len(image) == 0:
		return nil, errors.New("the list is empty")
	case in.Len() != 0:
		return nil, errors.New("lst has trailing data")
	}
	return image, nil
}

func decodeJWT(data []byte) (*StatusList, []byte, error) {
	t, err := openJWT(string(data))
	if err != nil {
		return nil, nil, err
	}
	if t.header.Type != "statuslist+jwt" {
		return nil, nil, fmt.Errorf("typ is %q, not statuslist+jwt", t.header.Type)
	}
	var c struct {
		Subject  string `json:"sub"`
		IssuedAt int64  `json:"iat"`
		Expires  *int64 `json:"exp"`
		TTL      *int64 `json:"ttl"`
		List     struct {
			Bits int    `json:"bits"`
			List string `json:"lst"`
		} `json:"status_list"`
		Version uint64 `json:"sealkeeper_version"`
	}
	if err := decodeJSON(t.payload, &c); err != nil {
		return nil, nil, err
	}
	l := &StatusList{MediaType: MediaJWT, Subject: c.Subject, Version: c.Version, Bits: c.List.Bits, Chain: t.header.X5C,
		alg: t.header.Algorithm, input: t.input, signature: t.signature}
	if err := l.times(c.IssuedAt, c.Expires, c.TTL); err != nil {
		return nil, nil, err
	}
	lst, err := b64(c.List.List)
	if err != nil {
		return nil, nil, fmt.Errorf("lst: %w", err)
	}
	return l, lst, nil
}

func decodeCWT(data []byte) (*StatusList, []byte, error) {
	var tag cbor.RawTag
	if err := tight.Unmarshal(data, &tag); err != nil {
		return nil, nil, err
	}
	if tag.Number != 18 {
		return nil, nil, fmt.Errorf("CBOR tag %d is not COSE_Sign1's 18 (5.2)", tag.Number)
	}
	s, err := openSign1(tag.Content, true)
	if err != nil {
		return nil, nil, err
	}
	if s.typ != MediaCWT {
		return nil, nil, fmt.Errorf("type is %q, not %s", s.typ, MediaCWT)
	}
	var c struct {
		Subject  string `cbor:"2,keyasint"`
		IssuedAt int64  `cbor:"6,keyasint"`
		Expires  *int64 `cbor:"4,keyasint"`
		TTL      *int64 `cbor:"65534,keyasint"`
		List     struct {
			Bits int             `cbor:"bits"`
			List cbor.ByteString `cbor:"lst"`
		} `cbor:"65533,keyasint"`
		Version uint64 `cbor:"sealkeeper_version"`
	}
	if err := loose.Unmarshal(s.payload, &c); err != nil {
		return nil, nil, err
	}
	if c.Expires == nil {
		return nil, nil, errors.New("exp is missing (ISO/IEC 18013-5 12.3.6.3)")
	}
	tbs, err := cbor.Marshal([]any{"Signature1", s.protected, []byte{}, s.payload})
	if err != nil {
		return nil, nil, err
	}
	l := &StatusList{MediaType: MediaCWT, Subject: c.Subject, Version: c.Version, Bits: c.List.Bits, Chain: s.chain,
		alg: s.alg, input: tbs, signature: s.signature}
	return l, []byte(c.List.List), l.times(c.IssuedAt, c.Expires, c.TTL)
}

func (l *StatusList) times(iat int64, exp, ttl *int64) error {
	const last = math.MaxInt32 * 100
	if iat <= 0 || iat > last {
		return errors.New("iat is no time")
	}
	l.IssuedAt = time.Unix(iat, 0).UTC()
	if exp != nil {
		if *exp <= iat || *exp > last {
			return errors.New("exp does not come after iat")
		}
		l.Expires = time.Unix(*exp, 0).UTC()
	}
	if ttl != nil {
		if *ttl <= 0 || *ttl > math.MaxInt32 {
			return errors.New("ttl is no positive number of seconds")
		}
		l.TTL = time.Duration(*ttl) * time.Second
	}
	return nil
}
