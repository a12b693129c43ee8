package monitoring

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// part of a page: the commands under one heading.
type part struct {
	heading string
	blocks  []string
}

func pages(t *testing.T) map[string][]part {
	t.Helper()
	files, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no runbooks: %v", err)
	}
	out := map[string][]part{}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".md")
		if name == "README" {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var block []string
		inside := false
		for _, l := range strings.Split(string(b), "\n") {
			switch {
			case inside && l == "```":
				inside = false
				p := &out[name][len(out[name])-1]
				p.blocks = append(p.blocks, strings.Join(block, "\n"))
			case inside:
				block = append(block, l)
			case l == "```sh":
				inside, block = true, nil
			case strings.HasPrefix(l, "## "):
				out[name] = append(out[name], part{heading: strings.TrimPrefix(l, "## ")})
			}
		}
	}
	return out
}

// Blocks that begin with "```sh officers" are for officers at their desks, each with a key of their own: this installation has none, and
// TestRestoreDrill (tests/scenario) follows these commands with three.

// faults that a page is followed under, by a stranger who types what stands there. repair is what the page can only tell a person to do:
// to plug the HSM in again. A page without a fault is followed on a healthy installation.
var faults = map[string]struct{ cause, repair string }{
	"down":                 {cause: `systemctl stop sealkeeperd`},
	"fenced":               {cause: `systemctl stop sealkeeperd; cp "$SEALKEEPER_DATA/ledger.db" old.db; systemctl start sealkeeperd; sleep 1; systemctl stop sealkeeperd; rm -f "$SEALKEEPER_DATA"/ledger.db-*; cp old.db "$SEALKEEPER_DATA/ledger.db"; ! systemctl start sealkeeperd`},
	"pin-refused":          {cause: `rm "$SEALKEEPER_DATA/pins/online"; echo 000000 >"$SEALKEEPER_DATA/pins/online"; chmod 0400 "$SEALKEEPER_DATA/pins/online"; ` + killWorkers},
	"hsm-down":             {cause: `mv "$SEALKEEPER_DATA/tokens" "$SEALKEEPER_DATA/tokens-away"; ` + killWorkers, repair: `mv "$SEALKEEPER_DATA/tokens-away" "$SEALKEEPER_DATA/tokens"`},
	"list-expired":         {cause: `mv "$SEALKEEPER_DATA/tokens" "$SEALKEEPER_DATA/tokens-away"; ` + killWorkers, repair: `mv "$SEALKEEPER_DATA/tokens-away" "$SEALKEEPER_DATA/tokens"`},
	"certificate-expiring": {cause: `cp dying.pem "$SEALKEEPER_DATA/tls/server.pem"; cp dying.key "$SEALKEEPER_DATA/tls/server.key"; systemctl restart sealkeeperd`},
}

const killWorkers = `pkill -KILL -P "$(cat "$RUN/pid")"`

// prelude: that a check finds problems is what a first look is for.
// doctor looks for a tenth of a second only.
const prelude = "set -e\nsealctl() { [ \"$1\" != doctor ] || set -- \"$@\" --over 100ms; command sealctl \"$@\" || [ $? = 5 ]; }\nsealkeeperd() { command sealkeeperd \"$@\" || [ $? = 5 ]; }\n"

// hurry is the same for where a check has to find nothing.
const hurry = "sealctl() { [ \"$1\" != doctor ] || set -- \"$@\" --over 100ms; command sealctl \"$@\"; }\n"

// TestRunbooks follows every page, every command of it, to the end of its fault.
func TestRunbooks(t *testing.T) {
	asked(t)
	t.Parallel()
	in := install(t, setup{config: "lists: {entries: 131072, life: 10m, ttl: 1s}\n"})
	in.must(`cp -p "$SEALKEEPER_DATA/pins/online" new-pin`)
	in.env = append(in.env, "NEW_PIN="+in.path("new-pin"), "TMPDIR="+in.dir)
	cert, key := dying(t)
	in.write("dying.pem", cert, 0o644)
	in.write("dying.key", key, 0o600)
	in.must("systemctl start sealkeeperd")
	in.healthy()
	if err := in.issue("900101-1000001"); err != nil {
		t.Fatal(err)
	}
	in.must(`COPY=$(mktemp -d); sqlite3 "$SEALKEEPER_DATA/ledger.db" ".backup $COPY/ledger.db"; sealctl fsck --ledger "$COPY/ledger.db" --textfile "$SEALKEEPER_TEXTFILES/fsck.prom"`)
	all := pages(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		parts := all[name]
		if !t.Run(name, func(t *testing.T) {
			outer := in.t
			in.t = t
			defer func() { in.t = outer }()
			fault, faulty := faults[name]
			if faulty {
				in.must("set -e\n" + fault.cause)
				in.eventually("doctor or the service manager names it", func() (string, bool) {
					out, _ := in.sh("systemctl status sealkeeperd; sealctl doctor --over 100ms")
					return out, strings.Contains(out, "docs/runbooks/")
				})
			}
			for _, p := range parts {
				for i, b := range p.blocks {
					if p.heading == "It is over when" {
						in.eventually(fmt.Sprintf("it is over: %s", b), func() (string, bool) { out, err := in.sh("set -e\n" + hurry + b); return out, err == nil })
						continue
					}
					if out, err := in.sh(prelude + b); err != nil {
						t.Fatalf("%s, block %d: %v\n%s\n--\n%s", p.heading, i+1, err, b, out)
					}
				}
				if p.heading == "First look" && fault.repair != "" {
					in.must(fault.repair)
				}
			}
			in.healthy()
		}) {
			t.Fatal("the pages after this one were not followed: the installation may still have its fault")
		}
	}
}

// Every command is one that sh can read, also where nothing is run.
func TestRunbooksParse(t *testing.T) {
	for name, parts := range pages(t) {
		var headings []string
		for _, p := range parts {
			headings = append(headings, p.heading)
			for _, b := range p.blocks {
				if out, err := exec.Command("sh", "-n", "-c", b).CombinedOutput(); err != nil {
					t.Errorf("%s, %s: %s", name, p.heading, out)
				}
			}
		}
		if want := "What it means, First look, Likely causes, Do this, It is over when, Escalate"; strings.Join(headings, ", ") != want {
			t.Errorf("%s has the parts %v", name, headings)
		}
		for _, p := range parts {
			if len(p.blocks) == 0 && (p.heading == "First look" || p.heading == "Do this" || p.heading == "It is over when") {
				t.Errorf("%s: %s has no command", name, p.heading)
			}
		}
	}
}
