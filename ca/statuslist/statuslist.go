// Package statuslist builds status list tokens (IETF Token Status List, draft-ietf-oauth-status-list-20): a JWT for SD-JWT VCs, whose
// specification wants a JWT, and a CWT for mdocs (ISO/IEC 18013-5 WD v4 12.3.6.3), whose status can only be revocation. They are decoded
// by package verifier alone.
package statuslist

import (
	"errors"
	"fmt"

	"sealkeeper/ca/certified"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

// Media types of the two token forms.
const (
	MediaJWT = "application/statuslist+jwt"
	MediaCWT = "application/statuslist+cwt"
)

// TBS is one drafted list version. Only Draft makes one.
type TBS struct {
	bytes     []byte
	media     string
	protected []byte // CWT
	payload   []byte // CWT
	sigSize   int
}

// Bytes to be signed: JWS signing input (lists for SD-JWT VC) or COSE Sig_structure (lists for mdoc).
func (t *TBS) Bytes() []byte { return t.bytes }

// MediaType of the token that Join makes.
func (t *TBS) MediaType() string { return t.media }

// Draft builds the token's bytes out of an approved list. Claims: sub, iat, exp, ttl, status_list, and the version in a claim of its
// own ("sealkeeper_version"; in the CWT the text key of that name). x5c in the JWT's protected header, x5chain in the CWT's protected header.
// level is the zlib level: low when urgent, high when settled.
func Draft(a *policy.Approval, signer ledger.Key, level int) (*TBS, error) {
	if !a.Valid() {
		return nil, errors.New("drafting without an approval")
	}
	list, ok := a.List()
	if !ok {
		return nil, errors.New("a status list token needs an approved list")
	}
	if !a.Allows(policy.PurposeList) || signer.Purpose != policy.PurposeList {
		return nil, fmt.Errorf("key %q is not one that this approval lets sign a status list", signer.ID)
	}
	k, err := certified.New(signer)
	if err != nil {
		return nil, err
	}
	return build(list, k, level)
}

// Join makes the token. It refuses a signature over other bytes.
func Join(t *TBS, c *release.Checked, i int) ([]byte, error) {
	if t == nil {
		return nil, errors.New("joining without a draft")
	}
	signature, err := certified.Signature(c, i, t.bytes)
	if err != nil {
		return nil, err
	}
	return t.join(signature)
}
