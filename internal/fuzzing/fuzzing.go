// Package fuzzing is what all fuzz targets of decoders share: a budget of time and memory for every input, and beside Go's
// coverage-guided fuzzer a second gear, which changes the corpus along its structure and counts millions of inputs in one process.
package fuzzing

import (
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What one input may cost, whatever it is: who sends many of them must not get more for it than what it costs to send them.
const (
	MaxTime  = 10 * time.Millisecond // of the thread's CPU, so that a busy machine fails nobody
	MaxAlloc = 1 << 20               // bytes beyond the input's own size
)

// The second gear is asked for by the environment: how many inputs, from which seed, where to write what was counted, and a directory
// with one of corpus files for each target, beside testdata/fuzz.
const (
	EnvInputs = "SEAL_FUZZ_INPUTS"
	EnvSeed   = "SEAL_FUZZ_SEED"
	EnvState  = "SEAL_FUZZ_STATE"
	EnvCorpus = "SEAL_FUZZ_CORPUS"
)

// Options of a target. The zero value is what most need.
type Options struct {
	// Repair makes a changed input's signatures good again, so that it gets past them; it gives the input back if it can't.
	Repair func(input []byte) []byte
	// RepairOneIn is the share of inputs that are repaired: a signature costs more than most decoders (default 8).
	RepairOneIn int
	// Decode is the decoder alone, for judges whose own checks cost more than it: its cost counts then.
	Decode func(input []byte)
	// Longest is the size up to which inputs are blown up (default 64 KiB); above the decoder's own bound, so that it is met too.
	Longest int
}

// Counted is what a run of the second gear reports, one JSON line at a time.
type Counted struct {
	Target   string    `json:"target"` // folder and name
	Date     time.Time `json:"date"`
	Gear     string    `json:"gear"` // mutated, guided
	Inputs   int       `json:"inputs"`
	Accepted int       `json:"accepted"`          // by the decoder
	Slowest  float64   `json:"slowest_us"`        // CPU of one input
	Largest  int64     `json:"largest_bytes"`     // allocated for one input beyond its size
	Seconds  float64   `json:"seconds"`           // wall time
	Seed     uint64    `json:"seed,omitzero"`     // of this run
	Workers  int       `json:"workers,omitempty"` // of the coverage-guided fuzzer
}

// Run makes f a target of both gears. judge decodes one input, checks what must hold, and reports whether the decoder took it.
// It must do the same again for the same input: it is repeated where a measurement is in doubt.
func Run(f *testing.F, o Options, seeds [][]byte, judge func(t *testing.T, input []byte) (accepted bool)) {
	f.Helper()
	n, _ := strconv.Atoi(os.Getenv(EnvInputs))
	if n <= 0 {
		for _, s := range seeds {
			f.Add(s)
		}
		var g gauge
		f.Fuzz(func(t *testing.T, input []byte) { g.weigh(t, input, o, judge) })
		return
	}
	f.Add([]byte(nil))
	done := false
	f.Fuzz(func(t *testing.T, _ []byte) { // is called for each corpus file as well, but works only once: f gives no *testing.T otherwise
		if !done {
			done = true
			mutate(t, o, append(seeds, corpus(t)...), n, judge)
		}
	})
}

func mutate(t *testing.T, o Options, seeds [][]byte, n int, judge func(*testing.T, []byte) bool) {
	name, _, _ := strings.Cut(t.Name(), "/")
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := strconv.ParseUint(os.Getenv(EnvSeed), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	small := slices.DeleteFunc(slices.Clone(seeds), func(s []byte) bool { return len(s) > 16<<10 }) // large ones are judged as they are
	m := newMutator(rand.New(rand.NewPCG(seed, 1)), o.Longest, small)
	if o.RepairOneIn == 0 {
		o.RepairOneIn = 8
	}
	var g gauge
	var input []byte
	whole := false
	defer func() {
		if t.Failed() || !whole { // a failed check, a panic, or judge left by FailNow
			keep(t, name, input)
		}
	}()
	c := Counted{Target: filepath.Base(dir) + "." + name, Gear: "mutated", Seed: seed}
	began := time.Now()
	report := func() {
		c.Date, c.Seconds, c.Slowest, c.Largest = time.Now().UTC().Truncate(time.Second), time.Since(began).Seconds(), float64(g.slowest.Nanoseconds())/1e3, g.largest
		began = time.Now()
		if path := os.Getenv(EnvState); path != "" && c.Inputs > 0 {
			if err := appendLine(path, c); err != nil {
				t.Error(err)
			}
		}
		c.Inputs, c.Accepted = 0, 0
	}
	for i := range n {
		if i < len(seeds) {
			input = seeds[i]
		} else {
			input = m.next()
			if o.Repair != nil && i%o.RepairOneIn == 0 {
				input = o.Repair(input)
			}
		}
		if g.weigh(t, input, o, judge) {
			c.Accepted++
		}
		if t.Failed() {
			return
		}
		if c.Inputs++; time.Since(began) > 20*time.Second {
			report() // an interrupted run has counted what it did
		}
	}
	report()
	whole = true
}

func appendLine(path string, c Counted) error {
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	w, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer w.Close()
	_, err = w.Write(append(line, '\n'))
	return err
}

const fileHead = "go test fuzz v1\n[]byte("

// keep writes an input where go test finds it for ever.
func keep(t *testing.T, name string, input []byte) {
	dir := filepath.Join("testdata", "fuzz", name)
	path := filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256(input))[:16])
	text := fileHead + strconv.Quote(string(input)) + ")\n"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Error(err)
	}
	t.Logf("the input is in %s", path)
}

// corpus reads what was found before: in testdata and, if there is one, in the coverage-guided fuzzer's own directory.
func corpus(t *testing.T) (found [][]byte) {
	name, _, _ := strings.Cut(t.Name(), "/")
	dirs := []string{filepath.Join("testdata", "fuzz", name)}
	if d := os.Getenv(EnvCorpus); d != "" {
		dirs = append(dirs, filepath.Join(d, name))
	}
	for _, dir := range dirs {
		paths, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			quoted, ok := strings.CutPrefix(strings.TrimSuffix(strings.TrimSpace(string(b)), ")"), fileHead)
			if s, err := strconv.Unquote(quoted); ok && err == nil {
				found = append(found, []byte(s))
			}
		}
	}
	return found
}

// gauge holds inputs to the budget, and remembers the dearest.
type gauge struct {
	sample  []metrics.Sample
	n       int
	slowest time.Duration
	largest int64
}

// allocated is what was ever allocated, cheap to read but coarse: what a thread still takes from its own cache is seen late.
func (g *gauge) allocated() int64 {
	if g.sample == nil {
		g.sample = []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	}
	metrics.Read(g.sample)
	return int64(g.sample[0].Value.Uint64())
}

const coarse = 256 << 10 // more than a thread's cache hides in what these decoders allocate

// weigh judges an input. Only what looks dear on the wall clock and the coarse counter is judged again, three times, with the thread's
// CPU time and exact counters; the least of the three counts.
func (g *gauge) weigh(t *testing.T, input []byte, o Options, judge func(*testing.T, []byte) bool) (accepted bool) {
	memory, start := g.allocated(), time.Now()
	accepted = judge(t, input)
	wall, used := time.Since(start), g.allocated()-memory
	g.n++
	again := wall > max(g.slowest, 20*time.Microsecond) || used > g.largest+coarse || used > MaxAlloc-coarse || g.n%4096 == 1
	if t.Failed() || !again {
		return accepted
	}
	cpu, bytes := time.Duration(1<<62), int64(1<<62)
	decode := o.Decode
	if decode == nil {
		decode = func(b []byte) { judge(t, b) }
	}
	for range 3 {
		c, b := measure(func() { decode(input) })
		cpu, bytes = min(cpu, c), min(bytes, b-int64(len(input)))
	}
	g.slowest, g.largest = max(g.slowest, cpu), max(g.largest, bytes)
	if cpu > MaxTime && timed() {
		t.Errorf("an input of %d bytes took %v of CPU, at most %v is allowed", len(input), cpu, MaxTime)
	}
	most := int64(MaxAlloc)
	if raceDetector {
		most += MaxAlloc / 2 // sync.Pool forgets every fourth value on purpose then, and JSON is put in order in such values
	}
	if bytes > most {
		t.Errorf("an input of %d bytes made %d bytes be allocated beyond its size, at most %d are allowed", len(input), bytes, most)
	}
	return accepted
}

// timed: only a fuzzer's runs are held to the time. The seeds are judged by every go test too, which must not fail because a processor is slow that day,
// and the race detector makes everything many times slower.
func timed() bool {
	guided := flag.Lookup("test.fuzz")
	return !raceDetector && (os.Getenv(EnvInputs) != "" || guided != nil && guided.Value.String() != "")
}

// measure is exact: the world stands still while the counters are read.
func measure(f func()) (cpu time.Duration, bytes int64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := threadTime()
	f()
	cpu = threadTime() - start
	runtime.ReadMemStats(&after)
	return cpu, int64(after.TotalAlloc - before.TotalAlloc)
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err) // Linux has this clock
	}
	return time.Duration(ts.Nano())
}

// Strings turns texts into seeds.
func Strings(texts ...string) (seeds [][]byte) {
	for _, s := range texts {
		seeds = append(seeds, []byte(s))
	}
	return seeds
}
