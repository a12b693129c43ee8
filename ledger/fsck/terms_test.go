package fsck_test

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// What a hold suspends in lists is what the journal says, from the entry that it says, and is every card of its selection and no other.
func TestHoldsInLists(t *testing.T) {
	made := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	type world struct {
		noCampaign                bool
		held                      []uint64 // indices of the mask; of card 1, signed by k1, is 5; of card 2, signed by k2, is 9
		row                       ledger.MaskRecord
		hold                      ledger.HoldRecord
		campaign                  ledger.CampaignRecord
		noMask, noHold, noPlace   bool
		late                      bool // the hold's row is of an entry after the one that placed it
		lifted, relifted, nowhere bool
	}
	for name, c := range map[string]struct {
		change func(*world)
		says   string
	}{
		"holds its card":          {func(*world) {}, ""},
		"lifted":                  {func(w *world) { w.lifted = true }, ""},
		"holds a card of another": {func(w *world) { w.held = []uint64{5, 9} }, "holds index 9 of list L1, which is no card's of its selection"},
		"holds nobody's index":    {func(w *world) { w.held = []uint64{5, 77} }, "holds index 77 of list L1, which is no card's of its selection"},
		"leaves a card out":       {func(w *world) { w.held = []uint64{} }, "is about it, and does not hold index 5 of list L1"},
		"another mask than the journal's": {func(w *world) { w.hold.Digest = []byte("other") },
			"has other masks than those of 1 lists that the journal has"},
		"its mask is gone":            {func(w *world) { w.noMask = true }, "has other masks than those of 1 lists"},
		"counts otherwise":            {func(w *world) { w.row.Count = 7 }, "holds 1 entries of list L1, its row says 7"},
		"a damaged mask":              {func(w *world) { w.row.Bits = []byte{0xff, 0xff} }, "the mask of list \"L1\""},
		"too long a mask":             {func(w *world) { w.row = packed(t, make([]byte, 129)) }, "longer than the list"},
		"a list that is not there":    {func(w *world) { w.nowhere = true }, "has a mask of list L9, which does not exist"},
		"placed by nobody":            {func(w *world) { w.noPlace = true }, "is true of lists, and the journal does not say so"},
		"true of nothing":             {func(w *world) { w.noHold = true }, "came to be true of lists, says the journal, and is of none"},
		"from another entry on":       {func(w *world) { w.late = true }, "from entry 4 on, by the journal of 1 from entry 3 on"},
		"true of lists, and nobody's": {func(w *world) { w.noCampaign = true }, "is true of lists and was never placed"},
		"by another entry lifted":     {func(w *world) { w.lifted, w.relifted = true, true }, "was lifted by entry 4, its row says by 5"},
		"not found, and in lists":     {func(w *world) { w.campaign.Found = time.Time{} }, "has found its cards: false, and is true of lists: true"},
		"masks of a lost hold alone":  {func(w *world) { w.campaign.Term = false }, "has masks and was never placed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := world{campaign: ledger.CampaignRecord{Operation: ledger.CampaignHold, Selection: ledger.Selection{Key: "k1"}, At: made.Add(time.Hour), By: []string{"kim"}, Found: made.Add(time.Hour), Term: true}}
			w.held = []uint64{5}
			probe := w
			c.change(&probe)
			mask := make([]byte, 128)
			for _, i := range probe.held {
				mask[i/8] |= 1 << (i % 8)
			}
			w.row = packed(t, mask)
			w.hold = ledger.HoldRecord{At: made.Add(time.Hour), Lists: 1, Cards: 1, Credentials: len(probe.held)}
			c.change(&w)
			list := "L1"
			if w.nowhere {
				list = "L9"
			}
			row := encoded(t, w.row)
			digest := ledger.DigestMasks(map[string][32]byte{list: sha256.Sum256(row)})
			if w.hold.Digest == nil {
				w.hold.Digest = digest
			}

			issued := ledger.Op{Leaf: []byte(`{"v":1,"kind":"lists","at":"2026-11-24T00:00:00Z"}`)}
			add := func(op *ledger.Op, table ledger.Table, key []byte, v any) {
				op.Rows = append(op.Rows, ledger.Row{Table: table, Key: key, Value: encoded(t, v), If: ledger.Any})
			}
			add(&issued, ledger.TableLists, []byte("L1"), ledger.ListRecord{ID: "L1", DocumentType: "kr-resident", Format: policy.SDJWT, Bits: 2, Size: 1024, Leased: 256, Opened: made})
			for n, at := range map[byte]uint64{1: 5, 2: 9} {
				id, subject := fmt.Sprint("r", n), policy.Pseudonym{n}
				add(&issued, ledger.TableReservations, []byte(id), ledger.ReservationRecord{ID: id, Kind: policy.KindIssue, Progress: ledger.Settled, At: made, DocumentType: "kr-resident", Subject: subject,
					Items: []ledger.ItemRecord{{KeyID: fmt.Sprint("k", n), Purpose: policy.PurposeSDJWT, Format: policy.SDJWT, List: "L1", Index: at}}})
				add(&issued, ledger.TableCredentials, binary.BigEndian.AppendUint64([]byte("L1\x00"), at), ledger.CredentialRecord{Reservation: id, Format: policy.SDJWT, NotAfter: made.AddDate(0, 3, 0)})
				add(&issued, ledger.TableSlots, append([]byte("kr-resident\x00"), subject[:]...), ledger.SlotRecord{DocumentType: "kr-resident", Subject: subject, State: state.State{Epoch: 1,
					Device: &state.Device{ID: "d"}, Credentials: []state.Credential{{Reservation: id, Device: "d", Format: policy.SDJWT, List: "L1", Index: at, Made: made, NotAfter: made.AddDate(0, 3, 0), Phase: state.Signed}}}})
			}
			leaf := func(state, digest string, count int) ledger.Op {
				return ledger.Op{Leaf: fmt.Appendf(nil, `{"v":1,"kind":"campaign","at":"2026-11-24T01:00:00Z","name":"h1","operation":"hold","state":%q,"count":%d%s}`, state, count, digest)}
			}
			ops := []ledger.Op{issued, leaf("started", "", 0), {Leaf: []byte(`{"v":1,"kind":"hold-masks","at":"2026-11-24T01:00:00Z","name":"h1"}`)}, leaf("held", `,"digest":"`+base64.StdEncoding.EncodeToString(w.hold.Digest)+`"`, 1)}
			if w.noPlace {
				ops[3] = leaf("finding", "", 0)
			}
			if !w.noMask {
				ops[2].Rows = []ledger.Row{{Table: ledger.TableMasks, Key: []byte("h1\x00" + list), Value: row}}
			}
			held := &ops[3]
			if w.late {
				ops = append(ops, leaf("finding", "", 0))
				held = &ops[4]
			}
			if !w.noCampaign {
				add(held, ledger.TableCampaigns, []byte("h1"), w.campaign)
			}
			if !w.noHold {
				add(held, ledger.TableHolds, []byte("h1"), w.hold)
			}
			if w.lifted {
				w.campaign.Lifted, w.campaign.Done = made.Add(2*time.Hour), made.Add(2*time.Hour)
				ops = append(ops, leaf("lifted", "", 0))
				if w.relifted {
					ops = append(ops, leaf("finding", "", 0))
				}
				add(&ops[len(ops)-1], ledger.TableCampaigns, []byte("h1"), w.campaign)
			}
			path := filepath.Join(t.TempDir(), "ledger.db")
			s, err := ledger.OpenSQLite(context.Background(), path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Commit(context.Background(), ops); err != nil {
				t.Fatal(err)
			}
			s.Close()
			r, err := fsck.Run(context.Background(), fsck.Options{Ledger: path})
			if err != nil {
				t.Fatal(err)
			}
			for _, check := range r.Checks {
				if strings.HasPrefix(check.Title, "holds suspend") {
					if says := strings.Join(check.Problems, "; "); says != c.says && (c.says == "" || !strings.Contains(says, c.says)) {
						t.Errorf("fsck says %q, want %q", says, c.says)
					}
					return
				}
			}
			t.Error("holds are not checked")
		})
	}
}

func packed(t *testing.T, mask []byte) (r ledger.MaskRecord) {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(mask)
	w.Close()
	for _, b := range mask {
		for ; b != 0; b &= b - 1 {
			r.Count++
		}
	}
	r.Bits = out.Bytes()
	return r
}
