package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/sys/unix"

	"sealkeeper/ca"
	profile "sealkeeper/ca/x509"
	"sealkeeper/evidence"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/config"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/metrics"
	"sealkeeper/internal/sandbox"
	"sealkeeper/internal/signed"
	"sealkeeper/internal/supervisor"
	"sealkeeper/ledger"
	"sealkeeper/release"
	"sealkeeper/signer"
	"sealkeeper/signer/wire"
	"sealkeeper/softhsm"
)

// appliance is the spine, wired: everything between the listeners and the token.
type appliance struct {
	config  *config.Config
	clock   clock.Clock
	guard   *clock.Guard
	log     *slog.Logger
	metrics *metrics.Metrics
	held    map[string]bool // sandbox.Held at start
	ledger  *ledger.Ledger
	signer  *signer.Signer
	ca      *ca.Authority

	supervisor *supervisor.Supervisor
}

// assemble opens the ledger (which compares itself with what is outside), starts the workers, derives the secrets and wires the rooms. With
// founding true the domain secret is made if the ledger knows none; with confined true the workers run in a sandbox. exitFile is told if the disk fails.
func assemble(ctx context.Context, c *config.Config, log *slog.Logger, founding, confined bool, exitFile string) (_ *appliance, err error) {
	a := &appliance{config: c, clock: clock.System(), log: log, metrics: metrics.New()}
	defer func() {
		if err != nil {
			a.close(context.WithoutCancel(ctx))
		}
	}()
	source, err := loadPolicy(c)
	if err != nil {
		return nil, &coded{exitUsage, err}
	}
	anchors, err := loadAnchors(c.WalletProviders)
	if err != nil {
		return nil, &coded{exitUsage, err}
	}
	module, err := softhsm.FindModule(c.Module)
	if err != nil {
		return nil, &coded{exitHSM, err}
	}
	if err := os.MkdirAll(filepath.Dir(c.HighWater), 0o700); err != nil {
		return nil, fmt.Errorf("high_water: %w", err)
	}
	a.ledger, err = ledger.Open(ctx, ledger.Options{Path: c.Ledger(), HighWater: c.HighWater, Publish: c.PublishDir(), Clock: a.clock, Log: log, Metrics: a.metrics,
		BaseURL: c.PublicURL, ListSize: c.ListEntries, GiveUpAfter: c.GiveUp, Reserve: int64(c.Reserve) << 20, Fatal: diskFailed(log, exitFile)})
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", c.Ledger(), err)
	}
	crashpoint.Here("start.opened")
	if !founding {
		if err := unfinished(ctx, c, a.ledger); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a.signer, err = signer.New(ctx, signer.Options{Ledger: a.ledger, Deadline: c.Deadline, Queue: c.Queue, Log: log, Metrics: a.metrics, Tokens: []signer.Token{
		tokenOptions(self, module, c, c.Online, false, confined), tokenOptions(self, module, c, c.IACA, true, confined)}})
	if err != nil {
		return nil, fmt.Errorf("starting HSM workers: %w", err)
	}
	crashpoint.Here("start.workers")
	if _, known, err := a.ledger.Meta(ctx, signer.SecretMeta("online")); err != nil {
		return nil, err
	} else if !known {
		if !founding {
			return nil, &coded{exitUsage, fmt.Errorf("the ledger %s knows no domain secret: run `sealkeeperd init --config %s` first", c.Ledger(), c.File)}
		}
		if err := a.makeSecret(ctx); err != nil {
			return nil, err
		}
	}
	var s ledger.Secrets
	var nonce, session, pairwise, pseudonym [32]byte
	for label, to := range map[string]*[32]byte{ledger.LabelIndex: &s.Index, ledger.LabelLookup: &s.Lookup, ledger.LabelSalt: &s.Salt, ledger.LabelCommit: &s.Commit,
		ledger.LabelNonce: &nonce, ledger.LabelSession: &session, ledger.LabelPairwise: &pairwise, ledger.LabelPseudonym: &pseudonym} {
		if *to, err = a.signer.Derive(ctx, label); err != nil {
			return nil, fmt.Errorf("deriving %s: %w", label, err)
		}
	}
	a.ledger.Unlock(s)
	crashpoint.Here("start.derived")
	if _, err := a.signer.Mark(ctx, "online"); err != nil { // before anything is signed
		return nil, fmt.Errorf("starting HSM workers: %w", err)
	}
	a.metrics.OnLook(func() {
		var disk unix.Statfs_t
		if unix.Statfs(c.Data, &disk) == nil {
			a.metrics.DiskFree.Set(float64(disk.Bavail) * float64(disk.Bsize))
			a.metrics.DiskSize.Set(float64(disk.Blocks) * float64(disk.Bsize))
		}
	})
	accepted, err := a.ledger.ClockAccepted(ctx, a.clock.Now())
	if err != nil {
		return nil, err
	}
	a.guard = clock.NewGuard(a.clock, a.ledger.LastIssued(), c.ListLife, accepted)
	a.ca, err = ca.New(ctx, ca.Options{Ledger: a.ledger, Signer: a.signer, Gate: release.New(a.ledger, a.signer, a.metrics),
		Trust: evidence.Trust{WalletProviders: anchors, NonceKey: nonce, SessionKey: session, PairwiseKey: pairwise, NonceLife: c.NonceLife,
			AttestationAge: c.AttestationAge, Skew: c.Skew, MaxKeys: c.MaxKeys},
		Policy: source, Guard: a.guard, Clock: a.clock, Random: rand.Reader, Pseudonym: pseudonym,
		X509:    profile.Params{Country: c.Country, State: c.State, Organization: c.Organization, IssuerURL: c.PublicURL, CRLURL: c.CRLURL},
		RA:      registrationAuthority(c),
		BaseURL: c.PublicURL, Directory: c.PublishDir(), ListTTL: c.ListTTL, ListLife: c.ListLife, CRLLife: c.CRLLife, CRLParts: c.CRLParts, GiveUpEvery: min(10*time.Minute, max(time.Second, c.GiveUp/4)), Version: version, Log: log, Metrics: a.metrics})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// diskFailed leaves, since the state is unknown: the next start is the recovery. Nothing runs that would at an orderly end, so the exit file, if there is one,
// is told here; that it may be on the same disk holds nothing up.
func diskFailed(log *slog.Logger, exitFile string) func(error) {
	return func(err error) {
		log.Error("the ledger's disk failed; nothing after this was acknowledged", "error", err)
		if exitFile != "" {
			told := make(chan struct{})
			go func() {
				defer close(told)
				if err := metrics.WriteExit(exitFile, exitFailed, time.Now()); err != nil {
					log.Error("writing the exit code", "error", err)
				}
			}()
			select {
			case <-told:
			case <-time.After(time.Second):
			}
		}
		os.Exit(exitFailed)
	}
}

func registrationAuthority(c *config.Config) ca.RA {
	if c.RAURL == "" {
		return ca.RA{}
	}
	u, err := url.Parse(c.RAURL)
	if err != nil { // the configuration was checked
		return ca.RA{}
	}
	return ca.RA{URL: c.RAURL, Hosts: []string{u.Hostname()}}
}

func (a *appliance) makeSecret(ctx context.Context) error {
	id, blob, err := a.signer.NewSecret(ctx, "online")
	if err != nil {
		return fmt.Errorf("making the domain secret: %w", err)
	}
	crashpoint.Here("init.secret-made") // on the token, in no ledger
	wrapped, err := cbor.Marshal(wire.Wrapped{CKAID: id, Blob: blob})
	if err != nil {
		return err
	}
	if err := a.ledger.PutMeta(ctx, signer.SecretMeta("online"), wrapped); err != nil {
		return fmt.Errorf("storing the wrapped domain secret: %w", err)
	}
	return a.signer.Reload(ctx, "online")
}

func (a *appliance) close(ctx context.Context) error {
	var errs []error
	if a.signer != nil {
		errs = append(errs, a.signer.Close(ctx))
	}
	if a.ledger != nil {
		errs = append(errs, a.ledger.Close())
	}
	return errors.Join(errs...)
}

func tokenOptions(self, module string, c *config.Config, t config.Token, onDemand, confined bool) signer.Token {
	workers := c.Workers
	if onDemand {
		workers = 1
	}
	var confine func() error
	if confined {
		confine = func() error {
			err := sandbox.Restrict(workerConfinement(c, t, module, self))
			if errors.Is(err, sandbox.ErrUnavailable) {
				err = nil // reported at start: Held
			}
			return err
		}
	}
	// Workers of a token start one after the other, so that one place is enough for its PIN; it lives as long as the process.
	place, _ := sandbox.Locked(maxPIN + 1)
	return signer.Token{Name: t.Name, Module: module, Label: t.Label, Serial: t.Serial, PIN: func() ([]byte, error) { return readPIN(t, place) }, Marker: t.Marker, Confine: confine,
		Workers: workers, Sessions: c.Sessions, OnDemand: onDemand, Idle: 5 * time.Second, Copies: c.Copies,
		Command: func() *exec.Cmd {
			cmd := exec.Command(self, "worker")
			cmd.Env = []string{"PATH=/usr/bin:/bin", "LANG=C"}
			if t.Dir != "" {
				cmd.Args = append(cmd.Args, "--token-dir", t.Dir)
				cmd.Env = append(cmd.Env, softhsm.Env(t.Dir)...)
			}
			return cmd
		},
		Environment: func(place int) (out []string) {
			insert := strings.NewReplacer("{token}", t.Name, "{worker}", fmt.Sprint(place))
			for _, v := range c.Environment {
				out = append(out, insert.Replace(v))
			}
			return out
		}}
}

const maxPIN = 255

// lent fails if systemd lends its service the PIN and this process got none.
func lent(t config.Token) error {
	if t.PINFile != "" {
		return nil
	}
	return fmt.Errorf("hsm.%s.pin_file: systemd lends its service the PIN, and $CREDENTIALS_DIRECTORY is not set here: start the service, or run the command as "+
		"the operator's guide says (With systemd, Commands that need a PIN)", t.Name)
}

// readPIN reads a PIN, which nobody else may read, into place. What systemd lends its service belongs to root, and an access list lets the
// service's user read it: that shows in the group's bits.
func readPIN(t config.Token, place []byte) ([]byte, error) {
	if err := lent(t); err != nil {
		return nil, err
	}
	path, foreign := t.PINFile, os.FileMode(0o077)
	if t.Lent {
		foreign = 0o037
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("PIN file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("PIN file: %w", err)
	}
	if st.Mode().Perm()&foreign != 0 {
		return nil, fmt.Errorf("PIN file %s has mode %04o: others may read it; run `chmod 0400 %s`", path, st.Mode().Perm(), path)
	}
	pin := place[:maxPIN+1]
	n, err := io.ReadFull(f, pin)
	if err == nil || n == 0 {
		clear(pin)
		return nil, fmt.Errorf("PIN file %s is empty or longer than %d bytes", path, maxPIN)
	}
	pin = pin[:n]
	for len(pin) > 0 && (pin[len(pin)-1] == '\n' || pin[len(pin)-1] == '\r') {
		pin = pin[:len(pin)-1]
	}
	return pin, nil
}

// loadPolicy reads the configuration's bundle and the registered policy keys, and refuses what could not be put to use.
func loadPolicy(c *config.Config) (s ca.PolicySource, err error) {
	s.Name, s.Signers.Threshold = c.Policy, c.PolicyThreshold
	for _, k := range c.PolicySigners {
		data, err := os.ReadFile(k.File)
		if err != nil {
			return s, fmt.Errorf("policy key %s: %w", k.ID, err)
		}
		public, err := policyKey(data)
		if err != nil {
			return s, fmt.Errorf("policy key %s: %s: %w", k.ID, k.File, err)
		}
		for _, o := range s.Signers.Keys {
			if signed.Same(o.Public, public) {
				return s, fmt.Errorf("policy keys %s and %s are the same key: each signer has its own", o.ID, k.ID)
			}
		}
		s.Signers.Keys = append(s.Signers.Keys, signed.Key{ID: k.ID, Public: public})
	}
	if s.File, err = os.ReadFile(c.Policy); err != nil {
		return s, fmt.Errorf("policy bundle: %w", err)
	}
	_, _, err = s.Signers.Open(c.Policy, s.File)
	return s, err
}

// policyKey reads a public key, as PEM or JWK.
func policyKey(data []byte) (crypto.PublicKey, error) {
	if block, _ := pem.Decode(data); block != nil {
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err == nil && signed.Algorithm(public) == "" {
			err = errors.New("it is on none of P-256, P-384 and Ed25519")
		}
		return public, err
	}
	k, err := evidence.ParseKey(data)
	return k.Public, err
}

func loadAnchors(paths []string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return nil, fmt.Errorf("wallet provider anchor: %w", err)
		}
		certs, err := anchors(data)
		if err != nil {
			return nil, fmt.Errorf("wallet provider anchor %s: %w", p, err)
		}
		out = append(out, certs...)
	}
	return out, nil
}

// anchors reads the certificates of a PEM file; other blocks may stand between.
func anchors(data []byte) (out []*x509.Certificate, err error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, errors.New("no PEM block of type CERTIFICATE")
	}
	return out, nil
}

// logger writes JSON lines, or text for a person at a terminal.
func logger(level string, text bool) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return nil, &coded{exitUsage, fmt.Errorf("--log-level %q: use debug, info, warn or error", level)}
	}
	o := &slog.HandlerOptions{Level: l}
	if text {
		return slog.New(slog.NewTextHandler(os.Stderr, o)), nil
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, o)), nil
}
