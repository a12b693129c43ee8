package policy

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/evidence"
	"sealkeeper/evidence/android"
	"sealkeeper/evidence/apple"
	"sealkeeper/internal/signed"
	"sealkeeper/internal/strict"
)

// PhonesSpec says which phones and apps are believed by their makers' own word. What is left out is refused.
type PhonesSpec struct {
	Status  *PhoneStatusSpec `json:"status,omitempty"`
	Android *AndroidSpec     `json:"android,omitempty"`
	Apple   *AppleSpec       `json:"apple,omitempty"`
}

// PhoneStatusSpec says whose word it is what was revoked, and how old it may be.
type PhoneStatusSpec struct {
	MaxAge string          `json:"max_age"` // since as_of: "24h"; an older status refuses every Android chain
	Keys   []StatusKeySpec `json:"keys"`    // any one of them
}

// StatusKeySpec is a key that signs statuses.
type StatusKeySpec struct {
	ID  string         `json:"kid"`
	JWK jsontext.Value `json:"jwk"`
	Off bool           `json:"off,omitempty"` // nothing that it ever signed is believed
}

// AndroidSpec is what raw Android key attestations must fit (evidence/android, Rules).
type AndroidSpec struct {
	Apps []AndroidAppSpec `json:"apps"`
	// Roots are SHA-256 of SubjectPublicKeyInfo, hex; none: the two that Google has.
	Roots              []string       `json:"roots,omitempty"`
	Level              string         `json:"level,omitempty"` // trusted_environment (default) or strongbox
	AttestationVersion uint64         `json:"attestation_version,omitzero"`
	RemoteOnly         bool           `json:"remote_only,omitzero"` // no factory's attestation keys
	OSPatch            uint32         `json:"os_patch,omitzero"`    // at least: 202601
	VendorPatch        uint32         `json:"vendor_patch,omitzero"`
	BootPatch          uint32         `json:"boot_patch,omitzero"`
	PatchAge           string         `json:"patch_age,omitempty"` // of the system's patch level: "365d"
	RequireModel       bool           `json:"require_model,omitzero"`
	SelfSignedBoot     []string       `json:"self_signed_boot,omitempty"` // boot keys of other makers' systems, hex
	Auth               *AndroidAuth   `json:"auth,omitempty"`             // none: the key may be used without recognising the user
	Blocked            AndroidBlocked `json:"blocked,omitzero"`
}

// AndroidAppSpec is one app.
type AndroidAppSpec struct {
	Package string   `json:"package"`
	Signers []string `json:"signers"` // SHA-256 of each signing certificate, hex
	Version uint64   `json:"version,omitzero"`
}

// AndroidAuth says how the user must have been recognised before the key signs.
type AndroidAuth struct {
	Types          []string `json:"types,omitempty"`   // biometric, password; none: any
	Timeout        string   `json:"timeout,omitempty"` // how long one recognition may last; none: for one use
	UnlockedDevice bool     `json:"unlocked_device,omitzero"`
	UserPresence   bool     `json:"user_presence,omitzero"`
}

// AndroidBlocked is what was compromised: the kill switches.
type AndroidBlocked struct {
	Keys     []string            `json:"keys,omitempty"`      // SHA-256 of SubjectPublicKeyInfo of a root or attestation key, hex
	Serials  []string            `json:"serials,omitempty"`   // of certificates, hex as in Google's list
	BootKeys []string            `json:"boot_keys,omitempty"` // verifiedBootKey, hex
	Patches  []uint32            `json:"patches,omitempty"`   // 202601 or 20260105, of system, vendor or boot partition
	Devices  []AndroidDeviceSpec `json:"devices,omitempty"`
}

// AndroidDeviceSpec is a model; members that are left out fit everything.
type AndroidDeviceSpec struct {
	Brand        string `json:"brand,omitempty"`
	Device       string `json:"device,omitempty"`
	Product      string `json:"product,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
	Model        string `json:"model,omitempty"`
	Before       uint32 `json:"before,omitzero"` // only systems below this patch level
}

// AppleSpec is which apps App Attest is believed of.
type AppleSpec struct {
	Apps        []AppleAppSpec `json:"apps"`
	Development bool           `json:"development,omitzero"` // Apple's development environment counts too
	Root        string         `json:"root,omitempty"`       // DER in base64; none: Apple's
}

// AppleAppSpec is one app.
type AppleAppSpec struct {
	Team   string `json:"team"`
	Bundle string `json:"bundle"`
}

// ProfileSpec chooses where OpenID4VCI 1.0 and the European wallet's TS3 differ.
type ProfileSpec struct {
	// AttestationNonce: "attestation" (default; OpenID4VCI D.1 and F.1): the key attestation has the proof's nonce. "proof" (TS3): it need not.
	AttestationNonce string `json:"attestation_nonce,omitempty"`
	// AttestationType is the key attestation's typ: "key-attestation+jwt" (default; OpenID4VCI D.1) or "keyattestation+jwt" (as TS3 prints it).
	AttestationType string `json:"attestation_type,omitempty"`
	ProofKey        string `json:"proof_key,omitempty"` // "any" (default) of the attested keys makes the proof, or the "first" (TS3)
	Proofs          string `json:"proofs,omitempty"`    // "one" (default) for all keys of the request, or by "each" key
}

var (
	serialForm  = regexp.MustCompile(`^[1-9a-f][0-9a-f]{0,39}$`)
	packageForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)+$`)
	teamForm    = regexp.MustCompile(`^[A-Z0-9]{10}$`)
	appForm     = regexp.MustCompile(`^[A-Za-z0-9.-]{1,155}$`)

	attestationKinds = []string{evidence.KindKeyAttestation, evidence.KindAndroid}
	appKinds         = []string{evidence.KindAndroid, evidence.KindAppAttest}
	statusNames      = []string{evidence.StatusAttestation, evidence.StatusKeyStorage, evidence.StatusWallet}
)

const maxPhoneList = 1000 // of each list of apps, models, keys

// phones is PhonesSpec, ready.
type phones struct {
	statusMaxAge time.Duration
	statusKeys   []signed.Key
	android      *evidence.Android
	apple        *evidence.Apple
}

func (c *checker) phones(at jsontext.Pointer, s PhonesSpec) (p phones) {
	if s.Status != nil {
		var off []crypto.PublicKey
		p.statusMaxAge = c.duration(at+"/status/max_age", "max_age", s.Status.MaxAge, "", time.Minute, 30*24*time.Hour)
		if len(s.Status.Keys) == 0 || len(s.Status.Keys) > maxKeys {
			c.wrong(at+"/status/keys", "there are %d keys that sign statuses, 1 to %d are allowed", len(s.Status.Keys), maxKeys)
		}
		for i, k := range s.Status.Keys {
			at := pointer(at+"/status/keys", i)
			key, err := evidence.ParseKey(k.JWK)
			switch {
			case err != nil:
				c.wrong(at.AppendToken("jwk"), "%v", err)
			case !signed.GoodKeyID(k.ID) || slices.ContainsFunc(s.Status.Keys[:i], func(o StatusKeySpec) bool { return o.ID == k.ID }):
				c.wrong(at.AppendToken("kid"), "%q is not a kid, or is there twice", k.ID)
			case k.Off:
				off = append(off, key.Public)
			default:
				p.statusKeys = append(p.statusKeys, signed.Key{ID: k.ID, Public: key.Public})
			}
		}
		p.statusKeys = slices.DeleteFunc(p.statusKeys, func(k signed.Key) bool { // off under any name
			return slices.ContainsFunc(off, func(o crypto.PublicKey) bool { return signed.Same(k.Public, o) })
		})
	}
	if s.Android != nil {
		if s.Status == nil {
			c.wrong(at+"/android", "Android phones are believed only with a status of revoked attestation keys: add status beside android")
		}
		p.android = c.android(at+"/android", *s.Android)
		p.android.StatusMaxAge = p.statusMaxAge
	}
	if s.Apple != nil {
		p.apple = c.apple(at+"/apple", *s.Apple)
	}
	return p
}

// hexes reads octets in hex. size 0: 1 to 64 of them.
func (c *checker) hexes(at jsontext.Pointer, texts []string, size int) (out [][]byte) {
	if len(texts) > maxPhoneList {
		c.wrong(at, "there are %d, at most %d are allowed", len(texts), maxPhoneList)
		return nil
	}
	for i, s := range texts {
		b, err := hex.DecodeString(s)
		if err != nil || s != strings.ToLower(s) || size > 0 && len(b) != size || len(b) == 0 || len(b) > 64 {
			c.wrong(pointer(at, i), "%q is not in small hexadecimal, or not of the right length", s)
			continue
		}
		out = append(out, b)
	}
	return out
}

func (c *checker) digests(at jsontext.Pointer, texts []string) (out [][32]byte) {
	for _, b := range c.hexes(at, texts, 32) {
		out = append(out, [32]byte(b))
	}
	return out
}

func (c *checker) patch(at jsontext.Pointer, p uint32) android.Patch {
	if p != 0 && !android.Patch(p).Valid() {
		c.wrong(at, "%d is no patch level: write 202601 or 20260105", p)
	}
	return android.Patch(p)
}

func (c *checker) android(at jsontext.Pointer, s AndroidSpec) *evidence.Android {
	a := &evidence.Android{Roots: android.GoogleRoots()}
	if s.Roots != nil {
		a.Roots = c.digests(at+"/roots", s.Roots)
	}
	r := &a.Rules
	if len(s.Apps) == 0 || len(s.Apps) > maxPhoneList {
		c.wrong(at+"/apps", "there are %d apps, 1 to %d are allowed", len(s.Apps), maxPhoneList)
	}
	for i, app := range s.Apps {
		at := pointer(at+"/apps", i)
		if !packageForm.MatchString(app.Package) || len(app.Package) > 255 {
			c.wrong(at+"/package", "%q is not a package name", app.Package)
		}
		if len(app.Signers) == 0 {
			c.wrong(at+"/signers", "without signers anybody could sign an app of this name")
		}
		r.Apps = append(r.Apps, android.App{Package: app.Package, Signers: c.digests(at+"/signers", app.Signers), Version: app.Version})
	}
	switch s.Level {
	case "", "trusted_environment":
		r.Level = android.TrustedEnvironment
	case "strongbox":
		r.Level = android.StrongBox
	default:
		c.wrong(at+"/level", "level %q is none of trusted_environment and strongbox", s.Level)
	}
	r.AttestationVersion, r.RemoteOnly, r.RequireModel = s.AttestationVersion, s.RemoteOnly, s.RequireModel
	r.OSPatch, r.VendorPatch, r.BootPatch = c.patch(at+"/os_patch", s.OSPatch), c.patch(at+"/vendor_patch", s.VendorPatch), c.patch(at+"/boot_patch", s.BootPatch)
	if s.PatchAge != "" {
		r.PatchAge = c.duration(at+"/patch_age", "patch_age", s.PatchAge, "", 24*time.Hour, 9999*24*time.Hour)
	}
	r.SelfSignedBoot = c.hexes(at+"/self_signed_boot", s.SelfSignedBoot, 0)
	if u := s.Auth; u != nil {
		r.Auth.Required, r.Auth.UnlockedDevice, r.Auth.UserPresence = true, u.UnlockedDevice, u.UserPresence
		for i, word := range u.Types {
			bit, known := map[string]uint64{"password": android.AuthPassword, "biometric": android.AuthBiometric}[word]
			if !known {
				c.wrong(pointer(at+"/auth/types", i), "%q is none of biometric and password", word)
			}
			r.Auth.Types |= bit
		}
		if u.Timeout != "" {
			r.Auth.Timeout = c.duration(at+"/auth/timeout", "timeout", u.Timeout, "", 0, 24*time.Hour)
		}
	}
	at += "/blocked"
	r.Blocked.Keys, r.Blocked.BootKeys = c.digests(at+"/keys", s.Blocked.Keys), c.hexes(at+"/boot_keys", s.Blocked.BootKeys, 0)
	if len(s.Blocked.Serials) > maxPhoneList || len(s.Blocked.Patches) > maxPhoneList || len(s.Blocked.Devices) > maxPhoneList {
		c.wrong(at, "a list has more than %d elements", maxPhoneList)
		return a
	}
	r.Blocked.Serials = s.Blocked.Serials
	for i, serial := range s.Blocked.Serials {
		if !serialForm.MatchString(serial) {
			c.wrong(pointer(at+"/serials", i), "%q is not a serial number in small hexadecimal without zeros in front", serial)
		}
	}
	for i, p := range s.Blocked.Patches {
		if p == 0 {
			c.wrong(pointer(at+"/patches", i), "0 is no patch level")
		}
		r.Blocked.Patches = append(r.Blocked.Patches, c.patch(pointer(at+"/patches", i), p))
	}
	for i, d := range s.Blocked.Devices {
		if d == (AndroidDeviceSpec{Before: d.Before}) {
			c.wrong(pointer(at+"/devices", i), "a device without any name would be every phone: use os_patch, or leave android out")
		}
		r.Blocked.Devices = append(r.Blocked.Devices, android.Device{Brand: d.Brand, Device: d.Device, Product: d.Product, Manufacturer: d.Manufacturer,
			Model: d.Model, Before: c.patch(pointer(at+"/devices", i)+"/before", d.Before)})
	}
	return a
}

func (c *checker) apple(at jsontext.Pointer, s AppleSpec) *evidence.Apple {
	a := &evidence.Apple{Rules: apple.Rules{Development: s.Development}}
	if len(s.Apps) == 0 || len(s.Apps) > maxPhoneList {
		c.wrong(at+"/apps", "there are %d apps, 1 to %d are allowed", len(s.Apps), maxPhoneList)
	}
	for i, app := range s.Apps {
		if !teamForm.MatchString(app.Team) || !appForm.MatchString(app.Bundle) {
			c.wrong(pointer(at+"/apps", i), "%q and %q are not a team identifier of 10 letters and digits and a bundle identifier", app.Team, app.Bundle)
		}
		a.Rules.Apps = append(a.Rules.Apps, apple.Identifier(app))
	}
	if s.Root == "" {
		a.Root = apple.Root()
		return a
	}
	der, err := base64.StdEncoding.Strict().DecodeString(s.Root)
	if err == nil {
		a.Root, err = x509.ParseCertificate(der)
	}
	if err != nil {
		c.wrong(at+"/root", "the root is not a certificate's DER in base64: %v", err)
	}
	return a
}

// profile checks what a type chooses, and what its evidence may be.
func (c *checker) profile(at jsontext.Pointer, t *docType, s TypeSpec) {
	choose := func(member, word, byDefault, other string) bool {
		if word != "" && word != byDefault && word != other {
			c.wrong(at+jsontext.Pointer("/profile/"+member), "%q is none of %s and %s", word, byDefault, other)
		}
		return word == other
	}
	t.profile.ProofNonce = choose("attestation_nonce", s.Profile.AttestationNonce, "attestation", "proof")
	t.profile.TS3Type = choose("attestation_type", s.Profile.AttestationType, "key-attestation+jwt", "keyattestation+jwt")
	t.profile.FirstKey = choose("proof_key", s.Profile.ProofKey, "any", "first")
	t.profile.EachKey = choose("proofs", s.Profile.Proofs, "one", "each")
	for _, l := range []struct {
		member       jsontext.Pointer
		words, known []string
	}{{"/evidence/attestations", s.Evidence.Attestations, attestationKinds}, {"/evidence/apps", s.Evidence.Apps, appKinds}, {"/evidence/status", s.Evidence.Status, statusNames}} {
		for i, w := range l.words {
			if !slices.Contains(l.known, w) || slices.Contains(l.words[:i], w) {
				c.wrong(pointer(at+l.member, i), "%q is none of %s, or is there twice", w, strings.Join(l.known, ", "))
			}
		}
	}
	if r := s.Refresh; r != nil && r.NewKeys && (r.SameKey || r.ReuseAttestation) {
		c.wrong(at+"/refresh", "new_keys allows neither same_key nor reuse_attestation: choose one")
	}
}

// judgePhone holds the attestation against what the type takes: which kind of it, whose app, and until when its statuses are kept.
func (t *docType) judgePhone(f facts) *refusal {
	allowed := t.evidence.Attestations
	if len(allowed) == 0 {
		allowed = []string{evidence.KindKeyAttestation}
	}
	for _, k := range attestationKinds {
		if slices.Contains(f.Kinds, k) && !slices.Contains(allowed, k) {
			return refuse(ruleEvidence, "evidence.attestation_kind", "type %s takes keys that are attested by %s", t.name, strings.Join(allowed, " or "))
		}
	}
	if slices.Contains(f.Kinds, evidence.KindAppAttest) && !slices.Contains(t.evidence.Apps, evidence.KindAppAttest) {
		return refuse(ruleEvidence, "evidence.unasked", "type %s asks for no App Attest: leave it out", t.name)
	}
	if slices.Contains(f.Kinds, evidence.KindWallet) && !slices.Contains(t.evidence.Status, evidence.StatusWallet) {
		return refuse(ruleEvidence, "evidence.unasked", "type %s asks for no status of the wallet: leave its attestation out", t.name)
	}
	if len(t.evidence.Apps) > 0 && !slices.ContainsFunc(t.evidence.Apps, func(k string) bool { return slices.Contains(f.Kinds, k) }) {
		r := refuse(ruleEvidence, "evidence.app_missing", "type %s needs to know the app, by %s", t.name, strings.Join(t.evidence.Apps, " or "))
		r.missing = t.evidence.Apps
		return r
	}
	for _, name := range t.evidence.Status {
		if slices.Contains(f.Kinds, evidence.KindAndroid) { // its statuses are Google's list, which was asked
			break
		}
		i := slices.IndexFunc(f.Statuses, func(s evidence.Status) bool { return s.Name == name })
		if i < 0 {
			r := refuse(ruleEvidence, "evidence.status_missing", "the key attestation has no status of the %s", name)
			r.missing = []string{name}
			return r
		}
		if s := f.Statuses[i]; !s.Known {
			return refuse(ruleEvidence, "evidence.status_unknown", "no fresh status list was fed that the %s of the key attestation points to", name)
		}
	}
	return nil
}

// guaranteed: no credential outlives what its wallet provider keeps a status of (TS3 2.4.3).
func (t *docType) guaranteed(f facts, until time.Time) *refusal {
	for _, s := range f.Statuses {
		if !s.Ends.IsZero() && s.Ends.Before(until) {
			return refuse(ruleEvidence, "evidence.status_ends", "the wallet provider keeps the status of the %s up to date until %s, and the card would live longer", s.Name, stamp(s.Ends))
		}
		if s.Name != evidence.StatusAttestation && s.Ends.IsZero() && slices.Contains(t.evidence.Status, s.Name) {
			return refuse(ruleEvidence, "evidence.status_ends", "the wallet provider does not say until when it keeps the status of the %s up to date", s.Name)
		}
	}
	return nil
}

// Phones are what raw attestations are judged by; nil: they are refused.
func (b *Bundle) Phones() (*evidence.Android, *evidence.Apple) {
	return b.phones.android, b.phones.apple
}

// Profile is how the phone's part of a request is read.
func (b *Bundle) Profile(documentType string, op Operation) evidence.Profile {
	t := b.types[documentType]
	if t == nil {
		return evidence.Profile{}
	}
	p := t.profile
	p.Reuse = op == OpRefresh && t.refresh != nil && t.refresh.ReuseAttestation
	return p
}

// statusKind is what signatures of fed statuses are for.
const statusKind = "phone-status"

var statusLimits = strict.Limits{Bytes: evidence.MaxPhoneStatus, Depth: 4}

// MaxPhoneStatus is the largest file of a status, signatures included.
const MaxPhoneStatus = evidence.MaxPhoneStatus + signed.Room

// PhoneStatus is a status that was fed, with who signed it.
type PhoneStatus struct {
	*evidence.PhoneStatus
	File []byte
	Kid  string
	by   crypto.PublicKey
}

func refuseStatus(code, format string, args ...any) error {
	return &BundleError{"phones." + code, fmt.Sprintf(format, args...)}
}

// OpenPhoneStatus reads a status file that one of the bundle's keys signed. Errors have codes. Its age is asked when it is used.
func (b *Bundle) OpenPhoneStatus(data []byte) (*PhoneStatus, error) {
	if len(b.phones.statusKeys) == 0 {
		return nil, refuseStatus("unconfigured", "the policy has no key (phones.status.keys) that a status could be signed with")
	}
	e, err := signed.Parse(data, statusLimits)
	if err != nil {
		return nil, refuseStatus("malformed", "this is no payload with signatures: %v", err)
	}
	ids, err := e.By(statusKind, b.phones.statusKeys)
	if wrong := (*signed.Error)(nil); errors.As(err, &wrong) {
		return nil, refuseStatus("signature", "%v", wrong)
	} else if err != nil {
		return nil, refuseStatus("malformed", "%v", err)
	}
	if len(ids) == 0 {
		return nil, refuseStatus("unsigned", "none of the policy's keys signed it")
	}
	s, err := evidence.ParsePhoneStatus(e.Payload)
	if err != nil {
		return nil, refuseStatus("malformed", "%v", err)
	}
	i := slices.IndexFunc(b.phones.statusKeys, func(k signed.Key) bool { return k.ID == ids[0] })
	return &PhoneStatus{PhoneStatus: s, File: data, Kid: ids[0], by: b.phones.statusKeys[i].Public}, nil
}

// StatusFor is what requests are judged by under this bundle: nothing, if its signer's key is listed no more or switched off.
func (b *Bundle) StatusFor(s *PhoneStatus) *evidence.PhoneStatus {
	if s == nil || !slices.ContainsFunc(b.phones.statusKeys, func(k signed.Key) bool { return signed.Same(k.Public, s.by) }) {
		return nil
	}
	return s.PhoneStatus
}

// StatusMaxAge is how old a status may be; 0: the bundle knows none.
func (b *Bundle) StatusMaxAge() time.Duration { return b.phones.statusMaxAge }

// SignPhoneStatus gives a status file one more signature. Only one that can be read is signed.
func SignPhoneStatus(data []byte, id string, key crypto.Signer, random io.Reader) ([]byte, error) {
	payload := data
	if signed.Is(data) {
		e, err := signed.Parse(data, statusLimits)
		if err != nil {
			return nil, err
		}
		payload = e.Payload
	}
	if _, err := evidence.ParsePhoneStatus(payload); err != nil {
		return nil, err
	}
	return signed.Sign(data, statusLimits, statusKind, id, key, random)
}
