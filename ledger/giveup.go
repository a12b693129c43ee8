package ledger

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
)

// requests is what rounds have to know of those that are remembered. There may be millions, each with an answer of some kilobytes: they are read once after
// a start, and then when they are over.
type requests struct {
	mu   sync.Mutex
	read bool                 // those of before the start are known
	open map[string]time.Time // when they were decided, of those that nobody finished yet
	over map[string]time.Time // when the first of them has to be looked at, of those that were finished, by when their reservations were made
}

// whenMade is the beginning of a reservation's name, 30 of the 48 bits that are its time: those that were made in the same four minutes lie together.
func whenMade(reservation string) string { return reservation[:min(5, len(reservation))] }

// opened: somebody has to finish it. The methods that change something are also called by the committer, which holds l.mu.
func (q *requests) opened(request []byte, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open[string(request)] = at
}

// finished: nobody has to.
func (q *requests) finished(request []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.open, string(request))
}

// look again at those that were made then.
func (q *requests) look(made string, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if before, known := q.over[made]; !known || at.Before(before) {
		q.over[made] = at
	}
}

// over is when a request that was finished has to be looked at: when its phone should have acknowledged, and after that when its answer is too old.
func (l *Ledger) over(r *RequestRecord) time.Time {
	if !r.AckBy.IsZero() {
		return r.AckBy
	}
	return r.Settled.Add(l.o.AnswerTTL)
}

// readRequests reads those of before the start, while others come and are finished.
func (l *Ledger) readRequests(ctx context.Context) error {
	q := &l.requests
	q.mu.Lock()
	read := q.read
	q.mu.Unlock()
	if read {
		return nil
	}
	err := scan(ctx, l.store, TableRequests, nil, func(e Entry) error {
		if err := ctx.Err(); err != nil { // reads don't look, and these may be many
			return err
		}
		text, _ := apart(e.Value)
		r, err := decode[RequestRecord](TableRequests, text)
		if err != nil {
			return err
		}
		if !r.Settled.IsZero() {
			q.look(whenMade(r.Reservation), l.over(r))
			return nil
		}
		q.opened(e.Key, r.At)
		r, _, err = get[RequestRecord](ctx, l, TableRequests, e.Key)
		if err == nil && (r == nil || !r.Settled.IsZero()) { // meanwhile, and whoever did it may have been before opened
			q.finished(e.Key)
		}
		return err
	})
	if err == nil {
		q.mu.Lock()
		q.read = true
		q.mu.Unlock()
	}
	return err
}

// GiveUp ends what nobody finished in time: reservations that were never settled and can be resumed no more, and credentials whose phone did
// not acknowledge them where it must. Their indices stay burnt and become INVALID, since a signature may exist. And it erases answers that nobody may
// ask for any more. now is a trusted time: a wall that jumped ahead must not end a request that is under way.
func (l *Ledger) GiveUp(ctx context.Context, now time.Time) (ended int, err error) {
	if err := l.ready(); err != nil {
		return 0, err
	}
	if _, err := l.unlocked(); err != nil {
		return 0, err
	}
	if err := l.readRequests(ctx); err != nil {
		return 0, err
	}
	q := &l.requests
	var unfinished, made []string
	q.mu.Lock()
	for request, at := range q.open {
		if now.Sub(at) >= l.o.GiveUpAfter {
			unfinished = append(unfinished, request)
		}
	}
	for m, at := range q.over {
		if !now.Before(at) {
			made = append(made, m)
		}
	}
	q.mu.Unlock()
	var failed failures // one that fails keeps no other card valid
	for _, request := range unfinished {
		if failed.hopeless() || ctx.Err() != nil {
			break
		}
		r, rev, err := get[RequestRecord](ctx, l, TableRequests, []byte(request))
		if err == nil && r != nil && r.Settled.IsZero() && now.Sub(r.At) >= l.o.GiveUpAfter { // or it was settled just now
			var gone bool
			if gone, err = l.giveUp(ctx, []byte(request), rev, r, now, "unfinished"); gone {
				ended++
			}
		}
		failed.add(err)
	}
	for _, m := range made {
		if failed.hopeless() || ctx.Err() != nil {
			break
		}
		ended += l.lookAgain(ctx, m, now, &failed)
	}
	oldest := now
	q.mu.Lock()
	open := len(q.open)
	for _, at := range q.open {
		if at.Before(oldest) {
			oldest = at
		}
	}
	q.mu.Unlock()
	l.o.Metrics.ReservationsOpen.Set(float64(open))
	l.o.Metrics.ReservationOldest.Set(now.Sub(oldest).Seconds())
	return ended, cmp.Or(failed.err(), ctx.Err())
}

// lookAgain looks at the finished requests whose reservations were made at the same time. Each says itself when it has to be looked at again; if one fails,
// all are in the next round.
func (l *Ledger) lookAgain(ctx context.Context, made string, now time.Time, failed *failures) (ended int) {
	q := &l.requests
	q.mu.Lock()
	delete(q.over, made)
	q.mu.Unlock()
	again := func(err error) {
		if err != nil {
			failed.add(err)
			q.look(made, now)
		}
	}
	var old []Row
	look := func(e Entry) error {
		rec, err := decode[ReservationRecord](TableReservations, e.Value)
		if err != nil || rec.Request == nil || rec.Progress != Settled {
			return err
		}
		r, rev, err := get[RequestRecord](ctx, l, TableRequests, rec.Request)
		if err != nil || r == nil || r.Reservation != rec.ID { // erased, and maybe made again with the same key
			return err
		}
		switch over := !now.Before(l.over(r)); {
		case over && r.AckBy.IsZero():
			old = append(old, Row{Table: TableRequests, Key: rec.Request, If: If(rev)})
			return nil
		case over:
			gone, err := l.giveUp(ctx, rec.Request, rev, r, now, "unacknowledged")
			if err != nil {
				return err
			}
			if gone {
				ended++
			}
		}
		q.look(made, l.over(r))
		return nil
	}
	again(scan(ctx, l.store, TableReservations, []byte(made), func(e Entry) error {
		again(look(e))
		if failed.hopeless() {
			return failed.err()
		}
		return ctx.Err()
	}))
	for rows := range slices.Chunk(old, sweepBatch) {
		out, err := l.commit(ctx, Leaf{Kind: "sweep", At: now, Count: uint64(len(rows))}, rows, false, nil)
		if again(err); err == nil && out.Conflict != nil {
			q.look(made, now)
		}
	}
	return ended
}

// giveUp is one commit, after which r is what is stored; ended says that something was, and not only seen to be acknowledged. A request that moved
// meanwhile is left alone: the next round looks again.
func (l *Ledger) giveUp(ctx context.Context, request []byte, requestRev uint64, r *RequestRecord, now time.Time, why string) (ended bool, err error) {
	rec, rev, err := get[ReservationRecord](ctx, l, TableReservations, []byte(r.Reservation))
	if err != nil || rec == nil {
		return false, err
	}
	secrets, err := l.unlocked()
	if err != nil {
		return false, err
	}
	key := slotKey(rec.DocumentType, rec.Subject)
	defer l.slots.lock(string(key))()
	before, slotRev, err := l.slot(ctx, key)
	if err != nil {
		return false, err
	}
	unfinished := why == "unfinished"
	next, changes, err := before.Apply(state.Event{At: now, Abandon: &state.Abandon{Reservation: rec.ID, Unacknowledged: !unfinished}})
	if err != nil {
		return false, refuseState(err)
	}
	leaf := Leaf{Kind: "give-up", At: now, Client: rec.Client, Subject: commit(secrets, rec.Subject, rec.Salt), Reservation: rec.ID, Reason: why, Effect: "none"}
	var rows []Row
	looked := *r
	looked.AckBy = time.Time{}
	if unfinished {
		rows = append(rows, Row{Table: TableRequests, Key: request, If: If(requestRev)})
		rec.Progress, rec.Seq = GivenUp, rev-1
		rows = append(rows, Row{Table: TableReservations, Key: []byte(rec.ID), Value: encode(rec), If: If(rev)})
	} else {
		rows = append(rows, Row{Table: TableRequests, Key: request, Value: encode(looked), If: If(requestRev)})
	}
	if !same(before, next) {
		leaf.Effect = "apply"
		rows = append(rows, Row{Table: TableSlots, Key: key, Value: encode(SlotRecord{DocumentType: rec.DocumentType, Subject: rec.Subject, State: next}), If: slotRev})
	}
	status, _, applied, err := l.statusRows(changes)
	if err != nil {
		return false, err
	}
	crashpoint.Here("ledger.give-up.before-commit")
	out, err := l.commit(ctx, leaf, append(rows, status...), true, func(seq uint64) {
		applied(seq)
		l.requests.finished(request)
	})
	if err != nil || out.Conflict != nil {
		return false, err
	}
	crashpoint.Here("ledger.give-up.after-commit")
	*r = looked
	if len(changes) > 0 {
		l.wake()
	}
	if ended = unfinished || leaf.Effect == "apply"; ended {
		l.o.Metrics.GivenUp.WithLabelValues(why).Inc()
	}
	return ended, nil
}
