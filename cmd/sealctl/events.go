package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"sealkeeper/contract"
)

// eventsCommand shows carriers' events that were refused, and has them judged again.
func eventsCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "events", Short: "Show carriers' events that were refused, and have them judged again",
		Long:    "An event of a carrier that is refused, for example because the policy does not list its key yet, is kept for thirty days. When the cause is\nmended, have it judged again.",
		Example: "  sealctl events dead --identity clients/auditor\n  sealctl events replay --all --identity clients/operator-1",
		Args:    cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			return &coded{exitUsage, errors.New("say which: `sealctl events dead` or `sealctl events replay`")}
		}}
	c.AddCommand(&cobra.Command{Use: "dead", Short: "List refused events", Args: cobra.NoArgs,
		Long:    "dead lists refused events with their id, the client that sent them and why they were refused; and counts reported lines that nobody's card is linked to.",
		Example: "  sealctl events dead --identity clients/auditor --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			d, err := c.DeadEvents(cmd.Context())
			if err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), d, func(w io.Writer) {
				for i, e := range d.Events {
					if i == 0 {
						fmt.Fprintln(w, "ID\tCLIENT\tREFUSED\tCODE")
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", e.ID, e.Client, e.At.Format(time.RFC3339), e.Code)
				}
				fmt.Fprintf(w, "%d refused, %d reported lines are nobody's\n", len(d.Events), d.UnknownLines)
			})
		}}, eventsReplay(o))
	return c
}

// replayedEvent is what became of one event.
type replayedEvent struct {
	ID     string `json:"id"`
	Effect string `json:"effect,omitempty"`
	Error  string `json:"error,omitempty"`
}

func eventsReplay(o *options) *cobra.Command {
	var all bool
	c := &cobra.Command{Use: "replay [ID...]", Short: "Have refused events judged again",
		Long:    "replay judges refused events as if their sender had sent them now. Exit code 5 if any is refused again; it stays where it is.",
		Example: "  sealctl events replay 6b86b273ff34fce19d6b804eff5a3f57 --identity clients/operator-1\n  sealctl events replay --all --identity clients/operator-1",
		RunE: func(cmd *cobra.Command, ids []string) error {
			if all != (len(ids) == 0) {
				return &coded{exitUsage, errors.New("name events, or use --all")}
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			if all {
				d, err := c.DeadEvents(cmd.Context())
				if err != nil {
					return o.explain(err)
				}
				for _, e := range d.Events {
					ids = append(ids, e.ID)
				}
			}
			done, failed := []replayedEvent{}, 0
			for i, id := range ids {
				r := replayedEvent{ID: id}
				a, err := c.ReplayEvent(cmd.Context(), contract.ReplayRequest{ID: id})
				if r.Effect = a.Effect; err != nil {
					r.Error = err.Error()
					failed++
				}
				done = append(done, r)
				if len(ids) > 20 {
					fmt.Fprintf(cmd.ErrOrStderr(), "\r%d of %d", i+1, len(ids))
				}
			}
			if len(ids) > 20 {
				fmt.Fprintln(cmd.ErrOrStderr())
			}
			if err := o.print(cmd.OutOrStdout(), done, func(w io.Writer) {
				for _, r := range done {
					fmt.Fprintf(w, "%s\t%s%s\n", r.ID, r.Effect, r.Error)
				}
			}); err != nil {
				return err
			}
			if failed > 0 {
				return &coded{exitCheck, fmt.Errorf("%d of %d were refused again", failed, len(ids))}
			}
			return nil
		}}
	c.Flags().BoolVar(&all, "all", false, "all that there are")
	return c
}
