package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
	"sealkeeper/tests/phone"
	"sealkeeper/tests/programme"
)

// country is the second story: the resident card of kr-resident.json, on an installation of its own. Nothing of the bundle's rules is
// changed but four things: its authorities have keys that the story has; there is an operator; the carrier's flood begins with fewer reports than
// 500; and the calendar is moved as a whole, so that the phase of Seoul begins while the story is told. All phases keep their distances.
type country struct {
	story
	by      *programme.Authorities
	bundle  map[string]any // as it was last written
	file    string         // of the bundle
	version int
	opens   time.Time // the phase of Seoul
	people  map[string]*resident
}

// resident is somebody with a phone.
type resident struct {
	number, home string
	phone        *phone.Phone
	code         contract.CodeAnswer // that the phone scans; empty: the office waits for the phone
	last         *programme.Case
	key          string // of the last request
	issued       contract.IssueAnswer
	holds        refs
}

const (
	sejong     = "3611055000"
	seoulPhase = "phase-3"
	flood      = 5 // reports of an hour
	crowd      = 8
)

func residents(bin, work string) error {
	began := time.Now()
	c := &country{story: story{bin: bin, work: work, clients: map[string]*http.Client{}}, file: filepath.Join(work, "policy.json"), people: map[string]*resident{}}
	var err error
	if c.bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	c.out = filepath.Join(work, "out")
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	if err := os.MkdirAll(work, 0o700); err != nil {
		return err
	}
	defer c.stop()
	for _, chapter := range []func() error{c.found, c.phases, c.methods, c.line, c.cardLost, c.flooded, c.newRules, c.end} {
		if err := chapter(); err != nil {
			return fmt.Errorf("%s: %w", c.chapter, err)
		}
	}
	fmt.Printf("\nThe story of the resident card took %.1f s.\n", time.Since(began).Seconds())
	return nil
}

// shell shows a command, runs it where the installation is, and shows what it says.
func (c *country) shell(name string, args ...string) error { return c.shellTo(0, name, args...) }

// shellTo is shell for a command whose exit code says something.
func (c *country) shellTo(want int, name string, args ...string) error {
	c.say("$ %s %s", name, strings.Join(args, " "))
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = c.work
	cmd.Env = append(os.Environ(), "SEALCTL_URL="+c.issuance, "SEALCTL_OPERATIONS="+c.operations)
	out, err := cmd.CombinedOutput()
	for _, line := range strings.Split(strings.TrimRight(string(out), "\n"), "\n") {
		line = line[strings.LastIndexByte(line, '\r')+1:] // of a progress bar, how it ended
		if line = strings.TrimSpace(line); line != "" {
			c.say("    %s", line)
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == want {
		err = nil
	} else if err == nil && want != 0 {
		err = fmt.Errorf("it ended with 0, not %d", want)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

// signers of bundles; two of the three must sign.
var signers = []string{"alice", "bob", "carol"}

// ---- 8

func (c *country) found() error {
	c.title("8. The resident card, by its real rules: an installation of its own")
	now := time.Now()
	var err error
	if c.provider, err = phone.NewProvider(now, rand.Reader); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.work, "wallet-provider.pem"), c.provider.AnchorPEM(), 0o600); err != nil {
		return err
	}
	data, by, err := programme.Load("deploy/policies/kr-resident.json", func(b map[string]any) {
		for _, v := range b["authorities"].([]any) {
			if a := v.(map[string]any); a["id"] == "telecom-a" {
				a["flood"] = flood
			}
		}
	})
	if err != nil {
		return err
	}
	c.by = by
	if err := json.Unmarshal(data, &c.bundle); err != nil {
		return err
	}
	keys := ""
	for _, kid := range signers {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		public, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return err
		}
		for name, block := range map[string]*pem.Block{".pem": {Type: "PRIVATE KEY", Bytes: secret}, ".pub": {Type: "PUBLIC KEY", Bytes: public}} {
			if err := os.WriteFile(filepath.Join(c.work, kid+name), pem.EncodeToMemory(block), 0o600); err != nil {
				return err
			}
		}
		keys += fmt.Sprintf("    - {kid: %s, file: %s.pub}\n", kid, kid)
	}
	listen, err := c.listen()
	if err != nil {
		return err
	}
	conf := fmt.Sprintf(`installation: {name: Residents, country: KR, organization: Demo ministry}
data: data
high_water: witness/high-water.json
policy: policy.json
policy_signers:
  threshold: 2
  keys:
%swallet_providers: [wallet-provider.pem]
public_url: %s
listen: %s
`, keys, publicURL, listen)
	if err := os.WriteFile(filepath.Join(c.work, "sealkeeper.yaml"), []byte(conf), 0o600); err != nil {
		return err
	}
	c.say("kr-resident.json as shipped; its authorities have test keys, and two of three officers sign what the daemon is to obey")
	if err := c.write(); err != nil {
		return err
	}
	for _, kid := range signers[:2] {
		if err := c.sign(kid); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := c.shell("sealkeeperd", "init", "--dev", "--config", "sealkeeper.yaml"); err != nil {
		return err
	}
	wait := max(6*time.Second, 3*time.Since(began))                        // so that the refusal comes before the phase, on whatever machine
	if d, err := time.ParseDuration(os.Getenv("DEMO_PHASE")); err == nil { // one that is busy with other things may need more
		wait = max(wait, d)
	}
	clients := []string{"ward-office-1", "portal", "telecom-a", "loss-desk", "ministry", "card-system", "auditor", "operator-1"}
	if err := c.shell("sealkeeperd", append([]string{"enrol", "--config", "sealkeeper.yaml", "--out", "clients"}, clients...)...); err != nil {
		return err
	}
	for _, id := range clients {
		if c.clients[id], err = mtls(filepath.Join(c.work, "clients", id)); err != nil {
			return err
		}
	}

	// Only now, as the founding takes as long as it takes: the daemon starts with the next version.
	c.opens = time.Now().Add(wait).Truncate(time.Second)
	if err := c.moveCalendar(c.opens); err != nil {
		return err
	}
	c.say("nobody wants to wait for 14 March: version 2 moves the whole calendar, so that the phase of Seoul begins at %s", c.opens.Format("15:04:05"))
	for _, v := range c.bundle["phases"].([]any) {
		p := v.(map[string]any)
		at, err := time.Parse(time.RFC3339, p["from"].(string))
		if err != nil {
			return err
		}
		c.say("    %-11s %s  %s", p["id"], at.Local().Format("2006-01-02 15:04:05"), p["description"])
	}
	if err := c.write(); err != nil {
		return err
	}
	for _, kid := range signers[:2] {
		if err := c.sign(kid); err != nil {
			return err
		}
	}
	if err := c.serve(filepath.Join(c.work, "sealkeeper.yaml")); err != nil {
		return err
	}
	return c.fetchFile("/certificates/iaca.pem", filepath.Join("trust", "iaca.pem"))
}

// write makes the next version of the bundle.
func (c *country) write() error {
	c.version++
	c.bundle["version"] = c.version
	data, err := json.MarshalIndent(c.bundle, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(c.file, append(data, '\n'), 0o600)
}

func (c *country) sign(kid string) error {
	return c.shell("sealctl", "policy", "sign", "policy.json", "--key", kid+".pem", "--kid", kid)
}

// moveCalendar moves every phase by the same time, so that Seoul's begins at an instant.
func (c *country) moveCalendar(to time.Time) error {
	var by time.Duration
	for _, want := range []string{seoulPhase, ""} { // first by how much, then all of them
		for _, v := range c.bundle["phases"].([]any) {
			p := v.(map[string]any)
			at, err := time.Parse(time.RFC3339, p["from"].(string))
			if err != nil {
				return err
			}
			switch want {
			case "":
				p["from"] = at.Add(by).Format(time.RFC3339)
			case p["id"]:
				by = to.Sub(at)
			}
		}
	}
	return nil
}

// ---- requests

func (c *country) person(name, number, home string) (*resident, error) {
	p, err := phone.New(1)
	r := &resident{number: number, home: home, phone: p}
	c.people[name] = r
	return r, err
}

// ask prepares a request by a method: session, phone, and everything that the method asks for. alter changes it before it is signed by
// anybody; nil: nothing.
func (c *country) ask(r *resident, client, method string, alter func(kind string, body any) any) error {
	var s contract.SessionAnswer
	open := contract.SessionRequest{DocumentType: documentType, Subject: r.number, KeyThumbprint: r.phone.Thumbprint(0), Authorities: c.by.IDs()}
	if r.code.Code != "" {
		open.Subject, open.Code = "", r.code.Code
	}
	if err := c.must("a session", client, "/v1/sessions", "", open, &s); err != nil {
		return err
	}
	r.last, r.key = programme.New(client, method, s, r.phone, c.provider, claims()), idempotencyKey()
	for _, kind := range programme.Asked(method) {
		if client == "portal" && kind == evidence.KindInPerson { // nobody is there
			continue
		}
		body, err := r.last.Good(kind, r.home)
		if err != nil {
			return err
		}
		if alter != nil {
			body = alter(kind, body)
		}
		item, err := c.by.Say(r.last, body, func(m *statement.Common) {
			if kind == evidence.KindInPerson && r.code.ID != "" { // the officer saw the person before there was a phone
				m.Session = r.code.ID
			}
		})
		if err != nil {
			return err
		}
		r.last.Request.Evidence = append(r.last.Request.Evidence, item)
	}
	return nil
}

// gets sends what was asked, and the person gets a card.
func (c *country) gets(what string, r *resident) error {
	before := r.issued.Device
	if err := c.must(what, r.last.Client, "/v1/credentials", r.key, r.last.Request, &r.issued); err != nil {
		return err
	}
	r.hold()
	if r.last.Request.Replace != r.issued.Replaced || before == r.issued.Device {
		return fmt.Errorf("%w: %s: device %s, replaced %v", errStory, what, r.issued.Device, r.issued.Replaced)
	}
	c.say("✓ %-46s by %s", what, strings.Join(rulesOf(r.issued.Decision), ", "))
	return c.shown(r, 0, 0)
}

// hold remembers where the status of an issued card is.
func (r *resident) hold() {
	for _, card := range r.issued.Credentials {
		ref := card.Status
		if card.Format == "mso_mdoc" {
			r.holds.MDoc = &ref
		} else {
			r.holds.SDJWT = &ref
		}
	}
}

// rulesOf a decision that are worth a line: the method, the phase and the bundle's own.
func rulesOf(d contract.Decision) (worth []string) {
	for _, id := range d.Rules {
		if name, ok := strings.CutPrefix(id, "D:"); ok && strings.Contains(name, "/") {
			worth = append(worth, name)
		} else if !strings.Contains(id, ":") {
			worth = append(worth, id)
		}
	}
	return worth
}

// no sends what was asked, which is refused.
func (c *country) no(what string, r *resident, status int, code string) error {
	return c.refused(what, r.last.Client, "/v1/credentials", r.key, r.last.Request, status, code)
}

// shown waits until both credentials of the person are seen so by a verifier.
func (c *country) shown(r *resident, mdoc, sdjwt byte) error {
	return c.awaitAll(map[*contract.StatusRef]byte{r.holds.MDoc: mdoc, r.holds.SDJWT: sdjwt})
}

// ---- 9

func (c *country) phases() error {
	c.title("9. Seoul is not open yet")
	hong, err := c.person("hong", "900101-1000001", programme.Jongno)
	if err != nil {
		return err
	}
	if err := c.ask(hong, "ward-office-1", "office_qr", nil); err != nil {
		return err
	}
	if err := c.no("Hong of Jongno, at the office of Jongno", hong, 403, "phase.not_open"); err != nil {
		return err
	}
	moved, err := c.person("sejong", "900101-1000002", sejong)
	if err != nil {
		return err
	}
	if err := c.ask(moved, "ward-office-1", "office_qr", nil); err != nil {
		return err
	}
	if err := c.no("somebody of Sejong, in Jongno: only at home", moved, 403, "phase.residence_only"); err != nil {
		return err
	}
	if wait := time.Until(c.opens); wait > 0 {
		c.say("  … %.1f s later", wait.Seconds())
		time.Sleep(wait + 50*time.Millisecond)
	}
	if err := c.gets("Hong again, the same request to the byte", hong); err != nil {
		return err
	}
	c.say("(a refusal uses up nothing; both credentials were signed in the HSM)")
	return c.no("somebody of Sejong still goes home", moved, 403, "phase.residence_only")
}

// ---- 10

func (c *country) methods() error {
	c.title("10. Two ways to a card: the officer's code, and the chip of the plastic one")
	kim, err := c.person("kim", "900101-1000003", programme.Jongno)
	if err != nil {
		return err
	}
	for _, bad := range []struct {
		what, code string
		alter      func(kind string, body any) any
		after      func(r *contract.IssueRequest)
	}{
		{"the chip without its PIN", "evidence.chip_read_insufficient", func(kind string, body any) any {
			if chip, ok := body.(evidence.ChipRead); ok {
				chip.PINVerified = false
				return chip
			}
			return body
		}, nil},
		{"the line of another person", "evidence.line_ownership_insufficient", func(kind string, body any) any {
			if line, ok := body.(evidence.LineOwnership); ok {
				line.Subscriber = "other"
				return line
			}
			return body
		}, nil},
		{"a face that was matched for Hong", "evidence.face_match_session", nil, func(r *contract.IssueRequest) {
			replaceItem(r, evidence.KindFaceMatch, c.people["hong"].last.Request.Evidence)
		}},
		{"a name that the register does not have", "registry.uncovered", nil, func(r *contract.IssueRequest) { r.Claims["family_name"] = "김" }},
	} {
		if err := c.ask(kim, "ward-office-1", "ic_chip", bad.alter); err != nil {
			return err
		}
		if bad.after != nil {
			bad.after(&kim.last.Request)
		}
		if err := c.no(bad.what, kim, 422, bad.code); err != nil {
			return err
		}
	}
	if err := c.ask(kim, "ward-office-1", "ic_chip", nil); err != nil {
		return err
	}
	if err := c.gets("Kim, by the chip", kim); err != nil {
		return err
	}
	choi, err := c.person("choi", "900101-1000005", programme.Jongno)
	if err != nil {
		return err
	}
	if err := c.must("a code at the counter", "ward-office-1", "/v1/codes", "", contract.CodeRequest{DocumentType: documentType, Subject: choi.number,
		Authorities: c.by.IDs()}, &choi.code); err != nil {
		return err
	}
	c.say("  (the clerk has checked Choi and shows a code of %d characters: %.0f s, one card)", len(choi.code.Code), time.Until(choi.code.ExpiresAt).Seconds())
	if err := c.ask(choi, "ward-office-1", "office_qr", nil); err != nil {
		return err
	}
	if err := c.gets("Choi's phone, which scanned it", choi); err != nil {
		return err
	}
	onlooker := &resident{number: choi.number, home: choi.home, code: choi.code}
	if onlooker.phone, err = phone.New(1); err != nil {
		return err
	}
	if err := c.ask(onlooker, "ward-office-1", "office_qr", nil); err != nil {
		return err
	}
	onlooker.last.Request.Replace = true
	if err := c.no("somebody who photographed the screen", onlooker, 409, "code.replayed"); err != nil {
		return err
	}
	if err := c.no("Kim's statements for one card more", &resident{last: kim.last, key: idempotencyKey()}, 409, "slot.occupied"); err != nil {
		return err
	}
	park, err := c.person("park", "900101-1000004", programme.Jongno)
	if err != nil {
		return err
	}
	if err := c.ask(park, "portal", "office_qr", nil); err != nil {
		return err
	}
	if err := c.no("Park by code, through the portal", park, 422, "evidence.in_person_missing"); err != nil {
		return err
	}
	if err := c.ask(park, "portal", "ic_chip", nil); err != nil {
		return err
	}
	return c.no("Park by chip, through the portal: not yet", park, 403, "phase.not_open")
}

func replaceItem(r *contract.IssueRequest, kind string, from []contract.EvidenceItem) {
	of := func(items []contract.EvidenceItem) int {
		return slices.IndexFunc(items, func(e contract.EvidenceItem) bool { return e.Kind == kind })
	}
	r.Evidence[of(r.Evidence)] = from[of(from)]
}

// ---- 11

// event is something that the carrier says of a line.
func (c *country) event(what string, r *resident, seq uint64, kind, effect string) error {
	e, err := c.by.Event(r.last.Line(), seq, kind, time.Now())
	if err != nil {
		return err
	}
	var a contract.EventAnswer
	t := time.Now()
	if err := c.must(what, "telecom-a", "/v1/events", "", e, &a); err != nil {
		return err
	}
	if a.Effect != effect {
		return fmt.Errorf("%w: %s: %s, not %s", errStory, what, a.Effect, effect)
	}
	c.say("✓ %-46s %s, after %d ms", fmt.Sprintf("event %d, %s: %s", seq, kind, what), a.Effect, time.Since(t).Milliseconds())
	return nil
}

func (c *country) line() error {
	c.title("11. The carrier speaks of a line: lost, found, and too late")
	hong := c.people["hong"]
	c.say("(the carrier knows lines and no persons: to it, Hong is “%s…”; it signs each event)", hong.last.Line()[:12])
	if err := c.event("Hong's phone is gone", hong, 1, evidence.LineLost, "applied"); err != nil {
		return err
	}
	if err := c.shown(hong, 1, 2); err != nil {
		return err
	}
	if err := c.tell("Hong", hong.holds); err != nil {
		return err
	}
	if err := c.refused("the loss desk lifts the carrier's lock", "loss-desk", "/v1/unlocks", "", contract.ChangeRequest{DocumentType: documentType, Subject: hong.number,
		Reason: "telecom_lost"}, 403, "reason.forbidden"); err != nil {
		return err
	}
	if err := c.event("it was in the other coat", hong, 3, evidence.LineFound, "applied"); err != nil {
		return err
	}
	if err := c.shown(hong, 1, 0); err != nil {
		return err
	}
	if err := c.event("an older report, late", hong, 2, evidence.LineLost, "stale"); err != nil {
		return err
	}
	if err := c.tell("Hong", hong.holds); err != nil {
		return err
	}
	old := hong.holds
	if err := c.event("gone again, for good", hong, 4, evidence.LineLost, "applied"); err != nil {
		return err
	}
	var err error
	if hong.phone, err = phone.New(1); err != nil {
		return err
	}
	c.say("  … a second later: the carrier's word that the line is Hong's has to be younger than its report")
	time.Sleep(1100 * time.Millisecond)
	if err := c.ask(hong, "ward-office-1", "ic_chip", nil); err != nil {
		return err
	}
	hong.last.Request.Replace = true
	if err := c.gets("Hong's new phone, by the chip", hong); err != nil {
		return err
	}
	if err := c.event("a finder hands the old phone in", hong, 5, evidence.LineFound, "none"); err != nil {
		return err
	}
	if err := c.tell("Hong's old phone", old); err != nil {
		return err
	}
	return c.tell("Hong's new phone", hong.holds)
}

// ---- 12

func (c *country) cardLost() error {
	c.title("12. The plastic card is lost: card and phone stop, and nothing new is issued")
	kim := c.people["kim"]
	report := contract.ChangeRequest{DocumentType: documentType, Subject: kim.number, Reason: "card_lost"}
	var a contract.ChangeAnswer
	if err := c.must("card_lost", "card-system", "/v1/locks", "", report, &a); err != nil {
		return err
	}
	if err := c.shown(kim, 1, 2); err != nil {
		return err
	}
	if err := c.tell("Kim", kim.holds); err != nil {
		return err
	}
	thief := &resident{number: kim.number, home: kim.home}
	var err error
	if thief.phone, err = phone.New(1); err != nil {
		return err
	}
	if err := c.ask(thief, "ward-office-1", "ic_chip", nil); err != nil {
		return err
	}
	thief.last.Request.Replace = true
	if err := c.no("its finder, with a phone of his own", thief, 409, "card.locked"); err != nil {
		return err
	}
	if err := c.refused("the ministry lifts the card system's lock", "ministry", "/v1/unlocks", "", report, 403, "reason.forbidden"); err != nil {
		return err
	}
	if err := c.must("card_lost is over", "card-system", "/v1/unlocks", "", report, &a); err != nil {
		return err
	}
	if err := c.shown(kim, 1, 0); err != nil {
		return err
	}
	if err := c.ask(kim, "ward-office-1", "technical_refresh", nil); err != nil {
		return err
	}
	kim.last.Request.Formats = []string{"mso_mdoc"}
	var fresh contract.IssueAnswer
	if err := c.must("a fresh mdoc for Kim", "ward-office-1", "/v1/credentials/refresh", kim.key, kim.last.Request, &fresh); err != nil {
		return err
	}
	kim.holds.MDoc = &fresh.Credentials[0].Status
	c.say("✓ the card is found, its register lifts the lock, and Kim's phone fetches a fresh mdoc without a visit")
	if err := c.shown(kim, 0, 0); err != nil {
		return err
	}
	return c.tell("Kim", kim.holds)
}

// ---- 13

func (c *country) flooded() error {
	c.title("13. A carrier's flood: what can't be undone waits for somebody who asks")
	var people []*resident
	for i := range crowd {
		p, err := c.person(fmt.Sprintf("crowd-%d", i), fmt.Sprintf("900101-20000%02d", i), programme.Jongno)
		if err != nil {
			return err
		}
		if err := c.ask(p, "ward-office-1", "ic_chip", nil); err != nil {
			return err
		}
		if err := c.must("a card for one of a crowd", "ward-office-1", "/v1/credentials", p.key, p.last.Request, &p.issued); err != nil {
			return err
		}
		p.hold()
		people = append(people, p)
	}
	// A faulty job at the carrier: everybody's phone is lost.
	hour := time.Now().UTC().Truncate(time.Hour).Format(time.RFC3339) // a flood is counted by hours
	var stopped, held []*resident
	for _, p := range people {
		e, err := c.by.Event(p.last.Line(), 1, evidence.LineLost, time.Now())
		if err != nil {
			return err
		}
		var a contract.EventAnswer
		if err := c.must("lost", "telecom-a", "/v1/events", "", e, &a); err != nil {
			return err
		}
		if a.Effect == "held" {
			held = append(held, p)
		} else {
			stopped = append(stopped, p)
		}
	}
	if len(held) == 0 || len(stopped)+len(held) != crowd {
		return fmt.Errorf("%w: %d cards are stopped and %d held", errStory, len(stopped), len(held))
	}
	c.say("✓ %d phones with new cards are reported lost at once; %d reports are above the hour's threshold of %d", crowd, len(held), flood)
	for _, p := range held {
		if err := c.shown(p, 0, 2); err != nil {
			return err
		}
	}
	if err := c.tell("each of the held cards", held[0].holds); err != nil {
		return err
	}
	c.say("(their SD-JWT VCs stop at once; their mdocs, which could never come back, wait for an operator who asks the carrier)")
	if err := c.shell("sealctl", "floods", "--identity", "clients/operator-1"); err != nil {
		return err
	}
	if err := c.shell("sealctl", "floods", "undo", "telecom-a", hour, "--identity", "clients/operator-1"); err != nil {
		return err
	}
	for _, p := range held {
		if err := c.shown(p, 0, 0); err != nil {
			return err
		}
	}
	return c.tell("each of the held cards", held[0].holds)
}

// ---- 14

func (c *country) newRules() error {
	c.title("14. The rules change: the portal opens with Seoul")
	for _, v := range c.bundle["phases"].([]any) {
		if p := v.(map[string]any); p["id"] == "gov24" {
			p["from"] = c.opens.Format(time.RFC3339)
		}
	}
	if err := c.shell("sealctl", "policy", "show", "--out", "active.json", "--identity", "clients/operator-1"); err != nil {
		return err
	}
	if err := c.write(); err != nil {
		return err
	}
	if err := c.shell("sealctl", "policy", "diff", "active.json", "policy.json"); err != nil {
		return err
	}
	c.say("what would have come of the decisions of the last hour? (exit code 5: something would have changed)")
	if err := c.shellTo(5, "sealctl", "policy", "replay", "--bundle", "policy.json", "--since", "1h", "--identity", "clients/auditor"); err != nil {
		return err
	}
	if err := c.sign("alice"); err != nil {
		return err
	}
	one, err := os.ReadFile(c.file)
	if err != nil {
		return err
	}
	if err := c.refused("activated with one signature of two", "operator-1", "/v1/policies", "", contract.PolicyRequest{Bundle: one}, 422, "bundle.under_signed"); err != nil {
		return err
	}
	if err := c.sign("carol"); err != nil {
		return err
	}
	for _, more := range [][]string{{"--dry-run"}, nil} {
		if err := c.shell("sealctl", append([]string{"policy", "activate", "policy.json", "--identity", "clients/operator-1"}, more...)...); err != nil {
			return err
		}
	}
	return c.gets("Park by chip, the request of a while ago", c.people["park"])
}

func (c *country) end() error {
	c.title("15. The end")
	for _, p := range []struct{ who, name string }{{"Hong", "hong"}, {"Kim", "kim"}, {"Park", "park"}} {
		if err := c.tell(p.who, c.people[p.name].holds); err != nil {
			return err
		}
	}
	c.stop()
	return c.shell("sealctl", "fsck", "--ledger", "data/ledger.db", "--publish", "data/publish")
}
