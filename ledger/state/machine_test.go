package state

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sealkeeper/policy"
)

// Whatever happens in whatever order, with devices, reasons and reservations mixed up: everything that world.take holds is true (REVOKED
// terminal, at most one live device, no mdoc bit 1 → 0, From is what the list shows, statuses from scratch equal the running image).
func TestAnyHistory(t *testing.T) {
	reasons := rapid.SampledFrom([]string{"telecom_lost", "self_lost", "card_lost", "admin_hold", "court", "fraud"})
	classes := rapid.SampledFrom([]string{"telecom", "ministry"})
	phones := rapid.SampledFrom([]string{"p1", "p2", "p3"})
	some := rapid.SampledFrom([]string{"", "", "p1", "p2", "p3"})
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		do := func(e Event) {
			if err := w.apply(e); err != nil && strings.HasPrefix(err.Error(), "BROKEN") {
				t.Fatal(err)
			}
		}
		reservation := func(t *rapid.T) string { return fmt.Sprintf("r%d", rapid.IntRange(1, w.made+1).Draw(t, "reservation")) }
		lock := func(t *rapid.T) policy.Lock {
			return policy.Lock{Reason: reasons.Draw(t, "reason"), Class: classes.Draw(t, "class")}
		}
		t.Repeat(map[string]func(*rapid.T){
			"issue": func(t *rapid.T) {
				d := phones.Draw(t, "phone")
				do(Event{Issue: &Issue{Device: d, Keys: [][32]byte{key(d)}, Credentials: w.credentials(d),
					Replace: rapid.Bool().Draw(t, "replace"), Refresh: rapid.Bool().Draw(t, "refresh")}})
			},
			"settle": func(t *rapid.T) { do(Event{Settle: &Settle{reservation(t)}}) },
			"again":  func(t *rapid.T) { do(Event{Again: &Again{reservation(t), w.credentials(phones.Draw(t, "phone"))}}) },
			"lock":   func(t *rapid.T) { do(Event{Lock: &Lock{lock(t), some.Draw(t, "phone")}}) },
			"unlock": func(t *rapid.T) { do(Event{Unlock: &Unlock{lock(t), some.Draw(t, "phone")}}) },
			"revoke": func(t *rapid.T) { do(Event{Revoke: &Revoke{"fraud", some.Draw(t, "phone")}}) },
			"wait":   func(t *rapid.T) { w.at = w.at.Add(life / 4) },
		})
	})
}
