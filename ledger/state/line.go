package state

import (
	"slices"
	"time"

	"sealkeeper/policy"
)

// Line is what a carrier reported of one of its lines. Reports come twice, late and in any order, so it keeps of each sort the one that
// counts, and two lines that were told the same are the same, whatever came first:
//
//   - lost and found contradict each other: the one with the highest sequence number counts
//   - ported, terminated and a changed SIM can't be taken back by a found: the latest that occurred counts
//
// The zero value was told nothing. It is stored as JSON.
type Line struct {
	Loss *Report `json:"loss,omitempty"`
	Void *Report `json:"void,omitempty"`
}

// Report of a carrier. Lock is what policy makes of it.
type Report struct {
	Sort Sort        `json:"sort"`
	Seq  uint64      `json:"seq"` // grows strictly with the reports of a line
	At   time.Time   `json:"at"`  // when it occurred, by the carrier's clock
	Lock policy.Lock `json:"lock"`
	// Undone is a report of a flood that turned out to be none of the line's: it counts as told, and asks for nothing.
	Undone bool `json:"undone,omitempty"`
}

// Sort of a report.
type Sort string

const (
	LineLost  Sort = "lost"
	LineFound Sort = "found"
	LineVoid  Sort = "void" // the line is no longer what was vouched for
)

// Take in a report. A stale one changes nothing: what it says is known or was overtaken.
func (l Line) Take(r Report) (next Line, stale bool) {
	r.At = instant(r.At)
	next = l
	if r.Sort == LineVoid {
		if l.Void != nil && !r.At.After(l.Void.At) {
			return l, true
		}
		next.Void = &r
		return next, false
	}
	if l.Loss != nil && !r.overtakes(*l.Loss) {
		return l, true
	}
	next.Loss = &r
	return next, false
}

// Undo what asked for a lock: the reports of a flood that were of nobody's phone.
func (l Line) Undo(lock policy.Lock) Line {
	undone := func(r *Report) *Report {
		if r == nil || r.Lock != lock || r.Sort == LineFound {
			return r
		}
		u := *r
		u.Undone = true
		return &u
	}
	return Line{Loss: undone(l.Loss), Void: undone(l.Void)}
}

// overtakes: of two reports with one number, which a carrier must not send, the loss counts.
func (r Report) overtakes(o Report) bool {
	switch {
	case r.Seq != o.Seq:
		return r.Seq > o.Seq
	case r.Sort != o.Sort:
		return r.Sort == LineLost
	}
	return r.At.After(o.At)
}

// Link binds a phone to the line that was vouched for as its owner's. What a line's carrier reported of the time before it vouched is not
// about this phone.
type Link struct {
	Device string        `json:"device"`
	Since  time.Time     `json:"since"`          // when the carrier vouched, by its own clock
	Held   []policy.Lock `json:"held,omitempty"` // locks of the phone that are there for the line's reports alone
}

// wants are the locks that the line's reports ask for. Carriers' times are seconds: what was reported of the one in which the carrier vouched counts.
func (l Line) wants(since time.Time) (locks []policy.Lock) {
	if l.Loss != nil && l.Loss.Sort == LineLost && !l.Loss.Undone && !l.Loss.At.Before(since) {
		locks = append(locks, l.Loss.Lock)
	}
	if l.Void != nil && !l.Void.Undone && !l.Void.At.Before(since) && !slices.Contains(locks, l.Void.Lock) {
		locks = append(locks, l.Void.Lock)
	}
	return locks
}

// Good reports whether what a carrier vouched for at an instant still stands.
func (l Line) Good(since time.Time) bool { return len(l.wants(since)) == 0 }

// Following is what a change of a line's reports, or of what was decided on them, does to locks that are held.
type Following uint8

const (
	Confirm Following = iota // no lock of the line is held any more: a loss that is none of a flood
	Hold                     // new ones are held: a loss in a flood. And those that are held stay so
	Keep                     // none is added, and those that are held stay so: a line that is found, a flood that is undone, which say nothing about what else was reported of it
	Release                  // none is added, and none is held any more: a flood that is confirmed
)

// Follow makes the linked phone's locks what the line's reports ask for, without touching s. What somebody else locked stays locked, and a
// phone that does not have the card any more is left alone: a late found never revives it, a late loss never locks the next one.
func (s State) Follow(l Line, link Link, at time.Time, how Following) (State, Link, []Change, error) {
	if !s.bound(link.Device) {
		return s, link, nil, nil
	}
	next, want := s, l.wants(link.Since)
	link.Held = slices.Clone(link.Held)
	var changes []Change
	apply := func(e Event) error {
		e.At = at
		after, more, err := next.Apply(e)
		if err != nil {
			return err
		}
		next, changes = after, join(changes, more)
		return nil
	}
	for _, lock := range want { // first, so that the card is never unlocked in between
		there, held := slices.Contains(next.Locks, lock), slices.Contains(next.Held, lock)
		if there && (!held || how == Hold || how == Keep) || !there && (how == Keep || how == Release) { // whoever may, unlocked it
			continue
		}
		if err := apply(Event{Lock: &Lock{Lock: lock, Device: link.Device, Held: how == Hold}}); err != nil {
			return s, link, nil, err
		}
		link.Held = append(slices.DeleteFunc(link.Held, func(h policy.Lock) bool { return h == lock }), lock)
	}
	for _, lock := range slices.Clone(link.Held) {
		if slices.Contains(want, lock) {
			continue
		}
		if slices.Contains(next.Locks, lock) { // else whoever may, unlocked it
			if err := apply(Event{Unlock: &Unlock{Lock: lock, Device: link.Device}}); err != nil {
				return s, link, nil, err
			}
		}
		link.Held = slices.DeleteFunc(link.Held, func(h policy.Lock) bool { return h == lock })
	}
	if len(link.Held) == 0 {
		link.Held = nil
	}
	return next, link, changes, nil
}

// join makes one step of two: no index changes twice, and one that is back where it was does not change.
func join(first, second []Change) []Change {
	for _, c := range second {
		i := slices.IndexFunc(first, func(o Change) bool { return o.List == c.List && o.Index == c.Index })
		switch {
		case i < 0:
			first = append(first, c)
		case first[i].From == c.To:
			first = slices.Delete(first, i, i+1)
		default:
			first[i].To = c.To
		}
	}
	return first
}
