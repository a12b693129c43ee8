package faults

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sealkeeper/softhsm"
	"sealkeeper/tests/appliance"
)

var (
	library   string   // the built shim
	flags     []string // of the C compiler, for PKCS#11 modules
	functions []string // in the order of its counters
	nonces    bool     // the shim can sign with a nonce of its own choice
)

// build makes the shim in dir. The PKCS#11 headers are those that the daemon's own binding is built with.
func build(dir string) error {
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		return fmt.Errorf("finding the PKCS#11 headers: %w", err)
	}
	library = filepath.Join(dir, "p11shim.so")
	flags = []string{"-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations", "-fPIC", "-shared", "-fvisibility=hidden",
		"-I" + strings.TrimSpace(string(headers))}
	args := append(slices.Clip(flags), "-o", library, "p11shim/p11shim.c")
	nonces = exec.Command("cc", append(args, "-DWITH_OPENSSL", "-ldl", "-lpthread", "-lcrypto")...).Run() == nil
	if !nonces { // libssl-dev is not there: one fault less
		if out, err := exec.Command("cc", append(args, "-ldl", "-lpthread")...).CombinedOutput(); err != nil {
			return fmt.Errorf("building the shim: %w\n%s", err, out)
		}
	}
	list, err := os.ReadFile("p11shim/functions.h")
	if err != nil {
		return err
	}
	for _, m := range regexp.MustCompile(`(?m)^[FS]\((\w+)`).FindAllStringSubmatch(string(list), -1) {
		functions = append(functions, m[1])
	}
	return nil
}

// shim is the module of one installation.
type shim struct {
	t          testing.TB
	dir        string
	control    *os.File
	generation int
}

// newShim puts the shim between the installation's workers and SoftHSM.
func newShim(t testing.TB, a *appliance.Appliance, hsm string) *shim {
	t.Helper()
	s := &shim{t: t, dir: filepath.Join(a.Dir, "shim")}
	must(t, os.MkdirAll(s.dir, 0o700))
	b, err := os.ReadFile(library)
	must(t, err)
	must(t, os.WriteFile(s.path(), b, 0o700))
	s.control, err = os.Create(filepath.Join(s.dir, "control"))
	must(t, err)
	t.Cleanup(func() { s.control.Close() })
	f, err := os.Create(filepath.Join(s.dir, "counters"))
	must(t, err)
	must(t, f.Close())
	s.set()
	s.link(a)
	conf, err := os.ReadFile(filepath.Join(a.Dir, "sealkeeper.yaml"))
	must(t, err)
	a.Write("sealkeeper.yaml", string(conf)+fmt.Sprintf("hsm: {module: %q, %s}\n", s.path(), hsm))
	return s
}

// link shows the counters where the sandbox lets workers write: in the directories of their tokens.
func (s *shim) link(a *appliance.Appliance) {
	for _, token := range []string{"online", "iaca"} {
		if dir := filepath.Join(a.Dir, "data", "tokens", token); exists(dir) {
			must(s.t, os.Link(filepath.Join(s.dir, "counters"), filepath.Join(dir, "counters")))
		}
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func (s *shim) path() string { return filepath.Join(s.dir, "p11shim.so") }

// set makes these the faults from now on; none: the module is well. One write: a reader sees the old text, the new one, or one that it
// knows to be torn.
func (s *shim) set(rules ...string) {
	s.t.Helper()
	module, err := softhsm.FindModule("")
	must(s.t, err)
	s.generation++
	zero := make([]byte, 16*8)
	if f, err := os.OpenFile(filepath.Join(s.dir, "counters"), os.O_WRONLY, 0); err == nil {
		_, err = f.WriteAt(zero, s.place())
		must(s.t, err)
		f.Close()
	}
	text := fmt.Sprintf("generation %d\nmodule %s\n%s\nend %d\n", s.generation, module, strings.Join(rules, "\n"), s.generation)
	if len(text) < 2048 { // nothing of an older, longer text is left behind the new end
		text += strings.Repeat("#", 2048-len(text))
	}
	_, err = s.control.WriteAt([]byte(text), 0)
	must(s.t, err)
}

func (s *shim) place() int64 { return 16 * int64(128+s.generation%1024*8) }

func (s *shim) read(at int64) uint64 {
	s.t.Helper()
	f, err := os.Open(filepath.Join(s.dir, "counters"))
	if os.IsNotExist(err) {
		return 0
	}
	must(s.t, err)
	defer f.Close()
	var b [8]byte
	if _, err = f.ReadAt(b[:], at); err == io.EOF {
		return 0 // no worker was there yet
	}
	must(s.t, err)
	return binary.NativeEndian.Uint64(b[:])
}

// calls of a function since the installation was made.
func (s *shim) calls(function string) uint64 {
	s.t.Helper()
	for i, name := range functions {
		if name == function {
			return s.read(16 * int64(i))
		}
	}
	s.t.Fatalf("PKCS#11 has no function %s", function)
	return 0
}

// fired says how often the rules of the last set had their fault.
func (s *shim) fired() (n uint64) {
	s.t.Helper()
	for i := range int64(8) {
		n += s.read(s.place() + 16*i + 8)
	}
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
