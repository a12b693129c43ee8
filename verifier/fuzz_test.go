package verifier

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/internal/fuzzing"
)

func FuzzMDoc(f *testing.F) {
	var seeds [][]byte
	for _, v := range mdocVectors(f) {
		seeds = append(seeds, v)
	}
	slices.SortFunc(seeds, bytes.Compare)
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, data []byte) bool {
		o, err := openMDoc(data)
		if err == nil && (o.doc == nil || o.auth == nil || o.doc.Hidden < 0) {
			t.Fatal("opened without content")
		}
		return err == nil
	})
}

// An SD-JWT's payload and, behind the first "~", its disclosures. The issuer's signature is not part of the target: a fuzzer would never
// get behind it.
func FuzzSDJWT(f *testing.F) {
	var v struct {
		Vectors []struct {
			Serialized string
		}
	}
	if err := json.Unmarshal(read(f, "sd-jwt/spec_vectors.json"), &v); err != nil {
		f.Fatal(err)
	}
	var seeds [][]byte
	for _, x := range v.Vectors {
		compact, disclosures, _ := strings.Cut(x.Serialized, "~")
		t, err := openJWT(compact)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, []byte(base64.RawURLEncoding.EncodeToString(t.payload)+"~"+strings.TrimSuffix(disclosures, "~")))
	}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, in []byte) bool {
		encoded, disclosures, _ := strings.Cut(string(in), "~")
		payload, err := base64.RawURLEncoding.DecodeString(encoded)
		var claims map[string]any
		if err != nil || decodeJSON(payload, &claims) != nil {
			return false
		}
		var each []string
		if strings.Count(disclosures, "~") > maxDisclosures {
			return false
		}
		if disclosures != "" {
			each = strings.Split(disclosures, "~")
		}
		s, err := disclose(claims, each)
		if err == nil && (s.Hidden < 0 || s.registered() == nil && s.Claims == nil) {
			t.Fatalf("disclosed without claims: %+v", s)
		}
		return err == nil
	})
}

func FuzzJWT(f *testing.F) {
	var v struct {
		JWT string `json:"status_list_jwt"`
	}
	if err := json.Unmarshal(read(f, "token-status-list/token_vectors.json"), &v); err != nil {
		f.Fatal(err)
	}
	seeds := fuzzing.Strings("eyJhbGciOiJFUzI1NiIsInR5cCI6InN0YXR1c2xpc3Qrand0In0.e30.AA", "..", v.JWT, strings.Repeat(".", 1<<16))
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, compact []byte) bool {
		j, err := openJWT(string(compact))
		if err == nil && verifySignature(j.header.Algorithm, crypto.PublicKey(nil), j.input, j.signature) == nil {
			t.Fatal("verified with no key")
		}
		return err == nil
	})
}

func FuzzStatusList(f *testing.F) {
	var v struct {
		JWT string `json:"status_list_jwt"`
		CWT string `json:"status_list_cwt_hex"`
	}
	if err := json.Unmarshal(read(f, "token-status-list/token_vectors.json"), &v); err != nil {
		f.Fatal(err)
	}
	cwt, _ := hex.DecodeString(v.CWT)
	const most = 1 << 12
	fuzzing.Run(f, fuzzing.Options{}, [][]byte{[]byte(v.JWT), cwt}, func(t *testing.T, data []byte) bool {
		l, err := DecodeStatusList(data, most)
		if err != nil {
			return false
		}
		n := uint64(len(l.Image)) * 8 / uint64(l.Bits)
		if n > most {
			t.Fatalf("%d entries passed a bound of %d", n, most)
		}
		if _, ok := l.Get(n); ok {
			t.Fatal("an index out of bounds has a status")
		}
		return true
	})
}

func FuzzTrust(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	seed := `{"issuer":"https://x.example","as_of":"2026-03-01T12:00:00Z","keys":[{"id":"ds-1","purpose":"mdoc","state":"active","not_before":"2026-03-01T12:00:00Z","not_after":"2027-03-01T12:00:00Z","certificate":"` +
		base64.StdEncoding.EncodeToString(der) + `"}]}`
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ca := func(name string, serial int64, public, signer *ecdsa.PrivateKey, by string) []byte {
		c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true,
			MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
		der, err := x509.CreateCertificate(rand.Reader, c, &x509.Certificate{Subject: pkix.Name{CommonName: by}}, public.Public(), signer)
		if err != nil {
			f.Fatal(err)
		}
		return der
	}
	next, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	first, second, link := ca("one", 1, key, key, "one"), ca("two", 2, next, next, "two"), ca("two", 3, next, key, "one")
	anchor, err := x509.ParseCertificate(first)
	if err != nil {
		f.Fatal(err)
	}
	successor, err := x509.ParseCertificate(second)
	if err != nil {
		f.Fatal(err)
	}
	e := base64.StdEncoding.EncodeToString
	rolled := `{"issuer":"https://x.example","as_of":"2026-03-01T12:00:00Z","keys":[{"id":"iaca-1","purpose":"iaca","state":"deactivated","certificate":"` + e(first) + `"},{"id":"iaca-2","purpose":"iaca","state":"active","certificate":"` +
		e(second) + `","link":"` + e(link) + `"}]}`
	fuzzing.Run(f, fuzzing.Options{}, fuzzing.Strings(seed, strings.ReplaceAll(seed, "active", "compromised"), `{"keys":[]}`, rolled), func(t *testing.T, data []byte) bool {
		b, err := ParseTrust(data)
		if err != nil {
			return false
		}
		if len(b.Roots(nil, now)) > 0 {
			t.Fatal("a bundle brought its own anchor")
		}
		for _, r := range b.Roots([]*x509.Certificate{anchor}, now) {
			if !r.Equal(anchor) && !bytes.Equal(r.RawTBSCertificate, successor.RawTBSCertificate) {
				t.Fatal("a root that nobody vouched for")
			}
		}
		for _, k := range b.Keys {
			if k.State == "compromised" && len(b.Keys) == 1 && b.Believes(k.Certificate, k.Purpose, k.NotBefore) == nil {
				t.Fatal("a compromised key is believed")
			}
		}
		return true
	})
}
