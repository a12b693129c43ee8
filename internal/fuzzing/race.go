//go:build race

package fuzzing

// raceDetector makes everything many times slower: only memory is bounded then.
const raceDetector = true
