package officer

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"sealkeeper/policy"
)

// Enrol lets clients in: one, or all offices of a country at once. What an approval shows of many is how many, a hash of the list, and how they
// spread; the list itself is signed with it, and sealctl prints it.
type Enrol struct {
	Clients []policy.Enrolment `json:"clients"`
	Until   time.Time          `json:"until"` // by then each has to register its key
	Reason  string             `json:"reason"`
}

// shown clients are listed one by one; more are counted.
const shown = 12

func (p *Enrol) check() error {
	return errors.Join(policy.CheckEnrolments(p.Clients), instant("until", p.Until), reason(p.Reason))
}

func (p *Enrol) text() []string {
	roles, districts, lives := map[string]int{}, map[string]int{}, map[string]int{}
	for _, e := range p.Clients {
		role := e.Role
		if e.Channel != "" {
			role += " by channel " + e.Channel
		}
		roles[role]++
		districts[cmp.Or(e.District, "(none)")]++
		lives[e.Lifetime().String()]++
	}
	out := []string{fmt.Sprintf("Enrol %d clients, who register their keys before %s. List, SHA-256:", len(p.Clients), p.Until.Format(time.RFC3339)),
		"  " + policy.EnrolmentsDigest(p.Clients).String()}
	out = append(out, spread("role", roles)...)
	out = append(out, spread("district", districts)...)
	out = append(out, spread("certificates of", lives)...)
	if len(p.Clients) <= shown {
		for _, e := range p.Clients {
			out = append(out, fmt.Sprintf("  %s: %s%s%s%s%s", e.ID, e.Role, part(", channel ", e.Channel), part(", office ", e.Office), part(", district ", e.District), part(", for carrier ", e.Carrier)))
		}
	}
	return append(out, "  Reason: "+p.Reason)
}

func part(what, s string) string {
	if s == "" {
		return ""
	}
	return what + s
}

// spread counts by name, all of them: what is left out could be what matters.
func spread(what string, n map[string]int) (out []string) {
	var line strings.Builder
	for i, name := range slices.Sorted(maps.Keys(n)) {
		if i > 0 && i%8 == 0 {
			out = append(out, line.String())
			line.Reset()
		}
		if line.Len() == 0 {
			line.WriteString("  " + what + ":")
		} else {
			line.WriteString(",")
		}
		fmt.Fprintf(&line, " %s × %d", name, n[name])
	}
	return append(out, line.String())
}

// Dismiss revokes clients, for ever: the kill switch. It counts from the next request on, on every connection.
type Dismiss struct {
	Clients []string `json:"clients"`
	Reason  string   `json:"reason"`
}

func (p *Dismiss) check() error {
	if len(p.Clients) == 0 || len(p.Clients) > policy.MaxEnrolments {
		return fmt.Errorf("one revocation is of 1 to %d clients", policy.MaxEnrolments)
	}
	var errs []error
	for _, id := range p.Clients {
		errs = append(errs, name("client", id))
	}
	if sorted := slices.Sorted(slices.Values(p.Clients)); len(slices.Compact(sorted)) != len(p.Clients) {
		errs = append(errs, errors.New("a client is named twice"))
	}
	return errors.Join(append(errs, reason(p.Reason))...)
}

// held are certificates of one name that are put on hold, or back to use.
type held struct {
	Certificates []string `json:"certificates"` // serial numbers, 40 hexadecimal digits each
	Of           string   `json:"of"`           // the name that all of them have: for who approves, and held against what was issued
	Reason       string   `json:"reason"`
}

// Withhold puts certificates on hold: nobody is to believe them until that is taken back.
type Withhold struct{ held }

// Restore takes a hold of certificates back.
type Restore struct{ held }

// mostHeld certificates of one client there are.
const mostHeld = 16

var serialForm = regexp.MustCompile(`^[0-9a-f]{40}$`)

// Serials are the certificates' serial numbers, of 20 octets.
func (p *held) Serials() (all [][]byte) {
	for _, s := range p.Certificates {
		b, _ := hex.DecodeString(s) // check said that it is one
		all = append(all, b)
	}
	return all
}

func (p *held) check() error {
	errs := []error{reason(p.Reason)}
	if len(p.Certificates) == 0 || len(p.Certificates) > mostHeld {
		errs = append(errs, fmt.Errorf("it is about 1 to %d certificates", mostHeld))
	}
	for _, s := range p.Certificates {
		if !serialForm.MatchString(s) {
			errs = append(errs, fmt.Errorf("%.50q is no serial number: they have 40 hexadecimal digits", s))
		}
	}
	if sorted := slices.Sorted(slices.Values(p.Certificates)); len(slices.Compact(sorted)) != len(p.Certificates) {
		errs = append(errs, errors.New("a certificate is named twice"))
	}
	if !plain(p.Of, 1, 64) {
		errs = append(errs, errors.New("of is the name in the certificates, of 1 to 64 printable characters"))
	}
	return errors.Join(errs...)
}

func (p *Withhold) text() []string {
	out := []string{fmt.Sprintf("Put %d certificates of %q on hold:", len(p.Certificates), p.Of)}
	for _, s := range p.Certificates {
		out = append(out, "  "+s)
	}
	return append(out, "  Who comes with one gets nothing from then on, and no other certificate; its CA's list names it.", "  It can be taken back: certificate.lift.", "  Reason: "+p.Reason)
}

func (p *Restore) text() []string {
	out := []string{fmt.Sprintf("Take the hold of %d certificates of %q back:", len(p.Certificates), p.Of)}
	for _, s := range p.Certificates {
		out = append(out, "  "+s)
	}
	return append(out, "  They are good again, and their CA's next list does not name them.", "  Reason: "+p.Reason)
}

func (p *Dismiss) text() []string {
	out := []string{fmt.Sprintf("Revoke %d clients, for ever. Their names, SHA-256:", len(p.Clients)), "  " + policy.NamesDigest(p.Clients).String()}
	if len(p.Clients) <= shown {
		out = append(out, "  "+strings.Join(p.Clients, ", "))
	}
	return append(out, "  Reason: "+p.Reason)
}
