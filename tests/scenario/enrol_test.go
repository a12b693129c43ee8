package scenario

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/contract"
)

// All offices of a country are enrolled under one approval, from a file; their tokens are fetched once; a client is revoked by another.
func TestOfficesOfACountryAreEnrolled(t *testing.T) {
	t.Parallel()
	offices := 3500
	if race { // whose daemon is some ten times slower; the whole country comes without it
		offices = 350
	}
	g := withOfficers(t)
	bundle := strings.Replace(g.bundle(2), `"clients":`, `"enrolled": [{"role": "issuance", "channel": "office", "issuer": "https://offices.example", "may": {"kr-resident": ["issue"]}}], "clients":`, 1)
	g.Write("policy.json", bundle)
	conf, err := os.ReadFile(filepath.Join(g.Dir, "sealkeeper.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	g.Write("sealkeeper.yaml", string(conf)+"ra_url: https://ra.example:9443\n")
	g.assemble()
	g.start()

	var file strings.Builder
	file.WriteString("client,office,district\n")
	for i := range offices {
		fmt.Fprintf(&file, "office-%d,%05d,%d\n", i, i, 11+i%17)
	}
	g.write("offices.csv", file.String())
	g.write("bad.csv", file.String()+"office-7,00007,11\n")
	propose := func(want int, name string) contract.Proposal {
		return g.officer(want, "lee", "enrol", "propose", "--csv", g.path(name), "--role", "issuance", "--channel", "office", "--certificates", "1h", "--reason", "all offices")
	}
	has(t, propose(5, "bad.csv").Why, fmt.Sprintf("line %d: client office-7 stands in line 9 already", offices+2))
	has(t, g.officer(2, "lee", "enrol", "propose", "--reason", "none").Why, "--client", "--csv")
	has(t, g.officer(2, "lee", "enrol", "propose", "--client", "a", "--role", "king", "--reason", "r").Why, "king")

	began := time.Now()
	p := propose(0, "offices.csv")
	has(t, strings.Join(p.Text, "\n"), fmt.Sprintf("Enrol %d clients", offices), fmt.Sprintf("issuance by channel office × %d", offices), fmt.Sprintf("11 × %d", (offices+16)/17), "all offices")
	has(t, g.sealctl(1, "enrol", "tokens", p.ID), "sealctl execute")
	if p = g.officer(0, "kim", "approve", p.ID[:12]); p.State != "ready" {
		t.Fatalf("%+v", p)
	}
	if p = g.execute(0, p.ID); p.State != "executed" {
		t.Fatalf("%+v", p)
	}
	t.Logf("%d offices were proposed, approved and enrolled in %v", offices, time.Since(began).Round(time.Millisecond))

	type answer struct {
		Tokens []struct{ Client, Token, File string }
		There  []string
	}
	tokens := func(args ...string) (a answer) {
		t.Helper()
		if err := json.Unmarshal([]byte(g.sealctl(0, append([]string{"enrol", "tokens", p.ID}, args...)...)), &a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	dir := g.path("tokens")
	few := []string{"--out", dir}
	for i := range 40 { // of all of them, a sample
		few = append(few, "--client", fmt.Sprintf("office-%d", i))
	}
	began = time.Now()
	if a := tokens(few...); len(a.Tokens) != 40 || a.Tokens[0].Token != "" {
		t.Errorf("%+v", a)
	}
	t.Logf("40 tokens in %v", time.Since(began).Round(time.Millisecond))
	if a := tokens(few...); len(a.There) != 40 || len(a.Tokens) != 0 {
		t.Errorf("again: %+v", a)
	}
	b, err := os.ReadFile(filepath.Join(dir, "office-39.token"))
	if st, e := os.Stat(filepath.Join(dir, "office-39.token")); err != nil || e != nil || st.Mode().Perm() != 0o600 || strings.Count(string(b), ".") != 2 {
		t.Errorf("%v %v %q", err, e, b)
	}
	if a := tokens("--client", fmt.Sprint("office-", offices-1)); len(a.Tokens) != 1 || strings.Count(a.Tokens[0].Token, ".") != 2 {
		t.Errorf("printed: %+v", a)
	}
	has(t, g.sealctl(2, "enrol", "tokens", p.ID, "--client", "office-x"), "office-x")

	r := g.officer(0, "lee", "enrol", "revoke", "office-1", "office-2", "--reason", "closed")
	g.officer(0, "kim", "approve", r.ID)
	g.execute(0, r.ID)
	var all contract.Clients
	if err := json.Unmarshal([]byte(g.sealctl(0, "clients")), &all); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, c := range all.Clients {
		if c.Enrolled {
			count[c.State]++
		}
	}
	if count["revoked"] != 2 || count["approved"] != offices-2 {
		t.Errorf("%v", count)
	}
}
