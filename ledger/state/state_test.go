package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"sealkeeper/policy"
)

// world runs events and holds what the published lists would show, built from the changes alone.
type world struct {
	State
	at    time.Time
	made  int
	image map[place]byte
	mdoc  map[place]bool
	ended map[place]bool // places that were ever INVALID
}

func newWorld() *world {
	return &world{at: time.Date(2025, 3, 28, 0, 0, 0, 0, time.FixedZone("KST", 9*3600)), image: map[place]byte{}, mdoc: map[place]bool{}, ended: map[place]bool{}}
}

const life = 90 * 24 * time.Hour

// credentials of one reservation: an MSO and an SD-JWT VC for one key of the device.
func (w *world) credentials(device string) []Credential {
	w.made++
	r := fmt.Sprintf("r%d", w.made)
	c := []Credential{
		{Reservation: r, Format: policy.MDoc, List: "mdoc", Index: uint64(w.made), Key: key(device), NotAfter: w.at.Add(life)},
		{Reservation: r, Format: policy.SDJWT, List: "sdjwt", Index: uint64(w.made), Key: key(device), NotAfter: w.at.Add(life)},
	}
	w.mdoc[c[0].place()] = true
	return c
}

func key(device string) (k [32]byte) { copy(k[:], device); return k }

// apply an event, and hold everything that is true of every event.
func (w *world) apply(e Event) error {
	e.At = w.at
	was, err := json.Marshal(w.State)
	if err != nil {
		return fmt.Errorf("BROKEN: %w", err)
	}
	next, changes, err := w.State.Apply(e)
	if now, _ := json.Marshal(w.State); string(now) != string(was) {
		return fmt.Errorf("BROKEN: Apply touched its receiver: %s, was %s", now, was)
	}
	if err != nil {
		if !reflect.DeepEqual(next, w.State) || changes != nil {
			return fmt.Errorf("BROKEN: a refused event left %+v, %v", next, changes)
		}
		return err
	}
	return w.take(next, changes, e)
}

func (w *world) take(next State, changes []Change, e Event) error {
	same := reflect.DeepEqual(next, w.State)
	switch raised := next.Epoch - w.Epoch; {
	case raised > 1, raised == 1 && same, raised == 0 && !same && e.Settle == nil && e.Ack == nil, raised == 0 && len(changes) > 0, raised == 1 && (e.Settle != nil || e.Ack != nil):
		return fmt.Errorf("BROKEN: epoch %d → %d, same state: %v, changes: %v", w.Epoch, next.Epoch, same, changes)
	}
	for _, c := range changes {
		p := place{c.List, c.Index}
		switch {
		case c.From == c.To || w.image[p] != c.From:
			return fmt.Errorf("BROKEN: change %+v of a status that is %d", c, w.image[p])
		case w.mdoc[p] && c.To != Invalid:
			return fmt.Errorf("BROKEN: an mdoc list has one bit: %+v", c)
		case w.ended[p]:
			return fmt.Errorf("BROKEN: REVOKED is terminal: %+v", c)
		}
		w.image[p] = c.To
		w.ended[p] = c.To == Invalid
	}
	devices := map[string]bool{}
	for _, c := range next.Credentials {
		if got := next.Status(c); got != w.image[c.place()] {
			return fmt.Errorf("BROKEN: status of %s/%d is %d, the list shows %d", c.List, c.Index, got, w.image[c.place()])
		}
		if c.live() {
			devices[c.Device] = true
		}
		if c.live() && c.Format == policy.MDoc && len(next.Locks) > len(next.Held) {
			return fmt.Errorf("BROKEN: a live MSO while locked: %+v", c)
		}
	}
	if len(devices) > 1 || len(devices) == 1 && !devices[next.Slot(w.at).Device] {
		return fmt.Errorf("BROKEN: live devices %v, bound %+v", devices, next.Device)
	}
	if next.Device == nil {
		for _, l := range next.Locks {
			if !SubjectLock(l.Reason) {
				return fmt.Errorf("BROKEN: device lock %v without a device", l)
			}
		}
	}
	b, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("BROKEN: %w", err)
	}
	var back State
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, next) {
		return fmt.Errorf("BROKEN: %s comes back as %+v (%v), was %+v", b, back, err, next)
	}
	w.State = next
	return nil
}

// The test language. A story is steps joined by →; each is verb(arguments), and verb(…)!name expects the error of that name.
//
//	issue(p) replace(p) refresh(p)        reservation r1, r2, … with an MSO and an SD-JWT VC
//	settle(r1) again(r1) wait(24h)
//	lost(p) found(p)                      telecom_lost of the telecom class, for that phone only
//	lock(reason/class[/carrier]) unlock(reason/class[/carrier]) lift(reason/class) lock(p, reason/class) unlock(p, reason/class)
//	revoke() revoke(p)
var step = regexp.MustCompile(`^(\w+)\(([^)]*)\)(?:!(\w+))?$`)

var names = map[string]error{"occupied": ErrOccupied, "unbound": ErrUnbound, "other": ErrOther, "locked": ErrLocked, "class": ErrClass,
	"superseded": ErrSuperseded, "event": ErrEvent}

func (w *world) tell(t *testing.T, story string) {
	t.Helper()
	for _, s := range strings.Split(story, "→") {
		m := step.FindStringSubmatch(strings.TrimSpace(s))
		if m == nil {
			t.Fatalf("step %q is not in the language", s)
		}
		var args []string
		for _, a := range strings.Split(m[2], ",") {
			if a = strings.TrimSpace(a); a != "" {
				args = append(args, a)
			}
		}
		if m[1] == "wait" {
			d, err := time.ParseDuration(args[0])
			if err != nil {
				t.Fatal(err)
			}
			w.at = w.at.Add(d)
			continue
		}
		err := w.apply(w.event(t, m[1], args))
		if want := names[m[3]]; m[3] != "" && want == nil || !errors.Is(err, want) || err != nil && want == nil {
			t.Fatalf("%s in %q: error %v, want %v", strings.TrimSpace(s), story, err, want)
		}
	}
}

func (w *world) event(t *testing.T, verb string, args []string) Event {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	lock := func(s string) policy.Lock {
		reason, class, _ := strings.Cut(s, "/")
		class, by, _ := strings.Cut(class, "/")
		return policy.Lock{Reason: reason, Class: class, By: by}
	}
	device, of := "", arg(0)
	if len(args) == 2 {
		device, of = arg(0), arg(1)
	}
	switch verb {
	case "issue", "replace", "refresh":
		i := &Issue{Device: arg(0), Keys: [][32]byte{key(arg(0))}, Replace: verb == "replace", Refresh: verb == "refresh"}
		i.Credentials = w.credentials(arg(0))
		return Event{Issue: i}
	case "settle":
		return Event{Settle: &Settle{Reservation: arg(0)}}
	case "again":
		d := ""
		if w.Device != nil {
			d = w.Device.ID
		}
		return Event{Again: &Again{Old: arg(0), Credentials: w.credentials(d)}}
	case "lost":
		return Event{Lock: &Lock{Lock: lock("telecom_lost/telecom"), Device: arg(0)}}
	case "found":
		return Event{Unlock: &Unlock{Lock: lock("telecom_lost/telecom"), Device: arg(0)}}
	case "lock":
		return Event{Lock: &Lock{Lock: lock(of), Device: device}}
	case "unlock":
		return Event{Unlock: &Unlock{Lock: lock(of), Device: device}}
	case "lift":
		return Event{Unlock: &Unlock{Lock: lock(of), Any: true}}
	case "revoke":
		return Event{Revoke: &Revoke{Reason: "user_request", Device: arg(0)}}
	}
	t.Fatalf("verb %q is not in the language", verb)
	return Event{}
}

// show: bound device, locks, then phone and status of both credentials of each reservation: "p2 [court/court] r1:p1=1,1 r2:p2=0,0".
func (w *world) show() string {
	out := "-"
	if w.Device != nil {
		out = w.Device.ID
	}
	var locks []string
	for _, l := range w.Locks {
		locks = append(locks, l.Reason+"/"+l.Class)
	}
	out += " [" + strings.Join(locks, " ") + "]"
	for i, c := range w.Credentials {
		if i > 0 && w.Credentials[i-1].Reservation == c.Reservation {
			out += fmt.Sprintf(",%d", w.Status(c))
		} else {
			out += fmt.Sprintf(" %s:%s=%d", c.Reservation, c.Device, w.Status(c))
		}
	}
	return out
}

func TestStories(t *testing.T) {
	for _, c := range []struct{ requirement, story, end string }{
		{"a phone gets its card",
			"issue(p1) → settle(r1)", "p1 [] r1:p1=0,0"},
		{"fact 15: one device, the second phone is refused without replace",
			"issue(p1) → issue(p2)!occupied", "p1 [] r1:p1=0,0"},
		{"fact 15: replacing revokes everything of the old phone in the same step, both formats",
			"issue(p1) → settle(r1) → refresh(p1) → replace(p2)", "p2 [] r1:p1=1,1 r2:p1=1,1 r3:p2=0,0"},
		{"fact 15: a reservation that was never settled is revoked like a signed one",
			"issue(p1) → replace(p2) → settle(r1)", "p2 [] r1:p1=1,1 r2:p2=0,0"},
		{"replace on an empty slot is a first issue",
			"replace(p1)", "p1 [] r1:p1=0,0"},
		{"a phone that has the card does not get it issued again without replace",
			"issue(p1) → issue(p1)!occupied → replace(p1)", "p1 [] r1:p1=1,1 r3:p1=0,0"},
		{"a lost phone does not shed its lock by being issued to again",
			"issue(p1) → lost(p1) → replace(p1)!locked", "p1 [telecom_lost/telecom] r1:p1=1,2"},
		{"fact 23: a loss report suspends the SD-JWT VC and revokes the MSO",
			"issue(p1) → settle(r1) → lost(p1)", "p1 [telecom_lost/telecom] r1:p1=1,2"},
		{"b7: a carrier lifts what it locked itself, and only a higher authority lifts everybody's",
			"issue(p1) → lock(telecom_lost/telecom/a) → unlock(telecom_lost/telecom/b)!class → lock(telecom_lost/telecom/b)" +
				" → unlock(telecom_lost/telecom/a) → unlock(telecom_lost/telecom/a)!class → lock(telecom_lost/telecom/a) → lock(self_lost/holder)" +
				" → lift(telecom_lost/ministry)", "p1 [self_lost/holder] r1:p1=1,2"},
		{"fact 24: unlock brings the SD-JWT VC back; the MSO stays revoked until a refresh makes another",
			"issue(p1) → lost(p1) → found(p1) → refresh(p1)", "p1 [] r1:p1=1,0 r2:p1=0,0"},
		{"a refresh is refused while any lock stands",
			"issue(p1) → lost(p1) → refresh(p1)!locked → found(p1) → lock(court/court) → refresh(p1)!locked", "p1 [court/court] r1:p1=1,2"},
		{"fact 25: the lock is on the phone: a new one may be issued to, and the late found revives nothing",
			"issue(p1) → lost(p1) → replace(p2) → found(p1)", "p2 [] r1:p1=1,1 r2:p2=0,0"},
		{"fact 25: a late loss report does not hit the new phone",
			"issue(p1) → replace(p2) → lost(p1)", "p2 [] r1:p1=1,1 r2:p2=0,0"},
		{"fact 26: duplicates change nothing",
			"issue(p1) → lost(p1) → lost(p1) → found(p1) → found(p1)", "p1 [] r1:p1=1,0"},
		{"fact 26: three days late is as good as in time",
			"issue(p1) → wait(72h) → lost(p1) → replace(p2) → wait(72h) → found(p1) → lost(p1)", "p2 [] r1:p1=1,1 r2:p2=0,0"},
		{"fact 26: found for a phone that nobody knows",
			"found(p9) → issue(p1) → found(p9) → lost(p9)", "p1 [] r1:p1=0,0"},
		{"T4: lock reasons are a set: the card is suspended until the last one is gone",
			"issue(p1) → lost(p1) → lock(self_lost/holder) → found(p1)", "p1 [self_lost/holder] r1:p1=1,2"},
		{"T4: the last reason is gone",
			"issue(p1) → lost(p1) → lock(self_lost/holder) → found(p1) → unlock(self_lost/holder)", "p1 [] r1:p1=1,0"},
		{"only the class that added a reason may remove it",
			"issue(p1) → lock(court/court) → unlock(court/telecom)!class", "p1 [court/court] r1:p1=1,2"},
		{"two classes may hold one reason, each its own",
			"issue(p1) → lock(fraud/telecom) → lock(fraud/ministry) → unlock(fraud/telecom) → unlock(fraud/telecom)!class",
			"p1 [fraud/ministry] r1:p1=1,2"},
		{"a reason that is not there can't be removed, and that is no error",
			"issue(p1) → lock(court/court) → unlock(fraud/ministry)", "p1 [court/court] r1:p1=1,2"},
		{"b6, P4: card_lost blocks a new phone",
			"issue(p1) → lock(card_lost/card_system) → replace(p2)!locked", "p1 [card_lost/card_system] r1:p1=1,2"},
		{"b6, P4: admin_hold, court and fraud block a new phone, with and without a device lock beside them",
			"issue(p1) → lost(p1) → lock(admin_hold/ministry) → replace(p2)!locked → unlock(admin_hold/ministry) → lock(court/court)" +
				" → replace(p2)!locked → unlock(court/court) → lock(fraud/ministry) → replace(p2)!locked → unlock(fraud/ministry) → replace(p2)",
			"p2 [] r1:p1=1,1 r5:p2=0,0"},
		{"a subject lock blocks issuing to an unbound slot, before the first card too",
			"lock(card_lost/card_system) → issue(p1)!locked → unlock(card_lost/card_system) → issue(p1)", "p1 [] r2:p1=0,0"},
		{"a device lock needs a device",
			"lock(telecom_lost/telecom)!unbound → lock(p1, telecom_lost/telecom)", "- []"},
		{"P5: a subject lock for a phone that was replaced changes nothing",
			"issue(p1) → replace(p2) → lock(p1, fraud/ministry)", "p2 [] r1:p1=1,1 r2:p2=0,0"},
		{"a technical refresh does not revoke its predecessor; locks and revocations act on both",
			"issue(p1) → refresh(p1) → lost(p1)", "p1 [telecom_lost/telecom] r1:p1=1,2 r2:p1=1,2"},
		{"a refresh for a phone that was replaced",
			"refresh(p1)!unbound → issue(p1) → replace(p2) → refresh(p1)!other", "p2 [] r2:p1=1,1 r3:p2=0,0"},
		{"revocation empties the slot, ends the device's locks and keeps the subject's",
			"issue(p1) → lost(p1) → lock(court/court) → revoke()", "- [court/court] r1:p1=1,1"},
		{"REVOKED is terminal: nothing that is unlocked later comes back",
			"issue(p1) → lock(court/court) → revoke() → unlock(court/court) → issue(p2)", "p2 [] r1:p1=1,1 r2:p2=0,0"},
		{"a revocation for a phone that was replaced changes nothing",
			"issue(p1) → replace(p2) → revoke(p1)", "p2 [] r1:p1=1,1 r2:p2=0,0"},
		{"nothing to revoke",
			"revoke()!unbound → revoke(p1)", "- []"},
		{"b3: a replaced reservation is abandoned, its indices are invalid and no one else's are",
			"issue(p1) → settle(r1) → refresh(p1) → again(r2)", "p1 [] r1:p1=0,0 r2:p1=1,1 r3:p1=0,0"},
		{"a settled reservation is not replaced, nor one that nobody knows",
			"issue(p1) → settle(r1) → again(r1)!superseded → again(r9)!superseded", "p1 [] r1:p1=0,0"},
		{"a reservation is not replaced while the card is locked: no MSO is made then",
			"issue(p1) → lost(p1) → again(r1)!locked → found(p1) → again(r1)", "p1 [] r1:p1=1,1 r3:p1=0,0"},
		{"a reservation of a phone that was replaced or revoked is not made again",
			"issue(p1) → replace(p2) → again(r1)!other → revoke() → again(r1)!unbound", "- [] r1:p1=1,1 r2:p2=1,1"},
		{"a revoked phone that is bound anew does not get its old reservation again",
			"issue(p1) → revoke() → issue(p1) → again(r1)!superseded", "p1 [] r1:p1=1,1 r2:p1=0,0"},
		{"a reservation that is expired waits for nothing, dropped or not",
			"issue(p1) → wait(2161h) → again(r1)!superseded", "p1 [] r1:p1=0,0"},
		{"expired credentials are dropped, the phone stays bound",
			"issue(p1) → wait(2161h) → refresh(p1)", "p1 [] r2:p1=0,0"},
		{"expired credentials are not changed any more",
			"issue(p1) → wait(2161h) → lost(p1)", "p1 [telecom_lost/telecom]"},
		{"on its last instant a credential still counts",
			"issue(p1) → wait(2160h) → lost(p1)", "p1 [telecom_lost/telecom] r1:p1=1,2"},
	} {
		t.Run(c.requirement, func(t *testing.T) {
			w := newWorld()
			w.tell(t, c.story)
			if got := w.show(); got != c.end {
				t.Errorf("%s\n got %s\nwant %s", c.story, got, c.end)
			}
		})
	}
}

// Fact 24: lock → unlock → lock a thousand times leaves one SD-JWT VC and one index, and one MSO per unlock.
func TestLockedAThousandTimes(t *testing.T) {
	w := newWorld()
	w.tell(t, "issue(p1)")
	for range 1000 {
		w.tell(t, "lost(p1) → found(p1)")
	}
	if got, want := w.show(), "p1 [] r1:p1=1,0"; got != want || w.Epoch != 2001 {
		t.Errorf("got %s epoch %d, want %s epoch 2001", got, w.Epoch, want)
	}
}

// An approval that was made before a Settle must not fail on it; every other change must be noticed.
func TestEpochMovesOnRealChangesOnly(t *testing.T) {
	w := newWorld()
	for _, c := range []struct {
		step string
		want uint64
	}{
		{"issue(p1)", 1}, {"settle(r1)", 1}, {"settle(r1)", 1}, {"settle(r9)", 1}, {"found(p1)", 1}, {"lost(p2)", 1}, {"lost(p1)", 2},
		{"lost(p1)", 2}, {"unlock(court/court)", 2}, {"found(p1)", 3}, {"refresh(p1)", 4}, {"again(r2)", 5}, {"replace(p2)", 6},
		{"revoke(p1)", 6}, {"revoke(p2)", 7}, {"revoke(p2)", 7}, {"lock(court/court)", 8}, {"issue(p3)!locked", 8},
	} {
		w.tell(t, c.step)
		if w.Epoch != c.want {
			t.Fatalf("after %s the epoch is %d, want %d", c.step, w.Epoch, c.want)
		}
	}
}

func TestMalformedEvents(t *testing.T) {
	at := newWorld().at
	good := func() *Issue {
		w := newWorld()
		return &Issue{Device: "p1", Keys: [][32]byte{key("p1")}, Credentials: w.credentials("p1")}
	}
	with := func(f func(*Issue)) Event { i := good(); f(i); return Event{At: at, Issue: i} }
	if _, _, err := (State{}).Apply(with(func(*Issue) {})); err != nil {
		t.Fatalf("the unchanged event: %v", err)
	}
	for name, e := range map[string]Event{
		"no time":               {Issue: good()},
		"empty":                 {At: at},
		"two at once":           {At: at, Issue: good(), Lock: &Lock{Lock: policy.Lock{Reason: "court", Class: "court"}}},
		"no device":             with(func(i *Issue) { i.Device = "" }),
		"no keys":               with(func(i *Issue) { i.Keys = nil }),
		"no credentials":        with(func(i *Issue) { i.Credentials = nil }),
		"no reservation":        with(func(i *Issue) { i.Credentials[0].Reservation, i.Credentials[1].Reservation = "", "" }),
		"two reservations":      with(func(i *Issue) { i.Credentials[1].Reservation = "r2" }),
		"no list":               with(func(i *Issue) { i.Credentials[0].List = "" }),
		"one index twice":       with(func(i *Issue) { i.Credentials[0].List = i.Credentials[1].List }),
		"unknown format":        with(func(i *Issue) { i.Credentials[0].Format = "jwt_vc" }),
		"already signed":        with(func(i *Issue) { i.Credentials[0].Phase = Signed }),
		"of another device":     with(func(i *Issue) { i.Credentials[0].Device = "p2" }),
		"for an unknown key":    with(func(i *Issue) { i.Credentials[0].Key[31]++ }),
		"expired at birth":      with(func(i *Issue) { i.Credentials[0].NotAfter = at }),
		"lock without reason":   {At: at, Lock: &Lock{Lock: policy.Lock{Class: "court"}}},
		"lock without class":    {At: at, Lock: &Lock{Lock: policy.Lock{Reason: "court"}}},
		"unlock without class":  {At: at, Unlock: &Unlock{Lock: policy.Lock{Reason: "court"}}},
		"revoke without reason": {At: at, Revoke: &Revoke{}},
		"again of nothing":      {At: at, Again: &Again{Credentials: good().Credentials}},
		"again with nothing":    {At: at, Again: &Again{Old: "r1"}},
	} {
		if s, c, err := (State{}).Apply(e); !errors.Is(err, ErrEvent) || !reflect.DeepEqual(s, State{}) || c != nil {
			t.Errorf("%s: %+v, %v, %v", name, s, c, err)
		}
	}
	w := newWorld()
	w.tell(t, "issue(p1)")
	again := *good()
	again.Refresh = true
	if err := w.apply(Event{Issue: &again}); !errors.Is(err, ErrEvent) {
		t.Errorf("a reservation that is known already: %v", err)
	}
	again.Credentials[0].Reservation, again.Credentials[1].Reservation = "r2", "r2"
	if err := w.apply(Event{Issue: &again}); !errors.Is(err, ErrEvent) {
		t.Errorf("a status index that is taken: %v", err)
	}
}

// A refresh may bring a newly attested key (eu-pid); policy sees the keys of the device as a set, and can't reach into the state.
func TestSlot(t *testing.T) {
	w := newWorld()
	if s := w.Slot(w.at); !reflect.DeepEqual(s, policy.Slot{}) {
		t.Errorf("empty: %+v", s)
	}
	since := w.at.UTC()
	w.tell(t, "issue(p1) → settle(r1) → wait(24h)")
	fresh := key("p1 second key")
	c := w.credentials("p1")
	c[0].Key, c[1].Key = fresh, fresh
	if err := w.apply(Event{Issue: &Issue{Device: "p1", Keys: [][32]byte{key("p1"), fresh}, Refresh: true, Credentials: c}}); err != nil {
		t.Fatal(err)
	}
	newest := w.at.UTC()
	w.tell(t, "wait(24h)")
	if s := w.Slot(w.at); s.Live != 4 || s.MSOs != 2 {
		t.Errorf("before the loss: %d live, %d MSOs, want 4 and 2", s.Live, s.MSOs)
	}
	w.tell(t, "lost(p1)") // which ends the MSOs
	want := policy.Slot{Epoch: 3, Bound: true, Device: "p1", Keys: [][32]byte{key("p1"), fresh}, Live: 2, Since: since, Newest: newest,
		Locks: []policy.Lock{{Reason: "telecom_lost", Class: "telecom"}}}
	got := w.Slot(w.at)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	got.Keys[0], got.Locks[0].Reason = [32]byte{}, "changed"
	if again := w.Slot(w.at); !reflect.DeepEqual(again, want) {
		t.Errorf("what policy was given reaches into the state: %+v", again)
	}
	for _, c := range []struct {
		at   time.Time
		live int
	}{{since.Add(life), 2}, {since.Add(life + 1), 1}, {newest.Add(life + 1), 0}} {
		if s := w.Slot(c.at); s.Live != c.live || !s.Bound {
			t.Errorf("at %s: %d live, bound %v, want %d live and bound", c.at, s.Live, s.Bound, c.live)
		}
	}
}

func TestStatusOfEachPhase(t *testing.T) {
	locked := State{Locks: []policy.Lock{{Reason: "court", Class: "court"}}}
	for _, c := range []struct {
		s      State
		phase  Phase
		sdjwt  byte
		msoBit byte
	}{
		{State{}, Reserved, Valid, Valid}, {State{}, Signed, Valid, Valid}, {State{}, Revoked, Invalid, Invalid}, {State{}, Abandoned, Invalid, Invalid},
		{locked, Reserved, Suspended, Valid}, {locked, Signed, Suspended, Valid}, {locked, Revoked, Invalid, Invalid}, {locked, Abandoned, Invalid, Invalid},
		{State{}, "", Invalid, Invalid}, // the zero value is no credential
	} {
		if got := c.s.Status(Credential{Format: policy.SDJWT, Phase: c.phase}); got != c.sdjwt {
			t.Errorf("SD-JWT VC %q locked=%v: %d, want %d", c.phase, len(c.s.Locks) > 0, got, c.sdjwt)
		}
		if got := c.s.Status(Credential{Format: policy.MDoc, Phase: c.phase}); got != c.msoBit {
			t.Errorf("mdoc %q locked=%v: %d, want %d", c.phase, len(c.s.Locks) > 0, got, c.msoBit)
		}
	}
	var locks []string
	for r := range maps.Keys(map[string]bool{"telecom_lost": true, "self_lost": true, "line_changed": true, "card_lost": true, "admin_hold": true, "court": true, "fraud": true, "": true}) {
		if !SubjectLock(r) {
			locks = append(locks, r)
		}
	}
	if len(locks) != 3 || SubjectLock("telecom_lost") || SubjectLock("self_lost") || SubjectLock("line_changed") {
		t.Errorf("device locks: %v", locks)
	}
}
