package scenario

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/tests/phone"
	"sealkeeper/verifier"
)

// plan has two officers decide on a key that takes over at an instant; a zero one has it stand by.
func (g *governed) plan(id, purpose, succeeds string, announce, activate time.Time, more ...string) {
	g.t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	args := []string{"propose", "key.generate", "key=" + id, "purpose=" + purpose, "token=online", "algorithm=ES256", "name=Test " + id, "announce=" + announce.UTC().Format(time.RFC3339),
		"use_until=" + now.Add(300*24*time.Hour).Format(time.RFC3339), "certificate_until=" + now.Add(400*24*time.Hour).Format(time.RFC3339), "reason=rotation"}
	if !activate.IsZero() {
		args = append(args, "activate="+activate.UTC().Format(time.RFC3339))
	}
	if succeeds != "" {
		args = append(args, "succeeds="+succeeds)
	}
	g.together(append(args, more...)...)
}

// together has kim propose, lee approve, and the appliance execute.
func (g *governed) together(args ...string) contract.Proposal {
	g.t.Helper()
	p := g.officer(0, "kim", args...)
	g.officer(0, "lee", "approve", p.ID)
	if p = g.execute(0, p.ID); p.State != "executed" {
		g.t.Fatalf("%+v", p)
	}
	return p
}

func (g *governed) trust() *verifier.Trust {
	g.t.Helper()
	t, err := verifier.ParseTrust(g.Get("/trust.json"))
	if err != nil {
		g.t.Fatal(err)
	}
	return t
}

// state of a key as operators see it.
func (g *governed) state(id string) string {
	for _, k := range g.Operations().Keys {
		if k.ID == id {
			return k.State
		}
	}
	return "none"
}

func (g *governed) until(id, state string, within time.Duration) {
	g.t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		is := g.state(id)
		if is == state || state == "announced" && is == "active" { // a slow machine looked too late
			return
		}
		if time.Since(began) > within {
			g.t.Fatalf("key %s is %s after %s, not %s", id, is, within, state)
		}
	}
}

// load issues as fast as it can, checks every card as a bank would that has the trust bundle alone, and fails for every request that is not answered.
type load struct {
	g           *governed
	all         sync.WaitGroup
	end         atomic.Bool
	compromised atomic.Bool // what a key signed before it was compromised is not believed, and should not be
	halted      atomic.Bool // the officers stopped issuing: refusals with that code are due
	done        atomic.Int64
	clients     int64
	waiting     atomic.Int64 // clients whose request was refused because officers stopped issuing, and who send it again
	mu          sync.Mutex
	failed      []string
	signer      map[string]int // how many cards by certificate
}

func (g *governed) load(n int, prefix string) *load {
	l := &load{g: g, clients: int64(n), signer: map[string]int{}}
	for i := range n {
		l.all.Go(func() {
			for n := 0; !l.end.Load(); n++ {
				l.one(fmt.Sprintf("%s-%d-%d", prefix, i, n))
			}
		})
	}
	return l
}

func (l *load) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, fmt.Sprintf(format, args...))
}

// one sends a request with no retry but those that an answer asks for: a request that was refused because officers stopped issuing is sent again.
func (l *load) one(subject string) {
	p, err := phone.New(1)
	if err != nil {
		l.fail("%v", err)
		return
	}
	r, err := l.g.TryRequest(p, subject)
	if err != nil {
		l.fail("nonce: %v", err)
		return
	}
	key := client.NewKey()
	for refused := false; ; {
		status, body, err := l.g.Post("ward-office-1", "/v1/credentials", key, r)
		switch {
		case err != nil:
			l.fail("%s: %v", subject, err)
			return
		case status == http.StatusOK:
			l.check(subject, body)
			l.done.Add(1)
			return
		case code(body) == "issuing.stopped" && (l.halted.Load() || !l.end.Load()):
			if !refused {
				refused = true
				l.waiting.Add(1)
				defer l.waiting.Add(-1)
			}
			time.Sleep(50 * time.Millisecond)
		default:
			l.fail("%s: %d %s", subject, status, body)
			return
		}
	}
}

func (l *load) check(subject string, body []byte) {
	var out contract.IssueAnswer
	if err := json.Unmarshal(body, &out); err != nil {
		l.fail("%s: %v", subject, err)
		return
	}
	t, err := verifier.ParseTrust(l.g.Get("/trust.json"))
	if err != nil {
		l.fail("trust bundle: %v", err)
		return
	}
	roots := t.Roots(l.g.Roots, time.Now())
	m, s := byFormat(out)
	raw, err := base64.RawURLEncoding.DecodeString(m.Credential)
	if err != nil {
		l.fail("%v", err)
		return
	}
	md, err := verifier.VerifyMDoc(raw, roots, time.Now())
	if err == nil {
		err = t.Believes(md.Signer, "mdoc", time.Now())
	}
	if err != nil && l.compromised.Load() && strings.HasSuffix(err.Error(), "is compromised: nothing that it signed is to be believed") {
		return
	}
	if err != nil {
		l.fail("%s: mdoc: %v", subject, err)
		return
	}
	sd, err := verifier.VerifySDJWT([]byte(s.Credential), roots, time.Now())
	if err == nil {
		err = t.Believes(sd.Signer, "sd-jwt", time.Now())
	}
	if err != nil {
		l.fail("%s: SD-JWT VC: %v", subject, err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range []*x509.Certificate{md.Signer, sd.Signer} {
		l.signer[c.Subject.CommonName]++
	}
}

// stop ends the load, and demands that nothing failed.
func (l *load) stop() {
	l.g.t.Helper()
	l.end.Store(true)
	l.all.Wait()
	if len(l.failed) > 0 {
		l.g.t.Errorf("%d of %d requests failed; the first: %s", len(l.failed), int(l.done.Load())+len(l.failed), l.failed[0])
	}
}

// more waits until as many cards more were issued.
func (l *load) more(n int64) {
	for from, began := l.done.Load(), time.Now(); l.done.Load() < from+n && time.Since(began) < 20*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
}

// still waits until every client was refused, so that no answer is on its way that is not counted: cards that go on being issued fail the test.
func (l *load) still() int64 {
	l.g.t.Helper()
	for began := time.Now(); l.waiting.Load() < l.clients; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			l.g.t.Fatalf("%d of %d clients are refused, cards are issued on and on: %d", l.waiting.Load(), l.clients, l.done.Load())
		}
	}
	return l.done.Load()
}

// Officers rotate, hand over and retire keys of every kind, stop and resume, and mark a key compromised, while cards are issued as fast as they can be: no
// accepted request fails, and whoever has the public trust bundle believes every card.
func TestKeysChangeUnderLoad(t *testing.T) {
	t.Parallel()
	g := installGoverned(t)
	g.start()
	l := g.load(8, "load")
	l.more(20)
	before := g.trust()

	announced := time.Now().Add(-time.Second)
	at := time.Now().Add(10 * time.Second).Truncate(time.Second) // all three are decided on by then, or what is not takes over at once
	for _, k := range []struct{ id, purpose, old string }{{"ds-2", "mdoc", "ds-1"}, {"sdjwt-issuer-2", "sd-jwt", "sdjwt-issuer-1"}, {"status-2", "status-list", "status-1"}} {
		g.plan(k.id, k.purpose, k.old, announced, at)
	}
	g.plan("ds-3", "mdoc", "", time.Now().Add(-time.Second), time.Time{}) // stands by
	for _, id := range []string{"ds-2", "sdjwt-issuer-2", "status-2", "ds-3"} {
		g.until(id, "announced", 40*time.Second)
	}
	g.published("/.well-known/jwt-vc-issuer", "sdjwt-issuer-1", "sdjwt-issuer-2") // right after it is durable
	for _, id := range []string{"ds-1", "ds-2", "ds-3"} {
		g.published("/certificates/" + id + ".cer")
	}
	for id, old := range map[string]string{"ds-2": "ds-1", "sdjwt-issuer-2": "sdjwt-issuer-1", "status-2": "status-1"} {
		g.until(id, "active", 40*time.Second)
		if s := g.state(old); s != "deactivated" {
			t.Errorf("%s is %s beside an active successor", old, s)
		}
	}
	l.more(30)

	// Lists are by the new key, and by one that everybody could know before.
	late := g.Issue(newPhone(t, 1), "after-the-rotation", false)
	g.Change("telecom-a", lock, "after-the-rotation", "telecom_lost", "")
	g.Eventually(late.Credentials[0].Status, verifier.Invalid)
	for _, l := range g.Operations().Lists {
		token := g.Get(strings.TrimPrefix(l.URI, publicURL))
		list, err := verifier.DecodeStatusList(token, verifier.MaxEntries)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(list.Chain[0])
		if err != nil || cert.Subject.CommonName != "Test status-2" {
			t.Errorf("list %s is signed by %s %v", l.ID, cert.Subject, err)
		}
	}

	// Stop and resume: nothing is issued, and every request gets its card afterwards.
	l.halted.Store(true)
	p := g.officer(0, "lee", "propose", "issuing.stop", "reason=a drill")
	g.execute(0, p.ID)
	at0 := l.still()
	g.Change("telecom-a", unlock, "after-the-rotation", "telecom_lost", "") // locks and lists go on
	time.Sleep(300 * time.Millisecond)
	if n := l.done.Load(); n != at0 {
		t.Errorf("%d cards were issued after the stop", n-at0)
	}
	g.together("propose", "issuing.resume", "reason=over")
	l.halted.Store(false)
	l.more(20)

	// A quorum hands over by hand; then the key in use is compromised, and the one that stands by takes over at once.
	g.plan("sdjwt-issuer-3", "sd-jwt", "", time.Now().Add(-time.Second), time.Time{})
	g.until("sdjwt-issuer-3", "announced", 40*time.Second)
	g.published("/certificates/sdjwt-issuer-3.cer")
	g.together("propose", "key.activate", "key=sdjwt-issuer-3", "succeeds=sdjwt-issuer-2", "reason=by hand")
	if s := g.state("sdjwt-issuer-2"); s != "deactivated" {
		t.Errorf("sdjwt-issuer-2 is %s", s)
	}
	l.more(20)
	l.stop() // what a compromised key signed a moment ago is believed by nobody, and should not be
	q := g.officer(0, "kim", "propose", "key.compromise", "key=ds-2", "reason=found outside")
	g.officer(0, "lee", "approve", q.ID)
	n := g.load(8, "compromised")
	n.compromised.Store(true)
	n.more(10)
	g.execute(0, q.ID)
	n.more(20)
	n.stop() // what was reserved for the key is replaced: every request has its card
	if a, b := g.state("ds-2"), g.state("ds-3"); a != "compromised" || b != "active" {
		t.Errorf("ds-2 is %s, ds-3 %s", a, b)
	}
	g.eventually("the trust bundle says so", func() bool {
		err := g.trust().Believes(signerOf(t, g, "ds-2"), "mdoc", time.Now())
		return err != nil && strings.Contains(err.Error(), "compromised")
	})
	n = g.load(8, "standby")
	n.more(20)
	n.stop()
	if n.signer["Test ds-2"] > 0 || n.signer["Test ds-3"] == 0 {
		t.Errorf("cards after the compromise are by %v", n.signer)
	}
	if err := g.trust().Believes(signerOf(t, g, "ds-2"), "mdoc", time.Now()); err == nil || !strings.Contains(err.Error(), "compromised") {
		t.Error(err)
	}
	if err := before.Believes(signerOf(t, g, "ds-3"), "mdoc", time.Now()); err == nil {
		t.Error("a bundle of before knows a key of after")
	}
	for _, name := range []string{"Test ds-2", "Test sdjwt-issuer-2", "Test sdjwt-issuer-3"} {
		if l.signer[name] == 0 {
			t.Errorf("nothing was signed by %s: %v", name, l.signer)
		}
	}
	g.Stop()
	g.Check()
	t.Logf("%d cards, by %v", l.done.Load(), l.signer)
}

func signerOf(t *testing.T, g *governed, id string) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(g.Get("/certificates/" + id + ".cer"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
