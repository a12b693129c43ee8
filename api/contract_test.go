package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"sealkeeper/ca"
	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

func document(t *testing.T) *openapi3.T {
	t.Helper()
	d, err := openapi3.NewLoader().LoadFromData(contract.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	d.Servers = nil // the tests speak to handlers, not to hosts
	for _, p := range d.Paths.Map() {
		p.Servers = nil
	}
	return d
}

// codesOf reads x-codes, which stand in the response that documents a status.
func codesOf(t *testing.T, r *openapi3.Response) []string {
	t.Helper()
	var out []string
	list, _ := r.Extensions["x-codes"].([]any)
	for _, c := range list {
		out = append(out, c.(string))
	}
	return out
}

func documented(codes []string, code string) bool {
	room, _, _ := strings.Cut(code, ".")
	return slices.Contains(codes, code) || slices.Contains(codes, room+".*")
}

// The document and the role table say the same.
func TestRolesAreDocumented(t *testing.T) {
	d := document(t)
	for _, r := range Routes() {
		item := d.Paths.Value(r.Path)
		if item == nil || item.GetOperation(r.Method) == nil {
			t.Errorf("%s %s is not documented", r.Method, r.Path)
			continue
		}
		if got := fmt.Sprint(item.GetOperation(r.Method).Extensions["x-roles"]); got != fmt.Sprint(r.Roles) {
			t.Errorf("%s %s: documented for %s, open to %v", r.Method, r.Path, got, r.Roles)
		}
	}
	for path, item := range d.Paths.Map() {
		for method := range item.Operations() {
			open := slices.ContainsFunc(Routes(), func(r Route) bool { return r.Method == method && r.Path == path })
			if strings.HasPrefix(path, "/v1/") && !open {
				t.Errorf("%s %s is documented, but there is no such route", method, path)
			}
		}
	}
}

// Every code is documented with the status that it gets, and every documented code has that status.
func TestCodesAreDocumented(t *testing.T) {
	byStatus := map[int][]string{}
	for name, r := range document(t).Components.Responses {
		codes := codesOf(t, r.Value)
		for path, item := range document(t).Paths.Map() {
			for _, op := range item.Operations() {
				for status, used := range op.Responses.Map() {
					if used.Ref == "#/components/responses/"+name && len(codes) > 0 {
						var n int
						if _, err := fmt.Sscan(status, &n); err != nil {
							t.Fatal(path, status)
						}
						byStatus[n] = append(byStatus[n], codes...)
					}
				}
			}
		}
		for _, code := range codes {
			if _, ok := lookup(strings.Replace(code, ".*", ".x", 1)); !ok {
				t.Errorf("response %s names %s, which has no status", name, code)
			}
		}
	}
	for status, codes := range byStatus {
		for _, code := range codes {
			if o, _ := lookup(strings.Replace(code, ".*", ".x", 1)); o.status != status {
				t.Errorf("%s is documented under %d and gets %d", code, status, o.status)
			}
		}
	}
	// Described once for all paths, in the document's introduction.
	everywhere := []string{"route.unknown", "request.method"}
	for _, e := range Errors(policy.Codes, ledger.Codes) {
		if _, placed := lookup(e.Code); !placed || slices.Contains(everywhere, e.Code) {
			continue
		}
		if code := strings.Replace(e.Code, "<id>", "x", 1); !documented(byStatus[e.Status], code) {
			t.Errorf("%s gets %d, which the document does not say", code, e.Status)
		}
	}
	for _, code := range everywhere {
		if !strings.Contains(string(contract.OpenAPI), code) {
			t.Errorf("%s is not documented", code)
		}
	}
}

// Real requests and answers of every operation satisfy the document, refusals too, and every documented status of every operation is reached.
func TestHandlersKeepTheContract(t *testing.T) {
	ctx := context.Background()
	d := document(t)
	router, err := gorillamux.NewRouter(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, media := range []string{"application/statuslist+jwt", "application/statuslist+cwt", "application/pkix-cert", "application/pkix-crl", "application/x-pem-file", "application/yaml"} {
		openapi3filter.RegisterBodyDecoder(media, func(r io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
			text, err := io.ReadAll(r)
			return string(text), err
		})
		t.Cleanup(func() { openapi3filter.UnregisterBodyDecoder(media) })
	}
	options := &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}
	reached := map[string]bool{}

	// check sends one request and holds the answer against the document. good: the request itself must satisfy it too.
	check := func(name string, h http.Handler, r *http.Request, good bool) {
		t.Helper()
		var body []byte
		if _, slow := r.Body.(slowBody); !slow && r.Body != nil {
			body, _ = io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		w := answer(h, r)
		shown := httptest.NewRequest(r.Method, r.URL.String(), bytes.NewReader(body))
		shown.Header = r.Header.Clone()
		if len(body) == 0 {
			shown.Body = http.NoBody
		}
		var route *routers.Route
		var params map[string]string
		route, params, err := router.FindRoute(shown)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		in := &openapi3filter.RequestValidationInput{Request: shown, PathParams: params, Route: route, Options: options}
		if err := openapi3filter.ValidateRequest(ctx, in); good && err != nil {
			t.Errorf("%s: request: %v", name, err)
		}
		out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: w.Code, Header: w.Header(), Options: options}
		out.SetBodyBytes(w.Body.Bytes())
		if err := openapi3filter.ValidateResponse(ctx, out); err != nil {
			t.Errorf("%s: answer %d: %v", name, w.Code, err)
		}
		reached[fmt.Sprintf("%s %s %d", route.Method, route.Path, w.Code)] = true
		if w.Header().Get("Content-Type") == "application/problem+json" && r.Method != http.MethodHead {
			response := route.Operation.Responses.Status(w.Code)
			if p := problemOf(t, w); response == nil || !documented(codesOf(t, response.Value), p.Code) {
				t.Errorf("%s: %d %s is not documented", name, w.Code, p.Code)
			}
		}
	}

	house := newHouse(t, 4)
	h := house.edge.IssuanceHandler()
	type refusal struct {
		name string
		make func(*http.Request) *http.Request
	}
	broken := []refusal{
		{"unknown member", func(r *http.Request) *http.Request { return with(r, `{"nobody":1}`) }},
		{"invalid", func(r *http.Request) *http.Request { return with(r, `{}`) }},
		{"too large", func(r *http.Request) *http.Request { return with(r, strings.Repeat(" ", maxStatusBody+1)) }},
		{"media type", func(r *http.Request) *http.Request { r.Header.Set("Content-Type", "text/plain"); return r }},
		{"too slow", func(r *http.Request) *http.Request { r.Body, r.ContentLength = slowBody{}, -1; return r }},
		{"query", func(r *http.Request) *http.Request { r.URL.RawQuery = "a=b"; return r }},
		{"unknown client", func(r *http.Request) *http.Request {
			r.TLS = connection("urn:sealkeeper:client:issuance:gone")
			return r
		}},
	}
	house.gone["gone"] = true
	for _, route := range Routes() {
		name := route.Method + " " + route.Path
		check(name, h, request(route.Method, route.Path, route.Roles[0]), true)
		for _, b := range broken {
			if route.Path == "/openapi.yaml" && b.name == "query" {
				continue // that of the public listener, below
			}
			if route.Path == "/openapi.yaml" || route.Method == "GET" && b.name != "query" && b.name != "unknown client" {
				continue
			}
			check(name+", "+b.name, h, b.make(request(route.Method, route.Path, route.Roles[0])), false)
		}
		if route.Method == "GET" {
			continue
		}
		for _, code := range []string{"policy.denied", "evidence.nonce_expired", "claims.unknown", "slot.occupied", "internal", "hsm.down", "nobody.knows"} {
			house.err = &ca.Problem{Code: code, Detail: "as told", Decision: &decided}
			o, _ := lookup(code)
			if o.status == 409 && d.Paths.Value(route.Path).GetOperation(route.Method).Responses.Status(409) == nil {
				continue // reading and nonces have no state to conflict with
			}
			check(name+", "+code, h, request(route.Method, route.Path, route.Roles[0]), true)
			house.err = nil
		}
	}
	house.err = &ca.Problem{Code: "proposal.unknown"}
	for _, path := range []string{"new", "show"} {
		check("proposals 404", h, request("POST", "/v1/officers/proposals/"+path, RoleOfficer), true)
	}
	for _, path := range []string{"approvals", "rejections", "executions"} {
		check(path+" 404", h, request("POST", "/v1/officers/"+path, RoleOfficer), true)
	}
	house.err = &ca.Problem{Code: "campaign.unknown"}
	check("pace 404", h, request("POST", "/v1/campaigns/pace", RoleOperator), true)
	house.err = &ca.Problem{Code: "enrolment.unknown"}
	check("token 404", h, request("POST", "/v1/clients/tokens", RoleOfficer), true)
	for _, path := range []string{"certificates", "renewals", "rekeys", "revocations"} {
		check(path+" 404", h, request("POST", "/v1/ra/"+path, RoleRA), true)
	}
	house.err = &ca.Problem{Code: "decision.unknown"}
	check("decisions 404", h, request("POST", "/v1/decisions", RoleAuditor), true)
	house.err = nil
	h429 := newHouse(t, 4)
	for range 2 {
		if _, err := h429.edge.issues.enter("issuance-1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/v1/credentials", "/v1/credentials/refresh", "/v1/credentials/dry-run", "/v1/credentials/refresh/dry-run"} {
		check("busy "+path, h429.edge.IssuanceHandler(), request("POST", path, RoleIssuance), true)
	}
	h500 := newHouse(t, 0)
	h500.panic = "x"
	check("whoami 500", whoamiPanics(h500), request("GET", "/v1/whoami", RoleAuditor), true)

	for _, code := range []string{"internal", "ledger.stopped"} {
		house.err = &ca.Problem{Code: code}
		check("active policy "+code, h, request("GET", "/v1/policies/active", RoleAuditor), true)
		check("dead events "+code, h, request("GET", "/v1/events/dead", RoleAuditor), true)
		check("floods "+code, h, request("GET", "/v1/floods", RoleAuditor), true)
		check("campaigns "+code, h, request("GET", "/v1/campaigns", RoleAuditor), true)
		check("clients "+code, h, request("GET", "/v1/clients", RoleAuditor), true)
		check("officers "+code, h, request("GET", "/v1/officers", RoleAuditor), true)
		check("enrolling "+code, h, request("GET", "/v1/ra", RoleRA), true)
		check("proposals "+code, h, request("GET", "/v1/officers/proposals", RoleAuditor), true)
		house.err = nil
	}

	public := house.edge.PublicHandler()
	for _, path := range []string{"/status-lists/jwt", "/status-lists/cwt", "/certificates/iaca.cer", "/certificates/iaca.pem", "/crl/iaca.crl", "/.well-known/jwt-vc-issuer", "/trust.json", "/openapi.yaml"} {
		for _, c := range [][]string{
			{},
			{"If-None-Match", "*"},
			{"If-Match", `"other"`},
			{"Accept-Encoding", "identity;q=0"},
		} {
			for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
				if path == "/openapi.yaml" && len(c) > 0 {
					continue
				}
				r := get(path, c...)
				r.Method = method
				check(fmt.Sprint(method, " ", path, c), public, r, true)
			}
		}
		for _, method := range []string{"GET", "HEAD"} {
			for _, suffix := range []string{"?a=b", "?time=1"} {
				r := get(path + suffix)
				r.Method = method
				check(method+" "+path+suffix, public, r, false)
			}
		}
	}
	none := newHouse(t, 0)
	empty := (&Edge{o: none.edge.o}).withNothingPublished().PublicHandler()
	for _, path := range []string{"/status-lists/none", "/certificates/none.pem", "/crl/iaca.crl", "/.well-known/jwt-vc-issuer", "/trust.json"} {
		for _, method := range []string{"GET", "HEAD"} {
			r := get(path)
			r.Method = method
			check(method+" "+path+" none", empty, r, true)
		}
	}

	operations := house.edge.OperationsHandler()
	for _, path := range []string{"/livez", "/readyz", "/status"} {
		check(path, operations, get(path), true)
	}
	house.ready = false
	check("/readyz not ready", operations, get("/readyz"), true)
	reached["GET /metrics 200"], reached["GET /metrics 503"] = true, true // the exposition format is the library's

	for path, item := range d.Paths.Map() {
		for method, op := range item.Operations() {
			for status := range op.Responses.Map() {
				if key := method + " " + path + " " + status; !reached[key] && !(method == "HEAD" && status != "200") {
					t.Errorf("%s is documented and never answered", key)
				}
			}
		}
	}
}

type slowBody struct{}

func (slowBody) Read([]byte) (int, error) {
	return 0, fmt.Errorf("read tcp: %w", os.ErrDeadlineExceeded)
}
func (slowBody) Close() error { return nil }

type bare struct{ *fake }

func (bare) Public(string) (ca.Object, bool) { return ca.Object{}, false }

func (e *Edge) withNothingPublished() *Edge {
	e.o.Authority = bare{e.o.Authority.(*fake)}
	return e
}

type shaky struct{ *fake }

func (shaky) WhoAmI(ca.Caller) (contract.WhoAmI, bool) { panic("x") }

func whoamiPanics(h *house) http.Handler {
	e := &Edge{o: h.edge.o}
	e.o.Authority = shaky{h.fake}
	return e.IssuanceHandler()
}
