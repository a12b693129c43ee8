package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sealkeeper/contract"
)

// finding is one condition with the page that says more.
type finding struct {
	contract.Condition
	Runbook string `json:"runbook"`
}

func doctorCommand(o *options) *cobra.Command {
	var over time.Duration
	c := &cobra.Command{Use: "doctor", Short: "Say what is wrong or soon will be, and what to do", Args: cobra.NoArgs, Example: "  sealctl doctor\n  sealctl doctor --json | jq .findings",
		Long: "doctor names the same conditions as the alert rules in deploy/prometheus, each with what to do and its page under docs/runbooks.\n" +
			"What is a rate (overload, failures, a slow disk, slow locks) it sees only if it happens within --over, the time between its two looks.\n" +
			"It ends with 5 if there is a condition, and with 0 if nothing is wrong.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := o.diagnose(cmd.Context(), over)
			if err != nil {
				return err
			}
			// How the installation is set up is said, and is no fault: a development machine would never be well.
			wrong := 0
			for _, f := range found {
				if f.Name != "policy-unsigned" && f.Name != "policy-file" {
					wrong++
				}
			}
			err = o.print(cmd.OutOrStdout(), map[string]any{"healthy": wrong == 0, "findings": found}, func(w io.Writer) {
				if wrong == 0 {
					fmt.Fprintln(w, "✓ nothing is wrong")
				}
				for _, f := range found { // sentences: a table of them would fit no terminal
					fmt.Fprintf(w, "✗ %s: %s\n  do: %s\n  see %s\n", f.Severity, f.What, f.Do, f.Runbook)
				}
			})
			if err == nil && wrong > 0 {
				return &coded{exitCheck, fmt.Errorf("%d conditions", wrong)}
			}
			return err
		}}
	c.Flags().DurationVar(&over, "over", time.Second, "time between two looks, at least 100ms")
	return c
}

// diagnose asks the daemon twice, and says so if it does not answer.
func (o *options) diagnose(ctx context.Context, over time.Duration) ([]finding, error) {
	if over < 100*time.Millisecond {
		return nil, &coded{exitUsage, fmt.Errorf("--over %v: at least 100ms", over)}
	}
	down := func(err error) []contract.Condition {
		return []contract.Condition{{Name: "down", Severity: "critical", What: err.Error(),
			Do: "look at the exit code and the last lines of the log: 3 is FENCED, 4 the HSM; then `sealkeeperd check`"}}
	}
	var all []contract.Condition
	if _, err := o.status(ctx); err != nil {
		all = down(err)
	} else if before, err := o.look(ctx); err != nil {
		return nil, err
	} else if !pause(ctx, over) {
		return nil, ctx.Err()
	} else if now, err := o.look(ctx); err != nil {
		all = down(err)
	} else {
		all = append(now.status.Conditions, happening(before, now)...)
	}
	slices.SortStableFunc(all, urgentFirst)
	found := make([]finding, 0, len(all))
	for _, c := range all {
		found = append(found, finding{c, "docs/runbooks/" + c.Name + ".md"})
	}
	return found, nil
}

func urgentFirst(a, b contract.Condition) int {
	rank := map[string]int{"critical": 0, "warning": 1, "info": 2}
	return cmp.Compare(rank[a.Severity], rank[b.Severity])
}

func (o *options) scrape(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.operations+"/metrics", nil)
	if err != nil {
		return "", &coded{exitUsage, err}
	}
	r, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s/metrics: %s", o.operations, r.Status)
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	return string(b), err
}

// measured are the conditions that are known from metrics alone.
func measured(text string) (all []contract.Condition) {
	var bad, free, size float64
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if !strings.HasPrefix(name, "sealkeeper_") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch {
		case strings.HasPrefix(name, "sealkeeper_signatures_total{") && strings.Contains(name, `result="bad"`):
			bad += v
		case name == "sealkeeper_disk_free_bytes":
			free = v
		case name == "sealkeeper_disk_size_bytes":
			size = v
		}
	}
	if bad > 0 {
		all = append(all, contract.Condition{Name: "bad-signature", Severity: "critical", What: fmt.Sprintf("%.0f signatures since the start did not verify; none of them left", bad),
			Do: "look at the HSM before anything else; a token that signs wrongly is not to be trusted with the key"})
	}
	if size > 0 && free < size/10 {
		severity := "warning"
		if free < size*3/100 {
			severity = "critical"
		}
		all = append(all, contract.Condition{Name: "disk-filling", Severity: severity, What: fmt.Sprintf("%.0f MiB are left on the ledger's disk", free/(1<<20)), Do: "make room: the ledger can't be cut, everything else on this disk can move"})
	}
	return all
}

// happening are the conditions that are rates, between two looks. The bounds are those of the alert rules.
func happening(before, now *sample) (all []contract.Condition) {
	if restarted(before, now) {
		return nil // what happened before the start is not happening
	}
	note := func(name, do, format string, args ...any) {
		all = append(all, contract.Condition{Name: name, Severity: "warning", What: fmt.Sprintf(format, args...), Do: do})
	}
	grew := func(name string, where ...string) float64 {
		return now.sum(name, where...) - before.sum(name, where...)
	}
	answers := func(status ...string) (n float64) {
		for _, s := range status {
			n += grew("http_requests_total", "listener", "issuance", "status", s)
		}
		return n
	}
	asked, away, shed := grew("http_requests_total", "listener", "issuance"), answers("429", "503"), grew("shed_total")
	if shed > 0 || away > 0.01*asked {
		note("overload", "see who asks, in the log; callers are to wait as Retry-After says", "%.0f of %.0f requests were turned away just now, %.0f signatures shed", away, asked, shed)
	}
	failed, decided := grew("decisions_total", "result", "failed"), grew("decisions_total")
	if wrong := answers("500"); wrong > 0.01*asked || failed > 0.01*decided {
		note("issuing-fails", "look at the log's errors, and whether the policy bundle was changed", "%.0f of %.0f requests ended with 500 just now, %.0f decisions failed", wrong, asked, failed)
	}
	if q := estimate(0.99, before, now, "commit_seconds"); q != nil && q.Seconds > 0.25 {
		note("ledger-slow", "see what else writes to the ledger's disk", "a durable commit takes up to %s just now", q)
	}
	if q := estimate(0.99, before, now, "lock_to_published_seconds"); q != nil && q.Seconds > 1 {
		note("lock-slow", "look at the token's workers and at the ledger's disk", "a lock takes up to %s until it is published, just now", q)
	}
	return all
}
