package apple

// Code is a stable refusal code with what it means to the integrator who meets it.
type Code struct {
	Code        string
	Explanation string // one sentence
}

// Codes are all refusals of this package, in the order of the checks. The documentation of errors is made from them.
var Codes = []Code{
	{"evidence.apple_unconfigured", "The appliance lacks the root, instant, key id, accepted apps or attested app that App Attest must be judged by."},
	{"evidence.apple_object_too_large", "The attestation object is larger than 16 KiB."},
	{"evidence.apple_object_malformed", "The attestation object is not strict CBOR of fmt, attStmt (x5c, receipt) and authData: send it as DCAppAttestService gives it."},
	{"evidence.apple_format", "The attestation object's fmt must be apple-appattest."},
	{"evidence.apple_chain_malformed", "x5c must be two certificates: the assertion key's and its CA's."},
	{"evidence.apple_key", "The certified key must be EC P-256."},
	{"evidence.apple_key_id", "The key id must be the SHA-256 of the certified key."},
	{"evidence.apple_auth_data", "authData must be authenticator data with the attested credential and nothing after it."},
	{"evidence.apple_app", "The attestation or assertion is about an app that is not accepted."},
	{"evidence.apple_counter", "The counter must be zero in an attestation, and grow with each assertion."},
	{"evidence.apple_environment", "The attestation is from Apple's development environment, which the rules don't accept, or from none."},
	{"evidence.apple_credential_id", "The credential id must be the key id."},
	{"evidence.apple_nonce_malformed", "The certificate must have Apple's nonce extension."},
	{"evidence.apple_nonce", "The attestation was made for other client data: the hash of the challenge and what is bound to it differ."},
	{"evidence.apple_chain_expired", "A certificate of the chain is expired or not valid yet: attestations must be sent within three days, and at once is better."},
	{"evidence.apple_chain_untrusted", "The chain doesn't lead to Apple's root for App Attest."},
	{"evidence.apple_assertion_malformed", "The assertion must be strict CBOR of signature and 37 octets of authenticatorData: send it as DCAppAttestService gives it."},
	{"evidence.apple_signature", "The assertion is not signed by the attested app over this client data."},
}
