//go:build race

package policy

// race: the detector makes these tests ten times slower, and has nothing to see in functions of one goroutine.
const race = true
