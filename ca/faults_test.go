package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/internal/clock"
	"sealkeeper/internal/lasting"
	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// What is tried again and again is in the log at once when it fails, then once a minute, and at once when it fails again later. Each list has its own lines.
func TestFaultsThatLastAreSaidNowAndThen(t *testing.T) {
	l, c := emptyLedger(t)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := c.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now, NotAfter: now.Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	nowhere := filepath.Join(t.TempDir(), "a file")
	if err := os.WriteFile(nowhere, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	key := ledger.Key{ID: "ds", Token: "online", Purpose: policy.PurposeMDoc, Algorithm: "ES256", CKAID: []byte("ds"), SPKI: []byte("spki"), State: ledger.KeyActive,
		NotBefore: now, NotAfter: now.Add(time.Hour), Chain: [][]byte{der}}
	if err := l.PutKey(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	log := &strings.Builder{}
	a := &Authority{o: Options{Ledger: l, Clock: c, Directory: nowhere, Guard: clock.NewGuard(c, time.Time{}, time.Hour, true), Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: metrics.New()},
		faults: lasting.New(c), public: shelf{objects: map[string]Object{}}}
	broken := errors.New("broken")
	for name, f := range map[string]struct {
		says      string
		fail, end func()
	}{
		"a campaign": {
			"a campaign",
			func() {
				_ = a.stepCampaigns(t.Context(), "a campaign", func(context.Context, time.Time) error { return broken })
			},
			func() {
				_ = a.stepCampaigns(t.Context(), "a campaign", func(context.Context, time.Time) error { return nil })
			},
		},
		"a list": {
			"list=one",
			func() { a.listTried("two", nil, time.Second); a.listTried("one", broken, time.Second) },
			func() { a.listTried("one", nil, time.Second) },
		},
		"another list": {
			"list=two",
			func() { a.listTried("one", broken, time.Second); a.listTried("two", broken, time.Second) },
			func() { a.listTried("one", nil, time.Second); a.listTried("two", nil, time.Second) },
		},
		"certificates": {
			"publishing certificates",
			func() { a.showCertificates(t.Context()) },
			func() {
				a.o.Directory = ""
				a.showCertificates(t.Context())
				a.o.Directory, a.public.objects = nowhere, map[string]Object{}
			},
		},
	} {
		for range 2 {
			for i, want := range []int{1, 0, 1, 0} {
				if i == 2 {
					c.Advance(time.Minute)
				}
				log.Reset()
				for range 10 {
					f.fail()
				}
				if n := strings.Count(log.String(), f.says); n != want {
					t.Errorf("%s: %d lines in round %d, want %d", name, n, i, want)
				}
			}
			f.end()
		}
	}
}
