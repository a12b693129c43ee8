package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"sealkeeper/contract"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
	"sealkeeper/signer"
)

// Officers decide on keys; this file carries it out. A plan that a quorum approved goes its way by itself: the key is made, certified,
// announced, put to use in the place of another, and taken out of use, each at its time, by the time of lists, which never runs back and
// goes on while the wall is not trusted. Every step is durable before the next, and one that a crash cut off is done again to the same end.

const (
	drainFor   = time.Minute // a key that was handed over finishes what was reserved for it
	keysEvery  = 5 * time.Second
	overEvery  = time.Minute // a token is compared with the registry
	overRetry  = 10 * time.Second
	keyRetry   = time.Second
	makeWithin = time.Minute // of one step that asks an HSM
)

// keyring is what the running appliance knows of its keys beside the ledger.
type keyring struct {
	changing sync.Mutex // one change at a time; never held while an HSM is asked, but for a destruction, which is bounded
	wake     chan struct{}
	make     chan struct{} // wakes who asks the HSM
	rooted   chan struct{} // something became of a root: whose turn it is to sign revocation lists

	mu       sync.Mutex
	loaded   map[string]bool          // the workers have it
	problems map[string]string        // why a key does not take its next step
	making   map[string]time.Duration // a token was asked for it, and may be at it until then
	orphans  map[string][]string      // by token: keys on it that the registry does not know
	due      map[string]time.Duration // by token: when it is compared with the registry again; of makeKeys alone
}

func (r *keyring) init(keys []ledger.Key, now time.Time) {
	r.orphans, r.due, r.making = map[string][]string{}, map[string]time.Duration{}, map[string]time.Duration{}
	r.wake, r.make, r.rooted, r.loaded, r.problems = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1), map[string]bool{}, map[string]string{}
	for _, k := range keys {
		if !k.Ended() && k.State != ledger.KeyPlanned || k.Finishes(now) { // the workers were started with these
			r.loaded[k.ID] = true
		}
	}
}

func (r *keyring) stir() {
	for _, c := range []chan struct{}{r.wake, r.make} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (r *keyring) has(id string) bool { r.mu.Lock(); defer r.mu.Unlock(); return r.loaded[id] }

func (r *keyring) load(ids []string, there bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if there {
			r.loaded[id] = true
		} else {
			delete(r.loaded, id)
		}
	}
}

// asking notes until when a token may be at the making of a key; zero: it is not, or not any more.
func (r *keyring) asking(id string, until time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if until == 0 {
		delete(r.making, id)
		return
	}
	r.making[id] = until
}

// idle says that no token is at the making of a key.
func (r *keyring) idle(id string, now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now >= r.making[id]
}

// strangers are keys on tokens that the registry does not know.
func (r *keyring) strangers() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, token := range slices.Sorted(maps.Keys(r.orphans)) {
		all = append(all, r.orphans[token]...)
	}
	return all
}

// on is how many of them a token has.
func (r *keyring) on(token string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.orphans[token])
}

// lookOver compares what tokens have with the registry, each as often as it is due. One that no worker is ready for is looked at when there is one: the
// root's only while it is used, which is also when somebody else may have used it. What was found stays until another look. A key that is planned is
// known: a crash may have left it there.
func (a *Authority) lookOver(ctx context.Context) {
	now := a.o.Clock.Elapsed()
	for _, h := range a.o.Signer.Health() {
		if due, looked := a.ring.due[h.Token]; h.Ready == 0 || looked && now < due {
			continue
		}
		within, cancel := context.WithTimeout(ctx, overRetry) // an HSM that is away is no news here
		ids, err := a.o.Signer.KeysOn(within, h.Token)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			a.ring.due[h.Token] = now + overRetry
			a.o.Log.Warn("the keys on a token can't be listed", "token", h.Token, "error", err)
			continue
		}
		a.ring.due[h.Token] = now + overEvery
		var orphans []string
		for _, id := range ids {
			if !slices.ContainsFunc(a.o.Ledger.Keys(), func(k ledger.Key) bool {
				return k.Token == h.Token && bytes.Equal(k.CKAID, id) && k.State != ledger.KeyDestroyed
			}) {
				orphans = append(orphans, fmt.Sprintf("%s %x", h.Token, id))
			}
		}
		slices.Sort(orphans)
		a.ring.mu.Lock()
		news := !slices.Equal(orphans, a.ring.orphans[h.Token])
		a.ring.orphans[h.Token] = orphans
		a.ring.mu.Unlock()
		if news && len(orphans) > 0 {
			a.o.Log.Error("keys on a token that nobody registered", "token", h.Token, "keys", orphans)
		}
	}
}

// used is how often a key with a limit signed, and the limit; 0: there is none.
func (a *Authority) used(ctx context.Context, k ledger.Key) (used, limit uint64) {
	if k.Plan == nil || k.Plan.Uses == 0 {
		return 0, 0
	}
	return a.o.Ledger.KeyUsed(ctx, k.ID), k.Plan.Uses
}

// keyStatus is a key as operators see it.
func (a *Authority) keyStatus(ctx context.Context, k ledger.Key) contract.KeyStatus {
	s := contract.KeyStatus{ID: k.ID, Token: k.Token, Purpose: string(k.Purpose), Algorithm: k.Algorithm, State: string(k.State), NotAfter: k.NotAfter, Since: k.Since, Until: k.Until,
		Trouble: a.ring.troubles()[k.ID]}
	s.Used, s.Limit = a.used(ctx, k)
	next := func(to ledger.KeyState, at time.Time) { s.Next, s.NextAt = string(to), at }
	switch {
	case k.State == ledger.KeyActive:
		next(ledger.KeyDeactivated, k.NotAfter)
	case k.Plan == nil:
	case k.State == ledger.KeyPlanned:
		next(ledger.KeyGenerated, time.Time{})
	case k.State == ledger.KeyGenerated:
		next(ledger.KeyCertified, time.Time{})
	case k.State == ledger.KeyCertified:
		next(ledger.KeyAnnounced, k.Plan.Announce)
	case k.State == ledger.KeyAnnounced && !k.Plan.Activate.IsZero():
		next(ledger.KeyActive, k.Plan.Activate)
	}
	return s
}

// trouble notes how a key's next step went, and says whether that is news.
func (r *keyring) trouble(id string, err error) (news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.problems, id)
		return false
	}
	news = r.problems[id] != err.Error()
	r.problems[id] = err.Error()
	return news
}

func (r *keyring) troubles() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.problems)
}

// asks says whether a key's next step asks an HSM.
func (a *Authority) asks(k ledger.Key) bool {
	return k.State == ledger.KeyPlanned || k.State == ledger.KeyGenerated || k.Ended() && a.ring.has(k.ID)
}

// keepKeys has every key take its next step at its time: those that are a commit alone. An HSM that does not answer holds none of them up, since the
// active key ends when its time is over, whether or not there is another one.
func (a *Authority) keepKeys(ctx context.Context) {
	for ctx.Err() == nil {
		a.showCertificates(ctx) // what failed before, and what expired
		a.rest(ctx, a.stepKeys(ctx, a.o.Guard.ForLists(), false), a.ring.wake, a.o.Ledger.NearlyUsedUp())
	}
}

// makeKeys has keys take the steps for which an HSM is asked, one after the other, and looks over the tokens.
func (a *Authority) makeKeys(ctx context.Context) {
	for ctx.Err() == nil {
		wait := a.stepKeys(ctx, a.o.Guard.ForLists(), true)
		a.lookOver(ctx)
		a.rest(ctx, wait, a.ring.make, nil)
	}
}

// rest waits that long, or until something happens.
func (a *Authority) rest(ctx context.Context, wait time.Duration, wake, spent <-chan struct{}) {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-spent:
	case <-t.C:
	}
}

// stepKeys does what is due of what asks an HSM, or of what does not, and says how long it can wait for the next look.
func (a *Authority) stepKeys(ctx context.Context, now time.Time, asking bool) time.Duration {
	wait := keysEvery
	for again := true; again && ctx.Err() == nil; {
		again = false
		for _, k := range a.o.Ledger.Keys() {
			if a.asks(k) != asking {
				continue
			}
			within, cancel := context.WithTimeout(ctx, makeWithin)
			moved, next, err := a.stepKey(within, k, now)
			cancel()
			if ctx.Err() != nil {
				return wait
			}
			if a.ring.trouble(k.ID, err) {
				a.o.Log.Error("a key does not take its next step", "key", k.ID, "state", string(k.State), "error", err)
			}
			again = again || moved
			switch {
			case err != nil:
				wait = min(wait, keyRetry)
			case !next.IsZero() && next.After(now):
				wait = min(wait, next.Sub(now))
			}
		}
		if again {
			now = a.o.Guard.ForLists()
		}
	}
	return max(wait, time.Millisecond)
}

// stepKey takes one key one step further, if one is due. next is when another one is.
func (a *Authority) stepKey(ctx context.Context, k ledger.Key, now time.Time) (moved bool, next time.Time, err error) {
	switch {
	case k.State == ledger.KeyPlanned && k.Plan != nil:
		made, err := a.generate(ctx, k)
		if err != nil || len(made.SPKI) == 0 {
			return false, next, err
		}
		crashpoint.Here("ca.keys.generated")
		k.SPKI = made.SPKI
		return a.move(ctx, k, ledger.KeyGenerated, now)
	case k.State == ledger.KeyGenerated && k.Plan != nil:
		if !a.ring.has(k.ID) {
			if err := a.o.Signer.Reload(ctx, k.Token); err != nil {
				return false, next, err
			}
			a.ring.load([]string{k.ID}, true)
		}
		if k.Plan.Profile == "" { // tokens are verified here alone, with the pinned key
			return a.move(ctx, k, ledger.KeyCertified, now)
		}
		der, err := a.certificateFor(ctx, k, now)
		if err != nil {
			return false, next, err
		}
		crashpoint.Here("ca.keys.certified")
		k.Chain, k.Until = [][]byte{der}, notAfter(der)
		if root(k) {
			if k.Link, err = a.linkFor(ctx, k, now); err != nil {
				return false, next, fmt.Errorf("linking it to %s: %w", k.Plan.Succeeds, err)
			}
			crashpoint.Here("ca.keys.linked")
		}
		return a.move(ctx, k, ledger.KeyCertified, now)
	case k.State == ledger.KeyCertified && k.Plan != nil:
		if now.Before(k.Plan.Announce) {
			return false, k.Plan.Announce, nil
		}
		return a.move(ctx, k, ledger.KeyAnnounced, now)
	case k.State == ledger.KeyAnnounced && !k.Plan.Activate.IsZero():
		if now.Before(k.Plan.Activate) {
			return false, k.Plan.Activate, nil
		}
		return a.turn(ctx, k, now)
	case k.State == ledger.KeyActive && policy.SelftestBytes(k.Purpose, k.Algorithm) != nil: // not the roots
		if !now.Before(k.NotAfter) {
			return a.end(ctx, k, now, ledger.CauseEnded)
		}
		if a.o.Ledger.UsedUp(k.ID) {
			if _, ok := a.standby(k, now); ok {
				return a.end(ctx, k, now, ledger.CauseUsed)
			}
		}
		return false, k.NotAfter, nil
	case k.Ended() && a.ring.has(k.ID) && !k.Finishes(now): // it leaves the workers, too
		if err := a.o.Signer.Reload(ctx, k.Token); err != nil {
			return false, next, err
		}
		a.ring.load([]string{k.ID}, false)
		a.o.Log.Info("the workers let a key go", "key", k.ID, "state", string(k.State))
	case k.State == ledger.KeyDeactivated && k.Finishes(now):
		return false, k.Drain, nil
	}
	return false, next, nil
}

// generate has a planned key made, unless officers took it back meanwhile. From before that is looked at until the token answered the key is not
// destroyed: it would be made after that, and nobody would know it. A worker whom nobody waits for any more is done, or killed, within as long again.
func (a *Authority) generate(ctx context.Context, k ledger.Key) (none signer.NewKey, _ error) {
	a.ring.asking(k.ID, a.o.Clock.Elapsed()+2*makeWithin)
	defer func() {
		if ctx.Err() == nil {
			a.ring.asking(k.ID, 0)
		}
	}()
	if is, _ := a.key(k.ID); is.State != ledger.KeyPlanned {
		return none, nil
	}
	return a.o.Signer.Generate(ctx, k.Token, k.ID, k.Algorithm, k.CKAID, k.Copies)
}

// certificateFor has a key certified by the IACA, or a root by itself, as its plan says; or finds the certificate that was made before a crash.
func (a *Authority) certificateFor(ctx context.Context, k ledger.Key, now time.Time) ([]byte, error) {
	der, err := a.made(ctx, k.Plan.Profile, k.SPKI)
	if err != nil || der != nil {
		return der, err
	}
	issuer := k
	if !root(k) {
		if issuer, err = a.activeKey(policy.PurposeIACA, now); err != nil {
			return nil, err
		}
	}
	return a.certify(ctx, a.planned(k, issuer, now))
}

// planned is the certificate that a plan says.
func (a *Authority) planned(k ledger.Key, iaca ledger.Key, now time.Time) policy.Cert {
	c := policy.Cert{Profile: k.Plan.Profile, Name: k.Plan.Name, SPKI: k.SPKI, NotBefore: now.Truncate(time.Second), NotAfter: k.Until, IssuerKey: iaca.ID}
	if k.Purpose == policy.PurposeSDJWT && a.o.BaseURL != "" {
		c.URIs = []string{a.o.BaseURL}
	}
	return c
}

// changeKeys makes changes of keys and shows them. Whoever came first wins: what is asked for is decided on the keys as they are.
func (a *Authority) changeKeys(ctx context.Context, now time.Time, x *ledger.Execution, decide func() ([]ledger.KeyChange, error)) (moved bool, _ time.Time, _ error) {
	a.ring.changing.Lock()
	changes, err := decide()
	if err == nil && len(changes) > 0 {
		err = a.o.Ledger.ChangeKeys(ctx, now, changes, x)
	}
	a.ring.changing.Unlock()
	if err != nil || len(changes) == 0 {
		return false, time.Time{}, err
	}
	for _, c := range changes {
		a.o.Log.Warn("a key changed its state", "key", c.Key.ID, "purpose", string(c.Key.Purpose), "state", string(c.Key.State), "cause", c.Cause, "proposal", c.Proposal, "officers", c.By)
	}
	a.ring.stir()
	if slices.ContainsFunc(changes, func(c ledger.KeyChange) bool { return c.Key.Purpose == policy.PurposeIACA }) {
		select {
		case a.ring.rooted <- struct{}{}:
		default:
		}
	}
	a.showCertificates(ctx)
	return true, time.Time{}, nil
}

func by(k ledger.Key, cause string) ledger.KeyChange {
	c := ledger.KeyChange{Key: k, Cause: cause}
	if k.Plan != nil {
		c.Proposal, c.By = k.Plan.Proposal, k.Plan.By
	}
	return c
}

// move takes a key to its next state by its own plan.
func (a *Authority) move(ctx context.Context, k ledger.Key, to ledger.KeyState, now time.Time) (bool, time.Time, error) {
	return a.changeKeys(ctx, now, nil, func() ([]ledger.KeyChange, error) {
		if is, _ := a.key(k.ID); is.State != k.State {
			return nil, nil
		}
		k.State = to
		return []ledger.KeyChange{by(k, ledger.CausePlan)}, nil
	})
}

// inUse is the active key of a purpose on a token.
func (a *Authority) inUse(p policy.Purpose, token string) (ledger.Key, bool) {
	for _, k := range a.o.Ledger.Keys() {
		if k.Purpose == p && k.Token == token && k.State == ledger.KeyActive {
			return k, true
		}
	}
	return ledger.Key{}, false
}

// retired is a key that signs nothing new; what is reserved for it is finished, if it was in use.
func retired(k ledger.Key, now time.Time) ledger.Key {
	if k.State == ledger.KeyActive {
		k.Drain = now.Add(drainFor)
	}
	k.State = ledger.KeyDeactivated
	return k
}

// withdrawn says of a key whether a list revokes its certificate, or the link to it: a ledger of before officers took it back would have it take over all the same.
func (a *Authority) withdrawn(k ledger.Key) bool {
	if _, is := a.o.Ledger.Withdrawn(k.ID); is || k.Link == nil {
		return is
	}
	link, err := x509.ParseCertificate(k.Link)
	if err != nil {
		return false // whoever announced it has looked
	}
	_, is := a.o.Ledger.RevokedCertificate(pad(link.SerialNumber.Bytes()))
	return is
}

// turn is the hand-over to a planned successor, in one commit: there is no instant with two active keys or with none.
func (a *Authority) turn(ctx context.Context, k ledger.Key, now time.Time) (bool, time.Time, error) {
	return a.changeKeys(ctx, now, nil, func() ([]ledger.KeyChange, error) {
		is, _ := a.key(k.ID)
		if is.State != ledger.KeyAnnounced {
			return nil, nil
		}
		if a.withdrawn(is) {
			return nil, fmt.Errorf("the certificate of key %s, or the link to it, is revoked: officers have to decide (key.compromise or key.deactivate)", k.ID)
		}
		if !a.announced(is) {
			return nil, fmt.Errorf("the certificate of key %s is not published yet", k.ID)
		}
		if !a.ring.has(k.ID) {
			return nil, fmt.Errorf("the workers of token %s do not have key %s yet", k.Token, k.ID)
		}
		is.State = ledger.KeyActive
		changes := []ledger.KeyChange{by(is, ledger.CausePlan)}
		if old, ok := a.inUse(k.Purpose, k.Token); ok {
			if old.ID != k.Plan.Succeeds {
				return nil, fmt.Errorf("its plan says that it takes over from %q, and %s is active: officers have to decide (key.activate)", k.Plan.Succeeds, old.ID)
			}
			c := by(retired(old, now), ledger.CausePlan)
			c.Proposal, c.By = k.Plan.Proposal, k.Plan.By
			changes = append(changes, c)
		}
		crashpoint.Here("ca.keys.turn")
		return changes, nil
	})
}

// standby is a key that can take over now.
func (a *Authority) standby(from ledger.Key, now time.Time) (ledger.Key, bool) {
	for _, k := range a.o.Ledger.Keys() {
		if k.StandsBy() && !a.withdrawn(k) && k.Purpose == from.Purpose && k.Token == from.Token && k.ID != from.ID && a.ring.has(k.ID) && !now.Before(k.NotBefore) && now.Before(k.NotAfter) {
			return k, true
		}
	}
	return ledger.Key{}, false
}

// takesOver is the change by which a key that stands by takes over, if there is one.
func (a *Authority) takesOver(from ledger.Key, now time.Time) []ledger.KeyChange {
	next, ok := a.standby(from, now)
	if from.State != ledger.KeyActive || !ok {
		return nil
	}
	next.State = ledger.KeyActive
	return []ledger.KeyChange{by(next, ledger.CauseStandby)}
}

// end takes a key out of use at the end of its use, or when it signed as often as it may.
func (a *Authority) end(ctx context.Context, k ledger.Key, now time.Time, cause string) (bool, time.Time, error) {
	return a.changeKeys(ctx, now, nil, func() ([]ledger.KeyChange, error) {
		is, _ := a.key(k.ID)
		if is.State != ledger.KeyActive {
			return nil, nil
		}
		return append([]ledger.KeyChange{by(retired(is, now), cause)}, a.takesOver(is, now)...), nil
	})
}

// ---- what officers decide

func keyProblem(code, format string, args ...any) error {
	return &Problem{Code: "key." + code, Detail: fmt.Sprintf(format, args...)}
}

// known is a key that officers named.
func (a *Authority) known(id string) (ledger.Key, error) {
	k, ok := a.key(id)
	switch {
	case !ok:
		return k, keyProblem("unregistered", "key %q is not in the registry", id)
	case root(k) && k.Finishes(a.o.Guard.ForLists()):
		return k, keyProblem("root", "key %q is a root that certified: it ends when another takes its place (%s), and its revocation list when its certificate does", id, succession(k))
	}
	return k, nil
}

func officersDid(k ledger.Key, x *ledger.Execution) ledger.KeyChange {
	return ledger.KeyChange{Key: k, Cause: ledger.CauseOfficers, Proposal: x.ID, By: x.By}
}

// generateKey puts a plan into the registry. Everything else follows from it.
func (a *Authority) generateKey(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p, now := q.Parameters().(*officer.Generate), a.o.Guard.ForLists()
	_, _, err := a.changeKeys(ctx, now, x, func() ([]ledger.KeyChange, error) {
		k := ledger.Key{ID: p.ID, Token: p.Token, Purpose: p.Purpose, Algorithm: p.Algorithm, State: ledger.KeyPlanned, NotBefore: p.Activate, NotAfter: p.UseUntil, Until: p.Until,
			CKAID: make([]byte, 16), Plan: &ledger.KeyPlan{Proposal: x.ID, By: x.By, Profile: p.Profile(), Name: p.Name, Succeeds: p.Succeeds, Announce: p.Announce, Activate: p.Activate,
				Uses: p.Uses, PerHour: p.PerHour}}
		if p.Activate.IsZero() {
			k.NotBefore = p.Announce
		}
		if _, err := a.o.Random.Read(k.CKAID); err != nil {
			return nil, fmt.Errorf("reading randomness: %w", err)
		}
		if err := a.possible(p, &k, now); err != nil {
			return nil, err
		}
		return []ledger.KeyChange{officersDid(k, x)}, nil
	})
	return err
}

// possible refuses a plan that would not come to its end: officers learn it now, and not at midnight.
func (a *Authority) possible(p *officer.Generate, k *ledger.Key, now time.Time) error {
	if _, ok := a.key(p.ID); ok {
		return keyProblem("exists", "there is a key %q: each has a name of its own, for ever", p.ID)
	}
	if !now.Before(p.UseUntil) {
		return keyProblem("plan", "its use would have ended at %s", p.UseUntil.Format(time.RFC3339))
	}
	online := false
	for _, o := range a.o.Ledger.Keys() { // where the other signing keys are; the root's token is its own
		if o.Token == p.Token && o.Purpose != policy.PurposeIACA {
			online, k.Copies = true, o.Copies
		}
	}
	if !online {
		return keyProblem("plan", "token %q holds no signing keys", p.Token)
	}
	switch old, ok := a.inUse(p.Purpose, p.Token); {
	case p.Activate.IsZero():
	case p.Succeeds == "" && ok:
		return keyProblem("plan", "key %s is active for %s: say that the new one succeeds it", old.ID, p.Purpose)
	case p.Succeeds != "":
		if s, known := a.key(p.Succeeds); !known || s.Purpose != p.Purpose || s.Token != p.Token || s.Ended() {
			return keyProblem("plan", "key %q does not sign for %s on token %s, so that nothing can succeed it there", p.Succeeds, p.Purpose, p.Token)
		}
	}
	if k.Plan.Profile == "" {
		return nil
	}
	iaca, err := a.activeKey(policy.PurposeIACA, now)
	if err != nil {
		return err
	}
	root, err := x509.ParseCertificate(iaca.Chain[0])
	if err != nil {
		return err
	}
	c := a.planned(*k, iaca, now)
	c.SPKI, c.Serial = []byte{0}, [20]byte{0x40}
	c.CRL = a.crlFor(iaca, c.Serial[:])
	if _, d := policy.DecideCert(a.rules().bundle, policy.CertFacts{Cert: c, IssuerPurpose: iaca.Purpose, IssuerNotBefore: root.NotBefore, IssuerNotAfter: root.NotAfter}, c.NotBefore); d.Result != policy.Allowed {
		return keyProblem("plan", "its certificate would not be signed: %s", d.Detail)
	}
	return nil
}

// activable says why a key can't take over yet. A signer's certificate comes with what it signs; a root's does not, nor does its link: both have to be
// where whoever holds the old root alone finds them.
func (a *Authority) activable(k ledger.Key) error {
	switch {
	case k.State != ledger.KeyCertified && k.State != ledger.KeyAnnounced || !a.ring.has(k.ID):
		return keyProblem("state", "key %s is %s: one that is certified or announced is activated", k.ID, k.State)
	case k.State == ledger.KeyCertified && root(k):
		return keyProblem("state", "key %s is a root that is not announced yet: execute it again when it is", k.ID)
	case k.State == ledger.KeyAnnounced && !a.announced(k):
		return keyProblem("state", "the certificate of key %s is not published yet: execute it again", k.ID)
	}
	return nil
}

// activateKey has a key sign in the place of the active one.
func (a *Authority) activateKey(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p, now := q.Parameters().(*officer.Activate), a.o.Guard.ForLists()
	_, _, err := a.changeKeys(ctx, now, x, func() ([]ledger.KeyChange, error) {
		k, err := a.known(p.ID)
		if err != nil {
			return nil, err
		}
		if err := a.activable(k); err != nil {
			return nil, err
		}
		if a.withdrawn(k) {
			return nil, keyProblem("state", "the certificate of key %s, or the link to it, is revoked: compromise or deactivate it", k.ID)
		}
		if now.Before(k.NotBefore) || !now.Before(k.NotAfter) {
			return nil, keyProblem("state", "key %s may be used from %s to %s", k.ID, k.NotBefore.Format(time.RFC3339), k.NotAfter.Format(time.RFC3339))
		}
		old, ok := a.inUse(k.Purpose, k.Token)
		if old.ID != p.Succeeds {
			return nil, keyProblem("state", "key %q is active for %s, the proposal says %q: propose it again", old.ID, k.Purpose, p.Succeeds)
		}
		k.State = ledger.KeyActive
		changes := []ledger.KeyChange{officersDid(k, x)}
		if ok {
			changes = append(changes, officersDid(retired(old, now), x))
		}
		return changes, nil
	})
	return err
}

// deactivateKey takes a key out of use for good. One that is planned is not made any more; if its token has it already, it stays known until it is destroyed.
func (a *Authority) deactivateKey(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p, now := q.Parameters().(*officer.Deactivate), a.o.Guard.ForLists()
	_, _, err := a.changeKeys(ctx, now, x, func() ([]ledger.KeyChange, error) {
		k, err := a.known(p.ID)
		if err != nil {
			return nil, err
		}
		if !ledger.KeyDeactivated.Follows(k.State) {
			return nil, keyProblem("state", "key %s is %s: there is nothing to deactivate", k.ID, k.State)
		}
		c := officersDid(retired(k, now), x)
		if root(k) {
			if c.Revoke, err = a.unlinked(ctx, k); err != nil {
				return nil, err
			}
		}
		return append([]ledger.KeyChange{c}, a.takesOver(k, now)...), nil
	})
	return err
}

// compromiseKey ends a key's use at once: what is reserved for it is not signed, and what it signed a moment ago is not handed out.
func (a *Authority) compromiseKey(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p, now := q.Parameters().(*officer.Compromise), a.o.Guard.ForLists()
	_, _, err := a.changeKeys(ctx, now, x, func() ([]ledger.KeyChange, error) {
		k, err := a.known(p.ID)
		if err != nil {
			return nil, err
		}
		if !ledger.KeyCompromised.Follows(k.State) {
			return nil, keyProblem("state", "key %s is %s", k.ID, k.State)
		}
		next := a.takesOver(k, now)
		k.State, k.Drain = ledger.KeyCompromised, time.Time{}
		c := officersDid(k, x)
		if root(k) { // no list speaks for a root, but one does for its link
			if c.Revoke, err = a.unlinked(ctx, k); err != nil {
				return nil, err
			}
		} else if len(k.Chain) > 0 {
			cert, err := x509.ParseCertificate(k.Chain[0])
			if err != nil {
				return nil, err
			}
			c.Revoke = cert.SerialNumber.FillBytes(make([]byte, 20))
		}
		return append([]ledger.KeyChange{c}, next...), nil
	})
	return err
}

// destroyKey takes a key off its token, and then says so: the registry never says that a key is gone that is there.
func (a *Authority) destroyKey(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p, now := q.Parameters().(*officer.Destroy), a.o.Guard.ForLists()
	_, _, err := a.changeKeys(ctx, now, x, func() ([]ledger.KeyChange, error) {
		k, err := a.known(p.ID)
		if err != nil {
			return nil, err
		}
		switch {
		case k.State != ledger.KeyDeactivated && k.State != ledger.KeyCompromised:
			return nil, keyProblem("state", "key %s is %s: deactivate it first", k.ID, k.State)
		case !a.ring.idle(k.ID, a.o.Clock.Elapsed()):
			return nil, keyProblem("state", "key %s is being made: execute it again in a minute", k.ID)
		case a.ring.has(k.ID):
			return nil, keyProblem("state", "the workers still have key %s, which they let go when what was reserved for it is finished: execute it again in a minute", k.ID)
		}
		if err := a.o.Signer.Destroy(ctx, k.Token, k.CKAID); err != nil {
			return nil, err
		}
		crashpoint.Here("ca.keys.destroyed")
		k.State = ledger.KeyDestroyed
		return []ledger.KeyChange{officersDid(k, x)}, nil
	})
	return err
}

// stopped says whether an error only says that a key was handed over or stopped while a request was under way: the request goes on with another.
func stopped(err error) bool {
	var r *ledger.Refusal
	return errors.Is(err, signer.ErrKeyEnded) || errors.As(err, &r) && r.Code() == ledger.KeyInactive
}
