package ca

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"sealkeeper/ca/statuslist"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/durable"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// Object is something public: a list, a certificate, the CRL, issuer metadata.
type Object struct {
	MediaType string
	Bytes     []byte
	Gzip      []byte // precompressed; nil where it gains nothing (CWT)
	ETag      string // strong, quoted, of Bytes; the gzip encoding has its own (ETagGzip)
	ETagGzip  string
	Modified  time.Time
	MaxAge    time.Duration
	Expires   time.Time // lists: exp
}

// shelf holds what is public. Readers take from it and never reach ledger or HSM.
type shelf struct {
	mu      sync.RWMutex
	objects map[string]Object
	lists   map[string]listInfo
	moved   chan struct{} // closed and replaced whenever a list version was put on the shelf
}

type listInfo struct {
	uri     string
	version uint64
	issued  time.Time
	expires time.Time
	through uint64
	size    int
	media   string
}

func (s *shelf) init() {
	s.objects, s.lists, s.moved = map[string]Object{}, map[string]listInfo{}, make(chan struct{})
}

func (s *shelf) put(path string, o Object) {
	sum := sha256.Sum256(o.Bytes)
	o.ETag = `"` + hex.EncodeToString(sum[:16]) + `"`
	if o.Gzip != nil {
		o.ETagGzip = `"` + hex.EncodeToString(sum[:16]) + `-gzip"`
	}
	s.mu.Lock()
	s.objects[path] = o
	s.mu.Unlock()
}

func (s *shelf) remove(path string) {
	s.mu.Lock()
	delete(s.objects, path)
	s.mu.Unlock()
}

// Public returns the newest published object at a path without leading slash:
// "status-lists/{id}", "certificates/{iaca|ds|sdjwt-issuer|status-signer|client-ca}.{cer|pem}", "crl/{list}.crl", ".well-known/jwt-vc-issuer".
// Reads never reach the HSM.
func (a *Authority) Public(path string) (Object, bool) {
	a.public.mu.RLock()
	defer a.public.mu.RUnlock()
	o, ok := a.public.objects[path]
	return o, ok
}

// shelve puts a settled list version where readers find it: first the shelf, then the directory. Everything on it is in the ledger already,
// so a crash between the two leaves an older file, which the next start overwrites. Only when both have it does the version count as shown:
// whoever waits for a revocation waits for the directory's readers as well, and a file that could not be written is written again.
func (a *Authority) shelve(step string, f policy.ListFacts, version uint64, issued, expires time.Time, token []byte, through uint64) error {
	media, ext := statuslist.MediaJWT, ".jwt"
	var zipped []byte
	if f.Format == policy.MDoc {
		media, ext = statuslist.MediaCWT, ".cwt"
	} else {
		var err error
		if zipped, err = gzipped(token); err != nil {
			return err
		}
	}
	path := "status-lists/" + f.ID
	a.public.put(path, Object{MediaType: media, Bytes: token, Gzip: zipped, Modified: issued, MaxAge: a.o.ListTTL, Expires: expires})
	m := a.o.Metrics
	m.ListVersion.WithLabelValues(f.ID).Set(float64(version))
	m.ListBytes.WithLabelValues(f.ID).Set(float64(len(token)))
	m.ListIssued.WithLabelValues(f.ID).Set(float64(issued.Unix()))
	m.ListExpires.WithLabelValues(f.ID).Set(float64(expires.Unix()))
	if a.o.Directory != "" {
		if err := a.file(path+ext, token); err != nil {
			return err
		}
		crashpoint.Here("ca", step, "token-written")
		meta, err := json.Marshal(map[string]any{"id": f.ID, "version": version, "iat": issued.Unix(), "exp": expires.Unix(), "media_type": media, "file": f.ID + ext})
		if err != nil {
			return err
		}
		if err := a.file(path+".json", meta); err != nil {
			return err
		}
	}
	a.public.mu.Lock()
	a.public.lists[f.ID] = listInfo{uri: f.URI, version: version, issued: issued, expires: expires, through: through, size: len(token), media: media}
	close(a.public.moved)
	a.public.moved = make(chan struct{})
	a.public.mu.Unlock()
	return nil
}

// shelveAgain shows the newest version that the ledger has.
func (a *Authority) shelveAgain(s ledger.ListSnapshot) error {
	through := s.Facts.Through
	if !s.Dirty.IsZero() { // the token lacks changes; how many does not matter, the next version carries them all
		through = 0
	}
	return a.shelve("start", s.Facts, s.Facts.PrevVersion, s.Facts.PrevIssued, s.Until, s.Token, through)
}

// file writes into the publish directory, which a web server or CDN may serve as it is.
func (a *Authority) file(name string, data []byte) error {
	if a.o.Directory == "" {
		return nil
	}
	path := filepath.Join(a.o.Directory, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(path, data, 0o644)
}

func gzipped(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// publishers is how many lists are drafted and signed at once. Those that carry a change, or that nobody could fetch yet, have as many
// places of their own: a thousand lists that are to be renewed don't hold up one lock.
const publishers = 2

const (
	retryFirst = 50 * time.Millisecond
	retryMost  = time.Second // of a list: as long as a lock may take to be seen
)

// listEvery is the least time from the begin of one version of a list to the next one's. The first change of a quiet list is published at once; those of a
// busy one share a version. More versions would show them hardly earlier, and take from what else there is to do: each is a signature, two commits and a
// million entries to pack.
const listEvery = 200 * time.Millisecond

// Run keeps lists and CRL published until ctx ends. Changes coalesce: what comes in while a version is being signed, or less than listEvery after the one
// before was begun, is carried by the next one. A failure is tried again, soon and for ever. Nothing stops a lock from being seen but its own
// list: not another list, not a CRL whose HSM does not answer, not a self test in a full lane.
func (a *Authority) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	beside.Go(func() { a.selftest.run(ctx, a) })
	for _, p := range revokers {
		beside.Go(func() { a.keepCRLs(ctx, p) })
	}
	beside.Go(func() { a.keepSchedules(ctx) })
	beside.Go(func() { a.keepGivingUp(ctx) })
	beside.Go(func() { a.keepErasing(ctx) })
	beside.Go(func() { a.keepKeys(ctx) })
	beside.Go(func() { a.makeKeys(ctx) })
	beside.Go(func() { a.keepCampaigns(ctx, "a campaign", a.o.Ledger.AdvanceCampaigns) })
	beside.Go(func() { a.keepCampaigns(ctx, "watching the cards of a campaign", a.o.Ledger.WatchCampaigns) }) // which takes its time
	a.publishLists(ctx)
	beside.Wait()
	return nil
}

// lineup are the lists that wait for a place to be published in, in the order in which they began to wait. By their names, those that change all the time would let
// others wait for ever.
type lineup []waitingList

type waitingList struct {
	id     string
	urgent bool
}

// join makes it the lists that are due, and whether they are urgent. One that became urgent since begins to wait anew, for another kind of place.
func (l *lineup) join(due map[string]bool) {
	*l = slices.DeleteFunc(*l, func(w waitingList) bool { urgent, still := due[w.id]; return !still || urgent != w.urgent })
	for _, w := range *l {
		delete(due, w.id)
	}
	for _, id := range slices.Sorted(maps.Keys(due)) {
		*l = append(*l, waitingList{id, due[id]})
	}
}

// take are the first ones for whom there is a place, which they take.
func (l *lineup) take(places map[bool]int) map[string]bool {
	taken := map[string]bool{}
	*l = slices.DeleteFunc(*l, func(w waitingList) bool {
		if places[w.urgent] == 0 {
			return false
		}
		places[w.urgent]--
		taken[w.id] = w.urgent
		return true
	})
	return taken
}

// publishLists publishes every list that has changes, was never signed, or is past half its life.
func (a *Authority) publishLists(ctx context.Context) {
	type news struct {
		id     string
		urgent bool
		err    error
		rested bool // it may be published again
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	told := make(chan news)
	tell := func(n news) {
		select {
		case told <- n:
		case <-ctx.Done():
		}
	}
	places := map[bool]int{false: publishers, true: publishers}
	busy, pause := map[string]bool{}, map[string]time.Duration{}
	var row lineup
	for {
		now, next := a.o.Guard.ForLists(), time.Minute
		due := map[string]bool{}
		for _, id := range a.o.Ledger.ListsAt(now) {
			urgent, wait := a.due(id, now)
			if busy[id] {
				continue
			}
			if wait > 0 {
				next = min(next, wait)
				continue
			}
			due[id] = urgent
		}
		row.join(due)
		for id, urgent := range row.take(places) {
			busy[id] = true
			rest := min(max(2*pause[id], retryFirst), retryMost)
			pause[id] = rest
			tasks.Go(func() {
				began := time.Now()
				err := a.publish(ctx, id)
				tell(news{id: id, urgent: urgent, err: err})
				if err == nil {
					rest = listEvery - time.Since(began)
				}
				if sleep(ctx, rest) {
					tell(news{id: id, rested: true})
				}
			})
		}
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case n := <-told:
			if !n.rested && ctx.Err() == nil {
				a.listTried(n.id, n.err, pause[n.id])
			}
			switch {
			case n.rested:
				delete(busy, n.id)
			case n.err == nil:
				places[n.urgent]++
				delete(pause, n.id)
			default:
				places[n.urgent]++
			}
		case <-a.o.Ledger.Changed():
		case <-t.C:
		}
		t.Stop()
	}
}

// listTried logs how publishing a list went. Each list has a line of its own: one whose signing fails is no reason to be silent about another one.
func (a *Authority) listTried(id string, err error, again time.Duration) {
	if n, news := a.faults.News("list "+id, err); news {
		a.o.Log.Error("publishing a status list", "list", id, "error", err, "retry_in", again.String(), "suppressed", n)
	}
}

// sleep reports whether it slept to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// due says how long a list can wait. Urgent is what somebody waits for: a change, or a list that nobody can fetch yet.
func (a *Authority) due(id string, now time.Time) (urgent bool, wait time.Duration) {
	h, ok := a.o.Ledger.ListHead(id)
	if !ok {
		return false, time.Minute
	}
	if a.current(h, now) && a.shownVersion(id) == h.Version {
		return false, max(h.Until.Add(-a.o.ListLife/2).Sub(now), time.Millisecond)
	}
	return h.Urgent || !h.Signed, 0
}

// signs: it is one of the keys by which lists are signed now. A version by another one is signed again.
func (a *Authority) signs(key string) bool {
	k, known := a.key(key)
	return !known || a.o.Ledger.Signs(k)
}

// current: the newest version says everything, is young, and is by a key that still signs.
func (a *Authority) current(h ledger.ListHead, now time.Time) bool {
	return h.Signed && h.Dirty.IsZero() && now.Before(h.Until.Add(-a.o.ListLife/2)) && a.signs(h.Key)
}

func (a *Authority) shownVersion(id string) uint64 {
	a.public.mu.RLock()
	defer a.public.mu.RUnlock()
	return a.public.lists[id].version
}

// publish signs one more version of a list: decided, drafted, reserved, signed, checked and settled like everything else.
func (a *Authority) publish(ctx context.Context, id string) error {
	// iat first, then the snapshot: the list contains every change acknowledged before its iat (I4).
	iat := a.o.Guard.ForLists().Truncate(time.Second)
	s, err := a.o.Ledger.List(id)
	if err != nil {
		return err
	}
	if h, ok := a.o.Ledger.ListHead(id); ok && h.Version == s.Facts.PrevVersion && s.Dirty.IsZero() && a.current(h, iat) { // settled, and its file failed
		return a.shelveAgain(s)
	}
	f := s.Facts
	if iat.Before(f.PrevIssued) {
		iat = f.PrevIssued
	}
	f.Version, f.IssuedAt, f.Expires, f.TTL = f.PrevVersion+1, iat, iat.Add(a.o.ListLife), a.o.ListTTL
	approval, d := policy.DecideList(a.rules().bundle, f, iat)
	if err := a.decided("list", d); err != nil {
		return err
	}
	key, err := a.activeKey(policy.PurposeList, iat)
	if err != nil {
		return err
	}
	level := 9 // quiet: small; urgent: fast (requirements.md c3)
	if f.Urgent {
		level = 1
	}
	tbs, err := statuslist.Draft(approval, key, level)
	if err != nil {
		return fmt.Errorf("drafting: %w", err)
	}
	r, err := a.o.Ledger.Reserve(ctx, approval, []ledger.Draft{{KeyID: key.ID, Purpose: policy.PurposeList, TBSHash: sha256.Sum256(tbs.Bytes())}}, nil)
	if err != nil {
		return fmt.Errorf("reserving: %w", err)
	}
	crashpoint.Here("ca.publish.reserved")
	checked, err := a.sign(ctx, r, [][]byte{tbs.Bytes()})
	if err != nil {
		return err
	}
	token, err := statuslist.Join(tbs, checked, 0)
	if err != nil {
		return fmt.Errorf("joining: %w", err)
	}
	out, err := a.o.Gate.Pass(ctx, checked, token)
	if err != nil {
		return err
	}
	crashpoint.Here("ca.publish.settled")
	if !out.First() {
		return errors.New("another publisher settled this version")
	}
	if err := a.shelve("publish", f, f.Version, f.IssuedAt, f.Expires, out.Bytes(), f.Through); err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	if !s.Dirty.IsZero() {
		a.o.Metrics.LockToPublished.Observe(a.o.Clock.Now().Sub(s.Dirty).Seconds())
	}
	a.o.Log.Info("list published", "list", id, "version", f.Version, "changes", len(f.Changes), "bytes", len(out.Bytes()), "through", f.Through)
	return nil
}

// awaitShown waits until readers are shown the given lists with everything up to a journal sequence number.
func (a *Authority) awaitShown(ctx context.Context, lists []string, through uint64) error {
	for {
		a.public.mu.RLock()
		moved, done := a.public.moved, true
		for _, id := range lists {
			done = done && a.shown(id, through)
		}
		a.public.mu.RUnlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// shown: the version on the shelf was made later, or there is nothing that it lacks. The caller holds public.mu.
func (a *Authority) shown(id string, through uint64) bool {
	i, ok := a.public.lists[id]
	if !ok || i.through >= through {
		return ok
	}
	h, ok := a.o.Ledger.ListHead(id)
	return ok && h.Dirty.IsZero() && h.Version == i.version && h.Through >= through
}

// awaitNow waits until readers are shown everything of these lists that was acknowledged so far.
func (a *Authority) awaitNow(ctx context.Context, lists []string) error {
	through := uint64(0)
	for _, id := range lists {
		if h, ok := a.o.Ledger.ListHead(id); ok {
			through = max(through, h.Through)
		}
	}
	return a.awaitShown(ctx, lists, through)
}

// Drain waits until everything acknowledged is published, at most for d.
func (a *Authority) Drain(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return a.awaitNow(ctx, a.o.Ledger.ListsAt(a.o.Guard.ForLists()))
}
