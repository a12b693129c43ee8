package ledger

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/policy"
)

// Clients of the listeners with mTLS: what officers approved of each, the public key that it registered, its certificates, and whether it was
// revoked. A row is never deleted, so that an id means one client for ever; one that the policy bundle names has a row once it got a
// certificate, or was revoked. The edge reads all of it from memory.

// ClientState of a client.
type ClientState string

const (
	ClientApproved ClientState = "approved" // officers approved it; it has no key yet
	ClientActive   ClientState = "active"   // it registered its key
	ClientRevoked  ClientState = "revoked"  // for ever
)

// ClientRecord is a client.
type ClientRecord struct {
	policy.Enrolment
	State    ClientState `json:"state"`
	Named    bool        `json:"named,omitzero"` // by the policy bundle, which says what it may; officers enrolled the others
	Proposal string      `json:"proposal,omitempty"`
	At       time.Time   `json:"at"`
	Until    time.Time   `json:"until,omitzero"` // until when it may register its first key
	Token    []byte      `json:"token,omitzero"` // SHA-256 of the id of the token that is out, or that registered the key
	Key      []byte      `json:"key,omitzero"`   // registered: SubjectPublicKeyInfo
	// Certificates that have not ended, the newest last. One that was reserved is here, whether or not its signature was made.
	Certificates []ClientCertificate `json:"certificates,omitempty"`
	Revoked      time.Time           `json:"revoked,omitzero"`
	RevokedBy    string              `json:"revoked_by,omitempty"` // the proposal, or the client that brought its revocation
	Reason       string              `json:"reason,omitempty"`
}

// ClientCertificate of a client.
type ClientCertificate struct {
	Serial   []byte    `json:"serial"`
	At       time.Time `json:"at"`
	NotAfter time.Time `json:"not_after"`
}

// ClientEntry is a stored client.
type ClientEntry struct {
	ClientRecord
	Revision uint64
}

// Ends is when the newest of its certificates ends; zero: it has none.
func (e *ClientRecord) Ends() (at time.Time) {
	for _, c := range e.Certificates {
		if c.NotAfter.After(at) {
			at = c.NotAfter
		}
	}
	return at
}

// MaxClientCertificates that have not ended at one time: more mean a client, or a registration authority, gone wild.
const MaxClientCertificates = 16

func (l *Ledger) loadClients(ctx context.Context) error {
	return scan(ctx, l.store, TableClients, nil, func(e Entry) error {
		r, err := decode[ClientRecord](TableClients, e.Value)
		if err == nil {
			l.showClient(ClientEntry{*r, e.Revision})
		}
		return err
	})
}

// showClient makes a durable row what the edge sees.
func (l *Ledger) showClient(e ClientEntry) {
	l.clients.Store(e.ID, &e)
	for _, c := range e.Certificates {
		l.serials.Store(string(c.Serial), e.ID)
	}
}

// Client by id, as of the last durable commit. The entry is shared: nobody changes it.
func (l *Ledger) Client(id string) (*ClientEntry, bool) {
	e, ok := l.clients.Load(id)
	if !ok {
		return nil, false
	}
	return e.(*ClientEntry), true
}

// ClientBySerial finds whose certificate has a serial number, among those that had not ended at the client's last commit.
func (l *Ledger) ClientBySerial(serial []byte) (*ClientEntry, bool) {
	id, ok := l.serials.Load(string(bytes.TrimLeft(serial, "\x00")))
	if !ok {
		return nil, false
	}
	return l.Client(id.(string))
}

// Clients lists all, by id.
func (l *Ledger) Clients() (all []*ClientEntry) {
	l.clients.Range(func(_, e any) bool {
		all = append(all, e.(*ClientEntry))
		return true
	})
	slices.SortFunc(all, func(a, b *ClientEntry) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// Enrol keeps what officers approved: all of one approval in one commit, with its mark. An id that is taken refuses all.
func (l *Ledger) Enrol(ctx context.Context, all []policy.Enrolment, until time.Time, x *Execution) error {
	if err := policy.CheckEnrolments(all); err != nil {
		return refuse("enrolment.malformed", "%s", err.Error())
	}
	now := l.o.Clock.Now()
	rows := make([]Row, len(all))
	entries := make([]ClientEntry, len(all))
	for i, e := range all {
		if old, taken := l.Client(e.ID); taken {
			return refuse("enrolment.taken", "client %s is %s: an id means one client for ever, enrol it under another", e.ID, old.State)
		}
		entries[i].ClientRecord = ClientRecord{Enrolment: e, State: ClientApproved, Proposal: x.ID, At: now, Until: until}
		rows[i] = Row{Table: TableClients, Key: []byte(e.ID), Value: encode(entries[i].ClientRecord)}
	}
	digest := policy.EnrolmentsDigest(all)
	return l.execute(ctx, x, Leaf{Kind: "enrol", Count: uint64(len(all)), Digest: digest[:]}, rows, func(seq uint64) {
		for _, e := range entries {
			e.Revision = seq + 1
			l.showClient(e)
		}
	})
}

// RevokeClients ends clients for ever, in one commit. Who was revoked before stays as it is. by is the client that brought it, if no proposal
// did. named are the roles of clients that only the bundle knows.
func (l *Ledger) RevokeClients(ctx context.Context, ids []string, named map[string]string, reason, by string, x *Execution) (revoked int, _ error) {
	if err := l.ready(); err != nil {
		return 0, err
	}
	now := l.o.Clock.Now()
	if x != nil {
		by = x.ID
	}
	var rows []Row
	var entries []ClientEntry
	var ended []string
	for _, id := range ids {
		e, known := l.Client(id)
		switch {
		case !known && named[id] == "":
			return 0, refuse("enrolment.unknown", "there is no client %.70q", id)
		case !known:
			e = &ClientEntry{ClientRecord: ClientRecord{Enrolment: policy.Enrolment{ID: id, Role: named[id]}, Named: true, At: now}}
		case e.State == ClientRevoked:
			continue
		}
		next := e.ClientRecord
		next.State, next.Revoked, next.RevokedBy, next.Reason = ClientRevoked, now, by, reason
		rows = append(rows, Row{Table: TableClients, Key: []byte(id), Value: encode(next), If: If(e.Revision)})
		entries, ended = append(entries, ClientEntry{ClientRecord: next}), append(ended, id)
	}
	digest := policy.NamesDigest(ended)
	leaf := Leaf{Kind: "client-revoked", At: now, Count: uint64(len(ended)), Digest: digest[:], Reason: reason}
	if len(ended) == 1 {
		leaf.About = ended[0]
	}
	var serials [][]byte // what was reserved and not settled is no certificate
	for _, e := range entries {
		for _, c := range e.Certificates {
			if made, _, err := get[Certificate](ctx, l, TableCertificates, c.Serial); err != nil {
				return 0, err
			} else if made != nil && made.CRL != "" {
				serials = append(serials, c.Serial)
			}
		}
	}
	// A leaf holds so many: of a mass revocation the others are refused by their clients' rows at once, and end soon.
	serials = serials[:min(len(serials), mostRevocations)]
	listed, shown, err := l.revoking(ctx, &leaf, serials, policy.PrivilegeWithdrawn)
	if err != nil {
		return 0, err
	}
	rows = append(rows, listed...)
	applied := func(seq uint64) {
		shown(seq)
		for _, e := range entries {
			e.Revision = seq + 1
			l.showClient(e)
		}
	}
	if x != nil {
		if err := l.execute(ctx, x, leaf, rows, applied); err != nil {
			return 0, err
		}
	} else if len(rows) > 0 {
		leaf.Client = by
		crashpoint.Here("ledger.client.before-commit")
		out, err := l.commit(ctx, leaf, rows, true, applied)
		if err != nil {
			return 0, err
		}
		if out.Conflict != nil {
			return 0, ErrConflict
		}
		crashpoint.Here("ledger.client.after-commit")
	}
	return len(ended), nil
}

// registered is a client as an approved token or certificate leaves it, if it still is as it was judged. cert is nil for tokens.
func (l *Ledger) registered(a *policy.Approval, cert *Certificate, leaf *Leaf, now time.Time) (Row, func(seq uint64), error) {
	r, _ := a.Registers()
	old, known := l.Client(r.Client)
	next := ClientRecord{}
	switch {
	case !known && r.Named != nil && r.Revision == 0:
		next = ClientRecord{Enrolment: *r.Named, State: ClientActive, Named: true, At: now}
	case !known || r.Named != nil || old.Revision != r.Revision:
		return Row{}, nil, ErrConflict
	case old.State == ClientRevoked: // policy said so before
		return Row{}, nil, refuse("enrolment.revoked", "client %s is revoked, for ever", r.Client)
	default:
		next = old.ClientRecord
	}
	leaf.About = r.Client
	if r.Token != nil {
		next.Token, leaf.Digest = r.Token, r.Token
	}
	if cert != nil {
		if cert.Client != r.Client {
			return Row{}, nil, refuse("certificate.client", "the certificate is for client %q, not for %q", cert.Client, r.Client)
		}
		next.State, next.Key = ClientActive, r.Key
		next.Certificates = slices.DeleteFunc(slices.Clone(next.Certificates), func(c ClientCertificate) bool { return !now.Before(c.NotAfter) })
		if len(next.Certificates) >= MaxClientCertificates && !next.Named {
			return Row{}, nil, refuse("enrolment.too_many", "client %s has %d certificates that have not ended", r.Client, len(next.Certificates))
		}
		next.Certificates = append(next.Certificates, ClientCertificate{Serial: bytes.TrimLeft(cert.Serial, "\x00"), At: now, NotAfter: cert.NotAfter})
	}
	return Row{Table: TableClients, Key: []byte(r.Client), Value: encode(next), If: If(r.Revision)},
		func(seq uint64) { l.showClient(ClientEntry{next, seq + 1}) }, nil
}

// Facts are what policy judges a client by.
func (e *ClientEntry) Facts(now time.Time) policy.ClientFacts {
	f := policy.ClientFacts{Enrolment: e.Enrolment, Named: e.Named, Revision: e.Revision, Approved: e.State == ClientApproved, Revoked: e.State == ClientRevoked,
		Until: e.Until, Token: e.Token, Key: e.Key, Ends: e.Ends(), Most: MaxClientCertificates}
	for _, c := range e.Certificates {
		if now.Before(c.NotAfter) {
			f.Live++
		}
	}
	return f
}
