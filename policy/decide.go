package policy

import (
	"errors"
	"time"

	"sealkeeper/evidence"
)

// Bundle is a parsed, validated, immutable policy bundle.
type Bundle struct {
	hash    Hash
	version uint64
}

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

// Ids of invariants, as decisions name them. No bundle can switch one off.
const (
	ruleListForm     = "I:list-form"
	ruleListTime     = "I:list-time"
	ruleListChange   = "I:list-changes"
	ruleListRevoked  = "I:revoked-is-final"
	ruleCertProfile  = "I:cert-profile"
	ruleCertValidity = "I:cert-validity"
	ruleCRLTime      = "I:crl-time"
	ruleCRLEntries   = "I:crl-entries"
	ruleSelftest     = "I:selftest"
)

var errNotBuilt = errors.New("not built")

// Parse reads a bundle file. Errors name the file and line.
func Parse(file string, data []byte) (*Bundle, error) { return nil, errNotBuilt }

// Hash of the bundle's bytes.
func (b *Bundle) Hash() Hash { return b.hash }

// Version of the bundle; grows strictly.
func (b *Bundle) Version() uint64 { return b.version }

// ClientInfo is what the bundle says of a client.
type ClientInfo struct {
	ID     string
	Role   string // "issuance", "carrier", "desk", "operator", "auditor"; must equal the role in the client's certificate
	Class  string // class of authority for locks
	Issuer string // credential issuer identifier: the aud that proofs must have
	May    map[string][]Operation
}

// Client looks a client up; ok is false for unknown ones.
func (b *Bundle) Client(id string) (ClientInfo, bool) { return ClientInfo{}, false }

// Clients lists all, sorted by id.
func (b *Bundle) Clients() []ClientInfo { return nil }

// TypeInfo is what the edges need to know of a credential type.
type TypeInfo struct {
	Name    string
	Formats []Format
	DocType string
	VCT     string
}

// Types lists the credential types, sorted by name.
func (b *Bundle) Types() []TypeInfo { return nil }

// DecideIssue decides an issue or refresh. The approval is nil unless the decision's result is Allowed.
func (b *Bundle) DecideIssue(v *evidence.Verified, r IssueRequest, s Slot, at time.Time) (*Approval, Decision) {
	return nil, Decision{}
}

// DecideChange decides a lock, unlock or revocation.
func (b *Bundle) DecideChange(r ChangeRequest, s Slot, at time.Time) (*Approval, Decision) {
	return nil, Decision{}
}

// DecideRead decides whether a client may read a holder's state (nothing is signed or changed, so there is no approval).
func (b *Bundle) DecideRead(client, documentType string, at time.Time) Decision { return Decision{} }

// DecideNonce decides whether a client may have a nonce: whoever may issue or refresh the type.
func (b *Bundle) DecideNonce(client, documentType string) Decision { return Decision{} }
