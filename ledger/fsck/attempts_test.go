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
	for name, c := range map[string]struct {
		progress ledger.Progress
		worker   string
		rows     []ledger.Row
		says     string
	}{
		"the first is settled":                   {ledger.Settled, "w", nil, ""},
		"the first is under way":                 {ledger.InProgress, "", nil, ""},
		"the first was lost, the second won":     {ledger.Settled, "", []ledger.Row{row("r1", 0, ledger.TryUnknown), row("r1", 1, ledger.TrySettled)}, ""},
		"rows of before":                         {ledger.Settled, "", []ledger.Row{row("r1", 0, ledger.TrySettled)}, ""},
		"settled by nobody":                      {ledger.Settled, "", nil, "0 attempts are settled"},
		"settled twice":                          {ledger.Settled, "w", []ledger.Row{row("r1", 1, ledger.TrySettled)}, "2 attempts are settled"},
		"signed and not settled":                 {ledger.InProgress, "w", nil, "1 attempts are settled"},
		"a gap":                                  {ledger.Settled, "w", []ledger.Row{row("r1", 2, ledger.TryDropped)}, "attempt 1 is missing"},
		"two first ones":                         {ledger.Settled, "w", []ledger.Row{row("r1", 0, ledger.TryUnknown)}, "is missing"},
		"an attempt at nothing that is reserved": {ledger.Settled, "w", []ledger.Row{row("r2", 1, ledger.TrySent)}, "which does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ledger.db")
			store, err := ledger.OpenSQLite(context.Background(), path)
			if err != nil {
				t.Fatal(err)
			}
			r := ledger.ReservationRecord{ID: "r1", Kind: policy.KindSelftest, Progress: c.progress, At: at, Items: []ledger.ItemRecord{{KeyID: "k", Worker: c.worker}}}
			rows := append(c.rows, ledger.Row{Table: ledger.TableReservations, Key: []byte("r1"), Value: encoded(t, r)})
			out, err := store.Commit(context.Background(), []ledger.Op{{Leaf: []byte(`{"v":1,"kind":"reserve","at":"2026-12-01T00:00:00Z","reservation":"r1"}`), Rows: rows}})
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
