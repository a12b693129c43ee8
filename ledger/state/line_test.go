package state

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sealkeeper/policy"
)

var (
	lineLost    = policy.Lock{Reason: "telecom_lost", Class: "telecom"}
	lineChanged = policy.Lock{Reason: "line_changed", Class: "telecom"}
)

// subject with one line: what the ledger does with issues and reports, without rows.
type follower struct {
	state State
	line  Line
	link  Link
	now   time.Time
	n     int
	how   Following
}

func (f *follower) follow(t interface{ Fatalf(string, ...any) }) {
	before := f.state
	next, link, changes, err := f.state.Follow(f.line, f.link, f.now, f.how)
	if err != nil {
		t.Fatalf("following: %v", err)
	}
	f.state, f.link = next, link
	// The changes are the difference of what the lists show, each index once.
	want := map[place][2]byte{}
	for _, c := range next.Credentials {
		for _, o := range before.Credentials {
			if o.place() == c.place() && before.Status(o) != next.Status(c) {
				want[c.place()] = [2]byte{before.Status(o), next.Status(c)}
			}
		}
	}
	got := map[place][2]byte{}
	for _, c := range changes {
		got[place{c.List, c.Index}] = [2]byte{c.From, c.To}
	}
	if len(got) != len(changes) || !reflect.DeepEqual(got, want) {
		t.Fatalf("changes %v, the lists differ by %v", changes, want)
	}
}

// issue to a new phone at an instant for which the carrier vouched.
func (f *follower) issue(t interface{ Fatalf(string, ...any) }, vouched time.Time) {
	f.n++
	device, key := fmt.Sprint("phone-", f.n), [32]byte{byte(f.n)}
	var made []Credential
	for i, format := range []policy.Format{policy.MDoc, policy.SDJWT} {
		made = append(made, Credential{Reservation: device, Format: format, List: string(format), Index: uint64(10*f.n + i), Key: key, NotAfter: f.now.AddDate(1, 0, 0)})
	}
	next, _, err := f.state.Apply(Event{At: f.now, Issue: &Issue{Device: device, Keys: [][32]byte{key}, Replace: true, Credentials: made}})
	if err != nil {
		t.Fatalf("issuing: %v", err)
	}
	f.state, f.link = next, Link{Device: device, Since: vouched}
	f.follow(t) // what came before the line was known here
}

func (f *follower) report(t interface{ Fatalf(string, ...any) }, r Report) (stale bool) {
	if f.line, stale = f.line.Take(r); !stale {
		f.follow(t)
	}
	return stale
}

var lineStart = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func second(n int) time.Time { return lineStart.Add(time.Duration(n) * time.Second) }

// Duplicates, reorderings and delays, also past the next phone's issue, end where the ordered history ends.
func TestLateReportsEndWhereTheOrderedHistoryDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		changed := lineChanged
		if rapid.Bool().Draw(t, "bundle without line_changed") {
			changed = lineLost
		}
		type step struct {
			at, delivered int
			issue         bool
			report        Report
		}
		var history, delivered []step
		n := rapid.IntRange(1, 14).Draw(t, "steps")
		for i := 1; i <= n; i++ {
			s := step{at: i, delivered: i, issue: rapid.IntRange(0, 4).Draw(t, "what") == 0}
			if !s.issue {
				s.report = Report{Sort: rapid.SampledFrom([]Sort{LineLost, LineFound, LineLost, LineFound, LineVoid}).Draw(t, "sort"), Seq: uint64(i), At: second(i), Lock: lineLost}
				if s.report.Sort == LineVoid {
					s.report.Lock = changed
				}
				for range rapid.IntRange(0, 2).Draw(t, "duplicates") {
					late := s
					late.delivered += rapid.IntRange(0, 2*n).Draw(t, "delay")
					delivered = append(delivered, late)
				}
				s.delivered += rapid.IntRange(0, 2*n).Draw(t, "delay")
			}
			history = append(history, step{at: i, delivered: i, issue: s.issue, report: s.report})
			delivered = append(delivered, s)
		}
		delivered = rapid.Permutation(delivered).Draw(t, "order")
		slices.SortStableFunc(delivered, func(a, b step) int { return a.delivered - b.delivered })
		run := func(steps []step) *follower {
			f := &follower{}
			for _, s := range steps {
				f.now = second(s.delivered)
				if s.issue {
					f.issue(t, second(s.at))
				} else {
					f.report(t, s.report)
				}
			}
			return f
		}
		inOrder, late := run(history), run(delivered)

		// The history, as a person would tell it.
		bound, lost, void, everLocked := false, false, false, false
		for _, s := range history {
			switch {
			case s.issue:
				bound, lost, void, everLocked = true, false, false, false
			case s.report.Sort == LineLost:
				lost = true
			case s.report.Sort == LineFound:
				lost = false
			default:
				void = true
			}
			everLocked = everLocked || lost || void
		}
		var want []policy.Lock
		if bound && void {
			want = append(want, changed)
		}
		if bound && lost && !slices.Contains(want, lineLost) {
			want = append(want, lineLost)
		}
		slices.SortFunc(want, compareLocks)
		for name, f := range map[string]*follower{"in order": inOrder, "late": late} {
			if !slices.Equal(f.state.Locks, want) {
				t.Fatalf("%s: locks %v, want %v", name, f.state.Locks, want)
			}
			if !reflect.DeepEqual(f.state.Device == nil, !bound) || !reflect.DeepEqual(f.line, inOrder.line) {
				t.Fatalf("%s: another phone, or the line was told something else", name)
			}
			for i, c := range f.state.Credentials {
				status := f.state.Status(c)
				if c.Format != policy.MDoc && status != inOrder.state.Status(inOrder.state.Credentials[i]) {
					t.Fatalf("%s: %+v has status %d", name, c, status)
				}
				// A loss that was found again before it was heard of ends no MSO, so there may be fewer of them; never more.
				if f.state.bound(c.Device) && c.Format == policy.MDoc && status == Invalid && !everLocked {
					t.Fatalf("%s: an MSO was ended that no report was about", name)
				}
			}
		}
	})
}

// requirements.md, fact 25: locked on one phone, replaced by another, found late.
func TestALateFoundNeverRevives(t *testing.T) {
	f := &follower{now: second(1)}
	f.issue(t, second(1))
	f.report(t, Report{Sort: LineLost, Seq: 1, At: second(2), Lock: lineLost})
	if !slices.Equal(f.state.Locks, []policy.Lock{lineLost}) {
		t.Fatal("the phone is not locked")
	}
	f.now = second(3)
	f.issue(t, second(3))
	replaced := f.state
	f.report(t, Report{Sort: LineFound, Seq: 2, At: second(4), Lock: lineLost})
	if !reflect.DeepEqual(f.state, replaced) || len(f.state.Locks) != 0 || f.state.Device.ID != "phone-2" {
		t.Errorf("the found of phone 1 changed %+v", f.state)
	}
	// And a loss from before the carrier vouched for the next phone does not stop that one.
	f = &follower{now: second(3)}
	f.issue(t, second(3))
	if stale := f.report(t, Report{Sort: LineLost, Seq: 1, At: second(2), Lock: lineLost}); stale || len(f.state.Locks) != 0 {
		t.Error("a loss of the phone before locked the next one")
	}
}

// A found removes what the line's own reports locked, nothing that another authority did, and no lock of a line that was void.
func TestAFoundRemovesOnlyItsOwn(t *testing.T) {
	f := &follower{now: second(1)}
	f.issue(t, second(1))
	var err error
	if f.state, _, err = f.state.Apply(Event{At: f.now, Lock: &Lock{Lock: lineLost}}); err != nil { // through /v1/locks, another carrier's
		t.Fatal(err)
	}
	f.report(t, Report{Sort: LineLost, Seq: 1, At: second(2), Lock: lineLost})
	f.report(t, Report{Sort: LineFound, Seq: 2, At: second(3), Lock: lineLost})
	if !slices.Equal(f.state.Locks, []policy.Lock{lineLost}) {
		t.Errorf("locks %v", f.state.Locks)
	}

	f = &follower{now: second(1)}
	f.issue(t, second(1))
	f.report(t, Report{Sort: LineLost, Seq: 1, At: second(2), Lock: lineLost})
	f.report(t, Report{Sort: LineVoid, Seq: 2, At: second(3), Lock: lineChanged})
	f.report(t, Report{Sort: LineFound, Seq: 3, At: second(4), Lock: lineLost})
	if !slices.Equal(f.state.Locks, []policy.Lock{lineChanged}) {
		t.Errorf("locks %v", f.state.Locks)
	}
	// It ends with the phone, and does not keep its owner from the next one.
	f.now = second(5)
	f.issue(t, second(5))
	if len(f.state.Locks) != 0 {
		t.Errorf("locks %v", f.state.Locks)
	}
}

// What somebody who may has unlocked stays unlocked when the line is found, until it is reported again.
func TestAFoundLocksNothing(t *testing.T) {
	for _, how := range []Following{Confirm, Hold} {
		f := &follower{now: second(1), how: how}
		f.issue(t, second(1))
		f.report(t, Report{Sort: LineVoid, Seq: 1, At: second(2), Lock: lineChanged})
		var err error
		if f.state, _, err = f.state.Apply(Event{At: f.now, Unlock: &Unlock{Lock: lineChanged}}); err != nil {
			t.Fatal(err)
		}
		before := f.state
		f.how = Keep
		if f.report(t, Report{Sort: LineFound, Seq: 2, At: second(3), Lock: lineLost}); !reflect.DeepEqual(f.state, before) {
			t.Errorf("the found locks %v", f.state.Locks)
		}
		f.how = how
		if f.report(t, Report{Sort: LineVoid, Seq: 3, At: second(4), Lock: lineChanged}); !slices.Equal(f.state.Locks, []policy.Lock{lineChanged}) {
			t.Errorf("changed again, and the locks are %v", f.state.Locks)
		}
	}
}

// A flood: SD-JWT VCs are suspended, MSOs wait. Undone, the card is what it was; a report after the flood confirms.
func TestAFloodWaits(t *testing.T) {
	for name, lost := range map[string]Report{"lost": {Sort: LineLost, Seq: 1, At: second(2), Lock: lineLost}, "ported": {Sort: LineVoid, Seq: 1, At: second(2), Lock: lineChanged}} {
		f := &follower{now: second(1), how: Hold}
		f.issue(t, second(1))
		f.report(t, lost)
		shows := func(when string, mso, vc byte) {
			t.Helper()
			if got := [2]byte{f.state.Status(f.state.Credentials[0]), f.state.Status(f.state.Credentials[1])}; got != [2]byte{mso, vc} {
				t.Errorf("%s, %s: mso and vc are %v, want %d %d", name, when, got, mso, vc)
			}
		}
		shows("held", Valid, Suspended)
		f.line = f.line.Undo(lost.Lock)
		f.follow(t)
		shows("undone", Valid, Valid)
		if f.report(t, lost); len(f.state.Locks) != 0 {
			t.Errorf("%s: the report that was undone locks again", name)
		}
		again := lost
		again.Seq, again.At, f.how = 2, second(3), Confirm
		f.report(t, again)
		shows("after the flood", Invalid, Suspended)

		f = &follower{now: second(1), how: Hold}
		f.issue(t, second(1))
		f.report(t, lost)
		f.how = Confirm
		f.report(t, again)
		shows("confirmed by a report after the flood", Invalid, Suspended)

		f = &follower{now: second(1), how: Hold}
		f.issue(t, second(1))
		f.report(t, Report{Sort: LineVoid, Seq: 1, At: second(2), Lock: lineChanged})
		f.how = Keep
		f.report(t, Report{Sort: LineFound, Seq: 2, At: second(3), Lock: lineLost})
		shows("not confirmed by a line that is found", Valid, Suspended)
	}
}

func TestTwoStepsAreOne(t *testing.T) {
	got := join([]Change{{"a", 1, 0, 2}, {"a", 2, 0, 2}, {"b", 1, 0, 2}}, []Change{{"a", 1, 2, 0}, {"a", 2, 2, 1}, {"c", 1, 0, 2}})
	if want := []Change{{"a", 2, 0, 1}, {"b", 1, 0, 2}, {"c", 1, 0, 2}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
