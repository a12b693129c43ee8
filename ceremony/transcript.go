package ceremony

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/signed"
	"sealkeeper/internal/strict"
)

// Step of a ceremony that leaves evidence.
type Step string

// Steps. Their names are stable: they stand in signed transcripts.
const (
	StepBegun       Step = "begun"       // a program began, or went on where another run stopped
	StepOfficers    Step = "officers"    // the registry is in the ledger
	StepToken       Step = "token"       // a token was made
	StepSecret      Step = "secret"      // the domain secret was made, wrapped to a key of a token
	StepKey         Step = "key"         // a key was made
	StepCertificate Step = "certificate" // a key was certified
	StepCRL         Step = "crl"         // a first revocation list was signed
	StepServer      Step = "server"      // the issuance listener's certificate was made
	StepBackup      Step = "backup"      // a backup was made, and officers opened it
	StepEnd         Step = "end"         // nothing more is made
)

const (
	maxEntries   = 256
	maxLeaves    = 1024
	maxText      = 256
	maxCert      = 8 << 10
	maxPeople    = 32
	sinceOpening = 31 * 24 * time.Hour // a ceremony is over by then
)

var limits = strict.Limits{Bytes: 512 << 10, Depth: 7}

// Person is somebody's part in a step.
type Person struct {
	ID     string `json:"id"`
	SHA256 string `json:"sha256,omitempty"`
}

// Entry is what one step left.
type Entry struct {
	N    int       `json:"n"`
	Prev string    `json:"prev"` // hex SHA-256 of the entry before; of the first, of the opening statement
	At   time.Time `json:"at"`
	Step Step      `json:"step"`

	Name        string    `json:"name,omitempty"` // of token, key, CRL, backup key
	Label       string    `json:"label,omitempty"`
	Serial      string    `json:"serial,omitempty"`
	Token       string    `json:"token,omitempty"`
	Purpose     string    `json:"purpose,omitempty"`
	Algorithm   string    `json:"algorithm,omitempty"`
	SHA256      string    `json:"sha256,omitempty"`      // of the registry, the wrapped secret, the public key (SPKI), the certificate, the CRL, the backup
	Certificate []byte    `json:"certificate,omitempty"` // DER
	Number      uint64    `json:"number,omitzero"`       // of the CRL
	Need        int       `json:"need,omitzero"`         // of the holders of shares, to open a backup
	Shares      []Person  `json:"shares,omitempty"`
	By          []string  `json:"by,omitempty"` // who opened the backup
	Again       bool      `json:"again,omitzero"`
	Program     *Program  `json:"program,omitempty"`
	Head        *Head     `json:"head,omitempty"` // of the ledger's log, when a program began
	Until       time.Time `json:"until,omitzero"`
}

// Head of the ledger's log.
type Head struct {
	Size uint64 `json:"size"`
	Root string `json:"root"` // hex
}

// Chain is the entries of a ceremony under way.
type Chain struct {
	opened  *Opened
	entries []Entry
	raw     [][]byte
}

// NewChain has no entries yet.
func NewChain(o *Opened) *Chain { return &Chain{opened: o} }

// ParseChain reads entries that were written down before an interruption.
func ParseChain(o *Opened, raw [][]byte) (*Chain, error) {
	c := NewChain(o)
	for _, b := range raw {
		e, err := parseEntry(b)
		if err != nil {
			return nil, err
		}
		if err := c.follows(e); err != nil {
			return nil, err
		}
		c.entries, c.raw = append(c.entries, *e), append(c.raw, b)
	}
	return c, nil
}

// Entries so far.
func (c *Chain) Entries() []Entry { return slices.Clone(c.entries) }

// Head is the hash of the last entry.
func (c *Chain) Head() string {
	if len(c.raw) == 0 {
		return digest(c.opened.payload)
	}
	return digest(c.raw[len(c.raw)-1])
}

// Has says whether a step was written down, about what it names.
func (c *Chain) Has(s Step, name string) bool {
	return slices.ContainsFunc(c.entries, func(e Entry) bool { return e.Step == s && e.Name == name })
}

// Next is an entry in its place, to be written down; Add has it in the chain once it is.
func (c *Chain) Next(e Entry, now time.Time) ([]byte, error) {
	e.N, e.Prev, e.At = len(c.entries)+1, c.Head(), now.UTC().Truncate(time.Second)
	if n := len(c.entries); n > 0 && e.At.Before(c.entries[n-1].At) {
		e.At = c.entries[n-1].At // a clock that was set back
	}
	e.At = later(e.At, c.opened.opening.At)
	raw, err := canonical(e)
	if err != nil {
		return nil, err
	}
	parsed, err := parseEntry(raw)
	if err == nil {
		err = c.follows(parsed)
	}
	return raw, err
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Add takes what Next made.
func (c *Chain) Add(raw []byte) error {
	e, err := parseEntry(raw)
	if err == nil {
		err = c.follows(e)
	}
	if err == nil {
		c.entries, c.raw = append(c.entries, *e), append(c.raw, raw)
	}
	return err
}

// follows says whether an entry is the next of the chain.
func (c *Chain) follows(e *Entry) error {
	n, before := len(c.entries), c.opened.opening.At
	if n > 0 {
		before = c.entries[n-1].At
	}
	switch {
	case n >= maxEntries:
		return refuse("malformed", fmt.Sprintf("there are more than %d entries", maxEntries))
	case e.N != n+1:
		return refuse("chain", fmt.Sprintf("entry %d stands where entry %d should", e.N, n+1))
	case e.Prev != c.Head():
		return refuse("chain", fmt.Sprintf("entry %d does not follow what stands before it", e.N))
	case e.At.Before(before):
		return refuse("chain", fmt.Sprintf("entry %d is older than what stands before it", e.N))
	case e.At.Sub(c.opened.opening.At) > sinceOpening:
		return refuse("chain", fmt.Sprintf("entry %d is more than %s younger than the opening statement", e.N, sinceOpening))
	case n > 0 && c.entries[n-1].Step == StepEnd:
		return refuse("chain", fmt.Sprintf("entry %d comes after the end", e.N))
	}
	return nil
}

func parseEntry(raw []byte) (*Entry, error) {
	var e Entry
	if err := strict.JSON(raw, strict.Limits{Bytes: 64 << 10, Depth: 3}, &e); err != nil {
		return nil, refuse("malformed", "an entry: "+err.Error())
	}
	if why := e.check(); why != "" {
		return nil, refuse("malformed", fmt.Sprintf("entry %d: %s", e.N, why))
	}
	if again, err := canonical(e); err != nil || !bytes.Equal(again, raw) {
		return nil, refuse("malformed", fmt.Sprintf("entry %d is not written in its one form (RFC 8785)", e.N))
	}
	return &e, nil
}

// check holds an entry to what its step can say.
func (e *Entry) check() string {
	for _, s := range []string{e.Name, e.Label, e.Serial, e.Token, e.Purpose, e.Algorithm} {
		if !line(s, maxText) {
			return "a member is no plain text"
		}
	}
	for _, p := range e.Shares {
		if !line(p.ID, maxName) || p.ID == "" || p.SHA256 != "" && !isDigest(p.SHA256) {
			return "shares are of people, with a SHA-256"
		}
	}
	switch {
	case e.N < 1 || !isDigest(e.Prev) || !instant(e.At):
		return "n, prev and at are a number, a SHA-256 and a full second of UTC"
	case e.SHA256 != "" && !isDigest(e.SHA256):
		return "sha256 is none"
	case len(e.Certificate) > maxCert:
		return "the certificate is too large"
	case len(e.Shares) > maxPeople || len(e.By) > maxPeople || slices.ContainsFunc(e.By, func(s string) bool { return !line(s, maxName) || s == "" }):
		return "there are too many people, or people without a name"
	case !e.Until.IsZero() && !instant(e.Until):
		return "until must be a full second of UTC"
	case e.Head != nil && !isDigest(e.Head.Root):
		return "head has no root"
	}
	if e.Program != nil {
		if err := e.Program.check(); err != nil {
			return err.Error()
		}
	}
	type has struct{ name, hash, cert bool }
	want, known := map[Step]has{StepBegun: {}, StepOfficers: {hash: true}, StepToken: {name: true}, StepSecret: {name: true, hash: true}, StepKey: {name: true, hash: true},
		StepCertificate: {name: true, hash: true, cert: true}, StepCRL: {name: true, hash: true}, StepServer: {hash: true, cert: true}, StepBackup: {name: true, hash: true}, StepEnd: {}}[e.Step]
	if !known {
		return fmt.Sprintf("%.40q is no step", e.Step)
	}
	if (has{e.Name != "", e.SHA256 != "", len(e.Certificate) > 0}) != want || (e.Program != nil) != (e.Step == StepBegun) || (e.Head != nil) != (e.Step == StepBegun) {
		return "it does not say what the step " + string(e.Step) + " says"
	}
	return ""
}

// Text of an entry, on one line or two.
func (e *Entry) Text() []string {
	at := e.At.Format(time.TimeOnly)
	say := func(format string, args ...any) []string {
		return []string{fmt.Sprintf("%3d %s %s", e.N, at, fmt.Sprintf(format, args...))}
	}
	with := func(out []string, what, hash string) []string {
		return append(out, "             "+what+" "+Fours(hash))
	}
	switch e.Step {
	case StepBegun:
		word := "begun"
		if e.Again {
			word = fmt.Sprintf("went on after an interruption, with %d entries in the ledger's log,", e.Head.Size)
		}
		return with(say("%s by program %s", word, e.Program.Version), "program", e.Program.SHA256)
	case StepOfficers:
		return with(say("the officers are registered, before the first key is made"), "registry", e.SHA256)
	case StepToken:
		return say("token %s, label %s, serial %s", e.Name, e.Label, e.Serial)
	case StepSecret:
		return with(say("domain secret, wrapped to a key of token %s", e.Name), "wrapped", e.SHA256)
	case StepKey:
		return with(say("key %s, %s for %s, on token %s", e.Name, e.Algorithm, e.Purpose, e.Token), "public key", e.SHA256)
	case StepCertificate:
		return with(say("certificate of %s, until %s", e.Name, e.Until.Format(time.DateOnly)), "certificate", e.SHA256)
	case StepCRL:
		return with(say("CRL %s number %d, until %s", e.Name, e.Number, e.Until.Format(time.DateOnly)), "CRL", e.SHA256)
	case StepServer:
		return with(say("TLS certificate of the issuance listener, until %s", e.Until.Format(time.DateOnly)), "certificate", e.SHA256)
	case StepBackup:
		var of []string
		for _, p := range e.Shares {
			of = append(of, p.ID)
		}
		return with(say("backup to key %.12s…: %d of %s open it, and %s did", e.Name, e.Need, strings.Join(of, ", "), strings.Join(e.By, ", ")), "backup", e.SHA256)
	}
	return say("nothing more is made")
}

// transcriptFile is the signed payload. Opening, registry and leaves are texts, because their exact bytes are what the log has hashes of.
type transcriptFile struct {
	V        int              `json:"v"`
	Kind     string           `json:"kind"`
	Opening  string           `json:"opening"`  // envelope
	Registry string           `json:"registry"` // of officers
	Entries  []jsontext.Value `json:"entries"`
	Head     Head             `json:"head"`   // of the ledger's log, after the last entry
	Leaves   []string         `json:"leaves"` // all of the log
}

// Transcript is a whole ceremony, read and not yet verified.
type Transcript struct {
	file    transcriptFile
	payload []byte
	entries []Entry
	leaves  []leaf
}

// leaf is as much of a journal entry as a ceremony is about.
type leaf struct {
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Operation string `json:"operation"`
	State     string `json:"state"`
	Digest    []byte `json:"digest"`
}

// Close writes the transcript of a chain that came to its end. leaves are the ledger's log up to the head.
func (c *Chain) Close(head Head, leaves []string) ([]byte, error) {
	f := transcriptFile{V: 1, Kind: kindTranscript, Opening: string(c.opened.envelope), Registry: string(c.opened.file), Head: head, Leaves: leaves}
	for _, r := range c.raw {
		f.Entries = append(f.Entries, r)
	}
	payload, err := canonical(f)
	if err != nil {
		return nil, err
	}
	t, err := parse(payload)
	if err != nil {
		return nil, err
	}
	if r := t.verify(Outside{}); !r.Clean() {
		return nil, fmt.Errorf("the ceremony's transcript does not verify: %s", r.first())
	}
	return payload, nil
}

func parse(payload []byte) (*Transcript, error) {
	t := &Transcript{payload: payload}
	if err := strict.JSON(payload, limits, &t.file); err != nil {
		return nil, refuse("malformed", "the transcript: "+err.Error())
	}
	switch f := &t.file; {
	case f.V != 1 || f.Kind != kindTranscript:
		return nil, refuse("malformed", "this is no transcript of version 1")
	case len(f.Entries) > maxEntries || len(f.Leaves) > maxLeaves:
		return nil, refuse("malformed", fmt.Sprintf("there are more than %d entries or %d leaves", maxEntries, maxLeaves))
	case !isDigest(f.Head.Root):
		return nil, refuse("malformed", "head has no root")
	}
	for _, raw := range t.file.Entries {
		e, err := parseEntry(raw)
		if err != nil {
			return nil, err
		}
		t.entries = append(t.entries, *e)
	}
	for i, body := range t.file.Leaves {
		var l leaf
		if err := strict.Loose([]byte(body), strict.Limits{Bytes: 64 << 10, Depth: 6}, &l); err != nil {
			return nil, refuse("malformed", fmt.Sprintf("leaf %d: %s", i, err))
		}
		t.leaves = append(t.leaves, l)
	}
	if again, err := canonical(t.file); err != nil || !bytes.Equal(again, payload) {
		return nil, refuse("malformed", "the transcript is not written in its one form (RFC 8785)")
	}
	return t, nil
}

// text that officers read before they sign.
func (t *Transcript) text() []string {
	out := []string{"This is what was done in the ceremony, in this order."}
	if e, err := signed.Parse([]byte(t.file.Opening), openingLimits); err == nil {
		if o, err := parseOpening(e.Payload); err == nil {
			out = append(out, "  installation "+o.Installation+", opened at "+o.At.Format(time.RFC3339))
			for _, s := range e.Signatures {
				out = append(out, "  opened by    "+s.Key)
			}
		}
	}
	for i := range t.entries {
		for _, s := range t.entries[i].Text() {
			out = append(out, "  "+s)
		}
	}
	return append(out, fmt.Sprintf("The ledger's log has %d entries, and its root is", t.file.Head.Size), "  "+Fours(t.file.Head.Root),
		"By signing you say that you were there, and that this is what you saw.")
}

// certificates of a transcript, that of the listener among them.
func (t *Transcript) certificates() (out []*x509.Certificate) {
	for _, e := range t.entries {
		if c, err := x509.ParseCertificate(e.Certificate); err == nil && len(e.Certificate) > 0 {
			out = append(out, c)
		}
	}
	return out
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}
