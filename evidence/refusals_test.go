package evidence_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/tests/phone"
)

// attempt is one request that is about to be bent.
type attempt struct {
	*world
	t      *testing.T
	about  evidence.About
	bundle evidence.Bundle
	nonce  string
}

// proof replaces the proof by one with options, its attestation stays good.
func (a *attempt) proof(o ...phone.Option) {
	a.bundle.Proof = a.phone.Prove(0, audience, a.nonce, now, a.phone.Attest(a.provider, a.nonce, now), o...)
}

// attestation replaces the attestation by one with options, and moves it beside the proof.
func (a *attempt) attestation(o ...phone.Option) { a.attestationOf(a.provider, o...) }

func (a *attempt) attestationOf(p *phone.Provider, o ...phone.Option) {
	a.bundle.Proof = a.phone.Prove(0, audience, a.nonce, now, "")
	a.bundle.KeyAttestation = a.phone.Attest(p, a.nonce, now, o...)
}

// trusting makes the appliance trust a provider with bent certificates, and lets that one attest.
func (a *attempt) trusting(b phone.Bend, o ...phone.Option) *phone.Provider {
	p := provider(a.t, b)
	a.trust.WalletProviders = append(a.trust.WalletProviders, p.Anchor())
	a.retrust(func(*evidence.Trust) {})
	a.attestationOf(p, o...)
	return p
}

// retrust changes the snapshot.
func (a *attempt) retrust(change func(*evidence.Trust)) {
	change(&a.trust)
	a.verifier = evidence.NewVerifier(a.trust)
}

func (a *attempt) jwk() string { return string(a.phone.JWK(0)) }

// with is the phone's first JWK with members set; nil removes one.
func (a *attempt) with(members map[string]any) map[string]any {
	var m map[string]any
	if err := json.Unmarshal(a.phone.JWK(0), &m); err != nil {
		a.t.Fatal(err)
	}
	for k, v := range members {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	return m
}

func bendLeaf(f func(c *x509.Certificate)) phone.Bend {
	return phone.Bend{Certificate: func(depth int, c *x509.Certificate) {
		if depth == 0 {
			f(c)
		}
	}}
}

func x5cOf(certs ...*x509.Certificate) (x5c []string) {
	for _, c := range certs {
		x5c = append(x5c, base64.StdEncoding.EncodeToString(c.Raw))
	}
	return x5c
}

func vector(t *testing.T, name string) string {
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), "")
}

const b64json = `eyJ4IjoxfQ` // {"x":1}

var refusals = []struct {
	code, name string
	bend       func(a *attempt)
}{
	{"unconfigured", "no client", func(a *attempt) { a.about.Client = "" }},
	{"unconfigured", "no document type", func(a *attempt) { a.about.DocumentType = "" }},
	{"unconfigured", "no audience", func(a *attempt) { a.about.Audience = "" }},
	{"unconfigured", "no nonce key", func(a *attempt) { a.retrust(func(t *evidence.Trust) { t.NonceKey = [32]byte{} }) }},
	{"kind_unknown", "palm_reading", func(a *attempt) { a.bundle.Items = []evidence.Item{{Kind: "palm_reading", Token: "x"}} }},

	{"proof_missing", "empty", func(a *attempt) { a.bundle.Proof = "" }},
	{"proof_too_large", "padded", func(a *attempt) { a.proof(phone.Header("pad", strings.Repeat("x", 16<<10))) }},
	{"proof_malformed", "no dots", func(a *attempt) { a.bundle.Proof = "abc" }},
	{"proof_malformed", "two parts", func(a *attempt) { a.bundle.Proof = b64json + "." + b64json }},
	{"proof_malformed", "empty signature", func(a *attempt) { a.bundle.Proof = b64json + "." + b64json + "." }},
	{"proof_malformed", "four parts", func(a *attempt) { a.bundle.Proof += ".AAAA" }},
	{"proof_malformed", "space before", func(a *attempt) { a.bundle.Proof = " " + a.bundle.Proof }},
	{"proof_malformed", "line end inside", func(a *attempt) { a.bundle.Proof = a.bundle.Proof[:9] + "\n" + a.bundle.Proof[9:] }},
	{"proof_malformed", "padding", func(a *attempt) { a.bundle.Proof += "==" }},
	{"proof_malformed", "flattened JSON", func(a *attempt) { a.bundle.Proof = `{"payload":"","protected":"","signature":""}` }},
	{"proof_malformed", "spare bits set", func(a *attempt) { // 64 bytes end in a character with four spare bits
		last := a.bundle.Proof[len(a.bundle.Proof)-1]
		a.bundle.Proof = a.bundle.Proof[:len(a.bundle.Proof)-1] + string(last+1)
	}},
	{"proof_malformed", "header an array", func(a *attempt) { a.proof(phone.RawHeader(`[]`)) }},
	{"proof_malformed", "header nested deep", func(a *attempt) {
		a.proof(phone.RawHeader(`{"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`))
	}},
	{"proof_malformed", "header with two values", func(a *attempt) { a.proof(phone.RawHeader(`{}{}`)) }},
	{"proof_malformed", "header with alg twice", func(a *attempt) {
		a.proof(phone.RawHeader(`{"typ":"openid4vci-proof+jwt","alg":"none","alg":"ES256","jwk":` + a.jwk() + `}`))
	}},
	{"proof_malformed", "alg twice by an escape", func(a *attempt) {
		a.proof(phone.RawHeader(`{"typ":"openid4vci-proof+jwt","\u0061lg":"none","alg":"ES256","jwk":` + a.jwk() + `}`))
	}},
	{"proof_malformed", "jwk with x twice", func(a *attempt) {
		a.proof(phone.RawHeader(`{"typ":"openid4vci-proof+jwt","alg":"ES256","jwk":{"x":"",` + a.jwk()[1:] + `}`))
	}},
	{"proof_malformed", "header not UTF-8", func(a *attempt) { a.proof(phone.RawHeader("{\"typ\":\"\xff\"}")) }},
	{"proof_malformed", "typ a number", func(a *attempt) { a.proof(phone.Header("typ", 1)) }},
	{"proof_malformed", "payload not an object", func(a *attempt) { a.proof(phone.RawClaims(`"x"`)) }},
	{"proof_malformed", "nonce twice", func(a *attempt) {
		a.proof(phone.RawClaims(fmt.Sprintf(`{"aud":%q,"iat":%d,"nonce":"x","nonce":%q}`, audience, now.Unix(), a.nonce)))
	}},
	{"proof_malformed", "payload too large", func(a *attempt) { a.proof(phone.Claim("pad", strings.Repeat("x", 4<<10))) }},
	{"proof_malformed", "iat with a fraction", func(a *attempt) { a.proof(phone.Claim("iat", 1.5)) }},
	{"proof_malformed", "iat a text", func(a *attempt) { a.proof(phone.Claim("iat", "1")) }},
	{"proof_malformed", "iat beyond 64 bits", func(a *attempt) { a.proof(phone.Claim("iat", json.RawMessage("99999999999999999999"))) }},
	{"proof_malformed", "exp negative", func(a *attempt) { a.proof(phone.Claim("exp", -1)) }},
	{"proof_malformed", "nbf after the year 9999", func(a *attempt) { a.proof(phone.Claim("nbf", 253402300800)) }},
	{"proof_type", "missing", func(a *attempt) { a.proof(phone.Header("typ", nil)) }},
	{"proof_type", "JWT", func(a *attempt) { a.proof(phone.Header("typ", "JWT")) }},
	{"proof_type", "other case", func(a *attempt) { a.proof(phone.Header("typ", "openid4vci-proof+JWT")) }},
	{"proof_type", "an attestation in its place", func(a *attempt) { a.bundle.Proof = a.phone.Attest(a.provider, a.nonce, now) }},
	{"proof_type", "typ under another name", func(a *attempt) { a.proof(phone.Header("typ", nil), phone.Header("Typ", "openid4vci-proof+jwt")) }},
	{"proof_algorithm", "none", func(a *attempt) { a.proof(phone.Header("alg", "none")) }},
	{"proof_algorithm", "MAC", func(a *attempt) { a.proof(phone.Header("alg", "HS256")) }},
	{"proof_algorithm", "RSA", func(a *attempt) { a.proof(phone.Header("alg", "PS256")) }},
	{"proof_algorithm", "missing", func(a *attempt) { a.proof(phone.Header("alg", nil)) }},
	{"proof_algorithm", "of another curve", func(a *attempt) { a.proof(phone.Header("alg", "ES384")) }},
	{"proof_critical", "crit", func(a *attempt) { a.proof(phone.Header("crit", []string{"exp"})) }},
	{"proof_critical", "crit null", func(a *attempt) { a.proof(phone.Header("crit", json.RawMessage("null"))) }},
	{"proof_critical", "b64", func(a *attempt) { a.proof(phone.Header("b64", false)) }},
	{"proof_key_form", "x5c", func(a *attempt) { a.proof(phone.Header("jwk", nil), phone.Header("x5c", a.provider.X5C())) }},
	{"proof_key_form", "x5c beside jwk", func(a *attempt) { a.proof(phone.Header("x5c", a.provider.X5C())) }},
	{"proof_key_form", "jku", func(a *attempt) { a.proof(phone.Header("jku", "https://evil.example")) }},
	{"proof_key_form", "x5u", func(a *attempt) { a.proof(phone.Header("x5u", "https://evil.example")) }},
	{"proof_key_form", "trust_chain", func(a *attempt) { a.proof(phone.Header("trust_chain", []string{"x"})) }},
	{"proof_key_form", "kid a DID", func(a *attempt) { a.proof(phone.Header("jwk", nil), phone.Header("kid", "did:example:1#0")) }},
	{"proof_key_form", "kid an index", func(a *attempt) { a.proof(phone.Header("jwk", nil), phone.Header("kid", "0")) }},
	{"proof_key_ambiguous", "none", func(a *attempt) { a.proof(phone.Header("jwk", nil)) }},
	{"proof_key_ambiguous", "two", func(a *attempt) { a.proof(phone.Header("kid", a.phone.Thumbprint(0))) }},
	{"proof_time_missing", "no iat", func(a *attempt) { a.proof(phone.Claim("iat", nil)) }},
	{"proof_time_missing", "iat negative", func(a *attempt) { a.proof(phone.Claim("iat", -1)) }},
	{"proof_time_missing", "iat in the year 292277026596", func(a *attempt) { a.proof(phone.Claim("iat", int64(1)<<62)) }},
	{"jwk_malformed", "a text", func(a *attempt) { a.proof(phone.Header("jwk", "x")) }},
	{"jwk_malformed", "null", func(a *attempt) { a.proof(phone.Header("jwk", json.RawMessage("null"))) }},
	{"jwk_malformed", "x a number", func(a *attempt) { a.proof(phone.Header("jwk", a.with(map[string]any{"x": 1}))) }},
	{"jwk_malformed", "no y", func(a *attempt) { a.proof(phone.Header("jwk", a.with(map[string]any{"y": nil}))) }},
	{"jwk_malformed", "x short", func(a *attempt) { a.proof(phone.Header("jwk", a.with(map[string]any{"x": "AAAA"}))) }},
	{"jwk_malformed", "x with a leading zero", func(a *attempt) {
		a.proof(phone.Header("jwk", a.with(map[string]any{"x": base64.RawURLEncoding.EncodeToString(make([]byte, 33))})))
	}},
	{"jwk_malformed", "x padded", func(a *attempt) {
		a.proof(phone.Header("jwk", a.with(map[string]any{"x": strings.Repeat("A", 43) + "="})))
	}},
	{"jwk_malformed", "Ed25519 with y", func(a *attempt) {
		a.phone = newPhone(a.t, phone.NewEd25519, 1)
		a.proof(phone.Header("jwk", a.with(map[string]any{"y": "AAAA"})))
	}},
	{"jwk_malformed", "attested key too large", func(a *attempt) {
		a.attestation(phone.Claim("attested_keys", []any{a.with(map[string]any{"pad": strings.Repeat("x", 4<<10)})}))
	}},
	{"jwk_malformed", "attested key an index", func(a *attempt) { a.attestation(phone.Claim("attested_keys", []any{7})) }},
	{"jwk_private", "d in the proof", func(a *attempt) { a.proof(phone.Header("jwk", json.RawMessage(a.phone.HolderJWK(0)))) }},
	{"jwk_private", "d among attested keys", func(a *attempt) {
		a.attestation(phone.Claim("attested_keys", []any{json.RawMessage(a.phone.HolderJWK(0))}))
	}},
	{"jwk_private", "d empty", func(a *attempt) { a.proof(phone.Header("jwk", a.with(map[string]any{"d": ""}))) }},
	{"jwk_private", "symmetric", func(a *attempt) { a.proof(phone.Header("jwk", map[string]any{"kty": "oct", "k": "AAAA"})) }},
	{"jwk_unsupported", "RSA", func(a *attempt) { a.proof(phone.Header("jwk", map[string]any{"kty": "RSA", "n": "AAAA", "e": "AQAB"})) }},
	{"jwk_unsupported", "P-521", func(a *attempt) { a.proof(phone.Header("jwk", a.with(map[string]any{"crv": "P-521"}))) }},
	{"jwk_unsupported", "X25519", func(a *attempt) {
		a.proof(phone.Header("jwk", map[string]any{"kty": "OKP", "crv": "X25519", "x": strings.Repeat("A", 43)}))
	}},
	{"jwk_unsupported", "for encryption", func(a *attempt) { a.proof(phone.Header("jwk", a.with(map[string]any{"use": "enc"}))) }},
	{"jwk_unsupported", "for ECDH", func(a *attempt) { a.proof(phone.Header("jwk", a.with(map[string]any{"alg": "ECDH-ES"}))) }},
	{"jwk_off_curve", "zero", func(a *attempt) {
		a.proof(phone.Header("jwk", a.with(map[string]any{"x": strings.Repeat("A", 43), "y": strings.Repeat("A", 43)})))
	}},
	{"jwk_off_curve", "x of another key", func(a *attempt) {
		var other map[string]any
		_ = json.Unmarshal(a.phone.JWK(1), &other)
		a.proof(phone.Header("jwk", a.with(map[string]any{"x": other["x"]})))
	}},

	{"nonce_missing", "absent", func(a *attempt) { a.proof(phone.Claim("nonce", nil)) }},
	{"nonce_malformed", "short", func(a *attempt) { a.proof(phone.Claim("nonce", "abc")) }},
	{"nonce_malformed", "not base64url", func(a *attempt) { a.proof(phone.Claim("nonce", a.nonce[:75]+"+")) }},
	{"nonce_malformed", "line end inside", func(a *attempt) { a.proof(phone.Claim("nonce", a.nonce[:75]+"\n")) }},
	{"nonce_malformed", "another version", func(a *attempt) { a.proof(phone.Claim("nonce", "Ag"+a.nonce[2:])) }},
	{"nonce_foreign", "another client", func(a *attempt) { a.about.Client = "office-18" }},
	{"nonce_foreign", "another document type", func(a *attempt) { a.about.DocumentType = "mdl" }},
	{"nonce_foreign", "border between client and type moved", func(a *attempt) { a.about.Client, a.about.DocumentType = "office-17m", "rc" }},
	{"nonce_foreign", "another appliance", func(a *attempt) { a.retrust(func(t *evidence.Trust) { t.NonceKey[0]++ }) }},
	{"nonce_from_future", "clock set back", func(a *attempt) { a.about.At = now.Add(-time.Minute - 2*time.Second) }},
	{"nonce_expired", "after its life", func(a *attempt) { a.about.At = now.Add(5 * time.Minute) }},
	{"proof_audience", "another issuer", func(a *attempt) { a.proof(phone.Claim("aud", "https://other.example")) }},
	{"proof_audience", "with a slash", func(a *attempt) { a.proof(phone.Claim("aud", audience+"/")) }},
	{"proof_audience", "missing", func(a *attempt) { a.proof(phone.Claim("aud", nil)) }},
	{"proof_audience", "two", func(a *attempt) { a.proof(phone.Claim("aud", []string{audience, "https://other.example"})) }},
	{"proof_audience", "none of an array", func(a *attempt) { a.proof(phone.Claim("aud", []string{})) }},
	{"proof_audience", "an object", func(a *attempt) { a.proof(phone.Claim("aud", map[string]any{audience: 1})) }},
	{"proof_from_future", "iat", func(a *attempt) { a.proof(phone.Claim("iat", now.Unix()+61)) }},
	{"proof_from_future", "nbf", func(a *attempt) { a.proof(phone.Claim("nbf", now.Unix()+61)) }},
	{"proof_expired", "iat", func(a *attempt) { a.proof(phone.Claim("iat", now.Unix()-361)) }},
	{"proof_expired", "exp", func(a *attempt) { a.proof(phone.Claim("exp", now.Unix()-60)) }},

	{"previous_proof", "of another nonce", func(a *attempt) { a.bundle.Previous = a.phone.Prove(1, audience, a.world.nonce(), now, "") }},
	{"previous_proof", "for another issuer", func(a *attempt) { a.bundle.Previous = a.phone.Prove(1, "https://other.example", a.nonce, now, "") }},
	{"previous_proof", "too old", func(a *attempt) { a.bundle.Previous = a.phone.Prove(1, audience, a.nonce, now.Add(-time.Hour), "") }},
	{"previous_proof", "by another key", func(a *attempt) {
		a.bundle.Previous = a.phone.Prove(1, audience, a.nonce, now, "", phone.SignedByKey(a.phone, 0))
	}},
	{"previous_proof", "key by name", func(a *attempt) {
		a.bundle.Previous = a.phone.Prove(1, audience, a.nonce, now, "", phone.Header("jwk", nil), phone.Header("kid", a.phone.Thumbprint(1)))
	}},
	{"previous_proof", "with an attestation", func(a *attempt) {
		a.bundle.Previous = a.phone.Prove(1, audience, a.nonce, now, a.phone.Attest(a.provider, a.nonce, now))
	}},
	{"attestation_missing", "nowhere", func(a *attempt) { a.bundle.Proof = a.phone.Prove(0, audience, a.nonce, now, "") }},
	{"attestation_ambiguous", "two", func(a *attempt) { a.bundle.KeyAttestation = a.phone.Attest(a.provider, a.nonce, now) }},
	{"attestation_too_large", "padded", func(a *attempt) { a.attestation(phone.Header("pad", strings.Repeat("x", 100<<10))) }},
	{"attestation_malformed", "one part", func(a *attempt) { a.attestation(); a.bundle.KeyAttestation = "x" }},
	{"attestation_malformed", "four parts", func(a *attempt) { a.attestation(); a.bundle.KeyAttestation += "." }},
	{"attestation_malformed", "header typ twice", func(a *attempt) { a.attestation(phone.RawHeader(`{"typ":"a","typ":"b"}`)) }},
	{"attestation_malformed", "payload iat twice", func(a *attempt) { a.attestation(phone.RawClaims(`{"iat":1,"iat":2}`)) }},
	{"attestation_malformed", "payload deep", func(a *attempt) { a.attestation(phone.Claim("status", json.RawMessage(`[[[[[[1]]]]]]`))) }},
	{"attestation_malformed", "nbf negative", func(a *attempt) { a.attestation(phone.Claim("nbf", -1)) }},
	{"attestation_type", "wallet attestation of the specification", func(a *attempt) {
		a.attestation()
		a.bundle.KeyAttestation = vector(a.t, "wallet_attestation.jwt.txt")
	}},
	{"attestation_type", "the misprint of TS3", func(a *attempt) { a.attestation(phone.Header("typ", "keyattestation+jwt")) }},
	{"attestation_type", "a proof in its place", func(a *attempt) { a.attestation(); a.bundle.KeyAttestation = a.bundle.Proof }},
	{"attestation_algorithm", "none", func(a *attempt) { a.attestation(phone.Header("alg", "none")) }},
	{"attestation_algorithm", "EdDSA", func(a *attempt) { a.attestation(phone.Header("alg", "EdDSA")) }},
	{"attestation_critical", "crit", func(a *attempt) { a.attestation(phone.Header("crit", []string{"x"})) }},
	{"attestation_critical", "b64", func(a *attempt) { a.attestation(phone.Header("b64", true)) }},
	{"attestation_chain_missing", "kid instead", func(a *attempt) { a.attestation(phone.Header("x5c", nil), phone.Header("kid", "k")) }},
	{"attestation_time_missing", "iat", func(a *attempt) { a.attestation(phone.Claim("iat", nil)) }},
	{"attestation_time_missing", "exp", func(a *attempt) { a.attestation(phone.Claim("exp", nil)) }},
	{"attestation_time_missing", "exp in the year 10000", func(a *attempt) { a.attestation(phone.Claim("exp", 253402300800)) }},
	{"attestation_levels", "a text", func(a *attempt) { a.attestation(phone.Claim("key_storage", "iso_18045_high")) }},
	{"attestation_levels", "empty array", func(a *attempt) { a.attestation(phone.Claim("key_storage", []string{})) }},
	{"attestation_levels", "empty text", func(a *attempt) { a.attestation(phone.Claim("user_authentication", []string{""})) }},
	{"attestation_levels", "line end", func(a *attempt) { a.attestation(phone.Claim("user_authentication", []string{"a\nb"})) }},
	{"attestation_levels", "too long", func(a *attempt) {
		a.attestation(phone.Claim("user_authentication", []string{strings.Repeat("a", 129)}))
	}},
	{"attestation_levels", "too many", func(a *attempt) { a.attestation(phone.Claim("key_storage", strings.Split("abcdefghi", ""))) }},
	{"attestation_levels", "numbers", func(a *attempt) { a.attestation(phone.Claim("key_storage", []int{1})) }},
	{"attestation_keys_missing", "absent", func(a *attempt) { a.attestation(phone.Claim("attested_keys", nil)) }},
	{"attestation_keys_missing", "empty", func(a *attempt) { a.attestation(phone.Claim("attested_keys", []any{})) }},
	{"attestation_keys_missing", "an object", func(a *attempt) { a.attestation(phone.Claim("attested_keys", map[string]any{})) }},
	{"attestation_keys_too_many", "five of four", func(a *attempt) {
		a.phone = newPhone(a.t, phone.New, 5)
		a.attestation()
	}},
	{"attestation_keys_too_many", "no limit set", func(a *attempt) { a.retrust(func(t *evidence.Trust) { t.MaxKeys = 0 }) }},
	{"attestation_keys_repeated", "same bytes", func(a *attempt) {
		a.attestation(phone.Claim("attested_keys", []any{a.phone.JWK(0), a.phone.JWK(1), a.phone.JWK(0)}))
	}},
	{"attestation_keys_repeated", "same key with another kid", func(a *attempt) {
		a.attestation(phone.Claim("attested_keys", []any{a.phone.JWK(0), a.with(map[string]any{"kid": "2"})}))
	}},
	{"attestation_from_future", "iat", func(a *attempt) { a.attestation(phone.Claim("iat", now.Unix()+61)) }},
	{"attestation_from_future", "nbf", func(a *attempt) { a.attestation(phone.Claim("nbf", now.Unix()+61)) }},
	{"attestation_expired", "exp", func(a *attempt) { a.attestation(phone.Expires(now.Add(-time.Minute))) }},
	{"attestation_too_old", "iat", func(a *attempt) { a.attestation(phone.Claim("iat", now.Add(-24*time.Hour-61*time.Second).Unix())) }},
	{"attestation_nonce", "absent", func(a *attempt) { a.attestation(phone.Claim("nonce", nil)) }},
	{"attestation_nonce", "another good one", func(a *attempt) { a.attestation(phone.Claim("nonce", a.world.nonce())) }},
	{"proof_key_unattested", "attestation of another phone", func(a *attempt) {
		a.bundle.Proof = newPhone(a.t, phone.New, 1).Prove(0, audience, a.nonce, now, a.phone.Attest(a.provider, a.nonce, now))
	}},
	{"proof_key_unattested", "kid of another phone", func(a *attempt) {
		a.proof(phone.Header("jwk", nil), phone.Header("kid", newPhone(a.t, phone.New, 1).Thumbprint(0)))
	}},

	{"attestation_chain_malformed", "a text", func(a *attempt) { a.attestation(phone.Header("x5c", a.provider.X5C()[0])) }},
	{"attestation_chain_malformed", "empty", func(a *attempt) { a.attestation(phone.Header("x5c", []string{})) }},
	{"attestation_chain_malformed", "numbers", func(a *attempt) { a.attestation(phone.Header("x5c", []int{1})) }},
	{"attestation_chain_malformed", "not a certificate", func(a *attempt) { a.attestation(phone.Header("x5c", []string{"MAA="})) }},
	{"attestation_chain_malformed", "byte after the certificate", func(a *attempt) {
		a.attestation(phone.Header("x5c", []string{base64.StdEncoding.EncodeToString(append(slices.Clone(a.provider.Leaf().Raw), 0))}))
	}},
	{"attestation_chain_malformed", "base64url", func(a *attempt) { a.attestation(phone.Header("x5c", []string{"MA-_"})) }},
	{"attestation_chain_malformed", "with line ends", func(a *attempt) {
		x5c := a.provider.X5C()
		a.attestation(phone.Header("x5c", []string{x5c[0][:64] + "\n" + x5c[0][64:], x5c[1]}))
	}},
	{"attestation_chain_malformed", "spare bits set", func(a *attempt) {
		p := provider(a.t, phone.Bend{})
		for len(p.Leaf().Raw)%3 == 0 { // then there are no spare bits; the length of the signature varies
			p = provider(a.t, phone.Bend{})
		}
		x5c := p.X5C()
		last := strings.IndexByte(x5c[0], '=') - 1
		x5c[0] = x5c[0][:last] + string(x5c[0][last]+1) + x5c[0][last+1:]
		a.retrust(func(t *evidence.Trust) { t.WalletProviders = append(t.WalletProviders, p.Anchor()) })
		a.attestationOf(p, phone.Header("x5c", x5c))
	}},
	{"attestation_chain_malformed", "seven certificates", func(a *attempt) { a.trusting(phone.Bend{Intermediates: new(6)}) }},
	{"attestation_chain_malformed", "more than 64 KiB", func(a *attempt) {
		a.trusting(phone.Bend{Certificate: func(depth int, c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Value: make([]byte, 33<<10)}}
		}})
	}},
	{"attestation_chain_key", "RSA intermediate", func(a *attempt) {
		a.trusting(phone.Bend{Key: func(depth int) crypto.Signer {
			if depth != 1 {
				return nil
			}
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				a.t.Fatal(err)
			}
			return key
		}})
	}},
	{"attestation_chain_key", "P-521 leaf", func(a *attempt) {
		a.trusting(phone.Bend{Key: func(depth int) crypto.Signer {
			if depth != 0 {
				return nil
			}
			return ecKey(a.t, elliptic.P521())
		}}, phone.Header("alg", "ES256"), phone.SignedBy(ecKey(a.t, elliptic.P256())))
	}},
	{"attestation_chain_anchor", "anchor at the end", func(a *attempt) {
		a.attestation(phone.Header("x5c", append(a.provider.X5C(), x5cOf(a.provider.Anchor())...)))
	}},
	{"attestation_chain_anchor", "configured intermediate at the end", func(a *attempt) {
		p := a.trusting(phone.Bend{})
		inter, err := x509.ParseCertificate(must64(a.t, p.X5C()[1]))
		if err != nil {
			a.t.Fatal(err)
		}
		a.retrust(func(t *evidence.Trust) { t.WalletProviders = []*x509.Certificate{inter} })
	}},
	{"attestation_chain_anchor", "self-signed leaf", func(a *attempt) {
		a.attestation(phone.Header("x5c", x5cOf(provider(a.t, phone.Bend{}).Anchor())))
	}},
	{"attestation_chain_order", "leaf last", func(a *attempt) {
		x5c := a.provider.X5C()
		slices.Reverse(x5c)
		a.attestation(phone.Header("x5c", x5c))
	}},
	{"attestation_chain_order", "a stranger beside", func(a *attempt) {
		a.attestation(phone.Header("x5c", append(a.provider.X5C(), provider(a.t, phone.Bend{Name: "other"}).X5C()[0])))
	}},
	{"attestation_chain_order", "leaf twice", func(a *attempt) {
		x5c := a.provider.X5C()
		a.attestation(phone.Header("x5c", []string{x5c[0], x5c[0], x5c[1]}))
	}},
	{"attestation_chain_order", "a name twice", func(a *attempt) { // valid, but such names can make path building costly
		a.trusting(phone.Bend{Intermediates: new(3), Certificate: func(depth int, c *x509.Certificate) {
			if depth == 3 {
				c.Subject.CommonName = "intermediate 1"
			}
		}})
	}},
	{"attestation_chain_order", "a stranger with the anchor's name at the end", func(a *attempt) {
		stranger := provider(a.t, phone.Bend{Certificate: func(depth int, c *x509.Certificate) {
			c.Subject.CommonName = []string{"leaf", "root", "root of another"}[depth]
		}})
		a.attestation(phone.Header("x5c", append(a.provider.X5C(), stranger.X5C()[1])))
	}},
	{"attestation_leaf", "no keyUsage", func(a *attempt) { a.trusting(bendLeaf(func(c *x509.Certificate) { c.KeyUsage = 0 })) }},
	{"attestation_leaf", "keyAgreement only", func(a *attempt) {
		a.trusting(bendLeaf(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }))
	}},
	{"attestation_leaf", "a CA", func(a *attempt) { a.trusting(bendLeaf(func(c *x509.Certificate) { c.IsCA = true })) }},
	{"attestation_leaf", "no subject", func(a *attempt) { a.trusting(bendLeaf(func(c *x509.Certificate) { c.Subject = pkix.Name{} })) }},
	{"attestation_leaf", "subject with a line end", func(a *attempt) {
		a.trusting(bendLeaf(func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "a\nb"} }))
	}},
	{"attestation_leaf", "endless subject", func(a *attempt) {
		a.trusting(bendLeaf(func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: strings.Repeat("a", 300)} }))
	}},
	{"attestation_chain_expired", "leaf expired", func(a *attempt) {
		a.trusting(bendLeaf(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }))
	}},
	{"attestation_chain_expired", "leaf not valid yet", func(a *attempt) {
		a.trusting(bendLeaf(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }))
	}},
	{"attestation_chain_expired", "intermediate expired", func(a *attempt) {
		a.trusting(phone.Bend{Certificate: func(depth int, c *x509.Certificate) {
			if depth == 1 {
				c.NotAfter = now.Add(-time.Second)
			}
		}})
	}},
	{"attestation_chain_expired", "anchor expired", func(a *attempt) {
		a.trusting(phone.Bend{Certificate: func(depth int, c *x509.Certificate) {
			if depth == 2 {
				c.NotAfter = now.Add(-time.Second)
			}
		}})
	}},
	{"attestation_untrusted", "another provider with the same names", func(a *attempt) { a.attestationOf(provider(a.t, phone.Bend{})) }},
	{"attestation_untrusted", "no provider trusted", func(a *attempt) { a.retrust(func(t *evidence.Trust) { t.WalletProviders = nil }) }},
	{"attestation_untrusted", "intermediate missing", func(a *attempt) { a.attestation(phone.Header("x5c", a.provider.X5C()[:1])) }},
	{"attestation_untrusted", "issued by a leaf", func(a *attempt) {
		a.trusting(phone.Bend{Certificate: func(depth int, c *x509.Certificate) {
			if depth == 1 {
				c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
			}
		}})
	}},
	{"attestation_untrusted", "unknown critical extension", func(a *attempt) {
		a.trusting(bendLeaf(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}))
	}},
	{"attestation_signature", "another key", func(a *attempt) { a.attestation(phone.SignedBy(ecKey(a.t, elliptic.P256()))) }},
	{"attestation_signature", "alg of another curve", func(a *attempt) { a.attestation(phone.Header("alg", "ES384")) }},
	{"attestation_signature", "signed by the phone itself", func(a *attempt) { a.attestation(phone.SignedByKey(a.phone, 0)) }},
	{"proof_signature", "another phone", func(a *attempt) { a.proof(phone.SignedByKey(newPhone(a.t, phone.New, 1), 0)) }},
	{"proof_signature", "the phone's other key", func(a *attempt) { a.proof(phone.SignedByKey(a.phone, 1)) }},
	{"proof_signature", "kid of the other key", func(a *attempt) { a.proof(phone.Header("jwk", nil), phone.Header("kid", a.phone.Thumbprint(1))) }},
	{"proof_signature", "kid, and alg of another curve", func(a *attempt) {
		a.proof(phone.Header("jwk", nil), phone.Header("kid", a.phone.Thumbprint(0)), phone.Header("alg", "ES384"))
	}},
	{"proof_signature", "a zero before s", func(a *attempt) {
		i := strings.LastIndexByte(a.bundle.Proof, '.') + 1
		sig, _ := base64.RawURLEncoding.DecodeString(a.bundle.Proof[i:])
		a.bundle.Proof = a.bundle.Proof[:i] + base64.RawURLEncoding.EncodeToString(slices.Insert(sig, 32, 0))
	}},
	{"proof_signature", "written down without a secret for an empty digest", func(a *attempt) { // (x, x) is good for z = 0 under the key (x, y)
		a.proof(phone.Header("jwk", nil), phone.Header("kid", a.phone.Thumbprint(0)), phone.Header("alg", "EdDSA"))
		x, _ := base64.RawURLEncoding.DecodeString(a.with(nil)["x"].(string))
		i := strings.LastIndexByte(a.bundle.Proof, '.') + 1
		a.bundle.Proof = a.bundle.Proof[:i] + base64.RawURLEncoding.EncodeToString(slices.Concat(x, x))
	}},
	{"proof_signature", "63 bytes", func(a *attempt) { a.bundle.Proof = a.bundle.Proof[:len(a.bundle.Proof)-2] }},
	{"proof_signature", "zero", func(a *attempt) {
		i := strings.LastIndexByte(a.bundle.Proof, '.')
		a.bundle.Proof = a.bundle.Proof[:i+1] + base64.RawURLEncoding.EncodeToString(make([]byte, 64))
	}},
}

// TestRefusals shows each refusal with its code, and that no code of the table is without a case.
func TestRefusals(t *testing.T) {
	seen := map[string]bool{}
	good := newWorld(t)
	for _, r := range refusals {
		seen["evidence."+r.code] = true
		t.Run(r.code+"/"+r.name, func(t *testing.T) {
			w := *good
			a := &attempt{world: &w, t: t, about: about(), nonce: w.nonce()}
			a.proof()
			if _, err := a.verifier.Verify(a.about, a.bundle); err != nil {
				t.Fatalf("the request is bad before it is bent: %v", err)
			}
			r.bend(a)
			v, err := a.verifier.Verify(a.about, a.bundle)
			var refusal *evidence.Refusal
			if !errors.As(err, &refusal) || refusal.Code() != "evidence."+r.code {
				t.Fatalf("got %v, want evidence.%s", err, r.code)
			}
			if v.Valid() {
				t.Error("a refusal came with a valid value")
			}
			for _, secret := range []string{a.nonce, a.phone.Thumbprint(0), "evil.example"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error repeats the evidence: %v", err)
				}
			}
		})
	}
	for _, code := range statementCases() {
		seen["evidence."+code] = true
	}
	for i, c := range evidence.Codes {
		if !seen[c.Code] && !elsewhere(c.Code) {
			t.Errorf("%s has no case here", c.Code)
		}
		if !strings.HasSuffix(c.Explanation, ".") || strings.Contains(c.Explanation, "\n") {
			t.Errorf("%s is not explained in a sentence", c.Code)
		}
		if slices.ContainsFunc(evidence.Codes[:i], func(o evidence.Code) bool { return o.Code == c.Code }) {
			t.Errorf("%s is in the table twice", c.Code)
		}
		delete(seen, c.Code)
	}
	for code := range seen {
		t.Errorf("%s is not in the table", code)
	}
}

// elsewhere: codes whose cases are in TestLineEvent, TestPhonesInRequests, and the tests of the phone makers' formats.
func elsewhere(code string) bool {
	for _, prefix := range []string{"line_event_", "android_", "apple_", "app_attest_", "wallet_", "phone_status_", "status_", "proof_key_order", "proof_unasked", "proof_of_each"} {
		if strings.HasPrefix(code, "evidence."+prefix) {
			return true
		}
	}
	return ofClients(code)
}

// TestUnknownKind shows that the kind is named, but only when that is harmless.
func TestUnknownKind(t *testing.T) {
	w := newWorld(t)
	for kind, shown := range map[string]string{
		"palm_reading": "palm_reading", "": "(unprintable)", "a\nb": "(unprintable)", "<b>": "(unprintable)", strings.Repeat("a", 41): "(unprintable)",
	} {
		b := w.good()
		b.Items = []evidence.Item{{Kind: kind}}
		_, err := w.verifier.Verify(about(), b)
		if want := "evidence.kind_unknown: no evidence of kind " + shown + " is known to this version"; err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", kind, err, want)
		}
	}
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func must64(t testing.TB, s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
