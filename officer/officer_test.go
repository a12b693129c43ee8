package officer

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
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
	for _, id := range []string{"kim", "lee", "park", "audit", "stranger", "former"} {
		_, key, err := ed25519.GenerateKey(rand.Reader)
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
	r := &Registry{Installation: "AAAAAAAAAAAAAAAAAAAAAA", Epoch: epoch, Rules: DefaultRules(), Officers: []Officer{{"audit", "Choi Auditor", RoleAuditor, p.keys["audit"].Public()}}}
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

func TestEveryActionIsProposedShownAndRead(t *testing.T) {
	p := assemble(t)
	change, err := NewChange(p.of(0, "kim", "lee", "former"))
	if err != nil {
		t.Fatal(err)
	}
	root := strings.Repeat("ab", 32)
	of := map[Action]Parameters{
		OfficersChange: change, AuthoritySwitch: &Switch{"registry", true, "taken over"}, BudgetRaise: &Raise{"office-day", "day", 500, noon.Add(day), "a queue"},
		FloodConfirm: &Flood{"alpha", noon, 1, 2}, FloodUndo: &Flood{"alpha", noon, 1, 2}, HoldMass: &Mass{DocumentType: "kr-resident", Cards: 9, PerSecond: 50, Reason: "broken wallet"}, ReissueMass: &Mass{Key: "ds-1", From: noon.Add(-day), To: noon, Cards: 9, PerSecond: 50, Reason: "key found"},
		RevokeMass: &Mass{DocumentType: "kr-resident", Key: "ds-1", Cards: 9, PerSecond: 50, Reason: "broken wallet"}, UnlockAdmin: &Unlock{"kr-resident", root, "officer", "court order 12"},
		ClockAccept: &Clock{noon, "compared with two sources"}, FenceLift: &Fence{12, root, []string{"Lost: 3 of 15 journal entries."}, "restored"}, RestoreOpen: &Fence{12, root, []string{"Nothing."}, "restored"},
		BackupKey: &Backup{root, 2, []string{"kim", "lee", "park"}, "{}"},
		IACAUse:   &Use{"certify.ds-2", "rotation"}, KeyGenerate: &Generate{ID: "ds-2", Purpose: "mdoc", Token: "online", Algorithm: "ES256", Name: "Document signer 2", Succeeds: "ds-1", Announce: noon, Activate: noon.Add(day),
			UseUntil: noon.Add(300 * day), Until: noon.Add(400 * day), Uses: 1000, PerHour: 10, Reason: "rotation"}, KeyActivate: &Activate{"ds-2", "ds-1", "rotation"},
		KeyDeactivate: &Deactivate{"ds-1", "rotation"}, KeyCompromise: &Compromise{"ds-1", "found outside"}, KeyDestroy: &Destroy{"ds-1", "over"},
		IssuingStop: &Reason{"wrong photographs"}, IssuingResume: &Reason{"repaired"}, ClientEnrol: &Enrol{Clients: []policy.Enrolment{{ID: "office-1", Role: "issuance", Office: "11110", Life: 86400}}, Until: noon, Reason: "new office"},
		ClientRevoke: &Dismiss{[]string{"office-1"}, "closed"},
	}
	for _, a := range Actions() {
		if a == PolicyActivate {
			continue // below, with the shipped bundles
		}
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
		"one officer":             func(r *Registry) { r.Officers = r.Officers[:2] },
		"a key twice":             func(r *Registry) { r.Officers[1].Key = r.Officers[2].Key },
		"an auditor's key":        func(r *Registry) { r.Officers[1].Key = r.Officers[0].Key },
		"an id twice":             func(r *Registry) { r.Officers[1].ID = "lee" },
		"a name twice":            func(r *Registry) { r.Officers[1].Name = "Lee" },
		"hidden characters":       func(r *Registry) { r.Officers[1].Name = "Kim\u202e" },
		"no role":                 func(r *Registry) { r.Officers[1].Role = "boss" },
		"one decides":             func(r *Registry) { r.Rules[KeyGenerate] = Rule{1, 0, day} },
		"nobody decides to stop":  func(r *Registry) { r.Rules[IssuingStop] = Rule{0, 0, day} },
		"more than there are":     func(r *Registry) { r.Rules[KeyGenerate] = Rule{4, 0, day} },
		"longer delay than life":  func(r *Registry) { r.Rules[KeyGenerate] = Rule{2, day, day} },
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
	if err != nil || again.Epoch != 3 || len(again.Officers) != 4 || len(again.Rules) != len(actions) {
		t.Errorf("%v %+v", err, again)
	}
}

// TestNoFewerThanTheQuorum lets one officer of two that are needed, a removed officer and a stranger try whatever they can with every
// signature that was ever made, for SEAL_APPROVAL_STEPS steps. Two honest officers sign only what they proposed or read.
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
	honest, evil := []string{"lee", "park"}, []string{"kim", "former", "stranger", "audit"}
	type text struct {
		payload []byte
		by      map[string]bool // honest officers who approved these very bytes
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
	taken, tried := 0, 0
	for step := range steps {
		now = now.Add(time.Duration(rnd.IntN(240)) * time.Second)
		if len(texts) == 0 || rnd.IntN(4) == 0 {
			by := pick([]string{"kim", "lee", "park"})
			made, err := p.registry.Propose(by, FloodConfirm, &Flood{"alpha", noon, rnd.IntN(9), 1}, time.Duration(1+rnd.IntN(20))*time.Minute, now, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			x := &text{payload: made.Payload(), by: map[string]bool{}}
			if slices.Contains(honest, by) {
				x.by[by] = true
			}
			remember(p.sign(t, x.payload, by, Approve))
			texts, byID[made.ID()] = append(texts, x), x
			if len(texts) > 8 {
				texts = texts[1:]
			}
		}
		x := texts[rnd.IntN(len(texts))]
		if rnd.IntN(6) == 0 { // an honest officer reads it and approves
			who := pick(honest)
			remember(p.sign(t, x.payload, who, Approve))
			x.by[who] = true
		}
		if rnd.IntN(8) == 0 { // or not; this is public too
			remember(p.sign(t, x.payload, pick(honest), Reject))
		}
		for range 1 + rnd.IntN(2) { // the others sign anything, under any name
			who := pick(evil)
			if out, err := signed.Sign(x.payload, limits, []string{kindApproval, kindRejection, "policy-bundle"}[rnd.IntN(3)], pick([]string{"kim", "lee", "park", "former"}), p.keys[who], rand.Reader); err == nil {
				remember(out)
			}
		}
		payload := bytes.Clone(x.payload)
		switch rnd.IntN(8) {
		case 0:
			payload = bytes.Replace(payload, []byte(`"cards":`), []byte(`"cards": `), 1)
		case 1:
			payload = bytes.Replace(payload, []byte(`"cards":`), []byte(`"cards":1`), 1)
		case 2:
			payload = bytes.Replace(payload, []byte(`"alpha"`), []byte(`"\u0061lpha"`), 1)
		case 3:
			payload = bytes.Replace(payload, []byte(`"epoch":3`), []byte(`"epoch":4`), 1)
		case 4:
			payload = bytes.Replace(payload, []byte(`{"action"`), []byte(`{"Action":"x","action"`), 1)
		case 5:
			payload = bytes.Replace(payload, []byte(`"expires":"2026`), []byte(`"expires":"2027`), 1)
		}
		e := signed.Envelope{Payload: payload}
		for range 1 + rnd.IntN(4) {
			s := signatures[rnd.IntN(len(signatures))]
			if rnd.IntN(6) == 0 {
				s.Key = pick([]string{"kim", "lee", "park", "former"})
			}
			if !slices.ContainsFunc(e.Signatures, func(o signed.Signature) bool { return o.Key == s.Key }) {
				e.Signatures = append(e.Signatures, s)
			}
		}
		if rnd.IntN(3) == 0 { // what is likeliest to pass: one's own good approval in front
			if out, err := Approve(x.payload, "kim", p.keys["kim"], rand.Reader); err == nil {
				own, _ := signed.Parse(out, limits)
				e.Signatures = append(slices.DeleteFunc(e.Signatures, func(o signed.Signature) bool { return o.Key == "kim" }), own.Signatures...)
			}
		}
		raw, err := json.Marshal(e, jsontext.PreserveRawStrings(true))
		if err != nil {
			continue
		}
		tried++
		q, err := p.registry.Decide(Case{Approvals: raw, Since: noon}, now)
		if err != nil {
			is(t, err, err.(*Refusal).Code())
			continue
		}
		taken++
		y := byID[q.ID()]
		if y == nil || len(q.By()) < 2 || !now.Before(q.Proposal().Expires) || q.Proposal().Epoch != 3 {
			t.Fatalf("step %d, seed %d: taken: %s", step, seed, raw)
		}
		for _, who := range q.By() {
			if slices.Contains(honest, who) && !y.by[who] {
				t.Fatalf("step %d, seed %d: %s did not approve %s", step, seed, who, raw)
			}
			if !slices.Contains([]string{"kim", "lee", "park"}, who) {
				t.Fatalf("step %d, seed %d: %s counts", step, seed, who)
			}
		}
		if !slices.ContainsFunc(q.By(), func(who string) bool { return y.by[who] }) {
			t.Fatalf("step %d, seed %d: no honest officer approved %s", step, seed, raw)
		}
	}
	if taken == 0 {
		t.Error("nothing was ever taken: the test shows nothing")
	}
	t.Logf("%d cases tried, %d taken, each with its quorum", tried, taken)
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
