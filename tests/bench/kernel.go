package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// usage is what one process asked of the kernel so far.
type usage struct {
	pid              int
	user, system     time.Duration
	faults, switches int64 // pages that were not there yet, and changes of threads
}

// usageOf a process, which comes first, and its living children.
func usageOf(parent int) (all []usage, err error) {
	children, err := childrenOf(parent)
	if err != nil {
		return nil, err
	}
	for _, pid := range append([]int{parent}, children...) {
		fields, err := stat(pid)
		if err != nil {
			return nil, err
		}
		var n [3]int64
		for i, at := range []int{7, 11, 12} { // minflt, utime, stime
			if n[i], err = strconv.ParseInt(fields[at], 10, 64); err != nil {
				return nil, err
			}
		}
		u := usage{pid: pid, faults: n[0], user: time.Duration(n[1]) * tick, system: time.Duration(n[2]) * tick}
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil {
			return nil, err
		}
		for _, t := range tasks {
			b, err := os.ReadFile(t)
			if err != nil {
				continue // it ended
			}
			for line := range strings.Lines(string(b)) {
				name, value, _ := strings.Cut(line, ":")
				if !strings.HasSuffix(name, "_ctxt_switches") {
					continue
				}
				n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				if err != nil {
					return nil, err
				}
				u.switches += n
			}
		}
		all = append(all, u)
	}
	return all, nil
}

// printUsage says what the daemon and its workers asked of the kernel for one of these requests.
func printUsage(before, after []usage, requests int) {
	per := func(n int64) float64 { return float64(n) / float64(requests) }
	for _, a := range after {
		i := slices.IndexFunc(before, func(b usage) bool { return b.pid == a.pid })
		if i < 0 {
			continue
		}
		b, name := before[i], "worker"
		if i == 0 {
			name = "daemon"
		}
		fmt.Printf("%s: %.0f user and %.0f system CPU µs, %.2f page faults, %.2f changes of threads a request\n", name, per((a.user - b.user).Microseconds()),
			per((a.system - b.system).Microseconds()), per(a.faults-b.faults), per(a.switches-b.switches))
	}
}
