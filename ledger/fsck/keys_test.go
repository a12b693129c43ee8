package fsck_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/internal/clock"
	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// house has a key of the founding, and officers who plan its successor.
type house struct {
	t     *testing.T
	path  string
	clock *clock.Fake
	l     *ledger.Ledger
	r     *officer.Registry
	keys  map[string]ed25519.PrivateKey
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func governed(t *testing.T) *house {
	h := &house{t: t, path: filepath.Join(t.TempDir(), "ledger.db"), clock: clock.NewFake(noon), keys: map[string]ed25519.PrivateKey{}}
	var people []string
	for _, id := range []string{"kim", "lee", "park"} {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		must(t, err)
		der, err := x509.MarshalPKIXPublicKey(public)
		must(t, err)
		h.keys[id] = key
		people = append(people, fmt.Sprintf(`{"id":%q,"name":%q,"role":"officer","key":%q}`, id, strings.ToUpper(id), base64.StdEncoding.EncodeToString(der)))
	}
	var err error
	h.r, err = officer.ParseRegistry([]byte(`{"epoch":1,"officers":[` + strings.Join(people, ",") + `],"rules":{"iaca.rollover":{"need":2,"delay":"0s","life":"168h0m0s"}}}`))
	must(t, err)
	h.open()
	data, err := h.r.JSON()
	must(t, err)
	must(t, h.l.Register(t.Context(), data))
	must(t, h.l.PutKey(t.Context(), h.key("ds-1", ledger.KeyActive)))
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *house) open() {
	var err error
	h.l, err = ledger.Open(h.t.Context(), ledger.Options{Path: h.path, Clock: h.clock, BaseURL: "https://x.example"})
	must(h.t, err)
}

func (h *house) key(id string, s ledger.KeyState) ledger.Key {
	return ledger.Key{ID: id, Token: "online", Purpose: policy.PurposeMDoc, Algorithm: "ES256", CKAID: []byte(id), SPKI: []byte("spki of " + id), State: s,
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(300 * 24 * time.Hour), Until: noon.Add(400 * 24 * time.Hour)}
}

// decided has two officers approve something, and returns what carries it out.
func (h *house) decided(a officer.Action, p officer.Parameters) *ledger.Execution {
	h.t.Helper()
	now := h.clock.Now()
	proposal, err := h.r.Propose("kim", a, p, 0, now, rand.Reader)
	must(h.t, err)
	sign := func(id string) []byte {
		e, err := officer.Approve(proposal.Payload(), id, h.keys[id], rand.Reader)
		must(h.t, err)
		return e
	}
	c, _, err := h.r.Open(sign("kim"), now)
	must(h.t, err)
	e := ledger.ProposalEntry{ID: proposal.ID(), ProposalRecord: ledger.ProposalRecord{Action: string(a), State: ledger.ProposalOpen, Approvals: c.Approvals, At: now, Expires: proposal.Expires}}
	must(h.t, h.l.Said(h.t.Context(), h.clock.Now(), e, "proposal", "kim"))
	kept, err := h.l.Proposal(h.t.Context(), proposal.ID())
	must(h.t, err)
	c, _, err = h.r.Add(c, sign("lee"), false, now)
	must(h.t, err)
	kept.Approvals, kept.Since = c.Approvals, c.Since
	must(h.t, h.l.Said(h.t.Context(), h.clock.Now(), *kept, "approval", "lee"))
	return &ledger.Execution{ID: proposal.ID(), Action: string(a), By: []string{"kim", "lee"}, At: now}
}

// rotate plans ds-2, and goes with it as far as it should.
func (h *house) rotate(upTo ledger.KeyState) (ledger.Key, *ledger.Execution) {
	h.t.Helper()
	k := h.key("ds-2", ledger.KeyPlanned)
	plan := &officer.Generate{ID: "ds-2", Purpose: policy.PurposeMDoc, Token: "online", Algorithm: "ES256", Name: "DS 2", Succeeds: "ds-1", Announce: noon.Add(time.Hour),
		Activate: noon.Add(2 * time.Hour), UseUntil: k.NotAfter, Until: k.Until, Reason: "rotation"}
	x := h.decided(officer.KeyGenerate, plan)
	k.Plan = &ledger.KeyPlan{Proposal: x.ID, By: x.By, Succeeds: "ds-1", Announce: plan.Announce, Activate: plan.Activate}
	spki := k.SPKI
	k.SPKI = nil
	change := func(cause string, x *ledger.Execution, more ...ledger.KeyChange) {
		must(h.t, h.l.ChangeKeys(h.t.Context(), h.clock.Now(), append([]ledger.KeyChange{{Key: k, Cause: cause, Proposal: k.Plan.Proposal, By: k.Plan.By}}, more...), x))
	}
	change(ledger.CauseOfficers, x)
	for _, s := range []ledger.KeyState{ledger.KeyGenerated, ledger.KeyCertified, ledger.KeyAnnounced, ledger.KeyActive} {
		if k.State == upTo {
			break
		}
		k.SPKI, k.State = spki, s
		var more []ledger.KeyChange
		if s == ledger.KeyAnnounced || s == ledger.KeyActive {
			h.clock.Advance(time.Hour)
		}
		if s == ledger.KeyActive {
			old := h.l.Keys()[0]
			old.State = ledger.KeyDeactivated
			more = append(more, ledger.KeyChange{Key: old, Cause: ledger.CausePlan, Proposal: x.ID, By: x.By})
		}
		change(ledger.CausePlan, nil, more...)
	}
	for _, k := range h.l.Keys() {
		if k.ID == "ds-2" {
			return k, x
		}
	}
	return k, x
}

// says closes the ledger, has it bent by who holds the file, and returns what fsck says of keys.
func (h *house) says(bend func(commit func(leaf string, rows ...ledger.Row))) string {
	h.t.Helper()
	must(h.t, h.l.Close())
	if bend != nil {
		s, err := ledger.OpenSQLite(context.Background(), h.path)
		must(h.t, err)
		bend(func(leaf string, rows ...ledger.Row) {
			out, err := s.Commit(context.Background(), []ledger.Op{{Leaf: []byte(leaf), Rows: rows}})
			if err != nil || out[0].Conflict != nil {
				h.t.Fatalf("%v %+v", err, out)
			}
		})
		must(h.t, s.Close())
	}
	r, err := fsck.Run(h.t.Context(), fsck.Options{Ledger: h.path})
	must(h.t, err)
	var all []string
	for _, c := range r.Checks {
		all = append(all, c.Problems...)
	}
	if do := strings.Join(r.Repair(), "; "); (do == "") != r.Clean() || strings.Contains(do, "key's life") && !strings.Contains(do, "key.compromise") {
		h.t.Errorf("%d problems, and proposed is %q", len(all), do)
	}
	return strings.Join(all, "; ")
}

func row(t ledger.Table, key string, v any) ledger.Row {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return ledger.Row{Table: t, Key: []byte(key), Value: b, If: ledger.Any}
}

const meta = `{"v":1,"kind":"meta","at":"2026-03-01T12:00:00Z"}`

// A rotation that a quorum allowed is clean at every step, and each thing that nobody allowed is named.
func TestKeysLives(t *testing.T) {
	for _, s := range []ledger.KeyState{ledger.KeyPlanned, ledger.KeyGenerated, ledger.KeyCertified, ledger.KeyAnnounced, ledger.KeyActive} {
		h := governed(t)
		if k, _ := h.rotate(s); k.State != s {
			t.Fatal(k.State)
		}
		if says := h.says(nil); says != "" {
			t.Errorf("%s: %s", s, says)
		}
	}
	h := governed(t) // one that was taken back before it was made, and what its token may have of it destroyed
	k, _ := h.rotate(ledger.KeyPlanned)
	step := func(to ledger.KeyState, a officer.Action, p officer.Parameters) {
		x := h.decided(a, p)
		h.clock.Advance(24 * time.Hour)
		x.At = h.clock.Now()
		k.State = to
		must(t, h.l.ChangeKeys(t.Context(), h.clock.Now(), []ledger.KeyChange{{Key: k, Cause: ledger.CauseOfficers, Proposal: x.ID, By: x.By}}, x))
	}
	step(ledger.KeyDeactivated, officer.KeyDeactivate, &officer.Deactivate{ID: "ds-2", Reason: "its token refuses it"})
	step(ledger.KeyDestroyed, officer.KeyDestroy, &officer.Destroy{ID: "ds-2", Reason: "of no use"})
	if says := h.says(nil); says != "" {
		t.Errorf("taken back: %s", says)
	}
	for name, c := range map[string]struct {
		says string
		bend func(h *house, k ledger.Key, x *ledger.Execution, commit func(string, ...ledger.Row))
	}{
		"another state": {"its history ends with announced", func(h *house, k ledger.Key, _ *ledger.Execution, commit func(string, ...ledger.Row)) {
			k.State = ledger.KeyActive
			commit(meta, row(ledger.TableKeys, "ds-2", k))
		}},
		"a longer use": {"which its history does not say", func(h *house, k ledger.Key, _ *ledger.Execution, commit func(string, ...ledger.Row)) {
			k.NotAfter = k.NotAfter.Add(time.Hour)
			commit(meta, row(ledger.TableKeys, "ds-2", k))
		}},
		"another public key": {"another key than its history says", func(h *house, k ledger.Key, _ *ledger.Execution, commit func(string, ...ledger.Row)) {
			k.SPKI = []byte("mine")
			commit(meta, row(ledger.TableKeys, "ds-2", k))
		}},
		"a key from nowhere": {"nothing says how it came to be", func(h *house, k ledger.Key, _ *ledger.Execution, commit func(string, ...ledger.Row)) {
			k.ID, k.Entries = "ds-9", 0
			commit(meta, row(ledger.TableKeys, "ds-9", k))
		}},
		"an edited history": {"the journal has another hash", func(h *house, k ledger.Key, x *ledger.Execution, commit func(string, ...ledger.Row)) {
			e := ledger.KeyEntry{Key: "ds-2", To: ledger.KeyPlanned, At: noon, CKAID: k.CKAID, Cause: ledger.CauseOfficers, Proposal: x.ID, By: []string{"kim", "lee"}}
			commit(meta, row(ledger.TableKeyLife, "ds-2\x00\x00\x00\x00\x00", e))
		}},
		"a history that was shortened": {"which is nowhere else", func(h *house, k ledger.Key, x *ledger.Execution, commit func(string, ...ledger.Row)) {
			commit(meta, ledger.Row{Table: ledger.TableKeyLife, Key: []byte("ds-2\x00\x00\x00\x00\x03"), If: ledger.Any})
		}},
		"a quorum that is gone": {"no quorum of it is kept", func(h *house, k ledger.Key, x *ledger.Execution, commit func(string, ...ledger.Row)) {
			commit(meta, ledger.Row{Table: ledger.TableMandates, Key: []byte(x.ID), If: ledger.Any})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := governed(t)
			k, x := h.rotate(ledger.KeyAnnounced)
			if says := h.says(func(commit func(string, ...ledger.Row)) { c.bend(h, k, x, commit) }); !strings.Contains(says, c.says) {
				t.Errorf("fsck says %q, want %q", says, c.says)
			}
		})
	}
}

// The wall clock may be wrong when something is carried out: what counts is the time by which it was judged.
func TestMandatesGoByTheTimeOfTheirJudge(t *testing.T) {
	for _, jump := range []time.Duration{-time.Hour, 40 * 24 * time.Hour} {
		h := governed(t)
		x, k := h.decided(officer.KeyDeactivate, &officer.Deactivate{ID: "ds-1", Reason: "over"}), h.l.Keys()[0]
		h.clock.Jump(jump)
		k.State = ledger.KeyDeactivated
		must(t, h.l.ChangeKeys(t.Context(), x.At, []ledger.KeyChange{{Key: k, Cause: ledger.CauseOfficers, Proposal: x.ID, By: x.By}}, x))
		if says := h.says(nil); says != "" {
			t.Errorf("with the wall %s off: %s", jump, says)
		}
	}
}

// Lifting a fence puts another registry in use: what is decided under it counts, and what was decided before still does.
func TestKeysLivesPastAFence(t *testing.T) {
	h := governed(t)
	h.rotate(ledger.KeyCertified)
	h.l.Fence("an old one")
	if err := h.l.Unfence(t.Context()); err == nil || !strings.Contains(err.Error(), "officers are registered") {
		t.Fatalf("the fence was lifted without a registry: %v", err)
	}
	d, err := h.l.Difference(t.Context(), ledger.Published{})
	must(t, err)
	x := h.decided(officer.FenceLift, &officer.Fence{Size: d.Size, Root: d.Root, Lost: d.Lines(), Reason: "the disk is gone"})
	h.r = h.r.Beyond(h.clock.Now())
	x.Registry, err = h.r.JSON()
	must(t, err)
	_, err = h.l.Lift(t.Context(), ledger.Published{}, x, nil)
	must(t, err)
	for _, k := range h.l.Keys() {
		if k.ID == "ds-1" {
			k.State = ledger.KeyDeactivated
			x := h.decided(officer.KeyDeactivate, &officer.Deactivate{ID: "ds-1", Reason: "over"})
			must(t, h.l.ChangeKeys(t.Context(), h.clock.Now(), []ledger.KeyChange{{Key: k, Cause: ledger.CauseOfficers, Proposal: x.ID, By: x.By}}, x))
		}
	}
	if says := h.says(nil); says != "" {
		t.Error(says)
	}
}

// Whoever holds the ledger can write steps and leaves; what officers signed they can't.
func TestNoStepWithoutItsQuorum(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		do   func(h *house)
	}{
		"before its time": {"does not allow it", func(h *house) {
			k, x := h.rotate(ledger.KeyCertified)
			k.State = ledger.KeyAnnounced
			must(h.t, h.l.ChangeKeys(h.t.Context(), noon, []ledger.KeyChange{{Key: k, Cause: ledger.CausePlan, Proposal: x.ID, By: x.By}}, nil))
		}},
		"another key by the same plan": {"does not allow it", func(h *house) {
			_, x := h.rotate(ledger.KeyCertified)
			k := h.key("ds-3", ledger.KeyGenerated)
			must(h.t, h.l.ChangeKeys(h.t.Context(), noon, []ledger.KeyChange{{Key: k, Cause: ledger.CausePlan, Proposal: x.ID, By: x.By}}, nil))
		}},
		"by nobody": {"no quorum of it is kept", func(h *house) {
			k := h.l.Keys()[0]
			k.State = ledger.KeyCompromised
			must(h.t, h.l.ChangeKeys(h.t.Context(), noon, []ledger.KeyChange{{Key: k, Cause: ledger.CauseOfficers, Proposal: "p"}}, nil))
		}},
		"by one of the founding, later": {"after officers had decided", func(h *house) {
			h.rotate(ledger.KeyPlanned)
			must(h.t, h.l.PutKey(h.t.Context(), h.key("ds-0", ledger.KeyGenerated)))
		}},
		"two at once": {"are both active for mdoc on token online", func(h *house) {
			must(h.t, h.l.PutKey(h.t.Context(), h.key("ds-0", ledger.KeyActive)))
		}},
		"by one officer": {"does not count", func(h *house) {
			x := h.decided(officer.KeyDeactivate, &officer.Deactivate{ID: "ds-1", Reason: "over"})
			kept, err := h.l.Proposal(h.t.Context(), x.ID)
			must(h.t, err)
			p, _, _ := officer.Read(officer.Case{Approvals: kept.Approvals})
			kept.Approvals, err = officer.Approve(p.Payload(), "kim", h.keys["kim"], rand.Reader)
			must(h.t, err)
			must(h.t, h.l.Said(h.t.Context(), h.clock.Now(), *kept, "approval", "lee"))
			k := h.l.Keys()[0]
			k.State = ledger.KeyDeactivated
			must(h.t, h.l.ChangeKeys(h.t.Context(), noon, []ledger.KeyChange{{Key: k, Cause: ledger.CauseOfficers, Proposal: x.ID, By: x.By}}, x))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := governed(t)
			c.do(h)
			if says := h.says(nil); !strings.Contains(says, c.says) {
				t.Errorf("fsck says %q, want %q", says, c.says)
			}
		})
	}
}
