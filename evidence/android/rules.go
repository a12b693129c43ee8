package android

import (
	"bytes"
	"slices"
	"time"
)

// Values of KeyMint's KeyPurpose.
const (
	PurposeEncrypt   = 0
	PurposeDecrypt   = 1
	PurposeSign      = 2
	PurposeVerify    = 3
	PurposeWrap      = 5
	PurposeAgree     = 6
	PurposeAttestKey = 7
)

// Values of KeyMint's KeyOrigin.
const (
	OriginGenerated = 0
	OriginDerived   = 1
	OriginImported  = 2
)

// Bits of userAuthType.
const (
	AuthPassword  = 1
	AuthBiometric = 2
)

// Rules are what a chain must fit beyond being true. They are data, so that a compromised model, patch level or root can be switched off
// without a release. Zero values are the strict ones, but for minimums and ages, where zero asks for nothing.
type Rules struct {
	Level              SecurityLevel // at least; a trusted environment is always asked for
	AttestationVersion uint64        // at least: 3 is Keymaster 4, 100 KeyMint 1 (Android 12), 200 Android 13, 300 Android 14, 400 Android 16
	RemoteOnly         bool          // refuse factories' keys, of which some leak every year, each shared by at least 100,000 devices

	Apps     []App    // which apps may hold the key; none: none may
	Origins  []uint64 // empty: generated inside the secure hardware only
	Purposes []uint64 // what else than signing a key may be for; empty: nothing

	SelfSignedBoot [][]byte // verifiedBootKey of systems other than the maker's that are accepted, locked all the same
	OSPatch        Patch    // at least, as are the two that follow
	VendorPatch    Patch
	BootPatch      Patch
	PatchAge       time.Duration // of the system's patch level, counted from its first day

	Auth         Auth
	RequireModel bool // the phone's properties must be attested (setDevicePropertiesAttestationIncluded)
	Blocked      Blocked
}

// App is one app as installed from one maker.
type App struct {
	Package string
	Signers [][32]byte // SHA-256 of each certificate that the package may be signed with
	Version uint64     // at least
}

// Auth says how the user must have been recognised before the key signs.
type Auth struct {
	Required       bool
	Types          uint64        // userAuthType may have these bits only; 0: any
	Timeout        time.Duration // the longest accepted authTimeout; 0: each use has to be authorised by itself
	UnlockedDevice bool          // the key must need an unlocked device
	UserPresence   bool          // the key must need a press of a button that software can't press
}

// Blocked is what was compromised. Each list works without the others.
type Blocked struct {
	Keys     [][32]byte // SHA-256 of the SubjectPublicKeyInfo of a root, or of any other certificate above the leaf
	Serials  []string   // of any certificate, written as in the status list
	BootKeys [][]byte   // verifiedBootKey: one for a maker's models, and always stated
	Patches  []Patch    // of the system, vendor or boot partition, as stated
	// Devices need attested properties: while the list is not empty, phones that don't have theirs attested are refused, or leaving them out
	// would be the way around it.
	Devices []Device
}

// Device is a model by its attested properties. In a block list, empty members fit everything.
type Device struct {
	Brand, Device, Product, Manufacturer, Model string
	Before                                      Patch // block list: only systems below this patch level; 0: all
}

// Patch is a patch level, YYYYMM or YYYYMMDD; what is neither counts as not stated. Some phones leave the day zero.
type Patch uint32

func patch(l *AuthorizationList, tag uint32) Patch {
	n, _ := l.Number(tag)
	if p := Patch(min(n, 1<<31)); p.Valid() {
		return p
	}
	return 0
}

// Valid reports whether p is a patch level, and one that is stated.
func (p Patch) Valid() bool {
	m := p.month()
	return m >= 200001 && m <= 999912 && m%100 >= 1 && m%100 <= 12 && (p < 1e6 || p%100 <= 31)
}

func (p Patch) month() Patch {
	if p >= 1e7 {
		return p / 100
	}
	return p
}

// below compares to the day if both have one, else to the month.
func (p Patch) below(o Patch) bool {
	if p < 1e7 || o < 1e7 || p%100 == 0 {
		return p.month() < o.month()
	}
	return p < o
}

// start is the first day of the patch level.
func (p Patch) start() time.Time {
	m, day := p.month(), 1
	if p >= 1e7 {
		day = max(1, int(p%100))
	}
	return time.Date(int(m/100), time.Month(m%100), day, 0, 0, 0, 0, time.UTC)
}

func (r *Rules) judge(c chain, d *Description, at time.Time) (Facts, error) {
	f := Facts{
		AttestationVersion: d.AttestationVersion, Remote: c.remote(), Level: d.AttestationLevel, Serials: c.serials(), Root: spki(c.root()), ChainEnds: c.ends(),
		OSPatch: patch(&d.Hardware, OSPatchLevel), VendorPatch: patch(&d.Hardware, VendorPatchLevel), BootPatch: patch(&d.Hardware, BootPatchLevel),
		Device: Device{
			Brand: text(d.Hardware.Octets(IDBrand)), Device: text(d.Hardware.Octets(IDDevice)), Product: text(d.Hardware.Octets(IDProduct)),
			Manufacturer: text(d.Hardware.Octets(IDManufacturer)), Model: text(d.Hardware.Octets(IDModel)),
		},
		Purposes: d.Hardware.Numbers(Purpose),
	}
	f.OSVersion, _ = d.Hardware.Number(OSVersion)
	for _, check := range []func(chain, *Description, *Facts) error{r.blockedChain, r.level, r.key, r.auth, r.boot, r.app, r.blockedDevice} {
		if err := check(c, d, &f); err != nil {
			return Facts{}, err
		}
	}
	return f, r.patches(&f, at)
}

func (r *Rules) blockedChain(c chain, _ *Description, f *Facts) error {
	for i, cert := range c {
		if slices.Contains(r.Blocked.Serials, f.Serials[i]) || i > 0 && slices.Contains(r.Blocked.Keys, spki(cert)) {
			return refuse("blocked_chain", "a root, attestation key or certificate of the chain is switched off by this appliance's rules")
		}
	}
	if r.RemoteOnly && !f.Remote {
		return refuse("provisioning", "the phone's attestation key is a factory's, and only those provisioned over the air are accepted")
	}
	return nil
}

func (r *Rules) level(c chain, d *Description, f *Facts) error {
	if d.AttestationLevel != d.KeyMintLevel || f.Level < max(r.Level, TrustedEnvironment) {
		return refuse("level", "the key, or what attests it, is not in secure hardware of the level that is asked for")
	}
	if said := c.level(); said == "StrongBox" != (f.Level == StrongBox) || said != "" && said != "TEE" && said != "StrongBox" {
		return refuse("level_certificate", "the attestation names another security level than the certificate of the key that signed it")
	}
	if d.AttestationVersion < r.AttestationVersion {
		return refuse("version", "the phone's attestation version is older than what is accepted")
	}
	return nil
}

func (r *Rules) key(_ chain, d *Description, f *Facts) error {
	origins := r.Origins
	if len(origins) == 0 {
		origins = []uint64{OriginGenerated}
	}
	if n, ok := d.Hardware.Number(Origin); !ok || !slices.Contains(origins, n) {
		return refuse("origin", "the secure hardware doesn't state that it generated the key")
	}
	if !slices.Contains(f.Purposes, PurposeSign) {
		return refuse("purpose", "the key is not one for signing")
	}
	for _, p := range f.Purposes {
		if p != PurposeSign && !slices.Contains(r.Purposes, p) {
			return refuse("purpose", "the key is for more than signing")
		}
	}
	if d.Hardware.Has(AllApplications) || d.Software.Has(AllApplications) {
		return refuse("all_applications", "every app of the phone may use the key")
	}
	return nil
}

func (r *Rules) auth(_ chain, d *Description, f *Facts) error {
	h := &d.Hardware
	types, typed := h.Number(UserAuthType)
	timeout, timed := h.Number(AuthTimeout)
	if h.Has(NoAuthRequired) {
		types, typed = 0, false
	}
	f.AuthTypes, f.AuthTimeout = types, time.Duration(min(timeout, 1<<32))*time.Second
	f.UnlockedDeviceRequired, f.TrustedUserPresence = h.Has(UnlockedDeviceRequired), h.Has(TrustedUserPresence)
	switch a := r.Auth; {
	case a.Required && (!typed || types == 0):
		return refuse("auth", "the key can be used without recognising the user")
	case a.Required && a.Types != 0 && types&^a.Types != 0:
		return refuse("auth", "the key can be used after a way of recognising the user that is not accepted")
	case a.Required && timed && f.AuthTimeout > a.Timeout:
		return refuse("auth", "the key can be used for longer after recognising the user than is accepted")
	case a.UnlockedDevice && !f.UnlockedDeviceRequired:
		return refuse("auth", "the key can be used while the phone is locked")
	case a.UserPresence && !f.TrustedUserPresence:
		return refuse("auth", "the key can be used without anybody present")
	}
	return nil
}

func (r *Rules) boot(_ chain, d *Description, f *Facts) error {
	t := d.Hardware.RootOfTrust()
	if t == nil {
		return refuse("root_of_trust", "the secure hardware doesn't state what the phone booted")
	}
	f.BootState, f.BootKey = t.BootState, t.BootKey
	if !t.DeviceLocked {
		return refuse("unlocked", "the phone's bootloader is unlocked")
	}
	known := func(list [][]byte) bool {
		return slices.ContainsFunc(list, func(k []byte) bool { return bytes.Equal(k, t.BootKey) })
	}
	if t.BootState != Verified && (t.BootState != SelfSigned || !known(r.SelfSignedBoot)) {
		return refuse("boot_state", "the phone booted a system that its maker didn't sign")
	}
	if known(r.Blocked.BootKeys) {
		return refuse("blocked_device", "phones that boot with this key are switched off by this appliance's rules")
	}
	return nil
}

// app believes softwareEnforced: the system that wrote the name is the one that the root of trust vouches for. All packages of one Android
// user id may use the key, so all that are named must be accepted, and each signer must be one of an accepted app's.
func (r *Rules) app(_ chain, d *Description, f *Facts) error {
	bad := refuse("app", "the key belongs to an app, version or signer other than those accepted")
	id := d.Software.ApplicationID()
	if id == nil || len(id.Packages) == 0 || len(id.Signers) == 0 {
		return bad
	}
	for _, p := range id.Packages {
		if !slices.ContainsFunc(r.Apps, func(a App) bool {
			return a.Package == p.Name && p.Version >= a.Version && !slices.ContainsFunc(id.Signers, func(s []byte) bool {
				return !slices.ContainsFunc(a.Signers, func(known [32]byte) bool { return bytes.Equal(known[:], s) })
			})
		}) {
			return bad
		}
	}
	f.App = id.Packages[0]
	return nil
}

func (r *Rules) blockedDevice(_ chain, _ *Description, f *Facts) error {
	if (r.RequireModel || len(r.Blocked.Devices) > 0) && (f.Device.Manufacturer == "" || f.Device.Model == "" || f.Device.Brand == "" || f.Device.Device == "" || f.Device.Product == "") {
		return refuse("model_unknown", "the phone's properties are not attested: make the key with setDevicePropertiesAttestationIncluded")
	}
	fits := func(pattern, s string) bool { return pattern == "" || pattern == s }
	for _, b := range r.Blocked.Devices {
		if fits(b.Brand, f.Device.Brand) && fits(b.Device, f.Device.Device) && fits(b.Product, f.Device.Product) && fits(b.Manufacturer, f.Device.Manufacturer) &&
			fits(b.Model, f.Device.Model) && (b.Before == 0 || f.OSPatch == 0 || f.OSPatch.below(b.Before)) {
			return refuse("blocked_device", "the phone's model is switched off by this appliance's rules")
		}
	}
	for _, p := range r.Blocked.Patches {
		if p == f.OSPatch || p == f.VendorPatch || p == f.BootPatch {
			return refuse("blocked_patch", "the phone's patch level is switched off by this appliance's rules: update the system")
		}
	}
	return nil
}

func (r *Rules) patches(f *Facts, at time.Time) error {
	for _, p := range []struct{ stated, least Patch }{{f.OSPatch, r.OSPatch}, {f.VendorPatch, r.VendorPatch}, {f.BootPatch, r.BootPatch}} {
		switch {
		case p.least == 0:
		case p.stated == 0:
			return refuse("patch_unknown", "the secure hardware doesn't state a patch level that is asked for")
		case p.stated.below(p.least):
			return refuse("patch_low", "a patch level of the phone is below the one asked for: update the system")
		}
	}
	switch {
	case r.PatchAge == 0:
	case f.OSPatch == 0:
		return refuse("patch_unknown", "the secure hardware doesn't state the system's patch level")
	case at.Sub(f.OSPatch.start()) > r.PatchAge:
		return refuse("patch_age", "the phone's system was patched too long ago: update it")
	}
	return nil
}

// text is a property that may stand in a record: printable ASCII and short. Anything else counts as not stated.
func text(b []byte) string {
	if len(b) > 128 {
		return ""
	}
	for _, c := range b {
		if c < 0x20 || c > 0x7e {
			return ""
		}
	}
	return string(b)
}
