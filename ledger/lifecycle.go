package ledger

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// same: nothing that is stored has changed. (Phases may change without a new epoch.)
func same(a, b state.State) bool { return a.Epoch == b.Epoch && bytes.Equal(encode(a), encode(b)) }

// dueRows keep the table of what is due in step with a subject's orders.
func dueRows(documentType string, p policy.Pseudonym, before, after state.State) (rows []Row) {
	keys := func(s state.State) (all [][]byte, values [][]byte) {
		for _, o := range s.Orders {
			all = append(all, dueKey(documentType, p, o))
			values = append(values, encode(DueRecord{DocumentType: documentType, Subject: p, Order: o.ID}))
		}
		return all, values
	}
	old, _ := keys(before)
	now, values := keys(after)
	in := func(all [][]byte, k []byte) bool {
		return slices.ContainsFunc(all, func(o []byte) bool { return bytes.Equal(o, k) })
	}
	for _, k := range old {
		if !in(now, k) {
			rows = append(rows, Row{Table: TableDue, Key: k, If: Any})
		}
	}
	for i, k := range now {
		if !in(old, k) {
			rows = append(rows, Row{Table: TableDue, Key: k, Value: values[i], If: Any})
		}
	}
	return rows
}

// duePage is how many subjects' orders are carried out at once, and share a commit: at midnight of a month's first there are many.
const duePage = 64

// Due carries out what is ordered for instants up to at: locks, their ends, closings. next is when it has to be called again at the latest;
// zero: nothing is ordered. A subject's orders are one commit, and what is done is done once: it does not matter how often or how late it is called.
// An order that fails, or whose row can't be read, keeps none of the others from being carried out.
func (l *Ledger) Due(ctx context.Context, at time.Time) (done int, next time.Time, err error) {
	if err := l.ready(); err != nil {
		return 0, next, err
	}
	type result struct {
		row string
		err error
	}
	var failed failures
	tried := map[string]bool{} // rows that failed; once a call is enough
	var from []byte
	for {
		entries, err := l.store.Scan(ctx, TableDue, from, duePage)
		if err != nil {
			return done, next, l.readFailed(err)
		}
		more := len(entries) == duePage
		subjects := map[string]bool{}
		var work sync.WaitGroup
		results := make(chan result, duePage)
		for _, e := range entries {
			row := string(e.Key)
			if tried[row] {
				continue
			}
			due, err := dueAt(e.Key)
			if err != nil {
				failed.add(err)
				tried[row] = true
				continue
			}
			if due.After(at) {
				next, more = due, false
				break
			}
			if _, err := l.unlocked(); err != nil { // nor is any other order carried out
				return done, next, err
			}
			r, err := decode[DueRecord](TableDue, e.Value)
			if err != nil {
				failed.add(err)
				tried[row] = true
				continue
			}
			if k := string(slotKey(r.DocumentType, r.Subject)); !subjects[k] {
				subjects[k] = true
				work.Go(func() { results <- result{row, l.carryOut(ctx, *r, e.Key, at)} })
			}
		}
		work.Wait()
		close(results)
		for r := range results {
			if r.err != nil {
				failed.add(r.err)
				tried[r.row] = true
				continue
			}
			done++
		}
		switch {
		case failed.hopeless(), ctx.Err() != nil:
			return done, next, cmp.Or(failed.err(), ctx.Err())
		case len(subjects) > 0: // the page again, without what is done
		case more:
			from = append(entries[duePage-1].Key, 0)
		default:
			return done, next, failed.err()
		}
		next = time.Time{}
	}
}

// OldestDue is for when the first of all orders that wait is ordered; zero: none waits. What lies in the past should have been carried out.
func (l *Ledger) OldestDue(ctx context.Context) (time.Time, error) {
	first, err := l.store.Scan(ctx, TableDue, nil, 1)
	if err != nil || len(first) == 0 {
		return time.Time{}, err
	}
	due, _ := dueAt(first[0].Key) // what can't be read is late
	return due, nil
}

func dueAt(key []byte) (time.Time, error) {
	if len(key) < 8 {
		return time.Unix(0, 0), fmt.Errorf("a key of table %s has %d bytes and no instant", TableDue, len(key))
	}
	return time.Unix(int64(binary.BigEndian.Uint64(key)), 0), nil
}

// carryOut does what is due for one subject.
func (l *Ledger) carryOut(ctx context.Context, r DueRecord, row []byte, at time.Time) error {
	secrets, err := l.unlocked()
	if err != nil {
		return err
	}
	key := slotKey(r.DocumentType, r.Subject)
	defer l.slots.lock(string(key))()
	for {
		before, rev, err := l.slot(ctx, key)
		if err != nil {
			return err
		}
		next, changes, err := before.Apply(state.Event{At: at, Due: &state.Due{}})
		if err != nil {
			return refuseState(err)
		}
		commitment, salt, err := l.commitment(secrets, r.Subject)
		if err != nil {
			return err
		}
		leaf := Leaf{Kind: "schedule", At: at, Subject: commitment, Name: r.Order, Effect: "none"}
		if i := slices.IndexFunc(before.Orders, func(o state.Order) bool { return o.ID == r.Order }); i >= 0 {
			o := before.Orders[i]
			leaf.Client, leaf.Class, leaf.Reason = o.Client, o.Class, o.Lock.Reason+o.Close
		}
		rows := []Row{{Table: TableCommitments, Key: commitment, Value: salt[:]}}
		if same(before, next) { // done before, with another order of the subject
			rows = append(rows, Row{Table: TableDue, Key: row, If: Any})
		} else {
			leaf.Effect = "apply"
			rows = append(rows, Row{Table: TableSlots, Key: key, Value: encode(SlotRecord{DocumentType: r.DocumentType, Subject: r.Subject, State: next}), If: rev})
			rows = append(rows, dueRows(r.DocumentType, r.Subject, before, next)...)
		}
		status, _, applied, err := l.statusRows(changes)
		if err != nil {
			return err
		}
		crashpoint.Here("schedule.due.before-commit")
		out, err := l.commit(ctx, leaf, append(rows, status...), true, applied)
		if err != nil {
			return err
		}
		if out.Conflict != nil {
			continue
		}
		crashpoint.Here("schedule.due.after-commit")
		if len(changes) > 0 {
			l.wake()
		}
		return nil
	}
}

// Orders of a subject that wait or are being carried out.
func (s Snapshot) Orders() []state.Order { return slices.Clone(s.state.Orders) }
