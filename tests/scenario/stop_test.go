package scenario

import (
	"syscall"
	"testing"
	"time"
)

// A daemon that is told to end while it waits for its HSM ends well: nobody refused anything.
func TestAStopDuringTheStart(t *testing.T) {
	t.Parallel()
	a := install(t)
	a.Launch()
	var workers []int
	for until := time.Now().Add(30 * time.Second); len(workers) == 0; workers = a.Workers() {
		if time.Now().After(until) {
			t.Fatalf("no worker is started\n%s", a.Log.String())
		}
		time.Sleep(time.Millisecond)
	}
	for _, pid := range workers {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	a.Stop()
	has(t, a.Log.String(), "stopped during the start")
	a.start()
	a.Stop()
	a.Check()
}
