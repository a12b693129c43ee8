package ledger

import (
	"bytes"
	"context"
	"time"

	"sealkeeper/internal/crashpoint"
)

// KeepCampaigns is how long a campaign that came to its end is kept beside the journal: as long as the proposal that began it.
const KeepCampaigns = keepProposals

// sweepCampaigns forgets campaigns that ended long ago. Holds stay: what they did to lists is made again from them.
func (l *Ledger) sweepCampaigns(ctx context.Context, now time.Time) error {
	for _, c := range l.Campaigns() {
		if c.Operation == CampaignHold || c.Done.IsZero() || !now.After(c.Done.Add(KeepCampaigns)) {
			continue
		}
		for gone := false; !gone; {
			var err error
			if gone, err = l.sweepCards(ctx, c, now, sweepBatch); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepCards forgets some cards of a campaign, and with the last of them the campaign: no card is ever there without one. What a crash leaves is swept in
// another round.
func (l *Ledger) sweepCards(ctx context.Context, c Campaign, now time.Time, most int) (gone bool, _ error) {
	first := cardKey(c.ID, nil)
	page, err := l.store.Scan(ctx, TableCards, first, most)
	if err != nil {
		return false, l.readFailed(err)
	}
	var rows []Row
	for _, e := range page {
		if bytes.HasPrefix(e.Key, first) {
			rows = append(rows, Row{Table: TableCards, Key: e.Key, If: If(e.Revision)})
		}
	}
	leaf := Leaf{Kind: "campaign", At: now, Name: c.ID, Operation: c.Operation, State: "sweeping", Count: uint64(len(rows))}
	if gone = len(rows) < most; gone {
		_, rev, err := l.store.Get(ctx, TableCampaigns, []byte(c.ID))
		if err != nil {
			return false, l.readFailed(err)
		}
		leaf.State, rows = "swept", append(rows, Row{Table: TableCampaigns, Key: []byte(c.ID), If: If(rev)})
	}
	crashpoint.Here("ledger.campaign.swept.before-commit")
	out, err := l.commit(ctx, leaf, rows, false, func(uint64) {
		if l.campaigns.mu.Lock(); gone {
			delete(l.campaigns.all, c.ID)
			delete(l.campaigns.next, c.ID)
		}
		l.campaigns.mu.Unlock()
	})
	if err != nil {
		return false, err
	}
	if out.Conflict != nil {
		return false, ErrConflict
	}
	crashpoint.Here("ledger.campaign.swept.after-commit")
	return gone, nil
}
