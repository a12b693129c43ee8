package ledger

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/mod/sumdb/tlog"
	sqlite3 "modernc.org/sqlite" // registers "sqlite"

	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/durable"
)

// sqlite is the Store of a single box: one file, one writing connection, some reading ones, one process (held by a lock file).
type sqlite struct {
	lock *os.File
	conn *connection // writes; nil in a snapshot
	read *readers

	known atomic.Uint64 // entries of the last commit that is durable; readers wait for no commit

	waiting atomic.Bool // a commit is next: reads on its connection must not overtake it

	mu   sync.Mutex // held by whoever uses conn
	size uint64
	edge map[int64]tlog.Hash // the stored hashes that the next leaf will need

	closed bool
	dead   sync.Mutex // guards cause
	cause  error
}

// migrations lead from one schema version to the next; PRAGMA user_version counts those that were applied. Never change one that was
// released: append.
var migrations = []func() string{
	func() string {
		return createTables(tables[0]) +
			"CREATE TABLE journal (seq INTEGER PRIMARY KEY, body BLOB NOT NULL, hash BLOB NOT NULL) STRICT;\n" +
			"CREATE TABLE hashes (id INTEGER PRIMARY KEY, hash BLOB NOT NULL) STRICT;\n"
	},
	func() string { return createTables(tables[1]) },
	func() string { return createTables(tables[2]) },
	func() string { return "" }, // rows of requests have their answers behind the JSON (encode.go), which older programs can't read
	func() string { return createTables(tables[3]) },
	func() string { return "" }, // the first attempt at an item has no row of its own, which older programs would miss
	func() string { return createTables(tables[4]) },
	func() string { return "" }, // lists say in which order they give their indices, which older programs would give in another
	func() string { return "" }, // hashes below lowestHash have no rows, which older programs would miss
}

func createTables(names []Table) string {
	// Rows with large values live beside their key, small ones inside the key's tree.
	wide := map[Table]bool{TableSlots: true, TableReservations: true, TableRequests: true, TableVersions: true, TableCertificates: true, TableCRLs: true, TableKeys: true, TableMeta: true, TableDecisions: true, TableOfficers: true, TableProposals: true, TableKeyLife: true, TableMandates: true, TableClients: true, TableMasks: true}
	var b strings.Builder
	for _, t := range names {
		options := " STRICT, WITHOUT ROWID"
		if wide[t] {
			options = " STRICT"
		}
		fmt.Fprintf(&b, "CREATE TABLE %s (k BLOB NOT NULL PRIMARY KEY, v BLOB NOT NULL, rev INTEGER NOT NULL)%s;\n", t, options)
	}
	return b.String()
}

// OpenSQLite opens or creates a store in a file and migrates it. A second process is refused by a lock file beside it.
func OpenSQLite(ctx context.Context, path string) (_ Store, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	s := &sqlite{edge: map[int64]tlog.Hash{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening the ledger %s: %w", path, err), s.close())
		}
	}()
	if s.lock, err = os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err = syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another process has it open (lock %s.lock): %w", path, err)
	}
	// SQLite gives its side files the mode of the database, so that must be right before the first connection.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err = f.Close(); err != nil {
		return nil, err
	}
	// A commit is durable when the log's bytes are, and its length: fsync would also wait for the file's time stamps, which nobody reads.
	if _, err = sqlite3.Fdatasync(true); err != nil && !errors.Is(err, sqlite3.ErrFdatasyncUnavailable) {
		return nil, err
	}
	// page_size only takes effect in a new file and before WAL. FULL: a commit is durable when it returns. A log of 8000 pages before it is copied into
	// the file: the same hot pages stand in it many times, and each is copied once. Most of what an issue writes lies behind what was written before it,
	// so pages of 4 KB are half as many to write, two calls for each.
	if s.conn, err = connect(ctx, dsn(path, "rwc"),
		"page_size=4096", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=8000", "cache_size=-8192",
		"busy_timeout=5000", "secure_delete=FAST", "foreign_keys=OFF", "trusted_schema=OFF",
		"temp_store=MEMORY", // no temporary files: the sandbox has no place for them, and they would hold what the ledger holds
	); err != nil {
		return nil, err
	}
	if err = s.migrate(ctx); err != nil {
		return nil, err
	}
	s.read = newReaders(4, func() (*connection, error) {
		return connect(context.Background(), dsn(path, "ro"), "query_only=1", "busy_timeout=5000", "cache_size=-8192", "temp_store=MEMORY")
	})
	if s.size, err = s.entries(); err != nil {
		return nil, err
	}
	s.known.Store(s.size)
	need := edgeOf(s.size)
	hashes, err := s.ReadHashes(need)
	if err != nil {
		return nil, err
	}
	for i, id := range need {
		s.edge[id] = hashes[i]
	}
	// All files are there, and their names must be: with fdatasync SQLite waits for what is in them.
	if err = durable.SyncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return s, nil
}

// snapshotSQLite reads a file as of one instant, also while a daemon writes to it.
func snapshotSQLite(ctx context.Context, path string) (Store, error) {
	return viewSQLite(ctx, path, len(migrations))
}

// viewSQLite is snapshotSQLite of files from a version of the schema on.
func viewSQLite(ctx context.Context, path string, oldest int) (_ Store, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	s := &sqlite{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("reading the ledger %s: %w", path, err), s.close())
		}
	}()
	s.read = newReaders(1, func() (*connection, error) {
		c, err := connect(ctx, dsn(path, "ro"), "query_only=1", "busy_timeout=5000")
		if err != nil {
			return nil, err
		}
		if err := c.run(ctx, "BEGIN"); err != nil { // which never ends: what the first read sees is what all see
			return nil, errors.Join(err, c.close())
		}
		return c, nil
	})
	var version int64
	if err = s.read.with(func(c *connection) (err error) {
		version, err = c.number("PRAGMA user_version")
		return err
	}); err != nil {
		return nil, err
	}
	if version < int64(oldest) || version > int64(len(migrations)) {
		return nil, fmt.Errorf("its schema has version %d and this program reads version %d", version, len(migrations))
	}
	if s.size, err = s.entries(); err != nil {
		return nil, err
	}
	s.known.Store(s.size)
	return s, nil
}

func dsn(path, mode string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?mode=" + mode
}

func (s *sqlite) migrate(ctx context.Context) error {
	stored, err := s.conn.number("PRAGMA user_version")
	if err != nil {
		return err
	}
	version := int(stored)
	if version > len(migrations) {
		return fmt.Errorf("its schema has version %d and this program knows %d: a newer program wrote it, use that one", version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		// One transaction a step, user_version included: a crash leaves the old schema or the new one.
		step := fmt.Sprintf("BEGIN IMMEDIATE;\n%sPRAGMA user_version=%d;\nCOMMIT;", migrations[version](), version+1)
		crashpoint.Here("ledger.migrate.before-commit")
		if err := s.conn.run(ctx, step); err != nil {
			return fmt.Errorf("migrating to schema version %d: %w", version+1, err)
		}
		crashpoint.Here("ledger.migrate.after-commit")
	}
	return nil
}

// edgeOf lists the hashes that leaves after size n are combined with: the roots of the complete subtrees.
func edgeOf(n uint64) (ids []int64) {
	for level := 0; n>>level != 0; level++ {
		if n>>level&1 == 1 {
			ids = append(ids, tlog.StoredHashIndex(level, int64(n>>level)-1))
		}
	}
	return ids
}

func (s *sqlite) alive() error {
	s.dead.Lock()
	defer s.dead.Unlock()
	return s.cause
}

// die ends the store: what an error of the disk left behind is only known after opening it again.
func (s *sqlite) die(err error) error {
	s.dead.Lock()
	defer s.dead.Unlock()
	if s.cause == nil {
		s.cause = fmt.Errorf("%w: %w", ErrStopped, err)
	}
	return s.cause
}

func (s *sqlite) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.die(errors.New("closed"))
	return s.close()
}

func (s *sqlite) close() error {
	var errs []error
	if s.read != nil {
		errs = append(errs, s.read.close())
	}
	if s.conn != nil {
		errs = append(errs, s.conn.close()) // the last connection: checkpoints the WAL
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close()) // and with it goes the lock
	}
	return errors.Join(errs...)
}

// ---- writing

func (s *sqlite) Commit(ctx context.Context, batch []Op) ([]Outcome, error) {
	for i := range batch {
		if err := batch[i].check(); err != nil {
			return nil, err
		}
	}
	s.waiting.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting.Store(false)
	if err := s.alive(); err != nil {
		return nil, err
	}
	if s.conn == nil {
		return nil, errors.New("a snapshot can't be written to")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	size, edge := s.size, maps.Clone(s.edge)
	out, err := s.commit(batch)
	if full(err) && s.undo() == nil {
		s.size, s.edge = size, edge
		return nil, fmt.Errorf("%w: %w", ErrFull, err)
	}
	if err != nil {
		return nil, s.die(err)
	}
	s.known.Store(s.size)
	return out, nil
}

// full tells a write that found no room from every other failure. A transaction that ends so is not durable: the frame that makes the
// others count is the last to be written to the WAL, and it was not. A sync that fails is another error.
func full(err error) bool {
	const sqliteFull = 13 // SQLITE_FULL
	var e *sqlite3.Error
	return errors.As(err, &e) && e.Code()&0xff == sqliteFull
}

// undo ends the transaction. SQLite may have ended it itself, so what counts is that another one can begin.
func (s *sqlite) undo() error {
	_ = s.conn.exec("ROLLBACK")
	return errors.Join(s.conn.exec("BEGIN IMMEDIATE"), s.conn.exec("ROLLBACK"))
}

func (o Op) check() error {
	if len(o.Leaf) == 0 {
		return errors.New("an op has no leaf: there is no change without one")
	}
	for i, r := range o.Rows {
		// A dozen rows; a sweep has two hundred.
		if len(r.Key) == 0 || slices.ContainsFunc(o.Rows[:i], func(q Row) bool { return q.Table == r.Table && bytes.Equal(q.Key, r.Key) }) {
			return fmt.Errorf("an op has an empty key or two rows with the same one in table %s", r.Table)
		}
		if r.Most > 0 && (r.Value != nil || r.If != Absent) {
			return fmt.Errorf("a row of table %s that counts has a value or a condition of its own", r.Table)
		}
	}
	return nil
}

func (s *sqlite) commit(batch []Op) ([]Outcome, error) {
	if err := s.conn.exec("BEGIN IMMEDIATE"); err != nil {
		return nil, err
	}
	// Conflicts are rare, so the rows are written with their conditions inside the statements. Only if one does not hold, everything
	// is undone and done again with conditions read first: that costs a query a row, and can undo a single op.
	out, fits, err := s.apply(batch, false)
	if err == nil && !fits {
		if err = s.conn.exec("ROLLBACK"); err == nil {
			if err = s.conn.exec("BEGIN IMMEDIATE"); err == nil {
				out, _, err = s.apply(batch, true)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if err := s.append(batch, out); err != nil {
		return nil, err
	}
	return out, s.conn.exec("COMMIT")
}

// apply writes the rows. Without careful it stops, with fits false, when a condition does not hold.
func (s *sqlite) apply(batch []Op, careful bool) (out []Outcome, fits bool, err error) {
	out = make([]Outcome, len(batch))
	seq := s.size
	var w ways
	if !careful {
		w = waysOf(batch)
	}
	counts, adds := counts{}, adds{}
	for i, op := range batch {
		if careful {
			if out[i].Conflict, err = s.compare(op); err != nil {
				return nil, false, err
			}
			if out[i].Conflict != nil {
				continue
			}
		}
		for _, r := range op.Rows {
			switch w[r.Table] {
			case counting:
				counts.add(r, seq+1)
			case adding:
				adds[r.Table] = append(adds[r.Table], r.Key, r.Value, int64(seq+1))
			default:
				n, err := s.put(r, seq+1)
				if err != nil {
					return nil, false, err
				}
				if n == 0 && r.If != Any {
					return nil, false, nil
				}
			}
		}
		out[i].Seq = seq
		seq++
	}
	for _, c := range counts {
		if fits, err := s.count(c); err != nil || !fits {
			return nil, false, err
		}
	}
	for t, rows := range adds {
		if fits, err := s.add(t, rows); err != nil || !fits {
			return nil, false, err
		}
	}
	return out, true, nil
}

// ways is how the rows of a batch are written, by table: one by one in their order, or together, if the batch only counts in the table or only adds
// to it. Then no row looks at another, and which op one would stand against is found when all is done again, carefully.
type ways map[Table]way

type way int

const (
	inOrder way = iota
	counting
	adding
)

func waysOf(batch []Op) ways {
	w := ways{}
	for _, op := range batch {
		for _, r := range op.Rows {
			is := inOrder
			switch {
			case r.Most > 0:
				is = counting
			case r.Value != nil && r.If == Absent:
				is = adding
			}
			if before, seen := w[r.Table]; seen && before != is {
				is = inOrder
			}
			w[r.Table] = is
		}
	}
	return w
}

// adds are rows that must not be there yet: key, value and revision of each, one after the other.
type adds map[Table][]driver.Value

const addMost = 16 // rows of one statement

// add writes rows with few statements, because what a small row costs is half its statement; fits says that none of them was there.
func (s *sqlite) add(t Table, rows []driver.Value) (fits bool, err error) {
	const one = 3
	for most := addMost; len(rows) > 0; {
		for len(rows) < most*one {
			most /= 4
		}
		n, err := s.conn.execute(addTexts[most], t, rows[:most*one]...)
		if err != nil || n != int64(most) {
			return false, err
		}
		rows = rows[most*one:]
	}
	return true, nil
}

// addTexts add so many rows.
var addTexts = map[int]string{1: addText(1), 4: addText(4), addMost: addText(addMost)}

func addText(rows int) string {
	return "INSERT OR FAIL INTO %s(k,v,rev) VALUES" + strings.Repeat("(?,?,?),", rows-1) + "(?,?,?) ON CONFLICT(k) DO NOTHING"
}

// counts gathers what the ops of a batch count in one row: hundreds of requests count for the same client and phase, and it is one statement
// for each row.
type counts map[string]*count

type count struct {
	table   Table
	key     []byte
	n, most uint64
	rev     uint64
}

func (c counts) add(r Row, rev uint64) {
	id := string(r.Table) + "\x00" + string(r.Key)
	if c[id] == nil {
		c[id] = &count{table: r.Table, key: r.Key, most: r.Most}
	}
	c[id].n, c[id].most, c[id].rev = c[id].n+1, min(c[id].most, r.Most), rev
}

// count adds at once what a batch counts in a row; fits says that it stays within the smallest bound.
func (s *sqlite) count(c *count) (fits bool, err error) {
	if c.n > c.most {
		return false, nil
	}
	n, err := s.conn.execute("INSERT INTO %s(k,v,rev) VALUES(?1,CAST(?4 AS BLOB),?2) ON CONFLICT(k) DO UPDATE SET v=CAST("+counted+"+?4 AS BLOB), rev=excluded.rev WHERE "+counted+"<=?3", c.table,
		c.key, int64(c.rev), bound(c.most-c.n), int64(c.n))
	return n == 1, err
}

// counted is the value of a row that counts.
const counted = "CAST(CAST(v AS TEXT) AS INTEGER)"

func bound(most uint64) int64 { return int64(min(most, math.MaxInt64)) }

func (s *sqlite) compare(op Op) (*Conflict, error) {
	for _, r := range op.Rows {
		if r.If == Any {
			continue
		}
		text := "SELECT rev, 0 FROM %s WHERE k=?"
		if r.Most > 0 {
			text = "SELECT rev, " + counted + " FROM %s WHERE k=?"
		}
		row := []driver.Value{int64(0), int64(0)}
		if _, err := s.conn.first(row, text, r.Table, r.Key); err != nil {
			return nil, err
		}
		rev, ok := row[0].(int64)
		used, okUsed := row[1].(int64)
		if !ok || !okUsed {
			return nil, fmt.Errorf("a row of table %s has the revision %v and counts %v", r.Table, row[0], row[1])
		}
		if uint64(rev) != uint64(r.If) && r.Most == 0 || r.Most > 0 && used >= bound(r.Most) {
			return &Conflict{Table: r.Table, Key: r.Key}, nil
		}
	}
	return nil, nil
}

func (s *sqlite) put(r Row, rev uint64) (rows int64, err error) {
	at := int64(rev)
	switch {
	case r.Most > 0:
		return s.conn.execute("INSERT INTO %s(k,v,rev) VALUES(?1,CAST('1' AS BLOB),?2) ON CONFLICT(k) DO UPDATE SET v=CAST("+counted+"+1 AS BLOB), rev=excluded.rev WHERE "+counted+"<?3", r.Table,
			r.Key, at, bound(r.Most))
	case r.Value == nil && r.If == Absent: // nothing to delete, and that is the condition: only compared
		found, err := s.conn.first(make([]driver.Value, 1), "SELECT 0 FROM %s WHERE k=?", r.Table, r.Key)
		if err != nil || found {
			return 0, err
		}
		return 1, nil
	case r.Value == nil && r.If == Any:
		return s.conn.execute("DELETE FROM %s WHERE k=?", r.Table, r.Key)
	case r.Value == nil:
		return s.conn.execute("DELETE FROM %s WHERE k=? AND rev=?", r.Table, r.Key, int64(r.If))
	case r.If == Absent:
		return s.conn.execute(addTexts[1], r.Table, r.Key, r.Value, at)
	case r.If == Any:
		return s.conn.execute("INSERT INTO %s(k,v,rev) VALUES(?,?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v, rev=excluded.rev", r.Table, r.Key, r.Value, at)
	default:
		return s.conn.execute("UPDATE %s SET v=?, rev=? WHERE k=? AND rev=?", r.Table, r.Value, at, r.Key, int64(r.If))
	}
}

// lowestHash is the level from which on the log's inner hashes have rows. A leaf's own is the entry's, and those between are made of up to 128 of these
// when somebody asks: to write them was one more statement for each entry. (Rows of them in files of before are not looked at.)
const lowestHash = 8

// append journals the ops that applied, with the hashes of their leaves.
func (s *sqlite) append(batch []Op, out []Outcome) error {
	for i, op := range batch {
		if out[i].Conflict != nil {
			continue
		}
		n := int64(out[i].Seq)
		leaf := tlog.RecordHash(op.Leaf)
		if _, err := s.conn.execute("INSERT INTO journal(seq,body,hash) VALUES(?,?,?)", "", n, op.Leaf, leaf[:]); err != nil {
			return err
		}
		stored, err := tlog.StoredHashesForRecordHash(n, leaf, tlog.HashReaderFunc(func(ids []int64) ([]tlog.Hash, error) {
			hs := make([]tlog.Hash, len(ids))
			for i, id := range ids {
				h, ok := s.edge[id]
				if !ok {
					return nil, fmt.Errorf("hash %d of the log's edge is missing", id)
				}
				hs[i] = h
			}
			return hs, nil
		}))
		if err != nil {
			return err
		}
		first := tlog.StoredHashIndex(0, n)
		for j, h := range stored {
			if j >= lowestHash {
				if _, err := s.conn.execute("INSERT INTO hashes(id,hash) VALUES(?,?)", "", first+int64(j), h[:]); err != nil {
					return err
				}
			}
			s.edge[first+int64(j)] = h
		}
		s.size++
	}
	keep := make(map[int64]tlog.Hash, 64)
	for _, id := range edgeOf(s.size) {
		keep[id] = s.edge[id]
	}
	s.edge = keep
	return nil
}

// ---- connections

// connection is used by one goroutine at a time, and without database/sql: what that does around each of the dozens of statements of a commit, and
// each read of a request (locks, contexts, conversions, copies), is for connections that are shared.
type connection struct {
	raw   rawConnection
	stmts map[statement]prepared
	args  []driver.NamedValue // of the statement that runs
}

type rawConnection interface {
	driver.Conn
	driver.ExecerContext
	driver.ConnPrepareContext
}

// statement is a text with a place for the table.
type statement struct {
	text  string
	table Table
}

type prepared interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

func connect(ctx context.Context, dsn string, pragmas ...string) (_ *connection, err error) {
	made, err := sqlite3.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	conn, err := made.Connect(ctx)
	if err != nil {
		return nil, err
	}
	c := &connection{stmts: map[statement]prepared{}}
	var ok bool
	if c.raw, ok = conn.(rawConnection); !ok {
		return nil, errors.Join(fmt.Errorf("a %T does not prepare statements", conn), conn.Close())
	}
	for _, p := range pragmas {
		if err := c.run(ctx, "PRAGMA "+p); err != nil {
			return nil, errors.Join(fmt.Errorf("pragma %s: %w", p, err), c.close())
		}
	}
	return c, nil
}

func (c *connection) close() (err error) {
	for _, st := range c.stmts {
		err = errors.Join(err, st.Close())
	}
	return errors.Join(err, c.raw.Close())
}

// run runs a text once; it may be several statements.
func (c *connection) run(ctx context.Context, text string) error {
	_, err := c.raw.ExecContext(ctx, text, nil)
	return err
}

// stmt prepares a statement once. Table names are constants of this package, never data.
func (c *connection) stmt(text string, t Table) (prepared, error) {
	id := statement{text, t}
	if st := c.stmts[id]; st != nil {
		return st, nil
	}
	if t != "" {
		text = fmt.Sprintf(text, t)
	}
	made, err := c.raw.PrepareContext(context.Background(), text)
	if err != nil {
		return nil, err
	}
	st, ok := made.(prepared)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a %T does not take a context", made), made.Close())
	}
	c.stmts[id] = st
	return st, nil
}

// named are the arguments of one statement, until the next. The driver copies what they are.
func (c *connection) named(args []driver.Value) []driver.NamedValue {
	c.args = c.args[:0]
	for i, v := range args {
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return c.args
}

func (c *connection) exec(text string) error {
	_, err := c.execute(text, "")
	return err
}

// execute gives the number of rows that were changed.
func (c *connection) execute(text string, t Table, args ...driver.Value) (int64, error) {
	st, err := c.stmt(text, t)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(context.Background(), c.named(args))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// each calls f for every row. Its values are f's.
func (c *connection) each(f func(row []driver.Value) error, row []driver.Value, text string, t Table, args ...driver.Value) (err error) {
	st, err := c.stmt(text, t)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(context.Background(), c.named(args))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for {
		switch err := rows.Next(row); err {
		case nil:
			if err := f(row); err != nil {
				return err
			}
		case io.EOF:
			return nil
		default:
			return err
		}
	}
}

// first puts the last row into row, of which there is one or none.
func (c *connection) first(row []driver.Value, text string, t Table, args ...driver.Value) (found bool, err error) {
	err = c.each(func([]driver.Value) error { found = true; return nil }, row, text, t, args...)
	return found, err
}

// number is the one that a text has as its answer.
func (c *connection) number(text string) (n int64, err error) {
	row := make([]driver.Value, 1)
	_, err = c.first(row, text, "")
	n, _ = row[0].(int64)
	return n, err
}

// readers are a few connections that read. The last that was used is the next to be: most of what it remembers of the file is still true.
type readers struct {
	open func() (*connection, error)
	room chan struct{} // filled by those that are in use
	mu   sync.Mutex
	idle []*connection
}

func newReaders(most int, open func() (*connection, error)) *readers {
	return &readers{open: open, room: make(chan struct{}, most)}
}

// with lends one to f.
func (r *readers) with(f func(*connection) error) (err error) {
	r.room <- struct{}{}
	defer func() { <-r.room }()
	r.mu.Lock()
	var c *connection
	if n := len(r.idle); n > 0 {
		c, r.idle = r.idle[n-1], r.idle[:n-1]
	}
	r.mu.Unlock()
	if c == nil {
		if c, err = r.open(); err != nil {
			return err
		}
	}
	defer func() {
		r.mu.Lock()
		r.idle = append(r.idle, c)
		r.mu.Unlock()
	}()
	return f(c)
}

// close waits until nobody reads.
func (r *readers) close() (err error) {
	for range cap(r.room) {
		r.room <- struct{}{}
	}
	for _, c := range r.idle {
		err = errors.Join(err, c.close())
	}
	r.idle = nil
	r.open = func() (*connection, error) { return nil, errors.New("closed") } // for whoever waited
	for range cap(r.room) {
		<-r.room
	}
	return err
}

// ---- reading. Reads ignore cancellation: they are short, and an error of one is an error of the disk.

func (s *sqlite) each(f func(row []driver.Value) error, columns int, text string, t Table, args ...driver.Value) error {
	return s.eachOf(s.read.with, f, columns, text, t, args...)
}

// eachOf is each by a connection that is lent.
func (s *sqlite) eachOf(lend func(func(*connection) error) error, f func(row []driver.Value) error, columns int, text string, t Table, args ...driver.Value) error {
	err := lend(func(c *connection) error {
		if err := s.alive(); err != nil {
			return err
		}
		return c.each(f, make([]driver.Value, columns), text, t, args...)
	})
	if err != nil {
		return s.die(err)
	}
	return nil
}

// valued is a row's value and revision. The driver gives nil for a value that is empty.
func valued(value, revision driver.Value) (Entry, error) {
	v, ok := value.([]byte)
	rev, number := revision.(int64)
	if !ok || !number || rev <= 0 {
		return Entry{}, fmt.Errorf("a row has a %T as its value and the revision %v", value, revision)
	}
	if v == nil {
		v = []byte{}
	}
	return Entry{Value: v, Revision: uint64(rev)}, nil
}

func (s *sqlite) Get(_ context.Context, t Table, key []byte) (value []byte, revision uint64, err error) {
	err = s.each(func(row []driver.Value) error {
		e, err := valued(row[0], row[1])
		value, revision = e.Value, e.Revision
		return err
	}, 2, "SELECT v, rev FROM %s WHERE k=?", t, key)
	return value, revision, err
}

// twoReader reads a request and a slot for little more than one: what costs is to begin.
type twoReader interface {
	getTwo(request, slot []byte) (Entry, Entry, error)
}

func (s *sqlite) getTwo(request, slot []byte) (a, b Entry, err error) {
	err = s.eachOf(s.resting, func(row []driver.Value) error {
		e, err := valued(row[1], row[2])
		if row[0] == int64(0) {
			a = e
		} else {
			b = e
		}
		return err
	}, 3, "SELECT 0, v, rev FROM "+string(TableRequests)+" WHERE k=? UNION ALL SELECT 1, v, rev FROM "+string(TableSlots)+" WHERE k=?", "", request, slot)
	a.Key, b.Key = request, slot
	return a, b, err
}

// resting lends the connection that writes, if it rests and no commit waits for it, and otherwise a reader. It has the pages at hand that commits
// change, which readers must read again after every commit, and will need these rows' for the request's own. So it is for rows of a few kilobytes.
func (s *sqlite) resting(f func(*connection) error) error {
	if s.conn == nil || s.waiting.Load() || !s.mu.TryLock() {
		return s.read.with(f)
	}
	defer s.mu.Unlock()
	return f(s.conn)
}

func (s *sqlite) Scan(_ context.Context, t Table, from []byte, limit int) (entries []Entry, err error) {
	if from == nil {
		from = []byte{}
	}
	err = s.each(func(row []driver.Value) error {
		e, err := valued(row[1], row[2])
		e.Key, _ = row[0].([]byte)
		entries = append(entries, e)
		return err
	}, 3, "SELECT k, v, rev FROM %s WHERE k>=? ORDER BY k LIMIT ?", t, from, int64(limit))
	return entries, err
}

func (s *sqlite) Journal(_ context.Context, from uint64, n int) (leaves [][]byte, err error) {
	err = s.each(func(row []driver.Value) error {
		body, ok := row[0].([]byte)
		if !ok {
			return fmt.Errorf("a journal entry is a %T", row[0])
		}
		leaves = append(leaves, body)
		return nil
	}, 1, "SELECT body FROM journal WHERE seq>=?1 AND seq<?1+?2 ORDER BY seq", "", int64(from), int64(n))
	return leaves, err
}

// entries of the journal: where it ends is one look, and to count them would be a look at every page of it. That none is missing before is for fsck.
func (s *sqlite) entries() (n uint64, err error) {
	err = s.read.with(func(c *connection) error {
		count, err := c.number("SELECT coalesce(max(seq)+1, 0) FROM journal")
		n = uint64(count)
		return err
	})
	return n, err
}

func (s *sqlite) Head(context.Context) (size uint64, root tlog.Hash, err error) {
	size = s.known.Load()
	if err := s.alive(); err != nil {
		return 0, root, err
	}
	root, err = tlog.TreeHash(int64(size), s)
	return size, root, err
}

func (s *sqlite) ReadHashes(ids []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(ids))
	for i, id := range ids {
		level, n := tlog.SplitStoredHashIndex(id)
		text, from, count := "SELECT hash FROM hashes WHERE id=?1 LIMIT ?2", id, int64(1)
		if level < lowestHash {
			text, from, count = "SELECT hash FROM journal WHERE seq>=?1 AND seq<?1+?2 ORDER BY seq", n<<level, 1<<level
		}
		var found []tlog.Hash
		err := s.each(func(row []driver.Value) error {
			b, _ := row[0].([]byte)
			if len(b) != tlog.HashSize {
				return fmt.Errorf("a hash of the log has %d bytes", len(b))
			}
			found = append(found, tlog.Hash(b))
			return nil
		}, 1, text, "", from, count)
		if err != nil {
			return nil, err
		}
		if int64(len(found)) != count {
			return nil, fmt.Errorf("hash %d of the log is missing", id)
		}
		for ; len(found) > 1; found = found[:len(found)/2] {
			for j := range len(found) / 2 {
				found[j] = tlog.NodeHash(found[2*j], found[2*j+1])
			}
		}
		hashes[i] = found[0]
	}
	return hashes, nil
}
