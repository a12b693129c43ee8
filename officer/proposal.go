package officer

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/internal/signed"
	"sealkeeper/internal/strict"
	"sealkeeper/policy"
)

// Kinds of what officers sign. A signature for one is none for the other.
const (
	kindApproval  = "officer-proposal"
	kindRejection = "officer-rejection"
)

// MaxProposal bounds a proposal; it has room for a bundle, whose quotes and line ends, up to every fifth character, are written with an escape each.
const MaxProposal = policy.MaxFile + policy.MaxFile/4 + maxRegistry

// MaxEnvelope bounds a proposal with its signatures.
const MaxEnvelope = MaxProposal + signed.Room

// maxSkew is how much later than the appliance's clock a proposer's may be.
const maxSkew = 2 * time.Minute

const nonceBytes = 16

// limits of a proposal. Its escapes are written with another escape each in a request, which has room for no more.
var limits = strict.Limits{Bytes: MaxProposal, Depth: 6, Escapes: policy.MaxFile/5 + 512}

// Proposal is what an officer wants done. Its bytes are their RFC 8785 form and nothing else, and hold the text that people read: what is
// shown is what is signed.
type Proposal struct {
	Action     Action
	Parameters Parameters
	Epoch      uint64 // of the registry

	Installation string    // whose registry it is
	Made         time.Time // on the proposer's word
	Expires      time.Time
	By           string // the officer whose approval is the first

	nonce   string
	payload []byte
}

type proposalFile struct {
	Action     Action         `json:"action"`
	Parameters jsontext.Value `json:"parameters"`
	Epoch      uint64         `json:"epoch"`

	Installation string    `json:"installation,omitempty"`
	Nonce        string    `json:"nonce"`
	Made         time.Time `json:"made"`
	Expires      time.Time `json:"expires"`
	By           string    `json:"by"`
	Text         []string  `json:"text"`
}

// Propose makes a proposal that lives as long as the registry lets it, or shorter. It still needs its proposer's approval.
func (r *Registry) Propose(by string, a Action, parameters Parameters, life time.Duration, now time.Time, random io.Reader) (*Proposal, error) {
	rule, known := r.Rules[a]
	if !known {
		return nil, refuse("malformed", fmt.Sprintf("%.40q is no action", a))
	}
	if life <= 0 || life > rule.Life {
		life = rule.Life
	}
	nonce := make([]byte, nonceBytes)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, fmt.Errorf("a nonce for the proposal: %w", err)
	}
	now = now.UTC().Truncate(time.Second)
	p := &Proposal{Action: a, Parameters: parameters, Epoch: r.Epoch, Installation: r.Installation, Made: now, Expires: now.Add(life.Truncate(time.Second)), By: by,
		nonce: base64.RawURLEncoding.EncodeToString(nonce)}
	payload, err := p.write()
	if err != nil {
		return nil, refuse("malformed", err.Error())
	}
	if p, err = ParseProposal(payload); err != nil { // what is proposed is what everyone else will read
		return nil, err
	}
	return p, r.judge(p, now)
}

func (p *Proposal) write() ([]byte, error) {
	parameters, err := json.Marshal(p.Parameters, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	out, err := json.Marshal(proposalFile{Action: p.Action, Parameters: parameters, Epoch: p.Epoch, Installation: p.Installation, Nonce: p.nonce, Made: p.Made, Expires: p.Expires, By: p.By, Text: p.Text()}, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	return signed.Canonical(out)
}

// ParseProposal reads a proposal and refuses every form of it but one. It says nothing about whether anybody stands for it.
func ParseProposal(payload []byte) (*Proposal, error) {
	var f proposalFile
	if err := strict.JSON(payload, limits, &f); err != nil {
		return nil, refuse("malformed", err.Error())
	}
	kind, known := actions[f.Action]
	if !known {
		return nil, refuse("malformed", fmt.Sprintf("%.40q is no action", f.Action))
	}
	p := &Proposal{Action: f.Action, Parameters: kind.parameters(), Epoch: f.Epoch, Installation: f.Installation, Made: f.Made, Expires: f.Expires, By: f.By, nonce: f.Nonce}
	if err := strict.JSON(f.Parameters, limits, p.Parameters); err != nil {
		return nil, refuse("malformed", "parameters: "+err.Error())
	}
	nonce, err := base64.RawURLEncoding.Strict().DecodeString(f.Nonce)
	switch {
	case err != nil || len(nonce) != nonceBytes:
		return nil, refuse("malformed", fmt.Sprintf("nonce must be base64url of %d bytes", nonceBytes))
	case !idForm.MatchString(f.By):
		return nil, refuse("malformed", "by is no officer's id")
	case f.Installation != "" && !installationForm.MatchString(f.Installation):
		return nil, refuse("malformed", "installation is no name that an appliance draws")
	case f.Epoch >= 1<<53:
		return nil, refuse("malformed", "epoch is no number of a registry")
	}
	if err := errors.Join(instant("made", f.Made), instant("expires", f.Expires), p.Parameters.check()); err != nil {
		return nil, refuse("malformed", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	// One comparison against what this appliance would have written: order, white space, escapes, numbers and the text are settled by it.
	again, err := p.write()
	if err != nil || !bytes.Equal(again, payload) {
		return nil, refuse("malformed", "the proposal is not written in its one form, or its text is not what its parameters say")
	}
	p.payload = again
	return p, nil
}

// Payload is what is signed.
func (p *Proposal) Payload() []byte { return bytes.Clone(p.payload) }

// ID names a proposal by all of its bytes.
func (p *Proposal) ID() string {
	sum := sha256.Sum256(p.payload)
	return hex.EncodeToString(sum[:])
}

// Text is what an officer reads before signing.
func (p *Proposal) Text() []string {
	return append([]string{string(p.Action)}, p.Parameters.text()...)
}

// Approve signs a proposal, alone or with signatures that it has; what comes out is an envelope.
func Approve(data []byte, officer string, key crypto.Signer, random io.Reader) ([]byte, error) {
	return sign(data, kindApproval, officer, key, random)
}

// Reject signs a rejection of a proposal.
func Reject(data []byte, officer string, key crypto.Signer, random io.Reader) ([]byte, error) {
	return sign(data, kindRejection, officer, key, random)
}

func sign(data []byte, kind, officer string, key crypto.Signer, random io.Reader) ([]byte, error) {
	payload := data
	if signed.Is(data) {
		e, err := signed.Parse(data, limits)
		if err != nil {
			return nil, refuse("malformed", err.Error())
		}
		payload = e.Payload
	}
	if _, err := ParseProposal(payload); err != nil {
		return nil, err
	}
	return signed.Sign(data, limits, kind, officer, key, random)
}

// Case is a proposal with what officers said to it, as the ledger keeps it.
type Case struct {
	Approvals  []byte // envelope; of the proposer at least
	Rejections []byte // envelope around the same bytes; empty: nobody rejected it
	// Since is when the ledger saw as many approvals as the action needs; zero: it did not yet. Delays count from it, because a proposer can
	// write down any instant.
	Since time.Time
}

// Standing is what a case has come to.
type Standing struct {
	Proposal *Proposal
	Approved []string // officers, sorted
	Rejected []string
	Rule     Rule
}

// Enough says whether as many officers approved as must.
func (s *Standing) Enough() bool { return len(s.Approved) >= s.Rule.Need }

// Standing reads a case. Every signature in it must be a good one of an officer; that is what Add made sure of before it was kept.
func (r *Registry) Standing(c Case) (*Standing, error) {
	p, approved, err := r.open(c.Approvals, kindApproval)
	if err != nil {
		return nil, err
	}
	s := &Standing{Proposal: p, Approved: approved, Rule: r.Rules[p.Action]}
	if !slices.Contains(approved, p.By) {
		return nil, refuse("proposer", "the proposal lacks the signature of "+p.By+", who it says made it")
	}
	if len(c.Rejections) > 0 {
		q, rejected, err := r.open(c.Rejections, kindRejection)
		if err != nil {
			return nil, err
		}
		if q.ID() != p.ID() {
			return nil, refuse("edited", "what was rejected is not what was proposed")
		}
		s.Rejected = rejected
	}
	return s, nil
}

// open reads an envelope all of whose signatures are by officers.
func (r *Registry) open(data []byte, kind string) (*Proposal, []string, error) {
	e, err := signed.Parse(data, limits)
	if err != nil {
		return nil, nil, refuse("malformed", err.Error())
	}
	p, err := ParseProposal(e.Payload)
	if err != nil {
		return nil, nil, err
	}
	if p.Installation != r.Installation {
		return nil, nil, refuse("installation", "the proposal was made for another installation")
	}
	if p.Epoch != r.Epoch { // first: who was an officer then may be none now
		return nil, nil, refuse("epoch", fmt.Sprintf("the proposal is of registry %d, and %d is in use: propose it again", p.Epoch, r.Epoch))
	}
	keys := r.keys()
	for _, s := range e.Signatures {
		if !slices.ContainsFunc(keys, func(k signed.Key) bool { return k.ID == s.Key }) {
			return nil, nil, refuse("unknown", fmt.Sprintf("%q is no officer of registry %d", s.Key, r.Epoch))
		}
	}
	ids, err := e.By(kind, keys)
	if err != nil {
		return nil, nil, refuse("signature", err.Error())
	}
	slices.Sort(ids)
	return p, ids, nil
}

// judge is what must hold of a proposal at any time that something is done with it.
func (r *Registry) judge(p *Proposal, now time.Time) error {
	rule := r.Rules[p.Action]
	switch life := p.Expires.Sub(p.Made); {
	case p.Installation != r.Installation:
		return refuse("installation", "the proposal was made for another installation")
	case p.Epoch != r.Epoch:
		return refuse("epoch", fmt.Sprintf("the proposal is of registry %d, and %d is in use: propose it again", p.Epoch, r.Epoch))
	case !slices.ContainsFunc(r.keys(), func(k signed.Key) bool { return k.ID == p.By }):
		return refuse("unknown", fmt.Sprintf("%q is no officer of registry %d", p.By, r.Epoch))
	case life <= 0 || life > rule.Life:
		return refuse("malformed", fmt.Sprintf("the proposal lives for %s, and %s allows at most %s", life, p.Action, rule.Life))
	case p.Made.After(now.Add(maxSkew)):
		return refuse("future", "the proposal was made at "+p.Made.Format(time.RFC3339)+", and it is "+now.UTC().Format(time.RFC3339)+": one clock is wrong")
	case !now.Before(p.Expires):
		return refuse("expired", "the proposal ended at "+p.Expires.Format(time.RFC3339)+": propose it again")
	}
	return nil
}

// Open takes a new proposal with the signature of its proposer, and no other.
func (r *Registry) Open(envelope []byte, now time.Time) (Case, *Standing, error) {
	c := Case{Approvals: envelope}
	s, err := r.Standing(c)
	if err == nil {
		err = r.judge(s.Proposal, now)
	}
	if err != nil {
		return Case{}, nil, err
	}
	if len(s.Approved) != 1 {
		return Case{}, nil, refuse("duplicate", "a new proposal has its proposer's signature alone: the others approve what the appliance shows them")
	}
	return c.seen(s, now), s, nil
}

// Add adds what one officer said: an envelope around the proposal's bytes with one new signature. What Decide would merely not count is
// refused here, aloud: somebody meant it to count.
func (r *Registry) Add(c Case, envelope []byte, reject bool, now time.Time) (Case, *Standing, error) {
	before, err := r.Standing(c)
	if err == nil {
		err = r.judge(before.Proposal, now)
	}
	if err != nil {
		return c, nil, err
	}
	if len(before.Rejected) > 0 {
		return c, before, refuse("rejected", before.Rejected[0]+" rejected the proposal: propose it again")
	}
	kind, to, said := kindApproval, &c.Approvals, before.Approved
	if reject {
		kind, to, said = kindRejection, &c.Rejections, before.Rejected
	}
	e, err := signed.Parse(envelope, limits)
	if err != nil {
		return c, before, refuse("malformed", err.Error())
	}
	if !bytes.Equal(e.Payload, before.Proposal.payload) {
		return c, before, refuse("edited", "the signature is for other bytes than those of proposal "+before.Proposal.ID())
	}
	if len(e.Signatures) != 1 {
		return c, before, refuse("malformed", "one officer says one thing at a time: send one signature")
	}
	_, ids, err := r.open(envelope, kind)
	if err != nil {
		return c, before, err
	}
	if slices.Contains(said, ids[0]) {
		return c, before, refuse("duplicate", ids[0]+" said so before")
	}
	all := e.Signatures
	if len(*to) > 0 {
		old, err := signed.Parse(*to, limits)
		if err != nil {
			return c, before, refuse("malformed", err.Error())
		}
		all = append(old.Signatures, all...)
	}
	slices.SortFunc(all, func(a, b signed.Signature) int { return strings.Compare(a.Key, b.Key) })
	merged, err := json.Marshal(signed.Envelope{Payload: before.Proposal.payload, Signatures: all}, json.Deterministic(true))
	if err != nil {
		return c, before, err
	}
	*to = merged
	s, err := r.Standing(c)
	if err != nil {
		return c, before, err
	}
	return c.seen(s, now), s, nil
}

// seen notes when the approvals became enough.
func (c Case) seen(s *Standing, now time.Time) Case {
	if c.Since.IsZero() && s.Enough() {
		c.Since = now.UTC()
	}
	return c
}

// Quorum is a proposal that as many officers stand for as must, whose delay is over and which nobody rejected. Only Decide makes one.
type Quorum struct {
	proposal *Proposal
	by       []string
}

// Proposal that was approved.
func (q *Quorum) Proposal() *Proposal { return q.proposal }

// Action to carry out.
func (q *Quorum) Action() Action { return q.proposal.Action }

// Parameters of the action.
func (q *Quorum) Parameters() Parameters { return q.proposal.Parameters }

// ID of the proposal. An action is carried out once for each.
func (q *Quorum) ID() string { return q.proposal.ID() }

// By is who approved it.
func (q *Quorum) By() []string { return slices.Clone(q.by) }

// Decide says whether a case may be carried out now.
func (r *Registry) Decide(c Case, now time.Time) (*Quorum, error) {
	s, err := r.Standing(c)
	if err == nil {
		err = r.judge(s.Proposal, now)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case len(s.Rejected) > 0:
		return nil, refuse("rejected", s.Rejected[0]+" rejected the proposal: propose it again")
	case !s.Enough():
		return nil, refuse("short", fmt.Sprintf("%d of %d officers approved", len(s.Approved), s.Rule.Need))
	case s.Rule.Delay > 0 && (c.Since.IsZero() || now.Before(c.Since.Add(s.Rule.Delay))):
		if c.Since.IsZero() {
			return nil, refuse("waiting", "the delay of "+s.Rule.Delay.String()+" has not begun")
		}
		return nil, refuse("waiting", "the delay is over at "+c.Since.Add(s.Rule.Delay).UTC().Format(time.RFC3339))
	}
	return &Quorum{s.Proposal, s.Approved}, nil
}

// Read shows a case of any registry: what was proposed, and who is named as having approved or rejected it. It judges nothing.
func Read(c Case) (p *Proposal, approved, rejected []string) {
	e, err := signed.Parse(c.Approvals, limits)
	if err != nil {
		return nil, nil, nil
	}
	if p, err = ParseProposal(e.Payload); err != nil {
		return nil, nil, nil
	}
	for _, s := range e.Signatures {
		approved = append(approved, s.Key)
	}
	if e, err := signed.Parse(c.Rejections, limits); err == nil {
		for _, s := range e.Signatures {
			rejected = append(rejected, s.Key)
		}
	}
	return p, approved, rejected
}
