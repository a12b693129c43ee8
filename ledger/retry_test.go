package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sealkeeper/policy"
)

// resume does what the conductor does with a pending request.
func (w *town) resume(q *request) (*Reservation, [][]byte, error) {
	w.t.Helper()
	ctx := context.Background()
	known, err := w.Recall(ctx, office, q.call.Key, q.call.Request)
	must(w.t, err)
	if known.Pending == nil {
		w.t.Fatalf("nothing is pending: %+v", known)
	}
	p := known.Pending
	if !p.At().Equal(q.at) || p.RowSalt() != q.call.RowSalt {
		w.t.Fatalf("pending since %s with salt %x", p.At(), p.RowSalt())
	}
	a, d := w.decide(q, p.Before(), true)
	if a == nil {
		w.t.Fatalf("refused: %s %s", d.Code, d.Detail)
	}
	drafts, tbs := w.drafts(q, a, p.Tickets())
	r, err := w.Resume(ctx, p, a, drafts, &q.call)
	if errors.Is(err, ErrRebuild) {
		drafts, tbs = w.drafts(q, a, nil)
		r, err = w.ReserveAgain(ctx, p, a, drafts, &q.call, w.clock.Now())
	}
	return r, tbs, err
}

func (w *town) recalled(q *request) string {
	w.t.Helper()
	known, err := w.Recall(context.Background(), office, q.call.Key, q.call.Request)
	must(w.t, err)
	if !known.Done {
		w.t.Fatalf("no answer is known: %+v", known)
	}
	return string(known.Answer)
}

func TestRetry(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	q := w.request(policy.OpIssue, 1, w.phone(), false)
	known, err := w.Recall(ctx, office, q.call.Key, q.call.Request)
	if err != nil || known.Done || known.Pending != nil {
		t.Fatalf("an unknown request: %+v, %v", known, err)
	}
	first, _ := w.reserve(q)
	seed := w.Seed(q.call.Key, q.call.RowSalt)
	w.again() // the daemon died between Reserve and Settle

	_, err = w.Recall(ctx, office, q.call.Key, [32]byte{9})
	refused(t, err, "idempotency.mismatch")
	if other, err := w.Recall(ctx, "loss-desk", q.call.Key, q.call.Request); err != nil || other.Done || other.Pending != nil {
		t.Fatalf("another client's request: %+v, %v", other, err)
	}
	if w.Seed(q.call.Key, q.call.RowSalt) != seed || seed == ([32]byte{}) || w.Seed(q.call.Key+"x", q.call.RowSalt) == seed {
		t.Error("the seed must depend on the caller's key and nothing else that changes")
	}
	r, tbs, err := w.resume(q)
	must(t, err)
	if r.ID() != first.ID() || r.Seq() != first.Seq() || r.Device() != first.Device() || !slices.Equal(r.Items(), first.Items()) {
		t.Errorf("resumed %s at %d, reserved %s at %d", r.ID(), r.Seq(), first.ID(), first.Seq())
	}
	if got, first := w.settle(r, tbs, "the card"); got != "the card" || !first {
		t.Errorf("%q, %t", got, first)
	}
	if got := w.recalled(q); got != "the card" {
		t.Errorf("recalled %q", got)
	}
	w.again()
	if got := w.recalled(q); got != "the card" {
		t.Errorf("recalled %q after a restart", got)
	}
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")

	w.clock.Advance(25 * time.Hour)
	_, err = w.GiveUp(ctx, w.clock.Now())
	must(t, err)
	if known, err := w.Recall(ctx, office, q.call.Key, q.call.Request); err != nil || known.Done {
		t.Errorf("an answer of yesterday: %+v, %v", known, err)
	}
	w.check()
}

// However many go on with one pending request, one answer is given to all of them.
func TestConcurrentResumes(t *testing.T) {
	w := newTown(t)
	q := w.request(policy.OpIssue, 1, w.phone(), false)
	w.reserve(q)
	type resumed struct {
		r   *Reservation
		tbs [][]byte
	}
	var all []resumed
	for range 8 {
		r, tbs, err := w.resume(q)
		must(t, err)
		all = append(all, resumed{r, tbs})
	}
	var mu sync.Mutex
	answers, firsts := map[string]int{}, 0
	var wg sync.WaitGroup
	for i, one := range all {
		wg.Go(func() {
			if err := one.r.Claim(w.Ledger, one.tbs); err != nil {
				t.Error(err)
				return
			}
			got, first, err := w.Settle(context.Background(), one.r, settlement(one.r, fmt.Sprint("card ", i)))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[string(got)]++
			if first {
				firsts++
			}
		})
	}
	wg.Wait()
	if len(answers) != 1 || firsts != 1 || answers[w.recalled(q)] != len(all) {
		t.Errorf("answers %v, %d of them first", answers, firsts)
	}
	w.check()
}

func TestPendingThatCantBeRebuilt(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	q := w.request(policy.OpIssue, 1, w.phone(), true)
	old, _ := w.reserve(q)
	stopped, _ := w.Ledger.key("ds")
	stopped.State = KeyDeactivated
	must(t, w.PutKey(ctx, stopped))
	w.key("ds2", policy.PurposeMDoc)
	keyOf[policy.MDoc] = "ds2"
	defer func() { keyOf[policy.MDoc] = "ds" }()

	lists := func() (n int) {
		must(t, w.Audit().Changes(ctx, func(uint64, string, ChangeRecord) error { n++; return nil }))
		return n
	}
	before := lists()
	r, tbs, err := w.resume(q)
	must(t, err)
	if r.ID() == old.ID() || r.Device() != old.Device() || !slices.Equal(r.Superseded(), old.Superseded()) {
		t.Errorf("replaced %s by %s for device %s", old.ID(), r.ID(), r.Device())
	}
	if n := lists() - before; n != 2 {
		t.Errorf("%d status changes: only the two abandoned indices change", n)
	}
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt revoked", "mso_mdoc revoked", "dc+sd-jwt revoked", "mso_mdoc reserved", "dc+sd-jwt reserved")
	w.settle(r, tbs, "the card")
	w.again()
	if got := w.recalled(q); got != "the card" {
		t.Errorf("recalled %q", got)
	}
	w.check()
}

func TestPendingThatWasSuperseded(t *testing.T) {
	for name, meanwhile := range map[string]func(w *town){
		"locked":   func(w *town) { w.change("telecom-a", policy.OpLock, 1, "telecom_lost") },
		"revoked":  func(w *town) { w.change("ministry", policy.OpRevoke, 1, "deceased") },
		"replaced": func(w *town) { w.issue(w.request(policy.OpIssue, 1, w.phone(), true)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t)
			q := w.request(policy.OpIssue, 1, w.phone(), false)
			r, tbs := w.reserve(q)
			meanwhile(w)
			_, _, err := w.resume(q)
			refused(t, err, "reservation.superseded")
			// The first try still had its signature on the way: it settles, and revives nothing.
			before := w.statuses(1)
			w.settle(r, tbs, "late")
			for i, s := range w.statuses(1) {
				if s != before[i] && !strings.HasSuffix(before[i], "reserved") {
					t.Errorf("%s became %s by settling", before[i], s)
				}
			}
			w.check()
		})
	}
}

// A Settle that loses to ReserveAgain releases nothing.
func TestSettleAfterReplacement(t *testing.T) {
	w := newTown(t)
	q := w.request(policy.OpIssue, 1, w.phone(), false)
	late, lateTBS := w.reserve(q)
	known, err := w.Recall(context.Background(), office, q.call.Key, q.call.Request)
	must(t, err)
	a, _ := w.decide(q, known.Pending.Before(), true)
	d, tbs := w.drafts(q, a, nil)
	r, err := w.ReserveAgain(context.Background(), known.Pending, a, d, &q.call, w.clock.Now())
	must(t, err)
	must(t, late.Claim(w.Ledger, lateTBS))
	_, _, err = w.Settle(context.Background(), late, settlement(late, "late"))
	refused(t, err, "reservation.superseded")
	if got, first := w.settle(r, tbs, "the card"); got != "the card" || !first {
		t.Errorf("%q, %t", got, first)
	}
	// and the stale Pending can't be used any more
	_, err = w.ReserveAgain(context.Background(), known.Pending, a, d, &q.call, w.clock.Now())
	if err == nil {
		t.Error("a replaced reservation was replaced again")
	}
	w.check()
}

// Whoever has the file and every secret of the ledger still can't read an answer, nor find the caller's key.
func TestStolenLedgerOpensNoAnswer(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	q := w.request(policy.OpIssue, 1, w.phone(), false)
	r, tbs := w.reserve(q)
	w.settle(r, tbs, "the card that nobody else may read")
	must(t, w.Close())
	for _, file := range []string{w.o.Path, w.o.Path + "-wal"} {
		b, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, secret := range []string{"the card that", string(q.call.Key)} {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s holds %q in the clear", file, secret)
			}
		}
	}
	w.open() // the thief has all of testSecrets
	sealed := 0
	must(t, w.Audit().Requests(ctx, func(_ uint64, key []byte, row RequestRecord) error {
		sealed++
		s := testSecrets()
		salt := row.RowSalt
		for _, guess := range [][]byte{nil, key, row.Request[:], salt[:], []byte(row.Reservation), row.Sealed, s.Index[:], s.Lookup[:], s.Salt[:], s.Commit[:]} {
			for _, k := range [][]byte{guess, append(slices.Clone(s.Salt[:]), guess...), append(slices.Clone(s.Lookup[:]), guess...)} {
				if _, err := row.unseal(IdempotencyKey(k)); err == nil {
					t.Errorf("%x opens the answer", k)
				}
			}
		}
		if _, err := row.unseal(q.call.Key); err != nil { // else the test proves nothing
			t.Errorf("the caller's own key: %v", err)
		}
		for _, bend := range []func(*RequestRecord){
			func(r *RequestRecord) { r.Client += "x" }, func(r *RequestRecord) { r.Request[0] ^= 1 },
			func(r *RequestRecord) { r.Reservation += "x" }, func(r *RequestRecord) { r.Sealed[20] ^= 1 },
		} {
			bent := row
			bent.Sealed = bytes.Clone(row.Sealed)
			bend(&bent)
			if _, err := bent.unseal(q.call.Key); err == nil {
				t.Error("an answer opens for another client, request or reservation")
			}
		}
		return nil
	}))
	if sealed != 1 {
		t.Errorf("%d sealed answers", sealed)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", q.call.Key, q.call, q.call, q.call.Key); strings.Contains(text, "key of request") {
		t.Errorf("printing shows the key: %s", text)
	}
}

// Many phones at once for one person: the last one has the card, all others are revoked.
func TestManyPhones(t *testing.T) {
	w := newTown(t)
	const phones = 32 // tests/scenario does the thousand
	var requests []*request
	for range phones {
		requests = append(requests, w.request(policy.OpIssue, 1, w.phone(), true))
	}
	var wg sync.WaitGroup
	for _, q := range requests {
		wg.Go(func() {
			leave := w.Arrive()
			defer leave()
			for {
				s, err := w.Subject(context.Background(), resident, q.person)
				if err != nil {
					t.Error(err)
					return
				}
				a, d := w.decide(q, s.Slot(), false)
				if a == nil {
					t.Errorf("refused: %s", d.Code)
					return
				}
				drafts, tbs := w.drafts(q, a, nil)
				r, err := w.Reserve(context.Background(), a, drafts, &q.call)
				if errors.Is(err, ErrConflict) {
					continue
				}
				if err == nil {
					err = r.Claim(w.Ledger, tbs)
				}
				if err == nil {
					_, _, err = w.Settle(context.Background(), r, settlement(r, "card"))
				}
				if err != nil {
					t.Error(err)
				}
				return
			}
		})
	}
	wg.Wait()
	valid := 0
	seen := map[string]bool{}
	s, err := w.Subject(context.Background(), resident, policy.Pseudonym{1})
	must(t, err)
	for _, c := range s.Credentials() {
		place := fmt.Sprint(c.URI, c.Index)
		if seen[place] {
			t.Errorf("index %s was given out twice", place)
		}
		seen[place] = true
		if c.Status == "valid" {
			valid++
			if c.Device != s.Slot().Device {
				t.Error("a valid credential of another device")
			}
		}
	}
	if valid != 2 || len(seen) != 2*phones {
		t.Errorf("%d valid credentials of %d", valid, len(seen))
	}
	w.statuses(1)
	w.check()
}
