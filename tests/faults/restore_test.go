package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sealkeeper/contract"
	"sealkeeper/ledger/fsck"
	"sealkeeper/tests/appliance"
)

// restore is what somebody puts back while the daemon is stopped, and what it has to say.
type restore struct {
	name   string
	from   string // moment that it is taken from: "init" is killed with some keys made, "founded" is before the first card, "load" between two loads
	ledger bool
	tokens bool
	code   int  // of the next start
	accept bool // what accept fence has to help against
	few    bool
}

// An old token that has every key shows by its mark. With an old ledger of the same moment beside it, the ledger is what shows.
var restores = []restore{
	{name: "old ledger", from: "load", ledger: true, code: 3, accept: true},
	{name: "oldest ledger", from: "founded", ledger: true, code: 3, accept: true},
	{name: "old token with every key", from: "load", tokens: true, code: 3, accept: true, few: true},
	{name: "old token with every key, and the newest again", from: "load", tokens: true, code: 3},
	{name: "oldest token with every key", from: "founded", tokens: true, code: 3, accept: true},
	{name: "old token that lacks a key", from: "init", tokens: true, code: 3, few: true},
	{name: "both", from: "load", ledger: true, tokens: true, code: 3, accept: true},
	{name: "both of the founding", from: "founded", ledger: true, tokens: true, code: 3, accept: true},
	{name: "both of an init that was killed", from: "init", ledger: true, tokens: true, code: 3},
}

// Ledger, token or both are put back behind the daemon's back. What is older than what was seen outside is FENCED each time; once that is
// accepted, over all credentials that were ever released no index is there twice, no list of before is used again, and versions only grow.
func TestRestoredBehindItsBack(t *testing.T) {
	t.Parallel()
	for _, r := range restores {
		if all || r.few {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				r.run(t)
			})
		}
	}
}

func (r restore) run(t *testing.T) {
	a := appliance.Install(t)
	if r.from == "init" {
		for _, d := range []string{"data", "witness", "clients"} {
			must(t, os.RemoveAll(filepath.Join(a.Dir, d)))
		}
		killed(t, a, "SEAL_CRASH=ca.found.generated:3", "init", "--dev")
		keep(t, a, "init")
		found(a)
	}
	keep(t, a, "founded")
	var cards []card // all that were ever released
	versions := map[string]uint64{}
	under := func() (changed []card) {
		l := start(t, a, 4)
		l.more(24)
		l.end()
		l.verify()
		grown(t, a, l.cards, versions)
		cards = append(cards, l.cards...)
		return l.cards
	}
	a.Start()
	under()
	a.Stop()
	keep(t, a, "load")
	a.Start()
	under()
	a.Stop()
	before := map[string]bool{}
	for _, c := range cards {
		before[c.URI] = true
	}

	keep(t, a, "newest")
	r.put(t, a, r.from)
	if r.code != 0 {
		for range 2 { // it does not get better by itself
			a.Launch()
			if code := a.Wait(); code != r.code {
				t.Fatalf("the daemon ended with %d and not %d\n%s", code, r.code, tail(a))
			}
		}
		if !strings.Contains(a.Log.String(), "FENCED") {
			t.Error("the log does not say FENCED")
		}
	}
	if r.code != 0 && !r.accept { // nothing to accept: only what is newest helps
		if r.tokens && !r.ledger && !strings.Contains(a.Log.String(), "the token is older than the ledger") {
			t.Errorf("the log does not say that the token is what is old\n%s", tail(a))
		}
		if r.from == "init" && !r.ledger {
			a.Command(0, "accept", "fence") // the ledger is not fenced
			a.Launch()
			if code := a.Wait(); code != r.code {
				t.Errorf("after accept fence the daemon ended with %d and not %d", code, r.code)
			}
		}
		r.put(t, a, "newest")
	}
	if r.accept {
		a.Command(0, "accept", "fence")
	}
	a.Start()
	late := under()
	a.Stop()
	if r.accept && r.ledger && r.from == "founded" {
		lostLists(t, a)
	} else {
		a.Check()
	}
	used := map[contract.StatusRef]bool{}
	for _, c := range cards {
		if used[c.StatusRef] {
			t.Errorf("index %v was given out twice", c.StatusRef)
		}
		used[c.StatusRef] = true
	}
	for _, c := range late {
		if r.accept && r.ledger && before[c.URI] { // an old token loses no index
			t.Fatalf("list %s was opened before the fence, and has a new card", c.URI)
		}
	}
	t.Logf("%d credentials on %d lists", len(cards), len(versions))
}

// lostLists: of lists that were opened in the lost part of the ledger fsck says that nobody knows them, and nothing else.
func lostLists(t *testing.T, a *appliance.Appliance) {
	t.Helper()
	out, err := fsck.Run(t.Context(), fsck.Options{Ledger: filepath.Join(a.Dir, "data", "ledger.db"), Publish: filepath.Join(a.Dir, "data", "publish")})
	must(t, err)
	said := 0
	for _, c := range out.Checks {
		for _, p := range c.Problems {
			if said++; !strings.Contains(p, "the ledger settled no version of list") {
				t.Errorf("fsck %s: %s", c.Invariant, p)
			}
		}
	}
	if said == 0 {
		t.Error("fsck does not say that published lists are lost")
	}
}

// grown compares the versions of all lists with those seen before.
func grown(t *testing.T, a *appliance.Appliance, cards []card, versions map[string]uint64) {
	t.Helper()
	seen := map[string]bool{}
	for _, c := range cards {
		if seen[c.URI] {
			continue
		}
		seen[c.URI] = true
		list, err := fetch(a, c.URI, a.Roots)
		must(t, err)
		if list.Version <= versions[c.URI] {
			t.Errorf("list %s has version %d after %d", c.URI, list.Version, versions[c.URI])
		}
		versions[c.URI] = list.Version
	}
}

// keep notes ledger and tokens of a stopped installation.
func keep(t *testing.T, a *appliance.Appliance, moment string) {
	t.Helper()
	dir := filepath.Join(a.Dir, moment)
	must(t, os.Mkdir(dir, 0o700))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if path := filepath.Join(a.Dir, "data", "ledger.db"+suffix); exists(path) {
			copied(t, path, dir)
		}
	}
	copied(t, filepath.Join(a.Dir, "data", "tokens"), dir)
}

func (r restore) put(t *testing.T, a *appliance.Appliance, moment string) {
	t.Helper()
	from, data := filepath.Join(a.Dir, moment), filepath.Join(a.Dir, "data")
	if r.ledger {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			must(t, os.RemoveAll(filepath.Join(data, "ledger.db"+suffix)))
			if path := filepath.Join(from, "ledger.db"+suffix); exists(path) {
				copied(t, path, data)
			}
		}
	}
	if r.tokens {
		must(t, os.RemoveAll(filepath.Join(data, "tokens")))
		copied(t, filepath.Join(from, "tokens"), data)
	}
}

func copied(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
