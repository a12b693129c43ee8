// Package softhsm makes, guards, repairs, backs up and restores the embedded SoftHSM token, in one directory of its own:
//
//	dir/               0700, ours
//	  softhsm2.conf    written by Prepare
//	  tokens/          SoftHSM's object store: one directory a token, in it token.object and one file an object
//	  lock             held (flock) during every start, backup and initialisation
//	  saved/           the last token.object of each token that a login worked with, named by its SHA-256
//
// The lock and the saved copies exist for one reason. C_Login rewrites token.object by truncating it first (SoftHSM 2.6.1, ObjectFile::store):
// two processes that start at once see each other's empty file, and a process killed in between leaves it empty for ever, with which
// every key of the token is unusable. So starts take turns, and a token.object that is empty, short or damaged is replaced by the copy.
//
// The module itself is never loaded by the daemon: Init runs in a child process (RunInit, InitMain), the rest here only handles files.
package softhsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sealkeeper/internal/durable"
)

// FindModule returns the path of libsofthsm2.so: the configured one, or the one of the distribution's package when configured is empty.
func FindModule(configured string) (string, error) {
	if configured != "" {
		if info, err := os.Stat(configured); err != nil || !info.Mode().IsRegular() {
			return "", fmt.Errorf("the configured PKCS#11 module %s is not there: install it, or correct or remove the setting", configured)
		}
		return configured, nil
	}
	for _, p := range modulePaths {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("SoftHSM's PKCS#11 module was not found at %s: install it (Debian and Ubuntu: apt-get install libsofthsm2; Fedora: "+
		"dnf install softhsm), or name the module in the configuration", strings.Join(modulePaths, ", "))
}

var modulePaths = []string{
	"/usr/lib/softhsm/libsofthsm2.so", // Debian, Ubuntu: a link to the next
	"/usr/lib/" + triplet() + "/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so", // Fedora, RHEL: a link to the next
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/lib64/libsofthsm2.so",
	"/usr/lib/libsofthsm2.so", // Arch
	"/usr/local/lib/softhsm/libsofthsm2.so",
}

// triplet is Debian's multiarch directory of this machine.
func triplet() string {
	t, ok := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu", "arm": "arm-linux-gnueabihf", "386": "i386-linux-gnu",
		"riscv64": "riscv64-linux-gnu", "ppc64le": "powerpc64le-linux-gnu", "s390x": "s390x-linux-gnu"}[runtime.GOARCH]
	if !ok {
		return runtime.GOARCH + "-linux-gnu"
	}
	return t
}

const (
	confName   = "softhsm2.conf"
	tokensName = "tokens"
	savedName  = "saved"
	lockName   = "lock"
	objectName = "token.object"
)

// Prepare makes dir with its configuration, or checks the one that is there.
func Prepare(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("token directory: %w", err)
	}
	return prepare(dir, dir)
}

// prepare writes into dir what a token directory that will be found at final needs.
func prepare(dir, final string) error {
	if strings.ContainsAny(final, "#=\n\r\t\"") || strings.TrimSpace(final) != final {
		return fmt.Errorf("SoftHSM's configuration can't hold the path %q: choose one without #, =, quotes, tabs and spaces at the ends", final)
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	for _, name := range []string{tokensName, savedName} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("token directory: %w", err)
		}
		if err := checkDir(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	conf := []byte("# Written by sealkeeper. Changes are overwritten.\n" +
		"directories.tokendir = " + filepath.Join(final, tokensName) + "\n" +
		"objectstore.backend = file\n" +
		"log.level = ERROR\n" +
		"slots.removable = false\n")
	path := filepath.Join(dir, confName)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, conf) {
		return nil
	}
	return durable.WriteFile(path, conf, 0o600)
}

// checkDir refuses a directory that somebody else could read or has made.
func checkDir(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("token directory: %w", err)
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("token directory %s is a symbolic link: name the directory itself", dir)
	case !info.IsDir():
		return fmt.Errorf("token directory %s is not a directory", dir)
	case info.Mode().Perm() != 0o700:
		return fmt.Errorf("token directory %s has mode %04o and must have 0700: find out who could read it, then chmod 0700 %s", dir, info.Mode().Perm(), dir)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("token directory %s belongs to user %d and this process runs as %d: run as its owner, or chown it", dir, s.Uid, os.Geteuid())
	}
	return nil
}

// Env is the environment that a process which loads the module on dir needs.
//
// SoftHSM builds its key anew for each signature, of hundreds of small pieces of memory. glibc keeps seven freed ones of a size at hand for the
// next, and with more of them a signature takes a tenth less; other C libraries read other names.
func Env(dir string) []string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return []string{"SOFTHSM2_CONF=" + filepath.Join(dir, confName), "GLIBC_TUNABLES=glibc.malloc.tcache_count=64"}
}

// Made reports whether dir holds a token that was initialised to the end.
func Made(dir string) (bool, error) {
	if err := checkDir(dir); err != nil {
		return false, err
	}
	entries, err := os.ReadDir(filepath.Join(dir, savedName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !strings.HasPrefix(e.Name(), ".") }), nil // not a cut copy
}

// Guard returns the hook that every process which loads the module on dir runs C_Initialize to C_Login in (worker.Options): lock, Repair,
// start, Save, unlock. The lock ends with the process at the latest.
func Guard(dir string) func(start func() error) error {
	return func(start func() error) error {
		unlock, err := lock(dir)
		if err != nil {
			return err
		}
		defer unlock()
		done, err := Repair(dir)
		for _, what := range done {
			slog.Warn("SoftHSM token repaired", "did", what)
		}
		if err != nil {
			return err
		}
		if err := start(); err != nil {
			return err
		}
		// The token is well and logged in. That no new copy could be made (disk full) must not stop it: the old copy is still good.
		if err := Save(dir); err != nil {
			slog.Warn("SoftHSM token not copied; free disk space or correct the directory", "error", err)
		}
		return nil
	}
}

func lock(dir string) (unlock func(), err error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("token directory: %w", err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil // closing is unlocking
}

// Repair puts the saved copy in the place of every token.object that is missing, empty, short or damaged, and says what it did. The caller
// holds the lock.
func Repair(dir string) (done []string, err error) {
	names, err := tokens(dir)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range names {
		path := filepath.Join(dir, tokensName, name, objectName)
		good, from, e := saved(dir, name)
		if e != nil {
			errs = append(errs, e)
			continue
		}
		live, err := os.ReadFile(path)
		if err == nil {
			var user bool
			if user, err = parse(live); err == nil && !user && good != nil {
				if had, _ := parse(good); had {
					err = errDamaged // cut before the user PIN, which comes last
				}
			}
		}
		if err == nil {
			continue
		}
		if good == nil {
			errs = append(errs, fmt.Errorf("%s is damaged (%w) and there is no saved copy of it: restore the backup of %s", path, err, dir))
			continue
		}
		if e := durable.WriteFile(path, good, 0o600); e != nil {
			errs = append(errs, e)
			continue
		}
		done = append(done, fmt.Sprintf("%s was damaged (%v) and is restored from %s", path, err, from))
	}
	return done, errors.Join(errs...)
}

// Save keeps a copy of each token.object that parses, named by its SHA-256 so that copy and sum can't part. The caller holds the lock and has
// seen the token work.
func Save(dir string) error {
	names, err := tokens(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, save(dir, name))
	}
	return errors.Join(errs...)
}

func save(dir, name string) error {
	live, err := os.ReadFile(filepath.Join(dir, tokensName, name, objectName))
	if err != nil {
		return err
	}
	if _, err := parse(live); err != nil {
		return fmt.Errorf("%s of token %s: %w", objectName, name, err)
	}
	sum := sha256.Sum256(live)
	path := filepath.Join(dir, savedName, name+"."+hex.EncodeToString(sum[:]))
	if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, live) {
		if err := durable.WriteFile(path, live, 0o600); err != nil {
			return err
		}
	}
	old, err := filepath.Glob(filepath.Join(dir, savedName, name+".*"))
	if err != nil {
		return err
	}
	for _, p := range old { // only after the new copy is durable
		if p != path {
			err = errors.Join(err, os.Remove(p))
		}
	}
	return err
}

// saved returns the copy of a token's token.object and its path, nil if there is none whose SHA-256 is the one in its name.
func saved(dir, name string) ([]byte, string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, savedName, name+".*"))
	if err != nil {
		return nil, "", err
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, "", err
		}
		sum := sha256.Sum256(b)
		if _, err := parse(b); err == nil && strings.HasSuffix(p, "."+hex.EncodeToString(sum[:])) {
			return b, p, nil
		}
	}
	return nil, "", nil
}

// tokens lists the names of the directories in tokens/, refusing what could lead elsewhere.
func tokens(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, tokensName))
	if err != nil {
		return nil, fmt.Errorf("token directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if strings.ContainsAny(e.Name(), `*?[\`) {
			return nil, fmt.Errorf("%s is not a name that SoftHSM gives: remove it", filepath.Join(dir, tokensName, e.Name()))
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// Vendor attributes of token.object (SoftHSM 2.6.1, OSAttributes.h).
const (
	osTokenLabel  = 0x80005349
	osTokenSerial = 0x8000534a
	osTokenFlags  = 0x8000534b
	osSOPIN       = 0x8000534c
	osUserPIN     = 0x8000534d
)

var errDamaged = errors.New("not a whole token.object")

// parse reads a token.object (SoftHSM 2.6.1, ObjectFile.cpp: a generation number, then type, kind and value of each attribute, all 64-bit
// big-endian) and reports whether the user PIN is set. A file that SoftHSM was writing when it was killed is empty, or ends early.
func parse(b []byte) (user bool, err error) {
	user, _, err = describe(b)
	return user, err
}

func describe(b []byte) (user bool, serial string, err error) {
	next := func() (v uint64) {
		if len(b) < 8 {
			b, err = nil, errDamaged
			return 0
		}
		v, b = binary.BigEndian.Uint64(b), b[8:]
		return v
	}
	seen := map[uint64]bool{}
	for next(); err == nil && len(b) > 0; {
		typ, kind := next(), next()
		switch kind {
		case 2: // CK_ULONG
			next()
		case 3: // bytes
			n := next()
			if n > uint64(len(b)) {
				return false, "", errDamaged
			}
			if typ == osTokenSerial {
				serial = strings.TrimRight(string(b[:n]), " \x00")
			}
			b = b[n:]
		default:
			return false, "", errDamaged
		}
		seen[typ] = true
	}
	if err != nil {
		return false, "", err
	}
	for _, typ := range []uint64{osTokenLabel, osTokenSerial, osTokenFlags, osSOPIN} {
		if !seen[typ] {
			return false, "", errDamaged
		}
	}
	return seen[osUserPIN], serial, nil
}

// Serial is the number of the one token in dir, which was made to the end.
func Serial(dir string) (string, error) {
	names, err := tokens(dir)
	if err != nil {
		return "", err
	}
	if len(names) != 1 {
		return "", fmt.Errorf("%s holds %d tokens, and not one", dir, len(names))
	}
	b, err := os.ReadFile(filepath.Join(dir, tokensName, names[0], objectName))
	if err != nil {
		return "", err
	}
	_, serial, err := describe(b)
	return serial, err
}

// Sync makes everything in tokens/ durable. SoftHSM itself does not fsync, so a key that was just made could vanish with the power after the
// ledger has registered it.
func Sync(dir string) error {
	return filepath.WalkDir(filepath.Join(dir, tokensName), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() && !e.Type().IsRegular() {
			return err
		}
		return durable.SyncDir(path) // open, fsync, close: the same for a file
	})
}
