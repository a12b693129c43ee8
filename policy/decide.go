package policy

import (
	"errors"
	"time"

	"sealkeeper/evidence"
)

// Bundle is a parsed, validated, immutable policy bundle.
type Bundle struct{}

var errNotBuilt = errors.New("not built")

// Parse reads a bundle file. Errors name the file and line.
func Parse(file string, data []byte) (*Bundle, error) { return nil, errNotBuilt }

// Hash of the bundle's bytes.
func (b *Bundle) Hash() Hash { return Hash{} }

// Version of the bundle; grows strictly.
func (b *Bundle) Version() uint64 { return 0 }

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

// ListFacts is everything that bears on signing one more version of a list.
type ListFacts struct {
	ID          string
	URI         string
	Format      Format
	Bits        int
	PrevVersion uint64 // 0: none yet
	PrevIssued  time.Time
	Prev        []byte // the array last signed; nil: none yet
	Next        []byte
	Changes     []ListChange // every change committed since Prev, in order
	Through     uint64
	Version     uint64
	IssuedAt    time.Time
	Expires     time.Time
	TTL         time.Duration
	Urgent      bool // carries a lock, unlock or revocation
}

// ListChange is one committed change of a status.
type ListChange struct {
	Index    uint64
	From, To byte
}

// DecideList allows a list version only if it is its predecessor plus exactly the committed changes, no revoked entry is cleared, an
// mdoc list has one bit and only grows, iat is a whole second and never lower than the last, the version grows, exp > iat and ttl ≤ exp − iat.
// It is the appliance's own decision: invariants only, no bundle (b may be nil).
func DecideList(b *Bundle, f ListFacts, at time.Time) (*Approval, Decision) { return nil, Decision{} }

// CertFacts describe a certificate that the appliance wants to sign.
type CertFacts struct {
	Cert            Cert
	IssuerNotBefore time.Time // zero for the self-signed root
	IssuerNotAfter  time.Time
	IssuerPurpose   Purpose // purpose of the signing key
}

// DecideCert allows a certificate within its profile's bounds (formats.md 3.3: 20 years, 457 days, 1187 days, …).
func DecideCert(b *Bundle, f CertFacts, at time.Time) (*Approval, Decision) { return nil, Decision{} }

// CRLFacts describe a revocation list.
type CRLFacts struct {
	CRL        CRL
	LastNumber uint64
	LastUpdate time.Time
	Last       []Revoked // entries of the last list; none may vanish before its certificate expired
}

// DecideCRL allows a CRL whose number grows strictly and whose nextUpdate is at most 90 days ahead.
func DecideCRL(b *Bundle, f CRLFacts, at time.Time) (*Approval, Decision) { return nil, Decision{} }

// SelftestEvery is the least time between two self tests of one key.
const SelftestEvery = 30 * time.Second

// SelftestBytes are the only bytes that a self test of a key with purpose p may sign. They begin as the worker's prefix check for p
// demands, and can be nothing that a verifier would accept.
func SelftestBytes(p Purpose, alg string) []byte { return nil }

// DecideSelftest allows a self test of an active online key, at most one per key and SelftestEvery.
func DecideSelftest(b *Bundle, keyID string, p Purpose, active bool, last time.Time, at time.Time) (*Approval, Decision) {
	return nil, Decision{}
}
