package ledger

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"sealkeeper/policy"
)

// An hour has so much room for denials, and so much for those of one client; the next hour has it again.
func TestRoomForDenials(t *testing.T) {
	d, now := &denials{}, noon
	took := func(client string, asked int) (n int) {
		for range asked {
			if d.room(client, now) {
				n++
			}
		}
		return n
	}
	for i := range deniedPerHour / deniedByClient {
		if n := took(fmt.Sprint("client-", i), deniedByClient+50); n != deniedByClient {
			t.Errorf("client %d had room for %d", i, n)
		}
	}
	if n := took("one more", 10); n != 0 {
		t.Errorf("beyond all of an hour there was room for %d", n)
	}
	if len(d.of) > deniedPerHour/deniedByClient+1 {
		t.Errorf("%d clients are counted", len(d.of))
	}
	now = now.Truncate(time.Hour).Add(time.Hour - time.Second)
	if n := took("client-0", 1); n != 0 {
		t.Error("within the same hour there was room again")
	}
	now = now.Add(time.Second)
	if n := took("client-0", deniedByClient+1); n != deniedByClient {
		t.Errorf("in the next hour there was room for %d", n)
	}
}

// A flood of denials is bounded by the queue and by the hour, nothing waits for it, and what is not journalled is counted in the journal: every
// denial has an id under which it can be read, or is one of those.
func TestFloodOfDenials(t *testing.T) {
	w := newTown(t)
	d := policy.Decision{Result: policy.Denied, Code: "client.forbidden", Policy: w.bundle.Hash(), Version: 1, Record: &policy.Record{}}
	var ids []string
	asked := 0
	for i := range deniedPerHour / deniedByClient {
		for range deniedByClient {
			asked++
			if id := w.Denied(fmt.Sprint("client-", i), policy.OpIssue, resident, w.clock.Now(), d); id != "" {
				ids = append(ids, id)
			}
		}
	}
	if len(ids) < deniedQueue || len(ids) == asked {
		t.Errorf("%d of %d denials had room: less than a queue, or no bound was met", len(ids), asked)
	}
	if id := w.Denied("client-0", policy.OpIssue, resident, w.clock.Now(), d); id != "" {
		t.Error("one client had more than its room")
	}
	asked++

	// What is too large is journalled without what it was made of, and what is still too large is not.
	w.clock.Advance(time.Hour)
	w.again() // with an empty queue
	large := d
	large.Record = &policy.Record{Input: policy.Input{Latched: []string{strings.Repeat("x", maxDecision)}}}
	small := w.Denied("client-1", policy.OpIssue, resident, w.clock.Now(), large)
	large.Missing = []string{strings.Repeat("x", maxDecision)}
	if none := w.Denied("client-1", policy.OpIssue, resident, w.clock.Now(), large); small == "" || none != "" {
		t.Errorf("too large: %q, far too large: %q", small, none)
	}
	ids, asked = append(ids, small), asked+2
	w.again() // the last ones are committed at the end

	for i, id := range ids {
		if i%97 != 0 && id != small {
			continue
		}
		got, err := w.Decision(context.Background(), id)
		must(t, err)
		if got == nil || got.Result != "denied" || got.Code != d.Code || (got.Of == nil) != (id == small) {
			t.Fatalf("decision %s reads %+v", id, got)
		}
	}
	var kept, dropped uint64
	must(t, w.Audit().Journal(context.Background(), func(_ uint64, leaf Leaf, _ []byte) error {
		if leaf.Kind == "denials" {
			if kept, dropped = kept+leaf.Count, dropped+leaf.Dropped; leaf.Count > deniedBatch {
				t.Errorf("%d denials in one entry", leaf.Count)
			}
		}
		return nil
	}))
	if kept != uint64(len(ids)) || kept+dropped != uint64(asked) {
		t.Errorf("the journal has %d and says that it lacks %d; %d were denied, %d with an id", kept, dropped, asked, len(ids))
	}
	w.check()
}
