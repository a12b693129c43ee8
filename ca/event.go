package ca

import (
	"context"
	"errors"
	"fmt"

	"sealkeeper/contract"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger"
)

// Event takes in a carrier's event. The answer means the same as that of a change, and as a change it is never shed: see Change. It says
// nothing of the holder, whom the carrier does not know.
func (a *Authority) Event(ctx context.Context, c Caller, r contract.EventRequest) (contract.EventAnswer, error) {
	none := contract.EventAnswer{}
	defer a.o.Ledger.Arrive()()
	rules := a.rules()
	at := a.o.Guard.ForLists()
	e, err := rules.evidence.LineEvent(c.ID, at, r.Event)
	if err != nil {
		return none, problem(err, nil)
	}
	approval, d := rules.bundle.DecideEvent(e, at)
	if err := a.decided("event", d); err != nil {
		return none, err
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
		return none, problem(fmt.Errorf("committing the event: %w", err), nil)
	}
	crashpoint.Here("ca.event.committed")
	uris := make([]string, len(done.Lists))
	for i, id := range done.Lists {
		uris[i] = a.o.BaseURL + "/status-lists/" + id
	}
	return contract.EventAnswer{Event: e.ID(), Effect: done.Effect, Changed: done.Changed, Sequence: done.Seq, Lists: uris, Decision: decision(d)}, nil
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
	cards, err := a.o.Ledger.DecideFlood(ctx, c.ID, r.Carrier, r.Hour, r.Decision == "undo")
	if err != nil {
		return contract.FloodAnswer{}, problem(err, nil)
	}
	a.o.Log.Info("a carrier's flood was decided on", "carrier", r.Carrier, "hour", r.Hour, "decision", r.Decision, "cards", cards, "client", c.ID)
	return contract.FloodAnswer{Carrier: r.Carrier, Hour: r.Hour.UTC(), Decision: r.Decision, Cards: cards}, nil
}
