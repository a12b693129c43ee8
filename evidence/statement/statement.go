// Package statement makes the signed statements that evidence authorities send along with an issue request: the counterpart of what
// package evidence checks, for those who build an authority and for tests. docs/evidence.md has the formats.
package statement

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/evidence"
)

// Common is what every statement says, whatever its kind.
type Common struct {
	Issuer   string    // id of the authority, as registered
	Subject  string    // the pseudonym that the session's answer names for this authority
	Session  string    // the session's id: base64url(SHA-256(bytes of the session))
	ID       string    // jti, 16 to 128 characters, never used twice; NewID makes one
	IssuedAt time.Time // whole seconds are kept
	Expires  time.Time
}

// Kind of a statement's body: evidence.InPerson, RegistryMatch, FaceMatch, ChipRead or LineOwnership. Empty for anything else.
func Kind(body any) string {
	switch body.(type) {
	case evidence.InPerson:
		return evidence.KindInPerson
	case evidence.RegistryMatch:
		return evidence.KindRegistryMatch
	case evidence.FaceMatch:
		return evidence.KindFaceMatch
	case evidence.ChipRead:
		return evidence.KindChipRead
	case evidence.LineOwnership:
		return evidence.KindLineOwnership
	}
	return ""
}

// Sign makes the compact JWS. The key is on P-256 (ES256), P-384 (ES384) or Ed25519 (EdDSA).
func Sign(key crypto.Signer, kid string, c Common, body any) (string, error) {
	typ := evidence.StatementType(Kind(body))
	if typ == "" {
		return "", fmt.Errorf("%T is no statement", body)
	}
	payload := map[string]any{}
	b, err := json.Marshal(body)
	if err != nil {
		return "", fmt.Errorf("encoding the statement: %w", err)
	}
	if err := json.Unmarshal(b, &payload); err != nil {
		return "", fmt.Errorf("encoding the statement: %w", err)
	}
	maps.Copy(payload, map[string]any{"iss": c.Issuer, "sub": c.Subject, "session": c.Session, "jti": c.ID, "iat": c.IssuedAt.Unix(), "exp": c.Expires.Unix()})
	return Raw(key, map[string]any{"typ": typ, "kid": kid}, payload)
}

// Event is what a carrier says of one of its lines.
type Event struct {
	Issuer     string // id of the authority, as registered
	ID         string // jti, 16 to 128 characters; the same event has the same id, however often it is sent
	IssuedAt   time.Time
	Line       string // the carrier's own pseudonym, as in its line_ownership statements
	Seq        uint64 // grows strictly with the events of a line
	Kind       string // evidence.LineLost, LineFound, LinePorted, …
	OccurredAt time.Time
}

// SignEvent makes the compact JWS of a line event.
func SignEvent(key crypto.Signer, kid string, e Event) (string, error) {
	return Raw(key, map[string]any{"typ": evidence.LineEventType, "kid": kid}, map[string]any{"iss": e.Issuer, "jti": e.ID, "iat": e.IssuedAt.Unix(),
		"line": e.Line, "seq": e.Seq, "kind": e.Kind, "occurred_at": e.OccurredAt.Unix()})
}

// Raw signs any payload under any header; alg is the key's. It is there for whoever wants to see refusals.
func Raw(key crypto.Signer, header, payload map[string]any) (string, error) {
	alg, digest, size := "", crypto.Hash(0), 0
	switch pub := key.Public().(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			alg, digest, size = "ES256", crypto.SHA256, 32
		case elliptic.P384():
			alg, digest, size = "ES384", crypto.SHA384, 48
		}
	case ed25519.PublicKey:
		alg = "EdDSA"
	}
	if alg == "" {
		return "", fmt.Errorf("a key of type %T signs no statement: use P-256, P-384 or Ed25519", key.Public())
	}
	h := maps.Clone(header)
	h["alg"] = alg
	var parts [2][]byte
	for i, v := range []map[string]any{h, payload} {
		b, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			return "", fmt.Errorf("encoding the statement: %w", err)
		}
		parts[i] = b
	}
	encode := base64.RawURLEncoding.EncodeToString
	input := encode(parts[0]) + "." + encode(parts[1])
	var signature []byte
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		var d []byte
		if digest == crypto.SHA256 {
			h := sha256.Sum256([]byte(input))
			d = h[:]
		} else {
			h := sha512.Sum384([]byte(input))
			d = h[:]
		}
		r, s, err := ecdsa.Sign(rand.Reader, k, d)
		if err != nil {
			return "", fmt.Errorf("signing the statement: %w", err)
		}
		signature = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	default:
		var err error
		if signature, err = key.Sign(rand.Reader, []byte(input), crypto.Hash(0)); err != nil {
			return "", fmt.Errorf("signing the statement: %w", err)
		}
	}
	return input + "." + encode(signature), nil
}

// NewID makes a jti of 128 random bits.
func NewID(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("drawing an id: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}

// SessionID names a session in statements.
func SessionID(session string) (string, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(session)
	if err != nil {
		return "", fmt.Errorf("the session is not base64url: %w", err)
	}
	h := sha256.Sum256(raw)
	return base64.RawURLEncoding.EncodeToString(h[:]), nil
}

// Challenge is what a card's chip answers to: base64url(SHA-256(nonce)).
func Challenge(nonce string) string {
	h := sha256.Sum256([]byte(nonce))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// Digests of claims under a salt, for RegistryMatch. Claims are JSON values by the policy's names.
func Digests(salt [16]byte, claims map[string]jsontext.Value) (text string, attributes map[string]string, err error) {
	text = base64.RawURLEncoding.EncodeToString(salt[:])
	attributes = make(map[string]string, len(claims))
	for name, value := range claims {
		if attributes[name], err = evidence.AttributeDigest(text, name, value); err != nil {
			return "", nil, fmt.Errorf("claim %s: %w", name, err)
		}
	}
	return text, attributes, nil
}
