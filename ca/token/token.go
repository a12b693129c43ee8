// Package token builds one-time tokens: signed statements that a client of an approved enrolment may register a key. They are JSON Web Tokens in
// the form of a JWK provisioner of smallstep's protocol, with a typ of their own, so that `step` carries them and no other key's signature is one.
package token

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"sealkeeper/ca/certified"
	"sealkeeper/evidence"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

// TBS is a drafted token.
type TBS struct{ bytes []byte }

// Bytes that are to be signed.
func (t *TBS) Bytes() []byte { return t.bytes }

type claims struct {
	Issuer    string   `json:"iss"`
	Audience  string   `json:"aud"`
	Subject   string   `json:"sub"`
	SANs      []string `json:"sans"`
	ID        string   `json:"jti"`
	SHA       string   `json:"sha"` // of the root, by which a client that knows nothing yet finds its registration authority
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
	Expires   int64    `json:"exp"`
}

// Draft builds what is to be signed from an approved token.
func Draft(a *policy.Approval, signer ledger.Key) (*TBS, error) {
	t, ok := a.Token()
	if !ok {
		return nil, errors.New("a token needs an approved one")
	}
	if !a.Allows(policy.PurposeToken) || signer.Purpose != policy.PurposeToken || signer.ID != t.KeyID {
		return nil, fmt.Errorf("key %q is not the one that this approval lets sign a token", signer.ID)
	}
	head, err := json.Marshal(struct {
		Alg string `json:"alg"`
		Typ string `json:"typ"`
		Kid string `json:"kid"`
	}{signer.Algorithm, evidence.TokenType, signer.ID})
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(claims{t.Issuer, t.Audience, t.Client, []string{t.SAN}, t.ID, hex.EncodeToString(t.Root[:]), t.IssuedAt.Unix(), t.IssuedAt.Unix(), t.Expires.Unix()})
	if err != nil {
		return nil, err
	}
	e := base64.RawURLEncoding
	return &TBS{[]byte(e.EncodeToString(head) + "." + e.EncodeToString(body))}, nil
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
	return []byte(string(t.bytes) + "." + base64.RawURLEncoding.EncodeToString(signature)), nil
}
