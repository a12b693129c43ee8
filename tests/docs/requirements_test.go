package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/requirements.md has a row for each fact, each row a test, and every test that it names is there.
func TestRequirementsNameTests(t *testing.T) {
	tests := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(`).FindAllSubmatch(b, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{} // facts of TestFacts
	for _, m := range regexp.MustCompile(`(?m)^\t\{"(S?\d+): `).FindAllStringSubmatch(read(t, "tests/scenario/facts_test.go"), -1) {
		shown[m[1]] = true
	}
	if len(shown) < 15 {
		t.Fatalf("tests/scenario/facts_test.go has %d facts: it looks different now", len(shown))
	}
	page := read(t, "docs/requirements.md")
	rows, told := map[string]int{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| (S|T|b)?(\d+) \|(.*)$`).FindAllStringSubmatch(page, -1) {
		id, row := m[1]+m[2], m[3]
		rows[m[1]]++
		named := regexp.MustCompile("`(Test[A-Za-z0-9]+)(?:/(S?\\d+))?`").FindAllStringSubmatch(row, -1)
		for _, n := range named {
			if !tests[n[1]] || n[2] != "" && !shown[n[2]] {
				t.Errorf("docs/requirements.md, %s: %s is no test", id, n[0])
			}
			if n[2] == id {
				told[n[2]] = true
			}
		}
		// A fact of the first table is the appliance's: something shows it. Of the others some are the business of somebody else.
		if len(named) == 0 && (m[1] == "" || !strings.Contains(row, "business")) {
			t.Errorf("docs/requirements.md, %s: no test shows it", id)
		}
	}
	for fact := range shown {
		if told[fact] {
			continue
		}
		t.Errorf("docs/requirements.md, %s: `TestFacts/%s` shows it and is not named", fact, fact)
	}
	for kind, want := range map[string]int{"": 29, "S": 9, "T": 20, "b": 5} {
		if rows[kind] != want {
			t.Errorf("docs/requirements.md has %d rows %s1 to %s%d, want %d", rows[kind], kind, kind, want, want)
		}
	}
}
