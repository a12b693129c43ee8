package policy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/evidence"
)

// GroupSpec is what all clients of a role and channel may do that officers enrolled. Who they are, and where, is in their enrolments.
type GroupSpec struct {
	Role    string                 `json:"role"`
	Channel string                 `json:"channel,omitempty"` // none: enrolments that name none
	Class   string                 `json:"class,omitempty"`
	Issuer  string                 `json:"issuer,omitempty"`
	Unlocks uint64                 `json:"unlocks,omitempty"` // of each carrier, in an hour
	May     map[string][]Operation `json:"may"`
}

// group names one of a bundle.
type group struct{ role, channel string }

func (c *checker) groups(at jsontext.Pointer, b *Bundle, all []GroupSpec) {
	if len(all) > maxGroups {
		c.wrong(at, "the bundle has %d groups of enrolled clients: at most %d are allowed", len(all), maxGroups)
		return
	}
	for i, s := range all {
		at, g := pointer(at, i), group{s.Role, s.Channel}
		if _, twice := b.groups[g]; twice {
			c.wrong(at, "there are two groups of role %q and channel %q: merge them", s.Role, s.Channel)
		}
		b.groups[g] = c.permissions(at, b, ClientSpec{ID: "of the group", Role: s.Role, Class: s.Class, Issuer: s.Issuer, Channel: s.Channel, Unlocks: s.Unlocks, May: s.May})
	}
}

// With is the bundle beside the clients that officers enrolled. It says the same, and so has the same hash. Whom it names itself it knows first.
func (b *Bundle) With(enrolled func(id string) (Enrolment, bool)) *Bundle {
	out := *b
	out.enrolled = enrolled
	return &out
}

// client that the bundle names, or that officers enrolled in one of its groups.
func (b *Bundle) client(id string) (client, bool) {
	c, named := b.clients[id]
	if named || b.enrolled == nil {
		return c, named
	}
	e, enrolled := b.enrolled(id)
	if !enrolled {
		return client{}, false
	}
	return b.member(e)
}

func (b *Bundle) member(e Enrolment) (client, bool) {
	c, known := b.groups[group{e.Role, e.Channel}]
	if !known {
		return client{}, false
	}
	c.ID, c.district, c.carrier, c.enrolment = e.ID, e.District, e.Carrier, &e
	return c, true
}

// Admits says whether the bundle has a group for an enrolment, and names no client by its id.
func (b *Bundle) Admits(e Enrolment) bool {
	_, group := b.groups[group{e.Role, e.Channel}]
	_, named := b.clients[e.ID]
	return group && !named
}

// speaks is the carrier for whom a client of that role speaks: itself, unless its enrolment says another.
func (c client) speaks() string { return cmp.Or(c.carrier, c.ID) }

// ClientFacts are what the registry knows of a client.
type ClientFacts struct {
	Enrolment Enrolment
	Named     bool // by the bundle, not by an enrolment
	Revision  uint64
	Approved  bool      // it has not registered a key yet
	Revoked   bool      //
	Held      bool      // one of its certificates is on hold
	Until     time.Time // until when it may register its first key
	Token     []byte    // SHA-256 of the id of the newest token
	Key       []byte    // registered SubjectPublicKeyInfo
	Ends      time.Time // of its newest certificate
	Live      int       // certificates that have not ended
	Most      int       // of them at one time
}

// Token is an approved one-time token.
type Token struct {
	KeyID    string // registry id of the key that signs it; also its kid
	Issuer   string
	Audience string // the registration authority's URL for it
	Client   string
	SAN      string
	ID       string // jti
	Root     [32]byte
	IssuedAt time.Time
	Expires  time.Time
}

// TokenLife is the longest life of a one-time token: it is handed to a person who goes to a machine with it.
const TokenLife = 24 * time.Hour

// TokenDigest names a token in the ledger: the token itself is nowhere at rest.
func TokenDigest(id string) [32]byte { return sha256.Sum256([]byte("sealkeeper token\x00" + id)) }

// DecideToken allows a one-time token for a client that officers enrolled and that has not registered its key.
func DecideToken(b *Bundle, f ClientFacts, t Token, asker string, at time.Time) (*Approval, Decision) {
	deny := func(code, format string, args ...any) (*Approval, Decision) {
		return nil, b.denied(ruleEnrolment, "enrolment."+code, fmt.Sprintf(format, args...))
	}
	random, err := base64.RawURLEncoding.DecodeString(t.ID)
	switch {
	case b == nil || at.IsZero() || t.KeyID == "" || t.Audience == "" || t.Issuer == "" || t.Root == [32]byte{} || err != nil || len(random) != 16:
		return nil, b.failed("a token needs a bundle, an instant, a key, a registration authority, a root and an id of 128 bits")
	case !wholeSecond(t.IssuedAt) || t.IssuedAt.After(at) || at.Sub(t.IssuedAt) > time.Second || !t.Expires.After(at) || !wholeSecond(t.Expires) || t.Expires.Sub(t.IssuedAt) > TokenLife:
		return nil, b.failed("a token is of now and lives for a day at most")
	}
	if code, detail := f.unusable(); code != "" {
		return nil, b.denied(ruleEnrolment, code, detail)
	}
	switch {
	case f.Named || !f.Approved:
		return deny("registered", "client %s has registered its key: there is nothing more that a token is for", f.Enrolment.ID)
	case !at.Before(f.Until):
		return deny("late", "client %s had to register its key before %s: enrol it again under another id", f.Enrolment.ID, stamp(f.Until))
	case !b.Admits(f.Enrolment):
		return deny("forbidden", "the policy has no group for enrolled clients of role %s and channel %q, or names client %s itself", f.Enrolment.Role, f.Enrolment.Channel, f.Enrolment.ID)
	}
	if t.Expires.After(f.Until) {
		t.Expires = f.Until.Truncate(time.Second)
	}
	t.Client, t.SAN = f.Enrolment.ID, f.Enrolment.URI()
	digest := TokenDigest(t.ID)
	return b.own(KindToken, at, LaneIssue, []Purpose{PurposeToken}, []string{ruleEnrolment}, func(a *Approval) {
		a.client, a.other = asker, t
		a.registers = &Registers{Client: f.Enrolment.ID, Revision: f.Revision, Token: digest[:]}
	})
}

// unusable: a client that has nothing to come.
func (f ClientFacts) unusable() (code, detail string) {
	switch {
	case f.Enrolment.ID == "":
		return "enrolment.unknown", "there is no such client"
	case f.Revoked:
		return "enrolment.revoked", "client " + f.Enrolment.ID + " is revoked, for ever"
	}
	return "", ""
}

// Registers is what an approved token or certificate changes of a client in the registry.
type Registers struct {
	Client   string
	Revision uint64     // of the client when it was judged; 0: it is new, by Named
	Named    *Enrolment // of a client that the bundle names and that has no row yet
	Token    []byte     // tokens: the digest of the one that is out from now on; certificates: that of the one that is used up
	Key      []byte     // certificates: SubjectPublicKeyInfo that is registered from now on
}

// DecideClientCert allows a client's certificate: the first one by a token that an approved enrolment got, for the key that came with it; the
// next ones for the key that is registered, or for another that the registered one signed for. All that it says comes from the enrolment.
func DecideClientCert(b *Bundle, f ClientFacts, p *evidence.ClientKey, c CertFacts, asker string, at time.Time) (*Approval, Decision) {
	deny := func(code, format string, args ...any) (*Approval, Decision) {
		return nil, b.denied(ruleEnrolment, "enrolment."+code, fmt.Sprintf(format, args...))
	}
	if b == nil || !p.Valid() || !p.At().Equal(at) || p.Client() != "" && p.Client() != f.Enrolment.ID {
		return nil, b.failed("there is no verified key, or it was verified at another instant or for another client")
	}
	if code, detail := f.unusable(); code != "" {
		return nil, b.denied(ruleEnrolment, code, detail)
	}
	e := f.Enrolment
	if f.Held {
		return deny("held", "a certificate of client %s is on hold: it gets no other one until that is taken back", e.ID)
	}
	r := Registers{Client: e.ID, Revision: f.Revision, Key: p.SPKI()}
	if known, ok := b.client(e.ID); !ok || known.Role != e.Role || !f.Named && !b.Admits(e) {
		return deny("forbidden", "the policy lets no client %s of role %s in", e.ID, e.Role)
	}
	var burns []evidence.Burn
	switch p.Way() {
	case evidence.ByToken:
		digest := TokenDigest(p.Token())
		switch {
		case f.Named || len(f.Token) == 0 || !bytes.Equal(f.Token, digest[:]):
			return deny("other_token", "this is not the newest token of client %s", e.ID)
		case f.Approved && !at.Before(f.Until):
			return deny("late", "client %s had to register its key before %s", e.ID, stamp(f.Until))
		case f.Approved:
			burns = []evidence.Burn{{Kind: evidence.BurnToken, ID: digest, Until: p.Until()}}
			r.Token = digest[:]
		case !bytes.Equal(f.Key, p.SPKI()):
			return deny("token_used", "the token of client %s was used before, for another key", e.ID)
		}
	case evidence.ByRenewal:
		if f.Approved || !bytes.Equal(f.Key, p.SPKI()) {
			return deny("other_key", "client %s did not register this key: a renewal keeps the registered one", e.ID)
		}
	case evidence.ByStatement:
		if f.Approved || !bytes.Equal(f.Key, p.SignedBy()) {
			return deny("other_key", "the statement is not signed by the key that client %s registered", e.ID)
		}
		burns = []evidence.Burn{{Kind: evidence.BurnStatement, ID: p.Statement(), Until: p.Until()}}
	default:
		return nil, b.failed("nothing says how the key was verified")
	}
	switch {
	case !f.Approved && !at.Before(f.Ends):
		return deny("expired", "the last certificate of client %s ended at %s, so nobody can renew it: enrol it under another id", e.ID, stamp(f.Ends))
	case f.Live >= f.Most:
		return deny("too_many", "client %s has %d certificates that have not ended: renew when two thirds of the newest one's life are over", e.ID, f.Live)
	}
	c.Cert.Profile, c.Cert.Name, c.Cert.SPKI, c.Cert.Hosts, c.Cert.URIs = e.profile(), e.ID, p.SPKI(), nil, []string{e.URI()}
	c.Cert.Channel, c.Cert.Office, c.Cert.District, c.Cert.Carrier = e.Channel, e.Office, e.District, e.Carrier
	if c.Cert.NotAfter = c.Cert.NotBefore.Add(e.Lifetime()); c.Cert.NotAfter.After(c.IssuerNotAfter) {
		c.Cert.NotAfter = c.IssuerNotAfter
	}
	a, d := DecideCert(b, c, at)
	if a == nil {
		return nil, d
	}
	d.Rules = append([]string{ruleEnrolment}, d.Rules...)
	a.decision, a.client, a.registers, a.conditions.Burns, a.lane = d, asker, &r, slices.Clone(burns), LaneIssue
	return a, d
}

// DecideNamedCert allows a certificate of a client that the bundle names itself: whoever has the machine asks for it.
func DecideNamedCert(b *Bundle, f ClientFacts, c CertFacts, at time.Time) (*Approval, Decision) {
	e := f.Enrolment
	switch known, ok := b.clients[e.ID]; {
	case !ok || known.Role != e.Role || f.Revision != 0 && !f.Named:
		return nil, b.denied(ruleEnrolment, "enrolment.forbidden", fmt.Sprintf("the policy names no client %s of role %s", e.ID, e.Role))
	case f.Revoked:
		return nil, b.denied(ruleEnrolment, "enrolment.revoked", "client "+e.ID+" is revoked, for ever")
	case f.Held:
		return nil, b.denied(ruleEnrolment, "enrolment.held", "a certificate of client "+e.ID+" is on hold: it gets no other one until that is taken back")
	}
	c.Cert.Profile, c.Cert.Name, c.Cert.Hosts, c.Cert.URIs = e.profile(), e.ID, nil, []string{e.URI()}
	if c.Cert.NotAfter = c.Cert.NotBefore.Add(e.Lifetime()); c.Cert.NotAfter.After(c.IssuerNotAfter) {
		c.Cert.NotAfter = c.IssuerNotAfter
	}
	a, d := DecideCert(b, c, at)
	if a == nil {
		return nil, d
	}
	a.registers = &Registers{Client: e.ID, Revision: f.Revision, Key: slices.Clone(c.Cert.SPKI)}
	if f.Revision == 0 {
		a.registers.Named = &e
	}
	return a, d
}
