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
	a := install(t).start()
	a.stop()
	conf, err := os.ReadFile(filepath.Join(a.dir, "sealkeeper.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// With a life of 90 days the CRL that init made for 30 is due at once; and nobody may read a PIN that all could read.
	a.write("sealkeeper.yaml", strings.Replace(string(conf), "lists: {", "lists: {crl_life: 2160h, ", 1))
	if err := os.Chmod(filepath.Join(a.dir, "data", "pins", "iaca"), 0o644); err != nil {
		t.Fatal(err)
	}
	a.launch()
	a.untilUp()
	out := a.issue(newPhone(t, 1), "crl-1", false)
	a.change("telecom-a", lock, "crl-1", "telecom_lost", "")
	m, s := byFormat(out)
	a.eventually(m.Status, verifier.Invalid)
	a.eventually(s.Status, verifier.Suspended)
	a.stop()
	a.check()
}

// One list can't be written: the others are published, and it is, once it can be.
func TestOneBrokenListHoldsUpNoOther(t *testing.T) {
	a := install(t).start()
	m, s := byFormat(a.issue(newPhone(t, 1), "broken-1", false))
	file := filepath.Join(a.dir, "data", "publish", "status-lists", path.Base(s.Status.URI)+".jwt")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(file, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	a.change("telecom-a", lock, "broken-1", "telecom_lost", "")
	a.eventually(m.Status, verifier.Invalid)
	a.eventually(s.Status, verifier.Suspended)
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(file); err == nil {
			if got, err := verifier.VerifyStatus(b, s.Status.URI, s.Status.Index, a.roots, time.Now()); err != nil || got != verifier.Suspended {
				t.Errorf("the file says %d, %v", got, err)
			}
			break
		}
		if time.Now().After(until) {
			t.Fatal("the file was not written again")
		}
	}
	a.stop()
	a.check()
}

// Replacements, refreshes, locks, unlocks, revocations and retries for one person, in any order and at once: whoever holds two cards and
// looks at one signed list never sees two phones valid, and what the ledger says in the end is what the lists say.
func TestOneDeviceWhateverRaces(t *testing.T) {
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
		l, err := verifier.DecodeStatusList(a.get(strings.TrimPrefix(known[0].ref.URI, publicURL)), verifier.MaxEntries)
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
					r, err := a.tryRequest(p, subject)
					if err != nil {
						t.Error(err)
						return
					}
					if n < 4 {
						p = mustPhone()
						if r, err = a.tryRequest(p, subject); err != nil {
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
							st, b, err := a.post("ward-office-1", route, key, r)
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
					_, err := op(a.as(who))(context.Background(), contract.ChangeRequest{DocumentType: kr, Subject: subject, Reason: reason})
					if err != nil && !fine(client.Code(err)) {
						t.Errorf("%s: %v", reason, err)
					}
				}
			}
		})
	}
	wg.Wait()
	look()
	h, err := a.as("auditor").Holder(context.Background(), contract.StateRequest{DocumentType: kr, Subject: subject})
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
		a.eventually(g.ref, want)
	}
	if len(delivered) == 0 {
		t.Error("nothing was issued")
	}
	a.stop()
	a.check()
}
