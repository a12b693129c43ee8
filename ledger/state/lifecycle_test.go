package state

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"sealkeeper/policy"
)

// A lost plastic card stays stopped when the lock is removed, because another card was made; it is good again only when it was found.
func TestLostCardsStayStopped(t *testing.T) {
	w := newWorld()
	lost := policy.Lock{Reason: "card_lost", Class: "card_system"}
	do := func(e Event, want ...string) {
		t.Helper()
		if err := w.apply(e); err != nil {
			t.Fatal(err)
		}
		if got := w.Slot(w.at).Stopped; !slices.Equal(got, want) {
			t.Errorf("stopped are %q, want %q", got, want)
		}
	}
	do(Event{Lock: &Lock{Lock: lost, Card: "a"}}, "a")
	do(Event{Lock: &Lock{Lock: lost, Card: "a"}}, "a")
	do(Event{Unlock: &Unlock{Lock: lost}}, "a")
	do(Event{Lock: &Lock{Lock: lost, Card: "b"}}, "a", "b")
	do(Event{Unlock: &Unlock{Lock: lost, Card: "b"}}, "a")
	for i := range 2 * mostStopped {
		if err := w.apply(Event{Lock: &Lock{Lock: lost, Card: fmt.Sprint(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.Stopped); n != mostStopped {
		t.Errorf("%d are remembered", n)
	}
}

// An order that takes the place of one that has begun, and begins no later than now, leaves no moment without a lock: a verifier might keep the
// answer of that moment for as long as its list lives.
func TestAnOrderIsExtendedWithoutAGap(t *testing.T) {
	hold, court := policy.Lock{Reason: "admin_hold", Class: "ministry"}, policy.Lock{Reason: "court", Class: "ministry"}
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		from   time.Duration
		lock   policy.Lock
		forth  bool // it has no end
		before func(w *world, do func(Event))
		want   []policy.Lock // right after the order, and after Due
		later  []policy.Lock // eight days on
	}{
		"the same lock, longer":             {0, hold, false, nil, []policy.Lock{hold}, nil},
		"from yesterday":                    {-day, hold, false, nil, []policy.Lock{hold}, nil},
		"the same lock, without an end":     {0, hold, true, nil, []policy.Lock{hold}, []policy.Lock{hold}},
		"another lock":                      {0, court, false, nil, []policy.Lock{court}, nil},
		"later than now, so it begins then": {time.Hour, hold, false, nil, nil, nil},
		"beside somebody's own word": {0, hold, false, func(_ *world, do func(Event)) { do(Event{Lock: &Lock{Lock: hold}}) },
			[]policy.Lock{hold}, []policy.Lock{hold}},
		"as one of as many as there can be": {0, hold, false, func(w *world, do func(Event)) {
			for i := range policy.MaxOrders - 1 {
				do(Event{Order: &Order{ID: fmt.Sprint("x", i), Lock: court, Class: "ministry", From: w.at.Add(100 * day)}})
			}
		}, []policy.Lock{hold}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			do := func(e Event) {
				t.Helper()
				if err := w.apply(e); err != nil {
					t.Fatal(err)
				}
			}
			w.tell(t, "issue(p1) → settle(r1)")
			do(Event{Order: &Order{ID: "a", Lock: hold, Class: "ministry", From: w.at, To: w.at.Add(2 * day)}})
			do(Event{Due: &Due{}})
			if c.before != nil {
				c.before(w, do)
			}
			w.at = w.at.Add(time.Hour)
			b := Order{ID: "b", Lock: c.lock, Class: "ministry", From: w.at.Add(c.from), To: w.at.Add(7 * day), Replace: "a"}
			if c.forth {
				b.To = time.Time{}
			}
			next, changes, err := w.Apply(Event{At: w.at, Order: &b})
			if err != nil {
				t.Fatal(err)
			}
			if gone := len(c.want) == 0; len(changes) > 0 != gone || !slices.Equal(next.Locks, c.want) {
				t.Errorf("changes %v, locks %v, want %v", changes, next.Locks, c.want)
			}
			do(Event{Order: &b})
			do(Event{Due: &Due{}})
			if !slices.Equal(w.Locks, c.want) || slices.ContainsFunc(w.Orders, func(o Order) bool { return o.ID == "a" }) {
				t.Errorf("locks %v, want %v; orders %+v", w.Locks, c.want, w.Orders)
			}
			w.at = w.at.Add(8 * day)
			if do(Event{Due: &Due{}}); !slices.Equal(w.Locks, c.later) {
				t.Errorf("in the end locks %v, want %v", w.Locks, c.later)
			}
		})
	}
}

// What an order that has not begun, though its time has come, would have done is not done when another one takes its place, or closes the card.
func TestAnOrderThatHasNotBegunIsReplaced(t *testing.T) {
	hold := policy.Lock{Reason: "admin_hold", Class: "ministry"}
	for name, a := range map[string]Order{
		"a lock without an end": {Lock: policy.Lock{Reason: "court", Class: "ministry"}},
		"a closing":             {Close: "deceased"},
	} {
		w := newWorld()
		a.ID, a.Class, a.From = "a", "ministry", w.at.Add(time.Minute)
		for _, o := range []Order{a, {ID: "b", Lock: hold, Class: "ministry", From: w.at, To: w.at.Add(time.Hour), Replace: "a"}} {
			if err := w.apply(Event{Order: &o}); err != nil {
				t.Fatal(name, err)
			}
			w.at = w.at.Add(2 * time.Minute)
		}
		if err := w.apply(Event{Due: &Due{}}); err != nil || w.Closed != "" || !slices.Equal(w.Locks, []policy.Lock{hold}) {
			t.Errorf("%s: %v, closed %q, locks %v", name, err, w.Closed, w.Locks)
		}
	}
	w := newWorld()
	w.tell(t, "issue(p1) → settle(r1)")
	for _, e := range []Event{{Order: &Order{ID: "a", Lock: hold, Class: "ministry", From: w.at, To: w.at.Add(time.Hour)}}, {Due: &Due{}},
		{Order: &Order{ID: "b", Close: "deceased", Class: "ministry", From: w.at, Replace: "a"}}} {
		if err := w.apply(e); err != nil {
			t.Fatal(err)
		}
	}
	if w.Closed == "" || w.show() != "- [admin_hold/ministry] r1:p1=1,1" {
		t.Errorf("closed %q: %s", w.Closed, w.show())
	}
}

// What is given up ends the phone only if it was to bind it and nobody has locked the phone. A refresh takes nothing away: the phone may have been off for
// so long that nothing else of it is left. And a lock is removed by whoever added it: the end of a time has no such right, and with the lock would go what
// it says of the ways to another phone.
func TestGivingUpEndsOnlyWhatBegan(t *testing.T) {
	for _, c := range []struct {
		name, story    string
		reservation    string
		unacknowledged bool
		end            string
	}{
		{"an issue that nobody finished", "issue(p1)", "r1", false, "- [] r1:p1=1,1"},
		{"an issue that nobody acknowledged", "issue(p1) → settle(r1)", "r1", true, "- [] r1:p1=1,1"},
		{"the second phone's", "issue(p1) → settle(r1) → wait(1h) → replace(p2)", "r2", false, "- [] r1:p1=1,1 r2:p2=1,1"},
		{"a refresh beside what is good", "issue(p1) → settle(r1) → wait(1h) → refresh(p1)", "r2", false, "p1 [] r1:p1=0,0 r2:p1=1,1"},
		{"a refresh of a phone that has nothing else", "issue(p1) → settle(r1) → wait(2184h) → refresh(p1)", "r2", false, "p1 [] r2:p1=1,1"},
		{"and that nobody acknowledged", "issue(p1) → settle(r1) → wait(2184h) → refresh(p1) → settle(r2)", "r2", true, "p1 [] r2:p1=1,1"},
		{"and that was locked meanwhile", "issue(p1) → settle(r1) → wait(2184h) → refresh(p1) → lost(p1)", "r2", false, "p1 [telecom_lost/telecom] r2:p1=1,1"},
		{"an issue, and the phone was lost meanwhile", "issue(p1) → lost(p1)", "r1", false, "p1 [telecom_lost/telecom] r1:p1=1,1"},
		{"an issue, and the person's card was locked", "issue(p1) → lock(court/court)", "r1", false, "- [court/court] r1:p1=1,1"},
	} {
		w := newWorld()
		w.tell(t, c.story)
		w.at = w.at.Add(25 * time.Hour)
		if err := w.apply(Event{Abandon: &Abandon{Reservation: c.reservation, Unacknowledged: c.unacknowledged}}); err != nil {
			t.Error(c.name, err)
		}
		if got := w.show(); got != c.end {
			t.Errorf("%s: %s, want %s", c.name, got, c.end)
		}
	}
}

// A card has to be made anew until it is: a refresh that nobody finishes, or that was made before the register's last word, leaves what is known. While it may still
// be finished nobody is asked for another one.
func TestARenewalIsHeededWhenItIsSettled(t *testing.T) {
	why := func(reason string) Event { return Event{Renew: &Renew{Reasons: []string{reason}, Show: true}} }
	for _, c := range []struct {
		name   string
		steps  []any // of the test language, or an event
		stored []string
		seen   []string // by policy
	}{
		{"a refresh waits", []any{why("name"), "refresh(p1)"}, []string{"name"}, nil},
		{"it is settled", []any{why("name"), "refresh(p1) → settle(r2)"}, nil, nil},
		{"it is given up", []any{why("name"), "refresh(p1)", Event{Abandon: &Abandon{Reservation: "r2"}}}, []string{"name"}, []string{"name"}},
		{"it is expired", []any{why("name"), "refresh(p1) → wait(2184h)"}, []string{"name"}, []string{"name"}},
		{"there is more meanwhile", []any{why("name"), "refresh(p1)", why("photo"), "settle(r2)"}, []string{"name", "photo"}, []string{"name", "photo"}},
		{"there is the same again meanwhile", []any{why("tech"), "refresh(p1)", why("tech"), "settle(r2)"}, []string{"tech"}, []string{"tech"}},
		{"a later one is settled before it", []any{why("name"), "refresh(p1)", why("photo"), "refresh(p1) → settle(r3) → settle(r2)"}, nil, nil},
		{"it was there before the register's word", []any{"refresh(p1)", why("name"), "settle(r2)"}, []string{"name"}, []string{"name"}},
		{"so it was, and is made again", []any{"refresh(p1)", why("name"), "again(r2) → settle(r3)"}, []string{"name"}, []string{"name"}},
		{"it is made again", []any{why("name"), "refresh(p1) → again(r2) → settle(r3)"}, nil, nil},
		{"another phone", []any{why("name"), "replace(p2)"}, nil, nil},
	} {
		w := newWorld()
		w.tell(t, "issue(p1) → settle(r1) → wait(1h)")
		for _, s := range c.steps {
			if e, is := s.(Event); !is {
				w.tell(t, s.(string))
			} else if err := w.apply(e); err != nil {
				t.Fatal(c.name, err)
			}
		}
		if got := w.Slot(w.at).Renew; !slices.Equal(w.Renew, c.stored) || !slices.Equal(got, c.seen) {
			t.Errorf("%s: stored %q and seen %q, want %q and %q", c.name, w.Renew, got, c.stored, c.seen)
		}
	}
}

// Two cards are lost, and the first that is found removes the lock. The second is good again when it is found, though there is no lock any more; but not
// while another authority says that it is lost.
func TestTheSecondLostCardIsFound(t *testing.T) {
	w := newWorld()
	lost := policy.Lock{Reason: "card_lost", Class: "card_system"}
	do := func(e Event, want ...string) {
		t.Helper()
		if err := w.apply(e); err != nil {
			t.Fatal(err)
		}
		if got := w.Slot(w.at).Stopped; !slices.Equal(got, want) {
			t.Errorf("stopped are %q, want %q", got, want)
		}
	}
	do(Event{Lock: &Lock{Lock: lost, Card: "a"}}, "a")
	do(Event{Lock: &Lock{Lock: lost, Card: "b"}}, "a", "b")
	do(Event{Unlock: &Unlock{Lock: lost, Card: "a"}}, "b")
	do(Event{Unlock: &Unlock{Lock: lost}}, "b")
	do(Event{Unlock: &Unlock{Lock: lost, Card: "c"}}, "b")
	other := policy.Lock{Reason: "card_lost", Class: "ministry"}
	do(Event{Lock: &Lock{Lock: other}}, "b")
	if err := w.apply(Event{Unlock: &Unlock{Lock: lost, Card: "b"}}); !errors.Is(err, ErrClass) || len(w.Stopped) != 1 {
		t.Errorf("while another authority says so: %v, stopped are %q", err, w.Stopped)
	}
	do(Event{Unlock: &Unlock{Lock: other}}, "b")
	epoch := w.Epoch
	if do(Event{Unlock: &Unlock{Lock: lost, Card: "b"}}); w.Epoch != epoch+1 {
		t.Errorf("epoch %d after %d", w.Epoch, epoch)
	}
	do(Event{Unlock: &Unlock{Lock: lost, Card: "b"}})
}
