// Package histories lets clients work on the same cards at the same time while daemon and workers are killed, and asks of everything that
// they saw: is there an order in which one card after the other, one step at a time, would have given these answers?
//
// The model below is the card of docs/integrator.md and docs/invariants.md, written a second time. It shares no code with ledger/state.
package histories

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// What a client did to one card.
const (
	Issue   = "issue"
	Replace = "replace"
	Refresh = "refresh"
	Lock    = "lock"
	Unlock  = "unlock"
	Revoke  = "revoke"
	Foreign = "foreign" // a change for a reason that is another authority's
	Read    = "read"    // the holder's state
	List    = "list"    // published lists
)

// Input of an operation.
type Input struct {
	Op     string
	Type   string  `json:",omitempty"` // document type
	Number int     `json:",omitempty"` // of the operation in its history: names what an issue made if its answer was lost
	Phone  int     `json:",omitempty"` // issue, replace, refresh: whose key it is, 0 to 63
	Former int     `json:",omitempty"` // refresh of eu-pid: whose key shows that it is still the same phone, 0 to 63
	Reason string  `json:",omitempty"`
	Device string  `json:",omitempty"` // act only on this one
	Asked  []Place `json:",omitempty"` // List: the entries that were looked up
}

// Output of an operation. Open: no answer came; it may have happened or not.
type Output struct {
	Open     bool    `json:",omitempty"`
	Code     string  `json:",omitempty"` // of a refusal
	Changed  bool    `json:",omitempty"` // lock, unlock, revoke
	Replaced bool    `json:",omitempty"` // issue
	Device   string  `json:",omitempty"` // issue, read
	Epoch    uint64  `json:",omitempty"` // read; of a change, the epoch of the state that was read after it
	Locks    string  `json:",omitempty"` // read: sorted reasons, a space after each
	Entries  []Entry `json:",omitempty"` // issue: what was made; read: all; list: the entries asked for
}

// Place in a status list.
type Place struct {
	List  string
	Index uint64
}

// Entry is a credential, or what a list says of one.
type Entry struct {
	Place
	MDoc   bool   `json:",omitempty"`
	Device string `json:",omitempty"`
	Status byte   // as in a status list
}

const (
	valid     byte = 0
	invalid   byte = 1
	suspended byte = 2
)

// refusals that come after the reservation: the issue had its effect, and its credentials were revoked before they could be handed out.
const superseded = "reservation.superseded"

// card is the model's state of one person's card.
type card struct {
	epoch  uint64
	device string // empty: unbound; "?n": bound by operation n, whose answer was lost
	keys   uint64 // phones whose keys the bound device has
	locks  []string
	made   []credential
}

type credential struct {
	place  Place // zero: of an issue whose answer was lost, and that no read has shown yet
	mdoc   bool
	device string
	dead   bool
}

// clone shares nothing that step changes.
func (c card) clone() card {
	c.locks, c.made = slices.Clone(c.locks), slices.Clone(c.made)
	return c
}

func (c card) status(m credential) byte {
	switch {
	case m.dead:
		return invalid
	case !m.mdoc && len(c.locks) > 0:
		return suspended
	}
	return valid
}

// ofPhone: these two reasons are about the phone and end with it; the others are about the person and stop every issue.
func ofPhone(reason string) bool {
	return reason == "telecom_lost" || reason == "self_lost" || reason == "line_changed"
}
func ofPerson(reason string) bool { return !ofPhone(reason) }

// step is what a card does with one operation; the refusal names the only code that may be answered then.
func (c card) step(in Input, out Output) (next card, refusal string, changed bool) {
	n := c.clone()
	if in.Device != "" && in.Device != c.device { // about a phone that does not have the card (any more)
		return c, "", false
	}
	switch in.Op {
	case Issue, Replace:
		switch {
		case slices.ContainsFunc(c.locks, ofPerson):
			return c, "card.locked", false
		case c.device != "" && in.Op == Issue:
			return c, "slot.occupied", false
		case c.keys>>in.Phone&1 == 1:
			return c, "slot.same_device", false
		}
		n.end()
		n.device, n.keys = out.Device, 1<<in.Phone
		if n.device == "" {
			n.device = fmt.Sprintf("?%d", in.Number)
		}
		n.add(out)
	case Refresh:
		msos := slices.ContainsFunc(c.made, func(m credential) bool { return m.mdoc && !m.dead })
		switch {
		case c.device == "":
			return c, "slot.empty", false
		case len(c.locks) > 0:
			return c, "card.locked", false
		case in.Type == "kr-resident" && c.keys>>in.Phone&1 == 0: // the same phone's key; eu-pid takes a new one each time
			return c, "refresh.other_device", false
		case in.Type == "eu-pid" && c.keys>>in.Phone&1 == 1:
			return c, "refresh.used_key", false
		case in.Type == "eu-pid" && c.keys>>in.Former&1 == 0: // a new one's owner is known by one of before
			return c, "refresh.other_device", false
		case in.Type == "kr-resident" && msos: // 45 days have not gone by
			return c, "refresh.early", false
		}
		n.keys |= 1 << in.Phone
		if strings.HasPrefix(n.device, "?") && out.Device != "" {
			n.rename(n.device, out.Device)
			n.device = out.Device
		}
		n.add(out)
	case Lock:
		switch {
		case slices.Contains(c.locks, in.Reason):
			return c, "", false
		case c.device == "" && ofPhone(in.Reason):
			return c, "slot.empty", false
		}
		n.locks = append(n.locks, in.Reason)
		slices.Sort(n.locks)
		for i := range n.made {
			n.made[i].dead = n.made[i].dead || n.made[i].mdoc // a bit that does not come back
		}
	case Unlock:
		i := slices.Index(c.locks, in.Reason)
		if i < 0 {
			return c, "", false
		}
		n.locks = slices.Delete(n.locks, i, i+1)
	case Revoke:
		if c.device == "" {
			return c, "", false
		}
		n.end()
	case Foreign:
		return c, "reason.forbidden", false
	}
	n.epoch++
	return n, "", true
}

// end of the bound phone: everything of it is revoked for ever, and the locks that were about it go with it.
func (c *card) end() {
	for i := range c.made {
		c.made[i].dead = true
	}
	c.locks = slices.DeleteFunc(c.locks, ofPhone)
	c.device, c.keys = "", 0
}

// add a credential in each format.
func (c *card) add(out Output) {
	if len(out.Entries) == 0 {
		c.made = append(c.made, credential{mdoc: true, device: c.device}, credential{device: c.device})
		return
	}
	for _, e := range out.Entries {
		c.made = append(c.made, credential{place: e.Place, mdoc: e.MDoc, device: c.device})
	}
}

// apply reports whether out may be the answer to in, and what the card is then.
func apply(c card, in Input, out Output) (bool, card) {
	switch in.Op {
	case Read:
		return c.shows(out)
	case List:
		return c.listed(out), c
	}
	n, refusal, changed := c.step(in, out)
	issue := in.Op == Issue || in.Op == Replace || in.Op == Refresh
	switch {
	case out.Open: // linearised at the end it did not happen: nobody saw it
		return true, n
	case out.Code == superseded:
		return issue && refusal == "", n
	case out.Code != refusal:
		return false, c
	case refusal != "":
		return true, c
	case issue:
		return out.Device != "" && len(out.Entries) == 2 && n.device == out.Device && out.Replaced == (in.Op == Replace && c.device != "") && c.fresh(out), n
	}
	return out.Changed == changed && out.Epoch >= n.epoch, n
}

// fresh: no entry was ever another credential's.
func (c card) fresh(out Output) bool {
	return !slices.ContainsFunc(c.made, func(m credential) bool {
		return m.place.List != "" && slices.ContainsFunc(out.Entries, func(e Entry) bool { return e.Place == m.place })
	})
}

// shows compares a read of the holder's state, and takes from it what a lost answer would have told.
func (c card) shows(out Output) (bool, card) {
	n := c.clone()
	if strings.HasPrefix(c.device, "?") && out.Device != "" {
		n.rename(n.device, out.Device)
		n.device = out.Device
	}
	locks := ""
	for _, l := range c.locks {
		locks += l + " "
	}
	if out.Epoch != c.epoch || out.Device != n.device || out.Locks != locks || len(out.Entries) != len(c.made) {
		return false, c
	}
	seen := make([]bool, len(n.made))
	take := func(e Entry, same func(credential) bool) bool {
		for i, m := range n.made {
			if !seen[i] && same(m) && m.mdoc == e.MDoc && c.status(m) == e.Status {
				seen[i], n.made[i].place = true, e.Place
				if strings.HasPrefix(m.device, "?") {
					n.rename(m.device, e.Device)
				}
				return n.made[i].device == e.Device
			}
		}
		return false
	}
	var unknown []Entry
	for _, e := range out.Entries {
		if slices.ContainsFunc(c.made, func(m credential) bool { return m.place == e.Place }) {
			if !take(e, func(m credential) bool { return m.place == e.Place }) {
				return false, c
			}
		} else {
			unknown = append(unknown, e)
		}
	}
	for _, e := range unknown { // credentials of one device and format share their fate, so which of them is which makes no difference
		if !take(e, func(m credential) bool {
			return m.place.List == "" && (m.device == e.Device || strings.HasPrefix(m.device, "?"))
		}) {
			return false, c
		}
	}
	return true, n
}

// rename gives a device of a lost answer the id that it turned out to have.
func (c *card) rename(from, to string) {
	for i := range c.made {
		if c.made[i].device == from {
			c.made[i].device = to
		}
	}
}

// listed compares what a list says of entries. One that no credential has yet is valid there; one of a lost answer can't be told apart.
func (c card) listed(out Output) bool {
	lost := slices.ContainsFunc(c.made, func(m credential) bool { return m.place.List == "" })
	for _, e := range out.Entries {
		i := slices.IndexFunc(c.made, func(m credential) bool { return m.place == e.Place })
		if i >= 0 && c.status(c.made[i]) != e.Status || i < 0 && e.Status != valid && !lost {
			return false
		}
	}
	return true
}

var seed = maphash.MakeSeed()

// model of one card. A history of many cards is checked card by card: no operation touches two.
var model = porcupine.Model{
	Init: func() any { return card{} },
	Step: func(state, input, output any) (bool, any) {
		ok, next := apply(state.(card), input.(Input), output.(Output))
		return ok, next
	},
	Equal: func(a, b any) bool {
		x, y := a.(card), b.(card)
		return x.epoch == y.epoch && x.device == y.device && x.keys == y.keys && slices.Equal(x.locks, y.locks) && slices.Equal(x.made, y.made)
	},
	Hash: func(s any) uint64 {
		c := s.(card)
		return maphash.Comparable(seed, struct {
			epoch  uint64
			device string
		}{c.epoch, c.device})
	},
	DescribeOperation: func(in, out any) string { return describe(in.(Input), out.(Output)) },
	DescribeState: func(s any) string {
		c := s.(card)
		text := fmt.Sprintf("epoch %d, device %q, locks %v", c.epoch, c.device, c.locks)
		for _, m := range c.made {
			text += fmt.Sprintf(", %s/%d of %s: %d", m.place.List, m.place.Index, m.device, c.status(m))
		}
		return text
	},
}

func describe(in Input, out Output) string {
	text := in.Op
	switch in.Op {
	case Issue, Replace, Refresh:
		text += fmt.Sprintf("(phone %d)", in.Phone)
	case Lock, Unlock, Revoke, Foreign:
		text += fmt.Sprintf("(%s %s)", in.Reason, in.Device)
	}
	switch {
	case out.Open:
		return text + " → ?"
	case out.Code != "":
		return text + " → " + out.Code
	}
	text += fmt.Sprintf(" → changed=%v epoch=%d device=%s locks=[%s]", out.Changed, out.Epoch, out.Device, out.Locks)
	for _, e := range out.Entries {
		text += fmt.Sprintf(" %s/%d:%d", e.List, e.Index, e.Status)
	}
	return text
}
