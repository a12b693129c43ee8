package clock

import (
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2025, 3, 28, 12, 0, 0, 0, time.UTC)

const ahead = 24 * time.Hour // exp of a list

// design.md, "Fence and clock": what stops issuing at the start.
func TestStart(t *testing.T) {
	for _, c := range []struct {
		name     string
		last     time.Time
		accepted bool
		trusted  bool
		lists    time.Time // what lists are dated with
	}{
		{"nothing was ever signed", time.Time{}, false, true, noon},
		{"a list was just signed", noon.Add(-time.Minute), false, true, noon},
		{"exactly as far ahead as a list lives", noon.Add(-ahead), false, true, noon},
		{"further ahead", noon.Add(-ahead - time.Second), false, false, noon.Add(-ahead - time.Second)},
		{"further ahead, accepted", noon.Add(-ahead - time.Second), true, true, noon},
		{"behind by the bound", noon.Add(MaxDisagreement), false, true, noon.Add(MaxDisagreement)},
		{"behind by more", noon.Add(MaxDisagreement + 1), false, false, noon.Add(MaxDisagreement + 1)},
		{"behind by more, accepted: lists still never go back", noon.Add(time.Hour), true, true, noon.Add(time.Hour)},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := NewFake(noon)
			g := NewGuard(f, c.last, ahead, c.accepted)
			now, err := g.Trusted()
			if (err == nil) != c.trusted || c.trusted && !now.Equal(noon) {
				t.Errorf("trusted: %s, %v", now, err)
			}
			if err != nil && !strings.Contains(err.Error(), "accept") {
				t.Errorf("%v does not say what to do", err)
			}
			if l := g.ForLists(); !l.Equal(c.lists) {
				t.Errorf("lists are dated %s, want %s", l, c.lists)
			}
			f.Advance(time.Minute)
			if l := g.ForLists(); !c.trusted && !l.Equal(c.lists.Add(time.Minute)) {
				t.Errorf("a minute later lists are dated %s: they go on from the last iat by elapsed time", l)
			}
		})
	}
}

// A wall that disagrees with elapsed time by more than the bound stops issuing for good; lists go on by elapsed time.
func TestJump(t *testing.T) {
	for _, c := range []struct {
		jump    time.Duration
		trusted bool
	}{{MaxDisagreement, true}, {-MaxDisagreement, true}, {MaxDisagreement + 1, false}, {-MaxDisagreement - 1, false}, {365 * 24 * time.Hour, false}} {
		f := NewFake(noon)
		g := NewGuard(f, noon.Add(-time.Minute), ahead, false)
		f.Advance(time.Hour)
		f.Jump(c.jump)
		if _, err := g.Trusted(); (err == nil) != c.trusted {
			t.Errorf("jump of %s: %v", c.jump, err)
		}
		if c.trusted {
			continue
		}
		if l := g.ForLists(); !l.Equal(noon.Add(time.Hour)) {
			t.Errorf("jump of %s: lists are dated %s", c.jump, l)
		}
		f.Jump(-c.jump) // a clock that comes back by itself is no reason to trust it
		if _, err := g.Trusted(); err == nil {
			t.Errorf("trusted again after a jump of %s and back", c.jump)
		}
		if f.Advance(time.Minute); !g.ForLists().Equal(noon.Add(time.Hour + time.Minute)) {
			t.Errorf("lists don't go on by elapsed time")
		}
	}
}

// Small jumps that add up are one large one: the comparison is with the start, not with the last call.
func TestCreepingJumps(t *testing.T) {
	f := NewFake(noon)
	g := NewGuard(f, time.Time{}, ahead, false)
	for i := range 5 {
		f.Jump(time.Second)
		if _, err := g.Trusted(); err != nil {
			t.Fatalf("after %d s: %v", i+1, err)
		}
	}
	f.Jump(time.Second)
	if _, err := g.Trusted(); err == nil {
		t.Error("6 s in small steps are trusted")
	}
}

// I4: a list's iat is never lower than the last, whatever the wall does.
func TestListsNeverGoBack(t *testing.T) {
	f := NewFake(noon)
	g := NewGuard(f, noon.Add(3*time.Second), ahead, false)
	last := time.Time{}
	for i, d := range []time.Duration{0, 4 * time.Second, -4 * time.Second, -4 * time.Second, 3 * time.Hour, -5 * time.Hour, time.Second, -time.Second} {
		f.Jump(d)
		if now := g.ForLists(); now.Before(last) || now.Before(noon.Add(3*time.Second)) {
			t.Fatalf("step %d: %s after %s", i, now, last)
		} else {
			last = now
		}
		f.Advance(time.Second)
	}
}

func TestSystem(t *testing.T) {
	c := System()
	a, b := c.Elapsed(), c.Elapsed()
	if now := c.Now(); b < a || now.Location() != time.UTC || now != now.Round(0) {
		t.Errorf("elapsed %s then %s, now %v", a, b, now)
	}
}
