package api

import (
	"context"
	"net/http"
	"slices"
	"sort"
	"strings"

	"sealkeeper/ca"
	"sealkeeper/contract"
)

// Route is one row of the role × route table.
type Route struct {
	Method string
	Path   string
	Roles  []string // that may use it; nobody else
}

// Routes is the whole table of the issuance listener, deny by default: a path, method or role that does not stand here is refused, and a
// handler without a row can't be reached. It is the coarse grid of the connection; what a client may do with which document type and
// which reason is policy's. A carrier can lock and lift its own lock, and neither issue nor revoke nor look at a holder.
func Routes() []Route {
	var (
		issuing   = []string{RoleIssuance}
		locking   = []string{RoleIssuance, RoleCarrier, RoleDesk, RoleOperator}
		ending    = []string{RoleIssuance, RoleDesk, RoleOperator}
		telling   = []string{RoleDesk, RoleOperator}
		looking   = []string{RoleIssuance, RoleDesk, RoleOperator, RoleAuditor}
		governing = []string{RoleOperator, RoleAuditor, RoleOfficer}
	)
	return []Route{
		{"POST", "/v1/nonces", issuing},
		{"POST", "/v1/codes", issuing},
		{"POST", "/v1/sessions", issuing},
		{"POST", "/v1/credentials", issuing},
		{"POST", "/v1/credentials/dry-run", issuing},
		{"POST", "/v1/credentials/refresh", issuing},
		{"POST", "/v1/credentials/refresh/dry-run", issuing},
		{"POST", "/v1/locks", locking},
		{"POST", "/v1/unlocks", locking},
		{"POST", "/v1/revocations", ending},
		{"POST", "/v1/events", []string{RoleCarrier, RoleDesk}},
		{"POST", "/v1/renewals", telling},
		{"POST", "/v1/schedules", telling},
		{"POST", "/v1/schedules/cancel", telling},
		{"POST", "/v1/acknowledgements", issuing},
		{"POST", "/v1/holders/state", looking},
		{"POST", "/v1/policies", []string{RoleOperator}},
		{"POST", "/v1/phones/status", []string{RoleOperator}},
		{"POST", "/v1/decisions", []string{RoleOperator, RoleAuditor}},
		{"GET", "/v1/policies/active", []string{RoleOperator, RoleAuditor}},
		{"GET", "/v1/events/dead", []string{RoleOperator, RoleAuditor}},
		{"POST", "/v1/events/replay", []string{RoleOperator}},
		{"POST", "/v1/floods/decisions", []string{RoleOperator}},
		{"GET", "/v1/floods", []string{RoleOperator, RoleAuditor}},
		{"GET", "/v1/officers", governing},
		{"GET", "/v1/clients", governing},
		{"GET", "/v1/campaigns", governing},
		{"POST", "/v1/campaigns/count", governing},
		{"POST", "/v1/campaigns/pace", []string{RoleOperator, RoleOfficer}},
		{"POST", "/v1/officers/holders", []string{RoleOfficer}},
		{"GET", "/v1/officers/proposals", governing},
		{"POST", "/v1/officers/proposals/new", []string{RoleOfficer}},
		{"POST", "/v1/officers/proposals/show", governing},
		{"POST", "/v1/officers/approvals", []string{RoleOfficer}},
		{"POST", "/v1/officers/rejections", []string{RoleOfficer}},
		{"POST", "/v1/officers/executions", []string{RoleOfficer}},
		{"POST", "/v1/clients/tokens", []string{RoleOperator, RoleOfficer}},
		{"GET", "/v1/ra", []string{RoleRA}},
		{"POST", "/v1/ra/certificates", []string{RoleRA}},
		{"POST", "/v1/ra/renewals", []string{RoleRA}},
		{"POST", "/v1/ra/rekeys", []string{RoleRA}},
		{"POST", "/v1/ra/revocations", []string{RoleRA}},
		{"POST", "/v1/ra/server", []string{RoleRA}},
		{"GET", "/v1/whoami", Roles()},
		{"GET", "/openapi.yaml", Roles()},
	}
}

func none[T any](*T) string { return "" }

func (e *Edge) handlers() map[string]handler {
	a := e.o.Authority
	issue := how{limit: maxIssueBody, keyed: true, admit: true}
	dry := how{limit: maxIssueBody, admit: true}
	plain := how{limit: maxBody}
	return map[string]handler{
		"POST /v1/nonces": serve(e, plain, validNonce, func(ctx context.Context, c call, r contract.NonceRequest) (contract.NonceAnswer, error) {
			return a.Nonce(ctx, c.Caller, r)
		}),
		"POST /v1/codes": serve(e, plain, validCode, func(ctx context.Context, c call, r contract.CodeRequest) (contract.CodeAnswer, error) {
			return a.Code(ctx, c.Caller, r)
		}),
		"POST /v1/sessions": serve(e, plain, validSession, func(ctx context.Context, c call, r contract.SessionRequest) (contract.SessionAnswer, error) {
			return a.Session(ctx, c.Caller, r)
		}),
		"POST /v1/credentials": serve(e, issue, validIssue, func(ctx context.Context, c call, r contract.IssueRequest) (raw, error) {
			return a.Issue(ctx, c.Caller, c.Call, r)
		}),
		"POST /v1/credentials/refresh": serve(e, issue, validIssue, func(ctx context.Context, c call, r contract.IssueRequest) (raw, error) {
			return a.Refresh(ctx, c.Caller, c.Call, r)
		}),
		"POST /v1/credentials/dry-run": serve(e, dry, validIssue, func(ctx context.Context, c call, r contract.IssueRequest) (contract.Decision, error) {
			return a.DryRunIssue(ctx, c.Caller, r)
		}),
		"POST /v1/credentials/refresh/dry-run": serve(e, dry, validIssue, func(ctx context.Context, c call, r contract.IssueRequest) (contract.Decision, error) {
			return a.DryRunRefresh(ctx, c.Caller, r)
		}),
		"POST /v1/locks": serve(e, plain, validChange, func(ctx context.Context, c call, r contract.ChangeRequest) (contract.ChangeAnswer, error) {
			return a.Lock(ctx, c.Caller, r)
		}),
		"POST /v1/unlocks": serve(e, plain, validChange, func(ctx context.Context, c call, r contract.ChangeRequest) (contract.ChangeAnswer, error) {
			return a.Unlock(ctx, c.Caller, r)
		}),
		"POST /v1/revocations": serve(e, plain, validChange, func(ctx context.Context, c call, r contract.ChangeRequest) (contract.ChangeAnswer, error) {
			return a.Revoke(ctx, c.Caller, r)
		}),
		"POST /v1/events": serve(e, plain, validEvent, func(ctx context.Context, c call, r contract.EventRequest) (contract.EventAnswer, error) {
			return a.Event(ctx, c.Caller, r)
		}),
		"POST /v1/renewals": serve(e, plain, validRenewal, func(ctx context.Context, c call, r contract.RenewalRequest) (contract.ChangeAnswer, error) {
			return a.Renew(ctx, c.Caller, r)
		}),
		"POST /v1/schedules": serve(e, plain, validSchedule, func(ctx context.Context, c call, r contract.ScheduleRequest) (contract.ChangeAnswer, error) {
			return a.Schedule(ctx, c.Caller, r)
		}),
		"POST /v1/schedules/cancel": serve(e, plain, validCancel, func(ctx context.Context, c call, r contract.ScheduleCancel) (contract.ChangeAnswer, error) {
			return a.CancelSchedule(ctx, c.Caller, r)
		}),
		"POST /v1/acknowledgements": serve(e, plain, validAcknowledgement, func(ctx context.Context, c call, r contract.AcknowledgementRequest) (contract.ChangeAnswer, error) {
			return a.Acknowledge(ctx, c.Caller, r)
		}),
		"GET /v1/events/dead": serve(e, how{}, none, func(ctx context.Context, _ call, _ struct{}) (contract.DeadEvents, error) {
			return a.DeadEvents(ctx)
		}),
		"POST /v1/events/replay": serve(e, plain, validReplay, func(ctx context.Context, c call, r contract.ReplayRequest) (contract.EventAnswer, error) {
			return a.ReplayEvent(ctx, c.Caller, r)
		}),
		"POST /v1/floods/decisions": serve(e, plain, validFlood, func(ctx context.Context, c call, r contract.FloodRequest) (contract.FloodAnswer, error) {
			return a.DecideFlood(ctx, c.Caller, r)
		}),
		"GET /v1/floods": serve(e, how{}, none, func(ctx context.Context, _ call, _ struct{}) (contract.Floods, error) {
			return a.Floods(ctx)
		}),
		"POST /v1/holders/state": serve(e, plain, validState, func(ctx context.Context, c call, r contract.StateRequest) (contract.Holder, error) {
			return a.Holder(ctx, c.Caller, r)
		}),
		"POST /v1/phones/status": serve(e, how{limit: maxStatusBody}, validPhoneStatus, func(ctx context.Context, c call, r contract.PhoneStatusRequest) (contract.PhoneStatus, error) {
			return a.FeedPhones(ctx, c.Caller, r)
		}),
		"POST /v1/policies": serve(e, how{limit: maxPolicyBody}, validPolicy, func(ctx context.Context, c call, r contract.PolicyRequest) (contract.Policy, error) {
			return a.Activate(ctx, c.Caller, r)
		}),
		"POST /v1/decisions": serve(e, plain, validDecisions, func(ctx context.Context, _ call, r contract.DecisionQuery) (contract.DecisionPage, error) {
			return a.Decisions(ctx, r)
		}),
		"GET /v1/policies/active": serve(e, how{}, none, func(ctx context.Context, _ call, _ struct{}) (contract.Policy, error) {
			return a.Policy(ctx)
		}),
		"GET /v1/clients": serve(e, how{}, none, func(ctx context.Context, _ call, _ struct{}) (contract.Clients, error) {
			return a.Clients(ctx)
		}),
		"GET /v1/officers": serve(e, how{}, none, func(ctx context.Context, _ call, _ struct{}) (contract.Officers, error) {
			return a.Officers(ctx)
		}),
		"GET /v1/campaigns": serve(e, how{}, none, func(ctx context.Context, _ call, _ struct{}) (contract.Campaigns, error) {
			return a.Campaigns(ctx)
		}),
		"POST /v1/campaigns/count": serve(e, plain, validCards, func(ctx context.Context, _ call, r contract.CardsQuery) (contract.CardsCount, error) {
			return a.CountCards(ctx, r)
		}),
		"POST /v1/campaigns/pace": serve(e, plain, validPace, func(ctx context.Context, c call, r contract.CampaignPace) (contract.Campaigns, error) {
			return a.PaceCampaign(ctx, c.Caller, r)
		}),
		"POST /v1/officers/holders": serve(e, plain, validState, func(ctx context.Context, c call, r contract.StateRequest) (contract.OfficersHolder, error) {
			return a.HolderFor(ctx, c.Caller, r)
		}),
		"GET /v1/officers/proposals": serve(e, how{}, none, func(ctx context.Context, _ call, _ struct{}) (contract.Proposals, error) {
			return a.Proposals(ctx)
		}),
		"POST /v1/officers/proposals/new": serve(e, how{limit: maxSignedBody}, validPropose, func(ctx context.Context, c call, r contract.ProposeRequest) (contract.Proposal, error) {
			return a.Propose(ctx, c.Caller, r)
		}),
		"POST /v1/officers/proposals/show": serve(e, plain, validProposal, func(ctx context.Context, _ call, r contract.ProposalQuery) (contract.Proposal, error) {
			return a.Proposal(ctx, r)
		}),
		"POST /v1/officers/approvals": serve(e, how{limit: maxSignedBody}, validApproval, func(ctx context.Context, c call, r contract.ApprovalRequest) (contract.Proposal, error) {
			return a.Approve(ctx, c.Caller, r)
		}),
		"POST /v1/officers/rejections": serve(e, how{limit: maxSignedBody}, validApproval, func(ctx context.Context, c call, r contract.ApprovalRequest) (contract.Proposal, error) {
			return a.Reject(ctx, c.Caller, r)
		}),
		"POST /v1/officers/executions": serve(e, plain, validProposal, func(ctx context.Context, c call, r contract.ProposalQuery) (contract.Proposal, error) {
			return a.Execute(ctx, c.Caller, r)
		}),
		"POST /v1/clients/tokens": serve(e, plain, validToken, func(ctx context.Context, c call, r contract.TokenRequest) (contract.TokenAnswer, error) {
			return a.Token(ctx, c.Caller, r)
		}),
		"GET /v1/ra": serve(e, how{}, none, func(ctx context.Context, _ call, _ struct{}) (contract.Enrolling, error) {
			return a.Enrolling(ctx)
		}),
		"POST /v1/ra/certificates": serve(e, how{limit: maxEnrolBody}, validRegister, func(ctx context.Context, c call, r contract.RegisterRequest) (contract.CertificateAnswer, error) {
			return a.RegisterClient(ctx, c.Caller, r)
		}),
		"POST /v1/ra/renewals": serve(e, plain, validRenewClient, func(ctx context.Context, c call, r contract.RenewClientRequest) (contract.CertificateAnswer, error) {
			return a.RenewClient(ctx, c.Caller, r)
		}),
		"POST /v1/ra/rekeys": serve(e, how{limit: maxEnrolBody}, validRekey, func(ctx context.Context, c call, r contract.RekeyRequest) (contract.CertificateAnswer, error) {
			return a.RekeyClient(ctx, c.Caller, r)
		}),
		"POST /v1/ra/revocations": serve(e, plain, validRetire, func(ctx context.Context, c call, r contract.RetireRequest) (contract.RetireAnswer, error) {
			return a.RetireClient(ctx, c.Caller, r)
		}),
		"POST /v1/ra/server": serve(e, how{limit: maxEnrolBody}, validServer, func(ctx context.Context, c call, r contract.ServerRequest) (contract.CertificateAnswer, error) {
			return a.CertifyRA(ctx, c.Caller, r)
		}),
		"GET /v1/whoami": serve(e, how{}, none, func(_ context.Context, c call, _ struct{}) (contract.WhoAmI, error) {
			w, ok := a.WhoAmI(c.Caller)
			if !ok {
				return w, errUnknownClient
			}
			return w, nil
		}),
		"GET /openapi.yaml": func(x *exchange, _ *http.Request) { x.openAPI() },
	}
}

var errUnknownClient = &ca.Problem{Code: "client.unknown", Detail: "the policy does not know this client in this role"}

// IssuanceHandler serves the issuance listener. It expects to stand behind mTLS and refuses every request that does not.
func (e *Edge) IssuanceHandler() http.Handler {
	table := map[string]map[string]Route{}
	for _, r := range Routes() {
		if table[r.Path] == nil {
			table[r.Path] = map[string]Route{}
		}
		table[r.Path][r.Method] = r
	}
	handlers := e.handlers()
	return e.exchanges("issuance", func(x *exchange, r *http.Request) {
		x.Header().Set("Cache-Control", "no-store")
		x.Header().Set("X-Content-Type-Options", "nosniff")
		who, err := e.identify(r.TLS)
		if err != nil {
			x.fail(err)
			return
		}
		if err := e.o.Authority.Admit(who); err != nil {
			x.Header().Set("Connection", "close")
			x.fail(err)
			return
		}
		// The policy is asked on every request, so a client that it no longer knows is out at once, open connections included (F23).
		if _, ok := e.o.Authority.WhoAmI(who); !ok {
			x.fail(errUnknownClient)
			return
		}
		x.caller = who // only now: the log and the metrics name clients of the policy alone
		methods, ok := table[r.URL.Path]
		if !ok {
			x.fail(&ca.Problem{Code: "route.unknown", Detail: "there is no such route"})
			return
		}
		x.route = r.URL.Path
		route, ok := methods[r.Method]
		if !ok {
			x.Header().Set("Allow", allowed(methods))
			x.fail(&ca.Problem{Code: "request.method", Detail: "this path exists, but not with this method"})
			return
		}
		h, ok := handlers[route.Method+" "+route.Path]
		if !ok || !slices.Contains(route.Roles, who.Role) {
			x.fail(&ca.Problem{Code: "route.forbidden", Detail: "role " + who.Role + " may not use this route"})
			return
		}
		h(x, r)
	})
}

func allowed(methods map[string]Route) string {
	var out []string
	for m := range methods {
		out = append(out, m)
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

func (x *exchange) openAPI() {
	x.Header().Set("Content-Type", "application/yaml")
	x.WriteHeader(http.StatusOK)
	_, _ = x.Write(contract.OpenAPI)
}
