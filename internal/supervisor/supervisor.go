// Package supervisor is the daemon's side of what systemd and its likes agree on with a service: where to say how it goes (NOTIFY_SOCKET,
// sd_notify(3)), how often to show that it lives (WATCHDOG_USEC), and listeners that were opened for it and outlive it (LISTEN_FDS,
// sd_listen_fds(3)). All three are written down by systemd as stable, and small.
//
// The environment is taken once and removed, so that no child speaks in the daemon's name or inherits a listener. The socket is connected
// before the sandbox closes: whatever the sandbox says of UNIX sockets, a connected one stays usable.
package supervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The environment, as sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3) name it, and ours for the socket that is already open.
const (
	notifySocket  = "NOTIFY_SOCKET"
	watchdogMicro = "WATCHDOG_USEC"
	watchdogPID   = "WATCHDOG_PID"
	listenPID     = "LISTEN_PID"
	listenFDs     = "LISTEN_FDS"
	listenNames   = "LISTEN_FDNAMES"
	notifyFD      = "SEALKEEPER_NOTIFY_FD"
)

const (
	firstFD      = 3           // SD_LISTEN_FDS_START
	mostFDs      = 16          // passed listeners that are looked at; the daemon has three
	statusMost   = 256         // bytes of one STATUS line
	sendWithin   = time.Second // a supervisor that does not read must not stop what it supervises
	watchdogMost = time.Hour
)

// Supervisor is what stands above this process; the zero value is nobody, to whom everything may be said.
type Supervisor struct {
	Watchdog time.Duration // how long it waits for a sign of life; 0: it does not

	conn  *net.UnixConn // nil: nobody listens
	fds   []int         // passed listeners, not taken yet
	names []string      // of fds
}

// Attach takes what the supervisor left in the environment: it is gone from there afterwards.
func Attach() (*Supervisor, error) {
	taken := map[string]string{}
	for _, name := range []string{notifySocket, watchdogMicro, watchdogPID, listenPID, listenFDs, listenNames, notifyFD} {
		taken[name] = os.Getenv(name)
		os.Unsetenv(name)
	}
	return attach(taken, strconv.Itoa(os.Getpid()))
}

func attach(env map[string]string, self string) (_ *Supervisor, err error) {
	s := &Supervisor{}
	// First of all: what is passed must not reach a worker, whatever is wrong with the rest.
	if v := env[listenFDs]; v != "" && env[listenPID] == self {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > mostFDs {
			return nil, fmt.Errorf("%s=%q: 0 to %d listeners can be passed", listenFDs, v, mostFDs)
		}
		for fd := firstFD; fd < firstFD+n; fd++ {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
				return nil, fmt.Errorf("%s=%d, and file descriptor %d is not open: %w", listenFDs, n, fd, err)
			}
			s.fds = append(s.fds, fd)
		}
		if n > 0 && env[listenNames] != "" {
			s.names = strings.Split(env[listenNames], ":")
		}
	}
	if v := env[watchdogMicro]; v != "" && (env[watchdogPID] == "" || env[watchdogPID] == self) {
		us, err := strconv.ParseInt(v, 10, 64)
		if err != nil || us <= 0 || us > watchdogMost.Microseconds() {
			return nil, fmt.Errorf("%s=%q is no number of microseconds up to %s", watchdogMicro, v, watchdogMost)
		}
		s.Watchdog = time.Duration(us) * time.Microsecond
	}
	switch address := env[notifySocket]; {
	case env[notifyFD] != "":
		fd, err := strconv.Atoi(env[notifyFD])
		if err != nil || fd < firstFD {
			return nil, fmt.Errorf("%s=%q is no file descriptor", notifyFD, env[notifyFD])
		}
		f := os.NewFile(uintptr(fd), "supervisor")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			return nil, fmt.Errorf("the supervisor's socket: %w", err)
		}
		u, ok := c.(*net.UnixConn)
		if !ok {
			return nil, errors.Join(fmt.Errorf("%s=%d is no UNIX socket", notifyFD, fd), c.Close())
		}
		s.conn = u
	case address == "":
	case address[0] == '/' || address[0] == '@': // "@" is how net writes an abstract name, too
		if s.conn, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"}); err != nil {
			return nil, fmt.Errorf("%s: %w", notifySocket, err)
		}
	default:
		return nil, fmt.Errorf("%s=%q: an absolute path or an abstract name beginning with @ was expected", notifySocket, address)
	}
	return s, nil
}

// Handover puts everything back for the program that this process executes next, which is this one in its sandbox. Nothing else may be
// started after it.
func (s *Supervisor) Handover() error {
	set := map[string]string{}
	if s.conn != nil {
		f, err := s.conn.File() // a copy, which stays open
		if err != nil {
			return fmt.Errorf("keeping the supervisor's socket: %w", err)
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, firstFD+mostFDs) // without close-on-exec
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("keeping the supervisor's socket: %w", err)
		}
		set[notifyFD] = strconv.Itoa(fd)
	}
	if s.Watchdog > 0 {
		set[watchdogMicro] = strconv.FormatInt(s.Watchdog.Microseconds(), 10)
	}
	if len(s.fds) > 0 {
		for _, fd := range s.fds {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
				return fmt.Errorf("keeping a passed listener: %w", err)
			}
		}
		set[listenPID], set[listenFDs], set[listenNames] = strconv.Itoa(os.Getpid()), strconv.Itoa(len(s.fds)), strings.Join(s.names, ":")
	}
	for name, v := range set {
		if err := os.Setenv(name, v); err != nil {
			return err
		}
	}
	return nil
}

// Passes says whether listeners were passed. If so, exactly those with these names must have been, each once.
func (s *Supervisor) Passes(names ...string) (bool, error) {
	if len(s.fds) == 0 {
		return false, nil
	}
	got, want := slices.Sorted(slices.Values(s.names)), slices.Sorted(slices.Values(names))
	if len(s.names) != len(s.fds) || !slices.Equal(got, want) {
		return false, fmt.Errorf("%d sockets with the names %q were passed (%s); pass either none or one each named %q (FileDescriptorName= in the socket units)",
			len(s.fds), s.names, listenNames, names)
	}
	return true, nil
}

// Listener takes the passed listener of that name.
func (s *Supervisor) Listener(name string) (net.Listener, error) {
	i := slices.Index(s.names, name)
	if i < 0 || i >= len(s.fds) || s.fds[i] < 0 {
		return nil, fmt.Errorf("no socket named %q was passed", name)
	}
	f := os.NewFile(uintptr(s.fds[i]), name)
	s.fds[i] = -1
	defer f.Close() // the listener has a copy
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the passed socket %q does not listen: %w", name, err)
	}
	if _, ok := l.(*net.TCPListener); !ok {
		return nil, errors.Join(fmt.Errorf("the passed socket %q is no TCP socket: ListenStream=host:port was expected", name), l.Close())
	}
	return l, nil
}

// Ready says that requests are served from now on.
func (s *Supervisor) Ready(status string) error { return s.send("READY=1\n" + line(status)) }

// Stopping says that this process is on its way out by its own will.
func (s *Supervisor) Stopping(status string) error { return s.send("STOPPING=1\n" + line(status)) }

// Status tells a person how it goes.
func (s *Supervisor) Status(status string) error { return s.send(line(status)) }

// Alive is the sign of life that the watchdog waits for.
func (s *Supervisor) Alive() error { return s.send("WATCHDOG=1") }

// line makes one assignment of any text: a line end would begin another.
func line(status string) string {
	status, _, _ = strings.Cut(status, "\n")
	if len(status) > statusMost {
		status = strings.ToValidUTF8(status[:statusMost], "") + "…"
	}
	return "STATUS=" + status
}

func (s *Supervisor) send(state string) error {
	if s == nil || s.conn == nil {
		return nil
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(sendWithin)); err != nil {
		return fmt.Errorf("telling the supervisor: %w", err)
	}
	if _, err := s.conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("telling the supervisor: %w", err)
	}
	return nil
}
