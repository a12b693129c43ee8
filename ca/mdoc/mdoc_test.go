package mdoc

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"sealkeeper/ca/certified"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
	"sealkeeper/verifier"
	"sealkeeper/verifier/verifiertest"
)

var (
	now    = time.Date(2026, 11, 23, 18, 47, 50, 123456789, time.UTC)
	midday = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

const nameSpace = "org.iso.18013.5.1"

func element(name, kind string, v any) policy.Value {
	return policy.Value{Name: name, Kind: kind, V: v, Element: name, Namespace: nameSpace}
}

func certify(s *verifiertest.Signer, algorithm string) *certified.Key {
	k, err := certified.New(ledger.Key{Algorithm: algorithm, Chain: [][]byte{s.Leaf.Raw}, SPKI: s.Leaf.RawSubjectPublicKeyInfo})
	if err != nil {
		panic(err)
	}
	return k
}

func card(s *verifiertest.Signer, device crypto.PublicKey) plain {
	return plain{
		docType: "org.iso.18013.5.1.mDL",
		values: []policy.Value{
			element("family_name", "string", "홍"),
			element("birth_date", "date", "1990-02-28"),
			element("age_over_18", "bool", true),
			element("height", "int", int64(172)),
			element("portrait", "bytes", []byte{0xff, 0xd8, 0xff}),
			element("driving_privileges", "array", []policy.Value{{Kind: "object", V: []policy.Value{
				{Name: "vehicle_category_code", Kind: "string", V: "B"},
				{Name: "issue_date", Kind: "date", V: "2015-01-01"},
			}}}),
			{Name: "sd_only", Kind: "string", V: "x", SDName: "sd_only"},
			{Name: "resident", Kind: "string", V: "Seoul", Element: "resident", Namespace: "kr.go.example"},
		},
		device:   device,
		uri:      "https://status.example/status-lists/q1",
		index:    70001,
		signer:   certify(s, s.Algorithm),
		signedAt: now,
		grain:    24 * time.Hour,
		lifetime: 90 * 24 * time.Hour,
		decoys:   5,
		seed:     [32]byte{1, 2, 3},
	}
}

func issue(t testing.TB, p plain, s *verifiertest.Signer) []byte {
	t.Helper()
	tbs, err := build(p)
	if err != nil {
		t.Fatal(err)
	}
	out, err := tbs.join(s.Sign(t, tbs.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if len(out) > tbs.Size() {
		t.Errorf("%d bytes, announced as %d", len(out), tbs.Size())
	}
	return out
}

// What is built is what a verifier reads, for every algorithm of issuer and phone.
func TestRoundTrip(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	roots := []*x509.Certificate{a.Root}
	for _, alg := range []string{"ES256", "ES384", "EdDSA"} {
		for _, deviceAlg := range []string{"ES256", "ES384", "EdDSA"} {
			s := a.NewSigner(t, "Test DS", alg, now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
			device := verifiertest.NewKey(t, deviceAlg).Public()
			p := card(s, device)
			m, err := verifier.VerifyMDoc(issue(t, p, s), roots, now)
			if err != nil {
				t.Fatalf("%s, device %s: %v", alg, deviceAlg, err)
			}
			want := map[string]map[string]any{
				nameSpace: {"family_name": "홍", "birth_date": "1990-02-28", "age_over_18": true, "height": int64(172), "portrait": []byte{0xff, 0xd8, 0xff},
					"driving_privileges": []any{map[string]any{"vehicle_category_code": "B", "issue_date": "2015-01-01"}}},
				"kr.go.example": {"resident": "Seoul"},
			}
			if !reflect.DeepEqual(m.Claims, want) {
				t.Errorf("claims: %v", m.Claims)
			}
			if !reflect.DeepEqual(m.DeviceKey, device) || m.DocType != p.docType || m.Hidden != 5 ||
				*m.Status != (verifier.StatusRef{URI: p.uri, Index: p.index}) {
				t.Errorf("%s: %+v", alg, m)
			}
			if day := midday.Truncate(24 * time.Hour); !m.Signed.Equal(day) || !m.ValidFrom.Equal(day) || !m.ValidUntil.Equal(day.Add(p.lifetime)) {
				t.Errorf("times: %s %s %s", m.Signed, m.ValidFrom, m.ValidUntil)
			}
			for what, at := range map[string]time.Time{"early": now.AddDate(0, 0, -1), "late": m.ValidUntil} {
				if _, err := verifier.VerifyMDoc(issue(t, p, s), roots, at); err == nil {
					t.Errorf("verified too %s", what)
				}
			}
			if _, err := verifier.VerifyMDoc(issue(t, p, s), []*x509.Certificate{verifiertest.NewAuthority(t, now).Root}, now); err == nil {
				t.Error("verified under another root")
			}
		}
	}
}

func TestRoundTripOfAnyValues(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test DS", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	device := verifiertest.NewKey(t, "ES256").Public()
	rapid.Check(t, func(r *rapid.T) {
		p := card(s, device)
		p.values, p.decoys = nil, rapid.IntRange(0, 9).Draw(r, "decoys")
		want := map[string]map[string]any{}
		for i := range rapid.IntRange(1, 12).Draw(r, "n") {
			v := element(fmt.Sprintf("e%d", i), rapid.SampledFrom([]string{"string", "bool", "int", "bytes"}).Draw(r, "kind"), nil)
			v.Namespace = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "space")
			switch v.Kind {
			case "string":
				v.V = rapid.String().Draw(r, "v")
			case "bool":
				v.V = rapid.Bool().Draw(r, "v")
			case "int":
				v.V = rapid.Int64().Draw(r, "v")
			case "bytes":
				v.V = rapid.SliceOf(rapid.Byte()).Draw(r, "v")
			}
			if want[v.Namespace] == nil {
				want[v.Namespace] = map[string]any{}
			}
			want[v.Namespace][v.Element] = v.V
			p.values = append(p.values, v)
		}
		tbs, err := build(p)
		if err != nil {
			r.Fatal(err)
		}
		out, err := tbs.join(s.Sign(t, tbs.Bytes()))
		if err != nil {
			r.Fatal(err)
		}
		m, err := verifier.VerifyMDoc(out, []*x509.Certificate{a.Root}, now)
		if err != nil {
			r.Fatal(err)
		}
		if fmt.Sprint(m.Claims) != fmt.Sprint(want) || m.Hidden != p.decoys {
			r.Fatalf("%v, hidden %d; want %v", m.Claims, m.Hidden, want)
		}
	})
}

// The bytes themselves, by the standard's CDDL and formats of RFC 8949, 9052 and 9360; not by the builder's constants.
func TestBytes(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test DS", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	p := card(s, verifiertest.NewKey(t, "ES256").Public())
	p.values = p.values[1:2]
	p.decoys = 0
	tbs, err := build(p)
	if err != nil {
		t.Fatal(err)
	}
	out, err := tbs.join(bytes.Repeat([]byte{7}, 64))
	if err != nil {
		t.Fatal(err)
	}
	// {"nameSpaces": {"org.iso.18013.5.1": [24(<<{"digestID": 0, "random": h'32 bytes', "elementIdentifier": "birth_date", "elementValue": 1004("1990-02-28")}>>)]},
	//  "issuerAuth": [<<{1: -7}>>, {33: h'leaf'}, payload, signature]}
	const head = "a2" + "6a6e616d65537061636573" + "a1" + "716f72672e69736f2e31383031332e352e31" + "81" + "d818586c" +
		"a4" + "686469676573744944" + "00" + "6672616e646f6d" + "5820"
	const tail = "71656c656d656e744964656e746966696572" + "6a62697274685f64617465" + "6c656c656d656e7456616c7565" + "d903ec6a313939302d30322d3238" +
		"6a69737375657241757468" + "84" + "43a10126" + "a11821"
	got := hex.EncodeToString(out)
	if !strings.HasPrefix(got, head) {
		t.Fatalf("begins %s\nwant   %s", got[:len(head)], head)
	}
	rest := got[len(head)+64:]
	if !strings.HasPrefix(rest, tail) {
		t.Fatalf("goes on %s\nwant    %s", rest[:len(tail)], tail)
	}
	// x5chain of one certificate is a byte string; the payload is a byte string holding 24(byte string)
	rest = rest[len(tail):]
	leaf := fmt.Sprintf("59%04x%x", len(s.Leaf.Raw), s.Leaf.Raw)
	if !strings.HasPrefix(rest, leaf+"59") || rest[len(leaf)+6:len(leaf)+12] != "d81859" {
		t.Fatalf("goes on %.40s, then %.12s", rest, rest[len(leaf):])
	}
	if !strings.HasSuffix(rest, "5840"+strings.Repeat("07", 64)) {
		t.Fatal("the signature does not end it")
	}
	// Sig_structure: ["Signature1", <<{1: -7}>>, h'', payload]
	if !strings.HasPrefix(hex.EncodeToString(tbs.Bytes()), "846a5369676e61747572653143a1012640") {
		t.Fatalf("Sig_structure begins %x", tbs.Bytes()[:20])
	}
	mso, err := cbor.Diagnose(tbs.payload[len("d81859xxxx")/2:])
	if err != nil {
		t.Fatal(err)
	}
	item, _ := hex.DecodeString(got[strings.Index(got, "d818586c"):strings.Index(got, "6a69737375657241757468")])
	order := []string{`{"version": "1.0", "digestAlgorithm": "SHA-256", "valueDigests": {"org.iso.18013.5.1": {0: h'` + fmt.Sprintf("%x", sha256.Sum256(item)) + `'}}, ` +
		`"deviceKeyInfo": {"deviceKey": {1: 2, -1: 1, -2: h'`, `"docType": "org.iso.18013.5.1.mDL", "validityInfo": {"signed": 0("2026-11-23T00:00:00Z"), ` +
		`"validFrom": 0("2026-11-23T00:00:00Z"), "validUntil": 0("2027-02-21T00:00:00Z")}, ` +
		`"status": {"status_list": {"idx": 70001, "uri": "https://status.example/status-lists/q1"}}}`}
	for _, want := range order {
		if !strings.Contains(mso, want) {
			t.Errorf("the MSO lacks %s\n%s", want, mso)
		}
	}
}

// Heads and numbers are as the library writes them, at and around each length that a head can have.
func TestHeads(t *testing.T) {
	mode, err := cbor.EncOptions{IndefLength: cbor.IndefLengthForbidden}.EncMode()
	if err != nil {
		t.Fatal(err)
	}
	same := func(got []byte, v any) {
		t.Helper()
		if want, err := mode.Marshal(v); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%.40x, the library writes %.40x (%v)", got, want, err)
		}
	}
	for shift := range 64 {
		for _, n := range []uint64{1<<shift - 1, 1 << shift, 1<<shift + 1, 23, 24, 25} {
			same(head(nil, unsigned, n), n)
			same(integer(nil, int64(n)), int64(n))
			same(integer(nil, -int64(n)), -int64(n))
			if n > 0 {
				same(head(head(nil, tagOf, n+1_000_000), unsigned, 0), cbor.Tag{Number: n + 1_000_000, Content: 0})
			}
			if n < 1<<17 {
				b := bytes.Repeat([]byte{'x'}, int(n))
				same(text(nil, string(b)), string(b))
				same(octets(nil, b), b)
				same(append(head(nil, arrayOf, n), make([]byte, n)...), make([]int, n))
			}
		}
	}
}

// BenchmarkDraft is what a credential costs beside its signature.
func BenchmarkDraft(b *testing.B) {
	a := verifiertest.NewAuthority(b, now)
	s := a.NewSigner(b, "Test DS", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	p := card(s, verifiertest.NewKey(b, "ES256").Public())
	signature := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		tbs, err := build(p)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := tbs.join(signature); err != nil {
			b.Fatal(err)
		}
	}
}

// Our encoding of an item gives Annex D's bytes, and our digest of them the digests that its issuer signed.
func TestAnnexDItems(t *testing.T) {
	text, err := os.ReadFile("testdata/annex_d_device_response.hex")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Documents []struct {
			IssuerSigned struct {
				NameSpaces map[string][]cbor.RawMessage `cbor:"nameSpaces"`
				IssuerAuth []cbor.RawMessage            `cbor:"issuerAuth"`
			} `cbor:"issuerSigned"`
		} `cbor:"documents"`
	}
	if err := cbor.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	var payload, content []byte
	var mso struct {
		ValueDigests map[string]map[uint32][]byte `cbor:"valueDigests"`
	}
	is := r.Documents[0].IssuerSigned
	for _, step := range []error{cbor.Unmarshal(is.IssuerAuth[2], &payload), cbor.Unmarshal(payload, &cbor.Tag{})} {
		if step != nil {
			t.Fatal(step)
		}
	}
	var tag cbor.Tag
	if err := cbor.Unmarshal(payload, &tag); err != nil {
		t.Fatal(err)
	}
	if err := cbor.Unmarshal(tag.Content.([]byte), &mso); err != nil {
		t.Fatal(err)
	}
	n := 0
	for space, items := range is.NameSpaces {
		for _, b := range items {
			if err := cbor.Unmarshal(b, &tag); err != nil {
				t.Fatal(err)
			}
			content = tag.Content.([]byte)
			var i struct {
				DigestID   uint32          `cbor:"digestID"`
				Random     []byte          `cbor:"random"`
				Identifier string          `cbor:"elementIdentifier"`
				Value      cbor.RawMessage `cbor:"elementValue"`
			}
			if err := cbor.Unmarshal(content, &i); err != nil {
				t.Fatal(err)
			}
			again := embedded(nil, append(itemHead(nil, int(i.DigestID), i.Random, i.Identifier), i.Value...))
			if !bytes.Equal(again, b) {
				t.Errorf("%s: encoded again as %x, was %x", i.Identifier, again, []byte(b))
			}
			if !bytes.Equal(sum256(nil, again), mso.ValueDigests[space][i.DigestID]) {
				t.Errorf("%s: another digest", i.Identifier)
			}
			n++
		}
	}
	if n != 6 {
		t.Errorf("%d items, Annex D discloses 6", n)
	}
}

// A retry rebuilds the same bytes; two copies of one request share no salt, digest or order.
func TestSeed(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test DS", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	p := card(s, verifiertest.NewKey(t, "ES256").Public())
	first, _ := build(p)
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
		for i := 0; i+16 <= len(first.nameSpaces); i++ {
			w := first.nameSpaces[i : i+16]
			if i > 0 && bytes.Contains(other.nameSpaces, w) && !bytes.ContainsAny(w, "abcdefghijklmnopqrstuvwxyz") {
				t.Fatalf("%s shares bytes %x", name, w)
			}
		}
		if bytes.Equal(first.Bytes(), other.Bytes()) {
			t.Errorf("%s: the same bytes", name)
		}
	}
	orders := map[string]bool{}
	for c := range 20 {
		s := certified.NewStream([32]byte{1}, "mdoc", c)
		orders[fmt.Sprint(permutation(s, nameSpace, 8))] = true
	}
	if len(orders) < 19 {
		t.Errorf("%d orders in 20 copies", len(orders))
	}
}

// WD v4 12.3.4: validity stays inside the document signer's certificate, whatever the grain.
func TestTimesStayInTheCertificate(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	key := verifiertest.NewKey(t, "ES256").Public()
	for _, c := range []struct {
		name                string
		notBefore, notAfter time.Time
		at                  time.Time
		signed, until       string // empty: refused
	}{
		{"grain", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0), now, "2026-11-23T00:00:00Z", "2027-02-21T00:00:00Z"},
		{"certificate of today", midday, now.AddDate(1, 0, 0), now, "2026-11-23T12:00:00Z", "2027-02-21T12:00:00Z"},
		{"certificate made after the decision", now.Add(time.Minute), now.AddDate(1, 0, 0), now, "2026-11-23T18:48:50Z", "2027-02-21T18:48:50Z"},
		{"certificate that ends first", now.AddDate(0, -1, 0), midday.AddDate(0, 0, 7), now, "2026-11-23T00:00:00Z", "2026-11-30T12:00:00Z"},
		{"certificate that ended", now.AddDate(0, -1, 0), midday, now, "", ""},
	} {
		s := a.NewSigner(t, "Test DS", "ES256", c.notBefore, c.notAfter)
		p := card(s, key)
		p.signedAt = c.at
		tbs, err := build(p)
		if c.signed == "" {
			if err == nil {
				t.Errorf("%s: built", c.name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !bytes.Contains(tbs.Bytes(), []byte("fsigned\xc0\x74"+c.signed)) || !bytes.Contains(tbs.Bytes(), []byte("jvalidUntil\xc0\x74"+c.until)) ||
			tbs.NotAfter().Format(time.RFC3339) != c.until {
			t.Errorf("%s: until %s, in %q", c.name, tbs.NotAfter(), tbs.Bytes()[len(tbs.Bytes())-220:])
		}
	}
}

func TestRefusals(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test DS", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	for name, change := range map[string]func(*plain){
		"no algorithm":     func(p *plain) { p.signer = certify(s, "none") },
		"no certified key": func(p *plain) { p.signer = new(certified.Key) },
		"no docType":       func(p *plain) { p.docType = "" },
		"no status":        func(p *plain) { p.uri = "" },
		"no device key":    func(p *plain) { p.device = nil },
		"no instant":       func(p *plain) { p.signedAt = time.Time{} },
		"no lifetime":      func(p *plain) { p.lifetime = 0 },
		"no claims":        func(p *plain) { p.values = nil },
		"element twice":    func(p *plain) { p.values = append(p.values, p.values[0]) },
		"no name space":    func(p *plain) { p.values[0].Namespace = "" },
		"wrong type":       func(p *plain) { p.values[0].V = 1 },
		"unknown kind":     func(p *plain) { p.values[0].Kind = "float" },
		"negative decoys":  func(p *plain) { p.decoys = -1 },
	} {
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
	if _, err := tbs.join(make([]byte, 63)); err == nil {
		t.Error("joined a short signature")
	}
	for name, join := range map[string]func() ([]byte, error){
		"nil draft":      func() ([]byte, error) { return Join(nil, new(release.Checked), 0) },
		"zero draft":     func() ([]byte, error) { return Join(new(TBS), new(release.Checked), 0) },
		"nil checked":    func() ([]byte, error) { return Join(tbs, nil, 0) },
		"zero checked":   func() ([]byte, error) { return Join(tbs, new(release.Checked), 0) },
		"negative index": func() ([]byte, error) { return Join(tbs, new(release.Checked), -1) },
	} {
		if _, err := join(); err == nil {
			t.Errorf("%s: joined", name)
		}
	}
	key := &certified.Key{Key: ledger.Key{Purpose: policy.PurposeMDoc}}
	for name, a := range map[string]*policy.Approval{"nil approval": nil, "zero approval": {}} {
		if _, err := Draft(a, new(ledger.Ticket), certified.Params{Signer: key}); err == nil {
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
		b, err := tbs.join(make([]byte, 64))
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
