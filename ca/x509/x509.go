// Package x509 builds certificates and revocation lists by the profiles of ISO/IEC 18013-5 Annex B and RFC 5280, and lints the very bytes
// that are then signed.
//
// The DER is made by the standard library up to the point where it would be signed: crypto/x509 only builds what it can sign, and the real key is in
// an HSM that takes nothing but the finished TBS of a committed reservation. So what it is given as key takes the bytes and signs nothing. A
// draft can never be mistaken for a certificate, and drafting needs no randomness: the same approval gives the same bytes.
package x509

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

// TBS is a drafted and linted TBSCertificate or TBSCertList. Only Draft and DraftCRL make one.
type TBS struct {
	der       []byte
	algorithm string // of algorithms
}

// Bytes is the DER that is to be signed.
func (t *TBS) Bytes() []byte { return t.der }

// Params that are the same for all certificates of an installation.
type Params struct {
	Country      string // ISO 3166-1 alpha-2, upper case
	State        string // optional ST
	Organization string
	IssuerURL    string   // issuerAltName URI of the IACA and its leaves
	CRLURL       string   // of the first root's CRL; those of the other CAs lie beside it
	DSPurposes   []string // extended key usage OIDs of document signers; default 1.0.18013.5.1.2
}

// DistributionPoint of a revocation list, by its name.
func (p Params) DistributionPoint(name string) string {
	if name == "iaca" {
		return p.CRLURL
	}
	return p.CRLURL[:strings.LastIndexByte(p.CRLURL, '/')+1] + name + ".crl"
}

var (
	oidMDLDS  = asn1.ObjectIdentifier{1, 0, 18013, 5, 1, 2}
	oidIAN    = asn1.ObjectIdentifier{2, 5, 29, 18}
	oidIDP    = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidEKU    = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidServer = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	oidClient = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// Draft builds the TBSCertificate of an approved certificate. issuer is the registry entry of the signing key; issuerCert its certificate
// in DER, nil for the self-signed root.
func Draft(a *policy.Approval, issuer ledger.Key, issuerCert []byte, p Params) (*TBS, error) {
	c, ok := a.Cert()
	if !ok {
		return nil, fmt.Errorf("approval of kind %q allows no certificate", a.Kind())
	}
	if !a.Allows(issuer.Purpose) {
		return nil, fmt.Errorf("the approval does not allow key %s of purpose %s to sign", issuer.ID, issuer.Purpose)
	}
	return draft(c, issuer, issuerCert, p)
}

func draft(c policy.Cert, issuer ledger.Key, issuerCert []byte, p Params) (*TBS, error) {
	rules, ok := profiles[c.Profile]
	if !ok {
		return nil, fmt.Errorf("certificate profile %q is not known", c.Profile)
	}
	if c.IssuerKey != issuer.ID {
		return nil, fmt.Errorf("the certificate was approved for issuer key %s, not %s", c.IssuerKey, issuer.ID)
	}
	pub, err := x509.ParsePKIXPublicKey(c.SPKI)
	if err != nil {
		return nil, fmt.Errorf("public key of %s: %w", c.Name, err)
	}
	id, err := keyID(c.SPKI)
	if err != nil {
		return nil, fmt.Errorf("public key of %s: %w", c.Name, err)
	}
	t := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(c.Serial[:]), NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
		KeyUsage: rules.usage, SubjectKeyId: id}
	if t.RawSubject, err = name(p, c.Name); err != nil {
		return nil, err
	}
	var parent *x509.Certificate
	if rules.root {
		if !bytes.Equal(c.SPKI, issuer.SPKI) || issuerCert != nil {
			return nil, fmt.Errorf("a %s certificate is self-signed: its key must be %s, without an issuer's certificate", c.Profile, issuer.ID)
		}
		parent = &x509.Certificate{RawSubject: t.RawSubject, SubjectKeyId: id, PublicKey: pub}
	} else if parent, err = issuing(issuer, issuerCert); err != nil {
		return nil, err
	}
	if rules.ca {
		t.BasicConstraintsValid, t.IsCA, t.MaxPathLen, t.MaxPathLenZero = true, true, rules.path, rules.path == 0
	}
	// Also on roots, where it is optional: then no lint depends on whether a signature that is not there yet is a root's own.
	t.AuthorityKeyId = parent.SubjectKeyId
	if err := extend(t, c, p); err != nil {
		return nil, err
	}
	tbs, err := unsigned(issuer.Algorithm, parent.PublicKey, func(k crypto.Signer) error { _, err := x509.CreateCertificate(nil, t, parent, pub, k); return err })
	if err != nil {
		return nil, fmt.Errorf("building the %s certificate of %s: %w", c.Profile, c.Name, err)
	}
	der, err := tbs.join(tbs.blank())
	if err != nil {
		return nil, err
	}
	out, f := read(c.Profile, der)
	if out == nil {
		return nil, fmt.Errorf("reading the drafted %s certificate of %s: %s", c.Profile, c.Name, findings(f))
	}
	if !bytes.Equal(out.RawSubjectPublicKeyInfo, c.SPKI) {
		f = append(f, Finding{"spki", "RFC 5480 2", "the key can't be encoded as it was approved"})
	}
	if !bytes.Equal(out.RawIssuer, parent.RawSubject) || !bytes.Equal(out.AuthorityKeyId, parent.SubjectKeyId) {
		f = append(f, Finding{"issuer", rules.clause, "issuer and authority key identifier must be the issuer's, bytewise"})
	}
	if len(f) > 0 {
		return nil, fmt.Errorf("the %s certificate of %s breaks its profile: %s", c.Profile, c.Name, findings(f))
	}
	return tbs, nil
}

// extend fills what differs between the profiles (formats.md 3.3).
func extend(t *x509.Certificate, c policy.Cert, p Params) error {
	if profiles[c.Profile].ian {
		ian, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(p.IssuerURL)}})
		if err != nil {
			return fmt.Errorf("issuerAltName: %w", err)
		}
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oidIAN, Value: ian})
	}
	if c.CRL != "" && p.CRLURL != "" {
		t.CRLDistributionPoints = []string{p.DistributionPoint(c.CRL)}
	}
	for _, u := range c.URIs {
		parsed, err := url.Parse(u)
		if err != nil {
			return fmt.Errorf("subject alternative name: %w", err)
		}
		t.URIs = append(t.URIs, parsed)
		if host := parsed.Hostname(); c.Profile == "sdjwt-issuer" && host != "" {
			addHost(t, host)
		}
	}
	for _, h := range c.Hosts {
		addHost(t, h)
	}
	switch c.Profile {
	case "document-signer":
		purposes := p.DSPurposes
		if len(purposes) == 0 {
			purposes = []string{oidMDLDS.String()}
		}
		var oids []asn1.ObjectIdentifier
		for _, s := range purposes {
			o, err := x509.ParseOID(s)
			if err != nil {
				return fmt.Errorf("extended key usage %q: %w", s, err)
			}
			der, err := o.MarshalBinary()
			if err != nil {
				return fmt.Errorf("extended key usage %q: %w", s, err)
			}
			var oid asn1.ObjectIdentifier
			if _, err := asn1.Unmarshal(append([]byte{6, byte(len(der))}, der...), &oid); err != nil || len(der) > 127 {
				return fmt.Errorf("extended key usage %q is too large", s)
			}
			oids = append(oids, oid)
		}
		der, err := asn1.Marshal(oids)
		if err != nil {
			return fmt.Errorf("extended key usage: %w", err)
		}
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oidEKU, Critical: true, Value: der}) // the template's would be non-critical
	case "server":
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case "client", "officer":
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	return nil
}

func addHost(t *x509.Certificate, h string) {
	if ip := net.ParseIP(h); ip == nil {
		if !slices.Contains(t.DNSNames, h) {
			t.DNSNames = append(t.DNSNames, h)
		}
	} else if !slices.ContainsFunc(t.IPAddresses, ip.Equal) {
		t.IPAddresses = append(t.IPAddresses, ip)
	}
}

// DraftCRL builds the TBSCertList of an approved CRL (formats.md 3.4 and 7).
func DraftCRL(a *policy.Approval, issuer ledger.Key, issuerCert []byte, p Params) (*TBS, error) {
	c, ok := a.CRL()
	if !ok {
		return nil, fmt.Errorf("approval of kind %q allows no revocation list", a.Kind())
	}
	if !a.Allows(issuer.Purpose) {
		return nil, fmt.Errorf("the approval does not allow key %s of purpose %s to sign", issuer.ID, issuer.Purpose)
	}
	return draftCRL(c, issuer, issuerCert)
}

func draftCRL(c policy.CRL, issuer ledger.Key, issuerCert []byte) (*TBS, error) {
	if c.IssuerKey != issuer.ID {
		return nil, fmt.Errorf("the revocation list was approved for issuer key %s, not %s", c.IssuerKey, issuer.ID)
	}
	parent, err := issuing(issuer, issuerCert)
	if err != nil {
		return nil, err
	}
	t := &x509.RevocationList{Number: new(big.Int).SetUint64(c.Number), ThisUpdate: c.ThisUpdate.UTC(), NextUpdate: c.NextUpdate.UTC()}
	for _, r := range c.Revoked {
		e := x509.RevocationListEntry{SerialNumber: new(big.Int).SetBytes(r.Serial), RevocationTime: r.At.UTC()}
		if r.Reason != "" { // B.2 wants no entry extensions, and policy let none through
			code, ok := r.Reason.Code()
			if !ok {
				return nil, fmt.Errorf("revocation list %d: %q is no reason", c.Number, r.Reason)
			}
			e.ReasonCode = code // 0 becomes no extension, which is how unspecified is said (RFC 5280 5.3.1)
		}
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, e)
	}
	if c.Scope != "" {
		point, err := issuingPoint(c.Scope)
		if err != nil {
			return nil, fmt.Errorf("issuing distribution point: %w", err)
		}
		t.ExtraExtensions = []pkix.Extension{{Id: oidIDP, Critical: true, Value: point}}
	}
	tbs, err := unsigned(issuer.Algorithm, parent.PublicKey, func(k crypto.Signer) error { _, err := x509.CreateRevocationList(nil, t, parent, k); return err })
	if err != nil {
		return nil, fmt.Errorf("building revocation list %d: %w", c.Number, err)
	}
	der, err := tbs.join(tbs.blank())
	if err != nil {
		return nil, err
	}
	if f := LintCRL(c.Profile, c.Scope, der); len(f) > 0 {
		return nil, fmt.Errorf("revocation list %d breaks its profile: %s", c.Number, findings(f))
	}
	return tbs, nil
}

// Join makes the signed DER. It refuses a signature over other bytes.
func Join(t *TBS, c *release.Checked, i int) ([]byte, error) {
	if t == nil || len(t.der) == 0 {
		return nil, errors.New("nothing was drafted")
	}
	if c == nil || i < 0 || i >= c.Len() {
		return nil, fmt.Errorf("there is no checked signature %d", i)
	}
	if !bytes.Equal(c.TBS(i), t.der) {
		return nil, fmt.Errorf("signature %d is over other bytes than the draft's", i)
	}
	return t.join(c.Raw(i))
}

// join assembles SEQUENCE { tbs, algorithm, BIT STRING } from a raw signature: r‖s of the curve's length, or Ed25519's 64 bytes.
func (t *TBS) join(raw []byte) ([]byte, error) {
	want := algorithms[t.algorithm].size
	if want == 0 || len(raw) != want {
		return nil, fmt.Errorf("an %s signature has %d bytes, not %d", t.algorithm, want, len(raw))
	}
	if t.algorithm != "EdDSA" {
		var err error
		rs := struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:want/2]), new(big.Int).SetBytes(raw[want/2:])}
		if raw, err = asn1.Marshal(rs); err != nil {
			return nil, fmt.Errorf("encoding the signature: %w", err)
		}
	}
	der, err := asn1.Marshal(struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}{asn1.RawValue{FullBytes: t.der}, asn1.RawValue{FullBytes: algorithms[t.algorithm].identifier}, asn1.BitString{Bytes: raw, BitLength: 8 * len(raw)}})
	if err != nil {
		return nil, fmt.Errorf("assembling: %w", err)
	}
	return der, nil
}

// algorithms that sign certificates and lists: how long a raw signature is, and the AlgorithmIdentifier (RFC 5758 3.2, RFC 8410 3). That in the TBS is the
// standard library's; where the two differed, no parser would read the draft.
var algorithms = map[string]struct {
	size       int
	identifier []byte
}{
	"ES256": {64, []byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}},
	"ES384": {96, []byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03}},
	"EdDSA": {64, []byte{0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70}},
}

// unsigned is what create would have signed.
func unsigned(algorithm string, public crypto.PublicKey, create func(crypto.Signer) error) (*TBS, error) {
	if _, ok := algorithms[algorithm]; !ok {
		return nil, fmt.Errorf("algorithm %q can't sign certificates", algorithm)
	}
	d := &drafting{public: public}
	if err := create(d); !errors.Is(err, errDrafted) {
		return nil, cmp.Or(err, errors.New("it was built without being signed"))
	}
	return &TBS{der: d.tbs, algorithm: algorithm}, nil
}

// drafting stands where the standard library wants a key: it takes the bytes that are to be signed, and ends there.
type drafting struct {
	public crypto.PublicKey
	tbs    []byte
}

var errDrafted = errors.New("nothing is signed here")

func (d *drafting) Public() crypto.PublicKey { return d.public }

func (d *drafting) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("a digest is no draft")
}

// SignMessage is what crypto.SignMessage calls with the bytes themselves.
func (d *drafting) SignMessage(_ io.Reader, tbs []byte, _ crypto.SignerOpts) ([]byte, error) {
	d.tbs = bytes.Clone(tbs)
	return nil, errDrafted
}

// blank is a signature in form alone, for parsers and lints: r and s are 1.
func (t *TBS) blank() []byte {
	b := make([]byte, algorithms[t.algorithm].size)
	b[len(b)/2-1], b[len(b)-1] = 1, 1
	return b
}

// issuing parses the issuer's certificate, which must be the one of its registered key.
func issuing(issuer ledger.Key, der []byte) (*x509.Certificate, error) {
	c, err := Issuer(der)
	if err != nil {
		return nil, fmt.Errorf("certificate of issuer key %s: %w", issuer.ID, err)
	}
	switch {
	case !bytes.Equal(c.RawSubjectPublicKeyInfo, issuer.SPKI):
		return nil, fmt.Errorf("the certificate of issuer key %s is for another key", issuer.ID)
	case !c.IsCA || len(c.SubjectKeyId) == 0:
		return nil, fmt.Errorf("the certificate of issuer key %s is no CA's", issuer.ID)
	}
	return c, nil
}

// issuers are certificates by their bytes: an installation has a handful of CAs, and each certificate needs its issuer's several times.
var issuers sync.Map

// Issuer parses the certificate of a CA. It is everybody's: nobody changes it.
func Issuer(der []byte) (*x509.Certificate, error) {
	if c, ok := issuers.Load(string(der)); ok {
		return c.(*x509.Certificate), nil
	}
	c, err := x509.ParseCertificate(der)
	if err == nil {
		issuers.Store(string(der), c)
	}
	return c, err
}

// keyID is SHA-1 over the public key's bits (RFC 5280 4.2.1.2 method 1, which ISO/IEC 18013-5 Annex B demands; Go's default is another).
func keyID(spki []byte) ([]byte, error) {
	var s struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(spki, &s); err != nil || len(rest) > 0 {
		return nil, errors.New("not one SubjectPublicKeyInfo in DER")
	}
	id := sha1.Sum(s.Key.Bytes)
	return id[:], nil
}

// name is the subject: C must be a PrintableString (B.1.2), everything else is UTF8String (RFC 5280 4.1.2.4).
func name(p Params, cn string) ([]byte, error) {
	var n pkix.RDNSequence
	for _, a := range []struct {
		oid   int
		tag   int
		value string
	}{{6, asn1.TagPrintableString, p.Country}, {8, asn1.TagUTF8String, p.State}, {10, asn1.TagUTF8String, p.Organization}, {3, asn1.TagUTF8String, cn}} {
		if a.value != "" {
			n = append(n, pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 5, 4, a.oid}, Value: asn1.RawValue{Tag: a.tag, Bytes: []byte(a.value)}}})
		}
	}
	der, err := asn1.Marshal(n)
	if err != nil {
		return nil, fmt.Errorf("subject name of %s: %w", cn, err)
	}
	return der, nil
}

func findings(f []Finding) string {
	s := make([]string, len(f))
	for i, f := range f {
		s[i] = f.String()
	}
	return strings.Join(s, "; ")
}
