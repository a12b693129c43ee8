package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/policy"
	"sealkeeper/tests/phone"
	"sealkeeper/tests/programme"
)

// The dearest issue there is: the resident card by the chip of the plastic one, under the shipped kr-resident bundle. The method asks for an
// officer as well, so that every kind of statement there is gets verified: with proof, key attestation and the credential's own check
// before release that makes 8 verifications and one signature in the HSM.
const (
	fullMethod        = "ic_chip"
	fullVerifications = 2 + 5 + 1
)

var fullKinds = []string{evidence.KindChipRead, evidence.KindInPerson, evidence.KindRegistryMatch, evidence.KindFaceMatch, evidence.KindLineOwnership}

// residents is the shipped bundle with that method, and with budgets that a benchmark does not use up. They are charged all the same.
func residents() ([]byte, *programme.Authorities, error) {
	return programme.Load("deploy/policies/kr-resident.json", func(b map[string]any) {
		method := b["types"].(map[string]any)[documentType].(map[string]any)["methods"].(map[string]any)[fullMethod].(map[string]any)
		method["statements"].(map[string]any)[evidence.KindInPerson] = map[string]any{"max_age": "10m", "methods": []string{"qr"}, "card_seen": true}
		for _, v := range b["budgets"].([]any) {
			v := v.(map[string]any)
			for _, window := range []string{"hour", "day"} {
				if v[window] != nil {
					v[window] = 100_000_000
				}
			}
		}
	})
}

// fullRequest is a case with all its statements.
func fullRequest(by *programme.Authorities, formats []string, n int, s contract.SessionAnswer, p *phone.Phone, provider *phone.Provider) (contract.IssueRequest, error) {
	c := programme.New("ward-office-1", fullMethod, s, p, provider, claims(n))
	c.Request.Formats = formats
	for _, kind := range fullKinds {
		body, err := c.Good(kind, programme.Jongno)
		if err != nil {
			return c.Request, err
		}
		if officer, ok := body.(evidence.InPerson); ok { // a city's offices: budgets are counted by each
			until := time.Now().Add(10 * time.Minute).Unix()
			officer.Officer, officer.Office, officer.NotAfter = fmt.Sprintf("officer-%d", n%400), fmt.Sprintf("desk-%d", n%40), &until
			body = officer
		}
		item, err := by.Say(c, body, nil)
		if err != nil {
			return c.Request, err
		}
		c.Request.Evidence = append(c.Request.Evidence, item)
	}
	return c.Request, nil
}

// prepareFull makes requests with sessions that were opened before.
func (a *appliance) prepareFull(ctx context.Context, formats []string, n int) (ready, error) {
	phones := make([]*phone.Phone, n)
	ask := make([][]byte, n)
	out := ready{make([][]byte, n), make([]string, n)}
	first := a.serial
	a.serial += n
	for i := range ask {
		var err error
		if phones[i], err = phone.New(1); err != nil {
			return out, err
		}
		out.subjects[i] = fmt.Sprintf("900101-%07d", first+i)
		ask[i] = request("/v1/sessions", contract.SessionRequest{DocumentType: documentType, Subject: out.subjects[i], KeyThumbprint: phones[i].Thumbprint(0), Authorities: a.by.IDs()})
	}
	sessions := make([]contract.SessionAnswer, n)
	if _, err := drive(ctx, a.tls["ward-office-1"], a.ports[0], 8, ask, nothing, func(i int, body []byte) error { return json.Unmarshal(body, &sessions[i]) }); err != nil {
		return out, fmt.Errorf("opening sessions: %w", err)
	}
	failed := make([]error, n)
	var all sync.WaitGroup
	for part := range runtime.NumCPU() {
		all.Go(func() {
			for i := part; i < n && ctx.Err() == nil; i += runtime.NumCPU() {
				var r contract.IssueRequest
				r, failed[i] = fullRequest(a.by, formats, first+i, sessions[i], phones[i], a.provider)
				out.requests[i] = request("/v1/credentials", r)
			}
		})
	}
	all.Wait()
	return out, errors.Join(append(failed, ctx.Err())...)
}

// installResidents founds an installation by the shipped bundle.
func installResidents(ctx context.Context, dir, bin string) (*appliance, error) {
	bundle, by, err := residents()
	if err != nil {
		return nil, err
	}
	a, err := install(ctx, dir, bin, founding{bundle: bundle, clients: callers})
	if err != nil {
		return nil, err
	}
	a.by = by
	return a, nil
}

// policyEval is the CPU µs of one decision about such a request: methods, phases, budgets, claims against the register's digests, rules.
func policyEval() (float64, error) {
	data, by, err := residents()
	if err != nil {
		return 0, err
	}
	b, err := policy.Parse("kr-resident.json", data)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	provider, err := phone.NewProvider(now, rand.Reader)
	if err != nil {
		return 0, err
	}
	p, err := phone.New(1)
	if err != nil {
		return 0, err
	}
	info, _ := b.Client("ward-office-1")
	v := evidence.NewVerifier(evidence.Trust{WalletProviders: []*x509.Certificate{provider.Anchor()}, NonceKey: [32]byte{1}, SessionKey: [32]byte{2}, PairwiseKey: [32]byte{3},
		Authorities: b.Authorities(), NonceLife: 15 * time.Minute, AttestationAge: time.Hour, Skew: time.Minute, MaxKeys: 1})
	subject := policy.Pseudonym{4}
	thumbprint, _ := evidence.Thumbprint(p.Thumbprint(0))
	nonce, _ := v.Nonce("ward-office-1", documentType, now, [16]byte{5})
	text, _, err := v.Seal(evidence.NewSession{Client: "ward-office-1", DocumentType: documentType, Subject: subject, Thumbprint: thumbprint, Nonce: nonce}, now, [16]byte{6})
	if err != nil {
		return 0, err
	}
	session, err := v.Open("ward-office-1", documentType, text)
	if err != nil {
		return 0, err
	}
	answer := contract.SessionAnswer{Session: text, ID: session.ID(), Nonce: nonce, Pseudonyms: map[string]string{}}
	for _, id := range by.IDs() {
		answer.Pseudonyms[id] = v.Pairwise(id, subject)
	}
	r, err := fullRequest(by, whole.formats, 1, answer, p, provider)
	if err != nil {
		return 0, err
	}
	items := make([]evidence.Item, len(r.Evidence))
	for i, e := range r.Evidence {
		items[i] = evidence.Item{Kind: e.Kind, Token: e.Token}
	}
	at := time.Now()
	verified, err := v.Verify(evidence.About{Client: "ward-office-1", DocumentType: documentType, Audience: info.Issuer, At: at, Session: session},
		evidence.Bundle{Proof: r.Proof, KeyAttestation: r.KeyAttestation, Items: items})
	if err != nil {
		return 0, err
	}
	q := policy.IssueRequest{Client: "ward-office-1", Operation: policy.OpIssue, DocumentType: documentType, Subject: subject, Claims: r.Claims, Method: fullMethod, Formats: []policy.Format{policy.SDJWT}}
	return thread(5000, func() error {
		if approval, d := b.DecideIssue(verified, q, policy.Slot{}, at); approval == nil {
			return fmt.Errorf("the benchmark's request is %s: %s %s", d.Result, d.Code, d.Detail)
		}
		return nil
	})
}
