package ca

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"sealkeeper/contract"
	"sealkeeper/internal/clock"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// emptyLedger is a new ledger, at noon.
func emptyLedger(t *testing.T) (*ledger.Ledger, *clock.Fake) {
	t.Helper()
	c := clock.NewFake(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	l, err := ledger.Open(t.Context(), ledger.Options{Path: filepath.Join(t.TempDir(), "ledger.db"), Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, c
}

// A wall that jumped dates no certificate, of a server or of a client, also after it came back: what it had dated would be worth nothing then.
func TestAnUntrustedClockDatesNoCertificate(t *testing.T) {
	ctx := context.Background()
	l, c := emptyLedger(t)
	if err := l.PutKey(ctx, ledger.Key{ID: "client-ca-1", Token: "online", Purpose: policy.PurposeClientCA, Algorithm: "ES256", CKAID: []byte("ca"), SPKI: []byte("spki"), State: ledger.KeyActive,
		NotBefore: c.Now(), NotAfter: c.Now().AddDate(4, 0, 0), Chain: [][]byte{[]byte("certificate")}}); err != nil {
		t.Fatal(err)
	}
	asked := errors.New("randomness was asked for")
	a := &Authority{o: Options{Ledger: l, Clock: c, Guard: clock.NewGuard(c, c.Now(), time.Hour, false), Random: failing{asked}, Log: slog.New(slog.DiscardHandler), RA: RA{URL: "https://ra.example"}}}
	server := func() error {
		_, err := a.Certify(ctx, "localhost", []byte("spki"), []string{"localhost"}, 90*day)
		return err
	}
	client := func() error {
		_, err := a.RenewClient(ctx, Caller{ID: "ra"}, contract.RenewClientRequest{Client: "office-1"})
		return err
	}
	want := func(when string, refused bool) {
		t.Helper()
		for what, ask := range map[string]func() error{"server": server, "client": client} {
			err := ask()
			var p *Problem
			if is := errors.As(err, &p) && p.Code == "clock.untrusted"; is != refused || !refused && !errors.Is(err, asked) {
				t.Errorf("%s, a certificate of a %s: %v", when, what, err)
			}
		}
	}
	want("at first", false)
	c.Jump(70 * day)
	want("after the jump", true)
	if _, err := a.CertifyByWall(ctx, "localhost", []byte("spki"), []string{"localhost"}, 90*day); !errors.Is(err, asked) {
		t.Errorf("a command on the machine: %v", err)
	}
	c.Jump(-70 * day)
	want("back again", true)
	a.o.Guard.Accept()
	want("accepted", false)
}

// failing is a source of randomness that ends a certificate once it is dated.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
