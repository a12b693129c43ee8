package sdjwt

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sealkeeper/ca/certified"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
	"sealkeeper/verifier"
	"sealkeeper/verifier/verifiertest"
)

var now = time.Date(2026, 11, 23, 18, 47, 50, 123456789, time.UTC)

func jwk(key crypto.PublicKey) []byte {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		p, err := k.Bytes()
		if err != nil {
			panic(err)
		}
		half := len(p) / 2
		return fmt.Appendf(nil, `{"crv":%q,"kty":"EC","x":%q,"y":%q}`, k.Params().Name, b64.EncodeToString(p[1:1+half]), b64.EncodeToString(p[1+half:]))
	case ed25519.PublicKey:
		return fmt.Appendf(nil, `{"crv":"Ed25519","kty":"OKP","x":%q}`, b64.EncodeToString(k))
	}
	panic("key")
}

func digestOf(disclosure []byte) string { d := digest(disclosure); return string(d[:]) }

func claim(name, kind string, v any) policy.Value {
	return policy.Value{Name: name, Kind: kind, V: v, SDName: name, Disclosure: true}
}

func certify(s *verifiertest.Signer, algorithm string) *certified.Key {
	k, err := certified.New(ledger.Key{Algorithm: algorithm, Chain: [][]byte{s.Leaf.Raw}, SPKI: s.Leaf.RawSubjectPublicKeyInfo})
	if err != nil {
		panic(err)
	}
	return k
}

func card(s *verifiertest.Signer, holder crypto.PublicKey) plain {
	shown := claim("issuing_country", "string", "KR")
	shown.Disclosure = false
	portrait := claim("picture", "bytes", []byte{0xff, 0xd8, 0xff})
	portrait.MediaType = "image/jpeg"
	return plain{
		vct: "urn:example:resident:1", issuer: "https://issuer.example",
		values: []policy.Value{
			claim("family_name", "string", "홍 \"<&>\""),
			claim("birthdate", "date", "1990-02-28"),
			claim("is_adult", "bool", true),
			claim("height", "int", int64(172)),
			portrait,
			claim("address", "object", []policy.Value{{Name: "locality", Kind: "string", V: "Seoul"}, {Name: "region", Kind: "string", V: "11"}}),
			claim("nationalities", "array", []policy.Value{{Kind: "string", V: "KR"}, {Kind: "string", V: "DE"}}),
			shown,
			{Name: "mdoc_only", Kind: "string", V: "x", Element: "mdoc_only", Namespace: "a"},
		},
		jwk: jwk(holder), uri: "https://status.example/status-lists/q2", index: 70001,
		signer:   certify(s, s.Algorithm),
		signedAt: now, grain: 24 * time.Hour, lifetime: 90 * 24 * time.Hour, decoys: 4, seed: [32]byte{1, 2, 3},
	}
}

func issue(t testing.TB, p plain, s *verifiertest.Signer) []byte {
	t.Helper()
	tbs, err := build(p)
	if err != nil {
		t.Fatal(err)
	}
	out, err := tbs.join(nil, s.Sign(t, tbs.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != tbs.Size() {
		t.Errorf("%d bytes, announced as %d", len(out), tbs.Size())
	}
	return out
}

// What is built is what a verifier reads, for every algorithm of issuer and phone.
func TestRoundTrip(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	roots := []*x509.Certificate{a.Root}
	for _, alg := range []string{"ES256", "ES384", "EdDSA"} {
		for _, holderAlg := range []string{"ES256", "ES384", "EdDSA"} {
			s := a.NewSigner(t, "Test issuer", alg, now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
			holder := verifiertest.NewKey(t, holderAlg)
			compact := issue(t, card(s, holder.Public()), s)
			got, err := verifier.VerifySDJWT(compact, roots, now)
			if err != nil {
				t.Fatalf("%s, holder %s: %v", alg, holderAlg, err)
			}
			day := now.Truncate(24 * time.Hour)
			want := map[string]any{
				"family_name": "홍 \"<&>\"", "birthdate": "1990-02-28", "is_adult": true, "height": int64(172), "picture": "data:image/jpeg;base64,/9j/",
				"address": map[string]any{"locality": "Seoul", "region": "11"}, "nationalities": []any{"KR", "DE"}, "issuing_country": "KR",
			}
			for k, v := range want {
				if !reflect.DeepEqual(got.Claims[k], v) {
					t.Errorf("%s: %v, want %v", k, got.Claims[k], v)
				}
			}
			if len(got.Claims) != len(want)+6 { // iss, iat, exp, vct, cnf, status
				t.Errorf("claims: %v", got.Claims)
			}
			if !reflect.DeepEqual(got.HolderKey, holder.Public()) || got.Type != "urn:example:resident:1" || got.Issuer != "https://issuer.example" ||
				got.Hidden != 4 || *got.Status != (verifier.StatusRef{URI: "https://status.example/status-lists/q2", Index: 70001}) ||
				!got.IssuedAt.Equal(day) || !got.Expires.Equal(day.Add(90*24*time.Hour)) {
				t.Errorf("%+v", got)
			}
			for what, at := range map[string]time.Time{"early": now.AddDate(0, 0, -1), "late": got.Expires} {
				if _, err := verifier.VerifySDJWT(compact, roots, at); err == nil {
					t.Errorf("verified too %s", what)
				}
			}
			if _, err := verifier.VerifySDJWT(compact, []*x509.Certificate{verifiertest.NewAuthority(t, now).Root}, now); err == nil {
				t.Error("verified under another root")
			}

			// the phone shows two claims of it, bound to a verifier's nonce
			parts := strings.Split(string(compact), "~")
			shown := strings.Join([]string{parts[0], parts[3], parts[1]}, "~") + "~"
			kb := b64.EncodeToString(fmt.Appendf(nil, `{"alg":%q,"typ":"kb+jwt"}`, holderAlg)) + "." +
				b64.EncodeToString(fmt.Appendf(nil, `{"iat":%d,"aud":"https://shop.example","nonce":"n1","sd_hash":%q}`, now.Unix(), digestOf([]byte(shown))))
			kb += "." + b64.EncodeToString(verifiertest.Sign(holder, []byte(kb)))
			got, err = verifier.VerifySDJWT([]byte(shown+kb), roots, now)
			if err != nil {
				t.Fatal(err)
			}
			if err := got.VerifyKeyBinding("n1", "https://shop.example", now, time.Minute); err != nil {
				t.Error(err)
			}
			if got.Claims["is_adult"] != true || got.Claims["birthdate"] != nil || got.Hidden != 9 {
				t.Errorf("shown: %v, hidden %d", got.Claims, got.Hidden)
			}
			got, err = verifier.VerifySDJWT([]byte(shown+parts[2]+"~"+kb), roots, now)
			if err != nil {
				t.Fatal(err)
			}
			if err := got.VerifyKeyBinding("n1", "https://shop.example", now, time.Minute); err == nil {
				t.Error("a key binding covered a claim that was added later")
			}
		}
	}
}

func TestRoundTripOfAnyValues(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test issuer", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	holder := verifiertest.NewKey(t, "ES256").Public()
	rapid.Check(t, func(r *rapid.T) {
		p := card(s, holder)
		p.values, p.decoys = nil, rapid.IntRange(0, 9).Draw(r, "decoys")
		want := map[string]any{}
		for i := range rapid.IntRange(0, 12).Draw(r, "n") {
			name := fmt.Sprintf("e%d%s", i, rapid.String().Draw(r, "name"))
			v := claim(name, rapid.SampledFrom([]string{"string", "bool", "int"}).Draw(r, "kind"), nil)
			v.Disclosure = rapid.Bool().Draw(r, "disclosure")
			switch v.Kind {
			case "string":
				v.V = rapid.String().Draw(r, "v")
			case "bool":
				v.V = rapid.Bool().Draw(r, "v")
			case "int":
				v.V = rapid.Int64().Draw(r, "v")
			}
			want[name] = v.V
			p.values = append(p.values, v)
		}
		tbs, err := build(p)
		if err != nil {
			r.Fatal(err)
		}
		compact, err := tbs.join(nil, s.Sign(t, tbs.Bytes()))
		if err != nil {
			r.Fatal(err)
		}
		got, err := verifier.VerifySDJWT(compact, []*x509.Certificate{a.Root}, now)
		if err != nil {
			r.Fatal(err)
		}
		for k, v := range want {
			if got.Claims[k] != v {
				r.Fatalf("%q is %v, want %v", k, got.Claims[k], v)
			}
		}
		if got.Hidden != p.decoys {
			r.Fatalf("%d hidden, want %d", got.Hidden, p.decoys)
		}
	})
}

// BenchmarkDraft is what a credential costs beside its signature.
func BenchmarkDraft(b *testing.B) {
	a := verifiertest.NewAuthority(b, now)
	s := a.NewSigner(b, "Test issuer", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	p := card(s, verifiertest.NewKey(b, "ES256").Public())
	signature, room := make([]byte, 64), make([]byte, 0, 8192)
	b.ReportAllocs()
	for b.Loop() {
		tbs, err := build(p)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := tbs.join(room, signature); err != nil {
			b.Fatal(err)
		}
	}
}

// The text itself, by RFC 9901 4 and sd-jwt-vc-19 2.2; not by the builder's constants.
func TestText(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test issuer", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	p := card(s, verifiertest.NewKey(t, "ES256").Public())
	parts := strings.Split(string(issue(t, p, s)), "~")
	if len(parts) != 9 || parts[8] != "" {
		t.Fatalf("%d parts, the last %q", len(parts), parts[len(parts)-1])
	}
	jws := strings.Split(parts[0], ".")
	header, _ := b64.DecodeString(jws[0])
	payload, _ := b64.DecodeString(jws[1])
	if want := `{"alg":"ES256","typ":"dc+sd-jwt","x5c":["` + base64.StdEncoding.EncodeToString(s.Leaf.Raw) + `"]}`; string(header) != want {
		t.Errorf("header %s", header)
	}
	want := `{"iss":"https://issuer.example","iat":1795392000,"exp":1803168000,"vct":"urn:example:resident:1","cnf":{"jwk":` + string(p.jwk) +
		`},"status":{"status_list":{"idx":70001,"uri":"https://status.example/status-lists/q2"}},"issuing_country":"KR","_sd":["`
	if !strings.HasPrefix(string(payload), want) || !strings.HasSuffix(string(payload), `"],"_sd_alg":"sha-256"}`) {
		t.Errorf("payload %s\nwant    %s", payload, want)
	}
	if n := strings.Count(string(payload), `","`); n < 10 {
		t.Errorf("%d digests", n)
	}
	for _, d := range parts[1:8] {
		text, err := b64.DecodeString(d)
		if err != nil || !strings.HasPrefix(string(text), `["`) || text[24] != '"' { // 22 characters are 128 bits
			t.Errorf("disclosure %s: %v", text, err)
		}
		if !strings.Contains(string(payload), `"`+digestOf([]byte(d))+`"`) {
			t.Errorf("no digest for %s", text)
		}
	}
	p.values, p.decoys = nil, 0
	bare := string(issue(t, p, s))
	if jws := strings.Split(bare, "."); !strings.HasSuffix(bare, "~") || strings.Count(bare, "~") != 1 {
		t.Errorf("without disclosures: %s", bare)
	} else if payload, _ := b64.DecodeString(jws[1]); strings.Contains(string(payload), "_sd") {
		t.Errorf("nothing to disclose, yet %s", payload)
	}
	// RFC 9901 4.2.3
	if got := digestOf([]byte("WyI2cU1RdlJMNWhhaiIsICJmYW1pbHlfbmFtZSIsICJNw7ZiaXVzIl0")); got != "uutlBuYeMDyjLLTpf6Jxi7yNkEF35jdyWMn9U7b_RYY" {
		t.Errorf("the RFC's example has digest %s", got)
	}
}

// A retry rebuilds the same bytes; two copies of one request share no digest.
func TestSeed(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test issuer", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	p := card(s, verifiertest.NewKey(t, "ES256").Public())
	first, err := build(p)
	if err != nil {
		t.Fatal(err)
	}
	later := p
	later.signedAt = now.Add(time.Hour)
	for name, q := range map[string]plain{"again": p, "later the same day": later} {
		if again, err := build(q); err != nil || !bytes.Equal(first.Bytes(), again.Bytes()) {
			t.Errorf("%s: other bytes (%v)", name, err)
		}
	}
	seed, second := p, p
	seed.seed[31]++
	second.copy = 1
	for name, q := range map[string]plain{"another seed": seed, "another copy": second} {
		other, err := build(q)
		if err != nil {
			t.Fatal(err)
		}
		others := strings.Split(string(other.disclosures), "~")
		for i, d := range strings.Split(strings.TrimSuffix(string(first.disclosures), "~"), "~") {
			if d[:24] == others[i][:24] {
				t.Errorf("%s: the same salt", name)
			}
		}
		_, x, _ := strings.Cut(decode(t, first.bytes), `"_sd":`)
		_, y, _ := strings.Cut(decode(t, other.bytes), `"_sd":`)
		for d := range strings.SplitSeq(x, `"`) {
			if len(d) == 43 && strings.Contains(y, d) {
				t.Errorf("%s: the same digest %s", name, d)
			}
		}
	}
}

func decode(t *testing.T, input []byte) string {
	t.Helper()
	_, payload, _ := strings.Cut(string(input), ".")
	b, err := b64.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTimesStayInTheCertificate(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	key := verifiertest.NewKey(t, "ES256").Public()
	for _, c := range []struct {
		name                string
		notBefore, notAfter time.Time
		iat, exp            string // empty: refused
	}{
		{"grain", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0), "2026-11-23T00:00:00Z", "2027-02-21T00:00:00Z"},
		{"certificate made after the decision", now.Add(time.Minute), now.AddDate(1, 0, 0), "2026-11-23T18:48:50Z", "2027-02-21T18:48:50Z"},
		{"certificate that ends first", now.AddDate(0, -1, 0), now.AddDate(0, 0, 7), "2026-11-23T00:00:00Z", "2026-11-30T18:47:50Z"},
		{"certificate that ended", now.AddDate(0, -1, 0), now.Add(-time.Hour), "", ""},
	} {
		s := a.NewSigner(t, "Test issuer", "ES256", c.notBefore, c.notAfter)
		tbs, err := build(card(s, key))
		if c.iat == "" {
			if err == nil {
				t.Errorf("%s: built", c.name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		iat, _ := time.Parse(time.RFC3339, c.iat)
		exp, _ := time.Parse(time.RFC3339, c.exp)
		if got := decode(t, tbs.bytes); !strings.Contains(got, fmt.Sprintf(`"iat":%d,"exp":%d,`, iat.Unix(), exp.Unix())) || !tbs.NotAfter().Equal(exp) {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test issuer", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	cases := map[string]func(*plain){
		"no algorithm":     func(p *plain) { p.signer = certify(s, "none") },
		"no certified key": func(p *plain) { p.signer = new(certified.Key) },
		"no vct":           func(p *plain) { p.vct = "" },
		"no status":        func(p *plain) { p.uri = "" },
		"no key":           func(p *plain) { p.jwk = nil },
		"private key":      func(p *plain) { p.jwk = []byte(`{"crv":"P-256","d":"AA","kty":"EC","x":"AA","y":"AA"}`) },
		"no instant":       func(p *plain) { p.signedAt = time.Time{} },
		"no lifetime":      func(p *plain) { p.lifetime = 0 },
		"claim twice":      func(p *plain) { p.values = append(p.values, p.values[0]) },
		"wrong type":       func(p *plain) { p.values[0].V = 1 },
		"wrong kind":       func(p *plain) { p.values[0].Kind = "int" },
		"not UTF-8":        func(p *plain) { p.values[0].V = "\xff" },
		"name not UTF-8":   func(p *plain) { p.values[0].SDName = "\xff" },
		"vct not UTF-8":    func(p *plain) { p.vct = "\xff" },
		"bad media type":   func(p *plain) { p.values[4].MediaType = "a,b" },
		"digests in an object": func(p *plain) {
			p.values[5].V = []policy.Value{{Name: "_sd", Kind: "array", V: []policy.Value{}}}
		},
		"member twice": func(p *plain) {
			p.values[5].V = []policy.Value{{Name: "a", Kind: "string", V: ""}, {Name: "a", Kind: "string", V: ""}}
		},
	}
	for _, name := range []string{"iss", "nbf", "exp", "iat", "cnf", "vct", "vct#integrity", "aka_vcts", "status", "_sd", "_sd_alg", "..."} {
		cases["claim "+name] = func(p *plain) { p.values[0].SDName = name }
	}
	for name, change := range cases {
		p := card(s, verifiertest.NewKey(t, "ES256").Public())
		change(&p)
		if _, err := build(p); err == nil {
			t.Errorf("%s: built", name)
		}
	}
	tbs, err := build(card(s, verifiertest.NewKey(t, "ES256").Public()))
	if err != nil {
		t.Fatal(err)
	}
	for name, join := range map[string]func() ([]byte, error){
		"short signature": func() ([]byte, error) { return tbs.join(nil, make([]byte, 63)) },
		"nil draft":       func() ([]byte, error) { return Join(nil, nil, new(release.Checked), 0) },
		"zero draft":      func() ([]byte, error) { return Join(nil, new(TBS), new(release.Checked), 0) },
		"nil checked":     func() ([]byte, error) { return Join(nil, tbs, nil, 0) },
		"zero checked":    func() ([]byte, error) { return Join(nil, tbs, new(release.Checked), 0) },
	} {
		if _, err := join(); err == nil {
			t.Errorf("%s: joined", name)
		}
	}
	for name, a := range map[string]*policy.Approval{"nil approval": nil, "zero approval": {}} {
		if _, err := Draft(a, new(ledger.Ticket), certified.Params{Signer: &certified.Key{Key: ledger.Key{Purpose: policy.PurposeSDJWT}}}); err == nil {
			t.Errorf("%s: drafted", name)
		}
	}
}

// Drafts are put together in memory that other drafts use afterwards, and at the same time others': nothing of one comes from there.
func TestDraftsOwnWhatTheySay(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test issuer", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	device := verifiertest.NewKey(t, "ES256").Public()
	written := func(tbs *TBS) []byte {
		b, err := tbs.join(nil, make([]byte, 64))
		if err != nil {
			t.Error(err)
		}
		return append(b, tbs.Bytes()...)
	}
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			p := card(s, device)
			p.seed[0], p.values = byte(n), slices.Clone(p.values)
			p.values[0].V = strings.Repeat(string(rune('a'+n)), 1+n*700)
			var kept []*TBS
			var want []byte
			for range 50 {
				tbs, err := build(p)
				if err != nil {
					t.Error(err)
					return
				}
				if want == nil {
					want = written(tbs)
				}
				kept = append(kept, tbs)
				bad := p
				bad.values = append(slices.Clone(p.values), p.values[0]) // refused in the middle
				if _, err := build(bad); err == nil {
					t.Error("a claim that occurs twice is drafted")
				}
			}
			for i, tbs := range kept {
				if !bytes.Equal(written(tbs), want) {
					t.Errorf("draft %d of %d became another one", i, n)
				}
			}
		})
	}
	all.Wait()
}
