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
