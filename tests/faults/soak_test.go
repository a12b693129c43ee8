package faults

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"sealkeeper/tests/appliance"
)

// kills has the daemon killed n times at random moments of its life, starts included.
func kills(t *testing.T, n int) {
	a := appliance.Install(t).Start()
	l := start(t, a, 4)
	for range n {
		time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond)
		a.Kill()
		a.Launch()
	}
	a.Kill()
	recovered(t, a, l)
}

// terms ends the daemon n times in order, under load: what it had taken on it answers, and it ends with 0.
func terms(t *testing.T, n int) {
	a := appliance.Install(t).Start()
	l := start(t, a, 4)
	for range n {
		l.more(int64(8 + rand.IntN(12))) // it is up again, and at work
		began := time.Now()
		a.Stop()
		if took := time.Since(began); took > 12*time.Second {
			t.Errorf("an orderly end took %s", took)
		}
		a.Launch()
	}
	a.Kill()
	recovered(t, a, l)
	if n := l.broken.Load(); n > 0 {
		t.Errorf("%d requests that were taken on failed: %s", n, strings.Join(l.fails, "\n"))
	}
}

// corrupted has n signatures made of which every rate-th has a flipped bit.
func corrupted(t *testing.T, n, rate int) {
	a := appliance.Install(t)
	s := newShim(t, a, workers)
	a.Start()
	s.set(fmt.Sprintf("C_Sign fault=flip of=sign every=%d", rate))
	l := start(t, a, 8)
	for sum(a.Metrics(), ok) < float64(n) && !t.Failed() {
		l.more(50)
	}
	l.end()
	l.verify()
	waitReady(t, a)
	// A daemon counts a bad signature when it has it: one that was made for nobody (its worker was killed meanwhile) is never seen.
	found, made := sum(a.Metrics(), bad), s.fired()
	if made == 0 || found == 0 {
		t.Errorf("%d signatures were corrupted and %v were found", made, found)
	}
	if l.failed.Load() > 0 {
		t.Errorf("%d requests failed: %s", l.failed.Load(), strings.Join(l.fails, "\n"))
	}
	t.Logf("%.0f signatures verified, %d corrupted, %.0f of them met the gate, %d credentials verified again by verifier", sum(a.Metrics(), ok), made, found, len(l.cards))
	a.Stop()
	a.Check()
}

func TestRandomKills(t *testing.T) {
	t.Parallel()
	if n := 8; all {
		kills(t, n)
	}
}

func TestOrderlyEnds(t *testing.T) {
	t.Parallel()
	if n := 5; all {
		terms(t, n)
	}
}

func TestCorruptedSignatures(t *testing.T) {
	t.Parallel()
	if n := 2000; all {
		corrupted(t, n, 100)
	}
}

// kind is one line of the soak.
type kind struct {
	name  string
	want  int // repetitions
	batch int // in one installation
	run   func(t *testing.T, n int)
}

func kinds() (out []kind) {
	for _, f := range hsmFaults {
		out = append(out, kind{"HSM: " + f.name, 200, 10, func(t *testing.T, n int) {
			a := appliance.Install(t)
			s := newShim(t, a, workers)
			a.Start()
			for range n {
				f.run(t, a, s)
			}
			a.Stop()
			a.Check()
		}})
	}
	for _, c := range crashes {
		if c.by == elsewhere {
			continue
		}
		out = append(out, kind{"crash: " + c.point + " " + c.by, 50, 5, func(t *testing.T, n int) {
			var a *appliance.Appliance
			if c.by == "" {
				a = appliance.Install(t).Start()
				a.Issue(appliance.NewPhone(t, 1), "before-all", false)
				a.Stop()
			}
			for range n {
				c.run(t, a)
			}
		}})
	}
	return append(out, // the first three are stories of points that are elsewhere in crashes
		kind{"crash: each of a key's life", 50, 1, func(t *testing.T, _ int) { keysSurvive(t) }},
		kind{"crash: each of a root's life", 50, 1, func(t *testing.T, _ int) { rootsSurvive(t) }},
		kind{"crash: each of a client's enrolment", 50, 1, func(t *testing.T, _ int) { enrolmentSurvives(t) }},
		kind{"kill -9 at random", 2000, 50, kills},
		kind{"SIGTERM under load", 500, 25, terms},
		kind{"signatures, 0.1 % corrupt", 200_000, 20_000, func(t *testing.T, n int) { corrupted(t, n, 1000) }},
		kind{"wrong PIN over three starts", 20, 1, func(t *testing.T, _ int) { pinTriedOnce(t) }})
}

// progress of a soak, kept so that an interrupted one goes on where it was.
type progress struct {
	Began time.Time      `json:"began"`
	Done  map[string]int `json:"done"`
	Bad   map[string]int `json:"failed"`
	Stall map[string]int `json:"stalled"` // batches run again because the machine stood still
}

// stalls notes whether the machine stood still for longer than any deadline of the appliance; what fails then proves nothing.
func stalls() (stood func() bool) {
	done, answer := make(chan struct{}), make(chan bool)
	go func() {
		stood := false
		for last := time.Now(); ; {
			select {
			case <-done:
				answer <- stood
				return
			case <-time.After(100 * time.Millisecond):
				now := time.Now()
				stood = stood || now.Sub(last) > 1500*time.Millisecond
				last = now
			}
		}
	}()
	return func() bool { close(done); return <-answer }
}

// TestSoak repeats everything. SEAL_SOAK is a factor of the counts (1: all of them), SEAL_SOAK_STATE the file that keeps what is done,
// SEAL_SOAK_ONLY a regular expression of the names to be run, so that parts go beside each other.
func TestSoak(t *testing.T) {
	factor, err := strconv.ParseFloat(os.Getenv("SEAL_SOAK"), 64)
	if err != nil {
		t.Skip("SEAL_SOAK=1, or a part of it: make soak")
	}
	all, soaking = true, true
	path := os.Getenv("SEAL_SOAK_STATE")
	p := progress{Began: time.Now().UTC().Truncate(time.Second), Done: map[string]int{}, Bad: map[string]int{}, Stall: map[string]int{}}
	if b, err := os.ReadFile(path); err == nil {
		must(t, json.Unmarshal(b, &p))
	}
	only, err := regexp.Compile(os.Getenv("SEAL_SOAK_ONLY"))
	must(t, err)
	want := map[string]int{}
	for _, k := range kinds() {
		if !only.MatchString(k.name) {
			continue
		}
		want[k.name] = max(1, int(float64(k.want)*factor))
		for p.Done[k.name] < want[k.name] && p.Bad[k.name] < 3 && p.Stall[k.name] < 20 {
			n := min(k.batch, want[k.name]-p.Done[k.name])
			stood := stalls()
			held := t.Run(fmt.Sprintf("%s/%d try %d", k.name, p.Done[k.name], p.Bad[k.name]+p.Stall[k.name]), func(t *testing.T) { k.run(t, n) })
			switch stood := stood(); {
			case held:
				p.Done[k.name] += n
			case stood:
				p.Stall[k.name]++
			default:
				p.Bad[k.name]++
			}
			if path != "" {
				b, err := json.Marshal(p)
				must(t, err)
				must(t, os.MkdirAll(filepath.Dir(path), 0o755))
				must(t, os.WriteFile(path+".new", b, 0o644))
				must(t, os.Rename(path+".new", path))
			}
		}
	}
	var names []string
	for name := range want {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Printf("\nSoak begun %s, ended %s, %d cores, %s %s/%s\n\n| what | times | of | failed batches | batches run again after a standstill of the machine |\n|---|---:|---:|---:|---:|\n", p.Began.Format(time.RFC3339),
		time.Now().UTC().Format(time.RFC3339), runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, name := range names {
		fmt.Printf("| %s | %d | %d | %d | %d |\n", name, p.Done[name], want[name], p.Bad[name], p.Stall[name])
	}
}
