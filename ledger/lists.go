package ledger

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/index"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// list is a status list in memory: every entry's own status in its newest settled version, the changes since, and what they make. What holds suspend is
// laid over these when a version is made (terms.go). A list of the past has no images.
type list struct {
	row     ListRecord
	rev     uint64
	version VersionRecord
	prev    []byte   // nil: no version yet
	next    []byte   // nil: it is of the past
	changes []change // since prev, in journal order
	held    []byte   // what holds suspended in prev; nil: nothing
	terms   []term   // and since, in journal order
	horizon time.Time
	dirty   time.Time // must be signed again although nothing changed (after Unfence)
}

type change struct {
	ChangeRecord
	seq uint64
}

// set writes one entry of an image (IETF Token Status List 4.1: entries fill each byte from its least significant bit).
func set(image []byte, bits int, index uint64, status byte) {
	per := uint64(8 / bits)
	shift := (index % per) * uint64(bits)
	mask := byte(1<<bits-1) << shift
	b := &image[index/per]
	*b = *b&^mask | status<<shift&mask
}

// fits keeps a damaged row from asking for memory that there is not, or for entries of no bits.
func (r *ListRecord) fits() error {
	const most = 1 << 26 // entries that a verifier reads
	if r.Bits != 1 && r.Bits != 2 && r.Bits != 4 && r.Bits != 8 || r.Size > most || r.Size%8 != 0 {
		return fmt.Errorf("a row of table %s is damaged: list %.64q of %d entries of %d bits", TableLists, r.ID, r.Size, r.Bits)
	}
	return nil
}

func newList(row ListRecord, rev uint64) *list {
	return &list{row: row, rev: rev, next: make([]byte, row.Size*uint64(row.Bits)/8)}
}

// past says that no card referred to the list any more when the ledger was opened. None ever will: it is closed, and what was leased of it before is lost.
// It is not published again, and what still happens to it is only stored.
func (li *list) past() bool { return li.next == nil }

func (li *list) add(c change) {
	if li.past() {
		return
	}
	li.changes = append(li.changes, c)
	set(li.next, li.row.Bits, c.Index, c.To)
}

// upTo is the image that a version shows after every change, hold and lift with a sequence number ≤ through.
func (li *list) upTo(through uint64) []byte {
	image := li.own(through)
	lay(image, li.heldAt(through))
	return image
}

// own are the entries' own statuses then, whatever holds there are.
func (li *list) own(through uint64) []byte {
	image := make([]byte, len(li.next))
	copy(image, li.prev)
	for _, c := range li.changes {
		if c.seq <= through {
			set(image, li.row.Bits, c.Index, c.To)
		}
	}
	return image
}

// settled makes v the newest version, whose image holds every change up to v.Through.
func (li *list) settled(v VersionRecord) {
	image, held := li.own(v.Through), li.heldAt(v.Through)
	li.changes = slices.DeleteFunc(slices.Clone(li.changes), func(c change) bool { return c.seq <= v.Through })
	li.terms = slices.DeleteFunc(slices.Clone(li.terms), func(t term) bool { return t.seq <= v.Through })
	li.prev, li.held, li.version, li.dirty = image, held, v, time.Time{}
}

// urgent: somebody waits for what happened to the list since.
func (li *list) urgent() bool { return len(li.changes)+len(li.terms) > 0 }

// dirtySince is when the oldest of that was committed.
func (li *list) dirtySince() time.Time {
	since := li.dirty
	for _, c := range li.changes {
		if since.IsZero() || c.At.Before(since) {
			since = c.At
		}
	}
	for _, t := range li.terms {
		if since.IsZero() || t.at.Before(since) {
			since = t.at
		}
	}
	return since
}

// loadLists rebuilds the images from the changes, in journal order, of lists to which a card may still refer: those of the past grow in number for ever.
// They are past by the newest time that was signed; the wall may be wrong. A version row without a token was made by Unfence: its number is the floor for
// the next version.
func (l *Ledger) loadLists(ctx context.Context) error {
	err := scan(ctx, l.store, TableLists, nil, func(e Entry) error {
		row, err := decode[ListRecord](TableLists, e.Value)
		if err == nil {
			err = row.fits()
		}
		if err == nil {
			l.lists[row.ID] = &list{row: *row, rev: e.Revision}
		}
		return err
	})
	if err != nil {
		return err
	}
	for id, li := range l.lists {
		prefix := append([]byte(id), 0)
		err := scan(ctx, l.store, TableHorizons, prefix, func(e Entry) error {
			_, day, err := split(TableHorizons, e.Key, 8)
			if err != nil {
				return err
			}
			li.horizon = time.Unix(int64(binary.BigEndian.Uint64(day))*86400, 0).UTC()
			l.days[string(e.Key)] = true
			return nil
		})
		if err != nil {
			return err
		}
		v, _, err := get[VersionRecord](ctx, l, TableVersions, []byte(id))
		if err != nil {
			return err
		}
		if v != nil {
			li.version = *v
			if v.IssuedAt.After(l.issued) {
				l.issued = v.IssuedAt
			}
		}
	}
	for _, li := range l.lists {
		if !li.row.Closed.IsZero() && l.issued.After(li.horizon) {
			li.version.Token = nil
			continue
		}
		all, err := changesOf(ctx, l.store, &li.row)
		if err != nil {
			return err
		}
		li.next = newList(li.row, li.rev).next
		l.o.Metrics.ListUsed.WithLabelValues(li.row.ID).Set(float64(li.row.Leased))
		for _, c := range all {
			li.add(c)
		}
		if li.version.Token != nil {
			li.settled(li.version)
		}
	}
	return nil
}

// changesOf reads a list's changes in journal order.
func changesOf(ctx context.Context, s Store, r *ListRecord) (all []change, err error) {
	err = scan(ctx, s, TableChanges, append([]byte(r.ID), 0), func(e Entry) error {
		c, err := decode[ChangeRecord](TableChanges, e.Value)
		if err == nil && c.Index >= r.Size {
			err = fmt.Errorf("a change of index %d in list %s of %d entries", c.Index, r.ID, r.Size)
		}
		if err == nil {
			all = append(all, change{ChangeRecord: *c, seq: e.Revision - 1})
		}
		return err
	})
	slices.SortStableFunc(all, func(a, b change) int { return cmp.Compare(a.seq, b.seq) })
	return all, err
}

// LastIssued is the newest iat of any signed list; zero if there is none.
func (l *Ledger) LastIssued() time.Time {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.issued
}

// notAhead is the instant of a change that nobody decided at a trusted time: the newest iat of any signed list, unless the wall is behind it. A wall that jumped
// ahead would drop credentials of the holder as expired, and what the change says of them would reach no list. An earlier instant only keeps them longer.
func (l *Ledger) notAhead() time.Time {
	at := l.o.Clock.Now()
	if last := l.LastIssued(); !last.IsZero() && last.Before(at) {
		return last
	}
	return at
}

// ListSnapshot is a list's state at one commit: enough to decide, draft and publish its next version.
type ListSnapshot struct {
	Facts policy.ListFacts // without Version, IssuedAt, Expires, TTL
	Token []byte           // the signed token of PrevVersion; nil: none yet
	Until time.Time        // PrevVersion's exp
	Dirty time.Time        // commit time of the oldest unpublished change; zero: none
}

// Lists names all lists that must be kept published: the open ones, and the closed ones to which an unexpired credential points.
func (l *Ledger) Lists() []string { return l.ListsAt(l.o.Clock.Now()) }

// ListsAt is Lists at the caller's time, for a caller that knows better than the wall clock: a wall that jumped ahead must not end the
// publishing of a closed list whose credentials still live.
func (l *Ledger) ListsAt(at time.Time) (ids []string) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for id, li := range l.lists {
		if li.row.Closed.IsZero() || !at.After(li.horizon) && !li.past() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// ListHead is what is known of a list without its images, which have megabytes.
type ListHead struct {
	Version uint64    // newest settled version; 0: none yet
	Signed  bool      // its token is there
	Until   time.Time // its exp
	Dirty   time.Time // commit time of the oldest unpublished change, hold or lift; zero: none
	Urgent  bool      // there is one
	Through uint64    // the journal sequence number that this is the state of
	Key     string    // that signed it; empty: it was signed before this was noted
}

// ListHead of a list; ok is false if there is no such list.
func (l *Ledger) ListHead(id string) (h ListHead, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	li := l.lists[id]
	if li == nil {
		return h, false
	}
	h = ListHead{Version: li.version.Version, Signed: li.version.Token != nil, Until: li.version.Expires, Urgent: li.urgent(), Through: l.through, Key: li.version.Key}
	h.Dirty = li.dirtySince()
	return h, true
}

// List takes a snapshot. The image holds every change acknowledged so far.
func (l *Ledger) List(id string) (ListSnapshot, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	li := l.lists[id]
	if li == nil {
		return ListSnapshot{}, fmt.Errorf("list %q is unknown", id)
	}
	if li.past() {
		return ListSnapshot{}, fmt.Errorf("list %q is of the past: its last card ended on %s, and it is not published any more", id, li.horizon.Format(time.DateOnly))
	}
	s := ListSnapshot{
		Facts: policy.ListFacts{ID: id, URI: li.row.URI, Format: li.row.Format, Bits: li.row.Bits, PrevVersion: li.version.Version,
			PrevIssued: li.version.IssuedAt, Prev: slices.Clone(li.prev), Next: slices.Clone(li.next), Held: li.heldAt(l.through), Through: l.through, Urgent: li.urgent()},
		Token: li.version.Token,
		Until: li.version.Expires,
		Dirty: li.dirtySince(),
	}
	if s.Facts.Prev == nil && li.version.Version > 0 {
		s.Facts.Prev = make([]byte, len(li.next)) // its number jumped before it was ever signed
	}
	for _, c := range li.changes {
		s.Facts.Changes = append(s.Facts.Changes, policy.ListChange{Index: c.Index, From: c.From, To: c.To})
	}
	return s, nil
}

// Changed receives (never blocks, never more than one pending) whenever a status changed or a list was opened.
func (l *Ledger) Changed() <-chan struct{} { return l.changed }

// statusRows are the rows of status changes, and what they do to the images once they are durable.
func (l *Ledger) statusRows(changes []state.Change) (rows []Row, ids []string, applied func(seq uint64), err error) {
	return l.changeRows(changes, len(changes))
}

// changeRows are statusRows; those from kept on are of published lists alone.
func (l *Ledger) changeRows(changes []state.Change, kept int) (rows []Row, ids []string, applied func(seq uint64), err error) {
	if len(changes) == 0 {
		return nil, nil, func(uint64) {}, nil
	}
	at := l.o.Clock.Now()
	unique, err := draw[[16]byte](l.random)
	if err != nil {
		return nil, nil, nil, err
	}
	records := make([]ChangeRecord, len(changes))
	for i, c := range changes {
		records[i] = ChangeRecord{Index: c.Index, From: c.From, To: c.To, At: at, Kept: i >= kept}
		key := append(append([]byte(c.List), 0), unique[:]...)
		rows = append(rows, Row{Table: TableChanges, Key: binary.BigEndian.AppendUint32(key, uint32(i)), Value: encode(records[i])})
		if !slices.Contains(ids, c.List) {
			ids = append(ids, c.List)
		}
	}
	slices.Sort(ids)
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, c := range changes {
		if li := l.lists[c.List]; li == nil || c.Index >= li.row.Size {
			return nil, nil, nil, fmt.Errorf("a status changes in list %q, index %d: there is no such entry", c.List, c.Index)
		}
	}
	return rows, ids, func(seq uint64) {
		for i, c := range changes {
			l.lists[c.List].add(change{records[i], seq})
		}
	}, nil
}

// horizonRows note how long a list must be kept published. One row for each day is enough, so most credentials need none.
func (l *Ledger) horizonRows(list string, until time.Time) []Row {
	key := horizonKey(list, until.Unix()/86400+1)
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.days[string(key)] {
		return nil
	}
	return []Row{{Table: TableHorizons, Key: key, Value: []byte("{}"), If: Any}}
}

// horizon is horizonRows' effect in memory; l.mu is held.
func (l *Ledger) horizon(list string, until time.Time) {
	day := until.Unix()/86400 + 1
	l.days[string(horizonKey(list, day))] = true
	if t := time.Unix(day*86400, 0).UTC(); t.After(l.lists[list].horizon) {
		l.lists[list].horizon = t
	}
}

// ---- leasing

const leaseBlock = 256 // counters made durable at once

// Ticket is a leased status index. It can be used in one Reserve; zero means spent.
type Ticket struct {
	ledger  *Ledger
	list    string
	uri     string
	index   uint64
	counter uint64 // that it is derived from; 0 for a pending one, whose row is there
	format  policy.Format
	kind    string      // document type
	pending *Pending    // set: only good to rebuild the drafts of this reservation
	fresh   atomic.Bool // cleared by Reserve; set again if nothing was committed
}

func (t *Ticket) valid() bool { return t != nil && t.fresh.Load() }

// List id, URI and index of the ticket; empty when spent.
func (t *Ticket) List() string {
	if !t.valid() {
		return ""
	}
	return t.list
}

func (t *Ticket) URI() string {
	if !t.valid() {
		return ""
	}
	return t.uri
}

func (t *Ticket) Index() uint64 {
	if !t.valid() {
		return 0
	}
	return t.index
}

func (t *Ticket) Format() policy.Format {
	if !t.valid() {
		return ""
	}
	return t.format
}

// pool hands out the rest of a leased block for one document type and format.
type pool struct {
	list      string
	next, end uint64 // counters
	order     index.Order
	secrets   *Secrets // by which the order was made
}

// Lease takes n unused indices for a document type and format. A block of them was made durable before, so most calls write nothing; what
// is left of a block when the process ends is never handed out.
func (l *Ledger) Lease(ctx context.Context, documentType string, f policy.Format, n int) ([]*Ticket, error) {
	if err := l.ready(); err != nil {
		return nil, err
	}
	secrets, err := l.unlocked()
	if err != nil {
		return nil, err
	}
	if documentType == "" || bytes.ContainsRune([]byte(documentType), 0) || f != policy.MDoc && f != policy.SDJWT || n < 1 {
		return nil, fmt.Errorf("leasing %d indices for document type %q, format %q: there is no such list", n, documentType, f)
	}
	name := documentType + "\x00" + string(f)
	defer l.pools.lock(name)()
	v, _ := l.open.LoadOrStore(name, &pool{})
	p := v.(*pool)
	tickets := make([]*Ticket, 0, n)
	for len(tickets) < n {
		if p.next == p.end {
			if err := l.refill(ctx, p, documentType, f, secrets); err != nil {
				return nil, err
			}
		}
		t := &Ticket{ledger: l, list: p.list, uri: l.uri(p.list), index: p.order.At(p.next), counter: p.next, format: f, kind: documentType}
		p.next++
		t.fresh.Store(true)
		tickets = append(tickets, t)
	}
	return tickets, nil
}

func (l *Ledger) uri(list string) string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.lists[list].row.URI
}

// refill leases the next block, out of a new list if there is none open or the open one is full.
func (l *Ledger) refill(ctx context.Context, p *pool, documentType string, f policy.Format, secrets *Secrets) error {
	l.mu.RLock()
	var row ListRecord
	var rev uint64
	for _, li := range l.lists {
		if li.row.DocumentType == documentType && li.row.Format == f && li.row.Closed.IsZero() {
			row, rev = li.row, li.rev
		}
	}
	l.mu.RUnlock()
	now := l.o.Clock.Now()
	leaf := Leaf{Kind: "lease", At: now, Format: f}
	var rows []Row
	closed := ""
	if rev != 0 && row.Leased >= row.Size {
		closed = row.ID
		full := row
		full.Closed = now
		rows = append(rows, Row{Table: TableLists, Key: []byte(row.ID), Value: encode(full), If: If(rev)})
		rev = 0
	}
	if rev == 0 {
		id, err := l.name()
		if err != nil {
			return err
		}
		row = ListRecord{ID: id, URI: l.o.BaseURL + "/status-lists/" + id, DocumentType: documentType, Format: f, Bits: 1, Size: l.o.ListSize, Order: orderShuffled, Opened: now}
		if f == policy.SDJWT {
			row.Bits = 2
		}
		leaf.Kind = "list"
	}
	from := row.Leased
	row.Leased = min(from+leaseBlock, row.Size)
	leaf.Name, leaf.Count = row.ID, row.Leased
	rows = append(rows, Row{Table: TableLists, Key: []byte(row.ID), Value: encode(row), If: If(rev)})
	// The order of indices is derived before anything is written: it can't fail afterwards.
	order := p.order
	if p.list != row.ID || p.secrets != secrets {
		var err error
		if order, err = row.order(secrets); err != nil {
			return err
		}
	}
	if err := l.inOrder(ctx, order, row.ID, from, row.Leased); err != nil {
		return err
	}
	crashpoint.Here("ledger.lease.before-commit")
	defer l.commits.hurry()() // announced requests may wait for this very block
	out, err := l.commit(ctx, leaf, rows, false, func(seq uint64) {
		if closed != "" {
			l.lists[closed].row.Closed, l.lists[closed].rev = now, seq+1
		}
		if li := l.lists[row.ID]; li != nil {
			li.row, li.rev = row, seq+1
		} else {
			l.lists[row.ID] = newList(row, seq+1)
		}
	})
	if err != nil {
		return err
	}
	if out.Conflict != nil {
		return fmt.Errorf("leasing indices of list %s: %w", row.ID, ErrConflict)
	}
	crashpoint.Here("ledger.lease.after-commit")
	l.o.Metrics.ListUsed.WithLabelValues(row.ID).Set(float64(row.Leased))
	if from == 0 {
		l.wake()
	}
	*p = pool{list: row.ID, next: from, end: row.Leased, order: order, secrets: secrets}
	return nil
}

// orderShuffled is the order of lists that are opened now; those that say none have the one of before.
const orderShuffled = "shuffled"

// order takes 20 ms for a list of a million entries.
func (r *ListRecord) order(secrets *Secrets) (index.Order, error) {
	switch r.Order {
	case orderShuffled:
		return index.New(secrets.Index, r.ID, r.Size)
	case "":
		return index.SwapOrNot(secrets.Index, r.ID, r.Size)
	}
	return nil, fmt.Errorf("list %s gives its indices in the order %q, which this program doesn't know", r.ID, r.Order)
}

// orderSample is how many of the indices that a list gave show its order: under another key, one has its place by a chance of one in the list's size.
const orderSample = 8

// inOrder compares the order of a list's indices with the first that it gave, before it gives those of the counters from … end−1. That a counter is used once
// keeps an index from being given twice only as long as the order is the same; under another key it would be another one. Rows of before don't say by which
// counter, so that none of the block's indices may stand in one.
func (l *Ledger) inOrder(ctx context.Context, order index.Order, list string, from, end uint64) error {
	if from == 0 {
		return nil
	}
	other := fmt.Errorf("list %s gave its indices in another order than that of the key of indices that is there now, or gave more than it counts", list)
	first, err := l.store.Scan(ctx, TableIndices, indexKey(list, 0), orderSample)
	if err != nil {
		return l.readFailed(err)
	}
	for _, e := range first {
		of, counter, err := split(TableIndices, e.Key, 8)
		if err != nil {
			return err
		}
		if of != list {
			break
		}
		given, err := decode[IndexRecord](TableIndices, e.Value)
		if err != nil {
			return err
		}
		if n := binary.BigEndian.Uint64(counter); n >= order.Len() || order.At(n) != given.Index {
			return other
		}
	}
	prefix := append([]byte(list), 0)
	if before, err := l.store.Scan(ctx, TableCredentials, prefix, 1); err != nil {
		return l.readFailed(err)
	} else if len(before) == 0 || !bytes.HasPrefix(before[0].Key, prefix) {
		return nil
	}
	for n := from; n < end; n++ {
		given, _, err := get[CredentialRecord](ctx, l, TableCredentials, credentialKey(list, order.At(n)))
		if err != nil {
			return err
		}
		if given != nil {
			return other
		}
	}
	return nil
}
