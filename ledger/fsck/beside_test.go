package fsck_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
)

// Beside a daemon that settles and publishes, nothing published is ahead of the ledger: what is outside is read before the ledger. The
// description of the list is a pipe here, so that a version is settled and published exactly while fsck reads.
func TestAListIsPublishedWhileFsckReads(t *testing.T) {
	dir := t.TempDir()
	path, description := filepath.Join(dir, "ledger.db"), filepath.Join(dir, "crl", "client-ca.json")
	s, err := ledger.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	settle := func(number uint64) error {
		_, err := s.Commit(t.Context(), []ledger.Op{{
			Leaf: []byte(`{"v":1,"kind":"settle","at":"2026-11-30T12:00:00Z"}`),
			Rows: []ledger.Row{{Table: ledger.TableCRLs, Key: []byte("client-ca"), If: ledger.Any, Value: encoded(t, ledger.CRLRecord{Name: "client-ca", Number: number})}},
		}})
		return err
	}
	if err := settle(1); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(description), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(description, 0o600); err != nil {
		t.Fatal(err)
	}
	published := make(chan error, 1)
	go func() {
		w, err := os.OpenFile(description, os.O_WRONLY, 0) // fsck has opened it
		if err == nil {
			if err = settle(2); err == nil {
				_, err = w.WriteString(`{"id":"client-ca","version":2,"file":"client-ca.crl"}`)
			}
			w.Close()
		}
		published <- err
	}()
	r, err := fsck.Run(t.Context(), fsck.Options{Ledger: path, Publish: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if says := strings.Join(c.Problems, "; "); strings.Contains(says, "ahead of the ledger") {
			t.Error(says)
		}
	}
}
