// Package wire is what the daemon and its HSM worker processes say to each other over a socketpair, and the check that keeps a broken
// daemon from using a key outside its purpose.
//
// A frame is a 4-byte big-endian length and a CBOR body; both directions, at most MaxFrame bytes. The daemon sends Hello once, the worker
// answers Ready once; then any number of Request and Response in any order, matched by ID.
package wire

import "sync"

// MaxFrame bounds a frame before anything is allocated for it.
const MaxFrame = 8 << 20

// Hello gives the worker everything it needs. PIN and frame are wiped by both sides after use.
type Hello struct {
	Module   string    `cbor:"1,keyasint"` // PKCS#11 library
	Token    string    `cbor:"2,keyasint"` // label
	Serial   string    `cbor:"3,keyasint"` // serial; empty: any
	PIN      []byte    `cbor:"4,keyasint"`
	Keys     []Key     `cbor:"5,keyasint"`
	Sessions int       `cbor:"6,keyasint"` // sessions to keep open
	Copies   bool      `cbor:"7,keyasint"` // use session-object copies of keys that allow it (embedded SoftHSM only)
	Secret   []Wrapped `cbor:"8,keyasint"` // domain secret, wrapped to a key of this token; empty for tokens without
}

// Key that the worker shall find, check and use.
type Key struct {
	ID        string `cbor:"1,keyasint"`
	CKAID     []byte `cbor:"2,keyasint"`
	Purpose   string `cbor:"3,keyasint"`
	Algorithm string `cbor:"4,keyasint"` // ES256, ES384, EdDSA
	SPKI      []byte `cbor:"5,keyasint"` // pinned
	Copies    bool   `cbor:"6,keyasint"`
}

// Wrapped is the domain secret under an AES key of the token (CKM_AES_KEY_WRAP_PAD).
type Wrapped struct {
	CKAID []byte `cbor:"1,keyasint"` // of the wrapping key
	Blob  []byte `cbor:"2,keyasint"`
}

// Ready answers Hello. An empty Class means that every key was found, matched its pin and attributes, and the worker takes requests.
type Ready struct {
	Class  Class  `cbor:"1,keyasint"`
	Error  string `cbor:"2,keyasint"` // what, which key by name, what to do; never a PIN
	Serial string `cbor:"3,keyasint"`
}

// Op is what is asked for.
type Op uint8

const (
	OpSign     Op = 1
	OpDerive   Op = 2 // HMAC-SHA256(domain secret, label)
	OpGenerate Op = 3 // init and ceremonies: make a signing key pair
	OpSecret   Op = 4 // init: make the domain secret and a wrapping key
	OpPing     Op = 5
	OpMark     Op = 6 // read the token's marks; with Request.Mark, write that one first
	OpDestroy  Op = 7 // take all objects with Request.Destroy as CKA_ID off the token
	OpKeys     Op = 8 // name the CKA_IDs of all private keys on the token
)

// Request is a batch.
type Request struct {
	ID       uint64    `cbor:"1,keyasint"`
	Op       Op        `cbor:"2,keyasint"`
	Sign     []Sign    `cbor:"3,keyasint,omitempty"`
	Label    string    `cbor:"4,keyasint,omitempty"` // OpDerive
	Generate *Generate `cbor:"5,keyasint,omitempty"`
	Mark     []byte    `cbor:"6,keyasint,omitempty"` // OpMark: MarkSize bytes, or none
	Destroy  []byte    `cbor:"7,keyasint,omitempty"` // OpDestroy
}

// Sign is one signature: the purpose and the exact TBS go in, the worker hashes.
type Sign struct {
	KeyID   string `cbor:"1,keyasint"`
	Purpose string `cbor:"2,keyasint"`
	TBS     TBS    `cbor:"3,keyasint"`
}

// TBS is what is signed, a copy in memory of its own.
type TBS []byte

// spare is memory of what was signed: new memory for a few KB each time would never be in the processor's caches.
var spare = sync.Pool{New: func() any { return &TBS{} }}

const spareSize = 64 << 10 // larger ones are not kept

// UnmarshalBinary is how a byte string is decoded.
func (t *TBS) UnmarshalBinary(b []byte) error {
	*t = append((*spare.Get().(*TBS))[:0], b...)
	return nil
}

// Signed takes what was to be signed out of a request that Read made, so that its memory is used again. Nobody else may have it any more.
func (r *Request) Signed() {
	for i := range r.Sign {
		t := r.Sign[i].TBS
		if r.Sign[i].TBS = nil; cap(t) > 0 && cap(t) <= spareSize {
			spare.Put(&t)
		}
	}
}

// Generate a key pair on the token by the strict template of pkcs11.md 4.
type Generate struct {
	Label     string `cbor:"1,keyasint"`
	Algorithm string `cbor:"2,keyasint"`
	Copies    bool   `cbor:"3,keyasint"` // COPYABLE and MODIFIABLE: needed for session copies
	CKAID     []byte `cbor:"4,keyasint"` // chosen and recorded before: a pair that is there already is the one that was asked for before a crash
}

// Response answers a Request, item by item.
type Response struct {
	ID      uint64   `cbor:"1,keyasint"`
	Class   Class    `cbor:"2,keyasint"` // of the whole batch; empty: look at the items
	Error   string   `cbor:"3,keyasint,omitempty"`
	Results []Result `cbor:"4,keyasint,omitempty"`  // OpSign: as many as asked
	Secret  []byte   `cbor:"5,keyasint,omitempty"`  // OpDerive: 32 bytes
	CKAID   []byte   `cbor:"6,keyasint,omitempty"`  // OpGenerate; OpSecret: of the wrapping key
	SPKI    []byte   `cbor:"7,keyasint,omitempty"`  // OpGenerate
	Blob    []byte   `cbor:"8,keyasint,omitempty"`  // OpSecret: wrapped
	Marks   [][]byte `cbor:"9,keyasint,omitempty"`  // OpMark: what is there now
	Keys    [][]byte `cbor:"10,keyasint,omitempty"` // OpKeys
}

// Result of one signature: raw r‖s, or 64 bytes of Ed25519.
type Result struct {
	Signature []byte `cbor:"1,keyasint,omitempty"`
	Class     Class  `cbor:"2,keyasint,omitempty"`
	Error     string `cbor:"3,keyasint,omitempty"`
}

// Class of a PKCS#11 failure decides what happens next.
type Class string

const (
	OK      Class = ""
	Session Class = "session" // new session, log in, look keys up again, once more
	Worker  Class = "worker"  // this process is of no use any more: replace it
	Stop    Class = "stop"    // PIN refused or locked, key ambiguous or changed: stop and alarm, never retry
	Missing Class = "missing" // at a start: what the registry knows is not on the token, which is an old one or another; never retry
	Faulty  Class = "request" // the request's own fault: wrong prefix, unknown key
)
