package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"sealkeeper/contract"
	"sealkeeper/officer"
	"sealkeeper/policy"
	"sealkeeper/softhsm"
	"sealkeeper/tests/port"
)

// Enrolments by one-time token, over TLS connections that stay open: ours, with the registration authority, the daemon and its workers, next to a
// stock step-ca as its makers build and configure it, with badger as its database and the very key that signs our clients' certificates, in a
// copy of the token. Both get the same certificate requests in form, each for a key of its own. Tokens are fetched, and requests made, before.
const (
	enrolClients = 64
	// Whoever certifies a key for a token has to verify the token, that the requester has the key, and what it is about to hand out; and signs.
	enrolVerifications = 3
)

// authority is what clients enrol at.
type authority struct {
	name   string
	url    string
	port   int
	root   *x509.Certificate
	cpu    func() (time.Duration, error)
	tokens func(ctx context.Context, ids []string) ([]string, error)
}

func clientURI(id string) string { return "urn:sealkeeper:client:issuance:" + id }

// enrol measures one round, and what its tokens took of the servers.
func (a *authority) enrol(ctx context.Context, ids []string) (r result, making time.Duration, err error) {
	before, err := a.cpu()
	if err != nil {
		return r, 0, err
	}
	tokens, err := a.tokens(ctx, ids)
	if err != nil {
		return r, 0, fmt.Errorf("tokens: %w", err)
	}
	after, err := a.cpu()
	if err != nil {
		return r, 0, err
	}
	making = after - before
	requests, keys := make([][]byte, len(ids)), make([]*ecdsa.PrivateKey, len(ids))
	failed := make([]error, len(ids))
	var all sync.WaitGroup
	for part := range runtime.NumCPU() {
		all.Go(func() {
			for i := part; i < len(ids) && ctx.Err() == nil; i += runtime.NumCPU() {
				var csr []byte
				if csr, keys[i], failed[i] = csrFor(ids[i]); failed[i] == nil {
					requests[i] = request("/1.0/sign", map[string]string{"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})), "ott": tokens[i]})
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(append(failed, ctx.Err())...); err != nil {
		return r, 0, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.root)
	answers := make([][]byte, len(ids))
	r, err = drive(ctx, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "127.0.0.1"}, a.port, enrolClients, requests, a.cpu, func(i int, body []byte) error {
		answers[i] = body
		return nil
	})
	if err != nil {
		return r, 0, err
	}
	for i, body := range answers {
		if err := certified(body, keys[i], ids[i], roots); err != nil {
			return r, 0, fmt.Errorf("certificate of %s: %w", ids[i], err)
		}
	}
	return r, making, nil
}

func csrFor(id string) ([]byte, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	u, err := url.Parse(clientURI(id))
	if err != nil {
		return nil, nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: id}, URIs: []*url.URL{u}}, key)
	return csr, key, err
}

// certified looks whether an answer has what was asked for, once the round is over.
func certified(body []byte, key *ecdsa.PrivateKey, id string, roots *x509.CertPool) error {
	var answer struct {
		Certificate string `json:"crt"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	block, _ := pem.Decode([]byte(answer.Certificate))
	if block == nil {
		return fmt.Errorf("there is none in %.200s", body)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(c.PublicKey) || len(c.URIs) != 1 || c.URIs[0].String() != clientURI(id) {
		return errors.New("it is for somebody else")
	}
	_, err = c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// serving starts a server and waits until it accepts TLS.
func serving(ctx context.Context, dir string, port int, cmd *exec.Cmd) (stop func(), err error) {
	log, err := os.OpenFile(filepath.Join(dir, filepath.Base(cmd.Path)+".log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		_ = cmd.Wait()
	}
	for began := time.Now(); time.Since(began) < 30*time.Second; {
		c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{InsecureSkipVerify: true}) // whether it is there is all that is asked
		if err == nil {
			return stop, c.Close()
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			stop()
			return nil, err
		}
	}
	stop()
	said, _ := os.ReadFile(log.Name())
	return nil, fmt.Errorf("%s does not get ready:\n%s", filepath.Base(cmd.Path), said[max(0, len(said)-4000):])
}

// ours founds an installation with a registration authority and has officers enrol all clients by one approval.
func (b *bench) ours(ctx context.Context, clients []string) (a *authority, g *board, stop func(), err error) {
	ports, err := port.Free(1)
	if err != nil {
		return nil, nil, nil, err
	}
	a = &authority{name: "sealkeeper", port: ports[0]}
	a.url = fmt.Sprintf("https://127.0.0.1:%d", a.port)
	dir := filepath.Join(b.work, "enrol")
	g, err = installGoverned(ctx, dir, b.bin, func(f *founding) {
		f.bundle = bytes.Replace(f.bundle, []byte(`"clients": [`), []byte(`"enrolled": [{"role": "issuance", "channel": "office", "issuer": "https://offices.example", "may": {"kr-resident": ["issue"]}}],
			"clients": [{"id": "ra-1", "role": "ra", "may": {}},`), 1)
		f.clients = append(f.clients, "ra-1")
		f.conf = "ra_url: " + a.url + "\n"
	})
	if err != nil {
		return nil, nil, nil, err
	}
	p := &officer.Enrol{Until: time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second), Reason: "bench"}
	for _, id := range clients {
		p.Clients = append(p.Clients, policy.Enrolment{ID: id, Role: "issuance", Channel: "office", Office: "11110", District: "11110", Life: 86400})
	}
	if err := g.decide(ctx, officer.ClientEnrol, p); err != nil {
		return nil, nil, nil, err
	}
	ra := exec.Command(filepath.Join(b.bin, "sealkeeper-ra"), "--appliance", fmt.Sprintf("https://127.0.0.1:%d", g.ports[0]), "--identity", filepath.Join(dir, "clients", "ra-1"),
		"--listen", fmt.Sprintf("127.0.0.1:%d", a.port))
	end, err := serving(ctx, dir, a.port, ra)
	if err != nil {
		return nil, nil, nil, err
	}
	stop = func() { end(); _ = g.stop() }
	ca, err := os.ReadFile(filepath.Join(dir, "clients", "ra-1", "ca.pem"))
	if err != nil {
		stop()
		return nil, nil, nil, err
	}
	block, _ := pem.Decode(ca)
	if a.root, err = x509.ParseCertificate(block.Bytes); err != nil {
		stop()
		return nil, nil, nil, err
	}
	a.cpu = func() (time.Duration, error) {
		daemon, err := g.cpu()
		if err != nil {
			return 0, err
		}
		front, err := cpuOfAll(ra.Process.Pid)
		return daemon + front, err
	}
	a.tokens = func(ctx context.Context, ids []string) ([]string, error) {
		ask, tokens := make([][]byte, len(ids)), make([]string, len(ids))
		for i, id := range ids {
			ask[i] = request("/v1/clients/tokens", contract.TokenRequest{Client: id})
		}
		_, err := drive(ctx, g.tls["officers"], g.ports[0], 8, ask, nothing, func(i int, body []byte) error {
			var t contract.TokenAnswer
			err := json.Unmarshal(body, &t)
			tokens[i] = t.Token
			return err
		})
		return tokens, err
	}
	return a, g, stop, nil
}

// theirs configures step-ca as `step ca init` does, with its intermediate key in a copy of our token: the client CA's own, under its own certificate.
func (b *bench) theirs(ctx context.Context, g *board, root *x509.Certificate) (a *authority, stop func(), err error) {
	ports, err := port.Free(1)
	if err != nil {
		return nil, nil, err
	}
	a = &authority{name: "step-ca", root: root, port: ports[0]}
	a.url = fmt.Sprintf("https://127.0.0.1:%d", a.port)
	dir := filepath.Join(b.work, "step-ca")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	token := filepath.Join(dir, "token")
	if err := copyToken(filepath.Join(g.dir, "data", "tokens", "online"), token); err != nil {
		return nil, nil, err
	}
	serial, err := softhsm.Serial(token)
	if err != nil {
		return nil, nil, err
	}
	module, err := softhsm.FindModule("")
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	jwk := jose.JSONWebKey{Key: key, Algorithm: "ES256", Use: "sig"}
	thumbprint, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, nil, err
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	cert := filepath.Join(dir, "ca.crt")
	kms := fmt.Sprintf("pkcs11:module-path=%s;serial=%s?pin-source=%s", module, serial, filepath.Join(g.dir, "data", "pins", "online"))
	config, err := json.MarshalIndent(map[string]any{
		"root": cert, "crt": cert, "key": "pkcs11:object=client-ca-1", "kms": map[string]string{"type": "pkcs11", "uri": kms},
		"address": fmt.Sprintf("127.0.0.1:%d", a.port), "dnsNames": []string{"127.0.0.1"}, "logger": map[string]string{"format": "text"},
		"db":        map[string]string{"type": "badgerv2", "dataSource": filepath.Join(dir, "db")},
		"authority": map[string]any{"provisioners": []any{map[string]any{"type": "JWK", "name": "bench", "key": jwk.Public()}}},
		"tls":       map[string]any{"minVersion": 1.2, "maxVersion": 1.3, "renegotiation": false},
	}, "", " ")
	if err != nil {
		return nil, nil, err
	}
	for name, data := range map[string][]byte{cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), filepath.Join(dir, "ca.json"): config} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return nil, nil, err
		}
	}
	ca := exec.Command(filepath.Join(b.bin, "step-ca"), filepath.Join(dir, "ca.json"))
	ca.Env = append(append(os.Environ(), softhsm.Env(token)...), "STEPPATH="+dir, "GOGC=400") // as our processes set it themselves
	if stop, err = serving(ctx, dir, a.port, ca); err != nil {
		return nil, nil, err
	}
	a.cpu = func() (time.Duration, error) { return cpuOfAll(ca.Process.Pid) }
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jwk}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		stop()
		return nil, nil, err
	}
	sha := sha256.Sum256(root.Raw)
	a.tokens = func(_ context.Context, ids []string) ([]string, error) {
		tokens := make([]string, len(ids))
		now := time.Now()
		for i, id := range ids {
			var err error
			tokens[i], err = jwt.Signed(signer).Claims(map[string]any{"iss": "bench", "aud": a.url + "/1.0/sign", "sub": id, "sans": []string{clientURI(id)}, "sha": hex.EncodeToString(sha[:]),
				"jti": rand.Text(), "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()}).Serialize()
			if err != nil {
				return nil, err
			}
		}
		return tokens, nil
	}
	return a, stop, nil
}

// enrol compares enrolments per server CPU second, in turns.
func (b *bench) enrol(ctx context.Context) error {
	n := b.size.enrolments
	var clients [][]string // of each round; the first is to get warm
	var all []string
	for round := range b.size.enrolRounds + 1 {
		ids := make([]string, n)
		if round == 0 {
			ids = ids[:n/4]
		}
		for i := range ids {
			ids[i] = fmt.Sprintf("office-%d-%d", round, i)
		}
		clients, all = append(clients, ids), append(all, ids...)
	}
	b.progress("enrolling: installing")
	ours, g, stop, err := b.ours(ctx, all)
	if err != nil {
		return err
	}
	defer stop()
	theirs, stop, err := b.theirs(ctx, g, ours.root)
	if err != nil {
		return err
	}
	defer stop()
	var of [2][]result
	var verify, hsm, tokens []float64
	for round, ids := range clients {
		for i := range 2 {
			i ^= round & 1 // in turns, so that neither always comes after the floors
			a := []*authority{ours, theirs}[i]
			r, making, err := a.enrol(ctx, ids)
			if err != nil {
				return fmt.Errorf("enrolling at %s: %w", a.name, err)
			}
			if round > 0 {
				of[i] = append(of[i], r)
			}
			if round > 0 && i == 0 {
				tokens = append(tokens, float64(making.Microseconds())/float64(r.done))
			}
			b.progress("enrolling, round %d of %d: %s: %.0f CPU µs each, %.0f /s", round, b.size.enrolRounds, a.name, 1e6/r.perCPU(), r.perSecond())
		}
		f, err := b.floors(ctx, g.appliance)
		if err != nil {
			return err
		}
		verify, hsm = append(verify, f.verify), append(hsm, f.hsm)
	}
	us := enrolVerifications*median(verify) + median(hsm)
	mine, other := median(each(of[0], result.perCPU)), median(each(of[1], result.perCPU))
	ratios := make([]float64, len(of[0])) // of neighbouring rounds: how far a busy machine throws them
	for i := range ratios {
		ratios[i] = of[0][i].perCPU() / of[1][i].perCPU()
	}
	b.against("enrol_per_cpu_s", mine, "1/CPU s", 1e6/us, us*mine/1e6)
	b.against("enrol_stepca_per_cpu_s", other, "1/CPU s", 1e6/us, us*other/1e6)
	b.against("enrol_vs_stepca", mine/other, "1", 1, mine/other)
	b.add("enrol_token_cpu_us", median(tokens), "CPU µs")
	b.add("enrol_vs_stepca_with_token", 1e6/(1e6/mine+median(tokens))/other, "1")
	fmt.Printf("\n%-12s %7s %8s %8s %8s %11s %7s %9s %6s\n", "enrolments", "clients", "req/s", "p50 ms", "p99 ms", "per CPU s", "CPU µs", "floor µs", "ratio")
	for i, a := range []*authority{ours, theirs} {
		perCPU := median(each(of[i], result.perCPU))
		fmt.Printf("%-12s %7d %8.0f %8.1f %8.1f %11.0f %7.0f %9.0f %6.2f\n", a.name, enrolClients, median(each(of[i], result.perSecond)), median(each(of[i], func(r result) float64 { return r.quantile(0.5) })),
			median(each(of[i], func(r result) float64 { return r.quantile(0.99) })), perCPU, 1e6/perCPU, us, us*perCPU/1e6)
	}
	fmt.Printf("Ours next to step-ca: %.2f (%d rounds: neighbours %.2f to %.2f, their median %.2f)\n", mine/other, len(ratios), slices.Min(ratios), slices.Max(ratios), median(ratios))
	fmt.Printf("A token costs the appliance %.0f CPU µs, step-ca's server nothing; with it ours next to step-ca is %.2f\n", median(tokens), 1e6/(1e6/mine+median(tokens))/other)
	return nil
}
