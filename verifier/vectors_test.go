package verifier

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readHex(t testing.TB, path string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ToLower(strings.TrimSpace(string(read(t, path)))))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type listVector struct {
	Bits     int         `json:"bits"`
	Size     uint64      `json:"size"`
	Raw      string      `json:"raw_hex"`
	Statuses [][2]uint64 `json:"statuses"`
	List     string      `json:"lst_b64url"`
	CBOR     string      `json:"cbor_hex"`
}

// Every list of the draft's appendix has exactly the stated statuses, and zero elsewhere.
func TestStatusListVectors(t *testing.T) {
	var vectors []listVector
	if err := json.Unmarshal(read(t, "token-status-list/encoding_vectors.json"), &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != 6 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for _, v := range vectors {
		lst, err := b64(v.List)
		if err != nil {
			t.Fatal(err)
		}
		var c struct {
			Bits int    `cbor:"bits"`
			List []byte `cbor:"lst"`
		}
		{
			_, after, ok := strings.Cut(v.CBOR, "encoded:") // two of them stand behind the array itself
			if !ok {
				after = v.CBOR
			}
			raw, _ := hex.DecodeString(after)
			if err := tight.Unmarshal(raw, &c); err != nil || c.Bits != v.Bits || !bytes.Equal(c.List, lst) {
				t.Errorf("%d bits: the CBOR form differs: %v", v.Bits, err)
			}
		}
		image, err := inflate(lst, v.Size*uint64(v.Bits)/8)
		if err != nil {
			t.Fatal(err)
		}
		l := StatusList{Bits: v.Bits, Image: image}
		want := map[uint64]byte{}
		for _, s := range v.Statuses {
			want[s[0]] = byte(s[1])
		}
		for i := range v.Size {
			if got, ok := l.Get(i); !ok || got != want[i] {
				t.Fatalf("%d bits, index %d: %d, want %d", v.Bits, i, got, want[i])
			}
		}
		if _, ok := l.Get(v.Size); ok {
			t.Errorf("%d bits: index %d is out of bounds", v.Bits, v.Size)
		}
		if _, err := inflate(lst, v.Size*uint64(v.Bits)/8-1); err == nil {
			t.Errorf("%d bits: a list longer than allowed was inflated", v.Bits)
		}
	}
}

func TestStatusTokenVectors(t *testing.T) {
	var v struct {
		Key map[string]any `json:"public_jwk"`
		JWT string         `json:"status_list_jwt"`
		CWT string         `json:"status_list_cwt_hex"`
	}
	if err := json.Unmarshal(read(t, "token-status-list/token_vectors.json"), &v); err != nil {
		t.Fatal(err)
	}
	key, err := publicJWK(v.Key)
	if err != nil {
		t.Fatal(err)
	}
	cwt, err := hex.DecodeString(v.CWT)
	if err != nil {
		t.Fatal(err)
	}
	for media, token := range map[string][]byte{MediaJWT: []byte(v.JWT), MediaCWT: cwt} {
		l, err := DecodeStatusList(token, 16)
		if err != nil {
			t.Fatalf("%s: %v", media, err)
		}
		if err := verifySignature(l.alg, key, l.input, l.signature); err != nil {
			t.Errorf("%s: %v", media, err)
		}
		if l.MediaType != media || l.Subject != "https://example.com/statuslists/1" || l.IssuedAt.Unix() != 1686920170 ||
			l.Expires.Unix() != 2291720170 || l.TTL != 43200*time.Second || l.Bits != 1 || !bytes.Equal(l.Image, []byte{0xb9, 0xa3}) {
			t.Errorf("%s: %+v", media, l)
		}
		if _, err := DecodeStatusList(token, 15); media == MediaJWT && err != nil { // 15 entries need two bytes as well
			t.Error(err)
		}
		if _, err := DecodeStatusList(token, 8); err == nil {
			t.Errorf("%s: a list of 16 entries passed a bound of 8", media)
		}
		if err := l.Verify(nil, l.IssuedAt); err == nil {
			t.Errorf("%s: a list without a chain was believed", media)
		}
	}
}

// All SD-JWTs of RFC 9901 and draft-ietf-oauth-sd-jwt-vc-19: signature, disclosures, key binding.
func TestSDJWTVectors(t *testing.T) {
	var v struct {
		Key     map[string]any `json:"issuer_public_jwk"`
		Vectors []struct {
			Source, Section string
			Header          struct{ Typ string }
			Disclosures     int
			KB              bool
			Serialized      string
		}
	}
	if err := json.Unmarshal(read(t, "sd-jwt/spec_vectors.json"), &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Vectors) != 13 {
		t.Fatalf("%d vectors", len(v.Vectors))
	}
	issuer, err := publicJWK(v.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range v.Vectors {
		name := x.Source + " " + x.Section
		s, err := openSDJWT([]byte(x.Serialized), x.Header.Typ, func(joseHeader) (crypto.PublicKey, error) { return issuer, nil })
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(strings.Join(keys(s.Claims), " "), "_sd") {
			t.Errorf("%s: digests are left over", name)
		}
		if x.KB != (s.keyBinding != "") {
			t.Errorf("%s: key binding %v", name, !x.KB)
		}
		if x.KB {
			kb, err := openJWT(s.keyBinding)
			if err != nil {
				t.Fatal(err)
			}
			var c struct {
				Nonce string `json:"nonce"`
				Aud   string `json:"aud"`
				IAT   int64  `json:"iat"`
			}
			if err := json.Unmarshal(kb.payload, &c); err != nil {
				t.Fatal(err)
			}
			at := time.Unix(c.IAT, 0)
			if err := s.VerifyKeyBinding(c.Nonce, c.Aud, at.Add(30*time.Second), time.Minute); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for what, err := range map[string]error{
				"nonce":    s.VerifyKeyBinding("x", c.Aud, at, time.Minute),
				"audience": s.VerifyKeyBinding(c.Nonce, "x", at, time.Minute),
				"age":      s.VerifyKeyBinding(c.Nonce, c.Aud, at.Add(2*time.Minute), time.Minute),
			} {
				if err == nil {
					t.Errorf("%s: key binding with a wrong %s passed", name, what)
				}
			}
		}
		// one disclosure twice, one that belongs nowhere, a broken signature
		parts := strings.Split(x.Serialized, "~")
		for what, bad := range map[string]string{
			"duplicate":    parts[0] + "~" + parts[1] + "~" + parts[1] + "~",
			"unreferenced": parts[0] + "~WyJzYWx0IiwibmFtZSIsMV0~",
			"changed":      strings.Replace(parts[0], ".", ".A", 1) + "~",
			"no tilde":     parts[0],
		} {
			if _, err := openSDJWT([]byte(bad), x.Header.Typ, func(joseHeader) (crypto.PublicKey, error) { return issuer, nil }); err == nil {
				t.Errorf("%s: %s passed", name, what)
			}
		}
		if _, err := VerifySDJWT([]byte(x.Serialized), nil, time.Unix(1683000000, 0)); err == nil {
			t.Errorf("%s: passed without a root", name)
		}
	}
}

func keys(m map[string]any) (names []string) {
	for k := range m {
		names = append(names, k)
	}
	return names
}

func issuerSignedOf(t testing.TB, deviceResponse []byte) []byte {
	t.Helper()
	var r struct {
		Documents []struct {
			IssuerSigned cbor.RawMessage `cbor:"issuerSigned"`
		} `cbor:"documents"`
	}
	if err := cbor.Unmarshal(deviceResponse, &r); err != nil || len(r.Documents) != 1 {
		t.Fatalf("device response: %v", err)
	}
	return r.Documents[0].IssuerSigned
}

func mdocVectors(t testing.TB) map[string][]byte {
	return map[string][]byte{
		"annex-d": issuerSignedOf(t, readHex(t, "mdoc/annex-d/device_response.hex")),
		"isomdl":  readHex(t, "mdoc/isomdl/issuer_signed.hex"),
		"bdr":     read(t, "mdoc/bdr/issuer_signed.cbor"),
		"animo":   issuerSignedOf(t, read(t, "mdoc/animo/device_response.cbor")),
	}
}

// Issuer data of four makers: every digest recomputes, IssuerAuth verifies with the document signer that travels with it.
func TestMDocVectors(t *testing.T) {
	for name, data := range mdocVectors(t) {
		o, err := openMDoc(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		ds, err := x509.ParseCertificate(o.auth.chain[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := o.auth.verify(ds.PublicKey); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(o.doc.Claims) == 0 || o.doc.Hidden < 0 {
			t.Errorf("%s: %d name spaces, %d hidden", name, len(o.doc.Claims), o.doc.Hidden)
		}
		for i := 0; i < len(data); i += 41 { // a flipped bit is refused, or it was in an unprotected header and changes nothing
			bad := bytes.Clone(data)
			bad[i] ^= 1
			changed, err := openMDoc(bad)
			if err != nil || changed.auth.verify(ds.PublicKey) != nil {
				continue
			}
			if !reflect.DeepEqual(changed.doc, o.doc) {
				t.Errorf("%s: a flipped bit at byte %d passed", name, i)
			}
		}
	}
	want := map[string]any{"family_name": "Doe", "issue_date": "2019-10-20", "expiry_date": "2024-10-20", "document_number": "123456789"}
	o, err := openMDoc(mdocVectors(t)["annex-d"])
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range want {
		if got := o.doc.Claims["org.iso.18013.5.1"][k]; got != v {
			t.Errorf("annex D: %s is %v, want %v", k, got, v)
		}
	}
}
