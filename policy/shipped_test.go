package policy

import (
	"math/rand/v2"
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

// The calendar of requirements.md b8, written down a second time: which phases a district of residence is in, in the order of their beginning.
var calendar = []struct {
	phase     string
	y, m, d   int
	districts string
}{
	{"pilot", 2024, 12, 27, "36 51720 4128 48880 30170 27720 31710 46130 46830"},
	{"phase-1", 2025, 2, 14, "27 30 31 36 51 52 46 47 48 50"},
	{"phase-2", 2025, 2, 28, "28 41 43 44"},
	{"phase-3", 2025, 3, 14, "11 26 29"},
}

// Acceptance 3: whatever the clock does (a second around every boundary in Seoul and in UTC, leaps over many phases and years, back to before the
// law), every district, channel and method is decided as the calendar says, and what has begun stays begun. A type without phases does not care.
func TestCalendarUnderStepsOfTheClock(t *testing.T) {
	if race {
		t.Skip("a function of one goroutine: make unit runs it without the race detector")
	}
	seoul := time.FixedZone("+09:00", 9*3600)
	homes := strings.Fields("3611051000 5172051000 4128151000 4888051000 3017051000 2772051000 3171051000 4613051000 4683051000 2711051000 3011051000 " +
		"5111051000 5211051000 4711051000 4812051000 5011051000 2811051000 4111051000 4311051000 4413051000 1111051000 2635051000 2911051000 9999951000")
	const elsewhere = "8888851000"
	for file, all := range map[string]time.Time{"kr-resident.json": time.Date(2025, 3, 28, 0, 0, 0, 0, seoul), "kr-resident-article.json": time.Date(2025, 4, 28, 0, 0, 0, 0, seoul)} {
		b, pid := shipped(t, file, append(homes, elsewhere)...), load(t, "eu-pid.json")
		begins := map[string]time.Time{"everywhere": all, "gov24": all}
		for _, p := range calendar {
			begins[p.phase] = time.Date(p.y, time.Month(p.m), p.d, 0, 0, 0, 0, seoul)
		}
		var instants []time.Time
		for _, from := range begins {
			day := time.Date(from.Year(), from.Month(), from.Day(), 0, 0, 0, 0, time.UTC) // nine hours later: the zone counts
			for _, d := range []time.Duration{-24 * time.Hour, -time.Second, 0, time.Second, 24 * time.Hour} {
				instants = append(instants, from.Add(d), day.Add(d))
			}
		}
		for _, s := range []string{"2024-02-29T00:00:00+09:00", "2024-02-29T23:59:59+09:00", "2024-12-31T23:59:59+09:00", "2025-02-28T23:59:59+09:00", "2025-03-01T00:00:00+09:00",
			"2028-02-28T23:59:59+09:00", "2028-02-29T12:00:00+09:00", "2028-03-01T00:00:00+09:00", "2032-02-29T23:59:59Z", "2016-02-29T00:00:00Z"} {
			at, err := time.Parse(time.RFC3339, s)
			if err != nil {
				t.Fatal(err)
			}
			instants = append(instants, at)
		}
		// says is the calendar: the phase that opens it, or the refusal.
		says := func(at time.Time, begun map[string]bool, home, way string) (phase, code string) {
			open := func(p string) bool { return begun[p] || !at.Before(begins[p]) }
			if way == "portal" {
				if open("gov24") {
					return "gov24", ""
				}
				return "", "phase.not_open"
			}
			code = "phase.not_open"
			for _, p := range calendar {
				if slices.ContainsFunc(strings.Fields(p.districts), func(d string) bool { return strings.HasPrefix(home, d) }) && open(p.phase) {
					if way == "home" {
						return p.phase, ""
					}
					code = "phase.residence_only"
				}
			}
			if open("everywhere") {
				return "everywhere", ""
			}
			return "", code
		}
		refused, opened := 0, map[string]int{}
		ask := func(at time.Time, begun map[string]bool, home, way, method string) (latch string) {
			t.Helper()
			client, office := "office-"+home, home
			switch way {
			case "away":
				client, office = "office-"+elsewhere, elsewhere
			case "portal":
				client, office, method = "portal", "", "ic_chip"
			}
			s := resident(t, method, client, office, home, at)
			for p := range begun {
				s.request.Latched = append(s.request.Latched, p)
			}
			a, d := s.decide(b)
			phase, code := says(at, begun, home, way)
			if a != nil {
				latch = a.Conditions().Latch
			}
			if d.Code != code || (a == nil) != (code != "") || code == "" && (!slices.Contains(d.Rules, "D:phase/"+phase) || (latch == phase) == begun[phase]) {
				t.Errorf("%s at %v, begun %v: %s of %s by %s is %q by %v, latches %q; the calendar says %q %q", file, at, begun, way, home, method, d.Code, d.Rules, latch, phase, code)
			}
			if opened[phase]++; code != "" {
				refused++
			}
			return latch
		}
		ways := []string{"home", "away", "portal"}
		for _, at := range instants {
			for _, home := range homes {
				for i, way := range ways {
					ask(at, nil, home, way, []string{"office_qr", "ic_chip"}[(i+int(at.Unix()&1))%2])
				}
			}
			s := aScene("eu-pid")
			s.move(at)
			s.request.Method, s.facts.about.Subject = "office", subject
			s.facts.Statements = append(s.facts.Statements, said(t, s, evidence.KindInPerson), said(t, s, evidence.KindRegistryMatch))
			if a, d := s.decide(pid); a == nil || a.Conditions().Latch != "" {
				t.Errorf("a type without phases at %v: %s %s", at, d.Code, d.Detail)
			}
		}
		random := rand.New(rand.NewPCG(1, 2)) // the same walks each time
		for range 20 {
			begun := map[string]bool{}
			for range 150 {
				at, home := instants[random.IntN(len(instants))], homes[random.IntN(len(homes))]
				if latch := ask(at, begun, home, ways[random.IntN(3)], []string{"office_qr", "ic_chip"}[random.IntN(2)]); latch != "" {
					begun[latch] = true
				}
			}
		}
		if len(opened) != len(begins)+1 || refused < 1000 {
			t.Errorf("%s: opened by %v, %d refused: the walk does not come to every phase", file, opened, refused)
		}
	}
}

// The bundles that we ship test themselves: as they stand their tests pass, and whoever moves a phase by a second, lets a statement live a
// second longer or drops it, takes away a reason, a rule, a client or who may what, sees one fail.
func TestShippedBundlesTestThemselves(t *testing.T) {
	if race {
		t.Skip("a function of one goroutine: make unit runs it without the race detector")
	}
	for _, file := range []string{"kr-resident.json", "kr-resident-article.json", "eu-pid.json"} {
		written := func() (f BundleFile) {
			if err := json.Unmarshal([]byte(read(t, file)), &f); err != nil {
				t.Fatal(err)
			}
			return f
		}
		f := written()
		if err := parse(t, f).Test(file); err != nil {
			t.Error(err)
		}
		tried := 0
		fails := func(what string, bend func(f *BundleFile)) {
			t.Helper()
			tried++
			g := written()
			bend(&g)
			b, err := Parse(file, text(t, g))
			if err == nil && b.Test(file) == nil {
				t.Errorf("%s: %s, and no test of the bundle fails", file, what)
			}
		}
		for i, p := range f.Phases {
			for _, d := range []time.Duration{-time.Second, time.Second} {
				fails(p.ID+" begins "+d.String()+" late", func(f *BundleFile) { f.Phases[i].From = p.From.Add(d) })
			}
			fails(p.ID+" is gone", func(f *BundleFile) { f.Phases = slices.Delete(f.Phases, i, i+1) })
		}
		if file == "kr-resident-article.json" { // the same but for its calendar
			continue
		}
		for i, r := range f.Rules {
			if r.ID != "resident-since-law" { // no phase begins before: it stands for whoever writes another calendar
				fails("rule "+r.ID+" is gone", func(f *BundleFile) { f.Rules = slices.Delete(f.Rules, i, i+1) })
			}
		}
		for i, c := range f.Clients {
			if c.Role != "auditor" && c.Role != "operator" {
				fails(c.ID+" is gone", func(f *BundleFile) { f.Clients = slices.Delete(f.Clients, i, i+1) })
				continue
			}
			fails(c.ID+" locks and revokes", func(f *BundleFile) {
				f.Clients[i].Role, f.Clients[i].Class = "desk", "holder"
				for name := range f.Types {
					f.Clients[i].May[name] = []Operation{OpLock, OpRevoke}
				}
			})
		}
		for _, reasons := range []func(f *BundleFile) map[string][]string{func(f *BundleFile) map[string][]string { return f.LockReasons },
			func(f *BundleFile) map[string][]string { return f.RevocationReasons }} {
			for r := range reasons(&f) {
				fails("reason "+r+" is gone", func(f *BundleFile) { delete(reasons(f), r) })
				fails("reason "+r+" is the officers'", func(f *BundleFile) { reasons(f)[r] = []string{"officers"} })
			}
		}
		for name, typ := range f.Types {
			for m, method := range typ.Methods {
				for kind, s := range method.Statements {
					what := m + " of " + name + ": " + kind
					fails(what+" is not needed", func(f *BundleFile) { delete(f.Types[name].Methods[m].Statements, kind) })
					fails(what+" lives a second longer", func(f *BundleFile) {
						age, err := time.ParseDuration(s.MaxAge)
						if err != nil {
							t.Fatal(err)
						}
						s := s
						s.MaxAge = (age + time.Second).String()
						f.Types[name].Methods[m].Statements[kind] = s
					})
				}
				fails(m+" is gone", func(f *BundleFile) { delete(f.Types[name].Methods, m) })
			}
			fails("weaker phones", func(f *BundleFile) {
				typ := f.Types[name]
				typ.Evidence.KeyStorage = nil
				f.Types[name] = typ
			})
			fails("a copy more", func(f *BundleFile) {
				typ := f.Types[name]
				typ.MaxCopies++
				f.Types[name] = typ
			})
		}
		if tried < 30 {
			t.Errorf("%s: only %d changes were tried", file, tried)
		}
	}
}
