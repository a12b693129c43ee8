package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sealkeeper/contract"
)

// The view fits a terminal of this size, and a smaller one as far as it goes.
const (
	topColumns = 100
	topLines   = 30

	topShortest = 200 * time.Millisecond // the operations listener answers from memory, but looks at each list and worker when it does
)

func topCommand(o *options) *cobra.Command {
	var interval time.Duration
	var once bool
	c := &cobra.Command{Use: "top", Short: "Watch lanes, workers, lists and rates of a running daemon", Args: cobra.NoArgs,
		Example: "  sealctl top\n  sealctl top --interval 5s\n  sealctl top --once\n  sealctl top --json | jq .rates",
		Long: "top reads /status and /metrics every --interval and shows what changed in between. q or Ctrl-C ends it.\n" +
			"Without a terminal it shows one interval and ends, as with --once. --json prints one object for each interval.\n" +
			"p99 is estimated from histograms over the last interval alone: it is no finer than their buckets.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < topShortest {
				return &coded{exitUsage, fmt.Errorf("--interval %v: at least %v", interval, topShortest)}
			}
			w := cmd.OutOrStdout()
			term, live := openTerminal(w)
			if once || !live && !o.json {
				return o.topOnce(cmd.Context(), w, interval)
			}
			if o.json {
				return o.topStream(cmd.Context(), w, interval)
			}
			return o.topLive(cmd.Context(), w, term, interval)
		}}
	c.Flags().DurationVar(&interval, "interval", time.Second, "time between two looks, at least 200ms")
	c.Flags().BoolVar(&once, "once", false, "show one interval and end")
	return c
}

// topOnce prints one view. Its rates are those of one interval, so that it takes as long.
func (o *options) topOnce(ctx context.Context, w io.Writer, interval time.Duration) error {
	before, err := o.look(ctx)
	if err != nil {
		return err
	}
	if !pause(ctx, interval) {
		return ctx.Err()
	}
	now, err := o.look(ctx)
	if err != nil {
		return err
	}
	v := compare(before, now)
	if o.json {
		return json.NewEncoder(w).Encode(v)
	}
	return v.write(w, topColumns, topLines, "\n")
}

// topStream prints one object for each interval until it is ended. A daemon that does not answer is an object too: a script that watches
// a restart sees how long it took.
func (o *options) topStream(ctx context.Context, w io.Writer, interval time.Duration) error {
	var before *sample
	for e := json.NewEncoder(w); ; {
		now, err := o.look(ctx)
		var line any
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			line = map[string]any{"at": time.Now().UTC(), "error": err.Error()}
		case before != nil:
			line = compare(before, now)
		}
		if line != nil {
			if err := e.Encode(line); err != nil {
				return err
			}
		}
		before = now // nil after an error: counters of before a gap would give the gap's mean
		if !pause(ctx, interval) {
			return nil
		}
	}
}

func (o *options) topLive(ctx context.Context, w io.Writer, term *terminal, interval time.Duration) error {
	if err := term.take(); err != nil {
		return err
	}
	defer term.restore()
	var before *sample
	for {
		now, err := o.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var b bytes.Buffer
		b.WriteString("\x1b[H") // home; each line erases its own rest, which flickers less than an empty screen
		columns, lines := term.size()
		if err != nil {
			fmt.Fprintf(&b, "%s\x1b[K\n%s\x1b[K", fit("✗ no answer at "+time.Now().Format(time.TimeOnly)+"; asking again", columns), fit(err.Error(), columns))
		} else {
			_ = compare(before, now).write(&b, columns, lines, "\x1b[K\n") // into memory
		}
		b.WriteString("\x1b[J") // whatever stood below
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
		before = now
		if !term.wait(ctx, interval) {
			return nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// terminal is the one that the view is drawn on, with its keyboard if standard input is one as well.
type terminal struct {
	out, in int
	w       io.Writer
	keys    bool
	saved   unix.Termios
}

func openTerminal(w io.Writer) (*terminal, bool) {
	f, ok := w.(*os.File)
	if !ok {
		return nil, false
	}
	t := &terminal{out: int(f.Fd()), in: int(os.Stdin.Fd()), w: w}
	if _, err := unix.IoctlGetTermios(t.out, unix.TCGETS); err != nil {
		return nil, false
	}
	if saved, err := unix.IoctlGetTermios(t.in, unix.TCGETS); err == nil {
		t.keys, t.saved = true, *saved
	}
	return t, true
}

// take hides the cursor and has keys arrive one by one, unseen. Ctrl-C stays a signal.
func (t *terminal) take() error {
	if t.keys {
		raw := t.saved
		raw.Lflag &^= unix.ICANON | unix.ECHO
		raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
		if err := unix.IoctlSetTermios(t.in, unix.TCSETS, &raw); err != nil {
			return fmt.Errorf("taking the terminal's keys: %w", err)
		}
	}
	_, err := io.WriteString(t.w, "\x1b[2J\x1b[?25l")
	if err != nil {
		t.restore()
	}
	return err
}

func (t *terminal) restore() {
	_, _ = io.WriteString(t.w, "\x1b[?25h\n")
	if t.keys {
		_ = unix.IoctlSetTermios(t.in, unix.TCSETS, &t.saved)
	}
}

// size in columns and lines; it is asked for each view, so that a resized window is filled at the next one. The last column stays free:
// after a character in it the cursor still stands on it, and erasing the rest of the line would erase the character.
func (t *terminal) size() (columns, lines int) {
	ws, err := unix.IoctlGetWinsize(t.out, unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 || ws.Row == 0 {
		return topColumns, topLines
	}
	return min(int(ws.Col)-1, topColumns), min(int(ws.Row), topLines)
}

// wait until the next view is due; false: the person wants no more. It asks in short turns instead of reading in a goroutine: a blocked
// read of a terminal can't be ended.
func (t *terminal) wait(ctx context.Context, d time.Duration) bool {
	if !t.keys {
		return pause(ctx, d)
	}
	for until := time.Now().Add(d); ctx.Err() == nil; {
		left := time.Until(until)
		if left <= 0 {
			return true
		}
		fds := []unix.PollFd{{Fd: int32(t.in), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(min(left, 50*time.Millisecond).Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		if n <= 0 {
			continue
		}
		var key [64]byte
		n, err = unix.Read(t.in, key[:])
		if err == nil && n == 0 || err != nil && !errors.Is(err, unix.EINTR) { // the terminal is gone
			return false
		}
		if err == nil && bytes.ContainsAny(key[:n], "qQ") {
			return false
		}
	}
	return false
}

// series are the values of one metric, by their labels in the order of the text.
type series struct {
	labels map[string]string
	value  float64
}

// sample is one look at a daemon.
type sample struct {
	at      time.Time
	status  contract.Status
	metrics map[string][]series
}

func (o *options) look(ctx context.Context) (*sample, error) {
	status, err := o.status(ctx)
	if err != nil {
		return nil, err
	}
	text, err := o.scrape(ctx)
	if err != nil {
		return nil, err
	}
	s := &sample{at: time.Now(), status: status}
	if s.metrics, err = parseMetrics(text); err != nil {
		return nil, fmt.Errorf("%s/metrics: %w", o.operations, err)
	}
	s.status.Conditions = append(s.status.Conditions, measured(text)...)
	slices.SortStableFunc(s.status.Conditions, urgentFirst)
	return s, nil
}

// parseMetrics reads the Prometheus text format 0.0.4 as the daemon writes it: without timestamps, each series once.
func parseMetrics(text string) (map[string][]series, error) {
	all, seen := map[string][]series{}, map[string]bool{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		whole, ended := strings.CutSuffix(line, "\n")
		if !ended {
			return nil, fmt.Errorf("line %d is cut off", number)
		}
		if whole == "" || whole[0] == '#' {
			continue
		}
		name, s, err := parseSeries(whole)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		id := whole[:strings.LastIndexByte(whole, ' ')]
		if seen[id] {
			return nil, fmt.Errorf("line %d: %.80q stands there twice", number, id)
		}
		seen[id] = true
		all[name] = append(all[name], s)
	}
	return all, nil
}

func parseSeries(line string) (string, series, error) {
	s := series{labels: map[string]string{}}
	end := strings.IndexFunc(line, func(r rune) bool { return !wordRune(r) && r != ':' })
	if end <= 0 {
		return "", s, fmt.Errorf("%.80q is no series", line)
	}
	name, rest := line[:end], line[end:]
	if labels, ok := strings.CutPrefix(rest, "{"); ok {
		for rest = labels; !strings.HasPrefix(rest, "}"); {
			label, quoted, ok := strings.Cut(rest, "=")
			if !ok || label == "" || strings.ContainsFunc(label, func(r rune) bool { return !wordRune(r) }) {
				return "", s, fmt.Errorf("%.80q starts with no label", rest)
			}
			value, after, err := unquote(quoted)
			if err != nil {
				return "", s, err
			}
			if _, twice := s.labels[label]; twice {
				return "", s, fmt.Errorf("label %s stands there twice", label)
			}
			s.labels[label] = value
			if rest = strings.TrimPrefix(after, ","); rest == after && !strings.HasPrefix(after, "}") {
				return "", s, fmt.Errorf("after label %s: %.80q", label, after)
			}
		}
		rest = rest[1:]
	}
	number, ok := strings.CutPrefix(rest, " ")
	v, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil {
		return "", s, fmt.Errorf("%s has no value in %.80q", name, rest)
	}
	s.value = v
	return name, s, nil
}

func wordRune(r rune) bool {
	return r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// unquote reads a label's value: the format escapes the backslash, the quote and the line feed, and nothing else.
func unquote(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s) && s[0] == '"'; i++ {
		switch c := s[i]; c {
		case '"':
			return b.String(), s[i+1:], nil
		case '\\':
			i++
			at := -1
			if i < len(s) {
				at = strings.IndexByte(`\"n`, s[i])
			}
			if at < 0 {
				return "", "", fmt.Errorf("%.80q has an unknown escape", s)
			}
			b.WriteByte("\\\"\n"[at])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", fmt.Errorf("%.80q is no quoted value", s)
}

// restarted: a counter that fell or went is the mark of another process. All counters began anew then, also those that have caught up.
func restarted(before, now *sample) bool {
	for name, old := range before.metrics {
		if !strings.HasSuffix(name, "_total") && !strings.HasSuffix(name, "_count") && !strings.HasSuffix(name, "_bucket") {
			continue
		}
		for _, s := range old {
			i := slices.IndexFunc(now.metrics[name], func(n series) bool { return sameLabels(n.labels, s.labels) })
			if i < 0 || now.metrics[name][i].value < s.value {
				return true
			}
		}
	}
	return false
}

func sameLabels(a, b map[string]string) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

// where are labels that a series has to have, as name, value, name, value.
func (s *sample) sum(name string, where ...string) (sum float64) {
	if s == nil {
		return 0
	}
	for _, x := range s.metrics["sealkeeper_"+name] {
		if x.has(where) {
			sum += x.value
		}
	}
	return sum
}

func (s series) has(where []string) bool {
	for i := 0; i+1 < len(where); i += 2 {
		if s.labels[where[i]] != where[i+1] {
			return false
		}
	}
	return true
}

// quantile is an estimate, in seconds. AtLeast: it lies beyond the histogram's last bound.
type quantile struct {
	Seconds float64 `json:"seconds"`
	AtLeast bool    `json:"at_least,omitempty"`
}

// estimate a quantile of what a histogram saw between two looks, as Prometheus' histogram_quantile does: linear within a bucket. Nil:
// it saw nothing.
func estimate(q float64, before, now *sample, name string, where ...string) *quantile {
	grew := map[float64]float64{} // upper bound → how many were at most that
	for _, x := range now.metrics["sealkeeper_"+name+"_bucket"] {
		if bound, err := strconv.ParseFloat(x.labels["le"], 64); err == nil && x.has(where) {
			grew[bound] += x.value
		}
	}
	if before != nil {
		for _, x := range before.metrics["sealkeeper_"+name+"_bucket"] {
			if bound, err := strconv.ParseFloat(x.labels["le"], 64); err == nil && x.has(where) {
				grew[bound] -= x.value
			}
		}
	}
	total := grew[math.Inf(1)]
	if total <= 0 {
		return nil
	}
	bounds := make([]float64, 0, len(grew))
	for b := range grew {
		bounds = append(bounds, b)
	}
	slices.Sort(bounds)
	rank, low, below := q*total, 0.0, 0.0
	for _, b := range bounds {
		switch n := grew[b]; {
		case n < rank:
			low, below = b, n
		case math.IsInf(b, 1):
			return &quantile{low, true}
		default:
			return &quantile{Seconds: low + (b-low)*(rank-below)/max(n-below, 1e-9)}
		}
	}
	return nil
}

// view is what is shown of two looks. Rates are per second; they are null when there was no look before.
type view struct {
	At         time.Time            `json:"at"`
	Interval   float64              `json:"interval_seconds"`
	Restarted  bool                 `json:"restarted"` // the daemon is another process than at the look before: rates count from its start
	Version    string               `json:"version"`
	Ready      bool                 `json:"ready"`
	Policy     uint64               `json:"policy_version"`
	Journal    uint64               `json:"journal_size"`
	Clock      string               `json:"clock"`
	Rates      map[string]*float64  `json:"rates"`
	P99        map[string]*quantile `json:"p99"`
	Disk       disk                 `json:"disk"`
	Lanes      []laneView           `json:"lanes"`
	Tokens     []tokenView          `json:"tokens"`
	Lists      []listView           `json:"lists"`
	Conditions []contract.Condition `json:"conditions"`
}

type disk struct {
	Free float64 `json:"free_bytes"`
	Size float64 `json:"size_bytes"`
}

type laneView struct {
	Lane    string    `json:"lane"`
	Waiting float64   `json:"waiting"`
	Served  *float64  `json:"served_per_second"`
	P99     *quantile `json:"wait_p99"`
	Shed    *float64  `json:"shed_per_second"`
}

type tokenView struct {
	contract.TokenStatus
	Replaced float64 `json:"replaced"` // workers replaced since the daemon's start
}

type listView struct {
	ID      string  `json:"id"`
	Version uint64  `json:"version"`
	Age     float64 `json:"age_seconds"`
	Left    float64 `json:"left_seconds"` // until it expires
	Pending float64 `json:"pending_seconds"`
	Dirty   bool    `json:"pending"`
}

// compare two looks; without one before there are states, and no rates.
func compare(before, now *sample) *view {
	s := now.status
	v := &view{At: now.at.UTC(), Version: s.Version, Ready: s.Ready, Policy: s.PolicyVer, Journal: s.Journal, Clock: s.Clock, Conditions: s.Conditions,
		Rates: map[string]*float64{}, P99: map[string]*quantile{}, Disk: disk{now.sum("disk_free_bytes"), now.sum("disk_size_bytes")},
		Lanes: []laneView{}, Tokens: []tokenView{}, Lists: []listView{}}
	if v.Conditions == nil {
		v.Conditions = []contract.Condition{}
	}
	known := before != nil
	if known {
		v.Interval = now.at.Sub(before.at).Seconds()
		if v.Restarted = restarted(before, now); v.Restarted {
			before = nil
		}
	}
	rate := func(name string, where ...string) *float64 {
		if !known || v.Interval <= 0 {
			return nil
		}
		r := max(0, now.sum(name, where...)-before.sum(name, where...)) / v.Interval
		return &r
	}
	add := func(all ...*float64) *float64 {
		sum := 0.0
		for _, r := range all {
			if r == nil {
				return nil
			}
			sum += *r
		}
		return &sum
	}
	p99 := func(name string, where ...string) *quantile {
		if !known {
			return nil
		}
		return estimate(0.99, before, now, name, where...)
	}
	allowed := func(operation string) *float64 {
		return rate("decisions_total", "operation", operation, "result", "allowed")
	}
	v.Rates["issues"] = add(allowed("issue"), allowed("refresh"))
	v.Rates["locks"] = add(allowed("lock"), allowed("unlock"), allowed("revoke"))
	v.Rates["refusals"] = rate("decisions_total", "result", "denied")
	v.Rates["failures"] = rate("decisions_total", "result", "failed")
	v.Rates["signatures"] = rate("signatures_total", "result", "ok")
	v.Rates["signature_failures"] = add(rate("signatures_total", "result", "error"), rate("signatures_total", "result", "bad"))
	v.Rates["commits"] = rate("commit_seconds_count")
	v.P99["issue"] = p99("http_request_seconds", "route", "/v1/credentials")
	v.P99["lock"] = p99("http_request_seconds", "route", "/v1/locks")
	v.P99["lock_to_published"] = p99("lock_to_published_seconds")
	v.P99["hsm"] = p99("hsm_batch_seconds")
	v.P99["commit"] = p99("commit_seconds")
	for _, lane := range []string{"lock", "crl", "issue", "batch"} { // the urgent first
		v.Lanes = append(v.Lanes, laneView{lane, now.sum("queue_depth", "lane", lane), rate("queue_seconds_count", "lane", lane),
			p99("queue_seconds", "lane", lane), rate("shed_total", "lane", lane)})
	}
	for _, t := range s.Tokens {
		v.Tokens = append(v.Tokens, tokenView{t, now.sum("worker_restarts_total", "token", t.Token)})
	}
	for _, l := range s.Lists {
		x := listView{ID: l.ID, Version: l.Version, Dirty: l.Dirty, Age: now.at.Sub(l.Issued).Seconds(), Left: l.Expires.Sub(now.at).Seconds()}
		if since := now.sum("list_pending_since_timestamp_seconds", "list", l.ID); since > 0 {
			x.Pending = max(0, float64(now.at.UnixMilli())/1000-since)
		}
		v.Lists = append(v.Lists, x)
	}
	// What waits longest, then what is nearest to its end: where the window is too low for all, the others are left out.
	slices.SortStableFunc(v.Lists, func(a, b listView) int {
		return cmp.Or(cmp.Compare(b.Pending, a.Pending), cmp.Compare(a.Left, b.Left), cmp.Compare(a.ID, b.ID))
	})
	return v
}

// write draws at most so many columns and lines, each ended by end but the last of a full window, which would scroll it.
func (v *view) write(w io.Writer, columns, lines int, end string) error {
	var all []string
	line := func(format string, args ...any) { all = append(all, fit(fmt.Sprintf(format, args...), columns)) }
	ready := "ready"
	if !v.Ready {
		ready = "NOT READY"
	}
	line("sealkeeper %s · %s · policy %d · journal %d · %s", v.Version, ready, v.Policy, v.Journal, v.At.Format(time.DateTime)+" UTC")
	if v.Restarted {
		line("the daemon started anew since the last look")
	}
	if v.Clock != "trusted" {
		line("clock: %s", v.Clock)
	}
	if len(v.Conditions) == 0 {
		line("✓ nothing is wrong")
	}
	for i, c := range v.Conditions {
		if i == 4 && len(v.Conditions) > 5 {
			line("  and %d more: sealctl doctor", len(v.Conditions)-i)
			break
		}
		line("✗ %s: %s", c.Severity, c.What)
	}
	r, p := v.Rates, v.P99
	line("")
	line("%-9s issues %s  locks %s  refusals %s  failures %s  signatures %s (%s failed)", "A SECOND", perSecond(r["issues"]), perSecond(r["locks"]),
		perSecond(r["refusals"]), perSecond(r["failures"]), perSecond(r["signatures"]), perSecond(r["signature_failures"]))
	line("%-9s issue %s  lock %s  lock to published %s  HSM batch %s", "P99", p["issue"], p["lock"], p["lock_to_published"], p["hsm"])
	line("%-9s commit p99 %s, %s a second  free %s of %s", "DISK", p["commit"], perSecond(r["commits"]), size(v.Disk.Free), size(v.Disk.Size))
	line("")
	line("%-8s %8s %9s %10s %8s", "LANE", "WAITING", "SERVED/S", "WAIT P99", "SHED/S")
	for _, l := range v.Lanes {
		line("%-8s %8.0f %9s %10s %8s", l.Lane, l.Waiting, perSecond(l.Served), l.P99, perSecond(l.Shed))
	}
	line("")
	line("%-16s %-8s %12s %11s  %s", "TOKEN", "WORKERS", "REPLACED 10m", "SINCE START", "PROBLEM")
	for _, t := range v.Tokens {
		line("%-16s %-8s %12d %11.0f  %s", fit(t.Token, 16), fmt.Sprintf("%d of %d", t.Ready, t.Wanted), t.Restarts, t.Replaced, t.Problem)
	}
	line("")
	line("%-24s %9s %8s %10s %8s", "LIST", "VERSION", "AGE", "EXPIRES IN", "PENDING")
	for i, l := range v.Lists {
		if left := len(v.Lists) - i; left > 1 && len(all) == lines-1 {
			line("and %d more: sealctl status", left)
			break
		}
		pending := "-"
		if l.Dirty || l.Pending > 0 {
			pending = age(l.Pending)
		}
		line("%-24s %9d %8s %10s %8s", short(l.ID), l.Version, age(l.Age), age(l.Left), pending)
	}
	all = all[:min(len(all), lines)]
	text := strings.Join(all, end)
	if end == "\n" || len(all) < lines {
		text += end
	} else {
		text += strings.TrimSuffix(end, "\n")
	}
	_, err := io.WriteString(w, text)
	return err
}

// fit cuts a text to so many columns. Control characters are shown as spaces: problems hold words of modules and of the system, and may
// not move the cursor.
func fit(s string, columns int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if utf8.RuneCountInString(s) > columns {
		s = string([]rune(s)[:max(0, columns-1)]) + "…"
	}
	return strings.TrimRight(s, " ")
}

func perSecond(r *float64) string {
	switch {
	case r == nil:
		return "-"
	case *r == 0:
		return "0"
	case *r < 100:
		return fmt.Sprintf("%.1f", *r)
	}
	return fmt.Sprintf("%.0f", *r)
}

func (q *quantile) String() string {
	if q == nil {
		return "-"
	}
	more := ""
	if q.AtLeast {
		more = ">"
	}
	if q.Seconds < 1 {
		return more + strconv.FormatFloat(q.Seconds*1000, 'g', 3, 64) + " ms"
	}
	return more + strconv.FormatFloat(q.Seconds, 'g', 3, 64) + " s"
}

// age of at most two units: 12s, 3m05s, 4h10m, 12d03h.
func age(seconds float64) string {
	sign := ""
	if seconds < 0 {
		sign, seconds = "-", -seconds
	}
	s := int64(min(seconds, 1e11)) // the zero time is far away, and no overflow
	switch {
	case s < 60:
		return fmt.Sprintf("%s%ds", sign, s)
	case s < 3600:
		return fmt.Sprintf("%s%dm%02ds", sign, s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%s%dh%02dm", sign, s/3600, s%3600/60)
	}
	return fmt.Sprintf("%s%dd%02dh", sign, s/86400, s%86400/3600)
}

func size(bytes float64) string {
	if bytes < 1<<30 {
		return fmt.Sprintf("%.0f MiB", bytes/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", bytes/(1<<30))
}
