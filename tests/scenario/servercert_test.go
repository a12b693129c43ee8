package scenario

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The issuance listener's certificate renews itself while the daemon runs. A connection that is open goes on; whoever connects is shown the new
// one. A start finds a pair that fits, also after a renewal that was killed between its two files.
func TestServerCertificateRenewsItself(t *testing.T) {
	t.Parallel()
	a := install(t)
	conf, err := os.ReadFile(filepath.Join(a.Dir, "sealkeeper.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	a.Write("sealkeeper.yaml", string(conf)+"tls: {life: 24s}\n")
	pair := func() (b [2]string) {
		t.Helper()
		for i, name := range []string{"server.pem", "server.key"} {
			data, err := os.ReadFile(filepath.Join(a.Dir, "data", "tls", name))
			if err != nil {
				t.Fatal(err)
			}
			b[i] = string(data)
		}
		return b
	}
	// The founding's certificate is good for 90 days: without it the command makes one of 24 seconds, renewed after 16.
	fresh := func() {
		t.Helper()
		for _, name := range []string{"server.pem", "server.key"} {
			if err := os.Remove(filepath.Join(a.Dir, "data", "tls", name)); err != nil {
				t.Fatal(err)
			}
		}
		a.Command(0, "init")
	}
	fresh()
	a.start()
	before := pair()
	shown := func() string {
		t.Helper()
		c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a.Ports[0]), a.TLS("ward-office-1"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := shown()
	held := &http.Client{Transport: &http.Transport{TLSClientConfig: a.TLS("ward-office-1"), MaxConnsPerHost: 1}}
	dialled := 0
	ask := func() {
		t.Helper()
		r, err := http.NewRequest("GET", fmt.Sprintf("https://127.0.0.1:%d/v1/whoami", a.Ports[0]), nil)
		if err != nil {
			t.Fatal(err)
		}
		r = r.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{ConnectStart: func(string, string) { dialled++ }}))
		answer, err := held.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if answer.StatusCode != 200 {
			t.Fatalf("status %d", answer.StatusCode)
		}
	}
	ask()
	until := time.Now().Add(2 * time.Minute)
	for shown() == first {
		ask()
		if time.Now().After(until) {
			t.Fatalf("the certificate is not renewed\n%s", a.Log.String())
		}
		time.Sleep(200 * time.Millisecond)
	}
	ask()
	if dialled != 1 {
		t.Errorf("the open connection was dialled %d times", dialled)
	}
	if after := pair(); after[0] == before[0] || after[1] == before[1] {
		t.Error("the files have the old certificate or key")
	}
	held.CloseIdleConnections()
	a.Stop()
	// After a stop that was longer than its life the daemon comes up with a certificate that is over, and renews it.
	over, err := tls.LoadX509KeyPair(filepath.Join(a.Dir, "data", "tls", "server.pem"), filepath.Join(a.Dir, "data", "tls", "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(over.Leaf.NotAfter) + time.Second)
	a.start()
	for until = time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a.Ports[0]), a.TLS("ward-office-1"))
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(until) {
			t.Fatalf("the certificate is not renewed: %v\n%s", err, a.Log.String())
		}
	}
	a.Stop()
	for _, point := range []string{"server.key-written", "server.certificate-written"} {
		fresh() // the last one's 24 seconds may be over
		said := len(a.Log.String())
		a.Launch("SEAL_CRASH=" + point)
		select {
		case <-a.Exited:
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s: the daemon does not come there\n%s", point, a.Log.String()[said:])
		}
		if s, ok := a.Daemon.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL || !strings.Contains(a.Log.String()[said:], "listening") {
			t.Fatalf("%s: the daemon was not killed while it listened: %s\n%s", point, a.Daemon.ProcessState, a.Log.String()[said:])
		}
		a.Daemon = nil
		a.Command(0, "init") // 24 seconds may be over
		a.start()
		shown()
		a.Stop()
	}
	a.Check()
}

// A renewal that is killed after its certificate, and the next one after its key: a start finds a pair that fits all the same.
func TestServerCertificateInterruptedTwice(t *testing.T) {
	t.Parallel()
	a := install(t)
	conf, err := os.ReadFile(filepath.Join(a.Dir, "sealkeeper.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	a.Write("sealkeeper.yaml", string(conf)+"tls: {life: 90s}\n")
	if err := os.Remove(filepath.Join(a.Dir, "data", "tls", "server.pem")); err != nil {
		t.Fatal(err)
	}
	a.Command(0, "init")
	for _, point := range []string{"server.certificate-written", "server.key-written"} {
		a.Launch("SEAL_CRASH=" + point)
		select {
		case <-a.Exited:
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s: the daemon does not come there\n%s", point, a.Log.String())
		}
		if s, ok := a.Daemon.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			t.Fatalf("%s: the daemon was not killed there: %s\n%s", point, a.Daemon.ProcessState, a.Log.String())
		}
		a.Daemon = nil
	}
	a.start()
	if _, err := a.As("ward-office-1").WhoAmI(t.Context()); err != nil {
		t.Error(err)
	}
	a.Stop()
	a.Check()
}
