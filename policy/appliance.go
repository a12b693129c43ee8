package policy

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"time"

	"sealkeeper/evidence"
)

// The appliance's own signatures (lists, certificates, revocation lists, self tests) are decided here, by invariants alone: there is no
// client to be trusted and nothing a bundle could loosen, so b is only named in the decision and may be nil.

// ListFacts is everything that bears on signing one more version of a list.
type ListFacts struct {
	ID          string
	URI         string
	Format      Format
	Bits        int
	PrevVersion uint64 // 0: none yet
	PrevIssued  time.Time
	Prev        []byte       // every entry's own status in the version last signed; nil: none yet
	Next        []byte       // and now
	Changes     []ListChange // every change committed since Prev, in order
	Held        []byte       // entries that mass holds suspend, a bit for each, least significant first; nil: none
	Through     uint64
	Version     uint64
	IssuedAt    time.Time
	Expires     time.Time
	TTL         time.Duration
	Urgent      bool // carries a lock, unlock or revocation
}

// ListChange is one committed change of a status.
type ListChange struct {
	Index    uint64
	From, To byte
}

// Status values of the IETF Token Status List, 7.1. Others are reserved or application specific, and no event of a card makes them.
const (
	statusValid     = 0
	statusInvalid   = 1
	statusSuspended = 2
	statusOutdated  = 3 // application-specific: the card needs to be renewed
)

// DecideList allows a list version only if it is its predecessor plus exactly the committed changes, no revoked entry is cleared, an
// mdoc list has one bit and only grows, iat is a whole second and never lower than the last, the version grows, exp > iat and ttl ≤ exp − iat.
// What mass holds suspend is laid over that, and changes no entry's own status. It is the appliance's own decision: invariants only, no bundle
// (b may be nil).
//
// The approved image is the one computed here from Prev, Changes and Held, not the caller's slice: bytes altered later can't become approved.
func DecideList(b *Bundle, f ListFacts, at time.Time) (*Approval, Decision) {
	deny := func(rule, code, format string, args ...any) (*Approval, Decision) {
		return nil, b.denied(rule, "list."+code, fmt.Sprintf(format, args...))
	}
	if u, err := url.Parse(f.URI); f.ID == "" || err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return deny(ruleListForm, "name", "list %q has the URI %q: both an id and an absolute http(s) URI are needed", f.ID, f.URI)
	}
	switch {
	case f.Format == MDoc && f.Bits != 1:
		return deny(ruleListForm, "bits", "an mdoc list has 1 bit per entry, not %d (ISO/IEC 18013-5 12.3.6.5)", f.Bits)
	case f.Format == SDJWT && f.Bits != 2:
		return deny(ruleListForm, "bits", "an SD-JWT VC list has 2 bits per entry, not %d", f.Bits)
	case f.Format != MDoc && f.Format != SDJWT:
		return deny(ruleListForm, "format", "no list is known for credentials of format %q", f.Format)
	case len(f.Next) == 0:
		return deny(ruleListForm, "size", "list %s has no entries", f.ID)
	case len(f.Next) < len(f.Prev):
		return deny(ruleListForm, "size", "list %s would shrink from %d to %d bytes", f.ID, len(f.Prev), len(f.Next))
	case f.Held != nil && f.Bits == 1:
		return deny(ruleListForm, "held", "list %s knows no suspension: a hold is no matter of it", f.ID)
	case f.Held != nil && len(f.Held)*f.Bits != len(f.Next):
		return deny(ruleListForm, "held", "holds of %d bytes are not about list %s of %d bytes", len(f.Held), f.ID, len(f.Next))
	case (f.PrevVersion == 0) != (f.Prev == nil):
		return deny(ruleListForm, "predecessor", "version %d and an array of %d bytes can't both be the predecessor", f.PrevVersion, len(f.Prev))
	case f.Version <= f.PrevVersion:
		return deny(ruleListTime, "version", "version %d does not follow %d", f.Version, f.PrevVersion)
	case !wholeSecond(f.IssuedAt) || !wholeSecond(f.Expires):
		return deny(ruleListTime, "time", "iat and exp must be whole seconds")
	case f.IssuedAt.Before(f.PrevIssued):
		return deny(ruleListTime, "iat", "iat %s is before %s of version %d", stamp(f.IssuedAt), stamp(f.PrevIssued), f.PrevVersion)
	case f.IssuedAt.After(at) && f.IssuedAt.After(f.PrevIssued):
		// A list from the future would pass as newer than the next lock. Only the floor of the last iat may lie ahead of the instant.
		return deny(ruleListTime, "iat", "iat %s is after the instant of the decision, %s", stamp(f.IssuedAt), stamp(at))
	case !f.Expires.After(f.IssuedAt):
		return deny(ruleListTime, "exp", "exp %s is not after iat %s", stamp(f.Expires), stamp(f.IssuedAt))
	case f.TTL < time.Second || f.TTL%time.Second != 0 || f.TTL > f.Expires.Sub(f.IssuedAt):
		return deny(ruleListTime, "ttl", "ttl %s must be whole seconds between 1 s and exp − iat (%s)", f.TTL, f.Expires.Sub(f.IssuedAt))
	}

	image := make([]byte, len(f.Next))
	copy(image, f.Prev)
	entries, perByte, mask := uint64(len(image))*8/uint64(f.Bits), uint64(8/f.Bits), byte(1<<f.Bits-1)
	for _, c := range f.Changes {
		if c.Index >= entries {
			return deny(ruleListChange, "index", "index %d is outside list %s with %d entries", c.Index, f.ID, entries)
		}
		cell, shift := &image[c.Index/perByte], uint(c.Index%perByte)*uint(f.Bits) // least significant bits first (TSL 4.1)
		now := *cell >> shift & mask
		switch {
		case c.To > statusOutdated || c.To > mask:
			return deny(ruleListChange, "value", "status %d of index %d does not exist in list %s", c.To, c.Index, f.ID)
		case c.From != now:
			return deny(ruleListChange, "changes", "a change of index %d starts from %d, but the list says %d", c.Index, c.From, now)
		case now == statusInvalid && c.To != statusInvalid:
			return deny(ruleListRevoked, "revoked", "index %d is revoked and would become %d: revoked is final", c.Index, c.To)
		}
		*cell = *cell&^(mask<<shift) | c.To<<shift
	}
	if !bytes.Equal(image, f.Next) {
		return deny(ruleListChange, "changes", "version %d of list %s is not version %d plus the %d committed changes",
			f.Version, f.ID, f.PrevVersion, len(f.Changes))
	}

	suspend(image, f.Held)

	lane := LaneCRL // ahead of every issue: a list that waits behind a crowd of them would expire, and the next lock wait behind it
	if f.Urgent {
		lane = LaneLock
	}
	return b.own(KindList, at, lane, []Purpose{PurposeList}, []string{ruleListForm, ruleListTime, ruleListChange, ruleListRevoked},
		func(a *Approval) {
			a.other = List{ID: f.ID, URI: f.URI, Format: f.Format, Bits: f.Bits, Version: f.Version, IssuedAt: f.IssuedAt, Expires: f.Expires,
				TTL: f.TTL, Image: image, Through: f.Through}
		})
}

// suspend lays holds over an image of two bits an entry: what is held is suspended, unless it is revoked.
func suspend(image, held []byte) {
	for i, m := range held {
		for half := range 2 {
			b := &image[2*i+half]
			var which byte // the lower bit of each held entry
			for n := range 4 {
				which |= m >> (4*half + n) & 1 << (2 * n)
			}
			which &^= *b &^ (*b >> 1) // an entry is 01
			*b = *b&^(which*3) | which<<1
		}
	}
}

// CertFacts describe a certificate that the appliance wants to sign.
type CertFacts struct {
	Cert            Cert
	IssuerNotBefore time.Time // zero for the self-signed root
	IssuerNotAfter  time.Time
	IssuerPurpose   Purpose // purpose of the signing key
}

// profile is what bounds a certificate of one kind.
type profile struct {
	purpose Purpose // of the issuing key
	root    bool    // self-signed
	years   int     // longest validity; or
	days    int
	law     string
}

var profiles = map[string]profile{
	"iaca":            {PurposeIACA, true, 20, 0, "ISO/IEC 18013-5 B.1"},
	"iaca-link":       {PurposeIACA, false, 20, 0, "ISO/IEC 18013-5 B.1"},
	"document-signer": {PurposeIACA, false, 0, 457, "ISO/IEC 18013-5 B.3"},
	"sdjwt-issuer":    {PurposeIACA, false, 0, 457, "as document signers"},
	"status-signer":   {PurposeIACA, false, 0, 1187, "ISO/IEC 18013-5 B.9"},
	"client-ca":       {PurposeClientCA, true, 10, 0, "own bound"},
	"client-ca-link":  {PurposeClientCA, false, 10, 0, "own bound"},
	"server":          {PurposeClientCA, false, 0, 397, "own bound"},
	"client":          {PurposeClientCA, false, 0, 397, "own bound"},
	"officer":         {PurposeClientCA, false, 0, 397, "own bound"},
}

func (p profile) longest(from time.Time) time.Time { return from.AddDate(p.years, 0, p.days) }

// DecideCert allows a certificate within its profile's bounds (formats.md 3.3: 20 years, 457 days, 1187 days, …).
func DecideCert(b *Bundle, f CertFacts, at time.Time) (*Approval, Decision) {
	deny := func(rule, code, format string, args ...any) (*Approval, Decision) {
		return nil, b.denied(rule, "cert."+code, fmt.Sprintf(format, args...))
	}
	c := f.Cert
	p, known := profiles[c.Profile]
	switch {
	case !known:
		return deny(ruleCertProfile, "profile", "certificate profile %q is not known", c.Profile)
	case f.IssuerPurpose != p.purpose:
		return deny(ruleCertProfile, "issuer", "a %s certificate is signed by a key of purpose %s, not %q", c.Profile, p.purpose, f.IssuerPurpose)
	case c.IssuerKey == "" || c.Name == "" || len(c.SPKI) == 0:
		return deny(ruleCertProfile, "incomplete", "a %s certificate needs an issuer key, a common name and a public key", c.Profile)
	case (c.Profile == "server") != (len(c.Hosts) > 0):
		return deny(ruleCertProfile, "hosts", "server certificates name at least one host, others name none")
	case !goodSerial(c.Serial[:]):
		return deny(ruleCertProfile, "serial", "the serial must be positive, at most 20 octets as a DER INTEGER, and at least 63 bits long")
	case !wholeSecond(c.NotBefore) || !wholeSecond(c.NotAfter):
		return deny(ruleCertValidity, "time", "notBefore and notAfter must be whole seconds")
	case !c.NotAfter.After(c.NotBefore) || !c.NotAfter.After(at):
		return deny(ruleCertValidity, "validity", "the certificate would be valid from %s to %s, which is never", stamp(c.NotBefore), stamp(c.NotAfter))
	case c.NotAfter.After(p.longest(c.NotBefore)):
		return deny(ruleCertValidity, "validity", "a %s certificate from %s may be valid until %s at most (%s), not %s",
			c.Profile, stamp(c.NotBefore), stamp(p.longest(c.NotBefore)), p.law, stamp(c.NotAfter))
	case p.root != (f.IssuerNotBefore.IsZero() && f.IssuerNotAfter.IsZero()):
		return deny(ruleCertValidity, "issuer", "roots are self-signed, and nothing else is: a %s certificate came with the wrong issuer", c.Profile)
	case !p.root && (c.NotBefore.Before(f.IssuerNotBefore) || c.NotAfter.After(f.IssuerNotAfter)):
		return deny(ruleCertValidity, "issuer_validity", "validity %s to %s leaves the issuer's, %s to %s",
			stamp(c.NotBefore), stamp(c.NotAfter), stamp(f.IssuerNotBefore), stamp(f.IssuerNotAfter))
	case p.root != (c.CRL == ""):
		return deny(ruleCertProfile, "crl", "every certificate but a root's names the revocation list that speaks for it")
	}
	return b.own(KindCert, at, LaneCRL, []Purpose{p.purpose}, []string{ruleCertProfile, ruleCertValidity}, func(a *Approval) {
		c.SPKI, c.Hosts, c.URIs = slices.Clone(c.SPKI), slices.Clone(c.Hosts), slices.Clone(c.URIs)
		a.other = c
	})
}

// goodSerial: RFC 5280 4.1.2.2 (positive, at most 20 octets once DER has put its sign bit) and ISO/IEC 18013-5 B.1 (63 random bits; a
// number of 20 random octets has fewer than 63 bits once in 2^96).
func goodSerial(s []byte) bool {
	if len(s) == 0 || len(s) > 20 || (len(s) == 20 && s[0]&0x80 != 0) {
		return false
	}
	s = bytes.TrimLeft(s, "\x00")
	return len(s) > 8 || (len(s) == 8 && s[0]&0xc0 != 0)
}

// CRLFacts describe a revocation list.
type CRLFacts struct {
	CRL           CRL
	IssuerPurpose Purpose // purpose of the signing key
	LastNumber    uint64
	LastUpdate    time.Time
	Last          []Revoked // entries of the last list, as they were signed, with what is known of when their certificates end
}

// CRLLife is the longest time between two CRLs: of the IACA by ISO/IEC 18013-5 B.2, of the others as our own bound.
const CRLLife = 90 * 24 * time.Hour

// crlProfiles says which CA signs what kind of list.
var crlProfiles = map[string]Purpose{"iaca": PurposeIACA, "rfc5280": PurposeClientCA}

// DecideCRL allows a CRL whose number grows strictly, whose nextUpdate is at most 90 days ahead, and that still says what the last one said: an
// entry goes when a list was issued after its certificate had ended, or when it was a hold that was lifted, which the IACA's lists don't have.
func DecideCRL(b *Bundle, f CRLFacts, at time.Time) (*Approval, Decision) {
	deny := func(rule, code, format string, args ...any) (*Approval, Decision) {
		return nil, b.denied(rule, "crl."+code, fmt.Sprintf(format, args...))
	}
	c := f.CRL
	purpose, known := crlProfiles[c.Profile]
	iso := c.Profile == "iaca"
	scope, err := url.Parse(c.Scope)
	switch {
	case c.IssuerKey == "" || c.Name == "":
		return deny(ruleCRLTime, "incomplete", "a CRL needs an issuer key and a name")
	case !known || f.IssuerPurpose != purpose:
		return deny(ruleCRLTime, "profile", "a key of purpose %q signs no CRL of profile %q", f.IssuerPurpose, c.Profile)
	case c.Scope != "" && (iso || err != nil || scope.Host == "" || (scope.Scheme != "http" && scope.Scheme != "https")):
		return deny(ruleCRLTime, "scope", "%q is no distribution point of a CRL of profile %s", c.Scope, c.Profile)
	case c.Number <= f.LastNumber:
		return deny(ruleCRLTime, "number", "number %d does not follow %d", c.Number, f.LastNumber)
	case !wholeSecond(c.ThisUpdate) || !wholeSecond(c.NextUpdate):
		return deny(ruleCRLTime, "time", "thisUpdate and nextUpdate must be whole seconds")
	case c.ThisUpdate.Before(f.LastUpdate) || (c.ThisUpdate.After(at) && c.ThisUpdate.After(f.LastUpdate)):
		return deny(ruleCRLTime, "this_update", "thisUpdate %s must lie between the last one, %s, and now, %s",
			stamp(c.ThisUpdate), stamp(f.LastUpdate), stamp(at))
	case !c.NextUpdate.After(c.ThisUpdate) || c.NextUpdate.Sub(c.ThisUpdate) > CRLLife:
		return deny(ruleCRLTime, "next_update", "nextUpdate %s must be within 90 days after thisUpdate %s", stamp(c.NextUpdate), stamp(c.ThisUpdate))
	}
	listed := make(map[string]Revoked, len(c.Revoked))
	entries := make([]Revoked, len(c.Revoked))
	for i, r := range c.Revoked {
		serial := string(bytes.TrimLeft(r.Serial, "\x00"))
		if _, twice := listed[serial]; twice || serial == "" || len(serial) > 20 || !wholeSecond(r.At) || r.At.After(c.ThisUpdate) {
			return deny(ruleCRLEntries, "entry", "entry %d needs a serial of 1 to 20 octets that is listed once, and a whole second not after thisUpdate", i)
		}
		if _, known := r.Reason.Code(); iso && r.Reason != "" || !iso && !known {
			return deny(ruleCRLEntries, "reason", "entry %d: %q is no reason in a CRL of profile %s", i, r.Reason, c.Profile)
		}
		r.Serial = slices.Clone(r.Serial)
		listed[serial], entries[i] = r, r
	}
	for _, r := range f.Last {
		now, still := listed[string(bytes.TrimLeft(r.Serial, "\x00"))]
		held := !iso && r.Reason == CertificateHold
		switch {
		case !still && (held || !r.NotAfter.IsZero() && r.NotAfter.Before(f.LastUpdate)):
		case !still || !now.At.Equal(r.At):
			return deny(ruleCRLEntries, "vanished", "certificate %x was revoked at %s and must stay listed so", r.Serial, stamp(r.At))
		case now.Reason != r.Reason && !held:
			return deny(ruleCRLEntries, "reason", "certificate %x was revoked for %s, not for %s: only a hold becomes something else", r.Serial, r.Reason, now.Reason)
		}
	}
	return b.own(KindCRL, at, LaneCRL, []Purpose{purpose}, []string{ruleCRLTime, ruleCRLEntries}, func(a *Approval) {
		c.Revoked = entries
		a.other = c
	})
}

// SelftestEvery is the least time between two self tests of one key.
const SelftestEvery = 30 * time.Second

// SelftestBytes are the only bytes that a self test of a key with purpose p may sign. They begin as the worker's prefix check for p
// demands, and can be nothing that a verifier would accept: the payload is {"selftest":true}, which has no claim, no docType and no list.
// nil for purposes and algorithms that have no self test.
func SelftestBytes(p Purpose, alg string) []byte {
	head, known := map[string][]byte{ // <<{1: alg}>> as a CBOR byte string; alg −7, −35, −8 (RFC 9053)
		"ES256": {0x43, 0xa1, 0x01, 0x26},
		"ES384": {0x44, 0xa1, 0x01, 0x38, 0x22},
		"EdDSA": {0x43, 0xa1, 0x01, 0x27},
	}[alg]
	if !known {
		return nil
	}
	switch p {
	case PurposeSDJWT, PurposeList, PurposeToken:
		typ := map[Purpose]string{PurposeSDJWT: "dc+sd-jwt", PurposeList: "statuslist+jwt", PurposeToken: evidence.TokenType}[p]
		e := base64.RawURLEncoding
		return []byte(e.EncodeToString([]byte(`{"alg":"`+alg+`","typ":"`+typ+`"}`)) + "." + e.EncodeToString([]byte(`{"selftest":true}`)))
	case PurposeMDoc: // Sig_structure ["Signature1", protected, h'', <<24(<<{"selftest": true}>>)>>] (RFC 9052 4.4)
		tbs := append([]byte{0x84, 0x6a}, "Signature1"...)
		tbs = append(tbs, head...)
		tbs = append(tbs, 0x40, 0x4e, 0xd8, 0x18, 0x4b, 0xa1, 0x68)
		return append(append(tbs, "selftest"...), 0xf5)
	}
	return nil
}

// DecideSelftest allows a self test of an active online key, at most one per key and SelftestEvery. CA keys sign nothing but certificates
// and CRLs: there are no harmless bytes for them, and the root is not online.
func DecideSelftest(b *Bundle, keyID string, p Purpose, active bool, last time.Time, at time.Time) (*Approval, Decision) {
	deny := func(code, format string, args ...any) (*Approval, Decision) {
		return nil, b.denied(ruleSelftest, "selftest."+code, fmt.Sprintf(format, args...))
	}
	switch {
	case keyID == "" || !active:
		return deny("inactive", "key %q is not active", keyID)
	case SelftestBytes(p, "ES256") == nil:
		return deny("purpose", "keys of purpose %q have no self test", p)
	case !last.IsZero() && at.Sub(last) < SelftestEvery:
		return deny("early", "key %s was tested at %s: once in %s is enough", keyID, stamp(last), SelftestEvery)
	}
	return b.own(KindSelftest, at, LaneBatch, []Purpose{p}, []string{ruleSelftest}, func(a *Approval) { a.other = Selftest{KeyID: keyID} })
}

// own makes the approval of an appliance's own decision.
func (b *Bundle) own(k Kind, at time.Time, l Lane, p []Purpose, rules []string, fill func(*Approval)) (*Approval, Decision) {
	d := b.decision(Allowed, rules...)
	a := &Approval{kind: k, decision: d, at: at, lane: l, purposes: p}
	fill(a)
	return a, d
}

func wholeSecond(t time.Time) bool { return !t.IsZero() && t.Nanosecond() == 0 }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
