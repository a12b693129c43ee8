package fsck

import (
	"slices"

	"sealkeeper/ledger"
)

// said are the leaves of what officers said; any other leaf that names a proposal carried it out.
var said = []string{"proposal", "approval", "rejection", "approval-refused"}

// governed collects what the journal says of proposals.
func (f *run) governed(seq uint64, leaf ledger.Leaf) {
	switch leaf.Kind {
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
