package policy

// Codes are all refusals and failures of this package, each with one sentence for whoever meets it. docs/errors.md is made from them.
var Codes = map[string]string{
	"policy.facts":  "The evidence and the request don't belong together inside the appliance, or the bundle is missing: its own fault, nothing was decided.",
	"policy.error":  "A rule of the bundle could not be evaluated, so nothing was decided; an operator has to correct the bundle.",
	"policy.denied": "No rule of the bundle permits the request.",
	"rule.<id>":     "The bundle's rule with this id forbids the request.",

	"client.forbidden":   "The bundle does not know this client, or does not let it do this operation on this document type.",
	"type.unknown":       "The bundle has no document type of this name.",
	"format.unavailable": "The document type does not come in a format that was asked for, or a format was asked for twice.",
	"copies.too_many":    "More keys are attested than the document type comes in copies.",
	"evidence.missing":   "Evidence of a required kind is missing; the decision names the kinds.",
	"evidence.level":     "The attested key storage or user authentication reaches none of the levels that the document type accepts.",

	"slot.occupied":    "Another phone has this card; ask with replace to move it to the new phone, which revokes the old one's credentials.",
	"slot.same_device": "Replace was asked for the phone that has the card already; refresh it instead.",
	"slot.empty":       "No phone has this card, so there is nothing to refresh, and no lost phone to lock.",
	"card.locked":      "The card is locked: a refresh waits until every lock is removed; a first or replacing issue waits for the locks that stay with the person.",

	"refresh.forbidden":    "Credentials of this document type are not refreshed; issue them anew.",
	"refresh.replace":      "A refresh never replaces a phone; issue with replace instead.",
	"refresh.other_device": "The keys are not those of the phone that has the card; issue with replace instead.",
	"refresh.early":        "The newest credential is too young to be refreshed; the detail says from when on.",

	"claims.malformed": "The claims are not one well-formed JSON object, or name a member twice.",
	"claims.missing":   "Required claims are missing; the decision names them.",
	"claims.unknown":   "A claim is not one that the document type has.",
	"claims.type":      "A claim is not of the kind that its schema says; bytes are unpadded base64url, numbers are whole.",
	"claims.size":      "A claim is shorter or longer than its schema allows, or all of them together are too large.",
	"claims.value":     "A claim's value is not allowed: out of range, no such date, not one of the schema's values, a contradiction of the birth date, or an expired document.",

	"reason.unknown":       "The bundle knows no such reason to lock, unlock or revoke.",
	"reason.forbidden":     "Authorities of the client's class may not use this reason.",
	"lock.other_authority": "Another class of authority added this lock and alone may remove it.",

	"list.name":        "A status list needs an id and an absolute http(s) URI.",
	"list.format":      "Status lists exist for mso_mdoc and dc+sd-jwt only.",
	"list.bits":        "An mdoc list has 1 bit per entry and an SD-JWT VC list 2.",
	"list.size":        "A status list has entries and never shrinks.",
	"list.predecessor": "The last version's number and array don't belong together.",
	"list.version":     "A list version is not higher than the last.",
	"list.time":        "A list's iat and exp are whole seconds.",
	"list.iat":         "A list's iat is before the last version's, or after the instant of the decision.",
	"list.exp":         "A list's exp is not after its iat.",
	"list.ttl":         "A list's ttl is whole seconds, at least one, and no longer than exp − iat.",
	"list.index":       "A committed change lies outside its list.",
	"list.value":       "A committed change has a status that its list can't hold.",
	"list.changes":     "A list version is not its predecessor plus exactly the committed changes.",
	"list.revoked":     "A list version would take back a revocation.",

	"cert.profile":         "The certificate's profile is not known.",
	"cert.issuer":          "The certificate would be signed by a key of the wrong purpose, or a root would not be self-signed.",
	"cert.incomplete":      "The certificate lacks an issuer key, a name or a public key.",
	"cert.hosts":           "Server certificates name hosts, others don't.",
	"cert.serial":          "The certificate's serial is not a positive number of 63 bits to 20 octets.",
	"cert.time":            "notBefore and notAfter are whole seconds.",
	"cert.validity":        "The certificate would be valid for longer than its profile allows, or never.",
	"cert.issuer_validity": "The certificate would be valid outside its issuer's validity.",

	"crl.incomplete":  "The revocation list lacks an issuer key.",
	"crl.number":      "The revocation list's number is not higher than the last.",
	"crl.time":        "thisUpdate and nextUpdate are whole seconds.",
	"crl.this_update": "thisUpdate is before the last list's, or after the instant of the decision.",
	"crl.next_update": "nextUpdate is not within 90 days after thisUpdate.",
	"crl.entry":       "An entry has no serial or a double one, or a revocation time that can't be.",
	"crl.vanished":    "A certificate that was revoked is missing or has another revocation time.",

	"selftest.inactive": "The key is not active, so it is not tested.",
	"selftest.purpose":  "Keys of this purpose have no harmless bytes to sign.",
	"selftest.early":    "The key was tested less than 30 seconds ago.",
}
