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
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sealkeeper/ca/statuslist"
	"sealkeeper/contract"
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
	facts   policy.ListFacts
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

// Public returns the newest published object at a path without leading slash:
// "status-lists/{id}", "certificates/{iaca|ds|sdjwt-issuer|status-signer|client-ca}.{cer|pem}", "crl/iaca.crl", ".well-known/jwt-vc-issuer".
// Reads never reach the HSM.
func (a *Authority) Public(path string) (Object, bool) {
	a.public.mu.RLock()
	defer a.public.mu.RUnlock()
	o, ok := a.public.objects[path]
	return o, ok
}

// shelve puts a settled list version where readers find it: first the shelf, then the directory. Everything on it is in the ledger already,
// so a crash between the two leaves an older file, which the next start overwrites.
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
	a.public.mu.Lock()
	a.public.lists[f.ID] = listInfo{facts: f, version: version, issued: issued, expires: expires, through: through, size: len(token), media: media}
	close(a.public.moved)
	a.public.moved = make(chan struct{})
	a.public.mu.Unlock()
	m := a.o.Metrics
	m.ListVersion.WithLabelValues(f.ID).Set(float64(version))
	m.ListBytes.WithLabelValues(f.ID).Set(float64(len(token)))
	m.ListIssued.WithLabelValues(f.ID).Set(float64(issued.Unix()))
	m.ListExpires.WithLabelValues(f.ID).Set(float64(expires.Unix()))
	if a.o.Directory == "" {
		return nil
	}
	if err := a.file(path+ext, token); err != nil {
		return err
	}
	crashpoint.Here("ca", step, "token-written")
	meta, err := json.Marshal(map[string]any{"id": f.ID, "version": version, "iat": issued.Unix(), "exp": expires.Unix(), "media_type": media, "file": f.ID + ext})
	if err != nil {
		return err
	}
	return a.file(path+".json", meta)
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

// publishers is how many lists are drafted and signed at once.
const publishers = 2

// Run keeps lists and CRL published until ctx ends. Changes coalesce: what comes in while a version is being signed is carried by the next
// one. A failure is tried again, soon and for ever, because nothing else may stop a lock from being seen.
func (a *Authority) Run(ctx context.Context) error {
	tests := make(chan struct{})
	go func() { // beside the publisher: a self test in a full lane must not keep a lock from being seen
		defer close(tests)
		for ctx.Err() == nil {
			a.selftest.once(ctx, a)
			t := time.NewTimer(selftestEvery)
			select {
			case <-ctx.Done():
			case <-t.C:
			}
			t.Stop()
		}
	}()
	defer func() { <-tests }()
	retry := time.Duration(0)
	for {
		wait, err := a.publishDue(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			retry = min(max(2*retry, 50*time.Millisecond), 5*time.Second)
			wait = retry
			a.o.Log.Error("publishing status lists", "error", err, "retry_in", retry.String())
		} else {
			retry = 0
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-a.o.Ledger.Changed():
		case <-t.C:
		}
		t.Stop()
	}
}

// publishDue publishes every list that has changes, was never signed, or is past half its life, and the CRL when it is due.
func (a *Authority) publishDue(ctx context.Context) (next time.Duration, err error) {
	now := a.o.Guard.ForLists()
	next = time.Minute
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(publishers)
	for _, id := range a.o.Ledger.Lists() {
		s, err := a.o.Ledger.List(id)
		if err != nil {
			return next, fmt.Errorf("reading list %s: %w", id, err)
		}
		renew := s.Until.Add(-a.o.ListLife / 2)
		if s.Token != nil && s.Dirty.IsZero() && now.Before(renew) {
			next = min(next, renew.Sub(now))
			continue
		}
		g.Go(func() error {
			if err := a.publish(gctx, id); err != nil {
				return fmt.Errorf("list %s: %w", id, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return next, err
	}
	due, err := a.renewCRL(ctx, now)
	return max(min(next, due), 10*time.Millisecond), err
}

// publish signs one more version of a list: decided, drafted, reserved, signed, checked and settled like everything else.
func (a *Authority) publish(ctx context.Context, id string) error {
	// iat first, then the snapshot: the list contains every change acknowledged before its iat (I4).
	iat := a.o.Guard.ForLists().Truncate(time.Second)
	s, err := a.o.Ledger.List(id)
	if err != nil {
		return err
	}
	f := s.Facts
	if iat.Before(f.PrevIssued) {
		iat = f.PrevIssued
	}
	f.Version, f.IssuedAt, f.Expires, f.TTL = f.PrevVersion+1, iat, iat.Add(a.o.ListLife), a.o.ListTTL
	approval, d := policy.DecideList(a.o.Bundle, f, iat)
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

// awaitPublished waits until the given lists are on the shelf with everything up to a journal sequence number.
func (a *Authority) awaitPublished(ctx context.Context, lists []string, through uint64) error {
	for {
		a.public.mu.RLock()
		moved, done := a.public.moved, true
		for _, id := range lists {
			if i, ok := a.public.lists[id]; !ok || i.through < through {
				done = false
			}
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

// awaitClean waits until every change acknowledged so far is on the shelf.
func (a *Authority) awaitClean(ctx context.Context) error {
	for _, id := range a.o.Ledger.Lists() {
		first, err := a.o.Ledger.List(id)
		if err != nil {
			return err
		}
		for s := first; ; {
			a.public.mu.RLock()
			moved, shown := a.public.moved, a.public.lists[id]
			a.public.mu.RUnlock()
			// Clean: nothing is waiting and the shelf has the newest version. Or the shelf has moved past where we came in.
			if s.Dirty.IsZero() && (s.Token == nil || shown.version == s.Facts.PrevVersion) || shown.through >= first.Facts.Through {
				break
			}
			select {
			case <-moved:
			case <-ctx.Done():
				return ctx.Err()
			}
			if s, err = a.o.Ledger.List(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// Drain waits until everything acknowledged is published, at most for d.
func (a *Authority) Drain(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return a.awaitClean(ctx)
}

// Status for operators; ready only when cards can be issued.
func (a *Authority) Status(ctx context.Context) contract.Status {
	now := a.o.Guard.ForLists()
	s := contract.Status{Version: a.o.Version, Policy: a.o.Bundle.Hash().String(), PolicyVer: a.o.Bundle.Version(), Clock: "trusted",
		Problems: []string{}, Tokens: []contract.TokenStatus{}, Keys: []contract.KeyStatus{}, Lists: []contract.ListStatus{}}
	wrong := func(format string, args ...any) { s.Problems = append(s.Problems, fmt.Sprintf(format, args...)) }
	if _, err := a.o.Guard.Trusted(); err != nil {
		s.Clock = err.Error()
		wrong("issuing is stopped: %v", err)
	}
	if size, root, err := a.o.Ledger.Head(ctx); err != nil {
		wrong("the ledger does not answer: %v", err)
	} else {
		s.Journal, s.Root = size, hex.EncodeToString(root[:])
	}
	for _, h := range a.o.Signer.Health() {
		s.Tokens = append(s.Tokens, contract.TokenStatus(h))
		if h.Problem != "" {
			wrong("token %s: %s", h.Token, h.Problem)
		} else if h.Ready == 0 && h.Wanted > 0 {
			wrong("token %s: no worker is ready; look at the log for why they end", h.Token)
		}
	}
	for _, k := range a.o.Ledger.Keys() {
		s.Keys = append(s.Keys, contract.KeyStatus{ID: k.ID, Token: k.Token, Purpose: string(k.Purpose), Algorithm: k.Algorithm, State: string(k.State), NotAfter: k.NotAfter})
	}
	if err := a.selftest.last(); err != nil {
		wrong("the self test failed: %v", err)
	}
	for _, p := range []policy.Purpose{policy.PurposeMDoc, policy.PurposeSDJWT, policy.PurposeList} {
		if _, err := a.activeKey(p, now); err != nil {
			wrong("%s: %v", p, strings.TrimPrefix(err.Error(), "key.missing: "))
		}
	}
	a.public.mu.RLock()
	known := a.public.lists
	for _, id := range a.o.Ledger.Lists() {
		l, ok := known[id]
		if !ok {
			wrong("list %s was never signed", id)
			continue
		}
		dirty := false
		if snap, err := a.o.Ledger.List(id); err == nil {
			dirty = !snap.Dirty.IsZero()
			if dirty && now.Sub(snap.Dirty) > 10*time.Second {
				wrong("list %s has changes that are not published since %s", id, snap.Dirty.Format(time.RFC3339))
			}
		}
		if !now.Before(l.expires) {
			wrong("list %s expired at %s", id, l.expires.Format(time.RFC3339))
		}
		s.Lists = append(s.Lists, contract.ListStatus{ID: id, URI: l.facts.URI, MediaType: l.media, Version: l.version, Issued: l.issued, Expires: l.expires, Bytes: l.size, Dirty: dirty})
	}
	a.public.mu.RUnlock()
	s.Ready = len(s.Problems) == 0
	return s
}
