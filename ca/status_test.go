package ca

import (
	"testing"
	"time"

	"sealkeeper/contract"
)

func TestExpiring(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		left time.Duration
		want string
	}{
		{30 * day, ""}, {30*day - time.Second, Info}, {7 * day, Info}, {7*day - time.Second, Warning}, {day, Warning}, {day - time.Second, Critical}, {0, Critical}, {-time.Hour, Critical},
	} {
		got, soon := Expiring("ds-1", now.Add(c.left), now)
		if got.Severity != c.want || soon != (c.want != "") {
			t.Errorf("%s left: %q, soon %v", c.left, got.Severity, soon)
		}
	}
}

func TestUrgentFirst(t *testing.T) {
	c := []contract.Condition{{Name: "a", Severity: Info}, {Name: "b", Severity: Critical}, {Name: "c", Severity: Warning}, {Name: "d", Severity: Critical}}
	Urgent(c)
	got := ""
	for _, x := range c {
		got += x.Name
	}
	if got != "bdca" {
		t.Errorf("order %s", got)
	}
}
