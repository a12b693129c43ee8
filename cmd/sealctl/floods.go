package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sealkeeper/client"
	"sealkeeper/contract"
)

// floodsCommand shows what carriers reported above their thresholds, and decides on it.
func floodsCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "floods", Short: "Show cards that a carrier's flood of reports has stopped, and decide on them",
		Long: `floods lists, by carrier and hour, the cards that were stopped by reports above the carrier's hourly threshold. They are suspended and not
refreshed; their mdocs, which could never come back, wait. Ask the carrier. Then confirm the hour (the mdocs are revoked, each holder needs a
refresh later) or undo it (the cards are what they were).`,
		Example: "  sealctl floods --identity clients/operator-1\n  sealctl floods undo telecom-a 2026-03-01T12:00:00Z --identity clients/operator-1",
		Args:    cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			f, err := c.Floods(cmd.Context())
			if err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), f, func(w io.Writer) {
				if len(f.Floods) == 0 {
					fmt.Fprintln(w, "no card waits for a decision")
					return
				}
				fmt.Fprintln(w, "CARRIER\tHOUR\tCARDS\tMDOCS\tDECISION")
				for _, f := range f.Floods {
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", f.Carrier, f.Hour.Format(time.RFC3339), f.Cards, f.MDocs, f.Deciding)
				}
			})
		}}
	c.AddCommand(floodsDecide(o, "confirm", "Revoke the mdocs of an hour's flood"), floodsDecide(o, "undo", "Unlock the cards of an hour's flood"))
	return c
}

func floodsDecide(o *options, decision, short string) *cobra.Command {
	return &cobra.Command{Use: decision + " CARRIER HOUR", Short: short, Args: cobra.ExactArgs(2),
		Long:    decision + " decides on all cards of a carrier and hour that wait by now, and shows how it is carried out. It goes on by itself if this\ncommand is interrupted or the daemon is started again.",
		Example: "  sealctl floods " + decision + " telecom-a 2026-03-01T12:00:00Z --identity clients/operator-1",
		RunE: func(cmd *cobra.Command, args []string) error {
			hour, err := time.Parse(time.RFC3339, args[1])
			if err != nil {
				return &coded{exitUsage, fmt.Errorf("HOUR %q is no instant such as 2026-03-01T12:00:00Z; sealctl floods shows it", args[1])}
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			done, err := c.DecideFlood(cmd.Context(), contract.FloodRequest{Carrier: args[0], Hour: hour, Decision: decision})
			if err != nil {
				return o.explain(err)
			}
			if err := carriedOut(cmd.Context(), c, done, cmd.ErrOrStderr()); err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), done, func(w io.Writer) {
				fmt.Fprintf(w, "decision\t%s\ncarrier\t%s\nhour\t%s\ncards\t%d\n", done.Decision, done.Carrier, done.Hour.Format(time.RFC3339), done.Cards)
			})
		}}
}

// carriedOut waits until nothing of a decision is left, and draws how far it is.
func carriedOut(ctx context.Context, c *client.Client, d contract.FloodAnswer, w io.Writer) error {
	const width = 40
	drawn := false
	for {
		all, err := c.Floods(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all.Floods, func(f contract.Flood) bool { return f.Carrier == d.Carrier && f.Hour.Equal(d.Hour) && f.Deciding != "" })
		if i < 0 {
			if drawn {
				fmt.Fprintf(w, "\r[%s] %d of %d cards\n", strings.Repeat("#", width), d.Cards, d.Cards)
			}
			return nil
		}
		drawn = true
		done := max(d.Cards-all.Floods[i].Cards, 0)
		full := done * width / max(d.Cards, 1)
		fmt.Fprintf(w, "\r[%s%s] %d of %d cards", strings.Repeat("#", full), strings.Repeat(".", width-full), done, d.Cards)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
