// Package port finds TCP ports for the daemons under test.
package port

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
)

// claims are this process's, and end with it: a name in the kernel for each port that it was given.
var claims struct {
	sync.Mutex
	held []net.Listener
}

// Free returns n ports of the loopback address that nobody listens on and nobody else is given while this process lives. They lie outside of the
// range that outgoing connections take theirs from, and are claimed by name, because a daemon that is started again finds its port free only
// if no other test took it meanwhile.
func Free(n int) ([]int, error) {
	outgoing, err := os.ReadFile(outgoingFile)
	if err != nil {
		return nil, fmt.Errorf("where outgoing connections take their ports from: %w", err)
	}
	first, many, err := outside(string(outgoing))
	if err != nil {
		return nil, err
	}
	var ports []int
	for try := 0; len(ports) < n; try++ {
		p := first + rand.IntN(many)
		err := claim(p)
		if err == nil {
			ports = append(ports, p)
		} else if try == 100+n {
			return nil, fmt.Errorf("no free port: %w", err)
		}
	}
	return ports, nil
}

const outgoingFile = "/proc/sys/net/ipv4/ip_local_port_range"

// outside is the larger part of the ports from 10000 on that is not in a range, as the kernel writes it.
func outside(outgoing string) (first, many int, err error) {
	var low, high int
	if _, err := fmt.Sscan(outgoing, &low, &high); err != nil {
		return 0, 0, fmt.Errorf("%s has %q: %w", outgoingFile, outgoing, err)
	}
	const lowest, end, least = 10_000, 65_536, 2_000
	first, many = lowest, low-lowest
	if above := end - max(high+1, lowest); above > many {
		first, many = end-above, above
	}
	if many < least {
		return 0, 0, fmt.Errorf("outgoing connections take their ports from %d to %d, which leaves too few from %d on for daemons under test: sysctl -w net.ipv4.ip_local_port_range='32768 60999'", low, high, lowest)
	}
	return first, many, nil
}

func claim(port int) error {
	name, err := net.Listen("unix", fmt.Sprintf("@sealkeeper-test-port-%d", port))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		name.Close()
		return err
	}
	l.Close()
	claims.Lock()
	defer claims.Unlock()
	claims.held = append(claims.held, name)
	return nil
}
