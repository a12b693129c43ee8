package android

import (
	"slices"
)

// Description is a KeyDescription, the extension 1.3.6.1.4.1.11129.2.1.17 of an attested key's certificate, decoded and not yet believed.
// What the secure hardware holds to and what only the operating system says are kept apart.
type Description struct {
	AttestationVersion, KeyMintVersion uint64
	AttestationLevel, KeyMintLevel     SecurityLevel
	Challenge                          []byte
	Software, Hardware                 AuthorizationList
}

// SecurityLevel says where a key lives.
type SecurityLevel int

const (
	Software           SecurityLevel = 0
	TrustedEnvironment SecurityLevel = 1
	StrongBox          SecurityLevel = 2
)

func (l SecurityLevel) String() string {
	switch l {
	case Software:
		return "software"
	case TrustedEnvironment:
		return "trusted_environment"
	case StrongBox:
		return "strongbox"
	}
	return "unknown"
}

// Tag numbers of AuthorizationList, as the schema of the attestation extension names them.
const (
	Purpose                 = 1
	Algorithm               = 2
	KeySize                 = 3
	BlockMode               = 4
	Digest                  = 5
	Padding                 = 6
	ECCurve                 = 10
	MLDSAVariant            = 11
	RSAPublicExponent       = 200
	MGFDigest               = 203
	RollbackResistance      = 303
	EarlyBootOnly           = 305
	ActiveDateTime          = 400
	OriginationExpire       = 401
	UsageExpire             = 402
	UsageCountLimit         = 405
	NoAuthRequired          = 503
	UserAuthType            = 504
	AuthTimeout             = 505
	AllowWhileOnBody        = 506
	TrustedUserPresence     = 507
	TrustedConfirmation     = 508
	UnlockedDeviceRequired  = 509
	AllApplications         = 600
	CreationDateTime        = 701
	Origin                  = 702
	RollbackResistant       = 703
	rootOfTrust             = 704
	OSVersion               = 705
	OSPatchLevel            = 706
	applicationID           = 709
	IDBrand                 = 710
	IDDevice                = 711
	IDProduct               = 712
	IDSerial                = 713
	IDIMEI                  = 714
	IDMEID                  = 715
	IDManufacturer          = 716
	IDModel                 = 717
	VendorPatchLevel        = 718
	BootPatchLevel          = 719
	DeviceUniqueAttestation = 720
	IDSecondIMEI            = 723
	ModuleHash              = 724
)

// form is the type inside a field's EXPLICIT tag.
type form byte

const (
	anything form = iota // a tag that this version doesn't know
	integer
	integers // SET OF INTEGER
	null
	octets
	sequence
)

func formOf(tag uint32) form {
	switch tag {
	case Purpose, BlockMode, Digest, Padding, MGFDigest:
		return integers
	case Algorithm, KeySize, ECCurve, MLDSAVariant, RSAPublicExponent, ActiveDateTime, OriginationExpire, UsageExpire, UsageCountLimit,
		UserAuthType, AuthTimeout, CreationDateTime, Origin, OSVersion, OSPatchLevel, VendorPatchLevel, BootPatchLevel:
		return integer
	case RollbackResistance, EarlyBootOnly, NoAuthRequired, AllowWhileOnBody, TrustedUserPresence, TrustedConfirmation,
		UnlockedDeviceRequired, AllApplications, RollbackResistant, DeviceUniqueAttestation:
		return null
	case applicationID, IDBrand, IDDevice, IDProduct, IDSerial, IDIMEI, IDMEID, IDManufacturer, IDModel, IDSecondIMEI, ModuleHash:
		return octets
	case rootOfTrust:
		return sequence
	}
	return anything
}

// field is one entry of an AuthorizationList. What its tag says stands in number, numbers or content.
type field struct {
	tag     uint32
	number  uint64
	numbers []uint64
	content []byte
}

// AuthorizationList is one of the two lists of a KeyDescription.
type AuthorizationList struct {
	fields      []field
	rootOfTrust *RootOfTrust
	application *ApplicationID
}

// RootOfTrust says what the device booted.
type RootOfTrust struct {
	BootKey      []byte
	DeviceLocked bool
	BootState    BootState
	BootHash     []byte // nil: not stated (attestation version 2 and older)
}

// BootState is verifiedBootState.
type BootState int

const (
	Verified   BootState = 0 // the maker's system, whole
	SelfSigned BootState = 1 // another system, signed with a key that the owner enrolled
	Unverified BootState = 2 // anything: the bootloader is unlocked
	Failed     BootState = 3
)

// ApplicationID names the packages that may use a key (those of one Android user id) and the certificates that signed them.
type ApplicationID struct {
	Packages []Package
	Signers  [][]byte // SHA-256 of each signing certificate
}

// Package is one of an ApplicationID.
type Package struct {
	Name    string
	Version uint64
}

// Bounds of a KeyDescription; real ones have below 20 fields a list, 12 packages (the system's own user id) and 1 KiB of names.
const (
	maxDescription = 8 << 10
	maxFields      = 64
	maxSet         = 64
)

// ParseDescription decodes a KeyDescription by its raw tags. Everything of it must be DER; fields stand in ascending order, none twice
// (X.680 8.6, X.690 10.3). Tags that this version doesn't know are passed over, as new releases of Android add some before anyone else hears of it.
// They can't take anything back: a right that a rule asks for is always stated by a tag that is known here.
func ParseDescription(der []byte) (*Description, error) {
	bad := func(what string) error {
		return refuse("description_malformed", "the attestation extension is not a KeyDescription in DER: "+what)
	}
	if len(der) > maxDescription {
		return nil, bad("it is too large")
	}
	outer := reader{left: der}
	r := reader{left: outer.take(tagSequence)}
	d := &Description{AttestationVersion: r.number(tagInteger)}
	level := [2]uint64{r.number(tagEnumerated)}
	d.KeyMintVersion = r.number(tagInteger)
	level[1] = r.number(tagEnumerated)
	d.Challenge = r.take(tagOctets)
	r.take(tagOctets) // uniqueId: names the device for a month; nothing here may know it
	software, hardware := r.take(tagSequence), r.take(tagSequence)
	if !outer.done() || !r.done() {
		return nil, bad("its eight members")
	}
	if level[0] > uint64(StrongBox) || level[1] > uint64(StrongBox) {
		return nil, bad("a security level that is not known")
	}
	d.AttestationLevel, d.KeyMintLevel = SecurityLevel(level[0]), SecurityLevel(level[1])
	if !d.Software.parse(software) {
		return nil, bad("softwareEnforced")
	}
	if !d.Hardware.parse(hardware) {
		return nil, bad("hardwareEnforced")
	}
	return d, nil
}

func (l *AuthorizationList) parse(b []byte) bool {
	for last := uint32(0); len(b) > 0; {
		e, rest, ok := next(b)
		if !ok || e.class != context || !e.constructed || e.tag <= last && len(l.fields) > 0 || len(l.fields) == maxFields {
			return false
		}
		f := field{tag: e.tag}
		inner, none, ok := next(e.content)
		if !ok || len(none) > 0 || !l.read(&f, inner) {
			return false
		}
		if l.fields == nil {
			l.fields = make([]field, 0, 20)
		}
		l.fields = append(l.fields, f)
		last, b = e.tag, rest
	}
	return true
}

func (l *AuthorizationList) read(f *field, e element) (ok bool) {
	switch formOf(f.tag) {
	case integer:
		f.number, ok = number(e.content)
		return ok && e.is(tagInteger)
	case integers:
		r := reader{left: e.content}
		for len(r.left) > 0 && !r.bad && len(f.numbers) < maxSet {
			n := r.number(tagInteger)
			if slices.Contains(f.numbers, n) {
				return false
			}
			f.numbers = append(f.numbers, n)
		}
		return e.is(tagSet) && r.done()
	case null:
		return e.is(tagNull) && len(e.content) == 0
	case octets:
		f.content = e.content
		if f.tag == applicationID {
			l.application, ok = parseApplicationID(e.content)
			return ok && e.is(tagOctets)
		}
		return e.is(tagOctets)
	case sequence:
		r := reader{left: e.content}
		t := &RootOfTrust{BootKey: r.take(tagOctets), DeviceLocked: r.boolean()}
		state := r.number(tagEnumerated)
		if !r.bad && len(r.left) > 0 {
			t.BootHash = r.take(tagOctets)
		}
		t.BootState, l.rootOfTrust = BootState(state&3), t
		return e.is(tagSequence) && r.done() && state <= uint64(Failed)
	}
	return true
}

func parseApplicationID(b []byte) (*ApplicationID, bool) {
	outer := reader{left: b}
	r := reader{left: outer.take(tagSequence)}
	packages, signers := reader{left: r.take(tagSet)}, reader{left: r.take(tagSet)}
	if !outer.done() || !r.done() {
		return nil, false
	}
	a := &ApplicationID{}
	for len(packages.left) > 0 && !packages.bad && len(a.Packages) < maxSet {
		info := reader{left: packages.take(tagSequence)}
		p := Package{Name: string(info.take(tagOctets)), Version: info.number(tagInteger)}
		packages.bad = packages.bad || !info.done()
		a.Packages = append(a.Packages, p)
	}
	for len(signers.left) > 0 && !signers.bad && len(a.Signers) < maxSet {
		a.Signers = append(a.Signers, signers.take(tagOctets))
	}
	return a, packages.done() && signers.done()
}

func (l *AuthorizationList) field(tag uint32) (field, bool) {
	for _, f := range l.fields {
		if f.tag == tag {
			return f, true
		}
	}
	return field{}, false
}

// Has reports whether the list has a field.
func (l *AuthorizationList) Has(tag uint32) bool {
	_, ok := l.field(tag)
	return ok
}

// Number is an INTEGER field; absent is not zero.
func (l *AuthorizationList) Number(tag uint32) (n uint64, ok bool) {
	f, ok := l.field(tag)
	return f.number, ok && formOf(tag) == integer
}

// Numbers is a SET OF INTEGER field, nil if absent.
func (l *AuthorizationList) Numbers(tag uint32) []uint64 {
	f, _ := l.field(tag)
	return f.numbers
}

// Octets is an OCTET STRING field, nil if absent.
func (l *AuthorizationList) Octets(tag uint32) []byte {
	f, _ := l.field(tag)
	return f.content
}

// RootOfTrust is what the device booted, nil if the list doesn't say.
func (l *AuthorizationList) RootOfTrust() *RootOfTrust { return l.rootOfTrust }

// ApplicationID names the apps that may use the key, nil if the list doesn't say.
func (l *AuthorizationList) ApplicationID() *ApplicationID { return l.application }
