package fsck_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
)

// What officers decided is found in the journal as it is kept, and each thing that does not fit is named.
func TestProposals(t *testing.T) {
	const (
		made     = `{"v":1,"kind":"proposal","at":"2026-11-24T00:00:00Z","proposal":"p1","operation":"issuing.stop","signers":["kim"]}`
		approved = `{"v":1,"kind":"approval","at":"2026-11-24T00:00:01Z","proposal":"p1","operation":"issuing.stop","signers":["lee"]}`
		rejected = `{"v":1,"kind":"rejection","at":"2026-11-24T00:00:01Z","proposal":"p1","operation":"issuing.stop","signers":["lee"]}`
		done     = `{"v":1,"kind":"issuing","at":"2026-11-24T00:00:02Z","proposal":"p1","operation":"issuing.stop","state":"stopped","signers":["kim"]}`
		refused  = `{"v":1,"kind":"approval-refused","at":"2026-11-24T00:00:02Z","proposal":"p9","reason":"officer.unknown"}`
	)
	for name, c := range map[string]struct {
		state, says string
		leaves      []string
	}{
		"carried out":                {"executed", "", []string{made, approved, done}},
		"not carried out":            {"open", "", []string{made, approved, refused}},
		"rejected":                   {"rejected", "", []string{made, rejected}},
		"carried out twice":          {"executed", "was carried out by entries [1 2]", []string{made, done, done}},
		"carried out, and nobody's":  {"executed", "which nobody made", []string{done}},
		"carried out after a no":     {"executed", "which an officer rejected", []string{made, rejected, done}},
		"said to be carried out":     {"executed", "is executed, and was carried out: false", []string{made, approved}},
		"said not to be carried out": {"open", "is open, and was carried out: true", []string{made, done}},
		"said to be rejected":        {"rejected", "is rejected, and was rejected: false", []string{made}},
		"a no that was taken away":   {"open", "is open, and was rejected: true", []string{made, rejected}},
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
			ops[0].Rows = []ledger.Row{{Table: ledger.TableProposals, Key: []byte("p1"), Value: []byte(`{"action":"issuing.stop","state":"` + c.state + `","approvals":"","at":"2026-11-24T00:00:00Z","expires":"2026-11-24T01:00:00Z"}`)}}
			if _, err := s.Commit(ctx, ops); err != nil {
				t.Fatal(err)
			}
			s.Close()
			r, err := fsck.Run(ctx, fsck.Options{Ledger: path})
			if err != nil {
				t.Fatal(err)
			}
			for _, check := range r.Checks {
				if !strings.HasPrefix(check.Title, "what officers decided") {
					continue
				}
				if says := strings.Join(check.Problems, "; "); says != c.says && (c.says == "" || !strings.Contains(says, c.says)) {
					t.Errorf("fsck says %q, want %q", says, c.says)
				}
				return
			}
			t.Error("proposals are not checked")
		})
	}
}
