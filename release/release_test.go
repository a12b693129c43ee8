package release

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/signer"
	"sealkeeper/signer/wire"
)

const lieVariable = "RELEASE_TEST_LIE"

// The test binary, run again, is a worker that signs with a software key and lies.
func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv(lieVariable); ok {
		lyingWorker(dir)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func softKey() *ecdsa.PrivateKey {
	d := sha256.Sum256([]byte("a key for tests"))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	if err != nil {
		panic(err)
	}
	return k
}

// lyingWorker lies as the first word of the TBS says; "once …" lies only as long as dir/once does not exist.
func lyingWorker(dir string) {
	conn, err := net.FileConn(os.NewFile(3, "daemon"))
	if err != nil {
		panic(err)
	}
	in := bufio.NewReader(conn)
	var hello wire.Hello
	if wire.Read(in, &hello) != nil || wire.Write(conn, wire.Ready{}) != nil {
		return
	}
	t := &testing.T{}
	for {
		var q wire.Request
		if wire.Read(in, &q) != nil {
			return
		}
		a := wire.Response{ID: q.ID}
		for _, s := range q.Sign {
			raw := ecSign(t, softKey(), s.TBS)
			switch word, _, _ := strings.Cut(string(s.TBS), " "); word {
			case "flip":
				raw[17] ^= 4
			case "cut":
				raw = raw[:63]
			case "none":
				raw = nil
			case "swap":
				raw = ecSign(t, softKey(), []byte("other bytes"))
			case "stuck":
				raw = fixedNonce(softKey(), s.TBS)
			case "once":
				if os.Mkdir(filepath.Join(dir, "once"), 0o700) == nil {
					raw[0] ^= 1
				}
			}
			a.Results = append(a.Results, wire.Result{Signature: raw})
		}
		if wire.Write(conn, a) != nil {
			return
		}
	}
}

// appliance is ledger, signer and gate over lying workers.
type appliance struct {
	*Gate
	t       *testing.T
	key     ledger.Key
	metrics *metrics.Metrics
}

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newAppliance(t *testing.T) *appliance {
	t.Helper()
	dir, ctx, m := t.TempDir(), context.Background(), metrics.New()
	l, err := ledger.Open(ctx, ledger.Options{Path: filepath.Join(dir, "ledger.db"), HighWater: filepath.Join(dir, "high-water.json"),
		Publish: filepath.Join(dir, "public"), BaseURL: "https://status.example", ListSize: 1024, Metrics: m, Fatal: func(err error) { t.Error(err) }})
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	spki, err := x509.MarshalPKIXPublicKey(softKey().Public())
	must(t, err)
	k := ledger.Key{ID: "ds-1", Token: "online", Purpose: policy.PurposeMDoc, Algorithm: "ES256", CKAID: []byte{1}, SPKI: spki, State: ledger.KeyActive}
	must(t, l.PutKey(ctx, k))
	s, err := signer.New(ctx, signer.Options{Ledger: l, Metrics: m, Tokens: []signer.Token{{
		Name: "online", Workers: 2, PIN: func() ([]byte, error) { return []byte("1234"), nil },
		Command: func() *exec.Cmd {
			c := exec.Command("/proc/self/exe")
			c.Env = append(os.Environ(), lieVariable+"="+dir)
			return c
		},
	}}})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close(ctx)) })
	return &appliance{Gate: New(l, s, m), t: t, key: k, metrics: m}
}

func (a *appliance) reserve(tbs string) *ledger.Reservation {
	a.t.Helper()
	approval, d := policy.DecideSelftest(nil, a.key.ID, a.key.Purpose, true, time.Time{}, noon)
	if approval == nil {
		a.t.Fatal(d)
	}
	r, err := a.ledger.Reserve(context.Background(), approval, []ledger.Draft{{KeyID: a.key.ID, Purpose: a.key.Purpose, TBSHash: sha256.Sum256([]byte(tbs))}}, nil)
	must(a.t, err)
	return r
}

// sign reserves and signs; bytes may still be bad.
func (a *appliance) sign(tbs string) (*ledger.Reservation, *signer.Signatures) {
	a.t.Helper()
	r := a.reserve(tbs)
	s, err := a.signer.Sign(context.Background(), r, [][]byte{[]byte(tbs)})
	must(a.t, err)
	return r, s
}

func (a *appliance) check(tbs string) (*Checked, error) {
	a.t.Helper()
	r, s := a.sign(tbs)
	return a.Check(context.Background(), r, [][]byte{[]byte(tbs)}, s)
}

func (a *appliance) count(result string) float64 {
	return testutil.ToFloat64(a.metrics.Signatures.WithLabelValues("ds-1", "mdoc", result))
}

func (a *appliance) quarantined() float64 {
	return testutil.ToFloat64(a.metrics.WorkerRestarts.WithLabelValues("online", "quarantined"))
}

func TestOneWayOut(t *testing.T) {
	a := newAppliance(t)
	c, err := a.check("good")
	must(t, err)
	if c.Len() != 1 || string(c.TBS(0)) != "good" || len(c.Raw(0)) != 64 {
		t.Error("what was checked is not what was signed")
	}
	out, err := a.Pass(context.Background(), c, []byte("answer"))
	if err != nil || !out.First() || string(out.Bytes()) != "answer" {
		t.Errorf("%v, %+v", err, out)
	}
	if a.count("ok") != 1 || a.count("bad") != 0 {
		t.Errorf("%v good and %v bad were counted", a.count("ok"), a.count("bad"))
	}
}

// F13: a bad signature never leaves; its worker is quarantined, and after three more tries the request fails.
func TestBadSignaturesNeverLeave(t *testing.T) {
	for _, lie := range []string{"flip", "cut", "none", "swap"} {
		t.Run(lie, func(t *testing.T) {
			a := newAppliance(t)
			if c, err := a.check(lie); c != nil || err == nil || !strings.Contains(err.Error(), "not released") {
				t.Fatalf("got %v", err)
			}
			if a.count("bad") != 1+tries || a.quarantined() != 1+tries || a.count("ok") != 0 {
				t.Errorf("%v bad and %v good were counted, %v workers quarantined", a.count("bad"), a.count("ok"), a.quarantined())
			}
			if n := testutil.ToFloat64(a.metrics.Attempts.WithLabelValues("ds-1", "mdoc")); n != 1+tries {
				t.Errorf("%v attempts were journalled", n)
			}
		})
	}
}

func TestAnotherWorkerMakesItGood(t *testing.T) {
	a := newAppliance(t)
	r, s := a.sign("once more")
	c, err := a.Check(context.Background(), r, [][]byte{[]byte("once more")}, s)
	must(t, err)
	if a.count("bad") != 1 || a.count("ok") != 1 || a.quarantined() != 1 || c.workers[0] == s.Worker(0) {
		t.Errorf("%v bad, %v good, %v quarantined; first by %s, then by %s", a.count("bad"), a.count("ok"), a.quarantined(), s.Worker(0), c.workers[0])
	}
	if bytes.Equal(c.Raw(0), s.Raw(0)) {
		t.Error("the bad signature passed")
	}
}

// F49
func TestStuckRandomNumbersAreRefused(t *testing.T) {
	a := newAppliance(t)
	if _, err := a.check("stuck 1"); err != nil {
		t.Fatal(err)
	}
	if c, err := a.check("stuck 2"); c != nil || !errors.Is(err, errDuplicate) {
		t.Errorf("got %v", err)
	}
	if a.count("bad") == 0 {
		t.Error("not counted")
	}
}

// Zero, nil, used, foreign and mismatched values are refused at each stage.
func TestGateRefuses(t *testing.T) {
	a, other, ctx := newAppliance(t), newAppliance(t), context.Background()
	one := func(s string) [][]byte { return [][]byte{[]byte(s)} }
	r, s := a.sign("good")
	r2, s2 := a.sign("good")
	theirs, theirSignatures := other.sign("good")
	settled, settledSignatures := a.sign("good")
	c, err := a.Check(ctx, settled, one("good"), settledSignatures)
	must(t, err)
	_, err = a.Pass(ctx, c, nil)
	must(t, err)

	for name, q := range map[string]struct {
		g   *Gate
		r   *ledger.Reservation
		tbs [][]byte
		s   *signer.Signatures
	}{
		"nil gate": {nil, r, one("good"), s}, "nil reservation": {a.Gate, nil, one("good"), s}, "nil signatures": {a.Gate, r, one("good"), nil},
		"zero reservation": {a.Gate, &ledger.Reservation{}, one("good"), s}, "zero signatures": {a.Gate, r, one("good"), &signer.Signatures{}},
		"zero both":                            {a.Gate, &ledger.Reservation{}, nil, &signer.Signatures{}},
		"not claimed":                          {a.Gate, a.reserve("good"), one("good"), s},
		"settled":                              {a.Gate, settled, one("good"), settledSignatures},
		"foreign reservation":                  {a.Gate, theirs, one("good"), theirSignatures},
		"signatures of another reservation":    {a.Gate, r, one("good"), s2},
		"signatures of another ledger":         {a.Gate, r, one("good"), theirSignatures},
		"reservation of the other's signature": {a.Gate, r2, one("good"), s},
		"other bytes":                          {a.Gate, r, one("gooD"), s}, "too few": {a.Gate, r, nil, s}, "too many": {a.Gate, r, append(one("good"), []byte("good")), s},
	} {
		if c, err := q.g.Check(ctx, q.r, q.tbs, q.s); c != nil || err == nil {
			t.Errorf("Check, %s: %v", name, err)
		}
	}
	if a.count("bad") != 0 || a.quarantined() != 0 {
		t.Error("a refusal is nobody's bad signature")
	}
	good, err := a.Check(ctx, r, one("good"), s)
	must(t, err)
	twin, err := a.Check(ctx, r, one("good"), s)
	must(t, err)
	for name, q := range map[string]struct {
		g *Gate
		c *Checked
	}{"nil gate": {nil, good}, "nil": {a.Gate, nil}, "zero": {a.Gate, &Checked{}}, "foreign": {other.Gate, good}} {
		if out, err := q.g.Pass(ctx, q.c, []byte("answer")); out != nil || err == nil {
			t.Errorf("Pass, %s: %v", name, err)
		}
	}
	if out, err := a.Pass(ctx, good, []byte("answer")); err != nil || string(out.Bytes()) != "answer" {
		t.Errorf("a refused try must not spend it: %v", err)
	}
	for name, c := range map[string]*Checked{"used": good, "checked twice": twin} {
		if out, err := a.Pass(ctx, c, []byte("another answer")); out != nil || err == nil {
			t.Errorf("Pass, %s: %v", name, err)
		}
	}
	if (&Checked{}).Len() != 0 || (*Checked)(nil).Len() != 0 {
		t.Error("a Checked that Check did not make holds something")
	}
}

func TestReleasedHoldsOnlyWhatIsSettled(t *testing.T) {
	for name, r := range map[string]*Released{"nil": nil, "zero": {}, "fresh": Recalled(ledger.Recall{}), "pending": Recalled(ledger.Recall{Pending: &ledger.Pending{}, Answer: []byte("x")})} {
		if r.Bytes() != nil || r.First() {
			t.Errorf("%s holds something", name)
		}
	}
	if r := Recalled(ledger.Recall{Done: true, Answer: []byte("x")}); string(r.Bytes()) != "x" || r.First() {
		t.Error("a settled answer is handed out, and is not this call's own")
	}
}
