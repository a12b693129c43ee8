package scenario

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"sealkeeper/client"
	"sealkeeper/tests/phone"
	"sealkeeper/verifier"
)

// The main job with keys of every algorithm, in the HSM and on the phone, signed with and without copies of the keys in the worker, by one
// worker or two.
func TestAlgorithms(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		algorithm string
		signers   string // of cards: what the certificate's key must be able to do
		copies    bool
		phone     func(int) (*phone.Phone, error)
	}{
		{"ES256", "ECDSA", false, phone.New},
		{"ES384", "ECDSA", false, phone.NewP384},
		{"EdDSA", "Ed25519", true, phone.NewEd25519},
	} {
		t.Run(v.algorithm, func(t *testing.T) {
			t.Parallel()
			a := installAnew(t, fmt.Sprintf("hsm: {algorithm: %s, session_copies: %v, workers: 1}\n", v.algorithm, v.copies)).start()
			const subject = "algorithms-1"
			make := func() *phone.Phone {
				p, err := v.phone(1)
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			old := make()
			first := a.Issue(old, subject, false)
			m, s := byFormat(first)
			raw, err := base64.RawURLEncoding.DecodeString(m.Credential)
			if err != nil {
				t.Fatal(err)
			}
			card, err := verifier.VerifyMDoc(raw, a.Roots, time.Now())
			if err != nil {
				t.Fatalf("mdoc: %v", err)
			}
			sd, err := verifier.VerifySDJWT([]byte(s.Credential), a.Roots, time.Now())
			if err != nil {
				t.Fatalf("SD-JWT VC: %v", err)
			}
			if got := card.Signer.PublicKeyAlgorithm.String() + " " + sd.Signer.PublicKeyAlgorithm.String(); got != v.signers+" "+v.signers {
				t.Errorf("cards are signed with %s", got)
			}
			if alg := header(t, s.Credential); !strings.Contains(alg, `"alg":"`+v.algorithm+`"`) {
				t.Errorf("SD-JWT header %s", alg)
			}
			a.Eventually(m.Status, verifier.Valid)
			a.Eventually(s.Status, verifier.Valid)
			a.Change("telecom-a", lock, subject, "telecom_lost", "")
			a.Eventually(s.Status, verifier.Suspended)
			a.Eventually(m.Status, verifier.Invalid)
			a.Change("telecom-a", unlock, subject, "telecom_lost", "")
			a.Eventually(s.Status, verifier.Valid)
			fresh, err := a.As("ward-office-1").Refresh(context.Background(), client.NewKey(), a.Request(old, subject))
			if err != nil {
				t.Fatalf("refresh: %v", err)
			}
			second := a.Issue(make(), subject, true)
			for _, c := range append(first.Credentials, fresh.Credentials...) {
				if got := a.Status(c.Status); got != verifier.Invalid {
					t.Errorf("the replaced phone's %s is %d", c.Format, got)
				}
			}
			for _, c := range second.Credentials {
				a.Eventually(c.Status, verifier.Valid)
			}
			a.Stop()
			a.Check()
		})
	}
}

func header(t *testing.T, jws string) string {
	t.Helper()
	h, _, _ := strings.Cut(jws, ".")
	b, err := base64.RawURLEncoding.DecodeString(h)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
