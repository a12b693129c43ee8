package fsck

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sealkeeper/ledger"
	"sealkeeper/policy"
	"sealkeeper/verifier"
)

// journalled is what the journal says of status lists.
type journalled struct {
	opened    map[string]uint64    // entries that opened a list
	leased    map[string]uint64    // indices, up to the last lease
	versions  map[string]settledAt // the last that was settled
	repeated  []string             // versions that did not grow
	unfenced  []uint64             // entries that lifted a fence: they closed every list of before, and moved its version on
	published map[string]*outside  // what is outside of them
}

func newJournalled(published []*outside) journalled {
	j := journalled{opened: map[string]uint64{}, leased: map[string]uint64{}, versions: map[string]settledAt{}, published: map[string]*outside{}}
	for _, p := range published {
		if p.damaged == nil {
			j.published[p.meta.ID] = p
		}
	}
	return j
}

// settledAt is the last version of a list, or number of a CRL, that was settled.
type settledAt struct {
	seq, version uint64
	digest       []byte // SHA-256 of its bytes
}

// grows notes a settled version; it reports whether it is above the one before.
func grows(last map[string]settledAt, seq uint64, leaf ledger.Leaf) bool {
	before := last[leaf.Name]
	last[leaf.Name] = settledAt{seq, leaf.Version, leaf.Digest}
	return leaf.Version > before.version
}

// is says whether these are the bytes that were settled.
func (s settledAt) is(b []byte) bool {
	sum := sha256.Sum256(b)
	return bytes.Equal(sum[:], s.digest)
}

// lifted is the last entry that lifted a fence; 0: there is none, for the first entry lifts nothing.
func (j *journalled) lifted() uint64 {
	if len(j.unfenced) == 0 {
		return 0
	}
	return j.unfenced[len(j.unfenced)-1]
}

// lifts says whether an entry lifted a fence.
func (j *journalled) lifts(seq uint64) bool {
	_, is := slices.BinarySearch(j.unfenced, seq)
	return is
}

// listed collects what the journal says of status lists.
func (f *run) listed(seq uint64, leaf ledger.Leaf) {
	j := &f.journalled
	switch {
	case leaf.Kind == "unfence":
		j.unfenced = append(j.unfenced, seq)
	case leaf.Kind == "list":
		j.opened[leaf.Name], j.leased[leaf.Name] = seq, leaf.Count
	case leaf.Kind == "lease":
		j.leased[leaf.Name] = leaf.Count
	case leaf.Kind == "settle" && leaf.Operation == string(policy.KindList):
		last := j.versions[leaf.Name]
		if !grows(j.versions, seq, leaf) {
			j.repeated = append(j.repeated, fmt.Sprintf("entry %d: list %s got version %d after %d", seq, leaf.Name, leaf.Version, last.version))
		}
		p := j.published[leaf.Name]
		switch {
		case p == nil:
		case leaf.Version == p.version:
			p.settled = leaf.Digest
		case last.version < p.version && p.version < leaf.Version && last.seq < j.lifted():
			p.lost = true
		}
	}
}

// statusLists: each list is as it was opened and leased, and closed if a fence was lifted since. Its version is the last that was settled, with the bytes
// that were, or one to which the lifting of a fence moved it since (I4).
func (f *run) statusLists() error {
	c := f.r.check("I4", "status lists and their versions are those of the journal, and versions grow")
	j := &f.journalled
	for _, p := range j.repeated {
		c.fail("%s", p)
	}
	for id, l := range f.lists {
		c.Checked++
		switch at, opened := j.opened[id]; {
		case !opened:
			c.fail("list %s is there, and the journal did not open it", id)
		case l.Leased != j.leased[id]:
			c.fail("list %s leased %d indices, by the journal %d", id, l.Leased, j.leased[id])
		case l.Closed.IsZero() && at < j.lifted():
			c.fail("list %s is open, and entry %d, which lifted a fence, closed it", id, j.lifted())
		}
	}
	there := map[string]bool{}
	if err := f.a.Versions(f.ctx, func(key []byte, seq uint64, v ledger.VersionRecord) error {
		c.Checked++
		there[string(key)] = true
		last, signed := j.versions[v.ID], len(v.Token) > 0
		by := seq // the entry by which it came to be
		if signed {
			by = last.seq
		}
		switch {
		case string(key) != v.ID:
			c.fail("the version of list %s is in the place of %.64q", v.ID, key)
		case !signed && !j.lifts(seq):
			c.fail("list %s has version %d without a token, and entry %d lifted no fence", v.ID, v.Version, seq)
		case v.Version < last.version, signed == (v.Version > last.version):
			c.fail("list %s has version %d, the last that was settled is %d", v.ID, v.Version, last.version)
		case signed && !last.is(v.Token):
			c.fail("list %s version %d has another token than was settled", v.ID, v.Version)
		case by < j.lifted():
			c.fail("list %s has version %d, of before entry %d, which lifted a fence and moved it on", v.ID, v.Version, j.lifted())
		}
		return nil
	}); err != nil {
		return err
	}
	for id, last := range j.versions {
		if !there[id] {
			c.fail("list %s: version %d was settled, and is nowhere", id, last.version)
		}
	}
	for id, at := range j.opened {
		if _, is := f.lists[id]; !is {
			c.fail("list %s was opened, says the journal, and is nowhere", id)
		}
		if _, signed := j.versions[id]; !signed && !there[id] && at < j.lifted() {
			c.fail("list %s: entry %d, which lifted a fence, moved its version on, and it has none", id, j.lifted())
		}
	}
	return nil
}

// outside is a list in the publish directory.
type outside struct {
	name    string // of its description
	meta    ledger.ListMeta
	damaged error
	token   []byte // nil: not there
	version uint64 // of the token, of status lists
	settled []byte // digest of what the journal says was settled as this version
	lost    bool   // it may have been settled in a part of the ledger that was lost: the lifting of a fence passed it over
}

// look reads what is published.
func look(dir string) (map[string][]*outside, error) {
	if dir == "" {
		return nil, nil
	}
	found := map[string][]*outside{}
	for _, kind := range []string{"status-lists", "crl"} {
		metas, err := filepath.Glob(filepath.Join(dir, kind, "*.json"))
		if err != nil {
			return nil, err
		}
		for _, name := range metas {
			p := &outside{name: name}
			var data []byte
			if data, p.damaged = os.ReadFile(name); p.damaged == nil {
				p.meta, p.damaged = ledger.ParseListMeta(data)
			}
			if p.damaged == nil && p.meta.ID != strings.TrimSuffix(filepath.Base(name), ".json") {
				p.damaged = fmt.Errorf("it describes list %.64q", p.meta.ID)
			}
			if p.damaged == nil && p.meta.File != filepath.Base(p.meta.File) {
				p.damaged = fmt.Errorf("it names a file elsewhere, %q", p.meta.File)
			}
			if p.damaged == nil {
				if p.token, err = os.ReadFile(filepath.Join(dir, kind, p.meta.File)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return nil, err
				}
			}
			if p.damaged == nil && kind == "status-lists" {
				if t, err := verifier.DecodeStatusList(p.token, verifier.MaxEntries); err != nil {
					p.name, p.damaged = p.meta.File, err
				} else {
					p.version = t.Version
				}
			}
			found[kind] = append(found[kind], p)
		}
	}
	return found, nil
}

// published: nothing outside is ahead of the ledger, and what is there is what was settled (I4).
func (f *run) published() error {
	if f.outside == nil {
		return nil
	}
	c := f.r.check("I4", "published lists are those that were settled")
	type settled struct {
		version uint64
		digest  [sha256.Size]byte
	}
	newest := map[string]settled{}
	if err := f.a.Versions(f.ctx, func(_ []byte, _ uint64, v ledger.VersionRecord) error {
		newest[v.ID] = settled{v.Version, sha256.Sum256(v.Token)}
		return nil
	}); err != nil {
		return err
	}
	for _, p := range f.outside["status-lists"] {
		c.Checked++
		if p.damaged != nil {
			c.fail("%s: %v", p.name, p.damaged)
			continue
		}
		v, ok := newest[p.meta.ID]
		digest := sha256.Sum256(p.token)
		switch {
		case !ok:
			c.fail("%s: the ledger settled no version of list %s", p.name, p.meta.ID)
		case p.meta.Version > v.version || p.version > v.version:
			c.fail("%s: version %d is ahead of the ledger's %d", p.meta.File, max(p.meta.Version, p.version), v.version)
		case p.version == v.version && digest != v.digest,
			p.version < v.version && !p.lost && p.version <= f.journalled.versions[p.meta.ID].version && !bytes.Equal(digest[:], p.settled):
			c.fail("%s: version %d has other bytes than were settled", p.meta.File, p.version)
		}
	}
	return nil
}
