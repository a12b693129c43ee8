package ca

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/contract"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// Decisions reads journalled decisions: one, or those of a time page by page, and on demand the file of a bundle that they name.
func (a *Authority) Decisions(ctx context.Context, r contract.DecisionQuery) (out contract.DecisionPage, _ error) {
	out.Decisions = []contract.JournalledDecision{}
	var entries []ledger.DecisionEntry
	if r.Decision != "" {
		e, err := a.o.Ledger.Decision(ctx, r.Decision)
		if err != nil {
			return out, problem(err, nil)
		}
		if e == nil {
			return out, &Problem{Code: "decision.unknown", Detail: "there is no such decision, or it is older than decisions are kept"}
		}
		entries = append(entries, *e)
	} else if r.Limit > 0 {
		var err error
		if entries, err = a.o.Ledger.Decisions(ctx, r.After, r.Since, r.Limit); err != nil {
			return out, problem(err, nil)
		}
	}
	for _, e := range entries {
		d, err := Journalled(e)
		if err != nil {
			return out, problem(err, nil)
		}
		out.Decisions = append(out.Decisions, d)
	}
	if r.Bundle != "" {
		var h policy.Hash
		b, err := hex.DecodeString(r.Bundle)
		if err == nil && len(b) == len(h) {
			file, ok, err := a.o.Ledger.PolicyFile(ctx, policy.Hash(b))
			if err != nil {
				return out, problem(err, nil)
			}
			if ok {
				out.Bundle = string(file)
			}
		}
	}
	return out, nil
}

// Journalled is a decision as auditors read it.
func Journalled(e ledger.DecisionEntry) (contract.JournalledDecision, error) {
	out := contract.JournalledDecision{At: e.At.UTC().Truncate(time.Millisecond), Client: e.Client, Operation: string(e.Operation), DocumentType: e.DocumentType, Sequence: e.Seq,
		Decision: contract.Decision{ID: e.ID, Result: e.Result, Code: e.Code, Rules: e.Rules, Missing: e.Missing, Policy: e.Policy.String(), PolicyVersion: e.PolicyVersion, Identity: e.Identity}}
	if out.Decision.Rules == nil {
		out.Decision.Rules = []string{}
	}
	if e.Of == nil {
		return out, nil
	}
	of, err := json.Marshal(e.Of)
	if err != nil {
		return out, fmt.Errorf("decision %s: %w", e.ID, err)
	}
	out.Of = of
	return out, nil
}
