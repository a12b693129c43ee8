package x509

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/policy"
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
		{"annex-d-ds.pem", "document-signer", "crlDistributionPoints.form", "its distribution point is DNS:example.com, no URI"},
		{"annex-d-reader.pem", "document-signer", "countryName.form crlDistributionPoints.form extKeyUsage.purpose issuerAltName.missing validity.long", "a reader's, of another profile"},
		{"bdr.pem", "document-signer", "crlDistributionPoints.form", "its distribution point is DNS:mdl.example.bdr.de, no URI"},
		{"animo.pem", "document-signer", "crlDistributionPoints.missing", "it has none"},
		{"isomdl_incorrect_iaca_signer.pem", "document-signer", "basicConstraints.absent e_path_len_constraint_improperly_included issuerAltName.missing", "CA:TRUE"},
		{"isomdl_iaca_leaf_signer.pem", "document-signer", "basicConstraints.absent e_path_len_constraint_improperly_included issuerAltName.missing", "CA:TRUE"},
		{"isomdl_iaca_intermediate.pem", "document-signer", "basicConstraints.absent e_path_len_constraint_improperly_included issuerAltName.missing", "CA:TRUE"},
		{"isomdl_iaca_intermediate.pem", "iaca",
			"authorityKeyIdentifier.own e_path_len_constraint_improperly_included extKeyUsage.absent issuer.own issuerAltName.missing keyUsage.bits", "no root at all"},
		{"isomdl-256-cert.pem", "document-signer",
			"authorityKeyIdentifier.other basicConstraints.absent commonName countryName.form crlDistributionPoints.missing extKeyUsage.missing issuer.other issuerAltName.missing keyUsage.missing", "a bare self-signed CA"},
		{"owf_multipaz_iaca_p384.pem", "iaca", "countryName.printable e_issuer_dn_country_not_printable_string e_subject_dn_country_not_printable_string",
			"its country is a UTF8String"},
		{"owf_multipaz_ds_p384.pem", "document-signer", "parse", "its serial is negative"},
		{"isomdl_iaca_root_cert.pem", "document-signer", "authorityKeyIdentifier.missing basicConstraints.absent extKeyUsage.missing issuer.other keyUsage.bits", "a root is no leaf"},
		{"isomdl_iaca_signer.pem", "iaca", "authorityKeyIdentifier.own basicConstraints.missing extKeyUsage.absent issuer.own keyUsage.bits", "a leaf is no root"},
	} {
		f := Lint(c.profile, readPEM(t, c.file))
		if got := names(f); got != c.findings {
			t.Errorf("%s as %s (%s):\n got %s\nwant %s\n%s", c.file, c.profile, c.why, got, c.findings, findings(f))
		}
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
	crl := signedCRL(f, iaca, der, crlRequest())
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		f.Fatal(err)
	}
	held := crlRequest()
	held.Profile, held.Revoked = "rfc5280", []policy.Revoked{{Serial: []byte{5}, At: start, Reason: policy.CertificateHold}}
	clients := signedCRL(f, iaca, der, held)
	seeds = append(seeds, der, crl, clients)
	names := slices.Sorted(maps.Keys(profiles))
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, der []byte) (clean bool) {
		profile := names[crc32.ChecksumIEEE(der)%uint32(len(names))] // one for each input, as in use
		if len(Lint(profile, der)) == 0 {
			clean = true
			if _, err := x509.ParseCertificate(der); err != nil {
				t.Errorf("clean as %s, but: %v", profile, err)
			}
		}
		// As a list that is found in the publish directory is read at start.
		kind := []string{"iaca", "rfc5280"}[crc32.ChecksumIEEE(der)>>16%2]
		if len(LintCRL(kind, "", der)) == 0 {
			clean = true
			if _, err := x509.ParseRevocationList(der); err != nil {
				t.Errorf("clean CRL, but: %v", err)
			}
			if _, err := ReadCRL(kind, "", der, issuer); err == nil && !bytes.Equal(der, crl) && !bytes.Equal(der, clients) {
				t.Error("a list that the root did not sign is taken for its own")
			}
		}
		return clean
	})
}
