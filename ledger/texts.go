package ledger

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// wordy are tables whose rows are read for no texts: officers' names and reasons stand in them as they wrote them, policy bundles, and settings that are
// no JSON; the salts of commitments are random bytes, one in 256 of which begins like JSON.
var wordy = []Table{TableOfficers, TableProposals, TableMandates, TableMeta, TableCommitments}

// Texts calls f for every text in the journal and in the rows of all tables that speak of cards and persons: member by member, whatever the
// record is. A leaf has no table; seq is its entry, or the one that wrote the row last. Of leaves about what officers or operators did, which
// say why in their words, what they say is left out.
func (a *Audit) Texts(ctx context.Context, f func(t Table, seq uint64, member, text string)) error {
	err := a.Journal(ctx, func(seq uint64, leaf Leaf, body []byte) error {
		said := slices.Contains([]string{"unfence", "issuing", "authority", "budget", "clock", "lift"}, leaf.Kind) || leaf.Proposal != ""
		return texts(body, func(member, text string) {
			if !said || member != "reason" && member != "reasons" {
				f("", seq, member, text)
			}
		})
	})
	if err != nil {
		return err
	}
	for _, names := range tables {
		for _, t := range names {
			if slices.Contains(wordy, t) {
				continue
			}
			err := scan(ctx, a.store, t, nil, func(e Entry) error {
				if len(e.Value) == 0 || e.Value[0] != '{' {
					return nil
				}
				return texts(e.Value, func(member, text string) { f(t, e.Revision-1, member, text) })
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// texts are the strings of a JSON value, with the name of the member in which they stand.
func texts(value []byte, f func(member, text string)) error {
	d := jsontext.NewDecoder(bytes.NewReader(value))
	member := ""
	for {
		token, err := d.ReadToken()
		if err != nil {
			return fmt.Errorf("a leaf or row is no JSON: %w", err)
		}
		if token.Kind() != '"' {
			if d.StackDepth() == 0 {
				return nil // what a row has behind its record, as its own digest, is no text
			}
			continue
		}
		if kind, n := d.StackIndex(d.StackDepth()); kind == '{' && n%2 == 1 {
			member = token.String()
			continue
		}
		f(member, token.String())
	}
}
