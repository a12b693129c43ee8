package fsck_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
	"sealkeeper/policy"
)

// An index has one credential, whichever table gives it, and only indices that were leased are given.
func TestIndicesAreGivenOnce(t *testing.T) {
	type given struct {
		at, index   uint64 // at: the counter
		reservation string
		item        int
		format      policy.Format
		list        string
		before      bool // a row of before, by index
	}
	type world struct {
		rows  []given
		items map[string][]uint64 // that reservations reserved
		list  ledger.ListRecord
	}
	add := func(g given) func(*world) { return func(w *world) { w.rows = append(w.rows, g) } }
	for name, c := range map[string]struct {
		change func(*world)
		says   string
	}{
		"as it was given":                      {func(*world) {}, ""},
		"given by two counters":                {add(given{at: 2, index: 9, reservation: "r2"}), "index 9 of list L1 is given in two rows, to reservation r2 and to r2"},
		"given before and now":                 {add(given{at: 2, index: 5, reservation: "r2"}), "index 5 of list L1 is given in two rows, to reservation r1 and to r2"},
		"given before to one of now":           {add(given{index: 9, reservation: "r1", before: true}), "index 9 of list L1 is given in two rows, to reservation r1 and to r2"},
		"a counter that was not leased":        {func(w *world) { w.rows[1].at = 256 }, "list L1 gave the index of counter 256 and leased those below 256"},
		"the last that was leased":             {func(w *world) { w.rows[1].at = 255 }, ""},
		"more than were leased":                {func(w *world) { w.list.Leased = 2 }, "list L1 gave 3 indices and leased 2"},
		"an index beyond the list":             {add(given{at: 2, index: 1024, reservation: "r2"}), "index 1024 of list L1: outside the list, or of another format"},
		"an index of before beyond the list":   {add(given{index: 1024, reservation: "r2", before: true}), "index 1024 of list L1: outside the list, or of another format"},
		"another format":                       {func(w *world) { w.rows[1].format = policy.MDoc }, "index 9 of list L1: outside the list, or of another format"},
		"to a reservation that is not there":   {func(w *world) { w.rows[1].reservation = "r9" }, "index 9 of list L1: reservation r9 does not exist"},
		"to an item that is not there":         {func(w *world) { w.rows[1].item = 2 }, "index 9 of list L1: reservation r2 does not exist"},
		"to a reservation of another index":    {func(w *world) { w.rows[1].index = 10 }, "index 10 of list L1: reservation r2 reserved index 9 of L1"},
		"reserved and not given":               {func(w *world) { w.rows = w.rows[:2] }, "index 11 of list L1, reserved by r2, is given to something else"},
		"reserved twice":                       {func(w *world) { w.items["r1"] = append(w.items["r1"], 9) }, "index 9 of list L1 was reserved by r"},
		"of a list that is not there":          {add(given{at: 2, index: 7, reservation: "r2", list: "L9"}), "index 7 of list L9, which does not exist"},
		"before, of a list that is not there":  {add(given{index: 7, reservation: "r2", list: "L9", before: true}), "index 7 of list L9, which does not exist"},
		"given before, and reserved elsewhere": {func(w *world) { w.rows[0].reservation = "r2" }, "index 5 of list L1, reserved by r1, is given to something else"},
	} {
		t.Run(name, func(t *testing.T) {
			w := world{rows: []given{{index: 5, reservation: "r1", before: true}, {at: 0, index: 9, reservation: "r2"}, {at: 1, index: 11, reservation: "r2", item: 1}},
				items: map[string][]uint64{"r1": {5}, "r2": {9, 11}},
				list:  ledger.ListRecord{ID: "L1", DocumentType: "kr-resident", Format: policy.SDJWT, Bits: 2, Size: 1024, Leased: 256, Opened: noon}}
			c.change(&w)
			op := ledger.Op{Leaf: []byte(meta)}
			op.Rows = append(op.Rows, row(ledger.TableLists, "L1", w.list))
			for id, indices := range w.items {
				r := ledger.ReservationRecord{ID: id, Kind: policy.KindIssue, Progress: ledger.Settled, At: noon}
				for _, i := range indices {
					r.Items = append(r.Items, ledger.ItemRecord{KeyID: "k", Purpose: policy.PurposeSDJWT, Format: policy.SDJWT, List: "L1", Index: i})
				}
				op.Rows = append(op.Rows, row(ledger.TableReservations, id, r))
			}
			for _, g := range w.rows {
				list, format := "L1", policy.SDJWT
				if g.list != "" {
					list = g.list
				}
				if g.format != "" {
					format = g.format
				}
				record := ledger.CredentialRecord{Reservation: g.reservation, Item: g.item, Format: format, NotAfter: noon.AddDate(0, 3, 0)}
				key := func(n uint64) string { return string(binary.BigEndian.AppendUint64([]byte(list+"\x00"), n)) }
				if g.before {
					op.Rows = append(op.Rows, row(ledger.TableCredentials, key(g.index), record))
				} else {
					op.Rows = append(op.Rows, row(ledger.TableIndices, key(g.at), ledger.IndexRecord{Index: g.index, CredentialRecord: record}))
				}
			}
			path := filepath.Join(t.TempDir(), "ledger.db")
			s, err := ledger.OpenSQLite(context.Background(), path)
			must(t, err)
			out, err := s.Commit(context.Background(), []ledger.Op{op})
			if err != nil || out[0].Conflict != nil {
				t.Fatal(fmt.Sprint(err, out))
			}
			must(t, s.Close())
			r, err := fsck.Run(context.Background(), fsck.Options{Ledger: path})
			must(t, err)
			for _, check := range r.Checks {
				if strings.HasPrefix(check.Title, "a status index") {
					if says := strings.Join(check.Problems, "; "); says != c.says && (c.says == "" || !strings.Contains(says, c.says)) {
						t.Errorf("fsck says %q, want %q", says, c.says)
					}
					return
				}
			}
			t.Error("indices are not checked")
		})
	}
}
