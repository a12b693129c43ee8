package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// apart gives the server the first half of the machine's CPUs and the load generator the other: an open loop's generator works hardest when
// the server is overloaded, and would take from it what it then misses. The returned function undoes it.
func (a *appliance) apart() (together func() error, err error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, err
	}
	if all.Count() < 2 {
		return func() error { return nil }, nil
	}
	var server, own unix.CPUSet
	for cpu := 0; server.Count()+own.Count() < all.Count(); cpu++ {
		switch {
		case !all.IsSet(cpu):
		case server.Count() < all.Count()/2:
			server.Set(cpu)
		default:
			own.Set(cpu)
		}
	}
	a.cpus = &server
	return func() error { a.cpus = nil; return stay(&all) }, stay(&own)
}

// stay puts every thread of this process on these CPUs; later ones inherit it.
func stay(cpus *unix.CPUSet) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(id, cpus); err != nil && err != unix.ESRCH {
			return fmt.Errorf("placing thread %d: %w", id, err)
		}
	}
	return nil
}

// startOn starts a process that has these CPUs alone; nil: those of its parent.
func startOn(cpus *unix.CPUSet, cmd *exec.Cmd) error {
	if cpus == nil {
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	if err := unix.SchedSetaffinity(0, cpus); err != nil {
		return err
	}
	started := cmd.Start()
	if err := unix.SchedSetaffinity(0, &before); err != nil {
		return err
	}
	return started
}
