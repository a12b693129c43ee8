// Command gen writes docs/errors.md and the tables of docs/metrics.md and docs/officer.md. Run it in the project's root: go run ./tests/docs/gen
package main

import (
	"fmt"
	"os"

	"sealkeeper/tests/docs"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run() error {
	page, err := os.ReadFile("docs/metrics.md")
	if err != nil {
		return err
	}
	if page, err = docs.Metrics(page); err != nil {
		return err
	}
	if err := os.WriteFile("docs/metrics.md", page, 0o644); err != nil {
		return err
	}
	if page, err = os.ReadFile("docs/officer.md"); err != nil {
		return err
	}
	if page, err = docs.Actions(page); err != nil {
		return err
	}
	if err := os.WriteFile("docs/officer.md", page, 0o644); err != nil {
		return err
	}
	return os.WriteFile("docs/errors.md", docs.Errors(), 0o644)
}
