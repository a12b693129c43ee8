package ca

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// Severities of a condition, as the alert rules have them (deploy/prometheus): somebody gets up; somebody looks today; somebody plans.
const (
	Critical = "critical"
	Warning  = "warning"
	Info     = "info"
)

const (
	lateAfter    = 10 * time.Second // a change that waits longer is late
	scheduleLate = 30 * time.Second // an order that waits longer is late: they are carried out every second
	manyRestarts = 3                // more workers replaced within ten minutes are no accident
)

// Status for operators; ready only when cards can be issued. Problems are what stands against that; conditions are these and what will
// become one, each with what to do.
func (a *Authority) Status(ctx context.Context) contract.Status {
	now := a.o.Guard.ForLists()
	s := contract.Status{Version: a.o.Version, Policy: a.rules().bundle.Hash().String(), PolicyVer: a.rules().bundle.Version(), Clock: "trusted",
		Problems: []string{}, Tokens: []contract.TokenStatus{}, Keys: []contract.KeyStatus{}, Lists: []contract.ListStatus{},
		Certificates: []contract.CertificateStatus{}, Conditions: []contract.Condition{}}
	note := func(name, severity, do, format string, args ...any) {
		s.Conditions = append(s.Conditions, contract.Condition{Name: name, Severity: severity, What: fmt.Sprintf(format, args...), Do: do})
	}
	wrong := func(name, do, format string, args ...any) {
		note(name, Critical, do, format, args...)
		s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
	}
	if _, err := a.o.Guard.Trusted(); err != nil {
		s.Clock = err.Error()
		wrong("clock-untrusted", a.clockAdvice(ctx), "issuing is stopped: %v", err)
	}
	if size, root, err := a.o.Ledger.Head(ctx); err != nil {
		wrong("down", "look at the disk and the log; the daemon has to start again", "the ledger does not answer: %v", err)
	} else {
		s.Journal, s.Root = size, hex.EncodeToString(root[:])
	}
	for id, off := range a.o.Ledger.SwitchedOff() {
		note("authority-off", Info, "when its cause is mended: sealctl propose authority.switch", "officers switched evidence authority %s off at %s: %s", id, off.At.UTC().Format(time.RFC3339), off.Reason)
	}
	if stop := a.o.Ledger.Stopped(); stop != nil {
		wrong("issuing-stopped", "find out why from the officers who stopped it; a quorum resumes: sealctl propose issuing.resume", "officers stopped issuing at %s: %s", stop.At.UTC().Format(time.RFC3339), stop.Reason)
	}
	if alarms := a.alarms.Load(); alarms > 0 {
		note("officers-refused", Critical, "ask every officer what they sent: somebody holds a key or a signature that should not count", "%d things that officers signed were refused since the start", alarms)
	}
	for _, h := range a.o.Signer.Health() {
		s.Tokens = append(s.Tokens, contract.TokenStatus(h))
		switch {
		case h.PINRefused:
			wrong("pin-refused", "correct the PIN file once and for sure, remove the marker, restart the daemon", "token %s: %s", h.Token, cmp.Or(h.Problem, "its PIN was refused"))
		case h.Ready == 0 && h.Wanted > 0:
			wrong("hsm-down", "look at the log for why its workers end", "token %s: %s", h.Token, cmp.Or(h.Problem, "no worker is ready; look at the log for why they end"))
		case h.Problem != "": // cards are signed by those that are there; or it is the root's token, which signs none
			note("hsm-degraded", Warning, "look at the log for why its workers do not start", "token %s: %s", h.Token, h.Problem)
		case h.Ready < h.Wanted:
			note("hsm-degraded", Warning, "look at the log for why its workers end", "token %s: %d of %d workers are ready", h.Token, h.Ready, h.Wanted)
		}
		if h.Restarts > manyRestarts {
			note("worker-restarts", Warning, "look at the log for the reason: hung, died, quarantined or session", "token %s: %d workers were replaced within ten minutes", h.Token, h.Restarts)
		}
	}
	if all := a.ring.strangers(); len(all) > 0 {
		note("orphan-key", Critical, "find out who used the token; the appliance uses no such key", "%d keys are on tokens that no plan and no ceremony made, such as %s", len(all), strings.Join(all[:min(len(all), 8)], ", "))
	}
	troubles := a.ring.troubles()
	s.Orphans = a.ring.strangers()
	if severity, what := a.clientsEnding(now); severity != "" {
		note("client-expiring", severity, "ask who runs them; sealctl clients --within 720h lists them", "%s", what)
	}
	for _, k := range a.o.Ledger.Keys() {
		s.Keys = append(s.Keys, a.keyStatus(ctx, k))
		if why := troubles[k.ID]; why != "" {
			note("key-use-ending", Warning, "mend the cause; it is tried again every second", "key %s does not take its next step: %s", k.ID, why)
		}
		if r, withdrawn := a.o.Ledger.Withdrawn(k.ID); withdrawn && !k.Ended() {
			note("key-use-ending", Critical, "its compromise was lost with the ledger: sealctl propose key.compromise key="+k.ID+", then re-issue what it signed",
				"key %s signs nothing more: its certificate is revoked since %s, and here it is %s", k.ID, r.At.UTC().Format(time.RFC3339), k.State)
		}
		if k.State != ledger.KeyActive {
			continue
		}
		if severity := urgency(k.NotAfter.Sub(now)); severity != "" {
			do := "make its successor before that: sealctl propose key.generate"
			if root(k) {
				do = fmt.Sprintf("have another root take its place before that: sealctl propose %s", succession(k))
			}
			note("key-use-ending", severity, do, "key %s signs nothing more from %s", k.ID, k.NotAfter.Format(time.RFC3339))
		}
		if used, limit := a.used(ctx, k); limit > 0 && float64(used) >= ledger.Nearly*float64(limit) {
			note("key-limit-near", Warning, "make its successor before that: sealctl propose key.generate", "key %s signed %d of the %d times that it may", k.ID, used, limit)
		}
		if len(k.Chain) == 0 {
			continue
		}
		if cert, err := x509.ParseCertificate(k.Chain[0]); err == nil {
			s.Certificates = append(s.Certificates, contract.CertificateStatus{Name: k.ID, NotAfter: cert.NotAfter})
			if c, soon := Expiring(k.ID, cert.NotAfter, now); soon {
				s.Conditions = append(s.Conditions, c)
			}
		}
	}
	if len(a.o.Policy.Signers.Keys) == 0 {
		note("policy-unsigned", Info, "register policy keys in policy_signers of the configuration, and have the bundle signed", "no policy keys are registered: who writes the bundle and restarts the daemon changes policy")
	}
	if a.leftAlone != "" {
		note("policy-file", Info, "put the active bundle there (`sealctl policy show --out`), or a newer one", "%s", a.leftAlone)
	}
	if what := a.refused.Load(); what != nil {
		note("policy-refused", Warning, "ask who sent it; have it corrected and signed, and offer it again", "%s", *what)
	}
	switch what, left, life := a.phonesProblem(now); {
	case what != "":
		note("phone-status", Critical, "feed a fresh one (`sealctl phones feed`): no Android phone gets a card until then", "%s", what)
	case life > 0 && left < life/4:
		note("phone-status", Warning, "look at what fetches and feeds it", "the status of phones becomes too old in %s", left.Truncate(time.Second))
	}
	for _, b := range a.budgets(now) {
		if b.ratio() >= fillingFrom {
			note("budget-filling", Warning, "see who asks for so many cards; a bundle with a higher budget is the officers' decision",
				"budget %s: one %s has used %d of its %d of this %s", b.ID, b.Per, b.used, b.limit, b.window)
		}
	}
	if n := a.o.Ledger.Dead(); n > 0 {
		note("dead-events", Warning, "mend the cause, then sealctl events replay", "%d events of carriers were refused and wait: sealctl events dead", n)
	}
	for carrier, cards := range a.o.Ledger.HeldCards() {
		note("carrier-flood", Critical, "ask the carrier, then confirm or undo it: sealctl floods", "%d cards wait for a decision on what carrier %s reported", cards, carrier)
	}
	if late := a.late(ctx, now); late > scheduleLate {
		note("schedule-late", Critical, "look at the log and at the ledger's disk", "an order that is due waits for %s", late.Truncate(time.Second))
	}
	if err := a.selftest.last(); err != nil {
		wrong("selftest-failed", "look at the key's token; nothing that this key signs is released until it verifies", "the self test failed: %v", err)
	}
	for _, p := range []policy.Purpose{policy.PurposeMDoc, policy.PurposeSDJWT, policy.PurposeList} {
		if _, err := a.activeKey(p, now); err != nil {
			wrong("key-use-ending", "make a key for this purpose", "%s: %v", p, strings.TrimPrefix(err.Error(), "key.missing: "))
		}
	}
	if _, err := a.activeKey(policy.PurposeToken, now); err != nil && a.o.RA.URL != "" { // cards and locks go on
		note("key-use-ending", Critical, "nobody can enrol until there is one: sealctl propose key.generate", "%s: %v", policy.PurposeToken, strings.TrimPrefix(err.Error(), "key.missing: "))
	}
	a.public.mu.RLock()
	known := a.public.lists
	for _, id := range a.o.Ledger.ListsAt(now) {
		l, ok := known[id]
		if !ok {
			wrong("lock-not-published", "look at the log for why signing it fails", "list %s was never signed", id)
			continue
		}
		dirty := false
		if h, ok := a.o.Ledger.ListHead(id); ok {
			dirty = !h.Dirty.IsZero()
			if dirty && now.Sub(h.Dirty) > lateAfter {
				wrong("lock-not-published", "tell the loss-report desks; look at the token's workers and the log", "list %s has changes that are not published since %s", id, h.Dirty.Format(time.RFC3339))
			}
		}
		left, life := l.expires.Sub(now), l.expires.Sub(l.issued)
		if left <= 0 {
			wrong("list-expired", "verifiers refuse every card of this list: look at the token's workers and the log", "list %s expired at %s", id, l.expires.Format(time.RFC3339))
		} else if left < life*35/100 {
			note("list-ageing", Warning, "look at the token's workers and the log before it expires", "list %s was due for signing and expires at %s", id, l.expires.Format(time.RFC3339))
		}
		s.Lists = append(s.Lists, contract.ListStatus{ID: id, URI: l.uri, MediaType: l.media, Version: l.version, Issued: l.issued, Expires: l.expires, Bytes: l.size, Dirty: dirty})
	}
	a.public.mu.RUnlock()
	s.CRLExpires = a.lookAtCRLs(now, note)
	Urgent(s.Conditions)
	s.Ready = len(s.Problems) == 0
	return s
}

// lookAtCRLs notes what is wrong with revocation lists, and returns the nextUpdate of the one that ends first.
func (a *Authority) lookAtCRLs(now time.Time, note func(name, severity, do, format string, args ...any)) (first time.Time) {
	for _, name := range a.o.Ledger.CRLs() {
		const do = "look at the token of the CA's key and the log: a due CRL was not signed"
		o, ok := a.Public("crl/" + name + ".crl")
		if !ok {
			if err := a.crls.last(name); err != nil {
				note("crl-expiring", Warning, do, "CRL %s is not published: %v", name, err)
			}
			continue
		}
		if first.IsZero() || o.Expires.Before(first) {
			first = o.Expires
		}
		if left, life := o.Expires.Sub(now), o.Expires.Sub(o.Modified); left < life/10 {
			note("crl-expiring", Critical, do, "the nextUpdate of CRL %s is %s", name, o.Expires.Format(time.RFC3339))
		} else if left < life/4 {
			note("crl-expiring", Warning, do, "the nextUpdate of CRL %s is %s", name, o.Expires.Format(time.RFC3339))
		} else if err := a.crls.last(name); err != nil {
			note("crl-expiring", Warning, do, "the nextUpdate of CRL %s is %s, and its successor failed: %v", name, o.Expires.Format(time.RFC3339), err)
		}
	}
	return first
}

// clockAdvice is what to do about a clock that is not trusted.
func (a *Authority) clockAdvice(ctx context.Context) string {
	if a.ungoverned(ctx, officer.ClockAccept) != nil {
		return "repair the time source; then officers accept the clock: sealctl propose clock.accept"
	}
	return "repair the time source, stop the daemon, run `sealkeeperd accept clock`, start it"
}

// Urgent sorts conditions, the urgent first.
func Urgent(c []contract.Condition) {
	rank := map[string]int{Critical: 0, Warning: 1, Info: 2}
	slices.SortStableFunc(c, func(a, b contract.Condition) int { return cmp.Compare(rank[a.Severity], rank[b.Severity]) })
}

// urgency of something that ends: 30 days, 7 days, 1 day before.
func urgency(left time.Duration) string {
	switch {
	case left < day:
		return Critical
	case left < 7*day:
		return Warning
	case left < 30*day:
		return Info
	}
	return ""
}

// Expiring is the condition of a certificate that ends soon; soon is false while there is time.
func Expiring(name string, notAfter, now time.Time) (c contract.Condition, soon bool) {
	severity, do := urgency(notAfter.Sub(now)), "make its successor before that"
	if name == "tls-server" {
		do = "the daemon could not renew it: look at the log and the online token; no client can connect after that"
	}
	return contract.Condition{Name: "certificate-expiring", Severity: severity, What: fmt.Sprintf("the certificate of %s ends at %s", name, notAfter.UTC().Format(time.RFC3339)),
		Do: do}, severity != ""
}

// fillingFrom is how full a budget is when somebody should look: before anybody is refused.
const fillingFrom = 0.8

// budgetUse is a budget in the fuller of its windows, for the one that used most of it.
type budgetUse struct {
	policy.BudgetSpec
	window      string
	used, limit uint64
}

func (b budgetUse) ratio() float64 { return float64(b.used) / float64(b.limit) }

// limit of a budget, as officers raised it; 0: the bundle has none.
func (a *Authority) limit(budget string, window time.Duration, bundle uint64, now time.Time) uint64 {
	if bundle == 0 {
		return 0
	}
	return a.o.Ledger.Limit(budget, window, bundle, now)
}

func (a *Authority) budgets(now time.Time) (all []budgetUse) {
	for _, s := range a.rules().bundle.Budgets() {
		var most budgetUse
		for _, w := range []budgetUse{{s, "hour", a.o.Ledger.BudgetUse(s.ID, time.Hour, now), a.limit(s.ID, time.Hour, s.Hour, now)},
			{s, "day", a.o.Ledger.BudgetUse(s.ID, day, now), a.limit(s.ID, day, s.Day, now)}} {
			if w.limit > 0 && (most.limit == 0 || w.ratio() > most.ratio()) {
				most = w
			}
		}
		all = append(all, most)
	}
	return all
}

// look sets the gauges of what is a state, and makes counters that alerts watch exist before they count: a series that is born with its
// first event shows no increase.
func (a *Authority) look() {
	m := a.o.Metrics
	_, err := a.o.Guard.Trusted()
	m.ClockTrusted.Set(truth(err == nil))
	m.PolicyVersion.Set(float64(a.rules().bundle.Version()))
	for _, result := range []string{"activated", "refused"} {
		m.Activations.WithLabelValues(result)
	}
	for _, result := range []string{"taken", "refused"} {
		m.PhoneFeeds.WithLabelValues(result)
	}
	for _, what := range []string{"proposal", "approval", "rejection", "execution"} {
		for _, code := range loud {
			m.Officers.WithLabelValues(what, code) // so that the first one is an increase
		}
	}
	m.Stopped.Set(truth(a.o.Ledger.Stopped() != nil))
	now := a.o.Guard.ForLists()
	m.ScheduleLate.Set(a.late(context.Background(), now).Seconds())
	switch what, left, life := a.phonesProblem(now); {
	case life == 0:
		m.PhoneAsOf.Set(0)
		m.PhoneStatus.Set(math.Inf(1))
	case what != "":
		m.PhoneAsOf.Set(0)
		m.PhoneStatus.Set(0)
	default:
		m.PhoneAsOf.Set(float64(now.Add(left - life).Unix()))
		m.PhoneStatus.Set(float64(now.Add(left).Unix()))
	}
	m.SelftestOK.Set(truth(a.selftest.last() == nil))
	for _, h := range a.o.Signer.Health() {
		m.WorkersReady.WithLabelValues(h.Token).Set(float64(h.Ready))
		m.WorkersWanted.WithLabelValues(h.Token).Set(float64(h.Wanted))
		m.PINRefused.WithLabelValues(h.Token).Set(truth(h.PINRefused))
		m.OrphanKeys.WithLabelValues(h.Token).Set(float64(a.ring.on(h.Token)))
		for _, reason := range []string{"hung", "died", "quarantined", "session"} {
			m.WorkerRestarts.WithLabelValues(h.Token, reason)
		}
	}
	for _, k := range a.o.Ledger.Keys() {
		for _, result := range []string{"ok", "bad", "error"} {
			m.Signatures.WithLabelValues(k.ID, string(k.Purpose), result)
		}
		if k.State == ledger.KeyActive {
			ends := k.NotAfter
			if r, withdrawn := a.o.Ledger.Withdrawn(k.ID); withdrawn {
				ends = r.At
			}
			m.KeyUseEnds.WithLabelValues(k.ID).Set(float64(ends.Unix()))
			if used, limit := a.used(context.Background(), k); limit > 0 {
				m.KeyUsed.WithLabelValues(k.ID).Set(float64(used) / float64(limit))
			}
		} else {
			m.KeyUsed.DeleteLabelValues(k.ID)
			m.KeyUseEnds.DeleteLabelValues(k.ID)
			m.CertExpires.DeleteLabelValues(k.ID)
		}
	}
	a.lookAtClients(now)
	m.DeadEvents.Set(float64(a.o.Ledger.Dead()))
	holds := map[string]float64{"finding": 0, "standing": 0}
	for _, c := range a.o.Ledger.Campaigns() {
		switch {
		case c.Operation != ledger.CampaignHold || !c.Lifted.IsZero():
		case c.Found.IsZero():
			holds["finding"]++
		default:
			holds["standing"]++
		}
	}
	for state, n := range holds {
		m.Holds.WithLabelValues(state).Set(n)
	}
	m.HeldCards.Reset()
	for carrier, cards := range a.o.Ledger.HeldCards() {
		m.HeldCards.WithLabelValues(carrier).Set(float64(cards))
	}
	m.BudgetUsed.Reset() // another policy may have others
	for _, b := range a.budgets(a.o.Guard.ForLists()) {
		m.BudgetUsed.WithLabelValues(b.ID, b.Per).Set(b.ratio())
	}
	for lane := policy.LaneLock; lane <= policy.LaneBatch; lane++ {
		m.Shed.WithLabelValues(lane.String())
	}
	shown := a.o.Ledger.ListsAt(a.o.Guard.ForLists())
	for _, id := range shown {
		h, ok := a.o.Ledger.ListHead(id)
		since := 0.0
		if ok && !h.Dirty.IsZero() {
			since = float64(h.Dirty.Unix())
		}
		m.ListPending.WithLabelValues(id).Set(since)
	}
	// A list whose last card expired is not signed any more, and is nobody's alarm.
	for _, id := range a.gone(shown) {
		for _, g := range []interface{ DeleteLabelValues(...string) bool }{m.ListPending, m.ListVersion, m.ListBytes, m.ListIssued, m.ListExpires, m.ListUsed} {
			g.DeleteLabelValues(id)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// gone are the lists on the shelf that the ledger does not have signed any more.
func (a *Authority) gone(shown []string) (ids []string) {
	a.public.mu.RLock()
	defer a.public.mu.RUnlock()
	for id := range a.public.lists {
		if !slices.Contains(shown, id) {
			ids = append(ids, id)
		}
	}
	return ids
}
