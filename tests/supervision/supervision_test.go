// Package supervision starts the daemon as systemd would: with sockets that were opened for it, and an ear for what it says of itself. What
// a supervisor has to do for that is small (sd_notify(3), sd_listen_fds(3)), and is written down here a second time, from the other side.
package supervision

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealkeeper/contract"
	"sealkeeper/tests/appliance"
)

func TestMain(m *testing.M) { os.Exit(appliance.Main(m)) }

const patience = time.Minute // for what must come

// supervisor is systemd, as far as the daemon can tell.
type supervisor struct {
	t         *testing.T
	a         *appliance.Appliance
	said      chan message
	address   string
	listeners []*os.File // none: the daemon opens its own
	names     string
	watchdog  time.Duration
	launched  []int // process ids, in their order
}

// supervise installs an appliance that will be started by a supervisor. Its ear is at an abstract address, or at a path.
func supervise(t *testing.T, abstract bool) *supervisor {
	t.Helper()
	s := &supervisor{t: t, a: appliance.Install(t), names: "issuance:public:operations", watchdog: 2 * time.Second}
	dir, err := os.MkdirTemp("", "sk") // t.TempDir() is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if s.address = filepath.Join(dir, "notify"); abstract {
		s.address = "@" + s.address
	}
	ear, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ear.Close() })
	raw, err := ear.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }), err); err != nil {
		t.Fatal(err)
	}
	s.said = make(chan message, 10_000)
	go listen(ear, s.said)
	s.a.Prepare = s.prepare
	return s
}

// message is one of the daemon, and who the kernel says has sent it.
type message struct {
	text string
	from []unix.SocketControlMessage
	err  error
}

// listen takes what is said at once, as a supervisor does: its socket holds ten messages, and what comes on top of them is lost.
func listen(ear *net.UnixConn, said chan<- message) {
	defer close(said)
	for {
		text, oob := make([]byte, 4096), make([]byte, 256)
		n, m, _, _, err := ear.ReadMsgUnix(text, oob)
		if err != nil { // the test is over
			return
		}
		from, err := unix.ParseSocketControlMessage(oob[:m])
		said <- message{string(text[:n]), from, err}
	}
}

// activate opens the sockets, as socket units do.
func (s *supervisor) activate() *supervisor {
	s.t.Helper()
	for _, port := range s.a.Ports {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			s.t.Fatal(err)
		}
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			s.t.Fatal(err)
		}
		l.Close() // the copy goes on listening
		s.t.Cleanup(func() { f.Close() })
		s.listeners = append(s.listeners, f)
	}
	return s
}

// prepare makes the daemon's start what a supervisor's would be. Only the new process knows its id, so a shell writes that down and becomes
// the daemon.
func (s *supervisor) prepare(c *exec.Cmd) {
	c.Env = append(c.Env, "NOTIFY_SOCKET="+s.address)
	script := "exec \"$@\""
	if s.watchdog > 0 {
		c.Env = append(c.Env, fmt.Sprintf("WATCHDOG_USEC=%d", s.watchdog.Microseconds()))
		script = "WATCHDOG_PID=$$ " + script
	}
	if s.listeners != nil {
		c.Env = append(c.Env, fmt.Sprintf("LISTEN_FDS=%d", len(s.listeners)), "LISTEN_FDNAMES="+s.names)
		c.ExtraFiles = s.listeners
		script = "LISTEN_PID=$$ " + script
	}
	shell(c, script)
}

func shell(c *exec.Cmd, script string) {
	c.Args = append([]string{"/bin/sh", "-c", script, "sh", c.Path}, c.Args[1:]...)
	c.Path = "/bin/sh"
}

// hear returns the next message, or "" if none comes in time. It must be the daemon's own (NotifyAccess=main). What the one before it said after
// STOPPING=1 is none of its.
func (s *supervisor) hear(within time.Duration) string {
	s.t.Helper()
	for end := time.After(within); ; {
		var m message
		select {
		case m = <-s.said:
		default: // what has come is heard, however late it is
			select {
			case m = <-s.said:
			case <-end:
				return ""
			}
		}
		if m.err != nil || len(m.from) != 1 {
			s.t.Fatalf("no credentials came with %q: %v", m.text, m.err)
		}
		who, err := unix.ParseUnixCredentials(&m.from[0])
		if err == nil && (s.a.Daemon == nil || int(who.Pid) == s.a.Daemon.Process.Pid) {
			return m.text
		}
		if err != nil || !slices.Contains(s.launched, int(who.Pid)) {
			s.t.Fatalf("%q was sent by %+v, not by the daemon (%d): %v", m.text, who, s.a.Daemon.Process.Pid, err)
		}
	}
}

// until returns what was heard up to the first message that contains what.
func (s *supervisor) until(what string) (heard []string) {
	s.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		m := s.hear(time.Until(end))
		if heard = append(heard, m); strings.Contains(m, what) {
			return heard
		}
	}
	s.t.Fatalf("never heard %q, only %q\n%s", what, heard, s.a.Log.String())
	return nil
}

func (s *supervisor) launch() *supervisor {
	s.t.Helper()
	s.a.Launch()
	s.launched = append(s.launched, s.a.Daemon.Process.Pid)
	return s
}

// From the first word to the last: nothing says READY before each listener answers, signs of life come until the end begins, and it is said
// once that it has begun.
func TestADaemonSaysHowItGoes(t *testing.T) {
	for name, abstract := range map[string]bool{"path": false, "abstract": true} {
		t.Run(name, func(t *testing.T) {
			s := supervise(t, abstract).launch()
			before := s.until("READY=1")
			for _, path := range []string{fmt.Sprintf("http://127.0.0.1:%d/livez", s.a.Ports[2]), fmt.Sprintf("http://127.0.0.1:%d/certificates/iaca.pem", s.a.Ports[1])} {
				r, err := http.Get(path)
				if err != nil {
					t.Fatalf("READY was said, and: %v", err)
				}
				if r.Body.Close(); r.StatusCode != http.StatusOK {
					t.Errorf("READY was said, and %s is %d", path, r.StatusCode)
				}
			}
			if status, _, err := s.a.Post("ward-office-1", "/v1/nonces", "", contract.NonceRequest{DocumentType: appliance.KR}); err != nil || status != http.StatusOK {
				t.Errorf("READY was said, and a nonce is refused: %d %v", status, err)
			}
			said := slices.DeleteFunc(slices.Clone(before), func(m string) bool { // a start that takes long gives signs of life, and says how it goes
				return m == "WATCHDOG=1" || strings.HasPrefix(m, "STATUS=") && !strings.HasPrefix(m, "STATUS=starting")
			})
			if !strings.HasPrefix(before[0], "STATUS=starting") || len(said) != 2 {
				t.Errorf("a start says %q", before)
			}
			for range 3 {
				s.until("WATCHDOG=1")
			}
			s.a.Stop()
			after := s.until("STOPPING=1")
			for m := s.hear(100 * time.Millisecond); m != ""; m = s.hear(100 * time.Millisecond) {
				after = append(after, m)
			}
			all := strings.Join(append(before, after...), "\n")
			if strings.Count(all, "READY=1") != 1 || strings.Count(all, "STOPPING=1") != 1 || !strings.Contains(all, "STATUS=draining") {
				t.Errorf("heard %q", all)
			}
		})
	}
}

// A daemon that stands still gives no sign of life, and gives them again when it goes on.
func TestNoSignOfLifeFromAStoppedProcess(t *testing.T) {
	s := supervise(t, false).launch()
	s.until("WATCHDOG=1")
	pid := s.a.Daemon.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for stat := ""; !strings.Contains(stat, ") T "); {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		stat = string(b)
	}
	for s.hear(10*time.Millisecond) != "" { // said before
	}
	if m := s.hear(s.watchdog + s.watchdog/2); m != "" {
		t.Errorf("a stopped process said %q", m)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.until("WATCHDOG=1")
	s.a.Stop()
}

// Without an HSM no card is issued, but locks are taken: that is no reason to be killed, so the signs of life go on. They say what is wrong.
func TestLifeGoesOnWithoutTheHSM(t *testing.T) {
	s := supervise(t, false).launch()
	s.until("READY=1")
	s.a.Issue(appliance.NewPhone(t, 1), "900101-1000001", false)
	tokens := filepath.Join(s.a.Dir, "data", "tokens")
	if err := os.Rename(tokens, tokens+"-away"); err != nil {
		t.Fatal(err)
	}
	for _, pid := range s.a.Workers() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	s.until("STATUS=serving, with problems: token")
	s.a.Change("telecom-a", appliance.Lock, "900101-1000001", "telecom_lost", "")
	for range 10 { // more than two times what the watchdog waits
		s.until("WATCHDOG=1")
	}
	if err := os.Rename(tokens+"-away", tokens); err != nil {
		t.Fatal(err)
	}
	for heard := []string{""}; heard[len(heard)-1] != "STATUS=serving"; { // without problems
		heard = s.until("STATUS=serving")
	}
	s.a.Stop()
}

// A commit that hangs in the disk is what the watchdog is for: no sign of life as long as no lock could be taken.
func TestNoSignOfLifeWhileCommitsHang(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		missing(t, "strace is not installed", "SEAL_REQUIRE_STRACE")
	}
	s := supervise(t, false).launch()
	s.until("READY=1")
	s.a.Issue(appliance.NewPhone(t, 1), "900101-1000001", false)
	tracer := exec.Command(strace, "-f", "-q", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_enter=20000000", "-p", fmt.Sprint(s.a.Daemon.Process.Pid))
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tracer.Process.Kill(); _ = tracer.Wait() })
	traced := func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.a.Daemon.Process.Pid))
		return !strings.Contains(string(b), "TracerPid:\t0\n")
	}
	for end := time.Now().Add(5 * time.Second); !traced(); {
		if time.Now().After(end) {
			missing(t, "strace may not trace here", "SEAL_REQUIRE_STRACE")
		}
		time.Sleep(10 * time.Millisecond)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := s.a.As("telecom-a").Lock(context.Background(), contract.ChangeRequest{DocumentType: appliance.KR, Subject: "900101-1000001", Reason: "telecom_lost"})
		answered <- err
	}()
	for tries := 0; ; tries++ { // a commit that was slow before has said so as well
		s.until("STATUS=not answering: the ledger's commits")
		m := s.hear(s.watchdog)
		if m == "" {
			break
		}
		if tries == 5 {
			t.Errorf("no lock can be taken, and it said %q", m)
			break
		}
	}
	_ = tracer.Process.Kill()
	s.until("WATCHDOG=1")
	if err := <-answered; err != nil {
		t.Errorf("the lock that hung: %v", err)
	}
	s.a.Stop()
}

// A fenced daemon says so to whoever asks its supervisor, never that it is ready, and ends with its own code.
func TestAFencedDaemonNeverSaysReady(t *testing.T) {
	s := supervise(t, false)
	ledger := filepath.Join(s.a.Dir, "data", "ledger.db")
	old, err := os.ReadFile(ledger)
	if err != nil {
		t.Fatal(err)
	}
	s.launch().until("READY=1")
	s.a.Issue(appliance.NewPhone(t, 1), "900101-1000001", false)
	s.a.Stop()
	s.until("STOPPING=1")
	for _, tail := range []string{"-wal", "-shm"} {
		_ = os.Remove(ledger + tail)
	}
	if err := os.WriteFile(ledger, old, 0o600); err != nil {
		t.Fatal(err)
	}
	s.launch()
	if code := s.a.Wait(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if heard := strings.Join(s.until("FENCED"), "\n"); strings.Contains(heard, "READY=1") {
		t.Errorf("heard %q", heard)
	}
}

// While the daemon restarts nobody is refused: the sockets are its supervisor's, who connects waits, and is answered by the next one.
func TestNobodyIsRefusedDuringARestart(t *testing.T) {
	s := supervise(t, false).activate().launch()
	s.until("READY=1")
	if os.Getuid() == 0 { // others may not look into it
		s.workersHaveNothing()
	}
	stop := make(chan struct{})
	var background sync.WaitGroup
	refused, reached := 0, 0
	background.Go(func() {
		for {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.a.Ports[0]))
			if err != nil {
				refused++
			} else {
				reached++
				c.Close()
			}
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	for range 2 {
		s.a.Stop()
		s.until("STOPPING=1")
		type answer struct {
			status int
			err    error
		}
		answers := make(chan answer)
		get := func(port int, path string) {
			c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
			r, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
			if err != nil {
				answers <- answer{0, err}
				return
			}
			r.Body.Close()
			answers <- answer{r.StatusCode, nil}
		}
		go get(s.a.Ports[1], "/certificates/iaca.pem")
		go get(s.a.Ports[2], "/livez")
		go func() {
			status, _, err := s.a.Post("ward-office-1", "/v1/nonces", "", contract.NonceRequest{DocumentType: appliance.KR})
			answers <- answer{status, err}
		}()
		select {
		case got := <-answers:
			t.Errorf("no daemon runs, and an answer came: %+v", got)
		case <-time.After(300 * time.Millisecond):
		}
		s.launch()
		for range 3 {
			if got := <-answers; got.err != nil || got.status != http.StatusOK {
				t.Errorf("asked while no daemon ran: %d %v", got.status, got.err)
			}
		}
		s.until("READY=1")
	}
	close(stop)
	background.Wait()
	if refused > 0 || reached < 10 {
		t.Errorf("%d connections refused, %d taken", refused, reached)
	}
	s.a.Stop()
}

// workersHaveNothing: no listener and no variable of the supervisor reaches an HSM worker.
func (s *supervisor) workersHaveNothing() {
	s.t.Helper()
	listening := map[string]bool{}
	for _, f := range s.listeners {
		to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			s.t.Fatal(err)
		}
		listening[to] = true
	}
	workers := s.a.Workers()
	if len(workers) < 2 {
		s.t.Errorf("%d workers", len(workers))
	}
	for _, pid := range workers {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, name := range []string{"NOTIFY", "LISTEN_", "WATCHDOG_"} {
			if strings.Contains(string(env), name) {
				s.t.Errorf("worker %d was told %q", pid, env)
			}
		}
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil || len(fds) == 0 {
			s.t.Fatal(fds, err)
		}
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); listening[to] {
				s.t.Errorf("worker %d has a listener: %s", pid, to)
			}
		}
	}
}

// Sockets with other names, or not all of them, are a mistake in the units; the daemon names it and does not guess.
func TestSocketsThatDoNotFitAreNamed(t *testing.T) {
	s := supervise(t, false).activate()
	all := s.listeners
	for _, c := range []struct {
		n     int
		names string
	}{{3, "issuance:public:metrics"}, {3, "sealkeeperd.socket:sealkeeperd.socket:sealkeeperd.socket"}, {3, ""}, {2, "issuance:public"}, {3, "issuance:public:public"}} {
		s.listeners, s.names = all[:c.n], c.names
		if code := s.launch().a.Wait(); code != 2 {
			t.Errorf("%q: exit code %d, want 2", c.names, code)
		}
		if heard := s.until("STATUS="); !strings.Contains(heard[0], "pass either none or one each named") {
			t.Errorf("%q: %q", c.names, heard)
		}
	}
}

// systemd's own tool passes sockets that the daemon takes.
func TestSystemdSocketActivate(t *testing.T) {
	tool, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		missing(t, "systemd-socket-activate is not installed (Debian and Ubuntu: apt-get install systemd)", "SEAL_REQUIRE_SYSTEMD")
	}
	a := appliance.Install(t)
	a.Prepare = func(c *exec.Cmd) {
		args := []string{tool, "--fdname=issuance:public:operations"}
		for _, port := range a.Ports {
			args = append(args, "-l", fmt.Sprintf("127.0.0.1:%d", port))
		}
		c.Path, c.Args = tool, append(args, c.Args...)
		c.Args[len(args)] = appliance.Binary
	}
	a.Start() // the first connection is what starts the daemon
	for _, name := range []string{"issuance", "public", "operations"} {
		if want := fmt.Sprintf(`"listener":%q`, name); !strings.Contains(a.Log.String(), want) {
			t.Errorf("the log does not say %s", want)
		}
	}
	if strings.Count(a.Log.String(), `"passed":true`) != 3 {
		t.Error("not all three sockets were passed")
	}
	a.Issue(appliance.NewPhone(t, 1), "900101-1000001", false)
	a.Stop()
}

// As many connections as the configuration allows can be open, or the daemon does not start: the ledger's files must not be what is missing.
func TestOpenFilesAreEnough(t *testing.T) {
	a := appliance.Install(t)
	a.Prepare = func(c *exec.Cmd) { shell(c, `ulimit -n 1000; exec "$@"`) }
	a.Launch()
	if code := a.Wait(); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	for _, want := range []string{"limits.connections: 2048", "may have 1000", "LimitNOFILE="} {
		if !strings.Contains(a.Log.String(), want) {
			t.Errorf("the message lacks %q: %s", want, a.Log.String())
		}
	}
	a.Prepare = func(c *exec.Cmd) { shell(c, `ulimit -Sn 256; exec "$@"`) }
	a.Start()
	var limit unix.Rlimit
	if err := unix.Prlimit(a.Daemon.Process.Pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < 3*2048 {
		t.Errorf("at most %d open files", limit.Cur)
	}
	a.Stop()
}

func missing(t *testing.T, what, variable string) {
	t.Helper()
	if os.Getenv(variable) == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// PINs that systemd lends its service are nowhere in a shell: a command that needs none works there as ever, and one that does says what is missing.
func TestPINsThatAreLent(t *testing.T) {
	a := appliance.Install(t)
	a.Write("sealkeeper.yaml", appliance.Configuration(a.Ports[:]...)+"hsm: {online: {pin_file: \"credential:online\"}, iaca: {pin_file: \"credential:iaca\"}}\n")
	file := filepath.Join(a.Dir, "sealkeeper.yaml")
	if out, err := exec.Command(appliance.Sealctl, "fence", "show", "--config", file).CombinedOutput(); err != nil {
		t.Errorf("without a PIN: %v\n%s", err, out)
	}
	for command, code := range map[string]int{"serve": 2, "check": 5} {
		if out := a.Command(code, command); !strings.Contains(out, "hsm.online.pin_file: systemd lends") {
			t.Errorf("%s says %s", command, out)
		}
	}
	a.Start("CREDENTIALS_DIRECTORY=" + filepath.Join(a.Dir, "data", "pins"))
	a.Stop()
}
