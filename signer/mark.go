package signer

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/strict"
	"sealkeeper/ledger"
	"sealkeeper/signer/wire"
)

// An old token with every key signs like the newest. So each start leaves a mark on the token, one higher than the last, and the ledger
// keeps what it was (docs/decisions/0018). Nobody without the domain secret can make one.

// labelMark derives the key of the marks' MACs.
const labelMark = "sealkeeper/v1/token-mark"

// MarkMeta is the ledger meta name of a token's mark (value: JSON of markRecord).
func MarkMeta(token string) string { return "token-mark/" + token }

// markRecord is what the ledger knows: the token has a mark from Held to Wanted. They differ only from before a mark is written until it is
// known to be there.
type markRecord struct {
	Held     uint64 `json:"held"`
	Wanted   uint64 `json:"wanted"`
	Fenced   string `json:"fenced,omitempty"`   // why the last start ended
	Ahead    bool   `json:"ahead,omitempty"`    // and it is the ledger that is old
	Accepted bool   `json:"accepted,omitempty"` // by a person: the next start takes the token as it is
}

var markLimits = strict.Limits{Bytes: 16 << 10, Depth: 2}

func parseMarkRecord(b []byte) (r markRecord, err error) {
	if err = strict.JSON(b, markLimits, &r); err == nil && r.Held > r.Wanted {
		err = fmt.Errorf("mark %d was held and only %d wanted", r.Held, r.Wanted)
	}
	return r, err
}

func readMark(ctx context.Context, l *ledger.Ledger, token string) (r markRecord, err error) {
	b, ok, err := l.Meta(ctx, MarkMeta(token))
	if err != nil || !ok {
		return r, err
	}
	if r, err = parseMarkRecord(b); err != nil {
		return r, fmt.Errorf("the ledger's %s is damaged: %w", MarkMeta(token), err)
	}
	return r, nil
}

func (r markRecord) put(ctx context.Context, l *ledger.Ledger, token string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return l.PutStartMeta(ctx, MarkMeta(token), b)
}

// judge compares the highest mark that was found (0: none) with the record. ahead: it is the ledger that is old.
func (r markRecord) judge(token string, found uint64, foreign int) (why string, ahead bool) {
	switch {
	case found > r.Wanted:
		return fmt.Sprintf("token %q has mark %d and the ledger knows %d", token, found, r.Wanted), true
	case found >= r.Held:
		return "", false
	case found > 0:
		return fmt.Sprintf("token %q has mark %d and had %d", token, found, r.Held), false
	case foreign > 0:
		return fmt.Sprintf("token %q has marks that this installation did not make, and not mark %d", token, r.Held), false
	}
	return fmt.Sprintf("token %q has no mark and had %d", token, r.Held), false
}

// next is the record before a token with this mark gets another one. What a person accepted was this token, once: should it take no mark now, the
// next start compares again.
func (r markRecord) next(found uint64) markRecord {
	return markRecord{Held: min(r.Held, found), Wanted: max(r.Wanted, found) + 1}
}

// Mark compares the mark on a token with the ledger's record, and leaves the next one. It is called once at a start, before anything is
// signed. ErrOldToken and *ledger.Fenced end the start; until a person accepts, the next one ends the same way.
//
// Where each worker place has a server of the HSM with a copy of the token, marks are written at all of them and the highest counts: a
// copy that was away is behind, and not old.
//
// A token that does not take the mark is no reason to stop: counter is 0 then, and the log says why.
func (s *Signer) Mark(ctx context.Context, token string) (counter uint64, err error) {
	p, err := s.pool(token)
	if err != nil {
		return 0, err
	}
	known, err := readMark(ctx, s.ledger, token)
	if err != nil {
		return 0, err
	}
	key, err := s.Derive(ctx, labelMark)
	if err != nil {
		return 0, err
	}
	defer wire.Wipe(key[:])
	answers, failed := p.each(ctx, wire.Request{Op: wire.OpMark}, p.deadline)
	if len(answers) == 0 {
		return 0, fmt.Errorf("reading the mark of token %q: %w", token, errors.Join(append(failed, ErrDown)...))
	}
	found, foreign, err := highest(key[:], answers)
	if err != nil {
		return 0, fmt.Errorf("token %q: %w", token, err)
	}
	crashpoint.Here("signer.mark.read")
	if why, ahead := known.judge(token, found, foreign); why != "" && !known.Accepted {
		if known.Fenced != why {
			known.Fenced, known.Ahead = why, ahead
			if err := known.put(ctx, s.ledger, token); err != nil {
				return 0, err
			}
		}
		if ahead {
			return 0, s.ledger.Fence(why)
		}
		return 0, fmt.Errorf("%w: %s: put the newest token back, or accept this one", ErrOldToken, why)
	}
	known = known.next(found)
	if err := known.put(ctx, s.ledger, token); err != nil {
		return 0, err
	}
	crashpoint.Here("signer.mark.wanted")
	next := sealed(key[:], known.Wanted)
	answers, failed = p.each(ctx, wire.Request{Op: wire.OpMark, Mark: next.Bytes()}, makingWithin)
	if now, _, err := highest(key[:], answers); err != nil || now != known.Wanted {
		p.log.Warn("the token keeps no mark: an older copy of it would not be noticed", "token", token, "error", errors.Join(append(failed, err)...))
		return 0, nil
	}
	crashpoint.Here("signer.mark.written")
	if err := (markRecord{Held: known.Wanted, Wanted: known.Wanted}).put(ctx, s.ledger, token); err != nil {
		return 0, err
	}
	crashpoint.Here("signer.mark.held")
	p.log.Info("token marked", "token", token, "mark", known.Wanted, "places", len(answers))
	return known.Wanted, nil
}

// sealed makes a mark. The installation's name follows from its domain secret.
func sealed(key []byte, counter uint64) wire.Mark {
	m := wire.Mark{Counter: counter}
	copy(m.Installation[:], mac(key, []byte("installation")))
	copy(m.MAC[:], mac(key, m.Covered()))
	return m
}

func mac(key, b []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(b)
	return h.Sum(nil)
}

// highest returns the highest mark that was made with key, and how many were not.
func highest(key []byte, answers []wire.Response) (counter uint64, foreign int, err error) {
	for _, a := range answers {
		for _, b := range a.Marks {
			m, err := wire.ParseMark(b)
			if err != nil {
				return 0, 0, err
			}
			if own := sealed(key, m.Counter); own.Installation != m.Installation || !hmac.Equal(own.MAC[:], m.MAC[:]) {
				foreign++
				continue
			}
			counter = max(counter, m.Counter)
		}
	}
	return counter, foreign, nil
}

// MarkFence says why the last start ended because of a token's mark ("": it did not, or a person accepted it since). ahead: because the ledger is old, so that it has to be
// accepted as such (Ledger.Fence, Unfence).
func MarkFence(ctx context.Context, l *ledger.Ledger, token string) (why string, ahead bool, err error) {
	r, err := readMark(ctx, l, token)
	if err != nil || r.Accepted {
		return "", false, err
	}
	return r.Fenced, r.Ahead, nil
}

// AcceptMark lets the next start take the token as it is, and set its mark anew. An old token that has every key loses nothing: keys never
// change, and it counts nothing else.
func AcceptMark(ctx context.Context, l *ledger.Ledger, token string) error {
	r, err := readMark(ctx, l, token)
	if err != nil {
		return err
	}
	r.Accepted = true
	return r.put(ctx, l, token)
}
