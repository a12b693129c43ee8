package fsck_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// A hold's cards are those that have its lock, and it is lifted if the journal says so.
func TestHolds(t *testing.T) {
	const (
		begun  = `{"v":1,"kind":"campaign","at":"2026-11-24T00:00:00Z","name":"h1","operation":"hold","state":"started"}`
		marked = `{"v":1,"kind":"campaign-card","at":"2026-11-24T00:00:01Z","name":"h1","operation":"hold","state":"held"}`
		lifted = `{"v":1,"kind":"campaign","at":"2026-11-24T00:00:02Z","name":"h1","operation":"hold","state":"lifted"}`
		ended  = `{"v":1,"kind":"campaign","at":"2026-11-24T00:00:03Z","name":"h1","operation":"hold","state":"done","count":1}`
		stands = `{"operation":"hold","document_type":"kr-resident","reason":"","per_second":1,"at":"2026-11-24T00:00:00Z","by":["kim"]}`
		over   = `{"operation":"hold","document_type":"kr-resident","reason":"","per_second":1,"at":"2026-11-24T00:00:00Z","by":["kim"],"lifted":"2026-11-24T00:00:02Z"}`
		done   = `{"operation":"hold","document_type":"kr-resident","reason":"","per_second":1,"at":"2026-11-24T00:00:00Z","by":["kim"],"lifted":"2026-11-24T00:00:02Z","done":"2026-11-24T00:00:03Z"}`
	)
	lock := policy.Lock{Reason: policy.MassHold, Class: "officers", By: "h1"}
	for name, c := range map[string]struct {
		row, card, says string
		locked          bool
		leaves          []string
	}{
		"holds a card":                      {stands, "held", "", true, []string{begun, marked}},
		"lifted, and still holds it":        {over, "held", "", true, []string{begun, marked, lifted}},
		"over":                              {done, "released", "", false, []string{begun, marked, lifted, ended}},
		"the card has no lock":              {stands, "held", "holds 1 cards, and 0 have its lock", false, []string{begun, marked}},
		"the card has its lock for nothing": {done, "released", "holds 0 cards, and 1 have its lock", true, []string{begun, marked, lifted, ended}},
		"over, and holds a card":            {done, "held", "of which 1 wait", true, []string{begun, marked, lifted, ended}},
		"lifted by nobody":                  {over, "held", "is lifted: true, by the journal: false", true, []string{begun, marked}},
		"lifted, and stands":                {stands, "held", "is lifted: false, by the journal: true", true, []string{begun, marked, lifted}},
		"gone":                              {"", "", "have the lock of hold h1…, which is not there", true, []string{begun, marked}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			path := filepath.Join(t.TempDir(), "ledger.db")
			s, err := ledger.OpenSQLite(ctx, path)
			if err != nil {
				t.Fatal(err)
			}
			var ops []ledger.Op
			for _, l := range c.leaves {
				ops = append(ops, ledger.Op{Leaf: []byte(l)})
			}
			subject := policy.Pseudonym{1}
			slot := append([]byte("kr-resident\x00"), subject[:]...)
			if c.row != "" {
				ops[0].Rows = append(ops[0].Rows, ledger.Row{Table: ledger.TableCampaigns, Key: []byte("h1"), Value: []byte(c.row)},
					ledger.Row{Table: ledger.TableCards, Key: append([]byte("h1\x00"), slot...), Value: []byte(`{"state":"` + c.card + `","at":"2026-11-24T00:00:01Z","until":"2026-12-24T00:00:00Z"}`)})
			}
			if c.locked {
				r := ledger.SlotRecord{DocumentType: "kr-resident", Subject: subject, State: state.State{Epoch: 1, Locks: []policy.Lock{lock}, Held: []policy.Lock{lock}}}
				ops[0].Rows = append(ops[0].Rows, ledger.Row{Table: ledger.TableSlots, Key: slot, Value: encoded(t, r)})
			}
			if _, err := s.Commit(ctx, ops); err != nil {
				t.Fatal(err)
			}
			s.Close()
			r, err := fsck.Run(ctx, fsck.Options{Ledger: path})
			if err != nil {
				t.Fatal(err)
			}
			for _, check := range r.Checks {
				if !strings.HasPrefix(check.Title, "cards of campaigns") {
					continue
				}
				if says := strings.Join(check.Problems, "; "); says != c.says && (c.says == "" || !strings.Contains(says, c.says)) {
					t.Errorf("fsck says %q, want %q", says, c.says)
				}
				return
			}
			t.Error("campaigns are not checked")
		})
	}
}
