package main

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"

	"sealkeeper/ceremony"
	"sealkeeper/internal/durable"
	"sealkeeper/ledger"
)

// maxPaper is larger than any paper of a ceremony, whose reader says what is too large.
const maxPaper = 2 << 20

func readPaper(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &coded{exitUsage, err}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPaper))
	if err != nil {
		return nil, &coded{exitUsage, err}
	}
	return data, nil
}

func ceremonyCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "ceremony", Short: "Sign and verify the papers of the ceremony in which an installation was made",
		Long:    "ceremony reads the two papers of a ceremony (sealkeeperd init --officers): the opening statement, which every officer signs before anything is made, and the transcript of what was done. It needs no appliance.",
		Example: "  sealctl ceremony show transcript.json\n  sealctl ceremony verify transcript.json --registry officers.json"}
	c.AddCommand(ceremonyShowCommand(o), ceremonySignCommand(o), ceremonyVerifyCommand(o))
	return c
}

func ceremonyShowCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "show FILE", Short: "Show an opening statement or a transcript", Args: cobra.ExactArgs(1),
		Long:    "show prints what a paper says, from the bytes that are signed. It does not say whether they are signed: see verify.",
		Example: "  sealctl ceremony show transcript.json", RunE: func(cmd *cobra.Command, args []string) error {
			data, err := readPaper(args[0])
			if err != nil {
				return err
			}
			p, err := ceremony.Read(data)
			if err != nil {
				return &coded{exitCheck, fmt.Errorf("%s: %w", args[0], err)}
			}
			shown := map[string]any{"sha256": p.SHA256(), "text": p.Text(), "signers": append([]string{}, p.Signers...)}
			return o.print(cmd.OutOrStdout(), shown, func(w io.Writer) {
				fmt.Fprintln(w, strings.Join(p.Text(), "\n"))
				fmt.Fprintf(w, "SHA-256 of this paper:\n  %s\n", ceremony.Fours(p.SHA256()))
				if len(p.Signers) > 0 {
					fmt.Fprintln(w, "With signatures by", strings.Join(p.Signers, ", "))
				}
			})
		}}
}

func ceremonySignCommand(o *options) *cobra.Command {
	var k officerKey
	var yes bool
	var out string
	c := &cobra.Command{Use: "sign FILE --officer ID (--key FILE | --module SO --token LABEL)", Short: "Sign an opening statement or a transcript", Args: cobra.ExactArgs(1),
		Long: `sign shows what a paper says, asks, and adds your signature to the file, or writes a signed copy with --out. A transcript is verified first, and one that is
not in order is signed by nobody.`,
		Example: `  sealctl ceremony sign /var/lib/sealkeeper/ceremony/opening.json --officer kim --module /usr/lib/softhsm/libsofthsm2.so --token kim
  sealctl ceremony sign transcript.json --officer park --key park.key --out transcript-park.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := readPaper(args[0])
			if err != nil {
				return err
			}
			p, err := ceremony.Read(data)
			if err != nil {
				return &coded{exitCheck, fmt.Errorf("%s: %w", args[0], err)}
			}
			if err := o.shown(cmd, append(p.Text(), "SHA-256 of this paper:", "  "+ceremony.Fours(p.SHA256())), yes); err != nil {
				return err
			}
			key, done, err := k.signer(cmd)
			if err != nil {
				return err
			}
			defer done()
			signed, err := p.Sign(k.id, key, rand.Reader)
			if err != nil {
				return &coded{exitCheck, fmt.Errorf("%s: %w", args[0], err)}
			}
			if out == "" {
				out = args[0]
			}
			if err := durable.WriteFile(out, signed, 0o644); err != nil {
				return err
			}
			done2 := map[string]string{"file": out, "sha256": p.SHA256(), "officer": k.id}
			return o.print(cmd.OutOrStdout(), done2, func(w io.Writer) { fmt.Fprintf(w, "signed by %s: %s\n", k.id, out) })
		}}
	k.flags(c)
	c.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	c.Flags().StringVar(&out, "out", "", "write the signed copy here, instead of adding the signature to FILE")
	return c
}

func ceremonyVerifyCommand(o *options) *cobra.Command {
	var registry, book, certificates string
	c := &cobra.Command{Use: "verify FILE", Short: "Verify the transcript of a ceremony, offline", Args: cobra.ExactArgs(1),
		Long: `verify holds a transcript against itself: who signed it and the opening statement, the chain of its entries, the certificates, and the ledger's log as of its end,
whose leaves it has. With --registry, --certificates and --ledger it is also held against what you keep or were shown; without them it could be a good transcript of
another installation. Exit code 5: something is wrong.`,
		Example: `  sealctl ceremony verify transcript.json --registry officers.json
  sealctl ceremony verify transcript.json --ledger /mnt/copy/ledger.db --certificates /mnt/copy/publish/certificates --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := readPaper(args[0])
			if err != nil {
				return err
			}
			var against ceremony.Outside
			if registry != "" {
				if against.Registry, err = readPaper(registry); err != nil {
					return err
				}
			}
			if certificates != "" {
				if against.Certificates, err = readCertificates(certificates); err != nil {
					return err
				}
			}
			if book != "" {
				a, err := ledger.OpenAudit(cmd.Context(), book)
				if err != nil {
					return &coded{exitUsage, fmt.Errorf("--ledger %s: %w", book, err)}
				}
				defer a.Close()
				against.Root = func(size uint64) ([32]byte, error) { return rootOf(cmd.Context(), a, size) }
			}
			r, err := ceremony.Verify(data, against)
			var refusal *ceremony.Refusal
			if errors.As(err, &refusal) { // no transcript at all: one problem, in the same form
				r = &ceremony.Report{Signed: []string{}, Checks: []ceremony.Check{{What: "the file is a transcript", Problems: []ceremony.Problem{{Code: refusal.Code(), Detail: refusal.Detail()}}}}}
			} else if err != nil {
				return err
			}
			problems := 0
			for _, c := range r.Checks {
				problems += len(c.Problems)
			}
			if err := o.print(cmd.OutOrStdout(), struct {
				*ceremony.Report
				Clean bool `json:"clean"`
			}{r, problems == 0}, func(w io.Writer) {
				for _, c := range r.Checks {
					switch {
					case c.Skipped != "":
						fmt.Fprintf(w, "  ·  %s: not compared, %s\n", c.What, c.Skipped)
					case len(c.Problems) > 0:
						fmt.Fprintf(w, "  ✗  %s\n", c.What)
					default:
						fmt.Fprintf(w, "  ✓  %s (%d)\n", c.What, c.Checked)
					}
					for _, p := range c.Problems {
						fmt.Fprintf(w, "       %s: %s\n", p.Code, p.Detail)
					}
				}
				if r.Installation == "" {
					return
				}
				runs := "in one run"
				if r.Runs != 1 {
					runs = fmt.Sprintf("in %d runs", r.Runs)
				}
				fmt.Fprintf(w, "\ninstallation %s, opened %s, made until %s, %s\n", r.Installation, r.Opened.Format(time.RFC3339), r.Ended.Format(time.RFC3339), runs)
				if len(r.Signed) > 0 {
					fmt.Fprintf(w, "signed by %s (%d are needed)\n", strings.Join(r.Signed, ", "), r.Need)
				}
				fmt.Fprintf(w, "log of %d entries, root %s\ntranscript %s\n", r.Head.Size, r.Head.Root, ceremony.Fours(r.Transcript))
			}); err != nil {
				return err
			}
			if problems > 0 {
				return &coded{exitCheck, fmt.Errorf("%d problems: this is not the transcript of a ceremony in order", problems)}
			}
			return nil
		}}
	c.Flags().StringVar(&registry, "registry", "", "your copy of the first registry of officers")
	c.Flags().StringVar(&certificates, "certificates", "", "directory with certificates that you were shown or fetched (.pem, .cer)")
	c.Flags().StringVar(&book, "ledger", "", "copy of the ledger, of whatever later time")
	return c
}

// rootOf the log over its first entries, as another copy has it.
func rootOf(ctx context.Context, a *ledger.Audit, size uint64) (root [32]byte, err error) {
	now, _, err := a.Head(ctx)
	if err != nil {
		return root, err
	}
	if now < size {
		return root, fmt.Errorf("the ledger has %d entries, fewer than the %d of the transcript", now, size)
	}
	return tlog.TreeHash(int64(size), a.Hashes())
}

func readCertificates(dir string) (map[string][]byte, error) {
	out := map[string][]byte{}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, &coded{exitUsage, err}
	}
	for _, f := range files {
		ext := filepath.Ext(f.Name())
		if ext != ".pem" && ext != ".cer" {
			continue
		}
		data, err := readPaper(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		if ext == ".pem" {
			block, _ := pem.Decode(data)
			if block == nil || block.Type != "CERTIFICATE" {
				continue
			}
			data = block.Bytes
		}
		out[f.Name()] = data
	}
	return out, nil
}
