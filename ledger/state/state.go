// Package state is the life of a card as a pure function: State.Apply(Event) gives the next state and the status changes that follow, or
// an error. The ledger stores what it returns; fsck and tests run the same function. It knows nothing of storage, and no event can do
// what the rules below forbid, whatever policy allowed:
//
//   - at most one live device; issuing to another one revokes everything of the old one in the same step
//   - locks are a set of {reason, class}; each is removable only by its own class; the card is suspended while the set is not empty
//   - REVOKED is terminal; an mdoc status only ever goes 0 → 1
//   - a lock suspends SD-JWT VCs and revokes MSOs; a refresh makes new MSOs after the last lock is gone
//   - device locks (telecom_lost, self_lost) end with their device; the others stay with the subject and block issuing
package state

import (
	"errors"
	"time"

	"sealkeeper/policy"
)

// Phase of a credential.
type Phase string

const (
	Reserved  Phase = "reserved"  // index taken, signature not yet settled: it may exist outside
	Signed    Phase = "signed"    // settled
	Revoked   Phase = "revoked"   // terminal
	Abandoned Phase = "abandoned" // replaced reservation; it may have been signed, so its status is revoked
)

// Status values of the IETF Token Status List.
const (
	Valid     byte = 0
	Invalid   byte = 1
	Suspended byte = 2
)

// State of one subject for one document type. The zero value is an empty slot. It is stored as JSON.
type State struct {
	Epoch       uint64        `json:"epoch"`
	Device      *Device       `json:"device,omitempty"`
	Locks       []policy.Lock `json:"locks,omitempty"` // sorted by reason, class; no duplicates
	Credentials []Credential  `json:"credentials,omitempty"`
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
}

// Event changes a state. At is the time of the change; expired credentials are dropped by every Apply.
type Event struct {
	At time.Time
	// exactly one of these
	Issue  *Issue
	Settle *Settle
	Again  *Again
	Lock   *Lock
	Unlock *Unlock
	Revoke *Revoke
}

// Issue reserves credentials: for a new device (Refresh false) or for the bound one. Replace must be true if another device is bound.
type Issue struct {
	Device      string // id for a new device; for a refresh the bound device's
	Keys        [][32]byte
	Refresh     bool
	Replace     bool
	Credentials []Credential // phase Reserved
}

// Settle marks a reservation's credentials as signed (those not revoked meanwhile).
type Settle struct{ Reservation string }

// Again replaces a reservation that could not be rebuilt: its credentials are abandoned, the new ones take their place, nothing else changes.
type Again struct {
	Old         string
	Credentials []Credential
}

// Lock adds a reason. Device limits it to that device: if another one is bound nothing happens.
type Lock struct {
	Lock   policy.Lock
	Device string
}

// Unlock removes a reason; the class must be the one that added it.
type Unlock struct {
	Lock   policy.Lock
	Device string
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
	ErrOccupied = errors.New("another device is bound")           // Issue without Replace
	ErrUnbound  = errors.New("no device is bound")                // Refresh, Lock, Revoke without a device
	ErrOther    = errors.New("another device is bound by now")    // Refresh for a device that was replaced
	ErrLocked   = errors.New("the card is locked")                // Refresh while locked; Issue while a subject lock stands
	ErrClass    = errors.New("another authority added this lock") // Unlock by another class
	ErrEvent    = errors.New("the event is malformed")
)

// SubjectLock reports whether a lock reason stays with the subject when the phone is replaced, and blocks issuing.
func SubjectLock(reason string) bool { return false }

// Apply returns the next state, without touching s, and the status changes. A lock or unlock that changes nothing returns s unchanged
// (same epoch) and no error. Every real change raises the epoch by one.
func (s State) Apply(e Event) (State, []Change, error) { return s, nil, ErrEvent }

// Status of a credential under this state, as its list must show it.
func (s State) Status(c Credential) byte { return 0 }

// Slot is what policy may see at an instant: credentials expired by then don't count; a device whose credentials all expired is still bound.
func (s State) Slot(at time.Time) policy.Slot { return policy.Slot{} }
