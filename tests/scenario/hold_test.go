package scenario

import (
	"context"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
	"sealkeeper/verifier"
)

// T8: officers hold all cards of a type with one record. From its commit on none is issued or refreshed, every holder's state says so, and each list is signed once
// with all of them suspended; the daemon may be killed; MSOs stay; a card that is locked meanwhile stays locked when the hold is lifted, also with one record and
// one signature a list, and the others are as they were.
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
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
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
	only := func() contract.Campaign {
		t.Helper()
		all, err := g.As("officers").Campaigns(ctx)
		if err != nil || len(all.Campaigns) != 1 {
			t.Fatalf("%+v %v", all, err)
		}
		return all.Campaigns[0]
	}
	versions := func() (v map[string]uint64) { // once nothing waits to be shown any more
		for last := map[string]uint64(nil); v == nil || !maps.Equal(v, last); time.Sleep(200 * time.Millisecond) {
			last, v = v, map[string]uint64{}
			for _, l := range g.Operations().Lists {
				shown, err := verifier.DecodeStatusList(g.Get(strings.TrimPrefix(l.URI, publicURL)), verifier.MaxEntries)
				if err != nil {
					t.Fatal(err)
				}
				if l.Dirty || shown.Version != l.Version { // who reads it over the network has it before the directory has
					v = nil
					break
				}
				v[l.ID] = l.Version
			}
		}
		return v
	}
	once := func(before map[string]uint64) {
		t.Helper()
		grew := 0
		for id, v := range versions() {
			grew += int(v - before[id])
		}
		if grew != 1 { // of the list of SD-JWT VCs; that of MSOs has nothing to say
			t.Errorf("lists were signed %d times", grew)
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

	before := versions()
	p := g.decide(0, "hold.mass", "document_type="+harness.KR, "cards:=4", "reason=a broken wallet")
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
	all(verifier.Valid, verifier.Suspended)
	once(before)
	if c := only(); !c.AtOnce || !c.Whole || c.Lists != 2 || c.Found.IsZero() || !c.Done.IsZero() {
		t.Errorf("%+v", c)
	}
	g.Kill()
	g.Launch()
	g.UntilUp()
	if code := refresh(cards - 1); code != "card.held" {
		t.Errorf("a refresh after the crash: %q", code)
	}
	g.Change("loss-desk", lock, names[0], "self_lost", "") // its MSO is revoked by that, and by nothing else
	all(verifier.Valid, verifier.Suspended)

	before = versions()
	g.decide(0, "hold.lift", "hold="+p.ID, "reason=repaired")
	_, other := harness.ByFormat(made[1])
	g.Eventually(other.Status, verifier.Valid)
	once(before)
	g.Kill()
	g.Launch()
	g.UntilUp()
	if c := only(); c.Done.IsZero() || c.Lifted.IsZero() {
		t.Errorf("%+v", c)
	}
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
