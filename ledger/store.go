package ledger

import (
	"context"

	"golang.org/x/mod/sumdb/tlog"
)

// Store is where a ledger lives. Its one write is "commit this batch":
//
//   - A batch is durable as a whole before Commit returns, and nothing of it is visible to anyone before.
//   - Ops are applied in the batch's order; later ones see earlier ones. The rows of an op all apply or none: if one condition does not
//     hold, the op's outcome names that row and the rest of the batch is not affected.
//   - Each op that applied takes the next sequence number of the journal: 0, 1, 2, … without gaps, across restarts and across every
//     process that commits to the same store. An op that did not apply takes none and leaves no trace.
//   - The number is also the index of the op's leaf in the transparency log. The leaf's hashes (tlog.StoredHashesForRecordHash) are
//     written in the same transaction, so that log and journal can't differ.
//   - A row's revision is one more than the sequence number of the op that wrote it: never reused, never 0.
//
// ErrFull means that the disk has no room, that nothing of the batch was written, and that the store lives. Every other error means "I no
// longer know": the batch may be durable or not. The store is dead from then on and every call returns an error that
// wraps ErrStopped; opening it again is the only way to find out. A cancelled context may prevent a commit, which is no such error, and
// never interrupts one that began. Several processes may share a store whose implementation says so; the methods are safe for concurrent use.
type Store interface {
	Commit(ctx context.Context, batch []Op) ([]Outcome, error)

	// Get returns a row; revision 0 means that there is none. The value is the caller's.
	Get(ctx context.Context, t Table, key []byte) (value []byte, revision uint64, err error)

	// Scan returns up to limit rows with keys ≥ from, in the order of their bytes.
	Scan(ctx context.Context, t Table, from []byte, limit int) ([]Entry, error)

	// Journal returns the leaves of n sequence numbers from one on: fewer if it ends there, or if somebody took one out.
	Journal(ctx context.Context, from uint64, n int) ([][]byte, error)

	// Head is the size of the journal and the root hash of the log over it.
	Head(ctx context.Context) (size uint64, root tlog.Hash, err error)

	// ReadHashes gives the stored hashes of the log by tlog.StoredHashIndex.
	tlog.HashReader

	Close() error
}

// Op is one indivisible step: its leaf and the rows that change with it. No row occurs twice.
type Op struct {
	Leaf []byte // journal entry: canonical JSON without its sequence number; never empty
	Rows []Row
}

// Row is a write under a condition.
type Row struct {
	Table Table
	Key   []byte
	Value []byte // nil deletes the row
	If    If
	// Most above 0 makes it a row that counts: its value becomes a decimal number, one more than it was (0 if there is no such row), and the
	// op applies only if it was below Most. Value and If stay zero. Ops of one batch that count in one row don't meet a conflict.
	Most uint64
}

// If is the revision that a row must have for its op to apply. The zero value demands that there is no such row, so that a forgotten
// condition never overwrites anything.
type If uint64

const (
	Absent If = 0
	Any    If = 1<<64 - 1
)

// Outcome of one op.
type Outcome struct {
	Seq      uint64
	Conflict *Conflict // nil: the op applied as Seq
}

// Conflict names the first row whose condition did not hold.
type Conflict struct {
	Table Table
	Key   []byte
}

// Entry is a stored row.
type Entry struct {
	Key, Value []byte
	Revision   uint64
}

// Table names a kind of rows.
type Table string

const (
	TableSlots        Table = "slots"        // type ‖ 0 ‖ pseudonym → SlotRecord
	TableReservations Table = "reservations" // id → ReservationRecord
	TableAttempts     Table = "attempts"     // reservation ‖ 0 ‖ item ‖ number → AttemptRecord; not of a first one that made the signature, or may still
	TableRequests     Table = "requests"     // HMAC(lookup key, client ‖ 0 ‖ idempotency key) → RequestRecord
	TableBurnt        Table = "burnt"        // kind ‖ 0 ‖ id → BurnRecord
	TableCredentials  Table = "credentials"  // list ‖ 0 ‖ index → CredentialRecord; never deleted. Rows of before: now indices are given in the next table
	TableIndices      Table = "indices"      // list ‖ 0 ‖ counter → IndexRecord; never deleted: a counter, and so the index that it stands for, has one credential for ever
	TableChanges      Table = "changes"      // list ‖ 0 ‖ random ‖ number → ChangeRecord; append-only, ordered by revision
	TableLists        Table = "lists"        // id → ListRecord
	TableVersions     Table = "versions"     // list id → VersionRecord
	TableHorizons     Table = "horizons"     // list ‖ 0 ‖ day: some credential of the list is valid on that day
	TableCommitments  Table = "commitments"  // subject commitment in a leaf → its salt
	TableKeys         Table = "keys"         // id → Key
	TableMeta         Table = "meta"         // name → value
	TableCertificates Table = "certificates" // serial → Certificate
	TableRevocations  Table = "revocations"  // serial → Revocation; deleted when a hold is lifted
	TableCRLs         Table = "crls"         // name of the list → CRLRecord
	TableCharges      Table = "charges"      // end of the window ‖ its length ‖ budget ‖ 0 ‖ tag → how many were taken
	TableLatches      Table = "latches"      // phase → LatchRecord
	TableLines        Table = "lines"        // HMAC(lookup key, carrier, line) → LineRecord
	TableLinks        Table = "links"        // type ‖ 0 ‖ pseudonym → LinkRecord
	TableLetters      Table = "letters"      // as lines → LetterRecord
	TableHeld         Table = "held"         // carrier ‖ 0 ‖ end of the hour ‖ type ‖ 0 ‖ pseudonym → HeldRecord
	TableDead         Table = "dead"         // first half of the event's SHA-256 → DeadRecord
	TableFloods       Table = "floods"       // carrier ‖ 0 ‖ end of the hour → FloodDecision
	TableEvents       Table = "events"       // HMAC(lookup key, carrier, event id) → EventRecord
	TableDecisions    Table = "decisions"    // id → DecisionRecord
	TableOfficers     Table = "officers"     // "registry" → the registry of officers
	TableProposals    Table = "proposals"    // id → ProposalRecord
	TableKeyLife      Table = "keylife"      // key ‖ 0 ‖ number → KeyEntry; append-only
	TableMandates     Table = "mandates"     // proposal → MandateRecord, of proposals about keys
	TableKeyUse       Table = "keyuse"       // key → KeyUse
	TableCampaigns    Table = "campaigns"    // id of its proposal → CampaignRecord
	TableCards        Table = "cards"        // campaign ‖ 0 ‖ type ‖ 0 ‖ pseudonym → CardRecord
	TableHolds        Table = "holds"        // campaign → HoldRecord; written once
	TableMasks        Table = "masks"        // campaign ‖ 0 ‖ list → MaskRecord
	TableClients      Table = "clients"      // id → ClientRecord; never deleted
	TableDue          Table = "due"          // second ‖ type ‖ 0 ‖ pseudonym ‖ 0 ‖ order → DueRecord
)

// Tables of a store, by the version of the schema that brought them.
var tables = [][]Table{{
	TableSlots, TableReservations, TableAttempts, TableRequests, TableBurnt, TableCredentials, TableChanges, TableLists, TableVersions,
	TableHorizons, TableCommitments, TableKeys, TableMeta, TableCertificates, TableCRLs,
}, {
	TableCharges, TableLatches,
}, {
	TableLines, TableLinks, TableLetters, TableEvents, TableDue, TableHeld, TableFloods, TableDead, TableDecisions,
	TableOfficers, TableProposals, TableKeyLife, TableMandates, TableKeyUse, TableRevocations, TableCampaigns, TableCards, TableClients,
}, {
	TableHolds, TableMasks,
}, {
	TableIndices,
}}
