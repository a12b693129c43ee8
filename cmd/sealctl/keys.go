package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"sealkeeper/contract"
)

// keysCommand shows the keys as the running appliance has them.
func keysCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "keys", Short: "Show all keys: states, what comes next, limits, certificates", Args: cobra.NoArgs,
		Example: "  sealctl keys --operations http://127.0.0.1:9464",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.status(cmd.Context())
			if err != nil {
				return err
			}
			slices.SortFunc(s.Keys, func(a, b contract.KeyStatus) int {
				return cmp.Or(cmp.Compare(a.Purpose, b.Purpose), cmp.Compare(a.ID, b.ID))
			})
			return o.print(cmd.OutOrStdout(), struct {
				Keys    []contract.KeyStatus `json:"keys"`
				Orphans []string             `json:"orphans"`
			}{s.Keys, append([]string{}, s.Orphans...)}, func(w io.Writer) {
				fmt.Fprintln(w, "KEY\tPURPOSE\tSTATE\tSINCE\tNEXT\tUSED\tCERTIFICATE UNTIL")
				for _, k := range s.Keys {
					used := "-"
					if k.Limit > 0 {
						used = fmt.Sprintf("%d/%d", k.Used, k.Limit)
					}
					next := k.Next
					if !k.NextAt.IsZero() {
						next += " " + minute(k.NextAt)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Purpose, k.State, minute(k.Since), cmp.Or(next, "-"), used, day(k.Until))
				}
				for _, k := range s.Keys {
					if k.Trouble != "" {
						fmt.Fprintf(w, "! %s does not take its next step: %s\n", k.ID, k.Trouble)
					}
				}
				for _, k := range s.Orphans {
					fmt.Fprintf(w, "! nobody registered this key: %s\n", k)
				}
			})
		}}
}

func minute(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04Z")
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateOnly)
}
