package ca

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// PolicySource is where bundles come from at start, and who may sign them.
type PolicySource struct {
	Name    string // of File, for messages
	File    []byte // the configuration's bundle
	Signers policy.Signers
}

// maxPast bundles are kept for requests that were reserved under them.
const maxPast = 8

// past are bundles that were in use.
type past struct {
	mu    sync.Mutex
	rules []*rules // the one needed last in front
}

// startPolicy finds the rules to start with: the ledger's, or the configuration's bundle if that is newer. What the configuration has is
// refused as a whole if it can't be used, and left alone, with a condition, if it is not newer: a restart never takes back what was activated.
func (a *Authority) startPolicy(ctx context.Context) error {
	s := a.o.Policy
	given, by, err := s.Signers.Open(s.Name, s.File)
	if err != nil {
		return fmt.Errorf("policy bundle: %w", err)
	}
	active, err := a.o.Ledger.ActivePolicy(ctx)
	if err != nil {
		return fmt.Errorf("reading the active policy: %w", err)
	}
	registry, err := a.o.Ledger.Registry(ctx)
	if err != nil {
		return fmt.Errorf("reading the registry of officers: %w", err)
	}
	// Once officers are registered, a file on this machine changes nothing.
	if active == nil || registry == nil && (given.Version() > active.Version || given.Hash() == active.Hash && !sameSigners(by, active.Signers)) {
		a.signedBy.Store(&by)
		a.ruling.Store(a.newRules(given))
		return a.o.Ledger.Activate(ctx, ledger.ActivePolicy{Hash: given.Hash(), Version: given.Version(), Signers: by, At: a.o.Clock.Now()}, s.File, nil)
	}
	file, ok, err := a.o.Ledger.PolicyFile(ctx, active.Hash)
	if err != nil || !ok {
		return errors.Join(err, fmt.Errorf("the ledger has no file of its active policy bundle %s: run `sealctl fsck`", active.Hash))
	}
	name := "bundle " + active.Hash.String()
	b, by, err := s.Signers.Open(name, file)
	if err != nil {
		return fmt.Errorf("the active policy bundle, version %d: %w (have it signed by the registered keys and put it at %s, or a newer one)", active.Version, err, s.Name)
	}
	if b.Hash() != active.Hash {
		return fmt.Errorf("the ledger's file of policy bundle %s is another one: run `sealctl fsck`", active.Hash)
	}
	a.signedBy.Store(&by)
	a.ruling.Store(a.newRules(b))
	if _, err := given.Succeeds(b); err == nil && registry != nil && given.Hash() != active.Hash {
		a.leftAlone = s.Name + " was not put to use: officers are registered, who have to approve it (sealctl propose policy.activate)"
		a.o.Log.Warn("the configuration's policy bundle waits for the officers", "file", s.Name, "version", given.Version(), "active", b.Version())
	} else if err != nil {
		a.leftAlone = fmt.Sprintf("%s was not put to use: %v", s.Name, err)
		a.o.Log.Warn("the configuration's policy bundle is not newer than the active one, which stays", "file", s.Name, "version", given.Version(), "active", b.Version())
	}
	return nil
}

func sameSigners(a, b []string) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// Activate puts a bundle to use, or refuses it and keeps the one in use. When it returns, every request that comes in is judged by the new one;
// those under way keep theirs. With dry it only says what would come of it.
func (a *Authority) Activate(ctx context.Context, c Caller, r contract.PolicyRequest) (contract.Policy, error) {
	if !r.DryRun {
		if err := a.ungoverned(ctx, officer.PolicyActivate); err != nil {
			return contract.Policy{}, err
		}
	}
	return a.activateFor(ctx, c, r, nil)
}

func (a *Authority) activateFor(ctx context.Context, c Caller, r contract.PolicyRequest, x *ledger.Execution) (contract.Policy, error) {
	out, err := a.activate(ctx, c, r, x)
	if !r.DryRun {
		result := "activated"
		a.refused.Store(nil)
		if err != nil {
			result = "refused"
			what := fmt.Sprintf("at %s client %s offered a policy bundle that was refused; version %d stays in use: %v", a.o.Clock.Now().UTC().Format(time.RFC3339), c.ID, a.rules().bundle.Version(), err)
			a.refused.Store(&what)
			a.o.Log.Warn("a policy bundle was refused", "client", c.ID, "error", err)
		}
		a.o.Metrics.Activations.WithLabelValues(result).Inc()
	}
	return out, problem(err, nil)
}

func (a *Authority) activate(ctx context.Context, c Caller, r contract.PolicyRequest, x *ledger.Execution) (none contract.Policy, _ error) {
	if len(r.Bundle) > policy.MaxFile {
		return none, &Problem{Code: "bundle.malformed", Detail: fmt.Sprintf("the file has %d bytes, at most %d are allowed", len(r.Bundle), policy.MaxFile)}
	}
	// Without registered keys a bundle is whoever's; then it changes by the configuration and a restart, which takes the machine, and not by
	// the word of one client. A quorum of officers is more than that.
	if len(a.o.Policy.Signers.Keys) == 0 && !r.DryRun && x == nil {
		return none, &Problem{Code: "bundle.unsigned", Detail: "no policy keys are registered (policy_signers), so no bundle is taken over the wire: configure it as policy and restart"}
	}
	// All that costs time comes before the lock, and is judged again by version under it.
	b, by, err := a.o.Policy.Signers.Open("bundle", r.Bundle)
	if err != nil {
		return none, err
	}
	a.activating.Lock()
	defer a.activating.Unlock()
	next := a.newRules(b)
	old := a.rules()
	again, err := b.Succeeds(old.bundle)
	if err != nil {
		return none, err
	}
	p := ledger.ActivePolicy{Hash: b.Hash(), Version: b.Version(), Signers: by, Client: c.ID, At: a.o.Clock.Now()}
	if !r.DryRun && (x != nil || !again || !sameSigners(by, *a.signedBy.Load())) {
		if err := a.o.Ledger.Activate(ctx, p, r.Bundle, x); err != nil {
			// It may be durable all the same, if the ledger died: then the next start has it.
			return none, fmt.Errorf("committing the policy: %w", err)
		}
		a.signedBy.Store(&by)
		if !again {
			a.remember(old)
			a.ruling.Store(next)
		}
		a.o.Log.Info("policy bundle activated", "version", b.Version(), "hash", b.Hash().String(), "signers", by, "client", c.ID)
	}
	return contract.Policy{Hash: p.Hash.String(), Version: p.Version, Signers: orEmpty(by), Active: !r.DryRun || again, At: p.At, Tests: len(b.Tests())}, nil
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// Policy is the bundle in use, with its file.
func (a *Authority) Policy(ctx context.Context) (none contract.Policy, _ error) {
	active, err := a.o.Ledger.ActivePolicy(ctx)
	if err == nil && active == nil {
		err = errors.New("the ledger has no active policy")
	}
	if err != nil {
		return none, problem(err, nil)
	}
	file, _, err := a.o.Ledger.PolicyFile(ctx, active.Hash)
	if err != nil {
		return none, problem(err, nil)
	}
	return contract.Policy{Hash: active.Hash.String(), Version: active.Version, Signers: orEmpty(active.Signers), Active: true, At: active.At, Bundle: string(file)}, nil
}

// Role of a client by the bundle in use.
func (a *Authority) Role(client string) (role string, ok bool) {
	i, ok := a.rules().bundle.Client(client)
	return i.Role, ok
}

// remember keeps rules for requests that were reserved under them.
func (a *Authority) remember(r *rules) {
	a.past.mu.Lock()
	defer a.past.mu.Unlock()
	a.past.rules = append([]*rules{r}, a.past.rules[:min(len(a.past.rules), maxPast-1)]...)
}

// rulesOf are the rules that a reservation was made under; ok is false if their bundle can't be had any more.
func (a *Authority) rulesOf(ctx context.Context, h policy.Hash) (_ *rules, ok bool, _ error) {
	if r := a.rules(); r.bundle.Hash() == h {
		return r, true, nil
	}
	a.past.mu.Lock()
	for _, r := range a.past.rules {
		if r.bundle.Hash() == h {
			a.past.mu.Unlock()
			return r, true, nil
		}
	}
	a.past.mu.Unlock()
	file, ok, err := a.o.Ledger.PolicyFile(ctx, h)
	if err != nil || !ok {
		return nil, false, err
	}
	// Its signers may be registered no more: that it was activated is what counts, and its hash says that it is the one.
	b, err := policy.Parse("bundle "+h.String(), file)
	if err != nil || b.Hash() != h {
		a.o.Log.Warn("a policy bundle that was in use can't be read; its reservations are made anew", "hash", h.String(), "error", err)
		return nil, false, nil
	}
	r := a.newRules(b)
	a.remember(r)
	return r, true, nil
}
