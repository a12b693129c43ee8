package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/durable"
)

// Copy writes the ledger at path, as of one instant, into the new file dest, also while a daemon goes on writing to it. dest appears whole and
// durable, or not at all.
func Copy(ctx context.Context, path, dest string) (err error) {
	if _, err := os.Lstat(dest); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists already: nothing is overwritten", dest)
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return err
	}
	db, err := sql.Open("sqlite", dsn(path, "ro")+"&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer db.Close()
	part := dest + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer os.Remove(part)                                                 // nothing is left of it after a success
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // SQLite would make it for everyone to read, as long as it writes
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", part); err != nil {
		return fmt.Errorf("copying the ledger %s: %w", path, err)
	}
	err = f.Sync()
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("copying the ledger to %s: %w", dest, err)
	}
	crashpoint.Here("ledger.copy.written")
	if err := os.Rename(part, dest); err != nil {
		return err
	}
	crashpoint.Here("ledger.copy.renamed")
	return durable.SyncDir(filepath.Dir(dest))
}
