package policy

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/internal/signed"
	"sealkeeper/internal/strict"
)

func read(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "deploy", "policies", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// load parses one of the bundles that we deploy.
func load(t testing.TB, name string) *Bundle {
	t.Helper()
	b, err := Parse(name, []byte(read(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestExampleBundles(t *testing.T) {
	for name, want := range map[string]struct{ types, clients, authorities int }{"kr-resident.json": {1, 10, 6}, "kr-resident-article.json": {1, 10, 6},
		"eu-pid.json": {1, 6, 3}, "mdl.json": {1, 5, 0}, "demo.json": {3, 5, 0}} {
		b := load(t, name)
		if len(b.Types()) != want.types || len(b.Clients()) != want.clients || len(b.Authorities()) != want.authorities || b.Version() != 1 || b.Hash() == (Hash{}) {
			t.Errorf("%s: %d types, %d clients and %d authorities in version %d", name, len(b.Types()), len(b.Clients()), len(b.Authorities()), b.Version())
		}
		for _, a := range b.Authorities() { // whose keys nobody has
			if !a.Off {
				t.Errorf("%s: authority %s is switched on", name, a.ID)
			}
		}
	}
}

// Every error says the file, the line, which part, and what to do.
func TestBundleErrorsNameFileAndLine(t *testing.T) {
	if race {
		t.Skip("a function of one goroutine: make unit runs it without the race detector")
	}
	good := read(t, "kr-resident.json")
	// What is missing is reported where it should be, or where it is needed.
	elsewhere := map[string]bool{"cut off": true, "something behind it": true, "no lifetime": true, "age without birth date": true}
	for name, c := range map[string]struct {
		old, new string // replaced once; the error is expected on the line of new, after its first line end
		want     string
	}{
		"not JSON":                     {`"version": 1`, `"version": 1,,`, "not the JSON of a bundle"},
		"cut off":                      {good[len(good)-40:], "", "not the JSON of a bundle"},
		"something behind it":          {"\n}\n", "\n}\n{}", "not the JSON of a bundle"},
		"unknown member":               {`"version": 1`, `"version": 1, "extra": 2`, "/extra is not a member"},
		"unknown member far inside":    {`"max_copies": 4`, `"max_copys": 4`, "/types/kr-resident/max_copys is not a member"},
		"other case":                   {`"version": 1`, `"Version": 1`, "/Version is not a member"},
		"duplicate member":             {`"version": 1`, `"version": 1, "version": 1`, "occurs twice"},
		"wrong JSON kind":              {`"max_copies": 4`, `"max_copies": "4"`, "/types/kr-resident/max_copies can't be a JSON string"},
		"negative version":             {`"version": 1`, `"version": -1`, "/version can't be a JSON number"},
		"unknown format":               {`"format": 1`, `"format": 2`, "this version reads format 1"},
		"a test that is null":          {`"tests": [`, `"tests": [null,`, "a test needs a name"},
		"version 0":                    {`"version": 1`, `"version": 0`, "give the bundle a version"},
		"bad name":                     {`"name": "kr-resident"`, `"name": "KR"`, "is not an id"},
		"bad client id":                {`"id": "telecom-a"`, `"id": "telecom a"`, "is not an id"},
		"client twice":                 {`"id": "telecom-a"`, `"id": "ward-office-1"`, "listed twice"},
		"unknown role":                 {`"role": "carrier"`, `"role": "root"`, "use one of auditor, carrier"},
		"unknown class":                {`"class": "telecom"`, `"class": "bank"`, "use one of telecom, holder"},
		"lock without class":           {`"class": "telecom", `, ``, "has no class"},
		"carrier that revokes":         {`["lock", "unlock"]`, `["lock", "revoke"]`, "can never revoke"},
		"operation twice":              {`["lock", "unlock"]`, `["lock", "lock"]`, "may lock twice"},
		"unknown operation":            {`["lock", "unlock"]`, `["lock", "open"]`, "can never open"},
		"may on an unknown type":       {`"may": {"kr-resident": ["lock"`, `"may": {"kr": ["lock"`, `type "kr", which the bundle does not have`},
		"issuance without issuer":      {`"issuer": "https://ward-office-1.example"`, `"issuer": "http://ward-office-1.example"`, "needs an issuer"},
		"carrier with issuer":          {`"role": "carrier"`, `"role": "carrier", "issuer": "https://x.example"`, "can't have an issuer"},
		"bad channel":                  {`"channel": "office"`, `"channel": "Office"`, "is not a name"},
		"unknown lock reason":          {`"court": ["court"]`, `"mood": ["court"]`, `lock reason "mood" is not known`},
		"reason of an unknown class":   {`"court": ["court"]`, `"court": ["judge"]`, `class "judge" is not known`},
		"reason for nobody":            {`"court": ["court"]`, `"court": []`, "has no class"},
		"bad revocation reason":        {`"deceased":`, `"Deceased":`, "is not a name"},
		"no format at all":             {`"sdjwt": {"vct": "urn:kr:mois:resident:1"},`, `"x": 1,`, "/types/kr-resident/x is not a member"},
		"bad doctype":                  {`"doctype": "kr.go.mois.resident.1"`, `"doctype": "kr go"`, "not a dotted name"},
		"bad vct":                      {`"vct": "urn:kr:mois:resident:1"`, `"vct": "resident"`, "not a URI"},
		"bad iss":                      {`"vct": "urn:kr:mois:resident:1"`, `"vct": "urn:x:y", "issuer": "urn:x:y"`, "not an https URL"},
		"bad evidence kind":            {`["key_attestation", `, `["Key Attestation", `, "is not a name"},
		"bad level":                    {`"key_storage": ["iso_18045_high"`, `"key_storage": [""`, "is not a word"},
		"bad authentication level":     {`"user_authentication": ["iso_18045_high"`, `"user_authentication": ["a b"`, "is not a word"},
		"too many copies":              {`"max_copies": 4`, `"max_copies": 65`, "use 1 to 64"},
		"too many decoys":              {`"decoys": 4`, `"decoys": 65`, "use 0 to 64"},
		"no lifetime":                  {`"lifetime": "90d",`, ``, "lifetime \"\" is not"},
		"lifetime beyond any signer":   {`"lifetime": "90d"`, `"lifetime": "458d"`, "between 1m0s and 10968h"},
		"lifetime in years":            {`"lifetime": "90d"`, `"lifetime": "1y"`, "whole number of days"},
		"refresh after the end":        {`"refresh_from": "45d"`, `"refresh_from": "91d"`, "refresh_from"},
		"grain of the whole life":      {`"time_grain": "24h"`, `"time_grain": "46d"`, "time_grain"},
		"fraction of a second":         {`"time_grain": "24h"`, `"time_grain": "1500ms"`, "time_grain"},
		"time zone by name":            {`"utc_offset": "+09:00"`, `"utc_offset": "Asia/Seoul"`, "not of the form +09:00"},
		"expiry of nothing":            {`"document_expiry": "expiry_date"`, `"document_expiry": "expiry"`, "not a required date claim"},
		"expiry by a string":           {`"document_expiry": "expiry_date"`, `"document_expiry": "address"`, "not a required date claim"},
		"age without birth date":       {`"birth_date": {"kind": "date", "required": true}`, `"birth_date": {"kind": "date"}`, "beside a required date claim birth_date"},
		"age as a number":              {`"age_over_19": {"kind": "bool", "required": true}`, `"age_over_19": {"kind": "int"}`, "must be a bool"},
		"bad claim name":               {`"given_name":`, `"Given Name":`, "is not a name"},
		"unknown kind":                 {`"birth_date": {"kind": "date"`, `"birth_date": {"kind": "tdate"`, `has the kind "tdate"`},
		"string without bound":         {`"document_number": {"kind": "string", "required": true, "max": 32}`, `"document_number": {"kind": "string"}`, "needs max"},
		"impossible bounds":            {`"max": 32`, `"max": 32, "min": 33`, "nothing can meet"},
		"bounds beside values":         {`"values": ["KR"]`, `"values": ["KR"], "max": 2`, "has no use for max"},
		"bounds of a date":             {`"issue_date": {"kind": "date"`, `"issue_date": {"max": 3, "kind": "date"`, "has no use for max"},
		"bytes without media type":     {`, "media_type": "image/jpeg"`, ``, "needs a media_type"},
		"array without items":          {`"address": {"kind": "string"`, `"address": {"kind": "array"`, "needs items"},
		"required elements":            {`"address": {"kind": "string"`, `"address": {"items": {"kind": "bool", "required": true}, "kind": "array"`, "can't be required"},
		"object without fields":        {`"address": {"kind": "string", "required": true, "max": 300}`, `"address": {"kind": "object"}`, "has 0 claims or members"},
		"member with a place":          {`"address": {"kind": "string", "required": true, "max": 300}`, `"address": {"kind": "object", "fields": {"a": {"kind": "bool", "element": "a"}}}`, "only claims have"},
		"too deep":                     {`"address": {"kind": "string", "required": true, "max": 300}`, `"address": ` + strings.Repeat(`{"kind": "array", "max": 1, "items": `, 5) + `{"kind": "bool"}` + strings.Repeat("}", 5), "nested deeper"},
		"reserved name":                {`"address": {`, `"address": {"sd_name": "cnf", `, "reserved"},
		"same SD-JWT name":             {`"given_name": {`, `"given_name": {"sd_name": "address", `, "have the same name address"},
		"same element":                 {`"given_name": {`, `"given_name": {"element": "address", `, "are the same element"},
		"bad element":                  {`"address": {`, `"address": {"element": "given name", `, "not a dotted name"},
		"format the type lacks":        {`"address": {`, `"address": {"formats": ["jwt_vc"], `, "is not one of the type"},
		"place in the other format":    {`"address": {`, `"address": {"formats": ["dc+sd-jwt"], "element": "a", `, "remove element and namespace"},
		"name in the other format":     {`"address": {`, `"address": {"formats": ["mso_mdoc"], "sd_name": "a", `, "remove sd_name and disclosure"},
		"rule that is no Cedar":        {`"cedar": "forbid (`, `"cedar": "forbidden (`, "rule resident-from-17: parser error"},
		"two policies in one rule":     {`\"2024-12-27T00:00:00+0900\") };`, `\"2024-12-27T00:00:00+0900\") }; permit (principal, action, resource);`, "exactly one policy"},
		"rule id twice":                {`"id": "resident-since-law"`, `"id": "resident-from-17"`, "there twice"},
		"rule on a misspelt fact":      {`context.at <`, `context.now <`, "rule resident-since-law"},
		"rule on an unguarded fact":    {`context has age && `, ``, "rule resident-from-17"},
		"rule on a wrong type":         {`context.age >= 17`, `context.age == \"17\"`, "rule resident-from-17"},
		"rule on an unknown action":    {`Action::\"refresh\"`, `Action::\"lock\"`, "rule office-issues-resident"},
		"rule about an unknown type":   {`DocumentType::\"kr-resident\") unless`, `DocumentType::\"kr\") unless`, `type "kr", which the bundle does not have`},
		"rule about an unknown client": {`principal, action in`, `principal == Client::\"ward-office-9\", action in`, `client "ward-office-9", which the bundle does not have`},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatalf("the bundle has no %s", c.old)
			}
			at := strings.Index(good, c.old)
			bad := good[:at] + c.new + good[at+len(c.old):]
			b, err := Parse("kr.json", []byte(bad))
			if err == nil || b != nil {
				t.Fatal("accepted")
			}
			line := 1 + strings.Count(good[:at], "\n")
			found := false
			for _, l := range strings.Split(err.Error(), "\n") {
				place, rest, _ := strings.Cut(l, ": ")
				n, _ := strconv.Atoi(strings.TrimPrefix(place, "kr.json:"))
				near := n == line || elsewhere[name]
				if !strings.HasPrefix(place, "kr.json:") || n < 1 {
					t.Errorf("without file and line: %s", l)
				}
				found = found || near && strings.Contains(rest, c.want)
			}
			if !found {
				t.Errorf("want %q on line %d, got\n%v", c.want, line, err)
			}
		})
	}
}

func TestBundleBounds(t *testing.T) {
	good := read(t, "kr-resident.json")
	for name, bad := range map[string]string{
		"empty file": "", "null": "null", "array": "[]", "no members": "{}",
		"too large":    good + strings.Repeat(" ", maxBundle),
		"too deep":     strings.Repeat(`{"types":`, 20) + strings.Repeat("}", 20),
		"not UTF-8":    strings.Replace(good, "Korea", "\xff", 1),
		"no rules":     good[:strings.Index(good, `"rules"`)] + `"rules": []}`,
		"no format":    strings.Replace(strings.Replace(good, `"sdjwt": {"vct": "urn:kr:mois:resident:1"},`, "", 1), `"mdoc": {"doctype": "kr.go.mois.resident.1", "namespace": "kr.go.mois.resident.1"},`, "", 1),
		"rules galore": good[:strings.Index(good, `"rules"`)] + `"rules": [` + strings.Repeat(`{"id":"a","cedar":""},`, maxRules) + `{"id":"a","cedar":""}]}`,
	} {
		b, err := Parse("b.json", []byte(bad))
		if err == nil || b != nil || !strings.HasPrefix(err.Error(), "b.json:") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The hash is over what a bundle says: neither its layout nor who signed it changes it, and every value does.
func TestHashIsOverTheContent(t *testing.T) {
	good := read(t, "kr-resident.json")
	a, _ := Parse("a", []byte(good))
	b, _ := Parse("b", []byte(strings.ReplaceAll(good, "\n", "\n\t")+"\n"))
	c, err := Parse("c", []byte(strings.Replace(good, `"version": 1`, `"version": 2`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if a.Hash() != b.Hash() || a.Hash() == c.Hash() || a.Hash() != load(t, "kr-resident.json").Hash() {
		t.Error("the hash is not that of the content")
	}
}

// asWritten: what is refused as it is written is refused, for that reason, whatever its canonical form would be.
func asWritten(t *testing.T, data []byte, got error) {
	if len(data) > maxBundle {
		return
	}
	if err := strict.JSON(data, fileLimits, new(BundleFile)); err != nil && (got == nil || got.Error() != fmt.Sprintf("f:%d: %s", lineOf(data, err), whatIsWrong(err))) {
		t.Errorf("refused as %v, is written wrongly: %v", got, err)
	}
}

// Numbers are what is written, though 1.0 and 1 have one canonical form; where any form will do, as in a test's claims, any will.
func TestNumbersAreAsWritten(t *testing.T) {
	good := read(t, "demo.json")
	for number, ok := range map[string]bool{"2": true, "999999999999999": true, "1000000000000000": true, "9007199254740991": true, "9007199254740993": false, "2.0": false, "2e0": false, "0.2e1": false, "-2": false, "-0": false, "02": false, `"2"`: false} {
		data := []byte(strings.Replace(good, `"version": 1`, `"version": `+number, 1))
		b, err := Parse("f", data)
		if (err == nil) != ok || ok && strconv.FormatUint(b.Version(), 10) != number {
			t.Errorf("version %s: %v", number, err)
		}
		asWritten(t, data, err)
	}
	for _, number := range []string{"1", "-1", "-0", "1.0", "1e2", "1E-2", "0.1", "9007199254740993", "1e400"} {
		data := []byte(strings.Replace(good, `"version": 1`, `"tests": [{"name": "a", "input": {"at": "2026-11-30T00:00:00Z", "claims": {"a": [`+number+`]}}, "expect": {"result": "allowed"}}], "version": 1`, 1))
		_, err := Parse("f", data)
		if err != nil {
			t.Errorf("%s in a test's claims: %v", number, err)
		}
		asWritten(t, data, err)
	}
}

// A bundle that parses says the same when it is parsed again, and every error names the file.
func FuzzParse(f *testing.F) {
	seeds := fuzzing.Strings(`{"format":1,"name":"a","version":1,"types":{"a":{"sdjwt":{"vct":"a:b"},"claims":{"a":{"kind":"bool"}},"lifetime":"1d"}},"rules":[{"id":"a","cedar":"permit(principal,action,resource);"}]}`)
	for _, name := range []string{"kr-resident.json", "eu-pid.json", "mdl.json", "demo.json"} {
		seeds = append(seeds, []byte(read(f, name)))
	}
	seeds = append(seeds, bytes.Replace(seeds[0], []byte(`"version":1`), []byte(`"version":1.0`), 1), bytes.Replace(seeds[0], []byte(`"version":1`), []byte(`"version":1,"tests":[{"name":"a","input":{"claims":{"a":[1e2,-0,9007199254740993]}},"expect":{}}]`), 1))
	fuzzing.Run(f, fuzzing.Options{Decode: func(data []byte) { Parse("f", data) }}, seeds, func(t *testing.T, data []byte) bool {
		b, err := Parse("f", data)
		if !signed.Is(data) {
			asWritten(t, data, err)
		}
		switch {
		case err == nil && (b.Hash() == Hash{} || b.Version() == 0 || len(b.Types()) == 0):
			t.Error("accepted a bundle without version or types")
		case err != nil && (b != nil || !strings.HasPrefix(err.Error(), "f:")):
			t.Errorf("error without a place: %v", err)
		}
		return err == nil
	})
}

// Every code that the source can say is explained, and nothing is explained that it can't say.
func TestEveryCodeIsExplained(t *testing.T) {
	said := map[string]bool{"rule.<id>": true}
	for _, file := range []string{"appliance.go", "claims.go", "clients.go", "decide.go", "lifecycle.go", "method.go", "phones.go", "rules.go"} {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range tree.Decls {
			room := map[string]string{"DecideList": "list.", "DecideCert": "cert.", "DecideCRL": "crl.", "DecideSelftest": "selftest.", "DecideToken": "enrolment.", "DecideClientCert": "enrolment."}
			name := ""
			if f, ok := decl.(*ast.FuncDecl); ok {
				name = f.Name.Name
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					prefix, arg := "", 1
					switch called := fmt.Sprint(n.Fun); {
					case called == "claimWrong":
						prefix, arg = "claims.", 0
					case called == "deny":
						prefix = room[name]
						if name == "DecideSelftest" || file == "clients.go" {
							arg = 0
						}
					case called == "refuse" || strings.HasSuffix(called, " denied}"):
					default:
						return true
					}
					if lit, ok := n.Args[arg].(*ast.BasicLit); ok {
						code, _ := strconv.Unquote(lit.Value)
						said[prefix+code] = true
					}
				case *ast.BasicLit: // those that are returned or assigned
					if s, _ := strconv.Unquote(n.Value); strings.HasPrefix(s, "policy.") || strings.HasPrefix(s, "enrolment.") && s != "enrolment." {
						said[s] = true
					}
				case *ast.BinaryExpr: // "evidence." + kind + "_reason"
					if reason, ok := n.Y.(*ast.BasicLit); ok && file == "method.go" {
						for _, kind := range kinds {
							if s, _ := strconv.Unquote(reason.Value); strings.HasPrefix(s, "_") {
								said["evidence."+kind+s] = true
							}
						}
					}
				}
				return true
			})
		}
	}
	for code := range said {
		if Codes[code] == "" && code != "claims." {
			t.Errorf("%s is not explained", code)
		}
	}
	for code, text := range Codes {
		if !said[code] || !strings.HasSuffix(text, ".") {
			t.Errorf("%s is never said, or its explanation is no sentence", code)
		}
	}
}

func TestWordsOfOthers(t *testing.T) {
	form := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:+-]{0,63}$`)
	words := []string{"", "a", "Z9", "-a", "a-b_c.d:e+f", "a b", "a\n", "\na", "é", "aé", "a\x00", "a/b", strings.Repeat("a", 64), strings.Repeat("a", 65)}
	for c := range 256 {
		words = append(words, string([]byte{byte(c)}), string([]byte{'a', byte(c)}))
	}
	for _, w := range words {
		if isLevel(w) != form.MatchString(w) {
			t.Errorf("%q: %v", w, isLevel(w))
		}
	}
}
