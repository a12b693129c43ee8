// Package state is the life of a card as a pure function: State.Apply(Event) gives the next state and the status changes that follow, or
// an error. The ledger stores what it returns; fsck and tests run the same function. It knows nothing of storage, and no event can do
// what the rules below forbid, whatever policy allowed:
//
//   - at most one live device; issuing to another one revokes everything of the old one in the same step
//   - locks are a set of {reason, class, carrier}; each is removable only by its own class and carrier, or a named higher one; the card is suspended while the set is not empty
//   - REVOKED is terminal; an mdoc status only ever goes 0 → 1
//   - a lock suspends SD-JWT VCs and revokes MSOs; a refresh makes new MSOs after the last lock is gone
//   - a held lock is one of many that came at once: it suspends and blocks as any other, but MSOs are revoked only when it is confirmed
//   - device locks (telecom_lost, self_lost, line_changed) end with their device; the others stay with the subject and block issuing
//   - CLOSED is terminal: everything is revoked and nothing is ever issued again
//
// What is beyond phone, locks and signatures (the holder's word, the register's, orders for later) is in lifecycle.go.
package state

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"sealkeeper/policy"
)

// Phase of a credential.
type Phase string

const (
	Reserved  Phase = "reserved"  // index taken, signature not yet settled: it may exist outside
	Signed    Phase = "signed"    // settled
	Active    Phase = "active"    // the holder's phone has shown that it has it
	Revoked   Phase = "revoked"   // terminal
	Abandoned Phase = "abandoned" // replaced reservation; it may have been signed, so its status is revoked
)

// Status values of the IETF Token Status List.
const (
	Valid     byte = 0
	Invalid   byte = 1
	Suspended byte = 2
	Outdated  byte = 3 // application-specific: what it says of the person is out of date
)

// State of one subject for one document type. The zero value is an empty slot. It is stored as JSON.
type State struct {
	Epoch       uint64        `json:"epoch"`
	Device      *Device       `json:"device,omitempty"`
	Locks       []policy.Lock `json:"locks,omitempty"` // sorted by reason, class, carrier; no duplicates
	Held        []policy.Lock `json:"held,omitempty"`  // those of Locks for which MSOs are not revoked yet; sorted
	Credentials []Credential  `json:"credentials,omitempty"`

	Closed     string   `json:"closed,omitempty"`     // why the person has no card any more; terminal
	Attributes uint64   `json:"attributes,omitempty"` // the register's count of changes of the person's data; what is older is not signed
	Stopped    []string `json:"stopped,omitempty"`    // plastic cards that were lost, by their readers' pseudonyms: the newest
	Renew      []string `json:"renew,omitempty"`      // NEEDS_RENEW: why the card has to be made anew; sorted
	Orders     []Order  `json:"orders,omitempty"`     // what is to happen later, by id
}

// Device is the one phone that has the card.
type Device struct {
	ID    string     `json:"id"`
	Keys  [][32]byte `json:"keys"` // thumbprints
	Since time.Time  `json:"since"`
}

// Credential of the subject; kept until it is expired.
type Credential struct {
	Reservation string        `json:"reservation"`
	Device      string        `json:"device"`
	Format      policy.Format `json:"format"`
	List        string        `json:"list"`
	Index       uint64        `json:"index"`
	Key         [32]byte      `json:"key"` // thumbprint
	Made        time.Time     `json:"made"`
	NotAfter    time.Time     `json:"not_after"`
	Phase       Phase         `json:"phase"`
	Outdated    bool          `json:"outdated,omitzero"` // made before the register said that the data changed
	Shown       bool          `json:"shown,omitzero"`    // and its status says so
}

// Event changes a state. At is the time of the change; every change drops the credentials that are expired by then.
type Event struct {
	At time.Time
	// exactly one of these
	Issue  *Issue
	Settle *Settle
	Again  *Again
	Lock   *Lock
	Unlock *Unlock
	Revoke *Revoke

	Ack     *Ack
	Abandon *Abandon
	Close   *Close
	Renew   *Renew
	Order   *Order
	Cancel  *Cancel
	Due     *Due

	Restore *Restore
}

// Issue reserves credentials: for a new device (Refresh false) or for the bound one. Replace must be true if another device is bound.
type Issue struct {
	Device      string     // id for a new device; for a refresh the bound device's
	Keys        [][32]byte // thumbprints; those of a refresh are added to the device's
	Refresh     bool
	Replace     bool
	Credentials []Credential // phase Reserved
}

// Settle marks a reservation's credentials as signed (those not revoked meanwhile), by which the card is made anew. It changes phases, and what Slot
// did not show any more, alone, which neither policy nor a status can see, so it does not raise the epoch: an approval that is on its way to the ledger stays good. An unknown reservation
// (expired and dropped) changes nothing.
type Settle struct{ Reservation string }

// Again replaces a reservation that could not be rebuilt: its credentials are abandoned, the new ones take their place, nothing else
// changes. It is for the bound device alone and, as any issuing, not while a lock stands; a reservation of which nothing is waiting for a
// signature any more (settled, revoked, expired) is refused with ErrSuperseded.
type Again struct {
	Old         string
	Credentials []Credential
}

// Lock adds a reason. Device limits it to that device: if it is not bound (any more) nothing happens. A subject lock may be added to an
// unbound slot, where it blocks issuing; a device lock without a device to stop is refused with ErrUnbound. A held lock that is added
// again without Held is confirmed; one that stands is not held any more by being added again with Held.
type Lock struct {
	Lock   policy.Lock
	Device string
	Held   bool
	Card   string // a plastic card that is lost
}

// Unlock removes a reason; the class, and the carrier, must be the one that added it, unless Any of them is lifted. A reason that is not there, or a Device that is not bound any more
// (a late `found`), changes nothing.
type Unlock struct {
	Lock   policy.Lock
	Any    bool // a higher authority lifts the reason, whoever added it
	Device string
	Card   string // a plastic card that is found, also if the lock went before it; other lost ones stay stopped
}

// Revoke ends the device (or, with Device set, only if it is still bound): all its credentials are revoked, the slot is empty.
type Revoke struct {
	Reason string
	Device string
}

// Change is a status that must appear in the next version of a list.
type Change struct {
	List     string
	Index    uint64
	From, To byte
}

var (
	ErrOccupied   = errors.New("another device is bound")           // Issue without Replace
	ErrUnbound    = errors.New("no device is bound")                // Refresh, Again, Revoke or a device lock without a device
	ErrOther      = errors.New("another device is bound by now")    // Refresh or Again for a device that was replaced
	ErrLocked     = errors.New("the card is locked")                // Refresh or Again while locked; Issue while a subject lock stands
	ErrClass      = errors.New("another authority added this lock") // Unlock by another class or carrier
	ErrSuperseded = errors.New("nothing of the reservation waits for a signature")
	ErrEvent      = errors.New("the event is malformed")
	ErrClosed     = errors.New("the subject is closed")
	ErrOrders     = errors.New("the subject has as many orders as it can have")
	ErrNoOrder    = errors.New("there is no such order")
)

// SubjectLock reports whether a lock reason stays with the subject when the phone is replaced, and blocks issuing. Only the losses
// of a phone and of its line end with the phone: a reason that is not known here blocks, since that is the safer mistake.
func SubjectLock(reason string) bool {
	return reason != "telecom_lost" && reason != "self_lost" && reason != "line_changed"
}

// Apply returns the next state, without touching s, and the status changes. A lock or unlock that changes nothing returns s unchanged
// (same epoch) and no error. Every real change but Settle and Ack raises the epoch by one.
//
// The changes are the difference of every unexpired credential's Status before and after, so no branch below can forget one, and From is
// what the list shows now (an index that no credential had is 0 there).
func (s State) Apply(e Event) (State, []Change, error) {
	if e.At.IsZero() {
		return s, nil, fmt.Errorf("%w: no time", ErrEvent)
	}
	next, parts := s.clone(), 0
	var changed bool
	var err error
	if e.Issue != nil {
		parts++
		changed, err = next.issue(*e.Issue, e.At)
	}
	if e.Settle != nil {
		parts++
		changed = next.settle(*e.Settle)
	}
	if e.Again != nil {
		parts++
		changed, err = next.again(*e.Again, e.At)
	}
	if e.Lock != nil {
		parts++
		changed, err = next.lock(*e.Lock)
	}
	if e.Unlock != nil {
		parts++
		changed, err = next.unlock(*e.Unlock)
	}
	if e.Revoke != nil {
		parts++
		changed, err = next.revoke(*e.Revoke)
	}
	more, did, err2 := next.later(e)
	parts, changed, err = parts+more, changed || did, errors.Join(err, err2)
	switch {
	case parts != 1:
		return s, nil, fmt.Errorf("%w: %d kinds of change in one", ErrEvent, parts)
	case err != nil:
		return s, nil, err
	case !changed:
		return s, nil, nil
	}
	if e.Settle == nil && e.Ack == nil {
		next.Epoch++
	}
	next.Credentials = slices.DeleteFunc(next.Credentials, func(c Credential) bool { return c.expired(e.At) })
	if len(next.Credentials) == 0 {
		next.Credentials = nil
	}
	before := make(map[place]byte, len(s.Credentials))
	for _, c := range s.Credentials {
		before[c.place()] = s.Status(c)
	}
	var changes []Change
	for _, c := range next.Credentials {
		if from, to := before[c.place()], next.Status(c); from != to {
			changes = append(changes, Change{c.List, c.Index, from, to})
		}
	}
	return next, changes, nil
}

// Status of a credential under this state, as its list must show it. A reserved credential counts like a signed one: the signature may
// exist outside even if nobody here ever saw it.
func (s State) Status(c Credential) byte {
	switch {
	case !c.live():
		return Invalid
	case c.Format != policy.MDoc && len(s.Locks) > 0: // an mdoc knows no suspension: its lock is in its phase
		return Suspended
	case c.Format != policy.MDoc && c.Shown:
		return Outdated
	}
	return Valid
}

// Slot is what policy may see at an instant: credentials expired by then don't count; a device whose credentials all expired is still bound.
// Live, MSOs and Newest count unrevoked credentials, suspended and reserved ones included.
func (s State) Slot(at time.Time) policy.Slot {
	p := policy.Slot{Epoch: s.Epoch, Locks: slices.Clone(s.Locks), Closed: s.Closed, Attributes: s.Attributes, Renew: s.renewing(at), Stopped: slices.Clone(s.Stopped), Scheduled: append(s.held(), s.Held...), Orders: s.orders()}
	if s.Device != nil {
		p.Bound, p.Device, p.Keys, p.Since = true, s.Device.ID, slices.Clone(s.Device.Keys), s.Device.Since
	}
	for _, c := range s.Credentials {
		if !c.live() || c.expired(at) {
			continue
		}
		p.Live++
		if c.Outdated {
			p.Outdated++
		}
		if c.Format == policy.MDoc {
			p.MSOs++
		}
		if c.Made.After(p.Newest) {
			p.Newest = c.Made
		}
	}
	return p
}

// place of a credential in a status list: it belongs to at most one credential, for ever.
type place struct {
	list  string
	index uint64
}

// Live says whether nothing has ended the credential but, perhaps, its time.
func (c Credential) Live() bool { return c.live() }

func (c Credential) place() place              { return place{c.List, c.Index} }
func (c Credential) live() bool                { return c.Phase == Reserved || c.Phase == Signed || c.Phase == Active }
func (c Credential) expired(at time.Time) bool { return at.After(c.NotAfter) }
func (s State) bound(device string) bool       { return s.Device != nil && s.Device.ID == device }
func (s State) elsewhere(device string) bool   { return device != "" && !s.bound(device) }
func instant(t time.Time) time.Time            { return t.UTC().Round(0) } // survives JSON unchanged
func isDeviceLock(l policy.Lock) bool          { return !SubjectLock(l.Reason) }
func isSubjectLock(l policy.Lock) bool         { return SubjectLock(l.Reason) }
func compareLocks(a, b policy.Lock) int {
	return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Class, b.Class), cmp.Compare(a.By, b.By))
}

func (s State) clone() State {
	if s.Device != nil {
		d := *s.Device
		d.Keys = slices.Clone(d.Keys)
		s.Device = &d
	}
	s.Locks, s.Held, s.Credentials = slices.Clone(s.Locks), slices.Clone(s.Held), slices.Clone(s.Credentials)
	s.Renew, s.Orders, s.Stopped = slices.Clone(s.Renew), slices.Clone(s.Orders), slices.Clone(s.Stopped)
	return s
}

// issue binds and reserves. The order matters: everything of the old device is revoked and its locks are gone before the new
// credentials are there, so nothing that ends the old one can touch the new ones.
func (s *State) issue(i Issue, at time.Time) (bool, error) {
	if i.Device == "" || len(i.Credentials) == 0 {
		return false, fmt.Errorf("%w: issuing needs a device and credentials", ErrEvent)
	}
	if s.Closed != "" {
		return false, ErrClosed
	}
	if i.Refresh {
		switch {
		case s.Device == nil:
			return false, ErrUnbound
		case s.Device.ID != i.Device:
			return false, ErrOther
		case len(s.Locks) > 0:
			return false, ErrLocked
		}
		for _, k := range i.Keys {
			if !slices.Contains(s.Device.Keys, k) {
				s.Device.Keys = append(s.Device.Keys, k)
			}
		}
		return true, s.add(i.Credentials, at)
	}
	switch {
	case len(i.Keys) == 0:
		return false, fmt.Errorf("%w: a device has at least one key", ErrEvent)
	case slices.ContainsFunc(s.Locks, isSubjectLock):
		return false, ErrLocked
	case s.bound(i.Device) && len(s.Locks) > 0: // a lost phone can't shed its lock by being issued to again
		return false, ErrLocked
	case s.Device != nil && !i.Replace:
		return false, ErrOccupied
	}
	s.end()
	s.Device = &Device{ID: i.Device, Keys: slices.Clone(i.Keys), Since: instant(at)}
	return true, s.add(i.Credentials, at)
}

// add puts reserved credentials of the bound device into the slot.
func (s *State) add(made []Credential, at time.Time) error {
	taken := make(map[place]bool, len(s.Credentials)+len(made))
	for _, c := range s.Credentials {
		taken[c.place()] = true
		if c.Reservation == made[0].Reservation {
			return fmt.Errorf("%w: reservation %s is known already", ErrEvent, c.Reservation)
		}
	}
	for _, c := range made {
		switch {
		case c.Reservation == "" || c.Reservation != made[0].Reservation:
			return fmt.Errorf("%w: credentials of one event have one reservation", ErrEvent)
		case c.Format != policy.MDoc && c.Format != policy.SDJWT:
			return fmt.Errorf("%w: format %q has no status list", ErrEvent, c.Format)
		case c.List == "" || taken[c.place()]:
			return fmt.Errorf("%w: status index %s/%d is missing or taken", ErrEvent, c.List, c.Index)
		case c.Phase != "" && c.Phase != Reserved:
			return fmt.Errorf("%w: a new credential is reserved, not %s", ErrEvent, c.Phase)
		case c.Device != "" && c.Device != s.Device.ID:
			return fmt.Errorf("%w: credential of device %s for device %s", ErrEvent, c.Device, s.Device.ID)
		case !slices.Contains(s.Device.Keys, c.Key):
			return fmt.Errorf("%w: credential for a key that device %s does not have", ErrEvent, s.Device.ID)
		case !at.Before(c.NotAfter):
			return fmt.Errorf("%w: credential is expired at birth", ErrEvent)
		}
		taken[c.place()] = true
		if c.Made.IsZero() {
			c.Made = at
		}
		c.Device, c.Phase, c.Made, c.NotAfter = s.Device.ID, Reserved, instant(c.Made), instant(c.NotAfter)
		s.Credentials = append(s.Credentials, c)
	}
	return nil
}

func (s *State) settle(e Settle) (changed bool) {
	for i := range s.Credentials {
		if c := &s.Credentials[i]; c.Reservation == e.Reservation && c.Phase == Reserved {
			c.Phase, changed = Signed, true
		}
	}
	if changed && s.heeds(e.Reservation) {
		s.Renew = nil
	}
	return changed
}

// heeds says whether a reservation was made after all that is known of why the card has to be made anew.
func (s State) heeds(reservation string) bool {
	return !slices.ContainsFunc(s.Credentials, func(c Credential) bool { return c.Reservation == reservation && c.Outdated })
}

// renewing are the reasons to make the card anew that nothing heeds yet: what waits for its signature is not asked for again, unless it is given up.
func (s State) renewing(at time.Time) []string {
	if len(s.Renew) > 0 && slices.ContainsFunc(s.Credentials, func(c Credential) bool {
		return c.Phase == Reserved && !c.expired(at) && s.heeds(c.Reservation)
	}) {
		return nil
	}
	return slices.Clone(s.Renew)
}

func (s *State) again(e Again, at time.Time) (bool, error) {
	if e.Old == "" || len(e.Credentials) == 0 {
		return false, fmt.Errorf("%w: a reservation and credentials are needed", ErrEvent)
	}
	device, waiting := "", false
	for i := range s.Credentials {
		if c := &s.Credentials[i]; c.Reservation == e.Old {
			device = c.Device
			if c.Phase == Reserved && !c.expired(at) {
				c.Phase, waiting = Abandoned, true
			}
		}
	}
	switch {
	case s.Device == nil:
		return false, ErrUnbound
	case device != "" && s.Device.ID != device:
		return false, ErrOther
	case !waiting:
		return false, ErrSuperseded
	case len(s.Locks) > 0:
		return false, ErrLocked
	}
	if err := s.add(e.Credentials, at); err != nil {
		return true, err
	}
	if !s.heeds(e.Old) { // nor does what takes its place, which says the same of the person
		shown := slices.ContainsFunc(s.Credentials, func(c Credential) bool { return c.Reservation == e.Old && c.Shown })
		for i := range s.Credentials {
			if c := &s.Credentials[i]; c.Reservation == e.Credentials[0].Reservation {
				c.Outdated, c.Shown = true, shown
			}
		}
	}
	return true, nil
}

func (s *State) lock(e Lock) (bool, error) {
	switch {
	case e.Lock.Reason == "" || e.Lock.Class == "":
		return false, fmt.Errorf("%w: a lock has a reason and a class", ErrEvent)
	case s.Closed != "", s.elsewhere(e.Device):
		return false, nil
	case s.Device == nil && isDeviceLock(e.Lock):
		return false, ErrUnbound
	}
	i, there := slices.BinarySearchFunc(s.Locks, e.Lock, compareLocks)
	at, held := slices.BinarySearchFunc(s.Held, e.Lock, compareLocks)
	switch {
	case there && (e.Held || !held):
		released := s.release(e.Lock)
		return s.stopCard(e.Card) || released, nil // an order's end does not take it away any more
	case there:
		s.confirm(at)
		s.release(e.Lock)
		s.endMSOs()
	case e.Held:
		s.Locks = slices.Insert(s.Locks, i, e.Lock)
		s.Held = slices.Insert(s.Held, at, e.Lock)
	default:
		s.add1(i, e.Lock)
	}
	s.stopCard(e.Card)
	return true, nil
}

// add1 adds a lock at its place.
func (s *State) add1(i int, l policy.Lock) {
	s.Locks = slices.Insert(s.Locks, i, l)
	s.endMSOs()
}

// endMSOs revokes what knows no suspension.
func (s *State) endMSOs() {
	for i := range s.Credentials {
		if c := &s.Credentials[i]; c.Format == policy.MDoc && c.live() {
			c.Phase = Revoked
		}
	}
}

func (s *State) unlock(e Unlock) (bool, error) {
	switch {
	case e.Lock.Reason == "" || e.Lock.Class == "":
		return false, fmt.Errorf("%w: a lock has a reason and a class", ErrEvent)
	case s.elsewhere(e.Device):
		return false, nil
	}
	found := false
	for i := len(s.Locks) - 1; i >= 0; i-- {
		if l := s.Locks[i]; l == e.Lock || e.Any && l.Reason == e.Lock.Reason {
			s.drop(i)
			s.release(l)
			found = true
		}
	}
	if !found && slices.ContainsFunc(s.Locks, func(l policy.Lock) bool { return l.Reason == e.Lock.Reason }) {
		return false, ErrClass
	}
	if i := slices.Index(s.Stopped, e.Card); i >= 0 { // which may be lost without a lock, that went with another card that was found
		found = true
		if s.Stopped = slices.Delete(s.Stopped, i, i+1); len(s.Stopped) == 0 {
			s.Stopped = nil
		}
	}
	return found, nil
}

func (s *State) drop(i int) {
	if at, held := slices.BinarySearchFunc(s.Held, s.Locks[i], compareLocks); held {
		s.confirm(at)
	}
	if s.Locks = slices.Delete(s.Locks, i, i+1); len(s.Locks) == 0 {
		s.Locks = nil
	}
}

// confirm makes a held lock one like any other.
func (s *State) confirm(i int) {
	if s.Held = slices.Delete(s.Held, i, i+1); len(s.Held) == 0 {
		s.Held = nil
	}
}

func (s *State) revoke(e Revoke) (bool, error) {
	switch {
	case e.Reason == "":
		return false, fmt.Errorf("%w: a revocation has a reason", ErrEvent)
	case s.elsewhere(e.Device):
		return false, nil
	case s.Device == nil:
		return false, ErrUnbound
	}
	s.end()
	return true, nil
}

// end of the bound device: every credential of the slot is revoked for ever, and the locks that were about the phone go with it.
func (s *State) end() {
	for i := range s.Credentials {
		if c := &s.Credentials[i]; c.live() {
			c.Phase = Revoked
		}
	}
	if s.Locks = slices.DeleteFunc(s.Locks, isDeviceLock); len(s.Locks) == 0 {
		s.Locks = nil
	}
	if s.Held = slices.DeleteFunc(s.Held, isDeviceLock); len(s.Held) == 0 {
		s.Held = nil
	}
	s.Device, s.Renew = nil, nil
}
