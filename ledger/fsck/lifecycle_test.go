package fsck_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// An order that nothing would carry out, one that nobody ordered, a reservation that nothing would give up, and one that was given up behind the
// journal's back are each named; a good ledger is clean.
func TestOrdersAndUnfinished(t *testing.T) {
	from := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	lock := policy.Lock{Reason: "admin_hold", Class: "ministry"}
	s, _, err := state.State{}.Apply(state.Event{At: from.Add(-time.Hour), Order: &state.Order{ID: "case-1", Class: "ministry", Lock: lock, From: from, To: from.Add(time.Hour)}})
	if err != nil {
		t.Fatal(err)
	}
	slot := ledger.SlotRecord{DocumentType: "kr-resident", Subject: policy.Pseudonym{1}, State: s}
	build := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "ledger.db")
		store, err := ledger.OpenSQLite(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		out, err := store.Commit(context.Background(), []ledger.Op{
			{Leaf: []byte(`{"v":1,"kind":"change","at":"2026-11-30T23:00:00Z"}`), Rows: []ledger.Row{
				{Table: ledger.TableSlots, Key: append([]byte("kr-resident\x00"), slot.Subject[:]...), Value: encoded(t, slot)},
				{Table: ledger.TableDue, Key: ledger.DueKeys(slot)[0], Value: encoded(t, ledger.DueRecord{DocumentType: slot.DocumentType, Subject: slot.Subject, Order: "case-1"})},
			}},
			{Leaf: []byte(`{"v":1,"kind":"reserve","at":"2026-11-30T23:00:00Z","reservation":"r1"}`), Rows: []ledger.Row{
				{Table: ledger.TableReservations, Key: []byte("r1"), Value: encoded(t, ledger.ReservationRecord{ID: "r1", Kind: policy.KindIssue, Progress: ledger.InProgress})},
				{Table: ledger.TableRequests, Key: []byte("q1"), Value: encoded(t, ledger.RequestRecord{Reservation: "r1"})},
			}},
		})
		if err != nil || out[1].Conflict != nil {
			t.Fatal(out, err)
		}
		return path
	}
	problems := func(path string) (all string) {
		r, err := fsck.Run(context.Background(), fsck.Options{Ledger: path})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Checks {
			if strings.HasPrefix(c.Title, "orders") || strings.HasPrefix(c.Title, "reservations") {
				all += strings.Join(c.Problems, "\n")
			}
		}
		return all
	}
	for change, says := range map[string]string{
		"":                       "",
		"DELETE FROM due":        "1 steps of orders will never be carried out",
		"UPDATE due SET k=x'00'": "is due by the table",
		"DELETE FROM requests":   "would never be given up",
		`UPDATE reservations SET v=CAST(replace(CAST(v AS TEXT), '"reserved"', '"given-up"') AS BLOB)`: "which the journal denies",
	} {
		path := build(t)
		db, err := sql.Open("sqlite", "file:"+path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(change); err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if got := problems(path); (says == "") != (got == "") || !strings.Contains(got, says) {
			t.Errorf("%q: %q, want %q", change, got, says)
		}
	}
}

func jsonInto(b []byte, v any) error { return json.Unmarshal(b, v) }

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
