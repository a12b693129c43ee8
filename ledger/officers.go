package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"sealkeeper/internal/crashpoint"
)

// Officers. The ledger keeps their registry and what they signed, and knows no more of it than that: whether signatures are enough is the
// officer room's to say. What it adds is that a proposal is carried out once: the mark is a row of the very commit that has the effect.

// Progress of a proposal.
const (
	ProposalOpen     = "open"
	ProposalRejected = "rejected"
	ProposalExecuted = "executed"
)

// ProposalRecord is what officers were asked, and what they said.
type ProposalRecord struct {
	Action     string    `json:"action"`
	State      string    `json:"state"`
	Approvals  []byte    `json:"approvals"`            // envelope
	Rejections []byte    `json:"rejections,omitempty"` // envelope
	At         time.Time `json:"at"`
	Since      time.Time `json:"since,omitzero"` // when the approvals became enough
	Expires    time.Time `json:"expires"`
	Ended      time.Time `json:"ended,omitzero"`
}

// ProposalEntry is a stored proposal.
type ProposalEntry struct {
	ID string
	ProposalRecord
	revision uint64
}

// Execution is a proposal whose effect is about to be committed.
type Execution struct {
	ID     string
	Action string
	By     []string  // who approved it
	At     time.Time // by which it was judged that they are enough: that of lists, which no step of the wall moves

	// Registry of officers that takes the place of the one in use when a fence is lifted. Its epoch is one that nothing was signed for.
	Registry []byte
}

// keepProposals is how long what has ended, or expired, is kept beside the journal; maxProposals bounds what is open at once.
const (
	keepProposals = 30 * 24 * time.Hour
	maxProposals  = 64
)

func hashed(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

var registryKey = []byte("registry")

// Registry of officers; nil if none are registered.
func (l *Ledger) Registry(ctx context.Context) ([]byte, error) {
	if l.dead.Load() {
		return nil, ErrStopped
	}
	b, rev, err := l.store.Get(ctx, TableOfficers, registryKey)
	if err != nil {
		return nil, l.readFailed(err)
	}
	if rev == 0 {
		return nil, nil
	}
	return b, nil
}

// Register makes the first registry, before there is anything that officers could decide on. The same again is no change.
func (l *Ledger) Register(ctx context.Context, registry []byte) error {
	if err := l.ready(); err != nil {
		return err
	}
	old, err := l.Registry(ctx)
	if err != nil || old != nil && bytes.Equal(old, registry) {
		return err
	}
	out, err := l.commit(ctx, Leaf{Kind: "officers", At: l.o.Clock.Now(), Digest: hashed(registry)}, []Row{{Table: TableOfficers, Key: registryKey, Value: registry}}, true, nil)
	if err == nil && out.Conflict != nil {
		return refuse("officer.registered", "other officers are registered: only they change the registry, by officers.change")
	}
	return err
}

// ChangeOfficers puts another registry in the place of the one in use.
func (l *Ledger) ChangeOfficers(ctx context.Context, old, registry []byte, x *Execution) error {
	now, rev, err := l.store.Get(ctx, TableOfficers, registryKey)
	if err != nil {
		return l.readFailed(err)
	}
	if rev == 0 || !bytes.Equal(now, old) {
		return ErrConflict
	}
	return l.execute(ctx, x, Leaf{Kind: "officers", Digest: hashed(registry)}, []Row{{Table: TableOfficers, Key: registryKey, Value: registry, If: If(rev)}}, nil)
}

// Proposal by id; nil if there is none.
func (l *Ledger) Proposal(ctx context.Context, id string) (*ProposalEntry, error) {
	if l.dead.Load() {
		return nil, ErrStopped
	}
	r, rev, err := get[ProposalRecord](ctx, l, TableProposals, []byte(id))
	if err != nil || r == nil {
		return nil, err
	}
	return &ProposalEntry{id, *r, rev}, nil
}

// Proposals lists what is kept, the newest first.
func (l *Ledger) Proposals(ctx context.Context) (all []ProposalEntry, err error) {
	if l.dead.Load() {
		return nil, ErrStopped
	}
	err = scan(ctx, l.store, TableProposals, nil, func(e Entry) error {
		r, err := decode[ProposalRecord](TableProposals, e.Value)
		if err == nil {
			all = append(all, ProposalEntry{string(e.Key), *r, e.Revision})
		}
		return err
	})
	if err != nil {
		return nil, l.readFailed(err)
	}
	slices.SortFunc(all, func(a, b ProposalEntry) int {
		if c := b.At.Compare(a.At); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, nil
}

// Said keeps a new proposal, or what an officer said to one. kind is the leaf's: proposal, approval or rejection. at is the time of lists, by which proposals
// expire: what ended is kept until by that time, and by the wall clock, which judges clock.accept, nobody can send it again. Without one (zero) nothing is
// forgotten, and nothing counted.
func (l *Ledger) Said(ctx context.Context, at time.Time, p ProposalEntry, kind, by string) error {
	if err := l.ready(); err != nil && (l.dead.Load() || p.Action != fenceLift) { // the fence is lifted by what officers say behind it
		return err
	}
	now := l.o.Clock.Now()
	rows := []Row{{Table: TableProposals, Key: []byte(p.ID), Value: encode(p.ProposalRecord), If: If(p.revision)}}
	if p.revision == 0 && !at.IsZero() { // room for it is made of what nobody asks for any more
		all, err := l.Proposals(ctx)
		if err != nil {
			return err
		}
		open, over := 0, at
		if now.Before(at) {
			over = now
		}
		for _, o := range all {
			switch {
			case o.Expires.Add(keepProposals).Before(over):
				rows = append(rows, Row{Table: TableProposals, Key: []byte(o.ID), If: If(o.revision)})
			case o.State == ProposalOpen && at.Before(o.Expires):
				open++
			}
		}
		if open >= maxProposals {
			return refuse("proposal.too_many", "%d proposals are open: carry out or reject some, or wait until they expire", open)
		}
	}
	leaf := Leaf{Kind: kind, At: now, Proposal: p.ID, Operation: p.Action, Signers: []string{by}}
	crashpoint.Here("ledger.proposal.before-commit")
	out, err := l.commit(ctx, leaf, rows, true, nil) // urgent: stopping the issuing waits behind nobody
	if err != nil {
		return err
	}
	if out.Conflict != nil {
		return ErrConflict
	}
	crashpoint.Here("ledger.proposal.after-commit")
	return nil
}

// RefusedSaying journals that an approval or rejection was refused. Callers bound how often.
func (l *Ledger) RefusedSaying(ctx context.Context, client, proposal, code string) error {
	_, err := l.commit(ctx, Leaf{Kind: "approval-refused", At: l.o.Clock.Now(), Client: client, Proposal: proposal, Reason: code}, nil, false, nil)
	return err
}

// executed is the mark of an execution, with its leaf's members. Without an execution there is none.
func (l *Ledger) executed(ctx context.Context, x *Execution, leaf *Leaf, rows []Row) ([]Row, error) {
	if x == nil {
		return rows, nil
	}
	p, err := l.Proposal(ctx, x.ID)
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return nil, refuse("proposal.unknown", "there is no proposal %s", x.ID)
	case p.State != ProposalOpen:
		return nil, refuse("proposal."+p.State, "proposal %s was %s before", x.ID, p.State)
	}
	r := p.ProposalRecord
	r.State, r.Ended = ProposalExecuted, x.At
	leaf.Proposal, leaf.Signers = x.ID, x.By
	if leaf.Operation == "" {
		leaf.Operation = x.Action
	}
	rows = append(rows, Row{Table: TableProposals, Key: []byte(x.ID), Value: encode(r), If: If(p.revision)})
	if len(leaf.Keys) > 0 { // proposals are forgotten, what became of keys by them is not
		registry, err := l.Registry(ctx)
		if err != nil {
			return nil, err
		}
		m := MandateRecord{Action: x.Action, Approvals: r.Approvals, Since: r.Since, At: x.At, Registry: registry}
		rows = append(rows, Row{Table: TableMandates, Key: []byte(x.ID), Value: encode(m)})
	}
	return rows, nil
}

// execute commits an effect and that its proposal was carried out.
func (l *Ledger) execute(ctx context.Context, x *Execution, leaf Leaf, rows []Row, applied func(uint64)) error {
	if err := l.ready(); err != nil {
		return err
	}
	leaf.At = l.o.Clock.Now()
	rows, err := l.executed(ctx, x, &leaf, rows)
	if err != nil {
		return err
	}
	crashpoint.Here("ledger.execution.before-commit")
	out, err := l.commit(ctx, leaf, rows, true, applied)
	if err != nil {
		return err
	}
	if out.Conflict != nil {
		return ErrConflict
	}
	crashpoint.Here("ledger.execution.after-commit")
	return nil
}

// Stop of issuing.
type Stop struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	By     []string  `json:"by"`
}

const stopMeta = "issuing/stop"

func (l *Ledger) loadStop(ctx context.Context) error {
	b, rev, err := l.store.Get(ctx, TableMeta, []byte(stopMeta))
	if err != nil || rev == 0 {
		return err
	}
	s, err := decode[Stop](TableMeta, b)
	l.halted.Store(s)
	return err
}

// Stopped says since when and why no card is issued; nil: cards are.
func (l *Ledger) Stopped() *Stop { return l.halted.Load() }

// StopIssuing has no card reserved from the moment at which it is durable, also after a restart. Locks and lists go on.
func (l *Ledger) StopIssuing(ctx context.Context, reason string, x *Execution) error {
	s := &Stop{At: l.o.Clock.Now(), Reason: reason, By: x.By}
	return l.execute(ctx, x, Leaf{Kind: "issuing", State: "stopped", Reason: reason}, []Row{{Table: TableMeta, Key: []byte(stopMeta), Value: encode(s), If: Any}},
		func(uint64) { l.halted.Store(s) })
}

// ResumeIssuing ends a stop.
func (l *Ledger) ResumeIssuing(ctx context.Context, reason string, x *Execution) error {
	return l.execute(ctx, x, Leaf{Kind: "issuing", State: "resumed", Reason: reason}, []Row{{Table: TableMeta, Key: []byte(stopMeta), If: Any}},
		func(uint64) { l.halted.Store(nil) })
}

// Halted refuses what would make a card while issuing is stopped.
func (l *Ledger) Halted() error {
	if s := l.halted.Load(); s != nil {
		return refuse("issuing.stopped", "the security officers stopped issuing at %s; send the request again later", s.At.UTC().Format(time.RFC3339))
	}
	return nil
}
