package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The test binary is also the program in the sandbox: told so by this variable, it confines itself as the daemon does and reports.
const role = "SANDBOX_TEST_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(role)
	if dir == "" {
		os.Exit(m.Run())
	}
	again, missing := Again()
	if !again {
		r := System()
		r.Write = append(r.Write, filepath.Join(dir, "inside"))
		r.Read = append(r.Read, filepath.Join(dir, "read-only"))
		fmt.Fprintln(os.Stderr, Reexec(r))
		os.Exit(1)
	}
	if err := Hide(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(look(dir, missing))
	os.Exit(0)
}

type report struct {
	Missing string
	Held    map[string]bool
	Tries   map[string]string // what was tried → "" or the error
	Threads string            // NoNewPrivs of all threads, each once
	Again   bool              // the mark is gone
}

// look tries what the rules allow and what they do not, from many threads.
func look(dir, missing string) report {
	at := func(name string) string { return filepath.Join(dir, name) }
	tries := map[string]func() error{
		"read outside":       func() error { _, err := os.ReadFile(at("outside/secret")); return err },
		"list outside":       func() error { _, err := os.ReadDir(at("outside")); return err },
		"write outside":      func() error { return os.WriteFile(at("outside/new"), nil, 0o600) },
		"truncate outside":   func() error { return os.Truncate(at("outside/secret"), 0) },
		"rename to outside":  func() error { return os.Rename(at("inside/moving"), at("outside/moved")) },
		"link from outside":  func() error { return os.Link(at("outside/secret"), at("inside/link")) },
		"read /etc/shadow":   func() error { _, err := os.ReadFile("/etc/shadow"); return err },
		"write what is read": func() error { return os.WriteFile(at("read-only/file"), nil, 0o600) },
		"run from outside":   func() error { return exec.Command(at("outside/program")).Run() },
		"connect":            func() error { return dial() },
		"connect by MPTCP": func() error {
			return bare(func(fd int) error { return unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 9}) })
		},
		"listen by MPTCP":     func() error { return bare(func(fd int) error { return unix.Bind(fd, &unix.SockaddrInet4{}) }) },
		"trace":               func() error { return unix.PtraceAttach(os.Getppid()) },
		"another name space":  func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"listen":              func() error { return listen() },
		"read inside":         func() error { _, err := os.ReadFile(at("inside/file")); return err },
		"write inside":        func() error { return os.WriteFile(at("inside/new"), []byte("x"), 0o600) },
		"rename inside":       func() error { return os.Rename(at("inside/file2"), at("inside/file3")) },
		"read what is read":   func() error { _, err := os.ReadFile(at("read-only/file")); return err },
		"randomness":          func() error { f, err := os.Open("/dev/urandom"); f.Close(); return err },
		"nothing to write to": func() error { f, err := os.OpenFile("/dev/null", os.O_RDWR, 0); f.Close(); return err },
	}
	r := report{Missing: missing, Held: Held(), Tries: map[string]string{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	for what, try := range tries {
		all.Go(func() {
			runtime.LockOSThread() // a thread of its own, made after the sandbox or before main
			err := try()
			text := ""
			switch {
			case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EPROTONOSUPPORT):
				text = "refused"
			case err != nil:
				text = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			r.Tries[what] = text
		})
	}
	all.Wait()
	seen := map[string]bool{}
	tasks, _ := filepath.Glob("/proc/self/task/*/status")
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		for _, l := range strings.Split(string(b), "\n") {
			if v, ok := strings.CutPrefix(l, "NoNewPrivs:\t"); ok && !seen[v] {
				seen[v] = true
				r.Threads += v
			}
		}
	}
	r.Again, _ = Again()
	return r
}

func dial() error {
	c, err := net.Dial("tcp", "127.0.0.1:9")
	if err == nil {
		c.Close()
	}
	return err
}

func bare(do func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

func listen() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		l.Close()
	}
	return err
}

func needLandlock(t *testing.T) {
	t.Helper()
	if abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION); errno != 0 || abi < 4 {
		t.Skipf("Landlock ABI 4 is needed here: the kernel has %d (%v)", int(abi), errno)
	}
}

func house(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"outside/secret": "root:!:1", "outside/program": "#!/bin/true\n", "inside/file": "x", "inside/file2": "x", "inside/moving": "x", "read-only/file": "x"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The program that started itself again can do what it must, and nothing else, on any of its threads; root is no exception.
func TestReexec(t *testing.T) {
	needLandlock(t)
	dir := house(t)
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), role+"="+dir)
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for what, got := range r.Tries {
		want := ""
		switch what {
		case "read outside", "list outside", "write outside", "truncate outside", "rename to outside", "link from outside", "read /etc/shadow", "write what is read",
			"run from outside", "connect", "listen", "connect by MPTCP", "listen by MPTCP", "trace", "another name space":
			want = "refused"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	for _, control := range []string{Files, TCPBind, TCPConnect, NoNewPrivs, NoCore, NotDumpable, Syscalls} {
		if !r.Held[control] {
			t.Errorf("%s is not in force", control)
		}
	}
	if r.Missing != "" || r.Threads != "1" || r.Again {
		t.Errorf("missing %q, NoNewPrivs of threads %q, mark still set: %v", r.Missing, r.Threads, r.Again)
	}
}

// What is tried is not in force where nothing was set: the report can tell.
func TestHeldElsewhere(t *testing.T) {
	held := Held()
	for _, control := range []string{Files, TCPBind, TCPConnect} {
		if held[control] {
			t.Errorf("%s is said to be in force in a test that was not confined", control)
		}
	}
}

// A child gets what the thread that started it was left with, and the rest of the program keeps everything.
func TestChild(t *testing.T) {
	needLandlock(t)
	dir := house(t)
	type result struct {
		inside, outside []byte
		err             error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		r := System()
		r.Run = append(r.Run, "/usr/bin/cat", "/bin/cat")
		r.Write = append(r.Write, filepath.Join(dir, "inside"))
		var out result
		if out.err = Restrict(r); out.err == nil {
			out.inside, _ = exec.Command("cat", filepath.Join(dir, "inside/file")).CombinedOutput()
			out.outside, _ = exec.Command("cat", filepath.Join(dir, "outside/secret")).CombinedOutput()
		}
		done <- out
	}()
	got := <-done
	if got.err != nil {
		t.Fatal(got.err)
	}
	if string(got.inside) != "x" {
		t.Errorf("inside: %q", got.inside)
	}
	if !strings.Contains(string(got.outside), "Permission denied") {
		t.Errorf("outside: %q", got.outside)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "outside/secret")); err != nil || len(b) == 0 {
		t.Errorf("the rest of the program is confined too: %v", err)
	}
}

func TestLocked(t *testing.T) {
	b, free := Locked(256)
	if len(b) != 256 {
		t.Fatalf("%d bytes", len(b))
	}
	copy(b, "secret")
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	flags := ""
	if _, rest, ok := strings.Cut(string(smaps), fmt.Sprintf("\n%x-", addr(b))); ok {
		_, rest, _ = strings.Cut(rest, "VmFlags:")
		flags, _, _ = strings.Cut(rest, "\n")
	}
	if !free() {
		t.Skip("RLIMIT_MEMLOCK forbids locking")
	}
	if !strings.Contains(flags, " lo") || !strings.Contains(flags, " dd") {
		t.Errorf("flags of the mapping are %q: want lo (locked) and dd (not dumped)", flags)
	}
}

func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
