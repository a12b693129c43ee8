package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A failed disk ends the process at once, and the file that outlives it says so.
func TestTheExitFileKnowsOfAFailedDisk(t *testing.T) {
	const place = "SEAL_TEST_EXIT_FILE"
	if file := os.Getenv(place); file != "" {
		diskFailed(slog.New(slog.DiscardHandler), file)(errors.New("no disk"))
	}
	file := filepath.Join(t.TempDir(), "exit.prom")
	cmd := exec.Command(os.Args[0], "-test.run=^TestTheExitFileKnowsOfAFailedDisk$")
	cmd.Env = append(os.Environ(), place+"="+file)
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
		t.Errorf("it ended with %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || !strings.Contains(string(b), "sealkeeper_exit_code 1\n") {
		t.Errorf("%v: %s", err, b)
	}
}

// Whoever does not read its answer is cut off at the end, which is as good an end as any.
func TestAReaderThatStallsIsNoFailure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		for b := make([]byte, 1<<20); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	a := &appliance{log: slog.New(slog.DiscardHandler)}
	if err := a.shut(ctx, "public", s); err != nil {
		t.Errorf("the end failed: %v", err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
}
