package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// Renew takes in that a card has to be made anew. By the rules of its type it is then renewed at the next contact, or revoked now.
func (a *Authority) Renew(ctx context.Context, c Caller, r contract.RenewalRequest) (contract.ChangeAnswer, error) {
	return a.change(ctx, c, policy.OpRenew, r.DocumentType, r.Subject, func(b *policy.Bundle, subject policy.Pseudonym, s ledger.Snapshot, at time.Time) (*policy.Approval, policy.Decision) {
		return b.DecideRenew(policy.RenewRequest{Client: c.ID, DocumentType: r.DocumentType, Subject: subject, Reasons: r.Reasons, Attributes: r.Attributes}, s.Slot(), at)
	})
}

// Schedule takes in an order for later. Once it is answered, it is carried out in time whatever becomes of who gave it.
func (a *Authority) Schedule(ctx context.Context, c Caller, r contract.ScheduleRequest) (contract.ChangeAnswer, error) {
	out, err := a.change(ctx, c, policy.OpOrder, r.DocumentType, r.Subject, func(b *policy.Bundle, subject policy.Pseudonym, s ledger.Snapshot, at time.Time) (*policy.Approval, policy.Decision) {
		return b.DecideOrder(policy.OrderRequest{Client: c.ID, DocumentType: r.DocumentType, Subject: subject, ID: r.Schedule, Operation: policy.Operation(r.Operation),
			Reason: r.Reason, From: r.From, To: r.To, Replaces: r.Replaces}, s.Slot(), at)
	})
	if err == nil {
		crashpoint.Here("schedule.ordered")
	}
	return out, err
}

// CancelSchedule takes an order back.
func (a *Authority) CancelSchedule(ctx context.Context, c Caller, r contract.ScheduleCancel) (contract.ChangeAnswer, error) {
	out, err := a.change(ctx, c, policy.OpCancel, r.DocumentType, r.Subject, func(b *policy.Bundle, subject policy.Pseudonym, s ledger.Snapshot, at time.Time) (*policy.Approval, policy.Decision) {
		return b.DecideCancel(policy.CancelRequest{Client: c.ID, DocumentType: r.DocumentType, Subject: subject, ID: r.Schedule}, s.Slot(), at)
	})
	if err == nil {
		crashpoint.Here("schedule.cancelled")
	}
	return out, err
}

// Acknowledge takes in a phone's word that it has its credentials, shown by their key.
func (a *Authority) Acknowledge(ctx context.Context, c Caller, r contract.AcknowledgementRequest) (contract.ChangeAnswer, error) {
	now, err := a.now()
	if err != nil {
		return contract.ChangeAnswer{}, err
	}
	rules := a.rules()
	proof, err := rules.evidence.VerifyPossession(evidence.About{Client: c.ID, DocumentType: r.DocumentType, Audience: rules.bundle.Issuer(c.ID), At: now}, r.Proof)
	if err != nil {
		return contract.ChangeAnswer{}, problem(err, nil)
	}
	return a.change(ctx, c, policy.OpAck, r.DocumentType, r.Subject, func(b *policy.Bundle, subject policy.Pseudonym, s ledger.Snapshot, _ time.Time) (*policy.Approval, policy.Decision) {
		q := policy.AckRequest{Client: c.ID, DocumentType: r.DocumentType, Subject: subject, Issuance: r.Issuance}
		for _, c := range s.Credentials() {
			if c.Reservation == r.Issuance && c.Status != "revoked" && c.Status != "reserved" {
				q.Keys = append(q.Keys, c.Key)
			}
		}
		return b.DecideAck(proof, q, s.Slot(), now)
	})
}

const scheduleEvery = time.Second // how late an order may be, and how long a step of the clock goes unseen

// keepSchedules carries out what was ordered, by the time of lists: it goes on while the wall is not trusted, never runs back, and what came
// due while the appliance was down is done at once.
func (a *Authority) keepSchedules(ctx context.Context) {
	for {
		done, _, err := a.o.Ledger.Due(ctx, a.o.Guard.ForLists())
		a.o.Metrics.Scheduled.Add(float64(done))
		if ctx.Err() != nil || errors.Is(err, ledger.ErrStopped) {
			return
		}
		if n, news := a.faults.News("orders", err); news {
			a.o.Log.Error("carrying out orders", "error", err, "retry_in", scheduleEvery.String(), "suppressed", n)
		}
		if !sleep(ctx, scheduleEvery) {
			return
		}
	}
}

// late is for how long the oldest order that is due has waited. It asks the ledger and not who carries orders out, who may hang.
func (a *Authority) late(ctx context.Context, now time.Time) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	due, err := a.o.Ledger.OldestDue(ctx)
	if err != nil || due.IsZero() {
		return 0
	}
	return max(0, now.Sub(due))
}

// keepGivingUp ends what nobody finishes and erases old answers, while the clock is trusted.
func (a *Authority) keepGivingUp(ctx context.Context) {
	for sleep(ctx, a.o.GiveUpEvery) {
		now, err := a.o.Guard.Trusted()
		if err != nil {
			continue
		}
		ended, err := a.o.Ledger.GiveUp(ctx, now)
		if err != nil && ctx.Err() == nil {
			a.o.Log.Error("giving up unfinished reservations and erasing old answers", "error", fmt.Sprint(err))
		} else if ended > 0 {
			a.o.Log.Warn("unfinished or unacknowledged issues were given up", "count", ended)
		}
	}
}

const eraseEvery = 10 * time.Minute

// keepErasing forgets what is over, while the clock is trusted.
func (a *Authority) keepErasing(ctx context.Context) {
	for sleep(ctx, eraseEvery) {
		if err := a.o.Ledger.Sweep(ctx, a.o.Guard); err != nil && ctx.Err() == nil && !errors.Is(err, ledger.ErrStopped) {
			a.o.Log.Error("forgetting what is over", "error", err)
		}
	}
}
