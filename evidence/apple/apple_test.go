package apple

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"sealkeeper/tests/phone"
)

func code(err error) string {
	if r := (*Refusal)(nil); errors.As(err, &r) {
		return strings.TrimPrefix(r.Code(), "evidence.apple_")
	}
	return fmt.Sprint(err)
}

type vector struct {
	Type           string    `yaml:"type"`
	Attestation    string    `yaml:"attestationBase64"`
	Assertion      string    `yaml:"assertionBase64"`
	Bundle         string    `yaml:"bundleIdentifier"`
	Team           string    `yaml:"teamIdentifier"`
	ClientData     string    `yaml:"clientDataBase64"`
	ClientDataHash string    `yaml:"clientDataHashSha256Base64"`
	KeyID          string    `yaml:"keyIdBase64"`
	PublicKey      string    `yaml:"publicKey"`
	Counter        uint32    `yaml:"counter"`
	Timestamp      time.Time `yaml:"timestamp"`
	Receipt        string    `yaml:"receiptBase64"`
}

func (v vector) want() Expected {
	return Expected{ClientDataHash: [32]byte(b64(v.ClientDataHash)), KeyID: [32]byte(b64(v.KeyID)), At: v.Timestamp}
}

func b64(s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func vectors(t testing.TB, file string) (attestation, assertion vector, receipts [][]byte) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	for dec := yaml.NewDecoder(bytes.NewReader(b)); ; {
		var v vector
		if err := dec.Decode(&v); err != nil {
			break
		}
		switch v.Type {
		case "attestation":
			attestation = v
		case "assertion":
			assertion = v
		case "receipt":
			receipts = append(receipts, b64(v.Receipt))
		}
	}
	if attestation.Attestation == "" || assertion.Assertion == "" || len(receipts) == 0 {
		t.Fatal("the vectors are not whole")
	}
	return attestation, assertion, receipts
}

func rulesOf(v vector) Rules {
	return Rules{Apps: []Identifier{{"ANOTHER", "org.example"}, {v.Team, v.Bundle}}, Development: true}
}

func TestVectors(t *testing.T) {
	for _, file := range []string{"ios-14.2.yaml", "ios-14.3.yaml"} {
		t.Run(file, func(t *testing.T) {
			att, ass, receipts := vectors(t, file)
			object, trust := b64(att.Attestation), Trust{Root: Root()}
			a, err := Verify(object, att.want(), trust, rulesOf(att))
			if err != nil || !a.Valid() {
				t.Fatal(err)
			}
			if a.Name() != att.Team+"."+att.Bundle || !a.Development() || a.Counter() != 0 || a.ID() != att.want().KeyID {
				t.Errorf("%+v", a)
			}
			if h := sha256.Sum256(b64(att.ClientData)); h != att.want().ClientDataHash {
				t.Error("the vector's client data has another hash")
			}
			block, _ := pem.Decode([]byte(att.PublicKey))
			if !bytes.HasSuffix(block.Bytes, a.point) {
				t.Error("another key was attested than the vector says")
			}

			for what, try := range map[string]struct {
				bend func(e *Expected, trust *Trust, r *Rules)
				want string
			}{
				"a week later":         {func(e *Expected, _ *Trust, _ *Rules) { e.At = e.At.Add(7 * 24 * time.Hour) }, "chain_expired"},
				"two days before":      {func(e *Expected, _ *Trust, _ *Rules) { e.At = e.At.Add(-48 * time.Hour) }, "chain_expired"},
				"another challenge":    {func(e *Expected, _ *Trust, _ *Rules) { e.ClientDataHash[0] ^= 1 }, "nonce"},
				"another key id":       {func(e *Expected, _ *Trust, _ *Rules) { e.KeyID[0] ^= 1 }, "key_id"},
				"production only":      {func(_ *Expected, _ *Trust, r *Rules) { r.Development = false }, "environment"},
				"another app":          {func(_ *Expected, _ *Trust, r *Rules) { r.Apps = r.Apps[:1] }, "app"},
				"no app":               {func(_ *Expected, _ *Trust, r *Rules) { r.Apps = nil }, "unconfigured"},
				"another root":         {func(_ *Expected, trust *Trust, _ *Rules) { trust.Root = otherRoot(t) }, "chain_untrusted"},
				"no root":              {func(_ *Expected, trust *Trust, _ *Rules) { trust.Root = nil }, "unconfigured"},
				"an instant not given": {func(e *Expected, _ *Trust, _ *Rules) { e.At = time.Time{} }, "unconfigured"},
			} {
				e, tr, r := att.want(), trust, rulesOf(att)
				try.bend(&e, &tr, &r)
				if a, err := Verify(object, e, tr, r); code(err) != try.want || a.Valid() {
					t.Errorf("%s: %v, want %s", what, err, try.want)
				}
			}

			hash := ass.want().ClientDataHash
			next, err := a.Assert(b64(ass.Assertion), hash)
			if err != nil || next.Counter() != ass.Counter || next.ID() != a.ID() || a.Counter() != 0 {
				t.Fatal(next, err)
			}
			if _, err := next.Assert(b64(ass.Assertion), hash); code(err) != "counter" {
				t.Errorf("the same assertion again: %v", err)
			}
			hash[0] ^= 1
			if _, err := a.Assert(b64(ass.Assertion), hash); code(err) != "signature" {
				t.Errorf("over other client data: %v", err)
			}
			for _, r := range receipts { // receipts are neither
				if _, err := Verify(r, att.want(), trust, rulesOf(att)); code(err) != "object_malformed" {
					t.Error(err)
				}
			}
		})
	}
}

// Every file of the vectors is read by a test.
func TestEveryVectorIsRead(t *testing.T) {
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{"PROVENANCE.md", "apple_app_attestation_root_ca.pem", "fuzz", "ios-14.2.yaml", "ios-14.3.yaml"}, e.Name()) {
			t.Errorf("%s is not classified", e.Name())
		}
	}
}

// An app's key never attests or asserts for the other app of the vectors.
func TestVectorsDoNotMix(t *testing.T) {
	a2, s2, _ := vectors(t, "ios-14.2.yaml")
	a3, s3, _ := vectors(t, "ios-14.3.yaml")
	if _, err := Verify(b64(a2.Attestation), a3.want(), Trust{Root: Root()}, rulesOf(a2)); code(err) != "key_id" {
		t.Error(err)
	}
	app, err := Verify(b64(a2.Attestation), a2.want(), Trust{Root: Root()}, rulesOf(a2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := app.Assert(b64(s3.Assertion), s3.want().ClientDataHash); code(err) != "signature" {
		t.Error(err)
	}
	_ = s2
}

func otherRoot(t testing.TB) *x509.Certificate {
	t.Helper()
	other, err := phone.NewApple(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return other.Root()
}

func TestRootIsApples(t *testing.T) {
	b, err := os.ReadFile("testdata/apple_app_attestation_root_ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if !bytes.Equal(Root().Raw, block.Bytes) {
		t.Error("the root in the program is another one")
	}
}

var now = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// Each of Apple's steps refuses what the authority itself would have signed wrongly: one change, everything else right.
func TestEachStepRefuses(t *testing.T) {
	authority, err := phone.NewApple(now)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := phone.NewApple(now)
	if err != nil {
		t.Fatal(err)
	}
	const name = "6MURL8TA57.org.example.wallet"
	rules := Rules{Apps: []Identifier{{"6MURL8TA57", "org.example.wallet"}}}
	key, hash := phone.NewAppKey(name), sha256.Sum256([]byte("challenge"))
	trust := Trust{Root: authority.Root()}
	want := Expected{ClientDataHash: hash, KeyID: key.ID(), At: now}
	set := func(at int, b byte) func([]byte) []byte {
		return func(d []byte) []byte { d[at] ^= b; return d }
	}
	for what, v := range map[string]struct {
		by   *phone.Apple
		bend phone.AppleBend
		want string
	}{
		"good":                          {authority, phone.AppleBend{}, ""},
		"development":                   {authority, phone.AppleBend{Development: true}, "environment"},
		"fmt":                           {authority, phone.AppleBend{Fmt: "packed"}, "format"},
		"rp id hash":                    {authority, phone.AppleBend{AuthData: set(0, 1)}, "app"},
		"no attested credential":        {authority, phone.AppleBend{AuthData: set(32, 0x40)}, "auth_data"},
		"extensions":                    {authority, phone.AppleBend{AuthData: set(32, 0x80)}, "auth_data"},
		"counter":                       {authority, phone.AppleBend{AuthData: set(36, 1)}, "counter"},
		"aaguid":                        {authority, phone.AppleBend{AuthData: set(52, 1)}, "environment"},
		"length of the credential id":   {authority, phone.AppleBend{AuthData: set(54, 1)}, "auth_data"},
		"credential id":                 {authority, phone.AppleBend{AuthData: set(55, 1)}, "credential_id"},
		"cose key":                      {authority, phone.AppleBend{AuthData: set(100, 1)}, "auth_data"},
		"bytes after it":                {authority, phone.AppleBend{AuthData: func(d []byte) []byte { return append(d, 0) }}, "auth_data"},
		"cut":                           {authority, phone.AppleBend{AuthData: func(d []byte) []byte { return d[:86] }}, "auth_data"},
		"nonce of other bytes":          {authority, phone.AppleBend{AuthData: set(36, 1), After: set(36, 1)}, "nonce"},
		"no nonce":                      {authority, phone.AppleBend{Leaf: func(c *x509.Certificate) { c.ExtraExtensions = nil }}, "nonce_malformed"},
		"nonce without its tag":         {authority, phone.AppleBend{Leaf: func(c *x509.Certificate) { c.ExtraExtensions[0].Value = c.ExtraExtensions[0].Value[4:] }}, "nonce_malformed"},
		"a leaf that is a CA":           {authority, phone.AppleBend{Leaf: func(c *x509.Certificate) { c.IsCA = true }}, "chain_untrusted"},
		"a leaf that is expired":        {authority, phone.AppleBend{Leaf: func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }}, "chain_expired"},
		"another authority":             {stranger, phone.AppleBend{}, "chain_untrusted"},
		"the CA left out":               {authority, phone.AppleBend{Chain: func(x [][]byte) [][]byte { return x[:1] }}, "chain_malformed"},
		"the root put in":               {authority, phone.AppleBend{Chain: func(x [][]byte) [][]byte { return append(x, authority.Root().Raw) }}, "chain_malformed"},
		"the root in place of the CA":   {authority, phone.AppleBend{Chain: func(x [][]byte) [][]byte { return [][]byte{x[0], authority.Root().Raw} }}, "chain_untrusted"},
		"the chain the other way round": {authority, phone.AppleBend{Chain: func(x [][]byte) [][]byte { slices.Reverse(x); return x }}, "key"},
		"no certificates":               {authority, phone.AppleBend{Chain: func(x [][]byte) [][]byte { return [][]byte{{1}, {2}} }}, "chain_malformed"},
	} {
		a, err := Verify(v.by.Attest(key, hash, v.bend), want, trust, rules)
		if got := code(err); v.want == "" && err != nil || v.want != "" && got != v.want || a.Valid() != (err == nil) {
			t.Errorf("%s: %v, want %q", what, err, v.want)
		}
	}
	good := authority.Attest(key, hash, phone.AppleBend{})
	for what, object := range map[string][]byte{
		"nothing": nil, "one byte more": append(slices.Clone(good), 0), "one byte less": good[:len(good)-1],
		"a member twice": append(append([]byte{0xa4}, good[1:]...), good[1:22]...), "an unknown member": append(append([]byte{0xa4}, good[1:]...), 0x61, 'x', 0),
	} {
		if _, err := Verify(object, want, trust, rules); code(err) != "object_malformed" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Verify(make([]byte, maxObject+1), want, trust, rules); code(err) != "object_too_large" {
		t.Error(err)
	}
}

// A CA whose key is not EC is no CA of Apple's, even where its root signed it: its key is not used.
func TestCAHasAnECKey(t *testing.T) {
	ec := func() crypto.Signer {
		k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	modulus, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	certify := func(name string, key crypto.Signer, by *x509.Certificate, with crypto.Signer, ca bool) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0),
			BasicConstraintsValid: true, IsCA: ca}
		if by == nil {
			by = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), with)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		return c
	}
	key := ec()
	root := certify("root", key, nil, key, true)
	for name, between := range map[string]crypto.Signer{"EC": ec(), "RSA": modulus} {
		ca := certify("CA", between, root, key, true)
		err := chain(certify("leaf", ec(), ca, between, false), ca, root, now)
		if good := name == "EC"; (err == nil) != good || !good && (code(err) != "chain_untrusted" || !strings.Contains(err.Error(), "not EC")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The counter only grows, whatever instance of the app is asked, and a stored app goes on where it was.
func TestAssertions(t *testing.T) {
	authority, err := phone.NewApple(now)
	if err != nil {
		t.Fatal(err)
	}
	rules := Rules{Apps: []Identifier{{"6MURL8TA57", "org.example.wallet"}}}
	key, hash := phone.NewAppKey(rules.Apps[0].String()), sha256.Sum256([]byte("challenge"))
	a, err := Verify(authority.Attest(key, hash, phone.AppleBend{}), Expected{hash, key.ID(), now}, Trust{authority.Root()}, rules)
	if err != nil {
		t.Fatal(err)
	}
	first, second := key.Assert(hash), key.Assert(hash)
	if a, err = a.Assert(second, hash); err != nil || a.Counter() != 2 {
		t.Fatal(a, err)
	}
	if _, err := a.Assert(first, hash); code(err) != "counter" {
		t.Errorf("an earlier one: %v", err)
	}
	if _, err := a.Assert(key.AssertWith(hash, 2), hash); code(err) != "counter" {
		t.Errorf("a new one with an old number: %v", err)
	}
	recalled, err := Recall(a.Record())
	if err != nil || !reflect.DeepEqual(recalled, a) {
		t.Fatal(recalled, err)
	}
	if recalled, err = recalled.Assert(key.AssertWith(hash, 1<<32-1), hash); err != nil {
		t.Fatal(err)
	}
	if _, err := recalled.Assert(key.AssertWith(hash, 0), hash); code(err) != "counter" {
		t.Errorf("after the last number: %v", err)
	}
	if _, err := a.Assert(phone.NewAppKey("X.y").AssertWith(hash, 9), hash); code(err) != "app" {
		t.Errorf("another app: %v", err)
	}
	if _, err := a.Assert(phone.NewAppKey(a.Name()).AssertWith(hash, 9), hash); code(err) != "signature" {
		t.Errorf("the same app on another phone: %v", err)
	}
	for _, b := range [][]byte{nil, make([]byte, maxAssertion+1), append(key.AssertWith(hash, 9), 0)} {
		if _, err := a.Assert(b, hash); code(err) != "assertion_malformed" {
			t.Error(err)
		}
	}
	for _, none := range []*App{nil, {}} {
		if _, err := none.Assert(second, hash); code(err) != "unconfigured" || none.Record() != nil {
			t.Error(err)
		}
	}
	good := a.Record()
	for what, bend := range map[string]func(b []byte) []byte{
		"cut": func(b []byte) []byte { return b[:71] }, "version": func(b []byte) []byte { b[0]++; return b },
		"environment": func(b []byte) []byte { b[1] = 2; return b }, "point": func(b []byte) []byte { b[20] ^= 1; return b },
	} {
		if _, err := Recall(bend(slices.Clone(good))); err == nil {
			t.Errorf("a record was recalled whose %s is wrong", what)
		}
	}
}

// No method of App gives a key away that something could take for a holder's.
func TestAppHoldsNoHolderKey(t *testing.T) {
	key := reflect.TypeFor[crypto.PublicKey]()
	for i, app := 0, reflect.TypeFor[*App](); i < app.NumMethod(); i++ {
		m := app.Method(i)
		for o := range m.Type.NumOut() {
			if out := m.Type.Out(o); out == key || strings.Contains(out.String(), "PublicKey") {
				t.Errorf("%s gives a %s", m.Name, out)
			}
		}
	}
	if f := reflect.TypeFor[App](); slices.ContainsFunc(reflect.VisibleFields(f), func(f reflect.StructField) bool { return f.IsExported() }) {
		t.Error("App has an exported field")
	}
}

// Every refusal of the sources is explained, once, and the other way round.
func TestCodesAreComplete(t *testing.T) {
	b, err := os.ReadFile("apple.go")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, c := range Codes {
		name, ok := strings.CutPrefix(c.Code, "evidence.apple_")
		if !ok || known[name] || !strings.Contains(string(b), `refuse("`+name+`"`) || c.Explanation == "" {
			t.Errorf("%s is not a refusal's, or there twice", c.Code)
		}
		known[name] = true
	}
	for _, part := range strings.Split(string(b), `refuse("`)[1:] {
		if name, _, _ := strings.Cut(part, `"`); !known[name] {
			t.Errorf("%s is not explained", name)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	att, _, _ := vectors(b, "ios-14.3.yaml")
	object, trust, rules := b64(att.Attestation), Trust{Root: Root()}, rulesOf(att)
	for b.Loop() {
		if _, err := Verify(object, att.want(), trust, rules); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAssert(b *testing.B) {
	att, ass, _ := vectors(b, "ios-14.3.yaml")
	a, err := Verify(b64(att.Attestation), att.want(), Trust{Root: Root()}, rulesOf(att))
	if err != nil {
		b.Fatal(err)
	}
	assertion, hash := b64(ass.Assertion), ass.want().ClientDataHash
	for b.Loop() {
		if _, err := a.Assert(assertion, hash); err != nil {
			b.Fatal(err)
		}
	}
}
