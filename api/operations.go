package api

import (
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sealkeeper/ca"
	"sealkeeper/contract"
)

// OperationsHandler serves metrics, liveness, readiness and status.
//
// Liveness says that this process answers; it never depends on the HSM or the ledger, or a supervisor would restart a daemon that is
// better left running to serve lists. Readiness says that cards can be issued, with the reasons if not.
func (e *Edge) OperationsHandler() http.Handler {
	metrics := promhttp.HandlerFor(e.o.Metrics.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return e.exchanges("operations", func(x *exchange, r *http.Request) {
		h := x.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		switch r.URL.Path {
		case "/metrics", "/livez", "/readyz", "/status":
			x.route = r.URL.Path
		default:
			x.fail(&ca.Problem{Code: "route.unknown", Detail: "there is no such route"})
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			x.fail(&ca.Problem{Code: "request.method", Detail: "this listener is read-only"})
			return
		}
		switch x.route {
		case "/metrics":
			e.o.Metrics.Look()
			metrics.ServeHTTP(x, r)
		case "/livez":
			x.json(http.StatusOK, contract.Readiness{Ready: true, Problems: []string{}})
		case "/readyz":
			s := e.status(r)
			code := http.StatusOK
			if !s.Ready {
				code = http.StatusServiceUnavailable
			}
			x.json(code, contract.Readiness{Ready: s.Ready, Problems: s.Problems})
		case "/status":
			x.json(http.StatusOK, e.status(r))
		}
	})
}

func (e *Edge) status(r *http.Request) contract.Status {
	s := e.o.Authority.Status(r.Context())
	s.Hardening = e.o.Hardening
	if leaf := e.certificate.Load().Leaf; leaf != nil {
		s.Certificates = append(s.Certificates, contract.CertificateStatus{Name: "tls-server", NotAfter: leaf.NotAfter})
		if c, soon := ca.Expiring("tls-server", leaf.NotAfter, e.o.Guard.Wall()); soon {
			s.Conditions = append(s.Conditions, c)
			ca.Urgent(s.Conditions)
		}
	}
	if e.issues.drained() {
		s.Ready, s.Problems = false, append(s.Problems, "the appliance is shutting down")
	}
	return s
}

func (x *exchange) json(status int, v any) {
	out, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		x.fail(err)
		return
	}
	x.Header().Set("Content-Type", "application/json")
	x.WriteHeader(status)
	_, _ = x.Write(out)
}
