// Package faults proves the spine under the faults that its field meets: a module that hangs, lies or dies, and a process that is killed at
// every step. After each fault nothing that was acknowledged is lost, nothing that is wrong was released, and the ledger is whole.
//
// Plain `go test` runs a few cases that stand for the rest. SEAL_FAULTS=all runs each at least once (make faults); SEAL_SOAK=1 repeats them
// (make soak, soak_test.go).
package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/tests/appliance"
)

var (
	all     = os.Getenv("SEAL_FAULTS") == "all"
	soaking = false // TestSoak runs: hundreds of repetitions have less load each
)

// load for one of many repetitions.
func some(n int64) int64 {
	if soaking {
		return n/4 + 1
	}
	return n
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sealkeeper-faults-")
	if err == nil {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "preparing the faults:", err)
		os.Exit(1)
	}
	code := appliance.Main(m)
	os.RemoveAll(dir)
	os.Exit(code)
}

// hsmFault is one way in which a module can fail while it is used.
type hsmFault struct {
	name  string
	rules []string
	// clean: with two workers no request fails, whatever the module does.
	clean bool
	// shows is a metric that must grow, as an expression over name and labels.
	shows string
	// each: every fault is one bad signature that was counted and not released.
	each bool
	few  bool // runs in plain go test
}

const (
	hung        = `worker_restarts_total\{.*reason="hung"`
	restarted   = `worker_restarts_total\{`
	quarantined = `worker_restarts_total\{.*reason="quarantined"`
	bad         = `signatures_total\{.*result="bad"`
	ok          = `signatures_total\{.*result="ok"`
)

func errorOf(function, when string, rv int, every int) string {
	return fmt.Sprintf("%s fault=error rv=%#x when=%s every=%d of=sign times=3", function, rv, when, every)
}

// Faults come in pairs where both are possible: "before", it did not happen, and "after", it happened and the answer is lost.
var hsmFaults = []hsmFault{
	{name: "hang", rules: []string{"C_Sign fault=hang of=sign every=25 times=2"}, clean: true, shows: hung, few: true},
	{name: "hang after", rules: []string{"C_Sign fault=hang when=after of=sign every=25 times=2"}, clean: true, shows: hung},
	{name: "slow", rules: []string{"C_Sign fault=slow ms=20 of=sign"}, clean: true},
	{name: "brown-out", rules: []string{"C_Sign fault=slow ms=200 of=sign every=2 times=20"}, clean: true},
	{name: "crash", rules: []string{"C_Sign fault=crash of=sign every=20 times=3"}, clean: true, shows: restarted, few: true},
	{name: "crash after", rules: []string{"C_Sign fault=crash when=after of=sign every=20 times=3"}, clean: true, shows: restarted},
	{name: "crash at login", rules: []string{"C_Sign fault=crash of=sign times=1", "C_Login fault=crash when=after times=2"}, clean: true, shows: restarted},
	{name: "session handle invalid", rules: []string{errorOf("C_SignInit", "before", 0xb3, 10)}, clean: true},
	{name: "session handle invalid after", rules: []string{errorOf("C_Sign", "after", 0xb3, 10)}, clean: true},
	{name: "object handle invalid", rules: []string{errorOf("C_SignInit", "before", 0x82, 10)}, clean: true, few: true},
	{name: "key handle invalid", rules: []string{errorOf("C_SignInit", "before", 0x60, 10)}, clean: true},
	{name: "operation active", rules: []string{errorOf("C_SignInit", "after", 0x90, 10)}, clean: true},
	{name: "device removed and back", rules: []string{"* fault=removed"}, shows: restarted},
	{name: "device error", rules: []string{errorOf("C_Sign", "before", 0x30, 15)}, clean: true, shows: restarted},
	{name: "general error", rules: []string{errorOf("C_Sign", "before", 0x5, 15)}, clean: true, shows: restarted},
	{name: "general error after", rules: []string{errorOf("C_Sign", "after", 0x5, 15)}, clean: true, shows: restarted},
	{name: "general error at start", rules: []string{"C_Sign fault=crash of=sign times=1", "C_Initialize fault=error rv=0x5 times=1",
		"C_OpenSession fault=error rv=0x5 after=1 times=1"}, clean: true, shows: restarted},
	{name: "session limit", rules: []string{"C_Sign fault=error rv=0xb3 of=sign times=2", "C_OpenSession fault=error rv=0xb1 every=2 times=3"}, clean: true},
	{name: "wrong key", rules: []string{"C_SignInit fault=wrongkey of=sign every=15 times=3"}, clean: true, shows: quarantined, each: true, few: true},
	{name: "one bit flipped", rules: []string{"C_Sign fault=flip of=sign every=15 times=4"}, clean: true, shows: quarantined, each: true, few: true},
	{name: "truncated", rules: []string{"C_Sign fault=truncate of=sign every=15 times=3"}, clean: true, shows: restarted},
	{name: "repeated signature", rules: []string{"C_Sign fault=repeat of=sign every=15 times=3"}, clean: true, shows: quarantined, each: true},
	{name: "constant randomness", rules: []string{"C_GenerateRandom fault=constant"}, clean: true},
}

const (
	workers   = "deadline: 500ms"
	unhurried = "deadline: 20s" // where nothing hangs but the machine
)

// TestHSM has every fault of the module under load, in one installation.
func TestHSM(t *testing.T) {
	t.Parallel()
	a := appliance.Install(t)
	s := newShim(t, a, workers)
	a.Start()
	for _, f := range hsmFaults {
		if all || f.few {
			t.Run(f.name, func(t *testing.T) { f.run(t, a, s) })
		}
	}
	a.Stop()
	a.Check()
}

func (f *hsmFault) run(t *testing.T, a *appliance.Appliance, s *shim) {
	s.t = t
	waitReady(t, a)
	before := a.Metrics()
	l := start(t, a, 6)
	l.more(6)
	s.set(f.rules...)
	if strings.Contains(f.rules[0], "removed") {
		time.Sleep(time.Second)
	} else {
		fires := time.Now().Add(20 * time.Second)
		for l.more(some(40)); s.fired() == 0 && !strings.Contains(f.rules[0], "constant"); l.more(5) {
			if time.Now().After(fires) {
				t.Fatal("the fault never came: this test proves nothing")
			}
		}
	}
	fired := s.fired()
	s.set()
	l.more(some(20))
	l.end()
	l.verify()
	if n := l.failed.Load(); f.clean && n > 0 {
		t.Errorf("%d requests failed at first: %s", n, strings.Join(l.fails, "\n"))
	}
	after := a.Metrics()
	if f.shows != "" && sum(after, f.shows) <= sum(before, f.shows) {
		t.Errorf("no metric shows it: %s", f.shows)
	}
	// What a worker made that was killed meanwhile, for its deadline, nobody ever saw.
	unseen := sum(after, hung) - sum(before, hung)
	if grown := sum(after, bad) - sum(before, bad); f.each && grown+unseen < float64(fired) {
		t.Errorf("%d bad signatures were made, %v were found", fired, grown)
	} else if !f.each && grown > 0 {
		t.Errorf("%v bad signatures were found, and none was made", grown)
	}
	if strings.Contains(f.rules[0], "constant") && s.calls("C_GenerateRandom") > 0 {
		t.Error("something is made of the module's randomness: look at what, and test it")
	}
	t.Logf("%d faults, %d changes acknowledged, %d repeated, %d credentials verified", fired, l.acks.Load(), l.failed.Load(), len(l.cards))
}

// A token that can't be looked over for keys that nobody registered is said to be one, and signs as before.
func TestTokenThatCannotBeLookedOver(t *testing.T) {
	t.Parallel()
	if !all {
		t.Skip("SEAL_FAULTS=all: it waits for the look of a minute")
	}
	a := appliance.Install(t)
	s := newShim(t, a, unhurried)
	a.Start()
	waitReady(t, a)
	before := a.Metrics()
	s.set("C_FindObjectsInit token=/online/ fault=error rv=0x30")
	for deadline := time.Now().Add(2 * time.Minute); !strings.Contains(a.Log.String(), "the keys on a token can't be listed"); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the token was not looked over:\n%s", tail(a))
		}
	}
	l := start(t, a, 2)
	l.more(10)
	l.end()
	l.verify()
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d requests failed: %s", n, strings.Join(l.fails, "\n"))
	}
	if after := a.Metrics(); sum(after, restarted) > sum(before, restarted) {
		t.Errorf("a worker was replaced:\n%s", tail(a))
	}
	s.set()
	a.Stop()
	a.Check()
}

// waitReady waits until both workers are back.
func waitReady(t testing.TB, a *appliance.Appliance) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); sum(a.Metrics(), `workers_ready\{token="online"`) < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the workers do not come back:\n%s", tail(a))
		}
	}
}

// Two signatures of one key with the same r give it away. The module here knows the keys, because it weakened them when they were made, and
// signs validly with a nonce that never changes: only the first such signature of each key may leave.
func TestRepeatedNonce(t *testing.T) {
	t.Parallel()
	if !all || !nonces {
		t.Skip("SEAL_FAULTS=all, and the headers of OpenSSL (libssl-dev)")
	}
	a := appliance.Install(t)
	for _, d := range []string{"data", "witness", "clients"} {
		must(t, os.RemoveAll(filepath.Join(a.Dir, d)))
	}
	s := newShim(t, a, workers)
	s.set("C_GenerateKeyPair fault=weaken", "C_GetAttributeValue fault=pretend")
	found(a)
	s.link(a)
	a.Start()
	l := start(t, a, 4)
	l.more(8)
	s.set("C_GetAttributeValue fault=pretend", "C_Sign fault=reuse of=sign every=8 times=8")
	for deadline := time.Now().Add(patience); s.fired() < 9; l.more(10) {
		if time.Now().After(deadline) {
			t.Fatalf("%d faults came", s.fired())
		}
	}
	s.set("C_GetAttributeValue fault=pretend")
	l.more(10)
	l.end()
	l.verify()
	if sum(a.Metrics(), bad) == 0 {
		t.Error("no repeated nonce was found")
	}
	if l.failed.Load() > 0 {
		t.Errorf("%d requests failed: %v", l.failed.Load(), l.fails)
	}
	a.Stop()
	a.Check()
}

// found makes an installation anew.
func found(a *appliance.Appliance) {
	a.Command(0, "init", "--dev")
	a.Command(0, "enrol", "--out", filepath.Join(a.Dir, "clients"), "ward-office-1", "telecom-a", "loss-desk", "ministry", "auditor")
}

func tail(a *appliance.Appliance) string {
	text := a.Log.String()
	return text[max(0, len(text)-3000):]
}

// sum adds the samples whose name and labels match.
func sum(metrics, expression string) (total float64) {
	for _, m := range regexp.MustCompile(`(?m)^sealkeeper_`+expression+`.* (\S+)$`).FindAllStringSubmatch(metrics, -1) {
		v, _ := strconv.ParseFloat(m[1], 64)
		total += v
	}
	return total
}

// A refused or locked PIN is tried once, over three starts: the next try could lock the token for good.
func TestPINIsTriedOnce(t *testing.T) {
	t.Parallel()
	pinTriedOnce(t)
}

func pinTriedOnce(t *testing.T) {
	for name, rv := range map[string]string{"incorrect": "0xa0", "locked": "0xa4"} {
		if name == "locked" && !all {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := appliance.Install(t)
			s := newShim(t, a, workers)
			a.Start()
			a.Stop()
			s.set("C_Login token=/online/ fault=error rv=" + rv)
			before := s.calls("C_Login")
			for range 3 {
				a.Launch()
				if code := a.Wait(); code != 4 {
					t.Fatalf("the daemon ended with %d\n%s", code, tail(a))
				}
			}
			if n := s.calls("C_Login") - before; n != 1 {
				t.Errorf("%d calls of C_Login over three starts", n)
			}
			if !strings.Contains(a.Log.String(), "pin") {
				t.Error("the log does not say what to do")
			}
			s.set()
			rearm(t, a)
			a.Start()
			a.Issue(appliance.NewPhone(t, 1), "after-"+name, false)
			a.Stop()
			a.Check()
		})
	}
}

// A PIN that is refused while the appliance runs costs one worker, not the appliance: who is logged in goes on.
func TestPINRefusedWhileServing(t *testing.T) {
	t.Parallel()
	if !all {
		t.Skip("SEAL_FAULTS=all")
	}
	a := appliance.Install(t)
	s := newShim(t, a, unhurried)
	a.Start()
	l := start(t, a, 4)
	l.more(6)
	before := s.calls("C_Login")
	s.set("C_Login token=/online/ fault=error rv=0xa0", "C_Sign fault=crash of=sign times=1")
	l.more(120)
	l.end()
	l.verify()
	if n := s.calls("C_Login") - before; n != 1 {
		t.Errorf("%d calls of C_Login", n)
	}
	if l.failed.Load() > 0 {
		t.Errorf("%d requests failed: %v", l.failed.Load(), l.fails)
	}
	if text := fmt.Sprint(a.Operations()); !strings.Contains(text, "PIN") {
		t.Errorf("the status does not say that a PIN was refused: %s", text)
	}
	s.set()
	a.Stop()
	rearm(t, a)
	a.Start()
	a.Stop()
	a.Check()
}

// rearm is what the operator does once the PIN is right.
func rearm(t testing.TB, a *appliance.Appliance) {
	t.Helper()
	found := false
	must(t, filepath.Walk(filepath.Join(a.Dir, "data"), func(path string, i os.FileInfo, err error) error {
		if err == nil && strings.Contains(filepath.Base(path), "refused") {
			found = true
			return os.Remove(path)
		}
		return err
	}))
	if !found {
		t.Error("no marker says that a PIN was refused")
	}
}

// Keys that are not what the registry says are not used: neither at the start nor by a worker that is started later.
func TestKeysThatAreNotWhatTheyWere(t *testing.T) {
	t.Parallel()
	if !all {
		t.Skip("SEAL_FAULTS=all")
	}
	a := appliance.Install(t)
	s := newShim(t, a, workers)
	for name, fault := range map[string]string{"not sensitive": "sensitive", "another public key": "point"} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.set("C_GetAttributeValue token=/online/ fault=" + fault)
			a.Launch()
			if code := a.Wait(); code != 4 {
				t.Errorf("the daemon ended with %d\n%s", code, tail(a))
			}
			s.set()
			a.Start()
			l := start(t, a, 4)
			l.more(6)
			s.set("C_GetAttributeValue token=/online/ fault="+fault, "C_Sign fault=crash of=sign times=1")
			signed := func() float64 { return sum(a.Metrics(), ok) }
			deadline := time.Now().Add(patience)
			for sum(a.Metrics(), `workers_ready\{token="online"`) > 0 {
				if time.Now().After(deadline) {
					t.Fatal("a token with changed keys is still used")
				}
				time.Sleep(5 * time.Millisecond)
			}
			for n := -1.0; n != signed(); time.Sleep(100 * time.Millisecond) { // answers that were on their way
				if n = signed(); time.Now().After(deadline) {
					t.Fatal("a token with changed keys still signs")
				}
			}
			s.set()
			a.Kill() // an orderly end would wait for signatures
			a.Start()
			l.more(10)
			l.end()
			l.verify()
			a.Stop()
			a.Check()
		})
	}
}

// A MAC that is wrong at the start would give every person another pseudonym, and a second phone with it.
func TestCorruptDerivationIsNotedAtStart(t *testing.T) {
	t.Parallel()
	a := appliance.Install(t)
	s := newShim(t, a, workers)
	a.Start()
	a.Issue(appliance.NewPhone(t, 1), "one-person", false)
	a.Stop()
	s.set("C_Sign of=mac fault=flip every=3")
	a.Start()
	r := a.Request(appliance.NewPhone(t, 1), "one-person")
	if status, b, err := a.Post("ward-office-1", "/v1/credentials", client.NewKey(), r); err != nil || appliance.Code(b) != "slot.occupied" {
		t.Errorf("the same person's second phone: %d %.200s %v", status, b, err)
	}
	if s.fired() == 0 {
		t.Error("the fault never came")
	}
	s.set()
	a.Stop()
	a.Check()
}
