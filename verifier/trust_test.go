package verifier

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"testing"
	"time"
)

type testRoot struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func certify(t *testing.T, name string, public *ecdsa.PublicKey, by *x509.Certificate, key *ecdsa.PrivateKey, from, to time.Time, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	if edit != nil {
		edit(c)
	}
	if by == nil {
		by = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, public, key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

func newRoot(t *testing.T, name string, from, to time.Time) testRoot {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return testRoot{k, certify(t, name, &k.PublicKey, nil, k, from, to, nil)}
}

// A link certificate leads from a root that is trusted to the one that took its place, as long as it is what it says; nothing else does.
func TestRootsByLinks(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	from, to := now.AddDate(-1, 0, 0), now.AddDate(1, 0, 0)
	a, b, c, other := newRoot(t, "a", from, to), newRoot(t, "b", from, to), newRoot(t, "c", from, to), newRoot(t, "a", from, to)
	link := func(r, by testRoot, from, to time.Time, edit func(*x509.Certificate)) *x509.Certificate {
		return certify(t, r.cert.Subject.CommonName, &r.key.PublicKey, by.cert, by.key, from, to, edit)
	}
	good := link(b, a, from, to, nil)
	for name, x := range map[string]struct {
		root, link *x509.Certificate
		at         time.Time
		good       bool
	}{
		"as it should be":                {b.cert, good, now, true},
		"for another key":                {c.cert, good, now, false},
		"by a stranger of the same name": {b.cert, link(b, other, from, to, nil), now, false},
		"by itself":                      {b.cert, b.cert, now, false},
		"that ended":                     {b.cert, link(b, a, from, now.AddDate(0, 0, -1), nil), now, false},
		"that has not begun":             {b.cert, link(b, a, now.AddDate(0, 0, 1), to, nil), now, false},
		"when the old root ended":        {b.cert, link(b, a, from, to.AddDate(1, 0, 0), nil), to.AddDate(0, 0, 1), false},
		"under another name":             {b.cert, certify(t, "x", &b.key.PublicKey, a.cert, a.key, from, to, nil), now, false},
		"of a key that is no CA's":       {b.cert, link(b, a, from, to, func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }), now, false},
		"that may not certify":           {b.cert, link(b, a, from, to, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), now, false},
	} {
		if err := Linked(x.root, x.link, a.cert, x.at); (err == nil) != x.good {
			t.Errorf("a link %s: %v", name, err)
		}
	}
	bundle := func(keys ...map[string]any) *Trust {
		t.Helper()
		data, err := json.Marshal(map[string]any{"issuer": "x", "as_of": now, "keys": keys})
		if err != nil {
			t.Fatal(err)
		}
		b, err := ParseTrust(data)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	key := func(r testRoot, state string, link *x509.Certificate) map[string]any {
		out := map[string]any{"id": "iaca-" + r.cert.Subject.CommonName, "purpose": "iaca", "state": state, "certificate": r.cert.Raw}
		if link != nil {
			out["link"] = link.Raw
		}
		return out
	}
	anchors := []*x509.Certificate{a.cert}
	second := link(c, b, from, to, nil)
	for name, x := range map[string]struct {
		bundle *Trust
		want   string
	}{
		"three in a row, in any order":  {bundle(key(c, "announced", second), key(b, "active", good), key(a, "deactivated", nil)), "a b c"},
		"one in between is compromised": {bundle(key(a, "deactivated", nil), key(b, "compromised", good), key(c, "active", second)), "a"},
		"the anchor is not in it":       {bundle(key(b, "active", good)), ""},
		"the same ones again and again": {bundle(key(a, "active", nil), key(a, "active", nil), key(b, "active", good), key(b, "active", good), key(a, "active", nil)), "a b"},
		"no link":                       {bundle(key(a, "active", nil), key(b, "active", nil)), "a"},
		"of a stranger":                 {bundle(key(a, "active", nil), key(b, "active", link(b, other, from, to, nil))), "a"},
	} {
		got := ""
		for _, r := range x.bundle.Roots(anchors, now) {
			got += " " + r.Subject.CommonName
		}
		if fmt.Sprint(got) != fmt.Sprint(map[bool]string{true: "", false: " " + x.want}[x.want == ""]) {
			t.Errorf("%s: roots are%s", name, got)
		}
	}
	many := make([]map[string]any, maxRoots+1)
	for i := range many {
		many[i] = key(a, "active", nil)
	}
	data, err := json.Marshal(map[string]any{"issuer": "x", "as_of": now, "keys": many})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseTrust(data); err == nil {
		t.Errorf("a bundle of %d roots is read", len(many))
	}
}
