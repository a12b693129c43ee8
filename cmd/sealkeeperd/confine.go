package main

import (
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"

	"net"
	"os"
	"path/filepath"
	"sealkeeper/softhsm"
	"strconv"

	"sealkeeper/internal/config"
	"sealkeeper/internal/sandbox"
	"sealkeeper/internal/supervisor"
)

// confinement is what the daemon may touch. Its workers inherit it, and each takes away more (workerConfinement), so this is a superset of
// what they need.
func confinement(c *config.Config, module, self string, passed bool) sandbox.Rules {
	r := sandbox.System()
	r.Read = append(r.Read, c.File, c.Policy)
	r.Read = append(r.Read, c.WalletProviders...)
	for _, k := range c.PolicySigners {
		r.Read = append(r.Read, k.File)
	}
	r.Write = append(r.Write, c.Data, filepath.Dir(c.HighWater), c.PublishDir(), c.TLSDir()) // the last two may be links to elsewhere
	for _, t := range []config.Token{c.Online, c.IACA} {
		r.Read = append(r.Read, filepath.Dir(t.PINFile), t.PINFile) // the directory: a PIN is changed by replacing its file; the file may be a link
		r = withModule(r, c, t, module, self)
	}
	for _, a := range []string{c.Issuance, c.Public, c.Operations} {
		if passed { // the listeners are there: nothing has to be bound
			break
		}
		if _, port, err := net.SplitHostPort(a); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				r.Bind = append(r.Bind, uint16(n))
			}
		}
	}
	return r
}

// workerConfinement is what the workers of one token may touch: the program, the module and that token. No PIN file, no ledger, no listener.
func workerConfinement(c *config.Config, t config.Token, module, self string) sandbox.Rules {
	return withModule(sandbox.System(), c, t, module, self)
}

func withModule(r sandbox.Rules, c *config.Config, t config.Token, module, self string) sandbox.Rules {
	r.Run = append(r.Run, self, module)
	if target, err := filepath.EvalSymlinks(module); err == nil {
		r.Run = append(r.Run, filepath.Dir(target)) // what it loads beside itself
	}
	if t.Dir != "" {
		r.Write = append(r.Write, t.Dir)
	}
	r.Drivers = append(r.Drivers, c.Allow...)
	r.Connect = !c.Embedded // an HSM in the network
	return r
}

// confine starts the program again in its sandbox unless it is there already, hides it from others of the same user, and says what holds.
// A missing control is no reason not to start: a locked phone matters more. It is a warning, a line of the status and a metric.
func confine(c *config.Config, log *slog.Logger, exitFile string, open, passed bool, above *supervisor.Supervisor) (held map[string]bool, err error) {
	if again, missing := sandbox.Again(); !open && !again {
		module, err := softhsm.FindModule(c.Module)
		if err != nil {
			return nil, &coded{exitHSM, err}
		}
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(c.HighWater), 0o700); err != nil {
			return nil, fmt.Errorf("high_water: %w", err)
		}
		rules := confinement(c, module, self, passed)
		if exitFile != "" {
			rules.Write = append(rules.Write, filepath.Dir(exitFile))
		}
		if err := above.Handover(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w (--no-sandbox runs without, for debugging)", sandbox.Reexec(rules))
	} else if missing != "" {
		log.Warn("not in a sandbox", "error", missing)
	}
	if !open {
		if err := sandbox.Hide(); err != nil {
			return nil, err
		}
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(c.Memory) << 20)
	}
	held = sandbox.Held()
	var in, out []string
	for _, control := range slices.Sorted(maps.Keys(held)) {
		if held[control] {
			in = append(in, control)
		} else {
			out = append(out, control)
		}
	}
	if open {
		log.Warn("running without the sandbox: for debugging only")
	}
	log.Info("hardening", "in force", in, "not in force", out)
	return held, nil
}
