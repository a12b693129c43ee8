package fsck

import (
	"bytes"
	"crypto/x509"
	"slices"

	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// enrolled is what the journal says of clients.
type enrolled struct {
	by      map[string]leafAt // proposal → its "enrol" leaf
	revoked []leafAt
	tokens  map[string]uint64 // digest of a token that registered a key → entry
	twice   []string
}

// registry collects what leaves say of clients.
func (f *run) registry(seq uint64, leaf ledger.Leaf) {
	if f.enrolled.by == nil {
		f.enrolled.by, f.enrolled.tokens = map[string]leafAt{}, map[string]uint64{}
	}
	switch {
	case leaf.Kind == "enrol":
		f.enrolled.by[leaf.Proposal] = leafAt{seq, leaf}
	case leaf.Kind == "client-revoked":
		f.enrolled.revoked = append(f.enrolled.revoked, leafAt{seq, leaf})
	case leaf.Kind == "reserve" && leaf.Operation == string(policy.KindCert) && leaf.Digest != nil:
		if _, twice := f.enrolled.tokens[string(leaf.Digest)]; twice {
			f.enrolled.twice = append(f.enrolled.twice, leaf.About)
		}
		f.enrolled.tokens[string(leaf.Digest)] = seq
	}
}

// clients: who is enrolled is whom officers approved, a token registered one key, and no certificate says more than its client's enrolment (I1).
func (f *run) clients() error {
	c := f.r.check("I1", "clients are those that officers approved, and their certificates say nothing else")
	for _, id := range f.enrolled.twice {
		c.fail("a token of client %s was used for two certificates", id)
	}
	all := map[string]ledger.ClientRecord{}
	approved, ended := map[string][]policy.Enrolment{}, map[string][]string{}
	if err := f.a.Clients(f.ctx, func(id string, _ uint64, r ledger.ClientRecord) error {
		c.Checked++
		all[id] = r
		if r.ID != id {
			c.fail("client %s is in the place of %s", r.ID, id)
		}
		if !r.Named {
			approved[r.Proposal] = append(approved[r.Proposal], r.Enrolment)
		}
		if (r.State == ledger.ClientRevoked) != !r.Revoked.IsZero() {
			c.fail("client %s is %s, and was revoked: %v", id, r.State, !r.Revoked.IsZero())
		}
		if r.State == ledger.ClientRevoked {
			ended[r.RevokedBy] = append(ended[r.RevokedBy], id)
		}
		if r.State == ledger.ClientActive && len(r.Key) == 0 || r.State == ledger.ClientApproved && len(r.Key) > 0 {
			c.fail("client %s is %s, and has %d bytes of a key", id, r.State, len(r.Key))
		}
		return nil
	}); err != nil {
		return err
	}
	for proposal, list := range approved {
		leaf, ok := f.enrolled.by[proposal]
		if !ok {
			c.fail("%d clients are enrolled by proposal %.12s…, which the journal did not carry out", len(list), proposal)
			continue
		}
		if leaf.leaf.Count != uint64(len(list)) || !is(leaf.leaf.Digest, policy.EnrolmentsDigest(list)) {
			c.fail("the %d clients of proposal %.12s… are not the %d of entry %d", len(list), proposal, leaf.leaf.Count, leaf.seq)
		}
		delete(f.enrolled.by, proposal)
	}
	for proposal, leaf := range f.enrolled.by {
		c.fail("entry %d enrolled %d clients by proposal %.12s…, which are nowhere", leaf.seq, leaf.leaf.Count, proposal)
	}
	f.dismissed(c, all, ended)
	return f.a.Certificates(f.ctx, func(_ uint64, s ledger.Certificate) error {
		if s.Client == "" || len(s.DER) == 0 {
			return nil
		}
		c.Checked++
		client, known := all[s.Client]
		cert, err := x509.ParseCertificate(s.DER)
		if err != nil {
			return nil // certificates says so
		}
		if !known || len(cert.URIs) != 1 || cert.URIs[0].String() != client.URI() || cert.Subject.CommonName != s.Client || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 {
			c.fail("certificate %x names other than client %s, whose it is", s.Serial, s.Client)
		}
		return nil
	})
}

// dismissed: who is revoked is who the journal says.
func (f *run) dismissed(c *Check, all map[string]ledger.ClientRecord, ended map[string][]string) {
	journalled := 0
	for _, leaf := range f.enrolled.revoked {
		journalled += int(leaf.leaf.Count)
		if leaf.leaf.Count == 1 && all[leaf.leaf.About].State != ledger.ClientRevoked {
			c.fail("entry %d revoked client %s, which is %q", leaf.seq, leaf.leaf.About, all[leaf.leaf.About].State)
		}
		if leaf.leaf.Proposal == "" {
			continue
		}
		if ids := ended[leaf.leaf.Proposal]; leaf.leaf.Count != uint64(len(ids)) || !is(leaf.leaf.Digest, policy.NamesDigest(ids)) {
			c.fail("the %d clients that proposal %.12s… revoked are not the %d of entry %d", len(ids), leaf.leaf.Proposal, leaf.leaf.Count, leaf.seq)
		}
	}
	rows := 0
	for _, ids := range ended {
		slices.Sort(ids)
		rows += len(ids)
	}
	if rows != journalled {
		c.fail("%d clients are revoked, the journal revoked %d", rows, journalled)
	}
}

func is(digest []byte, h policy.Hash) bool { return bytes.Equal(digest, h[:]) }
