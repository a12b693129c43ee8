package faults

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealkeeper/softhsm"
	"sealkeeper/tests/appliance"
)

// server is one p11-kit server: it stands for an HSM in the network. It has a copy of the token of its own, as each unit of a cluster has,
// and its processes are a group.
type server struct {
	t       testing.TB
	dir     string
	socket  string
	process *exec.Cmd
}

// p11kit finds p11-kit's client.
func p11kit(t testing.TB) (client string) {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib*/*/pkcs11/p11-kit-client.so")
	more, _ := filepath.Glob("/usr/lib*/pkcs11/p11-kit-client.so")
	found = append(found, more...)
	if _, err := exec.LookPath("p11-kit"); err != nil || len(found) == 0 {
		if os.Getenv("SEAL_REQUIRE_P11KIT") == "1" {
			t.Fatal("p11-kit and p11-kit-client.so are missing: scripts/require.sh faults")
		}
		t.Skip("p11-kit or p11-kit-client.so is not installed: scripts/require.sh faults")
	}
	return found[0]
}

// newServers founds the installation anew with p11-kit servers between its workers and SoftHSM: one for each of n workers of the online
// token, one for the root's.
func newServers(t testing.TB, a *appliance.Appliance, n int) (servers []*server) {
	t.Helper()
	client := p11kit(t)
	dir, err := os.MkdirTemp("", "p11kit") // a socket's path has at most 107 bytes
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	module := filepath.Join(dir, "p11net.so")
	if out, err := exec.Command("cc", append(slices.Clip(flags), "-DCLIENT=\""+client+"\"", "-o", module, "p11shim/p11net.c", "-ldl")...).CombinedOutput(); err != nil {
		t.Fatalf("building the module: %v\n%s", err, out)
	}
	made := func(name, tokens string) *server {
		s := &server{t: t, dir: filepath.Join(dir, name), socket: filepath.Join(dir, name+".socket")}
		must(t, os.Mkdir(s.dir, 0o700))
		if out, err := exec.Command("cp", "-a", filepath.Join(tokens, "tokens"), s.dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		must(t, os.WriteFile(filepath.Join(s.dir, "softhsm2.conf"), []byte("directories.tokendir = "+s.dir+"/tokens\nobjectstore.backend = file\n"), 0o600))
		t.Cleanup(s.kill)
		s.start()
		return s
	}
	data := filepath.Join(a.Dir, "data")
	servers = append(servers, made("online-1", filepath.Join(data, "tokens", "online")))
	made("iaca-1", filepath.Join(data, "tokens", "iaca"))
	for _, old := range []string{"witness", "clients", "data/publish", "data/tls", "data/tokens", "data/ledger.db", "data/ledger.db-wal", "data/ledger.db-shm"} {
		must(t, os.RemoveAll(filepath.Join(a.Dir, old)))
	}
	conf, err := os.ReadFile(filepath.Join(a.Dir, "sealkeeper.yaml"))
	must(t, err)
	write := func(workers int) {
		a.Write("sealkeeper.yaml", string(conf)+fmt.Sprintf("hsm: {module: %q, embedded: false, workers: %d, deadline: 500ms, environment: [%q]}\n", module, workers,
			"P11_KIT_SERVER_ADDRESS=unix:path="+dir+"/{token}-{worker}.socket"))
	}
	write(1)
	found(a)
	for i := range n - 1 { // the other units get the keys
		servers = append(servers, made(fmt.Sprint("online-", i+2), servers[0].dir))
	}
	write(n)
	return servers
}

// start returns when the server takes connections.
func (s *server) start() {
	s.t.Helper()
	module, err := softhsm.FindModule("")
	must(s.t, err)
	_ = os.Remove(s.socket)
	s.process = exec.Command("p11-kit", "server", "-f", "-n", s.socket, "--provider", module, "pkcs11:")
	s.process.Env = append(os.Environ(), softhsm.Env(s.dir)...)
	s.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(s.t, s.process.Start())
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("unix", s.socket); err == nil {
			c.Close()
			return
		} else if time.Now().After(deadline) {
			s.t.Fatalf("p11-kit server does not listen: %v", err)
		}
	}
}

// signal reaches the server and what it started for each connection.
func (s *server) signal(which syscall.Signal) { _ = syscall.Kill(-s.process.Process.Pid, which) }

func (s *server) kill() {
	if s.process != nil {
		s.signal(syscall.SIGKILL)
		_ = s.process.Wait()
		s.process = nil
	}
}

// serverFaults end with the server well again. lasting is how long the HSM is gone.
var serverFaults = []struct {
	name  string
	cause func(s *server, lasting func())
}{
	{"stopped and continued", func(s *server, lasting func()) { s.signal(syscall.SIGSTOP); lasting(); s.signal(syscall.SIGCONT) }},
	{"stopped and replaced", func(s *server, lasting func()) { s.signal(syscall.SIGSTOP); lasting(); s.kill(); s.start() }},
	{"killed and started", func(s *server, lasting func()) { s.kill(); lasting(); s.start() }},
	{"restarted", func(s *server, _ func()) { s.kill(); s.start() }},
}

// An HSM in the network hangs, dies and comes back, under load. With a server for each of two workers no request fails. With one, requests
// wait for it: each is answered once it is back. Which keys sign is looked up anew each time, and no other key's signature leaves.
func TestServersOfTheHSM(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 1} {
		if !all && n == 1 {
			continue
		}
		t.Run(fmt.Sprintf("workers %d", n), func(t *testing.T) {
			t.Parallel()
			a := appliance.Install(t)
			servers := newServers(t, a, n)
			a.Start()
			for i, f := range serverFaults {
				if !all && i > 0 {
					continue
				}
				t.Run(f.name, func(t *testing.T) {
					whole(t, a, n)
					before := a.Metrics()
					l := start(t, a, 4)
					l.more(8)
					f.cause(servers[i%n], func() {
						for deadline := time.Now().Add(20 * time.Second); sum(a.Metrics(), `workers_ready\{token="online"`) >= float64(n); time.Sleep(5 * time.Millisecond) {
							if time.Now().After(deadline) {
								t.Fatal("a worker whose server is gone counts as ready")
							}
						}
						if n > 1 {
							l.more(40) // the other worker goes on
						}
					})
					back := time.Now()
					l.more(1)
					t.Logf("acknowledged again %s after the server was back", time.Since(back).Round(time.Millisecond))
					l.more(30)
					whole(t, a, n)
					l.end()
					l.verify()
					if n > 1 && l.failed.Load() > 0 {
						t.Errorf("%d requests failed at first: %s", l.failed.Load(), strings.Join(l.fails, "\n"))
					}
					after := a.Metrics()
					if sum(after, restarted) <= sum(before, restarted) {
						t.Error("no worker was replaced: this test proves nothing")
					}
					if sum(after, bad) > sum(before, bad) {
						t.Error("a bad signature was made: with which key?")
					}
					t.Logf("%d changes acknowledged, %d repeated, %d credentials verified; slowest %s", l.acks.Load(), l.failed.Load(), len(l.cards), l.slowest())
				})
			}
			a.Stop()
			a.Check()
		})
	}
}

// whole waits until every worker is there.
func whole(t testing.TB, a *appliance.Appliance, n int) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); sum(a.Metrics(), `workers_ready\{token="online"`) < float64(n); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the workers do not come back:\n%s", tail(a))
		}
	}
}
