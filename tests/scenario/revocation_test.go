package scenario

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// behind opens the ledger of a daemon that is stopped, for what has no command.
func (a *appliance) behind(f func(l *ledger.Ledger) error) {
	a.t.Helper()
	l, err := ledger.Open(a.t.Context(), ledger.Options{Path: filepath.Join(a.Dir, "data", "ledger.db"), HighWater: filepath.Join(a.Dir, "witness", "high-water.json"),
		Publish: filepath.Join(a.Dir, "data", "publish"), BaseURL: "https://x.example", ListSize: 1024})
	if err == nil {
		err = f(l)
	}
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

// crl is what is published under a name.
func (a *appliance) crl(name string) *x509.RevocationList {
	a.t.Helper()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got := a.look(a.t, "GET", "/crl/"+name+".crl")
		if got.status == 200 {
			list, err := x509.ParseRevocationList(got.body)
			if err != nil {
				a.t.Fatal(err)
			}
			return list
		}
		if time.Now().After(until) {
			a.t.Fatalf("CRL %s: %d\n%s", name, got.status, a.Log.String())
		}
	}
}

// eventuallyCRL waits for a list that somebody likes.
func (a *appliance) eventuallyCRL(name string, like func(l *x509.RevocationList) bool) *x509.RevocationList {
	a.t.Helper()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		l := a.crl(name)
		if like(l) {
			return l
		}
		if time.Now().After(until) {
			a.t.Fatalf("CRL %s number %s has %d entries\n%s", name, l.Number, len(l.RevokedCertificateEntries), a.Log.String())
		}
	}
}

func (a *appliance) serialOf(name string) []byte {
	a.t.Helper()
	data, err := os.ReadFile(filepath.Join(a.Dir, name))
	if err != nil {
		a.t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		a.t.Fatal(err)
	}
	return c.SerialNumber.FillBytes(make([]byte, 20))
}

// What is revoked is in the next list of its CA, at once; a hold that is lifted is not any more; OpenSSL agrees. A ledger that is put back from
// before is fenced by the published numbers, also if nothing but the lists themselves is left of them; when the fence is lifted numbers have
// jumped, and what was revoked in the lost part stays so.
func TestRevokedCertificatesAreListed(t *testing.T) {
	t.Parallel()
	a := install(t).start()
	first, clients := a.crl("iaca"), a.crl("client-ca")
	a.Stop()
	old, err := os.ReadFile(filepath.Join(a.Dir, "data", "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(t.TempDir(), "tokens") // its mark would speak against the ledger, too
	copied := func(from, to string) {
		t.Helper()
		if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	copied(filepath.Join(a.Dir, "data", "tokens"), tokens)
	ds := a.serialOf("data/publish/certificates/ds.pem")
	desk, carrier := a.serialOf("clients/loss-desk/cert.pem"), a.serialOf("clients/telecom-a/cert.pem")
	a.behind(func(l *ledger.Ledger) error {
		for reason, serial := range map[policy.RevocationReason][]byte{policy.KeyCompromise: ds, policy.Superseded: desk, policy.CertificateHold: carrier} {
			if err := l.RevokeCertificates(t.Context(), [][]byte{serial}, reason, nil); err != nil {
				return err
			}
		}
		return nil
	})
	a.start()
	second := a.eventuallyCRL("iaca", func(l *x509.RevocationList) bool { return len(l.RevokedCertificateEntries) == 1 })
	if e := second.RevokedCertificateEntries[0]; second.Number.Cmp(first.Number) <= 0 || len(e.Extensions) != 0 || !bytes.Equal(e.SerialNumber.FillBytes(make([]byte, 20)), ds) {
		t.Errorf("number %s after %s, entry %+v", second.Number, first.Number, e)
	}
	reasons := map[string]int{}
	for _, e := range a.eventuallyCRL("client-ca", func(l *x509.RevocationList) bool { return len(l.RevokedCertificateEntries) == 2 }).RevokedCertificateEntries {
		reasons[string(e.SerialNumber.FillBytes(make([]byte, 20)))] = e.ReasonCode
	}
	if reasons[string(desk)] != 4 || reasons[string(carrier)] != 6 {
		t.Errorf("reasons %v", reasons)
	}
	verify := func(want string) {
		t.Helper()
		dir := t.TempDir()
		for name, der := range map[string][]byte{"iaca": a.crl("iaca").Raw, "client-ca": a.crl("client-ca").Raw} {
			if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var said []string
		for _, c := range [][2]string{{"iaca", "data/publish/certificates/ds.pem"}, {"iaca", "data/publish/certificates/status-signer.pem"}, {"client-ca", "clients/loss-desk/cert.pem"},
			{"client-ca", "clients/telecom-a/cert.pem"}, {"client-ca", "clients/ward-office-1/cert.pem"}, {"client-ca", "data/tls/server.pem"}} {
			out, err := exec.Command("openssl", "verify", "-x509_strict", "-crl_check", "-CRLfile", filepath.Join(dir, c[0]), "-CAfile", filepath.Join(a.Dir, "data/publish/certificates", c[0]+".pem"),
				filepath.Join(a.Dir, c[1])).CombinedOutput()
			switch {
			case err == nil:
				said = append(said, "OK")
			case bytes.Contains(out, []byte("error 23")):
				said = append(said, "revoked")
			default:
				t.Errorf("%s: %s", c[1], out)
			}
		}
		if got := strings.Join(said, " "); got != want {
			t.Errorf("OpenSSL says %s, want %s", got, want)
		}
	}
	verify("revoked OK revoked revoked OK OK")
	a.Stop()
	a.Check()
	a.behind(func(l *ledger.Ledger) error { return l.LiftHolds(t.Context(), [][]byte{carrier}, nil) })
	a.start()
	last := a.eventuallyCRL("client-ca", func(l *x509.RevocationList) bool { return len(l.RevokedCertificateEntries) == 1 })
	verify("revoked OK revoked OK OK OK")
	a.Stop()
	a.Check()

	// The old ledger again, and nothing that speaks against it but the published lists.
	for _, gone := range []string{"data/ledger.db", "data/ledger.db-wal", "data/ledger.db-shm", "witness/high-water.json", "data/publish/crl/iaca.json", "data/publish/crl/client-ca.json"} {
		if err := os.Remove(filepath.Join(a.Dir, gone)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	for _, gone := range []string{"data/publish/status-lists", "data/tokens"} {
		if err := os.RemoveAll(filepath.Join(a.Dir, gone)); err != nil {
			t.Fatal(err)
		}
	}
	copied(tokens, filepath.Join(a.Dir, "data", "tokens"))
	if err := os.WriteFile(filepath.Join(a.Dir, "data", "ledger.db"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a.Launch()
		if code := a.Wait(); code != 3 || !strings.Contains(a.Log.String(), "FENCED") {
			t.Fatalf("the daemon ended with %d\n%s", code, a.Log.String())
		}
	}
	a.Command(0, "accept", "fence")
	a.start()
	jumped := a.eventuallyCRL("client-ca", func(l *x509.RevocationList) bool { return l.Number.Cmp(last.Number) > 0 })
	if jumped.Number.Uint64() < last.Number.Uint64()+1000 || jumped.Number.Cmp(clients.Number) <= 0 || len(jumped.RevokedCertificateEntries) != 1 {
		t.Errorf("number %s after %s, %d entries", jumped.Number, last.Number, len(jumped.RevokedCertificateEntries))
	}
	a.eventuallyCRL("iaca", func(l *x509.RevocationList) bool {
		return l.Number.Uint64() > 1000 && len(l.RevokedCertificateEntries) == 1
	})
	verify("revoked OK revoked OK OK OK")
	a.Stop()
	a.Check()
	var meta ledger.ListMeta
	if data, err := os.ReadFile(filepath.Join(a.Dir, "data/publish/crl/client-ca.json")); err != nil || json.Unmarshal(data, &meta) != nil || fmt.Sprint(meta.Version) != jumped.Number.String() {
		t.Errorf("%+v beside number %s, %v", meta, jumped.Number, err)
	}
}
