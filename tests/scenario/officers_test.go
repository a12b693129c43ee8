package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/softhsm"
	harness "sealkeeper/tests/appliance"
	"sealkeeper/verifier"
)

// governed is an installation whose security officers are kim and lee, each with a token, and park, with a key file.
type governed struct {
	*appliance
	t    *testing.T
	home string // of the officers
	key  map[string][]string
	pub  map[string]string
}

func installGoverned(t *testing.T) *governed {
	t.Helper()
	return withOfficers(t).assemble()
}

// withOfficers is an installation, and officers that it does not know yet.
func withOfficers(t *testing.T) *governed {
	t.Helper()
	g := &governed{install(t), t, t.TempDir(), map[string][]string{}, map[string]string{}}
	g.Write("policy.json", g.bundle(2))
	return g.gather()
}

// assemble makes the officers' keys and registers them.
func (g *governed) assemble() *governed {
	g.t.Helper()
	if len(g.key) == 0 {
		g.gather()
	}
	g.Command(0, "init", "--dev", "--officers", g.path("officers.json"))
	for _, id := range []string{"officers", "operator-1"} {
		g.Command(0, "enrol", "--out", filepath.Join(g.Dir, "clients"), id)
	}
	return g
}

// gather makes the officers' keys.
func (g *governed) gather() *governed {
	t := g.t
	t.Helper()
	module, err := softhsm.FindModule("")
	if err != nil {
		t.Skip(err)
	}
	g.write("pin", "24680135")
	g.write("passphrase", "four words are enough")
	for _, id := range []string{"kim", "lee", "choi"} {
		if err := softhsm.Prepare(g.path(id)); err != nil {
			t.Fatal(err)
		}
		if _, err := softhsm.RunInit(exec.Command(harness.Binary, "token-init"), g.path(id), module, id, []byte("13579024"), []byte("24680135")); err != nil {
			t.Fatal(err)
		}
		g.key[id] = []string{"--officer", id, "--module", module, "--token", id, "--pin-file", g.path("pin")}
	}
	g.key["park"] = []string{"--officer", "park", "--key", g.path("park.key"), "--passphrase-file", g.path("passphrase")}
	for _, id := range []string{"kim", "lee", "choi"} {
		g.made(id, g.sealctl(0, append([]string{"officer", "key"}, g.key[id]...)...))
	}
	g.made("park", g.sealctl(0, "officer", "key", "--officer", "park", "--out", g.path("park.key"), "--passphrase-file", g.path("passphrase")))
	g.write("officers.json", g.registry("kim", "lee", "park"))
	return g
}

func (g *governed) path(name string) string { return filepath.Join(g.home, name) }

func (g *governed) write(name, text string) {
	g.t.Helper()
	if err := os.WriteFile(g.path(name), []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

func (g *governed) made(id, out string) {
	g.t.Helper()
	var key struct{ ID, Key, Fingerprint string }
	if err := json.Unmarshal([]byte(out), &key); err != nil || key.ID != id || key.Fingerprint == "" {
		g.t.Fatalf("%v: %s", err, out)
	}
	g.pub[id] = key.Key
}

// registry in which a change of officers, and the confirming of a flood, wait.
func (g *governed) registry(ids ...string) string {
	var people []map[string]string
	for _, id := range ids {
		people = append(people, map[string]string{"id": id, "name": strings.ToUpper(id[:1]) + id[1:], "role": "officer", "key": g.pub[id]})
	}
	out, err := json.Marshal(map[string]any{"officers": people, "rules": map[string]any{
		"officers.change": map[string]any{"need": 2, "delay": "0s", "life": "1h0m0s"}, "iaca.rollover": map[string]any{"need": 2, "delay": "0s", "life": "1h0m0s"}, "flood.confirm": map[string]any{"need": 2, "delay": "24h0m0s", "life": "48h0m0s"}}})
	if err != nil {
		g.t.Fatal(err)
	}
	return string(out)
}

func (g *governed) bundle(version int) string {
	g.t.Helper()
	data, err := os.ReadFile("../../deploy/policies/demo.json")
	if err != nil {
		g.t.Fatal(err)
	}
	text := strings.Replace(string(data), `{"id": "auditor",`, `{"id": "operator-1", "role": "operator", "may": {}}, {"id": "officers", "role": "officer", "may": {}}, {"id": "auditor",`, 1)
	return strings.Replace(text, `"version": 1`, fmt.Sprintf(`"version": %d`, version), 1)
}

// sealctl as an officer runs it, with --json.
func (g *governed) sealctl(want int, args ...string) string {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 2*time.Minute)
	defer cancel()
	args = append(args, "--json")
	if len(g.Ports) > 0 {
		args = append(args, "--url", fmt.Sprintf("https://127.0.0.1:%d", g.Ports[0]), "--identity", filepath.Join(g.Dir, "clients", "officers"))
	}
	c := exec.CommandContext(ctx, harness.Sealctl, args...)
	c.Env = append(c.Env, "PATH="+os.Getenv("PATH"), "HOME=/nonexistent")
	if i := slices.Index(args, "--token"); i >= 0 { // each officer's is on a machine of his own
		c.Env = append(c.Env, softhsm.Env(g.path(args[i+1]))...)
	}
	var errs strings.Builder
	c.Stderr = &errs
	out, _ := c.Output()
	if got := c.ProcessState.ExitCode(); got != want {
		g.t.Fatalf("sealctl %v ended with %d:\n%s%s", args, got, out, errs.String())
	}
	if want != 0 {
		return errs.String()
	}
	return string(out)
}

func (g *governed) officer(want int, id string, args ...string) (p contract.Proposal) {
	g.t.Helper()
	out := g.sealctl(want, append(append(args, "--yes"), g.key[id]...)...)
	if want != 0 {
		return contract.Proposal{Why: out}
	}
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
	return p
}

func (g *governed) execute(want int, id string) (p contract.Proposal) {
	g.t.Helper()
	out := g.sealctl(want, "execute", id)
	if want != 0 {
		return contract.Proposal{Why: out}
	}
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
	return p
}

func has(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in: %s", p, text)
		}
	}
}

// Officers decide what one operator could decide before: with tokens and key files of their own, on what they were shown, once, and with any
// one of them able to say no.
func TestOfficersDecide(t *testing.T) {
	t.Parallel()
	g := installGoverned(t)
	g.start()
	as := g.As("officers")

	t.Run("what needs officers takes no operator's word", func(t *testing.T) {
		if _, err := g.As("operator-1").Activate(t.Context(), contract.PolicyRequest{Bundle: contract.File(g.bundle(3))}); client.Code(err) != "officer.required" {
			t.Errorf("a bundle of an operator's: %v", err)
		}
		if _, err := g.As("operator-1").DecideFlood(t.Context(), contract.FloodRequest{Carrier: "telecom-a", Hour: time.Now().Truncate(time.Hour), Decision: "undo"}); client.Code(err) != "officer.required" {
			t.Errorf("a flood: %v", err)
		}
		if o, err := as.Officers(t.Context()); err != nil || o.Epoch != 1 || len(o.Officers) != 3 {
			t.Errorf("%+v %v", o, err)
		}
	})

	t.Run("a bundle", func(t *testing.T) {
		g.write("policy.json", g.bundle(3))
		p := g.officer(0, "kim", "propose", "policy.activate", "file=@"+g.path("policy.json"))
		if p.State != "open" || p.Need != 2 || fmt.Sprint(p.Approved) != "[kim]" {
			t.Errorf("%+v", p)
		}
		has(t, g.execute(1, p.ID).Why, "officer.short")
		has(t, g.officer(1, "kim", "approve", p.ID).Why, "officer.duplicate")
		has(t, g.officer(1, "choi", "approve", p.ID).Why, "officer.unknown")
		if p = g.officer(0, "park", "approve", p.ID[:12]); p.State != "ready" {
			t.Errorf("%+v", p)
		}
		if p = g.execute(0, p.ID); p.State != "executed" {
			t.Errorf("%+v", p)
		}
		if active, err := g.As("auditor").Policy(t.Context()); err != nil || active.Version != 3 {
			t.Errorf("%+v %v", active, err)
		}
		has(t, g.execute(1, p.ID).Why, "proposal.executed")
		has(t, g.officer(1, "lee", "approve", p.ID).Why, "proposal.executed")
	})

	t.Run("one stops issuing, two resume it", func(t *testing.T) {
		card := g.Issue(harness.NewPhone(t, 1), "before-the-stop", false)
		p := g.officer(0, "lee", "propose", "issuing.stop", "reason=wrong photographs")
		if p = g.execute(0, p.ID); p.State != "executed" {
			t.Errorf("%+v", p)
		}
		late := g.Request(harness.NewPhone(t, 1), "during-the-stop")
		key := client.NewKey()
		if _, err := g.As("ward-office-1").Issue(t.Context(), key, late); client.Code(err) != "issuing.stopped" {
			t.Errorf("issued: %v", err)
		}
		g.Change("telecom-a", func(c *client.Client) func(context.Context, contract.ChangeRequest) (contract.ChangeAnswer, error) {
			return c.Lock
		}, "before-the-stop", "telecom_lost", "")
		g.Eventually(card.Credentials[0].Status, verifier.Invalid)
		g.Stop()
		g.Launch() // a stop outlives a restart, after which nothing is ready to issue
		g.UntilUp()
		if _, err := g.As("ward-office-1").Issue(t.Context(), key, late); client.Code(err) != "issuing.stopped" {
			t.Errorf("issued after a restart: %v", err)
		}
		p = g.officer(0, "kim", "propose", "issuing.resume", "reason=repaired")
		has(t, g.execute(1, p.ID).Why, "officer.short")
		g.officer(0, "lee", "approve", p.ID)
		g.execute(0, p.ID)
		if _, err := g.As("ward-office-1").Issue(t.Context(), key, late); err != nil {
			t.Errorf("not issued: %v", err)
		}
	})

	t.Run("one says no in the delay", func(t *testing.T) {
		p := g.officer(0, "kim", "propose", "flood.confirm", "carrier=telecom-a", "hour="+time.Now().UTC().Truncate(time.Hour).Format(time.RFC3339), "cards:=3", "mdocs:=6")
		if p = g.officer(0, "lee", "approve", p.ID); p.State != "waiting" || p.Ready.Sub(p.Since) != 24*time.Hour {
			t.Errorf("%+v", p)
		}
		has(t, g.execute(1, p.ID).Why, "officer.waiting")
		if p = g.officer(0, "park", "reject", p.ID); p.State != "rejected" {
			t.Errorf("%+v", p)
		}
		has(t, g.execute(1, p.ID).Why, "proposal.rejected")
	})

	t.Run("one officer is replaced", func(t *testing.T) {
		g.write("next.json", g.registry("kim", "choi", "park"))
		old := g.officer(0, "lee", "propose", "issuing.stop", "reason=made before the change")
		p := g.officer(0, "kim", "propose", "officers.change", "registry:=@"+g.path("next.json"))
		g.officer(0, "park", "approve", p.ID)
		g.execute(0, p.ID)
		has(t, g.execute(1, old.ID).Why, "officer.epoch")
		has(t, g.officer(2, "lee", "propose", "issuing.stop", "reason=I am no officer any more").Why, "officer.unknown")
		q := g.officer(0, "choi", "propose", "issuing.resume", "reason=nothing is stopped")
		has(t, g.officer(1, "lee", "approve", q.ID).Why, "officer.unknown")
	})

	g.Stop()
	has(t, g.Command(1, "init", "--dev", "--officers", g.path("officers.json")), "officer.registered") // the machine's root does not put them back
	g.Check()
}
