package contract

import _ "embed"

// OpenAPI is the OpenAPI 3.1 document of all three listeners, as it is served.
//
//go:embed openapi.yaml
var OpenAPI []byte

// Bounds of what travels. The OpenAPI document states the same ones, and a test compares them.
const (
	IdempotencyKeyPattern = `^[A-Za-z0-9_-]{22,128}$` // at least 128 random bits
	DocumentTypePattern   = `^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`
	ReasonPattern         = `^[a-z][a-z0-9_]{0,63}$`
	DevicePattern         = `^[A-Za-z0-9_-]{1,128}$`
	KindPattern           = `^[a-z][a-z0-9_.-]{0,63}$`
	ThumbprintPattern     = `^[A-Za-z0-9_-]{43}$`
	AuthorityPattern      = `^[a-z0-9][a-z0-9-]{0,63}$`
	MethodPattern         = `^[a-z][a-z0-9_]{0,63}$`
	SchedulePattern       = `^[A-Za-z0-9_-]{1,64}$`
	MaxReasons            = 8
	MaxNonce              = 256
	MaxPolicy             = 512<<10 + 16<<10 // bytes of a bundle file with its signatures
	MaxPhoneStatus        = 1<<20 + 16<<10   // bytes of a status file with its signatures
	MaxChains             = 64               // Android key attestations of one request
	MaxChain              = 6                // certificates of each
	MaxCertificate        = 10923            // characters: 8 KiB
	MaxSession            = 512
	MaxEvent              = 8 << 10
	MaxAuthorities        = 16
	MaxClaims             = 64
	MaxToken              = 96 << 10 // a key attestation with a chain of six certificates
	MaxEvidence           = 8
	MaxDecisions          = 1000 // of one page
	MaxClientToken        = 4 << 10
	MaxCSR                = 21846 // characters: 16 KiB
	MaxClientKey          = 342   // characters: 256 octets
	MaxRetireReason       = 150
)

// Formats of credentials.
func Formats() []string { return []string{"mso_mdoc", "dc+sd-jwt"} }
