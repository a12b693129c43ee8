package policy

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

// denied checks that a decision is a denial that docs explain, and that nothing came with it.
func denied(t *testing.T, a *Approval, d Decision, code string) {
	t.Helper()
	if a != nil || a.Valid() || d.Result != Denied || d.Code != code || d.Detail == "" || len(d.Rules) == 0 {
		t.Errorf("got %v %q %q by %v, want a denial with %s", d.Result, d.Code, d.Detail, d.Rules, code)
	}
	if Codes[d.Code] == "" && !strings.HasPrefix(d.Code, "rule.") {
		t.Errorf("code %q is not explained", d.Code)
	}
}

func allowed(t *testing.T, a *Approval, d Decision) {
	t.Helper()
	if !a.Valid() || d.Result != Allowed || d.Code != "" || len(d.Rules) == 0 {
		t.Fatalf("got %v %q (%s) by %v, want it allowed", d.Result, d.Code, d.Detail, d.Rules)
	}
}

func aList() ListFacts {
	return ListFacts{ID: "l1", URI: "https://cards.example/status-lists/l1", Format: SDJWT, Bits: 2, PrevVersion: 4, PrevIssued: noon.Add(-time.Minute),
		Prev: []byte{0x09, 0}, Next: []byte{0x01, 0x40}, Changes: []ListChange{{Index: 1, From: 2, To: 0}, {Index: 7, From: 0, To: 1}},
		Through: 17, Version: 5, IssuedAt: noon, Expires: noon.Add(time.Hour), TTL: time.Minute}
}

// A hold suspends what it holds and nothing else, revives nothing, and changes no entry's own status: without it the image is what it was.
func TestHoldsAreLaidOverAList(t *testing.T) {
	f := aList()
	f.Prev, f.Next, f.Changes = []byte{0xe4, 0x1b}, []byte{0xe4, 0x1b}, nil // 0 1 2 3, 3 2 1 0
	for held, want := range map[byte][]byte{
		0x00: {0xe4, 0x1b},
		0xff: {0b10_10_01_10, 0b10_01_10_10},
		0x81: {0b11_10_01_10, 0b10_01_10_11},
		0x3c: {0b10_10_01_00, 0b00_01_10_10},
	} {
		f.Held = []byte{held}
		a, d := DecideList(nil, f, noon)
		allowed(t, a, d)
		if l, _ := a.List(); !bytes.Equal(l.Image, want) {
			t.Errorf("%08b makes %08b, want %08b", held, l.Image, want)
		}
	}
	if !bytes.Equal(f.Next, []byte{0xe4, 0x1b}) {
		t.Error("what was given was written to")
	}
}

func TestListIsItsPredecessorPlusTheCommittedChanges(t *testing.T) {
	mdoc := func(f *ListFacts) {
		f.Format, f.Bits, f.Prev, f.Next, f.Changes = MDoc, 1, []byte{0x01}, []byte{0x81}, []ListChange{{Index: 7, To: 1}}
	}
	for name, c := range map[string]struct {
		alter func(*ListFacts)
		code  string // empty: allowed
	}{
		"lock and unlock": {func(f *ListFacts) {}, ""},
		"mdoc revocation": {mdoc, ""},
		"first version": {func(f *ListFacts) {
			f.PrevVersion, f.PrevIssued, f.Prev, f.Changes, f.Next = 0, time.Time{}, nil, nil, []byte{0, 0}
		}, ""},
		"re-signed without changes": {func(f *ListFacts) { f.Changes, f.Next = nil, f.Prev }, ""},
		"a hold of an mdoc":         {func(f *ListFacts) { mdoc(f); f.Held = []byte{0xff} }, "list.held"},
		"a hold of another":         {func(f *ListFacts) { f.Held = []byte{0xff, 0} }, "list.held"},
		"the same second":           {func(f *ListFacts) { f.PrevIssued = f.IssuedAt }, ""},
		"wall clock fell back": {func(f *ListFacts) {
			f.PrevIssued = noon.Add(time.Hour)
			f.IssuedAt = f.PrevIssued
			f.Expires = noon.Add(2 * time.Hour)
		}, ""},
		"revoked twice":          {func(f *ListFacts) { f.Changes = append(f.Changes, ListChange{Index: 7, From: 1, To: 1}) }, ""},
		"grows by empty entries": {func(f *ListFacts) { f.Next = append(f.Next, 0, 0) }, ""},

		"a change is missing":          {func(f *ListFacts) { f.Changes = f.Changes[:1] }, "list.changes"},
		"a change more":                {func(f *ListFacts) { f.Next[1] |= 0x10 }, "list.changes"},
		"a change from another status": {func(f *ListFacts) { f.Changes[0].From = 1 }, "list.changes"},
		"revoked bit cleared":          {func(f *ListFacts) { f.Changes[0] = ListChange{Index: 0, From: 1, To: 0}; f.Next[0] = 0x08 }, "list.revoked"},
		"revoked becomes suspended":    {func(f *ListFacts) { f.Changes[0] = ListChange{Index: 0, From: 1, To: 2}; f.Next[0] = 0x0a }, "list.revoked"},
		"mdoc bit cleared":             {func(f *ListFacts) { mdoc(f); f.Changes, f.Next = []ListChange{{Index: 0, From: 1}}, []byte{0} }, "list.revoked"},
		"mdoc suspended":               {func(f *ListFacts) { mdoc(f); f.Changes[0].To = 2 }, "list.value"},
		"status of three bits":         {func(f *ListFacts) { f.Changes[0].To = 4 }, "list.value"},
		"index outside":                {func(f *ListFacts) { f.Changes[0].Index = 8 }, "list.index"},
		"index far outside":            {func(f *ListFacts) { f.Changes[0].Index = 1<<64 - 1 }, "list.index"},
		"mdoc with two bits":           {func(f *ListFacts) { f.Format = MDoc }, "list.bits"},
		"sd-jwt with one bit":          {func(f *ListFacts) { f.Bits = 1 }, "list.bits"},
		"no format":                    {func(f *ListFacts) { f.Format = "" }, "list.format"},
		"shrinks":                      {func(f *ListFacts) { f.Next = f.Next[:1] }, "list.size"},
		"empty":                        {func(f *ListFacts) { f.Prev, f.Next = nil, nil }, "list.size"},
		"version without array":        {func(f *ListFacts) { f.Prev = nil }, "list.predecessor"},
		"array without version":        {func(f *ListFacts) { f.PrevVersion = 0 }, "list.predecessor"},
		"same version":                 {func(f *ListFacts) { f.Version = 4 }, "list.version"},
		"iat goes back":                {func(f *ListFacts) { f.IssuedAt = f.PrevIssued.Add(-time.Second) }, "list.iat"},
		"iat in the future":            {func(f *ListFacts) { f.IssuedAt = noon.Add(time.Second) }, "list.iat"},
		"fraction of a second":         {func(f *ListFacts) { f.IssuedAt = noon.Add(-1) }, "list.time"},
		"no exp":                       {func(f *ListFacts) { f.Expires = time.Time{} }, "list.time"},
		"exp at iat":                   {func(f *ListFacts) { f.Expires = f.IssuedAt }, "list.exp"},
		"ttl beyond exp":               {func(f *ListFacts) { f.TTL = time.Hour + time.Second }, "list.ttl"},
		"no ttl":                       {func(f *ListFacts) { f.TTL = 0 }, "list.ttl"},
		"relative URI":                 {func(f *ListFacts) { f.URI = "/status-lists/l1" }, "list.name"},
		"no id":                        {func(f *ListFacts) { f.ID = "" }, "list.name"},
	} {
		t.Run(name, func(t *testing.T) {
			f := aList()
			c.alter(&f)
			a, d := DecideList(nil, f, noon)
			if c.code != "" {
				denied(t, a, d, c.code)
				return
			}
			allowed(t, a, d)
			l, ok := a.List()
			if !ok || !bytes.Equal(l.Image, f.Next) || l.Through != f.Through || l.Version != f.Version || !a.Allows(PurposeList) || a.Allows(PurposeSDJWT) {
				t.Errorf("approved %+v", l)
			}
		})
	}
}

// The example of the Token Status List draft, 4.1: least significant bits first.
func TestListImageHasTheBitOrderOfTheSpecification(t *testing.T) {
	f := aList()
	f.Format, f.Bits, f.PrevVersion, f.Prev, f.Changes, f.Next = MDoc, 1, 0, nil, nil, []byte{0xb9, 0xa3}
	for i, s := range []byte{1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1} {
		f.Changes = append(f.Changes, ListChange{Index: uint64(i), To: s})
	}
	a, d := DecideList(nil, f, noon)
	allowed(t, a, d)
}

func TestApprovedImageIsNotTheCallersSlice(t *testing.T) {
	f := aList()
	a, d := DecideList(nil, f, noon)
	allowed(t, a, d)
	f.Next[0], f.Prev[0] = 0xff, 0xff
	if l, _ := a.List(); l.Image[0] != 0x01 {
		t.Errorf("the image changed after it was approved: %x", l.Image)
	}
}

func TestLanesGoByPurpose(t *testing.T) {
	f := aList()
	routine, _ := DecideList(nil, f, noon)
	f.Urgent = true
	urgent, _ := DecideList(nil, f, noon)
	if routine.Lane() != LaneCRL || urgent.Lane() != LaneLock {
		t.Errorf("routine %v, urgent %v", routine.Lane(), urgent.Lane())
	}
}

// Any history of committed changes is approved version by version exactly if no revoked entry is left, and never with another image.
func TestNoHistoryClearsARevocation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.SampledFrom([]int{1, 2}).Draw(t, "bits")
		f := aList()
		f.Bits, f.Format = bits, map[int]Format{1: MDoc, 2: SDJWT}[bits]
		f.PrevVersion, f.Prev, f.PrevIssued, f.Changes = 0, nil, time.Time{}, nil
		state, revived := make([]byte, 16), false
		for range rapid.IntRange(0, 20).Draw(t, "changes") {
			i, to := rapid.IntRange(0, 15).Draw(t, "index"), byte(rapid.IntRange(0, bits).Draw(t, "to"))
			revived = revived || state[i] == 1 && to != 1
			f.Changes = append(f.Changes, ListChange{Index: uint64(i), From: state[i], To: to})
			state[i] = to
		}
		f.Next = make([]byte, 2*bits)
		for i, s := range state {
			f.Next[i*bits/8] |= s << (i * bits % 8)
		}
		a, d := DecideList(nil, f, noon)
		if a.Valid() == revived {
			t.Fatalf("revived %v, decided %v %s", revived, d.Result, d.Code)
		}
		if revived {
			return
		}
		f.Next[rapid.IntRange(0, len(f.Next)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if a, _ := DecideList(nil, f, noon); a.Valid() {
			t.Fatal("a flipped bit was approved")
		}
	})
}

func aCert(profile string) CertFacts {
	f := CertFacts{Cert: Cert{Profile: profile, Name: "n", SPKI: []byte{1}, Serial: [20]byte{0x7f, 1}, NotBefore: noon, NotAfter: noon.AddDate(0, 1, 0), IssuerKey: "k", CRL: "l"},
		IssuerNotBefore: noon.AddDate(-1, 0, 0), IssuerNotAfter: noon.AddDate(9, 0, 0), IssuerPurpose: PurposeIACA}
	switch profile {
	case "client-ca", "client-ca-link", "server", "client", "officer":
		f.IssuerPurpose = PurposeClientCA
	}
	if profile == "server" {
		f.Cert.Hosts = []string{"localhost"}
	}
	if profile == "iaca" || profile == "client-ca" {
		f.IssuerNotBefore, f.IssuerNotAfter, f.Cert.CRL = time.Time{}, time.Time{}, ""
	}
	return f
}

// formats.md 3.3.
func TestCertificateLivesAtMostAsLongAsItsProfileAllows(t *testing.T) {
	day := 24 * time.Hour
	for profile, last := range map[string]time.Time{
		"iaca": noon.AddDate(20, 0, 0), "document-signer": noon.Add(457 * day), "sdjwt-issuer": noon.Add(457 * day), "status-signer": noon.Add(1187 * day),
		"client-ca": noon.AddDate(10, 0, 0), "server": noon.Add(397 * day), "client": noon.Add(397 * day),
		"officer": noon.Add(397 * day), "iaca-link": noon.AddDate(9, 0, 0), "client-ca-link": noon.AddDate(9, 0, 0),
	} {
		f := aCert(profile)
		f.Cert.NotAfter = last
		a, d := DecideCert(nil, f, noon)
		allowed(t, a, d)
		if c, ok := a.Cert(); !ok || c.Profile != profile || !a.Allows(f.IssuerPurpose) || a.Allows(PurposeMDoc) || a.Lane() != LaneCRL {
			t.Errorf("%s: approved %+v in lane %v", profile, c, a.Lane())
		}
		f.Cert.NotAfter = last.Add(time.Second)
		a, d = DecideCert(nil, f, noon)
		want := "cert.validity"
		if profile == "iaca-link" || profile == "client-ca-link" { // its 20 or 10 years are longer than any root's rest
			want = "cert.issuer_validity"
		}
		denied(t, a, d, want)
	}
}

func TestCertificateBounds(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(*CertFacts)
		code  string
	}{
		"unknown profile":        {func(f *CertFacts) { f.Cert.Profile = "root" }, "cert.profile"},
		"key of another purpose": {func(f *CertFacts) { f.IssuerPurpose = PurposeClientCA }, "cert.issuer"},
		"leaf without issuer":    {func(f *CertFacts) { f.IssuerNotBefore, f.IssuerNotAfter = time.Time{}, time.Time{} }, "cert.issuer"},
		"root with issuer":       {func(f *CertFacts) { f.Cert.Profile = "iaca" }, "cert.issuer"},
		"before its issuer":      {func(f *CertFacts) { f.Cert.NotBefore = f.IssuerNotBefore.Add(-time.Second) }, "cert.issuer_validity"},
		"after its issuer":       {func(f *CertFacts) { f.IssuerNotAfter = f.Cert.NotAfter.Add(-time.Second) }, "cert.issuer_validity"},
		"ends before it starts":  {func(f *CertFacts) { f.Cert.NotAfter = f.Cert.NotBefore }, "cert.validity"},
		"expired":                {func(f *CertFacts) { f.Cert.NotBefore, f.Cert.NotAfter = noon.Add(-2*time.Hour), noon }, "cert.validity"},
		"fractions":              {func(f *CertFacts) { f.Cert.NotBefore = noon.Add(1) }, "cert.time"},
		"no serial":              {func(f *CertFacts) { f.Cert.Serial = [20]byte{} }, "cert.serial"},
		"negative serial":        {func(f *CertFacts) { f.Cert.Serial = [20]byte{0x80} }, "cert.serial"},
		"62 bits of serial":      {func(f *CertFacts) { f.Cert.Serial = [20]byte{12: 0x3f} }, "cert.serial"},
		"63 bits of serial":      {func(f *CertFacts) { f.Cert.Serial = [20]byte{12: 0x40} }, ""},
		"no key":                 {func(f *CertFacts) { f.Cert.SPKI = nil }, "cert.incomplete"},
		"no name":                {func(f *CertFacts) { f.Cert.Name = "" }, "cert.incomplete"},
		"no issuer key":          {func(f *CertFacts) { f.Cert.IssuerKey = "" }, "cert.incomplete"},
		"no revocation list":     {func(f *CertFacts) { f.Cert.CRL = "" }, "cert.crl"},
		"signer with host":       {func(f *CertFacts) { f.Cert.Hosts = []string{"x"} }, "cert.hosts"},
	} {
		t.Run(name, func(t *testing.T) {
			f := aCert("document-signer")
			c.alter(&f)
			a, d := DecideCert(nil, f, noon)
			if c.code == "" {
				allowed(t, a, d)
			} else {
				denied(t, a, d, c.code)
			}
		})
	}
}

// formats.md 3.4 and 7: the number grows, at least every 90 days, nothing vanishes but a lifted hold and what ended before the last list.
func TestCRLNeverForgets(t *testing.T) {
	old := Revoked{Serial: []byte{0x11}, At: noon.AddDate(0, -1, 0)}
	clients := func(last, now RevocationReason) func(*CRLFacts) {
		return func(f *CRLFacts) {
			f.CRL.Profile, f.IssuerPurpose = "rfc5280", PurposeClientCA
			f.Last[0].Reason = last
			if f.CRL.Revoked[0].Reason = now; now == "" {
				f.CRL.Revoked = nil
			}
		}
	}
	for name, c := range map[string]struct {
		alter func(*CRLFacts)
		code  string
	}{
		"one more":             {func(f *CRLFacts) { f.CRL.Revoked = append(f.CRL.Revoked, Revoked{Serial: []byte{0x12}, At: noon}) }, ""},
		"first and empty":      {func(f *CRLFacts) { *f = CRLFacts{CRL: f.CRL, IssuerPurpose: PurposeIACA}; f.CRL.Revoked = nil }, ""},
		"90 days":              {func(f *CRLFacts) { f.CRL.NextUpdate = noon.Add(CRLLife) }, ""},
		"90 days and a second": {func(f *CRLFacts) { f.CRL.NextUpdate = noon.Add(CRLLife + time.Second) }, "crl.next_update"},
		"no nextUpdate":        {func(f *CRLFacts) { f.CRL.NextUpdate = time.Time{} }, "crl.time"},
		"same number":          {func(f *CRLFacts) { f.CRL.Number = f.LastNumber }, "crl.number"},
		"older":                {func(f *CRLFacts) { f.LastUpdate = noon.Add(time.Hour); f.CRL.NextUpdate = noon.Add(2 * time.Hour) }, "crl.this_update"},
		"from the future":      {func(f *CRLFacts) { f.CRL.ThisUpdate = noon.Add(time.Hour) }, "crl.this_update"},
		"vanished":             {func(f *CRLFacts) { f.CRL.Revoked = nil }, "crl.vanished"},
		"ended before the last list": {func(f *CRLFacts) {
			f.CRL.Revoked, f.Last[0].NotAfter = nil, f.LastUpdate.Add(-time.Second)
		}, ""},
		"ended with the last list": {func(f *CRLFacts) { f.CRL.Revoked, f.Last[0].NotAfter = nil, f.LastUpdate }, "crl.vanished"},
		"revoked later":            {func(f *CRLFacts) { f.CRL.Revoked[0].At = noon }, "crl.vanished"},
		"twice": {func(f *CRLFacts) {
			f.CRL.Revoked = append(f.CRL.Revoked, Revoked{Serial: []byte{0, 0x11}, At: old.At})
		}, "crl.entry"},
		"no serial":          {func(f *CRLFacts) { f.CRL.Revoked[0].Serial = []byte{0} }, "crl.entry"},
		"revoked to come":    {func(f *CRLFacts) { f.CRL.Revoked[0].At = noon.Add(time.Hour) }, "crl.entry"},
		"without a CA's id":  {func(f *CRLFacts) { f.CRL.IssuerKey = "" }, "crl.incomplete"},
		"without a name":     {func(f *CRLFacts) { f.CRL.Name = "" }, "crl.incomplete"},
		"no profile":         {func(f *CRLFacts) { f.CRL.Profile = "delta" }, "crl.profile"},
		"another CA's":       {func(f *CRLFacts) { f.IssuerPurpose = PurposeClientCA }, "crl.profile"},
		"a signer's":         {func(f *CRLFacts) { f.IssuerPurpose = PurposeMDoc }, "crl.profile"},
		"a part of the root": {func(f *CRLFacts) { f.CRL.Scope = "http://a.example/crl/iaca.1-of-2.crl" }, "crl.scope"},
		"a reason by B.2":    {func(f *CRLFacts) { f.CRL.Revoked[0].Reason = KeyCompromise }, "crl.reason"},

		"of clients":                   {clients(KeyCompromise, KeyCompromise), ""},
		"no reason of clients":         {func(f *CRLFacts) { clients(Unspecified, Unspecified)(f); f.CRL.Revoked[0].Reason = "" }, "crl.reason"},
		"removed from the list":        {clients(Unspecified, "removeFromCRL"), "crl.reason"},
		"another reason":               {clients(KeyCompromise, Superseded), "crl.reason"},
		"a revocation becomes a hold":  {clients(KeyCompromise, CertificateHold), "crl.reason"},
		"a hold becomes a revocation":  {clients(CertificateHold, KeyCompromise), ""},
		"a lifted hold":                {clients(CertificateHold, ""), ""},
		"a revocation that was lifted": {clients(KeyCompromise, ""), "crl.vanished"},
		"a part": {func(f *CRLFacts) {
			clients(KeyCompromise, KeyCompromise)(f)
			f.CRL.Scope = "http://a.example/crl/client-ca.1-of-2.crl"
		}, ""},
		"a part of nothing": {func(f *CRLFacts) { clients(KeyCompromise, KeyCompromise)(f); f.CRL.Scope = "part" }, "crl.scope"},
	} {
		t.Run(name, func(t *testing.T) {
			f := CRLFacts{CRL: CRL{Name: "iaca", Profile: "iaca", Number: 8, ThisUpdate: noon, NextUpdate: noon.AddDate(0, 1, 0), Revoked: []Revoked{old}, IssuerKey: "iaca"},
				IssuerPurpose: PurposeIACA, LastNumber: 7, LastUpdate: noon.AddDate(0, -1, 0), Last: []Revoked{old}}
			c.alter(&f)
			a, d := DecideCRL(nil, f, noon)
			if c.code != "" {
				denied(t, a, d, c.code)
				return
			}
			allowed(t, a, d)
			if l, ok := a.CRL(); !ok || len(l.Revoked) != len(f.CRL.Revoked) || !a.Allows(f.IssuerPurpose) || a.Allows(PurposeMDoc) || a.Lane() != LaneCRL {
				t.Errorf("approved %+v", l)
			}
		})
	}
}

func TestSelftestSignsFixedBytesThatNoVerifierAccepts(t *testing.T) {
	for _, c := range []struct {
		p         Purpose
		alg, want string // hex for mdoc, else header.payload
	}{
		{PurposeMDoc, "ES256", "846a5369676e61747572653143a10126404ed8184ba16873656c6674657374f5"},
		{PurposeMDoc, "ES384", "846a5369676e61747572653144a1013822404ed8184ba16873656c6674657374f5"},
		{PurposeMDoc, "EdDSA", "846a5369676e61747572653143a10127404ed8184ba16873656c6674657374f5"},
		{PurposeSDJWT, "ES256", `{"alg":"ES256","typ":"dc+sd-jwt"}.{"selftest":true}`},
		{PurposeList, "EdDSA", `{"alg":"EdDSA","typ":"statuslist+jwt"}.{"selftest":true}`},
		{PurposeIACA, "ES384", ""}, {PurposeClientCA, "ES256", ""}, {PurposeMDoc, "RS256", ""}, {"", "ES256", ""},
	} {
		got := SelftestBytes(c.p, c.alg)
		text := hex.EncodeToString(got)
		if c.p != PurposeMDoc {
			head, payload, _ := strings.Cut(string(got), ".")
			h, err1 := base64.RawURLEncoding.DecodeString(head)
			p, err2 := base64.RawURLEncoding.DecodeString(payload)
			if text = string(h) + "." + string(p); err1 != nil || err2 != nil || got == nil {
				text = ""
			}
		}
		if text != c.want {
			t.Errorf("%s %s:\ngot  %s\nwant %s", c.p, c.alg, text, c.want)
		}
	}
}

func TestSelftestOncePerKeyAndHalfMinute(t *testing.T) {
	a, d := DecideSelftest(nil, "k", PurposeMDoc, true, noon.Add(-SelftestEvery), noon)
	allowed(t, a, d)
	if s, ok := a.Selftest(); !ok || s.KeyID != "k" || a.Lane() != LaneBatch || !slices.Equal(a.purposes, []Purpose{PurposeMDoc}) {
		t.Errorf("approved %+v", s)
	}
	a, d = DecideSelftest(nil, "k", PurposeMDoc, true, noon.Add(time.Second-SelftestEvery), noon)
	denied(t, a, d, "selftest.early")
	a, d = DecideSelftest(nil, "k", PurposeMDoc, false, time.Time{}, noon)
	denied(t, a, d, "selftest.inactive")
	a, d = DecideSelftest(nil, "k", PurposeIACA, true, time.Time{}, noon)
	denied(t, a, d, "selftest.purpose")
}
