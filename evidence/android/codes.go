package android

// Code is a stable refusal code with what it means to the integrator who meets it.
type Code struct {
	Code        string
	Explanation string // one sentence
}

// Codes are all refusals of this package, in the order of the checks. The documentation of errors is made from them.
var Codes = []Code{
	{"evidence.android_unconfigured", "The appliance lacks the challenge, roots, age of the status list or accepted apps that an Android key attestation must be judged by: an operator has to complete the configuration."},
	{"evidence.android_status_malformed", "The list of revoked attestation keys is not the JSON of Google's schema: fetch it again from Google and feed it as it is."},
	{"evidence.android_chain_length", "The chain must have 3 to 6 certificates, leaf first and root last, exactly 4 if the phone's attestation key is a factory's."},
	{"evidence.android_chain_size", "A certificate of the chain is larger than 8 KiB, or the chain larger than 24 KiB."},
	{"evidence.android_chain_malformed", "A certificate of the chain is not DER by RFC 5280, or has no positive serial number of at most 20 octets."},
	{"evidence.android_root_unknown", "The chain doesn't end in one of Google's roots that this appliance trusts; software keys and emulators have other roots."},
	{"evidence.android_chain_order", "The chain must be in order, leaf first, each certificate issued by the next one by name, the last by itself."},
	{"evidence.android_chain_extended", "A certificate above the leaf has the attestation extension: somebody extended the chain below an attested key, or the key was attested by another app key (attest keys are not accepted)."},
	{"evidence.android_extension_missing", "The leaf has no attestation extension: make the key with setAttestationChallenge."},
	{"evidence.android_description_malformed", "The attestation extension is not a KeyDescription in strict DER with ascending tags."},
	{"evidence.android_challenge", "The key was attested for another challenge."},
	{"evidence.android_chain_not_yet_valid", "A certificate between leaf and root is not valid yet."},
	{"evidence.android_chain_expired", "A certificate of a remotely provisioned chain is expired: the phone has to fetch new attestation keys and make a new key."},
	{"evidence.android_status_missing", "The appliance has no list of revoked attestation keys, so no Android phone can be believed: an operator has to feed one."},
	{"evidence.android_status_from_future", "The list of revoked attestation keys is of a later instant than now: a clock is wrong."},
	{"evidence.android_status_stale", "The appliance's list of revoked attestation keys is too old, so no Android phone can be believed until it is fed a new one."},
	{"evidence.android_revoked", "Google has revoked or suspended a certificate of the chain."},
	{"evidence.android_key_unsupported", "The attested key must be EC P-256, EC P-384 or Ed25519."},
	{"evidence.android_key_mismatch", "The certified key is not the one that the secure hardware describes."},
	{"evidence.android_chain_authority", "A certificate above the attestation key's is not a CA."},
	{"evidence.android_chain_key", "Issuers of the chain must have EC keys on P-256 or P-384, or RSA keys of 2048 to 4096 bits."},
	{"evidence.android_chain_signature", "A certificate of the chain is not signed by the next one's key."},
	{"evidence.android_blocked_chain", "A root, attestation key or certificate of the chain is switched off by this appliance's rules."},
	{"evidence.android_provisioning", "The phone's attestation key is a factory's, and the rules accept only those provisioned over the air."},
	{"evidence.android_level", "The key, or what attests it, is not in secure hardware of the level that is asked for."},
	{"evidence.android_level_certificate", "The attestation names another security level than the certificate of the attestation key."},
	{"evidence.android_version", "The phone's attestation version is older than the rules accept."},
	{"evidence.android_origin", "The key was not generated in the secure hardware, but imported or derived, or its hardware doesn't say."},
	{"evidence.android_purpose", "The key must be for signing and nothing else."},
	{"evidence.android_all_applications", "The key is usable by all apps of the phone."},
	{"evidence.android_auth", "The key doesn't ask for the recognition of its user that the rules ask for."},
	{"evidence.android_root_of_trust", "The secure hardware doesn't state what the phone booted."},
	{"evidence.android_unlocked", "The phone's bootloader is unlocked."},
	{"evidence.android_boot_state", "The phone booted a system that is not its maker's."},
	{"evidence.android_blocked_device", "The phone's model is switched off by this appliance's rules."},
	{"evidence.android_app", "The key belongs to another app, an older version of it, or one signed by somebody else."},
	{"evidence.android_model_unknown", "The rules need to know the phone's model: make the key with setDevicePropertiesAttestationIncluded(true)."},
	{"evidence.android_blocked_patch", "The phone's patch level is switched off by this appliance's rules: update the system and make a new key."},
	{"evidence.android_patch_unknown", "The secure hardware doesn't state a patch level that the rules ask for."},
	{"evidence.android_patch_low", "A patch level of the phone is below the one that the rules ask for: update the system and make a new key."},
	{"evidence.android_patch_age", "The phone's system was patched too long ago: update it and make a new key."},
}
