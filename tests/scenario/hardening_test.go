package scenario

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The daemon runs in its sandbox, and so do its workers; what holds is in the log, in the status and in a metric.
func TestHardening(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	processes := []int{a.Daemon.Process.Pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", a.Daemon.Process.Pid))
	for _, f := range tasks {
		b, _ := os.ReadFile(f)
		for _, child := range strings.Fields(string(b)) {
			var pid int
			if _, err := fmt.Sscan(child, &pid); err == nil {
				processes = append(processes, pid)
			}
		}
	}
	if len(processes) < 3 {
		t.Fatalf("%d processes: the daemon and two workers were expected", len(processes))
	}
	for _, pid := range processes {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		for _, f := range threads {
			b, err := os.ReadFile(f)
			if err != nil {
				continue // the thread ended
			}
			for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
				if !strings.Contains(string(b), want) {
					t.Errorf("%s lacks %q", f, want)
				}
			}
		}
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range strings.Split(string(limits), "\n") {
			if f := strings.Fields(l); strings.HasPrefix(l, "Max core file size") && (f[4] != "0" || f[5] != "0") {
				t.Errorf("process %d may leave a core: %s", pid, l)
			}
		}
	}

	status := a.Operations()
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", a.Ports[2]))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	metrics, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(a.Log.String(), `"msg":"hardening"`) {
		t.Error("the log does not say what holds")
	}
	for control, held := range status.Hardening {
		v := 0
		if held {
			v = 1
		}
		if want := fmt.Sprintf("sealkeeper_hardening{control=%q} %d\n", control, v); !strings.Contains(string(metrics), want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	for _, control := range []string{"no_new_privs", "no_core", "not_dumpable", "syscalls"} {
		if !status.Hardening[control] {
			t.Errorf("%s is not in force", control)
		}
	}
	a.Stop()
}
