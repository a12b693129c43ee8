package histories

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/tests/appliance"
	"sealkeeper/tests/phone"
	"sealkeeper/verifier"
)

const (
	eu       = "eu-pid"
	patience = 60 * time.Second // for one answer, starts and their recovery included
	perRoom  = 40               // operations on one card: a history that is checked in no time
	rooms    = 4                // cards that are worked on at once, by all clients
)

// load is clients at work on few cards. After each kill everyone goes on with fresh ones.
type load struct {
	a       *appliance.Appliance
	t       testing.TB
	stop    chan struct{}
	once    sync.Once
	clients sync.WaitGroup
	checks  sync.WaitGroup
	checker chan *room // one checker; bounded, so that clients wait for it rather than memory

	ops, open, retried, checked atomic.Int64
	names, numbers              atomic.Int64 // of cards; of issues

	mu      sync.Mutex
	current []*room
	used    map[Place]int64 // whose entry it is
	uris    map[string]bool // of all lists
	keep    []*room         // legal histories, if they are to be kept
	record  bool
	seen    map[string]int // operation and outcome: how often
	lists   *lists
	claims  map[string]map[string]any
}

// room is one person's card and all that was done with it.
type room struct {
	name   string
	typ    string
	number int64

	mu      sync.Mutex
	ops     []porcupine.Operation
	begun   int
	busy    int
	retired bool // nobody enters any more
	closed  bool // the last one has left
	phones  map[int]*phone.Phone
	devices []string // ids that answers told
	places  []Place
}

func start(t testing.TB, a *appliance.Appliance, clients int) *load {
	l := &load{a: a, t: t, stop: make(chan struct{}), checker: make(chan *room, 16), used: map[Place]int64{}, uris: map[string]bool{}, seen: map[string]int{},
		claims: map[string]map[string]any{appliance.KR: appliance.Claims(), eu: {
			"family_name": "A", "given_name": "B", "birth_date": "1990-01-01", "nationality": []string{"KR"}, "expiry_date": "2036-01-14",
			"place_of_birth": map[string]any{"country": "KR"}, "issuing_authority": "C", "issuing_country": "KR"}}}
	l.lists = &lists{load: l, last: map[string]*verifier.StatusList{}}
	for _, id := range []string{"ward-office-1", "telecom-a", "loss-desk", "ministry"} {
		if _, _, err := a.Post(id, "/v1/nonces", "", contract.NonceRequest{DocumentType: appliance.KR}); err != nil {
			t.Fatal(err)
		}
	}
	l.checks.Go(func() {
		for r := range l.checker {
			l.check(r)
		}
	})
	l.lists.wg.Go(l.lists.watch)
	for n := range clients {
		l.clients.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				if err := l.work(n); err != nil {
					t.Errorf("client %d gave up: %v", n, err)
					return
				}
			}
		})
	}
	return l
}

func (l *load) enter() *room {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.current) < rooms {
		n := l.names.Add(1)
		typ := appliance.KR
		if n%3 == 0 {
			typ = eu
		}
		l.current = append(l.current, &room{name: fmt.Sprintf("history-%d", n), typ: typ, number: n, phones: map[int]*phone.Phone{}})
	}
	r := l.current[rand.IntN(rooms)]
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy++
	if r.begun++; r.begun == perRoom {
		l.current = slices.DeleteFunc(l.current, func(c *room) bool { return c == r })
		r.retired = true
	}
	return r
}

// leave has the last one look at the card once more, and then its history checked.
func (l *load) leave(r *room, client int) error {
	r.mu.Lock()
	r.busy--
	last := r.busy == 0 && r.retired && !r.closed
	r.closed = r.closed || last
	r.mu.Unlock()
	if !last {
		return nil
	}
	began := time.Now()
	h, err := l.read(r, client)
	if err != nil {
		return err
	}
	if err := l.look(r, client); err != nil {
		return err
	}
	l.lists.expect(began, entries(h))
	l.checker <- r
	return nil
}

// fresh retires the cards that are being worked on.
func (l *load) fresh() {
	l.mu.Lock()
	old := l.current
	l.current = nil
	l.mu.Unlock()
	for _, r := range old {
		r.mu.Lock()
		r.retired = true
		r.busy++ // perhaps nobody is in it who could be the last
		r.mu.Unlock()
		if err := l.leave(r, 0); err != nil {
			l.t.Errorf("looking at %s for the last time: %v", r.name, err)
		}
	}
}

// end lets every client finish what it does, and everything be checked.
func (l *load) end() {
	l.once.Do(func() {
		close(l.stop)
		l.clients.Wait()
		l.fresh()
		close(l.checker)
		l.checks.Wait()
		l.lists.settle()
	})
}

func (l *load) work(n int) error {
	r := l.enter()
	err := l.operate(r, n)
	return errors.Join(err, l.leave(r, n))
}

func (l *load) operate(r *room, n int) error {
	reasons := []struct{ client, reason string }{{"telecom-a", "telecom_lost"}, {"loss-desk", "self_lost"}, {"ministry", "admin_hold"}, {"ministry", "fraud"}}
	by, lockedBy := reasons[rand.IntN(4)], reasons[rand.IntN(4)*rand.IntN(3)/2] // locks are mostly those that end with the phone
	r.mu.Lock()
	device, first := "", r.begun < 4
	if len(r.devices) > 0 && rand.IntN(3) == 0 {
		device = r.devices[rand.IntN(len(r.devices))]
	}
	r.mu.Unlock()
	switch d := rand.IntN(100); {
	case d < 12 || first: // several phones want a card that nobody has
		return l.issue(r, n, Input{Op: Issue, Phone: rand.IntN(4)})
	case d < 24:
		return l.issue(r, n, Input{Op: Replace, Phone: rand.IntN(8)})
	case d < 38:
		return l.issue(r, n, Input{Op: Refresh, Phone: rand.IntN(4), Former: rand.IntN(4)})
	case d < 48:
		return l.change(r, n, lockedBy.client, "/v1/locks", Input{Op: Lock, Reason: lockedBy.reason, Device: device})
	case d < 72:
		return l.change(r, n, by.client, "/v1/unlocks", Input{Op: Unlock, Reason: by.reason, Device: device})
	case d < 76:
		return l.change(r, n, "loss-desk", "/v1/revocations", Input{Op: Revoke, Reason: "user_request", Device: device})
	case d < 78:
		return l.change(r, n, "telecom-a", "/v1/unlocks", Input{Op: Foreign, Reason: "admin_hold"})
	case d < 92:
		_, err := l.read(r, n)
		return err
	}
	return l.look(r, n)
}

// note an operation with its interval.
func (l *load) note(r *room, client int, in Input, call time.Time, out Output) {
	back := time.Now()
	done := back.UnixNano()
	if out.Open { // it may take effect as late as it likes, that is, never
		done = math.MaxInt64
		l.open.Add(1)
	}
	l.ops.Add(1)
	outcome := out.Code
	switch {
	case out.Open:
		outcome = "open"
	case out.Changed:
		outcome = "changed"
	case out.Code == "":
		outcome = "answered"
	}
	l.mu.Lock()
	l.seen[in.Op+" "+outcome]++
	l.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	in.Type = r.typ
	r.ops = append(r.ops, porcupine.Operation{ClientId: client, Input: in, Call: min(call.UnixNano(), done), Output: out, Return: done})
}

// again waits before another try.
func (l *load) again(began time.Time) error {
	if time.Since(began) > patience {
		return fmt.Errorf("no answer within %s", patience)
	}
	time.Sleep(10 * time.Millisecond)
	l.retried.Add(1)
	return nil
}

// sent reports whether a request that failed may have arrived.
func sent(err error) bool {
	var op *net.OpError
	return !errors.As(err, &op) || op.Op != "dial"
}

// phone of a number, made when it is first asked for.
func (r *room) phone(number int) (*phone.Phone, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.phones[number]
	if p == nil {
		var err error
		if p, err = phone.New(1); err != nil {
			return nil, err
		}
		r.phones[number] = p
	}
	return p, nil
}

// issue, replace or refresh. However often it is tried, it is one request with one idempotency key, so all its tries are one operation; every
// second client leaves it open when its connection is lost.
func (l *load) issue(r *room, n int, in Input) error {
	p, err := r.phone(in.Phone)
	if err != nil {
		return err
	}
	if r.typ != eu {
		in.Former = 0
	}
	in.Number = int(l.numbers.Add(1))
	var nonce contract.NonceAnswer
	for began := time.Now(); ; {
		status, b, err := l.a.Post("ward-office-1", "/v1/nonces", "", contract.NonceRequest{DocumentType: r.typ})
		if err == nil && status == http.StatusOK {
			if err := json.Unmarshal(b, &nonce); err != nil {
				return err
			}
			break
		}
		if err := l.again(began); err != nil {
			return fmt.Errorf("nonce: %w: %d %s", err, status, b)
		}
	}
	now := time.Now()
	request := contract.IssueRequest{DocumentType: r.typ, Subject: r.name, Claims: l.claims[r.typ], Replace: in.Op == Replace,
		Proof: p.Prove(0, appliance.Audience, nonce.Nonce, now, ""), KeyAttestation: p.Attest(appliance.Provider, nonce.Nonce, now)}
	if in.Op == Refresh && r.typ == eu {
		former, err := r.phone(in.Former)
		if err != nil {
			return err
		}
		request.PreviousProof = former.Prove(0, appliance.Audience, nonce.Nonce, now, "")
	}
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	path := "/v1/credentials"
	if in.Op == Refresh {
		path += "/refresh"
	}
	key, persistent := client.NewKey(), rand.IntN(2) == 0
	for call := time.Now(); ; {
		status, b, err := l.a.Post("ward-office-1", path, key, body)
		switch {
		case err == nil && status == http.StatusOK:
			var answer contract.IssueAnswer
			if err := json.Unmarshal(b, &answer); err != nil {
				return err
			}
			out := Output{Device: answer.Device, Replaced: answer.Replaced}
			for _, c := range answer.Credentials {
				out.Entries = append(out.Entries, Entry{Place: Place{c.Status.URI, c.Status.Index}, MDoc: c.Format == "mso_mdoc"})
			}
			l.note(r, n, in, call, out)
			l.learn(r, answer.Device, out.Entries)
			if rand.IntN(16) == 0 {
				return l.verify(answer)
			}
			return nil
		case err == nil && status/100 == 4 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout:
			l.note(r, n, in, call, Output{Code: appliance.Code(b)})
			return nil
		case err != nil && sent(err) && !persistent:
			l.note(r, n, in, call, Output{Open: true})
			l.moveOn(r)
			return nil
		}
		if err := l.again(call); err != nil {
			return fmt.Errorf("%s: %w: %d %.300s", in.Op, err, status, b)
		}
	}
}

// moveOn ends the work on a card that has an operation open: every further one would double the orders that are to be tried.
func (l *load) moveOn(r *room) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = slices.DeleteFunc(l.current, func(c *room) bool { return c == r })
	r.mu.Lock()
	r.retired = true
	r.mu.Unlock()
}

// learn of an answer: the device's id, and that its entries are nobody else's.
func (l *load) learn(r *room, device string, made []Entry) {
	r.mu.Lock()
	if !slices.Contains(r.devices, device) {
		r.devices = append(r.devices, device)
	}
	for _, e := range made {
		r.places = append(r.places, e.Place)
	}
	r.mu.Unlock()
	l.own(r, made)
}

// own holds that an entry is one card's for ever (I2). Within a card the model holds it.
func (l *load) own(r *room, made []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range made {
		if other, taken := l.used[e.Place]; taken && other != r.number {
			l.t.Errorf("entry %+v of %s belongs to history-%d", e.Place, r.name, other)
		}
		l.used[e.Place], l.uris[e.List] = r.number, true
	}
}

func (l *load) verify(answer contract.IssueAnswer) error {
	for _, c := range answer.Credentials {
		var err error
		if c.Format == "mso_mdoc" {
			var raw []byte
			if raw, err = base64.RawURLEncoding.DecodeString(c.Credential); err == nil {
				_, err = verifier.VerifyMDoc(raw, l.a.Roots, time.Now())
			}
		} else {
			_, err = verifier.VerifySDJWT([]byte(c.Credential), l.a.Roots, time.Now())
		}
		if err != nil {
			return fmt.Errorf("a released credential does not verify: %w", err)
		}
	}
	return nil
}

// change locks, unlocks or revokes. A second try is an operation of its own, since its answer says what it found.
func (l *load) change(r *room, n int, id, path string, in Input) error {
	persistent := rand.IntN(2) == 0
	for began := time.Now(); ; {
		call := time.Now()
		status, b, err := l.a.Post(id, path, "", contract.ChangeRequest{DocumentType: r.typ, Subject: r.name, Reason: in.Reason, Device: in.Device})
		switch {
		case err == nil && status == http.StatusOK:
			var answer contract.ChangeAnswer
			if err := json.Unmarshal(b, &answer); err != nil {
				return err
			}
			// The holder was read after the change: a read of its own, which may have seen later changes as well.
			l.note(r, n, in, call, Output{Changed: answer.Changed, Epoch: answer.Holder.Epoch})
			l.holder(r, n, call, answer.Holder)
			return nil
		case err == nil && status/100 == 4 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout:
			l.note(r, n, in, call, Output{Code: appliance.Code(b)})
			return nil
		case err == nil || sent(err):
			l.note(r, n, in, call, Output{Open: true})
			if !persistent {
				l.moveOn(r)
				return nil
			}
		}
		if err := l.again(began); err != nil {
			return fmt.Errorf("%s: %w: %d %.300s", in.Op, err, status, b)
		}
	}
}

func (l *load) read(r *room, n int) (h contract.Holder, err error) {
	for began := time.Now(); ; {
		call := time.Now()
		status, b, err := l.a.Post("ward-office-1", "/v1/holders/state", "", contract.StateRequest{DocumentType: r.typ, Subject: r.name})
		if err == nil && status == http.StatusOK {
			if err := json.Unmarshal(b, &h); err != nil {
				return h, err
			}
			l.holder(r, n, call, h)
			return h, nil
		}
		if err == nil && status/100 == 4 && status != http.StatusTooManyRequests {
			return h, fmt.Errorf("reading was refused: %d %s", status, b)
		}
		if err := l.again(began); err != nil {
			return h, fmt.Errorf("reading: %w: %d %s", err, status, b)
		}
	}
}

func (l *load) holder(r *room, n int, call time.Time, h contract.Holder) {
	out := Output{Device: h.Device, Epoch: h.Epoch, Entries: entries(h)}
	names := make([]string, len(h.Locks))
	for i, k := range h.Locks {
		names[i] = k.Reason
	}
	slices.Sort(names)
	for _, k := range names {
		out.Locks += k + " "
	}
	l.note(r, n, Input{Op: Read}, call, out)
	l.own(r, out.Entries) // those of lost answers too
}

func entries(h contract.Holder) (out []Entry) {
	statuses := map[string]byte{"reserved": valid, "valid": valid, "suspended": suspended, "revoked": invalid}
	for _, c := range h.Credentials {
		s, known := statuses[c.Status]
		if !known {
			s = 255
		}
		out = append(out, Entry{Place{c.StatusRef.URI, c.StatusRef.Index}, c.Format == "mso_mdoc", c.Device, s})
	}
	return out
}

// look fetches one list and looks the card's entries up. What a list says was so at some time since its iat: it has every change that was
// acknowledged before that (I4), and none that was asked for after it was fetched.
func (l *load) look(r *room, n int) error {
	r.mu.Lock()
	places := slices.Clone(r.places)
	r.mu.Unlock()
	if len(places) == 0 {
		return nil
	}
	uri := places[rand.IntN(len(places))].List
	in, out := Input{Op: List}, Output{}
	for began := time.Now(); ; {
		list, err := l.lists.fetch(uri)
		if err == nil {
			for _, p := range places {
				if p.List == uri {
					s, _ := list.Get(p.Index)
					in.Asked, out.Entries = append(in.Asked, p), append(out.Entries, Entry{Place: p, Status: s})
				}
			}
			l.note(r, n, in, list.IssuedAt, out)
			return nil
		}
		if again := l.again(began); again != nil {
			return fmt.Errorf("%s: %w: %w", uri, again, err)
		}
	}
}

// check one history, and leave a picture of it if it is illegal.
func (l *load) check(r *room) {
	result, info := porcupine.CheckOperationsVerbose(model, r.ops, time.Minute)
	l.checked.Add(1)
	if result != porcupine.Ok {
		dir := os.Getenv("SEAL_HISTORIES")
		if dir == "" {
			dir = os.TempDir()
		}
		path := filepath.Join(dir, fmt.Sprintf("sealkeeper-%s-%d.html", r.name, time.Now().UnixNano()))
		err := porcupine.VisualizePath(model, info, path)
		b, _ := json.Marshal(r.ops)
		err = errors.Join(err, os.WriteFile(strings.TrimSuffix(path, "html")+"json", b, 0o644))
		l.t.Errorf("the history of %s (%d operations) is %s: see %s %v", r.name, len(r.ops), result, path, err)
		return
	}
	if l.record {
		l.mu.Lock()
		l.keep = append(l.keep, r)
		l.mu.Unlock()
	}
}

// lists watches every published list: signatures, versions that grow, bits that never go back, and that each card's last state comes to be there.
type lists struct {
	load *load
	wg   sync.WaitGroup

	mu      sync.Mutex
	last    map[string]*verifier.StatusList
	waiting []expectation
	final   []Entry // expectations that were held
	fetched int
}

// expectation: a list whose iat is later than since has these entries, and so has each later one, since nobody touches the card any more.
type expectation struct {
	since   time.Time
	entries []Entry
}

func (s *lists) expect(since time.Time, e []Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, expectation{since, e})
}

// fetch a list as a bank does, and compare it with the one before.
func (s *lists) fetch(uri string) (*verifier.StatusList, error) {
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", s.load.a.Ports[1], strings.TrimPrefix(uri, appliance.PublicURL)))
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %d %w", uri, r.StatusCode, err)
	}
	list, err := verifier.DecodeStatusList(b, verifier.MaxEntries)
	if err == nil {
		err = list.Verify(s.load.a.Roots, time.Now())
	}
	if err != nil {
		s.load.t.Errorf("a published list does not verify: %s: %v", uri, err)
		return nil, err
	}
	if list.IssuedAt.After(time.Now()) {
		s.load.t.Errorf("%s is dated %s, which is to come", uri, list.IssuedAt)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched++
	before := s.last[uri]
	if before == nil || before.Version < list.Version { // another client may have fetched a later one meanwhile
		s.last[uri] = list
	}
	if before != nil {
		if problem := turnedBack(before, list); problem != "" {
			s.load.t.Errorf("%s: %s", uri, problem)
		}
	}
	return list, nil
}

// turnedBack says what is wrong with two versions of a list, in whichever order they were fetched.
func turnedBack(a, b *verifier.StatusList) string {
	if b.Version < a.Version {
		a, b = b, a
	}
	switch {
	case a.Version == b.Version && !slices.Equal(a.Image, b.Image):
		return fmt.Sprintf("two lists have version %d", a.Version)
	case b.IssuedAt.Before(a.IssuedAt):
		return fmt.Sprintf("version %d is dated before version %d", b.Version, a.Version)
	case a.Bits != b.Bits || len(a.Image) != len(b.Image):
		return fmt.Sprintf("version %d has another form than version %d", b.Version, a.Version)
	}
	ends := byte(0xff) // the bits that mean INVALID: all of a one-bit list, the lower ones of a two-bit list
	if a.Bits == 2 {
		ends = 0x55
	}
	for i, old := range a.Image {
		if old&ends&^b.Image[i] != 0 {
			return fmt.Sprintf("version %d revives what version %d revoked, at byte %d", b.Version, a.Version, i)
		}
	}
	return ""
}

// watch all lists that cards point to, until the clients end.
func (s *lists) watch() {
	for {
		select {
		case <-s.load.stop:
			return
		case <-time.After(250 * time.Millisecond):
		}
		s.round()
	}
}

func (s *lists) round() {
	s.load.mu.Lock()
	uris := maps.Clone(s.load.uris)
	s.load.mu.Unlock()
	for uri := range uris {
		_, _ = s.fetch(uri) // the daemon may just have been killed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.waiting[:0]
	for _, w := range s.waiting {
		w.entries = slices.DeleteFunc(w.entries, func(e Entry) bool {
			list := s.last[e.List]
			if list == nil || !list.IssuedAt.After(w.since) {
				return false
			}
			if problem := differs(list, e); problem != "" {
				s.load.t.Errorf("acknowledged before its iat, and not in it: %s", problem)
			}
			s.final = append(s.final, e)
			return true
		})
		if len(w.entries) > 0 {
			left = append(left, w)
		}
	}
	s.waiting = left
}

func differs(list *verifier.StatusList, e Entry) string {
	if list == nil {
		return "list " + e.List + " was never fetched"
	}
	if got, ok := list.Get(e.Index); !ok || got != e.Status {
		return fmt.Sprintf("%s version %d of %s says %d of entry %d, which is %d", e.List, list.Version, list.IssuedAt.Format(time.RFC3339), got, e.Index, e.Status)
	}
	return ""
}

// settle waits until each list has the last state of every card, and compares all that was compared before with the last lists again. A list
// is not renewed for the test's sake: one without later changes may be older than the last look at its cards.
func (s *lists) settle() {
	s.wg.Wait()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		s.round()
		if wrong := s.wrong(); wrong == "" || time.Now().After(deadline) {
			if wrong != "" {
				s.load.t.Error(wrong)
			}
			return
		}
	}
}

func (s *lists) wrong() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.final)
	for _, w := range s.waiting {
		all = append(all, w.entries...)
	}
	for _, e := range all {
		if problem := differs(s.last[e.List], e); problem != "" {
			return problem
		}
	}
	return ""
}
