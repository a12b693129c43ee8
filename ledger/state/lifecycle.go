package state

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"sealkeeper/policy"
)

// Ack is the holder's acknowledgement: a reservation's credentials that are signed and not revoked become active. Like Settle it changes
// phases alone. One that comes twice, or about a reservation that is gone, changes nothing.
type Ack struct{ Reservation string }

// Abandon gives a reservation up that nobody finished: its credentials are revoked, because they may have been signed, and their indices
// are never used again. A phone that was to be bound by it, and has nothing else, never got anything: the slot is empty again, unless a lock of
// that phone stands, which only its authority takes away. A refresh that is given up takes nothing from the phone, whatever else of it has expired.
// With Unacknowledged it does the same to credentials that are signed and were never acknowledged.
type Abandon struct {
	Reservation    string
	Unacknowledged bool
}

// Close ends the subject for good: everything is revoked, orders are gone, nothing is ever issued again. Closing twice changes nothing.
type Close struct{ Reason string }

// Renew is the register's word that what credentials say of the person has changed. One that is not newer than what is known changes
// nothing; Attributes 0 is about something else than data (a technical renewal) and is news if the reason is, or if something was made since.
type Renew struct {
	Reasons    []string
	Attributes uint64 // the register's count
	Revoke     bool   // by this document type's rules such credentials are revoked
	Show       bool   // their status says that they are out of date
}

// Order is something to happen at an instant: a lock, from From and until To (zero: until its authority removes it), or the closing of
// the subject. It is carried out by Due, however late that comes, and never taken back by a clock.
type Order struct {
	ID      string      `json:"id"`
	Lock    policy.Lock `json:"lock,omitzero"`
	Close   string      `json:"close,omitempty"` // reason
	From    time.Time   `json:"from"`            // whole seconds
	To      time.Time   `json:"to,omitzero"`
	Class   string      `json:"class"`            // of the authority that ordered it
	Begun   bool        `json:"begun,omitzero"`   // From has come
	Held    bool        `json:"held,omitzero"`    // the lock is there for this order, and others that hold it, alone
	Client  string      `json:"client,omitempty"` // who ordered it
	Replace string      `json:"-"`                // of the event alone: the order whose place it takes, without a gap if both have begun
}

// Cancel takes an order back. What it locked meanwhile is unlocked, as at its end.
type Cancel struct{ ID string }

// Due carries out what orders say about all instants up to the event's.
type Due struct{}

// Next is when something is to happen by an order.
func (o Order) Next() time.Time {
	if !o.Begun {
		return o.From
	}
	return o.To
}

// later applies the events of this file; parts is how many there are.
func (s *State) later(e Event) (parts int, changed bool, err error) {
	if e.Ack != nil {
		parts++
		changed = s.ack(*e.Ack)
	}
	if e.Abandon != nil {
		parts++
		changed = s.abandon(*e.Abandon)
	}
	if e.Close != nil {
		parts++
		changed, err = s.shut(*e.Close)
	}
	if e.Renew != nil {
		parts++
		changed, err = s.renew(*e.Renew)
	}
	if e.Order != nil {
		parts++
		changed, err = s.order(*e.Order, e.At)
	}
	if e.Cancel != nil {
		parts++
		changed, err = s.cancel(e.Cancel.ID)
	}
	if e.Due != nil {
		parts++
		changed = s.due(e.At)
	}
	if e.Restore != nil {
		parts++
		changed, err = s.restore(*e.Restore)
	}
	return parts, changed, err
}

func (s *State) ack(e Ack) (changed bool) {
	for i := range s.Credentials {
		if c := &s.Credentials[i]; c.Reservation == e.Reservation && c.Phase == Signed {
			c.Phase, changed = Active, true
		}
	}
	return changed
}

func (s *State) abandon(e Abandon) (changed bool) {
	first := false // what bound the phone
	for i := range s.Credentials {
		c := &s.Credentials[i]
		switch {
		case c.Reservation != e.Reservation:
			continue
		case c.Phase == Reserved && !e.Unacknowledged:
			c.Phase = Abandoned
		case c.Phase == Signed && e.Unacknowledged:
			c.Phase = Revoked
		default:
			continue
		}
		changed, first = true, first || s.bound(c.Device) && c.Made.Equal(s.Device.Since)
	}
	if first && !slices.ContainsFunc(s.Locks, isDeviceLock) &&
		!slices.ContainsFunc(s.Credentials, func(c Credential) bool { return s.bound(c.Device) && c.Reservation != e.Reservation }) {
		s.end()
	}
	return changed
}

func (s *State) shut(e Close) (bool, error) {
	switch {
	case e.Reason == "":
		return false, fmt.Errorf("%w: a closing has a reason", ErrEvent)
	case s.Closed != "":
		return false, nil
	}
	s.end()
	s.Closed, s.Orders = e.Reason, nil
	return true, nil
}

func (s *State) renew(e Renew) (changed bool, err error) {
	switch {
	case len(e.Reasons) == 0 || slices.Contains(e.Reasons, ""):
		return false, fmt.Errorf("%w: a renewal has reasons", ErrEvent)
	case s.Closed != "", e.Attributes != 0 && e.Attributes <= s.Attributes:
		return false, nil
	}
	if e.Attributes != 0 {
		s.Attributes, changed = e.Attributes, true
	}
	if s.Device == nil { // nothing is out of date; from now on nothing older is signed
		return changed, nil
	}
	if e.Revoke {
		s.end()
		return true, nil
	}
	for _, r := range e.Reasons {
		if i, there := slices.BinarySearch(s.Renew, r); !there {
			s.Renew, changed = slices.Insert(s.Renew, i, r), true
		}
	}
	changed = changed || slices.ContainsFunc(s.Credentials, func(c Credential) bool { return c.live() && !c.Outdated })
	for i := range s.Credentials {
		if c := &s.Credentials[i]; changed && c.live() {
			c.Outdated, c.Shown = true, c.Shown || e.Show
		}
	}
	return changed, nil
}

func (s *State) order(o Order, at time.Time) (bool, error) {
	locks := o.Lock != (policy.Lock{})
	switch {
	case o.ID == "" || o.Class == "" || o.From.IsZero() || locks == (o.Close != ""):
		return false, fmt.Errorf("%w: an order has an id, a class, an instant, and either locks or closes", ErrEvent)
	case locks && (o.Lock.Reason == "" || o.Lock.Class != o.Class || isDeviceLock(o.Lock)):
		return false, fmt.Errorf("%w: an order locks for a reason that stays with the person, of its own class", ErrEvent)
	case !o.To.IsZero() && (!locks || !o.To.After(o.From)):
		return false, fmt.Errorf("%w: a lock ends after it begins, and a closing has no end", ErrEvent)
	case s.Closed != "":
		return false, ErrClosed
	case slices.ContainsFunc(s.Orders, func(p Order) bool { return p.ID == o.ID }):
		return false, fmt.Errorf("%w: order %s is known already", ErrEvent, o.ID)
	}
	was := slices.IndexFunc(s.Orders, func(p Order) bool { return p.ID == o.Replace })
	switch {
	case o.Replace != "" && was < 0:
		return false, ErrNoOrder
	case o.Replace == "" && len(s.Orders) >= policy.MaxOrders:
		return false, ErrOrders
	}
	replaced := o.Replace
	o.Begun, o.Held, o.From, o.To, o.Replace = false, false, instant(o.From.Truncate(time.Second)), instant(o.To.Truncate(time.Second)), ""
	if was >= 0 && s.Orders[was].Begun && !o.From.After(at) { // the new one takes the lock over, or the card would be valid until Due
		s.Orders = append(s.Orders, o)
		s.due(at)
		_, err := s.cancel(replaced) // unless that was its end
		return true, err
	}
	if was >= 0 {
		s.finish(was)
	}
	s.Orders = append(s.Orders, o)
	return true, nil
}

func (s *State) cancel(id string) (bool, error) {
	i := slices.IndexFunc(s.Orders, func(o Order) bool { return o.ID == id })
	if id == "" || i < 0 {
		return false, nil
	}
	s.finish(i)
	return true, nil
}

// due carries out in the order of time, so that what comes out does not depend on how late it is.
func (s *State) due(at time.Time) (changed bool) {
	for {
		first := -1
		for i, o := range s.Orders {
			if !o.Next().After(at) && (first < 0 || cmp.Or(o.Next().Compare(s.Orders[first].Next()), cmp.Compare(o.ID, s.Orders[first].ID)) < 0) {
				first = i
			}
		}
		if first < 0 {
			return changed
		}
		changed = true
		switch o := &s.Orders[first]; {
		case o.Close != "":
			_, _ = s.shut(Close{Reason: o.Close}) // has a reason; all orders are gone with it
		case o.Begun:
			s.finish(first)
		default:
			o.Begun = true
			i, there := slices.BinarySearchFunc(s.Locks, o.Lock, compareLocks)
			if o.Held = !there || slices.Contains(s.held(), o.Lock); !there {
				s.add1(i, o.Lock)
			}
			if o.To.IsZero() { // it is an ordinary lock from now on
				s.release(o.Lock)
				s.remove(first)
			}
		}
	}
}

// finish ends an order: its lock goes, unless another order holds it too.
func (s *State) finish(at int) {
	o := s.Orders[at]
	s.remove(at)
	if !o.Held || slices.Contains(s.held(), o.Lock) {
		return
	}
	if i, there := slices.BinarySearchFunc(s.Locks, o.Lock, compareLocks); there {
		s.drop(i)
	}
}

func (s *State) remove(i int) {
	if s.Orders = slices.Delete(s.Orders, i, i+1); len(s.Orders) == 0 {
		s.Orders = nil
	}
}

// release makes a lock no order's any more; it reports whether it was one's.
func (s *State) release(l policy.Lock) (was bool) {
	for i := range s.Orders {
		if o := &s.Orders[i]; o.Held && o.Lock == l {
			o.Held, was = false, true
		}
	}
	return was
}

// held are the locks that are there for orders alone.
func (s State) held() (locks []policy.Lock) {
	for _, o := range s.Orders {
		if o.Held {
			locks = append(locks, o.Lock)
		}
	}
	return locks
}

// mostStopped lost plastic cards of one person are remembered; the oldest of more has expired.
const mostStopped = 16

// stopCard remembers a lost plastic card; it reports whether that is news.
func (s *State) stopCard(card string) bool {
	if card == "" || slices.Contains(s.Stopped, card) {
		return false
	}
	s.Stopped = append(s.Stopped, card)
	s.Stopped = s.Stopped[max(0, len(s.Stopped)-mostStopped):]
	return true
}

// orders as policy may see them.
func (s State) orders() (all []policy.Order) {
	for _, o := range s.Orders {
		all = append(all, policy.Order{ID: o.ID, Class: o.Class, Lock: o.Lock, Close: o.Close, From: o.From, To: o.To})
	}
	return all
}
