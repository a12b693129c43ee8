package docs_test

import (
	"fmt"
	"strings"
	"testing"

	"sealkeeper/ca"
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
