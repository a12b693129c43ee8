// Command bench measures what requests cost: the real daemon as a process on a fresh installation, and a load generator over real mTLS with
// distinct valid requests made in advance. Beside each figure stands its floor, measured in the same run on the same machine: only the
// ratio of the two can be compared between machines and days. Nothing is asserted.
//
//	bench                    everything; BENCH_SHORT=1: one short round
//	bench -overload 10s      1, 2 and 10 times the capacity, each for that long, three rounds (make bench-scale)
//	bench -growth 10000000   issuing with that many subjects in the ledger, and with a thousand, in turns (make bench-scale)
//	bench -hold 4194304      a mass hold of 22 lists of 2^20 entries and its lift, with that many cards (make bench-hold)
//	bench -rotation          issuing while document signers take over one after the other
//	bench -enrol             enrolments next to a stock step-ca (make bench-scale)
//	bench -profile FILE      a CPU profile of the daemon while 64 clients issue, and what it asked of the kernel for a request
//	bench -compare DIR,DIR   issuing at 64 clients with the daemons of several builds in turns, to judge a change
//
// Per CPU second counts user and system time of the daemon and of its HSM workers, also of those that ended; not the load generator's.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "child" { // a floor that must not share a process with the load generator
		if err := child(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	bin := flag.String("bin", "bin", "directory of sealkeeperd and of the signer's benchmark")
	compare := flag.String("compare", "", "directories of several builds, separated by commas")
	profile := flag.String("profile", "", "write a CPU profile of the daemon while it issues at 64 clients")
	whole := flag.Bool("full", false, "with -compare and -profile: issue with statements, methods, phases and budgets")
	overload := flag.Duration("overload", 0, "three rounds of 1, 2 and 10 times the capacity, each for this long, and nothing else")
	subjects := flag.Int("growth", 0, "what an issue costs with this many subjects in the ledger, against a thousand; with -overload: afterwards")
	held := flag.Int("hold", 0, "how long a mass hold of 22 lists and its lift take with this many cards, and nothing else")
	rotation := flag.Bool("rotation", false, "issuing while document signers are rotated, and nothing else")
	enrolment := flag.Bool("enrol", false, "enrolments next to a stock step-ca; alone, or with -overload and -growth")
	replayed := flag.Bool("replay", false, "how long a replay of 100,000 decisions takes, and nothing else")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b := &bench{bin: *bin, out: env("BENCH_OUT", ".bench/bench.json"), size: full}
	if os.Getenv("BENCH_SHORT") != "" {
		b.size = short
	}
	err := b.setUp()
	switch {
	case err != nil:
	case *rotation:
		if err = b.rotation(ctx); err == nil {
			err = b.write()
		}
	case *replayed:
		if err = b.replayAlone(ctx); err == nil {
			err = b.write()
		}
	case *held > 0:
		if err = b.hold(ctx, *held); err == nil {
			err = b.write()
		}
	case *profile != "":
		err = b.profile(ctx, *profile, *whole)
	case *overload > 0 || *subjects > 0 || *enrolment:
		err = b.scale(ctx, *overload, *subjects, *enrolment)
	case *compare != "":
		err = b.compare(ctx, strings.Split(*compare, ","), *whole)
	default:
		err = b.run(ctx)
	}
	if cerr := os.RemoveAll(b.work); err == nil {
		err = cerr
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func env(name, byDefault string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return byDefault
}

// size of a run.
type size struct {
	rounds   int
	requests map[int]int // clients → requests of one measurement
	locks    int         // samples of lock to fetchable
	starts   int
	signs    int           // of one measurement of the HSM layer and of its floor
	overload time.Duration // of each load

	enrolRounds, enrolments int // of each
}

var (
	full  = size{3, map[int]int{1: 800, 8: 2500, 32: 5000, 64: 6000}, 200, 3, 60000, 3 * time.Second, 9, 1000}
	short = size{1, map[int]int{1: 300, 8: 1000, 32: 2000, 64: 4000}, 40, 1, 20000, 2 * time.Second, 1, 800}
)

var clients = []int{1, 8, 32, 64}

type product struct {
	name    string
	formats []string // none: all
	signs   int      // signatures that it takes
	checks  int      // verifications: proof, attestation, statements, and each credential before its release
}

// floor is the CPU µs that the public keys of a request cost while it was served: verifications in Go, signatures by a session in a process of its own.
func (p product) floor(r result) float64 {
	return float64(p.checks)*r.verify + float64(p.signs)*r.sign
}

var (
	products = []product{{"mdoc", []string{"mso_mdoc"}, 1, 3}, {"sdjwt", []string{"dc+sd-jwt"}, 1, 3}, {"both", nil, 2, 4}}
	whole    = product{"full", []string{"dc+sd-jwt"}, 1, fullVerifications}
)

type bench struct {
	bin, out, work string
	size           size
	began          time.Time
	figures        []figure
}

// figure is one row of bench.json.
type figure struct {
	Name  string   `json:"name"`
	Value float64  `json:"value"`
	Unit  string   `json:"unit"`
	Floor *float64 `json:"floor"` // null: there is none
	Ratio *float64 `json:"ratio"` // to the floor; 1 is the best that can be
}

func (b *bench) add(name string, value float64, unit string) {
	b.figures = append(b.figures, figure{Name: name, Value: value, Unit: unit})
}

func (b *bench) against(name string, value float64, unit string, floor, ratio float64) {
	b.figures = append(b.figures, figure{name, value, unit, &floor, &ratio})
}

func (b *bench) setUp() (err error) {
	b.began = time.Now()
	if err = os.MkdirAll(filepath.Dir(b.out), 0o755); err != nil {
		return err
	}
	// Beside the result, not in /tmp: that may be memory, where a sync costs nothing.
	if b.work, err = os.MkdirTemp(filepath.Dir(b.out), "work-"); err != nil {
		return err
	}
	b.work, err = filepath.Abs(b.work)
	return err
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1f s  %s (load %s)\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...), loadAverage())
}

func loadAverage() string {
	s, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(s), " ")
	return first
}

// cell is all rounds of one measurement.
type cell struct {
	what    string
	clients int
	product // none: a lock
	rounds  []result
}

func (b *bench) run(ctx context.Context) error {
	var cells []*cell
	for _, p := range products {
		for _, c := range clients {
			cells = append(cells, &cell{what: "issue " + p.name, clients: c, product: p})
		}
	}
	for _, c := range clients {
		cells = append(cells, &cell{what: "lock", clients: c})
	}
	cells = append(cells, &cell{what: "issue full", clients: 64, product: whole})
	var floors []floor
	var layer, pool, echo []float64
	var evaluations []float64
	var toShow []time.Duration
	b.progress("installing")
	a, err := installDemo(ctx, filepath.Join(b.work, "a"), b.bin)
	if err != nil {
		return err
	}
	defer a.stop()
	r, err := installResidents(ctx, filepath.Join(b.work, "residents"), b.bin)
	if err != nil {
		return err
	}
	defer r.stop()
	for _, i := range []*appliance{a, r} {
		if i.signing, err = b.signing(ctx, i); err != nil {
			return err
		}
		defer i.signing.stop()
	}
	var starts []float64
	for range b.size.starts {
		if err := a.stop(); err != nil {
			return err
		}
		took, err := a.start(ctx)
		if err != nil {
			return err
		}
		starts = append(starts, float64(took.Microseconds())/1000)
	}
	if err := sleep(ctx, time.Second); err != nil {
		return err
	}
	rss, err := a.rss()
	if err != nil {
		return err
	}
	b.add("start_ms", median(starts), "ms")
	b.add("rss_mib_idle", rss, "MiB")
	for round := range b.size.rounds {
		b.progress("round %d of %d: floors", round+1, b.size.rounds)
		f, err := b.floors(ctx, a)
		if err != nil {
			return err
		}
		floors = append(floors, f)
		p, err := b.pool(ctx, a, 32)
		if err != nil {
			return err
		}
		l, err := b.layer(ctx, 32)
		if err != nil {
			return err
		}
		pool, layer = append(pool, p.perSecond), append(layer, l)
		e, err := b.echo(ctx, a)
		if err != nil {
			return err
		}
		echo = append(echo, e)
		us, err := policyEval()
		if err != nil {
			return err
		}
		evaluations = append(evaluations, us)
		var issued [][]string // subjects that hold a card, for the locks
		for _, c := range cells {
			b.progress("round %d of %d: %s, %d clients", round+1, b.size.rounds, c.what, c.clients)
			n := b.size.requests[c.clients]
			var took result
			switch {
			case c.signs == 0:
				took, err = a.lock(ctx, issued[0], c.clients)
				issued = issued[1:]
			case c.name == whole.name:
				took, _, err = r.issue(ctx, c.formats, n, c.clients)
			default:
				var subjects []string
				if took, subjects, err = a.issue(ctx, c.formats, n, c.clients); c.formats == nil {
					issued = append(issued, subjects)
				}
			}
			if err != nil {
				return fmt.Errorf("%s with %d clients: %w", c.what, c.clients, err)
			}
			c.rounds = append(c.rounds, took)
		}
	}
	if err := r.stop(); err != nil {
		return err
	}
	b.progress("replaying decisions")
	replay, err := b.replay(ctx, r)
	if err != nil {
		return err
	}
	b.add("policy_replay_100k_s", replay, "s")
	b.progress("locks while issuing at full load")
	if toShow, err = a.lockToFetchable(ctx, b.size.locks); err != nil {
		return err
	}
	b.add("policy_eval_us", median(evaluations), "CPU µs")
	b.report(cells, floors, layer, pool, echo, toShow)
	b.progress("rotating keys while issuing at full load")
	if err := b.rotation(ctx); err != nil {
		return err
	}
	b.progress("overload")
	if err := b.overload(ctx, a, b.size.overload, b.size.rounds); err != nil {
		return err
	}
	return b.write()
}

// scale is what make bench-scale measures; 0 leaves a part out.
func (b *bench) scale(ctx context.Context, overload time.Duration, subjects int, enrolment bool) error {
	if enrolment {
		if err := b.enrol(ctx); err != nil {
			return err
		}
	}
	if overload > 0 {
		if err := b.overloaded(ctx, overload); err != nil {
			return err
		}
	}
	if subjects > 0 {
		if err := b.growth(ctx, subjects); err != nil {
			return err
		}
	}
	return b.write()
}

// reference is the CPU µs of a P-256 verification for which aims are stated: 51 to 56. What is measured where one takes longer is said for that as well.
const reference = 53.5

func (b *bench) report(cells []*cell, floors []floor, layer, pool, echo []float64, toShow []time.Duration) {
	f := floor{verify: median(each(floors, func(f floor) float64 { return f.verify })), sign: median(each(floors, func(f floor) float64 { return f.sign })),
		hsm: median(each(floors, func(f floor) float64 { return f.hsm }))}
	fmt.Printf("\n%-12s %7s %8s %8s %8s %11s %7s %9s %9s %6s %9s\n", "", "clients", "req/s", "p50 ms", "p99 ms", "per CPU s", "CPU µs", "verify µs", "floor µs", "ratio", "at 53 µs")
	ratios, loaded := []float64{}, []result{}
	for _, c := range cells {
		perCPU := median(each(c.rounds, result.perCPU))
		wall := median(each(c.rounds, result.perSecond))
		p50, p99 := median(each(c.rounds, func(r result) float64 { return r.quantile(0.50) })), median(each(c.rounds, func(r result) float64 { return r.quantile(0.99) }))
		name := strings.ReplaceAll(c.what, " ", "_")
		at := fmt.Sprintf("_c%d", c.clients)
		b.add(name+"_per_s"+at, wall, "1/s")
		b.add(name+"_p50_ms"+at, p50, "ms")
		b.add(name+"_p99_ms"+at, p99, "ms")
		fmt.Printf("%-12s %7d %8.0f %8.1f %8.1f %11.0f %7.0f", c.what, c.clients, wall, p50, p99, perCPU, 1e6/perCPU)
		if c.signs == 0 {
			b.add(name+"_per_cpu_s"+at, perCPU, "1/CPU s")
			fmt.Println()
			continue
		}
		us, ratio := median(each(c.rounds, c.floor)), median(each(c.rounds, func(r result) float64 { return c.floor(r) * r.perCPU() / 1e6 }))
		verify := median(each(c.rounds, func(r result) float64 { return r.verify }))
		scaled := median(each(c.rounds, func(r result) float64 { return r.perCPU() * r.verify / reference }))
		b.against(name+"_per_cpu_s"+at, perCPU, "1/CPU s", 1e6/us, ratio)
		fmt.Printf(" %9.1f %9.0f %6.2f %9.0f\n", verify, us, ratio, scaled)
		if c.clients == 64 {
			b.against(name+"_per_cpu_s", perCPU, "1/CPU s", 1e6/us, ratio)
			b.add(name+"_per_cpu_s_at_53us", scaled, "1/CPU s")
			if c.signs == 1 && c.name != whole.name {
				loaded = append(loaded, c.rounds...)
				ratios = append(ratios, ratio)
			}
		}
	}
	b.against("issue_floor_ratio", slices.Min(ratios), "1", 1, slices.Min(ratios))
	l, p := median(layer), median(pool)
	b.against("hsm_layer_vs_pool", l/p, "1", 1, l/p)
	b.add("hsm_layer_per_s_32", l, "1/s")
	b.add("hsm_pool_per_s_32", p, "1/s")
	b.add("p256_verify_us", f.verify, "CPU µs")
	b.add("p256_sign_us", f.sign, "CPU µs")
	b.add("hsm_sign_us", f.hsm, "CPU µs")
	b.add("hsm_sign_under_load_us", median(each(loaded, func(r result) float64 { return r.sign })), "CPU µs")
	b.add("p256_verify_under_load_us", median(each(loaded, func(r result) float64 { return r.verify })), "CPU µs")
	b.add("mtls_echo_per_cpu_s", median(echo), "1/CPU s")
	ms := each(toShow, func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 })
	slices.Sort(ms)
	b.add("lock_to_fetchable_p50_ms", quantile(ms, 0.5), "ms")
	b.add("lock_to_fetchable_p99_ms", quantile(ms, 0.99), "ms")
	fmt.Printf("\nHSM layer, 32 callers: %.0f /s; two sessions in one process: %.0f /s; ratio %.2f\n", l, p, l/p)
	fmt.Printf("Floors (CPU µs): P-256 verify %.1f, sign %.1f in Go; HSM sign %.1f; mTLS echo %.1f. While 64 clients are served: verify %.1f, HSM sign %.1f\n", f.verify, f.sign, f.hsm, 1e6/median(echo),
		median(each(loaded, func(r result) float64 { return r.verify })), median(each(loaded, func(r result) float64 { return r.sign })))
	fmt.Printf("Lock to fetchable under full load, %d locks: p50 %.0f ms, p99 %.0f ms\n", len(ms), quantile(ms, 0.5), quantile(ms, 0.99))
	for _, n := range []string{"policy_eval_us", "policy_replay_100k_s", "start_ms", "rss_mib_idle"} {
		i := slices.IndexFunc(b.figures, func(f figure) bool { return f.Name == n })
		fmt.Printf("%s: %.3g\n", n, b.figures[i].Value)
	}
}

func (b *bench) write() error {
	out, err := json.MarshalIndent(b.figures, "", " ")
	if err != nil {
		return err
	}
	fmt.Printf("All figures: %s (%.0f s, load %s)\n", b.out, time.Since(b.began).Seconds(), loadAverage())
	return os.WriteFile(b.out, append(out, '\n'), 0o644)
}

// compare takes turns between builds, so that what else the machine does meets all of them alike.
func (b *bench) compare(ctx context.Context, dirs []string, programme bool) error {
	if len(dirs) < 2 {
		return errors.New("there is nothing to compare: name two directories or more")
	}
	all := make([]map[string][]result, len(dirs))
	installed := make([]*appliance, len(dirs))
	for i, d := range dirs {
		found := installDemo
		if programme {
			found = installResidents
		}
		a, err := found(ctx, filepath.Join(b.work, fmt.Sprint(i)), d)
		if err != nil {
			return err
		}
		defer a.stop()
		all[i], installed[i] = map[string][]result{}, a
		if a.signing, err = b.signing(ctx, a); err != nil {
			return err
		}
		defer a.signing.stop()
	}
	compared := products[:2]
	if b.size.rounds == 1 {
		compared = products[1:2]
	}
	if programme {
		compared = []product{whole}
	}
	var verify []float64
	for round := range max(3, b.size.rounds) {
		for _, p := range compared {
			for i, a := range installed {
				b.progress("round %d: %s with %s", round+1, p.name, dirs[i])
				r, _, err := a.issue(ctx, p.formats, b.size.requests[64], 64)
				if err != nil {
					return err
				}
				all[i][p.name] = append(all[i][p.name], r)
			}
			v, _, err := publicKey()
			if err != nil {
				return err
			}
			verify = append(verify, v)
		}
	}
	fmt.Printf("P-256 verification between the turns %.1f CPU µs\n", median(verify))
	for _, p := range compared {
		for i, d := range dirs {
			per := each(all[i][p.name], result.perCPU)
			verifications := each(all[i][p.name], func(r result) float64 { return 1e6 / r.perCPU() / r.verify })
			ratio := median(each(all[i][p.name], func(r result) float64 { return p.floor(r) * r.perCPU() / 1e6 }))
			fmt.Printf("%-6s %-24s %6.0f per CPU s (%.0f to %.0f), %.0f CPU µs, %.0f req/s; as much as %.2f verifications (%.2f to %.2f); of the floor %.2f (HSM sign %.1f)\n", p.name, d, median(per), slices.Min(per),
				slices.Max(per), 1e6/median(per), median(each(all[i][p.name], result.perSecond)), median(verifications), slices.Min(verifications), slices.Max(verifications), ratio, median(each(all[i][p.name], func(r result) float64 { return r.sign })))
		}
	}
	return nil
}

func each[A any](list []A, f func(A) float64) []float64 {
	out := make([]float64, len(list))
	for i, v := range list {
		out[i] = f(v)
	}
	return out
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return quantile(s, 0.5)
}

// quantile of a sorted list, the nearest rank.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
