//go:build race

package main

import "syscall"

// leave ends a worker that the daemon hung up on. The race detector has said what it saw by then; it would let the process sleep for a second, for
// which each stop of the daemon waits, and a confined process can't read the environment that tells it not to.
func leave(err error) error {
	if err == nil {
		syscall.Exit(0)
	}
	return err
}
