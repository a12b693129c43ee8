package officer

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
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

func (p *Dismiss) text() []string {
	out := []string{fmt.Sprintf("Revoke %d clients, for ever. Their names, SHA-256:", len(p.Clients)), "  " + policy.NamesDigest(p.Clients).String()}
	if len(p.Clients) <= shown {
		out = append(out, "  "+strings.Join(p.Clients, ", "))
	}
	return append(out, "  Reason: "+p.Reason)
}
