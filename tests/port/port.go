// Package port finds TCP ports for the daemons under test.
package port

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Free returns n ports of the loopback address that nobody listens on. They lie below the range that outgoing connections take theirs from,
// so that they are still free after a restart, and all are held until the last is found, so that none is found twice.
func Free(n int) ([]int, error) {
	var ports []int
	for try := 0; len(ports) < n; try++ {
		p := 10_000 + rand.IntN(22_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err == nil {
			defer l.Close()
			ports = append(ports, p)
		} else if try == 100+n {
			return nil, fmt.Errorf("no free port: %w", err)
		}
	}
	return ports, nil
}
