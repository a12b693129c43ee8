// Package enrolment tries how clients get their certificates, from outside: officers approve, the appliance hands out a token, and the stock `step` or
// our own client enrols, renews and is revoked at the registration authority.
package enrolment

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/officer"
	"sealkeeper/policy"
	"sealkeeper/tests/appliance"
	"sealkeeper/tests/port"
)

func TestMain(m *testing.M) {
	code := appliance.Main(m)
	if programs != "" {
		_ = os.RemoveAll(programs)
	}
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// office is an installation with officers, and the address at which its registration authority is.
type office struct {
	*appliance.Appliance
	t        testing.TB
	registry *officer.Registry
	keys     map[string]ed25519.PrivateKey
	ra       string
}

func open(t testing.TB) *office {
	t.Helper()
	keys := map[string]ed25519.PrivateKey{}
	var people []map[string]string
	for _, id := range []string{"kim", "lee"} {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		must(t, err)
		der, err := x509.MarshalPKIXPublicKey(public)
		must(t, err)
		keys[id] = private
		people = append(people, person(id, base64.StdEncoding.EncodeToString(der)))
	}
	o := founded(t, people)
	o.keys = keys
	return o
}

func person(id, key string) map[string]string {
	return map[string]string{"id": id, "name": id, "role": "officer", "key": key}
}

// founded is open with officers whose keys are elsewhere.
func founded(t testing.TB, people []map[string]string) *office {
	t.Helper()
	o := &office{Appliance: appliance.Install(t), t: t}
	ports, err := port.Free(1)
	must(t, err)
	o.ra = fmt.Sprintf("https://127.0.0.1:%d", ports[0])
	file := filepath.Join(o.Dir, "policy.json")
	b, err := os.ReadFile(file)
	must(t, err)
	text := strings.Replace(string(b), `{"id": "auditor",`, `{"id": "officers", "role": "officer", "may": {}}, {"id": "ra-1", "role": "ra", "may": {}}, {"id": "auditor",`, 1)
	text = strings.Replace(text, `"clients":`, `"enrolled": [{"role": "issuance", "channel": "office", "issuer": "https://offices.example", "may": {"kr-resident": ["issue"]}}], "clients":`, 1)
	text = strings.Replace(text, `"version": 1`, `"version": 2`, 1)
	must(t, os.WriteFile(file, []byte(text), 0o600))
	conf, err := os.ReadFile(filepath.Join(o.Dir, "sealkeeper.yaml"))
	must(t, err)
	o.Write("sealkeeper.yaml", string(conf)+"ra_url: "+o.ra+"\n")
	registry, err := json.Marshal(map[string]any{"officers": people, "rules": map[string]any{string(officer.ClientRollover): map[string]any{"need": 2, "delay": "0s", "life": "1h0m0s"}}})
	must(t, err)
	o.Write("officers.json", string(registry))
	o.Command(0, "init", "--dev", "--officers", filepath.Join(o.Dir, "officers.json"))
	o.Command(0, "enrol", "--out", filepath.Join(o.Dir, "clients"), "officers", "ra-1")
	o.Start()
	all, err := o.As("officers").Officers(context.Background())
	must(t, err)
	o.registry, err = officer.ParseRegistry([]byte(all.Registry))
	must(t, err)
	return o
}

// decide has both officers propose, approve and carry out.
func (o *office) decide(a officer.Action, p officer.Parameters) {
	o.t.Helper()
	ctx := context.Background()
	proposal, err := o.registry.Propose("kim", a, p, 0, time.Now(), rand.Reader)
	must(o.t, err)
	for i, id := range []string{"kim", "lee"} {
		envelope, err := officer.Approve(proposal.Payload(), id, o.keys[id], rand.Reader)
		must(o.t, err)
		if i == 0 {
			_, err = o.As("officers").Propose(ctx, contract.ProposeRequest{Proposal: envelope})
		} else {
			_, err = o.As("officers").Approve(ctx, contract.ApprovalRequest{ID: proposal.ID(), Envelope: envelope})
		}
		must(o.t, err)
	}
	_, err = o.As("officers").Execute(ctx, proposal.ID())
	must(o.t, err)
}

func (o *office) enrol(life time.Duration, ids ...string) {
	o.t.Helper()
	p := &officer.Enrol{Until: time.Now().Add(time.Hour).UTC().Truncate(time.Second), Reason: "a new office"}
	for _, id := range ids {
		p.Clients = append(p.Clients, policy.Enrolment{ID: id, Role: "issuance", Channel: "office", Office: "11110", District: "11110", Life: int64(life / time.Second)})
	}
	o.decide(officer.ClientEnrol, p)
}

func (o *office) token(id string) contract.TokenAnswer {
	o.t.Helper()
	a, err := o.As("officers").Token(context.Background(), contract.TokenRequest{Client: id})
	must(o.t, err)
	return a
}

var programs string // where the registration authority is, once built

// built makes it once for all tests.
var built = sync.OnceValue(func() (err error) {
	if programs, err = os.MkdirTemp("", "sealkeeper-enrolment-"); err != nil {
		return err
	}
	c := exec.Command("go", "build", "-trimpath", "-o", programs+"/", ".") // as make ra does, so that nothing is compiled twice
	c.Dir = "../../cmd/sealkeeper-ra"
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
})

// build is where the registration authority is.
func build(t testing.TB) string {
	t.Helper()
	if err := built(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(programs, "sealkeeper-ra")
}

// stock is the `step` of its makers: the pinned one that `make step` puts into bin/, or the machine's.
func stock(t testing.TB) string {
	t.Helper()
	pinned, err := filepath.Abs("../../bin/step")
	must(t, err)
	for _, name := range []string{pinned, "step"} {
		if found, err := exec.LookPath(name); err == nil {
			return found
		}
	}
	const missing = "the stock step is not here: make step puts it into bin/"
	if os.Getenv("SEAL_REQUIRE_STEP") == "1" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// runs is `step` on a machine of its own.
func runs(t testing.TB, step, home string) func(ok bool, args ...string) {
	return func(ok bool, args ...string) {
		t.Helper()
		c := exec.Command(step, args...)
		c.Env, c.Dir = append(os.Environ(), "STEPPATH="+filepath.Join(home, ".step"), "HOME="+home), home
		out, err := c.CombinedOutput()
		if (err == nil) != ok {
			t.Fatalf("step %s: %v\n%s", strings.Join(args[:2], " "), err, out)
		}
	}
}

// serve runs the registration authority.
func (o *office) serve(binary string) {
	o.t.Helper()
	u, err := url.Parse(o.ra)
	must(o.t, err)
	c := exec.Command(binary, "--appliance", fmt.Sprintf("https://127.0.0.1:%d", o.Ports[0]), "--identity", filepath.Join(o.Dir, "clients", "ra-1"), "--listen", u.Host)
	var log bytes.Buffer
	c.Stdout, c.Stderr = &log, &log
	must(o.t, c.Start())
	o.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if o.t.Failed() {
			o.t.Log("registration authority:\n" + log.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		// It has its port before it has its certificate.
		if conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", u.Host, &tls.Config{InsecureSkipVerify: true}); err == nil {
			_ = conn.Close()
			return
		} else if time.Now().After(deadline) {
			o.t.Fatal("the registration authority does not answer: " + log.String())
		}
	}
}

func certificate(t testing.TB, file string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return c
}

// Acceptance 6.1: the stock `step` bootstraps, gets a certificate by token, renews, revokes, and is refused a renewal afterwards.
func TestStockStep(t *testing.T) {
	t.Parallel()
	step := stock(t)
	ra := build(t)
	o := open(t)
	o.serve(ra)
	o.enrol(time.Hour, "office-1")
	token := o.token("office-1")
	home := t.TempDir()
	run := runs(t, step, home)
	run(true, "ca", "bootstrap", "--ca-url", token.URL, "--fingerprint", token.Fingerprint)
	run(true, "ca", "health")
	run(true, "ca", "certificate", "office-1", "cert.pem", "key.pem", "--token", token.Token)
	first := certificate(t, filepath.Join(home, "cert.pem"))
	if len(first.URIs) != 1 || first.URIs[0].String() != "urn:sealkeeper:client:issuance:office-1" || len(first.DNSNames) > 0 || len(first.ExtKeyUsage) != 1 || first.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("%v %v %v", first.URIs, first.DNSNames, first.ExtKeyUsage)
	}
	run(false, "ca", "certificate", "office-1", "other.pem", "other-key.pem", "--token", token.Token) // a token is good for one key
	run(true, "ca", "renew", "--force", "cert.pem", "key.pem")
	second := certificate(t, filepath.Join(home, "cert.pem"))
	if second.SerialNumber.Cmp(first.SerialNumber) == 0 || !second.PublicKey.(*ecdsa.PublicKey).Equal(first.PublicKey) {
		t.Error("the renewal is no other certificate for the same key")
	}
	run(true, "ca", "revoke", "--cert", "cert.pem", "--key", "key.pem")
	run(false, "ca", "renew", "--force", "cert.pem", "key.pem")
	o.Stop()
	o.Check()
}

// Our own client enrols with nothing but a token, renews short certificates and changes its key, and no request fails meanwhile.
func TestOwnClientRenewsItself(t *testing.T) {
	t.Parallel()
	ra := build(t)
	o := open(t)
	o.serve(ra)
	life := 3 * policy.LeastClientLife // a third of it is what a renewal has on a busy machine
	o.enrol(life, "office-2")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir := filepath.Join(t.TempDir(), "office-2")
	id, err := client.Enrol(ctx, dir, o.token("office-2").Token)
	must(t, err)
	running, stop := context.WithCancel(ctx)
	defer stop()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		id.Run(running, func(err error) { t.Errorf("a renewal: %v", err) })
	}()
	c, err := client.New(client.Config{BaseURL: fmt.Sprintf("https://127.0.0.1:%d", o.Ports[0]), Identity: id, RootCAs: id.Roots(), Attempts: 1})
	must(t, err)
	first := id.Certificate().Leaf.SerialNumber
	asked := 0
	for end := time.Now().Add(life + time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		w, err := c.WhoAmI(ctx)
		if err != nil || w.Client != "office-2" || w.Role != "issuance" {
			t.Fatalf("request %d: %+v %v", asked, w, err)
		}
		asked++
	}
	if id.Certificate().Leaf.SerialNumber.Cmp(first) == 0 {
		t.Error("the certificate was not renewed")
	}
	stop()
	<-stopped
	// From here on the client does what it does at a moment that the test chooses: none of its certificates ends meanwhile, and nothing renews them.
	o.enrol(time.Hour, "office-3")
	dir = filepath.Join(t.TempDir(), "office-3")
	id, err = client.Enrol(ctx, dir, o.token("office-3").Token)
	must(t, err)
	c, err = client.New(client.Config{BaseURL: fmt.Sprintf("https://127.0.0.1:%d", o.Ports[0]), Identity: id, RootCAs: id.Roots(), Attempts: 1})
	must(t, err)
	before := id.Certificate().Leaf.PublicKey.(*ecdsa.PublicKey)
	file := func(name string) string { return filepath.Join(dir, name) }
	old, err := os.ReadFile(file("key.pem"))
	must(t, err)
	was, err := os.ReadFile(file("cert.pem"))
	must(t, err)
	must(t, id.Rekey(ctx))
	// As an answer that was lost leaves it: the next key is registered, and the client does not know.
	behind := t.TempDir()
	for name, from := range map[string]string{"next-key.pem": file("key.pem"), "ca.pem": file("ca.pem")} {
		b, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(behind, name), b, 0o600))
	}
	must(t, os.WriteFile(filepath.Join(behind, "key.pem"), old, 0o600))
	must(t, os.WriteFile(filepath.Join(behind, "cert.pem"), was, 0o600))
	unaware, err := client.LoadIdentity(behind, o.ra)
	must(t, err)
	if err := unaware.Renew(ctx); err != nil || !id.Certificate().Leaf.PublicKey.(*ecdsa.PublicKey).Equal(unaware.Certificate().Leaf.PublicKey) {
		t.Errorf("after a change of key whose answer was lost: %v", err)
	}
	if before.Equal(id.Certificate().Leaf.PublicKey) {
		t.Error("the key did not change")
	}
	if _, err := c.WhoAmI(ctx); err != nil {
		t.Errorf("with another key: %v", err)
	}
	// As a power cut between its two files leaves it.
	must(t, os.Rename(file("key.pem"), file("next-key.pem")))
	must(t, os.WriteFile(file("key.pem"), old, 0o600))
	for range 2 {
		if again, err := client.LoadIdentity(dir, o.ra); err != nil || !id.Certificate().Leaf.Equal(again.Certificate().Leaf) {
			t.Errorf("after a change of key that was cut off: %v", err)
		}
	}
	o.decide(officer.ClientRevoke, &officer.Dismiss{Clients: []string{"office-3"}, Reason: "the office is closed"})
	if _, err := c.WhoAmI(ctx); client.Code(err) != "client.revoked" {
		t.Errorf("the next request of a revoked client: %v", err)
	}
	o.listed(id.Certificate().Leaf)
}

// listed waits until the client CA's list that a certificate points to names it. That this is at once, the ledger's tests show; here the
// machine may be busy.
func (o *office) listed(c *x509.Certificate) {
	o.t.Helper()
	began := time.Now()
	path := "/crl/" + c.CRLDistributionPoints[0][strings.LastIndexByte(c.CRLDistributionPoints[0], '/')+1:]
	for {
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", o.Ports[1], path))
		must(o.t, err)
		der, err := io.ReadAll(r.Body)
		r.Body.Close()
		must(o.t, err)
		list, err := x509.ParseRevocationList(der)
		must(o.t, err)
		for _, e := range list.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return
			}
		}
		if time.Since(began) > time.Minute {
			o.t.Fatalf("%s does not name a certificate that was revoked %s ago", path, time.Since(began))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func csr(t testing.TB, k *ecdsa.PrivateKey, r x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &r, k)
	must(t, err)
	return base64.RawURLEncoding.EncodeToString(der)
}

func key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

func spki(t testing.TB, k *ecdsa.PrivateKey) string {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	must(t, err)
	return base64.RawURLEncoding.EncodeToString(b)
}

// Acceptance 6.2: a hostile registration authority knows all of its own keys and every message of its clients, and gets nothing that is not theirs.
func TestHostileRegistrationAuthority(t *testing.T) {
	t.Parallel()
	o := open(t)
	o.enrol(time.Hour, "office-1", "office-2", "office-3")
	ctx, ra := context.Background(), o.As("ra-1") // its role, with its keys
	victim, thief := key(t), key(t)
	token := o.token("office-1").Token
	_, err := ra.Register(ctx, contract.RegisterRequest{Token: token, CSR: csr(t, victim, x509.CertificateRequest{})})
	must(t, err)
	refused := func(what, want string, err error) {
		t.Helper()
		if client.Code(err) != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	register := func(token, csr string) error {
		_, err := ra.Register(ctx, contract.RegisterRequest{Token: token, CSR: csr})
		return err
	}
	refused("a token that it saw, with its own key", "enrolment.token_used", register(token, csr(t, thief, x509.CertificateRequest{})))
	parts := strings.Split(o.token("office-2").Token, ".")
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	other := base64.RawURLEncoding.EncodeToString(bytes.ReplaceAll(payload, []byte("office-2"), []byte("office-3")))
	refused("a token for another name", "evidence.token_signature", register(parts[0]+"."+other+"."+parts[2], csr(t, thief, x509.CertificateRequest{})))
	admin := base64.RawURLEncoding.EncodeToString(bytes.ReplaceAll(payload, []byte("issuance"), []byte("operator")))
	refused("a token for another role", "evidence.token_signature", register(parts[0]+"."+admin+"."+parts[2], csr(t, thief, x509.CertificateRequest{})))
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"sealkeeper-enrolment+jwt","kid":"token-1"}`))
	refused("a token without signature", "evidence.token_signature", register(none+"."+parts[1]+"."+parts[2], csr(t, thief, x509.CertificateRequest{})))
	_, err = ra.RenewClient(ctx, contract.RenewClientRequest{Client: "office-1", Key: spki(t, thief)})
	refused("a renewal of another's certificate for its own key", "enrolment.other_key", err)
	_, err = ra.RenewClient(ctx, contract.RenewClientRequest{Client: "office-3", Key: spki(t, thief)})
	refused("a renewal of what was never registered", "enrolment.other_key", err)
	spkiOf, _ := base64.RawURLEncoding.DecodeString(spki(t, thief))
	statement, err := client.Rekeying(thief, "office-1", o.ra+"/sealkeeper/rekey", spkiOf, time.Now())
	must(t, err)
	_, err = ra.RekeyClient(ctx, contract.RekeyRequest{Client: "office-1", Statement: statement, CSR: csr(t, thief, x509.CertificateRequest{})})
	refused("a change of key that it signed itself", "evidence.rekey_signature", err)
	statement, err = client.Rekeying(victim, "office-1", o.ra+"/sealkeeper/rekey", spkiOf, time.Now())
	must(t, err)
	_, err = ra.RekeyClient(ctx, contract.RekeyRequest{Client: "office-2", Statement: statement, CSR: csr(t, thief, x509.CertificateRequest{})})
	refused("another's statement", "evidence.rekey_signature", err)
	_, err = ra.RekeyClient(ctx, contract.RekeyRequest{Client: "office-1", Statement: statement, CSR: csr(t, key(t), x509.CertificateRequest{})})
	refused("a statement for another key", "evidence.rekey_other_key", err)
	_, err = ra.Token(ctx, contract.TokenRequest{Client: "office-3"})
	refused("a token for itself", "route.forbidden", err)
	_, err = ra.Nonce(ctx, contract.NonceRequest{DocumentType: "kr-resident"})
	refused("a client's route", "route.forbidden", err)
	// What it can have is of use to its client alone.
	a, err := ra.RenewClient(ctx, contract.RenewClientRequest{Client: "office-1", Key: spki(t, victim)})
	must(t, err)
	der, _ := base64.RawURLEncoding.DecodeString(a.Certificate)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	if !c.PublicKey.(*ecdsa.PublicKey).Equal(&victim.PublicKey) {
		t.Error("a renewal is for another key")
	}
}

// Acceptance 6.6: the daemon's module knows nothing of smallstep.
func TestTheModuleGraphStaysOut(t *testing.T) {
	c := exec.Command("go", "list", "-m", "all")
	c.Dir = "../.."
	out, err := c.Output()
	must(t, err)
	for _, name := range []string{"smallstep", "step.sm", "bbolt", "badger", "chi"} {
		if strings.Contains(string(out), name) {
			t.Errorf("the appliance's module graph has %s", name)
		}
	}
}
