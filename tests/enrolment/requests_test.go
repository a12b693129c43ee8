package enrolment

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
)

// asking is one way to ask for more than officers approved.
type asking func(*x509.CertificateRequest)

func oid(n ...int) asn1.ObjectIdentifier { return n }

func extension(t testing.TB, critical bool, id asn1.ObjectIdentifier, value any) asking {
	t.Helper()
	b, raw := value.([]byte)
	if !raw {
		var err error
		b, err = asn1.Marshal(value)
		must(t, err)
	}
	return func(r *x509.CertificateRequest) {
		r.ExtraExtensions = append(r.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: b})
	}
}

// wishes are what can be asked for in a certificate request, by where it is asked. The first of each asks for nothing.
func wishes(t testing.TB) (subjects, names, extensions []asking) {
	none := func(*x509.CertificateRequest) {}
	subject := func(n pkix.Name) asking { return func(r *x509.CertificateRequest) { r.Subject = n } }
	uris := func(all ...string) asking {
		return func(r *x509.CertificateRequest) {
			for _, s := range all {
				u, err := url.Parse(s)
				must(t, err)
				r.URIs = append(r.URIs, u)
			}
		}
	}
	subjects = []asking{none, subject(pkix.Name{CommonName: "operator-1"}), subject(pkix.Name{CommonName: "issuance", Organization: []string{"Ministry"}, OrganizationalUnit: []string{"operator"}, SerialNumber: "1"}),
		subject(pkix.Name{CommonName: "auditor", ExtraNames: []pkix.AttributeTypeAndValue{{Type: oid(2, 5, 4, 3), Value: "operator-1"}, {Type: oid(2, 5, 4, 72), Value: "officer"}}})}
	names = []asking{none, uris("urn:sealkeeper:client:operator:operator-1"), uris("urn:sealkeeper:client:officer:officers", "urn:sealkeeper:client:issuance:other-office"),
		func(r *x509.CertificateRequest) { r.DNSNames = []string{"cards.example", "*.example"} },
		func(r *x509.CertificateRequest) {
			r.IPAddresses, r.EmailAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"operator@cards.example"}
		}}
	extensions = []asking{none,
		extension(t, true, oid(2, 5, 29, 19), struct{ CA bool }{true}),
		extension(t, false, oid(2, 5, 29, 37), []asn1.ObjectIdentifier{oid(1, 3, 6, 1, 5, 5, 7, 3, 1), oid(2, 5, 29, 37, 0)}),
		extension(t, true, oid(2, 5, 29, 15), []byte{3, 2, 1, 6}),
		extension(t, false, oid(1, 3, 6, 1, 4, 1, 37476, 9000, 64, 1), []byte{4, 1, 0}), // what a provisioner of step writes
		extension(t, true, oid(2, 5, 29, 30), []byte{0x30, 0}),
		func(r *x509.CertificateRequest) {
			extension(t, false, oid(2, 5, 29, 31), []byte{0x30, 0})(r)
			extension(t, false, oid(2, 5, 29, 14), []byte{4, 1, 1})(r)
		}}
	return subjects, names, extensions
}

// says is all of a certificate that could speak of a client, with its id taken out, and without what differs in any two: number, key and times.
func says(t testing.TB, c *x509.Certificate, id string) string {
	t.Helper()
	if len(c.URIs) != 1 || c.URIs[0].String() != "urn:sealkeeper:client:issuance:"+id || c.Subject.CommonName != id || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) > 0 || c.IsCA {
		t.Errorf("the certificate of %s is of %v %v", id, c.Subject, c.URIs)
	}
	text := strings.Replace(c.Subject.String(), id, "ID", 1)
	for _, e := range c.Extensions {
		switch {
		case e.Id.Equal(oid(2, 5, 29, 14)) || e.Id.Equal(oid(2, 5, 29, 17)): // key identifier; names, which were looked at
			text += fmt.Sprintf(" %s", e.Id)
		default:
			text += fmt.Sprintf(" %s %v %x", e.Id, e.Critical, e.Value)
		}
	}
	return text + fmt.Sprint(" ", c.NotAfter.Sub(c.NotBefore))
}

// Acceptance 6.3: names, roles and extensions that a certificate request asks for never reach a certificate, in whatever combination; nor do claims of a
// token that officers did not approve.
func TestRequestsAreNotReadButForTheirKey(t *testing.T) {
	t.Parallel()
	o := open(t)
	ctx, ra := context.Background(), o.As("ra-1")
	subjects, names, extensions := wishes(t)
	var ids []string
	for i := range len(subjects) * len(names) * len(extensions) {
		ids = append(ids, fmt.Sprintf("office-%d", i+1000))
	}
	o.enrol(time.Hour, append(ids, "office-1")...)
	first, k := "", key(t)
	for i, id := range ids {
		var r x509.CertificateRequest
		subjects[i%len(subjects)](&r)
		names[i/len(subjects)%len(names)](&r)
		extensions[i/len(subjects)/len(names)](&r)
		a, err := ra.Register(ctx, contract.RegisterRequest{Token: o.token(id).Token, CSR: csr(t, k, r)})
		must(t, err)
		der, err := base64.RawURLEncoding.DecodeString(a.Certificate)
		must(t, err)
		c, err := x509.ParseCertificate(der)
		must(t, err)
		if s := says(t, c, id); first == "" {
			first = s
		} else if s != first {
			t.Errorf("request %d changed the certificate:\n%s\n%s", i, s, first)
		}
	}
	// Claims: another value of each, each one more, and each one away, under the signature of what was approved.
	parts := strings.Split(o.token("office-1").Token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	must(t, err)
	var claims map[string]any
	must(t, json.Unmarshal(payload, &claims))
	changes := map[string]any{"sub": "office-1000", "sans": []string{"urn:sealkeeper:client:operator:office-1"}, "aud": "https://elsewhere.example/1.0/sign", "iss": "another", "jti": "AAAAAAAAAAAAAAAAAAAAAA",
		"sha": strings.Repeat("0", 64), "exp": time.Now().Add(100 * time.Hour).Unix(), "nbf": 1, "iat": 1, "role": "operator", "channel": "mobile", "office": "1", "district": "1", "carrier": "telecom-a",
		"step": map[string]any{"ra": map[string]any{"authorityId": "x"}}, "cnf": map[string]any{"x5rt#S256": "x"}, "user": map[string]any{"role": "operator"}}
	try := func(what string, claims map[string]any) {
		t.Helper()
		b, err := json.Marshal(claims)
		must(t, err)
		_, err = ra.Register(ctx, contract.RegisterRequest{Token: parts[0] + "." + base64.RawURLEncoding.EncodeToString(b) + "." + parts[2], CSR: csr(t, k, x509.CertificateRequest{})})
		if client.Code(err) != "evidence.token_signature" {
			t.Errorf("a token with %s: %v", what, err)
		}
	}
	with := func(name string, value any) map[string]any {
		out := map[string]any{}
		for n, v := range claims {
			out[n] = v
		}
		if out[name] = value; value == nil {
			delete(out, name)
		}
		return out
	}
	for name, value := range changes {
		try("another "+name, with(name, value))
		if _, there := claims[name]; there {
			try("no "+name, with(name, nil))
		}
		for other, v := range changes {
			both := with(name, value)
			both[other] = v
			try("another "+name+" and "+other, both)
		}
	}
	if _, err := ra.Register(ctx, contract.RegisterRequest{Token: strings.Join(parts, "."), CSR: csr(t, k, x509.CertificateRequest{})}); err != nil {
		t.Errorf("the token as it was signed: %v", err)
	}
	o.Stop()
	o.Check()
}

// Acceptance 6.3, at the registration authority: what `step` lets a client give to a provisioner's template, and times that it asks for, change nothing.
func TestTemplatesAreGivenNothing(t *testing.T) {
	t.Parallel()
	binary := build(t)
	o := open(t)
	o.serve(binary)
	templates := []string{`null`, `{}`, `{"subject": {"commonName": "operator-1"}, "sans": [{"type": "uri", "value": "urn:sealkeeper:client:operator:operator-1"}]}`,
		`{"Insecure": {"User": {"role": "operator"}}, "extensions": [{"id": "2.5.29.19", "critical": true, "value": "MAMBAf8="}], "keyUsage": ["certSign"], "extKeyUsage": ["serverAuth"], "basicConstraints": {"isCA": true}}`}
	times := [][2]string{{"", ""}, {"", "24h"}, {"-1m", "5m"}}
	var ids []string
	for i := range len(templates) * len(times) {
		ids = append(ids, fmt.Sprintf("office-%d", i+1000))
	}
	o.enrol(time.Hour, ids...)
	roots := x509.NewCertPool()
	first, given := "", 0
	for i, id := range ids {
		token := o.token(id)
		h := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}}
		if i == 0 {
			root, err := o.root(token.URL, token.Fingerprint)
			must(t, err)
			roots.AddCert(root)
		}
		k, san := key(t), []*url.URL{{Scheme: "urn", Opaque: "sealkeeper:client:issuance:" + id}}
		der, err := base64.RawURLEncoding.DecodeString(csr(t, k, x509.CertificateRequest{Subject: pkix.Name{CommonName: id}, URIs: san}))
		must(t, err)
		asked := map[string]any{"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), "ott": token.Token, "templateData": json.RawMessage(templates[i%len(templates)])}
		if span := times[i/len(templates)]; span[1] != "" {
			asked["notBefore"], asked["notAfter"] = span[0], span[1]
		}
		body, err := json.Marshal(asked)
		must(t, err)
		a, err := h.Post(token.URL+"/1.0/sign", "application/json", bytes.NewReader(body))
		must(t, err)
		said, err := io.ReadAll(a.Body)
		must(t, err)
		must(t, a.Body.Close())
		if a.StatusCode != http.StatusCreated {
			t.Logf("%s with %s: %d %.200s", templates[i%len(templates)], times[i/len(templates)], a.StatusCode, said)
			continue // refused is as good
		}
		var answer struct {
			Crt string `json:"crt"`
		}
		must(t, json.Unmarshal(said, &answer))
		block, _ := pem.Decode([]byte(answer.Crt))
		c, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		if given++; !c.PublicKey.(*ecdsa.PublicKey).Equal(&k.PublicKey) {
			t.Error("a certificate for another key")
		}
		if s := says(t, c, id); first == "" {
			first = s
		} else if s != first {
			t.Errorf("%s with %s changed the certificate:\n%s\n%s", templates[i%len(templates)], times[i/len(templates)], s, first)
		}
	}
	if given < len(templates) {
		t.Errorf("%d certificates: the requests were refused for something else", given)
	}
}

// root asks the registration authority for its root, by its hash.
func (o *office) root(at, hash string) (*x509.Certificate, error) {
	h := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	a, err := h.Get(at + "/root/" + hash)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	var answer struct {
		CA string `json:"ca"`
	}
	if err := json.NewDecoder(a.Body).Decode(&answer); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(answer.CA))
	if block == nil {
		return nil, fmt.Errorf("%d", a.StatusCode)
	}
	return x509.ParseCertificate(block.Bytes)
}
