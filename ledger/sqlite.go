package ledger

import (
	"bytes"
	"context"
	"database/sql"
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
)

// sqlite is the Store of a single box: one file, one writing connection, some reading ones, one process (held by a lock file).
type sqlite struct {
	lock  *os.File
	write *sql.DB // exactly one connection
	conn  *sql.Conn
	read  *sql.DB
	reads sync.Map // text → *sql.Stmt on read
	view  *sql.Tx  // set in a snapshot: every read goes there and nothing is written

	known atomic.Uint64 // entries of the last commit that is durable; readers wait for no commit

	mu    sync.Mutex // one commit at a time
	size  uint64
	edge  map[int64]tlog.Hash // the stored hashes that the next leaf will need
	stmts map[statement]driver.Stmt
	raw   driver.ConnPrepareContext // set within directly

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
	s := &sqlite{edge: map[int64]tlog.Hash{}, stmts: map[statement]driver.Stmt{}}
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
	if s.write, err = sql.Open("sqlite", dsn(path, "rwc")); err != nil {
		return nil, err
	}
	s.write.SetMaxOpenConns(1)
	if s.conn, err = s.write.Conn(ctx); err != nil {
		return nil, err
	}
	// page_size only takes effect in a new file and before WAL. FULL: a commit is durable when it returns. A log of 8000 pages before it is copied into
	// the file: the same hot pages stand in it many times, and each is copied once. Most of what an issue writes lies behind what was written before it,
	// so pages of 4 KB are half as many to write, two calls for each.
	for _, p := range []string{
		"page_size=4096", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=8000", "cache_size=-8192",
		"busy_timeout=5000", "secure_delete=FAST", "foreign_keys=OFF", "trusted_schema=OFF",
		"temp_store=MEMORY", // no temporary files: the sandbox has no place for them, and they would hold what the ledger holds
	} {
		if _, err = s.conn.ExecContext(ctx, "PRAGMA "+p); err != nil {
			return nil, fmt.Errorf("pragma %s: %w", p, err)
		}
	}
	if err = s.migrate(ctx); err != nil {
		return nil, err
	}
	if err = s.conn.QueryRowContext(ctx, "SELECT count(*) FROM journal").Scan(&s.size); err != nil {
		return nil, err
	}
	if s.read, err = sql.Open("sqlite", dsn(path, "ro")+"&_pragma=query_only(1)&_pragma=busy_timeout(5000)&_pragma=cache_size(-8192)&_pragma=temp_store(2)"); err != nil {
		return nil, err
	}
	s.read.SetMaxOpenConns(4)
	s.read.SetMaxIdleConns(4)
	s.known.Store(s.size)
	need := edgeOf(s.size)
	hashes, err := s.ReadHashes(need)
	if err != nil {
		return nil, err
	}
	for i, id := range need {
		s.edge[id] = hashes[i]
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
	if s.read, err = sql.Open("sqlite", dsn(path, "ro")+"&_pragma=query_only(1)&_pragma=busy_timeout(5000)"); err != nil {
		return nil, err
	}
	s.read.SetMaxOpenConns(1)
	if s.view, err = s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}); err != nil {
		return nil, err
	}
	version := 0
	if err = s.view.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return nil, err
	}
	if version < oldest || version > len(migrations) {
		return nil, fmt.Errorf("its schema has version %d and this program reads version %d", version, len(migrations))
	}
	if err = s.view.QueryRowContext(ctx, "SELECT count(*) FROM journal").Scan(&s.size); err != nil {
		return nil, err
	}
	s.known.Store(s.size)
	return s, nil
}

func dsn(path, mode string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?mode=" + mode
}

func (s *sqlite) migrate(ctx context.Context) error {
	version := 0
	if err := s.conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(migrations) {
		return fmt.Errorf("its schema has version %d and this program knows %d: a newer program wrote it, use that one", version, len(migrations))
	}
	for ; version < len(migrations); version++ {
		// One transaction a step, user_version included: a crash leaves the old schema or the new one.
		step := fmt.Sprintf("BEGIN IMMEDIATE;\n%sPRAGMA user_version=%d;\nCOMMIT;", migrations[version](), version+1)
		crashpoint.Here("ledger.migrate.before-commit")
		if _, err := s.conn.ExecContext(ctx, step); err != nil {
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
	if s.view != nil {
		errs = append(errs, s.view.Rollback())
	}
	if s.conn != nil && len(s.stmts) > 0 {
		errs = append(errs, s.directly(func() (err error) {
			for _, st := range s.stmts {
				err = errors.Join(err, st.Close())
			}
			return err
		}))
	}
	s.reads.Range(func(_, st any) bool {
		errs = append(errs, st.(*sql.Stmt).Close())
		return true
	})
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.write != nil {
		errs = append(errs, s.write.Close()) // the last connection: checkpoints the WAL
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.alive(); err != nil {
		return nil, err
	}
	if s.view != nil {
		return nil, errors.New("a snapshot can't be written to")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	size, edge := s.size, maps.Clone(s.edge)
	var out []Outcome
	err := s.directly(func() (err error) { out, err = s.commit(batch); return err })
	if full(err) && s.directly(s.undo) == nil {
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
	_ = s.exec("ROLLBACK")
	return errors.Join(s.exec("BEGIN IMMEDIATE"), s.exec("ROLLBACK"))
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
	if err := s.exec("BEGIN IMMEDIATE"); err != nil {
		return nil, err
	}
	// Conflicts are rare, so the rows are written with their conditions inside the statements. Only if one does not hold, everything
	// is undone and done again with conditions read first: that costs a query a row, and can undo a single op.
	out, fits, err := s.apply(batch, false)
	if err == nil && !fits {
		if err = s.exec("ROLLBACK"); err == nil {
			if err = s.exec("BEGIN IMMEDIATE"); err == nil {
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
	return out, s.exec("COMMIT")
}

// apply writes the rows. Without careful it stops, with fits false, at the first condition that does not hold.
func (s *sqlite) apply(batch []Op, careful bool) (out []Outcome, fits bool, err error) {
	out = make([]Outcome, len(batch))
	seq := s.size
	counts := countsOf(batch, careful)
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
			if counts != nil && r.Most > 0 {
				counts.add(r, seq+1)
				continue
			}
			n, err := s.put(r, seq+1)
			if err != nil {
				return nil, false, err
			}
			if n == 0 && r.If != Any {
				return nil, false, nil
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
	return out, true, nil
}

// counts gathers what the ops of a batch count in one row: hundreds of requests count for the same client and phase, and it is one statement
// for each row. Nobody in the batch looks at these rows in between.
type counts map[string]*count

type count struct {
	table   Table
	key     []byte
	n, most uint64
	rev     uint64
}

// countsOf is nil if each row has to be counted alone: to find which op is one too many, or because something else happens to its table.
func countsOf(batch []Op, careful bool) counts {
	if careful {
		return nil
	}
	alone := map[Table]bool{} // the table's rows count, and nothing else
	for _, op := range batch {
		for _, r := range op.Rows {
			counts := r.Most > 0
			if before, seen := alone[r.Table]; seen && before != counts {
				return nil
			}
			alone[r.Table] = counts
		}
	}
	return counts{}
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
	st, err := s.stmt("INSERT INTO %s(k,v,rev) VALUES(?1,CAST(?4 AS BLOB),?2) ON CONFLICT(k) DO UPDATE SET v=CAST("+counted+"+?4 AS BLOB), rev=excluded.rev WHERE "+counted+"<=?3", c.table)
	if err != nil {
		return false, err
	}
	n, err := execute(st, c.key, int64(c.rev), bound(c.most-c.n), int64(c.n))
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
		st, err := s.stmt(text, r.Table)
		if err != nil {
			return nil, err
		}
		row := []driver.Value{int64(0), int64(0)}
		if _, err := first(st, row, r.Key); err != nil {
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
	var text string
	args := []driver.Value{r.Key, r.Value, int64(rev)}
	switch {
	case r.Most > 0:
		text = "INSERT INTO %s(k,v,rev) VALUES(?1,CAST('1' AS BLOB),?2) ON CONFLICT(k) DO UPDATE SET v=CAST(" + counted + "+1 AS BLOB), rev=excluded.rev WHERE " + counted + "<?3"
		args = []driver.Value{r.Key, int64(rev), bound(r.Most)}
	case r.Value == nil && r.If == Absent: // nothing to delete, and that is the condition: only compared
		st, err := s.stmt("SELECT 0 FROM %s WHERE k=?", r.Table)
		if err != nil {
			return 0, err
		}
		found, err := first(st, make([]driver.Value, 1), r.Key)
		if err != nil || found {
			return 0, err
		}
		return 1, nil
	case r.Value == nil && r.If == Any:
		text, args = "DELETE FROM %s WHERE k=?", []driver.Value{r.Key}
	case r.Value == nil:
		text, args = "DELETE FROM %s WHERE k=? AND rev=?", []driver.Value{r.Key, int64(r.If)}
	case r.If == Absent:
		text = "INSERT INTO %s(k,v,rev) VALUES(?,?,?) ON CONFLICT(k) DO NOTHING"
	case r.If == Any:
		text = "INSERT INTO %s(k,v,rev) VALUES(?,?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v, rev=excluded.rev"
	default:
		text, args = "UPDATE %s SET v=?2, rev=?3 WHERE k=?1 AND rev=?4", append(args, int64(r.If))
	}
	st, err := s.stmt(text, r.Table)
	if err != nil {
		return 0, err
	}
	return execute(st, args...)
}

// append journals the ops that applied, with the hashes of their leaves.
func (s *sqlite) append(batch []Op, out []Outcome) error {
	journal, err := s.stmt("INSERT INTO %s(seq,body,hash) VALUES(?,?,?)", "journal")
	if err != nil {
		return err
	}
	hashes, err := s.stmt("INSERT INTO %s(id,hash) VALUES(?,?)", "hashes")
	if err != nil {
		return err
	}
	for i, op := range batch {
		if out[i].Conflict != nil {
			continue
		}
		n := int64(out[i].Seq)
		leaf := tlog.RecordHash(op.Leaf)
		if _, err := execute(journal, n, op.Leaf, leaf[:]); err != nil {
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
			if j > 0 { // the leaf's own is the entry's
				if _, err := execute(hashes, first+int64(j), h[:]); err != nil {
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

// directly runs f on the writing connection with database/sql out of the way: what that does around each of the dozens of statements of a commit
// (locks, contexts, conversions) is for connections that are shared, and this one never is. The connection stays the same, so statements do.
func (s *sqlite) directly(f func() error) (err error) {
	raw := s.conn.Raw(func(c any) error {
		var ok bool
		if s.raw, ok = c.(driver.ConnPrepareContext); !ok {
			return fmt.Errorf("a %T does not prepare statements", c)
		}
		defer func() { s.raw = nil }()
		err = f() // not returned here, where some errors mean that the connection is thrown away
		return nil
	})
	return errors.Join(err, raw)
}

func (s *sqlite) exec(text string) error {
	st, err := s.stmt(text, "")
	if err == nil {
		_, err = execute(st)
	}
	return err
}

// stmt prepares a statement on the writing connection once. Table names are constants of this package, never data.
func (s *sqlite) stmt(text string, t Table) (driver.Stmt, error) {
	id := statement{text, t}
	if st := s.stmts[id]; st != nil {
		return st, nil
	}
	if t != "" {
		text = fmt.Sprintf(text, t)
	}
	st, err := s.raw.PrepareContext(context.Background(), text)
	if err == nil {
		s.stmts[id] = st
	}
	return st, err
}

// execute gives the number of rows that were changed.
func execute(st driver.Stmt, args ...driver.Value) (int64, error) {
	res, err := st.(driver.StmtExecContext).ExecContext(context.Background(), named(args))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// first puts the first row into row, if there is one.
func first(st driver.Stmt, row []driver.Value, args ...driver.Value) (found bool, err error) {
	rows, err := st.(driver.StmtQueryContext).QueryContext(context.Background(), named(args))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if err = rows.Next(row); err == io.EOF {
		return false, nil
	}
	return err == nil, err
}

func named(args []driver.Value) []driver.NamedValue {
	out := make([]driver.NamedValue, len(args))
	for i, v := range args {
		out[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return out
}

// statement is a text with a place for the table.
type statement struct {
	text  string
	table Table
}

// ---- reading. Reads ignore cancellation: they are short, and an error of one is an error of the disk.

func (s *sqlite) query(text string, args ...any) (*sql.Rows, error) {
	if err := s.alive(); err != nil {
		return nil, err
	}
	if s.view != nil {
		return s.view.Query(text, args...)
	}
	st, ok := s.reads.Load(text)
	if !ok {
		made, err := s.read.Prepare(text)
		if err != nil {
			return nil, err
		}
		if st, ok = s.reads.LoadOrStore(text, made); ok {
			made.Close()
		}
	}
	return st.(*sql.Stmt).Query(args...)
}

func (s *sqlite) each(scan func(*sql.Rows) error, text string, args ...any) error {
	rows, err := s.query(text, args...)
	if err != nil {
		return s.die(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return s.die(err)
		}
	}
	if err := rows.Err(); err != nil {
		return s.die(err)
	}
	return nil
}

func (s *sqlite) Get(_ context.Context, t Table, key []byte) (value []byte, revision uint64, err error) {
	err = s.each(func(r *sql.Rows) error { return r.Scan(&value, &revision) }, fmt.Sprintf("SELECT v, rev FROM %s WHERE k=?", t), key)
	if revision != 0 && value == nil {
		value = []byte{}
	}
	return value, revision, err
}

// twoReader reads two rows for little more than one: what costs is to begin.
type twoReader interface {
	getTwo(t Table, key []byte, u Table, other []byte) (Entry, Entry, error)
}

func (s *sqlite) getTwo(t Table, key []byte, u Table, other []byte) (a, b Entry, err error) {
	a.Key, b.Key = key, other
	err = s.each(func(r *sql.Rows) error {
		which, e := 0, Entry{}
		if err := r.Scan(&which, &e.Value, &e.Revision); err != nil {
			return err
		}
		if which == 0 {
			a.Value, a.Revision = e.Value, e.Revision
		} else {
			b.Value, b.Revision = e.Value, e.Revision
		}
		return nil
	}, fmt.Sprintf("SELECT 0, v, rev FROM %s WHERE k=?1 UNION ALL SELECT 1, v, rev FROM %s WHERE k=?2", t, u), key, other)
	return a, b, err
}

func (s *sqlite) Scan(_ context.Context, t Table, from []byte, limit int) (entries []Entry, err error) {
	if from == nil {
		from = []byte{}
	}
	err = s.each(func(r *sql.Rows) error {
		var e Entry
		if err := r.Scan(&e.Key, &e.Value, &e.Revision); err != nil {
			return err
		}
		entries = append(entries, e)
		return nil
	}, fmt.Sprintf("SELECT k, v, rev FROM %s WHERE k>=? ORDER BY k LIMIT ?", t), from, limit)
	return entries, err
}

func (s *sqlite) Journal(_ context.Context, from uint64, n int) (leaves [][]byte, err error) {
	err = s.each(func(r *sql.Rows) error {
		var b []byte
		if err := r.Scan(&b); err != nil {
			return err
		}
		leaves = append(leaves, b)
		return nil
	}, "SELECT body FROM journal WHERE seq>=? ORDER BY seq LIMIT ?", int64(from), n)
	return leaves, err
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
		text, key := "SELECT hash FROM hashes WHERE id=?", id
		if level, n := tlog.SplitStoredHashIndex(id); level == 0 {
			text, key = "SELECT hash FROM journal WHERE seq=?", n
		}
		found := false
		err := s.each(func(r *sql.Rows) error {
			var b []byte
			if err := r.Scan(&b); err != nil {
				return err
			}
			found = len(b) == tlog.HashSize
			copy(hashes[i][:], b)
			return nil
		}, text, key)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fmt.Errorf("hash %d of the log is missing", id)
		}
	}
	return hashes, nil
}
