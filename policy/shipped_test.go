package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/evidence"
)

// shipped is a bundle of ours with an office in each of the districts.
func shipped(t testing.TB, name string, offices ...string) *Bundle {
	t.Helper()
	var f BundleFile
	if err := json.Unmarshal([]byte(read(t, name)), &f); err != nil {
		t.Fatal(err)
	}
	for _, d := range offices {
		f.Clients = append(f.Clients, ClientSpec{ID: "office-" + d, Role: "issuance", Issuer: "https://office-" + d + ".example", Channel: "office", District: d,
			May: map[string][]Operation{"kr-resident": {OpIssue, OpRefresh}}})
	}
	return parse(t, f)
}

// resident asks for the card of somebody who lives in home, through a client, by a method.
func resident(t testing.TB, method, client, office, home string, at time.Time) *scene {
	s := by(t, method)
	s.move(at)
	s.client(client)
	for i := range s.facts.Statements {
		s.facts.Statements[i].IssuedAt = at
	}
	s.statement(evidence.KindRegistryMatch).RegistryMatch.District = home
	if p := s.statement(evidence.KindInPerson); p != nil {
		p.InPerson.District = office
	}
	if f := s.statement(evidence.KindFaceMatch); f != nil && method != "office_qr" {
		f.FaceMatch.Reference = "chip_photo"
	}
	return s
}

// Facts 1 to 3, b8: each place and channel of the calendar, one second before and at its opening, with the dates of the ministry and those
// of the article, and with a clock that steps back.
func TestCalendarOfTheResidentCard(t *testing.T) {
	seoul := time.FixedZone("+09:00", 9*3600)
	on := func(year int, month time.Month, d int) time.Time { return time.Date(year, month, d, 0, 0, 0, 0, seoul) }
	places := map[string]struct {
		opens time.Time
		phase string
	}{}
	for _, p := range []struct {
		opens time.Time
		phase string
		codes string
	}{
		{on(2024, 12, 27), "pilot", "36110 51720 41281 41285 41287 48880 30170 27720 31710 46130 46830"},
		{on(2025, 2, 14), "phase-1", "27110 30110 31110 51110 52110 46110 47110 48120 50110 27710 31200"},
		{on(2025, 2, 28), "phase-2", "28110 41110 41290 43110 44130"},
		{on(2025, 3, 14), "phase-3", "11110 11680 26110 26350 29110"},
	} {
		for code := range strings.FieldsSeq(p.codes) {
			places[code+"51000"] = struct {
				opens time.Time
				phase string
			}{p.opens, p.phase}
		}
	}
	const elsewhere = "9999951000"
	offices := []string{elsewhere}
	for home := range places {
		offices = append(offices, home)
	}
	for file, everywhere := range map[string]time.Time{"kr-resident.json": on(2025, 3, 28), "kr-resident-article.json": on(2025, 4, 28)} {
		b := shipped(t, file, offices...)
		opens := func(t *testing.T, what, phase, before string, from time.Time, ask func(at time.Time) *scene) {
			t.Helper()
			a, d := ask(from.Add(-time.Second)).decide(b)
			if a != nil || d.Code != before {
				t.Errorf("%s, %s: a second early %s, want %s", file, what, d.Code, before)
			}
			if a, d = ask(from).decide(b); a == nil || a.Conditions().Latch != phase {
				t.Errorf("%s, %s: at %v %s, within %q", file, what, from, d.Code, a.Conditions().Latch)
			}
			s := ask(from.Add(-time.Second))
			s.request.Latched = []string{phase}
			a, d = s.decide(b)
			if a == nil { // also where it began with the law
				t.Errorf("%s, %s: the clock stepped back and it is %s", file, what, d.Code)
			}
		}
		for home, p := range places {
			for _, method := range []string{"office_qr", "ic_chip"} {
				opens(t, method+" at home in "+home, p.phase, "phase.not_open", p.opens, func(at time.Time) *scene {
					return resident(t, method, "office-"+home, home, home, at)
				})
				opens(t, method+" away from "+home, "everywhere", "phase.residence_only", everywhere, func(at time.Time) *scene {
					return resident(t, method, "office-"+elsewhere, elsewhere, home, at)
				})
			}
			opens(t, "portal for "+home, "gov24", "phase.not_open", everywhere, func(at time.Time) *scene {
				return resident(t, "ic_chip", "portal", "", home, at)
			})
		}
		// Fact 3: a portal has no officer, before and after.
		for _, at := range []time.Time{everywhere.Add(-time.Second), everywhere} {
			s := resident(t, "office_qr", "portal", "", elsewhere, at)
			s.drop(evidence.KindInPerson)
			a, d := s.decide(b)
			denied(t, a, d, "evidence.in_person_missing")
		}
	}
}

// b5 as shipped: which operation goes by which method, with which statements.
func TestMethodsAsShipped(t *testing.T) {
	for file, want := range map[string]map[string][]string{
		"kr-resident.json": {
			"office_qr": {"face_match", "in_person", "line_ownership", "registry_match"}, "ic_chip": {"chip_read", "face_match", "line_ownership", "registry_match"},
			"renewal": {"chip_read", "face_match", "line_ownership", "registry_match"}, "technical_refresh": {"line_ownership", "registry_match"}},
		"eu-pid.json": {"office": {"in_person", "registry_match"}, "ic_chip": {"chip_read", "registry_match"}, "refresh": {"registry_match"}},
	} {
		b := load(t, file)
		for _, typ := range b.types {
			if len(typ.methods) != len(want) {
				t.Errorf("%s: %d methods", file, len(typ.methods))
			}
			for name, m := range typ.methods {
				operation := OpIssue
				if name == "renewal" || strings.HasSuffix(name, "refresh") {
					operation = OpRefresh
				}
				if !slices.Equal(m.kinds, want[name]) || !slices.Equal(m.operations, []Operation{operation}) {
					t.Errorf("%s: %s is for %v with %v", file, name, m.operations, m.kinds)
				}
				// A refresh without a new look at the person must not move the document's end.
				if own := m.statements[evidence.KindRegistryMatch].Uncovered; slices.Contains(own, "expiry_date") || slices.Contains(own, "birth_date") || slices.Contains(own, "portrait") {
					t.Errorf("%s: %s leaves %v to the client", file, name, own)
				}
			}
		}
	}
}

// S8: where Europe's rules hold, the holder's desk revokes and nobody lifts that; no carrier has a say.
func TestEuropeRevokes(t *testing.T) {
	b := load(t, "eu-pid.json")
	change := func(client string, op Operation, reason string, s Slot) (*Approval, Decision) {
		return b.DecideChange(ChangeRequest{Client: client, Operation: op, DocumentType: "eu-pid", Subject: subject, Reason: reason}, s, noon)
	}
	for client, reason := range map[string]string{"loss-desk": "device_lost", "ministry": "attribute_changed"} {
		a, d := change(client, OpRevoke, reason, bound(noon))
		allowed(t, a, d)
	}
	for _, op := range []Operation{OpLock, OpUnlock} {
		a, d := change("loss-desk", op, "self_lost", bound(noon))
		denied(t, a, d, "client.forbidden")
	}
	a, d := change("ministry", OpUnlock, "attribute_changed", Slot{Epoch: 3})
	denied(t, a, d, "reason.unknown")
	a, d = change("telecom-a", OpLock, "telecom_lost", bound(noon))
	denied(t, a, d, "client.forbidden")
}
