package main

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sealkeeper/contract"
	"sealkeeper/policy"
)

// unlocks are a journal of n decisions to unlock for one carrier within an hour. The one at damaged can't be read.
type unlocks struct {
	decisions
	n, damaged int
}

var at = time.Date(2026, 3, 2, 1, 0, 0, 0, time.UTC)

func (j unlocks) page(_ context.Context, after string, _ time.Time) (out []journalled, _ error) {
	from, _ := strconv.Atoi(after)
	for i := from; i < min(from+contract.MaxDecisions, j.n); i++ {
		of := []byte(`{"input":{"at":"2026-03-02T01:00:00Z","client":"telecom-a","operation":"unlock","type":"kr-resident","reason":"telecom_lost","slot":{"bound":true,"locks":[{"reason":"telecom_lost","class":"telecom","by":"telecom-a"}]}}}`)
		if i == j.damaged {
			of = of[1:]
		}
		out = append(out, journalled{JournalledDecision: contract.JournalledDecision{At: at, Operation: "unlock", DocumentType: "kr-resident",
			Decision: contract.Decision{ID: strconv.Itoa(i + 1), Result: "allowed"}, Of: of}})
	}
	return out, nil
}

func (unlocks) bundle(context.Context, string) ([]byte, error) { return nil, nil }

// A budget fills up in the order of the decisions, however many cores decide them.
func TestReplayKeepsTheOrder(t *testing.T) {
	data, err := os.ReadFile("../../deploy/policies/kr-resident-article.json") // a carrier lifts a thousand an hour
	if err != nil {
		t.Fatal(err)
	}
	to, err := policy.Parse("new.json", data)
	if err != nil {
		t.Fatal(err)
	}
	const n, limit = 7500, 1000
	shown := 0
	out, err := replay(t.Context(), unlocks{n: n, damaged: -1}, to, at, func(_ time.Time, n int) { shown = n })
	if err != nil || out.Decisions != n || out.Same != limit || out.Changed != n-limit || shown != n {
		t.Fatalf("%d decisions (%d shown), %d the same, %d changed: %v", out.Decisions, shown, out.Same, out.Changed, err)
	}
	if len(out.Changes) != 1 || out.Changes[0].Would != "denied budget.exhausted" || !slices.Equal(out.Changes[0].Examples, []string{"1001", "1002", "1003"}) {
		t.Errorf("the first that were one too many are not 1001 to 1003: %+v", out.Changes)
	}
	if _, err := replay(t.Context(), unlocks{n: n, damaged: 4200}, to, at, func(time.Time, int) {}); err == nil || !strings.HasPrefix(err.Error(), "decision 4201: ") {
		t.Errorf("a decision that can't be read: %v", err)
	}
}
