package evidence

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"sealkeeper/tests/phone"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// TestNonce: for whoever a nonce is minted, it is good for exactly these two names, and a nonce that was changed is good for nobody.
func TestNonce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := NewVerifier(Trust{NonceKey: [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key")), NonceLife: time.Minute})
		names := rapid.StringMatching(`[a-z/0]{1,4}`)
		client, docType := names.Draw(t, "client"), names.Draw(t, "type")
		otherClient, otherType := names.Draw(t, "other client"), names.Draw(t, "other type")
		nonce, expires := v.Nonce(client, docType, now, [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "random")))
		burn, _, err := v.checkNonce(About{Client: client, DocumentType: docType, At: now}, nonce)
		if err != nil || !burn.Until.Equal(expires) { // no skew here
			t.Fatalf("%v, %v", burn, err)
		}
		_, _, err = v.checkNonce(About{Client: otherClient, DocumentType: otherType, At: now}, nonce)
		if same := otherClient == client && otherType == docType; (err == nil) != same {
			t.Fatalf("minted for %q/%q, asked for %q/%q: %v", client, docType, otherClient, otherType, err)
		}
		raw, _ := base64.RawURLEncoding.DecodeString(nonce)
		raw[rapid.IntRange(0, len(raw)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, _, err := v.checkNonce(About{Client: client, DocumentType: docType, At: now}, b64(raw)); err == nil {
			t.Fatal("a changed nonce was accepted")
		}
	})
}

// TestNonceFormat writes one nonce down byte by byte, so that a change of the format is a decision: nonces are in flight when a daemon
// is replaced by a newer one.
func TestNonceFormat(t *testing.T) {
	v := NewVerifier(Trust{NonceKey: [32]byte{31: 1}, NonceLife: time.Minute})
	nonce, _ := v.Nonce("office-17", "mrc", time.Unix(0x0102030405, 0), [16]byte(bytes.Repeat([]byte{0xaa}, 16)))
	raw, err := base64.RawURLEncoding.DecodeString(nonce)
	if err != nil {
		t.Fatal(err)
	}
	want := "01" + "0000000102030405" + strings.Repeat("aa", 16) + goldenMAC
	if got := hex.EncodeToString(raw); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	nonce, _ = v.Nonce("office-17", "mrc", time.Unix(0x0102030405, 258e6), [16]byte(bytes.Repeat([]byte{0xaa}, 16)))
	if raw, err = base64.RawURLEncoding.DecodeString(nonce); err != nil || hex.EncodeToString(raw[:25]) != "01"+"0102"+"000102030405"+strings.Repeat("aa", 16) {
		t.Errorf("with milliseconds: %x, %v", raw, err)
	}
}

// TestNoncesOfBefore have no milliseconds: their marks, and those of what was made for them, stay where they were looked for.
func TestNoncesOfBefore(t *testing.T) {
	v := NewVerifier(Trust{NonceKey: [32]byte{31: 1}, NonceLife: time.Minute})
	nonce, _ := v.Nonce("c", "d", now, [16]byte{1})
	burn, minted, err := v.checkNonce(About{Client: "c", DocumentType: "d", At: now}, nonce)
	raw, _ := decode64(nonce)
	want := sha256.Sum256(raw[1:nonceMAC])
	copy(want[:6], raw[3:9])
	if own := now.Add(-time.Second); err != nil || burn.ID != want || !timeOf(own, minted).Equal(own) {
		t.Errorf("mark %x, want %x, minted %s: %v", burn.ID, want, minted, err)
	}
}

// From Python: hmac.new(bytes(31)+b"\1", b"".join(len(s).to_bytes(8,"big")+s for s in (b"sealkeeper/evidence/nonce/1", b"office-17", b"mrc"))
// + bytes.fromhex("010000000102030405"+"aa"*16), "sha256").hexdigest()
const goldenMAC = "5d54f81ab3e607ce2a80acc99cc38838693adc67db0db1a9bb6e251cb96e172c"

// TestThumbprints uses keys whose thumbprints others published.
func TestThumbprints(t *testing.T) {
	file, err := os.ReadFile("testdata/issuer_jwks.json")
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		JWKS struct{ Keys []json.RawMessage }
	}
	// The example breaks its kid into two lines for print, which is no JSON.
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(file), "\n        c2dtTw", "c2dtTw")), &set); err != nil {
		t.Fatal(err)
	}
	for jwk, want := range map[string]string{
		string(set.JWKS.Keys[0]): "mlUpog7vEewFBem6Ul09c2dtTwc8dFzVpIDX3sqGWW0", // its own kid
		// RFC 8037 A.2 and A.3
		`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`: "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
	} {
		k, err := readJWK([]byte(jwk))
		if err != nil || b64(k.Thumbprint[:]) != want {
			t.Errorf("%s: %s, %v", jwk, b64(k.Thumbprint[:]), err)
		}
	}
}

// TestSmallOrder lists the encodings of the points of order 1, 2, 4 and 8 (RFC 8032 decodes the first five groups), y that are not
// reduced, and one that is off the curve.
func TestSmallOrder(t *testing.T) {
	for _, y := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000", // order 4
		"0100000000000000000000000000000000000000000000000000000000000000", // order 1
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // p + 1
		"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0200000000000000000000000000000000000000000000000000000000000000", // no point
	} {
		for _, sign := range []byte{0, 0x80} {
			raw, err := hex.DecodeString(y)
			if err != nil {
				t.Fatal(err)
			}
			raw[31] |= sign
			var r *Refusal
			if _, err := readJWK([]byte(`{"kty":"OKP","crv":"Ed25519","x":"` + b64(raw) + `"}`)); !errors.As(err, &r) || r.Code() != "evidence.jwk_off_curve" {
				t.Errorf("%x: %v", raw, err)
			}
		}
	}
	for range 64 { // and honest keys pass
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if !edPoint(public) {
			t.Errorf("%x is a good key", public)
		}
	}
}

func newProvider(t testing.TB, bend phone.Bend) *phone.Provider {
	t.Helper()
	p, err := phone.NewBentProvider(now, rand.Reader, bend)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func x5cOf(t testing.TB, p *phone.Provider) jsontext.Value {
	t.Helper()
	b, err := json.Marshal(p.X5C())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestChainCache: a remembered chain is good in its own time only, and there is an end to remembering.
func TestChainCache(t *testing.T) {
	p := newProvider(t, phone.Bend{})
	c := newChains([]*x509.Certificate{p.Anchor()})
	x5c := x5cOf(t, p)
	code := func(at time.Time) string {
		_, err := c.verify(present(x5c), at)
		var r *Refusal
		if errors.As(err, &r) {
			return r.Code()
		}
		return "ok"
	}
	leaf := p.Leaf()
	for _, step := range []struct {
		at   time.Time
		want string
	}{
		{leaf.NotBefore.Add(-1), "evidence.attestation_chain_expired"}, {now, "ok"}, {now, "ok"}, {leaf.NotBefore, "ok"}, {leaf.NotAfter, "ok"},
		{leaf.NotBefore.Add(-1), "evidence.attestation_chain_expired"}, {leaf.NotAfter.Add(time.Second), "evidence.attestation_chain_expired"}, {now, "ok"},
	} {
		if got := code(step.at); got != step.want {
			t.Errorf("at %s: %s, want %s", step.at, got, step.want)
		}
	}
	if len(c.good) != 1 {
		t.Fatalf("%d chains remembered, want 1", len(c.good))
	}
	first, err := c.verify(present(x5c), now)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.verify(present(x5c), now); again != first {
		t.Errorf("a known chain was verified again (%v)", err)
	}
	for i := range maxChains - 10 {
		c.good[sha256.Sum256([]byte{byte(i), byte(i >> 8)})] = &attester{}
	}
	for i := range 20 { // the same chain in other texts
		if _, err := c.verify(present(append(bytes.Repeat([]byte{' '}, i+1), x5c...)), now); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.good) != maxChains {
		t.Errorf("%d chains remembered, want %d", len(c.good), maxChains)
	}
	if _, err := c.verify(present(x5cOf(t, newProvider(t, phone.Bend{}))), now); err == nil || len(c.good) != maxChains {
		t.Errorf("a refused chain changed the cache (%v)", err)
	}
}

// TestChainCacheAsksAll: the time of a remembered chain is that of its shortest certificate, not of its leaf.
func TestChainCacheAsksAll(t *testing.T) {
	for depth := range 3 {
		p := newProvider(t, phone.Bend{Certificate: func(d int, c *x509.Certificate) {
			if d == depth {
				c.NotBefore, c.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
			}
		}})
		c := newChains([]*x509.Certificate{p.Anchor()})
		for at, good := range map[time.Duration]bool{-time.Hour - 1: false, -time.Hour: true, time.Hour: true, time.Hour + time.Second: false} {
			if _, err := c.verify(present(x5cOf(t, p)), now); err != nil { // now it is remembered
				t.Fatal(err)
			}
			if _, err := c.verify(present(x5cOf(t, p)), now.Add(at)); (err == nil) != good {
				t.Errorf("certificate %d, %s from now: %v", depth, at, err)
			}
		}
	}
}

// TestDearInputs feeds what costs most for its size. An input may take 1 MiB of memory until it is refused (faults F25).
func TestDearInputs(t *testing.T) {
	p, err := phone.New(1)
	if err != nil {
		t.Fatal(err)
	}
	provider := newProvider(t, phone.Bend{})
	v := NewVerifier(Trust{NonceKey: [32]byte{1}, NonceLife: time.Minute, AttestationAge: time.Hour, MaxKeys: 4, WalletProviders: []*x509.Certificate{provider.Anchor()}})
	nonce, _ := v.Nonce("c", "d", now, [16]byte{})
	proof := p.Prove(0, "a", nonce, now, "")
	fill := func(head, unit, tail string, size int) string {
		return head + strings.Repeat(unit, (size-len(head)-len(tail))/len(unit)) + tail
	}
	attest := func(o ...phone.Option) Bundle {
		return Bundle{Proof: proof, KeyAttestation: p.Attest(provider, nonce, now, o...)}
	}
	prove := func(o ...phone.Option) Bundle { return Bundle{Proof: p.Prove(0, "a", nonce, now, "", o...)} }
	times := fmt.Sprintf(`{"iat":%d,"exp":%d`, now.Unix(), now.Unix()+60)
	header := `{"typ":"key-attestation+jwt","alg":"ES256","x5c":[`
	for name, b := range map[string]Bundle{
		"huge proof":           {Proof: strings.Repeat("A", 64<<20)},
		"huge attestation":     {Proof: proof, KeyAttestation: strings.Repeat("A.", 32<<20)},
		"proof of arrays":      prove(phone.RawHeader(fill("", "[", "", 12000))),
		"proof of members":     prove(phone.RawHeader(fill(`{"a":{`, `"a":{`, "", 12000))),
		"aud of many":          prove(phone.RawClaims(fill(fmt.Sprintf(`{"iat":%d,"nonce":%q,"aud":[`, now.Unix(), nonce), `"",`, `""]}`, 4000))),
		"huge iat":             prove(phone.RawClaims(fill(`{"iat":1`, "0", `}`, 4000))),
		"attestation of dots":  {Proof: proof, KeyAttestation: strings.Repeat(".", 128<<10)},
		"deep payload":         attest(phone.RawClaims(fill("", "[", "", 60000))),
		"many attested keys":   attest(phone.RawClaims(fill(times+`,"attested_keys":[`, "0,", "0]}", 60000))),
		"many empty keys":      attest(phone.RawClaims(fill(times+`,"attested_keys":[`, "{},", "{}]}", 60000))),
		"many members":         attest(phone.RawClaims(fill(`{"iat":1`, `,"a":0`, "}", 60000))),
		"many certificates":    attest(phone.RawHeader(fill(header, `"",`, `""]}`, 90000)), phone.RawClaims(claimsFor(p, nonce))),
		"one huge certificate": attest(phone.RawHeader(fill(header+`"`, "AAAA", `"]}`, 90000)), phone.RawClaims(claimsFor(p, nonce))),
		"escaped certificate":  attest(phone.RawHeader(fill(header+`"`, `\u0041`, `"]}`, 90000)), phone.RawClaims(claimsFor(p, nonce))),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := v.Verify(About{Client: "c", DocumentType: "d", Audience: "a", At: now}, b)
		runtime.ReadMemStats(&after)
		if err == nil || strings.Contains(err.Error(), "time_missing") {
			t.Errorf("%s: %v: not refused for what it is", name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
			t.Errorf("%s: %d KiB until %v", name, used>>10, err)
		}
	}
}

func claimsFor(p *phone.Phone, nonce string) string {
	b, _ := json.Marshal(map[string]any{"iat": now.Unix(), "exp": now.Unix() + 60, "nonce": nonce, "attested_keys": []json.RawMessage{p.JWK(0)}})
	return string(b)
}

// A text is covered as the JSON is that says it, whatever stands in it, and no other is.
func TestTextIsCoveredAsItsJSON(t *testing.T) {
	salt := b64(make([]byte, 16))
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", `a"`, `"a"`, `\`, `\u0041`, "\n", "\x7f", "\u2028", "\xff", "<&>", strings.Repeat("홍", 300), strings.Repeat("aB3_", 200)}))
		text, other := draw.Draw(t, "text"), draw.Draw(t, "other")
		value, err := jsontext.AppendQuote(nil, text)
		if err != nil {
			value = []byte(`"` + text + `"`)
		}
		digest, refused := AttributeDigest(salt, "name", value)
		r := &RegistryMatch{Salt: salt, Attributes: map[string]string{"name": digest, "another": digest}}
		if ok := err == nil && refused == nil; r.CoversText("name", text) != ok || r.Covers("name", value) != ok {
			t.Fatalf("%q: %v, %v; covered as text %v, as JSON %v", text, err, refused, r.CoversText("name", text), r.Covers("name", value))
		}
		if other != text && r.CoversText("name", other) || r.CoversText("another", text) || r.CoversText("none", text) {
			t.Fatalf("%q covers %q, or another claim", text, other)
		}
	})
}

// What is taken for canonical as it stands is JSON, and its canonical form is itself.
func TestPlainIsCanonical(t *testing.T) {
	seen := 0
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOf(rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{`"`, `\`, `\u0041`, "\n", "\x7f", "\u2028", "\xff", "\xed\xa0\x80", " ", "홍", "<&>", "{", "1"}))).Draw(t, "pieces")
		v := []byte(rapid.SampledFrom([]string{`"`, `"`, `"`, ``, ` "`}).Draw(t, "begins") + strings.Join(pieces, "") + `"`)
		if !plain(v) {
			return
		}
		seen++
		c := jsontext.Value(bytes.Clone(v))
		if err := c.Canonicalize(); err != nil || !bytes.Equal(c, v) {
			t.Fatalf("%q becomes %q: %v", v, c, err)
		}
	})
	for _, v := range []string{``, `"`, `"a`, `a"`, `"a"b"`, `"\"`, `"\u0041"`, ` "a"`, `"a" `, "\"\n\"", "\"\xff\"", "\"\xed\xa0\x80\"", `1`, `{"":""}`} {
		if plain([]byte(v)) {
			t.Errorf("%q is no JSON string without an escape", v)
		}
	}
	if seen == 0 || !plain([]byte(`""`)) || !plain([]byte(`"홍길동 <&> `+"\u2028\x7f"+`"`)) {
		t.Error("nothing is plain: this test proves nothing")
	}
}

// TestHeadersAreRemembered of tokens alone whose signature was good, and not without end.
func TestHeadersAreRemembered(t *testing.T) {
	provider, liar := newProvider(t, phone.Bend{}), newProvider(t, phone.Bend{})
	p, err := phone.New(1)
	if err != nil {
		t.Fatal(err)
	}
	v := NewVerifier(Trust{WalletProviders: []*x509.Certificate{provider.Anchor()}, NonceKey: [32]byte{1}, NonceLife: time.Minute, AttestationAge: time.Hour, MaxKeys: 4})
	about := About{Client: "c", DocumentType: "d", Audience: "a", At: now}
	nonce, _ := v.Nonce("c", "d", now, [16]byte{})
	proof := p.Prove(0, "a", nonce, now, "")
	good := p.Attest(provider, nonce, now)
	cut := strings.LastIndexByte(good, '.')
	for _, step := range []struct {
		what, attestation, code string
		profile                 Profile
		remembered              int
	}{
		{"by a stranger", p.Attest(liar, nonce, now), "evidence.attestation_untrusted", Profile{}, 0},
		{"badly signed", good[:cut+1] + b64(make([]byte, 64)), "evidence.attestation_signature", Profile{}, 0},
		{"good", good, "", Profile{}, 1},
		{"again", good, "", Profile{}, 1},
		{"of another type, by a profile", good, "evidence.attestation_type", Profile{TS3Type: true}, 1},
		{"under a header that is known", good[:cut+1] + b64(make([]byte, 64)), "evidence.attestation_signature", Profile{}, 1},
	} {
		about.Profile = step.profile
		_, err := v.Verify(about, Bundle{Proof: proof, KeyAttestation: step.attestation})
		var r *Refusal
		if (step.code == "") != (err == nil) || err != nil && (!errors.As(err, &r) || r.Code() != step.code) || len(v.attested.of) != step.remembered {
			t.Errorf("%s: %v, %d headers are remembered, not %d", step.what, err, len(v.attested.of), step.remembered)
		}
	}

	var h headers[int]
	for i := range 2 * maxHeaders {
		h.keep(strings.Repeat("x", i), i)
	}
	h.keep(strings.Repeat("x", maxHeader+1), 1)
	if last, ok := h.get(strings.Repeat("x", 2*maxHeaders-1)); len(h.of) != maxHeaders || !ok || last != 2*maxHeaders-1 {
		t.Errorf("%d headers are remembered, at most %d may be, the last one among them", len(h.of), maxHeaders)
	}
}

// Authorities know persons by their pairwise names, and phones hold nonces while a new version comes: neither becomes another.
func TestNamesAndNoncesStay(t *testing.T) {
	v := NewVerifier(Trust{NonceKey: [32]byte{1}, PairwiseKey: [32]byte{3}})
	if name, want := v.Pairwise("register", [32]byte{1, 2}), "M0lBK88HZek95rIMoldk2lM8H-jWNygrwFB7MWMggqU"; name != want {
		t.Errorf("pairwise name %s, was %s", name, want)
	}
	if sum, want := v.nonceMAC("c", "d", []byte{7}), "78be78342ee8980b1c1a019e077132fbc7c9b77fac23c49f713a6a8db4d18ce0"; hex.EncodeToString(sum[:]) != want {
		t.Errorf("nonce's MAC %x, was %s", sum, want)
	}
}
