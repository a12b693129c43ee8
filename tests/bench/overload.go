package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sealkeeper/contract"
	"sealkeeper/verifier"
)

// Overload is measured open loop: requests arrive by a schedule, whatever became of those before. Beside them, in each phase, a carrier
// sends locks by a schedule of its own and a verifier fetches the lists.
const (
	overloadLines = 512 // connections of the issuance service; an arrival that finds none free is lost at the client, as in a real pool
	locksPerSec   = 50
	carrierLines  = 8
	settle        = time.Second           // of an open loop, before it is measured
	lookEvery     = 20 * time.Millisecond // the verifier's; the resolution of lock to fetchable
)

// phase is what one load led to.
type phase struct {
	result                   // accepted issues; latency from the scheduled arrival
	offered, refused, unsent int
	locks, shed              int       // locks acknowledged, and those that were not
	shown                    []float64 // lock sent to fetchable, ms, sorted
}

// card is an issued one, for a lock.
type card struct {
	subject string
	refs    []contract.StatusRef
}

// cards issues n cards.
func (a *appliance) cards(ctx context.Context, n int) ([]card, error) {
	p, err := a.prepare(ctx, nil, n)
	if err != nil {
		return nil, err
	}
	out := make([]card, n)
	_, err = drive(ctx, a.tls["ward-office-1"], a.ports[0], 8, p.requests, nothing, func(i int, body []byte) error {
		var answer contract.IssueAnswer
		err := json.Unmarshal(body, &answer)
		out[i].subject = p.subjects[i]
		for _, c := range answer.Credentials {
			out[i].refs = append(out[i].refs, c.Status)
		}
		return err
	})
	return out, err
}

// desk sends locks by a schedule and watches the lists for them.
type desk struct {
	a     *appliance
	cards []card

	mu      sync.Mutex
	pending map[int]time.Time // card → when its lock was sent
	p       *phase
}

// run locks one card every 1/locksPerSec s until ctx ends, and then waits until all locks are shown.
func (d *desk) run(ctx context.Context) error {
	work := make(chan int, len(d.cards))
	var senders sync.WaitGroup
	var failed error
	for range carrierLines {
		l, err := dial(d.a.tls["telecom-a"], d.a.ports[0])
		if err != nil {
			return err
		}
		defer l.conn.Close()
		senders.Go(func() {
			for i := range work {
				_, err := l.ask(lockOf(d.cards[i].subject), false)
				d.mu.Lock()
				if err != nil {
					d.p.shed++
					failed = err
					delete(d.pending, i)
				} else {
					d.p.locks++
				}
				d.mu.Unlock()
			}
		})
	}
	watched := make(chan error, 1)
	over := make(chan struct{})
	go func() { watched <- d.watch(over) }()
	tick := time.NewTicker(time.Second / locksPerSec)
	defer tick.Stop()
	for i := 0; i < len(d.cards) && ctx.Err() == nil; i++ {
		d.mu.Lock()
		d.pending[i] = time.Now()
		d.mu.Unlock()
		work <- i
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	close(work)
	senders.Wait()
	close(over)
	err := <-watched
	if failed != nil && d.p.locks == 0 {
		err = errors.Join(err, failed)
	}
	slices.Sort(d.p.shown)
	return err
}

// watch fetches every list that a pending lock is waiting for, and decodes and verifies each of its versions once.
func (d *desk) watch(over chan struct{}) error {
	type seen struct {
		token []byte
		list  *verifier.StatusList
	}
	lists := map[string]*seen{}
	var late time.Time
	for {
		d.mu.Lock()
		waiting := map[int]time.Time{}
		for i, since := range d.pending {
			waiting[i] = since
		}
		d.mu.Unlock()
		select {
		case <-over:
			if len(waiting) == 0 {
				return nil
			}
			if late.IsZero() {
				late = time.Now().Add(20 * time.Second)
			} else if time.Now().After(late) {
				return fmt.Errorf("%d locks are in no list 20 s after the load", len(waiting))
			}
		default:
		}
		fresh := map[string]bool{}
		for i, since := range waiting {
			shown := true
			for _, ref := range d.cards[i].refs {
				s := lists[ref.URI]
				if s == nil {
					s = &seen{}
					lists[ref.URI] = s
				}
				if !fresh[ref.URI] {
					fresh[ref.URI] = true
					token, err := d.a.public(context.Background(), strings.TrimPrefix(ref.URI, publicURL))
					if err != nil {
						return err
					}
					if !bytes.Equal(token, s.token) {
						list, err := verifier.DecodeStatusList(token, verifier.MaxEntries)
						if err != nil {
							return err
						}
						if err := list.Verify([]*x509.Certificate{d.a.root}, time.Now()); err != nil {
							return err
						}
						s.token, s.list = token, list
					}
				}
				if got, ok := s.list.Get(ref.Index); !ok || got == 0 {
					shown = false
				}
			}
			if shown {
				d.mu.Lock()
				d.p.shown = append(d.p.shown, float64(time.Since(since).Microseconds())/1000)
				delete(d.pending, i)
				d.mu.Unlock()
			}
		}
		time.Sleep(lookEvery)
	}
}

// arrive offers issues at a rate for a time.
func (a *appliance) arrive(ctx context.Context, requests [][]byte, rate float64, d time.Duration, p *phase) error {
	type arrival struct {
		request []byte
		at      time.Time
	}
	free := make(chan chan arrival, overloadLines)
	again := make(chan []byte, len(requests)) // refused ones had no effect and arrive once more
	for _, r := range requests {
		again <- r
	}
	var mu sync.Mutex
	var refused atomic.Int64
	var failed error
	var lines sync.WaitGroup
	var mine []chan arrival
	for range overloadLines {
		l, err := dial(a.tls["ward-office-1"], a.ports[0])
		if err != nil {
			return err
		}
		next := make(chan arrival, 1)
		mine = append(mine, next)
		free <- next
		lines.Go(func() {
			defer func() { l.conn.Close() }()
			first := true
			for w := range next {
				status, err := l.send(w.request)
				if first && (errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
					// The daemon waits 5 s for a connection's first request, and to dial all of them may take that long.
					var other *line
					if other, err = dial(a.tls["ward-office-1"], a.ports[0]); err == nil {
						l.conn.Close()
						l = other
						status, err = l.send(w.request)
					}
				}
				first = false
				switch {
				case err != nil:
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				case status == http.StatusOK:
					took := float64(time.Since(w.at).Microseconds()) / 1000
					mu.Lock()
					p.latency = append(p.latency, took)
					mu.Unlock()
				case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
					refused.Add(1)
					again <- w.request
				default:
					mu.Lock()
					failed = fmt.Errorf("an issue under overload: status %d", status)
					mu.Unlock()
					return
				}
				free <- next
			}
		})
	}
	// Measured from when the queues are full, so that what is in flight at the end was so at the beginning too.
	began, since, done := time.Now(), time.Time{}, 0
	var before time.Duration
	d += settle
	for ctx.Err() == nil && time.Since(began) < d {
		if since.IsZero() && time.Since(began) >= settle {
			cpu, err := a.cpu()
			if err != nil {
				return err
			}
			mu.Lock()
			since, before, done = time.Now(), cpu, len(p.latency)
			mu.Unlock()
		}
		time.Sleep(time.Millisecond)
		due := int(rate * min(time.Since(began), d).Seconds())
		for ; p.offered < due; p.offered++ {
			at := began.Add(time.Duration(float64(p.offered) / rate * float64(time.Second)))
			select {
			case next := <-free:
				select {
				case r := <-again:
					next <- arrival{r, at}
				default:
					return errors.New("more issues were accepted than prepared: this machine is faster than its capacity was measured to be")
				}
			default:
				p.unsent++
			}
		}
	}
	mu.Lock()
	p.done, p.wall = len(p.latency)-done, time.Since(since)
	mu.Unlock()
	after, err := a.cpu()
	if err != nil {
		return err
	}
	p.cpu = after - before
	for _, next := range mine {
		close(next)
	}
	lines.Wait()
	p.refused = int(refused.Load())
	slices.Sort(p.latency)
	return errors.Join(failed, ctx.Err())
}

// send asks and looks at the status alone.
func (l *line) send(request []byte) (status int, err error) {
	if err := l.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := l.conn.Write(request); err != nil {
		return 0, err
	}
	r, err := http.ReadResponse(l.in, nil)
	if err != nil {
		return 0, err
	}
	_, err = l.in.Discard(int(r.ContentLength)) // cheaper than a reader: the answer has a length
	return r.StatusCode, err
}

// beside runs a load with the carrier and the verifier next to it.
func (a *appliance) beside(ctx context.Context, d time.Duration, load func(p *phase) error) (*phase, error) {
	cards, err := a.cards(ctx, int((d+settle).Seconds()*locksPerSec)+1)
	if err != nil {
		return nil, err
	}
	p := &phase{}
	desk := &desk{a: a, cards: cards, pending: map[int]time.Time{}, p: p}
	ctx, end := context.WithCancel(ctx)
	defer end()
	locked := make(chan error, 1)
	go func() { locked <- desk.run(ctx) }()
	verified, err := verifyingOn(a.cpus)
	if err != nil {
		return nil, errors.Join(err, <-locked)
	}
	err = load(p)
	var failed error
	p.verify, failed = verified()
	end()
	return p, errors.Join(err, failed, <-locked)
}

// capacity of 64 clients in a closed loop.
func (a *appliance) capacity(ctx context.Context, d time.Duration) (*phase, error) {
	// Before, or the locks were over when the load begins, and it would be a peak without them.
	ready, err := a.prepare(ctx, products[1].formats, int(d.Seconds()*3000))
	if err != nil {
		return nil, err
	}
	p, err := a.beside(ctx, d, func(p *phase) (err error) {
		until, end := context.WithTimeout(ctx, d)
		defer end()
		p.result, err = drive(until, a.tls["ward-office-1"], a.ports[0], 64, ready.requests, a.cpu, nil)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = nil
		}
		p.latency = slices.DeleteFunc(p.latency, func(ms float64) bool { return ms == 0 }) // not sent before the time was over
		p.done = len(p.latency)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("measuring the capacity: %w", err)
	}
	return p, nil
}

var factors = []float64{1, 2, 10}

// round is one closed loop, each multiple of its rate offered in an open one, and the closed loop again: what else the machine does meets all
// of them alike only if the capacity is measured on both sides.
type round struct {
	phases []*phase
	peak   result
}

func (b *bench) round(ctx context.Context, a *appliance, d time.Duration) (*round, error) {
	first, err := a.capacity(ctx, d)
	if err != nil {
		return nil, err
	}
	phases := []*phase{first}
	for _, f := range factors {
		b.progress("open loop at %g times the capacity of %.0f /s", f, first.perSecond())
		ready, err := a.prepare(ctx, products[1].formats, int(2*first.perSecond()*(d+settle).Seconds())+overloadLines)
		if err != nil {
			return nil, err
		}
		p, err := a.beside(ctx, d, func(p *phase) error { return a.arrive(ctx, ready.requests, f*first.perSecond(), d, p) })
		if err != nil {
			return nil, fmt.Errorf("at %g times the capacity: %w\n%s", f, err, a.lastWords())
		}
		phases = append(phases, p)
	}
	last, err := a.capacity(ctx, d)
	if err != nil {
		return nil, err
	}
	peak := result{done: first.done + last.done, wall: first.wall + last.wall, cpu: first.cpu + last.cpu}
	peak.verify = peak.cpu.Seconds() / (first.cpu.Seconds()/first.verify + last.cpu.Seconds()/last.verify)
	return &round{append(phases, last), peak}, nil
}

// overload finds the capacity with as many clients as it takes, and then offers multiples of it, some rounds of all. The ratios written are
// the middle ones. That of goodput compares what is done in the CPU time that a verification took meanwhile, on the server's processors: a shared
// machine is a fifth faster or slower from one phase to the next. That of goodput_per_s compares by the wall.
func (b *bench) overload(ctx context.Context, a *appliance, d time.Duration, rounds int) error {
	if err := a.stop(); err != nil {
		return err
	}
	together, err := a.apart()
	if err != nil {
		return err
	}
	if _, err := a.start(ctx); err != nil {
		return errors.Join(err, together())
	}
	var all []*round
	for range rounds {
		r, err := b.round(ctx, a, d)
		if err != nil {
			return errors.Join(err, together())
		}
		all = append(all, r)
	}
	if err := errors.Join(together(), a.stop()); err != nil {
		return err
	}
	if _, err := a.start(ctx); err != nil {
		return err
	}
	fmt.Printf("\n%-14s %8s %8s %8s %8s %8s %9s %9s %8s %8s %8s %6s %5s %12s\n", "open loop", "offered", "good/s", "of peak", "refused", "unsent", "per CPU s", "verify µs", "of peak", "p50 ms", "p99 ms", "locks", "shed", "lock p99 ms")
	shed, shown := 0, []float64{}
	for _, r := range all {
		for i, p := range r.phases {
			name := "closed loop"
			if i > 0 && i <= len(factors) {
				name = fmt.Sprintf("%g × capacity", factors[i-1])
			}
			fmt.Printf("%-14s %8d %8.0f %8.2f %8d %8d %9.0f %9.1f %8.2f %8.1f %8.1f %6d %5d %12.0f\n", name, p.offered, p.perSecond(), p.perSecond()/r.peak.perSecond(), p.refused, p.unsent,
				p.perCPU(), p.verify, p.worth()/r.peak.worth(), p.quantile(0.5), p.quantile(0.99), p.locks, p.shed, quantile(p.shown, 0.99))
			shed += p.shed
			if i > 1 && i <= len(factors) {
				shown = append(shown, p.shown...)
			}
		}
	}
	for i, f := range factors {
		if f == 1 {
			continue
		}
		by := func(of func(p *phase, peak result) float64) *round {
			sorted := slices.Clone(all)
			slices.SortFunc(sorted, func(x, y *round) int { return cmp.Compare(of(x.phases[i+1], x.peak), of(y.phases[i+1], y.peak)) })
			return sorted[(len(sorted)-1)/2]
		}
		at := fmt.Sprintf("overload_%gx_", f)
		r := by(func(p *phase, peak result) float64 { return p.worth() / peak.worth() })
		p := r.phases[i+1]
		b.against(at+"goodput", p.worth()/reference, "1/CPU s where a P-256 verification takes 53.5 µs", r.peak.worth()/reference, p.worth()/r.peak.worth())
		r = by(func(p *phase, peak result) float64 { return p.perSecond() / peak.perSecond() })
		b.against(at+"goodput_per_s", r.phases[i+1].perSecond(), "1/s", r.peak.perSecond(), r.phases[i+1].perSecond()/r.peak.perSecond())
		r = by(func(p *phase, _ result) float64 { return p.quantile(0.99) })
		b.add(at+"accepted_p99_ms", r.phases[i+1].quantile(0.99), "ms")
	}
	slices.Sort(shown)
	b.add("overload_accepted_p99_ms", all[len(all)-1].phases[len(factors)].quantile(0.99), "ms")
	b.add("overload_lock_p99_ms", quantile(shown, 0.99), "ms")
	b.add("overload_locks_shed", float64(shed), "1")
	return nil
}

// overloaded is overload on an installation of its own.
func (b *bench) overloaded(ctx context.Context, d time.Duration) error {
	b.progress("installing")
	a, err := installDemo(ctx, filepath.Join(b.work, "a"), b.bin)
	if err != nil {
		return err
	}
	defer a.stop()
	if err := b.overload(ctx, a, d, 3); err != nil {
		return err
	}
	return a.stop()
}
