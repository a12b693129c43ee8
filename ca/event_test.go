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

// What a carrier may not lift in this hour waits among the dead letters, and is carried out when it is judged again.
func TestAFoundBeyondTheBudgetIsKept(t *testing.T) {
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
		"kid": "k", "not_before": c.Now().Add(-time.Hour), "not_after": c.Now().AddDate(1, 0, 0),
		"jwk": map[string]string{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}}}}}
	data, err = json.Marshal(b)
	must(err)
	bundle, err := policy.Parse("carrier.json", data)
	must(err)
	a := &Authority{o: Options{Ledger: l, Clock: c, Guard: clock.NewGuard(c, time.Time{}, time.Hour, true), Log: slog.New(slog.DiscardHandler), Metrics: metrics.New()}}
	a.ruling.Store(&rules{bundle: bundle, evidence: evidence.NewVerifier(evidence.Trust{Skew: time.Minute, Authorities: bundle.Authorities()})})
	event := func(seq uint64) (contract.EventAnswer, error) {
		text, err := statement.SignEvent(key, "k", statement.Event{Issuer: "carrier-a", ID: fmt.Sprint("event-0123456789-", seq), IssuedAt: c.Now(), Line: "line-1", Seq: seq,
			Kind: evidence.LineFound, OccurredAt: c.Now()})
		must(err)
		return a.Event(t.Context(), Caller{ID: "telecom-a"}, contract.EventRequest{Event: text})
	}
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
	_, err = event(1)
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
