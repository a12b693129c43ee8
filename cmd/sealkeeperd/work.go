//go:build !crashpoints

package main

import "sealkeeper/backup"

// shareWork is what guessing the passphrase of an officer's share costs each time.
const shareWork = backup.WorkFactor
