package evidence

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"slices"
	"time"

	"sealkeeper/internal/strict"
)

// Ways in which a client's public key comes to be believed.
type Way string

const (
	ByToken     Way = "token"     // a one-time token that the appliance signed, and a certificate request that the key signed
	ByRenewal   Way = "renewal"   // nothing: whoever says so. It is good for the registered key alone
	ByStatement Way = "statement" // the registered key signed for another, which signed too
)

// ClientKey is a client's public key with what speaks for it. Of a certificate request nothing else is kept: names, extensions and whatever else
// it asks for are not read. The zero value is refused by whatever takes it.
type ClientKey struct {
	way       Way
	client    string
	token     string
	statement [32]byte
	spki, by  []byte
	until, at time.Time
}

// Valid says whether k came from this package.
func (k *ClientKey) Valid() bool { return k != nil && k.way != "" }

// Way in which it was verified.
func (k *ClientKey) Way() Way { return k.way }

// Client that it is for; empty: the caller says which, and the key must be that one's.
func (k *ClientKey) Client() string { return k.client }

// SPKI is the public key.
func (k *ClientKey) SPKI() []byte { return slices.Clone(k.spki) }

// Token is the id of the token that spoke for it.
func (k *ClientKey) Token() string { return k.token }

// Statement names the statement that spoke for it.
func (k *ClientKey) Statement() [32]byte { return k.statement }

// SignedBy is the key that signed the statement.
func (k *ClientKey) SignedBy() []byte { return slices.Clone(k.by) }

// Until is when token or statement have ended, so that nobody has to remember them any more.
func (k *ClientKey) Until() time.Time { return k.until }

// At is the instant of the verification.
func (k *ClientKey) At() time.Time { return k.at }

// TokenType is the typ of one-time tokens, RekeyType that of statements by which a client changes its key.
const (
	TokenType = "sealkeeper-enrolment+jwt"
	RekeyType = "sealkeeper-rekey+jwt"
)

// Bounds of what comes from outside, before it is decoded.
const (
	MaxToken   = 4 << 10
	MaxRequest = 16 << 10
)

// TokenKey is a key that signs one-time tokens.
type TokenKey struct {
	ID   string
	SPKI []byte
}

// Enrolment is what a one-time token was signed for.
type Enrolment struct {
	Keys     []TokenKey
	Issuer   string
	Audience string
	At       time.Time
	Leeway   time.Duration // that At may be off by; none where the token is decided about
}

type tokenHeader struct {
	Alg string `json:"alg"`
	Typ string `json:"typ"`
	Kid string `json:"kid"`
}

type tokenClaims struct {
	Issuer    string   `json:"iss"`
	Audience  string   `json:"aud"`
	Subject   string   `json:"sub"`
	SANs      []string `json:"sans"`
	ID        string   `json:"jti"`
	SHA       string   `json:"sha"`
	IssuedAt  *int64   `json:"iat"`
	NotBefore *int64   `json:"nbf"`
	Expires   *int64   `json:"exp"`
}

var claimLimits = strict.Limits{Bytes: MaxToken, Depth: 3}

// ByToken verifies a one-time token and the certificate request that came with it.
func (e Enrolment) ByToken(text string, request []byte) (*ClientKey, error) {
	c, until, err := e.token(text, true)
	if err != nil {
		return nil, err
	}
	spki, err := Requested(request)
	if err != nil {
		return nil, err
	}
	return &ClientKey{way: ByToken, client: c.Subject, token: c.ID, spki: spki, until: until, at: e.At}, nil
}

// Token verifies a one-time token alone, and makes nothing of it: for whoever only passes tokens on, and keeps from the appliance what is none.
func (e Enrolment) Token(text string) error {
	_, _, err := e.token(text, true)
	return err
}

// Shape is Token without the signature: what it refuses can't be a token, and what it takes is not known to be one.
func (e Enrolment) Shape(text string) error {
	_, _, err := e.token(text, false)
	return err
}

func (e Enrolment) token(text string, signed bool) (c tokenClaims, until time.Time, _ error) {
	if len(text) > MaxToken {
		return c, until, refuse("token_malformed", "the token is larger than 4 KiB")
	}
	t, ok := split(text)
	if !ok {
		return c, until, refuse("token_malformed", "the token is not a compact JWS")
	}
	var h tokenHeader
	if !t.header(strict.JSON, claimLimits, &h) || h.Typ != TokenType {
		return c, until, refuse("token_malformed", "the token's header is not that of a one-time token")
	}
	t.alg = h.Alg
	i := slices.IndexFunc(e.Keys, func(k TokenKey) bool { return k.ID == h.Kid })
	if i < 0 {
		return c, until, refuse("token_foreign", "no key of this appliance signed the token")
	}
	if signed && !signedByKey(&t, e.Keys[i].SPKI) {
		return c, until, refuse("token_signature", "the token's signature does not verify")
	}
	if strict.JSON(t.payload, claimLimits, &c) != nil {
		return c, until, refuse("token_malformed", "the token's claims are not those of a one-time token")
	}
	id, idOK := decode64(c.ID)
	from, fromOK := instant(c.NotBefore)
	until, untilOK := instant(c.Expires)
	switch {
	case !fromOK || !untilOK || !idOK || len(id) != 16 || c.Subject == "":
		return c, until, refuse("token_malformed", "the token's claims are not those of a one-time token")
	case e.Issuer == "" || e.Audience == "" || c.Issuer != e.Issuer || c.Audience != e.Audience:
		return c, until, refuse("token_foreign", "the token is for another registration authority")
	case e.At.Add(e.Leeway).Before(from) || !e.At.Add(-e.Leeway).Before(until):
		return c, until, refuse("token_expired", "the token is not valid now: ask for another one")
	}
	return c, until, nil
}

func signedByKey(t *token, spki []byte) bool {
	key, err := x509.ParsePKIXPublicKey(spki)
	return err == nil && t.signedBy(key)
}

// Renewing takes the word of whoever asks for the renewal of a certificate: it proves nothing, and so is good for nothing but a certificate for
// the very key that is registered, which is of use to nobody who does not hold that key.
func Renewing(spki []byte, at time.Time) (*ClientKey, error) {
	if _, err := publicKey(spki); err != nil {
		return nil, err
	}
	return &ClientKey{way: ByRenewal, spki: bytes.Clone(spki), at: at}, nil
}

// rekeySkew is how far ahead of the appliance a client's clock may be; rekeyLife how long a statement lives at most.
const (
	rekeySkew = time.Minute
	rekeyLife = 10 * time.Minute
)

// Rekeying verifies the statement by which a client's registered key hands over to another one, and the other one's request.
func Rekeying(client string, registered []byte, statement string, request []byte, audience string, at time.Time) (*ClientKey, error) {
	if len(statement) > MaxToken {
		return nil, refuse("rekey_malformed", "the statement is larger than 4 KiB")
	}
	t, ok := split(statement)
	var h struct {
		Alg string `json:"alg"`
		Typ string `json:"typ"`
	}
	if !ok || !t.header(strict.JSON, claimLimits, &h) || h.Typ != RekeyType {
		return nil, refuse("rekey_malformed", "the statement is not a compact JWS of type "+RekeyType)
	}
	t.alg = h.Alg
	var c struct {
		Subject  string `json:"sub"`
		Audience string `json:"aud"`
		Key      string `json:"key"`
		IssuedAt *int64 `json:"iat"`
		Expires  *int64 `json:"exp"`
	}
	if strict.JSON(t.payload, claimLimits, &c) != nil {
		return nil, refuse("rekey_malformed", "the statement's claims are not those of one")
	}
	from, fromOK := instant(c.IssuedAt)
	until, untilOK := instant(c.Expires)
	key, err := x509.ParsePKIXPublicKey(registered)
	switch {
	case !fromOK || !untilOK:
		return nil, refuse("rekey_malformed", "the statement's claims are not those of one")
	case err != nil || !t.signedBy(key):
		return nil, refuse("rekey_signature", "the key that the client registered did not sign the statement")
	case client == "" || c.Subject != client || audience == "" || c.Audience != audience:
		return nil, refuse("rekey_foreign", "the statement is about another client, or for another registration authority")
	case from.After(at.Add(rekeySkew)) || !at.Before(until) || until.Sub(from) > rekeyLife:
		return nil, refuse("rekey_expired", "the statement is not valid now: it lives for ten minutes at most")
	}
	spki, err := Requested(request)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(spki); c.Key != base64.RawURLEncoding.EncodeToString(sum[:]) {
		return nil, refuse("rekey_other_key", "the statement is for another key than the request's")
	}
	return &ClientKey{way: ByStatement, client: client, statement: sha256.Sum256([]byte(t.input)), spki: spki, by: bytes.Clone(registered), until: until, at: at}, nil
}

// Requested reads a certificate request (PKCS #10, DER) for the one thing in it that counts: a public key that its owner has. Names and
// extensions are not looked at.
func Requested(der []byte) (spki []byte, _ error) {
	if len(der) > MaxRequest {
		return nil, refuse("request_malformed", "the certificate request is larger than 16 KiB")
	}
	// Only the outermost structure: the standard library's parser would read names and extensions, which have no meaning here.
	var r struct {
		Info      asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if rest, err := asn1.Unmarshal(der, &r); err != nil || len(rest) > 0 {
		return nil, refuse("request_malformed", "the certificate request is not one PKCS #10 structure in DER")
	}
	var info struct {
		Version    int
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Attributes asn1.RawValue `asn1:"optional,tag:0"`
	}
	if rest, err := asn1.Unmarshal(r.Info.FullBytes, &info); err != nil || len(rest) > 0 || info.Version != 0 {
		return nil, refuse("request_malformed", "the certificate request is not one of version 1")
	}
	key, err := publicKey(info.Key.FullBytes)
	if err != nil {
		return nil, err
	}
	if !possessed(key, r.Algorithm.FullBytes, r.Info.FullBytes, r.Signature.RightAlign()) {
		return nil, refuse("request_signature", "the certificate request is not signed by its own key")
	}
	return bytes.Clone(info.Key.FullBytes), nil
}

// publicKey refuses keys that no client has: P-256, P-384 and Ed25519 are taken, each in its one encoding.
func publicKey(spki []byte) (crypto.PublicKey, error) {
	bad := refuse("client_key", "the key is none of P-256, P-384 and Ed25519, in DER")
	if len(spki) > 256 {
		return nil, bad
	}
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, bad
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return nil, bad
		}
	case ed25519.PublicKey:
		if !edPoint(k) {
			return nil, bad
		}
	default:
		return nil, bad
	}
	if again, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(again, spki) {
		return nil, bad
	}
	return key, nil
}

// possessed verifies the request's signature with the one algorithm of the key's kind.
func possessed(key crypto.PublicKey, algorithm, signed, signature []byte) bool {
	var want []byte
	var hash crypto.Hash
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		want, hash = []byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}, crypto.SHA256
		if k.Curve == elliptic.P384() {
			want, hash = []byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03}, crypto.SHA384
		}
		// Requests for P-384 keys are commonly signed with SHA-256 too.
		if !bytes.Equal(algorithm, want) && !(hash == crypto.SHA384 && bytes.Equal(algorithm, []byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02})) {
			return false
		}
		if algorithm[len(algorithm)-1] == 2 {
			hash = crypto.SHA256
		}
		h := hash.New()
		h.Write(signed)
		return ecdsa.VerifyASN1(k, h.Sum(nil), signature)
	case ed25519.PublicKey:
		return bytes.Equal(algorithm, []byte{0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70}) && ed25519.Verify(k, signed, signature)
	}
	return false
}
