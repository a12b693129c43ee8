package docs_test

import (
	"fmt"
	"strings"
	"testing"

	"sealkeeper/ceremony"
	"sealkeeper/tests/docs"
)

// The officers' table of actions is that of the code.
func TestOfficersTable(t *testing.T) {
	page := read(t, "docs/officer.md")
	if fresh, err := docs.Actions([]byte(page)); err != nil || string(fresh) != page {
		t.Errorf("docs/officer.md is stale (%v): run go run ./tests/docs/gen in the project's root", err)
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
