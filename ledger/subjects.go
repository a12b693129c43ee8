package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// Snapshot is a subject's state at one instant.
type Snapshot struct {
	state state.State
	at    time.Time
	uris  map[string]string
}

// Slot is what policy may see.
func (s Snapshot) Slot() policy.Slot { return s.state.Slot(s.at) }

// Credentials of the subject that are not expired.
func (s Snapshot) Credentials() (all []CredentialInfo) {
	for _, c := range s.state.Credentials {
		if s.at.After(c.NotAfter) {
			continue
		}
		status := "valid"
		switch s.state.Status(c) {
		case state.Invalid:
			status = "revoked"
		case state.Suspended:
			status = "suspended"
		case state.Outdated:
			status = "needs_renew"
		default:
			if c.Phase == state.Reserved {
				status = "reserved"
			}
		}
		all = append(all, CredentialInfo{Device: c.Device, Format: c.Format, URI: s.uris[c.List], Index: c.Index, Status: status, NotAfter: c.NotAfter, Key: c.Key,
			Reservation: c.Reservation, Active: c.Phase == state.Active})
	}
	return all
}

// CredentialInfo describes one credential of a holder.
type CredentialInfo struct {
	Device   string
	Format   policy.Format
	URI      string
	Index    uint64
	Status   string // "reserved", "valid", "suspended", "revoked"
	NotAfter time.Time
	Key      [32]byte // thumbprint

	Reservation string
	Active      bool // the phone has shown that it has it
}

// Subject reads the state for one document type. An unknown subject is an empty slot with epoch 0.
func (l *Ledger) Subject(ctx context.Context, documentType string, p policy.Pseudonym) (Snapshot, error) {
	if l.dead.Load() {
		return Snapshot{}, ErrStopped
	}
	slot, _, err := l.slot(ctx, slotKey(documentType, p))
	if err != nil {
		return Snapshot{}, err
	}
	at := l.o.Clock.Now()
	if slot, err = l.held(ctx, documentType, slot, at); err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{state: slot, at: at, uris: map[string]string{}}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, c := range slot.Credentials {
		if li := l.lists[c.List]; li != nil {
			s.uris[c.List] = li.row.URI
		}
	}
	return s, nil
}

func (l *Ledger) slot(ctx context.Context, key []byte) (state.State, If, error) {
	if known, ok := l.recent.get(key); ok {
		return known.state, known.rev, nil
	}
	seen := l.recent.moment()
	r, rev, err := get[SlotRecord](ctx, l, TableSlots, key)
	if err != nil {
		return state.State{}, Absent, err
	}
	known := recentSlot{}
	if r != nil {
		known = recentSlot{r.State, If(rev)}
	}
	l.recent.found(key, known, seen)
	return known.state, known.rev, nil
}

// recentSlots are subjects that were just read or written: a request looks at its subject when it decides, when it reserves and before it
// answers. What is here is what the store would say. Every durable op on a slot takes it out before its caller is told, and a read that was
// under way meanwhile is not kept.
//
// That holds because one process has the store. With a store that several processes write, a commit would still refuse what was decided on a
// stale slot, but a holder's state could be shown late: such a store must not be remembered here.
type recentSlots struct {
	mu     sync.Mutex
	slots  map[string]recentSlot
	writes uint64
}

// recentSlot is a row of TableSlots; rev Absent: there is none. state is shared: Apply does not touch it.
type recentSlot struct {
	state state.State
	rev   If
}

const recentMost = 4096

func (r *recentSlots) get(key []byte) (s recentSlot, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok = r.slots[string(key)]
	return s, ok
}

// moment is taken before a read and given to found.
func (r *recentSlots) moment() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes
}

// found keeps what was read since moment.
func (r *recentSlots) found(key []byte, s recentSlot, moment uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writes == moment {
		r.keep(key, s)
	}
}

// put keeps what a durable op wrote; it follows wrote.
func (r *recentSlots) put(key []byte, s recentSlot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(key, s)
}

func (r *recentSlots) keep(key []byte, s recentSlot) {
	if r.slots == nil || len(r.slots) >= recentMost {
		r.slots = make(map[string]recentSlot, recentMost)
	}
	r.slots[string(key)] = s
}

// wrote follows a durable op, in journal order.
func (r *recentSlots) wrote(op Op) {
	for _, row := range op.Rows {
		if row.Table == TableSlots {
			r.mu.Lock()
			r.writes++
			delete(r.slots, string(row.Key))
			r.mu.Unlock()
		}
	}
}

// Change commits an approved lock, unlock or revocation: state.Apply, status changes of all unexpired credentials of the slot, leaf.
// Result tells what happened; an approval with Effect "none" is journalled without a change.
func (l *Ledger) Change(ctx context.Context, a *policy.Approval) (ChangeResult, error) {
	if err := l.ready(); err != nil {
		return ChangeResult{}, err
	}
	if a.Kind() != policy.KindChange {
		return ChangeResult{}, refuse("approval.kind", "a change needs an approved change")
	}
	c, _ := a.Change()
	secrets, err := l.unlocked()
	if err != nil {
		return ChangeResult{}, err
	}
	e := state.Event{At: a.At()}
	switch {
	case c.Effect == "none":
	case c.Effect != "apply":
		return ChangeResult{}, refuse("approval.kind", "the approved effect %q is unknown", c.Effect)
	case c.Operation == policy.OpLock:
		e.Lock = &state.Lock{Lock: c.Lock, Device: c.Device, Card: c.Card}
	case c.Operation == policy.OpUnlock:
		e.Unlock = &state.Unlock{Lock: c.Lock, Any: c.Any, Device: c.Device, Card: c.Card}
	case c.Operation == policy.OpRevoke && c.Close:
		e.Close = &state.Close{Reason: c.Reason}
	case c.Operation == policy.OpRenew:
		e.Renew = &state.Renew{Reasons: c.Renewal.Reasons, Attributes: c.Renewal.Attributes, Revoke: c.Renewal.Revoke, Show: c.Renewal.Show}
	case c.Operation == policy.OpOrder:
		e.Order = &state.Order{ID: c.Order.ID, Class: c.Order.Class, Lock: c.Order.Lock, Close: c.Order.Close, From: c.Order.From, To: c.Order.To,
			Client: a.Client(), Replace: c.Replaces}
	case c.Operation == policy.OpCancel:
		e.Cancel = &state.Cancel{ID: c.Order.ID}
	case c.Operation == policy.OpAck:
		e.Ack = &state.Ack{Reservation: c.Issuance}
	case c.Operation == policy.OpRevoke:
		e.Revoke = &state.Revoke{Reason: c.Reason, Device: c.Device}
	default:
		return ChangeResult{}, refuse("approval.kind", "operation %q is no change", c.Operation)
	}
	key := slotKey(c.DocumentType, c.Subject)
	defer l.slots.lock(string(key))()
	before, rev, err := l.slot(ctx, key)
	if err != nil {
		return ChangeResult{}, err
	}
	if before.Epoch != a.Conditions().Epoch {
		return ChangeResult{}, ErrConflict
	}
	next, changes := before, []state.Change(nil)
	if c.Effect == "apply" {
		if next, changes, err = before.Apply(e); err != nil {
			return ChangeResult{}, refuseState(err)
		}
	}
	// The guard on the slot stands even if nothing changes: what is journalled was true at that moment.
	rows, changed := []Row{}, !same(before, next)
	if changed {
		rows = append(rows, Row{Table: TableSlots, Key: key, Value: encode(SlotRecord{DocumentType: c.DocumentType, Subject: c.Subject, State: next}), If: rev})
		rows = append(rows, dueRows(c.DocumentType, c.Subject, before, next)...)
	}
	rows = append(rows, burnRows(a.Conditions().Burns)...)
	commitment, salt, err := l.commitment(secrets, c.Subject)
	if err != nil {
		return ChangeResult{}, err
	}
	rows = append(rows, Row{Table: TableCommitments, Key: commitment, Value: salt[:]})
	status, lists, applied, err := l.statusRows(changes)
	if err != nil {
		return ChangeResult{}, err
	}
	var own followed
	if changed && c.Operation == policy.OpLock && slices.Contains(before.Held, c.Lock) {
		if own, err = l.claim(ctx, key, c.Lock, next); err != nil {
			return ChangeResult{}, err
		}
		rows = append(rows, own.rows...)
	}
	leaf := decided("change", a)
	leaf.Subject, leaf.Operation, leaf.Effect = commitment, string(c.Operation), "none"
	leaf.Reason, leaf.Class = c.Reason, c.Lock.Class
	if c.Lock.Reason != "" {
		leaf.Reason = c.Lock.Reason
	}
	if changed {
		leaf.Effect = "apply"
	}
	taken, err := l.charge(secrets, a, &leaf)
	if err != nil {
		return ChangeResult{}, err
	}
	defer taken.end()
	id, err := l.reservationName(a.At())
	if err != nil {
		return ChangeResult{}, err
	}
	if rows, err = l.allowed(secrets, id, c.Operation, c.DocumentType, a, &leaf, taken.put(append(rows, status...))); err != nil {
		return ChangeResult{}, err
	}
	crashpoint.Here("ledger.change.before-commit")
	out, err := l.commit(ctx, leaf, rows, a.Lane() == policy.LaneLock, func(seq uint64) {
		applied(seq)
		own.count(&l.floods)
		taken.applied(&l.budgets)
	})
	if err != nil {
		return ChangeResult{}, err
	}
	if out.Conflict != nil {
		return ChangeResult{}, taken.conflict(out.Conflict)
	}
	crashpoint.Here("ledger.change.after-commit")
	if len(changes) > 0 {
		l.wake()
	}
	return ChangeResult{Decision: id, Seq: out.Seq, Lists: lists, Changed: changed, Slot: next.Slot(l.o.Clock.Now())}, nil
}

// ChangeResult of an acknowledged change.
type ChangeResult struct {
	Decision string // id of the journalled decision
	Seq      uint64 // journal sequence number; a list published through it carries the change
	Lists    []string
	Changed  bool
	Slot     policy.Slot // the state after it
}

// decided begins the leaf of something that policy allowed.
func decided(kind string, a *policy.Approval) Leaf {
	d := a.Decision()
	leaf := Leaf{Kind: kind, At: a.At(), Client: a.Client(), PolicyVersion: d.Version}
	if d.Policy != (policy.Hash{}) {
		leaf.Policy = d.Policy.String()
	}
	return leaf
}

// commitment hides a subject in a leaf: whoever is shown pseudonym and salt can check it, nobody can search for it.
func (l *Ledger) commitment(s *Secrets, p policy.Pseudonym) (commitment []byte, salt [16]byte, err error) {
	if salt, err = draw[[16]byte](l.random); err != nil {
		return nil, salt, err
	}
	return commit(s, p, salt), salt, nil
}

func commit(s *Secrets, p policy.Pseudonym, salt [16]byte) []byte {
	sum := s.commit.Sum(append(append(make([]byte, 0, 48), p[:]...), salt[:]...))
	return sum[:]
}

func burnRows(burns []evidence.Burn) (rows []Row) {
	for _, b := range burns {
		rows = append(rows, Row{Table: TableBurnt, Key: burnKey(string(b.Kind), b.ID), Value: encode(BurnRecord{Until: b.Until})})
	}
	return rows
}

// conflict says what a row that was not as demanded means to the caller.
func conflict(c *Conflict) error {
	if c.Table != TableBurnt {
		return ErrConflict
	}
	kind := string(c.Key[:len(c.Key)-33])
	return refuse(kind+".replayed", "this %s was used before", kind)
}

// refuseState turns a state machine's error, which policy should have foreseen, into a refusal.
func refuseState(err error) error {
	for _, known := range []struct {
		err  error
		code string
	}{
		{state.ErrOccupied, "state.occupied"}, {state.ErrUnbound, "state.unbound"}, {state.ErrOther, "state.other_device"},
		{state.ErrLocked, "state.locked"}, {state.ErrClass, "state.class"}, {state.ErrSuperseded, "reservation.superseded"}, {state.ErrEvent, "state.event"},
		{state.ErrClosed, "subject.closed"}, {state.ErrOrders, "schedule.full"}, {state.ErrNoOrder, "schedule.unknown"},
	} {
		if errors.Is(err, known.err) {
			return refuse(known.code, "%v", err)
		}
	}
	return fmt.Errorf("changing the subject: %w", err)
}
