package wire_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/policy"
	"sealkeeper/signer/wire"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func jws(header, payload string) []byte { return []byte(b64(header) + "." + b64(payload)) }

func sig(parts ...any) []byte {
	e, _ := cbor.CoreDetEncOptions().EncMode()
	b, err := e.Marshal(parts)
	if err != nil {
		panic(err)
	}
	return b
}

func enc(v any) []byte {
	e, _ := cbor.CoreDetEncOptions().EncMode()
	b, err := e.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

var (
	mso     = append([]byte{0xd8, 24}, enc(enc(map[string]any{"version": "1.0"}))...)
	es256   = []byte{0xa1, 0x01, 0x26}
	listHdr = enc(map[int]any{1: -7, 16: "application/statuslist+cwt", 33: []byte{1}})
	claims  = enc(map[int]any{2: "https://x"})
	alg256  = []byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}
	name    = []byte{0x30, 0x00}
	tbsCert = der([]byte{0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x01, 0x07}, alg256, name)
	tbsCRL  = der([]byte{0x02, 0x01, 0x01}, alg256, name)
)

func der(parts ...[]byte) []byte {
	b := bytes.Join(parts, nil)
	return append([]byte{0x30, byte(len(b))}, b...)
}

func TestCheckPrefix(t *testing.T) {
	for name, c := range map[string]struct {
		purpose, alg string
		tbs          []byte
		ok           bool
	}{
		"MSO":                                {"mdoc", "ES256", sig("Signature1", es256, []byte{}, mso), true},
		"MSO, ES384":                         {"mdoc", "ES384", sig("Signature1", []byte{0xa1, 0x01, 0x38, 0x22}, []byte{}, mso), true},
		"MSO, EdDSA":                         {"mdoc", "EdDSA", sig("Signature1", []byte{0xa1, 0x01, 0x27}, []byte{}, mso), true},
		"MSO, alg of another key":            {"mdoc", "ES384", sig("Signature1", es256, []byte{}, mso), false},
		"MSO with more protected":            {"mdoc", "ES256", sig("Signature1", enc(map[int]any{1: -7, 4: []byte{1}}), []byte{}, mso), false},
		"MSO with external_aad":              {"mdoc", "ES256", sig("Signature1", es256, []byte{1}, mso), false},
		"MSO with null external_aad":         {"mdoc", "ES256", sig("Signature1", es256, nil, mso), false},
		"COSE_Sign context":                  {"mdoc", "ES256", sig("Signature", es256, []byte{}, mso), false},
		"five parts":                         {"mdoc", "ES256", sig("Signature1", es256, []byte{}, mso, mso), false},
		"trailing byte":                      {"mdoc", "ES256", append(sig("Signature1", es256, []byte{}, mso), 0), false},
		"long form length":                   {"mdoc", "ES256", bytes.Replace(sig("Signature1", es256, []byte{}, mso), []byte{0x43, 0xa1}, []byte{0x58, 3, 0xa1}, 1), false},
		"payload without tag 24":             {"mdoc", "ES256", sig("Signature1", es256, []byte{}, claims), false},
		"tag 24 of an array":                 {"mdoc", "ES256", sig("Signature1", es256, []byte{}, []byte{0xd8, 24, 0x41, 0x80}), false},
		"tag 24 of array of ints":            {"mdoc", "ES256", sig("Signature1", es256, []byte{}, []byte{0xd8, 24, 0x81, 0x18, 0xa0}), false},
		"list CWT for an mdoc key":           {"mdoc", "ES256", sig("Signature1", listHdr, []byte{}, claims), false},
		"list CWT":                           {"status-list", "ES256", sig("Signature1", listHdr, []byte{}, claims), true},
		"list CWT, alg of another key":       {"status-list", "EdDSA", sig("Signature1", listHdr, []byte{}, claims), false},
		"identifier list CWT":                {"status-list", "ES256", sig("Signature1", enc(map[int]any{1: -7, 16: "application/identifierlist+cwt"}), []byte{}, claims), false},
		"list CWT without typ":               {"status-list", "ES256", sig("Signature1", es256, []byte{}, claims), false},
		"list CWT with crit":                 {"status-list", "ES256", sig("Signature1", enc(map[int]any{1: -7, 2: []int{99}, 16: "application/statuslist+cwt"}), []byte{}, claims), false},
		"MSO for a list key":                 {"status-list", "ES256", sig("Signature1", es256, []byte{}, mso), false},
		"list JWT":                           {"status-list", "ES256", jws(`{"alg":"ES256","typ":"statuslist+jwt","x5c":["AA"]}`, `{"sub":1}`), true},
		"SD-JWT for a list key":              {"status-list", "ES256", jws(`{"alg":"ES256","typ":"dc+sd-jwt"}`, `{}`), false},
		"one-time token":                     {"token", "ES256", jws(`{"alg":"ES256","typ":"sealkeeper-enrolment+jwt","kid":"token-1"}`, `{}`), true},
		"JWT for a token key":                {"token", "ES256", jws(`{"alg":"ES256","typ":"JWT","kid":"token-1"}`, `{}`), false},
		"one-time token for a list key":      {"status-list", "ES256", jws(`{"alg":"ES256","typ":"sealkeeper-enrolment+jwt"}`, `{}`), false},
		"SD-JWT":                             {"sd-jwt", "ES256", jws(`{"alg":"ES256","kid":"k","typ":"dc+sd-jwt","x5c":["AA"]}`, `{}`), true},
		"SD-JWT, EdDSA":                      {"sd-jwt", "EdDSA", jws(`{"alg":"EdDSA","typ":"dc+sd-jwt"}`, `{}`), true},
		"SD-JWT, alg of another key":         {"sd-jwt", "ES256", jws(`{"alg":"ES384","typ":"dc+sd-jwt"}`, `{}`), false},
		"list JWT for an SD-JWT key":         {"sd-jwt", "ES256", jws(`{"alg":"ES256","typ":"statuslist+jwt"}`, `{}`), false},
		"access token typ":                   {"sd-jwt", "ES256", jws(`{"alg":"ES256","typ":"at+jwt"}`, `{}`), false},
		"no typ":                             {"sd-jwt", "ES256", jws(`{"alg":"ES256"}`, `{}`), false},
		"typ in capitals":                    {"sd-jwt", "ES256", jws(`{"alg":"ES256","typ":"DC+SD-JWT"}`, `{}`), false},
		"typ twice":                          {"sd-jwt", "ES256", jws(`{"alg":"ES256","typ":"dc+sd-jwt","typ":"dc+sd-jwt"}`, `{}`), false},
		"crit":                               {"sd-jwt", "ES256", jws(`{"alg":"ES256","b64":false,"crit":["b64"],"typ":"dc+sd-jwt"}`, `{}`), false},
		"payload no object":                  {"sd-jwt", "ES256", jws(`{"alg":"ES256","typ":"dc+sd-jwt"}`, `[]`), false},
		"empty payload":                      {"sd-jwt", "ES256", jws(`{"alg":"ES256","typ":"dc+sd-jwt"}`, ``), false},
		"three parts":                        {"sd-jwt", "ES256", append(jws(`{"alg":"ES256","typ":"dc+sd-jwt"}`, `{}`), ".AA"...), false},
		"line break":                         {"sd-jwt", "ES256", append(jws(`{"alg":"ES256","typ":"dc+sd-jwt"}`, `{}`), '\n'), false},
		"no dot":                             {"sd-jwt", "ES256", []byte(b64(`{"alg":"ES256","typ":"dc+sd-jwt"}`)), false},
		"TBSCertificate":                     {"iaca", "ES256", tbsCert, true},
		"TBSCertList":                        {"iaca", "ES256", tbsCRL, true},
		"TBSCertificate, other alg":          {"iaca", "ES384", tbsCert, false},
		"TBSCertList, other alg":             {"iaca", "EdDSA", tbsCRL, false},
		"TBSCertificate and a byte":          {"iaca", "ES256", append(bytes.Clone(tbsCert), 0), false},
		"v1 certificate":                     {"iaca", "ES256", der([]byte{0x02, 0x01, 0x07}, alg256, name), false},
		"PKCS#10 request":                    {"iaca", "ES256", der([]byte{0x02, 0x01, 0x00}, name), false},
		"client TBSCertificate":              {"client-ca", "ES256", tbsCert, true},
		"TBSCertList by the client CA":       {"client-ca", "ES256", tbsCRL, true},
		"SD-JWT for a CA key":                {"iaca", "ES256", jws(`{"alg":"ES256","typ":"dc+sd-jwt"}`, `{}`), false},
		"a bare digest":                      {"mdoc", "ES256", make([]byte, 32), false},
		"nothing":                            {"status-list", "ES256", nil, false},
		"unknown purpose":                    {"", "ES256", tbsCert, false},
		"unknown algorithm":                  {"iaca", "RS256", tbsCert, false},
		"header with base64 of another tail": {"sd-jwt", "ES256", badTail(), false},
	} {
		err := wire.CheckPrefix(c.purpose, c.alg, c.tbs)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// badTail is a header whose last base64url character has bits that encode nothing.
func badTail() []byte {
	h := b64(`{"alg":"ES256","typ":"dc+sd-jwt"} `) // 34 bytes: the last character carries 4 spare bits
	last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", h[len(h)-1])
	return []byte(h[:len(h)-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last+1]) + "." + b64("{}"))
}

func TestSelftestBytesPassTheirOwnPurposeOnly(t *testing.T) {
	purposes := []policy.Purpose{policy.PurposeMDoc, policy.PurposeSDJWT, policy.PurposeList, policy.PurposeIACA, policy.PurposeClientCA, policy.PurposeToken}
	algs := []string{wire.ES256, wire.ES384, wire.EdDSA}
	for _, made := range purposes {
		for _, alg := range algs {
			b := policy.SelftestBytes(made, alg)
			if (b == nil) != (made == policy.PurposeIACA || made == policy.PurposeClientCA) {
				t.Errorf("%s: self test %q", made, b)
			}
			for _, p := range purposes {
				for _, a := range algs {
					if err := wire.CheckPrefix(string(p), a, b); (err == nil) != (b != nil && p == made && a == alg) {
						t.Errorf("self test of %s %s with a key for %s %s: %v", made, alg, p, a, err)
					}
				}
			}
		}
	}
}

// No bytes pass for two purposes or two algorithms, except that a client CA's certificate is also one for an IACA key.
func FuzzCheckPrefix(f *testing.F) {
	seeds := [][]byte{sig("Signature1", es256, []byte{}, mso), sig("Signature1", listHdr, []byte{}, claims), tbsCert, tbsCRL,
		jws(`{"alg":"ES256","typ":"dc+sd-jwt"}`, `{}`), jws(`{"alg":"EdDSA","typ":"statuslist+jwt"}`, `{}`), badTail(), nil}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, tbs []byte) bool {
		var passed []string
		for _, p := range []string{"mdoc", "sd-jwt", "status-list", "iaca", "client-ca"} {
			for _, a := range []string{wire.ES256, wire.ES384, wire.EdDSA} {
				if wire.CheckPrefix(p, a, tbs) == nil {
					passed = append(passed, p+" "+a)
				}
			}
		}
		certificate := len(passed) == 2 && strings.HasPrefix(passed[0], "iaca ") && strings.HasPrefix(passed[1], "client-ca ")
		if len(passed) > 1 && !certificate {
			t.Fatalf("%x passes for %q", tbs, passed)
		}
		return len(passed) > 0
	})
}

// A header that was accepted is accepted again, for what it was accepted for alone.
func TestAcceptedHeaderIsOfOnePurpose(t *testing.T) {
	head := `{"alg":"ES256","typ":"dc+sd-jwt","x5c":["AA"]}`
	good := jws(head, `{"iss":"x"}`)
	for range 2 {
		if err := wire.CheckPrefix("sd-jwt", "ES256", good); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"another purpose":   wire.CheckPrefix("status-list", "ES256", good),
			"another algorithm": wire.CheckPrefix("sd-jwt", "ES384", good),
			"one byte more":     wire.CheckPrefix("sd-jwt", "ES256", jws(head+" ,", `{"iss":"x"}`)),
			"another typ":       wire.CheckPrefix("sd-jwt", "ES256", jws(strings.Replace(head, "dc+sd", "dc+sx", 1), `{"iss":"x"}`)),
			"another payload":   wire.CheckPrefix("sd-jwt", "ES256", jws(head, `["iss"]`)),
			"no alphabet":       wire.CheckPrefix("sd-jwt", "ES256", append(bytes.Clone(good), '+', 'A', 'A', 'A')),
		} {
			if err == nil {
				t.Errorf("%s: accepted", what)
			}
		}
	}
}
