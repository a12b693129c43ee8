package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/durable"
	"sealkeeper/internal/strict"
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

// Copied is what is known of a copy of a ledger without opening it as one.
type Copied struct {
	Size     uint64
	Root     [32]byte
	Key      []byte // public half of the backup key; nil: none was made
	Officers []byte // their registry; nil: none are registered
}

// Look reads a copy, also one that an older program made, and changes nothing in it.
func Look(ctx context.Context, path string) (c Copied, err error) {
	s, err := viewSQLite(ctx, path, 1)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	size, root, err := s.Head(ctx)
	if err != nil {
		return c, err
	}
	c.Size, c.Root = size, root
	if v, rev, err := s.Get(ctx, TableMeta, []byte(backupKeyMeta)); err != nil {
		return c, err
	} else if rev != 0 {
		c.Key = v
	}
	if v, rev, err := s.Get(ctx, TableOfficers, registryKey); err == nil && rev != 0 { // a schema without officers has none
		c.Officers = v
	}
	return c, nil
}

const backupKeyMeta = "backup/key"

// BackupKey is the public half of the key that backups are made to; nil: there is none.
func (l *Ledger) BackupKey(ctx context.Context) ([]byte, error) {
	v, ok, err := l.Meta(ctx, backupKeyMeta)
	if !ok {
		return nil, err
	}
	return v, err
}

// PutBackupKey has backups be made to another key from now on. Those that were made before keep theirs.
func (l *Ledger) PutBackupKey(ctx context.Context, key []byte, x *Execution) error {
	return l.execute(ctx, x, Leaf{Kind: "meta", Name: backupKeyMeta, Digest: hashed(key)}, []Row{{Table: TableMeta, Key: []byte(backupKeyMeta), Value: key, If: Any}}, nil)
}

// Restored is beside a ledger that was put back from a backup: until that is accepted the ledger is fenced, whatever else is there.
type Restored struct {
	Backup string    `json:"backup"` // SHA-256 of the file, hexadecimal
	Made   time.Time `json:"made"`   // when it was
	Size   uint64    `json:"size"`
	Root   string    `json:"root"` // hexadecimal
	At     time.Time `json:"at"`   // when it was put back
}

// RestoredFile is where the mark of a restored ledger lies.
func RestoredFile(ledger string) string { return ledger + ".restored" }

// RestoringFile is where a restore says that it is under way: while it is there what is on the tokens is of that backup, and may be put again. It goes
// when the ledger is put, and at the latest before anything is signed, since tokens get keys from then on that no backup has.
func RestoringFile(ledger string) string { return ledger + ".restoring" }

// Begin puts the mark beside the ledger at path, before the ledger itself is there, and says after it that the restore is under way.
func (r Restored) Begin(path string) error {
	if err := durable.WriteFile(RestoredFile(path), encode(r), 0o600); err != nil {
		return err
	}
	return durable.WriteFile(RestoringFile(path), encode(r), 0o600)
}

// EndRestore says, durably, that no restore is under way. It may be called again.
func EndRestore(path string) error {
	switch err := os.Remove(RestoringFile(path)); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// ReadRestored reads the mark beside the ledger at path; nil: there is none.
func ReadRestored(path string) (*Restored, error) { return readRestored(RestoredFile(path)) }

// ReadRestoring reads which backup is being put back at path; nil: none is.
func ReadRestoring(path string) (*Restored, error) { return readRestored(RestoringFile(path)) }

func readRestored(file string) (*Restored, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := parseRestored(b)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", file, err)
	}
	return &r, nil
}

var hashForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func parseRestored(b []byte) (r Restored, err error) {
	if err = strict.JSON(b, strict.Limits{Bytes: 4096, Depth: 1}, &r); err == nil && (!hashForm.MatchString(r.Backup) || !hashForm.MatchString(r.Root) || r.Made.IsZero() || r.At.IsZero() || r.Size > math.MaxInt64) {
		err = errors.New("it does not say which backup was put back, and when")
	}
	return r, err
}
