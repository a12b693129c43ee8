package ca

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/policy"
)

// phoneStatus is where the ledger keeps the file that was fed last.
const phoneStatus = "phones/status"

// startPhones takes the status that was fed before. One that can't be used is left out: then no Android phone is believed until another is fed.
func (a *Authority) startPhones(ctx context.Context) error {
	file, ok, err := a.o.Ledger.Meta(ctx, phoneStatus)
	if err != nil || !ok {
		return err
	}
	s, err := a.rules().bundle.OpenPhoneStatus(file)
	if err != nil {
		a.o.Log.Warn("the status of phones that was fed before can't be used: feed another one", "error", err)
		return nil
	}
	a.phones.Store(s)
	return nil
}

// FeedPhones takes a status of attestation keys and wallets. It is durable when this returns, and the next request is judged by it.
func (a *Authority) FeedPhones(ctx context.Context, c Caller, r contract.PhoneStatusRequest) (contract.PhoneStatus, error) {
	out, err := a.feedPhones(ctx, c, r)
	result := "taken"
	if err != nil {
		result = "refused"
		a.o.Log.Warn("a status of phones was refused", "client", c.ID, "error", err)
	}
	a.o.Metrics.PhoneFeeds.WithLabelValues(result).Inc()
	return out, problem(err, nil)
}

func (a *Authority) feedPhones(ctx context.Context, c Caller, r contract.PhoneStatusRequest) (none contract.PhoneStatus, _ error) {
	now, err := a.now()
	if err != nil {
		return none, err
	}
	rules := a.rules()
	s, err := rules.bundle.OpenPhoneStatus(r.Status)
	if err != nil {
		return none, err
	}
	life := rules.bundle.StatusMaxAge()
	switch {
	case s.AsOf().After(now.Add(a.o.Trust.Skew)):
		return none, &Problem{Code: "phones.from_future", Detail: "its as_of is later than now: a clock is wrong"}
	case now.Sub(s.AsOf()) > life:
		return none, &Problem{Code: "phones.stale", Detail: fmt.Sprintf("its as_of is %s, more than %s ago: fetch the lists again", s.AsOf().Format(time.RFC3339), life)}
	}
	a.feeding.Lock()
	defer a.feeding.Unlock()
	old := a.phones.Load()
	if old != nil && s.AsOf().Before(old.AsOf()) {
		return none, &Problem{Code: "phones.old", Detail: fmt.Sprintf("one of %s was fed: what was revoked since would come back", old.AsOf().Format(time.RFC3339))}
	}
	if old == nil || !bytes.Equal(old.File, r.Status) {
		if err := a.o.Ledger.PutMeta(ctx, phoneStatus, r.Status); err != nil {
			return none, fmt.Errorf("committing the status of phones: %w", err)
		}
		a.phones.Store(s)
		a.o.Log.Info("status of phones taken", "as_of", s.AsOf(), "signer", s.Kid, "client", c.ID)
	}
	keys, lists := s.Entries()
	return contract.PhoneStatus{AsOf: s.AsOf(), Until: s.AsOf().Add(life), Signer: s.Kid, Revoked: keys, Lists: lists}, nil
}

// phonesProblem says what stands against believing Android phones under the bundle in use; nothing if it believes none.
func (a *Authority) phonesProblem(now time.Time) (what string, left, life time.Duration) {
	rules := a.rules()
	if life = rules.bundle.StatusMaxAge(); life == 0 {
		return "", 0, 0
	}
	s := rules.bundle.StatusFor(a.phones.Load())
	if s == nil {
		return "no status of phones was fed that a key of the policy signed", 0, life
	}
	if left = life - now.Sub(s.AsOf()); left <= 0 {
		return fmt.Sprintf("the status of phones is of %s, and more than %s old", s.AsOf().Format(time.RFC3339), life), 0, life
	}
	return "", left, life
}

// judge holds a request's evidence against its rules, and against what is known of phones now: also of one that is judged as of its
// reservation, because a status that has become too old says nothing any more.
func (q request) judge(at, now time.Time, s *policy.PhoneStatus) (*evidence.Verified, error) {
	b := q.rules.bundle
	items := make([]evidence.Item, len(q.body.Evidence))
	for i, e := range q.body.Evidence {
		items[i] = evidence.Item{Kind: e.Kind, Token: e.Token}
	}
	about := evidence.About{Client: q.caller.ID, DocumentType: q.body.DocumentType, Audience: b.Issuer(q.caller.ID), At: at, Session: q.session,
		Profile: b.Profile(q.body.DocumentType, q.op), Status: b.StatusFor(s), StatusMaxAge: b.StatusMaxAge(), Now: now}
	return q.rules.evidence.Verify(about, evidence.Bundle{Proof: q.body.Proof, Proofs: q.body.Proofs, KeyAttestation: q.body.KeyAttestation, Previous: q.body.PreviousProof,
		Android: q.body.AndroidAttestation, Items: items})
}
