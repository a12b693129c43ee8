package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/smallstep/certificates/api"
	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"
	cas "github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/db"
	"github.com/smallstep/certificates/errs"

	"sealkeeper/client"
	"sealkeeper/contract"
)

// ra is smallstep's authority with the appliance in the place of its keys and of its database. Enrolment it does itself: the authority would verify token
// and request, remember tokens and make a certificate from a template, of which the appliance believes nothing and does all again.
type ra struct {
	url       string
	appliance *client.Client
	log       *slog.Logger
	roots     atomic.Pointer[roots]
	tls       atomic.Pointer[tls.Certificate]

	enrolling atomic.Pointer[enrolling]
	following sync.Mutex   // one question about new token keys at a time
	wary      atomic.Int64 // until when, in unix ns, tokens' signatures are verified here
}

// roots are those of clients and servers, as the appliance named them, with the authority that shows them.
type roots struct {
	text string // PEM
	pool *x509.CertPool
	step *authority.Authority
}

// callTimeout bounds what the appliance is asked: the authority's interface gives no context.
const callTimeout = 15 * time.Second

func newAuthority(ctx context.Context, appliance *client.Client, log *slog.Logger) (*ra, error) {
	asked, err := appliance.Enrolling(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the appliance what it enrols by: %w", err)
	}
	r := &ra{url: asked.URL, appliance: appliance, log: log}
	if err := r.learn(asked); err != nil {
		return nil, err
	}
	if _, err := r.root(asked.Root); err != nil {
		return nil, err
	}
	return r, r.renewServer()
}

// root takes the roots that the appliance names, and says whether they are others than before. The embedded authority knows those that it began with: there
// is another one for others. That of before answers what it was asked.
func (r *ra) root(text string) (news bool, err error) {
	if now := r.roots.Load(); now != nil && now.text == text {
		return false, nil
	}
	next := &roots{text: text, pool: x509.NewCertPool()}
	var all []*x509.Certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return false, err
		}
		all = append(all, c)
		next.pool.AddCert(c)
	}
	if len(all) == 0 {
		return false, errors.New("the appliance named no root")
	}
	u, err := url.Parse(r.url)
	if err != nil {
		return false, err
	}
	c := &config.Config{Address: u.Host, DNSNames: []string{u.Hostname()}, CommonName: u.Hostname(), AuthorityConfig: &config.AuthConfig{Provisioners: provisioner.List{}}}
	if next.step, err = authority.NewEmbedded(authority.WithConfig(c), authority.WithX509CAService(r), authority.WithDatabase(nothing{}), authority.WithX509RootCerts(all...), authority.WithQuietInit()); err != nil {
		return false, err
	}
	r.roots.Store(next)
	return true, nil
}

func (r *ra) step() *authority.Authority { return r.roots.Load().step }

func (r *ra) close() { _ = r.step().Shutdown() }

func (r *ra) renewServer() error {
	c, err := r.step().GetTLSCertificate()
	if err != nil {
		return fmt.Errorf("its own server certificate: %w", err)
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return err
		}
	}
	r.tls.Store(c)
	return nil
}

// rootsEvery is how often the appliance is asked which roots there are.
const rootsEvery = 20 * time.Second

// anew are those of its own two certificates that are renewed before they are due, since there are other roots: who enrols then knows the new root alone, and
// this client has to know it before the old one ends.
type anew struct{ server, client bool }

// keepCertificates renews its own two: the server's, whose key is in memory, and the client's by which it speaks to the appliance. It looks at them again and
// again, however far the next renewal is: a timer stands still while the machine is suspended, and sees nothing of a wall that is set.
func (r *ra) keepCertificates(ctx context.Context, id *client.Identity) {
	roots := anew{client: !r.knows(id)} // it was announced while this process was not there
	for wait := rootsEvery; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = rootsEvery
		asked, err := r.appliance.Enrolling(ctx)
		if err == nil {
			var others bool
			if others, err = r.root(asked.Root); others {
				roots = anew{true, true}
			}
			err = errors.Join(err, r.learn(asked))
		}
		if err != nil {
			r.log.Error("which roots there are can't be asked", "error", err)
		}
		if !r.renewDue(ctx, id, &roots) || err != nil {
			wait = time.Minute
		}
	}
}

// knows says whether the client has every root that the appliance names.
func (r *ra) knows(id *client.Identity) bool {
	for block, rest := pem.Decode([]byte(r.roots.Load().text)); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && !id.Knows(c) {
			return false
		}
	}
	return true
}

// renewDue renews what is due of the two, and says whether all is well: a server's certificate with every try for the client's would be one a minute for as
// long as that is refused.
func (r *ra) renewDue(ctx context.Context, id *client.Identity, roots *anew) (well bool) {
	well = true
	leaf := r.tls.Load().Leaf
	if roots.server || !time.Now().Before(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore)*2/3)) {
		err := r.renewServer()
		if roots.server = roots.server && err != nil; err != nil {
			well = false
			r.log.Error("the server certificate is not renewed", "until", leaf.NotAfter, "error", err)
		}
	}
	if err := id.CatchUp(ctx); err != nil {
		well = false
		r.log.Error("its own client certificate is in use and can't be written", "error", err)
	}
	if !roots.client && time.Now().Before(id.Due()) {
		return well
	}
	key, err := id.SPKI()
	if err == nil {
		var a contract.CertificateAnswer
		if a, err = r.appliance.RenewClient(ctx, contract.RenewClientRequest{Client: id.Name(), Key: base64.RawURLEncoding.EncodeToString(key)}); err == nil {
			err = id.Take(a)
		}
	}
	if roots.client = roots.client && err != nil; err != nil {
		well = false
		r.log.Error("its own client certificate is not renewed", "until", id.Expires(), "error", err)
	}
	return well
}

// server speaks the protocol of `step`, and takes statements by which clients change their keys.
func (r *ra) server() *http.Server {
	router := chi.NewRouter()
	router.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			q.Body = http.MaxBytesReader(w, q.Body, maxBody)
			next.ServeHTTP(w, q.WithContext(authority.NewContext(q.Context(), r.step())))
		})
	})
	router.Route("/1.0", func(x chi.Router) { api.Route(x); x.Post("/sign", r.sign) })
	api.Route(router)
	router.Post("/sign", r.sign)
	router.Post("/sealkeeper/rekey", r.rekey)
	base := &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.VerifyClientCertIfGiven, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.tls.Load(), nil }}
	listens := base.Clone()
	listens.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := base.Clone()
		now.ClientCAs = r.roots.Load().pool
		return now, nil
	}
	return &http.Server{Handler: router, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: stdlog.New(io.Discard, "", 0),
		TLSConfig: listens}
}

func (r *ra) call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTimeout)
}

var b64 = base64.RawURLEncoding

// CreateCertificate has the appliance certify the registration authority's own server; nobody else gets a certificate here. The template is not sent, and
// would not be read.
func (r *ra) CreateCertificate(q *cas.CreateCertificateRequest) (*cas.CreateCertificateResponse, error) {
	if !q.IsCAServerCert {
		return nil, errs.Forbidden("clients enrol by one-time token")
	}
	ctx, cancel := r.call()
	defer cancel()
	a, err := r.appliance.ServerCertificate(ctx, contract.ServerRequest{CSR: b64.EncodeToString(q.CSR.Raw)})
	cert, chain, err := answer(a, err)
	if err != nil {
		return nil, err
	}
	return &cas.CreateCertificateResponse{Certificate: cert, CertificateChain: chain}, nil
}

// RenewCertificate asks for another certificate for the key of the old one: that it was shown here proves nothing to the appliance.
func (r *ra) RenewCertificate(q *cas.RenewCertificateRequest) (*cas.RenewCertificateResponse, error) {
	ctx, cancel := r.call()
	defer cancel()
	if len(q.Template.URIs) != 1 {
		return nil, errs.Forbidden("the certificate names no client")
	}
	parts := strings.Split(q.Template.URIs[0].String(), ":")
	spki, err := x509.MarshalPKIXPublicKey(q.Template.PublicKey)
	if err != nil {
		return nil, errs.BadRequestErr(err, "the key can't be encoded")
	}
	a, err := r.appliance.RenewClient(ctx, contract.RenewClientRequest{Client: parts[len(parts)-1], Key: b64.EncodeToString(spki)})
	cert, chain, err := answer(a, err)
	if err != nil {
		return nil, err
	}
	return &cas.RenewCertificateResponse{Certificate: cert, CertificateChain: chain}, nil
}

// RevokeCertificate revokes the client that has the certificate.
func (r *ra) RevokeCertificate(q *cas.RevokeCertificateRequest) (*cas.RevokeCertificateResponse, error) {
	ctx, cancel := r.call()
	defer cancel()
	serial, ok := new(big.Int).SetString(q.SerialNumber, 10)
	if !ok || serial.Sign() <= 0 {
		return nil, errs.BadRequest("the serial number is none")
	}
	reason := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, q.Reason)
	_, err := r.appliance.Retire(ctx, contract.RetireRequest{Serial: hex.EncodeToString(serial.Bytes()), Reason: reason[:min(len(reason), contract.MaxRetireReason)]})
	if err != nil {
		return nil, refusal(err)
	}
	return &cas.RevokeCertificateResponse{Certificate: q.Certificate}, nil
}

func answer(a contract.CertificateAnswer, err error) (*x509.Certificate, []*x509.Certificate, error) {
	if err != nil {
		return nil, nil, refusal(err)
	}
	parse := func(s string) (*x509.Certificate, error) {
		der, err := b64.DecodeString(s)
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(der)
	}
	cert, err := parse(a.Certificate)
	if err != nil {
		return nil, nil, err
	}
	chain, err := chainOf(a)
	if err != nil {
		return nil, nil, err
	}
	var cas []*x509.Certificate
	for _, text := range chain {
		ca, err := parse(text)
		if err != nil {
			return nil, nil, err
		}
		cas = append(cas, ca)
	}
	return cert, cas, nil
}

// chainOf is what goes with a certificate: its issuer, and what leads there, or further, from roots of before. A link comes before its root, as in a chain: whoever
// has the old root alone goes over it.
func chainOf(a contract.CertificateAnswer) ([]string, error) {
	if len(a.Links) > maxLinks {
		return nil, errors.New("the appliance answered with more links than there can be roots")
	}
	if slices.Contains(a.Links, a.Issuer) {
		return a.Links, nil
	}
	return append([]string{a.Issuer}, a.Links...), nil
}

const maxLinks = 8

// refusal passes on what the appliance said, with a status that `step` understands.
func refusal(err error) error {
	status, text := said(err)
	return errs.New(status, "%s", text)
}

// nothing is the authority's database: what there is to know about tokens, certificates and revocations, the appliance knows.
type nothing struct{}

func (nothing) IsRevoked(string) (bool, error)                   { return false, nil }
func (nothing) IsSSHRevoked(string) (bool, error)                { return false, db.ErrNotImplemented }
func (nothing) Revoke(*db.RevokedCertificateInfo) error          { return nil }
func (nothing) RevokeSSH(*db.RevokedCertificateInfo) error       { return db.ErrNotImplemented }
func (nothing) GetCertificate(string) (*x509.Certificate, error) { return nil, db.ErrNotImplemented }
func (nothing) UseToken(string, string) (bool, error)            { return false, db.ErrNotImplemented }
func (nothing) IsSSHHost(string) (bool, error)                   { return false, db.ErrNotImplemented }
func (nothing) GetSSHHostPrincipals() ([]string, error)          { return nil, db.ErrNotImplemented }
func (nothing) Shutdown() error                                  { return nil }
