package x509

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"hash/crc32"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sealkeeper/internal/fuzzing"
)

func names(f []Finding) string {
	var n []string
	for _, f := range f {
		n = append(n, f.Lint)
	}
	slices.Sort(n)
	return strings.Join(slices.Compact(n), " ")
}

func readPEM(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pem.Decode(data)
	if b == nil {
		t.Fatalf("%s is no PEM", name)
	}
	return b.Bytes
}

// Certificates that others made: which rule each one meets or breaks, found by reading them with openssl. The isomdl root and signer are the
// positives; Annex D's own example has a DNS name as CRL distribution point, which today's B.3 does not allow.
func TestCertificatesOfOthers(t *testing.T) {
	for _, c := range []struct{ file, profile, findings, why string }{
		{"isomdl_iaca_root_cert.pem", "iaca", "", "clean"},
		{"isomdl_iaca_signer.pem", "document-signer", "", "clean"},
		{"annex-d-ds.pem", "document-signer", "crlDistributionPoints", "its distribution point is DNS:example.com, no URI"},
		{"annex-d-reader.pem", "document-signer", "countryName crlDistributionPoints extKeyUsage issuerAltName validity", "a reader's, of another profile"},
		{"bdr.pem", "document-signer", "crlDistributionPoints", "its distribution point is DNS:mdl.example.bdr.de, no URI"},
		{"animo.pem", "document-signer", "crlDistributionPoints", "it has none"},
		{"isomdl_incorrect_iaca_signer.pem", "document-signer", "basicConstraints e_path_len_constraint_improperly_included issuerAltName", "CA:TRUE"},
		{"isomdl_iaca_leaf_signer.pem", "document-signer", "basicConstraints e_path_len_constraint_improperly_included issuerAltName", "CA:TRUE"},
		{"isomdl_iaca_intermediate.pem", "document-signer", "basicConstraints e_path_len_constraint_improperly_included issuerAltName", "CA:TRUE"},
		{"isomdl_iaca_intermediate.pem", "iaca",
			"authorityKeyIdentifier e_path_len_constraint_improperly_included extKeyUsage issuer issuerAltName keyUsage", "no root at all"},
		{"isomdl-256-cert.pem", "document-signer",
			"basicConstraints commonName countryName crlDistributionPoints extKeyUsage issuerAltName keyUsage", "a bare self-signed CA"},
		{"owf_multipaz_iaca_p384.pem", "iaca", "countryName e_issuer_dn_country_not_printable_string e_subject_dn_country_not_printable_string",
			"its country is a UTF8String"},
		{"owf_multipaz_ds_p384.pem", "document-signer", "parse", "its serial is negative"},
		{"isomdl_iaca_root_cert.pem", "document-signer", "authorityKeyIdentifier basicConstraints extKeyUsage keyUsage", "a root is no leaf"},
		{"isomdl_iaca_signer.pem", "iaca", "authorityKeyIdentifier basicConstraints extKeyUsage issuer keyUsage", "a leaf is no root"},
	} {
		f := Lint(c.profile, readPEM(t, c.file))
		if got := names(f); got != c.findings {
			t.Errorf("%s as %s (%s):\n got %s\nwant %s\n%s", c.file, c.profile, c.why, got, c.findings, findings(f))
		}
	}
}

// Each rule flipped once: a good certificate of the profile is changed in one thing, and the lint must name that rule.
func TestEveryRuleIsHeld(t *testing.T) {
	type change = func(c *x509.Certificate)
	oid := func(arcs ...int) asn1.ObjectIdentifier { return arcs }
	// extra replaces or adds an extension; der nil removes it.
	extra := func(id asn1.ObjectIdentifier, critical bool, value any) change {
		return func(c *x509.Certificate) {
			var der []byte
			if value != nil {
				var err error
				if der, err = asn1.Marshal(value); err != nil {
					t.Fatal(err)
				}
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
	context := func(tag int, b string) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(b)}
	}
	nest := func(tag int, parts ...asn1.RawValue) asn1.RawValue {
		var b []byte
		for _, p := range parts {
			d, err := asn1.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			b = append(b, d...)
		}
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: b}
	}
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
	noCountry, busan := house, house
	noCountry.Country, busan.State = "", "Busan"
	uri := context(6, "https://issuer.example/crl")

	all := []string{"iaca", "document-signer", "status-signer", "sdjwt-issuer", "client-ca", "server", "client"}
	under := []string{"document-signer", "status-signer", "sdjwt-issuer"}
	roots, ends := []string{"iaca", "client-ca"}, []string{"document-signer", "status-signer", "sdjwt-issuer", "server", "client"}
	for _, c := range []struct {
		rule, how string
		profiles  []string
		change    change
	}{
		{"serial", "zero", all, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0) }},
		{"serial", "62 bits", all, func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 61) }},
		{"serial", "21 octets", all, func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 159) }},
		{"validity", "a day too long", all, func(c *x509.Certificate) {
			c.NotAfter = c.NotBefore.AddDate(0, 0, map[string]int{"iaca": 7306, "client-ca": 3653, "status-signer": 1188, "server": 398, "client": 398}[c.Issuer.SerialNumber])
			if c.NotAfter.Equal(c.NotBefore) {
				c.NotAfter = c.NotBefore.AddDate(0, 0, 458)
			}
		}},
		{"validity", "ends when it begins", all, func(c *x509.Certificate) { c.NotAfter = c.NotBefore }},
		{"commonName", "none", all, subject(house, "")},
		{"countryName", "none", []string{"iaca", "document-signer", "status-signer", "sdjwt-issuer"}, subject(noCountry, "Test")},
		{"stateOrProvinceName", "another than the issuer's", under, subject(busan, "Test")},
		{"issuer", "not the subject", roots, subject(house, "Another")},
		{"keyUsage", "missing", all, drop(ku)},
		{"keyUsage", "not critical", all, flip(ku)},
		{"keyUsage", "a bit more", all, extra(ku, true, bit(0b1000_0110, 7))},
		{"keyUsage", "a CA that may also sign", roots, extra(ku, true, bit(0b1000_0110, 7))},
		{"keyUsage", "nonRepudiation", ends, extra(ku, true, bit(0b1100_0000, 2))},
		{"basicConstraints", "missing", roots, drop(bc)},
		{"basicConstraints", "not critical", roots, flip(bc)},
		{"basicConstraints", "pathLen 1", roots, extra(bc, true, struct {
			CA  bool
			Len int
		}{true, 1})},
		{"basicConstraints", "no pathLen", roots, extra(bc, true, struct{ CA bool }{true})},
		{"basicConstraints", "there, even if CA:FALSE", ends, extra(bc, true, struct{}{})},
		{"extKeyUsage", "missing", []string{"document-signer", "server", "client"}, drop(eku)},
		{"extKeyUsage", "criticality", []string{"document-signer", "server", "client"}, flip(eku)},
		{"extKeyUsage", "there", []string{"iaca", "client-ca", "status-signer", "sdjwt-issuer"}, extra(eku, false, []asn1.ObjectIdentifier{oidMDLDS})},
		{"extKeyUsage", "any", []string{"document-signer", "server", "client"}, extra(eku, true, []asn1.ObjectIdentifier{oidMDLDS, oidServer, oidClient, oid(2, 5, 29, 37, 0)})},
		{"subjectKeyIdentifier", "missing", all, drop(ski)},
		{"parse", "critical subjectKeyIdentifier", all, flip(ski)},
		{"subjectKeyIdentifier", "another hash", all, extra(ski, false, make([]byte, 20))},
		{"authorityKeyIdentifier", "missing", ends, drop(aki)},
		{"parse", "critical authorityKeyIdentifier", all, flip(aki)},
		{"authorityKeyIdentifier", "of another", roots, extra(aki, false, []asn1.RawValue{context(0, "01234567890123456789")})},
		{"authorityKeyIdentifier", "serial beside it", ends, extra(aki, false, []asn1.RawValue{context(0, "01234567890123456789"), context(2, "1")})},
		{"issuerAltName", "missing", []string{"iaca", "document-signer", "sdjwt-issuer"}, drop(ian)},
		{"issuerAltName", "critical", []string{"iaca", "document-signer", "sdjwt-issuer"}, flip(ian)},
		{"issuerAltName", "a DNS name", []string{"iaca", "document-signer", "sdjwt-issuer"}, extra(ian, false, []asn1.RawValue{context(2, "issuer.example")})},
		{"issuerAltName", "there", []string{"client-ca", "server", "client"}, extra(ian, false, []asn1.RawValue{context(6, "https://issuer.example")})},
		{"crlDistributionPoints", "missing", under, drop(crl)},
		{"crlDistributionPoints", "critical", under, flip(crl)},
		{"crlDistributionPoints", "a DNS name", under, extra(crl, false, [][]asn1.RawValue{{nest(0, nest(0, context(2, "issuer.example")))}})},
		{"crlDistributionPoints", "reasons", under, extra(crl, false, [][]asn1.RawValue{{nest(0, nest(0, uri)), context(1, "\x06\x40")}})},
		{"crlDistributionPoints", "cRLIssuer", under, extra(crl, false, [][]asn1.RawValue{{nest(0, nest(0, uri)), nest(2, uri)}})},
		{"subjectAltName", "missing", []string{"sdjwt-issuer", "server", "client"}, drop(san)},
		{"subjectAltName", "critical", []string{"sdjwt-issuer", "server", "client"}, flip(san)},
		{"subjectAltName", "there", []string{"client-ca"}, extra(san, false, []asn1.RawValue{context(2, "issuer.example")})},
		{"subjectAltName", "an issuer without its host", []string{"sdjwt-issuer"}, extra(san, false, []asn1.RawValue{context(6, "https://issuer.example/x")})},
		{"subjectAltName", "a host beside the client", []string{"client"}, extra(san, false, []asn1.RawValue{context(6, "urn:sealkeeper:client:issuance:a"), context(2, "issuer.example")})},
		{"subjectAltName", "no client", []string{"client"}, extra(san, false, []asn1.RawValue{context(6, "urn:sealkeeper:client:issuance:")})},
		{"subjectAltName", "a client as server", []string{"server"}, extra(san, false, []asn1.RawValue{context(2, "issuer.example"), context(6, "urn:sealkeeper:client:issuance:a")})},
		{"forbidden", "nameConstraints", all, extra(oid(2, 5, 29, 30), true, []asn1.RawValue{nest(0, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: []byte("\x82\x01a")})})},
		{"forbidden", "policyMappings", all, extra(oid(2, 5, 29, 33), false, [][]asn1.ObjectIdentifier{{oid(1, 2, 3), oid(1, 2, 4)}})},
		{"forbidden", "policyConstraints", all, extra(oid(2, 5, 29, 36), false, []asn1.RawValue{context(0, "\x00")})},
		{"forbidden", "inhibitAnyPolicy", all, extra(oid(2, 5, 29, 54), false, 0)},
		{"forbidden", "freshestCRL", all, extra(oid(2, 5, 29, 46), false, [][]asn1.RawValue{{nest(0, nest(0, uri))}})},
		{"critical", "an unknown critical extension", all, extra(oid(1, 2, 3, 4), true, 1)},
	} {
		for _, profile := range c.profiles {
			der := rebuild(t, profile, "ES256", c.change)
			if f := Lint(profile, der); !slices.Contains(strings.Fields(names(f)), c.rule) {
				t.Errorf("%s: %s %s is not caught: %s", profile, c.rule, c.how, findings(f))
			}
		}
	}
	for _, profile := range all { // the rebuilding itself breaks nothing
		if f := Lint(profile, rebuild(t, profile, "ES256", func(*x509.Certificate) {})); len(f) > 0 {
			t.Errorf("%s unchanged: %s", profile, findings(f))
		}
	}
	for _, profile := range []string{"iaca", "document-signer", "status-signer", "sdjwt-issuer"} {
		if f := Lint(profile, rebuild(t, profile, "EdDSA", func(*x509.Certificate) {})); !strings.Contains(names(f), "signature") {
			t.Errorf("%s signed with Ed25519 is not caught: %s", profile, findings(f))
		}
	}
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
	key, err := throwaway(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	m := &x509.Certificate{SerialNumber: c.SerialNumber, NotBefore: c.NotBefore, NotAfter: c.NotAfter, RawSubject: c.RawSubject, ExtraExtensions: c.Extensions}
	m.Issuer.SerialNumber = profile
	change(m)
	out, err := x509.CreateCertificate(nil, m, &x509.Certificate{RawSubject: c.RawIssuer}, c.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLintCRLRules(t *testing.T) {
	iaca, der := root(t, "iaca", "ES256")
	parent, err := issuing(iaca.Key, der)
	if err != nil {
		t.Fatal(err)
	}
	key, err := throwaway("ES256")
	if err != nil {
		t.Fatal(err)
	}
	entry := func() x509.RevocationListEntry {
		return x509.RevocationListEntry{SerialNumber: big.NewInt(5), RevocationTime: start}
	}
	for _, c := range []struct {
		rule, how string
		change    func(l *x509.RevocationList)
	}{
		{"", "unchanged", func(*x509.RevocationList) {}},
		{"", "one entry", func(l *x509.RevocationList) { l.RevokedCertificateEntries = []x509.RevocationListEntry{entry()} }},
		{"nextUpdate", "91 days", func(l *x509.RevocationList) { l.NextUpdate = l.ThisUpdate.AddDate(0, 0, 91) }},
		{"nextUpdate", "at once", func(l *x509.RevocationList) { l.NextUpdate = l.ThisUpdate }},
		{"entryExtensions", "a reason", func(l *x509.RevocationList) {
			e := entry()
			e.ReasonCode = 6
			l.RevokedCertificateEntries = []x509.RevocationListEntry{e}
		}},
		{"serial", "twice", func(l *x509.RevocationList) {
			l.RevokedCertificateEntries = []x509.RevocationListEntry{entry(), entry()}
		}},
		{"revocationDate", "later than the list", func(l *x509.RevocationList) {
			e := entry()
			e.RevocationTime = l.ThisUpdate.Add(day)
			l.RevokedCertificateEntries = []x509.RevocationListEntry{e}
		}},
		{"extensions", "an issuing distribution point", func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}}
		}},
		{"critical", "a delta", func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
		}},
	} {
		l := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: start.Add(2 * day), NextUpdate: start.Add(32 * day)}
		c.change(l)
		parent.PublicKey = key.Public()
		der, err := x509.CreateRevocationList(nil, l, parent, key)
		if err != nil {
			t.Fatal(err)
		}
		f := LintCRL(der)
		if got := strings.Fields(names(f)); c.rule == "" && len(got) > 0 || c.rule != "" && !slices.Contains(got, c.rule) {
			t.Errorf("%s (%s): %s", c.rule, c.how, findings(f))
		}
	}
	if f := LintCRL(readPEM(t, "annex-d-ds.pem")); names(f) != "parse" {
		t.Errorf("a certificate as CRL: %s", findings(f))
	}
	if f := Lint("vical", readPEM(t, "annex-d-ds.pem")); names(f) != "profile" {
		t.Errorf("an unknown profile: %s", findings(f))
	}
	if f := slices.Concat(Lint("iaca", make([]byte, maxCertificate+1)), LintCRL(make([]byte, maxCRL+1))); len(f) != 2 || names(f) != "size" {
		t.Errorf("too large: %s", findings(f))
	}
}

// Nothing that anybody can put into a certificate or CRL stops the lint, and what it calls clean is what the standard library reads.
func FuzzLint(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "vectors", "*.pem"))
	if err != nil || len(files) == 0 {
		f.Fatal("no vectors")
	}
	var seeds [][]byte
	for _, file := range files {
		seeds = append(seeds, readPEM(f, filepath.Base(file)))
	}
	iaca, der := root(f, "iaca", "ES256")
	tbs, err := draftCRL(crlRequest(), iaca.Key, der)
	if err != nil {
		f.Fatal(err)
	}
	crl, err := tbs.join(iaca.raw(f, tbs.Bytes()))
	if err != nil {
		f.Fatal(err)
	}
	seeds = append(seeds, der, crl)
	names := slices.Sorted(maps.Keys(profiles))
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, der []byte) (clean bool) {
		profile := names[crc32.ChecksumIEEE(der)%uint32(len(names))] // one for each input, as in use
		if len(Lint(profile, der)) == 0 {
			clean = true
			if _, err := x509.ParseCertificate(der); err != nil {
				t.Errorf("clean as %s, but: %v", profile, err)
			}
		}
		if len(LintCRL(der)) == 0 {
			clean = true
			if _, err := x509.ParseRevocationList(der); err != nil {
				t.Errorf("clean CRL, but: %v", err)
			}
		}
		return clean
	})
}
