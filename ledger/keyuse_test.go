package ledger

import (
	"context"
	"strings"
	"testing"
	"time"

	"sealkeeper/internal/clock"
	"sealkeeper/policy"
)

func (h *house) limited(id string, uses, perHour uint64) Key {
	h.t.Helper()
	k := Key{ID: id, Token: "online", Purpose: policy.PurposeMDoc, Algorithm: "ES256", CKAID: []byte(id), SPKI: []byte("spki of " + id), State: KeyActive, NotBefore: noon.AddDate(-1, 0, 0),
		NotAfter: noon.AddDate(5, 0, 0), Plan: &KeyPlan{Uses: uses, PerHour: perHour}}
	must(h.t, h.PutKey(context.Background(), k))
	return k
}

// A key signs as often as it may and not once more, also over restarts, which lose a hundredth of its limit at most; near the end somebody is told.
func TestKeyIsUsedUp(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	k := h.limited("ds", 1000, 0)
	taken, told := 0, 0
	for {
		err := h.takeUse(ctx, k, 1, h.clock.Now())
		if err != nil {
			refused(t, err, "key.used_up")
			break
		}
		taken++
		select {
		case <-h.NearlyUsedUp():
			told = taken
		default:
		}
		if told > 0 && told == taken && !h.UsedUp("ds") {
			t.Error("told, and not used up")
		}
		if taken == 300 || taken == 600 {
			if used := h.KeyUsed(ctx, "ds"); used < uint64(taken) || used > uint64(taken)+10 {
				t.Errorf("%d were taken, %d are said", taken, used)
			}
			h.again()
		}
	}
	if taken > 1000 || taken < 980 || told == 0 || told < 900 {
		t.Errorf("%d were taken, told at %d", taken, told)
	}
	h.again()
	refused(t, h.takeUse(ctx, k, 1, h.clock.Now()), "key.used_up")
	if h.KeyUsed(ctx, "ds") != 1000 {
		t.Error(h.KeyUsed(ctx, "ds"))
	}
}

// A rate is that of an hour: the next one begins anew, and one that the wall goes back to does not.
func TestKeyRate(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	k := h.limited("ds", 0, 50)
	hour := func() (n int) {
		for h.takeUse(ctx, k, 1, h.clock.Now()) == nil {
			n++
		}
		refused(t, h.takeUse(ctx, k, 1, h.clock.Now()), "key.rate")
		return n
	}
	if n := hour(); n != 50 {
		t.Errorf("%d in the first hour", n)
	}
	h.again()
	if n := hour(); n != 0 {
		t.Errorf("%d more after a restart", n)
	}
	h.clock.Advance(time.Hour)
	if n := hour(); n != 50 {
		t.Errorf("%d in the second hour", n)
	}
	h.clock.Jump(-time.Hour)
	if n := hour(); n != 0 {
		t.Errorf("%d in an hour that was over", n)
	}
	h.limited("free", 0, 0)
	free, _ := h.Ledger.key("free")
	for range 10_000 {
		must(t, h.takeUse(ctx, free, 1, h.clock.Now()))
	}
}

// What is reserved is counted where it is reserved.
func TestLimitIsOfWhatIsReserved(t *testing.T) {
	h := newHouse(t)
	h.limited("ds", 2, 0)
	a, _ := policy.DecideSelftest(nil, "ds", policy.PurposeMDoc, true, time.Time{}, noon)
	for n := range 3 {
		_, err := h.Reserve(context.Background(), a, []Draft{{KeyID: "ds", Purpose: policy.PurposeMDoc, TBSHash: [32]byte{byte(n + 1)}}}, nil)
		if n < 2 {
			must(t, err)
		} else {
			refused(t, err, "key.used_up")
		}
	}
}

// selftest reserves a self test as of an instant.
func (h *house) selftest(at time.Time) error {
	h.t.Helper()
	a, _ := policy.DecideSelftest(nil, "ds", policy.PurposeMDoc, true, time.Time{}, at)
	_, err := h.Reserve(context.Background(), a, []Draft{{KeyID: "ds", Purpose: policy.PurposeMDoc, TBSHash: [32]byte{1}}}, nil)
	return err
}

// Self tests go on while the wall is not trusted, and it takes no hour of theirs along: once it is mended, the next hour begins anew.
func TestKeyRateIsNotOfAWallThatNobodyTrusts(t *testing.T) {
	h := newHouse(t)
	h.limited("ds", 0, 50)
	g := clock.NewGuard(h.clock, noon, 24*time.Hour, false)
	const jump = 365 * 24 * time.Hour
	h.clock.Jump(jump)
	must(t, h.selftest(g.ForLists()))
	h.clock.Jump(-jump)
	g.Accept()
	for range 49 {
		must(t, h.selftest(g.ForLists()))
	}
	refused(t, h.selftest(g.ForLists()), "key.rate")
	h.clock.Advance(time.Hour)
	must(t, h.selftest(g.ForLists()))
}

// An hour that is stored and was not there yet is over when an hour has passed, whatever the wall says; then the hour is that of now.
func TestKeyRateOfAnHourToCome(t *testing.T) {
	h := newHouse(t)
	ctx := context.Background()
	h.limited("ds", 0, 50)
	_, err := h.commit(ctx, Leaf{Kind: "key-use", At: noon, Name: "ds", Count: 50},
		[]Row{{Table: TableKeyUse, Key: []byte("ds"), Value: encode(KeyUse{Taken: 50, Hour: noon.AddDate(1, 0, 0).Unix() / 3600, InIt: 50})}}, true, nil)
	must(t, err)
	refused(t, h.selftest(h.clock.Now()), "key.rate")
	h.clock.Advance(time.Hour - 1)
	refused(t, h.selftest(h.clock.Now()), "key.rate")
	for range 2 {
		h.clock.Advance(time.Hour)
		for range 50 {
			must(t, h.selftest(h.clock.Now()))
		}
		refused(t, h.selftest(h.clock.Now()), "key.rate")
		h.again()
		refused(t, h.selftest(h.clock.Now()), "key.rate")
	}
	if row, _, err := get[KeyUse](ctx, h.Ledger, TableKeyUse, []byte("ds")); err != nil || row.Hour != h.clock.Now().Unix()/3600 || row.Taken != 150 {
		t.Errorf("%+v, %v", row, err)
	}
}

// Requests that wait for hours are reserved again with another key: in the hour in which that is done, not in those in which they were decided.
func TestKeyRateOfWhatIsReservedAgain(t *testing.T) {
	w := newTown(t)
	var waiting []*request
	for i := range 12 {
		q := w.request(policy.OpIssue, byte(i+1), w.phone(), false)
		w.reserve(q)
		waiting = append(waiting, q)
		w.clock.Advance(20 * time.Minute)
	}
	old, _ := w.Ledger.key("sd")
	next := old
	next.ID, next.CKAID, next.SPKI, next.Plan = "sd-2", []byte("sd-2"), []byte("sd-2"), &KeyPlan{PerHour: 3}
	old.State = KeyDeactivated
	must(t, w.PutKey(t.Context(), old))
	must(t, w.PutKey(t.Context(), next))
	w.signer = "sd-2"
	done := 0
	for _, q := range waiting {
		if _, _, err := w.resume(q); err == nil {
			done++
		} else if !strings.Contains(err.Error(), "key.rate") {
			t.Error(err)
		}
	}
	if done != 3 {
		t.Errorf("%d were reserved again with a key of three an hour", done)
	}
}
