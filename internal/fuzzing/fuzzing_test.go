package fuzzing

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"
)

// samples are one input of each structure that is known here, the last one nested: JSON, in it a certificate's beginnings in base64, in it a JWS.
var samples = Strings(
	`{"a":[1,2.5,null,{"b":"c\"d"}],"e":{}}`,
	`eyJhbGciOiJFUzI1NiJ9.eyJpYXQiOjF9.AAAA`,
	`eyJhbGciOiJFUzI1NiJ9.eyJpYXQiOjF9.AAAA~WyJhIiwiYiJd~`,
	"data: /var\nlists: {entries: 4}\n",
	"\x30\x0a\x02\x01\x07\x04\x05\x30\x03\x02\x01\x01",
	"\xa2\x01\x19\x01\x00\x02\x82\x43\x81\x01\x02\x61x",
	"\x00\x00\x00\x05\xa1\x01\x82\x01\x02",
	"\xd2\x84\x43\xa1\x01\x26\xa0\x42\x81\x01\x41\x00",
	`["MAoCAQcEBTADAgEB","eyJhbGciOiJFUzI1NiJ9.eyJpYXQiOjF9.AAAA"]`,
)

func TestUnchangedTreesAreWrittenAsTheyWere(t *testing.T) {
	for _, s := range samples {
		n := guess(s, 0)
		if n.form == raw {
			t.Errorf("%q: no structure was found", s)
		}
		if got := n.bytes(nil, 1<<20); !bytes.Equal(got, s) {
			t.Errorf("%q became %q", s, got)
		}
	}
}

// The same seed gives the same inputs; they differ from each other, stay bounded, and leave the seeds as they were.
func TestMutants(t *testing.T) {
	const longest = 4096
	a, b := newMutator(rand.New(rand.NewPCG(1, 1)), longest, samples), newMutator(rand.New(rand.NewPCG(1, 1)), longest, samples)
	distinct := map[string]bool{}
	const n = 50_000
	for range n {
		x := a.next()
		if !bytes.Equal(x, b.next()) {
			t.Fatal("two runs of one seed differ")
		}
		if len(x) > longest {
			t.Fatalf("%d bytes", len(x))
		}
		distinct[string(x)] = true
	}
	if len(distinct) < n/2 {
		t.Errorf("only %d of %d differ", len(distinct), n)
	}
	for i, s := range samples {
		if got := a.trees[i].bytes(nil, 1<<20); !bytes.Equal(got, s) || !bytes.Equal(a.seeds[i], s) {
			t.Errorf("seed %q became %q", s, got)
		}
	}
}

// What is measured is what was spent: a decoder above the budget is seen.
func TestMeasure(t *testing.T) {
	var sink []byte
	cpu, used := measure(func() {
		sink = make([]byte, MaxAlloc+1)
		for start := threadTime(); threadTime()-start < 2*time.Millisecond; {
		}
	})
	if cpu < 2*time.Millisecond || used < int64(len(sink)) {
		t.Errorf("%v and %d bytes", cpu, used)
	}
	g, dear := gauge{}, 0
	g.weigh(t, nil, Options{}, func(*testing.T, []byte) bool { dear++; sink = make([]byte, MaxAlloc/2); return true })
	if dear != 4 || g.largest < MaxAlloc/2 || g.largest > MaxAlloc {
		t.Errorf("judged %d times, %d bytes", dear, g.largest)
	}
}
