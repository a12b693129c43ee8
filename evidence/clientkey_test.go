package evidence_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/evidence"
)

// jws signs claims with ES256 under the header given.
func jws(t *testing.T, key *ecdsa.PrivateKey, header, claims map[string]any) string {
	t.Helper()
	var parts [2]string
	for i, v := range []any{header, claims} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		parts[i] = base64.RawURLEncoding.EncodeToString(b)
	}
	input := parts[0] + "." + parts[1]
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 64)
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(raw)
}

// csr asks for whatever a certificate can say, for a key.
func csr(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "root"}, DNSNames: []string{"evil.example"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func spkiOf(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func curveKey(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What speaks for a client's key is believed whole or not at all, and each way in which it can be wrong has its code.
func TestClientKeys(t *testing.T) {
	var (
		at         = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
		appliance  = curveKey(t, elliptic.P256())
		registered = curveKey(t, elliptic.P256())
		phone      = curveKey(t, elliptic.P256())
		seen       = map[string]bool{}
	)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	enrolment := evidence.Enrolment{Keys: []evidence.TokenKey{{ID: "token-1", SPKI: spkiOf(t, appliance)}}, Issuer: "sealkeeper", Audience: "https://ra.example/1.0/sign", At: at}
	id := base64.RawURLEncoding.EncodeToString(make([]byte, 16))
	type member = map[string]any
	with := func(m member, changes member) member {
		m = maps.Clone(m)
		for k, v := range changes {
			if m[k] = v; v == nil {
				delete(m, k)
			}
		}
		return m
	}
	header := member{"alg": "ES256", "typ": evidence.TokenType, "kid": "token-1"}
	claims := member{"iss": "sealkeeper", "aud": enrolment.Audience, "sub": "office-11110", "sans": []string{"office-11110"}, "jti": id, "sha": "00", "iat": at.Unix(), "nbf": at.Unix(), "exp": at.Add(time.Hour).Unix()}
	good := csr(t, phone)
	turned := slices.Clone(good) // a bit of the signature
	turned[len(turned)-1] ^= 1

	expect := func(t *testing.T, k *evidence.ClientKey, err error, code string) {
		t.Helper()
		seen["evidence."+code] = true
		var refusal *evidence.Refusal
		switch {
		case code == "" && (err != nil || !k.Valid()):
			t.Fatalf("refused: %v", err)
		case code != "" && (!errors.As(err, &refusal) || refusal.Code() != "evidence."+code):
			t.Fatalf("got %v, want evidence.%s", err, code)
		case code != "" && k.Valid():
			t.Fatal("a refusal came with a valid value")
		}
	}
	for _, c := range []struct {
		what   string
		header member
		claims member
		key    *ecdsa.PrivateKey
		csr    []byte
		at     time.Time
		code   string
	}{
		{what: "a token and a request"},
		{what: "a P-384 key", csr: csr(t, curveKey(t, elliptic.P384()))},
		{what: "an Ed25519 key", csr: csr(t, edwards)},
		{what: "the last second", at: at.Add(time.Hour - time.Second)},
		{what: "another typ", header: member{"typ": "JWT"}, code: "token_malformed"},
		{what: "an unknown header", header: member{"jwk": member{}}, code: "token_malformed"},
		{what: "an unknown claim", claims: member{"role": "operator"}, code: "token_malformed"},
		{what: "no subject", claims: member{"sub": ""}, code: "token_malformed"},
		{what: "a short id", claims: member{"jti": "AAAA"}, code: "token_malformed"},
		{what: "no end", claims: member{"exp": nil}, code: "token_malformed"},
		{what: "too large", claims: member{"sha": strings.Repeat("0", evidence.MaxToken)}, code: "token_malformed"},
		{what: "an unknown key", header: member{"kid": "token-2"}, code: "token_foreign"},
		{what: "another authority", claims: member{"aud": "https://other.example/1.0/sign"}, code: "token_foreign"},
		{what: "another issuer", claims: member{"iss": "other"}, code: "token_foreign"},
		{what: "somebody else's signature", key: phone, code: "token_signature"},
		{what: "another algorithm", header: member{"alg": "ES384"}, code: "token_signature"},
		{what: "no algorithm", header: member{"alg": "none"}, code: "token_signature"},
		{what: "too late", at: at.Add(time.Hour), code: "token_expired"},
		{what: "too early", at: at.Add(-time.Second), code: "token_expired"},
		{what: "no request", csr: []byte{}, code: "request_malformed"},
		{what: "more than a request", csr: append(slices.Clone(good), 0), code: "request_malformed"},
		{what: "a large request", csr: make([]byte, evidence.MaxRequest+1), code: "request_malformed"},
		{what: "a request that its key did not sign", csr: turned, code: "request_signature"},
		{what: "an RSA key", csr: csr(t, large), code: "client_key"},
		{what: "a P-224 key", csr: csr(t, curveKey(t, elliptic.P224())), code: "client_key"},
	} {
		t.Run("token/"+c.what, func(t *testing.T) {
			e, key, request := enrolment, appliance, good
			if !c.at.IsZero() {
				e.At = c.at
			}
			if c.key != nil {
				key = c.key
			}
			if c.csr != nil {
				request = c.csr
			}
			k, err := e.ByToken(jws(t, key, with(header, c.header), with(claims, c.claims)), request)
			expect(t, k, err, c.code)
			if err == nil && (k.Client() != "office-11110" || k.Token() != id || k.Way() != evidence.ByToken) {
				t.Errorf("believed %s by %s with token %s", k.Client(), k.Way(), k.Token())
			}
		})
	}

	const audience = "https://ra.example/sealkeeper/rekey"
	sum := sha256.Sum256(spkiOf(t, phone))
	header = member{"alg": "ES256", "typ": evidence.RekeyType}
	claims = member{"sub": "office-11110", "aud": audience, "key": base64.RawURLEncoding.EncodeToString(sum[:]), "iat": at.Unix(), "exp": at.Add(5 * time.Minute).Unix()}
	for _, c := range []struct {
		what   string
		header member
		claims member
		key    *ecdsa.PrivateKey
		csr    []byte
		client string
		code   string
	}{
		{what: "a statement and a request"},
		{what: "a clock that is a little ahead", claims: member{"iat": at.Add(30 * time.Second).Unix()}},
		{what: "another typ", header: member{"typ": evidence.TokenType}, code: "rekey_malformed"},
		{what: "an unknown claim", claims: member{"jti": id}, code: "rekey_malformed"},
		{what: "no begin", claims: member{"iat": nil}, code: "rekey_malformed"},
		{what: "too large", claims: member{"key": strings.Repeat("A", evidence.MaxToken)}, code: "rekey_malformed"},
		{what: "signed by the new key", key: phone, code: "rekey_signature"},
		{what: "another client", client: "office-26000", code: "rekey_foreign"},
		{what: "another authority", claims: member{"aud": enrolment.Audience}, code: "rekey_foreign"},
		{what: "ended", claims: member{"exp": at.Unix()}, code: "rekey_expired"},
		{what: "from the future", claims: member{"iat": at.Add(2 * time.Minute).Unix()}, code: "rekey_expired"},
		{what: "a long life", claims: member{"exp": at.Add(time.Hour).Unix()}, code: "rekey_expired"},
		{what: "another key", csr: csr(t, curveKey(t, elliptic.P256())), code: "rekey_other_key"},
		{what: "a request that its key did not sign", csr: turned, code: "request_signature"},
	} {
		t.Run("statement/"+c.what, func(t *testing.T) {
			key, request, client := registered, good, "office-11110"
			if c.key != nil {
				key = c.key
			}
			if c.csr != nil {
				request = c.csr
			}
			if c.client != "" {
				client = c.client
			}
			k, err := evidence.Rekeying(client, spkiOf(t, registered), jws(t, key, with(header, c.header), with(claims, c.claims)), request, audience, at)
			expect(t, k, err, c.code)
			if err == nil && (!slices.Equal(k.SignedBy(), spkiOf(t, registered)) || k.Way() != evidence.ByStatement) {
				t.Error("it does not say whose statement it was")
			}
		})
	}
	t.Run("renewal", func(t *testing.T) {
		k, err := evidence.Renewing(spkiOf(t, phone), at)
		expect(t, k, err, "")
		k, err = evidence.Renewing(spkiOf(t, large), at)
		expect(t, k, err, "client_key")
	})
	for _, c := range evidence.Codes {
		if ofClients(c.Code) && !seen[c.Code] {
			t.Errorf("%s has no case here", c.Code)
		}
	}
}

// ofClients says whether a code is of what speaks for a client's key.
func ofClients(code string) bool {
	return slices.ContainsFunc([]string{"token_", "rekey_", "request_", "client_key"}, func(p string) bool { return strings.HasPrefix(code, "evidence."+p) })
}
