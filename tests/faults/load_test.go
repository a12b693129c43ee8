package faults

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
	"sealkeeper/verifier"
)

// load is issuance services and a carrier at work. Each client goes through the life of one card after the other, and repeats a request with
// its idempotency key and body until it is answered: an acknowledgement is what the appliance may never go back on.
type load struct {
	a      *appliance.Appliance
	t      testing.TB
	ctx    context.Context // ends when a client has waited too long
	stop   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
	acks   atomic.Int64 // acknowledged changes
	failed atomic.Int64 // requests whose first try was not answered with 2xx
	slow   atomic.Int64 // ns that the slowest acknowledged request took, its repetitions included
	broken atomic.Int64 // tries that were taken on and answered with an error: neither 2xx, nor that the appliance ends, nor a lost connection

	mu     sync.Mutex
	cards  []card
	nonces map[string]bool // r of each released SD-JWT VC
	fails  []string        // the first few
}

// card is what was acknowledged of one credential: its entry and what that has to be. The credential itself was verified when it came.
type card struct {
	contract.StatusRef
	want byte
}

const patience = 40 * time.Second

var subjects atomic.Int64 // over all loads: fresh subjects after each fault

func start(t testing.TB, a *appliance.Appliance, clients int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	l := &load{a: a, t: t, ctx: ctx, stop: make(chan struct{}), nonces: map[string]bool{}}
	a.As("ward-office-1")
	for range clients {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				if err := l.life(); err != nil {
					l.t.Errorf("a client gave up: %v", err)
					return
				}
			}
		})
	}
	return l
}

// life of one card: issued; then every second one is locked, every fourth moves to another phone.
func (l *load) life() error {
	n := subjects.Add(1)
	subject := fmt.Sprintf("person-%d", n)
	first, err := l.issue(subject, false)
	if err != nil {
		return err
	}
	want := [2]byte{verifier.Valid, verifier.Valid} // mdoc, SD-JWT VC
	if n%2 == 0 {
		if err := l.until("lock", func() (int, []byte, error) {
			return l.a.Post("telecom-a", "/v1/locks", "", contract.ChangeRequest{DocumentType: appliance.KR, Subject: subject, Reason: "telecom_lost"})
		}, nil); err != nil {
			return err
		}
		want = [2]byte{verifier.Invalid, verifier.Suspended}
	}
	if n%4 == 0 {
		second, err := l.issue(subject, true)
		if err != nil {
			return err
		}
		want = [2]byte{verifier.Invalid, verifier.Invalid}
		l.keep(second, [2]byte{verifier.Valid, verifier.Valid})
	}
	l.keep(first, want)
	return nil
}

// keep verifies what was released and notes what its status has to be.
func (l *load) keep(out contract.IssueAnswer, want [2]byte) {
	for _, c := range out.Credentials {
		n, err := 0, error(nil)
		if c.Format == "mso_mdoc" {
			var raw []byte
			if raw, err = base64.RawURLEncoding.DecodeString(c.Credential); err == nil {
				_, err = verifier.VerifyMDoc(raw, l.a.Roots, time.Now())
			}
		} else {
			n = 1
			_, err = verifier.VerifySDJWT([]byte(c.Credential), l.a.Roots, time.Now())
		}
		if err != nil {
			l.t.Errorf("a released credential does not verify: %v", err)
		}
		l.mu.Lock()
		l.cards = append(l.cards, card{c.Status, want[n]})
		if n == 1 {
			jws, _, _ := strings.Cut(c.Credential, "~")
			signature, _ := base64.RawURLEncoding.DecodeString(jws[strings.LastIndexByte(jws, '.')+1:])
			if r := string(signature[:min(len(signature), 32)]); l.nonces[r] {
				l.t.Error("two released signatures of one key have the same r: they give the key away")
			} else {
				l.nonces[r] = true
			}
		}
		l.mu.Unlock()
	}
}

func (l *load) issue(subject string, replace bool) (out contract.IssueAnswer, err error) {
	p, err := phone.New(1)
	if err != nil {
		return out, err
	}
	var nonce contract.NonceAnswer
	if err := l.until("nonce", func() (int, []byte, error) {
		return l.a.Post("ward-office-1", "/v1/nonces", "", contract.NonceRequest{DocumentType: appliance.KR})
	}, &nonce); err != nil {
		return out, err
	}
	now := time.Now()
	body, err := json.Marshal(contract.IssueRequest{DocumentType: appliance.KR, Subject: subject, Claims: appliance.Claims(), Replace: replace,
		Proof: p.Prove(0, appliance.Audience, nonce.Nonce, now, ""), KeyAttestation: p.Attest(appliance.Provider, nonce.Nonce, now)})
	if err != nil {
		return out, err
	}
	key := client.NewKey()
	err = l.until("issue", func() (int, []byte, error) { return l.a.Post("ward-office-1", "/v1/credentials", key, body) }, &out)
	return out, err
}

// until repeats a request until it is answered with 2xx. A refusal that a repetition can't change is an error of the test's.
func (l *load) until(what string, try func() (int, []byte, error), to any) error {
	began := time.Now()
	deadline := began.Add(patience)
	for n := 0; ; n++ {
		status, b, err := try()
		if err == nil && status/100 == 2 {
			for took, old := int64(time.Since(began)), l.slow.Load(); took > old && !l.slow.CompareAndSwap(old, took); old = l.slow.Load() {
			}
			l.acks.Add(1)
			if to == nil {
				return nil
			}
			return json.Unmarshal(b, to)
		}
		if err == nil && status != http.StatusTooManyRequests && appliance.Code(b) != "draining" {
			l.broken.Add(1)
		}
		if n == 0 {
			l.failed.Add(1)
			l.mu.Lock()
			if len(l.fails) < 4 {
				l.fails = append(l.fails, fmt.Sprintf("%s: %d %.160s %v", what, status, b, err))
			}
			l.mu.Unlock()
		}
		if err == nil && status/100 == 4 && status != http.StatusTooManyRequests && status != http.StatusConflict {
			return fmt.Errorf("%s was refused: %d %.300s", what, status, b)
		}
		if time.Now().After(deadline) || l.ctx.Err() != nil {
			return fmt.Errorf("%s was not answered within %s: %d %.300s %v", what, patience, status, b, err)
		}
		time.Sleep(25 * time.Millisecond)
	}
}

func (l *load) slowest() time.Duration { return time.Duration(l.slow.Load()).Round(time.Millisecond) }

// more waits until n further changes were acknowledged.
func (l *load) more(n int64) {
	l.t.Helper()
	deadline := time.Now().Add(patience)
	for want := l.acks.Load() + n; l.acks.Load() < want; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatalf("nothing is acknowledged any more; at first failed: %s", strings.Join(l.fails, "\n"))
		}
	}
}

// end lets every client finish its card.
func (l *load) end() {
	l.once.Do(func() { close(l.stop) })
	l.wg.Wait()
}

// verify looks at everything that was acknowledged: no index is there twice, and each status comes to be what it must be.
func (l *load) verify() {
	l.t.Helper()
	used := map[string]bool{}
	for _, c := range l.cards {
		if ref := fmt.Sprint(c.StatusRef); used[ref] {
			l.t.Errorf("index %s was used twice", ref)
		} else {
			used[ref] = true
		}
	}
	deadline := time.Now().Add(time.Minute)
	for {
		wrong := l.wrong()
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(deadline) {
			l.t.Errorf("%d of %d acknowledged entries are lost: %s", len(wrong), len(l.cards), wrong[0])
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// wrong compares the lists, each fetched and verified once, with what was acknowledged.
func (l *load) wrong() (out []string) {
	lists := map[string]*verifier.StatusList{}
	for _, c := range l.cards {
		list := lists[c.URI]
		if list == nil {
			var err error
			if list, err = fetch(l.a, c.URI, l.a.Roots); err != nil {
				return []string{err.Error()}
			}
			lists[c.URI] = list
		}
		if got, ok := list.Get(c.Index); !ok || got != c.want {
			out = append(out, fmt.Sprintf("%s %d is %d and must be %d", c.URI, c.Index, got, c.want))
		}
	}
	return out
}

func fetch(a *appliance.Appliance, uri string, roots []*x509.Certificate) (*verifier.StatusList, error) {
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", a.Ports[1], strings.TrimPrefix(uri, appliance.PublicURL)))
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %d %v", uri, r.StatusCode, err)
	}
	list, err := verifier.DecodeStatusList(b, verifier.MaxEntries)
	if err != nil {
		return nil, err
	}
	return list, list.Verify(roots, time.Now())
}
