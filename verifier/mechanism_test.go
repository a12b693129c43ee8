package verifier_test

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"sealkeeper/verifier"
	"sealkeeper/verifier/verifiertest"
)

// A status that is there and can't be read is no missing one: whoever took it for that would accept a revoked card.
func TestStatusOfAnotherMechanismIsRefused(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := verifiertest.NewAuthority(t, now)
	s, roots := a.NewSigner(t, "Test DS", "ES256", now.AddDate(0, -1, 0), now.AddDate(1, 0, 0)), []*x509.Certificate{a.Root}
	whole := map[string]any{"idx": 7, "uri": "https://status.example/1"}
	other := map[string]any{"id": "x", "uri": "https://status.example/ids"}
	for name, c := range map[string]struct {
		claims map[string]any
		want   *verifier.StatusRef
		bad    bool
	}{
		"none":                   {claims: map[string]any{}},
		"a list":                 {claims: map[string]any{"status": map[string]any{"status_list": whole}}, want: &verifier.StatusRef{URI: "https://status.example/1", Index: 7}},
		"a list and another one": {claims: map[string]any{"status": map[string]any{"status_list": whole, "identifier_list": other}}, want: &verifier.StatusRef{URI: "https://status.example/1", Index: 7}},
		"identifier list":        {claims: map[string]any{"status": map[string]any{"identifier_list": other}}, bad: true},
		"null":                   {claims: map[string]any{"status": nil}, bad: true},
		"a text":                 {claims: map[string]any{"status": "valid"}, bad: true},
		"an array":               {claims: map[string]any{"status": []any{}}, bad: true},
		"empty":                  {claims: map[string]any{"status": map[string]any{}}, bad: true},
		"a list that is null":    {claims: map[string]any{"status": map[string]any{"status_list": nil}}, bad: true},
		"a list that is a text":  {claims: map[string]any{"status": map[string]any{"status_list": "x"}}, bad: true},
		"a list without index":   {claims: map[string]any{"status": map[string]any{"status_list": map[string]any{"uri": "https://status.example/1"}}}, bad: true},
		"a list without URI":     {claims: map[string]any{"status": map[string]any{"status_list": map[string]any{"idx": 7}}}, bad: true},
	} {
		check := func(form string, status *verifier.StatusRef, err error) {
			t.Helper()
			switch {
			case (err != nil) != c.bad:
				t.Errorf("%s with %s: %v", form, name, err)
			case err == nil && (status == nil) != (c.want == nil), status != nil && *status != *c.want:
				t.Errorf("%s with %s: status %v, want %v", form, name, status, c.want)
			}
		}
		card, err := verifier.VerifySDJWT(signJWT(t, s, now, c.claims), roots, now)
		if err != nil {
			check("SD-JWT", nil, err)
		} else {
			check("SD-JWT", card.Status, nil)
		}
		doc, err := verifier.VerifyMDoc(signMDoc(t, s, now, c.claims), roots, now)
		if err != nil {
			check("mdoc", nil, err)
		} else {
			check("mdoc", doc.Status, nil)
		}
	}
}

func signJWT(t *testing.T, s *verifiertest.Signer, now time.Time, more map[string]any) []byte {
	part := func(v map[string]any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	claims := map[string]any{"vct": "urn:card", "exp": now.Add(time.Hour).Unix()}
	for k, v := range more {
		claims[k] = v
	}
	input := part(map[string]any{"typ": "dc+sd-jwt", "alg": "ES256", "x5c": [][]byte{s.Leaf.Raw}}) + "." + part(claims)
	return []byte(input + "." + base64.RawURLEncoding.EncodeToString(s.Sign(t, []byte(input))) + "~")
}

func signMDoc(t *testing.T, s *verifiertest.Signer, now time.Time, more map[string]any) []byte {
	encode := func(v any) []byte {
		b, err := cbor.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	day := func(at time.Time) cbor.Tag {
		return cbor.Tag{Number: 0, Content: at.UTC().Format("2006-01-02T15:04:05Z")}
	}
	device := elliptic.P256().Params()
	mso := map[string]any{"version": "1.0", "digestAlgorithm": "SHA-256", "docType": "card", "valueDigests": map[string]any{},
		"deviceKeyInfo": map[string]any{"deviceKey": map[int]any{1: 2, -1: 1, -2: device.Gx.FillBytes(make([]byte, 32)), -3: device.Gy.FillBytes(make([]byte, 32))}},
		"validityInfo":  map[string]any{"signed": day(now), "validFrom": day(now), "validUntil": day(now.Add(time.Hour))}}
	for k, v := range more {
		mso[k] = v
	}
	payload, protected := encode(cbor.Tag{Number: 24, Content: encode(mso)}), encode(map[int]any{1: -7})
	signature := s.Sign(t, encode([]any{"Signature1", protected, []byte{}, payload}))
	return encode(map[string]any{"nameSpaces": map[string]any{}, "issuerAuth": []any{protected, map[int]any{33: s.Leaf.Raw}, payload, signature}})
}
