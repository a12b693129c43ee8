package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"sealkeeper/internal/clock"
	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// A published list that is ahead of the ledger fences it, also if another CA's, which is looked at before, has no list yet.
func TestEveryPublishedCRLIsCompared(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := ledger.Open(ctx, ledger.Options{Path: filepath.Join(dir, "ledger.db"), Clock: clock.NewFake(now)})
	must(err)
	defer l.Close()
	a := &Authority{o: Options{Ledger: l, Directory: dir, Log: slog.New(slog.DiscardHandler)}}
	for _, id := range []string{"client-ca-1", "client-ca-2"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: id}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(9, 0, 0),
			BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(id)}, &x509.Certificate{Subject: pkix.Name{CommonName: id}}, key.Public(), key)
		must(err)
		must(l.PutKey(ctx, ledger.Key{ID: id, Token: "online", Purpose: policy.PurposeClientCA, Algorithm: "ES256", CKAID: []byte(id), SPKI: []byte(id), State: ledger.KeyActive,
			NotBefore: now, NotAfter: now.AddDate(5, 0, 0), Chain: [][]byte{der}}))
		must(a.compareCRLs(ctx)) // nothing is published
		if id == "client-ca-1" {
			continue
		}
		ca, err := x509.ParseCertificate(der)
		must(err)
		list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: now, NextUpdate: now.AddDate(0, 0, 30)}, ca, key)
		must(err)
		must(os.MkdirAll(filepath.Join(dir, "crl"), 0o755))
		must(os.WriteFile(filepath.Join(dir, "crl", id+".crl"), list, 0o644))
	}
	var f *ledger.Fenced
	if err := a.compareCRLs(ctx); !errors.As(err, &f) || !strings.Contains(err.Error(), "the published CRL client-ca-2 has number 7 and the ledger 0") {
		t.Errorf("not fenced: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "crl", "client-ca-2.json")); err != nil || !strings.Contains(string(b), `"version":7`) {
		t.Errorf("beside the list: %s, %v", b, err)
	}
}

// What ended with its CA is nobody's alarm: its list is not signed again, and nobody checks anything by it.
func TestNoAlarmForTheListOfACAThatEnded(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "ledger.db")
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	end := now.AddDate(0, 0, 10)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	states := map[string]ledger.Key{
		"iaca":   {ID: "iaca-1", State: ledger.KeyActive, Until: end},
		"iaca-2": {ID: "iaca-2", State: ledger.KeyDeactivated, Drain: now, Until: end},
		"iaca-3": {ID: "iaca-3", State: ledger.KeyCompromised, Until: end},
	}
	store, err := ledger.OpenSQLite(ctx, path)
	must(err)
	records := map[string]*ledger.CRLRecord{}
	var rows []ledger.Row
	for name, k := range states {
		template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: k.ID}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: end, BasicConstraintsValid: true, IsCA: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(k.ID)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		must(err)
		ca, err := x509.ParseCertificate(der)
		must(err)
		k.Token, k.Purpose, k.Algorithm, k.CKAID, k.SPKI, k.Chain = "root", policy.PurposeIACA, "ES256", []byte(k.ID), []byte(k.ID), [][]byte{der}
		k.NotBefore, k.NotAfter = now, end
		states[name] = k
		list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: now, NextUpdate: now.AddDate(0, 0, 30)}, ca, key)
		must(err)
		records[name] = &ledger.CRLRecord{Name: name, CA: k.ID, Number: 7, ThisUpdate: now, NextUpdate: now.AddDate(0, 0, 30), DER: list}
		row, err := json.Marshal(records[name])
		must(err)
		rows = append(rows, ledger.Row{Table: ledger.TableCRLs, Key: []byte(name), Value: row})
	}
	_, err = store.Commit(ctx, []ledger.Op{{Leaf: []byte(`{"v":1,"kind":"test","at":"2026-03-01T12:00:00Z"}`), Rows: rows}})
	must(err)
	must(store.Close())
	l, err := ledger.Open(ctx, ledger.Options{Path: path, Clock: clock.NewFake(now)})
	must(err)
	defer l.Close()
	a := &Authority{o: Options{Ledger: l, Log: slog.New(slog.DiscardHandler), Metrics: metrics.New(), CRLLife: 30 * day}}
	a.public.init()
	for name, k := range states {
		must(l.PutKey(ctx, k))
		must(a.shelveCRL(records[name]))
	}
	look := func(at time.Time) (conditions, series, shown int) {
		t.Helper()
		if _, err := a.renewCRLs(ctx, policy.PurposeIACA, at); err != nil {
			t.Errorf("at %s: %v", at, err)
		}
		a.lookAtCRLs(now.AddDate(0, 0, 29), func(name, severity, _, format string, args ...any) { conditions++ })
		for name := range records {
			if _, ok := a.Public("crl/" + name + ".crl"); ok {
				shown++
			}
		}
		return conditions, testutil.CollectAndCount(a.o.Metrics.CRLExpires) + testutil.CollectAndCount(a.o.Metrics.CRLIssued), shown
	}
	if conditions, series, shown := look(now.Add(time.Hour)); conditions != 3 || series != 6 || shown != 3 {
		t.Errorf("before the end: %d conditions, %d series, %d lists", conditions, series, shown)
	}
	a.crls.set("iaca", errors.New("the token is away"))
	if conditions, series, shown := look(end.Add(time.Hour)); conditions != 0 || series != 0 || shown != 0 {
		t.Errorf("after the end: %d conditions, %d series, %d lists", conditions, series, shown)
	}
}
