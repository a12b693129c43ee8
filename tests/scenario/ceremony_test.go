package scenario

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sealkeeper/ceremony"
	harness "sealkeeper/tests/appliance"
)

// Three officers, two with tokens of their own and one with a key file, make an installation. Nothing is made before all of them have shown
// their keys, nothing is served before a quorum signed what was done, and anybody can check it afterwards.
func TestCeremony(t *testing.T) {
	t.Parallel()
	g := withOfficers(t)
	for _, dir := range []string{"data", "witness", "clients"} {
		if err := os.RemoveAll(filepath.Join(g.Dir, dir)); err != nil {
			t.Fatal(err)
		}
	}
	opening, transcript := filepath.Join(g.Dir, "data", "ceremony", "opening.json"), filepath.Join(g.Dir, "data", "ceremony", "transcript.json")
	sign := func(want int, paper, id string, more ...string) string {
		t.Helper()
		return g.sealctl(want, append(append([]string{"ceremony", "sign", paper, "--yes"}, g.key[id]...), more...)...)
	}
	verify := func(want int, args ...string) (r ceremony.Report) {
		t.Helper()
		out := g.sealctl(want, append([]string{"ceremony", "verify", transcript}, args...)...)
		if want == 0 {
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		return r
	}

	has(t, g.Command(2, "init"), "--officers", "--dev")
	said := g.Command(0, "init", "--officers", g.path("officers.json"))
	has(t, said, "11. The officers sign the transcript", "Kim", "Lee", "Park", "installation Test", "sealctl ceremony sign "+opening)
	has(t, g.Command(0, "init"), "SHA-256 of this statement") // as long as nobody signed it is shown again
	g.write("others.json", g.registry("kim", "choi", "park"))
	has(t, g.Command(2, "init", "--officers", g.path("others.json")), "is not the registry")

	sign(0, opening, "kim")
	sign(0, opening, "lee", "--out", g.path("lee-opening.json"))
	has(t, g.Command(1, "init", "--signatures", g.path("lee-opening.json")), "ceremony.missing", "kim, lee did, park not yet")
	choi := append([]string{}, g.key["choi"]...)
	choi[1] = "park"
	g.sealctl(0, append([]string{"ceremony", "sign", opening, "--yes"}, choi...)...) // with a key that is not park's
	has(t, g.Command(1, "init"), "ceremony.signature", "park")
	if _, err := os.Stat(filepath.Join(g.Dir, "data", "ledger.db")); err == nil {
		t.Fatal("there is a ledger before the officers signed")
	}
	sign(0, opening, "park")

	phrases := g.path("phrases")
	if err := os.Mkdir(phrases, 0o700); err != nil {
		t.Fatal(err)
	}
	has(t, g.Command(2, "init"), "--passphrases") // no terminal: what was made until then stays
	for _, id := range []string{"kim", "lee", "park"} {
		g.write("phrases/"+id, "four words of "+id)
	}
	said = g.Command(0, "init", "--passphrases", phrases, "--shares", g.path("shares"))
	has(t, said, "An interrupted ceremony goes on", "2 of kim, lee, park open it, and kim, lee did")
	has(t, said, "the officers are registered, before the first key is made", "token iaca, label sealkeeper-iaca, serial ", "key iaca-1", "certificate of ds-1", "CRL iaca number 1", "nothing more is made", "sealctl ceremony sign "+transcript)
	has(t, g.Command(2, "serve"), "the ceremony of this installation is not finished")
	has(t, g.Command(2, "enrol", "officers"), "the ceremony of this installation is not finished")
	has(t, g.Command(2, "init", "--dev"), "leave --dev out")

	sign(0, transcript, "kim")
	has(t, g.Command(1, "init"), "ceremony.short", "1 officers of at least 2")
	whole, err := os.ReadFile(transcript)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.path("forged.json"), []byte(strings.Replace(string(whole), `"algorithm":"ES256"`, `"algorithm":"ES384"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	has(t, sign(5, g.path("forged.json"), "lee"), "ceremony.evidence", "does not verify")
	has(t, g.Command(1, "init", "--signatures", g.path("forged.json")), "ceremony.other")
	has(t, g.sealctl(5, append([]string{"ceremony", "sign", transcript, "--yes"}, choi...)...), "ceremony.signature") // in the name of another, seen at once
	sign(0, transcript, "park", "--out", g.path("park-transcript.json"))
	has(t, g.Command(0, "init", "--signatures", g.path("park-transcript.json")), "signed by [kim park]: the ceremony is over")

	r := verify(0)
	if r.Runs != 2 || r.Need != 2 || len(r.Signed) != 2 || r.Installation != "Test" {
		t.Errorf("%+v", r)
	}
	g.Command(0, "enrol", "--out", filepath.Join(g.Dir, "clients"), "officers", "ward-office-1", "auditor")
	has(t, g.Command(2, "init", "--officers", g.path("officers.json")), "officer.registered") // the machine's root does not put others there
	g.Command(0, "init")
	g.start()
	verify(0, "--registry", g.path("officers.json"), "--ledger", filepath.Join(g.Dir, "data", "ledger.db"), "--certificates", filepath.Join(g.Dir, "data", "publish", "certificates"))

	// Of another installation: the same officers, other keys.
	b := install(t)
	has(t, g.sealctl(5, "ceremony", "verify", transcript, "--ledger", filepath.Join(b.Dir, "data", "ledger.db")), "problems")
	has(t, g.sealctl(5, "ceremony", "verify", transcript, "--certificates", filepath.Join(b.Dir, "data", "publish", "certificates")), "problems")
	has(t, g.sealctl(5, "ceremony", "verify", transcript, "--registry", g.path("others.json")), "problems")
	has(t, g.sealctl(5, "ceremony", "verify", g.path("forged.json")), "problems")
	g.sealctl(2, "ceremony", "verify", g.path("nowhere.json"))

	// The officers govern what they made.
	card := g.Issue(harness.NewPhone(t, 1), "first-of-all", false)
	if len(card.Credentials) == 0 {
		t.Error("no card")
	}
	p := g.officer(0, "park", "propose", "issuing.stop", "reason=a look at the first card")
	if p = g.execute(0, p.ID); p.State != "executed" {
		t.Errorf("%+v", p)
	}
	if status, _, err := g.Post("ward-office-1", "/v1/credentials", "k-k-k-k-k-k-k-k-k-k-k-k-k", g.Request(harness.NewPhone(t, 1), "second")); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("%d %v", status, err)
	}
	g.Stop()
	g.Check()
}
