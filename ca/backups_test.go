package ca

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/contract"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/officer"
)

// council is a ledger with officers, who sign without an appliance.
type council struct {
	t     *testing.T
	o     ledger.Options
	clock *clock.Fake
	l     *ledger.Ledger
	keys  map[string]ed25519.PrivateKey
}

func newCouncil(t *testing.T) *council {
	dir, c := t.TempDir(), clock.NewFake(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	w := &council{t: t, clock: c, keys: map[string]ed25519.PrivateKey{}, o: ledger.Options{Path: filepath.Join(dir, "ledger.db"), HighWater: filepath.Join(dir, "high-water.json"), Clock: c, BaseURL: "https://x.example"}}
	var people []string
	for _, id := range []string{"kim", "lee", "park"} {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		w.must(err)
		der, err := x509.MarshalPKIXPublicKey(public)
		w.must(err)
		w.keys[id] = key
		people = append(people, fmt.Sprintf(`{"id":%q,"name":%q,"role":"officer","key":%q}`, id, strings.ToUpper(id), base64.StdEncoding.EncodeToString(der)))
	}
	w.open(false)
	w.must(w.l.Register(t.Context(), []byte(`{"epoch":1,"officers":[`+strings.Join(people, ",")+`]}`)))
	return w
}

func (w *council) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *council) open(fenced bool) {
	w.t.Helper()
	var err error
	w.l, err = ledger.Open(w.t.Context(), w.o)
	if f := new(ledger.Fenced); errors.As(err, &f) != fenced || !fenced && err != nil {
		w.t.Fatalf("fenced %v is wanted: %v", fenced, err)
	}
	w.t.Cleanup(func() { w.l.Close() })
}

func (w *council) registry() *officer.Registry {
	w.t.Helper()
	data, err := w.l.Registry(w.t.Context())
	w.must(err)
	r, err := officer.ParseRegistry(data)
	w.must(err)
	return r
}

// backup returns what puts the ledger back as it is now. It is open before and closed after.
func (w *council) backup() (restore func()) {
	w.t.Helper()
	w.must(w.l.Close())
	b, err := os.ReadFile(w.o.Path)
	w.must(err)
	w.open(false)
	return func() {
		w.t.Helper()
		w.must(w.l.Close())
		for _, side := range []string{"-wal", "-shm"} {
			if err := os.Remove(w.o.Path + side); err != nil && !os.IsNotExist(err) {
				w.t.Fatal(err)
			}
		}
		w.must(os.WriteFile(w.o.Path, b, 0o600))
	}
}

// signed is a proposal in an envelope with one signature for each of the officers.
func (w *council) signed(r *officer.Registry, a officer.Action, p officer.Parameters, by ...string) (*officer.Proposal, [][]byte) {
	w.t.Helper()
	proposal, err := r.Propose(by[0], a, p, 0, w.clock.Now(), rand.Reader)
	w.must(err)
	var all [][]byte
	for _, id := range by {
		e, err := officer.Approve(proposal.Payload(), id, w.keys[id], rand.Reader)
		w.must(err)
		all = append(all, e)
	}
	return proposal, all
}

// approved keeps a proposal that two officers stand for.
func (w *council) approved(a officer.Action, p officer.Parameters) (id string, first []byte) {
	w.t.Helper()
	r := w.registry()
	proposal, signed := w.signed(r, a, p, "kim", "lee")
	c, _, err := r.Open(signed[0], w.clock.Now())
	w.must(err)
	w.must(w.l.Said(w.t.Context(), w.clock.Now(), ledger.ProposalEntry{ID: proposal.ID(), ProposalRecord: ledger.ProposalRecord{Action: string(a), State: ledger.ProposalOpen, Approvals: c.Approvals, At: w.clock.Now(), Expires: proposal.Expires}}, "proposal", "kim"))
	c, _, err = r.Add(c, signed[1], false, w.clock.Now())
	w.must(err)
	e, err := w.l.Proposal(w.t.Context(), proposal.ID())
	w.must(err)
	e.Approvals, e.Since = c.Approvals, c.Since
	w.must(w.l.Said(w.t.Context(), w.clock.Now(), *e, "approval", "lee"))
	return e.ID, signed[0]
}

// lifts has two officers sign what is lost, and the fence lifted.
func (w *council) lifts() (approvals []byte) {
	w.t.Helper()
	d, err := w.l.Difference(w.t.Context(), ledger.Published{})
	w.must(err)
	_, signed := w.signed(w.registry(), officer.FenceLift, &officer.Fence{Size: d.Size, Root: d.Root, Lost: d.Lines(), Reason: "the disk is gone"}, "kim", "park")
	for _, s := range signed {
		approvals, err = officer.Join(approvals, s)
		w.must(err)
	}
	w.lift(approvals)
	return approvals
}

func (w *council) lift(approvals []byte) {
	w.t.Helper()
	_, err := LiftFence(context.Background(), w.l, w.clock, ledger.Published{}, approvals)
	w.must(err)
}

// void demands that nothing comes of a proposal any more, neither of what is kept of it nor of what is sent again.
func (w *council) void(id string, first []byte) {
	w.t.Helper()
	r := w.registry()
	e, err := w.l.Proposal(w.t.Context(), id)
	w.must(err)
	if e != nil {
		_, err := r.Decide(caseOf(*e), w.clock.Now())
		w.epoch(err)
	}
	_, _, err = r.Open(first, w.clock.Now())
	w.epoch(err)
}

func (w *council) epoch(err error) {
	w.t.Helper()
	var refusal *officer.Refusal
	if !errors.As(err, &refusal) || refusal.Code() != "officer.epoch" {
		w.t.Errorf("a proposal of before the fence counts: %v", err)
	}
}

// What officers rejected, or had carried out, in the lost part of a ledger comes to nothing after a restore, and the same backup may be restored twice.
func TestARestoreVoidsProposals(t *testing.T) {
	w := newCouncil(t)
	empty := w.backup()
	id, first := w.approved(officer.RevokeMass, &officer.Mass{Key: "ds-1", Cards: 1, PerSecond: 1, Reason: "it was found outside"})
	approved := w.backup()
	e, err := w.l.Proposal(t.Context(), id)
	w.must(err)
	rejected := *e
	rejected.State, rejected.Ended = ledger.ProposalRejected, w.clock.Now()
	w.must(w.l.Said(t.Context(), w.clock.Now(), rejected, "rejection", "park"))
	w.clock.Advance(2 * time.Hour)

	approved()
	w.open(true)
	before := w.registry()
	if _, err := before.Decide(caseOf(*e), w.clock.Now()); err != nil {
		t.Fatalf("the backup's proposal would not count in any case: %v", err)
	}
	w.lifts()
	w.void(id, first)
	after := w.registry()
	if after.Epoch < before.Epoch+1000 || after.Installation != before.Installation || len(after.Officers) != 3 {
		t.Errorf("registry %d of %d people comes after %d", after.Epoch, len(after.Officers), before.Epoch)
	}

	empty()
	w.open(true)
	w.lifts()
	w.void(id, first)
	id, first = w.approved(officer.IssuingResume, &officer.Reason{Reason: "of the first time"}) // and lost, in its turn
	w.clock.Advance(time.Hour)
	empty()
	w.open(true)
	w.lifts()
	w.void(id, first)
	id, _ = w.approved(officer.IssuingResume, &officer.Reason{Reason: "of now"})
	e, err = w.l.Proposal(t.Context(), id)
	w.must(err)
	if _, err := w.registry().Decide(caseOf(*e), w.clock.Now()); err != nil {
		t.Errorf("a proposal of after the fence: %v", err)
	}
}

// What was carried out is remembered for as long as the time by which proposals are judged lets anybody send it again, and says when it was by that time,
// whatever the wall clock shows.
func TestProposalsGoByTheTimeOfLists(t *testing.T) {
	for _, jump := range []time.Duration{45 * day, -45 * day} {
		t.Run(jump.String(), func(t *testing.T) {
			w := newCouncil(t)
			a := &Authority{o: Options{Ledger: w.l, Clock: w.clock, Guard: clock.NewGuard(w.clock, w.clock.Now(), time.Hour, false), Metrics: metrics.New(), Log: slog.New(slog.DiscardHandler)}}
			lists := w.clock.Now()
			propose := func(envelope []byte) contract.Proposal {
				t.Helper()
				p, err := a.Propose(t.Context(), Caller{}, contract.ProposeRequest{Proposal: envelope})
				w.must(err)
				return p
			}
			_, first := w.signed(w.registry(), officer.IssuingStop, &officer.Reason{Reason: "wrong photographs"}, "kim")
			_, second := w.signed(w.registry(), officer.IssuingStop, &officer.Reason{Reason: "another"}, "lee")
			id := propose(first[0]).ID
			w.clock.Jump(jump)
			p, err := a.Execute(t.Context(), Caller{}, contract.ProposalQuery{ID: id})
			w.must(err)
			if !p.Ended.Equal(lists) {
				t.Errorf("carried out at %s, and the time of lists is %s", p.Ended, lists)
			}
			propose(second[0])
			if p := propose(first[0]); p.State != ledger.ProposalExecuted {
				t.Errorf("what was carried out is %s when it is sent again", p.State)
			}
		})
	}
}

// Killed between the commit that lifts the fence and the high-water record, the same command with the same file ends it. The file counts for nothing else.
func TestLiftingIsFinished(t *testing.T) {
	w := newCouncil(t)
	restore := w.backup()
	w.approved(officer.IssuingResume, &officer.Reason{Reason: "lost"})
	restore()
	w.open(true)
	old, err := os.ReadFile(w.o.HighWater)
	w.must(err)
	killed := func() {
		t.Helper()
		w.must(w.l.Close())
		w.must(os.WriteFile(w.o.HighWater, old, 0o600))
		w.open(true)
	}
	approvals := w.lifts()
	epoch := w.registry().Epoch
	killed()
	w.lift(approvals)
	if again := w.registry().Epoch; again != epoch {
		t.Errorf("registry %d is in use after %d", again, epoch)
	}
	w.must(w.l.Close())
	w.open(false)
	w.approved(officer.IssuingResume, &officer.Reason{Reason: "the ledger goes on"})
	killed()
	_, err = LiftFence(t.Context(), w.l, w.clock, ledger.Published{}, approvals)
	if p := new(Problem); !errors.As(err, &p) || p.Code != "proposal.executed" {
		t.Errorf("a fence of later is lifted by what was signed for another: %v", err)
	}
}
