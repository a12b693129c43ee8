package scenario

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
	"sealkeeper/verifier"
)

// T8, as far as it is kept: officers hold all cards of a type with one record. From its commit on none is issued or refreshed and every holder's state says so; the
// lists follow while the daemon is killed in the middle; MSOs stay; a card that is locked meanwhile stays locked when the hold is lifted, and the others are
// as they were.
func TestMassHold(t *testing.T) {
	t.Parallel()
	g := installGoverned(t)
	g.start()
	const cards = 4
	names := []string{"hold-0", "hold-1", "hold-2", "hold-3"}
	phones, made := make([]*phone.Phone, cards), make([]contract.IssueAnswer, cards)
	for i := range phones {
		phones[i] = harness.NewPhone(t, 1)
		made[i] = g.Issue(phones[i], names[i], false)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	refresh := func(i int) string {
		t.Helper()
		_, err := g.As("ward-office-1").Refresh(ctx, client.NewKey(), g.Request(phones[i], names[i]))
		return client.Code(err)
	}
	holder := func(i int) contract.Holder {
		t.Helper()
		h, err := g.As("auditor").Holder(ctx, contract.StateRequest{DocumentType: harness.KR, Subject: names[i]})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	until := func(what string, is func(contract.Campaign) bool) {
		t.Helper()
		for {
			all, err := g.As("officers").Campaigns(ctx)
			if err != nil || len(all.Campaigns) != 1 {
				t.Fatalf("%+v %v", all, err)
			}
			if is(all.Campaigns[0]) {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	all := func(mdoc, sdjwt byte) {
		t.Helper()
		for i := range cards {
			m, s := harness.ByFormat(made[i])
			g.Eventually(s.Status, sdjwt)
			if got := g.Status(m.Status); i > 0 && got != mdoc {
				t.Errorf("the MSO of card %d is %d", i, got)
			}
		}
	}

	p := g.decide(0, "hold.mass", "document_type="+harness.KR, "cards:=4", "per_second:=1", "reason=a broken wallet")
	for i := range cards { // from the one record, whatever has come to the card
		if code := refresh(i); code != "card.held" {
			t.Errorf("a refresh of card %d: %q", i, code)
		}
		if h := holder(i); len(h.Locks) != 1 || h.Locks[0] != (contract.Lock{Reason: "mass_hold", Class: "officers"}) {
			t.Errorf("%+v", h)
		}
	}
	_, err := g.As("ward-office-1").Issue(ctx, client.NewKey(), g.Request(harness.NewPhone(t, 1), "hold-new"))
	g.refused("a card that would be held", err, "card.held")
	until("it marks", func(c contract.Campaign) bool { return c.Held > 0 })
	g.Kill()
	g.Launch()
	g.UntilUp()
	if code := refresh(cards - 1); code != "card.held" {
		t.Errorf("a refresh after the crash: %q", code)
	}
	g.Change("loss-desk", lock, names[0], "self_lost", "") // its MSO is revoked by that, and by nothing else
	all(verifier.Valid, verifier.Suspended)
	until("all are found", func(c contract.Campaign) bool {
		return c.Held == cards && c.Total == cards && !c.Found.IsZero() && c.Done.IsZero()
	})
	all(verifier.Valid, verifier.Suspended)

	g.decide(0, "hold.lift", "hold="+p.ID, "per_second:=1", "reason=repaired")
	until("it releases", func(c contract.Campaign) bool { return c.Released > 0 })
	g.Kill()
	g.Launch()
	g.UntilUp()
	g.sealctl(0, "campaigns", "pace", p.ID[:12], "500")
	until("it is over", func(c contract.Campaign) bool { return !c.Done.IsZero() && c.Released == cards && c.Total == cards })
	for i := range cards {
		m, s := harness.ByFormat(made[i])
		want := byte(verifier.Valid)
		if i == 0 {
			want = verifier.Suspended
			if got := g.Status(m.Status); got != verifier.Invalid {
				t.Errorf("the MSO of the lost phone is %d", got)
			}
			if h := holder(i); len(h.Locks) != 1 || h.Locks[0].Reason != "self_lost" {
				t.Errorf("%+v", h)
			}
		} else if code := refresh(i); code == "card.held" || code == "card.locked" {
			t.Errorf("a refresh of card %d after the hold: %q", i, code)
		}
		g.Eventually(s.Status, want)
	}
	g.Issue(harness.NewPhone(t, 1), "hold-new", false)
	var shown contract.Campaigns
	if err := json.Unmarshal([]byte(g.sealctl(0, "campaigns")), &shown); err != nil || shown.Campaigns[0].Lifted.IsZero() {
		t.Errorf("%+v %v", shown, err)
	}
	g.Stop()
	g.Check()
}
