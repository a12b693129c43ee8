// Package compile shows that a signature without its steps can't even be written: each program under testdata takes a short cut and must
// not compile, with exactly the complaints that its lines announce.
package compile

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	// The programs use these. Importing them here makes the test's cached result depend on them too.
	_ "sealkeeper/ledger"
	_ "sealkeeper/policy"
	_ "sealkeeper/release"
	_ "sealkeeper/signer"
)

var (
	complaint = regexp.MustCompile(`^(?:\./|\S*/)?main\.go:(\d+):\d+: (.+)$`)
	want      = regexp.MustCompile(`// want: (.+)$`)
)

func TestShortCutsDoNotCompile(t *testing.T) {
	dirs, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, d := range dirs {
		seen[d.Name()] = true
		t.Run(d.Name(), func(t *testing.T) {
			file := filepath.Join("testdata", d.Name(), "main.go")
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			expected := map[int]string{}
			for i, line := range strings.Split(string(source), "\n") {
				if m := want.FindStringSubmatch(line); m != nil {
					expected[i+1] = m[1]
				}
			}
			if (len(expected) == 0) != (d.Name() == "allowed") {
				t.Fatalf("%d complaints are announced", len(expected))
			}
			// -e: all complaints, not the first ten.
			out, err := exec.Command("go", "build", "-gcflags=-e", "-o", os.DevNull, "./"+filepath.Dir(file)).CombinedOutput()
			if (err == nil) != (len(expected) == 0) {
				t.Fatalf("go build: %v\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				line = strings.TrimRight(line, "\n")
				if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "\t") { // package heading, and continuations ("have … want …")
					continue
				}
				m := complaint.FindStringSubmatch(line)
				if m == nil {
					t.Errorf("the compiler says: %s", line)
					continue
				}
				n, _ := strconv.Atoi(m[1]) // digits by the expression
				// What follows a complaint in brackets or after a colon explains it in words that change from one Go to the next.
				if text, ok := expected[n]; !ok || !strings.HasPrefix(m[2], text) {
					t.Errorf("line %d: the compiler says %q, announced was %q", n, m[2], text)
					continue
				}
				delete(expected, n)
			}
			for n, text := range expected {
				t.Errorf("line %d compiles; announced was %q", n, text)
			}
		})
	}
	// "allowed" compiles: without it this test would pass with a broken compiler.
	for _, name := range []string{"allowed", "approval", "bytes", "conversion", "digest", "released", "reservation", "signatures", "skipped"} {
		if !seen[name] {
			t.Errorf("testdata/%s is missing", name)
		}
	}
}
