package state

import (
	"fmt"
	"slices"
	"testing"

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
