package scenario

import (
	"context"
	"sync"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
	"sealkeeper/tests/programme"
	"sealkeeper/verifier"
)

func (a *appliance) holder(subject string) contract.Holder {
	a.t.Helper()
	h, err := a.As("auditor").Holder(context.Background(), contract.StateRequest{DocumentType: kr, Subject: subject})
	if err != nil {
		a.t.Fatal(err)
	}
	return h
}

func (a *appliance) refused(what string, err error, want string) {
	a.t.Helper()
	if client.Code(err) != want {
		a.t.Errorf("%s: %v, want %s", what, err, want)
	}
}

// prove is a phone's proof of possession alone, over a fresh nonce.
func (a *appliance) prove(p *phone.Phone, issuer string) string {
	a.t.Helper()
	n, err := a.As(issuer).Nonce(context.Background(), contract.NonceRequest{DocumentType: kr})
	if err != nil {
		a.t.Fatal(err)
	}
	return p.Prove(0, "https://"+issuer+".example", n.Nonce, time.Now(), "")
}

// The four machines by the shipped programme, from outside: lost card, lost phone and what then may be issued how; an acknowledgement, a
// deleted app, an address that changed, and an end.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	a, by := installProgramme(t, nil)
	ctx := context.Background()
	issue := func(method, subject string, p *phone.Phone, replace bool) (contract.IssueAnswer, error) {
		c := a.Case(by, "ward-office-1", method, p, subject)
		c.Request.Replace = replace
		return a.ask(c)
	}
	must := func(out contract.IssueAnswer, err error) contract.IssueAnswer {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	change := func(who string, op func(*client.Client) func(context.Context, contract.ChangeRequest) (contract.ChangeAnswer, error), subject, reason string) error {
		_, err := op(a.As(who))(ctx, contract.ChangeRequest{DocumentType: kr, Subject: subject, Reason: reason})
		return err
	}

	// The holder's acknowledgement, by the phone's own key and once.
	p := newPhone(t, 1)
	out := must(issue("office_qr", "life-1", p, false))
	ack := contract.AcknowledgementRequest{DocumentType: kr, Subject: "life-1", Issuance: out.Issuance, Proof: a.prove(newPhone(t, 1), "ward-office-1")}
	_, err := a.As("ward-office-1").Acknowledge(ctx, ack)
	a.refused("another phone's acknowledgement", err, "acknowledgement.key")
	ack.Proof = a.prove(p, "ward-office-1")
	if _, err := a.As("ward-office-1").Acknowledge(ctx, ack); err != nil {
		t.Errorf("acknowledging: %v", err)
	}
	_, err = a.As("ward-office-1").Acknowledge(ctx, ack)
	a.refused("the same proof again", err, "nonce.replayed")
	ack.Issuance, ack.Proof = "nothing", a.prove(p, "ward-office-1")
	_, err = a.As("ward-office-1").Acknowledge(ctx, ack)
	a.refused("nothing", err, "acknowledgement.unknown")
	for _, c := range a.holder("life-1").Credentials {
		if !c.Active || c.Issuance != out.Issuance {
			t.Errorf("not active: %+v", c)
		}
	}

	// The card is lost: the mobile stops with it, and nothing is issued until it is found.
	_, sd := byFormat(out)
	if _, err := a.As("card-system").Lock(ctx, contract.ChangeRequest{DocumentType: kr, Subject: "life-1", Reason: "card_lost", Card: "card-1"}); err != nil {
		t.Fatal(err)
	}
	a.Eventually(sd.Status, verifier.Suspended)
	_, err = issue("ic_chip", "life-1", newPhone(t, 1), true)
	a.refused("a new phone while the card is lost", err, "card.locked")
	a.refused("the holder finds the card", change("loss-desk", unlock, "life-1", "card_lost"), "reason.forbidden")
	if err := change("card-system", unlock, "life-1", "card_lost"); err != nil {
		t.Fatal(err)
	}
	a.Eventually(sd.Status, verifier.Valid)
	_, err = issue("ic_chip", "life-1", newPhone(t, 1), true)
	a.refused("by the chip of the lost card, after another was made", err, "card.stopped")

	// The address changed: renewed at the next contact, by what the register says now; a new name needs the chip.
	renew := contract.RenewalRequest{DocumentType: kr, Subject: "life-1", Reasons: []string{"address", "name"}, Attributes: 2}
	if _, err := a.As("ministry").Renew(ctx, renew); err != nil {
		t.Fatal(err)
	}
	_, err = a.As("loss-desk").Renew(ctx, renew)
	a.refused("the desk changes an address", err, "client.forbidden")
	a.Eventually(sd.Status, verifier.Outdated)
	refresh := func(method string, epoch uint64) error {
		c := a.Case(by, "ward-office-1", method, p, "life-1")
		bend(by, c, evidence.KindRegistryMatch, func(m *evidence.RegistryMatch) { m.Epoch = epoch })
		if method == "renewal" {
			bend(by, c, evidence.KindChipRead, func(m *evidence.ChipRead) { m.Card = "card-2" })
		}
		_, err := a.As("ward-office-1").Refresh(ctx, client.NewKey(), c.Request)
		return err
	}
	a.refused("by a technical refresh", refresh("technical_refresh", 2), "renewal.method")
	a.refused("by what the register said before", refresh("renewal", 1), "evidence.registry_match_outdated")
	if err := refresh("renewal", 2); err != nil {
		t.Errorf("renewal: %v", err)
	}
	if h := a.holder("life-1"); len(h.Renew) > 0 || h.Attributes != 2 {
		t.Errorf("after the renewal: %+v", h)
	}

	// The phone is lost: a new one gets the card by the methods of that reason.
	if err := change("loss-desk", lock, "life-1", "self_lost"); err != nil {
		t.Fatal(err)
	}
	c := a.Case(by, "portal", "ic_chip", newPhone(t, 1), "life-1")
	bend(by, c, evidence.KindRegistryMatch, func(m *evidence.RegistryMatch) { m.Epoch = 2 })
	bend(by, c, evidence.KindChipRead, func(m *evidence.ChipRead) { m.Card = "card-2" })
	c.Request.Replace = true
	must(a.ask(c))
	a.Eventually(sd.Status, verifier.Invalid)
	if h := a.holder("life-1"); len(h.Locks) > 0 {
		t.Errorf("the new phone is locked: %+v", h.Locks)
	}

	// The app is deleted: the slot is empty, and the same person gets a card again.
	last := must(issue("office_qr", "life-2", p, false))
	if err := change("portal", revoke, "life-2", "app_deleted"); err != nil {
		t.Fatal(err)
	}
	for _, c := range last.Credentials {
		a.Eventually(c.Status, verifier.Invalid)
	}
	last = must(issue("ic_chip", "life-2", p, false))

	// The end, which takes all copies at once.
	if err := change("ministry", revoke, "life-2", "deceased"); err != nil {
		t.Fatal(err)
	}
	for _, c := range last.Credentials {
		a.Eventually(c.Status, verifier.Invalid)
	}
	_, err = issue("ic_chip", "life-2", newPhone(t, 1), false)
	a.refused("the dead", err, "subject.closed")
	_, err = a.As("ministry").Schedule(ctx, contract.ScheduleRequest{DocumentType: kr, Subject: "life-2", Schedule: "x", Operation: "lock", Reason: "fraud", From: time.Now()})
	a.refused("an order for the dead", err, "subject.closed")
	a.Stop()
	a.Check()
}

// S6: a lock from a date and to a date, carried out while nobody asks and across a restart; refused when it can't be, replaced, taken back.
func TestSchedules(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	ctx := context.Background()
	out := a.Issue(newPhone(t, 1), "order-1", false)
	_, sd := byFormat(out)
	now := time.Now().Truncate(time.Second)
	order := func(who string, bend func(*contract.ScheduleRequest)) error {
		r := contract.ScheduleRequest{DocumentType: kr, Subject: "order-1", Schedule: "case-1", Operation: "lock", Reason: "admin_hold", From: now.Add(10 * time.Second), To: now.Add(70 * time.Second)}
		if bend != nil {
			bend(&r)
		}
		_, err := a.As(who).Schedule(ctx, r)
		return err
	}
	a.refused("a lost phone, later", order("loss-desk", func(r *contract.ScheduleRequest) { r.Reason = "self_lost" }), "schedule.reason")
	a.refused("another's reason", order("loss-desk", nil), "reason.forbidden")
	a.refused("backwards", order("ministry", func(r *contract.ScheduleRequest) { r.To = r.From }), "schedule.time")
	a.refused("in the last century", order("ministry", func(r *contract.ScheduleRequest) { r.From = time.Unix(1, 0) }), "schedule.time")
	a.refused("what is not there", order("ministry", func(r *contract.ScheduleRequest) { r.Replaces = "case-0" }), "schedule.unknown")
	a.refused("revoked later, for no reason that closes", order("ministry", func(r *contract.ScheduleRequest) { r.Operation, r.Reason, r.To = "revoke", "fraud", time.Time{} }), "schedule.reason")
	a.refused("a carrier orders", order("telecom-a", nil), "route.forbidden")
	now = time.Now().Truncate(time.Second) // the refusals take as long as they take
	for range 2 {
		if err := order("ministry", nil); err != nil {
			t.Fatal(err)
		}
	}
	a.refused("the same id", order("ministry", func(r *contract.ScheduleRequest) { r.To = r.To.Add(time.Hour) }), "schedule.known")
	if err := order("ministry", func(r *contract.ScheduleRequest) {
		r.Schedule, r.From, r.To = "far", now.Add(time.Hour), now.Add(2*time.Hour)
	}); err != nil {
		t.Fatal(err)
	}
	if h := a.holder("order-1"); len(h.Schedules) != 2 || len(h.Locks) != 0 {
		t.Errorf("ordered: %+v", h)
	}
	a.Stop()
	time.Sleep(time.Until(now.Add(10500 * time.Millisecond))) // it begins while the appliance is down
	a.start()
	a.Eventually(sd.Status, verifier.Suspended)
	time.Sleep(time.Until(now.Add(70 * time.Second)))
	a.Eventually(sd.Status, verifier.Valid)
	if _, err := a.As("ministry").CancelSchedule(ctx, contract.ScheduleCancel{DocumentType: kr, Subject: "order-1", Schedule: "far"}); err != nil {
		t.Fatal(err)
	}
	if h := a.holder("order-1"); len(h.Schedules) != 0 || len(h.Locks) != 0 {
		t.Errorf("at the end: %+v", h)
	}
	a.Stop()
	a.Check()
}

// Fact 22: the clerk checks the person and shows a code; of two phones that scan it at once exactly one gets the card, and nobody after it.
func TestCodeAtTheOffice(t *testing.T) {
	t.Parallel()
	a, by := installProgramme(t, nil)
	ctx := context.Background()
	office := a.As("ward-office-1")
	code, err := office.Code(ctx, contract.CodeRequest{DocumentType: kr, Subject: "code-1", Authorities: by.IDs()})
	if err != nil {
		t.Fatal(err)
	}
	if life := time.Until(code.ExpiresAt); life > 90*time.Second || life < 60*time.Second {
		t.Errorf("the code lives for %s", life)
	}
	scan := func(code, subject string) (*harness.Case, error) {
		p := newPhone(t, 1)
		s, err := office.Session(ctx, contract.SessionRequest{DocumentType: kr, Code: code, Subject: subject, KeyThumbprint: p.Thumbprint(0), Authorities: by.IDs()})
		return programme.New("ward-office-1", "office_qr", s, p, harness.Provider, harness.Claims()), err
	}
	say := func(c *harness.Case, code string) {
		c.Request.Evidence = nil
		for _, kind := range harness.Asked("office_qr") {
			c.Request.Evidence = append(c.Request.Evidence, by.Say(c, by.Good(c, kind, programme.Jongno), func(m *statement.Common) {
				if kind == evidence.KindInPerson {
					m.Session = code
				}
			}))
		}
	}
	_, err = scan(code.Code, "code-1")
	a.refused("a code and a subject", err, "subject.ambiguous")
	_, err = scan(code.Code[:40], "")
	a.refused("half a code", err, "evidence.code_malformed")
	_, err = a.As("ward-office-2").Session(ctx, contract.SessionRequest{DocumentType: kr, Code: code.Code, KeyThumbprint: newPhone(t, 1).Thumbprint(0)})
	a.refused("at another office", err, "evidence.code_foreign")

	// The code of one person with the officer's word about another's.
	others, err := office.Code(ctx, contract.CodeRequest{DocumentType: kr, Subject: "code-2", Authorities: by.IDs()})
	if err != nil {
		t.Fatal(err)
	}
	c, err := scan(code.Code, "")
	if err != nil {
		t.Fatal(err)
	}
	say(c, others.ID)
	_, err = a.ask(c)
	a.refused("the officer's word about another's code", err, "evidence.in_person_session")

	var results [2]error
	var both sync.WaitGroup
	for i := range results {
		c, err := scan(code.Code, "")
		if err != nil {
			t.Fatal(err)
		}
		say(c, code.ID)
		c.Request.Replace = i == 1 // whoever comes second does not fail for being second
		both.Go(func() { _, results[i] = a.ask(c) })
	}
	both.Wait()
	won, lost := 0, 0
	for _, err := range results {
		switch client.Code(err) {
		case "":
			won++
		case "code.replayed", "slot.occupied":
			lost++
		default:
			t.Errorf("a phone: %v", err)
		}
	}
	if won != 1 || lost != 1 {
		t.Errorf("%d phones won, %d lost: %v", won, lost, results)
	}
	c, err = scan(code.Code, "") // still within its 90 seconds
	if err != nil {
		t.Fatal(err)
	}
	say(c, code.ID)
	c.Request.Replace = true
	_, err = a.ask(c)
	a.refused("a third phone", err, "code.replayed")
	if h := a.holder("code-1"); !h.Bound || len(h.Credentials) != 2 {
		t.Errorf("one phone has the card: %+v", h)
	}
	a.Stop()
	a.Check()
}
