package api

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// counted counts the calls in which something was sent over its connections.
type counted struct {
	net.Listener
	sent atomic.Int64
	fail atomic.Bool // as if the client were gone
}

type countedConn struct {
	net.Conn
	of *counted
}

func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countedConn{conn, c}, nil
}

func (c countedConn) Write(b []byte) (int, error) {
	c.of.sent.Add(1)
	if c.of.fail.Load() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// An answer with a credential leaves in one piece, larger ones in a few, and all of them as they are, one after the other over the same
// connection. When its client is gone, the connection ends.
func TestAnswersLeaveWhole(t *testing.T) {
	h := newHouse(t, 0)
	body := func(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef\x00"), n/17+1)[:n] }
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	trusted := httptest.NewUnstartedServer(nil) // for its certificate
	trusted.StartTLS()
	defer trusted.Close()
	s := h.edge.server(h.edge.exchanges("issuance", func(x *exchange, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Path[1:])
		x.Header().Set("Content-Length", strconv.Itoa(n))
		x.WriteHeader(http.StatusOK)
		x.whole(body(n))
	}))
	s.TLSConfig = &tls.Config{Certificates: trusted.TLS.Certificates, DynamicRecordSizingDisabled: true}
	on := &counted{Listener: raw}
	l := h.edge.Bound("issuance", on, s, 8)
	go s.ServeTLS(l, "", "")
	defer s.Close()
	c, err := tls.Dial("tcp", raw.Addr().String(), trusted.Client().Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	ask := func(n int) ([]byte, error) {
		if _, err := io.WriteString(c, "GET /"+strconv.Itoa(n)+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return nil, err
		}
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r.Body)
	}
	for range 3 {
		for n, most := range map[int]int64{0: 1, 100: 1, 4096: 1, 5000: 1, 20_000: 1, 60_000: 1, 70_000: 8, 1_000_000: 80} {
			before := on.sent.Load()
			got, err := ask(n)
			if err != nil || !bytes.Equal(got, body(n)) {
				t.Fatalf("%d bytes arrived as %d others (%v)", n, len(got), err)
			}
			if sent := on.sent.Load() - before; sent > most {
				t.Errorf("%d bytes were sent in %d pieces", n, sent)
			}
		}
	}
	on.fail.Store(true)
	if _, err := ask(5000); err == nil {
		t.Error("an answer that could not be sent arrived")
	}
	b := l.(*connections)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		open := b.open
		b.mu.Unlock()
		if open == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the connection of a client that is gone stays open")
		}
	}
}
