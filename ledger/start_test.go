package ledger

import (
	"context"
	"database/sql/driver"
	"strings"
	"testing"

	"sealkeeper/policy"
)

// plan is how SQLite carries a statement out, a line for each step.
func (c *connection) plan(t *testing.T, id statement) (steps []string) {
	t.Helper()
	text := id.text
	if id.table != "" {
		text = strings.ReplaceAll(text, "%s", string(id.table))
	}
	made, err := c.raw.PrepareContext(context.Background(), "EXPLAIN QUERY PLAN "+text)
	must(t, err)
	defer made.Close()
	args := make([]driver.NamedValue, 3*addMost)
	for i := range args {
		args[i] = driver.NamedValue{Ordinal: i + 1, Value: int64(1)}
	}
	rows, err := made.(prepared).QueryContext(context.Background(), args)
	must(t, err)
	defer rows.Close()
	for row := make([]driver.Value, 4); rows.Next(row) == nil; {
		steps = append(steps, row[3].(string))
	}
	return steps
}

// What a start and a look at a copy ask of the file is found by a key: nothing that it costs grows with the ledger.
func TestNoStatementReadsAWholeTable(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.publishAll()
	w.again()
	looked, err := snapshotSQLite(context.Background(), w.o.Path)
	must(t, err)
	defer looked.Close()
	_, _, err = looked.Head(context.Background())
	must(t, err)
	seen := 0
	all := func(c *connection) error {
		for id := range c.stmts {
			if strings.HasPrefix(id.text, "PRAGMA") {
				continue
			}
			seen++
			for _, step := range c.plan(t, id) {
				if strings.HasPrefix(step, "SCAN") && !strings.Contains(step, "CONSTANT") {
					t.Errorf("%s of table %q: %s", id.text, id.table, step)
				}
			}
		}
		return nil
	}
	for _, s := range []Store{w.store, looked} {
		s := s.(*sqlite)
		for range cap(s.read.room) { // nobody reads, so that every connection is idle
			s.read.room <- struct{}{}
		}
		for _, c := range s.read.idle {
			must(t, all(c))
		}
		for range cap(s.read.room) {
			<-s.read.room
		}
		if s.conn != nil {
			s.mu.Lock()
			must(t, all(s.conn))
			s.mu.Unlock()
		}
	}
	if seen < 3 {
		t.Errorf("only %d statements were looked at", seen)
	}
}
