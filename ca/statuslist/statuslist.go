// Package statuslist builds status list tokens (IETF Token Status List; ISO/IEC 18013-5 for the mdoc list).
package statuslist

import (
	"errors"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

var errNotBuilt = errors.New("not built")

// Media types of the two token forms.
const (
	MediaJWT = "application/statuslist+jwt"
	MediaCWT = "application/statuslist+cwt"
)

// TBS is one drafted list version. Only Draft makes one.
type TBS struct{}

// Bytes to be signed: JWS signing input (lists for SD-JWT VC) or COSE Sig_structure (lists for mdoc).
func (t *TBS) Bytes() []byte { return nil }

// MediaType of the token that Join makes.
func (t *TBS) MediaType() string { return "" }

// Draft builds the token's bytes out of an approved list. Claims: sub, iat, exp, ttl, status_list, and the version in a claim of its
// own ("sealkeeper_version"; in the CWT the text key of that name). x5c in the JWT's protected header, x5chain in the CWT's protected header.
// level is the zlib level: low when urgent, high when settled.
func Draft(a *policy.Approval, signer ledger.Key, level int) (*TBS, error) { return nil, errNotBuilt }

// Join makes the token. It refuses a signature over other bytes.
func Join(t *TBS, c *release.Checked, i int) ([]byte, error) { return nil, errNotBuilt }

// Token is a decoded list of either form, its signature not yet verified.
type Token struct {
	MediaType, Subject string
	IssuedAt, Expires  int64
	TTL, Version       int64
	Bits               int
	Image              []byte
	Chain              [][]byte // DER, leaf first
}

// Get returns the status at an index; ok is false out of bounds.
func (t *Token) Get(index uint64) (status byte, ok bool) { return 0, false }

// Parse decodes a token from outside, bounded: at most maxEntries entries are inflated. Verify checks the signature with the chain's leaf
// and the chain up to one of the roots at the given instant.
func Parse(data []byte, maxEntries uint64) (*Token, error) { return nil, errNotBuilt }
