package ledger

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/policy"
)

const raURL = "https://ra.example/1.0/sign"

// registry is a house whose bundle takes enrolled offices, with keys for certificates and tokens, and approved proposals.
type registry struct {
	*house
	bundle *policy.Bundle
	signer *ecdsa.PrivateKey // of tokens
	made   int
}

func newRegistry(t *testing.T) *registry {
	t.Helper()
	g := &registry{house: newHouse(t)}
	data, err := os.ReadFile(filepath.Join("..", "deploy", "policies", "demo.json"))
	must(t, err)
	data = bytes.Replace(data, []byte(`"clients": [`), []byte(`"enrolled": [{"role": "issuance", "channel": "office", "issuer": "https://offices.example", "may": {"kr-resident": ["issue"]}},
		{"role": "ra", "may": {}}], "clients": [`), 1)
	g.bundle, err = policy.Parse("demo.json", data)
	must(t, err)
	g.bundle = g.bundle.With(func(id string) (policy.Enrolment, bool) {
		e, ok := g.Client(id)
		if !ok {
			return policy.Enrolment{}, false
		}
		return e.Enrolment, true
	})
	g.signer = newKey(t)
	g.key("client-ca", policy.PurposeClientCA)
	g.key("token", policy.PurposeToken)
	return g
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

func spki(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	must(t, err)
	return b
}

// proposal that is open, to be carried out.
func (g *registry) proposal(action string) *Execution {
	g.t.Helper()
	g.made++
	id := fmt.Sprintf("proposal-%d", g.made)
	now := g.clock.Now()
	must(g.t, g.Said(context.Background(), now, ProposalEntry{ID: id, ProposalRecord: ProposalRecord{Action: action, State: ProposalOpen, At: now, Expires: now.Add(time.Hour)}}, "proposal", "kim"))
	return &Execution{ID: id, Action: action, By: []string{"kim", "lee"}}
}

func office2(id string) policy.Enrolment {
	return policy.Enrolment{ID: id, Role: "issuance", Channel: "office", Office: "11110", District: "11110", Life: 3600}
}

func (g *registry) enrol(all ...policy.Enrolment) {
	g.t.Helper()
	must(g.t, g.Enrol(context.Background(), all, g.clock.Now().Add(24*time.Hour), g.proposal("client.enrol")))
}

func (g *registry) facts(id string) policy.ClientFacts {
	e, ok := g.Client(id)
	if !ok {
		return policy.ClientFacts{}
	}
	return e.Facts(g.clock.Now())
}

// token reserves one, and returns it as the appliance would sign it.
func (g *registry) token(id string) (string, error) {
	g.t.Helper()
	now := g.clock.Now()
	jti := make([]byte, 16)
	_, _ = rand.Read(jti)
	a, d := policy.DecideToken(g.bundle, g.facts(id), policy.Token{KeyID: "token", Issuer: "sealkeeper", Audience: raURL, ID: base64.RawURLEncoding.EncodeToString(jti),
		Root: [32]byte{1}, IssuedAt: now.Truncate(time.Second), Expires: now.Truncate(time.Second).Add(time.Hour)}, "operator-1", now)
	if a == nil {
		return "", errors.New(d.Code)
	}
	v, _ := a.Token()
	b64 := base64.RawURLEncoding.EncodeToString
	claims, _ := json.Marshal(map[string]any{"iss": v.Issuer, "aud": v.Audience, "sub": v.Client, "sans": []string{v.SAN}, "jti": v.ID, "nbf": v.IssuedAt.Unix(), "iat": v.IssuedAt.Unix(), "exp": v.Expires.Unix()})
	input := b64([]byte(`{"alg":"ES256","typ":"sealkeeper-enrolment+jwt","kid":"token"}`)) + "." + b64(claims)
	if _, err := g.Reserve(context.Background(), a, []Draft{{KeyID: "token", Purpose: policy.PurposeToken, TBSHash: sha256.Sum256([]byte(input))}}, nil); err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, g.signer, sum[:])
	must(g.t, err)
	return input + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)), nil
}

func (g *registry) byToken(token string, k *ecdsa.PrivateKey) *evidence.ClientKey {
	g.t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "whoever"}}, k)
	must(g.t, err)
	c, err := evidence.Enrolment{Keys: []evidence.TokenKey{{ID: "token", SPKI: spki(g.t, g.signer)}}, Issuer: "sealkeeper", Audience: raURL, At: g.clock.Now()}.ByToken(token, der)
	must(g.t, err)
	return c
}

func (g *registry) approveCert(id string, k *evidence.ClientKey) (*policy.Approval, policy.Decision) {
	now := g.clock.Now()
	f := policy.CertFacts{IssuerPurpose: policy.PurposeClientCA, IssuerNotBefore: now.Add(-time.Hour), IssuerNotAfter: now.AddDate(1, 0, 0), Cert: policy.Cert{IssuerKey: "client-ca", CRL: "client-ca", NotBefore: now.Truncate(time.Second)}}
	_, _ = rand.Read(f.Cert.Serial[:])
	f.Cert.Serial[0] = f.Cert.Serial[0]&0x7f | 0x40
	return policy.DecideClientCert(g.bundle, g.facts(id), k, f, "ra-1", now)
}

func (g *registry) certify(a *policy.Approval) error {
	_, err := g.Reserve(context.Background(), a, []Draft{{KeyID: "client-ca", Purpose: policy.PurposeClientCA, TBSHash: [32]byte{1}}}, nil)
	return err
}

// One approval enrols many; an id is taken for ever; what was approved is there after a restart.
func TestEnrol(t *testing.T) {
	g := newRegistry(t)
	var all []policy.Enrolment
	for i := range 3500 {
		all = append(all, office2(fmt.Sprintf("office-%d", i)))
	}
	g.enrol(all...)
	refused(t, g.Enrol(context.Background(), []policy.Enrolment{office2("office-x"), office2("office-7")}, noon, g.proposal("client.enrol")), "enrolment.taken")
	if _, there := g.Client("office-x"); there {
		t.Error("half of a refused approval was kept")
	}
	bad := office2("office-y")
	bad.Role = "king"
	refused(t, g.Enrol(context.Background(), []policy.Enrolment{bad}, noon, g.proposal("client.enrol")), "enrolment.malformed")
	g.again()
	if e, ok := g.Client("office-3499"); !ok || e.State != ClientApproved || e.Office != "11110" || len(g.Clients()) != 3500 {
		t.Errorf("after a restart: %+v, %d clients", e, len(g.Clients()))
	}
}

// A token registers one key, once: its mark and the certificate's reservation are one commit. The same token for the same key is a retry.
func TestTokenIsBurntWithTheCertificate(t *testing.T) {
	g := newRegistry(t)
	g.enrol(office2("office-1"))
	old, err := g.token("office-1")
	must(t, err)
	token, err := g.token("office-1")
	must(t, err)
	k, thief := newKey(t), newKey(t)
	if _, d := g.approveCert("office-1", g.byToken(old, k)); d.Code != "enrolment.other_token" {
		t.Errorf("an older token: %q", d.Code)
	}
	first, d := g.approveCert("office-1", g.byToken(token, k))
	second, _ := g.approveCert("office-1", g.byToken(token, thief)) // both were judged before either was committed
	if first == nil || second == nil {
		t.Fatal(d.Code, d.Detail)
	}
	must(t, g.certify(first))
	if err := g.certify(second); !errors.Is(err, ErrConflict) {
		t.Errorf("the second use of a token: %v", err)
	}
	g.again()
	e, _ := g.Client("office-1")
	if e.State != ClientActive || !bytes.Equal(e.Key, spki(t, k)) || len(e.Certificates) != 1 {
		t.Fatalf("%+v", e)
	}
	if _, d := g.approveCert("office-1", g.byToken(token, thief)); d.Code != "enrolment.token_used" {
		t.Errorf("a used token for another key: %q", d.Code)
	}
	again, d := g.approveCert("office-1", g.byToken(token, k))
	if again == nil {
		t.Fatalf("a retry after a lost answer: %s", d.Code)
	}
	must(t, g.certify(again))
	if _, err := g.token("office-1"); err == nil || err.Error() != "enrolment.registered" {
		t.Errorf("a token for a registered client: %v", err)
	}
	if by, ok := g.ClientBySerial(e.Certificates[0].Serial); !ok || by.ID != "office-1" {
		t.Error("the client is not found by its certificate's serial number")
	}
}

// A renewal is for the registered key alone; certificates that have not ended are bounded; one that has ended is renewed by nobody.
func TestRenewalKeepsTheKey(t *testing.T) {
	g := newRegistry(t)
	g.enrol(office2("office-1"), office2("office-2"))
	token, err := g.token("office-1")
	must(t, err)
	k := newKey(t)
	a, _ := g.approveCert("office-1", g.byToken(token, k))
	must(t, g.certify(a))
	renew := func(id string, k *ecdsa.PrivateKey) (*policy.Approval, string) {
		p, err := evidence.Renewing(spki(t, k), g.clock.Now())
		must(t, err)
		a, d := g.approveCert(id, p)
		return a, d.Code
	}
	for range MaxClientCertificates - 1 {
		a, code := renew("office-1", k)
		if a == nil {
			t.Fatal(code)
		}
		must(t, g.certify(a))
	}
	for name, want := range map[string]string{"office-1": "enrolment.too_many", "office-2": "enrolment.other_key", "nobody": "enrolment.unknown"} {
		if a, code := renew(name, k); a != nil || code != want {
			t.Errorf("%s: %q, want %q", name, code, want)
		}
	}
	if a, code := renew("office-1", newKey(t)); a != nil || code != "enrolment.other_key" {
		t.Errorf("another key: %q", code)
	}
	g.clock.Advance(2 * time.Hour)
	if a, code := renew("office-1", k); a != nil || code != "enrolment.expired" {
		t.Errorf("after its end: %q", code)
	}
}

// A revoked client is one for ever: nothing is signed for it, a certificate that was approved before included.
func TestRevokeClients(t *testing.T) {
	g := newRegistry(t)
	g.enrol(office2("office-1"), office2("office-2"))
	token, err := g.token("office-1")
	must(t, err)
	a, _ := g.approveCert("office-1", g.byToken(token, newKey(t)))
	n, err := g.RevokeClients(context.Background(), []string{"office-1", "desk-x"}, map[string]string{"desk-x": "desk"}, "broken into", "", g.proposal("client.revoke"))
	if err != nil || n != 2 {
		t.Fatal(n, err)
	}
	if err := g.certify(a); !errors.Is(err, ErrConflict) {
		t.Errorf("a certificate that was approved before: %v", err)
	}
	if n, err := g.RevokeClients(context.Background(), []string{"office-1"}, nil, "again", "ra-1", nil); err != nil || n != 0 {
		t.Errorf("again: %d, %v", n, err)
	}
	_, err = g.RevokeClients(context.Background(), []string{"nobody"}, nil, "x", "ra-1", nil)
	refused(t, err, "enrolment.unknown")
	g.again()
	if _, d := g.approveCert("office-1", g.byToken(token, newKey(t))); d.Code != "enrolment.revoked" {
		t.Errorf("after a restart: %q", d.Code)
	}
	if e, ok := g.Client("desk-x"); !ok || e.State != ClientRevoked || !e.Named {
		t.Errorf("a client of the bundle: %+v", e)
	}
}

// The commit that revokes a client revokes its certificate, and wakes who publishes the lists: they name it at once, and not when somebody looks next.
func TestRevokeClientsRevokesTheirCertificates(t *testing.T) {
	g := newRegistry(t)
	g.enrol(office2("office-1"))
	token, err := g.token("office-1")
	must(t, err)
	a, d := g.approveCert("office-1", g.byToken(token, newKey(t)))
	if a == nil {
		t.Fatal(d.Code, d.Detail)
	}
	g.own(a, d, "client-ca", policy.PurposeClientCA, "DER of it")
	e, _ := g.Client("office-1")
	moved := g.RevocationsMoved()
	_, err = g.RevokeClients(t.Context(), []string{"office-1"}, nil, "closed", "", g.proposal("client.revoke"))
	must(t, err)
	if r, ok := g.RevokedCertificate(e.Certificates[0].Serial); !ok || r.Reason != policy.PrivilegeWithdrawn || r.CRL != "client-ca" {
		t.Errorf("%+v %t", r, ok)
	}
	select {
	case <-moved:
	default:
		t.Error("nobody was woken")
	}
}

// A hold meets a certificate that is being made for the same client: what was judged before the hold, or before it was taken back, is judged again.
func TestHoldMeetsACertificate(t *testing.T) {
	g := newRegistry(t)
	g.enrol(office2("office-1"))
	token, err := g.token("office-1")
	must(t, err)
	k := newKey(t)
	first, d := g.approveCert("office-1", g.byToken(token, k))
	if first == nil {
		t.Fatal(d.Code, d.Detail)
	}
	g.own(first, d, "client-ca", policy.PurposeClientCA, "DER of the first")
	e, _ := g.Client("office-1")
	serial := e.Certificates[0].Serial
	renewing := func() *policy.Approval {
		t.Helper()
		by, err := evidence.Renewing(spki(t, k), g.clock.Now())
		must(t, err)
		a, d := g.approveCert("office-1", by)
		if a == nil {
			t.Fatal(d.Code, d.Detail)
		}
		return a
	}
	late := renewing()
	must(t, g.RevokeCertificates(t.Context(), [][]byte{serial}, policy.CertificateHold, g.proposal("certificate.hold")))
	if err := g.certify(late); !errors.Is(err, ErrConflict) {
		t.Errorf("a certificate that was judged before the hold: %v", err)
	}
	late = renewing() // who judges asks for the hold, which is the authority's to do
	must(t, g.LiftHolds(t.Context(), [][]byte{serial}, g.proposal("certificate.lift")))
	if err := g.certify(late); !errors.Is(err, ErrConflict) {
		t.Errorf("a certificate that was judged before the hold was taken back: %v", err)
	}
	must(t, g.certify(renewing()))
	must(t, g.RevokeCertificates(t.Context(), [][]byte{serial}, policy.CertificateHold, g.proposal("certificate.hold")))
	late = renewing()
	must(t, g.AdoptRevocations(t.Context(), "client-ca", []Revocation{{Serial: serial, CA: "client-ca", CRL: "client-ca", Reason: policy.PrivilegeWithdrawn, At: g.clock.Now()}}))
	if err := g.certify(late); !errors.Is(err, ErrConflict) {
		t.Errorf("a certificate that was judged before what was published of the last one was taken in: %v", err)
	}
	g.again()
	if e, _ := g.Client("office-1"); len(e.Certificates) != 2 {
		t.Errorf("%+v", e)
	}
}
