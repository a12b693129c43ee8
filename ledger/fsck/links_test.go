package fsck_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// roots are two of them with real certificates, and the link from the first to the second.
type roots struct {
	first, second ledger.Key
	link          ledger.Certificate
	plan          *officer.Rollover
}

func makeRoots(t *testing.T) (r roots) {
	t.Helper()
	key := func(id string) (*ecdsa.PrivateKey, ledger.Key) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		spki, err := x509.MarshalPKIXPublicKey(k.Public())
		must(t, err)
		return k, ledger.Key{ID: id, Token: "iaca", Purpose: policy.PurposeIACA, Algorithm: "ES256", CKAID: []byte(id), SPKI: spki, NotBefore: noon.Add(-time.Hour), NotAfter: noon.AddDate(7, 0, 0), Until: noon.AddDate(9, 0, 0)}
	}
	cert := func(name, by string, k, issuer *ecdsa.PrivateKey, serial byte) []byte {
		number := append([]byte{0x40}, make([]byte, 19)...)
		number[19] = serial
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: new(big.Int).SetBytes(number), Subject: pkix.Name{CommonName: name}, NotBefore: noon.Add(-time.Hour),
			NotAfter: noon.AddDate(9, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, &x509.Certificate{Subject: pkix.Name{CommonName: by}}, k.Public(), issuer)
		must(t, err)
		return der
	}
	k1, first := key("iaca-1")
	k2, second := key("iaca-2")
	first.Chain, first.State = [][]byte{cert("one", "one", k1, k1, 1)}, ledger.KeyActive
	second.Chain = [][]byte{cert("two", "two", k2, k2, 2)}
	second.NotBefore = noon.Add(2 * time.Hour)
	second.Link = cert("two", "one", k2, k1, 3)
	c, err := x509.ParseCertificate(second.Link)
	must(t, err)
	r = roots{first, second, ledger.Certificate{Serial: c.SerialNumber.FillBytes(make([]byte, 20)), Profile: "iaca-link", Name: "two", CA: "iaca-1", CRL: "iaca", NotAfter: c.NotAfter, DER: second.Link, At: noon},
		&officer.Rollover{ID: "iaca-2", Succeeds: "iaca-1", Algorithm: "ES256", Name: "two", Announce: noon.Add(time.Hour), Activate: noon.Add(2 * time.Hour), UseUntil: second.NotAfter, Until: second.Until, Reason: "its time"}}
	return r
}

// roll goes with the second root to where it certifies.
func (h *house) roll(r roots) ledger.Key {
	h.t.Helper()
	must(h.t, h.l.PutKey(h.t.Context(), r.first))
	x := h.decided(officer.IACARollover, r.plan)
	k := r.second
	k.State, k.SPKI, k.Chain, k.Link = ledger.KeyPlanned, nil, nil, nil
	k.Plan = &ledger.KeyPlan{Proposal: x.ID, By: x.By, Profile: "iaca", Name: "two", Succeeds: "iaca-1", Announce: r.plan.Announce, Activate: r.plan.Activate}
	change := func(cause string, x *ledger.Execution, more ...ledger.KeyChange) {
		h.t.Helper()
		must(h.t, h.l.ChangeKeys(h.t.Context(), h.clock.Now(), append([]ledger.KeyChange{{Key: k, Cause: cause, Proposal: k.Plan.Proposal, By: k.Plan.By}}, more...), x))
	}
	change(ledger.CauseOfficers, x)
	k.State, k.SPKI = ledger.KeyGenerated, r.second.SPKI
	change(ledger.CausePlan, nil)
	k.State, k.Chain, k.Link = ledger.KeyCertified, r.second.Chain, r.second.Link
	change(ledger.CausePlan, nil)
	h.clock.Advance(time.Hour)
	k.State = ledger.KeyAnnounced
	change(ledger.CausePlan, nil)
	h.clock.Advance(time.Hour)
	k.State = ledger.KeyActive
	var old ledger.Key
	for _, o := range h.l.Keys() {
		if o.ID == "iaca-1" {
			old = o
		}
	}
	old.State, old.Drain = ledger.KeyDeactivated, h.clock.Now().Add(time.Minute)
	change(ledger.CausePlan, nil, ledger.KeyChange{Key: old, Cause: ledger.CausePlan, Proposal: x.ID, By: x.By})
	for _, now := range h.l.Keys() {
		if now.ID == "iaca-2" {
			k = now
		}
	}
	return k
}

// A root that took the place of another by officers' plan is clean, and each thing that does not link it to the other one is named.
func TestRootsAreLinked(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		bend func(r *roots)
		then func(r roots, k ledger.Key, commit func(string, ...ledger.Row))
	}{
		"as it was decided": {},
		"without a link":    {"without a link certificate", func(r *roots) { r.second.Link = nil }, nil},
		"a CA of clients without a link": {"without a link certificate", func(r *roots) {
			r.first.Purpose, r.second.Purpose, r.second.Link = policy.PurposeClientCA, policy.PurposeClientCA, nil
		}, nil},
		"the link of another key": {"is for another key", func(r *roots) {
			other := makeRoots(t)
			r.second.Link, r.link = other.second.Link, other.link
		}, nil},
		"a link that nobody issued": {"was not issued by iaca-1", func(r *roots) { r.link.Profile = "iaca" }, nil},
		"a link by a third root":    {"was not issued by iaca-1", func(r *roots) { r.link.CA = "iaca-9" }, nil},
		"a link that was exchanged": {"another link certificate than its history says", nil, func(r roots, k ledger.Key, commit func(string, ...ledger.Row)) {
			k.Link = makeRoots(t).second.Link
			commit(meta, row(ledger.TableKeys, "iaca-2", k))
		}},
		"before its time": {"does not allow it", func(r *roots) { r.plan.Activate = noon.Add(3 * time.Hour) }, nil},
		"for longer":      {"does not allow it", func(r *roots) { r.second.NotAfter = r.second.NotAfter.Add(time.Hour) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := governed(t)
			r := makeRoots(t)
			if c.bend != nil {
				c.bend(&r)
			}
			k := h.roll(r)
			says := h.says(func(commit func(string, ...ledger.Row)) {
				commit(meta, row(ledger.TableCertificates, string(r.link.Serial), r.link))
				if c.then != nil {
					c.then(r, k, commit)
				}
			})
			if c.says == "" && says != "" || !strings.Contains(says, c.says) {
				t.Errorf("fsck says %q, want %q", says, c.says)
			}
		})
	}
}

// Two roots never certify at once.
func TestOneRootCertifies(t *testing.T) {
	h := governed(t)
	r := makeRoots(t)
	k := h.roll(r)
	third := k
	third.ID, third.CKAID, third.Entries, third.Last = "iaca-3", []byte("iaca-3"), 0, nil
	third.State = ledger.KeyActive
	must(t, h.l.PutKey(t.Context(), third))
	if says := h.says(nil); !strings.Contains(says, "are both active for iaca on token iaca") {
		t.Errorf("fsck says %q", says)
	}
}
