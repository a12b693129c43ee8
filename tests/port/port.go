// Package port finds TCP ports for the daemons under test.
package port

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// claims are this process's, and end with it: a name in the kernel for each port that it was given.
var claims struct {
	sync.Mutex
	held []net.Listener
}

// Free returns n ports of the loopback address that nobody listens on and nobody else is given while this process lives. They lie below the
// range that outgoing connections take theirs from, and are claimed by name, because a daemon that is started again finds its port free only
// if no other test took it meanwhile.
func Free(n int) ([]int, error) {
	var ports []int
	for try := 0; len(ports) < n; try++ {
		p := 10_000 + rand.IntN(22_000)
		err := claim(p)
		if err == nil {
			ports = append(ports, p)
		} else if try == 100+n {
			return nil, fmt.Errorf("no free port: %w", err)
		}
	}
	return ports, nil
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
