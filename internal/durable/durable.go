// Package durable replaces files so that after a crash there is the old content or the new one, never a mixture and never nothing.
package durable

import (
	"fmt"
	"os"
	"path/filepath"

	"sealkeeper/internal/crashpoint"
)

// WriteFile writes data to path and returns once it would survive a power cut. The order of system calls is
//
//	openat(dir/.name.tmp-N, O_CREAT|O_EXCL) write fsync close renameat(→ name) openat(dir) fsync(dir) close
//
// BUG(durable): after a failed fsync the state of the page cache is unknown. The caller must treat an error as "I no longer know"
// and not read the file back in this process.
func WriteFile(path string, data []byte, perm os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if err = f.Chmod(perm); err != nil {
		return err
	}
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	crashpoint.Here("durable.written")
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	crashpoint.Here("durable.renamed")
	return SyncDir(dir)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
