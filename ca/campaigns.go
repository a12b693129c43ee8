package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// Campaigns are carried out by the ledger, second by second (a hold at once), at the time of lists: they go on while the wall is not trusted, and a wall that jumped ahead
// makes no card look expired.

// startCampaign begins what a quorum decided about many cards.
func (a *Authority) startCampaign(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	op := map[officer.Action]string{officer.RevokeMass: ledger.CampaignRevoke, officer.ReissueMass: ledger.CampaignReissue}[q.Action()]
	return a.begin(ctx, op, q.Parameters().(*officer.Mass), x)
}

// holdCards holds many at once.
func (a *Authority) holdCards(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	return a.begin(ctx, ledger.CampaignHold, (*officer.Mass)(q.Parameters().(*officer.Hold)), x)
}

func (a *Authority) begin(ctx context.Context, op string, p *officer.Mass, x *ledger.Execution) error {
	if p.Key != "" {
		if _, known := a.key(p.Key); !known {
			return moot("there is no key %s", p.Key)
		}
	}
	if p.DocumentType != "" && !slices.ContainsFunc(a.rules().bundle.Types(), func(t policy.TypeInfo) bool { return t.Name == p.DocumentType }) {
		return moot("the policy bundle has no document type %s", p.DocumentType)
	}
	return a.o.Ledger.StartCampaign(ctx, ledger.CampaignRecord{Operation: op, Selection: selection(p), Reason: p.Reason, PerSecond: p.PerSecond, At: a.o.Guard.ForLists()}, x)
}

// liftHold ends a hold.
func (a *Authority) liftHold(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p := q.Parameters().(*officer.Lift)
	all := a.o.Ledger.Campaigns()
	i := slices.IndexFunc(all, func(c ledger.Campaign) bool { return c.ID == p.Hold && c.Operation == ledger.CampaignHold })
	switch {
	case i < 0:
		return moot("there is no hold %s", p.Hold)
	case !all[i].Lifted.IsZero():
		return moot("the hold was lifted before")
	}
	return a.o.Ledger.LiftHold(ctx, p.Hold, p.PerSecond, a.o.Guard.ForLists(), x)
}

func selection(p *officer.Mass) ledger.Selection {
	return ledger.Selection{DocumentType: p.DocumentType, Key: p.Key, From: p.From, To: p.To}
}

// keepCampaigns has campaigns go on, a second at a time.
func (a *Authority) keepCampaigns(ctx context.Context, what string, step func(context.Context, time.Time) error) {
	for sleep(ctx, time.Second) {
		if err := a.stepCampaigns(ctx, what, step); errors.Is(err, ledger.ErrStopped) {
			return
		}
	}
}

func (a *Authority) stepCampaigns(ctx context.Context, what string, step func(context.Context, time.Time) error) error {
	err := step(ctx, a.o.Guard.ForLists())
	if ctx.Err() != nil || errors.Is(err, ledger.ErrStopped) {
		return err
	}
	if n, news := a.faults.News(what, err); news {
		a.o.Log.Error(what+"; it goes on in a second", "error", err, "suppressed", n)
	}
	return err
}

// Campaigns shows what is done about many cards, and what became of them.
func (a *Authority) Campaigns(context.Context) (contract.Campaigns, error) {
	out := contract.Campaigns{Campaigns: []contract.Campaign{}}
	for _, c := range a.o.Ledger.Campaigns() {
		one := contract.Campaign{ID: c.ID, Operation: c.Operation, DocumentType: c.DocumentType, Key: c.Key, From: c.From, To: c.To, Reason: c.Reason,
			PerSecond: c.PerSecond, Started: c.At, By: orEmpty(c.By), Found: c.Found, Done: c.Done, First: c.First, Total: c.Total(),
			Waiting: c.Cards[ledger.CardWaiting], Locked: c.Cards[ledger.CardLocked], Reissued: c.Cards[ledger.CardReissued], Expired: c.Cards[ledger.CardExpired],
			Ended: c.Cards[ledger.CardEnded], Revoked: c.Cards[ledger.CardRevoked], Failed: c.Cards[ledger.CardFailed],
			Lifted: c.Lifted, Held: c.Cards[ledger.CardHeld], Released: c.Cards[ledger.CardReleased], AtOnce: c.Term}
		if h := c.Hold; h != nil {
			one.Lists, one.Whole, one.Total = h.Lists, h.Whole, h.Cards
			if one.Held = h.Cards; !c.Lifted.IsZero() {
				one.Held, one.Released = 0, h.Cards
			}
		}
		out.Campaigns = append(out.Campaigns, one)
	}
	return out, nil
}

// PaceCampaign has a campaign mark more or fewer cards a second, or rest.
func (a *Authority) PaceCampaign(ctx context.Context, c Caller, r contract.CampaignPace) (contract.Campaigns, error) {
	if err := a.o.Ledger.PaceCampaign(ctx, c.ID, r.ID, r.PerSecond); err != nil {
		return contract.Campaigns{}, problem(err, nil)
	}
	a.o.Log.Info("a campaign's pace was changed", "campaign", r.ID, "per_second", r.PerSecond, "client", c.ID)
	return a.Campaigns(ctx)
}

// CountCards counts what a selection is about now.
func (a *Authority) CountCards(ctx context.Context, r contract.CardsQuery) (contract.CardsCount, error) {
	cards, credentials, err := a.o.Ledger.CountSelected(ctx, ledger.Selection{DocumentType: r.DocumentType, Key: r.Key, From: r.From, To: r.To}, a.o.Guard.ForLists())
	if err != nil {
		return contract.CardsCount{}, problem(fmt.Errorf("counting cards: %w", err), nil)
	}
	return contract.CardsCount{Cards: cards, Credentials: credentials}, nil
}
