package ledger

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"sealkeeper/internal/fuzzing"
	"sealkeeper/policy"
)

// A row that is read is written again as a row that means the same.
func again[T any](t *testing.T, table Table, value []byte) bool {
	v, err := decode[T](table, value)
	if err != nil {
		return false
	}
	once := encode(v)
	w, err := decode[T](table, once)
	if err != nil {
		t.Fatalf("%s: %v", once, err)
	}
	if twice := encode(w); !bytes.Equal(once, twice) {
		t.Fatalf("%s became %s", once, twice)
	}
	return true
}

func FuzzRows(f *testing.F) {
	b, h := []byte{1, 2, 3}, [32]byte{7}
	list := VersionRecord{ID: "l", Version: 4, IssuedAt: noon, Expires: noon, TTL: 60, Through: 9, Token: b}
	reservation := ReservationRecord{ID: "r", Kind: "issue", Progress: InProgress, Client: "c", At: noon, PolicyVersion: 1, DocumentType: "d", Device: "p", Superseded: []string{"q"}, Request: b,
		Items: []ItemRecord{{KeyID: "k", Purpose: policy.PurposeMDoc, TBSHash: h, List: "l", Index: 7, NotAfter: noon}, {KeyID: "k"}}, List: &list, Cert: &Certificate{Serial: b, At: noon}, CRL: &CRLRecord{Number: 1}}
	var seeds [][]byte
	for _, v := range []any{SlotRecord{DocumentType: "d"}, reservation, AttemptRecord{Worker: "w", At: noon, State: TrySent}, RequestRecord{Client: "c", At: noon, Reservation: "r", Sealed: b}, BurnRecord{noon},
		CredentialRecord{Reservation: "r", Item: 1, NotAfter: noon}, IndexRecord{7, CredentialRecord{Reservation: "r", Item: 1, NotAfter: noon}}, ChangeRecord{Index: 1, To: 1, At: noon}, ListRecord{ID: "l", URI: "https://a/b", Bits: 2, Size: 1024, Leased: 64, Opened: noon}, list,
		CRLRecord{Number: 1, ThisUpdate: noon, DER: b}, Key{ID: "k", Purpose: policy.PurposeMDoc, CKAID: b, SPKI: b, Chain: [][]byte{b, b}, NotBefore: noon}, Certificate{Serial: b, Profile: "ds", Name: "n", DER: b, At: noon},
		map[string]uint64{"l": 7}, Leaf{V: 1, Kind: "reserve", At: noon, Subject: b, Reservation: "r", Items: []LeafItem{{Item: 1, TBS: b}, {Attempt: 2}}, Reasons: []string{"a"}}} {
		seeds = append(seeds, encode(v))
	}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, value []byte) (accepted bool) {
		for _, read := range []bool{
			again[SlotRecord](t, TableSlots, value), again[ReservationRecord](t, TableReservations, value), again[AttemptRecord](t, TableAttempts, value), again[RequestRecord](t, TableRequests, value),
			again[BurnRecord](t, TableBurnt, value), again[CredentialRecord](t, TableCredentials, value), again[IndexRecord](t, TableIndices, value), again[ChangeRecord](t, TableChanges, value), again[ListRecord](t, TableLists, value),
			again[VersionRecord](t, TableVersions, value), again[CRLRecord](t, TableCRLs, value), again[Key](t, TableKeys, value), again[Certificate](t, TableCertificates, value),
			again[map[string]uint64](t, TableMeta, value), again[Leaf](t, "journal", value),
		} {
			accepted = accepted || read
		}
		if r, err := decode[ListRecord](TableLists, value); err == nil && r.fits() == nil && r.Size <= 1<<16 && r.Size > 0 {
			newList(*r, 0).add(change{ChangeRecord: ChangeRecord{Index: r.Size - 1, To: 255}})
		}
		return accepted
	})
}

// What a row's texts are made of is no reason to refuse it when it is read: a text of nothing but quotes is written with an escape for each.
func TestRowsOfEscapes(t *testing.T) {
	leaf := Leaf{V: 1, Kind: "lock", At: noon, Reasons: []string{strings.Repeat(`"`, 1000)}}
	got, err := decode[Leaf]("journal", encode(leaf))
	if err != nil || got.Reasons[0] != leaf.Reasons[0] {
		t.Errorf("%v", err)
	}
}

// Rows' keys: a name, a zero byte, and a fixed number of bytes.
func FuzzRowKeys(f *testing.F) {
	seeds := [][]byte{attemptKey("r", 1, 2), credentialKey("l", 7), indexKey("l", 7), horizonKey("l", 20000), burnKey("nonce", [32]byte{1}), slotKey("d", policy.Pseudonym{}), {0}, {}}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, key []byte) (accepted bool) {
		for _, n := range []int{8, 20, 32} {
			name, rest, err := split("t", key, n)
			if err != nil {
				continue
			}
			accepted = true
			if name == "" || len(rest) != n || !bytes.Equal(append([]byte(name+"\x00"), rest...), key) {
				t.Fatalf("%x is %q and %x", key, name, rest)
			}
		}
		return accepted
	})
}

// A sealed answer opens only as it was sealed.
func FuzzSealedAnswer(f *testing.F) {
	const key = IdempotencyKey("0123456789abcdef0123456789abcdef")
	r := RequestRecord{Client: "c", Reservation: "r", RowSalt: [32]byte{1}}
	gcm, aad, err := r.sealer(key)
	if err != nil {
		f.Fatal(err)
	}
	nonce := make([]byte, gcm.NonceSize())
	good := gcm.Seal(nonce, nonce, []byte(`{"credentials":[]}`), aad)
	fuzzing.Run(f, fuzzing.Options{}, [][]byte{good, nonce, {}}, func(t *testing.T, sealed []byte) bool {
		r := r
		r.Sealed = sealed
		_, err := r.unseal(key)
		if (err == nil) != bytes.Equal(sealed, good) {
			t.Fatalf("%x: %v", sealed, err)
		}
		return err == nil
	})
}

func FuzzHighWater(f *testing.F) {
	seeds := [][]byte{encode(head{Size: 7, Root: "AAAA", Lists: map[string]uint64{"a": 1, "b": 2}}), []byte(`{"size":18446744073709551615}`), []byte(`{"lists":{"a":1,"a":2}}`), []byte(`{"lists":null}`)}
	fuzzing.Run(f, fuzzing.Options{}, seeds, func(t *testing.T, b []byte) bool {
		h, err := parseHead(b)
		if err == nil && h.Size > math.MaxInt64 {
			t.Fatalf("%d entries", h.Size)
		}
		return err == nil
	})
}

func FuzzRestored(f *testing.F) {
	seeds := [][]byte{encode(Restored{Backup: strings.Repeat("ab", 32), Made: noon, Size: 7, Root: strings.Repeat("cd", 32), At: noon})}
	fuzzing.Run(f, fuzzing.Options{Longest: 8 << 10}, seeds, func(t *testing.T, b []byte) bool {
		r, err := parseRestored(b)
		if err != nil {
			return false
		}
		if n, err := parseRestored(encode(r)); err != nil || !bytes.Equal(encode(n), encode(r)) {
			t.Fatalf("%+v became %+v: %v", r, n, err)
		}
		return true
	})
}

func FuzzListMeta(f *testing.F) {
	seeds := fuzzing.Strings(`{"id":"a","version":7,"file":"a.jwt","media_type":"application/statuslist+jwt"}`, `{"id":"a","id":"b"}`, `{"version":-1}`, `[]`)
	fuzzing.Run(f, fuzzing.Options{Longest: metaLimits.Bytes + 100}, seeds, func(t *testing.T, b []byte) bool {
		m, err := ParseListMeta(b)
		if err != nil {
			return false
		}
		if n, err := ParseListMeta(encode(m)); err != nil || n != m {
			t.Fatalf("%+v became %+v: %v", m, n, err)
		}
		return true
	})
}

// Lists of damaged rows are refused before memory is asked for.
func TestDamagedListRow(t *testing.T) {
	for _, r := range []ListRecord{{Bits: 0, Size: 1024}, {Bits: 3, Size: 1024}, {Bits: -1, Size: 1024}, {Bits: 1, Size: 1 << 40}, {Bits: 1, Size: 9}} {
		if r.fits() == nil {
			t.Error(fmt.Sprint(r))
		}
	}
	if err := (&ListRecord{Bits: 2, Size: 1 << 20}).fits(); err != nil {
		t.Error(err)
	}
}
