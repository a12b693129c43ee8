package policy

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"sealkeeper/evidence"
)

// Record is what a decision was made of, as it is journalled: enough to decide it again by another bundle, and nothing of a person. What a
// bundle judges stays (who asked for what, who vouched how and when, the state of the card, district and age); claims, names of lines, cards and
// persons, keys and digests do not, and of dates of expiry only whether they are past. Of claims there is what the bundle made of them.
type Record struct {
	Input  Input        `json:"input"`
	Claims ClaimsRecord `json:"claims,omitzero"` // issue and refresh

	office, officer string // as they stand in the statement: for Tagged alone, never written
}

// ClaimsRecord is what is known of a request's claims: by the schema of the bundle that the decision names, and at its instant.
type ClaimsRecord struct {
	Code      string   `json:"code,omitempty"`      // why they were, or would have been, refused; then nothing else is known but Missing
	Missing   []string `json:"missing,omitempty"`   //
	Absent    []string `json:"absent,omitempty"`    // those of the schema that were not there
	Uncovered []string `json:"uncovered,omitempty"` // by the register, which said nothing of them
	Age       *int     `json:"age,omitempty"`       // in full years, where they say it
}

// Tagged names the office and the officer by tags that tell them apart and do not say who they are. Budgets are counted by them.
func (r Record) Tagged(tag func(string) string) Record {
	if r.office == "" && r.officer == "" {
		return r
	}
	r.Input.Evidence.Statements = slices.Clone(r.Input.Evidence.Statements)
	for i, s := range r.Input.Evidence.Statements {
		if p := s.InPerson; p != nil {
			named := *p
			named.Office, named.Officer = tag(s.Authority+"/"+r.office), tag(s.Authority+"/"+r.office+"/"+r.officer)
			r.Input.Evidence.Statements[i].InPerson = &named
		}
	}
	return r
}

// asserted is what claims say, once they are checked.
type asserted struct {
	values []Value
	person
}

// claimsSay checks the claims, or what is known of them.
func (t *docType) claimsSay(f facts, r IssueRequest, at time.Time) (asserted, *refusal) {
	if f.claims != nil {
		return f.claims.say(t, f, r)
	}
	values, refusal := valuesOf(t.claims, r.Claims)
	if refusal == nil {
		refusal = t.covered(f, r, values)
	}
	var p person
	if refusal == nil {
		p, refusal = judgeDates(t, values, at)
	}
	return asserted{values, p}, refusal
}

// past and ahead stand for dates of expiry.
const (
	past  = "0001-01-01"
	ahead = "9999-12-30"
)

func whether(date string, at time.Time) string {
	switch {
	case date == "":
		return ""
	case expired("it", date, at) != "":
		return past
	}
	return ahead
}

// word bounds what others say: no bundle has a longer one.
func word(s string) string {
	if len(s) > 256 {
		return "(too long)"
	}
	return s
}

// recordIssue is made for every decision about an issue or refresh. a is nil if it was denied.
func (b *Bundle) recordIssue(f facts, r IssueRequest, s Slot, at time.Time, a *Approval) *Record {
	rec := &Record{}
	in := &rec.Input
	*in = Input{At: at, Client: r.Client, Operation: r.Operation, DocumentType: r.DocumentType, Method: word(r.Method), Formats: r.Formats, Replace: r.Replace, Slot: s.input()}
	t := b.types[r.DocumentType]
	bound := func(k evidence.Key) bool { return slices.Contains(s.Keys, k.Thumbprint) }
	same := slices.ContainsFunc(f.keys, bound)
	if r.Operation == OpRefresh { // with one that is new they are not those of the phone, with one that is old they are not new
		same = !slices.ContainsFunc(f.keys, func(k evidence.Key) bool { return !bound(k) })
		if t != nil && t.refresh != nil && t.refresh.NewKeys {
			same = slices.ContainsFunc(f.keys, bound)
		}
	}
	in.Evidence = EvidenceInput{Keys: len(f.keys), SameDevice: same, FormerKey: slices.Contains(s.Keys, f.Previous),
		KeyStorage: f.KeyStorage, UserAuthentication: f.UserAuthentication, AttestationIssuer: word(f.AttestationIssuer), App: word(f.App), Reused: f.Reused, Kinds: []string{}}
	for _, k := range f.Kinds {
		if evidence.StatementType(k) == "" {
			in.Evidence.Kinds = append(in.Evidence.Kinds, k)
		}
	}
	for _, s := range f.Statuses {
		in.Evidence.Statuses = append(in.Evidence.Statuses, StatusInput{Name: s.Name, Ends: s.Ends, Unknown: !s.Known})
	}
	in.Evidence.Statements = slices.Grow(in.Evidence.Statements, len(f.Statements))
	for i := range f.Statements {
		s := &f.Statements[i]
		w := StatementInput{Authority: s.Authority, Key: s.Key, IssuedAt: s.IssuedAt}
		switch {
		case s.InPerson != nil:
			p := s.InPerson
			w.InPerson = &evidence.InPerson{District: word(p.District), Method: word(p.Method), CardSeen: p.CardSeen}
			if isLevel(p.Office) && isLevel(p.Officer) {
				rec.office, rec.officer = p.Office, p.Officer
			}
		case s.RegistryMatch != nil:
			m := s.RegistryMatch
			w.RegistryMatch = &RegistryInput{District: word(m.District), CardStatus: word(m.CardStatus), CardExpiry: whether(m.CardExpiry, at), Epoch: m.Epoch}
		case s.FaceMatch != nil:
			m := s.FaceMatch
			w.FaceMatch = &evidence.FaceMatch{Level: word(m.Level), Liveness: m.Liveness, Algorithm: word(m.Algorithm), Reference: word(m.Reference)}
		case s.ChipRead != nil:
			c := s.ChipRead
			w.ChipRead = &evidence.ChipRead{Passive: c.Passive, Chip: word(c.Chip), PINVerified: c.PINVerified, CardExpiry: whether(c.CardExpiry, at)}
		case s.LineOwnership != nil:
			l := s.LineOwnership
			w.LineOwnership = &evidence.LineOwnership{Subscriber: word(l.Subscriber), LineKind: word(l.LineKind)}
		}
		in.Evidence.Statements = append(in.Evidence.Statements, w)
	}
	if t != nil {
		for _, id := range r.Latched {
			if slices.ContainsFunc(t.phases, func(p PhaseSpec) bool { return p.ID == id }) {
				in.Latched = append(in.Latched, id)
			}
		}
		switch {
		case a != nil:
			rec.Claims = t.claimsRecord(f, a.issue.Values, a.age)
		case len(t.methods) == 0 || t.methods[r.Method] != nil:
			if s, refused := t.claimsSay(f, r, at); refused != nil {
				rec.Claims = ClaimsRecord{Code: refused.code, Missing: refused.missing}
			} else {
				rec.Claims = t.claimsRecord(f, s.values, s.age)
			}
		default: // what of them the register had to cover is not known
			rec.Claims = ClaimsRecord{Code: undetermined}
		}
	} else {
		rec.Claims = ClaimsRecord{Code: undetermined}
	}
	in.Enrolled = b.enrolment(r.Client)
	return rec
}

// enrolment of a client that the bundle does not name: it is part of what was decided by.
func (b *Bundle) enrolment(id string) *Enrolment {
	if b == nil {
		return nil
	}
	c, _ := b.client(id)
	return c.enrolment
}

func (t *docType) claimsRecord(f facts, values []Value, age int) (c ClaimsRecord) {
	register := f.statement(evidence.KindRegistryMatch)
	i := 0
	for _, n := range t.claims.fields { // values are in the schema's order
		if i == len(values) || values[i].Name != n.name {
			c.Absent = append(c.Absent, n.name)
			continue
		}
		if i++; register != nil {
			if _, there := register.RegistryMatch.Attributes[n.name]; !there {
				c.Uncovered = append(c.Uncovered, n.name)
			}
		}
	}
	if age >= 0 {
		c.Age = &age
	}
	return c
}

// recordChange is made for every decision about a lock, unlock or revocation.
func (b *Bundle) recordChange(r ChangeRequest, s Slot, at time.Time) *Record {
	in := Input{At: at, Client: r.Client, Operation: r.Operation, DocumentType: r.DocumentType, Reason: word(r.Reason), Slot: s.input()}
	switch {
	case r.Device == "":
	case r.Device == s.Device:
		in.Device = "this"
	default:
		in.Device = "another"
	}
	in.Enrolled = b.enrolment(r.Client)
	return &Record{Input: in}
}

func (s Slot) input() SlotInput {
	in := SlotInput{Bound: s.Bound, Live: s.Live, MSOs: s.MSOs, Newest: s.Newest, Closed: s.Closed, Renew: s.Renew, Attributes: s.Attributes, Outdated: s.Outdated}
	for _, l := range s.Locks {
		in.Locks = append(in.Locks, LockInput(l))
	}
	for _, l := range s.Scheduled {
		in.Scheduled = append(in.Scheduled, LockInput(l))
	}
	return in
}

// undetermined is the code of what a record does not tell: the values of claims whose rules differ.
const undetermined = "replay.undetermined"

// recorded are the claims of a recorded decision, with the type that they were read by.
type recorded struct {
	ClaimsRecord
	by   *docType // nil: the bundle is not to be had
	same func(a, b *node) bool
}

// say is claimsSay by what is known.
func (c *recorded) say(t *docType, f facts, r IssueRequest) (asserted, *refusal) {
	unknown := func(names ...string) (asserted, *refusal) {
		refused := refuse(ruleClaims, undetermined, "what the record keeps of the claims does not tell: %s", strings.Join(names, ", "))
		refused.missing = names
		return asserted{}, refused
	}
	if c.by == nil || c.Code == undetermined {
		return unknown("claims")
	}
	if c.Code != "" {
		register := f.statement(evidence.KindRegistryMatch) != nil
		if !c.same(c.by.whole(), t.whole()) || register && !slices.Equal(c.by.uncovered(r.Method), t.uncovered(r.Method)) {
			return unknown("claims")
		}
		refused := refuse(ruleClaims, c.Code, "as it was")
		refused.missing = c.Missing
		return asserted{}, refused
	}
	var differ, missing, uncovered []string
	for _, n := range c.by.claims.fields {
		if slices.Contains(c.Absent, n.name) {
			continue
		}
		now := t.claims.field(n.name)
		switch {
		case now == nil:
			return asserted{}, claimWrong("unknown", n.name, "is not one that this type has")
		case !c.same(n, now):
			differ = append(differ, n.name)
		}
		if slices.Contains(c.Uncovered, n.name) && !slices.Contains(t.uncovered(r.Method), n.name) {
			uncovered = append(uncovered, n.name)
		}
	}
	for _, n := range t.claims.fields {
		if n.required && (slices.Contains(c.Absent, n.name) || c.by.claims.field(n.name) == nil) {
			missing = append(missing, n.name)
		}
	}
	switch {
	case missing != nil:
		refused := refuse(ruleClaims, "claims.missing", "%d required claims are missing", len(missing))
		refused.missing = missing
		return asserted{}, refused
	case differ != nil:
		return unknown(differ...)
	case uncovered != nil:
		refused := refuse(ruleMethod, "registry.uncovered", "the register does not vouch for these claims: %s", strings.Join(uncovered, ", "))
		refused.missing = uncovered
		return asserted{}, refused
	case c.by.expiry != t.expiry || c.by.zone.String() != t.zone.String():
		return unknown(cmp.Or(t.expiry, c.by.expiry, "utc_offset"))
	}
	p := person{age: -1}
	if c.Age != nil {
		p.age = *c.Age
	}
	return asserted{person: p}, nil
}

// whole is the schema as one node.
func (t *docType) whole() *node { return &node{kind: "object", members: t.claims} }

// uncovered are the claims that the register need not vouch for.
func (t *docType) uncovered(method string) []string {
	if m := t.methods[method]; m != nil {
		return m.statements[evidence.KindRegistryMatch].Uncovered
	}
	return nil
}

// Replay decides recorded decisions again by another bundle. Each is judged by itself, by as many goroutines as there are; budgets then fill up in the
// order in which decisions were made.
type Replay struct {
	to          *Bundle
	from        func(Hash) *Bundle // nil: not to be had
	authorities map[string]evidence.Authority
	nodes       sync.Map // of [2]*node: whether they accept the same
	used        map[spent]uint64
}

// Verdict is what the bundle says of one recorded decision as if budgets had no end.
type Verdict struct {
	decision Decision
	at       time.Time
	charges  []Charge
}

type spent struct {
	budget, whom string
	length       time.Duration
	window       int64
}

// NewReplay replays by a bundle. from gives the bundles that decisions were made by, to several goroutines at once.
func NewReplay(to *Bundle, from func(Hash) *Bundle) *Replay {
	r := &Replay{to: to, from: from, authorities: map[string]evidence.Authority{}, used: map[spent]uint64{}}
	for _, a := range to.authorities {
		r.authorities[a.ID] = a
	}
	return r
}

// Judge decides again what was decided by a bundle.
func (r *Replay) Judge(rec Record, by Hash) (Verdict, error) {
	in := rec.Input
	for i, s := range in.Evidence.Statements {
		kind, err := s.kind()
		if err != nil {
			return Verdict{}, fmt.Errorf("statement %d: %w", i, err)
		}
		if code := r.believed(kind, in.Client, s); code != "" {
			return Verdict{decision: r.to.denied(RuleEvidence, "evidence."+kind+"_"+code, "the bundle does not let this authority say it")}, nil
		}
	}
	c := &recorded{ClaimsRecord: rec.Claims, same: r.same}
	if from := r.from(by); from != nil {
		c.by = from.types[in.DocumentType]
	}
	a, d, err := r.to.decide(in, c)
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{decision: d, at: in.At}
	if d.Result == Allowed && a != nil {
		v.charges = a.conditions.Charges
	}
	return v, nil
}

// Decide fills budgets as the ledger does, and gives the new decision. It is for one goroutine, with verdicts in the order of their decisions. known is
// false if the record does not tell enough; the decision then says what is missing.
func (r *Replay) Decide(v Verdict) (d Decision, known bool) {
	d = v.decision
	keys := make([]spent, len(v.charges))
	for i, c := range v.charges {
		length := int64(c.Window / time.Second)
		keys[i] = spent{c.Budget, c.Whom, c.Window, v.at.Unix() - v.at.Unix()%length}
		if r.used[keys[i]] >= c.Limit {
			return d.Exhausted(c.Budget, fmt.Sprintf("budget %s: its %d are used up", c.Budget, c.Limit)), true
		}
	}
	for _, k := range keys {
		r.used[k]++
	}
	return d, d.Code != undetermined
}

// Exhausted is the decision once a budget stood against it.
func (d Decision) Exhausted(budget, detail string) Decision {
	d.Result, d.Code, d.Detail, d.Rules, d.Missing = Denied, "budget.exhausted", detail, []string{ruleBudget + "/" + budget}, nil
	return d
}

// believed is why the bundle's registry refuses a statement, as evidence would say it.
func (r *Replay) believed(kind, client string, s StatementInput) string {
	a, known := r.authorities[s.Authority]
	district := ""
	switch {
	case s.InPerson != nil:
		district = s.InPerson.District
	case s.RegistryMatch != nil:
		district = s.RegistryMatch.District
	}
	switch {
	case !known || !slices.Contains(a.Kinds, kind):
		return "authority"
	case a.Off:
		return "authority_off"
	case len(a.Clients) > 0 && !slices.Contains(a.Clients, client), len(a.Districts) > 0 && district != "" && !slices.Contains(a.Districts, district):
		return "scope"
	}
	i := slices.IndexFunc(a.Keys, func(k evidence.AuthorityKey) bool { return k.ID == s.Key })
	switch {
	case i < 0:
		return "key"
	case a.Keys[i].Off:
		return "key_off"
	case s.IssuedAt.Before(a.Keys[i].NotBefore) || !a.Keys[i].NotAfter.IsZero() && s.IssuedAt.After(a.Keys[i].NotAfter):
		return "key_time"
	}
	return ""
}

func (s StatementInput) kind() (kind string, err error) {
	n := 0
	for _, k := range [...]struct {
		name string
		set  bool
	}{{evidence.KindInPerson, s.InPerson != nil}, {evidence.KindRegistryMatch, s.RegistryMatch != nil}, {evidence.KindFaceMatch, s.FaceMatch != nil},
		{evidence.KindChipRead, s.ChipRead != nil}, {evidence.KindLineOwnership, s.LineOwnership != nil}} {
		if k.set {
			kind, n = k.name, n+1
		}
	}
	if n != 1 {
		return "", errors.New("it must have the member of exactly one kind, such as in_person")
	}
	return kind, nil
}

// same says whether two nodes accept the same values, whatever they are called in credentials. Nodes of both bundles live as long as r.
func (r *Replay) same(a, b *node) bool {
	key := [2]*node{a, b}
	if same, known := r.nodes.Load(key); known {
		return same.(bool)
	}
	same := accepts(a, b)
	if a.members == nil || a.name != "" { // whole makes a new one each time
		r.nodes.Store(key, same)
	}
	return same
}

func accepts(a, b *node) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.kind != b.kind || a.min != b.min || a.max != b.max || a.age != b.age || !reflect.DeepEqual(a.values, b.values) || !accepts(a.items, b.items) {
		return false
	}
	if a.members == nil || b.members == nil {
		return a.members == b.members
	}
	return slices.EqualFunc(a.members.fields, b.members.fields, func(a, b *node) bool {
		return a.name == b.name && a.required == b.required && accepts(a, b)
	})
}
