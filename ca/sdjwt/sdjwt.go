// Package sdjwt builds SD-JWT VCs (RFC 9901, draft-ietf-oauth-sd-jwt-vc-19, HAIP 1.0) that bind the phone's key by cnf.
//
// Disclosures are hashed as the text that travels, so JSON is written once, in one order, and never parsed and written again.
package sdjwt

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

// TBS is one drafted credential: the JWS signing input and its disclosures. Only Draft makes one.
type TBS struct {
	bytes       []byte
	disclosures []string
	sigSize     int
	notAfter    time.Time
}

// Bytes is the JWS signing input, ASCII(BASE64URL(header) || '.' || BASE64URL(payload)).
func (t *TBS) Bytes() []byte { return t.bytes }

// NotAfter is exp.
func (t *TBS) NotAfter() time.Time { return t.notAfter }

// Params are as in package mdoc.
type Params struct {
	Key      int
	Seed     [32]byte
	Signer   ledger.Key
	SignedAt time.Time
}

// Draft builds the bytes to be signed. The same input gives the same bytes.
func Draft(a *policy.Approval, t *ledger.Ticket, p Params) (*TBS, error) {
	if !a.Valid() {
		return nil, errors.New("drafting without an approval")
	}
	issue, ok := a.Issue()
	switch {
	case !ok:
		return nil, errors.New("an SD-JWT VC needs an approved issue or refresh")
	case !a.Allows(policy.PurposeSDJWT) || p.Signer.Purpose != policy.PurposeSDJWT:
		return nil, fmt.Errorf("key %q is not one that this approval lets sign an SD-JWT VC", p.Signer.ID)
	case t == nil || t.Format() != policy.SDJWT || t.URI() == "":
		return nil, errors.New("an SD-JWT VC needs an unspent ticket of an SD-JWT VC status list")
	case p.Key < 0 || p.Key >= len(issue.Keys):
		return nil, fmt.Errorf("key %d of %d approved ones", p.Key, len(issue.Keys))
	}
	return build(plain{
		vct:       issue.VCT,
		issuer:    issue.Issuer,
		values:    issue.Values,
		jwk:       issue.Keys[p.Key].JWK,
		uri:       t.URI(),
		index:     t.Index(),
		algorithm: p.Signer.Algorithm,
		chain:     p.Signer.Chain,
		spki:      p.Signer.SPKI,
		signedAt:  p.SignedAt,
		grain:     issue.TimeGrain,
		lifetime:  issue.Lifetime,
		decoys:    issue.Decoys,
		seed:      p.Seed,
		copy:      p.Key,
	})
}

// Join makes <JWT>~<D1>~…~<Dn>~ out of the draft and the verified signature of item i. It refuses a signature over other bytes.
func Join(t *TBS, c *release.Checked, i int) ([]byte, error) {
	switch {
	case t == nil || len(t.bytes) == 0:
		return nil, errors.New("joining an SD-JWT VC without a draft")
	case c == nil || i < 0 || i >= c.Len():
		return nil, errors.New("joining an SD-JWT VC without a checked signature")
	case !bytes.Equal(c.TBS(i), t.bytes):
		return nil, errors.New("the checked signature is over other bytes than this SD-JWT VC's")
	}
	return t.join(c.Raw(i))
}
