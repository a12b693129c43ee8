// Package ceremony is the record of how an installation was made: what the officers agreed to before, what was done, and what the log says of
// it. It writes, reads and judges; it does nothing of what it tells of.
package ceremony

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/signed"
	"sealkeeper/internal/strict"
	"sealkeeper/officer"
)

// Kinds of what officers sign in a ceremony. A signature for one is none for the other.
const (
	kindOpening    = "ceremony-opening"
	kindTranscript = "ceremony-transcript"
)

const (
	nonceBytes = 16
	maxLines   = 64 // of a script
	maxLine    = 400
	maxName    = 64
)

var openingLimits = strict.Limits{Bytes: 64 << 10, Depth: 3}

// Program is the binary that does what a ceremony tells of.
type Program struct {
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // hex, of the whole file
}

// Opening is what officers sign before anything is made: that they have the keys of the registry, here and now, for this installation, and
// what will be done.
type Opening struct {
	V            int       `json:"v"`
	Kind         string    `json:"kind"`
	Installation string    `json:"installation"`
	Country      string    `json:"country"`
	Organization string    `json:"organization,omitempty"`
	Registry     string    `json:"registry"` // hex SHA-256 of the registry of officers, in the form that the ledger keeps
	Policy       string    `json:"policy"`   // hex SHA-256 of the first policy bundle
	Program      Program   `json:"program"`
	At           time.Time `json:"at"`
	Nonce        string    `json:"nonce"` // so that what was signed once opens nothing else
	Script       []string  `json:"script"`
}

// NewOpening is the statement of a ceremony that begins now, in the one form in which it is signed.
func NewOpening(o Opening, now time.Time, random io.Reader) ([]byte, error) {
	nonce := make([]byte, nonceBytes)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, fmt.Errorf("a nonce for the ceremony: %w", err)
	}
	o.V, o.Kind, o.At, o.Nonce = 1, kindOpening, now.UTC().Truncate(time.Second), base64.RawURLEncoding.EncodeToString(nonce)
	payload, err := canonical(o)
	if err != nil {
		return nil, err
	}
	_, err = parseOpening(payload)
	return payload, err
}

func canonical(v any) ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	return signed.Canonical(b)
}

// digest is a SHA-256 as it stands in statements and entries.
func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func isDigest(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// line is text that stays on one line of a terminal and shows as what it is.
func line(s string, most int) bool {
	return utf8.ValidString(s) && len(s) <= most && !strings.ContainsFunc(s, func(c rune) bool {
		return c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 || c >= 0x200b && c <= 0x200f || c >= 0x2028 && c <= 0x202e || c >= 0x2060 && c <= 0x206f || c == 0xfeff
	})
}

func (p Program) check() error {
	if !line(p.Version, maxName) || p.Version == "" || !isDigest(p.SHA256) {
		return refuse("malformed", "program has no version or no SHA-256")
	}
	return nil
}

// instant is a full second of UTC.
func instant(t time.Time) bool {
	return !t.IsZero() && t.Location() == time.UTC && t.Nanosecond() == 0
}

func parseOpening(payload []byte) (*Opening, error) {
	var o Opening
	if err := strict.JSON(payload, openingLimits, &o); err != nil {
		return nil, refuse("malformed", "the opening statement: "+err.Error())
	}
	nonce, err := base64.RawURLEncoding.Strict().DecodeString(o.Nonce)
	switch {
	case o.V != 1 || o.Kind != kindOpening:
		return nil, refuse("malformed", "this is no opening statement of version 1")
	case o.Installation == "" || !line(o.Installation, maxName) || !line(o.Country, maxName) || !line(o.Organization, maxName):
		return nil, refuse("malformed", "the opening statement names no installation")
	case !isDigest(o.Registry) || !isDigest(o.Policy):
		return nil, refuse("malformed", "registry and policy must be SHA-256 in hexadecimal")
	case err != nil || len(nonce) != nonceBytes:
		return nil, refuse("malformed", fmt.Sprintf("nonce must be base64url of %d bytes", nonceBytes))
	case !instant(o.At):
		return nil, refuse("malformed", "at must be a full second of UTC")
	case len(o.Script) == 0 || len(o.Script) > maxLines || slices.ContainsFunc(o.Script, func(s string) bool { return !line(s, maxLine) }):
		return nil, refuse("malformed", fmt.Sprintf("the script must have 1 to %d lines of plain text", maxLines))
	}
	if err := o.Program.check(); err != nil {
		return nil, err
	}
	if again, err := canonical(o); err != nil || !bytes.Equal(again, payload) {
		return nil, refuse("malformed", "the opening statement is not written in its one form (RFC 8785)")
	}
	return &o, nil
}

// Text is what an officer reads before signing. The registry shows who the officers are.
func (o *Opening) Text() []string {
	out := []string{
		"This opens the ceremony in which a new installation is made.",
		"  installation " + strings.Join(slices.DeleteFunc([]string{o.Installation, o.Country, o.Organization}, func(s string) bool { return s == "" }), ", "),
		"  opened at    " + o.At.Format(time.RFC3339),
		"  officers     " + Fours(o.Registry),
		"  policy       " + Fours(o.Policy),
		"  program      " + o.Program.Version + ", " + Fours(o.Program.SHA256),
		"What will be done:",
	}
	for _, s := range o.Script {
		out = append(out, "  "+s)
	}
	return append(out, "By signing you show that you have the key under your name, and agree to this script.")
}

// Fours is a hexadecimal text as people compare it.
func Fours(s string) string {
	var b strings.Builder
	for i, c := range s {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// Opened is a ceremony whose opening every officer signed, each with the key under their name in the registry. Only Open makes one, and
// nothing is made before.
type Opened struct {
	opening  *Opening
	payload  []byte
	envelope []byte
	registry *officer.Registry
	file     []byte
	signers  []string
}

// Opening is what was signed.
func (o *Opened) Opening() Opening { return *o.opening }

// Envelope with the signatures.
func (o *Opened) Envelope() []byte { return bytes.Clone(o.envelope) }

// Registry of officers, as the ledger keeps it.
func (o *Opened) Registry() []byte { return bytes.Clone(o.file) }

// Signers by id, sorted.
func (o *Opened) Signers() []string { return slices.Clone(o.signers) }

// Open takes an opening with its signatures, and the registry that it names.
func Open(envelope, registry []byte) (*Opened, error) {
	e := &signed.Envelope{Payload: bytes.TrimSpace(envelope)} // nobody signed it yet
	if signed.Is(envelope) {
		var err error
		if e, err = signed.Parse(envelope, openingLimits); err != nil {
			return nil, refuse("malformed", "the opening statement: "+err.Error())
		}
	}
	o, err := parseOpening(e.Payload)
	if err != nil {
		return nil, err
	}
	if digest(registry) != o.Registry {
		return nil, refuse("registry", "the opening statement is for another registry of officers")
	}
	r, err := officer.ParseRegistry(registry)
	if err != nil {
		return nil, refuse("registry", err.Error())
	}
	ids, err := by(e, kindOpening, r)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, p := range r.Officers {
		if p.Role == officer.RoleOfficer && !slices.Contains(ids, p.ID) {
			missing = append(missing, p.ID)
		}
	}
	if len(missing) > 0 {
		return nil, refuse("missing", fmt.Sprintf("every officer signs the opening statement: %s did, %s not yet", some(ids), strings.Join(missing, ", ")))
	}
	return &Opened{o, e.Payload, envelope, r, registry, ids}, nil
}

func some(ids []string) string {
	if len(ids) == 0 {
		return "nobody"
	}
	return strings.Join(ids, ", ")
}

// by says who of a registry signed, sorted. Every signature must be a good one of somebody in it.
func by(e *signed.Envelope, kind string, r *officer.Registry) ([]string, error) {
	var keys []signed.Key
	for _, o := range r.Officers {
		keys = append(keys, signed.Key{ID: o.ID, Public: o.Key})
	}
	for _, s := range e.Signatures {
		if !slices.ContainsFunc(keys, func(k signed.Key) bool { return k.ID == s.Key }) {
			return nil, refuse("unknown", fmt.Sprintf("%q is nobody of the registry of officers", s.Key))
		}
	}
	ids, err := e.By(kind, keys)
	if err != nil {
		return nil, refuse("signature", err.Error())
	}
	slices.Sort(ids)
	return ids, nil
}

// Paper is what lies before an officer to be read and signed: an opening statement or a transcript, with or without signatures.
type Paper struct {
	kind    string
	data    []byte
	payload []byte
	text    []string
	people  *officer.Registry // of a transcript, which has it

	Signers []string // who is named by signatures that it has; nothing is said about whether these are good
	Opening *Opening // if it is one
	Report  *Report  // of a transcript: what came of verifying it
}

// Read takes a paper apart. registry is needed for an opening, whose text does not have it: nil if the officer brought none.
func Read(data []byte) (*Paper, error) {
	p := &Paper{data: data, payload: bytes.TrimSpace(data)}
	var head struct {
		Kind       string         `json:"kind"`
		Payload    jsontext.Value `json:"payload"`
		Signatures jsontext.Value `json:"signatures"`
	}
	// Bounded before anything reads it to see what it is.
	if err := strict.Loose(data, strict.Limits{Bytes: limits.Bytes + signed.Room, Depth: limits.Depth + signed.Depth}, &head); err != nil {
		return nil, refuse("malformed", err.Error())
	}
	if head.Payload != nil || head.Signatures != nil {
		e, err := signed.Parse(data, limits)
		if err != nil {
			return nil, refuse("malformed", err.Error())
		}
		p.payload = e.Payload
		for _, s := range e.Signatures {
			p.Signers = append(p.Signers, s.Key)
		}
		if err := strict.Loose(p.payload, limits, &head); err != nil {
			return nil, refuse("malformed", err.Error())
		}
	}
	switch p.kind = head.Kind; p.kind {
	case kindOpening:
		o, err := parseOpening(p.payload)
		if err != nil {
			return nil, err
		}
		p.Opening, p.text = o, o.Text()
	case kindTranscript:
		t, err := parse(p.payload)
		if err != nil {
			return nil, err
		}
		p.Report, p.text = t.verify(Outside{}), t.text()
		if r, err := officer.ParseRegistry([]byte(t.file.Registry)); err == nil {
			p.people = r
		}
	default:
		return nil, refuse("malformed", "this is neither an opening statement nor a transcript")
	}
	return p, nil
}

// Text that people read.
func (p *Paper) Text() []string { return slices.Clone(p.text) }

// SHA256 of what is signed.
func (p *Paper) SHA256() string { return digest(p.payload) }

// Sign adds an officer's signature. A transcript that does not verify is signed by nobody.
func (p *Paper) Sign(id string, key crypto.Signer, random io.Reader) ([]byte, error) {
	if p.Report != nil && !p.Report.Clean() {
		return nil, refuse("evidence", "the transcript does not verify: sealctl ceremony verify says what is wrong")
	}
	out, err := signed.Sign(p.data, limits, p.kind, id, key, random)
	if err != nil || p.people == nil {
		return out, err
	}
	e, err := signed.Parse(out, limits) // now, and not when all went home
	if err == nil {
		_, err = by(e, p.kind, p.people)
	}
	return out, err
}

// Gather puts the signatures of several copies of one paper together. The first copy may have none.
func Gather(first []byte, more ...[]byte) ([]byte, error) {
	p, err := Read(first)
	if err != nil {
		return nil, err
	}
	all := signed.Envelope{Payload: p.payload}
	for _, data := range append([][]byte{first}, more...) {
		if !signed.Is(data) {
			continue
		}
		e, err := signed.Parse(data, limits)
		if err != nil {
			return nil, refuse("malformed", err.Error())
		}
		if !bytes.Equal(e.Payload, p.payload) {
			return nil, refuse("other", "a copy with signatures is of another statement")
		}
		for _, s := range e.Signatures {
			if !slices.ContainsFunc(all.Signatures, func(o signed.Signature) bool { return o.Key == s.Key }) {
				all.Signatures = append(all.Signatures, s)
			}
		}
	}
	if len(all.Signatures) == 0 {
		return p.payload, nil
	}
	slices.SortFunc(all.Signatures, func(a, b signed.Signature) int { return strings.Compare(a.Key, b.Key) })
	return json.Marshal(all, json.Deterministic(true))
}
