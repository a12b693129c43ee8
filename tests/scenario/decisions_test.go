package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	harness "sealkeeper/tests/appliance"
)

// Every decision is journalled with what it was made of, names no person, and is decided again by a bundle before that one is put to use.
func TestDecisionsAreReplayed(t *testing.T) {
	t.Parallel()
	a, by := installProgramme(t, nil)
	auditor := func(args ...string) ran {
		t.Helper()
		return execute(t, harness.Sealctl, "", append(args, "--url", fmt.Sprintf("https://127.0.0.1:%d", a.Ports[0]), "--identity", filepath.Join(a.Dir, "clients", "auditor"))...)
	}
	out, err := a.ask(a.Case(by, "portal", "ic_chip", newPhone(t, 1), "replay-1"))
	if err != nil {
		t.Fatal(err)
	}
	if out.Decision.ID == "" || out.Decision.ID != out.Issuance {
		t.Errorf("the decision's id is %q, the issuance's %q", out.Decision.ID, out.Issuance)
	}
	bad := a.Case(by, "portal", "ic_chip", newPhone(t, 1), "replay-2")
	bad.Request.Evidence = bad.Request.Evidence[:1]
	_, err = a.ask(bad)
	var p *client.Problem
	if !errors.As(err, &p) || p.Decision == nil || p.Decision.ID == "" || len(p.Decision.Missing) == 0 {
		t.Fatalf("a denial without id, or without what is missing: %v", err)
	}
	lock := a.Change("loss-desk", lock, "replay-1", "self_lost", "")
	for _, id := range []string{out.Decision.ID, lock.Decision.ID} { // durable with what they allowed
		if r := auditor("decisions", id, "--json"); r.code != 0 || !strings.Contains(r.out, id) {
			t.Errorf("decision %s: %d %s %s", id, r.code, r.out, r.err)
		}
	}
	var denied contract.JournalledDecision
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // within a second, on a machine with time
		r := auditor("decisions", p.Decision.ID, "--json")
		if r.code == 0 && json.Unmarshal([]byte(r.out), &denied) == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the denial is not journalled: %d %s", r.code, r.err)
		}
	}
	if denied.Decision.Result != "denied" || denied.Decision.Code != p.Code || !slices.Equal(denied.Decision.Missing, p.Decision.Missing) {
		t.Errorf("journalled: %+v, answered: %+v", denied.Decision, p.Decision)
	}

	// By the same bundle nothing changes; by one without the method that was used, what was allowed would not be.
	file := func(name string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	active := file("same.json", []byte(mustPolicy(t, a).Bundle))
	if r := auditor("policy", "replay", "--bundle", active, "--since", "1h", "--json"); r.code != 0 || !strings.Contains(r.out, `"changed":0`) && !strings.Contains(r.out, `"changed": 0`) {
		t.Errorf("by the same bundle: %d %s %s", r.code, r.out, r.err)
	}
	var b map[string]any
	if err := json.Unmarshal([]byte(mustPolicy(t, a).Bundle), &b); err != nil {
		t.Fatal(err)
	}
	for _, c := range b["clients"].([]any) {
		if c := c.(map[string]any); c["id"] == "portal" {
			c["may"] = map[string]any{harness.KR: []string{"state"}}
		}
	}
	b["version"] = 2
	delete(b, "tests")
	changed, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	if r := auditor("policy", "replay", "--bundle", file("new.json", changed), "--since", "1h"); r.code != 5 || !strings.Contains(r.out, "denied") {
		t.Errorf("by a bundle without the portal: %d %s %s", r.code, r.out, r.err)
	}
	if v := mustPolicy(t, a).Version; v != 1 {
		t.Errorf("the replay put version %d to use", v)
	}
	a.Stop()
	a.NoPersons("replay-1")
	a.NoPersons("replay-2")
	a.Check()
}

func mustPolicy(t *testing.T, a *appliance) contract.Policy {
	t.Helper()
	p, err := a.As("auditor").Policy(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return p
}
