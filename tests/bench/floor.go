package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"sealkeeper/softhsm"
)

// floor is CPU µs of one operation.
type floor struct{ verify, sign, hsm float64 }

func (b *bench) floors(ctx context.Context, a *appliance) (f floor, err error) {
	if f.verify, f.sign, err = publicKey(); err != nil {
		return f, err
	}
	one, err := b.pool(ctx, a, 1)
	f.hsm = one.micros
	return f, err
}

// verifying measures a P-256 verification again and again until it is asked, for a fiftieth of one processor: a shared machine's speed changes from
// second to second, and what a request costs is compared with what a verification cost while it was served.
func verifying() (ended func() (micros float64, err error), err error) { return verifyingOn(nil) }

// verifyingOn does it on these CPUs; nil: on any.
func verifyingOn(cpus *unix.CPUSet) (ended func() (micros float64, err error), err error) {
	verify, _, err := operations()
	if err != nil {
		return nil, err
	}
	return again(25*time.Millisecond, cpus, func() (float64, error) { return thread(4, verify) }), nil
}

// again measures again and again until it is asked, and then says the mean.
func again(every time.Duration, cpus *unix.CPUSet, measure func() (micros float64, err error)) (ended func() (micros float64, err error)) {
	var all []float64
	var failed error
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		if cpus != nil {
			runtime.LockOSThread() // and the thread ends with this
			if failed = unix.SchedSetaffinity(0, cpus); failed != nil {
				return
			}
		}
		t := time.NewTicker(every)
		defer t.Stop()
		for failed == nil {
			var micros float64
			if micros, failed = measure(); failed == nil {
				all = append(all, micros)
			}
			select {
			case <-t.C:
			case <-stop:
				return
			}
		}
	}()
	return func() (float64, error) {
		close(stop)
		<-done
		return mean(all), failed
	}
}

func mean(all []float64) float64 {
	sum := 0.0
	for _, v := range all {
		sum += v
	}
	return sum / float64(max(1, len(all)))
}

// signatures is a process with one session, which measures signatures of the HSM while requests are served, as verifying does verifications.
type signatures struct {
	cmd *exec.Cmd
	ask io.WriteCloser
	out *bufio.Reader
}

// signing starts it on a copy of the installation's token.
func (b *bench) signing(ctx context.Context, a *appliance) (*signatures, error) {
	env, err := b.token(a)
	if err != nil {
		return nil, err
	}
	c, err := command(ctx, env, "signing", a.pin())
	if err != nil {
		return nil, err
	}
	s := &signatures{cmd: c}
	out, err1 := c.StdoutPipe()
	ask, err2 := c.StdinPipe()
	if err := errors.Join(err1, err2, c.Start()); err != nil {
		return nil, err
	}
	s.ask, s.out = ask, bufio.NewReader(out)
	return s, nil
}

func (s *signatures) stop() {
	s.ask.Close()
	s.cmd.Wait()
}

// meanwhile measures a few signatures, as many as a worker's frame has, again and again until it is asked. Without a process it measures nothing.
func (s *signatures) meanwhile() (ended func() (micros float64, err error)) {
	if s == nil {
		return func() (float64, error) { return 0, nil }
	}
	return again(50*time.Millisecond, nil, func() (micros float64, err error) {
		if _, err = io.WriteString(s.ask, "\n"); err == nil {
			_, err = fmt.Fscanln(s.out, &micros)
		}
		return micros, err
	})
}

func signingChild(args []string) error {
	sign, err := openPool(args[0], 1)
	if err != nil {
		return err
	}
	for in := bufio.NewReader(os.Stdin); ; {
		if _, err := in.ReadByte(); err != nil {
			return nil // who asks is gone
		}
		if _, err := thread(7, sign); err != nil { // a worker has signed just before
			return err
		}
		micros, err := thread(7, sign)
		if err != nil {
			return err
		}
		fmt.Println(micros)
	}
}

// publicKey measures P-256 in Go: CPU time of one thread, so that a busy machine does not count.
func publicKey() (verify, sign float64, err error) {
	verifies, signs, err := operations()
	if err != nil {
		return 0, 0, err
	}
	const n = 4000
	if verify, err = thread(n, verifies); err != nil {
		return 0, 0, err
	}
	sign, err = thread(n, signs)
	return verify, sign, err
}

// operations of a new key.
func operations() (verify, sign func() error, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	digest := sha256.Sum256([]byte("a floor"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return nil, nil, err
	}
	verify = func() error {
		if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
			return errors.New("P-256 does not verify")
		}
		return nil
	}
	return verify, func() error { _, err := ecdsa.SignASN1(rand.Reader, key, digest[:]); return err }, nil
}

// thread runs f n times on one thread and returns its CPU µs.
func thread(n int, f func() error) (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() (time.Duration, error) { // getrusage would not count what ran since the last tick
		var t unix.Timespec
		err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
		return time.Duration(t.Nano()), err
	}
	before, err := used()
	if err != nil {
		return 0, err
	}
	for range n {
		if err := f(); err != nil {
			return 0, err
		}
	}
	after, err := used()
	return float64((after - before).Nanoseconds()) / 1000 / float64(n), err
}

// signing is what a way to the HSM does.
type signing struct {
	perSecond float64
	micros    float64 // CPU of one signature
}

// pool measures a plain pool of two sessions in one process, on a copy of the installation's token and with session copies of the key, as
// the appliance has them. With one caller it is one session on one thread: the least that a signature costs.
func (b *bench) pool(ctx context.Context, a *appliance, callers int) (s signing, err error) {
	env, err := b.token(a)
	if err != nil {
		return s, err
	}
	c, err := command(ctx, env, "pool", a.pin(), strconv.Itoa(callers), strconv.Itoa(b.size.signs))
	if err != nil {
		return s, err
	}
	out, err := c.Output()
	if err != nil {
		return s, err
	}
	_, err = fmt.Sscan(string(out), &s.perSecond, &s.micros)
	return s, err
}

func (a *appliance) pin() string { return filepath.Join(a.dir, "data", "pins", "online") }

// token is the environment in which the module finds a copy of the installation's token.
func (b *bench) token(a *appliance) ([]string, error) {
	dir := filepath.Join(a.dir, "token-copy")
	if _, err := os.Stat(dir); err != nil {
		if err := copyToken(filepath.Join(a.dir, "data", "tokens", "online"), dir); err != nil {
			return nil, err
		}
	}
	return softhsm.Env(dir), nil
}

// copyToken copies a token's directory, so that another process can use its keys meanwhile.
func copyToken(from, to string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	file := filepath.Join(to, "softhsm2.conf")
	conf, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.Chmod(file, 0o600); err != nil {
		return err
	}
	return os.WriteFile(file, bytes.ReplaceAll(conf, []byte(from), []byte(to)), 0o600)
}

func command(ctx context.Context, env []string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, self, append([]string{"child"}, args...)...)
	c.Env = append(os.Environ(), env...)
	c.Stderr = os.Stderr
	return c, nil
}

func child(what string, args []string) error {
	switch what {
	case "pool":
		return poolChild(args)
	case "signing":
		return signingChild(args)
	case "echo":
		return echoChild(args)
	}
	return fmt.Errorf("no floor is called %q", what)
}

// openPool gives what signs with one of a pool's sessions, two at most.
func openPool(pinFile string, callers int) (sign func() error, err error) {
	pin, err := os.ReadFile(pinFile)
	if err != nil {
		return nil, err
	}
	module, err := softhsm.FindModule("")
	if err != nil {
		return nil, err
	}
	ctx := pkcs11.New(module)
	if ctx == nil {
		return nil, fmt.Errorf("%s can't be loaded", module)
	}
	if err := ctx.Initialize(); err != nil {
		return nil, err
	}
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return nil, err
	}
	sessions := make(chan pkcs11.SessionHandle, 2)
	var first pkcs11.SessionHandle
	for i := range min(2, callers) {
		h, err := ctx.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			first = h
			if err := ctx.Login(h, pkcs11.CKU_USER, strings.TrimSpace(string(pin))); err != nil {
				return nil, err
			}
		}
		sessions <- h
	}
	key, err := sessionCopy(ctx, first)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte("a floor"))
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}
	return func() error {
		h := <-sessions
		defer func() { sessions <- h }()
		if err := ctx.SignInit(h, mechanism, key); err != nil {
			return err
		}
		_, err := ctx.Sign(h, digest[:])
		return err
	}, nil
}

func poolChild(args []string) error {
	callers, err1 := strconv.Atoi(args[1])
	n, err2 := strconv.Atoi(args[2])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	sign, err := openPool(args[0], callers)
	if err != nil {
		return err
	}
	if callers == 1 {
		began := time.Now()
		micros, err := thread(n/4, sign)
		fmt.Println(float64(n/4)/time.Since(began).Seconds(), micros)
		return err
	}
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		return err
	}
	began := time.Now()
	failed := make([]error, callers)
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for range n / callers {
				if failed[c] = sign(); failed[c] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		return err
	}
	done := float64(n / callers * callers)
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	fmt.Println(done/took.Seconds(), float64(cpu)/1000/done)
	return errors.Join(failed...)
}

// sessionCopy finds a private P-256 key that may be copied and copies it as session object.
func sessionCopy(ctx *pkcs11.Ctx, h pkcs11.SessionHandle) (pkcs11.ObjectHandle, error) {
	if err := ctx.FindObjectsInit(h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
		pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, true)}); err != nil {
		return 0, err
	}
	found, _, err := ctx.FindObjects(h, 1)
	if final := ctx.FindObjectsFinal(h); err != nil || final != nil {
		return 0, errors.Join(err, final)
	}
	if len(found) == 0 {
		return 0, errors.New("the token has no EC key that may be copied")
	}
	return ctx.CopyObject(h, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)})
}

var perOp = regexp.MustCompile(`(?m)^BenchmarkLayer\S*\s+\d+\s+([0-9.]+) ns/op`)

// layer measures the HSM layer alone: queue, frames, worker processes. It is a benchmark inside the signer's room, because nothing outside
// may ask for a signature without a reservation.
func (b *bench) layer(ctx context.Context, callers int) (perSecond float64, err error) {
	c := exec.CommandContext(ctx, filepath.Join(b.bin, "signer.test"), "-test.run=^$", "-test.bench=^BenchmarkLayer$", "-test.benchtime="+strconv.Itoa(b.size.signs)+"x")
	c.Env = append(os.Environ(), "LAYER_CALLERS="+strconv.Itoa(callers))
	out, err := c.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("the signer's benchmark: %w\n%s", err, out)
	}
	m := perOp.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("the signer's benchmark says nothing: %s", out)
	}
	ns, err := strconv.ParseFloat(string(m[1]), 64)
	return 1e9 / ns, err
}

const echoAnswer = 3 << 10 // about what an issued credential has

// echo measures what mTLS, HTTP and JSON-sized bodies cost alone, in requests per CPU second.
func (b *bench) echo(ctx context.Context, a *appliance) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	c := exec.CommandContext(ctx, self, "child", "echo", a.dir)
	c.Stderr = os.Stderr
	hold, err := c.StdinPipe() // it ends when we do
	if err != nil {
		return 0, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := c.Start(); err != nil {
		return 0, err
	}
	defer func() { hold.Close(); _ = c.Wait() }()
	var port int
	if _, err := fmt.Fscan(out, &port); err != nil {
		return 0, err
	}
	p, err := json.Marshal(map[string]string{"body": strings.Repeat("x", 3200)})
	if err != nil {
		return 0, err
	}
	requests := make([][]byte, 2*b.size.requests[64])
	one := request("/echo", json.RawMessage(p))
	for i := range requests {
		requests[i] = one
	}
	r, err := drive(ctx, a.tls["ward-office-1"], port, 64, requests, func() (time.Duration, error) { return cpuOf(c.Process.Pid) }, nil)
	return r.perCPU(), err
}

func echoChild(args []string) error {
	cert, err := tls.LoadX509KeyPair(filepath.Join(args[0], "data", "tls", "server.pem"), filepath.Join(args[0], "data", "tls", "server.key"))
	if err != nil {
		return err
	}
	root, err := os.ReadFile(filepath.Join(args[0], "clients", "ward-office-1", "ca.pem"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	answer := bytes.Repeat([]byte("x"), echoAnswer)
	s := &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err == nil {
				w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
				_, _ = w.Write(answer)
			}
		}),
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); s.Close() }()
	if err := s.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
