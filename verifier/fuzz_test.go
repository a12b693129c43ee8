package verifier

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
)

func FuzzMDoc(f *testing.F) {
	for _, v := range mdocVectors(f) {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := openMDoc(data)
		if err == nil && (o.doc == nil || o.auth == nil || o.doc.Hidden < 0) {
			t.Fatal("opened without content")
		}
	})
}

// The issuer's signature is not part of the target: a fuzzer would never get behind it.
func FuzzSDJWT(f *testing.F) {
	var v struct {
		Vectors []struct {
			Serialized string
		}
	}
	if err := json.Unmarshal(read(f, "sd-jwt/spec_vectors.json"), &v); err != nil {
		f.Fatal(err)
	}
	for _, x := range v.Vectors {
		compact, disclosures, _ := strings.Cut(x.Serialized, "~")
		t, err := openJWT(compact)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(t.payload), disclosures)
	}
	f.Fuzz(func(t *testing.T, payload, disclosures string) {
		var claims map[string]any
		if decodeJSON([]byte(payload), &claims) != nil {
			return
		}
		s, err := disclose(claims, strings.Split(disclosures, "~"))
		if err == nil && (s.Hidden < 0 || s.registered() == nil && s.Claims == nil) {
			t.Fatalf("disclosed without claims: %+v", s)
		}
	})
}

func FuzzJWT(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiIsInR5cCI6InN0YXR1c2xpc3Qrand0In0.e30.AA")
	f.Add("..")
	f.Fuzz(func(t *testing.T, compact string) {
		if j, err := openJWT(compact); err == nil && verifySignature(j.header.Algorithm, crypto.PublicKey(nil), j.input, j.signature) == nil {
			t.Fatal("verified with no key")
		}
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
	f.Add([]byte(v.JWT))
	f.Add(cwt)
	const most = 1 << 12
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := DecodeStatusList(data, most)
		if err != nil {
			return
		}
		n := uint64(len(l.Image)) * 8 / uint64(l.Bits)
		if n > most {
			t.Fatalf("%d entries passed a bound of %d", n, most)
		}
		if _, ok := l.Get(n); ok {
			t.Fatal("an index out of bounds has a status")
		}
	})
}
