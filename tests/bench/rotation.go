package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"sealkeeper/client"
	"sealkeeper/contract"
	"sealkeeper/officer"
	"sealkeeper/policy"
)

// board is officers with keys in memory.
type board struct {
	*appliance
	registry *officer.Registry
	keys     map[string]crypto.Signer
	client   *client.Client
}

// installGoverned founds an installation with officers; more may change what it is made of.
func installGoverned(ctx context.Context, dir, bin string, more func(*founding)) (*board, error) {
	b := &board{registry: &officer.Registry{Rules: officer.DefaultRules()}, keys: map[string]crypto.Signer{}}
	for _, id := range []string{"kim", "lee", "park"} {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		b.keys[id] = key
		b.registry.Officers = append(b.registry.Officers, officer.Officer{ID: id, Name: strings.ToUpper(id), Role: officer.RoleOfficer, Key: public})
	}
	data, err := b.registry.JSON()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "officers.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return nil, err
	}
	bundle, err := os.ReadFile("deploy/policies/demo.json")
	if err != nil {
		return nil, err
	}
	text := strings.Replace(string(bundle), `{"id": "auditor",`, `{"id": "officers", "role": "officer", "may": {}}, {"id": "auditor",`, 1)
	f := founding{bundle: []byte(text), clients: slices.Concat(callers, []string{"officers"}), init: []string{"--officers", file}}
	if more != nil {
		more(&f)
	}
	if b.appliance, err = install(ctx, dir, bin, f); err != nil {
		return nil, err
	}
	t := b.tls["officers"]
	b.client, err = client.New(client.Config{BaseURL: fmt.Sprintf("https://127.0.0.1:%d", b.ports[0]), Certificate: t.Certificates[0], RootCAs: t.RootCAs, Timeout: time.Minute})
	if err != nil {
		return nil, err
	}
	in, err := b.client.Officers(ctx)
	if err != nil {
		return nil, err
	}
	b.registry, err = officer.ParseRegistry([]byte(in.Registry))
	return b, err
}

// decide has two officers propose, approve and carry out.
func (b *board) decide(ctx context.Context, a officer.Action, what officer.Parameters) error {
	p, err := b.registry.Propose("kim", a, what, 0, time.Now(), rand.Reader)
	if err != nil {
		return err
	}
	var signed []string
	for _, who := range []string{"kim", "lee"} {
		e, err := officer.Approve(p.Payload(), who, b.keys[who], rand.Reader)
		if err != nil {
			return err
		}
		signed = append(signed, string(e))
	}
	if _, err := b.client.Propose(ctx, contract.ProposeRequest{Proposal: contract.File(signed[0])}); err != nil {
		return err
	}
	if _, err := b.client.Approve(ctx, contract.ApprovalRequest{ID: p.ID(), Envelope: contract.File(signed[1])}); err != nil {
		return err
	}
	_, err = b.client.Execute(ctx, p.ID())
	return err
}

// rotate plans a document signer that takes over at once, and waits until it has.
func (b *board) rotate(ctx context.Context, n int) error {
	now := time.Now().UTC().Truncate(time.Second)
	id := fmt.Sprintf("ds-%d", n+1)
	if err := b.decide(ctx, officer.KeyGenerate, &officer.Generate{ID: id, Purpose: policy.PurposeMDoc, Token: "online", Algorithm: "ES256", Name: "Bench " + id, Succeeds: fmt.Sprintf("ds-%d", n),
		Announce: now, Activate: now, UseUntil: now.Add(300 * 24 * time.Hour), Until: now.Add(400 * 24 * time.Hour), Reason: "bench"}); err != nil {
		return err
	}
	for {
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/status", b.ports[2]))
		if err != nil {
			return err
		}
		var s contract.Status
		err = json.NewDecoder(r.Body).Decode(&s)
		r.Body.Close()
		if err != nil {
			return err
		}
		for _, k := range s.Keys {
			if k.ID == id && k.State == "active" {
				return nil
			}
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// rotation compares the 99th percentile of issuing at 64 clients while document signers are rotated one after the other with that of quiet runs
// before and after. Every request must be answered with its card.
func (b *bench) rotation(ctx context.Context) error {
	g, err := installGoverned(ctx, filepath.Join(b.work, "governed"), b.bin, nil)
	if err != nil {
		return err
	}
	defer g.stop()
	n := b.size.requests[64]
	var quiet, rotating []float64
	rotated := 0
	if _, _, err := g.issue(ctx, nil, n/4, 64); err != nil { // warm
		return err
	}
	for range b.size.rounds {
		r, _, err := g.issue(ctx, nil, n, 64)
		if err != nil {
			return err
		}
		quiet = append(quiet, r.quantile(0.99))
		load, err := g.prepare(ctx, nil, n)
		if err != nil {
			return err
		}
		var over atomic.Bool
		turned := make(chan error, 1)
		go func() {
			for !over.Load() {
				if err := g.rotate(ctx, rotated+1); err != nil {
					turned <- err
					return
				}
				rotated++
				if err := sleep(ctx, time.Second); err != nil {
					turned <- err
					return
				}
			}
			turned <- nil
		}()
		r, err = drive(ctx, g.tls["ward-office-1"], g.ports[0], 64, load.requests, g.cpu, nil)
		over.Store(true)
		if err = errors.Join(err, <-turned); err != nil {
			return fmt.Errorf("issuing while keys are rotated: %w", err)
		}
		rotating = append(rotating, r.quantile(0.99))
	}
	ratio := median(rotating) / median(quiet)
	b.add("rotations", float64(rotated), "1")
	b.add("rotation_p99_ms", median(rotating), "ms")
	b.against("rotation_p99_ratio", ratio, "1", 1, ratio)
	fmt.Printf("Issuing at 64 clients while %d document signers take over one after the other: p99 %.0f ms, quiet %.0f ms, ratio %.2f; no request failed\n", rotated, median(rotating), median(quiet), ratio)
	return nil
}
