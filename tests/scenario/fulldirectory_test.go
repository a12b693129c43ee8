package scenario

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealkeeper/contract"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/verifier"
)

// A publish directory that is full, and an exit file that can't be written, are no reason to take no locks: the daemon comes up, shows its lists
// itself, and writes the files when there is room.
func TestAStartWithAFullPublishDirectory(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	_, card := harness.ByFormat(a.Issue(harness.NewPhone(t, 1), "holder", false))
	a.Stop()
	directory := filepath.Join(a.Dir, "data", "publish")
	if err := unix.Mount("tmpfs", directory, "tmpfs", 0, "size=256k,mode=0700"); err != nil {
		t.Skipf("a small disk can't be mounted here: %v", err)
	}
	t.Cleanup(func() { a.Kill(); _ = unix.Unmount(directory, unix.MNT_DETACH) })
	ballast := filepath.Join(directory, "ballast")
	f, err := os.Create(ballast)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	a.Prepare = func(c *exec.Cmd) {
		c.Args = append(c.Args, "--exit-textfile", filepath.Join(a.Dir, "none", "exit.prom"))
	}
	said := len(a.Log.String())
	a.Launch()
	a.UntilUp()
	if _, err := a.As("telecom-a").Lock(context.Background(), contract.ChangeRequest{DocumentType: harness.KR, Subject: "holder", Reason: "telecom_lost"}); err != nil {
		t.Fatal(err)
	}
	a.Eventually(card.Status, verifier.Suspended)
	for _, want := range []string{"publishing a status list", "publishing certificates", "writing the exit code"} {
		if !strings.Contains(a.Log.String()[said:], want) {
			t.Errorf("the log says nothing of %q", want)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(directory, "status-lists", card.Status.URI[strings.LastIndex(card.Status.URI, "/")+1:]+".json")
	for _, name := range []string{list, filepath.Join(directory, "trust.json")} {
		for until := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
			if _, err := os.Stat(name); err == nil {
				break
			} else if time.Now().After(until) {
				t.Fatalf("%v\n%s", err, a.Log.String()[said:])
			}
		}
	}
	a.Prepare = nil
	a.Stop()
	a.Check()
}
