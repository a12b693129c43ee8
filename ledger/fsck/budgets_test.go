package fsck_test

import (
	"context"
	"database/sql"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
)

// found are the problems of a ledger file with its budgets.
func found(t *testing.T, path string) string {
	t.Helper()
	r, err := fsck.Run(context.Background(), fsck.Options{Ledger: path})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if strings.HasPrefix(c.Title, "budgets") {
			return strings.Join(c.Problems, "\n")
		}
	}
	t.Fatal("budgets are not checked")
	return ""
}

// A ledger with three charges of a budget of three and a phase that began is clean; each thing that is changed in it is named.
func TestBudgetsAndLatches(t *testing.T) {
	tag := strings.Repeat("t", 16)
	end := time.Date(2025, 10, 28, 1, 0, 0, 0, time.UTC).Unix()
	key := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, uint64(end)), 3600)
	key = append(key, "clerks\x00"+tag...)
	charge := `{"v":1,"kind":"reserve","at":"2025-10-28T00:59:59Z","charges":[{"budget":"clerks","window":3600,"limit":3,"tag":"dHR0dHR0dHR0dHR0dHR0dA=="}]`
	count := ledger.Row{Table: ledger.TableCharges, Key: key, Most: 3}
	build := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "ledger.db")
		s, err := ledger.OpenSQLite(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		out, err := s.Commit(context.Background(), []ledger.Op{
			{Leaf: []byte(charge + `,"latch":"pilot"}`), Rows: []ledger.Row{count, {Table: ledger.TableLatches, Key: []byte("pilot"), Value: []byte(`{"at":"2025-10-28T00:59:59Z"}`)}}},
			{Leaf: []byte(charge + `}`), Rows: []ledger.Row{count}},
			{Leaf: []byte(charge + `}`), Rows: []ledger.Row{count}},
		})
		if err != nil || out[2].Conflict != nil {
			t.Fatal(out, err)
		}
		return path
	}
	if p := found(t, build(t)); p != "" {
		t.Fatalf("a good ledger: %s", p)
	}
	for name, c := range map[string]struct{ change, says string }{
		"a charge less":       {"UPDATE charges SET v=CAST('2' AS BLOB)", "2 are charged, the journal has 3"},
		"a charge more":       {"UPDATE charges SET v=CAST('4' AS BLOB)", "4 are charged, the journal has 3"},
		"a window forgotten":  {"DELETE FROM charges", "the 3 charges of the journal are nowhere else"},
		"another window":      {"UPDATE charges SET k=CAST(substr(k,1,12)||CAST('others' AS BLOB)||substr(k,19) AS BLOB)", "nowhere else"},
		"a mark of its own":   {"INSERT INTO meta VALUES(CAST('budgets/swept' AS BLOB), CAST('1761700000' AS BLOB), 1)", "windows are swept until 1761700000"},
		"a phase forgotten":   {"DELETE FROM latches", "phase pilot began, says the journal"},
		"a phase began early": {`UPDATE latches SET v=CAST('{"at":"2025-10-27T00:00:00Z"}' AS BLOB)`, "which that entry does not say"},
		"a phase of nobody":   {`UPDATE latches SET k=CAST('later' AS BLOB)`, "phase later began with entry 0"},
		"another entry's":     {`UPDATE latches SET rev=2`, "phase pilot began with entry 1"},
	} {
		t.Run(name, func(t *testing.T) {
			path := build(t)
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(c.change); err != nil {
				t.Fatal(err)
			}
			db.Close()
			if p := found(t, path); !strings.Contains(p, c.says) {
				t.Errorf("fsck says %q, want %q", p, c.says)
			}
		})
	}
	t.Run("overdrawn", func(t *testing.T) { // with its leaf and hashes, as a store that does not compare would do it
		path := build(t)
		s, err := ledger.OpenSQLite(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		more := count
		more.Most = 9
		if _, err := s.Commit(context.Background(), []ledger.Op{{Leaf: []byte(charge + `}`), Rows: []ledger.Row{more}}}); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if p := found(t, path); !strings.Contains(p, "entry 3 is charge 4 of 3 in budget clerks") {
			t.Errorf("fsck says %q", p)
		}
	})
}
