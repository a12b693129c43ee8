package state

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sealkeeper/policy"
)

// oracle is the card written a second time, from what the package promises: it shares no function with it. It says of every event whether
// it is refused and how, and what each published list shows afterwards.
type oracle struct {
	epoch  uint64
	device string // empty: unbound
	first  string // the reservation that bound it
	keys   map[[32]byte]bool
	locks  map[policy.Lock]bool
	held   map[policy.Lock]bool // those of locks whose mdocs wait
	cards  []*issued

	closed     bool
	attributes uint64
	renew      map[string]bool
	orders     map[string]*ordered
}

type issued struct {
	Credential
	waits, dead bool // for its signature; revoked or abandoned
	active      bool // acknowledged
	old, shown  bool // says what has changed; and its status says so
}

// ordered is an order with what it claims: a lock that is there stays while anybody claims it, and an authority's own word ends all claims.
type ordered struct {
	Order
	runs, claims bool
}

func (o *oracle) claimed(l policy.Lock) bool {
	for _, p := range o.orders {
		if p.claims && p.Lock == l {
			return true
		}
	}
	return false
}

func (o *oracle) unclaim(l policy.Lock) (any bool) {
	for _, p := range o.orders {
		if p.claims && p.Lock == l {
			p.claims, any = false, true
		}
	}
	return any
}

func (o *oracle) lock(l policy.Lock) {
	o.locks[l] = true
	for _, c := range o.cards {
		c.dead = c.dead || c.Format == policy.MDoc
	}
}

func (o *oracle) stop(id string) {
	p := o.orders[id]
	delete(o.orders, id)
	if p.claims && !o.claimed(p.Lock) {
		delete(o.locks, p.Lock)
		delete(o.held, p.Lock)
	}
}

func (o *oracle) close() {
	o.end()
	o.closed, o.orders = true, nil
}

// pass lets time pass second by second of what is ordered: begins before ends would not matter, for an order ends after it begins.
func (o *oracle) pass(at time.Time) (any bool) {
	for {
		var first *ordered
		var when time.Time
		for _, p := range o.orders {
			next := p.From
			if p.runs {
				next = p.To
			}
			if !next.After(at) && (first == nil || next.Before(when) || next.Equal(when) && p.ID < first.ID) {
				first, when = p, next
			}
		}
		if first == nil {
			return any
		}
		any = true
		switch {
		case first.Close != "":
			o.close()
		case first.runs:
			o.stop(first.ID)
		default:
			first.runs = true
			first.claims = !o.locks[first.Lock] || o.claimed(first.Lock)
			if !o.locks[first.Lock] {
				o.lock(first.Lock)
			}
			if first.To.IsZero() {
				o.unclaim(first.Lock)
				delete(o.orders, first.ID)
			}
		}
	}
}

// stays: reasons that are about the person.
func stays(l policy.Lock) bool {
	return l.Reason == "card_lost" || l.Reason == "admin_hold" || l.Reason == "court" || l.Reason == "fraud"
}

func (o *oracle) anyLock(which func(policy.Lock) bool) bool {
	for l := range o.locks {
		if which(l) {
			return true
		}
	}
	return false
}

func (o *oracle) end() {
	for _, c := range o.cards {
		c.dead = true
	}
	for l := range o.locks {
		if !stays(l) {
			delete(o.locks, l)
			delete(o.held, l)
		}
	}
	o.device, o.keys, o.renew = "", nil, nil
}

func (o *oracle) make(made []Credential) {
	for _, c := range made {
		c.Device = o.device
		o.cards = append(o.cards, &issued{Credential: c, waits: true})
	}
}

// stale: what the register said since this was asked for is not in it.
func (o *oracle) stale(reservation string) bool {
	return slices.ContainsFunc(o.cards, func(c *issued) bool { return c.Reservation == reservation && c.old })
}

// asks for how many reasons policy is told to have the card made anew: none while that is under way.
func (o *oracle) asks(at time.Time) int {
	for _, c := range o.cards {
		if c.waits && !c.dead && !at.After(c.NotAfter) && !o.stale(c.Reservation) {
			return 0
		}
	}
	return len(o.renew)
}

// apply returns the error that is to come; changed is false if nothing happens.
func (o *oracle) apply(e Event) (changed bool, want error) {
	elsewhere := func(device string) bool { return device != "" && device != o.device }
	switch {
	case e.Issue != nil && e.Issue.Refresh:
		switch i := e.Issue; {
		case o.closed:
			return false, ErrClosed
		case o.device == "":
			return false, ErrUnbound
		case o.device != i.Device:
			return false, ErrOther
		case len(o.locks) > 0:
			return false, ErrLocked
		default:
			for _, k := range i.Keys {
				o.keys[k] = true
			}
			o.make(i.Credentials)
		}
	case e.Issue != nil:
		switch i := e.Issue; {
		case o.closed:
			return false, ErrClosed
		case o.anyLock(stays), i.Device == o.device && len(o.locks) > 0:
			return false, ErrLocked
		case o.device != "" && !i.Replace:
			return false, ErrOccupied
		default:
			o.end()
			o.device, o.first, o.keys = i.Device, i.Credentials[0].Reservation, map[[32]byte]bool{}
			for _, k := range i.Keys {
				o.keys[k] = true
			}
			o.make(i.Credentials)
		}
	case e.Settle != nil:
		for _, c := range o.cards {
			if c.Reservation == e.Settle.Reservation && c.waits && !c.dead {
				c.waits, changed = false, true
			}
		}
		if !changed {
			return false, nil
		}
		if !o.stale(e.Settle.Reservation) {
			o.renew = nil
		}
	case e.Again != nil:
		var old []*issued
		known := ""
		for _, c := range o.cards {
			if c.Reservation == e.Again.Old {
				known = c.Device
				if c.waits && !c.dead && !e.At.After(c.NotAfter) {
					old = append(old, c)
				}
			}
		}
		switch {
		case o.device == "":
			return false, ErrUnbound
		case known != "" && known != o.device:
			return false, ErrOther
		case len(old) == 0:
			return false, ErrSuperseded
		case len(o.locks) > 0:
			return false, ErrLocked
		case !o.keys[e.Again.Credentials[0].Key]:
			return false, ErrEvent
		}
		for _, c := range old {
			c.dead = true
		}
		o.make(e.Again.Credentials)
		for _, was := range old {
			for _, c := range o.cards {
				if c.Reservation == e.Again.Credentials[0].Reservation && o.stale(e.Again.Old) {
					c.old, c.shown = true, c.shown || was.shown
				}
			}
		}
	case e.Lock != nil:
		switch l := e.Lock; {
		case o.closed, elsewhere(l.Device):
			return false, nil
		case o.locks[l.Lock] && (l.Held || !o.held[l.Lock]):
			if !o.unclaim(l.Lock) {
				return false, nil
			}
		case o.device == "" && !stays(l.Lock):
			return false, ErrUnbound
		default:
			o.unclaim(l.Lock)
			if delete(o.held, l.Lock); l.Held {
				o.locks[l.Lock], o.held[l.Lock] = true, true
				break
			}
			o.lock(l.Lock)
		}
	case e.Unlock != nil:
		switch u := e.Unlock; {
		case elsewhere(u.Device):
			return false, nil
		case u.Any && o.anyLock(func(l policy.Lock) bool { return l.Reason == u.Lock.Reason }):
			for l := range o.locks {
				if l.Reason == u.Lock.Reason {
					delete(o.locks, l)
					delete(o.held, l)
					o.unclaim(l)
				}
			}
		case o.locks[u.Lock]:
			delete(o.locks, u.Lock)
			delete(o.held, u.Lock)
			o.unclaim(u.Lock)
		case o.anyLock(func(l policy.Lock) bool { return l.Reason == u.Lock.Reason }):
			return false, ErrClass
		default:
			return false, nil
		}
	case e.Revoke != nil:
		switch {
		case elsewhere(e.Revoke.Device):
			return false, nil
		case o.device == "":
			return false, ErrUnbound
		}
		o.end()
	case e.Ack != nil:
		for _, c := range o.cards {
			if c.Reservation == e.Ack.Reservation && !c.waits && !c.dead && !c.active {
				c.active, changed = true, true
			}
		}
		if !changed {
			return false, nil
		}
	case e.Abandon != nil:
		device := ""
		for _, c := range o.cards {
			if c.Reservation == e.Abandon.Reservation && !c.dead && !c.active && c.waits != e.Abandon.Unacknowledged {
				c.dead, device = true, c.Device
			}
		}
		if device == "" {
			return false, nil
		}
		others := slices.ContainsFunc(o.cards, func(c *issued) bool { return c.Device == device && c.Reservation != e.Abandon.Reservation })
		if device == o.device && e.Abandon.Reservation == o.first && !others && !o.anyLock(func(l policy.Lock) bool { return !stays(l) }) {
			o.end()
		}
	case e.Close != nil:
		if o.closed {
			return false, nil
		}
		o.close()
	case e.Renew != nil:
		r := e.Renew
		if o.closed || r.Attributes != 0 && r.Attributes <= o.attributes {
			return false, nil
		}
		news := r.Attributes != 0
		o.attributes = max(o.attributes, r.Attributes)
		switch {
		case o.device == "":
		case r.Revoke:
			o.end()
			news = true
		default:
			if o.renew == nil {
				o.renew = map[string]bool{}
			}
			for _, reason := range r.Reasons {
				news = news || !o.renew[reason]
				o.renew[reason] = true
			}
			for _, c := range o.cards {
				news = news || !c.dead && !c.old
			}
			for _, c := range o.cards {
				if news && !c.dead {
					c.old, c.shown = true, c.shown || r.Show
				}
			}
		}
		if !news {
			return false, nil
		}
	case e.Order != nil:
		n := e.Order
		switch {
		case o.closed:
			return false, ErrClosed
		case o.orders[n.ID] != nil:
			return false, ErrEvent
		case n.Replace != "" && o.orders[n.Replace] == nil:
			return false, ErrNoOrder
		case n.Replace == "" && len(o.orders) == 8:
			return false, ErrOrders
		}
		old := o.orders[n.Replace]
		over := old != nil && old.runs && !n.From.After(e.At) // the new one has begun before the old one ends
		if old != nil && !over {
			o.stop(n.Replace)
		}
		if o.orders == nil {
			o.orders = map[string]*ordered{}
		}
		o.orders[n.ID] = &ordered{Order: *n}
		if over {
			if o.pass(e.At); o.orders[n.Replace] != nil {
				o.stop(n.Replace)
			}
		}
	case e.Cancel != nil:
		if o.orders[e.Cancel.ID] == nil {
			return false, nil
		}
		o.stop(e.Cancel.ID)
	case e.Due != nil:
		if !o.pass(e.At) {
			return false, nil
		}
	}
	if e.Settle == nil && e.Ack == nil { // which neither policy nor a status can see
		o.epoch++
	}
	o.cards = slices.DeleteFunc(o.cards, func(c *issued) bool { return e.At.After(c.NotAfter) })
	return true, nil
}

// agrees compares everything that can be seen of the card, and what the lists show, which w built from the changes alone.
func (o *oracle) agrees(w *world) error {
	s := w.Slot(w.at)
	if s.Epoch != o.epoch || s.Bound != (o.device != "") || s.Device != o.device || len(s.Keys) != len(o.keys) || len(s.Locks) != len(o.locks) {
		return fmt.Errorf("slot %+v, want epoch %d, device %q, %d keys, locks %v", s, o.epoch, o.device, len(o.keys), o.locks)
	}
	if (s.Closed != "") != o.closed || s.Attributes != o.attributes || len(w.Renew) != len(o.renew) || len(s.Renew) != o.asks(w.at) || len(s.Orders) != len(o.orders) {
		return fmt.Errorf("slot %+v, want closed %v, attributes %d, renew %v, orders %v", s, o.closed, o.attributes, o.renew, o.orders)
	}
	for _, p := range w.Orders {
		if q := o.orders[p.ID]; q == nil || q.runs != p.Begun || q.claims != p.Held {
			return fmt.Errorf("order %+v, want %+v", p, q)
		}
	}
	for _, k := range s.Keys {
		if !o.keys[k] {
			return fmt.Errorf("key %x is not the device's", k)
		}
	}
	for _, l := range s.Locks {
		if !o.locks[l] {
			return fmt.Errorf("lock %v was not added, or was removed", l)
		}
	}
	if len(w.Held) != len(o.held) || slices.ContainsFunc(w.Held, func(l policy.Lock) bool { return !o.held[l] }) {
		return fmt.Errorf("held %v, want %v", w.Held, o.held)
	}
	if len(w.Credentials) != len(o.cards) {
		return fmt.Errorf("%d credentials, want %d", len(w.Credentials), len(o.cards))
	}
	for i, c := range o.cards {
		want := byte(0)
		if c.dead {
			want = 1
		} else if c.Format != policy.MDoc && len(o.locks) > 0 {
			want = 2
		} else if c.Format != policy.MDoc && c.shown {
			want = 3
		}
		if got := w.Credentials[i].Phase == Active; got != c.active && !c.dead || w.Credentials[i].Outdated != c.old {
			return fmt.Errorf("%+v, want active %v, out of date %v", w.Credentials[i], c.active, c.old)
		}
		if got := w.image[c.place()]; got != want || w.Credentials[i].place() != c.place() {
			return fmt.Errorf("the list shows %d for %+v, want %d", got, c.Credential, want)
		}
	}
	return nil
}

// Whatever happens in whatever order, with devices, reasons and reservations mixed up: the state is what the oracle says, and everything that
// world.take holds is true (REVOKED terminal, at most one live device, no mdoc bit 1 → 0, From is what the list shows, statuses from scratch
// equal the running image). Korean cards are refreshed with the phone's key, European ones with a new key each time, a licence is an mdoc
// alone. SEAL_SOAK=1 makes it a million steps.
func TestAnyHistory(t *testing.T) {
	if factor, err := strconv.ParseFloat(os.Getenv("SEAL_SOAK"), 64); err == nil {
		for name, n := range map[string]int{"rapid.steps": 100, "rapid.checks": max(100, int(1e6*factor)/80)} { // on average; some 85 of a hundred are events
			f := flag.Lookup(name)
			old := f.Value.String()
			if err := f.Value.Set(strconv.Itoa(n)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Value.Set(old) })
		}
	}
	reasons := rapid.SampledFrom([]string{"telecom_lost", "self_lost", "line_changed", "card_lost", "admin_hold", "court", "fraud"})
	classes := rapid.SampledFrom([]string{"telecom", "ministry"})
	phones := rapid.SampledFrom([]string{"p1", "p2", "p3"})
	some := rapid.SampledFrom([]string{"", "", "p1", "p2", "p3"})
	orders := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i"})
	types := rapid.SampledFrom([]string{"kr-resident", "eu-pid", "mdl"})
	began, steps, outcomes := time.Now(), 0, map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		w, o, typ := newWorld(), &oracle{locks: map[policy.Lock]bool{}, held: map[policy.Lock]bool{}}, types.Draw(t, "type")
		credentials := func(phone string) []Credential {
			c := w.credentials(phone)
			if typ == "mdl" {
				c = c[:1]
			}
			return c
		}
		do := func(kind string, e Event) {
			steps++
			err := w.apply(e)
			if err != nil && strings.HasPrefix(err.Error(), "BROKEN") {
				t.Fatal(err)
			}
			e.At = w.at
			changed, want := o.apply(e)
			if !errors.Is(err, want) || err != nil && want == nil {
				t.Fatalf("%s: error %v, want %v", kind, err, want)
			}
			if err := o.agrees(w); err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			outcomes[fmt.Sprintf("%s changed=%v %v", kind, changed, want)]++
		}
		reservation := func(t *rapid.T) string {
			return fmt.Sprintf("r%d", max(1, w.made-rapid.IntRange(-1, 7).Draw(t, "reservation"))) // one of the last, or none yet
		}
		lock := func(t *rapid.T) policy.Lock {
			l := policy.Lock{Reason: reasons.Draw(t, "reason"), Class: classes.Draw(t, "class")}
			if l.Class == "telecom" {
				l.By = rapid.SampledFrom([]string{"telecom-a", "telecom-b"}).Draw(t, "carrier")
			}
			return l
		}
		// What is named first by the alphabet is drawn more often.
		t.Repeat(map[string]func(*rapid.T){
			"issue": func(t *rapid.T) {
				d := phones.Draw(t, "phone")
				do("issue", Event{Issue: &Issue{Device: d, Keys: [][32]byte{key(d)}, Credentials: credentials(d), Replace: rapid.Bool().Draw(t, "replace")}})
			},
			"refresh": func(t *rapid.T) {
				d := phones.Draw(t, "phone")
				k, c := key(d), credentials(d)
				if typ == "eu-pid" {
					k = key(fmt.Sprintf("%s, key %d", d, w.made))
				}
				for i := range c {
					c[i].Key = k
				}
				do("refresh", Event{Issue: &Issue{Device: d, Keys: [][32]byte{k}, Credentials: c, Refresh: true}})
			},
			"settle": func(t *rapid.T) { do("settle", Event{Settle: &Settle{reservation(t)}}) },
			"again": func(t *rapid.T) {
				do("again", Event{Again: &Again{reservation(t), credentials(phones.Draw(t, "phone"))}})
			},
			"lock": func(t *rapid.T) {
				do("lock", Event{Lock: &Lock{Lock: lock(t), Device: some.Draw(t, "phone"), Held: rapid.Bool().Draw(t, "held")}})
			},
			"unlock": func(t *rapid.T) { do("unlock", Event{Unlock: &Unlock{Lock: lock(t), Device: some.Draw(t, "phone")}}) },
			"unlock2": func(t *rapid.T) {
				do("unlock", Event{Unlock: &Unlock{Lock: lock(t), Any: rapid.Bool().Draw(t, "any")}})
			}, // or locks would pile up
			"release": func(t *rapid.T) {
				for _, l := range slices.Clone(w.Locks) {
					do("unlock", Event{Unlock: &Unlock{Lock: l}})
				}
			},
			"revoke": func(t *rapid.T) { do("revoke", Event{Revoke: &Revoke{"fraud", some.Draw(t, "phone")}}) },
			"a phone gets its card": func(t *rapid.T) {
				d := phones.Draw(t, "phone")
				do("issue", Event{Issue: &Issue{Device: d, Keys: [][32]byte{key(d)}, Credentials: credentials(d), Replace: true}})
				do("settle", Event{Settle: &Settle{fmt.Sprintf("r%d", w.made)}})
			},
			"got it": func(t *rapid.T) { do("ack", Event{Ack: &Ack{reservation(t)}}) },
			"nobody finishes": func(t *rapid.T) {
				do("abandon", Event{Abandon: &Abandon{reservation(t), rapid.Bool().Draw(t, "unacknowledged")}})
			},
			"nobody finishes either": func(t *rapid.T) { // what an old phone or a new one asked for, which is lost meanwhile, or not
				d := phones.Draw(t, "phone")
				if w.Device != nil && rapid.Bool().Draw(t, "old") {
					d, w.at = w.Device.ID, w.at.Add(life+time.Hour)
				}
				bound := w.Device != nil && w.Device.ID == d
				do("ask", Event{Issue: &Issue{Device: d, Keys: [][32]byte{key(d)}, Credentials: credentials(d), Refresh: bound, Replace: !bound}})
				asked := fmt.Sprintf("r%d", w.made)
				if rapid.Bool().Draw(t, "lost") {
					do("lock", Event{Lock: &Lock{Lock: policy.Lock{Reason: "telecom_lost", Class: "telecom", By: "telecom-a"}, Device: d}})
				}
				do("abandon", Event{Abandon: &Abandon{Reservation: asked}})
			},
			"close": func(t *rapid.T) {
				if rapid.IntRange(0, 99).Draw(t, "rarely") == 57 { // nothing happens to who is closed
					do("close", Event{Close: &Close{"deceased"}})
				}
			},
			"renew": func(t *rapid.T) { // Korea keeps what is out of date and shows it, Europe revokes it
				do("renew", Event{Renew: &Renew{Reasons: []string{rapid.SampledFrom([]string{"address", "name"}).Draw(t, "why")},
					Attributes: rapid.Uint64Range(0, 20).Draw(t, "count"), Revoke: typ == "eu-pid", Show: typ == "kr-resident"}})
			},
			"order": func(t *rapid.T) {
				o := Order{ID: orders.Draw(t, "order"), From: w.at.Add(time.Duration(rapid.IntRange(-1, 100).Draw(t, "from")) * 24 * time.Hour)}
				o.Lock = policy.Lock{Reason: rapid.SampledFrom([]string{"admin_hold", "court"}).Draw(t, "reason"), Class: "ministry"}
				o.Class = o.Lock.Class
				switch rapid.IntRange(0, 19).Draw(t, "sort") {
				case 0:
					o.Lock, o.Close = policy.Lock{}, "deceased"
				case 1, 2, 3:
				default:
					o.To = o.From.Add(time.Duration(rapid.IntRange(1, 100).Draw(t, "days")) * 24 * time.Hour)
				}
				if rapid.IntRange(0, 3).Draw(t, "replace") == 0 {
					o.Replace = orders.Draw(t, "replaces")
				}
				do("order", Event{Order: &o})
			},
			"extend": func(t *rapid.T) { // an order that has begun, or a first one
				o := Order{ID: orders.Draw(t, "order"), Class: "ministry", From: w.at, To: w.at.Add(time.Duration(rapid.IntRange(1, 100).Draw(t, "days")) * 24 * time.Hour)}
				o.Lock = policy.Lock{Reason: rapid.SampledFrom([]string{"admin_hold", "court"}).Draw(t, "reason"), Class: o.Class}
				if i := slices.IndexFunc(w.Orders, func(p Order) bool { return p.Begun }); i >= 0 {
					o.Replace = w.Orders[i].ID
				}
				do("extend", Event{Order: &o})
				if o.Replace == "" {
					do("due", Event{Due: &Due{}})
				}
			},
			"cancel": func(t *rapid.T) { do("cancel", Event{Cancel: &Cancel{orders.Draw(t, "order")}}) },
			"due":    func(t *rapid.T) { do("due", Event{Due: &Due{}}) },
			"wait":   func(t *rapid.T) { w.at = w.at.Add(life / 4 * time.Duration(rapid.IntRange(1, 5).Draw(t, "quarters"))) },
		})
	})
	t.Logf("%d steps in %s: %v", steps, time.Since(began).Round(time.Millisecond), outcomes)
}
