package fsck_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
	"sealkeeper/policy"
)

// Attempts are numbered without gap, and one of a settled item's is settled and none of another's, whether the first one has a row of its own
// (something happened to it, or an older program made it) or not.
func TestAttempts(t *testing.T) {
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	row := func(id string, n byte, state ledger.Try) ledger.Row {
		return ledger.Row{Table: ledger.TableAttempts, Key: append([]byte(id), 0, 0, 0, 0, 0, 0, 0, 0, n), Value: encoded(t, ledger.AttemptRecord{Worker: "w", At: at, State: state})}
	}
	said := func(kind string, items ...ledger.LeafItem) (leaves []ledger.Leaf) {
		return []ledger.Leaf{{V: 1, Kind: kind, At: at, Reservation: "r1", Items: items}}
	}
	lost, won := said("lost", ledger.LeafItem{Worker: "w"}), said("settle", ledger.LeafItem{Attempt: 1, Worker: "w"})
	for name, c := range map[string]struct {
		progress ledger.Progress
		worker   string
		rows     []ledger.Row
		leaves   []ledger.Leaf
		says     string
	}{
		"the first is settled":                   {ledger.Settled, "w", nil, nil, ""},
		"the first is under way":                 {ledger.InProgress, "", nil, nil, ""},
		"the first was lost, the second won":     {ledger.Settled, "", []ledger.Row{row("r1", 0, ledger.TryUnknown), row("r1", 1, ledger.TrySettled)}, nil, ""},
		"rows of before":                         {ledger.Settled, "", []ledger.Row{row("r1", 0, ledger.TrySettled)}, nil, ""},
		"settled by nobody":                      {ledger.Settled, "", nil, nil, "0 attempts are settled"},
		"settled twice":                          {ledger.Settled, "w", []ledger.Row{row("r1", 1, ledger.TrySettled)}, nil, "2 attempts are settled"},
		"signed and not settled":                 {ledger.InProgress, "w", nil, nil, "1 attempts are settled"},
		"a gap":                                  {ledger.Settled, "w", []ledger.Row{row("r1", 2, ledger.TryDropped)}, nil, "attempt 1 is missing"},
		"two first ones":                         {ledger.Settled, "w", []ledger.Row{row("r1", 0, ledger.TryUnknown)}, nil, "is missing"},
		"an attempt at nothing that is reserved": {ledger.Settled, "w", []ledger.Row{row("r2", 1, ledger.TrySent)}, nil, "which does not exist"},
		"lost and won, as the journal says":      {ledger.Settled, "", []ledger.Row{row("r1", 0, ledger.TryUnknown), row("r1", 1, ledger.TrySettled)}, append(lost, won...), ""},
		"the row of a lost first one is missing": {ledger.Settled, "", []ledger.Row{row("r1", 1, ledger.TrySettled)}, append(lost, won...), "attempt 0 by w is unknown by the journal"},
		"another one won":                        {ledger.Settled, "w", []ledger.Row{row("r1", 1, ledger.TryDropped)}, won, "attempt 1 by w is settled by the journal"},
		"another worker signed":                  {ledger.Settled, "v", nil, said("settle", ledger.LeafItem{Worker: "w"}), "attempt 0 by w is settled by the journal"},
		"the journal alone knows of it":          {ledger.Settled, "w", nil, said("drop", ledger.LeafItem{Attempt: 1, Worker: "w"}), "attempt 1 by w is dropped by the journal"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ledger.db")
			store, err := ledger.OpenSQLite(context.Background(), path)
			if err != nil {
				t.Fatal(err)
			}
			r := ledger.ReservationRecord{ID: "r1", Kind: policy.KindSelftest, Progress: c.progress, At: at, Items: []ledger.ItemRecord{{KeyID: "k", Worker: c.worker}}}
			rows := append(c.rows, ledger.Row{Table: ledger.TableReservations, Key: []byte("r1"), Value: encoded(t, r)})
			ops := []ledger.Op{{Leaf: []byte(`{"v":1,"kind":"reserve","at":"2026-12-01T00:00:00Z","reservation":"r1"}`), Rows: rows}}
			for _, l := range c.leaves {
				ops = append(ops, ledger.Op{Leaf: encoded(t, l)})
			}
			out, err := store.Commit(context.Background(), ops)
			if err != nil || out[0].Conflict != nil {
				t.Fatal(out, err)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			report, err := fsck.Run(context.Background(), fsck.Options{Ledger: path})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, check := range report.Checks {
				if strings.HasPrefix(check.Title, "every attempt belongs") {
					got = strings.Join(check.Problems, "\n")
				}
			}
			if (c.says == "") != (got == "") || !strings.Contains(got, c.says) {
				t.Errorf("%q, want %q", got, c.says)
			}
		})
	}
}
