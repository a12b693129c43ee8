// Package sdjwt builds SD-JWT VCs (RFC 9901, draft-ietf-oauth-sd-jwt-vc) that bind the phone's key by cnf.
package sdjwt

import (
	"errors"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

var errNotBuilt = errors.New("not built")

// TBS is one drafted credential: the JWS signing input and its disclosures. Only Draft makes one.
type TBS struct{}

// Bytes is the JWS signing input, ASCII(BASE64URL(header) || '.' || BASE64URL(payload)).
func (t *TBS) Bytes() []byte { return nil }

// NotAfter is exp.
func (t *TBS) NotAfter() time.Time { return time.Time{} }

// Params are as in package mdoc.
type Params struct {
	Key      int
	Seed     [32]byte
	Signer   ledger.Key
	SignedAt time.Time
}

// Draft builds the bytes to be signed. The same input gives the same bytes.
func Draft(a *policy.Approval, t *ledger.Ticket, p Params) (*TBS, error) { return nil, errNotBuilt }

// Join makes <JWT>~<D1>~…~<Dn>~ out of the draft and the verified signature of item i. It refuses a signature over other bytes.
func Join(t *TBS, c *release.Checked, i int) ([]byte, error) { return nil, errNotBuilt }
