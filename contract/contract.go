// Package contract is the HTTP contract: the types that travel as JSON, and the OpenAPI document that describes them. It knows nothing of
// the appliance; the edge, the conductor and the client package share it.
package contract

import (
	"encoding/json"
	"time"
)

// IssueRequest asks for credentials for a phone: POST /v1/credentials, /v1/credentials/refresh and their dry runs.
type IssueRequest struct {
	DocumentType   string         `json:"document_type"`
	Subject        string         `json:"subject,omitempty"` // subject number; replaced by a pseudonym at once, never stored
	Session        string         `json:"session,omitempty"` // of POST /v1/sessions, instead of the subject; needed for evidence items
	Method         string         `json:"method,omitempty"`  // way to the card, where the type has several: see the policy
	Claims         map[string]any `json:"claims"`            // by the policy's names
	Formats        []string       `json:"formats,omitempty"` // mso_mdoc, dc+sd-jwt; none: all of the document type
	Replace        bool           `json:"replace,omitempty"` // this phone takes the place of the one that has the card now
	Proof          string         `json:"proof"`             // OpenID4VCI jwt proof
	KeyAttestation string         `json:"key_attestation,omitempty"`
	// AndroidAttestation are the phone's own chains instead of a key attestation, one for each key: certificates in base64url, leaf first and root last.
	AndroidAttestation [][]string     `json:"android_attestation,omitempty"`
	Proofs             []string       `json:"proofs,omitempty"`         // of further keys, where the type asks for a proof by each
	PreviousProof      string         `json:"previous_proof,omitempty"` // refresh with new keys: proof by a key that this phone had before
	Evidence           []EvidenceItem `json:"evidence,omitempty"`
}

// EvidenceItem is one signed statement of an evidence authority.
type EvidenceItem struct {
	Kind  string `json:"kind"`
	Token string `json:"token"`
}

// IssueAnswer is the whole answer, or there is none.
type IssueAnswer struct {
	Issuance    string       `json:"issuance"` // reservation id, for support and audit
	Device      string       `json:"device"`   // id of the bound phone
	Replaced    bool         `json:"replaced"` // another phone's card was revoked
	Credentials []Credential `json:"credentials"`
	Decision    Decision     `json:"decision"`
}

// Credential is one signed credential.
type Credential struct {
	Format        string    `json:"format"`
	Credential    string    `json:"credential"`     // mso_mdoc: base64url of IssuerSigned; dc+sd-jwt: the compact form
	KeyThumbprint string    `json:"key_thumbprint"` // RFC 7638, base64url
	Status        StatusRef `json:"status"`
	ValidUntil    time.Time `json:"valid_until"`
}

// StatusRef points into a status list.
type StatusRef struct {
	URI   string `json:"uri"`
	Index uint64 `json:"idx"`
}

// Decision explains what policy decided.
type Decision struct {
	ID            string   `json:"id,omitempty"` // under which auditors find it; empty: it is not journalled (a dry run, or one denial too many)
	Result        string   `json:"result"`       // allowed, denied, failed
	Code          string   `json:"code,omitempty"`
	Detail        string   `json:"detail,omitempty"`
	Rules         []string `json:"rules"`
	Missing       []string `json:"missing,omitempty"`
	Policy        string   `json:"policy"` // SHA-256 of the bundle, hex
	PolicyVersion uint64   `json:"policy_version"`
	Identity      string   `json:"identity,omitempty"`
}

// ChangeRequest locks, unlocks or revokes: POST /v1/locks, /v1/unlocks, /v1/revocations.
type ChangeRequest struct {
	DocumentType string `json:"document_type"`
	Subject      string `json:"subject"`
	Reason       string `json:"reason"`
	Device       string `json:"device,omitempty"` // act only if this phone still has the card
	Card         string `json:"card,omitempty"`   // with card_lost: chip readers' pseudonym of the plastic card
}

// RenewalRequest says that a card has to be made anew: POST /v1/renewals.
type RenewalRequest struct {
	DocumentType string   `json:"document_type"`
	Subject      string   `json:"subject"`
	Reasons      []string `json:"reasons"`              // of the policy: address, name, photo, tech, …
	Attributes   uint64   `json:"attributes,omitempty"` // the register's count of changes of the person's data ("epoch" of its statements); none: the data are the same
}

// ScheduleRequest orders a lock or a closing for later: POST /v1/schedules.
type ScheduleRequest struct {
	DocumentType string    `json:"document_type"`
	Subject      string    `json:"subject"`
	Schedule     string    `json:"schedule"`           // the client's own id of the order; the same order twice is one
	Operation    string    `json:"operation"`          // lock, or revoke for a reason that closes
	Reason       string    `json:"reason"`             // one that does not end with the phone
	From         time.Time `json:"from"`               // whole seconds
	To           time.Time `json:"to,omitzero"`        // of a lock: when it ends by itself; none: it is removed by its authority
	Replaces     string    `json:"replaces,omitempty"` // the order whose place it takes
}

// ScheduleCancel takes an order back: POST /v1/schedules/cancel. What it locked meanwhile is unlocked.
type ScheduleCancel struct {
	DocumentType string `json:"document_type"`
	Subject      string `json:"subject"`
	Schedule     string `json:"schedule"`
}

// AcknowledgementRequest is the phone's word that it has its credentials: POST /v1/acknowledgements.
type AcknowledgementRequest struct {
	DocumentType string `json:"document_type"`
	Subject      string `json:"subject"`
	Issuance     string `json:"issuance"` // of the answer that brought them
	Proof        string `json:"proof"`    // OpenID4VCI jwt proof with jwk, over a nonce of POST /v1/nonces, by a key of theirs
}

// Schedule is an order that waits or is being carried out.
type Schedule struct {
	Schedule  string    `json:"schedule"`
	Operation string    `json:"operation"` // lock or revoke
	Reason    string    `json:"reason"`
	Class     string    `json:"class"`
	From      time.Time `json:"from"`
	To        time.Time `json:"to,omitzero"`
	Begun     bool      `json:"begun"`
}

// ChangeAnswer is sent once the change is durable and its lists are on their way.
type ChangeAnswer struct {
	Changed  bool     `json:"changed"`
	Sequence uint64   `json:"sequence"` // lists whose version covers it carry the change
	Lists    []string `json:"lists"`    // URIs of the lists that change
	Holder   Holder   `json:"holder"`
	Decision Decision `json:"decision"`
}

// EventRequest brings a carrier's event of one of its lines: POST /v1/events.
type EventRequest struct {
	Event string `json:"event"` // compact JWS, docs/evidence.md
}

// EventAnswer is sent once the event is durable and the lists that it changes are on their way.
type EventAnswer struct {
	Event    string   `json:"event"`    // its jti
	Effect   string   `json:"effect"`   // applied, held, none, stale, unknown_line
	Changed  bool     `json:"changed"`  // a lock was added or removed
	Sequence uint64   `json:"sequence"` // lists whose version covers it carry the change
	Lists    []string `json:"lists"`    // URIs of the lists that change
	Decision Decision `json:"decision"`
}

// DeadEvent is an event that was refused.
type DeadEvent struct {
	ID     string    `json:"id"`
	Client string    `json:"client"` // that sent it
	Code   string    `json:"code"`   // why it was refused
	At     time.Time `json:"at"`
}

// DeadEvents of GET /v1/events/dead.
type DeadEvents struct {
	Events       []DeadEvent `json:"events"`
	UnknownLines int64       `json:"unknown_lines"` // were reported and are not known to be anybody's; they wait for seven days
}

// ReplayRequest has a dead event judged again: POST /v1/events/replay. The answer is the event's.
type ReplayRequest struct {
	ID string `json:"id"`
}

// Flood is what a carrier reported above its hourly threshold: cards that are suspended and whose mdocs wait for a decision. GET /v1/floods
// lists them as Floods.
type Flood struct {
	Carrier  string    `json:"carrier"`
	Hour     time.Time `json:"hour"`               // its begin
	Cards    int       `json:"cards"`              // that wait
	MDocs    int       `json:"mdocs"`              // that a confirmation revokes; each is a refresh later
	Deciding string    `json:"deciding,omitempty"` // confirm or undo, while it is being carried out
}

// Floods that wait, or are being decided on.
type Floods struct {
	Floods []Flood `json:"floods"`
}

// FloodRequest decides on a flood as a whole: POST /v1/floods/decisions. The answer is a FloodAnswer.
type FloodRequest struct {
	Carrier  string    `json:"carrier"`
	Hour     time.Time `json:"hour"`
	Decision string    `json:"decision"` // confirm: revoke the mdocs; undo: unlock the cards
}

// FloodAnswer is sent once the decision is durable. It is carried out from then on, also through a restart.
type FloodAnswer struct {
	Carrier  string    `json:"carrier"`
	Hour     time.Time `json:"hour"`
	Decision string    `json:"decision"`
	Cards    int       `json:"cards"` // it is about
}

// Officers are the security officers, what each action needs, and the registry as it is signed over. GET /v1/officers
type Officers struct {
	Epoch    uint64        `json:"epoch"` // of the registry; 0: no officers are registered
	Officers []Officer     `json:"officers"`
	Rules    []OfficerRule `json:"rules"`
	Registry string        `json:"registry"` // JSON
}

// Officer is a person in the registry.
type Officer struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Role        string `json:"role"`        // officer, auditor or operator
	Fingerprint string `json:"fingerprint"` // SHA-256 of the key's SubjectPublicKeyInfo, hexadecimal in fours
}

// OfficerRule is what an action needs.
type OfficerRule struct {
	Action    string `json:"action"`
	Need      int    `json:"need"`  // officers who approve
	Delay     string `json:"delay"` // after that, in which any one of them can reject; a duration such as 1h0m0s
	Life      string `json:"life"`  // of a proposal, the delay included
	Supported bool   `json:"supported"`
}

// Proposals that are kept, the newest first, without what was signed. GET /v1/officers/proposals
type Proposals struct {
	Proposals []Proposal `json:"proposals"`
}

// Proposal is what officers were asked and said.
type Proposal struct {
	ID        string    `json:"id"` // SHA-256 of the payload, hexadecimal
	Action    string    `json:"action"`
	State     string    `json:"state"`         // open, waiting (its delay runs), ready, executed, rejected or expired
	Why       string    `json:"why,omitempty"` // it can't be carried out now
	Text      []string  `json:"text"`          // what is signed, in words
	By        string    `json:"by"`
	Epoch     uint64    `json:"epoch"`
	Made      time.Time `json:"made"`
	Expires   time.Time `json:"expires"`
	Need      int       `json:"need"`
	Approved  []string  `json:"approved"`
	Rejected  []string  `json:"rejected"`
	Since     time.Time `json:"since,omitzero"` // when approvals became enough
	Ready     time.Time `json:"ready,omitzero"` // when the delay is over
	Ended     time.Time `json:"ended,omitzero"`
	Payload   string    `json:"payload,omitempty"`   // the RFC 8785 JSON that officers sign
	Approvals string    `json:"approvals,omitempty"` // the envelope with their signatures
}

// ProposalQuery names a proposal: POST /v1/officers/proposals/show and /v1/officers/executions. The answer is a Proposal.
type ProposalQuery struct {
	ID string `json:"id"`
}

// ProposeRequest brings a proposal with its proposer's signature: POST /v1/officers/proposals/new. The answer is a Proposal.
type ProposeRequest struct {
	Proposal File `json:"proposal"` // envelope
}

// ApprovalRequest brings one officer's signature: POST /v1/officers/approvals and /v1/officers/rejections. The answer is a Proposal.
type ApprovalRequest struct {
	ID       string `json:"id"`
	Envelope File   `json:"envelope"` // around the proposal's payload, with one signature
}

// StateRequest asks for a holder's state: POST /v1/holders/state (in the body: a subject number never stands in a URL).
type StateRequest struct {
	DocumentType string `json:"document_type"`
	Subject      string `json:"subject"`
}

// Campaign is what officers had done about many cards, and what became of them so far.
type Campaign struct {
	ID           string    `json:"id"` // of its proposal
	Operation    string    `json:"operation"`
	DocumentType string    `json:"document_type,omitempty"`
	Key          string    `json:"key,omitempty"`
	From         time.Time `json:"from,omitzero"`
	To           time.Time `json:"to,omitzero"`
	Reason       string    `json:"reason"`
	PerSecond    int       `json:"per_second"` // 0: it rests; a hold is at once
	Started      time.Time `json:"started"`
	By           []string  `json:"by"`
	Found        time.Time `json:"found,omitzero"` // when every card of it was marked
	First        time.Time `json:"first,omitzero"` // when the first card was made anew
	Done         time.Time `json:"done,omitzero"`
	Total        int       `json:"total"` // the sum of all below
	Waiting      int       `json:"waiting"`
	Locked       int       `json:"locked"`
	Reissued     int       `json:"reissued"`
	Expired      int       `json:"expired"`
	Ended        int       `json:"ended"`
	Revoked      int       `json:"revoked"`
	Failed       int       `json:"failed"`
	Held         int       `json:"held"`
	Released     int       `json:"released"`
	Lifted       time.Time `json:"lifted,omitzero"`  // a hold: when officers lifted it
	AtOnce       bool      `json:"at_once,omitzero"` // a hold: its cards are found at once and no card is marked; those of before 2026-12 were marked
	Lists        int       `json:"lists,omitzero"`   // a hold: status lists of whose images it is, or was, a term
	Whole        bool      `json:"whole,omitzero"`   // a hold: it is about all entries of these lists, whose cards are not counted
}

// Campaigns, the newest first: GET /v1/campaigns, and the answer of POST /v1/campaigns/pace
type Campaigns struct {
	Campaigns []Campaign `json:"campaigns"`
}

// CampaignPace changes how many cards a second a campaign marks: POST /v1/campaigns/pace
type CampaignPace struct {
	ID        string `json:"id"`
	PerSecond int    `json:"per_second"` // 0: it rests
}

// CardsQuery selects cards as hold.mass, reissue.mass and revoke.mass do: POST /v1/campaigns/count
type CardsQuery struct {
	DocumentType string    `json:"document_type,omitempty"`
	Key          string    `json:"key,omitempty"`
	From         time.Time `json:"from,omitzero"`
	To           time.Time `json:"to,omitzero"`
}

// CardsCount is how many cards a selection has now.
type CardsCount struct {
	Cards       int `json:"cards"`
	Credentials int `json:"credentials"`
}

// OfficersHolder is how a holder is named in what officers sign: POST /v1/officers/holders, with a StateRequest.
type OfficersHolder struct {
	DocumentType string `json:"document_type"`
	Pseudonym    string `json:"pseudonym"` // hexadecimal
	Bound        bool   `json:"bound"`
	Locks        []Lock `json:"locks"`
}

// Holder is the state of one subject for one document type.
type Holder struct {
	DocumentType string             `json:"document_type"`
	Bound        bool               `json:"bound"`
	Device       string             `json:"device,omitempty"`
	Epoch        uint64             `json:"epoch"`
	Locks        []Lock             `json:"locks"`
	Credentials  []CredentialStatus `json:"credentials"`
	Closed       string             `json:"closed,omitempty"`     // why the person has no card any more
	Renew        []string           `json:"renew,omitempty"`      // why the card has to be made anew
	Attributes   uint64             `json:"attributes,omitempty"` // the register's count; statements of an older one are refused
	Schedules    []Schedule         `json:"schedules,omitempty"`
}

// Lock is one reason of a suspension.
type Lock struct {
	Reason string `json:"reason"`
	Class  string `json:"class"`
}

// CredentialStatus of one unexpired credential.
type CredentialStatus struct {
	Format     string    `json:"format"`
	Device     string    `json:"device"`
	Status     string    `json:"status"` // reserved, valid, suspended, needs_renew, revoked
	StatusRef  StatusRef `json:"status_ref"`
	ValidUntil time.Time `json:"valid_until"`
	Issuance   string    `json:"issuance,omitempty"`
	Active     bool      `json:"active,omitempty"` // its phone has acknowledged it
}

// SessionRequest opens a session: POST /v1/sessions. It is the only request with evidence in which the subject's number stands.
type SessionRequest struct {
	DocumentType  string   `json:"document_type"`
	Subject       string   `json:"subject,omitempty"`
	Code          string   `json:"code,omitempty"`        // of POST /v1/codes, instead of the subject
	KeyThumbprint string   `json:"key_thumbprint"`        // RFC 7638, of the key that will make the proof
	Nonce         string   `json:"c_nonce,omitempty"`     // one that was fetched before, where the phone's key attests it; none: a new one
	Authorities   []string `json:"authorities,omitempty"` // evidence authorities that will be asked
}

// CodeRequest asks for a code for a person at the counter: POST /v1/codes.
type CodeRequest struct {
	DocumentType string   `json:"document_type"`
	Subject      string   `json:"subject"`
	Authorities  []string `json:"authorities,omitempty"` // that will speak of it: the office's
}

// CodeAnswer is a code that one phone may scan.
type CodeAnswer struct {
	Code       string            `json:"code"`       // the text of a QR code
	ID         string            `json:"session_id"` // what the officer's statement names
	ExpiresAt  time.Time         `json:"expires_at"`
	Pseudonyms map[string]string `json:"pseudonyms"`
}

// SessionAnswer is what a request's evidence is bound to.
type SessionAnswer struct {
	Session    string            `json:"session"`
	ID         string            `json:"session_id"` // what statements name: base64url of SHA-256 of the session
	Nonce      string            `json:"c_nonce"`
	ExpiresAt  time.Time         `json:"expires_at"`
	Pseudonyms map[string]string `json:"pseudonyms"` // authority → its own name of the person
}

// PolicyRequest brings a policy bundle: POST /v1/policies.
type PolicyRequest struct {
	Bundle File `json:"bundle"`           // the file's text, with its signatures
	DryRun bool `json:"dry_run,omitzero"` // only say what would come of it
}

// Policy is a policy bundle: the answer of POST /v1/policies, and of GET /v1/policies/active with the file.
type Policy struct {
	Hash    string    `json:"hash"` // SHA-256 of its canonical form, hex: what decisions name
	Version uint64    `json:"version"`
	Signers []string  `json:"signers"` // registered policy keys that signed it
	Active  bool      `json:"active"`
	At      time.Time `json:"at"`             // since when; of a dry run: now
	Tests   int       `json:"tests,omitzero"` // of its own that passed
	Bundle  string    `json:"bundle,omitempty"`
}

// PhoneStatusRequest feeds what is revoked of attestation keys and wallets: POST /v1/phones/status.
type PhoneStatusRequest struct {
	Status File `json:"status"` // the file's text, with its signatures
}

// PhoneStatus is what was taken.
type PhoneStatus struct {
	AsOf    time.Time `json:"as_of"`
	Until   time.Time `json:"until"`   // then it is too old
	Signer  string    `json:"signer"`  // kid
	Revoked int       `json:"revoked"` // attestation keys of Android phones
	Lists   int       `json:"lists"`   // of wallets
}

// NonceRequest: POST /v1/nonces.
type NonceRequest struct {
	DocumentType string `json:"document_type"`
}

// NonceAnswer carries one nonce for one issue request.
type NonceAnswer struct {
	Nonce     string    `json:"c_nonce"`
	ExpiresAt time.Time `json:"expires_at"`
}

// WhoAmI: GET /v1/whoami.
type WhoAmI struct {
	Client  string              `json:"client"`
	Role    string              `json:"role"`
	Class   string              `json:"class,omitempty"`
	Issuer  string              `json:"issuer,omitempty"` // aud that proofs must have
	May     map[string][]string `json:"may"`              // document type → operations
	Expires time.Time           `json:"certificate_expires"`
	Policy  string              `json:"policy"`
}

// Problem is an RFC 9457 problem with a stable code.
type Problem struct {
	Type     string    `json:"type"`
	Title    string    `json:"title"`
	Status   int       `json:"status"`
	Code     string    `json:"code"`
	Detail   string    `json:"detail,omitempty"`
	Instance string    `json:"instance,omitempty"` // request id
	Decision *Decision `json:"decision,omitempty"`
}

// Status is the operations listener's /status.
type Status struct {
	Version   string        `json:"version"`
	Ready     bool          `json:"ready"`
	Problems  []string      `json:"problems"` // what is wrong and what to do, one sentence each
	Policy    string        `json:"policy"`
	PolicyVer uint64        `json:"policy_version"`
	Journal   uint64        `json:"journal_size"`
	Root      string        `json:"journal_root"`
	Tokens    []TokenStatus `json:"tokens"`
	Keys      []KeyStatus   `json:"keys"`
	Orphans   []string      `json:"orphans,omitempty"` // keys on a token that no plan and no ceremony made: token and CKA_ID
	Lists     []ListStatus  `json:"lists"`
	Clock     string        `json:"clock"` // "trusted" or why not

	Certificates []CertificateStatus `json:"certificates"`
	CRLExpires   time.Time           `json:"crl_expires"` // nextUpdate of the list that ends first; zero: none was signed
	Conditions   []Condition         `json:"conditions"`  // what is wrong or soon will be, the urgent first
	Hardening    map[string]bool     `json:"hardening"`   // what confines the process: control → is it in force
}

// Condition is something wrong, with what to do. Its name is that of its page in docs/runbooks.
type Condition struct {
	Name     string `json:"name"`
	Severity string `json:"severity"` // critical, warning, info
	What     string `json:"what"`
	Do       string `json:"do"`
}

// CertificateStatus of a key's certificate, or of the issuance listener's ("tls-server").
type CertificateStatus struct {
	Name     string    `json:"name"`
	NotAfter time.Time `json:"not_after"`
}

// TokenStatus of one HSM token.
type TokenStatus struct {
	Token   string `json:"token"`
	Ready   int    `json:"ready"`
	Wanted  int    `json:"wanted"`
	Problem string `json:"problem,omitempty"`

	PINRefused bool `json:"pin_refused"`
	Restarts   int  `json:"restarts"` // workers replaced within the last ten minutes, at most 100 are counted
}

// KeyStatus of one registered key.
type KeyStatus struct {
	ID        string    `json:"id"`
	Token     string    `json:"token"`
	Purpose   string    `json:"purpose"`
	Algorithm string    `json:"algorithm"`
	State     string    `json:"state"`
	NotAfter  time.Time `json:"not_after"` // nothing is signed with it from then

	Since   time.Time `json:"since,omitzero"`
	Next    string    `json:"next,omitempty"` // the state that comes by itself
	NextAt  time.Time `json:"next_at,omitzero"`
	Until   time.Time `json:"certificate_until,omitzero"`
	Used    uint64    `json:"used,omitempty"`  // of Limit
	Limit   uint64    `json:"limit,omitempty"` // how often it signs at most; 0: no limit
	Trouble string    `json:"trouble,omitempty"`
}

// TrustBundle is published as /trust.json: all keys whose certificates count, or counted, and from when until when. It is no anchor: the IACA's
// certificate in it is trusted for having come another way.
type TrustBundle struct {
	Issuer string       `json:"issuer"`
	AsOf   time.Time    `json:"as_of"` // when one of them last changed its state
	Keys   []TrustedKey `json:"keys"`
}

// TrustedKey is a key that signs, will sign, or signed what is still verified; or one that is compromised, by which nothing is to be believed.
type TrustedKey struct {
	ID          string    `json:"id"`
	Purpose     string    `json:"purpose"` // "iaca", "mdoc", "sd-jwt", "status-list"
	Algorithm   string    `json:"algorithm"`
	State       string    `json:"state"` // "announced", "active", "deactivated", "compromised", "destroyed"
	Since       time.Time `json:"since"`
	NotBefore   time.Time `json:"not_before"` // it signs from then
	NotAfter    time.Time `json:"not_after"`  // until then
	Until       time.Time `json:"certificate_until"`
	Certificate []byte    `json:"certificate"`    // DER, base64
	SPKI        string    `json:"spki_sha256"`    // hexadecimal
	Link        []byte    `json:"link,omitempty"` // of a root that took another's place: the certificate by which that one vouches for it, DER, base64
}

// ListStatus of one published list.
type ListStatus struct {
	ID        string    `json:"id"`
	URI       string    `json:"uri"`
	MediaType string    `json:"media_type"`
	Version   uint64    `json:"version"`
	Issued    time.Time `json:"issued"`
	Expires   time.Time `json:"expires"`
	Bytes     int       `json:"bytes"`
	Dirty     bool      `json:"dirty"` // has acknowledged changes that are not published yet
}

// Readiness is the operations listener's /livez and /readyz.
type Readiness struct {
	Ready    bool     `json:"ready"`
	Problems []string `json:"problems"` // what is wrong and what to do, one sentence each
}

// DecisionQuery asks for journalled decisions: POST /v1/decisions.
type DecisionQuery struct {
	Decision string    `json:"decision,omitempty"` // this one
	After    string    `json:"after,omitempty"`    // those after this one
	Since    time.Time `json:"since,omitzero"`     // without after: those from this instant on
	Limit    int       `json:"limit,omitempty"`    // at most MaxDecisions
	Bundle   string    `json:"bundle,omitempty"`   // hash of a bundle whose file to add
}

// DecisionPage is some of them, the oldest first. Fewer than were asked for: there are no more.
type DecisionPage struct {
	Decisions []JournalledDecision `json:"decisions"`
	Bundle    string               `json:"bundle,omitempty"`
}

// JournalledDecision is a decision with what it was made of, which names nobody.
type JournalledDecision struct {
	At           time.Time       `json:"at"`
	Client       string          `json:"client"`
	Operation    string          `json:"operation"`
	DocumentType string          `json:"document_type,omitempty"`
	Sequence     uint64          `json:"sequence"` // of the journal entry that has its hash
	Decision     Decision        `json:"decision"`
	Of           json.RawMessage `json:"of,omitempty"` // none: nothing that another bundle could judge
}
