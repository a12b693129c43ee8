package scenario

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/tests/phone"
	"sealkeeper/verifier"
)

// The main job: a phone gets its card, is lost, is found, and is replaced.
func TestStory(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	const subject = "900101-1234567"
	phone1, phone2 := newPhone(t, 1), newPhone(t, 1)
	first := a.Issue(phone1, subject, false)
	m1, s1 := byFormat(first)

	raw, err := base64.RawURLEncoding.DecodeString(m1.Credential)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.VerifyMDoc(raw, a.Roots, time.Now()); err != nil {
		t.Errorf("mdoc: %v", err)
	}
	sd, err := verifier.VerifySDJWT([]byte(s1.Credential), a.Roots, time.Now())
	if err != nil {
		t.Fatalf("SD-JWT VC: %v", err)
	}
	if sd.Claims["family_name"] != canary {
		t.Errorf("family_name is %v", sd.Claims["family_name"])
	}
	a.Eventually(m1.Status, verifier.Valid)
	a.Eventually(s1.Status, verifier.Valid)

	// lock(phone1): the SD-JWT VC is suspended, the MSO revoked for good
	if got := a.Change("telecom-a", lock, subject, "telecom_lost", ""); !got.Changed {
		t.Error("the lock changed nothing")
	}
	a.Eventually(s1.Status, verifier.Suspended)
	a.Eventually(m1.Status, verifier.Invalid)
	// a second report of the same loss changes nothing
	if got := a.Change("telecom-a", lock, subject, "telecom_lost", ""); got.Changed {
		t.Error("the same lock changed something twice")
	}
	// another reason joins; the card stays locked until both are gone
	a.Change("loss-desk", lock, subject, "self_lost", "")
	a.Change("telecom-a", unlock, subject, "telecom_lost", "")
	if got := a.Status(s1.Status); got != verifier.Suspended {
		t.Errorf("with one lock left the status is %d", got)
	}
	if _, err := a.As("ward-office-1").Refresh(context.Background(), client.NewKey(), a.Request(phone1, subject)); client.Code(err) != "card.locked" {
		t.Errorf("refresh of a locked card: %v", err)
	}
	a.Change("loss-desk", unlock, subject, "self_lost", "")
	a.Eventually(s1.Status, verifier.Valid)

	// refresh on the same device
	fresh, err := a.As("ward-office-1").Refresh(context.Background(), client.NewKey(), a.Request(phone1, subject))
	if err != nil {
		t.Fatalf("refresh: %v", err)
	}
	if fresh.Device != first.Device {
		t.Error("a refresh changed the device")
	}
	m1b, s1b := byFormat(fresh)

	// a new phone: the old one is revoked in signed lists before the answer leaves
	second := a.Issue(phone2, subject, true)
	for _, ref := range []contract.StatusRef{s1.Status, s1b.Status, m1b.Status, m1.Status} {
		if got := a.Status(ref); got != verifier.Invalid {
			t.Errorf("phone 1's entry %d is %d after the replacement", ref.Index, got)
		}
	}
	// a late `found` for phone 1 never revives it
	if got := a.Change("telecom-a", unlock, subject, "telecom_lost", first.Device); got.Changed {
		t.Error("a late report for the replaced phone changed something")
	}
	h, err := a.As("auditor").Holder(context.Background(), contract.StateRequest{DocumentType: kr, Subject: subject})
	if err != nil {
		t.Fatal(err)
	}
	if h.Device != second.Device || len(h.Locks) != 0 {
		t.Errorf("end state %+v", h)
	}
	a.Stop()
	a.Check()
	a.NoPersons(subject)
}

// A request may carry several attested keys of one device: copies, each with its own index; a lock acts on all of them.
func TestCopies(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	p := newPhone(t, 3)
	out := a.Issue(p, "copies-1", false)
	if len(out.Credentials) != 6 {
		t.Fatalf("%d credentials for 3 keys in 2 formats", len(out.Credentials))
	}
	seen := map[string]bool{}
	for _, c := range out.Credentials {
		ref := fmt.Sprint(c.Status)
		if seen[ref] {
			t.Errorf("index used twice: %s", ref)
		}
		seen[ref] = true
	}
	a.Change("telecom-a", lock, "copies-1", "telecom_lost", "")
	for _, c := range out.Credentials {
		want := byte(verifier.Suspended)
		if c.Format == "mso_mdoc" {
			want = verifier.Invalid
		}
		a.Eventually(c.Status, want)
	}
	a.Stop()
	a.Check()
}

// 1,000 device keys for one subject at once (acceptance 3; requirements.md T1, fact 15).
func TestRaceOfAThousandPhones(t *testing.T) {
	t.Parallel()
	n := 1000
	if race || testing.Short() { // the race detector's daemon is some ten times slower; the full crowd comes without it
		n = 40
	}
	for name, replace := range map[string]bool{"one wins": false, "the last wins": true} {
		t.Run(name, func(t *testing.T) {
			a := install(t).start()
			const subject = "one-person"
			requests := make([]contract.IssueRequest, n)
			for i := range requests {
				requests[i] = a.Request(newPhone(t, 1), subject)
				requests[i].Replace = replace
			}
			var won, lost atomic.Int64
			answers := make([]contract.IssueAnswer, n)
			var wg sync.WaitGroup
			gate := make(chan struct{})
			slots := make(chan struct{}, 250) // connections at once
			for i := range requests {
				wg.Add(1)
				go func() {
					defer wg.Done()
					<-gate
					slots <- struct{}{}
					defer func() { <-slots }()
					out, err := a.As("ward-office-1").Issue(context.Background(), client.NewKey(), requests[i])
					switch {
					case err == nil:
						won.Add(1)
						answers[i] = out
					case client.Code(err) == "slot.occupied":
						lost.Add(1)
					case replace && client.Code(err) == "reservation.superseded": // the next phone was there before this one's answer
						lost.Add(1)
					default:
						t.Errorf("phone %d: %v", i, err)
					}
				}()
			}
			close(gate)
			wg.Wait()
			if replace && (won.Load() == 0 || won.Load()+lost.Load() != int64(n)) {
				t.Errorf("%d of %d phones got a card, %d were replaced before they had it", won.Load(), n, lost.Load())
			}
			if !replace && (won.Load() != 1 || lost.Load() != int64(n-1)) {
				t.Errorf("%d won and %d got 409", won.Load(), lost.Load())
			}
			h, err := a.As("auditor").Holder(context.Background(), contract.StateRequest{DocumentType: kr, Subject: subject})
			if err != nil {
				t.Fatal(err)
			}
			lists := map[string]*verifier.StatusList{}
			live := 0
			for _, out := range answers {
				for _, c := range out.Credentials {
					l := lists[c.Status.URI]
					if l == nil {
						if l, err = verifier.DecodeStatusList(a.Get(strings.TrimPrefix(c.Status.URI, publicURL)), verifier.MaxEntries); err != nil {
							t.Fatal(err)
						}
						lists[c.Status.URI] = l
					}
					v, _ := l.Get(c.Status.Index)
					if (v == verifier.Valid) != (out.Device == h.Device) {
						t.Errorf("device %s: entry %d is %d, bound is %s", out.Device, c.Status.Index, v, h.Device)
					}
					if v == verifier.Valid {
						live++
					}
				}
			}
			if live != 2 {
				t.Errorf("%d live credentials, wanted one in each format", live)
			}
			a.Stop()
			a.Check()
		})
	}
}

// The same key and body give the same bytes: at once, after a restart, and after a crash at each step (acceptance 4).
func TestRetries(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	body, key := a.Request(newPhone(t, 1), "retry-0"), client.NewKey()
	post := func(key string, body any) (int, []byte) {
		t.Helper()
		st, b, err := a.Post("ward-office-1", "/v1/credentials", key, body)
		if err != nil {
			t.Fatal(err)
		}
		return st, b
	}
	st, want := post(key, body)
	if st != 200 && st != 201 {
		t.Fatalf("%d %s", st, want)
	}
	if _, got := post(key, body); !bytes.Equal(got, want) {
		t.Error("a retry at once gives other bytes")
	}
	other := body
	other.Replace = true
	if st, b := post(key, other); st != 409 || code(b) != "idempotency.mismatch" {
		t.Errorf("another body under the same key: %d %s", st, b)
	}
	a.Stop()
	a.start()
	if _, got := post(key, body); !bytes.Equal(got, want) {
		t.Error("a retry after a restart gives other bytes")
	}
	a.Kill()
	a.start()
	if _, got := post(key, body); !bytes.Equal(got, want) {
		t.Error("a retry after kill -9 gives other bytes")
	}
	a.Stop()
	a.Check()
}

func TestRetryAfterCrash(t *testing.T) {
	t.Parallel()
	points := []string{"ca.issue.drafted", "ledger.reserve.issue.before-commit", "ledger.reserve.issue.after-commit", "ca.issue.reserved", "ca.issue.signed", "ca.issue.joined",
		"ledger.settle.issue.before-commit", "ledger.settle.issue.after-commit", "ca.issue.settled", "ca.publish.reserved", "ca.publish.settled", "ca.publish.token-written"}
	for i, point := range points {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			a := install(t).start()
			subject := fmt.Sprintf("crash-%d", i)
			before := a.Issue(newPhone(t, 1), subject, false)
			body, key := a.Request(newPhone(t, 1), subject), client.NewKey()
			body.Replace = true
			a.Stop()
			// The publisher's first version after the start would meet its own points: it publishes nothing when nothing is due.
			a.Launch("SEAL_CRASH=" + point)
			a.UntilUp()
			st, b, err := a.Post("ward-office-1", "/v1/credentials", key, body)
			if err == nil {
				t.Fatalf("the daemon did not die: %d %.200s", st, b)
			}
			a.Wait()
			a.start()
			// Two at once, as two impatient services would: one answer.
			answers := make([][]byte, 2)
			var wg sync.WaitGroup
			for i := range answers {
				wg.Add(1)
				go func() {
					defer wg.Done()
					st, b, err := a.Post("ward-office-1", "/v1/credentials", key, body)
					if err != nil || (st != 200 && st != 201) {
						t.Errorf("resume: %d %s %v", st, b, err)
					}
					answers[i] = b
				}()
			}
			wg.Wait()
			if !bytes.Equal(answers[0], answers[1]) {
				t.Errorf("two resumes gave two answers:\n%.200s\n%.200s", answers[0], answers[1])
			}
			st, b, err = a.Post("ward-office-1", "/v1/credentials", key, body)
			if err != nil || !bytes.Equal(b, answers[0]) {
				t.Errorf("a later retry: %d %v, other bytes", st, err)
			}
			for _, c := range before.Credentials {
				if got := a.Status(c.Status); got != verifier.Invalid {
					t.Errorf("the replaced phone's entry is %d", got)
				}
			}
			var out contract.IssueAnswer
			if err := json.Unmarshal(answers[0], &out); err != nil {
				t.Fatal(err)
			}
			for _, c := range out.Credentials {
				a.Eventually(c.Status, verifier.Valid)
			}
			a.Stop()
			a.Check()
		})
	}
}

// Workers are killed and stopped under load: no request fails (acceptance 5).
func TestWorkersDieUnderLoad(t *testing.T) {
	a := install(t).start()
	const clients, each, enough, most = 8, 12, 4, 500 // on a fast machine the load goes on until enough workers were hit
	var done atomic.Bool
	var hits atomic.Int64
	var wg sync.WaitGroup
	for c := range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; i < each || hits.Load() < enough && i < most; i++ {
				r, err := a.TryRequest(mustPhone(), fmt.Sprintf("load-%d-%d", c, i))
				if err != nil {
					t.Errorf("nonce: %v", err)
					return
				}
				st, b, err := a.Post("ward-office-1", "/v1/credentials", client.NewKey(), r) // no retries: the appliance itself must not fail
				if err != nil || (st != 200 && st != 201) {
					t.Errorf("request %d of client %d: %d %s %v", i, c, st, b, err)
				}
			}
		}()
	}
	go func() {
		wg.Wait()
		done.Store(true)
	}()
	for i := 0; !done.Load(); i++ {
		for _, pid := range a.Workers() {
			sig := syscall.SIGKILL
			if i%2 == 1 {
				sig = syscall.SIGSTOP
			}
			if syscall.Kill(pid, sig) == nil {
				hits.Add(1)
			}
			break // one at a time, so that there is always another one to go to
		}
		time.Sleep(300 * time.Millisecond)
		for !done.Load() && !strings.Contains(a.Metrics(), "sealkeeper_workers_ready{token=\"online\"} 2\n") { // on a slow machine the last one's successor is not there yet
			time.Sleep(50 * time.Millisecond)
		}
	}
	if hits.Load() < 2 {
		t.Fatalf("only %d workers were hit", hits.Load())
	}
	if !strings.Contains(a.Metrics(), "sealkeeper_worker_restarts_total") {
		t.Error("restarts are not counted")
	}
	a.Stop()
	a.Check()
}

func mustPhone() *phone.Phone {
	p, err := phone.New(1)
	if err != nil {
		panic(err)
	}
	return p
}

// A graceful stop under load fails no accepted request.
func TestDrain(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	requests := make([]contract.IssueRequest, 16)
	for i := range requests {
		requests[i] = a.Request(newPhone(t, 1), fmt.Sprintf("drain-%d", i))
	}
	var wg sync.WaitGroup
	started := make(chan struct{}, len(requests))
	for i := range requests {
		wg.Add(1)
		go func() {
			defer wg.Done()
			started <- struct{}{}
			st, b, err := a.Post("ward-office-1", "/v1/credentials", client.NewKey(), requests[i])
			if err != nil {
				if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) && !strings.Contains(err.Error(), "EOF") && !strings.Contains(err.Error(), "server closed idle connection") {
					t.Errorf("request %d: %v", i, err)
				}
				return
			}
			if st != 200 && st != 201 && code(b) != "draining" {
				t.Errorf("request %d: %d %s", i, st, b)
			}
		}()
	}
	for range requests {
		<-started
	}
	a.Stop()
	wg.Wait()
	a.Check()
}

// byIndex makes a ledger what the program of before left: with indices in rows by index.
func byIndex(path string) error {
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(`INSERT INTO credentials SELECT unhex(hex(substr(k, 1, length(k)-8)) || printf('%016x', json_extract(CAST(v AS TEXT), '$.index'))),
		CAST(json_remove(CAST(v AS TEXT), '$.index') AS BLOB), rev FROM indices; DROP TABLE indices; PRAGMA user_version=6; PRAGMA wal_checkpoint(TRUNCATE)`)
	return err
}

// An old ledger put back, of a program of before, is FENCED: nothing is signed, the exit code says so; after the fence is lifted no index repeats and list
// versions have jumped ahead.
func TestOldLedgerIsFenced(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	first := a.Issue(newPhone(t, 1), "fence-1", false)
	a.Stop()
	ledger := filepath.Join(a.Dir, "data", "ledger.db")
	if err := byIndex(ledger); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(ledger)
	if err != nil {
		t.Fatal(err)
	}
	a.start()
	second := a.Issue(newPhone(t, 1), "fence-2", false)
	a.Change("telecom-a", lock, "fence-1", "telecom_lost", "")
	a.Stop()
	a.Check() // rows of before and of now
	for _, suffix := range []string{"-wal", "-shm"} {
		os.Remove(ledger + suffix)
	}
	if err := os.WriteFile(ledger, old, 0o600); err != nil {
		t.Fatal(err)
	}
	a.Launch()
	if got := a.Wait(); got != 3 {
		t.Fatalf("a fenced daemon ended with %d\n%s", got, a.Log.String())
	}
	if !strings.Contains(a.Log.String(), "FENCED") {
		t.Error("the log does not say FENCED")
	}
	a.Command(0, "accept", "fence")
	a.start()
	third := a.Issue(newPhone(t, 1), "fence-3", false)
	used := map[contract.StatusRef]bool{}
	for _, out := range []contract.IssueAnswer{first, second} {
		for _, c := range out.Credentials {
			used[c.Status] = true
		}
	}
	for _, c := range third.Credentials {
		if used[c.Status] {
			t.Errorf("index %v was used before", c.Status)
		}
		for ref := range used {
			if ref.URI == c.Status.URI {
				t.Errorf("list %s was opened before the fence", ref.URI)
			}
		}
	}
	a.Stop()
	a.Check()
}
