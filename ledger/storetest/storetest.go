// Package storetest is what every ledger.Store must pass. A new implementation is done when this suite is green; each test names the
// sentence of the interface's comment that it proves.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"sealkeeper/ledger"
)

// Open opens the store that lives at a place, which is a new empty directory for each test. Opening the same place again, after Close,
// must find what was committed.
type Open func(t testing.TB, place string) ledger.Store

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s *stage)
	}{
		{"an empty store has an empty log", empty},
		{"rows are read back", readBack},
		{"sequence numbers have no gaps", gapless},
		{"rows of an op all apply or none", allOrNone},
		{"conditions compare revisions", conditions},
		{"later ops of a batch see earlier ones", order},
		{"revisions are never reused", revisions},
		{"rows that count never pass their bound", counts},
		{"counting in one row is the same in one batch and in many", countsTogether},
		{"a batch that only adds rows adds each or names whose is there", addsTogether},
		{"malformed ops are refused before anything is written", malformed},
		{"scans are ordered and bounded", scans},
		{"commits survive opening again", durable},
		{"the log proves every leaf and every extension", proofs},
		{"concurrent commits are serial", concurrent},
		{"a closed store is stopped", closed},
		{"a cancelled context prevents a commit and breaks nothing", cancelled},
		{"any history behaves like a map", model},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &stage{TB: t, open: open, place: t.TempDir()}
			s.store = open(t, s.place)
			defer func() { s.store.Close() }()
			c.test(t, s)
			s.check()
		})
	}
}

// stage is one store and the leaves that it must hold.
type stage struct {
	testing.TB
	open   Open
	place  string
	store  ledger.Store
	leaves [][]byte
}

var ctx = context.Background()

// op makes an op with a leaf of its own.
func op(name string, rows ...ledger.Row) ledger.Op {
	return ledger.Op{Leaf: []byte(`{"v":1,"kind":"` + name + `"}`), Rows: rows}
}

func put(key, value string, c ledger.If) ledger.Row {
	return ledger.Row{Table: ledger.TableMeta, Key: []byte(key), Value: []byte(value), If: c}
}

func drop(key string, c ledger.If) ledger.Row {
	return ledger.Row{Table: ledger.TableMeta, Key: []byte(key), If: c}
}

// commit commits a batch and demands that exactly the ops with a false entry in conflicts apply, with the next sequence numbers.
func (s *stage) commit(conflicts []bool, batch ...ledger.Op) {
	s.Helper()
	out, err := s.store.Commit(ctx, batch)
	if err != nil {
		s.Fatal(err)
	}
	if len(out) != len(batch) {
		s.Fatalf("%d outcomes of %d ops", len(out), len(batch))
	}
	for i, o := range out {
		want := i < len(conflicts) && conflicts[i]
		if (o.Conflict != nil) != want {
			s.Fatalf("op %d: conflict %v, want %t", i, o.Conflict, want)
		}
		if o.Conflict != nil {
			continue
		}
		if o.Seq != uint64(len(s.leaves)) {
			s.Fatalf("op %d took sequence number %d, want %d", i, o.Seq, len(s.leaves))
		}
		s.leaves = append(s.leaves, batch[i].Leaf)
	}
}

// wants demands a row; an empty value means that there is none.
func (s *stage) wants(key, value string, revision uint64) {
	s.Helper()
	v, rev, err := s.store.Get(ctx, ledger.TableMeta, []byte(key))
	if err != nil {
		s.Fatal(err)
	}
	if string(v) != value || rev != revision {
		s.Fatalf("row %q is %q at revision %d, want %q at %d", key, v, rev, value, revision)
	}
}

func (s *stage) again() {
	s.Helper()
	if err := s.store.Close(); err != nil {
		s.Fatal(err)
	}
	s.store = s.open(s, s.place)
}

// check compares journal, head and hashes with the leaves, as an outsider would compute them.
func (s *stage) check() {
	s.Helper()
	size, root, err := s.store.Head(ctx)
	if errors.Is(err, ledger.ErrStopped) {
		return // the test closed it
	}
	if err != nil {
		s.Fatal(err)
	}
	if size != uint64(len(s.leaves)) {
		s.Fatalf("the head is at %d, want %d", size, len(s.leaves))
	}
	var hashes []tlog.Hash
	read := tlog.HashReaderFunc(func(ids []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(ids))
		for i, id := range ids {
			out[i] = hashes[id]
		}
		return out, nil
	})
	for n, leaf := range s.leaves {
		hs, err := tlog.StoredHashes(int64(n), leaf, read)
		if err != nil {
			s.Fatal(err)
		}
		hashes = append(hashes, hs...)
	}
	want, err := tlog.TreeHash(int64(len(s.leaves)), read)
	if err != nil {
		s.Fatal(err)
	}
	if root != want {
		s.Fatalf("the root of %d leaves is %s, want %s", size, root, want)
	}
	for id, want := range hashes {
		got, err := s.store.ReadHashes([]int64{int64(id)})
		if err != nil || got[0] != want {
			s.Fatalf("stored hash %d is %v (%v), want %s", id, got, err, want)
		}
	}
	journal, err := s.store.Journal(ctx, 0, len(s.leaves)+1)
	if err != nil || !slices.EqualFunc(journal, s.leaves, bytes.Equal) {
		s.Fatalf("the journal has %d other entries (%v)", len(journal), err)
	}
}

func empty(_ *testing.T, s *stage) {
	s.check()
	s.wants("none", "", 0)
	s.commit(nil)
	s.again()
}

func readBack(t *testing.T, s *stage) {
	s.commit(nil, op("a", put("k", "v", ledger.Absent), put("k2", "", ledger.Any)))
	s.wants("k", "v", 1)
	s.wants("k2", "", 1) // an empty value is a row
	v, _, err := s.store.Get(ctx, ledger.TableMeta, []byte("k"))
	if err != nil {
		t.Fatal(err)
	}
	v[0] = 'x' // the value is the caller's
	s.wants("k", "v", 1)
	if _, rev, err := s.store.Get(ctx, ledger.TableKeys, []byte("k")); err != nil || rev != 0 {
		t.Errorf("the row is in another table too: %d, %v", rev, err)
	}
	// no byte of a key is special
	odd := string([]byte{0, 255, 'k', 0})
	s.commit(nil, op("b", put(odd, odd, ledger.Absent)))
	s.wants(odd, odd, 2)
}

func gapless(_ *testing.T, s *stage) {
	s.commit(nil, op("a"), op("b"), op("c"))
	s.commit(nil, op("d", put("k", "1", ledger.Absent)))
	s.commit([]bool{false, true, false}, op("e"), op("lost", put("k", "2", ledger.Absent)), op("f"))
	s.commit([]bool{true}, op("lost", put("k", "2", ledger.Absent)))
	s.again()
	s.commit(nil, op("g"))
}

func allOrNone(t *testing.T, s *stage) {
	s.commit(nil, op("a", put("taken", "1", ledger.Absent)))
	for i := range 3 { // the condition that fails is the first, a middle, the last one
		rows := []ledger.Row{put("x", "1", ledger.Absent), put("y", "1", ledger.Any), drop("taken", 1)}
		rows = slices.Insert(rows[:2], i, put("taken", "2", ledger.Absent))
		out, err := s.store.Commit(ctx, []ledger.Op{op("lost", rows...)})
		if err != nil {
			t.Fatal(err)
		}
		if c := out[0].Conflict; c == nil || c.Table != ledger.TableMeta || string(c.Key) != "taken" {
			t.Fatalf("the conflict names %+v", c)
		}
	}
	s.wants("x", "", 0)
	s.wants("y", "", 0)
	s.wants("taken", "1", 1)
}

func conditions(_ *testing.T, s *stage) {
	s.commit([]bool{true}, op("change of nothing", put("k", "0", 1)))
	s.commit([]bool{true}, op("delete of nothing", drop("k", 1)))
	s.commit(nil, op("absent, and stays so", drop("k", ledger.Absent)))
	s.commit(nil, op("delete whatever is there", drop("k", ledger.Any)))
	s.commit(nil, op("new", put("k", "1", ledger.Absent)))
	s.wants("k", "1", 3)
	s.commit([]bool{true, true, true, true}, op("twice", put("k", "2", ledger.Absent)), op("old", put("k", "2", 2)), op("future", put("k", "2", 4)),
		op("must be absent", drop("k", ledger.Absent)))
	s.commit(nil, op("changed", put("k", "2", 3)))
	s.wants("k", "2", 4)
	s.commit([]bool{true}, op("late", drop("k", 3)))
	s.commit(nil, op("whatever it is", put("k", "3", ledger.Any)))
	s.wants("k", "3", 5)
	s.commit(nil, op("gone", drop("k", 5)))
	s.wants("k", "", 0)
	s.commit(nil, op("new again", put("k", "4", ledger.Absent)))
	s.wants("k", "4", 7)
}

func order(_ *testing.T, s *stage) {
	s.commit([]bool{false, true, false, true, false, false},
		op("0", put("k", "0", ledger.Absent)),
		op("lost", put("k", "x", ledger.Absent), put("other", "x", ledger.Any)),
		op("1", put("k", "1", 1)),
		op("lost", put("k", "x", 1)),
		op("2", drop("k", 2)),
		op("3", put("k", "3", ledger.Absent)))
	s.wants("k", "3", 4)
	s.wants("other", "", 0)
}

func revisions(_ *testing.T, s *stage) {
	s.commit(nil, op("a", put("k", "1", ledger.Absent)))
	s.commit(nil, op("b", drop("k", 1)))
	s.commit(nil, op("c", put("k", "1", ledger.Absent)))
	s.commit([]bool{true}, op("who read the first row", put("k", "2", 1)))
	s.wants("k", "1", 3)
}

func counts(t *testing.T, s *stage) {
	one := func(key string, most uint64) ledger.Row {
		return ledger.Row{Table: ledger.TableMeta, Key: []byte(key), Most: most}
	}
	// in one batch, and what does not apply for another reason does not count
	s.commit([]bool{false, false, true, false, true}, op("1", one("k", 3)), op("2", one("k", 3), put("x", "1", ledger.Absent)), op("lost", one("k", 3), put("x", "2", ledger.Absent)),
		op("3", one("k", 3)), op("one too many", one("k", 3), put("y", "1", ledger.Absent)))
	s.wants("k", "3", 3)
	s.wants("y", "", 0)
	out, err := s.store.Commit(ctx, []ledger.Op{op("lost", put("y", "1", ledger.Absent), one("k", 3))})
	if err != nil || out[0].Conflict == nil || string(out[0].Conflict.Key) != "k" || out[0].Conflict.Table != ledger.TableMeta {
		t.Fatalf("the conflict names %+v, %v", out, err)
	}
	s.again()
	s.commit([]bool{true, true, false, false, true}, op("the bound is lower", one("k", 2)), op("and still there", one("k", 3)), op("higher", one("k", 5)), op("to the end", one("k", 5)), op("and full", one("k", 5)))
	s.wants("k", "5", 5)
	s.commit(nil, op("no bound", one("k", 1<<64-1), one("other", 1)))
	s.wants("k", "6", 6)
	s.wants("other", "1", 6)
	s.commit(nil, op("gone", drop("k", 6)))
	s.commit(nil, op("from the beginning", one("k", 1)))
	s.wants("k", "1", 8)

	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for w := range 8 {
		wg.Go(func() {
			for i := range 5 {
				out, err := s.store.Commit(ctx, []ledger.Op{op(fmt.Sprintf("%d.%d", w, i), one("crowd", 7))})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if out[0].Conflict == nil {
					won++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if won != 7 {
		t.Errorf("%d of a bound of 7 applied", won)
	}
	if s.leaves, err = s.store.Journal(ctx, 0, 100); err != nil || len(s.leaves) != 15 {
		t.Fatalf("%d leaves, %v", len(s.leaves), err)
	}
	s.wants("crowd", "7", 15)
}

// Counting in one row is the same in one batch and in many.
func countsTogether(_ *testing.T, s *stage) {
	one := func(key string, most uint64) ledger.Row {
		return ledger.Row{Table: ledger.TableMeta, Key: []byte(key), Most: most}
	}
	s.commit(nil, op("1", one("k", 9), one("other", 9)), op("2", one("k", 9)), op("3", one("k", 4)))
	s.wants("k", "3", 3)
	s.wants("other", "1", 1)
	s.commit(nil, op("4", one("k", 9)), op("5", one("k", 5), one("other", 2)))
	s.wants("k", "5", 5)
	s.wants("other", "2", 5)
	s.commit([]bool{false, true, false}, op("6", one("k", 9)), op("a lower bound", one("k", 6)), op("7", one("k", 9)))
	s.commit([]bool{true}, op("one too many", one("k", 7)))
	s.wants("k", "7", 7)
	s.commit([]bool{false, true}, op("first of new", one("new", 1)), op("and one too many", one("new", 1)))
	s.wants("new", "1", 8)
	// what happens in between is not overtaken
	s.commit(nil, op("8", one("k", 9)), op("gone", drop("k", 9)), op("from the beginning", one("k", 9)), op("2", one("k", 2)))
	s.wants("k", "2", 12)
}

// addsTogether: a store may write rows together that ops of one batch only add, and then each has its own revision, and only the op whose row was
// there, or was added by an earlier one, does not apply.
func addsTogether(_ *testing.T, s *stage) {
	const many = 43
	batch := func(from int) (ops []ledger.Op) {
		for i := range many {
			ops = append(ops, op("add", put(fmt.Sprint("k", from+i), fmt.Sprint("v", from+i), ledger.Absent), ledger.Row{Table: ledger.TableBurnt, Key: fmt.Append(nil, from+i), Value: []byte{1}}))
		}
		return ops
	}
	s.commit(nil, batch(0)...)
	for i := range many {
		s.wants(fmt.Sprint("k", i), fmt.Sprint("v", i), uint64(i+1))
	}
	ops, conflicts := batch(many), make([]bool, many)
	ops[3].Rows[1].Key, conflicts[3] = []byte("5"), true                     // there since the first batch
	ops[20].Rows[0].Key, conflicts[20] = []byte(fmt.Sprint("k", many)), true // added by the first op of this one
	s.commit(conflicts, ops...)
	s.wants(fmt.Sprint("k", many+3), "", 0)
	s.wants(fmt.Sprint("k", many), fmt.Sprint("v", many), many+1)
	s.wants(fmt.Sprint("k", many+4), fmt.Sprint("v", many+4), many+4) // one less before it
	s.wants(fmt.Sprint("k", 2*many-1), fmt.Sprint("v", 2*many-1), 2*many-2)
}

func malformed(t *testing.T, s *stage) {
	for name, bad := range map[string]ledger.Op{
		"no leaf":              {Rows: []ledger.Row{put("k", "v", ledger.Any)}},
		"no key":               op("x", put("", "v", ledger.Any)),
		"one row twice":        op("x", put("k", "v", ledger.Any), put("k", "w", ledger.Any)),
		"a count with a value": op("x", ledger.Row{Table: ledger.TableMeta, Key: []byte("k"), Value: []byte("7"), Most: 9}),
		"a count if":           op("x", ledger.Row{Table: ledger.TableMeta, Key: []byte("k"), If: 1, Most: 9}),
	} {
		if _, err := s.store.Commit(ctx, []ledger.Op{op("good", put("good", "v", ledger.Any)), bad}); err == nil {
			t.Errorf("%s: committed", name)
		}
	}
	s.wants("good", "", 0)
	s.commit(nil, op("the store is well", put("k", "v", ledger.Absent)))
}

func scans(t *testing.T, s *stage) {
	keys := []string{"a", "a\x00", "a\x00\x01", "a\xff", "b", "ba"}
	for _, i := range []int{3, 0, 5, 2, 4, 1} {
		s.commit(nil, op(fmt.Sprint(i), put(keys[i], fmt.Sprint(i), ledger.Absent)))
	}
	for from := range keys {
		for limit := range len(keys) + 1 {
			got, err := s.store.Scan(ctx, ledger.TableMeta, []byte(keys[from]), limit)
			if err != nil {
				t.Fatal(err)
			}
			want := keys[from:min(from+limit, len(keys))]
			if len(got) != len(want) {
				t.Fatalf("%d rows from %q, want %d", len(got), keys[from], len(want))
			}
			for i, e := range got {
				if _, rev, _ := s.store.Get(ctx, ledger.TableMeta, e.Key); string(e.Key) != want[i] || string(e.Value) != fmt.Sprint(from+i) || e.Revision != rev {
					t.Errorf("row %d from %q is %q=%q at %d", i, keys[from], e.Key, e.Value, e.Revision)
				}
			}
		}
	}
	if all, err := s.store.Scan(ctx, ledger.TableMeta, nil, 100); err != nil || len(all) != len(keys) {
		t.Errorf("%d rows from the beginning, %v", len(all), err)
	}
	if some, err := s.store.Journal(ctx, 2, 3); err != nil || len(some) != 3 || !bytes.Equal(some[0], s.leaves[2]) {
		t.Errorf("journal entries from 2: %q, %v", some, err)
	}
	if none, err := s.store.Journal(ctx, 6, 3); err != nil || len(none) != 0 {
		t.Errorf("journal entries past the end: %q, %v", none, err)
	}
}

func durable(_ *testing.T, s *stage) {
	for i := range 20 {
		s.commit(nil, op("x", put(fmt.Sprint(i), "v", ledger.Absent)), op("y", put("last", fmt.Sprint(i), ledger.Any)))
		s.again()
		s.check()
	}
	s.wants("0", "v", 1)
	s.wants("last", "19", 40)
}

func proofs(t *testing.T, s *stage) {
	var roots []tlog.Hash
	for n := range 33 {
		_, root, err := s.store.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, root)
		s.commit(nil, op(fmt.Sprint(n)))
	}
	const size = 32 // of an old head: a store proves the past too
	for n := range int64(size) {
		proof, err := tlog.ProveRecord(size, n, s.store)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(proof, size, roots[size], n, tlog.RecordHash(s.leaves[n])); err != nil {
			t.Errorf("leaf %d: %v", n, err)
		}
		if n == 0 {
			continue
		}
		tree, err := tlog.ProveTree(size, n, s.store)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckTree(tree, size, roots[size], n, roots[n]); err != nil {
			t.Errorf("the log of %d leaves extends that of %d: %v", size, n, err)
		}
	}
	var many []ledger.Op // so many that hashes of every kind of place are among those that check compares
	for n := range 550 {
		many = append(many, op(fmt.Sprint("many-", n)))
	}
	s.commit(nil, many...)
}

func concurrent(t *testing.T, s *stage) {
	const writers, each = 8, 20
	s.commit(nil, op("start", put("counter", "0", ledger.Absent)))
	var mu sync.Mutex
	bySeq := map[uint64][]byte{}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				for {
					v, rev, err := s.store.Get(ctx, ledger.TableMeta, []byte("counter"))
					if err != nil {
						t.Error(err)
						return
					}
					n := 0
					fmt.Sscan(string(v), &n)
					add := op(fmt.Sprintf("%d.%d", w, i), put("counter", fmt.Sprint(n+1), ledger.If(rev)))
					out, err := s.store.Commit(ctx, []ledger.Op{add})
					if err != nil {
						t.Error(err)
						return
					}
					if out[0].Conflict == nil {
						mu.Lock()
						bySeq[out[0].Seq] = add.Leaf
						mu.Unlock()
						break
					}
				}
			}
		})
	}
	wg.Wait()
	for seq := uint64(1); seq <= writers*each; seq++ {
		if bySeq[seq] == nil {
			t.Fatalf("nobody was given sequence number %d", seq)
		}
		s.leaves = append(s.leaves, bySeq[seq])
	}
	s.wants("counter", fmt.Sprint(writers*each), writers*each+1)
}

func closed(t *testing.T, s *stage) {
	s.commit(nil, op("a"))
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.store.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	_, commitErr := s.store.Commit(ctx, []ledger.Op{op("b")})
	_, _, getErr := s.store.Get(ctx, ledger.TableMeta, []byte("k"))
	_, scanErr := s.store.Scan(ctx, ledger.TableMeta, nil, 1)
	_, journalErr := s.store.Journal(ctx, 0, 1)
	_, _, headErr := s.store.Head(ctx)
	_, hashErr := s.store.ReadHashes([]int64{0})
	for name, err := range map[string]error{"Commit": commitErr, "Get": getErr, "Scan": scanErr, "Journal": journalErr, "Head": headErr, "ReadHashes": hashErr} {
		if !errors.Is(err, ledger.ErrStopped) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func cancelled(t *testing.T, s *stage) {
	c, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.store.Commit(c, []ledger.Op{op("a", put("k", "v", ledger.Any))}); !errors.Is(err, context.Canceled) || errors.Is(err, ledger.ErrStopped) {
		t.Errorf("commit with a cancelled context: %v", err)
	}
	s.commit(nil, op("b", put("k", "w", ledger.Absent)))
}

// model plays random batches against a map.
func model(t *testing.T, s *stage) {
	type row struct {
		value string
		rev   uint64
	}
	rows := map[string]row{}
	rapid.Check(t, func(rt *rapid.T) {
		var batch []ledger.Op
		var conflicts []bool
		seq := uint64(len(s.leaves))
		for range rapid.IntRange(1, 6).Draw(rt, "ops") {
			o := op(fmt.Sprintf("op %d", rapid.Uint16().Draw(rt, "leaf")))
			fits, used := true, map[string]bool{}
			for range rapid.IntRange(0, 3).Draw(rt, "rows") {
				key := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "key")
				if used[key] {
					continue
				}
				used[key] = true
				have := rows[key].rev
				c := ledger.If(rapid.SampledFrom([]uint64{have, have, 0, uint64(ledger.Any), have + 1}).Draw(rt, "if"))
				fits = fits && (c == ledger.Any || uint64(c) == have)
				r := put(key, rapid.StringN(0, 4, 8).Draw(rt, "value"), c)
				if rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
					r.Value = nil
				}
				o.Rows = append(o.Rows, r)
			}
			batch, conflicts = append(batch, o), append(conflicts, !fits)
			if !fits {
				continue
			}
			seq++
			for _, r := range o.Rows {
				if r.Value == nil {
					delete(rows, string(r.Key))
				} else {
					rows[string(r.Key)] = row{string(r.Value), seq}
				}
			}
		}
		s.commit(conflicts, batch...)
		if rapid.IntRange(0, 9).Draw(rt, "reopen") == 0 {
			s.again()
		}
		for _, key := range []string{"a", "b", "c", "d"} {
			s.wants(key, rows[key].value, rows[key].rev)
		}
	})
}
