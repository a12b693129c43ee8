// Package programme is a shipped policy bundle brought to life: its evidence authorities are switched on and have keys with which tests, the
// demo and the benchmark make statements, as real authorities would.
package programme

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
	"sealkeeper/tests/phone"
)

// KR is the document type of kr-resident.json.
const KR = "kr-resident"

// Jongno is the district of ward-office-1.
const Jongno = "1111051500"

// Authorities are those of a shipped bundle, with keys that the tests have.
type Authorities struct {
	Keys map[string]*ecdsa.PrivateKey // by id; the kid is the shipped one
}

// Load reads a shipped bundle, gives its authorities keys and switches them on. bend changes more of it; nil: nothing.
func Load(file string, bend func(bundle map[string]any)) ([]byte, *Authorities, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	var bundle map[string]any
	if err := json.Unmarshal(data, &bundle); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	a := &Authorities{Keys: map[string]*ecdsa.PrivateKey{}}
	for _, v := range bundle["authorities"].([]any) {
		v := v.(map[string]any)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			return nil, nil, err
		}
		b64 := base64.RawURLEncoding.EncodeToString
		a.Keys[v["id"].(string)] = key
		v["keys"].([]any)[0].(map[string]any)["jwk"] = map[string]string{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
		delete(v, "off")
	}
	if bend != nil {
		delete(bundle, "tests") // which are about the bundle as it is shipped
		bend(bundle)
	}
	data, err = json.MarshalIndent(bundle, "", "  ")
	return data, a, err
}

// IDs of the authorities.
func (a *Authorities) IDs() (ids []string) {
	for id := range a.Keys {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Case is one person's way to a card: a phone, its session, and the request as it grows.
type Case struct {
	Client  string
	Session contract.SessionAnswer
	Request contract.IssueRequest
}

// New begins a case with the phone's part of the request. The client's issuer is https://CLIENT.example.
func New(client, method string, s contract.SessionAnswer, p *phone.Phone, provider *phone.Provider, claims map[string]any) *Case {
	now := time.Now()
	return &Case{Client: client, Session: s, Request: contract.IssueRequest{DocumentType: KR, Session: s.Session, Method: method, Claims: claims,
		Proof: p.Prove(0, "https://"+client+".example", s.Nonce, now, ""), KeyAttestation: p.Attest(provider, s.Nonce, now)}}
}

// Good is a good body of a kind of statement for a case, about a person who lives in a district.
func (c *Case) Good(kind, district string) (any, error) {
	now := time.Now()
	from, to := now.Add(-time.Minute).Unix(), now.Add(time.Minute).Unix()
	switch kind {
	case evidence.KindInPerson:
		return evidence.InPerson{Officer: "officer-3", Office: "desk-1", District: Jongno, Method: "qr", CardSeen: true, NotBefore: &from, NotAfter: &to}, nil
	case evidence.KindRegistryMatch:
		claims := map[string]jsontext.Value{}
		for name, v := range c.Request.Claims {
			b, err := json.Marshal(v)
			if err != nil {
				return nil, err
			}
			claims[name] = b
		}
		var salt [16]byte
		if _, err := rand.Read(salt[:]); err != nil {
			return nil, err
		}
		text, digests, err := statement.Digests(salt, claims)
		return evidence.RegistryMatch{District: district, Salt: text, Attributes: digests, Epoch: 1, CardStatus: "valid", CardExpiry: "2036-01-14"}, err
	case evidence.KindFaceMatch:
		return evidence.FaceMatch{Level: "high", Liveness: 2, Algorithm: "matcher-1", Reference: "register_photo"}, nil
	case evidence.KindChipRead:
		return evidence.ChipRead{Passive: true, Chip: "chip_authentication", Challenge: statement.Challenge(c.Session.Nonce), PINVerified: true, Card: "card-1", CardExpiry: "2036-01-14"}, nil
	}
	return evidence.LineOwnership{Line: c.Line(), Subscriber: "self", LineKind: "personal"}, nil
}

// Line is telecom-a's own pseudonym of the person's line.
func (c *Case) Line() string { return "line-" + c.Session.Pseudonyms["telecom-a"] }

// Event of a line, by telecom-a. Events of a line are numbered by seq.
func (a *Authorities) Event(line string, seq uint64, kind string, occurred time.Time) (contract.EventRequest, error) {
	id, err := statement.NewID(rand.Reader)
	if err != nil {
		return contract.EventRequest{}, err
	}
	text, err := statement.SignEvent(a.Keys["telecom-a"], "telecom-a-1",
		statement.Event{Issuer: "telecom-a", ID: id, IssuedAt: time.Now(), Line: line, Seq: seq, Kind: kind, OccurredAt: occurred})
	return contract.EventRequest{Event: text}, err
}

// Authority of the shipped bundle that speaks of a kind through a client.
func Authority(client, kind string) string {
	return map[string]string{evidence.KindInPerson: client, evidence.KindRegistryMatch: "register", evidence.KindFaceMatch: "face-matcher",
		evidence.KindChipRead: "card-reader", evidence.KindLineOwnership: "telecom-a"}[kind]
}

// Say signs a statement for a case. bend changes what it says of its binding; nil: nothing.
func (a *Authorities) Say(c *Case, body any, bend func(*statement.Common)) (contract.EvidenceItem, error) {
	kind := statement.Kind(body)
	id, err := statement.NewID(rand.Reader)
	if err != nil {
		return contract.EvidenceItem{}, err
	}
	authority, now := Authority(c.Client, kind), time.Now()
	common := statement.Common{Issuer: authority, Subject: c.Session.Pseudonyms[authority], Session: c.Session.ID, ID: id, IssuedAt: now, Expires: now.Add(5 * time.Minute)}
	if bend != nil {
		bend(&common)
	}
	text, err := statement.Sign(a.Keys[authority], authority+"-1", common, body)
	return contract.EvidenceItem{Kind: kind, Token: text}, err
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

// Left waits for the next window, an hour or a day of UTC, if less is left of this one: budgets and floods that a test fills begin anew with it.
func Left(window, least time.Duration) {
	now := time.Now()
	if next := now.Truncate(window).Add(window); next.Sub(now) < least {
		time.Sleep(time.Until(next) + time.Second)
	}
}
