// Package layers holds the import table of the rooms: who may know whom, with the reason at each line. It is a statement of policy: a
// line that is added only to make the test pass is a change of the design, and belongs into docs/decisions.
package layers

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

const module = "sealkeeper"

// rooms: folder → what it may import of ours. A folder is ruled by its own line, or by the nearest one above it that ends in "/...".
// An entry ending in "/..." stands for a folder and all below it.
var rooms = map[string][]allowed{
	"api": {
		{"ca", "the conductor does what a request asks for"},
		{"officer", "proposals and approvals have routes of their own"},
		{"evidence", "the kinds of evidence items that a request may carry"},
		{"contract", "what travels as JSON, and the OpenAPI document"},
		{"internal/...", "clock, strict decoding, metrics"},
	},
	"ca": {
		{"evidence", "first stage: is it true?"},
		{"policy", "second stage: is it allowed?"},
		{"officer", "who may decide on what, and whether enough did"},
		{"backup", "a key that backups are made to is one, before it is put to use"},
		{"ledger", "third stage: durable before it is signed"},
		{"signer", "fourth stage: the HSM"},
		{"release", "fifth stage: the exit gate"},
		{"ca/mdoc", "format"}, {"ca/sdjwt", "format"}, {"ca/vcjwt", "format"}, {"ca/x509", "format"}, {"ca/statuslist", "format"}, {"ca/token", "format"},
		{"ca/certified", "a key's certificates are checked once, for all drafts"},
		{"contract", "the conductor answers in the contract's types"},
		{"internal/...", "clock, crashpoint, durable, metrics"},
	},
	"ca/...": { // the formats: Draft and Join, each alone
		{"evidence", "the holder's key inside an approval"},
		{"ca/certified", "what all formats share: the key with its certificates, the guards of Draft and Join"},
		{"policy", "Draft builds from an approval and nothing else"},
		{"ledger", "the ticket: list, index; the registry entry of the signing key"},
		{"release", "Join takes nothing but checked signatures"},
		{"contract", "wire types"},
		{"internal/...", "small single ideas"},
	},
	"evidence": {
		{"evidence/android", "raw attestation of the holder's keys"},
		{"evidence/apple", "what the maker of a phone says of an app"},
		{"internal/...", "strict decoding of what others signed"},
	},
	"evidence/statement": {{"evidence", "the formats, for those who make statements"}},
	"evidence/android":   {{"internal/strict", "strict decoding of Google's status list"}},
	"evidence/apple":     {}, // a phone maker's own format: nothing of the appliance
	"policy": {
		{"evidence", "policy judges checked facts"},
		{"evidence/android", "rules of phones are data of the bundle"},
		{"evidence/apple", "likewise of apps"},
		{"internal/...", "strict decoding of bundles"},
	},
	"officer": {
		{"policy", "what a proposal changes"},
		{"internal/...", "strict decoding"},
	},
	"ceremony": {
		{"officer", "who signs, and how many must"},
		{"internal/...", "strict decoding, signatures"},
	},
	"ledger": {
		{"policy", "approvals with the conditions that are compared at commit"},
		{"evidence", "burns: nonces and evidence ids inside an approval's conditions"},
		{"ledger/state", "the pure state machine"},
		{"ledger/index", "the order of status indices"},
		{"internal/...", "clock, crashpoint, durable, metrics, strict decoding, how rows are written"},
	},
	"ledger/state": {{"policy", "locks, formats and the slot that policy may see"}},
	"ledger/index": {}, // pure arithmetic
	"ledger/fsck": {
		{"ledger", "reads what was stored"},
		{"ledger/state", "recomputes every status"},
		{"policy", "formats and purposes"},
		{"verifier", "reads published lists as a bank would"},
		{"officer", "counts again the signatures that allowed what became of keys"},
	},
	"ledger/published": {
		{"ledger", "what came of a list is the ledger's to say"},
		{"policy", "purposes of keys"},
		{"verifier", "reads published lists as a bank would"},
	},
	"ledger/storetest": {
		{"ledger", "the conformance suite of its stores"},
		{"ledger/state", "expected states"},
		{"policy", "approvals are what a store commits"},
		{"evidence", "burns"},
		{"internal/...", "clock, durable"},
	},
	"translog": {
		{"ledger", "leaves and hashes are written there"},
		{"internal/...", "durable"},
	},
	"signer": {
		{"ledger", "reservations are the only way in; the key registry"},
		{"policy", "names of purposes and lanes"},
		{"signer/wire", "what it says to its workers"},
		{"internal/...", "durable, metrics"},
	},
	"signer/wire": {
		{"policy", "names of purposes"},
		{"internal/...", "strict decoding of frames"},
	},
	"signer/worker": {
		{"signer/wire", "what it is told"},
		{"internal/...", "small single ideas"},
	},
	"release": {
		{"ledger", "settles what left"},
		{"signer", "signatures, and the quarantine of who made a bad one"},
		{"internal/...", "metrics"},
	},
	"softhsm": {{"internal/...", "durable files"}},
	"backup": {
		{"ledger", "a copy as of one instant, the mark of one that was put back"},
		{"ledger/fsck", "a proof reads the ledger as an auditor would"},
		{"softhsm", "copies of embedded tokens"},
		{"internal/...", "where things lie; durable files, strict decoding"},
	},
	"contract":              {{"internal/jsonwrite", "how issues are written"}}, // the appliance and its clients share it: nothing of the appliance
	"client":                {{"contract", "wire types"}},
	"verifier":              {}, // for banks: nothing of the appliance
	"verifier/verifiertest": {{"verifier", "what it tests"}},
	"internal/...":          {{"internal/...", "each other, never the domain"}},
	"cmd/...":               {{"...", "flags, configuration, wiring, exit codes"}},
	"tests/...":             {{"...", "the appliance from outside"}},
}

// inTests: what test files may import beyond their room's line.
var inTests = map[string][]allowed{
	"...": {
		{"verifier/...", "another reading of the same bytes"},
		{"tests/phone", "a simulated phone"},
		{"softhsm", "a token to test with"},
		{"internal/...", "fake clock"},
	},
	"api":      {{"policy", "roles and operations for the route table"}, {"ledger", "a real appliance behind the edge"}, {"client", "a caller"}},
	"ca":       {{"signer/...", "a real worker"}, {"ledger/...", "a real ledger"}, {"client", "a caller"}, {"evidence/statement", "events as a carrier makes them"}},
	"signer":   {{"signer/worker", "the worker process is the test binary run again"}, {"evidence", "a request"}},
	"release":  {{"signer/...", "the worker process is the test binary run again"}, {"evidence", "a request"}, {"policy", "approvals to reserve with"}},
	"ledger":   {{"ledger/...", "the conformance suite, fsck"}, {"evidence/statement", "events as a carrier makes them"}},
	"evidence": {{"evidence/statement", "authorities that make statements"}},
	"policy":   {{"evidence/statement", "digests as a register makes them"}},
	"client":   {{"api", "the real edge"}, {"ca", "what the edge's authority takes and gives"}, {"internal/...", "the edge's clock and metrics"}},
}

// foreign: packages of others that only some rooms may import.
var foreign = []struct {
	prefix string
	rooms  []string
	why    string
}{
	{"github.com/miekg/pkcs11", []string{"signer/worker", "softhsm", "tests/bench"},
		"a module that hangs or crashes takes its process with it: the child's, never the daemon's (tests/bench measures its floor in a child of its own)"},
	{"database/sql", []string{"ledger", "ledger/fsck", "ledger/storetest"}, "one room knows how truth is stored"},
	{"modernc.org/", []string{"ledger", "ledger/fsck", "ledger/storetest"}, "one room knows how truth is stored"},
	{"net/http", []string{"api", "client", "cmd/...", "tests/...", "internal/metrics"}, "HTTP ends at the edge"},
	{"github.com/cloudflare/circl", []string{"backup"}, "one room splits secrets, and nothing else needs groups"},
	{"github.com/ThalesGroup/crypto11", []string{"cmd/sealctl"}, "officers' tokens are theirs, on their own machines; the appliance's token is its workers' alone"},
	{"os/exec", []string{"signer", "softhsm", "cmd/...", "tests/..."}, "the daemon runs nothing but itself again: as a worker, or to make a token"},
}

// pure rooms are functions of what they are given: the same approval, state and index for the same input, for ever.
var pure = []string{"policy", "officer", "ceremony", "evidence", "evidence/android", "evidence/apple", "ledger/state", "ledger/index", "ca/certified", "ca/mdoc", "ca/sdjwt", "ca/statuslist", "ca/x509"}

// notPure are the packages that would let the world into a pure room. The formats may use net for its address types.
func notPure(room, imp string) bool {
	return slices.Contains([]string{"os", "os/exec", "net/http", "database/sql", "syscall", "math/rand", "math/rand/v2"}, imp) ||
		imp == "net" && !strings.HasPrefix(room, "ca/")
}

type allowed struct{ folder, why string }

func covers(pattern, folder string) bool {
	if up, ok := strings.CutSuffix(pattern, "..."); ok {
		return up == "" || folder+"/" == up || strings.HasPrefix(folder, up)
	}
	return pattern == folder
}

// ruling line of a folder: its own, or the nearest "/..." above.
func line(table map[string][]allowed, folder string) (list []allowed, ok bool) {
	if list, ok := table[folder]; ok {
		return list, true
	}
	for up := folder; up != "."; up = path.Dir(up) {
		if list, ok := table[up+"/..."]; ok {
			return list, true
		}
	}
	return nil, false
}

// refusal says why a folder may not import a path; empty: it may.
func refusal(folder, imp string, test bool) string {
	for _, f := range foreign {
		if (imp == f.prefix || strings.HasPrefix(imp, strings.TrimSuffix(f.prefix, "/")+"/")) && !test && !slices.ContainsFunc(f.rooms, func(r string) bool { return covers(r, folder) }) {
			return "only " + strings.Join(f.rooms, ", ") + " may: " + f.why
		}
	}
	if !test && slices.Contains(pure, folder) && notPure(folder, imp) {
		return "the room is pure"
	}
	ours, ok := strings.CutPrefix(imp, module+"/")
	if !ok {
		return ""
	}
	list, ok := line(rooms, folder)
	if !ok {
		return "the room has no line in the table"
	}
	if test {
		extra, _ := line(inTests, folder)
		list = slices.Concat(list, extra, inTests["..."], []allowed{{folder, "itself, from outside"}})
	}
	if slices.ContainsFunc(list, func(a allowed) bool { return covers(a.folder, ours) }) {
		return ""
	}
	return "the import table does not allow it"
}

type source struct {
	folder, name string
	test         bool
	file         *ast.File
	fset         *token.FileSet
}

// sources are all Go files of the module.
func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var all []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "node_modules") {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(p, "go.mod")); p != root && err == nil {
				return fs.SkipDir // another module
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, source{filepath.ToSlash(rel), name, strings.HasSuffix(name, "_test.go"), f, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d files found: the walk is broken", len(all))
	}
	return all
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		for _, i := range s.file.Imports {
			imp, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if why := refusal(s.folder, imp, s.test); why != "" {
				t.Errorf("%s/%s imports %s: %s", s.folder, s.name, imp, why)
			}
		}
	}
}

// The table itself: what it must never allow.
func TestTableRefuses(t *testing.T) {
	for _, c := range []struct {
		folder, imp string
		ok          bool
	}{
		{"api", "ca", true}, {"api", "ledger", false}, {"api", "signer", false}, {"api", "ca/mdoc", false}, {"api", "policy", false},
		{"ca", "ledger", true}, {"ca", "api", false}, {"ca", "softhsm", false}, {"ca", "ledger/state", false}, {"ca", "signer/worker", false},
		{"ca/mdoc", "policy", true}, {"ca/mdoc", "ca/sdjwt", false}, {"ca/mdoc", "signer", false}, {"ca/mdoc", "ca", false},
		{"evidence", "internal/strict", true}, {"evidence", "policy", false}, {"policy", "evidence", true}, {"policy", "ledger", false},
		{"ledger", "policy", true}, {"ledger", "ca/mdoc", false}, {"ledger", "signer", false}, {"ledger/state", "ledger", false},
		{"ledger/index", "policy", false}, {"signer", "ledger", true}, {"signer", "evidence", false}, {"signer", "signer/worker", false},
		{"signer/worker", "signer/wire", true}, {"signer/worker", "policy", false}, {"signer/worker", "ledger", false},
		{"release", "signer", true}, {"release", "evidence", false}, {"release", "policy", false}, {"softhsm", "signer", false}, {"contract", "policy", false}, {"contract", "internal/jsonwrite", true}, {"contract", "internal/strict", false},
		{"client", "contract", true}, {"client", "api", false}, {"verifier", "contract", false}, {"internal/clock", "ledger", false},
		{"internal/clock", "internal/strict", true}, {"cmd/sealctl", "verifier", true}, {"nowhere", "policy", false},
	} {
		if got := refusal(c.folder, module+"/"+c.imp, false) == ""; got != c.ok {
			t.Errorf("%s → %s: allowed is %v, want %v", c.folder, c.imp, got, c.ok)
		}
	}
	for _, c := range []struct {
		folder, imp string
		ok          bool
	}{
		{"signer/worker", "github.com/miekg/pkcs11", true}, {"signer", "github.com/miekg/pkcs11", false}, {"cmd/sealkeeperd", "github.com/miekg/pkcs11", false},
		{"ledger", "modernc.org/sqlite", true}, {"ledger", "database/sql", true}, {"ca", "database/sql", false}, {"ledger/state", "database/sql", false},
		{"ca", "net/http", false}, {"api", "net/http", true}, {"policy", "net", false}, {"policy", "net/url", true}, {"evidence", "os", false}, {"ca/x509", "net", true},
	} {
		if got := refusal(c.folder, c.imp, false) == ""; got != c.ok {
			t.Errorf("%s → %s: allowed is %v, want %v", c.folder, c.imp, got, c.ok)
		}
	}
}

// clockCalls are the uses of package time that ask the machine's clock.
func clockCalls(s source) (found []string) {
	name := ""
	for _, i := range s.file.Imports {
		if i.Path.Value == `"time"` {
			if name = "time"; i.Name != nil {
				name = i.Name.Name
			}
		}
	}
	if name == "." {
		return []string{`import . "time"`}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if ok && x.Name == name && slices.Contains([]string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep"}, sel.Sel.Name) {
			found = append(found, fmt.Sprintf("%s.%s at %s", name, sel.Sel.Name, s.fset.Position(sel.Pos())))
		}
		return true
	})
	return found
}

func TestPureRoomsAskNoClock(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test && slices.Contains(pure, s.folder) {
			seen[s.folder] = true
			for _, c := range clockCalls(s) {
				t.Errorf("%s asks the machine's clock: %s", s.folder, c)
			}
		}
	}
	if len(seen) != len(pure) {
		t.Errorf("of the pure rooms %v only %v exist", pure, seen)
	}
	for code, want := range map[string]int{
		`package p; import "time"; var x = time.Now()`:                   1,
		`package p; import clock "time"; var x = clock.Now`:              1,
		`package p; import . "time"; var x = Now()`:                      1,
		`package p; import "time"; var x = time.Second`:                  0,
		`package p; import "time"; func f(time interface{ Until() }) {}`: 0,
	} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "p.go", code, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := clockCalls(source{file: f, fset: fset}); len(got) != want {
			t.Errorf("%s: %v, want %d", code, got, want)
		}
	}
}

// A package comment says what the room is for and why it is as it is.
func TestEveryPackageHasAComment(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if strings.HasSuffix(s.file.Name.Name, "_test") {
			continue
		}
		want := "Package " + s.file.Name.Name
		if s.file.Name.Name == "main" {
			want = "Command " + path.Base(s.folder)
		}
		doc := strings.TrimSpace(s.file.Doc.Text())
		documented[s.folder] = documented[s.folder] || strings.HasPrefix(doc, want+" ") && len(doc) > len(want)+20
	}
	for folder, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment (\"Package name …\", \"Command name …\")", folder)
		}
	}
}

// Each direct dependency is a decision: docs/dependencies.md says why it is there.
func TestDependenciesAreExplained(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{".", "cmd/sealkeeper-ra"} { // the registration authority is a module of its own
		data, err := os.ReadFile(filepath.Join("..", "..", folder, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		mod, err := modfile.ParseLax("go.mod", data, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range mod.Require {
			if !r.Indirect && !strings.Contains(string(doc), "| "+r.Mod.Path+" |") {
				t.Errorf("docs/dependencies.md has no line about %s of %s", r.Mod.Path, folder)
			}
		}
	}
}
