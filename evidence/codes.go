package evidence

import (
	"cmp"
	"slices"

	"sealkeeper/evidence/android"
	"sealkeeper/evidence/apple"
)

// Code is a stable refusal code with what it means to the integrator who meets it.
type Code struct {
	Code        string
	Explanation string // one sentence
}

// Codes are all refusals of this package, in the order of the checks. The documentation of errors is made from them.
var Codes = append([]Code{
	{"evidence.token_malformed", "The one-time token is larger than 4 KiB, or not a compact JWS with the header and claims of one."},
	{"evidence.token_foreign", "The one-time token was not signed by this appliance, or is for another registration authority."},
	{"evidence.token_signature", "The one-time token's signature does not verify."},
	{"evidence.token_expired", "The one-time token is not valid now: ask for another one."},
	{"evidence.rekey_malformed", "The statement is larger than 4 KiB, or not one of a client that changes its key."},
	{"evidence.rekey_signature", "The key that the client registered did not sign the statement."},
	{"evidence.rekey_foreign", "The statement is about another client, or for another registration authority."},
	{"evidence.rekey_expired", "The statement is not valid now: it lives for ten minutes at most."},
	{"evidence.rekey_other_key", "The statement is for another key than that of the certificate request."},
	{"evidence.request_malformed", "The certificate request is larger than 16 KiB, or not one PKCS #10 structure in DER."},
	{"evidence.request_signature", "The certificate request is not signed by its own key, with the algorithm of that key."},
	{"evidence.client_key", "The client's key is none of P-256, P-384 and Ed25519, or not in DER."},
	{"evidence.unconfigured", "The appliance lacks the client, document type, audience or nonce key that evidence must be bound to: an operator has to complete the configuration."},
	{"evidence.session_malformed", "The session is not one of this appliance's format."},
	{"evidence.session_foreign", "The session was made by another appliance, or for another client or document type."},
	{"evidence.code_malformed", "The code is not one of this appliance's format."},
	{"evidence.code_foreign", "The code was made by another appliance, or for another client or document type."},
	{"evidence.code_expired", "The code is older than 90 seconds: the office makes a new one."},
	{"evidence.session_nonce", "The proof's nonce is not the one that the session was made for."},
	{"evidence.session_key", "The proof's key is not the one that the session was made for."},
	{"evidence.session_missing", "Evidence items are bound to a session, and the request names none: open one first."},
	{"evidence.too_many", "The request carries more than 16 evidence items."},
	{"evidence.kind_twice", "The request carries two evidence items of one kind."},
	{"evidence.kind_unknown", "The request carries an evidence item of a kind that this version doesn't know; nothing is ignored, so it is refused."},

	{"evidence.proof_missing", "The request has no proof of possession."},
	{"evidence.proof_too_large", "The proof is larger than 16 KiB: send a large key attestation beside the proof instead of in its header."},
	{"evidence.proof_malformed", "The proof is not a compact JWS of canonical base64url whose header and payload are strict JSON objects (no duplicate members, UTF-8, whole seconds)."},
	{"evidence.proof_type", "The proof's typ must be openid4vci-proof+jwt."},
	{"evidence.proof_algorithm", "The proof's alg must be ES256, ES384 or EdDSA, and the one that belongs to the curve of its key."},
	{"evidence.proof_critical", "The proof's header has crit or b64, and no extension of JWS is supported."},
	{"evidence.proof_key_form", "The proof names its key by x5c, x5u, jku, trust_chain or a kid that is no thumbprint: use jwk, or kid with the RFC 7638 SHA-256 thumbprint of an attested key."},
	{"evidence.proof_key_ambiguous", "The proof's header must have exactly one of jwk and kid."},
	{"evidence.proof_time_missing", "The proof needs an iat in whole seconds."},
	{"evidence.jwk_malformed", "A JWK, of the proof or of attested_keys, has missing members, members of the wrong type, or coordinates that aren't unpadded base64url of full length."},
	{"evidence.jwk_private", "A JWK holds private or symmetric members; that key has left its phone and must not be used any more."},
	{"evidence.jwk_unsupported", "A JWK must be EC P-256, EC P-384 or OKP Ed25519, for signatures, and with no alg but its own."},
	{"evidence.jwk_off_curve", "A JWK's coordinates are not a point of its curve, or one of small order."},

	{"evidence.nonce_missing", "The proof has no nonce: fetch one first."},
	{"evidence.nonce_malformed", "The nonce is not one of this appliance's format."},
	{"evidence.nonce_foreign", "The nonce was minted by another appliance, or for another client or document type."},
	{"evidence.nonce_from_future", "The nonce was minted later than now: the appliance's clock was set back."},
	{"evidence.nonce_expired", "The nonce has outlived its life: fetch a new one and prove again."},
	{"evidence.proof_audience", "The proof's aud must be the issuer identifier configured for this client, alone."},
	{"evidence.proof_from_future", "The proof's iat or nbf is later than now by more than the tolerated skew: the phone's clock is wrong."},
	{"evidence.proof_expired", "The proof is older than a nonce lives, or past its own exp."},

	{"evidence.previous_proof", "The proof by a key that the phone had before is not a good proof over the nonce of the request's own proof."},

	{"evidence.attestation_missing", "There is no key attestation, neither in the proof's header nor beside the proof."},
	{"evidence.attestation_ambiguous", "The request has attestations of two kinds or two that differ, or nothing shows that the keys of its Android chains are one phone's: the detail says which."},
	{"evidence.attestation_too_large", "The key attestation is larger than 128 KiB."},
	{"evidence.attestation_malformed", "The key attestation is not a compact JWS of canonical base64url whose header and payload are strict JSON objects."},
	{"evidence.attestation_type", "The key attestation's typ must be key-attestation+jwt, or keyattestation+jwt where the document type's profile says so."},
	{"evidence.attestation_algorithm", "The key attestation's alg must be ES256 or ES384."},
	{"evidence.attestation_critical", "The key attestation's header has crit or b64, and no extension of JWS is supported."},
	{"evidence.attestation_chain_missing", "The key attestation's header needs x5c; kid and trust_chain are not accepted in its place."},
	{"evidence.attestation_time_missing", "The key attestation needs iat and exp in whole seconds."},
	{"evidence.attestation_levels", "key_storage and user_authentication, where present, must be arrays of 1 to 8 short printable texts."},
	{"evidence.attestation_keys_missing", "The key attestation must attest at least one key."},
	{"evidence.attestation_keys_too_many", "The key attestation attests more keys than one request may carry here."},
	{"evidence.attestation_keys_repeated", "The key attestation names the same key twice."},
	{"evidence.attestation_from_future", "The key attestation's iat or nbf is later than now by more than the tolerated skew: the wallet provider's clock is wrong."},
	{"evidence.attestation_expired", "The key attestation is past its exp: fetch a new one from the wallet provider."},
	{"evidence.attestation_too_old", "The key attestation was issued longer ago than this appliance accepts, whatever its exp says."},
	{"evidence.attestation_nonce", "The key attestation must hold the same nonce as the proof."},
	{"evidence.status_malformed", "A status in the key attestation (status, key_storage_status, client_status) has an exp or a status_list that is none, or an idx outside of its list."},
	{"evidence.status_expired", "The wallet provider keeps a status of the key attestation up to date no longer: get a new attestation."},
	{"evidence.status_revoked", "The wallet provider's status list says that the attestation, the key storage or the wallet is revoked or suspended."},
	{"evidence.proof_key_order", "The document type wants the proof by the first of the attested keys."},
	{"evidence.proof_unasked", "The document type wants one proof for all keys; the request has more."},
	{"evidence.proof_of_each", "The document type wants a proof by each attested key, all with the same nonce, and no others."},
	{"evidence.wallet_malformed", "The item of kind wallet_attestation is not a wallet attestation, a tilde and its proof of possession, each a compact JWS."},
	{"evidence.wallet_type", "The wallet attestation's typ must be oauth-client-attestation+jwt, its proof's oauth-client-attestation-pop+jwt."},
	{"evidence.wallet_time", "The wallet attestation must be valid now, for at most 24 hours more, and its proof not older than a nonce lives."},
	{"evidence.wallet_proof", "The wallet's proof must be for this client's issuer identifier, with the request's nonce as challenge."},
	{"evidence.wallet_provider", "The wallet attestation must be by the wallet provider that attested the keys."},
	{"evidence.wallet_signature", "The wallet attestation's signature, or that of its proof by the key in cnf, doesn't verify."},
	{"evidence.app_attest_malformed", "The item of kind app_attest is not key id, dot and attestation object in base64url, 24 KiB at most."},
	{"evidence.proof_key_unattested", "The proof's key is not among the attested keys."},
	{"evidence.attestation_chain_malformed", "x5c must be 1 to 6 certificates in padded base64, 64 KiB together."},
	{"evidence.attestation_chain_key", "Every certificate of x5c must have an EC key on P-256 or P-384."},
	{"evidence.attestation_chain_anchor", "x5c must not contain the trust anchor or any self-signed certificate (HAIP 1.0)."},
	{"evidence.attestation_chain_order", "x5c must be a chain in order: leaf first, each certificate issued by the next, nothing beside it."},
	{"evidence.attestation_leaf", "The leaf of x5c must be an end entity with keyUsage digitalSignature and a short printable subject."},
	{"evidence.attestation_chain_expired", "A certificate of the key attestation's chain is expired or not yet valid."},
	{"evidence.attestation_untrusted", "x5c doesn't lead to a wallet provider that this appliance was told to trust."},
	{"evidence.attestation_signature", "The key attestation's signature doesn't verify with the leaf of its x5c."},
	{"evidence.proof_signature", "The proof's signature doesn't verify with the key that it names."},
}, slices.Concat(statementCodes(), phoneCodes())...)

// statementCodes are the refusals of each kind of statement: evidence.KIND_REASON.
func statementCodes() (codes []Code) {
	expired := map[bool]string{false: "is past its exp: ask the authority for a new one.", true: "was issued more than 30 days ago: the line's present state comes with a new event."}
	for _, kind := range []string{KindInPerson, KindRegistryMatch, KindFaceMatch, KindChipRead, KindLineOwnership, KindLineEvent} {
		for _, c := range []struct{ reason, explanation string }{
			{"malformed", "is not a compact JWS of canonical base64url whose header and payload are strict JSON objects with exactly the members of docs/evidence.md."},
			{"type", "has another typ than " + cmp.Or(StatementType(kind), LineEventType) + "."},
			{"authority", "names an authority that the policy bundle does not list for this kind."},
			{"authority_off", "is by an authority that is switched off."},
			{"scope", "is by an authority whose statements don't come through this client, or not about this district."},
			{"key", "names a key that its authority does not have."},
			{"key_off", "is signed by a key that is switched off."},
			{"key_time", "was made when its key was not in use."},
			{"from_future", "was made later than now by more than the tolerated skew: the authority's clock is wrong."},
			{"expired", expired[kind == KindLineEvent]},
			{"session", "was made for another session."},
			{"subject", "is about another person."},
			{"window", "holds for another time than now."},
			{"challenge", "has an answer of the chip to another nonce than the session's."},
			{"signature", "isn't signed by the key that it names."},
		} {
			event := kind == KindLineEvent && (c.reason == "session" || c.reason == "subject") // it has none
			if event || c.reason == "window" && kind != KindInPerson || c.reason == "challenge" && kind != KindChipRead {
				continue
			}
			codes = append(codes, Code{"evidence." + kind + "_" + c.reason, "The statement of kind " + kind + " " + c.explanation})
		}
	}
	return codes
}

// phoneCodes are the refusals of what phone makers attest.
func phoneCodes() (codes []Code) {
	for _, c := range android.Codes {
		codes = append(codes, Code(c))
	}
	for _, c := range apple.Codes {
		codes = append(codes, Code(c))
	}
	return codes
}
