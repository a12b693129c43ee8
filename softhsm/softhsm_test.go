package softhsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"sealkeeper/internal/fuzzing"
)

const (
	label = "softhsm-test"
	pin   = "abcd-1234"
	mode  = "SEALKEEPER_TEST_CHILD"
)

// TestMain lets the test binary be its own child processes: the module is loaded only there.
func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(mode) {
	case "":
		os.Exit(m.Run())
	case "init":
		err = InitMain(os.Stdin, os.Stdout)
	default:
		err = use(os.Getenv(mode))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// use logs in within the guard, like a worker, then makes a key or signs with it.
func use(what string) error {
	ctx := pkcs11.New(os.Getenv("MODULE"))
	var s pkcs11.SessionHandle
	err := Guard(os.Getenv("DIR"))(func() error {
		if err := ctx.Initialize(); err != nil {
			return err
		}
		found, err := labelled(ctx, label)
		if err != nil || len(found) != 1 {
			return errors.Join(err, fmt.Errorf("%d tokens", len(found)))
		}
		for slot := range found {
			if s, err = ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
				return err
			}
		}
		return ctx.Login(s, pkcs11.CKU_USER, pin)
	})
	if err != nil {
		return err
	}
	attr := pkcs11.NewAttribute
	if what == "generate" {
		common := []*pkcs11.Attribute{attr(pkcs11.CKA_TOKEN, true), attr(pkcs11.CKA_LABEL, "k")}
		_, _, err := ctx.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
			append(common, attr(pkcs11.CKA_EC_PARAMS, []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07})),
			append(common, attr(pkcs11.CKA_SIGN, true), attr(pkcs11.CKA_PRIVATE, true), attr(pkcs11.CKA_SENSITIVE, true)))
		return err
	}
	if err := ctx.FindObjectsInit(s, []*pkcs11.Attribute{attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), attr(pkcs11.CKA_LABEL, "k")}); err != nil {
		return err
	}
	keys, _, err := ctx.FindObjects(s, 2)
	if err != nil || len(keys) != 1 {
		return errors.Join(err, fmt.Errorf("%d keys", len(keys)))
	}
	if err := ctx.FindObjectsFinal(s); err != nil {
		return err
	}
	if err := ctx.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, keys[0]); err != nil {
		return err
	}
	digest := sha256.Sum256(nil)
	_, err = ctx.Sign(s, digest[:])
	return err
}

func module(t *testing.T) string {
	m, err := FindModule("")
	if err != nil {
		t.Skip(err)
	}
	return m
}

func command(t *testing.T, dir, what string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0", mode+"="+what, "DIR="+dir, "MODULE="+module(t)), Env(dir)...)
	return cmd
}

func run(t *testing.T, dir, what string) error {
	t.Helper()
	if out, err := command(t, dir, what).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// works fails the test unless a process can log in and sign with the key.
func works(t *testing.T, dir string) {
	t.Helper()
	if err := run(t, dir, "sign"); err != nil {
		t.Fatal(err)
	}
}

func initToken(t *testing.T, dir string) (string, error) {
	return RunInit(command(t, dir, "init"), dir, module(t), label, []byte("so-pin-1"), []byte(pin))
}

// made is a directory with one token and one key.
func made(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "token")
	if err := Prepare(dir); err != nil {
		t.Fatal(err)
	}
	serial, err := initToken(t, dir)
	if err != nil || len(serial) != 16 {
		t.Fatalf("serial %q, %v", serial, err)
	}
	if err := run(t, dir, "generate"); err != nil {
		t.Fatal(err)
	}
	return dir
}

func object(t *testing.T, dir string) string {
	t.Helper()
	paths, _ := filepath.Glob(filepath.Join(dir, "tokens", "*", "token.object"))
	if len(paths) != 1 {
		t.Fatalf("%d token.object files", len(paths))
	}
	return paths[0]
}

func TestTokenIsMadeOnce(t *testing.T) {
	dir := made(t)
	if ok, err := Made(dir); err != nil || !ok {
		t.Errorf("made: %t, %v", ok, err)
	}
	works(t, dir)
	if _, err := initToken(t, dir); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("made again: %v", err)
	}
	works(t, dir)
}

// A try that was killed between C_InitToken and C_InitPIN leaves a token that nobody can log in to.
func TestHalfMadeTokenIsReplacedAndAForeignOneIsNot(t *testing.T) {
	dir := made(t)
	live, err := os.ReadFile(object(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	cut := bytes.Index(live, []byte{0x80, 0x00, 0x53, 0x4d}) - 4 // without the user PIN, the last attribute
	if user, err := parse(live[:cut]); err != nil || user {
		t.Fatalf("%t %v", user, err)
	}
	for name, left := range map[string][]byte{"without user PIN": live[:cut], "empty": nil} {
		other := filepath.Join(t.TempDir(), "other")
		if err := Prepare(other); err != nil {
			t.Fatal(err)
		}
		os.MkdirAll(filepath.Join(other, "tokens", "half"), 0o700)
		os.WriteFile(filepath.Join(other, "tokens", "half", "token.object"), left, 0o600)
		if ok, err := Made(other); ok || err != nil {
			t.Errorf("%s: made %t, %v", name, ok, err)
		}
		if _, err := initToken(t, other); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	os.RemoveAll(filepath.Join(dir, "saved"))
	os.Mkdir(filepath.Join(dir, "saved"), 0o700)
	if _, err := initToken(t, dir); err == nil || !strings.Contains(err.Error(), "not made here") {
		t.Errorf("a token that was not made here: %v", err)
	}
	works(t, dir)
}

func TestDamagedTokenIsRepairedAndItsKeysSign(t *testing.T) {
	dir := made(t)
	live, err := os.ReadFile(object(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	user := bytes.Index(live, []byte{0x80, 0x00, 0x53, 0x4d}) - 4
	for name, damage := range map[string]func() error{
		"empty":           func() error { return os.Truncate(object(t, dir), 0) },
		"short":           func() error { return os.Truncate(object(t, dir), 200) },
		"cut before PIN":  func() error { return os.Truncate(object(t, dir), int64(user)) },
		"zeros":           func() error { return os.WriteFile(object(t, dir), make([]byte, len(live)), 0o600) },
		"removed":         func() error { return os.Remove(object(t, dir)) },
		"more at the end": func() error { return os.WriteFile(object(t, dir), append(bytes.Clone(live), 1), 0o600) },
		"length too large": func() error {
			return os.WriteFile(object(t, dir), bytes.Replace(live, []byte{0, 0, 0, 0x48}, []byte{1, 0, 0, 0x48}, 1), 0o600)
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(name, err)
		}
		if err := run(t, dir, "sign"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if done, err := Repair(dir); err != nil || len(done) != 0 {
			t.Errorf("%s: %q %v", name, done, err)
		}
	}
}

// A saved copy that is damaged itself is never put in place.
func TestDamagedCopyIsNotUsed(t *testing.T) {
	dir := made(t)
	copies, _ := filepath.Glob(filepath.Join(dir, "saved", "*"))
	if len(copies) != 1 {
		t.Fatalf("saved: %q", copies)
	}
	b, err := os.ReadFile(copies[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := errors.Join(os.WriteFile(copies[0], b, 0o600), os.Truncate(object(t, dir), 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := Repair(dir); err == nil || !strings.Contains(err.Error(), "restore the backup") {
		t.Errorf("%v", err)
	}
	if err := run(t, dir, "sign"); err == nil {
		t.Error("signed with a token that is damaged")
	}
}

func TestProcessesThatStartAtOnceTakeTurns(t *testing.T) {
	dir := made(t)
	for range 5 {
		all := make([]*exec.Cmd, 4)
		said := make([]bytes.Buffer, len(all))
		for i := range all {
			all[i] = command(t, dir, "sign")
			all[i].Stderr = &said[i]
		}
		for _, cmd := range all {
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
		}
		for i, cmd := range all {
			if err := cmd.Wait(); err != nil || said[i].Len() > 0 { // not even a repair
				t.Errorf("%v %s", err, &said[i])
			}
		}
	}
}

func TestBackupAndRestore(t *testing.T) {
	dir := made(t)
	backup := filepath.Join(t.TempDir(), "backup")
	if err := Backup(dir, backup); err != nil {
		t.Fatal(err)
	}
	if err := Backup(dir, backup); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("over an existing backup: %v", err)
	}
	if out, err := exec.Command("sh", "-c", "cd "+backup+" && sha256sum -c MANIFEST.sha256").CombinedOutput(); err != nil {
		t.Errorf("sha256sum: %v %s", err, out)
	}
	if err := Restore(backup, dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("over a token: %v", err)
	}
	fresh := filepath.Join(t.TempDir(), "fresh")
	if err := Restore(backup, fresh); err != nil {
		t.Fatal(err)
	}
	works(t, fresh)
	works(t, dir)
	empty := t.TempDir()
	os.Chmod(empty, 0o755)
	if err := Restore(backup, empty+"/"); err != nil {
		t.Fatal(err)
	}
	works(t, empty)

	target := filepath.Join(t.TempDir(), "never")
	for name, spoil := range map[string]func(b string) error{
		"changed":     func(b string) error { return os.WriteFile(object(t, b), []byte("x"), 0o600) },
		"missing":     func(b string) error { return os.Remove(object(t, b)) },
		"more":        func(b string) error { return os.WriteFile(filepath.Join(b, "tokens", "more"), nil, 0o600) },
		"no manifest": func(b string) error { return os.Remove(filepath.Join(b, "MANIFEST.sha256")) },
		"path outside": func(b string) error {
			return os.WriteFile(filepath.Join(b, "MANIFEST.sha256"), []byte(strings.Repeat("0", 64)+"  ../x\n"), 0o600)
		},
		"link": func(b string) error { return os.Symlink("/etc/passwd", filepath.Join(b, "tokens", "link")) },
	} {
		b := filepath.Join(t.TempDir(), "b")
		if err := errors.Join(Backup(dir, b), spoil(b)); err != nil {
			t.Fatal(name, err)
		}
		if err := Restore(b, target); err == nil {
			t.Errorf("%s: restored", name)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(target), "*")); len(left) > 0 {
			t.Errorf("%s: left behind %q", name, left)
		}
	}
}

func TestDirectoriesThatOthersCouldReadAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "token")
	if err := Prepare(dir); err != nil {
		t.Fatal(err)
	}
	if err := Prepare(dir); err != nil {
		t.Errorf("again: %v", err)
	}
	os.Chmod(dir, 0o750)
	for name, err := range map[string]error{"Prepare": Prepare(dir), "Guard": Guard(dir)(func() error { t.Error("started"); return nil })} {
		if err == nil || !strings.Contains(err.Error(), "chmod 0700 "+dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
	os.Chmod(dir, 0o700)
	if os.Geteuid() == 0 {
		os.Chown(dir, 4711, -1)
		if err := Prepare(dir); err == nil || !strings.Contains(err.Error(), "4711") {
			t.Errorf("of another user: %v", err)
		}
		os.Chown(dir, 0, -1)
	}
	link := filepath.Join(t.TempDir(), "link")
	os.Symlink(dir, link)
	if err := Prepare(link); err == nil {
		t.Error("a symbolic link was taken")
	}
	for _, bad := range []string{"with#hash", "with\nline"} {
		if err := Prepare(filepath.Join(t.TempDir(), bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestFindModule(t *testing.T) {
	if _, err := FindModule("/nowhere/x.so"); err == nil || !strings.Contains(err.Error(), "/nowhere/x.so") {
		t.Errorf("%v", err)
	}
	here, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := FindModule(here); err != nil || got != here {
		t.Errorf("%q %v", got, err)
	}
}

func TestRefusedInitRequests(t *testing.T) {
	for _, in := range []string{"", "{}", `{"module":"m","label":"l","so_pin":"AAAA","pin":"AAAA","x":1}`, `{"label":"l"}`, strings.Repeat(" ", 20<<10),
		`{"module":"/nowhere.so","label":"l","so_pin":"MTIzNA==","pin":"MTIzNA=="}`} {
		// InitMain limits its own process; here only its reading is tested, in a child.
		dir := t.TempDir()
		cmd := command(t, dir, "init")
		cmd.Stdin = strings.NewReader(in)
		if out, err := cmd.Output(); err == nil || len(out) > 0 {
			t.Errorf("%q: %q", in, out)
		}
	}
}

func FuzzParse(f *testing.F) {
	whole := binary.BigEndian.AppendUint64(nil, 9) // a token.object with everything in it
	for _, typ := range []uint64{osTokenLabel, osTokenSerial, osTokenFlags, osSOPIN, osUserPIN} {
		for _, v := range []uint64{typ, 3, 2} {
			whole = binary.BigEndian.AppendUint64(whole, v)
		}
		whole = append(whole, "ab"...)
	}
	seeds := [][]byte{{}, make([]byte, 320), whole,
		[]byte("\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x00\x80\x00\x53\x4b\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x04\x2d"),
		[]byte("\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x00\x80\x00\x53\x49\x00\x00\x00\x00\x00\x00\x00\x03\xff\xff\xff\xff\xff\xff\xff\xff")}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, b []byte) bool {
		user, err := parse(b)
		if err == nil && len(b) < 4*24 || err != nil && user {
			t.Fatalf("%x: %t %v", b, user, err)
		}
		return err == nil
	})
}

func FuzzManifest(f *testing.F) {
	files := map[string][]byte{"tokens/a/token.object": []byte("x"), "saved/a.b": {}}
	line := func(name string) string { return fmt.Sprintf("%x  %s\n", sha256.Sum256(files[name]), name) }
	seeds := fuzzing.Strings(line("tokens/a/token.object")+line("saved/a.b"), line("saved/a.b"), line("saved/a.b")+line("saved/a.b"), "", "00  tokens/../../etc/passwd\n", "\n", "  \n")
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, b []byte) bool {
		err := compare("src", b, files)
		if err == nil && (!bytes.Contains(b, []byte(line("saved/a.b"))) || len(bytes.TrimRight(b, "\n")) != len(strings.TrimRight(line("saved/a.b")+line("tokens/a/token.object"), "\n"))) {
			t.Fatalf("%q was taken", b)
		}
		return err == nil
	})
}
