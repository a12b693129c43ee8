package scenario

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/contract"
	"sealkeeper/verifier"
)

// fetched is an answer of the public listener as it came over the wire.
type fetched struct {
	status int
	header http.Header
	body   []byte
}

// look asks the public listener; headers are name, value, name, value.
func (a *appliance) look(t *testing.T, method, path string, headers ...string) fetched {
	t.Helper()
	r, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", a.Ports[1], path), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	h := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	w, err := h.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	body, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fetched{w.StatusCode, w.Header, body}
}

// What verifiers, caches and browsers see, from the running daemon.
func TestPublicListener(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	out := a.Issue(newPhone(t, 1), "public-1", false)
	m, s := byFormat(out)
	a.Eventually(m.Status, verifier.Valid)
	a.Eventually(s.Status, verifier.Valid)
	a.settled()
	path := func(ref contract.StatusRef) string { return strings.TrimPrefix(ref.URI, publicURL) }

	t.Run("lists", func(t *testing.T) {
		for _, l := range []struct {
			path, media, other string
			zipped             bool
		}{
			{path(s.Status), "application/statuslist+jwt", "application/statuslist+cwt", true},
			{path(m.Status), "application/statuslist+cwt", "application/statuslist+jwt", false},
		} {
			plain := a.look(t, "GET", l.path)
			if plain.status != 200 || plain.header.Get("Content-Type") != l.media || plain.header.Get("Content-Encoding") != "" {
				t.Fatalf("%s: %d %v", l.path, plain.status, plain.header)
			}
			for name, want := range map[string]string{"Cache-Control": "public, max-age=60", "Vary": "Accept, Accept-Encoding", "Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"} {
				if got := plain.header.Get(name); got != want {
					t.Errorf("%s: %s is %q", l.media, name, got)
				}
			}
			tag := plain.header.Get("ETag")
			if !strings.HasPrefix(tag, `"`) || plain.header.Get("Last-Modified") != "" {
				t.Errorf("%s: ETag %s is not strong, or there is a Last-Modified, of which two versions may have the same one", l.media, tag)
			}
			for accept, want := range map[string]int{l.media: 200, "*/*": 200, "application/*;q=0.1": 200, l.other: 406, "text/html": 406, l.media + ";q=0": 406, l.other + ", " + l.media + ";q=0.5": 200} {
				if got := a.look(t, "GET", l.path, "Accept", accept); got.status != want || want == 406 && code(got.body) != "accept.none" {
					t.Errorf("%s: Accept: %s is answered %d", l.media, accept, got.status)
				}
			}
			zip := a.look(t, "GET", l.path, "Accept-Encoding", "br, gzip")
			if got := zip.header.Get("Content-Encoding"); (got == "gzip") != l.zipped {
				t.Errorf("%s: Content-Encoding %q", l.media, got)
			}
			if l.zipped {
				g, err := gzip.NewReader(bytes.NewReader(zip.body))
				if err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(g); err != nil || !bytes.Equal(b, plain.body) {
					t.Errorf("%s: the gzip form is not the plain one: %v", l.media, err)
				}
				if zip.header.Get("ETag") == tag {
					t.Errorf("%s: one strong ETag for two encodings", l.media)
				}
			}
			for _, c := range []struct {
				tag, encoding string
				want          int
			}{{tag, "identity", 304}, {zip.header.Get("ETag"), "gzip", 304}, {`"other"`, "identity", 200}, {`"a", ` + tag, "identity", 304}, {"*", "identity", 304}} {
				got := a.look(t, "GET", l.path, "If-None-Match", c.tag, "Accept-Encoding", c.encoding)
				if got.status != c.want || c.want == 304 && (len(got.body) != 0 || got.header.Get("ETag") == "" || got.header.Get("Cache-Control") == "") {
					t.Errorf("%s: If-None-Match: %s (%s) is answered %d %v", l.media, c.tag, c.encoding, got.status, got.header)
				}
			}
			if l.zipped {
				if got := a.look(t, "GET", l.path, "If-None-Match", tag, "Accept-Encoding", "gzip"); got.status != 200 {
					t.Errorf("the plain form's tag stands for the gzip form: %d", got.status)
				}
			}
			head := a.look(t, "HEAD", l.path)
			if head.status != 200 || len(head.body) != 0 || head.header.Get("ETag") != tag || head.header.Get("Content-Length") != fmt.Sprint(len(plain.body)) {
				t.Errorf("%s: HEAD %d %v", l.media, head.status, head.header)
			}
			if got := a.look(t, "GET", l.path+"?time=1700000000"); got.status != 501 || code(got.body) != "time.unsupported" {
				t.Errorf("%s: ?time= is answered %d %s", l.media, got.status, got.body)
			}
			if got := a.look(t, "GET", l.path+"?x=1"); got.status != 400 || code(got.body) != "request.query" {
				t.Errorf("%s: another parameter is answered %d %s", l.media, got.status, got.body)
			}
			if got := a.look(t, "GET", l.path, "Range", "bytes=0-9"); got.status != 200 || len(got.body) != len(plain.body) {
				t.Errorf("%s: a part of a signed list: %d", l.media, got.status)
			}
		}
	})

	t.Run("a new version has a new tag", func(t *testing.T) {
		before := a.look(t, "GET", path(s.Status))
		a.Change("telecom-a", lock, "public-1", "telecom_lost", "")
		a.Eventually(s.Status, verifier.Suspended)
		after := a.look(t, "GET", path(s.Status), "If-None-Match", before.header.Get("ETag"))
		if after.status != 200 || after.header.Get("ETag") == before.header.Get("ETag") {
			t.Errorf("after a lock: %d %s", after.status, after.header.Get("ETag"))
		}
		a.Change("telecom-a", unlock, "public-1", "telecom_lost", "")
		a.Eventually(s.Status, verifier.Valid)
		a.settled()
	})

	t.Run("nothing else", func(t *testing.T) {
		for _, p := range []string{"/", "/status-lists/", "/status-lists/none", "/status-lists/" + strings.Repeat("a", 65), "/status-lists/..%2fcrl", "/certificates/iaca.key", "/certificates/other.pem", "/crl/other.crl",
			"/v1/whoami", "/metrics", "/status", "/readyz", "/debug/pprof/", "/.well-known/openid-configuration", "//status-lists/x", "/data/ledger.db"} {
			if got := a.look(t, "GET", p); got.status != 404 || code(got.body) != "object.unknown" || got.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s: %d %.80s", p, got.status, got.body)
			}
		}
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
			if got := a.look(t, method, path(s.Status)); got.status != 405 || got.header.Get("Allow") != "GET, HEAD, OPTIONS" {
				t.Errorf("%s: %d %v", method, got.status, got.header)
			}
		}
		preflight := a.look(t, "OPTIONS", path(s.Status), "Origin", "https://bank.example", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "if-none-match")
		if preflight.status != 204 || !strings.Contains(preflight.header.Get("Access-Control-Allow-Methods"), "GET") || !strings.Contains(preflight.header.Get("Access-Control-Allow-Headers"), "If-None-Match") {
			t.Errorf("preflight: %d %v", preflight.status, preflight.header)
		}
	})

	certificate := func(t *testing.T, name string) *x509.Certificate {
		t.Helper()
		got := a.look(t, "GET", "/certificates/"+name+".cer")
		c, err := x509.ParseCertificate(got.body)
		if err != nil {
			t.Fatalf("%s: %d %v", name, got.status, err)
		}
		text := a.look(t, "GET", "/certificates/"+name+".pem", "Accept", "text/html")
		if block, rest := pem.Decode(text.body); block == nil || len(rest) != 0 || !bytes.Equal(block.Bytes, c.Raw) {
			t.Errorf("%s.pem is not %[1]s.cer", name)
		}
		if got.header.Get("ETag") == "" || got.header.Get("Cache-Control") == "" || !strings.HasPrefix(got.header.Get("Content-Type"), "application/") {
			t.Errorf("%s: %v", name, got.header)
		}
		return c
	}

	t.Run("certificates and CRL, by OpenSSL", func(t *testing.T) {
		dir := t.TempDir()
		write := func(name string, b []byte) string {
			p := filepath.Join(dir, name)
			if err := os.WriteFile(p, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return p
		}
		iaca := certificate(t, "iaca")
		root := write("iaca.pem", pemOf("CERTIFICATE", iaca.Raw))
		der := a.look(t, "GET", "/crl/iaca.crl")
		if got := der.header.Get("Content-Type"); got != "application/pkix-crl" {
			t.Errorf("CRL: Content-Type %q", got)
		}
		list, err := x509.ParseRevocationList(der.body)
		if err != nil {
			t.Fatal(err)
		}
		if err := list.CheckSignatureFrom(iaca); err != nil || len(list.RevokedCertificateEntries) != 0 {
			t.Errorf("CRL: %v, %d entries", err, len(list.RevokedCertificateEntries))
		}
		crl := write("crl.pem", pemOf("X509 CRL", der.body))
		for _, name := range []string{"ds", "sdjwt-issuer", "status-signer"} {
			c := certificate(t, name)
			if len(c.CRLDistributionPoints) != 1 || !strings.HasSuffix(c.CRLDistributionPoints[0], "/crl/iaca.crl") {
				t.Errorf("%s: distribution points %v", name, c.CRLDistributionPoints)
			}
			if output, err := exec.Command("openssl", "verify", "-x509_strict", "-crl_check", "-CRLfile", crl, "-CAfile", root, write(name+".pem", pemOf("CERTIFICATE", c.Raw))).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", name, err, output)
			}
		}
		certificate(t, "client-ca")
	})

	t.Run("issuer metadata names the key that signs SD-JWT VCs", func(t *testing.T) {
		got := a.look(t, "GET", "/.well-known/jwt-vc-issuer")
		var meta struct {
			Issuer string `json:"issuer"`
			JWKS   struct {
				Keys []struct {
					Kty, Crv, X, Y, Alg, Kid, D string
				} `json:"keys"`
			} `json:"jwks"`
		}
		if err := json.Unmarshal(got.body, &meta); err != nil || got.header.Get("Content-Type") != "application/json" || meta.Issuer != publicURL {
			t.Fatalf("%v %v %s", err, got.header, got.body)
		}
		card, err := verifier.VerifySDJWT([]byte(s.Credential), a.Roots, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		point, err := card.Signer.PublicKey.(*ecdsa.PublicKey).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if len(meta.JWKS.Keys) != 1 {
			t.Fatalf("%d keys", len(meta.JWKS.Keys))
		}
		k := meta.JWKS.Keys[0]
		x, _ := base64.RawURLEncoding.DecodeString(k.X)
		y, _ := base64.RawURLEncoding.DecodeString(k.Y)
		if k.Kty != "EC" || k.Crv != "P-256" || k.D != "" || !bytes.Equal(append(append([]byte{4}, x...), y...), point) {
			t.Errorf("key %+v", k)
		}
	})

	t.Run("reads never reach HSM or ledger", func(t *testing.T) {
		a.untouched(t, func() {
			for i := range 200 {
				if got := a.look(t, "GET", []string{path(s.Status), path(m.Status), "/crl/iaca.crl", "/certificates/ds.cer", "/.well-known/jwt-vc-issuer"}[i%5]); got.status != 200 {
					t.Fatal(got.status)
				}
			}
		})
	})
}
