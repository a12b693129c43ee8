package scenario

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
	"sealkeeper/policy"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
	"sealkeeper/tests/programme"
	"sealkeeper/verifier"
)

// country is the shipped programme in use: its bundle changes while it serves, by two of three keys.
type country struct {
	*ruled
	by      *harness.Authorities
	bundle  map[string]any
	version int
	opened  bool // everybody may have a card everywhere
}

// facts are those of docs/requirements.md that are shown from outside, by one appliance, in this order: the roll-out goes on meanwhile.
var facts = []struct {
	fact string
	hold func(*country, *testing.T)
}{
	{"1: at first a person's own office alone registers", (*country).ownOffice},
	{"2: later any office does, from the second of that phase on", (*country).anyOffice},
	{"3: and the portal, by the card's chip and never by an officer's code", (*country).portal},
	{"4: who applies has no card yet, and one application is one card", (*country).applying},
	{"5: one office is switched off and no other", (*country).offices},
	{"6: a card is for a key of the person's own phone", (*country).ownPhone},
	{"7: each signature names the one archived bundle it was made by", (*country).basis},
	{"8: the mobile card is worth what the plastic one is, and no longer", (*country).plastic},
	{"9: a shop learns the age and no birth date", (*country).ageAlone},
	{"10: fifteen banks read, and the HSM signs nothing for it", (*country).banks},
	{"16: the line is the person's own", (*country).ownLine},
	{"18: an officer vouches for so many an hour, and not after being switched off", (*country).officer},
	{"23: a loss report is in the signed list while cards are issued", (*country).lossUnderLoad},
	{"25: a lock is on that phone, and a late found revives nothing", (*country).lateFound},
	{"27: no single hand changes the policy, and it is shown whose did", (*country).hands},
	{"28: a rehearsal decides as on the day, and leaves nothing", (*country).rehearsal},
	{"29: one phone across wallets, and a new document without a restart", (*country).wallets},
	{"S8: where Korea renews and suspends Europe revokes, by one daemon at once", (*country).jurisdictions},
	{"12: what a bank kept shows what was valid when", (*country).kept},
	{"11: a bank decides by its last list while nobody answers, and knows the list's age", (*country).offline}, // stops the appliance
}

// The facts of the requirements that are seen from outside, one after the other: docs/requirements.md says which are shown elsewhere.
func TestFacts(t *testing.T) {
	t.Parallel()
	c := &country{version: 1}
	a, by := harness.InstallProgramme(t, "kr-resident.json", func(b map[string]any) {
		c.bundle = b
		withEurope(t, b)
		c.opens("everywhere", "2099-01-01T00:00:00+09:00")
		c.opens("gov24", "2099-01-01T00:00:00+09:00")
	})
	c.by, c.ruled = by, register(t, &appliance{a, t})
	c.Write("policy.json", string(c.next(nil, "alice", "bob")))
	c.start()
	for _, f := range facts {
		t.Run(f.fact, func(t *testing.T) {
			if number, _, _ := strings.Cut(f.fact, ":"); number != "1" && number != "2" && number != "3" {
				c.open(t)
			}
			f.hold(c, t)
		})
	}
	if c.Daemon != nil {
		c.Stop()
	}
	c.Check()
}

// next is the bundle in its next version, changed and signed.
func (c *country) next(change func(map[string]any), signers ...string) []byte {
	c.version++
	b := map[string]any{}
	if err := json.Unmarshal(must(json.Marshal(c.bundle)), &b); err != nil {
		panic(err)
	}
	b["version"] = c.version
	if change != nil {
		change(b)
	}
	out := must(json.Marshal(b))
	for _, id := range signers {
		out = must(policy.Sign("b", out, id, c.keys[id], rand.Reader))
	}
	return out
}

// put puts the bundle to use with a change that the next one does not have.
func (c *country) put(t *testing.T, change func(map[string]any)) {
	t.Helper()
	if _, err := c.activate(t, string(c.next(change, "alice", "bob"))); err != nil {
		t.Fatalf("putting a bundle to use: %v", err)
	}
}

// named is the member of a list of the bundle with an id.
func named(b map[string]any, list, id string) map[string]any {
	for _, v := range b[list].([]any) {
		if v := v.(map[string]any); v["id"] == id {
			return v
		}
	}
	panic(list + " has no " + id)
}

// opens moves a phase, for good.
func (c *country) opens(phase, from string) { named(c.bundle, "phases", phase)["from"] = from }

func (c *country) open(t *testing.T) {
	t.Helper()
	if !c.opened {
		c.opens("everywhere", "2025-03-28T00:00:00+09:00")
		c.opens("gov24", "2025-03-28T00:00:00+09:00")
		c.put(t, nil)
		c.opened = true
	}
}

// from is a person's good request, who lives in Jongno.
func (c *country) from(channel, method, subject string) *harness.Case {
	c.t.Helper()
	return c.Case(c.by, channel, method, newPhone(c.t, 1), subject)
}

// living is a person's good request at the office of Jongno, who lives elsewhere.
func (c *country) living(t *testing.T, district, subject string) *harness.Case {
	t.Helper()
	p := c.from("ward-office-1", "office_qr", subject)
	i := slices.IndexFunc(p.Request.Evidence, func(e contract.EvidenceItem) bool { return e.Kind == evidence.KindRegistryMatch })
	p.Request.Evidence[i] = c.by.Say(p, c.by.Good(p, evidence.KindRegistryMatch, district), nil)
	return p
}

// signsNothing fails if do had a card signed.
func (c *country) signsNothing(t *testing.T, do func()) {
	t.Helper()
	before := c.attempts()
	do()
	if after := c.attempts(); after != before {
		t.Errorf("%d attempts at signatures", after-before)
	}
}

// wants asks for a card and expects a code; empty: the card.
func (c *country) wants(t *testing.T, what string, p *harness.Case, code string) contract.IssueAnswer {
	t.Helper()
	out, err := c.ask(p)
	switch {
	case code == "" && err != nil:
		t.Fatalf("%s: %v", what, err)
	case client.Code(err) != code:
		t.Errorf("%s: %v, want %s", what, err, code)
	}
	return out
}

const nextWard = "1111053000"

func (c *country) ownOffice(t *testing.T) {
	c.settled() // the keys' tests of the start are signatures too
	p := c.living(t, nextWard, "fact-1")
	var denied error
	c.signsNothing(t, func() { _, denied = c.ask(p) })
	var problem *client.Problem
	if !errors.As(denied, &problem) || problem.Status != http.StatusForbidden || problem.Code != "phase.residence_only" || problem.Decision == nil {
		t.Fatalf("an office asks for the next ward's: %v", denied)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // denials are journalled together
		page, err := c.As("auditor").Decisions(t.Context(), contract.DecisionQuery{Decision: problem.Decision.ID})
		if err == nil && len(page.Decisions) == 1 && page.Decisions[0].Decision.Code == "phase.residence_only" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("one record of the refusal: %+v %v", page, err)
		}
	}
	c.wants(t, "an office asks for its own", c.from("ward-office-1", "office_qr", "fact-1-home"), "")
}

func (c *country) anyOffice(t *testing.T) {
	began := time.Now()
	c.put(t, nil)
	early := c.living(t, nextWard, "fact-2")
	c.wants(t, "while the phase is far", early, "phase.residence_only")
	slow := 4 * time.Since(began) // so that the refusal comes before the phase, on whatever machine
	begins := time.Now().Add(max(10*time.Second, slow)).Truncate(time.Second)
	c.opens("everywhere", begins.In(time.FixedZone("+09:00", 9*3600)).Format(time.RFC3339))
	c.put(t, nil)
	c.wants(t, "before the phase", early, "phase.residence_only")
	time.Sleep(time.Until(begins))
	c.wants(t, "the same request in the phase", early, "")
}

func (c *country) portal(t *testing.T) {
	c.signsNothing(t, func() {
		c.wants(t, "the portal before its phase", c.from("portal", "ic_chip", "fact-3"), "phase.not_open")
	})
	c.open(t)
	c.signsNothing(t, func() {
		p := c.Open(c.by, "portal", "office_qr", newPhone(t, 1), "fact-3")
		for _, kind := range harness.Asked("office_qr") {
			if kind != evidence.KindInPerson { // the portal has no officer
				p.Request.Evidence = append(p.Request.Evidence, c.by.Say(p, c.by.Good(p, kind, programme.Jongno), nil))
			}
		}
		c.wants(t, "by an officer's code", p, "evidence.in_person_missing")
	})
	c.wants(t, "by the chip", c.from("portal", "ic_chip", "fact-3"), "")
}

func (c *country) applying(t *testing.T) {
	p := c.from("portal", "ic_chip", "fact-4")
	c.signsNothing(t, func() {
		alone := *p
		alone.Request.Session, alone.Request.Subject = "", "fact-4"
		c.wants(t, "without its session", &alone, "evidence.session_missing")
		foreign := *p
		foreign.Client = "ward-office-1"
		if _, err := c.ask(&foreign); err == nil {
			t.Error("another client used the session")
		}
	})
	key := client.NewKey()
	first, err := c.As("portal").Issue(t.Context(), key, p.Request)
	if err != nil {
		t.Fatal(err)
	}
	c.signsNothing(t, func() {
		again, err := c.As("portal").Issue(t.Context(), key, p.Request)
		if err != nil || again.Issuance != first.Issuance || again.Credentials[0].Credential != first.Credentials[0].Credential {
			t.Errorf("the same request again: %v, another answer", err)
		}
		if _, err := c.ask(p); err == nil {
			t.Error("one application brought a second card")
		}
	})
}

func (c *country) offices(t *testing.T) {
	c.put(t, func(b map[string]any) {
		for _, list := range []string{"clients", "authorities"} {
			b[list] = slices.DeleteFunc(b[list].([]any), func(v any) bool { return v.(map[string]any)["id"] == "ward-office-2" })
		}
	})
	if _, err := c.As("ward-office-2").WhoAmI(t.Context()); client.Code(err) != "client.unknown" {
		t.Errorf("the office that was switched off: %v", err)
	}
	for _, other := range []string{"ward-office-1", "portal", "telecom-a"} {
		if _, err := c.As(other).WhoAmI(t.Context()); err != nil {
			t.Errorf("%s: %v", other, err)
		}
	}
	c.put(t, nil)
	if _, err := c.As("ward-office-2").WhoAmI(t.Context()); err != nil {
		t.Errorf("switched on again: %v", err)
	}
}

func (c *country) ownPhone(t *testing.T) {
	stranger := must(phone.NewProvider(time.Now(), rand.Reader))
	c.signsNothing(t, func() {
		for what, f := range map[string]struct {
			bend func(p *harness.Case, mine *phone.Phone)
			code string
		}{
			"a key in software": {func(p *harness.Case, mine *phone.Phone) {
				p.Request.KeyAttestation = mine.Attest(harness.Provider, p.Session.Nonce, time.Now(), phone.Levels("iso_18045_basic", "iso_18045_high"))
			}, "evidence.level"},
			"attested for another nonce": {func(p *harness.Case, mine *phone.Phone) {
				p.Request.KeyAttestation = mine.Attest(harness.Provider, c.from("portal", "ic_chip", "fact-6").Session.Nonce, time.Now())
			}, "evidence.attestation_nonce"},
			"attested by a stranger": {func(p *harness.Case, mine *phone.Phone) {
				p.Request.KeyAttestation = mine.Attest(stranger, p.Session.Nonce, time.Now())
			}, "evidence.attestation_untrusted"},
			"another phone's key attested": {func(p *harness.Case, _ *phone.Phone) {
				p.Request.KeyAttestation = newPhone(t, 1).Attest(harness.Provider, p.Session.Nonce, time.Now())
			}, "evidence.proof_key_unattested"},
			"attested by nobody": {func(p *harness.Case, _ *phone.Phone) { p.Request.KeyAttestation = "" }, "evidence.attestation_missing"},
			"possession not proven": {func(p *harness.Case, _ *phone.Phone) {
				p.Request.Proof = p.Request.Proof[:len(p.Request.Proof)-8] + "AAAAAAAA"
			}, "evidence.proof_signature"},
			"proven before, for else": {func(p *harness.Case, mine *phone.Phone) {
				p.Request.Proof = mine.Prove(0, "https://portal.example", p.Session.Nonce, time.Now().Add(-time.Hour), "")
			}, "evidence.proof_expired"},
		} {
			mine := newPhone(t, 1)
			p := c.Case(c.by, "portal", "ic_chip", mine, "fact-6")
			f.bend(p, mine)
			c.wants(t, what, p, f.code)
		}
		p := c.from("portal", "ic_chip", "fact-6")
		c.put(t, func(b map[string]any) {
			b["wallet_providers"] = []any{map[string]any{"id": "w", "certificate": base64.StdEncoding.EncodeToString(harness.Provider.Anchor().Raw), "off": true}}
		})
		c.wants(t, "the wallet provider's root is switched off", p, "evidence.attestation_untrusted")
		c.put(t, nil)
	})
}

func (c *country) basis(t *testing.T) {
	var answers []contract.IssueAnswer
	answers = append(answers, c.wants(t, "by one bundle", c.from("portal", "ic_chip", "fact-7-1"), ""))
	c.put(t, nil)
	answers = append(answers, c.wants(t, "by the next one", c.from("portal", "ic_chip", "fact-7-2"), ""))
	if answers[0].Decision.Policy == answers[1].Decision.Policy {
		t.Error("two bundles, one hash")
	}
	for _, out := range answers {
		page, err := c.As("auditor").Decisions(t.Context(), contract.DecisionQuery{Decision: out.Issuance, Bundle: out.Decision.Policy})
		if err != nil || len(page.Decisions) != 1 || page.Decisions[0].Decision.Policy != out.Decision.Policy {
			t.Fatalf("the journal's word of %s: %+v %v", out.Issuance, page, err)
		}
		b, err := policy.Parse("archived", []byte(page.Bundle))
		if err != nil || b.Hash().String() != out.Decision.Policy {
			t.Errorf("the archived bundle is another one: %v", err)
		}
	}
}

func (c *country) plastic(t *testing.T) {
	// It ends with the plastic card, however long a mobile one lives.
	p := c.Open(c.by, "portal", "ic_chip", newPhone(t, 1), "fact-8")
	ends := time.Now().AddDate(0, 0, 20)
	p.Request.Claims["expiry_date"] = ends.Format(time.DateOnly)
	for _, kind := range harness.Asked("ic_chip") {
		p.Request.Evidence = append(p.Request.Evidence, c.by.Say(p, c.by.Good(p, kind, programme.Jongno), nil))
	}
	out := c.wants(t, "a card that ends soon", p, "")
	for _, k := range out.Credentials {
		if k.ValidUntil.After(ends.AddDate(0, 0, 1)) {
			t.Errorf("%s is valid until %s, the plastic card until %s", k.Format, k.ValidUntil, ends)
		}
	}
	_, sd := byFormat(out)
	if _, err := c.As("card-system").Lock(t.Context(), contract.ChangeRequest{DocumentType: kr, Subject: "fact-8", Reason: "card_lost", Card: "card-1"}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(sd.Status, verifier.Suspended)

	// A lost phone stops no plastic card: nothing is said of it.
	_, sd = byFormat(c.wants(t, "another", c.from("portal", "ic_chip", "fact-8-phone"), ""))
	c.Change("loss-desk", lock, "fact-8-phone", "self_lost", "")
	c.Eventually(sd.Status, verifier.Suspended)
	if l := c.holder("fact-8-phone").Locks; len(l) != 1 || l[0].Reason != "self_lost" {
		t.Errorf("locks %+v", l)
	}
}

func (c *country) ageAlone(t *testing.T) {
	_, sd := byFormat(c.wants(t, "a card", c.from("portal", "ic_chip", "fact-9"), ""))
	parts := strings.Split(sd.Credential, "~")
	shown := parts[0] + "~"
	for _, d := range parts[1:] {
		if b, _ := base64.RawURLEncoding.DecodeString(d); strings.Contains(string(b), `"age_over_19"`) {
			shown += d + "~"
		}
	}
	card, err := verifier.VerifySDJWT([]byte(shown), c.Roots, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if card.Claims["age_over_19"] != true {
		t.Errorf("the age: %v", card.Claims["age_over_19"])
	}
	for _, hidden := range []string{"birth_date", "birthdate", "family_name", "given_name", "address", "portrait", "picture", "document_number"} {
		if v, there := card.Claims[hidden]; there {
			t.Errorf("with the age comes %s: %v", hidden, v)
		}
	}
	for _, text := range []string{canary, "1990"} {
		payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(shown, ".")[1])
		if strings.Contains(string(payload), text) {
			t.Errorf("what the shop gets contains %q", text)
		}
	}
	c.signsNothing(t, func() {
		p := c.from("portal", "ic_chip", "fact-9-lie")
		p.Request.Claims["age_over_19"] = false
		c.wants(t, "an age that contradicts the birth date", p, "claims.value")
	})
}

func (c *country) banks(t *testing.T) {
	m, sd := byFormat(c.wants(t, "a card", c.from("portal", "ic_chip", "fact-10"), ""))
	c.Eventually(sd.Status, verifier.Valid)
	c.settled()
	c.untouched(t, func() {
		var all sync.WaitGroup
		for range 15 {
			all.Go(func() {
				for range 10 {
					for _, ref := range []contract.StatusRef{m.Status, sd.Status} {
						if got := c.look(t, "GET", strings.TrimPrefix(ref.URI, publicURL)); got.status != 200 {
							t.Errorf("%d", got.status)
						}
					}
				}
			})
		}
		all.Wait()
	})
}

func (c *country) ownLine(t *testing.T) {
	with := func(alter func(*evidence.LineOwnership), bind func(*statement.Common)) *harness.Case {
		p := c.from("portal", "ic_chip", "fact-16")
		body := c.by.Good(p, evidence.KindLineOwnership, programme.Jongno).(evidence.LineOwnership)
		if alter != nil {
			alter(&body)
		}
		i := slices.IndexFunc(p.Request.Evidence, func(e contract.EvidenceItem) bool { return e.Kind == evidence.KindLineOwnership })
		p.Request.Evidence[i] = c.by.Say(p, body, bind)
		return p
	}
	c.signsNothing(t, func() {
		c.wants(t, "somebody else's line", with(func(l *evidence.LineOwnership) { l.Subscriber = "other" }, nil), "evidence.line_ownership_insufficient")
		for _, kind := range []string{"corporate", "prepaid"} {
			c.wants(t, "a line that is "+kind, with(func(l *evidence.LineOwnership) { l.LineKind = kind }, nil), "evidence.line_ownership_insufficient")
		}
		c.wants(t, "the word of an hour ago", with(nil, func(s *statement.Common) { s.IssuedAt = time.Now().Add(-time.Hour) }), "evidence.line_ownership_stale")
		other := c.from("portal", "ic_chip", "fact-16-other")
		c.wants(t, "said for another session", with(nil, func(s *statement.Common) { s.Session = other.Session.ID }), "evidence.line_ownership_session")
		c.wants(t, "about another person", with(nil, func(s *statement.Common) { s.Subject = c.by.Pseudonym(other, evidence.KindLineOwnership) }), "evidence.line_ownership_subject")
		late := with(nil, nil)
		c.put(t, func(b map[string]any) {
			named(b, "authorities", "telecom-a")["keys"].([]any)[0].(map[string]any)["off"] = true
		})
		c.wants(t, "by a key that was switched off", late, "evidence.line_ownership_key_off")
		c.put(t, nil)
	})
	c.wants(t, "a line of one's own", with(nil, nil), "")
}

func (c *country) officer(t *testing.T) {
	seen := func(officer, subject string) *harness.Case {
		p := c.from("ward-office-1", "office_qr", subject)
		bend(c.by, p, evidence.KindInPerson, func(s *evidence.InPerson) { s.Officer = officer })
		return p
	}
	c.put(t, func(b map[string]any) {
		budget := named(b, "budgets", "per-officer")
		budget["hour"], budget["day"] = 1, 1 // the hour may end meanwhile
	})
	programme.Left(24*time.Hour, time.Minute) // but not both
	c.wants(t, "the first of the hour", seen("officer-18", "fact-18-1"), "")
	c.signsNothing(t, func() {
		c.wants(t, "the second", seen("officer-18", "fact-18-2"), "budget.exhausted")
	})
	c.wants(t, "by a colleague", seen("officer-19", "fact-18-2"), "")
	c.put(t, nil)
	pending := seen("officer-20", "fact-18-3")
	c.put(t, func(b map[string]any) { named(b, "authorities", "ward-office-1")["off"] = true })
	c.signsNothing(t, func() {
		c.wants(t, "vouched for before the officers were switched off", pending, "evidence.in_person_authority_off")
	})
	c.put(t, nil)
}

func (c *country) lossUnderLoad(t *testing.T) {
	lines := make([]*harness.Case, 4)
	cards := make([]contract.IssueAnswer, len(lines))
	for i := range lines {
		lines[i] = c.from("portal", "ic_chip", fmt.Sprint("fact-23-", i))
		cards[i] = c.wants(t, "a card", lines[i], "")
	}
	var stop atomic.Bool
	var load sync.WaitGroup
	var issued atomic.Int64
	for w := range 4 {
		load.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if _, err := c.ask(c.from("portal", "ic_chip", fmt.Sprintf("fact-23-load-%d-%d", w, i))); err != nil {
					t.Errorf("under load: %v", err)
					return
				}
				issued.Add(1)
			}
		})
	}
	for end := time.Now().Add(20 * time.Second); issued.Load() < 8 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	for i, p := range lines {
		if _, err := c.As("telecom-a").Event(t.Context(), c.by.Event(p.Line(), 1, evidence.LineLost)); err != nil {
			t.Error(err)
		}
		m, sd := byFormat(cards[i])
		c.Eventually(sd.Status, verifier.Suspended)
		c.Eventually(m.Status, verifier.Invalid)
	}
	stop.Store(true)
	load.Wait()
	if issued.Load() < 8 {
		t.Errorf("of the load came %d cards", issued.Load())
	}
}

func (c *country) lateFound(t *testing.T) {
	first := c.from("portal", "ic_chip", "fact-25")
	_, old := byFormat(c.wants(t, "the first phone", first, ""))
	report := func(seq uint64, kind string) {
		t.Helper()
		if _, err := c.As("telecom-a").Event(t.Context(), c.by.Event(first.Line(), seq, kind)); err != nil {
			t.Fatal(err)
		}
	}
	report(1, evidence.LineLost)
	c.Eventually(old.Status, verifier.Suspended)
	time.Sleep(1100 * time.Millisecond) // the carrier vouches for the line anew: in the report's own second it can't be told from before
	second := c.from("portal", "ic_chip", "fact-25")
	second.Request.Replace = true
	_, now := byFormat(c.wants(t, "the second phone", second, ""))
	c.Eventually(now.Status, verifier.Valid)
	report(2, evidence.LineFound)
	if locks := c.holder("fact-25").Locks; len(locks) != 0 {
		t.Errorf("locks %+v", locks)
	}
	c.settled()
	for ref, want := range map[contract.StatusRef]byte{old.Status: verifier.Invalid, now.Status: verifier.Valid} {
		if got := c.Status(ref); got != want {
			t.Errorf("after the late found %d, want %d", got, want)
		}
	}
}

func (c *country) hands(t *testing.T) {
	for what, f := range map[string]struct {
		signers []string
		code    string
	}{"nobody's": {nil, "bundle.unsigned"}, "one hand": {[]string{"carol"}, "bundle.under_signed"}, "two": {[]string{"alice", "carol"}, ""}} {
		if _, err := c.activate(t, string(c.next(nil, f.signers...))); client.Code(err) != f.code {
			t.Errorf("%s: %v, want %q", what, err, f.code)
		}
	}
	if p, err := c.As("auditor").Policy(t.Context()); err != nil || fmt.Sprint(p.Signers) != "[alice carol]" {
		t.Errorf("whose hands they were: %v %v", p.Signers, err)
	}
}

func (c *country) rehearsal(t *testing.T) {
	good := c.from("portal", "ic_chip", "fact-28")
	bad := c.from("portal", "ic_chip", "fact-28")
	bad.Request.Evidence = bad.Request.Evidence[1:]
	c.settled()
	c.untouched(t, func() {
		for range 20 {
			d, err := c.As("portal").DryRun(t.Context(), good.Request)
			if err != nil || d.Result != "allowed" {
				t.Fatalf("the good one: %+v %v", d, err)
			}
			d, err = c.As("portal").DryRun(t.Context(), bad.Request)
			if err != nil || d.Result != "denied" || d.Code != "evidence.chip_read_missing" {
				t.Fatalf("the bad one: %+v %v", d, err)
			}
		}
	})
	c.wants(t, "the bad one on the day", bad, "evidence.chip_read_missing")
	c.wants(t, "the good one on the day", good, "")
}

func (c *country) wallets(t *testing.T) {
	second := must(phone.NewProvider(time.Now(), rand.Reader))
	providers := []any{map[string]any{"id": "second-wallet", "certificate": base64.StdEncoding.EncodeToString(second.Anchor().Raw)}}
	c.put(t, func(b map[string]any) { b["wallet_providers"] = providers })
	crowd := make([]*harness.Case, 8)
	for i := range crowd {
		mine := newPhone(t, 1)
		crowd[i] = c.Case(c.by, "portal", "ic_chip", mine, "fact-29")
		if i%2 == 1 {
			crowd[i].Request.KeyAttestation = mine.Attest(second, crowd[i].Session.Nonce, time.Now())
		}
	}
	var won atomic.Int64
	var all sync.WaitGroup
	for _, p := range crowd {
		all.Go(func() {
			switch _, err := c.ask(p); client.Code(err) {
			case "":
				won.Add(1)
			case "slot.occupied":
			default:
				t.Errorf("a phone: %v", err)
			}
		})
	}
	all.Wait()
	if h := c.holder("fact-29"); won.Load() != 1 || len(h.Credentials) != 2 {
		t.Errorf("%d phones of two wallets have the card: %+v", won.Load(), h)
	}
	c.put(t, nil)

	const youth = "kr-youth"
	c.put(t, func(b map[string]any) {
		types := b["types"].(map[string]any)
		k := maps.Clone(types[kr].(map[string]any))
		k["mdoc"], k["sdjwt"] = map[string]any{"doctype": "kr.go.mois.youth.1", "namespace": "kr.go.mois.youth.1"}, map[string]any{"vct": "urn:kr:mois:youth:1"}
		types[youth] = k
		for _, v := range b["clients"].([]any) {
			if may := v.(map[string]any)["may"].(map[string]any); may[kr] != nil {
				may[youth] = may[kr]
			}
		}
		for _, list := range []string{"phases", "rules"} {
			for _, v := range b[list].([]any) {
				twin := maps.Clone(v.(map[string]any))
				twin["id"] = twin["id"].(string) + "-youth"
				if twin["type"] != nil {
					twin["type"] = youth
				}
				if text, ok := twin["cedar"].(string); ok {
					twin["cedar"] = strings.ReplaceAll(text, `"`+kr+`"`, `"`+youth+`"`)
				}
				b[list] = append(b[list].([]any), twin)
			}
		}
	})
	mine := newPhone(t, 1)
	s, err := c.As("portal").Session(context.Background(), contract.SessionRequest{DocumentType: youth, Subject: "fact-29", KeyThumbprint: mine.Thumbprint(0), Authorities: c.by.IDs()})
	if err != nil {
		t.Fatalf("a session of the new type: %v", err)
	}
	p := programme.New("portal", "ic_chip", s, mine, harness.Provider, claims())
	p.Request.DocumentType = youth
	for _, kind := range harness.Asked("ic_chip") {
		p.Request.Evidence = append(p.Request.Evidence, c.by.Say(p, c.by.Good(p, kind, programme.Jongno), nil))
	}
	_, sd := byFormat(c.wants(t, "a document of the new type", p, ""))
	c.Eventually(sd.Status, verifier.Valid)
}

const pid = "eu-pid"

// withEurope adds the PID's rules to a bundle that has the same clients and authorities.
func withEurope(t *testing.T, b map[string]any) {
	t.Helper()
	var eu map[string]any
	if err := json.Unmarshal(must(os.ReadFile("../../deploy/policies/eu-pid.json")), &eu); err != nil {
		t.Fatal(err)
	}
	b["types"].(map[string]any)[pid] = eu["types"].(map[string]any)[pid]
	for _, reasons := range []string{"lock_reasons", "revocation_reasons", "renew_reasons"} {
		for reason, classes := range eu[reasons].(map[string]any) {
			b[reasons].(map[string]any)[reason] = classes
		}
	}
	for _, v := range eu["clients"].([]any) {
		v := v.(map[string]any)
		named(b, "clients", v["id"].(string))["may"].(map[string]any)[pid] = v["may"].(map[string]any)[pid]
	}
	b["rules"] = append(b["rules"].([]any), eu["rules"].([]any)...)
}

func (c *country) jurisdictions(t *testing.T) {
	europe := func(subject string) contract.StatusRef {
		t.Helper()
		mine := newPhone(t, 1)
		s, err := c.As("ward-office-1").Session(t.Context(), contract.SessionRequest{DocumentType: pid, Subject: subject, KeyThumbprint: mine.Thumbprint(0), Authorities: c.by.IDs()})
		if err != nil {
			t.Fatal(err)
		}
		p := programme.New("ward-office-1", "office", s, mine, harness.Provider, map[string]any{"family_name": canary, "given_name": canary, "birth_date": "1990-01-01",
			"nationality": []string{"KR"}, "place_of_birth": map[string]any{"country": "KR"}, "expiry_date": "2036-01-14", "issuing_authority": "C", "issuing_country": "KR"})
		p.Request.DocumentType = pid
		for _, kind := range []string{evidence.KindInPerson, evidence.KindRegistryMatch} {
			p.Request.Evidence = append(p.Request.Evidence, c.by.Say(p, c.by.Good(p, kind, programme.Jongno), nil))
		}
		_, sd := byFormat(c.wants(t, "a PID", p, ""))
		c.Eventually(sd.Status, verifier.Valid)
		return sd.Status
	}
	korea := func(subject string) contract.StatusRef {
		t.Helper()
		_, sd := byFormat(c.wants(t, "a resident card", c.from("portal", "ic_chip", subject), ""))
		c.Eventually(sd.Status, verifier.Valid)
		return sd.Status
	}
	// One person, two documents; the address changes.
	card, document := korea("fact-s8"), europe("fact-s8")
	for _, typ := range []string{kr, pid} {
		if _, err := c.As("ministry").Renew(t.Context(), contract.RenewalRequest{DocumentType: typ, Subject: "fact-s8", Reasons: []string{"address"}, Attributes: 2}); err != nil {
			t.Fatalf("%s: %v", typ, err)
		}
	}
	c.Eventually(card, verifier.Outdated)
	c.Eventually(document, verifier.Invalid)

	// The phone is lost, and found.
	card, document = korea("fact-s8-lost"), europe("fact-s8-lost")
	desk := c.As("loss-desk")
	c.Change("loss-desk", lock, "fact-s8-lost", "self_lost", "")
	_, err := desk.Lock(t.Context(), contract.ChangeRequest{DocumentType: pid, Subject: "fact-s8-lost", Reason: "self_lost"})
	c.refused("a PID is suspended", err, "client.forbidden")
	if _, err := desk.Revoke(t.Context(), contract.ChangeRequest{DocumentType: pid, Subject: "fact-s8-lost", Reason: "device_lost"}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(card, verifier.Suspended)
	c.Eventually(document, verifier.Invalid)
	c.Change("loss-desk", unlock, "fact-s8-lost", "self_lost", "")
	_, err = desk.Unlock(t.Context(), contract.ChangeRequest{DocumentType: pid, Subject: "fact-s8-lost", Reason: "device_lost"})
	c.refused("a revocation is taken back", err, "client.forbidden")
	c.Eventually(card, verifier.Valid)
	if got := c.Status(document); got != verifier.Invalid {
		t.Errorf("the PID came back: %d", got)
	}
}

// list is a status list as it is published now.
func (c *country) list(ref contract.StatusRef) []byte {
	return c.Get(strings.TrimPrefix(ref.URI, publicURL))
}

func (c *country) kept(t *testing.T) {
	_, sd := byFormat(c.wants(t, "a card", c.from("portal", "ic_chip", "fact-12"), ""))
	c.Eventually(sd.Status, verifier.Valid)
	before, then := c.list(sd.Status), time.Now()
	c.Change("loss-desk", revoke, "fact-12", "user_request", "")
	c.Eventually(sd.Status, verifier.Invalid)
	after, later := c.list(sd.Status), time.Now()
	for _, k := range []struct {
		list []byte
		at   time.Time
		want byte
	}{{before, then, verifier.Valid}, {after, later, verifier.Invalid}} {
		if got, err := verifier.VerifyStatus(k.list, sd.Status.URI, sd.Status.Index, c.Roots, k.at); err != nil || got != k.want {
			t.Errorf("what was kept says %d, want %d: %v", got, k.want, err)
		}
	}
	if got := c.look(t, "GET", strings.TrimPrefix(sd.Status.URI, publicURL)+"?time=1700000000"); got.status != http.StatusNotImplemented {
		t.Errorf("a list of the past is asked for: %d", got.status)
	}
}

func (c *country) offline(t *testing.T) {
	_, sd := byFormat(c.wants(t, "a card", c.from("portal", "ic_chip", "fact-11"), ""))
	c.Eventually(sd.Status, verifier.Valid)
	kept := c.list(sd.Status)
	c.Stop()
	now := time.Now()
	if got, err := verifier.VerifyStatus(kept, sd.Status.URI, sd.Status.Index, c.Roots, now); err != nil || got != verifier.Valid {
		t.Errorf("by the last list: %d %v", got, err)
	}
	l, err := verifier.DecodeStatusList(kept, verifier.MaxEntries)
	if err != nil || l.IssuedAt.IsZero() || l.IssuedAt.After(now.Add(time.Minute)) || l.TTL <= 0 || l.Expires.IsZero() {
		t.Fatalf("its age: %v, issued %v, ttl %v, expires %v", err, l.IssuedAt, l.TTL, l.Expires)
	}
	if _, err := verifier.VerifyStatus(kept, sd.Status.URI, sd.Status.Index, c.Roots, l.Expires.Add(time.Hour)); err == nil {
		t.Error("an expired list is believed")
	}
}
