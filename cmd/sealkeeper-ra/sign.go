package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.step.sm/crypto/jose"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/internal/strict"
)

const (
	maxBody  = 64 << 10 // of any request
	maxDepth = 8
	// followEvery bounds how often strangers' tokens make it ask the appliance for new keys.
	followEvery = 10 * time.Second
	// waryFor is how long tokens' signatures are verified here after the appliance refused one. The appliance verifies each anyway, so in peace twice
	// would be once too often; of those who send forged ones it sees the first, and no more for so long.
	waryFor = time.Minute
	// leeway is what this clock may differ by from the appliance's, which decides whether a token is valid now.
	leeway = time.Minute
)

// enrolling is what tokens are looked at with before the appliance is asked.
type enrolling struct {
	evidence.Enrolment
	at time.Time // when the appliance said so
}

// learn takes what the appliance enrols by.
func (r *ra) learn(asked contract.Enrolling) error {
	e := &enrolling{Enrolment: evidence.Enrolment{Issuer: asked.Issuer, Audience: r.url + "/1.0/sign"}, at: time.Now()}
	for _, k := range asked.Keys {
		var jwk jose.JSONWebKey
		if err := json.Unmarshal(k, &jwk); err != nil {
			return fmt.Errorf("a token key: %w", err)
		}
		spki, err := x509.MarshalPKIXPublicKey(jwk.Key)
		if err != nil {
			return fmt.Errorf("token key %q: %w", jwk.KeyID, err)
		}
		e.Keys = append(e.Keys, evidence.TokenKey{ID: jwk.KeyID, SPKI: spki})
	}
	r.enrolling.Store(e)
	return nil
}

// known looks whether a token can be one of the appliance's, so that it is not asked about what anybody can send. What this says is worth nothing to the
// appliance, which verifies everything.
func (r *ra) known(ctx context.Context, token string) error {
	e, wary := r.enrolling.Load(), time.Now().UnixNano() < r.wary.Load()
	err := e.verify(token, wary)
	var refused *evidence.Refusal
	if !errors.As(err, &refused) || refused.Code() != "evidence.token_foreign" {
		return err
	}
	// Perhaps the key that signs tokens has a successor.
	r.following.Lock()
	defer r.following.Unlock()
	now := r.enrolling.Load()
	if now == e {
		if time.Since(e.at) < followEvery {
			return err
		}
		asked, failed := r.appliance.Enrolling(ctx)
		if failed == nil {
			failed = r.learn(asked)
		}
		if failed != nil {
			r.enrolling.Store(&enrolling{Enrolment: e.Enrolment, at: time.Now()}) // not at once again
			r.log.Error("what the appliance enrols by can't be asked", "error", failed)
			return err
		}
		now = r.enrolling.Load()
	}
	return now.verify(token, wary)
}

func (e *enrolling) verify(token string, signature bool) error {
	v := e.Enrolment
	v.At, v.Leeway = time.Now(), leeway
	if signature {
		return v.Token(token)
	}
	return v.Shape(token)
}

// read reads a request, within bounds; it answers itself if that can't be.
func read(w http.ResponseWriter, q *http.Request) ([]byte, bool) {
	b, err := io.ReadAll(q.Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		refuse(w, http.StatusRequestEntityTooLarge, "ra.too_large: the request has more than 64 KiB")
	case err != nil:
		refuse(w, http.StatusBadRequest, "ra.malformed: the request ended too early")
	}
	return b, err == nil
}

var limits = strict.Limits{Bytes: maxBody, Depth: maxDepth}

// signing takes a request of enrolment apart: the certificate request in DER, and the token. Lives and templates that `step` may ask for are not read.
func signing(body []byte) (csr []byte, token string, err error) {
	var asked struct {
		CSR       string          `json:"csr"`
		OTT       string          `json:"ott"`
		NotAfter  json.RawMessage `json:"notAfter"`
		NotBefore json.RawMessage `json:"notBefore"`
		Template  json.RawMessage `json:"templateData"`
	}
	if strict.JSON(body, limits, &asked) != nil {
		return nil, "", errors.New("ra.malformed: the request is not the JSON that is asked for here")
	}
	block, rest := pem.Decode([]byte(asked.CSR))
	if block == nil || len(rest) > 0 || (block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST") || len(block.Bytes) > evidence.MaxRequest {
		return nil, "", errors.New("ra.malformed: csr is not one certificate request in PEM, of 16 KiB at most")
	}
	return block.Bytes, asked.OTT, nil
}

// sign is where clients enrol.
func (r *ra) sign(w http.ResponseWriter, q *http.Request) {
	body, ok := read(w, q)
	if !ok {
		return
	}
	csr, token, err := signing(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := r.call() // what is begun is ended, whether or not somebody waits for it
	defer cancel()
	if err := r.known(ctx, token); err != nil {
		refuse(w, http.StatusUnauthorized, err.Error())
		return
	}
	r.certified(w, func() (contract.CertificateAnswer, error) {
		a, err := r.appliance.Register(ctx, contract.RegisterRequest{Token: token, CSR: b64.EncodeToString(csr)})
		if client.Code(err) == "evidence.token_signature" {
			r.log.Warn("somebody sends forged tokens: they are verified here for a while", "from", q.RemoteAddr)
			r.wary.Store(time.Now().Add(waryFor).UnixNano())
		}
		return a, err
	})
}

// rekey carries a statement by which a client changes its key.
func (r *ra) rekey(w http.ResponseWriter, q *http.Request) {
	body, ok := read(w, q)
	if !ok {
		return
	}
	var asked contract.RekeyRequest
	if strict.JSON(body, limits, &asked) != nil {
		refuse(w, http.StatusBadRequest, "ra.malformed: this is no request for another key")
		return
	}
	ctx, cancel := r.call() // what is begun is ended, whether or not somebody waits for it
	defer cancel()
	r.certified(w, func() (contract.CertificateAnswer, error) { return r.appliance.RekeyClient(ctx, asked) })
}

// certified answers as `step` reads it.
func (r *ra) certified(w http.ResponseWriter, ask func() (contract.CertificateAnswer, error)) {
	a, err := ask()
	if err != nil {
		status, text := said(err)
		refuse(w, status, text)
		return
	}
	cert, cas, err := answer(a, nil)
	if err != nil {
		refuse(w, http.StatusBadGateway, "ra.answer: the appliance answered with something else than certificates")
		return
	}
	chain := []string{text(cert.Raw)}
	for _, ca := range cas {
		chain = append(chain, text(ca.Raw))
	}
	send(w, http.StatusCreated, map[string]any{"crt": chain[0], "ca": chain[1], "certChain": chain, "tlsOptions": r.step().GetTLSOptions()})
}

func text(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// said is what the appliance said, with a status that `step` understands.
func said(err error) (status int, text string) {
	var p *client.Problem
	switch {
	case !errors.As(err, &p):
		return http.StatusServiceUnavailable, "ra.unavailable: the appliance can't be reached: try again later"
	case p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests:
		return http.StatusServiceUnavailable, p.Code + ": " + p.Detail
	}
	return http.StatusForbidden, p.Code + ": " + p.Detail
}

func refuse(w http.ResponseWriter, status int, message string) {
	send(w, status, map[string]any{"status": status, "message": message})
}

func send(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
