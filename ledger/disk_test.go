package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealkeeper/internal/metrics"
)

func noReserve() *diskReserve { return &diskReserve{log: slog.New(slog.DiscardHandler)} }

// On a full disk (F3) locks are committed from the room kept for them, everything else is refused with a code and without a trace, nobody
// dies, and issuing goes on by itself once there is room. What was acknowledged is there after opening again.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("a small disk can't be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "ledger.db")
	s, err := OpenSQLite(t.Context(), path)
	must(t, err)
	disk := &diskReserve{path: path + ".reserve", bytes: 12 << 20, log: slog.New(slog.DiscardHandler)}
	must(t, disk.hold())
	c := newCommitter(s, metrics.New(), func([]*write, uint64, bool) {}, func(err error) { t.Errorf("a full disk ended the ledger: %v", err) }, disk)
	go c.run()
	ended := false
	end := func() {
		if !ended {
			ended = true
			c.end()
			must(t, s.Close())
		}
	}
	t.Cleanup(end)

	op := func(name string) Op {
		return Op{Leaf: []byte(name), Rows: []Row{{Table: TableMeta, Key: []byte(name), Value: make([]byte, 4096)}}}
	}
	acknowledged := 0
	commit := func(urgent bool) error {
		out, err := c.submit(context.Background(), op(fmt.Sprint("op ", acknowledged)), urgent, nil)
		if err == nil {
			if out.Seq != uint64(acknowledged) {
				t.Fatalf("op %d has sequence number %d: a refused one left a gap", acknowledged, out.Seq)
			}
			acknowledged++
		}
		return err
	}

	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	for err = nil; err == nil && acknowledged < 10000; {
		err = commit(false)
	}
	var refused *Refusal
	if !errors.As(err, &refused) || refused.Code() != "ledger.full" {
		t.Fatalf("after %d ops: %v, want ledger.full", acknowledged, err)
	}
	for i := range 500 {
		if err := commit(true); err != nil {
			t.Fatalf("lock %d: %v", i, err)
		}
	}
	if err := commit(false); !errors.As(err, &refused) {
		t.Fatalf("another issue: %v, want ledger.full", err)
	}

	must(t, os.Remove(ballast))
	deadline := time.Now().Add(10 * time.Second)
	for err = commit(false); err != nil && time.Now().Before(deadline); err = commit(false) {
		time.Sleep(20 * time.Millisecond)
	}
	must(t, err)
	if st, err := os.Stat(disk.path); err != nil || st.Size() != disk.bytes {
		t.Errorf("the room for locks is not kept again: %v %v", st, err)
	}

	// And when even the reserve is used up, locks are refused, and nobody dies.
	fill(t, ballast)
	for err = nil; err == nil && acknowledged < 100000; {
		err = commit(true)
	}
	if !errors.As(err, &refused) || refused.Code() != "ledger.full" {
		t.Fatalf("without any room: %v, want ledger.full", err)
	}

	end()
	must(t, os.Remove(ballast))
	s, err = OpenSQLite(t.Context(), path)
	must(t, err)
	defer s.Close()
	leaves, err := s.Journal(t.Context(), 0, acknowledged+1)
	must(t, err)
	if len(leaves) != acknowledged || !strings.HasSuffix(string(leaves[acknowledged-1]), fmt.Sprint(" ", acknowledged-1)) {
		t.Errorf("%d leaves after opening again, %d were acknowledged", len(leaves), acknowledged)
	}
	if _, _, err := s.Head(t.Context()); err != nil {
		t.Error(err)
	}
}

// fill leaves no block free.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// A daemon that starts on a full disk opens its ledger in the room kept for locks, and takes them.
func TestStartOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("a small disk can't be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	o := Options{Path: filepath.Join(dir, "ledger.db"), Reserve: 8 << 20, Fatal: func(err error) { t.Error(err) }}
	l, err := Open(t.Context(), o)
	must(t, err)
	must(t, l.Close())
	fill(t, filepath.Join(dir, "ballast"))
	l, err = Open(t.Context(), o)
	must(t, err)
	defer l.Close()
	if _, err := l.commit(t.Context(), Leaf{Kind: "meta"}, nil, true, nil); err != nil {
		t.Errorf("a lock: %v", err)
	}
	var refused *Refusal
	if _, err := l.commit(t.Context(), Leaf{Kind: "meta"}, nil, false, nil); !errors.As(err, &refused) || refused.Code() != "ledger.full" {
		t.Errorf("an issue: %v, want ledger.full", err)
	}
}

// A file system that can't keep room is no full one.
func TestReserveThatCannotBeKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	must(t, os.Mkdir(path+".reserve", 0o700)) // opening it for writing fails, and not for want of room
	l, err := Open(t.Context(), Options{Path: path, Reserve: 1 << 20, Fatal: func(err error) { t.Error(err) }})
	must(t, err)
	defer l.Close()
	if _, err := l.commit(t.Context(), Leaf{Kind: "meta"}, nil, false, nil); err != nil {
		t.Error(err)
	}
}
