package signer

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sealkeeper/internal/metrics"
	"sealkeeper/policy"
	"sealkeeper/signer/wire"
	"sealkeeper/softhsm"
)

// BenchmarkLayer measures the HSM layer alone, without ledger and gate: LAYER_CALLERS (32) callers, the default two workers with one session
// each, session copies. tests/bench puts a plain pool of two sessions in one process beside it.
func BenchmarkLayer(b *testing.B) {
	module, err := softhsm.FindModule("")
	if err != nil {
		b.Skip("SoftHSM is not installed: ", err)
	}
	callers, err := strconv.Atoi(os.Getenv("LAYER_CALLERS"))
	if err != nil {
		callers = 32
	}
	dir := filepath.Join(b.TempDir(), "token")
	must(b, softhsm.Prepare(dir))
	child := func(mode string) *exec.Cmd {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), childVariable+"="+mode, "SIGNER_TEST_DIR="+dir)
		c.Env = append(c.Env, softhsm.Env(dir)...)
		return c
	}
	serial, err := softhsm.RunInit(child("init"), dir, module, "layer", []byte("so-pin-1234"), []byte("user-pin-1234"))
	must(b, err)
	a := newAppliance(b, 5*time.Second, Token{Name: "online", Module: module, Label: "layer", Serial: serial, Workers: 1, Sessions: 1, Copies: true,
		PIN: func() ([]byte, error) { return []byte("user-pin-1234"), nil }, Command: func() *exec.Cmd { return child("worker") }})
	n, err := a.Generate(context.Background(), "online", "ds", "ES256", NewID(), true)
	must(b, err)
	must(b, a.Close(context.Background()))
	key := wire.Key{ID: "ds", CKAID: n.CKAID, Purpose: string(policy.PurposeMDoc), Algorithm: "ES256", SPKI: n.SPKI, Copies: true}
	token := a.pools[0].token
	token.Workers = 2
	hello := func(context.Context) (wire.Hello, error) {
		return wire.Hello{Module: module, Token: "layer", Serial: serial, Sessions: 1, Copies: true, Keys: []wire.Key{key}}, nil
	}
	p := newPool(token, 5*time.Second, 4096, hello, slog.New(slog.DiscardHandler), metrics.New())
	defer func() { must(b, p.close(context.Background())) }()
	must(b, p.started(context.Background()))
	must(b, p.await(context.Background(), func() bool { return len(p.workers) == 2 }))
	tbs := policy.SelftestBytes(policy.PurposeMDoc, "ES256")

	used := cpuOfWorkers(b, p)
	b.ResetTimer()
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for i := c; i < b.N; i += callers {
				call := newCall(&notes{}, 1)
				err := p.enqueue([]*job{{keyID: "ds", purpose: policy.PurposeMDoc, tbs: tbs, lane: policy.LaneIssue, call: call}})
				if err == nil {
					<-call.done
					err = call.err
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuOfWorkers(b, p)-used).Microseconds())/float64(b.N), "worker-CPU-µs/op")
}

// cpuOfWorkers is the user and system time of the workers.
func cpuOfWorkers(b *testing.B, p *pool) (sum time.Duration) {
	for _, w := range p.workers {
		var t unix.Timespec
		must(b, unix.ClockGettime(int32(^w.cmd.Process.Pid<<3|2), &t)) // clock_getcpuclockid(3)
		sum += time.Duration(t.Nano())
	}
	return sum
}
