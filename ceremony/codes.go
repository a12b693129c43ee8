package ceremony

// Code is a reason why a paper of a ceremony is not good. Codes do not change: scripts and reports name them.
type Code struct{ ID, Means string }

// Codes is every reason.
var Codes = []Code{
	{"ceremony.malformed", "It is not written in its one form, or says something that a transcript can't say."},
	{"ceremony.registry", "It belongs to another registry of officers than the one it comes with, or than yours."},
	{"ceremony.unknown", "It is signed by somebody who is not in the registry of officers."},
	{"ceremony.signature", "A signature does not verify: the paper was changed after signing, or another key made it."},
	{"ceremony.missing", "An officer did not sign the opening statement. All of them do, or nothing is made."},
	{"ceremony.short", "Fewer officers signed the transcript than the registry's strictest action needs."},
	{"ceremony.chain", "The entries are not one chain: one was changed, left out, put in or moved, or a time goes back."},
	{"ceremony.log", "The ledger's log tells another story than the entries, or its leaves do not give the root that was written down."},
	{"ceremony.evidence", "A certificate and what is said of it do not fit together."},
	{"ceremony.incomplete", "A step of the ceremony is not there."},
	{"ceremony.other", "What it was compared with belongs to another installation."},
}

// Refusal is an error that has a code.
type Refusal struct{ code, detail string }

func (e *Refusal) Error() string { return e.code + ": " + e.detail }

// Code is the stable name of the reason.
func (e *Refusal) Code() string { return e.code }

// Detail says what, which, and what to do.
func (e *Refusal) Detail() string { return e.detail }

func refuse(reason, detail string) *Refusal { return &Refusal{"ceremony." + reason, detail} }
