package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"sealkeeper/contract"
	"sealkeeper/internal/fuzzing"
)

// looked is a sample of this text, so many seconds after a fixed time.
func looked(t *testing.T, seconds float64, text string) *sample {
	t.Helper()
	m, err := parseMetrics(text)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second)))
	return &sample{at: at, metrics: m, status: contract.Status{Version: "v1", Ready: true, Clock: "trusted"}}
}

func issued(n int) string {
	return fmt.Sprintf("sealkeeper_decisions_total{code=\"\",operation=\"issue\",result=\"allowed\"} %d\n", n)
}

func TestTopParse(t *testing.T) {
	m, err := parseMetrics("# HELP a_b what \"it\" is\n# TYPE a_b counter\na_b 1\n\nc{x=\"q\\\"\\\\\\n, }\",y=\"\"} 2.5e+06\nd{le=\"+Inf\"} +Inf\nd{le=\"1\"} 0\n")
	if err != nil {
		t.Fatal(err)
	}
	if c := m["c"][0]; m["a_b"][0].value != 1 || c.value != 2.5e6 || c.labels["x"] != "q\"\\\n, }" || c.labels["y"] != "" || len(c.labels) != 2 ||
		len(m["d"]) != 2 || !math.IsInf(m["d"][0].value, 1) {
		t.Errorf("%+v", m)
	}
	for name, text := range map[string]string{
		"cut off": "a 1\nb 2", "no name": "{x=\"1\"} 1\n", "no value": "a\n", "value is a word": "a many\n", "a timestamp": "a 1 1700000000\n", "two spaces": "a  1\n",
		"no quotes": "a{x=1} 1\n", "quote stays open": "a{x=\"1} 1\n", "labels stay open": "a{x=\"1\" 1\n", "no comma": "a{x=\"1\"y=\"2\"} 1\n", "label twice": "a{x=\"1\",x=\"1\"} 1\n",
		"no label": "a{=\"1\"} 1\n", "escape": "a{x=\"\\t\"} 1\n", "escape at the end": "a{x=\"\\", "series twice": "a{x=\"1\"} 1\na{x=\"1\"} 2\n", "HTML": "<html>\n",
	} {
		if m, err := parseMetrics(text); err == nil {
			t.Errorf("%s: read as %v", name, m)
		}
	}
}

func FuzzTopParse(f *testing.F) {
	seeds := fuzzing.Strings("# TYPE a counter\na{x=\"1\",y=\"\\\\\\\"\\n\"} 1\nb 2e+09\n", "a{x=\"\\", "sealkeeper_disk_free_bytes 1\nsealkeeper_disk_size_bytes 1e3\nsealkeeper_signatures_total{result=\"bad\"} 1\n", strings.Repeat("\n", 1<<16))
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, in []byte) bool {
		text := string(in)
		m, err := parseMetrics(text)
		n := 0
		for _, s := range m {
			n += len(s)
		}
		if err == nil && n > strings.Count(text, "\n") {
			t.Errorf("%d series in %d lines", n, strings.Count(text, "\n"))
		}
		measured(text) // doctor's reading of the same
		return err == nil
	})
}

func TestTopRates(t *testing.T) {
	for _, c := range []struct {
		name, before, now string
		seconds, want     float64
		restarted         bool
	}{
		{"ten in two seconds", issued(100), issued(110), 2, 5, false},
		{"nothing", issued(100), issued(100), 1, 0, false},
		{"first of its kind", "", issued(3), 1, 3, false},
		{"issue and refresh, not the refused", issued(1), issued(2) + strings.Replace(issued(4), "issue", "refresh", 1) + strings.Replace(issued(9), "allowed", "denied", 1), 1, 5, false},
		{"the daemon restarted: from its start", issued(100), issued(7), 1, 7, true},
		{"restarted, and this counter has caught up", issued(5) + "sealkeeper_commit_seconds_count 9\n", issued(7) + "sealkeeper_commit_seconds_count 2\n", 1, 7, true},
		{"restarted, and nothing happened yet", issued(100), "", 1, 0, true},
		{"a gauge may fall", issued(1) + "sealkeeper_queue_depth{lane=\"issue\"} 8\n", issued(2), 1, 1, false},
	} {
		v := compare(looked(t, 0, c.before), looked(t, c.seconds, c.now))
		if got := v.Rates["issues"]; got == nil || *got != c.want || v.Restarted != c.restarted || v.Interval != c.seconds {
			t.Errorf("%s: %s a second, restarted %v, over %v s", c.name, perSecond(got), v.Restarted, v.Interval)
		}
	}
	if v := compare(nil, looked(t, 0, issued(5))); v.Rates["issues"] != nil || v.P99["issue"] != nil {
		t.Error("one look has a rate")
	}
}

func TestTopQuantile(t *testing.T) {
	histogram := func(counts ...int) string { // cumulative, at most 1, 2, 4 s and all
		var b strings.Builder
		for i, le := range []string{"1", "2", "4", "+Inf"} {
			fmt.Fprintf(&b, "sealkeeper_queue_seconds_bucket{lane=\"issue\",le=%q} %d\n", le, counts[i])
		}
		return b.String()
	}
	for _, c := range []struct {
		name        string
		before, now string
		q           float64
		want        string
	}{
		{"nothing", histogram(5, 5, 5, 5), histogram(5, 5, 5, 5), 0.99, "-"},
		{"no such histogram", "", "", 0.99, "-"},
		{"within the first bucket", "", histogram(100, 100, 100, 100), 0.5, "500 ms"},
		{"linear within a bucket", "", histogram(0, 50, 100, 100), 0.75, "3 s"},
		{"only what is new", histogram(1000, 1000, 1000, 1000), histogram(1000, 1000, 1100, 1100), 0.5, "3 s"},
		{"beyond the last bound", "", histogram(0, 0, 10, 100), 0.99, ">4 s"},
		{"the rank is a bucket's end", "", histogram(99, 99, 100, 100), 0.99, "1 s"},
	} {
		if got := estimate(c.q, looked(t, 0, c.before), looked(t, 1, c.now), "queue_seconds", "lane", "issue").String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	other := strings.ReplaceAll(histogram(0, 0, 0, 9), "issue", "batch")
	if got := estimate(0.5, nil, looked(t, 1, histogram(9, 9, 9, 9)+other), "queue_seconds", "lane", "issue").String(); got != "500 ms" {
		t.Errorf("another lane's waits count: %s", got)
	}
	if got := estimate(0.5, nil, looked(t, 1, histogram(0, 10, 10, 10)+other), "queue_seconds"); got == nil || got.Seconds != 1.95 {
		t.Errorf("both lanes: %v", got)
	}
}

func busy(t *testing.T, lists int) *view {
	t.Helper()
	queue := func(n int) string {
		return fmt.Sprintf("sealkeeper_queue_seconds_bucket{lane=\"issue\",le=\"0.001\"} %d\nsealkeeper_queue_seconds_bucket{lane=\"issue\",le=\"+Inf\"} %d\nsealkeeper_queue_seconds_count{lane=\"issue\"} %d\n", n, n, n)
	}
	before := looked(t, 0, issued(10)+queue(10))
	now := looked(t, 2, issued(2500)+queue(2500)+"sealkeeper_queue_depth{lane=\"issue\"} 17\nsealkeeper_disk_free_bytes 1.3e+10\nsealkeeper_disk_size_bytes 4e+10\n"+
		fmt.Sprintf("sealkeeper_list_pending_since_timestamp_seconds{list=\"list-1\"} %d\nsealkeeper_worker_restarts_total{reason=\"hung\",token=\"online\"} 3\n", before.at.Unix()-10))
	s := &now.status
	s.PolicyVer, s.Journal, s.Ready = 7, 12345, false
	s.Conditions = []contract.Condition{{Name: "lock-slow", Severity: "critical", What: "a lock \x1b[31mwaits\n" + strings.Repeat(" for very long", 20)}}
	s.Tokens = []contract.TokenStatus{{Token: "online", Ready: 1, Wanted: 2, Restarts: 1, Problem: "worker 2 hung"}}
	for i := range lists {
		s.Lists = append(s.Lists, contract.ListStatus{ID: fmt.Sprintf("list-%d", i), Version: uint64(40 + i), Dirty: i == 1,
			Issued: now.at.Add(-time.Duration(i+1) * time.Minute), Expires: now.at.Add(time.Duration(i+1) * time.Hour)})
	}
	return compare(before, now)
}

// What a person sees stands in testdata, to be read as they would: TOP_UPDATE=1 writes it anew.
func TestTopDrawing(t *testing.T) {
	for name, c := range map[string]struct{ lists, columns, lines int }{
		"wide": {2, 100, 30}, "narrow": {40, 60, 20}, "many": {40, 100, 30}, "none": {0, 100, 30},
	} {
		var b bytes.Buffer
		if err := busy(t, c.lists).write(&b, c.columns, c.lines, "\n"); err != nil {
			t.Fatal(err)
		}
		drawn := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		if len(drawn) > c.lines || c.lists == 40 && len(drawn) != c.lines {
			t.Errorf("%s: %d lines", name, len(drawn))
		}
		for _, line := range drawn {
			if utf8.RuneCountInString(line) > c.columns || strings.ContainsRune(line, '\x1b') {
				t.Errorf("%s: %d columns or a control character: %q", name, utf8.RuneCountInString(line), line)
			}
		}
		golden := filepath.Join("testdata", "top", name+".txt")
		if os.Getenv("TOP_UPDATE") != "" {
			if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil || b.String() != string(want) {
			t.Errorf("%s differs from %s (%v):\n%s", name, golden, err, b.String())
		}
	}
	var full bytes.Buffer
	if err := busy(t, 40).write(&full, 100, 30, "\x1b[K\n"); err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(full.String(), "\n") || strings.Count(full.String(), "\x1b[K") != 30 {
		t.Error("a full window scrolls, or keeps what stood there")
	}
}

// pty opens a terminal of so many columns and lines.
func pty(t *testing.T, columns, lines uint16) (keyboard, screen *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminals here: ", err)
	}
	t.Cleanup(func() { keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetWinsize(int(screen.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: lines}); err != nil {
		t.Fatal(err)
	}
	return keyboard, screen
}

func TestTopTerminal(t *testing.T) {
	keyboard, screen := pty(t, 80, 200)
	fd := int(screen.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	term, ok := openTerminal(screen)
	if !ok {
		t.Fatal("a terminal is none")
	}
	term.in, term.keys, term.saved = fd, true, *before
	if c, l := term.size(); c != 79 || l != topLines {
		t.Errorf("%d columns, %d lines", c, l)
	}
	if err := term.take(); err != nil {
		t.Fatal(err)
	}
	if _, err := keyboard.WriteString("xq"); err != nil {
		t.Fatal(err)
	}
	if term.wait(t.Context(), time.Minute) {
		t.Error("q does not end the view")
	}
	if !term.wait(t.Context(), time.Millisecond) {
		t.Error("it ends without a key")
	}
	term.restore()
	after, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is left as %+v (%v)", after, err)
	}
	var seen []byte
	for piece := make([]byte, 256); !bytes.Contains(seen, []byte("\x1b[?25h")); { // a terminal hands out what was written piece by piece
		n, err := keyboard.Read(piece)
		if err != nil {
			t.Fatalf("%q: %v", seen, err)
		}
		seen = append(seen, piece[:n]...)
	}
	if !bytes.HasPrefix(seen, []byte("\x1b[2J\x1b[?25l")) {
		t.Errorf("%q", seen)
	}
	if _, ok := openTerminal(&bytes.Buffer{}); ok {
		t.Error("a buffer is a terminal")
	}
}
