package ledger

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"sealkeeper/evidence"
	"sealkeeper/internal/mac"
	"sealkeeper/ledger/state"
	"sealkeeper/policy"
)

// someOf sets about half of what a value has, also members that were added to a record since.
func someOf(r *rand.Rand, v reflect.Value) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		if r.IntN(3) > 0 {
			v.Set(reflect.ValueOf(time.Unix(r.Int64N(1<<33), r.Int64N(3)*r.Int64N(1e9)).UTC()))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && (r.IntN(2) == 0 || f.Type.Kind() == reflect.Struct) {
				someOf(r, v.Field(i))
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		someOf(r, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(3), 3))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			someOf(r, v.Index(i))
		}
	case reflect.String:
		v.SetString([]string{"", "a", "quoted \" and \\", "한글 <&>\u2028", "\x00\n\x7f"}[r.IntN(5)])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int64:
		v.SetInt(r.Int64() >> r.IntN(64) * (1 - 2*r.Int64N(2)))
	case reflect.Uint64, reflect.Uint8:
		v.SetUint(r.Uint64() >> r.IntN(64))
	default:
		panic("a record has a " + v.Kind().String())
	}
}

// Rows and leaves that say themselves how they are written are written as all others are: what is hashed and compared does not depend on who wrote it.
func TestRecordsAreWrittenAlike(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, zero := range []any{SlotRecord{}, ReservationRecord{}, RequestRecord{}, AttemptRecord{}, BurnRecord{}, LatchRecord{}, LineRecord{}, LinkRecord{}, CredentialRecord{}, IndexRecord{}, DecisionRecord{}, Certificate{}, ClientRecord{}, Leaf{}} {
		t.Run(fmt.Sprintf("%T", zero), func(t *testing.T) {
			for n := range 3000 {
				v := reflect.New(reflect.TypeOf(zero))
				if n > 0 {
					someOf(r, v.Elem())
				}
				if l, ok := v.Interface().(*ReservationRecord); ok {
					l.Lane &= 0xff // lanes are small, and not negative
				}
				if d, ok := v.Interface().(*DecisionRecord); ok && d.Of != nil {
					d.Of.Input.Claims = nil // no record has any, and not every row of bytes is JSON
				}
				if l, ok := v.Interface().(*Leaf); ok {
					l.Kind = []string{"reserve", "settle", "sweep"}[n%3]
				}
				want := marshal(v.Interface())
				if q, ok := v.Interface().(*RequestRecord); ok && len(q.Sealed) > 0 {
					bare := *q
					bare.Sealed = nil
					want = append(append(marshal(bare), 0), q.Sealed...)
				}
				for _, record := range []any{v.Interface(), v.Elem().Interface()} {
					if got := encode(record); !bytes.Equal(got, want) {
						t.Fatalf("%T:\n%s\nis written as\n%s", record, want, got)
					}
				}
			}
		})
	}
}

// An answer is found in the rows of before, which have it in their JSON, and in those of now; not in a row that was cut or has two.
func TestAnswersOfBothForms(t *testing.T) {
	r := RequestRecord{Client: "c", Reservation: "r", At: time.Unix(1, 0).UTC(), Sealed: []byte{0, 1, 0, 2}}
	for what, row := range map[string][]byte{"before": marshal(r), "now": encode(r)} {
		got, err := decode[RequestRecord](TableRequests, row)
		if err != nil || !reflect.DeepEqual(*got, r) {
			t.Errorf("%s: %v %v", what, got, err)
		}
	}
	bare := r
	bare.Sealed = nil
	if got, err := decode[RequestRecord](TableRequests, encode(bare)); err != nil || got.Sealed != nil {
		t.Errorf("without an answer: %v %v", got, err)
	}
	for what, row := range map[string][]byte{"nothing behind the zero": append(encode(bare), 0), "two": append(marshal(r), 0, 1), "no JSON": append([]byte{0}, r.Sealed...)} {
		if got, err := decode[RequestRecord](TableRequests, row); err == nil {
			t.Errorf("%s: %v", what, got)
		}
	}
	if _, err := decode[BurnRecord](TableBurnt, append(encode(BurnRecord{}), 0, 1)); err == nil {
		t.Error("another record has something behind its JSON")
	}
}

func BenchmarkEncode(b *testing.B) {
	at := time.Now().UTC()
	for _, record := range []any{
		SlotRecord{DocumentType: "kr-resident", State: state.State{Epoch: 1, Device: &state.Device{ID: "PwlANJp9n3BYrBuAU-7g7A", Keys: [][32]byte{{1}}, Since: at}, Credentials: []state.Credential{{Reservation: "AaIoNTjxvwAaprI_8NZndw",
			Device: "PwlANJp9n3BYrBuAU-7g7A", Format: "dc+sd-jwt", List: "25p_A3WrEWXkpU4mT9IWKQ", Index: 308169, Made: at, NotAfter: at, Phase: state.Signed}}}},
		RequestRecord{Client: "ward-office-1", Reservation: "AaIoNTjxvwAaprI_8NZndw", At: at, Settled: at, Sealed: make([]byte, 4600)},
		DecisionRecord{At: at, Client: "ward-office-1", Operation: policy.OpIssue, DocumentType: "kr-resident", Result: "allowed", Rules: []string{"I:facts", "I:one-device", "offices-issue"},
			Of: &policy.Record{Input: policy.Input{Evidence: policy.EvidenceInput{Keys: 1, Kinds: []string{"key_attestation", "proof_of_possession"}, AttestationIssuer: "CN=Wallet"}}}},
		DecisionRecord{At: at, Client: "ward-office-1", Operation: policy.OpIssue, DocumentType: "kr-resident", Result: "allowed", Rules: []string{"I:facts", "I:one-device", "offices-issue"},
			Of: &policy.Record{Input: policy.Input{Method: "desk", Formats: []policy.Format{"mso_mdoc", "dc+sd-jwt"}, Evidence: policy.EvidenceInput{Keys: 1, Kinds: []string{"key_attestation", "proof_of_possession"}, AttestationIssuer: "CN=Wallet",
				Statements: []policy.StatementInput{{Authority: "office", IssuedAt: at, InPerson: &evidence.InPerson{District: "1111051500", Method: "qr", CardSeen: true}}, {Authority: "register", IssuedAt: at, RegistryMatch: &policy.RegistryInput{District: "1111051500", CardStatus: "valid", CardExpiry: "ahead", Epoch: 1}},
					{Authority: "matcher", IssuedAt: at, FaceMatch: &evidence.FaceMatch{Level: "high", Liveness: 2}}, {Authority: "reader", IssuedAt: at, ChipRead: &evidence.ChipRead{Passive: true, PINVerified: true}}, {Authority: "carrier", IssuedAt: at, LineOwnership: &evidence.LineOwnership{Subscriber: "self"}}}}}}},
		Leaf{V: 1, Kind: "settle", At: at, Reservation: "AaIoNTjxvwAaprI_8NZndw", Operation: "issue", Items: []LeafItem{{Worker: "online/22761.1"}}},
	} {
		b.Run(fmt.Sprintf("%T", record), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				encode(record)
			}
		})
		b.Run(fmt.Sprintf("%T by reflection", record), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				marshal(record)
			}
		})
	}
}

// What secrets make of names is in rows and leaves of before, and with authorities: it stays what it was.
func TestNamesMadeOfSecretsStay(t *testing.T) {
	s := &Secrets{commit: mac.New([32]byte{1}), lookup: mac.New([32]byte{2})}
	for what, c := range map[string]struct {
		got  []byte
		want string
	}{
		"commitment": {commit(s, policy.Pseudonym{1}, [16]byte{2}), "c007385f0eecf70994f5ef274faeddccfcc64d4036c859c3cfc0647f1f035acc"},
		"request":    {lookup(s, "client", "key"), "5c114aa2d1037516d7d5e219b2baa79f4978df76b99782eb68aa0550d0702f33"},
		"line":       {lineTag(s, 'l', "a", "bc"), "218cb3072505f3fa1b15aceac235e6d2b1904932d623f6ce775be7ee0f7c2c9e"},
		"charge":     {chargeTag(s, window{"b", 3600, 1700002800}, "w"), "c1c1ddd16a3a0dac834418a516f15c85"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s: %s", what, got)
		}
	}
}
