package ca

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	profile "sealkeeper/ca/x509"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/signer"
)

// KeySpec is one key that Found makes.
type KeySpec struct {
	ID        string
	Token     string
	Purpose   policy.Purpose
	Algorithm string
	Profile   string
	Name      string // common name
	Issuer    string // registry id of the key that certifies it; itself for a root
	Life      time.Duration
	Use       time.Duration // private-key use ends this long after the start, before the certificate does
	URIs      []string
	Copies    bool
}

const day = 24 * time.Hour

// Founding lists the keys of a new installation, roots first. Private-key use of the credential signers ends 100 days before their
// certificates, so that a credential of 90 days never outlives its signer's certificate. EdDSA is for the credential signers alone: ISO/IEC
// 18013-5 B.1 and B.9 allow only EC keys for the IACA and for status lists, and TLS stacks are slow to take Ed25519 roots.
func Founding(name, algorithm, issuerURL string, copies bool) []KeySpec {
	ec := algorithm
	if ec == "EdDSA" {
		ec = "ES256"
	}
	var uris []string
	if issuerURL != "" {
		uris = []string{issuerURL}
	}
	return []KeySpec{
		{ID: "iaca-1", Token: "iaca", Purpose: policy.PurposeIACA, Algorithm: ec, Profile: "iaca", Name: name + " IACA 1", Issuer: "iaca-1", Life: 9 * 365 * day, Use: 7 * 365 * day},
		{ID: "client-ca-1", Token: "online", Purpose: policy.PurposeClientCA, Algorithm: ec, Profile: "client-ca", Name: name + " client CA 1", Issuer: "client-ca-1", Life: 5 * 365 * day, Use: 4 * 365 * day, Copies: copies},
		{ID: "ds-1", Token: "online", Purpose: policy.PurposeMDoc, Algorithm: algorithm, Profile: "document-signer", Name: name + " document signer 1", Issuer: "iaca-1", Life: 450 * day, Use: 350 * day, Copies: copies},
		{ID: "sdjwt-issuer-1", Token: "online", Purpose: policy.PurposeSDJWT, Algorithm: algorithm, Profile: "sdjwt-issuer", Name: name + " SD-JWT issuer 1", Issuer: "iaca-1", Life: 450 * day, Use: 350 * day, URIs: uris, Copies: copies},
		{ID: "status-1", Token: "online", Purpose: policy.PurposeList, Algorithm: ec, Profile: "status-signer", Name: name + " status list signer 1", Issuer: "iaca-1", Life: 1180 * day, Use: 1170 * day, Copies: copies},
		{ID: "token-1", Token: "online", Purpose: policy.PurposeToken, Algorithm: ec, Use: 5 * 365 * day, Copies: copies},
	}
}

// Found makes, registers, certifies and activates keys that are not there yet; a founding that was interrupted goes on where it stopped.
// report is called after each step.
func (a *Authority) Found(ctx context.Context, specs []KeySpec, report func(step string)) error {
	for _, s := range specs {
		k, ok := a.key(s.ID)
		if ok && k.State != ledger.KeyPlanned && k.State != ledger.KeyGenerated {
			continue
		}
		if !ok { // first: a key that a crash leaves on the token is one that the registry knows
			k = ledger.Key{ID: s.ID, Token: s.Token, Purpose: s.Purpose, Algorithm: s.Algorithm, CKAID: signer.NewID(), State: ledger.KeyPlanned, Copies: s.Copies}
			if err := a.o.Ledger.PutKey(ctx, k); err != nil {
				return fmt.Errorf("planning key %s: %w", s.ID, err)
			}
		}
		if k.State == ledger.KeyPlanned {
			made, err := a.o.Signer.Generate(ctx, s.Token, s.ID, s.Algorithm, k.CKAID, s.Copies)
			if err != nil {
				return fmt.Errorf("generating key %s: %w", s.ID, err)
			}
			crashpoint.Here("ca.found.generated")
			k.SPKI, k.State = made.SPKI, ledger.KeyGenerated
			if err := a.o.Ledger.PutKey(ctx, k); err != nil {
				return fmt.Errorf("registering key %s: %w", s.ID, err)
			}
			crashpoint.Here("ca.found.registered")
			if err := a.o.Signer.Reload(ctx, s.Token); err != nil {
				return fmt.Errorf("loading key %s: %w", s.ID, err)
			}
			report(fmt.Sprintf("key %-15s %s on token %s", s.ID, s.Algorithm, s.Token))
		}
		now := a.o.Clock.Now().Truncate(time.Second)
		if s.Profile == "" { // tokens are verified here alone, with the pinned key
			k.State, k.NotBefore, k.NotAfter = ledger.KeyActive, now, now.Add(s.Use)
			if err := a.o.Ledger.PutKey(ctx, k); err != nil {
				return fmt.Errorf("activating key %s: %w", s.ID, err)
			}
			continue
		}
		der, err := a.certify(ctx, policy.Cert{Profile: s.Profile, Name: s.Name, SPKI: k.SPKI, NotBefore: now, NotAfter: now.Add(s.Life), URIs: s.URIs, IssuerKey: s.Issuer})
		if err != nil {
			return fmt.Errorf("certifying key %s: %w", s.ID, err)
		}
		k.Chain, k.State, k.NotBefore, k.NotAfter, k.Until = [][]byte{der}, ledger.KeyActive, now, now.Add(s.Use), notAfter(der)
		if err := a.o.Ledger.PutKey(ctx, k); err != nil {
			return fmt.Errorf("activating key %s: %w", s.ID, err)
		}
		report(fmt.Sprintf("certificate %-15s %s until %s", s.ID, s.Profile, now.Add(s.Life).Format(time.DateOnly)))
	}
	if err := a.shelveCertificates(ctx); err != nil {
		return err
	}
	for _, p := range revokers {
		if _, err := a.renewCRLs(ctx, p, a.o.Clock.Now()); err != nil {
			return err
		}
	}
	return nil
}

// Certify issues a server's certificate under the clients' CA, while the clock is trusted: one that a wrong wall dated is worth nothing once the wall is right.
func (a *Authority) Certify(ctx context.Context, name string, spki []byte, hosts []string, life time.Duration) ([]byte, error) {
	now, err := a.now()
	if err != nil {
		return nil, err
	}
	return a.certifyServer(ctx, name, spki, hosts, life, now)
}

// CertifyByWall is Certify for commands on the machine: an appliance that stood still for longer than lists live needs a certificate before anybody can have
// its clock accepted, and whoever runs the command sees what the wall shows.
func (a *Authority) CertifyByWall(ctx context.Context, name string, spki []byte, hosts []string, life time.Duration) ([]byte, error) {
	return a.certifyServer(ctx, name, spki, hosts, life, a.o.Clock.Now())
}

func (a *Authority) certifyServer(ctx context.Context, name string, spki []byte, hosts []string, life time.Duration, now time.Time) ([]byte, error) {
	ca, err := a.activeKey(policy.PurposeClientCA, now)
	if err != nil {
		return nil, err
	}
	now = now.Truncate(time.Second)
	return a.certify(ctx, policy.Cert{Profile: "server", Name: name, SPKI: spki, NotBefore: now, NotAfter: now.Add(life), Hosts: hosts, IssuerKey: ca.ID})
}

func (a *Authority) certify(ctx context.Context, c policy.Cert) ([]byte, error) {
	return a.certifyFor(ctx, c, func(f policy.CertFacts) (*policy.Approval, policy.Decision, error) {
		approval, d := policy.DecideCert(a.rules().bundle, f, c.NotBefore)
		return approval, d, nil
	})
}

// certifyFor takes one certificate through decision, draft, lint, reservation, signature and settlement.
func (a *Authority) certifyFor(ctx context.Context, c policy.Cert, decide func(policy.CertFacts) (*policy.Approval, policy.Decision, error)) ([]byte, error) {
	issuer, ok := a.key(c.IssuerKey)
	if !ok {
		return nil, fmt.Errorf("issuer key %s is not registered", c.IssuerKey)
	}
	if _, err := io.ReadFull(a.o.Random, c.Serial[:]); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	c.Serial[0] &= 0x7f // positive, 159 random bits (formats.md 3.3: at least 63, should 71)
	c.Serial[0] |= 0x40
	if len(issuer.Chain) > 0 { // else a root is signing itself
		c.CRL = a.crlFor(issuer, c.Serial[:])
	}
	f := policy.CertFacts{Cert: c, IssuerPurpose: issuer.Purpose}
	var issuerCert []byte
	if len(issuer.Chain) > 0 {
		issuerCert = issuer.Chain[0]
		parsed, err := profile.Issuer(issuerCert)
		if err != nil {
			return nil, fmt.Errorf("certificate of %s: %w", issuer.ID, err)
		}
		f.IssuerNotBefore, f.IssuerNotAfter = parsed.NotBefore, parsed.NotAfter
		if c.NotAfter.After(parsed.NotAfter) {
			c.NotAfter = parsed.NotAfter
			f.Cert = c
		}
	}
	approval, d, err := decide(f)
	if err != nil {
		return nil, err
	}
	if err := a.decided("cert", d); err != nil {
		return nil, err
	}
	tbs, err := profile.Draft(approval, issuer, issuerCert, a.o.X509)
	if err != nil {
		return nil, err
	}
	return a.signDER(ctx, approval, tbs, issuer.ID, issuer.Purpose)
}

func (a *Authority) signDER(ctx context.Context, approval *policy.Approval, tbs *profile.TBS, key string, p policy.Purpose) ([]byte, error) {
	r, err := a.o.Ledger.Reserve(ctx, approval, []ledger.Draft{{KeyID: key, Purpose: p, TBSHash: sha256.Sum256(tbs.Bytes())}}, nil)
	if err != nil {
		return nil, fmt.Errorf("reserving: %w", err)
	}
	checked, err := a.sign(ctx, r, [][]byte{tbs.Bytes()})
	if err != nil {
		return nil, err
	}
	der, err := profile.Join(tbs, checked, 0)
	if err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	out, err := a.o.Gate.Pass(ctx, checked, der)
	if err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// notAfter of a certificate of our own.
func notAfter(der []byte) time.Time {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return time.Time{}
	}
	return c.NotAfter
}

func (a *Authority) key(id string) (ledger.Key, bool) {
	for _, k := range a.o.Ledger.Keys() {
		if k.ID == id {
			return k, true
		}
	}
	return ledger.Key{}, false
}

// lastError is how something went the last time.
type lastError struct {
	mu  sync.Mutex
	err error
}

func (l *lastError) set(err error) { l.mu.Lock(); defer l.mu.Unlock(); l.err = err }
func (l *lastError) last() error   { l.mu.Lock(); defer l.mu.Unlock(); return l.err }

// selftests remembers when each key was tested and how it went; probes read the cached result.
type selftests struct {
	at     map[string]time.Time // run's goroutine alone, as failed
	failed map[string]error
	lastError
}

// selftestEvery is how often the running appliance tests its keys by itself. After a failure it does so as soon as policy allows.
const selftestEvery = 5 * time.Minute

func (s *selftests) run(ctx context.Context, a *Authority) {
	for {
		s.once(ctx, a)
		wait := selftestEvery
		if s.last() != nil {
			wait = policy.SelftestEvery
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// once tests every active online key that has a self test. It is decided, reserved and journalled like any other signature. A key that could
// not be tested now keeps its last result: a full lane says nothing about it, and the time of lists can stand still.
func (s *selftests) once(ctx context.Context, a *Authority) {
	now := a.o.Guard.ForLists()
	if s.at == nil {
		s.at, s.failed = map[string]time.Time{}, map[string]error{}
	}
	var errs []error
	for _, k := range a.o.Ledger.Keys() {
		if !a.o.Ledger.Signs(k) || policy.SelftestBytes(k.Purpose, k.Algorithm) == nil {
			continue
		}
		if at := s.at[k.ID]; at.IsZero() || now.Sub(at) >= policy.SelftestEvery {
			err := a.selftestKey(ctx, k, at, now)
			if ctx.Err() != nil { // the daemon ends: no key failed
				return
			}
			if !errors.Is(err, signer.ErrBusy) {
				s.at[k.ID], s.failed[k.ID] = now, err
			}
		}
		if err := s.failed[k.ID]; err != nil {
			errs = append(errs, fmt.Errorf("key %s: %w", k.ID, err))
		}
	}
	err := errors.Join(errs...)
	if err != nil {
		a.o.Log.Error("self test", "error", err)
	}
	s.set(err)
}

func (a *Authority) selftestKey(ctx context.Context, k ledger.Key, last, now time.Time) error {
	approval, d := policy.DecideSelftest(a.rules().bundle, k.ID, k.Purpose, true, last, now)
	if err := a.decided("selftest", d); err != nil {
		return err
	}
	tbs := policy.SelftestBytes(k.Purpose, k.Algorithm)
	r, err := a.o.Ledger.Reserve(ctx, approval, []ledger.Draft{{KeyID: k.ID, Purpose: k.Purpose, TBSHash: sha256.Sum256(tbs)}}, nil)
	if err != nil {
		return fmt.Errorf("reserving: %w", err)
	}
	checked, err := a.sign(ctx, r, [][]byte{tbs})
	if err != nil {
		return err
	}
	_, err = a.o.Gate.Pass(ctx, checked, nil)
	return err
}
