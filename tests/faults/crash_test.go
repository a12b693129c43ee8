package faults

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sealkeeper/backup"
	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
	"sealkeeper/tests/programme"
	"sealkeeper/verifier"
)

// crash is a place where the daemon is killed by itself, with SIGKILL. Points that a request, a list, a start or a lost worker comes by are
// killed under load; the others have a command or a story that leads there.
type crash struct {
	point string
	by    string // what leads there: see lead
	few   bool
}

// elsewhere: a test of its own leads there.
const elsewhere = "elsewhere"

// Before and after a commit, a rename or an answer are the two faults "it did not happen" and "it happened, and the answer is lost": each durable
// step has both, and what stands between two of them (drafted, reserved, signed, …) is the second of one and the first of the next.
var crashes = []crash{
	{point: "ca.issue.drafted:3"},
	{point: "ledger.reserve.issue.before-commit:3"},
	{point: "ledger.reserve.issue.after-commit:3", few: true},
	{point: "ca.issue.reserved:3"},
	{point: "ca.issue.signed:3"},
	{point: "ca.issue.joined:3"},
	{point: "ledger.settle.issue.before-commit:3"},
	{point: "ledger.settle.issue.after-commit:3", few: true},
	{point: "ca.issue.settled:3"},
	{point: "ca.change.decided:3"},
	{point: "ledger.change.before-commit:3"},
	{point: "ledger.change.after-commit:3"},
	{point: "ca.change.committed:3"},
	{point: "ca.event.decided", by: "event"},
	{point: "ledger.event.before-commit", by: "event"},
	{point: "ledger.event.after-commit", by: "event"},
	{point: "ca.event.committed", by: "event"},
	{point: "ledger.raise.before-commit", by: "event"},
	{point: "ledger.flood.before-commit", by: "flood"},
	{point: "ledger.flood.after-commit", by: "flood"},
	{point: "ledger.flood.carried-out", by: "flood"},
	// Every step of a replacement: afterwards the old phone has the card, or the new one, and never both.
	{point: "ca.issue.drafted", by: "replace"},
	{point: "ledger.reserve.issue.before-commit", by: "replace"},
	{point: "ledger.reserve.issue.after-commit", by: "replace", few: true},
	{point: "ca.issue.reserved", by: "replace"},
	{point: "ca.issue.signed", by: "replace"},
	{point: "ca.issue.joined", by: "replace"},
	{point: "ledger.settle.issue.before-commit", by: "replace"},
	{point: "ledger.settle.issue.after-commit", by: "replace"},
	{point: "ca.issue.settled", by: "replace"},
	{point: "ca.publish.reserved", by: "replace"},
	{point: "ca.publish.settled", by: "replace"},
	{point: "ca.publish.token-written", by: "replace"},
	{point: "ca.issue.revoked-shown", by: "replace"},
	{point: "schedule.ordered", by: "schedule"},
	{point: "schedule.due.before-commit", by: "schedule"},
	{point: "schedule.due.after-commit", by: "schedule", few: true},
	{point: "schedule.due.before-commit:2", by: "schedule"}, // at the end of the lock
	{point: "schedule.due.after-commit:2", by: "schedule"},
	{point: "schedule.cancelled", by: "cancel"},
	{point: "ledger.give-up.before-commit", by: "give-up"},
	{point: "ledger.give-up.after-commit", by: "give-up"},
	{point: "ledger.lease.before-commit:1"},
	{point: "ledger.lease.after-commit:1"},
	{point: "ledger.reserve.list.before-commit:3"},
	{point: "ledger.reserve.list.after-commit:3"},
	{point: "ca.publish.reserved:3"},
	{point: "ledger.settle.list.before-commit:3"},
	{point: "ledger.settle.list.after-commit:3"},
	{point: "ca.publish.settled:3"},
	{point: "ca.publish.token-written:3", few: true},
	{point: "durable.written:5"},
	{point: "durable.renamed:5"},
	{point: "durable.written:6"}, // of the two files of a version, and the high-water record between them
	{point: "durable.renamed:6"},
	{point: "signer.sent:5"},
	{point: "signer.answered:5"},
	{point: "ledger.reserve.selftest.before-commit:1"},
	{point: "ledger.reserve.selftest.after-commit:1"},
	{point: "ledger.settle.selftest.before-commit:1"},
	{point: "ledger.settle.selftest.after-commit:1"},
	{point: "start.opened"},
	{point: "start.workers"},
	{point: "start.derived"},
	{point: "signer.mark.read"},
	{point: "signer.mark.wanted"}, // the ledger has it, the token does not
	{point: "signer.mark.written"},
	{point: "signer.mark.held"},
	{point: "ca.start.token-written"},

	{point: "signer.lost", by: "worker"},
	{point: "signer.lost.journalled", by: "worker"},
	{point: "signer.again.journalled", by: "worker"},

	{point: "ledger.resume.before-commit", by: "resume"},
	{point: "ledger.resume.after-commit", by: "resume"},
	{point: "ledger.reserve-again.before-commit", by: "policy"},
	{point: "ledger.reserve-again.after-commit", by: "policy"},

	{point: "ledger.policy.before-commit", by: "bundle"},
	{point: "ledger.policy.after-commit", by: "bundle"},

	{point: "ledger.proposal.before-commit", by: "officers"},
	{point: "ledger.proposal.after-commit", by: "officers"},
	{point: "ledger.execution.before-commit", by: "officers"},
	{point: "ledger.execution.after-commit", by: "officers"},

	{point: "ledger.campaign.before-commit", by: "campaign"},
	{point: "ledger.campaign.after-commit", by: "campaign"},
	{point: "ledger.campaign.swept.before-commit", by: "sweep"}, // thirty days later
	{point: "ledger.campaign.swept.after-commit", by: "sweep"},
	{point: "ledger.campaign.swept.before-commit:2", by: "sweep"}, // the last cards, and the campaign
	{point: "ledger.campaign.swept.after-commit:2", by: "sweep"},
	{point: "ledger.campaign-card.before-commit", by: "campaign"},
	{point: "ledger.campaign-card.after-commit", by: "campaign"},

	// A hold is of all its lists or of none, and so is its lift.
	{point: "ledger.execution.before-commit", by: "hold"},
	{point: "ledger.execution.after-commit", by: "hold"},
	{point: "ledger.hold.masks", by: "hold"},
	{point: "ledger.hold.before-commit", by: "hold"},
	{point: "ledger.hold.after-commit", by: "hold"},
	{point: "ca.publish.reserved", by: "hold"},
	{point: "ledger.execution.before-commit", by: "lift"},
	{point: "ledger.execution.after-commit", by: "lift"},
	{point: "ca.publish.settled", by: "lift"},

	// Of a key's life: TestKeysSurviveEveryCrash.
	{point: "ca.keys.generated", by: elsewhere},
	{point: "ca.keys.certified", by: elsewhere},
	{point: "ca.keys.linked", by: elsewhere},
	{point: "ca.keys.turn", by: elsewhere},
	{point: "ca.keys.destroyed", by: elsewhere},
	{point: "ledger.key.before-commit", by: elsewhere},
	{point: "ledger.key.after-commit", by: elsewhere},

	// Of a client's enrolment: TestEnrolmentSurvivesEveryCrash.
	{point: "ledger.reserve.token.before-commit", by: elsewhere},
	{point: "ledger.reserve.token.after-commit", by: elsewhere},
	{point: "ledger.settle.token.before-commit", by: elsewhere},
	{point: "ledger.settle.token.after-commit", by: elsewhere},
	{point: "ledger.client.before-commit", by: elsewhere},
	{point: "ledger.client.after-commit", by: elsewhere},

	{point: "ledger.unfence.before-commit", by: "fence"},
	{point: "ledger.unfence.after-commit", by: "fence"},
	// Every step of taking back what published lists show: begun again, it comes to the same.
	{point: "ledger.lift.begun", by: "fence"},
	{point: "ledger.lift.before-commit", by: "fence"},
	{point: "ledger.lift.after-commit", by: "fence"},
	{point: "ledger.lift.page", by: "fence"},
	{point: "ledger.lift.taken-back", by: "fence"},

	{point: "ledger.copy.written", by: "backup"},
	{point: "ledger.copy.renamed", by: "backup"},
	{point: "backup.token-copied:1", by: "backup"},
	{point: "backup.token-copied:2", by: "backup"},
	{point: "backup.named", by: "backup"},
	{point: "restore.token-put:1", by: "restore"},
	{point: "restore.token-put:2", by: "restore"},
	{point: "ledger.copy.written", by: "restore"},
	{point: "ledger.copy.renamed", by: "restore"},

	// The encrypted backup: there is none under its name, or a whole one; what was put back is fenced at every moment.
	{point: "ledger.copy.renamed", by: "backup-file"},
	{point: "backup.token-copied:2", by: "backup-file"},
	{point: "backup.written", by: "backup-file"},
	{point: "backup.named", by: "backup-file"},
	{point: "restore.begun", by: "restore-file"},
	{point: "restore.token-put:1", by: "restore-file"},
	{point: "restore.token-put:2", by: "restore-file", few: true},
	{point: "restore.published-put", by: "restore-file"},
	{point: "restore.ledger-put", by: "restore-file"},

	{point: "ledger.migrate.before-commit", by: "init"},   // from an empty file
	{point: "ledger.migrate.before-commit:2", by: "init"}, // from the first version of the schema to the second
	{point: "ledger.migrate.before-commit:3", by: "init"},
	{point: "ledger.migrate.before-commit:4", by: "init"},
	{point: "ledger.migrate.after-commit", by: "init"},

	{point: "init.secret-made", by: "init"},
	{point: "ca.found.generated:3", by: "init"},
	{point: "ca.found.registered:3", by: "init"},
	{point: "ledger.reserve.cert.before-commit", by: "init"},
	{point: "ledger.reserve.cert.after-commit:2", by: "init"},
	{point: "ledger.settle.cert.before-commit:2", by: "init"},
	{point: "ledger.settle.cert.after-commit", by: "init"},
	{point: "ledger.reserve.crl.before-commit", by: "init"},
	{point: "ledger.reserve.crl.after-commit", by: "init"},
	{point: "ledger.settle.crl.before-commit", by: "init"},
	{point: "ledger.settle.crl.after-commit", by: "init"},
	{point: "ca.crl.settled", by: "init"},
	{point: "server.key-written", by: "init"},
	{point: "server.certificate-written", by: "init"},
	{point: "ca.crl.number-written:2", by: "init"}, // of the second CA's list, the first is whole
	{point: "durable.renamed:2", by: "init"},

	{point: "ceremony.opening-written", by: "ceremony"},
	{point: "ceremony.noted:2", by: "ceremony"},           // after each step in its turn
	{point: "ceremony.done:9", by: "ceremony", few: true}, // and not written down: the next run does
	{point: "ceremony.backed-up", by: "ceremony"},
	{point: "ceremony.closed", by: "ceremony"},
	{point: "ceremony.signed", by: "ceremony"},
}

// newer writes a bundle of version 2, with cards of another lifetime, into the configuration's file.
func newer(t *testing.T, a *appliance.Appliance) {
	t.Helper()
	b := bytes.Replace(old(t, a), []byte(`"version": 1`), []byte(`"version": 2`), 1)
	must(t, os.WriteFile(filepath.Join(a.Dir, "policy.json"), bytes.ReplaceAll(b, []byte(`"lifetime": "90d"`), []byte(`"lifetime": "89d"`)), 0o600))
}

// old is the file that installations have.
func old(t *testing.T, a *appliance.Appliance) []byte {
	t.Helper()
	b, err := os.ReadFile("../../deploy/policies/demo.json")
	must(t, err)
	return b
}

// Every point that the code names is in the table, so that no new one is forgotten.
func TestEveryCrashPointIsTried(t *testing.T) {
	call := regexp.MustCompile(`crashpoint\.Here\((.*?)\)(?: //.*)?\n`)
	found := 0
	must(t, filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "crashpoint" || d.Name() == "tests" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && d.Name() != "../..") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			found++
			var parts []string
			for _, p := range strings.Split(m[1], ", ") {
				if p = strings.TrimSpace(p); strings.HasPrefix(p, `"`) {
					parts = append(parts, regexp.QuoteMeta(strings.Trim(p, `"`)))
				} else {
					parts = append(parts, `[a-z-]+`)
				}
			}
			name := regexp.MustCompile("^" + strings.Join(parts, `\.`) + "(:[0-9]+)?$")
			tried := false
			for _, c := range crashes {
				tried = tried || name.MatchString(c.point)
			}
			if !tried {
				t.Errorf("%s: the crash point %s is in no test", path, m[1])
			}
		}
		return nil
	}))
	if found < 20 {
		t.Errorf("only %d crash points were found in the sources", found)
	}
}

// TestCrashes kills the daemon at every point; then: what was acknowledged is there, retries get their answers, fsck is clean.
func TestCrashes(t *testing.T) {
	t.Parallel()
	var loaded [3][]crash // points under load: as many installations, which are killed again and again
	n := 0
	for _, c := range crashes {
		switch {
		case c.by == elsewhere || !all && !c.few:
		case c.by == "":
			loaded[n%len(loaded)] = append(loaded[n%len(loaded)], c)
			n++
		default:
			t.Run(c.by+" "+c.point, func(t *testing.T) {
				t.Parallel()
				c.run(t, nil)
			})
		}
	}
	for i, points := range loaded {
		if len(points) == 0 {
			continue
		}
		t.Run(fmt.Sprint("load ", i+1), func(t *testing.T) {
			t.Parallel()
			a := appliance.Install(t)
			a.Start()
			a.Issue(appliance.NewPhone(t, 1), "before-all", false)
			a.Stop()
			for _, c := range points {
				t.Run(c.point, func(t *testing.T) { c.run(t, a) })
			}
		})
	}
}

func (c *crash) run(t *testing.T, a *appliance.Appliance) {
	env := "SEAL_CRASH=" + c.point
	switch c.by {
	case "": // load alone
		a.Launch(env)
		l := start(t, a, 4)
		died(t, a)
		recovered(t, a, l)
	case "worker":
		a = appliance.Install(t)
		s := newShim(t, a, workers)
		a.Start(env)
		l := start(t, a, 4)
		l.more(4)
		s.set("C_Sign fault=crash of=sign times=1")
		died(t, a)
		s.set()
		recovered(t, a, l)
	case "bundle": // a newer one in the configuration: there is the old one or the new one, never none
		a = appliance.Install(t).Start()
		l := start(t, a, 2)
		l.more(4)
		l.end()
		a.Stop()
		newer(t, a)
		a.Launch(env)
		died(t, a)
		must(t, os.WriteFile(filepath.Join(a.Dir, "policy.json"), old(t, a), 0o600))
		a.Start()
		if v := a.Operations().PolicyVer; (v == 2) != strings.HasSuffix(c.point, "after-commit") {
			t.Errorf("version %d is active", v)
		}
		a.Stop()
		recovered(t, a, nil)
	case "officers": // what an officer said is kept or was not heard; what was decided is carried out once, with its mark or not at all
		a = appliance.Install(t)
		r, keys := governed(t, a)
		kim := keys["kim"]
		stop, err := r.Propose("kim", officer.IssuingStop, &officer.Reason{Reason: "a drill"}, 0, time.Now(), rand.Reader)
		must(t, err)
		envelope, err := officer.Approve(stop.Payload(), "kim", kim, rand.Reader)
		must(t, err)
		propose := contract.ProposeRequest{Proposal: envelope}
		executing := strings.HasPrefix(c.point, "ledger.execution")
		if executing {
			a.Start()
			_, err = a.As("officers").Propose(t.Context(), propose)
			must(t, err)
			a.Stop()
		}
		a.Launch(env)
		a.UntilUp()
		if executing {
			_, _, err = a.Post("officers", "/v1/officers/executions", "", contract.ProposalQuery{ID: stop.ID()})
		} else {
			_, _, err = a.Post("officers", "/v1/officers/proposals/new", "", propose)
		}
		if err == nil {
			t.Error("it was answered")
		}
		died(t, a)
		a.Launch()
		a.UntilUp()
		if s := a.Operations(); executing && strings.Contains(fmt.Sprint(s.Problems), "officers stopped issuing") != strings.HasSuffix(c.point, "after-commit") {
			t.Errorf("after the crash: %v", s.Problems)
		}
		if !executing { // the same again is what was lost, or no error
			_, err = a.As("officers").Propose(t.Context(), propose)
			must(t, err)
		}
		if p, err := a.As("officers").Execute(t.Context(), stop.ID()); c.point == "ledger.execution.after-commit" {
			if client.Code(err) != "proposal.executed" {
				t.Errorf("carried out again: %+v %v", p, err)
			}
		} else if err != nil || p.State != "executed" {
			t.Errorf("%+v %v", p, err)
		}
		a.Stop()
		a.Check()
	case "campaign": // every card is marked once and accounted for, whoever dies meanwhile
		a = appliance.Install(t)
		r, keys := governed(t, a)
		a.Start()
		const cards = 3
		var phones []*phone.Phone
		for i := range cards {
			phones = append(phones, appliance.NewPhone(t, 1))
			a.Issue(phones[i], fmt.Sprint("campaign-", i), false)
		}
		id := approved(t, a, r, keys, officer.ReissueMass, &officer.Mass{Key: "ds-1", Cards: cards, PerSecond: 2, Reason: "a drill"})
		a.Stop()
		a.Launch(env)
		a.UntilUp()
		_, _, _ = a.Post("officers", "/v1/officers/executions", "", contract.ProposalQuery{ID: id})
		died(t, a)
		a.Start()
		renewed := map[int]bool{}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			all, err := a.As("officers").Campaigns(t.Context())
			must(t, err)
			if c := all.Campaigns[0]; !c.Done.IsZero() {
				if c.Total != cards || c.Reissued != cards {
					t.Errorf("%+v", c)
				}
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("it does not end: %+v", all)
			}
			for i := range cards {
				h, err := a.As("auditor").Holder(t.Context(), contract.StateRequest{DocumentType: appliance.KR, Subject: fmt.Sprint("campaign-", i)})
				must(t, err)
				if len(h.Renew) > 0 && !renewed[i] {
					_, err := a.As("ward-office-1").Refresh(t.Context(), client.NewKey(), a.Request(phones[i], fmt.Sprint("campaign-", i)))
					must(t, err)
					renewed[i] = true
				}
			}
		}
		a.Stop()
		a.Check()
	case "hold", "lift":
		a = appliance.Install(t)
		r, keys := governed(t, a)
		a.Start()
		phone := appliance.NewPhone(t, 1)
		mso, sdjwt := appliance.ByFormat(a.Issue(phone, "held", false))
		id := approved(t, a, r, keys, officer.HoldMass, &officer.Hold{Key: "ds-1", Cards: 1, Reason: "a drill"})
		shows := func(want byte) {
			t.Helper()
			a.Eventually(sdjwt.Status, want)
			if got := a.Status(mso.Status); got != verifier.Valid {
				t.Errorf("the MSO is %d", got)
			}
			_, err := a.As("ward-office-1").Refresh(t.Context(), client.NewKey(), a.Request(phone, "held"))
			if held := client.Code(err) == "card.held"; held != (want == verifier.Suspended) {
				t.Errorf("a refresh: %v", err)
			}
		}
		if c.by == "lift" {
			_, err := a.As("officers").Execute(t.Context(), id)
			must(t, err)
			shows(verifier.Suspended)
			id = approved(t, a, r, keys, officer.HoldLift, &officer.Lift{Hold: id, Reason: "repaired"})
		}
		a.Stop()
		a.Launch(env)
		a.UntilUp()
		_, _, _ = a.Post("officers", "/v1/officers/executions", "", contract.ProposalQuery{ID: id})
		died(t, a)
		a.Start()
		if _, err := a.As("officers").Execute(t.Context(), id); (err == nil) != (c.point == "ledger.execution.before-commit") {
			t.Errorf("once more: %v", err)
		}
		if c.by == "lift" {
			shows(verifier.Valid)
		} else {
			shows(verifier.Suspended)
		}
		a.Stop()
		a.Check()
	case "policy": // a bundle is gone from the ledger: what was reserved by it is made anew, by one with another lifetime
		a = appliance.Install(t)
		a.Start("SEAL_CRASH=ca.issue.reserved:5")
		l := start(t, a, 4)
		died(t, a)
		newer(t, a)
		store, err := ledger.OpenSQLite(t.Context(), filepath.Join(a.Dir, "data", "ledger.db"))
		must(t, err)
		rows, err := store.Scan(t.Context(), ledger.TableMeta, []byte("policy/bundle/"), 1)
		must(t, err)
		_, err = store.Commit(t.Context(), []ledger.Op{{Leaf: []byte(`{"v":1,"kind":"meta","at":"2026-01-01T00:00:00Z"}`),
			Rows: []ledger.Row{{Table: ledger.TableMeta, Key: rows[0].Key, If: ledger.Any}}}})
		must(t, err)
		must(t, store.Close())
		a.Launch(env)
		died(t, a)
		recovered(t, a, l)
	case "event": // a carrier that is not answered sends its event again: the phone is locked once, whichever try did it
		b, by := appliance.InstallProgramme(t, "kr-resident.json", nil)
		a = b.Start()
		p, err := phone.New(1)
		must(t, err)
		person := a.Case(by, "portal", "ic_chip", p, "event-1")
		card, err := a.As("portal").Issue(t.Context(), client.NewKey(), person.Request)
		must(t, err)
		a.Stop()
		a.Launch(env)
		a.UntilUp()
		lost := by.Event(person.Line(), 1, evidence.LineLost)
		if c.point == "ledger.raise.before-commit" { // refused before, through a client whose events these are not
			if _, err := a.As("card-system").Event(t.Context(), lost); client.Code(err) != "reason.forbidden" {
				t.Errorf("through another's client: %v", err)
			}
		}
		if _, _, err := a.Post("telecom-a", "/v1/events", "", lost); err == nil {
			t.Error("the event was answered")
		}
		died(t, a)
		a.Start()
		out, err := a.As("telecom-a").Event(t.Context(), lost)
		must(t, err)
		if out.Effect != ledger.EventApplied {
			t.Errorf("sent again: %+v", out)
		}
		for _, c := range card.Credentials {
			a.Eventually(c.Status, map[string]byte{"mso_mdoc": verifier.Invalid, "dc+sd-jwt": verifier.Suspended}[c.Format])
		}
		out, err = a.As("telecom-a").Event(t.Context(), by.Event(person.Line(), 2, evidence.LineFound))
		must(t, err)
		if out.Effect != ledger.EventApplied {
			t.Errorf("found: %+v", out)
		}
		a.Stop()
		a.Check()
	case "replace":
		a = appliance.Install(t).Start()
		const subject = "replaced-1"
		old := a.Issue(appliance.NewPhone(t, 1), subject, false)
		a.Stop()
		a.Start(env)
		request, key := a.Request(appliance.NewPhone(t, 1), subject), client.NewKey()
		request.Replace = true
		_, _, _ = a.Post("ward-office-1", "/v1/credentials", key, request)
		died(t, a)
		a.Start()
		h, err := a.As("auditor").Holder(t.Context(), contract.StateRequest{DocumentType: appliance.KR, Subject: subject})
		must(t, err)
		for _, c := range h.Credentials {
			if c.Device != h.Device && c.Status != "revoked" {
				t.Errorf("two phones after the crash: %+v", h)
			}
		}
		now, err := a.As("ward-office-1").Issue(t.Context(), key, request)
		must(t, err)
		again, err := a.As("ward-office-1").Issue(t.Context(), key, request)
		must(t, err)
		if now.Device == old.Device || again.Issuance != now.Issuance {
			t.Errorf("the retry brought %s for %s, then %s", now.Issuance, now.Device, again.Issuance)
		}
		for _, c := range old.Credentials { // before the new one's answer
			if got := a.Status(c.Status); got != verifier.Invalid {
				t.Errorf("the old phone's %s has status %d beside the new one", c.Format, got)
			}
		}
		for _, c := range now.Credentials {
			a.Eventually(c.Status, verifier.Valid)
		}
		a.Stop()
		a.Check()
	case "schedule", "cancel": // who ordered it asks nobody again: it is carried out all the same
		a = appliance.Install(t).Start()
		const subject = "scheduled-1"
		card := a.Issue(appliance.NewPhone(t, 1), subject, false)
		sd := card.Credentials[slices.IndexFunc(card.Credentials, func(c contract.Credential) bool { return c.Format == "dc+sd-jwt" })]
		a.Stop()
		a.Start(env)
		from := time.Now().Add(time.Second).Truncate(time.Second)
		order := contract.ScheduleRequest{DocumentType: appliance.KR, Subject: subject, Schedule: "case-1", Operation: "lock", Reason: "admin_hold", From: from, To: from.Add(30 * time.Second)} // long enough for a slow start in between
		if c.by == "cancel" {
			order.From, order.To = from.Add(time.Hour), time.Time{}
		}
		_, _, _ = a.Post("ministry", "/v1/schedules", "", order)
		if c.by == "cancel" {
			_, _, _ = a.Post("ministry", "/v1/schedules/cancel", "", contract.ScheduleCancel{DocumentType: appliance.KR, Subject: subject, Schedule: "case-1"})
		}
		died(t, a)
		a.Start()
		if c.by == "schedule" {
			if !strings.HasSuffix(c.point, ":2") {
				a.Eventually(sd.Status, verifier.Suspended)
			}
		}
		a.Eventually(sd.Status, verifier.Valid)
		h, err := a.As("auditor").Holder(t.Context(), contract.StateRequest{DocumentType: appliance.KR, Subject: subject})
		must(t, err)
		if len(h.Schedules) > 0 || len(h.Locks) > 0 {
			t.Errorf("at the end: %+v", h)
		}
		a.Stop()
		a.Check()
	case "give-up":
		a = appliance.Install(t)
		a.Write("sealkeeper.yaml", strings.Replace(appliance.Configuration(a.Ports[:]...), "limits: {", "limits: {give_up_after: 3s, ", 1))
		a.Start("SEAL_CRASH=ca.issue.reserved")
		_, _, _ = a.Post("ward-office-1", "/v1/credentials", client.NewKey(), a.Request(appliance.NewPhone(t, 1), "given-up-1"))
		died(t, a)
		a.Launch(env)
		died(t, a)
		a.Start()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			h, err := a.As("auditor").Holder(t.Context(), contract.StateRequest{DocumentType: appliance.KR, Subject: "given-up-1"})
			must(t, err)
			if !h.Bound && len(h.Credentials) > 0 && h.Credentials[0].Status == "revoked" {
				a.Eventually(h.Credentials[0].StatusRef, verifier.Invalid)
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("not given up: %+v", h)
			}
		}
		a.Stop()
		a.Check()
	case "flood": // a decision that is durable comes to its end, whoever dies meanwhile; one that is not has no effect
		b, by := appliance.InstallProgramme(t, "kr-resident.json", func(bundle map[string]any) {
			for _, v := range bundle["authorities"].([]any) {
				if v := v.(map[string]any); v["id"] == "telecom-a" {
					v["flood"] = 1
				}
			}
		})
		a = b.Start()
		programme.Left(time.Hour, 2*time.Minute) // the threshold is an hour's
		var cards []contract.Credential
		for i := range 3 {
			p, err := phone.New(1)
			must(t, err)
			person := a.Case(by, "portal", "ic_chip", p, fmt.Sprint("flood-", i))
			card, err := a.As("portal").Issue(t.Context(), client.NewKey(), person.Request)
			must(t, err)
			_, err = a.As("telecom-a").Event(t.Context(), by.Event(person.Line(), 1, evidence.LineLost))
			must(t, err)
			if i > 0 { // the first is none of the flood
				cards = append(cards, card.Credentials...)
			}
		}
		all, err := a.As("operator-1").Floods(t.Context())
		must(t, err)
		if len(all.Floods) != 1 || all.Floods[0].Cards != 2 || all.Floods[0].MDocs != 2 {
			t.Fatalf("waiting: %+v", all)
		}
		undo := contract.FloodRequest{Carrier: "telecom-a", Hour: all.Floods[0].Hour, Decision: "undo"}
		a.Stop()
		a.Launch(env)
		a.UntilUp()
		_, _, _ = a.Post("operator-1", "/v1/floods/decisions", "", undo)
		died(t, a)
		a.Start()
		if c.point == "ledger.flood.before-commit" {
			_, err = a.As("operator-1").DecideFlood(t.Context(), undo)
			must(t, err)
		}
		for _, c := range cards {
			a.Eventually(c.Status, verifier.Valid)
		}
		a.Stop()
		a.Check()
	case "resume":
		a = appliance.Install(t)
		a.Start("SEAL_CRASH=ca.issue.reserved:5")
		l := start(t, a, 4)
		died(t, a)
		a.Launch(env)
		died(t, a)
		recovered(t, a, l)
	case "fence":
		a = appliance.Install(t)
		a.Start()
		first := a.Issue(appliance.NewPhone(t, 1), "fence-1", false)
		a.Stop()
		ledger := filepath.Join(a.Dir, "data", "ledger.db")
		old, err := os.ReadFile(ledger)
		must(t, err)
		a.Start()
		a.Issue(appliance.NewPhone(t, 1), "fence-2", false)
		lost := a.Change("telecom-a", appliance.Lock, "fence-1", "telecom_lost", "")
		if !lost.Changed {
			t.Fatal("nothing was locked")
		}
		_, sd := appliance.ByFormat(first)
		a.Eventually(sd.Status, verifier.Suspended)
		a.Stop()
		for _, suffix := range []string{"-wal", "-shm"} {
			os.Remove(ledger + suffix)
		}
		must(t, os.WriteFile(ledger, old, 0o600))
		a.Launch()
		if code := a.Wait(); code != 3 {
			t.Fatalf("a fenced daemon ended with %d", code)
		}
		killed(t, a, env, "accept", "fence")
		a.Command(0, "accept", "fence")
		a.Start()
		if got := a.Status(sd.Status); got != verifier.Suspended {
			t.Errorf("a card that was published as locked is %d", got)
		}
		a.Stop()
		recovered(t, a, nil)
	case "backup": // beside the running daemon: half a backup has no ledger, so that nobody takes it for a whole one
		a = appliance.Install(t).Start()
		l := start(t, a, 2)
		l.more(8)
		dir := filepath.Join(a.Dir, "backup")
		killed(t, a, env, "backup", "--out", dir)
		whole := exists(filepath.Join(dir, "ledger.db"))
		if whole != (c.point == "backup.named") { // it happened, and nobody was told
			t.Errorf("the backup looks whole: %v", whole)
		}
		a.Command(0, "backup", "--out", dir+"-2")
		a.Stop()
		recovered(t, a, l)
		for _, lost := range []string{"tokens", "ledger.db", "ledger.db-wal", "ledger.db-shm"} {
			must(t, os.RemoveAll(filepath.Join(a.Dir, "data", lost)))
		}
		if !whole {
			a.Command(1, "restore", "--from", dir)
			return
		}
		a.Command(0, "restore", "--from", dir)
		a.Command(0, "accept", "fence") // the daemon went on after it
		recovered(t, a, nil)
	case "backup-file":
		a, _ = withBackupKey(t)
		a.Start()
		l := start(t, a, 2)
		l.more(8)
		file := filepath.Join(a.Dir, "a.backup")
		killed(t, a, env, "backup", "--out", file)
		if exists(file) != (c.point == "backup.named") {
			t.Errorf("the backup is there: %v", exists(file))
		}
		if exists(file) {
			must(t, os.Rename(file, file+".first"))
			_, err := backup.Inspect(file + ".first")
			must(t, err)
		}
		a.Command(0, "backup", "--out", file)
		if exists(file+".part") || exists(filepath.Join(a.Dir, "data", ".backup")) {
			t.Error("something of the backup that was killed is left")
		}
		a.Stop()
		recovered(t, a, l)
	case "restore-file":
		var shares []string
		a, shares = withBackupKey(t)
		a.Start()
		l := start(t, a, 2)
		l.more(8)
		l.end()
		a.Stop()
		file, data := filepath.Join(a.Dir, "a.backup"), filepath.Join(a.Dir, "data")
		a.Command(0, "backup", "--out", file)
		for _, lost := range []string{"tokens", "pins", "tls", "publish", "ledger.db", "ledger.db-wal", "ledger.db-shm"} {
			must(t, os.RemoveAll(filepath.Join(data, lost)))
		}
		args := append([]string{"restore", "--from", file, "--config", filepath.Join(a.Dir, "sealkeeper.yaml")}, shares...)
		put := exec.Command(appliance.Sealctl, args...)
		put.Env = append(os.Environ(), env)
		out, _ := put.CombinedOutput()
		if s, ok := put.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			t.Fatalf("restore was not killed but ended: %s\n%s", put.ProcessState, out)
		}
		a.Launch()
		if code := a.Wait(); code == 0 || c.point == "restore.ledger-put" && code != 3 {
			t.Errorf("a daemon on half a restore ended with %d", code)
		}
		if c.point != "restore.ledger-put" {
			for _, made := range []string{"ledger.db", "ledger.db-wal", "ledger.db-shm"} { // by the daemon that was tried
				must(t, os.RemoveAll(filepath.Join(data, made)))
			}
			if out, err := exec.Command(appliance.Sealctl, args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		a.Launch()
		if code := a.Wait(); code != 3 {
			t.Errorf("a restored daemon ended with %d and not FENCED", code)
		}
		a.Command(0, "accept", "fence")
		if exists(ledger.RestoringFile(filepath.Join(data, "ledger.db"))) {
			t.Error("the fence is lifted, and the restore is still under way")
		}
		recovered(t, a, nil)
		a.Start()
		l.verify()
		a.Stop()
	case "restore":
		a = appliance.Install(t).Start()
		l := start(t, a, 2)
		l.more(8)
		l.end()
		a.Stop()
		dir, data := filepath.Join(a.Dir, "backup"), filepath.Join(a.Dir, "data")
		a.Command(0, "backup", "--out", dir)
		for _, lost := range []string{"tokens", "ledger.db", "ledger.db-wal", "ledger.db-shm"} {
			must(t, os.RemoveAll(filepath.Join(data, lost)))
		}
		killed(t, a, env, "restore", "--from", dir)
		if c.point != "ledger.copy.renamed" { // there it happened: all is back
			a.Launch()
			if code := a.Wait(); code == 0 || exists(filepath.Join(data, "ledger.db-wal")) && code != 2 {
				t.Errorf("a daemon on half a restore ended with %d", code)
			}
			for _, half := range []string{"tokens", "ledger.db", "ledger.db-wal", "ledger.db-shm"} {
				must(t, os.RemoveAll(filepath.Join(data, half)))
			}
			a.Command(0, "restore", "--from", dir)
		}
		recovered(t, a, nil)
		a.Start()
		l.verify()
		a.Stop()
	case "sweep": // no daemon waits for thirty days: these are the tests of the ledger, whose clock goes faster
		tests, err := ledgerTests()
		must(t, err)
		dir := t.TempDir()
		run := func(env ...string) (string, *os.ProcessState) {
			c := exec.Command(tests, "-test.v", "-test.run", "^TestSweepThatDies$")
			c.Dir, c.Env = "../../ledger", append(append(os.Environ(), "SEAL_SWEEP_DIR="+dir), env...)
			out, _ := c.CombinedOutput()
			return string(out), c.ProcessState
		}
		out, end := run(env)
		if s, ok := end.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			t.Fatalf("the sweep was not killed but ended: %s\n%s", end, out)
		}
		left := map[string]string{"before-commit": "5", "after-commit": "2", "before-commit:2": "2", "after-commit:2": "none"}[strings.TrimPrefix(c.point, "ledger.campaign.swept.")]
		if out, end := run("SEAL_SWEEP_LEFT=" + left); !end.Success() || !strings.Contains(out, "--- PASS: TestSweepThatDies") {
			t.Errorf("after the kill: %s\n%s", end, out)
		}
	case "ceremony":
		interrupted(t, c.point)
	case "init":
		a = appliance.Install(t)
		must(t, os.RemoveAll(filepath.Join(a.Dir, "data")))
		must(t, os.RemoveAll(filepath.Join(a.Dir, "witness")))
		must(t, os.RemoveAll(filepath.Join(a.Dir, "clients")))
		killed(t, a, env, "init", "--dev")
		found(a)
		recovered(t, a, nil)
	}
}

// ledgerTests builds the tests of the ledger with its crash points.
var ledgerTests = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(filepath.Dir(library), "ledger.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "crashpoints", "-o", path, "sealkeeper/ledger").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the ledger's tests: %w\n%s", err, out)
	}
	return path, nil
})

// withBackupKey is an installation without officers whose backups two people open together, and the flags that do.
func withBackupKey(t *testing.T) (a *appliance.Appliance, flags []string) {
	t.Helper()
	a = appliance.Install(t)
	key, shares, err := backup.NewKey(2, []string{"kim", "lee"}, time.Now(), rand.Reader)
	must(t, err)
	pass := filepath.Join(a.Dir, "passphrase")
	must(t, os.WriteFile(pass, []byte("four words are enough"), 0o600))
	for _, s := range shares {
		b, err := s.Close("four words are enough", 10) // a test does not wait for scrypt
		must(t, err)
		path := filepath.Join(a.Dir, s.Officer+".share")
		must(t, os.WriteFile(path, b, 0o600))
		flags = append(flags, "--share", path, "--passphrase-file", pass)
	}
	l, err := ledger.Open(t.Context(), ledger.Options{Path: filepath.Join(a.Dir, "data", "ledger.db"), HighWater: filepath.Join(a.Dir, "witness", "high-water.json")})
	must(t, err)
	must(t, l.PutBackupKey(t.Context(), key.JSON(), nil))
	must(t, l.Close())
	return a, flags
}

// died waits for the kill that was asked for.
func died(t *testing.T, a *appliance.Appliance) {
	t.Helper()
	select {
	case <-a.Exited:
	case <-time.After(time.Minute):
		t.Fatalf("the daemon does not come to its crash point\n%s", tail(a))
	}
	if s, ok := a.Daemon.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		t.Fatalf("the daemon was not killed but ended: %s\n%s", a.Daemon.ProcessState, tail(a))
	}
	a.Daemon = nil
}

// killed runs a command that is killed at a crash point.
func killed(t *testing.T, a *appliance.Appliance, env string, args ...string) {
	t.Helper()
	c := exec.Command(appliance.Binary, append(args, "--config", filepath.Join(a.Dir, "sealkeeper.yaml"))...)
	c.Env = append(os.Environ(), env)
	out, _ := c.CombinedOutput()
	if s, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		t.Fatalf("%v was not killed but ended: %s\n%s", args, c.ProcessState, out)
	}
}

// recovered starts the appliance again and compares it with what was acknowledged. A nil load: a new one.
func recovered(t *testing.T, a *appliance.Appliance, l *load) {
	t.Helper()
	a.Start()
	if l == nil {
		l = start(t, a, 2)
	}
	l.more(12)
	l.end()
	l.verify()
	a.Stop()
	a.Check()
	t.Logf("%d changes acknowledged, %d repeated, %d credentials verified", l.acks.Load(), l.failed.Load(), len(l.cards))
}

// officersAll are three people with keys in memory, of whom one can stop issuing.
func officersAll(t *testing.T) (registry string, keys map[string]crypto.Signer) {
	t.Helper()
	keys = map[string]crypto.Signer{}
	r := &officer.Registry{Rules: officer.DefaultRules()}
	for _, id := range []string{"kim", "lee", "park"} {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		must(t, err)
		r.Officers = append(r.Officers, officer.Officer{ID: id, Name: strings.ToUpper(id), Role: officer.RoleOfficer, Key: public})
		keys[id] = key
	}
	out, err := r.JSON()
	must(t, err)
	return string(out), keys
}

// governed registers three officers with an installation, and gives their registry and keys.
func governed(t *testing.T, a *appliance.Appliance) (*officer.Registry, map[string]crypto.Signer) {
	t.Helper()
	registry, keys := officersAll(t)
	a.Write("officers.json", registry)
	bundle := strings.Replace(string(old(t, a)), `{"id": "auditor",`, `{"id": "officers", "role": "officer", "may": {}}, {"id": "auditor",`, 1)
	a.Write("policy.json", strings.Replace(bundle, `"version": 1`, `"version": 3`, 1))
	a.Command(0, "init", "--dev", "--officers", filepath.Join(a.Dir, "officers.json"))
	a.Command(0, "enrol", "--out", filepath.Join(a.Dir, "clients"), "officers")
	a.Start()
	o, err := a.As("officers").Officers(t.Context())
	must(t, err)
	r, err := officer.ParseRegistry([]byte(o.Registry)) // with the name of the installation
	must(t, err)
	a.Stop()
	return r, keys
}

// approved is the id of a proposal that two officers approved.
func approved(t *testing.T, a *appliance.Appliance, r *officer.Registry, keys map[string]crypto.Signer, action officer.Action, parameters officer.Parameters) string {
	t.Helper()
	p, err := r.Propose("kim", action, parameters, 0, time.Now(), rand.Reader)
	must(t, err)
	envelope, err := officer.Approve(p.Payload(), "kim", keys["kim"], rand.Reader)
	must(t, err)
	_, err = a.As("officers").Propose(t.Context(), contract.ProposeRequest{Proposal: envelope})
	must(t, err)
	envelope, err = officer.Approve(p.Payload(), "lee", keys["lee"], rand.Reader)
	must(t, err)
	_, err = a.As("officers").Approve(t.Context(), contract.ApprovalRequest{ID: p.ID(), Envelope: envelope})
	must(t, err)
	return p.ID()
}
