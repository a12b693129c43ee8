package fsck

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"

	"sealkeeper/ledger"
	"sealkeeper/ledger/state"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// custody is what the journal says of keys.
type custody struct {
	entries    map[string]uint64   // hash of an entry → the journal's entry that has it
	before     map[string]bool     // keys of before there were histories
	registries map[string]struct{} // digests of registries of officers
	proposed   uint64              // first journal entry of officers, plus one; 0: none
}

// kept collects what the journal says of keys.
func (f *run) kept(seq uint64, leaf ledger.Leaf) {
	switch leaf.Kind {
	case "officers":
		f.custody.registries[string(leaf.Digest)] = struct{}{}
	case "unfence":
		f.custody.registries[string(leaf.Registry)] = struct{}{} // none where no officers are
	case "proposal":
		if f.custody.proposed == 0 {
			f.custody.proposed = seq + 1
		}
	case "key":
		if len(leaf.Keys) == 0 {
			f.custody.before[leaf.Name] = true
		}
	}
	for _, k := range leaf.Keys {
		f.custody.entries[string(k.Entry)] = seq
	}
}

// mandate is a proposal about keys whose signatures were counted again.
type mandate struct {
	seq        uint64
	parameters officer.Parameters
	by         []string
}

// mandates: what was done to keys was approved by as many distinct officers as the registry of then demanded, over the same bytes (I7).
func (f *run) mandates() (map[string]*mandate, error) {
	c := f.r.check("I7", "what became of keys a quorum approved, over the same bytes: signatures counted again")
	out := map[string]*mandate{}
	err := f.a.Mandates(f.ctx, func(seq uint64, id string, m ledger.MandateRecord) error {
		c.Checked++
		sum := sha256.Sum256(m.Registry)
		if _, known := f.custody.registries[string(sum[:])]; !known {
			c.fail("proposal %.12s… was carried out under a registry of officers that the journal does not have", id)
			return nil
		}
		r, err := officer.ParseRegistry(m.Registry)
		if err != nil {
			c.fail("proposal %.12s…: %v", id, err)
			return nil
		}
		q, err := r.Decide(officer.Case{Approvals: m.Approvals, Since: m.Since}, m.At)
		switch {
		case err != nil:
			c.fail("proposal %.12s… was carried out, and does not count: %v", id, err)
		case q.ID() != id || string(q.Action()) != m.Action:
			c.fail("what is kept as proposal %.12s… is %s %.12s…", id, q.Action(), q.ID())
		case !slices.Contains(f.executed[id], seq):
			c.fail("entry %d is said to have carried out proposal %.12s…, and the journal does not say so", seq, id)
		default:
			out[id] = &mandate{seq, q.Parameters(), q.By()}
		}
		return nil
	})
	return out, err
}

// keysLives: every step of every key's life follows the one before, is in the journal, and was allowed by who could allow it (I1).
func (f *run) keysLives() error {
	mandates, err := f.mandates()
	if err != nil {
		return err
	}
	c := f.r.check("I1", "every step of a key's life is journalled, follows the one before, and was allowed")
	last := map[string]ledger.KeyEntry{}
	head := map[string][]byte{}
	err = f.a.KeyLife(f.ctx, func(seq uint64, e ledger.KeyEntry, row []byte) error {
		c.Checked++
		sum := sha256.Sum256(row)
		p, known := last[e.Key]
		switch {
		case !known && (e.N != 0 || e.From != "" || len(e.Previous) != 0), known && (e.N != p.N+1 || e.From != p.To && e.Cause != ledger.CauseBefore || !bytes.Equal(e.Previous, head[e.Key])):
			c.fail("key %s: entry %d of its history does not follow the one before", e.Key, e.N)
		case f.custody.entries[string(sum[:])] != seq:
			c.fail("key %s: entry %d of its history was changed: the journal has another hash", e.Key, e.N)
		}
		if e.Cause != ledger.CauseBefore {
			w, since := e.Window, p.At
			if e.Cause == ledger.CauseFounding {
				w, since = state.KeyWindow{}, e.At
			}
			if err := state.KeyStep(e.From, e.To, w, since, e.At); err != nil {
				c.fail("key %s, entry %d: %v", e.Key, e.N, err)
			}
		}
		if err := f.allowed(e, seq, mandates); err != nil {
			c.fail("key %s became %s at %s: %v", e.Key, e.To, e.At.Format("2006-01-02T15:04:05Z"), err)
		}
		delete(f.custody.entries, string(sum[:]))
		last[e.Key], head[e.Key] = e, sum[:]
		return nil
	})
	if err != nil {
		return err
	}
	for sum, seq := range f.custody.entries {
		c.fail("entry %d has the step %.12s… of a key's life, which is nowhere else", seq, hex.EncodeToString([]byte(sum)))
	}
	active := map[string]string{}
	for id, k := range f.keys {
		c.Checked++
		e, known := last[id]
		spki := sha256.Sum256(k.SPKI)
		switch {
		case !known && (k.Entries != 0 || !f.custody.before[id]):
			c.fail("key %s is registered, and nothing says how it came to be", id)
		case known && (k.Entries != e.N+1 || !bytes.Equal(k.Last, head[id]) || k.State != e.To):
			c.fail("key %s is %s, its history ends with %s", id, k.State, e.To)
		case known && len(e.SPKI) > 0 && !bytes.Equal(e.SPKI, spki[:]), known && !bytes.Equal(e.CKAID, k.CKAID):
			c.fail("key %s is another key than its history says", id)
		case known && (len(e.Link) > 0 || len(k.Link) > 0) && !bytes.Equal(e.Link, hashOf(k.Link)):
			c.fail("key %s has another link certificate than its history says", id)
		case known && (!k.NotBefore.Equal(e.Window.NotBefore) || !k.NotAfter.Equal(e.Window.NotAfter) || !k.Until.Equal(e.Window.Until)):
			c.fail("key %s may be used from %s to %s, which its history does not say", id, k.NotBefore, k.NotAfter)
		}
		if k.State == ledger.KeyActive {
			place := string(k.Purpose) + " on token " + k.Token
			if other := active[place]; other != "" {
				c.fail("keys %s and %s are both active for %s", min(other, id), max(other, id), place)
			}
			active[place] = id
		}
		delete(last, id)
	}
	for id := range last {
		c.fail("key %s has a history and is not registered", id)
	}
	return f.links()
}

func hashOf(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// links: a root that took the place of another has a link certificate, which says that it is this key and verifies with the other one (I1).
func (f *run) links() error {
	c := f.r.check("I1", "a root that takes the place of another is linked to it")
	issued := map[string]ledger.Certificate{}
	if err := f.a.Certificates(f.ctx, func(_ uint64, s ledger.Certificate) error {
		if s.Profile == "iaca-link" || s.Profile == "client-ca-link" {
			issued[string(s.DER)] = s
		}
		return nil
	}); err != nil {
		return err
	}
	for id, k := range f.keys {
		if k.Purpose != policy.PurposeIACA && k.Purpose != policy.PurposeClientCA || k.Plan == nil || len(k.Chain) == 0 {
			continue
		}
		c.Checked++
		row, there := issued[string(k.Link)]
		cert, err := x509.ParseCertificate(k.Link)
		switch {
		case err != nil:
			c.fail("root %s takes the place of %s without a link certificate: %v", id, k.Plan.Succeeds, err)
		case !bytes.Equal(cert.RawSubjectPublicKeyInfo, k.SPKI):
			c.fail("the link certificate of root %s is for another key", id)
		case !there || row.CA != k.Plan.Succeeds:
			c.fail("the link certificate of root %s was not issued by %s", id, k.Plan.Succeeds)
		}
	}
	return nil
}

// allowed says by whom a step of a key's life was not allowed.
func (f *run) allowed(e ledger.KeyEntry, seq uint64, mandates map[string]*mandate) error {
	switch e.Cause {
	case ledger.CauseBefore:
		if !f.custody.before[e.Key] {
			return fmt.Errorf("the journal knows of no time before its history")
		}
		return nil
	case ledger.CauseFounding:
		if f.custody.proposed > 0 && seq >= f.custody.proposed {
			return fmt.Errorf("as one of the founding, after officers had decided")
		}
		return nil
	case ledger.CauseEnded:
		if e.Proposal == "" { // the founding said how long it is used
			if e.To != ledger.KeyDeactivated || e.At.Before(e.Window.NotAfter) {
				return fmt.Errorf("its use ends at %s", e.Window.NotAfter)
			}
			return nil
		}
	}
	m := mandates[e.Proposal]
	if m == nil {
		return fmt.Errorf("proposal %.12s… is said to allow it, and no quorum of it is kept", e.Proposal)
	}
	if !slices.Equal(m.by, e.By) {
		return fmt.Errorf("%v are said to have allowed it, and %v did", e.By, m.by)
	}
	if e.Cause == ledger.CauseOfficers && m.seq != seq {
		return fmt.Errorf("it says that entry %d carried out proposal %.12s…, which entry %d did", seq, e.Proposal, m.seq)
	}
	if !permits(m.parameters, e) {
		return fmt.Errorf("proposal %.12s… does not allow it", e.Proposal)
	}
	return nil
}

// permits: what officers read says that this happens.
func permits(parameters officer.Parameters, e ledger.KeyEntry) bool {
	byOfficers, to := e.Cause == ledger.CauseOfficers, e.To
	switch p := parameters.(type) {
	case *officer.Generate:
		if e.Key == p.Succeeds {
			return e.Cause == ledger.CausePlan && to == ledger.KeyDeactivated && !e.At.Before(p.Activate)
		}
		if e.Key != p.ID || to != ledger.KeyPlanned && to != ledger.KeyGenerated && (!e.Window.NotAfter.Equal(p.UseUntil) || e.Window.Until.After(p.Until)) {
			return false
		}
		switch to {
		case ledger.KeyPlanned:
			return byOfficers
		case ledger.KeyGenerated, ledger.KeyCertified:
			return e.Cause == ledger.CausePlan
		case ledger.KeyAnnounced:
			return e.Cause == ledger.CausePlan && !e.At.Before(p.Announce)
		case ledger.KeyActive:
			return e.Cause == ledger.CausePlan && !p.Activate.IsZero() && !e.At.Before(p.Activate) || e.Cause == ledger.CauseStandby && p.Activate.IsZero()
		case ledger.KeyDeactivated:
			return e.Cause == ledger.CauseEnded && !e.At.Before(p.UseUntil) || e.Cause == ledger.CauseUsed && p.Uses > 0
		}
	case *officer.ClientCA:
		return permits((*officer.Rollover)(p), e)
	case *officer.Rollover:
		if e.Key == p.Succeeds {
			return e.Cause == ledger.CausePlan && to == ledger.KeyDeactivated && !e.At.Before(p.Activate)
		}
		if e.Key != p.ID || to != ledger.KeyPlanned && to != ledger.KeyGenerated && (!e.Window.NotAfter.Equal(p.UseUntil) || e.Window.Until.After(p.Until)) {
			return false
		}
		switch to {
		case ledger.KeyPlanned:
			return byOfficers
		case ledger.KeyGenerated:
			return e.Cause == ledger.CausePlan
		case ledger.KeyCertified:
			return e.Cause == ledger.CausePlan && len(e.Link) > 0
		case ledger.KeyAnnounced:
			return e.Cause == ledger.CausePlan && !e.At.Before(p.Announce)
		case ledger.KeyActive:
			return e.Cause == ledger.CausePlan && !e.At.Before(p.Activate)
		}
	case *officer.Activate:
		return byOfficers && (e.Key == p.ID && to == ledger.KeyActive || e.Key == p.Succeeds && to == ledger.KeyDeactivated)
	case *officer.Deactivate:
		return byOfficers && e.Key == p.ID && to == ledger.KeyDeactivated
	case *officer.Compromise:
		return byOfficers && e.Key == p.ID && to == ledger.KeyCompromised
	case *officer.Destroy:
		return byOfficers && e.Key == p.ID && to == ledger.KeyDestroyed
	}
	return false
}
