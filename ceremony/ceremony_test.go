package ceremony

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/internal/signed"
	"sealkeeper/officer"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// hall is where ceremonies are held: officers with keys in memory, a log in memory, a root that certifies.
type hall struct {
	t        testing.TB
	keys     map[string]crypto.Signer
	registry []byte
	opening  []byte // signed by all officers
	chain    *Chain
	leaves   []string
	root     *ecdsa.PrivateKey
	cert     []byte
}

func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// got is must for what returns two.
func got[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T { t.Helper(); return must(t, v, err) }
}

func newHall(t testing.TB, installation string) *hall {
	t.Helper()
	h := &hall{t: t, keys: map[string]crypto.Signer{}}
	r := &officer.Registry{Epoch: 1, Rules: officer.DefaultRules()}
	for _, id := range []string{"kim", "lee", "park", "audit"} {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		must(t, key, err)
		role := officer.RoleOfficer
		if id == "audit" {
			role = officer.RoleAuditor
		}
		r.Officers = append(r.Officers, officer.Officer{ID: id, Name: strings.ToUpper(id), Role: role, Key: public})
		h.keys[id] = key
	}
	h.registry = got(r.JSON())(t)
	opening := got(NewOpening(Opening{Installation: installation, Country: "KR", Registry: digest(h.registry), Policy: digest(nil), Program: Program{"1.0", digest([]byte("program"))}, Script: Script}, noon, rand.Reader))(t)
	h.opening = h.sign(opening, "kim", "lee", "park")
	return h
}

// sign adds signatures with the keys of officers; "kim=lee" is a signature in kim's name with lee's key.
func (h *hall) sign(paper []byte, ids ...string) []byte {
	h.t.Helper()
	p := got(Read(paper))(h.t)
	for _, id := range ids {
		name, key, ok := strings.Cut(id, "=")
		if !ok {
			key = name
		}
		paper = got(signed.Sign(paper, limits, p.kind, name, h.keys[key], rand.Reader))(h.t)
	}
	return paper
}

func (h *hall) leaf(kind, name, operation string, digest []byte) {
	l := map[string]any{"v": 1, "kind": kind, "at": noon}
	if name != "" {
		l["name"] = name
	}
	if operation != "" {
		l["operation"] = operation
	}
	if digest != nil {
		s := sha256.Sum256(digest)
		l["digest"] = s[:]
	}
	b, err := json.Marshal(l)
	must(h.t, b, err)
	h.leaves = append(h.leaves, string(b))
}

func (h *hall) note(e Entry) {
	h.t.Helper()
	raw, err := h.chain.Next(e, noon.Add(time.Duration(len(h.chain.raw))*time.Second))
	must(h.t, raw, err)
	h.leaf("meta", MetaEntry(len(h.chain.raw)+1), "", raw)
	if err := h.chain.Add(raw); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hall) begin() {
	h.t.Helper()
	o, err := Open(h.opening, h.registry)
	h.chain = NewChain(must(h.t, o, err))
	h.leaf("meta", MetaOpening, "", h.opening)
	h.note(Entry{Step: StepBegun, Program: &Program{"1.0", digest([]byte("program"))}, Head: &Head{1, digest(nil)}})
	h.leaf("officers", "", "", h.registry)
	h.note(Entry{Step: StepOfficers, SHA256: digest(h.registry)})
	h.note(Entry{Step: StepToken, Name: "online", Label: "sealkeeper-online", Serial: "1"})
	h.leaf("meta", "domain-secret/online", "", []byte("wrapped"))
	h.note(Entry{Step: StepSecret, Name: "online", SHA256: digest([]byte("wrapped"))})
}

func (h *hall) certificate(name string, key *ecdsa.PrivateKey, ca bool) []byte {
	h.t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: noon, NotAfter: noon.Add(time.Hour), IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	parent := c
	if h.cert != nil {
		var err error
		parent, err = x509.ParseCertificate(h.cert)
		must(h.t, parent, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), h.root)
	return must(h.t, der, err)
}

func (h *hall) make() {
	h.t.Helper()
	var err error
	h.root, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(h.t, h.root, err)
	spki, err := x509.MarshalPKIXPublicKey(h.root.Public())
	must(h.t, spki, err)
	h.leaf("key", "iaca-1", "iaca", spki)
	h.note(Entry{Step: StepKey, Name: "iaca-1", Token: "iaca", Purpose: "iaca", Algorithm: "ES256", SHA256: digest(spki)})
	h.cert = h.certificate("root", h.root, true)
	h.leaf("settle", "", "cert", h.cert)
	h.note(Entry{Step: StepCertificate, Name: "iaca-1", SHA256: digest(h.cert), Certificate: h.cert, Until: noon.Add(time.Hour)})
	h.leaf("settle", "", "crl", []byte("crl"))
	h.note(Entry{Step: StepCRL, Name: "iaca", Number: 1, SHA256: digest([]byte("crl")), Until: noon.Add(time.Hour)})
	server, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(h.t, server, err)
	cert := h.certificate("server", server, false)
	h.leaf("settle", "", "cert", cert)
	h.note(Entry{Step: StepServer, SHA256: digest(cert), Certificate: cert, Until: noon.Add(time.Hour)})
	h.leaf("meta", metaBackupKey, "", []byte("key"))
	h.note(Entry{Step: StepBackup, Name: digest([]byte("key")), SHA256: digest([]byte("backup")), Need: 2, Shares: []Person{{"kim", digest(nil)}, {"lee", digest(nil)}, {"park", digest(nil)}}, By: []string{"kim", "lee"}})
	h.note(Entry{Step: StepEnd})
}

func (h *hall) head() Head {
	root, err := merkle(h.leaves)
	must(h.t, root, err)
	return Head{uint64(len(h.leaves)), hexOf(root[:])}
}

func (h *hall) close() []byte {
	h.t.Helper()
	out, err := h.chain.Close(h.head(), h.leaves)
	return must(h.t, out, err)
}

// held is a whole ceremony, without signatures at its end.
func held(t testing.TB, installation string) (*hall, []byte) {
	h := newHall(t, installation)
	h.begin()
	h.make()
	return h, h.close()
}

// problem is the code of the first problem, or of the refusal.
func problem(r *Report, err error) string {
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return refusal.Code()
	case err != nil:
		return err.Error()
	}
	code, _, _ := strings.Cut(r.first(), ": ")
	return code
}

func TestAWholeCeremonyVerifies(t *testing.T) {
	h, transcript := held(t, "Test")
	paper := h.sign(transcript, "kim", "park", "audit")
	root := func(uint64) ([32]byte, error) { r, err := merkle(h.leaves); return r, err }
	r, err := Verify(paper, Outside{Registry: h.registry, Certificates: map[string][]byte{"iaca.cer": h.cert}, Root: root})
	if err != nil || !r.Clean() {
		t.Fatalf("%v %s", err, r.first())
	}
	if r.Need != 2 || fmt.Sprint(r.Signed) != "[audit kim park]" || r.Runs != 1 || r.Installation != "Test" {
		t.Errorf("%+v", r)
	}
	for _, c := range r.Checks {
		if c.Checked == 0 {
			t.Errorf("%s: nothing was checked", c.What)
		}
	}
	if ids, err := Signed(paper); err != nil || len(ids) != 3 {
		t.Errorf("%v %v", ids, err)
	}
}

// Officers prove that they have their keys before anything is made: all of them, with the keys of the registry, for this installation.
func TestNobodyOpensForAnother(t *testing.T) {
	h := newHall(t, "Test")
	p, err := signed.Parse(h.opening, openingLimits)
	must(t, p, err)
	bare := []byte(p.Payload)
	other := newHall(t, "Test")
	for what, c := range map[string]struct {
		envelope, registry []byte
		code               string
	}{
		"nobody signed":             {bare, h.registry, "ceremony.missing"},
		"one is missing":            {h.sign(bare, "kim", "lee", "audit"), h.registry, "ceremony.missing"},
		"one signs for another":     {h.sign(bare, "kim", "lee", "park=lee"), h.registry, "ceremony.signature"},
		"a stranger signs too":      {got(signed.Sign(h.opening, limits, kindOpening, "choi", h.keys["kim"], rand.Reader))(t), h.registry, "ceremony.unknown"},
		"another installation's":    {other.opening, h.registry, "ceremony.registry"},
		"another registry":          {h.opening, other.registry, "ceremony.registry"},
		"another installation":      {bytes.Replace(h.opening, []byte(`"Test"`), []byte(`"Tesu"`), 1), h.registry, "ceremony.signature"},
		"signed for something else": {got(signed.Sign(h.sign(bare, "kim", "lee"), limits, kindTranscript, "park", h.keys["park"], rand.Reader))(t), h.registry, "ceremony.signature"},
		"with white space":          {got(signed.Sign(append([]byte(`{ `), bare[1:]...), limits, kindOpening, "kim", h.keys["kim"], rand.Reader))(t), h.registry, "ceremony.malformed"},
	} {
		if _, err := Open(c.envelope, c.registry); problem(nil, err) != c.code {
			t.Errorf("%s: %v, and not %s", what, err, c.code)
		}
	}
	if o, err := Open(h.opening, h.registry); err != nil || fmt.Sprint(o.Signers()) != "[kim lee park]" {
		t.Errorf("%v", err)
	}
}

// edit changes a transcript as who forges it would: entries are chained again unless kept is set, and officers sign again.
func (h *hall) edit(t *testing.T, transcript []byte, change func(f *transcriptFile, entries *[]Entry), rechain bool) []byte {
	t.Helper()
	parsed, err := parse(transcript)
	must(t, parsed, err)
	f := parsed.file
	f.Leaves = slices.Clone(f.Leaves)
	entries := slices.Clone(parsed.entries)
	change(&f, &entries)
	f.Entries = nil
	prev := ""
	for i, e := range entries {
		if rechain {
			e.N = i + 1
			if i > 0 {
				e.Prev = prev
			}
		}
		raw, err := canonical(e)
		must(t, raw, err)
		prev = digest(raw)
		f.Entries = append(f.Entries, raw)
	}
	payload, err := canonical(f)
	must(t, payload, err)
	out := payload
	for _, id := range []string{"kim", "lee", "park"} {
		out, err = signed.Sign(out, limits, kindTranscript, id, h.keys[id], rand.Reader)
		must(t, out, err)
	}
	return out
}

// What was signed and then changed does not verify; what was changed and then signed by everybody does not either, because the log, the
// chain and the certificates tell it.
func TestEditedTranscriptsDoNotVerify(t *testing.T) {
	h, transcript := held(t, "Test")
	whole := h.sign(transcript, "kim", "lee", "park")
	other, _ := held(t, "Other")

	for what, c := range map[string]struct {
		paper []byte
		code  string
	}{
		"nobody signed":                 {transcript, "ceremony.short"},
		"one of two signed":             {h.sign(transcript, "kim"), "ceremony.short"},
		"an auditor is no officer":      {h.sign(transcript, "kim", "audit"), "ceremony.short"},
		"one signed twice":              {h.sign(transcript, "kim", "lee=kim"), "ceremony.signature"},
		"a byte was changed":            {bytes.Replace(whole, []byte(`"serial":"1"`), []byte(`"serial":"2"`), 1), "ceremony.chain"},
		"cut":                           {whole[:len(whole)/2], "ceremony.malformed"},
		"twice":                         {append(slices.Clone(whole), whole...), "ceremony.malformed"},
		"a member more":                 {bytes.Replace(whole, []byte(`"serial":"1"`), []byte(`"serial":"1","x":1`), 1), "ceremony.malformed"},
		"officers of another signed it": {other.sign(transcript, "kim", "lee"), "ceremony.signature"},
		"no transcript":                 {[]byte("{}"), "ceremony.malformed"},
		"an opening":                    {h.opening, "ceremony.malformed"},
	} {
		if r, err := Verify(c.paper, Outside{}); problem(r, err) != c.code {
			t.Errorf("%s: %s, and not %s", what, problem(r, err), c.code)
		}
	}

	for what, c := range map[string]struct {
		change  func(f *transcriptFile, e *[]Entry)
		rechain bool
		code    string
	}{
		"an entry is dropped":            {func(_ *transcriptFile, e *[]Entry) { *e = slices.Delete(*e, 2, 3) }, false, "ceremony.chain"},
		"an entry is dropped, rechained": {func(_ *transcriptFile, e *[]Entry) { *e = slices.Delete(*e, 7, 8) }, true, "ceremony.incomplete"},
		"two are swapped":                {func(_ *transcriptFile, e *[]Entry) { (*e)[2], (*e)[3] = (*e)[3], (*e)[2] }, false, "ceremony.chain"},
		"two are swapped, rechained":     {func(_ *transcriptFile, e *[]Entry) { (*e)[2], (*e)[3] = (*e)[3], (*e)[2] }, true, "ceremony.chain"},
		"a serial is changed, rechained": {func(_ *transcriptFile, e *[]Entry) { (*e)[2].Serial = "9" }, true, "ceremony.log"},
		"the last one is dropped":        {func(_ *transcriptFile, e *[]Entry) { *e = (*e)[:len(*e)-1] }, true, "ceremony.incomplete"},
		"one is put in":                  {func(_ *transcriptFile, e *[]Entry) { *e = slices.Insert(*e, 3, (*e)[2]) }, true, "ceremony.log"},
		"a time goes back":               {func(_ *transcriptFile, e *[]Entry) { (*e)[4].At = noon }, true, "ceremony.chain"},
		"another key":                    {func(_ *transcriptFile, e *[]Entry) { (*e)[4].SHA256 = digest(nil) }, true, "ceremony.evidence"},
		"another certificate": {func(_ *transcriptFile, e *[]Entry) {
			(*e)[5].Certificate, (*e)[5].SHA256 = other.cert, digest(other.cert)
		}, true, "ceremony.evidence"},
		"another program went on": {func(_ *transcriptFile, e *[]Entry) {
			(*e)[0].Program = &Program{"1.0", digest(nil)}
		}, true, "ceremony.other"},
		"a leaf is dropped":      {func(f *transcriptFile, _ *[]Entry) { f.Leaves = slices.Delete(f.Leaves, 4, 5) }, true, "ceremony.log"},
		"two leaves are swapped": {func(f *transcriptFile, _ *[]Entry) { f.Leaves[1], f.Leaves[3] = f.Leaves[3], f.Leaves[1] }, true, "ceremony.log"},
		"a key that nobody saw": {func(f *transcriptFile, _ *[]Entry) {
			f.Leaves = append(f.Leaves, `{"kind":"key","name":"ds-9","digest":"AAAA"}`)
			r, _ := merkle(f.Leaves)
			f.Head = Head{uint64(len(f.Leaves)), hexOf(r[:])}
		}, true, "ceremony.log"},
		"a key that was to be made": {func(f *transcriptFile, _ *[]Entry) {
			f.Leaves = append(f.Leaves, `{"kind":"key","name":"ds-9","state":"planned","digest":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}`)
			r, _ := merkle(f.Leaves)
			f.Head = Head{uint64(len(f.Leaves)), hexOf(r[:])}
		}, true, "ceremony.log"},
		"something signed that nobody saw": {func(f *transcriptFile, _ *[]Entry) {
			f.Leaves = append(f.Leaves, `{"kind":"settle","digest":"AAAA"}`)
			r, _ := merkle(f.Leaves)
			f.Head = Head{uint64(len(f.Leaves)), hexOf(r[:])}
		}, true, "ceremony.log"},
		"a backup that one opened":      {func(_ *transcriptFile, e *[]Entry) { (*e)[8].By = []string{"kim", "kim"} }, true, "ceremony.incomplete"},
		"a backup with another's share": {func(_ *transcriptFile, e *[]Entry) { (*e)[8].Shares = []Person{{"kim", ""}, {"lee", ""}, {"choi", ""}} }, true, "ceremony.incomplete"},
		"a backup that nobody tells of": {func(_ *transcriptFile, e *[]Entry) { *e = slices.Delete(*e, 8, 9) }, true, "ceremony.incomplete"},
		"another root":                  {func(f *transcriptFile, _ *[]Entry) { f.Head.Root = digest(nil) }, true, "ceremony.log"},
		"another opening":               {func(f *transcriptFile, _ *[]Entry) { f.Opening = string(other.opening) }, true, "ceremony.registry"},
		"another's beginning": {func(f *transcriptFile, _ *[]Entry) {
			f.Opening, f.Registry = string(other.opening), string(other.registry)
		}, true, "ceremony.chain"},
	} {
		paper := h.edit(t, transcript, c.change, c.rechain)
		r, err := Verify(paper, Outside{})
		if problem(r, err) != c.code {
			t.Errorf("%s: %s, and not %s", what, problem(r, err), c.code)
		}
		// Officers' tool signs no such thing.
		if err == nil {
			e, err := signed.Parse(paper, limits)
			p, err2 := Read(must(t, e, err).Payload)
			if _, err := must(t, p, err2).Sign("kim", h.keys["kim"], rand.Reader); err == nil {
				t.Errorf("%s: it was signed", what)
			}
		}
	}
	if r, err := Verify(h.edit(t, transcript, func(*transcriptFile, *[]Entry) {}, true), Outside{}); problem(r, err) != "" {
		t.Errorf("an edit that changes nothing: %s", problem(r, err))
	}
}

// A good transcript of another installation is found out by whatever one has of one's own.
func TestAnotherInstallationsTranscript(t *testing.T) {
	h, transcript := held(t, "Test")
	other, _ := held(t, "Test")
	paper := h.sign(transcript, "kim", "lee")
	for what, o := range map[string]Outside{
		"registry":       {Registry: other.registry},
		"certificates":   {Certificates: map[string][]byte{"iaca.pem": other.cert}},
		"no certificate": {Certificates: map[string][]byte{}},
		"log":            {Root: func(uint64) ([32]byte, error) { r, err := merkle(other.leaves); return r, err }},
		"a shorter log":  {Root: func(uint64) (r [32]byte, _ error) { return r, errors.New("the ledger is shorter") }},
	} {
		if r, err := Verify(paper, o); problem(r, err) != "ceremony.other" {
			t.Errorf("%s: %s", what, problem(r, err))
		}
	}
}

// An interrupted ceremony goes on from its entries, and says so.
func TestAChainGoesOn(t *testing.T) {
	h := newHall(t, "Test")
	h.begin()
	o, err := Open(h.opening, h.registry)
	must(t, o, err)
	raw := slices.Clone(h.chain.raw)
	h.chain, err = ParseChain(o, raw)
	must(t, h.chain, err)
	h.note(Entry{Step: StepBegun, Again: true, Program: &Program{"1.0", digest([]byte("program"))}, Head: &Head{uint64(len(h.leaves)), digest(nil)}})
	h.make()
	r, err := Verify(h.sign(h.close(), "lee", "park"), Outside{})
	if err != nil || !r.Clean() || r.Runs != 2 {
		t.Errorf("%v %+v", err, r)
	}
	if _, err := ParseChain(o, [][]byte{raw[1], raw[0]}); problem(nil, err) != "ceremony.chain" {
		t.Errorf("two swapped: %v", err)
	}
	if _, err := ParseChain(o, raw[1:]); problem(nil, err) != "ceremony.chain" {
		t.Errorf("the first one is gone: %v", err)
	}
	if _, err := h.chain.Next(Entry{Step: StepToken, Name: "late"}, noon); problem(nil, err) != "ceremony.chain" {
		t.Errorf("after the end: %v", err)
	}
}

// Copies that officers signed elsewhere come together; a copy of something else does not.
func TestCopiesAreGathered(t *testing.T) {
	h, transcript := held(t, "Test")
	kim, lee := h.sign(transcript, "kim"), h.sign(transcript, "lee")
	all, err := Gather(transcript, kim, lee, kim)
	if ids, err := Signed(must(t, all, err)); err != nil || fmt.Sprint(ids) != "[kim lee]" {
		t.Errorf("%v %v", ids, err)
	}
	_, theirs := held(t, "Test")
	if _, err := Gather(transcript, h.sign(theirs, "kim")); problem(nil, err) != "ceremony.other" {
		t.Errorf("%v", err)
	}
}
