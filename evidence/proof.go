package evidence

import (
	"crypto/subtle"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/strict"
)

const maxProof = 16 << 10 // bytes of text, with a key attestation in its header

var (
	proofHeader  = strict.Limits{Bytes: maxProof, Depth: 5}
	proofPayload = strict.Limits{Bytes: 4 << 10, Depth: 4}
)

// proof is an OpenID4VCI jwt proof (F.1), decoded, its signature not yet verified.
type proof struct {
	token
	key         *Key // from jwk; nil: named by kid
	jwk         jsontext.Value
	kid         [32]byte // RFC 7638 thumbprint
	attestation string   // header key_attestation
	nonce       string
	audience    jsontext.Value
	issuedAt    time.Time
	expires     time.Time // zero: not stated
	notBefore   time.Time // zero: not stated
}

func readProof(compact string) (*proof, error) {
	if compact == "" {
		return nil, refuse("proof_missing", "the request has no proof of possession")
	}
	if len(compact) > maxProof {
		return nil, refuse("proof_too_large", "the proof is larger than 16 KiB")
	}
	t, ok := split(compact)
	if !ok {
		return nil, refuse("proof_malformed", "the proof is not three parts of canonical base64url")
	}
	var h struct {
		Typ            string         `json:"typ"`
		Alg            string         `json:"alg"`
		JWK            jsontext.Value `json:"jwk"`
		Kid            *string        `json:"kid"`
		X5C            jsontext.Value `json:"x5c"`
		X5U            jsontext.Value `json:"x5u"`
		JKU            jsontext.Value `json:"jku"`
		TrustChain     jsontext.Value `json:"trust_chain"`
		KeyAttestation string         `json:"key_attestation"`
		Crit           jsontext.Value `json:"crit"`
		B64            jsontext.Value `json:"b64"`
	}
	if !t.header(strict.Loose, proofHeader, &h) {
		return nil, refuse("proof_malformed", "the proof's header is not one strict JSON object with members of the right types")
	}
	if h.Typ != "openid4vci-proof+jwt" {
		return nil, refuse("proof_type", "the proof's typ is not openid4vci-proof+jwt")
	}
	if h.Alg != "ES256" && h.Alg != "ES384" && h.Alg != "EdDSA" {
		return nil, refuse("proof_algorithm", "the proof's alg is none of ES256, ES384 and EdDSA")
	}
	if len(h.Crit) > 0 || len(h.B64) > 0 {
		return nil, refuse("proof_critical", "the proof's header has crit or b64, no extension of JWS is known here")
	}
	if len(h.X5C) > 0 || len(h.X5U) > 0 || len(h.JKU) > 0 || len(h.TrustChain) > 0 {
		return nil, refuse("proof_key_form", "the proof names its key by a certificate, a chain or an address; use jwk, or kid with the thumbprint")
	}
	if (len(h.JWK) > 0) == (h.Kid != nil) {
		return nil, refuse("proof_key_ambiguous", "the proof's header must have exactly one of jwk and kid")
	}
	p := &proof{token: t, attestation: h.KeyAttestation}
	p.alg = h.Alg
	if h.Kid != nil {
		kid, ok := decode64(*h.Kid)
		if !ok || len(kid) != len(p.kid) {
			return nil, refuse("proof_key_form", "the proof's kid is not an RFC 7638 SHA-256 thumbprint in base64url")
		}
		p.kid = [32]byte(kid)
	} else {
		key, err := readJWK(h.JWK)
		if err != nil {
			return nil, err
		}
		if algorithm(key.Public) != p.alg {
			return nil, refuse("proof_algorithm", "the proof's alg doesn't belong to the curve of its key")
		}
		p.key, p.jwk = &key, h.JWK
	}

	var c struct {
		Iss string         `json:"iss"` // the wallet's client id: bounded by the payload, without meaning here
		Aud jsontext.Value `json:"aud"`
		Iat *int64         `json:"iat"`
		Exp *int64         `json:"exp"`
		Nbf *int64         `json:"nbf"`
		Non string         `json:"nonce"`
	}
	if strict.Loose(t.payload, proofPayload, &c) != nil {
		return nil, refuse("proof_malformed", "the proof's payload is not one strict JSON object with members of the right types, 4 KiB at most")
	}
	if p.issuedAt, ok = instant(c.Iat); !ok {
		return nil, refuse("proof_time_missing", "the proof has no iat, or none in whole seconds before the year 10000")
	}
	if p.expires, ok = instant(c.Exp); !ok && c.Exp != nil {
		return nil, refuse("proof_malformed", "the proof's exp is out of range")
	}
	if p.notBefore, ok = instant(c.Nbf); !ok && c.Nbf != nil {
		return nil, refuse("proof_malformed", "the proof's nbf is out of range")
	}
	p.audience, p.nonce = c.Aud, c.Non
	return p, nil
}

// check holds the proof's claims against what the request is about.
func (p *proof) check(about About, t Trust) error {
	aud, ok := text(p.audience)
	if !ok { // RFC 7519 4.1.3 allows an array; with more than one element the proof would be good elsewhere too
		ok = each(p.audience, 1, func(v jsontext.Value) (ok bool) { aud, ok = text(v); return ok })
	}
	if !ok || aud != about.Audience {
		return refuse("proof_audience", "the proof's aud is not the issuer identifier configured for this client")
	}
	if p.issuedAt.After(about.At.Add(t.Skew)) || p.notBefore.After(about.At.Add(t.Skew)) {
		return refuse("proof_from_future", "the proof's iat or nbf is later than now; check the phone's clock")
	}
	if about.At.Sub(p.issuedAt) > t.NonceLife+t.Skew || !p.expires.IsZero() && !about.At.Before(p.expires.Add(t.Skew)) {
		return refuse("proof_expired", "the proof is older than a nonce lives, or past its own exp; sign a new one")
	}
	return nil
}

// keyAmong finds the proof's key among the attested ones: what the wallet provider says of the attested keys is then true of the key
// whose possession was shown (F.4).
func (p *proof) keyAmong(attested []Key) (int, error) {
	want := p.kid
	if p.key != nil {
		want = p.key.Thumbprint
	}
	for i := range attested {
		if subtle.ConstantTimeCompare(attested[i].Thumbprint[:], want[:]) == 1 {
			return i, nil
		}
	}
	return 0, refuse("proof_key_unattested", "the proof's key is not one of the attested keys")
}
