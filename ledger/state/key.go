package state

import (
	"fmt"
	"slices"
	"time"
)

// KeyState is where a key stands in its life (NIST SP 800-57 part 1, 7). Planned is before that: officers decided on it, and no token was
// asked yet; the plan says under which id the token will have it, so that a key that a crash left there is known.
type KeyState string

const (
	KeyPlanned     KeyState = "planned"
	KeyGenerated   KeyState = "generated"
	KeyCertified   KeyState = "certified"
	KeyAnnounced   KeyState = "announced"   // its certificate is public, and it signs nothing yet
	KeyActive      KeyState = "active"      // the only state in which anything new is signed
	KeyDeactivated KeyState = "deactivated" // what it signed is verified; what was reserved before is finished, for a while
	KeyCompromised KeyState = "compromised" // what it signed is not believed
	KeyDestroyed   KeyState = "destroyed"   // no token has it any more
)

// keySteps are all steps that there are. A key that was never used can be deactivated: officers thought better of it. One that was not made, too: its token
// may refuse it for good, or have made it already, which nobody uses and which is taken off when it is destroyed. A key that was destroyed can turn out to be
// compromised: a copy of its token was found.
var keySteps = map[KeyState][]KeyState{
	"":             {KeyPlanned, KeyGenerated},
	KeyPlanned:     {KeyGenerated, KeyDeactivated, KeyDestroyed},
	KeyGenerated:   {KeyCertified, KeyDeactivated, KeyCompromised, KeyDestroyed},
	KeyCertified:   {KeyAnnounced, KeyActive, KeyDeactivated, KeyCompromised, KeyDestroyed},
	KeyAnnounced:   {KeyActive, KeyDeactivated, KeyCompromised, KeyDestroyed},
	KeyActive:      {KeyDeactivated, KeyCompromised},
	KeyDeactivated: {KeyCompromised, KeyDestroyed},
	KeyCompromised: {KeyDestroyed},
	KeyDestroyed:   {KeyCompromised},
}

// KeyStates are all of them, in the order of a life.
func KeyStates() []KeyState {
	return []KeyState{KeyPlanned, KeyGenerated, KeyCertified, KeyAnnounced, KeyActive, KeyDeactivated, KeyCompromised, KeyDestroyed}
}

// Follows says whether one state can come directly after another.
func (s KeyState) Follows(before KeyState) bool { return slices.Contains(keySteps[before], s) }

// Path is the steps from one state to another on which nothing is left out: a key that is certified and used at once was generated before.
func (s KeyState) Path(from KeyState) []KeyState {
	type way struct {
		at   KeyState
		over []KeyState
	}
	seen := map[KeyState]bool{from: true}
	for queue := []way{{at: from}}; len(queue) > 0; queue = queue[1:] {
		for _, next := range keySteps[queue[0].at] {
			over := append(slices.Clone(queue[0].over), next)
			if next == s {
				return over
			}
			if !seen[next] && next != KeyPlanned {
				seen[next] = true
				queue = append(queue, way{next, over})
			}
		}
	}
	return nil
}

// KeyWindow is when a key may be used: private-key use from NotBefore until NotAfter, and its certificate until Until. Zero: not known yet.
type KeyWindow struct {
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Until     time.Time `json:"until,omitzero"`
}

// KeyStep says whether a key with this window can go from one state to another at an instant, the last step having been at since.
func KeyStep(from, to KeyState, w KeyWindow, since, at time.Time) error {
	switch {
	case !to.Follows(from) && from == "":
		return fmt.Errorf("a key does not begin as %s", to)
	case !to.Follows(from):
		return fmt.Errorf("a key that is %s does not become %s", from, to)
	case at.Before(since):
		return fmt.Errorf("it became %s at %s, and would become %s before that", from, since.Format(time.RFC3339), to)
	case w.NotAfter.Before(w.NotBefore) || (!w.NotAfter.IsZero() && !w.Until.IsZero() && !w.NotAfter.Before(w.Until)):
		return fmt.Errorf("its use from %s to %s has to end before its certificate does, at %s", w.NotBefore.Format(time.RFC3339), w.NotAfter.Format(time.RFC3339), w.Until.Format(time.RFC3339))
	case to == KeyActive && !w.NotAfter.IsZero() && (at.Before(w.NotBefore.Truncate(time.Second)) || !at.Before(w.NotAfter)):
		return fmt.Errorf("it may be used from %s to %s, and it is %s", w.NotBefore.Format(time.RFC3339), w.NotAfter.Format(time.RFC3339), at.Format(time.RFC3339))
	}
	return nil
}
