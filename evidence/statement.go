package evidence

import (
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/strict"
)

// Statements are compact JWS by evidence authorities, one kind each: what an officer, the register, a face matcher, a chip reader or a
// carrier says of one person in one session. The typ of each kind is its own, so that no statement can stand for one of another kind; sub
// is the authority's own pseudonym of the person and session the id of the session, so none can be taken into another request.
// docs/evidence.md has the formats.

// MaxStatements a request may carry.
const MaxStatements = 16

const maxStatement = 8 << 10 // bytes of text

const maxLine = 128 // bytes of a carrier's name of a line, in statements and in events

var (
	statementHeader  = strict.Limits{Bytes: 1 << 10, Depth: 2}
	statementPayload = strict.Limits{Bytes: 6 << 10, Depth: 4}
)

// Kinds of statements.
const (
	KindInPerson      = "in_person"
	KindRegistryMatch = "registry_match"
	KindFaceMatch     = "face_match"
	KindChipRead      = "chip_read"
	KindLineOwnership = "line_ownership"
)

// StatementType is the typ of a kind's JWS; empty for an unknown kind.
func StatementType(kind string) string {
	switch kind {
	case KindInPerson:
		return "sealkeeper-in-person+jwt"
	case KindRegistryMatch:
		return "sealkeeper-registry-match+jwt"
	case KindFaceMatch:
		return "sealkeeper-face-match+jwt"
	case KindChipRead:
		return "sealkeeper-chip-read+jwt"
	case KindLineOwnership:
		return "sealkeeper-line-ownership+jwt"
	}
	return ""
}

// Authority is who may say something, as the signed bundle lists it.
type Authority struct {
	ID        string // iss
	Kinds     []string
	Keys      []AuthorityKey
	Off       bool     // kill switch
	Districts []string // in_person and registry_match: the districts it may speak of; none: all
	Clients   []string // the clients through which its statements may come; none: all
}

// AuthorityKey is one key of an authority with the time in which statements may be signed by it.
type AuthorityKey struct {
	ID                  string // kid
	Public              crypto.PublicKey
	NotBefore, NotAfter time.Time // of iat; NotAfter zero: open
	Off                 bool      // everything that it signed is refused from now on, also what was signed before
}

// Statement is one that was verified. Exactly one of the pointers is set, the one of its kind.
type Statement struct {
	Kind      string
	Authority string
	Key       string // kid
	IssuedAt  time.Time

	InPerson      *InPerson
	RegistryMatch *RegistryMatch
	FaceMatch     *FaceMatch
	ChipRead      *ChipRead
	LineOwnership *LineOwnership
}

// InPerson: an officer saw the person at an office.
type InPerson struct {
	Officer   string `json:"officer"`    // the office's name of the officer, not a person's
	Office    string `json:"office"`     // id of the office
	District  string `json:"district"`   // in which the office is
	Method    string `json:"method"`     // "qr": the phone scanned a code that the officer made after checking; "counter"
	CardSeen  bool   `json:"card_seen"`  // the plastic card was presented
	NotBefore *int64 `json:"not_before"` // time window of the officer's vouching
	NotAfter  *int64 `json:"not_after"`  //
	Reference string `json:"reference,omitempty"`
}

// RegistryMatch: what the register holds, as salted digests, so that the statement carries no personal data.
type RegistryMatch struct {
	District   string            `json:"district"`              // of residence
	Salt       string            `json:"salt"`                  // base64url, 16 to 64 bytes
	Attributes map[string]string `json:"attributes"`            // claim name → base64url(SHA-256(salt ‖ name ‖ 0x00 ‖ RFC 8785 form of the value))
	Epoch      uint64            `json:"epoch"`                 // grows with each change of the person's attributes
	CardStatus string            `json:"card_status"`           // of the plastic card: "valid", "lost", "superseded", "none"
	CardExpiry string            `json:"card_expiry,omitempty"` // date

	salt []byte // decoded
}

// FaceMatch: the person before the camera is the one of the reference picture.
type FaceMatch struct {
	Level     string `json:"level"`     // "substantial" or "high"
	Liveness  int    `json:"liveness"`  // ISO/IEC 30107-3 level of presentation attack detection: 0 none, 1, 2
	Algorithm string `json:"algorithm"` // id of the matcher
	Reference string `json:"reference"` // "card_photo", "register_photo", "chip_photo"
}

// ChipRead: the card's chip was read over the session's nonce.
type ChipRead struct {
	Passive     bool   `json:"passive"`      // the card's data are signed by its issuer (ICAO 9303-11 passive authentication)
	Chip        string `json:"chip"`         // "chip_authentication", "active_authentication" or "none": a copied chip fails here
	Challenge   string `json:"challenge"`    // base64url SHA-256 of the session's nonce, which the chip answered to
	PINVerified bool   `json:"pin_verified"` //
	Card        string `json:"card"`         // the reader's pseudonym of the card's number
	CardExpiry  string `json:"card_expiry"`  // date
}

// LineOwnership: the line of this phone is the person's own.
type LineOwnership struct {
	Line       string `json:"line"`       // the carrier's own pseudonym of the line; its events name it
	Subscriber string `json:"subscriber"` // "self" or "other"
	LineKind   string `json:"line_kind"`  // "personal", "corporate", "family", "prepaid"
}

// statement is one item, decoded, its signature not yet verified.
type statement struct {
	token
	header               statementHead
	id, session, subject string
	expires              time.Time
	Statement
}

// readStatements reads every item, and one of each kind: of two, policy might look at the one and the register mean the other.
func (v *Verifier) readStatements(about About, items []Item) ([]*statement, error) {
	if len(items) == 0 {
		return nil, nil
	}
	if len(items) > MaxStatements {
		return nil, refuse("too_many", "the request carries more than 16 evidence items")
	}
	out := make([]*statement, 0, len(items))
	for _, item := range items {
		s, err := v.readStatement(item)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o *statement) bool { return o.Kind == s.Kind }) {
			return nil, refuse("kind_twice", "the request carries two items of kind "+s.Kind)
		}
		out = append(out, s)
	}
	if !about.Session.Valid() {
		return nil, refuse("session_missing", "evidence items are bound to a session, and the request names none: open one first")
	}
	return out, nil
}

// readStatement decodes strictly: a member that is not known might be a condition that nobody would look at.
func (v *Verifier) readStatement(item Item) (*statement, error) {
	typ := StatementType(item.Kind)
	if typ == "" {
		return nil, refuse("kind_unknown", "no evidence of kind "+printable(item.Kind)+" is known to this version")
	}
	malformed := func(why string) error { return refuse(item.Kind+"_malformed", why) }
	if len(item.Token) > maxStatement {
		return nil, malformed("the statement is larger than 8 KiB")
	}
	t, ok := split(item.Token)
	if !ok {
		return nil, malformed("the statement is not three parts of canonical base64url")
	}
	h, err := v.statementHead(&t, item.Kind, typ)
	if err != nil {
		return nil, err
	}
	s := &statement{token: t, header: h, Statement: Statement{Kind: item.Kind, Key: h.Kid}}

	var c common
	switch item.Kind {
	case KindInPerson:
		p := struct {
			common
			InPerson
		}{}
		err = strict.JSON(t.payload, statementPayload, &p)
		c, s.InPerson = p.common, &p.InPerson
	case KindRegistryMatch:
		p := struct {
			common
			RegistryMatch
		}{}
		err = strict.JSON(t.payload, statementPayload, &p)
		c, s.RegistryMatch = p.common, &p.RegistryMatch
	case KindFaceMatch:
		p := struct {
			common
			FaceMatch
		}{}
		err = strict.JSON(t.payload, statementPayload, &p)
		c, s.FaceMatch = p.common, &p.FaceMatch
	case KindChipRead:
		p := struct {
			common
			ChipRead
		}{}
		err = strict.JSON(t.payload, statementPayload, &p)
		c, s.ChipRead = p.common, &p.ChipRead
	case KindLineOwnership:
		p := struct {
			common
			LineOwnership
		}{}
		err = strict.JSON(t.payload, statementPayload, &p)
		c, s.LineOwnership = p.common, &p.LineOwnership
	}
	if err != nil || c.Iss == "" || c.Sub == "" || c.Session == "" || len(c.JTI) < 16 || len(c.JTI) > 128 {
		return nil, malformed("the statement's payload is not one strict JSON object with exactly the members of its kind, iss, sub, session and a jti of 16 to 128 characters among them")
	}
	var known bool
	if s.IssuedAt, known = instant(c.Iat); !known {
		return nil, malformed("the statement has no iat in whole seconds")
	}
	if s.expires, known = instant(c.Exp); !known {
		return nil, malformed("the statement has no exp in whole seconds")
	}
	// An absent member would compare like an empty one, which names no district, no lost card and no day: every check of it would pass. A line
	// that no event can name would be linked in vain: the loss of the phone would lock nothing.
	switch {
	case s.InPerson != nil && s.InPerson.District == "", s.RegistryMatch != nil && s.RegistryMatch.District == "":
		return nil, malformed("the statement has no district")
	case s.ChipRead != nil && s.ChipRead.Card == "":
		return nil, malformed("the statement has no card")
	case s.ChipRead != nil && s.ChipRead.CardExpiry == "":
		return nil, malformed("the statement has no card_expiry")
	case s.LineOwnership != nil && (s.LineOwnership.Line == "" || len(s.LineOwnership.Line) > maxLine):
		return nil, malformed("the statement has no line of 1 to 128 bytes")
	}
	if s.RegistryMatch != nil {
		m, ok := s.RegistryMatch, false
		if m.salt, ok = decode64(m.Salt); !ok || len(m.salt) < 16 || len(m.salt) > 64 || len(m.Attributes) > 128 {
			return nil, malformed("the statement's salt is not 16 to 64 bytes of base64url, or it has more than 128 attributes")
		}
	}
	s.Authority, s.id, s.session, s.subject = c.Iss, c.JTI, c.Session, c.Sub
	return s, nil
}

// common is what every statement has.
type common struct {
	Iss     string `json:"iss"`     // id of the authority
	Sub     string `json:"sub"`     // the authority's pseudonym of the person
	Session string `json:"session"` // id of the session
	JTI     string `json:"jti"`
	Iat     *int64 `json:"iat"`
	Exp     *int64 `json:"exp"`
}

// check holds a statement against its authority and the session. The signature, which costs most, comes last.
func (v *Verifier) checkStatement(about About, session Session, nonce time.Time, s *statement) (Burn, error) {
	code := func(reason string) string { return s.Kind + "_" + reason }
	a, key, err := v.keyOf(s.Kind, s.Authority, s.header.Kid, about.Client, s.IssuedAt)
	if err != nil {
		return Burn{}, err
	}
	ofSession := says(s.session, session.id)
	switch {
	case s.IssuedAt.After(about.At.Add(v.trust.Skew)):
		return Burn{}, refuse(code("from_future"), "the statement's iat is later than now; check the authority's clock")
	case !about.At.Before(s.expires.Add(v.trust.Skew)):
		return Burn{}, refuse(code("expired"), "the statement is past its exp")
	case !ofSession && // or for the code that it was opened with, by the officer who made it
		(s.InPerson == nil || !session.code.Valid() || !says(s.session, session.code.id)):
		return Burn{}, refuse(code("session"), "the statement was made for another session")
	case !says(s.subject, v.pairwiseOf(s.Authority, session.subject)):
		return Burn{}, refuse(code("subject"), "the statement is about another person")
	}
	if district, there := s.district(); there && len(a.Districts) > 0 && !slices.Contains(a.Districts, district) {
		return Burn{}, refuse(code("scope"), "this authority may not speak of that district")
	}
	if p := s.InPerson; p != nil {
		from, ok1 := instant(p.NotBefore)
		to, ok2 := instant(p.NotAfter)
		if !ok1 || !ok2 || about.At.Add(v.trust.Skew).Before(from) || about.At.After(to.Add(v.trust.Skew)) {
			return Burn{}, refuse(code("window"), "the officer's vouching holds for another time")
		}
	}
	if c := s.ChipRead; c != nil && !says(c.Challenge, sha256.Sum256([]byte(session.nonce))) {
		return Burn{}, refuse(code("challenge"), "the chip answered to another nonce than the session's")
	}
	if !s.signedByKnown(&v.keys, key.Public) {
		return Burn{}, refuse(code("signature"), "the statement isn't signed by the key that it names with that key's alg")
	}
	v.heads.keep(s.head, s.header)
	// By issuer, id and content, never by the text: a signature can be written in more than one way.
	said := sha256.Sum256(s.payload)
	text := append(append(make([]byte, 0, 512), s.Kind...), 0)
	text = append(append(append(append(text, s.Authority...), 0), s.id...), 0)
	name := sha256.Sum256(append(text, said[:]...))
	at := s.IssuedAt
	if ofSession { // which is of this nonce alone; a code may be opened for several
		at = timeOf(at, nonce)
	}
	return Burn{Kind: BurnEvidence, ID: burnID(at, name), Until: s.expires.Add(2 * v.trust.Skew)}, nil
}

// says compares in constant time: text is a digest in base64url.
func says(text string, digest [32]byte) bool {
	var want [43]byte
	base64.RawURLEncoding.Encode(want[:], digest[:])
	return subtle.ConstantTimeCompare([]byte(text), want[:]) == 1
}

// district that the statement speaks of; there is false for a kind that speaks of none.
func (s *Statement) district() (district string, there bool) {
	switch {
	case s.InPerson != nil:
		return s.InPerson.District, true
	case s.RegistryMatch != nil:
		return s.RegistryMatch.District, true
	}
	return "", false
}

// Covers reports whether the register vouches for this value of a claim. value is JSON in any form.
func (r *RegistryMatch) Covers(name string, value []byte) bool {
	form, err := rfc8785(value)
	return err == nil && covers(r, name, "", form)
}

// CoversText is Covers for a text that is not quoted.
func (r *RegistryMatch) CoversText(name, text string) bool {
	if bare(text) {
		return covers(r, name, `"`, text)
	}
	value, err := jsontext.AppendQuote(nil, text)
	return err == nil && r.Covers(name, value)
}

func covers[T string | []byte](r *RegistryMatch, name, quote string, form T) bool {
	want, there := r.Attributes[name]
	if !there {
		return false
	}
	salt, ok := r.salt, r.salt != nil
	if !ok { // it was not read from a statement
		salt, ok = decode64(r.Salt)
	}
	return ok && says(want, attributeDigest(salt, name, quote, form))
}

// AttributeDigest is how a register commits itself to a claim: base64url(SHA-256(salt ‖ name ‖ 0x00 ‖ RFC 8785 form of the value)).
func AttributeDigest(salt, name string, value []byte) (string, error) {
	s, ok := decode64(salt)
	if !ok {
		return "", refuse("registry_match_malformed", "the salt is not canonical base64url")
	}
	form, err := rfc8785(value)
	if err != nil {
		return "", err
	}
	digest := attributeDigest(s, name, "", form)
	return base64.RawURLEncoding.EncodeToString(digest[:]), nil
}

// attributeDigest of the form between quotes.
func attributeDigest[T string | []byte](salt []byte, name, quote string, form T) [32]byte {
	text := make([]byte, 0, 512) // most values are short
	if n := len(salt) + len(name) + len(form) + 3; n > cap(text) {
		text = make([]byte, 0, n)
	}
	text = append(append(append(text, salt...), name...), 0)
	text = append(append(append(text, quote...), form...), quote...)
	return sha256.Sum256(text)
}

// rfc8785 is the canonical form of JSON.
func rfc8785(value []byte) ([]byte, error) {
	if plain(value) {
		return value, nil
	}
	v := jsontext.Value(slices.Clone(value))
	if err := v.Canonicalize(); err != nil {
		return nil, refuse("registry_match_malformed", "the value is not JSON")
	}
	return v, nil
}

// plain is a JSON string in which nothing is escaped: that is its RFC 8785 form already.
func plain(v []byte) bool {
	return len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' && bare(v[1:len(v)-1])
}

// bare is a text of which nothing is escaped in that form.
func bare[T string | []byte](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			return false
		}
	}
	return utf8.Valid([]byte(s))
}
