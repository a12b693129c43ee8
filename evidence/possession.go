package evidence

import "slices"

// Possession is a verified proof of possession alone: whoever sent it has the key now. It makes nobody a card.
type Possession struct {
	about      Bound
	thumbprint [32]byte
	burns      []Burn
}

// VerifyPossession checks an OpenID4VCI proof over a nonce of this appliance, with the key in its own header. Whose key that is, is for the
// caller to compare.
func (v *Verifier) VerifyPossession(about About, compact string) (*Possession, error) {
	if about.Client == "" || about.DocumentType == "" || about.Audience == "" || v.trust.NonceKey == [32]byte{} {
		return nil, refuse("unconfigured", "client, document type, audience and nonce key must all be known before evidence can be bound to them")
	}
	p, err := readProof(compact)
	if err != nil {
		return nil, err
	}
	nonce, _, err := v.checkNonce(about, p.nonce)
	if err != nil {
		return nil, err
	}
	if err := p.check(about, v.trust); err != nil {
		return nil, err
	}
	if p.key == nil {
		return nil, refuse("proof_key_form", "the proof names its key by kid: nothing is attested here, so use jwk")
	}
	if !p.signedBy(p.key.Public) {
		return nil, refuse("proof_signature", "the proof isn't signed by the key that it names")
	}
	return &Possession{about: Bound{Client: about.Client, DocumentType: about.DocumentType, Audience: about.Audience, At: about.At},
		thumbprint: p.key.Thumbprint, burns: []Burn{nonce}}, nil
}

// Valid reports whether p came from VerifyPossession.
func (p *Possession) Valid() bool { return p != nil && p.about.Client != "" }

// About what it was verified.
func (p *Possession) About() Bound { return p.about }

// Thumbprint of the key, RFC 7638.
func (p *Possession) Thumbprint() [32]byte { return p.thumbprint }

// Burns are what it uses up.
func (p *Possession) Burns() []Burn { return slices.Clone(p.burns) }
