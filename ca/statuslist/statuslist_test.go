package statuslist

import (
	"bytes"
	"compress/zlib"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
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

var now = time.Date(2026, 11, 23, 18, 47, 50, 0, time.UTC)

func list(format policy.Format, bits int, image []byte) policy.List {
	return policy.List{
		ID: "q1", URI: "https://status.example/status-lists/q1", Format: format, Bits: bits, Version: 7,
		IssuedAt: now, Expires: now.Add(24 * time.Hour), TTL: 5 * time.Minute, Image: image,
	}
}

func issue(t testing.TB, l policy.List, s *verifiertest.Signer, level int) []byte {
	t.Helper()
	tbs, err := build(l, certify(t, s, s.Algorithm), level)
	if err != nil {
		t.Fatal(err)
	}
	token, err := tbs.join(s.Sign(t, tbs.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func certify(t testing.TB, s *verifiertest.Signer, algorithm string) *certified.Key {
	t.Helper()
	k, err := certified.New(ledger.Key{Algorithm: algorithm, Chain: [][]byte{s.Leaf.Raw}, SPKI: s.Leaf.RawSubjectPublicKeyInfo})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What is built is what a verifier reads, in both forms: any array, at any level of compression.
func TestRoundTripOfAnyArray(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test list signer", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	rapid.Check(t, func(r *rapid.T) {
		image := rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(r, "image")
		level := rapid.IntRange(zlib.BestSpeed, zlib.BestCompression).Draw(r, "level")
		for _, l := range []policy.List{list(policy.SDJWT, 2, image), list(policy.MDoc, 1, image)} {
			got, err := verifier.DecodeStatusList(issue(t, l, s, level), uint64(len(image)*8/l.Bits))
			if err != nil {
				r.Fatal(err)
			}
			if !bytes.Equal(got.Image, image) || got.Subject != l.URI || !got.IssuedAt.Equal(now) || !got.Expires.Equal(l.Expires) ||
				got.TTL != l.TTL || got.Version != 7 || got.Bits != l.Bits {
				r.Fatalf("%+v", got)
			}
			for i := range len(image) * 8 / l.Bits {
				want := image[i*l.Bits/8] >> (i * l.Bits % 8) & byte(1<<l.Bits-1)
				if v, ok := got.Get(uint64(i)); !ok || v != want {
					r.Fatalf("index %d: %d, want %d", i, v, want)
				}
			}
		}
	})
}

func TestRoundTrip(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	roots := []*x509.Certificate{a.Root}
	for _, alg := range []string{"ES256", "ES384", "EdDSA"} {
		s := a.NewSigner(t, "Test list signer", alg, now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
		cwt := list(policy.MDoc, 1, []byte{0x02})
		for index, want := range []byte{0, 1, 0, 0, 0, 0, 0, 0} {
			if v, err := verifier.VerifyStatus(issue(t, cwt, s, 1), cwt.URI, uint64(index), roots, now); err != nil || v != want {
				t.Errorf("CWT, index %d: %d, %v", index, v, err)
			}
		}
		token := issue(t, list(policy.SDJWT, 2, []byte{0xe4}), s, 9)
		uri := list(policy.SDJWT, 2, nil).URI
		for index, want := range []byte{0, 1, 2, 3} { // least significant bits first
			if v, err := verifier.VerifyStatus(token, uri, uint64(index), roots, now); err != nil || v != want {
				t.Errorf("index %d: %d, %v", index, v, err)
			}
		}
		for what, check := range map[string]func() (byte, error){
			"out of bounds": func() (byte, error) { return verifier.VerifyStatus(token, uri, 4, roots, now) },
			"another uri":   func() (byte, error) { return verifier.VerifyStatus(token, uri+"x", 0, roots, now) },
			"expired":       func() (byte, error) { return verifier.VerifyStatus(token, uri, 0, roots, now.Add(24*time.Hour)) },
			"from tomorrow": func() (byte, error) { return verifier.VerifyStatus(token, uri, 0, roots, now.Add(-24*time.Hour)) },
			"another root": func() (byte, error) {
				return verifier.VerifyStatus(token, uri, 0, []*x509.Certificate{verifiertest.NewAuthority(t, now).Root}, now)
			},
			"changed": func() (byte, error) {
				return verifier.VerifyStatus(bytes.Replace(token, []byte("."), []byte(".e"), 1), uri, 0, roots, now)
			},
			"trailing data": func() (byte, error) {
				return verifier.VerifyStatus(append(bytes.Clone(token), 'A'), uri, 0, roots, now)
			},
		} {
			if _, err := check(); err == nil {
				t.Errorf("%s, %s: believed", alg, what)
			}
		}
	}
}

// The arrays of the draft's test vectors compress to something that inflates to the same bytes.
func TestEncodingVectors(t *testing.T) {
	raw, err := os.ReadFile("testdata/encoding_vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Bits     int
		Size     int
		Statuses [][2]int
		List     string `json:"lst_b64url"`
	}
	if err := json.Unmarshal(raw, &vectors); err != nil || len(vectors) != 6 {
		t.Fatal(len(vectors), err)
	}
	inflate := func(b []byte) []byte {
		r, err := zlib.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, v := range vectors {
		image := make([]byte, v.Size*v.Bits/8)
		for _, s := range v.Statuses {
			image[s[0]*v.Bits/8] |= byte(s[1] << (s[0] * v.Bits % 8))
		}
		theirs, err := b64.DecodeString(v.List)
		if err != nil {
			t.Fatal(err)
		}
		for _, level := range []int{zlib.BestSpeed, zlib.BestCompression} {
			ours, err := deflate(image, level)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(inflate(ours), inflate(theirs)) {
				t.Errorf("%d bits, level %d: other bytes than the draft's", v.Bits, level)
			}
			if level == zlib.BestCompression && !bytes.Equal(ours[:2], []byte{0x78, 0xda}) {
				t.Errorf("ZLIB header % x", ours[:2])
			}
		}
	}
}

// The bytes themselves, by draft-20 5.1 and 5.2 and WD v4 12.3.6.3; not by the builder's constants.
func TestBytes(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test list signer", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	token := issue(t, list(policy.SDJWT, 2, []byte{0}), s, 9)
	parts := strings.Split(string(token), ".")
	header, _ := b64.DecodeString(parts[0])
	claims, _ := b64.DecodeString(parts[1])
	if !strings.HasPrefix(string(header), `{"alg":"ES256","typ":"statuslist+jwt","x5c":["MII`) {
		t.Errorf("header %.60s", header)
	}
	if want := `{"sub":"https://status.example/status-lists/q1","iat":1795459670,"exp":1795546070,"ttl":300,"status_list":{"bits":2,"lst":"eN`; !strings.HasPrefix(string(claims), want) {
		t.Errorf("claims %s\nwant  %s", claims, want)
	}
	if !strings.HasSuffix(string(claims), `"},"sealkeeper_version":7}`) {
		t.Errorf("claims %s", claims)
	}
	cwt := hex.EncodeToString(issue(t, list(policy.MDoc, 1, []byte{0}), s, 9))
	// 18([<<{1: -7, 16: "application/statuslist+cwt", 33: h'leaf'}>>, {}, <<{2: sub, 6: iat, 4: exp, 65534: ttl, 65533: {…}, …}>>, sig]), no tag 61
	protected := "a3" + "0126" + "10" + "781a" + hex.EncodeToString([]byte("application/statuslist+cwt")) + "1821" + fmt.Sprintf("59%04x%x", len(s.Leaf.Raw), s.Leaf.Raw)
	want := "d284" + fmt.Sprintf("59%04x", len(protected)/2) + protected + "a0"
	if !strings.HasPrefix(cwt, want) {
		t.Fatalf("CWT begins %.100s\nwant       %.100s", cwt, want)
	}
	payload := "a6" + "02" + "7826" + hex.EncodeToString([]byte("https://status.example/status-lists/q1")) + "06" + "1a6b048a56" + "04" + "1a6b05dbd6" +
		"19fffe" + "19012c" + "19fffd" + "a2" + "64" + hex.EncodeToString([]byte("bits")) + "01" + "63" + hex.EncodeToString([]byte("lst"))
	if !strings.Contains(cwt, payload) {
		t.Errorf("CWT %s\nlacks %s", cwt[len(want):], payload)
	}
}

func TestRefusals(t *testing.T) {
	a := verifiertest.NewAuthority(t, now)
	s := a.NewSigner(t, "Test list signer", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0))
	good := list(policy.SDJWT, 2, []byte{0})
	for name, change := range map[string]func(*policy.List){
		"no uri":                func(l *policy.List) { l.URI = "" },
		"no image":              func(l *policy.List) { l.Image = nil },
		"no version":            func(l *policy.List) { l.Version = 0 },
		"three bits":            func(l *policy.List) { l.Bits = 3 },
		"two bits for mdoc":     func(l *policy.List) { l.Format = policy.MDoc },
		"no format":             func(l *policy.List) { l.Format = "" },
		"exp before iat":        func(l *policy.List) { l.Expires = l.IssuedAt },
		"ttl beyond exp":        func(l *policy.List) { l.TTL = 25 * time.Hour },
		"no ttl":                func(l *policy.List) { l.TTL = 0 },
		"after the certificate": func(l *policy.List) { l.IssuedAt = now.AddDate(2, 0, 0); l.Expires = now.AddDate(2, 0, 1) },
	} {
		l := good
		change(&l)
		if _, err := build(l, certify(t, s, "ES256"), 1); err == nil {
			t.Errorf("%s: built", name)
		}
	}
	if _, err := build(good, certify(t, s, "none"), 1); err == nil {
		t.Error("built without an algorithm")
	}
	tbs, err := build(good, certify(t, s, "ES256"), 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, join := range map[string]func() ([]byte, error){
		"short signature": func() ([]byte, error) { return tbs.join(make([]byte, 63)) },
		"nil draft":       func() ([]byte, error) { return Join(nil, new(release.Checked), 0) },
		"zero draft":      func() ([]byte, error) { return Join(new(TBS), new(release.Checked), 0) },
		"nil checked":     func() ([]byte, error) { return Join(tbs, nil, 0) },
		"zero checked":    func() ([]byte, error) { return Join(tbs, new(release.Checked), 0) },
	} {
		if _, err := join(); err == nil {
			t.Errorf("%s: joined", name)
		}
	}
	for name, a := range map[string]*policy.Approval{"nil approval": nil, "zero approval": {}} {
		if _, err := Draft(a, ledger.Key{Purpose: policy.PurposeList}, 1); err == nil {
			t.Errorf("%s: drafted", name)
		}
	}
}
