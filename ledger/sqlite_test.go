package ledger_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sealkeeper/ledger"
	"sealkeeper/ledger/storetest"
)

func TestSQLite(t *testing.T) {
	storetest.Run(t, func(t testing.TB, place string) ledger.Store {
		s, err := ledger.OpenSQLite(context.Background(), filepath.Join(place, "ledger.db"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestSQLiteHasOneProcess(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "the ledger?#%.db") // nothing in a name is special
	s, err := ledger.OpenSQLite(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.OpenSQLite(ctx, path); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second one opened it: %v", err)
	}
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", path+suffix, info.Mode().Perm())
		}
	}
	// whoever audits sees one instant, and stops nobody
	a, err := ledger.OpenAudit(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(ctx, []ledger.Op{{Leaf: []byte(`{"v":1,"kind":"x","at":"2026-11-20T12:00:00Z"}`)}}); err != nil {
		t.Error(err)
	}
	if size, _, err := a.Head(ctx); err != nil || size != 0 {
		t.Errorf("a snapshot of the empty journal has %d entries, %v", size, err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = ledger.OpenSQLite(ctx, path); err != nil {
		t.Fatalf("the lock outlived its process: %v", err)
	}
	if size, _, err := s.Head(ctx); err != nil || size != 1 {
		t.Errorf("%d entries, %v", size, err)
	}
	s.Close()
}

func TestSQLiteOfANewerProgram(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "ledger.db")
	s, err := ledger.OpenSQLite(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA user_version=99"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := ledger.OpenSQLite(ctx, path); err == nil || !strings.Contains(err.Error(), "a newer program wrote it") {
		t.Errorf("opened: %v", err)
	}
	if _, err := ledger.OpenAudit(ctx, path); err == nil {
		t.Error("audited a schema that is not known")
	}
}
