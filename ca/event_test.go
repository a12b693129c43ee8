package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sealkeeper/contract"
	"sealkeeper/evidence"
	"sealkeeper/evidence/statement"
	"sealkeeper/internal/clock"
	"sealkeeper/internal/metrics"
	"sealkeeper/ledger"
	"sealkeeper/policy"
)

// carrier has an authority that takes the events of one carrier, by a key of the test, and who signs them. lastSigned is of the newest list: zero, there is none.
func carrier(t *testing.T, lastSigned func(now time.Time) time.Time) (*Authority, *clock.Fake, func(seq uint64, kind string, issued time.Time) (contract.EventAnswer, error)) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	l, c := emptyLedger(t)
	l.Unlock(ledger.Secrets{})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	point, err := key.PublicKey.Bytes()
	must(err)
	data, err := os.ReadFile(filepath.Join("..", "deploy", "policies", "demo.json"))
	must(err)
	var b map[string]any
	must(json.Unmarshal(data, &b))
	for _, one := range b["clients"].([]any) {
		if one := one.(map[string]any); one["id"] == "telecom-a" {
			one["unlocks"] = 1
		}
	}
	b64 := base64.RawURLEncoding.EncodeToString
	b["authorities"] = []any{map[string]any{"id": "carrier-a", "kinds": []string{evidence.KindLineEvent}, "flood": 100, "keys": []any{map[string]any{
		"kid": "k", "not_before": c.Now().AddDate(0, -3, 0), "not_after": c.Now().AddDate(1, 0, 0),
		"jwk": map[string]string{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}}}}}
	data, err = json.Marshal(b)
	must(err)
	bundle, err := policy.Parse("carrier.json", data)
	must(err)
	a := &Authority{o: Options{Ledger: l, Clock: c, Guard: clock.NewGuard(c, lastSigned(c.Now()), time.Hour, false), Log: slog.New(slog.DiscardHandler), Metrics: metrics.New()}}
	a.ruling.Store(&rules{bundle: bundle, evidence: evidence.NewVerifier(evidence.Trust{Skew: time.Minute, Authorities: bundle.Authorities()})})
	return a, c, func(seq uint64, kind string, issued time.Time) (contract.EventAnswer, error) {
		t.Helper()
		text, err := statement.SignEvent(key, "k", statement.Event{Issuer: "carrier-a", ID: fmt.Sprint("event-0123456789-", seq), IssuedAt: issued, Line: "line-1", Seq: seq,
			Kind: kind, OccurredAt: issued})
		must(err)
		return a.Event(t.Context(), Caller{ID: "telecom-a"}, contract.EventRequest{Event: text})
	}
}

// After a long stop, or with a wall that was set forward, the time of lists is behind carriers' clocks: their events count all the same. What is
// from the future by the wall as well is refused, and so is what is too old by the time of lists, since its like may be forgotten.
func TestEventsWhileTheClockIsNotTrusted(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name                     string
		lastSigned, jump, issued time.Duration // against noon
		want                     string
	}{
		{"the wall is right", 0, 0, 0, ""},
		{"the wall is right, the carrier's is ahead", 0, 0, time.Hour, "evidence.line_event_from_future"},
		{"after a long stop", -20 * day, 0, 0, ""},
		{"after a long stop, the carrier's is ahead", -20 * day, 0, time.Hour, "evidence.line_event_from_future"},
		{"the wall was set forward, rightly", 0, 10 * day, 10 * day, ""},
		{"the wall jumped ahead, wrongly", 0, 400 * day, 0, ""},
		{"the wall jumped back", 0, -20 * day, 0, ""},
		{"the wall jumped back, an event that is too old", 0, -20 * day, -40 * day, "evidence.line_event_expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, wall, event := carrier(t, func(now time.Time) time.Time { return now.Add(c.lastSigned) })
			noon := wall.Now()
			wall.Jump(c.jump)
			_, err := event(1, evidence.LineLost, noon.Add(c.issued))
			var p *Problem
			if errors.As(err, &p); (c.want == "") != (err == nil) || err != nil && (p == nil || p.Code != c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if _, err := a.o.Guard.Trusted(); (err != nil) != (c.lastSigned != 0 || c.jump != 0) {
				t.Errorf("the clock: %v", err)
			}
		})
	}
}

// What a carrier may not lift in this hour waits among the dead letters, and is carried out when it is judged again.
func TestAFoundBeyondTheBudgetIsKept(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a, c, send := carrier(t, func(time.Time) time.Time { return time.Time{} })
	event := func(seq uint64) (contract.EventAnswer, error) { return send(seq, evidence.LineFound, c.Now()) }
	dead := func(want int) (id string) {
		t.Helper()
		all, err := a.DeadEvents(t.Context())
		must(err)
		if len(all.Events) != want {
			t.Fatalf("dead events: %+v, want %d", all.Events, want)
		}
		for _, d := range all.Events {
			if id = d.ID; d.Code != "budget.exhausted" || d.Client != "telecom-a" {
				t.Errorf("dead event %+v", d)
			}
		}
		return id
	}
	_, err := event(1)
	must(err)
	dead(0)
	var p *Problem
	if _, err = event(2); !errors.As(err, &p) || p.Code != "budget.exhausted" {
		t.Fatalf("the second found of the hour: %v", err)
	}
	id := dead(1)
	if _, err = a.ReplayEvent(t.Context(), Caller{ID: "operator-1"}, contract.ReplayRequest{ID: id}); !errors.As(err, &p) || p.Code != "budget.exhausted" {
		t.Errorf("judged again in the same hour: %v", err)
	}
	dead(1)
	c.Advance(time.Hour)
	if out, err := a.ReplayEvent(t.Context(), Caller{ID: "operator-1"}, contract.ReplayRequest{ID: id}); err != nil || out.Effect != ledger.EventUnknown {
		t.Errorf("judged again in the next hour: %+v, %v", out, err)
	}
	dead(0)
}
