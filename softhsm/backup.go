package softhsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sealkeeper/internal/durable"
)

// manifestName lists the SHA-256 of every file of a backup as sha256sum(1) writes it: `sha256sum -c MANIFEST.sha256` checks it anywhere.
const manifestName = "MANIFEST.sha256"

const (
	maxFile  = 1 << 20 // an object of SoftHSM has some 2 KB
	maxFiles = 100_000
)

// Backup copies the tokens of dir to the new directory dest while no process starts, with a manifest that is written last: a backup without
// manifest is not whole. Without the PIN it is of no use to anyone, with it it is the keys: keep them apart.
func Backup(dir, dest string) error {
	if _, err := os.Lstat(dest); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists already: name a new directory for the backup", dest)
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := Repair(dir); err != nil {
		return err
	}
	files, err := read(dir, tokensName, savedName)
	if err != nil {
		return err
	}
	// A worker that makes a key holds no lock: what was read is consistent if it still is the same now.
	again, err := read(dir, tokensName, savedName)
	if err != nil {
		return err
	}
	if !maps.EqualFunc(files, again, bytes.Equal) {
		return fmt.Errorf("the token in %s changed during the backup: try again when no key is being made", dir)
	}
	if err := os.Mkdir(dest, 0o700); err != nil {
		return err
	}
	if err := write(dest, files); err != nil {
		return err
	}
	var manifest bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&manifest, "%x  %s\n", sha256.Sum256(files[name]), name)
	}
	if err := durable.WriteFile(filepath.Join(dest, manifestName), manifest.Bytes(), 0o600); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(filepath.Clean(dest)))
}

// Restore makes dir, which must not exist or be empty, from a backup. Nothing appears at dir before every file was compared with the manifest and
// is durable.
func Restore(src, dir string) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty: nothing is overwritten; move it away first", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, err := verify(src)
	if err != nil {
		return err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".restoring-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(part)
	if err := prepare(part, dir); err != nil {
		return err
	}
	if err := write(part, files); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // only if it is empty
		return err
	}
	if err := os.Rename(part, dir); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// verify reads a backup and compares it with its manifest: nothing missing, nothing changed, nothing more.
func verify(src string) (map[string][]byte, error) {
	path := filepath.Join(src, manifestName)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s is not a whole backup: %w", src, err)
	}
	if info.Size() > maxFiles*256 {
		return nil, fmt.Errorf("%s is too large for a manifest", path)
	}
	manifest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	files, err := read(src, ".")
	if err != nil {
		return nil, err
	}
	delete(files, manifestName)
	if err := compare(src, manifest, files); err != nil {
		return nil, err
	}
	return files, nil
}

// compare holds files to the manifest of backup src.
func compare(src string, manifest []byte, files map[string][]byte) error {
	rest := maps.Clone(files)
	for line := range bytes.Lines(manifest) {
		text, whole := strings.CutSuffix(string(line), "\n")
		sum, name, ok := strings.Cut(text, "  ")
		if !ok || !whole || !(strings.HasPrefix(name, tokensName+"/") || strings.HasPrefix(name, savedName+"/")) {
			return fmt.Errorf("backup %s: %.100q is not a line of a manifest", src, line)
		}
		content, ok := rest[name]
		if !ok {
			return fmt.Errorf("backup %s: %.100q is missing or listed twice: use another backup", src, name)
		}
		if have := sha256.Sum256(content); sum != hex.EncodeToString(have[:]) {
			return fmt.Errorf("backup %s: %s is not what the manifest says: use another backup", src, name)
		}
		delete(rest, name)
	}
	if len(rest) > 0 || len(files) == 0 {
		return fmt.Errorf("backup %s: %d of its %d files are not in the manifest: use another backup", src, len(rest), len(files))
	}
	return nil
}

// read returns the content of all files below the given directories of root, by slash-separated path relative to root.
func read(root string, below ...string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, b := range below {
		err := filepath.WalkDir(filepath.Join(root, b), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			if !info.Mode().IsRegular() || info.Size() > maxFile || len(files) >= maxFiles {
				return fmt.Errorf("%s does not belong into a token directory (not a plain file, larger than %d bytes, or one of too many)", path, maxFile)
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			files[filepath.ToSlash(name)], err = os.ReadFile(path)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// write is the reverse of read, into a directory of ours, and durable.
func write(root string, files map[string][]byte) error {
	root = filepath.Clean(root)
	dirs := map[string]bool{root: true}
	for name, content := range files {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("%q leads out of the directory", name)
		}
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		for d := filepath.Dir(path); !dirs[d]; d = filepath.Dir(d) {
			dirs[d] = true
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
		if err := durable.SyncDir(path); err != nil {
			return err
		}
	}
	for d := range dirs {
		if err := durable.SyncDir(d); err != nil {
			return err
		}
	}
	return nil
}
