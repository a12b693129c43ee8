package scenario

import (
	"os"
	"path/filepath"
	"testing"

	"sealkeeper/verifier"
)

// A backup made beside the running daemon brings everything back: the same person keeps the phone, the same keys sign, locks still act.
func TestBackupAndRestore(t *testing.T) {
	a := install(t).start()
	first := a.issue(newPhone(t, 1), "backup-1", false)
	_, sd := byFormat(first)
	backup := filepath.Join(a.dir, "backup")
	a.command(0, "backup", "--out", backup)
	a.command(1, "backup", "--out", backup) // nothing is overwritten
	a.stop()
	a.command(1, "restore", "--from", backup)
	old := filepath.Join(a.dir, "lost")
	if err := os.Rename(filepath.Join(a.dir, "data"), old); err != nil {
		t.Fatal(err)
	}
	a.command(0, "restore", "--from", backup)
	if err := os.Rename(filepath.Join(old, "pins"), filepath.Join(a.dir, "data", "pins")); err != nil {
		t.Fatal(err)
	}
	// The daemon wrote after the backup (its drain at least), so the high-water record is ahead: the restored ledger is fenced.
	a.command(0, "accept", "fence")
	a.command(0, "init") // finds everything founded, and makes only a new TLS certificate
	a.start()
	if got := a.change("telecom-a", lock, "backup-1", "telecom_lost", first.Device); !got.Changed {
		t.Error("the restored ledger does not know the phone")
	}
	a.eventually(sd.Status, verifier.Suspended)
	a.issue(newPhone(t, 1), "backup-2", false)
	a.stop()
	a.check()
}
