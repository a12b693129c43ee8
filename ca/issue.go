package ca

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"sealkeeper/ca/certified"
	"sealkeeper/ca/mdoc"
	"sealkeeper/ca/sdjwt"
	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/release"
)

// maxDecisions is how often a request is decided again because its subject changed between decision and commit.
const maxDecisions = 5

// Issue issues or refreshes. The released bytes are the JSON of contract.IssueAnswer. Each step takes what the step before made:
//
//	Recall   is this a retry? Before its evidence is looked at: a retry must not meet its own burnt nonce
//	Verify   is the evidence true?
//	Decide   is it allowed? With conditions
//	Lease    status indices
//	Draft    the exact bytes
//	Reserve  conditions compared, bytes' hashes durable: from here on a retry resumes instead of starting again
//	Sign     in the HSM
//	Check    verified with the pinned keys
//	Join     whole credentials
//	Pass     settled: first one wins; now bytes may leave
func (a *Authority) Issue(ctx context.Context, c Caller, call Call, op policy.Operation, r contract.IssueRequest) (*release.Released, error) {
	leave, err := a.turns.enter(ctx, c.ID)
	if err != nil {
		return nil, problem(fmt.Errorf("waiting for a turn: %w", err), nil)
	}
	defer leave()
	now, err := a.now()
	if err != nil {
		return nil, err
	}
	if err := a.o.Ledger.Halted(); err != nil { // again when it is reserved: what is under way stops too
		return nil, problem(err, nil)
	}
	q, err := a.request(c, op, r)
	if err != nil {
		return nil, err
	}
	q.key, q.hash = ledger.IdempotencyKey(call.Key), call.Hash
	var j *job
	var out *release.Released
	for try := 0; ; try++ {
		if j, out, err = a.signed(ctx, q, now); !stopped(err) || try == maxDecisions {
			break // a key that was stopped meanwhile: what was reserved for it is replaced
		}
	}
	if err != nil {
		return nil, problem(err, nil)
	}
	if j.answer != nil {
		leave() // from here on it waits for lists, which costs nobody anything
		// The daemon may have died between settling and publishing: the answer still leaves after the lists.
		lists, err := a.listsOf(ctx, q, "")
		if err == nil {
			err = a.awaitNow(ctx, lists)
		}
		if err != nil {
			return nil, problem(fmt.Errorf("waiting for the holder's lists: %w", err), nil)
		}
		return j.answer, nil
	}
	crashpoint.Here("ca.issue.settled")
	leave() // from here on it waits for lists, which costs nobody anything

	// A credential never points to a list that nobody can fetch yet.
	if err := a.awaitShown(ctx, j.lists(), 0); err != nil {
		return nil, problem(fmt.Errorf("waiting for the first version of a list: %w", err), nil)
	}
	// The cards of other phones are revoked in the ledger, since Reserve at the latest. This one leaves only after lists that say so of all of
	// them: also of a phone that was replaced or revoked shortly before, by a request that did not live to see its list.
	if issue, _ := j.approval.Issue(); issue.WaitRevoked && op == policy.OpIssue {
		lists, err := a.listsOf(ctx, q, j.reservation.Device())
		if err == nil {
			err = a.awaitShown(ctx, lists, j.reservation.Seq())
		}
		if err != nil {
			return nil, problem(fmt.Errorf("waiting for the revocation's list: %w", err), nil)
		}
		crashpoint.Here("ca.issue.revoked-shown")
	}
	return out, nil
}

// signed leads a request from its reservation to the answer that may leave, or to the one that was stored before.
func (a *Authority) signed(ctx context.Context, q request, now time.Time) (*job, *release.Released, error) {
	j, err := a.reserve(ctx, q, now)
	if err != nil || j.answer != nil {
		return j, nil, err
	}
	defer j.settled()
	crashpoint.Here("ca.issue.reserved")
	checked, err := a.sign(ctx, j.reservation, j.bytes())
	if err != nil {
		return nil, nil, err
	}
	crashpoint.Here("ca.issue.signed")
	answer, err := j.join(checked)
	if err != nil {
		return nil, nil, err
	}
	crashpoint.Here("ca.issue.joined")
	out, err := a.o.Gate.Pass(ctx, checked, answer)
	return j, out, err
}

// listsOf are the lists to which unexpired credentials of the holder point, those of one device left out.
func (a *Authority) listsOf(ctx context.Context, q request, but string) (ids []string, err error) {
	s, err := a.o.Ledger.Subject(ctx, q.body.DocumentType, q.subject)
	if err != nil {
		return nil, fmt.Errorf("reading the subject: %w", err)
	}
	for _, c := range s.Credentials() {
		if id := path.Base(c.URI); c.Device != but && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// request is an issue request after the edge; it never leaves memory.
type request struct {
	caller  Caller
	op      policy.Operation
	body    contract.IssueRequest
	subject policy.Pseudonym
	session evidence.Session // valid if the request names one
	rules   *rules           // what the request is judged by, from its first check to its signature
	key     ledger.IdempotencyKey
	hash    [32]byte
}

// job is a request on its way from its reservation to its answer.
type job struct {
	answer      *release.Released // a stored answer: nothing else is to be done
	approval    *policy.Approval
	reservation *ledger.Reservation
	drafts      []draft
	settled     func() // it commits nothing any more
}

// draft is one credential to be signed.
type draft struct {
	format policy.Format
	key    evidence.Key
	list   string
	ticket contract.StatusRef
	ledger ledger.Draft
	tbs    interface {
		Bytes() []byte
		NotAfter() time.Time
	}
	size int // about how long the text will be
	join func(b []byte, c *release.Checked, i int) ([]byte, error)
}

func (j *job) lists() []string {
	out := make([]string, len(j.drafts))
	for i, d := range j.drafts {
		out[i] = d.list
	}
	return out
}

func (j *job) bytes() [][]byte {
	out := make([][]byte, len(j.drafts))
	for i, d := range j.drafts {
		out[i] = d.tbs.Bytes()
	}
	return out
}

// reserve leads a request up to its reservation. Deciding again after a conflict starts at Recall, because what came in between may have
// been this very request on another connection.
func (a *Authority) reserve(ctx context.Context, q request, now time.Time) (*job, error) {
	leave, err := a.subjects.enter(ctx, q.body.DocumentType, q.subject, false)
	if err != nil {
		return nil, problem(err, nil)
	}
	defer leave()
	arrived := a.o.Ledger.Arrive() // only now: who waits in a row does not commit soon
	reserved := false
	defer func() {
		if !reserved {
			arrived()
		}
	}()
	for try := 0; ; try++ {
		j, err := a.tryReserve(ctx, q, now)
		if (errors.Is(err, ledger.ErrConflict) || stopped(err)) && try < maxDecisions-1 {
			continue // a key that was handed over since the drafts were made is another one now
		}
		if reserved = err == nil && j.answer == nil; reserved {
			j.settled = arrived // its answer is the next thing that it commits
		}
		return j, problem(err, nil)
	}
}

func (a *Authority) tryReserve(ctx context.Context, q request, now time.Time) (*job, error) {
	known, err := a.o.Ledger.RecallOf(ctx, q.caller.ID, q.key, q.hash, q.body.DocumentType, q.subject)
	if err != nil {
		return nil, fmt.Errorf("recalling the request: %w", err)
	}
	if known.Done {
		return &job{answer: release.Recalled(known)}, nil
	}

	if newest := a.rules(); newest.bundle == q.rules.bundle { // officers may have switched an authority off while the request waited
		q.rules = newest
	}
	at, pinned := now, true
	if known.Pending != nil {
		at = known.Pending.At() // judged as of the reservation and by its bundle, so that the same bytes come out
		r, ok, err := a.rulesOf(ctx, known.Pending.Policy())
		if err != nil {
			return nil, fmt.Errorf("reading the reservation's policy: %w", err)
		}
		if pinned = ok; ok {
			q.rules = r
		}
	}
	about := asked{q.caller.ID, q.op, q.body.DocumentType, at}
	verified, err := q.judge(at, now, a.phones.Load())
	if err != nil {
		p := problem(err, nil).(*Problem)
		var coded *evidence.Refusal
		if !errors.As(err, &coded) {
			return nil, p
		}
		return nil, a.judged(about, untrue(q.rules.bundle, p))
	}
	slot, err := a.slot(ctx, q, known.Pending)
	if err != nil {
		return nil, err
	}
	approval, d := q.rules.bundle.DecideIssue(verified, q.policy(known.Pending != nil, a.o.Ledger.Latched()), slot, at)
	if d.Result != policy.Allowed {
		return nil, a.judged(about, d)
	}
	var j *job
	if known.Pending != nil {
		j, err = a.resume(ctx, q, known.Pending, approval, now, pinned)
	} else {
		j, err = a.fresh(ctx, q, approval, now)
	}
	if unmet, ok := unmet(d, err); ok {
		return nil, a.judged(about, unmet)
	}
	if err == nil {
		err = a.decided(q.op, d) // only now: what it hangs on is true
	}
	return j, err
}

func (a *Authority) slot(ctx context.Context, q request, p *ledger.Pending) (policy.Slot, error) {
	if p != nil {
		return p.Before(), nil
	}
	s, err := a.o.Ledger.Subject(ctx, q.body.DocumentType, q.subject)
	if err != nil {
		return policy.Slot{}, fmt.Errorf("reading the subject: %w", err)
	}
	slot := s.Slot()
	if lock, held := a.o.Ledger.HoldsNew(q.body.DocumentType, a.o.Guard.ForLists()); held && !slices.Contains(slot.Locks, lock) {
		slot.Locks = append(slot.Locks, lock)
		slices.SortFunc(slot.Locks, func(x, y policy.Lock) int {
			return cmp.Or(cmp.Compare(x.Reason, y.Reason), cmp.Compare(x.Class, y.Class), cmp.Compare(x.By, y.By))
		})
	}
	return slot, nil
}

func (q request) policy(resuming bool, latched []string) policy.IssueRequest {
	formats := make([]policy.Format, len(q.body.Formats))
	for i, f := range q.body.Formats {
		formats[i] = policy.Format(f)
	}
	return policy.IssueRequest{Client: q.caller.ID, Operation: q.op, DocumentType: q.body.DocumentType, Subject: q.subject, Claims: q.body.Claims,
		Method: q.body.Method, Formats: formats, Replace: q.body.Replace, Resuming: resuming, Latched: latched}
}

// fresh drafts and reserves a new request.
func (a *Authority) fresh(ctx context.Context, q request, approval *policy.Approval, now time.Time) (*job, error) {
	var salt [32]byte
	if _, err := io.ReadFull(a.o.Random, salt[:]); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	drafts, err := a.draftNew(ctx, q, approval, salt, now)
	if err != nil {
		return nil, err
	}
	crashpoint.Here("ca.issue.drafted")
	r, err := a.o.Ledger.Reserve(ctx, approval, ledgerDrafts(drafts), &ledger.Call{Key: q.key, Request: q.hash, RowSalt: salt})
	if err != nil {
		return nil, fmt.Errorf("reserving: %w", err)
	}
	return &job{approval: approval, reservation: r, drafts: drafts}, nil
}

// resume rebuilds the reserved bytes. If they can't be rebuilt (a key was stopped, a certificate renewed, its bundle is not to be had: pinned is
// false), the reservation is replaced for the same subject and device.
func (a *Authority) resume(ctx context.Context, q request, p *ledger.Pending, approval *policy.Approval, now time.Time, pinned bool) (*job, error) {
	call := &ledger.Call{Key: q.key, Request: q.hash, RowSalt: p.RowSalt()}
	var drafts []draft
	err := ledger.ErrRebuild
	if pinned {
		drafts, err = a.draftAgain(approval, p, a.o.Ledger.Seed(q.key, p.RowSalt()), now)
	}
	if err == nil {
		var r *ledger.Reservation
		if r, err = a.o.Ledger.Resume(ctx, p, approval, ledgerDrafts(drafts), call); err == nil {
			return &job{approval: approval, reservation: r, drafts: drafts}, nil
		}
	}
	if !errors.Is(err, ledger.ErrRebuild) {
		return nil, fmt.Errorf("resuming: %w", err)
	}
	if drafts, err = a.draftNew(ctx, q, approval, p.RowSalt(), now); err != nil {
		return nil, err
	}
	r, err := a.o.Ledger.ReserveAgain(ctx, p, approval, ledgerDrafts(drafts), call, now)
	if err != nil {
		return nil, fmt.Errorf("reserving again: %w", err)
	}
	return &job{approval: approval, reservation: r, drafts: drafts}, nil
}

// draftNew drafts every copy in every format with leased indices and the keys that are active now: for a reservation that is replaced, that
// may be a successor which was made after its decision.
func (a *Authority) draftNew(ctx context.Context, q request, approval *policy.Approval, salt [32]byte, now time.Time) ([]draft, error) {
	issue, _ := approval.Issue()
	seed := a.o.Ledger.Seed(q.key, salt)
	var drafts []draft
	for _, f := range issue.Formats {
		key, err := a.activeKey(purposes[f], now)
		if err != nil {
			return nil, err
		}
		if err := a.o.Signer.Room(key.Token, approval.Lane(), len(issue.Keys)); err != nil {
			return nil, fmt.Errorf("before reserving: %w", err)
		}
		tickets, err := a.o.Ledger.Lease(ctx, issue.DocumentType, f, len(issue.Keys))
		if err != nil {
			return nil, fmt.Errorf("leasing status indices: %w", err)
		}
		for i := range issue.Keys {
			d, err := a.drafted(approval, f, tickets[i], key, i, seed)
			if err != nil {
				return nil, err
			}
			drafts = append(drafts, d)
		}
	}
	return drafts, nil
}

// draftAgain drafts with the reserved indices and keys, in the reserved order. Whatever stands against that (a key whose use ended, a bundle
// that orders its formats differently) is ErrRebuild.
func (a *Authority) draftAgain(approval *policy.Approval, p *ledger.Pending, seed [32]byte, now time.Time) ([]draft, error) {
	issue, _ := approval.Issue()
	tickets, ids := p.Tickets(), p.Keys()
	if len(tickets) != len(issue.Formats)*len(issue.Keys) || len(ids) != len(tickets) {
		return nil, ledger.ErrRebuild
	}
	keys := map[string]ledger.Key{}
	for _, k := range a.o.Ledger.Keys() {
		if a.o.Ledger.Finishes(k) {
			keys[k.ID] = k
		}
	}
	var drafts []draft
	for _, f := range issue.Formats {
		for i := range issue.Keys {
			n := len(drafts)
			key, ok := keys[ids[n]]
			if !ok {
				return nil, ledger.ErrRebuild
			}
			d, err := a.drafted(approval, f, tickets[n], key, i, seed)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ledger.ErrRebuild, err)
			}
			drafts = append(drafts, d)
		}
	}
	return drafts, nil
}

// purposes says which key signs which format.
var purposes = map[policy.Format]policy.Purpose{policy.MDoc: policy.PurposeMDoc, policy.SDJWT: policy.PurposeSDJWT}

func (a *Authority) drafted(approval *policy.Approval, f policy.Format, t *ledger.Ticket, key ledger.Key, i int, seed [32]byte) (draft, error) {
	issue, _ := approval.Issue()
	d := draft{format: f, key: issue.Keys[i], list: t.List(), ticket: contract.StatusRef{URI: t.URI(), Index: t.Index()}}
	signer, err := a.certified(key)
	if err != nil {
		return d, fmt.Errorf("key %s: %w", key.ID, err)
	}
	p := certified.Params{Key: i, Seed: seed, Signer: signer, SignedAt: approval.At()}
	switch f {
	case policy.MDoc:
		tbs, err := mdoc.Draft(approval, t, p)
		if err != nil {
			return d, fmt.Errorf("drafting mdoc %d: %w", i, err)
		}
		d.tbs = tbs
		d.size = base64.RawURLEncoding.EncodedLen(tbs.Size())
		d.join = func(b []byte, c *release.Checked, n int) ([]byte, error) {
			signed, err := mdoc.Join(tbs, c, n)
			return base64.RawURLEncoding.AppendEncode(b, signed), err
		}
	case policy.SDJWT:
		tbs, err := sdjwt.Draft(approval, t, p)
		if err != nil {
			return d, fmt.Errorf("drafting SD-JWT VC %d: %w", i, err)
		}
		d.tbs = tbs
		d.size = tbs.Size()
		d.join = func(b []byte, c *release.Checked, n int) ([]byte, error) { return sdjwt.Join(b, tbs, c, n) }
	default:
		return d, fmt.Errorf("format %s can't be drafted", f)
	}
	d.ledger = ledger.Draft{Ticket: t, KeyID: key.ID, Purpose: purposes[f], TBSHash: sha256.Sum256(d.tbs.Bytes()), NotAfter: d.tbs.NotAfter(), KeyIndex: i}
	return d, nil
}

// certified parses and checks a key's certificates when they are new.
func (a *Authority) certified(k ledger.Key) (*certified.Key, error) {
	if known, ok := a.keys.Load(k.ID); ok && known.(*certified.Key).Is(k) {
		return known.(*certified.Key), nil
	}
	c, err := certified.New(k)
	if err == nil {
		a.keys.Store(k.ID, c)
	}
	return c, err
}

func ledgerDrafts(drafts []draft) []ledger.Draft {
	out := make([]ledger.Draft, len(drafts))
	for i, d := range drafts {
		out[i] = d.ledger
	}
	return out
}

// join makes the whole answer, or none.
func (j *job) join(c *release.Checked) ([]byte, error) {
	issue, _ := j.approval.Issue()
	out := contract.IssueAnswer{Issuance: j.reservation.ID(), Device: j.reservation.Device(), Replaced: len(j.reservation.Superseded()) > 0,
		Decision: named(j.approval.Decision(), j.reservation.ID()), Credentials: make([]contract.Credential, 0, len(j.drafts))}
	size := 0
	for _, d := range j.drafts {
		size += d.size
		out.Credentials = append(out.Credentials, contract.Credential{Format: string(d.format), KeyThumbprint: base64.RawURLEncoding.EncodeToString(d.key.Thumbprint[:]),
			Status: d.ticket, ValidUntil: d.tbs.NotAfter()})
	}
	return out.JSON(size, func(b []byte, i int) ([]byte, error) {
		b, err := j.drafts[i].join(b, c, i)
		if err != nil {
			return nil, fmt.Errorf("joining %s of %s: %w", j.drafts[i].format, issue.DocumentType, err)
		}
		return b, nil
	})
}

// DryRun gives the decision that Issue would make, without effect. A denial is an answer, not an error.
func (a *Authority) DryRun(ctx context.Context, c Caller, op policy.Operation, r contract.IssueRequest) (contract.Decision, error) {
	leave, err := a.turns.enter(ctx, c.ID)
	if err != nil {
		return contract.Decision{}, problem(fmt.Errorf("waiting for a turn: %w", err), nil)
	}
	defer leave()
	now, err := a.now()
	if err != nil {
		return contract.Decision{}, err
	}
	q, err := a.request(c, op, r)
	if err != nil {
		return contract.Decision{}, err
	}
	verified, err := q.judge(now, now, a.phones.Load())
	if err != nil {
		var coded *evidence.Refusal
		if !errors.As(err, &coded) {
			return contract.Decision{}, problem(err, nil)
		}
		return decision(untrue(q.rules.bundle, problem(err, nil).(*Problem))), nil
	}
	slot, err := a.slot(ctx, q, nil)
	if err != nil {
		return contract.Decision{}, problem(err, nil)
	}
	approval, d := q.rules.bundle.DecideIssue(verified, q.policy(false, a.o.Ledger.Latched()), slot, now)
	if d.Result == policy.Allowed { // as far as can be known now: what it hangs on may be used by another request before this one
		if err := a.o.Ledger.Holds(ctx, approval); err != nil {
			unmet, ok := unmet(d, err)
			if !ok {
				return contract.Decision{}, problem(err, nil)
			}
			d = unmet
		}
	}
	return decision(d), nil
}
