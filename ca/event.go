package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger"
	"sealkeeper/officer"
)

// Event takes in a carrier's event. The answer means the same as that of a change, and as a change it is never shed: see Change. It says
// nothing of the holder, whom the carrier does not know.
func (a *Authority) Event(ctx context.Context, c Caller, r contract.EventRequest) (contract.EventAnswer, error) {
	none := contract.EventAnswer{}
	defer a.o.Ledger.Arrive()()
	rules := a.rules()
	at := a.o.Guard.ForLists()
	e, err := rules.evidence.LineEvent(c.ID, at, r.Event)
	var of *evidence.Refusal
	if wall := a.o.Guard.Plausible()[0]; errors.As(err, &of) && of.Code() == "evidence.line_event_from_future" && wall.After(at) {
		// The time of lists may be days behind, until the clock is accepted.
		if later, still := rules.evidence.LineEvent(c.ID, wall, r.Event); still == nil {
			e, err = later, nil
		}
	}
	if err != nil {
		return none, a.bury(ctx, c, r, at, problem(err, nil))
	}
	approval, d := rules.bundle.DecideEvent(e, at)
	if err := a.judged(asked{c.ID, "event", "", at}, d); err != nil {
		return none, a.bury(ctx, c, r, at, err)
	}
	crashpoint.Here("ca.event.decided")
	var done ledger.EventResult
	for {
		done, err = a.o.Ledger.Event(ctx, approval)
		if !errors.Is(err, ledger.ErrConflict) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		err = problem(fmt.Errorf("committing the event: %w", err), nil)
		var p *Problem
		if errors.As(err, &p) && slices.Contains(passing, p.Code) {
			return none, a.bury(ctx, c, r, at, err)
		}
		return none, err
	}
	crashpoint.Here("ca.event.committed")
	if err := a.o.Ledger.Raise(ctx, r.Event); err != nil { // it stays among the dead letters, and is answered as before when it is sent again
		a.o.Log.Warn("a dead letter that was carried out could not be erased", "error", err)
	}
	uris := make([]string, len(done.Lists))
	for i, id := range done.Lists {
		uris[i] = a.o.BaseURL + "/status-lists/" + id
	}
	return contract.EventAnswer{Event: e.ID(), Effect: done.Effect, Changed: done.Changed, Sequence: done.Seq, Lists: uris, Decision: named(d, done.Decision)}, nil
}

// bury keeps a refused event for whoever mends the cause, unless it is one that nothing mends. The refusal stays what it is.
func (a *Authority) bury(ctx context.Context, c Caller, r contract.EventRequest, at time.Time, refusal error) error {
	var p *Problem
	if !errors.As(refusal, &p) || slices.Contains(hopeless, p.Code) {
		return refusal
	}
	kept, err := a.o.Ledger.Bury(ctx, c.ID, p.Code, r.Event, at)
	if err != nil || !kept {
		a.o.Log.Warn("a refused event could not be kept", "client", c.ID, "code", p.Code, "error", err)
	}
	return refusal
}

// passing are the ledger's refusals of events that nothing is wrong with: there is no room for them now.
var passing = []string{"budget.exhausted", "event.letters_full"}

// hopeless are the refusals of events that are none, or too old for ever.
var hopeless = []string{"evidence.line_event_malformed", "evidence.line_event_type", "evidence.line_event_expired", "client.unknown", "internal"}

// DeadEvents lists refused events.
func (a *Authority) DeadEvents(ctx context.Context) (contract.DeadEvents, error) {
	out := contract.DeadEvents{Events: []contract.DeadEvent{}, UnknownLines: a.o.Ledger.Letters()}
	all, err := a.o.Ledger.DeadLetters(ctx)
	for _, d := range all {
		out.Events = append(out.Events, contract.DeadEvent{ID: d.ID, Client: d.Client, Code: d.Code, At: d.At})
	}
	return out, problem(err, nil)
}

// ReplayEvent judges a dead letter again, as if the carrier's client had sent it now.
func (a *Authority) ReplayEvent(ctx context.Context, c Caller, r contract.ReplayRequest) (contract.EventAnswer, error) {
	client, text, err := a.o.Ledger.DeadLetter(ctx, r.ID)
	if err != nil {
		return contract.EventAnswer{}, problem(err, nil)
	}
	out, err := a.Event(ctx, Caller{ID: client}, contract.EventRequest{Event: text})
	a.o.Log.Info("a dead letter was tried again", "id", r.ID, "sender", client, "client", c.ID, "error", err)
	return out, err
}

// Floods lists what carriers reported above their thresholds and nobody decided on yet.
func (a *Authority) Floods(ctx context.Context) (contract.Floods, error) {
	out := contract.Floods{Floods: []contract.Flood{}}
	all, err := a.o.Ledger.Floods(ctx)
	for _, f := range all {
		out.Floods = append(out.Floods, contract.Flood{Carrier: f.Carrier, Hour: f.Hour, Cards: f.Cards, MDocs: f.MSOs, Deciding: f.Deciding})
	}
	return out, problem(err, nil)
}

// DecideFlood has a flood confirmed or undone.
func (a *Authority) DecideFlood(ctx context.Context, c Caller, r contract.FloodRequest) (contract.FloodAnswer, error) {
	if err := a.ungoverned(ctx, officer.FloodConfirm); err != nil {
		return contract.FloodAnswer{}, err
	}
	return a.decideFlood(ctx, c, r, nil)
}

func (a *Authority) decideFlood(ctx context.Context, c Caller, r contract.FloodRequest, x *ledger.Execution) (contract.FloodAnswer, error) {
	cards, err := a.o.Ledger.DecideFlood(ctx, c.ID, r.Carrier, r.Hour, r.Decision == "undo", x)
	if err != nil {
		return contract.FloodAnswer{}, problem(err, nil)
	}
	a.o.Log.Info("a carrier's flood was decided on", "carrier", r.Carrier, "hour", r.Hour, "decision", r.Decision, "cards", cards, "client", c.ID)
	return contract.FloodAnswer{Carrier: r.Carrier, Hour: r.Hour.UTC(), Decision: r.Decision, Cards: cards}, nil
}
