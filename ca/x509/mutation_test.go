package x509

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"go/ast"
	"go/parser"
	"go/token"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rulesOf are the names of all rules that the lint's source has, except those that can't be reached because parsing refuses what breaks them.
func rulesOf(t *testing.T, files ...string) (rules []string) {
	t.Helper()
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		text := func(e ast.Expr) string {
			if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
				s, _ := strconv.Unquote(l.Value)
				return s
			}
			if id, ok := e.(*ast.Ident); ok {
				return id.Name
			}
			return ""
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch fun := call.Fun.(type) {
			case *ast.SelectorExpr:
				if fun.Sel.Name == "must" {
					if name := text(call.Args[1]); name != "" {
						rules = append(rules, name)
					}
				}
			case *ast.Ident:
				if fun.Name != "get" {
					break
				}
				name := text(call.Args[1])
				if text(call.Args[2]) != "false" {
					rules = append(rules, name+".missing")
				}
				if text(call.Args[3]) != "true" {
					rules = append(rules, name+".absent")
				}
			}
			return true
		})
	}
	return rules
}

// covered compares the rules of the lint with those that a mutation was caught by.
func covered(t *testing.T, caught map[string]bool, files ...string) {
	t.Helper()
	rules := rulesOf(t, files...)
	if len(rules) < 20 {
		t.Fatalf("%d rules were found: the source is read wrongly", len(rules))
	}
	for i, r := range rules {
		if slices.Contains(rules[:i], r) {
			t.Errorf("two rules have the name %s", r)
		}
		if !caught[r] {
			t.Errorf("rule %s has no mutation that shows that it is held", r)
		}
	}
}

func raw(t *testing.T, value any) []byte {
	t.Helper()
	der, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func tagged(tag int, b string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(b)}
}

func nest(t *testing.T, tag int, parts ...asn1.RawValue) asn1.RawValue {
	t.Helper()
	var b []byte
	for _, p := range parts {
		b = append(b, raw(t, p)...)
	}
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: b}
}

// Each rule of formats.md 3.3 flipped once: a good certificate of the profile is changed in one thing, and the lint must name that rule. A rule
// without a mutation fails the test.
func TestEveryRuleIsHeld(t *testing.T) {
	type change = func(c *x509.Certificate)
	oid := func(arcs ...int) asn1.ObjectIdentifier { return arcs }
	// extra replaces or adds an extension; value nil removes it.
	extra := func(id asn1.ObjectIdentifier, critical bool, value any) change {
		return func(c *x509.Certificate) {
			var der []byte
			if value != nil {
				der = raw(t, value)
			}
			set(c, id, critical, der)
		}
	}
	flip := func(id asn1.ObjectIdentifier) change { // criticality
		return func(c *x509.Certificate) {
			for i := range c.ExtraExtensions {
				if c.ExtraExtensions[i].Id.Equal(id) {
					c.ExtraExtensions[i].Critical = !c.ExtraExtensions[i].Critical
				}
			}
		}
	}
	drop := func(id asn1.ObjectIdentifier) change { return extra(id, false, nil) }
	ku, bc, eku, ski, aki, ian, crl, san := oid(2, 5, 29, 15), oid(2, 5, 29, 19), oid(2, 5, 29, 37), oid(2, 5, 29, 14), oid(2, 5, 29, 35), oid(2, 5, 29, 18), oid(2, 5, 29, 31), oid(2, 5, 29, 17)
	bit := func(b byte, length int) asn1.BitString { return asn1.BitString{Bytes: []byte{b}, BitLength: length} }
	subject := func(p Params, cn string) change {
		return func(c *x509.Certificate) {
			var err error
			if c.RawSubject, err = name(p, cn); err != nil {
				t.Fatal(err)
			}
		}
	}
	issuer := func(c *x509.Certificate) { c.RawIssuer = c.RawSubject }
	noCountry, lower, long, japan, busan := house, house, house, house, house
	noCountry.Country, lower.Country, long.Country, japan.Country, busan.State = "", "kr", "KOR", "JP", "Busan"
	utf8Country := func(c *x509.Certificate) {
		c.RawSubject = bytes.Replace(c.RawSubject, []byte{asn1.TagPrintableString, 2, 'K', 'R'}, []byte{asn1.TagUTF8String, 2, 'K', 'R'}, 1)
	}
	key := func(k any, err error) change {
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) { c.PublicKey = k }
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pathLen := func(n int) change {
		return extra(bc, true, struct {
			CA  bool
			Len int
		}{true, n})
	}
	uri := tagged(6, "https://issuer.example/crl")
	mail := tagged(1, "a@issuer.example")

	iso := []string{"iaca", "iaca-link", "document-signer", "status-signer", "sdjwt-issuer"}
	under := []string{"iaca-link", "document-signer", "status-signer", "sdjwt-issuer"}
	roots, cas := []string{"iaca", "client-ca"}, []string{"iaca", "iaca-link", "client-ca", "client-ca-link"}
	tls, ends := []string{"server", "client", "officer"}, []string{"document-signer", "status-signer", "sdjwt-issuer", "server", "client", "officer"}
	all, used := slices.Concat(cas, ends), []string{"document-signer", "server", "client", "officer"}
	nonRoots := append([]string{"iaca-link", "client-ca-link"}, ends...)
	named := []string{"iaca", "iaca-link", "document-signer", "sdjwt-issuer"}
	caught := map[string]bool{}
	try := func(profile, rule, how string, der []byte) {
		t.Helper()
		f := Lint(profile, der)
		if !slices.Contains(strings.Fields(names(f)), rule) {
			t.Errorf("%s: %s %s is not caught: %s", profile, rule, how, findings(f))
			return
		}
		caught[rule] = true
	}
	for _, c := range []struct {
		rule, how string
		profiles  []string
		change    change
	}{
		{"serial.positive", "zero", all, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0) }},
		{"serial.short", "62 bits", all, func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 61) }},
		{"serial.long", "21 octets", all, func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 159) }},
		{"key.curve", "P-224", all, key(p224.Public(), nil)},
		{"key.algorithm", "RSA", all, key(rsaKey.Public(), nil)},
		{"validity.long", "a day too long", all, func(c *x509.Certificate) {
			days := map[string]int{"iaca": 7306, "iaca-link": 7306, "client-ca": 3653, "client-ca-link": 3653, "status-signer": 1188, "document-signer": 458, "sdjwt-issuer": 458}[c.Issuer.SerialNumber]
			c.NotAfter = c.NotBefore.AddDate(0, 0, max(days, 398))
		}},
		{"validity.order", "ends when it begins", all, func(c *x509.Certificate) { c.NotAfter = c.NotBefore }},
		{"commonName", "none", all, subject(house, "")},
		{"countryName.form", "none", iso, subject(noCountry, "Test")},
		{"countryName.form", "lower case", iso, subject(lower, "Test")},
		{"countryName.form", "three letters", iso, subject(long, "Test")},
		{"countryName.printable", "UTF8String", iso, utf8Country},
		{"countryName.same", "another than the issuer's", under, subject(japan, "Test")},
		{"stateOrProvinceName.same", "another than the issuer's", under, subject(busan, "Test")},
		{"issuer.own", "not the subject", roots, subject(house, "Another")},
		{"issuer.other", "its own", nonRoots, issuer},
		{"keyUsage.missing", "", all, drop(ku)},
		{"keyUsage.critical", "not critical", all, flip(ku)},
		{"keyUsage.bits", "a bit more", all, extra(ku, true, bit(0b1000_0110, 7))},
		{"keyUsage.bits", "certificates alone", cas, extra(ku, true, bit(0b0000_0100, 6))},
		{"keyUsage.bits", "nonRepudiation", ends, extra(ku, true, bit(0b1100_0000, 2))},
		{"basicConstraints.missing", "", cas, drop(bc)},
		{"basicConstraints.critical", "not critical", cas, flip(bc)},
		{"basicConstraints.ca", "CA:FALSE", cas, extra(bc, true, struct{}{})},
		{"basicConstraints.pathLen", "pathLen 2", cas, pathLen(2)},
		{"basicConstraints.pathLen", "pathLen 1", []string{"iaca", "iaca-link", "client-ca-link"}, pathLen(1)},
		{"basicConstraints.pathLen", "pathLen 0", []string{"client-ca"}, pathLen(0)},
		{"basicConstraints.pathLen", "no pathLen", cas, extra(bc, true, struct{ CA bool }{true})},
		{"basicConstraints.absent", "there, even if CA:FALSE", ends, extra(bc, true, struct{}{})},
		{"extKeyUsage.missing", "", used, drop(eku)},
		{"extKeyUsage.critical", "the other way", used, flip(eku)},
		{"extKeyUsage.absent", "there", []string{"iaca", "iaca-link", "client-ca", "client-ca-link", "status-signer", "sdjwt-issuer"}, extra(eku, false, []asn1.ObjectIdentifier{oidMDLDS})},
		{"extKeyUsage.other", "any", used, extra(eku, true, []asn1.ObjectIdentifier{oidMDLDS, oidServer, oidClient, oid(2, 5, 29, 37, 0)})},
		{"extKeyUsage.purpose", "another", used, extra(eku, true, []asn1.ObjectIdentifier{oid(1, 3, 6, 1, 5, 5, 7, 3, 9)})},
		{"subjectKeyIdentifier.missing", "", all, drop(ski)},
		{"parse", "critical subjectKeyIdentifier", all, flip(ski)},
		{"subjectKeyIdentifier.hash", "another hash", all, extra(ski, false, make([]byte, 20))},
		{"authorityKeyIdentifier.missing", "", nonRoots, drop(aki)},
		{"parse", "critical authorityKeyIdentifier", all, flip(aki)},
		{"authorityKeyIdentifier.own", "of another", roots, extra(aki, false, []asn1.RawValue{tagged(0, "01234567890123456789")})},
		{"authorityKeyIdentifier.other", "its own", nonRoots, func(c *x509.Certificate) {
			set(c, aki, false, raw(t, []asn1.RawValue{tagged(0, string(c.SubjectKeyId))}))
		}},
		{"authorityKeyIdentifier.form", "serial beside it", nonRoots, extra(aki, false, []asn1.RawValue{tagged(0, "01234567890123456789"), tagged(2, "1")})},
		{"issuerAltName.missing", "", named, drop(ian)},
		{"issuerAltName.critical", "critical", named, flip(ian)},
		{"issuerAltName.form", "a DNS name", named, extra(ian, false, []asn1.RawValue{tagged(2, "issuer.example")})},
		{"issuerAltName.absent", "there", append([]string{"client-ca", "client-ca-link"}, tls...), extra(ian, false, []asn1.RawValue{tagged(6, "https://issuer.example")})},
		{"crlDistributionPoints.missing", "", nonRoots, drop(crl)},
		{"crlDistributionPoints.absent", "there", []string{"client-ca"}, extra(crl, false, [][]asn1.RawValue{{nest(t, 0, nest(t, 0, uri))}})},
		{"crlDistributionPoints.critical", "critical", nonRoots, flip(crl)},
		{"crlDistributionPoints.form", "a DNS name", nonRoots, extra(crl, false, [][]asn1.RawValue{{nest(t, 0, nest(t, 0, tagged(2, "issuer.example")))}})},
		{"crlDistributionPoints.form", "reasons", nonRoots, extra(crl, false, [][]asn1.RawValue{{nest(t, 0, nest(t, 0, uri)), tagged(1, "\x06\x40")}})},
		{"crlDistributionPoints.form", "cRLIssuer", nonRoots, extra(crl, false, [][]asn1.RawValue{{nest(t, 0, nest(t, 0, uri)), nest(t, 2, uri)}})},
		{"subjectAltName.missing", "", []string{"sdjwt-issuer", "server", "client", "officer"}, drop(san)},
		{"subjectAltName.critical", "critical", []string{"sdjwt-issuer", "server", "client", "officer"}, flip(san)},
		{"subjectAltName.absent", "there", []string{"client-ca", "client-ca-link"}, extra(san, false, []asn1.RawValue{tagged(2, "issuer.example")})},
		{"subjectAltName.issuer", "no URI", []string{"sdjwt-issuer"}, extra(san, false, []asn1.RawValue{tagged(2, "issuer.example")})},
		{"subjectAltName.url", "a name", []string{"sdjwt-issuer"}, extra(san, false, []asn1.RawValue{tagged(6, "urn:issuer")})},
		{"subjectAltName.host", "an issuer without its host", []string{"sdjwt-issuer"}, extra(san, false, []asn1.RawValue{tagged(6, "https://issuer.example/x")})},
		{"subjectAltName.email", "e-mail", []string{"sdjwt-issuer", "server", "client", "officer"}, extra(san, false, []asn1.RawValue{mail})},
		{"subjectAltName.hosts", "a client as server", []string{"server"}, extra(san, false, []asn1.RawValue{tagged(2, "issuer.example"), tagged(6, "urn:sealkeeper:client:issuance:a")})},
		{"subjectAltName.hosts", "none", []string{"server"}, extra(san, false, []asn1.RawValue{mail})},
		{"subjectAltName.client", "a host beside the client", []string{"client"}, extra(san, false, []asn1.RawValue{tagged(6, "urn:sealkeeper:client:issuance:a"), tagged(2, "issuer.example")})},
		{"subjectAltName.client", "no client", []string{"client"}, extra(san, false, []asn1.RawValue{tagged(6, "urn:sealkeeper:client:issuance:")})},
		{"subjectAltName.client", "two clients", []string{"client"}, extra(san, false, []asn1.RawValue{tagged(6, "urn:sealkeeper:client:issuance:a"), tagged(6, "urn:sealkeeper:client:issuance:b")})},
		{"subjectAltName.role", "an officer as client", []string{"client"}, extra(san, false, []asn1.RawValue{tagged(6, "urn:sealkeeper:client:officer:kim")})},
		{"subjectAltName.officer", "a client as officer", []string{"officer"}, extra(san, false, []asn1.RawValue{tagged(6, "urn:sealkeeper:client:issuance:a")})},
		{"forbidden", "nameConstraints", all, extra(oid(2, 5, 29, 30), true, []asn1.RawValue{nest(t, 0, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: []byte("\x82\x01a")})})},
		{"forbidden", "policyMappings", all, extra(oid(2, 5, 29, 33), false, [][]asn1.ObjectIdentifier{{oid(1, 2, 3), oid(1, 2, 4)}})},
		{"forbidden", "policyConstraints", all, extra(oid(2, 5, 29, 36), false, []asn1.RawValue{tagged(0, "\x00")})},
		{"forbidden", "inhibitAnyPolicy", all, extra(oid(2, 5, 29, 54), false, 0)},
		{"forbidden", "freshestCRL", all, extra(oid(2, 5, 29, 46), false, [][]asn1.RawValue{{nest(t, 0, nest(t, 0, uri))}})},
		{"critical", "an unknown critical extension", all, extra(oid(1, 2, 3, 4), true, 1)},
	} {
		for _, profile := range c.profiles {
			try(profile, c.rule, c.how, rebuild(t, profile, "ES256", c.change))
		}
	}
	for _, profile := range all { // the rebuilding itself breaks nothing
		good := rebuild(t, profile, "ES256", func(*x509.Certificate) {})
		if f := Lint(profile, good); len(f) > 0 {
			t.Errorf("%s unchanged: %s", profile, findings(f))
		}
		// What the standard library does not write: version 2, an algorithm that is not allowed, an empty extended key usage.
		try(profile, "version", "2", bytes.Replace(good, []byte{0xa0, 3, 2, 1, 2}, []byte{0xa0, 3, 2, 1, 1}, 1))
		try(profile, "signature.algorithm", "ecdsa-with-SHA1", bytes.ReplaceAll(good, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2}, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 9}))
	}
	for _, profile := range iso {
		try(profile, "signature.edwards", "Ed25519", rebuild(t, profile, "EdDSA", func(*x509.Certificate) {}))
	}
	edwards := newPair(t, "e", "", "EdDSA")
	for _, profile := range []string{"iaca", "iaca-link", "status-signer"} {
		try(profile, "key.edwards", "Ed25519", rebuild(t, profile, "ES256", key(edwards.private.Public(), nil)))
	}
	for _, profile := range used {
		try(profile, "extKeyUsage.form", "bytes after it", rebuild(t, profile, "ES256", func(c *x509.Certificate) { set(c, eku, profile == "document-signer", []byte{0x30, 0, 5, 0}) }))
	}
	covered(t, caught, "lint.go")
}

func set(c *x509.Certificate, id asn1.ObjectIdentifier, critical bool, der []byte) {
	c.ExtraExtensions = slices.DeleteFunc(c.ExtraExtensions, func(e pkix.Extension) bool { return e.Id.Equal(id) })
	if der != nil {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: der})
	}
}

// rebuild makes a good certificate of a profile again with one change, signed by a throwaway key. Issuer.SerialNumber of what change sees
// is the profile's name.
func rebuild(t *testing.T, profile, algorithm string, change func(c *x509.Certificate)) []byte {
	t.Helper()
	ca := leaves[profile]
	if ca == "" {
		ca = profile
	}
	issuer, der := root(t, ca, "ES256")
	if ca != profile {
		der = certify(t, request(profile, newPair(t, profile, "", "ES256"), issuer), issuer, der)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	key := newPair(t, "throwaway", "", algorithm).private
	m := &x509.Certificate{SerialNumber: c.SerialNumber, NotBefore: c.NotBefore, NotAfter: c.NotAfter, RawSubject: c.RawSubject, RawIssuer: c.RawIssuer, PublicKey: c.PublicKey,
		SubjectKeyId: c.SubjectKeyId, ExtraExtensions: c.Extensions}
	m.Issuer.SerialNumber = profile
	change(m)
	pub, own := m.PublicKey, m.RawIssuer
	m.SubjectKeyId = nil // it is among the extensions
	out, err := x509.CreateCertificate(nil, m, &x509.Certificate{RawSubject: own}, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Each rule of formats.md 3.4 and 7 flipped once, in lists of the root, of the client CA, and of a part of it.
func TestEveryRuleOfRevocationListsIsHeld(t *testing.T) {
	const scope = "https://issuer.example/crl/client-ca.1-of-2.crl"
	part, err := issuingPoint(scope)
	if err != nil {
		t.Fatal(err)
	}
	idp := pkix.Extension{Id: oidIDP, Critical: true, Value: part}
	entry := func(serial int64) x509.RevocationListEntry {
		return x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: start}
	}
	reason := func(critical bool, der ...byte) func(l *list) {
		return func(l *list) {
			l.entry(t, func(e []asn1.RawValue) {
				e[2].FullBytes = raw(t, []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 21}, Critical: critical, Value: der}})
			})
		}
	}
	extension := func(arc int, critical bool, der []byte) func(l *x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, arc}, Critical: critical, Value: der})
		}
	}
	caught := map[string]bool{}
	both, clients, parts, iso := []string{"iaca", "rfc5280", "part"}, []string{"rfc5280", "part"}, []string{"part"}, []string{"iaca"}
	build := func(kind, algorithm string, change func(l *x509.RevocationList), edit func(l *list)) []byte {
		t.Helper()
		ca, der := root(t, map[bool]string{true: "iaca", false: "client-ca"}[kind == "iaca"], "ES256")
		parent, err := issuing(ca.Key, der)
		if err != nil {
			t.Fatal(err)
		}
		key := newPair(t, "throwaway", "", algorithm).private
		l := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: start.Add(2 * day), NextUpdate: start.Add(32 * day),
			RevokedCertificateEntries: []x509.RevocationListEntry{entry(5), entry(6)}}
		if kind != "iaca" {
			l.RevokedCertificateEntries[0].ReasonCode = 6
		}
		if kind == "part" {
			l.ExtraExtensions = []pkix.Extension{idp}
		}
		if change != nil {
			change(l)
		}
		by := *parent
		by.PublicKey = key.Public()
		out, err := x509.CreateRevocationList(nil, l, &by, key)
		if err != nil {
			t.Fatal(err)
		}
		if edit == nil {
			return out
		}
		return edited(t, out, edit)
	}
	try := func(rule, how, kind string, der []byte) {
		t.Helper()
		profile, of := kind, ""
		if kind == "part" {
			profile, of = "rfc5280", scope
		}
		f := LintCRL(profile, of, der)
		if got := strings.Fields(names(f)); rule == "" && len(got) > 0 || rule != "" && !slices.Contains(got, rule) {
			t.Errorf("%s: %s (%s): %s", kind, rule, how, findings(f))
			return
		}
		caught[rule] = true
	}
	for _, c := range []struct {
		rule, how string
		kinds     []string
		change    func(l *x509.RevocationList) // of what is written
		edit      func(l *list)                // of the bytes, for what the standard library does not write
	}{
		{"", "unchanged", both, nil, nil},
		{"", "no entries", both, func(l *x509.RevocationList) { l.RevokedCertificateEntries = nil }, nil},
		{"", "the bytes taken apart and put together", both, nil, func(*list) {}},
		{"", "90 days", both, func(l *x509.RevocationList) { l.NextUpdate = l.ThisUpdate.Add(90 * day) }, nil},
		{"crl.algorithm", "ecdsa-with-SHA1", both, nil, func(l *list) { l.algorithm(9) }},
		{"crl.nextUpdate.missing", "", both, nil, func(l *list) { l.parts = slices.Delete(l.parts, 4, 5) }},
		{"crl.nextUpdate.order", "at once", both, func(l *x509.RevocationList) { l.NextUpdate = l.ThisUpdate }, nil},
		{"crl.nextUpdate.bound", "90 days and a second", both, func(l *x509.RevocationList) { l.NextUpdate = l.ThisUpdate.Add(90*day + time.Second) }, nil},
		{"crl.time", "thisUpdate", both, nil, func(l *list) { l.parts[3] = general(t, start.Add(2*day)) }},
		{"crl.time", "nextUpdate", both, nil, func(l *list) { l.parts[4] = general(t, start.Add(32*day)) }},
		{"crl.empty", "an empty list of entries", both, nil, func(l *list) {
			l.parts[5] = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, FullBytes: []byte{0x30, 0}}
		}},
		{"crl.number.missing", "", both, nil, func(l *list) { l.drop(20) }},
		{"crl.number.critical", "", both, nil, func(l *list) { l.critical(20) }},
		{"crl.number.range", "21 octets", both, nil, func(l *list) { l.replace(20, raw(t, new(big.Int).Lsh(big.NewInt(1), 160))) }},
		{"crl.number.range", "negative", both, nil, func(l *list) { l.replace(20, raw(t, -1)) }},
		{"crl.aki.missing", "", both, nil, func(l *list) { l.drop(35) }},
		{"parse", "critical authorityKeyIdentifier", both, nil, func(l *list) { l.critical(35) }},
		{"crl.aki.form", "serial beside it", both, nil, func(l *list) {
			l.replace(35, raw(t, []asn1.RawValue{tagged(0, "01234567890123456789"), tagged(2, "1")}))
		}},
		{"crl.delta", "", both, extension(27, true, []byte{2, 1, 1}), nil},
		{"crl.freshest", "", both, extension(46, false, raw(t, [][]asn1.RawValue{{nest(t, 0, nest(t, 0, tagged(6, scope)))}})), nil},
		{"crl.extension", "issuerAltName", both, extension(18, false, raw(t, []asn1.RawValue{tagged(6, scope)})), nil},
		{"crl.idp.iso", "", iso, extension(28, true, part), nil},
		{"crl.idp.iso", "indirect", iso, extension(28, true, []byte{0x30, 3, 0x84, 1, 0xff}), nil},
		{"crl.idp.whole", "", []string{"rfc5280"}, extension(28, true, part), nil},
		{"crl.idp.missing", "", parts, func(l *x509.RevocationList) { l.ExtraExtensions = nil }, nil},
		{"crl.idp.critical", "", parts, func(l *x509.RevocationList) { l.ExtraExtensions[0].Critical = false }, nil},
		{"crl.idp.scope", "another part", parts, func(l *x509.RevocationList) {
			l.ExtraExtensions[0].Value = bytes.Replace(part, []byte("1-of-2"), []byte("2-of-2"), 1)
		}, nil},
		{"crl.idp.scope", "indirect besides", parts, func(l *x509.RevocationList) {
			l.ExtraExtensions[0].Value = append([]byte{0x30, part[1] + 3}, append(bytes.Clone(part[2:]), 0x84, 1, 0xff)...)
		}, nil},
		{"crl.entry.serial", "zero", both, nil, func(l *list) { l.entry(t, func(e []asn1.RawValue) { e[0].FullBytes = []byte{2, 1, 0} }) }},
		{"crl.entry.twice", "", both, func(l *x509.RevocationList) { l.RevokedCertificateEntries[1].SerialNumber = big.NewInt(5) }, nil},
		{"crl.entry.date", "later than the list", both, func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].RevocationTime = start.Add(2*day + time.Second)
		}, nil},
		{"crl.entry.time", "GeneralizedTime", both, nil, func(l *list) { l.entry(t, func(e []asn1.RawValue) { e[1] = general(t, start) }) }},
		{"crl.entry.iso", "a reason", iso, func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 1 }, nil},
		{"crl.entry.extension", "invalidityDate", clients, func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 24}, Value: general(t, start).FullBytes}}
		}, nil},
		{"crl.reason.critical", "", clients, nil, reason(true, 10, 1, 1)},
		{"crl.reason.zero", "unspecified written out", clients, nil, reason(false, 10, 1, 0)},
		{"crl.reason.delta", "removeFromCRL", clients, nil, reason(false, 10, 1, 8)},
		{"crl.reason.known", "7", clients, nil, reason(false, 10, 1, 7)},
		{"crl.reason.known", "11", clients, nil, reason(false, 10, 1, 11)},
		{"parse", "an INTEGER as reason", clients, nil, reason(false, 2, 1, 1)},
		{"parse", "version 1", both, nil, func(l *list) { l.parts[0].FullBytes = []byte{2, 1, 0} }},
	} {
		for _, kind := range c.kinds {
			try(c.rule, c.how, kind, build(kind, "ES256", c.change, c.edit))
		}
	}
	try("crl.signature", "Ed25519", "iaca", build("iaca", "EdDSA", nil, nil))
	try("", "Ed25519", "rfc5280", build("rfc5280", "EdDSA", nil, nil))
	if f := LintCRL("iaca", "", readPEM(t, "annex-d-ds.pem")); names(f) != "parse" {
		t.Errorf("a certificate as CRL: %s", findings(f))
	}
	if f := slices.Concat(Lint("vical", readPEM(t, "annex-d-ds.pem")), LintCRL("delta", "", nil)); len(f) != 2 || names(f) != "profile" {
		t.Errorf("an unknown profile: %s", findings(f))
	}
	if f := slices.Concat(Lint("iaca", make([]byte, maxCertificate+1)), LintCRL("iaca", "", make([]byte, MaxCRL+1))); len(f) != 2 || names(f) != "size" {
		t.Errorf("too large: %s", findings(f))
	}
	covered(t, caught, "lintcrl.go")
}

// list is a TBSCertList taken apart: version, algorithm, issuer, thisUpdate, nextUpdate, entries, extensions.
type list struct {
	parts      []asn1.RawValue
	outer      asn1.RawValue // algorithm beside the signature
	extensions []pkix.Extension
}

func edited(t *testing.T, der []byte, edit func(l *list)) []byte {
	t.Helper()
	var whole struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &whole); err != nil {
		t.Fatal(err)
	}
	var l list
	l.outer = whole.Algorithm
	if _, err := asn1.Unmarshal(whole.TBS.FullBytes, &l.parts); err != nil {
		t.Fatal(err)
	}
	last := l.parts[len(l.parts)-1]
	if _, err := asn1.Unmarshal(last.Bytes, &l.extensions); err != nil {
		t.Fatal(err)
	}
	l.parts = l.parts[:len(l.parts)-1]
	edit(&l)
	var b []byte
	for _, p := range append(l.parts, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: raw(t, l.extensions)}) {
		b = append(b, raw(t, p)...)
	}
	whole.TBS = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: b}
	whole.Algorithm = l.outer
	return raw(t, whole)
}

func (l *list) drop(arc int) {
	l.extensions = slices.DeleteFunc(l.extensions, func(e pkix.Extension) bool { return e.Id[3] == arc })
}

func (l *list) critical(arc int) {
	for i := range l.extensions {
		if l.extensions[i].Id[3] == arc {
			l.extensions[i].Critical = true
		}
	}
}

func (l *list) replace(arc int, der []byte) {
	for i := range l.extensions {
		if l.extensions[i].Id[3] == arc {
			l.extensions[i].Value = der
		}
	}
}

// algorithm puts another last arc of ecdsa-with-SHA2 in both places.
func (l *list) algorithm(arc byte) {
	for _, v := range []*asn1.RawValue{&l.parts[1], &l.outer} {
		v.FullBytes = bytes.Replace(v.FullBytes, []byte{0x3d, 4, 3, 2}, []byte{0x3d, 4, 3, arc}, 1)
	}
}

// entry edits the first one.
func (l *list) entry(t *testing.T, edit func(e []asn1.RawValue)) {
	t.Helper()
	var entries [][]asn1.RawValue
	if _, err := asn1.Unmarshal(l.parts[5].FullBytes, &entries); err != nil {
		t.Fatal(err)
	}
	edit(entries[0])
	l.parts[5] = asn1.RawValue{FullBytes: raw(t, entries)}
}

func general(t *testing.T, at time.Time) asn1.RawValue {
	t.Helper()
	der, err := asn1.MarshalWithParams(at, "generalized")
	if err != nil {
		t.Fatal(err)
	}
	var v asn1.RawValue
	if _, err := asn1.Unmarshal(der, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
