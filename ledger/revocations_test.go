package ledger

import (
	"context"
	"slices"
	"testing"
	"time"

	"sealkeeper/policy"
)

// leaf has the client CA or the root certify something, and settles it.
func (h *house) leaf(ca, profile, list string, serial byte) []byte {
	h.t.Helper()
	purpose := policy.PurposeIACA
	f := policy.CertFacts{IssuerNotBefore: noon, IssuerNotAfter: noon.AddDate(9, 0, 0), Cert: policy.Cert{Profile: profile, Name: "n", SPKI: []byte{serial}, Serial: [20]byte{0x40, serial},
		NotBefore: noon, NotAfter: noon.AddDate(0, 1, 0), IssuerKey: ca, CRL: list}}
	if profile == "server" {
		f.Cert.Hosts = []string{"host.example"}
		purpose = policy.PurposeClientCA
	}
	f.IssuerPurpose = purpose
	a, d := policy.DecideCert(nil, f, noon)
	h.own(a, d, ca, purpose, "DER of "+string(rune('a'+serial)))
	return f.Cert.Serial[:]
}

// A revocation is durable, is known to whoever asks the moment that it is, stays for good, and is in a leaf. Only a hold is taken back.
func TestRevocations(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	h.key("iaca-1", policy.PurposeIACA)
	h.key("client-ca-1", policy.PurposeClientCA)
	signer, a, b := h.leaf("iaca-1", "document-signer", "iaca", 1), h.leaf("client-ca-1", "server", "client-ca", 2), h.leaf("client-ca-1", "server", "client-ca", 3)
	moved := h.RevocationsMoved()
	must(t, h.RevokeCertificates(ctx, [][]byte{a, a}, policy.CertificateHold, nil))
	select {
	case <-moved:
	default:
		t.Error("nobody was woken")
	}
	if r, ok := h.RevokedCertificate(a); !ok || r.Reason != policy.CertificateHold || r.CA != "client-ca-1" || r.CRL != "client-ca" || !r.NotAfter.Equal(noon.AddDate(0, 1, 0)) {
		t.Errorf("%+v", r)
	}
	size, _, err := h.Head(ctx)
	must(t, err)
	must(t, h.RevokeCertificates(ctx, [][]byte{a}, policy.CertificateHold, nil)) // again: no change, and no leaf
	if now, _, err := h.Head(ctx); err != nil || now != size {
		t.Errorf("%d entries became %d, %v", size, now, err)
	}
	must(t, h.LiftHolds(ctx, [][]byte{a}, nil))
	if _, ok := h.RevokedCertificate(a); ok {
		t.Error("a lifted hold is still known as one")
	}
	must(t, h.RevokeCertificates(ctx, [][]byte{b}, policy.CertificateHold, nil))
	held, _ := h.RevokedCertificate(b)
	h.clock.Advance(time.Hour)
	must(t, h.RevokeCertificates(ctx, [][]byte{a, b, signer}, policy.KeyCompromise, nil))
	must(t, h.RevokeCertificates(ctx, [][]byte{b}, policy.Superseded, nil)) // what is revoked keeps its reason
	h.again()
	for _, serial := range [][]byte{a, b, signer} {
		if r, ok := h.RevokedCertificate(serial); !ok || r.Reason != policy.KeyCompromise {
			t.Errorf("%x: %+v", serial, r)
		}
	}
	if r, _ := h.RevokedCertificate(b); !r.At.Equal(held.At) {
		t.Errorf("what was on hold since %s is revoked since %s", held.At, r.At)
	}
	clients, through := h.Revocations("client-ca-1")
	if head, _, err := h.Head(ctx); err != nil || len(clients) != 2 || through != head-1 {
		t.Errorf("%d revocations through %d, %v", len(clients), through, err)
	}

	for code, err := range map[string]error{
		"certificate.unknown":  h.RevokeCertificates(ctx, [][]byte{make([]byte, 20)}, policy.KeyCompromise, nil),
		"certificate.reason":   h.RevokeCertificates(ctx, [][]byte{a}, "removeFromCRL", nil),
		"certificate.hold":     h.RevokeCertificates(ctx, [][]byte{h.leaf("iaca-1", "document-signer", "iaca", 4)}, policy.CertificateHold, nil),
		"certificate.too_many": h.RevokeCertificates(ctx, make([][]byte, mostRevocations+1), policy.KeyCompromise, nil),
		"certificate.not_held": h.LiftHolds(ctx, [][]byte{b}, nil),
	} {
		refused(t, err, code)
	}
	root, d := policy.DecideCert(nil, root(Key{ID: "iaca-1", SPKI: []byte("root")}, 9), noon)
	h.own(root, d, "iaca-1", policy.PurposeIACA, "root DER")
	refused(t, h.RevokeCertificates(ctx, [][]byte{slices.Concat([]byte{0x40, 9}, make([]byte, 18))}, policy.KeyCompromise, nil), "certificate.root")

	var said []string
	must(t, h.Audit().Journal(ctx, func(_ uint64, l Leaf, _ []byte) error {
		for _, c := range l.Certificates {
			said = append(said, l.Kind+" "+c.State+" "+string(c.Reason)+" "+c.CA)
		}
		return nil
	}))
	want := []string{"certificates revoked certificateHold client-ca-1", "certificates lifted  client-ca-1", "certificates revoked certificateHold client-ca-1",
		"certificates revoked keyCompromise client-ca-1", "certificates revoked keyCompromise client-ca-1", "certificates revoked keyCompromise iaca-1"}
	if !slices.Equal(said, want) {
		t.Errorf("the journal says\n%q, want\n%q", said, want)
	}
}

// A ledger that was restored takes in what was published since its backup. A hold of the backup does not outlive the revocation that it became: if it did,
// it could be lifted, and a stolen machine would be let in again.
func TestRestoredHoldBecomesTheRevocationThatWasPublished(t *testing.T) {
	g := newRegistry(t)
	h, ctx := g.house, t.Context()
	stolen, idle, gone := h.leaf("client-ca", "server", "client-ca", 1), h.leaf("client-ca", "server", "client-ca", 2), h.leaf("client-ca", "server", "client-ca", 3)
	must(t, h.RevokeCertificates(ctx, [][]byte{stolen, idle}, policy.CertificateHold, nil))
	must(t, h.RevokeCertificates(ctx, [][]byte{gone}, policy.KeyCompromise, nil))
	held, _ := h.RevokedCertificate(stolen)
	h.clock.Advance(time.Hour)
	published := func(serial []byte, reason policy.RevocationReason) Revocation {
		return Revocation{Serial: serial, CA: "client-ca", CRL: "client-ca", Reason: reason, At: h.clock.Now(), NotAfter: noon.AddDate(9, 0, 0)}
	}
	all := []Revocation{published(stolen, policy.PrivilegeWithdrawn), published(idle, policy.CertificateHold), published(gone, policy.CertificateHold)}
	moved := h.RevocationsMoved()
	must(t, h.AdoptRevocations(ctx, "client-ca", all))
	select {
	case <-moved:
	default:
		t.Error("nobody was woken")
	}
	size, _, err := h.Head(ctx)
	must(t, err)
	must(t, h.AdoptRevocations(ctx, "client-ca", all)) // again: no change, and no leaf
	if now, _, err := h.Head(ctx); err != nil || now != size {
		t.Errorf("%d entries became %d, %v", size, now, err)
	}
	for range 2 {
		for serial, reason := range map[string]policy.RevocationReason{string(stolen): policy.PrivilegeWithdrawn, string(idle): policy.CertificateHold, string(gone): policy.KeyCompromise} {
			if r, _ := h.RevokedCertificate([]byte(serial)); r.Reason != reason {
				t.Errorf("%x is revoked for %q, want %q", serial, r.Reason, reason)
			}
		}
		refused(t, h.LiftHolds(ctx, [][]byte{stolen}, nil), "certificate.not_held")
		h.again()
	}
	if r, _ := h.RevokedCertificate(stolen); !r.At.Equal(held.At) || !r.NotAfter.Equal(held.NotAfter) || r.Adopted {
		t.Errorf("%+v, of the hold %+v", r, held)
	}
	must(t, h.LiftHolds(ctx, [][]byte{idle}, nil))
}

// A list follows its predecessor: a higher number, the same CA and scope, and nothing less that it says.
func TestRevocationListsFollowEachOther(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	h.key("client-ca-1", policy.PurposeClientCA)
	h.key("client-ca-2", policy.PurposeClientCA)
	crl := func(alter func(*policy.CRL)) *policy.Approval {
		t.Helper()
		c := policy.CRL{Name: "client-ca", Profile: "rfc5280", Number: 5, ThisUpdate: noon, NextUpdate: noon.AddDate(0, 0, 30), IssuerKey: "client-ca-1", Through: 2}
		alter(&c)
		a, d := policy.DecideCRL(nil, policy.CRLFacts{IssuerPurpose: policy.PurposeClientCA, CRL: c}, noon)
		if a == nil {
			t.Fatalf("refused: %s %s", d.Code, d.Detail)
		}
		return a
	}
	must(t, h.PutMeta(ctx, "x", nil))
	h.own(crl(func(*policy.CRL) {}), policy.Decision{}, "client-ca-1", policy.PurposeClientCA, "CRL 5")
	reserve := func(key string, a *policy.Approval) error {
		_, err := h.Reserve(ctx, a, []Draft{{KeyID: key, Purpose: policy.PurposeClientCA, TBSHash: [32]byte{1}}}, nil)
		return err
	}
	refused(t, reserve("client-ca-1", crl(func(*policy.CRL) {})), "crl.number")
	refused(t, reserve("client-ca-1", crl(func(c *policy.CRL) { c.Number, c.Through = 6, 1 })), "crl.through")
	refused(t, reserve("client-ca-2", crl(func(c *policy.CRL) { c.Number, c.IssuerKey = 6, "client-ca-2" })), "crl.other")
	refused(t, reserve("client-ca-1", crl(func(c *policy.CRL) { c.Number, c.Scope = 6, "http://a.example/x.crl" })), "crl.other")
	if err := reserve("client-ca-1", crl(func(c *policy.CRL) { c.Number, c.Through = 6, 1<<40 })); err != ErrConflict {
		t.Errorf("a list that knows what is to come: %v", err)
	}
	must(t, reserve("client-ca-1", crl(func(c *policy.CRL) { c.Number = 6 })))
	h.again()
	if got := h.CRLs(); !slices.Equal(got, []string{"client-ca"}) {
		t.Errorf("lists %q", got)
	}
}
