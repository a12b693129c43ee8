// Package ledger is the durable truth: subjects, status indices, reservations, attempts, keys, answers and the transparency log's leaves
// with their Merkle hashes, all in one commit.
//
// It compares, it never judges: an approval brings conditions, and the batch that uses it commits only if they hold.
//
//	Lease    → Ticket       a status index out of a durably leased block; a lost block is burnt
//	Reserve  → Reservation  the one durable write before the HSM, journalled and logged
//	Attempt                 each further try at a signature, durable before its frame is sent
//	Settle                  compare-and-set: the first signature wins, later ones get the stored answer
//
// Group commit: many callers, one fsync; nothing is acknowledged before it. An error of the disk ends the ledger (Options.Fatal):
// recovery is the same code as start.
package ledger

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sealkeeper/internal/clock"
	"sealkeeper/internal/lasting"
	"sealkeeper/internal/mac"
	"sealkeeper/internal/metrics"
	"sealkeeper/ledger/index"
)

// Options of Open.
type Options struct {
	Path        string // SQLite file
	HighWater   string // file outside the ledger, better on another disk; compared at start
	Publish     string // publish directory; versions of lists found there are compared at start
	Clock       clock.Clock
	Log         *slog.Logger
	Metrics     *metrics.Metrics
	BaseURL     string        // public base URL; a list's URI is BaseURL + "/status-lists/" + id
	ListSize    uint64        // entries per status list, a power of two ≥ 1024 (default 1<<20)
	Reserve     int64         // bytes of the ledger's disk that are kept for locks (0: none)
	GiveUpAfter time.Duration // when a reservation that nobody finished is given up (default AnswerTTL)
	AnswerTTL   time.Duration // how long sealed answers are kept (default 24 h)
	Fatal       func(error)   // called once when the disk failed; must not return control to issuing (default: panic)
}

// Ledger is open.
type Ledger struct {
	o       Options
	store   Store
	random  io.Reader
	commits *committer
	slots   keyed // one op at a time for a subject, so that only a moved epoch is a conflict
	recent  recentSlots
	secrets atomic.Pointer[Secrets]
	fenced  atomic.Pointer[Fenced]
	outside outside // what was found ahead at Open
	keys    atomic.Pointer[[]Key]
	uses    sync.Map // key id → *keyUse
	spent   chan struct{}
	custody sync.RWMutex // held while keys change; read while something is reserved or settled, which is therefore done with keys as they are
	changed chan struct{}

	mu        sync.RWMutex // lists as of the last durable batch
	lists     map[string]*list
	through   uint64 // sequence number of the last durable op
	days      map[string]bool
	issued    time.Time
	budgets   budgets
	requests  requests
	denied    denials
	letters   letters
	floods    floods
	buried    buried
	switches  switches
	campaigns campaigns
	masks     map[string]map[string][]byte // of the holds that stand and found their cards, by hold and list
	halted    atomic.Pointer[Stop]         // issuing was stopped; nil: it was not
	clients   sync.Map                     // id → *ClientEntry
	serials   sync.Map                     // serial number of a client's certificate → its id

	crls      map[string]uint64 // number of each revocation list; under mu
	revoked   atomic.Pointer[revoked]
	withdrawn atomic.Pointer[withdrawn] // nil: nobody asked yet

	pools keyed
	open  sync.Map // pool name → *pool

	faults *lasting.Faults // of what is tried again for as long as it fails

	failed sync.Once
	dead   atomic.Bool
	closed sync.Once
	moved  chan struct{} // the head moved: wakes the high-water writer
	stop   chan struct{}
	tasks  sync.WaitGroup
}

// Fenced means that something outside is ahead of the ledger (an old backup was restored, or the disk lies): nothing may be signed.
type Fenced struct{ Reasons []string }

func (f *Fenced) Error() string {
	return "FENCED: " + strings.Join(f.Reasons, "; ") + ": restore the newest ledger, or accept the outside state"
}

// ErrConflict: the subject's epoch moved between decision and commit; decide again (at most 5 times).
var ErrConflict = errors.New("the subject changed since the decision")

// ErrStopped: the ledger ended after a disk error or Close.
var ErrStopped = errors.New("the ledger is stopped")

// Refusal is a condition that did not hold.
type Refusal struct{ code, detail, budget string }

// Code is stable: nonce.replayed, attestation.replayed, idempotency.mismatch, reservation.superseded, …
func (r *Refusal) Code() string  { return r.code }
func (r *Refusal) Error() string { return r.code + ": " + r.detail }

// Denies says that a condition of an approval did not hold, which makes a denial of what policy allowed: something was used before, a budget,
// whose id it gives, is used up, or a hold of many cards came in between.
func (r *Refusal) Denies() (budget string, ok bool) {
	return r.budget, r.budget != "" || r.code == "card.held" || strings.HasSuffix(r.code, ".replayed")
}

// Detail is the sentence without the code.
func (r *Refusal) Detail() string { return r.detail }

func refuse(code, format string, args ...any) error {
	return &Refusal{code: code, detail: fmt.Sprintf(format, args...)}
}

// Open opens or creates the ledger, migrates it, and compares it with the high-water record and the publish directory. It returns
// *Fenced (and an open ledger for reading) if anything outside is ahead.
func Open(ctx context.Context, o Options) (*Ledger, error) {
	s, err := OpenSQLite(ctx, o.Path)
	if noRoom(err) && o.Reserve > 0 && os.Truncate(o.Path+".reserve", 0) == nil {
		s, err = OpenSQLite(ctx, o.Path) // a start on a full disk needs some of the room kept for locks
	}
	if err != nil {
		return nil, err
	}
	return open(ctx, o, s)
}

func open(ctx context.Context, o Options, s Store) (_ *Ledger, err error) {
	if o.Clock == nil {
		o.Clock = clock.System()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New()
	}
	if o.ListSize == 0 {
		o.ListSize = 1 << 20
	}
	if o.AnswerTTL == 0 {
		o.AnswerTTL = 24 * time.Hour
	}
	if o.GiveUpAfter == 0 {
		o.GiveUpAfter = o.AnswerTTL
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(err) }
	}
	l := &Ledger{o: o, store: s, random: rand.Reader, lists: map[string]*list{}, days: map[string]bool{}, crls: map[string]uint64{},
		denied: denials{queue: make(chan Row, deniedQueue)}, requests: requests{open: map[string]time.Time{}, over: map[string]time.Time{}}, faults: lasting.New(o.Clock),
		spent: make(chan struct{}, 1), changed: make(chan struct{}, 1), moved: make(chan struct{}, 1), stop: make(chan struct{})}
	defer func() {
		if l.commits == nil && err != nil { // a fenced ledger stays open for reading
			err = errors.Join(err, s.Close())
		}
	}()
	if o.ListSize < 1024 || bits.OnesCount64(o.ListSize) != 1 || o.ListSize > index.MaxSize {
		return nil, fmt.Errorf("a list of %d entries: the size must be a power of two from 1024 to %d", o.ListSize, index.MaxSize)
	}
	size, _, err := s.Head(ctx)
	if err != nil {
		return nil, err
	}
	if size > 0 {
		l.through = size - 1
	}
	o.Metrics.JournalSize.Set(float64(size))
	if err = l.loadKeys(ctx); err != nil {
		return nil, err
	}
	if err = l.loadLists(ctx); err != nil {
		return nil, err
	}
	if err = l.loadBudgets(ctx); err != nil {
		return nil, err
	}
	if err = l.loadLetters(ctx); err != nil {
		return nil, err
	}
	if err = l.loadFloods(ctx); err != nil {
		return nil, err
	}
	if err = l.loadDead(ctx); err != nil {
		return nil, err
	}
	if err = l.loadStop(ctx); err != nil {
		return nil, err
	}
	if err = l.loadSwitches(ctx); err != nil {
		return nil, err
	}
	if err = l.loadRevocations(ctx); err != nil {
		return nil, err
	}
	if err = l.loadCampaigns(ctx); err != nil {
		return nil, err
	}
	if err = l.loadHolds(ctx); err != nil {
		return nil, err
	}
	if err = l.loadClients(ctx); err != nil {
		return nil, err
	}
	reasons, err := l.lookOutside(ctx)
	if err != nil {
		return nil, err
	}
	if len(reasons) == 0 { // tokens get other keys from now on
		if err = EndRestore(o.Path); err != nil {
			return nil, err
		}
	}
	disk := &diskReserve{path: o.Path + ".reserve", bytes: o.Reserve, log: o.Log}
	if err := disk.hold(); noRoom(err) {
		o.Log.Warn("no room is kept for locks", "error", err)
		disk.release()
	} else if err != nil { // a file system that can't promise blocks: no reason to refuse issuing
		o.Log.Warn("no room can be kept for locks", "error", err)
		disk.bytes = 0
	}
	l.commits = newCommitter(s, o.Metrics, l.applied, l.fail, disk)
	go l.commits.run()
	l.tasks.Go(l.keepDenials)
	l.tasks.Go(l.highWater)
	l.tasks.Go(l.decider)
	l.tasks.Go(l.keepHolds)
	l.seekHeld()
	if len(reasons) > 0 {
		f := &Fenced{Reasons: reasons}
		l.fenced.Store(f)
		o.Metrics.Fenced.Set(1)
		return l, f
	}
	o.Metrics.Fenced.Set(0)
	return l, nil
}

// Close writes the high-water record and closes the file. Ops that were submitted before are committed.
func (l *Ledger) Close() (err error) {
	l.closed.Do(func() {
		close(l.stop)
		l.tasks.Wait()
		l.commits.end()
		if !l.dead.Swap(true) && l.fenced.Load() == nil {
			err = l.writeHighWater()
		}
		err = errors.Join(err, l.store.Close())
	})
	return err
}

// fail ends the ledger after the first error of its disk.
func (l *Ledger) fail(err error) {
	l.dead.Store(true)
	l.failed.Do(func() {
		l.o.Log.Error("the ledger's disk failed; the process must end and start again", "error", err)
		l.o.Fatal(err)
	})
}

// applied publishes a durable batch in memory, in journal order. Only the committer calls it.
func (l *Ledger) applied(batch []*write, last uint64, any bool) {
	l.mu.Lock()
	for _, w := range batch {
		l.recent.wrote(w.op) // also after a conflict: whoever decides again reads what is stored
		if w.out.Conflict == nil && w.applied != nil {
			w.applied(w.out.Seq)
		}
	}
	if any {
		l.through = last
	}
	l.mu.Unlock()
	if !any {
		return
	}
	select {
	case l.moved <- struct{}{}:
	default:
	}
}

// wake tells the publisher that there is something new. Callers of commit do so after their op is applied.
func (l *Ledger) wake() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// commit makes one op durable. applied runs under l.mu.
func (l *Ledger) commit(ctx context.Context, leaf Leaf, rows []Row, urgent bool, applied func(seq uint64)) (Outcome, error) {
	leaf.V = 1
	return l.commits.submit(ctx, Op{Leaf: encode(leaf), Rows: rows}, urgent, applied)
}

// get reads one row; v is nil if there is none.
func get[T any](ctx context.Context, l *Ledger, t Table, key []byte) (v *T, revision uint64, err error) {
	b, revision, err := l.store.Get(ctx, t, key)
	if err != nil {
		return nil, 0, l.readFailed(err)
	}
	if revision == 0 {
		return nil, 0, nil
	}
	v, err = decode[T](t, b)
	return v, revision, err
}

// readFailed makes an error of a read what it is: the end, unless the ledger was closed or is not open yet.
func (l *Ledger) readFailed(err error) error {
	if l.commits == nil {
		return err
	}
	select {
	case <-l.stop:
	default:
		l.fail(err)
	}
	if errors.Is(err, ErrStopped) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrStopped, err)
}

// scan calls f for every row whose key begins with prefix.
func scan(ctx context.Context, s Store, t Table, prefix []byte, f func(Entry) error) error {
	const page = 1000
	from := prefix
	for {
		entries, err := s.Scan(ctx, t, from, page)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !strings.HasPrefix(string(e.Key), string(prefix)) {
				return nil
			}
			if err := f(e); err != nil {
				return err
			}
		}
		if len(entries) < page {
			return nil
		}
		from = append(entries[page-1].Key, 0)
	}
}

// ready is the first line of everything that may lead to a signature or changes what one means.
func (l *Ledger) ready() error {
	if l.dead.Load() {
		return ErrStopped
	}
	if f := l.fenced.Load(); f != nil {
		return refuse("ledger.fenced", "%s", strings.Join(f.Reasons, "; "))
	}
	return nil
}

func (l *Ledger) unlocked() (*Secrets, error) {
	if s := l.secrets.Load(); s != nil {
		return s, nil
	}
	return nil, errors.New("the ledger has no secrets yet: the domain secret was not unlocked")
}

// name makes a random name of 128 bits.
func (l *Ledger) name() (string, error) {
	b, err := draw[[16]byte](l.random)
	return base64.RawURLEncoding.EncodeToString(b[:]), err
}

// reservationName is a name whose first 48 bits are the instant of the decision, in milliseconds: rows of reservations and attempts that are written together then lie together
// in the store, instead of each dirtying a page of its own. 80 random bits are left, and a name that is taken is refused by its row.
func (l *Ledger) reservationName(at time.Time) (string, error) {
	b, err := draw[[16]byte](l.random)
	ms := uint64(at.UnixMilli())
	binary.BigEndian.PutUint64(b[:8], ms<<16|uint64(binary.BigEndian.Uint16(b[6:8])))
	return base64.RawURLEncoding.EncodeToString(b[:]), err
}

func draw[A [16]byte | [12]byte](r io.Reader) (a A, err error) {
	b := make([]byte, len(a))
	if _, err := io.ReadFull(r, b); err != nil {
		return a, fmt.Errorf("reading randomness: %w", err)
	}
	for i := range b {
		a[i] = b[i]
	}
	return a, nil
}

// keyed is a mutex for each name in use.
type keyed struct {
	mu sync.Mutex
	m  map[string]*keyedLock
}

type keyedLock struct {
	sync.Mutex
	users int
}

func (k *keyed) lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.m == nil {
		k.m = map[string]*keyedLock{}
	}
	e := k.m[name]
	if e == nil {
		e = &keyedLock{}
		k.m[name] = e
	}
	e.users++
	k.mu.Unlock()
	e.Lock()
	return func() {
		e.Unlock()
		k.mu.Lock()
		if e.users--; e.users == 0 {
			delete(k.m, name)
		}
		k.mu.Unlock()
	}
}

// Secrets are keys derived from the domain secret in a worker.
type Secrets struct {
	Index  [32]byte // status index permutation
	Lookup [32]byte // idempotency lookup
	Salt   [32]byte // salts of credentials
	Commit [32]byte // salted commitments in log leaves

	lookup, commit mac.Key // of Lookup and Commit
}

// Labels under which the secrets are derived: HMAC-SHA256(domain secret, label).
const (
	LabelIndex     = "sealkeeper/v1/index"
	LabelLookup    = "sealkeeper/v1/lookup"
	LabelSalt      = "sealkeeper/v1/salt"
	LabelCommit    = "sealkeeper/v1/commit"
	LabelNonce     = "sealkeeper/v1/nonce"     // evidence
	LabelSession   = "sealkeeper/v1/session"   // evidence
	LabelPairwise  = "sealkeeper/v1/pairwise"  // evidence
	LabelPseudonym = "sealkeeper/v1/pseudonym" // ca
)

// Unlock gives the ledger its secrets; Lease, Recall and Reserve of credentials need them, and a decision on held cards that did not come to
// its end.
func (l *Ledger) Unlock(s Secrets) {
	s.lookup, s.commit = mac.New(s.Lookup), mac.New(s.Commit)
	l.secrets.Store(&s)
	l.floods.decide()
}

// Head is the log's size and root hash.
func (l *Ledger) Head(ctx context.Context) (size uint64, root [32]byte, err error) {
	size, hash, err := l.store.Head(ctx)
	if err != nil {
		return 0, root, l.readFailed(err)
	}
	return size, hash, nil
}

// Pulse shows that the ledger would take a lock now, and that it answers reads: the committer is at work and the store gives its head. It
// writes nothing, and it is no error of the disk if ctx ends first: a commit may only be slow.
func (l *Ledger) Pulse(ctx context.Context) error {
	if l.dead.Load() {
		return ErrStopped
	}
	if err := l.commits.pulse(ctx); err != nil {
		return fmt.Errorf("the ledger's commits: %w", err)
	}
	if _, _, err := l.store.Head(ctx); err != nil {
		return fmt.Errorf("the ledger's reads: %w", err)
	}
	return nil
}

// Arrive announces a request that will soon commit, once or more often; call the result when it no longer will. A commit waits for others
// only while announced requests are on their way, and at most 16 ms.
func (l *Ledger) Arrive() (leave func()) { return l.commits.arrive() }
