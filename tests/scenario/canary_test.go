package scenario

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/ledger"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
	"sealkeeper/tests/programme"
	"sealkeeper/verifier"
)

// marks stand for what requests say of persons.
var marks = map[string]string{
	"the name":        "CANARY-name-5b1e",
	"the given name":  "CANARY-given-90d3",
	"the address":     "CANARY-street-c44a",
	"the number":      "881231-7654329",
	"the document":    "CANARY-doc-1f08",
	"the photo":       "CANARY-photo-77c1",
	"the birth date":  "1988-12-31",
	"a wrong member":  "CANARY-member-e3a2",
	"the retry's key": "CANARY-key-0123456789abcdef",
	"the line":        "CANARY-line-6d0f",
	"the wrong path":  "CANARY-path-b2c9",
	"the user agent":  "CANARY-agent-48f7",
}

// forms in which a mark could be kept: as it is, hexadecimal, UTF-16, and base64 of whatever stands around it, once or twice.
func forms(mark string) map[string][]byte {
	b := []byte(mark)
	out := map[string][]byte{"": b, "hex ": []byte(hex.EncodeToString(b)), "HEX ": []byte(strings.ToUpper(hex.EncodeToString(b)))}
	var little, big []byte
	for _, u := range utf16.Encode([]rune(mark)) {
		little, big = append(little, byte(u), byte(u>>8)), append(big, byte(u>>8), byte(u))
	}
	out["UTF-16LE "], out["UTF-16BE "] = little, big
	for shift := range 3 {
		url := inside(base64.RawURLEncoding, b, shift)
		out["base64 "+strconv.Itoa(shift)+" "], out["base64url "+strconv.Itoa(shift)+" "] = inside(base64.RawStdEncoding, b, shift), url
		for again := range 3 { // a JWS, as bytes in JSON
			out[fmt.Sprintf("base64 of base64url %d %d ", again, shift)] = inside(base64.RawStdEncoding, url, again)
		}
	}
	return out
}

// inside are the characters that b alone makes, where so many bytes stand before it in its group of three.
func inside(e *base64.Encoding, b []byte, before int) []byte {
	whole := append(make([]byte, before), b...)
	return []byte(e.EncodeToString(whole)[(before*8+5)/6 : len(whole)*8/6])
}

// search looks for all marks in all forms, and names what has them.
type search struct {
	t     *testing.T
	marks map[string][]byte
}

func newSearch(t *testing.T) *search {
	s := &search{t, map[string][]byte{}}
	for what, mark := range marks {
		for form, b := range forms(mark) {
			s.marks[form+what] = b
		}
	}
	return s
}

func (s *search) in(b []byte) (found []string) {
	for what, mark := range s.marks {
		if bytes.Contains(b, mark) {
			found = append(found, what)
		}
	}
	return found
}

func (s *search) look(where string, b []byte) {
	s.t.Helper()
	for _, what := range s.in(b) {
		s.t.Errorf("%s contains %s", where, what)
	}
}

// A search that finds nothing is worth what it would have found.
func TestSearchFindsMarks(t *testing.T) {
	s := newSearch(t)
	for what, mark := range marks {
		for n := range 6 {
			text := []byte(strings.Repeat("~", n) + mark + strings.Repeat("?", n))
			wide := make([]byte, 0, 2*len(text)+1)
			for _, c := range text {
				wide = append(wide, 0, c)
			}
			for name, b := range map[string][]byte{"as it is": text, "hexadecimal": []byte(hex.EncodeToString(text)), "HEXADECIMAL": []byte(strings.ToUpper(hex.EncodeToString(text))),
				"base64": []byte(base64.StdEncoding.EncodeToString(text)), "base64url": []byte(base64.RawURLEncoding.EncodeToString(text)),
				"base64 of base64url": []byte(base64.StdEncoding.EncodeToString([]byte("eyJ." + base64.RawURLEncoding.EncodeToString(text)))), "UTF-16BE": wide, "UTF-16LE": append(wide[1:], 0)} {
				if found := s.in(b); !slices.ContainsFunc(found, func(f string) bool { return strings.HasSuffix(f, what) }) {
					t.Errorf("%s %s, behind %d characters, is not found: %v", what, name, n, found)
				}
			}
		}
	}
}

// everything that is at rest, with the files that a running daemon has open and those that a killed one left.
func (s *search) everything(a *appliance, when string) {
	s.t.Helper()
	s.look(when+": the log", []byte(a.Log.String()))
	files := 0
	err := filepath.WalkDir(a.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // gone meanwhile, or no file
		}
		if strings.HasPrefix(d.Name(), "core") {
			s.t.Errorf("%s: %s looks like a core", when, path)
		}
		if b, err := os.ReadFile(path); err == nil && filepath.Dir(path) != filepath.Join(a.Dir, "bin") {
			files++
			s.look(when+": "+path, b)
		}
		return nil
	})
	if err != nil || files < 20 {
		s.t.Errorf("%s: only %d files were searched: %v", when, files, err)
	}
}

// answers of the running daemon that say what it keeps.
func (s *search) answers(a *appliance) {
	s.t.Helper()
	s.look("the metrics", []byte(a.Metrics()))
	s.look("the status", must(json.Marshal(a.Operations())))
	page, err := a.As("auditor").Decisions(s.t.Context(), contract.DecisionQuery{Since: time.Now().Add(-time.Hour), Limit: contract.MaxDecisions})
	if err != nil || len(page.Decisions) < 10 {
		s.t.Errorf("%d decisions: %v", len(page.Decisions), err)
	}
	s.look("the decisions", must(json.Marshal(page)))
	dead, err := a.As("auditor").DeadEvents(s.t.Context())
	if err != nil || len(dead.Events) == 0 {
		s.t.Errorf("no dead event: %v", err)
	}
	s.look("the dead events", must(json.Marshal(dead)))
}

// journal are the leaves, and the rows of all tables, as they were written: in the file a page's end may cut a mark in two.
func (s *search) journal(a *appliance) {
	s.t.Helper()
	store, err := ledger.OpenSQLite(s.t.Context(), filepath.Join(a.Dir, "data", "ledger.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	n := 0
	for from := uint64(0); ; {
		leaves, err := store.Journal(s.t.Context(), from, 1000)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, leaf := range leaves {
			s.look("a leaf of the journal", leaf)
		}
		n += len(leaves)
		if from += uint64(len(leaves)); len(leaves) == 0 {
			break
		}
	}
	if n < 20 {
		s.t.Errorf("only %d leaves", n)
	}
}

// A person's name, number and photo pass through the appliance by every way there is: cards, refusals, dead events, locks, a worker that dies,
// a daemon that is killed and one that aborts, and a backup. Nothing that is kept, logged, measured or published has them, in whatever form; no core is
// left, and neither another user nor the daemon's own sees its memory.
func TestCanary(t *testing.T) {
	t.Parallel()
	b, by := harness.InstallProgramme(t, "kr-resident.json", nil)
	a := &appliance{b, t}
	s := newSearch(t)
	user := a.unprivileged()
	a.start("TMPDIR=" + filepath.Join(a.Dir, "tmp"))
	ctx := t.Context()
	subject := marks["the number"]
	photo := base64.RawURLEncoding.EncodeToString(append([]byte{0xff, 0xd8, 0xff, 0xe0, 0, 16, 'J', 'F', 'I', 'F', 0}, marks["the photo"]...))
	person := func(channel, method string, p *phone.Phone, who string) *harness.Case {
		t.Helper()
		c := a.Open(by, channel, method, p, who)
		maps.Copy(c.Request.Claims, map[string]any{"family_name": marks["the name"], "given_name": marks["the given name"], "address": marks["the address"],
			"document_number": marks["the document"], "birth_date": marks["the birth date"], "portrait": photo})
		for _, kind := range harness.Asked(method) {
			c.Request.Evidence = append(c.Request.Evidence, by.Say(c, by.Good(c, kind, programme.Jongno), nil))
		}
		return c
	}

	// Cards, and everything that becomes of one.
	p := newPhone(t, 1)
	first := person("ward-office-1", "office_qr", p, subject)
	out, err := a.As("ward-office-1").Issue(ctx, marks["the retry's key"], first.Request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.As("ward-office-1").Issue(ctx, marks["the retry's key"], first.Request); err != nil {
		t.Errorf("the retry: %v", err)
	}
	_, sd := byFormat(out)
	card, err := verifier.VerifySDJWT([]byte(sd.Credential), a.Roots, time.Now())
	if err != nil || card.Claims["family_name"] != marks["the name"] || card.Claims["portrait"] == nil && card.Claims["picture"] == nil {
		t.Errorf("nobody's name and photo are on the card: %v", err)
	}
	if _, err := a.As("ward-office-1").Acknowledge(ctx, contract.AcknowledgementRequest{DocumentType: kr, Subject: subject, Issuance: out.Issuance, Proof: a.prove(p, "ward-office-1")}); err != nil {
		t.Errorf("acknowledging: %v", err)
	}
	a.Change("loss-desk", lock, subject, "self_lost", "")
	a.Change("loss-desk", unlock, subject, "self_lost", "")
	_, _ = a.As("ministry").Schedule(ctx, contract.ScheduleRequest{DocumentType: kr, Subject: subject, Schedule: "case-1", Operation: "lock", Reason: "admin_hold",
		From: time.Now().Add(time.Hour), To: time.Now().Add(2 * time.Hour)})
	_, _ = a.As("ministry").Renew(ctx, contract.RenewalRequest{DocumentType: kr, Subject: subject, Reasons: []string{"address"}, Attributes: 1})
	if _, err := a.As("portal").DryRun(ctx, person("portal", "ic_chip", newPhone(t, 1), subject+"-dry").Request); err != nil {
		t.Errorf("dry run: %v", err)
	}

	code, err := a.As("ward-office-1").Code(ctx, contract.CodeRequest{DocumentType: kr, Subject: subject + "-code", Authorities: by.IDs()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.As("ward-office-1").Session(ctx, contract.SessionRequest{DocumentType: kr, Code: code.Code, KeyThumbprint: newPhone(t, 1).Thumbprint(0)}); err != nil {
		t.Errorf("a scanned code: %v", err)
	}

	// Refusals of every room: they know what they refuse, and keep nothing of it.
	refuse := func(what string, bend func(r *contract.IssueRequest)) {
		t.Helper()
		c := person("portal", "ic_chip", newPhone(t, 1), subject+"-refused")
		bend(&c.Request)
		if _, err := a.ask(c); err == nil {
			t.Errorf("%s was granted", what)
		}
	}
	refuse("a name unknown to the register", func(r *contract.IssueRequest) { r.Claims["family_name"] = marks["the name"] + "-2" })
	refuse("an unknown claim", func(r *contract.IssueRequest) { r.Claims[marks["a wrong member"]] = marks["the name"] })
	refuse("a lie about age", func(r *contract.IssueRequest) { r.Claims["age_over_19"] = false })
	refuse("a date that is none", func(r *contract.IssueRequest) { r.Claims["birth_date"] = marks["the birth date"] + marks["the name"] })
	refuse("no evidence", func(r *contract.IssueRequest) { r.Evidence = nil })
	refuse("a method of nothing", func(r *contract.IssueRequest) { r.Method = marks["the name"] })
	refuse("a type of nothing", func(r *contract.IssueRequest) { r.DocumentType = marks["the name"] })
	refuse("a kind of nothing", func(r *contract.IssueRequest) { r.Evidence[0].Kind = marks["the name"] })
	refuse("a broken proof", func(r *contract.IssueRequest) { r.Proof = marks["the name"] })
	refuse("subject and session", func(r *contract.IssueRequest) { r.Subject = subject })
	for _, reason := range []string{marks["the name"], "fraud"} {
		if _, err := a.As("loss-desk").Lock(ctx, contract.ChangeRequest{DocumentType: kr, Subject: subject, Reason: reason}); err == nil {
			t.Error("a reason of nobody's")
		}
	}
	for path, body := range map[string]string{
		"/v1/" + marks["the wrong path"]:            "{}",
		"/v1/credentials?name=" + marks["the name"]: "{}",
		"/v1/credentials":                           `{"subject":"` + subject + `","` + marks["a wrong member"] + `":1}`,
		"/v1/locks":                                 `{"subject":"` + subject + `","subject":"` + marks["the name"] + `"}`,
		"/v1/unlocks":                               `{"subject":"` + subject,
		"/v1/sessions":                              `{"document_type":"` + marks["the name"] + `","subject":"` + subject + `"}`,
		"/v1/holders/state":                         strings.Repeat(subject, 300),
		"/v1/revocations/" + hex.EncodeToString([]byte("xyz")): subject,
	} {
		r := must(http.NewRequest(http.MethodPost, fmt.Sprintf("https://127.0.0.1:%d%s", a.Ports[0], path), strings.NewReader(body)))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("User-Agent", marks["the user agent"])
		r.Header.Set("Idempotency-Key", marks["the name"])
		h := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: a.TLS("ward-office-1"), DisableKeepAlives: true}}
		w, err := h.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		w.Body.Close()
		if w.StatusCode < 400 {
			t.Errorf("%s: %d", path, w.StatusCode)
		}
	}
	a.look(t, "GET", "/status-lists/"+marks["the wrong path"])

	// Events: of a person's line, of one that is nobody's, and dead ones, which are kept for their replay.
	if _, err := a.As("telecom-a").Event(ctx, by.Event(first.Line(), 1, evidence.LineLost)); err != nil {
		t.Error(err)
	}
	if _, err := a.As("telecom-a").Event(ctx, by.Event(marks["the line"], 1, evidence.LineLost)); err != nil {
		t.Error(err)
	}
	if _, err := a.As("card-system").Event(ctx, by.Event(marks["the line"], 2, evidence.LineFound)); client.Code(err) != "reason.forbidden" {
		t.Errorf("a dead event: %v", err)
	}
	e := by.Event(marks["the line"], 3, evidence.LineLost)
	e.Event = e.Event[:len(e.Event)-8] + "AAAAAAAA"
	if _, err := a.As("telecom-a").Event(ctx, e); client.Code(err) != "evidence.line_event_signature" {
		t.Errorf("a dead event: %v", err)
	}

	// Workers die while they sign.
	for i, pid := range a.Workers() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		if _, err := a.ask(person("portal", "ic_chip", newPhone(t, 1), fmt.Sprint(subject, "-", i))); err != nil {
			t.Errorf("while a worker died: %v", err)
		}
	}
	time.Sleep(1500 * time.Millisecond) // denials are journalled within a second
	backup := exec.Command("sealkeeperd", "backup", "--out", filepath.Join(a.Dir, "backups", "1"), "--config", filepath.Join(a.Dir, "sealkeeper.yaml"))
	backup.Err = nil // it is no program of the path's
	a.Prepare(backup)
	if out, err := backup.CombinedOutput(); err != nil {
		t.Errorf("backup: %v %s", err, out)
	}
	s.answers(a)
	s.everything(a, "while it runs")

	// Killed between a signature and its commit, and the same request once more.
	a.Stop()
	a.Launch("SEAL_CRASH=ca.issue.signed", "TMPDIR="+filepath.Join(a.Dir, "tmp"))
	a.UntilUp()
	c, key := person("portal", "ic_chip", newPhone(t, 1), subject+"-crash"), client.NewKey()
	if _, _, err := a.Post("portal", "/v1/credentials", key, c.Request); err == nil {
		t.Error("it did not die")
	}
	a.Wait()
	s.everything(a, "after a kill")
	a.start("TMPDIR="+filepath.Join(a.Dir, "tmp"), "GOTRACEBACK=crash") // with which an abort of Go is one to the kernel too
	if out, err = a.As("portal").Issue(ctx, key, c.Request); err != nil {
		t.Errorf("once more: %v", err)
	}
	a.Eventually(out.Credentials[0].Status, verifier.Valid)

	// Who else is on the machine.
	control := exec.Command("sleep", "60")
	control.SysProcAttr = user
	if err := control.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = control.Process.Kill(); _ = control.Wait() })
	if got := a.spied(user, control.Process.Pid); got == "" {
		t.Error("the spy sees nothing of an ordinary process of its own user: it shows nothing here")
	}
	for _, pid := range append(a.Workers(), a.Daemon.Process.Pid) {
		spies := []*syscall.SysProcAttr{user}
		if user != nil {
			spies = append(spies, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user.Credential.Uid - 1, Gid: user.Credential.Gid - 1}})
		}
		for _, as := range spies {
			if got := a.spied(as, pid); got != "" {
				t.Errorf("process %d is seen by one of its own user (%t): %q", pid, as == user, got)
			}
		}
	}

	ordinary := exec.Command("sh", "-c", "kill -ABRT $$")
	ordinary.Dir, ordinary.SysProcAttr = filepath.Join(a.Dir, "cwd"), user
	_ = ordinary.Run()
	if cores := must(filepath.Glob(filepath.Join(ordinary.Dir, "core*"))); len(cores) == 0 {
		t.Log("nobody's processes leave cores on this machine")
	} else if err := os.Remove(cores[0]); err != nil {
		t.Error(err)
	}

	// It aborts with requests in its memory.
	if err := a.Daemon.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	a.Wait()
	if !strings.Contains(a.Log.String(), "SIGABRT") {
		t.Error("it did not abort")
	}
	s.everything(a, "after an abort")
	s.journal(a)
	a.start("TMPDIR=" + filepath.Join(a.Dir, "tmp"))
	a.Stop()
	s.everything(a, "at the end")
	s.journal(a)
	a.Check()
}

// unprivileged has the daemon run as an ordinary user of its own with a directory and a core limit that would let it leave a core, if the
// tests may do that; otherwise it is the tests' own user, and nil.
func (a *appliance) unprivileged() *syscall.SysProcAttr {
	a.t.Helper()
	for _, dir := range []string{"tmp", "cwd", "bin", "backups"} {
		if err := os.Mkdir(filepath.Join(a.Dir, dir), 0o755); err != nil {
			a.t.Fatal(err)
		}
	}
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	copied := func(from, name string) string {
		to := filepath.Join(a.Dir, "bin", name)
		if err := os.WriteFile(to, must(os.ReadFile(from)), 0o755); err != nil {
			a.t.Fatal(err)
		}
		return to
	}
	daemon := copied(harness.Binary, "sealkeeperd")
	copied(must(os.Executable()), "spy")
	var as *syscall.SysProcAttr
	if os.Geteuid() == 0 {
		as = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 64_321, Gid: 64_321}}
		if err := os.Chmod(filepath.Dir(a.Dir), 0o711); err != nil { // made for root alone
			a.t.Fatal(err)
		}
		if out, err := exec.Command("chown", "-R", "64321:64321", a.Dir).CombinedOutput(); err != nil {
			a.t.Fatalf("%v %s", err, out)
		}
	}
	a.Prepare = func(c *exec.Cmd) {
		c.Path, c.Dir, c.SysProcAttr = daemon, filepath.Join(a.Dir, "data"), as // where it may write
	}
	return as
}

// spyOn makes the test binary a spy on the process with the number that it holds.
const spyOn = "SEAL_SPY_ON"

// spied is what a spy saw.
func (a *appliance) spied(as *syscall.SysProcAttr, pid int) string {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(a.Dir, "bin", "spy"))
	c.Env, c.SysProcAttr, c.Dir = []string{spyOn + "=" + strconv.Itoa(pid)}, as, "/"
	out, err := c.Output()
	if err != nil {
		a.t.Fatalf("the spy: %v", err)
	}
	return string(out)
}

// spy tries every way to another process's memory and says which one led there.
func spy(text string) int {
	pid, err := strconv.Atoi(text)
	if err != nil {
		return 2
	}
	proc := "/proc/" + text + "/"
	if b, err := os.ReadFile(proc + "environ"); err == nil && len(b) > 0 {
		fmt.Println("environ")
	}
	maps, err := os.ReadFile(proc + "maps")
	if err == nil && len(maps) > 0 {
		fmt.Println("maps")
	}
	at, _, _ := strings.Cut(string(maps), "-")
	address, _ := strconv.ParseUint(at, 16, 63)
	if f, err := os.Open(proc + "mem"); err == nil {
		if n, _ := f.ReadAt(make([]byte, 16), int64(address)); n > 0 || address == 0 {
			fmt.Println("mem")
		}
		f.Close()
	}
	buf := make([]byte, 16)
	local := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}
	if _, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(max(address, 4096)), Len: len(buf)}}, 0); err != unix.EPERM && err != nil && address != 0 || err == nil {
		fmt.Println("process_vm_readv", err)
	}
	runtime.LockOSThread()
	if err := unix.PtraceAttach(pid); err == nil {
		fmt.Println("ptrace")
		_, _ = unix.Wait4(pid, nil, 0, nil)
		_ = unix.PtraceDetach(pid) // so that it goes on, and what else is wrong is found too
	}
	if fds, err := os.ReadDir(proc + "fd"); err == nil && slices.ContainsFunc(fds, func(os.DirEntry) bool { return true }) {
		fmt.Println("open files")
	}
	return 0
}
