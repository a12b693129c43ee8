package ledger

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
	driver "modernc.org/sqlite"
)

// ErrFull: the ledger's disk has no room. Nothing of the batch was written and the store lives; it is the only error of the disk after
// which that is known.
var ErrFull = errors.New("the ledger's disk is full")

// diskReserve is room on the ledger's disk that belongs to the lock lane (I8): a file of allocated blocks beside the ledger. When a commit
// finds the disk full, the file is cut, and what it held is for urgent ops alone. Others are refused until the file could be allocated again,
// which is the proof that there is room. Only the committer uses it.
type diskReserve struct {
	path  string
	bytes int64 // 0: there is none
	log   *slog.Logger
	spent bool      // the disk was full: only urgent ops until hold succeeds
	next  time.Time // not before that hold is tried again
}

// hold allocates the reserve. Without the blocks there is no file: half a reserve would only hide what is missing.
func (d *diskReserve) hold() error {
	if d.bytes == 0 {
		return nil
	}
	f, err := os.OpenFile(d.path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("reserving room for locks: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(min(d.bytes, sizeOf(f))); err != nil {
		return fmt.Errorf("reserving room for locks: %w", err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, d.bytes); err != nil {
		return errors.Join(fmt.Errorf("reserving %d MiB for locks on the ledger's disk: %w", d.bytes>>20, err), f.Truncate(0))
	}
	return f.Sync()
}

// noRoom tells a full disk from everything else. SQLite calls it an error of I/O when its index of the log finds no room.
func noRoom(err error) bool {
	const sqliteIOErr = 10
	var e *driver.Error
	return full(err) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.As(err, &e) && e.Code()&0xff == sqliteIOErr
}

func sizeOf(f *os.File) int64 {
	if st, err := f.Stat(); err == nil {
		return st.Size()
	}
	return 0
}

// release gives the room to the ledger.
func (d *diskReserve) release() {
	d.log.Error("the ledger's disk is full: issuing is refused, locks go on in the room reserved for them; make room on the disk", "reserve", d.path)
	d.spent, d.next = true, time.Now().Add(fullAgain)
	if d.bytes == 0 {
		return
	}
	if err := os.Truncate(d.path, 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.log.Error("the room reserved for locks can't be released", "reserve", d.path, "error", err)
	}
}

const fullAgain = time.Second // between two tries to get the reserve back

// refuses says whether ops that are not urgent are turned away. From time to time it looks whether there is room again.
func (d *diskReserve) refuses() bool {
	if !d.spent {
		return false
	}
	if now := time.Now(); !now.Before(d.next) {
		d.next = now.Add(fullAgain)
		if d.hold() == nil {
			d.spent = false
			d.log.Info("the ledger's disk has room again")
		}
	}
	return d.spent
}
