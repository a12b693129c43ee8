package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"sealkeeper/evidence"
)

const enrolURL = "https://ra.example/1.0/sign"

// officeBundle takes enrolled offices, and names ward-office-1 itself.
func officeBundle(t *testing.T) *Bundle {
	t.Helper()
	text := strings.Replace(read(t, "demo.json"), `"clients": [`, `"enrolled": [{"role": "issuance", "channel": "office", "issuer": "https://offices.example", "may": {"kr-resident": ["issue"]}}, {"role": "officer", "may": {}}], "clients": [`, 1)
	b, err := Parse("demo.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// entering is b beside the client that f says.
func entering(b *Bundle, f ClientFacts) *Bundle {
	return b.With(func(id string) (Enrolment, bool) { return f.Enrolment, id == f.Enrolment.ID && !f.Named && !f.Revoked })
}

func enrolledOffice() ClientFacts {
	return ClientFacts{Enrolment: Enrolment{ID: "office-1", Role: "issuance", Channel: "office", Office: "11110", District: "11110", Life: 3600}, Revision: 7, Approved: true, Until: noon.Add(48 * time.Hour), Most: 16}
}

func aToken() Token {
	return Token{KeyID: "token-1", Issuer: "sealkeeper", Audience: enrolURL, ID: base64.RawURLEncoding.EncodeToString(make([]byte, 16)), Root: [32]byte{1}, IssuedAt: noon, Expires: noon.Add(TokenLife)}
}

func TestTokensAreForApprovedClientsAlone(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(*ClientFacts, *Token)
		code  string // empty: allowed; "-": the appliance's own mistake
	}{
		"approved":                          {func(*ClientFacts, *Token) {}, ""},
		"asked again":                       {func(f *ClientFacts, _ *Token) { f.Token = []byte{1} }, ""},
		"in its last second":                {func(f *ClientFacts, _ *Token) { f.Until = noon.Add(time.Second) }, ""},
		"unknown":                           {func(f *ClientFacts, _ *Token) { *f = ClientFacts{} }, "enrolment.unknown"},
		"revoked":                           {func(f *ClientFacts, _ *Token) { f.Revoked, f.Approved = true, false }, "enrolment.revoked"},
		"revoked before it had a key":       {func(f *ClientFacts, _ *Token) { f.Revoked = true }, "enrolment.revoked"},
		"registered":                        {func(f *ClientFacts, _ *Token) { f.Approved = false }, "enrolment.registered"},
		"named by the bundle":               {func(f *ClientFacts, _ *Token) { f.Named = true }, "enrolment.registered"},
		"late":                              {func(f *ClientFacts, _ *Token) { f.Until = noon }, "enrolment.late"},
		"no time":                           {func(f *ClientFacts, _ *Token) { f.Until = time.Time{} }, "enrolment.late"},
		"no such group":                     {func(f *ClientFacts, _ *Token) { f.Enrolment.Channel = "kiosk" }, "enrolment.forbidden"},
		"group of another role":             {func(f *ClientFacts, _ *Token) { f.Enrolment.Role = "desk" }, "enrolment.forbidden"},
		"name of one that the bundle names": {func(f *ClientFacts, _ *Token) { f.Enrolment.ID = "ward-office-1" }, "enrolment.forbidden"},
		"no key":                            {func(_ *ClientFacts, k *Token) { k.KeyID = "" }, "-"},
		"no audience":                       {func(_ *ClientFacts, k *Token) { k.Audience = "" }, "-"},
		"no issuer":                         {func(_ *ClientFacts, k *Token) { k.Issuer = "" }, "-"},
		"no root":                           {func(_ *ClientFacts, k *Token) { k.Root = [32]byte{} }, "-"},
		"id of 120 bits":                    {func(_ *ClientFacts, k *Token) { k.ID = base64.RawURLEncoding.EncodeToString(make([]byte, 15)) }, "-"},
		"id that is no base64url":           {func(_ *ClientFacts, k *Token) { k.ID = strings.Repeat("+", 22) }, "-"},
		"of yesterday":                      {func(_ *ClientFacts, k *Token) { k.IssuedAt = noon.Add(-time.Minute) }, "-"},
		"of tomorrow":                       {func(_ *ClientFacts, k *Token) { k.IssuedAt = noon.Add(time.Second) }, "-"},
		"parts of seconds":                  {func(_ *ClientFacts, k *Token) { k.Expires = k.Expires.Add(-1) }, "-"},
		"more than a day":                   {func(_ *ClientFacts, k *Token) { k.Expires = noon.Add(TokenLife + time.Second) }, "-"},
		"ended":                             {func(_ *ClientFacts, k *Token) { k.Expires = noon }, "-"},
	} {
		t.Run(name, func(t *testing.T) {
			f, k := enrolledOffice(), aToken()
			k.Client, k.SAN = "root", "urn:sealkeeper:client:officer:root" // who makes it has no say
			c.alter(&f, &k)
			a, d := DecideToken(officeBundle(t), f, k, "operator-1", noon)
			switch c.code {
			case "":
				allowed(t, a, d)
				got, ok := a.Token()
				r, registers := a.Registers()
				digest := TokenDigest(k.ID)
				if !ok || got.Client != "office-1" || got.SAN != "urn:sealkeeper:client:issuance:office-1" || got.Expires.After(f.Until) || !a.Allows(PurposeToken) || a.Allows(PurposeClientCA) {
					t.Errorf("%+v", got)
				}
				if !registers || r.Client != "office-1" || r.Revision != 7 || !bytes.Equal(r.Token, digest[:]) || r.Key != nil || r.Named != nil {
					t.Errorf("registers %+v", r)
				}
				if _, cert := a.Cert(); cert {
					t.Error("a token is a certificate too")
				}
			case "-":
				if a != nil || a.Valid() || d.Result == Allowed || d.Result == Denied {
					t.Errorf("%v %q", d.Result, d.Code)
				}
			default:
				denied(t, a, d, c.code)
			}
		})
	}
	if a, _ := DecideToken(nil, enrolledOffice(), aToken(), "operator-1", noon); a != nil {
		t.Error("without a bundle")
	}
}

// proofs make what evidence verified: only it can.
type proofs struct {
	t      *testing.T
	signer *ecdsa.PrivateKey
}

func (p proofs) key() *ecdsa.PrivateKey {
	p.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	return k
}

func spkiOf(t *testing.T, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (p proofs) jws(k *ecdsa.PrivateKey, header string, claims map[string]any) string {
	p.t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		p.t.Fatal(err)
	}
	e := base64.RawURLEncoding
	input := e.EncodeToString([]byte(header)) + "." + e.EncodeToString(body)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
	if err != nil {
		p.t.Fatal(err)
	}
	return input + "." + e.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

func (p proofs) request(k *ecdsa.PrivateKey) []byte {
	p.t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"root.example"}}, k)
	if err != nil {
		p.t.Fatal(err)
	}
	return der
}

func (p proofs) must(k *evidence.ClientKey, err error) *evidence.ClientKey {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	return k
}

func (p proofs) token(client string, k *ecdsa.PrivateKey) *evidence.ClientKey {
	p.t.Helper()
	text := p.jws(p.signer, `{"alg":"ES256","typ":"sealkeeper-enrolment+jwt","kid":"token-1"}`, map[string]any{"iss": "sealkeeper", "aud": enrolURL, "sub": client, "jti": aToken().ID, "iat": noon.Unix(), "nbf": noon.Unix(), "exp": noon.Unix() + 3600})
	return p.must(evidence.Enrolment{Keys: []evidence.TokenKey{{ID: "token-1", SPKI: spkiOf(p.t, p.signer)}}, Issuer: "sealkeeper", Audience: enrolURL, At: noon}.ByToken(text, p.request(k)))
}

func (p proofs) renewal(k *ecdsa.PrivateKey) *evidence.ClientKey {
	p.t.Helper()
	return p.must(evidence.Renewing(spkiOf(p.t, k), noon))
}

func (p proofs) statement(client string, old, next *ecdsa.PrivateKey) *evidence.ClientKey {
	p.t.Helper()
	sum := sha256.Sum256(spkiOf(p.t, next))
	text := p.jws(old, `{"alg":"ES256","typ":"sealkeeper-rekey+jwt"}`, map[string]any{"sub": client, "aud": "https://ra.example/rekey", "key": base64.RawURLEncoding.EncodeToString(sum[:]), "iat": noon.Unix(), "exp": noon.Unix() + 300})
	return p.must(evidence.Rekeying(client, spkiOf(p.t, old), text, p.request(next), "https://ra.example/rekey", noon))
}

func TestCertificatesOfClientsSayWhatWasApproved(t *testing.T) {
	p := proofs{t: t}
	p.signer = p.key()
	own, other := p.key(), p.key()
	digest := TokenDigest(aToken().ID)
	waiting := func(f *ClientFacts) { f.Token = digest[:] }
	active := func(f *ClientFacts) {
		f.Approved, f.Token, f.Key, f.Ends, f.Live = false, digest[:], spkiOf(t, own), noon.Add(time.Hour), 1
	}
	type alter = func(*ClientFacts)
	for name, c := range map[string]struct {
		by    *evidence.ClientKey
		state alter
		alter alter
		code  string // empty: allowed; "-": no key that evidence verified
		burns int
	}{
		"token":                                {p.token("office-1", own), waiting, nil, "", 1},
		"same token, same key":                 {p.token("office-1", own), active, nil, "", 0},
		"same token, another key":              {p.token("office-1", other), active, nil, "enrolment.token_used", 0},
		"token before the newest":              {p.token("office-1", own), waiting, func(f *ClientFacts) { f.Token = make([]byte, 32) }, "enrolment.other_token", 0},
		"token, and none is out":               {p.token("office-1", own), waiting, func(f *ClientFacts) { f.Token = nil }, "enrolment.other_token", 0},
		"token, named by the bundle":           {p.token("ward-office-1", own), waiting, func(f *ClientFacts) { f.Enrolment.ID, f.Named = "ward-office-1", true }, "enrolment.other_token", 0},
		"token, too late":                      {p.token("office-1", own), waiting, func(f *ClientFacts) { f.Until = noon }, "enrolment.late", 0},
		"token, revoked":                       {p.token("office-1", own), waiting, func(f *ClientFacts) { f.Revoked = true }, "enrolment.revoked", 0},
		"token, unknown":                       {p.renewal(own), waiting, func(f *ClientFacts) { *f = ClientFacts{} }, "enrolment.unknown", 0},
		"token of another client":              {p.token("office-2", own), waiting, nil, "-", 0},
		"token, group gone from the bundle":    {p.token("office-1", own), waiting, func(f *ClientFacts) { f.Enrolment.Channel = "kiosk" }, "enrolment.forbidden", 0},
		"renewal":                              {p.renewal(own), active, nil, "", 0},
		"renewal with another key":             {p.renewal(other), active, nil, "enrolment.other_key", 0},
		"renewal before there is a key":        {p.renewal(own), waiting, nil, "enrolment.other_key", 0},
		"renewal, revoked":                     {p.renewal(own), active, func(f *ClientFacts) { f.Revoked = true }, "enrolment.revoked", 0},
		"renewal, held":                        {p.renewal(own), active, func(f *ClientFacts) { f.Held = true }, "enrolment.held", 0},
		"statement, held":                      {p.statement("office-1", own, other), active, func(f *ClientFacts) { f.Held = true }, "enrolment.held", 0},
		"token, held":                          {p.token("office-1", own), active, func(f *ClientFacts) { f.Held = true }, "enrolment.held", 0},
		"renewal after the end":                {p.renewal(own), active, func(f *ClientFacts) { f.Ends = noon }, "enrolment.expired", 0},
		"renewal without end":                  {p.renewal(own), active, func(f *ClientFacts) { f.Live = 16 }, "enrolment.too_many", 0},
		"renewal, name taken by the bundle":    {p.renewal(own), active, func(f *ClientFacts) { f.Enrolment.ID = "ward-office-1" }, "enrolment.forbidden", 0},
		"statement":                            {p.statement("office-1", own, other), active, nil, "", 1},
		"statement of a key that is another's": {p.statement("office-1", other, own), active, nil, "enrolment.other_key", 0},
		"statement before there is a key":      {p.statement("office-1", own, other), waiting, nil, "enrolment.other_key", 0},
		"statement of another client":          {p.statement("office-2", own, other), active, nil, "-", 0},
		"nothing":                              {nil, active, nil, "-", 0},
		"made up":                              {new(evidence.ClientKey), active, nil, "-", 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := enrolledOffice()
			c.state(&f)
			if c.alter != nil {
				c.alter(&f)
			}
			// What a certificate says has no other source than the enrolment: all that came along is written over.
			facts := CertFacts{IssuerPurpose: PurposeClientCA, IssuerNotBefore: noon.Add(-time.Hour), IssuerNotAfter: noon.AddDate(1, 0, 0), Cert: Cert{IssuerKey: "client-ca", CRL: "client-ca", NotBefore: noon, Profile: "officer", Name: "root",
				SPKI: []byte("forged"), Hosts: []string{"root.example"}, URIs: []string{"urn:sealkeeper:client:officer:root"}, Channel: "c", Office: "o", District: "d", Carrier: "k", NotAfter: noon.AddDate(1, 0, 0)}}
			facts.Cert.Serial[0], facts.Cert.Serial[19] = 0x40, 1
			a, d := DecideClientCert(entering(officeBundle(t), f), f, c.by, facts, "ra-1", noon)
			switch c.code {
			case "":
				allowed(t, a, d)
				got, ok := a.Cert()
				r, registers := a.Registers()
				if !ok || got.Profile != "client" || got.Name != "office-1" || len(got.Hosts) != 0 || len(got.URIs) != 1 || got.URIs[0] != "urn:sealkeeper:client:issuance:office-1" || got.Channel != "office" || got.Office != "11110" ||
					got.District != "11110" || got.Carrier != "" || !bytes.Equal(got.SPKI, c.by.SPKI()) || !got.NotAfter.Equal(noon.Add(time.Hour)) {
					t.Errorf("%+v", got)
				}
				if burns := a.Conditions().Burns; !registers || !bytes.Equal(r.Key, c.by.SPKI()) || r.Revision != 7 || len(burns) != c.burns {
					t.Errorf("registers %+v, burns %v", r, burns)
				}
				if !a.Allows(PurposeClientCA) || a.Allows(PurposeToken) || a.Allows(PurposeIACA) {
					t.Error("for another key")
				}
			case "-":
				if a != nil || d.Result == Allowed || d.Result == Denied {
					t.Errorf("%v %q", d.Result, d.Code)
				}
			default:
				denied(t, a, d, c.code)
			}
		})
	}
	f := enrolledOffice()
	active(&f)
	if a, d := DecideClientCert(entering(officeBundle(t), f), f, p.renewal(own), CertFacts{}, "ra-1", noon.Add(time.Second)); a != nil {
		t.Errorf("a key that was verified at another instant: %v", d.Result)
	}
}

// The key of tokens is tested by bytes that are no token: without claims, and none that evidence takes.
func TestSelfTestOfTheTokenKeyIsNoToken(t *testing.T) {
	p := proofs{t: t}
	p.signer = p.key()
	tbs := SelftestBytes(PurposeToken, "ES256")
	if tbs == nil {
		t.Fatal("the key of tokens has no self test")
	}
	sum := sha256.Sum256(tbs)
	r, s, err := ecdsa.Sign(rand.Reader, p.signer, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	text := string(tbs) + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	for _, kid := range []string{"", "token-1"} {
		if k, err := (evidence.Enrolment{Keys: []evidence.TokenKey{{ID: kid, SPKI: spkiOf(t, p.signer)}}, Issuer: "sealkeeper", Audience: enrolURL, At: noon}).ByToken(text, p.request(p.key())); err == nil {
			t.Errorf("it is a token: %+v", k)
		}
	}
	a, d := DecideSelftest(nil, "token-1", PurposeToken, true, time.Time{}, noon)
	allowed(t, a, d)
	if !a.Allows(PurposeToken) || a.Allows(PurposeClientCA) {
		t.Error("it is for another key")
	}
	if _, is := a.Token(); is {
		t.Error("its approval is that of a token")
	}
}
