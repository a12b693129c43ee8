package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
)

// T9: a drill from the mark to the last card: the CRL has the certificate, the key that stood by signs, phones fetch a new card once theirs is marked; then a second
// campaign whose daemon is killed in the middle. The sums agree.
func TestDrillCompromise(t *testing.T) {
	t.Parallel()
	g := installGoverned(t)
	g.start()
	g.plan("ds-2", "mdoc", "", time.Now(), time.Time{})
	g.until("ds-2", "announced", 20*time.Second)
	const cards = 12
	phones := make([]*phone.Phone, cards)
	subject := func(i int) string { return fmt.Sprint("drill-", i) }
	for i := range phones {
		phones[i] = harness.NewPhone(t, 1)
		g.Issue(phones[i], subject(i), false)
	}
	g.Change("telecom-a", lock, subject(0), "telecom_lost", "") // its MSO is revoked: the key signed nothing of it that lives
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()

	var out, progress strings.Builder
	drill := exec.CommandContext(ctx, harness.Sealctl, append([]string{"drill", "compromise", "ds-1", "--per-second", "3", "--yes", "--json", "--crl", fmt.Sprintf("http://127.0.0.1:%d/crl/iaca.crl", g.Ports[1]),
		"--url", fmt.Sprintf("https://127.0.0.1:%d", g.Ports[0]), "--identity", filepath.Join(g.Dir, "clients", "officers")}, g.key["park"]...)...)
	drill.Stdout, drill.Stderr = &out, &progress
	if err := drill.Start(); err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"key.compromise", "reissue.mass"} { // kim finds what waits, and approves
		var waiting contract.Proposal
		for waiting.ID == "" {
			all, err := g.As("officers").Proposals(ctx)
			if err != nil {
				t.Fatalf("%v: %s%s", err, out.String(), progress.String())
			}
			for _, p := range all.Proposals {
				if p.State == "open" && p.Action == action {
					waiting = p
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		if action == "reissue.mass" && !strings.Contains(strings.Join(waiting.Text, "\n"), fmt.Sprint(cards-1)) {
			t.Errorf("%+v", waiting)
		}
		g.officer(0, "kim", "approve", waiting.ID)
	}

	var work sync.WaitGroup
	for i := range phones[1:] {
		work.Go(func() { // a phone that asks now and then, and refreshes when it is told to
			for ctx.Err() == nil {
				time.Sleep(300 * time.Millisecond)
				h, err := g.As("auditor").Holder(ctx, contract.StateRequest{DocumentType: harness.KR, Subject: subject(i + 1)})
				if err != nil || len(h.Renew) == 0 {
					continue
				}
				r, err := g.TryRequest(phones[i+1], subject(i+1))
				if err != nil {
					continue
				}
				if _, err := g.As("ward-office-1").Refresh(ctx, client.NewKey(), r); err == nil {
					return
				}
			}
		})
	}
	work.Wait()
	if err := drill.Wait(); err != nil {
		t.Fatalf("%v: %s%s", err, out.String(), progress.String())
	}
	if is := g.state("ds-1") + " " + g.state("ds-2"); is != "compromised active" {
		t.Errorf("the keys are %s", is)
	}
	var r struct {
		CRL   string `json:"crl_after"`
		Done  string `json:"done_after"`
		First string `json:"first_card_after"`
		Cards contract.Campaign
	}
	if err := json.Unmarshal([]byte(out.String()), &r); err != nil || r.CRL == "" || r.Cards.Total != cards-1 || r.Cards.Reissued != cards-1 || r.First == "" {
		t.Errorf("%v: %s", err, out.String())
	}
	t.Log(out.String())
	has(t, progress.String(), "11 cards have", "[########################################] 11 of 11 cards, done")

	// Killed in the middle, and rested, and finished: a second campaign over the cards that the first one made.
	p := g.officer(0, "kim", "propose", "reissue.mass", "key=ds-2", fmt.Sprintf("cards:=%d", cards-1), "per_second:=2", "reason=another drill")
	g.officer(0, "lee", "approve", p.ID)
	g.execute(0, p.ID)
	time.Sleep(1200 * time.Millisecond)
	g.Kill()
	g.Launch()
	g.UntilUp()
	find := func() contract.Campaign {
		t.Helper()
		all, err := g.As("officers").Campaigns(ctx)
		if err != nil || len(all.Campaigns) != 2 {
			t.Fatalf("%+v %v", all, err)
		}
		return all.Campaigns[0]
	}
	g.sealctl(0, "campaigns", "pace", p.ID[:12], "0")
	if c := find(); c.PerSecond != 0 || c.Total > cards-1 {
		t.Errorf("%+v", c)
	}
	g.sealctl(0, "campaigns", "pace", p.ID[:12], "500")
	for i := range phones[1:] {
		for ctx.Err() == nil {
			h, err := g.As("auditor").Holder(ctx, contract.StateRequest{DocumentType: harness.KR, Subject: subject(i + 1)})
			if err == nil && len(h.Renew) > 0 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if _, err := g.As("ward-office-1").Refresh(ctx, client.NewKey(), g.Request(phones[i+1], subject(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	for c := find(); c.Done.IsZero() || c.Reissued != cards-1 || c.Total != cards-1; c = find() {
		if ctx.Err() != nil {
			t.Fatalf("%+v", c)
		}
		time.Sleep(100 * time.Millisecond)
	}
	g.Stop()
	g.Check()
}
