package policy

import (
	"crypto/ed25519"
	"encoding/base64"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
)

var kinds = []string{evidence.KindInPerson, evidence.KindRegistryMatch, evidence.KindFaceMatch, evidence.KindChipRead, evidence.KindLineOwnership}

// maxAges of the programme below.
var maxAges = map[string]time.Duration{evidence.KindInPerson: 90 * time.Second, evidence.KindRegistryMatch: 10 * time.Minute,
	evidence.KindFaceMatch: 5 * time.Minute, evidence.KindChipRead: 2 * time.Minute, evidence.KindLineOwnership: time.Hour}

// programme is a resident card with methods, phases, budgets and an authority. Of the offices, one is in Jongno, one in Busan, and one is
// in no district; a portal is there too, and a service without a channel.
func programme(t testing.TB) BundleFile {
	t.Helper()
	var f BundleFile
	if err := json.Unmarshal([]byte(read(t, "demo.json")), &f); err != nil {
		t.Fatal(err)
	}
	f.Name = "programme"
	for _, c := range []ClientSpec{{ID: "ward-office-1", Channel: "office", District: "1111051500"}, {ID: "ward-office-2", Channel: "office", District: "2611051000"},
		{ID: "ward-office-3", Channel: "office"}, {ID: "portal", Channel: "portal"}, {ID: "nowhere"}} {
		c.Role, c.Issuer, c.May = "issuance", "https://"+c.ID+".example", map[string][]Operation{"kr-resident": {OpIssue, OpRefresh}, "mdl": {OpIssue}}
		f.Clients = append(slices.DeleteFunc(f.Clients, func(o ClientSpec) bool { return o.ID == c.ID }), c)
	}
	typ := f.Types["kr-resident"]
	own := []string{"issue_date", "issuing_country", "issuing_authority"}
	register := StatementSpec{MaxAge: "10m", CardStatus: []string{"valid"}, Uncovered: own}
	face := StatementSpec{MaxAge: "5m", Levels: []string{"high"}, MinLiveness: 2, References: []string{"card_photo", "chip_photo"}, Algorithms: []string{"matcher-5"}}
	line := StatementSpec{MaxAge: "1h", LineKinds: []string{"personal", "prepaid"}}
	both := []string{"office", "portal"}
	typ.Methods = map[string]MethodSpec{
		"office_qr": {Operations: []Operation{OpIssue}, Channels: both, Statements: map[string]StatementSpec{
			evidence.KindInPerson: {MaxAge: "90s", Methods: []string{"qr"}, CardSeen: true}, evidence.KindRegistryMatch: register,
			evidence.KindFaceMatch: face, evidence.KindLineOwnership: line}},
		"ic_chip": {Operations: []Operation{OpIssue}, Channels: both, Statements: map[string]StatementSpec{
			evidence.KindChipRead: {MaxAge: "2m", Chip: []string{"chip_authentication"}, PIN: true}, evidence.KindRegistryMatch: register,
			evidence.KindFaceMatch: face, evidence.KindLineOwnership: line}},
		"technical_refresh": {Operations: []Operation{OpRefresh}, Channels: []string{"office"}, Statements: map[string]StatementSpec{
			evidence.KindRegistryMatch: register, evidence.KindLineOwnership: {MaxAge: "1h"}}},
		"both_ways": {Operations: []Operation{OpIssue, OpRefresh}, Channels: []string{"portal"}},
	}
	f.Types["kr-resident"] = typ
	rule := f.Rules[0]
	rule.Cedar = `permit (principal, action, resource);`
	f.Rules = []RuleSpec{rule}
	f.Authorities = []AuthoritySpec{{ID: "register", Kinds: []string{evidence.KindRegistryMatch}, Districts: []string{"1111051500"}, Clients: []string{"portal"},
		Keys: []AuthorityKeySpec{{ID: "register-1", JWK: publicJWK(1), NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0)}}}}
	return f
}

// publicJWK of a made-up key.
func publicJWK(seed byte) jsontext.Value {
	public := ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	return jsontext.Value(`{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}`)
}

func parse(t testing.TB, f BundleFile) *Bundle {
	t.Helper()
	b, err := Parse("programme.json", text(t, f))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func text(t testing.TB, f BundleFile) []byte {
	t.Helper()
	data, err := json.Marshal(f, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// fataler is a testing.TB or a rapid.T.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

// said is a good statement of a kind about the scene's person: the register's covers all claims that the scene has by now.
func said(t fataler, s *scene, kind string) evidence.Statement {
	t.Helper()
	st := evidence.Statement{Kind: kind, Authority: "of-" + kind, IssuedAt: s.at}
	switch kind {
	case evidence.KindInPerson:
		st.InPerson = &evidence.InPerson{Officer: "officer-3", Office: "11110-1", District: "1111051500", Method: "qr", CardSeen: true}
	case evidence.KindRegistryMatch:
		claims := map[string]jsontext.Value{}
		for name, v := range s.claims {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			claims[name] = b
		}
		salt, digests, err := statement.Digests([16]byte{1}, claims)
		if err != nil {
			t.Fatal(err)
		}
		st.RegistryMatch = &evidence.RegistryMatch{District: "1111051500", Salt: salt, Attributes: digests, CardStatus: "valid", CardExpiry: "2036-01-14"}
	case evidence.KindFaceMatch:
		st.FaceMatch = &evidence.FaceMatch{Level: "high", Liveness: 2, Algorithm: "matcher-5", Reference: "card_photo"}
	case evidence.KindChipRead:
		st.ChipRead = &evidence.ChipRead{Passive: true, Chip: "chip_authentication", PINVerified: true, Card: "c-1", CardExpiry: "2036-01-14"}
	case evidence.KindLineOwnership:
		st.LineOwnership = &evidence.LineOwnership{Line: "line-1", Subscriber: "self", LineKind: "personal"}
	}
	return st
}

// by is a request by a method with everything that the programme asks for.
func by(t fataler, method string) *scene {
	t.Helper()
	s := aScene("kr-resident")
	s.request.Method, s.facts.about.Subject = method, subject
	asked := map[string][]string{"office_qr": {kinds[0], kinds[1], kinds[2], kinds[4]}, "ic_chip": {kinds[3], kinds[1], kinds[2], kinds[4]}, "technical_refresh": {kinds[1], kinds[4]}}[method]
	if method == "technical_refresh" {
		refresh(s, 45*day)
	}
	for _, kind := range asked {
		s.facts.Statements = append(s.facts.Statements, said(t, s, kind))
	}
	return s
}

func (s *scene) client(id string) {
	s.request.Client, s.facts.about.Client, s.facts.about.Audience = id, id, "https://"+id+".example"
}

func (s *scene) move(at time.Time) { s.at, s.facts.about.At = at, at }

func (s *scene) statement(kind string) *evidence.Statement { return s.facts.statement(kind) }

func (s *scene) drop(kind string) {
	s.facts.Statements = slices.DeleteFunc(s.facts.Statements, func(s evidence.Statement) bool { return s.Kind == kind })
}

var withStatements = []string{"office_qr", "ic_chip", "technical_refresh"}

// b5, requirements 17 to 22: each method is good with exactly what it asks for; without any one statement it names that one.
func TestEachStatementIsNeeded(t *testing.T) {
	b := parse(t, programme(t))
	for _, method := range withStatements {
		a, d := by(t, method).decide(b)
		allowed(t, a, d)
		if !slices.Contains(d.Rules, "D:method/"+method) {
			t.Errorf("%s: explained by %v", method, d.Rules)
		}
		for _, gone := range by(t, method).facts.Statements {
			s := by(t, method)
			s.drop(gone.Kind)
			a, d := s.decide(b)
			denied(t, a, d, "evidence."+gone.Kind+"_missing")
			if !slices.Equal(d.Missing, []string{gone.Kind}) || !slices.Equal(d.Rules, []string{"D:method"}) {
				t.Errorf("%s without %s: missing %v by %v", method, gone.Kind, d.Missing, d.Rules)
			}
		}
		s := by(t, method)
		all := s.facts.Statements
		s.facts.Statements = nil
		a, d = s.decide(b)
		denied(t, a, d, "evidence.missing")
		if len(d.Missing) != len(all) || !slices.IsSorted(d.Missing) {
			t.Errorf("%s with nothing: missing %v", method, d.Missing)
		}
	}
}

// Each kind has its own greatest age: at it the statement is good, a second later it is not.
func TestEachStatementAges(t *testing.T) {
	b := parse(t, programme(t))
	for _, method := range withStatements {
		for _, old := range by(t, method).facts.Statements {
			s := by(t, method)
			s.statement(old.Kind).IssuedAt = s.at.Add(-maxAges[old.Kind])
			a, d := s.decide(b)
			allowed(t, a, d)
			s = by(t, method)
			s.statement(old.Kind).IssuedAt = s.at.Add(-maxAges[old.Kind] - time.Second)
			a, d = s.decide(b)
			denied(t, a, d, "evidence."+old.Kind+"_stale")
		}
	}
}

// Nobody has thought of what a statement means that the method does not ask for.
func TestWhatIsNotAskedForIsRefused(t *testing.T) {
	b := parse(t, programme(t))
	for _, method := range withStatements {
		for _, kind := range kinds {
			s := by(t, method)
			if s.statement(kind) != nil {
				continue
			}
			s.facts.Statements = append(s.facts.Statements, said(t, s, kind))
			a, d := s.decide(b)
			denied(t, a, d, "evidence.unasked")
		}
	}
	s := aScene("mdl")
	a, d := s.decide(b)
	allowed(t, a, d)
	s.facts.about.Subject, s.facts.Statements = subject, []evidence.Statement{said(t, s, evidence.KindFaceMatch)}
	a, d = s.decide(b)
	denied(t, a, d, "evidence.unasked")
}

// A type with methods is issued by one of them, through its channels and for its operations. Leaving the method out leads nowhere.
func TestTheMethodIsTheOnlyWay(t *testing.T) {
	b := parse(t, programme(t))
	for name, c := range map[string]struct {
		alter func(*scene)
		code  string // empty: allowed
	}{
		"no method":                  {func(s *scene) { s.request.Method = "" }, "method.unknown"},
		"no method and no statement": {func(s *scene) { s.request.Method, s.facts.Statements = "", nil }, "method.unknown"},
		"no method, resuming":        {func(s *scene) { s.request.Method, s.request.Resuming = "", true }, "method.unknown"},
		"resuming lacks nothing":     {func(s *scene) { s.request.Resuming = true }, ""},
		"resuming asks all the same": {func(s *scene) { s.request.Resuming = true; s.drop(evidence.KindFaceMatch) }, "evidence.face_match_missing"},
		"another word":               {func(s *scene) { s.request.Method = "office_qr2" }, "method.unknown"},
		"for a refresh":              {func(s *scene) { refresh(s, 45*day) }, "method.operation"},
		"refresh's for an issue":     {func(s *scene) { s.request.Method = "technical_refresh" }, "method.operation"},
		"through the portal":         {func(s *scene) { s.client("portal") }, ""},
		"another's channel":          {func(s *scene) { s.request.Method = "both_ways" }, "method.channel"},
		"through no channel":         {func(s *scene) { s.client("nowhere") }, "method.channel"},
		"a client without district":  {func(s *scene) { s.client("ward-office-3") }, ""},
		"another district's client":  {func(s *scene) { s.client("ward-office-2") }, "evidence.in_person_insufficient"},
		// Fact 3: the portal has no officer of its own.
		"portal, nobody saw the person": {func(s *scene) { s.client("portal"); s.drop(evidence.KindInPerson) }, "evidence.in_person_missing"},
		"replacing another phone": {func(s *scene) {
			s.slot, s.request.Replace, s.facts.keys = bound(noon), true, []evidence.Key{phone2}
		}, ""},
		"replacing without a method": {func(s *scene) {
			s.slot, s.request.Replace, s.facts.keys, s.request.Method = bound(noon), true, []evidence.Key{phone2}, ""
		}, "method.unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			s := by(t, "office_qr")
			c.alter(s)
			a, d := s.decide(b)
			if c.code == "" {
				allowed(t, a, d)
				return
			}
			denied(t, a, d, c.code)
		})
	}
	s := aScene("mdl") // without methods
	s.request.Method = "office_qr"
	a, d := s.decide(b)
	denied(t, a, d, "method.unknown")

	s = by(t, "technical_refresh")
	s.request.Method = ""
	a, d = s.decide(b)
	denied(t, a, d, "method.unknown")
}

// Each member of each statement, less than what the programme asks for.
func TestEachStatementMustSayEnough(t *testing.T) {
	b := parse(t, programme(t))
	for name, c := range map[string]struct {
		method string
		kind   string
		alter  func(*evidence.Statement)
	}{
		"met at the counter":         {"office_qr", kinds[0], func(s *evidence.Statement) { s.InPerson.Method = "counter" }},
		"met nowhere":                {"office_qr", kinds[0], func(s *evidence.Statement) { s.InPerson.Method = "" }},
		"card not seen":              {"office_qr", kinds[0], func(s *evidence.Statement) { s.InPerson.CardSeen = false }},
		"another district's officer": {"office_qr", kinds[0], func(s *evidence.Statement) { s.InPerson.District = "2611051000" }},
		"no office":                  {"office_qr", kinds[0], func(s *evidence.Statement) { s.InPerson.Office = "" }},
		"no officer":                 {"office_qr", kinds[0], func(s *evidence.Statement) { s.InPerson.Officer = "" }},
		"an office that is no word":  {"office_qr", kinds[0], func(s *evidence.Statement) { s.InPerson.Office = "11110-1/officer-3" }},
		"card lost":                  {"ic_chip", kinds[1], func(s *evidence.Statement) { s.RegistryMatch.CardStatus = "lost" }},
		"card superseded":            {"ic_chip", kinds[1], func(s *evidence.Statement) { s.RegistryMatch.CardStatus = "superseded" }},
		"card expired":               {"ic_chip", kinds[1], func(s *evidence.Statement) { s.RegistryMatch.CardExpiry = "2026-03-12" }},
		"card expires never":         {"ic_chip", kinds[1], func(s *evidence.Statement) { s.RegistryMatch.CardExpiry = "never" }},
		"card lost before a refresh": {"technical_refresh", kinds[1], func(s *evidence.Statement) { s.RegistryMatch.CardStatus = "lost" }},
		"low level":                  {"ic_chip", kinds[2], func(s *evidence.Statement) { s.FaceMatch.Level = "substantial" }},
		"weak liveness":              {"ic_chip", kinds[2], func(s *evidence.Statement) { s.FaceMatch.Liveness = 1 }},
		"another picture":            {"ic_chip", kinds[2], func(s *evidence.Statement) { s.FaceMatch.Reference = "register_photo" }},
		"another matcher":            {"ic_chip", kinds[2], func(s *evidence.Statement) { s.FaceMatch.Algorithm = "matcher-4" }},
		"no passive authentication":  {"ic_chip", kinds[3], func(s *evidence.Statement) { s.ChipRead.Passive = false }},
		"copied chip":                {"ic_chip", kinds[3], func(s *evidence.Statement) { s.ChipRead.Chip = "none" }},
		"another proof of the chip":  {"ic_chip", kinds[3], func(s *evidence.Statement) { s.ChipRead.Chip = "active_authentication" }},
		"without PIN":                {"ic_chip", kinds[3], func(s *evidence.Statement) { s.ChipRead.PINVerified = false }},
		"chip of an expired card":    {"ic_chip", kinds[3], func(s *evidence.Statement) { s.ChipRead.CardExpiry = "2026-03-12" }},
		"somebody else's line":       {"ic_chip", kinds[4], func(s *evidence.Statement) { s.LineOwnership.Subscriber = "other" }},
		"somebody else's, refresh":   {"technical_refresh", kinds[4], func(s *evidence.Statement) { s.LineOwnership.Subscriber = "other" }},
		"nobody's line":              {"ic_chip", kinds[4], func(s *evidence.Statement) { s.LineOwnership.Subscriber = "" }},
		"corporate line":             {"ic_chip", kinds[4], func(s *evidence.Statement) { s.LineOwnership.LineKind = "corporate" }},
	} {
		t.Run(name, func(t *testing.T) {
			s := by(t, c.method)
			c.alter(s.statement(c.kind))
			a, d := s.decide(b)
			denied(t, a, d, "evidence."+c.kind+"_insufficient")
		})
	}
	for name, alter := range map[string]func(*scene){
		"expires today":     func(s *scene) { s.statement(kinds[1]).RegistryMatch.CardExpiry = "2026-03-14" },
		"no expiry":         func(s *scene) { s.statement(kinds[1]).RegistryMatch.CardExpiry = "" },
		"one of two lines":  func(s *scene) { s.statement(kinds[4]).LineOwnership.LineKind = "prepaid" },
		"one of two photos": func(s *scene) { s.statement(kinds[2]).FaceMatch.Reference = "chip_photo" },
		"any line is enough": func(s *scene) {
			*s = *by(t, "technical_refresh")
			s.statement(kinds[4]).LineOwnership.LineKind = "family"
		},
	} {
		s := by(t, "ic_chip")
		alter(s)
		if a, d := s.decide(b); a == nil {
			t.Errorf("%s: %s %s", name, d.Code, d.Detail)
		}
	}
}

// Whatever the rule leaves open, a chip that proved nothing and a line of another person never do.
func TestSomeThingsAreAlwaysAskedFor(t *testing.T) {
	f := programme(t)
	f.Types["kr-resident"].Methods["ic_chip"].Statements[evidence.KindChipRead] = StatementSpec{MaxAge: "2m"}
	b := parse(t, f)
	for name, alter := range map[string]func(*evidence.ChipRead){
		"no passive authentication": func(c *evidence.ChipRead) { c.Passive = false }, "copied chip": func(c *evidence.ChipRead) { c.Chip = "none" },
		"a word of its own": func(c *evidence.ChipRead) { c.Chip = "trust_me" }, "no word": func(c *evidence.ChipRead) { c.Chip = "" },
	} {
		s := by(t, "ic_chip")
		alter(s.statement(evidence.KindChipRead).ChipRead)
		a, d := s.decide(b)
		if a != nil || d.Code != "evidence.chip_read_insufficient" {
			t.Errorf("%s: %v %s", name, d.Result, d.Code)
		}
	}
	s := by(t, "ic_chip")
	s.statement(evidence.KindChipRead).ChipRead.PINVerified = false
	a, d := s.decide(b)
	allowed(t, a, d)
}

// A statement about another person, or about nobody, is a fault of ours: evidence binds it to the session.
func TestStatementsOfAnotherSubjectFail(t *testing.T) {
	b := parse(t, programme(t))
	for name, about := range map[string][32]byte{"another's": {8}, "nobody's": {}} {
		s := by(t, "office_qr")
		s.facts.about.Subject = about
		if a, d := s.decide(b); a != nil || d.Result != Failed || d.Code != "policy.facts" {
			t.Errorf("%s: %v %s", name, d.Result, d.Code)
		}
	}
}

// Fact 19: a claim that the register does not vouch for, as it stands, is not signed.
func TestTheRegisterVouchesForWhatIsSigned(t *testing.T) {
	b := parse(t, programme(t))
	for name, c := range map[string]struct {
		alter   func(*scene)
		code    string
		missing []string
	}{
		"another name":   {func(s *scene) { s.claims["family_name"] = "김" }, "registry.uncovered", []string{"family_name"}},
		"two others":     {func(s *scene) { s.claims["portrait"], s.claims["address"] = "_9j_4A", "부산" }, "registry.uncovered", []string{"address", "portrait"}},
		"an age it has":  {func(s *scene) { delete(s.statement(kinds[1]).RegistryMatch.Attributes, "age_over_19") }, "registry.uncovered", []string{"age_over_19"}},
		"a digest of ''": {func(s *scene) { s.statement(kinds[1]).RegistryMatch.Attributes["address"] = "" }, "registry.uncovered", []string{"address"}},
		"another salt":   {func(s *scene) { s.statement(kinds[1]).RegistryMatch.Salt = "AAAAAAAAAAAAAAAAAAAAAA" }, "registry.uncovered", nil},
		"our own words": {func(s *scene) {
			s.claims["issue_date"], s.claims["issuing_authority"] = "2026-02-01", "서울특별시"
		}, "", nil},
		"an unknown one":  {func(s *scene) { s.claims["nickname"] = "x" }, "claims.unknown", nil},
		"the schema too":  {func(s *scene) { s.claims["birth_date"] = 3 }, "claims.type", nil},
		"more than asked": {func(s *scene) { s.statement(kinds[1]).RegistryMatch.Attributes["shoe_size"] = "x" }, "", nil},
		"name twice": {func(s *scene) {
			data, _ := json.Marshal(s.claims)
			s.text = append(data[:len(data)-1], `,"family_name":"김"}`...)
		}, "claims.malformed", nil},
		"escaped otherwise": {func(s *scene) {
			data, _ := json.Marshal(s.claims)
			s.text = []byte(strings.Replace(string(data), `"홍"`, ` "\ud64d" `, 1))
		}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := by(t, "office_qr")
			c.alter(s)
			a, d := s.decide(b)
			if c.code == "" {
				allowed(t, a, d)
				return
			}
			denied(t, a, d, c.code)
			if c.missing != nil && !slices.Equal(d.Missing, c.missing) {
				t.Errorf("missing %v, want %v", d.Missing, c.missing)
			}
		})
	}
}

// Whatever the claims: every value of an approval is one that the register vouched for, or that the bundle calls the issuer's own.
func TestNothingIsSignedThatTheRegisterDoesNotKnow(t *testing.T) {
	b := parse(t, programme(t))
	rapid.Check(t, func(t *rapid.T) {
		whole := by(t, "office_qr")
		known := whole.statement(evidence.KindRegistryMatch).RegistryMatch
		names := slices.Sorted(maps.Keys(whole.claims))
		forgotten := rapid.SliceOfDistinct(rapid.SampledFrom(names), func(s string) string { return s }).Draw(t, "forgotten")
		changed := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"family_name", "given_name", "address", "document_number", "issuing_authority"}),
			func(s string) string { return s }).Draw(t, "changed")
		for _, n := range forgotten {
			delete(known.Attributes, n)
		}
		for _, n := range changed {
			whole.claims[n] = rapid.StringMatching(`[a-z가-힣"\\/]{1,20}`).Draw(t, n)
		}
		a, d := whole.decide(b)
		want := slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(slices.Concat(forgotten, changed)))), func(n string) bool {
			return slices.Contains([]string{"issue_date", "issuing_country", "issuing_authority"}, n)
		})
		if (a == nil) != (len(want) > 0) || !slices.Equal(want, d.Missing) {
			t.Fatalf("forgotten %v, changed %v: %s, missing %v", forgotten, changed, d.Code, d.Missing)
		}
	})
}

// b8: what opens when, for whom. Times are those of Seoul.
func TestPhases(t *testing.T) {
	seoul := time.FixedZone("+09:00", 9*3600)
	on := func(month time.Month, d int) time.Time { return time.Date(2026, month, d, 0, 0, 0, 0, seoul) }
	f := programme(t)
	f.Types["mdl"] = TypeSpec{MDoc: f.Types["mdl"].MDoc, Claims: f.Types["mdl"].Claims, Evidence: f.Types["mdl"].Evidence, Lifetime: "90d"}
	f.Phases = []PhaseSpec{
		{ID: "jongno", Type: "kr-resident", From: on(1, 1), Channels: []string{"office"}, Districts: []string{"11110"}, Residence: true},
		{ID: "seoul", Type: "kr-resident", From: on(2, 1), Channels: []string{"office"}, Districts: []string{"11"}, Residence: true},
		{ID: "busan", Type: "kr-resident", From: on(3, 1), Channels: []string{"office"}, Districts: []string{"26", "27"}},
		{ID: "portal", Type: "kr-resident", From: on(4, 1), Channels: []string{"portal"}, Methods: []string{"ic_chip"}},
		{ID: "all", Type: "kr-resident", From: on(5, 1)},
	}
	b := parse(t, f)
	type request struct{ method, client, office, home string }
	jongno := request{"office_qr", "ward-office-1", "1111051500", "1111051500"}
	chip := func(r request) request { r.method = "ic_chip"; return r }
	living := func(r request, home string) request { r.home = home; return r }
	busan := request{"office_qr", "ward-office-2", "2611051000", "2611051000"}
	portal := request{"ic_chip", "portal", "", "1111051500"}
	at := func(r request, at time.Time, latched ...string) (*Approval, Decision) {
		full := by(t, r.method)
		full.move(at)
		full.client(r.client)
		for i := range full.facts.Statements {
			full.facts.Statements[i].IssuedAt = at
		}
		full.statement(evidence.KindRegistryMatch).RegistryMatch.District = r.home
		if p := full.statement(evidence.KindInPerson); p != nil {
			p.InPerson.District = r.office
		}
		full.request.Latched = latched
		return full.decide(b)
	}
	for name, c := range map[string]struct {
		request
		begins time.Time
		phase  string
		before string // code
	}{
		"home office":                         {jongno, on(1, 1), "jongno", "phase.not_open"},
		"home office, chip":                   {chip(jongno), on(1, 1), "jongno", "phase.not_open"},
		"next ward's office":                  {living(jongno, "1111053000"), on(5, 1), "all", "phase.residence_only"},
		"another district, home of a phase":   {living(jongno, "1168010100"), on(5, 1), "all", "phase.residence_only"},
		"person of another city":              {living(jongno, "2611051000"), on(3, 1), "busan", "phase.not_open"},
		"person of a city that is never in":   {living(jongno, "2811051000"), on(5, 1), "all", "phase.not_open"},
		"office elsewhere, wherever the home": {busan, on(3, 1), "busan", "phase.not_open"},
		"prefix from the front only":          {living(busan, "1126010100"), on(5, 1), "all", "phase.residence_only"},
		"shorter than the prefix":             {living(jongno, "1"), on(5, 1), "all", "phase.not_open"},
		"nobody knows the home":               {living(jongno, ""), on(5, 1), "all", "phase.not_open"},
		"portal":                              {portal, on(4, 1), "portal", "phase.not_open"},
		"portal, another method":              {request{"office_qr", "portal", "1111051500", "1111051500"}, on(5, 1), "all", "phase.not_open"},
	} {
		t.Run(name, func(t *testing.T) {
			a, d := at(c.request, c.begins.Add(-time.Second))
			denied(t, a, d, c.before)
			if !slices.Equal(d.Rules, []string{"D:phase"}) {
				t.Errorf("refused by %v", d.Rules)
			}
			a, d = at(c.request, c.begins)
			allowed(t, a, d)
			if a.Conditions().Latch != c.phase || !slices.Contains(d.Rules, "D:phase/"+c.phase) {
				t.Errorf("within %q by %v", a.Conditions().Latch, d.Rules)
			}
			// The clock steps back: what has begun stays begun, and nothing else.
			a, d = at(c.request, c.begins.Add(-time.Second), c.phase)
			allowed(t, a, d)
			if a.Conditions().Latch != "" {
				t.Errorf("latches %q again", a.Conditions().Latch)
			}
			a, d = at(c.request, c.begins.Add(-time.Second), "another")
			denied(t, a, d, c.before)
		})
	}
	if _, d := at(portal, on(1, 1)); !strings.Contains(d.Detail, "2026-04-01T00:00:00+09:00") {
		t.Errorf("the first that would do begins on 1 April: %s", d.Detail)
	}

	// Who has a card keeps it.
	s := by(t, "technical_refresh")
	s.move(on(1, 1).Add(-time.Second))
	for i := range s.facts.Statements {
		s.facts.Statements[i].IssuedAt = s.at
	}
	s.slot = bound(s.at.Add(-45 * day))
	a, d := s.decide(b)
	allowed(t, a, d)
	if a.Conditions().Latch != "" || slices.ContainsFunc(d.Rules, func(r string) bool { return strings.HasPrefix(r, "D:phase") }) {
		t.Errorf("a refresh within a phase: %v", d.Rules)
	}
	// And a type that no phase names is not asked either.
	s = aScene("mdl")
	s.move(on(1, 1).Add(-time.Second))
	s.claims["issue_date"] = "2025-12-01"
	a, d = s.decide(b)
	allowed(t, a, d)
}

// A request for which no phase is meant waits for none.
func TestNoPhaseCoversIt(t *testing.T) {
	f := programme(t)
	f.Phases = []PhaseSpec{{ID: "office", Type: "kr-resident", From: noon, Channels: []string{"office"}}}
	s := by(t, "ic_chip")
	s.client("portal")
	a, d := s.decide(parse(t, f))
	denied(t, a, d, "phase.not_open")
	if strings.Contains(d.Detail, "begins") {
		t.Errorf("says when: %s", d.Detail)
	}
}

// However the clock goes: once a phase is latched it stays open, and it is never open before its time without that.
func TestBegunPhasesStayBegun(t *testing.T) {
	f := programme(t)
	from := noon.Add(time.Hour)
	f.Phases = []PhaseSpec{{ID: "start", Type: "kr-resident", From: from}}
	b := parse(t, f)
	rapid.Check(t, func(t *rapid.T) {
		var latched []string
		for _, minutes := range rapid.SliceOfN(rapid.IntRange(0, 120), 1, 20).Draw(t, "clock") {
			s := by(t, "office_qr")
			s.move(noon.Add(time.Duration(minutes) * time.Minute))
			for i := range s.facts.Statements {
				s.facts.Statements[i].IssuedAt = s.at
			}
			s.request.Latched = latched
			a, d := s.decide(b)
			open := latched != nil || !s.at.Before(from)
			if open != (a != nil) || !open && d.Code != "phase.not_open" {
				t.Fatalf("at %v with %v: %s", s.at, latched, d.Code)
			}
			if a != nil && a.Conditions().Latch != "" {
				latched = append(latched, a.Conditions().Latch)
			}
		}
		if len(latched) > 1 {
			t.Fatalf("latched %v", latched)
		}
	})
}

// Budgets are taken by the ledger; the approval says which, and whose.
func TestCharges(t *testing.T) {
	f := programme(t)
	f.Phases = []PhaseSpec{{ID: "start", Type: "kr-resident", From: noon, Channels: []string{"office"}}, {ID: "net", Type: "kr-resident", From: noon}}
	f.Budgets = []BudgetSpec{
		{ID: "per-client", Type: "kr-resident", Per: "client", Hour: 10, Day: 50}, {ID: "per-office", Type: "kr-resident", Per: "office", Day: 40},
		{ID: "per-officer", Type: "kr-resident", Per: "officer", Hour: 5}, {ID: "per-phase", Type: "kr-resident", Per: "phase", Day: 1000},
		{ID: "other", Type: "mdl", Per: "client", Day: 1},
	}
	b := parse(t, f)
	client, office := []Charge{{"per-client", "ward-office-1", time.Hour, 10}, {"per-client", "ward-office-1", day, 50}}, "of-in_person/11110-1"
	for name, c := range map[string]struct {
		scene *scene
		want  []Charge
	}{
		"an officer's": {by(t, "office_qr"), slices.Concat(client, []Charge{{"per-office", office, day, 40}, {"per-officer", office + "/officer-3", time.Hour, 5}, {"per-phase", "start", day, 1000}})},
		"the chip's":   {by(t, "ic_chip"), slices.Concat(client, []Charge{{"per-phase", "start", day, 1000}})},
		"a refresh":    {by(t, "technical_refresh"), client},
		"another type": {aScene("mdl"), []Charge{{"other", "ward-office-1", day, 1}}},
	} {
		a, d := c.scene.decide(b)
		allowed(t, a, d)
		if got := a.Conditions().Charges; !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	a, d := by(t, "ic_chip").decide(parse(t, programme(t)))
	allowed(t, a, d)
	if a.Conditions().Charges != nil {
		t.Errorf("charged without budgets: %v", a.Conditions().Charges)
	}
}

func TestAuthorities(t *testing.T) {
	b := parse(t, programme(t))
	got := b.Authorities()
	if len(got) != 1 || got[0].ID != "register" || len(got[0].Keys) != 1 || got[0].Keys[0].ID != "register-1" || got[0].Off ||
		!got[0].Keys[0].NotBefore.Equal(noon) || !got[0].Keys[0].NotAfter.Equal(noon.AddDate(1, 0, 0)) || !slices.Equal(got[0].Clients, []string{"portal"}) {
		t.Errorf("got %+v", got)
	}
	f := programme(t)
	f.Authorities[0].Off, f.Authorities[0].Keys[0].Off = true, true
	if got := parse(t, f).Authorities(); !got[0].Off || !got[0].Keys[0].Off {
		t.Errorf("switched on: %+v", got)
	}
	got[0].ID = "mine"
	if b.Authorities()[0].ID != "register" {
		t.Error("the registry can be changed from outside")
	}
}

// What is wrong in the members that methods, phases, budgets and authorities have.
func TestProgrammeErrorsNameFileAndLine(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(*BundleFile)
		at    jsontext.Pointer
		want  string
	}{
		"method that is no name":   {rename("ic_chip", "IC chip"), "/types/kr-resident/methods/IC chip", "is not a name"},
		"method for nothing":       {wayTo("ic_chip", func(m *MethodSpec) { m.Operations = nil }), "/types/kr-resident/methods/ic_chip/operations", "for issue, refresh or both"},
		"method for locks":         {wayTo("ic_chip", func(m *MethodSpec) { m.Operations = []Operation{OpLock} }), "/types/kr-resident/methods/ic_chip/operations", "for issue, refresh or both"},
		"method without channel":   {wayTo("ic_chip", func(m *MethodSpec) { m.Channels = nil }), "/types/kr-resident/methods/ic_chip/channels", "names the channels"},
		"method by the empty one":  {wayTo("ic_chip", func(m *MethodSpec) { m.Channels = []string{""} }), "/types/kr-resident/methods/ic_chip/channels", "names the channels"},
		"unknown kind":             {spec("blood_test", StatementSpec{MaxAge: "1m"}), "/types/kr-resident/methods/ic_chip/statements/blood_test", "no kind of statement"},
		"no greatest age":          {spec(kinds[3], StatementSpec{}), "/types/kr-resident/methods/ic_chip/statements/chip_read/max_age", "max_age \"\" is not"},
		"older than a day":         {spec(kinds[3], StatementSpec{MaxAge: "25h"}), "/types/kr-resident/methods/ic_chip/statements/chip_read/max_age", "max_age \"25h\" is not"},
		"another kind's member":    {spec(kinds[3], StatementSpec{MaxAge: "1m", Levels: []string{"high"}}), "/types/kr-resident/methods/ic_chip/statements/chip_read/levels", "levels is not for"},
		"another kind's flag":      {spec(kinds[3], StatementSpec{MaxAge: "1m", CardSeen: true}), "/types/kr-resident/methods/ic_chip/statements/chip_read/card_seen", "card_seen is not for"},
		"another kind's number":    {spec(kinds[3], StatementSpec{MaxAge: "1m", MinLiveness: 1}), "/types/kr-resident/methods/ic_chip/statements/chip_read/min_liveness", "min_liveness is not for"},
		"the chip's PIN elsewhere": {spec(kinds[2], StatementSpec{MaxAge: "1m", PIN: true}), "/types/kr-resident/methods/ic_chip/statements/face_match/pin", "pin is not for"},
		"unknown chip word":        {spec(kinds[3], StatementSpec{MaxAge: "1m", Chip: []string{"none"}}), "/types/kr-resident/methods/ic_chip/statements/chip_read/chip/0", "none of chip_authentication"},
		"unknown line kind":        {spec(kinds[4], StatementSpec{MaxAge: "1m", LineKinds: []string{"personal", "stolen"}}), "/types/kr-resident/methods/ic_chip/statements/line_ownership/line_kinds/1", "none of personal"},
		"unknown way to meet":      {spec(kinds[0], StatementSpec{MaxAge: "1m", Methods: []string{"phone"}}), "/types/kr-resident/methods/ic_chip/statements/in_person/methods/0", "none of qr"},
		"unknown card status":      {spec(kinds[1], StatementSpec{MaxAge: "1m", CardStatus: []string{"fine"}}), "/types/kr-resident/methods/ic_chip/statements/registry_match/card_status/0", "none of valid"},
		"unknown level":            {spec(kinds[2], StatementSpec{MaxAge: "1m", Levels: []string{"low"}}), "/types/kr-resident/methods/ic_chip/statements/face_match/levels/0", "none of substantial"},
		"unknown picture":          {spec(kinds[2], StatementSpec{MaxAge: "1m", References: []string{"selfie"}}), "/types/kr-resident/methods/ic_chip/statements/face_match/references/0", "none of card_photo"},
		"liveness beyond 2":        {spec(kinds[2], StatementSpec{MaxAge: "1m", MinLiveness: 3}), "/types/kr-resident/methods/ic_chip/statements/face_match/min_liveness", "0, 1 or 2"},
		"a claim nobody has":       {spec(kinds[1], StatementSpec{MaxAge: "1m", Uncovered: []string{"shoe_size"}}), "/types/kr-resident/methods/ic_chip/statements/registry_match/uncovered/0", "no claim \"shoe_size\""},

		"phase id":                 {phase(func(p *PhaseSpec) { p.ID = "Phase 1" }), "/phases/0/id", "is not an id"},
		"phase twice":              {func(f *BundleFile) { phase(nil)(f); phase(nil)(f) }, "/phases/1/id", "there twice"},
		"phase from never":         {phase(func(p *PhaseSpec) { p.From = time.Time{} }), "/phases/0/from", "begins at an instant"},
		"phase of no type":         {phase(func(p *PhaseSpec) { p.Type = "passport" }), "/phases/0/type", "no type \"passport\""},
		"phase without methods":    {phase(func(p *PhaseSpec) { p.Type = "mdl" }), "/phases/0/type", "has no methods"},
		"phase of no method":       {phase(func(p *PhaseSpec) { p.Methods = []string{"fax"} }), "/phases/0/methods/0", "no method \"fax\""},
		"phase of a bad district":  {phase(func(p *PhaseSpec) { p.Districts = []string{"11", "1 1"} }), "/phases/0/districts/1", "not a district code"},
		"phase of every district?": {phase(func(p *PhaseSpec) { p.Districts = []string{""} }), "/phases/0/districts/0", "not a district code"},
		"phase of a bad channel":   {phase(func(p *PhaseSpec) { p.Channels = []string{"Office"} }), "/phases/0/channels/0", "is not a name"},
		"too many phases":          {func(f *BundleFile) { f.Phases = make([]PhaseSpec, maxPhases+1) }, "/phases", "at most 1000"},

		"budget id":              {budget(func(b *BudgetSpec) { b.ID = "" }), "/budgets/0/id", "is not an id"},
		"budget twice":           {func(f *BundleFile) { budget(nil)(f); budget(nil)(f) }, "/budgets/1/id", "there twice"},
		"budget of no type":      {budget(func(b *BudgetSpec) { b.Type = "passport" }), "/budgets/0/type", "no type"},
		"budget of nobody":       {budget(func(b *BudgetSpec) { b.Per = "person" }), "/budgets/0/per", "none of client"},
		"budget without a bound": {budget(func(b *BudgetSpec) { b.Hour, b.Day = 0, 0 }), "/budgets/0", "bounds nothing"},
		"too many budgets":       {func(f *BundleFile) { f.Budgets = make([]BudgetSpec, maxBudgets+1) }, "/budgets", "at most 64"},

		"authority id":            {authority(func(a *AuthoritySpec) { a.ID = "The register" }), "/authorities/0/id", "is not an id"},
		"authority twice":         {func(f *BundleFile) { f.Authorities = append(f.Authorities, f.Authorities[0]) }, "/authorities/1/id", "there twice"},
		"authority on nothing":    {authority(func(a *AuthoritySpec) { a.Kinds = nil }), "/authorities/0", "may say nothing"},
		"authority without keys":  {authority(func(a *AuthoritySpec) { a.Keys = nil }), "/authorities/0", "has 0 keys"},
		"authority, unknown kind": {authority(func(a *AuthoritySpec) { a.Kinds = append(a.Kinds, "blood_test") }), "/authorities/0/kinds/1", "no kind of statement"},
		"authority, kind twice":   {authority(func(a *AuthoritySpec) { a.Kinds = append(a.Kinds, a.Kinds[0]) }), "/authorities/0/kinds/1", "there twice"},
		"authority, bad district": {authority(func(a *AuthoritySpec) { a.Districts = []string{"-"} }), "/authorities/0/districts/0", "not a district code"},
		"authority, no client":    {authority(func(a *AuthoritySpec) { a.Clients = []string{"nobody"} }), "/authorities/0/clients/0", "no client \"nobody\""},
		"key that is none":        {authority(func(a *AuthoritySpec) { a.Keys[0].JWK = jsontext.Value(`{"kty":"RSA"}`) }), "/authorities/0/keys/0/jwk", "none of EC P-256"},
		"private key": {authority(func(a *AuthoritySpec) {
			a.Keys[0].JWK = jsontext.Value(strings.Replace(string(a.Keys[0].JWK), "{", `{"d":"AA",`, 1))
		}), "/authorities/0/keys/0/jwk", "private"},
		"kid of nothing": {authority(func(a *AuthoritySpec) { a.Keys[0].ID = "" }), "/authorities/0/keys/0/kid", "is not a kid"},
		"kid twice":      {authority(func(a *AuthoritySpec) { a.Keys = append(a.Keys, a.Keys[0]) }), "/authorities/0/keys/1/kid", "there twice"},
		"key without end": {authority(func(a *AuthoritySpec) {
			a.Keys[0].NotAfter = a.Keys[0].NotBefore
		}), "/authorities/0/keys/0", "later not_after"},
		"district of a client": {func(f *BundleFile) { f.Clients[0].District = "Jongno gu" }, "/clients/0/district", "not a district code"},
	} {
		t.Run(name, func(t *testing.T) {
			f := programme(t)
			c.alter(&f)
			data := text(t, f)
			b, err := Parse("programme.json", data)
			if err == nil || b != nil {
				t.Fatal("accepted")
			}
			var p places
			for at := c.at; ; at = at.Parent() { // what is missing is reported where it should be
				p.at(at)
				if at == "" {
					break
				}
			}
			p.find(data)
			at := c.at
			for p.at(at).line == 0 {
				at = at.Parent()
			}
			place := "programme.json:" + strconv.Itoa(p.at(at).line) + ": "
			if !slices.ContainsFunc(strings.Split(err.Error(), "\n"), func(l string) bool { return strings.HasPrefix(l, place) && strings.Contains(l, c.want) }) {
				t.Errorf("want %q at %s (%s), got\n%v", c.want, place, c.at, err)
			}
		})
	}
}

// An empty list of methods is not the same as none.
func TestNoMethodLeftIsAMistake(t *testing.T) {
	b, err := Parse("b.json", []byte(strings.Replace(read(t, "mdl.json"), `"lifetime"`, `"methods": {}, "lifetime"`, 1)))
	if b != nil || err == nil || !strings.Contains(err.Error(), "empty list of methods") {
		t.Errorf("got %v", err)
	}
}

// wayTo alters one method of the resident card.
func wayTo(name string, alter func(*MethodSpec)) func(*BundleFile) {
	return func(f *BundleFile) {
		typ := f.Types["kr-resident"]
		m := typ.Methods[name]
		alter(&m)
		typ.Methods[name] = m
		f.Types["kr-resident"] = typ
	}
}

func rename(old, name string) func(*BundleFile) {
	return func(f *BundleFile) { m := f.Types["kr-resident"].Methods; m[name] = m[old]; delete(m, old) }
}

func spec(kind string, s StatementSpec) func(*BundleFile) {
	return wayTo("ic_chip", func(m *MethodSpec) { m.Statements[kind] = s })
}

func phase(alter func(*PhaseSpec)) func(*BundleFile) {
	return func(f *BundleFile) {
		p := PhaseSpec{ID: "start", Type: "kr-resident", From: noon}
		if alter != nil {
			alter(&p)
		}
		f.Phases = append(f.Phases, p)
	}
}

func budget(alter func(*BudgetSpec)) func(*BundleFile) {
	return func(f *BundleFile) {
		b := BudgetSpec{ID: "per-client", Type: "kr-resident", Per: "client", Day: 1}
		if alter != nil {
			alter(&b)
		}
		f.Budgets = append(f.Budgets, b)
	}
}

func authority(alter func(*AuthoritySpec)) func(*BundleFile) {
	return func(f *BundleFile) { alter(&f.Authorities[0]) }
}
