package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"sealkeeper/ledger"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// The ledger of a country: what the issue of a card costs when there are ten million, against a thousand, on the same machine in turns.
//
// Ten million issues would take hours, so the rows are written through the store's own commits, twenty thousand subjects at a time: each
// subject's slot, credential and line, as their issue and settlement leave them. Four passes over the whole range of pseudonyms leave
// pages as full as chance leaves them, not packed by order. What grows at its end alone (journal, reservations, attempts) is there for
// every tenth subject, and answers are there for the last ones: the appliance erases them after a day.
const (
	growthFew     = 1_000
	growthMany    = 10_000_000
	growthBatch   = 20_000
	growthPasses  = 4
	growthAnswers = 200_000
	growthShared  = 10 // subjects of one journal entry
	growthRounds  = 6
)

func (b *bench) growth(ctx context.Context, many int) error {
	began := time.Now()
	large, bytes, err := b.grown(ctx, many)
	if err != nil {
		return err
	}
	defer large.stop()
	b.add("growth_subjects", float64(many), "1")
	b.add("growth_fill_s", time.Since(began).Seconds(), "s")
	b.add("growth_ledger_gib", float64(bytes)/(1<<30), "GiB")
	var cost, p99 [2][]float64 // of few and of many, by round
	var verify []float64
	for round := range growthRounds {
		small, _, err := b.grown(ctx, growthFew) // a new one, as it would not stay small
		if err != nil {
			return err
		}
		defer small.stop()
		for i := range 2 {
			i ^= round & 1
			a, n := []*appliance{small, large}[i], []int{growthFew, many}[i]
			if _, _, err := a.issue(ctx, whole.formats, 200, 64); err != nil { // warm
				return err
			}
			r, _, err := a.issue(ctx, whole.formats, b.size.requests[64], 64)
			if err != nil {
				return err
			}
			b.progress("round %d: %d subjects: %.0f CPU µs an issue, p99 %.0f ms", round+1, n, 1e6/r.perCPU(), r.quantile(0.99))
			cost[i], p99[i] = append(cost[i], 1e6/r.perCPU()), append(p99[i], r.quantile(0.99))
		}
		if err := b.ungrown(small, growthFew); err != nil {
			return err
		}
		v, _, err := publicKey()
		if err != nil {
			return err
		}
		verify = append(verify, v)
	}
	few, most := median(cost[0]), median(cost[1])
	b.against("growth_1e7_vs_1e3", most/few, "1", 1, most/few)
	b.add("growth_issue_us_few", few, "CPU µs")
	b.add("growth_issue_us_many", most, "CPU µs")
	b.add("growth_p99_ms_few", median(p99[0]), "ms")
	b.add("growth_p99_ms_many", median(p99[1]), "ms")
	fmt.Printf("\nIssue with %d subjects: %.0f CPU µs, p99 %.0f ms; with %d: %.0f CPU µs, p99 %.0f ms; ratio %.3f (P-256 verification %.1f CPU µs)\n",
		growthFew, few, median(p99[0]), many, most, median(p99[1]), most/few, median(verify))
	return b.ungrown(large, many)
}

// grown is an installation with n subjects, running, and the size of its ledger.
func (b *bench) grown(ctx context.Context, n int) (a *appliance, bytes int64, err error) {
	b.progress("installing, and filling the ledger with %d subjects", n)
	began := time.Now()
	if a, err = installResidents(ctx, b.grownAt(n), b.bin); err != nil {
		return nil, 0, err
	}
	if err := a.stop(); err != nil {
		return nil, 0, err
	}
	file := filepath.Join(a.dir, "data", "ledger.db")
	if err := b.fill(ctx, file, n, n, growthShared); err != nil {
		return nil, 0, fmt.Errorf("filling the ledger: %w", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, 0, err
	}
	took, err := a.start(ctx)
	b.progress("%d subjects: %.2f GB after %.0f s; ready after %d ms", n, float64(info.Size())/1e9, time.Since(began).Seconds(), took.Milliseconds())
	return a, info.Size(), err
}

func (b *bench) grownAt(n int) string { return filepath.Join(b.work, fmt.Sprintf("subjects-%d", n)) }

// ungrown stops an installation and gives its disk back.
func (b *bench) ungrown(a *appliance, n int) error {
	if err := a.stop(); err != nil {
		return err
	}
	return os.RemoveAll(b.grownAt(n))
}

// row as the ledger encodes it.
func row(t ledger.Table, key []byte, v any) (ledger.Row, error) {
	value, err := json.Marshal(v, json.Deterministic(true))
	return ledger.Row{Table: t, Key: key, Value: value}, err
}

// fill writes n subjects, each with one SD-JWT VC, into lists with room for most, and a reservation for every shared-th.
func (b *bench) fill(ctx context.Context, file string, n, most, shared int) error {
	store, err := ledger.OpenSQLite(ctx, file)
	if err != nil {
		return err
	}
	defer store.Close()
	const entries = 1 << 20
	made := time.Now().Add(-48 * time.Hour).UTC().Truncate(time.Second)
	f := &filler{made: made, shared: shared, answer: base64.RawURLEncoding.AppendEncode(nil, bytes.Repeat([]byte{0xa5}, 1900))}
	var lists []ledger.Row
	for first := 0; first < most; first += entries {
		id := f.name(uint64(first))
		f.lists = append(f.lists, id)
		r, err := row(ledger.TableLists, []byte(id), ledger.ListRecord{ID: id, URI: publicURL + "/status-lists/" + id, DocumentType: documentType, Format: policy.SDJWT, Bits: 2,
			Size: entries, Leased: uint64(min(entries, most-first)), Opened: made, Closed: made.Add(time.Hour)})
		if err != nil {
			return err
		}
		horizon := binary.BigEndian.AppendUint64(append([]byte(id), 0), uint64(made.Add(90*24*time.Hour).Unix()/86400+1))
		lists = append(lists, r, ledger.Row{Table: ledger.TableHorizons, Key: horizon, Value: []byte("{}")})
	}
	if _, err := store.Commit(ctx, []ledger.Op{{Leaf: []byte(`{"v":1,"kind":"lists"}`), Rows: lists}}); err != nil {
		return err
	}
	began, done := time.Now(), 0
	batches, failed := make(chan []ledger.Op, 2), make(chan error, 1)
	ctx, end := context.WithCancel(ctx)
	defer end()
	go func() { // beside the commits, which are on one CPU
		defer close(batches)
		failed <- f.run(ctx, n, batches)
	}()
	for ops := range batches {
		out, err := store.Commit(ctx, ops)
		if err != nil {
			return err
		}
		for _, o := range out {
			if o.Conflict != nil {
				return fmt.Errorf("a row of %s is there already", o.Conflict.Table)
			}
		}
		if done += growthBatch; done%(n/growthPasses) < growthBatch && n > growthAnswers {
			b.progress("%d of %d subjects, %.0f /s", done, n, float64(done)/time.Since(began).Seconds())
		}
	}
	return <-failed
}

type filler struct {
	made   time.Time
	shared int // subjects of one journal entry
	lists  []string
	answer []byte
	serial uint64
}

// name of a reservation or list, the time first as the ledger's own.
func (f *filler) name(n uint64) string {
	var b [16]byte
	rand.Read(b[:])
	binary.BigEndian.PutUint64(b[:8], uint64(f.made.UnixMilli())<<16+n)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// run makes all batches, pass by pass.
func (f *filler) run(ctx context.Context, n int, batches chan<- []ledger.Op) error {
	for pass := range growthPasses {
		people := make([]policy.Pseudonym, (n-pass+growthPasses-1)/growthPasses)
		for i := range people {
			rand.Read(people[i][:])
		}
		slices.SortFunc(people, func(a, b policy.Pseudonym) int { return bytes.Compare(a[:], b[:]) })
		for i := 0; i < len(people); i += growthBatch {
			ops, err := f.ops(people[i:min(i+growthBatch, len(people))], n)
			if err != nil {
				return err
			}
			select {
			case batches <- ops:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// ops of a batch. Subjects take counters as they come; that an index is another number than its counter changes nothing here.
func (f *filler) ops(people []policy.Pseudonym, n int) (ops []ledger.Op, err error) {
	var op ledger.Op
	add := func(t ledger.Table, key []byte, v any) {
		r, failed := row(t, key, v)
		if failed != nil {
			err = failed
		}
		op.Rows = append(op.Rows, r)
	}
	for i, p := range people {
		list, index := f.lists[f.serial>>20], f.serial&(1<<20-1)
		f.serial++
		id, device := f.name(f.serial), f.name(f.serial)
		var key [32]byte
		rand.Read(key[:])
		until := f.made.Add(90 * 24 * time.Hour)
		s, _, failed := state.State{}.Apply(state.Event{At: f.made, Issue: &state.Issue{Device: device, Keys: [][32]byte{key}, Credentials: []state.Credential{{Reservation: id,
			Format: policy.SDJWT, List: list, Index: index, Key: key, Made: f.made, NotAfter: until, Phase: state.Reserved}}}})
		if failed == nil {
			s, _, failed = s.Apply(state.Event{At: f.made, Settle: &state.Settle{Reservation: id}})
		}
		if failed != nil {
			return nil, failed
		}
		add(ledger.TableSlots, append(append([]byte(documentType), 0), p[:]...), ledger.SlotRecord{DocumentType: documentType, Subject: p, State: s})
		tag := p // uniform like the ledger's own, and in order
		add(ledger.TableLines, tag[:], ledger.LineRecord{Subject: p, Types: []string{documentType}})
		add(ledger.TableLinks, append(append([]byte(documentType), 0), p[:]...), ledger.LinkRecord{Line: tag[:], Link: state.Link{Device: device, Since: f.made}})
		add(ledger.TableIndices, binary.BigEndian.AppendUint64(append([]byte(list), 0), index), ledger.IndexRecord{Index: index, CredentialRecord: ledger.CredentialRecord{Reservation: id, Format: policy.SDJWT, NotAfter: until}})
		if n-int(f.serial) < growthAnswers {
			var lookup [32]byte
			rand.Read(lookup[:])
			add(ledger.TableRequests, lookup[:], ledger.RequestRecord{Client: "ward-office-1", Request: key, RowSalt: key, Reservation: id, At: time.Now(), Settled: time.Now(), Sealed: f.answer})
		}
		if len(op.Rows) >= 4*f.shared || i == len(people)-1 {
			item := ledger.ItemRecord{KeyID: "sdjwt-issuer-1", Purpose: policy.PurposeSDJWT, TBSHash: key, Format: policy.SDJWT, List: list, Index: index, Key: key, NotAfter: until, Worker: "online-1"}
			add(ledger.TableReservations, []byte(id), ledger.ReservationRecord{ID: id, Kind: policy.KindIssue, Progress: ledger.Settled, Client: "ward-office-1", At: f.made,
				DocumentType: documentType, Subject: p, Device: device, Items: []ledger.ItemRecord{item}, Request: key[:]})
			leaf, failed := json.Marshal(ledger.Leaf{V: 1, Kind: "reserve", At: f.made, Client: "ward-office-1", Subject: key[:], Reservation: id,
				Items: []ledger.LeafItem{{Key: "sdjwt-issuer-1", Purpose: policy.PurposeSDJWT, TBS: key[:]}}}, json.Deterministic(true))
			if failed != nil {
				return nil, failed
			}
			op.Leaf = leaf
			ops, op = append(ops, op), ledger.Op{}
		}
	}
	return ops, err
}
