package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sealkeeper/policy"
)

// backup copies the closed ledger; restore puts the copy back.
func (w *town) backup() (restore func()) {
	w.t.Helper()
	must(w.t, w.Close())
	b, err := os.ReadFile(w.o.Path)
	must(w.t, err)
	w.open()
	return func() {
		w.t.Helper()
		must(w.t, w.Close())
		for _, side := range []string{"-wal", "-shm"} {
			if err := os.Remove(w.o.Path + side); err != nil && !errors.Is(err, os.ErrNotExist) {
				w.t.Fatal(err)
			}
		}
		must(w.t, os.WriteFile(w.o.Path, b, 0o600))
	}
}

// fenced opens the ledger and demands that it is fenced for the given reasons.
func (w *town) fenced(reasons ...string) {
	w.t.Helper()
	l, err := Open(context.Background(), w.o)
	var f *Fenced
	if !errors.As(err, &f) {
		w.t.Fatalf("not fenced: %v", err)
	}
	for _, r := range reasons {
		if !strings.Contains(err.Error(), r) {
			w.t.Errorf("the reasons %q don't say %q", f.Reasons, r)
		}
	}
	l.Unlock(testSecrets())
	w.Ledger = l
}

// published is what the publisher leaves beside a token.
func (w *town) published(id string, version uint64) {
	w.t.Helper()
	dir := filepath.Join(w.o.Publish, "status-lists")
	must(w.t, os.MkdirAll(dir, 0o755))
	b, err := json.Marshal(map[string]any{"id": id, "version": version, "iat": noon.Unix(), "exp": noon.Unix() + 60, "media_type": "x", "file": id + ".jwt"})
	must(w.t, err)
	must(w.t, os.WriteFile(filepath.Join(dir, id+".json"), b, 0o644))
}

func TestOldBackupIsFenced(t *testing.T) {
	w := newTown(t)
	ctx := context.Background()
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.publishAll()
	lists := w.Lists()
	restore := w.backup()
	ticket := w.ticket(policy.SDJWT) // of a block that the backup knows nothing of
	w.issue(w.request(policy.OpIssue, 2, w.phone(), false))
	w.publishAll()
	restore()

	w.fenced("high-water record saw", "version 2 of list "+lists[0]+" and the ledger 1")
	_, err := w.Lease(ctx, resident, policy.MDoc, 1)
	refused(t, err, "ledger.fenced")
	_, err = w.Reserve(ctx, w.approve(w.request(policy.OpIssue, 3, w.phone(), false)), nil, nil)
	refused(t, err, "ledger.fenced")
	s, _ := w.Subject(ctx, resident, policy.Pseudonym{1})
	lock, _ := w.bundle.DecideChange(policy.ChangeRequest{Client: "telecom-a", Operation: policy.OpLock, DocumentType: resident, Subject: policy.Pseudonym{1}, Reason: "telecom_lost"}, s.Slot(), noon)
	_, err = w.Change(ctx, lock)
	refused(t, err, "ledger.fenced")
	if got := w.statuses(1); !slices.Equal(got, []string{"mso_mdoc valid", "dc+sd-jwt valid"}) {
		t.Errorf("a fenced ledger reads %q", got)
	}
	before, err := os.ReadFile(w.o.HighWater)
	must(t, err)
	must(t, w.Close())
	if after, _ := os.ReadFile(w.o.HighWater); string(before) != string(after) {
		t.Error("a fenced ledger overwrote the record that fenced it")
	}
	w.fenced() // it stays fenced

	must(t, w.Unfence(ctx))
	_ = ticket
	for _, f := range []policy.Format{policy.MDoc, policy.SDJWT} {
		if id := w.ticket(f).List(); slices.Contains(lists, id) {
			t.Errorf("an index was taken from list %s, which was opened before the fence", id)
		}
	}
	for _, id := range lists {
		s, err := w.List(id)
		must(t, err)
		if s.Facts.PrevVersion <= 1002-1 || s.Dirty.IsZero() {
			t.Errorf("list %s goes on at %d, dirty %s", id, s.Facts.PrevVersion, s.Dirty)
		}
	}
	w.change("telecom-a", policy.OpLock, 1, "telecom_lost")
	w.publishAll()
	w.again() // and is not fenced any more
	w.check()
}

func TestPublishedAhead(t *testing.T) {
	w := newTown(t)
	w.issue(w.request(policy.OpIssue, 1, w.phone(), false))
	w.publishAll()
	id := w.Lists()[0]
	w.published(id, 1)
	w.again() // as far as the ledger: nothing is wrong

	w.published(id, 7)
	w.published("unknown-list", 3)
	must(t, w.Close())
	w.fenced("version 7 of list "+id, "list unknown-list, which the ledger does not know")
	must(t, w.Unfence(context.Background()))
	if s, _ := w.List(id); s.Facts.PrevVersion != 1007 {
		t.Errorf("the list goes on at %d", s.Facts.PrevVersion)
	}
	w.again() // what was accepted stays accepted, until it moves on
	w.published("unknown-list", 4)
	must(t, w.Close())
	w.fenced("the publish directory has list unknown-list")
}

// A start reads whatever record the daemon before it wrote: of more lists of the smallest size than a country has, or, beyond that, none that it won't read.
func TestHighWaterOfManyLists(t *testing.T) {
	h := newHouse(t)
	const many = 40_000
	h.mu.Lock()
	for n := range many {
		id := fmt.Sprintf("%022d", n)
		h.lists[id] = newList(ListRecord{ID: id, Bits: 1, Size: 8}, 1)
		h.lists[id].version.Version = 1
	}
	h.mu.Unlock()
	must(t, h.writeHighWater())
	b, err := os.ReadFile(h.o.HighWater)
	must(t, err)
	if r, err := parseHead(b); err != nil || len(r.Lists) != many {
		t.Errorf("a record of %d lists has %d: %v", many, len(r.Lists), err)
	}
	defer func(was int) { headLimits.Bytes = was }(headLimits.Bytes)
	headLimits.Bytes = len(b)
	must(t, h.writeHighWater())
	headLimits.Bytes--
	if err := h.writeHighWater(); err == nil || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("a record was written that no start reads: %v", err)
	}
	if after, err := os.ReadFile(h.o.HighWater); err != nil || !bytes.Equal(after, b) {
		t.Errorf("the record that can be read is gone: %v", err)
	}
}

func TestOtherHistoryIsFenced(t *testing.T) {
	w := newTown(t)
	must(t, w.PutMeta(context.Background(), "a", []byte("1")))
	must(t, w.Close())
	b, err := os.ReadFile(w.o.HighWater)
	must(t, err)
	var h head
	must(t, json.Unmarshal(b, &h))
	h.Root = strings.Repeat("A", len(h.Root))
	b, _ = json.Marshal(h)
	must(t, os.WriteFile(w.o.HighWater, b, 0o600))
	w.fenced("saw other journal entries")
}

func TestDamagedRecordsAreNoFirstStart(t *testing.T) {
	for name, damage := range map[string]func(w *town){
		"high-water record": func(w *town) { must(t, os.WriteFile(w.o.HighWater, []byte(`{"size":`), 0o600)) },
		"published": func(w *town) {
			w.published("a", 1)
			must(t, os.Rename(filepath.Join(w.o.Publish, "status-lists", "a.json"), filepath.Join(w.o.Publish, "status-lists", "b.json")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t)
			must(t, w.Close())
			damage(w)
			l, err := Open(context.Background(), w.o)
			if err == nil || l != nil {
				t.Fatalf("opened: %v", err)
			}
			if !strings.Contains(err.Error(), "damaged") {
				t.Errorf("the error does not say what is wrong: %v", err)
			}
		})
	}
}

// A number of a revocation list that is outside and not in the ledger fences it, whether the high-water record or the publish directory has it.
// Lifting the fence moves the numbers of all lists, so that none is ever used twice.
func TestRevocationListsAheadOfTheLedger(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	h.key("client-ca-1", policy.PurposeClientCA)
	settle := func(n uint64) {
		t.Helper()
		a, d := policy.DecideCRL(nil, policy.CRLFacts{IssuerPurpose: policy.PurposeClientCA, CRL: policy.CRL{Name: "client-ca", Profile: "rfc5280", Number: n, ThisUpdate: noon,
			NextUpdate: noon.AddDate(0, 0, 30), IssuerKey: "client-ca-1", Through: 0}}, noon)
		h.own(a, d, "client-ca-1", policy.PurposeClientCA, "CRL")
	}
	settle(4)
	must(t, h.Close())
	dir := filepath.Join(h.o.Publish, "crl")
	must(t, os.MkdirAll(dir, 0o755))
	for name, n := range map[string]string{"client-ca": "7", "iaca": "3"} {
		must(t, os.WriteFile(filepath.Join(dir, name+".json"), []byte(`{"id":"`+name+`","version":`+n+`,"file":"`+name+`.crl"}`), 0o600))
	}
	l, err := Open(ctx, h.o)
	var f *Fenced
	if !errors.As(err, &f) || !strings.Contains(err.Error(), "number 7 of CRL client-ca and the ledger 4") || !strings.Contains(err.Error(), "number 3 of CRL iaca and the ledger 0") {
		t.Fatalf("not fenced: %v", err)
	}
	refused(t, l.RevokeCertificates(ctx, nil, policy.KeyCompromise, &Execution{ID: "p"}), "ledger.fenced")
	must(t, l.Unfence(ctx))
	h.Ledger = l
	h.again() // what was accepted fences no more
	for name, n := range map[string]uint64{"client-ca": 1007, "iaca": 1003} {
		if c, err := h.CRL(ctx, name); err != nil || c.Number != n || !c.Jumped {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	settle(1008)
	if c, err := h.CRL(ctx, "client-ca"); err != nil || c.Jumped || c.Number != 1008 {
		t.Errorf("%+v, %v", c, err)
	}
	must(t, h.Close()) // which writes the high-water record
	b, err := os.ReadFile(h.o.HighWater)
	if err != nil || !strings.Contains(string(b), `"client-ca":1008`) {
		t.Errorf("%s, %v", b, err)
	}
}
