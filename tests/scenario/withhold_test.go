package scenario

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"sealkeeper/contract"
)

// A client's certificate is put on hold by two officers: its next request is refused, also on a connection that is open, it gets no other certificate, its CA's
// list says certificateHold, and the table of clients that it is held, also after a restart. The hold is taken back, and all is as before. A signer's
// certificate is never on hold, since the root's lists could not say so; nor is the one through which officers ask.
func TestCertificatesOnHold(t *testing.T) {
	t.Parallel()
	g := installGoverned(t)
	g.start()
	clients := func() map[string]contract.ClientInfo {
		t.Helper()
		var list contract.Clients
		if err := json.Unmarshal([]byte(g.sealctl(0, "clients")), &list); err != nil {
			t.Fatal(err)
		}
		all := map[string]contract.ClientInfo{}
		for _, c := range list.Clients {
			all[c.Client] = c
		}
		return all
	}
	one := func(c contract.ClientInfo) string {
		t.Helper()
		if len(c.Certificates) != 1 {
			t.Fatalf("%+v", c)
		}
		return c.Certificates[0].Serial
	}
	carrier := one(clients()["telecom-a"])
	open, err := g.dial("telecom-a")
	if err != nil {
		t.Fatal(err)
	}
	if status, code, err := open.ask(); status != 200 || err != nil {
		t.Fatalf("%d %s %v", status, code, err)
	}
	args := func(action, serial, of string) []string {
		return []string{"propose", action, `certificates:=["` + serial + `"]`, "of=" + of, "reason=its machine is missing"}
	}
	refused := func(code, action, serial, of string) {
		t.Helper()
		p := g.officer(0, "kim", args(action, serial, of)...)
		has(t, g.execute(1, p.ID).Why, "officer.short")
		g.officer(0, "lee", "approve", p.ID)
		has(t, g.execute(1, p.ID).Why, code)
	}
	ds, err := os.ReadFile(filepath.Join(g.Dir, "data/publish/certificates/ds.cer"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := x509.ParseCertificate(ds)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct{ code, action, serial, of string }{
		{"certificate.hold", "certificate.hold", hex.EncodeToString(signer.SerialNumber.FillBytes(make([]byte, 20))), signer.Subject.CommonName},
		{"certificate.other", "certificate.hold", carrier, "telecom-b"},
		{"certificate.unknown", "certificate.hold", hex.EncodeToString(make([]byte, 20)), "telecom-a"},
		{"certificate.own", "certificate.hold", one(clients()["officers"]), "officers"},
		{"certificate.not_held", "certificate.lift", carrier, "telecom-a"},
	} {
		refused(r.code, r.action, r.serial, r.of)
		if status, code, err := open.ask(); status != 200 || err != nil {
			t.Fatalf("after %s: %d %s %v", r.code, status, code, err)
		}
	}

	g.together(args("certificate.hold", carrier, "telecom-a")...)
	if status, code, err := open.ask(); status != 403 || code != "client.revoked" || err != nil {
		t.Errorf("on hold: %d %s %v", status, code, err)
	}
	g.eventuallyCRL("client-ca", func(l *x509.RevocationList) bool {
		return len(l.RevokedCertificateEntries) == 1 && l.RevokedCertificateEntries[0].ReasonCode == 6
	})
	if c := clients()["telecom-a"]; c.State != "held" || c.Certificates[0].Revoked != "certificateHold" {
		t.Errorf("%+v", c)
	}
	refused("proposal.moot", "certificate.hold", carrier, "telecom-a")
	g.Stop()
	has(t, g.Command(1, "enrol", "--out", filepath.Join(t.TempDir(), "clients"), "telecom-a"), "enrolment.held")
	g.start()
	again, err := g.dial("telecom-a")
	if err != nil {
		t.Fatal(err)
	}
	if status, code, err := again.ask(); status != 403 || code != "client.revoked" || err != nil {
		t.Errorf("on hold after a restart: %d %s %v", status, code, err)
	}
	g.together(args("certificate.lift", carrier, "telecom-a")...)
	again, err = g.dial("telecom-a")
	if err != nil {
		t.Fatal(err)
	}
	if status, code, err := again.ask(); status != 200 || err != nil {
		t.Errorf("after it was taken back: %d %s %v", status, code, err)
	}
	g.eventuallyCRL("client-ca", func(l *x509.RevocationList) bool { return len(l.RevokedCertificateEntries) == 0 })
	if c := clients()["telecom-a"]; c.State != "active" {
		t.Errorf("%+v", c)
	}

	// Who is revoked for good while on hold stays so.
	g.together(args("certificate.hold", carrier, "telecom-a")...)
	g.together("propose", "client.revoke", `clients:=["telecom-a"]`, "reason=it was stolen")
	g.eventuallyCRL("client-ca", func(l *x509.RevocationList) bool {
		return len(l.RevokedCertificateEntries) == 1 && l.RevokedCertificateEntries[0].ReasonCode == 9
	})
	refused("certificate.not_held", "certificate.lift", carrier, "telecom-a")
	g.Stop()
	g.Check()
}
