package config

// What is open beside connections. An idle daemon with two workers has about thirty files open.
const (
	listeners      = 3
	filesOfWorker  = 8 // socketpair, pipes, its process, and the same for its successor
	filesElsewhere = 128
)

// Files is how many file descriptors serving needs at most: each listener's connections and one more, which is closed at once, workers, the
// ledger, files that are being written.
func (c *Config) Files() int {
	return listeners*(c.Connections+1) + filesOfWorker*(c.Workers+1) + filesElsewhere
}
