// Package clock is the only source of time: the wall and the monotonic clock of one machine, injected, and the guard that notices when the two disagree.
package clock

import (
	"fmt"
	"sync"
	"time"
)

// Clock tells the wall time and, independently of it, how much time has passed.
type Clock interface {
	// Now is the wall time in UTC, without a monotonic reading.
	Now() time.Time
	// Elapsed is the monotonic time since an arbitrary fixed instant.
	Elapsed() time.Duration
}

// System is the machine's clock.
func System() Clock { return system{start: time.Now()} }

type system struct{ start time.Time }

func (system) Now() time.Time           { return time.Now().UTC().Round(0) }
func (s system) Elapsed() time.Duration { return time.Since(s.start) }

// Fake is a clock for tests: both times move only when told to.
type Fake struct {
	mu      sync.Mutex
	wall    time.Time
	elapsed time.Duration
}

// NewFake makes a clock that stands at t.
func NewFake(t time.Time) *Fake { return &Fake{wall: t.UTC().Round(0)} }

// Now is the wall time last set.
func (f *Fake) Now() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return f.wall }

// Elapsed is the sum of all advances.
func (f *Fake) Elapsed() time.Duration { f.mu.Lock(); defer f.mu.Unlock(); return f.elapsed }

// Advance lets time pass: wall and monotonic together.
func (f *Fake) Advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wall, f.elapsed = f.wall.Add(d), f.elapsed+d
}

// Jump moves the wall alone, as an operator or a broken NTP server would.
func (f *Fake) Jump(d time.Duration) { f.mu.Lock(); defer f.mu.Unlock(); f.wall = f.wall.Add(d) }

// MaxDisagreement is how far wall and monotonic time may drift apart before issuing stops (design.md, "Fence and clock"; faults.md G18).
const MaxDisagreement = 5 * time.Second

// Guard trusts the wall clock only while it agrees with elapsed time, and knows a time for lists that never runs backwards.
type Guard struct {
	clock   Clock
	mu      sync.Mutex
	wall0   time.Time
	mono0   time.Duration
	distrus string // why the wall is not trusted; empty: it is
	floor   time.Time
}

// NewGuard starts watching. lastSigned is the newest iat of any signed list (zero: none yet); a wall that is ahead of it by more than
// maxAhead, or behind it by more than MaxDisagreement, is not trusted until accepted.
func NewGuard(c Clock, lastSigned time.Time, maxAhead time.Duration, accepted bool) *Guard {
	g := &Guard{clock: c, wall0: c.Now(), mono0: c.Elapsed(), floor: lastSigned}
	if lastSigned.IsZero() || accepted {
		return g
	}
	switch ahead := g.wall0.Sub(lastSigned); {
	case ahead > maxAhead:
		g.distrus = fmt.Sprintf("the wall clock is %s ahead of the last signed list (%s)", ahead.Round(time.Second), lastSigned.Format(time.RFC3339))
	case ahead < -MaxDisagreement:
		g.distrus = fmt.Sprintf("the wall clock is %s behind the last signed list (%s)", (-ahead).Round(time.Second), lastSigned.Format(time.RFC3339))
	}
	if g.distrus != "" { // lists go on from the last iat plus elapsed time
		g.wall0 = lastSigned
	}
	return g
}

// Accept has the wall clock trusted as it is now. Lists never go back by it.
func (g *Guard) Accept() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wall0, g.mono0, g.distrus = g.clock.Now(), g.clock.Elapsed(), ""
}

// Wall is what the clock shows, trusted or not: for those who compare it.
func (g *Guard) Wall() time.Time { return g.clock.Now() }

// Trusted returns the wall time, or an error that says why issuing must stop until an officer accepts the clock.
func (g *Guard) Trusted() (time.Time, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.Now()
	if g.distrus == "" {
		if d := now.Sub(g.wall0) - (g.clock.Elapsed() - g.mono0); d > MaxDisagreement || d < -MaxDisagreement {
			g.distrus = fmt.Sprintf("the wall clock jumped by %s against elapsed time", d.Round(time.Second))
		}
	}
	if g.distrus != "" {
		return time.Time{}, fmt.Errorf("%s: check the time source, then have the clock accepted", g.distrus)
	}
	return now, nil
}

// Plausible are the instants one of which is now: what the wall shows and, while it is not trusted, what lists go on with; else the wall
// again. Who a lock comes from is judged by both, so that a wall that is wrong keeps no carrier out.
func (g *Guard) Plausible() [2]time.Time {
	wall, err := g.Trusted()
	if err != nil {
		return [2]time.Time{g.Wall(), g.ForLists()}
	}
	return [2]time.Time{wall, wall}
}

// ForLists is a time that always exists and never decreases below what was signed: the wall while it is trusted, else the last
// trusted time plus what has elapsed since.
func (g *Guard) ForLists() time.Time {
	now, err := g.Trusted()
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		now = g.wall0.Add(g.clock.Elapsed() - g.mono0)
	}
	if now.Before(g.floor) {
		now = g.floor
	}
	g.floor = now
	return now
}
