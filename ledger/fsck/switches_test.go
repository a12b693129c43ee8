package fsck_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
)

// bent is a ledger of these leaves and rows, and what fsck says of them in one check.
func bent(t *testing.T, title string, leaves []string, rows []ledger.Row) string {
	t.Helper()
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "ledger.db")
	s, err := ledger.OpenSQLite(ctx, path)
	must(t, err)
	var ops []ledger.Op
	for _, l := range leaves {
		ops = append(ops, ledger.Op{Leaf: []byte(l)})
	}
	ops[len(ops)-1].Rows = rows
	_, err = s.Commit(ctx, ops)
	must(t, err)
	must(t, s.Close())
	r, err := fsck.Run(ctx, fsck.Options{Ledger: path})
	must(t, err)
	for _, c := range r.Checks {
		if strings.HasPrefix(c.Title, title) {
			return strings.Join(c.Problems, "; ")
		}
	}
	t.Fatalf("%s: not checked", title)
	return ""
}

// What officers switched off, raised, stopped and accepted is set if the journal says so, and nothing else is.
func TestSwitches(t *testing.T) {
	leaf := func(kind, name, state string) string {
		return `{"v":1,"kind":"` + kind + `","at":"2026-11-24T00:00:00Z","name":"` + name + `","state":"` + state + `"}`
	}
	set := func(key, value string) ledger.Row {
		return ledger.Row{Table: ledger.TableMeta, Key: []byte(key), Value: []byte(value)}
	}
	off := set("authority/off/registry", `{"at":"2026-11-24T00:00:00Z","reason":"r","by":["kim"]}`)
	raised := set("budget/raised/office/day", `{"limit":5,"until":"2026-11-25T00:00:00Z","reason":"r","by":["kim"]}`)
	stopped := set("issuing/stop", `{"at":"2026-11-24T00:00:00Z","reason":"r","by":["kim"]}`)
	clock := set("accepted-clock", "2026-11-24T00:15:00Z")
	for name, c := range map[string]struct {
		leaves []string
		rows   []ledger.Row
		says   string
	}{
		"an authority that is off":          {[]string{leaf("authority", "registry", "off")}, []ledger.Row{off}, ""},
		"off and on again":                  {[]string{leaf("authority", "registry", "off"), leaf("authority", "registry", "on")}, nil, ""},
		"off by nobody":                     {[]string{leaf("meta", "x", "")}, []ledger.Row{off}, "authority registry is set, and the journal does not say so"},
		"off after it was switched on":      {[]string{leaf("authority", "registry", "off"), leaf("authority", "registry", "on")}, []ledger.Row{off}, "authority registry is set, and the journal does not say so"},
		"on by nobody":                      {[]string{leaf("authority", "registry", "off")}, nil, "the journal says that authority registry is set, and it is not"},
		"another one is off":                {[]string{leaf("authority", "face-matcher", "off")}, []ledger.Row{off}, "the journal says that authority face-matcher is set, and it is not"},
		"a budget that is raised":           {[]string{leaf("budget", "office/day", "raised")}, []ledger.Row{raised}, ""},
		"raised by nobody":                  {[]string{leaf("meta", "x", "")}, []ledger.Row{raised}, "budget office/day is set, and the journal does not say so"},
		"a raise that is over and is there": {[]string{leaf("budget", "office/day", "raised"), leaf("budget", "office/day", "over")}, []ledger.Row{raised}, "budget office/day is set, and the journal does not say so"},
		"a raise that is gone":              {[]string{leaf("budget", "office/day", "raised")}, nil, "the journal says that budget office/day is set, and it is not"},
		"issuing is stopped":                {[]string{leaf("issuing", "", "stopped")}, []ledger.Row{stopped}, ""},
		"stopped by nobody":                 {[]string{leaf("issuing", "", "stopped"), leaf("issuing", "", "resumed")}, []ledger.Row{stopped}, "issuing is set, and the journal does not say so"},
		"resumed by nobody":                 {[]string{leaf("issuing", "", "stopped")}, nil, "the journal says that issuing is set, and it is not"},
		"a clock that was accepted":         {[]string{leaf("clock", "2026-11-24T00:15:00Z", "accepted")}, []ledger.Row{clock}, ""},
		"a clock that nobody accepted":      {[]string{leaf("meta", "x", "")}, []ledger.Row{clock}, "clock 2026-11-24T00:15:00Z is set, and the journal does not say so"},
		"another instant than was accepted": {[]string{leaf("clock", "2026-11-24T00:10:00Z", "accepted")}, []ledger.Row{clock}, "clock 2026-11-24T00:15:00Z is set, and the journal does not say so"},
	} {
		if says := bent(t, "what officers switched", c.leaves, c.rows); says != c.says && (c.says == "" || !strings.Contains(says, c.says)) {
			t.Errorf("%s: fsck says %q, want %q", name, says, c.says)
		}
	}
}

// A campaign has the cards that the journal marked, each once, and ended with all of them; it is forgotten with them when its time is over, and not before.
func TestCampaigns(t *testing.T) {
	const (
		begun    = `{"v":1,"kind":"campaign","at":"2026-11-24T00:00:00Z","name":"c1","operation":"revoke","state":"started"}`
		marked   = `{"v":1,"kind":"campaign-card","at":"2026-11-24T00:00:01Z","name":"c1","operation":"revoke","state":"revoked"}`
		ended    = `{"v":1,"kind":"campaign","at":"2026-11-24T00:00:03Z","name":"c1","operation":"revoke","state":"done","count":2}`
		sweeping = `{"v":1,"kind":"campaign","at":"2026-12-25T00:00:00Z","name":"c1","operation":"revoke","state":"sweeping","count":1}`
		swept    = `{"v":1,"kind":"campaign","at":"2026-12-25T00:00:00Z","name":"c1","operation":"revoke","state":"swept","count":1}`
		early    = `{"v":1,"kind":"campaign","at":"2026-12-23T00:00:00Z","name":"c1","operation":"revoke","state":"swept","count":2}`
		goes     = `{"operation":"revoke","document_type":"kr-resident","reason":"","per_second":1,"at":"2026-11-24T00:00:00Z","by":["kim"]}`
		over     = `{"operation":"revoke","document_type":"kr-resident","reason":"","per_second":1,"at":"2026-11-24T00:00:00Z","by":["kim"],"done":"2026-11-24T00:00:03Z"}`
	)
	for name, c := range map[string]struct {
		leaves []string
		row    string
		cards  int
		state  string
		says   string
	}{
		"under way":               {[]string{begun, marked}, goes, 1, "revoked", ""},
		"over":                    {[]string{begun, marked, marked, ended}, over, 2, "revoked", ""},
		"being swept":             {[]string{begun, marked, marked, ended, sweeping}, over, 1, "revoked", ""},
		"swept":                   {[]string{begun, marked, marked, ended, sweeping, swept}, "", 0, "", ""},
		"that nobody began":       {[]string{marked}, goes, 1, "revoked", "was never begun by the journal"},
		"that is gone":            {[]string{begun, marked, marked, ended}, "", 0, "", "began and is not there"},
		"a card too few":          {[]string{begun, marked, marked, ended}, over, 1, "revoked", "the journal has marked 2 cards, and there are 1"},
		"a card too many":         {[]string{begun, marked}, goes, 2, "revoked", "the journal has marked 1 cards, and there are 2"},
		"cards that nobody began": {[]string{begun}, goes, 2, "revoked", "2 cards that the journal has not marked"},
		"over by nobody":          {[]string{begun, marked, marked}, over, 2, "revoked", "is done: true, by the journal: false"},
		"over, and goes on":       {[]string{begun, marked, marked, ended}, goes, 2, "revoked", "is done: false, by the journal: true"},
		"over, and a card waits":  {[]string{begun, marked, marked, ended}, over, 2, "waiting", "of which 2 wait"},
		"swept, and is there":     {[]string{begun, marked, marked, ended, sweeping, swept}, over, 0, "", "was swept, and is there"},
		"swept before its time":   {[]string{begun, marked, marked, ended, early}, "", 0, "", "before its time"},
		"swept under way":         {[]string{begun, marked, swept}, "", 0, "", "before its time"},
		"a card swept by nobody":  {[]string{begun, marked, marked, ended, sweeping}, over, 0, "", "the journal has marked 2 cards, and there are 1"},
	} {
		var rows []ledger.Row
		if c.row != "" {
			rows = append(rows, ledger.Row{Table: ledger.TableCampaigns, Key: []byte("c1"), Value: []byte(c.row)})
		}
		for i := range c.cards {
			slot := append([]byte("c1\x00kr-resident\x00"), make([]byte, 32)...)
			slot[len(slot)-1] = byte(i)
			rows = append(rows, ledger.Row{Table: ledger.TableCards, Key: slot, Value: []byte(`{"state":"` + c.state + `","at":"2026-11-24T00:00:01Z","until":"2026-12-24T00:00:00Z"}`)})
		}
		if says := bent(t, "cards of campaigns", c.leaves, rows); says != c.says && (c.says == "" || !strings.Contains(says, c.says)) {
			t.Errorf("a campaign %s: fsck says %q, want %q", name, says, c.says)
		}
	}
}
