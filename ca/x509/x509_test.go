package x509

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

var (
	day   = 24 * time.Hour
	start = time.Date(2025, 3, 14, 0, 0, 0, 0, time.UTC)
	house = Params{Country: "KR", State: "Seoul", Organization: "Ministry of Tests", IssuerURL: "https://issuer.example", CRLURL: "https://issuer.example/crl/iaca.crl"}
)

// pair is a software key in the place of an HSM's.
type pair struct {
	ledger.Key
	private crypto.Signer
}

func newPair(t testing.TB, id string, p policy.Purpose, algorithm string) pair {
	t.Helper()
	var k crypto.Signer
	var err error
	switch algorithm {
	case "ES256":
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "EdDSA":
		_, k, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pair{ledger.Key{ID: id, Purpose: p, Algorithm: algorithm, SPKI: spki}, k}
}

// raw signs as the worker does: r‖s, or Ed25519.
func (p pair) raw(t testing.TB, tbs []byte) []byte {
	t.Helper()
	switch k := p.private.(type) {
	case *ecdsa.PrivateKey:
		size := (k.Params().BitSize + 7) / 8
		digest := make([]byte, 0, 64)
		if size == 32 {
			h := sha256.Sum256(tbs)
			digest = append(digest, h[:]...)
		} else {
			h := sha512.Sum384(tbs)
			digest = append(digest, h[:]...)
		}
		r, s, err := ecdsa.Sign(rand.Reader, k, digest)
		if err != nil {
			t.Fatal(err)
		}
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case ed25519.PrivateKey:
		return ed25519.Sign(k, tbs)
	}
	t.Fatal("no such key")
	return nil
}

func request(profile string, subject, issuer pair) policy.Cert {
	c := policy.Cert{Profile: profile, Name: "Test " + profile + " 1", SPKI: subject.SPKI, NotBefore: start, NotAfter: start.AddDate(0, 0, 365), IssuerKey: issuer.ID, CRL: strings.TrimSuffix(issuer.ID, "-1"),
		Serial: [20]byte{0x55, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, byte(len(profile))}}
	switch profile {
	case "iaca":
		c.NotAfter, c.CRL = start.AddDate(9, 0, 0), ""
	case "client-ca":
		c.NotAfter, c.CRL = start.AddDate(5, 0, 0), ""
	case "sdjwt-issuer":
		c.URIs = []string{"https://issuer.example/ward-office"}
	case "server":
		c.Hosts = []string{"localhost", "issuer.example", "127.0.0.1", "::1"}
	case "client":
		c.URIs = []string{"urn:sealkeeper:client:issuance:ward-office"}
	case "officer":
		c.URIs = []string{"urn:sealkeeper:client:officer:kim"}
	case "iaca-link", "client-ca-link":
		c.NotAfter = start.AddDate(4, 0, 0)
	}
	return c
}

// certify drafts, signs and joins.
func certify(t testing.TB, c policy.Cert, issuer pair, issuerCert []byte) []byte {
	t.Helper()
	tbs, err := draft(c, issuer.Key, issuerCert, house)
	if err != nil {
		t.Fatal(err)
	}
	der, err := tbs.join(issuer.raw(t, tbs.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func root(t testing.TB, profile, algorithm string) (pair, []byte) {
	t.Helper()
	p := policy.PurposeIACA
	if profile == "client-ca" {
		p = policy.PurposeClientCA
	}
	k := newPair(t, profile+"-1", p, algorithm)
	return k, certify(t, request(profile, k, k), k, nil)
}

var leaves = map[string]string{"document-signer": "iaca", "sdjwt-issuer": "iaca", "status-signer": "iaca", "iaca-link": "iaca", "client-ca-link": "client-ca", "server": "client-ca", "client": "client-ca", "officer": "client-ca"}

// Every profile with every algorithm that it may have: clean, bytewise the issuer's, SKI by SHA-1, and verified by the standard library.
func TestProfilesVerify(t *testing.T) {
	for leaf, ca := range leaves {
		for _, algorithm := range []string{"ES256", "ES384", "EdDSA"} {
			issuerAlgorithm := algorithm
			if ca == "iaca" && algorithm == "EdDSA" {
				issuerAlgorithm = "ES256" // B.1: an IACA key is EC
			}
			if (leaf == "status-signer" || leaf == "iaca-link") && algorithm == "EdDSA" {
				continue // B.9, B.1: EC only
			}
			t.Run(leaf+" "+algorithm, func(t *testing.T) {
				issuer, rootDER := root(t, ca, issuerAlgorithm)
				der := certify(t, request(leaf, newPair(t, leaf, "", algorithm), issuer), issuer, rootDER)
				for profile, d := range map[string][]byte{ca: rootDER, leaf: der} {
					if f := Lint(profile, d); len(f) > 0 {
						t.Errorf("%s: %s", profile, findings(f))
					}
				}
				r, err := x509.ParseCertificate(rootDER)
				if err != nil {
					t.Fatal(err)
				}
				c, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(c.RawIssuer, r.RawSubject) || !bytes.Equal(c.AuthorityKeyId, r.SubjectKeyId) || len(r.SubjectKeyId) != 20 {
					t.Error("issuer or key identifiers differ from the root's")
				}
				pool := x509.NewCertPool()
				pool.AddCert(r)
				c.UnhandledCriticalExtensions = nil // none is expected; the EKU is handled
				if _, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: start.Add(day), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// An Ed25519 IACA is against B.1, an Ed25519 status signer against B.9.
func TestEdwardsWhereISOForbidsIt(t *testing.T) {
	k := newPair(t, "iaca-1", policy.PurposeIACA, "EdDSA")
	if _, err := draft(request("iaca", k, k), k.Key, nil, house); err == nil || !strings.Contains(err.Error(), "Ed25519") {
		t.Error(err)
	}
	iaca, der := root(t, "iaca", "ES256")
	if _, err := draft(request("status-signer", k, iaca), iaca.Key, der, house); err == nil || !strings.Contains(err.Error(), "Ed25519") {
		t.Error(err)
	}
}

// The same approval gives the same bytes: a reservation's hash must be met again after a crash.
func TestDraftIsDeterministic(t *testing.T) {
	iaca, der := root(t, "iaca", "ES256")
	c := request("document-signer", newPair(t, "ds", "", "ES256"), iaca)
	a, err := draft(c, iaca.Key, der, house)
	if err != nil {
		t.Fatal(err)
	}
	b, err := draft(c, iaca.Key, der, house)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two drafts of one approval differ")
	}
}

// What Draft refuses; each case differs from a good request in one thing.
func TestDraftRefuses(t *testing.T) {
	iaca, iacaDER := root(t, "iaca", "ES256")
	other, otherDER := root(t, "iaca", "ES256")
	ds := newPair(t, "ds", "", "ES256")
	dsDER := certify(t, request("document-signer", ds, iaca), iaca, iacaDER)
	dsKey := ds.Key
	dsKey.ID = iaca.ID
	for _, c := range []struct {
		name, want string
		change     func(c *policy.Cert, k *ledger.Key, der *[]byte, p *Params)
	}{
		{"unknown profile", "not known", func(c *policy.Cert, _ *ledger.Key, _ *[]byte, _ *Params) { c.Profile = "vical" }},
		{"another issuer key", "approved for issuer", func(_ *policy.Cert, k *ledger.Key, _ *[]byte, _ *Params) { k.ID = "iaca-2" }},
		{"another issuer's certificate", "another key", func(_ *policy.Cert, _ *ledger.Key, der *[]byte, _ *Params) { *der = otherDER }},
		{"another issuer's public key", "another key", func(_ *policy.Cert, k *ledger.Key, _ *[]byte, _ *Params) { k.SPKI = other.SPKI }},
		{"no issuer certificate", "certificate of issuer", func(_ *policy.Cert, _ *ledger.Key, der *[]byte, _ *Params) { *der = nil }},
		{"a leaf as issuer", "no CA", func(_ *policy.Cert, k *ledger.Key, der *[]byte, _ *Params) { *k, *der = dsKey, dsDER }},
		{"algorithm that signs no certificates", "algorithm", func(_ *policy.Cert, k *ledger.Key, _ *[]byte, _ *Params) { k.Algorithm = "RS256" }},
		{"no public key", "public key", func(c *policy.Cert, _ *ledger.Key, _ *[]byte, _ *Params) { c.SPKI = nil }},
		{"bytes after the public key", "public key", func(c *policy.Cert, _ *ledger.Key, _ *[]byte, _ *Params) { c.SPKI = append(bytes.Clone(c.SPKI), 0) }},
		{"a root with another's key", "self-signed", func(c *policy.Cert, _ *ledger.Key, der *[]byte, _ *Params) { c.Profile, *der = "iaca", nil }},
		{"458 days", "validity", func(c *policy.Cert, _ *ledger.Key, _ *[]byte, _ *Params) { c.NotAfter = start.AddDate(0, 0, 458) }},
		{"ends before it begins", "validity", func(c *policy.Cert, _ *ledger.Key, _ *[]byte, _ *Params) { c.NotAfter = start.Add(-day) }},
		{"zero serial", "serial", func(c *policy.Cert, _ *ledger.Key, _ *[]byte, _ *Params) { c.Serial = [20]byte{} }},
		{"serial of 21 octets", "serial", func(c *policy.Cert, _ *ledger.Key, _ *[]byte, _ *Params) { c.Serial[0] = 0x80 }},
		{"short serial", "serial", func(c *policy.Cert, _ *ledger.Key, _ *[]byte, _ *Params) { c.Serial = [20]byte{13: 0x3f} }},
		{"no name", "commonName", func(c *policy.Cert, _ *ledger.Key, _ *[]byte, _ *Params) { c.Name = "" }},
		{"lower case country", "countryName", func(_ *policy.Cert, _ *ledger.Key, _ *[]byte, p *Params) { p.Country = "kr" }},
		{"another country than the issuer's", "countryName", func(_ *policy.Cert, _ *ledger.Key, _ *[]byte, p *Params) { p.Country = "JP" }},
		{"another state than the issuer's", "stateOrProvinceName", func(_ *policy.Cert, _ *ledger.Key, _ *[]byte, p *Params) { p.State = "Busan" }},
		{"no issuer URL", "issuerAltName", func(_ *policy.Cert, _ *ledger.Key, _ *[]byte, p *Params) { p.IssuerURL = "" }},
		{"no CRL URL", "crlDistributionPoints", func(_ *policy.Cert, _ *ledger.Key, _ *[]byte, p *Params) { p.CRLURL = "" }},
		{"not a document signer's purpose", "extKeyUsage", func(_ *policy.Cert, _ *ledger.Key, _ *[]byte, p *Params) {
			p.DSPurposes = []string{"1.3.6.1.5.5.7.3.1"}
		}},
		{"purpose that is no OID", "extended key usage", func(_ *policy.Cert, _ *ledger.Key, _ *[]byte, p *Params) { p.DSPurposes = []string{"mdl"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cert, k, der, p := request("document-signer", ds, iaca), iaca.Key, iacaDER, house
			c.change(&cert, &k, &der, &p)
			if tbs, err := draft(cert, k, der, p); err == nil || tbs != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %s", err, c.want)
			}
		})
	}
}

// The decision of policy goes all the way; nothing else than its approvals is taken.
func TestApprovalsOnly(t *testing.T) {
	iaca := newPair(t, "iaca-1", policy.PurposeIACA, "ES256")
	c := request("iaca", iaca, iaca)
	a, d := policy.DecideCert(nil, policy.CertFacts{Cert: c, IssuerPurpose: policy.PurposeIACA}, start)
	if a == nil {
		t.Fatalf("%+v", d)
	}
	tbs, err := Draft(a, iaca.Key, nil, house)
	if err != nil {
		t.Fatal(err)
	}
	der, err := tbs.join(iaca.raw(t, tbs.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DraftCRL(a, iaca.Key, der, house); err == nil {
		t.Error("a certificate's approval made a CRL")
	}
	online := iaca.Key
	online.Purpose = policy.PurposeMDoc
	if _, err := Draft(a, online, nil, house); err == nil {
		t.Error("a key of another purpose signs certificates")
	}
	for _, none := range []*policy.Approval{{}} {
		if _, err := Draft(none, iaca.Key, nil, house); err == nil {
			t.Error("the zero approval made a certificate")
		}
		if _, err := DraftCRL(none, iaca.Key, der, house); err == nil {
			t.Error("the zero approval made a CRL")
		}
	}
	crl, d := policy.DecideCRL(nil, policy.CRLFacts{IssuerPurpose: policy.PurposeIACA, CRL: policy.CRL{Name: "iaca", Profile: "iaca", Number: 1, ThisUpdate: start, NextUpdate: start.Add(30 * day), IssuerKey: "iaca-1"}}, start)
	if crl == nil {
		t.Fatalf("%+v", d)
	}
	if _, err := DraftCRL(crl, iaca.Key, der, house); err != nil {
		t.Error(err)
	}
	if _, err := Draft(crl, iaca.Key, nil, house); err == nil {
		t.Error("a CRL's approval made a certificate")
	}
}

func TestJoinRefuses(t *testing.T) {
	iaca := newPair(t, "iaca-1", policy.PurposeIACA, "ES256")
	tbs, err := draft(request("iaca", iaca, iaca), iaca.Key, nil, house)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		t *TBS
		c *release.Checked
	}{"nil draft": {nil, nil}, "zero draft": {new(TBS), nil}, "nil signatures": {tbs, nil}, "zero signatures": {tbs, new(release.Checked)}} {
		if der, err := Join(c.t, c.c, 0); err == nil || der != nil {
			t.Errorf("%s: %x, %v", name, der, err)
		}
	}
	for _, n := range []int{0, 63, 65, 96} {
		if _, err := tbs.join(make([]byte, n)); err == nil {
			t.Errorf("a P-256 signature of %d bytes was joined", n)
		}
	}
}

func crlRequest() policy.CRL {
	return policy.CRL{Name: "iaca", Profile: "iaca", Number: 7, ThisUpdate: start.Add(2 * day), NextUpdate: start.Add(32 * day), IssuerKey: "iaca-1"}
}

func TestCRL(t *testing.T) {
	for _, algorithm := range []string{"ES256", "ES384"} {
		iaca, iacaDER := root(t, "iaca", algorithm)
		parent, err := x509.ParseCertificate(iacaDER)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			c := crlRequest()
			for i := range n {
				c.Revoked = append(c.Revoked, policy.Revoked{Serial: []byte{0x55, byte(i), 2, 3, 4, 5, 6, 7, 8}, At: start.Add(day)})
			}
			der := signedCRL(t, iaca, iacaDER, c)
			l, err := x509.ParseRevocationList(der)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.CheckSignatureFrom(parent); err != nil {
				t.Error(err)
			}
			if f := LintCRL("iaca", "", der); len(f) > 0 || len(l.RevokedCertificateEntries) != n || l.Number.Uint64() != 7 || !bytes.Equal(l.RawIssuer, parent.RawSubject) {
				t.Errorf("%d entries: %d, number %s, %s", n, len(l.RevokedCertificateEntries), l.Number, findings(f))
			}
		}
	}
}

// signedCRL is a list that its issuer signed.
func signedCRL(t testing.TB, issuer pair, certificate []byte, c policy.CRL) []byte {
	t.Helper()
	tbs, err := draftCRL(c, issuer.Key, certificate)
	if err != nil {
		t.Fatal(err)
	}
	der, err := tbs.join(issuer.raw(t, tbs.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Standard parsing passes over what follows the signature inside of a certificate or list, and over bits by which the signature is shifted. Nobody signed that.
func TestSignatureAndNothingElse(t *testing.T) {
	iaca, root := root(t, "iaca", "ES256")
	issuer, err := x509.ParseCertificate(root)
	if err != nil {
		t.Fatal(err)
	}
	crl := signedCRL(t, iaca, root, crlRequest())
	if _, err := ReadCRL("iaca", "", crl, issuer); err != nil {
		t.Error(err)
	}
	for _, der := range [][]byte{root, crl} {
		var parts []asn1.RawValue
		if _, err := asn1.Unmarshal(der, &parts); err != nil {
			t.Fatal(err)
		}
		shifted := []byte{1}
		for i, b := range parts[2].Bytes[1:] { // its first bit is 0
			if i > 0 {
				shifted[i] |= b >> 7
			}
			shifted = append(shifted, b<<1)
		}
		for how, parts := range map[string][]asn1.RawValue{"the signature twice": append(slices.Clone(parts), parts[2]),
			"the signature a bit to the left": {parts[0], parts[1], {Tag: asn1.TagBitString, Bytes: shifted}}} {
			other, err := asn1.Marshal(parts)
			if err != nil {
				t.Fatal(err)
			}
			cert, _ := x509.ParseCertificate(other)
			list, _ := x509.ParseRevocationList(other)
			switch {
			case cert != nil && cert.CheckSignatureFrom(issuer) == nil:
				if f := Lint("iaca", other); names(f) != "parse" {
					t.Errorf("a certificate with %s: %s", how, findings(f))
				}
			case list != nil && list.CheckSignatureFrom(issuer) == nil:
				if f := LintCRL("iaca", "", other); names(f) != "parse" {
					t.Errorf("a list with %s: %s", how, findings(f))
				}
				if _, err := ReadCRL("iaca", "", other, issuer); err == nil {
					t.Errorf("with %s it is read as the CA's own", how)
				}
			default:
				t.Errorf("with %s standard parsing refuses it: then this test proves nothing", how)
			}
		}
	}
}

func TestDraftCRLRefuses(t *testing.T) {
	iaca, iacaDER := root(t, "iaca", "ES256")
	_, otherDER := root(t, "iaca", "ES256")
	entry := policy.Revoked{Serial: []byte{1, 2, 3}, At: start}
	for _, c := range []struct {
		name, want string
		change     func(c *policy.CRL, der *[]byte)
	}{
		{"another issuer key", "approved for", func(c *policy.CRL, _ *[]byte) { c.IssuerKey = "iaca-2" }},
		{"another issuer's certificate", "another key", func(_ *policy.CRL, der *[]byte) { *der = otherDER }},
		{"91 days", "nextUpdate", func(c *policy.CRL, _ *[]byte) { c.NextUpdate = c.ThisUpdate.Add(91 * day) }},
		{"no time at all", "nextUpdate", func(c *policy.CRL, _ *[]byte) { c.NextUpdate = c.ThisUpdate }},
		{"an entry twice", "crl.entry.twice", func(c *policy.CRL, _ *[]byte) { c.Revoked = []policy.Revoked{entry, entry} }},
		{"an entry without serial", "serial", func(c *policy.CRL, _ *[]byte) { c.Revoked = []policy.Revoked{{At: start}} }},
		{"an entry from the future", "crl.entry.date", func(c *policy.CRL, _ *[]byte) {
			c.Revoked = []policy.Revoked{{Serial: []byte{1}, At: start.Add(3 * day)}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			crl, der := crlRequest(), iacaDER
			c.change(&crl, &der)
			if tbs, err := draftCRL(crl, iaca.Key, der); err == nil || tbs != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %s", err, c.want)
			}
		})
	}
}

// Written by others: openssl must agree with every profile in every algorithm that it may have, with both kinds of revocation list, and with what
// is revoked, on hold, and lifted.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	file := func(name, kind string, der []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	openssl := func(want string, args ...string) {
		t.Helper()
		out, err := exec.Command("openssl", args...).CombinedOutput()
		if !strings.Contains(string(out), want) || (err != nil) != (strings.HasPrefix(want, "error")) {
			t.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	for _, ca := range []string{"iaca", "client-ca"} {
		for _, algorithm := range []string{"ES256", "ES384", "EdDSA"} {
			if ca == "iaca" && algorithm == "EdDSA" {
				continue // B.1: EC only
			}
			t.Run(ca+" "+algorithm, func(t *testing.T) {
				issuer, der := root(t, ca, algorithm)
				anchor := file("ca.pem", "CERTIFICATE", der)
				crl := func(name string, revoked ...policy.Revoked) string {
					c := crlRequest()
					c.Name, c.IssuerKey, c.Revoked = ca, issuer.ID, revoked
					if ca == "client-ca" {
						c.Profile = "rfc5280"
					}
					list := signedCRL(t, issuer, der, c)
					return file(name, "X509 CRL", list)
				}
				revoked := func(c policy.Cert, r policy.RevocationReason) policy.Revoked {
					if ca == "iaca" {
						r = ""
					}
					return policy.Revoked{Serial: c.Serial[:], At: start.Add(day), Reason: r}
				}
				verify := func(want, list string, certs ...string) {
					t.Helper()
					openssl(want, slices.Concat([]string{"verify", "-x509_strict", "-crl_check", "-attime", "1742342400", "-CAfile", anchor, "-CRLfile", list}, certs)...) // 2025-03-19
				}
				var good []string
				var reqs []policy.Cert
				for leaf, of := range leaves {
					for _, own := range []string{"ES256", "ES384", "EdDSA"} {
						if of != ca || own == "EdDSA" && !profiles[leaf].edwards {
							continue
						}
						req := request(leaf, newPair(t, leaf, "", own), issuer)
						req.Serial[1] = byte(len(reqs) + 1)
						reqs = append(reqs, req)
						good = append(good, file(leaf+own+".pem", "CERTIFICATE", certify(t, req, issuer, der)))
					}
				}
				empty := crl("empty.crl")
				openssl("verify OK", "crl", "-in", empty, "-noout", "-CAfile", anchor)
				verify(": OK", empty, good...)
				for i, reason := range []policy.RevocationReason{policy.KeyCompromise, policy.CertificateHold, policy.Unspecified} {
					one := crl("one.crl", revoked(reqs[i], reason))
					openssl("verify OK", "crl", "-in", one, "-noout", "-CAfile", anchor)
					verify("error 23", one, good[i])
					verify(": OK", one, good[i+1])
				}
				if ca == "client-ca" { // a part speaks of the certificates that point to it, and of no others
					in, out := reqs[0], reqs[1]
					in.CRL, out.CRL = "client-ca.1-of-2", "client-ca.2-of-2"
					inFile, outFile := file("in.pem", "CERTIFICATE", certify(t, in, issuer, der)), file("out.pem", "CERTIFICATE", certify(t, out, issuer, der))
					c := crlRequest()
					c.Name, c.Profile, c.IssuerKey, c.Scope = in.CRL, "rfc5280", issuer.ID, house.DistributionPoint(in.CRL)
					c.Revoked = []policy.Revoked{revoked(in, policy.Superseded)}
					list := signedCRL(t, issuer, der, c)
					part := file("part.crl", "X509 CRL", list)
					verify("error 23", part, inFile)
					// error 44: the list has another scope than the certificate.
					openssl("error", "verify", "-x509_strict", "-crl_check", "-extended_crl", "-attime", "1742342400", "-CAfile", anchor, "-CRLfile", part, outFile)
				}
			})
		}
	}
}
