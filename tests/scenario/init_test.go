package scenario

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// A crash between the TLS key's file and its certificate's leaves a pair that serves nobody: init makes another, and leaves a good one alone.
func TestInitMendsTheTLSCertificate(t *testing.T) {
	t.Parallel()
	a := install(t)
	cert, key := filepath.Join(a.Dir, "data", "tls", "server.pem"), filepath.Join(a.Dir, "data", "tls", "server.key")
	read := func(path string) []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := read(cert)
	a.Command(0, "init")
	if !bytes.Equal(read(cert), good) {
		t.Error("a good certificate was made again")
	}
	if err := os.WriteFile(key, read(filepath.Join(a.Dir, "clients", "auditor", "key.pem")), 0o600); err != nil {
		t.Fatal(err)
	}
	a.Command(5, "check")
	a.Command(0, "init")
	a.Command(0, "check")
	a.start()
	// Beside a running daemon nothing is made, and the reason is said.
	a.Command(1, "init")
	a.Stop()
	a.Check()
}
