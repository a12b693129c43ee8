package histories

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"sealkeeper/verifier"
)

// operation as it was recorded.
type operation struct {
	ClientId     int
	Input        Input
	Output       Output
	Call, Return int64
}

func recorded(t *testing.T) (all [][]operation) {
	t.Helper()
	b, err := os.ReadFile("testdata/recorded.json")
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func legal(h []operation) bool {
	ops := make([]porcupine.Operation, len(h))
	for i, o := range h {
		ops[i] = porcupine.Operation{ClientId: o.ClientId, Input: o.Input, Output: o.Output, Call: o.Call, Return: o.Return}
	}
	return porcupine.CheckOperations(model, ops)
}

// with is the history with another answer at i.
func with(h []operation, i int, out Output) []operation {
	h = slices.Clone(h)
	h[i].Output = out
	return h
}

// status is out with another status at entry i.
func status(out Output, i int, s byte) Output {
	out.Entries = slices.Clone(out.Entries)
	out.Entries[i].Status = s
	return out
}

func noted(o operation) bool { return !o.Output.Open && o.Output.Code == "" }
func made(o operation) bool {
	return noted(o) && slices.Contains([]string{Issue, Replace, Refresh}, o.Input.Op)
}

// afterwards is whether something read the card's state after o.
func afterwards(h []operation, o operation) bool {
	return slices.ContainsFunc(h, func(r operation) bool { return r.Input.Op == Read && r.Call > o.Return })
}

// lies are what a broken appliance could have answered instead: each gives every version of a history that is not to be believed.
var lies = map[string]func(h []operation, try func([]operation)){
	"the answers of two reads are swapped": func(h []operation, try func([]operation)) {
		for i, a := range h {
			for j, b := range h {
				if a.Input.Op == Read && b.Input.Op == Read && a.Return < b.Call && a.Output.Epoch < b.Output.Epoch {
					try(with(with(h, i, b.Output), j, a.Output))
				}
			}
		}
	},
	"a stale read": func(h []operation, try func([]operation)) {
		for _, a := range h {
			for j, b := range h {
				if a.Input.Op == Read && b.Input.Op == Read && slices.ContainsFunc(h, func(c operation) bool {
					return c.Output.Changed && a.Return < c.Call && c.Return < b.Call
				}) {
					try(with(h, j, a.Output))
				}
			}
		}
	},
	"a read from the future": func(h []operation, try func([]operation)) {
		for i, a := range h {
			for _, b := range h {
				if a.Input.Op == Read && b.Input.Op == Read && slices.ContainsFunc(h, func(c operation) bool {
					return c.Output.Changed && a.Return < c.Call && c.Return < b.Call
				}) {
					try(with(h, i, b.Output))
				}
			}
		}
	},
	"an acknowledged lock is lost": func(h []operation, try func([]operation)) {
		for i, o := range h {
			if o.Input.Op == Lock && o.Output.Changed && afterwards(h, o) {
				try(slices.Delete(slices.Clone(h), i, i+1))
			}
		}
	},
	"a lock that was not asked for": func(h []operation, try func([]operation)) {
		for i, o := range h {
			if o.Input.Op == Lock && noted(o) && !o.Output.Changed && afterwards(h, o) {
				out := o.Output
				out.Changed = true
				try(with(h, i, out))
			}
		}
	},
	"a read without one of the locks": func(h []operation, try func([]operation)) {
		for i, o := range h {
			if o.Input.Op == Read && o.Output.Locks != "" {
				out := o.Output
				out.Locks = ""
				try(with(h, i, out))
			}
		}
	},
	"an acknowledged issue is lost": func(h []operation, try func([]operation)) {
		for i, o := range h {
			if made(o) && afterwards(h, o) {
				try(slices.Delete(slices.Clone(h), i, i+1))
			}
		}
	},
	"two winners": func(h []operation, try func([]operation)) {
		for i, o := range h {
			if o.Output.Code == "slot.occupied" && afterwards(h, o) {
				try(with(h, i, Output{Device: "second", Entries: []Entry{{Place: Place{"mdoc", 1 << 40}, MDoc: true}, {Place: Place{"sdjwt", 1 << 40}}}}))
			}
		}
	},
	"two winners, counted on": func(h []operation, try func([]operation)) {
		for i, o := range h {
			if o.Output.Code == "slot.occupied" && afterwards(h, o) {
				h := with(h, i, Output{Device: "second", Entries: []Entry{{Place: Place{"mdoc", 1 << 40}, MDoc: true}, {Place: Place{"sdjwt", 1 << 40}}}})
				for j := range h {
					if h[j].Call > o.Return && h[j].Output.Epoch > 0 {
						h[j].Output.Epoch++
					}
				}
				try(h)
			}
		}
	},
	"a replaced phone comes back": func(h []operation, try func([]operation)) {
		for i, o := range h {
			for k, e := range o.Output.Entries {
				if o.Input.Op == Read && e.Status == invalid {
					try(with(h, i, status(o.Output, k, valid)))
				}
			}
		}
	},
	"a suspended card is shown as valid": func(h []operation, try func([]operation)) {
		for i, o := range h {
			for k, e := range o.Output.Entries {
				if o.Input.Op == Read && e.Status == suspended {
					try(with(h, i, status(o.Output, k, valid)))
				}
			}
		}
	},
	"a list that lacks a revocation acknowledged before its iat": func(h []operation, try func([]operation)) {
		for i, o := range h {
			for k, e := range o.Output.Entries {
				if o.Input.Op == List && e.Status == invalid && slices.ContainsFunc(h, func(r operation) bool {
					return r.Input.Op == Read && r.Return < o.Call && slices.ContainsFunc(r.Output.Entries, func(x Entry) bool { return x.Place == e.Place && x.Status == invalid })
				}) {
					try(with(h, i, status(o.Output, k, valid)))
				}
			}
		}
	},
	"an entry that another credential has": func(h []operation, try func([]operation)) {
		for i, a := range h {
			for _, b := range h {
				if made(a) && made(b) && b.Return < a.Call {
					out := a.Output
					out.Entries = b.Output.Entries
					try(with(h, i, out))
				}
			}
		}
	},
	"a phone that may not have the card gets it": func(h []operation, try func([]operation)) {
		for i, o := range h {
			if o.Output.Code == "card.locked" && afterwards(h, o) {
				try(with(h, i, Output{Device: "thief", Replaced: true, Entries: []Entry{{Place: Place{"mdoc", 1 << 40}, MDoc: true}, {Place: Place{"sdjwt", 1 << 40}}}}))
			}
		}
	},
	"an acknowledgement ahead of the state": func(h []operation, try func([]operation)) {
		for i, o := range h {
			if o.Output.Changed && o.Output.Epoch > 0 {
				out := o.Output
				out.Epoch = 0
				try(with(h, i, out))
			}
		}
	},
}

// The checker can fail: what the daemon really answered is legal, and each lie in it is found. Histories with open operations are left out
// of the lies, since an open operation can stand for one that is missing.
func TestEveryLieIsFound(t *testing.T) {
	all := recorded(t)
	for i, h := range all {
		if !legal(h) {
			t.Errorf("recorded history %d is illegal", i)
		}
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			tried := 0
			for i, h := range all {
				if slices.ContainsFunc(h, func(o operation) bool { return o.Output.Open }) {
					continue
				}
				n := 0
				lie(h, func(h []operation) {
					if n++; n > 40 || t.Failed() { // of each history some
						return
					}
					tried++
					if legal(h) {
						b, _ := json.Marshal(h)
						t.Errorf("history %d with this lie is believed: %s", i, b)
					}
				})
			}
			if tried == 0 {
				t.Error("the recorded histories have no place for this lie")
			}
			t.Logf("%d times", tried)
		})
	}
}

// An open operation may have happened or not, and the others may show either; but not both.
func TestOpenOperations(t *testing.T) {
	lost := operation{Input: Input{Op: Issue, Number: 1, Type: "kr-resident"}, Output: Output{Open: true}, Call: 1, Return: 1 << 62}
	lock := operation{Input: Input{Op: Lock, Reason: "telecom_lost"}, Output: Output{Open: true}, Call: 2, Return: 1 << 62}
	read := func(call int64, epoch uint64, device, locks string, e ...Entry) operation {
		return operation{Input: Input{Op: Read}, Output: Output{Epoch: epoch, Device: device, Locks: locks, Entries: e}, Call: call, Return: call + 1}
	}
	m, s := Entry{Place: Place{"m", 7}, MDoc: true, Device: "d"}, Entry{Place: Place{"s", 9}, Device: "d"}
	off, hold := m, s
	off.Status, hold.Status = invalid, suspended
	other := m
	other.Index = 8
	for _, c := range []struct {
		what string
		ok   bool
		h    []operation
	}{
		{"neither happened", true, []operation{lost, lock, read(10, 0, "", "")}},
		{"the issue happened", true, []operation{lost, lock, read(10, 1, "d", "", m, s)}},
		{"both happened, one after the other", true, []operation{lost, lock, read(10, 0, "", ""), read(20, 1, "d", "", m, s), read(30, 2, "d", "telecom_lost ", off, hold)}},
		{"the issue is undone", false, []operation{lost, lock, read(10, 1, "d", "", m, s), read(20, 0, "", "")}},
		{"it happened twice", false, []operation{lost, read(10, 1, "d", "", m, s), read(20, 2, "d", "", m, s, other, s)}},
		{"what it made changes its place", false, []operation{lost, read(10, 1, "d", "", m, s), read(20, 1, "d", "", other, s)}},
		{"a lock of a card that nobody has", false, []operation{lost, lock, read(10, 1, "", "telecom_lost ")}},
	} {
		if got := legal(c.h); got != c.ok {
			t.Errorf("%s: legal is %v, want %v", c.what, got, c.ok)
		}
	}
}

// Two versions of a list: nothing that was revoked comes back, a suspension may end.
func TestListsTurnedBack(t *testing.T) {
	list := func(version uint64, at int64, bits int, image ...byte) listVersion {
		return listVersion{version, at, bits, image}
	}
	for _, c := range []struct {
		what string
		a, b listVersion
		ok   bool
	}{
		{"grows", list(1, 10, 1, 0b01), list(2, 10, 1, 0b11), true},
		{"an mdoc bit is cleared", list(1, 10, 1, 0b11), list(2, 11, 1, 0b10), false},
		{"the same, fetched in the other order", list(2, 11, 1, 0b10), list(1, 10, 1, 0b11), false},
		{"an unlock", list(1, 10, 2, 0b10), list(2, 11, 2, 0b00), true},
		{"a revocation of what is suspended", list(1, 10, 2, 0b10), list(2, 11, 2, 0b01), true},
		{"a revoked one is revived", list(1, 10, 2, 0b01), list(2, 11, 2, 0b00), false},
		{"a revoked one is suspended", list(1, 10, 2, 0b01), list(2, 11, 2, 0b10), false},
		{"time runs back", list(1, 10, 1, 0), list(2, 9, 1, 0), false},
		{"one version, two contents", list(1, 10, 1, 0), list(1, 10, 1, 1), false},
	} {
		if problem := turnedBack(c.a.list(), c.b.list()); (problem == "") != c.ok {
			t.Errorf("%s: %q", c.what, problem)
		}
	}
}

type listVersion struct {
	version uint64
	at      int64
	bits    int
	image   []byte
}

func (v listVersion) list() *verifier.StatusList {
	return &verifier.StatusList{Version: v.version, IssuedAt: time.Unix(v.at, 0), Bits: v.bits, Image: v.image}
}
