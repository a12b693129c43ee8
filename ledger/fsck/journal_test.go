package fsck_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
)

// An entry that somebody took out is found here and nowhere else: a start asks where the journal ends, and its hashes are stored above it.
func TestAnEntryIsMissing(t *testing.T) {
	ctx := context.Background()
	for entries, says := range map[int]string{256: "has 255 entries, the log 256 leaves", 1280: "has 999 entries, the log 1280 leaves"} { // less than a page, and more
		path := filepath.Join(t.TempDir(), "ledger.db")
		s, err := ledger.OpenSQLite(ctx, path)
		must(t, err)
		batch := make([]ledger.Op, entries)
		for i := range batch {
			batch[i].Leaf = []byte(meta)
		}
		_, err = s.Commit(ctx, batch)
		must(t, err)
		must(t, s.Close())
		for _, without := range []bool{false, true} {
			if without {
				db, err := sql.Open("sqlite", path)
				must(t, err)
				_, err = db.Exec("DELETE FROM journal WHERE seq=7")
				must(t, err)
				must(t, db.Close())
			}
			r, err := fsck.Run(ctx, fsck.Options{Ledger: path})
			must(t, err)
			for _, c := range r.Checks {
				if problems := strings.Join(c.Problems, "; "); strings.HasPrefix(c.Title, "journal without gaps") && (without != strings.Contains(problems, says) || !without && problems != "") {
					t.Errorf("of %d entries one is missing, %t: fsck says %q", entries, without, problems)
				}
			}
		}
	}
}
