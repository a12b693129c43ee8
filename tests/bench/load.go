package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sealkeeper/contract"
	"sealkeeper/tests/phone"
	"sealkeeper/verifier"
)

const (
	documentType = "kr-resident"
	audience     = "https://ward-office-1.example"
)

// result of one measurement.
type result struct {
	done      int
	wall, cpu time.Duration
	latency   []float64 // ms, sorted
	verify    float64   // CPU µs of a P-256 verification on this machine meanwhile
	sign      float64   // CPU µs of a signature of the HSM meanwhile, 0 where it isn't measured
}

func (r result) perSecond() float64 { return float64(r.done) / r.wall.Seconds() }
func (r result) perCPU() float64    { return float64(r.done) / r.cpu.Seconds() }

// worth is what is done in the CPU time of a verification: the machine's speed, which changes from second to second, is not in it.
func (r result) worth() float64 { return r.perCPU() * r.verify }

func (r result) quantile(q float64) float64 { return quantile(r.latency, q) }

// line is one client's kept-alive connection. It writes requests that are bytes already, so that the load generator takes as little of the
// machine as it can.
type line struct {
	conn *tls.Conn
	in   *bufio.Reader
}

func dial(c *tls.Config, port int) (*line, error) {
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), c)
	if err != nil {
		return nil, err
	}
	return &line{conn, bufio.NewReaderSize(conn, 16<<10)}, nil
}

// ask sends one request and reads its answer; keep says whether the body is wanted.
func (l *line) ask(request []byte, keep bool) ([]byte, error) {
	if err := l.conn.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := l.conn.Write(request); err != nil {
		return nil, err
	}
	r, err := http.ReadResponse(l.in, nil)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	good := r.StatusCode == http.StatusOK || r.StatusCode == http.StatusCreated
	if !good || keep {
		b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil && !good {
			err = fmt.Errorf("status %d: %s", r.StatusCode, b)
		}
		return b, err
	}
	_, err = io.Copy(io.Discard, r.Body)
	return nil, err
}

func request(path string, body any) []byte {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // types of our own
	}
	var key [24]byte
	rand.Read(key[:])
	extra := ""
	if strings.HasPrefix(path, "/v1/credentials") {
		extra = "Idempotency-Key: " + base64.RawURLEncoding.EncodeToString(key[:]) + "\r\n"
	}
	return append(fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n", path, extra, len(b)), b...)
}

// drive sends all requests over n connections, each as soon as the one before is answered.
func drive(ctx context.Context, c *tls.Config, port, n int, requests [][]byte, cpu func() (time.Duration, error), answer func(i int, body []byte) error) (result, error) {
	lines := make([]*line, n)
	for i := range lines {
		l, err := dial(c, port)
		if err != nil {
			return result{}, err
		}
		defer l.conn.Close()
		lines[i] = l
	}
	var next atomic.Int64
	var stop atomic.Bool
	var mu sync.Mutex
	var failed error
	r := result{done: len(requests), latency: make([]float64, len(requests))}
	verified, err := verifying()
	if err != nil {
		return r, err
	}
	runtime.GC() // ours, not in the measured time
	before, err := cpu()
	if err != nil {
		return r, err
	}
	began := time.Now()
	var all sync.WaitGroup
	for _, l := range lines {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(requests) || stop.Load() || ctx.Err() != nil {
					return
				}
				t := time.Now()
				body, err := l.ask(requests[i], answer != nil)
				r.latency[i] = float64(time.Since(t).Microseconds()) / 1000
				if err == nil && answer != nil {
					err = answer(i, body)
				}
				if err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
					stop.Store(true)
					return
				}
			}
		})
	}
	all.Wait()
	r.wall = time.Since(began)
	after, err := cpu()
	r.cpu = after - before
	slices.Sort(r.latency)
	var verr error
	r.verify, verr = verified()
	return r, errors.Join(failed, err, verr, ctx.Err())
}

func nothing() (time.Duration, error) { return 0, nil }

// ready are valid requests, each for a person and a phone of its own, with a nonce that was fetched before.
type ready struct {
	requests [][]byte
	subjects []string
}

func (a *appliance) prepare(ctx context.Context, formats []string, n int) (ready, error) {
	if a.by != nil {
		return a.prepareFull(ctx, formats, n)
	}
	nonces := make([]string, n)
	ask := make([][]byte, n)
	for i := range ask {
		ask[i] = request("/v1/nonces", contract.NonceRequest{DocumentType: documentType})
	}
	_, err := drive(ctx, a.tls["ward-office-1"], a.ports[0], 8, ask, nothing, func(i int, body []byte) error {
		var answer contract.NonceAnswer
		err := json.Unmarshal(body, &answer)
		nonces[i] = answer.Nonce
		return err
	})
	if err != nil {
		return ready{}, fmt.Errorf("fetching nonces: %w", err)
	}
	out := ready{make([][]byte, n), make([]string, n)}
	now := time.Now()
	first := a.serial
	a.serial += n
	failed := make([]error, n)
	var all sync.WaitGroup
	for part := range runtime.NumCPU() {
		all.Go(func() {
			for i := part; i < n && ctx.Err() == nil; i += runtime.NumCPU() {
				p, err := phone.New(1)
				if err != nil {
					failed[i] = err
					return
				}
				out.subjects[i] = fmt.Sprintf("900101-%07d", first+i)
				out.requests[i] = request("/v1/credentials", contract.IssueRequest{DocumentType: documentType, Subject: out.subjects[i], Claims: claims(first + i), Formats: formats,
					Proof: p.Prove(0, audience, nonces[i], now, ""), KeyAttestation: p.Attest(a.provider, nonces[i], now)})
			}
		})
	}
	all.Wait()
	return out, errors.Join(append(failed, ctx.Err())...)
}

func claims(n int) map[string]any {
	return map[string]any{
		"family_name": "홍", "given_name": "길동", "birth_date": "1990-01-01", "address": "서울특별시 종로구 세종대로 209", "age_over_19": true,
		"issuing_country": "KR", "issuing_authority": "행정안전부", "document_number": fmt.Sprintf("D-2026-%07d", n), "issue_date": "2026-01-15", "expiry_date": "2036-01-14",
		"portrait": base64.RawURLEncoding.EncodeToString(portrait),
	}
}

// portrait is a JPEG of one grey pixel: the weight of a portrait is hashing and copying, which is not what is measured here.
var portrait = func() []byte {
	b, err := base64.StdEncoding.DecodeString("/9j/4AAQSkZJRgABAQEAYABgAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/wAALCAABAAEBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/APn+v//Z")
	if err != nil {
		panic(err)
	}
	return b
}()

// issue measures n single issues over some connections.
func (a *appliance) issue(ctx context.Context, formats []string, n, clients int) (result, []string, error) {
	p, err := a.prepare(ctx, formats, n)
	if err != nil {
		return result{}, nil, err
	}
	signed := a.signing.meanwhile()
	r, err := drive(ctx, a.tls["ward-office-1"], a.ports[0], clients, p.requests, a.cpu, nil)
	micros, err2 := signed()
	r.sign = micros
	return r, p.subjects, errors.Join(err, err2)
}

func lockOf(subject string) []byte {
	return request("/v1/locks", contract.ChangeRequest{DocumentType: documentType, Subject: subject, Reason: "telecom_lost"})
}

// lock measures one lock for each subject.
func (a *appliance) lock(ctx context.Context, subjects []string, clients int) (result, error) {
	requests := make([][]byte, len(subjects))
	for i, s := range subjects {
		requests[i] = lockOf(s)
	}
	return drive(ctx, a.tls["telecom-a"], a.ports[0], clients, requests, a.cpu, nil)
}

// lockToFetchable locks one card after the other while 64 clients issue as fast as they can, and measures from sending the lock until the
// signed lists that a verifier fetches and verifies show it, both of them.
func (a *appliance) lockToFetchable(ctx context.Context, samples int) ([]time.Duration, error) {
	const perSample = 300 // issue requests, more than are answered during one lock
	cards, err := a.prepare(ctx, nil, samples)
	if err != nil {
		return nil, err
	}
	where := make([][]contract.StatusRef, samples)
	if _, err := drive(ctx, a.tls["ward-office-1"], a.ports[0], 8, cards.requests, nothing, func(i int, body []byte) error {
		var answer contract.IssueAnswer
		err := json.Unmarshal(body, &answer)
		for _, c := range answer.Credentials {
			where[i] = append(where[i], c.Status)
		}
		return err
	}); err != nil {
		return nil, err
	}
	load, err := a.prepare(ctx, []string{"dc+sd-jwt"}, min(samples*perSample, 20000))
	if err != nil {
		return nil, err
	}
	var out []time.Duration
	var failed error
	ctx, end := context.WithCancel(ctx)
	defer end()
	loaded := make(chan error, 1)
	go func() {
		_, err := drive(ctx, a.tls["ward-office-1"], a.ports[0], 64, load.requests, nothing, nil)
		loaded <- err
	}()
	carrier, err := dial(a.tls["telecom-a"], a.ports[0])
	if err != nil {
		return nil, err
	}
	defer carrier.conn.Close()
	for i := range cards.subjects {
		select {
		case err := <-loaded: // later samples would be without load
			return out, errors.Join(failed, err)
		default:
		}
		began := time.Now()
		if _, err := carrier.ask(lockOf(cards.subjects[i]), false); err != nil {
			return out, err
		}
		for _, ref := range where[i] {
			for {
				token, err := a.public(ctx, strings.TrimPrefix(ref.URI, publicURL))
				if err != nil {
					return out, err
				}
				shown, err := verifier.VerifyStatus(token, ref.URI, ref.Index, []*x509.Certificate{a.root}, time.Now())
				if err != nil {
					return out, err
				}
				if shown != 0 {
					break
				}
				if err := sleep(ctx, 2*time.Millisecond); err != nil {
					return out, err
				}
			}
		}
		out = append(out, time.Since(began))
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return out, err
		}
	}
	end()
	if err := <-loaded; !errors.Is(err, context.Canceled) {
		failed = err
	}
	return out, failed
}
