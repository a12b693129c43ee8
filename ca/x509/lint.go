package x509

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	_ "github.com/zmap/zlint/v3" // its rules
	"github.com/zmap/zlint/v3/lint"
)

// Finding of a lint.
type Finding struct {
	Lint   string // name
	Source string // "ISO 18013-5 B.1.1", "RFC 5280 4.1.2.2", …
	Detail string
}

func (f Finding) String() string { return f.Lint + " (" + f.Source + "): " + f.Detail }

// Bounds on what is parsed: our certificates have some 700 bytes, a CRL with a thousand entries 40 kB.
const (
	maxCertificate = 8 << 10
	MaxCRL         = 4 << 20 // some hundred thousand entries
)

// maxOID bounds an object identifier's content, whose text costs zlint the square of its length. Those in use have at most a dozen octets.
const maxOID = 64

// maxDepth of nested items. A certificate's distribution point has ten levels.
const maxDepth = 32

// profile of formats.md 3.3. What is zero must be absent.
type profile struct {
	clause   string
	iso      bool // under the IACA: country, EC signatures
	root     bool
	ca       bool // may sign certificates: a root, or a link to one
	path     int  // how many CAs may come between it and a leaf
	years    int  // longest validity; or
	days     int
	usage    x509.KeyUsage
	edwards  bool // Ed25519 keys besides EC
	eku      []asn1.ObjectIdentifier
	critical bool // the EKU is critical, and arcs of ISO may stand beside eku
	ian      bool // issuerAltName is mandatory
	crl      bool // a CRL distribution point is mandatory
	san      string
}

var profiles = map[string]profile{
	"iaca": {clause: "ISO 18013-5 B.1", iso: true, root: true, ca: true, years: 20, usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ian: true},
	// A root's key certified by another root: whoever trusts one comes to the other.
	"iaca-link": {clause: "ISO 18013-5 B.1 (link)", iso: true, ca: true, years: 20, usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ian: true, crl: true},
	"document-signer": {clause: "ISO 18013-5 B.3", iso: true, days: 457, usage: x509.KeyUsageDigitalSignature, edwards: true,
		eku: []asn1.ObjectIdentifier{oidMDLDS}, critical: true, ian: true, crl: true},
	"status-signer": {clause: "ISO 18013-5 B.9", iso: true, days: 1187, usage: x509.KeyUsageDigitalSignature, crl: true},
	"sdjwt-issuer": {clause: "sealkeeper sdjwt-issuer", iso: true, days: 457, usage: x509.KeyUsageDigitalSignature, edwards: true,
		ian: true, crl: true, san: "issuer"},
	// A client that knows the old root alone goes from a server's certificate over the link to it: no tool that it is made with has to know what a link is.
	"client-ca":      {clause: "sealkeeper client-ca", root: true, ca: true, path: 1, years: 10, usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, edwards: true},
	"client-ca-link": {clause: "sealkeeper client-ca (link)", ca: true, years: 10, usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, edwards: true, crl: true},
	"server": {clause: "sealkeeper server", days: 397, usage: x509.KeyUsageDigitalSignature, edwards: true,
		eku: []asn1.ObjectIdentifier{oidServer}, crl: true, san: "hosts"},
	"client": {clause: "sealkeeper client", days: 397, usage: x509.KeyUsageDigitalSignature, edwards: true,
		eku: []asn1.ObjectIdentifier{oidClient}, crl: true, san: "client"},
	"officer": {clause: "sealkeeper officer", days: 397, usage: x509.KeyUsageDigitalSignature, edwards: true,
		eku: []asn1.ObjectIdentifier{oidClient}, crl: true, san: "officer"},
}

// forbidden in all certificates (Annex B), by the last arc of 2.5.29.
var forbidden = map[int]string{30: "nameConstraints", 33: "policyMappings", 36: "policyConstraints", 46: "freshestCRL", 54: "inhibitAnyPolicy"}

// Lint checks a certificate (any signature) against its profile: own rules for ISO, zlint for RFC 5280. Empty: clean.
// Bounds that policy checked before are checked again here, from the bytes and independently of it.
func Lint(name string, der []byte) []Finding {
	_, f := read(name, der)
	return f
}

// read is Lint, and what it parsed; nil: that can't be parsed.
func read(name string, der []byte) (*x509.Certificate, []Finding) {
	p, ok := profiles[name]
	if !ok {
		return nil, []Finding{{"profile", "sealkeeper", fmt.Sprintf("profile %q is not known", name)}}
	}
	if len(der) > maxCertificate {
		return nil, []Finding{{"size", "sealkeeper", fmt.Sprintf("%d bytes, at most %d are read", len(der), maxCertificate)}}
	}
	if f := longOID(der); f != nil {
		return nil, f
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, []Finding{{"parse", "RFC 5280 4.1", err.Error()}}
	}
	if !signedOnly(der) {
		return nil, []Finding{{"parse", "RFC 5280 4.1", "something follows the signature, or it is shifted by bits"}}
	}
	l := &linter{clause: p.clause}
	l.certificate(c, p)
	l.zlintCertificate(der)
	return c, l.found
}

// longOID finds an object identifier that is too long, also within extensions' values. It looks at the bytes, before any parser that writes
// identifiers out.
func longOID(der []byte) []Finding { return longOIDAt(der, 0, new(asn1.RawValue)) }

// longOIDAt has one value for all items: of its own each would cost more memory than the item.
func longOIDAt(der []byte, depth int, v *asn1.RawValue) []Finding {
	if depth > maxDepth {
		return []Finding{{"depth", "sealkeeper", fmt.Sprintf("more than %d levels", maxDepth)}}
	}
	for len(der) > 0 {
		rest, err := asn1.Unmarshal(der, v)
		if err != nil && len(der) > maxOID {
			return []Finding{{"parse", "X.690 10", fmt.Sprintf("%d bytes are not DER: %v", len(der), err)}}
		}
		if err != nil {
			return nil // an octet string of something else, as a key identifier
		}
		der = rest
		registered := v.Class == asn1.ClassContextSpecific && v.Tag == 8 // registeredID of a GeneralName
		switch {
		case v.IsCompound, v.Class == asn1.ClassUniversal && v.Tag == asn1.TagOctetString:
			if f := longOIDAt(v.Bytes, depth+1, v); f != nil {
				return f
			}
		case len(v.Bytes) > maxOID && (registered || v.Class == asn1.ClassUniversal && v.Tag == asn1.TagOID):
			return []Finding{{"oid", "sealkeeper", fmt.Sprintf("an object identifier of %d octets, at most %d are read", len(v.Bytes), maxOID)}}
		}
	}
	return nil
}

type linter struct {
	clause string
	found  []Finding
}

// must adds a finding of a rule unless ok. Each rule has a name of its own, and each name a mutation that it catches (the tests see to it).
func (l *linter) must(ok bool, rule, format string, args ...any) {
	if !ok {
		l.found = append(l.found, Finding{rule, l.clause, fmt.Sprintf(format, args...)})
	}
}

// stamp is written out only where something is found.
type stamp time.Time

func (s stamp) String() string { return time.Time(s).Format(time.RFC3339) }

func (l *linter) certificate(c *x509.Certificate, p profile) {
	l.must(c.Version == 3, "version", "X.509 version %d, must be 3", c.Version)
	l.must(c.SerialNumber.Sign() > 0, "serial.positive", "must be positive")
	l.must(c.SerialNumber.BitLen() <= 159, "serial.long", "must have at most 20 octets")
	l.must(c.SerialNumber.BitLen() >= 63, "serial.short", "must come from at least 63 random bits")
	switch c.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
	case x509.PureEd25519:
		l.must(!p.iso, "signature.edwards", "must be ecdsa-with-SHA256, 384 or 512")
	default:
		l.must(false, "signature.algorithm", "%s is not allowed", c.SignatureAlgorithm)
	}
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		l.must(k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521(), "key.curve", "the curve is not allowed")
	case ed25519.PublicKey:
		l.must(p.edwards, "key.edwards", "Ed25519 is not allowed here")
	default:
		l.must(false, "key.algorithm", "%s keys are not allowed", c.PublicKeyAlgorithm)
	}
	l.must(c.NotAfter.After(c.NotBefore), "validity.order", "%s to %s is never", stamp(c.NotBefore), stamp(c.NotAfter))
	l.must(!c.NotAfter.After(c.NotBefore.AddDate(p.years, 0, p.days)), "validity.long", "%s to %s: at most %d years or %d days",
		stamp(c.NotBefore), stamp(c.NotAfter), p.years, p.days)
	l.names(c, p)

	ext := map[int]pkix.Extension{} // by the last arc of 2.5.29
	for _, e := range c.Extensions {
		if arc, ok := standard(e.Id); ok {
			ext[arc] = e
		}
	}
	// get returns extension 2.5.29.arc and holds its presence: rules name.missing and name.absent.
	get := func(arc int, name string, mandatory, allowed bool) (pkix.Extension, bool) {
		e, ok := ext[arc]
		l.must(ok || !mandatory, name+".missing", "%s is missing", name)
		l.must(!ok || allowed, name+".absent", "%s must be absent", name)
		return e, ok
	}
	if e, ok := get(15, "keyUsage", true, true); ok {
		l.must(e.Critical, "keyUsage.critical", "keyUsage must be critical")
		l.must(c.KeyUsage == p.usage, "keyUsage.bits", "bits %b, must be %b", c.KeyUsage, p.usage)
	}
	if e, ok := get(19, "basicConstraints", p.ca, p.ca); ok && p.ca {
		l.must(e.Critical, "basicConstraints.critical", "basicConstraints must be critical")
		l.must(c.IsCA, "basicConstraints.ca", "must be CA:TRUE")
		l.must(c.MaxPathLen == p.path && (p.path > 0 || c.MaxPathLenZero), "basicConstraints.pathLen", "pathLen must be %d", p.path)
	}
	if e, ok := get(37, "extKeyUsage", len(p.eku) > 0, len(p.eku) > 0); ok && len(p.eku) > 0 {
		l.must(e.Critical == p.critical, "extKeyUsage.critical", "extKeyUsage: critical is %v, must be %v", e.Critical, p.critical)
		l.usages(e, p)
	}
	want, err := keyID(c.RawSubjectPublicKeyInfo)
	get(14, "subjectKeyIdentifier", true, true) // a critical one is not even parsed, as with the next
	l.must(err == nil && bytes.Equal(c.SubjectKeyId, want), "subjectKeyIdentifier.hash", "must be SHA-1 of the public key's bits")
	if e, ok := get(35, "authorityKeyIdentifier", !p.root, true); ok {
		l.must(keyIDOnly(e.Value), "authorityKeyIdentifier.form", "must have a key identifier and nothing else")
		l.must(!p.root || bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId), "authorityKeyIdentifier.own", "a root's must be its own")
		l.must(p.root || !bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId), "authorityKeyIdentifier.other", "must be the issuer's, not its own")
	}
	if e, ok := get(18, "issuerAltName", p.ian, p.iso); ok {
		l.must(!e.Critical, "issuerAltName.critical", "issuerAltName must not be critical")
		l.must(onlyNames(e.Value, 1, 6), "issuerAltName.form", "must have an rfc822Name or URI and nothing else")
	}
	if e, ok := get(31, "crlDistributionPoints", p.crl, p.iso || p.crl); ok {
		l.must(!e.Critical, "crlDistributionPoints.critical", "crlDistributionPoints must not be critical")
		l.must(goodPoints(e.Value), "crlDistributionPoints.form", "must have URIs only, without reasons and cRLIssuer")
	}
	if e, ok := get(17, "subjectAltName", p.san != "", p.iso || p.san != ""); ok {
		l.must(!e.Critical, "subjectAltName.critical", "subjectAltName must not be critical")
		l.alternatives(c, p)
	}
	for _, e := range c.Extensions {
		if arc, ok := standard(e.Id); ok {
			name := forbidden[arc]
			l.must(name == "", "forbidden", "%s must be absent", name)
			if slices.Contains([]int{14, 15, 17, 18, 19, 31, 35, 37}, arc) {
				continue
			}
		}
		l.must(!e.Critical, "critical", "extension %s must not be critical", e.Id)
	}
}

// standard is the last arc of an extension of X.509 itself, 2.5.29.
func standard(id asn1.ObjectIdentifier) (arc int, ok bool) {
	if len(id) != 4 || id[0] != 2 || id[1] != 5 || id[2] != 29 {
		return 0, false
	}
	return id[3], true
}

// names: subject C and CN for all under the IACA, leaves repeat C and ST of the issuer, roots are their own issuer, bytewise.
func (l *linter) names(c *x509.Certificate, p profile) {
	subject, issuer := attributes(c.RawSubject), attributes(c.RawIssuer)
	cn := subject["2.5.4.3"]
	l.must(len(cn) == 1 && len(cn[0].Bytes) > 0, "commonName", "must be there once")
	self := bytes.Equal(c.RawIssuer, c.RawSubject)
	l.must(!p.root || self, "issuer.own", "a root's issuer must be its subject, bytewise")
	l.must(p.root || !self, "issuer.other", "no certificate but a root's is its own issuer")
	if !p.iso {
		return
	}
	for who, of := range map[string]map[string][]asn1.RawValue{"subject": subject, "issuer": issuer} {
		v := of["2.5.4.6"]
		l.must(len(v) == 1 && len(v[0].Bytes) == 2 && !bytes.ContainsFunc(v[0].Bytes, func(r rune) bool { return r < 'A' || r > 'Z' }), "countryName.form",
			"the %s must have one, of two upper case letters", who)
		l.must(len(v) != 1 || v[0].Tag == asn1.TagPrintableString, "countryName.printable", "the %s's must be a PrintableString", who)
	}
	same := func(oid string) bool {
		return slices.EqualFunc(subject[oid], issuer[oid], func(a, b asn1.RawValue) bool { return bytes.Equal(a.FullBytes, b.FullBytes) })
	}
	l.must(same("2.5.4.6"), "countryName.same", "must be the same in subject and issuer")
	l.must(same("2.5.4.8"), "stateOrProvinceName.same", "must be the same in subject and issuer")
}

// attributes of a name, by their type. What can't be read has none, and so no common name.
func attributes(der []byte) map[string][]asn1.RawValue {
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	type attributeSET []attribute // the name makes encoding/asn1 read a SET
	var n []attributeSET
	if rest, err := asn1.Unmarshal(der, &n); err != nil || len(rest) > 0 {
		return nil
	}
	m := map[string][]asn1.RawValue{}
	for _, set := range n {
		for _, a := range set {
			m[a.Type.String()] = append(m[a.Type.String()], a.Value)
		}
	}
	return m
}

func (l *linter) usages(e pkix.Extension, p profile) {
	var got []asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(e.Value, &got)
	l.must(err == nil && len(rest) == 0, "extKeyUsage.form", "can't be read")
	has := func(list []asn1.ObjectIdentifier, o asn1.ObjectIdentifier) bool {
		return slices.ContainsFunc(list, o.Equal)
	}
	for _, o := range p.eku {
		l.must(has(got, o), "extKeyUsage.purpose", "%s is missing", o)
	}
	for _, o := range got {
		iso := p.critical && len(o) > 3 && (o[:3].Equal(asn1.ObjectIdentifier{1, 0, 18013}) || o[:3].Equal(asn1.ObjectIdentifier{1, 0, 23220}))
		l.must(has(p.eku, o) || iso, "extKeyUsage.other", "%s must not be there", o)
	}
}

func (l *linter) alternatives(c *x509.Certificate, p profile) {
	hosts := len(c.DNSNames) + len(c.IPAddresses)
	identity := func() []string { // of urn:sealkeeper:client:<role>:<id>
		if len(c.URIs) != 1 || hosts > 0 {
			return nil
		}
		part := strings.Split(c.URIs[0].String(), ":")
		if len(part) != 5 || part[0] != "urn" || part[1] != "sealkeeper" || part[2] != "client" || part[3] == "" || part[4] == "" {
			return nil
		}
		return part
	}
	switch p.san {
	case "issuer":
		l.must(len(c.URIs) > 0, "subjectAltName.issuer", "must have the issuer identifier as a URI")
		for _, u := range c.URIs {
			l.must(u.Scheme == "https" || u.Scheme == "http", "subjectAltName.url", "issuer identifier %q is no URL", u)
			l.must(u.Hostname() == "" || slices.Contains(c.DNSNames, u.Hostname()) || slices.ContainsFunc(c.IPAddresses, func(ip net.IP) bool { return ip.String() == u.Hostname() }),
				"subjectAltName.host", "must have the host of issuer identifier %q", u)
		}
	case "hosts":
		l.must(hosts > 0 && len(c.URIs) == 0, "subjectAltName.hosts", "must have host names or addresses and nothing else")
	case "client":
		id := identity()
		l.must(id != nil, "subjectAltName.client", "must be one URI urn:sealkeeper:client:<role>:<id>")
		l.must(id == nil || id[3] != "officer", "subjectAltName.role", "an officer has a certificate of the profile officer")
	case "officer":
		id := identity()
		l.must(id != nil && id[3] == "officer", "subjectAltName.officer", "must be one URI urn:sealkeeper:client:officer:<id>")
	}
	l.must(p.san == "" || len(c.EmailAddresses) == 0, "subjectAltName.email", "must have no e-mail address")
}

// keyIDOnly: AuthorityKeyIdentifier with keyIdentifier [0] alone.
func keyIDOnly(der []byte) bool {
	var parts []asn1.RawValue
	rest, err := asn1.Unmarshal(der, &parts)
	return err == nil && len(rest) == 0 && len(parts) == 1 && parts[0].Class == asn1.ClassContextSpecific && parts[0].Tag == 0 && len(parts[0].Bytes) > 0
}

// onlyNames: GeneralNames with at least one name, of these context tags only.
func onlyNames(der []byte, tags ...int) bool {
	var names []asn1.RawValue
	rest, err := asn1.Unmarshal(der, &names)
	return err == nil && len(rest) == 0 && len(names) > 0 && !slices.ContainsFunc(names, func(n asn1.RawValue) bool {
		return n.Class != asn1.ClassContextSpecific || len(n.Bytes) == 0 || !slices.Contains(tags, n.Tag)
	})
}

// goodPoints: each DistributionPoint is { [0] { [0] fullName: URIs } } and nothing else.
func goodPoints(der []byte) bool {
	var points [][]asn1.RawValue
	rest, err := asn1.Unmarshal(der, &points)
	if err != nil || len(rest) > 0 || len(points) == 0 {
		return false
	}
	for _, p := range points {
		if len(p) != 1 || p[0].Class != asn1.ClassContextSpecific || p[0].Tag != 0 {
			return false
		}
		var full asn1.RawValue
		if rest, err := asn1.Unmarshal(p[0].Bytes, &full); err != nil || len(rest) > 0 || full.Class != asn1.ClassContextSpecific || full.Tag != 0 {
			return false
		}
		for b := full.Bytes; ; {
			var n asn1.RawValue
			rest, err := asn1.Unmarshal(b, &n)
			if err != nil || n.Class != asn1.ClassContextSpecific || n.Tag != 6 || len(n.Bytes) == 0 {
				return false
			}
			if b = rest; len(b) == 0 {
				break
			}
		}
	}
	return true
}

// registry of zlint: the sources that fit an IACA. Rules of the CA/Browser Forum and of root programs are about the public web.
var registry = sync.OnceValues(func() (lint.Registry, error) {
	return lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280, lint.RFC5480, lint.RFC8813, lint.Community}})
})

func (l *linter) zlintCertificate(der []byte) {
	r, err := registry()
	if err != nil {
		l.found = append(l.found, Finding{"zlint", "zlint", err.Error()})
		return
	}
	c, err := zx509.ParseCertificate(der)
	if err != nil {
		l.found = append(l.found, Finding{"parse", "zlint", err.Error()})
		return
	}
	for _, rule := range r.CertificateLints().Lints() {
		l.zlint(&rule.LintMetadata, rule.Execute(c, r.GetConfiguration()))
	}
	l.sort()
}

func (l *linter) zlintCRL(der []byte) {
	r, err := registry()
	if err != nil {
		l.found = append(l.found, Finding{"zlint", "zlint", err.Error()})
		return
	}
	c, err := zx509.ParseRevocationList(der)
	if err != nil {
		l.found = append(l.found, Finding{"parse", "zlint", err.Error()})
		return
	}
	for _, rule := range r.RevocationListLints().Lints() {
		l.zlint(&rule.LintMetadata, rule.Execute(c, r.GetConfiguration()))
	}
	l.sort()
}

// zlint takes the result of one of its rules. All of them are run, one by one: its own set of results sorts the names of all rules for every certificate,
// which costs more than the rules.
func (l *linter) zlint(rule *lint.LintMetadata, result *lint.LintResult) {
	if result.Status >= lint.Error { // what zlint warns of is a SHOULD, as that of http (not https) CRL distribution points
		l.found = append(l.found, Finding{Lint: rule.Name, Source: rule.Citation, Detail: rule.Description})
	}
}

func (l *linter) sort() {
	slices.SortStableFunc(l.found, func(a, b Finding) int { return strings.Compare(a.Lint, b.Lint) })
}
