package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"sealkeeper/policy"
)

// Decisions are journalled with what they were made of. What was allowed is a row of the commit that uses the approval, so it costs no fsync
// and can't be missing; its leaf has the row's hash. What was denied changed nothing and waits for a commit of many, a second at most, and within
// bounds: who sends bad requests must not be able to fill the disk. docs/decisions/0021 says why.

// DecisionRecord is one decision.
type DecisionRecord struct {
	At            time.Time        `json:"at"`
	Client        string           `json:"client"`
	Operation     policy.Operation `json:"operation"`
	DocumentType  string           `json:"document_type,omitempty"`
	Result        string           `json:"result"` // allowed, denied
	Code          string           `json:"code,omitempty"`
	Rules         []string         `json:"rules,omitempty"`
	Missing       []string         `json:"missing,omitempty"`
	Policy        policy.Hash      `json:"policy"`
	PolicyVersion uint64           `json:"policy_version"`
	Identity      string           `json:"identity,omitempty"`
	Of            *policy.Record   `json:"of,omitempty"` // nil: a bundle would not say anything else (evidence that is not true, something used twice)
	Salt          [16]byte         `json:"salt"`         // so that the hash in the leaf can't be searched for
}

const (
	decisionsKept  = 30 * 24 * time.Hour
	maxDecision    = 8 << 10
	deniedQueue    = 1024
	deniedBatch    = 200
	deniedEvery    = time.Second
	deniedPerHour  = 10_000 // of all clients
	deniedByClient = 2_000  // an hour
)

var decisionsSweptKey = []byte("decisions/swept") // in TableMeta: unix milliseconds; older ones may be gone

// denials are on their way to a commit.
type denials struct {
	queue chan Row
	mu    sync.Mutex
	hour  int64
	all   int
	of    map[string]int // of clients of the policy, which are bounded
	newer int64          // unix milliseconds of the newest issue or refresh that was decided, at a trusted time
	lost  uint64         // since the last commit of denials
}

// decisionKey of an id: milliseconds, then what is random.
func decisionKey(id string) ([]byte, bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(id)
	return b, err == nil && len(b) == 16
}

func decisionsFrom(at time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(max(at.UnixMilli(), 0))<<16)
}

func decisionMillis(key []byte) int64 { return int64(binary.BigEndian.Uint64(key) >> 16) }

// decisionRow of an id. Offices and officers are tagged.
func (l *Ledger) decisionRow(s *Secrets, id string, r DecisionRecord) (Row, error) {
	key, ok := decisionKey(id)
	if !ok {
		return Row{}, fmt.Errorf("%q is no id of a decision", id)
	}
	var err error
	if r.Salt, err = draw[[16]byte](l.random); err != nil {
		return Row{}, err
	}
	if r.Of != nil {
		of := r.Of.Tagged(func(name string) string {
			tag := s.commit.Sum(append([]byte("decision\x00"), name...))
			return hex.EncodeToString(tag[:12])
		})
		in := &of.Input // said once
		in.At, in.Client, in.Operation, in.DocumentType = time.Time{}, "", "", ""
		r.Of = &of
	}
	return Row{Table: TableDecisions, Key: key, Value: encode(r)}, nil
}

func decisionOf(client string, op policy.Operation, documentType string, at time.Time, d policy.Decision) DecisionRecord {
	return DecisionRecord{At: at, Client: client, Operation: op, DocumentType: documentType, Result: d.Result.String(), Code: d.Code, Rules: d.Rules,
		Missing: d.Missing, Policy: d.Policy, PolicyVersion: d.Version, Identity: d.Identity, Of: d.Record}
}

// allowed adds the decision of an approval to the op that uses it.
func (l *Ledger) allowed(s *Secrets, id string, op policy.Operation, documentType string, a *policy.Approval, leaf *Leaf, rows []Row) ([]Row, error) {
	row, err := l.decisionRow(s, id, decisionOf(a.Client(), op, documentType, a.At(), a.Decision()))
	if err != nil {
		return rows, err
	}
	sum := sha256.Sum256(row.Value)
	leaf.Decision = sum[:]
	if op == policy.OpIssue || op == policy.OpRefresh {
		l.denied.saw(a.At())
	}
	return append(rows, row), nil
}

func (d *denials) saw(at time.Time) {
	d.mu.Lock()
	d.newer = max(d.newer, at.UnixMilli())
	d.mu.Unlock()
}

// Denied journals what was denied. The id is empty if it is one too many: those are counted.
func (l *Ledger) Denied(client string, op policy.Operation, documentType string, at time.Time, d policy.Decision) (id string) {
	s, err := l.unlocked()
	if err != nil || l.ready() != nil || !l.denied.room(client, l.o.Clock.Now()) {
		l.unrecorded(1)
		return ""
	}
	if op == policy.OpIssue || op == policy.OpRefresh {
		l.denied.saw(at)
	}
	id, err = l.reservationName(at)
	var row Row
	if err == nil {
		row, err = l.decisionRow(s, id, decisionOf(client, op, documentType, at, d))
	}
	if err == nil && len(row.Value) > maxDecision {
		d.Record = nil
		row, err = l.decisionRow(s, id, decisionOf(client, op, documentType, at, d))
	}
	if err != nil || len(row.Value) > maxDecision {
		l.unrecorded(1)
		return ""
	}
	select {
	case l.denied.queue <- row:
		return id
	default:
		l.unrecorded(1)
		return ""
	}
}

// room counts what a client, and what all of them, may have written in an hour.
func (d *denials) room(client string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if hour := now.Unix() / 3600; hour != d.hour || d.of == nil {
		d.hour, d.all, d.of = hour, 0, map[string]int{}
	}
	if d.all >= deniedPerHour || d.of[client] >= deniedByClient {
		return false
	}
	d.all++
	d.of[client]++
	return true
}

func (l *Ledger) unrecorded(n int) {
	l.denied.mu.Lock()
	l.denied.lost += uint64(n)
	l.denied.mu.Unlock()
	l.o.Metrics.Unrecorded.Add(float64(n))
}

// keepDenials commits denials together. It ends with the ledger, after a last commit.
func (l *Ledger) keepDenials() {
	t := time.NewTicker(deniedEvery)
	defer t.Stop()
	for ended := false; !ended; {
		select {
		case <-l.stop:
			ended = true
		case <-t.C:
		}
		for l.commitDenials() {
		}
	}
}

// commitDenials commits a batch; more is true if it was a full one.
func (l *Ledger) commitDenials() (more bool) {
	d := &l.denied
	var rows []Row
	for len(rows) < deniedBatch {
		select {
		case r := <-d.queue:
			rows = append(rows, r)
			continue
		default:
		}
		break
	}
	d.mu.Lock()
	lost := d.lost
	d.mu.Unlock()
	if len(rows) == 0 && lost == 0 || l.ready() != nil {
		return false
	}
	slices.SortFunc(rows, func(a, b Row) int { return bytes.Compare(a.Key, b.Key) }) // as they are read
	all := sha256.New()
	for _, r := range rows {
		sum := sha256.Sum256(r.Value)
		all.Write(sum[:])
	}
	_, err := l.commit(context.Background(), Leaf{Kind: "denials", At: l.o.Clock.Now(), Count: uint64(len(rows)), Dropped: lost, Decision: all.Sum(nil)}, rows, false, nil)
	if n, news := l.faults.News("denials", err); news && !l.dead.Load() {
		l.o.Log.Warn("journalling what was denied", "error", err, "count", lost+uint64(len(rows)), "suppressed", n)
	}
	if err != nil {
		l.unrecorded(len(rows))
		return false
	}
	d.mu.Lock()
	d.lost -= lost
	d.mu.Unlock()
	return len(rows) == deniedBatch
}

// Decision reads one; nil: there is none, or it was forgotten.
func (l *Ledger) Decision(ctx context.Context, id string) (*DecisionEntry, error) {
	d, err := decisionBy(ctx, l.store, id)
	if err != nil {
		return nil, l.readFailed(err)
	}
	return d, nil
}

func decisionBy(ctx context.Context, s Store, id string) (*DecisionEntry, error) {
	key, ok := decisionKey(id)
	if !ok {
		return nil, nil
	}
	v, rev, err := s.Get(ctx, TableDecisions, key)
	if err != nil || rev == 0 {
		return nil, err
	}
	return decisionEntry(Entry{Key: key, Value: v, Revision: rev})
}

// MaxDecisions is how many Decisions gives at once.
const MaxDecisions = 1000

// Decisions reads up to limit decisions in the order of their making: those after an id, or from an instant on.
func (l *Ledger) Decisions(ctx context.Context, after string, since time.Time, limit int) ([]DecisionEntry, error) {
	out, err := decisionsAfter(ctx, l.store, after, since, min(limit, MaxDecisions))
	if r := (*Refusal)(nil); err != nil && !errors.As(err, &r) {
		return nil, l.readFailed(err)
	}
	return out, err
}

// DecisionEntry is a stored decision.
type DecisionEntry struct {
	ID  string
	Seq uint64 // of the journal entry that has its hash
	DecisionRecord
}

func decisionsAfter(ctx context.Context, s Store, after string, since time.Time, limit int) ([]DecisionEntry, error) {
	from := decisionsFrom(since)
	if key, ok := decisionKey(after); ok {
		from = append(key, 0)
	} else if after != "" {
		return nil, refuse("decision.unknown", "%q is no id of a decision", after)
	}
	rows, err := s.Scan(ctx, TableDecisions, from, limit)
	if err != nil {
		return nil, err
	}
	out := make([]DecisionEntry, len(rows))
	for i, e := range rows {
		d, err := decisionEntry(e)
		if err != nil {
			return nil, err
		}
		out[i] = *d
	}
	return out, nil
}

func decisionEntry(e Entry) (*DecisionEntry, error) {
	r, err := decode[DecisionRecord](TableDecisions, e.Value)
	if err != nil {
		return nil, err
	}
	if r.Of != nil {
		in := &r.Of.Input
		in.At, in.Client, in.Operation, in.DocumentType = r.At, r.Client, r.Operation, r.DocumentType
	}
	return &DecisionEntry{ID: base64.RawURLEncoding.EncodeToString(e.Key), Seq: e.Revision - 1, DecisionRecord: *r}, nil
}

// sweepDecisions forgets decisions that are older than is kept, counted to the newest request for a card: those are decided at a trusted time
// alone, so a clock that jumps ahead empties nothing.
func (l *Ledger) sweepDecisions(ctx context.Context) error {
	l.denied.mu.Lock()
	mark := l.denied.newer - decisionsKept.Milliseconds()
	l.denied.mu.Unlock()
	for mark > 0 {
		old, err := l.store.Scan(ctx, TableDecisions, []byte{0}, sweepBatch)
		if err != nil {
			return err
		}
		var rows []Row
		for _, e := range old {
			if decisionMillis(e.Key) < mark {
				rows = append(rows, Row{Table: TableDecisions, Key: e.Key, If: If(e.Revision)})
			}
		}
		if len(rows) == 0 {
			return nil
		}
		leaf := Leaf{Kind: "sweep-decisions", At: l.o.Clock.Now(), Name: strconv.FormatInt(mark, 10), Count: uint64(len(rows))}
		if _, err := l.commit(ctx, leaf, append(rows, Row{Table: TableMeta, Key: decisionsSweptKey, Value: encode(mark), If: Any}), false, nil); err != nil {
			return err
		}
		if len(rows) < sweepBatch {
			return nil
		}
	}
	return nil
}
