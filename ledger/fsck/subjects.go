package fsck

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// phases that a credential can have, by how far its reservation is. A reservation's and its subject's row are written by the same entries.
var phases = map[ledger.Progress][]state.Phase{
	ledger.InProgress: {state.Reserved, state.Revoked},
	ledger.Settled:    {state.Signed, state.Active, state.Revoked},
	ledger.Replaced:   {state.Abandoned, state.Revoked},
	ledger.GivenUp:    {state.Abandoned, state.Revoked},
}

// subjects: one live device, statuses that are those of the subject's state, and a row that has each credential of the subject that is not expired,
// whatever became of it (I3).
func (f *run) subjects() error {
	c := f.r.check("I3", "one live device per subject and document type; its statuses follow from its state")
	named := map[string][]byte{} // by list, one bit for each entry: a credential that its subject's row has
	for id, l := range f.lists {
		named[id] = make([]byte, (l.Size+7)/8)
	}
	if err := f.a.Slots(f.ctx, func(key []byte, _ uint64, r ledger.SlotRecord) error {
		c.Checked++
		who := called(r.DocumentType, r.Subject)
		inPlace := bytes.Equal(key, ledger.SlotKey(r))
		if !inPlace {
			c.fail("%s: its row is in the place of another's", who)
		}
		for _, k := range r.State.Locks {
			if k.Reason == policy.MassHold {
				f.holding[k.By]++
			}
		}
		for _, held := range r.State.Held {
			if !slices.Contains(r.State.Locks, held) {
				c.fail("%s: the lock %s of class %s is held and not there", who, held.Reason, held.Class)
			}
		}
		for _, cr := range r.State.Credentials {
			live := cr.Live()
			if live && cr.Format == policy.MDoc && len(r.State.Locks) > len(r.State.Held) {
				c.fail("%s: a live MSO while a lock stands that is not held", who)
			}
			if live && (r.State.Device == nil || r.State.Device.ID != cr.Device) {
				c.fail("%s: a live credential of device %s, which is not bound", who, cr.Device)
			}
			l, ok := f.lists[cr.List]
			if !ok {
				c.fail("%s: list %s does not exist", who, cr.List)
				continue
			}
			if got, want := get(f.images[cr.List], l.Bits, cr.Index), r.State.Status(cr); got != want {
				c.fail("%s: index %d of list %s is %d, its state says %d", who, cr.Index, cr.List, got, want)
			}
			given, ok := f.credentials[slot{cr.List, cr.Index}]
			if !ok || given.Reservation != cr.Reservation {
				c.fail("%s: index %d of list %s is not its own", who, cr.Index, cr.List)
			}
			res := f.reservations[cr.Reservation]
			if !slices.Contains(phases[res.Progress], cr.Phase) {
				c.fail("%s: a credential of reservation %s is %s, the reservation is %q", who, cr.Reservation, cr.Phase, res.Progress)
			}
			if res.Subject != r.Subject || res.DocumentType != r.DocumentType {
				c.fail("%s: reservation %s is another's", who, cr.Reservation)
			} else if inPlace && given.Reservation == cr.Reservation && cr.Index < l.Size {
				named[cr.List][cr.Index/8] |= 1 << (cr.Index % 8)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for s, cr := range f.credentials {
		res, reserved := f.reservations[cr.Reservation]
		if !reserved || s.index >= f.lists[s.list].Size { // indices says so
			continue
		}
		c.Checked++
		if named[s.list][s.index/8]>>(s.index%8)&1 == 0 && !f.since(res.Seq).After(cr.NotAfter) {
			c.fail("%s: its row is gone, or of before reservation %s: it does not have index %d of list %s", called(res.DocumentType, res.Subject), cr.Reservation, s.index, s.list)
		}
	}
	return nil
}

func called(documentType string, subject policy.Pseudonym) string {
	return fmt.Sprintf("subject %.8s… (%s)", subject.String(), documentType)
}

// moment is an entry of the journal that no later one is of a later time than. A wall clock may jump ahead and back: of such a journal few are.
type moment struct {
	seq uint64
	at  time.Time
}

// passed notes when an entry was made.
func (f *run) passed(seq uint64, at time.Time) {
	for len(f.times) > 0 && !f.times[len(f.times)-1].at.After(at) {
		f.times = f.times[:len(f.times)-1]
	}
	f.times = append(f.times, moment{seq, at})
}

// since is the latest instant of any entry from one on: nothing that expired later was dropped as expired by what happened since.
func (f *run) since(seq uint64) time.Time {
	i := sort.Search(len(f.times), func(i int) bool { return f.times[i].seq >= seq })
	if i == len(f.times) {
		return time.Time{}
	}
	return f.times[i].at
}
