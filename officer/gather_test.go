package officer

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"sealkeeper/internal/fuzzing"
)

// filed is a proposal with approvals in one file, in any order.
func (p *people) filed(t testing.TB, proposal *Proposal, by ...string) (file []byte) {
	t.Helper()
	for _, id := range by {
		var err error
		if file, err = Join(file, p.sign(t, proposal.Payload(), id, Approve)); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

func fence(t testing.TB, p *people) *Proposal {
	t.Helper()
	root := "abababababababababababababababababababababababababababababababab"
	_, s := p.propose(t, "kim", FenceLift, &Fence{7, root, []string{"Lost: 3 of 10 journal entries."}, "the disk is gone"}, noon)
	return s.Proposal
}

// Approvals in a file count as if they had come one by one: whoever is named first, the proposer's comes first, each once, and nobody else's.
func TestGather(t *testing.T) {
	p := assemble(t)
	proposal := fence(t, p)
	for _, order := range [][]string{{"kim", "lee"}, {"lee", "kim"}} {
		said, named, err := p.registry.Gather(Case{}, p.filed(t, proposal, order...), noon)
		if err != nil || named.ID() != proposal.ID() || len(said) != 2 || said[0].By != "kim" || !said[0].New || said[1].By != "lee" || said[1].New {
			t.Fatalf("%v: %v %+v", order, err, said)
		}
		q, err := p.registry.Decide(said[1].Case, noon)
		if err != nil || fmt.Sprint(q.By()) != "[kim lee]" {
			t.Errorf("%v: %v", order, err)
		}
		// The same file again says nothing new; one with another officer's says that alone.
		if again, _, err := p.registry.Gather(said[1].Case, p.filed(t, proposal, order...), noon); err != nil || len(again) != 0 {
			t.Errorf("again: %v %+v", err, again)
		}
	}
	said, _, err := p.registry.Gather(Case{}, p.filed(t, proposal, "kim"), noon)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.registry.Decide(said[0].Case, noon)
	is(t, err, "officer.short")
	_, _, err = p.registry.Gather(Case{}, p.filed(t, proposal, "lee"), noon)
	is(t, err, "officer.proposer")
	_, _, err = p.registry.Gather(Case{}, p.filed(t, proposal, "kim", "lee"), noon.Add(25*time.Hour))
	is(t, err, "officer.expired")
	_, _, err = p.registry.Gather(Case{}, p.filed(t, proposal, "kim", "audit"), noon)
	is(t, err, "officer.unknown")
	if _, err := Join(p.filed(t, proposal, "kim"), p.sign(t, proposal.Payload(), "kim", Approve)); err == nil {
		t.Error("one officer stands in a file twice")
	}
	if _, err := Join(p.filed(t, proposal, "kim"), p.sign(t, fence(t, p).Payload(), "lee", Approve)); err == nil {
		t.Error("approvals of two proposals stand in one file")
	}
	rejected := p.sign(t, proposal.Payload(), "lee", Reject)
	file, err := Join(p.filed(t, proposal, "kim"), rejected)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = p.registry.Gather(Case{}, file, noon)
	is(t, err, "officer.signature") // a rejection is no approval, whatever file it stands in
}

func FuzzGather(f *testing.F) {
	p := assemble(f)
	proposal := fence(f, p)
	fuzzing.Run(f, fuzzing.Options{}, [][]byte{p.filed(f, proposal, "kim", "lee"), p.filed(f, proposal, "kim")}, func(t *testing.T, data []byte) bool {
		said, named, err := p.registry.Gather(Case{}, data, noon)
		if err != nil {
			is(t, err, err.(*Refusal).Code())
			return false
		}
		var by []string
		for _, s := range said {
			by = append(by, s.By)
		}
		if len(said) == 0 || !said[0].New || said[0].By != "kim" || named.ID() != proposal.ID() || len(said) > 2 || len(said) == 2 && !slices.Contains(by, "lee") {
			t.Errorf("%v out of %s", by, data)
		}
		return true
	})
}
