package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// A root has an end, and another takes its place. Officers plan that as one: the new key is made on the old one's token, certifies itself, and the old one
// certifies it in a link certificate, so that whoever has the old root alone can come to the new one. From the hand-over on the new root certifies; the old
// one goes on to say what it revoked. There are two kinds: that of signers, and that of clients and servers.

// root says whether a key is that of a CA.
func root(k ledger.Key) bool { return slices.Contains(revokers, k.Purpose) }

// succession is the action by which another root takes the place of one.
func succession(k ledger.Key) officer.Action {
	if k.Purpose == policy.PurposeClientCA {
		return officer.ClientRollover
	}
	return officer.IACARollover
}

// linkProfile is that of a root's link certificate.
func linkProfile(k ledger.Key) string { return k.Plan.Profile + "-link" }

func (a *Authority) rollIACA(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	return a.roll(ctx, policy.PurposeIACA, q.Parameters().(*officer.Rollover), x)
}

func (a *Authority) rollClientCA(ctx context.Context, _ Caller, q *officer.Quorum, x *ledger.Execution) error {
	return a.roll(ctx, policy.PurposeClientCA, (*officer.Rollover)(q.Parameters().(*officer.ClientCA)), x)
}

// roll puts a root's plan into the registry. The certificate of a root has its purpose as profile.
func (a *Authority) roll(ctx context.Context, of policy.Purpose, p *officer.Rollover, x *ledger.Execution) error {
	now := a.o.Guard.ForLists()
	_, _, err := a.changeKeys(ctx, now, x, func() ([]ledger.KeyChange, error) {
		k := ledger.Key{ID: p.ID, Purpose: of, Algorithm: p.Algorithm, State: ledger.KeyPlanned, NotBefore: p.Activate, NotAfter: p.UseUntil, Until: p.Until,
			CKAID: make([]byte, 16), Plan: &ledger.KeyPlan{Proposal: x.ID, By: x.By, Profile: string(of), Name: p.Name, Succeeds: p.Succeeds, Announce: p.Announce, Activate: p.Activate}}
		if _, err := a.o.Random.Read(k.CKAID); err != nil {
			return nil, fmt.Errorf("reading randomness: %w", err)
		}
		if err := a.followable(p, &k, now); err != nil {
			return nil, err
		}
		return []ledger.KeyChange{officersDid(k, x)}, nil
	})
	return err
}

// followable refuses a root's plan that would not come to its end.
func (a *Authority) followable(p *officer.Rollover, k *ledger.Key, now time.Time) error {
	if _, ok := a.key(p.ID); ok {
		return keyProblem("exists", "there is a key %q: each has a name of its own, for ever", p.ID)
	}
	if !now.Before(p.UseUntil) {
		return keyProblem("plan", "its use would have ended at %s", p.UseUntil.Format(time.RFC3339))
	}
	old, ok := a.key(p.Succeeds)
	if !ok || old.Purpose != k.Purpose || old.State != ledger.KeyActive || !now.Before(old.NotAfter) {
		return keyProblem("plan", "key %q is not the root that certifies now (%s), so that nothing can take its place", p.Succeeds, k.Purpose)
	}
	if p.Activate.After(old.NotAfter) {
		return keyProblem("plan", "key %s certifies until %s: nobody would be there until %s", old.ID, old.NotAfter.Format(time.RFC3339), p.Activate.Format(time.RFC3339))
	}
	for _, o := range a.o.Ledger.Keys() {
		if !root(o) {
			continue
		}
		if crlOf(o) == crlOf(*k) {
			return keyProblem("plan", "the revocation list of root %s is called %q, as that of %s would be: name the key otherwise", o.ID, crlOf(o), k.ID)
		}
		if o.Purpose == k.Purpose && !o.Ended() && o.State != ledger.KeyActive {
			return keyProblem("plan", "root %s is on its way: deactivate it first, if it is not to come", o.ID)
		}
		if len(o.Chain) == 0 {
			continue
		}
		cert, err := x509.ParseCertificate(o.Chain[0])
		if err != nil {
			return fmt.Errorf("certificate of %s: %w", o.ID, err)
		}
		if cert.Subject.CommonName == p.Name {
			return keyProblem("plan", "root %s is called %q: each has a name of its own, or nobody could say whose a revocation list is", o.ID, p.Name)
		}
	}
	k.Token, k.Copies = old.Token, old.Copies
	c := a.planned(*k, *k, now)
	c.SPKI, c.Serial = []byte{0}, [20]byte{0x40}
	if _, d := policy.DecideCert(a.rules().bundle, policy.CertFacts{Cert: c, IssuerPurpose: k.Purpose}, c.NotBefore); d.Result != policy.Allowed {
		return keyProblem("plan", "its certificate would not be signed: %s", d.Detail)
	}
	return nil
}

// made finds the newest certificate of a profile for a key, which may be from before a crash; nil: there is none.
func (a *Authority) made(ctx context.Context, profile string, spki []byte) ([]byte, error) {
	all, err := a.o.Ledger.Certificates(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range slices.Backward(all) {
		if c.Profile != profile || len(c.DER) == 0 {
			continue
		}
		if cert, err := x509.ParseCertificate(c.DER); err == nil && bytes.Equal(cert.RawSubjectPublicKeyInfo, spki) {
			return c.DER, nil
		}
	}
	return nil, nil
}

// linkFor has a root certified by the one before it, or finds the link that was made before a crash. It ends with whichever of the two ends first.
func (a *Authority) linkFor(ctx context.Context, k ledger.Key, now time.Time) ([]byte, error) {
	if der, err := a.made(ctx, linkProfile(k), k.SPKI); err != nil || der != nil {
		return der, err
	}
	c := a.planned(k, ledger.Key{ID: k.Plan.Succeeds}, now)
	c.Profile = linkProfile(k)
	return a.certify(ctx, c)
}

// unlinked is the serial number of a root's link certificate, to be revoked with it: a root that never came is nobody's anchor.
func (a *Authority) unlinked(ctx context.Context, k ledger.Key) ([]byte, error) {
	der, err := a.made(ctx, linkProfile(k), k.SPKI)
	if err != nil || der == nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("link certificate of %s", k.ID), err)
	}
	return cert.SerialNumber.FillBytes(make([]byte, 20)), nil
}
