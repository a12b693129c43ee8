package scenario

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"sealkeeper/contract"

	harness "sealkeeper/tests/appliance"
)

// ran is what a person sees of one command.
type ran struct {
	out, err string
	code     int
}

func execute(t *testing.T, name, stdin string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"} // no SEALCTL_ variable of the caller
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return ran{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// narrow: a table of more than 100 columns wraps on a terminal.
func narrow(t *testing.T, r ran) {
	t.Helper()
	for _, line := range strings.Split(r.out, "\n") {
		if n := utf8.RuneCountInString(line); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// sealctl against a running appliance, as a person at a terminal (tables) and as a script (JSON, exit codes) sees it.
func TestSealctl(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	const subject = "900101-1234567"
	answer := a.Issue(newPhone(t, 1), subject, false)
	m, s := byFormat(answer)
	a.Eventually(m.Status, 0)
	a.Eventually(s.Status, 0)

	file := func(name string, b []byte) string { a.Write(name, string(b)); return filepath.Join(a.Dir, name) }
	root := file("iaca.pem", a.Get("/certificates/iaca.pem"))
	card := file("card.sdjwt", []byte(s.Credential+"\n"))
	raw, err := base64.RawURLEncoding.DecodeString(m.Credential)
	if err != nil {
		t.Fatal(err)
	}
	mdoc, mdocText := file("card.mdoc", raw), file("card.b64", []byte(m.Credential))
	fetched := a.Get(strings.TrimPrefix(s.Status.URI, publicURL))
	list := file("list.jwt", fetched)
	url := func(port int, path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", port, path) }
	identity := func(id string) string { return filepath.Join(a.Dir, "clients", id) }

	var secrets []string // what no command may ever print
	for _, f := range []string{"data/pins/online", "data/pins/iaca"} {
		b, err := os.ReadFile(filepath.Join(a.Dir, f))
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, strings.TrimSpace(string(b)))
	}
	secrets = append(secrets, "PRIVATE KEY", subject)

	run := func(t *testing.T, stdin, id string, args ...string) ran {
		t.Helper()
		r := execute(t, harness.Sealctl, stdin, append(args, "--url", fmt.Sprintf("https://127.0.0.1:%d", a.Ports[0]), "--operations", url(a.Ports[2], ""), "--identity", identity(id))...)
		for _, secret := range secrets {
			if strings.Contains(r.out+r.err, secret) {
				t.Errorf("sealctl %v prints a secret", args)
			}
		}
		return r
	}
	expect := func(t *testing.T, r ran, code int, texts ...string) {
		t.Helper()
		if r.code != code {
			t.Fatalf("ended with %d instead of %d\n%s%s", r.code, code, r.out, r.err)
		}
		if (code == 0) != (r.err == "") {
			t.Errorf("exit code %d and standard error %q", code, r.err)
		}
		for _, text := range texts {
			if !strings.Contains(r.out+r.err, text) {
				t.Errorf("%q is missing in\n%s%s", text, r.out, r.err)
			}
		}
	}

	for _, c := range []struct {
		name, stdin, id string
		args            []string
		code            int
		table           []string // words of the table, or of the error
		json            []string // paths in the JSON: a, a.b; nil: not asked
	}{
		{"status", "", "auditor", []string{"status"}, 0, []string{"online", "2 of 2", "sdjwt-issuer-1", "status-list", "ES256", "statuslist+jwt", "statuslist+cwt", "trusted"},
			[]string{"ready", "journal_size", "tokens", "keys", "lists", "clock"}},
		{"doctor", "", "auditor", []string{"doctor"}, 0, []string{"nothing is wrong", "info: no policy keys are registered"}, []string{"healthy", "findings"}},
		{"top", "", "auditor", []string{"top", "--once", "--interval", "200ms"}, 0, []string{"· ready ·", "no policy keys are registered", "issue", "online", "2 of 2", "GiB of"},
			[]string{"at", "interval_seconds", "ready", "rates.issues", "rates.signatures", "p99.commit", "disk.free_bytes", "lanes", "tokens", "lists", "conditions"}},
		{"top without a terminal", "", "auditor", []string{"top", "--interval", "200ms"}, 0, []string{"LANE", "TOKEN", "LIST"}, nil},
		{"top too often", "", "auditor", []string{"top", "--interval", "10ms"}, 2, []string{"at least 200ms"}, nil},
		{"whoami", "", "telecom-a", []string{"whoami"}, 0, []string{"telecom-a", "carrier", "telecom", "lock unlock"}, []string{"client", "role", "class", "may.kr-resident"}},
		{"holder", subject, "auditor", []string{"holder", kr, "-"}, 0, []string{answer.Device, "mso_mdoc", "dc+sd-jwt", "valid"}, []string{"bound", "device", "credentials", "locks"}},
		{"holder, a stranger", "nobody\n", "auditor", []string{"holder", kr, "-"}, 0, []string{"bound", "false"}, []string{"bound"}},
		{"lock", subject + "\n", "telecom-a", []string{"lock", kr, "-", "--reason", "telecom_lost"}, 0, []string{"changed", "true", "telecom_lost by telecom", "suspended"}, nil},
		{"lock again", subject, "telecom-a", []string{"lock", kr, "-", "--reason", "telecom_lost"}, 0, []string{"changed", "false"}, []string{"changed", "sequence", "lists", "holder.locks"}},
		{"unlock by another", subject, "loss-desk", []string{"unlock", kr, "-", "--reason", "telecom_lost"}, 1, []string{"403 reason.forbidden"}, nil},
		{"unlock of a phone that has no card", subject, "telecom-a", []string{"unlock", kr, "-", "--reason", "telecom_lost", "--device", "AAAAAAAAAAAAAAAAAAAAAA"}, 0, []string{"changed", "false"}, nil},
		{"unlock", subject, "telecom-a", []string{"unlock", kr, "-", "--reason", "telecom_lost"}, 0, []string{"changed", "true", "valid"}, nil},
		{"lock, a stranger", "nobody", "telecom-a", []string{"lock", kr, "-", "--reason", "telecom_lost"}, 1, []string{"409 slot.empty", "no phone has this card"}, nil},
		{"lock, no such reason", subject, "telecom-a", []string{"lock", kr, "-", "--reason", "boredom"}, 1, []string{"422 reason.unknown"}, nil},
		{"lock, not this role", subject, "auditor", []string{"lock", kr, "-", "--reason", "telecom_lost"}, 1, []string{"403 route.forbidden", "role auditor"}, nil},
		{"holder, no such type", subject, "auditor", []string{"holder", "library-card", "-"}, 1, []string{"422 type.unknown"}, nil},
		{"holder, nothing on standard input", "", "auditor", []string{"holder", kr, "-"}, 1, []string{"400 subject.malformed"}, nil},
		{"verify SD-JWT", "", "auditor", []string{"verify", card, "--root", root}, 0, []string{"dc+sd-jwt", "urn:kr:mois:resident:1", "verified"}, []string{"claims.family_name", "status_uri", "expires"}},
		{"verify mdoc", "", "auditor", []string{"verify", mdoc, "--root", root}, 0, []string{"mso_mdoc", "kr.go.mois.resident.1", "verified"}, []string{"claims", "status_index"}},
		{"verify mdoc as the API gives it", "", "auditor", []string{"verify", mdocText, "--root", root}, 0, []string{"mso_mdoc", "verified"}, nil},
		{"verify with status", "", "auditor", []string{"verify", card, "--root", root, "--list", list}, 0, []string{"status", "valid"}, []string{"status"}},
		{"verify with another root", "", "auditor", []string{"verify", card, "--root", filepath.Join(identity("auditor"), "ca.pem")}, 1, []string{"unknown authority", "the root of this issuer?"}, nil},
		{"verify mdoc with another root", "", "auditor", []string{"verify", mdoc, "--root", filepath.Join(identity("auditor"), "ca.pem")}, 1, []string{"unknown authority", "the root of this issuer?"}, nil},
		{"verify without its root", "", "auditor", []string{"verify", card, "--root", "nowhere.pem"}, 2, []string{"nowhere.pem"}, nil},
		{"verify with a list of others", "", "auditor", []string{"verify", mdoc, "--root", root, "--list", list}, 1, nil, nil},
		{"verify no card", "", "auditor", []string{"verify", root, "--root", root}, 1, nil, nil},
		{"verify nothing", "", "auditor", []string{"verify", "nowhere.mdoc", "--root", root}, 1, []string{"nowhere.mdoc"}, nil},
		{"list from a file", "", "auditor", []string{"list", "decode", list}, 0, []string{"application/statuslist+jwt", "131072 of 2 bits", "not checked (no --root)", s.Status.URI}, []string{"entries", "valid", "verified"}},
		{"list from the appliance", "", "auditor", []string{"list", "decode", url(a.Ports[1], strings.TrimPrefix(m.Status.URI, publicURL)), "--root", root, "--index", fmt.Sprint(m.Status.Index)}, 0,
			[]string{"application/statuslist+cwt", "verified", "yes", fmt.Sprintf("index %d", m.Status.Index)}, []string{"status", "version"}},
		{"list, index outside", "", "auditor", []string{"list", "decode", list, "--index", "131072"}, 1, []string{"outside the list of 131072 entries"}, nil},
		{"list with another root", "", "auditor", []string{"list", "decode", list, "--root", filepath.Join(identity("auditor"), "ca.pem")}, 1, []string{"the root of this issuer?"}, nil},
		{"list that is not there", "", "auditor", []string{"list", "decode", url(a.Ports[1], "/status-lists/none")}, 1, []string{"404 Not Found", "the URL"}, nil},
		{"list that is none", "", "auditor", []string{"list", "decode", root}, 1, nil, nil},
		{"fsck without a ledger", "", "auditor", []string{"fsck", "--ledger", filepath.Join(a.Dir, "nowhere.db")}, 1, []string{"nowhere.db"}, nil},
		{"identity that is none", "", "nobody", []string{"whoami"}, 2, []string{"--identity", "sealkeeperd enrol"}, nil},

		{"no command of ours", "", "auditor", []string{"frobnicate"}, 2, []string{"unknown command", "sealctl --help"}, nil},
		{"no command below list", "", "auditor", []string{"list", "encode"}, 2, []string{"unknown command", "sealctl list --help"}, nil},
		{"unknown flag", "", "auditor", []string{"status", "--verbose"}, 2, []string{"--verbose"}, nil},
		{"argument too many", "", "auditor", []string{"status", "all"}, 2, []string{"sealctl status --help"}, nil},
		{"argument too few", "", "auditor", []string{"lock", kr, "--reason", "telecom_lost"}, 2, []string{"accepts 2 arg(s), received 1", "sealctl lock --help"}, nil},
		{"no reason", "", "auditor", []string{"lock", kr, "-"}, 2, []string{`"reason" not set`}, nil},
		{"no root", "", "auditor", []string{"verify", card}, 2, []string{`"root" not set`}, nil},
		{"no ledger", "", "auditor", []string{"fsck"}, 2, []string{`"ledger" not set`}, nil},
		{"no number", "", "auditor", []string{"list", "decode", list, "--index", "first"}, 2, []string{"--index"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var disk unix.Statfs_t
			if c.name == "doctor" && unix.Statfs(a.Dir, &disk) == nil && disk.Bavail < disk.Blocks/9 {
				t.Skip("this machine's disk is full to nine tenths, and doctor says so")
			}
			r := run(t, c.stdin, c.id, c.args...)
			expect(t, r, c.code, c.table...)
			narrow(t, r)
			if c.json == nil {
				return
			}
			r = run(t, c.stdin, c.id, append(c.args, "--json")...)
			expect(t, r, 0)
			var v map[string]any
			if err := json.Unmarshal([]byte(r.out), &v); err != nil {
				t.Fatalf("--json prints no JSON: %v\n%s", err, r.out)
			}
			for _, path := range c.json {
				at := any(v)
				for _, name := range strings.Split(path, ".") {
					o, _ := at.(map[string]any)
					next, ok := o[name]
					if !ok {
						t.Errorf("%s is missing in %s", path, r.out)
					}
					at = next
				}
			}
		})
	}

	t.Run("identity of another installation", func(t *testing.T) {
		strange := filepath.Join(a.Dir, "clients", "strange")
		key, cert := strangeClient(t, "urn:sealkeeper:client:auditor:auditor", time.Now().Add(time.Hour))
		ca, err := os.ReadFile(filepath.Join(identity("auditor"), "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(strange, 0o700); err != nil {
			t.Fatal(err)
		}
		file("clients/strange/key.pem", key)
		file("clients/strange/cert.pem", cert)
		file("clients/strange/ca.pem", ca)
		expect(t, run(t, "", "strange", "whoami"), 1, "refused the certificate", "does --identity")
		file("clients/strange/ca.pem", cert) // now it does not believe the appliance either
		expect(t, run(t, "", "strange", "whoami"), 1, "does --identity belong to the installation at --url?")
	})

	// A script reads one object for each interval, and Ctrl-C is no failure.
	t.Run("top as a stream", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := exec.CommandContext(ctx, harness.Sealctl, "top", "--json", "--interval", "200ms", "--operations", url(a.Ports[2], ""))
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(out)
		var last time.Time
		for range 3 {
			var v struct {
				At    time.Time `json:"at"`
				Lists []any     `json:"lists"`
				Rates map[string]*float64
			}
			if err := d.Decode(&v); err != nil {
				t.Fatal(err)
			}
			if !v.At.After(last) || len(v.Lists) == 0 || v.Rates["issues"] == nil {
				t.Errorf("%+v after %v", v, last)
			}
			last = v.At
		}
		if err := c.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out)
		if err := c.Wait(); err != nil {
			t.Errorf("Ctrl-C: %v", err)
		}
	})

	t.Run("doctor finds something", func(t *testing.T) {
		operations := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/status":
				_ = json.NewEncoder(w).Encode(contract.Status{Clock: "trusted", Conditions: []contract.Condition{
					{Name: "later", Severity: "warning", What: "a key ends soon", Do: "make its successor"}, {Name: "now", Severity: "critical", What: "token online is gone", Do: "look at it"}}})
			case "/metrics":
				fmt.Fprintln(w, `sealkeeper_signatures_total{key="ds-1",purpose="mdoc",result="bad"} 2`)
			default:
				http.NotFound(w, r)
			}
		}))
		defer operations.Close()
		expect(t, execute(t, harness.Sealctl, "", "doctor", "--operations", operations.URL), 5, "✗ critical: token online is gone\n  do: look at it\n  see docs/runbooks/now.md",
			"✗ critical: 2 signatures since the start did not verify", "✗ warning: a key ends soon", "3 conditions")
		r := execute(t, harness.Sealctl, "", "doctor", "--json", "--operations", operations.URL)
		if r.code != 5 || !json.Valid([]byte(r.out)) {
			t.Errorf("%+v", r)
		}
		expect(t, execute(t, harness.Sealctl, "", "status", "--operations", operations.URL+"/wrong"), 1, "404")
	})

	a.Stop()
	t.Run("nobody at home", func(t *testing.T) {
		expect(t, run(t, "", "auditor", "status"), 1, "is the daemon running, and --operations right?")
		expect(t, run(t, "", "auditor", "top"), 1, "is the daemon running, and --operations right?")
		expect(t, run(t, "", "auditor", "doctor"), 5, "✗ critical", "is the daemon running, and --operations right?", "sealkeeperd check")
		expect(t, run(t, "", "auditor", "whoami"), 1, "is the daemon running, and --url right?")
	})
	t.Run("fsck", func(t *testing.T) {
		ledger, publish := filepath.Join(a.Dir, "data", "ledger.db"), filepath.Join(a.Dir, "data", "publish")
		r := run(t, "", "auditor", "fsck", "--ledger", ledger, "--publish", publish)
		expect(t, r, 0, "✓ I1", "✓ I6")
		narrow(t, r)
		r = run(t, "", "auditor", "fsck", "--ledger", ledger, "--json")
		if r.code != 0 || !json.Valid([]byte(r.out)) {
			t.Errorf("%+v", r)
		}
		var tampered bool
		err := filepath.WalkDir(publish, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() || tampered || !strings.Contains(path, "status-lists") {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[len(b)-1] ^= 1
			tampered = true
			return os.WriteFile(path, b, 0o600)
		})
		if err != nil || !tampered {
			t.Fatalf("no published list to tamper with: %v", err)
		}
		expect(t, run(t, "", "auditor", "fsck", "--ledger", ledger, "--publish", publish), 5, "✗ I", "problems")
	})
}

// Each command shows an example, and the shells get their completions.
func TestHelp(t *testing.T) {
	t.Parallel()
	listed := regexp.MustCompile(`(?m)^  ([a-z]+) {2,}\S`)
	var walk func(t *testing.T, name string, path ...string)
	walk = func(t *testing.T, name string, path ...string) {
		r := execute(t, name, "", append(path, "--help")...)
		if r.code != 0 || r.err != "" {
			t.Errorf("%v --help: %+v", path, r)
		}
		_, commands, has := strings.Cut(r.out, "Available Commands:\n")
		if len(path) > 0 && !regexp.MustCompile(`Examples:\n.*`+filepath.Base(name)+` `).MatchString(r.out) {
			t.Errorf("%s %v has no example", filepath.Base(name), path)
		}
		if !has {
			return
		}
		commands, _, _ = strings.Cut(commands, "\n\n")
		for _, m := range listed.FindAllStringSubmatch(commands, -1) {
			if m[1] != "help" && m[1] != "completion" {
				walk(t, name, append(path[:len(path):len(path)], m[1])...)
			}
		}
	}
	for _, name := range []string{harness.Sealctl, harness.Binary} {
		walk(t, name)
		for shell, syntax := range map[string][]string{"bash": {"bash", "-n"}, "zsh": nil} {
			r := execute(t, name, "", "completion", shell)
			if r.code != 0 || !strings.Contains(r.out, filepath.Base(name)) {
				t.Errorf("%s completion %s: %d %s", filepath.Base(name), shell, r.code, r.err)
			}
			if syntax != nil {
				c := exec.Command(syntax[0], syntax[1:]...)
				c.Stdin = strings.NewReader(r.out)
				if out, err := c.CombinedOutput(); err != nil {
					t.Errorf("%s: %v %s", shell, err, out)
				}
			}
		}
	}
}

// sealkeeperd's exit codes and complaints, without a daemon running. (3 and 4 stand with the fence and the PIN.)
func TestSealkeeperdExitCodes(t *testing.T) {
	t.Parallel()
	a := install(t)
	conf := filepath.Join(a.Dir, "sealkeeper.yaml")
	good := harness.Configuration(a.Ports[:]...)
	expect := func(code int, r ran, texts ...string) {
		t.Helper()
		if r.code != code {
			t.Errorf("ended with %d instead of %d: %s%s", r.code, code, r.out, r.err)
		}
		for _, text := range texts {
			if !strings.Contains(r.out+r.err, text) {
				t.Errorf("%q is missing in\n%s%s", text, r.out, r.err)
			}
		}
	}
	do := func(args ...string) ran { return execute(t, harness.Binary, "", args...) }

	expect(0, do("version"), "sealkeeperd ")
	expect(0, do("check", "-c", conf), "✓ configuration", "✓ TLS certificate")
	for _, args := range [][]string{{"frob"}, {"serve", "now"}, {"serve", "--frob"}, {"serve", "-c", conf, "--log-level", "loud"}, {"enrol", "-c", conf}, {"accept", "-c", conf}, {"accept", "defeat"}, {"version", "x"},
		{"serve", "-c", filepath.Join(a.Dir, "nowhere.yaml")}, {"enrol", "-c", conf, "stranger"}} {
		expect(2, do(args...))
	}

	a.Write("sealkeeper.yaml", good+"hsm: {workers: 0, pin: 1234}\nevidence: {max_keys: many}\n")
	for _, command := range []string{"check", "serve", "init"} {
		expect(2, do(command, "-c", conf), conf+":10: hsm.pin: is no key of this file", conf+":10: hsm.workers: 0 is out of bounds", conf+`:11: evidence.max_keys: "many" is no`)
	}
	a.Write("sealkeeper.yaml", good)

	// check says everything that is wrong in one run
	pin := filepath.Join(a.Dir, "data", "pins", "online")
	if err := os.Chmod(pin, 0o644); err != nil {
		t.Fatal(err)
	}
	a.Write("policy.json", "{}")
	a.Write("wallet.pem", "nothing")
	a.Write("data/pin-refused-iaca", "CKR_PIN_INCORRECT\n")
	if err := os.Remove(filepath.Join(a.Dir, "data", "tls", "server.pem")); err != nil {
		t.Fatal(err)
	}
	r := do("check", "-c", conf)
	expect(5, r, "✗ policy bundle", "✗ wallet provider anchors", "no PEM block of type CERTIFICATE", "chmod 0400 "+pin, "✗ token iaca: its PIN was refused before", "✗ TLS certificate",
		"run `sealkeeperd init --config "+conf+"`", "5 of the checks failed")
	expect(2, do("serve", "-c", conf), "policy")
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
