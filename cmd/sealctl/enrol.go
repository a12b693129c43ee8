package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/internal/durable"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

func enrolCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "enrol", Short: "Enrol clients, fetch their one-time tokens, and revoke them",
		Long: `enrol proposes clients to the security officers, one or all offices of a country under one approval; fetches the one-time tokens of those that were
approved; and proposes that clients are revoked. Who approves uses show, approve and execute, as for every proposal.`,
		Example: `  sealctl enrol propose --client office-11110 --role issuance --channel office --office 11110 --reason "new office" --officer kim --key kim.key
  sealctl enrol propose --csv offices.csv --reason "all offices" --officer kim --key kim.key
  sealctl enrol tokens 3f2a91 --out tokens/
  sealctl enrol revoke office-11110 --reason closed --officer kim --key kim.key`}
	c.AddCommand(enrolProposeCommand(o), enrolTokensCommand(o), enrolRevokeCommand(o))
	return c
}

func enrolProposeCommand(o *options) *cobra.Command {
	var k officerKey
	var e policy.Enrolment
	var file, reason string
	var life, within, certificates time.Duration
	var yes bool
	c := &cobra.Command{Use: "propose (--client ID | --csv FILE) --role ROLE --reason TEXT", Short: "Propose clients to the security officers", Args: cobra.NoArgs,
		Long: `propose shows what it is about to sign, signs it with your key, which is the first approval, and hands it to the appliance. Of many clients the text shows
how many, a hash of the list, and how they spread over roles and districts: whoever approves sees the same, derived from the signed list.

A CSV file is UTF-8 with a header: client, and as many of role, channel, office, district, carrier and life as it needs, in any order. What all clients have in
common is given by flags instead. Every mistake is named with its line, and a file with one proposes nothing (exit code 5).`,
		Example: `  sealctl enrol propose --client office-11110 --role issuance --channel office --office 11110 --district 11110 --reason "new office" --officer kim --key kim.key
  sealctl enrol propose --csv offices.csv --role issuance --channel office --certificates 24h --within 720h --reason "all offices" --officer kim --key kim.key`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (e.ID == "") == (file == "") {
				return &coded{exitUsage, errors.New("name one client with --client, or many with --csv FILE")}
			}
			e.Life = int64(certificates / time.Second)
			if within <= 0 {
				return &coded{exitUsage, errors.New("--within: the time in which clients register their keys is more than nothing")}
			}
			all := []policy.Enrolment{e}
			if file != "" {
				given := map[string]bool{}
				for _, name := range enrolColumns[1:] {
					flag := name
					if name == "life" {
						flag = "certificates"
					}
					given[name] = cmd.Flags().Changed(flag)
				}
				data, err := readBounded(file, maxEnrolFile)
				if err != nil {
					return &coded{exitUsage, err}
				}
				if all, err = parseEnrolments(data, e, given); err != nil {
					return &coded{exitCheck, fmt.Errorf("%s: %w", file, err)}
				}
			}
			until := time.Now().Add(within).UTC().Truncate(time.Second)
			return o.propose(cmd, &k, officer.ClientEnrol, &officer.Enrol{Clients: all, Until: until, Reason: reason}, life, yes)
		}}
	k.flags(c)
	f := c.Flags()
	f.StringVar(&e.ID, "client", "", "id of one client, for ever")
	f.StringVar(&file, "csv", "", "file with many clients")
	f.StringVar(&e.Role, "role", "", "role of the client, or of all in the file")
	f.StringVar(&e.Channel, "channel", "", "group of the policy bundle that they belong to")
	f.StringVar(&e.Office, "office", "", "code of the office")
	f.StringVar(&e.District, "district", "", "code of the district in which it is")
	f.StringVar(&e.Carrier, "carrier", "", "carrier for which clients of that role speak")
	f.DurationVar(&certificates, "certificates", 24*time.Hour, "how long each certificate lives; clients renew by themselves")
	f.DurationVar(&within, "within", 7*24*time.Hour, "time in which they have to register their keys")
	f.StringVar(&reason, "reason", "", "why, for those who approve and for auditors")
	f.DurationVar(&life, "life", 0, "how long officers can approve it; default and most: the action's rule")
	f.BoolVar(&yes, "yes", false, "sign without asking")
	_ = c.MarkFlagRequired("reason")
	_ = c.MarkFlagFilename("csv", "csv")
	_ = c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(policy.Roles(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

func enrolRevokeCommand(o *options) *cobra.Command {
	var k officerKey
	var file, reason string
	var life time.Duration
	var yes bool
	c := &cobra.Command{Use: "revoke (CLIENT… | --csv FILE) --reason TEXT", Short: "Propose that clients are revoked, for ever", Args: cobra.ArbitraryArgs,
		Long: `revoke proposes that clients are revoked. Once that is carried out, each one's next request is refused, also on a connection that is open. Nothing takes it
back: a client that is to come again gets another id. A CSV file has a column client; its other columns are those of an enrolment, so that the file of
an enrolment revokes it.`,
		Example: `  sealctl enrol revoke office-11110 --reason "laptop stolen" --officer kim --key kim.key
  sealctl enrol revoke --csv offices.csv --reason "enrolled by mistake" --officer kim --key kim.key`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) == (file == "") {
				return &coded{exitUsage, errors.New("name the clients, or a file of them with --csv")}
			}
			if file != "" {
				data, err := readBounded(file, maxEnrolFile)
				if err != nil {
					return &coded{exitUsage, err}
				}
				if args, err = parseClients(data); err != nil {
					return &coded{exitCheck, fmt.Errorf("%s: %w", file, err)}
				}
			}
			return o.propose(cmd, &k, officer.ClientRevoke, &officer.Dismiss{Clients: args, Reason: reason}, life, yes)
		}}
	k.flags(c)
	f := c.Flags()
	f.StringVar(&file, "csv", "", "file with many clients")
	f.StringVar(&reason, "reason", "", "why, for those who approve and for auditors")
	f.DurationVar(&life, "life", 0, "how long officers can approve it; default and most: the action's rule")
	f.BoolVar(&yes, "yes", false, "sign without asking")
	_ = c.MarkFlagRequired("reason")
	_ = c.MarkFlagFilename("csv", "csv")
	return c
}

// fetchedTokens are what `enrol tokens` reports.
type fetchedTokens struct {
	Proposal string         `json:"proposal"`
	Tokens   []fetchedToken `json:"tokens"`           // new ones
	There    []string       `json:"there,omitempty"`  // clients whose file is there: its token may be good, and another one would end it
	Not      []noToken      `json:"not,omitempty"`    // that need none, or get none any more
	Failed   []noToken      `json:"failed,omitempty"` // that this did not work for: run it again
}

type fetchedToken struct {
	Client  string    `json:"client"`
	Token   string    `json:"token,omitempty"` // unless it is in the file
	File    string    `json:"file,omitempty"`
	Expires time.Time `json:"expires_at"`
	URL     string    `json:"url"`
	Root    string    `json:"fingerprint"`
}

type noToken struct {
	Client string `json:"client"`
	Code   string `json:"code,omitempty"`
	Detail string `json:"detail"`
}

// askAtOnce is how many tokens are asked for at one time: their commits share what a commit costs.
const askAtOnce = 8

func enrolTokensCommand(o *options) *cobra.Command {
	var out string
	var only []string
	var again bool
	c := &cobra.Command{Use: "tokens PROPOSAL", Short: "Fetch the one-time tokens of clients that were approved", Args: cobra.ExactArgs(1),
		Long: `tokens fetches a one-time token for each client of an enrolment that was carried out. A token registers one key, within a day; asking again ends the one before.
With --out each is written to CLIENT.token in that directory, for its owner alone to read; what is there already stays, so that a run that was cut off is
repeated. Clients that have registered their key, or were revoked, get none, and are named. Exit code 1: some did not work, run it again.`,
		Example: "  sealctl enrol tokens 3f2a91 --out tokens/\n  sealctl enrol tokens 3f2a91 --client office-11110 --json",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) (ids []string, _ cobra.ShellCompDirective) {
			if c, err := o.client(); err == nil && len(args) == 0 {
				if all, err := c.Proposals(cmd.Context()); err == nil {
					for _, p := range all.Proposals {
						if p.Action == string(officer.ClientEnrol) && p.State == "executed" {
							ids = append(ids, p.ID[:min(12, len(p.ID))])
						}
					}
				}
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			seen, proposal, err := o.fetched(cmd, args[0])
			if err != nil {
				return err
			}
			enrol, ok := proposal.Parameters.(*officer.Enrol)
			if !ok {
				return &coded{exitUsage, fmt.Errorf("proposal %.12s is no enrolment of clients but %s", seen.ID, proposal.Action)}
			}
			if seen.State != "executed" {
				return fmt.Errorf("proposal %.12s is %s: there are tokens once it is carried out (sealctl execute)", seen.ID, seen.State)
			}
			var ids []string
			for _, e := range enrol.Clients {
				if len(only) == 0 || slices.Contains(only, e.ID) {
					ids = append(ids, e.ID)
				}
			}
			for _, id := range only {
				if !slices.Contains(ids, id) {
					return &coded{exitUsage, fmt.Errorf("--client %s: proposal %.12s does not enrol it", id, seen.ID)}
				}
			}
			if out != "" {
				if err := os.MkdirAll(out, 0o700); err != nil {
					return err
				}
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			got := fetchTokens(cmd.Context(), c, ids, out, again, newCount(cmd.ErrOrStderr(), len(ids)))
			got.Proposal = seen.ID
			if err := o.print(cmd.OutOrStdout(), got, got.table); err != nil {
				return err
			}
			if len(got.Failed) > 0 {
				return fmt.Errorf("%d of %d clients have no token: %s", len(got.Failed), len(ids), got.Failed[0].Detail)
			}
			return nil
		}}
	f := c.Flags()
	f.StringVar(&out, "out", "", "directory to write a file for each client to; without it tokens are printed")
	f.StringSliceVar(&only, "client", nil, "only this client of the proposal; may be repeated")
	f.BoolVar(&again, "again", false, "fetch new tokens also for clients whose file is there; the old ones are worth nothing then")
	_ = c.MarkFlagDirname("out")
	return c
}

// asker is what tokens are asked of.
type asker interface {
	Token(context.Context, contract.TokenRequest) (contract.TokenAnswer, error)
}

func fetchTokens(ctx context.Context, c asker, ids []string, out string, again bool, n *count) fetchedTokens {
	got := fetchedTokens{Tokens: []fetchedToken{}}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(askAtOnce)
	defer n.end()
	for _, id := range ids {
		g.Go(func() error {
			add := fetchToken(ctx, c, id, out, again)
			mu.Lock()
			defer mu.Unlock()
			add(&got)
			n.more()
			return nil
		})
	}
	_ = g.Wait() // what failed is in got
	slices.SortFunc(got.Tokens, func(a, b fetchedToken) int { return cmp.Compare(a.Client, b.Client) })
	slices.Sort(got.There)
	for _, all := range [][]noToken{got.Not, got.Failed} {
		slices.SortFunc(all, func(a, b noToken) int { return cmp.Compare(a.Client, b.Client) })
	}
	return got
}

func fetchToken(ctx context.Context, c asker, id, out string, again bool) func(*fetchedTokens) {
	failed := func(err error) func(*fetchedTokens) {
		return func(f *fetchedTokens) { f.Failed = append(f.Failed, noToken{id, client.Code(err), err.Error()}) }
	}
	path := ""
	if out != "" {
		path = filepath.Join(out, id+".token") // an id has letters, digits and '-' alone: the proposal was parsed
		if _, err := os.Lstat(path); err == nil && !again {
			return func(f *fetchedTokens) { f.There = append(f.There, id) }
		}
	}
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	t, err := c.Token(ctx, contract.TokenRequest{Client: id})
	switch code := client.Code(err); {
	case code == "enrolment.registered" || code == "enrolment.revoked" || code == "enrolment.late":
		return func(f *fetchedTokens) { f.Not = append(f.Not, noToken{id, code, err.Error()}) }
	case err != nil:
		return failed(err)
	case t.Client != id:
		return failed(errors.New("the appliance answered with another client's token"))
	}
	made := fetchedToken{Client: id, Token: t.Token, Expires: t.Expires, URL: t.URL, Root: t.Fingerprint}
	if path != "" {
		made.Token, made.File = "", path
		if err := durable.WriteFile(path, []byte(t.Token+"\n"), 0o600); err != nil {
			return failed(err)
		}
	}
	return func(f *fetchedTokens) { f.Tokens = append(f.Tokens, made) }
}

func (f fetchedTokens) table(w io.Writer) {
	for _, t := range f.Tokens {
		fmt.Fprintf(w, "%s\t%s\t%s\n", t.Client, cmp.Or(t.File, t.Token), t.Expires.Format(time.RFC3339))
	}
	for _, n := range append(slices.Clone(f.Not), f.Failed...) {
		fmt.Fprintf(w, "%s\tno token\t%s\n", n.Client, n.Detail)
	}
	fmt.Fprintf(w, "%d new, %d were there, %d need none, %d failed\n", len(f.Tokens), len(f.There), len(f.Not), len(f.Failed))
	if len(f.Tokens) > 0 {
		fmt.Fprintf(w, "registration authority\t%s\nfingerprint of its root\t%s\n", f.Tokens[0].URL, f.Tokens[0].Root)
	}
}

// count shows how many of all are done, on a terminal alone.
type count struct {
	b        *bar
	all, now int
}

func newCount(w io.Writer, all int) *count {
	return &count{b: newBar(w, time.Unix(0, 0), time.Unix(int64(all), 0), "tokens"), all: all}
}

func (c *count) more() {
	c.now++
	if c.now%16 == 0 || c.now == c.all {
		c.b.show(time.Unix(int64(c.now), 0), c.now)
	}
}

func (c *count) end() { c.b.end() }

// readBounded reads a file that has no more than most bytes.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		return nil, fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return data, err
}
