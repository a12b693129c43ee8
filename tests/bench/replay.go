package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"

	"sealkeeper/ledger"
)

// replayMany decisions are what a replay by a new bundle has to be done with in ten seconds.
const replayMany = 100_000

// replayAlone issues a few cards and replays what was decided about them.
func (b *bench) replayAlone(ctx context.Context) error {
	a, err := installResidents(ctx, filepath.Join(b.work, "residents"), b.bin)
	if err != nil {
		return err
	}
	defer a.stop()
	if _, _, err := a.issue(ctx, whole.formats, 1000, 64); err != nil {
		return err
	}
	if err := a.stop(); err != nil {
		return err
	}
	seconds, err := b.replay(ctx, a)
	if err != nil {
		return err
	}
	b.add("policy_replay_100k_s", seconds, "s")
	fmt.Printf("%d decisions replayed in %.1f s\n", replayMany, seconds)
	return nil
}

// replay is how long `sealctl policy replay` takes for so many decisions about whole requests: those of the benchmark, each many times over in
// the stopped appliance's ledger, by the bundle that they were made by. Reading, decoding and counting are in it, as whoever waits sees it.
func (b *bench) replay(ctx context.Context, a *appliance) (seconds float64, err error) {
	file := filepath.Join(a.dir, "data", "ledger.db")
	store, err := ledger.OpenSQLite(ctx, file)
	if err != nil {
		return 0, err
	}
	rows, err := store.Scan(ctx, ledger.TableDecisions, nil, 1000)
	for n := len(rows); err == nil && n < replayMany; n += len(rows) {
		op := ledger.Op{Leaf: []byte(`{"v":1,"kind":"meta","at":"2026-01-01T00:00:00Z"}`)}
		for _, r := range rows {
			key := slices.Clone(r.Key) // milliseconds, then what is random
			_, _ = rand.Read(key[6:])
			op.Rows = append(op.Rows, ledger.Row{Table: ledger.TableDecisions, Key: key, Value: r.Value, If: ledger.Any})
		}
		if len(rows) == 0 {
			err = errors.New("the ledger has no decisions to replay")
		} else {
			_, err = store.Commit(ctx, []ledger.Op{op})
		}
	}
	if err = errors.Join(err, store.Close()); err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "sealctl"), "policy", "replay", "--bundle", filepath.Join(a.dir, "policy.json"), "--ledger", file, "--since", "7d", "--json").Output()
	if err != nil {
		return 0, fmt.Errorf("replaying: %w", err)
	}
	var said struct {
		Decisions, Same int
		PerSecond       float64 `json:"decisions_per_second"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return 0, err
	}
	if said.Decisions < replayMany || said.Same < replayMany {
		return 0, fmt.Errorf("%d decisions were replayed, %d the same", said.Decisions, said.Same)
	}
	return replayMany / said.PerSecond, nil
}
