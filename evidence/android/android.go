// Package android judges raw Android key attestation chains: the certificates that KeyStore.getCertificateChain gives for a key that was
// made with setAttestationChallenge. It says what a phone's secure hardware states about a key, and judges that by rules.
//
// The format is that of source.android.com/docs/security/features/keystore/attestation (schema of the extension, security levels, root of
// trust), the order of trust that of developer.android.com/privacy-and-security/security-key-attestation and of Google's own verifier
// (github.com/android/keyattestation):
//
//   - The chain ends in a root whose key is pinned. Its dates mean nothing: Google gave the RSA root's key new certificates more than once.
//   - Chains of a factory stay good after their certificates' dates, as the keys inside the devices can't be changed; what is wrong with
//     them is said by the status list. Chains that were provisioned over the air are short-lived and held to their dates.
//   - Exactly one certificate has the attestation extension, and it is the leaf. Whoever holds an attested key can sign certificates with
//     it and put any extension into them, so the extension nearest to the root is the only one that secure hardware wrote.
//   - What secures a key is believed from hardwareEnforced only. The one exception is the name of the app, which no secure hardware can
//     know: it stands in softwareEnforced and is worth as much as the system that the root of trust vouches for.
//   - Every certificate is looked up in Google's status list, and the list must be fresh: no list, or an old one, refuses everything.
//
// The package is pure: roots, list, rules and instant are parameters. It passes over all that names a device or person (serial number,
// IMEI, uniqueId).
package android

import (
	"crypto"
	"crypto/subtle"
	"time"
)

// Trust is whom to believe.
type Trust struct {
	Roots        [][32]byte    // SHA-256 of the SubjectPublicKeyInfo of each root; GoogleRoots for phones in the field
	Status       *StatusList   // Google's list of what is revoked
	StatusMaxAge time.Duration // an older list refuses everything
	Memo         *Memo         // of signatures above the leaf; nil: each is verified each time
	Skew         time.Duration // how far into the future the list's instant may lie
}

// Expected is what the chain must fit.
type Expected struct {
	Challenge []byte    // as given to setAttestationChallenge
	At        time.Time // the instant of judging
	Now       time.Time // by which the status list must be fresh, if At lies back: a request that is resumed; zero: At
	// Reuse: the challenge may be that of an earlier request, because a key can't be attested again. Facts say so, and whoever asks must know
	// that key.
	Reuse bool
}

// Attested proves that Verify accepted a chain. The zero value is refused by everything that takes it.
type Attested struct {
	key   crypto.PublicKey
	facts Facts
}

// Valid reports whether a came from Verify.
func (a *Attested) Valid() bool { return a != nil && a.key != nil }

// Key is the attested key: *ecdsa.PublicKey on P-256 or P-384, or ed25519.PublicKey. Its private half never left the secure hardware.
func (a *Attested) Key() crypto.PublicKey { return a.key }

// Facts are what the secure hardware stated about the key and its device.
func (a *Attested) Facts() Facts { return a.facts }

// Facts hold nothing that tells one device of a model from another, but the serial numbers of the chain, which revocation needs.
type Facts struct {
	Level                           SecurityLevel
	AttestationVersion              uint64
	Remote                          bool // provisioned over the air (RKP), not in the factory
	BootState                       BootState
	BootKey                         []byte
	OSVersion                       uint64
	OSPatch, VendorPatch, BootPatch Patch // 0: not stated
	App                             Package
	Device                          Device // empty: not stated
	AuthTypes                       uint64 // userAuthType; 0: no authentication of the user is needed
	AuthTimeout                     time.Duration
	Purposes                        []uint64
	Serials                         []string  // of each certificate, leaf first, as the status list writes them
	Root                            [32]byte  // SHA-256 of the root's SubjectPublicKeyInfo
	ChainEnds                       time.Time // when the first certificate between leaf and root expires; zero for a factory's chain
	StatusAsOf                      time.Time // instant of the status list that was asked
	UnlockedDeviceRequired          bool
	TrustedUserPresence             bool
	Reused                          bool // the challenge was another one, and Expected allowed that
}

// Verify checks a chain of DER certificates, leaf first and root last. Errors are *Refusal.
//
// The order is from cheap to dear: what can be refused by reading is refused before the first public key operation, and signatures are
// checked from the root downwards, so that nobody else's key is ever used. Rules come last: they judge what is proven.
func Verify(chain [][]byte, want Expected, trust Trust, rules Rules) (*Attested, error) {
	if len(want.Challenge) == 0 || want.At.IsZero() || len(trust.Roots) == 0 || trust.StatusMaxAge <= 0 || len(rules.Apps) == 0 {
		return nil, refuse("unconfigured", "challenge, instant, roots, age of the status list and at least one app must be known before a chain can be judged")
	}
	c, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	if err := c.known(trust.Roots); err != nil {
		return nil, err
	}
	der, err := c.extension()
	if err != nil {
		return nil, err
	}
	d, err := ParseDescription(der)
	if err != nil {
		return nil, err
	}
	reused := subtle.ConstantTimeCompare(d.Challenge, want.Challenge) != 1
	if reused && !want.Reuse {
		return nil, refuse("challenge", "the key was not attested for this challenge")
	}
	if err := c.within(want.At); err != nil {
		return nil, err
	}
	now := want.Now
	if now.IsZero() {
		now = want.At
	}
	if err := trust.Status.check(c.serials(), now, trust); err != nil {
		return nil, err
	}
	key, err := c.leafKey(d)
	if err != nil {
		return nil, err
	}
	if err := c.signatures(trust.Memo); err != nil {
		return nil, err
	}
	facts, err := rules.judge(c, d, want.At)
	if err != nil {
		return nil, err
	}
	facts.StatusAsOf, facts.Reused = trust.Status.asOf, reused
	return &Attested{key: key, facts: facts}, nil
}

// Refusal is a chain that was looked at and not believed.
type Refusal struct {
	code, detail string
}

// Code is stable: evidence.android_challenge, …; Codes explains each.
func (r *Refusal) Code() string { return r.code }

// Error says what was wrong, without repeating any of the chain.
func (r *Refusal) Error() string { return r.code + ": " + r.detail }

func refuse(code, detail string) error {
	return &Refusal{code: "evidence.android_" + code, detail: detail}
}
