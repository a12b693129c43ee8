package ledger

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// What officers set beside the policy bundle: evidence authorities that are not believed, budgets with a higher limit for a while, a clock
// that is believed. Each is a row that comes and goes with its leaf.

const (
	offMeta    = "authority/off/"
	raisedMeta = "budget/raised/"
	clockMeta  = "accepted-clock" // RFC 3339: until when a start does not doubt the wall clock
)

// Off is an evidence authority or a wallet provider that officers switched off.
type Off struct {
	Key    []byte    `json:"key,omitempty"` // of a wallet provider: SHA-256 of its root's SubjectPublicKeyInfo, whatever is called by its name later
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	By     []string  `json:"by"`
}

// Raised is a budget's higher limit.
type Raised struct {
	Limit  uint64    `json:"limit"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
	By     []string  `json:"by"`
}

// switches are the rows, in memory.
type switches struct {
	mu     sync.RWMutex
	off    map[string]Off
	raised map[string]Raised // by budget ‖ / ‖ hour or day
}

func (l *Ledger) loadSwitches(ctx context.Context) error {
	s := &l.switches
	s.off, s.raised = map[string]Off{}, map[string]Raised{}
	err := scan(ctx, l.store, TableMeta, []byte(offMeta), func(e Entry) error {
		r, err := decode[Off](TableMeta, e.Value)
		if err == nil {
			s.off[strings.TrimPrefix(string(e.Key), offMeta)] = *r
		}
		return err
	})
	if err != nil {
		return err
	}
	return scan(ctx, l.store, TableMeta, []byte(raisedMeta), func(e Entry) error {
		r, err := decode[Raised](TableMeta, e.Value)
		if err == nil {
			s.raised[strings.TrimPrefix(string(e.Key), raisedMeta)] = *r
		}
		return err
	})
}

// SwitchedOff are the evidence authorities that officers switched off, by id.
func (l *Ledger) SwitchedOff() map[string]Off {
	l.switches.mu.RLock()
	defer l.switches.mu.RUnlock()
	out := make(map[string]Off, len(l.switches.off))
	for id, o := range l.switches.off {
		out[id] = o
	}
	return out
}

// SwitchAuthority has nothing believed any more that an authority says, or believed again. key is that of a wallet provider's root.
func (l *Ledger) SwitchAuthority(ctx context.Context, id string, key []byte, off bool, reason string, x *Execution) error {
	o := Off{Key: key, At: l.o.Clock.Now(), Reason: reason, By: x.By}
	leaf, row := Leaf{Kind: "authority", Name: id, State: "on", Reason: reason}, Row{Table: TableMeta, Key: []byte(offMeta + id), If: Any}
	if off {
		leaf.State, row.Value = "off", encode(o)
	}
	return l.execute(ctx, x, leaf, []Row{row}, func(uint64) {
		l.switches.mu.Lock()
		defer l.switches.mu.Unlock()
		if delete(l.switches.off, id); off {
			l.switches.off[id] = o
		}
	})
}

// Budget windows that can be raised.
const (
	WindowHour = "hour"
	WindowDay  = "day"
)

// RaiseBudget gives a budget a higher limit in its hours or days until an instant, after which the bundle's holds again.
func (l *Ledger) RaiseBudget(ctx context.Context, budget, window string, r Raised, x *Execution) error {
	r.By = x.By
	name := budget + "/" + window
	leaf := Leaf{Kind: "budget", Name: name, State: "raised", Count: r.Limit, Reason: r.Reason, Reasons: []string{r.Until.UTC().Format(time.RFC3339)}}
	return l.execute(ctx, x, leaf, []Row{{Table: TableMeta, Key: []byte(raisedMeta + name), Value: encode(r), If: Any}}, func(uint64) {
		l.switches.mu.Lock()
		defer l.switches.mu.Unlock()
		l.switches.raised[name] = r
	})
}

// Limit of a budget in a window at an instant: the bundle's, or the one that officers gave it.
func (l *Ledger) Limit(budget string, window time.Duration, bundle uint64, at time.Time) uint64 {
	name := budget + "/" + WindowDay
	if window == time.Hour {
		name = budget + "/" + WindowHour
	}
	l.switches.mu.RLock()
	defer l.switches.mu.RUnlock()
	if r, ok := l.switches.raised[name]; ok && at.Before(r.Until) {
		return max(bundle, r.Limit)
	}
	return bundle
}

// sweepRaised forgets higher limits that ended.
func (l *Ledger) sweepRaised(ctx context.Context, now time.Time) error {
	var over []string
	l.switches.mu.RLock()
	for name, r := range l.switches.raised {
		if now.After(r.Until.Add(budgetsKept)) { // a clock that is stepped back finds it as it was
			over = append(over, name)
		}
	}
	l.switches.mu.RUnlock()
	slices.Sort(over)
	for _, name := range over {
		_, rev, err := l.store.Get(ctx, TableMeta, []byte(raisedMeta+name))
		if err != nil || rev == 0 {
			return err
		}
		_, err = l.commit(ctx, Leaf{Kind: "budget", At: now, Name: name, State: "over"}, []Row{{Table: TableMeta, Key: []byte(raisedMeta + name), If: If(rev)}}, false, func(uint64) {
			l.switches.mu.Lock()
			defer l.switches.mu.Unlock()
			if now.After(l.switches.raised[name].Until) {
				delete(l.switches.raised, name)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// acceptFor is how long a start does not doubt a clock that was accepted.
const acceptFor = 15 * time.Minute

// AcceptClock remembers that the wall clock, which shows now, was accepted: for the mark of the proposal alone, or for a start without officers.
func (l *Ledger) AcceptClock(ctx context.Context, now time.Time, reason string, x *Execution) error {
	until := now.Add(acceptFor).UTC().Format(time.RFC3339)
	leaf := Leaf{Kind: "clock", Name: until, State: "accepted", Reason: reason, Digest: hashed([]byte(until))}
	return l.execute(ctx, x, leaf, []Row{{Table: TableMeta, Key: []byte(clockMeta), Value: []byte(until), If: Any}}, nil)
}

// ClockAccepted says whether a start at this instant need not doubt the wall clock.
func (l *Ledger) ClockAccepted(ctx context.Context, now time.Time) (bool, error) {
	v, ok, err := l.Meta(ctx, clockMeta)
	if err != nil || !ok {
		return false, err
	}
	until, err := time.Parse(time.RFC3339, string(v))
	return err == nil && now.Before(until) && !now.Before(until.Add(-2*acceptFor)), nil
}

// LiftLock takes a lock away from a subject, whoever added it. It returns false if the lock is not there.
func (l *Ledger) LiftLock(ctx context.Context, documentType string, p policy.Pseudonym, lockReason, reason string, x *Execution) (lifted bool, err error) {
	if err := l.ready(); err != nil {
		return false, err
	}
	secrets, err := l.unlocked()
	if err != nil {
		return false, err
	}
	key := slotKey(documentType, p)
	defer l.slots.lock(string(key))()
	before, rev, err := l.slot(ctx, key)
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(before.Locks, func(k policy.Lock) bool { return k.Reason == lockReason }) {
		return false, nil
	}
	next, changes, err := before.Apply(state.Event{At: l.notAhead(), Unlock: &state.Unlock{Lock: policy.Lock{Reason: lockReason, Class: "officers"}, Any: true}})
	if err != nil {
		return false, refuseState(err)
	}
	commitment, salt, err := l.commitment(secrets, p)
	if err != nil {
		return false, err
	}
	rows := []Row{{Table: TableSlots, Key: key, Value: encode(SlotRecord{DocumentType: documentType, Subject: p, State: next}), If: rev},
		{Table: TableCommitments, Key: commitment, Value: salt[:]}}
	status, _, applied, err := l.statusRows(changes)
	if err != nil {
		return false, err
	}
	rows = append(append(rows, dueRows(documentType, p, before, next)...), status...)
	leaf := Leaf{Kind: "lift", Subject: commitment, Class: "officers", Reason: lockReason, Reasons: []string{reason}, Effect: "apply"}
	if err := l.execute(ctx, x, leaf, rows, applied); err != nil {
		return false, err
	}
	if len(changes) > 0 {
		l.wake()
	}
	return true, nil
}
