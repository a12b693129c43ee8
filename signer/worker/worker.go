// Package worker uses a PKCS#11 module, in a process of its own: a module that hangs or crashes takes nothing with it but this process,
// which the daemon kills and replaces.
//
// The order of a start is fixed, because each step protects the next: no core dumps and no ptrace before a PIN is in memory; one C_Login per
// process, and the PIN wiped right after, so that no error path can try a PIN again and lock the token; every key looked up by CKA_ID,
// and its attributes and public key compared with the registry, before the first request is read. Handles are never trusted over a
// reconnect: SoftHSM numbers objects anew after C_Initialize, so that an old handle may be another key.
//
// What the worker does not do: it signs no challenge of its own at the start, because every signature belongs to a journalled attempt
// (I6). That private and public object belong together is shown by the daemon's self test and by release, which verifies each signature.
package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"sealkeeper/signer/wire"
)

// Options of Run.
type Options struct {
	// Guard runs start, which is everything from C_Initialize to C_Login, while no other process does the same with this token. SoftHSM
	// truncates token.object during C_Login: softhsm.Guard. nil: start is just run.
	Guard func(start func() error) error
	// Sync makes what the module has written survive a power cut, if the module does not see to that itself. SoftHSM does not: softhsm.Sync.
	Sync func() error
}

// MaxSessions bounds wire.Hello.Sessions. More sessions than cores add only latency.
const MaxSessions = 64

// Run is the child process: it reads wire.Hello from conn, answers wire.Ready, then serves requests until conn ends (nil) or the module is
// of no use any more (an error; everything that a session took is answered first). The caller should exit the process soon after: the module
// stays loaded, since unloading one crashes on some systems.
func Run(conn io.ReadWriteCloser, o Options) error {
	defer conn.Close()
	if err := harden(); err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	var hello wire.Hello
	if err := wire.Read(in, &hello); err != nil {
		return fmt.Errorf("reading hello: %w", err)
	}
	t, err := open(&hello, o.Guard)
	var own []*session
	if err == nil {
		own, err = t.sessions(max(1, hello.Sessions))
	}
	if err != nil {
		c := class(err)
		if c != wire.Worker && c != wire.Missing {
			c = wire.Stop // the same keys, the same registry: another process would find the same
		}
		return errors.Join(err, wire.Write(conn, wire.Ready{Class: c, Error: err.Error()}))
	}
	t.sync = o.Sync
	if err := wire.Write(conn, wire.Ready{Serial: t.serial}); err != nil {
		return err
	}
	return serve(conn, in, own)
}

// batch is a request on its way through the sessions: each takes its share of the items; who finishes the last one answers.
type batch struct {
	wire.Request
	share      int // items that a session takes at once
	next, left atomic.Int64
	answer     wire.Response
}

func serve(conn io.ReadWriter, in *bufio.Reader, own []*session) error {
	s := &server{out: conn, token: own[0].token, sessions: len(own), failed: make(chan struct{})}
	if len(own) == 1 {
		// Who reads signs: no second thread is woken for each frame. If the module hangs, nobody sees the socket close, but then the daemon
		// kills, or the kernel does once the daemon is dead. With more than one processor Go would wake a thread now and then to look for work,
		// and that thread would go on, with nothing of what the module has kept at hand for this one.
		runtime.GOMAXPROCS(1)
		s.read(in, func(b *batch) { s.work(b, own[0]) })
		return s.cause
	}
	batches := make(chan *batch) // unbuffered: what is not being worked on waits in the socket, where the daemon can see it
	var busy sync.WaitGroup
	for _, one := range own {
		busy.Go(func() { s.session(batches, one) })
	}
	go s.read(in, func(b *batch) {
		for range min(int(b.left.Load()), s.sessions) {
			select {
			case batches <- b:
			case <-s.failed: // if no session has it, the daemon gives it to another worker
				return
			}
		}
	})
	<-s.failed

	// A session may be inside a module that never returns; everyone else gets the time to answer.
	done := make(chan struct{})
	go func() { busy.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
	}
	return s.cause // written before failed was closed
}

type server struct {
	token    *token
	sessions int
	write    sync.Mutex
	out      io.Writer
	once     sync.Once
	cause    error         // why failed was closed; nil when the daemon hung up
	failed   chan struct{} // closed when the process has to end
}

// fail ends the process once everything that was read is answered. The first cause stays.
func (s *server) fail(cause error) {
	s.once.Do(func() {
		s.cause = cause
		close(s.failed)
	})
}

// ended returns the failure that ends the process, or nil.
func (s *server) ended() error {
	select {
	case <-s.failed:
	default:
		return nil
	}
	if s.cause == nil {
		return refuse(wire.Worker, "this worker is ending")
	}
	return s.cause
}

// read gives every request to those that work, until the process has to end.
func (s *server) read(in *bufio.Reader, give func(*batch)) {
	for s.ended() == nil {
		b := new(batch)
		if err := wire.Read(in, &b.Request); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil // the daemon hung up: the end
			}
			s.fail(err)
			return
		}
		n := 1
		b.answer.ID = b.ID
		if b.Op == wire.OpSign && len(b.Sign) > 0 {
			n = len(b.Sign)
			b.answer.Results = make([]wire.Result, n)
		}
		b.share = (n + s.sessions - 1) / s.sessions
		b.left.Store(int64(n))
		give(b)
	}
}

func (s *server) session(batches <-chan *batch, own *session) {
	for {
		select {
		case b := <-batches:
			s.work(b, own)
		case <-s.failed:
			return
		}
	}
}

// work does shares of b until none is left.
func (s *server) work(b *batch, own *session) {
	n := max(1, len(b.answer.Results))
	for {
		to := int(b.next.Add(int64(b.share)))
		from := to - b.share
		if from >= n {
			return
		}
		to = min(to, n)
		err := s.ended()
		if b.answer.Results == nil {
			if err == nil {
				err = s.other(b, own)
			}
			if class(err) == wire.Session { // making a key has no second try here, as the first may have made one
				err = &failure{wire.Worker, "not tried again", err}
			}
			b.answer.Class, b.answer.Error = class(err), text(err)
		} else {
			done := from
			if err == nil {
				done, err = own.sign(b.Sign[from:to], b.answer.Results[from:to])
				done += from
			}
			for i := done; i < to; i++ { // the process ends with err
				b.answer.Results[i] = wire.Result{Class: class(err), Error: text(err)}
			}
		}
		if b.left.Add(int64(from-to)) == 0 {
			s.write.Lock()
			if err := wire.Write(s.out, &b.answer); err != nil {
				s.fail(err)
			}
			s.write.Unlock()
			wire.Wipe(b.answer.Secret)
			b.Signed()
		}
		if c := class(err); c == wire.Worker || c == wire.Stop {
			s.fail(err)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// other does what is not a signature, and leaves its result in b.answer.
func (s *server) other(b *batch, own *session) (err error) {
	a := &b.answer
	switch b.Op {
	case wire.OpSign:
		return refuse(wire.Faulty, "a signing request without items")
	case wire.OpDerive:
		a.Secret, err = own.derive(b.Label)
	case wire.OpGenerate:
		if b.Generate == nil {
			return refuse(wire.Faulty, "a request to generate without a template")
		}
		a.CKAID, a.SPKI, err = s.token.generate(*b.Generate)
	case wire.OpSecret:
		a.CKAID, a.Blob, err = s.token.newSecret()
	case wire.OpMark:
		a.Marks, err = own.mark(b.Mark)
	case wire.OpDestroy:
		err = s.token.destroy(b.Destroy)
	case wire.OpKeys:
		a.Keys, err = own.privateKeys()
	case wire.OpPing: // answered by a session that is free, so a module in which all hang is seen
	default:
		return refuse(wire.Faulty, "unknown operation %d", b.Op)
	}
	return err
}
