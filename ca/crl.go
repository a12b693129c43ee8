package ca

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	profile "sealkeeper/ca/x509"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// Revocation lists. Each CA has one of its own, which speaks of all its certificates, and that of clients may have parts besides, each for the
// certificates that point to it. A list is signed when two thirds of the last one's life are over, and as soon as it would say something else.

// revokers are the purposes whose keys sign revocation lists.
var revokers = []policy.Purpose{policy.PurposeIACA, policy.PurposeClientCA}

// crlProfile of a CA's lists; empty: keys of this purpose are no CA's.
func crlProfile(p policy.Purpose) string {
	switch p {
	case policy.PurposeIACA:
		return "iaca"
	case policy.PurposeClientCA:
		return "rfc5280"
	}
	return ""
}

// crlOf names the list of a CA. The first of its kind has no number: its name stands in certificates as crl/iaca.crl.
func crlOf(ca ledger.Key) string { return strings.TrimSuffix(ca.ID, "-1") }

// part names a part of a CA's list. How many there are is in its name: another number of parts makes other parts, and the old ones go on for the
// certificates that point to them.
func (a *Authority) part(ca ledger.Key, serial []byte) string {
	n := new(big.Int).Mod(new(big.Int).SetBytes(serial), big.NewInt(int64(a.o.CRLParts))).Int64()
	return fmt.Sprintf("%s.%d-of-%d", crlOf(ca), n+1, a.o.CRLParts)
}

// crlFor is the list that a new certificate points to.
func (a *Authority) crlFor(ca ledger.Key, serial []byte) string {
	if ca.Purpose == policy.PurposeClientCA && a.o.CRLParts > 1 {
		return a.part(ca, serial)
	}
	return crlOf(ca)
}

// crlsOf names all lists that a CA's key has to sign.
func (a *Authority) crlsOf(ca ledger.Key) []string {
	all := []string{crlOf(ca)}
	for _, name := range a.o.Ledger.CRLs() {
		if strings.HasPrefix(name, crlOf(ca)+".") {
			all = append(all, name)
		}
	}
	if ca.Purpose == policy.PurposeClientCA && a.o.CRLParts > 1 {
		for n := range a.o.CRLParts {
			if name := a.part(ca, big.NewInt(int64(n)).Bytes()); !a.hasCRL(name) {
				all = append(all, name)
			}
		}
	}
	return all
}

func (a *Authority) hasCRL(name string) bool {
	for _, n := range a.o.Ledger.CRLs() {
		if n == name {
			return true
		}
	}
	return false
}

// crlErrors is how each list went the last time.
type crlErrors struct {
	mu sync.Mutex
	m  map[string]error
}

func (l *crlErrors) set(name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		l.m = map[string]error{}
	}
	l.m[name] = err
}

func (l *crlErrors) last(name string) error { l.mu.Lock(); defer l.mu.Unlock(); return l.m[name] }

const (
	crlRetry  = time.Minute // after an error
	crlWithin = time.Minute // a list: the IACA's worker starts, logs in, signs, ends
	crlPause  = time.Second // after a list: what is revoked meanwhile is in the next one together
)

// keepCRLs keeps the lists of the CAs of one purpose published, until ctx ends. They have their own pace and their own deadline: the IACA's HSM
// is another one, and may take its time.
func (a *Authority) keepCRLs(ctx context.Context, p policy.Purpose) {
	for {
		if p == policy.PurposeClientCA {
			if err := a.listDismissed(ctx); err != nil && ctx.Err() == nil {
				a.o.Log.Error("revoking the certificates of clients that were revoked", "error", err)
			}
		}
		moved := a.o.Ledger.RevocationsMoved() // before the look: nothing is missed
		wait, err := a.renewCRLs(ctx, p, a.o.Guard.ForLists())
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			wait = crlRetry
			a.o.Log.Error("publishing revocation lists", "error", err, "retry_in", wait.String())
		}
		if !sleep(ctx, crlPause) {
			return
		}
		if p == policy.PurposeClientCA {
			wait = min(wait, dismissedEvery)
		}
		var rooted chan struct{}
		if p == policy.PurposeIACA {
			rooted = a.ring.rooted
		}
		t := time.NewTimer(min(wait, time.Hour))
		select {
		case <-ctx.Done():
		case <-moved:
		case <-rooted:
		case <-t.C:
		}
		t.Stop()
	}
}

// renewCRLs looks at every list of the CAs of one purpose; an error of one holds up no other. It returns how long the next look can wait.
func (a *Authority) renewCRLs(ctx context.Context, p policy.Purpose, now time.Time) (wait time.Duration, _ error) {
	wait = time.Hour
	var errs []error
	for _, k := range a.o.Ledger.Keys() {
		if k.Purpose != p || len(k.Chain) == 0 {
			continue
		}
		cert, err := x509.ParseCertificate(k.Chain[0])
		if err == nil && now.After(cert.NotAfter) { // nobody checks anything of it any more
			a.forgetCRLs(k)
			continue
		}
		if !k.Finishes(now) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("certificate of %s: %w", k.ID, err))
			continue
		}
		for _, name := range a.crlsOf(k) {
			within, cancel := context.WithTimeout(ctx, crlWithin)
			due, err := a.renewCRL(within, k, name, now)
			cancel()
			a.crls.set(name, err)
			if err != nil {
				errs = append(errs, fmt.Errorf("CRL %s: %w", name, err))
				continue
			}
			wait = min(wait, due)
		}
	}
	return wait, errors.Join(errs...)
}

// forgetCRLs takes what a CA that ended has signed last off the shelf, as a start would find it: its nextUpdate would be an alarm that nobody can end.
func (a *Authority) forgetCRLs(ca ledger.Key) {
	for _, name := range a.crlsOf(ca) {
		a.public.remove("crl/" + name + ".crl")
		a.o.Metrics.CRLIssued.DeleteLabelValues(name)
		a.o.Metrics.CRLExpires.DeleteLabelValues(name)
		a.crls.set(name, nil)
	}
}

// renewCRL signs a new list if there is something to say. It returns how long until the next one is due.
func (a *Authority) renewCRL(ctx context.Context, ca ledger.Key, name string, now time.Time) (time.Duration, error) {
	rec, err := a.o.Ledger.CRL(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("reading it: %w", err)
	}
	if rec == nil {
		rec = new(ledger.CRLRecord)
	}
	now = now.Truncate(time.Second)
	if now.Before(rec.ThisUpdate) { // the wall was ahead when the last one was signed
		now = rec.ThisUpdate
	}
	f := policy.CRLFacts{IssuerPurpose: ca.Purpose, LastNumber: rec.Number, LastUpdate: rec.ThisUpdate, CRL: policy.CRL{Name: name, Profile: crlProfile(ca.Purpose),
		Number: rec.Number + 1, ThisUpdate: now, NextUpdate: now.Add(a.o.CRLLife), IssuerKey: ca.ID}}
	if name != crlOf(ca) {
		f.CRL.Scope = a.o.X509.DistributionPoint(name)
	}
	der := rec.DER
	if rec.Jumped { // the ledger may be older than what is published
		if der, err = a.adopt(ctx, ca, name, der); err != nil {
			return 0, err
		}
	}
	if f.Last, err = listed(f.CRL.Profile, der); err != nil {
		return 0, err
	}
	changed := a.entries(ca, &f)
	if rec.DER != nil && !rec.Jumped { // whatever comes of the next one, this one is good until it expires
		if err := a.shelveCRL(rec); err != nil {
			return 0, err
		}
	}
	due := rec.NextUpdate.Add(-a.o.CRLLife / 3)
	if rec.DER == nil || rec.Jumped || changed || !now.Before(due) {
		approval, d := policy.DecideCRL(a.rules().bundle, f, now)
		if err := a.decided("crl", d); err != nil {
			return 0, err
		}
		tbs, err := profile.DraftCRL(approval, ca, ca.Chain[0], a.o.X509)
		if err != nil {
			return 0, fmt.Errorf("drafting: %w", err)
		}
		der, err = a.signDER(ctx, approval, tbs, ca.ID, ca.Purpose)
		if err != nil {
			return 0, fmt.Errorf("signing: %w", err)
		}
		crashpoint.Here("ca.crl.settled")
		a.ring.stir() // a root's worker is there for some seconds: what is on its token can be looked at
		if rec, err = a.o.Ledger.CRL(ctx, name); err != nil || rec == nil || string(rec.DER) != string(der) {
			return 0, fmt.Errorf("another publisher settled number %d: %w", f.CRL.Number, errors.Join(err))
		}
		a.o.Log.Info("revocation list published", "crl", name, "number", rec.Number, "entries", len(f.CRL.Revoked), "next_update", rec.NextUpdate)
		due = rec.NextUpdate.Add(-a.o.CRLLife / 3)
	}
	return max(due.Sub(now), time.Second), a.shelveCRL(rec)
}

// shelveCRL puts a list where readers find it, and its number beside it, which a ledger that was restored is compared with: first the number.
func (a *Authority) shelveCRL(rec *ledger.CRLRecord) error {
	a.o.Metrics.CRLIssued.WithLabelValues(rec.Name).Set(float64(rec.ThisUpdate.Unix()))
	a.o.Metrics.CRLExpires.WithLabelValues(rec.Name).Set(float64(rec.NextUpdate.Unix()))
	path := "crl/" + rec.Name + ".crl"
	if o, ok := a.Public(path); ok && string(o.Bytes) == string(rec.DER) {
		return nil
	}
	meta, err := json.Marshal(ledger.ListMeta{ID: rec.Name, Version: rec.Number, File: rec.Name + ".crl"})
	if err != nil {
		return err
	}
	if err := a.file("crl/"+rec.Name+".json", meta); err != nil {
		return err
	}
	crashpoint.Here("ca.crl.number-written")
	if err := a.file(path, rec.DER); err != nil { // first: what is on the shelf is not written again
		return err
	}
	a.public.put(path, Object{MediaType: "application/pkix-crl", Bytes: rec.DER, Modified: rec.ThisUpdate, MaxAge: 5 * time.Minute, Expires: rec.NextUpdate})
	return nil
}

// entries fills in what a list has to say: every certificate of its scope that is revoked, until a list came after the certificate's end. It
// reports whether that is something else than what the last one says.
func (a *Authority) entries(ca ledger.Key, f *policy.CRLFacts) (changed bool) {
	last := make(map[string]*policy.Revoked, len(f.Last))
	for i := range f.Last {
		last[string(f.Last[i].Serial)] = &f.Last[i]
	}
	all, through := a.o.Ledger.Revocations(ca.ID)
	f.CRL.Through = through
	for _, r := range all {
		if f.CRL.Scope != "" && r.CRL != f.CRL.Name {
			continue
		}
		e := policy.Revoked{Serial: r.Serial, At: r.At, Reason: r.Reason, NotAfter: r.NotAfter}
		if f.CRL.Profile == "iaca" { // B.2 wants no entry extensions
			e.Reason = ""
		}
		was := last[string(new(big.Int).SetBytes(r.Serial).Bytes())]
		switch {
		case was != nil: // the date that was signed stands
			e.At, was.NotAfter = was.At, r.NotAfter
			if !r.NotAfter.IsZero() && r.NotAfter.Before(f.LastUpdate) {
				continue
			}
			changed = changed || was.Reason != e.Reason
		case !r.NotAfter.IsZero() && r.NotAfter.Before(f.LastUpdate):
			continue
		default:
			changed = true
			if e.At.After(f.CRL.ThisUpdate) { // by a clock that lists don't believe
				e.At = f.CRL.ThisUpdate
			}
		}
		f.CRL.Revoked = append(f.CRL.Revoked, e)
	}
	for _, was := range f.Last {
		if _, still := a.o.Ledger.RevokedCertificate(pad(was.Serial)); !still {
			changed = true // lifted
		}
	}
	return changed
}

// published reads a list of a CA's out of the publish directory, if there is one and its key signed it. Others may write there too.
func (a *Authority) published(ca ledger.Key, name string) (*x509.RevocationList, error) {
	if a.o.Directory == "" {
		return nil, nil
	}
	issuer, err := x509.ParseCertificate(ca.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", ca.ID, err)
	}
	f, err := os.Open(filepath.Join(a.o.Directory, "crl", name+".crl"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	der, err := io.ReadAll(io.LimitReader(f, profile.MaxCRL+1))
	if err != nil {
		return nil, err
	}
	scope := ""
	if name != crlOf(ca) {
		scope = a.o.X509.DistributionPoint(name)
	}
	list, err := profile.ReadCRL(crlProfile(ca.Purpose), scope, der, issuer)
	if err != nil {
		a.o.Log.Warn("what is published as a revocation list is none of ours, and is replaced", "crl", name, "error", err)
		return nil, nil
	}
	return list, nil
}

// compareCRLs fences a ledger that is older than a published list. The number is written beside the list, where the ledger looks for it: whoever
// lifts the fence does so without reading lists.
func (a *Authority) compareCRLs(ctx context.Context) error {
	for _, k := range a.o.Ledger.Keys() {
		if crlProfile(k.Purpose) == "" || len(k.Chain) == 0 {
			continue
		}
		for _, name := range a.crlsOf(k) {
			list, err := a.published(k, name)
			if err != nil {
				return err
			}
			if list == nil { // a CA's first list, or a part's, comes after others
				continue
			}
			rec, err := a.o.Ledger.CRL(ctx, name)
			if err != nil {
				return err
			}
			if rec != nil && (!list.Number.IsUint64() || list.Number.Uint64() <= rec.Number) {
				continue
			}
			if rec == nil {
				rec = new(ledger.CRLRecord)
			}
			meta, err := json.Marshal(ledger.ListMeta{ID: name, Version: list.Number.Uint64(), File: name + ".crl"})
			if err != nil {
				return err
			}
			if err := a.file("crl/"+name+".json", meta); err != nil {
				return err
			}
			return a.o.Ledger.Fence(fmt.Sprintf("the published CRL %s has number %s and the ledger %d", name, list.Number, rec.Number))
		}
	}
	return nil
}

// adoptCRLs takes in what published lists say, if the ledger may be older than they are: before anybody is let in by a certificate that they name.
func (a *Authority) adoptCRLs(ctx context.Context) error {
	for _, k := range a.o.Ledger.Keys() {
		if crlProfile(k.Purpose) == "" || len(k.Chain) == 0 {
			continue
		}
		for _, name := range a.crlsOf(k) {
			rec, err := a.o.Ledger.CRL(ctx, name)
			if err == nil && rec != nil && rec.Jumped {
				_, err = a.adopt(ctx, k, name, nil)
			}
			if err != nil {
				return fmt.Errorf("CRL %s: %w", name, err)
			}
		}
	}
	return nil
}

// adopt takes into the ledger what the published list says besides, and returns the list that the next one has to follow.
func (a *Authority) adopt(ctx context.Context, ca ledger.Key, name string, der []byte) ([]byte, error) {
	list, err := a.published(ca, name)
	if err != nil || list == nil {
		return der, err
	}
	entries, err := listed("rfc5280", list.Raw) // with a reason each
	if err != nil {
		return nil, err
	}
	issuer, err := x509.ParseCertificate(ca.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", ca.ID, err)
	}
	all := make([]ledger.Revocation, len(entries))
	for i, e := range entries {
		all[i] = ledger.Revocation{Serial: pad(e.Serial), CA: ca.ID, CRL: name, Reason: e.Reason, At: e.At.UTC(), NotAfter: issuer.NotAfter}
	}
	if err := a.o.Ledger.AdoptRevocations(ctx, name, all); err != nil {
		return nil, fmt.Errorf("taking in what the published list says: %w", err)
	}
	return list.Raw, nil
}

// pad gives a serial the form in which it is a key of the ledger.
func pad(serial []byte) []byte { return new(big.Int).SetBytes(serial).FillBytes(make([]byte, 20)) }

// listed reads the entries of the last list out of its signed bytes: policy lets none of them vanish, whatever the ledger's rows say now.
func listed(profile string, der []byte) (out []policy.Revoked, err error) {
	if der == nil {
		return nil, nil
	}
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("reading the last one: %w", err)
	}
	for _, e := range l.RevokedCertificateEntries {
		r := policy.Revoked{Serial: e.SerialNumber.Bytes(), At: e.RevocationTime}
		if profile != "iaca" {
			r.Reason = policy.ReasonOf(e.ReasonCode) // none: unspecified
		}
		out = append(out, r)
	}
	return out, nil
}
