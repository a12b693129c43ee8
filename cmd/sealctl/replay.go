package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"sealkeeper/ca"
	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// decisions are where journalled decisions are read, page by page: a running daemon, or a ledger file.
type decisions interface {
	page(ctx context.Context, after string, since time.Time) ([]journalled, error)
	one(ctx context.Context, id string) (contract.JournalledDecision, error)
	bundle(ctx context.Context, hash string) ([]byte, error)
	Close() error
}

// journalled is a decision, and what it was made of: as the daemon wrote it, or as the ledger's reader already understood it.
type journalled struct {
	contract.JournalledDecision
	of *policy.Record
}

// record is what the decision was made of; nil: no bundle judges it.
func (d journalled) record() (*policy.Record, error) {
	if d.of != nil || d.Of == nil {
		return d.of, nil
	}
	rec := &policy.Record{}
	if err := json.Unmarshal(d.Of, rec, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("decision %s: %w", d.Decision.ID, err)
	}
	return rec, nil
}

// whole has what the decision was made of as the daemon writes it.
func (d journalled) whole() (contract.JournalledDecision, error) {
	if d.of != nil {
		of, err := json.Marshal(d.of)
		if err != nil {
			return contract.JournalledDecision{}, fmt.Errorf("decision %s: %w", d.Decision.ID, err)
		}
		d.Of = of
	}
	return d.JournalledDecision, nil
}

type daemonDecisions struct {
	o     *options
	query func(context.Context, contract.DecisionQuery) (contract.DecisionPage, error)
}

func (d daemonDecisions) page(ctx context.Context, after string, since time.Time) ([]journalled, error) {
	p, err := d.query(ctx, contract.DecisionQuery{After: after, Since: since, Limit: contract.MaxDecisions})
	out := make([]journalled, len(p.Decisions))
	for i, d := range p.Decisions {
		out[i].JournalledDecision = d
	}
	return out, d.o.explain(err)
}

func (d daemonDecisions) one(ctx context.Context, id string) (none contract.JournalledDecision, _ error) {
	p, err := d.query(ctx, contract.DecisionQuery{Decision: id})
	if err != nil || len(p.Decisions) != 1 {
		return none, d.o.explain(err)
	}
	return p.Decisions[0], nil
}

func (d daemonDecisions) bundle(ctx context.Context, hash string) ([]byte, error) {
	p, err := d.query(ctx, contract.DecisionQuery{Bundle: hash})
	return []byte(p.Bundle), d.o.explain(err)
}

func (d daemonDecisions) Close() error { return nil }

type ledgerDecisions struct{ *ledger.Audit }

func (d ledgerDecisions) page(ctx context.Context, after string, since time.Time) ([]journalled, error) {
	entries, err := d.DecisionsAfter(ctx, after, since, ledger.MaxDecisions)
	out := make([]journalled, len(entries))
	for i, e := range entries {
		out[i].of, e.Of = e.Of, nil
		if out[i].JournalledDecision, err = ca.Journalled(e); err != nil {
			return nil, err
		}
	}
	return out, err
}

func (d ledgerDecisions) one(ctx context.Context, id string) (contract.JournalledDecision, error) {
	e, err := d.Decision(ctx, id)
	if err == nil && e == nil {
		err = errors.New("there is no such decision, or it is older than decisions are kept")
	}
	if err != nil {
		return contract.JournalledDecision{}, err
	}
	return ca.Journalled(*e)
}

func (d ledgerDecisions) bundle(ctx context.Context, hash string) ([]byte, error) {
	b, err := hex.DecodeString(hash)
	if err != nil || len(b) != len(policy.Hash{}) {
		return nil, fmt.Errorf("%q is no hash of a bundle", hash)
	}
	return d.PolicyFile(ctx, policy.Hash(b))
}

func (o *options) decisions(ctx context.Context, file string) (decisions, error) {
	if file != "" {
		a, err := ledger.OpenAudit(ctx, file)
		if err != nil {
			return nil, &coded{exitUsage, err}
		}
		return ledgerDecisions{a}, nil
	}
	c, err := o.client()
	if err != nil {
		return nil, err
	}
	return daemonDecisions{o, c.Decisions}, nil
}

// ago reads "7d", "36h" or an instant.
func ago(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= 36500 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, &coded{exitUsage, fmt.Errorf("--since %q is neither days (7d), a duration (36h) nor an instant (2026-03-01T00:00:00+09:00)", s)}
}

func decisionsCommand(o *options) *cobra.Command {
	var since, file string
	c := &cobra.Command{Use: "decisions [ID]", Short: "Show journalled decisions: who asked for what, which rules decided, what was missing", Args: cobra.MaximumNArgs(1),
		Long: `decisions shows one decision with what it was made of, or a line for each since an instant. The id is in the answer that the client got. Records name
no person: see docs/auditor.md.`,
		Example: "  sealctl decisions --since 1h --identity clients/auditor\n  sealctl decisions AZ3kq0bQdWfX0J1m2n3o4A --json --identity clients/auditor",
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := o.decisions(cmd.Context(), file)
			if err != nil {
				return err
			}
			defer from.Close()
			if len(args) == 1 {
				d, err := from.one(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return o.print(cmd.OutOrStdout(), d, func(w io.Writer) {
					fmt.Fprintf(w, "decision\t%s\nat\t%s\nclient\t%s\noperation\t%s %s\nresult\t%s\nrules\t%s\nmissing\t%s\npolicy\t%d (%.16s…)\nidentity\t%s\njournal\t%d\n", d.Decision.ID,
						d.At.Format(time.RFC3339), d.Client, d.Operation, d.DocumentType, result(d.Decision.Result, d.Decision.Code), strings.Join(d.Decision.Rules, " "),
						strings.Join(d.Decision.Missing, " "), d.Decision.PolicyVersion, d.Decision.Policy, d.Decision.Identity, d.Sequence)
					if d.Of != nil {
						fmt.Fprintf(w, "made of\t%s\n", d.Of)
					}
				})
			}
			at, err := ago(since, time.Now())
			if err != nil {
				return err
			}
			all := []contract.JournalledDecision{}
			if err := eachPage(cmd.Context(), from, at, func(page []journalled) error {
				for _, d := range page {
					one := d.JournalledDecision
					if one.Of = nil; o.json {
						if one, err = d.whole(); err != nil {
							return err
						}
					}
					all = append(all, one)
				}
				return nil
			}); err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), all, func(w io.Writer) {
				fmt.Fprintln(w, "AT\tCLIENT\tOPERATION\tRESULT\tDECISION")
				for _, d := range all {
					fmt.Fprintf(w, "%s\t%s\t%s %s\t%s\t%s\n", d.At.Format("01-02 15:04:05"), short(d.Client), d.Operation, d.DocumentType, result(d.Decision.Result, d.Decision.Code), d.Decision.ID)
				}
			})
		}}
	c.Flags().StringVar(&since, "since", "1h", "from when on: 7d, 36h or an instant")
	c.Flags().StringVar(&file, "ledger", "", "read a ledger file instead of a running daemon")
	return c
}

func result(r, code string) string { return strings.TrimSpace(r + " " + code) }

func eachPage(ctx context.Context, from decisions, since time.Time, f func([]journalled) error) error {
	for after := ""; ; {
		page, err := from.page(ctx, after, since)
		if err == nil {
			err = f(page)
		}
		if err != nil || len(page) < contract.MaxDecisions {
			return err
		}
		after = page[len(page)-1].Decision.ID
	}
}

// replayed is what came of a replay.
type replayed struct {
	Bundle       string         `json:"bundle"`
	Version      uint64         `json:"version"`
	Since        time.Time      `json:"since"`
	Decisions    int            `json:"decisions"`
	Same         int            `json:"same"`
	Changed      int            `json:"changed"`
	Undetermined int            `json:"undetermined"` // what the record does not tell: the values of claims
	Unjudged     int            `json:"unjudged"`     // evidence that was not true, operations that no bundle judges alone
	Seconds      float64        `json:"seconds"`
	PerSecond    float64        `json:"decisions_per_second"`
	Changes      []replayChange `json:"changes"` // also those that can't be told, as undetermined
}

type replayChange struct {
	Count        int      `json:"count"`
	Operation    string   `json:"operation"`
	DocumentType string   `json:"document_type"`
	Was          string   `json:"was"`
	Would        string   `json:"would_be"`
	Missing      []string `json:"missing,omitempty"`
	Rules        []string `json:"rules,omitempty"`
	Examples     []string `json:"examples"` // ids
}

const mostExamples = 3

func policyReplay(o *options) *cobra.Command {
	var name, since, file string
	c := &cobra.Command{Use: "replay --bundle NEW", Short: "Show which of the decisions of the past a new bundle would make otherwise", Args: cobra.NoArgs,
		Long: `replay decides what was journalled again by a new bundle, here and not in the daemon, which only reads. Nothing is put to use. Budgets fill up from
--since on. What a record does not tell, because claims are not kept, is counted as undetermined. Exit codes: 0 nothing would change, 5 something would, or
can't be told.`,
		Example: "  sealctl policy replay --bundle policy.json --since 7d --identity clients/auditor\n  sealctl policy replay --bundle policy.json --ledger backup.db --json | jq .changes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, to, err := readBundle(name)
			if err != nil {
				return err
			}
			begun := time.Now()
			at, err := ago(since, begun)
			if err != nil {
				return err
			}
			from, err := o.decisions(cmd.Context(), file)
			if err != nil {
				return err
			}
			defer from.Close()
			bar := newBar(cmd.ErrOrStderr(), at, begun, "decisions")
			out, err := replay(cmd.Context(), from, to, at, bar.show)
			bar.end()
			if err != nil {
				return err
			}
			out.Seconds = time.Since(begun).Seconds()
			out.PerSecond = float64(out.Decisions) / out.Seconds
			err = o.print(cmd.OutOrStdout(), out, func(w io.Writer) {
				fmt.Fprintf(w, "%d decisions since %s by version %d (%.16s…) in %.1f s\n", out.Decisions, at.Format(time.DateTime), out.Version, out.Bundle, out.Seconds)
				fmt.Fprintf(w, "%d the same, %d would change, %d can't be told, %d no bundle judges\n", out.Same, out.Changed, out.Undetermined, out.Unjudged)
				if len(out.Changes) > 0 {
					fmt.Fprintln(w, "\nCOUNT\tREQUEST\tWAS\tWOULD BE\tFOR EXAMPLE")
				}
				for _, c := range out.Changes {
					fmt.Fprintf(w, "%d\t%s %s\t%s\t%s\t%s\n", c.Count, c.Operation, short(c.DocumentType), c.Was, c.Would, c.Examples[0])
				}
			})
			if err == nil && out.Changed+out.Undetermined > 0 {
				return &coded{exitCheck, fmt.Errorf("%d of %d decisions would change, %d can't be told", out.Changed, out.Decisions, out.Undetermined)}
			}
			return err
		}}
	c.Flags().StringVar(&name, "bundle", "", "the new bundle; it needs no signatures")
	c.Flags().StringVar(&since, "since", "7d", "from when on: 7d, 36h or an instant")
	c.Flags().StringVar(&file, "ledger", "", "read a ledger file instead of a running daemon")
	_ = c.MarkFlagRequired("bundle")
	return c
}

// replay decides again, and says how far it came. One page is read while those before it are judged, on all processors.
func replay(ctx context.Context, from decisions, to *policy.Bundle, since time.Time, show func(time.Time, int)) (replayed, error) {
	out := replayed{Bundle: to.Hash().String(), Version: to.Version(), Since: since, Changes: []replayChange{}}
	g, ctx := errgroup.WithContext(ctx)
	known := &bundles{from: from, known: map[policy.Hash]*policy.Bundle{}}
	again := policy.NewReplay(to, func(h policy.Hash) *policy.Bundle { return known.get(ctx, h) })
	groups := map[string]*replayChange{}
	pages := make(chan []journalled, 1)
	g.Go(func() error {
		defer close(pages)
		return eachPage(ctx, from, since, func(page []journalled) error {
			select {
			case pages <- page:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	g.Go(func() error {
		for page := range pages {
			verdicts, err := judge(again, page)
			if err = errors.Join(err, known.err); err != nil {
				return err
			}
			for i, d := range page {
				if out.Decisions++; out.Decisions%500 == 0 {
					show(d.At, out.Decisions)
				}
				if verdicts[i] == nil {
					out.Unjudged++
					continue
				}
				now, told := again.Decide(*verdicts[i])
				was, would := result(d.Decision.Result, d.Decision.Code), result(now.Result.String(), now.Code)
				switch {
				case !told:
					out.Undetermined++
					would = "undetermined: " + strings.Join(now.Missing, " ")
				case was == would:
					out.Same++
					continue
				default:
					out.Changed++
				}
				key := strings.Join([]string{d.Operation, d.DocumentType, was, would}, "\x00")
				g := groups[key]
				if g == nil {
					g = &replayChange{Operation: d.Operation, DocumentType: d.DocumentType, Was: was, Would: would, Missing: now.Missing, Rules: now.Rules}
					groups[key] = g
				}
				if g.Count++; len(g.Examples) < mostExamples {
					g.Examples = append(g.Examples, d.Decision.ID)
				}
			}
		}
		return nil
	})
	err := g.Wait()
	for _, g := range groups {
		out.Changes = append(out.Changes, *g)
	}
	slices.SortFunc(out.Changes, func(a, b replayChange) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Operation+a.DocumentType+a.Was+a.Would, b.Operation+b.DocumentType+b.Was+b.Would))
	})
	return out, err
}

// judge gives a verdict for each decision; nil where no bundle judges.
func judge(again *policy.Replay, page []journalled) ([]*policy.Verdict, error) {
	verdicts := make([]*policy.Verdict, len(page))
	var g errgroup.Group
	size := len(page)/runtime.GOMAXPROCS(0) + 1
	for from := 0; from < len(page); from += size {
		g.Go(func() error {
			for i := from; i < min(from+size, len(page)); i++ {
				d := page[i]
				rec, err := d.record()
				if err != nil {
					return err
				}
				if rec == nil {
					continue
				}
				var by policy.Hash
				if b, err := hex.DecodeString(d.Decision.Policy); err == nil && len(b) == len(by) {
					by = policy.Hash(b)
				}
				v, err := again.Judge(*rec, by)
				if err != nil {
					return fmt.Errorf("decision %s: %w", d.Decision.ID, err)
				}
				verdicts[i] = &v
			}
			return nil
		})
	}
	return verdicts, g.Wait()
}

// bundles are those that decisions were made by, each asked for once.
type bundles struct {
	from  decisions
	mu    sync.Mutex
	known map[policy.Hash]*policy.Bundle
	err   error // why one could not be asked for
}

// get gives nil for one that is not to be had.
func (k *bundles) get(ctx context.Context, h policy.Hash) *policy.Bundle {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, asked := k.known[h]
	if !asked {
		file, err := k.from.bundle(ctx, h.String())
		if err != nil {
			k.err = errors.Join(k.err, err)
		} else if len(file) > 0 {
			if p, err := policy.Parse("bundle "+h.String(), file); err == nil && p.Hash() == h {
				b = p
			}
		}
		k.known[h] = b
	}
	return b
}

// bar shows progress on a terminal, and nothing elsewhere.
type bar struct {
	w        io.Writer
	from, to time.Time
	what     string
	shown    bool
}

func newBar(w io.Writer, from, to time.Time, what string) *bar {
	if f, ok := w.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
			return &bar{w: w, from: from, to: to, what: what}
		}
	}
	return &bar{}
}

func (b *bar) show(at time.Time, n int) {
	if b.w == nil {
		return
	}
	const width = 40
	done := min(max(float64(at.Sub(b.from))/float64(max(b.to.Sub(b.from), 1)), 0), 1)
	fmt.Fprintf(b.w, "\r  [%-*s] %3.0f %%  %d %s", width, strings.Repeat("█", int(done*width)), done*100, n, b.what)
	b.shown = true
}

func (b *bar) end() {
	if b.shown {
		fmt.Fprintf(b.w, "\r%78s\r", "")
	}
}
