//go:build crashpoints

package main

// shareWork in the build of the tests, in which nobody keeps a secret behind a passphrase.
const shareWork = 10
