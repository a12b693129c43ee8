package faults

import (
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"sealkeeper/ceremony"
	"sealkeeper/ledger"
	"sealkeeper/tests/appliance"
)

// interrupted holds a ceremony that is killed at a point. It goes on by the same command, officers need not sign again what they signed, and
// the transcript says that it was interrupted and leaves nothing out.
func interrupted(t *testing.T, point string) {
	a := appliance.Install(t)
	for _, dir := range []string{"data", "witness", "clients"} {
		must(t, os.RemoveAll(filepath.Join(a.Dir, dir)))
	}
	registry, keys := officersAll(t)
	a.Write("officers.json", registry)
	conf := filepath.Join(a.Dir, "sealkeeper.yaml")
	// run goes as far as it can, and is killed as often as the point is reached.
	kills := 0
	run := func(args ...string) {
		t.Helper()
		for {
			c := exec.Command(appliance.Binary, append([]string{"init", "--config", conf}, args...)...)
			c.Env = append(os.Environ(), "SEAL_CRASH="+point)
			out, err := c.CombinedOutput()
			if s, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signal() == syscall.SIGKILL {
				if kills++; !strings.HasPrefix(point, "ceremony.noted") {
					point = ""
				}
				continue
			}
			if err != nil {
				t.Fatalf("%v after %d kills:\n%s", err, kills, out)
			}
			return
		}
	}
	sign := func(name string) {
		t.Helper()
		path := filepath.Join(a.Dir, "data", "ceremony", name)
		for id, key := range keys {
			data, err := os.ReadFile(path)
			must(t, err)
			p, err := ceremony.Read(data)
			must(t, err)
			signed, err := p.Sign(id, key, rand.Reader)
			must(t, err)
			must(t, os.WriteFile(path, signed, 0o600))
		}
	}
	where := point
	run("--officers", filepath.Join(a.Dir, "officers.json"))
	sign("opening.json")
	phrases := filepath.Join(a.Dir, "phrases")
	must(t, os.Mkdir(phrases, 0o700))
	for id := range keys {
		must(t, os.WriteFile(filepath.Join(phrases, id), []byte("four words of "+id), 0o600))
	}
	run("--passphrases", phrases)
	sign("transcript.json")
	run()
	if kills == 0 || strings.HasPrefix(where, "ceremony.noted") && kills < 12 {
		t.Errorf("it was killed %d times", kills)
	}

	data, err := os.ReadFile(filepath.Join(a.Dir, "data", "ceremony", "transcript.json"))
	must(t, err)
	book, err := ledger.OpenAudit(t.Context(), filepath.Join(a.Dir, "data", "ledger.db"))
	must(t, err)
	defer book.Close()
	r, err := ceremony.Verify(data, ceremony.Outside{Registry: []byte(registry), Root: func(n uint64) (root [32]byte, _ error) {
		if size, _, err := book.Head(t.Context()); err != nil || size < n {
			return root, errors.Join(err, errors.New("the ledger is shorter"))
		}
		return tlog.TreeHash(int64(n), book.Hashes())
	}})
	must(t, err)
	for _, c := range r.Checks {
		for _, p := range c.Problems {
			t.Errorf("%s: %s: %s", c.What, p.Code, p.Detail)
		}
	}
	again := where == "ceremony.backed-up" || strings.HasPrefix(where, "ceremony.noted") || strings.HasPrefix(where, "ceremony.done")
	if again != (r.Runs > 1) {
		t.Errorf("the transcript tells of %d runs", r.Runs)
	}
	a.Check()
	a.Command(0, "check")
}
