package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sealkeeper/backup"
	"sealkeeper/internal/clock"
	"sealkeeper/ledger"
	"sealkeeper/officer"
)

// changeBackupKey has backups be made to the key that officers chose.
func (a *Authority) changeBackupKey(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p := q.Parameters().(*officer.Backup)
	k, err := backup.ParseKey([]byte(p.Key))
	if err != nil {
		return &Problem{Code: "backup.key", Detail: err.Error()}
	}
	if k.ID != p.ID || k.Threshold != p.Threshold || !slices.Equal(k.Holders, p.Holders) {
		return &Problem{Code: "backup.key", Detail: "the backup key is not the one that the proposal's text names"}
	}
	return a.o.Ledger.PutBackupKey(ctx, k.JSON(), x)
}

// LiftFence lifts the fence of a ledger, of which no appliance runs. Where officers are registered, approvals is the file in which enough of them
// signed what is lost; where none are, it is nil.
func LiftFence(ctx context.Context, l *ledger.Ledger, c clock.Clock, p ledger.Published, approvals []byte) (*ledger.Report, error) {
	data, err := l.Registry(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case data == nil && approvals != nil:
		return nil, &Problem{Code: "officer.none", Detail: "no officers are registered, so there is nobody whose approvals count"}
	case data == nil:
		return l.Lift(ctx, p, nil, nil)
	case approvals == nil:
		return nil, &Problem{Code: "officer.required", Detail: "officers are registered: sealctl fence request, sealctl fence propose, and then --approvals"}
	}
	r, err := officer.ParseRegistry(data)
	if err != nil {
		return nil, fmt.Errorf("the ledger's registry of officers: %w", err)
	}
	if named, _, err := officer.Payload(approvals); err == nil {
		if report, err := l.Finish(ctx, named.ID()); err != nil || report != nil { // what they signed was done, and not to its end
			return report, err
		}
	}
	now := c.Now().UTC()
	quorum, err := fenceQuorum(ctx, l, now, r, approvals)
	if err != nil {
		var refusal *officer.Refusal
		if errors.As(err, &refusal) && slices.Contains(loud, refusal.Code()) {
			err = errors.Join(err, l.RefusedSaying(ctx, "", "", refusal.Code()))
		}
		return nil, err
	}
	want := quorum.Parameters().(*officer.Fence)
	next, err := r.Beyond(now).JSON()
	if err != nil {
		return nil, err
	}
	return l.Lift(ctx, p, &ledger.Execution{ID: quorum.ID(), Action: string(quorum.Action()), By: quorum.By(), At: now, Registry: next}, func(d *ledger.Difference) error {
		if d.Size != want.Size || d.Root != want.Root || !slices.Equal(d.Lines(), want.Lost) {
			return fmt.Errorf("fence.changed: the officers signed for %d entries and root %.16s…; there are %d and %.16s…, or what is lost is not what they read: sealctl fence request", want.Size, want.Root, d.Size, d.Root)
		}
		return nil
	})
}

func fenceQuorum(ctx context.Context, l *ledger.Ledger, now time.Time, r *officer.Registry, approvals []byte) (*officer.Quorum, error) {
	named, _, err := officer.Payload(approvals)
	if err != nil {
		return nil, err
	}
	if named.Action != officer.FenceLift {
		return nil, &Problem{Code: "proposal.unsupported", Detail: fmt.Sprintf("the file is about %s, and not about %s", named.Action, officer.FenceLift)}
	}
	e, err := l.Proposal(ctx, named.ID())
	if err != nil {
		return nil, err
	}
	if e == nil {
		e = &ledger.ProposalEntry{ID: named.ID(), ProposalRecord: ledger.ProposalRecord{Action: string(named.Action), State: ledger.ProposalOpen, At: now, Expires: named.Expires}}
	}
	if e.State != ledger.ProposalOpen {
		return nil, &Problem{Code: "proposal." + e.State, Detail: "the proposal was " + e.State + " before"}
	}
	said, _, refused := r.Gather(caseOf(*e), approvals, now)
	for _, s := range said {
		e.Approvals, e.Since = s.Case.Approvals, s.Case.Since
		kind := "approval"
		if s.New {
			kind = "proposal"
		}
		if err := l.Said(ctx, time.Time{}, *e, kind, s.By); err != nil {
			return nil, err
		}
		if e, err = l.Proposal(ctx, e.ID); err != nil || e == nil {
			return nil, errors.Join(err, errors.New("what an officer said is not kept"))
		}
	}
	if refused != nil {
		return nil, refused
	}
	return r.Decide(caseOf(*e), now)
}
