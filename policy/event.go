package policy

import (
	"slices"
	"time"

	"sealkeeper/evidence"
)

// KindEvent is what a carrier reports of one of its lines.
const KindEvent Kind = "event"

// Line is the line that an approved issue binds the phone to: the carrier's own pseudonym, which nobody stores as it is.
type Line struct {
	Authority string
	Line      string
	Since     time.Time // when the carrier vouched, by its own clock
}

// Event is an approved report of a carrier. What it does to a card is left to what was reported before: see state.Line.
type Event struct {
	Authority, ID, Line, Kind string
	Digest                    [32]byte // of what was signed
	Seq                       uint64
	OccurredAt                time.Time
	Until                     time.Time // from then on it would be refused for its age
	Lock                      Lock      // what a loss adds and its found removes, or a change of the line adds
	Types                     []string  // document types that the client may lock; sorted
	Flood                     uint64    // locks of this carrier in an hour from which on further ones are held
}

// Event returns what was approved.
func (a *Approval) Event() (Event, bool) { return other[Event](a, KindEvent) }

// LineReasons are the lock reasons of line events. A bundle that does not list line_changed locks for a loss instead: the safer mistake.
const (
	reasonLost    = "telecom_lost"
	reasonChanged = "line_changed"
)

// FloodBudget counts what carriers report in an hour. No bundle has a budget of this name: it is no id.
const FloodBudget = "(events)"

// MaxBudget bounds what only counts.
const MaxBudget = 1 << 62

// DecideEvent decides on a carrier's event. As of a lock, no rule is asked, and a budget only of what lifts one: a loss must get through.
func (b *Bundle) DecideEvent(e evidence.LineEvent, at time.Time) (*Approval, Decision) {
	switch {
	case b == nil:
		return nil, b.failed("there is no policy bundle")
	case !e.Valid() || at.IsZero():
		return nil, b.failed("there is no verified event or no instant")
	}
	c, known := b.client(e.Client())
	if !known || c.Role != "carrier" && c.Role != "desk" {
		return nil, b.denied(ruleClient, "client.forbidden", "events come through clients of the role carrier or desk that the policy knows")
	}
	needs := OpLock
	if e.Kind() == evidence.LineFound {
		needs = OpUnlock
	}
	var types []string
	for name, ops := range c.May {
		if b.types[name] != nil && slices.Contains(ops, needs) {
			types = append(types, name)
		}
	}
	if slices.Sort(types); types == nil {
		return nil, b.denied(ruleClient, "client.forbidden", "client "+c.ID+" may "+string(needs)+" no document type")
	}
	reason := reasonLost
	if _, listed := b.lockClasses[reasonChanged]; listed && e.Kind() != evidence.LineLost && e.Kind() != evidence.LineFound {
		reason = reasonChanged
	}
	if allowed, known := b.lockClasses[reason]; !known {
		return nil, b.denied(ruleReasons, "reason.unknown", "the policy knows no lock for "+reason)
	} else if !slices.Contains(allowed, c.Class) {
		return nil, b.denied(ruleReasons, "reason.forbidden", "authorities of class "+c.Class+" may not lock for "+reason)
	}
	d := b.decision(Allowed, ruleClient, ruleReasons, ruleAuthority)
	var conditions Conditions
	if needs == OpLock { // counted, and never refused
		conditions.Charges = []Charge{{Budget: FloodBudget, Window: time.Hour, Limit: MaxBudget, Whom: e.Authority()}}
	} else {
		conditions.Charges = c.unlocking()
	}
	return &Approval{kind: KindEvent, decision: d, client: c.ID, at: at, lane: LaneLock, conditions: conditions, other: Event{Flood: b.floods[e.Authority()], Authority: e.Authority(), ID: e.ID(), Line: e.Line(),
		Kind: e.Kind(), Digest: e.Digest(), Seq: e.Seq(), OccurredAt: e.OccurredAt(), Until: e.Until(), Lock: c.lock(reason), Types: types}}, d
}

// line is the one that a method asked for and a carrier vouched for.
func (t *docType) line(f facts, method string) *Line {
	s := f.statement(evidence.KindLineOwnership)
	if s == nil || t.methods == nil || t.methods[method] == nil {
		return nil
	}
	return &Line{Authority: s.Authority, Line: s.LineOwnership.Line, Since: s.IssuedAt}
}
