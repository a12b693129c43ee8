package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sealkeeper/ca"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/config"
	"sealkeeper/internal/durable"
	"sealkeeper/ledger"
	"sealkeeper/ledger/published"
	"sealkeeper/officer"
	"sealkeeper/signer"
	"sealkeeper/signer/worker"
	"sealkeeper/softhsm"
)

func configFlag(c *cobra.Command, to *string) {
	c.Flags().StringVarP(to, "config", "c", "/etc/sealkeeper/sealkeeper.yaml", "configuration file")
}

func loadConfig(path string) (*config.Config, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, &coded{exitUsage, err}
	}
	return c, nil
}

func initCommand() *cobra.Command {
	var file string
	var o initOptions
	var asJSON bool
	c := &cobra.Command{
		Use:   "init (--officers FILE | --dev)",
		Short: "Make tokens, domain secret, keys, certificates and the ledger of a new installation, in a ceremony of its officers",
		Long: `init makes what a new installation needs: two tokens with PINs of their own (embedded SoftHSM), the domain secret, the keys, their
certificates and the first CRL. With --officers it is a ceremony: the script is printed, every officer signs that they have their key before anything is made,
each step leaves evidence, and officers sign the transcript at the end. It stops for their signatures; run it again when they have signed. With --dev there is no
ceremony, and --officers merely registers officers.

It can always be run again: what was interrupted goes on where it stopped, and a finished installation gets a new TLS certificate in its last month and changes nothing else.`,
		Example: `  sealkeeperd init --config sealkeeper.yaml --officers officers.json
  sealctl ceremony sign /var/lib/sealkeeper/ceremony/opening.json --officer kim --key kim.key
  sealkeeperd init --config sealkeeper.yaml
  sealkeeperd init --config sealkeeper.yaml --dev`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := loadConfig(file)
			if err != nil {
				return err
			}
			steps := []string{}
			o.report = func(s string) {
				steps = append(steps, s)
				if !asJSON {
					fmt.Fprintln(cmd.OutOrStdout(), "  ✓", s)
				}
			}
			o.say = func(lines []string) {
				if !asJSON {
					for _, s := range lines {
						fmt.Fprintln(cmd.OutOrStdout(), s)
					}
				}
			}
			sign := ""
			o.waits = func(paper string) { sign = paper }
			if err := initialise(cmd.Context(), conf, o); err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
					Steps []string `json:"steps"`
					Sign  string   `json:"sign,omitempty"` // what waits for the officers' signatures
				}{steps, sign})
			}
			return nil
		},
	}
	configFlag(c, &file)
	c.Flags().BoolVar(&asJSON, "json", false, "print the steps as JSON")
	c.Flags().BoolVar(&o.dev, "dev", false, "no ceremony: for demonstrations and tests, where who has the machine may decide on everything")
	c.Flags().StringVar(&o.officers, "officers", "", "registry of security officers")
	c.Flags().StringArrayVar(&o.signatures, "signatures", nil, "copy of the opening statement or the transcript that an officer signed elsewhere; can be repeated")
	c.Flags().StringVar(&o.shares, "shares", "", "directory for the officers' shares of the backup key (default {data}/ceremony/shares)")
	c.Flags().StringVar(&o.phrases, "passphrases", "", "directory with a file for each officer that has the passphrase of their share; without it they are asked on the terminal")
	return c
}

// initialise makes an installation as far as it can be made now.
func initialise(ctx context.Context, c *config.Config, o initOptions) error {
	for _, d := range []string{c.Data, filepath.Join(c.Data, "pins"), c.TLSDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	p, err := look(ctx, c)
	if err != nil {
		return err
	}
	switch {
	case p.opening == nil && (o.dev || p.size > 0 && o.officers == ""):
		return found(ctx, c, o)
	case p.opening == nil && p.size > 0:
		return &coded{exitUsage, errors.New("this installation was made without a ceremony: no officer saw its keys made. Make a new one, or register officers with --dev --officers")}
	case o.dev:
		return &coded{exitUsage, errors.New("officers hold a ceremony for this installation: leave --dev out")}
	case p.transcript != nil && o.officers != "":
		return &coded{exitUsage, errors.New("officer.registered: officers are registered: only they change the registry, by officers.change")}
	case p.transcript != nil:
		a, err := assemble(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), false, false, "")
		if err != nil {
			return err
		}
		defer a.close(context.WithoutCancel(ctx))
		return tend(ctx, a, o.report)
	}
	d := &conductor{c: c, cl: clock.System(), initOptions: o}
	return d.hold(ctx, p)
}

// found makes an installation without a ceremony.
func found(ctx context.Context, c *config.Config, o initOptions) error {
	report := o.report
	if c.Embedded {
		for _, t := range []config.Token{c.Online, c.IACA} {
			if err := foundToken(c, t, report); err != nil {
				return err
			}
		}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	a, err := assemble(ctx, c, log, true, false, "")
	if err != nil {
		return err
	}
	defer a.close(context.WithoutCancel(ctx))
	if o.officers != "" { // before the first key is made
		data, err := os.ReadFile(o.officers)
		if err != nil {
			return err
		}
		r, err := a.ca.Register(ctx, data)
		if err != nil {
			return fmt.Errorf("%s: %w", o.officers, err)
		}
		report(fmt.Sprintf("registry of officers with %d people", len(r.Officers)))
		for _, o := range r.Officers {
			report(fmt.Sprintf("%-9s %-12s key %s", o.Role, o.ID, officer.Fingerprint(o.Key)))
		}
	}
	report("domain secret, wrapped to a key of token online")
	if err := a.ca.Found(ctx, ca.Founding(c.Name, c.Algorithm, c.PublicURL, c.Copies), report); err != nil {
		return err
	}
	return tend(ctx, a, report)
}

// tend gives an installation that has its keys the files of its listener, and says where the ledger is.
func tend(ctx context.Context, a *appliance, report func(string)) error {
	made, err := listener(ctx, a)
	if err != nil {
		return err
	}
	if made {
		report("TLS certificate for " + strings.Join(a.config.Hosts, ", "))
	}
	size, head, err := a.ledger.Head(ctx)
	if err != nil {
		return err
	}
	report(fmt.Sprintf("ledger with %d entries, root %s", size, hex.EncodeToString(head[:8])))
	return nil
}

// listener makes a TLS certificate when there is none that serves (a crash may have left a key without its certificate), and again a month before it ends.
func listener(ctx context.Context, a *appliance) (made bool, err error) {
	c := a.config
	now := time.Now()
	if cert, err := serverCertificate(c); err == nil && !now.Before(cert.Leaf.NotBefore) && time.Until(cert.Leaf.NotAfter) >= max(24*time.Hour, cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)/3) {
		return false, nil
	}
	if err := enrolServer(ctx, a.config, a.ca.CertifyByWall, a.ca.ServerLink); err != nil {
		return false, fmt.Errorf("server certificate: %w", err)
	}
	return true, nil
}

// foundToken makes one embedded token, in a process of its own: the module is never loaded into the daemon.
func foundToken(c *config.Config, t config.Token, report func(string)) error {
	module, err := softhsm.FindModule(c.Module)
	if err != nil {
		return &coded{exitHSM, err}
	}
	if err := softhsm.Prepare(t.Dir); err != nil {
		return err
	}
	if made, err := softhsm.Made(t.Dir); err != nil || made {
		return err
	}
	if _, err := os.Stat(t.PINFile); errors.Is(err, os.ErrNotExist) && !t.Lent {
		if err := os.MkdirAll(filepath.Dir(t.PINFile), 0o700); err != nil {
			return err
		}
		if err := durable.WriteFile(t.PINFile, newPIN(), 0o400); err != nil {
			return err
		}
	}
	pin, err := readPIN(t, make([]byte, maxPIN+1))
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "token-init")
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "LANG=C"}, softhsm.Env(t.Dir)...)
	serial, err := softhsm.RunInit(cmd, t.Dir, module, t.Label, newPIN(), pin)
	if err != nil {
		return fmt.Errorf("token %s: %w", t.Name, err)
	}
	report(fmt.Sprintf("token %-15s serial %s", t.Label, serial))
	return nil
}

// newPIN makes 128 random bits as hexadecimal text.
func newPIN() []byte {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand never fails on a system that can run this program
	}
	return []byte(hex.EncodeToString(b[:]))
}

// enrol makes a P-256 key and certificate for a client. Files are written once both are there, so that a renewal that fails
// leaves the old pair in use.
func enrol(keyFile, certFile string, certify func(spki []byte) ([]byte, error)) error {
	private, cert, err := newPair(certify)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(keyFile, private, 0o600); err != nil {
		return err
	}
	return durable.WriteFile(certFile, cert, 0o644)
}

// newPair makes a P-256 key and has it certified; both are PEM.
func newPair(certify func(spki []byte) ([]byte, error)) (private, cert []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	if cert, err = certify(spki); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), nil
}

func enrolCommand() *cobra.Command {
	var file, out string
	var life time.Duration
	c := &cobra.Command{
		Use:   "enrol CLIENT…",
		Short: "Make mTLS keys and certificates for clients of the policy bundle (while the daemon is stopped)",
		Long: `enrol makes, for each client that the policy bundle names, a directory with key.pem, cert.pem and ca.pem. The certificate says
urn:sealkeeper:client:<role>:<id>, as the bundle has it. It works on the ledger, so the daemon must be stopped.`,
		Example: "  sealkeeperd enrol --config sealkeeper.yaml --out ./clients ward-office-1 telecom-a",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			conf, err := loadConfig(file)
			if err != nil {
				return err
			}
			a, err := assemble(cmd.Context(), conf, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), false, false, "")
			if err != nil {
				return err
			}
			defer a.close(context.WithoutCancel(cmd.Context()))
			roles := map[string]string{} // by the bundle in use, which may be newer than the configuration's
			for _, id := range ids {
				role, ok := a.ca.Role(id)
				if !ok {
					return &coded{exitUsage, fmt.Errorf("%s names no client %q; add it there first", conf.Policy, id)}
				}
				roles[id] = role
			}
			for _, id := range ids {
				dir := filepath.Join(out, id)
				if err := os.MkdirAll(dir, 0o700); err != nil {
					return err
				}
				if err := enrol(filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem"), func(spki []byte) ([]byte, error) {
					return a.ca.CertifyNamed(cmd.Context(), id, spki, life)
				}); err != nil {
					return fmt.Errorf("client %s: %w", id, err)
				}
				if err := durable.WriteFile(filepath.Join(dir, "ca.pem"), a.ca.ClientRoots(), 0o644); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "  ✓ client %-15s role %-9s %s\n", id, roles[id], dir)
			}
			return nil
		},
	}
	configFlag(c, &file)
	c.Flags().StringVar(&out, "out", "clients", "directory to write to")
	c.Flags().DurationVar(&life, "life", 90*24*time.Hour, "of the certificates, up to 397 days; a client that has had one keeps the life that it had")
	return c
}

func acceptCommand() *cobra.Command {
	var file, approvals string
	c := &cobra.Command{
		Use:   "accept clock|fence",
		Short: "Accept the wall clock, or lift the fence, after a person looked at why (while the daemon is stopped)",
		Long: `accept clock: issuing was stopped because the wall clock disagrees with what was signed before. Check the time source first.
accept fence: something outside is ahead of the ledger (a backup was restored). What published lists show as stopped is stopped again, every open list is
closed, its indices are never used again, and list versions jump ahead. Where officers are registered, enough of them must have signed what is lost
("sealctl fence"). If the token is what is old, and has every key, only its mark is set anew.`,
		Example:   "  sealkeeperd accept clock --config sealkeeper.yaml\n  sealkeeperd accept fence --config sealkeeper.yaml --approvals approvals.json",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"clock", "fence"},
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := loadConfig(file)
			if err != nil {
				return err
			}
			cl := clock.System()
			l, err := ledger.Open(cmd.Context(), ledger.Options{Path: conf.Ledger(), HighWater: conf.HighWater, Publish: conf.PublishDir(), Clock: cl,
				Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), BaseURL: conf.PublicURL, ListSize: conf.ListEntries})
			var fenced *ledger.Fenced
			if err != nil && !errors.As(err, &fenced) {
				return err
			}
			defer l.Close()
			if args[0] == "fence" {
				old, ahead, err := signer.MarkFence(cmd.Context(), l, conf.Online.Name)
				if err != nil {
					return err
				}
				byMark := fenced == nil && ahead
				if byMark {
					fenced = l.Fence(old)
				}
				if fenced == nil && old == "" {
					fmt.Fprintln(cmd.OutOrStdout(), "the ledger is not fenced; nothing to do")
					return nil
				}
				if err := governed(cmd.Context(), l, approvals); err != nil && fenced != nil {
					return err
				}
				// The token's mark comes last: what officers signed is about the journal as it is, and as long as the record of the mark says so nothing starts.
				token := func() error { return signer.AcceptMark(cmd.Context(), l, conf.Online.Name) }
				if fenced == nil {
					if err := token(); err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), "  ·", old)
					fmt.Fprintln(cmd.OutOrStdout(), "  ✓ the token is accepted: the next start sets its mark anew")
					return nil
				}
				for _, r := range fenced.Reasons {
					fmt.Fprintln(cmd.OutOrStdout(), "  ·", r)
				}
				var signed []byte
				if approvals != "" {
					if signed, err = os.ReadFile(approvals); err != nil {
						return &coded{exitUsage, err}
					}
				}
				there, err := published.Read(conf.PublishDir(), l.Keys())
				if err != nil {
					return err
				}
				report, err := ca.LiftFence(cmd.Context(), l, cl, there, signed)
				if err != nil {
					return err
				}
				for _, line := range report.Difference.Lines() {
					fmt.Fprintln(cmd.OutOrStdout(), "  ·", line)
				}
				if err := token(); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), "  ✓ the fence is lifted: new lists from now on, versions jumped ahead")
				return nil
			}
			if fenced != nil {
				return fenced
			}
			if r, err := l.Registry(cmd.Context()); err != nil {
				return err
			} else if r != nil {
				return &coded{exitUsage, errors.New("officer.required: officers are registered, and accept the clock of the running daemon: sealctl propose clock.accept")}
			}
			now := cl.Now()
			if err := l.AcceptClock(cmd.Context(), now, "accepted on the machine", nil); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "  ✓ the clock is accepted for a start within a quarter of an hour from", now.Format(time.RFC3339))
			return nil
		},
	}
	configFlag(c, &file)
	c.Flags().StringVar(&approvals, "approvals", "", "accept fence: file with what the officers signed")
	return c
}

// governed: where officers are registered, it takes their approvals.
func governed(ctx context.Context, l *ledger.Ledger, approvals string) error {
	if registry, err := l.Registry(ctx); err != nil || registry == nil || approvals != "" {
		return err
	}
	return &coded{exitFailed, errors.New("officer.required: officers are registered, and decide on it: `sealctl fence request`, `sealctl fence propose`, `sealctl fence approve`, then --approvals FILE")}
}

func checkCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:     "check",
		Short:   "Check configuration, policy bundle, anchors, module, PIN files and certificates without starting",
		Example: "  sealkeeperd check --config sealkeeper.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := loadConfig(file)
			if err != nil {
				return err
			}
			bad := 0
			say := func(what string, err error) {
				mark := "✓"
				if err != nil {
					mark, bad = "✗", bad+1
					what += ": " + err.Error()
				}
				fmt.Fprintf(cmd.OutOrStdout(), "  %s %s\n", mark, what)
			}
			say("configuration "+file, nil)
			_, err = loadPolicy(conf)
			say("policy bundle "+conf.Policy, err)
			_, err = loadAnchors(conf.WalletProviders)
			say("wallet provider anchors", err)
			module, err := softhsm.FindModule(conf.Module)
			say("PKCS#11 module "+module, err)
			for _, t := range []config.Token{conf.Online, conf.IACA} {
				_, err := readPIN(t, make([]byte, maxPIN+1))
				say("PIN file of token "+t.Name, err)
				if _, err := os.Stat(t.Marker); err == nil {
					say("token "+t.Name, fmt.Errorf("its PIN was refused before; correct %s, then remove %s", t.PINFile, t.Marker))
				}
			}
			cert, err := serverCertificate(conf)
			if err == nil {
				err = expired(conf, cert, time.Now())
			}
			say("TLS certificate "+conf.ServerCert(), err)
			if bad > 0 {
				return &coded{exitCheck, fmt.Errorf("%d of the checks failed", bad)}
			}
			return nil
		},
	}
	configFlag(c, &file)
	return c
}

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Example: "  sealkeeperd version", Args: cobra.NoArgs, Run: func(cmd *cobra.Command, _ []string) {
		fmt.Fprintf(cmd.OutOrStdout(), "sealkeeperd %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	}}
}

// workerCommand is what the daemon runs again as its HSM worker: the only process that loads the PKCS#11 module.
func workerCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{Use: "worker", Hidden: true, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		o := worker.Options{}
		if dir != "" {
			o.Guard = softhsm.Guard(dir)
			o.Sync = func() error { return softhsm.Sync(dir) }
		}
		thrift(false)
		return leave(worker.Run(os.NewFile(3, "daemon"), o))
	}}
	c.Flags().StringVar(&dir, "token-dir", "", "directory of the embedded token")
	return c
}

// tokenCommand makes an embedded token in a process of its own.
func tokenCommand() *cobra.Command {
	return &cobra.Command{Use: "token-init", Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return softhsm.InitMain(cmd.InOrStdin(), cmd.OutOrStdout())
	}}
}
