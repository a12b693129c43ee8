// Command sealctl is for the people around the appliance: operators, loss-report desks and auditors. It reads state, locks and unlocks,
// decodes and verifies what verifiers see, and checks a ledger.
//
// Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 5 a check found problems.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/internal/metrics"
	"sealkeeper/ledger/fsck"
	"sealkeeper/verifier"
)

var version = "development"

const (
	exitFailed = 1
	exitUsage  = 2
	exitCheck  = 5
)

type coded struct {
	code int
	err  error
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// options are shared by all commands.
type options struct {
	json       bool
	url        string // issuance listener
	identity   string // directory with key.pem, cert.pem, ca.pem
	operations string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	o := &options{}
	root := &cobra.Command{Use: "sealctl", Short: "Operate and audit a sealkeeper appliance", SilenceErrors: true, SilenceUsage: true, Version: version,
		Long: "sealctl reads state, locks and unlocks, decodes and verifies what verifiers see, and checks a ledger.\n\nExit codes: 0 done, 1 failed or refused, 2 wrong usage, 5 a check found problems."}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &coded{exitUsage, err} })
	f := root.PersistentFlags()
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.StringVar(&o.url, "url", envOr("SEALCTL_URL", "https://127.0.0.1:8443"), "issuance listener (SEALCTL_URL)")
	f.StringVar(&o.identity, "identity", envOr("SEALCTL_IDENTITY", "."), "directory with key.pem, cert.pem and ca.pem (SEALCTL_IDENTITY)")
	f.StringVar(&o.operations, "operations", envOr("SEALCTL_OPERATIONS", "http://127.0.0.1:9464"), "operations listener (SEALCTL_OPERATIONS)")
	root.AddCommand(statusCommand(o), keysCommand(o), topCommand(o), doctorCommand(o), floodsCommand(o), clientsCommand(o), enrolCommand(o), eventsCommand(o), whoamiCommand(o), holderCommand(o), changeCommand(o, "lock"), changeCommand(o, "unlock"), changeCommand(o, "revoke"),
		listCommand(o), verifyCommand(o), fsckCommand(o), policyCommand(o), decisionsCommand(o), evidenceCommand(o), phonesCommand(o),
		officerCommand(o), proposeCommand(o), showCommand(o), sayCommand(o, "approve", "Approve a proposal"), sayCommand(o, "reject", "Reject a proposal, for good"), pendingCommand(o), executeCommand(o), campaignsCommand(o), drillCommand(o),
		ceremonyCommand(o), backupCommand(o), restoreCommand(o), fenceCommand(o))
	started := false
	marked(root, &started)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return
	}
	code := exitFailed
	var c *coded
	switch {
	case errors.As(err, &c):
		code = c.code
	case !started:
		code = exitUsage
	}
	if !started {
		err = fmt.Errorf("%w (see `%s --help`)", err, cmd.CommandPath())
	}
	fmt.Fprintln(os.Stderr, "sealctl:", err)
	os.Exit(code)
}

// marked notes when a command's own code starts: what cobra refuses before that (arguments, flags, commands) is wrong usage.
func marked(c *cobra.Command, started *bool) {
	if run := c.RunE; run != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return run(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		marked(sub, started)
	}
}

func envOr(name, byDefault string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return byDefault
}

// short fits an id into a table of 100 columns; --json has the whole.
func short(id string) string {
	if len(id) <= 24 {
		return id
	}
	return id[:23] + "…"
}

// print writes JSON when asked for, else what table writes.
func (o *options) print(w io.Writer, v any, table func(w io.Writer)) error {
	if o.json {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	table(t)
	return t.Flush()
}

func (o *options) status(ctx context.Context) (contract.Status, error) {
	var s contract.Status
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.operations+"/status", nil)
	if err != nil {
		return s, &coded{exitUsage, err}
	}
	r, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return s, fmt.Errorf("%w (is the daemon running, and --operations right?)", err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return s, fmt.Errorf("%s/status: %s", o.operations, r.Status)
	}
	return s, json.NewDecoder(io.LimitReader(r.Body, 4<<20)).Decode(&s)
}

func statusCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Show tokens, keys, lists and the journal of a running daemon", Args: cobra.NoArgs, Example: "  sealctl status\n  sealctl status --json | jq .lists",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.status(cmd.Context())
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), s, func(w io.Writer) {
				fmt.Fprintf(w, "version\t%s\nready\t%v\npolicy\t%d (%.16s…)\njournal\t%d entries, root %.16s…\nclock\t%s\n", s.Version, s.Ready, s.PolicyVer, s.Policy, s.Journal, s.Root, s.Clock)
				fmt.Fprintln(w, "\nTOKEN\tWORKERS\tPROBLEM")
				for _, t := range s.Tokens {
					fmt.Fprintf(w, "%s\t%d of %d\t%s\n", t.Token, t.Ready, t.Wanted, t.Problem)
				}
				fmt.Fprintln(w, "\nKEY\tPURPOSE\tALG\tSTATE\tUSE UNTIL")
				for _, k := range s.Keys {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", short(k.ID), k.Purpose, k.Algorithm, k.State, k.NotAfter.Format(time.DateOnly))
				}
				fmt.Fprintln(w, "\nLIST\tTYPE\tVERSION\tBYTES\tISSUED\tEXPIRES\tPENDING")
				for _, l := range s.Lists {
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%v\n", short(l.ID), strings.TrimPrefix(l.MediaType, "application/"), l.Version, l.Bytes, l.Issued.Format(time.TimeOnly), l.Expires.Format(time.DateTime), l.Dirty)
				}
				for _, p := range s.Problems {
					fmt.Fprintf(w, "\n✗ %s\n", p)
				}
			})
		}}
}

func (o *options) client() (*client.Client, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(o.identity, "cert.pem"), filepath.Join(o.identity, "key.pem"))
	if err != nil {
		return nil, &coded{exitUsage, fmt.Errorf("--identity %s: %w (name the directory that `sealkeeperd enrol` wrote, with cert.pem, key.pem and ca.pem)", o.identity, err)}
	}
	roots, err := readCerts(filepath.Join(o.identity, "ca.pem"))
	if err != nil {
		return nil, &coded{exitUsage, fmt.Errorf("--identity %s: %w", o.identity, err)}
	}
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	c, err := client.New(client.Config{BaseURL: o.url, Certificate: cert, RootCAs: pool})
	if err != nil {
		return nil, &coded{exitUsage, fmt.Errorf("--url %s: %w", o.url, err)}
	}
	return c, nil
}

// explain adds to an error of the connection what to look at. Refusals speak for themselves.
func (o *options) explain(err error) error {
	var theirs *tls.CertificateVerificationError
	var op *net.OpError
	switch isOp := errors.As(err, &op); {
	case errors.As(err, &theirs):
		return fmt.Errorf("%w (the appliance's certificate is not one of %s: does --identity belong to the installation at --url?)", err, filepath.Join(o.identity, "ca.pem"))
	case isOp && op.Op == "remote error":
		return fmt.Errorf("%w (the appliance refused the certificate: does --identity %s belong to it, and has it not expired?)", err, o.identity)
	case isOp && op.Op == "dial":
		return fmt.Errorf("%w (is the daemon running, and --url right?)", err)
	}
	return err
}

func readCerts(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no certificate", path)
	}
	return out, nil
}

// subjectArg reads a subject number from standard input when it is "-", so that it need not stand in the shell's history.
func subjectArg(cmd *cobra.Command, arg string) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 256))
	return strings.TrimSpace(string(b)), err
}

func explainRoot(err error, roots string) error {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%w (is %s the root of this issuer?)", err, roots)
	}
	return err
}

func whoamiCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "whoami", Short: "Show who the appliance takes this identity for, and what it may do", Args: cobra.NoArgs, Example: "  sealctl whoami --identity clients/loss-desk",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			me, err := c.WhoAmI(cmd.Context())
			if err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), me, func(w io.Writer) {
				fmt.Fprintf(w, "client\t%s\nrole\t%s\n", me.Client, me.Role)
				if me.Class != "" {
					fmt.Fprintf(w, "class\t%s\n", me.Class)
				}
				if me.Issuer != "" {
					fmt.Fprintf(w, "proofs' aud\t%s\n", me.Issuer)
				}
				fmt.Fprintf(w, "certificate\tuntil %s\npolicy\t%.16s…\n", me.Expires.Format(time.DateOnly), me.Policy)
				for _, t := range slices.Sorted(maps.Keys(me.May)) {
					fmt.Fprintf(w, "may, %s\t%s\n", t, strings.Join(me.May[t], " "))
				}
			})
		}}
}

func holderTable(w io.Writer, h contract.Holder) {
	fmt.Fprintf(w, "document type\t%s\nbound\t%v\ndevice\t%s\nepoch\t%d\n", h.DocumentType, h.Bound, h.Device, h.Epoch)
	for _, l := range h.Locks {
		fmt.Fprintf(w, "locked\t%s by %s\n", l.Reason, l.Class)
	}
	fmt.Fprintln(w, "\nFORMAT\tSTATUS\tINDEX\tUNTIL\tDEVICE")
	for _, c := range h.Credentials {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%.8s\n", c.Format, c.Status, c.StatusRef.Index, c.ValidUntil.Format(time.DateOnly), c.Device)
	}
}

func holderCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "holder TYPE SUBJECT|-", Short: "Show a holder's state", Args: cobra.ExactArgs(2), Example: "  echo 900101-1234567 | sealctl holder kr-resident - --identity clients/loss-desk",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			subject, err := subjectArg(cmd, args[1])
			if err != nil {
				return err
			}
			h, err := c.Holder(cmd.Context(), contract.StateRequest{DocumentType: args[0], Subject: subject})
			if err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), h, func(w io.Writer) { holderTable(w, h) })
		}}
}

func changeCommand(o *options, op string) *cobra.Command {
	var reason, device string
	example := map[string]string{"lock": "self_lost", "unlock": "self_lost", "revoke": "user_request"}[op]
	c := &cobra.Command{Use: op + " TYPE SUBJECT|- --reason REASON", Short: map[string]string{"lock": "Lock a card", "unlock": "Remove a lock that your authority added", "revoke": "Revoke a card for good"}[op],
		Args: cobra.ExactArgs(2), Example: "  echo 900101-1234567 | sealctl " + op + " kr-resident - --reason " + example + " --identity clients/loss-desk",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			subject, err := subjectArg(cmd, args[1])
			if err != nil {
				return err
			}
			r := contract.ChangeRequest{DocumentType: args[0], Subject: subject, Reason: reason, Device: device}
			var a contract.ChangeAnswer
			switch op {
			case "lock":
				a, err = c.Lock(cmd.Context(), r)
			case "unlock":
				a, err = c.Unlock(cmd.Context(), r)
			default:
				a, err = c.Revoke(cmd.Context(), r)
			}
			if err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), a, func(w io.Writer) {
				fmt.Fprintf(w, "changed\t%v\nsequence\t%d\n", a.Changed, a.Sequence)
				for _, l := range a.Lists {
					fmt.Fprintf(w, "list\t%s\n", l)
				}
				holderTable(w, a.Holder)
			})
		}}
	c.Flags().StringVar(&reason, "reason", "", "reason, as the policy bundle names it")
	c.Flags().StringVar(&device, "device", "", "act only if this device still has the card")
	_ = c.MarkFlagRequired("reason")
	return c
}

// load reads a file, or fetches a URL.
func load(ctx context.Context, name string) ([]byte, error) {
	const most = 64 << 20
	if !strings.HasPrefix(name, "http://") && !strings.HasPrefix(name, "https://") {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, most))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, name, nil)
	if err != nil {
		return nil, err
	}
	r, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s (is the URL the one that the card names?)", name, r.Status)
	}
	return io.ReadAll(io.LimitReader(r.Body, most))
}

func listCommand(o *options) *cobra.Command {
	var roots string
	var index int64
	list := &cobra.Command{Use: "list", Short: "Work with status lists", Example: "  sealctl list decode --help", RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return &coded{exitUsage, fmt.Errorf("unknown command %q for %q (see `%[2]s --help`)", args[0], cmd.CommandPath())}
		}
		return cmd.Help()
	}}
	c := &cobra.Command{Use: "decode FILE|URL", Short: "Decode a status list token, and verify it if --root is given", Args: cobra.ExactArgs(1),
		Example: "  sealctl list decode https://cards.example/status-lists/Xy… --root iaca.pem --index 4711",
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := load(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			l, err := verifier.DecodeStatusList(data, verifier.MaxEntries)
			if err != nil {
				return err
			}
			verified := "not checked (no --root)"
			if roots != "" {
				certs, err := readCerts(roots)
				if err != nil {
					return &coded{exitUsage, err}
				}
				if err := l.Verify(certs, time.Now()); err != nil {
					return explainRoot(err, roots)
				}
				verified = "yes"
			}
			counts := map[byte]int{}
			entries := uint64(len(l.Image)) * 8 / uint64(l.Bits)
			for i := range entries {
				v, _ := l.Get(i)
				counts[v]++
			}
			out := map[string]any{"media_type": l.MediaType, "sub": l.Subject, "iat": l.IssuedAt, "exp": l.Expires, "ttl_seconds": l.TTL.Seconds(), "version": l.Version, "bits": l.Bits,
				"entries": entries, "valid": counts[0], "invalid": counts[1], "suspended": counts[2], "verified": verified}
			if index >= 0 {
				v, ok := l.Get(uint64(index))
				if !ok {
					return fmt.Errorf("index %d lies outside the list of %d entries", index, entries)
				}
				out["status"] = v
			}
			return o.print(cmd.OutOrStdout(), out, func(w io.Writer) {
				fmt.Fprintf(w, "type\t%s\nsub\t%s\nissued\t%s\nexpires\t%s\nttl\t%s\nversion\t%d\nentries\t%d of %d bits\nvalid\t%d\ninvalid\t%d\nsuspended\t%d\nverified\t%s\n", l.MediaType, l.Subject,
					l.IssuedAt.Format(time.RFC3339), l.Expires.Format(time.RFC3339), l.TTL, l.Version, entries, l.Bits, counts[0], counts[1], counts[2], verified)
				if index >= 0 {
					fmt.Fprintf(w, "index %d\t%v\n", index, out["status"])
				}
			})
		}}
	c.Flags().StringVar(&roots, "root", "", "PEM file with the trusted roots")
	c.Flags().Int64Var(&index, "index", -1, "show the status at this index")
	list.AddCommand(c)
	return list
}

func verifyCommand(o *options) *cobra.Command {
	var roots, list string
	c := &cobra.Command{Use: "verify FILE --root PEM", Short: "Verify a credential (mdoc IssuerSigned or SD-JWT VC), and its status if --list is given", Args: cobra.ExactArgs(1),
		Example: "  sealctl verify phone1/credential.sdjwt --root trust/iaca.pem --list status/1-issued/Xy….jwt",
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := load(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			certs, err := readCerts(roots)
			if err != nil {
				return &coded{exitUsage, err}
			}
			now := time.Now()
			out := map[string]any{}
			var ref *verifier.StatusRef
			// A JOSE header begins like this; an mdoc is a CBOR map, or its base64url as the API hands it out.
			text := strings.TrimSpace(string(data))
			if b, err := base64.RawURLEncoding.Strict().DecodeString(text); err == nil {
				data = b
			}
			if strings.HasPrefix(text, "eyJ") {
				v, err := verifier.VerifySDJWT([]byte(text), certs, now)
				if err != nil {
					return explainRoot(err, roots)
				}
				out["format"], out["type"], out["claims"], out["expires"], out["signer"], ref = "dc+sd-jwt", v.Type, v.Claims, v.Expires, v.Signer.Subject.String(), v.Status
			} else {
				v, err := verifier.VerifyMDoc(data, certs, now)
				if err != nil {
					return explainRoot(err, roots)
				}
				out["format"], out["type"], out["claims"], out["expires"], out["signer"], ref = "mso_mdoc", v.DocType, v.Claims, v.ValidUntil, v.Signer.Subject.String(), v.Status
			}
			if ref != nil {
				out["status_uri"], out["status_index"] = ref.URI, ref.Index
			}
			if list != "" {
				if ref == nil {
					return errors.New("the credential points to no status list")
				}
				token, err := load(cmd.Context(), list)
				if err != nil {
					return err
				}
				v, err := verifier.VerifyStatus(token, ref.URI, ref.Index, certs, now)
				if err != nil {
					return explainRoot(err, roots)
				}
				out["status"] = map[byte]string{0: "valid", 1: "invalid", 2: "suspended"}[v]
			}
			return o.print(cmd.OutOrStdout(), out, func(w io.Writer) {
				for _, k := range []string{"format", "type", "signer", "expires", "status_uri", "status_index", "status"} {
					if v, ok := out[k].(time.Time); ok {
						fmt.Fprintf(w, "%s\t%s\n", k, v.Format(time.RFC3339))
					} else if v, ok := out[k]; ok {
						fmt.Fprintf(w, "%s\t%v\n", k, v)
					}
				}
				fmt.Fprintln(w, "signature and digests\tverified")
			})
		}}
	c.Flags().StringVar(&roots, "root", "", "PEM file with the trusted roots")
	c.Flags().StringVar(&list, "list", "", "status list token, file or URL")
	_ = c.MarkFlagRequired("root")
	return c
}

func fsckCommand(o *options) *cobra.Command {
	var path, publish, textfile string
	var repair bool
	c := &cobra.Command{Use: "fsck --ledger FILE", Short: "Check a ledger's invariants, also beside a running daemon", Args: cobra.NoArgs,
		Example: "  sealctl fsck --ledger /var/lib/sealkeeper/ledger.db --publish /var/lib/sealkeeper/publish",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := fsck.Run(cmd.Context(), fsck.Options{Ledger: path, Publish: publish})
			if err != nil {
				return err
			}
			if textfile != "" {
				found := map[string]int{}
				for _, c := range r.Checks {
					found[c.Invariant] += len(c.Problems) + c.Omitted
				}
				if err := metrics.WriteFsck(textfile, found, time.Now()); err != nil {
					return err
				}
			}
			err = o.print(cmd.OutOrStdout(), r, func(w io.Writer) {
				fmt.Fprintln(w, "RULE\tCHECKED\tWHAT HOLDS")
				for _, c := range r.Checks {
					mark := "✓"
					if len(c.Problems) > 0 {
						mark = "✗"
					}
					fmt.Fprintf(w, "%s %s\t%d\t%s\n", mark, c.Invariant, c.Checked, c.Title)
					for _, p := range c.Problems {
						fmt.Fprintf(w, "    %s\n", p)
					}
				}
			})
			if repair {
				for _, do := range r.Repair() {
					fmt.Fprintln(cmd.ErrOrStderr(), "proposal:", do)
				}
			}
			if err == nil && !r.Clean() {
				return &coded{exitCheck, fmt.Errorf("%d problems", r.Problems())}
			}
			return err
		}}
	c.Flags().StringVar(&path, "ledger", "", "ledger file")
	c.Flags().StringVar(&publish, "publish", "", "publish directory; its lists are compared with the ledger")
	c.Flags().StringVar(&textfile, "textfile", "", "write the result as metrics to this file, for node_exporter's textfile collector")
	c.Flags().BoolVar(&repair, "repair", false, "propose what to do about each problem, on stderr; nothing is changed")
	_ = c.MarkFlagRequired("ledger")
	return c
}
