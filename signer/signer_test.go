package signer

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/signer/wire"
	"sealkeeper/softhsm"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// appliance is a ledger and a signer.
type appliance struct {
	*Signer
	t       testing.TB
	ledger  *ledger.Ledger
	metrics *metrics.Metrics
}

func newLedger(t testing.TB, m *metrics.Metrics) *ledger.Ledger {
	t.Helper()
	dir := t.TempDir()
	l, err := ledger.Open(context.Background(), ledger.Options{
		Path: filepath.Join(dir, "ledger.db"), HighWater: filepath.Join(dir, "high-water.json"), Publish: filepath.Join(dir, "public"),
		BaseURL: "https://status.example", ListSize: 1024, Metrics: m, Fatal: func(err error) { t.Errorf("the disk failed: %v", err) },
	})
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	return l
}

func newAppliance(t testing.TB, deadline time.Duration, tokens ...Token) *appliance {
	t.Helper()
	m := metrics.New()
	a := &appliance{t: t, metrics: m, ledger: newLedger(t, m)}
	return a.start(deadline, tokens...)
}

func (a *appliance) start(deadline time.Duration, tokens ...Token) *appliance {
	a.t.Helper()
	s, err := New(context.Background(), Options{Ledger: a.ledger, Tokens: tokens, Metrics: a.metrics, Deadline: deadline})
	must(a.t, err)
	a.t.Cleanup(func() { must(a.t, s.Close(context.Background())) })
	a.Signer = s
	return a
}

// falseToken has workers with the software key of tests.
func falseToken(name string) Token {
	return Token{Name: name, Workers: 2, PIN: func() ([]byte, error) { return []byte("1234"), nil }, Command: func() *exec.Cmd {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), faultVariable+"=")
		return c
	}}
}

func (a *appliance) putKey(id, token string, p policy.Purpose, algorithm string, ckaID, spki []byte) ledger.Key {
	a.t.Helper()
	k := ledger.Key{ID: id, Token: token, Purpose: p, Algorithm: algorithm, CKAID: ckaID, SPKI: spki, State: ledger.KeyActive,
		NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(5, 0, 0)}
	must(a.t, a.ledger.PutKey(context.Background(), k))
	return k
}

func (a *appliance) falseKey(id, token string) ledger.Key {
	a.t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(testKey().Public())
	must(a.t, err)
	return a.putKey(id, token, policy.PurposeMDoc, "ES256", []byte(id), spki)
}

// reserve takes an approved self test of k through the ledger.
func reserve(l *ledger.Ledger, k ledger.Key, tbs []byte) (*ledger.Reservation, error) {
	approval, d := policy.DecideSelftest(nil, k.ID, k.Purpose, true, time.Time{}, noon)
	if approval == nil {
		return nil, fmt.Errorf("refused: %s %s", d.Code, d.Detail)
	}
	return l.Reserve(context.Background(), approval, []ledger.Draft{{KeyID: k.ID, Purpose: k.Purpose, TBSHash: sha256.Sum256(tbs)}}, nil)
}

func (a *appliance) reserve(k ledger.Key, tbs string) *ledger.Reservation {
	a.t.Helper()
	r, err := reserve(a.ledger, k, []byte(tbs))
	must(a.t, err)
	return r
}

// The only way to a signature is a reservation that this ledger committed for these very bytes, once.
func TestReservationIsTheOnlyWayIn(t *testing.T) {
	a := newAppliance(t, time.Second, falseToken("online"))
	k := a.falseKey("ds-1", "online")
	ctx := context.Background()
	foreign := newLedger(t, nil)
	must(t, foreign.PutKey(ctx, k))
	others, err := reserve(foreign, k, []byte("tbs"))
	must(t, err)
	used := a.reserve(k, "tbs")
	if _, err := a.Sign(ctx, used, [][]byte{[]byte("tbs")}); err != nil {
		t.Fatal(err)
	}
	good := a.reserve(k, "tbs")
	before, _, err := a.ledger.Head(ctx)
	must(t, err)
	for _, c := range []struct {
		name string
		r    *ledger.Reservation
		tbs  []string
		code string
	}{
		{"nil", nil, []string{"tbs"}, ""},
		{"zero", new(ledger.Reservation), []string{"tbs"}, "reservation.spent"},
		{"zero, and nothing to sign", new(ledger.Reservation), nil, "reservation.spent"},
		{"used", used, []string{"tbs"}, "reservation.spent"},
		{"foreign", others, []string{"tbs"}, "reservation.foreign"},
		{"other bytes", good, []string{"tbS"}, "reservation.mismatch"},
		{"too few", good, nil, "reservation.mismatch"},
		{"too many", good, []string{"tbs", "tbs"}, "reservation.mismatch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var tbs [][]byte
			for _, b := range c.tbs {
				tbs = append(tbs, []byte(b))
			}
			g, err := a.Sign(ctx, c.r, tbs)
			if g != nil || err == nil {
				t.Fatalf("signed: %v", err)
			}
			var refusal *ledger.Refusal
			if c.code != "" && (!errors.As(err, &refusal) || refusal.Code() != c.code) {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
	if after, _, err := a.ledger.Head(ctx); err != nil || after != before {
		t.Errorf("refusals were journalled: %d entries, then %d (%v)", before, after, err)
	}
	g, err := a.Sign(ctx, good, [][]byte{[]byte("tbs")})
	if err != nil || g.Of() != good || !verified([]byte("tbs"), g.Raw(0)) || g.Worker(0) == "" {
		t.Errorf("a refused try must not spend the reservation: %v", err)
	}
}

func TestSignaturesHoldNothingByThemselves(t *testing.T) {
	for _, g := range []*Signatures{nil, {}} {
		if g.Of() != nil || g.Raw(0) != nil || g.Worker(0) != "" || g.Raw(-1) != nil {
			t.Error("a value that Sign did not make holds something")
		}
	}
	a := newAppliance(t, time.Second, falseToken("online"))
	k := a.falseKey("ds-1", "online")
	ctx := context.Background()
	mine := a.reserve(k, "tbs")
	g, err := a.Sign(ctx, mine, [][]byte{[]byte("tbs")})
	must(t, err)
	other := newAppliance(t, time.Second, falseToken("online"))
	for name, c := range map[string]struct {
		s    *Signer
		g    *Signatures
		item int
		tbs  string
	}{
		"nil": {a.Signer, nil, 0, "tbs"}, "zero": {a.Signer, &Signatures{}, 0, "tbs"}, "another signer": {other.Signer, g, 0, "tbs"},
		"no such item": {a.Signer, g, 1, "tbs"}, "negative item": {a.Signer, g, -1, "tbs"}, "other bytes": {a.Signer, g, 0, "tbS"},
	} {
		if _, err := c.s.Resign(ctx, c.g, c.item, []byte(c.tbs)); err == nil {
			t.Errorf("%s: signed again", name)
		}
	}
	again, err := a.Resign(ctx, g, 0, []byte("tbs"))
	if err != nil || again == g || again.Of() != mine || !verified([]byte("tbs"), again.Raw(0)) {
		t.Fatalf("signing again: %v", err)
	}
	if n := testutil.ToFloat64(a.metrics.Attempts.WithLabelValues("ds-1", "mdoc")); n != 2 {
		t.Errorf("%v attempts were journalled", n)
	}
	if _, _, err := a.ledger.Settle(ctx, mine, ledger.Settlement{Signatures: [][]byte{again.Raw(0)}, Workers: []string{again.Worker(0)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Resign(ctx, again, 0, []byte("tbs")); err == nil {
		t.Error("a settled reservation was signed again")
	}
}

func TestKeysThatCantSign(t *testing.T) {
	a := newAppliance(t, time.Second, falseToken("online"))
	ctx := context.Background()
	elsewhere := a.falseKey("elsewhere", "not configured")
	if _, err := a.Sign(ctx, a.reserve(elsewhere, "tbs"), [][]byte{[]byte("tbs")}); err == nil {
		t.Error("a key without its token signed")
	}
	k := a.falseKey("ds-1", "online")
	r := a.reserve(k, "tbs")
	k.State = ledger.KeyDeactivated
	must(t, a.ledger.PutKey(ctx, k))
	if _, err := a.Sign(ctx, r, [][]byte{[]byte("tbs")}); err == nil {
		t.Error("a stopped key signed")
	}
}

func TestCallerThatLeavesLeavesItPending(t *testing.T) {
	a := newAppliance(t, time.Minute, falseToken("online"))
	k := a.falseKey("ds-1", "online")
	r := a.reserve(k, "hang")
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for p := a.pools[0]; ; time.Sleep(time.Millisecond) {
			p.mu.Lock()
			busy := 0
			for _, w := range p.workers {
				busy += len(w.batches)
			}
			p.mu.Unlock()
			if busy > 0 {
				cancel()
				return
			}
		}
	}()
	if _, err := a.Sign(ctx, r, [][]byte{[]byte("hang")}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if !r.Claimed(a.ledger) {
		t.Error("the reservation is not pending")
	}
	p := a.pools[0] // let Close drain: the worker that hangs is replaced
	p.mu.Lock()
	for _, w := range p.workers {
		if len(w.batches) > 0 {
			p.bury(w, "hung", "test")
			break
		}
	}
	p.mu.Unlock()
}

// storm signs self tests of all keys with many callers while workers are killed and stopped, and wants no failure.
func storm(a *appliance, faults int, tbs func(k ledger.Key, n int) []byte, verify func(k ledger.Key, tbs, raw []byte) bool, keys ...ledger.Key) {
	t, p, ctx := a.t, a.pools[0], context.Background()
	var served atomic.Int64
	var over atomic.Bool
	var all sync.WaitGroup
	for c := range 8 {
		all.Go(func() {
			for n := 0; !over.Load(); n++ {
				k := keys[(c+n)%len(keys)]
				b := tbs(k, c<<20|n)
				r, err := reserve(a.ledger, k, b)
				if err != nil {
					t.Errorf("reserving: %v", err)
					return
				}
				g, err := a.Sign(ctx, r, [][]byte{b})
				if err != nil {
					t.Errorf("caller %d, request %d with %s: %v", c, n, k.ID, err)
				} else if !verify(k, b, g.Raw(0)) {
					t.Errorf("caller %d, request %d with %s: the signature is bad", c, n, k.ID)
				} else if _, _, err := a.ledger.Settle(ctx, r, ledger.Settlement{Signatures: [][]byte{g.Raw(0)}, Workers: []string{g.Worker(0)}}); err != nil {
					t.Errorf("settling: %v", err)
				}
				served.Add(1)
			}
		})
	}
	for n := range faults {
		for next := served.Load() + 16; served.Load() < next; time.Sleep(time.Millisecond) { // all callers get ahead between two faults
		}
		p.mu.Lock()
		for len(p.workers) == 0 || len(p.workers[0].batches) == 0 {
			p.mu.Unlock()
			time.Sleep(10 * time.Microsecond)
			p.mu.Lock()
		}
		signal := syscall.SIGKILL
		if n%3 == 2 {
			signal = syscall.SIGSTOP
		}
		w := p.workers[0]
		syscall.Kill(w.cmd.Process.Pid, signal)
		for !w.gone {
			p.mu.Unlock()
			time.Sleep(time.Millisecond)
			p.mu.Lock()
		}
		p.mu.Unlock()
	}
	for next := served.Load() + 16; served.Load() < next; time.Sleep(time.Millisecond) {
	}
	over.Store(true)
	all.Wait()
	restarts := 0.0
	for _, reason := range []string{"died", "hung"} {
		restarts += testutil.ToFloat64(a.metrics.WorkerRestarts.WithLabelValues(p.token.Name, reason))
	}
	if restarts < float64(faults) {
		t.Errorf("%v workers were replaced after %d faults", restarts, faults)
	}
}

// Acceptance: workers killed and stopped under load, with the real ledger, and no failed request.
func TestKilledAndStoppedWorkersFailNoRequest(t *testing.T) {
	a := newAppliance(t, 300*time.Millisecond, falseToken("online"))
	k := a.falseKey("ds-1", "online")
	storm(a, 6, func(_ ledger.Key, n int) []byte { return fmt.Appendf(nil, "slow %d", n) },
		func(_ ledger.Key, tbs, raw []byte) bool { return verified(tbs, raw) }, k)
}

func TestNewRefusesWhatItCantRun(t *testing.T) {
	l := newLedger(t, nil)
	bad := falseToken("online")
	bad.PIN = func() ([]byte, error) { return []byte("0000"), nil }
	nameless, silent := falseToken(""), falseToken("online")
	silent.Command = nil
	for name, o := range map[string]Options{
		"no ledger": {Tokens: []Token{falseToken("online")}}, "no name": {Ledger: l, Tokens: []Token{nameless}},
		"one name twice": {Ledger: l, Tokens: []Token{falseToken("online"), falseToken("online")}}, "no command": {Ledger: l, Tokens: []Token{silent}},
		"refused PIN": {Ledger: l, Tokens: []Token{falseToken("other"), bad}},
	} {
		s, err := New(context.Background(), o)
		if err == nil {
			t.Errorf("%s: started", name)
			s.Close(context.Background())
		}
		if name == "refused PIN" && !errors.Is(err, ErrDown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func verifyWith(k ledger.Key, tbs, raw []byte) bool {
	public, err := x509.ParsePKIXPublicKey(k.SPKI)
	if err != nil {
		return false
	}
	switch public := public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(public, tbs, raw)
	case *ecdsa.PublicKey:
		h := sha256.New()
		if k.Algorithm == "ES384" {
			h = sha512.New384()
		}
		h.Write(tbs)
		half := len(raw) / 2
		return half*2*8 == public.Params().BitSize*2 && ecdsa.Verify(public, h.Sum(nil), new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:]))
	}
	return false
}

// From an empty token to signatures of every algorithm, with the module in real workers that are killed and stopped on the way.
func TestSoftHSM(t *testing.T) {
	module, err := softhsm.FindModule("")
	if err != nil {
		t.Skip("SoftHSM is not installed: ", err)
	}
	dir := filepath.Join(t.TempDir(), "token")
	must(t, softhsm.Prepare(dir))
	child := func(mode string) *exec.Cmd {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), childVariable+"="+mode, "SIGNER_TEST_DIR="+dir)
		c.Env = append(c.Env, softhsm.Env(dir)...)
		return c
	}
	serial, err := softhsm.RunInit(child("init"), dir, module, "signer-test", []byte("so-pin-1234"), []byte("user-pin-1234"))
	must(t, err)
	token := Token{Name: "online", Module: module, Label: "signer-test", Serial: serial, Workers: 2, Sessions: 2, Copies: true,
		Marker: filepath.Join(t.TempDir(), "refused"), PIN: func() ([]byte, error) { return []byte("user-pin-1234"), nil },
		Command: func() *exec.Cmd { return child("worker") }}
	a := newAppliance(t, 2*time.Second, token)
	ctx := context.Background()

	if _, err := a.Derive(ctx, ledger.LabelSalt); err == nil {
		t.Error("derived from a secret that does not exist")
	}
	wrapping, blob, err := a.NewSecret(ctx, "online")
	must(t, err)
	value, err := cbor.Marshal(wire.Wrapped{CKAID: wrapping, Blob: blob})
	must(t, err)
	must(t, a.ledger.PutMeta(ctx, SecretMeta("online"), value))
	var keys []ledger.Key
	for id, c := range map[string]struct {
		algorithm string
		purpose   policy.Purpose
	}{"ds": {"ES256", policy.PurposeMDoc}, "vc": {"ES384", policy.PurposeSDJWT}, "list": {"EdDSA", policy.PurposeList}} {
		n, err := a.Generate(ctx, "online", id, c.algorithm, NewID(), true)
		must(t, err)
		k := ledger.Key{ID: id, Token: "online", Purpose: c.purpose, Algorithm: c.algorithm, CKAID: n.CKAID, SPKI: n.SPKI, State: ledger.KeyActive, Copies: true}
		must(t, a.ledger.PutKey(ctx, k))
		keys = append(keys, k)
	}
	must(t, a.Reload(ctx, "online"))

	one, err := a.Derive(ctx, ledger.LabelSalt)
	must(t, err)
	must(t, a.Reload(ctx, "online"))
	two, err := a.Derive(ctx, ledger.LabelSalt)
	must(t, err)
	other, err := a.Derive(ctx, ledger.LabelNonce)
	must(t, err)
	if one != two || one == other || one == ([32]byte{}) {
		t.Error("a derived key must be the same in every worker, and another one for another label")
	}
	storm(a, 5, func(k ledger.Key, _ int) []byte { return policy.SelftestBytes(k.Purpose, k.Algorithm) }, verifyWith, keys...)

	t.Run("bytes of another purpose are refused by the worker", func(t *testing.T) {
		b := []byte("a digest from outside, 32 bytes.")
		r, err := reserve(a.ledger, keys[0], b)
		must(t, err)
		if _, err := a.Sign(ctx, r, [][]byte{b}); err == nil || errors.Is(err, ErrDown) {
			t.Errorf("got %v", err)
		}
	})
	for _, h := range a.Health() {
		if h.Problem != "" {
			t.Errorf("health: %+v", h)
		}
	}
	t.Run("a wrong PIN is tried once", func(t *testing.T) {
		wrong := token
		wrong.PIN = func() ([]byte, error) { b := make([]byte, 8); rand.Read(b); return fmt.Appendf(nil, "%x", b), nil }
		for range 2 {
			if _, err := New(ctx, Options{Ledger: a.ledger, Tokens: []Token{wrong}}); !errors.Is(err, ErrDown) {
				t.Errorf("got %v", err)
			}
		}
		if _, err := os.Stat(token.Marker); err != nil {
			t.Error(err)
		}
	})
}
