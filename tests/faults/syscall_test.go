package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealkeeper/tests/appliance"
)

// Every kind of system call that makes something durable fails, or kills, at its first, second, … time in each thread, while cards are
// issued, locked and published. What was acknowledged stays, whatever the kernel says.
//
// strace counts calls per thread, so "the n-th" is not one line of the code; crash points are (crash_test.go).
func TestSystemCalls(t *testing.T) {
	if !all {
		t.Skip("SEAL_FAULTS=all")
	}
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed")
	}
	t.Parallel()
	for _, call := range []string{"fsync,fdatasync", "pwrite64", "write", "renameat,renameat2", "openat"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			a := appliance.Install(t)
			for _, fault := range []string{"error=EIO", "error=ENOSPC", "signal=KILL"} {
				for _, when := range []string{"1", "2", "4+3"} {
					t.Run(fault+" "+when, func(t *testing.T) {
						if !traced(t, a, call, fault, when) {
							if when == "1" {
								t.Error("the fault never came: this test proves nothing")
							}
							t.Log("no thread made so many of these calls")
						}
					})
				}
			}
		})
	}
}

// traced runs one case and says whether the fault came.
func traced(t *testing.T, a *appliance.Appliance, call, fault, when string) bool {
	a.Start()
	log := filepath.Join(t.TempDir(), "strace.log")
	c := exec.Command("strace", "-f", "-o", log, "-e", "trace="+call, "-e", "inject="+call+":"+fault+":when="+when, "-p", fmt.Sprint(a.Daemon.Process.Pid))
	says := &appliance.Buffer{}
	c.Stderr = says
	must(t, c.Start())
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(says.String(), "attached"); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(says.String(), "not permitted") {
			_ = c.Wait()
			a.Kill() // the next case starts it again
			t.Skip("strace may not attach here: ", says.String())
		}
		if time.Now().After(deadline) {
			t.Fatalf("strace does not attach: %s", says.String())
		}
	}
	l := start(t, a, 2)
	came := func() bool {
		b, err := os.ReadFile(log)
		must(t, err)
		return strings.Contains(string(b), "INJECTED") || strings.Contains(string(b), "killed by SIGKILL")
	}
	few, most := l.acks.Load()+8, l.acks.Load()+80
	ended := false
	// The first call of its kind must come, however slow this machine is; a later one may be none that the daemon makes.
	due := func() bool { return when == "1" && !came() }
	for began := time.Now(); !ended && (time.Since(began) < 4*time.Second || due() && time.Since(began) < patience); {
		if n := l.acks.Load(); n >= most && !due() || n >= few && came() {
			break
		}
		select {
		case <-a.Exited:
			ended = true
		case <-time.After(5 * time.Millisecond):
		}
	}
	// strace lets the daemon go. Meeting a vfork it may wait for ever for the parent, which waits for the child: then the kernel lets go.
	_ = c.Process.Signal(syscall.SIGINT)
	late := time.AfterFunc(2*time.Second, func() { _ = c.Process.Kill() })
	_ = c.Wait()
	late.Stop()
	// Either it ends, which takes a busy machine some time, or it goes on.
	for on, deadline := l.acks.Load()+4, time.Now().Add(patience); !ended && l.acks.Load() < on && time.Now().Before(deadline); {
		select {
		case <-a.Exited:
			ended = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	b, err := os.ReadFile(log)
	must(t, err)
	if ended {
		if code := a.Wait(); code == 0 {
			t.Error("a daemon that could not go on ended with 0")
		}
	} else if strings.HasPrefix(call, "fsync") && strings.Contains(fault, "EIO") && onLedger(string(b)) {
		t.Error("the daemon goes on after a failed fsync of its ledger: what the disk has is unknown")
	}
	if !ended { // the fault is over, and the appliance goes on without being started again
		l.more(4)
		a.Kill()
	}
	recovered(t, a, l)
	return came()
}

// onLedger: with fdatasync SQLite makes its own files durable, and nothing else here uses it.
func onLedger(log string) bool {
	for _, line := range strings.Split(log, "\n") {
		if strings.Contains(line, "fdatasync") && strings.Contains(line, "INJECTED") {
			return true
		}
	}
	return false
}
