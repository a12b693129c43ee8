// Command demo tells the story of one card, against the real daemon over real mTLS: a phone gets its card, is lost, is found, and is
// replaced; and everything that must not work is tried and refused. It writes what verifiers need to DEMO_OUT. A second story, on an
// installation of its own, is that of the resident card with its real rules. `demo officers` tells a third one instead: that of the security officers.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
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
	"time"

	"sealkeeper/contract"
	"sealkeeper/tests/phone"
	"sealkeeper/tests/port"
	"sealkeeper/verifier"
)

const (
	documentType = "kr-resident"
	subject      = "900101-1234567"
	publicURL    = "https://cards.sealkeeper.example"
)

func main() {
	tell := run
	if len(os.Args) > 1 && os.Args[1] == "officers" {
		tell = officersStory
	}
	if err := tell(); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

type story struct {
	bin, work, out string
	issuance       string
	public         string
	operations     string
	clients        map[string]*http.Client
	provider       *phone.Provider
	daemon         *exec.Cmd
	transcript     []step
	chapter        string
}

// step is one line of transcript.json.
type step struct {
	Chapter      string  `json:"chapter"`
	Step         string  `json:"step"`
	Client       string  `json:"client,omitempty"`
	Method       string  `json:"method,omitempty"`
	Path         string  `json:"path,omitempty"`
	Status       int     `json:"status,omitempty"`
	Code         string  `json:"code,omitempty"`
	Milliseconds float64 `json:"milliseconds"`
}

func run() (err error) {
	began := time.Now()
	s := &story{bin: env("DEMO_BIN", "bin"), work: env("DEMO_WORK", ".demo/work"), out: env("DEMO_OUT", ".demo/out"), clients: map[string]*http.Client{}}
	for _, d := range []string{s.work, s.out} {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	if s.work, err = filepath.Abs(s.work); err != nil {
		return err
	}
	defer s.stop()
	for _, chapter := range []func() error{s.begin, s.issue, s.refusals, s.loss, s.found, s.replace, s.end} {
		if err := chapter(); err != nil {
			return fmt.Errorf("%s: %w", s.chapter, err)
		}
	}
	if err := s.write("transcript.json", s.transcript); err != nil {
		return err
	}
	fmt.Printf("\nThe story took %.1f s. Credentials, lists and certificates of every moment: %s\n", time.Since(began).Seconds(), s.out)
	return residents(s.bin, s.work+"-residents")
}

func env(name, byDefault string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return byDefault
}

func (s *story) title(text string) {
	s.chapter = text
	fmt.Printf("\n%s\n", text)
}

func (s *story) say(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }

// ---- 1: a new installation

func (s *story) begin() error {
	s.title("1. A new installation")
	now := time.Now()
	var err error
	if s.provider, err = phone.NewProvider(now, rand.Reader); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.work, "wallet-provider.pem"), s.provider.AnchorPEM(), 0o600); err != nil {
		return err
	}
	bundle, err := os.ReadFile("deploy/policies/demo.json")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.work, "policy.json"), bundle, 0o600); err != nil {
		return err
	}
	listen, err := s.listen()
	if err != nil {
		return err
	}
	conf := fmt.Sprintf(`installation: {name: Demo, country: KR, organization: Demo ministry}
data: data
high_water: witness/high-water.json
policy: policy.json
wallet_providers: [wallet-provider.pem]
public_url: %s
listen: %s
`, publicURL, listen)
	file := filepath.Join(s.work, "sealkeeper.yaml")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return err
	}
	t := time.Now()
	if err := s.command("init", "--dev", "--config", file); err != nil {
		return err
	}
	s.note("init", time.Since(t))
	clients := []string{"ward-office-1", "telecom-a", "loss-desk"}
	if err := s.command(append([]string{"enrol", "--config", file, "--out", filepath.Join(s.work, "clients")}, clients...)...); err != nil {
		return err
	}
	for _, id := range clients {
		if s.clients[id], err = mtls(filepath.Join(s.work, "clients", id)); err != nil {
			return err
		}
	}
	if err := s.serve(file); err != nil {
		return err
	}
	for _, name := range []string{"iaca", "ds", "sdjwt-issuer", "status-signer", "client-ca"} {
		if err := s.fetchFile("/certificates/"+name+".pem", filepath.Join("trust", name+".pem")); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // it is shown beside the start, which does not wait for it
		if err := s.fetchFile("/crl/iaca.crl", "trust/iaca.crl"); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// serve starts the daemon and waits until it is ready.
func (s *story) serve(file string) error {
	log, err := os.OpenFile(filepath.Join(s.work, "daemon.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	t := time.Now()
	s.daemon = exec.Command(filepath.Join(s.bin, "sealkeeperd"), "serve", "--config", file)
	s.daemon.Stdout, s.daemon.Stderr = log, log
	if err := s.daemon.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if r, err := http.Get(s.operations + "/readyz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			tail, _ := os.ReadFile(filepath.Join(s.work, "daemon.log"))
			return fmt.Errorf("the daemon does not get ready:\n%s", tail[max(0, len(tail)-4000):])
		}
	}
	s.note("serve until ready", time.Since(t))
	s.say("✓ the daemon is ready after %d ms", time.Since(t).Milliseconds())
	return nil
}

func (s *story) command(args ...string) error {
	c := exec.Command(filepath.Join(s.bin, "sealkeeperd"), args...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c.Run()
}

// listen finds three free ports, for the configuration.
func (s *story) listen() (string, error) {
	ports, err := port.Free(3)
	if err != nil {
		return "", err
	}
	s.issuance, s.public, s.operations = fmt.Sprintf("https://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1]), fmt.Sprintf("http://127.0.0.1:%d", ports[2])
	return fmt.Sprintf(`{issuance: "127.0.0.1:%d", public: "127.0.0.1:%d", operations: "127.0.0.1:%d"}`, ports[0], ports[1], ports[2]), nil
}

func mtls(dir string) (*http.Client, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	root, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	return &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, MinVersion: tls.VersionTLS13}}}, nil
}

// ---- the requests

// call sends one request and notes it. into is filled on success; a problem is returned by its code.
func (s *story) call(what, client, path, key string, body, into any) (code string, status int, err error) {
	raw, ok := body.([]byte)
	if !ok {
		if raw, err = json.Marshal(body); err != nil {
			return "", 0, err
		}
	}
	req, err := http.NewRequest(http.MethodPost, s.issuance+path, bytes.NewReader(raw))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	t := time.Now()
	r, err := s.clients[client].Do(req)
	if err != nil {
		return "", 0, err
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	took := time.Since(t)
	if err != nil {
		return "", 0, err
	}
	if r.StatusCode >= 300 {
		var p contract.Problem
		if err := json.Unmarshal(answer, &p); err != nil {
			return "", r.StatusCode, fmt.Errorf("%s: status %d without a problem: %q", path, r.StatusCode, answer)
		}
		code = p.Code
	} else if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			return "", r.StatusCode, err
		}
	}
	s.transcript = append(s.transcript, step{Chapter: s.chapter, Step: what, Client: client, Method: req.Method, Path: path, Status: r.StatusCode, Code: code, Milliseconds: ms(took)})
	return code, r.StatusCode, nil
}

func (s *story) note(what string, d time.Duration) {
	s.transcript = append(s.transcript, step{Chapter: s.chapter, Step: what, Milliseconds: ms(d)})
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// must is call that has to succeed.
func (s *story) must(what, client, path, key string, body, into any) error {
	code, status, err := s.call(what, client, path, key, body, into)
	if err == nil && code != "" {
		err = fmt.Errorf("%s %s: refused with %d %s", what, path, status, code)
	}
	return err
}

// refused is call that has to be refused with a code.
func (s *story) refused(what, client, path, key string, body any, status int, code string) error {
	got, st, err := s.call(what, client, path, key, body, nil)
	if err != nil {
		return err
	}
	if got != code || st != status {
		return fmt.Errorf("%s: expected %d %s, got %d %q", what, status, code, st, got)
	}
	s.say("✗ %-46s %d %s", what, st, got)
	return nil
}

func idempotencyKey() string {
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (s *story) nonce() (string, error) {
	var n contract.NonceAnswer
	err := s.must("a nonce", "ward-office-1", "/v1/nonces", "", contract.NonceRequest{DocumentType: documentType}, &n)
	return n.Nonce, err
}

// request is a good issue request of a phone.
func (s *story) request(p *phone.Phone, nonce string) contract.IssueRequest {
	now := time.Now()
	att := p.Attest(s.provider, nonce, now)
	return contract.IssueRequest{DocumentType: documentType, Subject: subject, Claims: claims(), Proof: p.Prove(0, s.audience(), nonce, now, ""), KeyAttestation: att}
}

func (s *story) audience() string { return "https://ward-office-1.example" }

func claims() map[string]any {
	return map[string]any{
		"family_name": "홍", "given_name": "길동", "birth_date": "1990-01-01", "address": "서울특별시 종로구 세종대로 209", "age_over_19": true,
		"issuing_country": "KR", "issuing_authority": "행정안전부", "document_number": "D-2026-000001", "issue_date": "2026-01-15", "expiry_date": "2036-01-14",
		"portrait": base64.RawURLEncoding.EncodeToString(portrait),
	}
}

// portrait is a JPEG of one grey pixel.
var portrait = func() []byte {
	b, err := base64.StdEncoding.DecodeString("/9j/4AAQSkZJRgABAQEAYABgAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/wAALCAABAAEBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/APn+v//Z")
	if err != nil {
		panic(err)
	}
	return b
}()

// ---- what is written for verifiers

func (s *story) write(name string, v any) error {
	b, ok := v.([]byte)
	if !ok {
		var err error
		if b, err = json.MarshalIndent(v, "", "  "); err != nil {
			return err
		}
		b = append(b, '\n')
	}
	path := filepath.Join(s.out, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

func (s *story) fetch(path string) (body []byte, mediaType string, err error) {
	r, err := http.Get(s.public + path)
	if err != nil {
		return nil, "", err
	}
	defer r.Body.Close()
	body, err = io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d", path, r.StatusCode)
	}
	mediaType, _, _ = strings.Cut(r.Header.Get("Content-Type"), ";")
	return body, mediaType, err
}

func (s *story) fetchFile(path, name string) error {
	b, _, err := s.fetch(path)
	if err != nil {
		return err
	}
	return s.write(name, b)
}

type listFile struct {
	URI       string `json:"uri"`
	MediaType string `json:"media_type"`
	File      string `json:"file"`
}

// lists stores every list of this moment as fetched over HTTP.
func (s *story) lists(moment string) error {
	r, err := http.Get(s.operations + "/status")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	var st contract.Status
	if err := json.NewDecoder(r.Body).Decode(&st); err != nil {
		return err
	}
	files := []listFile{}
	for _, l := range st.Lists {
		b, media, err := s.fetch(strings.TrimPrefix(l.URI, publicURL))
		if err != nil {
			return err
		}
		ext := ".jwt"
		if strings.HasSuffix(media, "+cwt") {
			ext = ".cwt"
		}
		files = append(files, listFile{URI: l.URI, MediaType: media, File: l.ID + ext})
		if err := s.write(filepath.Join("status", moment, l.ID+ext), b); err != nil {
			return err
		}
	}
	return s.write(filepath.Join("status", moment, "lists.json"), files)
}

type refs struct {
	MDoc  *contract.StatusRef `json:"mdoc,omitempty"`
	SDJWT *contract.StatusRef `json:"sdjwt,omitempty"`
}

// keep writes a phone's credentials and returns where their status is.
func (s *story) keep(dir string, a contract.IssueAnswer, p *phone.Phone) (refs, error) {
	var r refs
	for _, c := range a.Credentials {
		ref := c.Status
		name, data := "credential.sdjwt", []byte(c.Credential)
		if c.Format == "mso_mdoc" {
			raw, err := base64.RawURLEncoding.DecodeString(c.Credential)
			if err != nil {
				return r, err
			}
			name, data, r.MDoc = "credential.mdoc", raw, &ref
		} else {
			r.SDJWT = &ref
		}
		if err := s.write(filepath.Join(dir, name), data); err != nil {
			return r, err
		}
	}
	if p != nil {
		if err := s.write(filepath.Join(dir, "holder.jwk"), p.HolderJWK(0)); err != nil {
			return r, err
		}
	}
	return r, s.write(filepath.Join(dir, "status.json"), r)
}

// status reads one entry as a bank would: fetch, verify, look.
func (s *story) status(ref *contract.StatusRef) (byte, error) {
	b, _, err := s.fetch(strings.TrimPrefix(ref.URI, publicURL))
	if err != nil {
		return 0, err
	}
	pemRoot, err := os.ReadFile(filepath.Join(s.out, "trust", "iaca.pem"))
	if err != nil {
		return 0, err
	}
	block, _ := pem.Decode(pemRoot)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return 0, err
	}
	return verifier.VerifyStatus(b, ref.URI, ref.Index, []*x509.Certificate{root}, time.Now())
}

// await polls a list until an entry has a value.
func (s *story) await(ctx context.Context, ref *contract.StatusRef, want byte) error {
	for {
		got, err := s.status(ref)
		if err != nil {
			return err
		}
		if got == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("entry %d of %s is %d, wanted %d: %w", ref.Index, ref.URI, got, want, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

func (s *story) awaitAll(want map[*contract.StatusRef]byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for ref, v := range want {
		if err := s.await(ctx, ref, v); err != nil {
			return err
		}
	}
	return nil
}

var statusWord = map[byte]string{0: "VALID", 1: "INVALID", 2: "SUSPENDED"}

func (s *story) tell(who string, r refs) error {
	words := []string{}
	for name, ref := range map[string]*contract.StatusRef{"mdoc": r.MDoc, "SD-JWT VC": r.SDJWT} {
		if ref == nil {
			continue
		}
		v, err := s.status(ref)
		if err != nil {
			return err
		}
		words = append(words, name+" "+statusWord[v])
	}
	if len(words) == 2 && strings.HasPrefix(words[0], "S") {
		words[0], words[1] = words[1], words[0]
	}
	s.say("  %-34s %s", who, strings.Join(words, ", "))
	return nil
}

func (s *story) stop() {
	if s.daemon == nil || s.daemon.Process == nil {
		return
	}
	_ = s.daemon.Process.Signal(os.Interrupt)
	done := make(chan error, 1)
	go func() { done <- s.daemon.Wait() }()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		_ = s.daemon.Process.Kill()
		<-done
	}
	s.daemon = nil
}

var errStory = errors.New("the story took a wrong turn")

func (s *story) sealctl(args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(s.bin, "sealctl"), args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("sealctl %s: %w", args[0], err)
	}
	return string(out), err
}
