package fsck_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sealkeeper/ledger"
	"sealkeeper/ledger/fsck"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// office writes a ledger as the appliance does, one op after another, and remembers each row as it was, so that one of before can be put back.
type office struct {
	t      *testing.T
	dir    string
	store  ledger.Store
	now    time.Time
	key    *ecdsa.PrivateKey
	cert   []byte
	seq    uint64
	cards  map[byte]state.State
	of     map[string]*ledger.ReservationRecord
	lists  map[string]*ledger.ListRecord
	images map[string][]byte
	rows   map[string][]stored // by table and key, the oldest first
}

// stored is a row as an op wrote it.
type stored struct {
	value []byte
	rev   uint64
}

const resident = "kr-resident"

func openOffice(t *testing.T) *office {
	t.Helper()
	o := &office{t: t, dir: t.TempDir(), now: noon, cards: map[byte]state.State{}, of: map[string]*ledger.ReservationRecord{}, lists: map[string]*ledger.ListRecord{}, images: map[string][]byte{}, rows: map[string][]stored{}}
	var err error
	o.store, err = ledger.OpenSQLite(t.Context(), o.path())
	must(t, err)
	o.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "status"}, NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true, SubjectKeyId: []byte{1}}
	o.cert, err = x509.CreateCertificate(rand.Reader, ca, ca, o.key.Public(), o.key)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(o.key.Public())
	must(t, err)
	for id, p := range map[string]policy.Purpose{"mdoc-1": policy.PurposeMDoc, "sdjwt-1": policy.PurposeSDJWT, "list-1": policy.PurposeList, "client-ca-1": policy.PurposeClientCA} {
		o.commit(ledger.Leaf{Kind: "key", Name: id}, row(ledger.TableKeys, id, ledger.Key{ID: id, Token: "online", Purpose: p, Algorithm: "ES256", CKAID: []byte(id), SPKI: spki, State: ledger.KeyActive}))
	}
	o.open("M1", policy.MDoc)
	o.open("S1", policy.SDJWT)
	return o
}

func (o *office) path() string { return filepath.Join(o.dir, "ledger.db") }

func (o *office) commit(leaf ledger.Leaf, rows ...ledger.Row) {
	o.t.Helper()
	leaf.V, leaf.At = 1, o.now
	out, err := o.store.Commit(context.Background(), []ledger.Op{{Leaf: encoded(o.t, leaf), Rows: rows}})
	if err != nil || out[0].Conflict != nil {
		o.t.Fatal(out, err)
	}
	o.seq = out[0].Seq
	for _, r := range rows {
		name := string(r.Table) + " " + string(r.Key)
		o.rows[name] = append(o.rows[name], stored{r.Value, o.seq + 1})
	}
}

// open a list, and close the one before if it is full.
func (o *office) open(id string, f policy.Format) {
	l := ledger.ListRecord{ID: id, URI: "https://x.example/status-lists/" + id, DocumentType: resident, Format: f, Bits: 1, Size: 1024, Leased: 256, Opened: o.now}
	if f == policy.SDJWT {
		l.Bits = 2
	}
	o.lists[id], o.images[id] = &l, make([]byte, l.Size*uint64(l.Bits)/8)
	o.commit(ledger.Leaf{Kind: "list", Name: id, Count: l.Leased, Format: f}, row(ledger.TableLists, id, l))
}

func (o *office) lease(id string) {
	o.lists[id].Leased += 256
	o.commit(ledger.Leaf{Kind: "lease", Name: id, Count: o.lists[id].Leased, Format: o.lists[id].Format}, row(ledger.TableLists, id, o.lists[id]))
}

func person(n byte) policy.Pseudonym { return policy.Pseudonym{n, 0xab} }

func slotKey(n byte) string {
	p := person(n)
	return resident + "\x00" + string(p[:])
}

// apply is what an event writes of a person's card.
func (o *office) apply(n byte, e state.Event) (rows []ledger.Row) {
	o.t.Helper()
	if e.At.IsZero() {
		e.At = o.now
	}
	next, changes, err := o.cards[n].Apply(e)
	must(o.t, err)
	o.cards[n] = next
	rows = append(rows, row(ledger.TableSlots, slotKey(n), ledger.SlotRecord{DocumentType: resident, Subject: person(n), State: next}))
	for i, c := range changes {
		bits := uint64(o.lists[c.List].Bits)
		at := c.Index * bits
		o.images[c.List][at/8] = o.images[c.List][at/8]&^(byte(1<<bits-1)<<(at%8)) | c.To<<(at%8)
		key := binary.BigEndian.AppendUint32(append([]byte(c.List+"\x00"), fmt.Sprintf("%016d", o.seq)...), uint32(i))
		rows = append(rows, row(ledger.TableChanges, string(key), ledger.ChangeRecord{Index: c.Index, From: c.From, To: c.To, At: o.now}))
	}
	return rows
}

// change is an event that names no reservation.
func (o *office) change(n byte, e state.Event) {
	o.t.Helper()
	o.commit(ledger.Leaf{Kind: "change", Effect: "apply"}, o.apply(n, e)...)
}

// reserve credentials with the counters, which are their indices, in lists: for a new phone, for the bound one, or again.
func (o *office) reserve(n byte, id, device, again string, valid time.Duration, places ...state.Place) {
	o.t.Helper()
	until := o.now.Add(valid)
	r := &ledger.ReservationRecord{ID: id, Kind: policy.KindIssue, Progress: ledger.InProgress, At: o.now, DocumentType: resident, Subject: person(n), Device: device, Request: []byte("request " + id), Replaces: again}
	leaf := ledger.Leaf{Kind: "reserve", Reservation: id, Operation: "issue", Replaces: again}
	key := [32]byte{byte(len(device)), device[0]}
	var made []state.Credential
	var rows []ledger.Row
	for i, p := range places {
		l := o.lists[p.List]
		it := ledger.ItemRecord{KeyID: "sdjwt-1", Purpose: policy.PurposeSDJWT, TBSHash: [32]byte{1, byte(i)}, Format: l.Format, List: p.List, Index: p.Index, Key: key, NotAfter: until}
		if l.Format == policy.MDoc {
			it.KeyID, it.Purpose = "mdoc-1", policy.PurposeMDoc
		}
		r.Items = append(r.Items, it)
		leaf.Items = append(leaf.Items, ledger.LeafItem{Item: i, Key: it.KeyID, Purpose: it.Purpose, TBS: it.TBSHash[:]})
		made = append(made, state.Credential{Reservation: id, Format: l.Format, List: p.List, Index: p.Index, Key: key, Made: o.now, NotAfter: until})
		rows = append(rows, row(ledger.TableIndices, string(binary.BigEndian.AppendUint64([]byte(p.List+"\x00"), p.Index)),
			ledger.IndexRecord{Index: p.Index, CredentialRecord: ledger.CredentialRecord{Reservation: id, Item: i, Format: l.Format, NotAfter: until}}))
	}
	o.of[id] = r
	rows = append(rows, row(ledger.TableReservations, id, r), row(ledger.TableRequests, string(r.Request), ledger.RequestRecord{Reservation: id, At: o.now}))
	bound := o.cards[n].Device
	switch {
	case again != "":
		old := o.of[again]
		old.Progress, leaf.Kind = ledger.Replaced, "reserve-again"
		old.Seq = o.rows["reservations "+again][0].rev - 1
		rows = append(rows, row(ledger.TableReservations, again, old))
		rows = slices.DeleteFunc(rows, func(r ledger.Row) bool { return r.Table == ledger.TableRequests })
		r.Request = old.Request
		rows = append(rows, row(ledger.TableRequests, string(r.Request), ledger.RequestRecord{Reservation: id, At: o.now}))
		rows = append(rows, o.apply(n, state.Event{Again: &state.Again{Old: again, Credentials: made}})...)
	default:
		rows = append(rows, o.apply(n, state.Event{Issue: &state.Issue{Device: device, Keys: [][32]byte{key}, Refresh: bound != nil && bound.ID == device, Replace: true, Credentials: made}})...)
	}
	o.commit(leaf, rows...)
}

func (o *office) settle(n byte, id string) {
	o.t.Helper()
	r := o.of[id]
	r.Progress, r.Seq = ledger.Settled, o.rows["reservations "+id][0].rev-1
	leaf := ledger.Leaf{Kind: "settle", Reservation: id, Operation: "issue"}
	for i := range r.Items {
		r.Items[i].Worker = "w1"
		leaf.Items = append(leaf.Items, ledger.LeafItem{Item: i, Worker: "w1"})
	}
	rows := append(o.apply(n, state.Event{At: r.At, Settle: &state.Settle{Reservation: id}}), row(ledger.TableReservations, id, r),
		row(ledger.TableRequests, string(r.Request), ledger.RequestRecord{Reservation: id, At: r.At, Settled: o.now}))
	o.commit(leaf, rows...)
}

func (o *office) giveUp(n byte, id string) {
	o.t.Helper()
	r := o.of[id]
	r.Progress, r.Seq = ledger.GivenUp, o.rows["reservations "+id][0].rev-1
	o.commit(ledger.Leaf{Kind: "give-up", Reservation: id, Reason: "unfinished", Effect: "apply"}, append(o.apply(n, state.Event{Abandon: &state.Abandon{Reservation: id}}),
		row(ledger.TableReservations, id, r), ledger.Row{Table: ledger.TableRequests, Key: r.Request, If: ledger.Any})...)
}

// token of a list as it is now.
func (o *office) token(id string, version uint64, expires time.Time) []byte {
	o.t.Helper()
	var packed bytes.Buffer
	w := zlib.NewWriter(&packed)
	w.Write(o.images[id])
	must(o.t, w.Close())
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64(encoded(o.t, map[string]any{"alg": "ES256", "typ": "statuslist+jwt", "x5c": [][]byte{o.cert}})) + "." +
		b64(encoded(o.t, map[string]any{"sub": o.lists[id].URI, "iat": o.now.Unix(), "exp": expires.Unix(), "ttl": 60, "sealkeeper_version": version,
			"status_list": map[string]any{"bits": o.lists[id].Bits, "lst": b64(packed.Bytes())}}))
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, o.key, sum[:])
	must(o.t, err)
	return []byte(input + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)))
}

// publish a version of a list in the ledger and in the publish directory.
func (o *office) publish(id string, version uint64) {
	o.t.Helper()
	v := ledger.VersionRecord{ID: id, Version: version, IssuedAt: o.now, Expires: o.now.Add(12 * time.Hour), TTL: 60, Through: o.seq}
	name := fmt.Sprint("list-", o.seq)
	own := v
	r := ledger.ReservationRecord{ID: name, Kind: policy.KindList, Progress: ledger.InProgress, At: o.now, List: &own, Items: []ledger.ItemRecord{{KeyID: "list-1", Purpose: policy.PurposeList, TBSHash: [32]byte{9}}}}
	o.commit(ledger.Leaf{Kind: "reserve", Reservation: name, Operation: "list", Name: id, Version: version, Items: []ledger.LeafItem{{Key: "list-1", Purpose: policy.PurposeList, TBS: r.Items[0].TBSHash[:]}}},
		row(ledger.TableReservations, name, r))
	v.Token, v.Key = o.token(id, version, v.Expires), "list-1"
	r.Progress, r.Seq, r.Items[0].Worker = ledger.Settled, o.seq, "w1"
	sum := sha256.Sum256(v.Token)
	o.commit(ledger.Leaf{Kind: "settle", Reservation: name, Operation: "list", Name: id, Version: version, Digest: sum[:], Items: []ledger.LeafItem{{Worker: "w1"}}},
		row(ledger.TableReservations, name, r), row(ledger.TableVersions, id, v))
	o.show(id, version, v.Token)
}

func (o *office) show(id string, version uint64, token []byte) {
	o.t.Helper()
	dir := filepath.Join(o.dir, "publish", "status-lists")
	must(o.t, os.MkdirAll(dir, 0o700))
	for _, f := range []struct {
		name string
		data []byte
	}{{id + ".jwt", token}, {id + ".json", encoded(o.t, ledger.ListMeta{ID: id, Version: version, File: id + ".jwt"})}} {
		must(o.t, os.WriteFile(filepath.Join(dir, "new"), f.data, 0o600))
		must(o.t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, f.name)))
	}
}

// liftFence closes all lists, and moves their versions on.
func (o *office) liftFence(versions map[string]uint64) {
	o.t.Helper()
	var rows []ledger.Row
	for id, l := range o.lists {
		l.Closed = o.now
		rows = append(rows, row(ledger.TableLists, id, l), row(ledger.TableVersions, id, ledger.VersionRecord{ID: id, Version: versions[id]}))
	}
	o.commit(ledger.Leaf{Kind: "unfence", Count: uint64(len(rows) / 2)}, rows...)
}

// back puts a row as it was n writes ago; 0: it takes it away.
func (o *office) back(db *sql.DB, t ledger.Table, key string, n int) {
	o.t.Helper()
	all := o.rows[string(t)+" "+key]
	if n == 0 {
		o.exec(db, "DELETE FROM "+string(t)+" WHERE k=?", []byte(key))
		return
	}
	was := all[len(all)-1-n]
	o.exec(db, "UPDATE "+string(t)+" SET v=?, rev=? WHERE k=?", was.value, was.rev, []byte(key))
}

func (o *office) exec(db *sql.DB, query string, args ...any) {
	o.t.Helper()
	res, err := db.Exec(query, args...)
	must(o.t, err)
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		o.t.Fatal("nothing was changed: ", query, err)
	}
}

// replace writes a row anew as if it had always been so.
func (o *office) replace(db *sql.DB, t ledger.Table, key string, v any) {
	o.t.Helper()
	o.exec(db, "UPDATE "+string(t)+" SET v=? WHERE k=?", encoded(o.t, v), []byte(key))
}

// says has the ledger bent by who holds the file, and returns what fsck says of it, each with the invariant.
func (o *office) says(bend func(db *sql.DB)) (all []string) {
	o.t.Helper()
	must(o.t, o.store.Close())
	if bend != nil {
		db, err := sql.Open("sqlite", "file:"+o.path())
		must(o.t, err)
		bend(db)
		must(o.t, db.Close())
	}
	r, err := fsck.Run(o.t.Context(), fsck.Options{Ledger: o.path(), Publish: filepath.Join(o.dir, "publish")})
	must(o.t, err)
	for _, c := range r.Checks {
		for _, p := range c.Problems {
			all = append(all, c.Invariant+" "+p)
		}
	}
	slices.Sort(all)
	return all
}

// only compares what fsck says with what it has to say, in any order.
func only(t *testing.T, got []string, want ...string) {
	t.Helper()
	for _, w := range want {
		i := slices.IndexFunc(got, func(g string) bool { return strings.Contains(g, w) })
		if i < 0 {
			t.Errorf("fsck does not say %q", w)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	for _, g := range got {
		t.Errorf("fsck says %q", g)
	}
}

func m(i uint64) state.Place { return state.Place{List: "M1", Index: i} }
func s(i uint64) state.Place { return state.Place{List: "S1", Index: i} }

const months = 90 * 24 * time.Hour

var (
	lost  = policy.Lock{Reason: "telecom_lost", Class: "carrier", By: "c1"}
	court = policy.Lock{Reason: "court", Class: "ministry"}
)

// lived is a ledger in which cards were made, acknowledged, refreshed, replaced, locked, made again, given up, closed and outlived.
func lived(t *testing.T) *office {
	o := openOffice(t)
	next := func() { o.now = o.now.Add(time.Minute) }

	o.reserve(1, "r1", "d1", "", months, m(1), s(1)) // in use; a refresh is under way
	next()
	o.settle(1, "r1")
	o.change(1, state.Event{Ack: &state.Ack{Reservation: "r1"}})
	next()
	o.reserve(1, "r2", "d1", "", months, s(2))

	o.reserve(2, "r3", "d2", "", months, m(3), s(3)) // lost, and replaced by another phone, which is locked
	o.settle(2, "r3")
	o.change(2, state.Event{Lock: &state.Lock{Lock: lost}})
	o.publish("S1", 1)
	next()
	o.reserve(2, "r4", "d3", "", months, m(4), s(4))
	o.settle(2, "r4")
	o.change(2, state.Event{Lock: &state.Lock{Lock: court}})

	o.reserve(3, "r5", "d4", "", months, s(5)) // made again
	o.reserve(3, "r6", "d4", "r5", months, s(6))
	o.settle(3, "r6")

	o.reserve(4, "r7", "d5", "", months, s(7)) // given up
	o.giveUp(4, "r7")

	o.reserve(5, "r8", "d6", "", time.Hour, s(8)) // outlived, and dropped with the next
	o.settle(5, "r8")
	o.reserve(6, "r9", "d7", "", time.Hour, s(9)) // outlived, and there
	o.settle(6, "r9")
	o.reserve(7, "r10", "d8", "", months, m(10)) // an mdoc in use alone
	o.settle(7, "r10")
	o.change(7, state.Event{Ack: &state.Ack{Reservation: "r10"}})
	o.now = o.now.Add(2 * time.Hour)
	o.reserve(5, "r11", "d6", "", months, s(11))
	o.settle(5, "r11")

	o.reserve(8, "r12", "d9", "", months, s(12))
	o.settle(8, "r12")
	o.change(8, state.Event{Close: &state.Close{Reason: "deceased"}})
	o.publish("S1", 2)
	o.publish("M1", 1)
	return o
}

// Each credential that is not expired is in the row of its subject, as its reservation says: a row that is gone, of before an issue or its signature, or in
// another's place is named.
func TestSubjectsRowsAreThere(t *testing.T) {
	gone := func(who byte, reservation string, p state.Place) string {
		return fmt.Sprintf("I3 subject %.8s… (kr-resident): its row is gone, or of before reservation %s: it does not have index %d of list %s", person(who).String(), reservation, p.Index, p.List)
	}
	for name, c := range map[string]struct {
		bend func(o *office, db *sql.DB)
		says []string
	}{
		"as it was written": {func(*office, *sql.DB) {}, nil},
		"a row is gone": {func(o *office, db *sql.DB) { o.back(db, ledger.TableSlots, slotKey(1), 0) },
			[]string{gone(1, "r1", m(1)), gone(1, "r1", s(1)), gone(1, "r2", s(2))}},
		"the row of a card that was closed is gone": {func(o *office, db *sql.DB) { o.back(db, ledger.TableSlots, slotKey(8), 0) },
			[]string{gone(8, "r12", s(12))}},
		"the row of a card that was given up is gone": {func(o *office, db *sql.DB) { o.back(db, ledger.TableSlots, slotKey(4), 0) },
			[]string{gone(4, "r7", s(7))}},
		"the row of a card that is outlived is gone": {func(o *office, db *sql.DB) { o.back(db, ledger.TableSlots, slotKey(6), 0) }, nil},
		"of before a refresh":                        {func(o *office, db *sql.DB) { o.back(db, ledger.TableSlots, slotKey(1), 1) }, []string{gone(1, "r2", s(2))}},
		"of before another phone": {func(o *office, db *sql.DB) { o.back(db, ledger.TableSlots, slotKey(2), 3) },
			[]string{gone(2, "r4", m(4)), gone(2, "r4", s(4)), "I3 subject " + person(2).String()[:8] + "… (kr-resident): index 3 of list S1 is 1, its state says 2"}},
		"of before it was made again": {func(o *office, db *sql.DB) { o.back(db, ledger.TableSlots, slotKey(3), 2) },
			[]string{gone(3, "r6", s(6)), "index 5 of list S1 is 1, its state says 0", "a credential of reservation r5 is reserved, the reservation is \"replaced\""}},
		"of before the signature": {func(o *office, db *sql.DB) { o.back(db, ledger.TableSlots, slotKey(5), 1) },
			[]string{"a credential of reservation r11 is reserved, the reservation is \"settled\""}},
		"of before it was given up": {func(o *office, db *sql.DB) { o.back(db, ledger.TableSlots, slotKey(4), 1) },
			[]string{"index 7 of list S1 is 1, its state says 0", "a credential of reservation r7 is reserved, the reservation is \"given-up\""}},
		"in another's place": {func(o *office, db *sql.DB) {
			o.exec(db, "UPDATE slots SET k=? WHERE k=?", []byte(slotKey(9)), []byte(slotKey(3)))
		}, []string{"I3 subject " + person(3).String()[:8] + "… (kr-resident): its row is in the place of another's", gone(3, "r5", s(5)), gone(3, "r6", s(6))}},
		"another's credential": {func(o *office, db *sql.DB) {
			r := ledger.SlotRecord{DocumentType: resident, Subject: person(4), State: o.cards[3]}
			r.State.Credentials = append(slices.Clone(r.State.Credentials), o.cards[4].Credentials...)
			o.replace(db, ledger.TableSlots, slotKey(4), r)
		}, []string{"(kr-resident): reservation r5 is another's", "(kr-resident): reservation r6 is another's"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := lived(t)
			only(t, o.says(func(db *sql.DB) { c.bend(o, db) }), c.says...)
		})
	}
}

// What a phone has acknowledged is as live as what it has not: its device is bound, no lock stands that ended it, and it was signed.
func TestCredentialsInUseAreLive(t *testing.T) {
	for name, c := range map[string]struct {
		bend func(o *office, r *ledger.SlotRecord)
		says string
	}{
		"no phone is bound": {func(_ *office, r *ledger.SlotRecord) { r.State.Device = nil }, "a live credential of device d8, which is not bound"},
		"another is":        {func(_ *office, r *ledger.SlotRecord) { r.State.Device = &state.Device{ID: "d9"} }, "a live credential of device d8, which is not bound"},
		"a lock stands":     {func(_ *office, r *ledger.SlotRecord) { r.State.Locks = []policy.Lock{court} }, "a live MSO while a lock stands that is not held"},
		"a lock that waits": {func(_ *office, r *ledger.SlotRecord) {
			r.State.Locks, r.State.Held = []policy.Lock{court}, []policy.Lock{court}
		}, ""},
		"it was not settled": {nil, "a credential of reservation r10 is active, the reservation is \"reserved\""},
	} {
		t.Run(name, func(t *testing.T) {
			o := lived(t)
			got := o.says(func(db *sql.DB) {
				if c.bend == nil {
					r := *o.of["r10"]
					r.Progress = ledger.InProgress
					o.replace(db, ledger.TableReservations, "r10", r)
					return
				}
				r := ledger.SlotRecord{DocumentType: resident, Subject: person(7), State: o.cards[7]}
				c.bend(o, &r)
				o.replace(db, ledger.TableSlots, slotKey(7), r)
			})
			if c.bend == nil { // other checks say it too
				got = slices.DeleteFunc(got, func(g string) bool { return !strings.HasPrefix(g, "I3") })
			}
			if c.says == "" {
				only(t, got)
			} else {
				only(t, got, c.says)
			}
		})
	}
}

// An instant in the journal that is far ahead, as of a wall clock that jumped, excuses nothing that was issued later.
func TestAClockThatJumpedExcusesNothing(t *testing.T) {
	o := lived(t)
	was := o.now
	o.now = was.AddDate(10, 0, 0)
	o.commit(ledger.Leaf{Kind: "meta", Name: "m"})
	o.now = was
	o.reserve(9, "r20", "d20", "", months, s(20))
	o.settle(9, "r20")
	only(t, o.says(func(db *sql.DB) {
		o.back(db, ledger.TableSlots, slotKey(9), 0)
		o.back(db, ledger.TableSlots, slotKey(1), 0)
	}), "its row is gone, or of before reservation r20")
}

// Beside a daemon that issues, locks and signs lists, fsck sees one instant, and nothing wrong in it.
func TestCardsAreMadeWhileFsckReads(t *testing.T) {
	o := lived(t)
	said := make(chan []string)
	go func() {
		defer close(said)
		for range 5 {
			r, err := fsck.Run(context.Background(), fsck.Options{Ledger: o.path(), Publish: filepath.Join(o.dir, "publish")})
			if err != nil {
				said <- []string{err.Error()}
				return
			}
			var all []string
			for _, c := range r.Checks {
				all = append(all, c.Problems...)
			}
			said <- all
		}
	}()
	n := 0
	for reading := true; reading; {
		select {
		case all, more := <-said:
			only(t, all)
			reading = more
			continue
		default:
		}
		if n == 200 { // as many as the lists have leased
			all, more := <-said
			only(t, all)
			reading = more
			continue
		}
		who, id := byte(20+n), fmt.Sprint("busy", n)
		o.reserve(who, id, "d"+id, "", months, m(uint64(20+n)), s(uint64(20+n)))
		o.settle(who, id)
		o.change(who, state.Event{Lock: &state.Lock{Lock: lost}})
		o.publish("S1", uint64(3+n))
		n++
	}
	t.Logf("%d cards were made meanwhile", n)
	must(t, o.store.Close())
}
