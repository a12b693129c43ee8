package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// profile writes a CPU profile of the daemon while 64 clients issue SD-JWT VCs.
func (b *bench) profile(ctx context.Context, file string, programme bool) error {
	found := installDemo
	if programme {
		found = installResidents
	}
	a, err := found(ctx, filepath.Join(b.work, "a"), b.bin)
	if err != nil {
		return err
	}
	defer a.stop()
	if err := a.stop(); err != nil {
		return err
	}
	if _, err := a.start(ctx, "--pprof"); err != nil {
		return err
	}
	if _, _, err := a.issue(ctx, products[1].formats, 1000, 64); err != nil { // warm
		return err
	}
	p, err := a.prepare(ctx, products[1].formats, 10000)
	if err != nil {
		return err
	}
	got := make(chan error, 1)
	go func() {
		got <- fetch(ctx, fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=5", a.ports[2]), file)
	}()
	before, err := usageOf(a.cmd.Process.Pid)
	if err != nil {
		return err
	}
	r, err := drive(ctx, a.tls["ward-office-1"], a.ports[0], 64, p.requests, a.cpu, nil)
	if err != nil {
		return err
	}
	after, err := usageOf(a.cmd.Process.Pid)
	if err != nil {
		return err
	}
	printUsage(before, after, r.done)
	fmt.Printf("P-256 verification %.1f CPU µs; %.0f per CPU s, %.0f CPU µs, %.0f req/s, load %s\n", r.verify, r.perCPU(), 1e6/r.perCPU(), r.perSecond(), loadAverage())
	if err := <-got; err != nil {
		return err
	}
	if err := fetch(ctx, fmt.Sprintf("http://127.0.0.1:%d/metrics", a.ports[2]), file+".metrics"); err != nil {
		return err
	}
	return fetch(ctx, fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/allocs", a.ports[2]), file+".allocs")
}

func fetch(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d: %s", url, r.StatusCode, data)
	}
	return os.WriteFile(file, data, 0o644)
}
