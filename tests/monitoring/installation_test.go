package monitoring

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/tests/phone"
	"sealkeeper/tests/port"
)

const kr = "kr-resident"

// installation is a demo installation as an operator finds it: programs in the PATH, a service manager that starts and stops the daemon,
// a journal. The service manager is a script, since a test has none.
type installation struct {
	t        *testing.T
	dir      string
	ports    [3]int
	provider *phone.Provider
	env      []string
}

const systemctl = `#!/bin/sh
# Stands for systemd: systemctl start|stop|restart|status sealkeeperd
case "$1" in
start)
	rm -f "$RUN/exit"
	( sealkeeperd serve --log-text --config "$SEALKEEPER_CONFIG" --exit-textfile "$SEALKEEPER_TEXTFILES/exit.prom" >>"$RUN/log" 2>&1 & echo $! >"$RUN/pid"; wait $!; echo $? >"$RUN/exit" ) >/dev/null 2>&1 </dev/null &
	for i in $(seq 300); do
		[ -e "$RUN/exit" ] && { echo "sealkeeperd: exit code $(cat "$RUN/exit")" >&2; exit 1; }
		curl -s -o /dev/null "$SEALCTL_OPERATIONS/livez" && exit 0
		sleep 0.1
	done
	exit 1 ;;
stop)
	[ -e "$RUN/pid" ] && [ ! -e "$RUN/exit" ] && kill -TERM "$(cat "$RUN/pid")"
	for i in $(seq 300); do [ -e "$RUN/exit" ] && exit 0; [ -e "$RUN/pid" ] || exit 0; sleep 0.1; done
	kill -KILL "$(cat "$RUN/pid")" ;;
restart) "$0" stop; "$0" start ;;
status) if [ -e "$RUN/exit" ]; then echo "sealkeeperd: ended, status=$(cat "$RUN/exit")"; else echo "sealkeeperd: running, Main PID: $(cat "$RUN/pid")"; fi ;;
*) exit 1 ;;
esac
`

const journalctl = `#!/bin/sh
# Stands for systemd's journal: the daemon's last lines.
tail -n 50 "$RUN/log"
`

// setup is how an installation differs from the demo's.
type setup struct {
	config   string // more of it
	bundle   []byte // nil: demo.json
	init     string // more arguments
	clients  string // more of them
	prepared func(in *installation)
}

var programs string // where they are, once built

// build makes the programs, once for all installations.
var build = sync.OnceValue(func() (err error) {
	if programs, err = os.MkdirTemp("", "sealkeeper-monitoring-"); err != nil {
		return err
	}
	if out, err := exec.Command("go", "build", "-o", programs+"/", "sealkeeper/cmd/sealkeeperd", "sealkeeper/cmd/sealctl").CombinedOutput(); err != nil {
		return fmt.Errorf("building: %w\n%s", err, out)
	}
	return nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if programs != "" {
		_ = os.RemoveAll(programs)
	}
	os.Exit(code)
}

// install founds an installation.
func install(t *testing.T, how setup) *installation {
	t.Helper()
	for _, tool := range []string{"curl", "sqlite3"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing; run scripts/require.sh monitoring", tool)
		}
	}
	err := build()
	if err != nil {
		t.Fatal(err)
	}
	in := &installation{t: t, dir: t.TempDir()}
	in.disk()
	bin := filepath.Join(in.dir, "bin")
	for _, d := range []string{bin, in.path("run"), in.path("textfiles")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	in.write("bin/systemctl", systemctl, 0o755)
	in.write("bin/journalctl", journalctl, 0o755)
	ports, err := port.Free(len(in.ports))
	if err != nil {
		t.Fatal(err)
	}
	copy(in.ports[:], ports)
	if in.provider, err = phone.NewProvider(time.Now(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if how.bundle == nil {
		if how.bundle, err = os.ReadFile("../../deploy/policies/demo.json"); err != nil {
			t.Fatal(err)
		}
	}
	in.write("policy.json", string(how.bundle), 0o600)
	in.write("wallet.pem", string(in.provider.AnchorPEM()), 0o600)
	in.write("sealkeeper.yaml", fmt.Sprintf(`installation: {name: Test, country: KR}
data: data
high_water: witness/high-water.json
policy: policy.json
wallet_providers: [wallet.pem]
public_url: https://cards.test.example
listen: {issuance: "127.0.0.1:%d", public: "127.0.0.1:%d", operations: "127.0.0.1:%d"}
%s`, in.ports[0], in.ports[1], in.ports[2], how.config), 0o600)
	in.env = append(os.Environ(),
		"PATH="+bin+":"+programs+":"+os.Getenv("PATH"), "RUN="+in.path("run"), "SEALKEEPER_CONFIG="+in.path("sealkeeper.yaml"), "SEALKEEPER_DATA="+in.path("data"),
		"SEALKEEPER_TEXTFILES="+in.path("textfiles"), "SEALCTL_URL=https://127.0.0.1:"+fmt.Sprint(in.ports[0]), "SEALCTL_IDENTITY="+in.path("clients/loss-desk"), "SEALCTL_AUDITOR="+in.path("clients/auditor"),
		"SEALCTL_OPERATIONS=http://127.0.0.1:"+fmt.Sprint(in.ports[2]), "PUBLIC_URL=http://127.0.0.1:"+fmt.Sprint(in.ports[1]))
	if how.prepared != nil {
		how.prepared(in)
	}
	in.must("sealkeeperd init --dev --config \"$SEALKEEPER_CONFIG\" " + how.init)
	in.must("sealkeeperd enrol --config \"$SEALKEEPER_CONFIG\" --out " + in.path("clients") + " ward-office-1 loss-desk auditor " + how.clients)
	t.Cleanup(func() {
		_, _ = in.sh("systemctl stop sealkeeperd")
		if t.Failed() {
			log, _ := os.ReadFile(in.path("run/log"))
			t.Logf("daemon's log:\n%s", log[max(0, len(log)-5000):])
		}
	})
	return in
}

// disk gives the installation one of its own, where that can be mounted: how full this machine's is, is nothing that a test is about, and the daemon tells.
func (in *installation) disk() {
	in.t.Helper()
	if in.mount("", 1024) == nil {
		return
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(in.dir, &disk); err != nil {
		in.t.Fatal(err)
	}
	if disk.Bavail < disk.Blocks/9 {
		in.t.Fatalf("%s: the disk is full to nine tenths, so that DiskFilling would fire beside every other alert; make room, or run this as root", in.dir)
	}
}

// mount puts a disk of so many MiB into a directory of the installation, until the test is over.
func (in *installation) mount(at string, mib int) error {
	err := unix.Mount("tmpfs", in.path(at), "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", mib))
	if err == nil {
		in.t.Cleanup(func() { _ = unix.Unmount(in.path(at), unix.MNT_DETACH) })
	}
	return err
}

func (in *installation) path(name string) string { return filepath.Join(in.dir, name) }

func (in *installation) write(name, text string, mode os.FileMode) {
	in.t.Helper()
	_ = os.Remove(in.path(name))
	if err := os.WriteFile(in.path(name), []byte(text), mode); err != nil {
		in.t.Fatal(err)
	}
}

// sh runs what an operator would type.
func (in *installation) sh(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "sh", "-c", script)
	c.Env, c.Dir = in.env, in.dir
	out, err := c.CombinedOutput()
	return string(out), err
}

func (in *installation) must(script string) string {
	in.t.Helper()
	out, err := in.sh(script)
	if err != nil {
		in.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// healthy waits until doctor finds nothing.
func (in *installation) healthy() {
	in.t.Helper()
	in.eventually("doctor finds nothing", func() (string, bool) { out, err := in.sh("sealctl doctor --over 100ms"); return out, err == nil })
}

func (in *installation) eventually(what string, ask func() (string, bool)) {
	in.t.Helper()
	last := ""
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		var ok bool
		if last, ok = ask(); ok {
			return
		}
	}
	in.t.Fatalf("waited in vain: %s\n%s", what, last)
}

func (in *installation) as(id string) *client.Client {
	in.t.Helper()
	dir := in.path("clients/" + id)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		in.t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		in.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	c, err := client.New(client.Config{BaseURL: fmt.Sprintf("https://127.0.0.1:%d", in.ports[0]), Certificate: cert, RootCAs: pool, Timeout: 20 * time.Second})
	if err != nil {
		in.t.Fatal(err)
	}
	return c
}

func person() map[string]any {
	return map[string]any{"family_name": "Kim", "given_name": "Min", "birth_date": "1990-01-01", "address": "Seoul", "age_over_19": true, "issuing_country": "KR",
		"issuing_authority": "MOIS", "document_number": "D-1", "issue_date": "2026-01-15", "expiry_date": "2036-01-14", "portrait": "_9j_4AAQSkZJRg"}
}

// issue makes a card for a new phone.
func (in *installation) issue(subject string) error {
	p, err := phone.New(1)
	if err != nil {
		return err
	}
	c := in.as("ward-office-1")
	nonce, err := c.Nonce(context.Background(), contract.NonceRequest{DocumentType: kr})
	if err != nil {
		return err
	}
	now := time.Now()
	_, err = c.Issue(context.Background(), client.NewKey(), contract.IssueRequest{DocumentType: kr, Subject: subject, Claims: person(),
		Proof: p.Prove(0, "https://ward-office-1.example", nonce.Nonce, now, ""), KeyAttestation: p.Attest(in.provider, nonce.Nonce, now)})
	return err
}

func (in *installation) lock(subject string) error {
	_, err := in.as("loss-desk").Lock(context.Background(), contract.ChangeRequest{DocumentType: kr, Subject: subject, Reason: "self_lost"})
	return err
}

// killWorkers ends every HSM worker of the daemon.
func (in *installation) killWorkers() {
	in.t.Helper()
	in.must(killWorkers + " || true")
}
