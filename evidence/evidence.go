// Package evidence turns statements that others signed into checked facts.
//
// It is pure: no network, no database, no clock. What a check needs travels with the request, is part of the Trust snapshot, or is the
// instant that the caller names. What must happen once only (a nonce, an evidence id) leaves as a Burn, which the ledger burns in the
// same transaction that reserves the signature.
package evidence

import (
	"crypto"
	"crypto/x509"
	"time"
)

// Bundle is what came with a request, still undecoded. Every part is outside bytes.
type Bundle struct {
	Proof          string // OpenID4VCI jwt proof, compact JWS (typ openid4vci-proof+jwt), by one of the attested keys
	KeyAttestation string // OpenID4VCI key attestation, compact JWS (typ key-attestation+jwt); empty: taken from the proof's key_attestation header
	Items          []Item // further signed evidence, a list of kinds
}

// Item is one signed statement of an evidence authority.
type Item struct {
	Kind  string // "in_person", "registry_match", …: none is known yet, so every item is refused with evidence.kind_unknown
	Token string // compact JWS
}

// About is what the evidence must be bound to. It comes from the connection and the request, never from the evidence.
type About struct {
	Client       string    // mTLS client identity
	DocumentType string    // policy's name of the credential type
	Audience     string    // credential issuer identifier configured for that client
	At           time.Time // the instant of judgement (for a resumed request: of its reservation)
}

// Trust is an immutable snapshot of what is believed.
type Trust struct {
	WalletProviders []*x509.Certificate // anchors of key attestation chains
	NonceKey        [32]byte            // derived from the domain secret
	NonceLife       time.Duration       // how long an appliance nonce lives
	AttestationAge  time.Duration       // maximum age of a key attestation (now − iat), beside its own exp
	Skew            time.Duration       // tolerated clock difference of signers
	MaxKeys         int                 // attested keys a request may carry
}

// Key is one attested key of a phone.
type Key struct {
	Public     crypto.PublicKey // *ecdsa.PublicKey on P-256 or P-384, or ed25519.PublicKey
	Thumbprint [32]byte         // RFC 7638, SHA-256
	JWK        []byte           // canonical public JWK: required members only, lexicographic order
}

// BurnKind separates the name spaces of things that happen once.
type BurnKind string

const (
	BurnNonce       BurnKind = "nonce"
	BurnAttestation BurnKind = "attestation"
	BurnEvidence    BurnKind = "evidence"
)

// Burn is something that must be unused, and is used by this request.
type Burn struct {
	Kind  BurnKind
	ID    [32]byte
	Until time.Time // after this instant the evidence is refused for its age, so the burnt mark may be forgotten
}

// Facts are what policy may judge.
type Facts struct {
	Kinds              []string // evidence kinds present, sorted: "key_attestation", "proof_of_possession", …
	Identity           string   // who says who the subject is: "asserted-by-client" until evidence of identity is part of the bundle
	KeyStorage         []string // attestation levels, as attested (OpenID4VCI D.2)
	UserAuthentication []string
	AttestationIssuer  string    // subject of the wallet provider's leaf certificate
	AttestationExpires time.Time // exp of the key attestation
}

// Verified proves that Verify accepted the evidence. The zero value is refused by everything that takes it.
type Verified struct {
	about Bound
	keys  []Key
	facts Facts
	burns []Burn
}

// Bound repeats what the evidence was verified against.
type Bound struct {
	Client, DocumentType, Audience string
	At                             time.Time
}

// Valid reports whether v came from Verify.
func (v *Verified) Valid() bool { return v != nil && len(v.keys) > 0 }

// About says what the evidence is bound to.
func (v *Verified) About() Bound { return v.about }

// Keys are the attested keys; the first one made the proof of possession.
func (v *Verified) Keys() []Key { return v.keys }

// Facts are the checked facts.
func (v *Verified) Facts() Facts { return v.facts }

// Burns are what may be used once.
func (v *Verified) Burns() []Burn { return v.burns }

// Refusal is evidence that was looked at and not believed.
type Refusal struct {
	code, detail string
}

// Code is stable: evidence.proof_malformed, evidence.nonce_expired, …; docs/errors.md explains each.
func (r *Refusal) Code() string { return r.code }

// Error says what was wrong, without repeating any of the evidence.
func (r *Refusal) Error() string { return r.code + ": " + r.detail }

func refuse(code, detail string) error { return &Refusal{code: "evidence." + code, detail: detail} }

// Verifier checks evidence against one Trust snapshot. It keeps a cache of verified attestation chains, keyed by their content.
type Verifier struct{}

// NewVerifier makes a verifier.
func NewVerifier(t Trust) *Verifier { return nil }

// Verify checks everything of the bundle: formats.md 5.1 (OpenID4VCI F.4 and D.1). Errors are *Refusal.
func (v *Verifier) Verify(about About, b Bundle) (*Verified, error) { return nil, nil }

// Nonce mints a nonce for a client and document type: it authenticates itself (MAC over client, document type and time), so nothing is
// stored until it is used. random must be crypto/rand outside tests.
func (v *Verifier) Nonce(client, documentType string, at time.Time, random [16]byte) (nonce string, expires time.Time) {
	return "", time.Time{}
}
