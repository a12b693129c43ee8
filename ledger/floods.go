package ledger

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// Floods. What a carrier reports above its hourly threshold is held: the card is suspended and not refreshed, its MSOs wait. The carrier and
// the hour name the batch, which an operator confirms or undoes as a whole; reports of the same hour that come later wait for the next
// decision, and a card that is reported again waits with its last report: one of the same hour does not undo a confirmation that did not reach
// it yet. A decision is durable before its first card is touched, and is carried out to its end by whatever process finds it. It locks nothing: what somebody who may has unlocked meanwhile stays unlocked.

// HeldRecord is a phone whose MSOs wait.
type HeldRecord struct {
	Line  []byte `json:"line"`           // key of its LineRecord
	Since uint64 `json:"since,omitzero"` // journal entry of the first of its reports in this batch, if this is not its row
}

// of says whether a decision is about the phone whose row, of this revision, this is. A loss that is reported once more is no less confirmed; but
// whoever undid reports knew nothing of those after.
func (r *HeldRecord) of(d *FloodDecision, revision uint64) bool {
	if !d.Undo && r.Since != 0 {
		return r.Since <= d.Through
	}
	return revision-1 <= d.Through
}

// FloodDecision is a decision that is being carried out.
type FloodDecision struct {
	Undo    bool      `json:"undo"`
	Through uint64    `json:"through"` // what was held by this journal entry is decided
	Client  string    `json:"client"`
	At      time.Time `json:"at"`
}

// Flood is a batch of held phones.
type Flood struct {
	Carrier  string
	Hour     time.Time // its begin
	Cards    int
	MSOs     int    // that a confirmation revokes: each is a refresh later
	Deciding string // confirm or undo, while it is being carried out
}

// floodKey names a batch; a phone's row has its slot's key behind it.
func floodKey(carrier string, end int64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(carrier), 0), uint64(end))
}

func splitFlood(key []byte) (carrier string, end int64, slot []byte, err error) {
	i := slices.Index(key, 0)
	if i < 1 || len(key) < i+9 {
		return "", 0, nil, fmt.Errorf("a key of table %s has %d bytes and no carrier and hour", TableHeld, len(key))
	}
	return string(key[:i]), int64(binary.BigEndian.Uint64(key[i+1:])), key[i+9:], nil
}

const hour = int64(time.Hour / time.Second)

// floods is what waits, in memory.
type floods struct {
	held map[string]int // cards by batch; l.mu
	wake chan struct{}
}

func (f *floods) add(key []byte, n int) {
	_, _, slot, err := splitFlood(key)
	if err != nil {
		return
	}
	batch := string(key[:len(key)-len(slot)])
	if f.held[batch] += n; f.held[batch] <= 0 {
		delete(f.held, batch)
	}
}

func (l *Ledger) loadFloods(ctx context.Context) error {
	l.floods.held, l.floods.wake = map[string]int{}, make(chan struct{}, 1)
	return scan(ctx, l.store, TableHeld, nil, func(e Entry) error {
		l.floods.add(e.Key, 1)
		return nil
	})
}

// HeldCards counts the cards that wait for a decision, by carrier.
func (l *Ledger) HeldCards() map[string]int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	out := map[string]int{}
	for batch, n := range l.floods.held {
		if carrier, _, _, err := splitFlood([]byte(batch)); err == nil {
			out[carrier] += n
		}
	}
	return out
}

// Floods lists the batches that wait, the oldest of each carrier first.
func (l *Ledger) Floods(ctx context.Context) (out []Flood, err error) {
	err = scan(ctx, l.store, TableHeld, nil, func(e Entry) error {
		carrier, end, key, err := splitFlood(e.Key)
		if err != nil {
			return err
		}
		begin := time.Unix(end-hour, 0).UTC()
		if n := len(out); n == 0 || out[n-1].Carrier != carrier || !out[n-1].Hour.Equal(begin) {
			out = append(out, Flood{Carrier: carrier, Hour: begin})
		}
		f := &out[len(out)-1]
		f.Cards++
		s, _, err := l.slot(ctx, key)
		if err == nil && len(s.Held) > 0 && len(s.Held) == len(s.Locks) {
			f.MSOs += s.Slot(l.o.Clock.Now()).MSOs
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = scan(ctx, l.store, TableFloods, nil, func(e Entry) error {
		carrier, end, _, err := splitFlood(e.Key)
		if err != nil {
			return err
		}
		d, err := decode[FloodDecision](TableFloods, e.Value)
		if err != nil {
			return err
		}
		begin := time.Unix(end-hour, 0).UTC()
		i := slices.IndexFunc(out, func(f Flood) bool { return f.Carrier == carrier && f.Hour.Equal(begin) })
		if i < 0 { // its cards are done, and it soon is
			i, out = len(out), append(out, Flood{Carrier: carrier, Hour: begin})
		}
		out[i].Deciding = decisionName(d.Undo)
		return nil
	})
	return out, err
}

func decisionName(undo bool) string {
	if undo {
		return "undo"
	}
	return "confirm"
}

// DecideFlood makes a decision on a batch durable, and has it carried out. It returns how many cards it is about.
func (l *Ledger) DecideFlood(ctx context.Context, client, carrier string, begin time.Time, undo bool, x *Execution) (cards int, err error) {
	if err := l.ready(); err != nil {
		return 0, err
	}
	key := floodKey(carrier, begin.Unix()+hour)
	l.mu.RLock()
	cards, through := l.floods.held[string(key)], l.through
	l.mu.RUnlock()
	if cards == 0 || begin.Unix()%hour != 0 {
		return 0, refuse("flood.unknown", "nothing of carrier %s and that hour waits", carrier)
	}
	leaf := Leaf{Kind: "flood", At: l.o.Clock.Now(), Client: client, Name: carrier, Operation: decisionName(undo), Count: uint64(cards), Reasons: []string{begin.UTC().Format(time.RFC3339)}}
	crashpoint.Here("ledger.flood.before-commit")
	rows, err := l.executed(ctx, x, &leaf, []Row{{Table: TableFloods, Key: key, Value: encode(FloodDecision{Undo: undo, Through: through, Client: client, At: leaf.At})}})
	if err != nil {
		return 0, err
	}
	out, err := l.commit(ctx, leaf, rows, true, nil)
	if err != nil {
		return 0, err
	}
	if out.Conflict != nil {
		return 0, refuse("flood.deciding", "a decision on these cards is being carried out")
	}
	crashpoint.Here("ledger.flood.after-commit")
	l.floods.decide()
	return cards, nil
}

// decide has decisions carried out.
func (f *floods) decide() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// living is for what works beside requests, and ends with the ledger.
func (l *Ledger) living() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends with the ledger, whose stop it passes on
		<-l.stop
		cancel()
	}()
	return ctx, cancel
}

// decider carries decisions out. It ends with the ledger.
func (l *Ledger) decider() {
	ctx, cancel := l.living()
	defer cancel()
	var again <-chan time.Time
	for {
		select {
		case <-l.stop:
			return
		case <-l.floods.wake:
		case <-again:
		}
		again = nil
		if l.carryOutFloods(ctx) != nil {
			again = time.After(time.Second)
		}
	}
}

// carryOutFloods carries out what was decided. One decision that can't be carried out, since a card of it fails, holds up none of the others: each is about
// cards of its own.
func (l *Ledger) carryOutFloods(ctx context.Context) error {
	var failed failures
	err := scan(ctx, l.store, TableFloods, nil, func(e Entry) error {
		if l.fenced.Load() != nil || failed.hopeless() {
			return failed.err()
		}
		failed.add(l.carryOutFlood(ctx, e))
		return ctx.Err()
	})
	if ctx.Err() != nil || l.dead.Load() {
		return nil
	}
	err = cmp.Or(failed.err(), err)
	if n, news := l.faults.News("floods", err); news {
		l.o.Log.Error("carrying out a decision on held cards; it goes on in a second", "error", err, "suppressed", n)
	}
	return err
}

// usedBefore is what the first window of a charge holds without it.
func (l *Ledger) usedBefore(t *charge) uint64 {
	if t == nil {
		return 0
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.budgets.used[string(t.rows[0].Key)]
}

const floodAtOnce = 32 // cards that are decided on together share a commit

// carryOutFlood carries out one decision.
func (l *Ledger) carryOutFlood(ctx context.Context, decision Entry) error {
	d, err := decode[FloodDecision](TableFloods, decision.Value)
	if err != nil {
		return err
	}
	var failed failures
	var wg sync.WaitGroup
	places := make(chan struct{}, floodAtOnce)
	err = scan(ctx, l.store, TableHeld, decision.Key, func(e Entry) error {
		r, err := decode[HeldRecord](TableHeld, e.Value)
		if err != nil {
			failed.add(err)
			return nil
		}
		if !r.of(d, e.Revision) {
			return nil
		}
		if failed.hopeless() {
			return failed.err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case places <- struct{}{}:
		}
		wg.Go(func() {
			defer func() { <-places }()
			failed.add(l.decideCard(ctx, e.Key, r.Line, d))
		})
		return nil
	})
	wg.Wait()
	if err = cmp.Or(failed.err(), err); err != nil {
		return err
	}
	crashpoint.Here("ledger.flood.carried-out")
	carrier, _, _, err := splitFlood(decision.Key)
	if err != nil {
		return err
	}
	_, err = l.commit(ctx, Leaf{Kind: "flood-done", At: l.o.Clock.Now(), Client: d.Client, Name: carrier, Operation: decisionName(d.Undo)},
		[]Row{{Table: TableFloods, Key: decision.Key, If: If(decision.Revision)}}, false, nil)
	return err
}

// decideCard confirms or undoes what is held of one card. What was decided or overtaken meanwhile changes nothing.
func (l *Ledger) decideCard(ctx context.Context, held, tag []byte, d *FloodDecision) error {
	_, _, key, err := splitFlood(held)
	if err != nil {
		return err
	}
	secrets, err := l.unlocked()
	if err != nil {
		return err
	}
	for {
		again, err := l.decideCardOnce(ctx, secrets, held, key, tag, d)
		if err != nil || !again {
			return err
		}
	}
}

// lifted are the locks that a phone had for its line's reports and that somebody who may has unlocked since. Until the line is reported again,
// which is none of a decision, they are not to come back.
func (l *Ledger) lifted(ctx context.Context, key, line []byte, s state.State) ([]policy.Lock, error) {
	link, _, err := get[LinkRecord](ctx, l, TableLinks, key)
	if err != nil || link == nil || !bytes.Equal(link.Line, line) {
		return nil, err
	}
	return slices.DeleteFunc(link.Held, func(lock policy.Lock) bool { return slices.Contains(s.Locks, lock) }), nil
}

// own is what a phone's line asked for when it was still its owner's, as far as it is there: without what is held, if that is undone. What is reported of the
// line since is about somebody else's phone.
func (l *Ledger) own(ctx context.Context, key []byte, s state.State, undo bool) (line state.Line, err error) {
	link, _, err := get[LinkRecord](ctx, l, TableLinks, key)
	if err != nil || link == nil {
		return line, err
	}
	for _, lock := range link.Held {
		switch r := (&state.Report{Sort: state.LineLost, At: link.Since, Lock: lock}); {
		case !slices.Contains(s.Locks, lock) || undo && slices.Contains(s.Held, lock):
		case line.Loss == nil:
			line.Loss = r
		default: // a loss and a change of the line: there are no more
			r.Sort, line.Void = state.LineVoid, r
		}
	}
	return line, nil
}

func (l *Ledger) decideCardOnce(ctx context.Context, secrets *Secrets, held, key, tag []byte, d *FloodDecision) (again bool, err error) {
	defer l.slots.lock("\x00line" + string(tag))()
	defer l.slots.lock(string(key))()
	r, heldRev, err := get[HeldRecord](ctx, l, TableHeld, held)
	if err != nil || r == nil || !bytes.Equal(r.Line, tag) || !r.of(d, heldRev) { // found, or replaced
		return false, err
	}
	line, rev, err := get[LineRecord](ctx, l, TableLines, tag)
	if err != nil {
		return false, err
	}
	leaf := Leaf{Kind: "flood-card", At: l.o.Clock.Now(), Client: d.Client, Operation: decisionName(d.Undo), Effect: "none"}
	var rows []Row
	var done followed
	if line != nil {
		s, _, err := l.slot(ctx, key)
		if err != nil {
			return false, err
		}
		lifted, err := l.lifted(ctx, key, tag, s)
		if err != nil {
			return false, err
		}
		_, owner, err := split(TableSlots, key, len(policy.Pseudonym{}))
		if err != nil {
			return false, err
		}
		subject := policy.Pseudonym(owner)
		how := state.Release
		if d.Undo {
			how = state.Keep
			for _, lock := range slices.Concat(s.Held, lifted) {
				line.Line = line.Line.Undo(lock)
			}
			if line.Subject == subject { // else it is somebody else's by now, whose reports were none of this flood
				rows = append(rows, Row{Table: TableLines, Key: tag, Value: encode(line), If: If(rev)})
			}
		}
		standing := *line
		for _, lock := range lifted {
			standing.Line = standing.Line.Undo(lock)
		}
		if line.Subject != subject {
			if standing.Line, err = l.own(ctx, key, s, d.Undo); err != nil {
				return false, err
			}
		}
		if done, err = l.follow(ctx, key, tag, &standing, l.notAhead(), how, nil); err != nil {
			return false, err
		}
		rows = append(rows, done.rows...)
		if done.changed {
			leaf.Effect = "apply"
		}
		var salt [16]byte
		if leaf.Subject, salt, err = l.commitment(secrets, subject); err != nil {
			return false, err
		}
		rows = append(rows, Row{Table: TableCommitments, Key: leaf.Subject, Value: salt[:]})
	}
	if !bytes.Equal(done.gone, held) {
		rows = append(rows, Row{Table: TableHeld, Key: held, If: If(heldRev)})
	}
	status, _, shown, err := l.statusRows(done.changes)
	if err != nil {
		return false, err
	}
	out, err := l.commit(ctx, leaf, append(rows, status...), false, func(seq uint64) {
		shown(seq)
		done.count(&l.floods)
		if !bytes.Equal(done.gone, held) {
			l.floods.add(held, -1)
		}
	})
	if err != nil {
		return false, err
	}
	if out.Conflict != nil {
		return true, nil
	}
	if len(done.changes) > 0 {
		l.wake()
	}
	return false, nil
}
