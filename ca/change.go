package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sealkeeper/contract"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// Change locks, unlocks or revokes. The answer means: durable, and the signed list is on its way with priority.
//
// It does not ask whether the clock is trusted, and it is never shed: a lost phone is locked whatever else is wrong. A conflict is decided
// again until the request's deadline, not only five times.
func (a *Authority) Change(ctx context.Context, c Caller, op policy.Operation, r contract.ChangeRequest) (contract.ChangeAnswer, error) {
	if op == policy.OpUnlock && slices.Contains(adminLocks, r.Reason) {
		if err := a.ungoverned(ctx, officer.UnlockAdmin); err != nil {
			return contract.ChangeAnswer{}, err
		}
	}
	return a.change(ctx, c, op, r.DocumentType, r.Subject, func(b *policy.Bundle, subject policy.Pseudonym, s ledger.Snapshot, at time.Time) (*policy.Approval, policy.Decision) {
		return b.DecideChange(policy.ChangeRequest{Client: c.ID, Operation: op, DocumentType: r.DocumentType, Subject: subject, Reason: r.Reason, Device: r.Device, Card: r.Card}, s.Slot(), at)
	})
}

// decide decides a change of a subject in a state.
type decide func(b *policy.Bundle, subject policy.Pseudonym, s ledger.Snapshot, at time.Time) (*policy.Approval, policy.Decision)

// change leads any change of a subject through decision and commit.
func (a *Authority) change(ctx context.Context, c Caller, op policy.Operation, documentType, number string, decide decide) (contract.ChangeAnswer, error) {
	none := contract.ChangeAnswer{}
	subject, err := a.pseudonym(number)
	if err != nil {
		return none, err
	}
	leave, err := a.subjects.enter(ctx, documentType, subject, true)
	if err != nil {
		return none, problem(err, nil)
	}
	defer leave()
	defer a.o.Ledger.Arrive()()
	for {
		snap, err := a.o.Ledger.Subject(ctx, documentType, subject)
		if err != nil {
			return none, problem(fmt.Errorf("reading the subject: %w", err), nil)
		}
		at := a.o.Guard.ForLists()
		approval, d := decide(a.rules().bundle, subject, snap, at)
		if err := a.judged(asked{c.ID, op, documentType, at}, d); err != nil {
			return none, err
		}
		crashpoint.Here("ca.change.decided")
		done, err := a.o.Ledger.Change(ctx, approval)
		if errors.Is(err, ledger.ErrConflict) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return none, problem(fmt.Errorf("committing the change: %w", err), nil)
		}
		crashpoint.Here("ca.change.committed")
		h, err := a.holder(ctx, documentType, subject)
		if err != nil { // the change is durable: say so rather than fail
			h = contract.Holder{DocumentType: documentType, Bound: done.Slot.Bound, Device: done.Slot.Device, Epoch: done.Slot.Epoch,
				Locks: locks(done.Slot.Locks), Credentials: []contract.CredentialStatus{}}
		}
		uris := make([]string, len(done.Lists))
		for i, id := range done.Lists {
			uris[i] = a.o.BaseURL + "/status-lists/" + id
		}
		return contract.ChangeAnswer{Changed: done.Changed, Sequence: done.Seq, Lists: uris, Holder: h, Decision: named(d, done.Decision)}, nil
	}
}

// Holder reads a holder's state.
func (a *Authority) Holder(ctx context.Context, c Caller, r contract.StateRequest) (contract.Holder, error) {
	subject, err := a.pseudonym(r.Subject)
	if err != nil {
		return contract.Holder{}, err
	}
	at := a.o.Guard.ForLists()
	if err := a.judged(asked{c.ID, policy.OpState, r.DocumentType, at}, a.rules().bundle.DecideRead(c.ID, r.DocumentType, at)); err != nil {
		return contract.Holder{}, err
	}
	h, err := a.holder(ctx, r.DocumentType, subject)
	return h, problem(err, nil)
}

func (a *Authority) holder(ctx context.Context, documentType string, subject policy.Pseudonym) (contract.Holder, error) {
	snap, err := a.o.Ledger.Subject(ctx, documentType, subject)
	if err != nil {
		return contract.Holder{}, fmt.Errorf("reading the subject: %w", err)
	}
	s := snap.Slot()
	h := contract.Holder{DocumentType: documentType, Bound: s.Bound, Device: s.Device, Epoch: s.Epoch, Locks: locks(s.Locks), Credentials: []contract.CredentialStatus{},
		Closed: s.Closed, Renew: s.Renew, Attributes: s.Attributes}
	for _, o := range snap.Orders() {
		w := contract.Schedule{Schedule: o.ID, Operation: string(policy.OpLock), Reason: o.Lock.Reason, Class: o.Class, From: o.From, To: o.To, Begun: o.Begun}
		if o.Close != "" {
			w.Operation, w.Reason = string(policy.OpRevoke), o.Close
		}
		h.Schedules = append(h.Schedules, w)
	}
	for _, c := range snap.Credentials() {
		h.Credentials = append(h.Credentials, contract.CredentialStatus{Format: string(c.Format), Device: c.Device, Status: c.Status,
			StatusRef: contract.StatusRef{URI: c.URI, Index: c.Index}, ValidUntil: c.NotAfter,
			Issuance: c.Reservation, Active: c.Active})
	}
	return h, nil
}

func locks(in []policy.Lock) []contract.Lock {
	out := make([]contract.Lock, len(in))
	for i, l := range in { // which carrier somebody has is nobody's business
		out[i] = contract.Lock{Reason: l.Reason, Class: l.Class}
	}
	return slices.Compact(out)
}
