package ledger

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// Lines. A row of TableLines is named by an HMAC over the carrier and its pseudonym of the line, so that nobody who reads the ledger can tell
// which line it is. A line that was reported and is not linked to anybody is a letter without an addressee: it is kept for LetterTTL, and
// whoever the line is linked to meanwhile finds the reports there.

// LineRecord is a line that is or was somebody's.
type LineRecord struct {
	Subject policy.Pseudonym `json:"subject"`
	Types   []string         `json:"types"` // sorted; those of which the subject's phone is or was linked to it
	Line    state.Line       `json:"line"`
}

// LetterRecord is what was reported of a line that nobody is linked to.
type LetterRecord struct {
	Line  state.Line `json:"line"`
	Until time.Time  `json:"until"`
}

// LinkRecord links a subject's phone for a document type to its line. It stands beside the slot.
type LinkRecord struct {
	Line []byte `json:"line"` // key of its LineRecord
	state.Link
	Flood []byte `json:"flood,omitempty"` // key of its HeldRecord, if there is one
}

// EventRecord remembers an event's id, and what came of it.
type EventRecord struct {
	Digest  [32]byte  `json:"digest"`
	Until   time.Time `json:"until"`
	Effect  string    `json:"effect"`
	Changed bool      `json:"changed"`
	Lists   []string  `json:"lists,omitempty"`
}

// Effects of an event.
const (
	EventApplied = "applied" // a lock was added or removed
	EventHeld    = "held"    // a lock was added; above the carrier's threshold, so its MSOs wait for an operator
	EventNone    = "none"    // noted; the phone has the lock, or has it not, already, or was replaced
	EventStale   = "stale"   // overtaken by a newer report
	EventUnknown = "unknown_line"
)

const (
	LetterTTL  = 7 * 24 * time.Hour
	letterMost = 1_000_000
)

// EventResult of an acknowledged event.
type EventResult struct {
	Decision string // id of the journalled decision; empty: it was taken in before
	Seq      uint64
	Effect   string
	Changed  bool
	Lists    []string
}

// keyed HMAC; the first byte is none that a client's id begins with, so that no line is an idempotency key's row.
func lineTag(s *Secrets, what byte, parts ...string) []byte {
	text := append(make([]byte, 0, 256), 0, what)
	for _, p := range parts {
		text = append(binary.BigEndian.AppendUint64(text, uint64(len(p))), p...)
	}
	sum := s.lookup.Sum(text)
	return sum[:]
}

// Event commits an approved report of a carrier: its id, what is known of the line, and the locks of every phone linked to it, in one
// transaction. The same event again has the same answer and no second effect.
func (l *Ledger) Event(ctx context.Context, a *policy.Approval) (EventResult, error) {
	if err := l.ready(); err != nil {
		return EventResult{}, err
	}
	e, ok := a.Event()
	if !ok {
		return EventResult{}, refuse("approval.kind", "an event needs an approved event")
	}
	secrets, err := l.unlocked()
	if err != nil {
		return EventResult{}, err
	}
	id, tag := lineTag(secrets, 'e', e.Authority, e.ID), lineTag(secrets, 'l', e.Authority, e.Line)
	defer l.slots.lock("\x00line" + string(tag))() // before any slot's
	if known, rev, err := get[EventRecord](ctx, l, TableEvents, id); err != nil {
		return EventResult{}, err
	} else if known != nil {
		if known.Digest != e.Digest {
			return EventResult{}, refuse("event.id_reused", "the carrier used this id for another event")
		}
		return EventResult{Seq: rev - 1, Effect: known.Effect, Changed: known.Changed, Lists: known.Lists}, nil
	}
	sort := map[string]state.Sort{evidence.LineLost: state.LineLost, evidence.LineFound: state.LineFound}[e.Kind]
	if sort == "" {
		sort = state.LineVoid
	}
	report := state.Report{Sort: sort, Seq: e.Seq, At: e.OccurredAt, Lock: e.Lock}
	out := EventRecord{Digest: e.Digest, Until: e.Until, Effect: EventNone}
	leaf := decided("event", a)
	leaf.Operation, leaf.Reason, leaf.Class = e.Kind, e.Lock.Reason, e.Lock.Class

	// What lifts a lock has a budget. What adds one is counted, and never refused: with a clock so far back that the hour is not counted any more, it counts as a flood.
	var flood []byte
	how := state.Confirm
	if sort == state.LineFound {
		how = state.Keep
	}
	taken, err := l.charge(secrets, a, &leaf)
	if err != nil && sort == state.LineFound {
		return EventResult{}, err
	}
	if err != nil {
		taken, leaf.Charges = nil, nil
	}
	defer taken.end()
	if sort != state.LineFound && (err != nil || l.usedBefore(taken) >= e.Flood) {
		flood, how = floodKey(e.Authority, windowAt("", hour, a.At().Unix()).end), state.Hold
	}

	line, rev, err := get[LineRecord](ctx, l, TableLines, tag)
	if err != nil {
		return EventResult{}, err
	}
	var rows []Row
	var changes []state.Change
	applied := func(uint64) {}
	counted := func() {}
	if line == nil {
		var more []Row
		if more, applied, err = l.letter(ctx, tag, report, a.At()); err != nil {
			return EventResult{}, err
		}
		out.Effect, rows = EventUnknown, append(more, Row{Table: TableLines, Key: tag}) // still not linked
	} else {
		commitment, salt, err := l.commitment(secrets, line.Subject)
		if err != nil {
			return EventResult{}, err
		}
		leaf.Subject = commitment
		rows = append(rows, Row{Table: TableCommitments, Key: commitment, Value: salt[:]})
		stale, held := false, false
		if line.Line, stale = line.Line.Take(report); stale {
			out.Effect = EventStale
		} else {
			rows = append(rows, Row{Table: TableLines, Key: tag, Value: encode(line), If: If(rev)})
			for _, name := range line.Types { // sorted: everybody locks slots in this order
				if !slices.Contains(e.Types, name) {
					continue
				}
				key := slotKey(name, line.Subject)
				defer l.slots.lock(string(key))()
				f, err := l.follow(ctx, key, tag, line, a.At(), how, flood)
				if err != nil {
					return EventResult{}, err
				}
				rows, changes = append(rows, f.rows...), append(changes, f.changes...)
				out.Changed, held = out.Changed || f.changed, held || f.held
				before := counted
				counted = func() { before(); f.count(&l.floods) }
			}
			switch {
			case out.Changed && held:
				out.Effect = EventHeld
			case out.Changed:
				out.Effect = EventApplied
			}
		}
	}
	status, lists, shown, err := l.statusRows(changes)
	if err != nil {
		return EventResult{}, err
	}
	out.Lists, leaf.Effect = lists, out.Effect
	rows = taken.put(append(append(rows, status...), Row{Table: TableEvents, Key: id, Value: encode(out)}))
	name, err := l.reservationName(a.At())
	if err != nil {
		return EventResult{}, err
	}
	if rows, err = l.allowed(secrets, name, "event", "", a, &leaf, rows); err != nil {
		return EventResult{}, err
	}
	crashpoint.Here("ledger.event.before-commit")
	done, err := l.commit(ctx, leaf, rows, true, func(seq uint64) {
		shown(seq)
		applied(seq)
		counted()
		taken.applied(&l.budgets)
	})
	if err != nil {
		return EventResult{}, err
	}
	if done.Conflict != nil {
		return EventResult{}, taken.conflict(done.Conflict)
	}
	crashpoint.Here("ledger.event.after-commit")
	if len(changes) > 0 {
		l.wake()
	}
	return EventResult{Seq: done.Seq, Effect: out.Effect, Changed: out.Changed, Lists: lists}, nil
}

// followed is what a slot's following its line writes.
type followed struct {
	rows          []Row
	changes       []state.Change
	changed, held bool
	waits, gone   []byte // keys of rows of TableHeld that come and go; one that is written anew is both
}

// count the held cards; l.mu is held.
func (f followed) count(to *floods) {
	if f.waits != nil {
		to.add(f.waits, 1)
	}
	if f.gone != nil {
		to.add(f.gone, -1)
	}
}

// follow makes a slot what its line's reports ask for. The caller holds the slot. flood is the batch of the report that is followed, if it is held.
func (l *Ledger) follow(ctx context.Context, key, tag []byte, line *LineRecord, at time.Time, how state.Following, flood []byte) (f followed, err error) {
	link, linkRev, err := get[LinkRecord](ctx, l, TableLinks, key)
	if err != nil || link == nil || !bytes.Equal(link.Line, tag) {
		return f, err
	}
	before, rev, err := l.slot(ctx, key)
	if err != nil {
		return f, err
	}
	next, moved, changes, err := before.Follow(line.Line, link.Link, at, how)
	if err != nil {
		return f, refuseState(err)
	}
	f.changes, f.changed = changes, next.Epoch != before.Epoch
	if f.changed {
		documentType, subject, err := split(TableSlots, key, len(policy.Pseudonym{})) // the line may be somebody else's by now
		if err != nil {
			return f, err
		}
		f.rows = append(f.rows, Row{Table: TableSlots, Key: key, Value: encode(SlotRecord{DocumentType: documentType, Subject: policy.Pseudonym(subject), State: next}), If: rev})
	}
	was := link.Flood
	f.held = slices.ContainsFunc(moved.Held, func(lock policy.Lock) bool { return slices.Contains(next.Held, lock) })
	switch {
	case f.held && flood != nil:
		// A card waits with the last of its reports. Its row is written anew with each, also in the same batch: reports that are no longer the last are undone
		// by nobody, and are confirmed by whoever confirmed the first.
		f.waits, f.gone, link.Flood = slices.Concat(flood, key), link.Flood, slices.Concat(flood, key)
		row, cond := HeldRecord{Line: tag}, Any
		if bytes.Equal(f.gone, f.waits) && slices.ContainsFunc(moved.Held, func(lock policy.Lock) bool { return slices.Contains(before.Held, lock) }) {
			r, rev, err := get[HeldRecord](ctx, l, TableHeld, f.waits)
			if err != nil {
				return f, err
			}
			if r != nil {
				row.Since, cond = cmp.Or(r.Since, rev-1), If(rev)
			}
		}
		f.rows = append(f.rows, Row{Table: TableHeld, Key: f.waits, Value: encode(row), If: cond})
		if f.gone != nil && !bytes.Equal(f.gone, f.waits) {
			f.rows = append(f.rows, Row{Table: TableHeld, Key: f.gone, If: Any})
		}
	case !f.held && link.Flood != nil:
		f.gone, link.Flood = link.Flood, nil
		f.rows = append(f.rows, Row{Table: TableHeld, Key: f.gone, If: Any})
	}
	if !slices.Equal(moved.Held, link.Held) || !bytes.Equal(was, link.Flood) {
		link.Link = moved
		f.rows = append(f.rows, Row{Table: TableLinks, Key: key, Value: encode(link), If: If(linkRev)})
	}
	return f, nil
}

// claim makes a held lock of a phone's line one of whoever locked it beside: what becomes of the line's reports does not lift it any more. The card waits for a
// decision only if another lock of it is held. The caller holds the slot, which next is.
func (l *Ledger) claim(ctx context.Context, key []byte, lock policy.Lock, next state.State) (f followed, err error) {
	link, rev, err := get[LinkRecord](ctx, l, TableLinks, key)
	if err != nil || link == nil || !slices.Contains(link.Held, lock) {
		return f, err
	}
	if link.Held = slices.DeleteFunc(link.Held, func(h policy.Lock) bool { return h == lock }); len(link.Held) == 0 {
		link.Held = nil
	}
	if link.Flood != nil && !slices.ContainsFunc(link.Held, func(h policy.Lock) bool { return slices.Contains(next.Held, h) }) {
		f.gone, link.Flood = link.Flood, nil
		f.rows = append(f.rows, Row{Table: TableHeld, Key: f.gone, If: Any})
	}
	f.rows = append(f.rows, Row{Table: TableLinks, Key: key, Value: encode(link), If: If(rev)})
	return f, nil
}

// letter keeps a report of a line that nobody is linked to.
func (l *Ledger) letter(ctx context.Context, tag []byte, r state.Report, at time.Time) ([]Row, func(uint64), error) {
	kept, rev, err := get[LetterRecord](ctx, l, TableLetters, tag)
	if err != nil {
		return nil, nil, err
	}
	more := int64(0)
	if kept == nil {
		if kept, more = (&LetterRecord{}), 1; l.letters.Load() >= letterMost {
			return nil, nil, refuse("event.letters_full", "too many lines are reported that nobody is linked to")
		}
	}
	kept.Line, _ = kept.Line.Take(r)
	kept.Until = at.Add(LetterTTL)
	return []Row{{Table: TableLetters, Key: tag, Value: encode(kept), If: If(rev)}}, func(uint64) { l.letters.Add(more) }, nil
}

// link binds a phone to the line that was vouched for. What was reported of the line after its carrier vouched voids the statement, also if
// nobody knew the line then. Nothing is bound before, so the slot, which the caller holds, comes before the line here: the line is guarded
// by its revision.
//
// Nothing is read that can't be there: no letter while none is kept, and no link of somebody who never had a card. If it is there all the same,
// the row's condition does not hold and the request is decided again.
func (l *Ledger) link(ctx context.Context, s *Secrets, i policy.Issue, key []byte, slot If, device string) (rows []Row, applied func(), err error) {
	applied = func() {}
	if i.Line == nil {
		return nil, applied, nil
	}
	tag := lineTag(s, 'l', i.Line.Authority, i.Line.Line)
	line, rev, err := get[LineRecord](ctx, l, TableLines, tag)
	if err != nil {
		return nil, nil, err
	}
	var letter *LetterRecord
	var letterRev uint64
	if l.letters.Load() > 0 {
		if letter, letterRev, err = get[LetterRecord](ctx, l, TableLetters, tag); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case line == nil:
		line = &LineRecord{Subject: i.Subject}
	case line.Subject != i.Subject: // the number is somebody else's by now, and so says the carrier
		line = &LineRecord{Subject: i.Subject, Line: line.Line}
	}
	if letter != nil {
		for _, r := range []*state.Report{letter.Line.Loss, letter.Line.Void} {
			if r != nil {
				line.Line, _ = line.Line.Take(*r)
			}
		}
		applied = func() { l.letters.Add(-1) }
	}
	if !line.Line.Good(i.Line.Since) {
		return nil, nil, refuse("line.reported", "the line was reported lost or changed after its carrier vouched for it")
	}
	if at, there := slices.BinarySearch(line.Types, i.DocumentType); !there {
		line.Types = slices.Insert(line.Types, at, i.DocumentType)
	}
	var old *LinkRecord
	var linkRev uint64
	if slot != Absent {
		if old, linkRev, err = get[LinkRecord](ctx, l, TableLinks, key); err != nil {
			return nil, nil, err
		}
	}
	if old != nil && old.Flood != nil { // another phone now
		rows = append(rows, Row{Table: TableHeld, Key: old.Flood, If: Any})
		letter := applied
		applied = func() { letter(); l.floods.add(old.Flood, -1) }
	}
	return append(rows, []Row{
		{Table: TableLines, Key: tag, Value: encode(line), If: If(rev)},
		{Table: TableLinks, Key: key, Value: encode(LinkRecord{Line: tag, Link: state.Link{Device: device, Since: i.Line.Since}}), If: If(linkRev)},
		{Table: TableLetters, Key: tag, If: If(letterRev)}, // gone, or still none
	}...), applied, nil
}

// letters counts the rows of TableLetters.
type letters struct{ atomic.Int64 }

func (l *Ledger) loadLetters(ctx context.Context) error {
	return scan(ctx, l.store, TableLetters, nil, func(Entry) error { l.letters.Add(1); return nil })
}

// sweepLetters erases reports that nobody was linked to in time. One by one: a letter that is being delivered is left to who does it.
func (l *Ledger) sweepLetters(ctx context.Context, now time.Time) error {
	return scan(ctx, l.store, TableLetters, nil, func(e Entry) error {
		r, err := decode[LetterRecord](TableLetters, e.Value)
		if err != nil || !now.After(r.Until) {
			return err
		}
		_, err = l.commit(ctx, Leaf{Kind: "sweep", At: now, Count: 1}, []Row{{Table: TableLetters, Key: e.Key, If: If(e.Revision)}}, false,
			func(uint64) { l.letters.Add(-1) })
		return err
	})
}
