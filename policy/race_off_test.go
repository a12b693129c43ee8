//go:build !race

package policy

const race = false
