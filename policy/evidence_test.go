package policy_test

import (
	"crypto/rand"
	"crypto/x509"
	"os"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/evidence"
	"sealkeeper/policy"
	"sealkeeper/tests/phone"
)

var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

const claimsText = `{"family_name":"홍","given_name":"길동","birth_date":"1990-01-01","address":"서울","portrait":"_9j_4A","age_over_19":true,"document_number":"D-1",
	"issue_date":"2026-01-15","expiry_date":"2036-01-14","issuing_country":"KR","issuing_authority":"행정안전부"}`

// The way in is real evidence of a phone, verified for this client, type and instant, and there is no other.
func TestRealEvidenceIsDecidedOn(t *testing.T) {
	data, err := os.ReadFile("../deploy/policies/demo.json")
	if err != nil {
		t.Fatal(err)
	}
	b, err := policy.Parse("demo.json", data)
	if err != nil {
		t.Fatal(err)
	}
	provider, err := phone.NewProvider(noon, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p, err := phone.New(2)
	if err != nil {
		t.Fatal(err)
	}
	client, _ := b.Client("ward-office-1")
	verifier := evidence.NewVerifier(evidence.Trust{WalletProviders: []*x509.Certificate{provider.Anchor()}, NonceKey: [32]byte{1}, NonceLife: time.Minute,
		AttestationAge: time.Hour, Skew: time.Minute, MaxKeys: 8})
	nonce, _ := verifier.Nonce(client.ID, "kr-resident", noon, [16]byte{2})
	v, err := verifier.Verify(evidence.About{Client: client.ID, DocumentType: "kr-resident", Audience: client.Issuer, At: noon},
		evidence.Bundle{Proof: p.Prove(0, client.Issuer, nonce, noon, p.Attest(provider, nonce, noon))})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal([]byte(claimsText), &claims); err != nil {
		t.Fatal(err)
	}
	r := policy.IssueRequest{Client: client.ID, Operation: policy.OpIssue, DocumentType: "kr-resident", Subject: policy.Pseudonym{1}, Claims: claims}

	a, d := b.DecideIssue(v, r, policy.Slot{Epoch: 7}, noon)
	i, ok := a.Issue()
	if !ok || d.Result != policy.Allowed || len(i.Keys) != 2 || a.Conditions().Epoch != 7 || len(a.Conditions().Burns) != 2 {
		t.Fatalf("%v %s %s: %+v", d.Result, d.Code, d.Detail, i)
	}
	for name, alter := range map[string]func(){
		"another instant": func() { a, d = b.DecideIssue(v, r, policy.Slot{}, noon.Add(time.Second)) },
		"another type":    func() { r.DocumentType = "mdl"; a, d = b.DecideIssue(v, r, policy.Slot{}, noon) },
		"another client":  func() { r.Client = "telecom-a"; a, d = b.DecideIssue(v, r, policy.Slot{}, noon) },
		"no evidence":     func() { a, d = b.DecideIssue(nil, r, policy.Slot{}, noon) },
	} {
		if alter(); a != nil || d.Result != policy.Failed || d.Code != "policy.facts" {
			t.Errorf("%s: %v %s", name, d.Result, d.Code)
		}
	}
}
