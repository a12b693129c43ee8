//go:build race

package scenario

const race = true
