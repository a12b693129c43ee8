// Package scenario tests the appliance from outside: the real daemon as a process, over real mTLS, with SoftHSM and SQLite behind it.
package scenario

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/ledger/fsck"
	"sealkeeper/tests/phone"
	"sealkeeper/verifier"
)

const (
	kr        = "kr-resident"
	publicURL = "https://cards.test.example"
	audience  = "https://ward-office-1.example"
)

// Made once for all tests: the binary with crash points compiled in, and a founded installation that each test gets a copy of.
var (
	binary   string
	sealctl  string
	template string
	provider *phone.Provider
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sealkeeper-scenario-")
	if err == nil {
		err = prepare(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "preparing the appliance:", err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func prepare(dir string) error {
	binary, sealctl, template = filepath.Join(dir, "sealkeeperd"), filepath.Join(dir, "sealctl"), filepath.Join(dir, "template")
	if out, err := exec.Command("go", "build", "-o", sealctl, "sealkeeper/cmd/sealctl").CombinedOutput(); err != nil {
		return fmt.Errorf("building: %w\n%s", err, out)
	}
	args := []string{"build", "-tags", "crashpoints", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "sealkeeper/cmd/sealkeeperd")...).CombinedOutput(); err != nil {
		return fmt.Errorf("building: %w\n%s", err, out)
	}
	var err error
	if provider, err = phone.NewProvider(time.Now(), rand.Reader); err != nil {
		return err
	}
	return found(template, configuration(1, 2, 3))
}

// found makes a new installation with its clients.
func found(dir, configuration string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	bundle, err := os.ReadFile("../../deploy/policies/demo.json")
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{"policy.json": bundle, "wallet.pem": provider.AnchorPEM(), "sealkeeper.yaml": []byte(configuration)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"init"}, {"enrol", "--out", filepath.Join(dir, "clients"), "ward-office-1", "telecom-a", "loss-desk", "ministry", "auditor"}} {
		c := exec.Command(binary, append(args, "--config", filepath.Join(dir, "sealkeeper.yaml"))...)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

func configuration(ports ...int) string {
	return fmt.Sprintf(`installation: {name: Test, country: KR}
data: data
high_water: witness/high-water.json
policy: policy.json
wallet_providers: [wallet.pem]
public_url: %s
listen: {issuance: "127.0.0.1:%d", public: "127.0.0.1:%d", operations: "127.0.0.1:%d"}
lists: {entries: 131072}
limits: {concurrent_issues: 4096, queue: 8192}
`, publicURL, ports[0], ports[1], ports[2])
}

// appliance is one installation and, while it runs, its process.
type appliance struct {
	t        *testing.T
	dir      string
	ports    [3]int
	cmd      *exec.Cmd
	exited   chan error
	log      *syncBuffer
	roots    []*x509.Certificate
	mu       sync.Mutex
	clients  map[string]*client.Client
	raw      map[string]*http.Client
	stopping bool
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}
func (b *syncBuffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

// install copies the founded installation.
func install(t *testing.T) *appliance {
	t.Helper()
	a := bare(t)
	if out, err := exec.Command("cp", "-a", template+"/.", a.dir).CombinedOutput(); err != nil {
		t.Fatalf("copying the installation: %v %s", err, out)
	}
	// The token directories' configuration names absolute paths.
	for _, token := range []string{"online", "iaca"} {
		conf := filepath.Join(a.dir, "data", "tokens", token, "softhsm2.conf")
		b, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(conf, bytes.ReplaceAll(b, []byte(template), []byte(a.dir)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.write("sealkeeper.yaml", configuration(a.ports[:]...))
	return a
}

// installAnew founds an installation of its own, with more lines in its configuration.
func installAnew(t *testing.T, lines string) *appliance {
	t.Helper()
	a := bare(t)
	if err := found(a.dir, configuration(a.ports[:]...)+lines); err != nil {
		t.Fatal(err)
	}
	return a
}

// bare is a directory with three free ports.
func bare(t *testing.T) *appliance {
	t.Helper()
	a := &appliance{t: t, dir: t.TempDir(), clients: map[string]*client.Client{}, raw: map[string]*http.Client{}, log: &syncBuffer{}}
	for i := range a.ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		a.ports[i] = l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	t.Cleanup(func() {
		a.kill()
		if t.Failed() {
			text := a.log.String()
			t.Logf("daemon's log:\n%s", text[max(0, len(text)-6000):])
		}
		if strings.Contains(a.log.String(), "DATA RACE") {
			t.Errorf("the daemon has a data race:\n%s", a.log.String())
		}
	})
	return a
}

func (a *appliance) write(name, text string) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// start runs the daemon until it is ready.
func (a *appliance) start(env ...string) *appliance {
	a.t.Helper()
	a.launch(env...)
	deadline := time.Now().Add(30 * time.Second)
	for {
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", a.ports[2]))
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case err := <-a.exited:
			a.exited <- err
			a.t.Fatalf("the daemon ended before it was ready: %v\n%s", err, a.log.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("the daemon does not get ready\n%s", a.log.String())
		}
	}
	if a.roots == nil {
		block, _ := pem.Decode(a.get("/certificates/iaca.pem"))
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			a.t.Fatal(err)
		}
		a.roots = []*x509.Certificate{root}
	}
	return a
}

// launch starts the process and waits for nothing.
func (a *appliance) launch(env ...string) {
	a.t.Helper()
	a.cmd = exec.Command(binary, "serve", "--config", filepath.Join(a.dir, "sealkeeper.yaml"))
	a.cmd.Env = append(os.Environ(), env...)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	a.exited = make(chan error, 1)
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	cmd, exited := a.cmd, a.exited
	go func() { exited <- cmd.Wait() }()
}

// wait returns the exit code of a daemon that ends by itself.
func (a *appliance) wait() int {
	a.t.Helper()
	select {
	case <-a.exited:
	case <-time.After(30 * time.Second):
		a.t.Fatalf("the daemon does not end\n%s", a.log.String())
	}
	code := a.cmd.ProcessState.ExitCode()
	a.cmd = nil
	return code
}

// kill is kill -9.
func (a *appliance) kill() {
	if a.cmd == nil {
		return
	}
	_ = a.cmd.Process.Kill()
	<-a.exited
	a.cmd = nil
}

// stop is SIGTERM; the exit code must be 0.
func (a *appliance) stop() {
	a.t.Helper()
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		a.t.Fatal(err)
	}
	if code := a.wait(); code != 0 {
		a.t.Fatalf("the drained daemon ended with %d\n%s", code, a.log.String())
	}
}

func (a *appliance) tls(id string) *tls.Config {
	a.t.Helper()
	dir := filepath.Join(a.dir, "clients", id)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		a.t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		a.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, MinVersion: tls.VersionTLS13}
}

// as is the Go client of one of the bundle's clients.
func (a *appliance) as(id string) *client.Client {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.clients[id]; c != nil {
		return c
	}
	t := a.tls(id)
	c, err := client.New(client.Config{BaseURL: fmt.Sprintf("https://127.0.0.1:%d", a.ports[0]), Certificate: t.Certificates[0], RootCAs: t.RootCAs, Timeout: 60 * time.Second})
	if err != nil {
		a.t.Fatal(err)
	}
	a.clients[id] = c
	return c
}

// post sends one request without retries and returns exactly what came back.
func (a *appliance) post(id, path, key string, body any) (status int, answer []byte, err error) {
	a.t.Helper()
	a.mu.Lock()
	h := a.raw[id]
	if h == nil {
		h = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{TLSClientConfig: a.tls(id), MaxIdleConnsPerHost: 64}}
		a.raw[id] = h
	}
	a.mu.Unlock()
	b, ok := body.([]byte)
	if !ok {
		if b, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	req, err := http.NewRequest(http.MethodPost, fmt.Sprintf("https://127.0.0.1:%d%s", a.ports[0], path), bytes.NewReader(b))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	r, err := h.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer r.Body.Close()
	answer, err = io.ReadAll(r.Body)
	return r.StatusCode, answer, err
}

func code(answer []byte) string {
	var p contract.Problem
	_ = json.Unmarshal(answer, &p)
	return p.Code
}

func (a *appliance) get(path string) []byte {
	a.t.Helper()
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", a.ports[1], path))
	if err != nil {
		a.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		a.t.Fatalf("GET %s: %d %v", path, r.StatusCode, err)
	}
	return b
}

func (a *appliance) operations() contract.Status {
	a.t.Helper()
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/status", a.ports[2]))
	if err != nil {
		a.t.Fatal(err)
	}
	defer r.Body.Close()
	var s contract.Status
	if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
		a.t.Fatal(err)
	}
	return s
}

// metric reads one sample by its full name and labels.
func (a *appliance) metrics() string {
	a.t.Helper()
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", a.ports[2]))
	if err != nil {
		a.t.Fatal(err)
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return string(b)
}

// status is what a bank sees: fetched, verified, looked up.
func (a *appliance) status(ref contract.StatusRef) byte {
	a.t.Helper()
	v, err := verifier.VerifyStatus(a.get(strings.TrimPrefix(ref.URI, publicURL)), ref.URI, ref.Index, a.roots, time.Now())
	if err != nil {
		a.t.Fatalf("status of %+v: %v", ref, err)
	}
	return v
}

// eventually waits for a status in the published list.
func (a *appliance) eventually(ref contract.StatusRef, want byte) {
	a.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for got := a.status(ref); got != want; got = a.status(ref) {
		if time.Now().After(deadline) {
			a.t.Fatalf("entry %d stays %d, wanted %d", ref.Index, got, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func newPhone(t *testing.T, n int) *phone.Phone {
	t.Helper()
	p, err := phone.New(n)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// request is a good request of a phone, with a nonce of its own.
func (a *appliance) request(p *phone.Phone, subject string) contract.IssueRequest {
	a.t.Helper()
	r, err := a.tryRequest(p, subject)
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

func (a *appliance) tryRequest(p *phone.Phone, subject string) (contract.IssueRequest, error) {
	n, err := a.as("ward-office-1").Nonce(context.Background(), contract.NonceRequest{DocumentType: kr})
	if err != nil {
		return contract.IssueRequest{}, err
	}
	now := time.Now()
	return contract.IssueRequest{DocumentType: kr, Subject: subject, Claims: claims(), Proof: p.Prove(0, audience, n.Nonce, now, ""), KeyAttestation: p.Attest(provider, n.Nonce, now)}, nil
}

// canary stands in every claim that takes text, so that a search of what is at rest finds any leak.
const canary = "CANARY-7f3a"

func claims() map[string]any {
	return map[string]any{
		"family_name": canary, "given_name": canary + "-given", "birth_date": "1990-01-01", "address": canary + " street", "age_over_19": true,
		"issuing_country": "KR", "issuing_authority": "MOIS", "document_number": "D-" + canary, "issue_date": "2026-01-15", "expiry_date": "2036-01-14",
		"portrait": "_9j_4AAQSkZJRg",
	}
}

func (a *appliance) issue(p *phone.Phone, subject string, replace bool) contract.IssueAnswer {
	a.t.Helper()
	r := a.request(p, subject)
	r.Replace = replace
	out, err := a.as("ward-office-1").Issue(context.Background(), client.NewKey(), r)
	if err != nil {
		a.t.Fatalf("issuing: %v", err)
	}
	return out
}

func (a *appliance) change(id string, op func(*client.Client) func(context.Context, contract.ChangeRequest) (contract.ChangeAnswer, error), subject, reason, device string) contract.ChangeAnswer {
	a.t.Helper()
	out, err := op(a.as(id))(context.Background(), contract.ChangeRequest{DocumentType: kr, Subject: subject, Reason: reason, Device: device})
	if err != nil {
		a.t.Fatalf("%s by %s: %v", reason, id, err)
	}
	return out
}

var (
	lock = func(c *client.Client) func(context.Context, contract.ChangeRequest) (contract.ChangeAnswer, error) {
		return c.Lock
	}
	unlock = func(c *client.Client) func(context.Context, contract.ChangeRequest) (contract.ChangeAnswer, error) {
		return c.Unlock
	}
	revoke = func(c *client.Client) func(context.Context, contract.ChangeRequest) (contract.ChangeAnswer, error) {
		return c.Revoke
	}
)

// check is fsck over the stopped ledger and what was published.
func (a *appliance) check() {
	a.t.Helper()
	r, err := fsck.Run(context.Background(), fsck.Options{Ledger: filepath.Join(a.dir, "data", "ledger.db"), Publish: filepath.Join(a.dir, "data", "publish")})
	if err != nil {
		a.t.Fatalf("fsck: %v", err)
	}
	if !r.Clean() {
		for _, c := range r.Checks {
			for _, p := range c.Problems {
				a.t.Errorf("fsck %s: %s", c.Invariant, p)
			}
		}
	}
}

func byFormat(out contract.IssueAnswer) (mdoc, sdjwt contract.Credential) {
	for _, c := range out.Credentials {
		if c.Format == "mso_mdoc" {
			mdoc = c
		} else {
			sdjwt = c
		}
	}
	return mdoc, sdjwt
}

// workers finds the HSM worker processes of the daemon.
func (a *appliance) workers() []int {
	a.t.Helper()
	out, err := exec.Command("pgrep", "-P", fmt.Sprint(a.cmd.Process.Pid)).Output()
	if err != nil {
		return nil
	}
	var pids []int
	for _, f := range strings.Fields(string(out)) {
		var pid int
		fmt.Sscan(f, &pid)
		pids = append(pids, pid)
	}
	return pids
}
