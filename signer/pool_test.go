package signer

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	cryptorand "crypto/rand"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"sealkeeper/internal/metrics"
	"sealkeeper/policy"
	"sealkeeper/signer/wire"
	"sealkeeper/signer/worker"
	"sealkeeper/softhsm"
)

// The test binary, run again with this variable, is a worker with a software key. Its value is the fault that it has.
const faultVariable = "SIGNER_TEST_FAULT"

// With this one it is a real child on SoftHSM.
const childVariable = "SIGNER_TEST_CHILD"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(childVariable) {
	case "init":
		err = softhsm.InitMain(os.Stdin, os.Stdout)
	case "worker":
		err = worker.Run(os.NewFile(3, "socket"), worker.Options{Guard: softhsm.Guard(os.Getenv("SIGNER_TEST_DIR"))})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv(childVariable) != "" {
		os.Exit(0)
	}
	if fault, ok := os.LookupEnv(faultVariable); ok {
		falseWorker(fault)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// testKey is the key of every false worker.
func testKey() *ecdsa.PrivateKey {
	d := sha256.Sum256([]byte("a key for tests"))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	if err != nil {
		panic(err)
	}
	return k
}

// falseWorker speaks wire. Items choose faults too, by how their TBS begins: "faulty", "broken", "stop", "poison", "hang", "slow", "slower".
func falseWorker(fault string) {
	conn, err := net.FileConn(os.NewFile(3, "daemon"))
	if err != nil {
		panic(err)
	}
	in := bufio.NewReader(conn)
	var hello wire.Hello
	if wire.Read(in, &hello) != nil {
		return
	}
	if starts := os.Getenv("SIGNER_TEST_STARTS"); starts != "" {
		f, err := os.OpenFile(starts, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(f, "%d %d\n", os.Getpid(), len(hello.Keys))
		f.Close()
	}
	kind, number, _ := strings.Cut(fault, ":")
	n, _ := strconv.Atoi(number)
	ready := wire.Ready{Serial: "1"}
	switch {
	case string(hello.PIN) != "1234":
		ready = wire.Ready{Class: wire.Stop, Error: "C_Login: pkcs11: 0xA0: CKR_PIN_INCORRECT"}
	case kind == "ambiguous":
		ready = wire.Ready{Class: wire.Stop, Error: `key "ds-1": 2 private keys have its CKA_ID`}
	case kind == "absent":
		ready = wire.Ready{Class: wire.Worker, Error: "C_Initialize: pkcs11: 0x30: CKR_DEVICE_ERROR"}
	}
	fmt.Fprintln(os.Stderr, "a module that talks")
	wire.Write(conn, ready)
	key, served := testKey(), 0
	var out sync.Mutex
	for {
		var r wire.Request
		if err := wire.Read(in, &r); err != nil {
			return
		}
		a := wire.Response{ID: r.ID}
		switch r.Op {
		case wire.OpDerive:
			a.Secret = make([]byte, 32)
		case wire.OpDestroy:
			if string(r.Destroy) == "hang" {
				select {}
			}
		case wire.OpGenerate:
			if r.Generate.Label == "slow" {
				time.Sleep(time.Second)
			}
			a.CKAID = []byte{1}
			a.SPKI, _ = x509.MarshalPKIXPublicKey(key.Public())
		}
		for _, s := range r.Sign {
			if served++; kind == "die" && served >= n {
				os.Exit(3)
			}
			result := wire.Result{}
			switch head, _, _ := strings.Cut(string(s.TBS), " "); head {
			case "faulty":
				result = wire.Result{Class: wire.Faulty, Error: "prefix"}
			case "broken":
				result = wire.Result{Class: wire.Worker, Error: "CKR_DEVICE_ERROR"}
			case "stop":
				result = wire.Result{Class: wire.Stop, Error: `key "ds-1" changed`}
			case "poison":
				os.Exit(4)
			case "hang":
				out.Lock()
				select {}
			case "once": // hangs once, with whichever worker comes first
				if os.Mkdir(os.Getenv("SIGNER_TEST_ONCE"), 0o700) == nil {
					select {}
				}
				result.Signature = rawSign(key, s.TBS)
			case "slower":
				time.Sleep(1200 * time.Millisecond)
				result.Signature = rawSign(key, s.TBS)
			case "slow":
				time.Sleep(2 * time.Millisecond)
				fallthrough
			default:
				result.Signature = rawSign(key, s.TBS)
			}
			a.Results = append(a.Results, result)
		}
		wire.Write(conn, a)
	}
}

func rawSign(key *ecdsa.PrivateKey, tbs []byte) []byte {
	h := sha256.Sum256(tbs)
	r, s, err := ecdsa.Sign(cryptorand.Reader, key, h[:])
	if err != nil {
		panic(err)
	}
	raw := make([]byte, 64)
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return raw
}

func verified(tbs, raw []byte) bool {
	h := sha256.Sum256(tbs)
	return len(raw) == 64 && ecdsa.Verify(&testKey().PublicKey, h[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:]))
}

// notes is a journal in memory. It notices an attempt that was not preceded by a loss.
type notes struct {
	mu       sync.Mutex
	losses   map[int]int
	attempts map[int]int
	fail     error
}

func (n *notes) lost(_ context.Context, items []int, worker string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, i := range items {
		if n.losses == nil {
			n.losses, n.attempts = map[int]int{}, map[int]int{}
		}
		n.losses[i]++
	}
	if worker == "" {
		return errors.New("a lost worker has no name")
	}
	return nil
}

func (n *notes) again(_ context.Context, items []int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, i := range items {
		if n.attempts[i]++; n.attempts[i] > n.losses[i] {
			return fmt.Errorf("item %d was attempted again without being lost", i)
		}
	}
	return n.fail
}

type house struct {
	*pool
	t       *testing.T
	metrics *metrics.Metrics
	dir     string
}

// newHouse makes a pool of false workers and closes it at the end of the test.
func newHouse(t *testing.T, fault string, change func(*Token)) *house {
	t.Helper()
	dir := t.TempDir()
	token := Token{
		Name: "online", Workers: 1, Idle: 30 * time.Millisecond,
		PIN:    func() ([]byte, error) { return []byte("1234"), nil },
		Marker: filepath.Join(dir, "pin-refused"),
		Command: func() *exec.Cmd {
			c := exec.Command(os.Args[0])
			c.Env = append(os.Environ(), faultVariable+"="+fault, "SIGNER_TEST_STARTS="+filepath.Join(dir, "starts"), "SIGNER_TEST_ONCE="+filepath.Join(dir, "once"))
			return c
		},
	}
	if change != nil {
		change(&token)
	}
	h := &house{t: t, metrics: metrics.New(), dir: dir}
	h.open(token)
	return h
}

func (h *house) open(token Token) {
	hello := func(context.Context) (wire.Hello, error) { return wire.Hello{Keys: []wire.Key{{ID: "ds-1"}}}, nil }
	p := newPool(token, 300*time.Millisecond, 64, hello, slog.New(slog.DiscardHandler), h.metrics)
	h.pool = p
	h.t.Cleanup(func() {
		if err := p.close(h.t.Context()); err != nil && h.t.Context().Err() == nil {
			h.t.Error(err)
		}
	})
}

// patient is for tests in which nothing hangs: a machine that is slow is no fault.
func (h *house) patient(deadline time.Duration) *house {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline = deadline
	return h
}

func (h *house) ready() *house {
	h.t.Helper()
	if err := h.started(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	return h
}

// starts are the process ids of all workers that ever came up to hello.
func (h *house) starts() []string {
	b, err := os.ReadFile(filepath.Join(h.dir, "starts"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal(err)
	}
	return strings.Fields(strings.ReplaceAll(string(b), " 1\n", "\n"))
}

func (h *house) queue(lane policy.Lane, j journal, tbs ...string) (*call, error) {
	c := newCall(j, len(tbs))
	var jobs []*job
	for i, b := range tbs {
		jobs = append(jobs, &job{keyID: "ds-1", purpose: policy.PurposeMDoc, tbs: []byte(b), lane: lane, call: c, item: i})
	}
	return c, h.enqueue(jobs)
}

// sign queues and waits; every signature that comes back is verified.
func (h *house) sign(lane policy.Lane, j journal, tbs ...string) error {
	c, err := h.queue(lane, j, tbs...)
	if err != nil {
		return err
	}
	<-c.done
	if c.err != nil {
		return c.err
	}
	for i, b := range tbs {
		if !verified([]byte(b), c.raw[i]) || c.workers[i] == "" {
			return fmt.Errorf("item %d came back with the signature of something else", i)
		}
	}
	return nil
}

func (h *house) until(what string, ok func() bool) {
	h.t.Helper()
	if err := h.await(h.t.Context(), ok); err != nil {
		h.t.Fatalf("waiting until %s: %v", what, err)
	}
}

func TestItemsComeBackInOrder(t *testing.T) {
	h := newHouse(t, "", func(t *Token) { t.Workers = 2 }).ready()
	var tbs []string
	for i := range 60 { // more than one batch
		tbs = append(tbs, "item "+strconv.Itoa(i))
	}
	if err := h.sign(policy.LaneIssue, &notes{}, tbs...); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(h.metrics.QueueDepth.WithLabelValues("issue")); n != 0 {
		t.Errorf("%v items are still said to wait", n)
	}
}

// One worker does what it can; who else is there takes what it has no place for, and each is the first one in turn.
func TestOneWorkerAndASpare(t *testing.T) {
	h := newHouse(t, "", func(t *Token) { t.Workers = 2 }).ready().patient(2 * time.Second)
	h.until("both are ready", func() bool { return len(h.workers) == 2 })
	h.mu.Lock()
	first, spare := h.workers[0].name, h.workers[1].name
	h.turned = time.Now().Add(time.Hour)
	h.mu.Unlock()
	signedBy := func(want, tbs string) {
		t.Helper()
		c, err := h.queue(policy.LaneIssue, &notes{}, tbs)
		if err != nil {
			t.Fatal(err)
		}
		if <-c.done; c.err != nil || c.workers[0] != want {
			t.Errorf("%s: signed by %s instead of %s: %v", tbs, c.workers[0], want, c.err)
		}
	}
	for i := range 10 {
		signedBy(first, strconv.Itoa(i))
	}
	var slow []*call
	for n := range inFlight {
		c, err := h.queue(policy.LaneIssue, &notes{}, "once "+strconv.Itoa(n))
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, c)
		for there := 0; there <= n; time.Sleep(time.Millisecond) {
			h.mu.Lock()
			there = len(h.workers[0].batches)
			h.mu.Unlock()
		}
	}
	signedBy(spare, "while the first one is busy")
	for _, c := range slow { // the first one is lost at its deadline
		if <-c.done; c.err != nil || c.workers[0] == first {
			t.Errorf("signed by %s: %v", c.workers[0], c.err)
		}
	}
	h.until("there are two again", func() bool { return len(h.workers) == 2 })
	h.mu.Lock()
	first, spare = h.workers[0].name, h.workers[1].name
	h.turned = time.Time{}
	h.mu.Unlock()
	signedBy(first, "the last one before the turn")
	signedBy(spare, "the first one after the turn")
}

// F7, F8, F14: workers are killed and stopped under load; no caller sees more than latency, and every further try was journalled first.
func TestNoRequestFailsWhenWorkersAreKilledAndStopped(t *testing.T) {
	h := newHouse(t, "", func(t *Token) { t.Workers = 2 }).ready()
	var callers, killer sync.WaitGroup
	var served atomic.Int64
	const faults = 12
	killer.Go(func() {
		for n := range faults {
			// Between two faults all callers get ahead: a fault more often than that leaves nobody to sign.
			for next := served.Load() + 16; served.Load() < next; {
				time.Sleep(time.Millisecond)
			}
			h.untilWork("there is a worker with work", func() bool { return len(h.workers) > 0 && len(h.workers[0].batches) > 0 })
			h.mu.Lock()
			pid := h.workers[0].cmd.Process.Pid
			h.mu.Unlock()
			signal := syscall.SIGKILL
			if n%4 == 3 {
				signal = syscall.SIGSTOP
			}
			syscall.Kill(pid, signal)
		}
		served.Store(math.MinInt64)
	})
	var lost sync.Map
	for c := range 8 {
		callers.Go(func() {
			for i := 0; served.Load() >= 0; i++ {
				j := &notes{}
				if err := h.sign(policy.LaneIssue, j, fmt.Sprintf("slow %d %d", c, i), "second item"); err != nil {
					t.Errorf("caller %d, request %d: %v", c, i, err)
				}
				served.Add(1)
				for item, n := range j.losses {
					if lost.Store([3]int{c, i, item}, n); j.attempts[item] != n {
						t.Errorf("item %d was lost %d times and attempted again %d times", item, n, j.attempts[item])
					}
				}
			}
		})
	}
	callers.Wait()
	killer.Wait()
	some := false
	lost.Range(func(any, any) bool { some = true; return false })
	if !some {
		t.Error("no worker was lost with items: this test has shown nothing")
	}
	if n := testutil.ToFloat64(h.metrics.WorkerRestarts.WithLabelValues("online", "died")); n == 0 {
		t.Error("no death was counted")
	}
}

func TestHungWorkerIsReplacedAtTheDeadline(t *testing.T) {
	h := newHouse(t, "", nil).ready()
	j := &notes{}
	if err := h.sign(policy.LaneIssue, j, "once upon a time"); err != nil {
		t.Fatal(err)
	}
	if j.losses[0] != 1 || j.attempts[0] != 1 {
		t.Errorf("lost %d times, attempted again %d times; once each was expected", j.losses[0], j.attempts[0])
	}
	if n := testutil.ToFloat64(h.metrics.WorkerRestarts.WithLabelValues("online", "hung")); n != 1 {
		t.Errorf("%v hung workers were counted", n)
	}
}

// F43: an item that kills every worker fails after five tries, and nobody else does.
func TestPoisonFailsAlone(t *testing.T) {
	h := newHouse(t, "", nil).ready()
	var all sync.WaitGroup
	poisoned, innocent := &notes{}, make([]error, 20)
	all.Go(func() {
		if err := h.sign(policy.LaneIssue, poisoned, "poison"); !errors.Is(err, ErrDown) {
			t.Errorf("poison: %v", err)
		}
	})
	for i := range innocent {
		all.Go(func() { innocent[i] = h.sign(policy.LaneIssue, &notes{}, "innocent "+strconv.Itoa(i)) })
	}
	all.Wait()
	if poisoned.losses[0] != maxTries || poisoned.attempts[0] != maxTries-1 {
		t.Errorf("poison was lost %d times and attempted again %d times", poisoned.losses[0], poisoned.attempts[0])
	}
	for i, err := range innocent {
		if err != nil {
			t.Errorf("innocent %d: %v", i, err)
		}
	}
}

func TestAnAttemptThatCantBeJournalledIsNotMade(t *testing.T) {
	h := newHouse(t, "", nil).ready()
	full := errors.New("disk full")
	j := &notes{fail: full}
	if err := h.sign(policy.LaneIssue, j, "poison"); !errors.Is(err, full) {
		t.Fatalf("got %v", err)
	}
	if err := h.close(t.Context()); err != nil || j.losses[0] != 1 {
		t.Errorf("%v; it was sent %d times", err, j.losses[0])
	}
}

func TestClassesOfErrors(t *testing.T) {
	t.Run("request: the caller's error, no other try", func(t *testing.T) {
		h := newHouse(t, "", nil).ready()
		if err := h.sign(policy.LaneIssue, &notes{}, "faulty"); err == nil || errors.Is(err, ErrDown) || !strings.Contains(err.Error(), "prefix") {
			t.Errorf("got %v", err)
		}
		if err := h.sign(policy.LaneIssue, &notes{}, "good"); err != nil || len(h.starts()) != 1 {
			t.Errorf("the worker should go on: %v, %d starts", err, len(h.starts()))
		}
	})
	t.Run("worker: another one is tried, five times at most; the batch's good ones are kept", func(t *testing.T) {
		h := newHouse(t, "", nil).ready()
		j := &notes{}
		if err := h.sign(policy.LaneIssue, j, "good", "broken"); !errors.Is(err, ErrDown) || !strings.Contains(err.Error(), "CKR_DEVICE_ERROR") {
			t.Errorf("got %v", err)
		}
		if j.losses[0] != 0 || j.losses[1] != maxTries {
			t.Errorf("losses: %v", j.losses)
		}
		if n := testutil.ToFloat64(h.metrics.WorkerRestarts.WithLabelValues("online", "session")); n != maxTries {
			t.Errorf("%v workers were replaced", n)
		}
	})
	t.Run("stop: the token is stopped by name", func(t *testing.T) {
		h := newHouse(t, "", nil).ready()
		for range 2 {
			if err := h.sign(policy.LaneIssue, &notes{}, "stop"); !errors.Is(err, ErrDown) || !strings.Contains(err.Error(), `key "ds-1" changed`) {
				t.Errorf("got %v", err)
			}
		}
		if g := h.health(); g.Ready != 0 || !strings.Contains(g.Problem, "ds-1") {
			t.Errorf("health: %+v", g)
		}
		if n := len(h.starts()); n != 1 {
			t.Errorf("%d starts", n)
		}
	})
}

// F10, F11: exactly one try, however often the daemon is started, and however many workers a token has.
func TestRefusedPINIsTriedOnce(t *testing.T) {
	pin := "0000"
	token := func(t *Token) { t.Workers = 3; t.PIN = func() ([]byte, error) { return []byte(pin), nil } }
	h := newHouse(t, "", token)
	for i := range 3 {
		if i > 0 {
			h.open(h.token)
		}
		err := h.started(t.Context())
		if !errors.Is(err, ErrDown) || !strings.Contains(err.Error(), "remove "+h.token.Marker) || !strings.Contains(err.Error(), "CKR_PIN_INCORRECT") {
			t.Errorf("start %d: %v", i, err)
		}
		if err := h.sign(policy.LaneLock, &notes{}, "a lock"); !errors.Is(err, ErrDown) {
			t.Errorf("start %d: signing: %v", i, err)
		}
		if n := len(h.starts()); n != 1 {
			t.Errorf("%d tries after %d starts", n, i+1)
		}
	}
	if err := h.reload(t.Context()); !errors.Is(err, ErrDown) {
		t.Errorf("reload with the marker still there: %v", err)
	}
	pin = "1234"
	if err := os.Remove(h.token.Marker); err != nil {
		t.Fatal(err)
	}
	if err := h.reload(t.Context()); err != nil {
		t.Errorf("re-armed: %v", err)
	}
	if err := h.sign(policy.LaneLock, &notes{}, "a lock"); err != nil {
		t.Error(err)
	}
}

func TestPINIsWiped(t *testing.T) {
	pin := []byte("1234")
	newHouse(t, "", func(t *Token) { t.PIN = func() ([]byte, error) { return pin, nil } }).ready()
	if string(pin) != "\x00\x00\x00\x00" {
		t.Error("the PIN is still there after the worker got it")
	}
}

func TestRefusedPINDoesNotStopWorkersThatAreLoggedIn(t *testing.T) {
	var mu sync.Mutex
	pin := "1234"
	h := newHouse(t, "", func(t *Token) {
		t.PIN = func() ([]byte, error) { mu.Lock(); defer mu.Unlock(); return []byte(pin), nil }
	}).ready()
	mu.Lock()
	pin = "0000"
	mu.Unlock()
	for range 2 { // the second one finds the marker that the first one left
		if err := h.reload(t.Context()); !errors.Is(err, ErrDown) {
			t.Errorf("reload: %v", err)
		}
	}
	if err := h.sign(policy.LaneLock, &notes{}, "a lock"); err != nil {
		t.Error(err)
	}
	if h.health().Problem == "" {
		t.Error("the problem is not reported")
	}
}

// F15
func TestAmbiguousKeyStopsTheTokenByName(t *testing.T) {
	h := newHouse(t, "ambiguous", func(t *Token) { t.Workers = 2 })
	err := h.started(t.Context())
	if !errors.Is(err, ErrDown) || !strings.Contains(err.Error(), `key "ds-1": 2 private keys have its CKA_ID`) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(h.token.Marker); err == nil {
		t.Error("an ambiguous key is not a refused PIN")
	}
	if n := len(h.starts()); n != 1 {
		t.Errorf("%d starts", n)
	}
}

func TestAbsentHSMIsReportedAndTriedAgain(t *testing.T) {
	h := newHouse(t, "absent", nil)
	if err := h.started(t.Context()); !errors.Is(err, ErrDown) || !strings.Contains(err.Error(), "CKR_DEVICE_ERROR") {
		t.Errorf("got %v", err)
	}
	h.until("it was tried again", func() bool { return h.places[1].failures >= 3 })
}

// A place that can't be filled is tried less and less often, however well the others do; and it does not keep them waiting.
func TestAPlaceThatCantBeFilledIsTriedLessAndLess(t *testing.T) {
	h := newHouse(t, "", func(t *Token) {
		t.Workers = 2
		t.Environment = func(place int) []string {
			if place == 2 {
				return []string{faultVariable + "=absent"}
			}
			return nil
		}
	})
	h.until("the other place is tried again and again", func() bool { return h.places[2].failures >= 1 && len(h.workers) == 1 })
	for i := 0; ; i++ {
		if err := h.sign(policy.LaneIssue, &notes{}, fmt.Sprint("beside it ", i)); err != nil {
			t.Fatal(err)
		}
		h.mu.Lock()
		good, bad := h.places[1], h.places[2]
		h.mu.Unlock()
		if good.failures != 0 {
			t.Fatalf("the good place has %d failures", good.failures)
		}
		if bad.failures >= 5 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("what the good place answers makes the other one's failures forgotten")
		}
	}
	h.mu.Lock()
	w := h.workers[0]
	w.cmd.Process.Kill()
	h.mu.Unlock()
	if err := h.sign(policy.LaneIssue, &notes{}, "after it died"); err != nil {
		t.Error(err)
	}
}

// An HSM that is slow is not one that hangs: a frame's time begins when the one before it was answered.
func TestASlowHSMIsNotHung(t *testing.T) {
	h := newHouse(t, "", nil)
	h.deadline = 2 * time.Second
	h.ready()
	var calls []*call
	for n := range 3 {
		c, err := h.queue(policy.LaneIssue, &notes{}, fmt.Sprint("slower ", n))
		if err != nil {
			t.Fatal(err)
		}
		if calls = append(calls, c); n < 2 {
			h.untilWork("it is in flight", func() bool { return len(h.workers[0].batches) == n+1 })
		}
	}
	for _, c := range calls {
		if <-c.done; c.err != nil {
			t.Error(c.err)
		}
	}
	if n := len(h.starts()); n != 1 {
		t.Errorf("%d workers were started", n)
	}
}

// A PIN that is refused on a full disk is remembered all the same.
func TestRefusedPINOnAFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("a small disk can't be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	pin := "1234"
	h := newHouse(t, "", func(t *Token) {
		t.Marker = filepath.Join(disk, "pin-refused")
		t.PIN = func() ([]byte, error) { return []byte(pin), nil }
	}).ready()
	f, err := os.Create(filepath.Join(disk, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	pin = "0000"
	for i := range 3 {
		h.open(h.token)
		if err := h.started(t.Context()); !errors.Is(err, ErrDown) || !strings.Contains(err.Error(), "remove "+h.token.Marker) {
			t.Errorf("start %d: %v", i, err)
		}
	}
	if n := len(h.starts()); n != 2 {
		t.Errorf("%d tries, the good one with them", n)
	}
}

func TestLanes(t *testing.T) {
	// A worker that is stopped holds what it was sent, so that the lanes fill up; the deadline then kills it.
	stall := func(t *testing.T) *house {
		h := newHouse(t, "", nil)
		h.deadline = time.Minute
		h.ready()
		h.mu.Lock()
		pid := h.workers[0].cmd.Process.Pid
		h.mu.Unlock()
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })
		return h
	}
	resume := func(h *house) {
		h.mu.Lock()
		defer h.mu.Unlock()
		syscall.Kill(h.workers[0].cmd.Process.Pid, syscall.SIGCONT)
	}
	// fill sends two batches and fills the lane behind them.
	fill := func(t *testing.T, h *house, lane policy.Lane) (calls []*call) {
		for n := range 2 + h.bound {
			c, err := h.queue(lane, &notes{}, lane.String()+" "+strconv.Itoa(n))
			if err != nil {
				t.Fatal(err)
			}
			if calls = append(calls, c); n < 2 {
				h.untilWork("it is in flight", func() bool { return len(h.workers[0].batches) == n+1 })
			}
		}
		return calls
	}
	t.Run("a full lane sheds, a lock passes and overtakes", func(t *testing.T) {
		h := stall(t)
		issues := fill(t, h, policy.LaneIssue)
		if _, err := h.queue(policy.LaneIssue, &notes{}, "one too many"); !errors.Is(err, ErrBusy) {
			t.Errorf("got %v", err)
		}
		if err := h.room(policy.LaneIssue, 1); !errors.Is(err, ErrBusy) {
			t.Errorf("asked before anything is reserved: %v", err)
		}
		if err := h.room(policy.LaneLock, 1000); err != nil {
			t.Errorf("a lock was refused: %v", err)
		}
		if n := testutil.ToFloat64(h.metrics.Shed.WithLabelValues("issue")); n != 2 {
			t.Errorf("%v were counted as shed", n)
		}
		lock, err := h.queue(policy.LaneLock, &notes{}, "lock")
		if err != nil {
			t.Fatal(err)
		}
		h.untilWork("the lock is sent although the worker is busy", func() bool { return len(h.workers[0].batches) == inFlight+1 })
		resume(h)
		<-lock.done
		for _, c := range issues {
			<-c.done
			if c.err != nil {
				t.Error(c.err)
			}
		}
	})
	t.Run("locks are never shed", func(t *testing.T) {
		h := stall(t)
		var calls []*call
		for n := range 4 * h.bound {
			c, err := h.queue(policy.LaneLock, &notes{}, "lock "+strconv.Itoa(n))
			if err != nil {
				t.Fatal(err)
			}
			calls = append(calls, c)
		}
		resume(h)
		for _, c := range calls {
			if <-c.done; c.err != nil {
				t.Error(c.err)
			}
		}
	})
	t.Run("strict priority, first come first served within a lane", func(t *testing.T) {
		h := stall(t)
		defer resume(h)
		fill(t, h, policy.LaneIssue)
		want := []string{}
		for _, lane := range []policy.Lane{policy.LaneBatch, policy.LaneCRL} {
			if _, err := h.queue(lane, &notes{}, "first "+lane.String(), "second "+lane.String()); err != nil {
				t.Fatal(err)
			}
		}
		want = append(want, "first crl", "second crl")
		for n := range h.bound {
			want = append(want, "issue "+strconv.Itoa(n+2))
		}
		want = append(want, "first batch", "second batch")
		var got []string
		h.mu.Lock()
		idle := &process{batches: map[uint64]*batch{}}
		for h.has(idle) {
			request, b := h.take(idle)
			b.timer.Stop()
			if len(request.Sign) > maxBatch {
				t.Errorf("a frame of %d", len(request.Sign))
			}
			for _, s := range request.Sign {
				got = append(got, string(s.TBS))
			}
			for _, j := range b.jobs {
				h.settle(j, nil, "", nil)
			}
			clear(idle.batches)
		}
		h.mu.Unlock()
		if !slices.Equal(got, want) {
			t.Errorf("taken in the order %q, want %q", got, want)
		}
	})
	t.Run("a caller that left is not signed for", func(t *testing.T) {
		h := stall(t)
		issues := fill(t, h, policy.LaneIssue)
		for _, c := range issues {
			h.forget(c)
		}
		h.mu.Lock()
		waiting := len(h.lanes[policy.LaneIssue])
		h.mu.Unlock()
		if waiting != 0 {
			t.Errorf("%d items still wait", waiting)
		}
		resume(h)
		h.until("nothing is open", func() bool { return h.pending == 0 })
		if n := h.workers[0].next; n != 2 {
			t.Errorf("%d frames were sent, 2 of them before the caller left", n)
		}
	})
}

// untilWork waits for something that is not announced to state.
func (h *house) untilWork(what string, ok func() bool) {
	h.t.Helper()
	for h.t.Context().Err() == nil {
		h.mu.Lock()
		done := ok()
		h.mu.Unlock()
		if done {
			return
		}
		runtime.Gosched()
	}
	h.t.Fatal("never: ", what)
}

func TestOnDemandWorkerComesAndGoes(t *testing.T) {
	h := newHouse(t, "", func(t *Token) { t.OnDemand = true })
	if err := h.started(t.Context()); err != nil || len(h.starts()) != 0 {
		t.Fatalf("at rest: %v, %d starts", err, len(h.starts()))
	}
	for n := 1; n <= 2; n++ {
		if err := h.sign(policy.LaneCRL, &notes{}, "a CRL"); err != nil {
			t.Fatal(err)
		}
		if len(h.starts()) != n {
			t.Errorf("%d starts after %d ceremonies", len(h.starts()), n)
		}
		h.until("the worker ended", func() bool { return h.processes == 0 && len(h.workers) == 0 })
	}
	if n := testutil.ToFloat64(h.metrics.WorkerRestarts.WithLabelValues("online", "died")); n != 0 {
		t.Errorf("a worker that was sent home counts as dead: %v", n)
	}
}

func TestReloadLosesNothing(t *testing.T) {
	h := newHouse(t, "", func(t *Token) { t.Workers = 2 }).ready().patient(time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for c := range 4 {
		callers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				j := &notes{}
				if err := h.sign(policy.LaneIssue, j, fmt.Sprintf("%d %d", c, i)); err != nil || len(j.losses) > 0 {
					t.Errorf("%v, lost %v", err, j.losses)
				}
			}
		})
	}
	for range 3 {
		if err := h.reload(t.Context()); err != nil {
			t.Error(err)
		}
	}
	cancel()
	callers.Wait()
	h.until("the old ones ended", func() bool { return h.processes == 2 && h.current() == 2 })
	if n := len(h.starts()); n != 8 {
		t.Errorf("%d starts, want 2 and 3 times 2", n)
	}
}

// A place that can't be filled, such as one whose server of the HSM is down, does not keep the others from the new registry, and no reload leaves a worker more.
func TestReloadWhileAPlaceCantBeFilled(t *testing.T) {
	var away atomic.Bool
	h := newHouse(t, "", func(t *Token) {
		t.Workers = 2
		t.Environment = func(place int) []string {
			if place == 2 && away.Load() {
				return []string{faultVariable + "=absent"}
			}
			return nil
		}
	}).ready().patient(time.Minute)
	away.Store(true)
	if err := h.reload(t.Context()); err == nil {
		t.Error("the worker at the second place has the old registry, and nobody says so")
	}
	h.mu.Lock()
	for _, w := range slices.Clone(h.workers) {
		if w.place == 2 {
			h.bury(w, "died", "its server went away")
		}
	}
	h.mu.Unlock()
	for range 10 {
		for tries := 0; ; tries++ { // the first place may come after the second
			err := h.reload(t.Context())
			if err == nil {
				break
			}
			if tries == 3 {
				t.Fatal(err)
			}
		}
		h.until("one worker is left, with the registry as it is", func() bool { return len(h.workers) == 1 && h.current() == 1 })
	}
	away.Store(false)
	if err := h.reload(t.Context()); err != nil {
		t.Error(err)
	}
	h.until("both places are filled", func() bool { return h.current() == 2 && h.processes == 2 })
}

// What takes longer than a signature has a worker with one session for itself: nothing that is queued behind it is taken for hung.
func TestLongRequestsAreAlone(t *testing.T) {
	h := newHouse(t, "", func(t *Token) { t.Workers = 2 }).ready()
	h.until("both are ready", func() bool { return len(h.workers) == 2 })
	h.mu.Lock()
	h.deadline = 500 * time.Millisecond
	h.mu.Unlock()
	made := make(chan error)
	go func() {
		_, err := h.ask(t.Context(), wire.Request{Op: wire.OpGenerate, Generate: &wire.Generate{Label: "slow"}}, time.Minute, false)
		made <- err
	}()
	longest := time.Duration(0) // of a signature: one that the machine held up for the deadline counts as hung
	for i := 0; ; i++ {
		select {
		case err := <-made:
			if err != nil || i == 0 {
				t.Errorf("generate after %d signatures: %v", i, err)
			}
			if n := len(h.starts()); n != 2 && longest < h.deadline {
				t.Errorf("%d starts: a worker was replaced, and no signature took longer than %s", n, longest)
			}
			return
		default:
		}
		began := time.Now()
		if err := h.sign([]policy.Lane{policy.LaneIssue, policy.LaneLock}[i%2], &notes{}, strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, time.Since(began))
	}
}

// A lock waits no longer for what takes long than for what hangs, if there is no other worker.
func TestALockDoesNotWaitForWhatTakesLong(t *testing.T) {
	h := newHouse(t, "", nil).ready()
	asked := make(chan error)
	go func() {
		_, err := h.ask(t.Context(), wire.Request{Op: wire.OpDestroy, Destroy: []byte("hang")}, time.Hour, false)
		asked <- err
	}()
	h.untilWork("the worker is busy", func() bool { return len(h.workers) == 1 && h.workers[0].long })
	if _, err := h.queue(policy.LaneIssue, &notes{}, "an issue waits"); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	if n := len(h.workers[0].batches); n != 1 {
		t.Errorf("%d batches are in a worker that is busy for long", n)
	}
	h.mu.Unlock()
	if err := h.sign(policy.LaneLock, &notes{}, "a lock"); err != nil {
		t.Error(err)
	}
	if err := <-asked; !errors.Is(err, ErrDown) {
		t.Errorf("got %v", err)
	}
	h.until("all is signed", func() bool { return h.pending == 0 })
}

// Whoever asked has left: nobody else is asked.
func TestWhatNobodyWaitsForIsNotRepeated(t *testing.T) {
	h := newHouse(t, "", nil).ready()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.ask(ctx, wire.Request{Op: wire.OpDestroy, Destroy: []byte("hang")}, 200*time.Millisecond, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	h.until("the worker that hung is replaced", func() bool { return len(h.restarts) == 1 && len(h.workers) == 1 && h.pending == 0 })
	if err := h.sign(policy.LaneIssue, &notes{}, "by the next one"); err != nil {
		t.Error(err)
	}
	if n := len(h.starts()); n != 2 {
		t.Errorf("%d starts", n)
	}
}

func TestAsks(t *testing.T) {
	h := newHouse(t, "", nil).ready()
	r, err := h.ask(t.Context(), wire.Request{Op: wire.OpDerive, Label: "x"}, time.Second, true)
	if err != nil || len(r.Secret) != 32 {
		t.Errorf("derive: %v, %d bytes", err, len(r.Secret))
	}
	r, err = h.ask(t.Context(), wire.Request{Op: wire.OpGenerate, Generate: &wire.Generate{Label: "x"}}, time.Second, false)
	if err != nil || len(r.SPKI) == 0 {
		t.Errorf("generate: %v", err)
	}
}

func TestQuarantine(t *testing.T) {
	h := newHouse(t, "", nil).ready()
	h.mu.Lock()
	bad := h.workers[0]
	h.mu.Unlock()
	h.quarantine(bad.name)
	if err := h.sign(policy.LaneIssue, &notes{}, "by another one"); err != nil {
		t.Error(err)
	}
	if <-bad.exited; len(h.starts()) != 2 {
		t.Errorf("%d starts", len(h.starts()))
	}
	if n := testutil.ToFloat64(h.metrics.WorkerRestarts.WithLabelValues("online", "quarantined")); n != 1 {
		t.Errorf("%v counted", n)
	}
}

func TestCloseDrainsAndLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	h := newHouse(t, "", func(t *Token) { t.Workers = 2 }).ready()
	var calls []*call
	for i := range 50 {
		c, err := h.queue(policy.LaneIssue, &notes{}, fmt.Sprintf("slow %d", i))
		if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, c)
	}
	if err := h.close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, c := range calls {
		if <-c.done; c.err != nil {
			t.Error(c.err)
		}
	}
	if err := h.sign(policy.LaneLock, &notes{}, "too late"); !errors.Is(err, ErrDown) {
		t.Errorf("after close: %v", err)
	}
	for _, pid := range h.starts() {
		if _, err := os.Stat("/proc/" + pid); err == nil {
			t.Errorf("worker %s is still there", pid)
		}
	}
	left := func() int { return runtime.NumGoroutine() }
	for end := time.Now().Add(5 * time.Second); left() > before && time.Now().Before(end); {
		runtime.Gosched()
	}
	if n := left(); n > before {
		b := make([]byte, 1<<16)
		t.Errorf("%d goroutines before, %d after:\n%s", before, n, b[:runtime.Stack(b, true)])
	}
}

func TestCloseDoesNotWaitForEver(t *testing.T) {
	h := newHouse(t, "", nil)
	h.deadline = time.Hour
	h.ready()
	j := &notes{}
	c, err := h.queue(policy.LaneIssue, j, "hang")
	if err != nil {
		t.Fatal(err)
	}
	h.untilWork("it hangs", func() bool { return len(h.workers[0].batches) == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.close(ctx); err == nil {
		t.Error("close says that everything was answered")
	}
	if <-c.done; !errors.Is(c.err, ErrDown) {
		t.Errorf("got %v", c.err)
	}
	if j.losses[0] != 1 || j.attempts[0] != 0 {
		t.Errorf("lost %d, attempted again %d", j.losses[0], j.attempts[0])
	}
}

func TestWhatAWorkerPrintsIsBounded(t *testing.T) {
	var out strings.Builder
	l := &lines{log: slog.New(slog.NewTextHandler(&out, nil)), left: 3}
	long := strings.Repeat("x", 5*maxLine)
	for range 10 {
		for rest := long + "\n"; rest != ""; {
			n := min(1+rand.IntN(700), len(rest))
			io.WriteString(l, rest[:n])
			rest = rest[n:]
		}
	}
	if lines := strings.Count(out.String(), "\n"); lines != 3 || out.Len() > 3*(maxLine+200) {
		t.Errorf("%d lines, %d bytes", lines, out.Len())
	}
}

// The module of an HSM has its timers as it knows them.
func TestTimersOfTheEmbeddedTokenAloneMayBeLate(t *testing.T) {
	own, err := os.ReadFile("/proc/self/timerslack_ns")
	must(t, err)
	for copies, want := range map[bool]string{true: "10000000", false: strings.TrimSpace(string(own))} {
		s := newStarter(Token{Copies: copies})
		var out strings.Builder
		c := exec.Command("cat", "/proc/self/timerslack_ns")
		c.Stdout = &out
		must(t, s.start(c))
		must(t, c.Wait())
		s.close()
		if got := strings.TrimSpace(out.String()); got != want {
			t.Errorf("copies %t: timers may be late by %s ns, not by %s", copies, got, want)
		}
	}
}
