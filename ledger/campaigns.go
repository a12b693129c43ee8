package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// Campaigns. What officers decide about many cards at once is carried out card by card, so many in a second: each card that has a live credential of the
// selection gets a row, in the commit that marks it, and no card gets two. The cards are found by reading all reservations once, from wherever the last
// process came to; issuing writes nothing for it. A campaign that marks cards for re-issue then watches them until none waits any more.

// Operations of a campaign.
const (
	CampaignReissue = "reissue" // cards have to be made anew at their next contact
	CampaignRevoke  = "revoke"  // cards are revoked
)

// RenewCompromised is why a card has to be made anew whose signing key can't be trusted.
const RenewCompromised = "key_compromised"

// What became of a card.
const (
	CardWaiting  = "waiting"  // marked; its phone has not come yet, or may not while a mass hold stands
	CardLocked   = "locked"   // marked; a lock of its own keeps its phone from coming
	CardReissued = "reissued" // it has signed credentials that are none of the selection
	CardExpired  = "expired"  // its credentials of the selection expired before its phone came
	CardEnded    = "ended"    // they were revoked otherwise: by a lock, another phone, the closing of the subject
	CardRevoked  = "revoked"  // by this campaign
	CardFailed   = "failed"   // it could not be marked
)

// Campaign is one, with what became of its cards so far.
type Campaign struct {
	ID string
	CampaignRecord
	Cards map[string]int // by what became of them
	First time.Time      // when the first card was made anew; zero: none yet
	Hold  *HoldRecord    // what a hold is in the lists; nil: nothing yet, or no hold, or one of before
}

// Total is the number of its cards.
func (c Campaign) Total() (n int) {
	for _, k := range c.Cards {
		n += k
	}
	return n
}

// CampaignRecord is what was decided, and how far it is.
type CampaignRecord struct {
	Operation string `json:"operation"`
	Selection
	Reason    string    `json:"reason"`
	PerSecond int       `json:"per_second"` // cards; 0: it rests
	At        time.Time `json:"at"`
	By        []string  `json:"by"`
	Cursor    []byte    `json:"cursor,omitempty"` // reservations before it were looked at
	Found     time.Time `json:"found,omitzero"`   // when all were
	Done      time.Time `json:"done,omitzero"`
	Lifted    time.Time `json:"lifted,omitzero"` // a hold: when officers lifted it
	LiftedBy  []string  `json:"lifted_by,omitempty"`
	Term      bool      `json:"term,omitzero"` // a hold: it is a term of lists, and no card has its lock
}

// Selection of cards, by what the ledger knows without knowing persons.
type Selection struct {
	DocumentType string    `json:"document_type,omitempty"` // empty: of any
	Key          string    `json:"key,omitempty"`           // that signed; empty: any
	From         time.Time `json:"from,omitzero"`           // issued then or later
	To           time.Time `json:"to,omitzero"`             // issued before
}

func (s Selection) of(r *ReservationRecord, item int) bool {
	it := r.Items[item]
	return r.Kind == policy.KindIssue && (s.DocumentType == "" || r.DocumentType == s.DocumentType) && (s.Key == "" || it.KeyID == s.Key) &&
		!r.At.Before(s.From) && (s.To.IsZero() || r.At.Before(s.To))
}

// live are the items of a reservation that are selected and belong to unexpired credentials of a subject that nobody revoked.
func (s Selection) live(r *ReservationRecord, of state.State, at time.Time) (items []int, until time.Time) {
	for i := range r.Items {
		if !s.of(r, i) {
			continue
		}
		for _, c := range of.Credentials {
			if c.Reservation == r.ID && c.List == r.Items[i].List && c.Index == r.Items[i].Index && c.Live() && !at.After(c.NotAfter) {
				if items = append(items, i); c.NotAfter.After(until) {
					until = c.NotAfter
				}
			}
		}
	}
	return items, until
}

// CardRecord is what became of one card of a campaign. Its key is the campaign ‖ 0 ‖ the slot's.
type CardRecord struct {
	State string    `json:"state"`
	At    time.Time `json:"at"`    // when it came to that; of a card that was made anew, when its new credential was
	Until time.Time `json:"until"` // when the last of its selected credentials expires
}

// campaigns are the rows, in memory.
type campaigns struct {
	mu   sync.Mutex
	all  map[string]*Campaign
	next map[string]time.Duration // when its cards are looked at again, of the time that has elapsed, which nobody sets; not kept

	holds chan struct{} // a hold has to find what it is about
}

const (
	maxCampaigns  = 16
	campaignLook  = 50_000 // reservations that are read in a second
	campaignPage  = 500
	campaignWrite = 32  // cards that are marked together share a commit
	campaignMoved = 100 // rows of one commit
	campaignRest  = 20  // times what a look at its cards took it is not looked at again: a twentieth of one core's time
	// campaignStale bounds that: what officers are shown of millions of cards, whose look takes many minutes, is no older, though it takes more of the core.
	campaignStale = time.Hour
	// MaxPerSecond bounds the pace of a campaign.
	MaxPerSecond = 2000
)

func cardKey(campaign string, slot []byte) []byte {
	return slices.Concat([]byte(campaign), []byte{0}, slot)
}

func (l *Ledger) loadCampaigns(ctx context.Context) error {
	m := &l.campaigns
	m.all, m.next, m.holds = map[string]*Campaign{}, map[string]time.Duration{}, make(chan struct{}, 1)
	err := scan(ctx, l.store, TableCampaigns, nil, func(e Entry) error {
		r, err := decode[CampaignRecord](TableCampaigns, e.Value)
		if err == nil {
			m.all[string(e.Key)] = &Campaign{ID: string(e.Key), CampaignRecord: *r, Cards: map[string]int{}}
		}
		return err
	})
	if err != nil {
		return err
	}
	return scan(ctx, l.store, TableCards, nil, func(e Entry) error {
		i := bytes.IndexByte(e.Key, 0)
		if i < 1 || m.all[string(e.Key[:i])] == nil {
			return fmt.Errorf("a row of table %s belongs to no campaign", TableCards)
		}
		r, err := decode[CardRecord](TableCards, e.Value)
		if err == nil {
			m.all[string(e.Key[:i])].note("", *r)
		}
		return err
	})
}

// note counts that a card came from one state to another; the caller holds campaigns.mu.
func (c *Campaign) note(from string, r CardRecord) {
	if from != "" {
		if c.Cards[from]--; c.Cards[from] == 0 {
			delete(c.Cards, from)
		}
	}
	c.Cards[r.State]++
	if r.State == CardReissued && (c.First.IsZero() || r.At.Before(c.First)) {
		c.First = r.At
	}
}

// Campaigns that there are and were, the newest first.
func (l *Ledger) Campaigns() (all []Campaign) {
	l.campaigns.mu.Lock()
	defer l.campaigns.mu.Unlock()
	for _, c := range l.campaigns.all {
		one := *c
		one.Cards = make(map[string]int, len(c.Cards))
		for k, n := range c.Cards {
			one.Cards[k] = n
		}
		all = append(all, one)
	}
	sort.Slice(all, func(i, j int) bool {
		return all[i].At.After(all[j].At) || all[i].At.Equal(all[j].At) && all[i].ID < all[j].ID
	})
	return all
}

// StartCampaign makes a campaign durable, with the mark of the proposal that it is named by.
func (l *Ledger) StartCampaign(ctx context.Context, r CampaignRecord, x *Execution) error {
	open := 0
	for _, c := range l.Campaigns() {
		if c.Done.IsZero() {
			open++
		}
	}
	if open >= maxCampaigns {
		return refuse("campaign.too_many", "%d campaigns are under way", open)
	}
	r.By = x.By
	if r.Operation == CampaignHold {
		return l.startHold(ctx, r, x)
	}
	leaf := Leaf{Kind: "campaign", Name: x.ID, Operation: r.Operation, State: "started", Reason: r.Reason, Count: uint64(r.PerSecond)}
	return l.execute(ctx, x, leaf, []Row{{Table: TableCampaigns, Key: []byte(x.ID), Value: encode(r)}}, func(uint64) { l.begun(x.ID, r) })
}

// begun keeps a campaign that is durable now.
func (l *Ledger) begun(id string, r CampaignRecord) {
	l.campaigns.mu.Lock()
	defer l.campaigns.mu.Unlock()
	l.campaigns.all[id] = &Campaign{ID: id, CampaignRecord: r, Cards: map[string]int{}}
}

// PaceCampaign changes how many cards a second a campaign marks; 0 has it rest.
func (l *Ledger) PaceCampaign(ctx context.Context, client, id string, perSecond int) error {
	if err := l.ready(); err != nil {
		return err
	}
	return l.campaignMoved(ctx, id, Leaf{State: "paced", Client: client, Count: uint64(perSecond)}, func(r *CampaignRecord) error {
		if !r.Done.IsZero() {
			return refuse("campaign.done", "the campaign came to its end")
		}
		if r.Term {
			return refuse("campaign.at_once", "a hold is in its lists at once, and lifted at once: it has no pace")
		}
		r.PerSecond = perSecond
		return nil
	})
}

// campaignMoved changes a campaign's row.
func (l *Ledger) campaignMoved(ctx context.Context, id string, leaf Leaf, change func(*CampaignRecord) error) error {
	for {
		r, rev, err := get[CampaignRecord](ctx, l, TableCampaigns, []byte(id))
		if err != nil {
			return err
		}
		if r == nil {
			return refuse("campaign.unknown", "there is no campaign %.70q", id)
		}
		if err := change(r); err != nil {
			return err
		}
		leaf.Kind, leaf.At, leaf.Name, leaf.Operation = "campaign", l.o.Clock.Now().UTC(), id, r.Operation
		if leaf.State == "done" && r.Done.Before(leaf.At) { // it is kept from then on, for whoever has the journal alone
			r.Done = leaf.At
		}
		crashpoint.Here("ledger.campaign.before-commit")
		out, err := l.commit(ctx, leaf, []Row{{Table: TableCampaigns, Key: []byte(id), Value: encode(r), If: If(rev)}}, false, func(uint64) {
			l.campaigns.mu.Lock()
			defer l.campaigns.mu.Unlock()
			l.campaigns.all[id].CampaignRecord = *r
		})
		if err != nil || out.Conflict == nil {
			crashpoint.Here("ledger.campaign.after-commit")
			return err
		}
	}
}

// CountSelected counts the cards and live credentials that a selection has now. It reads every reservation.
func (l *Ledger) CountSelected(ctx context.Context, s Selection, at time.Time) (cards, credentials int, err error) {
	seen := map[string]bool{}
	err = scan(ctx, l.store, TableReservations, nil, func(e Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := decode[ReservationRecord](TableReservations, e.Value)
		if err != nil || r.Kind != policy.KindIssue || len(r.Items) == 0 {
			return err
		}
		key := slotKey(r.DocumentType, r.Subject)
		of, _, err := l.slot(ctx, key)
		if err != nil {
			return err
		}
		if items, _ := s.live(r, of, at); len(items) > 0 {
			credentials += len(items)
			seen[string(key)] = true
		}
		return nil
	})
	return len(seen), credentials, err
}

// AdvanceCampaigns does to cards what campaigns may in one second, at a trusted instant.
func (l *Ledger) AdvanceCampaigns(ctx context.Context, at time.Time) error {
	return l.eachCampaign(ctx, func(c Campaign) error {
		switch {
		case !c.Lifted.IsZero():
			return l.releaseCards(ctx, c, at)
		case c.Found.IsZero():
			return l.findCards(ctx, c, at)
		}
		return nil
	})
}

// WatchCampaigns looks what became of the cards of campaigns that found all of theirs. Of millions that takes minutes, for which no other campaign's work may
// wait: it is safe beside AdvanceCampaigns, since a campaign is due in one of the two.
func (l *Ledger) WatchCampaigns(ctx context.Context, at time.Time) error {
	return l.eachCampaign(ctx, func(c Campaign) error {
		if c.Found.IsZero() || c.Operation == CampaignHold { // a hold stands
			return nil
		}
		return l.watchCards(ctx, c, at)
	})
}

// eachCampaign gives every campaign that is under way its turn, the oldest first. One that fails takes none from the others.
func (l *Ledger) eachCampaign(ctx context.Context, turn func(Campaign) error) (failed error) {
	all := l.Campaigns()
	slices.Reverse(all)
	for _, c := range all {
		if err := errors.Join(ctx.Err(), l.ready()); err != nil {
			return errors.Join(failed, err)
		}
		if !c.Done.IsZero() || c.PerSecond == 0 || c.Term {
			continue
		}
		if err := turn(c); err != nil {
			failed = errors.Join(failed, fmt.Errorf("campaign %.12s…: %w", c.ID, err))
		}
	}
	return failed
}

// findCards marks the next cards of a campaign.
func (l *Ledger) findCards(ctx context.Context, c Campaign, at time.Time) error {
	cursor, left, found := c.Cursor, c.PerSecond, time.Time{}
	for looked := 0; left > 0 && looked < campaignLook && found.IsZero(); {
		page, err := l.store.Scan(ctx, TableReservations, cursor, campaignPage)
		if err != nil {
			return l.readFailed(err)
		}
		if looked += len(page); len(page) < campaignPage {
			found = at
		}
		for len(page) > 0 && left > 0 {
			n, some, marked, err := l.markCards(ctx, c, page, min(left, campaignWrite), at)
			if err != nil {
				return err
			}
			cursor, page, left = some, page[n:], left-marked
		}
		if len(page) > 0 {
			found = time.Time{}
		}
	}
	return l.campaignMoved(ctx, c.ID, Leaf{State: map[bool]string{true: "finding", false: "found"}[found.IsZero()]}, func(r *CampaignRecord) error {
		if r.Lifted.IsZero() { // else it ended meanwhile
			r.Cursor, r.Found = cursor, found
		}
		return nil
	})
}

// markCards looks at reservations from the front of a page, until as many cards as may be marked together could be. It returns how many it looked at, and where to go on.
func (l *Ledger) markCards(ctx context.Context, c Campaign, page []Entry, most int, at time.Time) (n int, cursor []byte, marked int, err error) {
	var work sync.WaitGroup
	var failed failures
	var did atomic.Int64
	for launched := 0; n < len(page) && launched < most; n++ {
		r, err := decode[ReservationRecord](TableReservations, page[n].Value)
		if err != nil {
			work.Wait()
			return n, nil, int(did.Load()), errors.Join(err, failed.err())
		}
		if !slices.ContainsFunc(seq(len(r.Items)), func(i int) bool { return c.of(r, i) }) || r.At.After(c.At) && c.Operation != CampaignHold {
			continue
		}
		launched++
		work.Go(func() {
			one, err := l.markCard(ctx, c, r, at)
			if failed.add(err); one {
				did.Add(1)
			}
		})
	}
	work.Wait()
	return n, append(bytes.Clone(page[n-1].Key), 0), int(did.Load()), failed.err()
}

func seq(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// markCard marks a card whose credentials a reservation made, unless it was marked before or has none of the selection any more.
func (l *Ledger) markCard(ctx context.Context, c Campaign, r *ReservationRecord, at time.Time) (did bool, err error) {
	secrets, err := l.unlocked()
	if err != nil {
		return false, err
	}
	key := slotKey(r.DocumentType, r.Subject)
	defer l.slots.lock(string(key))()
	for {
		if known, _, err := get[CardRecord](ctx, l, TableCards, cardKey(c.ID, key)); err != nil || known != nil {
			return false, err
		}
		before, rev, err := l.slot(ctx, key)
		if err != nil {
			return false, err
		}
		items, until := c.live(r, before, at)
		if len(items) == 0 {
			return false, nil
		}
		card := CardRecord{State: CardWaiting, At: at, Until: until}
		event := state.Event{At: at, Renew: &state.Renew{Reasons: []string{RenewCompromised}}}
		switch {
		case c.Operation == CampaignRevoke:
			card.State, event = CardRevoked, state.Event{At: at, Revoke: &state.Revoke{Reason: "mass"}}
		case c.Operation == CampaignHold:
			card.State, event = CardHeld, state.Event{At: at, Lock: &state.Lock{Lock: holdLock(c.ID), Held: true}}
		case c.Operation == CampaignReissue:
			card.State = waitsFor(before)
		}
		next, changes, err := before.Apply(event)
		if err != nil {
			l.o.Log.Error("a card of a campaign could not be marked", "campaign", c.ID, "error", err)
			next, changes, card.State = before, nil, CardFailed
		}
		out, err := l.commitCard(ctx, secrets, c, r, key, rev, before, next, changes, card, nil, at)
		if err != nil || out.Conflict == nil {
			return err == nil, err
		}
	}
}

// waitsFor says whether a card waits for its phone or for the end of a lock of its own. A mass hold is none: it ends for all at once, and until then the
// campaign goes on.
func waitsFor(s state.State) string {
	if slices.ContainsFunc(s.Locks, func(k policy.Lock) bool { return k.Reason != policy.MassHold }) {
		return CardLocked
	}
	return CardWaiting
}

// commitCard commits what a campaign did to a card. old is nil for a card that was not marked before.
func (l *Ledger) commitCard(ctx context.Context, secrets *Secrets, c Campaign, r *ReservationRecord, key []byte, rev If, before, next state.State, changes []state.Change, card CardRecord, old *Entry, at time.Time) (Outcome, error) {
	commitment, salt, err := l.commitment(secrets, r.Subject)
	if err != nil {
		return Outcome{}, err
	}
	leaf := Leaf{Kind: "campaign-card", At: at, Name: c.ID, Operation: c.Operation, Subject: commitment, State: card.State, Effect: "none"}
	row := Row{Table: TableCards, Key: cardKey(c.ID, key), Value: encode(card)}
	from := ""
	if old != nil {
		was, err := decode[CardRecord](TableCards, old.Value)
		if err != nil {
			return Outcome{}, err
		}
		leaf.Kind, row.If, from = "campaign-again", If(old.Revision), was.State
	}
	rows := []Row{row, {Table: TableCommitments, Key: commitment, Value: salt[:]}}
	if !same(before, next) {
		leaf.Effect = "apply"
		rows = append(rows, Row{Table: TableSlots, Key: key, Value: encode(SlotRecord{DocumentType: r.DocumentType, Subject: r.Subject, State: next}), If: rev})
		rows = append(rows, dueRows(r.DocumentType, r.Subject, before, next)...)
	}
	status, _, shown, err := l.statusRows(changes)
	if err != nil {
		return Outcome{}, err
	}
	crashpoint.Here("ledger.campaign-card.before-commit")
	out, err := l.commit(ctx, leaf, append(rows, status...), false, func(seq uint64) {
		shown(seq)
		l.campaigns.mu.Lock()
		defer l.campaigns.mu.Unlock()
		l.campaigns.all[c.ID].note(from, card)
	})
	if err != nil || out.Conflict != nil {
		return out, err
	}
	crashpoint.Here("ledger.campaign-card.after-commit")
	if len(changes) > 0 {
		l.wake()
	}
	return out, nil
}

// watchCards looks what became of the cards that wait, and ends the campaign when none does.
func (l *Ledger) watchCards(ctx context.Context, c Campaign, at time.Time) error {
	m, began := &l.campaigns, l.o.Clock.Elapsed()
	m.mu.Lock()
	next := m.next[c.ID]
	m.mu.Unlock()
	if began < next {
		return nil
	}
	defer func() { // also of a look that failed, which would fail as soon again
		ended := l.o.Clock.Elapsed()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.next[c.ID] = ended + min(max(time.Second, campaignRest*(ended-began)), campaignStale)
	}()
	var moved []Entry
	var cards []CardRecord
	waiting, again := 0, c.PerSecond
	flush := func() error {
		if len(moved) == 0 {
			return nil
		}
		defer func() { moved, cards = nil, nil }()
		return l.cardsMoved(ctx, c, moved, cards, at)
	}
	reservations := map[string]*ReservationRecord{}
	total := map[string]int{}
	err := scan(ctx, l.store, TableCards, cardKey(c.ID, nil), func(e Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := decode[CardRecord](TableCards, e.Value)
		if err != nil {
			return err
		}
		if r.State != CardWaiting && r.State != CardLocked {
			total[r.State]++
			return nil
		}
		now, remark, err := l.became(ctx, c, e.Key[len(c.ID)+1:], *r, reservations, at)
		if err != nil {
			return err
		}
		if total[now.State]++; now.State == CardWaiting {
			waiting++
		}
		if remark && again > 0 {
			again--
			return l.markAgain(ctx, c, e, now, at)
		}
		if now.State == r.State {
			return nil
		}
		if moved, cards = append(moved, e), append(cards, now); len(moved) == campaignMoved {
			return flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	if waiting > 0 {
		return nil
	}
	// It ends only if the rows, counted just now, are what was counted as they changed.
	sum, counted := 0, true
	var says []string
	for _, now := range l.Campaigns() {
		if now.ID == c.ID {
			counted = len(now.Cards) == len(total)
			for s, n := range now.Cards {
				counted = counted && total[s] == n
			}
		}
	}
	for _, s := range []string{CardReissued, CardRevoked, CardExpired, CardEnded, CardLocked, CardFailed} {
		sum += total[s]
		says = append(says, s+"="+strconv.Itoa(total[s]))
	}
	if !counted {
		return fmt.Errorf("the cards as they are (%v) are not those that were counted", total)
	}
	return l.campaignMoved(ctx, c.ID, Leaf{State: "done", Count: uint64(sum), Reasons: says}, func(r *CampaignRecord) error { r.Done = at; return nil })
}

// became says what became of a card; remark that it lost its mark without having been made anew, as when its new credentials were given up.
func (l *Ledger) became(ctx context.Context, c Campaign, key []byte, r CardRecord, known map[string]*ReservationRecord, at time.Time) (now CardRecord, remark bool, _ error) {
	s, _, err := l.slot(ctx, key)
	if err != nil {
		return r, false, err
	}
	now = r
	old := false
	newest := time.Time{}
	want, made := map[policy.Format]bool{}, map[policy.Format]bool{} // a card is made anew when it has something new in each format in which it had something of the selection
	for _, cr := range s.Credentials {
		res := known[cr.Reservation]
		if res == nil {
			if res, _, err = get[ReservationRecord](ctx, l, TableReservations, []byte(cr.Reservation)); err != nil {
				return r, false, err
			}
			if res == nil {
				return r, false, fmt.Errorf("reservation %s is missing", cr.Reservation)
			}
			known[cr.Reservation] = res
			if len(known) > 10_000 {
				clear(known)
			}
		}
		i := slices.IndexFunc(res.Items, func(it ItemRecord) bool { return it.List == cr.List && it.Index == cr.Index })
		selected := i >= 0 && c.of(res, i) && !res.At.After(c.At)
		live := cr.Live() && !at.After(cr.NotAfter)
		switch {
		case selected:
			want[cr.Format] = true
			old = old || live
		case live && cr.Phase != state.Reserved && res.At.After(c.At):
			made[cr.Format] = true
			if newest.IsZero() || cr.Made.Before(newest) {
				newest = cr.Made
			}
		}
	}
	all := len(made) > 0
	for f := range want {
		all = all && made[f]
	}
	switch {
	case all:
		now.State, now.At = CardReissued, newest
	case s.Closed != "" || s.Device == nil:
		now.State, now.At = CardEnded, at
	case !old && at.After(r.Until):
		now.State, now.At = CardExpired, at
	case !old:
		now.State, now.At = CardEnded, at
	default:
		if now.State = waitsFor(s); now.State == CardLocked {
			break
		}
		remark = !slices.Contains(s.Renew, RenewCompromised) && !slices.ContainsFunc(s.Credentials, func(cr state.Credential) bool { return cr.Phase == state.Reserved && cr.Made.After(c.At) })
	}
	return now, remark, nil
}

// cardsMoved commits what became of many cards.
func (l *Ledger) cardsMoved(ctx context.Context, c Campaign, entries []Entry, cards []CardRecord, at time.Time) error {
	var rows []Row
	var from []string
	for i, e := range entries {
		was, err := decode[CardRecord](TableCards, e.Value)
		if err != nil {
			return err
		}
		from = append(from, was.State)
		rows = append(rows, Row{Table: TableCards, Key: e.Key, Value: encode(cards[i]), If: If(e.Revision)})
	}
	_, err := l.commit(ctx, Leaf{Kind: "campaign-cards", At: at, Name: c.ID, Operation: c.Operation, Count: uint64(len(rows))}, rows, false, func(uint64) {
		l.campaigns.mu.Lock()
		defer l.campaigns.mu.Unlock()
		for i, r := range cards {
			l.campaigns.all[c.ID].note(from[i], r)
		}
	})
	return err // a conflict: the next look finds them again
}

// markAgain marks a card that lost its mark.
func (l *Ledger) markAgain(ctx context.Context, c Campaign, e Entry, card CardRecord, at time.Time) error {
	secrets, err := l.unlocked()
	if err != nil {
		return err
	}
	key := e.Key[len(c.ID)+1:]
	name, subject, err := split(TableCards, key, len(policy.Pseudonym{}))
	if err != nil {
		return err
	}
	defer l.slots.lock(string(key))()
	before, rev, err := l.slot(ctx, key)
	if err != nil {
		return err
	}
	next, changes, err := before.Apply(state.Event{At: at, Renew: &state.Renew{Reasons: []string{RenewCompromised}}})
	if err != nil {
		return refuseState(err)
	}
	_, err = l.commitCard(ctx, secrets, c, &ReservationRecord{DocumentType: name, Subject: policy.Pseudonym(subject)}, key, rev, before, next, changes, card, &e, at)
	return err
}
