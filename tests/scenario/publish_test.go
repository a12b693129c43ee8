package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/verifier"
)

// The IACA's HSM does not answer and its CRL is due: locks are published all the same.
func TestLocksDontWaitForTheCRL(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	a.Stop()
	conf, err := os.ReadFile(filepath.Join(a.Dir, "sealkeeper.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// With a life of 90 days the CRL that init made for 30 is due at once; and nobody may read a PIN that all could read.
	a.Write("sealkeeper.yaml", strings.Replace(string(conf), "lists: {", "lists: {crl_life: 2160h, ", 1))
	if err := os.Chmod(filepath.Join(a.Dir, "data", "pins", "iaca"), 0o644); err != nil {
		t.Fatal(err)
	}
	a.Launch()
	a.UntilUp()
	out := a.Issue(newPhone(t, 1), "crl-1", false)
	a.Change("telecom-a", lock, "crl-1", "telecom_lost", "")
	m, s := byFormat(out)
	a.Eventually(m.Status, verifier.Invalid)
	a.Eventually(s.Status, verifier.Suspended)
	a.Stop()
	a.Check()
}

// One list can't be written: the others are published, and it is, once it can be.
func TestOneBrokenListHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	m, s := byFormat(a.Issue(newPhone(t, 1), "broken-1", false))
	file := filepath.Join(a.Dir, "data", "publish", "status-lists", path.Base(s.Status.URI)+".jwt")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(file, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	a.Change("telecom-a", lock, "broken-1", "telecom_lost", "")
	a.Eventually(m.Status, verifier.Invalid)
	a.Eventually(s.Status, verifier.Suspended)
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(file); err == nil {
			if got, err := verifier.VerifyStatus(b, s.Status.URI, s.Status.Index, a.Roots, time.Now()); err != nil || got != verifier.Suspended {
				t.Errorf("the file says %d, %v", got, err)
			}
			break
		}
		if time.Now().After(until) {
			t.Fatal("the file was not written again")
		}
	}
	a.Stop()
	a.Check()
}

// Replacements, refreshes, locks, unlocks, revocations and retries for one person, in any order and at once: whoever holds two cards and
// looks at one signed list never sees two phones valid, and what the ledger says in the end is what the lists say.
func TestOneDeviceWhateverRaces(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("SEAL_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEAL_SEED=%d", seed)
	const workers = 6
	each := 60
	if testing.Short() {
		each = 12
	}
	a := install(t).start()
	const subject = "raced"
	type got struct {
		device string
		ref    contract.StatusRef // of the SD-JWT VC
	}
	var mu sync.Mutex
	var delivered []got
	look := func() {
		mu.Lock()
		known := delivered[:len(delivered):len(delivered)]
		mu.Unlock()
		if len(known) == 0 {
			return
		}
		l, err := verifier.DecodeStatusList(a.Get(strings.TrimPrefix(known[0].ref.URI, publicURL)), verifier.MaxEntries)
		if err != nil {
			t.Error(err)
			return
		}
		live := map[string]bool{}
		for _, g := range known {
			if v, _ := l.Get(g.ref.Index); v == verifier.Valid {
				live[g.device] = true
			}
		}
		if len(live) > 1 {
			t.Errorf("%d phones look valid in one list: %v", len(live), live)
		}
	}
	fine := func(c string) bool {
		room, _, _ := strings.Cut(c, ".")
		return room == "slot" || room == "card" || room == "refresh" || room == "reservation"
	}
	var wg sync.WaitGroup
	for w := range workers {
		random := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			p := mustPhone()
			for range each {
				switch n := random.IntN(10); {
				case n < 6:
					route := "/v1/credentials"
					r, err := a.TryRequest(p, subject)
					if err != nil {
						t.Error(err)
						return
					}
					if n < 4 {
						p = mustPhone()
						if r, err = a.TryRequest(p, subject); err != nil {
							t.Error(err)
							return
						}
						r.Replace = random.IntN(4) > 0
					} else {
						route += "/refresh"
					}
					key, tries := client.NewKey(), 1+random.IntN(2)
					answers := make([][]byte, tries)
					var twice sync.WaitGroup
					for i := range tries { // at once, as an impatient service would
						twice.Go(func() {
							st, b, err := a.Post("ward-office-1", route, key, r)
							switch {
							case err != nil:
								t.Error(err)
							case st == 200:
								answers[i] = b
							case !fine(code(b)):
								t.Errorf("%s: %d %s", route, st, b)
							}
						})
					}
					twice.Wait()
					for i, b := range answers {
						if b == nil {
							continue
						}
						if j := (i + 1) % tries; answers[j] != nil && !bytes.Equal(b, answers[j]) {
							t.Error("one key, two answers")
						}
						var out contract.IssueAnswer
						if err := json.Unmarshal(b, &out); err != nil {
							t.Error(err)
							return
						}
						_, s := byFormat(out)
						mu.Lock()
						delivered = append(delivered, got{out.Device, s.Status})
						mu.Unlock()
						look()
						break
					}
				default:
					who, op, reason := "telecom-a", lock, "telecom_lost"
					switch n {
					case 7, 8:
						op = unlock
					case 9:
						who, op, reason = "ministry", revoke, "fraud"
					}
					_, err := op(a.As(who))(context.Background(), contract.ChangeRequest{DocumentType: kr, Subject: subject, Reason: reason})
					if err != nil && !fine(client.Code(err)) {
						t.Errorf("%s: %v", reason, err)
					}
				}
			}
		})
	}
	wg.Wait()
	look()
	h, err := a.As("auditor").Holder(context.Background(), contract.StateRequest{DocumentType: kr, Subject: subject})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range delivered {
		want := byte(verifier.Invalid)
		if h.Bound && g.device == h.Device {
			if want = verifier.Valid; len(h.Locks) > 0 {
				want = verifier.Suspended
			}
		}
		a.Eventually(g.ref, want)
	}
	if len(delivered) == 0 {
		t.Error("nothing was issued")
	}
	a.Stop()
	a.Check()
}
