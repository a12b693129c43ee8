package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"sealkeeper/api"
	"sealkeeper/internal/config"
)

// The listeners, by the names that passed sockets must have.
const (
	issuanceName   = "issuance"
	publicName     = "public"
	operationsName = "operations"
)

const (
	lookEvery   = 10 * time.Second // at the appliance's state, if nobody waits for signs of life
	readyProved = 30 * time.Second // from served listeners to proof of it
)

// openFiles makes sure that the connections that the configuration allows can be open at once. Without room for its own files the ledger
// would fail on a crowd of clients, which costs more than not to start.
func openFiles(c *config.Config) error {
	need := uint64(c.Files())
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("the limit of open files: %w", err)
	}
	if limit.Max < need {
		return &coded{exitUsage, fmt.Errorf("limits.connections: %d on each of three listeners need %d open files, and this process may have %d: "+
			"raise its limit (LimitNOFILE=%d in a unit, `ulimit -Hn %d` in a shell), or lower limits.connections", c.Connections, need, limit.Max, need, need)}
	}
	if limit.Cur >= need {
		return nil
	}
	limit.Cur = need
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return &coded{exitUsage, fmt.Errorf("limits.connections: %d on each of three listeners need %d open files, and the limit can't be raised: %w", c.Connections, need, err)}
	}
	return nil
}

// listen takes the socket that was passed under this name, or opens one where the configuration says.
func (a *appliance) listen(name, address string) (net.Listener, error) {
	passed, err := a.supervisor.Passes(issuanceName, publicName, operationsName)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	if passed {
		l, err = a.supervisor.Listener(name)
	} else {
		l, err = net.Listen("tcp", address)
	}
	if err != nil {
		return nil, fmt.Errorf("%s listener: %w", name, err)
	}
	a.log.Info("listening", "listener", name, "address", l.Addr().String(), "passed", passed)
	return l, nil
}

// pulse proves that a lock would be taken now: every listener's accepting goroutine answers, the ledger commits and reads. The HSM has no
// part in it. Without it no card is issued, and still locks are taken, which a restart would only interrupt.
func (a *appliance) pulse(ctx context.Context, listeners []net.Listener) error {
	for _, l := range listeners {
		if err := api.Pulse(ctx, l); err != nil {
			return fmt.Errorf("nothing accepts connections on %s: %w", l.Addr(), err)
		}
	}
	return a.ledger.Pulse(ctx)
}

// announce says that the appliance serves, after a first pulse. It returns early if ctx ends.
func (a *appliance) announce(ctx context.Context, listeners []net.Listener) error {
	within, cancel := context.WithTimeout(ctx, readyProved)
	defer cancel()
	err := a.pulse(within, listeners)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("started, and does not serve: %w", err)
	}
	a.told(a.supervisor.Ready(a.state(ctx)))
	return nil
}

// live gives a sign of life after each pulse, until ctx ends; draining is when it stops to say how it goes, which the drain does then. Four
// pulses fit into the time that the supervisor waits, so that one that is late costs nothing.
func (a *appliance) live(ctx, draining context.Context, listeners []net.Listener) {
	every := a.supervisor.Watchdog / 4
	if every == 0 {
		every = lookEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		within, cancel := context.WithTimeout(ctx, every)
		err := a.pulse(within, listeners)
		cancel()
		if ctx.Err() != nil {
			return
		}
		state := ""
		if err == nil {
			a.told(a.supervisor.Alive())
			state = a.state(ctx)
		} else {
			state = "not answering: " + err.Error()
			a.log.Error("no sign of life is given", "error", err)
		}
		if state != said && draining.Err() == nil {
			a.told(a.supervisor.Status(state))
			said = state
		}
	}
}

// state is one line for a person.
func (a *appliance) state(ctx context.Context) string {
	if problems := a.ca.Status(ctx).Problems; len(problems) > 0 {
		return "serving, with problems: " + strings.Join(problems, "; ")
	}
	return "serving"
}

// told logs that the supervisor could not be told something. It will draw its own conclusions.
func (a *appliance) told(err error) {
	if err != nil {
		a.log.Warn("the supervisor does not listen", "error", err)
	}
}
