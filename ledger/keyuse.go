package ledger

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// How often a key signs can have a limit, for its life and for each hour. Counting costs a request nothing but an addition: what may be
// signed is taken from the limit in blocks that are durable before any of theirs is used, and what a restart leaves of a block is lost, so that a key never
// signs more often than it may.

// KeyUse is how much of a key's limits was given out in blocks.
type KeyUse struct {
	Taken uint64 `json:"taken"`
	Hour  int64  `json:"hour"` // unix seconds / 3600
	InIt  uint64 `json:"in_it"`
}

// keyUse is the open block of one key.
type keyUse struct {
	mu   sync.Mutex
	read bool
	KeyUse
	left  uint64        // of the open block
	since time.Duration // elapsed time when the hour began, or was read
	rev   If
	used  atomic.Uint64 // taken less what is left, for whoever looks
}

// blockOf a limit: small enough that what a restart loses is a hundredth of it.
func blockOf(limit uint64) uint64 { return min(max(limit/128, 1), 1024) }

func (l *Ledger) useOf(id string) *keyUse {
	u, _ := l.uses.LoadOrStore(id, &keyUse{})
	return u.(*keyUse)
}

// takeUse counts n signatures of a key in the hour of at, which is trusted or the time of lists: the wall's own may be one that nobody trusts. Keys without
// limits are not counted.
func (l *Ledger) takeUse(ctx context.Context, k Key, n uint64, at time.Time) error {
	if k.Plan == nil || k.Plan.Uses == 0 && k.Plan.PerHour == 0 {
		return nil
	}
	u := l.useOf(k.ID)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := l.readUse(ctx, k.ID, u); err != nil {
		return err
	}
	// A wall that was set back stays in the hour that it was in, until an hour passed that no wall can hide: a clock that was accepted by mistake, or that
	// a program of before believed, may have been a year ahead.
	now := l.o.Clock.Elapsed()
	if hour := at.Unix() / 3600; hour > u.Hour || hour < u.Hour && now-u.since >= time.Hour {
		u.Hour, u.InIt, u.since = hour, 0, now
		if k.Plan.PerHour > 0 {
			u.left = 0 // a block of another hour is none of this one's
		}
	}
	for u.left < n {
		next, block := u.KeyUse, max(n-u.left, 1)
		if limit := k.Plan.Uses; limit > 0 {
			if next.Taken+block > limit {
				return refuse("key.used_up", "key %s signed %d times, as often as it may: officers have to put another one to use", k.ID, limit)
			}
			block = min(max(block, blockOf(limit)), limit-next.Taken)
		}
		if limit := k.Plan.PerHour; limit > 0 {
			if next.InIt+max(n-u.left, 1) > limit {
				return refuse("key.rate", "key %s signed %d times in this hour, as often as it may", k.ID, limit)
			}
			if k.Plan.Uses == 0 {
				block = max(block, blockOf(limit))
			}
			block = min(block, limit-next.InIt)
		}
		next.Taken, next.InIt = next.Taken+block, next.InIt+block
		out, err := l.commit(ctx, Leaf{Kind: "key-use", At: l.o.Clock.Now(), Name: k.ID, Count: block}, []Row{{Table: TableKeyUse, Key: []byte(k.ID), Value: encode(next), If: u.rev}}, true, nil)
		if err != nil {
			return err
		}
		if out.Conflict != nil {
			return ErrConflict
		}
		u.KeyUse, u.rev, u.left = next, If(out.Seq+1), u.left+block
	}
	u.left -= n
	u.used.Store(u.Taken - u.left)
	if k.Plan.Uses > 0 && u.used.Load() >= handOverAt(k.Plan.Uses) {
		select {
		case l.spent <- struct{}{}:
		default:
		}
	}
	return nil
}

func (l *Ledger) readUse(ctx context.Context, id string, u *keyUse) error {
	if u.read {
		return nil
	}
	row, rev, err := get[KeyUse](ctx, l, TableKeyUse, []byte(id))
	if err != nil {
		return err
	}
	if row != nil {
		u.KeyUse = *row
	}
	u.read, u.rev, u.since = true, If(rev), l.o.Clock.Elapsed()
	u.used.Store(u.Taken)
	return nil
}

// KeyUsed is how often a key with a limit signed at most; what a restart lost of a block counts.
func (l *Ledger) KeyUsed(ctx context.Context, id string) uint64 {
	u := l.useOf(id)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := l.readUse(ctx, id, u); err != nil {
		return 0
	}
	return u.used.Load()
}

// Nearly is how full a limit is when somebody is told.
const Nearly = 0.8

// handOverAt leaves a fiftieth of a limit for what is under way.
func handOverAt(limit uint64) uint64 { return limit - limit/50 }

// NearlyUsedUp tells that some key signed so often that the one that stands by should take over.
func (l *Ledger) NearlyUsedUp() <-chan struct{} { return l.spent }

// UsedUp says whether a key signed so often that the one that stands by should take over.
func (l *Ledger) UsedUp(id string) bool {
	k, _ := l.key(id)
	return k.Plan != nil && k.Plan.Uses > 0 && l.KeyUsed(context.Background(), id) >= handOverAt(k.Plan.Uses)
}
