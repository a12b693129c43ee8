package state

import (
	"fmt"
	"slices"

	"sealkeeper/policy"
)

// Restore gives a subject back what published lists show of its credentials and the ledger, which was restored from a backup, does not know any
// more. Why a card was stopped is lost, so what is done is the safer mistake: whatever is shown as revoked is revoked for good, and a card that is shown as
// stopped is locked until an authority that policy names takes that away. Nothing that is shown as better than it is here is made better.
type Restore struct {
	Revoked   []Place // credentials that are shown as revoked
	Suspended bool    // some credential is shown as suspended
	Outdated  []Place // credentials that are shown as out of date
}

// Place of a credential in a status list.
type Place struct {
	List  string
	Index uint64
}

// Weaker: a status says less against a card than another one.
func Weaker(a, b byte) bool { return against(a) < against(b) }

func against(status byte) int {
	switch status {
	case Valid:
		return 0
	case Outdated:
		return 1
	case Suspended:
		return 2
	}
	return 3
}

// restoredRenewal is why a card that is shown as out of date has to be made anew: what the register said is lost.
const restoredRenewal = "restored"

func (s *State) restore(e Restore) (changed bool, err error) {
	if len(e.Revoked) == 0 && !e.Suspended && len(e.Outdated) == 0 {
		return false, fmt.Errorf("%w: nothing is to be restored", ErrEvent)
	}
	if s.Closed != "" {
		return false, nil // everything is revoked
	}
	stop := e.Suspended
	ended := false
	for i := range s.Credentials {
		c := &s.Credentials[i]
		at := Place{c.List, c.Index}
		if slices.Contains(e.Revoked, at) && c.live() {
			c.Phase, changed = Revoked, true
			ended = ended || s.bound(c.Device)
		}
		if slices.Contains(e.Outdated, at) && c.live() && !(c.Outdated && c.Shown) {
			c.Outdated, c.Shown, changed = true, true, true
			if i, there := slices.BinarySearch(s.Renew, restoredRenewal); !there {
				s.Renew = slices.Insert(s.Renew, i, restoredRenewal)
			}
		}
	}
	if ended && !slices.ContainsFunc(s.Credentials, func(c Credential) bool { return s.bound(c.Device) && c.live() }) {
		// Nothing of the phone is left. An mdoc alone may have been revoked by a lock, which leaves the phone where it is; whatever else was revoked
		// ended it, by another phone, whose cards are not known here, or for good: no card is made until somebody has looked.
		device := s.Device.ID
		if slices.ContainsFunc(s.Credentials, func(c Credential) bool {
			return c.Device == device && c.Format != policy.MDoc && slices.Contains(e.Revoked, Place{c.List, c.Index})
		}) {
			s.end()
		}
		stop = true
	}
	if i, there := slices.BinarySearchFunc(s.Locks, policy.Restored, compareLocks); stop && !there {
		s.add1(i, policy.Restored)
		changed = true
	}
	return changed, nil
}
