package supervision

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/tests/appliance"
)

// Open files and goroutines are as many after 500 connections of all kinds, good, bad and broken off, as before: whoever leaves takes
// everything along. Some slack is left for what comes and goes by itself; a kind of connection that leaked would leave forty.
func TestConnectionsLeaveNothingBehind(t *testing.T) {
	const slack = 10
	a := appliance.Install(t)
	a.Prepare = func(c *exec.Cmd) { c.Args = append(c.Args, "--pprof") }
	a.Start()
	issued := 0
	var mu sync.Mutex
	subject := func() string { mu.Lock(); defer mu.Unlock(); issued++; return fmt.Sprintf("leak-%d", issued) }
	kinds := []func(i int) error{
		func(int) error { // a card, and its lock
			who, p := subject(), appliance.NewPhone(t, 1)
			return once(a, "ward-office-1", func(c *client.Client) error {
				n, err := c.Nonce(context.Background(), contract.NonceRequest{DocumentType: appliance.KR})
				if err != nil {
					return err
				}
				now := time.Now()
				_, err = c.Issue(context.Background(), client.NewKey(), contract.IssueRequest{DocumentType: appliance.KR, Subject: who, Claims: appliance.Claims(),
					Proof: p.Prove(0, appliance.Audience, n.Nonce, now, ""), KeyAttestation: p.Attest(appliance.Provider, n.Nonce, now)})
				if err != nil {
					return err
				}
				return once(a, "telecom-a", func(c *client.Client) error {
					_, err := c.Lock(context.Background(), contract.ChangeRequest{DocumentType: appliance.KR, Subject: who, Reason: "telecom_lost"})
					return err
				})
			})
		},
		get(a, 1, "/certificates/iaca.pem"), get(a, 1, "/nowhere"), get(a, 2, "/metrics"), get(a, 2, "/readyz"),
		raw(a, 0, ""),                       // connected, and left
		raw(a, 0, "GET / HTTP/1.1\r\n\r\n"), // no TLS
		raw(a, 1, "GET /certificates/iaca.pem HTTP/1.1\r\nHost: x\r\nX-Half: "),
		raw(a, 1, "\x00\xff not HTTP\r\n\r\n"),
		broken(a, "POST /v1/nonces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"), // half a body
		broken(a, "POST /v1/nonces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{"),    // no JSON
		func(int) error { // a stranger
			c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a.Ports[0]), &tls.Config{RootCAs: a.TLS("auditor").RootCAs, MinVersion: tls.VersionTLS13})
			if err == nil {
				_, _ = c.Read(make([]byte, 1)) // refused
				c.Close()
			}
			return nil
		},
	}
	run := func(n int) {
		t.Helper()
		var wg sync.WaitGroup
		places := make(chan struct{}, 32)
		for i := range n {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				if err := kinds[i%len(kinds)](i); err != nil {
					t.Errorf("connection %d, kind %d: %v", i, i%len(kinds), err)
				}
			})
		}
		wg.Wait()
	}
	files := func() int {
		l, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", a.Daemon.Process.Pid))
		if err != nil {
			t.Skip("the daemon's open files can't be seen here (root can): ", err)
		}
		return len(l)
	}
	routines := func() (n int) {
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/goroutine?debug=1", a.Ports[2]))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		if _, err := fmt.Sscanf(string(b), "goroutine profile: total %d", &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	run(120)                // what is opened once and kept: the ledger's readers
	time.Sleep(time.Second) // what was closed on this side is closed there
	files0, routines0 := files(), routines()
	run(500)
	f, g := files(), routines()
	for end := time.Now().Add(60 * time.Second); (f > files0+slack || g > routines0+slack) && time.Now().Before(end); f, g = files(), routines() {
		time.Sleep(100 * time.Millisecond)
	}
	if t.Logf("open files %d → %d, goroutines %d → %d", files0, f, routines0, g); f > files0+slack || g > routines0+slack {
		t.Error("500 connections left something behind")
	}
	if n := strings.Count(a.Log.String(), "panicked"); n > 0 {
		t.Errorf("%d requests panicked", n)
	}
	a.Stop()
	a.Check()
	if left, _ := filepath.Glob(filepath.Join(a.Dir, "data", "*.part")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// once asks with a client whose connection is closed afterwards.
func once(a *appliance.Appliance, id string, ask func(*client.Client) error) error {
	h := a.TLS(id)
	c, err := client.New(client.Config{BaseURL: fmt.Sprintf("https://127.0.0.1:%d", a.Ports[0]), Certificate: h.Certificates[0], RootCAs: h.RootCAs, Timeout: patience})
	if err != nil {
		return err
	}
	defer c.Close()
	return ask(c)
}

func get(a *appliance.Appliance, port int, path string) func(int) error {
	return func(int) error {
		c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d%s", a.Ports[port], path))
		if err != nil {
			return err
		}
		defer r.Body.Close()
		_, err = io.Copy(io.Discard, r.Body)
		return err
	}
}

// raw says something and leaves: every other one with a reset.
func raw(a *appliance.Appliance, port int, text string) func(int) error {
	return func(i int) error {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a.Ports[port]))
		if err != nil {
			return err
		}
		defer c.Close()
		if i%2 == 0 {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
		_, _ = io.WriteString(c, text)
		return nil
	}
}

// broken is a known client that leaves in the middle of a request.
func broken(a *appliance.Appliance, text string) func(int) error {
	return func(int) error {
		c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a.Ports[0]), a.TLS("ward-office-1"))
		if err != nil {
			return err
		}
		defer c.Close()
		_, _ = io.WriteString(c, text)
		return nil
	}
}
