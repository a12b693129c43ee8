// Package x509 builds certificates and revocation lists by the profiles of ISO/IEC 18013-5 Annex B and RFC 5280, and lints the very bytes
// that are then signed.
package x509

import (
	"errors"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

var errNotBuilt = errors.New("not built")

// TBS is a drafted and linted TBSCertificate or TBSCertList. Only Draft and DraftCRL make one.
type TBS struct{}

// Bytes is the DER that is to be signed.
func (t *TBS) Bytes() []byte { return nil }

// Params that are the same for all certificates of an installation.
type Params struct {
	Country      string // ISO 3166-1 alpha-2, upper case
	State        string // optional ST
	Organization string
	IssuerURL    string   // issuerAltName URI of the IACA and its leaves
	CRLURL       string   // CRL distribution point of document signers
	DSPurposes   []string // extended key usage OIDs of document signers; default 1.0.18013.5.1.2
}

// Draft builds the TBSCertificate of an approved certificate. issuer is the registry entry of the signing key; issuerCert its certificate
// in DER, nil for the self-signed root.
func Draft(a *policy.Approval, issuer ledger.Key, issuerCert []byte, p Params) (*TBS, error) {
	return nil, errNotBuilt
}

// DraftCRL builds the TBSCertList of an approved CRL (profile: IACA, formats.md 3.4).
func DraftCRL(a *policy.Approval, issuer ledger.Key, issuerCert []byte, p Params) (*TBS, error) {
	return nil, errNotBuilt
}

// Join makes the signed DER. It refuses a signature over other bytes.
func Join(t *TBS, c *release.Checked, i int) ([]byte, error) { return nil, errNotBuilt }

// Finding of a lint.
type Finding struct {
	Lint   string // name
	Source string // "ISO 18013-5 B.1.1", "RFC 5280 4.1.2.2", …
	Detail string
}

// Lint checks a certificate (any signature) against its profile: own rules for ISO, zlint for RFC 5280. Empty: clean.
func Lint(profile string, der []byte) []Finding { return nil }

// LintCRL checks a CRL of the IACA profile.
func LintCRL(der []byte) []Finding { return nil }
