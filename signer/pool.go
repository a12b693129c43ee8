package signer

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/metrics"
	"sealkeeper/policy"
	"sealkeeper/signer/wire"
)

const (
	maxBatch = 32      // items of one frame
	maxBytes = 4 << 20 // TBS bytes of one frame, well below wire.MaxFrame
	inFlight = 2       // batches in one worker: the next one is there when the last is done. Locks have a third place, so they wait one batch
	maxTries = 5       // of one item, over lost workers

	maxWaiting = 64 << 10 // TBS bytes in one worker beyond which another one is asked: a socket's buffer holds more, so that sending does not wait
	turnAfter  = 10 * time.Second
)

var errClosing = fmt.Errorf("%w: the signer is closing", ErrDown)

// journal keeps the attempts of one reservation. The first attempt of each item is durable before the item gets here.
type journal interface {
	lost(ctx context.Context, items []int, worker string) error
	again(ctx context.Context, items []int) error // durable when it returns
}

// job is one signature that is wanted.
type job struct {
	keyID   string
	purpose policy.Purpose
	tbs     []byte
	lane    policy.Lane
	call    *call
	item    int
	since   time.Time
	lost    int // tries that ended without an answer
}

// call is what one caller waits for.
type call struct {
	journal journal
	done    chan struct{} // closed once all items are there, or one failed

	mu      sync.Mutex
	left    int
	raw     [][]byte
	workers []string
	err     error
	over    bool // answered, or the caller left: nothing more is wanted
}

func newCall(j journal, items int) *call {
	return &call{journal: j, done: make(chan struct{}), left: items, raw: make([][]byte, items), workers: make([]string, items)}
}

func (c *call) finish(item int, raw []byte, worker string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	if err == nil {
		c.raw[item], c.workers[item] = raw, worker
		if c.left--; c.left > 0 {
			return
		}
	}
	c.err, c.over = err, true
	close(c.done)
}

func (c *call) leave()       { c.mu.Lock(); defer c.mu.Unlock(); c.over = true }
func (c *call) wanted() bool { c.mu.Lock(); defer c.mu.Unlock(); return !c.over }

// ask is a request that is not a signature.
type ask struct {
	request wire.Request
	to      *process // who has to answer; nil: any
	limit   time.Duration
	again   bool // harmless to repeat
	tries   int
	answer  chan answer // buffered: nobody waits for the caller
}

type answer struct {
	response wire.Response
	err      error
}

// batch is in flight: jobs or an ask.
type batch struct {
	jobs  []*job
	ask   *ask
	bytes int // of TBS
	sent  time.Time
	limit time.Duration // from when it is its turn
	until time.Time
	timer *time.Timer
}

// pool is the workers of one token and what waits for them.
//
// One goroutine (keep) starts workers, one at a time: a refused PIN is then tried exactly once, and SoftHSM's start-up race can't happen
// among our own. Each worker has one that sends (dispatch) and one that reads. All end in close.
type pool struct {
	token    Token
	deadline time.Duration
	bound    int // of each lane that may be shed
	hello    func(context.Context) (wire.Hello, error)
	starter  *starter
	log      *slog.Logger
	metrics  *metrics.Metrics
	ctx      context.Context // ends when close stops waiting
	cancel   context.CancelFunc
	tasks    sync.WaitGroup

	mu         sync.Mutex
	state      *sync.Cond // everyone waits here but dispatchers, who have one each
	lanes      [policy.LaneBatch + 1][]*job
	asks       []*ask
	pending    int        // jobs and asks that were taken on and have no outcome yet
	workers    []*process // the first one that has a place takes; see turn
	turned     time.Time
	processes  int // started and not yet seen to end
	serial     int
	tried      int // place of the last worker that was started
	generation int
	places     []place
	startErr   error       // of the last failed start in this generation
	restarts   []time.Time // the last ones, at most 100
	stopped    error       // why no worker is started any more
	draining   bool
	closing    bool
}

// place is what there is to know of a worker's place, whoever is in it.
type place struct {
	failures  int       // in a row: starts without an answered batch, and workers that were quarantined
	notBefore time.Time // the next start
	bad       time.Time // when the last one was quarantined
}

// badFor is how long a place's answers don't make good that one of it was bad.
const badFor = time.Minute

func newPool(t Token, deadline time.Duration, bound int, hello func(context.Context) (wire.Hello, error), l *slog.Logger, m *metrics.Metrics) *pool {
	t.Workers = max(t.Workers, 1)
	p := &pool{token: t, deadline: deadline, bound: bound, hello: hello, starter: newStarter(t), log: l, metrics: m, places: make([]place, t.Workers+1)}
	p.state = sync.NewCond(&p.mu)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.tasks.Go(p.keep)
	return p
}

// ---- starting workers

// current counts the workers of this generation. The caller holds mu, here and in all lower-case helpers below that say so.
func (p *pool) current() (n int) {
	for _, w := range p.workers {
		if w.generation == p.generation && !w.retired {
			n++
		}
	}
	return n
}

// vacancy is the place where the next worker is started: the first free one after the last that was tried, so that a place whose server hangs does not
// keep another one empty.
func (p *pool) vacancy() (place int, ok bool) {
	now := time.Now()
	for n := range p.token.Workers {
		place = (p.tried+n)%p.token.Workers + 1
		if !now.Before(p.places[place].notBefore) && !slices.ContainsFunc(p.workers, func(w *process) bool { return w.place == place && w.generation == p.generation && !w.retired }) {
			return place, true
		}
	}
	return 0, false
}

func (p *pool) want() int {
	if p.token.OnDemand && p.pending == 0 {
		return 0
	}
	return p.token.Workers
}

// short: a worker is to be started now. Holds mu.
func (p *pool) short() (place int, ok bool) {
	if p.stopped != nil || p.current() >= p.want() || p.processes >= 2*p.token.Workers+4 {
		return 0, false
	}
	return p.vacancy()
}

// keep starts workers whenever there are too few, until close.
func (p *pool) keep() {
	for {
		p.mu.Lock()
		place, ok := p.short()
		for ; !p.closing && !ok; place, ok = p.short() {
			p.state.Wait()
		}
		if p.closing {
			p.mu.Unlock()
			return
		}
		generation := p.generation
		p.tried = place
		p.mu.Unlock()

		w, err := p.spawn(generation, place)

		p.mu.Lock()
		switch {
		case err != nil && !p.closing:
			p.notStarted(generation, place, err)
		case err == nil:
			p.join(w)
		}
		p.mu.Unlock()
	}
}

// join takes a ready worker in, and lets those of older generations go: the one at its place, since each reload would leave one more where another place
// can't be filled; and all once every new one is there. Holds mu.
func (p *pool) join(w *process) {
	p.workers = append(p.workers, w)
	p.startErr = nil
	p.log.Info("worker ready", "token", p.token.Name, "worker", w.name)
	p.tasks.Go(func() { p.read(w) })
	p.tasks.Go(func() { p.run(w) })
	all := p.current() >= p.want()
	for _, old := range p.workers {
		if old.generation != p.generation && (all || old != w && old.place == w.place) {
			p.retire(old)
		}
	}
	p.rest(w)
	p.changed()
}

// notStarted stops the token or sets the time of the next try. Holds mu.
func (p *pool) notStarted(generation, place int, err error) {
	if f, ok := err.(*failedStart); ok && f.stop {
		// With a refused PIN the workers that are logged in stay: they are what lists are still signed with. A key that is not what it
		// was stops them too: nobody knows what their handles mean now.
		p.stop(f.err, !f.pin)
		return
	}
	if generation == p.generation {
		p.startErr = err
	}
	p.pause(place, p.places[place].failures+1)
	p.log.Warn("worker did not start", "token", p.token.Name, "place", place, "error", err, "failures", p.places[place].failures)
	p.restarted("died")
	p.changed()
}

// restarted counts a worker that has to be replaced. Holds mu.
func (p *pool) restarted(reason string) {
	p.metrics.WorkerRestarts.WithLabelValues(p.token.Name, reason).Inc()
	p.restarts = append(p.restarts[max(0, len(p.restarts)-99):], time.Now())
}

// pause keeps a place empty after so many failures: 50 ms, 100 ms … 5 s. Holds mu.
func (p *pool) pause(place, failures int) {
	d := min(50*time.Millisecond<<min(failures-1, 10), 5*time.Second)
	p.places[place].failures, p.places[place].notBefore = failures, time.Now().Add(d)
	time.AfterFunc(d, func() { p.mu.Lock(); defer p.mu.Unlock(); p.state.Broadcast() }) // with mu: keep is in Wait, or has not looked yet
}

// stop ends the token: nothing is started any more, what can't be signed fails now. Holds mu.
func (p *pool) stop(err error, everyone bool) {
	p.log.Error("the token is stopped", "token", p.token.Name, "error", err)
	p.stopped = err
	if everyone {
		for _, w := range slices.Clone(p.workers) {
			p.bury(w, "died", "the token is stopped")
		}
	}
	p.changed()
}

// hopeless says why what waits will never be signed. Holds mu.
func (p *pool) hopeless() error {
	if p.closing {
		return errClosing
	}
	if p.stopped != nil && len(p.workers) == 0 {
		return p.stopped
	}
	return nil
}

// down says why nothing more is taken on. Holds mu.
func (p *pool) down() error {
	if p.draining {
		return errClosing
	}
	return p.hopeless()
}

// changed tells everyone, and fails what waits in vain. Holds mu.
func (p *pool) changed() {
	p.metrics.WorkersReady.WithLabelValues(p.token.Name).Set(float64(len(p.workers)))
	if err := p.hopeless(); err != nil {
		p.failQueued(err)
	}
	p.wake()
	p.state.Broadcast()
}

func (p *pool) failQueued(err error) {
	for l, q := range p.lanes {
		for _, j := range q {
			p.unqueued(j)
			p.settle(j, nil, "", err)
		}
		p.lanes[l] = nil
	}
	for _, a := range p.asks {
		p.reply(a, wire.Response{}, err)
	}
	p.asks = nil
}

// ---- queueing

// room says whether n more signatures would be taken on now. A refusal counts as shed.
func (p *pool) room(lane policy.Lane, n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takes(lane, n)
}

// takes is what room and enqueue ask. Holds mu.
func (p *pool) takes(lane policy.Lane, n int) error {
	if err := p.down(); err != nil {
		return err
	}
	if lane != policy.LaneLock && len(p.lanes[lane])+n > p.bound {
		p.metrics.Shed.WithLabelValues(lane.String()).Inc()
		return fmt.Errorf("%w: %d signatures wait in lane %s of token %q", ErrBusy, len(p.lanes[lane]), lane, p.token.Name)
	}
	return nil
}

// enqueue takes all jobs on or none; they are of one lane.
func (p *pool) enqueue(jobs []*job) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	lane := jobs[0].lane
	if err := p.takes(lane, len(jobs)); err != nil {
		return err
	}
	now := time.Now()
	for _, j := range jobs {
		j.since = now
	}
	p.lanes[lane] = append(p.lanes[lane], jobs...)
	p.pending += len(jobs)
	p.metrics.QueueDepth.WithLabelValues(lane.String()).Add(float64(len(jobs)))
	p.wake()
	if p.token.OnDemand {
		p.state.Broadcast()
	}
	return nil
}

// forget takes a caller's waiting jobs out of the lanes; those in flight are dropped when they are answered.
func (p *pool) forget(c *call) {
	c.leave()
	p.mu.Lock()
	defer p.mu.Unlock()
	for l, q := range p.lanes {
		p.lanes[l] = slices.DeleteFunc(q, func(j *job) bool {
			if j.call != c {
				return false
			}
			p.unqueued(j)
			p.settle(j, nil, "", context.Canceled)
			return true
		})
	}
}

// ask sends a request that is not a signature and waits for its answer.
func (p *pool) ask(ctx context.Context, r wire.Request, limit time.Duration, again bool) (wire.Response, error) {
	return p.asked(ctx, &ask{request: r, limit: limit, again: again, answer: make(chan answer, 1)})
}

// each asks every worker that is there, one after the other.
func (p *pool) each(ctx context.Context, r wire.Request, limit time.Duration) (answers []wire.Response, failed []error) {
	p.mu.Lock()
	workers := slices.Clone(p.workers)
	p.mu.Unlock()
	for _, w := range workers {
		switch got, err := p.asked(ctx, &ask{request: r, to: w, limit: limit, answer: make(chan answer, 1)}); {
		case err == nil:
			answers = append(answers, got)
		default:
			failed = append(failed, err)
		}
	}
	return answers, failed
}

func (p *pool) asked(ctx context.Context, a *ask) (wire.Response, error) {
	p.mu.Lock()
	err := p.down()
	if err == nil && a.to != nil && (a.to.gone || a.to.retired) {
		err = fmt.Errorf("%w: worker %s has ended", ErrDown, a.to.name)
	}
	if err != nil {
		p.mu.Unlock()
		return wire.Response{}, err
	}
	p.asks = append(p.asks, a)
	p.pending++
	p.wake()
	p.state.Broadcast()
	p.mu.Unlock()
	select {
	case got := <-a.answer:
		return got.response, got.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a.again = false // what a worker has of it is not repeated for nobody
	if i := slices.Index(p.asks, a); i >= 0 {
		p.asks = slices.Delete(p.asks, i, i+1)
		p.reply(a, wire.Response{}, ctx.Err())
	}
	return wire.Response{}, fmt.Errorf("waiting for token %q: %w", p.token.Name, context.Cause(ctx))
}

// settle gives a job its outcome. Holds mu.
func (p *pool) settle(j *job, raw []byte, worker string, err error) {
	j.call.finish(j.item, raw, worker, err)
	if p.pending--; p.pending == 0 {
		p.state.Broadcast()
	}
}

func (p *pool) reply(a *ask, r wire.Response, err error) {
	a.answer <- answer{r, err}
	if p.pending--; p.pending == 0 {
		p.state.Broadcast()
	}
}

func (p *pool) unqueued(j *job) { p.metrics.QueueDepth.WithLabelValues(j.lane.String()).Dec() }

// ---- the life of a worker

// run owns a ready worker until its process ended.
func (p *pool) run(w *process) {
	p.dispatch(w)
	w.conn.Close() // a worker ends when its socket closes
	p.reap(w)
}

// dispatch sends batches until the worker is gone.
func (p *pool) dispatch(w *process) {
	for {
		p.mu.Lock()
		for !w.gone && !p.ended(w) && !p.has(w) {
			w.work.Wait()
		}
		if w.gone {
			p.mu.Unlock()
			return
		}
		if p.ended(w) {
			p.leave(w)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		runtime.Gosched() // requests that are about to queue join this frame: three times as many signatures in it under load
		p.mu.Lock()
		request, b := p.take(w)
		p.mu.Unlock()
		if b == nil {
			continue
		}
		if err := wire.Write(w.conn, request); err != nil {
			p.mu.Lock()
			p.bury(w, "died", err.Error())
			p.mu.Unlock()
		}
		crashpoint.Here("signer.sent")
	}
}

// ended: a retired worker that has answered everything. Holds mu.
func (p *pool) ended(w *process) bool { return (w.retired || p.closing) && len(w.batches) == 0 }

// place is the lane from which w may take now; asks says that an ask comes first. Holds mu.
//
// Workers before w in the row come first as long as they have a place: one worker with large frames costs less than several with small ones
// (fewer wake-ups, warm caches), and the next one is there as soon as the first is busy, hangs or dies.
func (p *pool) place(w *process) (lane policy.Lane, asks bool) {
	room := inFlight
	next := p.next(w)
	asks = len(p.lanes[policy.LaneLock]) == 0 && next >= 0
	for l, q := range p.lanes {
		if asks || len(q) == 0 {
			continue
		}
		if lane = policy.Lane(l); lane == policy.LaneLock {
			room++
		}
		if q[0].size() == 1 {
			room = 1 // whoever killed workers is asked alone
		}
		break // strict priority: nothing of a lower lane overtakes
	}
	if asks && p.long(p.asks[next]) {
		room = 1
	}
	if !asks && lane == 0 || p.closing || !w.takes(room) && !(lane == policy.LaneLock && room > 1 && p.behind(w)) {
		return 0, false
	}
	for _, o := range p.workers {
		if o == w || asks && p.asks[next].to == w {
			break
		}
		if o.takes(room) && o.bytes <= maxWaiting {
			return 0, false
		}
	}
	return lane, asks
}

// long: what is asked for may take longer than a signature. A worker with one session does one thing after the other, so that what it is given beside
// this would wait for it, and be taken for hung.
func (p *pool) long(a *ask) bool { return a.limit > p.deadline && p.token.Sessions <= 1 }

// behind: a lock goes behind the long request that w is busy with, since every other worker has one, too. If it is not done soon, w is taken for hung, and
// the lock is signed by its successor: a lock is waited for, and a key can be made again. Holds mu.
func (p *pool) behind(w *process) bool {
	return w.long && !w.gone && !w.retired && len(w.batches) == 1 && !slices.ContainsFunc(p.workers, func(o *process) bool { return !o.gone && !o.retired && !o.long })
}

// next is the first ask that w may take, or -1. Holds mu.
func (p *pool) next(w *process) int {
	return slices.IndexFunc(p.asks, func(a *ask) bool { return a.to == nil || a.to == w })
}

// takes: fewer than room batches are in w. Holds mu.
func (w *process) takes(room int) bool {
	return !w.gone && !w.retired && !w.alone && len(w.batches) < room
}

func (p *pool) has(w *process) bool { lane, asks := p.place(w); return lane != 0 || asks }

// wake wakes the dispatchers that have something to do. Holds mu.
func (p *pool) wake() {
	for _, w := range p.workers {
		if p.ended(w) || p.has(w) {
			w.work.Signal()
		}
	}
}

// turn changes the row now and then, so that no worker is found broken only when it is needed: also a spare signs self tests. Holds mu.
func (p *pool) turn(now time.Time) {
	if len(p.workers) > 1 && now.Sub(p.turned) > turnAfter {
		p.turned = now
		p.workers = append(p.workers[1:], p.workers[0])
	}
}

// size of the batch in which a job may travel: after each lost worker a smaller one, so that one item that kills workers does not use up
// the tries of its neighbours.
func (j *job) size() int { return max(maxBatch>>(2*j.lost), 1) }

// take makes the next batch for w and the request to be sent; its clock runs from here. Holds mu.
func (p *pool) take(w *process) (wire.Request, *batch) {
	lane, asks := p.place(w)
	b := &batch{sent: time.Now()}
	limit := p.deadline
	var r wire.Request
	switch {
	case asks:
		i := p.next(w)
		b.ask = p.asks[i]
		p.asks = slices.Delete(p.asks, i, i+1)
		b.ask.tries++
		w.alone = p.long(b.ask)
		w.long = w.alone
		r, limit = b.ask.request, b.ask.limit
	case lane != 0:
		q := p.lanes[lane]
		n, bytes, size := 0, 0, q[0].size()
		for n < len(q) && n < size && q[n].size() >= size && (n == 0 || bytes+len(q[n].tbs) <= maxBytes) {
			bytes += len(q[n].tbs)
			n++
		}
		b.bytes = bytes
		b.jobs = slices.Clone(q[:n])
		clear(q[:n])
		if p.lanes[lane] = q[n:]; n == len(q) {
			p.lanes[lane] = nil
		}
		w.alone = w.long || size == 1
		r = wire.Request{Op: wire.OpSign, Sign: make([]wire.Sign, n)}
		for i, j := range b.jobs {
			r.Sign[i] = wire.Sign{KeyID: j.keyID, Purpose: string(j.purpose), TBS: j.tbs}
			p.unqueued(j)
			p.metrics.QueueSeconds.WithLabelValues(lane.String()).Observe(b.sent.Sub(j.since).Seconds())
		}
	default:
		return r, nil
	}
	w.next++
	r.ID = w.next
	w.batches[r.ID] = b
	w.bytes += b.bytes
	p.turn(b.sent)
	p.wake() // what w has no place for
	b.limit, b.until = limit, b.sent.Add(limit)
	b.timer = time.AfterFunc(limit, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if w.batches[r.ID] == b && !time.Now().Before(b.until) {
			p.bury(w, "hung", fmt.Sprintf("no answer within %s", limit))
		}
	})
	return r, b
}

// turnedTo: what waited behind an answered batch has its time from here on, or an HSM that is only slow would count as hung. Holds mu.
func (w *process) turnedTo(answered uint64) {
	for id, b := range w.batches {
		if id > answered {
			b.until = time.Now().Add(b.limit)
			b.timer.Reset(b.limit)
		}
	}
}

// read takes answers until the worker's socket ends.
func (p *pool) read(w *process) {
	for {
		var r wire.Response
		err := wire.Read(w.in, &r)
		p.mu.Lock()
		if err == nil {
			crashpoint.Here("signer.answered")
			err = p.answered(w, &r)
		}
		if err != nil {
			p.bury(w, "died", err.Error())
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
}

// answered gives a batch its outcomes. An error means that the worker talks nonsense. Holds mu.
func (p *pool) answered(w *process, r *wire.Response) error {
	b := w.batches[r.ID]
	if b == nil {
		return fmt.Errorf("an answer to request %d, which is not open", r.ID)
	}
	if b.ask == nil && r.Class == wire.OK && len(r.Results) != len(b.jobs) {
		return fmt.Errorf("%d results for %d signatures", len(r.Results), len(b.jobs))
	}
	b.timer.Stop()
	var stop string
	broken := ""
	judge := func(c wire.Class, text string) (done bool, err error) {
		switch c {
		case wire.OK:
			return true, nil
		case wire.Faulty:
			return true, fmt.Errorf("the worker of token %q refused the request: %s", p.token.Name, text)
		case wire.Stop:
			stop = text
			return true, fmt.Errorf("%w: token %q: %s", ErrDown, p.token.Name, text)
		default: // wire.Worker; and wire.Session, with which the worker could not cope itself
			broken = text
			return false, nil
		}
	}
	if b.ask != nil {
		if done, err := judge(r.Class, r.Error); done {
			p.reply(b.ask, *r, err)
			b.ask = nil
		} else if !b.ask.again {
			p.reply(b.ask, *r, fmt.Errorf("%w: token %q: %s", ErrDown, p.token.Name, r.Error))
			b.ask = nil
		}
	} else {
		p.metrics.HSMSeconds.WithLabelValues(string(b.jobs[0].purpose)).Observe(time.Since(b.sent).Seconds())
		var again []*job
		for i, j := range b.jobs {
			var result wire.Result
			if r.Class == wire.OK {
				result = r.Results[i]
			} else {
				result = wire.Result{Class: r.Class, Error: r.Error}
			}
			done, err := judge(result.Class, result.Error)
			if !done {
				again = append(again, j)
				continue
			}
			if err != nil {
				p.metrics.Signatures.WithLabelValues(j.keyID, string(j.purpose), "error").Inc()
			}
			p.settle(j, result.Signature, w.name, err)
		}
		b.jobs = again
	}
	switch {
	case stop != "":
		err := fmt.Errorf("%w: token %q: %s", ErrDown, p.token.Name, stop)
		if refusedPIN(stop) {
			err = p.disarm(stop)
		}
		p.stop(err, true)
		return nil
	case broken != "" || len(b.jobs) > 0 || b.ask != nil:
		p.bury(w, "session", broken) // with what is left of this batch
		return nil
	}
	delete(w.batches, r.ID)
	w.bytes -= b.bytes
	w.alone, w.long, w.answered = false, false, true
	w.turnedTo(r.ID)
	if at := &p.places[w.place]; at.failures > 0 && (at.bad.IsZero() || time.Since(at.bad) > badFor) {
		*at = place{}
	}
	p.rest(w)
	p.wake()
	return nil
}

// rest starts the idle clock of an on-demand worker with nothing to do. Holds mu.
func (p *pool) rest(w *process) {
	if !p.token.OnDemand || len(w.batches) > 0 {
		return
	}
	if w.idle != nil {
		w.idle.Stop()
	}
	w.idle = time.AfterFunc(p.token.Idle, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.pending == 0 {
			p.retire(w)
		} else {
			p.rest(w)
		}
	})
}

// retire lets a worker finish its batches and end. Holds mu.
func (p *pool) retire(w *process) { w.retired = true; p.wake() }

// leave takes a worker out of the pool. Holds mu.
func (p *pool) leave(w *process) {
	w.gone = true
	w.work.Signal()
	p.workers = slices.DeleteFunc(p.workers, func(o *process) bool { return o == w })
	p.asks = slices.DeleteFunc(p.asks, func(a *ask) bool {
		if a.to == w {
			p.reply(a, wire.Response{}, fmt.Errorf("%w: worker %s has ended", ErrDown, w.name))
		}
		return a.to == w
	})
	if w.idle != nil {
		w.idle.Stop()
	}
	p.changed()
}

// bury kills a worker and sends its unanswered items to another one; keep replaces it. Holds mu.
func (p *pool) bury(w *process, reason, why string) {
	if w.gone {
		return
	}
	w.cmd.Process.Kill()
	w.conn.Close()
	open := make([]*batch, 0, len(w.batches))
	for _, b := range w.batches {
		b.timer.Stop()
		open = append(open, b)
	}
	slices.SortFunc(open, func(a, b *batch) int { return a.sent.Compare(b.sent) })
	clear(w.batches)
	switch at := &p.places[w.place]; {
	case reason == "quarantined": // it answers, so that this bounds only how often a place is filled for bad signatures
		at.bad = time.Now()
		p.pause(w.place, min(at.failures+1, 4))
	case !w.answered: // it died before it was of any use: not so fast next time
		p.pause(w.place, at.failures+1)
	}
	if !p.closing {
		p.restarted(reason)
		p.log.Warn("worker replaced", "token", p.token.Name, "worker", w.name, "reason", reason, "error", why, "batches", len(open))
	}
	if len(open) > 0 {
		p.tasks.Go(func() { p.lost(w.name, why, open) })
	}
	p.leave(w)
}

// lost journals that nobody knows what became of the items, and, once a new attempt is durable, puts them at the front of their lanes.
func (p *pool) lost(worker, why string, open []*batch) {
	calls := map[*call][]*job{}
	var jobs []*job
	for _, b := range open {
		for _, j := range b.jobs {
			calls[j.call] = append(calls[j.call], j)
			jobs = append(jobs, j)
		}
	}
	p.mu.Lock()
	final := p.hopeless()
	p.mu.Unlock()
	ctx := p.ctx
	if final != nil { // that it was lost is journalled even then
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
		defer cancel()
		ctx = limited
	}
	var mu sync.Mutex
	failed := map[*job]error{}
	var all sync.WaitGroup // at once, so that they share a commit
	for c, js := range calls {
		all.Go(func() {
			var items, again []int
			var retry []*job
			for _, j := range js {
				items = append(items, j.item)
				if j.lost++; j.lost < maxTries && final == nil && c.wanted() {
					again, retry = append(again, j.item), append(retry, j)
				}
			}
			crashpoint.Here("signer.lost")
			err := c.journal.lost(ctx, items, worker)
			if err == nil && len(again) > 0 {
				crashpoint.Here("signer.lost.journalled")
				err = c.journal.again(ctx, again)
				crashpoint.Here("signer.again.journalled")
			}
			mu.Lock()
			defer mu.Unlock()
			for _, j := range js {
				switch {
				case final != nil:
					failed[j] = final
				case err != nil:
					failed[j] = fmt.Errorf("journalling a lost attempt: %w", err)
				case !slices.Contains(retry, j):
					failed[j] = fmt.Errorf("%w: %d workers of token %q were lost over this item, the last one: %s", ErrDown, j.lost, p.token.Name, why)
				}
			}
		})
	}
	all.Wait()

	p.mu.Lock()
	defer p.mu.Unlock()
	var front [policy.LaneBatch + 1][]*job
	for _, j := range jobs {
		if err := failed[j]; err != nil {
			if j.call.wanted() {
				p.metrics.Signatures.WithLabelValues(j.keyID, string(j.purpose), "error").Inc()
			}
			p.settle(j, nil, "", err)
			continue
		}
		j.since = time.Now()
		p.metrics.QueueDepth.WithLabelValues(j.lane.String()).Inc()
		front[j.lane] = append(front[j.lane], j)
	}
	for lane, js := range front {
		if len(js) > 0 {
			p.lanes[lane] = append(js, p.lanes[lane]...)
		}
	}
	for _, b := range open {
		switch a := b.ask; {
		case a == nil:
		case a.again && a.tries < maxTries && final == nil:
			p.asks = append(p.asks, a)
		default:
			p.reply(a, wire.Response{}, fmt.Errorf("%w: worker %s was lost before it answered: %s", ErrDown, worker, why))
		}
	}
	p.changed()
}

// ---- what the signer asks of a pool

// await waits until ok, which is called with mu held, returns true. It fails when ctx ends first.
func (p *pool) await(ctx context.Context, ok func() bool) error {
	defer context.AfterFunc(ctx, func() { p.mu.Lock(); defer p.mu.Unlock(); p.state.Broadcast() })()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !ok() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.state.Wait()
	}
	return nil
}

// started waits until every worker is ready or a start has failed, and says whether anything can be signed.
func (p *pool) started(ctx context.Context) error {
	err := p.await(ctx, func() bool { return p.current() >= p.want() || p.stopped != nil || p.startErr != nil || p.closing })
	if err != nil {
		return fmt.Errorf("%w: token %q: %w", ErrDown, p.token.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stopped != nil:
		return p.stopped
	case len(p.workers) == 0 && p.startErr != nil && ctx.Err() != nil: // what ends a service may end its workers too
		return fmt.Errorf("%w: %w: %w", ErrDown, context.Cause(ctx), p.startErr)
	case len(p.workers) == 0 && p.startErr != nil:
		return fmt.Errorf("%w: %w", ErrDown, p.startErr)
	}
	return nil
}

// reload starts workers with the registry as it is now, and lets the old ones end when they are there. A place that can't be filled is no matter, as long
// as no worker of an older registry is left in it: whoever is started there later reads the registry anew.
func (p *pool) reload(ctx context.Context) error {
	p.mu.Lock()
	p.generation++
	p.stopped, p.startErr = nil, nil
	clear(p.places)
	if p.token.OnDemand { // the next one to be started reads the registry anyway
		for _, w := range p.workers {
			p.retire(w)
		}
	}
	p.state.Broadcast()
	p.mu.Unlock()
	if err := p.await(ctx, func() bool { return p.current() >= p.want() || p.stopped != nil || p.startErr != nil || p.closing }); err != nil {
		return fmt.Errorf("reloading token %q: %w", p.token.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stopped != nil:
		return p.stopped
	case p.startErr != nil && (p.current() == 0 || slices.ContainsFunc(p.workers, func(w *process) bool { return w.generation != p.generation && !w.retired })):
		return fmt.Errorf("reloading token %q: the old workers go on: %w", p.token.Name, p.startErr)
	case p.closing:
		return errClosing
	}
	return nil
}

// quarantine kills the worker of that name; what it had not answered is signed elsewhere.
func (p *pool) quarantine(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.workers {
		if w.name == name {
			p.log.Error("a worker made a bad signature", "token", p.token.Name, "worker", name)
			p.bury(w, "quarantined", "bad signature")
			return
		}
	}
}

func (p *pool) health() Health {
	refused := false
	if p.token.Marker != "" { // before the lock: a disk that hangs must not hold up signing
		_, err := os.Stat(p.token.Marker)
		refused = err == nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h := Health{Token: p.token.Name, Ready: len(p.workers), Wanted: p.want(), PINRefused: refused}
	for _, at := range p.restarts {
		if time.Since(at) < 10*time.Minute {
			h.Restarts++
		}
	}
	switch {
	case p.stopped != nil:
		h.Problem = p.stopped.Error()
	case p.startErr != nil:
		h.Problem = p.startErr.Error()
	}
	return h
}

// close takes nothing more, waits until everything has its outcome or ctx ends, and then ends the workers.
func (p *pool) close(ctx context.Context) error {
	p.mu.Lock()
	p.draining = true
	p.mu.Unlock()
	err := p.await(ctx, func() bool { return p.pending == 0 || p.closing })
	p.mu.Lock()
	p.closing = true
	if err != nil {
		err = fmt.Errorf("token %q was closed with %d signatures unanswered: %w", p.token.Name, p.pending, err)
		for _, w := range slices.Clone(p.workers) {
			p.bury(w, "died", "closing")
		}
	}
	p.changed()
	p.mu.Unlock()
	p.cancel()
	p.tasks.Wait()
	p.starter.close()
	return err
}
