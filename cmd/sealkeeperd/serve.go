package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"sealkeeper/api"
	"sealkeeper/internal/metrics"
	"sealkeeper/internal/supervisor"
)

func serveCommand() *cobra.Command {
	var file, level, exitFile string
	var text, profiling bool
	c := &cobra.Command{
		Use:     "serve",
		Short:   "Run the appliance: issuance, public and operations listeners",
		Long:    "serve runs until SIGTERM or SIGINT. Then it refuses new issue requests, finishes those in flight, publishes what was acknowledged, and ends.",
		Example: "  sealkeeperd serve --config sealkeeper.yaml --log-text",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			log, err := logger(level, text)
			if err != nil {
				return err
			}
			above, err := supervisor.Attach()
			if err != nil {
				return &coded{exitUsage, err}
			}
			defer func() {
				if err != nil {
					err = errors.Join(err, above.Status(err.Error()))
				}
			}()
			passed, err := above.Passes(issuanceName, publicName, operationsName)
			if err != nil {
				return &coded{exitUsage, err}
			}
			if exitFile != "" {
				// A daemon that is fenced or whose PIN was refused is never scraped: the reason has to outlive it. No lock waits for that.
				if err := metrics.WriteExit(exitFile, 0, time.Now()); err != nil {
					log.Error("writing the exit code: what a later end says will not be seen", "error", err)
				}
				defer func() {
					if err != nil {
						err = errors.Join(err, metrics.WriteExit(exitFile, exitCode(err), time.Now()))
					}
				}()
			}
			conf, err := loadConfig(file)
			if err != nil {
				return err
			}
			if err := openFiles(conf); err != nil {
				return err
			}
			if err := errors.Join(lent(conf.Online), lent(conf.IACA)); err != nil {
				return &coded{exitUsage, err}
			}
			thrift(profiling)
			unconfined := cmd.Flag("no-sandbox").Value.String() == "true"
			held, err := confine(conf, log, exitFile, unconfined, passed, above)
			if err != nil {
				return err
			}
			if err := above.Status("starting: comparing the ledger with what is outside, starting HSM workers"); err != nil {
				log.Warn("the supervisor does not listen", "error", err)
			}
			a, err := assemble(cmd.Context(), conf, log, false, !unconfined, exitFile)
			if ended := cmd.Context(); ended.Err() != nil && (errors.Is(err, ended.Err()) || errors.Is(err, context.Cause(ended))) {
				// It was told to end before it was there. What was waited for is not to blame: that the HSM refuses would wake somebody.
				log.Info("stopped during the start", "while", err.Error())
				return nil
			}
			if err != nil {
				return err
			}
			a.held, a.supervisor = held, above
			err = a.serve(cmd.Context(), profiling)
			ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), conf.Drain)
			defer cancel()
			return errors.Join(err, a.close(ctx))
		},
	}
	configFlag(c, &file)
	c.Flags().Bool("no-sandbox", false, "run unconfined, for debugging only")
	c.Flags().StringVar(&exitFile, "exit-textfile", "", "file of node_exporter's textfile collector that is told how the daemon ended (docs/monitoring.md)")
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.Flags().BoolVar(&text, "log-text", false, "log as text instead of JSON")
	c.Flags().BoolVar(&profiling, "pprof", false, "serve /debug/pprof/ on the operations listener, which must be loopback")
	return c
}

// thrift lets the heap grow to five times what is in use before the collector runs, within limits.memory_mib: the live heap is a few MiB of
// lists and caches, and each collection walks all of it. What the operator says in GOGC stands. Where nobody can look at them, allocations are
// not sampled: each sample walks a request's stack.
func thrift(profiling bool) {
	if !profiling {
		runtime.MemProfileRate = 0
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}

// profiled puts /debug/pprof/ in front of a handler. Its answers show the insides of the process, so it is asked for at the start and only
// served to this machine.
func profiled(next http.Handler) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /debug/pprof/", pprof.Index)
	m.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	m.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	m.Handle("/", next)
	return m
}

// serve runs listeners and publisher until ctx ends, then drains: listeners first, so that the publisher still publishes what the last
// requests changed.
func (a *appliance) serve(ctx context.Context, profiling bool) error {
	c := a.config
	cert, err := serverCertificate(c)
	if err != nil {
		return &coded{exitUsage, err}
	}
	if err := expired(c, cert, a.clock.Now()); err != nil {
		a.log.Error("clients refuse the issuance listener's certificate, if the wall clock is right", "error", err)
	}
	edge, err := api.New(api.Options{Authority: api.Of(a.ca), Certificate: cert, ClientCAs: a.ca.ClientCAs, Clock: a.clock, Guard: a.guard, Log: a.log, Metrics: a.metrics, MaxIssues: c.Concurrent, Hardening: a.held})
	if err != nil {
		return err
	}
	issuance, err := edge.Issuance()
	if err != nil {
		return err
	}
	operations := edge.Operations()
	servers := []struct {
		name, address string
		server        *http.Server
		tls           bool
	}{{issuanceName, c.Issuance, issuance, true}, {publicName, c.Public, edge.Public(), false}, {operationsName, c.Operations, operations, false}}
	var listeners []net.Listener
	for _, s := range servers {
		l, err := a.listen(s.name, s.address)
		if err != nil {
			return err
		}
		defer l.Close()
		listeners = append(listeners, edge.Bound(s.name, l, s.server, c.Connections))
		if s.server != operations {
			continue
		}
		switch host, _, _ := net.SplitHostPort(l.Addr().String()); {
		case isLoopback(host) && profiling:
			operations.Handler = profiled(operations.Handler)
		case profiling:
			return &coded{exitUsage, fmt.Errorf("--pprof needs the operations listener on loopback, and it is %s", l.Addr())}
		case !isLoopback(host):
			a.log.Warn("the operations listener has no authentication and is not bound to loopback", "address", l.Addr().String())
		}
	}

	publishing, stopPublishing := context.WithCancel(context.WithoutCancel(ctx))
	published := make(chan error, 1)
	go func() { published <- a.ca.Run(publishing) }()
	defer func() { stopPublishing(); <-published }()
	renewing, stopRenewing := context.WithCancel(context.WithoutCancel(ctx))
	renewed := make(chan struct{})
	go func() { defer close(renewed); a.keepServerCertificate(renewing, edge, cert) }()
	defer func() { stopRenewing(); <-renewed }()

	g, gctx := errgroup.WithContext(ctx)
	for i, s := range servers {
		l := listeners[i]
		g.Go(func() error {
			var err error
			if s.tls {
				err = s.server.ServeTLS(l, "", "")
			} else {
				err = s.server.Serve(l)
			}
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return fmt.Errorf("%s listener: %w", s.name, err)
		})
	}
	announced := make(chan struct{})
	g.Go(func() error {
		defer close(announced)
		return a.announce(gctx, listeners)
	})
	living, die := context.WithCancel(context.WithoutCancel(ctx))
	lived := make(chan struct{})
	go func() { defer close(lived); a.live(living, gctx, listeners) }()
	defer func() { die(); <-lived }()
	g.Go(func() error {
		<-gctx.Done()
		<-announced // a supervisor that heard of the end must not hear of the beginning
		a.log.Info("draining")
		a.told(a.supervisor.Stopping("draining: finishing what is in flight, publishing what was acknowledged"))
		edge.BeginDrain()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Drain)
		defer cancel()
		var errs []error
		for _, s := range servers { // issuance first; readers and operators can look until the end
			errs = append(errs, a.shut(ctx, s.name, s.server))
		}
		return errors.Join(errs...)
	})
	err = g.Wait()
	if derr := a.ca.Drain(context.WithoutCancel(ctx), c.Drain); derr != nil {
		err = errors.Join(err, fmt.Errorf("publishing the last changes: %w", derr))
	}
	a.log.Info("stopped")
	return err
}

// shut ends a server: who is being answered has until ctx ends. Whoever has not read its answer by then is cut off, and that is no failure: anybody can read
// a public list as slowly as they like.
func (a *appliance) shut(ctx context.Context, name string, server *http.Server) error {
	err := server.Shutdown(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	a.log.Warn("requests that were under way are cut off", "listener", name)
	_ = server.Close()
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
