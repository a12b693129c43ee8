package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/ca"
	"sealkeeper/contract"
	"sealkeeper/internal/strict"
)

// exchange is one request and its answer on any listener: what the access log and the metrics say of it, and nothing that a body held.
type exchange struct {
	http.ResponseWriter
	edge   *Edge
	id     string
	caller ca.Caller
	route  string // pattern, never the path
	code   string
	status int // 0: nothing was written yet

	conn    *boundConn // nil: not behind a listener from Bound
	gathers bool       // it has an answer that is to be sent
}

func (x *exchange) WriteHeader(status int) {
	if x.status == 0 {
		x.status = status
		x.conn.answering()
		x.ResponseWriter.WriteHeader(status)
	}
}

func (x *exchange) Write(b []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	return x.ResponseWriter.Write(b)
}

func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// exchanges is the outermost layer of each listener: request id, deadline, panics, metrics, access log.
func (e *Edge) exchanges(listener string, next func(x *exchange, r *http.Request)) http.Handler {
	log := e.o.Log.Handler().WithAttrs([]slog.Attr{slog.String("listener", listener)})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := e.o.Clock.Elapsed()
		x := &exchange{ResponseWriter: w, edge: e, route: "none", conn: connectionOf(r.Context())}
		defer x.sent()
		var id [16]byte
		if _, err := io.ReadFull(e.o.Random, id[:]); err != nil {
			e.o.Log.Error("no randomness for a request id", "error", err.Error())
		}
		x.id = base64.RawURLEncoding.EncodeToString(id[:])
		w.Header().Set("X-Request-Id", x.id)
		ctx, cancel := context.WithTimeout(r.Context(), deadline)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				// The value may quote what was being worked on, so only its type is logged; the stack says where.
				e.o.Log.Error("ALARM: a request panicked", "request", x.id, "route", x.route, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
				if x.status == 0 {
					x.fail(&ca.Problem{Code: internal})
				}
			}
			took := e.o.Clock.Elapsed() - start
			e.o.Metrics.Requests.WithLabelValues(listener, x.route, strconv.Itoa(x.status)).Inc()
			e.o.Metrics.RequestSeconds.WithLabelValues(x.route).Observe(took.Seconds())
			if log.Enabled(ctx, slog.LevelInfo) { // straight to the handler: a Logger would look up the place in the code, which costs more than the line
				line := slog.NewRecord(time.Now(), slog.LevelInfo, "request", 0)
				line.AddAttrs(slog.String("request", x.id), slog.String("client", x.caller.ID), slog.String("role", x.caller.Role), slog.String("route", x.route),
					slog.Int("status", x.status), slog.String("code", x.code), slog.Int64("ms", took.Milliseconds()))
				_ = log.Handle(ctx, line)
			}
		}()
		next(x, r.WithContext(ctx))
	})
}

// handler answers one route of the issuance listener, after identity and role.
type handler func(x *exchange, r *http.Request)

// raw is an answer that is bytes already.
type raw []byte

// call is what a route's function gets beside the decoded body.
type call struct {
	ca.Caller
	Call ca.Call // routes with an idempotency key
}

// how a route is served.
type how struct {
	limit int  // of the body; 0: none is read
	keyed bool // Idempotency-Key required
	admit bool // counts against the places for issuing
}

// serve is the edge, written once: everything between the role check and the authority.
func serve[Req, Resp any](e *Edge, h how, valid func(*Req) string, do func(context.Context, call, Req) (Resp, error)) handler {
	return func(x *exchange, r *http.Request) {
		if r.URL.RawQuery != "" || r.URL.ForceQuery {
			x.fail(&ca.Problem{Code: "request.query", Detail: "this path takes no query parameters"})
			return
		}
		if h.admit {
			leave, err := e.issues.enter(x.caller.ID)
			if err != nil {
				e.o.Metrics.Shed.WithLabelValues("issue").Inc()
				// The body first, which the server would take off the wire before the answer anyway: until then nobody notices that the client is gone.
				_, _ = io.Copy(io.Discard, http.MaxBytesReader(x.ResponseWriter, r.Body, int64(h.limit)))
				e.issues.pause(r.Context(), x.caller.ID)
				x.fail(err)
				return
			}
			defer leave()
			_ = http.NewResponseController(x.ResponseWriter).SetReadDeadline(time.Now().Add(readAdmitted)) // until the body's end; a test's recorder has none
		}
		c := call{Caller: x.caller}
		if h.keyed {
			key, err := idempotencyKey(r.Header)
			if err != nil {
				x.fail(err)
				return
			}
			c.Call.Key = key
		}
		req, err := take(x, r, h, valid, &c.Call)
		if err != nil {
			x.fail(err)
			return
		}
		resp, err := do(r.Context(), c, req)
		if err != nil {
			x.fail(err)
			return
		}
		out, isRaw := any(resp).(raw)
		if !isRaw {
			if out, err = json.Marshal(resp, json.Deterministic(true)); err != nil {
				x.fail(fmt.Errorf("encoding the answer: %w", err))
				return
			}
		}
		x.Header().Set("Content-Type", "application/json")
		x.Header().Set("Content-Length", strconv.Itoa(len(out)))
		x.WriteHeader(http.StatusOK)
		if h.admit && len(out) > mostGathered { // its place is held until it has left
			_ = http.NewResponseController(x.ResponseWriter).SetWriteDeadline(time.Now().Add(writeAdmitted))
		}
		x.whole(out)
	}
}

// take is the body, read, decoded and found valid, and its hash if it has a key.
func take[Req any](x *exchange, r *http.Request, h how, valid func(*Req) string, c *ca.Call) (req Req, err error) {
	if h.limit == 0 {
		return req, nil
	}
	room := buffers.Get().(*bytes.Buffer)
	defer leave(room)
	if err := read(room, x, r, h.limit); err != nil {
		return req, err
	}
	x.conn.working()
	if req, err = decode[Req](room.Bytes(), h.limit); err != nil {
		return req, err
	}
	if why := valid(&req); why != "" {
		return req, &ca.Problem{Code: "request.invalid", Detail: why}
	}
	if h.keyed {
		room.Reset() // what was decoded has its own memory
		c.Hash, err = fingerprint(room, x.route, x.caller.ID, any(&req).(canonical))
	}
	return req, err
}

// buffers are where bodies are read to and hashed from. What stood there goes before another request gets it, and large ones are not kept.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const largestKept = 32 << 10

func leave(room *bytes.Buffer) {
	if room.Cap() <= largestKept {
		room.Reset()
		clear(room.AvailableBuffer()[:room.Available()])
		buffers.Put(room)
	}
}

var keyForm = formOf(contract.IdempotencyKeyPattern)

func idempotencyKey(h http.Header) (string, error) {
	keys := h.Values("Idempotency-Key")
	if len(keys) != 1 || !keyForm.fits(keys[0]) {
		return "", &ca.Problem{Code: "idempotency.key_malformed", Detail: "send one Idempotency-Key of 22 to 128 characters A-Z a-z 0-9 _ -, made of at least 128 random bits"}
	}
	return keys[0], nil
}

// read takes the body off the wire, never more than limit bytes of it.
func read(room *bytes.Buffer, x *exchange, r *http.Request, limit int) error {
	if types := r.Header.Values("Content-Type"); len(types) != 1 || !strings.EqualFold(types[0], "application/json") || len(r.Header.Values("Content-Encoding")) != 0 {
		return &ca.Problem{Code: "request.media_type", Detail: "send Content-Type: application/json, without parameters and without a Content-Encoding"}
	}
	large := func() error {
		return &ca.Problem{Code: "request.too_large", Detail: fmt.Sprintf("the body has more than %d bytes", limit)}
	}
	if r.ContentLength > int64(limit) {
		return large()
	}
	// What is announced is made room for at once, within what an issue request has: who announces more has to send it first.
	room.Grow(int(min(max(r.ContentLength, 0), 16<<10)) + bytes.MinRead)
	_, err := room.ReadFrom(http.MaxBytesReader(x.ResponseWriter, r.Body, int64(limit)))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return large()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &ca.Problem{Code: "request.too_slow", Detail: "the body did not arrive in time"}
	case err != nil:
		return &ca.Problem{Code: "request.malformed", Detail: "the body ended early"}
	}
	return nil
}

// maxValues of a body: a request with every claim of every document type has a few hundred.
const maxValues = 2048

// decode reads one JSON document strictly. The detail of its refusals names the place, never the value.
func decode[Req any](body []byte, limit int) (Req, error) {
	var req Req
	// null would leave the zero value: only an object is a request.
	if t := bytes.TrimLeft(body, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return req, &ca.Problem{Code: "request.malformed", Detail: "the body is not a JSON object"}
	}
	err := strict.JSON(body, strict.Limits{Bytes: limit, Depth: maxDepth, Values: maxValues}, &req)
	if err == nil {
		return req, nil
	}
	var zero Req
	var syntactic *jsontext.SyntacticError
	var semantic *json.SemanticError
	p := &ca.Problem{Code: "request.malformed", Detail: "the body is not a JSON document of at most 16 levels, 2048 values and an escape for each six bytes of its bound that this route takes"}
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName) && errors.As(err, &syntactic):
		p.Code, p.Detail = "request.duplicate_member", "a member stands there twice: "+where(syntactic.JSONPointer)
	case errors.Is(err, json.ErrUnknownName) && errors.As(err, &semantic):
		p.Code, p.Detail = "request.unknown_member", "not a member of this request: "+where(semantic.JSONPointer)
	case errors.As(err, &semantic):
		p.Detail = "a member has a value of the wrong type: " + where(semantic.JSONPointer)
	case errors.As(err, &syntactic):
		p.Detail = fmt.Sprintf("not JSON at byte %d", syntactic.ByteOffset)
	}
	return zero, p
}

// where bounds a pointer into a foreign document for a person's eyes.
func where(p jsontext.Pointer) string {
	s := strconv.QuoteToASCII(string(p[:min(len(p), 100)])) // cut first: a quoted member name of 200 KiB is a megabyte
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return s
}

// canonical is a request of a route with a key.
type canonical interface {
	AppendCanonical(b []byte) ([]byte, error)
}

// fingerprint tells whether a retry repeats the same request: SHA-256 over the route, the client and the canonical body, which is the
// decoded body encoded again, so that white space and the order of members do not matter.
func fingerprint(room *bytes.Buffer, route, client string, req canonical) ([32]byte, error) {
	fmt.Fprintf(room, "sealkeeper request v1\x00%s\x00%s\x00", route, client)
	text, err := req.AppendCanonical(room.AvailableBuffer())
	if err != nil {
		return [32]byte{}, fmt.Errorf("encoding the canonical body: %w", err)
	}
	room.Write(text)
	return sha256.Sum256(room.Bytes()), nil
}

// secondsOf is a whole, non-negative number of seconds for a header.
func secondsOf(d time.Duration) string { return strconv.FormatInt(max(0, int64(d/time.Second)), 10) }
