package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/officer"
)

// drillReport is what a drill came to; times count from the moment at which the key was marked (of a rehearsal: at which the campaign began).
type drillReport struct {
	Key        string            `json:"key"`
	Rehearsal  bool              `json:"rehearsal"`
	Began      time.Time         `json:"began"`
	Compromise string            `json:"compromise_proposal,omitempty"`
	Reissue    string            `json:"reissue_proposal"`
	Approvals  string            `json:"waited_for_approvals"` // of both proposals together
	CRL        string            `json:"crl_after,omitempty"`
	Campaign   string            `json:"campaign_after"`
	First      string            `json:"first_card_after,omitempty"`
	Marked     string            `json:"all_marked_after,omitempty"`
	Done       string            `json:"done_after"`
	Cards      contract.Campaign `json:"cards"`
}

func drillCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "drill", Short: "Drill what must never have to be done for the first time",
		Example: "  sealctl drill compromise ds-1 --rehearse --per-second 200 --officer kim --key kim.key"}
	c.AddCommand(drillCompromiseCommand(o))
	return c
}

func drillCompromiseCommand(o *options) *cobra.Command {
	var k officerKey
	var rehearse, yes bool
	var crl, reason string
	var perSecond int
	c := &cobra.Command{Use: "compromise KEY", Short: "Mark a signing key compromised, and have every card that it signed made anew", Args: cobra.ExactArgs(1),
		Long: `compromise leads through what is to be done when a signing key is not trusted any more, and measures it: officers mark the key (key.compromise), its
certificate is revoked and the CRL published, the standby key takes over, and every card with a live credential by that key is marked, so many in a
second, and watched until its phone has fetched a new one. The other officers approve both proposals with sealctl approve, on their own machines;
this command waits for them. It can be interrupted: what was begun goes on in the appliance, and sealctl campaigns --watch shows it.

A compromise is for good: the key never signs again. With --rehearse the key is not marked: the campaign alone is made, and its cards are made anew.`,
		Example: "  sealctl drill compromise ds-1 --officer kim --key kim.key --crl https://cards.example/crl/iaca.crl\n  sealctl drill compromise ds-1 --rehearse --per-second 200 --officer kim --key kim.key",
		RunE: func(cmd *cobra.Command, args []string) error {
			d := &drill{o: o, cmd: cmd, k: &k, yes: yes, key: args[0], crl: crl, reason: reason, perSecond: perSecond, r: drillReport{Key: args[0], Rehearsal: rehearse}}
			if err := d.run(); err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), d.r, func(w io.Writer) {
				r := d.r
				fmt.Fprintf(w, "key\t%s\n", r.Key)
				for _, line := range [][2]string{{"approvals took", r.Approvals}, {"CRL after", r.CRL}, {"campaign after", r.Campaign}, {"first card anew after", r.First}, {"all cards marked after", r.Marked}, {"done after", r.Done}} {
					if line[1] != "" {
						fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
					}
				}
				x := r.Cards
				fmt.Fprintf(w, "cards\t%d = %d reissued + %d locked + %d expired + %d ended + %d revoked + %d failed\n", x.Total, x.Reissued, x.Locked, x.Expired, x.Ended, x.Revoked, x.Failed)
			})
		}}
	k.flags(c)
	c.Flags().BoolVar(&rehearse, "rehearse", false, "leave the key in use, and make the campaign alone")
	c.Flags().StringVar(&crl, "crl", "", "URL of the CRL: measure when it has the revocation")
	c.Flags().StringVar(&reason, "reason", "a drill", "reason that both proposals give")
	c.Flags().IntVar(&perSecond, "per-second", 50, "cards that are marked in a second")
	c.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	return c
}

// drill is one on its way.
type drill struct {
	o         *options
	cmd       *cobra.Command
	k         *officerKey
	yes       bool
	key, crl  string
	reason    string
	perSecond int
	waited    time.Duration
	r         drillReport
}

func (d *drill) run() error {
	ctx := d.cmd.Context()
	c, err := d.o.client()
	if err != nil {
		return err
	}
	say := func(format string, args ...any) { fmt.Fprintf(d.cmd.ErrOrStderr(), format+"\n", args...) }
	before := -1
	if d.crl != "" {
		if before, err = revokedBy(ctx, d.crl); err != nil {
			return err
		}
	}
	counted, err := c.CountCards(ctx, contract.CardsQuery{Key: d.key})
	if err != nil {
		return err
	}
	say("%d cards have %d live credentials by %s", counted.Cards, counted.Credentials, d.key)
	if !d.r.Rehearsal {
		if d.r.Compromise, err = d.decided(c, officer.KeyCompromise, &officer.Compromise{ID: d.key, Reason: d.reason}); err != nil {
			return err
		}
		say("%s is marked compromised", d.key)
	}
	d.r.Began = time.Now().UTC()
	since := func(t time.Time) string { return max(0, t.Sub(d.r.Began)).Round(10 * time.Millisecond).String() }
	crl := make(chan error, 1)
	if before >= 0 && !d.r.Rehearsal {
		go func() { // ends with the context, or when the CRL has it
			for {
				n, err := revokedBy(ctx, d.crl)
				if err != nil || n > before {
					d.r.CRL = since(time.Now())
					crl <- err
					return
				}
				select {
				case <-ctx.Done():
					crl <- ctx.Err()
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		}()
	} else {
		crl <- nil
	}
	if d.r.Reissue, err = d.decided(c, officer.ReissueMass, &officer.Mass{Key: d.key, Cards: counted.Cards, PerSecond: d.perSecond, Reason: d.reason}); err != nil {
		return err
	}
	d.r.Campaign = since(time.Now())
	one, err := d.o.watchCampaign(ctx, d.r.Reissue, d.cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if err := <-crl; err != nil {
		return fmt.Errorf("the CRL: %w", err)
	}
	d.r.Cards, d.r.Approvals, d.r.Done = one, d.waited.Round(10*time.Millisecond).String(), since(one.Done)
	if d.r.Marked = since(one.Found); !one.First.IsZero() {
		d.r.First = since(one.First)
	}
	if sum := one.Waiting + one.Locked + one.Reissued + one.Expired + one.Ended + one.Revoked + one.Failed; sum != one.Total || one.Waiting != 0 {
		return &coded{exitCheck, fmt.Errorf("the sums do not agree: %+v", one)}
	}
	return nil
}

// decided proposes something, waits for the others, and has it carried out.
func (d *drill) decided(c *client.Client, a officer.Action, parameters officer.Parameters) (id string, _ error) {
	ctx := d.cmd.Context()
	r, err := c.Officers(ctx)
	if err != nil {
		return "", err
	}
	if r.Epoch == 0 {
		return "", &coded{exitFailed, errors.New("no officers are registered")}
	}
	registry, err := officer.ParseRegistry([]byte(r.Registry))
	if err != nil {
		return "", err
	}
	p, err := registry.Propose(d.k.id, a, parameters, 0, time.Now(), rand.Reader)
	if err != nil {
		return "", &coded{exitUsage, err}
	}
	envelope, err := d.o.signed(d.cmd, d.k, p.Payload(), p, d.yes, officer.Approve)
	if err != nil {
		return "", err
	}
	at, err := c.Propose(ctx, contract.ProposeRequest{Proposal: envelope})
	if err != nil {
		return "", err
	}
	began, told := time.Now(), ""
	for at.State != "ready" {
		if !slices.Contains([]string{"open", "waiting"}, at.State) {
			return "", &coded{exitFailed, fmt.Errorf("proposal %.12s is %s: %s", at.ID, at.State, at.Why)}
		}
		if now := fmt.Sprintf("%d of %d officers approved, %s: sealctl approve %.12s", len(at.Approved), at.Need, at.State, at.ID); now != told {
			told = now
			fmt.Fprintln(d.cmd.ErrOrStderr(), told)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
		if at, err = c.Proposal(ctx, p.ID()); err != nil {
			return "", err
		}
	}
	d.waited += time.Since(began)
	if at, err = c.Execute(ctx, p.ID()); err != nil {
		return "", err
	}
	return at.ID, nil
}

const maxCRL = 16 << 20

// revokedBy counts the entries of a CRL.
func revokedBy(ctx context.Context, url string) (int, error) {
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return 0, &coded{exitUsage, fmt.Errorf("--crl %s is no URL", url)}
	}
	within, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(within, http.MethodGet, url, nil)
	if err != nil {
		return 0, &coded{exitUsage, err}
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, err
	}
	defer a.Body.Close()
	der, err := io.ReadAll(io.LimitReader(a.Body, maxCRL))
	if err != nil {
		return 0, err
	}
	if a.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s", url, a.Status)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", url, err)
	}
	return len(list.RevokedCertificateEntries), nil
}
