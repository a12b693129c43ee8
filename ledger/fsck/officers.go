package fsck

import (
	"fmt"
	"slices"
	"time"

	"sealkeeper/ledger"
)

// said are the leaves of what officers said; any other leaf that names a proposal carried it out.
var said = []string{"proposal", "approval", "rejection", "approval-refused"}

// governed collects what the journal says of proposals.
func (f *run) governed(seq uint64, leaf ledger.Leaf) {
	switch leaf.Kind {
	case "campaign-card":
		f.marked[leaf.Name]++
	case "campaign":
		if leaf.Operation == ledger.CampaignHold && len(leaf.Digest) > 0 {
			f.placed[leaf.Name] = heldAt{seq, leaf.Count, leaf.Digest}
		}
		switch leaf.State {
		case "started":
			f.begun[leaf.Name], f.begunAt[leaf.Name] = true, seq
		case "lifted":
			f.lifted[leaf.Name], f.liftedAt[leaf.Name] = true, seq
		case "done":
			f.done[leaf.Name], f.ended[leaf.Name] = int(leaf.Count), leaf.At
		case "sweeping", "swept":
			f.forgotten[leaf.Name] += int(leaf.Count)
			f.gone[leaf.Name] = f.gone[leaf.Name] || leaf.State == "swept"
			if end, done := f.ended[leaf.Name]; !done || !leaf.At.After(end.Add(ledger.KeepCampaigns)) {
				f.early = append(f.early, fmt.Sprintf("entry %d swept campaign %.12s…, which ended at %s, before its time", seq, leaf.Name, end.Format(time.RFC3339)))
			}
		}
	case "authority", "budget":
		f.set[leaf.Kind+" "+leaf.Name] = leaf.State == "off" || leaf.State == "raised"
	case "issuing":
		f.set["issuing"] = leaf.State == "stopped"
	case "clock":
		f.set["clock "+f.clock], f.clock = false, leaf.Name
		f.set["clock "+f.clock] = true
	}
	switch {
	case leaf.Proposal == "" || leaf.Kind == "approval-refused":
	case slices.Contains(said, leaf.Kind):
		f.proposed[leaf.Proposal] = append(f.proposed[leaf.Proposal], leaf.Kind)
	default:
		f.executed[leaf.Proposal] = append(f.executed[leaf.Proposal], seq)
	}
}

// proposals: what officers approved was carried out once at most, nothing that they did not approve was, and what is kept says so (I1).
func (f *run) proposals() error {
	c := f.r.check("I1", "what officers decided was proposed, approved and carried out once")
	for id, entries := range f.executed {
		c.Checked++
		if len(entries) > 1 {
			c.fail("proposal %.12s… was carried out by entries %v", id, entries)
		}
		if !slices.Contains(f.proposed[id], "proposal") {
			c.fail("entry %d carried out proposal %.12s…, which nobody made", entries[0], id)
		}
		if slices.Contains(f.proposed[id], "rejection") {
			c.fail("entry %d carried out proposal %.12s…, which an officer rejected", entries[0], id)
		}
	}
	if err := f.switches(); err != nil {
		return err
	}
	if err := f.campaigns(); err != nil {
		return err
	}
	if err := f.holds(); err != nil {
		return err
	}
	return f.a.Proposals(f.ctx, func(id string, r ledger.ProposalRecord) error {
		c.Checked++
		if done := len(f.executed[id]) > 0; done != (r.State == ledger.ProposalExecuted) {
			c.fail("proposal %.12s… is %s, and was carried out: %v", id, r.State, done)
		}
		if rejected := slices.Contains(f.proposed[id], "rejection"); rejected != (r.State == ledger.ProposalRejected) {
			c.fail("proposal %.12s… is %s, and was rejected: %v", id, r.State, rejected)
		}
		return nil
	})
}

// switches: what officers set is set as the journal says it was last (I6).
func (f *run) switches() error {
	c := f.r.check("I6", "what officers switched and raised is as the journal says")
	found := map[string]bool{}
	if err := f.a.Switches(f.ctx, func(name string) error {
		c.Checked++
		if found[name] = true; !f.set[name] {
			c.fail("%s is set, and the journal does not say so", name)
		}
		return nil
	}); err != nil {
		return err
	}
	for name, set := range f.set {
		if set && !found[name] {
			c.fail("the journal says that %s is set, and it is not", name)
		}
	}
	return nil
}

// campaigns: each card of a campaign was marked once, and what ended has none that waits (I6).
func (f *run) campaigns() error {
	c := f.r.check("I6", "cards of campaigns are those that the journal has marked, each once")
	cards, waiting, held := map[string]int{}, map[string]int{}, map[string]int{}
	if err := f.a.CampaignCards(f.ctx, func(id string, r ledger.CardRecord) error {
		c.Checked++
		cards[id]++
		switch r.State {
		case ledger.CardWaiting:
			waiting[id]++
		case ledger.CardHeld:
			held[id]++
		}
		return nil
	}); err != nil {
		return err
	}
	if err := f.a.Campaigns(f.ctx, func(id string, _ uint64, r ledger.CampaignRecord) error {
		c.Checked++
		if !f.begun[id] {
			c.fail("campaign %.12s… was never begun by the journal", id)
		}
		if f.gone[id] {
			c.fail("campaign %.12s… was swept, and is there", id)
		}
		n, done := f.done[id]
		if r.Term { // it ends when it is lifted, and has no cards that are counted
			done = f.lifted[id]
		}
		if done == r.Done.IsZero() {
			c.fail("campaign %.12s… is done: %v, by the journal: %v", id, !r.Done.IsZero(), done)
		}
		if done && (n != cards[id]+f.forgotten[id] || waiting[id]+held[id] > 0) {
			c.fail("campaign %.12s… ended with %d cards; there are %d, of which %d wait", id, n, cards[id]+f.forgotten[id], waiting[id]+held[id])
		}
		if f.lifted[id] == r.Lifted.IsZero() {
			c.fail("hold %.12s… is lifted: %v, by the journal: %v", id, !r.Lifted.IsZero(), f.lifted[id])
		}
		if held[id] != f.holding[id] {
			c.fail("hold %.12s… holds %d cards, and %d have its lock", id, held[id], f.holding[id])
		}
		delete(f.holding, id)
		delete(f.begun, id)
		return nil
	}); err != nil {
		return err
	}
	for id, n := range f.holding {
		c.fail("%d cards have the lock of hold %.12s…, which is not there", n, id)
	}
	for _, p := range f.early {
		c.fail("%s", p)
	}
	for id := range f.begun {
		if f.gone[id] {
			continue
		}
		c.fail("campaign %.12s… began and is not there", id)
	}
	for id, n := range f.marked {
		if cards[id]+f.forgotten[id] != n {
			c.fail("campaign %.12s…: the journal has marked %d cards, and there are %d", id, n, cards[id]+f.forgotten[id])
		}
		delete(cards, id)
	}
	for id, n := range cards {
		c.fail("campaign %.12s…: %d cards that the journal has not marked", id, n)
	}
	return nil
}
