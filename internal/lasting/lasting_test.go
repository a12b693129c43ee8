package lasting

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"sealkeeper/internal/clock"
)

func TestNews(t *testing.T) {
	c := clock.NewFake(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	f := New(c)
	full, broken := errors.New("the disk is full"), errors.New("the disk is broken")
	said := func(what string, err error, want bool, suppressed int) {
		t.Helper()
		if n, news := f.News(what, err); news != want || n != suppressed {
			t.Errorf("%s, %v: news %v after %d, want %v after %d", what, err, news, n, want, suppressed)
		}
	}
	said("a", nil, false, 0)
	said("a", full, true, 0)
	said("b", full, true, 0) // each has its own
	for range 59 {
		c.Advance(time.Second)
		said("a", full, false, 0)
	}
	c.Jump(-time.Hour) // which makes nothing older or younger
	c.Advance(time.Second)
	said("a", full, true, 59)
	said("a", full, false, 0)
	said("a", broken, true, 1) // it is another one now
	c.Advance(59 * time.Second)
	said("a", broken, false, 0)
	c.Advance(time.Second)
	said("a", broken, true, 1)
	c.Advance(59 * time.Second)
	said("a", full, true, 0)
	c.Advance(time.Second)
	said("a", full, false, 0) // its first minute is over, and its line is a second old
	said("a", nil, false, 0)
	said("a", broken, true, 0) // it ended and came back
	if len(f.of) != 2 {
		t.Errorf("%d faults, want those of a and b", len(f.of))
	}
}

// A fault that has another text each time is one that lasts, too.
func TestNewsOfTextsThatChange(t *testing.T) {
	c := clock.NewFake(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	f := New(c)
	lines, unsaid := 0, 0
	for i := range 600 {
		if n, news := f.News("a", fmt.Errorf("try %d", i)); news {
			lines++
			unsaid += n
		}
		c.Advance(time.Second)
	}
	if lines != 10*most || unsaid != 9*(60-most) {
		t.Errorf("%d lines in ten minutes, %d suppressed", lines, unsaid)
	}
}
