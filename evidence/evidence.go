// Package evidence turns statements that others signed into checked facts.
//
// It is pure: no network, no database, no clock. What a check needs travels with the request, is part of the Trust snapshot, or is the
// instant that the caller names. What must happen once only (a nonce, an evidence id) leaves as a Burn, which the ledger burns in the
// same transaction that reserves the signature.
package evidence

import (
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"time"

	"sealkeeper/evidence/android"
	"sealkeeper/internal/ecsig"
	"sealkeeper/internal/mac"
)

// Bundle is what came with a request, still undecoded. Every part is outside bytes.
type Bundle struct {
	Proof          string // OpenID4VCI jwt proof, compact JWS (typ openid4vci-proof+jwt), by one of the attested keys
	KeyAttestation string // OpenID4VCI key attestation, compact JWS (typ key-attestation+jwt); empty: taken from the proof's key_attestation header
	Previous       string // proof by a key that the phone had before, with which it brings new ones; empty: none
	Items          []Item // further signed evidence, a list of kinds
	// Android are raw key attestation chains instead, one for each key: certificates in base64url, leaf first and root last.
	Android [][]string
	Proofs  []string // of further keys, where each has to prove its possession
}

// Item is one signed statement of an evidence authority.
type Item struct {
	Kind  string // KindInPerson, …: each has its own typ, see statement.go
	Token string // compact JWS
}

// About is what the evidence must be bound to. It comes from the connection and the request, never from the evidence.
type About struct {
	Client       string    // mTLS client identity
	DocumentType string    // policy's name of the credential type
	Audience     string    // credential issuer identifier configured for that client
	At           time.Time // the instant of judgement (for a resumed request: of its reservation)
	Session      Session   // that the request named; without one no statement is accepted, because none would be bound to a person
	Profile      Profile
	Status       *PhoneStatus // what is known of revoked attestation keys and wallets; nil: nothing
	StatusMaxAge time.Duration
	Now          time.Time // by which the status must be fresh, where At lies back; zero: At
}

// Trust is an immutable snapshot of what is believed.
type Trust struct {
	WalletProviders []*x509.Certificate // anchors of key attestation chains
	NonceKey        [32]byte            // derived from the domain secret, like the next two
	SessionKey      [32]byte
	PairwiseKey     [32]byte
	Authorities     []Authority   // whose statements are believed
	Android         *Android      // nil: raw Android key attestations are refused
	Apple           *Apple        // nil: App Attest is refused
	NonceLife       time.Duration // how long an appliance nonce lives
	AttestationAge  time.Duration // maximum age of a key attestation (now − iat), beside its own exp
	Skew            time.Duration // tolerated clock difference of signers
	MaxKeys         int           // attested keys a request may carry
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
	BurnCode        BurnKind = "code"
	BurnToken       BurnKind = "token"     // one-time tokens of clients
	BurnStatement   BurnKind = "statement" // by which a client changed its key
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
	Identity           string   // who says who the subject is: IdentityAsserted, or "registry:" and the id of the authority
	KeyStorage         []string // attestation levels, as attested (OpenID4VCI D.2)
	UserAuthentication []string
	AttestationIssuer  string    // subject of the wallet provider's leaf certificate
	AttestationExpires time.Time // exp of the key attestation, or of the phone's attestation key
	Reused             bool      // the attestation was made for an earlier request: it shows nothing new of keys that are not known
	App                string    // package of Android, or team.bundle of Apple; empty: nobody says so
	Statuses           []Status  // that the wallet provider points to
	Previous           [32]byte  // thumbprint of the former key that proved itself too; zero: none
	Statements         []Statement
}

// burnID of a statement that says itself when it was made: that second, which its signer can't change afterwards, and 208 bits of what names it.
// Marks that are made together so lie together in the ledger, instead of each dirtying a page of its own. A nonce also says the millisecond; what
// says which nonce it is for has its time, so that all marks of a request lie together.
func burnID(made time.Time, name [32]byte) [32]byte {
	var second [8]byte
	binary.BigEndian.PutUint64(second[:], uint64(made.Unix()))
	copy(name[:6], second[2:])
	if ms := made.Nanosecond() / 1e6; ms > 0 { // else it may be of before there were any, and its mark may be there
		binary.BigEndian.PutUint16(name[6:], uint16(ms))
	}
	return name
}

// timeOf something that was made for a nonce: the nonce's, as far as that is known.
func timeOf(own, nonce time.Time) time.Time {
	if nonce.Nanosecond() == 0 {
		return own
	}
	return nonce
}

// IdentityAsserted says that nobody but the client vouches for who the subject is.
const IdentityAsserted = "asserted-by-client"

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
	Subject                        [32]byte // of the session; zero: there was none
}

// Valid reports whether v came from Verify.
func (v *Verified) Valid() bool { return v != nil && len(v.keys) > 0 }

// About says what the evidence is bound to.
func (v *Verified) About() Bound { return v.about }

// Keys are the attested keys; the first one made the proof of possession.
func (v *Verified) Keys() []Key { return slices.Clone(v.keys) }

// Facts are the checked facts.
func (v *Verified) Facts() Facts { return v.facts }

// Burns are what may be used once.
func (v *Verified) Burns() []Burn { return slices.Clone(v.burns) }

// Refusal is evidence that was looked at and not believed.
type Refusal struct {
	code, detail string
}

// Code is stable: evidence.proof_malformed, evidence.nonce_expired, …; Codes explains each.
func (r *Refusal) Code() string { return r.code }

// Error says what was wrong, without repeating any of the evidence.
func (r *Refusal) Error() string { return r.code + ": " + r.detail }

func refuse(code, detail string) error { return &Refusal{code: "evidence." + code, detail: detail} }

// Verifier checks evidence against one Trust snapshot. It keeps a cache of verified attestation chains, keyed by their content; as the
// anchors can't change under it, neither can the meaning of a cached entry.
type Verifier struct {
	trust       Trust
	authorities map[string]Authority
	chains      chains
	heads       headers[statementHead]
	attested    headers[attestationHead]
	keys        ecsig.Keys // of authorities and wallet providers
	nonces      mac.Key
	sessions    mac.Key
	pairwise    mac.Key
	memo        *android.Memo
}

// NewVerifier makes a verifier. What the snapshot lacks is refused later: no anchor means no trusted attestation, no nonce key no evidence.
func NewVerifier(t Trust) *Verifier {
	t.WalletProviders = slices.Clone(t.WalletProviders)
	v := &Verifier{trust: t, authorities: make(map[string]Authority, len(t.Authorities)), chains: newChains(t.WalletProviders), memo: android.NewMemo(),
		nonces: mac.New(t.NonceKey), sessions: mac.New(t.SessionKey), pairwise: mac.New(t.PairwiseKey)}
	for _, a := range t.Authorities {
		v.authorities[a.ID] = a
	}
	return v
}

// Verify checks everything of the bundle: OpenID4VCI 1.0 F.4 and D.1, with HAIP's rule for x5c. Errors are *Refusal.
//
// The order is from cheap to dear: whatever can be refused by reading is refused before the first public key operation, and the nonce,
// which an outsider can't forge, comes before anything that costs more than a hash.
func (v *Verifier) Verify(about About, b Bundle) (*Verified, error) {
	if about.Client == "" || about.DocumentType == "" || about.Audience == "" || v.trust.NonceKey == [32]byte{} {
		return nil, refuse("unconfigured", "client, document type, audience and nonce key must all be known before evidence can be bound to them")
	}
	app, wallet, items, err := phoneItems(b.Items)
	if err != nil {
		return nil, err
	}
	statements, err := v.readStatements(about, items)
	if err != nil {
		return nil, err
	}
	p, err := readProof(b.Proof)
	if err != nil {
		return nil, err
	}
	nonce, minted, err := v.checkNonce(about, p.nonce)
	if err != nil {
		return nil, err
	}
	if err := p.check(about, v.trust); err != nil {
		return nil, err
	}
	var h *holder
	if len(b.Android) > 0 {
		h, err = v.byAndroid(about, p, b.KeyAttestation, b.Android)
	} else {
		h, err = v.byProvider(about, p, minted, b.KeyAttestation)
	}
	if err != nil {
		return nil, err
	}
	if err := v.provenBy(about, p, h, b.Proofs); err != nil {
		return nil, err
	}
	if err := v.checkApp(about, p.nonce, h, app); err != nil {
		return nil, err
	}
	if err := v.checkWallet(about, p.nonce, h, wallet); err != nil {
		return nil, err
	}

	previous, err := v.checkPrevious(about, p.nonce, b.Previous)
	if err != nil {
		return nil, err
	}

	facts := h.facts
	facts.Previous = previous
	facts.Kinds, facts.Identity = append(facts.Kinds, "proof_of_possession"), IdentityAsserted
	facts.Statements = slices.Grow(facts.Statements, len(statements))
	burns := append(append(make([]Burn, 0, 2+len(h.burns)+len(statements)), nonce), h.burns...)
	if about.Session.code.Valid() {
		burns = append(burns, v.burnCode(about.Session))
	}
	for _, s := range statements {
		burn, err := v.checkStatement(about, about.Session, minted, s)
		if err != nil {
			return nil, err
		}
		burns = append(burns, burn)
		facts.Kinds = append(facts.Kinds, s.Kind)
		facts.Statements = append(facts.Statements, s.Statement)
		if s.Kind == KindRegistryMatch {
			facts.Identity = "registry:" + s.Authority
		}
	}
	slices.Sort(facts.Kinds)

	keys := make([]Key, 0, len(h.keys))
	keys = append(keys, h.keys[h.proving])
	keys = append(keys, h.keys[:h.proving]...)
	keys = append(keys, h.keys[h.proving+1:]...)
	return &Verified{
		about: Bound{Client: about.Client, DocumentType: about.DocumentType, Audience: about.Audience, At: about.At, Subject: about.Session.subject},
		keys:  keys, facts: facts, burns: burns,
	}, nil
}

// byProvider judges a wallet provider's key attestation.
func (v *Verifier) byProvider(about About, p *proof, minted time.Time, beside string) (*holder, error) {
	text, err := theAttestation(p.attestation, beside)
	if err != nil {
		return nil, err
	}
	a, err := v.readAttestation(text, about.Profile, p)
	if err != nil {
		return nil, err
	}
	reused, err := a.check(about, v.trust, p.nonce)
	if err != nil {
		return nil, err
	}
	h := &holder{keys: a.keys}
	if err := h.namedBy(about, p); err != nil { // before anything that costs
		return nil, err
	}
	statuses, err := a.statuses(about)
	if err != nil {
		return nil, err
	}
	issuer, err := v.chains.verify(a.header.chain, about.At)
	if err != nil {
		return nil, err
	}
	if !a.signedByKnown(&v.keys, issuer.key) {
		return nil, refuse("attestation_signature", "the key attestation isn't signed by the leaf of its own x5c with its own alg")
	}
	v.attested.keep(a.head, a.header)
	h.facts = Facts{Kinds: []string{KindKeyAttestation}, KeyStorage: a.keyStorage, UserAuthentication: a.userAuthentication,
		AttestationIssuer: issuer.subject, AttestationExpires: a.expires, Reused: reused, Statuses: statuses}
	h.anchor = issuer.anchor
	if !reused { // what is used again was burnt the first time
		h.burns = append(h.burns, a.burn(issuer.spki, minted, v.trust.Skew))
	}
	return h, nil
}

// namedBy finds the key that made the proof, and holds it against the session.
func (h *holder) namedBy(about About, p *proof) (err error) {
	if h.proving, err = p.keyAmong(h.keys); err != nil {
		return err
	}
	if about.Profile.FirstKey && h.proving != 0 {
		return refuse("proof_key_order", "the proof must be by the first of the attested keys")
	}
	return about.Session.binds(about, p, h.keys[h.proving])
}

// provenBy holds the proofs against the attested keys: one for all of them, or one by each.
func (v *Verifier) provenBy(about About, p *proof, h *holder, more []string) error {
	if !about.Profile.EachKey && len(more) > 0 {
		return refuse("proof_unasked", "one proof is for all keys of this type: leave the others out")
	}
	if about.Profile.EachKey && len(more) != len(h.keys)-1 {
		return refuse("proof_of_each", "every attested key must prove its possession: send one proof for each, none for others")
	}
	if !p.signedBy(h.keys[h.proving].Public) {
		return refuse("proof_signature", "the proof isn't signed by the key that it names")
	}
	seen := []int{h.proving}
	for _, text := range more {
		o, err := readProof(text)
		if err != nil {
			return err
		}
		if o.nonce != p.nonce {
			return refuse("proof_of_each", "the proofs of one request must have the same nonce")
		}
		if err := o.check(about, v.trust); err != nil {
			return err
		}
		i, err := o.keyAmong(h.keys)
		if err != nil {
			return err
		}
		if slices.Contains(seen, i) || o.attestation != "" && o.attestation != p.attestation {
			return refuse("proof_of_each", "two proofs are by one key, or one has a key attestation of its own")
		}
		if seen = append(seen, i); !o.signedBy(h.keys[i].Public) {
			return refuse("proof_signature", "the proof isn't signed by the key that it names")
		}
	}
	return nil
}

// printable is a kind in a form that may stand in an answer and a log: short, and of plain letters only.
func printable(kind string) string {
	if len(kind) == 0 || len(kind) > 40 {
		return "(unprintable)"
	}
	for i := range len(kind) {
		if c := kind[i]; c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return "(unprintable)"
		}
	}
	return kind
}
