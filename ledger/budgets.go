package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"sealkeeper/policy"
)

// A budget is charged in the transaction that uses its approval, by a row that counts and never passes its limit (Row.Most): there is no
// moment at which a reservation is durable and its charge is not, and many reservations of one commit take from one row without a conflict.
//
// A charge is never given back. A reservation that fails later stays charged, because a signature may exist and because a refund would let
// a client that makes requests fail have more of them. What is not charged is a retry: Resume and ReserveAgain go on with a reservation that
// was charged when it was made. Windows are hours and days of UTC by the approval's instant, so that a clock that is stepped back finds the
// window that it left as full as it was.
//
// Neither rows nor leaves say whom a window is for: they have a tag, an HMAC that is another one in each window.

// LeafCharge is one charge in a leaf. The window is the one that the leaf's At is in.
type LeafCharge struct {
	Budget string `json:"budget"`
	Window int64  `json:"window"` // seconds
	Limit  uint64 `json:"limit"`
	Tag    []byte `json:"tag"`
}

// LatchRecord is a phase that has begun, whatever the clock says.
type LatchRecord struct {
	At time.Time `json:"at"` // instant of the decision that saw it begin
}

const (
	tagSize     = 16
	budgetsKept = 24 * time.Hour // how long a window is kept after its end, counted to the newest one that was charged
)

var sweptKey = []byte("budgets/swept") // in TableMeta: windows that end here or before are gone

// budgets is what the tables hold, in memory.
type budgets struct {
	// sweep is held for reading from the moment at which a window is found not to be swept until its charge is durable.
	sweep  sync.RWMutex
	swept  int64             // unix seconds
	used   map[string]uint64 // by row key; l.mu, as the rest
	most   map[window]uint64 // the fullest of each
	newest int64             // start of the newest window
	latch  []string          // sorted; never changed, only replaced
}

type window struct {
	budget string
	length int64
	end    int64
}

// chargeTag tells apart for whom a window's charges are, and does not say who it is.
func chargeTag(s *Secrets, w window, whom string) []byte {
	text := append(append(append(make([]byte, 0, 256), "budget\x00"...), w.budget...), 0)
	text = append(strconv.AppendInt(append(strconv.AppendInt(text, w.length, 10), 0), w.end, 10), 0)
	sum := s.commit.Sum(append(text, whom...))
	return sum[:tagSize]
}

// chargeKey begins with the window's end, so that old windows are found without looking at the others.
func chargeKey(w window, tag []byte) []byte {
	k := binary.BigEndian.AppendUint64(make([]byte, 0, 12+len(w.budget)+1+len(tag)), uint64(w.end))
	k = binary.BigEndian.AppendUint32(k, uint32(w.length))
	return append(append(append(k, w.budget...), 0), tag...)
}

func splitCharge(key []byte) (w window, tag []byte, err error) {
	const head = 12
	if len(key) < head {
		return w, nil, fmt.Errorf("a key of table %s has %d bytes", TableCharges, len(key))
	}
	name, tag, err := split(TableCharges, key[head:], tagSize)
	w = window{budget: name, end: int64(binary.BigEndian.Uint64(key)), length: int64(binary.BigEndian.Uint32(key[8:]))}
	if err == nil && (w.length == 0 || w.end < w.length) {
		err = fmt.Errorf("a key of table %s has a window of %d seconds until %d", TableCharges, w.length, w.end)
	}
	return w, tag, err
}

func windowAt(budget string, length, at int64) window {
	return window{budget: budget, length: length, end: at - at%length + length}
}

// charge is what an approval takes from budgets.
type charge struct {
	rows    []Row
	windows []window
	charges []policy.Charge
	latch   string
	done    func()
}

// charge refuses what is used up as far as is known, and prepares what the transaction takes. done ends it, in any case.
func (l *Ledger) charge(s *Secrets, a *policy.Approval, leaf *Leaf) (*charge, error) {
	c := a.Conditions()
	if len(c.Charges) == 0 && c.Latch == "" {
		return nil, nil
	}
	b := &l.budgets
	b.sweep.RLock()
	n := len(c.Charges)
	t := &charge{rows: make([]Row, 0, n+1), windows: make([]window, 0, n), charges: make([]policy.Charge, 0, n), latch: c.Latch, done: b.sweep.RUnlock}
	leaf.Charges = slices.Grow(leaf.Charges, n)
	at := a.At().Unix()
	for _, c := range c.Charges {
		length := int64(c.Window / time.Second)
		if at < 0 || length < 1 || length > math.MaxUint32 || c.Limit < 1 || c.Budget == "" {
			t.done()
			return nil, fmt.Errorf("budget %q of %d in %s at %s can't be charged", c.Budget, c.Limit, c.Window, a.At())
		}
		c.Limit = l.Limit(c.Budget, c.Window, c.Limit, a.At())
		t.charges = append(t.charges, c)
		w := windowAt(c.Budget, length, at)
		tag := chargeTag(s, w, c.Whom)
		key := chargeKey(w, tag)
		l.mu.RLock()
		used := b.used[string(key)]
		l.mu.RUnlock()
		if used >= c.Limit || w.end <= b.swept { // what is known never shrinks: no need to ask the store, whose refusal costs the others of its batch
			t.done()
			return nil, exhausted(c, w, w.end <= b.swept)
		}
		t.rows = append(t.rows, Row{Table: TableCharges, Key: key, Most: c.Limit})
		t.windows = append(t.windows, w)
		leaf.Charges = append(leaf.Charges, LeafCharge{Budget: c.Budget, Window: length, Limit: c.Limit, Tag: tag})
	}
	if leaf.Latch = c.Latch; c.Latch != "" {
		t.rows = append(t.rows, Row{Table: TableLatches, Key: []byte(c.Latch), Value: encode(LatchRecord{At: a.At()}), If: Any})
	}
	return t, nil
}

func (t *charge) end() {
	if t != nil {
		t.done()
	}
}

func (t *charge) put(rows []Row) []Row {
	if t == nil {
		return rows
	}
	return append(rows, t.rows...)
}

// conflict is the refusal of the budget whose row stood against the commit.
func (t *charge) conflict(c *Conflict) error {
	if t != nil && c.Table == TableCharges {
		for i, r := range t.rows {
			if string(r.Key) == string(c.Key) {
				return exhausted(t.charges[i], t.windows[i], false)
			}
		}
	}
	return conflict(c)
}

func exhausted(c policy.Charge, w window, swept bool) error {
	until := time.Unix(w.end, 0).UTC().Format(time.RFC3339)
	if swept {
		return refuseBudget(c, "budget %s: the window until %s is closed; the clock was later than that by more than a day", c.Budget, until)
	}
	return refuseBudget(c, "budget %s: the %d of %s in the %s until %s are used up", c.Budget, c.Limit, c.Whom, lengthName(w.length), until)
}

func refuseBudget(c policy.Charge, format string, args ...any) error {
	return &Refusal{code: "budget.exhausted", detail: fmt.Sprintf(format, args...), budget: c.Budget}
}

// Holds compares an approval's conditions with what is there now, as Reserve would, and takes nothing.
func (l *Ledger) Holds(ctx context.Context, a *policy.Approval) error {
	if !a.Valid() {
		return refuse("approval.missing", "nothing was approved")
	}
	s, err := l.unlocked()
	if err != nil {
		return err
	}
	for _, r := range burnRows(a.Conditions().Burns) {
		if _, rev, err := l.store.Get(ctx, r.Table, r.Key); err != nil {
			return l.readFailed(err)
		} else if rev != 0 {
			return conflict(&Conflict{Table: r.Table, Key: r.Key})
		}
	}
	taken, err := l.charge(s, a, &Leaf{})
	if err != nil {
		return err
	}
	taken.end()
	return nil
}

func lengthName(seconds int64) string {
	switch d := time.Duration(seconds) * time.Second; d {
	case time.Hour:
		return "hour"
	case 24 * time.Hour:
		return "day"
	default:
		return d.String()
	}
}

// applied is the charge's effect in memory; l.mu is held.
func (t *charge) applied(b *budgets) {
	if t == nil {
		return
	}
	for i, w := range t.windows {
		b.note(string(t.rows[i].Key), w, b.used[string(t.rows[i].Key)]+1)
	}
	b.begun(t.latch)
}

func (b *budgets) note(key string, w window, used uint64) {
	if b.used == nil {
		b.used, b.most = map[string]uint64{}, map[window]uint64{}
	}
	b.used[key] = used
	b.most[w] = max(b.most[w], used)
	b.newest = max(b.newest, w.end-w.length)
}

func (b *budgets) begun(phase string) {
	if i, known := slices.BinarySearch(b.latch, phase); phase != "" && !known {
		b.latch = slices.Insert(slices.Clone(b.latch), i, phase)
	}
}

// loadBudgets reads what is there at start.
func (l *Ledger) loadBudgets(ctx context.Context) error {
	b := &l.budgets
	swept, _, err := get[int64](ctx, l, TableMeta, sweptKey)
	if err != nil {
		return err
	}
	if swept != nil {
		b.swept = *swept
	}
	err = scan(ctx, l.store, TableCharges, nil, func(e Entry) error {
		w, _, err := splitCharge(e.Key)
		if err != nil {
			return err
		}
		used, err := decode[uint64](TableCharges, e.Value)
		if err == nil {
			b.note(string(e.Key), w, *used)
		}
		return err
	})
	if err != nil {
		return err
	}
	return scan(ctx, l.store, TableLatches, nil, func(e Entry) error {
		b.begun(string(e.Key))
		return nil
	})
}

// Latched are the phases that are known to have begun, sorted. Not to be changed.
func (l *Ledger) Latched() []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.budgets.latch
}

// BudgetUse is the most that one client, office, officer or phase has taken of a budget in the window of an instant.
func (l *Ledger) BudgetUse(budget string, length time.Duration, at time.Time) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.budgets.most[windowAt(budget, int64(length/time.Second), at.Unix())]
}

// sweepBudgets forgets windows that ended a day before the newest one that was charged began. Not by the wall clock: one that jumps ahead
// would empty windows to which it comes back. A clock that comes back to a window that was swept is refused, for what was taken from it is
// not known any more.
func (l *Ledger) sweepBudgets(ctx context.Context) error {
	b := &l.budgets
	l.mu.RLock()
	mark := b.newest - int64(budgetsKept/time.Second)
	l.mu.RUnlock()
	var old []Entry
	enough := errors.New("the rest is newer")
	err := scan(ctx, l.store, TableCharges, nil, func(e Entry) error {
		w, _, err := splitCharge(e.Key)
		switch {
		case err != nil:
			return err
		case w.end > mark:
			return enough
		}
		old = append(old, e)
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return err
	}
	if len(old) == 0 {
		return nil
	}
	// Whoever charges one of these windows does so before this, and its row moves; or is refused from now on.
	b.sweep.Lock()
	b.swept = max(b.swept, mark)
	b.sweep.Unlock()
	for part := range slices.Chunk(old, sweepBatch) {
		leaf := Leaf{Kind: "sweep-budgets", At: l.o.Clock.Now(), Name: strconv.FormatInt(mark, 10), Count: uint64(len(part))}
		rows := []Row{{Table: TableMeta, Key: sweptKey, Value: encode(mark), If: Any}}
		for _, e := range part {
			rows = append(rows, Row{Table: TableCharges, Key: e.Key, If: If(e.Revision)})
		}
		_, err := l.commit(ctx, leaf, rows, false, func(uint64) { // what met a conflict is swept next time
			for _, e := range part {
				w, _, _ := splitCharge(e.Key)
				delete(b.used, string(e.Key))
				delete(b.most, w)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
