package ledger

import (
	"context"
	"slices"
	"testing"
	"time"

	"sealkeeper/internal/clock"
	"sealkeeper/policy"
)

// A wall clock that jumps ahead while a signature is being made takes no card out of the reach of the next lock, and no closed list out of
// the publisher's.
func TestJumpOfTheWallForgetsNothing(t *testing.T) {
	w := newTown(t)
	p := w.phone()
	w.issue(w.request(policy.OpIssue, 1, p, false))
	w.change("telecom-a", policy.OpLock, 1, "telecom_lost") // ends the MSO, so that a refresh is allowed
	w.change("telecom-a", policy.OpUnlock, 1, "telecom_lost")
	lists := w.Lists()
	for _, f := range []policy.Format{policy.MDoc, policy.SDJWT} { // closes the lists
		_, err := w.Lease(context.Background(), resident, f, int(w.o.ListSize))
		must(t, err)
	}
	r, tbs := w.reserve(w.request(policy.OpRefresh, 1, p, false))
	const jump = 365 * 24 * time.Hour
	before := w.clock.Now()
	w.clock.Jump(jump)
	w.settle(r, tbs, "card")
	if got := w.ListsAt(before); !slices.Contains(got, lists[0]) || !slices.Contains(got, lists[1]) {
		t.Errorf("lists %v are not published any more, only %v", lists, got)
	}
	w.clock.Jump(-jump)
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt valid", "mso_mdoc valid", "dc+sd-jwt valid")
	w.change("telecom-a", policy.OpLock, 1, "telecom_lost")
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended", "mso_mdoc revoked", "dc+sd-jwt suspended")
}

// What is decided elsewhere and carried out while the wall is ahead forgets nothing either: a decision on a flood, officers who lift a lock, a fence that is lifted.
func TestJumpOfTheWallForgetsNothingThatIsCarriedOut(t *testing.T) {
	const jump = 2 * 365 * 24 * time.Hour
	ctx := t.Context()
	for _, undo := range []bool{true, false} {
		t.Run(decisionName(undo), func(t *testing.T) {
			c := newCarrier(t, 1)
			c.fills() // nobody is woken by a decision
			c.flooded(1)
			c.wantsEffect(EventHeld)(c.event("1", "line-1", 1, "lost", c.clock.Now()))
			c.publishAll()
			c.clock.Jump(jump)
			_, err := c.DecideFlood(ctx, "operator", "carrier-a", noon.Truncate(time.Hour), undo, nil)
			must(t, err)
			must(t, c.carryOutFloods(ctx))
			c.clock.Jump(-jump)
			if undo {
				c.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
			} else {
				c.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
			}
			c.check()
		})
	}
	t.Run("lift of a lock", func(t *testing.T) {
		w := newTown(t)
		w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
		w.change("telecom-a", policy.OpLock, 1, "telecom_lost")
		w.publishAll()
		x := w.proposed("lock.lift")
		w.clock.Jump(jump)
		lifted, err := w.LiftLock(ctx, resident, policy.Pseudonym{1}, "telecom_lost", "a mistake", x)
		if must(t, err); !lifted {
			t.Error("the lock is not lifted")
		}
		w.clock.Jump(-jump)
		w.wants(1, "mso_mdoc revoked", "dc+sd-jwt valid")
		w.check()
	})
	t.Run("lift of a fence", func(t *testing.T) {
		w, shown := lost(t)
		w.clock.Jump(jump)
		_, err := w.Lift(ctx, shown, nil, nil)
		must(t, err)
		w.clock.Jump(-jump)
		w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
		w.wants(2, "mso_mdoc revoked", "dc+sd-jwt revoked")
		w.check()
	})
}

// While the wall is ahead no burn is forgotten: what was used is used when it comes back.
func TestJumpOfTheWallFreesNothing(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	guard := clock.NewGuard(w.clock, noon, 24*time.Hour, false)
	q := w.request(policy.OpIssue, 1, w.phone(), false)
	w.issue(q)
	const jump = 49 * time.Hour
	w.clock.Jump(jump)
	must(t, w.Sweep(ctx, guard))
	w.clock.Jump(-jump)
	must(t, w.Sweep(ctx, guard))
	again := *q // the same evidence under a new idempotency key
	again.person, again.seed, again.call = policy.Pseudonym{2}, "again", Call{Key: "again", Request: [32]byte{1}, RowSalt: [32]byte{1}}
	_, _, err := w.tryReserve(&again)
	refused(t, err, "nonce.replayed")
	guard.Accept()
	w.clock.Advance(jump)
	must(t, w.Sweep(ctx, guard))
	_, _, err = w.tryReserve(&again)
	must(t, err)
	w.check()
}
