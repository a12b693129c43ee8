package api

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/ca"
	"sealkeeper/contract"
	"sealkeeper/evidence"
)

// ErrorDoc is one row of docs/errors.md.
type ErrorDoc struct {
	Code        string
	Status      int
	Title       string
	Explanation string
}

const internal = "internal"

// Own codes of the edge.
var edgeCodes = map[string]string{
	"accept.none":                "The object exists, but in no representation that the Accept or Accept-Encoding header allows.",
	"client.busy":                "This client has too many issue requests in flight. Nothing was issued; retry with the same idempotency key after Retry-After.",
	"client.certificate_expired": "The client certificate, or one above it, is not valid at the time of this request. Connect with a renewed one.",
	"client.revoked":             "The client, or its certificate, was revoked or put on hold. Nothing more is answered: ask who enrolled it.",
	"client.unidentified":        "The client certificate does not name its client with exactly one URI urn:sealkeeper:client:<role>:<id>.",
	"client.unknown":             "The policy does not know this client in this role.",
	"draining":                   "The appliance is shutting down and takes no new issue requests. Nothing was issued; retry elsewhere or after Retry-After with the same idempotency key.",
	"idempotency.key_malformed":  "The header Idempotency-Key is missing, stands there twice, or is not 22 to 128 characters of A-Z a-z 0-9 _ - (128 random bits or more).",
	"object.unknown":             "Nothing is published at this path.",
	"request.duplicate_member":   "A JSON object names a member twice.",
	"request.invalid":            "A member of the request has a value outside its bounds; the detail names it.",
	"request.malformed":          "The body is not one JSON document of the route's schema in valid UTF-8, or is nested too deeply.",
	"request.media_type":         "Content-Type must be application/json, without parameters and without a Content-Encoding.",
	"request.method":             "The path exists, but not with this method; see the Allow header.",
	"request.query":              "This path takes no query parameters. An ignored one would mislead its sender, and let caches be filled with copies.",
	"request.too_large":          "The body is larger than the route allows (256 KiB for issue, refresh and their dry runs, 768 KiB for policy bundles, 1280 KiB for statuses of phones and for what officers sign, 32 KiB for what a registration authority forwards, else 16 KiB).",
	"request.too_slow":           "The body did not arrive in time.",
	"request.unknown_member":     "The request has a member that the schema does not name; names are case-sensitive.",
	"route.forbidden":            "This role may not use this route.",
	"route.unknown":              "There is no such route.",
	"time.unsupported":           "Historical status lists (?time=) are not supported.",
}

type outcome struct {
	status int
	title  string
}

// What each code means in HTTP, exactly.
var exact = map[string]outcome{
	"accept.none":                         {http.StatusNotAcceptable, "Not acceptable"},
	"card.locked":                         {http.StatusConflict, "The card is locked"},
	"client.busy":                         {http.StatusTooManyRequests, "Too many requests of this client"},
	"clock.untrusted":                     {http.StatusServiceUnavailable, "The clock is not trusted"},
	"draining":                            {http.StatusServiceUnavailable, "Shutting down"},
	"hsm.down":                            {http.StatusServiceUnavailable, "The HSM can't sign"},
	"idempotency.key_malformed":           {http.StatusBadRequest, "Idempotency key malformed"},
	internal:                              {http.StatusInternalServerError, "Internal failure"},
	"key.missing":                         {http.StatusServiceUnavailable, "No signing key"},
	"key.used_up":                         {http.StatusServiceUnavailable, "The signing key is used up"},
	"key.rate":                            {http.StatusServiceUnavailable, "The signing key signs no more in this hour"},
	"key.unregistered":                    {http.StatusNotFound, "Not found"},
	"key.exists":                          {http.StatusConflict, "The key's name is taken"},
	"key.plan":                            {http.StatusConflict, "The plan does not come to its end"},
	"key.root":                            {http.StatusConflict, "The key is a CA's"},
	"key.state":                           {http.StatusConflict, "The key's state does not allow it"},
	"ledger.full":                         {http.StatusServiceUnavailable, "The ledger's disk is full"},
	"ledger.stopped":                      {http.StatusServiceUnavailable, "The ledger is stopped"},
	"ledger.fenced":                       {http.StatusServiceUnavailable, "The appliance is fenced"},
	"enrolment.unknown":                   {http.StatusNotFound, "No such client"},
	"event.id_reused":                     {http.StatusConflict, "Event id used before"},
	"event.not_dead":                      {http.StatusConflict, "No such dead letter"},
	"flood.unknown":                       {http.StatusConflict, "Nothing waits"},
	"flood.deciding":                      {http.StatusConflict, "A decision is being carried out"},
	"line.reported":                       {http.StatusUnprocessableEntity, "Line reported lost or changed"},
	"event.letters_full":                  {http.StatusServiceUnavailable, "Too many unknown lines"},
	"nonce.replayed":                      {http.StatusConflict, "Nonce used before"},
	"decision.unknown":                    {http.StatusNotFound, "Not found"},
	"object.unknown":                      {http.StatusNotFound, "Not found"},
	"overloaded":                          {http.StatusServiceUnavailable, "Overloaded"},
	"policy.error":                        {http.StatusInternalServerError, "Internal failure"},
	"policy.facts":                        {http.StatusInternalServerError, "Internal failure"},
	"evidence.android_status_from_future": {http.StatusServiceUnavailable, "The status of phones is not fresh"},
	"evidence.android_status_missing":     {http.StatusServiceUnavailable, "The status of phones is not fresh"},
	"evidence.android_status_stale":       {http.StatusServiceUnavailable, "The status of phones is not fresh"},
	"evidence.status_unknown":             {http.StatusServiceUnavailable, "The status of phones is not fresh"},
	"evidence.unconfigured":               {http.StatusInternalServerError, "Internal failure"},
	"schedule.other_authority":            {http.StatusForbidden, "Denied by policy"},
	"reason.forbidden":                    {http.StatusForbidden, "Denied by policy"},
	"refresh.forbidden":                   {http.StatusForbidden, "Denied by policy"},
	"refresh.replace":                     {http.StatusUnprocessableEntity, "A refresh never replaces a phone"},
	"request.cancelled":                   {http.StatusServiceUnavailable, "Not finished in time"},
	"request.media_type":                  {http.StatusUnsupportedMediaType, "Unsupported media type"},
	"request.method":                      {http.StatusMethodNotAllowed, "Method not allowed"},
	"request.too_large":                   {http.StatusRequestEntityTooLarge, "Body too large"},
	"request.too_slow":                    {http.StatusRequestTimeout, "Body too slow"},
	"route.forbidden":                     {http.StatusForbidden, "Role may not use this route"},
	"route.unknown":                       {http.StatusNotFound, "No such route"},
	"subject.closed":                      {http.StatusConflict, "The person has no card any more"},
	"subject.contended":                   {http.StatusServiceUnavailable, "The holder's state kept changing"},
	"subject.ambiguous":                   {http.StatusBadRequest, "Subject named twice"},
	"subject.malformed":                   {http.StatusBadRequest, "Subject number malformed"},
	"issuing.stopped":                     {http.StatusServiceUnavailable, "Issuing is stopped"},
	"officer.required":                    {http.StatusForbidden, "Officers decide"},
	"officer.none":                        {http.StatusConflict, "No officers are registered"},
	"officer.registered":                  {http.StatusConflict, "Officers are registered"},
	"officer.duplicate":                   {http.StatusConflict, "Said before"},
	"officer.epoch":                       {http.StatusConflict, "Another registry of officers"},
	"officer.expired":                     {http.StatusConflict, "The proposal expired"},
	"officer.rejected":                    {http.StatusConflict, "An officer rejected it"},
	"officer.short":                       {http.StatusConflict, "Too few officers approved"},
	"officer.waiting":                     {http.StatusConflict, "The delay is not over"},
	"certificate.hold":                    {http.StatusConflict, "No hold of this certificate"},
	"certificate.not_held":                {http.StatusConflict, "The certificate is not on hold"},
	"certificate.other":                   {http.StatusConflict, "Another one's certificate"},
	"certificate.own":                     {http.StatusConflict, "The certificate through which it is asked"},
	"certificate.root":                    {http.StatusConflict, "The certificate is a root's"},
	"certificate.unknown":                 {http.StatusNotFound, "No such certificate"},
	"campaign.unknown":                    {http.StatusNotFound, "Not found"},
	"proposal.unknown":                    {http.StatusNotFound, "Not found"},
	"backup.key":                          {http.StatusUnprocessableEntity, "The backup key is none"},
	"proposal.unsupported":                {http.StatusUnprocessableEntity, "Nothing carries this out"},
	"time.unsupported":                    {http.StatusNotImplemented, "Historical lists are not supported"},
}

// And by room, for those that are not named above. 400: the message is wrong; 403: this client may not; 409: the state does not allow it
// (now); 422: the message is right, but what it says is not believed or not allowed in a card. 401 never: without a certificate there is
// no connection.
var rooms = map[string]outcome{
	"acknowledgement": {http.StatusConflict, "The card's state does not allow it"},
	"reissue":         {http.StatusConflict, "The lock does not allow this method"},
	"renewal":         {http.StatusConflict, "The card has to be renewed by another method"},
	"schedule":        {http.StatusUnprocessableEntity, "Order refused"},
	"attestation":     {http.StatusConflict, "Attestation used before"},
	"budget":          {http.StatusForbidden, "Budget used up"},
	"card":            {http.StatusConflict, "The card's state does not allow it"},
	"bundle":          {http.StatusUnprocessableEntity, "Policy bundle refused"},
	"claims":          {http.StatusUnprocessableEntity, "Claims refused"},
	"client":          {http.StatusForbidden, "Client refused"},
	"code":            {http.StatusConflict, "Code used before"},
	"copies":          {http.StatusUnprocessableEntity, "Too many keys"},
	"evidence":        {http.StatusUnprocessableEntity, "Evidence refused"},
	"format":          {http.StatusUnprocessableEntity, "Format not available"},
	"idempotency":     {http.StatusConflict, "Idempotency key used for another request"},
	"enrolment":       {http.StatusConflict, "The client's enrolment does not allow it"},
	"token":           {http.StatusConflict, "Token refused"},
	"statement":       {http.StatusConflict, "Statement refused"},
	"lock":            {http.StatusConflict, "The lock's state does not allow it"},
	"method":          {http.StatusUnprocessableEntity, "Method not available"},
	"nonce":           {http.StatusConflict, "Nonce refused"},
	"officer":         {http.StatusUnprocessableEntity, "Refused for the officers"},
	"campaign":        {http.StatusConflict, "The campaign's state does not allow it"},
	"proposal":        {http.StatusConflict, "The proposal's state does not allow it"},
	"phase":           {http.StatusForbidden, "Not open yet"},
	"policy":          {http.StatusForbidden, "Denied by policy"},
	"phones":          {http.StatusUnprocessableEntity, "Status of phones refused"},
	"reason":          {http.StatusUnprocessableEntity, "Reason not known"},
	"refresh":         {http.StatusConflict, "The card's state does not allow a refresh"},
	"registry":        {http.StatusUnprocessableEntity, "The register does not vouch for it"},
	"request":         {http.StatusBadRequest, "Request refused"},
	"reservation":     {http.StatusConflict, "Superseded"},
	"rule":            {http.StatusForbidden, "Denied by a rule of the policy"},
	"session":         {http.StatusUnprocessableEntity, "Session refused"},
	"slot":            {http.StatusConflict, "The device slot does not allow it"},
	"type":            {http.StatusUnprocessableEntity, "Document type not known"},
}

func lookup(code string) (outcome, bool) {
	if o, ok := exact[code]; ok {
		return o, true
	}
	room, reason, ok := strings.Cut(code, ".")
	if !ok || reason == "" {
		return outcome{}, false
	}
	o, ok := rooms[room]
	return o, ok
}

// problem gives any error its place in the table. What no room should have said is internal.
func problem(err error) (p contract.Problem, retry time.Duration) {
	var refused *ca.Problem
	var coded interface{ Code() string }
	switch {
	case errors.As(err, &refused):
		p.Code, p.Detail, p.Decision, retry = refused.Code, refused.Detail, refused.Decision, refused.RetryIn
	case errors.As(err, &coded):
		p.Code, p.Detail = coded.Code(), strings.TrimPrefix(err.Error(), coded.Code()+": ")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		p.Code, p.Detail = "request.cancelled", "the request ended before its answer was ready"
	default:
		p.Code = internal
	}
	o, ok := lookup(p.Code)
	if !ok {
		p.Code, o = internal, exact[internal]
	}
	if room, _, _ := strings.Cut(p.Code, "."); o.status == http.StatusInternalServerError || room == "ledger" {
		// What went wrong inside, with its file names, is the log's matter, not the client's.
		p.Detail, p.Decision = "the request could not be completed; the operator finds the reason in the log under this instance", nil
	}
	p.Type, p.Title, p.Status = "urn:sealkeeper:problem:"+p.Code, o.title, o.status
	return p, retry
}

// cause is the error behind a *ca.Problem, which clients don't see.
func cause(err error) string {
	var refused *ca.Problem
	if errors.As(err, &refused) && refused.Unwrap() != nil {
		return refused.Unwrap().Error()
	}
	return ""
}

// fail answers with a problem, once.
func (x *exchange) fail(err error) {
	p, retry := problem(err)
	p.Instance = "urn:sealkeeper:request:" + x.id
	x.code = p.Code
	switch attrs := []any{"request", x.id, "route", x.route, "client", x.caller.ID, "error", err.Error(), "cause", cause(err)}; p.Status {
	case http.StatusInternalServerError:
		x.edge.o.Log.Error("request failed", attrs...)
	case http.StatusServiceUnavailable:
		x.edge.o.Log.Warn("request not served", attrs...)
	}
	h := x.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	for _, name := range []string{"ETag", "Last-Modified", "Content-Encoding", "Content-Length"} {
		h.Del(name)
	}
	switch p.Status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		seconds := int64((max(retry, time.Second) + time.Second - 1) / time.Second)
		h.Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	if p.Code == "draining" || p.Status == http.StatusRequestTimeout || p.Status == http.StatusRequestEntityTooLarge {
		h.Set("Connection", "close")
	}
	body, err := json.Marshal(p)
	if err != nil { // a contract.Problem always marshals, unless a room put invalid UTF-8 into a detail
		p.Detail, p.Decision = "", nil
		body, _ = json.Marshal(p)
	}
	x.WriteHeader(p.Status)
	_, _ = x.Write(body) // a client that is gone needs no answer
}

// Errors explains every code that the edge, the conductor and evidence can answer with, and those of the tables handed in (code →
// explanation, of the rooms that the edge does not import: policy.Codes), with the HTTP status of each, sorted by code. A code that no
// client can meet, such as that of a refused list version, has the status of an internal failure.
func Errors(tables ...map[string]string) []ErrorDoc {
	all := maps.Clone(edgeCodes)
	for _, c := range evidence.Codes {
		all[c.Code] = c.Explanation
	}
	for _, t := range append(tables, ca.Codes, ca.OfficerCodes) {
		maps.Copy(all, t)
	}
	docs := make([]ErrorDoc, 0, len(all))
	for code, text := range all {
		o, ok := lookup(code)
		if !ok {
			o = exact[internal]
		}
		docs = append(docs, ErrorDoc{Code: code, Status: o.status, Title: o.title, Explanation: text})
	}
	slices.SortFunc(docs, func(a, b ErrorDoc) int { return cmp.Compare(a.Code, b.Code) })
	return docs
}
