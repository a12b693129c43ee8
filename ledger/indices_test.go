package ledger

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"sealkeeper/ledger/index"
	"sealkeeper/policy"
)

// older makes the ledger what a program of before indices were written by counter left, of a version of the schema up to that.
func (w *town) older(version int, more ...string) {
	w.t.Helper()
	for _, text := range append(more, `INSERT INTO credentials SELECT unhex(hex(substr(k, 1, length(k)-8)) || printf('%016x', json_extract(CAST(v AS TEXT), '$.index'))),
		CAST(json_remove(CAST(v AS TEXT), '$.index') AS BLOB), rev FROM indices`, "DROP TABLE indices") {
		err := w.store.(*sqlite).between(w.t.Context(), text)
		must(w.t, err)
	}
	err := w.store.(*sqlite).between(w.t.Context(), fmt.Sprint("PRAGMA user_version=", version))
	must(w.t, err)
}

// between runs a text between two commits.
func (s *sqlite) between(ctx context.Context, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.run(ctx, text)
}

// rows counts the rows of a table.
func (w *town) rows(table Table) (n int) {
	w.t.Helper()
	must(w.t, scan(context.Background(), w.store, table, nil, func(Entry) error { n++; return nil }))
	return n
}

// Rows of before stay where they are and are read for ever: cards whose indices stand in them are refreshed, locked and taken back from published lists
// beside those of now, in the same list.
func TestIndicesOfAnOlderLedger(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	holder := w.phone()
	w.issue(w.request(policy.OpIssue, 1, holder, false))
	w.issue(w.request(policy.OpIssue, 2, w.phone(), false))
	w.older(6)
	w.again()
	w.clock.Advance(46 * 24 * time.Hour)
	w.issue(w.request(policy.OpRefresh, 1, holder, false))
	w.issue(w.request(policy.OpIssue, 3, w.phone(), false))
	w.change("telecom-a", policy.OpLock, 2, "telecom_lost")
	w.change("telecom-a", policy.OpUnlock, 2, "telecom_lost")
	if before, now := w.rows(TableCredentials), w.rows(TableIndices); before != 4 || now != 4 || len(w.lists) != 2 {
		t.Fatalf("%d rows of before, %d of now, %d lists", before, now, len(w.lists))
	}
	w.publishAll()
	w.check()
	restore := w.backup()
	w.clock.Advance(time.Hour)
	w.change("telecom-a", policy.OpLock, 1, "telecom_lost")
	w.change("telecom-a", policy.OpLock, 2, "telecom_lost")
	w.change("loss-desk", policy.OpRevoke, 3, "user_request")
	w.issue(w.request(policy.OpIssue, 4, w.phone(), false))
	w.change("telecom-a", policy.OpLock, 4, "telecom_lost")
	w.publishAll()
	shown := w.shown()
	restore()
	w.fenced()
	d, err := w.Difference(ctx, shown)
	must(t, err)
	if d.Cards != (CardCounts{Locked: 2, Revoked: 1}) || d.Unknown != 2 {
		t.Errorf("the difference is %+v", d)
	}
	_, err = w.Lift(ctx, shown, nil, nil)
	must(t, err)
	w.again()
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended", "mso_mdoc revoked", "dc+sd-jwt suspended")
	w.wants(2, "mso_mdoc revoked", "dc+sd-jwt suspended")
	w.wants(3, "mso_mdoc revoked", "dc+sd-jwt revoked")
	w.publishAll()
	w.check()
}

// What an older program gave is not given again, should the list's count go back behind it: also after rows of now that show the right order.
func TestIndicesOfBeforeAreNotGivenAgain(t *testing.T) {
	w := newTown(t)
	for person := byte(1); person <= 3; person++ {
		w.issue(w.request(policy.OpIssue, person, w.phone(), false))
	}
	w.older(6)
	w.again()
	w.issue(w.request(policy.OpIssue, 4, w.phone(), false))
	err := w.store.(*sqlite).between(t.Context(), `UPDATE lists SET v = CAST(json_set(CAST(v AS TEXT), '$.leased', 1) AS BLOB)`)
	must(t, err)
	w.again()
	for _, f := range []policy.Format{policy.MDoc, policy.SDJWT} {
		if _, err := w.Lease(t.Context(), resident, f, 1); err == nil || !strings.Contains(err.Error(), "in another order") {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// A list goes on only in the order in which it began: under another key of indices, counters that were never used would give some of its indices again.
func TestIndicesKeepTheirOrder(t *testing.T) {
	for name, cards := range map[string]byte{"rows of now": 4, "rows of before": 64} { // so many that a block of another order has one of theirs
		t.Run(name, func(t *testing.T) {
			w := newTown(t)
			for person := byte(1); person <= cards; person++ {
				w.issue(w.request(policy.OpIssue, person, w.phone(), false))
			}
			if name == "rows of before" {
				w.older(6)
			}
			w.again()
			s := testSecrets()
			s.Index[0] ^= 1
			w.Unlock(s)
			for _, f := range []policy.Format{policy.MDoc, policy.SDJWT} {
				size, _, err := w.Head(t.Context())
				must(t, err)
				_, err = w.Lease(t.Context(), resident, f, 1)
				if err == nil || !strings.Contains(err.Error(), "in another order") {
					t.Errorf("%s: %v", f, err)
				}
				if now, _, err := w.Head(t.Context()); err != nil || now != size {
					t.Errorf("%s: %d entries became %d, %v", f, size, now, err)
				}
			}
			w.Unlock(testSecrets())
			w.issue(w.request(policy.OpIssue, 99, w.phone(), false))
			w.check()
		})
	}
}

// Lists of before go on in the order in which they began, and those that are opened after them are shuffled.
func TestListsOfBeforeKeepTheirOrder(t *testing.T) {
	w := newTown(t)
	lease := func(f policy.Format, n int) []*Ticket {
		t.Helper()
		tickets, err := w.Lease(t.Context(), resident, f, n)
		must(t, err)
		return tickets
	}
	for _, f := range []policy.Format{policy.MDoc, policy.SDJWT} {
		lease(f, 1)
	}
	err := w.store.(*sqlite).between(t.Context(), "UPDATE lists SET v = CAST(json_remove(CAST(v AS TEXT), '$.order') AS BLOB); PRAGMA user_version=7")
	must(t, err)
	for range 2 { // the second time with rows that show the order
		w.again()
		w.issue(w.request(policy.OpIssue, byte(w.rows(TableIndices)+1), w.phone(), false))
		for _, f := range []policy.Format{policy.MDoc, policy.SDJWT} {
			ticket := lease(f, 1)[0]
			old, err := index.SwapOrNot(testSecrets().Index, ticket.List(), w.o.ListSize)
			must(t, err)
			if ticket.Index() != old.At(ticket.counter) {
				t.Errorf("%s: counter %d has the index %d", f, ticket.counter, ticket.Index())
			}
		}
	}
	w.check()
	first := lease(policy.MDoc, 1)[0].List()
	next := lease(policy.MDoc, int(w.o.ListSize))
	last := next[len(next)-1]
	shuffled, err := index.New(testSecrets().Index, last.List(), w.o.ListSize)
	must(t, err)
	if last.List() == first || last.Index() != shuffled.At(last.counter) {
		t.Errorf("counter %d of list %s, after %s, has the index %d", last.counter, last.List(), first, last.Index())
	}
	err = w.store.(*sqlite).between(t.Context(), "UPDATE lists SET v = CAST(json_set(CAST(v AS TEXT), '$.order', 'sorted') AS BLOB)")
	must(t, err)
	w.again()
	if _, err := w.Lease(t.Context(), resident, policy.MDoc, 1); err == nil || !strings.Contains(err.Error(), `"sorted"`) {
		t.Errorf("an order that nobody knows: %v", err)
	}
}
