package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sealkeeper/contract"
	"sealkeeper/officer"
	"sealkeeper/verifier"
)

// A hold of a country: from the call that carries it out until every status list of the document type is public with all of it suspended, each signed
// once; and its lift. Then of a selection by key and time, for which all cards are read.
//
// There are as many lists as 23 million credentials have, and as many cards as are asked for: a hold of everything reads no card, so that their number
// makes no difference to it. The figure of the reading is for a million cards.
const holdLists = 22

func (b *bench) hold(ctx context.Context, cards int) error {
	g, err := installGoverned(ctx, filepath.Join(b.work, "held"), b.bin, nil)
	if err != nil {
		return err
	}
	defer g.stop()
	if err := g.stop(); err != nil {
		return err
	}
	file := filepath.Join(g.dir, "data", "ledger.db")
	b.progress("filling %d lists of 2^20 entries, with %d cards", holdLists, cards)
	if err := b.fill(ctx, file, cards, holdLists<<20, 1); err != nil {
		return fmt.Errorf("filling the ledger: %w", err)
	}
	if _, err := g.start(ctx); err != nil {
		return err
	}
	b.progress("signing %d lists a first time", holdLists)
	if err := g.untilPublic(ctx, nil, holdLists); err != nil {
		return err
	}
	whole := &officer.Hold{DocumentType: documentType, Cards: cards, Reason: "bench"}
	days := time.Now().UTC().Truncate(time.Second).Add(-96 * time.Hour)
	byTime, byKey := &officer.Hold{DocumentType: documentType, From: days, Cards: cards, Reason: "bench"}, &officer.Hold{Key: "sdjwt-issuer-1", Cards: cards, Reason: "bench"}
	some := (cards + 1<<20 - 1) >> 20
	for _, h := range []struct {
		name  string
		of    *officer.Hold
		lists int
	}{{"hold", whole, holdLists}, {"hold_by_time", byTime, some}, {"hold_by_key", byKey, some}} {
		for round := range 3 {
			id, placed, err := g.held(ctx, officer.HoldMass, h.of, h.lists)
			if err != nil {
				return fmt.Errorf("%s: %w", h.name, err)
			}
			if err := g.shows(ctx, verifier.Suspended); err != nil {
				return err
			}
			_, lifted, err := g.held(ctx, officer.HoldLift, &officer.Lift{Hold: id, Reason: "bench"}, h.lists)
			if err != nil {
				return fmt.Errorf("%s, lifted: %w", h.name, err)
			}
			if err := g.shows(ctx, verifier.Valid); err != nil {
				return err
			}
			fmt.Printf("%s, round %d: executed in %.0f ms, all of %d lists public after %.0f ms (%.2f CPU s), each signed once; lifted in %.0f ms, public after %.0f ms (%.2f CPU s)\n",
				h.name, round+1, ms(placed.answered), placed.lists, ms(placed.public), placed.cpu.Seconds(), ms(lifted.answered), ms(lifted.public), lifted.cpu.Seconds())
			b.add(h.name+"_lists", float64(placed.lists), "1")
			b.add(h.name+"_public_ms", ms(placed.public), "ms")
			b.add(h.name+"_lift_public_ms", ms(lifted.public), "ms")
			b.add(h.name+"_cpu_s", placed.cpu.Seconds(), "CPU s")
		}
	}
	b.add("hold_cards", float64(cards), "1")
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// status of the daemon's lists.
func (g *board) status(ctx context.Context) (s contract.Status, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/status", g.ports[2]), nil)
	if err != nil {
		return s, err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer r.Body.Close()
	return s, json.NewDecoder(r.Body).Decode(&s)
}

// untilPublic waits until so many lists were signed since, and none has anything that is not public.
func (g *board) untilPublic(ctx context.Context, before map[string]uint64, lists int) error {
	for {
		s, err := g.status(ctx)
		if err != nil {
			return err
		}
		waits, grown := false, 0
		for _, l := range s.Lists {
			waits = waits || l.Dirty
			if l.Version > before[l.ID] {
				grown++
			}
		}
		if !waits && grown >= lists {
			return nil
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

type heldIn struct {
	answered, public, cpu time.Duration
	lists                 int
}

// held has a hold or a lift decided, carries it out, and waits for its lists. Each must be signed once.
func (g *board) held(ctx context.Context, action officer.Action, parameters officer.Parameters, lists int) (id string, in heldIn, err error) {
	p, err := g.registry.Propose("kim", action, parameters, 0, time.Now().UTC(), rand.Reader)
	if err != nil {
		return "", in, err
	}
	var signed []string
	for _, who := range []string{"kim", "lee"} {
		e, err := officer.Approve(p.Payload(), who, g.keys[who], rand.Reader)
		if err != nil {
			return "", in, err
		}
		signed = append(signed, string(e))
	}
	if _, err := g.client.Propose(ctx, contract.ProposeRequest{Proposal: contract.File(signed[0])}); err != nil {
		return "", in, err
	}
	if _, err := g.client.Approve(ctx, contract.ApprovalRequest{ID: p.ID(), Envelope: contract.File(signed[1])}); err != nil {
		return "", in, err
	}
	before, err := g.versions(ctx)
	if err != nil {
		return "", in, err
	}
	used, err := g.cpu()
	if err != nil {
		return "", in, err
	}
	began := time.Now()
	if _, err := g.client.Execute(ctx, p.ID()); err != nil {
		return "", in, err
	}
	in.answered = time.Since(began)
	if err := g.untilPublic(ctx, before, lists); err != nil {
		return "", in, err
	}
	in.public = time.Since(began)
	if in.cpu, err = g.cpu(); err != nil {
		return "", in, err
	}
	in.cpu -= used
	after, err := g.versions(ctx)
	if err != nil {
		return "", in, err
	}
	for id, v := range after {
		switch v - before[id] {
		case 0:
		case 1:
			in.lists++
		default:
			return "", in, fmt.Errorf("list %s was signed %d times", id, v-before[id])
		}
	}
	return p.ID(), in, nil
}

func (g *board) versions(ctx context.Context) (map[string]uint64, error) {
	s, err := g.status(ctx)
	out := map[string]uint64{}
	for _, l := range s.Lists {
		out[l.ID] = l.Version
	}
	return out, err
}

// shows demands that a published list with cards shows a status for each of them.
func (g *board) shows(ctx context.Context, want byte) error {
	files, err := filepath.Glob(filepath.Join(g.dir, "data", "publish", "status-lists", "*.jwt"))
	if err != nil || len(files) < holdLists {
		return fmt.Errorf("%d lists are published: %w", len(files), err)
	}
	suspended := 0
	for _, f := range files {
		token, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if served, err := g.public(ctx, "/status-lists/"+strings.TrimSuffix(filepath.Base(f), ".jwt")); err != nil || !bytes.Equal(served, token) {
			return fmt.Errorf("%s is not what is served: %w", f, err)
		}
		l, err := verifier.DecodeStatusList(token, verifier.MaxEntries)
		if err != nil {
			return err
		}
		for _, b := range l.Image {
			if b == 0xaa {
				suspended++
			}
		}
	}
	if (suspended > 0) != (want == verifier.Suspended) {
		return fmt.Errorf("%d bytes of published lists have four suspended entries", suspended)
	}
	return nil
}
