package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"sealkeeper/internal/clock"
	"sealkeeper/internal/metrics"
)

// bounded serves "ok" on as many connections.
func bounded(t *testing.T, most int) (*Edge, *connections) {
	t.Helper()
	e := &Edge{o: Options{Metrics: metrics.New()}}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })}
	l := e.Bound("test", raw, s, most)
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return e, l.(*connections)
}

// Two thousand connections that send nothing, half a header, or one request and then nothing keep nobody out (F24), and never are there
// more open ones than the bound.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	const most = 64
	e, b := bounded(t, most)

	for i := range 2000 {
		c, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		switch i % 3 {
		case 1:
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		case 2:
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		if i%100 != 0 {
			continue
		}
		good, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(good, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(good), nil)
		if err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("behind %d others: %v", i, err)
		}
		good.Close()
		b.mu.Lock()
		open := b.open
		b.mu.Unlock()
		if open > most {
			t.Fatalf("%d connections are open, %d are allowed", open, most)
		}
	}
	if n := testutil.ToFloat64(e.o.Metrics.Evicted.WithLabelValues("test")); n < 1000 {
		t.Errorf("%v connections were evicted", n)
	}
}

// Who asks and does not read the answers keeps nobody out: such a connection is closed for who comes.
func TestWhoDoesNotReadKeepsNobodyOut(t *testing.T) {
	const most = 16
	e := &Edge{o: Options{Metrics: metrics.New(), Clock: clock.NewFake(noon), Log: slog.New(slog.DiscardHandler), Random: rand.Reader}}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	large, begun := bytes.Repeat([]byte("x"), 16<<20), make(chan struct{}, 10*most)
	s := &http.Server{Handler: e.exchanges("test", func(x *exchange, r *http.Request) {
		x.conn.working()
		if r.URL.Path == "/large" {
			begun <- struct{}{}
			x.whole(large)
			return
		}
		x.whole([]byte("ok"))
	})}
	l := e.Bound("test", raw, s, most)
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	for range 3 * most {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
		<-begun
		good, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(good, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		_ = good.SetReadDeadline(time.Now().Add(20 * time.Second)) // less than an answer may take
		if r, err := http.ReadResponse(bufio.NewReader(good), nil); err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("beside clients that don't read: %v", err)
		}
		good.Close()
	}
}

// A connection that was dialled and never used does not hold up a shutdown.
func TestUnusedConnectionsDoNotHoldUpAShutdown(t *testing.T) {
	e := &Edge{o: Options{Metrics: metrics.New()}}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.NotFoundHandler()}
	l := e.Bound("test", raw, s, 8)
	go s.Serve(l)
	c, err := net.Dial("tcp", raw.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := l.(*connections)
	for open := 0; open == 0; {
		b.mu.Lock()
		open = b.waiting[0].Len()
		b.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second) // less than the server's own 5 s
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("the shutdown waited for a connection without a request: %v", err)
	}
}

// A listener's accepting goroutine answers as long as it lives, also while connections come; one that is stuck does not, and answers again
// afterwards. A closed listener is no error: its server ended.
func TestPulse(t *testing.T) {
	e := &Edge{o: Options{Metrics: metrics.New()}}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })}
	l := e.Bound("test", raw, s, 8)
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	if err := Pulse(soon(), l); err == nil {
		t.Error("nobody serves the listener yet, and it answered")
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	for range 100 {
		if err := Pulse(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if r, err := http.Get("http://" + raw.Addr().String()); err != nil {
			t.Fatal(err)
		} else {
			r.Body.Close()
		}
	}
	var several sync.WaitGroup
	for range 8 {
		several.Go(func() {
			for range 50 {
				if err := Pulse(t.Context(), l); err != nil {
					t.Error(err)
				}
			}
		})
	}
	several.Wait()

	b := l.(*connections)
	b.mu.Lock() // what a defect of ours would do
	for range 2 {
		if err := Pulse(soon(), l); err == nil {
			t.Error("a goroutine that waits for a lock answered")
		}
	}
	b.mu.Unlock()
	if err := Pulse(t.Context(), l); err != nil {
		t.Errorf("after it went on: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != http.ErrServerClosed {
		t.Error(err)
	}
	for range 2 {
		if err := Pulse(soon(), l); err != nil {
			t.Errorf("closed: %v", err)
		}
	}
}

// A full listener lets in who comes next, however fast others knock after it: who has been there for some ms has its handshake under way, and those who hold many
// connections lose one of them first.
func TestWhoJustCameIsNotClosedForTheNext(t *testing.T) {
	const most = 64
	e, b := bounded(t, most)
	dial := func() net.Conn {
		c, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ask := func(c net.Conn) error {
		if _, err := fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			_, err = io.ReadAll(r.Body)
		}
		return err
	}
	for range most { // all places, by connections that were used once
		if err := ask(dial()); err != nil {
			t.Fatal(err)
		}
	}
	evicted := e.o.Metrics.Evicted.WithLabelValues("test")
	knock := func(n int) {
		t.Helper()
		for range n {
			before := testutil.ToFloat64(evicted)
			for dial(); testutil.ToFloat64(evicted) == before; time.Sleep(time.Millisecond) {
				if t.Context().Err() != nil {
					t.Fatal("nobody was closed")
				}
			}
		}
	}
	carrier := dial()
	knock(most/8 - 2)
	if err := ask(carrier); err != nil {
		t.Errorf("a connection that was %d knocks old: %v", most/8-2, err)
	}
	// Those who only knock don't take the places of all others.
	knock(10 * most)
	if err := ask(carrier); err != nil {
		t.Errorf("after %d knocks: %v", 11*most, err)
	}
}
