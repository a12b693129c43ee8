package scenario

import (
	"testing"
	"time"

	harness "sealkeeper/tests/appliance"
	"sealkeeper/verifier"
)

// A list that changes all the time has five versions a second at most, and each change is in one of them.
func TestChangesOfABusyListShareVersions(t *testing.T) {
	t.Parallel()
	a := harness.Install(t).Start()
	_, s := byFormat(a.Issue(newPhone(t, 1), "busy-1", false))
	a.Change("telecom-a", lock, "busy-1", "telecom_lost", "")
	a.Eventually(s.Status, verifier.Suspended)
	version := func() (version uint64) {
		t.Helper()
		for _, l := range a.Operations().Lists {
			if l.URI == s.Status.URI {
				version = l.Version
			}
		}
		if version == 0 {
			t.Fatalf("no list %s", s.Status.URI)
		}
		return version
	}
	changes, began, first := 0, time.Now(), version()
	for ; changes < 100 && time.Since(began) < 20*time.Second; changes += 2 {
		a.Change("telecom-a", unlock, "busy-1", "telecom_lost", "")
		a.Change("telecom-a", lock, "busy-1", "telecom_lost", "")
	}
	a.Change("telecom-a", unlock, "busy-1", "telecom_lost", "")
	a.Eventually(s.Status, verifier.Valid)
	grew, took := version()-first, time.Since(began)
	if most := uint64(took/(200*time.Millisecond)) + 2; grew > most {
		t.Errorf("%d changes within %v: %d versions, want %d at most", changes, took, grew, most)
	}
	a.Check()
}
