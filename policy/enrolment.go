package policy

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Enrolment is what security officers approved of one client: who it is, what it is, and where. What a client of its role and channel may do is
// the bundle's to say, once for all of them, so that thousands of offices need no entry each.
type Enrolment struct {
	ID       string `json:"id"`
	Role     string `json:"role"`
	Channel  string `json:"channel,omitempty"`  // which of the bundle's groups of that role
	Office   string `json:"office,omitempty"`   // code of the office it stands in
	District string `json:"district,omitempty"` // in which that is; it counts like the one that a bundle gives a client
	Carrier  string `json:"carrier,omitempty"`  // for which carrier it speaks
	Life     int64  `json:"life"`               // seconds: of each of its certificates
}

// Bounds of an enrolment. Certificates of enrolled clients are short, because their renewal needs nobody.
const (
	LeastClientLife = 10 * time.Second
	MostClientLife  = 31 * 24 * time.Hour
	MaxEnrolments   = 10_000 // in one approval
)

// Roles that a client may have.
func Roles() []string { return slices.Sorted(maps.Keys(roles)) }

// URI is the client's one name in its certificates.
func (e Enrolment) URI() string { return "urn:sealkeeper:client:" + e.Role + ":" + e.ID }

// profile of its certificates: an officer's says that it is one.
func (e Enrolment) profile() string {
	if e.Role == "officer" {
		return "officer"
	}
	return "client"
}

// Lifetime of each of its certificates.
func (e Enrolment) Lifetime() time.Duration { return time.Duration(e.Life) * time.Second }

// Check refuses an enrolment that no certificate could be made of, whatever the bundle says.
func (e Enrolment) Check() error {
	_, known := roles[e.Role]
	switch {
	case !idForm.MatchString(e.ID):
		return fmt.Errorf("client id %.70q is not an id: use 1 to 64 lower case letters, digits and '-'", e.ID)
	case !known:
		return fmt.Errorf("client %s has the role %.40q, which does not exist", e.ID, e.Role)
	case e.Channel != "" && !nameForm.MatchString(e.Channel):
		return fmt.Errorf("channel %.70q of client %s is not a name: use lower case letters, digits and '_'", e.Channel, e.ID)
	case e.Office != "" && !districtForm.MatchString(e.Office), e.District != "" && !districtForm.MatchString(e.District):
		return fmt.Errorf("office and district of client %s are codes of at most 32 letters, digits and '-'", e.ID)
	case (e.Carrier != "") != (e.Role == "carrier"), e.Carrier != "" && !idForm.MatchString(e.Carrier):
		return fmt.Errorf("client %s: clients of the role carrier name the carrier that they speak for, others name none", e.ID)
	case e.Life < int64(LeastClientLife/time.Second) || e.Life > int64(MostClientLife/time.Second):
		return fmt.Errorf("certificates of client %s would live %d s: use %d to %d", e.ID, e.Life, LeastClientLife/time.Second, MostClientLife/time.Second)
	}
	return nil
}

// CheckEnrolments checks those of one approval, of which none has the name of another.
func CheckEnrolments(all []Enrolment) error {
	if len(all) == 0 || len(all) > MaxEnrolments {
		return fmt.Errorf("%d clients: one approval enrols 1 to %d", len(all), MaxEnrolments)
	}
	ids := make([]string, len(all))
	for i, e := range all {
		if err := e.Check(); err != nil {
			return err
		}
		ids[i] = e.ID
	}
	slices.Sort(ids)
	for i := range ids {
		if i > 0 && ids[i] == ids[i-1] {
			return fmt.Errorf("client %s is enrolled twice", ids[i])
		}
	}
	return nil
}

// EnrolmentsDigest names the enrolments of one approval: SHA-256 over each one's JSON with a line end, by id.
func EnrolmentsDigest(all []Enrolment) Hash {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b Enrolment) int { return strings.Compare(a.ID, b.ID) })
	h := sha256.New()
	for _, e := range all {
		line, err := json.Marshal(e, json.Deterministic(true))
		if err != nil { // strings and a number
			panic(err)
		}
		h.Write(append(line, '\n'))
	}
	return Hash(h.Sum(nil))
}

// NamesDigest names the clients of one revocation: SHA-256 over their ids with a line end each, by id.
func NamesDigest(ids []string) Hash {
	h := sha256.New()
	for _, id := range slices.Sorted(slices.Values(ids)) {
		h.Write([]byte(id + "\n"))
	}
	return Hash(h.Sum(nil))
}
