// Package docs keeps the documentation honest: it makes docs/errors.md and the table of docs/metrics.md, and its tests compare README and docs with the code. A page that
// names a key, metric, error code, command, route or file that is not there, or that misses one, fails the tests.
package docs

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"sealkeeper/api"
	"sealkeeper/ca"
	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// rooms in the order of docs/errors.md, with what a reader should know of all their codes.
var rooms = []struct{ name, what string }{
	{"request", "the message itself; it stays wrong when sent again"},
	{"route", "who may use what"},
	{"client", "who asks"},
	{"enrolment", "clients that officers enrol"}, {"token", "single use"}, {"statement", "single use"},
	{"idempotency", "retries"},
	{"subject", "the holder"},
	{"code", "an office's code"}, {"schedule", "orders for later"}, {"acknowledgement", "the phone's acknowledgement"}, {"reissue", "a new phone while the card is locked"}, {"renewal", "a card that has to be renewed"},
	{"evidence", "what the phone and its wallet provider say; get new evidence"},
	{"event", "a carrier's event"},
	{"decision", "what was journalled of a decision"},
	{"flood", "more reports of a carrier than usual"},
	{"line", "the line that a carrier vouched for"},
	{"session", "what evidence items are bound to; open a new one"},
	{"method", "the way to the card"},
	{"registry", "what the register vouches for"},
	{"phase", "the roll-out's calendar"},
	{"nonce", "single use"},
	{"attestation", "single use"},
	{"type", "what was asked for"},
	{"format", "what was asked for"},
	{"copies", "what was asked for"},
	{"officer", "what security officers sign"}, {"proposal", "what they were asked"}, {"campaign", "what they had done about many cards"}, {"issuing", "not now"},
	{"backup", "what backups are made to"}, {"certificate", "what officers put on hold"},
	{"bundle", "a policy bundle that is not put to use"},
	{"phones", "a status of attestation keys and wallets that is not taken"},
	{"claims", "what shall stand in the card"},
	{"slot", "which phone has the card"},
	{"card", "locks of the card"},
	{"lock", "whose lock it is"},
	{"reason", "why a card is locked or revoked"},
	{"refresh", "new credentials for the same phone"},
	{"policy", "the bundle"},
	{"rule", "the bundle's own rules"},
	{"budget", "how much may be issued in an hour or a day"},
	{"reservation", "what happened meanwhile"},
	{"", "not now: send the same request with the same key again, after Retry-After"},
	{"hsm", "not now"},
	{"key", "not now"},
	{"ledger", "not now"},
	{"clock", "not now"},
	{"object", "public listener"},
	{"accept", "public listener"},
	{"time", "public listener"},
}

// Errors makes docs/errors.md.
func Errors() []byte {
	var b bytes.Buffer
	b.WriteString("# Error codes\n\n<!-- Made by `go run ./tests/docs/gen`. Don't edit: change the explanation where the code is defined. -->\n\n")
	b.WriteString("Refusals are RFC 9457 problems (`application/problem+json`). `code` is stable; `title` and `detail` are for people and\nmay change. " +
		"`instance` names the request in the operator's log. If policy was asked, `decision` says which rules decided and\n" +
		"what is missing. With 429 and 503 comes `Retry-After`: send the same request with the same idempotency key again.\n" +
		"[integrator.md](integrator.md#errors) says what to do by status.\n")
	byRoom, own := map[string][]api.ErrorDoc{}, []api.ErrorDoc(nil)
	for _, e := range api.Errors(policy.Codes, ledger.Codes) {
		room, _, ok := strings.Cut(e.Code, ".")
		if !ok {
			room = ""
		}
		if e.Status == http.StatusInternalServerError {
			own = append(own, e)
			continue
		}
		byRoom[room] = append(byRoom[room], e)
	}
	for _, r := range rooms {
		title := r.name
		if title == "" {
			title = "without a room"
		}
		fmt.Fprintf(&b, "\n## %s: %s\n\n| code | status | explanation |\n|---|---|---|\n", title, r.what)
		for _, e := range byRoom[r.name] {
			fmt.Fprintf(&b, "| `%s` | %d | %s |\n", e.Code, e.Status, cell(e.Explanation))
		}
		delete(byRoom, r.name)
	}
	for room := range byRoom {
		panic("rooms of tests/docs has no line for codes of " + room) // the generator's own fault, seen by whoever added the room
	}
	b.WriteString("\n## The appliance's own fault, and its own decisions\n\nA client sees status 500 and, but for the first four, the code `internal`. " +
		"The others\nare refusals of the appliance's own lists, certificates, CRLs and self tests: an operator finds them in the log and in\n`sealkeeper_decisions_total`.\n\n| code | explanation |\n|---|---|\n")
	first := func(code string) bool {
		return code == "internal" || code == "policy.error" || code == "policy.facts" || code == "evidence.unconfigured"
	}
	for _, pass := range []bool{true, false} {
		for _, e := range own {
			if first(e.Code) == pass {
				fmt.Fprintf(&b, "| `%s` | %s |\n", e.Code, cell(e.Explanation))
			}
		}
	}
	return b.Bytes()
}

// cell makes a text fit to stand in a table and to be shown as it is.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;").Replace(s)
}

// The table in docs/metrics.md stands between these lines.
const (
	metricsBegin = "<!-- Made by `go run ./tests/docs/gen` from internal/metrics. Don't edit between here … -->\n"
	metricsEnd   = "<!-- … and here. -->\n"
)

var desc = regexp.MustCompile(`fqName: "([a-z_]+)", help: "(.*?)", (?:unit: "[^"]*", )?constLabels: .*variableLabels: \{([^}]*)\}`)

// Metrics puts the table of all metrics into page.
func Metrics(page []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(page, []byte(metricsBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(metricsEnd))
	if !ok || !ok2 {
		return nil, fmt.Errorf("docs/metrics.md: the lines around the table are missing")
	}
	var rows []string
	ch := make(chan *prometheus.Desc)
	go func() { metrics.New().Registry.Describe(ch); close(ch) }()
	for d := range ch {
		m := desc.FindStringSubmatch(d.String())
		if m == nil {
			rows = append(rows, d.String()) // seen by whoever reads the diff
			continue
		}
		labels := ""
		if m[3] != "" {
			labels = "`" + strings.ReplaceAll(m[3], ",", "`, `") + "`"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |\n", m[1], labels, cell(strings.ReplaceAll(m[2], `\"`, `"`))))
	}
	slices.Sort(rows)
	table := "\n| metric | labels | what |\n|---|---|---|\n" + strings.Join(rows, "") + "\n"
	return slices.Concat(before, []byte(metricsBegin), []byte(table), []byte(metricsEnd), after), nil
}

const (
	actionsHead = "| action | officers | delay | life of a proposal | carried out by this version |\n|---|---|---|---|---|\n"
)

// Actions puts the table of what officers decide on into page.
func Actions(page []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(page, []byte(actionsHead))
	_, after, ok2 := bytes.Cut(rest, []byte("\n\n"))
	if !ok || !ok2 {
		return nil, fmt.Errorf("docs/officer.md: the head of the table of actions is missing")
	}
	var table bytes.Buffer
	rules := officer.DefaultRules()
	for _, a := range officer.Actions() {
		yes := "no"
		if ca.Executes(a) {
			yes = "yes"
		}
		fmt.Fprintf(&table, "| `%s` | %d | %s | %s | %s |\n", a, rules[a].Need, rules[a].Delay, rules[a].Life, yes)
	}
	return slices.Concat(before, []byte(actionsHead), table.Bytes(), []byte("\n"), after), nil
}
