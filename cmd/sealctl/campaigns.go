package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sealkeeper/contract"
)

func campaignsCommand(o *options) *cobra.Command {
	var watch string
	c := &cobra.Command{Use: "campaigns", Short: "Show what officers had done about many cards, and how far it is", Args: cobra.NoArgs,
		Long: `campaigns lists re-issues, revocations and holds of many cards at once (reissue.mass, revoke.mass, hold.mass): how many cards each is about, and what became of them. The
sum of all columns behind TOTAL is TOTAL, at any time; of a hold of a whole document type it is all, and its cards are not counted. With --watch it draws how far one is until it is done.`,
		Example: "  sealctl campaigns --identity clients/operator-1\n  sealctl campaigns --watch 3f2a91\n  sealctl campaigns pace 3f2a91 0",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			all, err := c.Campaigns(cmd.Context())
			if err != nil {
				return o.explain(err)
			}
			if watch != "" {
				one, err := theCampaign(all, watch)
				if err != nil {
					return err
				}
				done, err := o.watchCampaign(cmd.Context(), one.ID, cmd.ErrOrStderr())
				if err != nil {
					return o.explain(err)
				}
				all.Campaigns = []contract.Campaign{done}
			}
			return o.print(cmd.OutOrStdout(), all, func(w io.Writer) { campaignsTable(w, all.Campaigns) })
		}}
	c.Flags().StringVar(&watch, "watch", "", "the begin of a campaign's id: follow it to its end")
	c.AddCommand(&cobra.Command{Use: "pace CAMPAIGN CARDS", Short: "Have a campaign take CARDS a second; 0 has it rest", Args: cobra.ExactArgs(2),
		Long:    "pace changes how many cards a second a campaign marks. With 0 it rests, also through restarts, until it is given a pace again; what it marked stays marked.",
		Example: "  sealctl campaigns pace 3f2a91 0 --identity clients/operator-1\n  sealctl campaigns pace 3f2a91 200",
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 0 || n > 2000 {
				return &coded{exitUsage, errors.New("CARDS is a number from 0 to 2000")}
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			all, err := c.Campaigns(cmd.Context())
			if err != nil {
				return o.explain(err)
			}
			one, err := theCampaign(all, args[0])
			if err != nil {
				return err
			}
			if all, err = c.PaceCampaign(cmd.Context(), contract.CampaignPace{ID: one.ID, PerSecond: n}); err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), all, func(w io.Writer) { campaignsTable(w, all.Campaigns) })
		}})
	return c
}

func theCampaign(all contract.Campaigns, begin string) (found contract.Campaign, err error) {
	n := 0
	for _, c := range all.Campaigns {
		if strings.HasPrefix(c.ID, strings.TrimSuffix(begin, "…")) {
			found, n = c, n+1
		}
	}
	if n != 1 {
		return found, &coded{exitUsage, fmt.Errorf("%d campaigns begin with %q: sealctl campaigns shows what there is", n, begin)}
	}
	return found, nil
}

func campaignsTable(w io.Writer, all []contract.Campaign) {
	if len(all) == 0 {
		fmt.Fprintln(w, "there is no campaign")
		return
	}
	fmt.Fprintln(w, "CAMPAIGN\tDOES\tOF\tSTATE\tTOTAL\tWAIT\tREISSUED\tLOCKED\tEXPIRED\tENDED\tREVOKED\tHELD\tRELEASED\tFAILED")
	for _, c := range all {
		total := strconv.Itoa(c.Total)
		if c.Whole {
			total = "all"
		}
		fmt.Fprintf(w, "%.12s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", c.ID, c.Operation, strings.Trim(c.DocumentType+" "+c.Key, " "), campaignState(c), total, c.Waiting, c.Reissued, c.Locked, c.Expired, c.Ended, c.Revoked, c.Held, c.Released, c.Failed)
	}
}

func campaignState(c contract.Campaign) string {
	switch {
	case c.AtOnce && !c.Lifted.IsZero():
		return "lifted"
	case c.AtOnce && c.Found.IsZero():
		return "is being found"
	case c.AtOnce:
		return fmt.Sprintf("stands, %d lists", c.Lists)
	case !c.Done.IsZero():
		return "done"
	case c.PerSecond == 0:
		return "rests"
	case !c.Lifted.IsZero():
		return fmt.Sprintf("lifted, %d/s", c.PerSecond)
	case c.Found.IsZero():
		return fmt.Sprintf("marks %d/s", c.PerSecond)
	}
	if c.Operation == "hold" {
		return "stands"
	}
	return "watches"
}

// watchCampaign draws how far a campaign is, until it is done.
func (o *options) watchCampaign(ctx context.Context, id string, w io.Writer) (contract.Campaign, error) {
	c, err := o.client()
	if err != nil {
		return contract.Campaign{}, err
	}
	const width = 40
	for {
		all, err := c.Campaigns(ctx)
		if err != nil {
			return contract.Campaign{}, err
		}
		i := slices.IndexFunc(all.Campaigns, func(c contract.Campaign) bool { return c.ID == id })
		if i < 0 {
			return contract.Campaign{}, &coded{exitFailed, errors.New("the campaign is gone")}
		}
		one := all.Campaigns[i]
		settled := one.Total - one.Waiting
		full := settled * width / max(one.Total, 1)
		fmt.Fprintf(w, "\r[%s%s] %d of %d cards, %s   ", strings.Repeat("#", full), strings.Repeat(".", width-full), settled, one.Total, campaignState(one))
		if !one.Done.IsZero() {
			fmt.Fprintln(w)
			return one, nil
		}
		select {
		case <-ctx.Done():
			fmt.Fprintln(w)
			return one, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}
