package policy

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/evidence"
)

// MethodSpec is one way to a card, such as a QR code at the office or the card's chip: through which channel, and with whose statements.
// A type with methods is issued by them alone: the request names one and a session, and everything that the method asks for must be there.
type MethodSpec struct {
	Description string      `json:"description,omitempty"`
	Operations  []Operation `json:"operations"` // issue, refresh
	Channels    []string    `json:"channels"`   // of the client
	// Statements by kind. A statement that the method does not ask for is refused too: nobody would have thought of what it means.
	Statements map[string]StatementSpec `json:"statements,omitempty"`
}

// StatementSpec is what a statement must say. Members are for one kind each; a member that is left out asks for nothing.
type StatementSpec struct {
	MaxAge string `json:"max_age"` // since iat: "90s", "10m"; at most 24h

	Methods  []string `json:"methods,omitempty"`  // in_person: qr, counter
	CardSeen bool     `json:"card_seen,omitzero"` // in_person: the plastic card was presented

	CardStatus []string `json:"card_status,omitempty"` // registry_match: of the plastic card
	// Uncovered claims are the issuer's own words, not the register's: dates of issue and expiry, authority, country. Every other claim must
	// be covered by the register's digests. (registry_match)
	Uncovered []string `json:"uncovered,omitempty"`

	Levels      []string `json:"levels,omitempty"`      // face_match
	MinLiveness int      `json:"min_liveness,omitzero"` // face_match
	References  []string `json:"references,omitempty"`  // face_match
	Algorithms  []string `json:"algorithms,omitempty"`  // face_match: matchers that are believed

	Chip []string `json:"chip,omitempty"` // chip_read: how the chip proved that it is no copy; passive authentication is always needed
	PIN  bool     `json:"pin,omitzero"`   // chip_read

	LineKinds []string `json:"line_kinds,omitempty"` // line_ownership; that the line is the person's own is always needed
}

// words that statements use, and the members of StatementSpec that go with each kind.
var (
	statementWords = map[string][]string{
		"methods": {"qr", "counter"}, "card_status": {"valid", "lost", "superseded", "none"}, "levels": {"substantial", "high"},
		"references": {"card_photo", "register_photo", "chip_photo"}, "chip": {"chip_authentication", "active_authentication"},
		"line_kinds": {"personal", "corporate", "family", "prepaid"},
	}
	statementMembers = map[string][]string{
		evidence.KindInPerson: {"methods", "card_seen"}, evidence.KindRegistryMatch: {"card_status", "uncovered"},
		evidence.KindFaceMatch: {"levels", "min_liveness", "references", "algorithms"}, evidence.KindChipRead: {"chip", "pin"},
		evidence.KindLineOwnership: {"line_kinds"},
	}
)

// method is a way to a card, ready to be judged by.
type method struct {
	name       string
	operations []Operation
	channels   []string
	kinds      []string // sorted
	statements map[string]statementRule
}

type statementRule struct {
	StatementSpec
	maxAge time.Duration
}

func (c *checker) methods(at jsontext.Pointer, t *docType, specs map[string]MethodSpec) {
	if specs != nil && len(specs) == 0 { // none left is not none needed
		c.wrong(at, "type %s has an empty list of methods: leave it out if the client alone vouches for persons", t.name)
	}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		at, s := at.AppendToken(name), specs[name]
		if !nameForm.MatchString(name) {
			c.wrong(at, "method %q is not a name: use lower case letters, digits and '_'", name)
		}
		m := &method{name: name, operations: s.Operations, channels: s.Channels, statements: map[string]statementRule{}}
		if len(s.Operations) == 0 || slices.ContainsFunc(s.Operations, func(o Operation) bool { return o != OpIssue && o != OpRefresh }) {
			c.wrong(at.AppendToken("operations"), "a method is for issue, refresh or both")
		}
		if len(s.Channels) == 0 || slices.ContainsFunc(s.Channels, func(s string) bool { return !nameForm.MatchString(s) }) {
			c.wrong(at.AppendToken("channels"), "a method names the channels through which it may be used")
		}
		for _, kind := range slices.Sorted(maps.Keys(s.Statements)) {
			at, s := at.AppendToken("statements").AppendToken(kind), s.Statements[kind]
			if evidence.StatementType(kind) == "" {
				c.wrong(at, "%q is no kind of statement", kind)
				continue
			}
			c.statement(at, t, kind, s)
			m.kinds = append(m.kinds, kind)
			m.statements[kind] = statementRule{s, c.duration(at.AppendToken("max_age"), "max_age", s.MaxAge, "", time.Second, 24*time.Hour)}
		}
		if t.methods == nil {
			t.methods = map[string]*method{}
		}
		t.methods[name] = m
	}
}

// statement checks that a kind's rule has members of that kind alone, with words that such a statement can have.
func (c *checker) statement(at jsontext.Pointer, t *docType, kind string, s StatementSpec) {
	b, err := json.Marshal(s)
	var members map[string]jsontext.Value
	if err == nil {
		err = json.Unmarshal(b, &members)
	}
	if err != nil {
		c.wrong(at, "%v", err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if name != "max_age" && !slices.Contains(statementMembers[kind], name) {
			c.wrong(at.AppendToken(name), "%s is not for statements of kind %s", name, kind)
		}
		var words []string
		if known := statementWords[name]; known != nil && json.Unmarshal(members[name], &words) == nil {
			for i, w := range words {
				if !slices.Contains(known, w) {
					c.wrong(pointer(at.AppendToken(name), i), "%q is none of %s", w, strings.Join(known, ", "))
				}
			}
		}
	}
	if s.MinLiveness < 0 || s.MinLiveness > 2 {
		c.wrong(at.AppendToken("min_liveness"), "liveness is 0, 1 or 2")
	}
	for i, name := range s.Uncovered {
		if t.claims.field(name) == nil {
			c.wrong(pointer(at.AppendToken("uncovered"), i), "type %s has no claim %q", t.name, name)
		}
	}
}

// judgeMethod holds the statements against the method that the request names; what the register says of the claims is left to covered.
func (t *docType) judgeMethod(c client, f facts, r IssueRequest, at time.Time) *refusal {
	if t.methods == nil {
		if r.Method != "" {
			return refuse(ruleMethod, "method.unknown", "type %s has no methods: name none", t.name)
		}
		if len(f.Statements) > 0 { // believed, and yet nothing here says what they mean
			return refuse(ruleMethod, "evidence.unasked", "type %s asks for no statements: leave them out", t.name)
		}
		return nil
	}
	m := t.methods[r.Method]
	switch {
	case m == nil:
		return refuse(ruleMethod, "method.unknown", "type %s is issued by one of these methods: %s", t.name, strings.Join(slices.Sorted(maps.Keys(t.methods)), ", "))
	case !slices.Contains(m.operations, r.Operation):
		return refuse(ruleMethod, "method.operation", "method %s is not for %s", m.name, r.Operation)
	case !slices.Contains(m.channels, c.channel):
		return refuse(ruleMethod, "method.channel", "method %s is not for this client's channel", m.name)
	}
	var missing []string
	for _, kind := range m.kinds {
		if f.statement(kind) == nil {
			missing = append(missing, kind)
		}
	}
	if missing != nil {
		code := "evidence.missing"
		if len(missing) == 1 {
			code = "evidence." + missing[0] + "_missing"
		}
		r := refuse(ruleMethod, code, "method %s needs statements that are not there: %s", m.name, strings.Join(missing, ", "))
		r.missing = missing
		return r
	}
	for i := range f.Statements {
		s := &f.Statements[i]
		rule, asked := m.statements[s.Kind]
		if !asked {
			return refuse(ruleMethod, "evidence.unasked", "method %s asks for no statement of kind %s: leave it out", m.name, s.Kind)
		}
		if at.Sub(s.IssuedAt) > rule.maxAge {
			return refuse(ruleMethod, "evidence."+s.Kind+"_stale", "the statement of kind %s is older than %s", s.Kind, rule.maxAge)
		}
		if why := rule.judge(c, s, at); why != "" {
			return refuse(ruleMethod, "evidence."+s.Kind+"_insufficient", "the statement of kind %s does not do: %s", s.Kind, why)
		}
	}
	return nil
}

// judge says what is not enough in a statement. The words are for the client and say nothing about the person but what it sent.
func (rule statementRule) judge(c client, s *evidence.Statement, at time.Time) string {
	in := func(words []string, w string) bool { return len(words) == 0 || slices.Contains(words, w) }
	switch {
	case s.InPerson != nil:
		switch v := s.InPerson; {
		case !isLevel(v.Office) || !isLevel(v.Officer): // budgets go by them
			return "office and officer must be words of at most 64 letters, digits and _.:+-"
		case c.district != "" && v.District != c.district:
			return "the officer's office is in another district than the client"
		case !in(rule.Methods, v.Method):
			return "the person was met in another way"
		case rule.CardSeen && !v.CardSeen:
			return "the card was not presented"
		}
	case s.RegistryMatch != nil:
		if !in(rule.CardStatus, s.RegistryMatch.CardStatus) {
			return "the plastic card's status"
		}
		return expired("the plastic card", s.RegistryMatch.CardExpiry, at)
	case s.FaceMatch != nil:
		switch v := s.FaceMatch; {
		case !in(rule.Levels, v.Level):
			return "the level of the match"
		case v.Liveness < rule.MinLiveness:
			return "the level of presentation attack detection"
		case !in(rule.References, v.Reference):
			return "the reference picture"
		case !in(rule.Algorithms, v.Algorithm):
			return "the matcher"
		}
	case s.ChipRead != nil:
		switch v := s.ChipRead; {
		case !v.Passive:
			return "the card's data are not authentic"
		case !slices.Contains(statementWords["chip"], v.Chip) || !in(rule.Chip, v.Chip):
			return "the chip did not prove that it is no copy"
		case rule.PIN && !v.PINVerified:
			return "the PIN was not verified"
		default:
			return expired("the card", v.CardExpiry, at)
		}
	case s.LineOwnership != nil:
		switch v := s.LineOwnership; {
		case v.Subscriber != "self":
			return "the line is another person's"
		case !in(rule.LineKinds, v.LineKind):
			return "the kind of line"
		}
	}
	return ""
}

// expired judges a date by the latest time zone: the statement's authority knows the day, not we.
func expired(what, date string, at time.Time) string {
	if date == "" {
		return ""
	}
	day, err := time.Parse(time.DateOnly, date)
	switch {
	case err != nil:
		return what + "'s expiry is no date"
	case !at.Before(day.AddDate(0, 0, 1).Add(12 * time.Hour)):
		return what + " has expired"
	}
	return ""
}

// covered: what the register does not vouch for is not signed. values are what will be, of these very claims.
func (t *docType) covered(f facts, r IssueRequest, values []Value) *refusal {
	s := f.statement(evidence.KindRegistryMatch)
	if s == nil { // the method does not ask for it
		return nil
	}
	own := t.methods[r.Method].statements[s.Kind].Uncovered
	var missing []string
	for i := range values {
		name, there := values[i].Name, false
		if slices.Contains(own, name) {
			continue
		}
		if text, is := r.Claims[name].(string); is {
			there = s.RegistryMatch.CoversText(name, text)
		} else if value, err := json.Marshal(r.Claims[name], json.Deterministic(true)); err == nil {
			there = s.RegistryMatch.Covers(name, value)
		}
		if !there {
			missing = append(missing, name)
		}
	}
	if missing == nil {
		return nil
	}
	refused := refuse(ruleMethod, "registry.uncovered", "the register does not vouch for these claims as they stand: %s", strings.Join(missing, ", "))
	refused.missing = missing
	return refused
}

func (f facts) statement(kind string) *evidence.Statement {
	for i := range f.Statements {
		if f.Statements[i].Kind == kind {
			return &f.Statements[i]
		}
	}
	return nil
}

// districtOfResidence is the register's word, and empty without it.
func (f facts) districtOfResidence() string {
	if s := f.statement(evidence.KindRegistryMatch); s != nil {
		return s.RegistryMatch.District
	}
	return ""
}

// PhaseSpec opens a type to districts and channels from an instant on. A type that any phase names is issued within a phase alone; a
// phase, once begun, stays begun, whatever the clock says later; to put off one that has begun, list it under a new id. Refreshes are not
// asked: who has a card keeps it.
type PhaseSpec struct {
	ID          string    `json:"id"`
	Description string    `json:"description,omitempty"`
	From        time.Time `json:"from"` // with its zone: "2025-03-14T00:00:00+09:00"
	Type        string    `json:"type"`
	Methods     []string  `json:"methods,omitempty"`   // none: all
	Channels    []string  `json:"channels,omitempty"`  // none: all
	Districts   []string  `json:"districts,omitempty"` // of residence, by prefix: "11" has "11110"; none: all
	Residence   bool      `json:"residence,omitempty"` // only at an office in the district of residence
}

const maxPhases = 1000

func (c *checker) phases(at jsontext.Pointer, b *Bundle, specs []PhaseSpec) {
	if len(specs) > maxPhases {
		c.wrong(at, "there are %d phases, at most %d are allowed", len(specs), maxPhases)
		return
	}
	for i, s := range specs {
		at, t := pointer(at, i), b.types[s.Type]
		switch {
		case !idForm.MatchString(s.ID) || slices.ContainsFunc(specs[:i], func(o PhaseSpec) bool { return o.ID == s.ID }):
			c.wrong(at.AppendToken("id"), "%q is not an id, or there twice", s.ID)
		case s.From.IsZero():
			c.wrong(at.AppendToken("from"), "a phase begins at an instant, with its zone")
		case t == nil:
			c.wrong(at.AppendToken("type"), "there is no type %q", s.Type)
		case t.methods == nil:
			c.wrong(at.AppendToken("type"), "type %s has no methods: without the register's word nobody knows a district of residence", s.Type)
		}
		for j, d := range s.Districts {
			if !districtForm.MatchString(d) {
				c.wrong(pointer(at.AppendToken("districts"), j), "%q is not a district code", d)
			}
		}
		for j, name := range s.Channels {
			if !nameForm.MatchString(name) {
				c.wrong(pointer(at.AppendToken("channels"), j), "channel %q is not a name: use lower case letters, digits and '_'", name)
			}
		}
		if t != nil {
			for j, m := range s.Methods {
				if t.methods[m] == nil {
					c.wrong(pointer(at.AppendToken("methods"), j), "type %s has no method %q", s.Type, m)
				}
			}
			t.phases = append(t.phases, s)
		}
	}
}

// notBefore is the instant by which rules judge: the clock's, but never before a phase that is known to have begun. What has begun stays
// begun, for rules as for phases.
func (t *docType) notBefore(at time.Time, latched []string) time.Time {
	for _, p := range t.phases {
		if at.Before(p.From) && slices.Contains(latched, p.ID) {
			at = p.From
		}
	}
	return at
}

// judgePhase finds a phase that has begun and covers the request. latch is its id if the ledger does not know yet that it began.
func (t *docType) judgePhase(c client, f facts, r IssueRequest, at time.Time) (phase, latch string, _ *refusal) {
	if len(t.phases) == 0 || r.Operation == OpRefresh {
		return "", "", nil
	}
	home := f.districtOfResidence()
	elsewhere, opens := false, time.Time{}
	for _, p := range t.phases {
		in := func(words []string, w string) bool { return len(words) == 0 || slices.Contains(words, w) }
		if !in(p.Methods, r.Method) || !in(p.Channels, c.channel) ||
			len(p.Districts) > 0 && (home == "" || !slices.ContainsFunc(p.Districts, func(d string) bool { return strings.HasPrefix(home, d) })) {
			continue
		}
		latched := slices.Contains(r.Latched, p.ID)
		switch {
		case !latched && at.Before(p.From):
			if opens.IsZero() || p.From.Before(opens) {
				opens = p.From
			}
		case p.Residence && (home == "" || c.district != home):
			elsewhere = true
		case latched:
			return p.ID, "", nil
		default:
			return p.ID, p.ID, nil
		}
	}
	switch {
	case elsewhere:
		return "", "", refuse(rulePhase, "phase.residence_only", "for now only the office of the district of residence issues this card")
	case !opens.IsZero():
		return "", "", refuse(rulePhase, "phase.not_open", "this begins at %s", opens.Format(time.RFC3339))
	}
	return "", "", refuse(rulePhase, "phase.not_open", "no phase covers this district, channel and method")
}

// BudgetSpec bounds how many issues and refreshes a client, an office, an officer or a phase may cause. What is over it is refused, and
// nothing else is. A request without an officer's statement, or outside any phase, is not counted by budgets that go by them.
type BudgetSpec struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Per  string `json:"per"`            // client, office, officer (by in_person evidence), phase
	Hour uint64 `json:"hour,omitempty"` // clock hours and days of UTC; at least one of both
	Day  uint64 `json:"day,omitempty"`
}

// Charge is one unit of a budget, which the ledger takes in the transaction that uses the approval.
type Charge struct {
	Budget string
	Whom   string // client, authority/office, authority/office/officer or phase: an authority spends nobody else's
	Window time.Duration
	Limit  uint64
}

const maxBudgets = 64

func (c *checker) budgets(at jsontext.Pointer, b *Bundle, specs []BudgetSpec) {
	if len(specs) > maxBudgets {
		c.wrong(at, "there are %d budgets, at most %d are allowed", len(specs), maxBudgets)
		return
	}
	for i, s := range specs {
		at, t := pointer(at, i), b.types[s.Type]
		switch {
		case !idForm.MatchString(s.ID) || slices.ContainsFunc(specs[:i], func(o BudgetSpec) bool { return o.ID == s.ID }):
			c.wrong(at.AppendToken("id"), "%q is not an id, or there twice", s.ID)
		case t == nil:
			c.wrong(at.AppendToken("type"), "there is no type %q", s.Type)
		case !slices.Contains([]string{"client", "office", "officer", "phase"}, s.Per):
			c.wrong(at.AppendToken("per"), "%q is none of client, office, officer, phase", s.Per)
		case s.Hour == 0 && s.Day == 0:
			c.wrong(at, "budget %s bounds nothing: give it hour, day or both", s.ID)
		default:
			t.budgets = append(t.budgets, s)
		}
	}
}

func (t *docType) charges(c client, f facts, phase string) (out []Charge) {
	for _, b := range t.budgets {
		whom := ""
		switch p := f.statement(evidence.KindInPerson); {
		case b.Per == "client":
			whom = c.ID
		case b.Per == "phase":
			whom = phase
		case p != nil && b.Per == "office":
			whom = p.Authority + "/" + p.InPerson.Office
		case p != nil && b.Per == "officer":
			whom = p.Authority + "/" + p.InPerson.Office + "/" + p.InPerson.Officer
		}
		if whom == "" { // this request has none
			continue
		}
		if b.Hour > 0 {
			out = append(out, Charge{Budget: b.ID, Whom: whom, Window: time.Hour, Limit: b.Hour})
		}
		if b.Day > 0 {
			out = append(out, Charge{Budget: b.ID, Whom: whom, Window: 24 * time.Hour, Limit: b.Day})
		}
	}
	return out
}
