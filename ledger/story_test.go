package ledger

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/policy"
	"sealkeeper/tests/phone"
)

const (
	office   = "ward-office-1"
	resident = "kr-resident"
)

// town is a house with a policy, a wallet provider and everything that makes real approvals.
type town struct {
	*house
	bundle   *policy.Bundle
	provider *phone.Provider
	verifier *evidence.Verifier
	method   string // of the policy that is in force
	signer   string // of SD-JWT VCs, if it is not the usual one
	nonces   int
	requests int
}

func newTown(t *testing.T) *town {
	t.Helper()
	return townIn(newHouse(t))
}

func townIn(h *house) *town {
	t := h.t
	t.Helper()
	w := &town{house: h}
	data, err := os.ReadFile(filepath.Join("..", "deploy", "policies", "demo.json"))
	must(t, err)
	w.bundle, err = policy.Parse("demo.json", data)
	must(t, err)
	w.provider, err = phone.NewProvider(noon, rand.Reader)
	must(t, err)
	w.verifier = evidence.NewVerifier(evidence.Trust{WalletProviders: []*x509.Certificate{w.provider.Anchor()}, NonceKey: [32]byte{7}, NonceLife: 5 * time.Minute,
		AttestationAge: 24 * time.Hour, Skew: time.Minute, MaxKeys: 4})
	w.key("list", policy.PurposeList)
	w.key("ds", policy.PurposeMDoc)
	w.key("sd", policy.PurposeSDJWT)
	return w
}

func (w *town) phone() *phone.Phone {
	w.t.Helper()
	p, err := phone.New(1)
	must(w.t, err)
	return p
}

// request is one issue request: its evidence is made once, so that a retry brings the same.
type request struct {
	op       policy.Operation
	person   policy.Pseudonym
	verified *evidence.Verified
	replace  bool
	call     Call
	at       time.Time
	seed     string // what the TBS are made of
}

func (w *town) request(op policy.Operation, person byte, p *phone.Phone, replace bool) *request {
	w.t.Helper()
	w.nonces++
	w.requests++
	at := w.clock.Now()
	nonce, _ := w.verifier.Nonce(office, resident, at, [16]byte{byte(w.nonces), byte(w.nonces >> 8), byte(w.nonces >> 16)})
	aud := "https://ward-office-1.example"
	v, err := w.verifier.Verify(evidence.About{Client: office, DocumentType: resident, Audience: aud, At: at},
		evidence.Bundle{Proof: p.Prove(0, aud, nonce, at, p.Attest(w.provider, nonce, at))})
	must(w.t, err)
	id := fmt.Sprintf("request %d", w.requests)
	return &request{op: op, person: policy.Pseudonym{person}, verified: v, replace: replace, at: at, seed: id,
		call: Call{Key: IdempotencyKey("key of " + id), Request: sha256.Sum256([]byte(id)), RowSalt: sha256.Sum256([]byte("salt " + id))}}
}

// decide is the conductor's part between Recall and Lease.
func (w *town) decide(q *request, slot policy.Slot, resuming bool) (*policy.Approval, policy.Decision) {
	w.t.Helper()
	claims := map[string]any{
		"family_name": "홍", "given_name": "길동", "birth_date": "1990-01-01", "issuing_country": "KR", "issuing_authority": "행정안전부",
		"document_number": "D-1", "expiry_date": "2036-01-14", "portrait": base64.RawURLEncoding.EncodeToString([]byte("\xff\xd8\xff\xe0 portrait")),
		"address": "서울특별시 종로구 세종대로 209", "age_over_19": true, "issue_date": "2026-01-15",
	}
	return w.bundle.DecideIssue(q.verified, policy.IssueRequest{Client: office, Operation: q.op, DocumentType: resident, Subject: q.person, Claims: claims,
		Replace: q.replace, Resuming: resuming, Method: w.method, Latched: w.Latched()}, slot, q.at)
}

func (w *town) approve(q *request) *policy.Approval {
	w.t.Helper()
	s, err := w.Subject(context.Background(), resident, q.person)
	must(w.t, err)
	a, d := w.decide(q, s.Slot(), false)
	if a == nil {
		w.t.Fatalf("refused: %s %s", d.Code, d.Detail)
	}
	return a
}

var keyOf = map[policy.Format]string{policy.MDoc: "ds", policy.SDJWT: "sd"}

// tbs of a draft; a stopped key's successor would make others.
func (q *request) tbs(f policy.Format, key string, t *Ticket) []byte {
	return []byte(fmt.Sprintf("%s %s %s %s#%d", q.seed, f, key, t.URI(), t.Index()))
}

// drafts for the approval, with the given tickets or new ones.
func (w *town) drafts(q *request, a *policy.Approval, tickets []*Ticket) (d []Draft, tbs [][]byte) {
	w.t.Helper()
	issue, ok := a.Issue()
	if !ok {
		w.t.Fatal("no issue was approved")
	}
	for i, f := range issue.Formats {
		var t *Ticket
		if tickets != nil {
			t = tickets[i]
		} else {
			leased, err := w.Lease(context.Background(), resident, f, 1)
			must(w.t, err)
			t = leased[0]
		}
		b := q.tbs(f, keyOf[f], t)
		tbs = append(tbs, b)
		key := keyOf[f]
		if w.signer != "" && f == policy.SDJWT {
			key = w.signer
		}
		d = append(d, Draft{Ticket: t, KeyID: key, Purpose: purposeOf[f], TBSHash: sha256.Sum256(b), NotAfter: q.at.AddDate(0, 0, 90)})
	}
	return d, tbs
}

// reserve leads a fresh request up to its reservation.
func (w *town) reserve(q *request) (*Reservation, [][]byte) {
	w.t.Helper()
	r, tbs, err := w.tryReserve(q)
	must(w.t, err)
	return r, tbs
}

func (w *town) tryReserve(q *request) (*Reservation, [][]byte, error) {
	w.t.Helper()
	a := w.approve(q)
	d, tbs := w.drafts(q, a, nil)
	r, err := w.Reserve(context.Background(), a, d, &q.call)
	return r, tbs, err
}

func settlement(r *Reservation, answer string) Settlement {
	s := Settlement{Answer: []byte(answer)}
	for range r.Items() {
		s.Signatures, s.Workers = append(s.Signatures, []byte("signature")), append(s.Workers, "worker-1")
	}
	return s
}

// settle claims and settles.
func (w *town) settle(r *Reservation, tbs [][]byte, answer string) (string, bool) {
	w.t.Helper()
	must(w.t, r.Claim(w.Ledger, tbs))
	got, first, err := w.Settle(context.Background(), r, settlement(r, answer))
	must(w.t, err)
	return string(got), first
}

func (w *town) issue(q *request) *Reservation {
	w.t.Helper()
	r, tbs := w.reserve(q)
	if _, first := w.settle(r, tbs, "card for "+q.seed); !first {
		w.t.Fatal("somebody else's answer won")
	}
	return r
}

func (w *town) change(client string, op policy.Operation, person byte, reason string) ChangeResult {
	w.t.Helper()
	s, err := w.Subject(context.Background(), resident, policy.Pseudonym{person})
	must(w.t, err)
	a, d := w.bundle.DecideChange(policy.ChangeRequest{Client: client, Operation: op, DocumentType: resident, Subject: policy.Pseudonym{person}, Reason: reason}, s.Slot(), w.clock.Now())
	if a == nil {
		w.t.Fatalf("refused: %s %s", d.Code, d.Detail)
	}
	c, err := w.Change(context.Background(), a)
	must(w.t, err)
	return c
}

// image is what a list's next version shows.
func image(s ListSnapshot) []byte {
	b := slices.Clone(s.Facts.Next)
	lay(b, s.Facts.Held)
	return b
}

// statuses of a subject's credentials, by format, oldest first.
func (w *town) statuses(person byte) (all []string) {
	w.t.Helper()
	s, err := w.Subject(context.Background(), resident, policy.Pseudonym{person})
	must(w.t, err)
	for _, c := range s.Credentials() {
		// what the ledger says of a credential is what its list shows
		id := c.URI[len("https://status.example/status-lists/"):]
		l, err := w.List(id)
		must(w.t, err)
		per := uint64(8 / l.Facts.Bits)
		shown := image(l)[c.Index/per] >> (c.Index % per * uint64(l.Facts.Bits)) & (1<<l.Facts.Bits - 1)
		if want := map[string]byte{"reserved": 0, "valid": 0, "revoked": 1, "suspended": 2, "needs_renew": 3}[c.Status]; shown != want {
			w.t.Errorf("credential %s is %s and its list shows %d", c.Format, c.Status, shown)
		}
		all = append(all, string(c.Format)+" "+c.Status)
	}
	return all
}

func (w *town) wants(person byte, want ...string) {
	w.t.Helper()
	if got := w.statuses(person); !slices.Equal(got, want) {
		w.t.Fatalf("credentials are %q, want %q", got, want)
	}
}

func (w *town) publishAll() {
	w.t.Helper()
	for _, id := range w.Lists() {
		r, _ := w.list(id)
		_, first, err := w.Settle(context.Background(), r, settlement(r, "token of "+id))
		must(w.t, err)
		if !first {
			w.t.Fatal("another version was first")
		}
		s, err := w.List(id)
		must(w.t, err)
		if len(s.Facts.Changes) != 0 || !bytes.Equal(s.Facts.Prev, s.Facts.Next) || !s.Dirty.IsZero() || s.Facts.Urgent {
			w.t.Fatalf("list %s is not clean after it was published", id)
		}
	}
}

// The main job: issued, lost, found, replaced; the same after every restart.
func TestStory(t *testing.T) {
	w := newTown(t)
	phone1 := w.phone()
	r := w.issue(w.request(policy.OpIssue, 1, phone1, false))
	if len(r.Superseded()) != 0 || r.Device() == "" {
		t.Fatalf("superseded %v, device %q", r.Superseded(), r.Device())
	}
	w.wants(1, "mso_mdoc valid", "dc+sd-jwt valid")
	w.publishAll()
	w.again()

	w.clock.Advance(time.Hour)
	c := w.change("telecom-a", policy.OpLock, 1, "telecom_lost")
	if !c.Changed || len(c.Lists) != 2 || len(c.Slot.Locks) != 1 {
		t.Fatalf("%+v", c)
	}
	select {
	case <-w.Changed():
	default:
		t.Error("a lock did not wake the publisher")
	}
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
	for _, id := range c.Lists {
		s, err := w.List(id)
		must(t, err)
		if !s.Facts.Urgent || s.Dirty.IsZero() || s.Facts.Through < c.Seq || len(s.Facts.Changes) != 1 {
			t.Errorf("list %s does not carry the lock: %+v", id, s.Facts)
		}
	}
	w.again()
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt suspended")
	w.publishAll()
	if again := w.change("telecom-a", policy.OpLock, 1, "telecom_lost"); again.Changed {
		t.Error("the same lock changed something twice")
	}

	w.clock.Advance(time.Hour)
	w.change("telecom-a", policy.OpUnlock, 1, "telecom_lost")
	w.wants(1, "mso_mdoc revoked", "dc+sd-jwt valid")
	refreshed := w.issue(w.request(policy.OpRefresh, 1, phone1, false))
	if refreshed.Device() != r.Device() {
		t.Error("a refresh changed the device")
	}
	w.again()

	w.clock.Advance(time.Hour)
	replaced := w.issue(w.request(policy.OpIssue, 1, w.phone(), true))
	if len(replaced.Superseded()) != 2 || replaced.Device() == r.Device() {
		t.Errorf("superseded %v", replaced.Superseded())
	}
	for _, s := range w.statuses(1)[:len(w.statuses(1))-2] {
		if s != "mso_mdoc revoked" && s != "dc+sd-jwt revoked" {
			t.Errorf("the old phone has %s", s)
		}
	}
	w.publishAll()
	before := w.statuses(1)
	w.again()
	if !slices.Equal(before, w.statuses(1)) {
		t.Error("a restart changed the credentials")
	}
	w.check()
}

// check reads everything that is stored and compares it with itself: leaves with hashes, one leaf an entry, attempts with reservations.
func (w *town) check() {
	w.t.Helper()
	ctx := context.Background()
	a, err := OpenAudit(ctx, w.o.Path)
	must(w.t, err)
	defer a.Close()
	size, _, err := a.Head(ctx)
	must(w.t, err)
	n := uint64(0)
	must(w.t, a.Journal(ctx, func(seq uint64, leaf Leaf, body []byte) error {
		if leaf.V != 1 || leaf.Kind == "" || leaf.At.IsZero() {
			w.t.Errorf("leaf %d: %s", seq, body)
		}
		n++
		return nil
	}))
	if n != size {
		w.t.Errorf("%d leaves in a journal of %d", n, size)
	}
	reservations := map[string]ReservationRecord{}
	must(w.t, a.Reservations(ctx, func(_ uint64, r ReservationRecord) error { reservations[r.ID] = r; return nil }))
	settled := map[string]int{}
	must(w.t, a.Attempts(ctx, func(_ uint64, id string, item, _ int, r AttemptRecord) error {
		if rec := reservations[id]; item >= len(rec.Items) {
			w.t.Errorf("attempt at item %d of reservation %q", item, id)
		}
		if r.State == TrySettled {
			settled[id]++
		}
		return nil
	}))
	for id, r := range reservations {
		for i := range r.Items {
			if r.FirstTry(i).State == TrySettled {
				settled[id]++
			}
		}
		if want := map[Progress]int{Settled: len(r.Items)}[r.Progress]; settled[id] != want {
			w.t.Errorf("reservation %s (%s, %s) has %d settled attempts of %d items", id, r.Kind, r.Progress, settled[id], len(r.Items))
		}
	}
	must(w.t, a.Credentials(ctx, func(_ uint64, g Given) error {
		if it := reservations[g.Reservation].Items[g.Item]; it.List != g.List || it.Index != g.Index {
			w.t.Errorf("index %s/%d belongs to reservation %s, which has another", g.List, g.Index, g.Reservation)
		}
		return nil
	}))
	for _, f := range []func() error{
		func() error { return a.Slots(ctx, func([]byte, uint64, SlotRecord) error { return nil }) },
		func() error { return a.Requests(ctx, func(uint64, []byte, RequestRecord) error { return nil }) },
		func() error { return a.Burns(ctx, func(uint64, string, [32]byte, BurnRecord) error { return nil }) },
		func() error { return a.Changes(ctx, func(uint64, string, ChangeRecord) error { return nil }) },
		func() error { return a.Keys(ctx, func(uint64, Key) error { return nil }) },
		func() error { return a.Certificates(ctx, func(uint64, Certificate) error { return nil }) },
		func() error { return a.Versions(ctx, func([]byte, uint64, VersionRecord) error { return nil }) },
		func() error {
			return a.Lists(ctx, func(_ uint64, r ListRecord) error {
				made, err := a.Image(ctx, r, size)
				s, _ := w.List(r.ID)
				if err == nil && !w.lists[r.ID].past() && !bytes.Equal(made, image(s)) {
					w.t.Errorf("list %s is not what its changes make", r.ID)
				}
				return err
			})
		},
	} {
		must(w.t, f())
	}
}

func TestReplaysAreRefused(t *testing.T) {
	w := newTown(t)
	p := w.phone()
	q := w.request(policy.OpIssue, 1, p, false)
	w.issue(q)
	other := *q // the same evidence for somebody else, under a new idempotency key
	other.person, other.seed = policy.Pseudonym{2}, "other"
	other.call = Call{Key: "another", Request: sha256.Sum256([]byte("another")), RowSalt: [32]byte{1}}
	_, _, err := w.tryReserve(&other)
	refused(t, err, "nonce.replayed")
	w.wants(2)

	w.clock.Advance(49 * time.Hour) // everything of that request is too old by now
	must(t, w.sweep(context.Background()))
	n := 0
	must(t, w.Audit().Burns(context.Background(), func(uint64, string, [32]byte, BurnRecord) error { n++; return nil }))
	if n != 0 {
		t.Errorf("%d burns are remembered that nothing can use any more", n)
	}
	w.check()
}

func TestEpochMoved(t *testing.T) {
	w := newTown(t)
	q := w.request(policy.OpIssue, 1, w.phone(), true)
	a := w.approve(q)
	d, _ := w.drafts(q, a, nil)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	_, err := w.Reserve(context.Background(), a, d, &q.call)
	if !errors.Is(err, ErrConflict) {
		t.Fatalf("an approval of an older epoch: %v", err)
	}
	// Nothing was committed, so the same indices serve the new decision.
	a = w.approve(q)
	if _, err := w.Reserve(context.Background(), a, d, &q.call); err != nil {
		t.Fatal(err)
	}
	lock, _ := w.bundle.DecideChange(policy.ChangeRequest{Client: "telecom-a", Operation: policy.OpLock, DocumentType: resident, Subject: q.person, Reason: "telecom_lost"}, policy.Slot{Epoch: 1, Bound: true, Device: "x"}, noon)
	if lock == nil {
		t.Fatal("not approved")
	}
	if _, err := w.Change(context.Background(), lock); !errors.Is(err, ErrConflict) {
		t.Fatalf("a change of an older epoch: %v", err)
	}
}

func TestWhatReserveRefuses(t *testing.T) {
	w, other := newTown(t), newTown(t)
	ctx := context.Background()
	stopped := w.key("stopped", policy.PurposeMDoc)
	stopped.State = KeyDeactivated
	must(t, w.PutKey(ctx, stopped))
	for name, c := range map[string]struct {
		bend func(q *request, d []Draft) []Draft
		code string
	}{
		"too few drafts":          {func(_ *request, d []Draft) []Draft { return d[:1] }, "draft.count"},
		"no drafts":               {func(*request, []Draft) []Draft { return nil }, "draft.count"},
		"one copy twice":          {func(_ *request, d []Draft) []Draft { d[0].KeyIndex = 1; return d }, "draft.count"},
		"no ticket":               {func(_ *request, d []Draft) []Draft { d[0].Ticket = nil; return d }, "ticket.spent"},
		"zero ticket":             {func(_ *request, d []Draft) []Draft { d[0].Ticket = &Ticket{}; return d }, "ticket.spent"},
		"one ticket twice":        {func(_ *request, d []Draft) []Draft { d[1] = d[0]; return d }, "ticket.spent"},
		"tickets swapped":         {func(_ *request, d []Draft) []Draft { d[0].Ticket, d[1].Ticket = d[1].Ticket, d[0].Ticket; return d }, "ticket.format"},
		"ticket of another house": {func(_ *request, d []Draft) []Draft { d[0].Ticket = other.ticket(policy.MDoc); return d }, "ticket.foreign"},
		"zero hash":               {func(_ *request, d []Draft) []Draft { d[0].TBSHash = [32]byte{}; return d }, "draft.hash"},
		"purpose not approved":    {func(_ *request, d []Draft) []Draft { d[0].Purpose, d[0].KeyID = policy.PurposeList, "list"; return d }, "draft.purpose"},
		"key of another purpose":  {func(_ *request, d []Draft) []Draft { d[0].KeyID = "sd"; return d }, "key.purpose"},
		"unknown key":             {func(_ *request, d []Draft) []Draft { d[0].KeyID = "none"; return d }, "key.unknown"},
		"stopped key":             {func(_ *request, d []Draft) []Draft { d[0].KeyID = "stopped"; return d }, "key.inactive"},
		"expired at birth":        {func(q *request, d []Draft) []Draft { d[0].NotAfter = q.at; return d }, "draft.expired"},
		"no idempotency key":      {func(q *request, d []Draft) []Draft { q.call.Key = ""; return d }, "call.missing"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			q := w.request(policy.OpIssue, 1, w.phone(), false)
			a := w.approve(q)
			good, _ := w.drafts(q, a, nil)
			_, err := w.Reserve(ctx, a, c.bend(q, slices.Clone(good)), &q.call)
			refused(t, err, c.code)
			for i, d := range good {
				if d.Ticket.List() == "" {
					t.Errorf("ticket %d was spent by a refusal", i)
				}
			}
		})
	}
	w.t = t
	q := w.request(policy.OpIssue, 1, w.phone(), false)
	a := w.approve(q)
	d, _ := w.drafts(q, a, nil)
	_, err := w.Reserve(ctx, nil, d, &q.call)
	refused(t, err, "approval.missing")
	_, err = w.Reserve(ctx, &policy.Approval{}, d, &q.call)
	refused(t, err, "approval.missing")
	_, err = w.Change(ctx, nil)
	refused(t, err, "approval.kind")
	_, err = w.Change(ctx, a)
	refused(t, err, "approval.kind")
	if _, err := w.Reserve(ctx, a, d, &q.call); err != nil {
		t.Fatal(err)
	}
	if d[0].Ticket.List() != "" || d[0].Ticket.URI() != "" || d[0].Ticket.Index() != 0 || d[0].Ticket.Format() != "" {
		t.Error("a spent ticket still names its index")
	}
	p := w.phone()
	q2 := w.request(policy.OpIssue, 2, p, false)
	_, err = w.Reserve(ctx, w.approve(q2), d, &q2.call)
	refused(t, err, "ticket.spent")
}

func (w *town) ticket(f policy.Format) *Ticket {
	t, err := w.Lease(context.Background(), resident, f, 1)
	must(w.t, err)
	return t[0]
}

func TestReservationIsClaimedOnce(t *testing.T) {
	w, other := newTown(t), newTown(t)
	ctx := context.Background()
	r, tbs := w.reserve(w.request(policy.OpIssue, 1, w.phone(), false))
	refused(t, (*Reservation)(nil).Claim(w.Ledger, tbs), "reservation.spent")
	refused(t, (&Reservation{}).Claim(w.Ledger, tbs), "reservation.spent")
	refused(t, r.Claim(other.Ledger, tbs), "reservation.foreign")
	refused(t, r.Claim(w.Ledger, tbs[:1]), "reservation.mismatch")
	refused(t, r.Claim(w.Ledger, [][]byte{tbs[1], tbs[0]}), "reservation.mismatch")
	_, _, err := w.Settle(ctx, r, settlement(r, "x"))
	refused(t, err, "reservation.spent")
	refused(t, w.Attempt(ctx, r, []int{0}, "w"), "reservation.spent")
	var wg sync.WaitGroup
	won := make(chan bool, 8)
	for range cap(won) {
		wg.Go(func() { won <- r.Claim(w.Ledger, tbs) == nil })
	}
	wg.Wait()
	close(won)
	n := 0
	for ok := range won {
		if ok {
			n++
		}
	}
	if n != 1 || !r.Claimed(w.Ledger) || r.Claimed(other.Ledger) {
		t.Errorf("%d claims of one reservation", n)
	}
	bad := settlement(r, "x")
	bad.Signatures[0] = nil
	_, _, err = w.Settle(ctx, r, bad)
	refused(t, err, "reservation.mismatch")
	must(t, w.Lost(ctx, r, []int{0, 1}, "worker-0"))
	must(t, w.Attempt(ctx, r, []int{0, 1}, "worker-1"))
	if _, _, err := w.Settle(ctx, r, settlement(r, "x")); err != nil {
		t.Fatal(err)
	}
	if r.Claimed(w.Ledger) {
		t.Error("a settled reservation is still claimed")
	}
	_, _, err = w.Settle(ctx, r, settlement(r, "y"))
	refused(t, err, "reservation.spent")
	var states []string
	must(t, w.Audit().Attempts(ctx, func(_ uint64, _ string, item, n int, a AttemptRecord) error {
		states = append(states, fmt.Sprintf("%d.%d %s %s", item, n, a.Worker, a.State))
		return nil
	}))
	if want := []string{"0.0 worker-0 unknown", "0.1 worker-1 settled", "1.0 worker-0 unknown", "1.1 worker-1 settled"}; !slices.Equal(states, want) {
		t.Errorf("attempts %q, want %q", states, want)
	}
	w.check()
}
