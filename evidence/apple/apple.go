// Package apple judges Apple App Attest: attestation objects and assertions (developer.apple.com, DeviceCheck framework, "Validating apps that
// connect to your server"; the object is WebAuthn's, fmt apple-appattest).
//
// What it yields is evidence about an app: that a certain build of it, on a genuine device, sent certain bytes. The key behind it signs
// nothing but such assertions, so it can never be the holder key of a credential, and no function of this package gives it away. The
// holder key of an iPhone lives in the Secure Enclave and has no attestation by Apple of its own; the wallet provider vouches for it with
// a key attestation, on the strength of this evidence.
//
// The package is pure: root, instant and rules are parameters. Receipts are passed over: only Apple's servers can say what they are worth.
package apple

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Bounds before decoding; real objects have 5.3 KiB, most of it the receipt, assertions 140 bytes.
const (
	maxObject    = 16 << 10
	maxAssertion = 512
)

// Trust is whom to believe.
type Trust struct {
	Root *x509.Certificate // Root() for devices in the field
}

// Rules say which apps count.
type Rules struct {
	Apps        []Identifier // none: none
	Development bool         // builds that use Apple's development environment count too
}

// Identifier names an app.
type Identifier struct {
	Team, Bundle string // MURL8TA57X, org.example.wallet
}

func (i Identifier) String() string { return i.Team + "." + i.Bundle }

// Expected is what an attestation must fit.
type Expected struct {
	ClientDataHash [32]byte // SHA-256 of what the app was asked to attest, with the challenge in it
	KeyID          [32]byte // as the app names its key
	At             time.Time
}

// App is evidence about one installation of an app: it was attested by Apple, or recalled from what was. The zero value is refused by
// everything that takes it. It is not a holder key, and holds none.
type App struct {
	name        string // team.bundle
	development bool
	counter     uint32 // of the last assertion
	point       []byte // uncompressed; verifies assertions and nothing else
}

// Valid reports whether a came from Verify, Assert or Recall.
func (a *App) Valid() bool { return a != nil && len(a.point) == 65 }

// ID is what the app calls the installation: SHA-256 of the assertion key.
func (a *App) ID() [32]byte { return sha256.Sum256(a.point) }

// Name is team identifier, dot, bundle identifier.
func (a *App) Name() string { return a.name }

// Development reports whether the attestation is from Apple's development environment.
func (a *App) Development() bool { return a.development }

// Counter is the number of the last assertion, 0 if there was none yet.
func (a *App) Counter() uint32 { return a.counter }

// Root is the certificate of Apple's App Attestation Root CA, valid until 2045.
func Root() *x509.Certificate {
	block, _ := pem.Decode([]byte(rootPEM))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		panic("apple: a constant is no certificate: " + err.Error())
	}
	return root
}

var oidNonce = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 2}

var strict = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		MaxArrayElements:  16,
		MaxMapPairs:       16,
		MaxNestedLevels:   4,
	}.DecMode()
	if err != nil {
		panic(err) // constant options
	}
	return m
}()

// Verify checks an attestation object as Apple's nine steps ask for. Errors are *Refusal. Everything that can be refused by reading comes
// before the chain.
func Verify(object []byte, want Expected, trust Trust, rules Rules) (*App, error) {
	if trust.Root == nil || want.At.IsZero() || want.KeyID == [32]byte{} || len(rules.Apps) == 0 {
		return nil, refuse("unconfigured", "root, instant, key id and at least one app must be known before an object can be judged")
	}
	if len(object) > maxObject {
		return nil, refuse("object_too_large", "the attestation object is larger than 16 KiB")
	}
	var o struct {
		Fmt     string `cbor:"fmt"`
		AttStmt struct {
			X5C     [][]byte `cbor:"x5c"`
			Receipt []byte   `cbor:"receipt"`
		} `cbor:"attStmt"`
		AuthData []byte `cbor:"authData"`
	}
	if strict.Unmarshal(object, &o) != nil {
		return nil, refuse("object_malformed", "the attestation object is not strict CBOR of fmt, attStmt and authData")
	}
	if o.Fmt != "apple-appattest" {
		return nil, refuse("format", "the attestation object's fmt is not apple-appattest")
	}
	if len(o.AttStmt.X5C) != 2 {
		return nil, refuse("chain_malformed", "x5c is not two certificates: the assertion key's and its CA's")
	}
	leaf, err1 := x509.ParseCertificate(o.AttStmt.X5C[0])
	between, err2 := x509.ParseCertificate(o.AttStmt.X5C[1])
	if errors.Join(err1, err2) != nil {
		return nil, refuse("chain_malformed", "x5c is not two certificates: the assertion key's and its CA's")
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, refuse("key", "the certified key is not EC P-256")
	}
	point, err := key.Bytes()
	if err != nil {
		return nil, refuse("key", "the certified key is not EC P-256")
	}
	if sha256.Sum256(point) != want.KeyID { // step 5
		return nil, refuse("key_id", "the key id is not the hash of the certified key")
	}
	a := &App{point: point}
	if err := a.authenticator(o.AuthData, want.KeyID, rules); err != nil {
		return nil, err
	}
	if err := attestedNonce(leaf, nonce(o.AuthData, want.ClientDataHash)); err != nil {
		return nil, err
	}
	if err := chain(leaf, between, trust.Root, want.At); err != nil {
		return nil, err
	}
	return a, nil
}

// Flags, counter and what follows them in authenticator data (WebAuthn 6.1).
const (
	flagAttested   = 0x40
	sizeAssertion  = 32 + 1 + 4
	sizeCredential = sizeAssertion + 16 + 2 + 32
)

// authenticator checks authData: steps 6 to 9, and that what Apple's text passes over is what Apple's devices send.
func (a *App) authenticator(d []byte, id [32]byte, rules Rules) error {
	if len(d) < sizeCredential || d[32] != flagAttested || binary.BigEndian.Uint16(d[53:]) != 32 {
		return refuse("auth_data", "authData is not authenticator data with one attested credential")
	}
	if !a.is(d[:32], rules.Apps) {
		return refuse("app", "authData is about another app")
	}
	if binary.BigEndian.Uint32(d[33:]) != 0 {
		return refuse("counter", "the counter of an attestation is not zero: the key was used before")
	}
	switch string(d[37:53]) {
	case "appattest\x00\x00\x00\x00\x00\x00\x00":
	case "appattestdevelop":
		if a.development = true; !rules.Development {
			return refuse("environment", "the attestation is from Apple's development environment")
		}
	default:
		return refuse("environment", "aaguid names no environment of App Attest")
	}
	if !bytes.Equal(d[55:sizeCredential], id[:]) {
		return refuse("credential_id", "authData's credential id is not the key id")
	}
	// COSE_Key {1: 2 (EC2), 3: -7 (ES256), -1: 1 (P-256), -2: x, -3: y}, in the one deterministic encoding.
	cose := append([]byte{0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32}, a.point[1:33]...)
	cose = append(append(cose, 0x22, 0x58, 32), a.point[33:]...)
	if !bytes.Equal(d[sizeCredential:], cose) {
		return refuse("auth_data", "authData's key is not the certified one, or something follows it")
	}
	return nil
}

// is finds the app by the hash of its name.
func (a *App) is(rpIDHash []byte, apps []Identifier) bool {
	for _, app := range apps {
		if h := sha256.Sum256([]byte(app.String())); bytes.Equal(h[:], rpIDHash) {
			a.name = app.String()
			return true
		}
	}
	return false
}

// nonce is steps 2 and 3.
func nonce(authData []byte, clientDataHash [32]byte) [32]byte {
	return sha256.Sum256(append(bytes.Clone(authData), clientDataHash[:]...))
}

// attestedNonce is step 4: SEQUENCE { [1] EXPLICIT OCTET STRING } in one extension.
func attestedNonce(leaf *x509.Certificate, want [32]byte) error {
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(oidNonce) {
			continue
		}
		if head := []byte{0x30, 0x24, 0xa1, 0x22, 0x04, 0x20}; len(e.Value) != len(head)+32 || !bytes.HasPrefix(e.Value, head) {
			return refuse("nonce_malformed", "the nonce in the certificate is not 32 octets in the form that Apple uses")
		}
		if subtle.ConstantTimeCompare(e.Value[6:], want[:]) != 1 {
			return refuse("nonce", "the attestation was not made for this client data")
		}
		return nil
	}
	return refuse("nonce_malformed", "the certificate has no nonce")
}

// chain is step 1. The leaf lives for three days: an attestation is judged when it arrives, and remembered afterwards.
func chain(leaf, between, root *x509.Certificate, at time.Time) error {
	if leaf.IsCA {
		return refuse("chain_untrusted", "the assertion key's certificate is a CA")
	}
	if _, ok := between.PublicKey.(*ecdsa.PublicKey); !ok { // before it verifies anything: anybody may have chosen it, and RSA's may be of any length
		return refuse("chain_untrusted", "the CA's key is not EC, as those of Apple's CAs are")
	}
	roots, cas := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	cas.AddCert(between)
	paths, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: cas, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, MaxConstraintComparisions: 1000,
	})
	if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return refuse("chain_expired", "a certificate of the chain is expired or not valid yet")
	}
	if err != nil || len(paths[0]) != 3 {
		return refuse("chain_untrusted", "the chain doesn't lead to Apple's root for App Attest")
	}
	return nil
}

// Assert checks an assertion over clientDataHash and gives the app as it is after it. Whoever keeps apps must store the result in place of a
// before believing the request, and only if a is still what is stored: so no assertion counts twice.
func (a *App) Assert(assertion []byte, clientDataHash [32]byte) (*App, error) {
	if !a.Valid() {
		return nil, refuse("unconfigured", "an assertion can only be judged for an app that was attested")
	}
	if len(assertion) > maxAssertion {
		return nil, refuse("assertion_malformed", "the assertion is larger than 512 bytes")
	}
	var o struct {
		Signature []byte `cbor:"signature"`
		AuthData  []byte `cbor:"authenticatorData"`
	}
	// Devices set the flag of an attested credential here as well and send none, so flags say nothing.
	if strict.Unmarshal(assertion, &o) != nil || len(o.AuthData) != sizeAssertion {
		return nil, refuse("assertion_malformed", "the assertion is not strict CBOR of signature and 37 octets of authenticatorData")
	}
	if h := sha256.Sum256([]byte(a.name)); !bytes.Equal(h[:], o.AuthData[:32]) {
		return nil, refuse("app", "the assertion is about another app")
	}
	next := *a
	if next.counter = binary.BigEndian.Uint32(o.AuthData[33:]); next.counter <= a.counter {
		return nil, refuse("counter", "the assertion's counter is not above the last one: it was seen before")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), a.point)
	if err != nil {
		return nil, refuse("unconfigured", "an assertion can only be judged for an app that was attested")
	}
	n := nonce(o.AuthData, clientDataHash)
	if digest := sha256.Sum256(n[:]); !ecdsa.VerifyASN1(key, digest[:], o.Signature) { // the nonce is the message, so it is hashed again
		return nil, refuse("signature", "the assertion is not signed by the attested app over this client data")
	}
	return &next, nil
}

const recordVersion = 1

// Record is a in a form that can be stored. It holds no secret.
func (a *App) Record() []byte {
	if !a.Valid() {
		return nil
	}
	b := []byte{recordVersion, 0}
	if a.development {
		b[1] = 1
	}
	b = binary.BigEndian.AppendUint32(b, a.counter)
	return append(append(b, a.point...), a.name...)
}

// Recall is the inverse of Record. A record is believed: whoever stores it keeps it from being changed.
func Recall(record []byte) (*App, error) {
	const head = 2 + 4 + 65
	if len(record) <= head || len(record) > head+512 || record[0] != recordVersion || record[1] > 1 {
		return nil, errors.New("recall an attested app: the record is none of this version's")
	}
	a := &App{name: string(record[head:]), development: record[1] == 1, counter: binary.BigEndian.Uint32(record[2:]), point: bytes.Clone(record[6:head])}
	if _, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), a.point); err != nil {
		return nil, errors.New("recall an attested app: the record's key is no point of P-256")
	}
	return a, nil
}

// Refusal is evidence that was looked at and not believed.
type Refusal struct {
	code, detail string
}

// Code is stable: evidence.apple_nonce, …; Codes explains each.
func (r *Refusal) Code() string { return r.code }

// Error says what was wrong, without repeating any of the evidence.
func (r *Refusal) Error() string { return r.code + ": " + r.detail }

func refuse(code, detail string) error {
	return &Refusal{code: "evidence.apple_" + code, detail: detail}
}
