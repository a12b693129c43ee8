package evidence

import (
	"crypto/subtle"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/strict"
)

// KindWallet is a wallet attestation with its proof of possession (draft-ietf-oauth-attestation-based-client-auth, as TS3 profiles it): a wallet
// provider says that this is its wallet, and points to the wallet's status. As text it is the attestation, a tilde, and the proof.
const KindWallet = "wallet_attestation"

const (
	maxWallet     = 96 << 10 // bytes of text
	maxWalletLife = 24 * time.Hour
)

var walletProof = strict.Limits{Bytes: 4 << 10, Depth: 4}

// checkWallet judges a wallet attestation. It must be of the provider that attested the keys: one of another's good standing says nothing of them.
func (v *Verifier) checkWallet(about About, nonce string, h *holder, text string) error {
	if text == "" {
		return nil
	}
	malformed := func() error {
		return refuse("wallet_malformed", "the wallet attestation and its proof are not two compact JWS with a tilde between them, with members of the right types")
	}
	if len(text) > maxWallet {
		return malformed()
	}
	first, second, _ := strings.Cut(text, "~")
	a, okA := split(first)
	p, okP := split(second)
	if !okA || !okP {
		return malformed()
	}
	type header struct {
		Typ  string         `json:"typ"`
		Alg  string         `json:"alg"`
		X5C  jsontext.Value `json:"x5c"`
		Crit jsontext.Value `json:"crit"`
		B64  jsontext.Value `json:"b64"`
	}
	var ha, hp header
	var c struct {
		Iat          *int64      `json:"iat"`
		Nbf          *int64      `json:"nbf"`
		Exp          *int64      `json:"exp"`
		ClientStatus datedStatus `json:"client_status"`
		Cnf          struct {
			JWK jsontext.Value `json:"jwk"`
		} `json:"cnf"`
	}
	var d struct {
		Aud       jsontext.Value `json:"aud"`
		Iat       *int64         `json:"iat"`
		Challenge string         `json:"challenge"`
		Nonce     string         `json:"nonce"` // of earlier drafts
	}
	if !a.header(strict.Loose, attestationHeader, &ha) || !p.header(strict.Loose, walletProof, &hp) ||
		strict.Loose(a.payload, attestationPayload, &c) != nil || strict.Loose(p.payload, walletProof, &d) != nil {
		return malformed()
	}
	if ha.Typ != "oauth-client-attestation+jwt" || hp.Typ != "oauth-client-attestation-pop+jwt" {
		return refuse("wallet_type", "the typ is not oauth-client-attestation+jwt, or the proof's not oauth-client-attestation-pop+jwt")
	}
	if len(ha.X5C) == 0 || len(ha.Crit)+len(ha.B64)+len(hp.Crit)+len(hp.B64) > 0 {
		return malformed()
	}
	a.alg, p.alg = ha.Alg, hp.Alg
	expires, okExp := instant(c.Exp)
	issued, okIat := instant(c.Iat)
	if c.Iat == nil { // it may have nbf instead, or neither
		issued, okIat = instant(c.Nbf)
		okIat = okIat || c.Nbf == nil
	}
	proved, okProved := instant(d.Iat)
	if !okExp || !okIat || !okProved {
		return malformed()
	}
	skew := v.trust.Skew
	if issued.After(about.At.Add(skew)) || !about.At.Before(expires.Add(skew)) || expires.Sub(about.At) > maxWalletLife+skew ||
		proved.After(about.At.Add(skew)) || about.At.Sub(proved) > v.trust.NonceLife+skew {
		return refuse("wallet_time", "the wallet attestation is not valid now, or for more than 24 hours, or its proof is old")
	}
	key, err := readJWK(c.Cnf.JWK)
	if err != nil {
		return err
	}
	aud, ok := text1(d.Aud)
	same := func(s string) bool { return subtle.ConstantTimeCompare([]byte(s), []byte(nonce)) == 1 }
	if !ok || aud != about.Audience || !same(d.Challenge) && !(d.Challenge == "" && same(d.Nonce)) {
		return refuse("wallet_proof", "the wallet's proof is for another audience or nonce")
	}
	issuer, err := v.chains.verify(present(ha.X5C), about.At)
	if err != nil {
		return err
	}
	if h.anchor != issuer.anchor {
		return refuse("wallet_provider", "the wallet is not of the provider that attested the keys")
	}
	if !a.signedByKnown(&v.keys, issuer.key) || !p.signedBy(key.Public) {
		return refuse("wallet_signature", "the wallet attestation isn't signed by the leaf of its x5c, or its proof not by the attested wallet")
	}
	statuses, err := (&attestation{clientStatus: c.ClientStatus}).statuses(about)
	if err != nil {
		return err
	}
	for _, s := range h.facts.Statuses {
		if s.Name == StatusWallet && len(statuses) > 0 {
			return refuse("attestation_ambiguous", "the key attestation and the wallet attestation both have a client_status")
		}
	}
	h.facts.Kinds, h.facts.Statuses = append(h.facts.Kinds, KindWallet), append(h.facts.Statuses, statuses...)
	return nil
}

// text1 is a text, or the one text of an array.
func text1(v jsontext.Value) (s string, ok bool) {
	if s, ok = text(v); ok {
		return s, true
	}
	ok = each(v, 1, func(e jsontext.Value) (ok bool) { s, ok = text(e); return ok })
	return s, ok && s != ""
}
