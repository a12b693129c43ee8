package policy

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"pgregory.net/rapid"
)

func withRules(t testing.TB, rules ...string) *Bundle {
	t.Helper()
	var f BundleFile
	if err := json.Unmarshal([]byte(read(t, "demo.json")), &f); err != nil {
		t.Fatal(err)
	}
	f.Rules = nil
	for i, r := range rules {
		f.Rules = append(f.Rules, RuleSpec{ID: fmt.Sprintf("r%d", i), Cedar: r})
	}
	return parse(t, f)
}

// A judgement that is remembered is the one that would be made, of any facts, and the first time as well as the second.
func TestRememberedJudgements(t *testing.T) {
	b := withRules(t,
		`permit(principal, action == Action::"issue", resource) when { context.evidence.contains("face_match") && !(context.replace && context.bound) };`,
		`permit(principal is Client, action, resource == DocumentType::"kr-resident") when { principal.role == "issuance" && context.copies < 3 };`,
		`forbid(principal, action, resource) when { context has age && context.age < 19 };`,
		`forbid(principal, action, resource) when { context.locks.contains("lost") || context.app == "bad" };`,
		`permit(principal, action, resource) when { principal.channel == "a" && principal.class == "b" };`,
		`forbid(principal, action, resource) when { context.at < datetime("1970-01-01T00:00:02Z") || datetime("1970-01-01T00:00:04Z") == context["at"] || context.at > datetime("1970-01-01T00:00:06Z") };`)
	if b.rules.known == nil {
		t.Fatal("nothing is remembered of rules that only compare the instant")
	}
	names := rapid.SampledFrom([]string{"", "a", "b", "ab", "lost", "face_match", "bad"})
	lists := rapid.SliceOfN(names, 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		f := ruleFacts{client: rapid.SampledFrom([]string{"ward-office-1", "telecom-a", "nobody"}).Draw(t, "client"), operation: rapid.SampledFrom([]Operation{OpIssue, OpRefresh}).Draw(t, "operation"),
			typ: rapid.SampledFrom([]string{"kr-resident", "mdl"}).Draw(t, "type"), at: time.UnixMilli(rapid.Int64Range(0, 16).Draw(t, "at") * 500), replace: rapid.Bool().Draw(t, "replace"),
			bound: rapid.Bool().Draw(t, "bound"), copies: rapid.IntRange(0, 4).Draw(t, "copies"), evidence: lists.Draw(t, "evidence"), storage: lists.Draw(t, "storage"),
			user: lists.Draw(t, "user"), issuer: names.Draw(t, "issuer"), identity: names.Draw(t, "identity"), app: names.Draw(t, "app"), age: rapid.IntRange(-1, 30).Draw(t, "age")}
		if rapid.Bool().Draw(t, "enrolled") {
			f.client, f.asker = "office-7", client{ClientInfo: ClientInfo{ID: "office-7", Role: rapid.SampledFrom([]string{"issuance", "desk"}).Draw(t, "role"), Class: names.Draw(t, "class")},
				channel: names.Draw(t, "channel"), enrolment: &Enrolment{}}
		}
		for range rapid.IntRange(0, 2).Draw(t, "formats") {
			f.formats = append(f.formats, rapid.SampledFrom([]Format{MDoc, SDJWT}).Draw(t, "format"))
		}
		for _, l := range lists.Draw(t, "locks") {
			f.locks = append(f.locks, Lock{Reason: l})
		}
		result, code, detail, ids := b.rules.evaluate(f)
		for range 2 {
			r, c, d, i := b.rules.judge(f)
			if r != result || c != code || d != detail || !slices.Equal(i, ids) {
				t.Fatalf("%v %s %v instead of %v %s %v: %+v", r, c, i, result, code, ids, f)
			}
			clear(i) // what a caller does with it is its own affair
		}
	})
}

// Two different facts must not be taken for each other: texts that run together, and lists that lend each other an element.
func TestFactsHaveTheirOwnKeys(t *testing.T) {
	all := []ruleFacts{{}, {client: "ab"}, {client: "a", operation: "b"}, {operation: "ab"}, {typ: "ab"}, {issuer: "ab"}, {identity: "ab"}, {app: "ab"}, {replace: true}, {bound: true},
		{copies: 1}, {copies: -1}, {age: 1}, {age: -1}, {formats: []Format{"a"}}, {evidence: []string{"a"}}, {evidence: []string{"a", ""}}, {evidence: []string{"", "a"}}, {storage: []string{"a"}},
		{user: []string{"a"}}, {locks: []Lock{{Reason: "a"}}}, {evidence: []string{"a"}, storage: []string{"b"}}, {evidence: []string{"a", "b"}}, {storage: []string{"a", "b"}}}
	for _, c := range []client{{}, {ClientInfo: ClientInfo{Role: "ab"}}, {ClientInfo: ClientInfo{Class: "ab"}}, {channel: "ab"}, {ClientInfo: ClientInfo{Role: "a", Class: "b"}}} {
		c.enrolment = &Enrolment{}
		all = append(all, ruleFacts{asker: c})
	}
	seen := map[string]int{}
	for i, f := range all {
		if j, twice := seen[f.key(nil)]; twice {
			t.Errorf("%+v and %+v have one key", all[j], f)
		}
		seen[f.key(nil)] = i
	}
}

// Of a client that officers enrolled the id says nothing: a bundle's tests may have one of the same id in every channel, and none gets the other's answer.
func TestJudgementsOfEnrolledClients(t *testing.T) {
	var f BundleFile
	if err := json.Unmarshal([]byte(read(t, "demo.json")), &f); err != nil {
		t.Fatal(err)
	}
	for _, channel := range []string{"office", "online"} {
		f.Enrolled = append(f.Enrolled, GroupSpec{Role: "issuance", Channel: channel, Issuer: "https://offices.example", May: map[string][]Operation{"kr-resident": {OpIssue}}})
	}
	f.Rules = []RuleSpec{{ID: "office", Cedar: `permit(principal, action, resource) when { principal.channel == "office" };`}}
	s := aScene("kr-resident")
	claims, err := json.Marshal(s.claims)
	if err != nil {
		t.Fatal(err)
	}
	in := Input{At: noon, Client: "office-7", Operation: OpIssue, DocumentType: "kr-resident", Claims: claims,
		Evidence: EvidenceInput{KeyStorage: s.facts.KeyStorage, UserAuthentication: s.facts.UserAuthentication}}
	for _, order := range [][]string{{"office", "online"}, {"online", "office"}} {
		b := parse(t, f)
		for _, channel := range order {
			in.Enrolled = &Enrolment{ID: in.Client, Role: "issuance", Channel: channel, Life: 3600}
			want := map[string]string{"online": "policy.denied"}[channel]
			if d, err := b.Decide(in); err != nil || d.Code != want || (d.Result == Allowed) != (want == "") {
				t.Errorf("in %v, %s: %v %+v, want %q", order, channel, err, d, want)
			}
		}
	}
}

// What a rule makes of the instant beyond comparing it is said anew each time.
func TestNothingIsRememberedOfTheInstant(t *testing.T) {
	for rule, want := range map[string]bool{
		`permit(principal, action, resource) when { context.at < datetime("2026-06-01") };`:                                          false,
		`permit(principal, action, resource) when { datetime("2026-06-01T00:00:00+0900") == context["at"] };`:                        false,
		`permit(principal, action, resource) unless { context has at };`:                                                             false,
		`permit(principal, action, resource) when { context.replace && context has age && context.locks.contains("at") };`:           false,
		`permit(principal, action == Action::"issue", resource) when { resource == DocumentType::"mdl" && context.app == "at.at" };`: false,
		`permit(principal, action, resource) when { context.at <= context.at };`:                                                     true,
		`permit(principal, action, resource) when { context.replace || context.at.toDate() == datetime("2026-06-01") };`:             true,
		`permit(principal, action, resource) when { context.at < datetime("2026-06-01").offset(duration("1d")) };`:                   true,
		`permit(principal, action, resource) when { context.at.offset(duration("1d")) < datetime("2026-06-01") };`:                   true,
		`permit(principal, action, resource) when { {"c": context}.c.at < datetime("2026-06-01") };`:                                 true,
		`permit(principal, action, resource) when { (if context.bound then context else context).at < datetime("2026-06-01") };`:     true,
	} {
		b := withRules(t, rule)
		if forgotten := b.rules.known == nil; forgotten != want {
			t.Errorf("%s: forgotten %t", rule, forgotten)
		}
	}
	for _, rule := range []string{`permit(principal, action, resource) when { context.at < datetime("2026-06-01") };`,
		`permit(principal, action, resource) when { context.at.toDate() < datetime("2026-06-01") };`} {
		b := withRules(t, rule)
		for i, want := range []Result{Allowed, Denied, Allowed, Denied} {
			f := ruleFacts{client: "ward-office-1", operation: OpIssue, typ: "mdl", at: time.Date(2026, 6, 1, 0, 0, 0, i%2*2e6-1e6, time.UTC)}
			if r, _, _, _ := b.rules.judge(f); r != want {
				t.Errorf("%s: at %s it says %v", rule, f.at, r)
			}
		}
	}
	for _, name := range []string{"demo.json", "kr-resident.json", "eu-pid.json", "mdl.json"} {
		if load(t, name).rules.known == nil {
			t.Errorf("of %s nothing can be remembered", name)
		}
	}
}

// What is remembered is bounded, whatever comes from outside.
func TestJudgementsAreBounded(t *testing.T) {
	b := withRules(t, `permit(principal, action, resource) when { context.bound };`)
	long := ruleFacts{issuer: string(make([]byte, longestFacts))}
	if b.rules.judge(long); len(b.rules.known.of) != 0 {
		t.Error("facts of any length are remembered")
	}
	for i := range mostJudgements + 10 {
		b.rules.judge(ruleFacts{copies: i})
		if len(b.rules.known.of) > mostJudgements {
			t.Fatalf("%d judgements are remembered", len(b.rules.known.of))
		}
	}
}
