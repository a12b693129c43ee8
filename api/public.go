package api

import (
	"bytes"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"sealkeeper/ca"
)

// The paths of the public listener. Whatever matches none of them does not exist.
var publicPaths = []struct {
	pattern string
	form    *regexp.Regexp
}{
	{"/status-lists/{id}", regexp.MustCompile(`^/status-lists/[A-Za-z0-9_-]{1,64}$`)},
	{"/certificates/{file}", regexp.MustCompile(`^/certificates/[a-z0-9-]{1,64}(\.link)?\.(cer|pem)$`)},
	{"/crl/{file}", regexp.MustCompile(`^/crl/[a-z0-9.-]{1,64}\.crl$`)},
	{"/trust.json", regexp.MustCompile(`^/trust\.json$`)},
	{"/.well-known/jwt-vc-issuer", regexp.MustCompile(`^/\.well-known/jwt-vc-issuer$`)},
	{"/openapi.yaml", regexp.MustCompile(`^/openapi\.yaml$`)},
}

const lists = "/status-lists/{id}"

// PublicHandler serves what verifiers need, from memory: it reaches neither the ledger nor the HSM, asks nobody who they are, and learns
// from a request only which list of a million cards is wanted.
func (e *Edge) PublicHandler() http.Handler {
	return e.exchanges("public", func(x *exchange, r *http.Request) {
		h := x.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Expose-Headers", "ETag, Retry-After, X-Request-Id")
		h.Set("X-Content-Type-Options", "nosniff")
		for _, p := range publicPaths {
			if p.form.MatchString(r.URL.Path) {
				x.route = p.pattern
			}
		}
		if x.route == "none" {
			x.fail(errUnknownObject)
			return
		}
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			x.object(r)
		case http.MethodOptions:
			h.Set("Access-Control-Allow-Methods", "GET, HEAD")
			h.Set("Access-Control-Allow-Headers", "Accept, If-None-Match")
			h.Set("Access-Control-Max-Age", "86400")
			h.Set("Allow", "GET, HEAD, OPTIONS")
			x.WriteHeader(http.StatusNoContent)
		default:
			h.Set("Allow", "GET, HEAD, OPTIONS")
			x.fail(&ca.Problem{Code: "request.method", Detail: "this listener is read-only"})
		}
	})
}

var errUnknownObject = &ca.Problem{Code: "object.unknown", Detail: "nothing is published at this path"}

func (x *exchange) object(r *http.Request) {
	h := x.Header()
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		// A list of another time than the one asked for would be taken for it (formats.md 1.6), so ?time= is refused by name; any other
		// parameter would only fill caches with copies.
		if x.route == lists && r.URL.Query().Has("time") {
			x.fail(&ca.Problem{Code: "time.unsupported", Detail: "only the newest version of a list is served"})
			return
		}
		x.fail(&ca.Problem{Code: "request.query", Detail: "this path takes no query parameters"})
		return
	}
	if x.route == "/openapi.yaml" {
		h.Set("Cache-Control", "public, max-age=300")
		x.openAPI()
		return
	}
	o, ok := x.edge.o.Authority.Public(strings.TrimPrefix(r.URL.Path, "/"))
	if !ok {
		x.fail(errUnknownObject)
		return
	}
	// Only lists are negotiated. Whoever asks for a certificate by its file name gets that file, whatever the browser's Accept says.
	vary := "Accept-Encoding"
	if x.route == lists {
		vary = "Accept, Accept-Encoding"
		h.Set("Vary", vary)
		if !accepts(r.Header.Values("Accept"), o.MediaType) {
			x.fail(&ca.Problem{Code: "accept.none", Detail: "this list is published as " + o.MediaType})
			return
		}
	}
	h.Set("Vary", vary)
	body, etag := o.Bytes, o.ETag
	zip, ok := coding(r.Header.Values("Accept-Encoding"), o.Gzip != nil)
	if !ok {
		x.fail(&ca.Problem{Code: "accept.none", Detail: "no acceptable content coding"})
		return
	}
	if zip {
		body, etag = o.Gzip, o.ETagGzip
		h.Set("Content-Encoding", "gzip")
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	// An object that can expire is fresh for no longer than it lives, whatever its usual age is.
	age := o.MaxAge
	if !o.Expires.IsZero() {
		age = min(age, o.Expires.Sub(x.edge.o.Guard.ForLists()))
	}
	h.Set("Cache-Control", "public, max-age="+secondsOf(age))
	h.Set("Content-Type", o.MediaType)
	h.Set("ETag", etag)
	// Parts of a signed object are of no use, and ignoring Range is always allowed (RFC 9110, 14.2). Preconditions, 304 and HEAD are
	// net/http's. They go by the tag alone: times are whole seconds, in one of which there may be two versions, and whoever asked by the time of
	// the first would keep it, and miss a lock, until the next one.
	r.Header.Del("Range")
	http.ServeContent(x, r, "", time.Time{}, bytes.NewReader(body))
}
