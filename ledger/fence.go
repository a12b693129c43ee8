package ledger

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/durable"
	"sealkeeper/internal/strict"
)

// head is the high-water record: what a ledger that starts must contain at least.
type head struct {
	Size  uint64            `json:"size"`
	Root  string            `json:"root"` // base64url
	Lists map[string]uint64 `json:"lists"`
	CRLs  map[string]uint64 `json:"crls,omitempty"` // numbers of revocation lists
}

// outside is what was found ahead of the ledger.
type outside struct {
	versions map[string]uint64 // of lists, in the high-water record or the publish directory
	numbers  map[string]uint64 // of revocation lists, in the same
	reasons  []string
	seen     *head     // the high-water record; nil: there is none
	other    bool      // it saw other entries than the ledger has
	restored *Restored // the mark of a restored ledger that was not accepted; nil: there is none
}

// The record has some 33 bytes for each list, so that two million fit: two thousand million cards in lists of 1024, which are the smallest.
var (
	headLimits = strict.Limits{Bytes: 64 << 20, Depth: 3}
	metaLimits = strict.Limits{Bytes: 1 << 16, Depth: 3}
)

// acceptedCRL begins the names of revocation lists among what was accepted; no status list has such a name.
const acceptedCRL = "crl/"

// Meta values: acceptedMeta remembers list versions outside which Unfence accepted, restoredMeta the mark of the restored ledger that was.
const (
	acceptedMeta = "fence/accepted"
	restoredMeta = "fence/restored"
)

// lookOutside compares the ledger with the high-water record and the publish directory. Every difference that a ledger which never lost
// anything can't show is a reason to sign nothing.
func (l *Ledger) lookOutside(ctx context.Context) ([]string, error) {
	l.outside.versions, l.outside.numbers = map[string]uint64{}, map[string]uint64{}
	accepted := map[string]uint64{}
	if b, rev, err := l.store.Get(ctx, TableMeta, []byte(acceptedMeta)); err != nil {
		return nil, err
	} else if rev != 0 {
		v, err := decode[map[string]uint64](TableMeta, b)
		if err != nil {
			return nil, err
		}
		accepted = *v
	}
	see := func(where, id string, version uint64) {
		if version <= accepted[id] {
			return
		}
		known := uint64(0)
		li := l.lists[id]
		if li != nil {
			known = li.version.Version
		}
		switch {
		case li == nil:
			l.outside.reasons = append(l.outside.reasons, fmt.Sprintf("%s has list %s, which the ledger does not know", where, id))
		case version > known:
			l.outside.reasons = append(l.outside.reasons, fmt.Sprintf("%s has version %d of list %s and the ledger %d", where, version, id, known))
		default:
			return
		}
		l.outside.versions[id] = max(version, l.outside.versions[id])
	}
	seeCRL := func(where, name string, number uint64) {
		if number > accepted[acceptedCRL+name] && number > l.crls[name] {
			l.outside.reasons = append(l.outside.reasons, fmt.Sprintf("%s has number %d of CRL %s and the ledger %d", where, number, name, l.crls[name]))
			l.outside.numbers[name] = max(number, l.outside.numbers[name])
		}
	}
	if err := l.lookRestored(ctx); err != nil {
		return nil, err
	}
	if l.o.HighWater != "" {
		if err := l.lookHighWater(ctx, see, seeCRL); err != nil {
			return nil, err
		}
	}
	if l.o.Publish != "" {
		for dir, see := range map[string]func(where, id string, version uint64){"status-lists": see, "crl": seeCRL} {
			if err := l.lookPublished(dir, see); err != nil {
				return nil, err
			}
		}
	}
	return l.outside.reasons, nil
}

// lookRestored: a ledger that was put back from a backup is an old one, even if nothing outside says so.
func (l *Ledger) lookRestored(ctx context.Context) error {
	r, err := ReadRestored(l.o.Path)
	if err != nil || r == nil {
		return err
	}
	accepted, _, err := l.store.Get(ctx, TableMeta, []byte(restoredMeta))
	if err != nil || bytes.Equal(accepted, encode(r)) {
		return err
	}
	l.outside.restored = r
	l.outside.reasons = append(l.outside.reasons, fmt.Sprintf("the ledger was restored at %s from the backup of %s, which has %d journal entries", r.At.Format(time.RFC3339), r.Made.Format(time.RFC3339), r.Size))
	return nil
}

func (l *Ledger) lookHighWater(ctx context.Context, see, seeCRL func(where, id string, version uint64)) error {
	b, err := os.ReadFile(l.o.HighWater)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a first start; whoever can delete it could also roll it back
	}
	if err != nil {
		return fmt.Errorf("reading the high-water record: %w", err)
	}
	h, err := parseHead(b)
	if err != nil {
		return fmt.Errorf("the high-water record %s is damaged, restore it or, if the ledger is known to be the newest, remove it: %w", l.o.HighWater, err)
	}
	l.outside.seen = &h
	size, _, err := l.store.Head(ctx)
	if err != nil {
		return err
	}
	if size < h.Size {
		l.outside.reasons = append(l.outside.reasons, fmt.Sprintf("the high-water record saw %d journal entries and the ledger has %d", h.Size, size))
	} else if root, err := tlog.TreeHash(int64(h.Size), l.store); err != nil {
		return err
	} else if base64.RawURLEncoding.EncodeToString(root[:]) != h.Root {
		l.outside.other = true
		l.outside.reasons = append(l.outside.reasons, fmt.Sprintf("the high-water record saw other journal entries among the first %d", h.Size))
	}
	for _, id := range sorted(h.Lists) {
		see("the high-water record", id, h.Lists[id])
	}
	for _, name := range sorted(h.CRLs) {
		seeCRL("the high-water record", name, h.CRLs[name])
	}
	return nil
}

func parseHead(b []byte) (h head, err error) {
	if err = strict.JSON(b, headLimits, &h); err == nil && h.Size > math.MaxInt64 {
		err = fmt.Errorf("no journal has %d entries", h.Size)
	}
	return h, err
}

// ListMeta is what the publish directory says of a status list or of a revocation list, beside it.
type ListMeta struct {
	ID      string `json:"id"`
	Version uint64 `json:"version"`
	File    string `json:"file"`
}

// ParseListMeta reads a description in the publish directory.
func ParseListMeta(b []byte) (m ListMeta, err error) { return m, strict.Loose(b, metaLimits, &m) }

func (l *Ledger) lookPublished(kind string, see func(where, id string, version uint64)) error {
	dir := filepath.Join(l.o.Publish, kind)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the publish directory: %w", err)
	}
	for _, e := range entries {
		id, isMeta := strings.CutSuffix(e.Name(), ".json")
		if !isMeta || strings.HasPrefix(id, ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if info, err := e.Info(); err == nil && info.Size() > int64(metaLimits.Bytes) {
			return fmt.Errorf("%s has %d bytes, which no list's description has", path, info.Size())
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading the publish directory: %w", err)
		}
		m, err := ParseListMeta(b)
		if err != nil || m.ID != id {
			return fmt.Errorf("%s is damaged (it names list %q): remove it if its list was never published: %w", path, m.ID, errors.Join(err))
		}
		see("the publish directory", m.ID, m.Version)
	}
	return nil
}

// Unfence accepts what is outside, for installations without officers.
func (l *Ledger) Unfence(ctx context.Context) error { return l.unfence(ctx, nil, nil) }

// unfence accepts what is outside: it is journalled, every list opened before is closed for new credentials, and list versions jump above
// anything that was seen outside. What the lost part of the ledger had reserved, revoked or locked is not known but for what Lift got back from
// published lists; only new lists keep an index from being used twice. Nor is it known what officers rejected there, or had carried out: the registry
// that x brings voids whatever was proposed to the one in use.
func (l *Ledger) unfence(ctx context.Context, x *Execution, report []byte) error {
	f := l.fenced.Load()
	if f == nil {
		return nil
	}
	if l.dead.Load() {
		return ErrStopped
	}
	const jump = 1000
	now := l.o.Clock.Now()
	accepted := map[string]uint64{}
	old, rev, err := get[map[string]uint64](ctx, l, TableMeta, []byte(acceptedMeta))
	if err != nil {
		return err
	}
	if old != nil {
		accepted = *old
	}
	for id, v := range l.outside.versions {
		accepted[id] = v
	}
	for name, n := range l.outside.numbers {
		accepted[acceptedCRL+name] = n
	}
	rows := []Row{{Table: TableMeta, Key: []byte(acceptedMeta), Value: encode(accepted), If: If(rev)}}
	if l.outside.restored != nil {
		rows = append(rows, Row{Table: TableMeta, Key: []byte(restoredMeta), Value: encode(l.outside.restored), If: Any})
	}
	leaf := Leaf{Kind: "unfence", At: now, Reasons: f.Reasons}
	if report != nil {
		rows = append(rows, Row{Table: TableMeta, Key: []byte(reportMeta), Value: report, If: Any})
		leaf.Digest = hashed(report)
	}
	switch _, rev, err := l.store.Get(ctx, TableOfficers, registryKey); {
	case err != nil:
		return l.readFailed(err)
	case rev != 0 && (x == nil || len(x.Registry) == 0):
		return errors.New("officers are registered, and nothing voids what was proposed to them before")
	case rev != 0:
		rows = append(rows, Row{Table: TableOfficers, Key: registryKey, Value: x.Registry, If: If(rev)})
		leaf.Registry = hashed(x.Registry)
	}
	if rows, err = l.executed(ctx, x, &leaf, rows); err != nil {
		return err
	}
	closed, jumped := map[string]ListRecord{}, map[string]VersionRecord{}
	l.mu.RLock()
	for id, li := range l.lists {
		if li.row.Closed.IsZero() {
			row := li.row
			row.Closed = now
			closed[id] = row
			rows = append(rows, Row{Table: TableLists, Key: []byte(id), Value: encode(row), If: If(li.rev)})
		}
		v := li.version
		// Without its token, so that the next start signs the list again at once.
		v.ID, v.Version, v.Token = id, max(v.Version, l.outside.versions[id])+jump, nil
		jumped[id] = v
		rows = append(rows, Row{Table: TableVersions, Key: []byte(id), Value: encode(v), If: Any})
	}
	l.mu.RUnlock()
	crls, err := l.jumpCRLs(ctx, jump)
	if err != nil {
		return err
	}
	rows = append(rows, crls...)
	crashpoint.Here("ledger.unfence.before-commit")
	leaf.Count = uint64(len(closed))
	out, err := l.commit(ctx, leaf, rows, true, func(seq uint64) {
		for id, row := range closed {
			l.lists[id].row, l.lists[id].rev = row, seq+1
		}
		for id, v := range jumped {
			l.lists[id].version, l.lists[id].dirty = v, now
		}
		for _, row := range crls {
			if c, err := decode[CRLRecord](TableCRLs, row.Value); err == nil { // our own encoding
				l.crls[c.Name] = c.Number
			}
		}
	})
	if err != nil {
		return err
	}
	if out.Conflict != nil {
		return ErrConflict
	}
	crashpoint.Here("ledger.unfence.after-commit")
	return l.unfenced()
}

func (l *Ledger) unfenced() error {
	if err := EndRestore(l.o.Path); err != nil { // tokens get other keys from now on
		return err
	}
	l.fenced.Store(nil)
	l.o.Metrics.Fenced.Set(0)
	l.wake()
	return l.writeHighWater()
}

// Finish ends the lifting of a fence by a proposal that was killed after its commit, before the high-water record was written: the journal ends with that
// commit, and what is outside is what it accepted. Otherwise nothing is done, and there is no report.
func (l *Ledger) Finish(ctx context.Context, proposal string) (*Report, error) {
	if l.fenced.Load() == nil || l.dead.Load() {
		return nil, nil
	}
	r, err := l.LastReport(ctx)
	if err != nil || r == nil || r.Proposal != proposal || r.Done.IsZero() {
		return nil, err
	}
	o := l.outside
	if o.restored != nil || len(o.versions) > 0 || len(o.numbers) > 0 || o.seen != nil && (r.Difference == nil || o.seen.Size != r.Difference.Seen) {
		return nil, nil
	}
	_, last, err := l.settledHead(ctx)
	if err != nil || last.Kind != "unfence" || last.Proposal != proposal {
		return nil, err
	}
	return r, l.unfenced()
}

// highWater keeps the record at most a good second behind the journal. It ends with the ledger.
func (l *Ledger) highWater() {
	for {
		select {
		case <-l.stop:
			return
		case <-l.moved:
		}
		if l.fenced.Load() == nil && !l.dead.Load() {
			err := l.writeHighWater()
			if n, news := l.faults.News("high-water", err); news {
				l.o.Log.Error("writing the high-water record: a restored backup would not be noticed", "path", l.o.HighWater, "error", err, "suppressed", n)
			}
		}
		t := time.NewTimer(time.Second)
		select {
		case <-l.stop:
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// writeHighWater records the ledger's head. Versions are read before the head: the record never claims more than one instant held.
func (l *Ledger) writeHighWater() error {
	if l.o.HighWater == "" {
		return nil
	}
	h := head{Lists: map[string]uint64{}, CRLs: map[string]uint64{}}
	l.mu.RLock()
	for id, li := range l.lists {
		if li.version.Version > 0 && !li.past() {
			h.Lists[id] = li.version.Version
		}
	}
	maps.Copy(h.CRLs, l.crls)
	l.mu.RUnlock()
	size, root, err := l.store.Head(context.Background())
	if err != nil {
		return err
	}
	h.Size, h.Root = size, base64.RawURLEncoding.EncodeToString(root[:])
	b := encode(h)
	if len(b) > headLimits.Bytes { // what no start reads must not take the place of what one does
		return fmt.Errorf("the high-water record of %d lists would have %d bytes, and a start reads %d: the one before stays; set lists.entries higher", len(h.Lists), len(b), headLimits.Bytes)
	}
	return durable.WriteFile(l.o.HighWater, b, 0o600)
}

func sorted(m map[string]uint64) []string {
	ids := make([]string, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
