package policy

import (
	"encoding/binary"
	"errors"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// RuleSchema is what rules may speak of. Every rule is type-checked against it when a bundle is read, because Cedar skips a policy that
// fails while it is evaluated: a forbid with a misspelt attribute would forbid nothing. (If one fails all the same, nothing is allowed.)
const RuleSchema = `
entity Client { role: String, class: String, channel: String };
entity DocumentType;
action issue, refresh appliesTo {
	principal: Client,
	resource: DocumentType,
	context: {
		at: datetime,                       // the instant of the decision, never before a phase that has begun
		replace: Bool,                      // the new phone takes the place of the bound one
		bound: Bool,                        // a phone is bound
		copies: Long,                       // attested keys
		formats: Set<String>,               // asked for: "mso_mdoc", "dc+sd-jwt"
		evidence: Set<String>,              // kinds that were verified
		key_storage: Set<String>,           // attested levels
		user_authentication: Set<String>,
		attestation_issuer: String,         // subject of the wallet provider's certificate
		identity: String,                   // who says who the subject is
		app: String,                        // package of Android, team.bundle of Apple, "": nobody says so
		locks: Set<String>,                 // reasons that stand
		age?: Long,                         // full years, by the claim birth_date
	},
};
`

const (
	clientType   = cedar.EntityType("Client")
	documentType = cedar.EntityType("DocumentType")
	actionType   = cedar.EntityType("Action")
)

// ruleSet is the parsed rules, in the bundle's order.
type ruleSet struct {
	ids      []string
	policies []*cedar.Policy
	clients  cedar.EntityMap
	known    *judgements // nil: a rule does more with the instant than to compare it, so that every judgement is another one
}

// All iterates in the bundle's order, so that decisions name rules in the same order each time.
func (s ruleSet) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for i, p := range s.policies {
			if !yield(cedar.PolicyID(s.ids[i]), p) {
				return
			}
		}
	}
}

// ruleValidator checks rules against RuleSchema.
var ruleValidator = sync.OnceValues(func() (*validate.Validator, error) {
	var definition schema.Schema
	if err := definition.UnmarshalCedar([]byte(RuleSchema)); err != nil {
		return nil, err
	}
	resolved, err := definition.Resolve()
	if err != nil {
		return nil, err
	}
	return validate.New(resolved), nil
})

func (c *checker) rules(b *Bundle, specs []RuleSpec) ruleSet {
	s := ruleSet{clients: cedar.EntityMap{}}
	remember, turns := true, []int64(nil)
	validator, err := ruleValidator()
	if err != nil {
		c.wrong("/rules", "the rule schema of this program is broken: %v", err)
		return s
	}
	for i, spec := range specs {
		at := pointer("/rules", i)
		if !idForm.MatchString(spec.ID) || slices.Contains(s.ids, spec.ID) {
			c.wrong(at+"/id", "rule id %q is there twice or not an id: use lower case letters, digits and '-'", spec.ID)
			continue // to compile one costs more than all else that it says
		}
		parsed, err := cedar.NewPolicyListFromBytes(spec.ID, []byte(spec.Cedar))
		if err == nil && len(parsed) != 1 {
			err = errors.New("it must be exactly one policy")
		}
		if err == nil {
			err = validator.Policy(spec.ID, (*ast.Policy)(parsed[0].AST()))
		}
		if err != nil {
			c.wrong(at+"/cedar", "rule %s: %s", spec.ID, strings.ReplaceAll(err.Error(), "\n", "; "))
			continue
		}
		if tree := c.tree(at+"/cedar", spec.ID, parsed[0]); tree != nil {
			c.entities(at+"/cedar", b, spec.ID, tree)
			if !instants(tree, &turns) {
				remember = false
			}
		}
		s.ids, s.policies = append(s.ids, spec.ID), append(s.policies, parsed[0])
	}
	if remember {
		slices.Sort(turns)
		s.known = &judgements{turns: slices.Compact(turns), of: map[string]judgement{}}
	}
	if len(specs) == 0 {
		c.wrong("/rules", "the bundle has no rules, so nothing could ever be issued: permit something")
	}
	for _, cl := range b.clients {
		uid, e := cl.entity()
		s.clients[uid] = e
	}
	return s
}

// entity is a client as rules see it.
func (c client) entity() (cedar.EntityUID, cedar.Entity) {
	uid := cedar.NewEntityUID(clientType, cedar.String(c.ID))
	return uid, cedar.Entity{UID: uid, Attributes: cedar.NewRecord(cedar.RecordMap{
		"role": cedar.String(c.Role), "class": cedar.String(c.Class), "channel": cedar.String(c.channel)})}
}

// tree is a rule in Cedar's JSON form.
func (c *checker) tree(at jsontext.Pointer, rule string, p *cedar.Policy) (tree any) {
	data, err := p.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(data, &tree)
	}
	if err != nil {
		c.wrong(at, "rule %s can't be read back: %v", rule, err)
		return nil
	}
	return tree
}

// instants adds the instants that a rule compares context.at with. It is false if what the rule says may depend on the instant in any other
// way: it does something else with that member, or with the context as a whole.
func instants(tree any, all *[]int64) bool {
	isContext := func(v any) bool {
		m, ok := v.(map[string]any)
		return ok && len(m) == 1 && m["Var"] == "context"
	}
	member := func(v any, operator string) (name string) { // of the context
		if m, ok := v.(map[string]any); ok && len(m) == 1 {
			if read, ok := m[operator].(map[string]any); ok && len(read) == 2 && isContext(read["left"]) {
				name, _ = read["attr"].(string)
			}
		}
		return name
	}
	written := func(v any) (at cedar.Datetime, ok bool) {
		m, _ := v.(map[string]any)
		args, _ := m["datetime"].([]any)
		if len(m) != 1 || len(args) != 1 {
			return at, false
		}
		value, _ := args[0].(map[string]any)
		s, ok := value["Value"].(string)
		if !ok {
			return at, false
		}
		at, err := types.ParseDatetime(s)
		return at, err == nil
	}
	switch v := tree.(type) {
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !instants(e, all) })
	case map[string]any:
		if isContext(v) {
			return false
		}
		if name := member(v, "."); name != "" {
			return name != "at"
		}
		if member(v, "has") != "" {
			return true
		}
		for operator, e := range v {
			if sides, ok := e.(map[string]any); ok && slices.Contains([]string{"<", "<=", ">", ">=", "==", "!="}, operator) && len(v) == 1 && len(sides) == 2 {
				for _, side := range [][2]string{{"left", "right"}, {"right", "left"}} {
					if at, ok := written(sides[side[1]]); ok && member(sides[side[0]], ".") == "at" {
						*all = append(*all, at.Milliseconds())
						return true
					}
				}
			}
			if !instants(e, all) {
				return false
			}
		}
	}
	return true
}

// entities refuses rules about clients and types that the bundle does not have: a misspelt name would match nobody. In Cedar's JSON form every
// entity is an object with a type and an id.
func (c *checker) entities(at jsontext.Pointer, b *Bundle, rule string, tree any) {
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			kind, _ := v["type"].(string)
			id, isEntity := v["id"].(string)
			switch {
			case isEntity && kind == string(clientType) && b.clients[id].ID == "":
				c.wrong(at, "rule %s names the client %q, which the bundle does not have: correct the name or add the client", rule, id)
			case isEntity && kind == string(documentType) && b.types[id] == nil:
				c.wrong(at, "rule %s names the type %q, which the bundle does not have: correct the name or add the type", rule, id)
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(tree)
}

// ruleFacts are what rules judge.
type ruleFacts struct {
	client    string
	asker     client // whose id that is
	operation Operation
	typ       string
	at        time.Time
	replace   bool
	bound     bool
	copies    int
	formats   []Format
	evidence  []string
	storage   []string
	user      []string
	issuer    string
	identity  string
	app       string
	locks     []Lock
	age       int
}

// judgement is what rules said of facts.
type judgement struct {
	result       Result
	code, detail string
	ids          []string
}

// judgements that were made before. Rules are pure: the same facts are judged alike for as long as the bundle is there, and of a country's
// requests most have the same ones.
type judgements struct {
	turns []int64 // instants that rules compare context.at with, in order, in milliseconds as Cedar has them
	mu    sync.RWMutex
	of    map[string]judgement
}

const (
	mostJudgements = 4096
	longestFacts   = 2048
)

// key of everything that is judged: facts that a rule may tell apart have different ones. Of the instant it has between which turns it is, or on which.
func (f ruleFacts) key(turns []int64) string {
	b := make([]byte, 0, 512)
	turn, on := slices.BinarySearch(turns, cedar.NewDatetime(f.at).Milliseconds())
	b = strconv.AppendBool(binary.AppendUvarint(b, uint64(turn)), on)
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	list := func(l []string) {
		b = binary.AppendUvarint(b, uint64(len(l)))
		for _, s := range l {
			text(s)
		}
	}
	for _, s := range []string{f.client, string(f.operation), f.typ, f.issuer, f.identity, f.app} {
		text(s)
	}
	b = strconv.AppendBool(strconv.AppendBool(b, f.replace), f.bound)
	b = binary.AppendVarint(binary.AppendVarint(b, int64(f.copies)), int64(f.age))
	b = binary.AppendUvarint(b, uint64(len(f.formats)))
	for _, s := range f.formats {
		text(string(s))
	}
	list(f.evidence)
	list(f.storage)
	list(f.user)
	b = binary.AppendUvarint(b, uint64(len(f.locks)))
	for _, l := range f.locks {
		text(l.Reason)
	}
	if f.asker.enrolment != nil { // what rules see of a client that the bundle names goes with its id
		text(f.asker.Role)
		text(f.asker.Class)
		text(f.asker.channel)
	}
	return string(b)
}

// judge says what all rules say. ids are those that determined the result.
func (s ruleSet) judge(f ruleFacts) (r Result, code, detail string, ids []string) {
	if s.known == nil {
		return s.evaluate(f)
	}
	key := f.key(s.known.turns)
	s.known.mu.RLock()
	j, ok := s.known.of[key]
	s.known.mu.RUnlock()
	if !ok {
		j.result, j.code, j.detail, j.ids = s.evaluate(f)
		if j.result != Failed && len(key) <= longestFacts {
			s.known.mu.Lock()
			if len(s.known.of) >= mostJudgements {
				clear(s.known.of)
			}
			s.known.of[key] = j
			s.known.mu.Unlock()
		}
	}
	return j.result, j.code, j.detail, slices.Clone(j.ids)
}

// evaluate asks every rule.
func (s ruleSet) evaluate(f ruleFacts) (r Result, code, detail string, ids []string) {
	locks := make([]string, len(f.locks))
	for i, l := range f.locks {
		locks[i] = l.Reason
	}
	context := cedar.RecordMap{
		"at": cedar.NewDatetime(f.at), "replace": cedar.Boolean(f.replace), "bound": cedar.Boolean(f.bound), "copies": cedar.Long(f.copies),
		"formats": set(f.formats), "evidence": set(f.evidence), "key_storage": set(f.storage), "user_authentication": set(f.user),
		"attestation_issuer": cedar.String(f.issuer), "identity": cedar.String(f.identity), "app": cedar.String(f.app), "locks": set(locks),
	}
	if f.age >= 0 {
		context["age"] = cedar.Long(f.age)
	}
	clients := s.clients
	if f.asker.enrolment != nil {
		uid, e := f.asker.entity()
		clients = cedar.EntityMap{uid: e}
	}
	decision, diagnostic := cedar.Authorize(s, clients, cedar.Request{
		Principal: cedar.NewEntityUID(clientType, cedar.String(f.client)), Action: cedar.NewEntityUID(actionType, cedar.String(f.operation)),
		Resource: cedar.NewEntityUID(documentType, cedar.String(f.typ)), Context: cedar.NewRecord(context)})
	if len(diagnostic.Errors) > 0 { // before anything else: a failed forbid is no permission
		for _, e := range diagnostic.Errors {
			ids = append(ids, string(e.PolicyID))
		}
		return Failed, "policy.error", "a rule could not be evaluated, so nothing was decided", ids
	}
	for _, reason := range diagnostic.Reasons {
		ids = append(ids, string(reason.PolicyID))
	}
	switch {
	case decision == cedar.Allow && len(ids) > 0:
		return Allowed, "", "", ids
	case len(ids) > 0:
		return Denied, "rule." + ids[0], "rule " + ids[0] + " forbids it", ids
	}
	return Denied, "policy.denied", "no rule permits it", nil
}

func set[S ~string](values []S) cedar.Set {
	all := make([]cedar.Value, len(values))
	for i, v := range values {
		all[i] = cedar.String(v)
	}
	return cedar.NewSet(all...)
}
