//go:build !race

package main

// leave ends a worker, which takes no time here.
func leave(err error) error { return err }
