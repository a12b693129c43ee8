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

// What says who somebody is has no place in leaf or row (I10), and fsck does not repeat it.
func TestPersons(t *testing.T) {
	ctx := context.Background()
	problems := func(t *testing.T, leaf, row string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "ledger.db")
		s, err := ledger.OpenSQLite(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Commit(ctx, []ledger.Op{{Leaf: []byte(`{"v":1,"kind":"change","at":"2025-10-28T00:59:59Z"` + leaf + `}`)}})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		if row != "" {
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			for table, value := range map[string]string{"burnt": row, "commitments": "{" + strings.Repeat("\xc7", 31)} { // a salt may begin like JSON
				if _, err := db.Exec("INSERT INTO "+table+" (k, v, rev) VALUES (?, ?, 1)", append([]byte("nonce\x00"), make([]byte, 32)...), []byte(value)); err != nil {
					t.Fatal(err)
				}
			}
			db.Close()
		}
		r, err := fsck.Run(ctx, fsck.Options{Ledger: path})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Checks {
			if c.Invariant == "I10" {
				return strings.Join(c.Problems, "\n")
			}
		}
		t.Fatal("I10 is not checked")
		return ""
	}
	if p := problems(t, `,"client":"ward-office-1","reason":"card_lost","subject":"drN6xZMijKB57LFScJRv8I6kuRUIKoHyNFBS9I1jmnQ="`, `{"until":"2025-10-28T00:59:59Z"}`); p != "" {
		t.Errorf("ids, codes, times: %s", p)
	}
	for name, c := range map[string]struct{ leaf, row, says string }{
		"a name":               {leaf: `,"reason":"Hong Gildong"`, says: "entry 0: reason is a text in words"},
		"a name in Korean":     {leaf: `,"reason":"홍길동"`, says: "entry 0: reason is a text in words"},
		"a subject's number":   {leaf: `,"name":"850505-2345678"`, says: "entry 0: name is a number like a person's"},
		"the same in a row":    {row: `{"id":"8505052345678"}`, says: "table burnt, entry 0: id is a number like a person's"},
		"a day of birth":       {row: `{"of":["1990-01-01"]}`, says: "table burnt, entry 0: of is a day"},
		"why officers said so": {leaf: `,"proposal":"98e5","reason":"wrong photographs"`},
	} {
		t.Run(name, func(t *testing.T) {
			p := problems(t, c.leaf, c.row)
			if c.says == "" && p != "" || !strings.Contains(p, c.says) {
				t.Errorf("%q, not %q", p, c.says)
			}
			for _, person := range []string{"Hong", "홍길동", "850505", "1990"} {
				if strings.Contains(p, person) {
					t.Errorf("it repeats %s: %s", person, p)
				}
			}
		})
	}
}
