package contract

import (
	"encoding/json"
	"time"
)

// TokenRequest asks for the one-time token of a client that officers enrolled: POST /v1/clients/tokens.
type TokenRequest struct {
	Client string `json:"client"`
}

// TokenAnswer is the token, and where it is brought to.
type TokenAnswer struct {
	Client      string    `json:"client"`
	Token       string    `json:"token"`
	Expires     time.Time `json:"expires_at"`
	URL         string    `json:"url"`         // of the registration authority
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the root, hex
}

// Enrolling is what a registration authority works with: GET /v1/ra.
type Enrolling struct {
	URL    string            `json:"url"`
	Issuer string            `json:"issuer"` // of tokens
	Root   string            `json:"root"`   // PEM: the one under which certificates are made now, and after it the others that are good
	Keys   []json.RawMessage `json:"keys"`   // public JWKs by which tokens are signed
}

// RegisterRequest registers a client's first key: POST /v1/ra/certificates.
type RegisterRequest struct {
	Token string `json:"token"`
	CSR   string `json:"csr"` // PKCS #10, base64url; nothing but its key counts
}

// RenewClientRequest asks for another certificate for a registered key: POST /v1/ra/renewals.
type RenewClientRequest struct {
	Client string `json:"client"`
	Key    string `json:"key"` // SubjectPublicKeyInfo, base64url
}

// RekeyRequest registers another key: POST /v1/ra/rekeys.
type RekeyRequest struct {
	Client    string `json:"client"`
	Statement string `json:"statement"` // by the registered key, compact JWS of type sealkeeper-rekey+jwt
	CSR       string `json:"csr"`       // by the new one, base64url
}

// ServerRequest asks for the registration authority's own server certificate: POST /v1/ra/server.
type ServerRequest struct {
	CSR string `json:"csr"`
}

// CertificateAnswer is a certificate with its issuer's, both DER in base64url. Links lead who has the root of before to those that took or will take its
// place: a root's certificate follows the one by which the root before vouches for it.
type CertificateAnswer struct {
	Certificate string    `json:"certificate"`
	Issuer      string    `json:"issuer"`
	Links       []string  `json:"links,omitempty"`
	Expires     time.Time `json:"expires_at"`
}

// RetireRequest revokes a client that told the registration authority so: POST /v1/ra/revocations.
type RetireRequest struct {
	Serial string `json:"serial"` // of one of its certificates, hex
	Reason string `json:"reason"`
}

// RetireAnswer names who is revoked.
type RetireAnswer struct {
	Client string `json:"client"`
}
