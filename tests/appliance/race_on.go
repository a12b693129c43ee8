//go:build race

package appliance

// Race says whether the daemon under test is built with the race detector.
const Race = true
