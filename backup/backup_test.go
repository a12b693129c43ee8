package backup

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sealkeeper/ledger"
)

// place is an installation without tokens: what softhsm does with those is tested there, and both together in tests/faults.
func place(t *testing.T, name string) Installation {
	t.Helper()
	dir := t.TempDir()
	return Installation{Name: name, Data: dir, Ledger: filepath.Join(dir, "ledger.db"), HighWater: filepath.Join(dir, "witness", "high-water.json"), Publish: filepath.Join(dir, "publish"), TLS: filepath.Join(dir, "tls")}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func get(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func (i Installation) list(t *testing.T, id string, version int) {
	put(t, filepath.Join(i.Publish, "status-lists", id+".json"), fmt.Sprintf(`{"id":%q,"version":%d,"file":%q}`, id, version, id+".jwt"))
	put(t, filepath.Join(i.Publish, "status-lists", id+".jwt"), fmt.Sprintf("token %d", version))
}

func quiet(string) {}

func TestMadeProvedAndPutBack(t *testing.T) {
	ctx := context.Background()
	from := place(t, "demo")
	must(t, os.MkdirAll(filepath.Dir(from.HighWater), 0o700))
	l, err := ledger.Open(ctx, ledger.Options{Path: from.Ledger, HighWater: from.HighWater})
	must(t, err)
	k, shares := newKey(t, 2, "kim", "lee", "park")
	file := filepath.Join(t.TempDir(), "a.backup")
	if _, err := Make(ctx, from, nil, file, noon, quiet); err == nil {
		t.Error("made to no key")
	}
	must(t, l.PutBackupKey(ctx, k.JSON(), nil))
	must(t, l.PutMeta(ctx, "a", []byte("1")))
	must(t, l.Close())
	put(t, filepath.Join(from.TLS, "server.key"), "tls key")
	put(t, filepath.Join(from.Publish, ".well-known", "jwt-vc-issuer"), "{}")
	put(t, filepath.Join(from.Publish, "status-lists", ".q.json.tmp-1"), "half of a file")
	from.list(t, "q", 4)
	from.list(t, "r", 9)
	made, err := Make(ctx, from, nil, file, noon, quiet)
	must(t, err)
	if made.Size != 2 || made.Key.ID != k.ID || made.PINs {
		t.Errorf("made %+v", made.Header)
	}
	_, err = Make(ctx, from, nil, file, noon, quiet)
	says(t, err, "nothing is overwritten")

	o, err := k.Open(shares[:2])
	must(t, err)
	scratch := t.TempDir()
	p, err := Prove(ctx, file, o, scratch)
	must(t, err)
	if !p.Ledger.Clean() || p.Files != 8 || p.Size != 2 {
		t.Errorf("proved %d files, %d problems, %d entries", p.Files, p.Ledger.Problems(), p.Size)
	}
	if left, _ := os.ReadDir(scratch); len(left) > 0 {
		t.Errorf("the proof left %v", left)
	}

	_, err = Restore(ctx, from, file, o, noon, quiet)
	says(t, err, "nothing is overwritten")
	_, err = Restore(ctx, place(t, "another"), file, o, noon, quiet)
	says(t, err, `of installation "demo"`)
	to := place(t, "demo")
	to.list(t, "q", 5) // newer than the backup's
	to.list(t, "r", 8)
	put(t, to.HighWater, `{"size":7,"root":"AAAA","lists":{}}`)
	_, err = Restore(ctx, to, file, o, noon, quiet)
	must(t, err)
	for path, want := range map[string]string{
		filepath.Join(to.TLS, "server.key"):                       "tls key",
		filepath.Join(to.Publish, "status-lists", "q.jwt"):        "token 5",
		filepath.Join(to.Publish, "status-lists", "r.jwt"):        "token 9",
		filepath.Join(to.Publish, ".well-known", "jwt-vc-issuer"): "{}",
		to.HighWater: `{"size":7,"root":"AAAA","lists":{}}`,
	} {
		if got := get(t, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	mark, err := ledger.ReadRestored(to.Ledger)
	must(t, err)
	if mark == nil || mark.Backup != made.SHA256 || mark.Size != 2 || !mark.At.Equal(noon) {
		t.Errorf("the mark is %+v", mark)
	}
	if _, err := ledger.Open(ctx, ledger.Options{Path: to.Ledger}); err == nil {
		t.Error("a restored ledger is not fenced")
	}
	if left, _ := filepath.Glob(filepath.Join(to.Data, ".backup", "*")); len(left) > 0 {
		t.Errorf("the restore left %v", left)
	}
}

// Nothing is put of a backup in which a single byte is not what was backed up.
func TestNothingIsPutOfADamagedBackup(t *testing.T) {
	ctx := context.Background()
	from := place(t, "demo")
	l, err := ledger.Open(ctx, ledger.Options{Path: from.Ledger})
	must(t, err)
	must(t, l.Close())
	k, shares, err := NewKey(2, []string{"kim", "lee"}, time.Now(), rand.Reader)
	must(t, err)
	file := filepath.Join(t.TempDir(), "a.backup")
	_, err = Make(ctx, from, k, file, noon, quiet)
	must(t, err)
	o, err := k.Open(shares)
	must(t, err)
	b := []byte(get(t, file))
	b[len(b)/2] ^= 1
	must(t, os.WriteFile(file, b, 0o600))
	to := place(t, "demo")
	_, err = Restore(ctx, to, file, o, noon, quiet)
	says(t, err, "not whole")
	if _, err := Inspect(file); err == nil {
		t.Error("a damaged backup was taken for a whole one")
	}
	left, err := os.ReadDir(to.Data)
	must(t, err)
	for _, e := range left {
		if e.Name() != ".backup.lock" {
			t.Errorf("%s was put", e.Name())
		}
	}
}

// A restore is begun again over tokens that one of the same backup put and did not end; one that ended is over, and what is on the tokens since then is
// not its own.
func TestRestoreThatEndedOverwritesNothing(t *testing.T) {
	ctx := context.Background()
	token := func(i Installation) Installation {
		i.Tokens = []Token{{Name: "online", Dir: filepath.Join(i.Data, "tokens", "online")}}
		return i
	}
	from := token(place(t, "demo"))
	put(t, filepath.Join(from.Tokens[0].Dir, "tokens", "a.object"), "key of before")
	must(t, os.Mkdir(filepath.Join(from.Tokens[0].Dir, "saved"), 0o700))
	from.list(t, "q", 4)
	l, err := ledger.Open(ctx, ledger.Options{Path: from.Ledger})
	must(t, err)
	must(t, l.Close())
	k, shares := newKey(t, 2, "kim", "lee")
	file := filepath.Join(t.TempDir(), "a.backup")
	_, err = Make(ctx, from, k, file, noon, quiet)
	must(t, err)
	o, err := k.Open(shares)
	must(t, err)

	to := token(place(t, "demo"))
	dir := to.Tokens[0].Dir
	stop := filepath.Join(to.Publish, "status-lists")
	put(t, stop, "in the way of a directory")
	if _, err = Restore(ctx, to, file, o, noon, quiet); err == nil {
		t.Fatal("a restore went on over what was in its way")
	}
	if got := get(t, filepath.Join(dir, "tokens", "a.object")); got != "key of before" {
		t.Errorf("the token has %q", got)
	}
	must(t, os.Remove(stop))
	_, err = Restore(ctx, to, file, o, noon, quiet) // begun again
	must(t, err)

	put(t, filepath.Join(dir, "tokens", "b.object"), "key of since")
	must(t, os.Rename(to.Ledger, to.Ledger+".lost"))
	_, err = Restore(ctx, to, file, o, noon.Add(time.Hour), quiet)
	says(t, err, "is not empty: nothing is overwritten")
	if got := get(t, filepath.Join(dir, "tokens", "b.object")); got != "key of since" {
		t.Errorf("the key of since is %q", got)
	}
	mark, err := ledger.ReadRestored(to.Ledger)
	must(t, err)
	if !mark.At.Equal(noon) {
		t.Errorf("what was refused left the mark %+v", mark)
	}
}
