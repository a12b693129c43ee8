// Package fsck reads a ledger as an outsider and says exactly where it does not keep what the appliance promises. It shares no code path
// with the daemon but the pure state functions and the record types: every count is made again, from the rows, the leaves and the published
// files. It writes nothing.
package fsck

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"sealkeeper/ledger"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
	"sealkeeper/verifier"
)

// Options of Run.
type Options struct {
	Ledger  string // file
	Publish string // publish directory; empty: not looked at
}

// Report is the result, check by check.
type Report struct {
	Ledger string   `json:"ledger"`
	Size   uint64   `json:"journal_size"`
	Root   string   `json:"journal_root"`
	Checks []*Check `json:"checks"`
}

// Check is one invariant of docs/invariants.md.
type Check struct {
	Invariant string   `json:"invariant"`
	Title     string   `json:"title"`
	Checked   int      `json:"checked"`
	Problems  []string `json:"problems"`
	Omitted   int      `json:"omitted,omitempty"` // problems beyond the first hundred
}

const mostProblems = 100

func (c *Check) fail(format string, args ...any) {
	if len(c.Problems) >= mostProblems {
		c.Omitted++
		return
	}
	c.Problems = append(c.Problems, fmt.Sprintf(format, args...))
}

// Clean reports whether nothing is wrong.
func (r *Report) Clean() bool { return r.Problems() == 0 }

// Problems counts what is wrong.
func (r *Report) Problems() int {
	n := 0
	for _, c := range r.Checks {
		n += len(c.Problems) + c.Omitted
	}
	return n
}

func (r *Report) check(invariant, title string) *Check {
	c := &Check{Invariant: invariant, Title: title, Problems: []string{}}
	r.Checks = append(r.Checks, c)
	return c
}

// run is the state of one check-up.
type run struct {
	ctx          context.Context
	a            *ledger.Audit
	r            *Report
	leaves       map[string]leafAt              // "reserve" leaves by reservation
	settled      map[string]struct{}            // "settle" leaves by reservation
	outcomes     map[string]map[attempt]outcome // of attempts, by the journal
	givenUp      map[string]struct{}            // "give-up" leaves of unfinished ones
	tries        map[string][]triedAt
	reservations map[string]ledger.ReservationRecord
	credentials  map[slot]ledger.CredentialRecord
	again        []again           // rows that give what another one gives
	counters     map[string]uint64 // the highest that gave an index, by list
	lists        map[string]ledger.ListRecord
	images       map[string][]byte // now
	keys         map[string]ledger.Key
	windows      map[window]uint64           // charges in leaves
	latches      map[string]map[uint64]int64 // phase, entry → instant, in leaves
	swept        string                      // how far the leaves say that windows were swept
	overdrawn    []string
	decisions    map[uint64]decision    // entry → what it says of its decision
	proposed     map[string][]string    // kinds of what officers said, by proposal
	executed     map[string][]uint64    // entries that carried a proposal out
	set          map[string]bool        // what officers set, by what the journal says last
	clock        string                 // the last that was accepted
	outside      map[string][]*outside  // what is published, by kind
	begun        map[string]bool        // campaigns in leaves
	done, marked map[string]int         // their cards, at their end and one by one
	ended        map[string]time.Time   // when campaigns came to their end
	forgotten    map[string]int         // cards of campaigns that were swept
	gone         map[string]bool        // campaigns that were
	early        []string               // and those that were too early
	lifted       map[string]bool        // holds that the journal says were lifted
	liftedAt     map[string]uint64      // and by which entry
	begunAt      map[string]uint64      // the entries of begun
	placed       map[string]heldAt      // by which entry a hold came to be true of lists
	holding      map[string]int         // cards that have the lock of a hold of before, by hold
	restored     map[uint64]bool        // entries in which something was taken back from published lists
	inUse        map[string]bool        // hashes of bundles, once they are put to use
	unused       []uint64               // entries of bundles that were not
	revoked      map[string][]revokedAt // by serial: what the leaves say of its revocation, in their order
	crls         map[string]settledAt   // the last that was settled, by the name of the list
	repeated     []string               // numbers that did not grow
	journalled   journalled
	times        []moment // of entries, as far as they matter
	custody      custody
	enrolled     enrolled
}

// window of a budget for one client, office, officer or phase.
type window struct {
	budget, tag string
	length, end int64
}

type leafAt struct {
	seq  uint64
	leaf ledger.Leaf
}

type triedAt struct {
	item, n int
	record  ledger.AttemptRecord
}

// attempt at an item of a reservation, and how it ended.
type (
	attempt struct{ item, n int }
	outcome struct {
		state  ledger.Try
		worker string
	}
)

type slot struct {
	list  string
	index uint64
}

type again struct {
	slot
	one, other string // reservations
}

// Run checks a ledger file. The error says that it could not be read at all; what is wrong in it is in the report. A daemon may run meanwhile.
func Run(ctx context.Context, o Options) (*Report, error) {
	if _, err := os.Stat(o.Ledger); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	seen, err := look(o.Publish) // before the snapshot: what is published was settled before
	if err != nil {
		return nil, fmt.Errorf("publish directory: %w", err)
	}
	a, err := ledger.OpenAudit(ctx, o.Ledger)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", o.Ledger, err)
	}
	defer a.Close()
	f := &run{ctx: ctx, a: a, outside: seen, journalled: newJournalled(seen["status-lists"]), r: &Report{Ledger: o.Ledger}, leaves: map[string]leafAt{}, settled: map[string]struct{}{}, givenUp: map[string]struct{}{}, tries: map[string][]triedAt{}, outcomes: map[string]map[attempt]outcome{},
		reservations: map[string]ledger.ReservationRecord{}, credentials: map[slot]ledger.CredentialRecord{}, counters: map[string]uint64{}, lists: map[string]ledger.ListRecord{}, images: map[string][]byte{}, keys: map[string]ledger.Key{}, windows: map[window]uint64{}, latches: map[string]map[uint64]int64{},
		decisions: map[uint64]decision{}, inUse: map[string]bool{}, restored: map[uint64]bool{}, revoked: map[string][]revokedAt{}, crls: map[string]settledAt{}, proposed: map[string][]string{}, executed: map[string][]uint64{}, set: map[string]bool{}, begun: map[string]bool{}, done: map[string]int{}, marked: map[string]int{}, lifted: map[string]bool{}, liftedAt: map[string]uint64{}, begunAt: map[string]uint64{}, placed: map[string]heldAt{}, ended: map[string]time.Time{}, forgotten: map[string]int{}, gone: map[string]bool{}, holding: map[string]int{},
		custody: custody{entries: map[string]uint64{}, before: map[string]bool{}, registries: map[string]struct{}{}}}
	for _, step := range []func() error{f.log, f.load, f.reserved, f.attempts, f.indices, f.changes, f.subjects, f.lines, f.statusLists, f.versions, f.certificates, f.revocations, f.published, f.budgets, f.orders, f.unfinished, f.recorded, f.proposals, f.keysLives, f.persons, f.clients} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	sort.SliceStable(f.r.Checks, func(i, j int) bool { return f.r.Checks[i].Invariant < f.r.Checks[j].Invariant })
	return f.r, nil
}

// log: the journal has no gap, and the stored Merkle hashes are those of its leaves (I6).
func (f *run) log() error {
	c := f.r.check("I6", "journal without gaps, Merkle hashes of exactly its leaves")
	size, root, err := f.a.Head(f.ctx)
	if err != nil {
		return fmt.Errorf("reading the log's head: %w", err)
	}
	f.r.Size, f.r.Root = size, fmt.Sprintf("%x", root[:])
	var stored []tlog.Hash // computed again from the leaves
	reader := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(at))
		for i, n := range at {
			if n < 0 || n >= int64(len(stored)) {
				return nil, fmt.Errorf("hash %d is not there", n)
			}
			out[i] = stored[n]
		}
		return out, nil
	})
	err = f.a.Journal(f.ctx, func(seq uint64, leaf ledger.Leaf, body []byte) error {
		c.Checked++
		hashes, err := tlog.StoredHashesForRecordHash(int64(seq), tlog.RecordHash(body), reader)
		if err != nil {
			return err
		}
		stored = append(stored, hashes...)
		if leaf.Kind == "restore" {
			f.restored[seq] = true
		}
		f.passed(seq, leaf.At)
		f.charged(seq, leaf)
		f.listed(seq, leaf)
		f.decided(seq, leaf)
		f.governed(seq, leaf)
		f.unbelieved(seq, leaf)
		f.kept(seq, leaf)
		f.registry(seq, leaf)
		f.tried(leaf)
		if leaf.Reservation != "" {
			switch {
			case leaf.Kind == "settle":
				if _, twice := f.settled[leaf.Reservation]; twice {
					c.fail("reservation %s was settled twice, again in entry %d", leaf.Reservation, seq)
				}
				f.settled[leaf.Reservation] = struct{}{}
			case leaf.Kind == "give-up" && leaf.Reason == "unfinished":
				f.givenUp[leaf.Reservation] = struct{}{}
			case strings.HasPrefix(leaf.Kind, "reserve"):
				f.leaves[leaf.Reservation] = leafAt{seq, leaf}
			}
		}
		return nil
	})
	if err != nil {
		c.fail("the journal can't be read to its end: %v", err)
		return nil
	}
	if uint64(c.Checked) != size {
		c.fail("the journal has %d entries, the log %d leaves", c.Checked, size)
		return nil
	}
	again, err := tlog.TreeHash(int64(size), reader)
	if err != nil {
		return err
	}
	if again != root {
		c.fail("the leaves give root %x, stored is %x: a leaf or a hash was changed", again[:8], root[:8])
	}
	return nil
}

// charged counts what a leaf took from budgets.
func (f *run) charged(seq uint64, leaf ledger.Leaf) {
	if leaf.Kind == "sweep-budgets" {
		f.swept = leaf.Name
	}
	for _, c := range leaf.Charges {
		at := leaf.At.Unix()
		if c.Window < 1 || at < 0 {
			f.overdrawn = append(f.overdrawn, fmt.Sprintf("entry %d charges budget %s for a window of %d seconds", seq, c.Budget, c.Window))
			continue
		}
		w := window{budget: c.Budget, tag: string(c.Tag), length: c.Window, end: at - at%c.Window + c.Window}
		if f.windows[w]++; f.windows[w] > c.Limit {
			f.overdrawn = append(f.overdrawn, fmt.Sprintf("entry %d is charge %d of %d in budget %s, window %s", seq, f.windows[w], c.Limit, c.Budget, w.until()))
		}
	}
	if leaf.Latch != "" {
		if f.latches[leaf.Latch] == nil {
			f.latches[leaf.Latch] = map[uint64]int64{}
		}
		f.latches[leaf.Latch][seq] = leaf.At.UnixNano()
	}
}

func (w window) until() string {
	return fmt.Sprintf("of %d s until %s", w.length, time.Unix(w.end, 0).UTC().Format(time.RFC3339))
}

// budgets: what is charged and latched is what the leaves say, and no window has more than its limit (I6).
func (f *run) budgets() error {
	c := f.r.check("I6", "budgets and begun phases are those of the journal, and no budget is overdrawn")
	for _, p := range f.overdrawn {
		c.fail("%s", p)
	}
	swept, err := f.a.BudgetsSwept(f.ctx)
	if err != nil {
		return err
	}
	if said := strconv.FormatInt(swept, 10); said != f.swept && (swept != 0 || f.swept != "") {
		c.fail("windows are swept until %s, the journal says until %q", said, f.swept)
	}
	if err := f.a.Charges(f.ctx, func(seq uint64, budget string, length, end int64, tag []byte, used uint64) error {
		c.Checked++
		w := window{budget: budget, tag: string(tag), length: length, end: end}
		if counted := f.windows[w]; counted != used {
			c.fail("budget %s, window %s: %d are charged, the journal has %d", budget, w.until(), used, counted)
		}
		delete(f.windows, w)
		return nil
	}); err != nil {
		return err
	}
	for w, n := range f.windows {
		if w.end > swept {
			c.fail("budget %s, window %s: the %d charges of the journal are nowhere else", w.budget, w.until(), n)
		}
	}
	if err := f.a.Latches(f.ctx, func(seq uint64, phase string, r ledger.LatchRecord) error {
		c.Checked++
		if at, ok := f.latches[phase][seq]; !ok || at != r.At.UnixNano() {
			c.fail("phase %s began with entry %d at %s, which that entry does not say", phase, seq, r.At.Format(time.RFC3339))
		}
		delete(f.latches, phase)
		return nil
	}); err != nil {
		return err
	}
	for phase := range f.latches {
		c.fail("phase %s began, says the journal, and nothing else does", phase)
	}
	return nil
}

// orders: what is to come for subjects is in the table by which it is carried out, and nothing else is.
func (f *run) orders() error {
	c := f.r.check("I4", "orders for later are those of the subjects' states")
	want := map[string]bool{}
	if err := f.a.Slots(f.ctx, func(_ []byte, _ uint64, r ledger.SlotRecord) error {
		for _, k := range ledger.DueKeys(r) {
			c.Checked++
			want[string(k)] = true
		}
		return nil
	}); err != nil {
		return err
	}
	if err := f.a.Due(f.ctx, func(key []byte, r ledger.DueRecord) error {
		if !want[string(key)] {
			c.fail("order %q of subject %.8s… (%s) is due by the table, and not by its state", r.Order, r.Subject.String(), r.DocumentType)
		}
		delete(want, string(key))
		return nil
	}); err != nil {
		return err
	}
	if len(want) > 0 {
		c.fail("%d steps of orders will never be carried out", len(want))
	}
	return nil
}

// unfinished: a reservation of credentials waits for its request, or was given up, which the journal says (I2).
func (f *run) unfinished() error {
	c := f.r.check("I2", "reservations that nobody finished are waited for, or given up in the journal")
	waiting := map[string]bool{}
	if err := f.a.Requests(f.ctx, func(_ uint64, _ []byte, r ledger.RequestRecord) error {
		if r.Settled.IsZero() {
			waiting[r.Reservation] = true
		}
		return nil
	}); err != nil {
		return err
	}
	for id, r := range f.reservations {
		if r.Kind != policy.KindIssue {
			continue
		}
		c.Checked++
		if r.Progress == ledger.InProgress && !waiting[id] {
			c.fail("reservation %s is not finished, and no request could finish it: it would never be given up", id)
		}
		if _, said := f.givenUp[id]; said != (r.Progress == ledger.GivenUp) {
			c.fail("reservation %s is %s, which the journal denies", id, r.Progress)
		}
	}
	return nil
}

func (f *run) load() error {
	err := errors.Join(
		f.a.Keys(f.ctx, func(_ uint64, k ledger.Key) error { f.keys[k.ID] = k; return nil }),
		f.a.Reservations(f.ctx, func(_ uint64, r ledger.ReservationRecord) error { f.reservations[r.ID] = r; return nil }),
		f.a.Lists(f.ctx, func(_ uint64, l ledger.ListRecord) error { f.lists[l.ID] = l; return nil }),
		f.a.Credentials(f.ctx, func(_ uint64, g ledger.Given) error {
			s := slot{g.List, g.Index}
			if other, twice := f.credentials[s]; twice {
				f.again = append(f.again, again{s, other.Reservation, g.Reservation})
			}
			f.credentials[s] = g.CredentialRecord
			if g.Known {
				f.counters[g.List] = max(f.counters[g.List], g.Counter)
			}
			return nil
		}),
		f.a.Attempts(f.ctx, func(_ uint64, id string, item, n int, r ledger.AttemptRecord) error {
			f.tries[id] = append(f.tries[id], triedAt{item, n, r})
			return nil
		}))
	for id, r := range f.reservations {
		for i, it := range r.Items {
			if it.Worker != "" || !slices.ContainsFunc(f.tries[id], func(t triedAt) bool { return t.item == i && t.n == 0 }) {
				f.tries[id] = append(f.tries[id], triedAt{i, 0, r.FirstTry(i)})
			}
		}
	}
	return err
}

// reserved: every reservation was journalled with the exact TBS hashes, keys, policy and client before it could be signed (I1).
func (f *run) reserved() error {
	c := f.r.check("I1", "an earlier durable record of TBS hash, key, policy and client for every signature")
	for id, r := range f.reservations {
		c.Checked++
		l, ok := f.leaves[id]
		if !ok {
			c.fail("reservation %s has no leaf", id)
			continue
		}
		if l.seq != r.Seq {
			c.fail("reservation %s says it was made in entry %d, its leaf is entry %d", id, r.Seq, l.seq)
		}
		if l.leaf.Client != r.Client || (l.leaf.Policy != r.Policy.String() && !(l.leaf.Policy == "" && r.Policy == policy.Hash{})) {
			c.fail("reservation %s: client or policy of the leaf differ", id)
		}
		if len(l.leaf.Items) != len(r.Items) {
			c.fail("reservation %s has %d items, its leaf %d", id, len(r.Items), len(l.leaf.Items))
			continue
		}
		for i, it := range r.Items {
			if j := l.leaf.Items[i]; j.Key != it.KeyID || !bytes.Equal(j.TBS, it.TBSHash[:]) || j.Purpose != it.Purpose {
				c.fail("reservation %s item %d: key, purpose or TBS hash of the leaf differ", id, i)
			}
			if k, ok := f.keys[it.KeyID]; !ok {
				c.fail("reservation %s item %d: key %s is not registered", id, i, it.KeyID)
			} else if k.Purpose != it.Purpose {
				c.fail("reservation %s item %d: key %s is for %s, not %s", id, i, it.KeyID, k.Purpose, it.Purpose)
			}
		}
		if _, ok := f.settled[id]; ok != (r.Progress == ledger.Settled) {
			c.fail("reservation %s is %s, which its leaves deny", id, r.Progress)
		}
	}
	for id := range f.leaves {
		if _, ok := f.reservations[id]; !ok {
			c.fail("reservation %s is in the journal and nowhere else", id)
		}
	}
	return nil
}

// tried gathers how attempts ended, by the journal: the last that it says of each.
func (f *run) tried(leaf ledger.Leaf) {
	last := map[int]int{} // attempt of each item that made what was settled
	for _, it := range leaf.Items {
		last[it.Item] = max(last[it.Item], it.Attempt)
	}
	for _, it := range leaf.Items {
		end := outcome{ledger.TryDropped, it.Worker}
		switch {
		case leaf.Kind == "lost":
			end.state = ledger.TryUnknown
		case leaf.Kind == "settle" && it.Attempt == last[it.Item]:
			end.state = ledger.TrySettled
		case leaf.Kind != "settle" && leaf.Kind != "drop":
			return // they begin
		}
		if f.outcomes[leaf.Reservation] == nil {
			f.outcomes[leaf.Reservation] = map[attempt]outcome{}
		}
		f.outcomes[leaf.Reservation][attempt{it.Item, it.Attempt}] = end
	}
}

// attempts: each belongs to a reserved item, they are numbered without gap, each settled item has exactly one settled one, and each ended as the
// journal says (I6).
func (f *run) attempts() error {
	c := f.r.check("I6", "every attempt belongs to one reserved signature, one of a settled one's is settled")
	for id, tries := range f.tries {
		r, ok := f.reservations[id]
		if !ok {
			c.fail("attempts at reservation %s, which does not exist", id)
			continue
		}
		settled := make([]int, len(r.Items))
		seen := make([][]int, len(r.Items))
		for _, t := range tries {
			c.Checked++
			if t.item >= len(r.Items) {
				c.fail("reservation %s has no item %d that an attempt names", id, t.item)
				continue
			}
			seen[t.item] = append(seen[t.item], t.n)
			if t.record.State == ledger.TrySettled {
				settled[t.item]++
			}
		}
		for i := range r.Items {
			slices.Sort(seen[i])
			for n, at := range seen[i] {
				if n != at {
					c.fail("reservation %s item %d: attempt %d is missing", id, i, n)
					break
				}
			}
			want := 0
			if r.Progress == ledger.Settled {
				want = 1
			}
			if settled[i] != want {
				c.fail("reservation %s (%s) item %d: %d attempts are settled", id, r.Progress, i, settled[i])
			}
		}
	}
	for id, ended := range f.outcomes {
		for _, t := range f.tries[id] {
			at := attempt{t.item, t.n}
			if end, ok := ended[at]; ok && end == (outcome{t.record.State, t.record.Worker}) {
				delete(ended, at)
			}
		}
		for at, end := range ended {
			c.fail("reservation %s item %d: attempt %d by %s is %s by the journal and not by its row", id, at.item, at.n, end.worker, end.state)
		}
	}
	return nil
}

// indices: every status index belongs to at most one credential, was leased, and is the one that was reserved (I2).
func (f *run) indices() error {
	c := f.r.check("I2", "a status index belongs to at most one credential")
	given := map[string]uint64{}
	for s, cr := range f.credentials {
		c.Checked++
		given[s.list]++
		l, ok := f.lists[s.list]
		if !ok {
			c.fail("index %d of list %s, which does not exist", s.index, s.list)
			continue
		}
		if s.index >= l.Size || l.Format != cr.Format {
			c.fail("index %d of list %s: outside the list, or of another format", s.index, s.list)
		}
		r, ok := f.reservations[cr.Reservation]
		if !ok || cr.Item >= len(r.Items) {
			c.fail("index %d of list %s: reservation %s does not exist", s.index, s.list, cr.Reservation)
		} else if it := r.Items[cr.Item]; it.List != s.list || it.Index != s.index {
			c.fail("index %d of list %s: reservation %s reserved index %d of %s", s.index, s.list, cr.Reservation, it.Index, it.List)
		}
	}
	for _, g := range f.again {
		c.Checked++
		c.fail("index %d of list %s is given in two rows, to reservation %s and to %s", g.index, g.list, g.one, g.other)
	}
	for id, n := range f.counters {
		if l, ok := f.lists[id]; ok && n >= l.Leased {
			c.fail("list %s gave the index of counter %d and leased those below %d", id, n, l.Leased)
		}
	}
	taken := map[slot]string{}
	for id, r := range f.reservations {
		for i, it := range r.Items {
			if it.List == "" {
				continue
			}
			s := slot{it.List, it.Index}
			if other, twice := taken[s]; twice {
				c.fail("index %d of list %s was reserved by %s and by %s", it.Index, it.List, other, id)
			}
			taken[s] = id
			if cr, ok := f.credentials[s]; !ok || cr.Reservation != id || cr.Item != i {
				c.fail("index %d of list %s, reserved by %s, is given to something else", it.Index, it.List, id)
			}
		}
	}
	for id, n := range given {
		if l, ok := f.lists[id]; ok && n > l.Leased {
			c.fail("list %s gave %d indices and leased %d", id, n, l.Leased)
		}
	}
	return nil
}

// changes: statuses move only as they may: REVOKED is terminal, mdoc knows 0 → 1 alone, each change starts where the last one ended (I4).
func (f *run) changes() error {
	c := f.r.check("I4", "REVOKED is terminal; every change starts where the last one ended")
	type change struct {
		seq uint64
		ledger.ChangeRecord
	}
	all := map[string][]change{}
	if err := f.a.Changes(f.ctx, func(seq uint64, list string, r ledger.ChangeRecord) error {
		all[list] = append(all[list], change{seq, r})
		return nil
	}); err != nil {
		return err
	}
	for id, l := range f.lists {
		list := all[id]
		delete(all, id)
		sort.SliceStable(list, func(i, j int) bool { return list[i].seq < list[j].seq })
		now := map[uint64]byte{}
		for _, ch := range list {
			c.Checked++
			if now[ch.Index] != ch.From {
				c.fail("list %s index %d, entry %d: changes from %d, but was %d", id, ch.Index, ch.seq, ch.From, now[ch.Index])
			}
			if ch.From == state.Invalid {
				c.fail("list %s index %d, entry %d: changes after it was revoked", id, ch.Index, ch.seq)
			}
			if l.Format == policy.MDoc && ch.To != state.Invalid {
				c.fail("list %s index %d, entry %d: an mdoc's status became %d", id, ch.Index, ch.seq, ch.To)
			}
			if ch.Kept && !f.restored[ch.seq] {
				c.fail("list %s index %d, entry %d: kept of a published list, and nothing was restored in that entry", id, ch.Index, ch.seq)
			}
			if _, ok := f.credentials[slot{id, ch.Index}]; !ok && !ch.Kept {
				c.fail("list %s index %d, entry %d: changes without ever having been given out", id, ch.Index, ch.seq)
			}
			now[ch.Index] = ch.To
		}
		image := make([]byte, l.Size*uint64(l.Bits)/8)
		for i, v := range now {
			if i < l.Size {
				image[i*uint64(l.Bits)/8] |= v << (i * uint64(l.Bits) % 8)
			}
		}
		f.images[id] = image
	}
	for id := range all {
		c.fail("changes in list %s, which does not exist", id)
	}
	return nil
}

func get(image []byte, bits int, i uint64) byte {
	at := i * uint64(bits)
	if at/8 >= uint64(len(image)) {
		return 0xff
	}
	return image[at/8] >> (at % 8) & (1<<bits - 1)
}

// lines: a phone is linked to a line that is there and knows of it, what the line holds locked was reported of it, and no report waits for
// somebody although the line has its holder (I3).
func (f *run) lines() error {
	c := f.r.check("I3", "phones are linked to their lines, and what these hold locked was reported")
	lines, waits := map[string]ledger.LineRecord{}, map[string]string{}
	if err := f.a.Lines(f.ctx, func(tag string, r ledger.LineRecord) error {
		c.Checked++
		lines[tag] = r
		return nil
	}); err != nil {
		return err
	}
	if err := f.a.Links(f.ctx, func(name string, subject policy.Pseudonym, r ledger.LinkRecord) error {
		c.Checked++
		who := fmt.Sprintf("subject %.8s… (%s)", subject.String(), name)
		if r.Flood != nil {
			waits[string(r.Flood)] = who
		}
		line, there := lines[string(r.Line)]
		if !there {
			c.fail("%s: linked to a line that is nowhere", who)
			return nil
		}
		if line.Subject == subject && !slices.Contains(line.Types, name) {
			c.fail("%s: linked to a line that does not know it", who)
		}
		for _, held := range r.Held {
			if !slices.ContainsFunc([]*state.Report{line.Line.Loss, line.Line.Void}, func(p *state.Report) bool { return p != nil && p.Lock == held }) {
				c.fail("%s: the line holds the lock %s of class %s, and nothing of the kind was reported", who, held.Reason, held.Class)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if err := f.a.Held(f.ctx, func(name string, subject policy.Pseudonym, key []byte, _ ledger.HeldRecord) error {
		c.Checked++
		who := fmt.Sprintf("subject %.8s… (%s)", subject.String(), name)
		if waits[string(key)] != who {
			c.fail("%s: waits for a decision on a flood, and its phone does not", who)
		}
		delete(waits, string(key))
		return nil
	}); err != nil {
		return err
	}
	for _, who := range waits {
		c.fail("%s: its phone waits for a decision on a flood that nobody will make", who)
	}
	return f.a.Letters(f.ctx, func(tag string, _ ledger.LetterRecord) error {
		c.Checked++
		if _, there := lines[tag]; there {
			c.fail("a report of line %x waits for somebody, and the line has its holder", tag[:4])
		}
		return nil
	})
}

// versions: each settled list token shows exactly the changes that it says it does, and verifies with its pinned key (I4, I5).
func (f *run) versions() error {
	c := f.r.check("I5", "lists and certificates verify with the pinned keys and show what the ledger has")
	return f.a.Versions(f.ctx, func(_ []byte, _ uint64, v ledger.VersionRecord) error {
		if len(v.Token) == 0 { // jumped ahead by lifting a fence, not signed yet
			return nil
		}
		c.Checked++
		t, err := verifier.DecodeStatusList(v.Token, verifier.MaxEntries)
		if err != nil {
			c.fail("list %s version %d: %v", v.ID, v.Version, err)
			return nil
		}
		l, ok := f.lists[v.ID]
		if !ok {
			c.fail("list %s was signed and does not exist", v.ID)
			return nil
		}
		if t.Subject != l.URI || t.Version != v.Version || t.Bits != l.Bits || t.IssuedAt.Unix() != v.IssuedAt.Unix() || t.Expires.Unix() != v.Expires.Unix() {
			c.fail("list %s version %d: the token says %s version %d", v.ID, v.Version, t.Subject, t.Version)
		}
		image, err := f.a.Image(f.ctx, l, v.Through)
		if err != nil { // a row that it is made of is damaged or gone: the other lists are looked at all the same
			c.fail("list %s version %d can't be made again: %v", v.ID, v.Version, err)
			return f.ctx.Err()
		}
		if !bytes.Equal(image, t.Image) {
			c.fail("list %s version %d does not show exactly the changes and holds up to entry %d", v.ID, v.Version, v.Through)
		}
		if err := f.pinned(t.Chain[0], policy.PurposeList); err != nil {
			c.fail("list %s version %d: %v", v.ID, v.Version, err)
			return nil
		}
		leaf, err := x509.ParseCertificate(t.Chain[0])
		if err != nil {
			c.fail("list %s version %d: %v", v.ID, v.Version, err)
			return nil
		}
		if err := t.VerifySignature(leaf.PublicKey); err != nil {
			c.fail("list %s version %d: %v", v.ID, v.Version, err)
		}
		return nil
	})
}

// pinned: the certificate's key is registered for the purpose.
func (f *run) pinned(der []byte, p policy.Purpose) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	for _, k := range f.keys {
		if k.Purpose == p && bytes.Equal(k.SPKI, cert.RawSubjectPublicKeyInfo) {
			return nil
		}
	}
	return fmt.Errorf("signed by a key that is not registered for %s", p)
}

// certificates: each verifies with the CA key that it says, and its row says what is in it.
func (f *run) certificates() error {
	c := f.r.Checks[len(f.r.Checks)-1]
	return f.a.Certificates(f.ctx, func(_ uint64, s ledger.Certificate) error {
		c.Checked++
		cert, err := x509.ParseCertificate(s.DER)
		if err != nil {
			c.fail("certificate %x: %v", s.Serial, err)
			return nil
		}
		if k, ok := f.keys[s.CA]; !ok || k.Purpose != policy.PurposeIACA && k.Purpose != policy.PurposeClientCA || !signedBy(k.SPKI, cert.RawTBSCertificate, cert.Signature) {
			c.fail("certificate %x (%s %q) does not verify with CA key %s", s.Serial, s.Profile, s.Name, s.CA)
		}
		if cert.SerialNumber.Cmp(new(big.Int).SetBytes(s.Serial)) != 0 || !cert.NotAfter.Equal(s.NotAfter) {
			c.fail("certificate %x (%s %q) has another serial number or end than its row", s.Serial, s.Profile, s.Name)
		}
		return nil
	})
}

func signedBy(spki, tbs, sig []byte) bool {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return false
	}
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Params().BitSize > 256 {
			sum := sha512.Sum384(tbs)
			return ecdsa.VerifyASN1(k, sum[:], sig)
		}
		sum := sha256.Sum256(tbs)
		return ecdsa.VerifyASN1(k, sum[:], sig)
	case ed25519.PublicKey:
		return ed25519.Verify(k, tbs, sig)
	}
	return false
}
