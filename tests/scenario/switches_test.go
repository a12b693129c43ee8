package scenario

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/tests/programme"
	"sealkeeper/verifier"
)

// decide has kim propose, park approve, and the appliance carry it out.
func (g *governed) decide(want int, action string, parameters ...string) contract.Proposal {
	g.t.Helper()
	p := g.officer(0, "kim", append([]string{"propose", action}, parameters...)...)
	has(g.t, g.execute(1, p.ID).Why, "officer.short")
	g.officer(0, "park", "approve", p.ID)
	return g.execute(want, p.ID)
}

// What officers set beside the policy bundle: an authority off and on, a budget higher for a while, a lock away, a clock accepted. Each at once, through a restart,
// and by nobody else.
func TestOfficersSet(t *testing.T) {
	t.Parallel()
	a, by := harness.InstallProgramme(t, "kr-resident.json", func(b map[string]any) {
		b["clients"] = append(b["clients"].([]any), map[string]any{"id": "officers", "role": "officer", "may": map[string]any{}})
		b["budgets"] = []any{map[string]any{"id": "portal-day", "type": harness.KR, "per": "client", "day": 2}}
	})
	g := &governed{&appliance{a, t}, t, t.TempDir(), map[string][]string{}, map[string]string{}}
	g.assemble()
	g.start()
	programme.Left(24*time.Hour, 5*time.Minute) // a day's budget is used up below
	issued := func(subject string) (out contract.IssueAnswer, err error) {
		return g.ask(g.Case(by, "portal", "ic_chip", newPhone(t, 1), subject))
	}
	want := func(subject, code string) contract.IssueAnswer {
		t.Helper()
		out, err := issued(subject)
		if client.Code(err) != code {
			t.Fatalf("%s: %v, want %q", subject, err, code)
		}
		return out
	}
	card := want("set-1", "")
	again := func() { g.Stop(); g.Launch(); g.UntilUp() }

	g.decide(0, "authority.switch", "authority=face-matcher", "off:=true", "reason=its key is in the news")
	want("set-2", "evidence.face_match_authority_off")
	again()
	want("set-2", "evidence.face_match_authority_off")
	has(t, g.decide(1, "authority.switch", "authority=face-matcher", "off:=true", "reason=again").Why, "proposal.moot")
	has(t, g.decide(1, "authority.switch", "authority=nobody", "off:=true", "reason=a slip").Why, "proposal.moot")
	g.decide(0, "authority.switch", "authority=face-matcher", "off:=false", "reason=it has another key")
	// A hold of what a key signed is found when a card is reserved: what is refused there is journalled, too, with the rule that refused it.
	hold := g.decide(0, "hold.mass", "key=ds-1", "cards:=1", "per_second:=100", "reason=it may be in other hands")
	_, err := issued("set-2")
	var held *client.Problem
	if !errors.As(err, &held) || held.Code != "card.held" || held.Decision == nil || held.Decision.ID == "" {
		t.Fatalf("%v: %+v", err, held)
	}
	var page contract.DecisionPage
	for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(50 * time.Millisecond) { // denials are journalled together
		if page, err = g.As("auditor").Decisions(t.Context(), contract.DecisionQuery{Decision: held.Decision.ID}); err == nil {
			break
		}
	}
	if err != nil || len(page.Decisions) != 1 || page.Decisions[0].Decision.Code != "card.held" || fmt.Sprint(page.Decisions[0].Decision.Rules) != "[I:locks]" {
		t.Errorf("%+v %v", page, err)
	}
	g.decide(0, "hold.lift", "hold="+hold.ID, "per_second:=100", "reason=it is not")
	want("set-2", "")

	// The wallet provider stands in the configuration, and so has no id but its key's.
	block, _ := pem.Decode(harness.Provider.AnchorPEM())
	anchor, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(anchor.RawSubjectPublicKeyInfo)
	wallet := "authority=wallet:" + hex.EncodeToString(sum[:20])
	has(t, g.decide(1, "authority.switch", "authority=wallet:nobody", "off:=true", "reason=a slip").Why, "proposal.moot", wallet[len("authority=wallet:"):])
	g.decide(0, "authority.switch", wallet, "off:=true", "reason=its root key was found outside")
	want("set-3", "evidence.attestation_untrusted")
	again()
	want("set-3", "evidence.attestation_untrusted")
	has(t, g.decide(1, "authority.switch", wallet, "off:=true", "reason=again").Why, "proposal.moot")
	g.decide(0, "authority.switch", wallet, "off:=false", "reason=it was another one's")

	want("set-3", "budget.exhausted")
	until := time.Now().UTC().Add(2 * time.Hour).Truncate(time.Second).Format(time.RFC3339)
	has(t, g.decide(1, "budget.raise", "budget=portal-day", "window=day", "limit:=2", "until="+until, "reason=a queue").Why, "proposal.moot")
	has(t, g.decide(1, "budget.raise", "budget=portal-day", "window=hour", "limit:=9", "until="+until, "reason=a queue").Why, "proposal.moot")
	g.decide(0, "budget.raise", "budget=portal-day", "window=day", "limit:=3", "until="+until, "reason=a queue")
	again()
	want("set-3", "")
	want("set-4", "budget.exhausted")

	_, s := byFormat(card)
	g.Change("ministry", lock, "set-1", "admin_hold", "")
	g.Eventually(s.Status, verifier.Suspended)
	if _, err := g.As("ministry").Unlock(t.Context(), contract.ChangeRequest{DocumentType: harness.KR, Subject: "set-1", Reason: "admin_hold"}); client.Code(err) != "officer.required" {
		t.Errorf("one person unlocked: %v", err)
	}
	var holder contract.OfficersHolder
	if err := json.Unmarshal([]byte(g.sealctl(0, "officer", "holder", harness.KR, "set-1")), &holder); err != nil || len(holder.Pseudonym) != 64 || fmt.Sprint(holder.Locks) != "[{admin_hold ministry}]" {
		t.Fatalf("%+v %v", holder, err)
	}
	unlock := []string{"document_type=" + harness.KR, "subject=" + holder.Pseudonym, "lock_reason=admin_hold", "reason=case 12 is closed"}
	g.decide(0, "unlock.admin", unlock...)
	g.Eventually(s.Status, verifier.Valid)
	has(t, g.decide(1, "unlock.admin", unlock...).Why, "proposal.moot")

	has(t, g.decide(1, "clock.accept", "shown="+time.Now().UTC().Truncate(time.Second).Format(time.RFC3339), "reason=too early").Why, "proposal.moot")
	g.Stop()
	// Lists live shortly only now: a restart above that took longer than they live would have distrusted the clock.
	g.Write("sealkeeper.yaml", strings.Replace(harness.Configuration(g.Ports[:]...), "{entries: 131072}", "{entries: 131072, life: 10s, ttl: 2s}", 1))
	time.Sleep(11 * time.Second) // longer than lists live: the wall is ahead of everything that was signed
	has(t, g.Command(2, "accept", "clock"), "officer.required")
	// Commands on the machine make certificates all the same: without a listener's nobody could accept the clock.
	if err := os.Remove(filepath.Join(g.Dir, "data", "tls", "server.pem")); err != nil {
		t.Fatal(err)
	}
	has(t, g.Command(0, "init"), "TLS certificate")
	g.Command(0, "enrol", "--out", filepath.Join(g.Dir, "clients"), "portal")
	g.Launch()
	g.UntilUp()
	shown := func(off time.Duration) string {
		return "shown=" + time.Now().Add(off).UTC().Truncate(time.Second).Format(time.RFC3339)
	}
	if _, err := g.As("portal").Nonce(t.Context(), contract.NonceRequest{DocumentType: harness.KR}); client.Code(err) != "clock.untrusted" {
		t.Fatalf("with a clock that nobody accepted: %v", err)
	}
	has(t, g.decide(1, "clock.accept", shown(-time.Hour), "reason=what the wall clock of the office shows").Why, "proposal.moot")
	g.decide(0, "clock.accept", shown(0), "reason=compared with two sources")
	want("set-4", "budget.exhausted") // issuing goes on, as far as it may
	again()
	want("set-4", "budget.exhausted")
	g.Stop()
	g.Check()
}
