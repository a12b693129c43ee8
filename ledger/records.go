package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"sealkeeper/internal/strict"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// The stored forms. Rows are JSON, with bytes in base64, and never a person's data: pseudonyms, thumbprints and hashes only.

// SlotRecord is a subject's state for one document type.
type SlotRecord struct {
	DocumentType string           `json:"document_type"`
	Subject      policy.Pseudonym `json:"subject"`
	State        state.State      `json:"state"`
}

// Progress of a reservation.
type Progress string

const (
	InProgress Progress = "reserved"
	Settled    Progress = "settled"
	Dropped    Progress = "dropped"  // another reservation of the same list version, certificate or CRL won
	Replaced   Progress = "replaced" // by ReserveAgain
	GivenUp    Progress = "given-up" // nobody finished it in time
)

// ReservationRecord is what was durable before the HSM was asked.
type ReservationRecord struct {
	ID            string           `json:"id"`
	Seq           uint64           `json:"seq,omitzero"` // once written again; until then one less than the row's revision
	Kind          policy.Kind      `json:"kind"`
	Progress      Progress         `json:"progress"`
	Client        string           `json:"client,omitempty"`
	At            time.Time        `json:"at"`
	Policy        policy.Hash      `json:"policy"`
	PolicyVersion uint64           `json:"policy_version,omitzero"`
	Identity      string           `json:"identity,omitempty"`
	Lane          policy.Lane      `json:"lane"`
	DocumentType  string           `json:"document_type,omitempty"`
	Subject       policy.Pseudonym `json:"subject,omitzero"`
	Salt          [16]byte         `json:"salt,omitzero"` // of the subject commitment in the leaf
	Device        string           `json:"device,omitempty"`
	Before        policy.Slot      `json:"before,omitzero"`
	Items         []ItemRecord     `json:"items"`
	Superseded    []string         `json:"superseded,omitempty"`
	Request       []byte           `json:"request,omitempty"` // key of its RequestRecord
	Replaces      string           `json:"replaces,omitempty"`
	List          *VersionRecord   `json:"list,omitempty"` // without the token
	Cert          *Certificate     `json:"cert,omitempty"` // without the DER
	CRL           *CRLRecord       `json:"crl,omitempty"`  // without the DER
}

// ItemRecord is one wanted signature.
type ItemRecord struct {
	KeyID    string         `json:"key"`
	Purpose  policy.Purpose `json:"purpose"`
	TBSHash  [32]byte       `json:"tbs"`
	Format   policy.Format  `json:"format,omitempty"`
	List     string         `json:"list,omitempty"`
	Index    uint64         `json:"index,omitzero"`
	Key      [32]byte       `json:"thumbprint,omitzero"` // of the holder's key
	NotAfter time.Time      `json:"not_after,omitzero"`
	Worker   string         `json:"worker,omitempty"` // whose signature was released, if it was the first try's
}

// Try is the state of an attempt.
type Try string

const (
	TrySent    Try = "sent"    // may have reached an HSM
	TrySettled Try = "settled" // its signature was released
	TryDropped Try = "dropped" // its signature was bad or came second
	TryUnknown Try = "unknown" // its worker died or hung
)

// AttemptRecord is one try at one signature. The first one is made with the reservation and has no row as long as nothing happens to it but that
// its signature is released.
type AttemptRecord struct {
	Worker string    `json:"worker,omitempty"` // empty while it is not known which one took the first try
	At     time.Time `json:"at"`
	State  Try       `json:"state"`
}

// RequestRecord makes a request repeatable. Only the caller's key opens Sealed, and only a hash of that key under another key is stored.
type RequestRecord struct {
	Client      string    `json:"client"`
	Request     [32]byte  `json:"request"`
	RowSalt     [32]byte  `json:"row_salt"`
	Reservation string    `json:"reservation"`
	At          time.Time `json:"at"`
	Settled     time.Time `json:"settled,omitzero"`
	AckBy       time.Time `json:"ack_by,omitzero"`  // until when the phone must have shown that it has its credentials
	Sealed      []byte    `json:"sealed,omitempty"` // nonce ‖ AES-256-GCM; written raw behind the JSON and a zero byte
}

// DueRecord says whose orders are to be looked at; its key says when.
type DueRecord struct {
	DocumentType string           `json:"document_type"`
	Subject      policy.Pseudonym `json:"subject"`
	Order        string           `json:"order"`
}

// BurnRecord marks something that was used.
type BurnRecord struct {
	Until time.Time `json:"until"`
}

// CredentialRecord gives an index to one credential.
//
// Its row had the index as its key until indices were written by the counter from which they are derived: these come in their order, so that the rows of
// many issues share a page, where indices are random and each changed a page of its own.
type CredentialRecord struct {
	Reservation string        `json:"reservation"`
	Item        int           `json:"item"`
	Format      policy.Format `json:"format"`
	NotAfter    time.Time     `json:"not_after"`
}

// IndexRecord is the same, by counter.
type IndexRecord struct {
	Index uint64 `json:"index"`
	CredentialRecord
}

// ChangeRecord is one change of a status; the row's revision says when in the journal.
type ChangeRecord struct {
	Index uint64    `json:"index"`
	From  byte      `json:"from"`
	To    byte      `json:"to"`
	At    time.Time `json:"at"`
	// Kept is a status that a published list showed when the fence was lifted, of an index that no credential here has.
	Kept bool `json:"kept,omitzero"`
}

// ListRecord is a status list. Counters below Leased were given out or burnt.
type ListRecord struct {
	ID           string        `json:"id"`
	URI          string        `json:"uri"`
	DocumentType string        `json:"document_type"`
	Format       policy.Format `json:"format"`
	Bits         int           `json:"bits"`
	Size         uint64        `json:"size"`
	Order        string        `json:"order,omitzero"` // of its indices
	Leased       uint64        `json:"leased"`
	Opened       time.Time     `json:"opened"`
	Closed       time.Time     `json:"closed,omitzero"`
}

// VersionRecord is the newest settled version of a list.
type VersionRecord struct {
	ID       string    `json:"id"`
	Version  uint64    `json:"version"`
	IssuedAt time.Time `json:"iat"`
	Expires  time.Time `json:"exp"`
	TTL      int64     `json:"ttl"`           // seconds
	Through  uint64    `json:"through"`       // journal sequence number that the token shows everything up to
	Key      string    `json:"key,omitempty"` // that signed it
	Token    []byte    `json:"token,omitempty"`
}

// CRLRecord is the newest revocation list of a CA, or of one distribution point.
type CRLRecord struct {
	Name       string    `json:"name"`
	CA         string    `json:"ca"` // id of the key that signs it
	Scope      string    `json:"scope,omitempty"`
	Through    uint64    `json:"through"`              // journal sequence number that the list says everything up to
	LastUpdate time.Time `json:"last_update,omitzero"` // thisUpdate of the one before: what ended earlier is not listed any more
	Number     uint64    `json:"number"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
	Jumped     bool      `json:"jumped,omitempty"` // the number, by lifting a fence: the list itself is an older one, and has to be signed again
	DER        []byte    `json:"der,omitempty"`
}

// Leaf is what the transparency log says of a change. Leaves are public in the end: a subject is a salted commitment whose salt stays
// outside, and none names a status index.
type Leaf struct {
	V             int           `json:"v"` // 1
	Kind          string        `json:"kind"`
	At            time.Time     `json:"at"`
	Client        string        `json:"client,omitempty"`
	Policy        string        `json:"policy,omitempty"` // bundle hash, hex
	PolicyVersion uint64        `json:"policy_version,omitzero"`
	Subject       []byte        `json:"subject,omitempty"` // HMAC-SHA256(commit key, pseudonym ‖ salt)
	Reservation   string        `json:"reservation,omitempty"`
	Replaces      string        `json:"replaces,omitempty"`
	Operation     string        `json:"operation,omitempty"`
	Reason        string        `json:"reason,omitempty"`
	Class         string        `json:"class,omitempty"`
	Effect        string        `json:"effect,omitempty"` // of a change: "apply", "none"
	Items         []LeafItem    `json:"items,omitempty"`
	Name          string        `json:"name,omitempty"` // meta, key, certificate, list
	State         string        `json:"state,omitempty"`
	Version       uint64        `json:"version,omitzero"`
	Count         uint64        `json:"count,omitzero"`
	Digest        []byte        `json:"digest,omitempty"` // SHA-256 of a meta value, a key's SPKI, a public object
	Reasons       []string      `json:"reasons,omitempty"`
	Signers       []string      `json:"signers,omitempty"` // of a policy bundle
	Format        policy.Format `json:"format,omitempty"`
	Charges       []LeafCharge  `json:"charges,omitempty"`
	Latch         string        `json:"latch,omitempty"`    // the phase that begins with this reservation
	Decision      []byte        `json:"decision,omitempty"` // SHA-256 of the decision's row; of many denials, of the SHA-256 of each
	Proposal      string        `json:"proposal,omitempty"` // of officers
	Registry      []byte        `json:"registry,omitempty"` // SHA-256 of the registry of officers that the lifting of a fence put into the place of the one before
	About         string        `json:"about,omitempty"`    // the client that a token, a certificate or a revocation is about
	Dropped       uint64        `json:"dropped,omitzero"`   // denials that were one too many since the last
	Keys          []LeafKey     `json:"keys,omitempty"`     // steps of keys' lives, in their order

	Certificates []LeafCertificate `json:"certificates,omitempty"` // whose revocation began, changed or ended
}

// LeafKey is a step of a key's life in a leaf.
type LeafKey struct {
	ID    string   `json:"id"`
	State KeyState `json:"state"`
	Entry []byte   `json:"entry"` // SHA-256 of the KeyEntry
}

// LeafCertificate is a certificate in a leaf. Serials are public, in revocation lists.
type LeafCertificate struct {
	Serial []byte                  `json:"serial"`
	CA     string                  `json:"ca"`
	State  string                  `json:"state"` // "revoked", "lifted"
	Reason policy.RevocationReason `json:"reason,omitempty"`
}

// LeafItem is one signature or attempt in a leaf.
type LeafItem struct {
	Item    int            `json:"item"`
	Key     string         `json:"key,omitempty"`
	Purpose policy.Purpose `json:"purpose,omitempty"`
	TBS     []byte         `json:"tbs_sha256,omitempty"`
	Attempt int            `json:"attempt"`
	Worker  string         `json:"worker,omitempty"`
}

func encode(v any) []byte {
	w, ok := v.(written)
	if leaf, is := v.(Leaf); is && leaf.Kind != "reserve" && leaf.Kind != "settle" {
		ok = false // the many other kinds are rare
	}
	if ok {
		return encodeWritten(w)
	}
	return marshal(v)
}

// maxRowDepth is far deeper than any row.
const maxRowDepth = 32

func decode[T any](t Table, value []byte) (*T, error) {
	v := new(T)
	var sealed []byte
	request, _ := any(v).(*RequestRecord)
	if request != nil {
		value, sealed = apart(value)
	}
	all := strict.Limits{Bytes: len(value), Depth: maxRowDepth, Values: len(value) + 1, Escapes: len(value) + 1} // of what we wrote
	if err := strict.JSON(value, all, v); err != nil {
		return nil, fmt.Errorf("a row of table %s is damaged: %w", t, err)
	}
	if sealed != nil {
		if len(sealed) == 0 || len(request.Sealed) > 0 {
			return nil, fmt.Errorf("a row of table %s is damaged: it has an empty answer, or two", t)
		}
		request.Sealed = bytes.Clone(sealed)
	}
	return v, nil
}

func slotKey(documentType string, p policy.Pseudonym) []byte {
	return append(append([]byte(documentType), 0), p[:]...)
}

func attemptKey(reservation string, item, n int) []byte {
	k := append([]byte(reservation), 0)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(k, uint32(item)), uint32(n))
}

func credentialKey(list string, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(list), 0), index)
}

func indexKey(list string, counter uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(list), 0), counter)
}

func horizonKey(list string, day int64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(list), 0), uint64(day))
}

// dueKey begins with the second at which the order's next step is due.
func dueKey(documentType string, p policy.Pseudonym, o state.Order) []byte {
	k := binary.BigEndian.AppendUint64(nil, uint64(o.Next().Unix()))
	return append(append(append(k, slotKey(documentType, p)...), 0), o.ID...)
}

func burnKey(kind string, id [32]byte) []byte { return append(append([]byte(kind), 0), id[:]...) }
