package officer

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"sealkeeper/policy"
)

// Generate is one plan for one key: it is made, certified, announced, and takes over at its time. One quorum decides all of it, so that a
// rotation needs no officer at midnight.
type Generate struct {
	ID        string         `json:"key"`
	Purpose   policy.Purpose `json:"purpose"`
	Token     string         `json:"token"`
	Algorithm string         `json:"algorithm"`
	Name      string         `json:"name,omitempty"`     // common name of its certificate; the keys of tokens have none
	Succeeds  string         `json:"succeeds,omitempty"` // the key that signs until then
	Announce  time.Time      `json:"announce"`
	Activate  time.Time      `json:"activate,omitzero"` // absent: it stands by
	UseUntil  time.Time      `json:"use_until"`
	Until     time.Time      `json:"certificate_until,omitzero"`
	Uses      uint64         `json:"uses,omitzero"` // signatures; absent: no limit
	PerHour   uint64         `json:"per_hour,omitzero"`
	Reason    string         `json:"reason"`
}

// profiles are the certificates of keys that officers plan so, and token keys have none: the appliance alone says which they are. The first roots are made by
// ceremonies, the next ones by a Rollover.
var profiles = map[policy.Purpose]string{policy.PurposeMDoc: "document-signer", policy.PurposeSDJWT: "sdjwt-issuer", policy.PurposeList: "status-signer"}

// keyForm is that of a file's name on the public listener.
var keyForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Profile of the key's certificate.
func (p *Generate) Profile() string { return profiles[p.Purpose] }

func (p *Generate) check() error {
	algorithms := []string{"ES256", "ES384", "EdDSA"}
	if p.Purpose == policy.PurposeList || p.Purpose == policy.PurposeToken {
		algorithms = algorithms[:2]
	}
	begin := p.Announce
	if !p.Activate.IsZero() {
		begin = p.Activate
	}
	errs := []error{name("token", p.Token), reason(p.Reason), instant("announce", p.Announce), instant("use_until", p.UseUntil)}
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !keyForm.MatchString(p.ID) {
		fail("key %.40q: a new key's name has 1 to 32 small letters, digits and -", p.ID)
	}
	bare := p.Purpose == policy.PurposeToken
	if p.Profile() == "" && !bare {
		fail("purpose %.40q: keys are planned for mdoc, sd-jwt, status-list and token", p.Purpose)
	}
	if !slices.Contains(algorithms, p.Algorithm) {
		fail("algorithm %.20q: use one of %s", p.Algorithm, strings.Join(algorithms, ", "))
	}
	switch {
	case bare:
		if p.Name != "" || !p.Until.IsZero() {
			fail("a token key has no certificate: leave name and certificate_until away")
		}
	case !plain(p.Name, 1, 64):
		fail("the common name has 1 to 64 printable characters")
	}
	if !bare {
		errs = append(errs, instant("certificate_until", p.Until))
	}
	if !p.Activate.IsZero() {
		errs = append(errs, instant("activate", p.Activate))
	}
	if p.Succeeds != "" {
		errs = append(errs, name("succeeds", p.Succeeds))
		if p.Succeeds == p.ID || p.Activate.IsZero() {
			fail("a key succeeds another one, at a time; a key that stands by says neither")
		}
	}
	if begin.Before(p.Announce) || !begin.Before(p.UseUntil) || !bare && !p.UseUntil.Before(p.Until) {
		fail("announce, activate, use_until and certificate_until follow each other in this order")
	}
	if p.Purpose == policy.PurposeList && p.Uses+p.PerHour > 0 {
		fail("a list signer has no limit: a lock must be published, however many there are")
	}
	if p.Uses > 1<<50 || p.PerHour > 1<<50 {
		fail("a limit is below 2^50")
	}
	return errors.Join(errs...)
}

func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (p *Generate) text() []string {
	out := []string{fmt.Sprintf("Make key %s for %s, %s, on token %s.", p.ID, p.Purpose, p.Algorithm, p.Token)}
	if p.Purpose == policy.PurposeToken {
		out = append(out, "  It signs the one-time tokens by which clients enrol, and has no certificate.", "  It is announced at "+at(p.Announce)+".")
	} else {
		out = append(out, fmt.Sprintf("  The IACA's key signs one %s certificate for it: common name %q,", p.Profile(), p.Name),
			"  valid from when it is made until "+at(p.Until)+".",
			"  It is published from "+at(p.Announce)+" on.")
	}
	switch {
	case p.Activate.IsZero():
		out = append(out, "  It stands by: it signs only when officers activate it, or when the active key is compromised,", "  deactivated, used up or at the end of its use.")
	case p.Succeeds == "":
		out = append(out, "  It signs from "+at(p.Activate)+" on. There is no key for this purpose then.")
	case p.Purpose == policy.PurposeToken:
		out = append(out, "  It signs from "+at(p.Activate)+" on, and key "+p.Succeeds+" signs nothing more from then:", "  the tokens that it signed are good as long as they say, which is a day at most.")
	default:
		out = append(out, "  It signs from "+at(p.Activate)+" on, and key "+p.Succeeds+" signs nothing more from then:", "  what was reserved for that key is finished, and its certificate stays published.")
	}
	if p.Until.IsZero() {
		out = append(out, "  It signs until "+at(p.UseUntil)+".")
	} else {
		out = append(out, fmt.Sprintf("  It signs until %s, which is %d days before its certificate ends.", at(p.UseUntil), int(p.Until.Sub(p.UseUntil)/day)))
	}
	if p.Uses > 0 {
		out = append(out, fmt.Sprintf("  It signs %d times at most.", p.Uses))
	}
	if p.PerHour > 0 {
		out = append(out, fmt.Sprintf("  It signs %d times an hour at most.", p.PerHour))
	}
	return append(out, "  Reason: "+p.Reason)
}

// Rollover is one plan for one root: it is made on the token of the root before it, certifies itself, is linked to that one, announced, and certifies in
// its place from a time on.
type Rollover struct {
	ID        string    `json:"key"`
	Succeeds  string    `json:"succeeds"`
	Algorithm string    `json:"algorithm"`
	Name      string    `json:"name"` // common name of its certificate
	Announce  time.Time `json:"announce"`
	Activate  time.Time `json:"activate"`
	UseUntil  time.Time `json:"use_until"`
	Until     time.Time `json:"certificate_until"`
	Reason    string    `json:"reason"`
}

func (p *Rollover) check() error {
	errs := []error{name("succeeds", p.Succeeds), reason(p.Reason), instant("announce", p.Announce), instant("activate", p.Activate), instant("use_until", p.UseUntil),
		instant("certificate_until", p.Until)}
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !keyForm.MatchString(p.ID) {
		fail("key %.40q: a new key's name has 1 to 32 small letters, digits and -", p.ID)
	}
	if p.ID == p.Succeeds {
		fail("a root does not succeed itself")
	}
	if p.Algorithm != "ES256" && p.Algorithm != "ES384" {
		fail("algorithm %.20q: a root's is ES256 or ES384", p.Algorithm)
	}
	if !plain(p.Name, 1, 64) {
		fail("the common name has 1 to 64 printable characters")
	}
	if p.Activate.Before(p.Announce) || !p.Activate.Before(p.UseUntil) || !p.UseUntil.Before(p.Until) {
		fail("announce, activate, use_until and certificate_until follow each other in this order")
	}
	return errors.Join(errs...)
}

func (p *Rollover) text() []string {
	return []string{fmt.Sprintf("Make IACA key %s, %s, which takes the place of %s, on the same token.", p.ID, p.Algorithm, p.Succeeds),
		fmt.Sprintf("  It certifies itself: common name %q,", p.Name),
		"  valid from when it is made until " + at(p.Until) + ".",
		"  Key " + p.Succeeds + " signs one link certificate for it, which is good as long as both are:", "  with it, whoever trusts " + p.Succeeds + " comes to trust " + p.ID + ".",
		"  Both are published from " + at(p.Announce) + " on.",
		"  It certifies from " + at(p.Activate) + " on, and key " + p.Succeeds + " certifies nothing more from then:", "  what that one certified stays valid, and its revocation list goes on.",
		fmt.Sprintf("  It certifies until %s, which is %d days before its certificate ends.", at(p.UseUntil), int(p.Until.Sub(p.UseUntil)/day)),
		"  Reason: " + p.Reason}
}

// ClientCA is a Rollover of the clients' CA.
type ClientCA Rollover

func (p *ClientCA) check() error { return (*Rollover)(p).check() }

func (p *ClientCA) text() []string {
	return []string{fmt.Sprintf("Make clients' CA key %s, %s, which takes the place of %s, on the same token.", p.ID, p.Algorithm, p.Succeeds),
		fmt.Sprintf("  It certifies itself: common name %q,", p.Name),
		"  valid from when it is made until " + at(p.Until) + ".",
		"  Key " + p.Succeeds + " signs one link certificate for it, which is good as long as both are:", "  with it, clients that trust " + p.Succeeds + " come to trust " + p.ID + ".",
		"  Clients learn of it from " + at(p.Announce) + " on, whenever they renew.",
		"  It certifies clients and servers from " + at(p.Activate) + " on, and key " + p.Succeeds + " certifies nothing more", "  from then: clients whose certificate is by that one are let in until it ends.",
		fmt.Sprintf("  It certifies until %s, which is %d days before its certificate ends.", at(p.UseUntil), int(p.Until.Sub(p.UseUntil)/day)),
		"  Reason: " + p.Reason}
}

// Activate has a key sign from now on, in the place of another one.
type Activate struct {
	ID       string `json:"key"`
	Succeeds string `json:"succeeds,omitempty"` // the key that is active until then; absent: none is
	Reason   string `json:"reason"`
}

func (p *Activate) check() error {
	errs := []error{name("key", p.ID), reason(p.Reason)}
	if p.Succeeds != "" {
		errs = append(errs, name("succeeds", p.Succeeds))
	}
	if p.Succeeds == p.ID {
		errs = append(errs, errors.New("a key does not succeed itself"))
	}
	return errors.Join(errs...)
}

func (p *Activate) text() []string {
	out := []string{"Key " + p.ID + " signs from the moment at which this is executed."}
	if p.Succeeds == "" {
		out = append(out, "  No other key is active for its purpose.")
	} else {
		out = append(out, "  Key "+p.Succeeds+" signs nothing more from then: what was reserved for it is finished, and its", "  certificate stays published.")
	}
	return append(out, "  Reason: "+p.Reason)
}

// Deactivate has a key sign nothing more.
type Deactivate struct {
	ID     string `json:"key"`
	Reason string `json:"reason"`
}

func (p *Deactivate) check() error { return errors.Join(name("key", p.ID), reason(p.Reason)) }

func (p *Deactivate) text() []string {
	return []string{"Key " + p.ID + " signs nothing more, for ever. What it signed stays valid.",
		"  If it is active, a key that stands by takes over; without one nothing more is signed for its purpose.", "  Reason: " + p.Reason}
}

// Compromise says that somebody else may have a key.
type Compromise struct {
	ID     string `json:"key"`
	Reason string `json:"reason"`
}

func (p *Compromise) check() error { return errors.Join(name("key", p.ID), reason(p.Reason)) }

func (p *Compromise) text() []string {
	return []string{"Key " + p.ID + " is compromised: it signs nothing more from the moment at which this is executed.",
		"  Its certificate is revoked for good, and the IACA's key signs a CRL that says so:", "  verifiers refuse everything that this key ever signed, and every holder needs a new card.",
		"  If it is active, a key that stands by takes over; without one nothing more is signed for its purpose.", "  Reason: " + p.Reason}
}

// Destroy takes a key off its token.
type Destroy struct {
	ID     string `json:"key"`
	Reason string `json:"reason"`
}

func (p *Destroy) check() error { return errors.Join(name("key", p.ID), reason(p.Reason)) }

func (p *Destroy) text() []string {
	return []string{"Take key " + p.ID + " off its token. Nothing brings it back but a backup of that token.",
		"  What it signed stays valid, and its certificate stays published until it ends.", "  Reason: " + p.Reason}
}
