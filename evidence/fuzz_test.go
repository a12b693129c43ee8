package evidence

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math/big"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/tests/phone"
)

// frozen is a good request of once, with what it led to. It is never made anew without need: it shows that today's code still accepts
// yesterday's phones and burns the same ids, and it gives the fuzz targets the same seeds in every process.
type frozen struct {
	Anchor         []byte   // DER
	X5C            []string // of the attestation
	Proof          string   // key 0, jwk, nothing in key_attestation
	ProofByKid     string   // key 1, kid
	KeyAttestation string
	Nonce          string
	Thumbprints    []string
	Burns          []string // hex
}

var frozenTrust = Trust{NonceKey: [32]byte{1, 2, 3}, NonceLife: time.Minute, AttestationAge: time.Hour, Skew: time.Minute, MaxKeys: 2}

var frozenAbout = About{Client: "office-17", DocumentType: "mrc", Audience: "https://issuer.example.org", At: now}

var update = flag.Bool("update", false, "make testdata/request.json anew")

func thaw(t testing.TB) (f frozen, trust Trust) {
	t.Helper()
	b, err := os.ReadFile("testdata/request.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	anchor, err := x509.ParseCertificate(f.Anchor)
	if err != nil {
		t.Fatal(err)
	}
	trust = frozenTrust
	trust.WalletProviders = []*x509.Certificate{anchor}
	return f, trust
}

func TestFrozenRequest(t *testing.T) {
	if *update {
		freeze(t)
	}
	f, trust := thaw(t)
	v := NewVerifier(trust)
	for i, proof := range []string{f.Proof, f.ProofByKid} {
		verified, err := v.Verify(frozenAbout, Bundle{Proof: proof, KeyAttestation: f.KeyAttestation})
		if err != nil {
			t.Fatal(err)
		}
		for k, want := range []string{f.Thumbprints[i], f.Thumbprints[1-i]} {
			if got := b64(verified.keys[k].Thumbprint[:]); got != want {
				t.Errorf("key %d is %s, want %s", k, got, want)
			}
		}
		for k, want := range f.Burns {
			if got := hex.EncodeToString(verified.burns[k].ID[:]); got != want {
				t.Errorf("burn %d is %s, want %s", k, got, want)
			}
		}
	}
}

func freeze(t *testing.T) {
	provider := newProvider(t, phone.Bend{Intermediates: new(2)})
	p, err := phone.New(2)
	if err != nil {
		t.Fatal(err)
	}
	trust := frozenTrust
	trust.WalletProviders = []*x509.Certificate{provider.Anchor()}
	v := NewVerifier(trust)
	f := frozen{Anchor: provider.Anchor().Raw, X5C: provider.X5C(), Thumbprints: []string{p.Thumbprint(0), p.Thumbprint(1)}}
	f.Nonce, _ = v.Nonce("office-17", "mrc", now, [16]byte{7})
	f.KeyAttestation = p.Attest(provider, f.Nonce, now)
	f.Proof = p.Prove(0, frozenAbout.Audience, f.Nonce, now, "")
	f.ProofByKid = p.Prove(1, frozenAbout.Audience, f.Nonce, now, "", phone.Header("jwk", nil), phone.Header("kid", p.Thumbprint(1)))
	verified, err := v.Verify(frozenAbout, Bundle{Proof: f.Proof, KeyAttestation: f.KeyAttestation})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range verified.burns {
		f.Burns = append(f.Burns, hex.EncodeToString(b.ID[:]))
	}
	out, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/request.json", append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func jws(header, payload string) string {
	return b64([]byte(header)) + "." + b64([]byte(payload)) + "." + b64(make([]byte, 64))
}

// forger holds the private keys of a provider and of a phone that the fuzz targets trust, the same in every process, so that what was
// changed can be signed again and gets as far as changed inputs with a good signature would.
type forger struct {
	anchor *x509.Certificate
	keys   [3]*ecdsa.PrivateKey // leaf, intermediate, anchor
	x5c    []string
}

func newForger(f *testing.F) *forger {
	w := &forger{}
	for i := range w.keys {
		var err error
		if w.keys[i], err = ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{byte(i + 1)}, 32)); err != nil {
			f.Fatal(err)
		}
	}
	var parent *x509.Certificate
	for i := 2; i >= 0; i-- {
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: []string{"leaf", "between", "anchor"}[i]},
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), BasicConstraintsValid: true, IsCA: i > 0, KeyUsage: x509.KeyUsageCertSign}
		if i == 0 {
			c.KeyUsage = x509.KeyUsageDigitalSignature
		}
		if parent == nil {
			parent = c
		}
		der, err := x509.CreateCertificate(nil, c, parent, w.keys[i].Public(), w.keys[min(i+1, 2)])
		if err != nil {
			f.Fatal(err)
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			f.Fatal(err)
		}
		if i == 2 {
			w.anchor = parent
		} else {
			w.x5c = append([]string{base64.StdEncoding.EncodeToString(der)}, w.x5c...)
		}
	}
	return w
}

// sign gives the first two parts of a compact JWS the leaf's signature.
func (w *forger) sign(input []byte) []byte {
	parts := bytes.SplitN(input, []byte("."), 3)
	if len(parts) < 2 {
		return input
	}
	signed := slices.Concat(parts[0], []byte("."), parts[1])
	sum := sha256.Sum256(signed)
	der, err := w.keys[0].Sign(nil, sum[:], crypto.SHA256)
	var rs struct{ R, S *big.Int }
	if _, err2 := asn1.Unmarshal(der, &rs); err != nil || err2 != nil {
		return input
	}
	sig := make([]byte, 64)
	rs.R.FillBytes(sig[:32])
	rs.S.FillBytes(sig[32:])
	return append(append(signed, '.'), b64(sig)...)
}

// certify signs each certificate of an x5c again with the key of the one above.
func (w *forger) certify(x5c []byte) []byte {
	var list []string
	if json.Unmarshal(x5c, &list) != nil {
		return x5c
	}
	for i, s := range list {
		der, err := base64.StdEncoding.DecodeString(s)
		var c struct {
			TBS, Algorithm asn1.RawValue
			Signature      asn1.BitString
		}
		if rest, err2 := asn1.Unmarshal(der, &c); err != nil || err2 != nil || len(rest) > 0 {
			continue
		}
		sum := sha256.Sum256(c.TBS.FullBytes)
		sig, err := w.keys[min(i+1+max(0, 2-len(list)), 2)].Sign(nil, sum[:], crypto.SHA256)
		if err != nil {
			continue
		}
		c.Signature = asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}
		if der, err = asn1.Marshal(c); err == nil {
			list[i] = base64.StdEncoding.EncodeToString(der)
		}
	}
	out, err := json.Marshal(list)
	if err != nil {
		return x5c
	}
	return out
}

// jwk is the leaf's key, which plays the phone's as well.
func (w *forger) jwk() string {
	point, _ := w.keys[0].PublicKey.Bytes()
	return `{"kty":"EC","crv":"P-256","x":"` + b64(point[1:33]) + `","y":"` + b64(point[33:]) + `"}`
}

func FuzzProof(f *testing.F) {
	good, _ := thaw(f)
	w := newForger(f)
	seeds := fuzzing.Strings(good.Proof, good.ProofByKid, good.KeyAttestation, "..", jws("{}", "{}"),
		jws(`{"typ":"openid4vci-proof+jwt","alg":"none","alg":"ES256"}`, `{}`),
		string(w.sign([]byte(jws(`{"typ":"openid4vci-proof+jwt","alg":"ES256","jwk":`+w.jwk()+`}`,
			fmt.Sprintf(`{"aud":"a","iat":%d,"exp":%d,"nbf":%d,"nonce":"n"}`, now.Unix(), now.Unix()+60, now.Unix()))))))
	o := fuzzing.Options{Repair: w.sign, Longest: maxProof + 100}
	fuzzing.Run(f, o, seeds, func(t *testing.T, in []byte) bool {
		s := string(in)
		p, err := readProof(s)
		if err != nil {
			return false
		}
		if again := canonical(p.head) + "." + b64(p.payload) + "." + b64(p.signature); again != s {
			t.Fatalf("%q was read as %q: two texts of one proof", s, again)
		}
		if p.key != nil && p.signedBy(p.key.Public) { // then another implementation must say the same
			jws, err := jose.ParseSignedCompact(s, []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA})
			if err != nil {
				t.Fatalf("go-jose can't read an accepted proof: %v", err)
			}
			if _, err := jws.Verify(p.key.Public); err != nil {
				t.Fatalf("go-jose doesn't accept the signature: %v", err)
			}
		}
		_ = p.check(About{Client: "c", DocumentType: "d", Audience: "a", At: now}, Trust{NonceLife: time.Minute})
		return true
	})
}

func FuzzAttestation(f *testing.F) {
	good, trust := thaw(f)
	w := newForger(f)
	x5c, err := json.Marshal(w.x5c)
	if err != nil {
		f.Fatal(err)
	}
	seeds := fuzzing.Strings(good.KeyAttestation, good.Proof, "..", jws("{}", "{}"),
		jws(`{"typ":"key-attestation+jwt","alg":"ES256","x5c":["MAA="]}`, `{"iat":1,"exp":2,"attested_keys":[{}]}`),
		string(w.sign([]byte(jws(`{"typ":"key-attestation+jwt","alg":"ES256","x5c":`+string(x5c)+`}`,
			fmt.Sprintf(`{"iat":%d,"exp":%d,"nonce":"n","key_storage":["iso_18045_high"],"user_authentication":["iso_18045_high"],"attested_keys":[%s]}`, now.Unix(), now.Unix()+60, w.jwk()))))))
	anchors := append(trust.WalletProviders, w.anchor)
	o := fuzzing.Options{Repair: w.sign, Longest: maxAttestation + 100}
	fuzzing.Run(f, o, seeds, func(t *testing.T, in []byte) bool {
		s := string(in)
		v := NewVerifier(Trust{MaxKeys: 4})
		a, err := v.readAttestation(s, Profile{}, nil)
		if err != nil {
			return false
		}
		if again := canonical(a.head) + "." + b64(a.payload) + "." + b64(a.signature); again != s {
			t.Fatalf("%q was read as %q: two texts of one attestation", s, again)
		}
		if len(a.keys) == 0 || len(a.keys) > 4 {
			t.Fatalf("%d keys", len(a.keys))
		}
		c := newChains(anchors) // without memory of other inputs
		if issuer, err := c.verify(a.header.chain, now); err == nil {
			a.signedBy(issuer.key)
		}
		v.attested.keep(a.head, a.header) // as if it had been signed
		if again, err := v.readAttestation(s, Profile{}, nil); err != nil || !reflect.DeepEqual(again, a) {
			t.Fatalf("read again, it is another one (%v)", err)
		}
		return true
	})
}

func FuzzChain(f *testing.F) {
	good, trust := thaw(f)
	w := newForger(f)
	var seeds [][]byte
	trusted := map[string]bool{} // keys that a leaf may have
	for _, x5c := range [][]string{good.X5C, w.x5c, w.x5c[:1], slices.Concat(good.X5C, w.x5c)} {
		b, err := json.Marshal(x5c)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, b)
	}
	leaf, err := x509.ParseCertificate(must(base64.StdEncoding.DecodeString(good.X5C[0])))
	if err != nil {
		f.Fatal(err)
	}
	trusted[string(leaf.RawSubjectPublicKeyInfo)] = true
	seeds = append(seeds, fuzzing.Strings(`["MAA=",1]`, `[`, `["`+good.X5C[0]+`"]`)...)
	anchors := append(trust.WalletProviders, w.anchor)
	o := fuzzing.Options{Repair: w.certify, Longest: 100 << 10}
	fuzzing.Run(f, o, seeds, func(t *testing.T, x5c []byte) bool {
		c := newChains(anchors)
		a, err := c.verify(present(x5c), now)
		if err != nil {
			return false
		}
		certs, err := parseChain(x5c)
		if err != nil {
			t.Fatal(err)
		}
		// Another way to the same answer: the leaf's key was signed by the forger, or it is the one of the frozen request.
		byForger := len(certs) <= 2 && (certs[0].CheckSignatureFrom(w.anchor) == nil || len(certs) == 2 && certs[1].CheckSignatureFrom(w.anchor) == nil && certs[0].CheckSignatureFrom(certs[1]) == nil)
		if !trusted[string(a.spki)] && !byForger {
			t.Fatal("a chain to another leaf was accepted")
		}
		return true
	})
}

// canonical is what decoding and encoding make of a text.
func canonical(s string) string { b, _ := decode64(s); return b64(b) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func FuzzNonce(f *testing.F) {
	v := NewVerifier(Trust{NonceKey: [32]byte{1}, NonceLife: time.Minute, Skew: time.Second})
	good, _ := v.Nonce("c", "d", now, [16]byte{1})
	seeds := fuzzing.Strings(good, good[:75], good+"A", "", strings.Repeat("A", 76))
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, in []byte) bool {
		s := string(in)
		_, _, err := v.checkNonce(About{Client: "c", DocumentType: "d", At: now}, s)
		if (err == nil) != (s == good) {
			t.Fatalf("%q: %v", s, err)
		}
		return err == nil
	})
}

func FuzzJWK(f *testing.F) {
	seeds := fuzzing.Strings( // RFC 7517 A.1 and A.2, RFC 8037 A.1 and A.2, a point of P-384 (its generator)
		`{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"enc","kid":"1"}`,
		`{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","alg":"ES256"}`,
		`{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}`,
		`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		`{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		`{"kty":"EC","crv":"P-384","x":"qofKIr6LBTeOscce8yCtdG4dO2KLp5uYWfdB4IJUKjhVAvJdv1UpbDpUXjhydgq3","y":"NhfeSpYmLG9dnpi_kpLcKfj0Hb0omhR86doxE7XwuMAKYLHOHX6BnXpDHXyQ6g5f"}`,
		`{"kty":"EC","kty":"OKP"}`, `null`)
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, raw []byte) bool {
		k, err := readJWK(raw)
		if err != nil {
			return false
		}
		again, err := readJWK(k.JWK)
		if err != nil || again.Thumbprint != k.Thumbprint || !bytes.Equal(again.JWK, k.JWK) {
			t.Fatalf("%s is not canonical: %v", k.JWK, err)
		}
		var theirs jose.JSONWebKey
		if err := theirs.UnmarshalJSON(k.JWK); err != nil {
			t.Fatalf("go-jose can't read %s: %v", k.JWK, err)
		}
		if sum, err := theirs.Thumbprint(crypto.SHA256); err != nil || [sha256.Size]byte(sum) != k.Thumbprint {
			t.Fatalf("go-jose has another thumbprint for %s: %v", k.JWK, err)
		}
		return true
	})
}
