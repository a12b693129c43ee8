package ledger

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"sealkeeper/policy"
)

// Revocation of a certificate: it is revoked, or on hold, as long as its row is there. That its CA lists it is the publisher's to see to.
type Revocation struct {
	Serial   []byte                  `json:"serial"`
	CA       string                  `json:"ca"`            // id of the key that signed the certificate
	CRL      string                  `json:"crl,omitempty"` // name of the list that the certificate points to
	Reason   policy.RevocationReason `json:"reason"`
	At       time.Time               `json:"at"`
	NotAfter time.Time               `json:"not_after,omitzero"` // of the certificate
	Adopted  bool                    `json:"adopted,omitempty"`  // from a list that is ahead of the ledger: the certificate itself may be unknown
}

// revoked is a snapshot. It is never changed, only replaced.
type revoked struct {
	rows  map[string]Revocation // by serial
	moved chan struct{}         // closed when there is a newer snapshot
}

const mostRevocations = 256 // of one commit: a leaf holds some 64 KiB

func (l *Ledger) loadRevocations(ctx context.Context) error {
	all := map[string]Revocation{}
	if err := scan(ctx, l.store, TableRevocations, nil, func(e Entry) error {
		r, err := decode[Revocation](TableRevocations, e.Value)
		if err == nil {
			all[string(r.Serial)] = *r
		}
		return err
	}); err != nil {
		return err
	}
	l.revoked.Store(&revoked{all, make(chan struct{})})
	return scan(ctx, l.store, TableCRLs, nil, func(e Entry) error {
		c, err := decode[CRLRecord](TableCRLs, e.Value)
		if err == nil {
			l.crls[c.Name] = c.Number
		}
		return err
	})
}

// Revocations of one CA's certificates, by serial, with everything up to a journal sequence number.
func (l *Ledger) Revocations(ca string) (all []Revocation, through uint64) {
	l.mu.RLock() // whatever is in the journal up to through is in the snapshot
	s, through := l.revoked.Load(), l.through
	l.mu.RUnlock()
	for _, r := range s.rows {
		if r.CA == ca {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b Revocation) int { return bytes.Compare(a.Serial, b.Serial) })
	return all, through
}

// RevokedCertificate says whether a certificate is revoked or on hold. It reads memory only, and knows what is durable the moment that it is.
func (l *Ledger) RevokedCertificate(serial []byte) (Revocation, bool) {
	r, ok := l.revoked.Load().rows[string(serial)]
	return r, ok
}

// RevocationsMoved is closed when a revocation is made, changed or lifted after this call.
func (l *Ledger) RevocationsMoved() <-chan struct{} { return l.revoked.Load().moved }

// RevokeCertificates has certificates listed as revoked, or put on hold, by their CAs' next lists. What is revoked stays so, with the reason it
// has; a hold becomes a revocation. x is the officers' proposal whose mark is in the same commit; nil: none.
func (l *Ledger) RevokeCertificates(ctx context.Context, serials [][]byte, reason policy.RevocationReason, x *Execution) error {
	leaf := Leaf{Kind: "certificates"}
	rows, applied, err := l.revoking(ctx, &leaf, serials, reason)
	if err != nil || len(rows) == 0 && x == nil {
		return err
	}
	met, shown := l.meeting(rows)
	return l.execute(ctx, x, leaf, append(rows, met...), func(seq uint64) { applied(seq); shown(seq) })
}

// meeting writes the rows of clients again whose certificates change: a certificate that is being made for one meanwhile is judged again.
func (l *Ledger) meeting(certificates []Row) (rows []Row, shown func(seq uint64)) {
	var all []ClientEntry
	for _, row := range certificates {
		e, known := l.ClientBySerial(row.Key)
		if !known || slices.ContainsFunc(all, func(o ClientEntry) bool { return o.ID == e.ID }) {
			continue
		}
		all = append(all, *e)
		rows = append(rows, Row{Table: TableClients, Key: []byte(e.ID), Value: encode(e.ClientRecord), If: If(e.Revision)})
	}
	return rows, func(seq uint64) {
		for _, e := range all {
			e.Revision = seq + 1
			l.showClient(e)
		}
	}
}

// Certificate of a serial number; nil: none was issued.
func (l *Ledger) Certificate(ctx context.Context, serial []byte) (*Certificate, error) {
	if l.dead.Load() {
		return nil, ErrStopped
	}
	c, _, err := get[Certificate](ctx, l, TableCertificates, serial)
	return c, err
}

// LiftHolds has certificates that are on hold listed no more.
func (l *Ledger) LiftHolds(ctx context.Context, serials [][]byte, x *Execution) error {
	leaf := Leaf{Kind: "certificates"}
	var rows []Row
	if len(serials) > mostRevocations {
		return refuse("certificate.too_many", "%d certificates, at most %d are taken", len(serials), mostRevocations)
	}
	for _, serial := range distinct(serials) {
		r, rev, err := get[Revocation](ctx, l, TableRevocations, serial)
		if err != nil {
			return err
		}
		if r == nil || r.Reason != policy.CertificateHold {
			return refuse("certificate.not_held", "certificate %x is not on hold", serial)
		}
		rows = append(rows, Row{Table: TableRevocations, Key: serial, If: If(rev)})
		leaf.Certificates = append(leaf.Certificates, LeafCertificate{Serial: serial, CA: r.CA, State: "lifted"})
	}
	met, shown := l.meeting(rows)
	return l.execute(ctx, x, leaf, append(slices.Clone(rows), met...), func(seq uint64) { l.noteRevocations(rows); shown(seq) })
}

// revoking is for whoever has more to say in the same commit: the rows, what goes into the leaf, and what is to be called when it is durable.
func (l *Ledger) revoking(ctx context.Context, leaf *Leaf, serials [][]byte, reason policy.RevocationReason) (rows []Row, applied func(seq uint64), err error) {
	if _, ok := reason.Code(); !ok {
		return nil, nil, refuse("certificate.reason", "%q is no reason for a revocation", reason)
	}
	if len(serials) > mostRevocations {
		return nil, nil, refuse("certificate.too_many", "%d certificates, at most %d are taken", len(serials), mostRevocations)
	}
	at := l.o.Clock.Now().UTC().Truncate(time.Second)
	for _, serial := range distinct(serials) {
		c, _, err := get[Certificate](ctx, l, TableCertificates, serial)
		if err != nil {
			return nil, nil, err
		}
		old, rev, err := get[Revocation](ctx, l, TableRevocations, serial)
		if err != nil {
			return nil, nil, err
		}
		r := Revocation{Serial: serial, Reason: reason, At: at}
		switch {
		case old != nil && (old.Reason != policy.CertificateHold || reason == policy.CertificateHold):
			continue // it is; nothing takes it back
		case old != nil:
			r = *old // since it was put on hold nobody should have believed it
			r.Reason = reason
		case c == nil:
			return nil, nil, refuse("certificate.unknown", "no certificate was issued with serial %x", serial)
		case c.CRL == "":
			return nil, nil, refuse("certificate.root", "certificate %x is a root's", serial)
		default:
			r.CA, r.CRL, r.NotAfter = c.CA, c.CRL, c.NotAfter
		}
		if ca, _ := l.key(r.CA); ca.Purpose == policy.PurposeIACA && reason == policy.CertificateHold {
			return nil, nil, refuse("certificate.hold", "certificate %x is under the root, whose lists know no hold", serial)
		}
		rows = append(rows, Row{Table: TableRevocations, Key: serial, Value: encode(r), If: If(rev)})
		leaf.Certificates = append(leaf.Certificates, LeafCertificate{Serial: serial, CA: r.CA, State: "revoked", Reason: reason})
	}
	own := slices.Clone(rows)
	return rows, func(uint64) { l.noteRevocations(own) }, nil
}

// noteRevocations puts another snapshot in the place of the one in use, and wakes the publisher. l.mu is held.
func (l *Ledger) noteRevocations(rows []Row) {
	old := l.revoked.Load()
	next := &revoked{maps.Clone(old.rows), make(chan struct{})}
	for _, row := range rows {
		if row.Value == nil {
			delete(next.rows, string(row.Key))
		} else if r, err := decode[Revocation](TableRevocations, row.Value); err == nil { // our own encoding
			next.rows[string(row.Key)] = *r
		}
	}
	l.revoked.Store(next)
	close(old.moved)
}

// AdoptRevocations takes in what a published list says and the ledger does not know: it was restored from before that. A hold that was lifted
// meanwhile comes back, and is lifted again by whoever lifted it; one that became a revocation meanwhile is one, which nothing takes back.
func (l *Ledger) AdoptRevocations(ctx context.Context, list string, all []Revocation) error {
	for part := range slices.Chunk(all, mostRevocations) {
		leaf := Leaf{Kind: "certificates", Name: list, Reason: "published"}
		var rows []Row
		for _, r := range part {
			if known, ok := l.RevokedCertificate(r.Serial); ok && (known.Reason != policy.CertificateHold || r.Reason == policy.CertificateHold) {
				continue
			}
			held, rev, err := get[Revocation](ctx, l, TableRevocations, r.Serial)
			if err != nil {
				return err
			}
			if held != nil {
				if held.Reason != policy.CertificateHold { // meanwhile
					continue
				}
				held.Reason = r.Reason
				r = *held // since it was put on hold nobody should have believed it
			} else {
				r.Adopted = true
				if c, _, err := get[Certificate](ctx, l, TableCertificates, r.Serial); err != nil {
					return err
				} else if c != nil {
					r.CA, r.CRL, r.NotAfter = c.CA, c.CRL, c.NotAfter
				}
			}
			rows = append(rows, Row{Table: TableRevocations, Key: r.Serial, Value: encode(r), If: If(rev)})
			leaf.Certificates = append(leaf.Certificates, LeafCertificate{Serial: r.Serial, CA: r.CA, State: "revoked", Reason: r.Reason})
		}
		if len(rows) == 0 {
			continue
		}
		met, shown := l.meeting(rows)
		if err := l.execute(ctx, nil, leaf, append(slices.Clone(rows), met...), func(seq uint64) { l.noteRevocations(rows); shown(seq) }); err != nil {
			return err
		}
	}
	return nil
}

// jumpCRLs moves the numbers of all revocation lists above what was seen outside.
func (l *Ledger) jumpCRLs(ctx context.Context, jump uint64) (rows []Row, _ error) {
	l.mu.RLock()
	known := maps.Clone(l.crls)
	l.mu.RUnlock()
	for name, n := range l.outside.numbers {
		known[name] = max(known[name], n)
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		c, rev, err := get[CRLRecord](ctx, l, TableCRLs, []byte(name))
		if err != nil {
			return nil, err
		}
		if c == nil {
			c = &CRLRecord{Name: name}
		}
		c.Number, c.Jumped = known[name]+jump, true
		rows = append(rows, Row{Table: TableCRLs, Key: []byte(name), Value: encode(c), If: If(rev)})
	}
	return rows, nil
}

// distinct serials, in the form in which they are keys: 20 octets, as the appliance makes them.
func distinct(serials [][]byte) (out [][]byte) {
	seen := map[string]bool{}
	for _, s := range serials {
		if !seen[string(s)] {
			seen[string(s)] = true
			out = append(out, bytes.Clone(s))
		}
	}
	return out
}

// CRL is the newest revocation list of a name; nil: there is none yet.
func (l *Ledger) CRL(ctx context.Context, name string) (*CRLRecord, error) {
	if l.dead.Load() {
		return nil, ErrStopped
	}
	c, _, err := get[CRLRecord](ctx, l, TableCRLs, []byte(name))
	return c, err
}

// CRLs names all revocation lists that there are.
func (l *Ledger) CRLs() []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.SortedFunc(maps.Keys(l.crls), strings.Compare)
}

// checkCRL compares an approved list with the ledger: it follows the newest one, of the same CA and scope.
func (l *Ledger) checkCRL(ctx context.Context, rec *CRLRecord, v policy.CRL) error {
	last, err := l.CRL(ctx, v.Name)
	if err != nil {
		return err
	}
	l.mu.RLock()
	through := l.through
	l.mu.RUnlock()
	switch {
	case v.Through > through:
		return ErrConflict
	case last == nil:
		return nil
	case last.CA != "" && (last.CA != v.IssuerKey || last.Scope != v.Scope):
		return refuse("crl.other", "CRL %s is signed by %s for %q, not by %s for %q", v.Name, last.CA, last.Scope, v.IssuerKey, v.Scope)
	case v.Number <= last.Number:
		return refuse("crl.number", "CRL number %d is not above %d", v.Number, last.Number)
	case v.Through < last.Through:
		return refuse("crl.through", "CRL %s says what was revoked up to entry %d, and the last one up to %d", v.Name, v.Through, last.Through)
	}
	rec.LastUpdate = last.ThisUpdate
	return nil
}
