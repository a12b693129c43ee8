package fsck

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"time"

	"sealkeeper/ledger"
)

// forgotten is how much older than the mark of forgotten decisions an entry's instant may seem: a decision is made before its entry is.
const forgotten = time.Hour

// decision is what an entry says of the decisions that it was written for.
type decision struct {
	kind, policy, client string
	at                   time.Time
	count                uint64
	digest               []byte
}

// decided collects what a leaf says of decisions and bundles. Each bundle is put to use before anything is decided by it.
func (f *run) decided(seq uint64, leaf ledger.Leaf) {
	if leaf.Kind == "policy" {
		f.inUse[leaf.Policy] = true
	} else if leaf.Policy != "" && !f.inUse[leaf.Policy] {
		f.unused = append(f.unused, seq)
	}
	if len(leaf.Decision) > 0 {
		f.decisions[seq] = decision{leaf.Kind, leaf.Policy, leaf.Client, leaf.At, leaf.Count, leaf.Decision}
	}
}

// recorded: the kept decisions are those whose hashes the journal has, each says what its entry says, and none is missing that is not forgotten (I1).
func (f *run) recorded() error {
	c := f.r.check("I1", "what was allowed and denied is kept as it was decided, by bundles that were in use")
	for _, seq := range f.unused {
		c.fail("entry %d was made by a bundle that was never put to use before it", seq)
	}
	swept, err := f.a.DecisionsSwept(f.ctx)
	if err != nil {
		return err
	}
	type batch struct {
		sum hash.Hash
		n   uint64
	}
	denied := map[uint64]*batch{}
	met := map[uint64]bool{}
	if err := f.a.Decisions(f.ctx, func(e ledger.DecisionEntry, row []byte) error {
		c.Checked++
		of, ok := f.decisions[e.Seq]
		sum := sha256.Sum256(row)
		switch {
		case !ok:
			c.fail("decision %s belongs to entry %d, which has no hash of one", e.ID, e.Seq)
		case !f.inUse[e.Policy.String()]:
			c.fail("decision %s was made by bundle %.16s…, which was never put to use", e.ID, e.Policy)
		case of.kind == "denials":
			if e.Result != "denied" || e.Code == "" {
				c.fail("decision %s is among denials of entry %d, and was %q", e.ID, e.Seq, e.Result)
			}
			if denied[e.Seq] == nil {
				denied[e.Seq] = &batch{sum: sha256.New()}
			}
			denied[e.Seq].sum.Write(sum[:])
			denied[e.Seq].n++
		case met[e.Seq]:
			c.fail("decision %s: entry %d has another one already", e.ID, e.Seq)
		case !bytes.Equal(sum[:], of.digest):
			c.fail("decision %s was changed: entry %d has another hash", e.ID, e.Seq)
		case e.Result != "allowed":
			c.fail("decision %s was %q, and entry %d carried it out", e.ID, e.Result, e.Seq)
		case e.Policy.String() != of.policy && of.policy != "":
			c.fail("decision %s was made by bundle %.16s…, entry %d by %.16s…", e.ID, e.Policy, e.Seq, of.policy)
		case e.Client != of.client && of.client != "":
			c.fail("decision %s was made for client %s, entry %d is of %s", e.ID, e.Client, e.Seq, of.client)
		}
		met[e.Seq] = true
		return nil
	}); err != nil {
		return err
	}
	for seq, of := range f.decisions {
		b := denied[seq]
		switch {
		case !swept.IsZero() && of.at.Before(swept.Add(forgotten)): // may be forgotten, all or some
		case of.kind != "denials":
			if !met[seq] {
				c.fail("the decision of entry %d (%s) is missing", seq, of.kind)
			}
		case b == nil && of.count == 0:
		case b == nil || b.n != of.count:
			c.fail("entry %d has %d denials, not all of them are kept", seq, of.count)
		case !bytes.Equal(b.sum.Sum(nil), of.digest):
			c.fail("denials of entry %d were changed", seq)
		}
	}
	return nil
}
