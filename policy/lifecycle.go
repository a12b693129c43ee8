package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/evidence"
)

// LifecycleSpec is what a jurisdiction makes of a card's life where it is free to.
type LifecycleSpec struct {
	// AttributeChange: what becomes of credentials when the register's data change. "renew": they stay, and the card needs to be renewed (Korea);
	// "revoke": they are revoked (Europe). Default renew.
	AttributeChange string `json:"attribute_change,omitempty"`
	// ShowRenew gives SD-JWT VCs that need to be renewed the status 3 (application-specific) of their list; otherwise they stay valid.
	ShowRenew bool `json:"show_renew,omitzero"`
	// Reissue names, for each lock that ends with the phone, the methods by which a new phone may get the card while it stands. A reason
	// that is not named leaves all methods; an empty list leaves none. Locks that stay with the person always block.
	Reissue map[string][]string `json:"reissue,omitempty"`
	// Renewal names, for each reason to renew, the methods that heed it. A reason that is not named is heeded by all.
	Renewal map[string][]string `json:"renewal,omitempty"`
	// AcknowledgeWithin is how long a phone has to show that it got its credentials, before they are revoked: at most
	// 24h, as long as an answer can be asked for again; none: for ever.
	AcknowledgeWithin string `json:"acknowledge_within,omitempty"`
}

const maxAhead = 10 * 366 * 24 * time.Hour // of orders

func (c *checker) lifecycle(at jsontext.Pointer, t *docType, s LifecycleSpec) {
	t.life = s
	if s.AttributeChange != "" && s.AttributeChange != "renew" && s.AttributeChange != "revoke" {
		c.wrong(at.AppendToken("attribute_change"), "%q is neither renew nor revoke", s.AttributeChange)
	}
	if s.AcknowledgeWithin != "" {
		t.ackWithin = c.duration(at.AppendToken("acknowledge_within"), "acknowledge_within", s.AcknowledgeWithin, "", time.Minute, 24*time.Hour)
	}
	methods := func(member string, by map[string][]string, op Operation) {
		for _, reason := range slices.Sorted(maps.Keys(by)) {
			at := at.AppendToken(jsontext.Pointer(member).LastToken()).AppendToken(reason)
			if op == OpIssue && !slices.Contains(deviceLocks, reason) {
				c.wrong(at, "%q is not one of %s: what stays with the person blocks in any case", reason, list(deviceLocks))
			} else if !nameForm.MatchString(reason) {
				c.wrong(at, "reason %q is not a name: use lower case letters, digits and '_'", reason)
			}
			for i, m := range by[reason] {
				if t.methods[m] == nil || op == OpIssue && !slices.Contains(t.methods[m].operations, op) {
					c.wrong(pointer(at, i), "type %s has no method %q to %s by", t.name, m, op)
				}
			}
		}
	}
	methods("/reissue", s.Reissue, OpIssue)
	methods("/renewal", s.Renewal, OpRefresh)
}

// judgeLife holds the method against why the card is locked or has to be renewed, and the register's statement against what is known.
func (t *docType) judgeLife(f facts, r IssueRequest, s Slot) *refusal {
	if r.Operation == OpIssue && r.Replace {
		for _, l := range s.Locks {
			if methods, named := t.life.Reissue[l.Reason]; named && !slices.Contains(methods, r.Method) {
				return refuse(ruleReissue, "reissue.method", "while the card is locked by %s, a new phone gets it by one of: %s", l.Reason, orNone(methods))
			}
		}
	}
	for _, reason := range s.Renew {
		if methods, named := t.life.Renewal[reason]; named && !slices.Contains(methods, r.Method) {
			return refuse(ruleRenewal, "renewal.method", "the card has to be renewed because of %s, which is done by one of: %s", reason, orNone(methods))
		}
	}
	if c := f.statement(evidence.KindChipRead); c != nil && slices.Contains(s.Stopped, c.ChipRead.Card) {
		return refuse(ruleLocks, "card.stopped", "this plastic card was reported lost: its chip gets nobody a card")
	}
	if m := f.statement(evidence.KindRegistryMatch); m != nil && m.RegistryMatch.Epoch < s.Attributes {
		return refuse(ruleRenewal, "evidence.registry_match_outdated", "the register has changed the person's data since this statement: ask it again")
	}
	return nil
}

func orNone(methods []string) string {
	if len(methods) == 0 {
		return "none"
	}
	return strings.Join(methods, ", ")
}

// RenewRequest is the register's word that a person's data have changed, or another reason to make a card anew.
type RenewRequest struct {
	Client       string
	DocumentType string
	Subject      Pseudonym
	Reasons      []string
	Attributes   uint64 // the register's count of changes; 0: the reason is no change of data
}

// Renewal is what is made of it.
type Renewal struct {
	Reasons    []string
	Attributes uint64
	Revoke     bool
	Show       bool
}

// DecideRenew decides that a card has to be made anew, or is revoked where that is the rule. Nothing stands against it but who says so.
func (b *Bundle) DecideRenew(r RenewRequest, s Slot, at time.Time) (*Approval, Decision) {
	c, d := b.changing(r.Client, r.DocumentType, r.Subject, at, OpRenew)
	if d.Result != Allowed {
		return nil, d
	}
	if len(r.Reasons) == 0 {
		return nil, b.denied(ruleReasons, "reason.unknown", "a renewal has at least one reason")
	}
	for _, reason := range r.Reasons {
		if refused := b.reason(c, b.renewClasses, OpRenew, reason); refused != nil {
			return nil, b.refused(refused)
		}
	}
	t := b.types[r.DocumentType]
	reasons := slices.Compact(slices.Sorted(slices.Values(r.Reasons)))
	change := Change{Operation: OpRenew, DocumentType: t.name, Subject: r.Subject, Effect: "apply", Reason: strings.Join(reasons, ","),
		Renewal: Renewal{Reasons: reasons, Attributes: r.Attributes, Revoke: r.Attributes > 0 && t.life.AttributeChange == "revoke", Show: t.life.ShowRenew}}
	if s.Closed != "" || r.Attributes != 0 && r.Attributes <= s.Attributes {
		change.Effect = "none"
	}
	return b.change(c, d, change, s, at, ruleClient, ruleReasons)
}

// Order is something to happen to a card at an instant: a lock from From until To (zero: until it is removed), or closing.
type Order struct {
	ID    string // its authority's own name of it
	Class string `json:",omitzero"`
	Lock  Lock   `json:",omitzero"`
	Close string `json:",omitzero"` // reason
	From  time.Time
	To    time.Time `json:",omitzero"`
}

// OrderRequest asks for one.
type OrderRequest struct {
	Client       string
	DocumentType string
	Subject      Pseudonym
	ID           string
	Operation    Operation // OpLock or OpRevoke, the latter for a reason that closes
	Reason       string
	From, To     time.Time
	Replaces     string // an order of the same authority, whose place it takes
}

// DecideOrder decides a lock or a closing that is to come. Whoever may do it now may order it.
func (b *Bundle) DecideOrder(r OrderRequest, s Slot, at time.Time) (*Approval, Decision) {
	if b != nil && r.Operation != OpLock && r.Operation != OpRevoke {
		return nil, b.failed("only a lock or a revocation can be ordered")
	}
	c, d := b.changing(r.Client, r.DocumentType, r.Subject, at, r.Operation)
	if d.Result != Allowed {
		return nil, d
	}
	o := Order{ID: r.ID, Class: c.Class, From: r.From.UTC().Truncate(time.Second), To: r.To.UTC().Truncate(time.Second)}
	classes := b.lockClasses
	if r.Operation == OpRevoke {
		classes, o.Close = b.revokeClasses, r.Reason
	} else {
		o.Lock = c.lock(r.Reason)
	}
	if refused := b.reason(c, classes, r.Operation, r.Reason); refused != nil {
		return nil, b.refused(refused)
	}
	known := slices.IndexFunc(s.Orders, func(k Order) bool { return k.ID == r.ID })
	replaced := slices.IndexFunc(s.Orders, func(k Order) bool { return k.ID == r.Replaces })
	effect := "apply"
	switch {
	case s.Closed != "":
		return nil, b.denied(ruleClosed, "subject.closed", "this person has no card any more: there is nothing to order")
	case o.Lock != (Lock{}) && slices.Contains(deviceLocks, r.Reason):
		return nil, b.denied(ruleSchedule, "schedule.reason", "a lock that ends with the phone can't be ordered for later")
	case o.Close != "" && !b.closes(r.Reason):
		return nil, b.denied(ruleSchedule, "schedule.reason", "only a revocation for a reason that closes can be ordered for later")
	case known >= 0 && s.Orders[known] == o && r.Replaces != o.ID:
		effect = "none" // told twice
	case known >= 0:
		return nil, b.denied(ruleSchedule, "schedule.known", "there is an order of this id that says something else: give the new one another id, and name the old one as replaced")
	case r.Replaces != "" && replaced < 0:
		return nil, b.denied(ruleSchedule, "schedule.unknown", "the order that is to be replaced is over, or never was")
	case replaced >= 0 && !c.made(s.Orders[replaced]):
		return nil, b.denied(ruleAuthority, "schedule.other_authority", "another authority made the order and alone may change it")
	case r.Replaces == "" && len(s.Orders) >= MaxOrders:
		return nil, b.denied(ruleSchedule, "schedule.full", fmt.Sprintf("at most %d orders wait for one card", MaxOrders))
	case r.From.IsZero() || r.From.Before(at.Add(-24*time.Hour)) || r.From.After(at.Add(maxAhead)):
		return nil, b.denied(ruleSchedule, "schedule.time", "an order begins between a day ago and ten years from now")
	case !r.To.IsZero() && (o.Close != "" || !o.To.After(o.From) || !r.To.After(at) || r.To.After(at.Add(maxAhead))):
		return nil, b.denied(ruleSchedule, "schedule.time", "a lock ends after it begins and within ten years, and a closing has no end")
	}
	return b.change(c, d, Change{Operation: OpOrder, DocumentType: r.DocumentType, Subject: r.Subject, Lock: o.Lock, Reason: r.Reason, Order: o,
		Replaces: r.Replaces, Effect: effect}, s, at, ruleClient, ruleReasons, ruleSchedule)
}

// made says whether an order is this client's to change.
func (c client) made(o Order) bool {
	return o.Class == c.Class && (o.Lock == Lock{} || o.Lock == c.lock(o.Lock.Reason))
}

// MaxOrders that wait for one card.
const MaxOrders = 8

// CancelRequest takes an order back; what it locked meanwhile is unlocked.
type CancelRequest struct {
	Client       string
	DocumentType string
	Subject      Pseudonym
	ID           string
}

// DecideCancel decides that an order is taken back. One that is over, or never was, is no error.
func (b *Bundle) DecideCancel(r CancelRequest, s Slot, at time.Time) (*Approval, Decision) {
	c, d := b.changing(r.Client, r.DocumentType, r.Subject, at, OpLock, OpRevoke)
	if d.Result != Allowed {
		return nil, d
	}
	change := Change{Operation: OpCancel, DocumentType: r.DocumentType, Subject: r.Subject, Order: Order{ID: r.ID}, Effect: "none"}
	if i := slices.IndexFunc(s.Orders, func(k Order) bool { return k.ID == r.ID }); i >= 0 {
		if !c.made(s.Orders[i]) {
			return nil, b.denied(ruleAuthority, "schedule.other_authority", "another authority made the order and alone may take it back")
		}
		change.Order, change.Lock, change.Effect = s.Orders[i], s.Orders[i].Lock, "apply"
	}
	return b.change(c, d, change, s, at, ruleClient, ruleSchedule)
}

// AckRequest is a phone's word that it has its credentials.
type AckRequest struct {
	Client       string
	DocumentType string
	Subject      Pseudonym
	Issuance     string
	Keys         [][32]byte // of the issuance's credentials that are neither revoked nor expired
}

// DecideAck decides an acknowledgement: the phone showed that it has one of the keys that the credentials are bound to.
func (b *Bundle) DecideAck(p *evidence.Possession, r AckRequest, s Slot, at time.Time) (*Approval, Decision) {
	c, d := b.may(r.Client, r.DocumentType, OpIssue, OpRefresh)
	switch {
	case d.Result != Allowed:
		return nil, d
	case !p.Valid() || p.About().Client != r.Client || p.About().DocumentType != r.DocumentType || !p.About().At.Equal(at) || r.Subject == Pseudonym{}:
		return nil, b.failed("the proof was verified for something else")
	case len(r.Keys) == 0:
		return nil, b.denied(ruleAck, "acknowledgement.unknown", "there are no credentials of this issuance, or none that are still good")
	case !slices.Contains(r.Keys, p.Thumbprint()):
		return nil, b.denied(ruleAck, "acknowledgement.key", "the proof's key is not one that the credentials are bound to")
	}
	a, d := b.change(c, d, Change{Operation: OpAck, DocumentType: r.DocumentType, Subject: r.Subject, Issuance: r.Issuance, Effect: "apply"}, s, at, ruleClient, ruleAck)
	a.lane, a.conditions.Burns = LaneBatch, p.Burns()
	return a, d
}

// changing is what every change begins with.
func (b *Bundle) changing(id, documentType string, subject Pseudonym, at time.Time, ops ...Operation) (client, Decision) {
	if b != nil && (subject == Pseudonym{} || at.IsZero()) {
		return client{}, b.failed("there is no subject or no instant")
	}
	return b.may(id, documentType, ops...)
}

func (b *Bundle) reason(c client, reasons map[string][]string, op Operation, reason string) *refusal {
	if allowed, known := reasons[reason]; !known {
		return refuse(ruleReasons, "reason.unknown", "the policy knows no such reason to %s", op)
	} else if !slices.Contains(allowed, c.Class) {
		return refuse(ruleReasons, "reason.forbidden", "authorities of class %s may not %s for %s", c.Class, op, reason)
	}
	return nil
}

func (b *Bundle) change(c client, d Decision, change Change, s Slot, at time.Time, rules ...string) (*Approval, Decision) {
	d.Rules = rules
	return &Approval{kind: KindChange, decision: d, client: c.ID, at: at, lane: LaneLock, conditions: Conditions{Epoch: s.Epoch}, other: change}, d
}

// closes reports whether revoking for a reason closes the subject.
func (b *Bundle) closes(reason string) bool { return slices.Contains(b.closing, reason) }
