package docs_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sealkeeper/api"
	"sealkeeper/contract"
	"sealkeeper/internal/config"
	"sealkeeper/internal/strict"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/tests/docs"
)

const root = "../.."

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// pages are README.md and everything below docs/.
func pages(t *testing.T) []string {
	t.Helper()
	names := []string{"README.md"}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			path, err = filepath.Rel(root, path)
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// ---- what is generated

func TestErrorsPageIsFresh(t *testing.T) {
	if read(t, "docs/errors.md") != string(docs.Errors()) {
		t.Error("docs/errors.md is stale: run go run ./tests/docs/gen in the project's root")
	}
}

// Every refusal of the ledger that has a place in the edge's table of statuses can reach a client, so it is explained.
func TestLedgerCodesAreExplained(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "ledger", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	literal := regexp.MustCompile(`(?:refuse\(|ErrSuperseded, )"([a-z]+\.[a-z_]+)"`)
	found := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range literal.FindAllStringSubmatch(string(b), -1) {
			code := m[1]
			found++
			for _, e := range api.Errors(map[string]string{code: "x"}) {
				faultOnly := strings.HasPrefix(code, "reservation.") && code != "reservation.superseded" // only a conductor without sense gets these
				if e.Code == code && e.Status != 500 && ledger.Codes[code] == "" && !faultOnly {
					t.Errorf("%s: a client can be refused with %s (%d), which ledger.Codes does not explain", filepath.Base(f), code, e.Status)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d codes found in ledger/: this test reads them no more", found)
	}
}

// ---- links, commands, routes, codes

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	fence   = regexp.MustCompile("(?s)```.*?```")
)

// code is what a page shows as code: blocks and `spans`, a line each.
func code(page string) string {
	blocks := strings.Join(fence.FindAllString(page, -1), "\n")
	spans := regexp.MustCompile("`[^`]+`").FindAllString(fence.ReplaceAllString(page, ""), -1)
	return blocks + "\n" + strings.Join(spans, "\n")
}

// anchor is how a Markdown renderer names a heading.
func anchor(s string) string {
	s = strings.ToLower(strings.NewReplacer("`", "", "*", "").Replace(s))
	s = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(s, "")
	return strings.ReplaceAll(s, " ", "-")
}

func TestLinksResolve(t *testing.T) {
	for _, page := range pages(t) {
		text := fence.ReplaceAllString(read(t, page), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			to, frag, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") {
				continue
			}
			target := page
			if to != "" {
				target = filepath.Join(filepath.Dir(page), to)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s links to %s, which is not there", page, m[1])
				continue
			}
			if frag == "" {
				continue
			}
			ok := false
			for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(read(t, target), ""), -1) {
				ok = ok || anchor(h[1]) == frag
			}
			if !ok {
				t.Errorf("%s links to %s, and %s has no such heading", page, m[1], target)
			}
		}
	}
}

// A file or folder that is named in code style with a slash is there.
func TestNamedFilesExist(t *testing.T) {
	name := regexp.MustCompile("`((?:api|ca|client|cmd|contract|deploy|docs|evidence|internal|ledger|policy|release|scripts|signer|softhsm|tests|verifier)/[A-Za-z0-9_./-]*)`")
	for _, page := range pages(t) {
		for _, m := range name.FindAllStringSubmatch(read(t, page), -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s names %s, which is not there", page, m[1])
			}
		}
	}
}

// A test that is named is there.
func TestNamedTestsExist(t *testing.T) {
	defined := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (e.Name() == "node_modules" || len(e.Name()) > 2 && e.Name()[0] == '.') {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, "_test.go") {
			b, err := os.ReadFile(path)
			for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(b, -1) {
				defined[string(m[1])] = true
			}
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages(t) {
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`").FindAllStringSubmatch(read(t, page), -1) {
			if !defined[m[1]] {
				t.Errorf("%s names %s, and there is no such test", page, m[1])
			}
		}
	}
}

// Every `make x` is a target, and the README shows the two that matter.
func TestMakeTargetsExist(t *testing.T) {
	makefile := read(t, "Makefile")
	for _, page := range pages(t) {
		for _, m := range regexp.MustCompile("(?m)(?:`|^)make ([a-z]+)").FindAllStringSubmatch(code(read(t, page)), -1) {
			if !regexp.MustCompile(`(?m)^` + m[1] + `:`).MatchString(makefile) {
				t.Errorf("%s: the Makefile has no target %s", page, m[1])
			}
		}
	}
	for _, want := range []string{"make demo", "make test"} {
		if !regexp.MustCompile(`(?m)^` + want).MatchString(read(t, "README.md")) {
			t.Errorf("README.md does not show `%s`", want)
		}
	}
}

// Every command that a page shows is one of the two programs', and every one that they have is in the operator's guide.
func TestCommandsExist(t *testing.T) {
	use := regexp.MustCompile(`Use:\s+(?:op \+ )?"([a-z-]+)`)
	has := map[string][]string{"sealkeeperd": {"help", "completion"}, "sealctl": {"help", "completion", "lock", "unlock", "revoke", "approve", "reject"}}
	for program, files := range map[string]string{"sealkeeperd": "cmd/sealkeeperd/*.go", "sealctl": "cmd/sealctl/*.go"} {
		names, err := filepath.Glob(filepath.Join(root, files))
		if err != nil || len(names) == 0 {
			t.Fatal(files, err)
		}
		for _, f := range names {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range use.FindAllSubmatch(b, -1) {
				has[program] = append(has[program], string(m[1]))
			}
		}
	}
	shown := regexp.MustCompile("(?:`|\\n|/|\\| )(sealkeeperd|sealctl) ([a-z-]+)")
	for _, page := range pages(t) {
		for _, m := range shown.FindAllStringSubmatch(code(read(t, page)), -1) {
			if !slices.Contains(has[m[1]], m[2]) {
				t.Errorf("%s: %s has no command %s", page, m[1], m[2])
			}
		}
	}
	operator, policyPage := read(t, "docs/operator.md"), read(t, "docs/policy.md")
	for program, commands := range has {
		for _, c := range commands {
			if slices.Contains([]string{program, "help", "completion", "worker", "token-init", "decode", "key", "make"}, c) || strings.Contains(policyPage, program+" policy "+c) || strings.Contains(operator, program+" phones "+c) ||
				strings.Contains(operator, program+" events "+c) || strings.Contains(operator, program+" campaigns "+c) || strings.Contains(operator, program+" drill "+c) ||
				strings.Contains(operator, program+" backup "+c) || strings.Contains(operator, program+" enrol "+c) || strings.Contains(operator, program+" fence "+c) {
				continue
			}
			if !strings.Contains(operator, program+" "+c) {
				t.Errorf("docs/operator.md does not say what `%s %s` is for", program, c)
			}
		}
	}
}

// Every path of the HTTP contract that a page names is one of it, and the integrator's guide names each of the issuance listener's.
func TestPathsExist(t *testing.T) {
	var known []string
	for _, r := range api.Routes() {
		known = append(known, r.Path)
	}
	for _, page := range pages(t) {
		for _, m := range regexp.MustCompile(`/v1/[a-z/-]*[a-z]`).FindAllString(read(t, page), -1) {
			if !slices.Contains(known, m) {
				t.Errorf("%s: there is no path %s", page, m)
			}
		}
	}
	guide := read(t, "docs/integrator.md")
	for _, path := range known {
		if !strings.Contains(guide, path) {
			t.Errorf("docs/integrator.md does not name %s", path)
		}
		if !bytes.Contains(contract.OpenAPI, []byte(path+":")) {
			t.Errorf("the OpenAPI document does not name %s", path)
		}
	}
}

// Every error code that a page names in code style is one of docs/errors.md.
func TestCodesExist(t *testing.T) {
	errors := string(docs.Errors())
	code := regexp.MustCompile("`((?:request|route|client|idempotency|subject|evidence|nonce|attestation|type|format|copies|claims|slot|card|lock|reason|refresh|policy|reservation|hsm|key|ledger|clock|officer|proposal|issuing|object|accept|time|list|cert|crl|selftest)\\.[a-z_]+)`")
	configKeys := keys(t)
	for _, page := range pages(t) {
		for _, m := range code.FindAllStringSubmatch(read(t, page), -1) {
			if strings.HasSuffix(m[1], ".pem") || m[1] == "ledger.db" { // files
				continue
			}
			if slices.Contains(officer.Actions(), officer.Action(m[1])) {
				continue
			}
			if !strings.Contains(errors, "`"+m[1]+"`") && !slices.Contains(configKeys, m[1]) {
				t.Errorf("%s: there is no error code %s", page, m[1])
			}
		}
	}
}

// The Go code in docs/integrator.md is the code of integrator_test.go, which compiles.
func TestShownCodeCompiles(t *testing.T) {
	page := read(t, "docs/integrator.md")
	code, err := os.ReadFile("integrator_test.go")
	if err != nil {
		t.Fatal(err)
	}
	parts := regexp.MustCompile(`(?s)// begin: \w+\n(.*?)\n// end: `).FindAllSubmatch(code, -1)
	if len(parts) != 2 || strings.Count(page, "```go") != 2 {
		t.Fatalf("%d parts and %d shown ones", len(parts), strings.Count(page, "```go"))
	}
	for _, p := range parts {
		if shown := "```go\n" + strings.TrimSpace(string(p[1])) + "\n```"; !strings.Contains(page, shown) {
			t.Errorf("docs/integrator.md does not show this code as it is:\n%s", shown)
		}
	}
}

// The integrator's table of roles has each role's routes, all of them.
func TestRolesPageHasEveryRoute(t *testing.T) {
	page := read(t, "docs/integrator.md")
	for _, role := range api.Roles() {
		var routes []string
		for _, r := range api.Routes() {
			if slices.Contains(r.Roles, role) && len(r.Roles) < len(api.Roles()) {
				routes = append(routes, "`"+strings.TrimPrefix(r.Path, "/v1/")+"`")
			}
		}
		if row := fmt.Sprintf("\n| %s | %s |\n", role, strings.Join(routes, ", ")); !strings.Contains(page, row) {
			t.Errorf("docs/integrator.md lacks the row%s", row)
		}
	}
}

// The auditor's guide explains every kind of leaf that the ledger writes.
func TestLeavesAreExplained(t *testing.T) {
	files, err := filepath.Glob("../../ledger/*.go")
	if err != nil {
		t.Fatal(err)
	}
	guide, found := read(t, "docs/auditor.md"), map[string]bool{}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(`(?:Leaf\{Kind: |leaf\.Kind(?:, leaf\.Replaces)? = |decided\()"([a-z-]+)"`).FindAllStringSubmatch(read(t, "ledger/"+filepath.Base(f)), -1) {
			found[m[1]] = true
		}
	}
	if len(found) < 25 {
		t.Errorf("%d kinds of leaves found in the source; does this test still read it right?", len(found))
	}
	for kind := range found {
		if !regexp.MustCompile("(?m)^\\| (`[a-z-]+`, )*`" + kind + "`").MatchString(guide) {
			t.Errorf("docs/auditor.md does not explain leaves of kind %s", kind)
		}
	}
}

// The requests and answers that are shown have the form of the contract, member for member.
func TestShownJSONIsOfTheContract(t *testing.T) {
	show := func(page, begins string, into any) {
		t.Helper()
		_, rest, ok := strings.Cut(read(t, page), "```"+begins)
		body, _, ok2 := strings.Cut(rest, "```")
		if i := strings.Index(body, "\n{"); ok && ok2 && i >= 0 {
			if err := strict.JSON([]byte(strings.TrimSpace(body[i:])), strict.Limits{Bytes: 1 << 16, Depth: 16}, into); err != nil {
				t.Errorf("%s, %s: %v", page, begins, err)
			}
			return
		}
		t.Errorf("%s shows no %s", page, begins)
	}
	show("README.md", "http\nPOST /v1/credentials", new(contract.IssueRequest))
	show("README.md", "http\nHTTP/1.1 200 OK\nContent-Type", new(contract.IssueAnswer))
	show("README.md", "http\nPOST /v1/sessions", new(contract.SessionRequest))
	show("README.md", "http\nHTTP/1.1 200 OK\n", new(contract.SessionAnswer))
	show("README.md", "http\nHTTP/1.1 409", new(contract.Problem))
	show("docs/integrator.md", "json", new(contract.WhoAmI))
}

// ---- metrics

func TestMetricsPageIsFresh(t *testing.T) {
	page := read(t, "docs/metrics.md")
	fresh, err := docs.Metrics([]byte(page))
	if err != nil {
		t.Fatal(err)
	}
	if page != string(fresh) {
		t.Error("docs/metrics.md is stale: run go run ./tests/docs/gen in the project's root")
	}
	if n := strings.Count(page, "\n| `sealkeeper_"); n < 22 {
		t.Errorf("docs/metrics.md has only %d metrics", n)
	}
}

// Every metric that a page names is made somewhere in internal/metrics.
func TestMetricsExist(t *testing.T) {
	made := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(root, "internal/metrics/*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"([a-z_]+)"`).FindAllSubmatch(b, -1) {
			made["sealkeeper_"+string(m[1])] = true
		}
	}
	for _, p := range pages(t) {
		for _, name := range regexp.MustCompile(`\bsealkeeper_[a-z_]+(?:\.prom)?`).FindAllString(read(t, p), -1) {
			if strings.HasSuffix(name, "_") || strings.HasSuffix(name, ".prom") { // sealkeeper_commit_*, a file
				continue
			}
			base := name
			for _, part := range []string{"_bucket", "_count", "_sum"} { // of a histogram
				base = strings.TrimSuffix(base, part)
			}
			if !made[name] && !made[base] {
				t.Errorf("%s names %s, which is no metric", p, name)
			}
		}
	}
}

// ---- configuration

// keys reads the keys of the configuration file from the structs that it is decoded into.
func keys(t *testing.T) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "internal/config/config.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	structs := map[string]*ast.StructType{}
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.TypeSpec); ok {
			if st, ok := s.Type.(*ast.StructType); ok {
				structs[s.Name.Name] = st
			}
		}
		return true
	})
	var all []string
	var walk func(prefix string, s *ast.StructType)
	walk = func(prefix string, s *ast.StructType) {
		for _, field := range s.Fields.List {
			tag, err := strconv.Unquote(field.Tag.Value)
			if err != nil {
				t.Fatal(err)
			}
			name := prefix + reflect.StructTag(tag).Get("yaml")
			switch typ := field.Type.(type) {
			case *ast.StructType:
				walk(name+".", typ)
			case *ast.Ident:
				if structs[typ.Name] != nil {
					walk(name+".", structs[typ.Name])
					continue
				}
				all = append(all, name)
			default:
				all = append(all, name)
			}
		}
	}
	if structs["file"] == nil {
		t.Fatal("internal/config has no type file")
	}
	walk("", structs["file"])
	return all
}

type documented struct{ typ, byDefault, bounds string }

func configRows(t *testing.T) map[string]documented {
	t.Helper()
	rows := map[string]documented{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\|([^|]*)\\|([^|]*)\\|([^|]*)\\|").FindAllStringSubmatch(read(t, "docs/config.md"), -1) {
		clean := func(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "`", "") }
		rows[m[1]] = documented{clean(m[2]), clean(m[3]), clean(m[4])}
	}
	return rows
}

func TestConfigPageHasEveryKey(t *testing.T) {
	rows := configRows(t)
	for _, k := range keys(t) {
		if _, ok := rows[k]; !ok {
			t.Errorf("docs/config.md has no row for %s", k)
		}
		delete(rows, k)
	}
	for k := range rows {
		t.Errorf("docs/config.md: there is no key %s", k)
	}
}

// minimal is the smallest configuration that is accepted, with one key set to a value.
func minimal(key, value string) []byte {
	set := map[string]string{"installation.name": "N", "installation.country": "KR", "data": "/d", "high_water": "/w/h", "policy": "/p",
		"wallet_providers": "[/a.pem]", "public_url": "https://c.example"}
	if key != "" {
		set[key] = value
	}
	groups := map[string][]string{}
	var b strings.Builder
	for _, k := range slices.Sorted(func(yield func(string) bool) {
		for k := range set {
			if !yield(k) {
				return
			}
		}
	}) {
		if group, name, ok := strings.Cut(k, "."); ok {
			groups[group] = append(groups[group], name+": "+set[k])
		} else {
			fmt.Fprintf(&b, "%s: %s\n", k, set[k])
		}
	}
	for g, members := range groups {
		fmt.Fprintf(&b, "%s: {%s}\n", g, strings.Join(members, ", "))
	}
	return []byte(b.String())
}

// The defaults that docs/config.md states are those of a file that does not name the key.
func TestConfigDefaults(t *testing.T) {
	c, err := config.Parse("/etc/sealkeeper/sealkeeper.yaml", minimal("", ""))
	if err != nil {
		t.Fatal(err)
	}
	real := map[string]any{
		"crl_url": c.CRLURL, "listen.issuance": c.Issuance, "listen.public": c.Public, "listen.operations": c.Operations, "tls.hosts": c.Hosts,
		"hsm.embedded": c.Embedded, "hsm.algorithm": c.Algorithm, "hsm.workers": c.Workers, "hsm.sessions": c.Sessions, "hsm.session_copies": c.Copies,
		"hsm.deadline": c.Deadline, "hsm.online.label": c.Online.Label, "hsm.iaca.label": c.IACA.Label, "hsm.online.pin_file": c.Online.PINFile,
		"hsm.iaca.pin_file": c.IACA.PINFile, "lists.entries": c.ListEntries, "lists.ttl": c.ListTTL, "lists.life": c.ListLife, "lists.crl_life": c.CRLLife, "lists.client_crl_parts": c.CRLParts, "tls.life": c.TLSLife,
		"evidence.nonce_life": c.NonceLife, "evidence.attestation_age": c.AttestationAge, "evidence.skew": c.Skew, "evidence.max_keys": c.MaxKeys,
		"limits.concurrent_issues": c.Concurrent, "limits.queue": c.Queue, "limits.connections": c.Connections, "limits.memory_mib": c.Memory, "limits.disk_reserve_mib": c.Reserve, "limits.drain": c.Drain, "limits.give_up_after": c.GiveUp,
	}
	for k, row := range configRows(t) {
		v, has := real[k]
		if !has {
			if row.byDefault != "required" && row.byDefault != "none" && row.byDefault != "by distribution" {
				t.Errorf("docs/config.md: %s has a default %q, which this test does not know", k, row.byDefault)
			}
			continue
		}
		stated := strings.NewReplacer("{data}", c.Data, "{public_url}", "http"+strings.TrimPrefix(c.PublicURL, "https")).Replace(row.byDefault)
		got := fmt.Sprint(v)
		if d, ok := v.(time.Duration); ok {
			want, err := time.ParseDuration(stated)
			if err != nil || want != d {
				t.Errorf("docs/config.md: the default of %s is %s, not %q", k, d, row.byDefault)
			}
			continue
		}
		if l, ok := v.([]string); ok {
			got = strings.Join(l, ", ")
		}
		if got != stated {
			t.Errorf("docs/config.md: the default of %s is %q, not %q", k, got, stated)
		}
	}
}

// The bounds that docs/config.md states are allowed, and what lies beyond them is not.
func TestConfigBounds(t *testing.T) {
	outOfBounds := func(k, v string) bool {
		_, err := config.Parse("/etc/sealkeeper/sealkeeper.yaml", minimal(k, v))
		return err != nil && regexp.MustCompile(regexp.QuoteMeta(k)+`: .*(out of bounds|no power of two)`).MatchString(err.Error())
	}
	checked := 0
	for k, row := range configRows(t) {
		low, high, ok := strings.Cut(row.bounds, " to ")
		if !ok {
			continue
		}
		checked++
		high, _, _ = strings.Cut(high, ",")
		var below, above string
		if row.typ == "duration" {
			l, err1 := time.ParseDuration(low)
			h, err2 := time.ParseDuration(high)
			if err1 != nil || err2 != nil {
				t.Errorf("docs/config.md: the bounds of %s are no durations: %q", k, row.bounds)
				continue
			}
			below, above = (l - time.Millisecond).String(), (h + time.Second).String()
		} else {
			l, err1 := strconv.Atoi(low)
			h, err2 := strconv.Atoi(high)
			if err1 != nil || err2 != nil {
				t.Errorf("docs/config.md: the bounds of %s are no numbers: %q", k, row.bounds)
				continue
			}
			below, above = strconv.Itoa(l-1), strconv.Itoa(h+1)
			if k == "lists.entries" {
				below, above = strconv.Itoa(l/2), strconv.Itoa(h*2)
			}
		}
		for v, wrong := range map[string]bool{low: false, high: false, below: true, above: true} {
			if k == "lists.entries" && wrong && v[0] == '-' {
				continue
			}
			if outOfBounds(k, v) != wrong {
				t.Errorf("docs/config.md: %s is %s, but %s is taken for wrong: %v", k, row.bounds, v, !wrong)
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d bounds checked", checked)
	}
}
