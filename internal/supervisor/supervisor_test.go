package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the program that a supervisor starts: told so by this variable, it attaches, executes itself again as the daemon
// does for its sandbox, answers one connection on each passed listener, and reports what a child of it would inherit.
const role = "SUPERVISOR_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "child":
		fds, _ := filepath.Glob("/proc/self/fd/*")
		seen := os.Environ()
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil {
				seen = append(seen, "FD="+to)
			}
		}
		_ = json.NewEncoder(os.Stdout).Encode(seen)
		os.Exit(0)
	}
	if err := service(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func service() error {
	s, err := Attach()
	if err != nil {
		return err
	}
	if os.Getenv(role) == "first" {
		if err := s.Status("first image"); err != nil {
			return err
		}
		os.Setenv(role, "second")
		if err := s.Handover(); err != nil {
			return err
		}
		return execSelf()
	}
	// Before the listeners are taken, as workers are started.
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), role+"=child")
	out, err := child.Output()
	if err != nil {
		return err
	}
	for _, name := range []string{"b", "a"} {
		l, err := s.Listener(name)
		if err != nil {
			return err
		}
		c, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Fprint(c, name)
		c.Close()
		l.Close()
	}
	_, err = os.Stdout.Write(out)
	return errors.Join(err, s.Ready("line one\nREADY=0\nline three"), s.Alive(), s.Stopping("bye"))
}

// receive binds a supervisor's socket.
func receive(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func next(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// A service that executes itself again keeps its listeners by name, its socket and its watchdog; a child of it sees none of that. Path and
// abstract addresses are the same to it.
func TestWhatIsPassedSurvivesTheSandboxAndReachesNoChild(t *testing.T) {
	dir, err := os.MkdirTemp("", "sup") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, address := range []string{filepath.Join(dir, "notify"), fmt.Sprintf("@sealkeeper-test-%d", os.Getpid())} {
		above := receive(t, address)
		var files []*os.File
		var listeners []net.Listener
		for range 2 {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			f, err := l.(*net.TCPListener).File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			files, listeners = append(files, f), append(listeners, l)
		}
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$0"`, "/proc/self/exe")
		cmd.Args[3], _ = os.Executable()
		cmd.Env = append(os.Environ(), role+"=first", "LISTEN_FDS=2", "LISTEN_FDNAMES=a:b", "WATCHDOG_USEC=1000000", "NOTIFY_SOCKET="+address)
		cmd.ExtraFiles = files
		var out, complaints strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &complaints
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"a", "b"} {
			c, err := net.Dial("tcp", listeners[i].Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			b := make([]byte, 1)
			defer func() {
				if _, err := c.Read(b); err != nil || string(b) != name {
					t.Errorf("listener %s answers %q: %v", name, b, err)
				}
			}()
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, complaints.String())
		}
		for _, want := range []string{"STATUS=first image", "READY=1\nSTATUS=line one", "WATCHDOG=1", "STOPPING=1\nSTATUS=bye"} {
			if got := next(t, above); got != want {
				t.Errorf("%s: heard %q, want %q", address, got, want)
			}
		}
		var inherited []string
		if err := json.Unmarshal([]byte(out.String()), &inherited); err != nil {
			t.Fatal(err)
		}
		for _, v := range inherited {
			if name, _, _ := strings.Cut(v, "="); slices.Contains([]string{notifySocket, watchdogMicro, watchdogPID, listenPID, listenFDs, listenNames, notifyFD}, name) {
				t.Errorf("a child sees %s", v)
			}
			if strings.HasPrefix(v, "FD=socket:") {
				t.Errorf("a child has an open %s", v)
			}
		}
	}
}

func TestEnvironmentOfSomebodyElse(t *testing.T) {
	s, err := attach(map[string]string{listenPID: "1", listenFDs: "3", watchdogPID: "1", watchdogMicro: "1000"}, "2")
	if err != nil || len(s.fds) != 0 || s.Watchdog != 0 {
		t.Errorf("what was meant for process 1 was taken: %+v %v", s, err)
	}
	if passed, err := s.Passes("a"); passed || err != nil {
		t.Error(passed, err)
	}
	var nobody Supervisor
	if err := errors.Join(nobody.Ready("x"), nobody.Alive(), nobody.Status("x"), nobody.Stopping("x"), (*Supervisor)(nil).Alive()); err != nil {
		t.Errorf("nobody does not listen: %v", err)
	}
}

func TestWrongEnvironmentIsRefused(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"relative socket":     {notifySocket: "run/notify"},
		"vsock":               {notifySocket: "vsock:2:1234"},
		"nobody there":        {notifySocket: "/nonexistent/notify"},
		"no number":           {listenPID: "2", listenFDs: "x"},
		"negative":            {listenPID: "2", listenFDs: "-1"},
		"too many":            {listenPID: "2", listenFDs: "1000000"},
		"watchdog of nothing": {watchdogMicro: "0"},
		"watchdog for ever":   {watchdogMicro: strconv.FormatInt(1<<62, 10)},
		"no descriptor":       {notifyFD: "x"},
		"standard output":     {notifyFD: "1"},
	} {
		if s, err := attach(env, "2"); err == nil {
			t.Errorf("%s: taken as %+v", name, s)
		}
	}
}

// Either nothing is passed, or exactly one socket for each name.
func TestNamesMustFit(t *testing.T) {
	for _, c := range []struct {
		fds   []int
		names []string
		ok    bool
	}{
		{[]int{90, 91}, []string{"a", "b"}, true}, {[]int{90, 91}, []string{"b", "a"}, true},
		{[]int{90}, []string{"a"}, false}, {[]int{90, 91}, []string{"a", "a"}, false}, {[]int{90, 91}, []string{"a", "c"}, false},
		{[]int{90, 91}, nil, false}, {[]int{90, 91, 92}, []string{"a", "b", "c"}, false}, {[]int{90, 91, 92}, []string{"a", "b"}, false},
	} {
		s := &Supervisor{fds: c.fds, names: c.names}
		if passed, err := s.Passes("a", "b"); passed != c.ok || (err == nil) != c.ok {
			t.Errorf("%v %q: %v %v", c.fds, c.names, passed, err)
		}
	}
}

// A line is one assignment, short, and valid text.
func TestStatusIsOneLine(t *testing.T) {
	for in, want := range map[string]string{"": "STATUS=", "a\nREADY=1": "STATUS=a", strings.Repeat("é", 200): "STATUS=" + strings.Repeat("é", 128) + "…"} {
		if got := line(in); got != want {
			t.Errorf("%q → %q", in, got)
		}
	}
}

func execSelf() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, os.Environ())
}
