package fsck_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
	"sealkeeper/policy"
)

// A ledger with one decision that was carried out and two denials is clean; each thing that is changed in it is named.
func TestDecisions(t *testing.T) {
	ctx := context.Background()
	by := policy.Hash{1}
	at := time.Date(2025, 10, 28, 0, 59, 59, 0, time.UTC)
	decided := func(n byte, result, code string) ledger.Row {
		v, err := json.Marshal(ledger.DecisionRecord{At: at, Client: "desk", Operation: policy.OpLock, Result: result, Code: code, Policy: by, PolicyVersion: 1, Salt: [16]byte{n}}, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		key := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli())<<16)
		return ledger.Row{Table: ledger.TableDecisions, Key: append(key, n, 0, 0, 0, 0, 0, 0, 0), Value: v}
	}
	leaf := func(kind, more string) []byte {
		return fmt.Appendf(nil, `{"v":1,"kind":%q,"at":"2025-10-28T00:59:59Z"%s}`, kind, more)
	}
	digest := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	ops := func() []ledger.Op {
		yes, no, never := decided(1, "allowed", ""), decided(2, "denied", "lock.reason"), decided(3, "denied", "lock.reason")
		sum, first, second := sha256.Sum256(yes.Value), sha256.Sum256(no.Value), sha256.Sum256(never.Value)
		all := sha256.Sum256(append(first[:], second[:]...))
		return []ledger.Op{
			{Leaf: leaf("policy", fmt.Sprintf(`,"policy":%q,"policy_version":1`, by))},
			{Leaf: leaf("change", fmt.Sprintf(`,"client":"desk","policy":%q,"decision":%q`, by, digest(sum[:]))), Rows: []ledger.Row{yes}},
			{Leaf: leaf("denials", fmt.Sprintf(`,"count":2,"decision":%q`, digest(all[:]))), Rows: []ledger.Row{no, never}},
		}
	}
	build := func(t *testing.T, ops []ledger.Op) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "ledger.db")
		s, err := ledger.OpenSQLite(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Commit(ctx, ops); err != nil {
			t.Fatal(err)
		}
		return path
	}
	problems := func(t *testing.T, path string) string {
		t.Helper()
		r, err := fsck.Run(ctx, fsck.Options{Ledger: path})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Checks {
			if strings.HasPrefix(c.Title, "what was allowed") {
				return strings.Join(c.Problems, "\n")
			}
		}
		t.Fatal("decisions are not checked")
		return ""
	}
	if p := problems(t, build(t, ops())); p != "" {
		t.Fatalf("a good ledger: %s", p)
	}
	of := func(n byte) string { return fmt.Sprintf("hex(substr(k,9,1))='%02X'", n) }
	for name, c := range map[string]struct{ change, says string }{
		"what was allowed was changed":  {"UPDATE decisions SET v=CAST(replace(CAST(v AS TEXT),'desk','disk') AS BLOB) WHERE " + of(1), "was changed: entry 1 has another hash"},
		"what was allowed is missing":   {"DELETE FROM decisions WHERE " + of(1), "the decision of entry 1 (change) is missing"},
		"a denial was changed":          {"UPDATE decisions SET v=CAST(replace(CAST(v AS TEXT),'lock.reason','lock.other') AS BLOB) WHERE " + of(2), "denials of entry 2 were changed"},
		"a denial is missing":           {"DELETE FROM decisions WHERE " + of(3), "entry 2 has 2 denials, not all of them are kept"},
		"denials are missing":           {"DELETE FROM decisions WHERE rev=3", "entry 2 has 2 denials, not all of them are kept"},
		"an allowed one among denials":  {"UPDATE decisions SET rev=3 WHERE " + of(1), "is among denials of entry 2"},
		"a denial that was carried out": {"UPDATE decisions SET rev=2 WHERE " + of(2), "entry 1 has another one already"},
		"a decision of nobody":          {"UPDATE decisions SET rev=1 WHERE " + of(1), "belongs to entry 0, which has no hash of one"},
	} {
		t.Run(name, func(t *testing.T) {
			path := build(t, ops())
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			if r, err := db.Exec(c.change); err != nil {
				t.Fatal(err)
			} else if n, _ := r.RowsAffected(); n == 0 {
				t.Fatal("nothing was changed")
			}
			db.Close()
			if p := problems(t, path); !strings.Contains(p, c.says) {
				t.Errorf("fsck says %q, want %q", p, c.says)
			}
		})
	}
	t.Run("a bundle that was never put to use", func(t *testing.T) {
		p := problems(t, build(t, ops()[1:]))
		if !strings.Contains(p, "entry 0 was made by a bundle that was never put to use") || !strings.Contains(p, "which was never put to use") {
			t.Errorf("fsck says %q", p)
		}
	})
	t.Run("forgotten", func(t *testing.T) {
		path := build(t, ops())
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec("DELETE FROM decisions; INSERT INTO meta VALUES(CAST('decisions/swept' AS BLOB), CAST('" + fmt.Sprint(at.Add(time.Second).UnixMilli()) + "' AS BLOB), 1)"); err != nil {
			t.Fatal(err)
		}
		if p := problems(t, path); p != "" {
			t.Errorf("what is older than decisions are kept is missed: %s", p)
		}
	})
}
