package scenario

import (
	"os"
	"path/filepath"
	"testing"

	"sealkeeper/verifier"
)

// A backup made beside the running daemon brings everything back: the same person keeps the phone, the same keys sign, locks still act.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	first := a.Issue(newPhone(t, 1), "backup-1", false)
	_, sd := byFormat(first)
	backup := filepath.Join(a.Dir, "backup")
	a.Command(0, "backup", "--out", backup)
	a.Command(1, "backup", "--out", backup) // nothing is overwritten
	a.Stop()
	a.Command(1, "restore", "--from", backup)
	old := filepath.Join(a.Dir, "lost")
	if err := os.Rename(filepath.Join(a.Dir, "data"), old); err != nil {
		t.Fatal(err)
	}
	a.Command(0, "restore", "--from", backup)
	if err := os.Rename(filepath.Join(old, "pins"), filepath.Join(a.Dir, "data", "pins")); err != nil {
		t.Fatal(err)
	}
	// The daemon wrote after the backup (its drain at least), so the high-water record is ahead: the restored ledger is fenced.
	a.Command(0, "accept", "fence")
	a.Command(0, "init") // finds everything founded, and makes only a new TLS certificate
	a.start()
	if got := a.Change("telecom-a", lock, "backup-1", "telecom_lost", first.Device); !got.Changed {
		t.Error("the restored ledger does not know the phone")
	}
	a.Eventually(sd.Status, verifier.Suspended)
	a.Issue(newPhone(t, 1), "backup-2", false)
	a.Stop()
	a.Check()
}
