package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/ledger"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/verifier"
)

// drillCards is how many cards are locked after the backup.
func drillCards(t *testing.T) int {
	text := os.Getenv("SEAL_DRILL_CARDS")
	if text == "" {
		return 12
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SEAL_DRILL_CARDS=%s is no number of cards", text)
	}
	return n
}

// each runs a job for every number below n, eight at a time.
func each(t *testing.T, n int, job func(i int) error) {
	t.Helper()
	var work sync.WaitGroup
	next, failed := make(chan int), make(chan error, 8)
	for range 8 {
		work.Go(func() {
			for i := range next {
				if err := job(i); err != nil {
					select {
					case failed <- fmt.Errorf("%d: %w", i, err):
					default:
					}
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	work.Wait()
	close(failed)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// backupKey has the three officers make a backup key, and put it to use.
func (g *governed) backupKey() {
	g.t.Helper()
	dir := g.path("shares")
	args := []string{"backup", "shares", "--officers", "kim,lee,park", "--threshold", "2", "--out", dir}
	for _, id := range []string{"kim", "lee", "park"} {
		args = append(args, "--passphrase-file", id+"="+g.path("passphrase"))
	}
	var made struct {
		ID  string
		Key string `json:"key_file"`
	}
	if err := json.Unmarshal([]byte(g.sealctl(0, args...)), &made); err != nil {
		g.t.Fatal(err)
	}
	g.sealctl(2, args...) // no share is written over another
	propose := []string{"propose", "backup.key", "id=" + made.ID, "threshold:=2", `holders:=["kim","lee","park"]`, "key=@" + made.Key}
	p := g.officer(0, "kim", propose...)
	if p = g.officer(0, "lee", "approve", p.ID); p.State != "ready" {
		g.t.Fatalf("%+v", p)
	}
	g.execute(0, p.ID)
	other := append(propose[:2:2], "id="+strings.Repeat("ab", 32))
	p = g.officer(0, "kim", append(other, propose[3:]...)...)
	g.officer(0, "lee", "approve", p.ID)
	has(g.t, g.execute(1, p.ID).Why, "backup.key") // not what its text says
}

// shares are the flags for some officers' shares.
func (g *governed) shares(ids ...string) (args []string) {
	for _, id := range ids {
		args = append(args, "--share", filepath.Join(g.path("shares"), id+".share"), "--passphrase-file", g.path("passphrase"))
	}
	return args
}

// Back up, lock cards, lose everything but what is published, restore: FENCED, and nothing is signed. Officers sign what is lost; then every card is
// locked again, without anybody reporting it again, and what can't be known is told.
func TestRestoreDrill(t *testing.T) {
	t.Parallel()
	n := drillCards(t)
	g := installGoverned(t)
	config := filepath.Join(g.Dir, "sealkeeper.yaml")
	file := g.path("night.backup")
	g.Command(1, "backup", "--out", file) // officers without a backup key
	g.start()
	g.backupKey()
	subject := func(i int) string { return fmt.Sprintf("drill-%d", i) }
	type card struct{ mdoc, sd contract.StatusRef }
	cards := make([]card, n)
	each(t, n, func(i int) error {
		p := newPhone(t, 1)
		r, err := g.TryRequest(p, subject(i))
		if err != nil {
			return err
		}
		out, err := g.As("ward-office-1").Issue(context.Background(), client.NewKey(), r)
		if err != nil {
			return err
		}
		m, s := byFormat(out)
		cards[i] = card{m.Status, s.Status}
		return nil
	})
	untouched := g.Issue(newPhone(t, 1), "drill-untouched", false)

	stop := g.officer(0, "lee", "propose", "issuing.stop", "reason=rejected after the backup")
	g.Command(0, "backup", "--out", file)
	g.Command(1, "backup", "--out", file) // nothing is overwritten
	var seen struct {
		Journal uint64 `json:"journal_size"`
		PINs    bool
		SHA256  string
	}
	if err := json.Unmarshal([]byte(g.sealctl(0, "backup", "inspect", file)), &seen); err != nil || seen.Journal == 0 || !seen.PINs {
		t.Fatalf("%v: %+v", err, seen)
	}
	for _, secret := range []string{harness.Canary, "drill-1"} {
		if b, err := os.ReadFile(file); err != nil || strings.Contains(string(b), secret) {
			t.Errorf("%v: the backup shows %q", err, secret)
		}
	}
	has(t, g.sealctl(1, append([]string{"backup", "prove", file}, g.shares("kim")...)...), "it takes 2 of 3")
	has(t, g.sealctl(0, append([]string{"backup", "prove", file}, g.shares("kim", "park")...)...), `"ledger_problems": []`)

	// What the backup does not know.
	if p := g.officer(0, "park", "reject", stop.ID); p.State != "rejected" {
		t.Errorf("%+v", p)
	}
	each(t, n, func(i int) error {
		_, err := g.As("telecom-a").Lock(context.Background(), contract.ChangeRequest{DocumentType: harness.KR, Subject: subject(i), Reason: "telecom_lost"})
		return err
	})
	late := g.Issue(newPhone(t, 1), "drill-late", false)
	g.Change("telecom-a", lock, "drill-late", "telecom_lost", "")
	lateMDoc, lateSD := byFormat(late)
	g.Eventually(cards[n-1].sd, verifier.Suspended)
	g.Eventually(lateSD.Status, verifier.Suspended)
	g.Stop()
	published := map[string]string{}
	paths, _ := filepath.Glob(filepath.Join(g.Dir, "data", "publish", "status-lists", "*"))
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		published[p] = string(b)
	}
	versions := map[string]uint64{}
	for p, b := range published {
		if filepath.Ext(p) == ".json" {
			m, err := ledger.ParseListMeta([]byte(b))
			if err != nil {
				t.Fatal(err)
			}
			versions[m.ID] = m.Version
		}
	}

	restore := append([]string{"restore", "--config", config, "--from", file}, g.shares("park", "lee")...)
	has(t, g.sealctl(1, restore...), "nothing is overwritten")
	lost := filepath.Join(g.Dir, "lost")
	if err := os.Mkdir(lost, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ledger.db", "ledger.db-wal", "ledger.db-shm", "tokens", "pins", "tls"} {
		if err := os.Rename(filepath.Join(g.Dir, "data", name), filepath.Join(lost, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	var d ledger.Difference
	if err := json.Unmarshal([]byte(g.sealctl(0, restore...)), &d); err != nil {
		t.Fatal(err)
	}
	if d.Size != seen.Journal || d.Cards.Locked != n || d.Cards.Revoked+d.Cards.Partly != 0 || d.Unknown != 2 || d.Seen <= d.Size || d.Restored == nil {
		t.Errorf("what differs: %+v", d)
	}

	// FENCED: no list is signed, nobody answers, and no single person ends it.
	for range 2 {
		g.Launch()
		if code := g.Wait(); code != 3 || !strings.Contains(g.Log.String(), "FENCED: the ledger was restored") {
			t.Fatalf("a restored daemon ended with %d\n%s", code, g.Log.String())
		}
	}
	for p, was := range published {
		if b, err := os.ReadFile(p); err != nil || string(b) != was {
			t.Errorf("%s changed while the appliance was fenced (%v)", filepath.Base(p), err)
		}
	}
	// A list that somebody changed gives nothing back, and is named. The MSOs' list still shows that the cards were locked.
	var forged string
	for p := range published {
		if filepath.Ext(p) == ".jwt" {
			forged = p
		}
	}
	if err := os.WriteFile(forged, []byte(published[forged][:len(published[forged])-4]+"AAAA"), 0o644); err != nil {
		t.Fatal(err)
	}
	has(t, g.sealctl(0, "fence", "show", "--config", config), `"doubt": "`, fmt.Sprintf(`"locked": %d`, n))
	if err := os.WriteFile(forged, []byte(published[forged]), 0o644); err != nil {
		t.Fatal(err)
	}
	has(t, g.Command(1, "accept", "fence"), "officer.required")
	request, approvals := g.path("request.json"), g.path("approvals.json")
	g.sealctl(0, "fence", "request", "--config", config, "--out", request)
	sign := func(id string, args ...string) { g.sealctl(0, append(append(args, "--yes"), g.key[id]...)...) }
	sign("kim", "fence", "propose", request, "--reason", "the disk is gone for good", "--out", approvals)
	has(t, g.Command(1, "accept", "fence", "--approvals", approvals), "officer.short")
	sign("lee", "fence", "approve", approvals)
	signed, err := os.ReadFile(approvals)
	if err != nil {
		t.Fatal(err)
	}
	g.write("edited.json", strings.Replace(string(signed), fmt.Sprintf("%d cards locked", n), "0 cards locked", 1))
	g.Command(1, "accept", "fence", "--approvals", g.path("edited.json"))
	// What they signed is of a directory that has another list now: it is not what they read.
	var some string
	for p := range versions {
		some = filepath.Join(g.Dir, "data", "publish", "status-lists", p+".json")
	}
	if err := os.Rename(some, some+".away"); err != nil {
		t.Fatal(err)
	}
	has(t, g.Command(1, "accept", "fence", "--approvals", approvals), "fence.changed")
	if err := os.Rename(some+".away", some); err != nil {
		t.Fatal(err)
	}
	said := g.Command(0, "accept", "fence", "--approvals", approvals)
	has(t, said, fmt.Sprintf("From published lists: %d cards locked, 0 revoked", n), "2 credentials, issued in the lost part", "the fence is lifted")
	has(t, g.Command(0, "accept", "fence", "--approvals", approvals), "not fenced")

	g.start()
	has(t, g.execute(1, stop.ID).Why, "officer.epoch") // the backup has it open
	if p := g.officer(0, "lee", "propose", "issuing.resume", "reason=nothing is stopped"); p.State != "open" {
		t.Errorf("a proposal of after the fence: %+v", p)
	}
	for i, c := range cards {
		g.Eventually(c.sd, verifier.Suspended)
		g.Eventually(c.mdoc, verifier.Invalid)
		if i%100 == 0 {
			h, err := g.As("auditor").Holder(context.Background(), contract.StateRequest{DocumentType: harness.KR, Subject: subject(i)})
			if err != nil || len(h.Locks) != 1 || h.Locks[0].Reason != "restored" {
				t.Errorf("card %d: %v %+v", i, err, h.Locks)
			}
		}
	}
	m, s := byFormat(untouched)
	if g.Status(m.Status) != verifier.Valid || g.Status(s.Status) != verifier.Valid {
		t.Error("a card that nobody locked does not count any more")
	}
	g.Eventually(lateMDoc.Status, verifier.Invalid) // cards that the ledger does not know were locked, and are
	g.Eventually(lateSD.Status, verifier.Suspended)
	jumped := 0
	for _, l := range g.Operations().Lists {
		if was, ok := versions[l.ID]; ok {
			if jumped++; l.Version <= was+999 {
				t.Errorf("list %s has version %d after %d", l.ID, l.Version, was)
			}
		}
	}
	if jumped != len(versions) {
		t.Errorf("%d of %d lists are still published", jumped, len(versions))
	}
	fresh := g.Issue(newPhone(t, 1), "drill-fresh", false)
	for _, c := range fresh.Credentials {
		if _, old := versions[filepath.Base(c.Status.URI)]; old {
			t.Errorf("list %s was opened before the fence, and has a new card", c.Status.URI)
		}
	}
	t.Logf("%d cards: backup of %d entries, %d lost, locked again from published lists: %d; versions %v jumped", n, d.Size, d.Seen-d.Size, d.Cards.Locked, versions)
	g.Stop()
	g.Check()
	out, err := exec.Command(harness.Sealctl, "fence", "show", "--config", config).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	has(t, string(out), "not FENCED", "The last fence was lifted at", fmt.Sprintf("%d cards locked", n))
}

// Everything but the token comes back from one snapshot of before the last start: nothing but the token's mark says that the ledger is old. The officers are
// shown that, sign it, and the fence is lifted by what they signed, once.
func TestOfficersLiftAFenceOfTheMark(t *testing.T) {
	t.Parallel()
	g := installGoverned(t)
	config := filepath.Join(g.Dir, "sealkeeper.yaml")
	before := t.TempDir()
	for _, name := range []string{"data/ledger.db", "data/publish", "witness"} {
		copied(t, filepath.Join(g.Dir, name), filepath.Join(before, filepath.Base(name)))
	}
	g.start()
	g.Stop()
	g.putBack(before, "data/ledger.db", "data/publish", "witness")
	has(t, g.sealctl(0, "fence", "show", "--config", config), `"reasons": []`) // no start has looked at the token
	g.Launch()
	if code := g.Wait(); code != 3 || !strings.Contains(g.Log.String(), "and the ledger knows") {
		t.Fatalf("the daemon ended with %d\n%s", code, g.Log.String())
	}
	has(t, g.sealctl(0, "fence", "show", "--config", config), `token \"online\" has mark`)
	g.liftFence()
	has(t, g.sealctl(0, "fence", "show", "--config", config), `"reasons": []`, `"proposal": "`)
	has(t, g.Command(0, "accept", "fence"), "not fenced")
	g.start()
	g.Stop()
	g.Check()
}
