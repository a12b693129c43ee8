package ledger

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"sealkeeper/internal/clock"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// Settlement is what a verified signature leads to.
type Settlement struct {
	Signatures [][]byte // verified, in the order of the items
	Workers    []string // who made them
	Answer     []byte   // whole answer for the caller (sealed with its key), or the public object (list, certificate, CRL)
}

// Settle stores the answer by compare-and-set and returns the one that won: a.Answer, or the stored answer of whoever was first.
//
// It works once. A caller that went away does not stop it: a signature exists, and its retry shall find it settled. A change of the
// subject since Reserve does not stop it either: what was revoked meanwhile stays revoked, and the answer is what was reserved.
func (l *Ledger) Settle(ctx context.Context, r *Reservation, s Settlement) (answer []byte, first bool, err error) {
	ctx = context.WithoutCancel(ctx)
	if l.dead.Load() {
		return nil, false, ErrStopped
	}
	if !r.Claimed(l) {
		return nil, false, refuse("reservation.spent", "only a claimed reservation is settled, and once")
	}
	if len(s.Signatures) != len(r.record.Items) || len(s.Workers) != len(r.record.Items) {
		return nil, false, refuse("reservation.mismatch", "reservation %s has %d items, %d signatures by %d workers came", r.record.ID, len(r.record.Items), len(s.Signatures), len(s.Workers))
	}
	for i, sig := range s.Signatures {
		if len(sig) == 0 {
			return nil, false, refuse("reservation.mismatch", "item %d of reservation %s has no signature", i, r.record.ID)
		}
	}
	if !r.state.CompareAndSwap(claimed, spent) {
		return nil, false, refuse("reservation.spent", "reservation %s was settled before", r.record.ID)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l.custody.RLock()
	defer l.custody.RUnlock()
	for _, it := range r.record.Items {
		if k, _ := l.key(it.KeyID); k.State == KeyCompromised || k.State == KeyDestroyed { // nobody knows who made the signature
			return nil, false, refuse(KeyInactive, "key %q is %s", k.ID, k.State)
		}
	}
	for {
		answer, first, again, err := l.settle(ctx, r, s)
		if err != nil || !again {
			return answer, first, err
		}
	}
}

// settle tries once; again means that a row moved between reading and commit.
func (l *Ledger) settle(ctx context.Context, r *Reservation, s Settlement) (answer []byte, first, again bool, err error) {
	if r.record.Kind == policy.KindIssue {
		defer l.slots.lock(string(slotKey(r.record.DocumentType, r.record.Subject)))()
	}
	own := r.record
	rec, rev := &own, r.seq+1
	if r.wrote == nil {
		if rec, rev, err = get[ReservationRecord](ctx, l, TableReservations, []byte(r.record.ID)); err != nil {
			return nil, false, false, err
		}
		if rec == nil {
			return nil, false, false, fmt.Errorf("reservation %s is missing", r.record.ID)
		}
	}
	if rec.Progress != InProgress {
		answer, err := l.second(ctx, r)
		return answer, false, false, err
	}
	rec.Seq = rev - 1
	leaf := Leaf{Kind: "settle", At: l.o.Clock.Now(), Reservation: rec.ID, Operation: string(rec.Kind)}
	rec.Progress = Settled
	var rows []Row
	var applied func(seq uint64)
	var changed bool
	switch rec.Kind {
	case policy.KindIssue:
		rows, applied, changed, err = l.settleIssue(ctx, r, rec, s.Answer)
	default:
		rows, applied, err = l.settleOwn(ctx, rec, r.wrote != nil, &leaf, s.Answer)
	}
	if err != nil {
		return nil, false, false, err
	}
	if rec.Progress == Dropped {
		leaf.Kind = "drop"
	}
	attempts, items := r.outcome(rec, s.Workers, rec.Progress == Settled)
	rows = append(rows, Row{Table: TableReservations, Key: []byte(rec.ID), Value: encode(rec), If: If(rev)})
	leaf.Items = items
	crashpoint.Here("ledger", "settle", string(rec.Kind), "before-commit")
	out, err := l.commit(ctx, leaf, append(rows, attempts...), urgent(rec.Lane), applied)
	if err != nil {
		return nil, false, false, err
	}
	if out.Conflict != nil {
		r.wrote = nil
		return nil, false, true, nil
	}
	crashpoint.Here("ledger", "settle", string(rec.Kind), "after-commit")
	if changed {
		l.wake()
	}
	if rec.Progress == Dropped {
		answer, err := l.stored(ctx, rec)
		return answer, false, false, err
	}
	return s.Answer, true, false, nil
}

// outcome marks this value's attempts: the last of each item made the signature, unless somebody else's was first. That of a first try stands in rec.
func (r *Reservation) outcome(rec *ReservationRecord, workers []string, won bool) (rows []Row, items []LeafItem) {
	rec.Items = slices.Clone(rec.Items)
	for i, tries := range r.tries {
		for j, t := range tries {
			switch {
			case won && t.n == 0 && t.record.State == TrySent && len(tries) == 1:
				rec.Items[i].Worker = workers[i]
				items = append(items, LeafItem{Item: i, Attempt: t.n, Worker: workers[i]})
				continue
			case j == len(tries)-1:
				t.record.Worker, t.record.State = workers[i], TryDropped
				if won {
					t.record.State = TrySettled
				}
			case t.record.State == TrySent:
				t.record.State = TryDropped
			default:
				continue
			}
			rows = append(rows, Row{Table: TableAttempts, Key: attemptKey(r.record.ID, i, t.n), Value: encode(t.record), If: Any})
			items = append(items, LeafItem{Item: i, Attempt: t.n, Worker: t.record.Worker})
		}
	}
	return rows, items
}

// second journals that this signature was not the first, and returns the answer that was.
func (l *Ledger) second(ctx context.Context, r *Reservation) ([]byte, error) {
	workers := make([]string, len(r.tries))
	for i, tries := range r.tries {
		workers[i] = tries[len(tries)-1].record.Worker
	}
	own := r.record
	rows, items := r.outcome(&own, workers, false)
	if _, err := l.commit(ctx, Leaf{Kind: "drop", At: l.o.Clock.Now(), Reservation: r.record.ID, Items: items}, rows, false, nil); err != nil {
		return nil, err
	}
	request, _, err := get[RequestRecord](ctx, l, TableRequests, r.record.Request)
	if err != nil {
		return nil, err
	}
	if request == nil || request.Reservation != r.record.ID || len(request.Sealed) == 0 {
		return nil, refuse("reservation.superseded", "reservation %s was replaced before its answer was ready", r.record.ID)
	}
	return request.unseal(r.call.Key)
}

func (l *Ledger) settleIssue(ctx context.Context, r *Reservation, rec *ReservationRecord, answer []byte) (rows []Row, applied func(uint64), changed bool, err error) {
	key := slotKey(rec.DocumentType, rec.Subject)
	var request *RequestRecord
	requestRev := r.seq + 1
	if r.wrote != nil {
		own := r.wrote.request
		request = &own
	} else {
		if request, requestRev, err = get[RequestRecord](ctx, l, TableRequests, rec.Request); err != nil {
			return nil, nil, false, err
		}
		if request == nil || request.Reservation != rec.ID {
			return nil, nil, false, fmt.Errorf("the request of reservation %s is missing", rec.ID)
		}
	}
	before, rev, err := l.slot(ctx, key) // hardly ever read: recent. In a crowd at one subject's door it has moved since Reserve
	if err != nil {
		return nil, nil, false, err
	}
	request.Settled = l.o.Clock.Now()
	if held := request.Settled.Sub(request.At); !request.AckBy.IsZero() && held > 0 { // the phone has its time from the answer on, however long that took
		request.AckBy = request.AckBy.Add(min(held, l.o.GiveUpAfter))
	}
	sealed, err := l.seal(request, r.call.Key, answer)
	if err != nil {
		return nil, nil, false, err
	}
	rows = append(rows, Row{Table: TableRequests, Key: rec.Request, Value: sealed, If: If(requestRev)})
	// As of the decision, which was made while the clock was trusted: a wall that jumped ahead since would drop credentials of the holder as
	// expired, and the next lock would pass them by.
	next, changes, err := before.Apply(state.Event{At: rec.At, Settle: &state.Settle{Reservation: rec.ID}})
	if err != nil {
		return nil, nil, false, refuseState(err)
	}
	rows = append(rows, Row{Table: TableSlots, Key: key, Value: encode(SlotRecord{DocumentType: rec.DocumentType, Subject: rec.Subject, State: next}), If: rev})
	status, _, shown, err := l.statusRows(changes)
	if err != nil {
		return nil, nil, false, err
	}
	return append(rows, status...), func(seq uint64) {
		shown(seq)
		l.requests.finished(rec.Request)
		l.requests.look(whenMade(rec.ID), l.over(request))
		l.recent.put(key, recentSlot{next, If(seq + 1)})
	}, len(changes) > 0, nil
}

// settleOwn stores a public object. If a newer one is there already it changes rec to Dropped. first says that nothing has moved yet since Reserve,
// which looked for a certificate of this serial number: should there be one since, its row is in the way of the commit, and all is read.
func (l *Ledger) settleOwn(ctx context.Context, rec *ReservationRecord, first bool, leaf *Leaf, object []byte) (rows []Row, applied func(uint64), err error) {
	applied = func(uint64) {}
	if rec.Kind != policy.KindSelftest && rec.Kind != policy.KindToken { // a token is nowhere at rest
		if len(object) == 0 {
			return nil, nil, fmt.Errorf("reservation %s has no object to settle", rec.ID)
		}
		digest := sha256.Sum256(object)
		leaf.Digest = digest[:]
	}
	switch {
	case rec.List != nil:
		last, rev, err := get[VersionRecord](ctx, l, TableVersions, []byte(rec.List.ID))
		if err != nil {
			return nil, nil, err
		}
		if last != nil && last.Version >= rec.List.Version {
			rec.Progress = Dropped
			return nil, applied, nil
		}
		v := *rec.List
		v.Token, v.Key = object, rec.Items[0].KeyID
		leaf.Name, leaf.Version = v.ID, v.Version
		rows = append(rows, Row{Table: TableVersions, Key: []byte(v.ID), Value: encode(v), If: If(rev)})
		applied = func(uint64) {
			l.lists[v.ID].settled(v)
			if v.IssuedAt.After(l.issued) {
				l.issued = v.IssuedAt
			}
		}
	case rec.Cert != nil:
		if !first {
			last, _, err := get[Certificate](ctx, l, TableCertificates, rec.Cert.Serial)
			if err != nil {
				return nil, nil, err
			}
			if last != nil {
				rec.Progress = Dropped
				return nil, applied, nil
			}
		}
		c := *rec.Cert
		c.DER = object
		leaf.Name = c.Profile
		rows = append(rows, Row{Table: TableCertificates, Key: c.Serial, Value: encode(c)})
	case rec.CRL != nil:
		last, rev, err := get[CRLRecord](ctx, l, TableCRLs, []byte(rec.CRL.Name))
		if err != nil {
			return nil, nil, err
		}
		if last != nil && last.Number >= rec.CRL.Number {
			rec.Progress = Dropped
			return nil, applied, nil
		}
		c := *rec.CRL
		c.DER = object
		leaf.Name, leaf.Version = c.Name, c.Number
		rows = append(rows, Row{Table: TableCRLs, Key: []byte(c.Name), Value: encode(c), If: If(rev)})
		applied = func(uint64) { l.crls[c.Name] = c.Number }
	}
	return rows, applied, nil
}

// stored is the public object that is there instead of a dropped one.
func (l *Ledger) stored(ctx context.Context, rec *ReservationRecord) ([]byte, error) {
	switch {
	case rec.List != nil:
		if v, _, err := get[VersionRecord](ctx, l, TableVersions, []byte(rec.List.ID)); err != nil || v != nil {
			return v.token(), err
		}
	case rec.Cert != nil:
		if c, _, err := get[Certificate](ctx, l, TableCertificates, rec.Cert.Serial); err != nil || c != nil {
			return c.der(), err
		}
	case rec.CRL != nil:
		if c, _, err := get[CRLRecord](ctx, l, TableCRLs, []byte(rec.CRL.Name)); err != nil || c != nil {
			return c.der(), err
		}
	}
	return nil, nil
}

func (v *VersionRecord) token() []byte {
	if v == nil {
		return nil
	}
	return v.Token
}

func (c *Certificate) der() []byte {
	if c == nil {
		return nil
	}
	return c.DER
}

func (c *CRLRecord) der() []byte {
	if c == nil {
		return nil
	}
	return c.DER
}

// ---- erasing

const sweepBatch = 200

// Sweep forgets burns whose evidence is refused for its age, letters that waited too long, and old windows. Only while the clock is
// trusted: a wall that is ahead for one moment would end what is not over when it comes back. The rows carry their revision, so that nothing that moved
// meanwhile is erased.
func (l *Ledger) Sweep(ctx context.Context, guard *clock.Guard) error {
	if err := l.ready(); err != nil {
		return err
	}
	now, err := guard.Trusted()
	if err != nil {
		return nil // whoever can do something about it was told
	}
	var rows []Row
	flush := func() error {
		if len(rows) == 0 {
			return nil
		}
		_, err := l.commit(ctx, Leaf{Kind: "sweep", At: now, Count: uint64(len(rows))}, rows, false, nil)
		rows = nil
		return err
	}
	erase := func(t Table, over func(value []byte) (bool, error)) error {
		return scan(ctx, l.store, t, nil, func(e Entry) error {
			if err := ctx.Err(); err != nil { // reads don't look, and these may be many
				return err
			}
			if is, err := over(e.Value); err != nil || !is {
				return err
			}
			rows = append(rows, Row{Table: t, Key: e.Key, If: If(e.Revision)})
			if len(rows) < sweepBatch {
				return nil
			}
			return flush()
		})
	}
	if err := erase(TableBurnt, func(value []byte) (bool, error) {
		b, err := decode[BurnRecord](TableBurnt, value)
		return err == nil && now.After(b.Until), err
	}); err != nil {
		return err
	}
	if err := erase(TableEvents, func(value []byte) (bool, error) {
		r, err := decode[EventRecord](TableEvents, value)
		return err == nil && now.After(r.Until.Add(time.Hour)), err // well past every tolerated skew
	}); err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	if err := l.sweepLetters(ctx, now); err != nil {
		return err
	}
	if err := l.sweepDead(ctx, now); err != nil {
		return err
	}
	if err := l.sweepDecisions(ctx); err != nil {
		return err
	}
	if err := l.sweepRaised(ctx, now); err != nil {
		return err
	}
	if err := l.sweepCampaigns(ctx, now); err != nil {
		return err
	}
	return l.sweepBudgets(ctx)
}
