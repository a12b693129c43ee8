// Package overload has tests of the real daemon with clients that hold connections instead of using them, and on a full disk. The ordinary
// suite runs them small; SEAL_OVERLOAD=all (make overload) runs 10,000 connections and 10,000 locks.
package overload

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/tests/appliance"
	"sealkeeper/verifier"
)

var all = os.Getenv("SEAL_OVERLOAD") == "all"

func TestMain(m *testing.M) { os.Exit(appliance.Main(m)) }

// few or many, by how much is asked for.
func few(small, big int) int {
	if all {
		return big
	}
	return small
}

func install(t *testing.T, limits string) *appliance.Appliance {
	a := appliance.Install(t)
	ours := regexp.MustCompile(`(?m)^limits:.*$`)
	a.Write("sealkeeper.yaml", ours.ReplaceAllString(appliance.Configuration(a.Ports[:]...), "limits: {"+limits+"}"))
	return a
}

// lock sends a lock over a connection of its own: somebody who was not there before must get in.
func lock(a *appliance.Appliance, c *tls.Config, subject string) error {
	h := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
	body, err := json.Marshal(contract.ChangeRequest{DocumentType: appliance.KR, Subject: subject, Reason: "telecom_lost"})
	if err != nil {
		return err
	}
	r, err := h.Post(fmt.Sprintf("https://127.0.0.1:%d/v1/locks", a.Ports[0]), "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		b, err := io.ReadAll(r.Body)
		return errors.Join(fmt.Errorf("a lock: status %d: %s", r.StatusCode, b), err)
	}
	return nil
}

// hold opens connections and does with each what its test wants. They stay until the test ends.
func hold(t *testing.T, n, port int, c *tls.Config, misuse func(net.Conn)) (open int) {
	var conns sync.WaitGroup
	var opened atomic.Int64
	next := make(chan struct{}, n)
	for range n {
		next <- struct{}{}
	}
	close(next)
	for range 16 {
		conns.Go(func() {
			for range next {
				conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 20*time.Second)
				if err != nil {
					t.Logf("a hostile connection: %v", err)
					return
				}
				t.Cleanup(func() { conn.Close() })
				opened.Add(1)
				if c != nil {
					tc := tls.Client(conn, c)
					_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
					if tc.Handshake() != nil { // closed for a newer one
						continue
					}
					_ = conn.SetDeadline(time.Time{})
					misuse(tc)
				} else {
					misuse(conn)
				}
			}
		})
	}
	conns.Wait()
	return int(opened.Load())
}

// drip sends a text and then a byte from time to time.
func drip(t *testing.T, text string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.WriteString(c, text); err != nil {
			return
		}
		go func() {
			for t.Context().Err() == nil {
				if _, err := c.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
	}
}

// Clients that open connections and hold them, in every way there is, keep neither a carrier's lock nor a verifier out, who both come new
// each time. Descriptors and memory stay within what the configuration says (F24, F37, F38).
func TestWhoHoldsConnectionsKeepsNobodyOut(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	most := few(64, 2048)
	many := min(few(200, 10000), int(limit.Max)-2000)
	a := install(t, fmt.Sprintf("connections: %d, concurrent_issues: 32", most)).Start()
	_, shown := appliance.ByFormat(a.Issue(appliance.NewPhone(t, 1), "first", false))
	ward, carrier, server := a.TLS("ward-office-1"), a.TLS("telecom-a"), "127.0.0.1"
	ward.ServerName, carrier.ServerName = server, server
	issue := "POST /v1/credentials HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: 0123456789012345678901234567\r\nContent-Length: 1000\r\n\r\n{"
	nothing := func(net.Conn) {}
	for _, hostile := range []struct {
		name string
		n    int
		port int
		tls  *tls.Config
		how  func(net.Conn)
	}{
		{"idle after the handshake", many, 0, ward, nothing},
		{"no handshake", many / 4, 0, nil, nothing},
		{"a handshake byte by byte", most + 16, 0, nil, drip(t, "\x16")},
		{"a header byte by byte", most + 16, 0, ward, drip(t, "GET /v1/whoami HTTP/1.1\r\nX-Slow: ")},
		{"a body byte by byte for an issue", most + 16, 0, ward, drip(t, issue)},
		{"a body byte by byte that needs no place", most + 16, 0, ward, drip(t, "POST /v1/nonces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")},
		{"a public header byte by byte", most + 16, 1, nil, drip(t, "GET / HTTP/1.1\r\nX-Slow: ")},
		{"an answer that nobody reads", most + 16, 1, nil, func(c net.Conn) {
			_ = c.(*net.TCPConn).SetReadBuffer(1 << 10)
			path := strings.TrimPrefix(shown.Status.URI, appliance.PublicURL)
			go io.WriteString(c, strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n", 200))
		}},
	} {
		t.Run(hostile.name, func(t *testing.T) {
			began := time.Now()
			n := hold(t, hostile.n, a.Ports[hostile.port], hostile.tls, hostile.how)
			for i := range 5 {
				if err := lock(a, carrier, "first"); err != nil {
					t.Errorf("lock %d behind %d connections: %v", i, n, err)
				}
				h := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
				r, err := h.Get(fmt.Sprintf("http://127.0.0.1:%d/certificates/iaca.pem", a.Ports[1]))
				if err != nil || r.StatusCode != http.StatusOK {
					t.Errorf("a verifier behind %d connections: %v", n, err)
				} else {
					r.Body.Close()
				}
			}
			files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", a.Daemon.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			if bound := 2*most + 100; len(files) > bound {
				t.Errorf("the daemon has %d files open, %d are within bounds", len(files), bound)
			}
			mib := rss(t, a.Daemon.Process.Pid)
			if mib > 512 && !appliance.Race {
				t.Errorf("the daemon has %d MiB in memory", mib)
			}
			t.Logf("%d connections (limit of files %d) in %v: locks and lists go on, %d files, %d MiB", n, limit.Max, time.Since(began).Round(time.Millisecond), len(files), mib)
		})
	}
	a.Eventually(shown.Status, verifier.Suspended)
	if m := a.Metrics(); !regexp.MustCompile(`sealkeeper_connections_evicted_total\{listener="issuance"\} [1-9]`).MatchString(m) {
		t.Error("no metric shows that connections were closed for others")
	}
}

func rss(t *testing.T, pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// On a full disk (F3) issuing is refused with its code, locks are taken and shown in signed lists, and with room everything goes on by
// itself; nothing that was acknowledged is missing.
func TestFullDisk(t *testing.T) {
	a := install(t, fmt.Sprintf("disk_reserve_mib: %d", few(16, 256)))
	data := filepath.Join(a.Dir, "data")
	if err := os.Rename(data, data+".was"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", few(48, 320))); err != nil {
		t.Skipf("a small disk can't be mounted here: %v", err)
	}
	t.Cleanup(func() { a.Kill(); _ = unix.Unmount(data, unix.MNT_DETACH) })
	if err := os.Remove(filepath.Join(data+".was", "ledger.db.reserve")); err != nil && !errors.Is(err, os.ErrNotExist) { // of another size
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", data+".was/.", data).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	a.Start()
	const desks = 8
	var cards [desks]contract.IssueAnswer
	for i := range cards {
		cards[i] = a.Issue(appliance.NewPhone(t, 1), fmt.Sprint("holder-", i), false)
	}
	waiting := a.Request(appliance.NewPhone(t, 1), "later") // made before: it is asked again and again, and never burnt
	ballast := filepath.Join(data, "ballast")
	fill(t, ballast)
	if !refused(t, a) {
		t.Fatal("issuing goes on, on a full disk")
	}

	began, locks := time.Now(), atomic.Int64{}
	want := int64(few(160, 10000))
	var all sync.WaitGroup
	for i := range desks {
		all.Go(func() {
			c, ctx := a.As("telecom-a"), context.Background()
			r := contract.ChangeRequest{DocumentType: appliance.KR, Subject: fmt.Sprint("holder-", i), Reason: "telecom_lost"}
			for {
				if _, err := c.Lock(ctx, r); err != nil {
					t.Errorf("after %d locks: %v", locks.Load(), err)
					return
				}
				if locks.Add(1) > want-desks {
					return
				}
				if _, err := c.Unlock(ctx, r); err != nil {
					t.Errorf("an unlock after %d locks: %v", locks.Load(), err)
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	for i := range cards {
		_, sd := appliance.ByFormat(cards[i])
		a.Eventually(sd.Status, verifier.Suspended)
	}
	if !refused(t, a) {
		t.Error("issuing goes on in the room kept for locks")
	}
	// A restart in between is no reason to take none.
	a.Kill()
	a.Launch()
	a.UntilUp()
	for i := range cards {
		r := contract.ChangeRequest{DocumentType: appliance.KR, Subject: fmt.Sprint("holder-", i), Reason: "telecom_lost"}
		if _, err := a.As("telecom-a").Unlock(context.Background(), r); err != nil {
			t.Fatalf("an unlock after a restart on a full disk: %v", err)
		}
		_, sd := appliance.ByFormat(cards[i])
		a.Eventually(sd.Status, verifier.Valid)
		if _, err := a.As("telecom-a").Lock(context.Background(), r); err != nil {
			t.Fatalf("a lock after a restart on a full disk: %v", err)
		}
		a.Eventually(sd.Status, verifier.Suspended)
	}
	if !refused(t, a) {
		t.Error("issuing goes on after a restart on a full disk")
	}
	t.Logf("%d locks, and nearly as many unlocks, were taken and are shown, on a full disk, in %v", locks.Load(), took.Round(time.Millisecond))

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	key, deadline := client.NewKey(), time.Now().Add(20*time.Second)
	for {
		status, answer, err := a.Post("ward-office-1", "/v1/credentials", key, waiting)
		if err == nil && status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("issuing does not go on although there is room: %d %s %v", status, answer, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	a.Stop()
	a.Check()
}

// refused asks for cards until the disk is found full: what was allocated before may still take some.
func refused(t *testing.T, a *appliance.Appliance) bool {
	for i := range 200 {
		status, answer, err := a.Post("ward-office-1", "/v1/credentials", client.NewKey(), a.Request(appliance.NewPhone(t, 1), fmt.Sprint("too-late-", i)))
		if err != nil {
			t.Fatal(err)
		}
		if status == http.StatusServiceUnavailable && appliance.Code(answer) == "ledger.full" {
			return true
		}
		if status != http.StatusOK {
			t.Errorf("issuing on a full disk: %d %s", status, answer)
			return true
		}
	}
	return false
}

func fill(t *testing.T, path string) {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}
