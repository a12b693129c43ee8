package x509

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"sealkeeper/policy"
)

// crlClauses of the profiles: whose rules a revocation list keeps.
var crlClauses = map[string]string{"iaca": "ISO 18013-5 B.2", "rfc5280": "RFC 5280 5"}

// LintCRL checks a revocation list (any signature) against its profile, "iaca" or "rfc5280", and its scope: the distribution point that it
// speaks of, or empty for a list that speaks of its whole CA. Empty: clean.
func LintCRL(profile, scope string, der []byte) []Finding {
	clause, ok := crlClauses[profile]
	if !ok {
		return []Finding{{"profile", "sealkeeper", fmt.Sprintf("CRL profile %q is not known", profile)}}
	}
	if len(der) > MaxCRL {
		return []Finding{{"size", "sealkeeper", fmt.Sprintf("%d bytes, at most %d are read", len(der), MaxCRL)}}
	}
	if f := longOID(der); f != nil {
		return f
	}
	c, err := x509.ParseRevocationList(der)
	if err != nil {
		return []Finding{{"parse", "RFC 5280 5.1", err.Error()}}
	}
	if !signedOnly(der) {
		return []Finding{{"parse", "RFC 5280 5.1", "something follows the signature, or it is shifted by bits"}}
	}
	l := &linter{clause: clause}
	iso := profile == "iaca"
	switch c.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
	case x509.PureEd25519:
		l.must(!iso, "crl.signature", "must be ecdsa-with-SHA256, 384 or 512")
	default:
		l.must(false, "crl.algorithm", "algorithm %s is not allowed", c.SignatureAlgorithm)
	}
	l.fields(c)
	l.must(!c.NextUpdate.IsZero(), "crl.nextUpdate.missing", "nextUpdate must be there")
	l.must(c.NextUpdate.IsZero() || c.NextUpdate.After(c.ThisUpdate), "crl.nextUpdate.order", "nextUpdate must be after thisUpdate")
	l.must(!c.NextUpdate.After(c.ThisUpdate.Add(policy.CRLLife)), "crl.nextUpdate.bound", "nextUpdate may be 90 days after thisUpdate at most")

	ext := map[string]pkix.Extension{}
	for _, e := range c.Extensions {
		id := e.Id.String()
		switch id {
		case "2.5.29.20", "2.5.29.35":
		case "2.5.29.27":
			l.must(false, "crl.delta", "a list of changes only is not made here")
		case "2.5.29.28":
			l.must(!iso, "crl.idp.iso", "the root's list speaks of all its certificates")
			l.must(iso || scope != "", "crl.idp.whole", "a list of the whole CA has no issuing distribution point")
		case "2.5.29.46":
			l.must(false, "crl.freshest", "there are no lists of changes to point to")
		default:
			l.must(false, "crl.extension", "%s must be absent", id)
		}
		ext[id] = e
	}
	number, has := ext["2.5.29.20"]
	l.must(has, "crl.number.missing", "cRLNumber must be there")
	l.must(!number.Critical, "crl.number.critical", "cRLNumber must not be critical")
	l.must(c.Number == nil || c.Number.Sign() >= 0 && c.Number.BitLen() <= 159, "crl.number.range", "cRLNumber must not be negative and have at most 20 octets")
	aki, has := ext["2.5.29.35"] // a critical one is not even parsed
	l.must(has, "crl.aki.missing", "authorityKeyIdentifier must be there")
	l.must(!has || keyIDOnly(aki.Value), "crl.aki.form", "authorityKeyIdentifier must have a key identifier and nothing else")
	if point, has := ext["2.5.29.28"]; scope != "" {
		l.must(has, "crl.idp.missing", "a list of one distribution point alone must say so")
		l.must(!has || point.Critical, "crl.idp.critical", "issuingDistributionPoint must be critical")
		want, err := issuingPoint(scope)
		l.must(!has || err == nil && bytes.Equal(point.Value, want), "crl.idp.scope", "issuingDistributionPoint must have the URI %s of the certificates, and nothing else", scope)
	}
	seen := map[string]bool{}
	for _, r := range c.RevokedCertificateEntries {
		s := r.SerialNumber.String()
		l.must(r.SerialNumber.Sign() > 0, "crl.entry.serial", "serial %s is not positive", s)
		l.must(!seen[s], "crl.entry.twice", "serial %s is there twice", s)
		l.must(!r.RevocationTime.After(c.ThisUpdate), "crl.entry.date", "the entry of %s is later than the list", s)
		l.must(!iso || len(r.Extensions) == 0, "crl.entry.iso", "the entry of %s must have no extensions", s)
		for _, e := range r.Extensions {
			if e.Id.String() != "2.5.29.21" {
				l.must(iso, "crl.entry.extension", "the entry of %s may have a reason and nothing else", s)
				continue
			}
			l.must(!e.Critical, "crl.reason.critical", "the reason of %s must not be critical", s)
			l.must(r.ReasonCode != 0, "crl.reason.zero", "the entry of %s: unspecified is said by having no reason", s)
			l.must(r.ReasonCode != 8, "crl.reason.delta", "the entry of %s: removeFromCRL is for lists of changes", s)
			l.must(r.ReasonCode == 0 || r.ReasonCode == 8 || policy.ReasonOf(r.ReasonCode) != "", "crl.reason.known", "the entry of %s: %d is no reason", s, r.ReasonCode)
		}
		seen[s] = true
	}
	l.zlintCRL(der)
	return l.found
}

// ReadCRL reads a list that somebody else may have written: it is one of this profile and scope, signed by the issuer, with a number.
func ReadCRL(profile, scope string, der []byte, issuer *x509.Certificate) (*x509.RevocationList, error) {
	if f := LintCRL(profile, scope, der); len(f) > 0 {
		return nil, fmt.Errorf("no list of profile %s: %s", profile, findings(f))
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(list.RawIssuer, issuer.RawSubject) {
		return nil, errors.New("another CA's list")
	}
	return list, list.CheckSignatureFrom(issuer)
}

// signedOnly says whether a certificate or list has its content, algorithm and signature in whole octets, and nothing that parsing would pass over and
// nobody signed.
func signedOnly(der []byte) bool {
	var parts []asn1.RawValue
	rest, err := asn1.Unmarshal(der, &parts)
	return err == nil && len(rest) == 0 && len(parts) == 3 && len(parts[2].Bytes) > 0 && parts[2].Bytes[0] == 0
}

// fields are what parsing forgives: which kind of time was written, and an empty list of entries.
func (l *linter) fields(c *x509.RevocationList) {
	var parts []asn1.RawValue
	if rest, err := asn1.Unmarshal(c.RawTBSRevocationList, &parts); err != nil || len(rest) > 0 || len(parts) < 4 {
		l.found = append(l.found, Finding{"parse", l.clause, "the list can't be taken apart"})
		return
	}
	for _, p := range parts[3:] {
		switch {
		case p.Class != asn1.ClassUniversal:
		case p.Tag == asn1.TagGeneralizedTime:
			l.must(timeOf(p).Year() >= 2050, "crl.time", "times before 2050 must be UTCTime")
		case p.Tag == asn1.TagSequence:
			l.must(len(p.Bytes) > 0, "crl.empty", "revokedCertificates must be absent when there are none")
			var entries [][]asn1.RawValue
			if _, err := asn1.Unmarshal(p.FullBytes, &entries); err != nil {
				l.found = append(l.found, Finding{"parse", l.clause, "the entries can't be taken apart"})
			}
			for _, e := range entries {
				l.must(len(e) < 2 || e[1].Tag != asn1.TagGeneralizedTime || timeOf(e[1]).Year() >= 2050, "crl.entry.time", "revocation dates before 2050 must be UTCTime")
			}
		}
	}
}

func timeOf(v asn1.RawValue) (t time.Time) {
	_, _ = asn1.Unmarshal(v.FullBytes, &t) // what can't be read is year 1
	return t
}

// issuingPoint is the issuingDistributionPoint of a list that speaks of one distribution point alone (RFC 5280 5.2.5).
func issuingPoint(uri string) ([]byte, error) {
	type fullName struct {
		Names []asn1.RawValue `asn1:"tag:0"`
	}
	return asn1.Marshal(struct {
		Point fullName `asn1:"tag:0"`
	}{fullName{[]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)}}}})
}
