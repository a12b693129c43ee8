package scenario

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// behind opens the ledger of a daemon that is stopped, for what has no command.
func (a *appliance) behind(f func(l *ledger.Ledger) error) {
	a.t.Helper()
	l, err := ledger.Open(a.t.Context(), ledger.Options{Path: filepath.Join(a.Dir, "data", "ledger.db"), HighWater: filepath.Join(a.Dir, "witness", "high-water.json"),
		Publish: filepath.Join(a.Dir, "data", "publish"), BaseURL: "https://x.example", ListSize: 1024})
	if err == nil {
		err = f(l)
	}
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

// crl is what is published under a name.
func (a *appliance) crl(name string) *x509.RevocationList {
	a.t.Helper()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got := a.look(a.t, "GET", "/crl/"+name+".crl")
		if got.status == 200 {
			list, err := x509.ParseRevocationList(got.body)
			if err != nil {
				a.t.Fatal(err)
			}
			return list
		}
		if time.Now().After(until) {
			a.t.Fatalf("CRL %s: %d\n%s", name, got.status, a.Log.String())
		}
	}
}

// eventuallyCRL waits for a list that somebody likes.
func (a *appliance) eventuallyCRL(name string, like func(l *x509.RevocationList) bool) *x509.RevocationList {
	a.t.Helper()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		l := a.crl(name)
		if like(l) {
			return l
		}
		if time.Now().After(until) {
			a.t.Fatalf("CRL %s number %s has %d entries\n%s", name, l.Number, len(l.RevokedCertificateEntries), a.Log.String())
		}
	}
}

func (a *appliance) serialOf(name string) []byte {
	a.t.Helper()
	data, err := os.ReadFile(filepath.Join(a.Dir, name))
	if err != nil {
		a.t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		a.t.Fatal(err)
	}
	return c.SerialNumber.FillBytes(make([]byte, 20))
}

// What is revoked is in the next list of its CA, at once; a hold that is lifted is not any more; OpenSSL agrees. A ledger that is put back from
// before is fenced by the published numbers, also if nothing but the lists themselves is left of them; when the fence is lifted numbers have
// jumped, and what was revoked in the lost part stays so.
func TestRevokedCertificatesAreListed(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	first, clients := a.crl("iaca"), a.crl("client-ca")
	a.Stop()
	old, err := os.ReadFile(filepath.Join(a.Dir, "data", "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(t.TempDir(), "tokens") // its mark would speak against the ledger, too
	copied := func(from, to string) {
		t.Helper()
		if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	copied(filepath.Join(a.Dir, "data", "tokens"), tokens)
	ds := a.serialOf("data/publish/certificates/ds.pem")
	desk, carrier := a.serialOf("clients/loss-desk/cert.pem"), a.serialOf("clients/telecom-a/cert.pem")
	a.behind(func(l *ledger.Ledger) error {
		for reason, serial := range map[policy.RevocationReason][]byte{policy.KeyCompromise: ds, policy.Superseded: desk, policy.CertificateHold: carrier} {
			if err := l.RevokeCertificates(t.Context(), [][]byte{serial}, reason, nil); err != nil {
				return err
			}
		}
		return nil
	})
	a.Launch() // with a signer's certificate revoked, no mdoc can be issued
	a.UntilUp()
	// The signer's key is active as before, and signs nothing more: status says what to do.
	if s := a.Operations(); s.Ready || !slices.ContainsFunc(s.Conditions, func(c contract.Condition) bool {
		return c.Name == "key-use-ending" && c.Severity == "critical" && strings.Contains(c.Do, "key.compromise key=ds-1")
	}) {
		t.Errorf("ready: %t, %+v", s.Ready, s.Conditions)
	}
	r, err := a.TryRequest(newPhone(t, 1), "revoked-signer")
	if err == nil {
		_, err = a.As("ward-office-1").Issue(t.Context(), client.NewKey(), r)
	}
	if client.Code(err) != "key.missing" {
		t.Errorf("issued by a signer whose certificate is revoked: %v", err)
	}
	second := a.eventuallyCRL("iaca", func(l *x509.RevocationList) bool { return len(l.RevokedCertificateEntries) == 1 })
	if e := second.RevokedCertificateEntries[0]; second.Number.Cmp(first.Number) <= 0 || len(e.Extensions) != 0 || !bytes.Equal(e.SerialNumber.FillBytes(make([]byte, 20)), ds) {
		t.Errorf("number %s after %s, entry %+v", second.Number, first.Number, e)
	}
	reasons := map[string]int{}
	for _, e := range a.eventuallyCRL("client-ca", func(l *x509.RevocationList) bool { return len(l.RevokedCertificateEntries) == 2 }).RevokedCertificateEntries {
		reasons[string(e.SerialNumber.FillBytes(make([]byte, 20)))] = e.ReasonCode
	}
	if reasons[string(desk)] != 4 || reasons[string(carrier)] != 6 {
		t.Errorf("reasons %v", reasons)
	}
	verify := func(want string) {
		t.Helper()
		dir := t.TempDir()
		for name, der := range map[string][]byte{"iaca": a.crl("iaca").Raw, "client-ca": a.crl("client-ca").Raw} {
			if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var said []string
		for _, c := range [][2]string{{"iaca", "data/publish/certificates/ds.pem"}, {"iaca", "data/publish/certificates/status-signer.pem"}, {"client-ca", "clients/loss-desk/cert.pem"},
			{"client-ca", "clients/telecom-a/cert.pem"}, {"client-ca", "clients/ward-office-1/cert.pem"}, {"client-ca", "data/tls/server.pem"}} {
			out, err := exec.Command("openssl", "verify", "-x509_strict", "-crl_check", "-CRLfile", filepath.Join(dir, c[0]), "-CAfile", filepath.Join(a.Dir, "data/publish/certificates", c[0]+".pem"),
				filepath.Join(a.Dir, c[1])).CombinedOutput()
			switch {
			case err == nil:
				said = append(said, "OK")
			case bytes.Contains(out, []byte("error 23")):
				said = append(said, "revoked")
			default:
				t.Errorf("%s: %s", c[1], out)
			}
		}
		if got := strings.Join(said, " "); got != want {
			t.Errorf("OpenSSL says %s, want %s", got, want)
		}
	}
	verify("revoked OK revoked revoked OK OK")
	a.Stop()
	a.Check()
	a.behind(func(l *ledger.Ledger) error { return l.LiftHolds(t.Context(), [][]byte{carrier}, nil) })
	a.Launch()
	a.UntilUp()
	last := a.eventuallyCRL("client-ca", func(l *x509.RevocationList) bool { return len(l.RevokedCertificateEntries) == 1 })
	verify("revoked OK revoked OK OK OK")
	a.Stop()
	a.Check()

	// The old ledger again, and nothing that speaks against it but the published lists.
	for _, gone := range []string{"data/ledger.db", "data/ledger.db-wal", "data/ledger.db-shm", "witness/high-water.json", "data/publish/crl/iaca.json", "data/publish/crl/client-ca.json"} {
		if err := os.Remove(filepath.Join(a.Dir, gone)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	for _, gone := range []string{"data/publish/status-lists", "data/tokens"} {
		if err := os.RemoveAll(filepath.Join(a.Dir, gone)); err != nil {
			t.Fatal(err)
		}
	}
	copied(tokens, filepath.Join(a.Dir, "data", "tokens"))
	if err := os.WriteFile(filepath.Join(a.Dir, "data", "ledger.db"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a.Launch()
		if code := a.Wait(); code != 3 || !strings.Contains(a.Log.String(), "FENCED") {
			t.Fatalf("the daemon ended with %d\n%s", code, a.Log.String())
		}
	}
	a.Command(0, "accept", "fence")
	a.Launch()
	a.UntilUp()
	jumped := a.eventuallyCRL("client-ca", func(l *x509.RevocationList) bool { return l.Number.Cmp(last.Number) > 0 })
	if jumped.Number.Uint64() < last.Number.Uint64()+1000 || jumped.Number.Cmp(clients.Number) <= 0 || len(jumped.RevokedCertificateEntries) != 1 {
		t.Errorf("number %s after %s, %d entries", jumped.Number, last.Number, len(jumped.RevokedCertificateEntries))
	}
	a.eventuallyCRL("iaca", func(l *x509.RevocationList) bool {
		return l.Number.Uint64() > 1000 && len(l.RevokedCertificateEntries) == 1
	})
	verify("revoked OK revoked OK OK OK")
	a.Stop()
	a.Check()
	var meta ledger.ListMeta
	if data, err := os.ReadFile(filepath.Join(a.Dir, "data/publish/crl/client-ca.json")); err != nil || json.Unmarshal(data, &meta) != nil || fmt.Sprint(meta.Version) != jumped.Number.String() {
		t.Errorf("%+v beside number %s, %v", meta, jumped.Number, err)
	}
}

// copied copies a file or directory to where nothing of that name is.
func copied(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// putBack puts files and directories of the installation back as they were in another place.
func (a *appliance) putBack(from string, names ...string) {
	a.t.Helper()
	for _, name := range append(names, "data/ledger.db-wal", "data/ledger.db-shm") {
		if err := os.RemoveAll(filepath.Join(a.Dir, name)); err != nil {
			a.t.Fatal(err)
		}
	}
	for _, name := range names {
		copied(a.t, filepath.Join(from, filepath.Base(name)), filepath.Join(a.Dir, name))
	}
}

// liftFence has two officers sign what is lost.
func (g *governed) liftFence() {
	g.t.Helper()
	config, request, approvals := filepath.Join(g.Dir, "sealkeeper.yaml"), g.path("request.json"), g.path("approvals.json")
	has(g.t, g.Command(1, "accept", "fence"), "officer.required")
	g.sealctl(0, "fence", "request", "--config", config, "--out", request)
	g.sealctl(0, append([]string{"fence", "propose", request, "--reason", "the disk is gone for good", "--out", approvals, "--yes"}, g.key["kim"]...)...)
	g.sealctl(0, append([]string{"fence", "approve", approvals, "--yes"}, g.key["lee"]...)...)
	has(g.t, g.Command(0, "accept", "fence", "--approvals", approvals), "the fence is lifted")
}

// A client is revoked after the backup, and the ledger of before put back. Of the revocation there is what the published list says: the certificate. Whoever has
// the client's key gets no other one, from the first request on; officers revoke the client again, and enrol another in its place.
func TestRevokedClientComesBackRevoked(t *testing.T) {
	t.Parallel()
	g := withOfficers(t)
	bundle := strings.Replace(g.bundle(2), `{"id": "auditor",`, `{"id": "ra-1", "role": "ra", "may": {}}, {"id": "auditor",`, 1)
	g.Write("policy.json", strings.Replace(bundle, `"clients":`, `"enrolled": [{"role": "issuance", "channel": "office", "issuer": "https://offices.example", "may": {"kr-resident": ["issue"]}}], "clients":`, 1))
	conf, err := os.ReadFile(filepath.Join(g.Dir, "sealkeeper.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	g.Write("sealkeeper.yaml", string(conf)+"ra_url: https://ra.example:9443\n")
	g.assemble()
	g.Command(0, "enrol", "--out", filepath.Join(g.Dir, "clients"), "ra-1")
	g.start()
	enrol := func(id string) (spki string) {
		t.Helper()
		p := g.together("enrol", "propose", "--client", id, "--role", "issuance", "--channel", "office", "--certificates", "24h", "--reason", "an office")
		var a struct{ Tokens []struct{ Token string } }
		if err := json.Unmarshal([]byte(g.sealctl(0, "enrol", "tokens", p.ID)), &a); err != nil || len(a.Tokens) != 1 {
			t.Fatalf("%v %+v", err, a)
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		public, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.As("ra-1").Register(t.Context(), contract.RegisterRequest{Token: a.Tokens[0].Token, CSR: base64.RawURLEncoding.EncodeToString(csr)}); err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(public)
	}
	renewed := func(id, spki string) string {
		t.Helper()
		_, err := g.As("ra-1").RenewClient(t.Context(), contract.RenewClientRequest{Client: id, Key: spki})
		return client.Code(err)
	}
	state := func(id string) string {
		t.Helper()
		all, err := g.As("operator-1").Clients(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all.Clients {
			if c.Client == id {
				return c.State
			}
		}
		return "none"
	}
	stolen, other := enrol("office-1"), enrol("office-2")
	if renewed("office-1", stolen) != "" || state("office-1") != "active" {
		t.Fatal("the client is not let in before anything happened")
	}
	g.Stop()
	before := t.TempDir()
	for _, name := range []string{"ledger.db", "tokens"} {
		copied(t, filepath.Join(g.Dir, "data", name), filepath.Join(before, name))
	}

	g.start()
	g.together("propose", "client.revoke", `clients:=["office-1", "telecom-a"]`, "reason=stolen")
	g.eventuallyCRL("client-ca", func(l *x509.RevocationList) bool { return len(l.RevokedCertificateEntries) == 3 })
	if code := renewed("office-1", stolen); code != "enrolment.revoked" {
		t.Errorf("after the revocation: %q", code)
	}
	g.Stop()
	g.putBack(before, "data/ledger.db", "data/tokens")
	g.Launch()
	if code := g.Wait(); code != 3 || !strings.Contains(g.Log.String(), "FENCED") {
		t.Fatalf("the daemon ended with %d\n%s", code, g.Log.String())
	}
	g.liftFence()
	has(t, g.Command(1, "enrol", "--out", filepath.Join(t.TempDir(), "clients"), "telecom-a"), "enrolment.revoked")

	g.start()
	if code := renewed("office-1", stolen); code != "enrolment.revoked" {
		t.Errorf("the stolen key, after the fence was lifted: %q", code)
	}
	if code := renewed("office-2", other); code != "" {
		t.Errorf("a client that nobody revoked: %q", code)
	}
	if s := state("office-1"); s != "revoked" || state("telecom-a") != "revoked" || state("office-2") != "active" {
		t.Errorf("it is shown as %s", s)
	}
	g.together("propose", "client.revoke", `clients:=["office-1", "telecom-a"]`, "reason=stolen, again")
	if code := renewed("office-1", stolen); code != "enrolment.revoked" {
		t.Errorf("after it was revoked again: %q", code)
	}
	if again := enrol("office-1-again"); renewed("office-1-again", again) != "" {
		t.Error("the office is not let in under another id")
	}
	g.Stop()
	g.Check()
}
