package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/internal/signed"
	"sealkeeper/tests/phone"
)

type office struct {
	Signers
	sign func(t testing.TB, data []byte, ids ...string) []byte
}

// anOffice has three policy keys of which two must sign, and knows dave, who is not registered.
func anOffice(t testing.TB) office {
	t.Helper()
	ec := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	alice, bob, dave := ec(elliptic.P256()), ec(elliptic.P384()), ec(elliptic.P256())
	o := office{Signers: Signers{Threshold: 2, Keys: []signed.Key{{ID: "alice", Public: alice.Public()}, {ID: "bob", Public: bob.Public()},
		{ID: "carol", Public: ed.Public()}, {ID: "alice-too", Public: alice.Public()}}}}
	o.sign = func(t testing.TB, data []byte, ids ...string) []byte {
		t.Helper()
		for _, id := range ids {
			var err error
			switch id {
			case "bob":
				data, err = Sign("b.json", data, id, bob, rand.Reader)
			case "carol":
				data, err = Sign("b.json", data, id, ed, rand.Reader)
			case "dave":
				data, err = Sign("b.json", data, id, dave, rand.Reader)
			default:
				data, err = Sign("b.json", data, id, alice, rand.Reader)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return data
	}
	return o
}

func codeOf(err error) string {
	var refused *BundleError
	if errors.As(err, &refused) {
		return refused.Code()
	}
	return fmt.Sprint(err)
}

func TestWhoMustSign(t *testing.T) {
	o, good := anOffice(t), []byte(read(t, "demo.json"))
	plain, err := Parse("b.json", good)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ids  []string
		want string // signers, or a code
	}{
		"two":                     {[]string{"bob", "alice"}, "alice bob"},
		"three":                   {[]string{"alice", "bob", "carol"}, "alice bob carol"},
		"one again":               {[]string{"alice", "bob", "alice"}, "alice bob"},
		"two and a stranger":      {[]string{"alice", "dave", "carol"}, "alice carol"},
		"none":                    {nil, "bundle.unsigned"},
		"one":                     {[]string{"alice"}, "bundle.under_signed"},
		"one and a stranger":      {[]string{"alice", "dave"}, "bundle.under_signed"},
		"strangers":               {[]string{"dave"}, "bundle.under_signed"},
		"one key under two names": {[]string{"alice", "alice-too"}, "bundle.under_signed"},
	} {
		b, by, err := o.Open("b.json", o.sign(t, good, c.ids...))
		got := strings.Join(by, " ")
		if err != nil {
			got = codeOf(err)
		} else if b.Hash() != plain.Hash() {
			t.Errorf("%s: signing changed the hash", name)
		}
		if got != c.want {
			t.Errorf("%s: %s, not %s", name, got, c.want)
		}
	}
	// Without registered keys any bundle will do.
	if _, by, err := (Signers{}).Open("b.json", good); err != nil || len(by) > 0 {
		t.Errorf("development: %v %v", by, err)
	}
}

func TestBadBundlesAreNotOpened(t *testing.T) {
	o := anOffice(t)
	good := o.sign(t, withTests(t, `{"name": "a stranger", "input": {"at": "2026-03-14T12:00:00Z", "client": "nobody", "operation": "lock", "type": "mdl", "reason": "fraud"},
		"expect": {"result": "denied", "code": "client.forbidden"}}`), "alice", "bob")
	if _, _, err := o.Open("b.json", good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new, code, where string }{
		"changed after signing":     {`"version": 1`, `"version": 2`, "bundle.signature", ""},
		"signature of another":      {`"kid": "bob"`, `"kid": "carol"`, "bundle.signature", ""},
		"cut off":                   {"]\n}\n", "", "bundle.malformed", "b.json:"},
		"unknown member":            {`"signatures"`, `"x": 1, "signatures"`, "bundle.malformed", "b.json:"},
		"payload is no bundle":      {`"format": 1`, `"formats": 1`, "bundle.malformed", "b.json:3: "},
		"no signatures in the list": {`"signatures": [`, `"signatures": [], "signatures2": [`, "bundle.malformed", ""},
		"a kid twice":               {`"kid": "bob"`, `"kid": "alice"`, "bundle.malformed", "twice"},
		"version beyond JSON":       {`"version": 1`, `"version": 9007199254740993`, "bundle.malformed", "version"},
	} {
		bad := bytes.Replace(good, []byte(c.old), []byte(c.new), 1)
		if bytes.Equal(bad, good) {
			t.Errorf("%s: nothing was changed", name)
		}
		b, _, err := o.Open("b.json", bad)
		if b != nil || codeOf(err) != c.code || !strings.Contains(err.Error(), c.where) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A signature over the same bytes for another purpose is none.
	payload := []byte(read(t, "demo.json"))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := signed.Sign(payload, fileLimits, "status-list", "alice", key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := (Signers{Threshold: 1, Keys: []signed.Key{{ID: "alice", Public: key.Public()}}}).Open("b.json", other); codeOf(err) != "bundle.signature" {
		t.Errorf("a signature for something else: %v", err)
	}
}

// withTests puts tests into the demonstration's bundle.
func withTests(t testing.TB, tests string) []byte {
	t.Helper()
	return []byte(strings.Replace(read(t, "demo.json"), `"rules": [`, `"tests": [`+tests+`],`+"\n"+`"rules": [`, 1))
}

const issueTest = `{"name": "the ward office issues", "input": {"at": "2026-03-14T12:00:00Z", "client": "ward-office-1", "operation": "issue", "type": "kr-resident",
	"claims": ` + testClaims + `, "evidence": {"key_storage": ["iso_18045_high"], "user_authentication": ["iso_18045_high"]}}, "expect": {"result": "allowed"}}`

const testClaims = `{"family_name":"홍","given_name":"길동","birth_date":"1990-01-01","address":"서울","portrait":"_9j_4A","age_over_19":true,"document_number":"D-1",
	"issue_date":"2026-01-15","expiry_date":"2036-01-14","issuing_country":"KR","issuing_authority":"행정안전부"}`

func TestABundleIsHeldToItsTests(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"as it is":           {"", "", ""},
		"another result":     {`"result": "allowed"`, `"result": "denied", "code": "card.locked"`, "wants denied card.locked and got allowed"},
		"another code":       {`"operation": "issue"`, `"operation": "refresh"`, "got denied slot.empty"},
		"a claim missing":    {`"family_name":"홍",`, ``, "got denied claims.missing"},
		"locked":             {`"evidence"`, `"slot": {"locks": [{"reason": "fraud", "class": "ministry"}]}, "evidence"`, "got denied card.locked"},
		"two kinds in one":   {`"key_storage"`, `"statements": [{"authority": "a", "face_match": {}, "chip_read": {}}], "key_storage"`, "exactly one kind"},
		"too many keys":      {`"key_storage"`, `"keys": 65, "key_storage"`, "between 1 and 64"},
		"unknown operation":  {`"operation": "issue"`, `"operation": "sing"`, "is none of"},
		"unasked statements": {`"key_storage"`, `"statements": [{"authority": "a", "face_match": {}}], "key_storage"`, "got denied evidence.unasked"},
	} {
		file := withTests(t, strings.Replace(issueTest, c.old, c.new, 1))
		b, err := Parse("b.json", file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		line := 1 + strings.Count(string(file[:bytes.Index(file, []byte(`"tests"`))]), "\n")
		switch err := b.Test("b.json"); {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (codeOf(err) != "bundle.test_failed" || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), fmt.Sprintf("b.json:%d:", line))):
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, bad := range map[string]string{
		"no name":         strings.Replace(issueTest, "the ward office issues", "", 1),
		"twice":           issueTest + "," + issueTest,
		"no instant":      strings.Replace(issueTest, `"at": "2026-03-14T12:00:00Z",`, "", 1),
		"no code":         strings.Replace(issueTest, `"allowed"`, `"denied"`, 1),
		"failed":          strings.Replace(issueTest, `"allowed"`, `"failed"`, 1),
		"allowed, a code": strings.Replace(issueTest, `"allowed"`, `"allowed", "code": "x.y"`, 1),
	} {
		if _, err := Parse("b.json", withTests(t, bad)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestSuccession(t *testing.T) {
	parse := func(version int, name string) *Bundle {
		b, err := Parse("b.json", []byte(strings.NewReplacer(`"version": 1`, fmt.Sprintf(`"version": %d`, version), `"name": "`, `"name": "`+name).Replace(read(t, "demo.json"))))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	active := parse(3, "")
	for _, c := range []struct {
		next  *Bundle
		again bool
		want  string
	}{{parse(4, ""), false, ""}, {parse(3, ""), true, ""}, {parse(3, "other-"), false, "bundle.version_reused"}, {parse(2, ""), false, "bundle.old"}} {
		again, err := c.next.Succeeds(active)
		if got := ""; again != c.again || err != nil && codeOf(err) != c.want || err == nil && got != c.want {
			t.Errorf("version %d: %v %v", c.next.Version(), again, err)
		}
	}
}

// A root is switched off by its key, wherever it is listed.
func TestWalletProvidersAreSwitchedOff(t *testing.T) {
	var roots []*phone.Provider
	for range 2 {
		p, err := phone.NewProvider(noon, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, p)
	}
	spec := func(i int, off bool) string {
		return fmt.Sprintf(`{"id": "w%d", "certificate": %q, "off": %v}`, i, base64.StdEncoding.EncodeToString(roots[i].Anchor().Raw), off)
	}
	own := roots[0].Anchor()
	for want, specs := range map[string][]string{"own": nil, "": {spec(0, true)}, "own w1": {spec(1, false)}, "w1": {spec(0, true), spec(1, false)}} {
		b, err := Parse("b.json", []byte(strings.Replace(read(t, "demo.json"), `"rules": [`, `"wallet_providers": [`+strings.Join(specs, ",")+`], "rules": [`, 1)))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range b.WalletProviders([]*x509.Certificate{own}) {
			if r.Equal(own) {
				got = append(got, "own")
			} else if r.Equal(roots[1].Anchor()) {
				got = append(got, "w1")
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%v: believed are %v, not %q", len(specs), got, want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	o, good := anOffice(f), []byte(read(f, "demo.json"))
	seeds := [][]byte{good, o.sign(f, good, "alice", "bob"), o.sign(f, withTests(f, issueTest), "alice", "carol")}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, data []byte) bool {
		b, by, err := o.Open("f", data)
		if (err == nil) != (b != nil) || err == nil && len(by) < 2 {
			t.Errorf("%v by %v: %v", b, by, err)
		}
		return err == nil
	})
}
