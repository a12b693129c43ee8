package policy

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"pgregory.net/rapid"

	"sealkeeper/internal/fuzzing"
)

// Types, sizes and values by schema. Details name the claim and never say its value.
func TestClaimsAreCheckedAgainstTheSchema(t *testing.T) {
	b := load(t, "demo.json")
	for name, c := range map[string]struct {
		typ   string
		alter func(map[string]any)
		code  string // empty: allowed
		names string // in detail
	}{
		"string as number":           {"kr-resident", func(m map[string]any) { m["address"] = 7 }, "claims.type", "address"},
		"null":                       {"kr-resident", func(m map[string]any) { m["address"] = nil }, "claims.type", "address"},
		"empty string":               {"kr-resident", func(m map[string]any) { m["address"] = "" }, "claims.size", "address"},
		"longest, in characters":     {"kr-resident", func(m map[string]any) { m["address"] = strings.Repeat("로", 300) }, "", ""},
		"a character too long":       {"kr-resident", func(m map[string]any) { m["address"] = strings.Repeat("로", 301) }, "claims.size", "address"},
		"control character":          {"kr-resident", func(m map[string]any) { m["address"] = "a\nb" }, "claims.value", "address"},
		"not one of the values":      {"kr-resident", func(m map[string]any) { m["issuing_country"] = "KP" }, "claims.value", "issuing_country"},
		"bool as string":             {"kr-resident", func(m map[string]any) { m["age_over_19"] = "true" }, "claims.type", "age_over_19"},
		"date that never was":        {"kr-resident", func(m map[string]any) { m["birth_date"] = "1990-02-29" }, "claims.value", "birth_date"},
		"date with time":             {"kr-resident", func(m map[string]any) { m["birth_date"] = "1990-01-01T00:00:00Z" }, "claims.value", "birth_date"},
		"date without zeros":         {"kr-resident", func(m map[string]any) { m["birth_date"] = "1990-1-1" }, "claims.value", "birth_date"},
		"born tomorrow":              {"kr-resident", func(m map[string]any) { m["birth_date"], m["age_over_19"] = "2026-03-16", false }, "claims.value", "birth_date"},
		"padded bytes":               {"kr-resident", func(m map[string]any) { m["portrait"] = "AA==" }, "claims.type", "portrait"},
		"bytes with a loose tail":    {"kr-resident", func(m map[string]any) { m["portrait"] = "AB" }, "claims.type", "portrait"},
		"bytes with a line end":      {"kr-resident", func(m map[string]any) { m["portrait"] = "AA\nAA" }, "claims.type", "portrait"},
		"standard alphabet":          {"kr-resident", func(m map[string]any) { m["portrait"] = "+/+/" }, "claims.type", "portrait"},
		"no octets":                  {"kr-resident", func(m map[string]any) { m["portrait"] = "" }, "claims.size", "portrait"},
		"most octets":                {"kr-resident", func(m map[string]any) { m["portrait"] = octets(65536) }, "", ""},
		"an octet too many":          {"kr-resident", func(m map[string]any) { m["portrait"] = octets(65537) }, "claims.size", "portrait"},
		"far too large":              {"kr-resident", func(m map[string]any) { m["portrait"] = octets(maxClaimBytes) }, "claims.malformed", ""},
		"unknown claim":              {"kr-resident", func(m map[string]any) { m["resident_number"] = "900101-1234567" }, "claims.unknown", "resident_number"},
		"unknown claim with a value": {"kr-resident", func(m map[string]any) { m["홍길동"] = 1 }, "claims.unknown", "(not a name)"},
		"other case":                 {"kr-resident", func(m map[string]any) { m["Address"] = "a" }, "claims.unknown", "(not a name)"},
		"mdl's claim in a card":      {"kr-resident", func(m map[string]any) { m["height"] = 180 }, "claims.unknown", "height"},
		"over 19 but isn't":          {"kr-resident", func(m map[string]any) { m["birth_date"] = "2007-03-15" }, "claims.value", "age_over_19"},
		"not over 19 but is":         {"kr-resident", func(m map[string]any) { m["age_over_19"] = false }, "claims.value", "age_over_19"},
		"19 today":                   {"kr-resident", func(m map[string]any) { m["birth_date"] = "2007-03-14" }, "", ""},
		"turns 19 in the lifetime":   {"kr-resident", func(m map[string]any) { m["birth_date"], m["age_over_19"] = "2007-03-15", false }, "", ""},
		"fraction":                   {"mdl", func(m map[string]any) { m["height"] = 180.5 }, "claims.type", "height"},
		"too tall":                   {"mdl", func(m map[string]any) { m["height"] = 301 }, "claims.value", "height"},
		"number as string":           {"mdl", func(m map[string]any) { m["height"] = "180" }, "claims.type", "height"},
		"whole number":               {"mdl", func(m map[string]any) { m["height"] = 180 }, "", ""},
		"array as object":            {"mdl", func(m map[string]any) { m["driving_privileges"] = map[string]any{} }, "claims.type", "driving_privileges"},
		"empty array":                {"mdl", func(m map[string]any) { m["driving_privileges"] = []any{} }, "claims.size", "driving_privileges"},
		"too many elements":          {"mdl", func(m map[string]any) { m["driving_privileges"] = slices.Repeat(m["driving_privileges"].([]any), 17) }, "claims.size", "driving_privileges"},
		"element of another kind":    {"mdl", func(m map[string]any) { m["driving_privileges"] = []any{"B"} }, "claims.type", "driving_privileges[0]"},
		"member inside is unknown": {"mdl", func(m map[string]any) { m["driving_privileges"] = []any{map[string]any{"category": "B"}} }, "claims.unknown",
			"driving_privileges[0].category"},
		"member inside is missing": {"mdl", func(m map[string]any) { m["driving_privileges"] = []any{map[string]any{}} }, "claims.missing", ""},
		"two ages contradict":      {"mdl", func(m map[string]any) { m["age_over_18"], m["age_over_21"] = true, false }, "claims.value", "age_over_21"},
	} {
		t.Run(name, func(t *testing.T) {
			s := aScene(c.typ)
			c.alter(s.claims)
			a, d := s.decide(b)
			if c.code == "" {
				allowed(t, a, d)
				return
			}
			denied(t, a, d, c.code)
			if !strings.Contains(d.Detail, c.names) || strings.Contains(d.Detail, "900101") || strings.Contains(d.Detail, "홍") {
				t.Errorf("detail: %s", d.Detail)
			}
		})
	}
}

func octets(n int) string { return base64.RawURLEncoding.EncodeToString(make([]byte, n)) }

func TestMissingClaimsAreAllNamed(t *testing.T) {
	b := load(t, "demo.json")
	s := aScene("mdl")
	delete(s.claims, "portrait")
	delete(s.claims, "birth_date")
	s.claims["driving_privileges"] = []any{map[string]any{"codes": []any{map[string]any{}}}}
	a, d := s.decide(b)
	denied(t, a, d, "claims.missing")
	want := []string{"birth_date", "driving_privileges[0].codes[0].code", "driving_privileges[0].vehicle_category_code", "portrait"}
	if !slices.Equal(d.Missing, want) {
		t.Errorf("missing %v, want %v", d.Missing, want)
	}
}

func TestMalformedClaims(t *testing.T) {
	b := load(t, "demo.json")
	for _, bad := range []string{``, `null`, `[]`, `"a"`, `{`, `{}{}`, `{} x`, `{"address":"a","address":"b"}`, `{"address":"` + "\xff" + `"}`, `{"address":"a",}`,
		`{"address"}`, `{"address":"a" "b":1}`} {
		s := aScene("kr-resident")
		s.text = []byte(bad)
		if a, d := s.decide(b); a != nil || d.Result != Denied || d.Code != "claims.malformed" {
			t.Errorf("%q: %v %s", bad, d.Result, d.Code)
		}
	}
}

// Requirement 9: for every age and instant, exactly the right value is accepted, and a true one is right ever after.
func TestAgesAreRightAndNeverFlipBack(t *testing.T) {
	seoul := time.FixedZone("", 9*3600)
	for born, c := range map[string]struct {
		at   time.Time
		want int
	}{
		"2007-03-14": {time.Date(2026, 3, 14, 0, 0, 0, 0, seoul), 19},
		"2007-03-15": {time.Date(2026, 3, 14, 23, 59, 59, 0, seoul), 18},
		"2008-02-29": {time.Date(2027, 2, 28, 23, 59, 59, 0, seoul), 18},
		"2008-02-28": {time.Date(2027, 2, 28, 0, 0, 0, 0, seoul), 19},
		"2026-03-14": {time.Date(2026, 3, 14, 0, 0, 0, 0, seoul), 0},
	} {
		day, _ := time.ParseInLocation(time.DateOnly, born, seoul)
		if got := age(day, c.at); got != c.want {
			t.Errorf("born %s, at %s: %d, want %d", born, c.at, got, c.want)
		}
	}
	if born, _ := time.ParseInLocation(time.DateOnly, "2008-02-29", seoul); age(born, time.Date(2027, 3, 1, 0, 0, 0, 0, seoul)) != 19 {
		t.Error("who was born on 29 February is not 19 on 1 March")
	}
	rapid.Check(t, func(t *rapid.T) {
		born := time.Date(1900, 1, 1, 0, 0, 0, 0, seoul).AddDate(0, 0, rapid.IntRange(0, 60_000).Draw(t, "born"))
		at := born.Add(time.Duration(rapid.IntRange(0, 120*365*24).Draw(t, "hours")) * time.Hour)
		later := at.Add(time.Duration(rapid.IntRange(0, 24*365).Draw(t, "later")) * time.Hour)
		if age(born, at) < 0 || age(born, later) < age(born, at) {
			t.Fatalf("born %s: %d at %s, %d at %s", born, age(born, at), at, age(born, later), later)
		}
	})
}

// Birthdays begin where the document is at home: midnight in Seoul is 15:00 UTC of the day before.
func TestBirthdaysBeginInTheDocumentsTimeZone(t *testing.T) {
	b := load(t, "demo.json")
	for at, want := range map[time.Time]bool{
		time.Date(2026, 3, 14, 14, 59, 59, 0, time.UTC): false,
		time.Date(2026, 3, 14, 15, 0, 0, 0, time.UTC):   true,
	} {
		s := aScene("kr-resident")
		s.at, s.facts.about.At = at, at
		s.claims["birth_date"], s.claims["age_over_19"] = "2007-03-15", want
		a, d := s.decide(b)
		allowed(t, a, d)
	}
}

// The order of values, and so of everything that is signed, does not depend on the order in which a client wrote its claims.
func TestValuesDoNotDependOnTheOrderOfClaims(t *testing.T) {
	schema := load(t, "demo.json").types["kr-resident"].claims
	claims := aScene("kr-resident").claims
	var members []string
	for name, v := range claims {
		j, _ := json.Marshal(v)
		members = append(members, fmt.Sprintf("%q:%s", name, j))
	}
	slices.Sort(members)
	want, r := valuesOf(schema, claimsIn([]byte("{"+strings.Join(members, ",")+"}")))
	if r != nil {
		t.Fatal(r.detail)
	}
	rapid.Check(t, func(t *rapid.T) {
		shuffled := rapid.Permutation(members).Draw(t, "order")
		if got, r := valuesOf(schema, claimsIn([]byte("{"+strings.Join(shuffled, ",")+"}"))); r != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v %v", got, r)
		}
	})
}

func TestIssueForATypeWithoutMDoc(t *testing.T) {
	day := 24 * time.Hour
	typ := &docType{vct: "a:b", refreshFrom: day}
	s := Slot{Live: 1, Newest: noon}
	if r := typ.judgeRefresh(s, noon.Add(day-1)); r == nil || r.code != "refresh.early" {
		t.Errorf("early: %v", r)
	}
	s.Live = 0
	if r := typ.judgeRefresh(s, noon); r != nil {
		t.Errorf("nothing live: %v", r)
	}
}

// Whatever bytes come as claims: what is accepted fits the schema, in its order, and refusals are explained.
func FuzzClaims(f *testing.F) {
	b := load(f, "demo.json")
	var all []*object
	var seeds [][]byte
	for _, t := range b.Types() {
		all = append(all, b.types[t.Name].claims)
		data, _ := json.Marshal(aScene(t.Name).claims, json.Deterministic(true))
		seeds = append(seeds, data)
	}
	seeds = append(seeds, fuzzing.Strings(`{"driving_privileges":[{"codes":[{"code":"01"},{}]}]}`, `{"address":{"formatted":"a"},"nationality":["KR",1]}`)...)
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, data []byte) (accepted bool) {
		claims := claimsIn(data)
		for _, schema := range all {
			values, r := valuesOf(schema, claims)
			if r != nil {
				if values != nil || Codes[r.code] == "" || r.detail == "" {
					t.Errorf("refused with %+v beside %v", r, values)
				}
				continue
			}
			accepted = true
			fits(t, schema.fields, values)
		}
		return accepted
	})
}

func fits(t *testing.T, fields []*node, values []Value) {
	given := map[string]Value{}
	last := ""
	for _, v := range values {
		if v.Name <= last {
			t.Fatalf("%s after %s", v.Name, last)
		}
		given[v.Name], last = v, v.Name
	}
	for _, n := range fields {
		v, ok := given[n.name]
		if !ok {
			if n.required {
				t.Fatalf("%s is required", n.name)
			}
			continue
		}
		delete(given, n.name)
		fit(t, n, v)
	}
	if len(given) > 0 {
		t.Fatalf("not in the schema: %v", given)
	}
}

func fit(t *testing.T, n *node, v Value) {
	want := map[string]any{"string": "", "date": "", "bytes": []byte{}, "bool": false, "int": int64(0), "array": []Value{}, "object": []Value{}}[n.kind]
	if v.Kind != n.kind || reflect.TypeOf(v.V) != reflect.TypeOf(want) {
		t.Fatalf("%s of kind %s is a %T", n.name, v.Kind, v.V)
	}
	switch n.kind {
	case "array":
		for _, e := range v.V.([]Value) {
			fit(t, n.items, e)
		}
	case "object":
		fits(t, n.members.fields, v.V.([]Value))
	}
}
