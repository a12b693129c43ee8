package policy

import (
	"fmt"
	"slices"
	"time"

	"sealkeeper/evidence"
)

// Ids of what determines a decision. I: invariants in Go, which no bundle can switch off; D: typed data of the bundle. Cedar rules go by
// their ids in the bundle.
const (
	ruleFactsBound   = "I:facts"
	ruleOneDevice    = "I:one-device"
	ruleLocks        = "I:locks"
	ruleRefresh      = "I:refresh"
	ruleClosed       = "I:closed"
	ruleAck          = "I:acknowledgement"
	ruleAuthority    = "I:lock-authority"
	ruleListForm     = "I:list-form"
	ruleListTime     = "I:list-time"
	ruleListChange   = "I:list-changes"
	ruleListRevoked  = "I:revoked-is-final"
	ruleCertProfile  = "I:cert-profile"
	ruleCertValidity = "I:cert-validity"
	ruleCRLTime      = "I:crl-time"
	ruleCRLEntries   = "I:crl-entries"
	ruleSelftest     = "I:selftest"
	ruleEnrolment    = "I:enrolment"

	// RuleLocks is that of what stands against a card.
	RuleLocks = ruleLocks
	// RuleEvidence is that of what is not true, which no bundle is asked about.
	RuleEvidence = "I:evidence"

	ruleBudget    = "D:budget"
	ruleMethod    = "D:method"
	rulePhase     = "D:phase"
	ruleClient    = "D:client"
	ruleType      = "D:type"
	ruleEvidence  = "D:evidence"
	ruleCopies    = "D:copies"
	ruleClaims    = "D:claims"
	ruleRefreshAt = "D:refresh-from"
	ruleReasons   = "D:reasons"
	ruleReissue   = "D:reissue"
	ruleRenewal   = "D:renewal"
	ruleSchedule  = "D:schedule"
)

var purposeOf = map[Format]Purpose{MDoc: PurposeMDoc, SDJWT: PurposeSDJWT}

// issueRules are what every allowed issue has passed, before the permits that allowed it.
var issueRules = []string{ruleFactsBound, ruleOneDevice, ruleLocks, ruleClient, ruleType, ruleEvidence, ruleCopies, ruleClaims}

// decision names the bundle it was made with; b may be nil for the appliance's own decisions.
func (b *Bundle) decision(r Result, rules ...string) Decision {
	d := Decision{Result: r, Rules: rules}
	if b != nil {
		d.Policy, d.Version = b.hash, b.version
	}
	return d
}

func (b *Bundle) denied(rule, code, detail string) Decision {
	d := b.decision(Denied, rule)
	d.Code, d.Detail = code, detail
	return d
}

// failed: the facts can't be what a conductor without a fault would bring. That is never the client's doing, and never allowed.
func (b *Bundle) failed(detail string) Decision {
	d := b.decision(Failed, ruleFactsBound)
	d.Code, d.Detail = "policy.facts", detail
	return d
}

func (b *Bundle) refused(r *refusal) Decision {
	d := b.denied(r.rule, r.code, r.detail)
	d.Missing = r.missing
	return d
}

// facts are evidence.Verified laid open, which is all that a decision needs of it.
type facts struct {
	valid bool
	about evidence.Bound
	keys  []evidence.Key
	evidence.Facts
	burns  []evidence.Burn
	claims *recorded // of a decision that is made again; nil: the request has them
}

// DecideIssue decides an issue or refresh. The approval is nil unless the decision's result is Allowed.
//
// The instant must be the one that the evidence was verified at: facts that were true at another instant are no facts.
func (b *Bundle) DecideIssue(v *evidence.Verified, r IssueRequest, s Slot, at time.Time) (*Approval, Decision) {
	var f facts
	if v.Valid() {
		f = facts{valid: true, about: v.About(), keys: v.Keys(), Facts: v.Facts(), burns: v.Burns()}
	}
	return b.decideIssue(f, r, s, at)
}

func (b *Bundle) decideIssue(f facts, r IssueRequest, s Slot, at time.Time) (*Approval, Decision) {
	if b == nil {
		return nil, b.failed("there is no policy bundle")
	}
	a, d := b.judgeIssue(f, r, s, at)
	if f.valid {
		d.Identity = f.Identity
	}
	if f.claims == nil && d.Result != Failed {
		d.Record = b.recordIssue(f, r, s, at, a)
	}
	if d.Result != Allowed {
		return nil, d
	}
	a.decision = d
	return a, d
}

// judgeIssue: invariants, then data, then rules. The order is part of what is promised: a bundle is asked only about requests that no
// invariant refuses, and rules only about requests that are complete.
func (b *Bundle) judgeIssue(f facts, r IssueRequest, s Slot, at time.Time) (*Approval, Decision) {
	c, known := b.client(r.Client)
	switch {
	case !f.valid || len(f.keys) == 0:
		return nil, b.failed("there is no verified evidence")
	case f.about.Client != r.Client || f.about.DocumentType != r.DocumentType || at.IsZero() || !f.about.At.Equal(at):
		return nil, b.failed("the evidence was verified for another client, document type or instant")
	case known && f.about.Audience != c.Issuer:
		return nil, b.failed("the evidence was verified for another issuer than the client's")
	case f.about.Subject != [32]byte{} && f.about.Subject != r.Subject || len(f.Statements) > 0 && f.about.Subject == [32]byte{}:
		return nil, b.failed("the evidence was verified for another subject")
	case r.Subject == Pseudonym{}:
		return nil, b.failed("there is no subject")
	case r.Operation != OpIssue && r.Operation != OpRefresh:
		return nil, b.failed("the operation is neither issue nor refresh")
	}

	t := b.types[r.DocumentType] // nil: unknown, refused once the invariants hold
	if r := oneDevice(f, r, s, t); r != nil {
		return nil, b.refused(r)
	}

	switch {
	case !known:
		return nil, b.denied(ruleClient, "client.forbidden", "the policy does not know this client")
	case t == nil:
		return nil, b.denied(ruleType, "type.unknown", "the policy has no such document type")
	case c.Role != "issuance" || !slices.Contains(c.May[r.DocumentType], r.Operation):
		return nil, b.denied(ruleClient, "client.forbidden", fmt.Sprintf("client %s may not %s %s", c.ID, r.Operation, t.name))
	}
	formats, refusal := t.choose(r.Formats)
	if refusal == nil {
		refusal = t.judgeEvidence(f)
	}
	if refusal == nil && r.Operation == OpRefresh {
		refusal = t.judgeRefresh(s, at)
	}
	if refusal == nil {
		refusal = t.judgeMethod(c, f, r, at)
	}
	if refusal == nil {
		refusal = t.judgeLife(f, r, s)
	}
	var phase, latch string
	if refusal == nil {
		phase, latch, refusal = t.judgePhase(c, f, r, at)
	}
	var p asserted
	if refusal == nil {
		p, refusal = t.claimsSay(f, r, at)
	}
	if refusal != nil {
		return nil, b.refused(refusal)
	}

	result, code, detail, ids := b.rules.judge(ruleFacts{client: c.ID, asker: c, operation: r.Operation, typ: t.name, at: t.notBefore(at, r.Latched), replace: r.Replace,
		bound: s.Bound, copies: len(f.keys), formats: formats, evidence: f.Kinds, storage: f.KeyStorage, user: f.UserAuthentication,
		issuer: f.AttestationIssuer, identity: f.Identity, app: f.App, locks: s.Locks, age: p.age})
	d := b.decision(result, ids...)
	if d.Code, d.Detail = code, detail; result != Allowed {
		return nil, d
	}
	d.Rules = append(make([]string, 0, len(issueRules)+2+len(ids)), issueRules...)
	if t.methods != nil {
		d.Rules = append(d.Rules, ruleMethod+"/"+r.Method)
	}
	if phase != "" {
		d.Rules = append(d.Rules, rulePhase+"/"+phase)
	}
	d.Rules = append(d.Rules, ids...)

	lifetime := t.lifetime
	if !p.expiry.IsZero() {
		lifetime = min(lifetime, p.expiry.Sub(at).Truncate(time.Second))
	}
	if lifetime < time.Second {
		return nil, b.denied(ruleClaims, "claims.value", "claim "+t.expiry+" is past: the document has expired")
	}
	if refusal := t.guaranteed(f, at.Add(lifetime)); refusal != nil {
		return nil, b.refused(refusal)
	}
	a := &Approval{kind: KindIssue, decision: d, client: c.ID, at: at, lane: LaneIssue, age: p.age,
		conditions: Conditions{Epoch: s.Epoch, Burns: slices.Clone(f.burns), Charges: t.charges(c, f, phase), Latch: latch},
		issue: Issue{Operation: r.Operation, DocumentType: t.name, Subject: r.Subject, Replace: r.Replace, Formats: formats,
			Keys: slices.Clone(f.keys), Values: p.values, DocType: t.docType, VCT: t.vct, Issuer: t.issuer, Lifetime: lifetime,
			TimeGrain: t.grain, Decoys: t.decoys, AckWithin: t.ackWithin, WaitRevoked: t.waitRevoked, Line: t.line(f, r.Method)}}
	if len(formats)*len(f.keys) > 4 { // a batch must not hold up the person at the counter
		a.lane = LaneBatch
	}
	for _, format := range formats {
		a.purposes = append(a.purposes, purposeOf[format])
	}
	return a, d
}

// oneDevice holds the invariants of the slot: at most one phone has the card, a refresh stays with it, and a locked card brings nothing new
// to the phone it is locked on. t may be nil.
func oneDevice(f facts, r IssueRequest, s Slot, t *docType) *refusal {
	bound := func(k evidence.Key) bool { return slices.Contains(s.Keys, k.Thumbprint) }
	if s.Closed != "" {
		return refuse(ruleClosed, "subject.closed", "this person has no card any more: nothing is issued")
	}
	if slices.ContainsFunc(s.Locks, func(l Lock) bool { return l.Reason == MassHold }) {
		return refuse(ruleLocks, "card.held", "the security officers hold this card, with many others: nothing is issued until that is lifted")
	}
	if r.Operation == OpRefresh {
		foreign := func(k evidence.Key) bool { return !bound(k) }
		switch {
		case r.Replace:
			return refuse(ruleRefresh, "refresh.replace", "a refresh never replaces a phone: issue with replace instead")
		case !s.Bound:
			return refuse(ruleOneDevice, "slot.empty", "no phone has this card: issue it first")
		case len(s.Locks) > 0:
			return refuse(ruleLocks, "card.locked", "the card is locked: it can be refreshed once every lock is removed")
		case t != nil && t.refresh == nil:
			return refuse(ruleRefresh, "refresh.forbidden", "credentials of this type are not refreshed: issue them anew")
		case t != nil && t.refresh.SameKey && slices.ContainsFunc(f.keys, foreign):
			return refuse(ruleRefresh, "refresh.other_device", "the keys are not those of the phone that has the card: issue with replace instead")
		case t != nil && t.refresh.NewKeys && slices.ContainsFunc(f.keys, bound):
			return refuse(ruleRefresh, "refresh.used_key", "the phone had credentials for a key before, and a key of this type has them once: make new keys")
		case f.Reused && (t == nil || !t.refresh.ReuseAttestation || slices.ContainsFunc(f.keys, foreign)):
			return refuse(ruleRefresh, "refresh.reused_attestation", "an attestation of before says nothing of keys that the phone did not have then: attest them with this nonce")
		// New keys are the bound phone's if a key that it had proves itself with them: the one of the proof, or one beside it.
		case foreign(f.keys[0]) && !slices.Contains(s.Keys, f.Previous):
			return refuse(ruleRefresh, "refresh.other_device", "no key that the phone had before proves that it is still that phone: send previous_proof, or issue with replace")
		}
		return nil
	}
	if f.Reused {
		return refuse(ruleRefresh, "refresh.reused_attestation", "an attestation that was made for another request is none for an issue")
	}
	if slices.ContainsFunc(s.Locks, func(l Lock) bool { return !slices.Contains(deviceLocks, l.Reason) }) {
		return refuse(ruleLocks, "card.locked", "the card is locked for a reason that stays with the person: nothing is issued until it is removed")
	}
	switch {
	case !s.Bound || r.Resuming: // resuming: the slot is held by this very request
		return nil
	case !r.Replace:
		return refuse(ruleOneDevice, "slot.occupied", "another phone has this card: issue with replace to move it")
	case slices.ContainsFunc(f.keys, bound):
		return refuse(ruleOneDevice, "slot.same_device", "this phone has the card already: refresh instead")
	}
	return nil
}

// choose checks the formats that were asked for; none means all of the type.
func (t *docType) choose(asked []Format) ([]Format, *refusal) {
	if len(asked) == 0 {
		return slices.Clone(t.formats), nil
	}
	for i, f := range asked {
		if !slices.Contains(t.formats, f) || slices.Contains(asked[:i], f) {
			return nil, refuse(ruleType, "format.unavailable", "type %s comes as %v, each once: ask for these or for none in particular", t.name, t.formats)
		}
	}
	return slices.Clone(asked), nil
}

func (t *docType) judgeEvidence(f facts) *refusal {
	var missing []string
	for _, k := range t.evidence.Required {
		if !slices.Contains(f.Kinds, k) {
			missing = append(missing, k)
		}
	}
	if missing != nil {
		r := refuse(ruleEvidence, "evidence.missing", "evidence of %d required kinds is missing", len(missing))
		r.missing = missing
		return r
	}
	for _, level := range []struct {
		what           string
		wanted, proven []string
	}{{"key_storage", t.evidence.KeyStorage, f.KeyStorage}, {"user_authentication", t.evidence.UserAuthentication, f.UserAuthentication}} {
		if len(level.wanted) > 0 && !slices.ContainsFunc(level.proven, func(l string) bool { return slices.Contains(level.wanted, l) }) {
			r := refuse(ruleEvidence, "evidence.level", "the attested %s is none of %v", level.what, level.wanted)
			r.missing = []string{level.what}
			return r
		}
	}
	if r := t.judgePhone(f); r != nil {
		return r
	}
	if len(f.keys) > t.maxCopies {
		return refuse(ruleCopies, "copies.too_many", "%d keys are attested: type %s comes in at most %d copies", len(f.keys), t.name, t.maxCopies)
	}
	return nil
}

// judgeRefresh: early only for a phone that has nothing left in a format, as after a lock, which ends every MSO.
func (t *docType) judgeRefresh(s Slot, at time.Time) *refusal {
	lost := s.Live == 0 || len(s.Renew) > 0 || s.Outdated == s.Live || (t.docType != "" && s.MSOs == 0)
	if from := s.Newest.Add(t.refreshFrom); !lost && at.Before(from) {
		return refuse(ruleRefreshAt, "refresh.early", "the newest credential is fresh enough: refresh from %s on", stamp(from))
	}
	return nil
}

// DecideChange decides a lock, unlock or revocation. No rule is asked, and no budget but of what carriers lift: a loss report must get through.
//
// Reports come late, twice and out of order, so what has nothing to do is allowed with the effect "none": the answer must not depend on
// which report was first.
func (b *Bundle) DecideChange(r ChangeRequest, s Slot, at time.Time) (*Approval, Decision) {
	a, d := b.judgeChange(r, s, at)
	if d.Result != Failed {
		d.Record = b.recordChange(r, s, at)
	}
	if a != nil {
		a.decision = d
	}
	return a, d
}

func (b *Bundle) judgeChange(r ChangeRequest, s Slot, at time.Time) (*Approval, Decision) {
	switch {
	case b == nil:
		return nil, b.failed("there is no policy bundle")
	case r.Subject == Pseudonym{} || at.IsZero():
		return nil, b.failed("there is no subject or no instant")
	case r.Operation != OpLock && r.Operation != OpUnlock && r.Operation != OpRevoke:
		return nil, b.failed("the operation is not lock, unlock or revoke")
	}
	c, d := b.may(r.Client, r.DocumentType, r.Operation)
	if d.Result != Allowed {
		return nil, d
	}
	reasons := b.lockClasses
	if r.Operation == OpRevoke {
		reasons = b.revokeClasses
	}
	higher := r.Operation == OpUnlock && slices.Contains(b.unlockClasses[r.Reason], c.Class)
	if refused := b.reason(c, reasons, r.Operation, r.Reason); refused != nil && !higher {
		return nil, b.refused(refused)
	}

	change := Change{Operation: r.Operation, DocumentType: r.DocumentType, Subject: r.Subject, Device: r.Device, Effect: "apply"}
	rules := []string{ruleClient, ruleReasons}
	if r.Operation == OpRevoke {
		change.Reason, change.Close = r.Reason, b.closes(r.Reason)
		if change.Close && r.Device != "" {
			return nil, b.denied(ruleReasons, "reason.whole_person", "this reason is about the person and not about a phone: name no device")
		}
	} else {
		change.Lock = c.lock(r.Reason)
		rules = append(rules, ruleAuthority)
	}
	if r.Card != "" && (r.Reason != "card_lost" || r.Operation == OpRevoke || !isLevel(r.Card)) {
		return nil, b.denied(ruleReasons, "reason.card", "a plastic card is named when it is lost or found (card_lost), by a word of at most 64 letters, digits and _.:+-")
	}
	change.Card = r.Card
	there := slices.Contains(s.Locks, change.Lock)
	if higher {
		change.Any = true
		there = slices.ContainsFunc(s.Locks, func(l Lock) bool { return l.Reason == r.Reason })
	}
	switch {
	case r.Device != "" && r.Device != s.Device: // a late event about a phone that no longer has the card
		change.Effect = "none"
	case s.Closed != "": // nothing is there to be locked or revoked, and never will be
		change.Effect = "none"
	case r.Operation == OpRevoke && !s.Bound && !change.Close:
		change.Effect = "none"
	case r.Operation == OpLock && there:
		if !slices.Contains(s.Scheduled, change.Lock) && (r.Card == "" || slices.Contains(s.Stopped, r.Card)) { // one that an order holds is to stay after the order's end, and one that waits for a decision is confirmed
			change.Effect = "none"
		}
	case r.Operation == OpLock && !s.Bound && slices.Contains(deviceLocks, r.Reason):
		return nil, b.denied(ruleOneDevice, "slot.empty", "no phone has this card, so there is nothing that a lost phone could lock")
	case r.Operation == OpUnlock && !there:
		if slices.ContainsFunc(s.Locks, func(l Lock) bool { return l.Reason == r.Reason }) {
			return nil, b.denied(ruleAuthority, "lock.other_authority", "another authority added this lock and alone may remove it")
		}
		if !slices.Contains(s.Stopped, r.Card) { // the lock may have gone with another card that was found
			change.Effect = "none"
		}
	}
	d.Rules = rules
	conditions := Conditions{Epoch: s.Epoch}
	if r.Operation == OpUnlock && change.Effect == "apply" {
		conditions.Charges = c.unlocking()
	}
	return &Approval{kind: KindChange, decision: d, client: c.ID, at: at, lane: LaneLock, conditions: conditions, other: change}, d
}

// lock is a reason as this client adds it.
func (c client) lock(reason string) Lock {
	l := Lock{Reason: reason, Class: c.Class}
	if c.Role == "carrier" {
		l.By = c.speaks()
	}
	return l
}

// UnlockBudget counts what carriers lift in an hour. No bundle has a budget of this name: it is no id.
const UnlockBudget = "(unlocks)"

func (c client) unlocking() []Charge {
	if c.Role != "carrier" {
		return nil
	}
	return []Charge{{Budget: UnlockBudget, Window: time.Hour, Limit: c.unlocks, Whom: c.speaks()}}
}

// may judges client × operation × type by the bundle's data.
func (b *Bundle) may(id, documentType string, ops ...Operation) (client, Decision) {
	if b == nil {
		return client{}, b.failed("there is no policy bundle")
	}
	c, known := b.client(id)
	switch {
	case !known:
		return c, b.denied(ruleClient, "client.forbidden", "the policy does not know this client")
	case b.types[documentType] == nil:
		return c, b.denied(ruleType, "type.unknown", "the policy has no such document type")
	}
	for _, op := range ops {
		if slices.Contains(c.May[documentType], op) && slices.Contains(roles[c.Role], op) {
			return c, b.decision(Allowed, ruleClient)
		}
	}
	return c, b.denied(ruleClient, "client.forbidden", fmt.Sprintf("client %s may not %s %s", c.ID, ops[0], documentType))
}

// DecideRead decides whether a client may read a holder's state (nothing is signed or changed, so there is no approval).
func (b *Bundle) DecideRead(client, documentType string, at time.Time) Decision {
	_, d := b.may(client, documentType, OpState)
	return d
}

// DecideNonce decides whether a client may have a nonce: whoever may issue or refresh the type.
func (b *Bundle) DecideNonce(client, documentType string) Decision {
	_, d := b.may(client, documentType, OpIssue, OpRefresh)
	return d
}
