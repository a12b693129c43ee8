package docs_test

import (
	"fmt"
	"strings"
	"testing"

	"sealkeeper/ca"
	"sealkeeper/ceremony"
	"sealkeeper/officer"
)

// The officers' table of actions is that of the code.
func TestOfficersTable(t *testing.T) {
	var want strings.Builder
	rules := officer.DefaultRules()
	for _, a := range officer.Actions() {
		yes := "no"
		if ca.Executes(a) {
			yes = "yes"
		}
		fmt.Fprintf(&want, "| `%s` | %d | %s | %s | %s |\n", a, rules[a].Need, rules[a].Delay, rules[a].Life, yes)
	}
	if !strings.Contains(read(t, "docs/officer.md"), want.String()) {
		t.Errorf("docs/officer.md should have this table:\n%s", want.String())
	}
}

// The ceremony is told as it is: its script word by word, and every reason for which a paper is not good, with what to do.
func TestCeremonyIsTold(t *testing.T) {
	page := read(t, "docs/officer.md")
	if !strings.Contains(page, strings.Join(ceremony.Script, "\n")) {
		t.Errorf("docs/officer.md should have this script:\n%s", strings.Join(ceremony.Script, "\n"))
	}
	for _, c := range ceremony.Codes {
		if row := fmt.Sprintf("| `%s` | %s | ", c.ID, c.Means); !strings.Contains(page, row) {
			t.Errorf("docs/officer.md should have a row that begins: %s", row)
		}
	}
}
