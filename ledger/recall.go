package ledger

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// IdempotencyKey is the caller's secret name for a request: at least 128 random bits. Never logged, never stored.
type IdempotencyKey string

// String keeps the key out of logs.
func (IdempotencyKey) String() string { return "(idempotency key)" }

// GoString keeps the key out of logs.
func (IdempotencyKey) GoString() string { return "(idempotency key)" }

const (
	infoSeed   = "sealkeeper/v1/seed"
	infoAnswer = "sealkeeper/v1/answer"
)

// Seed is what a request's salts and digest ids are derived from: HKDF(salt key ‖ caller's key, row salt). A retry gets the same seed.
// It is zero while the ledger has no secrets; nothing can be reserved then.
func (l *Ledger) Seed(k IdempotencyKey, rowSalt [32]byte) (seed [32]byte) {
	if s := l.secrets.Load(); s != nil {
		copy(seed[:], derive(append(bytes.Clone(s.Salt[:]), k...), rowSalt, infoSeed))
	}
	return seed
}

func derive(key []byte, salt [32]byte, info string) []byte {
	b, err := hkdf.Key(sha256.New, key, salt[:], info, 32)
	if err != nil {
		panic(err) // only for lengths that don't fit
	}
	return b
}

// lookup is the only trace of a caller's key: it finds the row, and opens nothing.
func lookup(s *Secrets, client string, k IdempotencyKey) []byte {
	sum := s.lookup.Sum(append(append(append(make([]byte, 0, 128), client...), 0), k...))
	return sum[:]
}

// sealer is AES-256-GCM under a key that only the caller can make, bound to client, request and reservation.
func (r *RequestRecord) sealer(k IdempotencyKey) (cipher.AEAD, []byte, error) {
	block, err := aes.NewCipher(derive([]byte(k), r.RowSalt, infoAnswer))
	if err != nil {
		return nil, nil, err
	}
	gcm, err := cipher.NewGCM(block)
	aad := append(append([]byte(r.Client), 0), r.Request[:]...)
	return gcm, append(aad, r.Reservation...), err
}

// seal is the request's row with the answer in it, which is sealed to where it stays.
func (l *Ledger) seal(r *RequestRecord, k IdempotencyKey, answer []byte) (row []byte, err error) {
	gcm, aad, err := r.sealer(k)
	if err != nil {
		return nil, err
	}
	nonce, err := draw[[12]byte](l.random)
	if err != nil {
		return nil, err
	}
	bare := *r
	bare.Sealed = nil
	row = slices.Grow(encode(&bare), 1+len(nonce)+len(answer)+gcm.Overhead())
	return gcm.Seal(append(append(row, 0), nonce[:]...), nonce[:], answer, aad), nil
}

func (r *RequestRecord) unseal(k IdempotencyKey) ([]byte, error) {
	gcm, aad, err := r.sealer(k)
	if err != nil {
		return nil, err
	}
	if len(r.Sealed) < gcm.NonceSize() {
		return nil, errors.New("there is no sealed answer")
	}
	answer, err := gcm.Open(nil, r.Sealed[:gcm.NonceSize()], r.Sealed[gcm.NonceSize():], aad)
	if err != nil {
		return nil, fmt.Errorf("opening the answer of reservation %s: %w", r.Reservation, err)
	}
	return answer, nil
}

// Recall looks a request up before its evidence is looked at: a retry must not meet its own burnt nonce. A known key with another
// request hash is refused with idempotency.mismatch.
func (l *Ledger) Recall(ctx context.Context, client string, k IdempotencyKey, request [32]byte) (Recall, error) {
	return l.recall(ctx, client, k, request, nil)
}

// RecallOf is Recall for a request about a subject. It reads the subject in the same go, because that is where a new request looks next.
func (l *Ledger) RecallOf(ctx context.Context, client string, k IdempotencyKey, request [32]byte, documentType string, p policy.Pseudonym) (Recall, error) {
	return l.recall(ctx, client, k, request, slotKey(documentType, p))
}

func (l *Ledger) recall(ctx context.Context, client string, k IdempotencyKey, request [32]byte, slot []byte) (Recall, error) {
	if l.dead.Load() {
		return Recall{}, ErrStopped
	}
	secrets, err := l.unlocked()
	if err != nil {
		return Recall{}, err
	}
	key := lookup(secrets, client, k)
	for {
		row, rev, err := l.requestAnd(ctx, key, slot)
		if err != nil || row == nil {
			return Recall{}, err
		}
		if row.Request != request {
			return Recall{}, refuse("idempotency.mismatch", "this key was used for another request: a new request needs a new key")
		}
		if len(row.Sealed) > 0 {
			answer, err := row.unseal(k)
			return Recall{Answer: answer, Done: err == nil}, err
		}
		rec, resRev, err := get[ReservationRecord](ctx, l, TableReservations, []byte(row.Reservation))
		if err != nil {
			return Recall{}, err
		}
		if rec == nil {
			return Recall{}, fmt.Errorf("reservation %s is missing", row.Reservation)
		}
		if rec.Progress != InProgress {
			if _, now, err := get[RequestRecord](ctx, l, TableRequests, key); err != nil || now == rev {
				return Recall{}, errors.Join(err, fmt.Errorf("reservation %s is %s and its request is not", rec.ID, rec.Progress))
			}
			continue // settled between the two reads
		}
		return Recall{Pending: &Pending{ledger: l, record: *rec, revision: resRev, request: *row}}, nil
	}
}

// requestAnd reads a request, and a slot for whoever asks for it next; nil: none.
func (l *Ledger) requestAnd(ctx context.Context, key, slot []byte) (row *RequestRecord, rev uint64, err error) {
	two, ok := l.store.(twoReader)
	if _, known := l.recent.get(slot); slot == nil || known || !ok {
		return get[RequestRecord](ctx, l, TableRequests, key)
	}
	seen := l.recent.moment()
	request, subject, err := two.getTwo(key, slot)
	if err != nil {
		return nil, 0, l.readFailed(err)
	}
	found := recentSlot{}
	if subject.Revision != 0 {
		r, err := decode[SlotRecord](TableSlots, subject.Value)
		if err != nil {
			return nil, 0, err
		}
		found = recentSlot{r.State, If(subject.Revision)}
	}
	l.recent.found(slot, found, seen)
	if request.Revision != 0 {
		row, err = decode[RequestRecord](TableRequests, request.Value)
	}
	return row, request.Revision, err
}

// Recall is what is known of a request: nothing (fresh), a reservation without an answer (pending), or the answer.
type Recall struct {
	Pending *Pending
	Answer  []byte // opened with the caller's key
	Done    bool
}

// Pending is a reservation that was made for this very request and not yet settled.
type Pending struct {
	ledger   *Ledger
	record   ReservationRecord
	revision uint64
	request  RequestRecord
}

// At is the instant of the reserved decision; evidence and policy are judged as of then.
func (p *Pending) At() time.Time { return p.record.At }

// RowSalt gives the same Seed again.
func (p *Pending) RowSalt() [32]byte { return p.request.RowSalt }

// Tickets are the reserved indices, in the order of the drafts; they can only be used to rebuild drafts for Resume.
func (p *Pending) Tickets() []*Ticket {
	tickets := make([]*Ticket, len(p.record.Items))
	for i, it := range p.record.Items {
		tickets[i] = &Ticket{ledger: p.ledger, list: it.List, uri: p.ledger.uri(it.List), index: it.Index, format: it.Format, kind: p.record.DocumentType, pending: p}
		tickets[i].fresh.Store(true)
	}
	return tickets
}

// Keys are the registry ids of the reserved signing keys, in the order of the drafts.
func (p *Pending) Keys() []string {
	ids := make([]string, len(p.record.Items))
	for i, it := range p.record.Items {
		ids[i] = it.KeyID
	}
	return ids
}

// Policy is the hash of the bundle that the reservation was decided by.
func (p *Pending) Policy() policy.Hash { return p.record.Policy }

// Before is the subject's state that the reserved decision had judged.
func (p *Pending) Before() policy.Slot { return p.record.Before }

// belongs compares a pending reservation with the approval and the call that want to go on with it.
func (p *Pending) belongs(l *Ledger, a *policy.Approval, c *Call) error {
	if p == nil || p.ledger != l {
		return refuse("reservation.foreign", "there is no pending reservation of this ledger")
	}
	if !a.Valid() || a.Kind() != policy.KindIssue {
		return refuse("approval.kind", "credentials need an approved issue")
	}
	secrets, err := l.unlocked()
	if err != nil {
		return err
	}
	issue, _ := a.Issue()
	switch {
	case a.Client() != p.record.Client || issue.DocumentType != p.record.DocumentType || issue.Subject != p.record.Subject:
		return refuse("reservation.foreign", "reservation %s was made for another client, subject or document type", p.record.ID)
	case c == nil || c.Request != p.request.Request || !hmac.Equal(lookup(secrets, a.Client(), c.Key), p.record.Request):
		return refuse("idempotency.mismatch", "reservation %s was made for another request", p.record.ID)
	}
	return nil
}

// waits says whether a reservation's credentials still wait for their signature, unrevoked and unlocked.
func (p *Pending) waits(s state.State) error {
	rec := p.record
	ok := s.Device != nil && s.Device.ID == rec.Device
	for _, it := range rec.Items {
		i := slices.IndexFunc(s.Credentials, func(c state.Credential) bool {
			return c.Reservation == rec.ID && c.List == it.List && c.Index == it.Index
		})
		ok = ok && i >= 0 && s.Credentials[i].Phase == state.Reserved && s.Status(s.Credentials[i]) == state.Valid
	}
	if !ok {
		return refuse("reservation.superseded", "the device of reservation %s was replaced, locked or revoked before its answer was ready", rec.ID)
	}
	return nil
}

// Resume hands out the reservation again if the rebuilt drafts have the reserved hashes and keys and nothing superseded it. Otherwise
// ErrRebuild: call ReserveAgain. Every resume journals new attempts.
func (l *Ledger) Resume(ctx context.Context, p *Pending, a *policy.Approval, d []Draft, c *Call) (*Reservation, error) {
	if err := l.ready(); err != nil {
		return nil, err
	}
	if err := p.belongs(l, a, c); err != nil {
		return nil, err
	}
	if err := l.Halted(); err != nil {
		return nil, err
	}
	l.custody.RLock()
	defer l.custody.RUnlock()
	key := slotKey(p.record.DocumentType, p.record.Subject)
	defer l.slots.lock(string(key))()
	rec, _, err := get[ReservationRecord](ctx, l, TableReservations, []byte(p.record.ID))
	if err != nil {
		return nil, err
	}
	if rec == nil || rec.Progress != InProgress {
		return nil, ErrConflict // somebody else went on with it: recall again
	}
	s, _, err := l.slot(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := l.withheld(ctx, rec, s); err != nil {
		return nil, err
	}
	if err := p.waits(s); err != nil {
		return nil, err
	}
	if len(d) != len(rec.Items) {
		return nil, ErrRebuild
	}
	items := make([]int, len(d))
	for i, it := range rec.Items {
		t := d[i].Ticket
		if t == nil || t.pending != p || t.list != it.List || t.index != it.Index || d[i].KeyID != it.KeyID || d[i].Purpose != it.Purpose || d[i].TBSHash != it.TBSHash {
			return nil, ErrRebuild
		}
		if !a.Allows(d[i].Purpose) {
			return nil, refuse("draft.purpose", "purpose %q was not approved", d[i].Purpose)
		}
		if k, _ := l.key(it.KeyID); !l.Finishes(k) { // what was reserved before its hand-over is finished
			return nil, fmt.Errorf("%w: key %s is %s", ErrRebuild, it.KeyID, k.State)
		}
		items[i] = i
	}
	r := l.reservation(*rec, p.revision-1, c, nil, make([][]try, len(items)))
	crashpoint.Here("ledger.resume.before-commit")
	if err := l.attempt(ctx, r, items, "", "resume"); err != nil {
		return nil, err
	}
	crashpoint.Here("ledger.resume.after-commit")
	return r, nil
}

// ErrRebuild: the reserved bytes can't be made again (the key was stopped, the policy or a certificate changed).
var ErrRebuild = errors.New("the reserved bytes can't be rebuilt")

// ReserveAgain replaces a reservation that can't be rebuilt, for the same subject and device: new tickets, the old indices burnt, no
// second revocation. The nonce and the evidence stay burnt by the first reservation. The approval is of when that was made; what is signed now, a trusted
// instant, is of the key's present hour.
func (l *Ledger) ReserveAgain(ctx context.Context, p *Pending, a *policy.Approval, d []Draft, c *Call, now time.Time) (_ *Reservation, err error) {
	if err := l.ready(); err != nil {
		return nil, err
	}
	if err := l.Halted(); err != nil {
		return nil, err
	}
	if err := p.belongs(l, a, c); err != nil {
		return nil, err
	}
	l.custody.RLock()
	defer l.custody.RUnlock()
	n, err := l.prepareIssue(a, d, c, now)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && !errors.Is(err, ErrStopped) {
			n.release()
		}
	}()
	key := slotKey(p.record.DocumentType, p.record.Subject)
	defer l.slots.lock(string(key))()
	request, requestRev, err := get[RequestRecord](ctx, l, TableRequests, p.record.Request)
	if err != nil {
		return nil, err
	}
	old, oldRev, err := get[ReservationRecord](ctx, l, TableReservations, []byte(p.record.ID))
	if err != nil {
		return nil, err
	}
	if old == nil || old.Progress != InProgress || request == nil || request.Reservation != old.ID {
		return nil, ErrConflict
	}
	before, rev, err := l.slot(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := l.withheld(ctx, &n.record, before); err != nil {
		return nil, err
	}
	if err := p.waits(before); err != nil {
		return nil, err
	}
	next, changes, err := before.Apply(state.Event{At: a.At(), Again: &state.Again{Old: old.ID, Credentials: n.credentials}})
	if err != nil {
		return nil, refuseState(err)
	}
	status, _, applied, err := l.statusRows(changes)
	if err != nil {
		return nil, err
	}
	rec := &n.record
	rec.Device, rec.Before, rec.Superseded, rec.Replaces = old.Device, old.Before, old.Superseded, old.ID
	old.Progress, old.Seq = Replaced, oldRev-1
	request.Reservation, request.RowSalt = rec.ID, c.RowSalt
	leaf := n.leaf
	leaf.Kind, leaf.Replaces = "reserve-again", old.ID
	rows := []Row{
		{Table: TableRequests, Key: rec.Request, Value: encode(request), If: If(requestRev)},
		{Table: TableSlots, Key: key, Value: encode(SlotRecord{DocumentType: rec.DocumentType, Subject: rec.Subject, State: next}), If: rev},
		{Table: TableReservations, Key: []byte(old.ID), Value: encode(old), If: If(oldRev)},
		{Table: TableReservations, Key: []byte(rec.ID), Value: encode(rec)},
	}
	rows = append(append(rows, n.rows...), status...)
	if rows, err = l.allowed(n.secrets, rec.ID, n.issue.Operation, rec.DocumentType, a, &leaf, rows); err != nil {
		return nil, err
	}
	crashpoint.Here("ledger.reserve-again.before-commit")
	out, err := l.commit(ctx, leaf, rows, urgent(a.Lane()), func(seq uint64) {
		applied(seq)
		n.horizons()
	})
	if err != nil {
		return nil, err
	}
	if out.Conflict != nil {
		return nil, conflict(out.Conflict)
	}
	crashpoint.Here("ledger.reserve-again.after-commit")
	if len(changes) > 0 {
		l.wake()
	}
	return l.reservation(*rec, out.Seq, c, nil, n.tries), nil
}
