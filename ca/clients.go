package ca

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sealkeeper/ca/token"
	profile "sealkeeper/ca/x509"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// Clients of the listeners with mTLS. The policy bundle names some of them; the others are enrolled by officers, and their certificates come from
// tokens, renewals and statements that arrive through a registration authority, which is believed nothing.

// enrolled is what the bundle is asked by about clients that it does not name.
func (a *Authority) enrolled(id string) (policy.Enrolment, bool) {
	e, known := a.o.Ledger.Client(id)
	if !known || e.Named || e.State == ledger.ClientRevoked {
		return policy.Enrolment{}, false
	}
	return e.Enrolment, true
}

// facts of a client as it is registered now.
func (a *Authority) facts(id string, now time.Time) policy.ClientFacts {
	e, known := a.o.Ledger.Client(id)
	if !known {
		return policy.ClientFacts{}
	}
	f := e.Facts(now)
	var withdrawn bool
	withdrawn, f.Held = a.withheld(e, now)
	f.Revoked = f.Revoked || withdrawn
	return f
}

// withheld says of a client's certificates that have not ended whether one is revoked for good, and whether one is on hold. A client's certificate is revoked
// for good with the client alone: if the client is not revoked here, the ledger is one of before that, and a published list brought back the certificate only.
func (a *Authority) withheld(e *ledger.ClientEntry, now time.Time) (revoked, held bool) {
	for _, c := range e.Certificates {
		if r, known := a.o.Ledger.RevokedCertificate(pad(c.Serial)); known && now.Before(c.NotAfter) {
			revoked, held = revoked || r.Reason != policy.CertificateHold, held || r.Reason == policy.CertificateHold
		}
	}
	return revoked, held
}

// onHold says whether a certificate is.
func (a *Authority) onHold(serial []byte) bool {
	r, known := a.o.Ledger.RevokedCertificate(serial)
	return known && r.Reason == policy.CertificateHold
}

// CertifyNamed issues a certificate for a client that the policy bundle names, and registers its key. Whoever asks has the machine.
func (a *Authority) CertifyNamed(ctx context.Context, id string, spki []byte, life time.Duration) ([]byte, error) {
	role, ok := a.Role(id)
	if !ok {
		return nil, &Problem{Code: "enrolment.unknown", Detail: "the policy names no client " + id}
	}
	wall := func() (time.Time, error) { return a.o.Clock.Now(), nil } // as CertifyByWall
	return a.certifyClient(ctx, wall, func(now time.Time, f policy.CertFacts) (*policy.Approval, policy.Decision, error) {
		c := a.facts(id, now)
		if c.Revision == 0 {
			c.Enrolment = policy.Enrolment{ID: id, Role: role, Life: int64(life / time.Second)}
		}
		f.Cert.SPKI = spki
		approval, d := policy.DecideNamedCert(a.rules().bundle, c, f, now)
		return approval, d, nil
	})
}

// certifyClient has a certificate made by what decide says of the client at that instant; again, if the client changed meanwhile.
func (a *Authority) certifyClient(ctx context.Context, instant func() (time.Time, error), decide func(time.Time, policy.CertFacts) (*policy.Approval, policy.Decision, error)) ([]byte, error) {
	for try := 0; ; try++ {
		now, err := instant()
		if err != nil {
			return nil, err
		}
		ca, err := a.activeKey(policy.PurposeClientCA, now)
		if err != nil {
			return nil, err
		}
		der, err := a.certifyFor(ctx, policy.Cert{Profile: "client", NotBefore: now.Truncate(time.Second), IssuerKey: ca.ID}, func(f policy.CertFacts) (*policy.Approval, policy.Decision, error) {
			return decide(now, f)
		})
		if try == 4 || !errors.Is(err, ledger.ErrConflict) {
			return der, err
		}
	}
}

// RA is the registration authority that clients enrol at.
type RA struct {
	URL   string   // https, as clients reach it; empty: there is none
	Hosts []string // of its server certificate
}

func init() {
	Codes["enrolment.unconfigured"] = "The configuration names no registration authority, so nobody can enrol."
	Codes["enrolment.retiring"] = "Registration authorities revoked as many clients within the hour as they may: have officers revoke more."
}

// issuer is the name of the tokens' provisioner.
const issuer = "sealkeeper"

func (r RA) audience() string { return r.URL + "/1.0/sign" }
func (r RA) rekeying() string { return r.URL + "/sealkeeper/rekey" }

// enrolClients keeps what officers approved.
func (a *Authority) enrolClients(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p, b := q.Parameters().(*officer.Enrol), a.rules().bundle
	for _, e := range p.Clients {
		if !b.Admits(e) {
			return &Problem{Code: "enrolment.forbidden", Detail: fmt.Sprintf("the policy has no group for enrolled clients of role %s and channel %q, or names client %s itself", e.Role, e.Channel, e.ID)}
		}
	}
	if now := a.o.Clock.Now(); !p.Until.After(now) || p.Until.After(now.Add(90*day)) {
		return &Problem{Code: "enrolment.late", Detail: "the time to register a key ends within 90 days, and not before now"}
	}
	return a.o.Ledger.Enrol(ctx, p.Clients, p.Until, x)
}

// dismissClients revokes them.
func (a *Authority) dismissClients(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	p, named := q.Parameters().(*officer.Dismiss), map[string]string{}
	for _, id := range p.Clients {
		if role, ok := a.Role(id); ok {
			named[id] = role
		}
	}
	n, err := a.o.Ledger.RevokeClients(ctx, p.Clients, named, "dismissed", "", x)
	if err == nil {
		a.o.Log.Warn("clients were revoked", "clients", n, "proposal", x.ID)
	}
	return err
}

// Token makes the one-time token of a client that officers enrolled. It is for whoever sets the client up; the one before it is worth nothing any more.
func (a *Authority) Token(ctx context.Context, c Caller, r contract.TokenRequest) (none contract.TokenAnswer, _ error) {
	root, err := a.clientRoot()
	if err != nil {
		return none, err
	}
	for try := 0; ; try++ {
		out, err := a.token(ctx, c, r.Client, root)
		if err == nil || try == 4 || !errors.Is(err, ledger.ErrConflict) {
			return out, problem(err, nil)
		}
	}
}

func (a *Authority) token(ctx context.Context, c Caller, client string, root []byte) (none contract.TokenAnswer, _ error) {
	now := a.o.Clock.Now()
	k, err := a.activeKey(policy.PurposeToken, now)
	if err != nil {
		return none, err
	}
	var id [16]byte
	if _, err := io.ReadFull(a.o.Random, id[:]); err != nil {
		return none, fmt.Errorf("reading randomness: %w", err)
	}
	from := now.Truncate(time.Second)
	approval, d := policy.DecideToken(a.rules().bundle, a.facts(client, now), policy.Token{KeyID: k.ID, Issuer: issuer, Audience: a.o.RA.audience(), ID: base64.RawURLEncoding.EncodeToString(id[:]),
		Root: sha256.Sum256(root), IssuedAt: from, Expires: from.Add(policy.TokenLife)}, c.ID, now)
	if err := a.decided("token", d); err != nil {
		return none, err
	}
	tbs, err := token.Draft(approval, k)
	if err != nil {
		return none, err
	}
	res, err := a.o.Ledger.Reserve(ctx, approval, []ledger.Draft{{KeyID: k.ID, Purpose: policy.PurposeToken, TBSHash: sha256.Sum256(tbs.Bytes())}}, nil)
	if err != nil {
		return none, fmt.Errorf("reserving: %w", err)
	}
	checked, err := a.sign(ctx, res, [][]byte{tbs.Bytes()})
	if err != nil {
		return none, err
	}
	text, err := token.Join(tbs, checked, 0)
	if err != nil {
		return none, err
	}
	released, err := a.o.Gate.Pass(ctx, checked, text)
	if err != nil {
		return none, err
	}
	t, _ := approval.Token()
	sum := sha256.Sum256(root)
	a.o.Log.Info("a one-time token was handed out", "client", client, "to", c.ID)
	return contract.TokenAnswer{Client: client, Token: string(released.Bytes()), Expires: t.Expires.UTC(), URL: a.o.RA.URL, Fingerprint: hex.EncodeToString(sum[:])}, nil
}

// clientCA is a clients' CA with its own certificate.
type clientCA struct {
	ledger.Key
	cert *x509.Certificate
}

// clientCAs are the clients' CAs that have a certificate which is good now, the one that certifies first: from their hand-over on, or from their announcement.
func (a *Authority) clientCAs(announced bool) (all []clientCA) {
	now := a.o.Guard.Plausible() // a wall that is wrong takes no anchor away
	for _, k := range a.o.Ledger.Keys() {
		if k.Purpose != policy.PurposeClientCA || len(k.Chain) == 0 {
			continue
		}
		cert, err := profile.Issuer(k.Chain[0])
		if err == nil && slices.ContainsFunc(now[:], func(now time.Time) bool {
			return (k.Finishes(now) || announced && k.State == ledger.KeyAnnounced) && now.Before(cert.NotAfter)
		}) {
			all = append(all, clientCA{k, cert})
		}
	}
	slices.SortStableFunc(all, func(x, y clientCA) int {
		return cmp.Compare(slices.Index(clientCAStates, x.State), slices.Index(clientCAStates, y.State))
	})
	return all
}

var clientCAStates = []ledger.KeyState{ledger.KeyActive, ledger.KeyAnnounced, ledger.KeyDeactivated}

// ClientCAs are the anchors of clients' certificates: of the CA that certifies, and of those before it. One that is announced certified nobody.
func (a *Authority) ClientCAs() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, k := range a.clientCAs(false) {
		pool.AddCert(k.cert)
	}
	return pool
}

// ClientRoots are the anchors of our servers' certificates for clients, as PEM: also the one that is to come, which the CA before it vouches for.
func (a *Authority) ClientRoots() (text []byte) {
	for _, k := range a.clientCAs(true) {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Chain[0]})...)
	}
	return text
}

// clientLinks lead clients from roots that they have to those that came after: each link is followed by its root.
func (a *Authority) clientLinks() (ders [][]byte) {
	for _, k := range a.clientCAs(true) {
		if k.Link != nil && a.o.Clock.Now().Before(notAfter(k.Link)) {
			ders = append(ders, k.Link, k.Chain[0])
		}
	}
	return ders
}

// ServerLink is what a server shows besides its certificate, so that whoever has the root of before alone verifies it; nil: there is no such root any more.
// current says whether the certificate is none of a CA before the one that certifies now: who enrols from now on knows that one alone.
func (a *Authority) ServerLink(server *x509.Certificate) (link []byte, current bool) {
	now := a.o.Clock.Now()
	k, err := a.activeKey(policy.PurposeClientCA, now)
	if err != nil {
		return nil, true // nobody certifies: there is none to be had
	}
	if now.Before(notAfter(k.Link)) {
		link = k.Link
	}
	for _, before := range a.o.Ledger.Keys() {
		if before.Purpose != policy.PurposeClientCA || before.ID == k.ID || len(before.Chain) == 0 {
			continue
		}
		if ca, err := profile.Issuer(before.Chain[0]); err == nil && bytes.Equal(server.AuthorityKeyId, ca.SubjectKeyId) {
			return link, false
		}
	}
	return link, true
}

// certificateAnswer is a certificate with what is to be known about its issuer.
func (a *Authority) certificateAnswer(der, root []byte, expires time.Time) contract.CertificateAnswer {
	out := contract.CertificateAnswer{Certificate: text(der), Issuer: text(root), Expires: expires}
	for _, der := range a.clientLinks() {
		out.Links = append(out.Links, text(der))
	}
	return out
}

// clientRoot is the certificate of the client CA that is in use.
func (a *Authority) clientRoot() ([]byte, error) {
	if a.o.RA.URL == "" {
		return nil, &Problem{Code: "enrolment.unconfigured", Detail: "the configuration names no registration authority (ra_url)"}
	}
	k, err := a.activeKey(policy.PurposeClientCA, a.o.Clock.Now())
	if err != nil {
		return nil, err
	}
	return k.Chain[0], nil
}

// Enrolling is what a registration authority needs to know: nothing that is secret.
func (a *Authority) Enrolling(context.Context) (none contract.Enrolling, _ error) {
	if _, err := a.clientRoot(); err != nil {
		return none, err
	}
	out := contract.Enrolling{URL: a.o.RA.URL, Issuer: issuer, Root: string(a.ClientRoots()), Keys: []json.RawMessage{}}
	for _, k := range a.tokenKeys() {
		pub, err := x509.ParsePKIXPublicKey(k.SPKI)
		if err != nil {
			return none, err
		}
		jwk, err := (&jose.JSONWebKey{Key: pub, KeyID: k.ID, Use: "sig"}).MarshalJSON()
		if err != nil {
			return none, err
		}
		out.Keys = append(out.Keys, jwk)
	}
	return out, nil
}

// tokenKeys are the key that signs tokens, and those before it as long as a token of theirs is good.
func (a *Authority) tokenKeys() (keys []evidence.TokenKey) {
	now := a.o.Clock.Now()
	for _, k := range a.o.Ledger.Keys() {
		before := k.State == ledger.KeyDeactivated && !k.Drain.IsZero() && now.Before(k.Since.Add(policy.TokenLife))
		if k.Purpose == policy.PurposeToken && (k.State == ledger.KeyActive || before) {
			keys = append(keys, evidence.TokenKey{ID: k.ID, SPKI: k.SPKI})
		}
	}
	return keys
}

// RegisterClient certifies a client's first key by a one-time token. The registration authority is believed nothing: token and possession of the
// key are verified here, and what the certificate says comes from the enrolment.
func (a *Authority) RegisterClient(ctx context.Context, c Caller, r contract.RegisterRequest) (contract.CertificateAnswer, error) {
	return a.certifyEnrolled(ctx, c, "register", func(now time.Time) (*evidence.ClientKey, string, error) {
		k, err := evidence.Enrolment{Keys: a.tokenKeys(), Issuer: issuer, Audience: a.o.RA.audience(), At: now}.ByToken(r.Token, binary(r.CSR))
		if err != nil {
			return nil, "", err
		}
		return k, k.Client(), nil
	})
}

// RenewClient certifies a client's registered key again. Whoever asks for it gets what only the owner of that key can use.
func (a *Authority) RenewClient(ctx context.Context, c Caller, r contract.RenewClientRequest) (contract.CertificateAnswer, error) {
	return a.certifyEnrolled(ctx, c, "renew", func(now time.Time) (*evidence.ClientKey, string, error) {
		k, err := evidence.Renewing(binary(r.Key), now)
		return k, r.Client, err
	})
}

// RekeyClient certifies another key of a client, for which the registered one signed. Who comes with the registered key itself had a change of key whose
// answer was lost, since its old key can't sign for anything any more. It gets the certificate that was made, and what a renewal is only if none was:
// requests are no secrets, and whoever kept one must not use up what the client may have.
func (a *Authority) RekeyClient(ctx context.Context, c Caller, r contract.RekeyRequest) (none contract.CertificateAnswer, _ error) {
	asks, err := evidence.Requested(binary(r.CSR))
	owns := func() (e *ledger.ClientEntry, its bool) {
		e, known := a.o.Ledger.Client(r.Client)
		return e, known && err == nil && bytes.Equal(asks, e.Key)
	}
	if e, its := owns(); its {
		made, err := a.lastCertificate(ctx, e)
		if err != nil {
			return none, problem(err, nil)
		}
		if made != nil {
			root, err := a.clientRoot()
			if err != nil {
				return none, err
			}
			a.o.Log.Info("a client got its certificate once more", "client", r.Client, "through", c.ID, "until", made.NotAfter.UTC())
			return a.certificateAnswer(made.DER, root, made.NotAfter.UTC()), nil
		}
	}
	return a.certifyEnrolled(ctx, c, "rekey", func(now time.Time) (*evidence.ClientKey, string, error) {
		e, its := owns() // looked for again: a conflict means that it changed
		if its {
			k, err := evidence.Renewing(asks, now)
			return k, r.Client, err
		}
		var registered []byte
		if e != nil {
			registered = e.Key
		}
		k, err := evidence.Rekeying(r.Client, registered, r.Statement, binary(r.CSR), a.o.RA.rekeying(), now)
		return k, r.Client, err
	})
}

// lastCertificate is a client's newest one that is good for the key that it registered; nil: there is none.
func (a *Authority) lastCertificate(ctx context.Context, e *ledger.ClientEntry) (*ledger.Certificate, error) {
	now := a.o.Clock.Now()
	for _, c := range slices.Backward(e.Certificates) {
		made, err := a.o.Ledger.Certificate(ctx, pad(c.Serial))
		if err != nil {
			return nil, err
		}
		if _, revoked := a.o.Ledger.RevokedCertificate(pad(c.Serial)); revoked || made == nil || !now.Before(made.NotAfter) {
			continue
		}
		cert, err := x509.ParseCertificate(made.DER)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(cert.RawSubjectPublicKeyInfo, e.Key) {
			return made, nil
		}
	}
	return nil, nil
}

func (a *Authority) certifyEnrolled(ctx context.Context, c Caller, what string, verify func(time.Time) (*evidence.ClientKey, string, error)) (none contract.CertificateAnswer, _ error) {
	root, err := a.clientRoot()
	if err != nil {
		return none, err
	}
	var client string
	var expires time.Time
	der, err := a.certifyClient(ctx, a.now, func(now time.Time, f policy.CertFacts) (*policy.Approval, policy.Decision, error) {
		k, id, err := verify(now)
		if err != nil {
			return nil, policy.Decision{}, err
		}
		client = id
		approval, d := policy.DecideClientCert(a.rules().bundle, a.facts(id, now), k, f, c.ID, now)
		if approval != nil {
			approved, _ := approval.Cert()
			expires = approved.NotAfter.UTC()
		}
		return approval, d, nil
	})
	if err != nil {
		a.o.Log.Warn("a client got no certificate", "what", what, "client", client, "through", c.ID, "error", err)
		return none, problem(err, nil)
	}
	a.o.Log.Info("a client got a certificate", "what", what, "client", client, "through", c.ID, "until", expires)
	return a.certificateAnswer(der, root, expires), nil
}

// binary is what unpadded base64url says; nothing if it says nothing, which nobody takes for a request or a key.
func binary(s string) []byte {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}

func text(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// raRevocations in an hour: a registration authority that is broken into could else turn off the country. Officers have no bound.
const raRevocations = 20

// RetireClient revokes a client by the word of a registration authority, which had it from the client: by its certificate's serial number.
func (a *Authority) RetireClient(ctx context.Context, c Caller, r contract.RetireRequest) (contract.RetireAnswer, error) {
	serial, err := hex.DecodeString(r.Serial)
	e, known := a.o.Ledger.ClientBySerial(serial)
	if err != nil || !known {
		return contract.RetireAnswer{}, &Problem{Code: "enrolment.unknown", Detail: "no client has a certificate of this serial number that has not ended"}
	}
	if e.State == ledger.ClientRevoked {
		return contract.RetireAnswer{Client: e.ID}, nil
	}
	a.officers.Lock()
	defer a.officers.Unlock()
	now := a.o.Clock.Now()
	if len(a.retired) >= raRevocations && now.Sub(a.retired[0]).Abs() < time.Hour {
		a.o.Log.Error("ALARM: a registration authority revokes more clients in an hour than it may", "through", c.ID, "client", e.ID)
		return contract.RetireAnswer{}, &Problem{Code: "enrolment.retiring", Detail: fmt.Sprintf("%d clients were revoked within the hour by registration authorities: have officers revoke more", raRevocations)}
	}
	n, err := a.o.Ledger.RevokeClients(ctx, []string{e.ID}, nil, "retired", c.ID, nil)
	if err != nil {
		return contract.RetireAnswer{}, problem(err, nil)
	}
	if n > 0 {
		a.retired = append(a.retired, now)
		a.retired = a.retired[max(0, len(a.retired)-raRevocations):]
		a.o.Log.Warn("a client was revoked by its own word", "client", e.ID, "through", c.ID)
	}
	return contract.RetireAnswer{Client: e.ID}, nil
}

// CertifyRA issues the registration authority's own server certificate, for the names that the configuration gives it.
func (a *Authority) CertifyRA(ctx context.Context, c Caller, r contract.ServerRequest) (none contract.CertificateAnswer, _ error) {
	root, err := a.clientRoot()
	if err != nil {
		return none, err
	}
	spki, err := evidence.Requested(binary(r.CSR))
	if err != nil {
		return none, problem(err, nil)
	}
	der, err := a.Certify(ctx, a.o.RA.Hosts[0], spki, a.o.RA.Hosts, 24*time.Hour)
	if err != nil {
		return none, problem(err, nil)
	}
	a.o.Log.Info("a registration authority got a server certificate", "through", c.ID)
	return a.certificateAnswer(der, root, a.o.Clock.Now().Add(24*time.Hour).UTC().Truncate(time.Second)), nil
}
