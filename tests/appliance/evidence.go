package appliance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
	"sealkeeper/tests/phone"
)

// Authorities are the evidence authorities of a shipped bundle, with keys that the tests have.
type Authorities struct {
	t    testing.TB
	keys map[string]*ecdsa.PrivateKey // by id; the kid is the shipped one
}

// Programme is a shipped bundle with test keys put in and its authorities switched on. bend changes more of it; nil: nothing.
func Programme(t testing.TB, file string, bend func(bundle map[string]any)) ([]byte, *Authorities) {
	t.Helper()
	data, err := os.ReadFile("../../deploy/policies/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var bundle map[string]any
	if err := json.Unmarshal(data, &bundle); err != nil {
		t.Fatal(err)
	}
	a := &Authorities{t: t, keys: map[string]*ecdsa.PrivateKey{}}
	for _, v := range bundle["authorities"].([]any) {
		v := v.(map[string]any)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		b64 := base64.RawURLEncoding.EncodeToString
		a.keys[v["id"].(string)] = key
		v["keys"].([]any)[0].(map[string]any)["jwk"] = map[string]string{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
		delete(v, "off")
	}
	if bend != nil {
		bend(bundle)
	}
	if data, err = json.MarshalIndent(bundle, "", "  "); err != nil {
		t.Fatal(err)
	}
	return data, a
}

// InstallProgramme founds an installation by a shipped bundle.
func InstallProgramme(t testing.TB, file string, bend func(bundle map[string]any)) (*Appliance, *Authorities) {
	t.Helper()
	bundle, authorities := Programme(t, file, bend)
	var b struct {
		Clients []struct {
			ID string `json:"id"`
		} `json:"clients"`
	}
	if err := json.Unmarshal(bundle, &b); err != nil {
		t.Fatal(err)
	}
	var clients []string
	for _, c := range b.Clients {
		clients = append(clients, c.ID)
	}
	a := bare(t)
	if err := foundBy(a.Dir, Configuration(a.Ports[:]...), bundle, clients...); err != nil {
		t.Fatal(err)
	}
	return a, authorities
}

// Case is one person's way to a card: a phone, its session, and the request as it grows.
type Case struct {
	Client  string
	Session contract.SessionAnswer
	Request contract.IssueRequest
}

// Open opens a session for a person and a phone, and makes the phone's part of the request.
func (a *Appliance) Open(by *Authorities, client, method string, p *phone.Phone, subject string) *Case {
	a.t.Helper()
	c := &Case{Client: client}
	r := contract.SessionRequest{DocumentType: KR, Subject: subject, KeyThumbprint: p.Thumbprint(0)}
	for id := range by.keys {
		r.Authorities = append(r.Authorities, id)
	}
	var err error
	if c.Session, err = a.As(client).Session(context.Background(), r); err != nil {
		a.t.Fatalf("opening a session: %v", err)
	}
	now := time.Now()
	c.Request = contract.IssueRequest{DocumentType: KR, Session: c.Session.Session, Method: method, Claims: Claims(),
		Proof: p.Prove(0, "https://"+client+".example", c.Session.Nonce, now, ""), KeyAttestation: p.Attest(Provider, c.Session.Nonce, now)}
	return c
}

// Good is a good body of a kind of statement for a case, about a person who lives in a district.
func (by *Authorities) Good(c *Case, kind, district string) any {
	by.t.Helper()
	now := time.Now()
	from, to := now.Add(-time.Minute).Unix(), now.Add(time.Minute).Unix()
	switch kind {
	case evidence.KindInPerson:
		return evidence.InPerson{Officer: "officer-3", Office: "desk-1", District: "1111051500", Method: "qr", CardSeen: true, NotBefore: &from, NotAfter: &to}
	case evidence.KindRegistryMatch:
		claims := map[string]jsontext.Value{}
		for name, v := range c.Request.Claims {
			b, err := json.Marshal(v)
			if err != nil {
				by.t.Fatal(err)
			}
			claims[name] = b
		}
		var salt [16]byte
		if _, err := rand.Read(salt[:]); err != nil {
			by.t.Fatal(err)
		}
		text, digests, err := statement.Digests(salt, claims)
		if err != nil {
			by.t.Fatal(err)
		}
		return evidence.RegistryMatch{District: district, Salt: text, Attributes: digests, Epoch: 1, CardStatus: "valid", CardExpiry: "2036-01-14"}
	case evidence.KindFaceMatch:
		return evidence.FaceMatch{Level: "high", Liveness: 2, Algorithm: "matcher-1", Reference: "register_photo"}
	case evidence.KindChipRead:
		return evidence.ChipRead{Passive: true, Chip: "chip_authentication", Challenge: statement.Challenge(c.Session.Nonce), PINVerified: true, Card: "card-1", CardExpiry: "2036-01-14"}
	}
	return evidence.LineOwnership{Line: "line-1", Subscriber: "self", LineKind: "personal"}
}

// Authority of the shipped bundle that speaks of a kind through a client.
func Authority(client, kind string) string {
	return map[string]string{evidence.KindInPerson: client, evidence.KindRegistryMatch: "register", evidence.KindFaceMatch: "face-matcher",
		evidence.KindChipRead: "card-reader", evidence.KindLineOwnership: "telecom-a"}[kind]
}

// Say signs a statement for a case. bend changes what it says of its binding; nil: nothing.
func (by *Authorities) Say(c *Case, body any, bend func(*statement.Common)) contract.EvidenceItem {
	by.t.Helper()
	kind := statement.Kind(body)
	id, err := statement.NewID(rand.Reader)
	if err != nil {
		by.t.Fatal(err)
	}
	authority, now := Authority(c.Client, kind), time.Now()
	common := statement.Common{Issuer: authority, Subject: c.Session.Pseudonyms[authority], Session: c.Session.ID, ID: id, IssuedAt: now, Expires: now.Add(5 * time.Minute)}
	if bend != nil {
		bend(&common)
	}
	text, err := statement.Sign(by.keys[authority], authority+"-1", common, body)
	if err != nil {
		by.t.Fatal(err)
	}
	return contract.EvidenceItem{Kind: kind, Token: text}
}

// Asked are the kinds that a method of kr-resident.json asks for.
func Asked(method string) []string {
	return map[string][]string{
		"office_qr":         {evidence.KindInPerson, evidence.KindRegistryMatch, evidence.KindFaceMatch, evidence.KindLineOwnership},
		"ic_chip":           {evidence.KindChipRead, evidence.KindRegistryMatch, evidence.KindFaceMatch, evidence.KindLineOwnership},
		"renewal":           {evidence.KindChipRead, evidence.KindRegistryMatch, evidence.KindFaceMatch, evidence.KindLineOwnership},
		"technical_refresh": {evidence.KindRegistryMatch, evidence.KindLineOwnership},
	}[method]
}

// Case is a good request by a method, for a person who lives where ward-office-1 is.
func (a *Appliance) Case(by *Authorities, client, method string, p *phone.Phone, subject string) *Case {
	a.t.Helper()
	c := a.Open(by, client, method, p, subject)
	for _, kind := range Asked(method) {
		c.Request.Evidence = append(c.Request.Evidence, by.Say(c, by.Good(c, kind, "1111051500"), nil))
	}
	return c
}

// Pseudonym of a case's person, as the authority of a kind knows it.
func (by *Authorities) Pseudonym(c *Case, kind string) string {
	return c.Session.Pseudonyms[Authority(c.Client, kind)]
}
