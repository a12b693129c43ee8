package signer

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sealkeeper/internal/durable"
	"sealkeeper/signer/wire"
)

const (
	readyWithin = 10 * time.Second // from start to Ready: module, login, key checks
	endWithin   = 2 * time.Second  // from a closed socket, and again from SIGKILL, to the end of a process

	// late is how late timers of a worker on the embedded token may be. SoftHSM has none, and Go's runtime but one that matters: its monitor
	// looks at a thread that is in the module every 20 µs, and each look takes a processor from who computes. It sleeps as long as this by itself
	// when it has nothing to do. Another module may have timers of its own.
	late = 10 * time.Millisecond
)

// starter runs every exec on one locked OS thread: the kernel sends the parent-death signal when the thread that forked ends, not the
// process, and Go ends threads as it likes. What the thread may not, its children may not either: Token.Confine is called on
// it before anything is started. There is a starter for each token, because what is confined stays so.
type starter struct {
	starts chan start
	ended  sync.Once
}

type start struct {
	cmd    *exec.Cmd
	result chan error
}

func newStarter(t Token) *starter {
	s := &starter{starts: make(chan start)}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine, after all its children did
		if t.Copies {
			unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(late), 0, 0, 0) // children inherit it; without it they only cost more
		}
		var confined error
		if t.Confine != nil {
			confined = t.Confine()
		}
		for c := range s.starts {
			if confined != nil {
				c.result <- fmt.Errorf("confining workers: %w", confined)
				continue
			}
			c.result <- c.cmd.Start()
		}
	}()
	return s
}

func (s *starter) start(c *exec.Cmd) error {
	result := make(chan error, 1)
	s.starts <- start{c, result}
	return <-result
}

func (s *starter) close() { s.ended.Do(func() { close(s.starts) }) }

// process is one worker. Fields below the line belong to pool.mu.
type process struct {
	name       string // token/pid.n, unique for the life of this daemon; journalled with attempts
	generation int    // of the registry that it was started with
	place      int    // Token.Environment
	conn       net.Conn
	in         *bufio.Reader
	cmd        *exec.Cmd
	exited     chan struct{}

	work     *sync.Cond // its dispatcher waits here
	batches  map[uint64]*batch
	bytes    int // of TBS, in batches
	next     uint64
	alone    bool // the batch in flight tolerates no other beside it
	long     bool // and it may take longer than a signature
	retired  bool // takes nothing more, ends when its batches are answered
	gone     bool // left the pool
	answered bool
	idle     *time.Timer
}

// failedStart says why a worker did not become ready. stop: no further try.
type failedStart struct {
	err       error
	stop, pin bool
}

func (f *failedStart) Error() string { return f.err.Error() }
func (f *failedStart) Unwrap() error { return f.err }

// armed refuses while the marker of a refused PIN exists. One wrong PIN too many locks a token for good, so it takes a person to try again.
func armed(t Token) error {
	if t.Marker == "" {
		return nil
	}
	switch text, err := os.ReadFile(t.Marker); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%w: can't tell whether the PIN of token %q was refused before: %w", ErrDown, t.Name, err) // now
	default:
		why, _, _ := strings.Cut(string(text), "\n")
		return &failedStart{stop: true, pin: true, // the workers that are logged in stay, as they did when it was refused
			err: fmt.Errorf("%w: token %q refused its PIN before (%s): remove %s after the PIN at its source was corrected, then restart", ErrDown, t.Name, cmp.Or(why, "no room to say why"), t.Marker)}
	}
}

// spawn starts a worker process at a place and waits until it is ready.
func (p *pool) spawn(generation, place int) (*process, error) {
	if err := armed(p.token); err != nil {
		return nil, err
	}
	p.spare()
	hello, err := p.hello(p.ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the registry for token %q: %w", p.token.Name, err)
	}
	theirs, conn, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	abort := context.AfterFunc(p.ctx, func() { conn.Close() })
	defer abort()

	cmd := p.token.Command()
	if p.token.Environment != nil {
		cmd.Env = append(cmd.Env, p.token.Environment(place)...)
	}
	cmd.ExtraFiles = []*os.File{theirs} // file descriptor 3
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true // a terminal's Ctrl-C drains the daemon, and the drain needs workers
	out := &lines{log: p.log.With("token", p.token.Name), left: 200}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = endWithin
	if err := p.starter.start(cmd); err != nil {
		conn.Close()
		return nil, fmt.Errorf("starting a worker of token %q: %w", p.token.Name, err)
	}
	theirs.Close() // or its end would never be seen as closed
	p.mu.Lock()
	p.serial++
	p.processes++
	w := &process{
		name:       fmt.Sprintf("%s/%d.%d", p.token.Name, cmd.Process.Pid, p.serial),
		generation: generation, place: place, conn: conn, in: bufio.NewReaderSize(conn, 64<<10), cmd: cmd,
		exited: make(chan struct{}), work: sync.NewCond(&p.mu), batches: map[uint64]*batch{},
	}
	p.mu.Unlock()
	out.setName(w.name)
	go func() {
		cmd.Wait() // the state is read from cmd.ProcessState
		out.flush()
		close(w.exited)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.processes--
		p.state.Broadcast()
	}()
	if err := p.greet(w, hello); err != nil {
		w.cmd.Process.Kill()
		conn.Close()
		p.reap(w)
		return nil, err
	}
	return w, nil
}

// greet hands the worker what it needs, the PIN last and shortest, and hears whether every key is what the registry says.
func (p *pool) greet(w *process, hello wire.Hello) error {
	pin, err := p.token.PIN()
	if err != nil {
		return fmt.Errorf("reading the PIN of token %q: %w", p.token.Name, err)
	}
	w.conn.SetDeadline(time.Now().Add(readyWithin))
	hello.PIN = pin
	err = wire.WriteSecret(w.conn, hello)
	wire.Wipe(pin)
	if err != nil {
		return fmt.Errorf("greeting worker %s: %w", w.name, err)
	}
	var ready wire.Ready
	if err := wire.Read(w.in, &ready); err != nil {
		return fmt.Errorf("worker %s did not become ready: %w", w.name, err)
	}
	w.conn.SetDeadline(time.Time{})
	switch ready.Class {
	case wire.OK:
		return nil
	case wire.Missing:
		return &failedStart{err: fmt.Errorf("%w: %w: token %q: %s", ErrDown, ErrOldToken, p.token.Name, ready.Error), stop: true}
	case wire.Stop:
		f := &failedStart{err: fmt.Errorf("%w: token %q: %s", ErrDown, p.token.Name, ready.Error), stop: true}
		if refusedPIN(ready.Error) {
			f.pin = true
			f.err = p.disarm(ready.Error)
		}
		return f
	default:
		return fmt.Errorf("worker %s can't start (%s): %s", w.name, ready.Class, ready.Error)
	}
}

// refusedPIN tells a PIN that was refused from a key that is not what it was. Both stop; taking the one for the other costs a person's
// look, never a further try.
func refusedPIN(text string) bool { return strings.Contains(text, "PIN") }

// spareOf is an empty file that becomes the marker if there is no room for one.
func spareOf(t Token) string { return t.Marker + ".spare" }

// spare makes it before a PIN is tried. Without it locks are signed all the same.
func (p *pool) spare() {
	if p.token.Marker == "" {
		return
	}
	if _, err := os.Stat(spareOf(p.token)); !errors.Is(err, os.ErrNotExist) {
		return
	}
	if err := durable.WriteFile(spareOf(p.token), nil, 0o600); err != nil {
		p.log.Warn("no spare marker for a PIN that is refused", "token", p.token.Name, "error", err)
	}
}

// disarm leaves the durable marker.
func (p *pool) disarm(why string) error {
	if p.token.Marker == "" {
		return fmt.Errorf("%w: token %q refused its PIN: %s", ErrDown, p.token.Name, why)
	}
	why, _, _ = strings.Cut(why, "\n")
	err := durable.WriteFile(p.token.Marker, []byte(why+"\n"), 0o600)
	if err != nil { // a name has room where a file has none
		p.log.Error("the marker of a refused PIN can't say why", "token", p.token.Name, "error", err)
		if err = os.Rename(spareOf(p.token), p.token.Marker); err == nil {
			err = durable.SyncDir(filepath.Dir(p.token.Marker))
		}
	}
	if err != nil {
		return fmt.Errorf("%w: token %q refused its PIN (%s), and no marker against further tries could be left: %w", ErrDown, p.token.Name, why, err)
	}
	return armed(p.token)
}

// reap waits until a killed or closed worker is gone, with a bound: a process in an uninterruptible call ends when the kernel lets it.
func (p *pool) reap(w *process) {
	select {
	case <-w.exited:
	case <-time.After(endWithin):
		w.cmd.Process.Kill()
		select {
		case <-w.exited:
		case <-time.After(endWithin):
			p.log.Error("a killed worker does not end: its module hangs in the kernel", "worker", w.name)
			return // stays counted in p.processes until the kernel lets it go; that bounds how many of these there can be
		}
	}
	p.log.Info("worker ended", "worker", w.name, "state", w.cmd.ProcessState.String())
}

// socketpair returns the worker's end and ours. Ours is non-blocking, so that closing it ends a blocked write.
func socketpair() (*os.File, net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "daemon")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("making a socketpair: %w", err)
	}
	return theirs, conn, nil
}

// lines logs what a worker prints, line by line. Lines are cut and their number is bounded: a module that prints its soul must not fill
// the disk.
type lines struct {
	log *slog.Logger

	mu   sync.Mutex
	name string
	part []byte
	left int
}

const maxLine = 1024

func (l *lines) setName(name string) { l.mu.Lock(); defer l.mu.Unlock(); l.name = name }

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := b; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		l.part = append(l.part, line[:min(len(line), maxLine-len(l.part))]...)
		if ended {
			l.emit()
		}
		rest = after
	}
	return len(b), nil
}

func (l *lines) flush() { l.mu.Lock(); defer l.mu.Unlock(); l.emit() }

func (l *lines) emit() {
	if len(l.part) > 0 && l.left > 0 {
		l.left--
		l.log.Info("worker says", "worker", l.name, "line", string(l.part), "last", l.left == 0)
	}
	l.part = l.part[:0]
}
