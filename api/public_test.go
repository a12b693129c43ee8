package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sealkeeper/ca"
)

func get(path string, header ...string) *http.Request {
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// RFC 9110, 12.5.1, for a list that exists as a JWT.
func TestAcceptNegotiation(t *testing.T) {
	h := newHouse(t, 0).edge.PublicHandler()
	for _, c := range []struct {
		accept []string
		ok     bool
	}{
		{nil, true},
		{[]string{""}, true},
		{[]string{"application/statuslist+jwt"}, true},
		{[]string{"APPLICATION/StatusList+JWT"}, true},
		{[]string{"application/statuslist+cwt"}, false},
		{[]string{"application/statuslist+cwt, application/statuslist+jwt;q=0.1"}, true},
		{[]string{"application/statuslist+cwt", "application/statuslist+jwt"}, true},
		{[]string{"*/*"}, true},
		{[]string{"*/*;q=0"}, false},
		{[]string{"application/*"}, true},
		{[]string{"text/*"}, false},
		{[]string{"text/html, application/xhtml+xml"}, false},
		{[]string{"text/html, */*;q=0.001"}, true},
		{[]string{"text/html, */*;q=0.000"}, false},
		{[]string{"application/statuslist+jwt;q=0, */*"}, false},
		{[]string{"application/statuslist+jwt;q=0, application/*"}, false},
		{[]string{"application/*;q=0, */*"}, false},
		{[]string{"application/*;q=0, application/statuslist+jwt"}, true},
		{[]string{"application/statuslist+jwt ; q=0.5"}, true},
		{[]string{"application/statuslist+jwt;Q=0"}, false},
		{[]string{"application/statuslist+jwt;v=2"}, false},           // a variant that there is not
		{[]string{"application/statuslist+jwt;v=2, */*;q=0.1"}, true}, // but anything will do
		{[]string{"application/statuslist+jwt;q=2, text/html"}, false},
		{[]string{"application/statuslist+jwt;q=2"}, true}, // malformed, so nothing is left, so absent
		{[]string{"garbage"}, true},
		{[]string{",,,"}, true},
	} {
		r := get("/status-lists/jwt")
		r.Header["Accept"] = c.accept
		w := answer(h, r)
		if c.ok {
			if w.Code != 200 || w.Header().Get("Content-Type") != "application/statuslist+jwt" {
				t.Errorf("%q: %d", c.accept, w.Code)
			}
		} else if w.Code != 406 || problemOf(t, w).Code != "accept.none" {
			t.Errorf("%q: %d", c.accept, w.Code)
		}
		if w.Header().Get("Vary") != "Accept, Accept-Encoding" {
			t.Errorf("%q: Vary %q", c.accept, w.Header().Get("Vary"))
		}
	}
}

// RFC 9110, 12.5.3.
func TestContentCoding(t *testing.T) {
	h := newHouse(t, 0).edge.PublicHandler()
	for _, c := range []struct {
		list, accept string
		want         string // gzip, identity, none
	}{
		{"jwt", "-", "identity"},
		{"jwt", "", "identity"},
		{"jwt", "gzip", "gzip"},
		{"jwt", "x-gzip", "gzip"},
		{"jwt", "GZIP", "gzip"},
		{"jwt", "gzip, deflate, br", "gzip"},
		{"jwt", "br", "identity"},
		{"jwt", "*", "gzip"},
		{"jwt", "gzip;q=0", "identity"},
		{"jwt", "gzip;q=0, *", "identity"},
		{"jwt", "gzip;q=0.5, identity;q=0.4", "gzip"},
		{"jwt", "gzip;q=0.4, identity;q=0.5", "identity"},
		{"jwt", "identity;q=0, gzip", "gzip"},
		{"jwt", "identity;q=0, gzip;q=0.001", "gzip"},
		{"jwt", "identity;q=0", "none"},
		{"jwt", "*;q=0", "none"},
		{"jwt", "*;q=0, gzip", "gzip"},
		{"jwt", "*;q=0, identity", "identity"},
		{"jwt", "gzip;q=0, identity;q=0", "none"},
		{"cwt", "gzip", "identity"}, // compressed already
		{"cwt", "gzip, identity;q=0", "none"},
		{"cwt", "*", "identity"},
	} {
		r := get("/status-lists/" + c.list)
		if c.accept != "-" {
			r.Header.Set("Accept-Encoding", c.accept)
		}
		w := answer(h, r)
		switch c.want {
		case "gzip":
			if w.Code != 200 || w.Header().Get("Content-Encoding") != "gzip" || w.Body.String() != "zipped" || w.Header().Get("Content-Length") != "6" || !strings.HasSuffix(w.Header().Get("ETag"), `-gzip"`) {
				t.Errorf("%s %q: %d %v", c.list, c.accept, w.Code, w.Header())
			}
		case "identity":
			if w.Code != 200 || w.Header().Get("Content-Encoding") != "" || w.Body.String() == "zipped" || strings.Contains(w.Header().Get("ETag"), "gzip") {
				t.Errorf("%s %q: %d %v", c.list, c.accept, w.Code, w.Header())
			}
		case "none":
			if w.Code != 406 || problemOf(t, w).Code != "accept.none" || w.Header().Get("Content-Encoding") != "" || w.Header().Get("ETag") != "" {
				t.Errorf("%s %q: %d %v", c.list, c.accept, w.Code, w.Header())
			}
		}
	}
}

func TestConditionalRequests(t *testing.T) {
	h := newHouse(t, 0).edge.PublicHandler()
	plain := answer(h, get("/status-lists/jwt")).Header().Get("ETag")
	zipped := answer(h, get("/status-lists/jwt", "Accept-Encoding", "gzip")).Header().Get("ETag")
	if plain == zipped || strings.HasPrefix(plain, "W/") || strings.HasPrefix(zipped, "W/") {
		t.Fatal("each coding needs a strong tag of its own", plain, zipped)
	}
	for _, c := range []struct {
		header []string
		status int
	}{
		{[]string{"If-None-Match", plain}, 304},
		{[]string{"If-None-Match", "W/" + plain}, 304}, // weak comparison (RFC 9110, 13.1.2)
		{[]string{"If-None-Match", `"other", ` + plain}, 304},
		{[]string{"If-None-Match", "*"}, 304},
		{[]string{"If-None-Match", `"other"`}, 200},
		{[]string{"If-None-Match", zipped}, 200}, // of the other coding
		{[]string{"If-None-Match", plain, "Accept-Encoding", "gzip"}, 200},
		{[]string{"If-None-Match", zipped, "Accept-Encoding", "gzip"}, 304},
		{[]string{"If-None-Match", plain[1 : len(plain)-1]}, 200},
		{[]string{"If-Modified-Since", noon.Format(http.TimeFormat)}, 200}, // in whose second there may have been two versions
		{[]string{"If-Modified-Since", noon.Format(http.TimeFormat), "If-None-Match", `"other"`}, 200},
		{[]string{"If-Match", plain}, 200},
		{[]string{"If-Match", `"other"`}, 412},
		{[]string{"Range", "bytes=0-1"}, 200},
		{[]string{"Range", "bytes=900-901"}, 200},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			r := get("/status-lists/jwt", c.header...)
			r.Method = method
			w := answer(h, r)
			if w.Code != c.status {
				t.Errorf("%s %v: %d", method, c.header, w.Code)
			}
			if c.status == 304 && (w.Body.Len() != 0 || w.Header().Get("ETag") == "" || w.Header().Get("Cache-Control") != "public, max-age=30" || w.Header().Get("Vary") == "") {
				t.Errorf("%s %v: 304 with %v", method, c.header, w.Header())
			}
			if method == "HEAD" && w.Body.Len() != 0 {
				t.Errorf("HEAD %v has a body", c.header)
			}
		}
	}
}

// Two versions may have one iat: whoever asks by time alone, as by any time that the answer named, gets the second one.
func TestSecondVersionOfASecondIsNotHidden(t *testing.T) {
	house := newHouse(t, 0)
	h := house.edge.PublicHandler()
	for path, o := range map[string]ca.Object{
		"status-lists/jwt": object("application/statuslist+jwt", "a.later.one", "", noon.Add(time.Hour)),
		"crl/iaca.crl":     object("application/pkix-crl", "0\x82", "", noon.Add(time.Hour)),
	} {
		first := answer(h, get("/"+path))
		house.fake.mu.Lock()
		house.fake.newer = map[string]ca.Object{path: o}
		house.fake.mu.Unlock()
		for _, since := range []string{first.Header().Get("Last-Modified"), o.Modified.Format(http.TimeFormat), noon.Format(http.TimeFormat)} {
			w := answer(h, get("/"+path, "If-Modified-Since", since))
			if w.Code != 200 || w.Body.String() != string(o.Bytes) {
				t.Errorf("%s: If-Modified-Since: %s is answered %d %q", path, since, w.Code, w.Body)
			}
		}
	}
}

func TestPublicPaths(t *testing.T) {
	house := newHouse(t, 0)
	h := house.edge.PublicHandler()
	for _, c := range []struct {
		method, target string
		status         int
		code           string
	}{
		{"GET", "/status-lists/jwt", 200, ""},
		{"HEAD", "/status-lists/jwt", 200, ""},
		{"GET", "/status-lists/cwt", 200, ""},
		{"GET", "/certificates/iaca.pem", 200, ""},
		{"GET", "/certificates/iaca.cer", 200, ""},
		{"GET", "/crl/iaca.crl", 200, ""},
		{"GET", "/.well-known/jwt-vc-issuer", 200, ""},
		{"GET", "/openapi.yaml", 200, ""},
		{"OPTIONS", "/status-lists/jwt", 204, ""},
		{"GET", "/status-lists/jwt?time=1700000000", 501, "time.unsupported"},
		{"GET", "/status-lists/jwt?a=b&time=", 501, "time.unsupported"},
		{"GET", "/status-lists/jwt?utm=x", 400, "request.query"},
		{"GET", "/status-lists/jwt?", 400, "request.query"},
		{"GET", "/crl/iaca.crl?time=1", 400, "request.query"},
		{"GET", "/openapi.yaml?x", 400, "request.query"},
		{"GET", "/status-lists/none", 404, "object.unknown"},
		{"GET", "/status-lists/", 404, "object.unknown"},
		{"GET", "/status-lists", 404, "object.unknown"},
		{"GET", "/status-lists/a/b", 404, "object.unknown"},
		{"GET", "/status-lists/../certificates/iaca.pem", 404, "object.unknown"},
		{"GET", "/status-lists/%2e%2e", 404, "object.unknown"},
		{"GET", "/holders/900101-1234567.txt", 404, "object.unknown"},
		{"GET", "/", 404, "object.unknown"},
		{"GET", "/robots.txt", 404, "object.unknown"},
		{"GET", "/metrics", 404, "object.unknown"},
		{"POST", "/v1/credentials", 404, "object.unknown"},
		{"POST", "/status-lists/jwt", 405, "request.method"},
		{"DELETE", "/crl/iaca.crl", 405, "request.method"},
	} {
		w := answer(h, httptest.NewRequest(c.method, c.target, nil))
		if w.Code != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.target, w.Code, w.Body)
			continue
		}
		if c.code != "" && problemOf(t, w).Code != c.code {
			t.Errorf("%s %s: %s", c.method, c.target, w.Body)
		}
		if w.Header().Get("Access-Control-Allow-Origin") != "*" || w.Header().Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(w.Header().Get("Access-Control-Expose-Headers"), "ETag") {
			t.Errorf("%s %s: %v", c.method, c.target, w.Header())
		}
		if c.status == 405 && w.Header().Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", c.method, c.target)
		}
		if c.status >= 400 && w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: a refusal may be cached", c.method, c.target)
		}
	}
	if len(house.calls) != 0 {
		t.Errorf("the public listener reached %v", house.calls)
	}
}

// A cache keeps a list no longer than the list lives.
func TestFreshnessEndsWithTheList(t *testing.T) {
	h := newHouse(t, 0).edge.PublicHandler()
	for path, want := range map[string]string{"jwt": "public, max-age=30", "dying": "public, max-age=7", "dead": "public, max-age=0"} {
		if got := answer(h, get("/status-lists/"+path)).Header().Get("Cache-Control"); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
}

func TestOperations(t *testing.T) {
	house := newHouse(t, 0)
	h := house.edge.OperationsHandler()
	for _, c := range []struct {
		method, path string
		ready        bool
		status       int
		text         string
	}{
		{"GET", "/livez", false, 200, `{"ready":true,"problems":[]}`},
		{"GET", "/readyz", true, 200, `{"ready":true,"problems":[]}`},
		{"GET", "/readyz", false, 503, `{"ready":false,"problems":["token online: no worker is ready"]}`},
		{"GET", "/status", false, 200, `"problems":["token online: no worker is ready"]`},
		{"GET", "/metrics", true, 200, "sealkeeper_http_requests_total"},
		{"POST", "/metrics", true, 405, "request.method"},
		{"GET", "/debug/pprof", true, 404, "route.unknown"},
		{"GET", "/v1/whoami", true, 404, "route.unknown"},
	} {
		house.ready = c.ready
		if w := answer(h, httptest.NewRequest(c.method, c.path, nil)); w.Code != c.status || !strings.Contains(w.Body.String(), c.text) {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
}
