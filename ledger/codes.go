package ledger

// Codes explains the refusals that a client can meet. There are others, which only a fault of the appliance
// itself brings about; clients see those as internal.
var Codes = map[string]string{
	"nonce.replayed":         "The nonce was used by another request: fetch a new one and prove again. A retry of the same request never meets this, if it has the same idempotency key.",
	"attestation.replayed":   "The key attestation was used by another request: ask the wallet provider for a new one over a new nonce.",
	"code.replayed":          "The code was used by another phone: the office makes a new one.",
	"evidence.replayed":      "The evidence was used by another request.",
	"budget.exhausted":       "A budget of the policy is used up: the detail says which, and when its window ends. Nothing was issued or unlocked, and the nonce and the evidence are not used up by this.",
	"idempotency.mismatch":   "This client used the idempotency key for another request: a new request needs a new key.",
	"reservation.superseded": "The phone was replaced, locked or revoked before this request's answer was ready, so its credentials are revoked and are not handed out.",
	"ledger.full":            "The ledger's disk has no room, and what is kept for locks is for locks. Nothing was issued: retry with the same idempotency key after Retry-After.",
	"event.id_reused":        "The carrier used the event's id for another event: a new event needs a new id.",
	"line.reported":          "The line was reported lost or changed after its carrier vouched for it: get a new line_ownership statement, with which the carrier says what holds now.",
	"decision.unknown":       "There is no such decision, or it is older than decisions are kept.",
	"event.not_dead":         "No dead letter has this id: it was carried out or erased meanwhile. List what there is with GET /v1/events/dead.",
	"flood.unknown":          "Nothing of this carrier and hour waits for a decision: list what waits with GET /v1/floods.",
	"flood.deciding":         "A decision on these cards is being carried out: what came after it can be decided on when it is done.",
	"event.letters_full":     "A million lines are reported that nobody is linked to, and no more are kept: retry later. Nobody's card is concerned.",
	"issuing.stopped":        "The security officers stopped issuing. Nothing was issued: retry with the same idempotency key after Retry-After. Locks, revocations and lists go on.",
	"proposal.unknown":       "There is no such proposal, or it is older than proposals are kept.",
	"proposal.executed":      "The proposal was carried out before, which happens once.",
	"proposal.rejected":      "An officer rejected the proposal, which is final: propose it again.",
	"proposal.too_many":      "Too many proposals are open: carry out or reject some, or wait until they expire.",
	"certificate.unknown":    "The appliance issued no certificate with this serial number.",
	"certificate.root":       "A root's certificate can't be revoked: no list speaks for it. Replace the root.",
	"certificate.hold":       "The root's revocation lists know no hold: certificates of signers are revoked for good, or not.",
	"certificate.reason":     "The reason for a revocation is none of RFC 5280's, or one that only lists of changes have.",
	"certificate.not_held":   "The certificate is not on hold: only a hold is ever taken back.",
	"certificate.too_many":   "Too many certificates for one commit.",
	"officer.registered":     "Other officers are registered: only they change the registry.",
	"ledger.fenced":          "Something outside is ahead of the ledger (an old backup was restored): nothing is signed until an operator has looked at it.",
}
