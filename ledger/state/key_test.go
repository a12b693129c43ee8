package state

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Every pair of states: the steps of NIST SP 800-57 are allowed, and no other is.
func TestKeySteps(t *testing.T) {
	const allowed = `
		- planned, - generated,
		planned generated, planned deactivated, planned destroyed,
		generated certified, generated deactivated, generated compromised, generated destroyed,
		certified announced, certified active, certified deactivated, certified compromised, certified destroyed,
		announced active, announced deactivated, announced compromised, announced destroyed,
		active deactivated, active compromised,
		deactivated compromised, deactivated destroyed,
		compromised destroyed,
		destroyed compromised,`
	steps := map[string]bool{}
	for _, s := range strings.Split(allowed, ",") {
		if s = strings.TrimSpace(s); s != "" {
			steps[s] = true
		}
	}
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	w := KeyWindow{noon.Add(-time.Hour), noon.Add(time.Hour), noon.Add(2 * time.Hour)}
	tried := 0
	for _, from := range append(KeyStates(), "") {
		for _, to := range append(KeyStates(), "", "retired") {
			name := string(from)
			if from == "" {
				name = "-"
			}
			want := steps[fmt.Sprintf("%s %s", name, to)]
			delete(steps, fmt.Sprintf("%s %s", name, to))
			if got := KeyStep(from, to, w, noon, noon); (got == nil) != want {
				t.Errorf("%s → %s: %v, want allowed: %v", name, to, got, want)
			}
			tried++
		}
	}
	if tried != 90 || len(steps) != 0 {
		t.Errorf("%d pairs were tried, left are %v", tried, steps)
	}
}

// Windows bound the steps: no use before its time, none after, and none that outlives the certificate.
func TestKeyWindows(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(h int) time.Time { return noon.Add(time.Duration(h) * time.Hour) }
	for name, c := range map[string]struct {
		to        KeyState
		w         KeyWindow
		since, at time.Time
		ok        bool
	}{
		"in its window":                         {KeyActive, KeyWindow{at(0), at(2), at(3)}, at(-1), at(1), true},
		"in its first second":                   {KeyActive, KeyWindow{at(0), at(2), at(3)}, at(-1), at(0), true},
		"too early":                             {KeyActive, KeyWindow{at(0), at(2), at(3)}, at(-2), at(-1), false},
		"at its end":                            {KeyActive, KeyWindow{at(0), at(2), at(3)}, at(-1), at(2), false},
		"use that ends with the certificate":    {KeyActive, KeyWindow{at(0), at(3), at(3)}, at(-1), at(1), false},
		"use that ends after the certificate":   {KeyActive, KeyWindow{at(0), at(4), at(3)}, at(-1), at(1), false},
		"use that ends before it begins":        {KeyActive, KeyWindow{at(2), at(0), at(3)}, at(-1), at(1), false},
		"before its last step":                  {KeyActive, KeyWindow{at(0), at(2), at(3)}, at(1), at(0), false},
		"deactivated after its end":             {KeyDeactivated, KeyWindow{at(0), at(2), at(3)}, at(-1), at(5), true},
		"announced, and use would never end":    {KeyDeactivated, KeyWindow{at(0), at(4), at(3)}, at(-1), at(1), false},
		"compromised long before its first use": {KeyCompromised, KeyWindow{at(10), at(12), at(13)}, at(-1), at(0), true},
	} {
		if err := KeyStep(KeyAnnounced, c.to, c.w, c.since, c.at); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is done at once is recorded step by step.
func TestKeyPath(t *testing.T) {
	for _, c := range []struct {
		from, to KeyState
		want     string
	}{
		{"", KeyActive, "[generated certified active]"}, {KeyGenerated, KeyActive, "[certified active]"}, {"", KeyGenerated, "[generated]"},
		{"", KeyPlanned, "[planned]"}, {KeyActive, KeyDeactivated, "[deactivated]"}, {KeyDeactivated, KeyActive, "[]"}, {KeyActive, KeyGenerated, "[]"}, {"", "retired", "[]"},
	} {
		if got := fmt.Sprint(c.to.Path(c.from)); got != c.want {
			t.Errorf("%q → %q: %s, want %s", c.from, c.to, got, c.want)
		}
	}
}
