package appliance

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"sealkeeper/contract"
	"sealkeeper/evidence/statement"
	"sealkeeper/tests/phone"
	"sealkeeper/tests/programme"
)

// Authorities are the evidence authorities of a shipped bundle, with keys that the tests have.
type Authorities struct {
	*programme.Authorities
	t testing.TB
}

// Programme is a shipped bundle with test keys put in and its authorities switched on. bend changes more of it; nil: nothing.
func Programme(t testing.TB, file string, bend func(bundle map[string]any)) ([]byte, *Authorities) {
	t.Helper()
	data, a, err := programme.Load("../../deploy/policies/"+file, bend)
	if err != nil {
		t.Fatal(err)
	}
	return data, &Authorities{a, t}
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
type Case = programme.Case

// Open opens a session for a person and a phone, and makes the phone's part of the request.
func (a *Appliance) Open(by *Authorities, client, method string, p *phone.Phone, subject string) *Case {
	a.t.Helper()
	s, err := a.As(client).Session(context.Background(), contract.SessionRequest{DocumentType: KR, Subject: subject, KeyThumbprint: p.Thumbprint(0), Authorities: by.IDs()})
	if err != nil {
		a.t.Fatalf("opening a session: %v", err)
	}
	return programme.New(client, method, s, p, Provider, Claims())
}

// Good is a good body of a kind of statement for a case, about a person who lives in a district.
func (by *Authorities) Good(c *Case, kind, district string) any {
	by.t.Helper()
	body, err := c.Good(kind, district)
	if err != nil {
		by.t.Fatal(err)
	}
	return body
}

// Say signs a statement for a case. bend changes what it says of its binding; nil: nothing.
func (by *Authorities) Say(c *Case, body any, bend func(*statement.Common)) contract.EvidenceItem {
	by.t.Helper()
	item, err := by.Authorities.Say(c, body, bend)
	if err != nil {
		by.t.Fatal(err)
	}
	return item
}

// Event of a line, by telecom-a, that occurred now.
func (by *Authorities) Event(line string, seq uint64, kind string) contract.EventRequest {
	by.t.Helper()
	e, err := by.Authorities.Event(line, seq, kind, time.Now())
	if err != nil {
		by.t.Fatal(err)
	}
	return e
}

// Asked are the kinds that a method of kr-resident.json asks for.
func Asked(method string) []string { return programme.Asked(method) }

// Case is a good request by a method, for a person who lives where ward-office-1 is.
func (a *Appliance) Case(by *Authorities, client, method string, p *phone.Phone, subject string) *Case {
	a.t.Helper()
	c := a.Open(by, client, method, p, subject)
	for _, kind := range Asked(method) {
		c.Request.Evidence = append(c.Request.Evidence, by.Say(c, by.Good(c, kind, programme.Jongno), nil))
	}
	return c
}

// Pseudonym of a case's person, as the authority of a kind knows it.
func (by *Authorities) Pseudonym(c *Case, kind string) string {
	return c.Session.Pseudonyms[programme.Authority(c.Client, kind)]
}
