package phone

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"slices"
	"time"
)

// Apple is an App Attest authority: a root and the CA below it.
type Apple struct {
	chain []*x509.Certificate // CA, root
	keys  []*ecdsa.PrivateKey
	now   time.Time
}

// NewApple makes an authority as it would be at now.
func NewApple(now time.Time) (*Apple, error) {
	a := &Apple{now: now}
	for _, name := range []string{"Apple App Attestation Root CA", "Apple App Attestation CA 1"} {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			return nil, err
		}
		c := &x509.Certificate{
			SerialNumber: serial(), Subject: pkix.Name{CommonName: name, Organization: []string{"Apple Inc."}, Province: []string{"California"}},
			NotBefore: now.Add(-365 * day), NotAfter: now.Add(3650 * day), KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		}
		parent, by := c, key
		if len(a.chain) > 0 {
			parent, by = a.chain[0], a.keys[0]
		}
		cert, err := certify(c, parent, key.Public(), by)
		if err != nil {
			return nil, err
		}
		a.chain, a.keys = append([]*x509.Certificate{cert}, a.chain...), append([]*ecdsa.PrivateKey{key}, a.keys...)
	}
	return a, nil
}

// Root is the authority's root.
func (a *Apple) Root() *x509.Certificate { return a.chain[1] }

// AppKey is an app's assertion key on one device.
type AppKey struct {
	app     string
	key     *ecdsa.PrivateKey
	counter uint32
}

// NewAppKey makes an assertion key for an app, named team.bundle.
func NewAppKey(app string) *AppKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	return &AppKey{app: app, key: key}
}

func (k *AppKey) point() []byte {
	point, err := k.key.PublicKey.Bytes()
	must(err)
	return point
}

// ID is the key's id.
func (k *AppKey) ID() [32]byte { return sha256.Sum256(k.point()) }

// AppleBend changes how an attestation is made. Each change is signed by the authority as if it were right.
type AppleBend struct {
	Development bool
	AuthData    func(d []byte) []byte        // before it is hashed
	Leaf        func(c *x509.Certificate)    // before it is signed; its nonce is an extra extension
	Chain       func(x5c [][]byte) [][]byte  // what the object carries
	Fmt         string                       // empty: apple-appattest
	After       func(authData []byte) []byte // authData as sent, after it was hashed
}

// Attest makes the attestation object for an app's key over clientDataHash, valid for three days from a day before the authority's now.
func (a *Apple) Attest(k *AppKey, clientDataHash [32]byte, bend AppleBend) []byte {
	id, point := k.ID(), k.point()
	aaguid := "appattest\x00\x00\x00\x00\x00\x00\x00"
	if bend.Development {
		aaguid = "appattestdevelop"
	}
	app := sha256.Sum256([]byte(k.app))
	d := slices.Concat(app[:], []byte{0x40, 0, 0, 0, 0}, []byte(aaguid), []byte{0, 32}, id[:],
		[]byte{0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32}, point[1:33], []byte{0x22, 0x58, 32}, point[33:])
	if bend.AuthData != nil {
		d = bend.AuthData(d)
	}
	nonce := sha256.Sum256(append(slices.Clone(d), clientDataHash[:]...))
	leaf := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "app key", OrganizationalUnit: []string{"AAA Certification"}, Organization: []string{"Apple Inc."}},
		NotBefore: a.now.Add(-day), NotAfter: a.now.Add(2 * day), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtraExtensions: []pkix.Extension{{
			Id:    asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 2},
			Value: DERSequence(DERField(1, DEROctets(nonce[:]))),
		}},
	}
	if bend.Leaf != nil {
		bend.Leaf(leaf)
	}
	cert, err := certify(leaf, a.chain[0], k.key.Public(), a.keys[0])
	must(err)
	x5c := [][]byte{cert.Raw, a.chain[0].Raw}
	if bend.Chain != nil {
		x5c = bend.Chain(x5c)
	}
	if bend.After != nil {
		d = bend.After(d)
	}
	if bend.Fmt == "" {
		bend.Fmt = "apple-appattest"
	}
	certs := cborHead(4, len(x5c))
	for _, c := range x5c {
		certs = append(certs, cborBytes(c)...)
	}
	return slices.Concat(cborHead(5, 3), cborText("fmt"), cborText(bend.Fmt), cborText("attStmt"), cborHead(5, 2), cborText("x5c"), certs,
		cborText("receipt"), cborBytes([]byte("receipt")), cborText("authData"), cborBytes(d))
}

// Assert makes the key's next assertion over clientDataHash.
func (k *AppKey) Assert(clientDataHash [32]byte) []byte {
	k.counter++
	return k.AssertWith(clientDataHash, k.counter)
}

// AssertWith makes one with a counter of choice.
func (k *AppKey) AssertWith(clientDataHash [32]byte, counter uint32) []byte {
	app := sha256.Sum256([]byte(k.app))
	d := binary.BigEndian.AppendUint32(append(app[:], 0x40), counter)
	nonce := sha256.Sum256(append(slices.Clone(d), clientDataHash[:]...))
	digest := sha256.Sum256(nonce[:])
	sig, err := ecdsa.SignASN1(rand.Reader, k.key, digest[:])
	must(err)
	return slices.Concat(cborHead(5, 2), cborText("signature"), cborBytes(sig), cborText("authenticatorData"), cborBytes(d))
}

func cborHead(major byte, n int) []byte {
	switch major <<= 5; {
	case n < 24:
		return []byte{major | byte(n)}
	case n < 0x100:
		return []byte{major | 24, byte(n)}
	default:
		return []byte{major | 25, byte(n >> 8), byte(n)}
	}
}

func cborBytes(b []byte) []byte { return append(cborHead(2, len(b)), b...) }

func cborText(s string) []byte { return append(cborHead(3, len(s)), s...) }
