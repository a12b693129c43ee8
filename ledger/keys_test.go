package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"testing"
	"time"

	"sealkeeper/policy"
)

func TestKeyKeepsItsIdentity(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	h.key("b", policy.PurposeList)
	k := h.key("a", policy.PurposeMDoc)
	for name, bend := range map[string]func(*Key){
		"purpose": func(k *Key) { k.Purpose = policy.PurposeIACA }, "token": func(k *Key) { k.Token = "iaca" }, "algorithm": func(k *Key) { k.Algorithm = "ES384" },
		"CKA_ID": func(k *Key) { k.CKAID = []byte{1} }, "SPKI": func(k *Key) { k.SPKI = []byte{1} }, "copies": func(k *Key) { k.Copies = true },
	} {
		other := k
		bend(&other)
		if err := h.PutKey(ctx, other); err == nil {
			t.Errorf("the %s of a key was changed", name)
		} else {
			refused(t, err, "key.identity")
		}
	}
	shared := h.Keys()
	k.Chain, k.State = [][]byte{{1}}, KeyDeactivated
	must(t, h.PutKey(ctx, k))
	if shared[0].State != KeyActive {
		t.Error("a slice that was handed out changed")
	}
	k.State = KeyActive
	refused(t, h.PutKey(ctx, k), "key.stopped")
	k.State = "retired"
	if h.PutKey(ctx, k) == nil || h.PutKey(ctx, Key{ID: "c", State: KeyActive}) == nil {
		t.Error("a malformed key was registered")
	}
	h.again()
	got := h.Keys()
	if len(got) != 2 || got[0].ID != "a" || got[1].ID != "b" || got[0].State != KeyDeactivated || !bytes.Equal(got[0].Chain[0], []byte{1}) || !got[0].NotAfter.Equal(k.NotAfter) {
		t.Errorf("%+v", got)
	}
}

func TestMeta(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	if _, ok, err := h.Meta(ctx, "x"); ok || err != nil {
		t.Error(ok, err)
	}
	must(t, h.PutMeta(ctx, "x", []byte("1")))
	must(t, h.PutMeta(ctx, "x", nil)) // an empty fact is still one
	h.again()
	if v, ok, err := h.Meta(ctx, "x"); !ok || len(v) != 0 || err != nil {
		t.Error(v, ok, err)
	}
	var kinds []string
	must(t, h.Audit().Journal(ctx, func(_ uint64, l Leaf, body []byte) error {
		kinds = append(kinds, l.Kind+" "+l.Name)
		if want := sha256.Sum256(nil); len(kinds) == 2 && !bytes.Equal(l.Digest, want[:]) {
			t.Errorf("leaf %s", body)
		}
		return nil
	}))
	if len(kinds) != 2 || kinds[1] != "meta x" {
		t.Errorf("journal %q", kinds)
	}
}

// own reserves, claims and settles one of the appliance's own signatures.
func (h *house) own(a *policy.Approval, d policy.Decision, key string, p policy.Purpose, answer string) (*Reservation, string, bool) {
	h.t.Helper()
	if a == nil {
		h.t.Fatalf("refused: %s %s", d.Code, d.Detail)
	}
	tbs := []byte("tbs of " + answer)
	r, err := h.Reserve(context.Background(), a, []Draft{{KeyID: key, Purpose: p, TBSHash: sha256.Sum256(tbs)}}, nil)
	must(h.t, err)
	must(h.t, r.Claim(h.Ledger, [][]byte{tbs}))
	got, first, err := h.Settle(context.Background(), r, Settlement{Signatures: [][]byte{{1}}, Workers: []string{"w"}, Answer: []byte(answer)})
	must(h.t, err)
	return r, string(got), first
}

func root(k Key, serial byte) policy.CertFacts {
	return policy.CertFacts{IssuerPurpose: policy.PurposeIACA, Cert: policy.Cert{Profile: "iaca", Name: "IACA", SPKI: k.SPKI, Serial: [20]byte{0x40, serial}, NotBefore: noon,
		NotAfter: noon.AddDate(9, 0, 0), IssuerKey: k.ID}}
}

// A root that was just generated signs itself and nothing else.
func TestGeneratedKeySignsItself(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	k := Key{ID: "iaca", Token: "iaca", Purpose: policy.PurposeIACA, Algorithm: "ES256", CKAID: []byte{1}, SPKI: []byte("root"), State: KeyGenerated}
	must(t, h.PutKey(ctx, k))
	other := root(k, 2)
	other.Cert.Profile, other.Cert.SPKI, other.Cert.Name = "document-signer", []byte("ds"), "DS"
	other.Cert.NotAfter = noon.AddDate(0, 0, 400)
	other.Cert.CRL = "iaca"
	other.IssuerNotBefore, other.IssuerNotAfter = noon, noon.AddDate(9, 0, 0)
	a, d := policy.DecideCert(nil, other, noon)
	if a == nil {
		t.Fatalf("refused: %s %s", d.Code, d.Detail)
	}
	draft := []Draft{{KeyID: "iaca", Purpose: policy.PurposeIACA, TBSHash: [32]byte{1}}}
	_, err := h.Reserve(ctx, a, draft, nil)
	refused(t, err, "key.inactive")

	self, d := policy.DecideCert(nil, root(k, 1), noon)
	if _, got, first := h.own(self, d, "iaca", policy.PurposeIACA, "root DER"); got != "root DER" || !first {
		t.Error(got, first)
	}
	k.State = KeyActive
	must(t, h.PutKey(ctx, k))
	if _, err := h.Reserve(ctx, a, draft, nil); err != nil {
		t.Error(err)
	}
	_, err = h.Reserve(ctx, self, draft, nil) // its serial number is used
	refused(t, err, "certificate.serial")
	h.key("iaca2", policy.PurposeIACA)
	draft[0].KeyID = "iaca2"
	_, err = h.Reserve(ctx, a, draft, nil)
	refused(t, err, "key.other")

	crl := func(n uint64) (*policy.Approval, policy.Decision) {
		return policy.DecideCRL(nil, policy.CRLFacts{IssuerPurpose: policy.PurposeIACA, CRL: policy.CRL{Name: "iaca", Profile: "iaca", Number: n, ThisUpdate: noon, NextUpdate: noon.AddDate(0, 0, 30), IssuerKey: "iaca"}}, noon)
	}
	one, d := crl(1)
	h.own(one, d, "iaca", policy.PurposeIACA, "CRL 1")
	_, err = h.Reserve(ctx, one, []Draft{{KeyID: "iaca", Purpose: policy.PurposeIACA, TBSHash: [32]byte{1}}}, nil)
	refused(t, err, "crl.number")
	h.again()
	last, err := h.CRL(ctx, "iaca")
	if err != nil || last.Number != 1 || string(last.DER) != "CRL 1" || !last.ThisUpdate.Equal(noon) || !last.NextUpdate.Equal(noon.AddDate(0, 0, 30)) || last.CA != "iaca" {
		t.Errorf("%+v, %v", last, err)
	}
	certs, err := h.Certificates(ctx)
	if err != nil || len(certs) != 1 || string(certs[0].DER) != "root DER" || certs[0].Profile != "iaca" || certs[0].Serial[1] != 1 {
		t.Errorf("%+v, %v", certs, err)
	}
}

func TestSelftest(t *testing.T) {
	h := newHouse(t)
	h.key("ds", policy.PurposeMDoc)
	h.key("ds2", policy.PurposeMDoc)
	a, d := policy.DecideSelftest(nil, "ds", policy.PurposeMDoc, true, time.Time{}, noon)
	h.own(a, d, "ds", policy.PurposeMDoc, "x")
	_, err := h.Reserve(context.Background(), a, []Draft{{KeyID: "ds2", Purpose: policy.PurposeMDoc, TBSHash: [32]byte{1}}}, nil)
	refused(t, err, "key.other")
}
