package worker

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/pkcs11"

	"sealkeeper/signer/wire"
)

const (
	label = "worker-test"
	pin   = "abcd-1234"
	mode  = "SEALKEEPER_TEST_CHILD"
)

// TestMain lets the test binary be its own child processes, like the daemon: PKCS#11 modules live in children.
func TestMain(m *testing.M) {
	switch os.Getenv(mode) {
	case "worker", "worker-twice":
		o := Options{}
		if os.Getenv(mode) == "worker-twice" {
			o.Guard = func(start func() error) error { return errors.Join(start(), start()) }
		}
		if err := Run(os.NewFile(3, "socket"), o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	case "init":
		initToken()
		os.Exit(0)
	case "pair":
		strangePair()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func module(t testing.TB) string {
	for _, p := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so",
		"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Skip("SoftHSM is not installed (Debian: apt-get install libsofthsm2), so nothing here can be tested")
	return ""
}

// hsm is a fresh SoftHSM token in a directory of its own.
type hsm struct {
	t      testing.TB
	module string
	conf   string
}

func newHSM(t testing.TB) *hsm {
	h := &hsm{t: t, module: module(t), conf: filepath.Join(t.TempDir(), "softhsm2.conf")}
	tokens := filepath.Join(filepath.Dir(h.conf), "tokens")
	os.Mkdir(tokens, 0o700)
	conf := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
	if err := os.WriteFile(h.conf, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	h.run("init")
	return h
}

func (h *hsm) command(what string, extra ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", mode+"="+what, "SOFTHSM2_CONF="+h.conf, "MODULE="+h.module)
	cmd.Env = append(cmd.Env, extra...)
	cmd.Stderr = os.Stderr
	return cmd
}

func (h *hsm) run(what string, extra ...string) []byte {
	h.t.Helper()
	out, err := h.command(what, extra...).Output()
	if err != nil {
		h.t.Fatalf("%s: %v", what, err)
	}
	return out
}

func (h *hsm) hello(keys ...wire.Key) wire.Hello {
	return wire.Hello{Module: h.module, Token: label, PIN: []byte(pin), Keys: keys, Sessions: 2}
}

// child is a worker process.
type child struct {
	t    testing.TB
	cmd  *exec.Cmd
	conn net.Conn
	in   *bufio.Reader
	next uint64
}

func (h *hsm) start(hello wire.Hello) (*child, wire.Ready) { return h.startAs("worker", hello) }

func (h *hsm) startAs(what string, hello wire.Hello) (*child, wire.Ready) {
	h.t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	theirs, ours := os.NewFile(uintptr(fds[0]), "theirs"), os.NewFile(uintptr(fds[1]), "ours")
	conn, err := net.FileConn(ours)
	if err != nil {
		h.t.Fatal(err)
	}
	ours.Close()
	c := &child{t: h.t, cmd: h.command(what), conn: conn, in: bufio.NewReader(conn)}
	c.cmd.Stderr = nil
	c.cmd.ExtraFiles = []*os.File{theirs}
	if err := c.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	theirs.Close()
	h.t.Cleanup(func() { conn.Close(); c.cmd.Process.Kill(); c.cmd.Wait() })
	if err := wire.Write(conn, hello); err != nil {
		h.t.Fatal(err)
	}
	var r wire.Ready
	if err := wire.Read(c.in, &r); err != nil {
		h.t.Fatal("reading ready: ", err)
	}
	return c, r
}

// ready is start for a worker that has to be ready.
func (h *hsm) ready(hello wire.Hello) *child {
	h.t.Helper()
	c, r := h.start(hello)
	if r.Class != wire.OK || r.Serial == "" {
		h.t.Fatalf("not ready: %+v", r)
	}
	return c
}

// refused is start for a worker that must refuse to start, with words in its error.
func (h *hsm) refused(hello wire.Hello, words ...string) {
	h.t.Helper()
	h.refusedAs(wire.Stop, hello, words...)
}

func (h *hsm) refusedAs(as wire.Class, hello wire.Hello, words ...string) {
	h.t.Helper()
	c, r := h.start(hello)
	if r.Class != as {
		h.t.Errorf("class %q instead of %s: %s", r.Class, as, r.Error)
	}
	for _, w := range words {
		if !strings.Contains(r.Error, w) {
			h.t.Errorf("%q does not say %q", r.Error, w)
		}
	}
	if len(hello.PIN) > 0 && strings.Contains(r.Error, string(hello.PIN)) {
		h.t.Error("the PIN is in the error")
	}
	if c.cmd.Wait(); c.cmd.ProcessState.ExitCode() != 3 {
		h.t.Errorf("the worker ended with %s", c.cmd.ProcessState)
	}
}

func (c *child) ask(q wire.Request) wire.Response {
	c.t.Helper()
	c.next++
	q.ID = c.next
	if err := wire.Write(c.conn, q); err != nil {
		c.t.Fatal(err)
	}
	var a wire.Response
	if err := wire.Read(c.in, &a); err != nil {
		c.t.Fatal(err)
	}
	if a.ID != q.ID {
		c.t.Fatalf("answer %d to request %d", a.ID, q.ID)
	}
	return a
}

func (c *child) generate(alg string, copies bool) wire.Key {
	c.t.Helper()
	a := c.ask(wire.Request{Op: wire.OpGenerate, Generate: &wire.Generate{Label: "test " + alg, Algorithm: alg, Copies: copies}})
	if a.Class != wire.OK || len(a.CKAID) != 16 {
		c.t.Fatalf("generating %s: %+v", alg, a)
	}
	return wire.Key{ID: alg, CKAID: a.CKAID, Purpose: "sd-jwt", Algorithm: alg, SPKI: a.SPKI, Copies: copies}
}

func tbs(alg string, n int) []byte {
	e := base64.RawURLEncoding
	return fmt.Appendf(nil, "%s.%s", e.EncodeToString([]byte(`{"alg":"`+alg+`","typ":"dc+sd-jwt"}`)), e.EncodeToString(fmt.Appendf(nil, `{"n":%d}`, n)))
}

func verify(spki, tbs, sig []byte) bool {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return false
	}
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, tbs, sig)
	case *ecdsa.PublicKey:
		h := sha256.Sum256(tbs)
		digest := h[:]
		if k.Curve.Params().BitSize == 384 {
			h := sha512.Sum384(tbs)
			digest = h[:]
		}
		half := len(sig) / 2
		return ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:]))
	}
	return false
}

// A key that was just made signs only after the daemon has put it into the registry and started the worker with it.
func TestGenerateReloadSignVerify(t *testing.T) {
	h := newHSM(t)
	maker := h.ready(h.hello())
	var keys []wire.Key
	for _, alg := range []string{wire.ES256, wire.ES384, wire.EdDSA} {
		for _, copies := range []bool{false, true} {
			k := maker.generate(alg, copies)
			k.ID = fmt.Sprintf("%s-%t", alg, copies)
			keys = append(keys, k)
		}
	}
	if a := maker.ask(wire.Request{Op: wire.OpSign, Sign: []wire.Sign{{KeyID: keys[0].ID, Purpose: "sd-jwt", TBS: tbs("ES256", 1)}}}); a.Results[0].Class != wire.Faulty {
		t.Errorf("signed with a key that is in no registry: %+v", a)
	}
	for _, copies := range []bool{false, true} {
		hello := h.hello(keys...)
		hello.Copies = copies
		if copies {
			hello.Sessions = 1
		}
		w := h.ready(hello)
		var items []wire.Sign
		for i := range 24 {
			k := keys[i%len(keys)]
			items = append(items, wire.Sign{KeyID: k.ID, Purpose: "sd-jwt", TBS: tbs(k.Algorithm, i)})
		}
		a := w.ask(wire.Request{Op: wire.OpSign, Sign: items})
		if a.Class != wire.OK || len(a.Results) != len(items) {
			t.Fatalf("%+v", a)
		}
		for i, r := range a.Results {
			if k := keys[i%len(keys)]; r.Class != wire.OK || !verify(k.SPKI, items[i].TBS, r.Signature) {
				t.Errorf("copies %t, %s: %+v", copies, k.ID, r)
			}
		}
		if a := w.ask(wire.Request{Op: wire.OpPing}); a.Class != wire.OK {
			t.Errorf("ping: %+v", a)
		}
	}
}

// The rest of a batch is signed although some of its items are refused.
func TestRefusedItems(t *testing.T) {
	h := newHSM(t)
	k := h.ready(h.hello()).generate(wire.ES256, false)
	w := h.ready(h.hello(k))
	good := wire.Sign{KeyID: k.ID, Purpose: "sd-jwt", TBS: tbs("ES256", 1)}
	bad := []wire.Sign{
		{KeyID: "other", Purpose: "sd-jwt", TBS: good.TBS},
		{KeyID: k.ID, Purpose: "mdoc", TBS: good.TBS},
		{KeyID: k.ID, Purpose: "sd-jwt", TBS: tbs("ES384", 1)},
		{KeyID: k.ID, Purpose: "sd-jwt", TBS: make([]byte, 32)},
		{KeyID: k.ID, Purpose: "sd-jwt"},
	}
	a := w.ask(wire.Request{Op: wire.OpSign, Sign: append(append([]wire.Sign{good}, bad...), good)})
	for i, r := range a.Results {
		if i == 0 || i == len(bad)+1 {
			if r.Class != wire.OK || !verify(k.SPKI, good.TBS, r.Signature) {
				t.Errorf("item %d: %+v", i, r)
			}
		} else if r.Class != wire.Faulty || r.Signature != nil || r.Error == "" {
			t.Errorf("item %d: %+v", i, r)
		}
	}
	for _, q := range []wire.Request{{Op: wire.OpSign}, {Op: 99}, {Op: wire.OpGenerate}, {Op: wire.OpDerive, Label: "sealkeeper/v1/x"},
		{Op: wire.OpGenerate, Generate: &wire.Generate{Label: "x", Algorithm: "RS256"}}} {
		if a := w.ask(q); a.Class != wire.Faulty || a.Error == "" {
			t.Errorf("%+v: %+v", q, a)
		}
	}
}

func TestKeysThatAreNotThoseOfTheRegistryAreRefusedByName(t *testing.T) {
	h := newHSM(t)
	maker := h.ready(h.hello())
	k, other := maker.generate(wire.ES256, false), maker.generate(wire.ES256, true)
	k.ID = "ds-1"

	changed := k
	changed.SPKI = other.SPKI
	h.refused(h.hello(changed), "ds-1", "not the pinned one")

	missing := k
	missing.CKAID = []byte{1, 2, 3}
	h.refusedAs(wire.Missing, h.hello(missing), "ds-1", "no private object", "010203")

	curve := k
	curve.Algorithm = wire.ES384
	h.refused(h.hello(curve), "ds-1")

	nocopy := k
	nocopy.Copies = true // the registry claims what the key's template does not allow
	hello := h.hello(nocopy)
	hello.Copies = true
	h.refused(hello, "ds-1", "C_CopyObject")

	var loose wire.Key
	if err := json.Unmarshal(h.run("pair", "ID=77"), &loose); err != nil {
		t.Fatal(err)
	}
	loose.ID, loose.Purpose, loose.Algorithm = "ds-loose", "mdoc", wire.ES256
	h.refused(h.hello(loose), "ds-loose", "CKA_ALLOWED_MECHANISMS")
	if err := json.Unmarshal(h.run("pair", "ID=78", "ONE_MECHANISM=1"), &loose); err != nil {
		t.Fatal(err)
	}
	loose.ID, loose.Purpose, loose.Algorithm = "ds-loose", "mdoc", wire.ES256
	h.refused(h.hello(loose), "ds-loose", "CKA_SENSITIVE", "CKA_EXTRACTABLE", "CKA_DECRYPT")

	h.ready(h.hello(k)).conn.Close() // still well
	h.run("pair", fmt.Sprintf("ID=%x", k.CKAID))
	h.refused(h.hello(k), "ds-1", "2 private objects", fmt.Sprintf("%x", k.CKAID))
}

func TestOnePINTryAndTheOnlyOne(t *testing.T) {
	h := newHSM(t)
	wrong := h.hello()
	wrong.PIN = []byte("9999-wrong")
	h.refused(wrong, "PIN", "CKR_PIN_INCORRECT")
	none := h.hello()
	none.PIN = nil
	h.refused(none, "no PIN was given")

	// A guard that starts twice does not make a second C_Login.
	c, r := h.startAs("worker-twice", h.hello())
	if r.Class != wire.Stop || !strings.Contains(r.Error, "twice") {
		t.Errorf("%+v", r)
	}
	c.cmd.Wait()
}

func TestTokenAndModuleThatAreNotThere(t *testing.T) {
	h := newHSM(t)
	hello := h.hello()
	hello.Module = "/nowhere/lib.so"
	h.refused(hello, "/nowhere/lib.so", "cannot open shared object file")
	for words, code := range map[string]string{
		"no PKCS#11 module":     "int x;",
		"C_GetFunctionList":     "unsigned long C_GetFunctionList(void **l) { return 6; }",
		"CKR_FUNCTION_FAILED":   "unsigned long C_GetFunctionList(void **l) { return 6; }",
		"gave no list":          "unsigned long C_GetFunctionList(void **l) { return 0; }",
		"lacks a function that": "static struct { unsigned char v[2]; void *f[68]; } e; unsigned long C_GetFunctionList(void **l) { *l = &e; return 0; }",
	} {
		hello := h.hello()
		hello.Module = filepath.Join(t.TempDir(), "module.so")
		cc := exec.Command("cc", "-shared", "-fPIC", "-x", "c", "-o", hello.Module, "-")
		cc.Stdin = strings.NewReader(code)
		if out, err := cc.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		h.refused(hello, hello.Module, words)
	}
	hello = h.hello()
	hello.Token = "another"
	if _, r := h.start(hello); r.Class != wire.Worker || !strings.Contains(r.Error, label) { // it may be plugged in later
		t.Errorf("%+v", r)
	}
	hello = h.hello()
	hello.Serial = "0000000000000000"
	if _, r := h.start(hello); r.Class != wire.Worker {
		t.Errorf("%+v", r)
	}
}

// Private keys are named in a worker that did nothing before; all of them, whoever made them.
func TestPrivateKeysOfAToken(t *testing.T) {
	h := newHSM(t)
	t.Setenv("SOFTHSM2_CONF", h.conf)
	hello := h.hello()
	stranger, err := open(&hello, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stranger.ctx.Finalize() })
	rw, err := stranger.ctx.OpenSession(stranger.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]bool{}
	for i := range 70 {
		id := fmt.Sprintf("key %d", i)
		made[id] = true
		if _, _, err := stranger.ctx.GenerateKeyPair(rw, algorithms[wire.ES256].generate, []*pkcs11.Attribute{attribute(pkcs11.CKA_EC_PARAMS, algorithms[wire.ES256].params[0])},
			[]*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_PRIVATE, true), attribute(pkcs11.CKA_ID, id)}); err != nil {
			t.Fatal(err)
		}
	}
	a := h.ready(h.hello()).ask(wire.Request{Op: wire.OpKeys})
	if a.Class != wire.OK || len(a.Keys) != len(made) {
		t.Fatalf("%d of %d keys: %s %s", len(a.Keys), len(made), a.Class, a.Error)
	}
	for _, id := range a.Keys {
		if !made[string(id)] {
			t.Errorf("key %x was not made", id)
		}
		delete(made, string(id))
	}
}

func TestDomainSecret(t *testing.T) {
	h := newHSM(t)
	a := h.ready(h.hello()).ask(wire.Request{Op: wire.OpSecret})
	if a.Class != wire.OK || len(a.Blob) != 40 {
		t.Fatalf("%+v", a)
	}
	hello := h.hello()
	hello.Secret = []wire.Wrapped{{CKAID: []byte("on another token"), Blob: []byte{1}}, {CKAID: a.CKAID, Blob: a.Blob}}
	derive := func(c *child, label string) []byte {
		r := c.ask(wire.Request{Op: wire.OpDerive, Label: label})
		if r.Class != wire.OK || len(r.Secret) != 32 {
			t.Fatalf("%+v", r)
		}
		return r.Secret
	}
	one, two := h.ready(hello), h.ready(hello)
	first := derive(one, "sealkeeper/v1/nonce")
	if !bytes.Equal(first, derive(two, "sealkeeper/v1/nonce")) {
		t.Error("another process derives something else")
	}
	if bytes.Equal(first, derive(two, "sealkeeper/v1/lookup")) {
		t.Error("another label derives the same")
	}
	for _, label := range []string{"", "nonce", "sealkeeper/v2/nonce", "sealkeeper/v1/" + strings.Repeat("x", 300)} {
		if r := one.ask(wire.Request{Op: wire.OpDerive, Label: label}); r.Class != wire.Faulty || r.Secret != nil {
			t.Errorf("%q: %+v", label, r)
		}
	}
	b := h.ready(h.hello()).ask(wire.Request{Op: wire.OpSecret})
	hello.Secret = []wire.Wrapped{{CKAID: b.CKAID, Blob: b.Blob}}
	if bytes.Equal(first, derive(h.ready(hello), "sealkeeper/v1/nonce")) {
		t.Error("two secrets are the same")
	}
	hello.Secret = []wire.Wrapped{{CKAID: a.CKAID, Blob: b.Blob}}
	if _, r := h.start(hello); r.Class == wire.OK || !strings.Contains(r.Error, "domain secret") {
		t.Errorf("a blob of another wrapping key: %+v", r)
	}
	hello.Secret = []wire.Wrapped{{CKAID: []byte{9}, Blob: a.Blob}}
	h.refusedAs(wire.Missing, hello, "domain secret", "restore")
}

func TestWorkerEndsWithItsSocket(t *testing.T) {
	h := newHSM(t)
	for _, sessions := range []int{1, 2} {
		hello := h.hello()
		hello.Sessions = sessions
		c := h.ready(hello)
		c.conn.Close()
		if c.cmd.Wait(); !c.cmd.ProcessState.Success() {
			t.Errorf("hung up: %s", c.cmd.ProcessState)
		}
	}
	c := h.ready(h.hello())
	c.conn.Write([]byte{0xff, 0xff, 0xff, 0xff})
	if c.cmd.Wait(); c.cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("a frame that is too large: %s", c.cmd.ProcessState)
	}
	c = h.ready(h.hello())
	c.cmd.Process.Kill()
	if err := wire.Read(c.in, new(wire.Response)); err != io.EOF {
		t.Errorf("killed: %v", err)
	}
}

func TestProcessIsHardened(t *testing.T) {
	h := newHSM(t)
	c := h.ready(h.hello())
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", c.cmd.Process.Pid))
	if os.Geteuid() == 0 && err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(status, []byte("NoNewPrivs:\t1")) {
		t.Errorf("no_new_privs is not set:\n%s", status)
	}
	if err == nil && !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Errorf("core dumps are possible:\n%s", limits)
	}
}

// Faults of sessions, in this process, because only the owner of a session can break it.
func TestBrokenSessionsAreReplaced(t *testing.T) {
	h := newHSM(t)
	maker := h.ready(h.hello())
	k, other := maker.generate(wire.ES256, true), maker.generate(wire.ES256, true)
	other.ID = "other"
	t.Setenv("SOFTHSM2_CONF", h.conf)
	hello := h.hello(k, other)
	hello.Copies = true
	held := hello.PIN
	tok, err := open(&hello, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tok.ctx.Finalize() })
	if !bytes.Equal(held, make([]byte, len(held))) {
		t.Errorf("the PIN is still in memory: %q", held)
	}
	s := &session{token: tok}
	works := func(after string) {
		t.Helper()
		asked := make([]wire.Sign, 5)
		for i := range asked {
			id := []wire.Key{k, other}[i%2]
			asked[i] = wire.Sign{KeyID: id.ID, Purpose: id.Purpose, TBS: tbs("ES256", i)}
		}
		asked[2].KeyID = "refused"
		results := make([]wire.Result, len(asked))
		if done, err := s.sign(asked, results); done != len(asked) || err != nil {
			t.Fatalf("%s: %d, %v", after, done, err)
		}
		for i, r := range results {
			spki := [][]byte{k.SPKI, other.SPKI}[i%2]
			if i == 2 && r.Class != wire.Faulty || i != 2 && (r.Class != wire.OK || !verify(spki, asked[i].TBS, r.Signature)) {
				t.Errorf("%s: item %d: %+v", after, i, r)
			}
		}
	}
	works("at the start")
	before := tok.bound.Load()
	tok.ctx.CloseSession(s.handle)
	works("session closed")
	tok.ctx.DestroyObject(s.handle, tok.bound.Load().keys[k.ID].handle)
	works("session copy gone")
	tok.ctx.DestroyObject(s.handle, tok.bound.Load().keys[other.ID].handle)
	works("session copy of the second key gone")
	tok.ctx.CloseSession(tok.bound.Load().anchor)
	works("anchor session closed, and the copy with it")
	if tok.bound.Load() == before {
		t.Error("keys were not looked up again")
	}
	tok.ctx.SignInit(s.handle, algorithms[wire.ES256].mechanism, tok.bound.Load().keys[k.ID].handle)
	works("operation left active")

	named := func(after string) {
		t.Helper()
		if ids, err := s.privateKeys(); err != nil || len(ids) != 2 {
			t.Errorf("%s: %d private keys, %v", after, len(ids), err)
		}
	}
	named("at the start")
	tok.ctx.CloseSession(s.handle)
	named("session closed")
	tok.ctx.FindObjectsInit(s.handle, nil)
	named("search left active")

	// A token that ended the login shows no private key and makes no error of it: that is not a token without keys.
	tok.ctx.Logout(s.handle)
	if ids, err := s.privateKeys(); class(err) != wire.Worker {
		t.Errorf("logged out: %d private keys, %v", len(ids), err)
	}
	if err := tok.destroy(k.CKAID); class(err) != wire.Worker {
		t.Errorf("logged out: a key was destroyed: %v", err)
	}
	if _, _, err := tok.generate(wire.Generate{Label: "again", Algorithm: wire.ES256, CKAID: other.CKAID, Copies: true}); class(err) != wire.Worker {
		t.Errorf("logged out: a key was made: %v", err)
	}
	if a := h.ready(h.hello(k, other)).ask(wire.Request{Op: wire.OpKeys}); len(a.Keys) != 2 {
		t.Errorf("%d keys are left: %s", len(a.Keys), a.Error)
	}
	results := make([]wire.Result, 2)
	asked := wire.Sign{KeyID: k.ID, Purpose: k.Purpose, TBS: tbs("ES256", 1)}
	if done, err := s.sign([]wire.Sign{asked, asked}, results); done != 1 || class(err) != wire.Worker || results[0].Class != wire.Worker {
		t.Errorf("logged out: %d tried, class %q, %v, %+v", done, class(err), err, results)
	}
}

func TestPublicKeyForms(t *testing.T) {
	point := append([]byte{4}, bytes.Repeat([]byte{7}, 64)...)
	for name, p := range map[string][]byte{"empty": nil, "not on the curve": point, "wrapped, not on the curve": append([]byte{4, 65}, point...),
		"compressed": append([]byte{2}, point[:32]...), "cut": {4, 65, 4}} {
		if _, err := publicKey(wire.ES256, p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	ed := bytes.Repeat([]byte{9}, 32)
	bare, err := publicKey(wire.EdDSA, ed)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := publicKey(wire.EdDSA, append([]byte{4, 32}, ed...))
	if err != nil || !bytes.Equal(bare, wrapped) {
		t.Errorf("%x %x %v", bare, wrapped, err)
	}
}

// Signatures of one worker through the socket, in batches as the daemon sends them under load.
func BenchmarkSign(b *testing.B) {
	h := newHSM(b)
	k := h.ready(h.hello()).generate(wire.ES256, true)
	hello := h.hello(k)
	hello.Copies = true
	w := h.ready(hello)
	q := wire.Request{Op: wire.OpSign, Sign: make([]wire.Sign, 32)}
	for i := range q.Sign {
		q.Sign[i] = wire.Sign{KeyID: k.ID, Purpose: k.Purpose, TBS: append(tbs("ES256", i), bytes.Repeat([]byte("A"), 1600)...)}
	}
	for b.Loop() {
		if a := w.ask(q); a.Results[31].Class != wire.OK {
			b.Fatalf("%+v", a)
		}
	}
	b.ReportMetric(float64(b.N*len(q.Sign))/b.Elapsed().Seconds(), "signatures/s")
}

// --- children

func child0(user bool) (*pkcs11.Ctx, pkcs11.SessionHandle) {
	ctx := pkcs11.New(os.Getenv("MODULE"))
	check(ctx.Initialize())
	slots, err := ctx.GetSlotList(true)
	check(err)
	if !user {
		check(ctx.InitToken(slots[len(slots)-1], "so-1234", label))
		slots, err = ctx.GetSlotList(true)
		check(err)
	}
	s, err := ctx.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	check(err)
	if user {
		check(ctx.Login(s, pkcs11.CKU_USER, pin))
	}
	return ctx, s
}

func initToken() {
	ctx, s := child0(false)
	check(ctx.Login(s, pkcs11.CKU_SO, "so-1234"))
	check(ctx.InitPIN(s, pin))
}

// strangePair makes a key pair as a careless tool would, and prints id and public key.
func strangePair() {
	ctx, s := child0(true)
	var id []byte
	fmt.Sscanf(os.Getenv("ID"), "%x", &id)
	common := []*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, true), attribute(pkcs11.CKA_ID, id)}
	priv := append(common, attribute(pkcs11.CKA_SIGN, true), attribute(pkcs11.CKA_EXTRACTABLE, true), attribute(pkcs11.CKA_PRIVATE, true))
	if os.Getenv("ONE_MECHANISM") != "" {
		priv = append(priv, mechanisms(pkcs11.CKM_ECDSA))
	}
	a := algorithms[wire.ES256]
	pub, _, err := ctx.GenerateKeyPair(s, a.generate, append(common, attribute(pkcs11.CKA_EC_PARAMS, a.params[0])), priv)
	check(err)
	spki, err := (&token{ctx: ctx}).spki(s, pub, wire.ES256)
	check(err)
	json.NewEncoder(os.Stdout).Encode(wire.Key{CKAID: id, SPKI: spki})
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(4)
	}
}
