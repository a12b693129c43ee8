package ledger

import (
	"errors"
	"fmt"
	"sync"
)

// failures of what is done to many cards at once make one error: the first, and how many there were. A hundred thousand of them would be megabytes of log.
type failures struct {
	mu    sync.Mutex
	first error
	n     int
	all   bool // what failed fails for every other card, too
}

func (f *failures) add(err error) {
	if err == nil {
		return
	}
	var refused *Refusal
	all := errors.Is(err, ErrStopped) || errors.As(err, &refused) && refused.code == "ledger.full"
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n++; f.first == nil || all && !f.all {
		f.first, f.all = err, all
	}
}

// hopeless says that it is no use to go on.
func (f *failures) hopeless() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

func (f *failures) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all || f.n < 2 {
		return f.first
	}
	return fmt.Errorf("%w (and %d more failed)", f.first, f.n-1)
}
