package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// Draft is one signature that is wanted: what Reserve makes durable before any HSM is asked.
type Draft struct {
	Ticket   *Ticket // credentials only
	KeyID    string
	Purpose  policy.Purpose
	TBSHash  [32]byte // SHA-256 of the exact TBS
	NotAfter time.Time
	KeyIndex int // credentials: which of the approval's keys it is bound to
}

// Call identifies the request for retries; nil for the appliance's own signatures.
type Call struct {
	Key     IdempotencyKey
	Request [32]byte
	RowSalt [32]byte // fresh random from the conductor, or Pending.RowSalt
}

// Progress of a Reservation value; the zero value is spent.
const (
	spent int32 = iota
	fresh
	claimed
)

// Reservation is the only way to a signature. Claim and Settle work once each; the zero value is spent.
type Reservation struct {
	ledger *Ledger
	record ReservationRecord
	seq    uint64
	call   *Call  // nil for the appliance's own signatures; its key is never stored
	image  []byte // lists: what is being signed
	state  atomic.Int32
	wrote  *wrote // rows as this value committed them; nil: they have to be read

	mu    sync.Mutex
	tries [][]try // of each item, by this value: others may try the same reservation
}

// try is one attempt of this Reservation value.
type try struct {
	n      int
	record AttemptRecord
}

// wrote is what Reserve committed as op seq. Settling starts from it instead of reading it back: hardly ever does anybody write these rows in
// between, and then their revision makes the commit say so.
type wrote struct{ request RequestRecord }

// Item is one signature of a reservation.
type Item struct {
	KeyID   string
	Purpose policy.Purpose
	TBSHash [32]byte
}

// ID names the reservation in journal, attempts and logs.
func (r *Reservation) ID() string { return r.record.ID }

// Seq is the reservation's journal sequence number.
func (r *Reservation) Seq() uint64 { return r.seq }

// Items to be signed, in the order of the drafts.
func (r *Reservation) Items() []Item {
	items := make([]Item, len(r.record.Items))
	for i, it := range r.record.Items {
		items[i] = Item{KeyID: it.KeyID, Purpose: it.Purpose, TBSHash: it.TBSHash}
	}
	return items
}

// Lane of the approval.
func (r *Reservation) Lane() policy.Lane { return r.record.Lane }

// Superseded lists the lists in which Reserve revoked the replaced device's credentials; empty if nothing was replaced.
func (r *Reservation) Superseded() []string { return slices.Clone(r.record.Superseded) }

// Device is the id of the device that the reservation bound or refreshed; empty for the appliance's own signatures.
func (r *Reservation) Device() string { return r.record.Device }

// Claim spends the right to sign: it returns an error for nil, zero and used reservations, for those of another ledger, and if the
// hashes of tbs are not the reserved ones, in order. Only the signer calls it.
func (r *Reservation) Claim(l *Ledger, tbs [][]byte) error {
	if r == nil || l == nil || r.ledger == nil {
		return refuse("reservation.spent", "there is no reservation")
	}
	if r.ledger != l {
		return refuse("reservation.foreign", "the reservation %s belongs to another ledger", r.record.ID)
	}
	if err := l.ready(); err != nil {
		return err
	}
	if len(tbs) != len(r.record.Items) {
		return refuse("reservation.mismatch", "reservation %s has %d items, not %d", r.record.ID, len(r.record.Items), len(tbs))
	}
	for i, b := range tbs {
		if sha256.Sum256(b) != r.record.Items[i].TBSHash {
			return refuse("reservation.mismatch", "item %d of reservation %s was reserved for other bytes", i, r.record.ID)
		}
	}
	if !r.state.CompareAndSwap(fresh, claimed) {
		return refuse("reservation.spent", "reservation %s was used before", r.record.ID)
	}
	return nil
}

// Claimed reports whether r is one of l's and was claimed and not settled; release checks it.
func (r *Reservation) Claimed(l *Ledger) bool {
	return r != nil && l != nil && r.ledger == l && r.state.Load() == claimed
}

// Reserve is the one durable write before the HSM. In one transaction it compares the approval's conditions, advances the subject's
// epoch, burns nonces and evidence ids, charges budgets, latches a phase, revokes what is superseded, journals {TBS hash, key, policy hash,
// client} with the first attempt, and appends the leaf with its Merkle hashes. Errors: ErrConflict, *Refusal, ErrStopped.
func (l *Ledger) Reserve(ctx context.Context, a *policy.Approval, d []Draft, c *Call) (*Reservation, error) {
	if err := l.ready(); err != nil {
		return nil, err
	}
	if !a.Valid() {
		return nil, refuse("approval.missing", "nothing was approved")
	}
	l.custody.RLock()
	defer l.custody.RUnlock()
	if a.Kind() == policy.KindIssue {
		if err := l.Halted(); err != nil {
			return nil, err
		}
		return l.reserveIssue(ctx, a, d, c)
	}
	return l.reserveOwn(ctx, a, d, c)
}

// KeyInactive refuses a draft for a key that does not sign (any more): draft again with the one that does.
const KeyInactive = "key.inactive"

// checkDraft compares what is true of every draft: an allowed purpose, and an active key made for it, whose certificate nobody revoked.
func (l *Ledger) checkDraft(a *policy.Approval, d Draft) (Key, error) {
	if d.TBSHash == ([32]byte{}) {
		return Key{}, refuse("draft.hash", "a draft has no hash")
	}
	if !a.Allows(d.Purpose) {
		return Key{}, refuse("draft.purpose", "purpose %q was not approved", d.Purpose)
	}
	k, ok := l.key(d.KeyID)
	switch {
	case !ok:
		return k, refuse("key.unknown", "key %q is not in the registry", d.KeyID)
	case k.Purpose != d.Purpose:
		return k, refuse("key.purpose", "key %q is for %s, not for %s", k.ID, k.Purpose, d.Purpose)
	case k.State == KeyActive:
		if _, withdrawn := l.Withdrawn(k.ID); withdrawn {
			return k, refuse(KeyInactive, "the certificate of key %q is revoked", k.ID)
		}
		return k, nil
	}
	if a.Kind() == policy.KindCRL && k.Finishes(l.o.Clock.Now()) {
		return k, nil
	}
	// A root that was just generated signs one thing: itself.
	if c, ok := a.Cert(); ok && k.State == KeyGenerated && c.IssuerKey == k.ID && bytes.Equal(c.SPKI, k.SPKI) {
		return k, nil
	}
	return k, refuse(KeyInactive, "key %q is %s", k.ID, k.State)
}

// record begins the record of a reservation.
func (l *Ledger) record(a *policy.Approval) (ReservationRecord, error) {
	id, err := l.reservationName(a.At())
	d := a.Decision()
	return ReservationRecord{ID: id, Kind: a.Kind(), Progress: InProgress, Client: a.Client(), At: a.At(), Policy: d.Policy, PolicyVersion: d.Version,
		Identity: d.Identity, Lane: a.Lane()}, err
}

// FirstTry is what a reservation says of the first attempt at its item, unless that has a row of its own.
func (r *ReservationRecord) FirstTry(item int) AttemptRecord {
	t := AttemptRecord{Worker: r.Items[item].Worker, At: r.At, State: TrySent}
	if t.Worker != "" {
		t.State = TrySettled
	}
	return t
}

// firstAttempts are the attempts that are part of a reservation.
func firstAttempts(r *ReservationRecord) (tries [][]try, items []LeafItem) {
	for i, it := range r.Items {
		tries = append(tries, []try{{n: 0, record: r.FirstTry(i)}})
		items = append(items, LeafItem{Item: i, Key: it.KeyID, Purpose: it.Purpose, TBS: bytes.Clone(it.TBSHash[:])})
	}
	return tries, items
}

// reservation is made of what was committed; only now its attempts count.
func (l *Ledger) reservation(rec ReservationRecord, seq uint64, c *Call, image []byte, tries [][]try) *Reservation {
	r := &Reservation{ledger: l, record: rec, seq: seq, image: image, tries: tries}
	if c != nil {
		own := *c
		r.call = &own
	}
	for i, t := range tries {
		if len(t) > 0 {
			l.o.Metrics.Attempts.WithLabelValues(rec.Items[i].KeyID, string(rec.Items[i].Purpose)).Inc()
		}
	}
	r.state.Store(fresh)
	return r
}

// ---- credentials

// issuing is what is common to reserving credentials the first time and again: checked drafts with spent tickets.
type issuing struct {
	secrets     *Secrets
	issue       policy.Issue
	record      ReservationRecord
	credentials []state.Credential
	rows        []Row
	horizons    func() // l.mu is held
	tries       [][]try
	leaf        Leaf
	release     func() // gives the tickets back: nothing was committed
}

func (l *Ledger) prepareIssue(a *policy.Approval, d []Draft, c *Call, now time.Time) (_ *issuing, err error) {
	secrets, err := l.unlocked()
	if err != nil {
		return nil, err
	}
	issue, ok := a.Issue()
	if !ok {
		return nil, refuse("approval.kind", "credentials need an approved issue")
	}
	if c == nil || c.Key == "" || c.Request == ([32]byte{}) || c.RowSalt == ([32]byte{}) {
		return nil, refuse("call.missing", "credentials are only reserved for a request that can be repeated")
	}
	if len(d) != len(issue.Keys)*len(issue.Formats) || len(d) == 0 {
		return nil, refuse("draft.count", "%d keys in %d formats were approved, %d drafts came", len(issue.Keys), len(issue.Formats), len(d))
	}
	rec, err := l.record(a)
	if err != nil {
		return nil, err
	}
	rec.DocumentType, rec.Subject, rec.Request = issue.DocumentType, issue.Subject, lookup(secrets, a.Client(), c.Key)
	p := &issuing{secrets: secrets, issue: issue, leaf: decided("reserve", a)}
	var taken []*Ticket
	release := func() {
		for _, t := range taken {
			t.fresh.Store(true)
		}
	}
	p.release = release
	defer func() {
		if err != nil {
			release()
		}
	}()
	type copyOf struct {
		format policy.Format
		key    int
	}
	wanted := map[copyOf]bool{}
	horizons := map[string]time.Time{}
	for i, d := range d {
		k, err := l.checkDraft(a, d)
		if err == nil {
			err = l.takeUse(context.Background(), k, 1, now)
		}
		if err != nil {
			return nil, err
		}
		t := d.Ticket
		switch {
		case !t.valid():
			return nil, refuse("ticket.spent", "draft %d has no unused status index", i)
		case t.ledger != l:
			return nil, refuse("ticket.foreign", "draft %d has a status index of another ledger", i)
		case t.pending != nil:
			return nil, refuse("ticket.spent", "draft %d has a status index that is reserved already", i)
		case t.kind != issue.DocumentType || purposeOf[t.format] != d.Purpose || !slices.Contains(issue.Formats, t.format):
			return nil, refuse("ticket.format", "draft %d is for %s and its status index for %s of %s", i, d.Purpose, t.format, t.kind)
		case d.KeyIndex < 0 || d.KeyIndex >= len(issue.Keys) || wanted[copyOf{t.format, d.KeyIndex}]:
			return nil, refuse("draft.count", "draft %d: key %d has a copy in %s already, or is none of the approved ones", i, d.KeyIndex, t.format)
		case !d.NotAfter.After(a.At()):
			return nil, refuse("draft.expired", "draft %d is not valid after the decision", i)
		case !t.fresh.CompareAndSwap(true, false):
			return nil, refuse("ticket.spent", "draft %d has no unused status index", i)
		}
		taken = append(taken, t)
		wanted[copyOf{t.format, d.KeyIndex}] = true
		thumb := issue.Keys[d.KeyIndex].Thumbprint
		rec.Items = append(rec.Items, ItemRecord{KeyID: d.KeyID, Purpose: d.Purpose, TBSHash: d.TBSHash, Format: t.format, List: t.list, Index: t.index, Key: thumb, NotAfter: d.NotAfter})
		p.credentials = append(p.credentials, state.Credential{Reservation: rec.ID, Format: t.format, List: t.list, Index: t.index, Key: thumb,
			Made: a.At(), NotAfter: d.NotAfter, Phase: state.Reserved})
		p.rows = append(p.rows, Row{Table: TableIndices, Key: indexKey(t.list, t.counter),
			Value: encode(IndexRecord{t.index, CredentialRecord{Reservation: rec.ID, Item: i, Format: t.format, NotAfter: d.NotAfter}})})
		if d.NotAfter.After(horizons[t.list]) {
			horizons[t.list] = d.NotAfter
		}
	}
	for list, until := range horizons {
		p.rows = append(p.rows, l.horizonRows(list, until)...)
	}
	p.horizons = func() {
		for list, until := range horizons {
			l.horizon(list, until)
		}
	}
	commitment, salt, err := l.commitment(secrets, issue.Subject)
	if err != nil {
		return nil, err
	}
	rec.Salt = salt
	tries, items := firstAttempts(&rec)
	p.tries, p.record = tries, rec
	p.leaf.Subject, p.leaf.Reservation, p.leaf.Items, p.leaf.Operation = commitment, rec.ID, items, string(issue.Operation)
	return p, nil
}

var purposeOf = map[policy.Format]policy.Purpose{policy.MDoc: policy.PurposeMDoc, policy.SDJWT: policy.PurposeSDJWT}

func (l *Ledger) reserveIssue(ctx context.Context, a *policy.Approval, d []Draft, c *Call) (_ *Reservation, err error) {
	p, err := l.prepareIssue(a, d, c, a.At())
	if err != nil {
		return nil, err
	}
	defer func() {
		// Only if it is sure that nothing was committed are the indices still unused.
		if err != nil && !errors.Is(err, ErrStopped) {
			p.release()
		}
	}()
	rec := &p.record
	key := slotKey(rec.DocumentType, rec.Subject)
	defer l.slots.lock(string(key))()
	before, rev, err := l.slot(ctx, key)
	if err != nil {
		return nil, err
	}
	if before.Epoch != a.Conditions().Epoch {
		return nil, ErrConflict
	}
	if err := l.withheld(ctx, rec, before); err != nil {
		return nil, err
	}
	rec.Before = before.Slot(a.At())
	e := state.Issue{Refresh: p.issue.Operation == policy.OpRefresh, Replace: p.issue.Replace, Credentials: p.credentials}
	for _, k := range p.issue.Keys {
		e.Keys = append(e.Keys, k.Thumbprint)
	}
	if e.Refresh {
		if before.Device == nil {
			return nil, refuseState(state.ErrUnbound)
		}
		e.Device = before.Device.ID
	} else if e.Device, err = l.name(); err != nil {
		return nil, err
	}
	rec.Device = e.Device
	next, changes, err := before.Apply(state.Event{At: a.At(), Issue: &e})
	if err != nil {
		return nil, refuseState(err)
	}
	linked, delivered, err := l.link(ctx, p.secrets, p.issue, key, rev, next.Device.ID)
	if err != nil {
		return nil, err
	}
	status, lists, applied, err := l.statusRows(changes)
	if err != nil {
		return nil, err
	}
	rec.Superseded = lists
	taken, err := l.charge(p.secrets, a, &p.leaf)
	if err != nil {
		return nil, err
	}
	defer taken.end()
	request := RequestRecord{Client: a.Client(), Request: c.Request, RowSalt: c.RowSalt, Reservation: rec.ID, At: a.At()}
	if p.issue.AckWithin > 0 {
		request.AckBy = a.At().Add(p.issue.AckWithin)
	}
	// The order of the rows is the order in which a conflict is noticed. The request first: a retry that comes while its first try is being
	// committed must learn that, not that its nonce is burnt.
	rows := []Row{
		{Table: TableRequests, Key: rec.Request, Value: encode(request)},
		{Table: TableSlots, Key: key, Value: encode(SlotRecord{DocumentType: rec.DocumentType, Subject: rec.Subject, State: next}), If: rev},
	}
	rows = append(rows, burnRows(a.Conditions().Burns)...)
	rows = taken.put(rows)
	rows = append(rows, Row{Table: TableReservations, Key: []byte(rec.ID), Value: encode(rec)})
	rows = append(append(append(rows, p.rows...), status...), linked...)
	if rows, err = l.allowed(p.secrets, rec.ID, p.issue.Operation, rec.DocumentType, a, &p.leaf, rows); err != nil {
		return nil, err
	}
	crashpoint.Here("ledger", "reserve", string(rec.Kind), "before-commit")
	out, err := l.commit(ctx, p.leaf, rows, urgent(a.Lane()), func(seq uint64) {
		applied(seq)
		p.horizons()
		taken.applied(&l.budgets)
		delivered()
		l.requests.opened(rec.Request, request.At)
		l.recent.put(key, recentSlot{next, If(seq + 1)})
	})
	if err != nil {
		return nil, err
	}
	if out.Conflict != nil {
		return nil, taken.conflict(out.Conflict)
	}
	crashpoint.Here("ledger", "reserve", string(rec.Kind), "after-commit")
	if len(changes) > 0 {
		l.wake()
	}
	r := l.reservation(*rec, out.Seq, c, nil, p.tries)
	r.wrote = &wrote{request}
	return r, nil
}

// ---- the appliance's own signatures

func (l *Ledger) reserveOwn(ctx context.Context, a *policy.Approval, d []Draft, c *Call) (*Reservation, error) {
	if c != nil {
		return nil, refuse("call.unexpected", "an approved %s belongs to no request", a.Kind())
	}
	if len(d) != 1 || d[0].Ticket != nil {
		return nil, refuse("draft.count", "an approved %s is one signature without a status index", a.Kind())
	}
	k, err := l.checkDraft(a, d[0])
	if err == nil {
		err = l.takeUse(ctx, k, 1, a.At())
	}
	if err != nil {
		return nil, err
	}
	rec, err := l.record(a)
	if err != nil {
		return nil, err
	}
	rec.Items = []ItemRecord{{KeyID: d[0].KeyID, Purpose: d[0].Purpose, TBSHash: d[0].TBSHash, NotAfter: d[0].NotAfter}}
	leaf := decided("reserve", a)
	leaf.Reservation, leaf.Operation = rec.ID, string(rec.Kind)
	signer := d[0].KeyID
	var image []byte
	var client *Certificate
	_, registers := a.Registers()
	switch rec.Kind {
	case policy.KindList:
		v, _ := a.List()
		if err := l.checkList(v); err != nil {
			return nil, err
		}
		rec.List = &VersionRecord{ID: v.ID, Version: v.Version, IssuedAt: v.IssuedAt, Expires: v.Expires, TTL: int64(v.TTL / time.Second), Through: v.Through}
		leaf.Name, leaf.Version, image = v.ID, v.Version, v.Image
	case policy.KindCert:
		v, _ := a.Cert()
		signer = v.IssuerKey
		rec.Cert = &Certificate{Serial: bytes.Clone(v.Serial[:]), Profile: v.Profile, Name: v.Name, CA: v.IssuerKey, CRL: v.CRL, NotAfter: v.NotAfter, At: a.At()}
		if registers != (v.Profile == "client" || v.Profile == "officer") {
			return nil, refuse("certificate.client", "a certificate of a client belongs to one of the registry, and no other does")
		}
		if registers {
			rec.Cert.Client = v.Name
			client = rec.Cert
		}
		if known, _, err := get[Certificate](ctx, l, TableCertificates, rec.Cert.Serial); err != nil {
			return nil, err
		} else if known != nil {
			return nil, refuse("certificate.serial", "the serial number of %s %q was used before", v.Profile, v.Name)
		}
		leaf.Name = v.Profile
	case policy.KindCRL:
		v, _ := a.CRL()
		signer = v.IssuerKey
		rec.CRL = &CRLRecord{Name: v.Name, CA: v.IssuerKey, Scope: v.Scope, Through: v.Through, Number: v.Number, ThisUpdate: v.ThisUpdate, NextUpdate: v.NextUpdate}
		if err := l.checkCRL(ctx, rec.CRL, v); err != nil {
			return nil, err
		}
		leaf.Name, leaf.Version = v.Name, v.Number
	case policy.KindSelftest:
		v, _ := a.Selftest()
		signer = v.KeyID
	case policy.KindToken:
		v, _ := a.Token()
		signer = v.KeyID
	default:
		return nil, refuse("approval.kind", "an approved %s is not signed", rec.Kind)
	}
	if signer != d[0].KeyID {
		return nil, refuse("key.other", "key %q was approved, not %q", signer, d[0].KeyID)
	}
	tries, items := firstAttempts(&rec)
	leaf.Items = items
	rows := []Row{{Table: TableReservations, Key: []byte(rec.ID), Value: encode(rec)}}
	applied := func(uint64) {}
	if registers {
		var row Row
		if row, applied, err = l.registered(a, client, &leaf, a.At()); err != nil {
			return nil, err
		}
		// The marks first: of a token that is used twice at once the second must learn that, and not that the client moved.
		rows = append(append(burnRows(a.Conditions().Burns), row), rows...)
	}
	crashpoint.Here("ledger", "reserve", string(rec.Kind), "before-commit")
	out, err := l.commit(ctx, leaf, rows, urgent(a.Lane()), applied)
	if err != nil {
		return nil, err
	}
	if out.Conflict != nil {
		return nil, conflict(out.Conflict)
	}
	crashpoint.Here("ledger", "reserve", string(rec.Kind), "after-commit")
	r := l.reservation(rec, out.Seq, nil, image, tries)
	r.wrote = &wrote{}
	return r, nil
}

// checkList compares an approved list version with the ledger: it follows the newest one and its image is exactly what was committed.
func (l *Ledger) checkList(v policy.List) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	li := l.lists[v.ID]
	switch {
	case li == nil:
		return refuse("list.unknown", "list %q is unknown", v.ID)
	case v.URI != li.row.URI || v.Format != li.row.Format || v.Bits != li.row.Bits:
		return refuse("list.other", "the approved list %s has another URI, format or width", v.ID)
	case v.Version <= li.version.Version:
		return refuse("list.version", "list %s has version %d, so %d can't follow", v.ID, li.version.Version, v.Version)
	case v.IssuedAt.Before(li.version.IssuedAt):
		return refuse("list.issued", "list %s was issued at %s, later than %s", v.ID, li.version.IssuedAt.Format(time.RFC3339), v.IssuedAt.Format(time.RFC3339))
	case v.Through < li.version.Through || v.Through > l.through:
		return ErrConflict
	case !bytes.Equal(v.Image, li.upTo(v.Through)):
		return refuse("list.image", "the approved image of list %s is not what was committed up to %d", v.ID, v.Through)
	}
	return nil
}

// ---- attempts

// Attempt journals one more try at some items of a claimed reservation (the first try is part of Reserve); it is durable when it returns.
func (l *Ledger) Attempt(ctx context.Context, r *Reservation, items []int, worker string) error {
	if err := l.ready(); err != nil {
		return err
	}
	if !r.Claimed(l) {
		return refuse("reservation.spent", "only a claimed reservation is tried again")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return l.attempt(ctx, r, items, worker, "attempt")
}

// attempt adds one attempt for each item; r.mu is held or r is not shared yet.
func (l *Ledger) attempt(ctx context.Context, r *Reservation, items []int, worker, kind string) error {
	at := l.o.Clock.Now()
	for {
		leaf := Leaf{Kind: kind, At: at, Reservation: r.record.ID}
		var rows []Row
		next := make([]try, len(items))
		for i, item := range items {
			if item < 0 || item >= len(r.tries) {
				return fmt.Errorf("reservation %s has no item %d", r.record.ID, item)
			}
			n, err := l.attempts(ctx, r.record.ID, item)
			if err != nil {
				return err
			}
			next[i] = try{n: n, record: AttemptRecord{Worker: worker, At: at, State: TrySent}}
			rows = append(rows, Row{Table: TableAttempts, Key: attemptKey(r.record.ID, item, n), Value: encode(next[i].record)})
			leaf.Items = append(leaf.Items, LeafItem{Item: item, Attempt: n, Worker: worker, Key: r.record.Items[item].KeyID})
		}
		out, err := l.commit(ctx, leaf, rows, urgent(r.record.Lane), nil)
		if err != nil {
			return err
		}
		if out.Conflict != nil {
			continue // somebody else resumed the same reservation and took the number
		}
		for i, item := range items {
			r.tries[item] = append(r.tries[item], next[i])
			it := r.record.Items[item]
			l.o.Metrics.Attempts.WithLabelValues(it.KeyID, string(it.Purpose)).Inc()
		}
		return nil
	}
}

// attempts counts the tries at one item so far; the first one is the reservation's.
func (l *Ledger) attempts(ctx context.Context, reservation string, item int) (n int, err error) {
	n = 1
	prefix := attemptKey(reservation, item, 0)
	prefix = prefix[:len(prefix)-4]
	err = scan(ctx, l.store, TableAttempts, prefix, func(e Entry) error {
		_, rest, err := split(TableAttempts, e.Key, 8)
		if err == nil {
			n = int(binary.BigEndian.Uint32(rest[4:])) + 1
		}
		return err
	})
	if err != nil {
		return 0, l.readFailed(err)
	}
	return n, nil
}

// Lost journals that a worker died or hung with these items unanswered: their outcome is unknown.
func (l *Ledger) Lost(ctx context.Context, r *Reservation, items []int, worker string) error {
	if l.dead.Load() {
		return ErrStopped
	}
	if !r.Claimed(l) {
		return refuse("reservation.spent", "only a claimed reservation has attempts to lose")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	leaf := Leaf{Kind: "lost", At: l.o.Clock.Now(), Reservation: r.record.ID}
	var rows []Row
	for _, item := range items {
		if item < 0 || item >= len(r.tries) || len(r.tries[item]) == 0 {
			return fmt.Errorf("reservation %s has no item %d that was tried", r.record.ID, item)
		}
		t := &r.tries[item][len(r.tries[item])-1]
		t.record.Worker, t.record.State = worker, TryUnknown
		rows = append(rows, Row{Table: TableAttempts, Key: attemptKey(r.record.ID, item, t.n), Value: encode(t.record), If: Any})
		leaf.Items = append(leaf.Items, LeafItem{Item: item, Attempt: t.n, Worker: worker})
	}
	_, err := l.commit(ctx, leaf, rows, urgent(r.record.Lane), nil)
	return err
}
