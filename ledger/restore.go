package ledger

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/tlog"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// After a restore the ledger is older than what is published. This file says by how much, and takes back from published lists what they show:
// each status that is worse than the ledger's goes through the subject's state machine, or, where nobody knows whose index it is, into the list as
// it is shown. Nothing that was ever published as revoked or suspended is shown as better afterwards.

// Shown is a list as it is published, read by somebody who verified it.
type Shown struct {
	ID      string
	Version uint64
	Issued  time.Time
	Bits    int
	Image   []byte
	Doubt   string // why it can't be believed; then nothing of it comes back
}

// Published is what the publish directory shows.
type Published struct {
	Lists []Shown
	CRLs  map[string]uint64 // by file name without ending: their numbers
}

// Difference is what is outside and not in the ledger.
type Difference struct {
	Size     uint64           `json:"journal_size"`
	Root     string           `json:"journal_root"` // hexadecimal
	Restored *Restored        `json:"restored,omitempty"`
	Seen     uint64           `json:"seen_size"`           // of the high-water record; 0: there is none
	Other    bool             `json:"seen_other,omitzero"` // it saw another history
	From     time.Time        `json:"lost_from"`           // the ledger's last entry
	To       time.Time        `json:"lost_to,omitzero"`    // the newest published list; later changes were in no list
	Cards    CardCounts       `json:"cards"`               // what comes back from published lists
	Unknown  int              `json:"unknown,omitzero"`    // indices that are stopped there and were given out in the lost part
	Held     int              `json:"held,omitzero"`       // entries that nobody here has, of lists that a hold suspends there as a whole: given out in the lost part, or never
	Stronger int              `json:"stronger,omitzero"`   // credentials that are stopped here and no longer there: they stay stopped
	Holds    int              `json:"holds,omitzero"`      // that stand here: of a card that is held, the lists don't say whether it is locked besides
	Lists    []ListDifference `json:"lists"`
	CRLs     []CRLDifference  `json:"crls"`
	Reasons  []string         `json:"reasons"`
}

// CardCounts are cards, each counted once.
type CardCounts struct {
	Locked   int `json:"locked"`   // suspended there: locked for "restored"
	Revoked  int `json:"revoked"`  // revoked there: the phone is ended, and the card locked for "restored"
	Partly   int `json:"partly"`   // some of its credentials are revoked there, and the card goes on: the phone fetches new ones
	Outdated int `json:"outdated"` // shown as out of date
}

// ListDifference is what is outside of a list.
type ListDifference struct {
	ID        string        `json:"id"`
	Format    policy.Format `json:"format,omitempty"`
	Known     bool          `json:"known"`
	Version   uint64        `json:"version"`      // of the ledger
	Seen      uint64        `json:"seen_version"` // of the high-water record
	Published uint64        `json:"published"`    // of the publish directory; below Seen: changes between are gone
	Suspended int           `json:"suspended"`    // credentials that the ledger believes to be better than they are shown
	Revoked   int           `json:"revoked"`
	Outdated  int           `json:"outdated"`
	Unknown   int           `json:"unknown"` // indices that no credential of the ledger has
	Held      int           `json:"held"`    // such indices, suspended with the list as a whole: nobody need ever have been given them
	Stronger  int           `json:"stronger"`
	Doubt     string        `json:"doubt,omitempty"`
}

// CRLDifference is a revocation list that is outside ahead.
type CRLDifference struct {
	Name      string `json:"name"`
	Number    uint64 `json:"number"` // of the ledger
	Published uint64 `json:"published"`
}

// ahead says whether anything of it is worth a line.
func (d ListDifference) ahead() bool {
	return !d.Known || d.Doubt != "" || d.Published > d.Version || d.Seen > d.Version || d.Suspended+d.Revoked+d.Outdated+d.Unknown+d.Held+d.Stronger > 0
}

// Lines say in words what is lost and what comes back: officers sign them.
func (d *Difference) Lines() (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if d.Restored != nil {
		say("The ledger is that of the backup of %s, SHA-256 %.16s.", d.Restored.Made.Format(time.RFC3339), d.Restored.Backup)
	}
	switch {
	case d.Seen > d.Size:
		say("Lost: %d of %d journal entries, from %s on.", d.Seen-d.Size, d.Seen, d.From.Format(time.RFC3339))
	case d.Other:
		say("The high-water record saw another history among its %d entries.", d.Seen)
	case d.Seen == 0:
		say("There is no high-water record: how much is lost is not known, from %s on.", d.From.Format(time.RFC3339))
	default:
		say("The high-water record has no more than the ledger: %d entries.", d.Seen)
	}
	say("From published lists: %d cards locked, %d revoked, %d revoked in part, %d out of date.", d.Cards.Locked, d.Cards.Revoked, d.Cards.Partly, d.Cards.Outdated)
	if d.Unknown > 0 {
		say("Stopped and not known here: %d credentials, issued in the lost part.", d.Unknown)
	}
	if d.Held > 0 {
		held := 0
		for _, l := range d.Lists {
			if l.Held > 0 {
				held++
			}
		}
		say("Suspended as a whole, by a hold that does not stand here: %d lists. %d of their entries nobody here has, and most may never have been given out; they stay suspended.", held, d.Held)
	}
	if d.Stronger > 0 {
		say("Stopped here and no longer there: %d credentials, which stay stopped.", d.Stronger)
	}
	if d.Holds > 0 {
		say("%d mass holds stand: lists don't show which of their cards were locked besides, so locks of the lost part are lost.", d.Holds)
	}
	for _, l := range d.Lists {
		switch {
		case l.Doubt != "":
			say("List %.22s: not believed, so nothing of it comes back.", l.ID)
		case !l.Known:
			say("List %.22s: opened in the lost part; its cards can't be locked.", l.ID)
		case l.Seen > l.Published:
			say("List %.22s: version %d was signed, %d is there: changes between are lost.", l.ID, l.Seen, l.Published)
		}
	}
	for _, c := range d.CRLs {
		say("CRL %.22s: number %d is published, %d here: revocations between are lost.", c.Name, c.Published, c.Number)
	}
	for _, r := range d.Reasons {
		if !strings.HasPrefix(r, "the high-water record") && !strings.HasPrefix(r, "the publish directory") && !strings.HasPrefix(r, "the ledger was restored") {
			say("%.190s.", r)
		}
	}
	const most = 24
	if len(lines) > most {
		lines = append(lines[:most-1], fmt.Sprintf("And %d lists more, each with something lost.", len(lines)-most+1))
	}
	return lines
}

// regained is what a subject gets back.
type regained struct {
	documentType string
	subject      policy.Pseudonym
	event        state.Restore
	shown        []state.Change // From as it is here, To as it is shown
}

// regain is everything that published lists give back.
type regain struct {
	subjects map[string]*regained
	order    []string
	kept     []state.Change
}

// compare holds published lists against the ledger's.
func (l *Ledger) compare(ctx context.Context, p Published) (*regain, *Difference, error) {
	size, last, err := l.settledHead(ctx)
	if err != nil {
		return nil, nil, err
	}
	root, err := tlog.TreeHash(int64(size), l.store)
	if err != nil {
		return nil, nil, l.readFailed(err)
	}
	d := &Difference{Size: size, Root: hex.EncodeToString(root[:]), Restored: l.outside.restored, From: last.At.UTC().Truncate(time.Second), Other: l.outside.other,
		Lists: []ListDifference{}, CRLs: []CRLDifference{}, Reasons: []string{}}
	if f := l.fenced.Load(); f != nil {
		d.Reasons = f.Reasons
	}
	for _, h := range l.standing() {
		if h.Term {
			d.Holds++
		}
	}
	seen := map[string]uint64{}
	if h := l.outside.seen; h != nil {
		d.Seen, seen = h.Size, h.Lists
	}
	back := &regain{subjects: map[string]*regained{}}
	there, newest := map[string]bool{}, map[string]bool{} // newest: what a list shows is the last that was signed
	for _, s := range p.Lists {
		there[s.ID] = true
		one, err := l.compareList(ctx, s, back)
		if err != nil {
			return nil, nil, err
		}
		one.Seen = seen[s.ID]
		newest[s.ID] = one.Doubt == "" && one.Published >= one.Seen
		d.Unknown += one.Unknown
		d.Held += one.Held
		d.Stronger += one.Stronger
		if s.Doubt == "" && s.Issued.After(d.To) {
			d.To = s.Issued.UTC()
		}
		if one.ahead() {
			d.Lists = append(d.Lists, one)
		}
	}
	for id, v := range seen {
		if there[id] {
			continue
		}
		one := ListDifference{ID: id, Seen: v}
		l.mu.RLock()
		if li := l.lists[id]; li != nil {
			one.Known, one.Format, one.Version = true, li.row.Format, li.version.Version
		}
		l.mu.RUnlock()
		if one.ahead() {
			d.Lists = append(d.Lists, one)
		}
	}
	slices.SortFunc(d.Lists, func(a, b ListDifference) int { return strings.Compare(a.ID, b.ID) })
	slices.Sort(back.order)
	for _, k := range back.order {
		before, _, err := l.slot(ctx, []byte(k))
		if err != nil {
			return nil, nil, err
		}
		a := back.subjects[k]
		if len(a.event.Revoked) > 0 && slices.ContainsFunc(before.Credentials, func(c state.Credential) bool {
			return c.Format != policy.MDoc && before.Status(c) != state.Invalid && (!newest[c.List] || l.isHeld(c))
		}) {
			a.event.Suspended = true // the list that would say whether it is still locked says nothing
		}
		after, _, err := before.Apply(state.Event{At: l.notAhead(), Restore: &a.event})
		if err != nil {
			return nil, nil, refuseState(err)
		}
		d.Cards.count(before, after)
	}
	known := map[string]uint64{}
	if err := scan(ctx, l.store, TableCRLs, nil, func(e Entry) error {
		r, err := decode[CRLRecord](TableCRLs, e.Value)
		if err == nil {
			known[string(e.Key)] = r.Number
		}
		return err
	}); err != nil {
		return nil, nil, l.readFailed(err)
	}
	for name, n := range p.CRLs {
		if n > known[name] {
			d.CRLs = append(d.CRLs, CRLDifference{name, known[name], n})
		}
	}
	slices.SortFunc(d.CRLs, func(a, b CRLDifference) int { return strings.Compare(a.Name, b.Name) })
	return back, d, nil
}

// settledHead is the journal without what officers said last of lifting the fence, and its last entry: what they said must not change what they said it
// about.
func (l *Ledger) settledHead(ctx context.Context) (size uint64, last Leaf, err error) {
	if size, _, err = l.store.Head(ctx); err != nil {
		return 0, last, l.readFailed(err)
	}
	for ; size > 0; size-- {
		b, err := l.store.Journal(ctx, size-1, 1)
		if err != nil {
			return 0, last, l.readFailed(err)
		}
		if len(b) != 1 {
			return 0, last, fmt.Errorf("the journal has no entry %d", size-1)
		}
		last = Leaf{}
		if err := json.Unmarshal(b[0], &last); err != nil {
			return 0, last, fmt.Errorf("journal entry %d is damaged: %w", size-1, err)
		}
		if last.Kind != "approval-refused" && (last.Operation != fenceLift || last.Kind != "proposal" && last.Kind != "approval" && last.Kind != "rejection") {
			return size, last, nil
		}
	}
	return 0, last, nil
}

// fenceLift is the one action that officers decide on while the ledger is fenced.
const fenceLift = "fence.lift"

func (c *CardCounts) count(before, after state.State) {
	locked := slices.Contains(after.Locks, policy.Restored) && !slices.Contains(before.Locks, policy.Restored)
	switch {
	case before.Device != nil && after.Device == nil:
		c.Revoked++
	case locked:
		c.Locked++
	case len(after.Renew) > len(before.Renew):
		c.Outdated++
	case before.Epoch != after.Epoch:
		c.Partly++
	}
}

// compareList adds what a list shows as worse than the ledger has it.
func (l *Ledger) compareList(ctx context.Context, s Shown, back *regain) (d ListDifference, err error) {
	d = ListDifference{ID: s.ID, Published: s.Version, Doubt: s.Doubt}
	l.mu.RLock()
	li := l.lists[s.ID]
	var row ListRecord
	var image, own []byte // as the list shows it now, and each entry's own status
	if li != nil {
		row, d.Version, image, own = li.row, li.version.Version, slices.Clone(li.next), slices.Clone(li.next)
		lay(image, li.heldAt(l.through))
	}
	l.mu.RUnlock()
	if li == nil || s.Doubt != "" || li.past() {
		d.Known = li != nil
		return d, nil
	}
	d.Known, d.Format = true, row.Format
	if s.Bits != row.Bits || len(s.Image) != len(image) {
		d.Doubt = fmt.Sprintf("it has %d bytes of %d bits, and the ledger's list %d of %d", len(s.Image), s.Bits, len(image), row.Bits)
		return d, nil
	}
	per := 8 / row.Bits
	var worse []state.Change // in the order of their indices
	wholly := row.Bits == 2 && stopped(s.Image)
	for at := range image {
		if image[at] == s.Image[at] {
			continue
		}
		for n := range per {
			shift := n * row.Bits
			mask := byte(1<<row.Bits - 1)
			is, shown := image[at]>>shift&mask, s.Image[at]>>shift&mask
			c := state.Change{List: s.ID, Index: uint64(at*per + n), From: own[at] >> shift & mask, To: shown}
			switch {
			case is == shown:
				continue
			case state.Weaker(shown, is):
				d.Stronger++
				continue
			}
			worse = append(worse, c)
		}
	}
	given, err := l.givenTo(ctx, s.ID, worse)
	if err != nil {
		return d, err
	}
	for i, c := range worse {
		whose, err := l.whose(ctx, given[i])
		if err != nil {
			return d, err
		}
		if whose == nil {
			if c.To == state.Suspended && wholly {
				d.Held++
			} else {
				d.Unknown++
			}
			back.kept = append(back.kept, c)
			continue
		}
		key := string(slotKey(whose.documentType, whose.subject))
		a := back.subjects[key]
		if a == nil {
			a = whose
			back.subjects[key] = a
			back.order = append(back.order, key)
		}
		place := state.Place{List: s.ID, Index: c.Index}
		switch c.To {
		case state.Suspended:
			d.Suspended++
			a.event.Suspended = true
		case state.Outdated:
			d.Outdated++
			a.event.Outdated = append(a.event.Outdated, place)
		default:
			d.Revoked++
			a.event.Revoked = append(a.event.Revoked, place)
		}
		a.shown = append(a.shown, c)
	}
	return d, nil
}

// stopped: each entry of an image of two bits an entry is suspended or revoked, as a hold of a whole document type makes it, and next to nothing else does.
func stopped(image []byte) bool {
	return !slices.ContainsFunc(image, func(b byte) bool { return (b^b>>1)&0x55 != 0x55 })
}

// givenTo are the reservations that entries of a list were given to; empty: none that is known. Rows are by counter, and from index to counter leads a
// secret that may not be there yet, so they are all read, once; worse is in the order of indices.
func (l *Ledger) givenTo(ctx context.Context, list string, worse []state.Change) ([]string, error) {
	given := make([]string, len(worse))
	if len(worse) == 0 {
		return given, nil
	}
	var damaged error
	if err := scan(ctx, l.store, TableIndices, append([]byte(list), 0), func(e Entry) error {
		r, err := decode[IndexRecord](TableIndices, e.Value)
		if err != nil {
			damaged = err
			return err
		}
		if i, found := slices.BinarySearchFunc(worse, r.Index, func(c state.Change, index uint64) int { return cmp.Compare(c.Index, index) }); found {
			given[i] = r.Reservation
		}
		return nil
	}); damaged != nil {
		return nil, damaged
	} else if err != nil {
		return nil, l.readFailed(err)
	}
	for i, c := range worse {
		if given[i] == "" {
			r, _, err := get[CredentialRecord](ctx, l, TableCredentials, credentialKey(list, c.Index))
			if err != nil {
				return nil, err
			}
			if r != nil {
				given[i] = r.Reservation
			}
		}
	}
	return given, nil
}

// whose reservation it is; nil: nobody's that is known.
func (l *Ledger) whose(ctx context.Context, reservation string) (*regained, error) {
	if reservation == "" {
		return nil, nil
	}
	r, _, err := get[ReservationRecord](ctx, l, TableReservations, []byte(reservation))
	if err != nil || r == nil || r.DocumentType == "" {
		return nil, err
	}
	return &regained{documentType: r.DocumentType, subject: r.Subject}, nil
}

// Difference says what is outside and not in the ledger. It changes nothing.
func (l *Ledger) Difference(ctx context.Context, p Published) (*Difference, error) {
	_, d, err := l.compare(ctx, p)
	return d, err
}

// Report is how a fence was lifted, and what came back.
type Report struct {
	Proposal   string      `json:"proposal,omitempty"` // empty: without officers
	Begun      time.Time   `json:"begun"`
	Done       time.Time   `json:"done,omitzero"`
	Difference *Difference `json:"difference"` // when it began
}

const reportMeta = "fence/report"

// LastReport of a lifted fence, or of one that is being lifted; nil: none ever was.
func (l *Ledger) LastReport(ctx context.Context) (*Report, error) {
	b, ok, err := l.Meta(ctx, reportMeta)
	if err != nil || !ok {
		return nil, err
	}
	return decode[Report](TableMeta, b)
}

// restorePage is how many subjects share a commit.
const restorePage = 64

// Lift takes back what published lists show, and then lifts the fence. One that was killed is begun again and comes to the same: what was taken back
// is not taken again. With officers x is the proposal that they approved; judge compares what they signed with what is there before the first of
// it is written.
func (l *Ledger) Lift(ctx context.Context, p Published, x *Execution, judge func(*Difference) error) (*Report, error) {
	if l.fenced.Load() == nil {
		return nil, nil
	}
	if l.dead.Load() {
		return nil, ErrStopped
	}
	back, d, err := l.compare(ctx, p)
	if err != nil {
		return nil, err
	}
	r := &Report{Begun: l.o.Clock.Now().UTC(), Difference: d}
	if x != nil {
		r.Proposal = x.ID
	}
	if old, err := l.LastReport(ctx); err != nil {
		return nil, err
	} else if old != nil && old.Done.IsZero() && old.Proposal == r.Proposal {
		r = old // some of it is back already, and was compared when it began
	} else {
		if judge != nil {
			if err := judge(d); err != nil {
				return nil, err
			}
		}
		if err := l.PutMeta(ctx, reportMeta, encode(r)); err != nil {
			return nil, err
		}
		crashpoint.Here("ledger.lift.begun")
	}
	for page := range slices.Chunk(back.order, restorePage) {
		if err := l.takeBack(ctx, back, page); err != nil {
			return nil, err
		}
		crashpoint.Here("ledger.lift.page")
	}
	slices.SortFunc(back.kept, func(a, b state.Change) int {
		return cmp.Or(strings.Compare(a.List, b.List), cmp.Compare(a.Index, b.Index))
	})
	for page := range slices.Chunk(back.kept, 1024) {
		if err := l.restored(ctx, nil, page, 0, 0); err != nil {
			return nil, err
		}
	}
	crashpoint.Here("ledger.lift.taken-back")
	r.Done = l.o.Clock.Now().UTC()
	return r, l.unfence(ctx, x, encode(r))
}

// takeBack is one commit for some subjects.
func (l *Ledger) takeBack(ctx context.Context, back *regain, page []string) error {
	var rows []Row
	var changes, kept []state.Change
	for _, k := range page {
		a, key := back.subjects[k], []byte(k)
		before, rev, err := l.slot(ctx, key)
		if err != nil {
			return err
		}
		next, made, err := before.Apply(state.Event{At: l.notAhead(), Restore: &a.event})
		if err != nil {
			return refuseState(err)
		}
		if !same(before, next) {
			rows = append(rows, Row{Table: TableSlots, Key: key, Value: encode(SlotRecord{DocumentType: a.documentType, Subject: a.subject, State: next}), If: rev})
			rows = append(rows, dueRows(a.documentType, a.subject, before, next)...)
		}
		changes = append(changes, made...)
		for _, c := range a.shown { // an expired credential is nobody's any more, and its list shows it none the less
			for _, m := range made {
				if m.List == c.List && m.Index == c.Index {
					c.From = m.To
				}
			}
			if state.Weaker(c.From, c.To) {
				kept = append(kept, c)
			}
		}
	}
	return l.restored(ctx, rows, append(changes, kept...), len(changes), len(page))
}

func (l *Ledger) restored(ctx context.Context, rows []Row, changes []state.Change, kept, subjects int) error {
	status, _, applied, err := l.changeRows(changes, kept)
	if err != nil {
		return err
	}
	rows = append(rows, status...)
	if len(rows) == 0 {
		return nil
	}
	sum := sha256.New()
	for _, r := range rows {
		sum.Write(bytes.Join([][]byte{[]byte(r.Table), r.Key, r.Value}, []byte{0}))
	}
	leaf := Leaf{Kind: "restore", At: l.o.Clock.Now(), Reason: policy.Restored.Reason, Class: policy.Restored.Class, Count: uint64(subjects), Digest: sum.Sum(nil)}
	crashpoint.Here("ledger.lift.before-commit")
	out, err := l.commit(ctx, leaf, rows, true, applied)
	if err != nil {
		return err
	}
	if out.Conflict != nil {
		return ErrConflict
	}
	crashpoint.Here("ledger.lift.after-commit")
	return nil
}
