package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/go-json-experiment/json"

	"sealkeeper/internal/strict"
)

// The file, in the order of its bytes:
//
//	sealkeeper backup 1 ⏎
//	header ⏎                  one line of JSON, for everyone to read
//	age                       to the recipient of the header's key: a tar of the header again, of the files, and of their checksums last
//	SHA-256 of all before ⏎   64 hexadecimal digits: whether the file is whole can be seen without any key
//
// Whoever has the recipient can encrypt something else to it: that a backup is this installation's shows by size and root of its journal.
const (
	magic       = "sealkeeper backup 1\n"
	trailer     = sha256.Size*2 + 1
	maxHeader   = 64 << 10
	maxManifest = 64 << 20
	maxFiles    = 400_000
	maxLedger   = 1 << 42
	maxOther    = 64 << 20
)

// Header is what everyone may know of a backup.
type Header struct {
	Installation string
	Made         time.Time
	Size         uint64 // journal entries of its ledger
	Root         string // of their log, hexadecimal
	PINs         bool   // of the embedded tokens are in it
	Key          *Key
}

type headerFile struct {
	V            int       `json:"v"`
	Installation string    `json:"installation"`
	Made         time.Time `json:"made"`
	Size         uint64    `json:"journal_size"`
	Root         string    `json:"journal_root"`
	PINs         bool      `json:"pins"`
	Key          keyFile   `json:"key"`
}

func (h *Header) encode() ([]byte, error) {
	return json.Marshal(headerFile{1, h.Installation, h.Made, h.Size, h.Root, h.PINs, h.Key.file}, json.Deterministic(true))
}

func parseHeader(data []byte) (*Header, error) {
	var f headerFile
	if err := strict.JSON(data, strict.Limits{Bytes: maxHeader, Depth: 3, Values: 512}, &f); err != nil {
		return nil, fmt.Errorf("the header: %w", err)
	}
	if f.V != 1 || f.Installation == "" || len(f.Installation) > 256 || f.Made.IsZero() || f.Size > math.MaxInt64 || !keyIDForm.MatchString(f.Root) {
		return nil, errors.New("the header does not say what was backed up, and when")
	}
	k, err := f.Key.key()
	if err != nil {
		return nil, fmt.Errorf("the header's backup key: %w", err)
	}
	return &Header{f.Installation, f.Made, f.Size, f.Root, f.PINs, k}, nil
}

// Inspected is a backup that is whole, as far as can be seen without its key.
type Inspected struct {
	Header
	Bytes  int64
	SHA256 string // of all of it but the last line, which says so

	header []byte
	from   int64 // where the encrypted part begins
}

// inspect reads a file to its end.
func inspect(r io.ReaderAt, size int64) (*Inspected, error) {
	most := int64(len(magic) + maxHeader + 1)
	in := bufio.NewReaderSize(io.NewSectionReader(r, 0, min(size, most)), 512)
	first := make([]byte, len(magic))
	if _, err := io.ReadFull(in, first); err != nil || string(first) != magic {
		return nil, errors.New("it is no backup: it does not begin like one")
	}
	line, err := in.ReadBytes('\n')
	if err != nil {
		return nil, errors.New("it is no backup: its header does not end")
	}
	line = line[:len(line)-1]
	h, err := parseHeader(line)
	if err != nil {
		return nil, err
	}
	again, err := h.encode()
	if err != nil || !bytes.Equal(again, line) {
		return nil, errors.New("the header is not written in its one form")
	}
	i := &Inspected{Header: *h, Bytes: size, header: line, from: int64(len(magic) + len(line) + 1)}
	if size < i.from+trailer {
		return nil, errors.New("it is not whole: it ends after its header")
	}
	var end [trailer]byte
	if _, err := r.ReadAt(end[:], size-trailer); err != nil {
		return nil, fmt.Errorf("reading its end: %w", err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(r, 0, size-trailer)); err != nil {
		return nil, fmt.Errorf("reading it: %w", err)
	}
	if i.SHA256 = hex.EncodeToString(sum.Sum(nil)); string(end[:]) != i.SHA256+"\n" {
		return nil, errors.New("it is not whole: its last line is not the checksum of what is before it")
	}
	return i, nil
}

// wellFormed: the encrypted part begins as age's files do, and to somebody's key.
func (i *Inspected) wellFormed(r io.ReaderAt) error {
	nobody, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	_, err = age.Decrypt(io.NewSectionReader(r, i.from, i.Bytes-trailer-i.from), nobody)
	if _, closed := errors.AsType[*age.NoIdentityMatchError](err); !closed {
		return fmt.Errorf("the encrypted part is none: %w", err)
	}
	return nil
}

// decrypted is the tar.
func (i *Inspected) decrypted(r io.ReaderAt, o *Opener) (io.Reader, error) {
	if o.key.ID != i.Key.ID {
		return nil, fmt.Errorf("the backup is to key %.12s…, and the shares are of key %.12s…", i.Key.ID, o.key.ID)
	}
	plain, err := age.Decrypt(io.NewSectionReader(r, i.from, i.Bytes-trailer-i.from), o.identity)
	if err != nil {
		return nil, fmt.Errorf("opening it: %w", err)
	}
	return plain, nil
}

const (
	headerName   = "header.json"
	manifestName = "MANIFEST.sha256"
)

var nameForm = regexp.MustCompile(`^(ledger\.db|high-water\.json|(tokens|pins|tls|publish)/[A-Za-z0-9._/-]{1,500})$`)

// goodName: a file of a backup, that lies where it says.
func goodName(name string) bool {
	return nameForm.MatchString(name) && filepath.IsLocal(name) && filepath.ToSlash(filepath.Clean(name)) == name
}

// packer writes the tar.
type packer struct {
	tar      *tar.Writer
	manifest bytes.Buffer
	made     time.Time
	files    int
}

func (p *packer) add(name string, size int64, content io.Reader) error {
	if !goodName(name) || size > maxOther && name != "ledger.db" || p.files >= maxFiles {
		return fmt.Errorf("%.100q of %d bytes does not belong into a backup", name, size)
	}
	p.files++
	if err := p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: size, ModTime: p.made, Format: tar.FormatPAX}); err != nil {
		return err
	}
	sum := sha256.New()
	if n, err := io.Copy(io.MultiWriter(p.tar, sum), io.LimitReader(content, size)); err != nil || n != size {
		return errors.Join(err, fmt.Errorf("%s has %d bytes and not %d: it changed meanwhile", name, n, size))
	}
	fmt.Fprintf(&p.manifest, "%x  %s\n", sum.Sum(nil), name)
	return nil
}

// pack writes header, what fill adds, and the checksums.
func pack(w io.Writer, header []byte, made time.Time, fill func(*packer) error) error {
	p := &packer{tar: tar.NewWriter(w), made: made}
	raw := func(name string, b []byte) error {
		err := p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(b)), ModTime: made, Format: tar.FormatPAX})
		if err == nil {
			_, err = p.tar.Write(b)
		}
		return err
	}
	if err := raw(headerName, header); err != nil {
		return err
	}
	if err := fill(p); err != nil {
		return err
	}
	if err := raw(manifestName, p.manifest.Bytes()); err != nil {
		return err
	}
	return p.tar.Close()
}

// unpack reads a tar to its end: header first, every file as the checksums at the end say, nothing else, nothing twice. What put got is to be
// believed only after unpack returned without an error.
func unpack(r io.Reader, header []byte, put func(name string, size int64, content io.Reader) error) (files int, err error) {
	t := tar.NewReader(r)
	sums := map[string]string{}
	for {
		h, err := t.Next()
		if err != nil {
			return 0, fmt.Errorf("reading what is in it: %w", notWhole(err))
		}
		if h.Typeflag != tar.TypeReg || h.Size < 0 {
			return 0, fmt.Errorf("%.100q is no plain file", h.Name)
		}
		if first := len(sums) == 0; first || h.Name == headerName {
			if !first || h.Name != headerName || h.Size != int64(len(header)) {
				return 0, errors.New("what is inside does not begin with the header outside")
			}
			b, err := io.ReadAll(t)
			if err != nil || !bytes.Equal(b, header) {
				return 0, errors.Join(err, errors.New("the header inside is not the one outside: somebody changed it"))
			}
			sums[headerName] = ""
			continue
		}
		if h.Name == manifestName {
			if h.Size > maxManifest {
				return 0, errors.New("the list of checksums is too long")
			}
			b, err := io.ReadAll(t)
			if err != nil {
				return 0, notWhole(err)
			}
			delete(sums, headerName)
			if err := compare(b, sums); err != nil {
				return 0, err
			}
			if _, err := t.Next(); err != io.EOF {
				return 0, errors.Join(err, errors.New("something stands behind the checksums"))
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n > 0 { // to the end: only there age has judged all of it
				return 0, errors.Join(err, fmt.Errorf("%d bytes stand behind the end", n))
			}
			return len(sums), nil
		}
		switch _, twice := sums[h.Name]; {
		case !goodName(h.Name) || twice:
			return 0, fmt.Errorf("%.100q does not belong into a backup, or is there twice", h.Name)
		case h.Size > maxLedger || h.Size > maxOther && h.Name != "ledger.db" || len(sums) > maxFiles:
			return 0, fmt.Errorf("%.100q is too large, or one of too many", h.Name)
		}
		sum := sha256.New()
		content := io.TeeReader(t, sum)
		if err := put(h.Name, h.Size, content); err != nil {
			return 0, err
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return 0, notWhole(err)
		}
		sums[h.Name] = hex.EncodeToString(sum.Sum(nil))
	}
}

func notWhole(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it is not whole: %w", err)
	}
	return err
}

// compare holds files to the checksums.
func compare(manifest []byte, sums map[string]string) error {
	listed := map[string]bool{}
	for line := range bytes.Lines(manifest) {
		text, whole := strings.CutSuffix(string(line), "\n")
		sum, name, ok := strings.Cut(text, "  ")
		have, there := sums[name]
		switch {
		case !ok || !whole:
			return fmt.Errorf("%s is no line of checksums", strconv.QuoteToASCII(text[:min(len(text), 100)]))
		case !there || listed[name]:
			return fmt.Errorf("%.100q is missing or listed twice", name)
		case sum != have:
			return fmt.Errorf("%.100q is not what its checksum says", name)
		}
		listed[name] = true
	}
	if len(listed) != len(sums) || len(sums) == 0 {
		return fmt.Errorf("%d of %d files have no checksum", len(sums)-len(listed), len(sums))
	}
	return nil
}
