package ledger

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"slices"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// A hold in the lists. It is no change of any card: from one journal entry to another it is a term of each list's image. Which entries it suspends, in
// lists of SD-JWT VCs, and which MSOs are those of cards that it holds, is said by one mask a list. Masks are found by reading the cards once, while
// refusals are made already; a hold of all cards of a type needs no reading, because it is about whole lists. All of a hold's masks come to be true with
// one entry, and end with that of its lift. They are kept: the image of any version can be made again.

// HoldRecord says from when on a hold is a term of its lists: from the entry that wrote it.
type HoldRecord struct {
	At          time.Time `json:"at"`
	Lists       int       `json:"lists"`       // that have a mask
	Cards       int       `json:"cards"`       // whole: not counted
	Credentials int       `json:"credentials"` // of these cards
	Whole       bool      `json:"whole,omitzero"`
	Digest      []byte    `json:"digest"` // of the masks, as the journal has it
}

// MaskRecord is what a hold holds of one list.
type MaskRecord struct {
	Bits  []byte `json:"bits"` // one for each entry, the least significant first, as a raw deflate stream
	Count int    `json:"count"`
}

// term is what holds suspend in a list from a journal entry on. held is shared, and never written to.
type term struct {
	seq  uint64
	held []byte // nil: nothing
	at   time.Time
}

// heldAt is what holds suspend after a journal entry.
func (li *list) heldAt(through uint64) []byte {
	held := li.held
	for _, t := range li.terms {
		if t.seq <= through {
			held = t.held
		}
	}
	return held
}

// spread gives each of four bits its entry's place in a byte of four entries.
var spread = func() (out [16]byte) {
	for i := range out {
		for n := range 4 {
			out[i] |= byte(i>>n&1) << (2 * n)
		}
	}
	return out
}()

// lay lays what is held over an image of two bits an entry: it shows as suspended, unless it is revoked.
func lay(image, held []byte) {
	for i, m := range held {
		if m == 0 {
			continue
		}
		for n, b := range image[2*i : 2*i+2] {
			which := spread[m>>(4*n)&15]
			revoked := b & 0x55 &^ (b >> 1)
			which &^= revoked
			image[2*i+n] = b&^(which|which<<1) | which<<1
		}
	}
}

func maskKey(hold, list string) []byte { return slices.Concat([]byte(hold), []byte{0}, []byte(list)) }

func packed(mask []byte) (MaskRecord, error) {
	r := MaskRecord{}
	for _, b := range mask {
		r.Count += bits.OnesCount8(b)
	}
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestSpeed)
	if err == nil {
		_, err = w.Write(mask)
	}
	if err == nil {
		err = w.Close()
	}
	r.Bits = out.Bytes()
	return r, err
}

// Mask is what a mask says of a list: a bit for each of its entries.
func (r MaskRecord) Mask(l ListRecord) ([]byte, error) {
	if err := l.fits(); err != nil {
		return nil, err
	}
	mask := make([]byte, l.Size/8)
	z := flate.NewReader(bytes.NewReader(r.Bits))
	_, err := io.ReadFull(z, mask)
	if err == nil {
		if n, end := z.Read(make([]byte, 1)); n != 0 || end != io.EOF {
			err = errors.New("it is longer than the list")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("a row of table %s is damaged: the mask of list %.64q: %w", TableMasks, l.ID, err)
	}
	return mask, nil
}

// DigestMasks is what the journal has of a hold's masks: lists in their order, each with the digest of its row.
func DigestMasks(rows map[string][32]byte) []byte {
	sum := sha256.New()
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		one := rows[id]
		sum.Write(append([]byte(id), 0))
		sum.Write(one[:])
	}
	return sum.Sum(nil)
}

// masks of a hold while it is made.
type masks struct {
	of                 map[string][]byte // by list
	cards, credentials int
	whole              bool
}

// rows of the masks, in the order of their lists, and their digest.
func (m *masks) rows(hold string) (rows []Row, digest []byte, err error) {
	sums := map[string][32]byte{}
	for _, id := range slices.Sorted(maps.Keys(m.of)) {
		r, err := packed(m.of[id])
		if err != nil {
			return nil, nil, err
		}
		row := Row{Table: TableMasks, Key: maskKey(hold, id), Value: encode(r), If: Any} // one that was found before a crash never was true
		sums[id] = sha256.Sum256(row.Value)
		rows = append(rows, row)
	}
	return rows, DigestMasks(sums), nil
}

func (m *masks) record(at time.Time, digest []byte) HoldRecord {
	return HoldRecord{At: at, Lists: len(m.of), Cards: m.cards, Credentials: m.credentials, Whole: m.whole, Digest: digest}
}

// whole says that the selection is everything of a document type, which has lists of its own.
func (s Selection) whole() bool {
	return s.DocumentType != "" && s.Key == "" && s.From.IsZero() && s.To.IsZero()
}

// wholeLists are the masks of a selection of everything: all entries, also those that nobody was given, since nobody is while the hold stands.
func (l *Ledger) wholeLists(c CampaignRecord) *masks {
	m := &masks{of: map[string][]byte{}, whole: true}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for id, li := range l.lists {
		if li.row.DocumentType == c.DocumentType && (li.row.Closed.IsZero() || !c.At.After(li.horizon)) {
			m.of[id] = bytes.Repeat([]byte{0xff}, int(li.row.Size/8))
		}
	}
	return m
}

// startHold places a hold. Whoever reserves afterwards knows of it, and what was reserved before is found.
func (l *Ledger) startHold(ctx context.Context, r CampaignRecord, x *Execution) error {
	l.custody.Lock()
	defer l.custody.Unlock()
	r.Term, r.PerSecond = true, 0
	leaf := Leaf{Kind: "campaign", Name: x.ID, Operation: r.Operation, State: "started", Reason: r.Reason}
	if !r.whole() {
		err := l.execute(ctx, x, leaf, []Row{{Table: TableCampaigns, Key: []byte(x.ID), Value: encode(r)}}, func(uint64) { l.begun(x.ID, r) })
		if err == nil {
			l.seekHeld()
		}
		return err
	}
	m := l.wholeLists(r)
	rows, digest, err := m.rows(x.ID)
	if err != nil {
		return err
	}
	r.Found = l.o.Clock.Now()
	h := m.record(r.Found, digest)
	leaf.Count, leaf.Digest = uint64(h.Lists), digest
	rows = append(rows, Row{Table: TableCampaigns, Key: []byte(x.ID), Value: encode(r)}, Row{Table: TableHolds, Key: []byte(x.ID), Value: encode(h)})
	err = l.execute(ctx, x, leaf, rows, func(seq uint64) {
		l.begun(x.ID, r)
		l.holds(x.ID, r, h, m.of, seq)
	})
	if err == nil {
		l.wake()
	}
	return err
}

// seekHeld has what holds are about be found.
func (l *Ledger) seekHeld() {
	select {
	case l.campaigns.holds <- struct{}{}:
	default:
	}
}

// selected says whether a card has a live credential of a selection, as of the instant at which officers selected. Credentials of later times are none
// of it: they are refused. What ended since the instant is none either: a card of which nothing else was selected leaves the hold, unless it was read before.
func (l *Ledger) selected(ctx context.Context, c Campaign, documentType string, s state.State) (bool, error) {
	if c.DocumentType != "" && c.DocumentType != documentType {
		return false, nil
	}
	var of policy.Purpose
	if c.Key != "" {
		k, _ := l.key(c.Key)
		of = k.Purpose
	}
	for _, cr := range s.Credentials {
		switch {
		case !cr.Live() || c.At.After(cr.NotAfter) || cr.Made.Before(c.From) || !c.To.IsZero() && !cr.Made.Before(c.To):
			continue
		case c.Key == "":
			return true, nil
		case purposeOf[cr.Format] != of:
			continue
		}
		r, _, err := get[ReservationRecord](ctx, l, TableReservations, []byte(cr.Reservation))
		if err != nil {
			return false, err
		}
		if r == nil {
			return false, fmt.Errorf("reservation %s is missing", cr.Reservation)
		}
		for i, it := range r.Items {
			if it.List == cr.List && it.Index == cr.Index && c.of(r, i) {
				return true, nil
			}
		}
	}
	return false, nil
}

// find reads all cards once for the masks of a selection.
func (l *Ledger) find(ctx context.Context, c Campaign) (*masks, error) {
	m := &masks{of: map[string][]byte{}}
	var prefix []byte
	if c.DocumentType != "" {
		prefix = append([]byte(c.DocumentType), 0)
	}
	sizes := map[string]uint64{}
	l.mu.RLock()
	for id, li := range l.lists {
		sizes[id] = li.row.Size
	}
	l.mu.RUnlock()
	err := scan(ctx, l.store, TableSlots, prefix, func(e Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := decode[SlotRecord](TableSlots, e.Value)
		if err != nil {
			return err
		}
		is, err := l.selected(ctx, c, r.DocumentType, r.State)
		if err != nil || !is {
			return err
		}
		m.cards++
		for _, cr := range r.State.Credentials {
			if !cr.Live() || c.At.After(cr.NotAfter) {
				continue
			}
			if cr.Index >= sizes[cr.List] {
				return fmt.Errorf("a credential has index %d of list %s, which has %d entries", cr.Index, cr.List, sizes[cr.List])
			}
			mask := m.of[cr.List]
			if mask == nil {
				mask = make([]byte, sizes[cr.List]/8)
				m.of[cr.List] = mask
			}
			mask[cr.Index/8] |= 1 << (cr.Index % 8)
			m.credentials++
		}
		return nil
	})
	return m, err
}

// maskPage is how many masks share a commit: a few megabytes at most.
const maskPage = 8

// keepHolds finds what holds are about. It ends with the ledger.
func (l *Ledger) keepHolds() {
	ctx, cancel := l.living()
	defer cancel()
	var again <-chan time.Time
	for {
		select {
		case <-l.stop:
			return
		case <-l.campaigns.holds:
		case <-again:
		}
		again = nil
		for _, c := range l.standing() {
			if !c.Term || !c.Found.IsZero() {
				continue
			}
			if l.ready() != nil { // fenced: nothing is written
				again = time.After(time.Second)
				continue
			}
			if err := l.findHeld(ctx, c); err != nil && ctx.Err() == nil && !l.dead.Load() {
				l.o.Log.Error("finding the cards of a hold; it begins anew in ten seconds", "hold", c.ID, "error", err)
				again = time.After(10 * time.Second)
			}
		}
	}
}

// staleMasks takes away what a search that did not come to its end found in lists in which this one finds nothing: it would be read with the others.
func (l *Ledger) staleMasks(ctx context.Context, hold string, m *masks) (rows []Row, err error) {
	l.mu.RLock()
	ids := slices.Sorted(maps.Keys(l.lists))
	l.mu.RUnlock()
	for _, id := range ids {
		if m.of[id] != nil {
			continue
		}
		key := maskKey(hold, id)
		_, rev, err := l.store.Get(ctx, TableMasks, key)
		if err != nil {
			return nil, l.readFailed(err)
		}
		if rev != 0 {
			rows = append(rows, Row{Table: TableMasks, Key: key, If: If(rev)})
		}
	}
	return rows, nil
}

// findHeld makes a hold a term of its lists. Until its last commit nothing of it is true of any list.
func (l *Ledger) findHeld(ctx context.Context, c Campaign) error {
	began := time.Now()
	m, err := l.find(ctx, c)
	if err != nil {
		return err
	}
	rows, digest, err := m.rows(c.ID)
	if err != nil {
		return err
	}
	stale, err := l.staleMasks(ctx, c.ID, m)
	if err != nil {
		return err
	}
	rows = append(rows, stale...)
	read := time.Since(began)
	for page := range slices.Chunk(rows, maskPage) {
		out, err := l.commit(ctx, Leaf{Kind: "hold-masks", At: l.o.Clock.Now(), Name: c.ID, Operation: CampaignHold, Count: uint64(len(page))}, page, true, nil) // a bit for each card: the room kept for locks bears it
		if err != nil {
			return err
		}
		if out.Conflict != nil {
			return ErrConflict
		}
		crashpoint.Here("ledger.hold.masks")
	}
	r, rev, err := get[CampaignRecord](ctx, l, TableCampaigns, []byte(c.ID))
	if err != nil {
		return err
	}
	if r == nil || !r.Lifted.IsZero() {
		return nil // what was found stays without effect
	}
	r.Found = l.o.Clock.Now()
	h := m.record(r.Found, digest)
	leaf := Leaf{Kind: "campaign", At: r.Found, Name: c.ID, Operation: CampaignHold, State: "held", Count: uint64(h.Lists), Digest: digest,
		Reasons: []string{fmt.Sprintf("cards=%d", h.Cards), fmt.Sprintf("credentials=%d", h.Credentials)}}
	crashpoint.Here("ledger.hold.before-commit")
	out, err := l.commit(ctx, leaf, []Row{
		{Table: TableCampaigns, Key: []byte(c.ID), Value: encode(r), If: If(rev)},
		{Table: TableHolds, Key: []byte(c.ID), Value: encode(h)},
	}, true, func(seq uint64) { l.holds(c.ID, *r, h, m.of, seq) })
	if err != nil || out.Conflict != nil {
		return err // a conflict: it was lifted meanwhile
	}
	crashpoint.Here("ledger.hold.after-commit")
	l.o.Log.Info("a hold is true of its lists", "hold", c.ID, "lists", h.Lists, "cards", h.Cards, "credentials", h.Credentials, "read_ms", read.Milliseconds(), "ms", time.Since(began).Milliseconds())
	l.wake()
	return nil
}

// holds makes a hold a term of lists in memory, from a journal entry on; l.mu is held.
func (l *Ledger) holds(id string, r CampaignRecord, h HoldRecord, of map[string][]byte, seq uint64) {
	l.campaigns.mu.Lock()
	defer l.campaigns.mu.Unlock()
	l.campaigns.all[id].CampaignRecord, l.campaigns.all[id].Hold = r, &h
	l.masks[id] = of
	for list, mask := range of {
		if li := l.lists[list]; li != nil && li.row.Bits == 2 && !li.past() {
			li.terms = append(li.terms, term{seq, union(li.heldAt(seq), mask), h.At})
		}
	}
}

// lifts ends that; l.mu is held.
func (l *Ledger) lifts(id string, seq uint64, at time.Time) {
	of := l.masks[id]
	delete(l.masks, id)
	for list := range of {
		li := l.lists[list]
		if li == nil || li.row.Bits != 2 || li.past() {
			continue
		}
		var left []byte
		for _, other := range l.masks {
			left = union(left, other[list])
		}
		li.terms = append(li.terms, term{seq, left, at})
	}
}

// union of masks, which stay as they are.
func union(a, b []byte) []byte {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	out := slices.Clone(a)
	for i, m := range b {
		out[i] |= m
	}
	return out
}

// masked says whether a hold that found its cards holds one: if a credential is in its masks that nobody revoked and that is not expired.
func (l *Ledger) masked(hold string, s state.State, at time.Time) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	of := l.masks[hold]
	return slices.ContainsFunc(s.Credentials, func(c state.Credential) bool {
		mask := of[c.List]
		return c.Live() && !at.After(c.NotAfter) && c.Index/8 < uint64(len(mask)) && mask[c.Index/8]>>(c.Index%8)&1 == 1
	})
}

// isHeld says whether a hold suspends a credential in its list.
func (l *Ledger) isHeld(c state.Credential) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	li := l.lists[c.List]
	if li == nil {
		return false
	}
	held := li.heldAt(l.through)
	return c.Index/8 < uint64(len(held)) && held[c.Index/8]>>(c.Index%8)&1 == 1
}

// a hold that was placed, as it is stored.
type placed struct {
	id           string
	from, until  uint64 // journal entries; until 0: it stands
	begun, ended time.Time
	digest       []byte // of its masks
}

// termsOf are the masks of a list that are true of it now, and what holds are of its image after each entry that placed or lifted one.
func termsOf(ctx context.Context, s Store, r ListRecord, all []placed) (standing map[string][]byte, terms []term, err error) {
	type turn struct {
		seq  uint64
		id   string
		mask []byte // nil: lifted
		at   time.Time
	}
	var turns []turn
	for _, h := range all {
		v, rev, err := s.Get(ctx, TableMasks, maskKey(h.id, r.ID))
		if err != nil {
			return nil, nil, err
		}
		if rev == 0 {
			continue
		}
		m, err := decode[MaskRecord](TableMasks, v)
		if err != nil {
			return nil, nil, err
		}
		mask, err := m.Mask(r)
		if err != nil {
			return nil, nil, err
		}
		if turns = append(turns, turn{h.from, h.id, mask, h.begun}); h.until > 0 {
			turns = append(turns, turn{h.until, h.id, nil, h.ended})
		}
	}
	slices.SortFunc(turns, func(a, b turn) int { return int(a.seq) - int(b.seq) })
	standing = map[string][]byte{}
	for _, t := range turns {
		if standing[t.id] = t.mask; t.mask == nil {
			delete(standing, t.id)
		}
		var held []byte
		for _, mask := range standing {
			held = union(held, mask)
		}
		if r.Bits == 2 {
			terms = append(terms, term{t.seq, held, t.at})
		}
	}
	return standing, terms, nil
}

// placedHolds reads when holds were terms of lists.
func placedHolds(ctx context.Context, s Store) (all []placed, err error) {
	err = scan(ctx, s, TableHolds, nil, func(e Entry) error {
		h, err := decode[HoldRecord](TableHolds, e.Value)
		if err != nil {
			return err
		}
		v, rev, err := s.Get(ctx, TableCampaigns, e.Key)
		if err != nil || rev == 0 {
			return errors.Join(err, fmt.Errorf("hold %s is in table %s alone", e.Key, TableHolds))
		}
		c, err := decode[CampaignRecord](TableCampaigns, v)
		if err != nil {
			return err
		}
		p := placed{id: string(e.Key), from: e.Revision - 1, begun: h.At, digest: h.Digest}
		if !c.Lifted.IsZero() {
			p.until, p.ended = rev-1, c.Lifted
		}
		all = append(all, p)
		return nil
	})
	return all, err
}

// intact refuses masks that are not those of which the journal has the digest.
func (l *Ledger) intact(ctx context.Context, h placed) error {
	sums := map[string][32]byte{}
	for id := range l.lists {
		v, rev, err := l.store.Get(ctx, TableMasks, maskKey(h.id, id))
		if err != nil {
			return err
		}
		if rev != 0 {
			sums[id] = sha256.Sum256(v)
		}
	}
	if !bytes.Equal(DigestMasks(sums), h.digest) {
		return fmt.Errorf("table %s is damaged: hold %.12s… has other masks there, of %d lists, than when it was placed", TableMasks, h.id, len(sums))
	}
	return nil
}

// loadHolds makes holds that stand, and those whose lift is not in a version yet, terms of their lists.
func (l *Ledger) loadHolds(ctx context.Context) error {
	l.masks = map[string]map[string][]byte{}
	err := scan(ctx, l.store, TableHolds, nil, func(e Entry) error {
		h, err := decode[HoldRecord](TableHolds, e.Value)
		if c := l.campaigns.all[string(e.Key)]; err == nil && c != nil {
			c.Hold = h
		}
		return err
	})
	if err != nil {
		return err
	}
	all, err := placedHolds(ctx, l.store)
	if err != nil {
		return err
	}
	for _, h := range all {
		if h.until == 0 {
			l.masks[h.id] = map[string][]byte{}
		}
	}
	known := map[string]bool{}
	for id, li := range l.lists {
		matter := slices.DeleteFunc(slices.Clone(all), func(h placed) bool {
			return h.until > 0 && (li.past() || li.prev != nil && h.until <= li.version.Through)
		})
		if len(matter) == 0 {
			continue
		}
		for _, h := range matter {
			if !known[h.id] {
				if err := l.intact(ctx, h); err != nil {
					return err
				}
				known[h.id] = true
			}
		}
		standing, terms, err := termsOf(ctx, l.store, li.row, matter)
		if err != nil {
			return err
		}
		for hold, mask := range standing {
			l.masks[hold][id] = mask
		}
		if li.past() {
			continue
		}
		for _, t := range terms {
			if li.prev != nil && t.seq <= li.version.Through {
				li.held = t.held
			} else {
				li.terms = append(li.terms, t)
			}
		}
	}
	return nil
}
