package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"

	"sealkeeper/internal/config"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/durable"
	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
	"sealkeeper/softhsm"
)

// Installation is where what is backed up lies.
type Installation struct {
	Name      string
	Data      string // directory for what is under way; as well kept as the ledger
	Ledger    string
	HighWater string
	Publish   string
	TLS       string
	Tokens    []Token // embedded ones; an HSM of one's own is backed up by its own means
}

// Token is an embedded one.
type Token struct {
	Name, Dir string
	PINFile   string // empty: the PIN is not in a file of ours
}

// Of is the installation that a configuration describes.
func Of(c *config.Config) Installation {
	i := Installation{Name: c.Name, Data: c.Data, Ledger: c.Ledger(), HighWater: c.HighWater, Publish: c.PublishDir(), TLS: c.TLSDir()}
	if c.Embedded {
		for _, t := range []config.Token{c.Online, c.IACA} {
			file := t.PINFile
			if t.Lent {
				file = ""
			}
			i.Tokens = append(i.Tokens, Token{t.Name, t.Dir, file})
		}
	}
	return i
}

// alone keeps two backups or restores of one installation from being under way at once, and takes away what one left that was killed.
func (i Installation) alone() (staging string, done func(), err error) {
	lock, err := os.OpenFile(filepath.Join(i.Data, ".backup.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return "", nil, errors.Join(fmt.Errorf("another backup or restore is under way (lock %s): %w", lock.Name(), err), lock.Close())
	}
	staging = filepath.Join(i.Data, ".backup")
	if err = os.RemoveAll(staging); err == nil {
		err = os.Mkdir(staging, 0o700)
	}
	if err != nil {
		return "", nil, errors.Join(err, lock.Close())
	}
	return staging, func() { _ = os.RemoveAll(staging); _ = lock.Close() }, nil
}

// Make writes a backup into the new file out, also while the daemon runs: the ledger as of one instant, then the tokens, so that the ledger
// knows no key that they lack, then what is published, which may be newer. With a nil key it is made to the one that the ledger has. out
// appears whole and read back, or not at all. It may be called at any time, and needs no secret.
func Make(ctx context.Context, in Installation, to *Key, out string, now time.Time, report func(string)) (_ *Inspected, err error) {
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s exists already: nothing is overwritten", out)
	}
	if _, err := os.Stat(in.Ledger); err != nil {
		return nil, fmt.Errorf("nothing to back up: %w", err)
	}
	staging, done, err := in.alone()
	if err != nil {
		return nil, err
	}
	defer done()
	copied := filepath.Join(staging, "ledger.db")
	if err := ledger.Copy(ctx, in.Ledger, copied); err != nil {
		return nil, err
	}
	known, err := ledger.Look(ctx, copied)
	if err != nil {
		return nil, err
	}
	if to == nil {
		if known.Key == nil {
			return nil, errors.New("the ledger has no backup key: sealctl backup shares makes one")
		}
		if to, err = ParseKey(known.Key); err != nil {
			return nil, err
		}
	}
	h := &Header{Installation: in.Name, Made: now.UTC().Truncate(time.Second), Size: known.Size, Root: hex.EncodeToString(known.Root[:]), Key: to}
	report(fmt.Sprintf("ledger with %d entries, root %.16s…", h.Size, h.Root))
	if err := os.Mkdir(filepath.Join(staging, "tokens"), 0o700); err != nil {
		return nil, err
	}
	pins := map[string][]byte{}
	defer func() {
		for _, p := range pins {
			clear(p)
		}
	}()
	for _, t := range in.Tokens {
		if err := softhsm.Backup(t.Dir, filepath.Join(staging, "tokens", t.Name)); err != nil {
			return nil, fmt.Errorf("token %s: %w", t.Name, err)
		}
		crashpoint.Here("backup.token-copied")
		if t.PINFile != "" {
			if pins[t.Name], err = os.ReadFile(t.PINFile); err != nil {
				return nil, fmt.Errorf("token %s: its PIN: %w", t.Name, err)
			}
		}
		report("token " + t.Name)
	}
	h.PINs = len(in.Tokens) > 0 && len(pins) == len(in.Tokens)
	header, err := h.encode()
	if err != nil {
		return nil, err
	}
	part := out + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer os.Remove(part) // nothing is left of it after a success
	defer f.Close()
	sum := sha256.New()
	w := io.MultiWriter(f, sum)
	if _, err := fmt.Fprintf(w, "%s%s\n", magic, header); err != nil {
		return nil, err
	}
	closed, err := age.Encrypt(w, to.recipient)
	if err != nil {
		return nil, err
	}
	if err := pack(closed, header, h.Made, func(p *packer) error { return in.fill(p, staging, pins) }); err != nil {
		return nil, err
	}
	if err := closed.Close(); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(f, "%x\n", sum.Sum(nil)); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	crashpoint.Here("backup.written")
	made, err := read(f)
	if err == nil {
		err = made.wellFormed(f)
	}
	if err == nil && made.SHA256 != hex.EncodeToString(sum.Sum(nil)) {
		err = errors.New("it is not what was written")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the backup back: %w", err)
	}
	if err := os.Rename(part, out); err != nil {
		return nil, err
	}
	crashpoint.Here("backup.named")
	report(fmt.Sprintf("backup of %d bytes, SHA-256 %s", made.Bytes, made.SHA256))
	return made, durable.SyncDir(filepath.Dir(filepath.Clean(out)))
}

// fill adds everything to a backup: what was staged, then PINs, TLS keys, and what is published now.
func (i Installation) fill(p *packer, staging string, pins map[string][]byte) error {
	if err := addTree(p, staging, "."); err != nil {
		return err
	}
	for _, t := range i.Tokens {
		if pin, ok := pins[t.Name]; ok {
			if err := p.add("pins/"+t.Name, int64(len(pin)), bytes.NewReader(pin)); err != nil {
				return err
			}
		}
	}
	if err := addTree(p, i.TLS, "tls"); err != nil {
		return err
	}
	if err := addTree(p, i.Publish, "publish"); err != nil {
		return err
	}
	switch b, err := os.ReadFile(i.HighWater); {
	case err == nil:
		return p.add("high-water.json", int64(len(b)), bytes.NewReader(b))
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

// addTree adds the files below a directory. Those that are being written have a name that begins with a dot and are left out; one that is replaced
// meanwhile is there as it was or as it is, and whole.
func addTree(p *packer, root, below string) error {
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if strings.HasPrefix(e.Name(), ".") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if !st.Mode().IsRegular() {
			return fmt.Errorf("%s is no plain file", path)
		}
		return p.add(filepath.ToSlash(filepath.Join(below, rel)), st.Size(), f)
	})
	if errors.Is(err, fs.ErrNotExist) && root != "" {
		if _, gone := os.Stat(root); errors.Is(gone, fs.ErrNotExist) {
			return nil // nothing is published yet
		}
	}
	return err
}

func read(f *os.File) (*Inspected, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return inspect(f, st.Size())
}

// Inspect reads a backup to its end, without any key.
func Inspect(path string) (*Inspected, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	i, err := read(f)
	if err == nil {
		err = i.wellFormed(f)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return i, nil
}

// Proof is a backup that was opened and read to its end, and whose ledger was checked as an auditor checks it.
type Proof struct {
	Inspected
	By     []string // officers whose shares opened it
	Files  int
	Ledger *fsck.Report
}

// Prove opens a backup, compares every file with its checksum, and checks its ledger. The ledger alone is written, into a new directory below
// scratch that is gone afterwards; keys and PINs are not.
func Prove(ctx context.Context, path string, o *Opener, scratch string) (_ *Proof, err error) {
	dir, err := os.MkdirTemp(scratch, "backup-proof-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	copied := filepath.Join(dir, "ledger.db")
	i, files, err := open(path, o, func(name string, _ int64, content io.Reader) error {
		if name != "ledger.db" {
			return nil
		}
		return writeFile(copied, content)
	})
	if err != nil {
		return nil, err
	}
	if err := i.holds(ctx, copied); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	p := &Proof{Inspected: *i, By: o.By, Files: files}
	if p.Ledger, err = fsck.Run(ctx, fsck.Options{Ledger: copied}); err != nil {
		return nil, fmt.Errorf("%s: its ledger: %w", path, err)
	}
	return p, nil
}

// holds: the ledger inside is the one that the header names.
func (i *Inspected) holds(ctx context.Context, copied string) error {
	l, err := ledger.Look(ctx, copied)
	if err != nil {
		return fmt.Errorf("its ledger: %w", err)
	}
	if l.Size != i.Size || hex.EncodeToString(l.Root[:]) != i.Root {
		return fmt.Errorf("its ledger has %d entries and root %x…, and the header says %d and %.16s…", l.Size, l.Root[:8], i.Size, i.Root)
	}
	return nil
}

func open(path string, o *Opener, put func(name string, size int64, content io.Reader) error) (*Inspected, int, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	i, err := read(f)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	plain, err := i.decrypted(f, o)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	files, err := unpack(plain, i.header, put)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	return i, files, nil
}

func writeFile(path string, content io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// Restore puts a backup back where neither ledger nor tokens are. Nothing is put before every file was compared with its checksum; the ledger
// comes last, beside a mark that has it fenced until somebody accepted that. What is published meanwhile and newer stays, and so does a high-water
// record. One that was killed is begun again with the same file: only while it says that it is under way are tokens put again that are there.
func Restore(ctx context.Context, in Installation, path string, o *Opener, now time.Time, report func(string)) (*Inspected, error) {
	if err := os.MkdirAll(in.Data, 0o700); err != nil {
		return nil, err
	}
	staging, done, err := in.alone()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := in.Free(); err != nil {
		return nil, err
	}
	begun, err := ledger.ReadRestoring(in.Ledger)
	if err != nil {
		return nil, err
	}
	i, files, err := open(path, o, func(name string, _ int64, content io.Reader) error {
		to := filepath.Join(staging, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		return writeFile(to, content)
	})
	if err != nil {
		return nil, err
	}
	if i.Installation != in.Name {
		return nil, fmt.Errorf("%s is a backup of installation %q, and this is %q", path, i.Installation, in.Name)
	}
	copied := filepath.Join(staging, "ledger.db")
	if err := i.holds(ctx, copied); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	report(fmt.Sprintf("opened with the shares of %s: %d files, each as its checksum says", strings.Join(o.By, ", "), files))
	again := begun != nil && begun.Backup == i.SHA256
	if err := in.free(staging, again); err != nil {
		return nil, err
	}
	mark := ledger.Restored{Backup: i.SHA256, Made: i.Made, Size: i.Size, Root: i.Root, At: now.UTC().Truncate(time.Second)}
	if err := mark.Begin(in.Ledger); err != nil {
		return nil, err
	}
	crashpoint.Here("restore.begun")
	for _, t := range in.Tokens {
		if again {
			if err := os.RemoveAll(t.Dir); err != nil { // what the one that was killed put there
				return nil, err
			}
		}
		if err := os.MkdirAll(filepath.Dir(t.Dir), 0o700); err != nil {
			return nil, err
		}
		if err := softhsm.Restore(filepath.Join(staging, "tokens", t.Name), t.Dir); err != nil {
			return nil, fmt.Errorf("token %s: %w", t.Name, err)
		}
		crashpoint.Here("restore.token-put")
		if err := in.putPIN(staging, t); err != nil {
			return nil, fmt.Errorf("token %s: its PIN: %w", t.Name, err)
		}
		report("token " + t.Name)
	}
	if err := putMissing(filepath.Join(staging, "tls"), in.TLS, 0o700, 0o600); err != nil {
		return nil, err
	}
	kept, put, err := putPublished(filepath.Join(staging, "publish"), in.Publish)
	if err != nil {
		return nil, err
	}
	crashpoint.Here("restore.published-put")
	report(fmt.Sprintf("publish directory: %d lists put back, %d that are there are as new or newer and stay", put, kept))
	if b, err := os.ReadFile(filepath.Join(staging, "high-water.json")); err == nil {
		if err := os.MkdirAll(filepath.Dir(in.HighWater), 0o700); err != nil {
			return nil, err
		}
		if _, err := os.Lstat(in.HighWater); errors.Is(err, fs.ErrNotExist) {
			if err := durable.WriteFile(in.HighWater, b, 0o600); err != nil {
				return nil, err
			}
			report("high-water record of the backup: there was none")
		} else {
			report("high-water record: the one that is there stays")
		}
	}
	if err := os.Rename(copied, in.Ledger); err != nil {
		return nil, err
	}
	crashpoint.Here("restore.ledger-put")
	if err := durable.SyncDir(filepath.Dir(in.Ledger)); err != nil { // or there may be neither the ledger nor what says that it has to come
		return nil, err
	}
	if err := ledger.EndRestore(in.Ledger); err != nil {
		return nil, err
	}
	report(fmt.Sprintf("ledger with %d entries, root %.16s…: it is FENCED", i.Size, i.Root))
	return i, nil
}

// Free: no ledger would be overwritten.
func (i Installation) Free() error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if _, err := os.Lstat(i.Ledger + suffix); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists already: nothing is overwritten; move it away first", i.Ledger+suffix)
		}
	}
	return nil
}

// free: no token or PIN would be overwritten.
func (i Installation) free(staging string, again bool) error {
	for _, t := range i.Tokens {
		if entries, err := os.ReadDir(t.Dir); err == nil && len(entries) > 0 && !again {
			return fmt.Errorf("%s is not empty: nothing is overwritten; move it away first", t.Dir)
		}
		if t.PINFile == "" {
			continue
		}
		was, err := os.ReadFile(filepath.Join(staging, "pins", t.Name))
		if err != nil {
			return fmt.Errorf("the backup has no PIN of token %s: it is put back without, by hand (%w)", t.Name, err)
		}
		if is, err := os.ReadFile(t.PINFile); err == nil && !bytes.Equal(bytes.TrimSpace(is), bytes.TrimSpace(was)) {
			return fmt.Errorf("%s is there and is not the PIN of the backup's token: move it away first", t.PINFile)
		}
	}
	return nil
}

func (i Installation) putPIN(staging string, t Token) error {
	if t.PINFile == "" {
		return nil
	}
	pin, err := os.ReadFile(filepath.Join(staging, "pins", t.Name))
	if err != nil {
		return err
	}
	defer clear(pin)
	if _, err := os.Lstat(t.PINFile); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(t.PINFile), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(t.PINFile, pin, 0o400)
}

// putMissing puts files that are not there.
func putMissing(from, to string, dirMode, fileMode os.FileMode) error {
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, rel)
		if _, err := os.Lstat(dest); err == nil {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(dest), dirMode); err != nil {
			return err
		}
		return durable.WriteFile(dest, b, fileMode)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the backup has none
	}
	return err
}

// putPublished puts lists of which nothing as new is there, each token before its description, and whatever else is missing.
func putPublished(from, to string) (kept, put int, err error) {
	metas, err := filepath.Glob(filepath.Join(from, "status-lists", "*.json"))
	if err != nil {
		return 0, 0, err
	}
	slices.Sort(metas)
	for _, path := range metas {
		b, err := os.ReadFile(path)
		if err != nil {
			return 0, 0, err
		}
		m, err := ledger.ParseListMeta(b)
		if err != nil || m.File != filepath.Base(m.File) {
			return 0, 0, fmt.Errorf("the backup's %s: %w", filepath.Base(path), errors.Join(err, errors.New("it is no description of a list")))
		}
		dest := filepath.Join(to, "status-lists", filepath.Base(path))
		if is, err := os.ReadFile(dest); err == nil {
			if have, err := ledger.ParseListMeta(is); err == nil && have.Version >= m.Version {
				kept++
				continue
			}
		}
		token, err := os.ReadFile(filepath.Join(from, "status-lists", m.File))
		if err != nil {
			return 0, 0, err
		}
		if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
			return 0, 0, err
		}
		if err := durable.WriteFile(filepath.Join(to, "status-lists", m.File), token, 0o644); err != nil {
			return 0, 0, err
		}
		if err := durable.WriteFile(dest, b, 0o644); err != nil {
			return 0, 0, err
		}
		put++
	}
	return kept, put, putMissing(from, to, 0o755, 0o644)
}
