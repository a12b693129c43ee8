package ledger

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"sealkeeper/ledger/state"
)

// A slot that is remembered is the stored one, whatever order reads and writes come in.
func TestRecentSlotsAreNeverOlderThanTheStore(t *testing.T) {
	key, op := []byte("k"), Op{Rows: []Row{{Table: TableSlots, Key: []byte("k")}}}
	at := func(epoch uint64) recentSlot { return recentSlot{state.State{Epoch: epoch}, If(epoch)} }
	var r recentSlots
	if _, ok := r.get(key); ok {
		t.Error("nothing was read, and something is known")
	}
	moment := r.moment()
	r.wrote(op) // while the read is under way
	r.found(key, at(1), moment)
	if _, ok := r.get(key); ok {
		t.Error("a read that a write overtook is kept")
	}
	r.found(key, at(2), r.moment())
	if s, ok := r.get(key); !ok || s.rev != 2 {
		t.Error("what was read is not known")
	}
	r.wrote(Op{Rows: []Row{{Table: TableBurnt, Key: key}}})
	if _, ok := r.get(key); !ok {
		t.Error("a row of another table has the same key, and the slot is forgotten")
	}
	r.wrote(op)
	if _, ok := r.get(key); ok {
		t.Error("a slot that was written is still known as it was read")
	}
	r.put(key, at(3))
	if s, ok := r.get(key); !ok || s.rev != 3 {
		t.Error("what was written is not known")
	}
	for i := range 3 * recentMost {
		r.put(fmt.Append(nil, i), at(1))
	}
	if len(r.slots) > recentMost {
		t.Errorf("%d slots are remembered", len(r.slots))
	}
}

// Reservations made one after the other lie together in the store; nothing else has a name that tells its time.
func TestReservationNamesBeginWithTheirTime(t *testing.T) {
	l := &Ledger{random: strings.NewReader(strings.Repeat("\x00", 16) + strings.Repeat("\xff", 32))}
	a, err := l.reservationName(noon)
	must(t, err)
	b, err := l.reservationName(noon)
	must(t, err)
	if a[:8] != b[:8] || a == b || len(a) != 22 {
		t.Errorf("%s and %s, made in one millisecond, do not begin alike and end differently", a, b)
	}
	key, err := base64.RawURLEncoding.DecodeString(a)
	must(t, err)
	if decisionMillis(key) != noon.UnixMilli() {
		t.Errorf("%s does not tell when it was decided, by which it is forgotten later", a)
	}
	first, err := l.name()
	must(t, err)
	if first[:8] == b[:8] {
		t.Errorf("the name %s has the time of reservation %s", first, b)
	}
}

// Whoever met a conflict alone in its batch reads what is stored.
func TestLoneConflictForgetsTheSlot(t *testing.T) {
	l, err := Open(t.Context(), Options{Path: t.TempDir() + "/ledger.db", Fatal: func(err error) { t.Error(err) }})
	must(t, err)
	defer l.Close()
	key := []byte("k")
	l.recent.put(key, recentSlot{rev: 7})
	out, err := l.commit(t.Context(), Leaf{Kind: "meta"}, []Row{{Table: TableSlots, Key: key, Value: []byte("v"), If: 7}}, false, nil)
	must(t, err)
	if _, known := l.recent.get(key); out.Conflict == nil || known {
		t.Errorf("conflict %v, still remembered %v", out.Conflict, known)
	}
}

// A request and its subject read in one go are what is stored of each, there or not.
func TestRecallReadsTheSubjectAlong(t *testing.T) {
	l, err := Open(t.Context(), Options{Path: t.TempDir() + "/ledger.db", Fatal: func(err error) { t.Error(err) }})
	must(t, err)
	defer l.Close()
	for i, stored := range []struct{ request, slot bool }{{}, {true, false}, {false, true}, {true, true}} {
		request, slot := fmt.Append(nil, "r", i), fmt.Append(nil, "s", i)
		var rows []Row
		if stored.request {
			rows = append(rows, Row{Table: TableRequests, Key: request, Value: encode(RequestRecord{Client: "c"})})
		}
		if stored.slot {
			rows = append(rows, Row{Table: TableSlots, Key: slot, Value: encode(SlotRecord{State: state.State{Epoch: 9}})})
		}
		out, err := l.commit(t.Context(), Leaf{Kind: "meta"}, rows, false, nil)
		must(t, err)
		row, rev, err := l.requestAnd(t.Context(), request, slot)
		must(t, err)
		if (row != nil) != stored.request || row != nil && (row.Client != "c" || rev != out.Seq+1) {
			t.Errorf("%+v: request %+v of revision %d", stored, row, rev)
		}
		s, known := l.recent.get(slot)
		if want := (recentSlot{}); !known || stored.slot && (s.state.Epoch != 9 || s.rev != If(out.Seq+1)) || !stored.slot && s.rev != want.rev {
			t.Errorf("%+v: slot %+v, known %v", stored, s, known)
		}
	}
}
