package scenario

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/verifier"
)

// rollover has two officers decide on a root.
func (g *governed) rollover(id, succeeds string, activate time.Time) {
	g.t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	g.together("propose", "iaca.rollover", "key="+id, "succeeds="+succeeds, "algorithm=ES384", "name=Test IACA "+id, "announce="+now.Add(-time.Second).Format(time.RFC3339),
		"activate="+activate.UTC().Format(time.RFC3339), "use_until="+now.AddDate(7, 0, 0).Format(time.RFC3339), "certificate_until="+now.AddDate(9, 0, 0).Format(time.RFC3339), "reason=its time comes")
}

func (g *governed) pem(name string) *x509.Certificate {
	g.t.Helper()
	block, _ := pem.Decode(g.Get("/certificates/" + name + ".pem"))
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// eventually waits for what follows from a commit.
func (g *governed) eventually(what string, ok func() bool) {
	g.t.Helper()
	for began := time.Now(); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			g.t.Fatalf("%s: not within %s", what, time.Since(began))
		}
	}
}

// linked waits until a root's link is published, right after it is durable that the root is announced.
func (g *governed) linked(id string) {
	g.t.Helper()
	g.eventually("the link of "+id, func() bool {
		t, err := verifier.ParseTrust(g.Get("/trust.json"))
		return err == nil && slices.ContainsFunc(t.Keys, func(k verifier.TrustedKey) bool { return k.ID == id && k.Link != nil })
	})
	g.published("/certificates/" + id + ".link.pem")
}

// published waits until the public listener shows what follows from a commit, with these words in it.
func (g *governed) published(path string, parts ...string) {
	g.t.Helper()
	g.eventually(path, func() bool {
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", g.Ports[1], path))
		if err != nil {
			return false
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return err == nil && r.StatusCode == http.StatusOK && !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(string(b), p) })
	})
}

// crl is a published list, if there is one that this root signed.
func (g *governed) crl(name string, root *x509.Certificate) *x509.RevocationList {
	data, err := os.ReadFile(filepath.Join(g.Dir, "data", "publish", "crl", name+".crl"))
	if err != nil {
		return nil
	}
	l, err := x509.ParseRevocationList(data)
	if err != nil || l.CheckSignatureFrom(root) != nil {
		g.t.Errorf("CRL %s: %v", name, err)
	}
	return l
}

func lists(l *x509.RevocationList, c *x509.Certificate) bool {
	return l != nil && slices.ContainsFunc(l.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(c.SerialNumber) == 0 })
}

// Another root takes the place of the first one while cards are issued as fast as they can be: no request fails, whoever has the old root alone comes to
// the new one by the link certificate (so do openssl and the verifier package), what the old root certified stays good, and its revocation list goes on.
func TestAnotherRootTakesOver(t *testing.T) {
	t.Parallel()
	g := installGoverned(t)
	g.start()
	old := g.Roots[0]
	dir := t.TempDir()
	file := func(name string, der ...[]byte) string {
		var text []byte
		for _, d := range der {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d})...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	openssl := func(good bool, args ...string) {
		t.Helper()
		out, err := exec.Command("openssl", append([]string{"verify", "-x509_strict"}, args...)...).CombinedOutput()
		if good != (err == nil) {
			t.Errorf("openssl verify %v: %v\n%s", args, err, out)
		}
	}
	l := g.load(4, "roots")
	l.more(5)

	for _, wrong := range [][]string{{"succeeds=ds-1", "name=Another"}, {"succeeds=iaca-1", "name=" + old.Subject.CommonName}} {
		now := time.Now().UTC().Truncate(time.Second)
		p := g.officer(0, "kim", append([]string{"propose", "iaca.rollover", "key=iaca-2", "algorithm=ES256", "announce=" + now.Format(time.RFC3339), "activate=" + now.Format(time.RFC3339),
			"use_until=" + now.AddDate(7, 0, 0).Format(time.RFC3339), "certificate_until=" + now.AddDate(9, 0, 0).Format(time.RFC3339), "reason=a mistake"}, wrong...)...)
		g.officer(0, "lee", "approve", p.ID)
		has(t, g.execute(1, p.ID).Why, "key.plan")
	}
	g.rollover("iaca-2", "iaca-1", time.Now().Add(15*time.Second))
	g.until("iaca-2", "announced", time.Minute)
	g.linked("iaca-2")
	root, link := g.pem("iaca-2"), g.pem("iaca-2.link")
	if got := g.pem("iaca"); !got.Equal(old) && g.state("iaca-2") == "announced" {
		t.Errorf("the root that certifies is %s before its time", got.Subject)
	}
	if err := verifier.Linked(root, link, old, time.Now()); err != nil {
		t.Error(err)
	}
	if link.NotAfter.After(old.NotAfter) || !link.NotAfter.Equal(root.NotAfter) && !link.NotAfter.Equal(old.NotAfter) {
		t.Errorf("the link is good until %s, the roots until %s and %s", link.NotAfter, old.NotAfter, root.NotAfter)
	}
	p := g.officer(0, "kim", "propose", "key.deactivate", "key=iaca-1", "reason=a mistake")
	g.officer(0, "lee", "approve", p.ID)
	has(t, g.execute(1, p.ID).Why, "key.root")
	g.until("iaca-2", "active", time.Minute)
	if s := g.state("iaca-1"); s != "deactivated" {
		t.Errorf("iaca-1 is %s beside an active successor", s)
	}
	g.eventually("the new root's list", func() bool { return g.crl("iaca-2", root) != nil })
	g.eventually("its certificate has the name of its purpose", func() bool { return g.pem("iaca").Equal(root) })
	l.more(5) // by signers of the old root

	// Signers that are made from now on are under the new root, and the old ones go on until officers put others in their place.
	announced := time.Now().Add(-time.Second)
	at := time.Now().Add(10 * time.Second) // all three are decided on by then, or what is not takes over at once
	for _, k := range []struct{ id, purpose, old string }{{"ds-2", "mdoc", "ds-1"}, {"sdjwt-issuer-2", "sd-jwt", "sdjwt-issuer-1"}, {"status-2", "status-list", "status-1"}} {
		g.plan(k.id, k.purpose, k.old, announced, at)
	}
	for _, id := range []string{"ds-2", "sdjwt-issuer-2", "status-2"} {
		g.until(id, "active", time.Minute)
		if c := g.pem(id); !bytes.Equal(c.RawIssuer, root.RawSubject) || !strings.HasSuffix(c.CRLDistributionPoints[0], "/crl/iaca-2.crl") {
			t.Errorf("%s is certified by %s, its list is %v", id, c.Issuer, c.CRLDistributionPoints)
		}
	}
	l.more(10)
	l.stop() // every card was verified with the first root as the only anchor, and the trust bundle of its moment
	if l.signer["Test ds-2"] == 0 {
		t.Errorf("nothing was signed under the new root: %v", l.signer)
	}
	card := g.Issue(newPhone(t, 1), "after-the-rollover", false)
	m, _ := byFormat(card)
	raw, err := base64.RawURLEncoding.DecodeString(m.Credential)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.VerifyMDoc(raw, []*x509.Certificate{old}, time.Now()); err == nil {
		t.Error("a card under the new root verifies with the old one, without a link")
	}
	if _, err := verifier.VerifyMDoc(raw, g.trust().Roots([]*x509.Certificate{old}, time.Now()), time.Now()); err != nil {
		t.Error(err)
	}
	if roots := g.trust().Roots([]*x509.Certificate{root}, time.Now()); len(roots) != 1 {
		t.Errorf("the new root vouches for the old one: %d", len(roots))
	}

	// The old root still says what it revoked; openssl follows the link by hand, as a bank's tool would.
	ds1, ds2 := g.pem("ds-1"), g.pem("ds-2")
	g.together("propose", "key.compromise", "key=ds-1", "reason=found outside")
	g.eventually("the old root's list", func() bool { return lists(g.crl("iaca", old), ds1) })
	crls := filepath.Join(dir, "crls.pem")
	var text []byte
	for name, by := range map[string]*x509.Certificate{"iaca": old, "iaca-2": root} {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: g.crl(name, by).Raw})...)
	}
	if err := os.WriteFile(crls, text, 0o600); err != nil {
		t.Fatal(err)
	}
	oldPEM, newPEM, linkPEM, ds1PEM, ds2PEM := file("old.pem", old.Raw), file("new.pem", root.Raw), file("link.pem", link.Raw), file("ds1.pem", ds1.Raw), file("ds2.pem", ds2.Raw)
	openssl(true, "-crl_check", "-CRLfile", crls, "-CAfile", oldPEM, linkPEM)                    // the old root vouches for the new key,
	openssl(true, "-crl_check", "-CRLfile", crls, "-partial_chain", "-trusted", linkPEM, ds2PEM) // with which the new signer verifies
	openssl(true, "-crl_check", "-CRLfile", crls, "-CAfile", newPEM, ds2PEM)
	openssl(false, "-CAfile", oldPEM, ds2PEM)
	openssl(false, "-crl_check", "-CRLfile", crls, "-CAfile", oldPEM, ds1PEM)

	// A root that is not to come after all is deactivated, and its link revoked.
	g.rollover("iaca-3", "iaca-2", time.Now().Add(time.Hour))
	g.until("iaca-3", "announced", 20*time.Second)
	g.linked("iaca-3")
	third := g.pem("iaca-3.link")
	if roots := g.trust().Roots([]*x509.Certificate{old}, time.Now()); len(roots) != 3 {
		t.Errorf("%d roots by links from the first", len(roots))
	}
	g.together("propose", "key.deactivate", "key=iaca-3", "reason=the name is wrong")
	g.eventually("its link is revoked", func() bool { return lists(g.crl("iaca-2", root), third) })
	g.Stop()
	g.Check()
	g.Start() // with both roots' lists to keep
	g.Issue(newPhone(t, 1), "after-a-restart", false)
}
