package scenario

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/verifier"
)

func installProgramme(t *testing.T, bend func(map[string]any)) (*appliance, *harness.Authorities) {
	a, by := harness.InstallProgramme(t, "kr-resident.json", bend)
	return (&appliance{a, t}).start(), by
}

// attempts at signatures of cards, by the journal.
func (a *appliance) attempts() (n int) {
	a.t.Helper()
	for _, m := range regexp.MustCompile(`sealkeeper_signature_attempts_total\{[^}]*purpose="(?:mdoc|sd-jwt)"[^}]*\} (\d+)`).FindAllStringSubmatch(a.Metrics(), -1) {
		k, err := strconv.Atoi(m[1])
		if err != nil {
			a.t.Fatal(err)
		}
		n += k
	}
	return n
}

func (a *appliance) ask(c *harness.Case) (contract.IssueAnswer, error) {
	return a.As(c.Client).Issue(context.Background(), client.NewKey(), c.Request)
}

// Facts 17 to 22: a card by the officer's QR code, and one by the chip through the portal without a visit, by the shipped programme.
func TestMethods(t *testing.T) {
	t.Parallel()
	a, by := installProgramme(t, nil)
	p := newPhone(t, 1)
	out, err := a.ask(a.Case(by, "ward-office-1", "office_qr", p, "methods-1"))
	if err != nil {
		t.Fatalf("by QR code: %v", err)
	}
	for _, c := range out.Credentials {
		a.Eventually(c.Status, verifier.Valid)
	}
	chip := newPhone(t, 1)
	if out, err = a.ask(a.Case(by, "portal", "ic_chip", chip, "methods-2")); err != nil {
		t.Fatalf("by the chip: %v", err)
	}
	m, s := byFormat(out)
	a.Eventually(m.Status, verifier.Valid)

	// A technical refresh, after a lock took the mdoc.
	a.Change("telecom-a", lock, "methods-2", "telecom_lost", "")
	a.Change("telecom-a", unlock, "methods-2", "telecom_lost", "")
	again := a.Case(by, "portal", "technical_refresh", chip, "methods-2")
	if _, err := a.As("portal").Refresh(context.Background(), client.NewKey(), again.Request); err != nil {
		t.Fatalf("refresh: %v", err)
	}
	a.Eventually(s.Status, verifier.Valid)

	// The chip brings the card to a new phone without an office, and the old one is revoked (b6).
	third := a.Case(by, "portal", "ic_chip", newPhone(t, 1), "methods-2")
	third.Request.Replace = true
	if _, err := a.ask(third); err != nil {
		t.Fatalf("new phone: %v", err)
	}
	a.Eventually(s.Status, verifier.Invalid)

	before := a.attempts()
	if before == 0 {
		t.Fatal("no signature was counted")
	}
	for name, alter := range map[string]func(c *harness.Case) string{
		"no method":              func(c *harness.Case) string { c.Request.Method = ""; return "method.unknown" },
		"portal, nobody saw him": func(c *harness.Case) string { c.Request.Method = "office_qr"; return "evidence.in_person_missing" },
		"no session": func(c *harness.Case) string {
			c.Request.Session, c.Request.Subject = "", "methods-3"
			return "evidence.session_missing"
		},
		"session and subject":       func(c *harness.Case) string { c.Request.Subject = "methods-3"; return "subject.ambiguous" },
		"a name the register lacks": func(c *harness.Case) string { c.Request.Claims["family_name"] = "Kim"; return "registry.uncovered" },
		"copied chip": func(c *harness.Case) string {
			return bend(by, c, evidence.KindChipRead, func(s *evidence.ChipRead) { s.Chip = "none" }) + "insufficient"
		},
		"without PIN": func(c *harness.Case) string {
			return bend(by, c, evidence.KindChipRead, func(s *evidence.ChipRead) { s.PINVerified = false }) + "insufficient"
		},
		"chip answered another": func(c *harness.Case) string {
			return bend(by, c, evidence.KindChipRead, func(s *evidence.ChipRead) { s.Challenge = statement.Challenge("x") }) + "challenge"
		},
		"weak liveness": func(c *harness.Case) string {
			return bend(by, c, evidence.KindFaceMatch, func(s *evidence.FaceMatch) { s.Liveness = 1 }) + "insufficient"
		},
		"line of another": func(c *harness.Case) string {
			return bend(by, c, evidence.KindLineOwnership, func(s *evidence.LineOwnership) { s.Subscriber = "other" }) + "insufficient"
		},
		"line of a company": func(c *harness.Case) string {
			return bend(by, c, evidence.KindLineOwnership, func(s *evidence.LineOwnership) { s.LineKind = "corporate" }) + "insufficient"
		},
		"plastic card lost": func(c *harness.Case) string {
			return bend(by, c, evidence.KindRegistryMatch, func(s *evidence.RegistryMatch) { s.CardStatus = "lost" }) + "insufficient"
		},
	} {
		c := a.Case(by, "portal", "ic_chip", newPhone(t, 1), "methods-3")
		if name == "portal, nobody saw him" {
			c.Request.Evidence = slices.DeleteFunc(c.Request.Evidence, func(e contract.EvidenceItem) bool { return e.Kind == evidence.KindChipRead })
		}
		want := alter(c)
		if _, err := a.ask(c); client.Code(err) != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if after := a.attempts(); after != before {
		t.Errorf("refusals cost %d attempts at signatures", after-before)
	}
	a.Stop()
	a.Check()
}

// bend replaces a case's statement of a kind by one that says something else, signed as well, and returns the beginning of its refusals' codes.
func bend[T any](by *harness.Authorities, c *harness.Case, kind string, alter func(*T)) string {
	body := by.Good(c, kind, "1111051500").(T)
	alter(&body)
	i := slices.IndexFunc(c.Request.Evidence, func(e contract.EvidenceItem) bool { return e.Kind == kind })
	c.Request.Evidence[i] = by.Say(c, body, nil)
	return "evidence." + kind + "_"
}

// Fact 17, T6: no statement fits another request. Each refusal has its kind's code, reaches no HSM and burns nothing: afterwards the two
// good requests that were plundered still bring their cards.
func TestMixAndMatch(t *testing.T) {
	t.Parallel()
	a, by := installProgramme(t, nil)
	first := a.Case(by, "portal", "ic_chip", newPhone(t, 1), "mix-first")
	if _, err := a.ask(first); err != nil {
		t.Fatal(err)
	}
	a.settled() // whatever the start signs is signed
	before := a.attempts()
	var good []*harness.Case
	for _, method := range []string{"office_qr", "ic_chip"} {
		pair := []*harness.Case{
			a.Case(by, "ward-office-1", method, newPhone(t, 1), "mix-"+method+"-1"),
			a.Case(by, "ward-office-1", method, newPhone(t, 1), "mix-"+method+"-2"),
		}
		good = append(good, pair...)
		refused := func(name string, c harness.Case, want string) {
			t.Helper()
			if _, err := a.ask(&c); client.Code(err) != want {
				t.Errorf("%s: %v, want %s", name, err, want)
			}
		}
		for who, mine := range pair {
			other := pair[1-who]
			for i, e := range mine.Request.Evidence {
				swapped := func(e contract.EvidenceItem) harness.Case {
					c := *mine
					c.Request.Evidence = slices.Clone(c.Request.Evidence)
					c.Request.Evidence[i] = e
					return c
				}
				name := fmt.Sprintf("%s of %d, %s", method, who+1, e.Kind)
				refused(name+" of the other", swapped(other.Request.Evidence[i]), "evidence."+e.Kind+"_session")
				body := by.Good(mine, e.Kind, "1111051500")
				refused(name+" about the other", swapped(by.Say(mine, body, func(c *statement.Common) { c.Subject = by.Pseudonym(other, e.Kind) })), "evidence."+e.Kind+"_subject")
				refused(name+" for the other's session", swapped(by.Say(mine, body, func(c *statement.Common) { c.Session = other.Session.ID })), "evidence."+e.Kind+"_session")
				refused(name+" expired", swapped(by.Say(mine, body, func(c *statement.Common) {
					c.IssuedAt, c.Expires = time.Now().Add(-time.Hour), time.Now().Add(-30*time.Minute)
				})), "evidence."+e.Kind+"_expired")
				refused(name+" too old", swapped(by.Say(mine, body, func(c *statement.Common) { c.IssuedAt = time.Now().Add(-time.Hour) })), "evidence."+e.Kind+"_stale")
				refused(name+" of nobody", swapped(by.Say(mine, body, func(c *statement.Common) { c.Issuer = "nobody" })), "evidence."+e.Kind+"_authority")
				dropped := *mine
				dropped.Request.Evidence = slices.Delete(slices.Clone(mine.Request.Evidence), i, i+1)
				refused(name+" dropped", dropped, "evidence."+e.Kind+"_missing")
			}
			c := *mine
			c.Request.Session = other.Session.Session
			refused("the other's session", c, "evidence.session_nonce")
			c = *mine
			c.Request.Proof, c.Request.KeyAttestation = other.Request.Proof, other.Request.KeyAttestation
			refused("the other's phone", c, "evidence.session_nonce")
		}
	}
	if after := a.attempts(); after != before {
		t.Errorf("refusals cost %d attempts at signatures", after-before)
	}
	for _, c := range good {
		for i, e := range c.Request.Evidence {
			if e.Kind == evidence.KindInPerson { // an officer's word is good for 90 seconds, which all these refusals may take
				c.Request.Evidence[i] = by.Say(c, by.Good(c, e.Kind, "1111051500"), nil)
			}
		}
		if _, err := a.ask(c); err != nil {
			t.Errorf("the good request: %v", err)
		}
		if _, err := a.ask(c); err == nil { // another idempotency key: its evidence is used up
			t.Error("the same evidence brought a second card")
		}
	}
	a.Stop()
	a.Check()
}

// Facts 1 and 2 from outside: before its phase a card is refused as forbidden, nothing is signed, and the place of the office counts.
func TestPhasesFromOutside(t *testing.T) {
	t.Parallel()
	a, by := installProgramme(t, func(b map[string]any) {
		for _, p := range b["phases"].([]any) {
			if p := p.(map[string]any); p["id"] != "phase-3" { // offices of Seoul, Busan and Gwangju alone, for who lives there
				p["from"] = "2099-01-01T00:00:00+09:00"
			}
		}
	})
	if _, err := a.ask(a.Case(by, "ward-office-1", "office_qr", newPhone(t, 1), "phase-4")); err != nil {
		t.Errorf("at home: %v", err)
	}
	a.settled()
	before := a.attempts()
	ask := func(name string, c *harness.Case, district, want string) {
		t.Helper()
		if district != "" {
			i := slices.IndexFunc(c.Request.Evidence, func(e contract.EvidenceItem) bool { return e.Kind == evidence.KindRegistryMatch })
			c.Request.Evidence[i] = by.Say(c, by.Good(c, evidence.KindRegistryMatch, district), nil)
		}
		status, answer, err := a.Post(c.Client, "/v1/credentials", client.NewKey(), c.Request)
		if err != nil || status != http.StatusForbidden || code(answer) != want {
			t.Errorf("%s: %d %s %v, want %s", name, status, answer, err, want)
		}
	}
	ask("portal", a.Case(by, "portal", "ic_chip", newPhone(t, 1), "phase-1"), "", "phase.not_open")
	ask("next ward", a.Case(by, "ward-office-1", "office_qr", newPhone(t, 1), "phase-2"), "1111053000", "phase.residence_only")
	ask("another city", a.Case(by, "ward-office-1", "office_qr", newPhone(t, 1), "phase-3"), "2811051000", "phase.not_open")
	if after := a.attempts(); after != before {
		t.Errorf("refusals cost %d attempts at signatures", after-before)
	}
	a.Stop()
	a.Check()
}
