package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/officer"
)

// Officers decide; this file hands their envelopes to the officer room, what they came to to the ledger, and what was decided to whoever
// carries it out. A proposal's effect and the mark that it was carried out are one commit.

// loud are the refusals for which somebody has to ask who sent that.
var loud = func() (codes []string) {
	for _, c := range officer.Codes {
		if c.ID != "officer.short" && c.ID != "officer.waiting" {
			codes = append(codes, c.ID)
		}
	}
	return codes
}()

// OfficerCodes explains the officer room's refusals and this file's.
var OfficerCodes = func() map[string]string {
	out := map[string]string{}
	for _, c := range officer.Codes {
		out[c.ID] = c.Means
	}
	return out
}()

// registry of officers in use; nil: none are registered.
func (a *Authority) registry(ctx context.Context) (*officer.Registry, []byte, error) {
	data, err := a.o.Ledger.Registry(ctx)
	if err != nil || data == nil {
		return nil, nil, err
	}
	r, err := officer.ParseRegistry(data)
	if err != nil {
		return nil, nil, fmt.Errorf("the ledger's registry of officers: %w", err)
	}
	return r, data, nil
}

// ungoverned refuses what only officers may do, once there are any.
func (a *Authority) ungoverned(ctx context.Context, action officer.Action) error {
	switch data, err := a.o.Ledger.Registry(ctx); {
	case err != nil:
		return problem(err, nil)
	case data != nil:
		return &Problem{Code: "officer.required", Detail: fmt.Sprintf("officers are registered: sealctl propose %s", action)}
	}
	return nil
}

// Register makes officers those of a new installation. The registry's epoch is 1.
func (a *Authority) Register(ctx context.Context, file []byte) (*officer.Registry, error) {
	r, err := officer.ParseRegistry(file)
	if err != nil {
		return nil, err
	}
	if r.Epoch > 1 || r.Installation != "" {
		return nil, errors.New("a first registry of officers has no epoch, or 1, and no installation")
	}
	r.Epoch = 1
	switch known, _, err := a.registry(ctx); {
	case err != nil:
		return nil, err
	case known != nil && known.Epoch == 1: // the same again, after an init that did not come to its end
		r.Installation = known.Installation
	default:
		if r.Installation, err = officer.NewInstallation(a.o.Random); err != nil {
			return nil, err
		}
	}
	data, err := r.JSON()
	if err != nil {
		return nil, err
	}
	return r, a.o.Ledger.Register(ctx, data)
}

// Officers is who they are, and what an action needs.
func (a *Authority) Officers(ctx context.Context) (contract.Officers, error) {
	r, data, err := a.registry(ctx)
	if err != nil {
		return contract.Officers{}, problem(err, nil)
	}
	out := contract.Officers{Officers: []contract.Officer{}, Rules: []contract.OfficerRule{}, Registry: string(data)}
	if r == nil {
		return out, nil
	}
	out.Epoch = r.Epoch
	for _, o := range r.Officers {
		out.Officers = append(out.Officers, contract.Officer{ID: o.ID, Name: o.Name, Role: o.Role, Fingerprint: officer.Fingerprint(o.Key)})
	}
	for _, action := range officer.Actions() {
		rule := r.Rules[action]
		out.Rules = append(out.Rules, contract.OfficerRule{Action: string(action), Need: rule.Need, Delay: rule.Delay.String(), Life: rule.Life.String(), Supported: Executes(action)})
	}
	return out, nil
}

// Proposals lists what is kept, the newest first.
func (a *Authority) Proposals(ctx context.Context) (contract.Proposals, error) {
	out := contract.Proposals{Proposals: []contract.Proposal{}}
	r, _, err := a.registry(ctx)
	if err != nil || r == nil {
		return out, problem(err, nil)
	}
	all, err := a.o.Ledger.Proposals(ctx)
	if err != nil {
		return out, problem(err, nil)
	}
	for _, e := range all {
		p := a.proposal(r, e)
		p.Approvals, p.Payload = "", "" // as large as a bundle, each: who wants one asks for it
		out.Proposals = append(out.Proposals, p)
	}
	return out, nil
}

// Proposal with all that was signed.
func (a *Authority) Proposal(ctx context.Context, q contract.ProposalQuery) (none contract.Proposal, _ error) {
	r, e, err := a.lookUp(ctx, q.ID)
	if err != nil {
		return none, problem(err, nil)
	}
	return a.proposal(r, *e), nil
}

func (a *Authority) lookUp(ctx context.Context, id string) (*officer.Registry, *ledger.ProposalEntry, error) {
	r, _, err := a.registry(ctx)
	if err != nil {
		return nil, nil, err
	}
	if r == nil {
		return nil, nil, &Problem{Code: "officer.none", Detail: "no officers are registered"}
	}
	e, err := a.o.Ledger.Proposal(ctx, id)
	if err == nil && e == nil {
		err = &Problem{Code: "proposal.unknown", Detail: "there is no proposal " + id}
	}
	return r, e, err
}

func caseOf(e ledger.ProposalEntry) officer.Case {
	return officer.Case{Approvals: e.Approvals, Rejections: e.Rejections, Since: e.Since}
}

// proposal as officers see it.
func (a *Authority) proposal(r *officer.Registry, e ledger.ProposalEntry) contract.Proposal {
	now := a.timeFor(officer.Action(e.Action))
	out := contract.Proposal{ID: e.ID, Action: e.Action, State: e.State, Made: e.At, Expires: e.Expires, Since: e.Since, Ended: e.Ended,
		Text: []string{}, Approved: []string{}, Rejected: []string{}, Approvals: string(e.Approvals)}
	if p, by, rejected := officer.Read(caseOf(e)); p != nil {
		out.By, out.Epoch, out.Text, out.Payload, out.Approved, out.Rejected = p.By, p.Epoch, p.Text(), string(p.Payload()), by, orEmpty(rejected)
	}
	rule := r.Rules[officer.Action(e.Action)]
	out.Need = rule.Need
	if !e.Since.IsZero() {
		out.Ready = e.Since.Add(rule.Delay)
	}
	if e.State != ledger.ProposalOpen {
		return out
	}
	_, err := r.Decide(caseOf(e), now)
	var refusal *officer.Refusal
	switch {
	case err == nil:
		out.State = "ready"
	case errors.As(err, &refusal):
		out.Why = refusal.Detail()
		switch refusal.Code() {
		case "officer.waiting":
			out.State = "waiting"
		case "officer.expired", "officer.epoch", "officer.unknown":
			out.State = "expired"
		}
	}
	return out
}

// Propose takes a new proposal that its proposer signed.
func (a *Authority) Propose(ctx context.Context, c Caller, q contract.ProposeRequest) (contract.Proposal, error) {
	out, err := a.say(ctx, func(r *officer.Registry) (*ledger.ProposalEntry, string, error) {
		now := a.o.Guard.ForLists()
		if p, _, _ := officer.Read(officer.Case{Approvals: q.Proposal}); p != nil {
			now = a.timeFor(p.Action)
		}
		k, s, err := r.Open(q.Proposal, now)
		if err != nil {
			return nil, "", err
		}
		p := s.Proposal
		if p.Action == officer.FenceLift {
			return nil, "", &Problem{Code: "proposal.unsupported", Detail: "while the appliance runs there is no fence: where there is one, approvals come as a file (sealctl fence)"}
		}
		if !Executes(p.Action) {
			return nil, "", &Problem{Code: "proposal.unsupported", Detail: "nothing carries out " + string(p.Action) + " in this version"}
		}
		if old, err := a.o.Ledger.Proposal(ctx, p.ID()); err != nil || old != nil {
			return old, "", err // sent again after a lost answer
		}
		return &ledger.ProposalEntry{ID: p.ID(), ProposalRecord: ledger.ProposalRecord{Action: string(p.Action), State: ledger.ProposalOpen,
			Approvals: k.Approvals, Since: k.Since, At: now.UTC(), Expires: p.Expires}}, p.By, nil
	}, "proposal")
	return out, a.heard(ctx, c, "proposal", "", err)
}

// Approve adds an officer's approval to a proposal.
func (a *Authority) Approve(ctx context.Context, c Caller, q contract.ApprovalRequest) (contract.Proposal, error) {
	out, err := a.add(ctx, q, false)
	return out, a.heard(ctx, c, "approval", q.ID, err)
}

// Reject has an officer stop a proposal for good.
func (a *Authority) Reject(ctx context.Context, c Caller, q contract.ApprovalRequest) (contract.Proposal, error) {
	out, err := a.add(ctx, q, true)
	return out, a.heard(ctx, c, "rejection", q.ID, err)
}

func (a *Authority) add(ctx context.Context, q contract.ApprovalRequest, reject bool) (contract.Proposal, error) {
	kind := "approval"
	if reject {
		kind = "rejection"
	}
	return a.say(ctx, func(r *officer.Registry) (*ledger.ProposalEntry, string, error) {
		e, err := a.o.Ledger.Proposal(ctx, q.ID)
		switch {
		case err != nil:
			return nil, "", err
		case e == nil:
			return nil, "", &Problem{Code: "proposal.unknown", Detail: "there is no proposal " + q.ID}
		case e.State != ledger.ProposalOpen:
			return nil, "", &Problem{Code: "proposal." + e.State, Detail: "the proposal was " + e.State + " before"}
		}
		now := a.timeFor(officer.Action(e.Action))
		before, err := r.Standing(caseOf(*e))
		if err != nil {
			return nil, "", err
		}
		k, s, err := r.Add(caseOf(*e), q.Envelope, reject, now)
		if err != nil {
			return nil, "", err
		}
		e.Approvals, e.Rejections, e.Since = k.Approvals, k.Rejections, k.Since
		said, already := s.Approved, before.Approved
		if reject {
			said, already, e.State, e.Ended = s.Rejected, before.Rejected, ledger.ProposalRejected, now.UTC()
		}
		i := slices.IndexFunc(said, func(id string) bool { return !slices.Contains(already, id) })
		return e, said[i], nil
	}, kind)
}

// say commits what an officer said. by is empty if it was said before.
func (a *Authority) say(ctx context.Context, judge func(*officer.Registry) (e *ledger.ProposalEntry, by string, _ error), kind string) (none contract.Proposal, _ error) {
	a.officers.Lock()
	defer a.officers.Unlock()
	r, _, err := a.registry(ctx)
	if err != nil {
		return none, err
	}
	if r == nil {
		return none, &Problem{Code: "officer.none", Detail: "no officers are registered: sealkeeperd init --officers"}
	}
	e, by, err := judge(r)
	if err != nil {
		return none, err
	}
	if by != "" {
		if err := a.o.Ledger.Said(ctx, a.o.Guard.ForLists(), *e, kind, by); err != nil {
			return none, fmt.Errorf("committing what the officer said: %w", err)
		}
		a.o.Log.Info("an officer spoke", "kind", kind, "officer", by, "action", e.Action, "proposal", e.ID)
	}
	return a.proposal(r, *e), nil
}

// heard counts what was said, and raises the alarm for what should not have been: one a second is journalled, all are counted.
func (a *Authority) heard(ctx context.Context, c Caller, what, proposal string, err error) error {
	code := "done"
	err = problem(err, nil)
	var p *Problem
	if errors.As(err, &p) {
		code = p.Code
	}
	a.o.Metrics.Officers.WithLabelValues(what, code).Inc()
	if !slices.Contains(loud, code) {
		return err
	}
	a.o.Log.Error("ALARM: what an officer signed was refused", "what", what, "client", c.ID, "proposal", proposal, "error", err)
	a.officers.Lock()
	defer a.officers.Unlock()
	a.alarms.Add(1)
	if now := a.o.Clock.Now(); now.Sub(a.journalled).Abs() >= time.Second {
		a.journalled = now
		if lost := a.o.Ledger.RefusedSaying(ctx, c.ID, proposal, code); lost != nil {
			a.o.Log.Error("a refused approval could not be journalled", "error", lost)
		}
	}
	return err
}

// executors carry decisions out, each in one commit with the mark of its execution. Nothing is proposed that is not among them.
var executors map[officer.Action]func(*Authority, context.Context, Caller, *officer.Quorum, *ledger.Execution) error

func init() {
	executors = map[officer.Action]func(*Authority, context.Context, Caller, *officer.Quorum, *ledger.Execution) error{
		officer.OfficersChange:  (*Authority).changeOfficers,
		officer.BackupKey:       (*Authority).changeBackupKey,
		officer.CertificateHold: (*Authority).holdCertificates,
		officer.CertificateLift: (*Authority).liftCertificates,
		officer.PolicyActivate: func(a *Authority, ctx context.Context, c Caller, q *officer.Quorum, x *ledger.Execution) error {
			_, err := a.activateFor(ctx, c, contract.PolicyRequest{Bundle: contract.File(q.Parameters().(*officer.Bundle).File)}, x)
			return err
		},
		officer.FloodConfirm:    (*Authority).executeFlood,
		officer.FloodUndo:       (*Authority).executeFlood,
		officer.ReissueMass:     (*Authority).startCampaign,
		officer.RevokeMass:      (*Authority).startCampaign,
		officer.HoldMass:        (*Authority).holdCards,
		officer.HoldLift:        (*Authority).liftHold,
		officer.ClientEnrol:     (*Authority).enrolClients,
		officer.ClientRevoke:    (*Authority).dismissClients,
		officer.AuthoritySwitch: (*Authority).switchAuthority,
		officer.BudgetRaise:     (*Authority).raiseBudget,
		officer.UnlockAdmin:     (*Authority).unlockAdmin,
		officer.ClockAccept:     (*Authority).acceptClock,
		officer.KeyGenerate:     (*Authority).generateKey,
		officer.KeyActivate:     (*Authority).activateKey,
		officer.KeyDeactivate:   (*Authority).deactivateKey,
		officer.KeyCompromise:   (*Authority).compromiseKey,
		officer.KeyDestroy:      (*Authority).destroyKey,
		officer.IACARollover:    (*Authority).rollIACA,
		officer.ClientRollover:  (*Authority).rollClientCA,
		officer.IssuingStop: func(a *Authority, ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
			return a.o.Ledger.StopIssuing(ctx, q.Parameters().(*officer.Reason).Reason, x)
		},
		officer.IssuingResume: func(a *Authority, ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
			return a.o.Ledger.ResumeIssuing(ctx, q.Parameters().(*officer.Reason).Reason, x)
		},
	}
}

// Executes says whether something carries an action out. The fence is lifted by LiftFence, with approvals in a file.
func Executes(a officer.Action) bool { return executors[a] != nil || a == officer.FenceLift }

// Execute carries out a proposal that enough officers approved. Who asks for it does not matter: what is done is what they signed.
func (a *Authority) Execute(ctx context.Context, c Caller, q contract.ProposalQuery) (contract.Proposal, error) {
	out, err := a.execute(ctx, c, q.ID)
	return out, a.heard(ctx, c, "execution", q.ID, err)
}

func (a *Authority) execute(ctx context.Context, c Caller, id string) (none contract.Proposal, _ error) {
	a.officers.Lock()
	defer a.officers.Unlock()
	r, e, err := a.lookUp(ctx, id)
	if err != nil {
		return none, err
	}
	if e.State != ledger.ProposalOpen {
		return none, &Problem{Code: "proposal." + e.State, Detail: "the proposal was " + e.State + " before"}
	}
	now := a.timeFor(officer.Action(e.Action)).UTC()
	quorum, err := r.Decide(caseOf(*e), now)
	if err != nil {
		return none, err
	}
	run := executors[quorum.Action()]
	if run == nil {
		return none, &Problem{Code: "proposal.unsupported", Detail: "nothing carries out " + e.Action + " in this version"}
	}
	if err := run(a, ctx, c, quorum, &ledger.Execution{ID: id, Action: e.Action, By: quorum.By(), At: now}); err != nil {
		return none, err
	}
	a.o.Log.Warn("officers had an action carried out", "action", e.Action, "proposal", id, "officers", quorum.By(), "client", c.ID)
	if r, e, err = a.lookUp(ctx, id); err != nil {
		return none, err
	}
	return a.proposal(r, *e), nil
}

func (a *Authority) changeOfficers(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	r, old, err := a.registry(ctx)
	if err != nil {
		return err
	}
	next, err := q.Parameters().(*officer.Change).Next(r)
	if err != nil {
		return err
	}
	data, err := next.JSON()
	if err != nil {
		return err
	}
	return a.o.Ledger.ChangeOfficers(ctx, old, data, x)
}

func (a *Authority) executeFlood(ctx context.Context, c Caller, q *officer.Quorum, x *ledger.Execution) error {
	f := q.Parameters().(*officer.Flood)
	decision := "confirm"
	if q.Action() == officer.FloodUndo {
		decision = "undo"
	}
	_, err := a.decideFlood(ctx, c, contract.FloodRequest{Carrier: f.Carrier, Hour: f.Hour, Decision: decision}, x)
	return err
}
