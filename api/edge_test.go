package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sealkeeper/ca"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/policy"
)

func problemOf(t *testing.T, w *httptest.ResponseRecorder) contract.Problem {
	t.Helper()
	var p contract.Problem
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("status %d with content type %q: %s", w.Code, ct, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if p.Status != w.Code || p.Type != "urn:sealkeeper:problem:"+p.Code || p.Title == "" || p.Instance != "urn:sealkeeper:request:"+w.Header().Get("X-Request-Id") {
		t.Fatalf("incomplete problem %+v", p)
	}
	return p
}

// The matrix as it is meant, written a second time: i issuance, c carrier, d desk, o operator, a auditor, s security officer, r registration authority.
const matrix = `
POST /v1/nonces                      i.....
POST /v1/codes                       i.....
POST /v1/sessions                    i.....
POST /v1/policies                    ...o..
POST /v1/phones/status               ...o..
POST /v1/decisions                   ...oa.
GET  /v1/policies/active             ...oa.
POST /v1/credentials                 i.....
POST /v1/credentials/dry-run         i.....
POST /v1/credentials/refresh         i.....
POST /v1/credentials/refresh/dry-run i.....
POST /v1/locks                       icdo..
POST /v1/unlocks                     icdo..
POST /v1/revocations                 i.do..
POST /v1/events                      .cd...
POST /v1/renewals                    ..do..
POST /v1/schedules                   ..do..
POST /v1/schedules/cancel            ..do..
POST /v1/acknowledgements            i.....
GET  /v1/events/dead                 ...oa.
POST /v1/events/replay               ...o..
POST /v1/floods/decisions            ...o..
GET  /v1/floods                      ...oa.
POST /v1/holders/state               i.doa.
GET  /v1/officers                    ...oas
GET  /v1/clients                     ...oas
GET  /v1/campaigns                   ...oas
POST /v1/campaigns/count             ...oas
POST /v1/campaigns/pace              ...o.s
POST /v1/officers/holders            .....s
GET  /v1/officers/proposals          ...oas
POST /v1/officers/proposals/new      .....s
POST /v1/officers/proposals/show     ...oas
POST /v1/officers/approvals          .....s
POST /v1/officers/rejections         .....s
POST /v1/officers/executions         .....s
POST /v1/clients/tokens              ...o.s
GET  /v1/ra                          ......r
POST /v1/ra/certificates             ......r
POST /v1/ra/renewals                 ......r
POST /v1/ra/rekeys                   ......r
POST /v1/ra/revocations              ......r
POST /v1/ra/server                   ......r
GET  /v1/whoami                      icdoasr
GET  /openapi.yaml                   icdoasr
`

func TestEveryRoleOnEveryRoute(t *testing.T) {
	h := newHouse(t, 0)
	handler := h.edge.IssuanceHandler()
	want := map[string]string{}
	for line := range strings.Lines(strings.TrimSpace(matrix)) {
		f := strings.Fields(line)
		want[f[0]+" "+f[1]] = f[2]
	}
	if len(want) != len(Routes()) {
		t.Errorf("the table has %d routes, %d are expected", len(Routes()), len(want))
	}
	for _, route := range Routes() {
		for i, role := range Roles() {
			w := answer(handler, request(route.Method, route.Path, role))
			letter := want[route.Method+" "+route.Path]
			if letter == "" {
				t.Fatalf("%s %s is not expected", route.Method, route.Path)
			}
			if i < len(letter) && letter[i] != '.' {
				if w.Code != http.StatusOK {
					t.Errorf("%s on %s %s: %d %s", role, route.Method, route.Path, w.Code, w.Body)
				}
				continue
			}
			if p := problemOf(t, w); w.Code != http.StatusForbidden || p.Code != "route.forbidden" {
				t.Errorf("%s on %s %s: %d %s", role, route.Method, route.Path, w.Code, p.Code)
			}
		}
		// No other method exists on the path, for nobody.
		for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get"} {
			if m == route.Method {
				continue
			}
			r := request("POST", "/v1/locks", RoleOperator)
			r.Method, r.URL.Path = m, route.Path
			if w := answer(handler, r); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != route.Method {
				t.Errorf("%s %s: %d, Allow %q", m, route.Path, w.Code, w.Header().Get("Allow"))
			}
		}
	}
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/credentials/", "//v1/credentials", "/v1/../v1/credentials", "/V1/credentials", "/v1/sign", "/metrics", "/status", "/v1/credentials%2f", "/status-lists/jwt", ""} {
		for _, role := range Roles() {
			r := request("POST", "/v1/credentials", role)
			r.URL.Path = path
			if p := problemOf(t, answer(handler, r)); p.Code != "route.unknown" {
				t.Errorf("%s on %q: %s", role, path, p.Code)
			}
		}
	}
}

func TestIdentityIsReadFromTheConnectionOnEveryRequest(t *testing.T) {
	h := newHouse(t, 0)
	handler := h.edge.IssuanceHandler()
	for _, c := range []struct {
		name string
		make func(r *http.Request)
		code string
	}{
		{"good", func(*http.Request) {}, ""},
		{"no TLS", func(r *http.Request) { r.TLS = nil }, "client.unidentified"},
		{"presented, not verified", func(r *http.Request) { r.TLS.VerifiedChains = nil }, "client.unidentified"},
		{"no name", func(r *http.Request) { r.TLS = connection() }, "client.unidentified"},
		{"two names", func(r *http.Request) {
			r.TLS = connection("urn:sealkeeper:client:issuance:a", "urn:sealkeeper:client:operator:a")
		}, "client.unidentified"},
		{"role that there is not", func(r *http.Request) { r.TLS = connection("urn:sealkeeper:client:admin:a") }, "client.unidentified"},
		{"no role", func(r *http.Request) { r.TLS = connection("urn:sealkeeper:client:a") }, "client.unidentified"},
		{"no id", func(r *http.Request) { r.TLS = connection("urn:sealkeeper:client:issuance:") }, "client.unidentified"},
		{"id with a colon", func(r *http.Request) { r.TLS = connection("urn:sealkeeper:client:issuance:a:b") }, "client.unidentified"},
		{"id with an escape", func(r *http.Request) { r.TLS = connection("urn:sealkeeper:client:issuance:a%20b") }, "client.unidentified"},
		{"long id", func(r *http.Request) { r.TLS = connection("urn:sealkeeper:client:issuance:" + strings.Repeat("a", 65)) }, "client.unidentified"},
		{"query", func(r *http.Request) { r.TLS = connection("urn:sealkeeper:client:issuance:a?x=1") }, "client.unidentified"},
		{"fragment", func(r *http.Request) { r.TLS = connection("urn:sealkeeper:client:issuance:a#x") }, "client.unidentified"},
		{"other scheme", func(r *http.Request) { r.TLS = connection("https://sealkeeper/client:issuance:a") }, "client.unidentified"},
		{"expired leaf", func(r *http.Request) { r.TLS.VerifiedChains[0][0].NotAfter = noon.Add(-time.Second) }, "client.certificate_expired"},
		{"leaf of tomorrow", func(r *http.Request) { r.TLS.VerifiedChains[0][0].NotBefore = noon.Add(time.Second) }, "client.certificate_expired"},
		{"expired authority", func(r *http.Request) { r.TLS.VerifiedChains[0][1].NotAfter = noon.Add(-time.Second) }, "client.certificate_expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := request("GET", "/v1/whoami", RoleIssuance)
			c.make(r)
			w := answer(handler, r)
			if c.code == "" {
				if w.Code != http.StatusOK {
					t.Fatal(w.Code, w.Body)
				}
				return
			}
			if p := problemOf(t, w); p.Code != c.code || w.Code != http.StatusForbidden {
				t.Fatalf("got %d %s", w.Code, p.Code)
			}
		})
	}

	// One connection, four requests: it was good at the handshake, and is judged again each time.
	cs := connection("urn:sealkeeper:client:issuance:issuance-1")
	ask := func() string {
		r := request("GET", "/v1/whoami", RoleIssuance)
		r.TLS = cs
		if w := answer(handler, r); w.Code != http.StatusOK {
			return problemOf(t, w).Code
		}
		return "ok"
	}
	if got := ask(); got != "ok" {
		t.Fatal(got)
	}
	h.revoked = string(cs.VerifiedChains[0][0].SerialNumber.FillBytes(make([]byte, 20)))
	if got := ask(); got != "client.revoked" {
		t.Fatal(got)
	}
	h.revoked = ""
	h.gone["issuance-1"] = true // the policy dropped it
	if got := ask(); got != "client.unknown" {
		t.Fatal(got)
	}
	h.gone["issuance-1"] = false
	h.clock.Advance(2 * time.Hour)
	if got := ask(); got != "client.certificate_expired" {
		t.Fatal(got)
	}
}

// A shorter life anywhere in the chain is the certificate's life.
func TestExpiryIsTheChainsEarliest(t *testing.T) {
	cs := connection("urn:sealkeeper:client:desk:d")
	cs.VerifiedChains[0] = append(cs.VerifiedChains[0], &x509.Certificate{NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Minute)})
	c, err := caller(cs.VerifiedChains[0])
	if err != nil || !c.Expires.Equal(noon.Add(time.Minute)) || c.ID != "d" || c.Role != RoleDesk {
		t.Fatal(c, err)
	}
}

type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.n += len(p)
	return len(p), nil
}

func TestBodiesAreDecodedStrictly(t *testing.T) {
	h := newHouse(t, 0)
	handler := h.edge.IssuanceHandler()
	head := `{"document_type":"kr-resident","subject":"900101-1234567","proof":"e30.e30.c2ln"`
	deep := func(n int) string {
		return head + `,"claims":{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}}`
	}
	for _, c := range []struct {
		name, body, code string
		status           int
	}{
		{"good", bodies["/v1/credentials"], "", 200},
		{"white space around", " \n" + bodies["/v1/credentials"] + "\t\n", "", 200},
		{"14 levels inside claims", deep(14), "", 200},
		{"15 levels inside claims", deep(15), "request.malformed", 400},
		{"100,000 levels", deep(100_000), "request.malformed", 400},
		{"empty", "", "request.malformed", 400},
		{"null", "null", "request.malformed", 400},
		{"array", "[]", "request.malformed", 400},
		{"string", `"x"`, "request.malformed", 400},
		{"cut off", head, "request.malformed", 400},
		{"trailing document", bodies["/v1/credentials"] + "{}", "request.malformed", 400},
		{"trailing comma", head + `,}`, "request.malformed", 400},
		{"comment", head + `,"claims":{}/**/}`, "request.malformed", 400},
		{"byte order mark", "\ufeff" + bodies["/v1/credentials"], "request.malformed", 400},
		{"unknown member", head + `,"claims":{},"replce":true}`, "request.unknown_member", 400},
		{"unknown member within", head + `,"claims":{},"evidence":[{"kind":"a","token":"b","c":1}]}`, "request.unknown_member", 400},
		{"case-variant name", head + `,"claims":{},"Replace":true}`, "request.unknown_member", 400},
		{"duplicate member", head + `,"claims":{},"proof":"x"}`, "request.duplicate_member", 400},
		{"duplicate claim", head + `,"claims":{"a":1,"a":2}}`, "request.duplicate_member", 400},
		{"duplicate by escape", head + `,"claims":{"a":1,"\u0061":2}}`, "request.duplicate_member", 400},
		{"wrong type", head + `,"claims":{},"replace":"yes"}`, "request.malformed", 400},
		{"number for a string", `{"document_type":7}`, "request.malformed", 400},
		{"invalid UTF-8", head + `,"claims":{"a":"` + "\xff" + `"}}`, "request.malformed", 400},
		{"lone surrogate", head + `,"claims":{"a":"\ud800"}}`, "request.malformed", 400},
		{"number out of range", head + `,"claims":{"a":1e999}}`, "request.malformed", 400},
		{"no claims", head + `}`, "request.invalid", 400},
		{"no proof", `{"document_type":"kr-resident","subject":"1","claims":{}}`, "request.invalid", 400},
		{"document type with a slash", `{"document_type":"../x","subject":"1","claims":{},"proof":"x"}`, "request.invalid", 400},
		{"format twice", head + `,"claims":{},"formats":["mso_mdoc","mso_mdoc"]}`, "request.invalid", 400},
		{"unknown format", head + `,"claims":{},"formats":["pdf"]}`, "request.invalid", 400},
		{"evidence without token", head + `,"claims":{},"evidence":[{"kind":"a","token":""}]}`, "request.invalid", 400},
		{"too many evidence items", head + `,"claims":{},"evidence":[` + strings.Repeat(`{"kind":"a","token":"b"},`, 8) + `{"kind":"a","token":"b"}]}`, "request.invalid", 400},
		{"long proof", `{"document_type":"a","subject":"1","claims":{},"proof":"` + strings.Repeat("x", contract.MaxToken+1) + `"}`, "request.invalid", 400},
		{"256 KiB", head + `,"claims":{"a":"` + strings.Repeat("x", maxIssueBody-len(head)-len(`,"claims":{"a":""}}`)) + `"}}`, "", 200},
		{"256 KiB and one", head + `,"claims":{"a":"` + strings.Repeat("x", maxIssueBody+1-len(head)-len(`,"claims":{"a":""}}`)) + `"}}`, "request.too_large", 413},
		{"10 MB", head + strings.Repeat(" ", 10_000_000) + `}`, "request.too_large", 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(h.calls)
			w := answer(handler, with(request("POST", "/v1/credentials", RoleIssuance), c.body))
			if w.Code != c.status {
				t.Fatal(w.Code, w.Body)
			}
			if c.code == "" {
				return
			}
			if p := problemOf(t, w); p.Code != c.code {
				t.Fatalf("got %s, want %s", p.Code, c.code)
			}
			if len(h.calls) != before {
				t.Fatal("the authority was reached")
			}
		})
	}

	t.Run("chunked and endless", func(t *testing.T) {
		body := &endless{}
		r := request("POST", "/v1/locks", RoleCarrier)
		r.Body, r.ContentLength = io.NopCloser(body), -1
		w := answer(handler, r)
		if p := problemOf(t, w); p.Code != "request.too_large" {
			t.Fatal(p.Code)
		}
		if body.n > 2*maxBody {
			t.Fatalf("%d bytes were read of a body that may have %d", body.n, maxBody)
		}
	})
	t.Run("announced too large is not read at all", func(t *testing.T) {
		body := &endless{}
		r := request("POST", "/v1/locks", RoleCarrier)
		r.Body, r.ContentLength = io.NopCloser(body), maxBody+1
		if p := problemOf(t, answer(handler, r)); p.Code != "request.too_large" || body.n != 0 {
			t.Fatal(p.Code, body.n)
		}
	})
	t.Run("null byte in the subject reaches nobody's log", func(t *testing.T) {
		answer(handler, with(request("POST", "/v1/locks", RoleCarrier), `{"document_type":"a","subject":"1\u0000\n","reason":"Bad Reason"}`))
		if strings.Contains(h.log.String(), "Bad Reason") {
			t.Fatal("a body was logged")
		}
	})
}

func TestMediaTypeIsExact(t *testing.T) {
	h := newHouse(t, 0)
	handler := h.edge.IssuanceHandler()
	for _, c := range []struct {
		types, codings []string
		ok             bool
	}{
		{[]string{"application/json"}, nil, true},
		{[]string{"Application/JSON"}, nil, true},
		{nil, nil, false},
		{[]string{""}, nil, false},
		{[]string{"text/json"}, nil, false},
		{[]string{"application/json; charset=utf-8"}, nil, false},
		{[]string{"application/json", "application/json"}, nil, false},
		{[]string{"application/x-www-form-urlencoded"}, nil, false},
		{[]string{"application/json"}, []string{"gzip"}, false},
	} {
		r := request("POST", "/v1/locks", RoleCarrier)
		r.Header["Content-Type"], r.Header["Content-Encoding"] = c.types, c.codings
		w := answer(handler, r)
		if c.ok != (w.Code == 200) {
			t.Errorf("%v %v: %d", c.types, c.codings, w.Code)
		}
		if !c.ok && problemOf(t, w).Code != "request.media_type" {
			t.Errorf("%v %v: %s", c.types, c.codings, w.Body)
		}
	}
}

func TestQueriesAreRefused(t *testing.T) {
	handler := newHouse(t, 0).edge.IssuanceHandler()
	for _, target := range []string{"/v1/whoami?", "/v1/whoami?a=b", "/v1/whoami?;"} {
		r := request("GET", "/v1/whoami", RoleAuditor)
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		r.URL = u
		if p := problemOf(t, answer(handler, r)); p.Code != "request.query" {
			t.Errorf("%s: %s", target, p.Code)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	h := newHouse(t, 0)
	handler := h.edge.IssuanceHandler()
	for _, c := range []struct {
		keys []string
		ok   bool
	}{
		{nil, false},
		{[]string{""}, false},
		{[]string{strings.Repeat("a", 21)}, false},
		{[]string{strings.Repeat("a", 22)}, true},
		{[]string{strings.Repeat("_", 128)}, true},
		{[]string{strings.Repeat("a", 129)}, false},
		{[]string{strings.Repeat("a", 21) + "="}, false},
		{[]string{strings.Repeat("a", 21) + "\n"}, false},
		{[]string{strings.Repeat("a", 22) + "\n"}, false},
		{[]string{goodKey, goodKey}, false},
	} {
		for _, path := range []string{"/v1/credentials", "/v1/credentials/refresh"} {
			r := request("POST", path, RoleIssuance)
			r.Header["Idempotency-Key"] = c.keys
			w := answer(handler, r)
			if c.ok && (w.Code != 200 || h.last.Key != c.keys[0]) {
				t.Errorf("%q: %d, authority got %q", c.keys, w.Code, h.last.Key)
			}
			if !c.ok && problemOf(t, w).Code != "idempotency.key_malformed" {
				t.Errorf("%q: %s", c.keys, w.Body)
			}
		}
	}
	if strings.Contains(h.log.String(), goodKey) || strings.Contains(h.log.String(), strings.Repeat("_", 128)) {
		t.Error("a key was logged")
	}
}

// The hash says "the same request": white space and order do not matter; client, route and every value do.
func TestRequestHash(t *testing.T) {
	h := newHouse(t, 0)
	handler := h.edge.IssuanceHandler()
	hash := func(path, client, body string) [32]byte {
		t.Helper()
		r := with(request("POST", path, RoleIssuance), body)
		r.TLS = connection("urn:sealkeeper:client:issuance:" + client)
		if w := answer(handler, r); w.Code != 200 {
			t.Fatal(w.Code, w.Body)
		}
		return h.last.Hash
	}
	base := `{"document_type":"d","subject":"s","claims":{"a":1,"b":[true]},"proof":"p"}`
	want := hash("/v1/credentials", "a", base)
	for _, same := range []string{
		` { "document_type":"d","subject":"s","claims":{"a":1,"b":[true]},"proof":"p"}` + "\n",
		`{"proof":"p","claims":{"b":[true],"a":1},"subject":"s","document_type":"d"}`,
		`{"proof":"\u0070","claims":{"b":[true],"a":1.0},"subject":"s","document_type":"d","replace":false}`,
	} {
		if hash("/v1/credentials", "a", same) != want {
			t.Errorf("another hash for %s", same)
		}
	}
	seen := map[[32]byte]string{want: base}
	for _, c := range [][3]string{
		{"/v1/credentials/refresh", "a", base},
		{"/v1/credentials", "b", base},
		{"/v1/credentials", "a", strings.Replace(base, `"s"`, `"t"`, 1)},
		{"/v1/credentials", "a", strings.Replace(base, `1`, `2`, 1)},
		{"/v1/credentials", "a", strings.Replace(base, `true`, `false`, 1)},
		{"/v1/credentials", "a", strings.Replace(base, `"p"`, `"p","replace":true`, 1)},
		{"/v1/credentials", "a", strings.Replace(base, `"p"`, `"p","key_attestation":"x"`, 1)},
	} {
		got := hash(c[0], c[1], c[2])
		if other, ok := seen[got]; ok {
			t.Errorf("%v has the hash of %s", c, other)
		}
		seen[got] = fmt.Sprint(c)
	}
}

func TestReleasedBytesLeaveAsTheyAre(t *testing.T) {
	w := answer(newHouse(t, 0).edge.IssuanceHandler(), request("POST", "/v1/credentials", RoleIssuance))
	if w.Body.String() != issued || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatal(w.Header(), w.Body)
	}
}

type coded struct{ code, text string }

func (c coded) Code() string  { return c.code }
func (c coded) Error() string { return c.code + ": " + c.text }

func TestErrorsBecomeProblems(t *testing.T) {
	secret := "open /var/lib/sealkeeper/ledger: input/output error"
	for _, c := range []struct {
		err    error
		code   string
		status int
		detail string
		retry  string
	}{
		{&ca.Problem{Code: "slot.occupied", Detail: "another phone has this card"}, "slot.occupied", 409, "another phone has this card", ""},
		{fmt.Errorf("deciding: %w", &ca.Problem{Code: "nonce.replayed", Detail: "x"}), "nonce.replayed", 409, "x", ""},
		{coded{"evidence.nonce_expired", "the nonce is too old"}, "evidence.nonce_expired", 422, "the nonce is too old", ""},
		{&ca.Problem{Code: "rule.no-sundays", Detail: "x"}, "rule.no-sundays", 403, "x", ""},
		{&ca.Problem{Code: "overloaded", RetryIn: 1500 * time.Millisecond}, "overloaded", 503, "", "2"},
		{&ca.Problem{Code: "hsm.down"}, "hsm.down", 503, "", "1"},
		{&ca.Problem{Code: "nobody.knows", Detail: secret}, "internal", 500, "", ""},
		{&ca.Problem{Code: "evidence.", Detail: secret}, "internal", 500, "", ""},
		{&ca.Problem{Code: "", Detail: secret}, "internal", 500, "", ""},
		{&ca.Problem{Code: "policy.error", Detail: secret, Decision: &contract.Decision{Detail: secret}}, "policy.error", 500, "", ""},
		{&ca.Problem{Code: "ledger.fenced", Detail: secret}, "ledger.fenced", 503, "", "1"},
		{errors.New(secret), "internal", 500, "", ""},
		{fmt.Errorf("signing: %w", context.DeadlineExceeded), "request.cancelled", 503, "the request ended before its answer was ready", "1"},
		{&ca.Problem{Code: "slot.occupied", Detail: "bad \xff text"}, "slot.occupied", 409, "", ""},
	} {
		h := newHouse(t, 0)
		h.err = c.err
		w := answer(h.edge.IssuanceHandler(), request("POST", "/v1/credentials", RoleIssuance))
		p := problemOf(t, w)
		if p.Code != c.code || p.Status != c.status || c.detail != "" && p.Detail != c.detail || w.Header().Get("Retry-After") != c.retry {
			t.Errorf("%v: %+v, Retry-After %q", c.err, p, w.Header().Get("Retry-After"))
		}
		if strings.Contains(w.Body.String(), "/var/lib") {
			t.Errorf("%v: the inside is shown outside: %s", c.err, w.Body)
		}
		if c.status == 500 && !strings.Contains(h.log.String(), `"level":"ERROR"`) {
			t.Errorf("%v: a failure was not logged", c.err)
		}
	}
}

func TestPanicIsAnAlarmAndAProblem(t *testing.T) {
	h := newHouse(t, 0)
	h.panic = "subject 900101-1234567"
	handler := h.edge.IssuanceHandler()
	if p := problemOf(t, answer(handler, request("POST", "/v1/locks", RoleCarrier))); p.Code != "internal" || p.Status != 500 {
		t.Fatal(p)
	}
	if log := h.log.String(); !strings.Contains(log, "ALARM") || strings.Contains(log, "900101") {
		t.Fatal(log)
	}
	h.panic = nil
	if w := answer(handler, request("POST", "/v1/locks", RoleCarrier)); w.Code != 200 {
		t.Fatal("the listener did not survive", w.Code)
	}
}

// Codes of rooms that clients can meet have a status of their own; the appliance's own decisions (lists, certificates, self tests) reach no client.
func TestEveryCodeOfEveryRoomHasItsPlace(t *testing.T) {
	for code := range policy.Codes {
		room, _, _ := strings.Cut(code, ".")
		_, ok := lookup(code)
		if own := map[string]bool{"list": true, "cert": true, "crl": true, "selftest": true}[room]; own == ok {
			t.Errorf("%s: placed %v", code, ok)
		}
	}
	for _, c := range evidence.Codes {
		if _, ok := lookup(c.Code); !ok {
			t.Errorf("%s has no status", c.Code)
		}
	}
	docs := Errors(policy.Codes)
	explained := map[string]ErrorDoc{}
	for i, d := range docs {
		if i > 0 && docs[i-1].Code >= d.Code || d.Status < 400 || d.Title == "" || d.Explanation == "" {
			t.Errorf("%+v is out of order or incomplete", d)
		}
		explained[d.Code] = d
	}
	for code := range ca.Codes {
		if _, ok := lookup(code); !ok {
			t.Errorf("%s has no status", code)
		}
	}
	for code := range edgeCodes {
		if _, ok := lookup(code); !ok {
			t.Errorf("%s has no status", code)
		}
	}
	// Codes that only the ledger gives are explained in its room.
	elsewhere := map[string]bool{"event.id_reused": true, "event.letters_full": true, "event.not_dead": true, "issuing.stopped": true, "key.rate": true, "key.used_up": true, "officer.registered": true, "campaign.unknown": true, "certificate.hold": true, "certificate.not_held": true, "certificate.root": true, "certificate.unknown": true, "proposal.unknown": true, "flood.unknown": true, "flood.deciding": true, "line.reported": true, "nonce.replayed": true, "ledger.fenced": true, "ledger.full": true}
	for code := range exact {
		if explained[code].Explanation == "" && !elsewhere[code] {
			t.Errorf("%s has a status and no explanation", code)
		}
	}
}

func TestPlacesForIssuingAreBounded(t *testing.T) {
	h := newHouse(t, 4) // one client may hold 2
	h.gate, h.in = make(chan struct{}), make(chan struct{})
	handler := h.edge.IssuanceHandler()
	by := func(path, client string) *http.Request {
		r := request("POST", path, RoleIssuance)
		r.TLS = connection("urn:sealkeeper:client:issuance:" + client)
		return r
	}
	done := make(chan int, 4)
	hold := func(client string) {
		go func() { done <- answer(handler, by("/v1/credentials", client)).Code }()
		<-h.in
	}
	hold("flood")
	hold("flood")
	w := answer(handler, by("/v1/credentials", "flood"))
	if p := problemOf(t, w); p.Code != "client.busy" || p.Status != 429 || w.Header().Get("Retry-After") == "" {
		t.Fatal(p)
	}
	hold("good")
	hold("good")
	for _, path := range []string{"/v1/credentials", "/v1/credentials/refresh", "/v1/credentials/dry-run", "/v1/credentials/refresh/dry-run"} {
		w := answer(handler, by(path, "third"))
		if p := problemOf(t, w); p.Code != "overloaded" || p.Status != 503 || w.Header().Get("Retry-After") == "" {
			t.Fatal(path, p)
		}
	}
	for _, path := range []string{"/v1/locks", "/v1/unlocks", "/v1/revocations", "/v1/events", "/v1/holders/state"} { // never shed
		if w := answer(handler, request("POST", path, RoleDesk)); w.Code != 200 {
			t.Fatal(path, w.Code, w.Body)
		}
	}

	h.edge.BeginDrain()
	w = answer(handler, by("/v1/credentials", "third"))
	if p := problemOf(t, w); p.Code != "draining" || w.Header().Get("Connection") != "close" || w.Header().Get("Retry-After") == "" {
		t.Fatal(p, w.Header())
	}
	if w := answer(handler, request("POST", "/v1/locks", RoleCarrier)); w.Code != 200 {
		t.Fatal("a lock was refused while draining", w.Code)
	}
	if w := answer(h.edge.OperationsHandler(), httptest.NewRequest("GET", "/readyz", nil)); w.Code != 503 {
		t.Fatal("ready while draining", w.Code)
	}
	close(h.gate)
	for range 4 { // those in flight finish
		if code := <-done; code != 200 {
			t.Fatal(code)
		}
	}
	if h.edge.issues.held != 0 || len(h.edge.issues.clients) != 0 {
		t.Fatal("places were lost")
	}
}

func TestAccessLogSaysWhoAndWhatButNotAboutWhom(t *testing.T) {
	h := newHouse(t, 0)
	handler := h.edge.IssuanceHandler()
	for path := range bodies {
		for _, role := range Roles() {
			answer(handler, request("POST", path, role))
		}
	}
	h.err = &ca.Problem{Code: "slot.occupied", Detail: "another phone has this card"}
	answer(handler, request("POST", "/v1/credentials", RoleIssuance))
	log := h.log.String()
	said := regexp.MustCompile(`"time":"[^"]*"`).ReplaceAllString(log, "") // whose digits are any, now and then these
	for _, secret := range []string{"900101", "Hong", "e30.e30", goodKey} {
		if strings.Contains(said, secret) {
			t.Errorf("the log has %q", secret)
		}
	}
	var line struct {
		Request, Client, Route, Code, Listener, Role string
		Status                                       int
		Ms                                           *int64
	}
	lines := strings.Split(strings.TrimSpace(log), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &line); err != nil {
		t.Fatal(err)
	}
	if len(line.Request) != 22 || line.Client != "issuance-1" || line.Role != RoleIssuance || line.Route != "/v1/credentials" || line.Status != 409 || line.Code != "slot.occupied" || line.Ms == nil {
		t.Fatalf("%+v", line)
	}
}

// Strangers and scanners can't grow the metrics: unknown paths, methods and clients share one series.
func TestMetricsHaveBoundedLabels(t *testing.T) {
	h := newHouse(t, 0)
	for i := range 50 {
		r := request("POST", "/v1/locks", RoleCarrier)
		r.URL.Path = fmt.Sprintf("/v1/%d", i)
		answer(h.edge.IssuanceHandler(), r)
		answer(h.edge.PublicHandler(), httptest.NewRequest("GET", fmt.Sprintf("/status-lists/x%d", i), nil))
	}
	families, err := h.edge.o.Metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "sealkeeper_http_requests_total" && len(f.GetMetric()) != 2 {
			t.Fatalf("%d series", len(f.GetMetric()))
		}
	}
}

// T13, F24: a client that sends half a body and waits is answered and closed by the server's clock, not kept.
func TestSlowClientIsClosed(t *testing.T) {
	h := newHouse(t, 0)
	handler := h.edge.IssuanceHandler()
	s := h.edge.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = connection("urn:sealkeeper:client:carrier:c")
		handler.ServeHTTP(w, r)
	}))
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes != 16<<10 {
		t.Fatal("a timeout is missing")
	}
	s.ReadTimeout, s.ReadHeaderTimeout = 100*time.Millisecond, 100*time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	defer s.Close()

	send := func(text string) *bufio.Reader { return bufio.NewReader(sent(t, l.Addr(), text)) }
	half := send("POST /v1/locks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"docum")
	w, err := http.ReadResponse(half, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(w.Body)
	if err != nil || w.StatusCode != http.StatusRequestTimeout || !strings.Contains(string(text), "request.too_slow") {
		t.Fatal(w.StatusCode, string(text), err)
	}
	if _, err := half.ReadByte(); err == nil {
		t.Fatal("the connection stays open")
	}
	if _, err := io.ReadAll(send("POST /v1/locks HT")); err != nil { // ends: the server closed it
		t.Fatal(err)
	}
}

// Rows of before name requests by this hash: it never becomes another one, whatever is made of the code behind it.
func TestHashOfARequestStays(t *testing.T) {
	h := newHouse(t, 4)
	w := answer(h.edge.IssuanceHandler(), with(request("POST", "/v1/credentials", RoleIssuance),
		`{ "proof":"e30.e30.c2ln", "claims":{"given_name":"\uae38\ub3d9","family_name":"Hong <&>","age":1.90e1,"nested":{"b":[true,null],"a":"\t"}},"subject":"900101-1234567","document_type":"kr-resident" }`))
	want := sha256.Sum256([]byte("sealkeeper request v1\x00/v1/credentials\x00issuance-1\x00" + `{"document_type":"kr-resident","subject":"900101-1234567",` +
		`"claims":{"age":19,"family_name":"Hong <&>","given_name":"길동","nested":{"a":"\t","b":[true,null]}},"replace":false,"proof":"e30.e30.c2ln"}`))
	if w.Code != http.StatusOK || h.last.Hash != want {
		t.Errorf("%d: hashed as %x, not as %x", w.Code, h.last.Hash, want)
	}
}

// keeper holds what the authority was handed, longer than the requests last.
type keeper struct {
	*fake
	mu    sync.Mutex
	calls map[string]ca.Call
	kept  []contract.IssueRequest
}

func (k *keeper) Issue(_ context.Context, _ ca.Caller, c ca.Call, r contract.IssueRequest) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls[r.Subject], k.kept = c, append(k.kept, r)
	return []byte(`{}`), nil
}

// Bodies are read to memory that other requests use afterwards, and at the same time others': nothing of a request comes from there.
func TestRequestsOwnWhatTheySay(t *testing.T) {
	h := newHouse(t, 64)
	k := &keeper{fake: h.fake, calls: map[string]ca.Call{}}
	h.edge.o.Authority = k
	handler := h.edge.IssuanceHandler()
	body := func(n int) string {
		return fmt.Sprintf(`{"document_type":"kr-resident","subject":"s%d","claims":{"family_name":"%[2]s","given_name":"\u%04[3]x","list":["%[2]s"]},"formats":["mso_mdoc"],"proof":"%[2]s","proofs":["%[2]s"],`+
			`"evidence":[{"kind":"in_person","token":"%[2]s"}]}`, n, strings.Repeat(string(rune('a'+n%26)), 1+n*37), 0xac00+n)
	}
	const requests = 256
	var all sync.WaitGroup
	for part := range 8 {
		all.Go(func() {
			for n := part; n < requests; n += 8 {
				if w := answer(handler, with(request("POST", "/v1/credentials", RoleIssuance), body(n))); w.Code != http.StatusOK {
					t.Errorf("%d: %s", w.Code, w.Body)
				}
			}
		})
	}
	all.Wait()
	for _, r := range k.kept {
		n, _ := strconv.Atoi(r.Subject[1:])
		want, err := decode[contract.IssueRequest]([]byte(body(n)), maxIssueBody)
		if err != nil || !reflect.DeepEqual(r, want) {
			t.Fatalf("request %d became another one (%v)", n, err)
		}
		var room bytes.Buffer
		if hash, err := fingerprint(&room, "/v1/credentials", "issuance-1", &want); err != nil || hash != k.calls[r.Subject].Hash {
			t.Fatalf("request %d is hashed as another one (%v)", n, err)
		}
	}
	if len(k.kept) != requests {
		t.Errorf("%d requests arrived", len(k.kept))
	}
}

// at serves the house on a socket, to one caller, and sends texts to it.
func (h *house) at(t *testing.T, returned func(path string)) (send func(text string) net.Conn) {
	handler := h.edge.IssuanceHandler()
	s := h.edge.server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = connection("urn:sealkeeper:client:issuance:c")
		path := r.Header.Get("X-Test")
		handler.ServeHTTP(w, r)
		returned(path)
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return func(text string) net.Conn { return sent(t, l.Addr(), text) }
}

// sent is a connection on which a text was sent.
func sent(t *testing.T, to net.Addr, text string) net.Conn {
	t.Helper()
	c, err := net.Dial(to.Network(), to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

func posted(path, name, body string, length int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nX-Test: %s\r\nContent-Type: application/json\r\nIdempotency-Key: %s\r\nContent-Length: %d\r\n\r\n%s", path, name, goodKey, length, body)
}

// Whoever drips the body of an issue gives its place back long before a request without a place would be given up.
func TestAPlaceIsNotHeldByADrip(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 2) // one client may hold 1
	first := make(chan string, 2)
	send := h.at(t, func(name string) { first <- name })
	send(posted("/v1/locks", "lock", "{", 100))
	held := send(posted("/v1/credentials", "issue", "{", 100))
	r, err := http.ReadResponse(bufio.NewReader(held), nil)
	if err != nil || r.StatusCode != http.StatusRequestTimeout {
		t.Fatalf("%v %v", r, err)
	}
	if name := <-first; name != "issue" {
		t.Errorf("the %s ended first", name)
	}
	body := bodies["/v1/credentials"]
	r, err = http.ReadResponse(bufio.NewReader(send(posted("/v1/credentials", "next", body, len(body)))), nil)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("the place is gone: %v %v", r, err)
	}
}

// A refusal that waits ends with its client.
func TestNoRefusalWaitsForAClientThatIsGone(t *testing.T) {
	t.Parallel()
	h := newHouse(t, 2)
	leave, err := h.edge.issues.enter("c")
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	h.edge.issues.paced["c"] = time.Now().Add(time.Hour)
	first := make(chan string, 2)
	send := h.at(t, func(name string) { first <- name })
	body := bodies["/v1/credentials"]
	send(posted("/v1/credentials", "patient", body, len(body)))
	time.Sleep(200 * time.Millisecond) // it began before
	gone := send(posted("/v1/credentials", "gone", body, len(body)))
	time.Sleep(100 * time.Millisecond) // or it is gone before it was heard, which is another case
	gone.Close()
	if name := <-first; name != "gone" {
		t.Errorf("the %s one ended first", name)
	}
}
