package fsck_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
)

// Revocations are those of the journal, and the lists of a CA say exactly them: each thing that does not fit is named.
func TestRevocationsAndTheirLists(t *testing.T) {
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: noon, NotAfter: noon.AddDate(9, 0, 0), KeyUsage: x509.KeyUsageCRLSign, IsCA: true,
		BasicConstraintsValid: true, SubjectKeyId: []byte{1}}
	serial := append([]byte{0x40}, make([]byte, 19)...)
	crl := func(alter func(*x509.RevocationList)) []byte {
		t.Helper()
		l := &x509.RevocationList{Number: big.NewInt(2), ThisUpdate: noon, NextUpdate: noon.AddDate(0, 0, 30), RevokedCertificateEntries: []x509.RevocationListEntry{
			{SerialNumber: new(big.Int).SetBytes(serial), RevocationTime: noon, ReasonCode: 1}}}
		if alter != nil {
			alter(l)
		}
		der, err := x509.CreateRevocationList(rand.Reader, l, ca, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	leaf := func(kind, more string) string {
		return `{"v":1,"kind":"` + kind + `","at":"2026-11-24T12:00:00Z"` + more + `}`
	}
	said := func(state, reason string) string {
		return leaf("certificates", fmt.Sprintf(`,"certificates":[{"serial":%q,"ca":"client-ca-1","state":%q,"reason":%q}]`, base64.StdEncoding.EncodeToString(serial), state, reason))
	}
	const listed = "DIGEST" // of the list that is stored
	settled := func(n int) string {
		return leaf("settle", fmt.Sprintf(`,"operation":"crl","name":"client-ca","version":%d,"digest":"%s"`, n, listed))
	}
	type world struct {
		leaves    []string
		row       string // of the revocation; empty: none
		reason    string
		unissued  bool
		list      []byte
		through   uint64
		jumped    bool
		gone      bool
		written   int // by which leaf the list was
		published uint64
	}
	for name, c := range map[string]struct {
		alter func(*world)
		says  string
	}{
		"all is well": {func(*world) {}, ""},
		"revoked after the list": {func(w *world) {
			w.through, w.leaves = 0, []string{leaf("meta", ""), w.leaves[0], w.leaves[2]}
			w.list = crl(func(l *x509.RevocationList) { l.RevokedCertificateEntries = nil })
		}, ""},
		"lifted": {func(w *world) {
			w.leaves[0], w.leaves[1], w.row = said("revoked", "certificateHold"), said("lifted", ""), ""
			w.through = 0
			w.list = crl(func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 6 })
		}, ""},
		"a row that nobody wrote":   {func(w *world) { w.leaves[0] = leaf("meta", "") }, "which the journal does not say"},
		"another reason in the row": {func(w *world) { w.reason = "superseded" }, "which the journal does not say"},
		"a row that was deleted":    {func(w *world) { w.row = "" }, "and nothing else does"},
		"never issued":              {func(w *world) { w.unissued = true }, "was never issued"},
		"not listed":                {func(w *world) { w.list = crl(func(l *x509.RevocationList) { l.RevokedCertificateEntries = nil }) }, "does not list certificate"},
		"listed, and not revoked": {func(w *world) {
			w.list = crl(func(l *x509.RevocationList) {
				l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(7), RevocationTime: noon})
			})
		}, "which was not revoked"},
		"another reason in the list": {func(w *world) {
			w.list = crl(func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 4 })
		}, "with reason 4"},
		"another number in the list":      {func(w *world) { w.list = crl(func(l *x509.RevocationList) { l.Number = big.NewInt(9) }) }, "it says number 9"},
		"another's signature":             {func(w *world) { w.list[len(w.list)-1] ^= 1 }, "does not verify"},
		"a number twice":                  {func(w *world) { w.leaves[1] = settled(2) }, "got number 2 after 2"},
		"a number that was never settled": {func(w *world) { w.leaves[2] = settled(1); w.leaves[1] = leaf("meta", "") }, "the last that was settled is 1"},
		"jumped by lifting a fence": {func(w *world) {
			w.leaves[1], w.leaves[2], w.jumped, w.written = settled(1), leaf("unfence", ""), true, 2
		}, ""},
		"jumped by nothing": {func(w *world) { w.leaves[1], w.leaves[2], w.jumped = settled(1), leaf("meta", ""), true }, "was moved on to number 2 by entry 0, which lifted no fence"},
		"of before a fence was lifted": {func(w *world) { w.leaves = append(w.leaves, leaf("unfence", "")) },
			"has number 2, of before entry 3, which lifted a fence"},
		"settled since a fence was lifted": {func(w *world) {
			w.leaves = append(w.leaves[:2], leaf("unfence", ""), w.leaves[2])
		}, ""},
		"other bytes than were settled": {func(w *world) { w.leaves[2] = strings.Replace(w.leaves[2], listed, "AAAA", 1) },
			"number 2 has other bytes than were settled"},
		"its row is gone": {func(w *world) { w.gone = true }, "CRL client-ca: number 2 was settled, and is nowhere"},
		"published":       {func(w *world) { w.published = 2 }, ""},
		"published ahead": {func(w *world) { w.published = 3 }, "is ahead of the ledger's 2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := world{leaves: []string{said("revoked", "keyCompromise"), settled(1), settled(2)}, row: "r", reason: "keyCompromise", list: crl(nil), through: 1}
			c.alter(&w)
			ctx, dir := context.Background(), t.TempDir()
			path := filepath.Join(dir, "ledger.db")
			s, err := ledger.OpenSQLite(ctx, path)
			if err != nil {
				t.Fatal(err)
			}
			row := func(table ledger.Table, key string, v any) ledger.Row {
				b, err := json.Marshal(v)
				if err != nil {
					t.Fatal(err)
				}
				return ledger.Row{Table: table, Key: []byte(key), Value: b}
			}
			ops := make([]ledger.Op, len(w.leaves))
			sum := sha256.Sum256(w.list)
			for i, l := range w.leaves {
				ops[i].Leaf = []byte(strings.Replace(l, listed, base64.StdEncoding.EncodeToString(sum[:]), 1))
			}
			ops[0].Rows = []ledger.Row{
				row(ledger.TableKeys, "client-ca-1", ledger.Key{ID: "client-ca-1", Token: "online", Purpose: "client-ca", Algorithm: "ES256", CKAID: []byte{1}, SPKI: spki, State: ledger.KeyActive}),
			}
			if !w.gone {
				ops[w.written].Rows = append(ops[w.written].Rows, row(ledger.TableCRLs, "client-ca", ledger.CRLRecord{Name: "client-ca", CA: "client-ca-1", Through: w.through, Number: 2, ThisUpdate: noon, NextUpdate: noon.AddDate(0, 0, 30), Jumped: w.jumped, DER: w.list}))
			}
			if w.row != "" {
				ops[0].Rows = append(ops[0].Rows, row(ledger.TableRevocations, string(serial), map[string]any{"serial": serial, "ca": "client-ca-1", "crl": "client-ca", "reason": w.reason, "at": noon, "not_after": noon.AddDate(0, 1, 0)}))
			}
			if !w.unissued {
				ops[0].Rows = append(ops[0].Rows, row(ledger.TableCertificates, string(serial), ledger.Certificate{Serial: serial, Profile: "client", Name: "n", CA: "client-ca-1", CRL: "client-ca", NotAfter: noon.AddDate(0, 1, 0), DER: []byte{}, At: noon}))
			}
			if _, err := s.Commit(ctx, ops); err != nil {
				t.Fatal(err)
			}
			s.Close()
			if w.published > 0 {
				if err := os.MkdirAll(filepath.Join(dir, "crl"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "crl", "client-ca.json"), fmt.Appendf(nil, `{"id":"client-ca","version":%d,"file":"client-ca.crl"}`, w.published), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r, err := fsck.Run(ctx, fsck.Options{Ledger: path, Publish: dir})
			if err != nil {
				t.Fatal(err)
			}
			for _, check := range r.Checks {
				if !strings.HasPrefix(check.Title, "revoked certificates") {
					continue
				}
				if says := strings.Join(check.Problems, "; "); says != c.says && (c.says == "" || !strings.Contains(says, c.says)) {
					t.Errorf("fsck says %q, want %q", says, c.says)
				}
				return
			}
			t.Error("revocations are not checked")
		})
	}
}
