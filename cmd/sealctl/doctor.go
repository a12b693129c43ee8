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
	return &cobra.Command{Use: "doctor", Short: "Say what is wrong or soon will be, and what to do", Args: cobra.NoArgs, Example: "  sealctl doctor\n  sealctl doctor --json | jq .findings",
		Long: "doctor names the same conditions as the alert rules in deploy/prometheus, each with what to do and its page under docs/runbooks.\nIt ends with 5 if there is one, and with 0 if nothing is wrong.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := o.diagnose(cmd.Context())
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
}

// diagnose asks the daemon, and says so if it does not answer.
func (o *options) diagnose(ctx context.Context) ([]finding, error) {
	var all []contract.Condition
	if s, err := o.status(ctx); err != nil {
		all = append(all, contract.Condition{Name: "down", Severity: "critical", What: err.Error(),
			Do: "look at the exit code and the last lines of the log: 3 is FENCED, 4 the HSM; then `sealkeeperd check`"})
	} else {
		all = s.Conditions
		text, err := o.scrape(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, measured(text)...)
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
