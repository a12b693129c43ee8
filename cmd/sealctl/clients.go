package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sealkeeper/contract"
)

func clientsCommand(o *options) *cobra.Command {
	var within time.Duration
	c := &cobra.Command{Use: "clients", Short: "List the clients: who may do what, until when, and when they were there last",
		Long: `clients lists everybody who has a certificate, had one, or was approved for one. UNTIL is when the newest certificate ends, SEEN the last request since the
daemon started. With --json each has the serial numbers of its certificates, for certificate.hold. A client that only the policy bundle names shows once it has a certificate.`,
		Example: "  sealctl clients --identity clients/operator-1\n  sealctl clients --within 168h --json",
		Args:    cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			list, err := c.Clients(cmd.Context())
			if err != nil {
				return o.explain(err)
			}
			now := time.Now()
			if within > 0 {
				list.Clients = slices.DeleteFunc(list.Clients, func(i contract.ClientInfo) bool {
					return i.State == "revoked" || i.Until.IsZero() || i.Until.Sub(now) > within
				})
			}
			return o.print(cmd.OutOrStdout(), list, func(w io.Writer) {
				if len(list.Clients) == 0 {
					fmt.Fprintln(w, "no client")
					return
				}
				fmt.Fprintln(w, "CLIENT\tROLE\tFOR\tMAY\tSTATE\tUNTIL\tSEEN")
				for _, i := range list.Clients {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", i.Client, i.Role, forWhom(i), may(i.May), i.State, minute(i.Until), minute(i.Seen))
				}
			})
		}}
	c.Flags().DurationVar(&within, "within", 0, "only clients whose newest certificate ends within this time, or has ended")
	return c
}

// forWhom is where a client stands, or for whom it speaks.
func forWhom(i contract.ClientInfo) string {
	var all []string
	for _, s := range []string{i.Office, i.District, i.Carrier} {
		if s != "" {
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, "/")
}

// may is short: the operations by document type.
func may(m map[string][]string) string {
	var all []string
	for _, t := range slices.Sorted(maps.Keys(m)) {
		ops := slices.Clone(m[t])
		slices.Sort(ops)
		all = append(all, t+":"+strings.Join(ops, ","))
	}
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, " ")
}
