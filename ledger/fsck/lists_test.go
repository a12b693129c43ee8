package fsck_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// Versions of lists are those that the journal settled, with the bytes that it settled, and grow; without a token is only one that the lifting of a fence moved on.
func TestVersionsAreThoseOfTheJournal(t *testing.T) {
	fenced := func(o *office) { // M1 is not signed since
		o.liftFence(map[string]uint64{"S1": 1002, "M1": 1001})
		o.now = o.now.Add(time.Minute)
		o.publish("S1", 1003)
		o.open("S2", policy.SDJWT)
	}
	version := func(o *office, id string, n int) (v ledger.VersionRecord) {
		all := o.rows["versions "+id]
		must(o.t, jsonInto(all[len(all)-1-n].value, &v))
		return v
	}
	for name, c := range map[string]struct {
		before func(o *office)
		bend   func(o *office, db *sql.DB)
		says   []string
	}{
		"as they were settled":     {nil, func(*office, *sql.DB) {}, nil},
		"after a fence was lifted": {fenced, func(*office, *sql.DB) {}, nil},
		"leased further":           {func(o *office) { o.lease("S1") }, func(*office, *sql.DB) {}, nil},
		"of before the last": {nil, func(o *office, db *sql.DB) {
			o.back(db, ledger.TableVersions, "S1", 1)
			o.show("S1", 1, version(o, "S1", 1).Token)
		},
			[]string{"I4 list S1 has version 1, the last that was settled is 2"}},
		"gone": {nil, func(o *office, db *sql.DB) {
			o.back(db, ledger.TableVersions, "M1", 0)
			must(o.t, os.Remove(filepath.Join(o.dir, "publish", "status-lists", "M1.json")))
		}, []string{"I4 list M1: version 1 was settled, and is nowhere"}},
		"another token": {nil, func(o *office, db *sql.DB) {
			v := version(o, "S1", 0)
			v.Token = o.token("S1", 2, v.Expires)
			o.replace(db, ledger.TableVersions, "S1", v)
			o.show("S1", 2, v.Token)
		}, []string{"I4 list S1 version 2 has another token than was settled"}},
		"a version that nobody settled": {nil, func(o *office, db *sql.DB) {
			v := version(o, "S1", 0)
			v.Version, v.Token = 3, o.token("S1", 3, v.Expires)
			o.replace(db, ledger.TableVersions, "S1", v)
		}, []string{"I4 list S1 has version 3, the last that was settled is 2"}},
		"without its token": {nil, func(o *office, db *sql.DB) {
			v := version(o, "M1", 0)
			v.Token = nil
			o.replace(db, ledger.TableVersions, "M1", v)
			must(o.t, os.Remove(filepath.Join(o.dir, "publish", "status-lists", "M1.json")))
		}, []string{"I4 list M1 has version 1 without a token, and entry"}},
		"in another's place": {nil, func(o *office, db *sql.DB) {
			o.exec(db, "UPDATE versions SET k=CAST('x' AS BLOB) WHERE k=?", []byte("M1"))
		}, []string{"I4 the version of list M1 is in the place of \"x\"", "I4 list M1: version 1 was settled, and is nowhere"}},
		"of before the fence was lifted": {fenced, func(o *office, db *sql.DB) { o.back(db, ledger.TableVersions, "M1", 1) },
			[]string{"I4 list M1 has version 1, of before entry"}},
		"of when the fence was lifted, and settled since": {fenced, func(o *office, db *sql.DB) {
			o.back(db, ledger.TableVersions, "S1", 1)
			must(o.t, os.Remove(filepath.Join(o.dir, "publish", "status-lists", "S1.json")))
		}, []string{"I4 list S1 has version 1002, the last that was settled is 1003"}},
		"moved on and gone": {func(o *office) {
			must(o.t, os.Remove(filepath.Join(o.dir, "publish", "status-lists", "M1.json")))
			o.open("M2", policy.MDoc)
			fenced(o)
		}, func(o *office, db *sql.DB) { o.back(db, ledger.TableVersions, "M2", 0) }, []string{"I4 list M2: entry"}},
		"a number twice": {func(o *office) { o.publish("S1", 2) }, func(*office, *sql.DB) {}, []string{"list S1 got version 2 after 2"}},
		"open since before the fence": {fenced, func(o *office, db *sql.DB) { o.back(db, ledger.TableLists, "M1", 1) },
			[]string{"I4 list M1 is open, and entry"}},
		"of before its last lease": {func(o *office) { o.lease("S1") }, func(o *office, db *sql.DB) { o.back(db, ledger.TableLists, "S1", 1) },
			[]string{"I4 list S1 leased 256 indices, by the journal 512"}},
		"a list is gone": {func(o *office) { o.open("S2", policy.SDJWT) }, func(o *office, db *sql.DB) { o.back(db, ledger.TableLists, "S2", 0) },
			[]string{"I4 list S2 was opened, says the journal, and is nowhere"}},
		"a list that nobody opened": {nil, func(o *office, db *sql.DB) {
			l := *o.lists["S1"]
			l.ID = "S9"
			_, err := db.Exec("INSERT INTO lists (k, v, rev) VALUES (?, ?, 1)", []byte("S9"), encoded(o.t, l))
			must(o.t, err)
		}, []string{"I4 list S9 is there, and the journal did not open it"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := lived(t)
			if c.before != nil {
				c.before(o)
			}
			only(t, o.says(func(db *sql.DB) { c.bend(o, db) }), c.says...)
		})
	}
}

// What is published is what was settled, also if it is behind the ledger; what a lost part of the ledger had published is nobody's to say.
func TestPublishedListsWereSettled(t *testing.T) {
	for name, c := range map[string]struct {
		bend func(o *office)
		says []string
	}{
		"the newest": {func(*office) {}, nil},
		"behind":     {func(o *office) { o.show("S1", 1, tokenOf(o, "S1", 0)) }, nil},
		"behind, and other bytes": {func(o *office) { o.show("S1", 1, o.token("S1", 1, o.now.Add(time.Hour))) },
			[]string{"I4 S1.jwt: version 1 has other bytes than were settled"}},
		"the newest, and other bytes": {func(o *office) { o.show("S1", 2, o.token("S1", 2, o.now.Add(time.Hour))) },
			[]string{"I4 S1.jwt: version 2 has other bytes than were settled"}},
		"ahead": {func(o *office) { o.show("S1", 3, o.token("S1", 3, o.now.Add(time.Hour))) }, []string{"I4 S1.jwt: version 3 is ahead of the ledger's 2"}},
		"of a part that was lost": {func(o *office) {
			o.show("S1", 5, o.token("S1", 5, o.now.Add(time.Hour)))
			o.liftFence(map[string]uint64{"S1": 1005, "M1": 1001})
		}, nil},
		"of a part that was lost, and signed again since": {func(o *office) {
			o.liftFence(map[string]uint64{"S1": 1005, "M1": 1001})
			o.publish("S1", 1006)
			o.show("S1", 5, o.token("S1", 5, o.now.Add(time.Hour)))
		}, nil},
		"under another's name": {func(o *office) {
			dir := filepath.Join(o.dir, "publish", "status-lists")
			must(o.t, os.Rename(filepath.Join(dir, "S1.json"), filepath.Join(dir, "S7.json")))
		}, []string{"S7.json: it describes list \"S1\""}},
	} {
		t.Run(name, func(t *testing.T) {
			o := lived(t)
			c.bend(o)
			only(t, o.says(nil), c.says...)
		})
	}
}

func tokenOf(o *office, id string, n int) []byte {
	var v ledger.VersionRecord
	must(o.t, jsonInto(o.rows["versions "+id][n].value, &v))
	return v.Token
}
