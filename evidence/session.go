package evidence

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"time"

	"sealkeeper/internal/mac"
)

// A session is what the evidence of one request is bound to: who (a pseudonym), which phone's key, which nonce, which document type. The
// appliance makes it from the subject's number, which is then needed no more: everybody else handles an opaque text and, each authority,
// a pseudonym of its own. Nothing is stored; the text authenticates itself, and the nonce inside is burnt when the session is used.
//
// As bytes: version 1 | 16 random | AES-256-GCM(subject 32 | thumbprint 32 | nonce 57), and then base64url. The key of the GCM is
// HMAC(session key, label | random | client | document type), so each is used for one message, and a session opens only for the
// client and type it was made for.
//
// A session that was opened with a code has version 2 and, behind the nonce, the code's id (32) and second (8).
const (
	sessionVersion  = 1
	sessionByCode   = 2
	sessionHead     = 1 + 16
	sessionBody     = 32 + 32 + nonceSize
	sessionSize     = sessionHead + sessionBody + 16
	sessionCodeSize = sessionSize + 32 + 8
	sessionLabel    = "sealkeeper/evidence/session/1"
	sessionLabel2   = "sealkeeper/evidence/session/2"
	pairwiseLabel   = "sealkeeper/evidence/pairwise/1"
	sessionNonceLen = 12
)

// Session is an opened session. The zero value is no session.
type Session struct {
	id         [32]byte
	subject    [32]byte
	thumbprint [32]byte
	nonce      string
	client     string
	docType    string
	code       OfficeCode // that it was opened with, without its person; zero: none
}

// NewSession is what a session is made of. The nonce must be one that Nonce minted for this client and document type.
type NewSession struct {
	Client, DocumentType string
	Subject              [32]byte // pseudonym
	Thumbprint           [32]byte // RFC 7638, of the key that will make the proof
	Nonce                string
	Code                 OfficeCode // of the same person; zero: none
}

// Seal makes the opaque text of a session; expires is when its nonce does. random must be crypto/rand outside tests.
func (v *Verifier) Seal(n NewSession, at time.Time, random [16]byte) (session string, expires time.Time, err error) {
	burn, _, err := v.checkNonce(About{Client: n.Client, DocumentType: n.DocumentType, At: at}, n.Nonce)
	if err != nil {
		return "", time.Time{}, err
	}
	nonce, _ := decode64(n.Nonce) // checked: one canonical text of nonceSize bytes
	raw, label := make([]byte, sessionHead, sessionCodeSize), sessionLabel
	raw[0] = sessionVersion
	if n.Code.Valid() {
		raw[0], label = sessionByCode, sessionLabel2
	}
	copy(raw[1:], random[:])
	body := make([]byte, 0, sessionBody+32+8)
	body = append(append(append(body, n.Subject[:]...), n.Thumbprint[:]...), nonce...)
	if n.Code.Valid() {
		body = binary.BigEndian.AppendUint64(append(body, n.Code.id[:]...), uint64(n.Code.made.Unix()))
	}
	raw = v.gcm(label, n.Client, n.DocumentType, raw[1:sessionHead]).Seal(raw, make([]byte, sessionNonceLen), body, raw[:1])
	return base64.RawURLEncoding.EncodeToString(raw), burn.Until.Add(-v.trust.Skew), nil
}

// Open authenticates a session's text. It does not ask how old it is: a retry must find its answer after the session is over. Verify does.
func (v *Verifier) Open(client, documentType, session string) (Session, error) {
	version, label := byte(sessionVersion), sessionLabel
	switch len(session) {
	case base64.RawURLEncoding.EncodedLen(sessionSize):
	case base64.RawURLEncoding.EncodedLen(sessionCodeSize):
		version, label = sessionByCode, sessionLabel2
	default:
		return Session{}, refuse("session_malformed", "the session doesn't have the length of this appliance's sessions")
	}
	raw, ok := decode64(session)
	if !ok || raw[0] != version {
		return Session{}, refuse("session_malformed", "the session is not one of this appliance's format")
	}
	body, err := v.gcm(label, client, documentType, raw[1:sessionHead]).Open(nil, make([]byte, sessionNonceLen), raw[sessionHead:], raw[:1])
	if err != nil {
		return Session{}, refuse("session_foreign", "the session was not made here for this client and document type")
	}
	s := Session{id: sha256.Sum256(raw), client: client, docType: documentType, nonce: base64.RawURLEncoding.EncodeToString(body[64:sessionBody])}
	copy(s.subject[:], body)
	copy(s.thumbprint[:], body[32:])
	if code := body[sessionBody:]; len(code) > 0 {
		s.code = OfficeCode{id: [32]byte(code[:32]), made: time.Unix(int64(binary.BigEndian.Uint64(code[32:])), 0).UTC()}
	}
	return s, nil
}

// Pairwise is the only name by which an evidence authority knows a subject: HMAC over both, so that two authorities can't tell that they
// speak of one person, and none of them learns the number or the appliance's own pseudonym.
func (v *Verifier) Pairwise(authority string, subject [32]byte) string {
	sum := v.pairwiseOf(authority, subject)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (v *Verifier) pairwiseOf(authority string, subject [32]byte) [32]byte {
	return keyed(v.pairwise, nil, pairwiseLabel, authority, string(subject[:]))
}

// Knows reports whether an authority is listed.
func (v *Verifier) Knows(authority string) bool { _, ok := v.authorities[authority]; return ok }

// Thumbprint reads an RFC 7638 SHA-256 thumbprint in canonical base64url.
func Thumbprint(text string) (t [32]byte, ok bool) {
	b, ok := decode64(text)
	if !ok || len(b) != len(t) {
		return t, false
	}
	return [32]byte(b), true
}

// keyed is a MAC over texts, each preceded by its length, so that no two lists of texts give the same bytes, and over what stands behind them.
func keyed(k mac.Key, behind []byte, texts ...string) [sha256.Size]byte {
	input := make([]byte, 0, 256)
	for _, s := range texts {
		input = append(binary.BigEndian.AppendUint64(input, uint64(len(s))), s...)
	}
	return k.Sum(append(input, behind...))
}

// Valid reports whether s came from Open.
func (s Session) Valid() bool { return s.client != "" }

// Subject is the pseudonym of the person.
func (s Session) Subject() [32]byte { return s.subject }

// ID names the session in the statements that are bound to it: base64url of SHA-256 of the session's bytes.
func (s Session) ID() string { return base64.RawURLEncoding.EncodeToString(s.id[:]) }

// binds holds the request's proof against its session.
func (s Session) binds(about About, p *proof, proving Key) error {
	if !s.Valid() {
		return nil
	}
	switch {
	case s.client != about.Client || s.docType != about.DocumentType:
		return refuse("session_foreign", "the session was made for another client or document type")
	case subtle.ConstantTimeCompare([]byte(s.nonce), []byte(p.nonce)) != 1:
		return refuse("session_nonce", "the proof's nonce is not the session's")
	case subtle.ConstantTimeCompare(s.thumbprint[:], proving.Thumbprint[:]) != 1:
		return refuse("session_key", "the proof's key is not the one that the session was made for")
	}
	return nil
}
