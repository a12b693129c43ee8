package phone

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"time"
)

// Android is the attestation key inside an Android phone with the certificates above it, root last, shaped as those of phones in the field:
// a factory's chain, or one that was provisioned over the air (RKP).
type Android struct {
	chain []*x509.Certificate
	keys  []crypto.Signer // of chain
	level int             // 1 trusted environment, 2 StrongBox
}

// AndroidBend changes how a phone's chain is made.
type AndroidBend struct {
	Remote      bool                                 // provisioned over the air; else in the factory
	StrongBox   bool                                 // else a trusted environment
	Certificate func(depth int, c *x509.Certificate) // template of each certificate before it is signed; 0 is the leaf, then upwards
	Key         func(depth int) crypto.Signer        // a key of another kind; nil result: P-256, the root P-384
	Root        *Android                             // whose root this one has too
}

const day = 24 * time.Hour

// NewAndroid makes a phone's attestation key and chain, as they would be at now.
func NewAndroid(now time.Time, bend AndroidBend) (*Android, error) {
	level := "TEE"
	if bend.StrongBox {
		level = "StrongBox"
	}
	factory := func(serial string) *x509.Certificate {
		name := pkix.Name{SerialNumber: serial, ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 12}, Value: level}}}
		return &x509.Certificate{Subject: name, NotBefore: now.Add(-300 * day), NotAfter: now.Add(3300 * day)}
	}
	server := func(name string, from, until time.Duration) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: []string{"Google LLC"}}, NotBefore: now.Add(from), NotAfter: now.Add(until)}
	}
	templates := []*x509.Certificate{factory("a0b63a35743673b7"), factory("e18c4f2ca699739a")}
	if bend.Remote {
		attestation := server("4f47dffaecc3f58346fb7815514e0dcc", -day, 27*day)
		attestation.Subject.Organization = []string{level}
		templates = []*x509.Certificate{attestation, server("Droid CA3", -20*day, 50*day), server("Droid CA2", -300*day, 3300*day)}
	}
	templates = append(templates, server("Key Attestation CA1", -365*day, 3650*day))

	a := &Android{level: 1, chain: make([]*x509.Certificate, len(templates)), keys: make([]crypto.Signer, len(templates))}
	if bend.StrongBox {
		a.level = 2
	}
	for i := len(templates) - 1; i >= 0; i-- {
		c, up := templates[i], min(i+1, len(templates)-1)
		if i == up && bend.Root != nil {
			n := len(bend.Root.chain) - 1
			a.chain[i], a.keys[i] = bend.Root.chain[n], bend.Root.keys[n]
			continue
		}
		if bend.Key != nil {
			a.keys[i] = bend.Key(i + 1)
		}
		if a.keys[i] == nil {
			curve := elliptic.P256()
			if i == up {
				curve = elliptic.P384()
			}
			key, err := ecdsa.GenerateKey(curve, rand.Reader)
			if err != nil {
				return nil, err
			}
			a.keys[i] = key
		}
		c.SerialNumber, c.KeyUsage, c.IsCA, c.BasicConstraintsValid = serial(), x509.KeyUsageCertSign, true, true
		if bend.Certificate != nil {
			bend.Certificate(i+1, c)
		}
		parent := a.chain[up]
		if i == up {
			parent = c
		}
		var err error
		if a.chain[i], err = certify(c, parent, a.keys[i].Public(), a.keys[up]); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	_, err := rand.Read(b)
	must(err)
	b[0] = b[0]&0x7f | 0x40 // positive and of full length
	return new(big.Int).SetBytes(b)
}

func certify(c, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Root is SHA-256 of the root's SubjectPublicKeyInfo.
func (a *Android) Root() [32]byte {
	return sha256.Sum256(a.chain[len(a.chain)-1].RawSubjectPublicKeyInfo)
}

// Certificates are those above the leaf, root last.
func (a *Android) Certificates() []*x509.Certificate { return slices.Clone(a.chain) }

// AndroidChain is what KeyStore.getCertificateChain gives for key i of a phone: DER, leaf first and root last. The leaf's attestation
// extension is d.
func (p *Phone) AndroidChain(i int, a *Android, d *KeyDescription) [][]byte {
	return a.Chain(p.PublicKey(i), d.Encode(), nil)
}

// Attestation is what a phone sends of its keys: a chain for each of the first n, made for a challenge and an app, in base64url. bend changes what
// the secure hardware states of key i; nil: nothing.
func (a *Android) Attestation(p *Phone, n int, challenge, app string, signer [32]byte, at time.Time, bend func(i int, d *KeyDescription)) (chains [][]string) {
	for i := range n {
		d := NewKeyDescription([]byte(challenge), app, signer, at)
		d.Level, d.KeyMintLevel = a.level, a.level
		if bend != nil {
			bend(i, d)
		}
		chains = append(chains, Texts(p.AndroidChain(i, a, d)))
	}
	return chains
}

// Texts are a chain's certificates in base64url.
func Texts(chain [][]byte) (texts []string) {
	for _, der := range chain {
		texts = append(texts, b64(der))
	}
	return texts
}

// Chain is AndroidChain with an extension as it comes, none if nil, and a changed leaf.
func (a *Android) Chain(key crypto.PublicKey, extension []byte, bend func(leaf *x509.Certificate)) [][]byte {
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Android Keystore Key"}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2106, 2, 7, 6, 28, 15, 0, time.UTC),
	}
	if extension != nil {
		leaf.ExtraExtensions = []pkix.Extension{{Id: AndroidExtension, Value: extension}}
	}
	if bend != nil {
		bend(leaf)
	}
	cert, err := certify(leaf, a.chain[0], key, a.keys[0])
	must(err)
	chain := [][]byte{cert.Raw}
	for _, c := range a.chain {
		chain = append(chain, c.Raw)
	}
	return chain
}

// ExtendAndroidChain puts another certificate below a chain, signed with key i, as an app can with any key that it may use.
func (p *Phone) ExtendAndroidChain(i int, chain [][]byte, key crypto.PublicKey, extension []byte) [][]byte {
	parent, err := x509.ParseCertificate(chain[0])
	must(err)
	below := &Android{chain: []*x509.Certificate{parent}, keys: []crypto.Signer{p.keys[i]}}
	return append(below.Chain(key, extension, nil)[:1], chain...)
}

// AndroidExtension is the OID of the attestation extension.
var AndroidExtension = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 1, 17}

// KeyDescription is what secure hardware states of a key, written from the schema of
// source.android.com/docs/security/features/keystore/attestation.
type KeyDescription struct {
	Version, KeyMintVersion int
	Level, KeyMintLevel     int // 0 software, 1 trusted environment, 2 StrongBox
	Challenge, UniqueID     []byte
	Software, Hardware      Authorizations
}

// Authorizations are an AuthorizationList, in the order in which it is encoded.
type Authorizations []Authorization

// Authorization is one field: its tag and the DER inside it.
type Authorization struct {
	Tag int
	DER []byte
}

// Set replaces a field, or puts a new one where its tag belongs; nil removes it.
func (l *Authorizations) Set(tag int, der []byte) {
	*l = slices.DeleteFunc(*l, func(a Authorization) bool { return a.Tag == tag })
	if der != nil {
		at, _ := slices.BinarySearchFunc(*l, tag, func(a Authorization, tag int) int { return a.Tag - tag })
		*l = slices.Insert(*l, at, Authorization{tag, der})
	}
}

// NewKeyDescription is a good one: a P-256 key for signing, made in a trusted environment of a locked phone with Android 14, patched in
// the month of at, by an app signed with signer.
func NewKeyDescription(challenge []byte, app string, signer [32]byte, at time.Time) *KeyDescription {
	d := &KeyDescription{Version: 300, KeyMintVersion: 300, Level: 1, KeyMintLevel: 1, Challenge: challenge}
	month := at.Year()*100 + int(at.Month())
	d.Software.Set(701, DERInt(int(at.UnixMilli())))
	d.Software.Set(709, DEROctets(ApplicationID(map[string]int{app: 7}, signer[:])))
	d.Hardware.Set(1, DERSet(DERInt(2)))
	d.Hardware.Set(2, DERInt(3))
	d.Hardware.Set(3, DERInt(256))
	d.Hardware.Set(5, DERSet(DERInt(4)))
	d.Hardware.Set(10, DERInt(1))
	d.Hardware.Set(504, DERInt(2))
	d.Hardware.Set(702, DERInt(0))
	d.Hardware.Set(704, RootOfTrust(make([]byte, 32), true, 0))
	d.Hardware.Set(705, DERInt(140000))
	d.Hardware.Set(706, DERInt(month))
	for i, s := range []string{"google", "akita", "akita", "Google", "Pixel 8a"} {
		d.Hardware.Set([]int{710, 711, 712, 716, 717}[i], DEROctets([]byte(s)))
	}
	d.Hardware.Set(718, DERInt(month*100+5))
	d.Hardware.Set(719, DERInt(month*100+5))
	return d
}

// Encode gives the extension's content.
func (d *KeyDescription) Encode() []byte {
	return DERSequence(DERInt(d.Version), DEREnum(d.Level), DERInt(d.KeyMintVersion), DEREnum(d.KeyMintLevel), DEROctets(d.Challenge), DEROctets(d.UniqueID),
		d.Software.encode(), d.Hardware.encode())
}

func (l Authorizations) encode() []byte {
	var fields [][]byte
	for _, a := range l {
		fields = append(fields, DERField(a.Tag, a.DER))
	}
	return DERSequence(fields...)
}

// RootOfTrust is the content of field 704; state is 0 verified, 1 self-signed, 2 unverified, 3 failed.
func RootOfTrust(bootKey []byte, locked bool, state int) []byte {
	flag := byte(0)
	if locked {
		flag = 0xff
	}
	hash := sha256.Sum256(bootKey)
	return DERSequence(DEROctets(bootKey), der(1, []byte{flag}), DEREnum(state), DEROctets(hash[:]))
}

// ApplicationID is the content of the octets in field 709.
func ApplicationID(packages map[string]int, signers ...[]byte) []byte {
	var infos, digests [][]byte
	for name, version := range packages {
		infos = append(infos, DERSequence(DEROctets([]byte(name)), DERInt(version)))
	}
	slices.SortFunc(infos, slices.Compare)
	for _, s := range signers {
		digests = append(digests, DEROctets(s))
	}
	return DERSequence(DERSet(infos...), DERSet(digests...))
}

// DERInt, DEREnum, DEROctets, DERNull, DERSet, DERSequence and DERField encode what a KeyDescription is made of.
func DERInt(n int) []byte { return der(2, big.NewInt(int64(n)).FillBytes(make([]byte, octets(n)))) }

// DEREnum is an ENUMERATED.
func DEREnum(n int) []byte { return der(10, big.NewInt(int64(n)).FillBytes(make([]byte, octets(n)))) }

// DEROctets is an OCTET STRING.
func DEROctets(b []byte) []byte { return der(4, b) }

// DERNull is a NULL.
func DERNull() []byte { return der(5, nil) }

// DERSet is a SET in the order given.
func DERSet(elements ...[]byte) []byte { return der(0x31, slices.Concat(elements...)) }

// DERSequence is a SEQUENCE.
func DERSequence(elements ...[]byte) []byte { return der(0x30, slices.Concat(elements...)) }

// DERField is an element with an EXPLICIT context tag.
func DERField(tag int, inner []byte) []byte {
	if tag < 31 {
		return der(0xa0|byte(tag), inner)
	}
	b := []byte{0xbf, byte(tag & 0x7f)}
	for tag >>= 7; tag > 0; tag >>= 7 {
		b = slices.Insert(b, 1, byte(tag&0x7f)|0x80)
	}
	return append(b, der(0, inner)[1:]...)
}

func octets(n int) int { return big.NewInt(int64(n)).BitLen()/8 + 1 }

func der(tag byte, content []byte) []byte {
	switch n := len(content); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, content...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, content...)
	default:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content...)
	}
}
