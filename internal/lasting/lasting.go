// Package lasting keeps faults that last from filling the log. What is tried again every second would otherwise say the same every second, on a disk that
// may be full already.
package lasting

import (
	"sync"
	"time"

	"sealkeeper/internal/clock"
)

const (
	every = time.Minute // a fault that goes on is said again after it
	most  = 5           // lines a fault has in that time, since many a text has a name or a number in it that is another one each time
)

// Faults are those that there are now of what is tried again and again.
type Faults struct {
	clock clock.Clock
	mu    sync.Mutex
	of    map[string]*fault
}

type fault struct {
	text       string
	said       time.Duration // last
	since      time.Duration // lines are counted
	lines      int
	suppressed int
}

// New begins without any.
func New(c clock.Clock) *Faults { return &Faults{clock: c, of: map[string]*fault{}} }

// News notes how something went, and reports whether that is to be logged, with how often it was not since the last time: a fault is at once when it begins,
// also anew, and when it becomes another one, and from then on once in a while.
func (f *Faults) News(what string, err error) (suppressed int, news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.of, what)
		return 0, false
	}
	now, text, is := f.clock.Elapsed(), err.Error(), f.of[what]
	if is == nil {
		is = &fault{since: now}
		f.of[what] = is
	}
	if now-is.since >= every {
		is.since, is.lines = now, 0
	}
	if is.text == text && now-is.said < every || is.lines == most {
		is.suppressed++
		return 0, false
	}
	suppressed = is.suppressed
	is.text, is.said, is.lines, is.suppressed = text, now, is.lines+1, 0
	return suppressed, true
}
