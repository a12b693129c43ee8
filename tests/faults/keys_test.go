package faults

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
	"sealkeeper/tests/appliance"
	"sealkeeper/verifier"
)

// board is three officers with keys in memory, in front of an appliance that they govern.
type board struct {
	*appliance.Appliance
	t    *testing.T
	r    *officer.Registry
	keys map[string]crypto.Signer
}

// boarded installs it; edit changes the bundle first.
func boarded(t *testing.T, edit ...func(bundle string) string) *board {
	t.Helper()
	b := &board{appliance.Install(t), t, &officer.Registry{Rules: officer.DefaultRules()}, map[string]crypto.Signer{}}
	b.r.Rules[officer.KeyDestroy] = officer.Rule{Need: 2, Life: time.Hour}
	b.r.Rules[officer.IACARollover] = officer.Rule{Need: 2, Life: time.Hour}
	b.r.Rules[officer.ClientRollover] = officer.Rule{Need: 2, Life: time.Hour}
	for _, id := range []string{"kim", "lee", "park"} {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		must(t, err)
		b.keys[id] = key
		b.r.Officers = append(b.r.Officers, officer.Officer{ID: id, Name: strings.ToUpper(id), Role: officer.RoleOfficer, Key: public})
	}
	registry, err := b.r.JSON()
	must(t, err)
	b.Write("officers.json", string(registry))
	bundle := strings.Replace(string(old(t, b.Appliance)), `{"id": "auditor",`, `{"id": "officers", "role": "officer", "may": {}}, {"id": "auditor",`, 1)
	for _, e := range edit {
		bundle = e(bundle)
	}
	b.Write("policy.json", strings.Replace(bundle, `"version": 1`, `"version": 3`, 1))
	b.Command(0, "init", "--dev", "--officers", filepath.Join(b.Dir, "officers.json"))
	b.Command(0, "enrol", "--out", filepath.Join(b.Dir, "clients"), "officers")
	return b
}

// approved has kim and lee sign, and returns what is to be executed.
func (b *board) approved(a officer.Action, p officer.Parameters) string {
	b.t.Helper()
	in, err := b.As("officers").Officers(b.t.Context())
	must(b.t, err)
	r, err := officer.ParseRegistry([]byte(in.Registry))
	must(b.t, err)
	proposal, err := r.Propose("kim", a, p, 0, time.Now(), rand.Reader)
	must(b.t, err)
	sign := func(id string) string {
		e, err := officer.Approve(proposal.Payload(), id, b.keys[id], rand.Reader)
		must(b.t, err)
		return string(e)
	}
	_, err = b.As("officers").Propose(b.t.Context(), contract.ProposeRequest{Proposal: contract.File(sign("kim"))})
	must(b.t, err)
	_, err = b.As("officers").Approve(b.t.Context(), contract.ApprovalRequest{ID: proposal.ID(), Envelope: contract.File(sign("lee"))})
	must(b.t, err)
	return proposal.ID()
}

// execute until it is known to be done.
func (b *board) execute(id string) {
	b.t.Helper()
	if p, err := b.As("officers").Execute(b.t.Context(), id); client.Code(err) != "proposal.executed" && (err != nil || p.State != "executed") {
		b.t.Fatalf("%+v %v", p, err)
	}
}

func (b *board) state(id string) string {
	for _, k := range b.Operations().Keys {
		if k.ID == id {
			return k.State
		}
	}
	return "none"
}

func (b *board) until(id, state string) {
	b.t.Helper()
	for began := time.Now(); b.state(id) != state; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			b.t.Fatalf("key %s stays %s: %+v", id, b.state(id), b.Operations().Keys)
		}
	}
}

// crash starts the daemon so that it kills itself at a point, has do lead there, and starts it again.
func (b *board) crash(point string, do func()) {
	b.t.Helper()
	b.Kill()
	b.Launch("SEAL_CRASH=" + point)
	if do != nil {
		b.UntilUp()
		do()
	}
	died(b.t, b.Appliance)
}

// A key is planned, made, certified, announced, put to use, compromised and destroyed, and at each step the daemon is killed before and after its commit, and
// wherever a token or a CA was asked: it ends as it was decided, once, and neither token nor registry has a key that the other does not know.
func TestKeysSurviveEveryCrash(t *testing.T) {
	t.Parallel()
	keysSurvive(t)
}

func keysSurvive(t *testing.T) {
	b := boarded(t)
	b.Launch()
	b.UntilUp()
	now := time.Now().UTC().Truncate(time.Second)
	plan := &officer.Generate{ID: "ds-2", Purpose: policy.PurposeMDoc, Token: "online", Algorithm: "ES256", Name: "DS 2", Succeeds: "ds-1", Announce: now, Activate: now, UseUntil: now.Add(300 * 24 * time.Hour),
		Until: now.Add(400 * 24 * time.Hour), Reason: "rotation"}
	id := b.approved(officer.KeyGenerate, plan)
	executed := func(id string) func() {
		return func() {
			if _, body, err := b.Post("officers", "/v1/officers/executions", "", contract.ProposalQuery{ID: id}); err == nil {
				t.Errorf("it was answered: %s", body)
			}
		}
	}
	b.crash("ledger.key.before-commit", executed(id))
	b.crash("ledger.key.after-commit", executed(id)) // it is planned; from here on it goes by itself
	for _, point := range []string{"ca.keys.generated", "ledger.key.before-commit", "ledger.key.after-commit", "ca.keys.certified", "ledger.key.after-commit", "ledger.key.before-commit", "ledger.key.after-commit",
		"ca.keys.turn", "ledger.key.before-commit", "ledger.key.after-commit"} {
		b.crash(point, nil)
	}
	b.Start()
	b.until("ds-2", "active")
	if s := b.Operations(); b.state("ds-1") != "deactivated" || len(s.Keys) != 7 || len(s.Orphans) != 0 {
		t.Errorf("%+v, orphans %v", s.Keys, s.Orphans)
	}
	b.Issue(appliance.NewPhone(t, 1), "after-the-crashes", false)

	id = b.approved(officer.KeyCompromise, &officer.Compromise{ID: "ds-2", Reason: "found outside"})
	b.crash("ledger.key.after-commit", executed(id))
	b.Launch()
	b.UntilUp()
	b.execute(id)
	b.until("ds-2", "compromised")
	id = b.approved(officer.KeyDestroy, &officer.Destroy{ID: "ds-2", Reason: "of no use"})
	b.crash("ca.keys.destroyed", executed(id)) // the token has it no more, and nothing says so yet
	b.Launch()
	b.UntilUp()
	b.execute(id)
	b.until("ds-2", "destroyed")
	if s := b.Operations(); len(s.Orphans) != 0 || !strings.Contains(fmt.Sprint(s.Problems), "no active key for purpose mdoc") {
		t.Errorf("orphans %v, problems %v", s.Orphans, s.Problems)
	}
	b.Stop()
	b.Check()
}

// A root is planned, made, certified by itself and by the one before it, announced, and takes that one's place, with the daemon killed at each step (plain
// `go test`: where a certificate was made that nothing knows of yet, and at the hand-over). It ends as it was decided: one root certifies, one link leads
// to it, and both have a revocation list.
func TestRootsSurviveEveryCrash(t *testing.T) { rootsSurvive(t) }

// The same of the clients' CA.
func TestClientCAsSurviveEveryCrash(t *testing.T) {
	survives(t, officer.ClientRollover, "client-ca", func(p officer.Rollover) officer.Parameters { c := officer.ClientCA(p); return &c })
}

func rootsSurvive(t *testing.T) {
	survives(t, officer.IACARollover, "iaca", func(p officer.Rollover) officer.Parameters { return &p })
}

func survives(t *testing.T, action officer.Action, ca string, of func(officer.Rollover) officer.Parameters) {
	b := boarded(t)
	b.Start()
	now := time.Now().UTC().Truncate(time.Second)
	id := b.approved(action, of(officer.Rollover{ID: ca + "-2", Succeeds: ca + "-1", Algorithm: "ES256", Name: "CA 2", Announce: now, Activate: now, UseUntil: now.AddDate(4, 0, 0), Until: now.AddDate(5, 0, 0), Reason: "its time comes"}))
	executed := func() {
		if _, body, err := b.Post("officers", "/v1/officers/executions", "", contract.ProposalQuery{ID: id}); err == nil {
			t.Errorf("it was answered: %s", body)
		}
	}
	points := []string{"ca.keys.certified", "ca.keys.linked", "ca.keys.turn"}
	if all {
		b.crash("ledger.key.before-commit", executed)
		points = []string{"ca.keys.generated", "ledger.key.before-commit", "ledger.key.after-commit", "ledger.reserve.cert.after-commit", "ledger.settle.cert.before-commit", "ca.keys.certified",
			"ledger.reserve.cert.after-commit", "ledger.settle.cert.before-commit", "ledger.settle.cert.after-commit", "ca.keys.linked", "ledger.key.before-commit", "ledger.key.after-commit",
			"ledger.key.before-commit", "ledger.key.after-commit", "ca.keys.turn", "ledger.key.before-commit", "ledger.key.after-commit"}
	}
	b.crash("ledger.key.after-commit", executed) // it is planned; from here on it goes by itself
	for _, point := range points {
		b.crash(point, nil)
	}
	b.Start()
	b.until(ca+"-2", "active")
	if s := b.Operations(); b.state(ca+"-1") != "deactivated" || len(s.Orphans) != 0 {
		t.Errorf("%+v, orphans %v", s.Keys, s.Orphans)
	}
	if action == officer.IACARollover {
		trust, err := verifier.ParseTrust(b.Get("/trust.json"))
		must(t, err)
		if roots := trust.Roots(b.Roots, time.Now()); len(roots) != 2 {
			t.Errorf("%d roots by the link", len(roots))
		}
	}
	for _, name := range []string{ca, ca + "-2"} {
		for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			if _, err := os.Stat(filepath.Join(b.Dir, "data", "publish", "crl", name+".crl")); err == nil {
				break
			}
			if time.Since(began) > 20*time.Second {
				t.Fatalf("root %s has no list", name)
			}
		}
	}
	b.Stop()
	b.Check()
	s, err := ledger.OpenSQLite(t.Context(), filepath.Join(b.Dir, "data", "ledger.db"))
	must(t, err)
	defer s.Close()
	rows, err := s.Scan(t.Context(), ledger.TableCertificates, nil, 1000)
	must(t, err)
	certs := 0
	for _, row := range rows {
		certs += strings.Count(string(row.Value), `"profile":"`+ca+`-link"`)
	}
	if certs != 1 {
		t.Errorf("%d link certificates were made", certs)
	}
}

// A planned key takes over at its time, whatever becomes of another one's making: the HSM hangs there for as long as a worker is given.
func TestKeysTakeOverWhileTheHSMHangs(t *testing.T) {
	t.Parallel()
	if !all {
		t.Skip("SEAL_FAULTS=all")
	}
	b := boarded(t)
	s := newShim(t, b.Appliance, unhurried)
	b.Start()
	now := time.Now().UTC().Truncate(time.Second)
	plan := func(id, succeeds string, p policy.Purpose, activate time.Time) *officer.Generate {
		return &officer.Generate{ID: id, Purpose: p, Token: "online", Algorithm: "ES256", Name: id, Succeeds: succeeds, Announce: now, Activate: activate, UseUntil: now.Add(300 * 24 * time.Hour),
			Until: now.Add(400 * 24 * time.Hour), Reason: "rotation"}
	}
	b.execute(b.approved(officer.KeyGenerate, plan("ds-2", "ds-1", policy.PurposeMDoc, now.Add(15*time.Second))))
	for b.state("ds-2") == "none" || b.state("ds-2") == "planned" || b.state("ds-2") == "generated" {
		time.Sleep(20 * time.Millisecond)
	}
	s.set("C_GenerateKeyPair fault=hang times=1")
	b.execute(b.approved(officer.KeyGenerate, plan("sdjwt-2", "sdjwt-issuer-1", policy.PurposeSDJWT, now.Add(15*time.Second))))
	for began := time.Now(); s.fired() == 0; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("the fault never came: this test proves nothing")
		}
	}
	b.until("ds-2", "active")
	if strings.Contains(b.Log.String(), `"reason":"hung"`) {
		t.Errorf("it took over after the worker that hung was replaced:\n%s", tail(b.Appliance))
	}
	b.until("sdjwt-2", "active") // by the worker's successor
	b.Issue(appliance.NewPhone(t, 1), "after-the-hang", false)
	b.Stop()
	b.Check()
}

// A planned key that its token refuses for good is taken back, and another takes its place in the plan: a root, a CA of clients, a signer. One that is taken back
// while its token is at it is destroyed when that has ended, so that nothing is left there that nobody knows.
func TestAPlannedKeyIsTakenBack(t *testing.T) {
	t.Parallel()
	b := boarded(t)
	s := newShim(t, b.Appliance, workers)
	b.Start()
	now := time.Now().UTC().Truncate(time.Second)
	refused := func(id, says string) {
		t.Helper()
		if _, err := b.As("officers").Execute(t.Context(), id); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("it was not refused with %q: %v", says, err)
		}
	}
	troubled := func(id string) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			for _, k := range b.Operations().Keys {
				if k.ID == id && k.State == "planned" && k.Trouble != "" {
					return
				}
			}
			if time.Since(began) > patience {
				t.Fatalf("key %s has no trouble: %+v", id, b.Operations().Keys)
			}
		}
	}
	back := func(id string) {
		t.Helper()
		b.execute(b.approved(officer.KeyDeactivate, &officer.Deactivate{ID: id, Reason: "its token refuses it"}))
		if s := b.state(id); s != "deactivated" {
			t.Errorf("key %s is %s", id, s)
		}
	}
	root := func(a officer.Action, ca string, n int) string {
		r := officer.Rollover{ID: fmt.Sprintf("%s-%d", ca, n), Succeeds: ca + "-1", Algorithm: "ES384", Name: fmt.Sprintf("%s %d", ca, n), Announce: now, Activate: now, UseUntil: now.AddDate(4, 0, 0), Until: now.AddDate(5, 0, 0), Reason: "its time comes"}
		if a == officer.ClientRollover {
			c := officer.ClientCA(r)
			return b.approved(a, &c)
		}
		return b.approved(a, &r)
	}
	key := func(id string) string {
		return b.approved(officer.KeyGenerate, &officer.Generate{ID: id, Purpose: policy.PurposeMDoc, Token: "online", Algorithm: "ES256", Name: id, Succeeds: "ds-1", Announce: now, Activate: now, UseUntil: now.Add(300 * 24 * time.Hour),
			Until: now.Add(400 * 24 * time.Hour), Reason: "rotation"})
	}
	s.set("C_GenerateKeyPair fault=error rv=0x70")
	cas := map[string]officer.Action{"iaca": officer.IACARollover, "client-ca": officer.ClientRollover}
	for ca, a := range cas {
		b.execute(root(a, ca, 2))
		troubled(ca + "-2")
		third := root(a, ca, 3)
		refused(third, "is on its way")
		back(ca + "-2")
		b.execute(third)
	}
	b.execute(key("ds-2"))
	troubled("ds-2")
	back("ds-2")
	s.set()
	for ca := range cas {
		b.until(ca+"-3", "active")
	}

	s.set("C_GenerateKeyPair fault=slow ms=15000 times=1")
	b.execute(key("ds-3"))
	for began := time.Now(); s.fired() == 0; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("the fault never came: this test proves nothing")
		}
	}
	back("ds-3")
	destroy := b.approved(officer.KeyDestroy, &officer.Destroy{ID: "ds-3", Reason: "of no use"})
	refused(destroy, "is being made")
	for began := time.Now(); b.state("ds-3") != "destroyed"; time.Sleep(100 * time.Millisecond) {
		if _, err := b.As("officers").Execute(t.Context(), destroy); err != nil && time.Since(began) > patience {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"iaca-2", "ds-2"} {
		b.execute(b.approved(officer.KeyDestroy, &officer.Destroy{ID: id, Reason: "of no use"}))
	}
	b.Issue(appliance.NewPhone(t, 1), "after-what-did-not-come", false)
	b.Stop()
	b.Check()
	b.Start() // looks over the tokens
	time.Sleep(time.Second)
	if s := b.Operations(); len(s.Orphans) != 0 || b.state("ds-1") != "active" || b.state("client-ca-2") != "deactivated" {
		t.Errorf("%+v, orphans %v", s.Keys, s.Orphans)
	}
	b.Stop()
}
