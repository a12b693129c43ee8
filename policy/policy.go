// Package policy decides. It is a pure function of checked facts, a versioned bundle, a given instant and the subject's state: no
// network, no database, no HSM, no clock.
//
// Deny is the default. Invariants written in Go come first and no bundle can switch them off; typed data of the bundle comes second;
// the bundle's Cedar rules come last, and any evaluation error refuses. Each purpose has its own Decide function, and nothing else makes
// an Approval. An approval carries conditions (the subject's epoch, what must be unused) that the ledger compares when it commits, so
// policy never needs the ledger and there is no race.
package policy

import (
	"encoding/hex"
	"time"

	"sealkeeper/evidence"
)

// Hash names a bundle by its content: SHA-256 of its canonical form (RFC 8785), whatever its layout and its signatures.
type Hash [32]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Pseudonym is HMAC-SHA256 of a subject number under a key derived from the domain secret. It is the only name of a person that rooms
// behind the conductor ever see.
type Pseudonym [32]byte

func (p Pseudonym) String() string { return hex.EncodeToString(p[:]) }

// Result is one of three; the zero value is our own fault and never allows anything.
type Result int

const (
	Failed  Result = iota // our fault: something did not work
	Denied                // decided: no
	Allowed               // decided: yes
)

func (r Result) String() string { return [...]string{"failed", "denied", "allowed"}[r] }

// Decision explains a result to the client, as far as that client may see, and to the journal.
type Decision struct {
	Result   Result
	Code     string   // stable; empty when allowed
	Detail   string   // one sentence for a person; no personal data
	Rules    []string // ids of the invariants, data rules and Cedar rules that determined the result
	Missing  []string // what would have to be there
	Policy   Hash
	Version  uint64  // of the bundle
	Identity string  // Facts.Identity: who vouches for the subject
	Record   *Record // what it was made of, for the journal; nil: of nothing that is kept
}

// Format is a credential format.
type Format string

const (
	MDoc  Format = "mso_mdoc"  // ISO/IEC 18013-5; status: 1-bit CWT list, revocation only
	SDJWT Format = "dc+sd-jwt" // SD-JWT VC; status: 2-bit JWT list with reversible SUSPENDED
)

// Operation is what a client asks for.
type Operation string

const (
	OpIssue   Operation = "issue"
	OpRefresh Operation = "refresh" // new credentials for the device that is bound already
	OpLock    Operation = "lock"
	OpUnlock  Operation = "unlock"
	OpRevoke  Operation = "revoke"
	OpState   Operation = "state" // read a holder's state
	OpRenew   Operation = "renew" // the register's word that a card has to be made anew

	// What follows from the operations above, and so is not in a client's list.
	OpOrder  Operation = "order"       // a lock or a closing for later: by who may lock or revoke
	OpCancel Operation = "cancel"      // of an order
	OpAck    Operation = "acknowledge" // by a phone, through who may issue or refresh
)

// Purpose of a signing key: one key, one purpose.
type Purpose string

const (
	PurposeMDoc     Purpose = "mdoc"        // COSE Sig_structure of an MSO, by a document signer
	PurposeSDJWT    Purpose = "sd-jwt"      // JWS with typ dc+sd-jwt
	PurposeList     Purpose = "status-list" // JWS with typ statuslist+jwt, or Sig_structure with typ application/statuslist+cwt
	PurposeIACA     Purpose = "iaca"        // DER TBSCertificate and TBSCertList of the issuing authority CA
	PurposeClientCA Purpose = "client-ca"   // DER TBSCertificate of mTLS certificates
	PurposeToken    Purpose = "token"       // JWS with typ sealkeeper-enrolment+jwt: one-time tokens of clients
)

// Lock is one reason why a card is suspended, with who added it and alone may remove it: a class of authority or, since carriers compete and
// each speaks for its own lines, one carrier.
type Lock struct {
	Reason string // telecom_lost, self_lost, card_lost, admin_hold, court, fraud
	Class  string // telecom, holder, card_system, ministry, court, officers
	By     string `json:",omitzero"` // the carrier's client; empty: any client of the class
}

// Restored is the lock of a card that published lists show as stopped while the restored ledger does not know why. It stays with the person.
var Restored = Lock{Reason: "restored", Class: "officers"}

// MassHold is the reason of the locks of cards that security officers hold all at once. It stays with the person, and nobody else takes it away.
const MassHold = "mass_hold"

// Slot is what policy may know of a subject's state for one document type.
type Slot struct {
	Epoch  uint64     // 0: nothing was ever issued
	Bound  bool       // a live device is bound
	Device string     // its id; empty when unbound
	Keys   [][32]byte // thumbprints of every key of the bound device
	Locks  []Lock     // sorted
	Live   int        // unexpired, unrevoked credentials
	MSOs   int        // of these, mdocs: a lock revokes them for good, so a refresh may be due early
	Since  time.Time  // when the device was bound
	Newest time.Time  // when its newest credential was made

	Closed     string   `json:",omitzero"` // why the person has no card any more
	Attributes uint64   `json:",omitzero"` // the register's count of changes of the person's data
	Renew      []string `json:",omitzero"` // why the card has to be made anew
	Outdated   int      `json:",omitzero"` // of Live, those that say something that has changed
	Stopped    []string `json:",omitzero"` // plastic cards that are lost, by their readers' pseudonyms
	Scheduled  []Lock   `json:",omitzero"` // of Locks, those that are there for an order alone, or are held: to lock again is no repetition
	Orders     []Order  `json:",omitzero"`
}

// IssueRequest is an issue or refresh request after the edge decoded it.
type IssueRequest struct {
	Client       string
	Operation    Operation // OpIssue or OpRefresh
	DocumentType string
	Subject      Pseudonym
	Claims       map[string]any // the JSON object that the client sent
	Formats      []Format       // empty: all formats of the type
	Replace      bool           // the new device takes the place of the bound one
	Method       string         // by which way of the type
	Latched      []string       // phases that the ledger knows to have begun
	Resuming     bool           // this very request holds the slot already (a reservation that is not settled); see ledger.Pending
}

// ChangeRequest is a lock, unlock or revocation.
type ChangeRequest struct {
	Client       string
	Operation    Operation
	DocumentType string
	Subject      Pseudonym
	Reason       string // lock and unlock: a lock reason; revoke: a revocation reason
	Device       string // optional: act on this device only; if another one is bound by now, nothing happens
	Card         string // optional, for card_lost: chip readers' pseudonym of the plastic card, whose chip gets nobody a card any more
}

// Kind of an approval.
type Kind string

const (
	KindIssue    Kind = "issue"
	KindChange   Kind = "change"
	KindList     Kind = "list"
	KindCert     Kind = "cert"
	KindCRL      Kind = "crl"
	KindSelftest Kind = "selftest"
	KindToken    Kind = "token"
)

// Lane of an approval's signatures, most urgent first. Lanes go by purpose, not by caller.
type Lane int

const (
	LaneLock  Lane = iota + 1 // locks, revocations and the lists that carry them; never shed
	LaneCRL                   // CRLs, certificates, checkpoints, lists that carry no change
	LaneIssue                 // single issue
	LaneBatch                 // batches, campaigns, self tests
)

func (l Lane) String() string { return [...]string{"none", "lock", "crl", "issue", "batch"}[l] }

// Value is one claim after its schema was checked.
type Value struct {
	Name       string // the policy's name of the claim
	Kind       string // "string", "date", "bool", "int", "bytes", "array", "object"
	MediaType  string // kind bytes: for the data: URI of SD-JWT VC
	V          any    // string | bool | int64 | []byte | []Value | ; a date is a "2006-01-02" string; an object's members are []Value, an array's elements are []Value with empty names
	Element    string // mdoc element identifier
	Namespace  string // mdoc name space
	SDName     string // SD-JWT claim name
	Disclosure bool   // SD-JWT: selectively disclosable
}

// Conditions are compared by the ledger in the transaction that uses the approval.
type Conditions struct {
	Epoch uint64 // the subject's epoch that was judged
	Burns []evidence.Burn
	// Charges are taken from budgets, and refused if one is used up; Latch is the phase that is known to have begun from now on.
	Charges []Charge
	Latch   string
}

// Approval proves that a Decide function of this package allowed something. The zero value allows nothing.
type Approval struct {
	kind       Kind
	decision   Decision
	client     string
	at         time.Time
	lane       Lane
	purposes   []Purpose
	conditions Conditions
	issue      Issue
	age        int // by the claims of an issue; -1: they don't say
	other      any // what is approved that is no issue: a Change, an Event, …
	registers  *Registers
}

// Issue is what an approved issue or refresh may put into credentials.
type Issue struct {
	Operation    Operation
	DocumentType string
	Subject      Pseudonym
	Replace      bool
	Formats      []Format
	Keys         []evidence.Key // one copy of each format for each key
	Values       []Value
	DocType      string        // mdoc docType
	VCT          string        // SD-JWT VC type
	Issuer       string        // SD-JWT iss; empty: none
	Lifetime     time.Duration // technical validity; not yet cut to the signer certificate's
	TimeGrain    time.Duration // times are coarsened to multiples of this, against linking
	Decoys       int           // decoy digests per credential
	Line         *Line         // to be linked to the phone; nil: none
	AckWithin    time.Duration // 0: nothing hangs on the phone's acknowledgement
	WaitRevoked  bool          // the answer leaves only after a list with the replaced device's revocation is signed
}

// Change is an approved lock, unlock or revocation.
type Change struct {
	Operation    Operation
	DocumentType string
	Subject      Pseudonym
	Lock         Lock   // lock and unlock
	Any          bool   // of an unlock: whoever added the reason; a higher authority lifts it
	Reason       string // revoke
	Device       string
	Card         string // lock and unlock
	Close        bool   // of a revocation: it ends the subject
	Renewal      Renewal
	Order        Order  // order and cancel
	Replaces     string // order
	Issuance     string // acknowledgement
	Effect       string // "apply", or "none": allowed and nothing to do (a late event for a device that is no longer bound)
}

// List is an approved status list version.
type List struct {
	ID       string
	URI      string
	Format   Format // of the credentials that point to it: MDoc lists are CWT with 1 bit, SDJWT lists JWT with 2 bits
	Bits     int
	Version  uint64
	IssuedAt time.Time
	Expires  time.Time
	TTL      time.Duration
	Image    []byte // the whole byte array, IETF Token Status List bit order
	Through  uint64 // journal sequence number that the image contains everything up to
}

// Cert is an approved certificate.
type Cert struct {
	Profile   string // "iaca", "iaca-link", "document-signer", "sdjwt-issuer", "status-signer", "client-ca", "client-ca-link", "server", "client", "officer"
	Name      string // common name
	SPKI      []byte // DER SubjectPublicKeyInfo of the subject
	Serial    [20]byte
	NotBefore time.Time
	NotAfter  time.Time
	Hosts     []string // server: DNS names and IP addresses
	URIs      []string // subject alternative name URIs (client identity; issuer identifier)
	IssuerKey string   // key registry id
	CRL       string   // name of the revocation list that speaks for it; empty: a root's, for which none does

	// Of a client that officers enrolled, by its enrolment.
	Channel, Office, District, Carrier string
}

// CRL is an approved revocation list.
type CRL struct {
	Name       string // of the list: where its number is kept, and under which it is published
	Profile    string // "iaca" (ISO/IEC 18013-5 B.2) or "rfc5280"
	Scope      string // URI of the distribution point of whose certificates alone it speaks; empty: of all of its CA's
	Number     uint64
	ThisUpdate time.Time
	NextUpdate time.Time
	Revoked    []Revoked
	IssuerKey  string
	Through    uint64 // journal sequence number that the entries say everything up to
}

// Revoked is an entry of a CRL.
type Revoked struct {
	Serial   []byte
	At       time.Time
	Reason   RevocationReason // empty in a list that gives none
	NotAfter time.Time        // of the certificate; zero: not known, and then the entry stays
}

// RevocationReason of a certificate, by its name in RFC 5280 5.3.1. removeFromCRL is for delta lists, of which there are none.
type RevocationReason string

const (
	Unspecified          RevocationReason = "unspecified"
	KeyCompromise        RevocationReason = "keyCompromise"
	CACompromise         RevocationReason = "cACompromise"
	AffiliationChanged   RevocationReason = "affiliationChanged"
	Superseded           RevocationReason = "superseded"
	CessationOfOperation RevocationReason = "cessationOfOperation"
	CertificateHold      RevocationReason = "certificateHold" // the only one that is ever taken back
	PrivilegeWithdrawn   RevocationReason = "privilegeWithdrawn"
)

var reasonCodes = map[RevocationReason]int{Unspecified: 0, KeyCompromise: 1, CACompromise: 2, AffiliationChanged: 3, Superseded: 4, CessationOfOperation: 5,
	CertificateHold: 6, PrivilegeWithdrawn: 9}

// Code is the reason's number in a CRL; ok is false for what is no reason.
func (r RevocationReason) Code() (code int, ok bool) { code, ok = reasonCodes[r]; return code, ok }

// ReasonOf is the reason with a number; empty for one that has no name here.
func ReasonOf(code int) RevocationReason {
	for r, c := range reasonCodes {
		if c == code {
			return r
		}
	}
	return ""
}

// Selftest is an approved self test of one key over fixed bytes.
type Selftest struct{ KeyID string }

// Valid reports whether a came from a Decide function.
func (a *Approval) Valid() bool { return a != nil && a.kind != "" && a.decision.Result == Allowed }

// Kind of a; empty for the zero value.
func (a *Approval) Kind() Kind {
	if !a.Valid() {
		return ""
	}
	return a.kind
}

// Decision that made a.
func (a *Approval) Decision() Decision { return a.decision }

// Client that asked; "" when the appliance asked itself.
func (a *Approval) Client() string { return a.client }

// At is the instant of the decision.
func (a *Approval) At() time.Time { return a.at }

// Lane in which a's signatures are made.
func (a *Approval) Lane() Lane { return a.lane }

// Allows reports whether a may be signed for with a key of this purpose.
func (a *Approval) Allows(p Purpose) bool {
	if !a.Valid() {
		return false
	}
	for _, q := range a.purposes {
		if p == q {
			return true
		}
	}
	return false
}

// Conditions to be compared at commit.
func (a *Approval) Conditions() Conditions { return a.conditions }

// Issue returns what was approved; ok only for KindIssue. The others are alike.
func (a *Approval) Issue() (Issue, bool)       { return a.issue, a.Kind() == KindIssue }
func (a *Approval) Change() (Change, bool)     { return other[Change](a, KindChange) }
func (a *Approval) List() (List, bool)         { return other[List](a, KindList) }
func (a *Approval) Cert() (Cert, bool)         { return other[Cert](a, KindCert) }
func (a *Approval) CRL() (CRL, bool)           { return other[CRL](a, KindCRL) }
func (a *Approval) Selftest() (Selftest, bool) { return other[Selftest](a, KindSelftest) }
func (a *Approval) Token() (Token, bool)       { return other[Token](a, KindToken) }

func other[T any](a *Approval, k Kind) (T, bool) {
	v, ok := a.other.(T)
	return v, ok && a.Kind() == k
}

// Registers is what changes of a client in the registry; ok is false for approvals that are about none.
func (a *Approval) Registers() (r Registers, ok bool) {
	if a.registers == nil {
		return r, false
	}
	return *a.registers, a.Valid() && a.registers.Client != ""
}
