package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/policy"
)

// limited gives the town a policy with a phase and budgets: so many an hour and a day for each client, so many a day for the phase.
func (w *town) limited(opens time.Time, hour, day uint64) {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "deploy", "policies", "demo.json"))
	must(w.t, err)
	var b map[string]any
	must(w.t, json.Unmarshal(data, &b))
	for _, c := range b["clients"].([]any) {
		if c := c.(map[string]any); c["id"] == office {
			c["channel"] = "office"
		}
	}
	b["types"].(map[string]any)[resident].(map[string]any)["methods"] = map[string]any{"counter": map[string]any{"operations": []string{"issue", "refresh"}, "channels": []string{"office"}}}
	b["phases"] = []any{map[string]any{"id": "pilot", "from": opens.Format(time.RFC3339), "type": resident}}
	b["budgets"] = []any{map[string]any{"id": "each-client", "type": resident, "per": "client", "hour": hour, "day": day}, map[string]any{"id": "pilot", "type": resident, "per": "phase", "day": day}}
	data, err = json.Marshal(b)
	must(w.t, err)
	w.bundle, err = policy.Parse("limited.json", data)
	must(w.t, err)
	w.method = "counter"
}

// recount demands that rows, leaves and memory say the same, and that no window has more than its limit.
func (w *town) recount() (leaves int) {
	w.t.Helper()
	ctx := context.Background()
	said := map[string]uint64{}
	must(w.t, w.Audit().Journal(ctx, func(seq uint64, leaf Leaf, _ []byte) error {
		for _, c := range leaf.Charges {
			at := leaf.At.Unix()
			key := string(chargeKey(window{c.Budget, c.Window, at - at%c.Window + c.Window}, c.Tag))
			if said[key]++; said[key] > c.Limit {
				w.t.Errorf("entry %d is charge %d of %d in %s", seq, said[key], c.Limit, c.Budget)
			}
		}
		if len(leaf.Charges) > 0 {
			leaves++
		}
		return nil
	}))
	rows := map[string]uint64{}
	must(w.t, w.Audit().Charges(ctx, func(_ uint64, budget string, length, end int64, tag []byte, used uint64) error {
		rows[string(chargeKey(window{budget, length, end}, tag))] = used
		return nil
	}))
	w.mu.RLock()
	defer w.mu.RUnlock()
	for key, n := range said {
		win, _, err := splitCharge([]byte(key))
		must(w.t, err)
		if win.end > w.budgets.swept && (rows[key] != n || w.budgets.used[key] != n) {
			w.t.Errorf("window %+v: %d in leaves, %d in its row, %d in memory", win, n, rows[key], w.budgets.used[key])
		}
	}
	for key := range rows {
		if said[key] == 0 {
			w.t.Errorf("a row for %x, which no leaf charged", key)
		}
	}
	return leaves
}

func TestBudgetOfTenLetsTenOf64Win(t *testing.T) {
	w := newTown(t)
	w.limited(noon, 10, 1000)
	p := w.phone()
	var wg sync.WaitGroup
	var mu sync.Mutex
	won, lost := 0, 0
	start := make(chan struct{})
	for i := range 64 {
		q := w.request(policy.OpIssue, byte(i+1), p, false)
		a := w.approve(q)
		d, _ := w.drafts(q, a, nil)
		wg.Go(func() {
			leave := w.Arrive()
			defer leave()
			<-start
			r, err := w.Reserve(context.Background(), a, d, &q.call)
			var no *Refusal
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && r != nil:
				won++
			case errors.As(err, &no) && no.Code() == "budget.exhausted":
				lost++
			default:
				t.Errorf("request %d: %v", i, err)
			}
		})
	}
	close(start)
	wg.Wait()
	if won != 10 || lost != 54 {
		t.Errorf("%d won and %d lost", won, lost)
	}
	if n := w.recount(); n != 10 {
		t.Errorf("%d leaves are charged", n)
	}
	if n := w.BudgetUse("each-client", time.Hour, noon); n != 10 {
		t.Errorf("%d of the hour are used", n)
	}
}

// Who is refused loses nothing: the subject, the nonce and the index are as they were, and the next window takes the same request.
func TestExhaustedBudgetTouchesNothing(t *testing.T) {
	w := newTown(t)
	w.limited(noon, 1, 2)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	size, _, err := w.Head(t.Context())
	must(t, err)
	q := w.request(policy.OpIssue, 2, w.phone(), false)
	_, _, err = w.tryReserve(q)
	refused(t, err, "budget.exhausted")
	if want := "budget each-client: the 1 of ward-office-1 in the hour until 2026-11-20T13:00:00Z are used up"; !strings.Contains(err.Error(), want) {
		t.Errorf("it says %q", err)
	}
	// the first lease of a list may have been made meanwhile; nothing of the request is there
	after, _, err := w.Head(t.Context())
	must(t, err)
	if s, err := w.Subject(t.Context(), resident, q.person); err != nil || s.Slot().Epoch != 0 || after != size {
		t.Errorf("epoch %d, %d entries more, %v", s.Slot().Epoch, after-size, err)
	}
	w.clock.Advance(time.Hour)
	w.issue(w.request(policy.OpIssue, 2, w.phone(), false))
	w.clock.Advance(time.Hour)
	_, _, err = w.tryReserve(w.request(policy.OpIssue, 3, w.phone(), false)) // the hour is new, the day is not
	refused(t, err, "budget.exhausted")
	if n := w.recount(); n != 2 {
		t.Errorf("%d leaves are charged", n)
	}
}

// A retry is charged once: by the reservation that it goes on with, or replaces. A reservation that never comes to anything stays charged.
func TestRetriesAreChargedOnce(t *testing.T) {
	w := newTown(t)
	w.limited(noon, 2, 2)
	q := w.request(policy.OpIssue, 1, w.phone(), false)
	w.reserve(q)
	w.again()
	for range 3 { // the answer never came: each retry resumes
		p := w.pending(q)
		a, d := w.decide(q, p.Before(), true)
		if a == nil {
			t.Fatalf("refused: %s %s", d.Code, d.Detail)
		}
		drafts, _ := w.drafts(q, a, p.Tickets())
		_, err := w.Resume(t.Context(), p, a, drafts, &q.call)
		must(t, err)
	}
	p := w.pending(q)
	a, _ := w.decide(q, p.Before(), true)
	drafts, tbs := w.drafts(q, a, nil)
	r, err := w.ReserveAgain(t.Context(), p, a, drafts, &q.call, w.clock.Now())
	must(t, err)
	w.settle(r, tbs, "card")
	if n := w.recount(); n != 1 {
		t.Errorf("one request was charged %d times", n)
	}
	w.reserve(w.request(policy.OpIssue, 2, w.phone(), false)) // and never signed
	w.again()
	_, _, err = w.tryReserve(w.request(policy.OpIssue, 3, w.phone(), false))
	refused(t, err, "budget.exhausted")
	if n := w.recount(); n != 2 {
		t.Errorf("%d leaves are charged", n)
	}
}

func (w *town) pending(q *request) *Pending {
	w.t.Helper()
	known, err := w.Recall(context.Background(), office, q.call.Key, q.call.Request)
	must(w.t, err)
	if known.Pending == nil {
		w.t.Fatal("nothing is pending")
	}
	return known.Pending
}

// T+0 begins the phase; from then on it has begun, also for a clock that says T-1 and for a ledger that is opened again.
func TestBegunPhaseStaysBegun(t *testing.T) {
	w := newTown(t)
	opens := noon.Add(time.Hour)
	w.limited(opens, 100, 100)
	decide := func() policy.Decision {
		q := w.request(policy.OpIssue, 9, w.phone(), false)
		_, d := w.decide(q, policy.Slot{}, false)
		return d
	}
	w.clock.Advance(time.Hour - time.Second)
	if d := decide(); d.Code != "phase.not_open" || len(w.Latched()) != 0 {
		t.Fatalf("a second before: %s, latched %q", d.Code, w.Latched())
	}
	w.clock.Advance(time.Second)
	before := w.request(policy.OpIssue, 2, w.phone(), false) // decided before anybody else was reserved
	a := w.approve(before)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	d, tbs := w.drafts(before, a, nil)
	r, err := w.Reserve(t.Context(), a, d, &before.call) // latches what is latched
	must(t, err)
	w.settle(r, tbs, "card")
	for range 2 {
		if got := w.Latched(); !slices.Equal(got, []string{"pilot"}) {
			t.Fatalf("latched: %q", got)
		}
		w.clock.Advance(-2 * time.Hour)
		if d := decide(); d.Result != policy.Allowed || !slices.Contains(d.Rules, "D:phase/pilot") {
			t.Fatalf("the clock went back: %s %s, rules %q", d.Code, d.Detail, d.Rules)
		}
		w.again()
	}
	rows := 0
	must(t, w.Audit().Latches(t.Context(), func(_ uint64, phase string, r LatchRecord) error {
		rows++
		if phase != "pilot" || !r.At.Equal(opens) {
			t.Errorf("phase %s began at %s", phase, r.At)
		}
		return nil
	}))
	if rows != 1 {
		t.Errorf("%d latches", rows)
	}
}

// Old windows are forgotten by what was charged since, not by the wall; a clock that comes back to one finds it closed, not empty.
func TestSweptWindowsAreClosed(t *testing.T) {
	w := newTown(t)
	w.limited(noon.Add(-time.Hour), 1, 5)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	must(t, w.sweep(t.Context()))
	w.clock.Advance(30 * 24 * time.Hour) // a wall that jumps ahead sweeps nothing
	must(t, w.sweep(t.Context()))
	if n := len(w.budgets.used); n != 3 {
		t.Fatalf("%d windows are known", n)
	}
	w.issue(w.request(policy.OpIssue, 2, w.phone(), false))
	must(t, w.sweep(t.Context()))
	if n := len(w.budgets.used); n != 3 {
		t.Fatalf("%d windows are known after a month", n)
	}
	w.recount()
	for range 2 {
		w.clock.Advance(-30 * 24 * time.Hour)
		_, _, err := w.tryReserve(w.request(policy.OpIssue, 3, w.phone(), false))
		refused(t, err, "budget.exhausted")
		if !strings.Contains(err.Error(), "is closed") {
			t.Errorf("it says %v", err)
		}
		w.clock.Advance(30 * 24 * time.Hour)
		w.again()
	}
	w.clock.Advance(-time.Hour) // an hour back is no such thing
	w.issue(w.request(policy.OpIssue, 3, w.phone(), false))
	w.recount()
}

// Whatever requests, conflicts, retries, ends without Close, sweeps and clocks that go back and forth: no window ever has more than its limit, and rows, memory
// and leaves agree.
func TestBudgetsUnderAnyHistory(t *testing.T) {
	w := newTown(t)
	w.limited(noon.Add(-48*time.Hour), 3, 7)
	p := w.phone()
	people := 0
	open := []*request{}
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			switch step := rapid.IntRange(0, 9).Draw(rt, "step"); step {
			case 0, 1, 2, 3: // several at once: in one batch, one of them perhaps with an epoch that has moved
				type ready struct {
					q *request
					a *policy.Approval
					d []Draft
				}
				var all []ready
				for range rapid.IntRange(1, 4).Draw(rt, "crowd") {
					people++
					q := w.request(policy.OpIssue, 0, p, false)
					q.person = policy.Pseudonym{1, byte(people), byte(people >> 8)}
					a := w.approve(q)
					d, _ := w.drafts(q, a, nil)
					all = append(all, ready{q, a, d})
					if rapid.Bool().Draw(rt, "rival") { // for the same subject: one of the two meets a conflict
						r := w.request(policy.OpIssue, 0, p, false)
						r.person = q.person
						a := w.approve(r)
						d, _ := w.drafts(r, a, nil)
						all = append(all, ready{r, a, d})
					}
				}
				var wg sync.WaitGroup
				errs := make([]error, len(all))
				for i, r := range all {
					wg.Go(func() {
						defer w.Arrive()()
						_, errs[i] = w.Reserve(context.Background(), r.a, r.d, &r.q.call)
					})
				}
				wg.Wait()
				for i, err := range errs {
					var no *Refusal
					if err != nil && !errors.Is(err, ErrConflict) && !(errors.As(err, &no) && no.Code() == "budget.exhausted") {
						rt.Fatalf("reserving: %v", err)
					}
					if err == nil {
						open = append(open, all[i].q)
					}
				}
			case 4: // a retry of what has no answer
				if len(open) > 0 {
					q := open[len(open)-1]
					pending := w.pending(q)
					if a, _ := w.decide(q, pending.Before(), true); a != nil {
						d, _ := w.drafts(q, a, pending.Tickets())
						_, err := w.Resume(context.Background(), pending, a, d, &q.call)
						must(t, err)
					}
				}
			case 5:
				w.again()
			case 6:
				must(t, w.sweep(context.Background()))
			default:
				w.clock.Advance(time.Duration(rapid.SampledFrom([]int{1, 20, 59, 60, 24 * 60, -1, -61, -24 * 60, 49 * 60, -50 * 60}).Draw(rt, "minutes")) * time.Minute)
				if now := w.clock.Now(); now.Before(noon) || now.After(noon.Add(7*24*time.Hour)) {
					w.clock.Advance(noon.Sub(w.clock.Now()))
				}
			}
		}
		w.recount()
		if t.Failed() {
			rt.FailNow()
		}
	})
}

func FuzzChargeKeys(f *testing.F) {
	seeds := [][]byte{chargeKey(window{"each-office", 3600, 7200}, make([]byte, tagSize)), {}, make([]byte, 40)}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, key []byte) bool {
		w, tag, err := splitCharge(key)
		if err == nil && string(chargeKey(w, tag)) != string(key) {
			t.Fatalf("%x is %s", key, fmt.Sprint(w, tag))
		}
		return err == nil
	})
}

// A limit that officers raised holds until its instant, in its own windows alone and through a restart; then the bundle's holds again, and after a day the row is
// forgotten with a leaf that says so.
func TestRaisedLimitEndsByItself(t *testing.T) {
	w := newTown(t)
	w.limited(noon, 1, 100)
	person := byte(0)
	want := func(code string) {
		t.Helper()
		person++
		_, _, err := w.tryReserve(w.request(policy.OpIssue, person, w.phone(), false))
		if code == "" {
			must(t, err)
		} else {
			refused(t, err, code)
		}
	}
	want("")
	want("budget.exhausted")
	until := noon.Add(30 * time.Minute)
	must(t, w.RaiseBudget(t.Context(), "each-client", WindowHour, Raised{Limit: 2, Until: until, Reason: "a queue"}, w.proposed("budget.raise")))
	w.again()
	w.clock.Advance(until.Sub(w.clock.Now()) - time.Second)
	want("") // the second of the hour, in the last second of the raise
	want("budget.exhausted")
	w.clock.Advance(time.Second)
	for _, at := range []time.Duration{-time.Second, 0} {
		if got, right := w.Limit("each-client", time.Hour, 1, until.Add(at)), map[bool]uint64{true: 2, false: 1}[at < 0]; got != right {
			t.Errorf("%s after its end the hour's limit is %d", at, got)
		}
	}
	if w.Limit("other", time.Hour, 1, noon) != 1 || w.Limit("each-client", time.Hour, 9, noon) != 9 {
		t.Error("a raise is of one budget, and lowers nothing")
	}
	want("budget.exhausted")
	w.clock.Advance(time.Hour)
	want("")
	want("budget.exhausted") // one in the hour, as the bundle says

	left := func() (n int) {
		must(t, w.Audit().Switches(t.Context(), func(name string) error { n++; return nil }))
		return n
	}
	w.clock.Advance(budgetsKept - 2*time.Hour)
	must(t, w.sweep(t.Context()))
	if left() != 1 {
		t.Errorf("%d raises are kept", left())
	}
	w.clock.Advance(2 * time.Hour)
	must(t, w.sweep(t.Context()))
	w.again()
	over := 0
	must(t, w.Audit().Journal(t.Context(), func(_ uint64, l Leaf, _ []byte) error {
		if l.Kind == "budget" && l.State == "over" {
			over++
		}
		return nil
	}))
	if left() != 0 || over != 1 {
		t.Errorf("%d raises are kept, %d were forgotten", left(), over)
	}
	w.check()
}
