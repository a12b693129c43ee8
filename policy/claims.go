package policy

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/strict"
)

const (
	birthDate = "birth_date" // the date claim that age_over_NN claims and rules about ages are judged by

	maxClaimBytes = 512 << 10 // claims in a bundle: a portrait and some text
	maxInt        = 1<<53 - 1 // beyond it JSON readers disagree about the number
)

// node is one claim, element or member, ready to check by. The claims of a request are taken by the schema, member by member: nothing that the
// schema does not name is ever looked at, so depth and size are the schema's.
type node struct {
	name, kind string
	required   bool
	min, max   int64
	values     []string
	mediaType  string
	items      *node
	members    *object
	age        int // NN of age_over_NN; 0: another claim

	element, namespace, sdName string
	disclosure                 bool
}

// object holds its fields sorted by name: the order of values, and so of everything that is built of them, never depends on the request.
type object struct {
	fields []*node
	index  map[string]int
}

func (o *object) field(name string) *node {
	if i, ok := o.index[name]; ok {
		return o.fields[i]
	}
	return nil
}

func (c *checker) object(at jsontext.Pointer, name string, specs map[string]ClaimSpec, depth int,
	place func(jsontext.Pointer, string, ClaimSpec, *node)) *object {
	o := &object{index: map[string]int{}}
	if len(specs) == 0 || len(specs) > maxClaims {
		c.wrong(at, "%s has %d claims or members: between 1 and %d are needed", name, len(specs), maxClaims)
		return o
	}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		at, s := at.AppendToken(name), specs[name]
		if !nameForm.MatchString(name) {
			c.wrong(at, "claim name %q is not a name: use lower case letters, digits and '_', and element or sd_name for how a format calls it", name)
		}
		n := c.node(at, name, s, depth)
		place(at, name, s, n)
		o.index[name] = len(o.fields)
		o.fields = append(o.fields, n)
	}
	return o
}

// node checks that a claim has what its kind needs, and nothing that its kind would ignore.
func (c *checker) node(at jsontext.Pointer, name string, s ClaimSpec, depth int) *node {
	n := &node{name: name, kind: s.Kind, required: s.Required, values: s.Values, mediaType: s.MediaType, min: 0, max: maxInt}
	if depth > maxNesting {
		c.wrong(at, "%s is nested deeper than %d arrays and objects", name, maxNesting)
		return n
	}
	bounded, needsMax := false, false
	switch s.Kind {
	case "string":
		n.min, bounded, needsMax = 1, true, s.Values == nil
	case "bytes":
		n.min, bounded, needsMax = 1, true, true
		if !mediaTypeForm.MatchString(s.MediaType) {
			c.wrong(at+"/media_type", "%s of kind bytes needs a media_type such as image/jpeg", name)
		}
	case "int":
		n.min, bounded = -maxInt, true
	case "array":
		bounded, needsMax = true, true
		if s.Items == nil {
			c.wrong(at, "%s of kind array needs items", name)
		} else {
			c.inner(at+"/items", *s.Items)
			n.items = c.node(at+"/items", "", *s.Items, depth+1)
			if s.Items.Required {
				c.wrong(at+"/items/required", "elements of %s can't be required: use min", name)
			}
		}
	case "object":
		n.members = c.object(at+"/fields", name, s.Fields, depth+1, func(at jsontext.Pointer, _ string, s ClaimSpec, _ *node) { c.inner(at, s) })
	case "date", "bool":
	default:
		c.wrong(at+"/kind", "%s has the kind %q: use string, date, bool, int, bytes, array or object", name, s.Kind)
	}
	for member, misplaced := range map[jsontext.Pointer]bool{
		"/min": s.Min != nil && (!bounded || s.Values != nil), "/max": s.Max != nil && (!bounded || s.Values != nil),
		"/values": s.Values != nil && s.Kind != "string", "/media_type": s.MediaType != "" && s.Kind != "bytes",
		"/items": s.Items != nil && s.Kind != "array", "/fields": s.Fields != nil && s.Kind != "object",
	} {
		if misplaced {
			c.wrong(at+member, "%s of kind %s has no use for %s: remove it", name, s.Kind, member[1:])
		}
	}
	if s.Min != nil {
		n.min = *s.Min
	}
	if s.Max != nil {
		n.max = *s.Max
	} else if needsMax {
		c.wrong(at, "%s of kind %s needs max, the most that is accepted", name, s.Kind)
	}
	if n.min > n.max || n.max > maxInt || n.min < -maxInt || (s.Kind != "int" && n.min < 0) {
		c.wrong(at, "%s has bounds from %d to %d, which nothing can meet", name, n.min, n.max)
	}
	return n
}

// inner refuses, for elements and members, what only a claim has.
func (c *checker) inner(at jsontext.Pointer, s ClaimSpec) {
	if s.Formats != nil || s.Element != "" || s.Namespace != "" || s.SDName != "" || s.Disclosure != nil {
		c.wrong(at, "only claims have formats, element, namespace, sd_name and disclosure: elements and members go with their claim")
	}
}

// refusal is why something is denied, before it becomes a Decision.
type refusal struct {
	rule, code, detail string
	missing            []string
}

func refuse(rule, code, format string, args ...any) *refusal {
	return &refusal{rule: rule, code: code, detail: fmt.Sprintf(format, args...)}
}

func claimWrong(code, name, format string, args ...any) *refusal {
	return refuse(ruleClaims, "claims."+code, "claim "+name+" "+format, args...)
}

// valuesOf checks claims against the schema and returns the values in the schema's order. Details name claims and never say a word of their
// values.
func valuesOf(schema *object, claims map[string]any) ([]Value, *refusal) {
	if claims == nil {
		return nil, refuse(ruleClaims, "claims.malformed", "the claims are not one JSON object")
	}
	values, missing, r := objectOf(schema, claims, "")
	switch {
	case r != nil:
		return nil, r
	case len(missing) > 0:
		slices.Sort(missing)
		r := refuse(ruleClaims, "claims.missing", "%d required claims are missing", len(missing))
		r.missing = missing
		return nil, r
	}
	return values, nil
}

// claimsIn are the claims of a bundle's test, decoded and bounded as the edge does it with a request's. What is no object has none.
func claimsIn(data []byte) map[string]any {
	var claims map[string]any
	if strict.JSON(data, strict.Limits{Bytes: maxClaimBytes, Depth: maxNesting + 2, Values: 2048}, &claims) != nil {
		return nil
	}
	return claims
}

func objectOf(o *object, given map[string]any, path string) (values []Value, missing []string, r *refusal) {
	for name := range given {
		if _, known := o.index[name]; !known {
			return nil, nil, claimWrong("unknown", join(path, o.unknown(given)), "is not one that this type has")
		}
	}
	values = make([]Value, 0, len(given))
	for _, f := range o.fields {
		g, there := given[f.name]
		if !there {
			if f.required {
				missing = append(missing, join(path, f.name))
			}
			continue
		}
		values = append(values, f.value())
		inner, r := values[len(values)-1].take(f, g, join(path, f.name))
		if r != nil {
			return nil, nil, r
		}
		missing = append(missing, inner...)
	}
	return values, missing, nil
}

// unknown is the first name that is not in the schema. Names come from outside too: what could not be a name is not repeated.
func (o *object) unknown(given map[string]any) string {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, known := o.index[name]; !known && nameForm.MatchString(name) {
			return name
		}
	}
	return "(not a name)"
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// value is one that nothing was taken for yet.
func (n *node) value() Value {
	return Value{Name: n.name, Kind: n.kind, MediaType: n.mediaType, Element: n.element, Namespace: n.namespace, SDName: n.sdName, Disclosure: n.disclosure}
}

func (v *Value) take(n *node, given any, path string) (missing []string, r *refusal) {
	is := false
	switch n.kind {
	case "object":
		var members map[string]any
		if members, is = given.(map[string]any); is {
			v.V, missing, r = objectOf(n.members, members, path)
		}
	case "array":
		var elements []any
		if elements, is = given.([]any); is {
			v.V, missing, r = arrayOf(n, elements, path)
		}
	case "bool":
		v.V, is = given.(bool)
	case "int":
		var f float64
		if f, is = given.(float64); is {
			v.V, r = intOf(n, f, path)
		}
	default: // string, date, bytes
		var s string
		if s, is = given.(string); !is {
			break
		}
		if v.V = given; n.kind == "bytes" {
			v.V, r = octetsOf(n, s, path)
		} else {
			r = wrongText(n, s, path)
		}
	}
	if !is {
		r = claimWrong("type", path, "must be of kind %s", n.kind)
	}
	return missing, r
}

func arrayOf(n *node, given []any, path string) (elements []Value, missing []string, r *refusal) {
	switch {
	case int64(len(given)) > n.max:
		return nil, nil, claimWrong("size", path, "has more than %d elements", n.max)
	case int64(len(given)) < n.min:
		return nil, nil, claimWrong("size", path, "has fewer than %d elements", n.min)
	}
	elements = make([]Value, len(given))
	for i, g := range given {
		elements[i] = n.items.value()
		inner, r := elements[i].take(n.items, g, path+"["+strconv.Itoa(i)+"]")
		if r != nil {
			return nil, nil, r
		}
		missing = append(missing, inner...)
	}
	return elements, missing, nil
}

func intOf(n *node, f float64, path string) (int64, *refusal) {
	i := int64(f)
	switch {
	case f != math.Trunc(f) || math.Abs(f) > maxInt: // nor what is no number
		return 0, claimWrong("type", path, "must be a whole number")
	case i < n.min || i > n.max:
		return 0, claimWrong("value", path, "must be between %d and %d", n.min, n.max)
	}
	return i, nil
}

func octetsOf(n *node, s, path string) ([]byte, *refusal) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	switch size := int64(len(b)); {
	case err != nil || base64.RawURLEncoding.EncodedLen(len(b)) != len(s): // the decoder skips line ends
		return nil, claimWrong("type", path, "must be unpadded base64url")
	case size < n.min || size > n.max:
		return nil, claimWrong("size", path, "must have %d to %d octets", n.min, n.max)
	}
	return b, nil
}

func wrongText(n *node, s, path string) *refusal {
	if n.kind == "date" {
		if _, err := time.Parse(time.DateOnly, s); err != nil {
			return claimWrong("value", path, "must be a date that exists, as YYYY-MM-DD")
		}
		return nil
	}
	switch length := int64(utf8.RuneCountInString(s)); {
	case !utf8.ValidString(s):
		return claimWrong("malformed", path, "is not valid UTF-8")
	case n.values != nil && !slices.Contains(n.values, s):
		return claimWrong("value", path, "is not one of the values of its schema")
	case n.values == nil && (length < n.min || length > n.max):
		return claimWrong("size", path, "must have %d to %d characters", n.min, n.max)
	case strings.ContainsFunc(s, unicode.IsControl):
		return claimWrong("value", path, "contains a control character")
	}
	return nil
}

// person is what the claims say of ages and dates at an instant.
type person struct {
	age    int // -1: no birth date
	expiry time.Time
}

// judgeDates checks the claims that depend on the instant: ages against the birth date, and that the document has not expired.
func judgeDates(t *docType, values []Value, at time.Time) (person, *refusal) {
	p := person{age: -1}
	for _, v := range values {
		s, isDate := v.V.(string)
		if v.Kind != "date" || !isDate || (v.Name != birthDate && v.Name != t.expiry) {
			continue
		}
		day, err := time.ParseInLocation(time.DateOnly, s, t.zone)
		if err != nil {
			return p, claimWrong("value", v.Name, "is not a date")
		}
		if v.Name == birthDate {
			if day.After(at) {
				return p, claimWrong("value", birthDate, "is in the future")
			}
			p.age = age(day, at.In(t.zone))
		}
		if v.Name == t.expiry {
			if p.expiry = day.AddDate(0, 0, 1); p.expiry.Sub(at) < time.Second {
				return p, claimWrong("value", v.Name, "is past: the document has expired")
			}
		}
	}
	for _, v := range values {
		if n := t.claims.field(v.Name); n != nil && n.age > 0 && v.V != (p.age >= n.age) {
			return p, claimWrong("value", v.Name, "contradicts %s at the instant of issue", birthDate)
		}
	}
	return p, nil
}

// age in full years. Who was born on 29 February gets older on 1 March of other years.
func age(born, at time.Time) int {
	years := at.Year() - born.Year()
	if at.Month() < born.Month() || (at.Month() == born.Month() && at.Day() < born.Day()) {
		years--
	}
	return years
}
