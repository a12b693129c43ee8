package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// States of a key. The registry's rows of before there were more of them say "stopped", which is deactivated.
type KeyState = state.KeyState

const (
	KeyPlanned     = state.KeyPlanned
	KeyGenerated   = state.KeyGenerated
	KeyCertified   = state.KeyCertified
	KeyAnnounced   = state.KeyAnnounced
	KeyActive      = state.KeyActive
	KeyDeactivated = state.KeyDeactivated
	KeyCompromised = state.KeyCompromised
	KeyDestroyed   = state.KeyDestroyed

	keyStopped KeyState = "stopped"
)

// Key is a registry entry. Validity dates live here, never in the token.
type Key struct {
	ID        string         `json:"id"`
	Token     string         `json:"token"` // "online", "iaca"
	Purpose   policy.Purpose `json:"purpose"`
	Algorithm string         `json:"algorithm"` // "ES256", "ES384", "EdDSA"
	CKAID     []byte         `json:"cka_id"`
	SPKI      []byte         `json:"spki"`           // pinned, DER; empty while planned, and of one that was taken back then
	Chain     [][]byte       `json:"chain"`          // DER, leaf first; the anchor is not part of it (the root's own chain is itself)
	Link      []byte         `json:"link,omitempty"` // of a root: the certificate by which its predecessor vouches for it, DER
	State     KeyState       `json:"state"`
	Since     time.Time      `json:"since,omitzero"`
	NotBefore time.Time      `json:"not_before"` // private-key use
	NotAfter  time.Time      `json:"not_after"`
	Until     time.Time      `json:"until,omitzero"` // its certificate's notAfter
	Copies    bool           `json:"copies"`         // made with the template that allows session copies
	Plan      *KeyPlan       `json:"plan,omitempty"` // nil: made at the founding
	Drain     time.Time      `json:"drain,omitzero"` // deactivated after use: what was reserved before is finished until then
	Entries   int            `json:"entries,omitzero"`
	Last      []byte         `json:"last,omitempty"` // SHA-256 of the last entry of its history
}

// KeyPlan is what a quorum decided about a key before it was made.
type KeyPlan struct {
	Proposal string    `json:"proposal"`
	By       []string  `json:"by"`
	Profile  string    `json:"profile"` // of its certificate
	Name     string    `json:"name"`
	Succeeds string    `json:"succeeds,omitempty"` // the key that it takes over from
	Announce time.Time `json:"announce"`
	Activate time.Time `json:"activate,omitzero"` // zero: it stands by
	Uses     uint64    `json:"uses,omitzero"`     // how often it signs at most; 0: no limit
	PerHour  uint64    `json:"per_hour,omitzero"`
}

// StandsBy says whether the key waits to take over from one that can't be used any more.
func (k Key) StandsBy() bool {
	return k.Plan != nil && k.Plan.Activate.IsZero() && (k.State == KeyCertified || k.State == KeyAnnounced)
}

// Finishes says whether what was reserved for the key while it was active may still be signed. A CA that certifies nothing any more goes on to say
// what it revoked, as long as its certificate is good.
func (k Key) Finishes(at time.Time) bool {
	ca := k.Purpose == policy.PurposeIACA || k.Purpose == policy.PurposeClientCA
	return k.State == KeyActive || k.State == KeyDeactivated && !k.Drain.IsZero() && (at.Before(k.Drain) || ca && at.Before(k.Until))
}

// Ended says whether a key will never sign again.
func (k Key) Ended() bool {
	return k.State == KeyDeactivated || k.State == KeyCompromised || k.State == KeyDestroyed
}

// Finishes says whether what was reserved for a key may be signed now.
func (l *Ledger) Finishes(k Key) bool {
	_, withdrawn := l.Withdrawn(k.ID)
	return !withdrawn && k.Finishes(l.o.Clock.Now())
}

// migrated is a key as a row of any version says it.
func (k Key) migrated() Key {
	if k.State == keyStopped {
		k.State = KeyDeactivated
	}
	return k
}

// Keys of the registry, sorted by id. The slice is shared and immutable.
func (l *Ledger) Keys() []Key { return *l.keys.Load() }

func (l *Ledger) key(id string) (Key, bool) { return registered(l.Keys(), id) }

func registered(all []Key, id string) (Key, bool) {
	i, ok := slices.BinarySearchFunc(all, id, func(k Key, id string) int { return strings.Compare(k.ID, id) })
	if !ok {
		return Key{}, false
	}
	return all[i], true
}

func withKey(all []Key, k Key) []Key {
	i, known := slices.BinarySearchFunc(all, k.ID, func(k Key, id string) int { return strings.Compare(k.ID, id) })
	if known {
		all[i] = k
		return all
	}
	return slices.Insert(all, i, k)
}

func (l *Ledger) loadKeys(ctx context.Context) error {
	all := []Key{}
	err := scan(ctx, l.store, TableKeys, nil, func(e Entry) error {
		k, err := decode[Key](TableKeys, e.Value)
		if err == nil {
			all = append(all, k.migrated())
		}
		return err
	})
	l.keys.Store(&all) // in the order of the rows' keys, which are the ids
	return err
}

// Causes of a change of state.
const (
	CauseFounding = "founding" // init, before there is anything that officers decided
	CauseBefore   = "before"   // it was so before histories were kept
	CauseOfficers = "officers" // a proposal was carried out
	CausePlan     = "plan"     // the time of an approved plan came
	CauseEnded    = "ended"    // the end of its use came
	CauseUsed     = "used"     // it signed as often as it may
	CauseStandby  = "standby"  // the key that it stands by for can't be used any more
)

// KeyEntry is one step of a key's life. Each holds the hash of the one before, and the journal's leaf of its commit has its own.
type KeyEntry struct {
	Key      string          `json:"key"`
	N        int             `json:"n"`
	Previous []byte          `json:"previous,omitempty"` // SHA-256 of entry n-1
	From     KeyState        `json:"from,omitempty"`
	To       KeyState        `json:"to"`
	At       time.Time       `json:"at"`
	Window   state.KeyWindow `json:"window"`
	CKAID    []byte          `json:"cka_id"`
	SPKI     []byte          `json:"spki,omitempty"` // SHA-256
	Leaf     []byte          `json:"leaf,omitempty"` // SHA-256 of its certificate
	Link     []byte          `json:"link,omitempty"` // SHA-256 of its link certificate
	Cause    string          `json:"cause"`
	Proposal string          `json:"proposal,omitempty"` // whose quorum allowed it: the mandate of that id
	By       []string        `json:"by,omitempty"`       // what they gave as reason stands in what they signed
}

// MandateRecord is a proposal about keys that was carried out, with the registry by whose keys its approvals count. It is kept as long as the
// keys' histories, so that anybody can check later who allowed what.
type MandateRecord struct {
	Action    string    `json:"action"`
	Approvals []byte    `json:"approvals"` // envelope
	Since     time.Time `json:"since,omitzero"`
	At        time.Time `json:"at"`
	Registry  []byte    `json:"registry"`
}

// KeyChange is a step of a key's life that is to be recorded.
type KeyChange struct {
	Key      Key // as it will be; its state is the new one
	Cause    string
	Proposal string
	By       []string
	Revoke   []byte // serial number of its certificate, which is revoked with this step: for the key's compromise, or because another takes over
}

// PutKey adds a key of the founding or changes it: purpose, token, algorithm, CKA_ID and SPKI of an existing one can't change. Steps that
// are left out are recorded too. Journalled with a leaf.
func (l *Ledger) PutKey(ctx context.Context, k Key) error {
	return l.ChangeKeys(ctx, l.o.Clock.Now(), []KeyChange{{Key: k, Cause: CauseFounding}}, nil)
}

// ChangeKeys records steps of keys' lives, all of them in one commit, and with it that a proposal was carried out.
func (l *Ledger) ChangeKeys(ctx context.Context, at time.Time, changes []KeyChange, x *Execution) error {
	if l.dead.Load() {
		return ErrStopped
	}
	l.custody.Lock()
	defer l.custody.Unlock()
	after := slices.Clone(l.Keys())
	var rows []Row
	leaf := Leaf{Kind: "key", At: at}
	for i, c := range changes {
		k, add, entries, err := l.keyRows(ctx, at, c)
		if err != nil {
			return err
		}
		rows = append(rows, add...)
		leaf.Keys = append(leaf.Keys, entries...)
		if i == 0 {
			spki := sha256.Sum256(k.SPKI)
			leaf.Name, leaf.State, leaf.Operation, leaf.Digest = k.ID, string(k.State), string(k.Purpose), spki[:]
		}
		after = withKey(after, k)
	}
	for _, c := range changes { // one active key of a purpose on a token: everybody knows whose turn it is
		if k := c.Key; k.State == KeyActive && c.Cause != CauseFounding {
			for _, o := range after {
				if o.ID != k.ID && o.State == KeyActive && o.Purpose == k.Purpose && o.Token == k.Token {
					return refuse("key.two_active", "key %q is active for %s: it has to be deactivated when %q takes over", o.ID, k.Purpose, k.ID)
				}
			}
		}
	}
	revoked := func(uint64) {}
	for _, c := range changes {
		if c.Revoke == nil {
			continue
		}
		why := policy.Superseded
		if c.Key.State == KeyCompromised {
			why = policy.KeyCompromise
		}
		add, applied, err := l.revoking(ctx, &leaf, [][]byte{c.Revoke}, why)
		if err != nil {
			return err
		}
		rows = append(rows, add...)
		before := revoked
		revoked = func(seq uint64) { before(seq); applied(seq) }
	}
	applied := func(seq uint64) {
		l.keys.Store(&after)
		revoked(seq)
	}
	crashpoint.Here("ledger.key.before-commit")
	if x != nil {
		if err := l.execute(ctx, x, leaf, rows, applied); err != nil {
			return err
		}
	} else {
		out, err := l.commit(ctx, leaf, rows, true, applied)
		if err != nil {
			return err
		}
		if out.Conflict != nil {
			return ErrConflict
		}
	}
	crashpoint.Here("ledger.key.after-commit")
	if slices.ContainsFunc(changes, func(c KeyChange) bool { return c.Key.Purpose == policy.PurposeList && c.Key.State == KeyActive }) {
		l.wake() // lists are signed again
	}
	return nil
}

// keyRows checks one change and makes its rows: the key, an entry for each step, and its certificate if that is revoked. The caller holds custody.
func (l *Ledger) keyRows(ctx context.Context, at time.Time, c KeyChange) (k Key, rows []Row, leaves []LeafKey, err error) {
	k = c.Key
	old, rev, err := get[Key](ctx, l, TableKeys, []byte(k.ID))
	if err != nil {
		return k, nil, nil, err
	}
	if !slices.Contains(state.KeyStates(), k.State) {
		return k, nil, nil, fmt.Errorf("key %q has state %q, which does not exist", k.ID, k.State)
	}
	if k.ID == "" || k.Token == "" || k.Purpose == "" || k.Algorithm == "" || len(k.CKAID) == 0 || len(k.SPKI) == 0 && k.State != KeyPlanned && !k.Ended() {
		return k, nil, nil, fmt.Errorf("key %q: id, token, purpose, algorithm, CKA_ID and SPKI are all needed", k.ID)
	}
	was := Key{}
	if old != nil {
		was = old.migrated()
	} else if i := slices.IndexFunc(l.Keys(), func(o Key) bool { return o.Token == k.Token && bytes.Equal(o.CKAID, k.CKAID) }); i >= 0 {
		return k, nil, nil, refuse("key.identity", "key %q has the CKA_ID of %q on token %s", k.ID, l.Keys()[i].ID, k.Token)
	}
	if old != nil && (was.Purpose != k.Purpose || was.Token != k.Token || was.Algorithm != k.Algorithm || was.Copies != k.Copies ||
		!bytes.Equal(was.CKAID, k.CKAID) || was.State != KeyPlanned && !bytes.Equal(was.SPKI, k.SPKI)) {
		return k, nil, nil, refuse("key.identity", "key %q is another key: what it is can't change, register it under a new id", k.ID)
	}
	if was.Ended() && !k.Ended() {
		return k, nil, nil, refuse("key.stopped", "key %q is %s, which is for ever", k.ID, was.State)
	}
	if at.Before(was.Since) { // the founding went by the wall, which may have been ahead
		at = was.Since
	}
	at = at.UTC()
	path := []KeyState{k.State}
	if c.Cause == CauseFounding {
		path = k.State.Path(was.State)
	}
	w := state.KeyWindow{NotBefore: k.NotBefore, NotAfter: k.NotAfter, Until: k.Until}
	k.Entries, k.Last = was.Entries, was.Last
	add := func(e KeyEntry) {
		e.Key, e.N, e.Previous, e.At, e.Window, e.CKAID = k.ID, k.Entries, k.Last, at, w, k.CKAID
		if len(k.SPKI) > 0 && e.To != KeyPlanned {
			e.SPKI = hashed(k.SPKI)
		}
		if len(k.Chain) > 0 && e.To != KeyGenerated {
			e.Leaf = hashed(k.Chain[0])
		}
		if len(k.Link) > 0 {
			e.Link = hashed(k.Link)
		}
		value := encode(e)
		k.Entries, k.Last = k.Entries+1, hashed(value)
		rows = append(rows, Row{Table: TableKeyLife, Key: keyLifeKey(k.ID, e.N), Value: value})
		leaves = append(leaves, LeafKey{ID: k.ID, State: e.To, Entry: k.Last})
	}
	if old != nil && was.Entries == 0 { // a row of before there were histories
		add(KeyEntry{To: was.State, Cause: CauseBefore})
	}
	if old == nil || was.State != k.State {
		from := was.State
		if len(path) == 0 {
			return k, nil, nil, refuse("key.step", "key %q: a key that is %s does not become %s", k.ID, from, k.State)
		}
		for _, to := range path {
			step := at
			if c.Cause == CauseFounding { // its own window begins with the second in which it is made, or later
				step = time.Time{}
				if err := state.KeyStep(from, to, state.KeyWindow{}, step, step); err != nil {
					return k, nil, nil, refuse("key.step", "key %q: %v", k.ID, err)
				}
			} else if err := state.KeyStep(from, to, w, was.Since, step); err != nil {
				return k, nil, nil, refuse("key.step", "key %q: %v", k.ID, err)
			}
			add(KeyEntry{From: from, To: to, Cause: c.Cause, Proposal: c.Proposal, By: c.By})
			from = to
		}
		k.Since = at
	}
	rows = append(rows, Row{Table: TableKeys, Key: []byte(k.ID), Value: encode(k), If: If(rev)})
	return k, rows, leaves, nil
}

func keyLifeKey(id string, n int) []byte {
	return binary.BigEndian.AppendUint32(append([]byte(id), 0), uint32(n))
}

// KeyLife is the history of one key, oldest first.
func (l *Ledger) KeyLife(ctx context.Context, id string) (all []KeyEntry, err error) {
	err = scan(ctx, l.store, TableKeyLife, append([]byte(id), 0), func(e Entry) error {
		r, err := decode[KeyEntry](TableKeyLife, e.Value)
		if err == nil {
			all = append(all, *r)
		}
		return err
	})
	if err != nil {
		return nil, l.readFailed(err)
	}
	return all, nil
}

// Meta values: small named facts ("domain-secret/online", "accepted-clock", "installation", …), journalled with a leaf.
func (l *Ledger) Meta(ctx context.Context, name string) (value []byte, ok bool, err error) {
	if l.dead.Load() {
		return nil, false, ErrStopped
	}
	value, rev, err := l.store.Get(ctx, TableMeta, []byte(name))
	if err != nil {
		return nil, false, l.readFailed(err)
	}
	return value, rev != 0, nil
}

// PutMeta stores a meta value; it is journalled under its name and hash.
func (l *Ledger) PutMeta(ctx context.Context, name string, value []byte) error {
	return l.putMeta(ctx, name, value, false)
}

// PutStartMeta is PutMeta of what every start writes: also in the room that is kept for locks, since without a start none is taken.
func (l *Ledger) PutStartMeta(ctx context.Context, name string, value []byte) error {
	return l.putMeta(ctx, name, value, true)
}

func (l *Ledger) putMeta(ctx context.Context, name string, value []byte, urgent bool) error {
	if l.dead.Load() {
		return ErrStopped
	}
	if value == nil {
		value = []byte{} // nil would delete
	}
	digest := sha256.Sum256(value)
	_, err := l.commit(ctx, Leaf{Kind: "meta", At: l.o.Clock.Now(), Name: name, Digest: digest[:]},
		[]Row{{Table: TableMeta, Key: []byte(name), Value: value, If: Any}}, urgent, nil)
	return err
}

// Certificate issued by the appliance.
type Certificate struct {
	Serial   []byte    `json:"serial"`
	Profile  string    `json:"profile"`
	Name     string    `json:"name"`
	CA       string    `json:"ca"`            // id of the key that signed it
	CRL      string    `json:"crl,omitempty"` // name of the revocation list that it points to; a root has none
	NotAfter time.Time `json:"not_after"`
	DER      []byte    `json:"der"`
	At       time.Time `json:"at"`
	Client   string    `json:"client,omitempty"` // of the registry; of profiles "client" and "officer"
}

// Certificates lists all that were settled, oldest first.
func (l *Ledger) Certificates(ctx context.Context) ([]Certificate, error) {
	var all []Certificate
	err := scan(ctx, l.store, TableCertificates, nil, func(e Entry) error {
		c, err := decode[Certificate](TableCertificates, e.Value)
		if err == nil {
			all = append(all, *c)
		}
		return err
	})
	if err != nil {
		return nil, l.readFailed(err)
	}
	slices.SortStableFunc(all, func(a, b Certificate) int { return a.At.Compare(b.At) })
	return all, nil
}
