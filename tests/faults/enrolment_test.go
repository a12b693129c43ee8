package faults

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// enrolling is a board whose bundle takes enrolled offices, with the role of a registration authority.
func enrolling(t *testing.T) *board {
	t.Helper()
	b := boarded(t, func(bundle string) string {
		bundle = strings.Replace(bundle, `{"id": "auditor",`, `{"id": "ra-1", "role": "ra", "may": {}}, {"id": "auditor",`, 1)
		return strings.Replace(bundle, `"clients":`, `"enrolled": [{"role": "issuance", "channel": "office", "issuer": "https://offices.example", "may": {"kr-resident": ["issue"]}}], "clients":`, 1)
	})
	conf, err := os.ReadFile(filepath.Join(b.Dir, "sealkeeper.yaml"))
	must(t, err)
	b.Write("sealkeeper.yaml", string(conf)+"ra_url: https://ra.example:9443\n")
	b.Command(0, "enrol", "--out", filepath.Join(b.Dir, "clients"), "ra-1")
	return b
}

type key struct {
	*ecdsa.PrivateKey
	spki, csr string
}

func newClientKey(t *testing.T) key {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	must(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	must(t, err)
	e := base64.RawURLEncoding.EncodeToString
	return key{k, e(spki), e(csr)}
}

// A client is approved, gets a token, registers its key, renews and is revoked, and at each step the daemon is killed before and after what is durable: a token
// registers one key, whoever died meanwhile, the same key may come again with it, and who is revoked stays so.
func TestEnrolmentSurvivesEveryCrash(t *testing.T) {
	t.Parallel()
	enrolmentSurvives(t)
}

func enrolmentSurvives(t *testing.T) {
	b := enrolling(t)
	b.Launch()
	b.UntilUp()
	lost := func(as, path string, body any) func() {
		return func() {
			if _, answer, err := b.Post(as, path, "", body); err == nil {
				t.Errorf("%s was answered: %s", path, answer)
			}
		}
	}
	restart := func() {
		t.Helper()
		b.Launch()
		b.UntilUp()
	}
	state := func(id string) string {
		t.Helper()
		all, err := b.As("officers").Clients(t.Context())
		must(t, err)
		for _, c := range all.Clients {
			if c.Client == id {
				return c.State
			}
		}
		return "none"
	}
	token := func(id string) string {
		t.Helper()
		a, err := b.As("officers").Token(t.Context(), contract.TokenRequest{Client: id})
		must(t, err)
		return a.Token
	}
	register := func(token string, k key) (contract.CertificateAnswer, error) {
		return b.As("ra-1").Register(t.Context(), contract.RegisterRequest{Token: token, CSR: k.csr})
	}

	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	enrol := &officer.Enrol{Until: until, Reason: "a new office"}
	for i := range 3 {
		enrol.Clients = append(enrol.Clients, policy.Enrolment{ID: fmt.Sprintf("crash-%d", i), Role: "issuance", Channel: "office", Office: "11110", Life: 3600})
	}
	id := b.approved(officer.ClientEnrol, enrol)
	executing := lost("officers", "/v1/officers/executions", contract.ProposalQuery{ID: id})
	b.crash("ledger.execution.before-commit", executing)
	restart()
	if s := state("crash-0"); s != "none" {
		t.Errorf("of an enrolment that was not committed a client is %s", s)
	}
	b.crash("ledger.execution.after-commit", executing)
	restart()
	b.execute(id) // it was executed, once
	if state("crash-0") != "approved" || state("crash-2") != "approved" {
		t.Errorf("after the commit: %s, %s", state("crash-0"), state("crash-2"))
	}

	before := token("crash-0")
	asking := lost("officers", "/v1/clients/tokens", contract.TokenRequest{Client: "crash-0"})
	b.crash("ledger.reserve.token.before-commit", asking)
	restart()
	if _, err := register(before, newClientKey(t)); err != nil { // nothing ended it
		t.Errorf("the token before one that was never made: %v", err)
	}
	before = token("crash-1")
	asking = lost("officers", "/v1/clients/tokens", contract.TokenRequest{Client: "crash-1"})
	b.crash("ledger.reserve.token.after-commit", asking)
	b.crash("ledger.settle.token.before-commit", asking)
	b.crash("ledger.settle.token.after-commit", asking)
	restart()
	if _, err := register(before, newClientKey(t)); client.Code(err) != "enrolment.other_token" {
		t.Errorf("a token older than those whose answers were lost: %v", err)
	}

	good, own, thief := token("crash-1"), newClientKey(t), newClientKey(t)
	registering := lost("ra-1", "/v1/ra/certificates", contract.RegisterRequest{Token: good, CSR: own.csr})
	b.crash("ledger.reserve.cert.before-commit", registering)
	restart()
	if s := state("crash-1"); s != "approved" {
		t.Errorf("a key that was not registered made the client %s", s)
	}
	b.crash("ledger.reserve.cert.after-commit", registering) // burnt, registered, and nothing signed
	restart()
	if _, err := register(good, thief); client.Code(err) != "enrolment.token_used" {
		t.Errorf("another key with a token that was burnt before the crash: %v", err)
	}
	b.crash("ledger.settle.cert.before-commit", registering)
	b.crash("ledger.settle.cert.after-commit", registering)
	restart()
	if _, err := register(good, thief); client.Code(err) != "enrolment.token_used" {
		t.Errorf("another key after the certificate was made: %v", err)
	}
	got, err := register(good, own)
	if err != nil {
		t.Fatalf("the same key again, whose answers were lost: %v", err)
	}

	renewing := lost("ra-1", "/v1/ra/renewals", contract.RenewClientRequest{Client: "crash-1", Key: own.spki})
	for _, point := range []string{"ledger.reserve.cert.before-commit", "ledger.reserve.cert.after-commit", "ledger.settle.cert.before-commit", "ledger.settle.cert.after-commit"} {
		b.crash(point, renewing)
	}
	restart()
	if got, err = b.As("ra-1").RenewClient(t.Context(), contract.RenewClientRequest{Client: "crash-1", Key: own.spki}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.As("ra-1").RenewClient(t.Context(), contract.RenewClientRequest{Client: "crash-1", Key: thief.spki}); client.Code(err) != "enrolment.other_key" {
		t.Errorf("a renewal for another key: %v", err)
	}

	// Another key: until it is registered the old one is the client's, and from then on the new one, whoever died meanwhile. The change is repeated with the same
	// key, since what was lost may be the answer alone.
	first, next := newClientKey(t), newClientKey(t)
	if _, err := register(token("crash-2"), first); err != nil {
		t.Fatal(err)
	}
	changing := func(by, to key) contract.RekeyRequest {
		spki, err := base64.RawURLEncoding.DecodeString(to.spki)
		must(t, err)
		statement, err := client.Rekeying(by.PrivateKey, "crash-2", "https://ra.example:9443/sealkeeper/rekey", spki, time.Now())
		must(t, err)
		return contract.RekeyRequest{Client: "crash-2", Statement: statement, CSR: to.csr}
	}
	no := func(when string, other key) {
		t.Helper()
		if _, err := b.As("ra-1").RenewClient(t.Context(), contract.RenewClientRequest{Client: "crash-2", Key: other.spki}); client.Code(err) != "enrolment.other_key" {
			t.Errorf("%s: a renewal for the other key: %v", when, err)
		}
		if _, err := b.As("ra-1").RekeyClient(t.Context(), changing(other, thief)); client.Code(err) != "evidence.rekey_signature" {
			t.Errorf("%s: the other key signs for a third: %v", when, err)
		}
	}
	owner := func(when string, its, other key) {
		t.Helper()
		no(when, other)
		if _, err := b.As("ra-1").RenewClient(t.Context(), contract.RenewClientRequest{Client: "crash-2", Key: its.spki}); err != nil {
			t.Errorf("%s: a renewal for its key: %v", when, err)
		}
	}
	change := func() { lost("ra-1", "/v1/ra/rekeys", changing(first, next))() }
	b.crash("ledger.reserve.cert.before-commit", change)
	restart()
	owner("a change that was not committed", first, next)
	b.crash("ledger.reserve.cert.after-commit", change)
	restart()
	no("a change that was committed, and nothing signed", first)
	b.crash("ledger.settle.cert.before-commit", change)
	b.crash("ledger.settle.cert.after-commit", change)
	restart()
	last, err := b.As("ra-1").RekeyClient(t.Context(), changing(first, next))
	if err != nil || last.Certificate == "" {
		t.Errorf("the change again, whose answers were lost: %v", err)
	}
	for range ledger.MaxClientCertificates { // whoever has seen its request can ask for what it has, and use up nothing
		if got, err := b.As("ra-1").RekeyClient(t.Context(), contract.RekeyRequest{Client: "crash-2", Statement: "e30.e30.AA", CSR: next.csr}); err != nil || got.Certificate != last.Certificate {
			t.Fatalf("its request in another's hands: %v, another certificate: %t", err, got.Certificate != last.Certificate)
		}
	}
	owner("after the change", next, first)

	// By its own word, and by officers.
	retire := contract.RetireRequest{Serial: serial(t, got.Certificate), Reason: "moved"}
	retiring := lost("ra-1", "/v1/ra/revocations", retire)
	b.crash("ledger.client.before-commit", retiring)
	restart()
	if s := state("crash-1"); s != "active" {
		t.Errorf("a revocation that was not committed made the client %s", s)
	}
	b.crash("ledger.client.after-commit", retiring)
	restart()
	if s := state("crash-1"); s != "revoked" {
		t.Errorf("after a crash a revoked client is %s", s)
	}
	if _, err := b.As("ra-1").RenewClient(t.Context(), contract.RenewClientRequest{Client: "crash-1", Key: own.spki}); client.Code(err) != "enrolment.revoked" {
		t.Errorf("its renewal: %v", err)
	}
	id = b.approved(officer.ClientRevoke, &officer.Dismiss{Clients: []string{"crash-0", "crash-2"}, Reason: "closed"})
	b.crash("ledger.execution.after-commit", lost("officers", "/v1/officers/executions", contract.ProposalQuery{ID: id}))
	restart()
	if state("crash-0") != "revoked" || state("crash-2") != "revoked" {
		t.Errorf("after a crash they are %s and %s", state("crash-0"), state("crash-2"))
	}
	b.Stop()
	b.Check()
}

func serial(t *testing.T, certificate string) string {
	t.Helper()
	der, err := base64.RawURLEncoding.DecodeString(certificate)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return hex.EncodeToString(c.SerialNumber.Bytes())
}
