package port

import (
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// A daemon that stopped, to be started again, has nobody listening on its port; another test must not be given it.
func TestAPortIsGivenToOneProcess(t *testing.T) {
	const theirs = "SEAL_TEST_PORT"
	if p := os.Getenv(theirs); p != "" {
		port, err := strconv.Atoi(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := claim(port); err == nil {
			t.Fatal("a port that another process was given could be claimed")
		}
		return
	}
	ports, err := Free(3)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ports {
		if err := claim(p); err == nil {
			t.Fatalf("port %d was given twice", p)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestAPortIsGivenToOneProcess$")
		cmd.Env = append(os.Environ(), theirs+"="+strconv.Itoa(p))
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
			t.Fatalf("%v: %s", err, out)
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p)) // it is still free
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}

func TestAPortInUseIsNotGiven(t *testing.T) {
	ports, err := Free(1)
	if err != nil {
		t.Fatal(err)
	}
	claims.Lock() // as if another program, that knows nothing of claims, listened there
	claims.held[len(claims.held)-1].Close()
	claims.Unlock()
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(ports[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := claim(ports[0]); err == nil {
		t.Fatal("a port that a program listens on was given")
	}
}

func TestOutsideOfOutgoingConnections(t *testing.T) {
	for outgoing, want := range map[string][2]int{"32768\t60999\n": {10_000, 22_768}, "15000\t60999\n": {10_000, 5_000}, "1024\t60999\n": {61_000, 4_536}, "1024\t5000\n": {10_000, 55_536},
		"1024\t65535\n": {}, "10000\t65000\n": {}, "": {}} {
		first, many, err := outside(outgoing)
		if first != want[0] || many != want[1] || (err == nil) != (many > 0) {
			t.Errorf("%q: %d from %d on, %v", outgoing, many, first, err)
		}
	}
}
