package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"crypto/rand"

	"github.com/spf13/cobra"

	"sealkeeper/internal/config"
	"sealkeeper/internal/durable"
	"sealkeeper/internal/strict"
	"sealkeeper/ledger"
	"sealkeeper/officer"
)

// A fenced appliance does not run, so officers' approvals travel in files: the host writes a request, officers sign it wherever their keys are, and
// sealkeeperd accept fence takes what they signed.

// fenceRequest is what the host asks of the officers.
type fenceRequest struct {
	V        int      `json:"v"`
	Registry string   `json:"registry"`
	Size     uint64   `json:"journal_size"`
	Root     string   `json:"journal_root"`
	Lost     []string `json:"lost"`
}

const maxRequest = 512 << 10

func parseFenceRequest(data []byte) (r fenceRequest, err error) {
	if err = strict.JSON(data, strict.Limits{Bytes: maxRequest, Depth: 2}, &r); err == nil && r.V != 1 {
		err = fmt.Errorf("it has version %d, and this program knows version 1", r.V)
	}
	return r, err
}

func fenceCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "fence", Short: "Show why a ledger is FENCED, and have officers sign what is lost",
		Example: "  sealctl fence show --config sealkeeper.yaml\n  sealctl fence request --config sealkeeper.yaml --out request.json"}
	c.AddCommand(fenceShowCommand(o), fenceRequestCommand(o), fenceProposeCommand(o), fenceApproveCommand(o))
	return c
}

func fenceShowCommand(o *options) *cobra.Command {
	var file string
	c := &cobra.Command{Use: "show --config FILE", Short: "Show what is outside and not in the ledger", Args: cobra.NoArgs,
		Long:    "show compares the ledger with the high-water record and the publish directory, on the host, while the daemon is stopped. Where no fence is, it shows how the last one was lifted.",
		Example: "  sealctl fence show --config sealkeeper.yaml --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := config.Load(file)
			if err != nil {
				return &coded{exitUsage, err}
			}
			d, _, err := ahead(cmd.Context(), conf)
			if err != nil {
				return err
			}
			shown := struct {
				*ledger.Difference
				Last *ledger.Report `json:"last,omitempty"`
			}{Difference: d}
			if err := withLedger(cmd.Context(), conf, func(l *ledger.Ledger) (err error) { shown.Last, err = l.LastReport(cmd.Context()); return err }); err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), shown, func(w io.Writer) {
				differenceTable(w, d)
				if r := shown.Last; r != nil {
					by := ""
					if r.Proposal != "" {
						by = fmt.Sprintf(", proposal %.12s…", r.Proposal)
					}
					fmt.Fprintf(w, "\nThe last fence was lifted at %s%s. What had been lost:\n", r.Done.Format(time.RFC3339), by)
					for _, line := range r.Difference.Lines() {
						fmt.Fprintf(w, "·\t%s\n", line)
					}
				}
			})
		}}
	c.Flags().StringVarP(&file, "config", "c", "/etc/sealkeeper/sealkeeper.yaml", "configuration file of the daemon")
	return c
}

func fenceRequestCommand(o *options) *cobra.Command {
	var file, out string
	c := &cobra.Command{Use: "request --config FILE --out REQUEST", Short: "Write what the officers are asked to sign", Args: cobra.NoArgs,
		Long:    "request writes size and root of the ledger, what is lost, and the registry of officers into a file for the officers, on the host, while the daemon is stopped.",
		Example: "  sealctl fence request --config sealkeeper.yaml --out request.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := config.Load(file)
			if err != nil {
				return &coded{exitUsage, err}
			}
			d, registry, err := ahead(cmd.Context(), conf)
			if err != nil {
				return err
			}
			switch {
			case len(d.Reasons) == 0:
				return errors.New("the ledger is not FENCED: there is nothing to sign")
			case registry == nil:
				return errors.New("no officers are registered: `sealkeeperd accept fence` needs no approvals")
			}
			data, err := json.MarshalIndent(fenceRequest{1, string(registry), d.Size, d.Root, d.Lines()}, "", "  ")
			if err != nil {
				return err
			}
			if err := durable.WriteFile(out, data, 0o644); err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), d, func(w io.Writer) { differenceTable(w, d) })
		}}
	c.Flags().StringVarP(&file, "config", "c", "/etc/sealkeeper/sealkeeper.yaml", "configuration file of the daemon")
	c.Flags().StringVar(&out, "out", "", "file to write")
	_ = c.MarkFlagRequired("out")
	return c
}

func fenceProposeCommand(o *options) *cobra.Command {
	var k officerKey
	var reason, out string
	var yes bool
	c := &cobra.Command{Use: "propose REQUEST --reason TEXT --out APPROVALS", Short: "Propose to lift the fence", Args: cobra.ExactArgs(1),
		Long:    "propose shows what a request says is lost, asks, signs it with your key, and writes a file for the other officers. It needs no connection.",
		Example: `  sealctl fence propose request.json --reason "the disk is gone for good" --out approvals.json --officer kim --key kim.key`,
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return &coded{exitUsage, err}
			}
			r, err := parseFenceRequest(data)
			if err != nil {
				return &coded{exitUsage, fmt.Errorf("%s: %w", args[0], err)}
			}
			registry, err := officer.ParseRegistry([]byte(r.Registry))
			if err != nil {
				return &coded{exitUsage, fmt.Errorf("%s: %w", args[0], err)}
			}
			p, err := registry.Propose(k.id, officer.FenceLift, &officer.Fence{Size: r.Size, Root: r.Root, Lost: r.Lost, Reason: reason}, 0, time.Now(), rand.Reader)
			if err != nil {
				return &coded{exitUsage, err}
			}
			envelope, err := o.signed(cmd, &k, p.Payload(), p, yes, officer.Approve)
			if err != nil {
				return err
			}
			file, err := officer.Join(nil, envelope)
			if err != nil {
				return err
			}
			return o.approvals(cmd, out, file)
		}}
	k.flags(c)
	c.Flags().StringVar(&reason, "reason", "", "why the newest ledger can't be had")
	c.Flags().StringVar(&out, "out", "", "file for the approvals")
	c.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	_ = c.MarkFlagRequired("reason")
	_ = c.MarkFlagRequired("out")
	return c
}

func fenceApproveCommand(o *options) *cobra.Command {
	var k officerKey
	var yes bool
	c := &cobra.Command{Use: "approve APPROVALS", Short: "Approve to lift the fence", Args: cobra.ExactArgs(1),
		Long:    "approve shows what was proposed, from its signed bytes, asks, and adds your signature to the file. It needs no connection.",
		Example: `  sealctl fence approve approvals.json --officer lee --key lee.key`,
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return &coded{exitUsage, err}
			}
			p, _, err := officer.Payload(data)
			if err != nil {
				return &coded{exitUsage, fmt.Errorf("%s: %w", args[0], err)}
			}
			if p.Action != officer.FenceLift {
				return &coded{exitUsage, fmt.Errorf("%s is about %s, and not about %s", args[0], p.Action, officer.FenceLift)}
			}
			envelope, err := o.signed(cmd, &k, p.Payload(), p, yes, officer.Approve)
			if err != nil {
				return err
			}
			file, err := officer.Join(data, envelope)
			if err != nil {
				return err
			}
			return o.approvals(cmd, args[0], file)
		}}
	k.flags(c)
	c.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	return c
}

// approvals writes a file of approvals and says who signed.
func (o *options) approvals(cmd *cobra.Command, path string, file []byte) error {
	p, by, err := officer.Payload(file)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(path, file, 0o644); err != nil {
		return err
	}
	said := struct {
		Proposal string    `json:"proposal"`
		Signed   []string  `json:"signed_by"`
		Expires  time.Time `json:"expires"`
		File     string    `json:"file"`
	}{p.ID(), by, p.Expires, path}
	return o.print(cmd.OutOrStdout(), said, func(w io.Writer) {
		fmt.Fprintf(w, "proposal\t%s\nsigned by\t%s\nexpires\t%s\napprovals\t%s\n", said.Proposal, strings.Join(by, ", "), p.Expires.Format(time.RFC3339), path)
	})
}
