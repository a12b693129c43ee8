package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/go-json-experiment/json"

	"sealkeeper/internal/fuzzing"
)

// made is a backup in memory.
func made(t testing.TB, k *Key, files map[string]string, names ...string) []byte {
	t.Helper()
	h := Header{Installation: "demo", Made: noon, Size: 7, Root: strings.Repeat("ab", 32), Key: k}
	header, err := h.encode()
	must(t, err)
	return wrapped(t, k, header, packed(t, header, files, names...))
}

func packed(t testing.TB, header []byte, files map[string]string, names ...string) []byte {
	t.Helper()
	var plain bytes.Buffer
	must(t, pack(&plain, header, noon, func(p *packer) error {
		for _, n := range names {
			if err := p.add(n, int64(len(files[n])), strings.NewReader(files[n])); err != nil {
				return err
			}
		}
		return nil
	}))
	return plain.Bytes()
}

func wrapped(t testing.TB, k *Key, header, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s%s\n", magic, header)
	w, err := age.Encrypt(&out, k.recipient)
	must(t, err)
	_, err = w.Write(plain)
	must(t, err)
	must(t, w.Close())
	fmt.Fprintf(&out, "%x\n", sha256.Sum256(out.Bytes()))
	return out.Bytes()
}

func opened(t testing.TB, file []byte, o *Opener) (map[string]string, error) {
	t.Helper()
	r := bytes.NewReader(file)
	i, err := inspect(r, r.Size())
	if err != nil {
		return nil, err
	}
	plain, err := i.decrypted(r, o)
	if err != nil {
		return nil, err
	}
	got := map[string]string{}
	_, err = unpack(plain, i.header, func(name string, _ int64, content io.Reader) error {
		b, err := io.ReadAll(content)
		got[name] = string(b)
		return err
	})
	return got, err
}

var twoFiles = map[string]string{"ledger.db": "a ledger", "publish/status-lists/x.json": "{}"}

func TestFileRoundTrip(t *testing.T) {
	k, shares := newKey(t, 2, "kim", "lee", "park")
	o, err := k.Open(shares[1:])
	must(t, err)
	file := made(t, k, twoFiles, "ledger.db", "publish/status-lists/x.json")
	got, err := opened(t, file, o)
	must(t, err)
	if len(got) != 2 || got["ledger.db"] != "a ledger" {
		t.Errorf("got %v", got)
	}
	// One bit anywhere, one byte less, one byte more: seen without any key.
	for i := 0; i < len(file); i += 3 {
		b := bytes.Clone(file)
		b[i] ^= 4
		if _, err := inspect(bytes.NewReader(b), int64(len(b))); err == nil {
			t.Fatalf("bit of byte %d changed, and nobody saw it", i)
		}
	}
	for _, b := range [][]byte{file[:len(file)-1], append(bytes.Clone(file), 0), file[:200], nil, file[1:]} {
		if _, err := inspect(bytes.NewReader(b), int64(len(b))); err == nil {
			t.Error("cut or longer, and nobody saw it")
		}
	}
	// Whoever can compute checksums can't change what is inside.
	for i := len(magic); i < len(file)-trailer; i += 41 {
		b := bytes.Clone(file[:len(file)-trailer])
		b[i] ^= 4
		b = fmt.Appendf(b, "%x\n", sha256.Sum256(b))
		if _, err := opened(t, b, o); err == nil {
			t.Fatalf("byte %d changed with its checksum, and it was taken", i)
		}
	}
	other, _ := newKey(t, 2, "kim", "lee", "park")
	if _, err := other.Open(shares); err == nil {
		t.Error("shares of another key opened it")
	}
}

// A header that somebody put in front of another one's encrypted part is not the one inside.
func TestHeaderIsTheOneInside(t *testing.T) {
	k, shares := newKey(t, 2, "kim", "lee", "park")
	o, err := k.Open(shares)
	must(t, err)
	h := Header{Installation: "demo", Made: noon, Size: 7, Root: strings.Repeat("ab", 32), Key: k}
	inside, err := h.encode()
	must(t, err)
	h.Size = 9
	outside, err := h.encode()
	must(t, err)
	_, err = opened(t, wrapped(t, k, outside, packed(t, inside, twoFiles, "ledger.db")), o)
	says(t, err, "header")
	k2, _ := newKey(t, 2, "kim", "lee", "park")
	h.Key = k2
	theirs, err := h.encode()
	must(t, err)
	_, err = opened(t, wrapped(t, k, theirs, packed(t, inside, twoFiles, "ledger.db")), o)
	says(t, err, "is to key")
}

// What a tar can say and a backup must not.
func TestTarsThatAreNoBackup(t *testing.T) {
	header := []byte(`{"v":1}`)
	type entry struct {
		h    tar.Header
		body string
	}
	file := func(name, body string) entry {
		return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(body))}, body}
	}
	sums := func(files ...entry) entry {
		s := ""
		for _, f := range files {
			s += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(f.body)), f.h.Name)
		}
		return file(manifestName, s)
	}
	head, db := file(headerName, string(header)), file("ledger.db", "x")
	up := file("publish/../../x", "x")
	for name, entries := range map[string][]entry{
		"no header":        {db, sums(db)},
		"other header":     {file(headerName, `{"v":2}`), db, sums(db)},
		"header twice":     {head, head, db, sums(db)},
		"no checksums":     {head, db},
		"nothing":          {head, file(manifestName, "")},
		"one too few":      {head, db, file("tls/a", "x"), sums(db)},
		"one too many":     {head, db, sums(db, file("tls/a", "x"))},
		"listed twice":     {head, db, sums(db, db)},
		"there twice":      {head, db, db, sums(db)},
		"other content":    {head, db, sums(file("ledger.db", "y"))},
		"behind the end":   {head, db, sums(db), file("tls/a", "x")},
		"out of the way":   {head, up, sums(up)},
		"absolute":         {head, file("/etc/passwd", "x"), sums(file("/etc/passwd", "x"))},
		"link":             {head, {tar.Header{Typeflag: tar.TypeSymlink, Name: "tls/a", Linkname: "/etc"}, ""}, sums()},
		"directory":        {head, {tar.Header{Typeflag: tar.TypeDir, Name: "tls/a/"}, ""}, sums()},
		"of another room":  {head, file("sealkeeper.yaml", "x"), sums(file("sealkeeper.yaml", "x"))},
		"line without end": {head, db, file(manifestName, fmt.Sprintf("%x  ledger.db", sha256.Sum256([]byte("x"))))},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, e := range entries {
			must(t, w.WriteHeader(&e.h))
			_, err := w.Write([]byte(e.body))
			must(t, err)
		}
		must(t, w.Close())
		if _, err := unpack(&b, header, func(string, int64, io.Reader) error { return nil }); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	good := packed(t, header, twoFiles, "ledger.db")
	if _, err := unpack(bytes.NewReader(append(good, 0)), header, func(string, int64, io.Reader) error { return nil }); err == nil {
		t.Error("a byte behind the end was taken")
	}
}

func FuzzKey(f *testing.F) {
	k, _ := newKey(f, 2, "kim", "lee", "park")
	fuzzing.Run(f, fuzzing.Options{}, [][]byte{k.JSON()}, func(t *testing.T, in []byte) bool {
		k, err := ParseKey(in)
		if err != nil {
			return false
		}
		again, err := ParseKey(k.JSON())
		if err != nil || again.ID != k.ID || k.Threshold < 2 || k.Threshold > len(k.Holders) || len(k.committed) != k.Threshold {
			t.Errorf("a key that is none was taken: %v", err)
		}
		return true
	})
}

func FuzzShare(f *testing.F) {
	_, shares := newKey(f, 2, "kim", "lee", "park")
	v, err := shares[0].value.MarshalBinary()
	must(f, err)
	seed, err := json.Marshal(shareFile{1, shares[0].KeyID, "kim", 1, 2, hex.EncodeToString(v)})
	must(f, err)
	fuzzing.Run(f, fuzzing.Options{Longest: 8 << 10}, [][]byte{seed}, func(t *testing.T, in []byte) bool {
		s, err := ParseShare(in)
		if err == nil && (s.number < 1 || s.of < 2 || s.Officer == "" || s.value == nil) {
			t.Error("a share that is none was taken")
		}
		return err == nil
	})
}

func FuzzFile(f *testing.F) {
	k, _ := newKey(f, 2, "kim", "lee", "park")
	file := made(f, k, twoFiles, "ledger.db")
	repair := func(in []byte) []byte { // with its checksum right again
		if len(in) < trailer {
			return in
		}
		b := bytes.Clone(in[:len(in)-trailer])
		return fmt.Appendf(b, "%x\n", sha256.Sum256(b))
	}
	fuzzing.Run(f, fuzzing.Options{Repair: repair, Longest: 96 << 10}, [][]byte{file}, func(t *testing.T, in []byte) bool {
		r := bytes.NewReader(in)
		i, err := inspect(r, r.Size())
		if err != nil {
			return false
		}
		if i.from <= 0 || i.from > i.Bytes-trailer || !bytes.HasSuffix(in, []byte(i.SHA256+"\n")) {
			t.Error("a file that is not whole was taken")
		}
		return i.wellFormed(r) == nil
	})
}

// What decryption gives is what somebody encrypted who has the recipient: not necessarily we.
func FuzzPayload(f *testing.F) {
	header := []byte(`{"v":1}`)
	files := map[string]string{"ledger.db": "x", "tokens/online/tokens/a/token.object": "yy", "publish/status-lists/q.json": "{}"}
	seeds := [][]byte{packed(f, header, files, "ledger.db"), packed(f, header, files, "ledger.db", "tokens/online/tokens/a/token.object", "publish/status-lists/q.json")}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, in []byte) bool {
		got := map[string][]byte{}
		n, err := unpack(bytes.NewReader(in), header, func(name string, size int64, content io.Reader) error {
			if !goodName(name) || strings.Contains(name, "..") && !strings.Contains(name, "...") && strings.Contains("/"+name+"/", "/../") {
				t.Errorf("%q leads elsewhere", name)
			}
			b, err := io.ReadAll(io.LimitReader(content, 1<<16))
			got[name] = b
			return err
		})
		if err == nil && (n != len(got) || n == 0) {
			t.Errorf("%d files, %d were put", n, len(got))
		}
		return err == nil
	})
}

func FuzzChecksums(f *testing.F) {
	sum := sha256.Sum256([]byte("x"))
	line := fmt.Sprintf("%x  ledger.db\n", sum)
	sums := map[string]string{"ledger.db": hex.EncodeToString(sum[:]), "tls/a": hex.EncodeToString(sum[:])}
	fuzzing.Run(f, fuzzing.Options{}, fuzzing.Strings(line, line+fmt.Sprintf("%x  tls/a\n", sum)), func(t *testing.T, in []byte) bool {
		err := compare(in, sums)
		if err == nil && bytes.Count(in, []byte("\n")) != 2 {
			t.Errorf("%q was taken for both files", in)
		}
		return err == nil
	})
}
