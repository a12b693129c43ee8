// Package sdjwt builds SD-JWT VCs (RFC 9901, draft-ietf-oauth-sd-jwt-vc-19, HAIP 1.0) that bind the phone's key by cnf.
//
// Disclosures are hashed as the text that travels, so JSON is written once, in one order, and never parsed and written again.
package sdjwt

import (
	"errors"
	"time"

	"sealkeeper/ca/certified"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

// TBS is one drafted credential: the JWS signing input and its disclosures. Only Draft makes one.
type TBS struct {
	bytes       []byte
	disclosures []byte // each with the tilde that ends it
	sigSize     int
	notAfter    time.Time
}

// Bytes is the JWS signing input, ASCII(BASE64URL(header) || '.' || BASE64URL(payload)).
func (t *TBS) Bytes() []byte { return t.bytes }

// NotAfter is exp.
func (t *TBS) NotAfter() time.Time { return t.notAfter }

// Draft builds the bytes to be signed. The same input gives the same bytes.
func Draft(a *policy.Approval, t *ledger.Ticket, p certified.Params) (*TBS, error) {
	issue, err := certified.Approved(a, t, p, policy.SDJWT, policy.PurposeSDJWT)
	if err != nil {
		return nil, err
	}
	return build(plain{
		vct:      issue.VCT,
		issuer:   issue.Issuer,
		values:   issue.Values,
		jwk:      issue.Keys[p.Key].JWK,
		uri:      t.URI(),
		index:    t.Index(),
		signer:   p.Signer,
		signedAt: p.SignedAt,
		grain:    issue.TimeGrain,
		lifetime: issue.Lifetime,
		decoys:   issue.Decoys,
		seed:     p.Seed,
		copy:     p.Key,
	})
}

// Size is how long the joined text will be.
func (t *TBS) Size() int {
	return len(t.bytes) + 1 + b64.EncodedLen(t.sigSize) + 1 + len(t.disclosures)
}

// Join appends <JWT>~<D1>~…~<Dn>~ out of the draft and the verified signature of item i. It refuses a signature over other bytes.
func Join(b []byte, t *TBS, c *release.Checked, i int) ([]byte, error) {
	if t == nil {
		return nil, errors.New("joining without a draft")
	}
	signature, err := certified.Signature(c, i, t.bytes)
	if err != nil {
		return nil, err
	}
	return t.join(b, signature)
}
