package officer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/internal/signed"

	"sealkeeper/policy"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// people are three officers, and an auditor; the rest are in no registry.
type people struct {
	keys     map[string]crypto.Signer
	registry *Registry
}

func assemble(t testing.TB) *people {
	t.Helper()
	p := &people{keys: map[string]crypto.Signer{}}
	for _, id := range []string{"kim", "lee", "park", "audit", "operator", "stranger", "former"} {
		var key crypto.Signer
		var err error
		switch id { // one of each kind that officers may have
		case "lee", "kim":
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		case "former":
			key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		default:
			_, key, err = ed25519.GenerateKey(rand.Reader)
		}
		if err != nil {
			t.Fatal(err)
		}
		p.keys[id] = key
	}
	p.registry = p.of(3, "kim", "lee", "park")
	if err := p.registry.check(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *people) of(epoch uint64, officers ...string) *Registry {
	r := &Registry{Installation: "AAAAAAAAAAAAAAAAAAAAAA", Epoch: epoch, Rules: DefaultRules(), Officers: []Officer{{"audit", "Choi Auditor", RoleAuditor, p.keys["audit"].Public()},
		{"operator", "Han Operator", RoleOperator, p.keys["operator"].Public()}}}
	for _, id := range officers {
		r.Officers = append(r.Officers, Officer{id, strings.ToUpper(id[:1]) + id[1:], RoleOfficer, p.keys[id].Public()})
	}
	return r
}

func (p *people) propose(t testing.TB, by string, a Action, parameters Parameters, now time.Time) (Case, *Standing) {
	t.Helper()
	proposal, err := p.registry.Propose(by, a, parameters, 0, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, s, err := p.registry.Open(p.sign(t, proposal.Payload(), by, Approve), now)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func (p *people) sign(t testing.TB, payload []byte, by string, how func([]byte, string, crypto.Signer, io.Reader) ([]byte, error)) []byte {
	t.Helper()
	out, err := how(payload, by, p.keys[by], rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func is(t testing.TB, err error, code string) {
	t.Helper()
	var r *Refusal
	switch {
	case code == "" && err != nil:
		t.Errorf("refused: %v", err)
	case code != "" && (!errors.As(err, &r) || r.Code() != code):
		t.Errorf("want %s, got %v", code, err)
	case r != nil && !slices.ContainsFunc(Codes, func(c Code) bool { return c.ID == r.Code() }):
		t.Errorf("%s is not in the list of codes", r.Code())
	}
}

func TestAsManyOfficersAsTheRuleSays(t *testing.T) {
	p := assemble(t)
	c, s := p.propose(t, "kim", FloodConfirm, &Flood{Carrier: "alpha", Hour: noon, Cards: 12, MDocs: 24}, noon)
	_, err := p.registry.Decide(c, noon)
	is(t, err, "officer.short")
	payload := s.Proposal.Payload()
	c, s, err = p.registry.Add(c, p.sign(t, payload, "lee", Approve), false, noon.Add(time.Minute))
	is(t, err, "")
	if !s.Enough() || !c.Since.Equal(noon.Add(time.Minute)) {
		t.Errorf("%v since %v", s, c.Since)
	}
	q, err := p.registry.Decide(c, noon.Add(time.Minute))
	is(t, err, "")
	if f, ok := q.Parameters().(*Flood); !ok || f.Carrier != "alpha" || q.Action() != FloodConfirm || strings.Join(q.By(), " ") != "kim lee" || len(q.ID()) != 64 {
		t.Errorf("%+v", q)
	}
}

// examples are parameters of every action.
func examples(t *testing.T, p *people) map[Action]Parameters {
	t.Helper()
	change, err := NewChange(p.of(0, "kim", "lee", "former"))
	if err != nil {
		t.Fatal(err)
	}
	root := strings.Repeat("ab", 32)
	bundle, err := os.ReadFile("../deploy/policies/demo.json")
	if err != nil {
		t.Fatal(err)
	}
	return map[Action]Parameters{
		PolicyActivate: &Bundle{File: string(bundle)}, OfficersChange: change, AuthoritySwitch: &Switch{"wallet:state-wallet", true, "taken over"}, BudgetRaise: &Raise{"office-day", "day", 500, noon.Add(day), "a queue"},
		FloodConfirm: &Flood{"alpha", noon, 1, 2}, FloodUndo: &Flood{"alpha", noon, 1, 2}, HoldMass: &Hold{DocumentType: "kr-resident", Cards: 9, Reason: "broken wallet"}, HoldLift: &Lift{root, 0, "repaired"}, ReissueMass: &Mass{Key: "ds-1", From: noon.Add(-day), To: noon, Cards: 9, PerSecond: 50, Reason: "key found"},
		RevokeMass: &Mass{DocumentType: "kr-resident", Key: "ds-1", Cards: 9, PerSecond: 50, Reason: "broken wallet"}, UnlockAdmin: &Unlock{"kr-resident", root, "officer", "court order 12"},
		ClockAccept: &Clock{noon, "compared with two sources"}, FenceLift: &Fence{12, root, []string{"Lost: 3 of 15 journal entries."}, "restored"}, RestoreOpen: &Fence{12, root, []string{"Nothing."}, "restored"},
		BackupKey: &Backup{root, 2, []string{"kim", "lee", "park"}, "{}"},
		KeyGenerate: &Generate{ID: "ds-2", Purpose: "mdoc", Token: "online", Algorithm: "ES256", Name: "Document signer 2", Succeeds: "ds-1", Announce: noon, Activate: noon.Add(day),
			UseUntil: noon.Add(300 * day), Until: noon.Add(400 * day), Uses: 1000, PerHour: 10, Reason: "rotation"}, KeyActivate: &Activate{"ds-2", "ds-1", "rotation"},
		IACARollover:   &Rollover{ID: "iaca-2", Succeeds: "iaca-1", Algorithm: "ES384", Name: "IACA 2", Announce: noon, Activate: noon.Add(90 * day), UseUntil: noon.Add(2000 * day), Until: noon.Add(3000 * day), Reason: "its end is near"},
		ClientRollover: &ClientCA{ID: "client-ca-2", Succeeds: "client-ca-1", Algorithm: "ES256", Name: "Client CA 2", Announce: noon, Activate: noon.Add(90 * day), UseUntil: noon.Add(1400 * day), Until: noon.Add(1800 * day), Reason: "its end is near"},
		KeyDeactivate:  &Deactivate{"ds-1", "rotation"}, KeyCompromise: &Compromise{"ds-1", "found outside"}, KeyDestroy: &Destroy{"ds-1", "over"},
		IssuingStop: &Reason{"wrong photographs"}, IssuingResume: &Reason{"repaired"}, ClientEnrol: &Enrol{Clients: []policy.Enrolment{{ID: "office-1", Role: "issuance", Office: "11110", Life: 86400}}, Until: noon, Reason: "new office"},
		CertificateHold: &Withhold{held{[]string{strings.Repeat("4a", 20)}, "ward-office-1", "its machine is missing"}}, CertificateLift: &Restore{held{[]string{strings.Repeat("4a", 20)}, "ward-office-1", "it was found"}},
		ClientRevoke: &Dismiss{[]string{"office-1"}, "closed"},
	}
}

// Every action takes as many officers as its rule says, and waits as long: one fewer is refused, and so is who comes too early.
func TestEveryActionNeedsItsQuorum(t *testing.T) {
	p := assemble(t)
	of := examples(t, p)
	for _, a := range Actions() {
		t.Run(string(a), func(t *testing.T) {
			rule := p.registry.Rules[a]
			if rule.Need < 2 && a != IssuingStop {
				t.Errorf("it takes %d officers", rule.Need)
			}
			c, s := p.propose(t, "kim", a, of[a], noon)
			for _, id := range []string{"lee", "park"}[:rule.Need-1] {
				_, err := p.registry.Decide(c, noon)
				is(t, err, "officer.short")
				c, _, err = p.registry.Add(c, p.sign(t, s.Proposal.Payload(), id, Approve), false, noon)
				is(t, err, "")
			}
			if rule.Delay > 0 {
				_, err := p.registry.Decide(c, noon.Add(rule.Delay-time.Second))
				is(t, err, "officer.waiting")
			}
			q, err := p.registry.Decide(c, noon.Add(rule.Delay))
			is(t, err, "")
			if q.Action() != a || len(q.By()) != rule.Need {
				t.Errorf("%s by %v", q.Action(), q.By())
			}
		})
	}
}

func TestEveryActionIsProposedShownAndRead(t *testing.T) {
	p := assemble(t)
	of := examples(t, p)
	for _, a := range Actions() {
		parameters := of[a]
		if parameters == nil {
			t.Errorf("%s: no example", a)
			continue
		}
		made, err := p.registry.Propose("kim", a, parameters, time.Hour, noon, rand.Reader)
		if err != nil {
			t.Errorf("%s: %v", a, err)
			continue
		}
		read, err := ParseProposal(made.Payload())
		if err != nil || read.ID() != made.ID() || len(read.Text()) < 2 || read.Text()[0] != string(a) || read.Expires.After(noon.Add(time.Hour)) {
			t.Errorf("%s: %v %q", a, err, read.Text())
		}
		for _, line := range read.Text() {
			if len(line) > 120 {
				t.Errorf("%s: a line of %d characters is wider than a terminal: %s", a, len(line), line)
			}
		}
	}
	for _, file := range []string{"kr-resident", "eu-pid"} {
		data, err := os.ReadFile("../deploy/policies/" + file + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.registry.Propose("kim", PolicyActivate, &Bundle{File: string(data)}, 0, noon, rand.Reader); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestWhatShouldNotCountIsRefusedAloud(t *testing.T) {
	p := assemble(t)
	flood := &Flood{Carrier: "alpha", Hour: noon, Cards: 12, MDocs: 24}
	first, s := p.propose(t, "kim", FloodConfirm, flood, noon)
	payload := s.Proposal.Payload()
	other, so := p.propose(t, "kim", FloodUndo, flood, noon)
	_ = other
	good := p.sign(t, payload, "lee", Approve)
	swapKid := bytes.Replace(good, []byte(`"kid": "lee"`), []byte(`"kid": "park"`), 1)
	wide := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	for name, c := range map[string]struct {
		envelope []byte
		at       time.Time
		code     string
	}{
		"good":                       {good, noon, ""},
		"by a stranger":              {p.sign(t, payload, "stranger", Approve), noon, "officer.unknown"},
		"by an operator":             {p.sign(t, payload, "operator", Approve), noon, "officer.unknown"},
		"by an auditor":              {p.sign(t, payload, "audit", Approve), noon, "officer.unknown"},
		"by the proposer again":      {p.sign(t, payload, "kim", Approve), noon, "officer.duplicate"},
		"under another's name":       {swapKid, noon, "officer.signature"},
		"for another proposal":       {p.sign(t, so.Proposal.Payload(), "lee", Approve), noon, "officer.edited"},
		"a rejection":                {p.sign(t, payload, "lee", Reject), noon, "officer.signature"},
		"too late":                   {good, noon.Add(day), "officer.expired"},
		"before its time":            {good, noon.Add(-3 * time.Minute), "officer.future"},
		"two at once":                {p.sign(t, p.sign(t, payload, "lee", Approve), "park", Approve), noon, "officer.malformed"},
		"a number in other words":    {wide(`"cards":12`, `"cards":12.0`), noon, "officer.edited"},
		"an escape":                  {wide(`"alpha"`, `"\u0061lpha"`), noon, "officer.edited"},
		"white space":                {wide(`"cards":12`, `"cards": 12`), noon, "officer.edited"},
		"a member twice":             {wide(`"cards":12`, `"cards":12,"cards":12`), noon, "officer.malformed"},
		"more cards":                 {wide(`"cards":12`, `"cards":99`), noon, "officer.edited"},
		"no envelope":                {payload, noon, "officer.malformed"},
		"nothing":                    {nil, noon, "officer.malformed"},
		"something behind":           {append(bytes.Clone(good), '{'), noon, "officer.malformed"},
		"larger than anything there": {bytes.Repeat([]byte(" "), MaxEnvelope+1), noon, "officer.malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			after, _, err := p.registry.Add(first, c.envelope, false, c.at)
			is(t, err, c.code)
			if err != nil && !bytes.Equal(after.Approvals, first.Approvals) {
				t.Error("the case changed")
			}
		})
	}
	t.Run("of a removed officer", func(t *testing.T) {
		after := *p
		after.registry = p.of(4, "kim", "park", "former")
		_, _, err := after.registry.Add(first, good, false, noon)
		is(t, err, "officer.epoch")
		c, s := after.propose(t, "kim", FloodConfirm, flood, noon)
		_, _, err = after.registry.Add(c, after.sign(t, s.Proposal.Payload(), "lee", Approve), false, noon)
		is(t, err, "officer.unknown")
		_, err = after.registry.Propose("lee", FloodConfirm, flood, 0, noon, rand.Reader)
		is(t, err, "officer.unknown")
	})
	t.Run("in another installation", func(t *testing.T) {
		twin := *p
		twin.registry = p.of(3, "kim", "lee", "park") // the same people, keys and epoch
		twin.registry.Installation = "BBBBBBBBBBBBBBBBBBBBBB"
		_, _, err := twin.registry.Open(p.sign(t, payload, "kim", Approve), noon)
		is(t, err, "officer.installation")
		_, _, err = twin.registry.Add(first, good, false, noon)
		is(t, err, "officer.installation")
		_, err = twin.registry.Decide(first, noon)
		is(t, err, "officer.installation")
	})
	t.Run("replayed", func(t *testing.T) {
		c, _, err := p.registry.Add(first, good, false, noon)
		is(t, err, "")
		_, _, err = p.registry.Add(c, good, false, noon)
		is(t, err, "officer.duplicate")
	})
	t.Run("opened with friends", func(t *testing.T) {
		_, _, err := p.registry.Open(p.sign(t, p.sign(t, payload, "kim", Approve), "lee", Approve), noon)
		is(t, err, "officer.duplicate")
		_, _, err = p.registry.Open(p.sign(t, payload, "lee", Approve), noon)
		is(t, err, "officer.proposer")
	})
}

func TestAnyOneOfficerRejectsInTheDelay(t *testing.T) {
	p := assemble(t)
	c, s := p.propose(t, "kim", KeyDestroy, &Destroy{"ds-1", "over"}, noon)
	payload := s.Proposal.Payload()
	c, _, err := p.registry.Add(c, p.sign(t, payload, "lee", Approve), false, noon.Add(time.Hour))
	is(t, err, "")
	for after, code := range map[time.Duration]string{0: "officer.waiting", day - 1: "officer.waiting", day: "", 6*day + 22*time.Hour: "", 7 * day: "officer.expired",
		-5 * time.Hour: "officer.future"} { // the delay is that of the quorum, an hour after the proposal
		at := noon.Add(time.Hour + after)
		if code == "officer.expired" {
			at = noon.Add(7 * day)
		}
		_, err := p.registry.Decide(c, at)
		is(t, err, code)
	}
	never := c
	never.Since = time.Time{}
	_, err = p.registry.Decide(never, noon.Add(2*day))
	is(t, err, "officer.waiting")

	vetoed, _, err := p.registry.Add(c, p.sign(t, payload, "park", Reject), true, noon.Add(2*time.Hour))
	is(t, err, "")
	_, err = p.registry.Decide(vetoed, noon.Add(2*day))
	is(t, err, "officer.rejected")
	_, _, err = p.registry.Add(vetoed, p.sign(t, payload, "park", Approve), false, noon.Add(3*time.Hour))
	is(t, err, "officer.rejected")
	// Who approved may think again.
	again, _, err := p.registry.Add(c, p.sign(t, payload, "kim", Reject), true, noon.Add(2*time.Hour))
	is(t, err, "")
	_, err = p.registry.Decide(again, noon.Add(2*day))
	is(t, err, "officer.rejected")
	// An approval is no rejection, and a stranger's is none.
	_, _, err = p.registry.Add(c, p.sign(t, payload, "park", Approve), true, noon.Add(2*time.Hour))
	is(t, err, "officer.signature")
	_, _, err = p.registry.Add(c, p.sign(t, payload, "stranger", Reject), true, noon.Add(2*time.Hour))
	is(t, err, "officer.unknown")
}

func TestRegistriesThatOnePersonCouldUseAreRefused(t *testing.T) {
	p := assemble(t)
	for name, bend := range map[string]func(r *Registry){
		"one officer":             func(r *Registry) { r.Officers = r.Officers[:3] },
		"a key twice":             func(r *Registry) { r.Officers[2].Key = r.Officers[3].Key },
		"an auditor's key":        func(r *Registry) { r.Officers[2].Key = r.Officers[0].Key },
		"an id twice":             func(r *Registry) { r.Officers[2].ID = "lee" },
		"a name twice":            func(r *Registry) { r.Officers[2].Name = "Lee" },
		"hidden characters":       func(r *Registry) { r.Officers[2].Name = "Kim\u202e" },
		"no role":                 func(r *Registry) { r.Officers[2].Role = "boss" },
		"one decides":             func(r *Registry) { r.Rules[KeyGenerate] = Rule{1, 0, day} },
		"nobody decides to stop":  func(r *Registry) { r.Rules[IssuingStop] = Rule{0, 0, day} },
		"more than there are":     func(r *Registry) { r.Rules[KeyGenerate] = Rule{4, 0, day} },
		"longer delay than life":  func(r *Registry) { r.Rules[KeyGenerate] = Rule{2, day, day} },
		"a delay for the clock":   func(r *Registry) { r.Rules[ClockAccept] = Rule{2, time.Minute, time.Hour} },
		"another installation":    func(r *Registry) { r.Installation = "here" },
		"a rule for nothing":      func(r *Registry) { r.Rules["everything"] = Rule{2, 0, day} },
		"an action without rules": func(r *Registry) { delete(r.Rules, KeyGenerate) },
	} {
		r := p.of(1, "kim", "lee", "park")
		bend(r)
		if r.check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	data, err := p.registry.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseRegistry(data)
	if err != nil || again.Epoch != 3 || len(again.Officers) != 5 || len(again.Rules) != len(actions) {
		t.Errorf("%v %+v", err, again)
	}
}

// tricks change an envelope's payload into something that somebody might take for it.
var tricks = []struct{ old, new string }{
	{`"cards":`, `"cards": `}, {`"cards":`, `"cards":1`}, {`"cards":`, `"cards":0`}, {`"cards":`, `"cards":-`}, {`"cards":`, `"Cards":`}, {`,"cards":`, ` ,"cards":`}, {`"cards":`, "\n\"cards\":"},
	{`"mdocs":1`, `"mdocs":1.0`}, {`"mdocs":1`, `"mdocs":1e0`}, {`"mdocs":1`, `"mdocs":1,"mdocs":9`}, {`"mdocs":1`, `"mdocs":9,"mdocs":1`}, {`"mdocs":1`, `"mdocs":"1"`},
	{`"alpha"`, `"\u0061lpha"`}, {`"alpha"`, `"al\/pha"`}, {`"alpha"`, "\"alph\u0430\""}, {`"alpha"`, "\"alpha\u200b\""}, {`"alpha"`, `"alpha","x":0`}, {`"alpha"`, "\"alpha\xff\""},
	{`"epoch":3`, `"epoch":4`}, {`"epoch":3`, `"epoch":3.0`}, {`"epoch":3`, `"epoch":18446744073709551619`}, {`"installation":"A`, `"installation":"B`}, {`"installation":"A`, `"Installation":"A`},
	{`{"action"`, `{"Action":"x","action"`}, {`{"action"`, `{"action":"flood.undo","action"`}, {`"flood.confirm","epoch"`, `"flood.undo","epoch"`},
	{`"expires":"2026`, `"expires":"2027`}, {`Z","installation"`, `+00:00","installation"`}, {`"made":"2026`, `"made":"2025`}, {`"by":"`, `"by":"x`}, {`"text":["`, `"text":["x`}, {`"text":[`, `"text":["",`}, {`}`, `} `},
}

// TestNoFewerThanTheQuorum lets one officer of two that are needed, a removed officer, an auditor, an operator and a stranger try whatever they can with every
// signature that was ever made, for SEAL_APPROVAL_STEPS steps: in another writing, of another registry or installation, too early, too late, with a clock that is
// stepped, with rejections and signatures for other kinds as approvals, and with signatures in every other form that verifies. Two honest officers sign only what they
// proposed or read.
func TestNoFewerThanTheQuorum(t *testing.T) {
	steps := 4000
	if n, err := strconv.Atoi(os.Getenv("SEAL_APPROVAL_STEPS")); err == nil && n > 0 {
		steps = n
	}
	seed := uint64(20261124)
	if n, err := strconv.ParseUint(os.Getenv("SEAL_APPROVAL_SEED"), 10, 64); err == nil {
		seed = n
	}
	rnd := mrand.New(mrand.NewPCG(seed, 1))
	p := assemble(t)
	// Registries of the same people: of another installation, of before, and of after one of them left.
	twin, before, after := p.of(3, "kim", "lee", "park"), p.of(2, "kim", "lee", "park", "former"), p.of(4, "kim", "park", "former")
	twin.Installation = "BBBBBBBBBBBBBBBBBBBBBB"
	registries := []*Registry{p.registry, p.registry, p.registry, p.registry, p.registry, twin, before, after}
	honest, evil := []string{"lee", "park"}, []string{"kim", "former", "stranger", "audit", "operator"}
	type text struct {
		payload []byte
		of      *Registry
		by      map[string]bool    // honest officers who approved these very bytes
		good    []signed.Signature // approvals of these bytes, as they are
	}
	var texts []*text
	byID := map[string]*text{}
	var signatures []signed.Signature
	now := noon
	pick := func(of []string) string { return of[rnd.IntN(len(of))] }
	remember := func(envelope []byte) {
		e, err := signed.Parse(envelope, limits)
		if err != nil {
			t.Fatal(err)
		}
		if signatures = append(signatures, e.Signatures...); len(signatures) > 64 {
			signatures = signatures[len(signatures)-64:]
		}
	}
	approve := func(x *text, who string) {
		out := p.sign(t, x.payload, who, Approve)
		remember(out)
		e, _ := signed.Parse(out, limits)
		x.good = append(slices.DeleteFunc(x.good, func(s signed.Signature) bool { return s.Key == who }), e.Signatures...)
	}
	taken, tried, met := 0, 0, map[string]int{}
	for step := range steps {
		now = now.Add(time.Duration(rnd.IntN(240)) * time.Second)
		if len(texts) == 0 || rnd.IntN(4) == 0 {
			r := registries[rnd.IntN(len(registries))]
			by := pick([]string{"kim", "park"})
			if r != after {
				by = pick([]string{"kim", "lee", "park"})
			}
			made, err := r.Propose(by, FloodConfirm, &Flood{"alpha", noon, rnd.IntN(9), 1}, time.Duration(1+rnd.IntN(20))*time.Minute, now, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			x := &text{payload: made.Payload(), of: r, by: map[string]bool{}}
			if slices.Contains(honest, by) {
				x.by[by] = true
			}
			approve(x, by)
			if texts, byID[made.ID()] = append(texts, x), x; len(texts) > 8 {
				texts = texts[1:]
			}
		}
		x := texts[rnd.IntN(len(texts))]
		if rnd.IntN(6) == 0 { // an honest officer reads it and approves
			who := pick(honest)
			approve(x, who)
			x.by[who] = true
		}
		if rnd.IntN(8) == 0 { // or not; this is public too
			remember(p.sign(t, x.payload, pick(honest), Reject))
		}
		if rnd.IntN(8) == 0 || !slices.ContainsFunc(x.good, func(s signed.Signature) bool { return s.Key == "kim" }) {
			approve(x, "kim")
		}
		for range 1 + rnd.IntN(2) { // the others sign anything, under any name
			who := pick(evil)
			if out, err := signed.Sign(x.payload, limits, []string{kindApproval, kindRejection, "policy-bundle"}[rnd.IntN(3)], pick([]string{"kim", "lee", "park", "former"}), p.keys[who], rand.Reader); err == nil {
				remember(out)
			}
		}
		payload := bytes.Clone(x.payload)
		near := rnd.IntN(2) == 0 // all that is there for these bytes, and at most one thing about it wrong
		if !near && rnd.IntN(2) == 0 || near && rnd.IntN(4) == 0 {
			k := tricks[rnd.IntN(len(tricks))]
			payload = bytes.Replace(payload, []byte(k.old), []byte(k.new), 1)
		}
		e := signed.Envelope{Payload: payload}
		for range (1 + rnd.IntN(4)) * map[bool]int{true: 0, false: 1}[near] {
			s := signatures[rnd.IntN(len(signatures))]
			switch rnd.IntN(12) {
			case 0, 1:
				s.Key = pick([]string{"kim", "lee", "park", "former", "audit", "operator", "Lee", "lee "})
			case 2:
				s.Value = otherForm(s.Value, rnd)
			}
			if rnd.IntN(20) == 0 || !slices.ContainsFunc(e.Signatures, func(o signed.Signature) bool { return o.Key == s.Key }) {
				e.Signatures = append(e.Signatures, s)
			}
		}
		if near {
			e.Signatures = slices.Clone(x.good)
			rnd.Shuffle(len(e.Signatures), func(i, j int) { e.Signatures[i], e.Signatures[j] = e.Signatures[j], e.Signatures[i] })
			switch i := rnd.IntN(len(e.Signatures)); rnd.IntN(8) {
			case 0:
				e.Signatures = slices.Delete(e.Signatures, i, i+1)
			case 1:
				e.Signatures[i].Value = otherForm(e.Signatures[i].Value, rnd)
			case 2:
				e.Signatures[i].Value = signatures[rnd.IntN(len(signatures))].Value
			case 3:
				e.Signatures[i].Key = pick([]string{"kim", "lee", "park", "former", "audit", "operator"})
			case 4:
				e.Signatures = append(e.Signatures, e.Signatures[i])
			}
		} else if rnd.IntN(3) == 0 { // what is likeliest to pass: one's own good approval in front
			if out, err := Approve(x.payload, "kim", p.keys["kim"], rand.Reader); err == nil {
				own, _ := signed.Parse(out, limits)
				e.Signatures = append(slices.DeleteFunc(e.Signatures, func(o signed.Signature) bool { return o.Key == "kim" }), own.Signatures...)
			}
		}
		raw, err := json.Marshal(e, jsontext.PreserveRawStrings(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		if err != nil { // not even a JSON writer would send it; somebody would
			list, _ := json.Marshal(e.Signatures)
			raw = slices.Concat([]byte(`{"payload":`), payload, []byte(`,"signatures":`), list, []byte(`}`))
		}
		at := now
		if rnd.IntN(8) == 0 { // the clock is stepped
			at = at.Add(time.Duration(rnd.IntN(4*3600)-2*3600) * time.Second)
		}
		tried++
		q, err := p.registry.Decide(Case{Approvals: raw, Since: noon}, at)
		if err != nil {
			code := err.(*Refusal).Code()
			is(t, err, code)
			met[code]++
			continue
		}
		taken++
		y := byID[q.ID()]
		switch {
		case y == nil || len(q.By()) < 2 || !at.Before(q.Proposal().Expires) || at.Before(q.Proposal().Made.Add(-maxSkew)):
			t.Fatalf("step %d, seed %d: taken at %s: %s", step, seed, at, raw)
		case y.of != p.registry || q.Proposal().Epoch != 3 || q.Proposal().Installation != p.registry.Installation:
			t.Fatalf("step %d, seed %d: taken from another registry: %s", step, seed, raw)
		case !slices.ContainsFunc(q.By(), func(who string) bool { return y.by[who] }):
			t.Fatalf("step %d, seed %d: no honest officer approved %s", step, seed, raw)
		}
		for i, who := range q.By() {
			if slices.Contains(honest, who) && !y.by[who] || !slices.Contains([]string{"kim", "lee", "park"}, who) || slices.Contains(q.By()[:i], who) {
				t.Fatalf("step %d, seed %d: %s did not approve %s", step, seed, who, raw)
			}
		}
	}
	if taken == 0 {
		t.Error("nothing was ever taken: the test shows nothing")
	}
	for _, code := range []string{"officer.malformed", "officer.signature", "officer.unknown", "officer.epoch", "officer.installation", "officer.expired", "officer.future", "officer.short", "officer.proposer"} {
		if met[code] == 0 {
			t.Errorf("%s was never met: the test does not try it", code)
		}
	}
	t.Logf("%d cases tried, %d taken, each with its quorum; refused: %v", tried, taken, met)
}

// otherForm is a signature in another writing: its twin with the other s, its tail bits set, padded, in the other alphabet, longer, shorter, as DER would have it.
func otherForm(value string, rnd *mrand.Rand) string {
	b, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || len(b) == 0 {
		return value
	}
	order := map[int]*big.Int{64: elliptic.P256().Params().N, 96: elliptic.P384().Params().N}[len(b)]
	switch k := rnd.IntN(6); {
	case k == 0 && order != nil: // verifies as well: the same officer, who counts once
		n := len(b) / 2
		s := new(big.Int).SetBytes(b[n:])
		if s.Cmp(order) < 0 {
			return base64.RawURLEncoding.EncodeToString(slices.Concat(b[:n], s.Sub(order, s).FillBytes(make([]byte, n))))
		}
		return value
	case k == 1:
		return value[:len(value)-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[rnd.IntN(26)])
	case k == 2:
		return base64.URLEncoding.EncodeToString(b) + "="
	case k == 3:
		return base64.StdEncoding.EncodeToString(b)
	case k == 4:
		return base64.RawURLEncoding.EncodeToString(append(b, 0))
	}
	return base64.RawURLEncoding.EncodeToString(b[:len(b)-1])
}

func FuzzProposal(f *testing.F) {
	p := assemble(f)
	var seeds [][]byte
	change, err := NewChange(p.of(0, "kim", "lee", "former"))
	if err != nil {
		f.Fatal(err)
	}
	for a, parameters := range map[Action]Parameters{FloodConfirm: &Flood{"alpha", noon, 1, 2}, OfficersChange: change, BudgetRaise: &Raise{"office-day", "day", 5, noon, "a queue"}} {
		made, err := p.registry.Propose("kim", a, parameters, 0, noon, rand.Reader)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, made.Payload())
	}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, data []byte) bool {
		read, err := ParseProposal(data)
		if err != nil {
			is(t, err, "officer.malformed")
			return false
		}
		if !bytes.Equal(read.Payload(), data) {
			t.Errorf("a second form of %s", read.Payload())
		}
		return true
	})
}

func FuzzApproval(f *testing.F) {
	p := assemble(f)
	c, s := p.propose(f, "kim", FloodConfirm, &Flood{"alpha", noon, 1, 2}, noon)
	approval := p.sign(f, s.Proposal.Payload(), "lee", Approve)
	fuzzing.Run(f, fuzzing.Options{}, [][]byte{approval, p.sign(f, s.Proposal.Payload(), "lee", Reject), c.Approvals}, func(t *testing.T, data []byte) bool {
		after, _, err := p.registry.Add(c, data, false, noon)
		if err != nil {
			is(t, err, err.(*Refusal).Code())
			return false
		}
		q, err := p.registry.Decide(after, noon)
		if err != nil || fmt.Sprint(q.By()) != "[kim lee]" || q.ID() != s.Proposal.ID() {
			t.Errorf("%v %+v of %s", err, q, data)
		}
		return true
	})
}

func FuzzRegistry(f *testing.F) {
	p := assemble(f)
	data, err := p.registry.JSON()
	if err != nil {
		f.Fatal(err)
	}
	fuzzing.Run(f, fuzzing.Options{}, [][]byte{data}, func(t *testing.T, data []byte) bool {
		r, err := ParseRegistry(data)
		if err != nil {
			return false
		}
		again, err := r.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if r2, err := ParseRegistry(again); err != nil || len(r2.Officers) != len(r.Officers) || r2.Epoch != r.Epoch {
			t.Errorf("%v: %s", err, again)
		}
		return true
	})
}

// A token key has no certificate, which its plan says nothing of, and every other planned key has one.
func TestTokenKeysArePlannedWithoutACertificate(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(*Generate)
		says  string
	}{
		"as it should be":    {func(*Generate) {}, ""},
		"one that stands by": {func(p *Generate) { p.Succeeds, p.Activate = "", time.Time{} }, ""},
		"with a name":        {func(p *Generate) { p.Name = "Tokens 2" }, "has no certificate"},
		"with an end of it":  {func(p *Generate) { p.Until = noon.Add(400 * day) }, "has no certificate"},
		"with Ed25519":       {func(p *Generate) { p.Algorithm = "EdDSA" }, "use one of ES256, ES384"},
		"used for no time":   {func(p *Generate) { p.UseUntil = p.Activate }, "follow each other"},
		"a signer":           {func(p *Generate) { p.Purpose = policy.PurposeMDoc }, "common name"},
		"a root":             {func(p *Generate) { p.Purpose = policy.PurposeClientCA }, "keys are planned for"},
	} {
		p := &Generate{ID: "token-2", Purpose: policy.PurposeToken, Token: "online", Algorithm: "ES256", Succeeds: "token-1", Announce: noon, Activate: noon.Add(day), UseUntil: noon.Add(300 * day), Reason: "its end is near"}
		c.alter(p)
		err := p.check()
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if text := strings.Join(p.text(), "\n"); c.says == "" && (strings.Contains(text, "0001") || strings.Contains(text, "IACA")) {
			t.Errorf("%s: %s", name, text)
		}
	}
}
