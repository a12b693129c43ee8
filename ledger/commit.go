package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"sealkeeper/internal/metrics"
	"sealkeeper/policy"
)

const (
	batchMost  = 256                    // ops of one commit
	windowEach = 250 * time.Microsecond // how long a commit waits for each request that was announced,
	windowMost = 16 * time.Millisecond  // and for all of them
	queueBound = 4096                   // ops that may wait, of each kind
)

// urgent lanes: locks, and every list and CRL. One that changes nothing is urgent too: without it the last one expires, on a full disk as well.
func urgent(lane policy.Lane) bool { return lane == policy.LaneLock || lane == policy.LaneCRL }

// write is an op on its way into a batch.
type write struct {
	op      Op
	urgent  bool
	pulse   bool             // no op: shows that the committer is at work
	applied func(seq uint64) // in journal order, before anyone is told; nil: nothing to do
	done    chan struct{}    // closed when out and err are final
	out     Outcome
	err     error
}

// committer turns many callers' ops into few commits. One goroutine owns the store's write side; what it tells a caller is durable.
//
// Two queues: urgent ops (locks, revocations, the lists that carry them) are taken first, never wait behind a full queue of others, and
// close the window at once. For the others the window stays open while announced requests are still on their way, so that they share
// one fsync, and a lone request pays nothing. The more are on their way the longer it stays: what a commit costs beside its ops is
// then shared by many, who wait for a processor anyhow.
type committer struct {
	store   Store
	metrics *metrics.Metrics
	apply   func(batch []*write, last uint64, any bool) // any of them applied, last the last; publishes the effects of a durable batch in memory
	fail    func(error)                                 // the store died
	disk    *diskReserve

	urgent, normal chan *write
	announced      atomic.Int64
	hurried        atomic.Int64  // ops that others wait for
	left           chan struct{} // an announced request gave up
	stop           chan struct{}
	ended          chan struct{}
}

func newCommitter(s Store, m *metrics.Metrics, apply func([]*write, uint64, bool), fail func(error), disk *diskReserve) *committer {
	return &committer{
		store: s, metrics: m, apply: apply, fail: fail, disk: disk,
		urgent: make(chan *write, queueBound), normal: make(chan *write, queueBound),
		left: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
}

func (c *committer) arrive() (leave func()) {
	c.announced.Add(1)
	var once atomic.Bool
	return func() {
		if once.Swap(true) {
			return
		}
		c.announced.Add(-1)
		select {
		case c.left <- struct{}{}:
		default:
		}
	}
}

// hurry keeps commits from waiting for announced requests, which may themselves wait for what is about to be submitted.
func (c *committer) hurry() (done func()) {
	c.hurried.Add(1)
	return func() { c.hurried.Add(-1) }
}

// submit returns when the op is durable or is known not to be. The context matters only until the op is queued: from then on the answer
// is milliseconds away and must not be lost.
func (c *committer) submit(ctx context.Context, op Op, urgent bool, applied func(uint64)) (Outcome, error) {
	if err := op.check(); err != nil {
		return Outcome{}, err
	}
	w := &write{op: op, urgent: urgent, applied: applied, done: make(chan struct{})}
	queue := c.normal
	if urgent {
		queue = c.urgent
	}
	select {
	case <-c.stop:
		return Outcome{}, ErrStopped
	default:
	}
	select {
	case queue <- w:
	case <-c.stop:
		return Outcome{}, ErrStopped
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	}
	select {
	case <-w.done:
	case <-c.ended:
		select {
		case <-w.done:
		default: // queued after the last batch was taken: never committed
			return Outcome{}, ErrStopped
		}
	}
	return w.out, w.err
}

// pulse returns when the committer takes it: no commit holds it up, and an urgent op would be taken now. Nothing is written.
func (c *committer) pulse(ctx context.Context) error {
	w := &write{urgent: true, pulse: true, done: make(chan struct{})}
	select {
	case c.urgent <- w:
	case <-c.ended:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-w.done:
		return nil
	case <-c.ended:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run commits until stop is closed and the queues are empty, or the store dies.
func (c *committer) run() {
	defer close(c.ended)
	for {
		batch := c.collect()
		if len(batch) == 0 {
			return
		}
		batch = slices.DeleteFunc(batch, func(w *write) bool {
			if w.pulse {
				close(w.done)
			}
			return w.pulse
		})
		if c.disk.refuses() {
			batch = c.urgentOnly(batch)
		}
		if len(batch) == 0 {
			continue
		}
		out, err := c.commit(batch)
		if errors.Is(err, ErrFull) {
			// Nothing of the batch was written. Locks, revocations and their lists are tried once more, in the room kept for them.
			c.disk.release()
			if batch = c.urgentOnly(batch); len(batch) > 0 {
				out, err = c.commit(batch)
			}
		}
		if errors.Is(err, ErrFull) {
			turnAway(batch)
			continue
		}
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrStopped, err)
			c.fail(err) // before the callers: they must not get a chance to go on
			for _, w := range batch {
				w.err = err
				close(w.done)
			}
			return
		}
		last, any := uint64(0), false
		for i, w := range batch {
			if w.out = out[i]; w.out.Conflict == nil {
				last, any = w.out.Seq, true
			}
		}
		c.apply(batch, last, any) // also when every op met a conflict: what was remembered led to it
		if any {
			c.metrics.JournalSize.Set(float64(last + 1))
		}
		for _, w := range batch {
			close(w.done)
		}
	}
}

func (c *committer) commit(batch []*write) ([]Outcome, error) {
	ops := make([]Op, len(batch))
	for i, w := range batch {
		ops[i] = w.op
	}
	start := time.Now()
	out, err := c.store.Commit(context.Background(), ops)
	c.metrics.CommitSeconds.Observe(time.Since(start).Seconds())
	c.metrics.CommitBatch.Observe(float64(len(batch)))
	return out, err
}

// urgentOnly turns everything else away.
func (c *committer) urgentOnly(batch []*write) (urgent []*write) {
	var rest []*write
	for _, w := range batch {
		if w.urgent {
			urgent = append(urgent, w)
		} else {
			rest = append(rest, w)
		}
	}
	turnAway(rest)
	return urgent
}

func turnAway(batch []*write) {
	for _, w := range batch {
		w.err = refuse("ledger.full", "the ledger's disk has no room for more than locks")
		close(w.done)
	}
}

// collect waits for the first op and fills its batch. It returns none when there is nothing left to do.
func (c *committer) collect() (batch []*write) {
	urgent := false
	drain := func() {
		for len(batch) < batchMost {
			select {
			case w := <-c.urgent:
				batch, urgent = append(batch, w), true
				continue
			default:
			}
			select {
			case w := <-c.normal:
				batch = append(batch, w)
				continue
			default:
			}
			return
		}
	}
	drain()
	if len(batch) == 0 {
		select {
		case w := <-c.urgent:
			batch, urgent = append(batch, w), true
		case w := <-c.normal:
			batch = append(batch, w)
		case <-c.stop:
			drain()
			return batch
		}
		drain()
	}
	var window <-chan time.Time
	for !urgent && len(batch) < batchMost {
		announced := c.announced.Load()
		if int64(len(batch)) >= announced || c.hurried.Load() > 0 {
			break
		}
		if window == nil {
			t := time.NewTimer(min(time.Duration(announced)*windowEach, windowMost))
			defer t.Stop()
			window = t.C
		}
		select {
		case w := <-c.urgent:
			batch, urgent = append(batch, w), true
		case w := <-c.normal:
			batch = append(batch, w)
		case <-c.left:
		case <-window:
			return batch
		case <-c.stop:
			return batch
		}
		drain()
	}
	return batch
}

// end stops accepting ops, commits the queued ones and returns when the goroutine is gone.
func (c *committer) end() {
	close(c.stop)
	<-c.ended
}
