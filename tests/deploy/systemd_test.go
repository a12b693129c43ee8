// Package deploy checks what is shipped beside the programs.
package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sealkeeper/internal/config"
)

const (
	units  = "../../deploy/systemd"
	daemon = "sealkeeperd.service"

	authority = "sealkeeper-ra.service"
)

func analyze(t *testing.T) string {
	t.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil && os.Getenv("SEAL_REQUIRE_SYSTEMD") == "1" {
		t.Fatal(err)
	} else if err != nil {
		t.Skip("systemd-analyze is not installed (Debian and Ubuntu: apt-get install systemd)")
	}
	return tool
}

// G10: the units are exposed at most 1.1 by systemd's own measure (0 to 10). The measure is static: it reads the unit, it runs nothing.
func TestUnitExposure(t *testing.T) {
	const most = 1.1
	tool := analyze(t)
	for _, unit := range []string{daemon, "sealkeeper-fsck.service", authority} {
		out, err := exec.Command(tool, "security", "--offline=true", "--no-pager", filepath.Join(units, unit)).CombinedOutput()
		m := regexp.MustCompile(`Overall exposure level for ` + regexp.QuoteMeta(unit) + `: ([0-9.]+)`).FindSubmatch(out)
		if m == nil {
			t.Fatalf("%s: no exposure level: %v\n%s", unit, err, out)
		}
		if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > most {
			t.Errorf("%s: exposure %s, at most %v is allowed:\n%s", unit, m[1], most, out)
		}
	}
}

// systemd understands every line of every unit, and the units know each other. The programs are put in place of those that are not
// installed here.
func TestUnitsAreUnderstood(t *testing.T) {
	tool, dir := analyze(t), t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(units, "*.*"))
	if err != nil || len(names) < 8 {
		t.Fatal(names, err)
	}
	args := []string{"verify", "--man=no"}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(to, regexp.MustCompile(`/usr/bin/(sealkeeperd|sealctl|sealkeeper-ra)`).ReplaceAll(b, []byte(program)), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, to)
	}
	out, err := exec.Command(tool, args...).CombinedOutput()
	for _, line := range strings.Split(string(out), "\n") {
		if strings.Contains(line, "sealkeeper") || strings.Contains(line, dir) {
			t.Error(line)
		}
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// all values of a key in a unit, in order.
func all(t *testing.T, unit, key string) (values []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(units, unit))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^`+key+`=(.*)$`).FindAllStringSubmatch(string(b), -1) {
		values = append(values, m[1])
	}
	return values
}

func one(t *testing.T, unit, key string) string {
	t.Helper()
	v := all(t, unit, key)
	if len(v) != 1 {
		t.Fatalf("%s: %s stands there %d times", unit, key, len(v))
	}
	return v[0]
}

// The unit gives what the daemon asks for: a socket for each listener by its name, enough open files for limits.connections, time to drain;
// and it starts nothing again that a person has to look at, but a daemon that the watchdog ended, which has Go's exit code 2.
func TestUnitFitsTheDaemon(t *testing.T) {
	c, err := config.Load("../../deploy/sealkeeper.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := strconv.Atoi(one(t, daemon, "LimitNOFILE")); err != nil || n < c.Files() {
		t.Errorf("LimitNOFILE=%d, and the example's configuration needs %d: %v", n, c.Files(), err)
	}
	if s, err := strconv.Atoi(one(t, daemon, "TimeoutStopSec")); err != nil || float64(s) <= 3*c.Drain.Seconds() {
		t.Errorf("TimeoutStopSec=%d, and a drain takes three times %s: %v", s, c.Drain, err)
	}
	sockets := strings.Fields(one(t, daemon, "Sockets"))
	var names []string
	for _, unit := range sockets {
		name := one(t, unit, "FileDescriptorName")
		names = append(names, name)
		address := map[string]string{"issuance": c.Issuance, "public": c.Public, "operations": c.Operations}[name]
		if got := one(t, unit, "ListenStream"); got != address || one(t, unit, "Service") != daemon {
			t.Errorf("%s listens on %s, the example on %s", unit, got, address)
		}
	}
	if slices.Sort(names); !slices.Equal(names, []string{"issuance", "operations", "public"}) {
		t.Errorf("sockets %q", names)
	}
	if got := strings.Fields(one(t, "sealkeeperd-closed.target", "Conflicts")); !slices.Equal(got, sockets) || one(t, daemon, "OnFailure") != "sealkeeperd-closed.target" {
		t.Errorf("a service that was given up closes %q, not %q", got, sockets)
	}
	for key, want := range map[string]string{"Type": "notify", "NotifyAccess": "main", "Restart": "on-failure", "RestartPreventExitStatus": "3", "StartLimitIntervalSec": "0"} {
		if got := one(t, daemon, key); got != want {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}
	one(t, daemon, "WatchdogSec")
	one(t, daemon, "TasksMax")
	one(t, daemon, "MemoryMax")
}

// The registration authority is another machine's: its unit leans on none of the daemon's, may write its own identity alone, and is started for as long as the
// appliance does not answer.
func TestUnitOfTheRegistrationAuthority(t *testing.T) {
	for key, want := range map[string]string{"User": "sealkeeper-ra", "StateDirectory": "sealkeeper-ra", "StartLimitIntervalSec": "0", "Restart": "on-failure", "ProtectSystem": "strict"} {
		if got := one(t, authority, key); got != want {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}
	if len(all(t, authority, "ReadWritePaths")) > 0 || len(all(t, authority, "LoadCredentialEncrypted")) > 0 {
		t.Error("it has more to write than its identity, or secrets of the daemon's")
	}
	flags := regexp.MustCompile(`--[a-z]+`).FindAllString(one(t, authority, "ExecStart"), -1)
	source, err := os.ReadFile("../../cmd/sealkeeper-ra/main.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flags {
		if !strings.Contains(string(source), `"`+strings.TrimPrefix(f, "--")+`"`) {
			t.Errorf("the program has no %s", f)
		}
	}
	if !strings.Contains(one(t, authority, "ExecStart"), " --identity /var/lib/"+one(t, authority, "StateDirectory")+"/") || len(flags) != 3 {
		t.Errorf("its identity lies elsewhere than its state: %q", flags)
	}
}
