package officer

// Code is a reason for refusing something that officers signed. Codes are part of the API; they do not change.
type Code struct{ ID, Means string }

// Codes is every refusal that officers can meet.
var Codes = []Code{
	{"officer.malformed", "The proposal is not in its one canonical form (RFC 8785), or says something that its action does not know."},
	{"officer.edited", "The approval or rejection is for other bytes than those that were proposed."},
	{"officer.signature", "A signature does not verify: the proposal was changed after signing, or another key made it."},
	{"officer.unknown", "A signature is by nobody who may approve: the registry has no such officer, or not any more."},
	{"officer.duplicate", "The officer has approved or rejected this proposal before."},
	{"officer.installation", "The proposal was made for another installation, whose officers may be the same people."},
	{"officer.epoch", "The proposal was made under another registry of officers, or before a fence was lifted: propose it again."},
	{"officer.future", "The proposal says that it was made later than now: a clock is wrong."},
	{"officer.expired", "The proposal's time is over: propose it again."},
	{"officer.proposer", "The proposal lacks the signature of the officer who it says made it."},
	{"officer.rejected", "An officer rejected the proposal, which is final: propose it again."},
	{"officer.short", "Fewer officers approved than the action needs."},
	{"officer.waiting", "The action's delay is not over: until then any one officer can reject it."},
}

// Refusal is an error that has a code.
type Refusal struct{ code, detail string }

func (e *Refusal) Error() string { return e.code + ": " + e.detail }

// Code is the stable name of the reason.
func (e *Refusal) Code() string { return e.code }

// Detail says what, which, and what to do.
func (e *Refusal) Detail() string { return e.detail }

func refuse(reason, detail string) *Refusal { return &Refusal{"officer." + reason, detail} }
