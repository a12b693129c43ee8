package ledger

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// Mass holds. A hold is a campaign's row: from the commit that places it until the one that lifts it, it is true of every card that it selects, whatever is
// in that card's row, where nothing of it is written. What it is in the lists is in terms.go.
//
// Holds of before 2026-12 (Term is not set) gave each card a lock of its own, so many in a second. They go on as they began, and are lifted so.

const (
	// CampaignHold keeps cards from being used until it is lifted.
	CampaignHold = "hold"

	CardHeld     = "held"     // it has the lock of a hold of before
	CardReleased = "released" // and has it no more
)

// holdLock is what a card has of a hold.
func holdLock(id string) policy.Lock {
	return policy.Lock{Reason: policy.MassHold, Class: "officers", By: id}
}

// stands: the hold was placed and not lifted.
func (c Campaign) stands() bool { return c.Operation == CampaignHold && c.Lifted.IsZero() }

// standing are the holds that were not lifted.
func (l *Ledger) standing() (all []Campaign) {
	m := &l.campaigns
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.all {
		if c.stands() {
			all = append(all, Campaign{ID: c.ID, CampaignRecord: c.CampaignRecord, Hold: c.Hold})
		}
	}
	return all
}

// holdsCard says whether a hold that stands is about a card. What a hold of before has found has its lock in its row.
func (l *Ledger) holdsCard(ctx context.Context, h Campaign, documentType string, s state.State, at time.Time) (bool, error) {
	switch {
	case h.Found.IsZero():
		return l.selected(ctx, h, documentType, s)
	case h.Term:
		return l.masked(h.ID, s, at), nil
	}
	return false, nil
}

// held is a state as it is under the holds that stand, which are not in its row. Its epoch is the stored state's, which is what a change is decided on.
func (l *Ledger) held(ctx context.Context, documentType string, s state.State, at time.Time) (state.State, error) {
	if len(s.Credentials) == 0 {
		return s, nil
	}
	for _, h := range l.standing() {
		is, err := l.holdsCard(ctx, h, documentType, s, at)
		if err != nil {
			return s, err
		}
		if !is {
			continue
		}
		next, _, err := s.Apply(state.Event{At: at, Lock: &state.Lock{Lock: holdLock(h.ID), Held: true}})
		if err != nil {
			return s, refuseState(err)
		}
		next.Epoch = s.Epoch
		s = next
	}
	return s, nil
}

// HoldsNew is the lock of a hold that would select whatever is issued of a document type at an instant.
func (l *Ledger) HoldsNew(documentType string, at time.Time) (policy.Lock, bool) {
	for _, h := range l.standing() {
		if h.Key == "" && h.DocumentType == documentType && !at.Before(h.From) && (h.To.IsZero() || at.Before(h.To)) {
			return holdLock(h.ID), true
		}
	}
	return policy.Lock{}, false
}

// withheld refuses a reservation of a card that is held, or that would be. The caller holds custody and the slot: no hold comes in between.
func (l *Ledger) withheld(ctx context.Context, r *ReservationRecord, s state.State) error {
	refusal := func(h Campaign) error {
		return refuse("card.held", "the security officers placed a hold at %s, and it is about this card: send the request again when it is lifted", h.At.UTC().Format(time.RFC3339))
	}
	for _, h := range l.standing() {
		if slices.ContainsFunc(seq(len(r.Items)), func(i int) bool { return h.of(r, i) }) {
			return refusal(h)
		}
		is, err := l.holdsCard(ctx, h, r.DocumentType, s, r.At)
		if err != nil {
			return err
		}
		if is {
			return refusal(h)
		}
	}
	if slices.ContainsFunc(s.Locks, func(k policy.Lock) bool { return k.Reason == policy.MassHold }) {
		return refuse("card.held", "the security officers hold this card, or have just lifted that: send the request again later")
	}
	return nil
}

// LiftHold ends a hold, with the mark of its proposal: with that commit it is true of nothing any more. Of one of before, the cards get rid of its lock so
// many in a second.
func (l *Ledger) LiftHold(ctx context.Context, id string, perSecond int, at time.Time, x *Execution) error {
	for {
		r, rev, err := get[CampaignRecord](ctx, l, TableCampaigns, []byte(id))
		switch {
		case err != nil:
			return err
		case r == nil || r.Operation != CampaignHold:
			return refuse("campaign.unknown", "there is no hold %.70q", id)
		case !r.Lifted.IsZero():
			return refuse("campaign.done", "the hold was lifted before")
		}
		r.Lifted, r.LiftedBy, r.Cursor = at, x.By, nil
		leaf := Leaf{Kind: "campaign", Name: id, Operation: CampaignHold, State: "lifted"}
		if r.Term {
			r.Done = at
		} else {
			if r.PerSecond = perSecond; perSecond == 0 {
				r.PerSecond = MaxPerSecond
			}
			if r.Found.IsZero() { // what it had not found by then it does not hold
				r.Found = at
			}
			leaf.Count = uint64(r.PerSecond)
		}
		err = l.execute(ctx, x, leaf, []Row{{Table: TableCampaigns, Key: []byte(id), Value: encode(r), If: If(rev)}}, func(seq uint64) {
			l.campaigns.mu.Lock()
			l.campaigns.all[id].CampaignRecord = *r
			l.campaigns.mu.Unlock()
			if r.Term {
				l.lifts(id, seq, at)
			}
		})
		if err == nil && r.Term {
			l.wake()
		}
		if !errors.Is(err, ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// releaseCards takes the lock of a lifted hold of before from its next cards, and ends the hold when none has it any more.
func (l *Ledger) releaseCards(ctx context.Context, c Campaign, at time.Time) error {
	prefix := cardKey(c.ID, nil)
	cursor, left, through := c.Cursor, c.PerSecond, false
	if cursor == nil {
		cursor = prefix
	}
	for looked := 0; left > 0 && looked < campaignLook && !through; {
		page, err := l.store.Scan(ctx, TableCards, cursor, min(campaignPage, max(left, campaignWrite)))
		if err != nil {
			return l.readFailed(err)
		}
		if len(page) == 0 {
			through = true
		}
		looked += len(page)
		for len(page) > 0 && left > 0 && !through {
			var work sync.WaitGroup
			var failed failures
			n := 0
			for most := min(left, campaignWrite); n < len(page) && most > 0; n++ {
				e := page[n]
				if through = !bytes.HasPrefix(e.Key, prefix); through {
					break
				}
				if r, err := decode[CardRecord](TableCards, e.Value); err != nil {
					failed.add(err)
					break
				} else if r.State != CardHeld {
					continue
				}
				most--
				left--
				work.Go(func() { failed.add(l.releaseCard(ctx, c, e.Key, at)) })
			}
			work.Wait()
			if err := failed.err(); err != nil {
				return err
			}
			if n > 0 {
				cursor = append(bytes.Clone(page[n-1].Key), 0)
			}
			page = page[n:]
		}
	}
	leaf := Leaf{State: "releasing"}
	if through {
		held, all := 0, 0
		for _, now := range l.Campaigns() {
			if now.ID == c.ID {
				held, all = now.Cards[CardHeld], now.Total()
				for _, s := range []string{CardReleased, CardFailed} {
					leaf.Reasons = append(leaf.Reasons, s+"="+strconv.Itoa(now.Cards[s]))
				}
			}
		}
		if through = held == 0; through {
			leaf.State, leaf.Count = "done", uint64(all)
		} else { // from the begin
			cursor, leaf.Reasons = nil, nil
		}
	}
	return l.campaignMoved(ctx, c.ID, leaf, func(r *CampaignRecord) error {
		if r.Cursor = cursor; through {
			r.Done = at
		}
		return nil
	})
}

// releaseCard takes the lock of a lifted hold of before from a card.
func (l *Ledger) releaseCard(ctx context.Context, c Campaign, row []byte, at time.Time) error {
	secrets, err := l.unlocked()
	if err != nil {
		return err
	}
	key := row[len(c.ID)+1:]
	name, subject, err := split(TableCards, key, len(policy.Pseudonym{}))
	if err != nil {
		return err
	}
	defer l.slots.lock(string(key))()
	for {
		v, revision, err := l.store.Get(ctx, TableCards, row)
		if err != nil {
			return l.readFailed(err)
		}
		r, err := decode[CardRecord](TableCards, v)
		if err != nil || r.State != CardHeld {
			return err
		}
		before, rev, err := l.slot(ctx, key)
		if err != nil {
			return err
		}
		next, changes, err := before.Apply(state.Event{At: at, Unlock: &state.Unlock{Lock: holdLock(c.ID)}})
		if err != nil {
			return refuseState(err)
		}
		r.State, r.At = CardReleased, at
		out, err := l.commitCard(ctx, secrets, c, &ReservationRecord{DocumentType: name, Subject: policy.Pseudonym(subject)}, key, rev, before, next, changes, *r, &Entry{Key: row, Value: v, Revision: revision}, at)
		if err != nil || out.Conflict == nil {
			return err
		}
	}
}
