//go:build !race

package fuzzing

const raceDetector = false
