package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sealkeeper/tests/phone"
	"sealkeeper/tests/port"
	"sealkeeper/tests/programme"
)

const publicURL = "https://cards.sealkeeper.example"

// appliance is one installation and its daemon.
type appliance struct {
	dir, bin string
	ports    [3]int
	provider *phone.Provider
	tls      map[string]*tls.Config // of each client
	root     *x509.Certificate      // IACA
	by       *programme.Authorities // of the bundle; nil: it has none
	cmd      *exec.Cmd
	cpus     *unix.CPUSet // nil: all
	serial   int          // of subjects
	signing  *signatures  // measured while it issues
}

// founding is what an installation is made of.
type founding struct {
	bundle  []byte
	clients []string // that the bundle names, of those that are enrolled at once
	conf    string   // beside what every configuration says
	init    []string // arguments of init
}

// install founds a fresh installation and starts it.
func install(ctx context.Context, dir, bin string, f founding) (*appliance, error) {
	a := &appliance{dir: dir, bin: bin, tls: map[string]*tls.Config{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if a.provider, err = phone.NewProvider(time.Now(), rand.Reader); err != nil {
		return nil, err
	}
	ports, err := port.Free(len(a.ports))
	if err != nil {
		return nil, err
	}
	copy(a.ports[:], ports)
	conf := fmt.Sprintf(`installation: {name: Bench, country: KR, organization: Bench ministry}
data: data
high_water: witness/high-water.json
policy: policy.json
wallet_providers: [wallet-provider.pem]
public_url: %s
listen: {issuance: "127.0.0.1:%d", public: "127.0.0.1:%d", operations: "127.0.0.1:%d"}
evidence: {nonce_life: 15m}
`, publicURL, a.ports[0], a.ports[1], a.ports[2]) + f.conf
	for name, data := range map[string][]byte{"wallet-provider.pem": a.provider.AnchorPEM(), "policy.json": f.bundle, "sealkeeper.yaml": []byte(conf)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	for _, args := range [][]string{append([]string{"init", "--dev"}, f.init...), append([]string{"enrol", "--out", filepath.Join(dir, "clients")}, f.clients...)} {
		if out, err := a.command(args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("sealkeeperd %s: %w\n%s", args[0], err, out)
		}
	}
	for _, id := range f.clients {
		if a.tls[id], err = mutual(filepath.Join(dir, "clients", id)); err != nil {
			return nil, err
		}
	}
	if _, err := a.start(ctx); err != nil {
		return nil, err
	}
	p, err := a.public(ctx, "/certificates/iaca.pem")
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(p)
	if block == nil {
		return nil, fmt.Errorf("the IACA's certificate is no PEM: %q", p)
	}
	a.root, err = x509.ParseCertificate(block.Bytes)
	return a, err
}

// installDemo founds it by the bundle of the demo, whose cards need no statements.
func installDemo(ctx context.Context, dir, bin string) (*appliance, error) {
	bundle, err := os.ReadFile("deploy/policies/demo.json")
	if err != nil {
		return nil, err
	}
	return install(ctx, dir, bin, founding{bundle: bundle, clients: callers})
}

// callers are those that issue and lock.
var callers = []string{"ward-office-1", "telecom-a"}

func (a *appliance) command(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(a.bin, "sealkeeperd"), append(args, "--config", filepath.Join(a.dir, "sealkeeper.yaml"))...)
}

func mutual(dir string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, err
	}
	root, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, MinVersion: tls.VersionTLS13, ServerName: "127.0.0.1"}, nil
}

// start runs the daemon until it is ready, and says how long that took.
func (a *appliance) start(ctx context.Context, args ...string) (time.Duration, error) {
	log, err := os.OpenFile(filepath.Join(a.dir, "daemon.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	began := time.Now()
	a.cmd = a.command(append([]string{"serve"}, args...)...)
	a.cmd.Stdout, a.cmd.Stderr = log, log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := startOn(a.cpus, a.cmd); err != nil {
		a.cmd = nil
		return 0, err
	}
	for time.Since(began) < 30*time.Second {
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", a.ports[2]))
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return time.Since(began), nil
			}
		}
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("the daemon does not get ready:\n%s", a.lastWords())
}

// lastWords of the daemon's log that are not about requests which were served.
func (a *appliance) lastWords() []byte {
	log, err := os.ReadFile(filepath.Join(a.dir, "daemon.log"))
	if err != nil {
		return []byte(err.Error())
	}
	var words []byte
	for line := range bytes.Lines(log) {
		if !bytes.Contains(line, []byte(`"status":200`)) {
			words = append(words, line...)
		}
	}
	return words[max(0, len(words)-4000):]
}

func (a *appliance) stop() error {
	if a.cmd == nil {
		return nil
	}
	cmd := a.cmd
	a.cmd = nil
	_ = cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	return cmd.Wait()
}

// public fetches as a verifier would.
func (a *appliance) public(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", a.ports[1], path), nil)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d", path, r.StatusCode)
	}
	return b, err
}

// cpu is what the daemon and all its workers, also those that ended, have used so far.
func (a *appliance) cpu() (time.Duration, error) { return cpuOfAll(a.cmd.Process.Pid) }

// cpuOfAll is what a process and its children, also those that ended, have used so far.
func cpuOfAll(parent int) (time.Duration, error) {
	total, err := cpuOf(parent)
	if err != nil {
		return 0, err
	}
	children, err := childrenOf(parent)
	if err != nil {
		return 0, err
	}
	for _, pid := range children {
		if t, err := cpuOf(pid); err == nil { // else it ended meanwhile, and its parent's sum has it after the next look
			total += t
		}
	}
	return total, nil
}

// rss of daemon and workers in MiB.
func (a *appliance) rss() (float64, error) {
	children, err := childrenOf(a.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, pid := range append(children, a.cmd.Process.Pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(b), "VmRSS:")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue // it ends
		}
		kib, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return 0, err
		}
		total += kib / 1024
	}
	return total, nil
}

// stat gives the fields of /proc/PID/stat from the third on (proc_pid_stat(5)): the second may hold spaces.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return fields, nil
}

const tick = time.Second / 100 // USER_HZ is 100 on every Linux that Go runs on

// cpuOf sums utime, stime, cutime and cstime: the last two are of children that were waited for.
func cpuOf(pid int) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	sum := time.Duration(0)
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

func childrenOf(parent int) (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if fields, err := stat(pid); err == nil && fields[1] == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
