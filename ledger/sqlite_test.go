package ledger_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

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

// The names of a new ledger's files are durable when it is open. What SQLite does itself is fdatasync of their directory, and that waits for no more than
// what the directory has to have to be read: ext4 doesn't count a new name among it.
func TestSQLiteNamesAreDurable(t *testing.T) {
	const place = "SEAL_TEST_LEDGER"
	if path := os.Getenv(place); path != "" {
		s, err := ledger.OpenSQLite(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := exec.Command("strace", "-f", "-y", "-o", filepath.Join(dir, "calls"), "-e", "trace=open,openat,fsync", self, "-test.run=^"+t.Name()+"$")
	c.Env = append(os.Environ(), place+"="+filepath.Join(dir, "ledger.db"))
	if says, err := c.CombinedOutput(); err != nil && !strings.Contains(string(says), "FAIL") {
		t.Skipf("strace: %v, %s", err, says)
	} else if err != nil {
		t.Fatalf("%s", says)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, made := strings.Cut(string(calls), "ledger.db-wal")
	named := regexp.MustCompile(`(?m)^(\d+) +fsync\(\d+<` + regexp.QuoteMeta(dir) + `>(\) += 0$| <unfinished)`).FindStringSubmatch(after)
	if named != nil && strings.HasPrefix(named[2], " <") && !regexp.MustCompile(`(?m)^`+named[1]+` +<\.\.\. fsync resumed>\) += 0$`).MatchString(after) {
		named = nil
	}
	if !made || named == nil {
		t.Errorf("no fsync of the directory after the log was made:\n%s", calls)
	}
}

// A read after Close finds nothing open, and opens nothing: another process may have the file by then.
func TestSQLiteStaysClosed(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "ledger.db")
	s, err := ledger.OpenSQLite(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for err := error(nil); err == nil; {
				_, _, err = s.Get(ctx, ledger.TableMeta, []byte("k"))
			}
		})
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
	if _, err := s.Scan(ctx, ledger.TableMeta, nil, 1); !errors.Is(err, ledger.ErrStopped) {
		t.Errorf("read after Close: %v", err)
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	for _, fd := range open {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, path) {
			t.Errorf("%s is open", to)
		}
	}
}

// An entry that somebody took out of the journal is missed, and the next one is not taken for it.
func TestSQLiteWithoutAnEntry(t *testing.T) {
	ctx := context.Background()
	for level, n := range []int64{2, 1, 0} {
		path := filepath.Join(t.TempDir(), "ledger.db")
		s, err := ledger.OpenSQLite(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var batch []ledger.Op
		for n := range 8 {
			batch = append(batch, ledger.Op{Leaf: fmt.Appendf(nil, `{"v":1,"kind":"%d"}`, n)})
		}
		if _, err := s.Commit(ctx, batch); err != nil {
			t.Fatal(err)
		}
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec("DELETE FROM journal WHERE seq=2"); err != nil {
			t.Fatal(err)
		}
		if h, err := s.ReadHashes([]int64{tlog.StoredHashIndex(level, n)}); err == nil {
			t.Errorf("hash %d of level %d is %s without one of its entries", n, level, h)
		}
	}
}

// Older programs wrote a row for every inner hash. A log that one of them began goes on, and proves what it proved.
func TestSQLiteLogOfAnOlderProgram(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "ledger.db")
	var all []tlog.Hash // as an outsider computes them
	read := tlog.HashReaderFunc(func(ids []int64) (out []tlog.Hash, _ error) {
		for _, id := range ids {
			out = append(out, all[id])
		}
		return out, nil
	})
	size := 0
	more := func(n int) ledger.Store {
		s, err := ledger.OpenSQLite(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		var batch []ledger.Op
		for range n {
			leaf := fmt.Appendf(nil, `{"v":1,"kind":"%d"}`, size)
			hashes, err := tlog.StoredHashes(int64(size), leaf, read)
			if err != nil {
				t.Fatal(err)
			}
			all, batch, size = append(all, hashes...), append(batch, ledger.Op{Leaf: leaf}), size+1
		}
		if _, err := s.Commit(ctx, batch); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := more(700).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for id, h := range all {
		if level, _ := tlog.SplitStoredHashIndex(int64(id)); level > 0 {
			if _, err := db.Exec("INSERT INTO hashes(id,hash) VALUES(?,?) ON CONFLICT(id) DO NOTHING", id, h[:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := db.Exec("PRAGMA user_version=8"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	s := more(700)
	defer s.Close()
	for id, want := range all {
		if got, err := s.ReadHashes([]int64{int64(id)}); err != nil || got[0] != want {
			t.Fatalf("hash %d is %v (%v), want %s", id, got, err, want)
		}
	}
	want, err := tlog.TreeHash(int64(size), read)
	if err != nil {
		t.Fatal(err)
	}
	if n, root, err := s.Head(ctx); err != nil || n != uint64(size) || root != want {
		t.Errorf("the head is %d, %s (%v), want %d, %s", n, root, err, size, want)
	}
}
