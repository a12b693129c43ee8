package histories

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sealkeeper/tests/appliance"
)

func TestMain(m *testing.M) { os.Exit(appliance.Main(m)) }

// outcomes that every longer run has: each rule of the model is tried.
var outcomes = []string{"issue answered", "issue slot.occupied", "issue card.locked", "replace answered", "replace slot.same_device", "replace card.locked",
	"refresh answered", "refresh slot.empty", "refresh card.locked", "refresh refresh.other_device", "refresh refresh.used_key", "refresh refresh.early", "lock changed", "lock answered",
	"lock slot.empty", "lock open", "unlock changed", "unlock answered", "unlock open", "revoke changed", "revoke answered", "foreign reason.forbidden",
	"read answered", "list answered"}

// run has clients do n operations, while the daemon is killed so many times, and one of its workers between each two.
func run(t *testing.T, clients, n, kills int, record bool) *load {
	t.Helper()
	a := appliance.Install(t).Start()
	l := start(t, a, clients)
	l.record = record
	defer l.end()
	began := time.Now()
	until := func(part float64) bool {
		for float64(l.ops.Load()) < part*float64(n) {
			if t.Failed() || time.Since(began) > time.Duration(n)*time.Second {
				return false
			}
			time.Sleep(2 * time.Millisecond)
		}
		return true
	}
	for k := range kills {
		if !until((float64(k) + rand.Float64()/2) / float64(kills)) {
			break
		}
		if w := a.Workers(); len(w) > 0 {
			_ = syscall.Kill(w[rand.IntN(len(w))], syscall.SIGKILL)
		}
		if !until((float64(k) + 0.5 + rand.Float64()/2) / float64(kills)) {
			break
		}
		a.Kill()
		a.Launch()
		l.fresh()
	}
	until(1)
	l.end()
	took := time.Since(began)
	a.Stop()
	a.Check()
	t.Logf("%d operations by %d clients in %s (%.0f/s), %d left open, %d tries repeated, %d kills of the daemon and of workers each; %d histories legal, %d lists fetched, %d entries compared at the end",
		l.ops.Load(), clients, took.Round(time.Millisecond), float64(l.ops.Load())/took.Seconds(), l.open.Load(), l.retried.Load(), kills, l.checked.Load(),
		l.lists.fetched, len(l.lists.final))
	for _, outcome := range outcomes {
		if n >= 5000 && l.seen[outcome] == 0 {
			t.Errorf("of %d operations none was %q: the load does not reach it", l.ops.Load(), outcome)
		}
	}
	t.Log(l.seen)
	return l
}

// Whatever concurrent clients saw of a card, over kills of daemon and workers, has an order in which one step after the other gives it.
// SEAL_HISTORIES is a directory: the legal histories are kept there too, in recorded.json (testdata was made so).
func TestHistories(t *testing.T) {
	dir := os.Getenv("SEAL_HISTORIES")
	n := 500
	if appliance.Race {
		n = 300
	}
	l := run(t, 6, n, 2, dir != "")
	if dir == "" || t.Failed() {
		return
	}
	var all []string
	for _, r := range l.keep[:min(len(l.keep), 12)] {
		b, err := json.Marshal(r.ops)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.ReplaceAll(string(b), appliance.PublicURL+"/status-lists/", ""))
	}
	err := os.WriteFile(dir+"/recorded.json", []byte("["+strings.Join(all, ",\n")+"]\n"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
}

// TestSoak does the same with a million operations and 500 kills, times SEAL_SOAK (make soak). Each installation takes a part of them.
func TestSoak(t *testing.T) {
	factor, err := strconv.ParseFloat(os.Getenv("SEAL_SOAK"), 64)
	if err != nil {
		t.Skip("SEAL_SOAK=1, or a part of it: make soak")
	}
	const batch, kills = 50_000, 25
	began, done, killed := time.Now(), 0, 0
	for left := max(1000, int(1e6*factor)); left > 0 && !t.Failed(); left -= batch {
		n := min(batch, left)
		t.Run(strconv.Itoa(left), func(t *testing.T) {
			l := run(t, 12, n, max(2, n*kills/batch), false)
			done, killed = done+int(l.ops.Load()), killed+max(2, n*kills/batch)
		})
	}
	t.Logf("%d operations and %d kills in %s", done, killed, time.Since(began).Round(time.Second))
}
