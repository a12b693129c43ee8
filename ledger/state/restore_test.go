package state

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sealkeeper/policy"
)

// Whatever a subject's state is and whatever is shown of it: afterwards no credential is better than it is shown, none is better than it was, and
// who is shown as stopped gets no card.
func TestRestoreIsNeverBetter(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld()
		must := func(e Event) {
			if err := w.apply(e); err != nil && len(err.Error()) > 6 && err.Error()[:6] == "BROKEN" {
				r.Fatal(err)
			}
		}
		for range rapid.IntRange(1, 6).Draw(r, "events") {
			switch rapid.IntRange(0, 4).Draw(r, "event") {
			case 0:
				must(Event{Issue: &Issue{Device: "a", Keys: [][32]byte{key("a")}, Replace: true, Credentials: w.credentials("a")}})
			case 1:
				must(Event{Issue: &Issue{Device: "b", Keys: [][32]byte{key("b")}, Replace: true, Credentials: w.credentials("b")}})
			case 2:
				must(Event{Lock: &Lock{Lock: policy.Lock{Reason: "telecom_lost", Class: "telecom"}}})
			case 3:
				must(Event{Unlock: &Unlock{Lock: policy.Lock{Reason: "telecom_lost", Class: "telecom"}}})
			default:
				if w.Device != nil {
					must(Event{Issue: &Issue{Device: w.Device.ID, Refresh: true, Credentials: w.credentials(w.Device.ID)}})
				}
			}
		}
		before := w.State
		shown := map[Place]byte{}
		var e Restore
		for _, c := range w.Credentials {
			at := Place{c.List, c.Index}
			s := rapid.SampledFrom([]byte{Valid, Invalid, Suspended, Outdated}).Draw(r, "shown")
			if c.Format == policy.MDoc && s != Valid {
				s = Invalid
			}
			if !Weaker(before.Status(c), s) {
				continue
			}
			switch shown[at] = s; s {
			case Invalid:
				e.Revoked = append(e.Revoked, at)
			case Suspended:
				e.Suspended = true
			case Outdated:
				e.Outdated = append(e.Outdated, at)
			}
		}
		if len(shown) == 0 {
			return
		}
		if err := w.apply(Event{Restore: &e}); err != nil {
			r.Fatal(err)
		}
		for i, c := range w.Credentials {
			now := w.Status(c)
			if was := before.Status(before.Credentials[i]); Weaker(now, was) || Weaker(now, shown[Place{c.List, c.Index}]) {
				r.Fatalf("%s %d was %d, is shown as %d, and became %d", c.List, c.Index, was, shown[Place{c.List, c.Index}], now)
			}
		}
		if ended := before.Device != nil && w.Device == nil; (ended || e.Suspended) && !slices.Contains(w.Locks, policy.Restored) {
			r.Fatal("a card could be made for who is shown as stopped")
		}
		epoch := w.Epoch
		if err := w.apply(Event{Restore: &e}); err != nil || w.Epoch != epoch {
			r.Fatalf("the same again: %v, epoch %d after %d", err, w.Epoch, epoch)
		}
	})
}
