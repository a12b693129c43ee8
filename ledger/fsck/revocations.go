package fsck

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// revokedAt is what one journal entry says of a certificate.
type revokedAt struct {
	seq uint64
	ledger.LeafCertificate
}

// unbelieved collects what the journal says of revocations and of their lists.
func (f *run) unbelieved(seq uint64, leaf ledger.Leaf) {
	for _, c := range leaf.Certificates {
		f.revoked[string(c.Serial)] = append(f.revoked[string(c.Serial)], revokedAt{seq, c})
	}
	if leaf.Kind == "settle" && leaf.Operation == string(policy.KindCRL) {
		if last := f.crls[leaf.Name]; !grows(f.crls, seq, leaf) {
			f.repeated = append(f.repeated, fmt.Sprintf("entry %d: CRL %s got number %d after %d", seq, leaf.Name, leaf.Version, last.version))
		}
	}
}

// asOf is what was said of a certificate up to a journal entry; ok is false if it was not revoked then.
func asOf(all []revokedAt, through uint64) (last ledger.LeafCertificate, ok bool) {
	for _, r := range all {
		if r.seq <= through {
			last, ok = r.LeafCertificate, r.State == "revoked"
		}
	}
	return last, ok
}

// revocations: what is revoked is what the journal says, each for a certificate that there is; each list has exactly the entries that it has to
// have, verifies with its CA's key, and has a higher number than any before it (I4).
func (f *run) revocations() error {
	c := f.r.check("I4", "revoked certificates are those of the journal and of lists whose numbers grow")
	for _, p := range f.repeated {
		c.fail("%s", p)
	}
	certificates := map[string]ledger.Certificate{}
	if err := f.a.Certificates(f.ctx, func(_ uint64, s ledger.Certificate) error { certificates[string(s.Serial)] = s; return nil }); err != nil {
		return err
	}
	rows := map[string]ledger.Revocation{}
	if err := f.a.Revocations(f.ctx, func(_ uint64, r ledger.Revocation) error {
		c.Checked++
		rows[string(r.Serial)] = r
		if said, ok := asOf(f.revoked[string(r.Serial)], 1<<63); !ok || said.Reason != r.Reason || said.CA != r.CA {
			c.fail("certificate %x is revoked for %s, which the journal does not say", r.Serial, r.Reason)
		}
		if _, ok := r.Reason.Code(); !ok || r.At.IsZero() || r.At.Nanosecond() != 0 {
			c.fail("certificate %x is revoked for %q at %s, which no list can say", r.Serial, r.Reason, r.At)
		}
		s, ok := certificates[string(r.Serial)]
		switch {
		case !ok && !r.Adopted:
			c.fail("certificate %x is revoked, and was never issued", r.Serial)
		case ok && (s.CA != r.CA || s.CRL != r.CRL || !s.NotAfter.Equal(r.NotAfter)):
			c.fail("certificate %x is revoked as another than it is", r.Serial)
		}
		return nil
	}); err != nil {
		return err
	}
	for serial, all := range f.revoked {
		if _, ok := asOf(all, 1<<63); ok {
			if _, there := rows[serial]; !there {
				c.fail("certificate %x was revoked, says the journal, and nothing else does", serial)
			}
		}
	}
	numbers := map[string]ledger.CRLRecord{}
	if err := f.a.CRLs(f.ctx, func(seq uint64, r ledger.CRLRecord) error {
		c.Checked++
		numbers[r.Name] = r
		last, by := f.crls[r.Name], seq // the entry by which its number came to be
		if !r.Jumped {
			by = last.seq
		}
		switch lifted := f.journalled.lifted(); {
		case r.Number < last.version, !r.Jumped && r.Number != last.version:
			c.fail("CRL %s has number %d, the last that was settled is %d", r.Name, r.Number, last.version)
		case r.Jumped && !f.journalled.lifts(seq):
			c.fail("CRL %s was moved on to number %d by entry %d, which lifted no fence", r.Name, r.Number, seq)
		case by < lifted:
			c.fail("CRL %s has number %d, of before entry %d, which lifted a fence and moved it on", r.Name, r.Number, lifted)
		}
		if r.DER != nil && !last.is(r.DER) {
			c.fail("CRL %s number %d has other bytes than were settled", r.Name, r.Number)
		}
		if r.DER == nil && r.Jumped { // moved ahead by lifting a fence, not signed yet
			return nil
		}
		for _, p := range f.crl(r, rows, certificates) {
			c.fail("CRL %s number %d: %s", r.Name, r.Number, p)
		}
		return nil
	}); err != nil {
		return err
	}
	for name, last := range f.crls {
		if _, there := numbers[name]; !there {
			c.fail("CRL %s: number %d was settled, and is nowhere", name, last.version)
		}
	}
	f.publishedCRLs(c, numbers)
	return nil
}

// crl compares one list with what it has to say.
func (f *run) crl(r ledger.CRLRecord, rows map[string]ledger.Revocation, certificates map[string]ledger.Certificate) (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	list, err := x509.ParseRevocationList(r.DER)
	if err != nil {
		say("%v", err)
		return problems
	}
	ca, ok := f.keys[r.CA]
	if !ok || ca.Purpose != policy.PurposeIACA && ca.Purpose != policy.PurposeClientCA || !signedBy(ca.SPKI, list.RawTBSRevocationList, list.Signature) {
		say("it does not verify with CA key %q", r.CA)
	}
	if list.Number == nil || !r.Jumped && list.Number.Cmp(new(big.Int).SetUint64(r.Number)) != 0 || !list.ThisUpdate.Equal(r.ThisUpdate) || !list.NextUpdate.Equal(r.NextUpdate) {
		say("it says number %v, from %s to %s", list.Number, list.ThisUpdate.Format(time.RFC3339), list.NextUpdate.Format(time.RFC3339))
	}
	want := map[string]ledger.LeafCertificate{}
	for serial, all := range f.revoked {
		said, ok := asOf(all, r.Through)
		if !ok || said.CA != r.CA {
			continue
		}
		s, known := certificates[serial]
		point, end := s.CRL, s.NotAfter
		if row, there := rows[serial]; there && !known {
			point, end = row.CRL, row.NotAfter
		}
		if r.Scope != "" && point != r.Name || !end.IsZero() && end.Before(r.LastUpdate) {
			continue
		}
		want[new(big.Int).SetBytes([]byte(serial)).String()] = said
	}
	for _, e := range list.RevokedCertificateEntries {
		serial := e.SerialNumber.String()
		said, ok := want[serial]
		if !ok {
			say("it lists certificate %x, which was not revoked up to entry %d", e.SerialNumber, r.Through)
			continue
		}
		delete(want, serial)
		if code, _ := said.Reason.Code(); ca.Purpose == policy.PurposeClientCA && e.ReasonCode != code || ca.Purpose == policy.PurposeIACA && len(e.Extensions) > 0 {
			say("it lists certificate %x with reason %d, revoked for %s", e.SerialNumber, e.ReasonCode, said.Reason)
		}
	}
	for _, said := range want {
		say("it does not list certificate %x, revoked before entry %d", said.Serial, r.Through)
	}
	return problems
}

// publishedCRLs: no list outside is ahead of the ledger, and each is the one that was settled.
func (f *run) publishedCRLs(c *Check, numbers map[string]ledger.CRLRecord) {
	for _, p := range f.outside["crl"] {
		c.Checked++
		r, known := numbers[p.meta.ID]
		switch {
		case p.damaged != nil:
			c.fail("%s: %v", p.name, p.damaged)
			continue
		case !known || p.meta.Version > r.Number:
			c.fail("%s: number %d of CRL %s is ahead of the ledger's %d", p.name, p.meta.Version, p.meta.ID, r.Number)
			continue
		case p.token == nil: // its number is written first
			continue
		}
		list, err := x509.ParseRevocationList(p.token)
		switch {
		case err != nil:
			c.fail("%s: %v", p.meta.File, err)
		case list.Number == nil || list.Number.Cmp(new(big.Int).SetUint64(r.Number)) > 0:
			c.fail("%s: number %v is ahead of the ledger's %d", p.meta.File, list.Number, r.Number)
		case list.Number.Cmp(new(big.Int).SetUint64(r.Number)) == 0 && !bytes.Equal(p.token, r.DER):
			c.fail("%s: number %v has other bytes than were settled", p.meta.File, list.Number)
		}
	}
}
