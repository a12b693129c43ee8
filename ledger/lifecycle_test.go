package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/internal/clock"
	"sealkeeper/policy"
)

const ministry = "ministry"

func (w *town) commit(a *policy.Approval, d policy.Decision) ChangeResult {
	w.t.Helper()
	if a == nil {
		w.t.Fatalf("refused: %s %s", d.Code, d.Detail)
	}
	c, err := w.Change(context.Background(), a)
	must(w.t, err)
	return c
}

func (w *town) slotOf(person byte) policy.Slot {
	w.t.Helper()
	s, err := w.Subject(context.Background(), resident, policy.Pseudonym{person})
	must(w.t, err)
	return s.Slot()
}

func (w *town) order(person byte, id string, op policy.Operation, reason string, from, to time.Time, replaces string) ChangeResult {
	w.t.Helper()
	a, d := w.bundle.DecideOrder(policy.OrderRequest{Client: ministry, DocumentType: resident, Subject: policy.Pseudonym{person}, ID: id, Operation: op,
		Reason: reason, From: from, To: to, Replaces: replaces}, w.slotOf(person), w.clock.Now())
	return w.commit(a, d)
}

// due carries out and says how many steps that were, and when the next one is.
func (w *town) due(want int, next time.Time) {
	w.t.Helper()
	done, at, err := w.Due(context.Background(), w.clock.Now())
	must(w.t, err)
	if done != want || !at.Equal(next) {
		w.t.Fatalf("%d steps were due, the next at %s; want %d, %s", done, at, want, next)
	}
}

// S6: a lock from one instant to another is there in time and goes in time: not a second early, also if the wall steps back, and when the
// appliance was down it is done at the start, as if it had been done in time.
func TestOrdersAreCarriedOutInTime(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	from, to := noon.Add(time.Hour), noon.Add(2*time.Hour)
	w.order(1, "case-1", policy.OpLock, "admin_hold", from, to, "")
	if c := w.order(1, "case-1", policy.OpLock, "admin_hold", from, to, ""); c.Changed {
		t.Error("the same order twice is two")
	}
	w.clock.Advance(time.Hour - time.Second)
	w.due(0, from)
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
	w.again() // whoever ordered it is gone, and so is what was in memory
	w.clock.Advance(time.Second)
	w.due(1, to)
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
	w.clock.Jump(-3 * time.Hour)
	w.due(0, to)
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
	w.clock.Jump(3 * time.Hour)
	w.again()
	w.clock.Advance(time.Hour)
	w.due(1, time.Time{})
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt valid")

	// The whole of it while the appliance was down.
	w.order(1, "case-2", policy.OpLock, "fraud", w.clock.Now().Add(time.Hour), w.clock.Now().Add(2*time.Hour), "")
	w.order(1, "case-3", policy.OpLock, "admin_hold", w.clock.Now().Add(3*time.Hour), time.Time{}, "")
	must(t, w.Close())
	w.clock.Advance(50 * time.Hour)
	w.open()
	w.due(1, time.Time{}) // all of one subject at once
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
	w.change(ministry, policy.OpUnlock, 1, "admin_hold") // without an end it is an ordinary lock
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt valid")
	w.check()
}

// Rows that can't be read keep no order of anybody else's from being carried out, however many they are, and are told.
func TestOrdersBehindDamagedOnes(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.order(1, "case", policy.OpLock, "admin_hold", noon.Add(time.Hour), noon.Add(2*time.Hour), "")
	var rows []Row
	for i := range 2*duePage + 1 {
		rows = append(rows, Row{Table: TableDue, Key: fmt.Appendf(binary.BigEndian.AppendUint64(nil, uint64(noon.Unix())), "row %d", i), Value: []byte("broken")})
	}
	rows[0].Key = []byte("\x00short") // the first of them all
	_, err := w.Ledger.commit(context.Background(), Leaf{Kind: "meta"}, rows, false, nil)
	must(t, err)
	if due, err := w.OldestDue(context.Background()); err != nil || due.IsZero() || due.After(noon) {
		t.Errorf("the oldest order is due at %v, %v", due, err)
	}
	w.clock.Advance(time.Hour)
	for _, shows := range []string{"suspended", "valid"} {
		done, _, err := w.Due(context.Background(), w.clock.Now())
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(2*duePage)) || len(err.Error()) > 300 {
			t.Errorf("of the rows that can't be read it says: %.400v", err)
		}
		if got := w.statuses(1)[1]; done != 1 || got != "dc+sd-jwt "+shows {
			t.Errorf("%d steps, and the card is %s, want it %s", done, got, shows)
		}
		w.clock.Advance(time.Hour)
	}
}

// An order is replaced or taken back by its own authority alone; what it locked is unlocked then, but not what somebody else locked too.
func TestOrdersAreTakenBack(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	cancel := func(id string) ChangeResult {
		t.Helper()
		a, d := w.bundle.DecideCancel(policy.CancelRequest{Client: ministry, DocumentType: resident, Subject: policy.Pseudonym{1}, ID: id}, w.slotOf(1), w.clock.Now())
		return w.commit(a, d)
	}
	hour := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Hour) }
	w.order(1, "a", policy.OpLock, "admin_hold", hour(1), hour(3), "")
	w.order(1, "b", policy.OpLock, "admin_hold", hour(2), hour(3), "a")
	w.clock.Advance(time.Hour)
	w.due(0, hour(2))
	w.clock.Advance(time.Hour)
	w.due(1, hour(3))
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
	cancel("b")
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt valid")
	if cancel("b").Changed {
		t.Error("an order was taken back twice")
	}
	w.due(0, time.Time{})

	w.order(1, "c", policy.OpLock, "admin_hold", hour(2), hour(3), "")
	w.due(1, hour(3))
	if !w.change(ministry, policy.OpLock, 1, "admin_hold").Changed {
		t.Error("a lock beside the order's is not noticed")
	}
	w.clock.Advance(time.Hour)
	w.due(1, time.Time{})
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
	_, d := w.bundle.DecideCancel(policy.CancelRequest{Client: "loss-desk", DocumentType: resident, Subject: policy.Pseudonym{1}, ID: "d"}, policy.Slot{Orders: []policy.Order{{ID: "d", Class: "ministry"}}}, hour(3))
	if d.Code != "schedule.other_authority" {
		t.Errorf("another authority: %s", d.Code)
	}
	w.check()
}

// b1: who is closed, by an order or at once, has no card ever again, and what else was ordered is gone.
func TestClosedForEver(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.order(1, "end", policy.OpRevoke, "registration_cancelled", noon.Add(time.Minute), time.Time{}, "")
	w.order(1, "hold", policy.OpLock, "admin_hold", noon.Add(time.Hour), time.Time{}, "")
	w.clock.Advance(time.Minute)
	w.due(1, time.Time{})
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt revoked")
	w.change(ministry, policy.OpRevoke, 2, "deceased") // who never had a card neither
	w.clock.Advance(time.Hour)
	w.due(0, time.Time{})
	for person := byte(1); person <= 2; person++ {
		if _, d := w.decide(w.request(policy.OpIssue, person, w.phone(), false), w.slotOf(person), false); d.Code != "subject.closed" {
			t.Errorf("person %d: %s", person, d.Code)
		}
		if w.change(ministry, policy.OpLock, person, "fraud").Changed {
			t.Error("the closed are locked")
		}
	}
	w.check()
}

// b3: what nobody finishes is given up in bounded time. Its indices are shown as revoked and never given again, a late signature is not
// released, and the phone that never got anything may ask anew.
func TestUnfinishedIsGivenUp(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	p := w.phone()
	r, tbs := w.reserve(w.request(policy.OpIssue, 1, p, false))
	must(t, r.Claim(w.Ledger, tbs))
	give := func(want int) {
		t.Helper()
		if n, err := w.GiveUp(ctx, w.clock.Now()); err != nil || n != want {
			t.Fatalf("%d were given up, want %d: %v", n, want, err)
		}
	}
	w.clock.Advance(24*time.Hour - time.Second)
	give(0)
	w.clock.Advance(time.Second)
	give(1)
	give(0)
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt revoked")
	_, _, err := w.Settle(ctx, r, settlement(r, "too late"))
	refused(t, err, "reservation.superseded")
	if w.slotOf(1).Bound {
		t.Error("a phone that never got anything has the card")
	}
	w.issue(w.request(policy.OpIssue, 1, p, false))
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt revoked", "mso_mdoc valid", "dc+sd-jwt valid")

	// A refresh that is given up takes nothing away.
	w.clock.Advance(46 * 24 * time.Hour)
	w.reserve(w.request(policy.OpRefresh, 1, p, false))
	w.clock.Advance(24 * time.Hour)
	give(1)
	if s := w.slotOf(1); !s.Bound || s.Live != 2 {
		t.Errorf("after the refresh was given up: %+v", s)
	}
	w.check()
}

// b1, NEEDS_RENEW: what the register changed has to be made anew; what was known before says so, older words of the register do nothing.
func TestNeedsRenew(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	renew := func(attributes uint64, reasons ...string) ChangeResult {
		t.Helper()
		a, d := w.bundle.DecideRenew(policy.RenewRequest{Client: ministry, DocumentType: resident, Subject: policy.Pseudonym{1}, Reasons: reasons, Attributes: attributes}, w.slotOf(1), w.clock.Now())
		return w.commit(a, d)
	}
	renew(3, "name", "address")
	if renew(3, "address").Changed || renew(2, "photo").Changed {
		t.Error("what is known already is news")
	}
	renew(0, "tech")
	s := w.slotOf(1)
	if len(s.Renew) != 3 || s.Renew[0] != "address" || s.Attributes != 3 || s.Outdated != 2 {
		t.Errorf("to be renewed: %+v", s)
	}
	w.again()
	w.check()
}

// What has to be made anew has to until a refresh is settled, whether one is given up before or made again with another key.
func TestNeedsRenewUntilItIsMade(t *testing.T) {
	w := newTown(t)
	p := w.phone()
	w.issue(w.request(policy.OpIssue, 1, p, false))
	sees := func(when string, want ...string) {
		t.Helper()
		if got := w.slotOf(1).Renew; !slices.Equal(got, want) {
			t.Errorf("%s: to be renewed for %q, want %q", when, got, want)
		}
	}
	attributes := uint64(0)
	renew := func(reason string) {
		t.Helper()
		attributes++
		a, d := w.bundle.DecideRenew(policy.RenewRequest{Client: ministry, DocumentType: resident, Subject: policy.Pseudonym{1}, Reasons: []string{reason}, Attributes: attributes}, w.slotOf(1), w.clock.Now())
		w.commit(a, d)
	}
	renew("name")
	sees("at once", "name")
	w.reserve(w.request(policy.OpRefresh, 1, p, false))
	sees("while a refresh waits")
	w.clock.Advance(24 * time.Hour)
	if n, err := w.GiveUp(t.Context(), w.clock.Now()); n != 1 || err != nil {
		t.Errorf("%d were given up: %v", n, err)
	}
	sees("after it was given up", "name")

	q := w.request(policy.OpRefresh, 1, p, false)
	w.reserve(q)
	renew("photo")
	sees("after more was said", "name", "photo")
	stopped, _ := w.Ledger.key("ds")
	stopped.State = KeyDeactivated
	must(t, w.PutKey(t.Context(), stopped))
	w.key("ds2", policy.PurposeMDoc)
	keyOf[policy.MDoc] = "ds2"
	defer func() { keyOf[policy.MDoc] = "ds" }()
	r, tbs, err := w.resume(q)
	must(t, err)
	w.settle(r, tbs, "a card that says the old")
	sees("after the older request was settled", "name", "photo")
	w.again()
	w.issue(w.request(policy.OpRefresh, 1, p, false))
	sees("after a newer one was")
	w.check()
}

// acknowledges has cards revoked that their phones don't acknowledge in that time.
func (w *town) acknowledges(within string) {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "deploy", "policies", "demo.json"))
	must(w.t, err)
	w.bundle, err = policy.Parse("demo.json", bytes.ReplaceAll(data, []byte(`"decoys": 4`), []byte(`"decoys": 4, "lifecycle": {"acknowledge_within": "`+within+`"}`)))
	must(w.t, err)
}

// asked counts the requests that are remembered.
func (w *town) asked() (n int) {
	w.t.Helper()
	must(w.t, w.Audit().Requests(context.Background(), func(uint64, []byte, RequestRecord) error { n++; return nil }))
	return n
}

// b3: where the phone has to acknowledge, what it did not acknowledge in time is revoked, and what it did is not.
func TestUnacknowledgedIsRevoked(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	w.acknowledges("2h")
	for person := byte(1); person <= 3; person++ {
		p := w.phone()
		r := w.issue(w.request(policy.OpIssue, person, p, false))
		if person != 2 {
			continue
		}
		nonce, _ := w.verifier.Nonce(office, resident, noon, [16]byte{99, 99})
		proof, err := w.verifier.VerifyPossession(evidence.About{Client: office, DocumentType: resident, Audience: "https://ward-office-1.example", At: noon},
			p.Prove(0, "https://ward-office-1.example", nonce, noon, ""))
		must(t, err)
		s, err := w.Subject(ctx, resident, policy.Pseudonym{person})
		must(t, err)
		a, d := w.bundle.DecideAck(proof, policy.AckRequest{Client: office, DocumentType: resident, Subject: policy.Pseudonym{person}, Issuance: r.ID(), Keys: [][32]byte{s.Credentials()[0].Key}}, s.Slot(), noon)
		if !w.commit(a, d).Changed {
			t.Error("the acknowledgement changed nothing")
		}
	}
	w.again()
	w.clock.Advance(2*time.Hour - time.Second)
	if n, err := w.GiveUp(ctx, w.clock.Now()); n != 0 || err != nil {
		t.Errorf("%d were given up early: %v", n, err)
	}
	w.clock.Advance(time.Second)
	for _, want := range []int{2, 0} {
		if n, err := w.GiveUp(ctx, w.clock.Now()); n != want || err != nil {
			t.Errorf("%d were given up, want %d: %v", n, want, err)
		}
	}
	for person, want := range []string{"revoked", "valid", "revoked"} {
		w.wants(byte(person+1), "mso_mdoc "+want, "dc+sd-jwt "+want)
	}
	w.check()
}

// A phone has its time from the answer on: what an outage held up for longer than that, and was finished then, is not given up at once. A wall that
// jumped meanwhile gives nobody more than what an unfinished reservation may take.
func TestTimeToAcknowledgeBeginsWithTheAnswer(t *testing.T) {
	for _, c := range []struct{ outage, given time.Duration }{
		{0, 2 * time.Hour}, {3 * time.Hour, 2 * time.Hour}, {-3 * time.Hour, 5 * time.Hour}, {24 * 400 * time.Hour, 2*time.Hour + 24*time.Hour - 24*400*time.Hour},
	} {
		w := newTown(t)
		w.acknowledges("2h")
		r, tbs := w.reserve(w.request(policy.OpIssue, 1, w.phone(), false))
		w.clock.Advance(c.outage)
		w.settle(r, tbs, "answer")
		if c.given > 0 {
			w.clock.Advance(c.given - time.Second)
			if n, err := w.GiveUp(t.Context(), w.clock.Now()); n != 0 || err != nil {
				t.Errorf("%s: %d were given up a second early: %v", c.outage, n, err)
			}
			w.clock.Advance(time.Second)
		}
		if n, err := w.GiveUp(t.Context(), w.clock.Now()); n != 1 || err != nil {
			t.Errorf("%s: %d were given up, want 1: %v", c.outage, n, err)
		}
	}
}

// An answer's time may be over before anybody looks who had to acknowledge it: the daemon stood still, or its clock was not trusted. Its card ends all the same.
func TestUnacknowledgedIsRevokedLate(t *testing.T) {
	for _, within := range []string{"15m", "24h"} {
		w := newTown(t)
		w.acknowledges(within)
		w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
		w.clock.Advance(25 * time.Hour)
		for _, want := range []int{1, 0} {
			if n, err := w.GiveUp(t.Context(), w.clock.Now()); n != want || err != nil {
				t.Errorf("%s: %d were given up, want %d: %v", within, n, want, err)
			}
		}
		w.wants(1, "mso_mdoc revoked", "dc+sd-jwt revoked")
		if n := w.asked(); n != 0 {
			t.Errorf("%s: %d requests stay that nobody waits for any more", within, n)
		}
		w.check()
	}
}

// Clock steps: the time of orders is that of lists. A wall that jumps ahead begins nothing early, one that jumps back takes nothing back, and
// what has elapsed counts.
func TestOrdersUnderClockSteps(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.order(1, "case", policy.OpLock, "admin_hold", noon.Add(time.Hour), noon.Add(2*time.Hour), "")
	guard := clock.NewGuard(w.clock, noon, 24*time.Hour, false)
	for _, step := range []struct {
		jump, pass time.Duration
		want       string
	}{
		{3 * time.Hour, time.Second, "valid"},
		{-5 * time.Hour, time.Hour - 2*time.Second, "valid"},
		{0, time.Second, "suspended"},
		{-24 * time.Hour, time.Minute, "suspended"},
		{48 * time.Hour, 58*time.Minute + 59*time.Second, "suspended"},
		{0, time.Second, "valid"},
	} {
		w.clock.Jump(step.jump)
		w.clock.Advance(step.pass)
		_, _, err := w.Due(context.Background(), guard.ForLists())
		must(t, err)
		if got := w.statuses(1)[1]; got != "dc+sd-jwt "+step.want {
			t.Errorf("after %s and a jump of %s: %s, want %s", step.pass, step.jump, got, step.want)
		}
	}
	w.check()
}

// Whoever is first: a signature that comes when its reservation is given up is released and its card is good, or it is not and the card is revoked.
func TestGivingUpRacesWithSettling(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	won := map[bool]int{}
	for i := range 40 {
		person := byte(i + 1)
		r, tbs := w.reserve(w.request(policy.OpIssue, person, w.phone(), false))
		must(t, r.Claim(w.Ledger, tbs))
		w.clock.Advance(24 * time.Hour)
		var race sync.WaitGroup
		var settled, gave error
		race.Go(func() {
			if i%2 == 0 {
				time.Sleep(time.Duration(i) * 20 * time.Microsecond)
			}
			_, _, settled = w.Settle(ctx, r, settlement(r, "card"))
		})
		race.Go(func() { _, gave = w.GiveUp(ctx, w.clock.Now()) })
		race.Wait()
		must(t, gave)
		won[settled == nil]++
		if settled == nil {
			w.wants(person, "mso_mdoc valid", "dc+sd-jwt valid")
			continue
		}
		refused(t, settled, "reservation.superseded")
		w.wants(person, "mso_mdoc revoked", "dc+sd-jwt revoked")
	}
	t.Logf("settled first: %d, given up first: %d", won[true], won[false])
	w.check()
}
