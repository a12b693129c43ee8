package ca

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// moot is the refusal of a proposal for which there is nothing to do (any more). It stays open until it expires.
func moot(format string, args ...any) error {
	return &Problem{Code: "proposal.moot", Detail: fmt.Sprintf(format, args...)}
}

// adminLocks are those that one person may add and that only officers take away, once there are any (a lock of the administration is to be
// quick, and its end is not).
var adminLocks = []string{"admin_hold", "fraud", "court"}

// switchAuthority turns an evidence authority off or on beside the bundle. When it returns, no request is judged by its statements, not even one that was
// reserved before and is sent again.
func (a *Authority) switchAuthority(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p := q.Parameters().(*officer.Switch)
	_, is := a.o.Ledger.SwitchedOff()[p.Authority]
	key, known := a.walletKey(p.Wallet())
	switch {
	case is == p.Off:
		return moot("evidence authority %s is switched %s already", p.Authority, map[bool]string{true: "off", false: "on"}[p.Off])
	case p.Wallet() != "":
		if p.Off && key == nil {
			return moot("there is no wallet provider %s: there are %s", p.Wallet(), strings.Join(known, ", "))
		}
	case p.Off && !a.rules().evidence.Knows(p.Authority):
		return moot("the policy bundle has no evidence authority %s", p.Authority)
	}
	a.activating.Lock()
	defer a.activating.Unlock()
	if err := a.o.Ledger.SwitchAuthority(ctx, p.Authority, key, p.Off, p.Reason, x); err != nil {
		return err
	}
	a.ruling.Store(a.newRules(a.rules().bundle))
	a.past.mu.Lock()
	defer a.past.mu.Unlock()
	for i, r := range a.past.rules {
		a.past.rules[i] = a.newRules(r.bundle)
	}
	return nil
}

// rootKey names the key of a wallet provider's root: whoever has it can certify under any name.
func rootKey(root *x509.Certificate) []byte {
	sum := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	return sum[:]
}

// walletKey finds a wallet provider's root by the id that the bundle gives it, or, of those in the configuration, which have none, by the first 40
// hexadecimal digits of its key's SHA-256. nil: there is none; known are those that there are.
func (a *Authority) walletKey(id string) (key []byte, known []string) {
	if id == "" {
		return nil, nil
	}
	if root := a.rules().bundle.WalletProvider(id); root != nil {
		return rootKey(root), nil
	}
	for _, root := range a.o.Trust.WalletProviders {
		sum := rootKey(root)
		name := hex.EncodeToString(sum[:20])
		if name == id {
			return sum, nil
		}
		known = append(known, name+" ("+root.Subject.CommonName+")")
	}
	return nil, append(known, "those of the policy bundle")
}

const maxRaise = 31 * day

// raiseBudget gives a budget a higher limit for a while.
func (a *Authority) raiseBudget(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p := q.Parameters().(*officer.Raise)
	now := a.o.Guard.ForLists()
	all := a.rules().bundle.Budgets()
	i := slices.IndexFunc(all, func(b policy.BudgetSpec) bool { return b.ID == p.Budget })
	if i < 0 {
		return moot("the policy bundle has no budget %s", p.Budget)
	}
	limit := map[string]uint64{ledger.WindowHour: all[i].Hour, ledger.WindowDay: all[i].Day}[p.Window]
	switch {
	case limit == 0:
		return moot("budget %s has no limit for %ss", p.Budget, p.Window)
	case p.Limit <= limit:
		return moot("budget %s allows %d in its %ss by the policy bundle, and %d is no more", p.Budget, limit, p.Window, p.Limit)
	case !p.Until.After(now):
		return moot("it is %s: the higher limit would be over", now.Format(time.RFC3339))
	case p.Until.Sub(now) > maxRaise:
		return moot("a limit is raised for %d days at most; what is to last belongs into the policy bundle", maxRaise/day)
	}
	return a.o.Ledger.RaiseBudget(ctx, p.Budget, p.Window, ledger.Raised{Limit: p.Limit, Until: p.Until, Reason: p.Reason}, x)
}

// unlockAdmin takes a lock away that nobody else may take away.
func (a *Authority) unlockAdmin(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p := q.Parameters().(*officer.Unlock)
	if !slices.Contains(adminLocks, p.LockReason) {
		return moot("a lock for %s is taken away by who added it; officers take away %v", p.LockReason, adminLocks)
	}
	subject := p.Holder()
	leave, err := a.subjects.enter(ctx, p.DocumentType, subject, true)
	if err != nil {
		return err
	}
	defer leave()
	lifted, err := a.o.Ledger.LiftLock(ctx, p.DocumentType, subject, p.LockReason, p.Reason, x)
	if err == nil && !lifted {
		return moot("there is no lock for %s on that %s", p.LockReason, p.DocumentType)
	}
	return err
}

const clockTolerance = 2 * time.Minute // between what an officer saw and wrote down

// acceptClock has issuing go on by the wall clock.
func (a *Authority) acceptClock(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p := q.Parameters().(*officer.Clock)
	if _, err := a.o.Guard.Trusted(); err == nil {
		return moot("the clock is trusted")
	}
	// What the proposer saw it show is what the proposer's own clock showed, and what it shows now is not before that, nor after the proposal's end.
	wall := a.o.Guard.Wall()
	if off := p.Shown.Sub(q.Proposal().Made); off.Abs() > clockTolerance {
		return moot("what was seen is %s off from the clock of who proposed it", off.Round(time.Second))
	}
	if wall.Before(p.Shown.Add(-clockTolerance)) {
		return moot("the clock shows %s, which is before what was seen: it was moved since", wall.Format(time.RFC3339))
	}
	if err := a.o.Ledger.AcceptClock(ctx, wall, p.Reason, x); err != nil {
		return err
	}
	a.o.Guard.Accept()
	return nil
}

// timeFor is what a proposal's times are held against: that of lists, which no step of the wall moves. Only where the wall is what is to be accepted it is the
// wall, which may be days from the time of lists; such a proposal has no delay that could be skipped so.
func (a *Authority) timeFor(action officer.Action) time.Time {
	if action == officer.ClockAccept {
		if _, err := a.o.Guard.Trusted(); err != nil {
			return a.o.Guard.Wall().UTC()
		}
	}
	return a.o.Guard.ForLists()
}

// HolderFor tells officers by which pseudonym a holder is named in what they sign, and which locks there are.
func (a *Authority) HolderFor(ctx context.Context, c Caller, r contract.StateRequest) (none contract.OfficersHolder, _ error) {
	subject, err := a.pseudonym(r.Subject)
	if err != nil {
		return none, err
	}
	if !slices.ContainsFunc(a.rules().bundle.Types(), func(t policy.TypeInfo) bool { return t.Name == r.DocumentType }) {
		return none, &Problem{Code: "type.unknown", Detail: "the policy has no such document type"}
	}
	s, err := a.o.Ledger.Subject(ctx, r.DocumentType, subject)
	if err != nil {
		return none, problem(fmt.Errorf("reading the subject: %w", err), nil)
	}
	a.o.Log.Info("an officer's tool asked for a pseudonym", "client", c.ID, "document_type", r.DocumentType)
	slot := s.Slot()
	return contract.OfficersHolder{DocumentType: r.DocumentType, Pseudonym: subject.String(), Bound: slot.Bound, Locks: locks(slot.Locks)}, nil
}
