package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/policy"
)

// rules are what requests are judged by: a policy bundle and the verifier that believes its authorities. They change together and at
// once; a request keeps those that it came in under.
type rules struct {
	bundle   *policy.Bundle
	evidence *evidence.Verifier
	clients  sync.Map // id → contract.WhoAmI without Expires, of the clients that were asked for
}

// newRules are those of a bundle, without the authorities that officers switched off.
func (a *Authority) newRules(b *policy.Bundle) *rules {
	t, off := a.o.Trust, a.o.Ledger.SwitchedOff()
	t.Authorities, t.WalletProviders = b.Authorities(), b.WalletProviders(t.WalletProviders)
	for i, au := range t.Authorities {
		if _, is := off[au.ID]; is {
			t.Authorities[i].Off = true
		}
	}
	t.WalletProviders = slices.DeleteFunc(t.WalletProviders, func(root *x509.Certificate) bool {
		key := rootKey(root)
		for _, o := range off {
			if bytes.Equal(o.Key, key) {
				return true
			}
		}
		return false
	})
	t.Android, t.Apple = b.Phones()
	return &rules{bundle: b.With(a.enrolled), evidence: evidence.NewVerifier(t)}
}

func (a *Authority) rules() *rules { return a.ruling.Load() }

// request takes in who asks and about whom: the session's person, or whom the client names.
func (a *Authority) request(c Caller, op policy.Operation, r contract.IssueRequest) (q request, err error) {
	q = request{caller: c, op: op, body: r, rules: a.rules()}
	if r.Session == "" {
		q.subject, err = a.pseudonym(r.Subject)
		return q, err
	}
	if r.Subject != "" {
		return q, &Problem{Code: "subject.ambiguous", Detail: "the session names the person already: leave the subject out"}
	}
	if q.session, err = q.rules.evidence.Open(c.ID, r.DocumentType, r.Session); err != nil {
		return q, problem(err, nil)
	}
	q.subject = q.session.Subject()
	return q, nil
}

// Session takes a subject's number once and gives what evidence is bound to: an opaque session, its nonce, and a pseudonym of the person
// for each authority named.
func (a *Authority) Session(ctx context.Context, c Caller, r contract.SessionRequest) (contract.SessionAnswer, error) {
	none := contract.SessionAnswer{}
	now, err := a.now()
	if err != nil {
		return none, err
	}
	rules := a.rules()
	if err := a.judged(asked{c.ID, "session", r.DocumentType, now}, rules.bundle.DecideNonce(c.ID, r.DocumentType)); err != nil {
		return none, err
	}
	subject, code, err := a.sessionOf(c, r, rules, now)
	if err != nil {
		return none, err
	}
	var random [32]byte
	if _, err := io.ReadFull(a.o.Random, random[:]); err != nil {
		return none, problem(fmt.Errorf("reading randomness: %w", err), nil)
	}
	if r.Nonce == "" {
		r.Nonce, _ = rules.evidence.Nonce(c.ID, r.DocumentType, now, [16]byte(random[:16]))
	}
	thumbprint, ok := evidence.Thumbprint(r.KeyThumbprint)
	if !ok {
		return none, &Problem{Code: "session.key", Detail: "key_thumbprint is not an RFC 7638 SHA-256 thumbprint in base64url"}
	}
	text, until, err := rules.evidence.Seal(evidence.NewSession{Client: c.ID, DocumentType: r.DocumentType, Subject: subject, Thumbprint: thumbprint,
		Nonce: r.Nonce, Code: code}, now, [16]byte(random[16:]))
	if err != nil {
		return none, problem(err, nil)
	}
	s, err := rules.evidence.Open(c.ID, r.DocumentType, text)
	if err != nil {
		return none, problem(fmt.Errorf("opening the session that was just made: %w", err), nil)
	}
	out := contract.SessionAnswer{Session: text, ID: s.ID(), Nonce: r.Nonce, ExpiresAt: until}
	out.Pseudonyms, err = rules.pairwise(r.Authorities, subject)
	return out, err
}

// sessionOf is the person of a session: whom the client names, or whom the code was made for.
func (a *Authority) sessionOf(c Caller, r contract.SessionRequest, rules *rules, now time.Time) (subject policy.Pseudonym, code evidence.OfficeCode, err error) {
	if r.Code == "" {
		subject, err = a.pseudonym(r.Subject)
		return subject, code, err
	}
	if r.Subject != "" {
		return subject, code, &Problem{Code: "subject.ambiguous", Detail: "the code names the person already: leave the subject out"}
	}
	if code, err = rules.evidence.OpenCode(c.ID, r.DocumentType, r.Code, now); err != nil {
		return subject, code, problem(err, nil)
	}
	return code.Subject(), code, nil
}

// pairwise are the names by which authorities know a person.
func (r *rules) pairwise(authorities []string, subject policy.Pseudonym) (map[string]string, error) {
	names := map[string]string{}
	for _, id := range authorities {
		if !r.evidence.Knows(id) {
			return nil, &Problem{Code: "session.authority", Detail: "the policy lists no evidence authority of one of the names"}
		}
		names[id] = r.evidence.Pairwise(id, subject)
	}
	return names, nil
}

// Code makes a code for a person at the counter, for a phone that is not known yet.
func (a *Authority) Code(ctx context.Context, c Caller, r contract.CodeRequest) (contract.CodeAnswer, error) {
	none := contract.CodeAnswer{}
	now, err := a.now()
	if err != nil {
		return none, err
	}
	rules := a.rules()
	if err := a.decided("code", rules.bundle.DecideNonce(c.ID, r.DocumentType)); err != nil {
		return none, err
	}
	subject, err := a.pseudonym(r.Subject)
	if err != nil {
		return none, err
	}
	var random [16]byte
	if _, err := io.ReadFull(a.o.Random, random[:]); err != nil {
		return none, problem(fmt.Errorf("reading randomness: %w", err), nil)
	}
	names, err := rules.pairwise(r.Authorities, subject)
	if err != nil {
		return none, err
	}
	text, code, until := rules.evidence.SealCode(c.ID, r.DocumentType, subject, now, random)
	return contract.CodeAnswer{Code: text, ID: code.ID(), ExpiresAt: until, Pseudonyms: names}, nil
}
