package evidence

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

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

func FuzzProof(f *testing.F) {
	good, _ := thaw(f)
	for _, s := range []string{good.Proof, good.ProofByKid, good.KeyAttestation, "..", jws("{}", "{}"),
		jws(`{"typ":"openid4vci-proof+jwt","alg":"none","alg":"ES256"}`, `{}`)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := readProof(s)
		if err != nil {
			return
		}
		if again := b64(p.header) + "." + b64(p.payload) + "." + b64(p.signature); again != s {
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
	})
}

func FuzzAttestation(f *testing.F) {
	good, trust := thaw(f)
	for _, s := range []string{good.KeyAttestation, good.Proof, "..", jws("{}", "{}"),
		jws(`{"typ":"key-attestation+jwt","alg":"ES256","x5c":["MAA="]}`, `{"iat":1,"exp":2,"attested_keys":[{}]}`)} {
		f.Add(s)
	}
	c := newChains(trust.WalletProviders)
	f.Fuzz(func(t *testing.T, s string) {
		a, err := readAttestation(s, 4)
		if err != nil {
			return
		}
		if again := b64(a.header) + "." + b64(a.payload) + "." + b64(a.signature); again != s {
			t.Fatalf("%q was read as %q: two texts of one attestation", s, again)
		}
		if len(a.keys) == 0 || len(a.keys) > 4 {
			t.Fatalf("%d keys", len(a.keys))
		}
		if issuer, err := c.verify(a.x5c, now); err == nil {
			a.signedBy(issuer.key)
		}
	})
}

func FuzzChain(f *testing.F) {
	good, trust := thaw(f)
	x5c, err := json.Marshal(good.X5C)
	if err != nil {
		f.Fatal(err)
	}
	leaf, _ := base64.StdEncoding.DecodeString(good.X5C[0])
	for _, s := range []string{string(x5c), `["MAA=",1]`, `[`, `["` + good.X5C[0] + `"]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, x5c []byte) {
		c := newChains(trust.WalletProviders)
		a, err := c.verify(x5c, now)
		if err == nil && !bytes.Contains(leaf, a.spki) {
			t.Fatal("a chain to another leaf was accepted")
		}
	})
}

func FuzzNonce(f *testing.F) {
	v := NewVerifier(Trust{NonceKey: [32]byte{1}, NonceLife: time.Minute, Skew: time.Second})
	good, _ := v.Nonce("c", "d", now, [16]byte{1})
	for _, s := range []string{good, good[:75], good + "A", "", strings.Repeat("A", 76)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := v.checkNonce(About{Client: "c", DocumentType: "d", At: now}, s); (err == nil) != (s == good) {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

func FuzzJWK(f *testing.F) {
	for _, s := range []string{ // RFC 7517 A.1 and A.2, RFC 8037 A.1 and A.2, a point of P-384 (its generator)
		`{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"enc","kid":"1"}`,
		`{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","alg":"ES256"}`,
		`{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}`,
		`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		`{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		`{"kty":"EC","crv":"P-384","x":"qofKIr6LBTeOscce8yCtdG4dO2KLp5uYWfdB4IJUKjhVAvJdv1UpbDpUXjhydgq3","y":"NhfeSpYmLG9dnpi_kpLcKfj0Hb0omhR86doxE7XwuMAKYLHOHX6BnXpDHXyQ6g5f"}`,
	} {
		f.Add([]byte(s))
	}
	f.Add([]byte(`{"kty":"EC","kty":"OKP"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, err := readJWK(raw)
		if err != nil {
			return
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
	})
}
