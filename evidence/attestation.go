package evidence

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/strict"
)

const maxAttestation = 128 << 10 // bytes of text: a chain of 64 KiB is encoded in base64 twice

var (
	attestationHeader  = strict.Limits{Bytes: maxAttestation, Depth: 4}
	attestationPayload = strict.Limits{Bytes: 64 << 10, Depth: 6}
)

// attestation is an OpenID4VCI key attestation (D.1), decoded, its signature not yet verified.
type attestation struct {
	token
	header                         attestationHead
	keys                           []Key
	nonce                          string
	keyStorage, userAuthentication []string
	issuedAt, expires              time.Time
	notBefore                      time.Time // zero: not stated
	status                         *statusClaim
	keyStorageStatus, clientStatus datedStatus
}

// datedStatus is TS3's form of a status.
type datedStatus struct {
	Status *statusClaim `json:"status"`
	Exp    *int64       `json:"exp"`
}

func (s datedStatus) stated() bool { return s.Status != nil || s.Exp != nil }

// theAttestation takes the key attestation from the proof's header or from beside it. Two different ones would leave open which of
// them was judged.
func theAttestation(inProof, beside string) (string, error) {
	switch {
	case inProof == "" && beside == "":
		return "", refuse("attestation_missing", "there is no key attestation, neither in the proof's header nor beside the proof")
	case inProof != "" && beside != "" && inProof != beside:
		return "", refuse("attestation_ambiguous", "the key attestation in the proof's header differs from the one beside the proof")
	case inProof != "":
		return inProof, nil
	}
	return beside, nil
}

// attestationHead is what counts of an attestation's header, and good for any one.
type attestationHead struct {
	typ, alg string
	chain    presented
}

func readAttestationHead(t *token, typ string) (attestationHead, error) {
	var h struct {
		Typ  string         `json:"typ"`
		Alg  string         `json:"alg"`
		X5C  jsontext.Value `json:"x5c"`
		Crit jsontext.Value `json:"crit"`
		B64  jsontext.Value `json:"b64"`
	}
	no := func(code, detail string) (attestationHead, error) { return attestationHead{}, refuse(code, detail) }
	if !t.header(strict.Loose, attestationHeader, &h) {
		return no("attestation_malformed", "the key attestation's header is not one strict JSON object with members of the right types")
	}
	if h.Typ != typ {
		return no("attestation_type", "the key attestation's typ is not "+typ)
	}
	if h.Alg != "ES256" && h.Alg != "ES384" {
		return no("attestation_algorithm", "the key attestation's alg is neither ES256 nor ES384")
	}
	if len(h.Crit) > 0 || len(h.B64) > 0 {
		return no("attestation_critical", "the key attestation's header has crit or b64, no extension of JWS is known here")
	}
	if len(h.X5C) == 0 {
		return no("attestation_chain_missing", "the key attestation has no x5c; kid and trust_chain are not accepted")
	}
	return attestationHead{typ: h.Typ, alg: h.Alg, chain: present(h.X5C)}, nil
}

// readAttestation decodes. The proof's own key is likely among those attested, and the same bytes are the same key; p may be nil.
func (v *Verifier) readAttestation(compact string, profile Profile, p *proof) (*attestation, error) {
	if len(compact) > maxAttestation {
		return nil, refuse("attestation_too_large", "the key attestation is larger than 128 KiB")
	}
	t, ok := split(compact)
	if !ok {
		return nil, refuse("attestation_malformed", "the key attestation is not three parts of canonical base64url")
	}
	typ := "key-attestation+jwt"
	if profile.TS3Type {
		typ = "keyattestation+jwt"
	}
	h, known := v.attested.get(t.head)
	if !known || h.typ != typ {
		var err error
		if h, err = readAttestationHead(&t, typ); err != nil {
			return nil, err
		}
	}

	var c struct {
		Iat                *int64       `json:"iat"`
		Exp                *int64       `json:"exp"`
		Nbf                *int64       `json:"nbf"`
		AttestedKeys       attestedKeys `json:"attested_keys"`
		KeyStorage         levels       `json:"key_storage"`
		UserAuthentication levels       `json:"user_authentication"`
		Nonce              string       `json:"nonce"`
		Status             *statusClaim `json:"status"`
		KeyStorageStatus   datedStatus  `json:"key_storage_status"`
		ClientStatus       datedStatus  `json:"client_status"`
	}
	c.AttestedKeys.most, c.AttestedKeys.proof = v.trust.MaxKeys, p
	if strict.Loose(t.payload, attestationPayload, &c) != nil {
		return nil, refuse("attestation_malformed",
			"the key attestation's payload is not one strict JSON object with members of the right types, 64 KiB at most")
	}
	a := &attestation{token: t, header: h, nonce: c.Nonce, status: c.Status, keyStorageStatus: c.KeyStorageStatus, clientStatus: c.ClientStatus}
	a.alg = h.alg
	var okIat, okExp bool
	a.issuedAt, okIat = instant(c.Iat)
	a.expires, okExp = instant(c.Exp)
	if !okIat || !okExp { // exp MUST be there when the attestation comes with a jwt proof
		return nil, refuse("attestation_time_missing", "the key attestation lacks iat or exp, or they aren't whole seconds before the year 10000")
	}
	if a.notBefore, ok = instant(c.Nbf); !ok && c.Nbf != nil {
		return nil, refuse("attestation_malformed", "the key attestation's nbf is out of range")
	}
	if c.KeyStorage.bad || c.UserAuthentication.bad {
		return nil, refuse("attestation_levels",
			"key_storage or user_authentication is not an array of 1 to 8 printable ASCII texts of at most 128 characters")
	}
	a.keyStorage, a.userAuthentication = c.KeyStorage.values, c.UserAuthentication.values
	if err := c.AttestedKeys.refusal; err != nil {
		return nil, err
	}
	if a.keys = c.AttestedKeys.keys; len(a.keys) == 0 {
		return nil, refuse("attestation_keys_missing", "the key attestation's attested_keys is not an array with at least one key")
	}
	return a, nil
}

// attestedKeys are decoded one after the other, so that a long array does not become a large slice.
type attestedKeys struct {
	most    int
	proof   *proof
	keys    []Key
	refusal error
}

// UnmarshalJSONFrom leaves what is wrong to whoever asks for the keys: other members may be worse.
func (a *attestedKeys) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	n := 0
	_, err := elements(d, func(v jsontext.Value) {
		if n++; a.refusal == nil {
			a.refusal = a.add(n, v)
		}
	})
	return err
}

func (a *attestedKeys) add(n int, v jsontext.Value) (err error) {
	if n > a.most {
		return refuse("attestation_keys_too_many", "the key attestation has more attested_keys than this appliance accepts in one request")
	}
	var k Key
	if a.proof != nil && a.proof.key != nil && bytes.Equal(v, a.proof.jwk) {
		k = *a.proof.key
	} else if k, err = readJWK(v); err != nil {
		return err
	}
	if slices.ContainsFunc(a.keys, func(o Key) bool { return o.Thumbprint == k.Thumbprint }) {
		return refuse("attestation_keys_repeated", "the key attestation names a key twice")
	}
	a.keys = append(a.keys, k)
	return nil
}

// levels are key_storage or user_authentication. Values other than those of D.2 may occur, and only policy knows which are good enough; but
// they go into decision records, so they must be short and plain.
type levels struct {
	values []string
	bad    bool // not an array of 1 to 8 such texts
}

// UnmarshalJSONFrom is not called for a member that is missing, which these may be.
func (l *levels) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	array, err := elements(d, func(v jsontext.Value) {
		if l.bad = l.bad || len(l.values) == 8; l.bad {
			return
		}
		s, ok := text(v)
		if !ok || s == "" || len(s) > 128 || slices.ContainsFunc([]byte(s), func(c byte) bool { return c <= ' ' || c > '~' }) {
			l.bad = true
			return
		}
		l.values = append(l.values, s)
	})
	l.bad = l.bad || !array || len(l.values) == 0
	return err
}

// check holds the attestation's claims against the instant and the proof. reused: it was made for an earlier request, which the profile allows.
func (a *attestation) check(about About, t Trust, nonce string) (reused bool, err error) {
	if a.issuedAt.After(about.At.Add(t.Skew)) || a.notBefore.After(about.At.Add(t.Skew)) {
		return false, refuse("attestation_from_future", "the key attestation's iat or nbf is later than now; check the wallet provider's clock")
	}
	if !about.At.Before(a.expires.Add(t.Skew)) {
		return false, refuse("attestation_expired", "the key attestation is past its exp; ask the wallet provider for a new one")
	}
	// D.1 and F.1 want the nonce here too: it is what ties an attestation to this one request. TS3 is content with the proof's.
	same := subtle.ConstantTimeCompare([]byte(a.nonce), []byte(nonce)) == 1 || a.nonce == "" && about.Profile.ProofNonce
	if !same && !about.Profile.Reuse {
		return false, refuse("attestation_nonce", "the key attestation doesn't hold the same nonce as the proof")
	}
	if same && about.At.Sub(a.issuedAt) > t.AttestationAge+t.Skew {
		return false, refuse("attestation_too_old", "the key attestation was issued longer ago than "+t.AttestationAge.String()+"; ask for a new one")
	}
	return !same, nil
}

// burn makes the attestation work once only. It is known by what was said and by whom, never by the text: an ECDSA signature (r, s)
// has a twin (r, −s) that verifies too.
func (a *attestation) burn(spki []byte, nonce time.Time, skew time.Duration) Burn {
	at := a.issuedAt
	if a.nonce != "" { // the proof's
		at = timeOf(at, nonce)
	}
	return Burn{Kind: BurnAttestation, ID: burnID(at, sha256.Sum256(slices.Concat(spki, a.payload))), Until: a.expires.Add(skew)}
}
