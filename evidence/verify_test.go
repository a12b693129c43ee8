package evidence_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"sealkeeper/evidence"
	"sealkeeper/tests/phone"
)

const audience = "https://issuer.example.org"

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// world is one appliance, one wallet provider and one phone with two keys.
type world struct {
	provider *phone.Provider
	trust    evidence.Trust
	verifier *evidence.Verifier
	phone    *phone.Phone
	nonces   byte
}

func newWorld(t testing.TB) *world {
	w := &world{provider: provider(t, phone.Bend{}), phone: newPhone(t, phone.New, 2)}
	w.trust = evidence.Trust{
		WalletProviders: []*x509.Certificate{w.provider.Anchor()}, NonceKey: [32]byte{1, 2, 3}, NonceLife: 5 * time.Minute,
		AttestationAge: 24 * time.Hour, Skew: time.Minute, MaxKeys: 4,
	}
	w.verifier = evidence.NewVerifier(w.trust)
	return w
}

func provider(t testing.TB, b phone.Bend) *phone.Provider {
	t.Helper()
	p, err := phone.NewBentProvider(now, rand.Reader, b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newPhone(t testing.TB, kind func(int) (*phone.Phone, error), keys int) *phone.Phone {
	t.Helper()
	p, err := kind(keys)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func about() evidence.About {
	return evidence.About{Client: "office-17", DocumentType: "mrc", Audience: audience, At: now}
}

// nonce is a fresh nonce for about.
func (w *world) nonce() string {
	w.nonces++
	n, _ := w.verifier.Nonce("office-17", "mrc", now.Add(-993*time.Millisecond), [16]byte{w.nonces})
	return n
}

// good is a request that must be accepted.
func (w *world) good() evidence.Bundle {
	nonce := w.nonce()
	return evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, w.phone.Attest(w.provider, nonce, now))}
}

func TestAccepted(t *testing.T) {
	w := newWorld(t)
	nonce := w.nonce()
	beside := func(p *phone.Phone, key int, o ...phone.Option) evidence.Bundle {
		return evidence.Bundle{Proof: p.Prove(key, audience, nonce, now, "", o...), KeyAttestation: p.Attest(w.provider, nonce, now)}
	}
	attestation := w.phone.Attest(w.provider, nonce, now)
	ed, p384 := newPhone(t, phone.NewEd25519, 2), newPhone(t, phone.NewP384, 1)
	for name, c := range map[string]struct {
		phone  *phone.Phone
		prover int
		bundle evidence.Bundle
	}{
		"attestation in the proof":      {w.phone, 0, evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, attestation)}},
		"attestation beside the proof":  {w.phone, 0, beside(w.phone, 0)},
		"the same one in both places":   {w.phone, 0, evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, attestation), KeyAttestation: attestation}},
		"second key proves":             {w.phone, 1, beside(w.phone, 1)},
		"kid instead of jwk":            {w.phone, 1, beside(w.phone, 1, phone.Header("jwk", nil), phone.Header("kid", w.phone.Thumbprint(1)))},
		"aud an array of one":           {w.phone, 0, beside(w.phone, 0, phone.Claim("aud", []string{audience}))},
		"iss and others are let be":     {w.phone, 0, beside(w.phone, 0, phone.Claim("iss", "wallet-7"), phone.Claim("jti", "1"), phone.Header("x", 1))},
		"exp and nbf that hold":         {w.phone, 0, beside(w.phone, 0, phone.Claim("exp", now.Unix()), phone.Claim("nbf", now.Unix()))},
		"Ed25519":                       {ed, 1, beside(ed, 1)},
		"P-384":                         {p384, 0, beside(p384, 0)},
		"no levels":                     {w.phone, 0, evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, ""), KeyAttestation: w.phone.Attest(w.provider, nonce, now, phone.Claim("key_storage", nil), phone.Claim("user_authentication", nil))}},
		"kid and status beside the x5c": {w.phone, 0, evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, ""), KeyAttestation: w.phone.Attest(w.provider, nonce, now, phone.Header("kid", "k"), phone.Claim("status", map[string]any{"status_list": map[string]any{"idx": 1, "uri": "https://x"}}))}},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := w.verifier.Verify(about(), c.bundle)
			if err != nil {
				t.Fatal(err)
			}
			if !v.Valid() || v.About() != (evidence.Bound{Client: "office-17", DocumentType: "mrc", Audience: audience, At: now}) {
				t.Errorf("bound to %+v", v.About())
			}
			var got []string
			for _, k := range v.Keys() {
				got = append(got, base64.RawURLEncoding.EncodeToString(k.Thumbprint[:]))
				if sha256.Sum256(k.JWK) != k.Thumbprint {
					t.Error("the thumbprint is not the hash of the JWK")
				}
			}
			want := []string{c.phone.Thumbprint(c.prover)} // the proof's key first, then the others as attested
			for i := range c.phone.Len() {
				if i != c.prover {
					want = append(want, c.phone.Thumbprint(i))
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("keys %v, want %v", got, want)
			}
			if k := v.Keys()[0].Public.(interface{ Equal(crypto.PublicKey) bool }); !k.Equal(c.phone.PublicKey(c.prover)) {
				t.Error("the first key is not the one that proved")
			}
		})
	}
}

func TestFacts(t *testing.T) {
	w := newWorld(t)
	nonce := w.nonce()
	v, err := w.verifier.Verify(about(), evidence.Bundle{
		Proof:          w.phone.Prove(0, audience, nonce, now, ""),
		KeyAttestation: w.phone.Attest(w.provider, nonce, now, phone.Levels("iso_18045_moderate", "urn:example:pin"), phone.Expires(now.Add(time.Hour))),
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := (evidence.Facts{
		Kinds: []string{"key_attestation", "proof_of_possession"}, Identity: "asserted-by-client",
		KeyStorage: []string{"iso_18045_moderate"}, UserAuthentication: []string{"urn:example:pin"},
		AttestationIssuer: "CN=key attestation,O=Simulated Wallet Provider,C=UT", AttestationExpires: now.Add(time.Hour),
	}); !reflect.DeepEqual(v.Facts(), want) {
		t.Errorf("got %+v\nwant %+v", v.Facts(), want)
	}
	burns := v.Burns()
	if len(burns) != 2 || burns[0].Kind != evidence.BurnNonce || burns[1].Kind != evidence.BurnAttestation {
		t.Fatalf("burns %+v", burns)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(nonce)
	want := sha256.Sum256(raw[1:25]) // time and random
	copy(want[:6], raw[3:9])
	if copy(want[6:], []byte{0, 7}); burns[0].ID != want {
		t.Error("the nonce is not burnt by its time and random part, its second and millisecond first")
	}
	if want := now.Add(-time.Second + 5*time.Minute + time.Minute); !burns[0].Until.Equal(want) { // made, life, skew
		t.Errorf("the nonce's mark may go at %s, want %s", burns[0].Until, want)
	}
	if want := now.Add(time.Hour + time.Minute); !burns[1].Until.Equal(want) {
		t.Errorf("the attestation's mark may go at %s, want %s", burns[1].Until, want)
	}
	burns[0].ID, v.Keys()[0].Thumbprint = [32]byte{}, [32]byte{}
	if v.Burns()[0].ID == [32]byte{} || v.Keys()[0].Thumbprint == [32]byte{} {
		t.Error("what Verify found can be changed from outside")
	}
}

// TestZeroVerified shows that nobody else makes a Verified.
func TestZeroVerified(t *testing.T) {
	var none *evidence.Verified
	if none.Valid() || new(evidence.Verified).Valid() {
		t.Error("a Verified that Verify didn't make is valid")
	}
}

// TestTwin: anyone can turn an ECDSA signature (r, s) into (r, −s), which verifies too. Such a twin must be the same evidence.
func TestTwin(t *testing.T) {
	w := newWorld(t)
	nonce := w.nonce()
	b := evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, ""), KeyAttestation: w.phone.Attest(w.provider, nonce, now)}
	first, err := w.verifier.Verify(about(), b)
	if err != nil {
		t.Fatal(err)
	}
	twin := func(jws string) string {
		i := strings.LastIndexByte(jws, '.') + 1
		sig, _ := base64.RawURLEncoding.DecodeString(jws[i:])
		s := new(big.Int).SetBytes(sig[32:])
		s.Sub(elliptic.P256().Params().N, s).FillBytes(sig[32:])
		return jws[:i] + base64.RawURLEncoding.EncodeToString(sig)
	}
	b.Proof, b.KeyAttestation = twin(b.Proof), twin(b.KeyAttestation)
	second, err := w.verifier.Verify(about(), b)
	if err != nil {
		t.Fatal(err) // nothing forbids the high s; only the burns matter
	}
	if !reflect.DeepEqual(first.Burns(), second.Burns()) {
		t.Error("a twin signature makes evidence usable twice")
	}
}

// TestTimes walks each limit of time to its last good second and the first bad one.
func TestTimes(t *testing.T) {
	w := newWorld(t)
	minted := now.Add(-2 * time.Minute) // nonce until +3m
	nonce, expires := w.verifier.Nonce("office-17", "mrc", minted.Add(999*time.Millisecond), [16]byte{77})
	if want := now.Add(3 * time.Minute); !expires.Equal(want) {
		t.Fatalf("nonce expires at %s, want %s", expires, want)
	}
	verify := func(at time.Time, proofAt, attestedAt, attestedUntil time.Time) string {
		a := about()
		a.At = at
		_, err := w.verifier.Verify(a, evidence.Bundle{
			Proof:          w.phone.Prove(0, audience, nonce, proofAt, ""),
			KeyAttestation: w.phone.Attest(w.provider, nonce, attestedAt, phone.Expires(attestedUntil)),
		})
		var r *evidence.Refusal
		if errors.As(err, &r) {
			return r.Code()
		}
		return "ok"
	}
	const s = time.Second
	later := now.Add(time.Hour)
	for _, c := range []struct {
		name, want             string
		at, proof, made, until time.Time
	}{
		{"nonce's last instant", "ok", expires, expires, now, later},
		{"nonce a moment too late", "evidence.nonce_expired", expires.Add(1), expires, now, later},
		{"nonce at the edge of the skew", "ok", minted.Add(-time.Minute), minted, minted, later},
		{"nonce beyond the skew", "evidence.nonce_from_future", minted.Add(-time.Minute - 1), minted, minted, later},
		{"proof from the future, within skew", "ok", now, now.Add(time.Minute), now, later},
		{"proof from the future", "evidence.proof_from_future", now, now.Add(time.Minute + s), now, later},
		{"proof as old as can be", "ok", now, now.Add(-6 * time.Minute), now, later},
		{"proof too old", "evidence.proof_expired", now, now.Add(-6*time.Minute - s), now, later},
		{"attestation from the future, within skew", "ok", now, now, now.Add(time.Minute), later},
		{"attestation from the future", "evidence.attestation_from_future", now, now, now.Add(time.Minute + s), later},
		{"attestation's last second", "ok", now, now, now, now.Add(-time.Minute + s)},
		{"attestation expired", "evidence.attestation_expired", now, now, now, now.Add(-time.Minute)},
		{"attestation as old as can be", "ok", now, now, now.Add(-24*time.Hour - time.Minute), later},
		{"attestation too old", "evidence.attestation_too_old", now, now, now.Add(-24*time.Hour - time.Minute - s), later},
	} {
		if got := verify(c.at, c.proof, c.made, c.until); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// TestMixAndMatch puts together proofs and attestations of good requests in every way. Only what belongs together is accepted
// (requirements fact 6; faults F27).
func TestMixAndMatch(t *testing.T) {
	w := newWorld(t)
	mint := func(client, docType string, n byte) string {
		nonce, _ := w.verifier.Nonce(client, docType, now, [16]byte{n})
		return nonce
	}
	phones := []*phone.Phone{w.phone, newPhone(t, phone.New, 2)}
	providers := []*phone.Provider{w.provider, provider(t, phone.Bend{})} // the second one is not trusted
	nonces := []string{mint("office-17", "mrc", 1), mint("office-17", "mrc", 2), mint("office-18", "mrc", 3), mint("office-17", "mdl", 4)}
	abouts := []evidence.About{about(), about(), about()}
	abouts[1].Client, abouts[2].DocumentType = "office-18", "mdl"
	fits := map[[2]int]bool{{0, 0}: true, {1, 0}: true, {2, 1}: true, {3, 2}: true} // nonce, about
	audiences := []string{audience, "https://other.example"}

	type made struct{ phone, nonce, extra int }
	proofs, attestations := map[made]string{}, map[made]string{}
	for p := range phones {
		for n := range nonces {
			for x := range 2 {
				proofs[made{p, n, x}] = phones[p].Prove(p, audiences[x], nonces[n], now, "")
				attestations[made{p, n, x}] = phones[p].Attest(providers[x], nonces[n], now)
			}
		}
	}
	accepted := 0
	for pr, proof := range proofs {
		for at, attestation := range attestations {
			for i, about := range abouts {
				want := pr.phone == at.phone && pr.nonce == at.nonce && fits[[2]int{pr.nonce, i}] && pr.extra == 0 && at.extra == 0
				v, err := w.verifier.Verify(about, evidence.Bundle{Proof: proof, KeyAttestation: attestation})
				if got := err == nil; got != want || v.Valid() != want {
					t.Errorf("proof %+v with attestation %+v for %d: %v", pr, at, i, err)
				}
				if want {
					accepted++
				}
			}
		}
	}
	if accepted != len(phones)*len(nonces) {
		t.Errorf("%d accepted, want %d: the test doesn't test", accepted, len(phones)*len(nonces))
	}
}

// TestMutations changes each character of a good bundle in turn: nothing of it may be without effect.
func TestMutations(t *testing.T) {
	w := newWorld(t)
	nonce := w.nonce()
	good := evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, ""), KeyAttestation: w.phone.Attest(w.provider, nonce, now)}
	if _, err := w.verifier.Verify(about(), good); err != nil {
		t.Fatal(err)
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for part, text := range []string{good.Proof, good.KeyAttestation} {
		for i := range len(text) {
			bit := alphabet[(strings.IndexByte(alphabet, text[i])+1<<(i%6))%64]
			changes := []string{
				text[:i] + string(bit) + text[i+1:], // another value
				text[:i] + text[i+1:],               // a character less
				text[:i] + "\n" + text[i:],          // one that lax decoders skip
				text[:i],                            // cut
			}
			if i%8 != 0 {
				changes = changes[:1]
			}
			for _, changed := range changes {
				b := good
				if part == 0 {
					b.Proof = changed
				} else if b.KeyAttestation = changed; changed == "" {
					continue // that one is missing, which another test shows
				}
				v, err := w.verifier.Verify(about(), b)
				var r *evidence.Refusal
				if !errors.As(err, &r) || v.Valid() {
					t.Fatalf("part %d, character %d: accepted %q", part, i, changed)
				}
			}
		}
	}
}

// TestOneVerifierForAll uses one verifier from many goroutines, with more chains than one (for -race).
func TestOneVerifierForAll(t *testing.T) {
	w := newWorld(t)
	var bundles []evidence.Bundle
	for range 4 {
		p := provider(t, phone.Bend{})
		w.trust.WalletProviders = append(w.trust.WalletProviders, p.Anchor())
		nonce := w.nonce()
		bundles = append(bundles, evidence.Bundle{Proof: w.phone.Prove(0, audience, nonce, now, w.phone.Attest(p, nonce, now))})
	}
	v := evidence.NewVerifier(w.trust)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 16 {
				if _, err := v.Verify(about(), bundles[(g+i)%len(bundles)]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestAgainstJose holds the way from a text to a key against another implementation of JOSE, in both directions.
func TestAgainstJose(t *testing.T) {
	w := newWorld(t)
	for _, kind := range []func(int) (*phone.Phone, error){phone.New, phone.NewP384, phone.NewEd25519} {
		p := newPhone(t, kind, 1)
		nonce := w.nonce()
		var holder jose.JSONWebKey
		if err := holder.UnmarshalJSON(p.HolderJWK(0)); err != nil {
			t.Fatal(err)
		}
		// What go-jose signs is accepted here.
		alg := map[string]jose.SignatureAlgorithm{"P-256": jose.ES256, "P-384": jose.ES384, "Ed25519": jose.EdDSA}[crvOf(t, p)]
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: holder.Key}, (&jose.SignerOptions{EmbedJWK: true}).WithType("openid4vci-proof+jwt"))
		if err != nil {
			t.Fatal(err)
		}
		jws, err := signer.Sign(fmt.Appendf(nil, `{"aud":%q,"iat":%d,"nonce":%q}`, audience, now.Unix(), nonce))
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		attestation := p.Attest(w.provider, nonce, now)
		v, err := w.verifier.Verify(about(), evidence.Bundle{Proof: theirs, KeyAttestation: attestation})
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		sum, err := holder.Thumbprint(crypto.SHA256)
		if err != nil || !bytes.Equal(sum, v.Keys()[0].Thumbprint[:]) {
			t.Errorf("%s: thumbprints differ (%v)", alg, err)
		}
		// What the phone signs is accepted by go-jose, with the chain of x5c.
		parsed, err := jose.ParseSignedCompact(p.Prove(0, audience, nonce, now, ""), []jose.SignatureAlgorithm{alg})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parsed.Verify(parsed.Signatures[0].Header.JSONWebKey); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		parsed, err = jose.ParseSignedCompact(attestation, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(w.provider.AnchorPEM())
		chains, err := parsed.Signatures[0].Header.Certificates(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parsed.Verify(chains[0][0].PublicKey); err != nil {
			t.Error(err)
		}
	}
}

func crvOf(t *testing.T, p *phone.Phone) string {
	var k struct{ Crv string }
	if err := json.Unmarshal(p.JWK(0), &k); err != nil {
		t.Fatal(err)
	}
	return k.Crv
}

// BenchmarkVerify is the common case: the chain is known, two signatures are verified.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	good := w.good()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.verifier.Verify(about(), good); err != nil {
			b.Fatal(err)
		}
	}
}
