package evidence

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"sealkeeper/internal/fuzzing"
)

// Seeds are the same in every process: keys come from fixed scalars. Only the signatures of the seeds differ, and no decoder looks into them.
func clientKey(f *testing.F, scalar int64) (*ecdsa.PrivateKey, []byte) {
	f.Helper()
	b := big.NewInt(scalar).FillBytes(make([]byte, 32))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b)
	if err != nil {
		f.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		f.Fatal(err)
	}
	return k, spki
}

func request(f *testing.F, k *ecdsa.PrivateKey) []byte {
	f.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "office-1"}, DNSNames: []string{"a.example"}}, k)
	if err != nil {
		f.Fatal(err)
	}
	return der
}

func signJWS(k *ecdsa.PrivateKey, input string) string {
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
	if err != nil {
		panic(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func signedJWT(k *ecdsa.PrivateKey, header string, claims map[string]any) string {
	body, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	e := base64.RawURLEncoding
	return signJWS(k, e.EncodeToString([]byte(header))+"."+e.EncodeToString(body))
}

// again signs what is left of a JWS, so that changed claims get past the signature.
func again(k *ecdsa.PrivateKey) func([]byte) []byte {
	return func(in []byte) []byte {
		parts := strings.Split(string(in), ".")
		if len(parts) != 3 {
			return in
		}
		return []byte(signJWS(k, parts[0]+"."+parts[1]))
	}
}

const fuzzedRA = "https://ra.example/1.0/sign"

// A token that is taken says for whom and until when, with an id of 128 bits, and has the key of the request that came with it.
func FuzzClientToken(f *testing.F) {
	signer, public := clientKey(f, 7)
	own, spki := clientKey(f, 11)
	csr := request(f, own)
	e := Enrolment{Keys: []TokenKey{{ID: "token-1", SPKI: public}}, Issuer: "sealkeeper", Audience: fuzzedRA, At: now}
	header := `{"alg":"ES256","typ":"sealkeeper-enrolment+jwt","kid":"token-1"}`
	claims := func() map[string]any {
		return map[string]any{"iss": "sealkeeper", "aud": fuzzedRA, "sub": "office-1", "sans": []string{"urn:sealkeeper:client:issuance:office-1"}, "jti": "AAECAwQFBgcICQoLDA0ODw",
			"sha": strings.Repeat("ab", 32), "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Unix() + 3600}
	}
	seeds := fuzzing.Strings(signedJWT(signer, header, claims()), signedJWT(own, header, claims()), "..", "a.b.c", strings.Repeat(".", MaxToken))
	for name, v := range map[string]any{"sub": "", "jti": "AA", "aud": "https://other.example", "exp": now.Unix() - 1, "nbf": now.Unix() + 1, "sans": []string{"*", "root"}, "step": map[string]any{"ra": 1}} {
		c := claims()
		c[name] = v
		seeds = append(seeds, []byte(signedJWT(signer, header, c)))
	}
	if _, err := e.ByToken(string(seeds[0]), csr); err != nil {
		f.Fatal(err)
	}
	o := fuzzing.Options{Longest: MaxToken + 100, Repair: again(signer)}
	fuzzing.Run(f, o, seeds, func(t *testing.T, in []byte) bool {
		k, err := e.ByToken(string(in), csr)
		if err != nil {
			if k != nil {
				t.Fatal("a key came with a refusal")
			}
			return false
		}
		if id, err := base64.RawURLEncoding.DecodeString(k.Token()); err != nil || len(id) != 16 || k.Client() == "" || !k.Until().After(now) || !bytes.Equal(k.SPKI(), spki) || k.Way() != ByToken || len(in) > MaxToken {
			t.Fatalf("took %q as %+v", in, k)
		}
		return true
	})
}

// Of a request nothing is taken but one public key of a known kind, in its one encoding, whose owner signed.
func FuzzClientRequest(f *testing.F) {
	own, spki := clientKey(f, 11)
	good := request(f, own)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	seeds := [][]byte{good, request(f, p384), spki, good[:40], append(bytes.Clone(good), 0), bytes.Repeat([]byte{0x30, 0x80}, MaxRequest/2), bytes.Repeat([]byte{0x30, 0x82, 0x3f, 0xf0}, MaxRequest/4)}
	if got, err := Requested(good); err != nil || !bytes.Equal(got, spki) {
		f.Fatal(err)
	}
	fuzzing.Run(f, fuzzing.Options{Longest: MaxRequest + 100}, seeds, func(t *testing.T, in []byte) bool {
		got, err := Requested(in)
		if err != nil {
			return false
		}
		r, err := x509.ParseCertificateRequest(in)
		if err == nil && r.CheckSignature() == nil && !bytes.Equal(r.RawSubjectPublicKeyInfo, got) { // the library may refuse names that nobody reads here
			t.Fatalf("another key than the request's: %x", in)
		}
		if _, err := publicKey(got); err != nil || len(in) > MaxRequest {
			t.Fatalf("took %x", in)
		}
		return true
	})
}

// A key that a renewal is asked for is one of the known kinds, in its one encoding.
func FuzzClientKey(f *testing.F) {
	_, spki := clientKey(f, 11)
	seeds := [][]byte{spki, spki[:len(spki)-1], append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, bytes.Repeat([]byte{9}, 32)...)}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, in []byte) bool {
		k, err := Renewing(in, now)
		if err == nil && (!bytes.Equal(k.SPKI(), in) || len(in) > 256 || k.Client() != "") {
			t.Fatalf("took %x", in)
		}
		return err == nil
	})
}

// A statement that is taken is by the registered key, about this client, for the key of the request that came with it, and short.
func FuzzClientStatement(f *testing.F) {
	old, registered := clientKey(f, 13)
	next, spki := clientKey(f, 17)
	csr := request(f, next)
	sum := sha256.Sum256(spki)
	header := `{"alg":"ES256","typ":"sealkeeper-rekey+jwt"}`
	claims := func() map[string]any {
		return map[string]any{"sub": "office-1", "aud": "https://ra.example/rekey", "key": base64.RawURLEncoding.EncodeToString(sum[:]), "iat": now.Unix(), "exp": now.Unix() + 300}
	}
	seeds := fuzzing.Strings(signedJWT(old, header, claims()), signedJWT(next, header, claims()), "..", strings.Repeat(".", MaxToken))
	for name, v := range map[string]any{"sub": "office-2", "key": "AA", "exp": now.Unix() + 601, "iat": now.Unix() + 3600, "aud": "", "role": "desk"} {
		c := claims()
		c[name] = v
		seeds = append(seeds, []byte(signedJWT(old, header, c)))
	}
	rekey := func(in []byte) (*ClientKey, error) {
		return Rekeying("office-1", registered, string(in), csr, "https://ra.example/rekey", now)
	}
	if _, err := rekey(seeds[0]); err != nil {
		f.Fatal(err)
	}
	o := fuzzing.Options{Longest: MaxToken + 100, Repair: again(old)}
	fuzzing.Run(f, o, seeds, func(t *testing.T, in []byte) bool {
		k, err := rekey(in)
		if err != nil {
			return false
		}
		if k.Client() != "office-1" || !bytes.Equal(k.SPKI(), spki) || !bytes.Equal(k.SignedBy(), registered) || !k.Until().After(now) || k.Until().Sub(now) > rekeyLife+rekeySkew || k.Way() != ByStatement {
			t.Fatalf("took %q as %+v", in, k)
		}
		return true
	})
}
