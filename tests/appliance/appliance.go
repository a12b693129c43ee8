// Package appliance is the harness of the tests that see the appliance from outside: the real daemon as a process, over real mTLS, with
// SoftHSM and SQLite behind it. One founded installation is made per test binary; each test gets a copy.
package appliance

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
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
	"sealkeeper/tests/port"
	"sealkeeper/verifier"
)

const (
	KR        = "kr-resident"
	PublicURL = "https://cards.test.example"
	Audience  = "https://ward-office-1.example"
)

// Made once for all tests: the binary with crash points compiled in, and a founded installation that each test gets a copy of.
var (
	Binary   string
	Sealctl  string
	template string
	Provider *phone.Provider
)

// Main prepares, runs the tests and cleans up: func TestMain(m *testing.M) { os.Exit(appliance.Main(m)) }.
func Main(m *testing.M) int {
	if Race && os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0") // or each command, and each daemon that stops, would sleep for a second
	}
	dir, err := os.MkdirTemp("", "sealkeeper-appliance-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = prepare(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "preparing the appliance:", err)
		return 1
	}
	return m.Run()
}

func prepare(dir string) error {
	Binary, Sealctl, template = filepath.Join(dir, "sealkeeperd"), filepath.Join(dir, "sealctl"), filepath.Join(dir, "template")
	args := []string{"build", "-tags", "crashpoints", "-o", Binary}
	if Race {
		args = append(args, "-race", "-gcflags=modernc.org/sqlite/lib=-race=false", "-gcflags=modernc.org/libc/...=-race=false", "-gcflags=sealkeeper/ledger/index=-race=false") // as make unit does
	}
	for _, args := range [][]string{append(args, "sealkeeper/cmd/sealkeeperd"), {"build", "-tags", "crashpoints", "-o", Sealctl, "sealkeeper/cmd/sealctl"}} {
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("building: %w\n%s", err, out)
		}
	}
	var err error
	if Provider, err = phone.NewProvider(time.Now(), rand.Reader); err != nil {
		return err
	}
	return found(template, Configuration(1, 2, 3))
}

// found makes a new installation with its clients.
func found(dir, configuration string) error {
	bundle, err := os.ReadFile("../../deploy/policies/demo.json")
	if err != nil {
		return err
	}
	// What a carrier may lift in an hour is for tests of that; others lift as often as they like.
	bundle = bytes.Replace(bundle, []byte(`"class": "telecom",`), []byte(`"class": "telecom", "unlocks": 1000000,`), 1)
	return foundBy(dir, configuration, bundle, "ward-office-1", "telecom-a", "loss-desk", "ministry", "auditor")
}

// foundBy is found with another bundle.
func foundBy(dir, configuration string, bundle []byte, clients ...string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, b := range map[string][]byte{"policy.json": bundle, "wallet.pem": Provider.AnchorPEM(), "sealkeeper.yaml": []byte(configuration)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"init", "--dev"}, append([]string{"enrol", "--out", filepath.Join(dir, "clients")}, clients...)} {
		c := exec.Command(Binary, append(args, "--config", filepath.Join(dir, "sealkeeper.yaml"))...)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

// Configuration of an installation on three ports.
func Configuration(ports ...int) string {
	return fmt.Sprintf(`installation: {name: Test, country: KR}
data: data
high_water: witness/high-water.json
policy: policy.json
wallet_providers: [wallet.pem]
public_url: %s
listen: {issuance: "127.0.0.1:%d", public: "127.0.0.1:%d", operations: "127.0.0.1:%d"}
lists: {entries: 131072}
limits: {concurrent_issues: 4096, queue: 8192}
`, PublicURL, ports[0], ports[1], ports[2])
}

// Appliance is one installation and, while it runs, its process.
type Appliance struct {
	Dir    string
	Ports  [3]int              // issuance, public, operations
	Daemon *exec.Cmd           // nil while it does not run
	Exited chan struct{}       // closed when Daemon has ended
	Log    *Buffer             // all that every daemon of this installation printed
	Roots  []*x509.Certificate // after the first start

	Prepare func(*exec.Cmd) // changes how the daemon is started; nil: nothing

	t       testing.TB
	mu      sync.Mutex
	clients map[string]*client.Client
	raw     map[string]*http.Client
}

// Buffer takes what a daemon prints.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}
func (b *Buffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

// Install copies the founded installation.
func Install(t testing.TB) *Appliance {
	t.Helper()
	a := bare(t)
	if out, err := exec.Command("cp", "-a", template+"/.", a.Dir).CombinedOutput(); err != nil {
		t.Fatalf("copying the installation: %v %s", err, out)
	}
	// The token directories' configuration names absolute paths.
	for _, token := range []string{"online", "iaca"} {
		conf := filepath.Join(a.Dir, "data", "tokens", token, "softhsm2.conf")
		b, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(conf, bytes.ReplaceAll(b, []byte(template), []byte(a.Dir)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.Write("sealkeeper.yaml", Configuration(a.Ports[:]...))
	return a
}

// InstallAnew founds an installation of its own, with more lines in its configuration.
func InstallAnew(t testing.TB, lines string) *Appliance {
	t.Helper()
	a := bare(t)
	if err := found(a.Dir, Configuration(a.Ports[:]...)+lines); err != nil {
		t.Fatal(err)
	}
	return a
}

// bare is a directory with three free ports.
func bare(t testing.TB) *Appliance {
	t.Helper()
	a := &Appliance{t: t, Dir: t.TempDir(), clients: map[string]*client.Client{}, raw: map[string]*http.Client{}, Log: &Buffer{}}
	ports, err := port.Free(len(a.Ports))
	if err != nil {
		t.Fatal(err)
	}
	copy(a.Ports[:], ports)
	t.Cleanup(func() {
		a.Kill()
		if t.Failed() {
			text := a.Log.String()
			t.Logf("daemon's log:\n%s", text[max(0, len(text)-6000):])
		}
		if strings.Contains(a.Log.String(), "DATA RACE") {
			t.Errorf("the daemon has a data race:\n%s", a.Log.String())
		}
	})
	return a
}

// Write writes a file of the installation.
func (a *Appliance) Write(name, text string) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.Dir, name), []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// Start runs the daemon until it is ready.
func (a *Appliance) Start(env ...string) *Appliance {
	a.t.Helper()
	a.Launch(env...)
	deadline := time.Now().Add(time.Minute)
	for {
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", a.Ports[2]))
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case <-a.Exited:
			a.t.Fatalf("the daemon ended before it was ready: %s\n%s", a.Daemon.ProcessState, a.Log.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("the daemon does not get ready\n%s", a.Log.String())
		}
	}
	if a.Roots == nil {
		block, _ := pem.Decode(a.Get("/certificates/iaca.pem"))
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			a.t.Fatal(err)
		}
		a.Roots = []*x509.Certificate{root}
	}
	return a
}

// Launch starts the process and waits for nothing.
func (a *Appliance) Launch(env ...string) {
	a.t.Helper()
	a.Daemon = exec.Command(Binary, "serve", "--config", filepath.Join(a.Dir, "sealkeeper.yaml"))
	a.Daemon.Env = append(os.Environ(), env...)
	a.Daemon.Stdout, a.Daemon.Stderr = a.Log, a.Log
	a.Exited = make(chan struct{})
	if a.Prepare != nil {
		a.Prepare(a.Daemon)
	}
	if err := a.Daemon.Start(); err != nil {
		a.Daemon = nil
		a.t.Fatal(err)
	}
	cmd, exited := a.Daemon, a.Exited
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
}

// Wait returns the exit code of a daemon that ends by itself.
func (a *Appliance) Wait() int {
	a.t.Helper()
	select {
	case <-a.Exited:
	case <-time.After(time.Minute):
		a.t.Fatalf("the daemon does not end\n%s", a.Log.String())
	}
	code := a.Daemon.ProcessState.ExitCode()
	a.Daemon = nil
	return code
}

// Kill is kill -9.
func (a *Appliance) Kill() {
	if a.Daemon == nil {
		return
	}
	_ = a.Daemon.Process.Kill()
	<-a.Exited
	a.Daemon = nil
}

// Stop is SIGTERM; the exit code must be 0.
func (a *Appliance) Stop() {
	a.t.Helper()
	a.mu.Lock()
	for _, h := range a.raw { // a connection that was dialled and never used holds an orderly end up for 5 s
		h.CloseIdleConnections()
	}
	a.mu.Unlock()
	if err := a.Daemon.Process.Signal(syscall.SIGTERM); err != nil {
		a.t.Fatal(err)
	}
	if code := a.Wait(); code != 0 {
		a.t.Fatalf("the drained daemon ended with %d\n%s", code, a.Log.String())
	}
}

// TLS is the client side of mTLS for one of the bundle's clients.
func (a *Appliance) TLS(id string) *tls.Config {
	a.t.Helper()
	dir := filepath.Join(a.Dir, "clients", id)
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

// As is the Go client of one of the bundle's clients.
func (a *Appliance) As(id string) *client.Client {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.clients[id]; c != nil {
		return c
	}
	t := a.TLS(id)
	c, err := client.New(client.Config{BaseURL: fmt.Sprintf("https://127.0.0.1:%d", a.Ports[0]), Certificate: t.Certificates[0], RootCAs: t.RootCAs, Timeout: 60 * time.Second})
	if err != nil {
		a.t.Fatal(err)
	}
	a.clients[id] = c
	return c
}

// Post sends one request without retries and returns exactly what came back.
func (a *Appliance) Post(id, path, key string, body any) (status int, answer []byte, err error) {
	a.t.Helper()
	a.mu.Lock()
	h := a.raw[id]
	if h == nil {
		// A transport that needs a connection opens one, and may not use it: the appliance closes it after 5 s, and a request that meets that fails.
		h = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{TLSClientConfig: a.TLS(id), MaxIdleConnsPerHost: 64, IdleConnTimeout: 4 * time.Second}}
		a.raw[id] = h
	}
	a.mu.Unlock()
	b, ok := body.([]byte)
	if !ok {
		if b, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	req, err := http.NewRequest(http.MethodPost, fmt.Sprintf("https://127.0.0.1:%d%s", a.Ports[0], path), bytes.NewReader(b))
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

// Code is the stable code of a problem.
func Code(answer []byte) string {
	var p contract.Problem
	_ = json.Unmarshal(answer, &p)
	return p.Code
}

// Get fetches from the public listener.
func (a *Appliance) Get(path string) []byte {
	a.t.Helper()
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", a.Ports[1], path))
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

// Operations is the daemon's own view of itself.
func (a *Appliance) Operations() contract.Status {
	a.t.Helper()
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/status", a.Ports[2]))
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

// Metrics is one scrape.
func (a *Appliance) Metrics() string {
	a.t.Helper()
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", a.Ports[2]))
	if err != nil {
		a.t.Fatal(err)
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return string(b)
}

// Status is what a bank sees: fetched, verified, looked up.
func (a *Appliance) Status(ref contract.StatusRef) byte {
	a.t.Helper()
	v, err := verifier.VerifyStatus(a.Get(strings.TrimPrefix(ref.URI, PublicURL)), ref.URI, ref.Index, a.Roots, time.Now())
	if err != nil {
		a.t.Fatalf("status of %+v: %v", ref, err)
	}
	return v
}

// Eventually waits for a status in the published list.
func (a *Appliance) Eventually(ref contract.StatusRef, want byte) {
	a.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for got := a.Status(ref); got != want; got = a.Status(ref) {
		if time.Now().After(deadline) {
			a.t.Fatalf("entry %d stays %d, wanted %d", ref.Index, got, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// NewPhone makes a phone with n keys.
func NewPhone(t testing.TB, n int) *phone.Phone {
	t.Helper()
	p, err := phone.New(n)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Request is a good request of a phone, with a nonce of its own.
func (a *Appliance) Request(p *phone.Phone, subject string) contract.IssueRequest {
	a.t.Helper()
	r, err := a.TryRequest(p, subject)
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

func (a *Appliance) TryRequest(p *phone.Phone, subject string) (contract.IssueRequest, error) {
	n, err := a.As("ward-office-1").Nonce(context.Background(), contract.NonceRequest{DocumentType: KR})
	if err != nil {
		return contract.IssueRequest{}, err
	}
	now := time.Now()
	return contract.IssueRequest{DocumentType: KR, Subject: subject, Claims: Claims(), Proof: p.Prove(0, Audience, n.Nonce, now, ""), KeyAttestation: p.Attest(Provider, n.Nonce, now)}, nil
}

// Canary stands in every claim that takes text, so that a search of what is at rest finds any leak.
const Canary = "CANARY-7f3a"

// Claims of a person.
func Claims() map[string]any {
	return map[string]any{
		"family_name": Canary, "given_name": Canary + "-given", "birth_date": "1990-01-01", "address": Canary + " street", "age_over_19": true,
		"issuing_country": "KR", "issuing_authority": "MOIS", "document_number": "D-" + Canary, "issue_date": "2026-01-15", "expiry_date": "2036-01-14",
		"portrait": "_9j_4AAQSkZJRg",
	}
}

// Issue issues to a phone, with the client's retries.
func (a *Appliance) Issue(p *phone.Phone, subject string, replace bool) contract.IssueAnswer {
	a.t.Helper()
	r := a.Request(p, subject)
	r.Replace = replace
	out, err := a.As("ward-office-1").Issue(context.Background(), client.NewKey(), r)
	if err != nil {
		a.t.Fatalf("issuing: %v", err)
	}
	return out
}

// Change locks, unlocks or revokes.
func (a *Appliance) Change(id string, op func(*client.Client) func(context.Context, contract.ChangeRequest) (contract.ChangeAnswer, error), subject, reason, device string) contract.ChangeAnswer {
	a.t.Helper()
	out, err := op(a.As(id))(context.Background(), contract.ChangeRequest{DocumentType: KR, Subject: subject, Reason: reason, Device: device})
	if err != nil {
		a.t.Fatalf("%s by %s: %v", reason, id, err)
	}
	return out
}

var (
	Lock = func(c *client.Client) func(context.Context, contract.ChangeRequest) (contract.ChangeAnswer, error) {
		return c.Lock
	}
	Unlock = func(c *client.Client) func(context.Context, contract.ChangeRequest) (contract.ChangeAnswer, error) {
		return c.Unlock
	}
	Revoke = func(c *client.Client) func(context.Context, contract.ChangeRequest) (contract.ChangeAnswer, error) {
		return c.Revoke
	}
)

// Check is fsck over the stopped ledger and what was published.
func (a *Appliance) Check() {
	a.t.Helper()
	r, err := fsck.Run(context.Background(), fsck.Options{Ledger: filepath.Join(a.Dir, "data", "ledger.db"), Publish: filepath.Join(a.Dir, "data", "publish")})
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

// ByFormat takes an answer with one key apart.
func ByFormat(out contract.IssueAnswer) (mdoc, sdjwt contract.Credential) {
	for _, c := range out.Credentials {
		if c.Format == "mso_mdoc" {
			mdoc = c
		} else {
			sdjwt = c
		}
	}
	return mdoc, sdjwt
}

// Workers finds the HSM worker processes of the daemon.
func (a *Appliance) Workers() []int {
	a.t.Helper()
	out, err := exec.Command("pgrep", "-P", fmt.Sprint(a.Daemon.Process.Pid)).Output()
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

// NoPersons searches everything at rest, and what was logged, for what the requests said of persons.
func (a *Appliance) NoPersons(subject string) {
	a.t.Helper()
	look := func(where string, b []byte) {
		for _, word := range []string{Canary, subject, "1990-01-01"} {
			if bytes.Contains(b, []byte(word)) {
				a.t.Errorf("%s contains %q", where, word)
			}
		}
	}
	look("the log", []byte(a.Log.String()))
	err := filepath.Walk(filepath.Join(a.Dir, "data"), func(path string, i os.FileInfo, err error) error {
		if err != nil || i.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		look(path, b)
		return err
	})
	if err != nil {
		a.t.Fatal(err)
	}
}

// UntilUp waits for the issuance listener alone: a daemon that will crash in its publisher never gets ready.
func (a *Appliance) UntilUp() {
	a.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if _, _, err := a.Post("ward-office-1", "/v1/nonces", "", contract.NonceRequest{DocumentType: KR}); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	a.t.Fatalf("the daemon does not listen\n%s", a.Log.String())
}

// Command runs a command of the daemon on this installation and returns what it printed. The exit code must be want.
func (a *Appliance) Command(want int, args ...string) string {
	a.t.Helper()
	out, err := exec.Command(Binary, append(args, "--config", filepath.Join(a.Dir, "sealkeeper.yaml"))...).CombinedOutput()
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		a.t.Fatalf("%v: %v", args, err)
	}
	if got != want {
		a.t.Fatalf("%v ended with %d:\n%s", args, got, out)
	}
	return string(out)
}
