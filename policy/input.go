package policy

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sealkeeper/evidence"
)

// Input is what a decision is made of, without a person in it: as a bundle's tests write it. Evidence stands there as if it had been verified.
type Input struct {
	At           time.Time      `json:"at,omitzero"`
	Client       string         `json:"client,omitzero"`
	Enrolled     *Enrolment     `json:"enrolled,omitempty"` // of a client that officers enrolled and the bundle does not name
	Operation    Operation      `json:"operation,omitzero"` // issue, refresh, lock, unlock or revoke
	DocumentType string         `json:"type,omitzero"`
	Method       string         `json:"method,omitempty"`
	Formats      []Format       `json:"formats,omitempty"`
	Replace      bool           `json:"replace,omitempty"`
	Claims       jsontext.Value `json:"claims,omitempty"` // made-up ones: a bundle is no place for a person's
	Latched      []string       `json:"latched,omitempty"`
	Reason       string         `json:"reason,omitempty"` // lock, unlock, revoke
	Device       string         `json:"device,omitempty"` // lock, unlock, revoke: the phone that they name, this or another
	Evidence     EvidenceInput  `json:"evidence,omitzero"`
	Slot         SlotInput      `json:"slot,omitzero"`
}

// EvidenceInput is what was verified.
type EvidenceInput struct {
	Keys               int              `json:"keys,omitempty"`        // attested ones; default 1
	SameDevice         bool             `json:"same_device,omitempty"` // they are those of the phone that has the card
	FormerKey          bool             `json:"former_key,omitempty"`  // a key of that phone proved itself beside new ones
	Kinds              []string         `json:"kinds,omitempty"`       // beside statements; default key_attestation and proof_of_possession
	KeyStorage         []string         `json:"key_storage,omitempty"`
	UserAuthentication []string         `json:"user_authentication,omitempty"`
	AttestationIssuer  string           `json:"attestation_issuer,omitempty"`
	App                string           `json:"app,omitempty"`
	Reused             bool             `json:"reused,omitempty"` // the attestation is one of before
	Statuses           []StatusInput    `json:"statuses,omitempty"`
	Statements         []StatementInput `json:"statements,omitempty"`
}

// StatusInput is a status that the wallet provider points to, found valid.
type StatusInput struct {
	Name    string    `json:"name"` // attestation, key_storage, wallet
	Ends    time.Time `json:"ends,omitzero"`
	Unknown bool      `json:"unknown,omitempty"` // its list was not fed
}

// StatementInput is one statement; the member of its kind is set, and no other.
type StatementInput struct {
	Authority     string                  `json:"authority"`
	Key           string                  `json:"kid,omitempty"`      // of the authority; a bundle's tests need none
	IssuedAt      time.Time               `json:"issued_at,omitzero"` // default: the instant of the decision
	InPerson      *evidence.InPerson      `json:"in_person,omitempty"`
	RegistryMatch *RegistryInput          `json:"registry_match,omitempty"`
	FaceMatch     *evidence.FaceMatch     `json:"face_match,omitempty"`
	ChipRead      *evidence.ChipRead      `json:"chip_read,omitempty"`
	LineOwnership *evidence.LineOwnership `json:"line_ownership,omitempty"`
}

// RegistryInput is a registry_match with the digests left out: the register vouches for all claims but these.
type RegistryInput struct {
	District   string   `json:"district,omitempty"`
	CardStatus string   `json:"card_status,omitempty"`
	CardExpiry string   `json:"card_expiry,omitempty"`
	Except     []string `json:"except,omitempty"`
	Epoch      uint64   `json:"epoch,omitzero"`
}

// SlotInput is the person's state.
type SlotInput struct {
	Bound      bool        `json:"bound,omitempty"`
	Locks      []LockInput `json:"locks,omitempty"`
	Live       int         `json:"live,omitempty"`
	MSOs       int         `json:"msos,omitempty"`
	Newest     time.Time   `json:"newest,omitzero"`
	Closed     string      `json:"closed,omitempty"`    // why the person has no card any more
	Renew      []string    `json:"renew,omitempty"`     // why the card has to be made anew
	Attributes uint64      `json:"attributes,omitzero"` // the register's count of changes
	Outdated   int         `json:"outdated,omitzero"`   // of Live
	Scheduled  []LockInput `json:"scheduled,omitempty"` // of Locks, those that an order alone holds, or that wait for a decision on a flood
}

// LockInput is one lock.
type LockInput struct {
	Reason string `json:"reason"`
	Class  string `json:"class"`
	By     string `json:"by,omitempty"` // the carrier
}

// Decide gives the decision on an input.
func (b *Bundle) Decide(in Input) (Decision, error) {
	_, d, err := b.decide(in, nil)
	return d, err
}

// decide takes an input with its claims, or with what is known of them.
func (b *Bundle) decide(in Input, claims *recorded) (*Approval, Decision, error) {
	if e := in.Enrolled; e != nil {
		b = b.With(func(id string) (Enrolment, bool) { return *e, id == e.ID && id == in.Client })
	}
	asker, _ := b.client(in.Client)
	subject := Pseudonym{1}
	device := evidence.Key{Thumbprint: [32]byte{1}}
	s := Slot{Epoch: 1, Bound: in.Slot.Bound, Live: in.Slot.Live, MSOs: in.Slot.MSOs, Newest: in.Slot.Newest, Since: in.Slot.Newest,
		Closed: in.Slot.Closed, Renew: in.Slot.Renew, Attributes: in.Slot.Attributes, Outdated: in.Slot.Outdated}
	if s.Bound {
		s.Device, s.Keys = "device", [][32]byte{device.Thumbprint}
	}
	for _, l := range in.Slot.Locks {
		s.Locks = append(s.Locks, Lock(l))
	}
	for _, l := range in.Slot.Scheduled {
		s.Scheduled = append(s.Scheduled, Lock(l))
	}
	switch in.Operation {
	case OpLock, OpUnlock, OpRevoke:
		q := ChangeRequest{Client: in.Client, Operation: in.Operation, DocumentType: in.DocumentType, Subject: subject, Reason: in.Reason}
		switch in.Device {
		case "":
		case "this":
			q.Device = s.Device
		case "another":
			q.Device = "another"
		default:
			return nil, Decision{}, fmt.Errorf("device %q is neither this nor another", in.Device)
		}
		a, d := b.DecideChange(q, s, in.At)
		return a, d, nil
	case OpIssue, OpRefresh:
	default:
		return nil, Decision{}, fmt.Errorf("operation %q is none of issue, refresh, lock, unlock and revoke", in.Operation)
	}
	e := in.Evidence
	if e.Keys < 0 || e.Keys > 64 {
		return nil, Decision{}, errors.New("keys is not between 1 and 64")
	}
	f := facts{valid: true, about: evidence.Bound{Client: in.Client, DocumentType: in.DocumentType, Audience: asker.Issuer, At: in.At}}
	f.Kinds, f.KeyStorage, f.UserAuthentication, f.AttestationIssuer, f.Identity = e.Kinds, e.KeyStorage, e.UserAuthentication, e.AttestationIssuer, evidence.IdentityAsserted
	f.App, f.Reused = e.App, e.Reused
	if e.FormerKey {
		f.Previous = device.Thumbprint
	}
	for _, s := range e.Statuses {
		f.Statuses = append(f.Statuses, evidence.Status{Name: s.Name, Ends: s.Ends, Known: !s.Unknown})
	}
	if f.Kinds == nil {
		f.Kinds = []string{"key_attestation", "proof_of_possession"}
	}
	f.Kinds = slices.Clone(f.Kinds)
	for i := range max(1, e.Keys) {
		k := evidence.Key{Thumbprint: [32]byte{2, byte(i)}}
		if e.SameDevice && i == 0 {
			k = device
		} else if e.SameDevice {
			s.Keys = append(s.Keys, k.Thumbprint)
		}
		f.keys = append(f.keys, k)
	}
	for i, s := range e.Statements {
		statement, err := s.statement(in)
		if err != nil {
			return nil, Decision{}, fmt.Errorf("statement %d: %w", i, err)
		}
		if f.statement(statement.Kind) != nil {
			return nil, Decision{}, fmt.Errorf("statement %d: there are two of kind %s", i, statement.Kind)
		}
		if statement.RegistryMatch != nil {
			f.Identity = "registry:" + s.Authority
		}
		f.Statements, f.Kinds, f.about.Subject = append(f.Statements, statement), append(f.Kinds, statement.Kind), subject
	}
	slices.Sort(f.Kinds)
	f.claims = claims
	a, d := b.decideIssue(f, IssueRequest{Client: in.Client, Operation: in.Operation, DocumentType: in.DocumentType, Subject: subject, Claims: claimsIn(in.Claims),
		Formats: in.Formats, Replace: in.Replace, Method: in.Method, Latched: in.Latched}, s, in.At)
	return a, d, nil
}

// statement is what evidence would have made of it.
func (s StatementInput) statement(in Input) (evidence.Statement, error) {
	out := evidence.Statement{Authority: s.Authority, IssuedAt: s.IssuedAt, InPerson: s.InPerson, FaceMatch: s.FaceMatch, ChipRead: s.ChipRead, LineOwnership: s.LineOwnership}
	if out.IssuedAt.IsZero() {
		out.IssuedAt = in.At
	}
	kind, err := s.kind()
	if err != nil {
		return out, err
	}
	out.Kind = kind
	if r := s.RegistryMatch; r != nil {
		m := &evidence.RegistryMatch{District: r.District, CardStatus: r.CardStatus, CardExpiry: r.CardExpiry, Epoch: r.Epoch,
			Salt: base64.RawURLEncoding.EncodeToString(make([]byte, 16)), Attributes: map[string]string{}}
		var claims map[string]jsontext.Value
		if len(in.Claims) > 0 {
			if err := json.Unmarshal(in.Claims, &claims); err != nil {
				return out, fmt.Errorf("the claims are no JSON object: %w", err)
			}
		}
		for name, value := range claims {
			if slices.Contains(r.Except, name) {
				continue
			}
			digest, err := evidence.AttributeDigest(m.Salt, name, value)
			if err != nil {
				return out, err
			}
			m.Attributes[name] = digest
		}
		out.RegistryMatch = m
	}
	return out, nil
}

// TestSpec is a decision with what must come of it.
type TestSpec struct {
	Name   string     `json:"name"`
	Input  Input      `json:"input"`
	Expect ExpectSpec `json:"expect"`
}

// ExpectSpec is a result; denials have their code.
type ExpectSpec struct {
	Result string `json:"result"` // allowed or denied
	Code   string `json:"code,omitempty"`
}

func (c *checker) tests(at jsontext.Pointer, b *Bundle, specs []*TestSpec) {
	if len(specs) > maxTests {
		c.wrong(at, "there are %d tests, at most %d are allowed", len(specs), maxTests)
		return
	}
	seen := make(map[string]bool, len(specs))
	for i, s := range specs {
		at := pointer(at, i)
		if s == nil {
			s = new(TestSpec)
		}
		e := s.Expect
		switch {
		case s.Name == "" || len(s.Name) > 200 || seen[s.Name]:
			c.wrong(at.AppendToken("name"), "a test needs a name of at most 200 bytes that no other has")
		case s.Input.At.IsZero():
			c.wrong(at.AppendToken("input"), "test %q has no instant: set at", s.Name)
		case e.Result != Allowed.String() && e.Result != Denied.String():
			c.wrong(at.AppendToken("expect"), "test %q expects %q: use allowed or denied", s.Name, e.Result)
		case (e.Result == Denied.String()) != (e.Code != ""):
			c.wrong(at.AppendToken("expect"), "test %q: what is denied has a code, and nothing else has: a denial for another reason is no proof", s.Name)
		}
		seen[s.Name] = true
	}
	b.tests = specs
}

// TestResult is what came of one of a bundle's tests.
type TestResult struct {
	Name string `json:"name"`
	Line int    `json:"line"`
	OK   bool   `json:"ok"`
	Want string `json:"want"`
	Got  string `json:"got"`
	Why  string `json:"why,omitempty"` // the decision's sentence, of a test that failed
}

// Tests runs the bundle's own tests.
func (b *Bundle) Tests() []TestResult {
	out := make([]TestResult, len(b.tests))
	for i, t := range b.tests {
		say := func(result, code string) string {
			if code != "" {
				return result + " " + code
			}
			return result
		}
		r := TestResult{Name: t.Name, Line: b.lines[i], Want: say(t.Expect.Result, t.Expect.Code)}
		if d, err := b.Decide(t.Input); err != nil {
			r.Got, r.Why = "failed", err.Error()
		} else {
			r.Got, r.Why = say(d.Result.String(), d.Code), d.Detail
		}
		if r.OK = r.Got == r.Want; r.OK {
			r.Why = ""
		}
		out[i] = r
	}
	return out
}

// Test refuses a bundle of which a test fails.
func (b *Bundle) Test(file string) error {
	failed, first := 0, ""
	for _, r := range b.Tests() {
		if r.OK {
			continue
		}
		if failed++; failed == 1 {
			first = fmt.Sprintf("%s:%d: %q wants %s and got %s (%s)", file, r.Line, r.Name, r.Want, r.Got, r.Why)
		}
	}
	if failed == 0 {
		return nil
	}
	return refuseBundle("test_failed", "%d of the bundle's %d tests fail, the first: %s", failed, len(b.tests), first)
}
