// Command sealkeeper-ra is the registration authority for the appliance's clients: it speaks the protocol of `step`, in a process and a module of its own,
// and carries what clients ask for to the appliance, which believes it nothing. It holds no key of value: its own client key, and a
// server key in memory whose certificate it gets from the appliance.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"sealkeeper/client"
)

func main() {
	var o options
	flag.StringVar(&o.appliance, "appliance", "", "https://host:port of the appliance's issuance listener")
	flag.StringVar(&o.identity, "identity", "", "directory of its own key.pem, cert.pem and ca.pem, of role ra")
	flag.StringVar(&o.listen, "listen", ":9443", "address to listen on")
	flag.Parse()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // its heap is small, and nearly all of it is the authority's, which stays: a collection walks all of that
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.appliance == "" || o.identity == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: sealkeeper-ra --appliance https://host:port --identity DIR [--listen ADDRESS]")
		os.Exit(2)
	}
	if err := run(ctx, o, log); err != nil {
		log.Error("the registration authority ends", "error", err)
		os.Exit(1)
	}
}

type options struct{ appliance, identity, listen string }

func run(ctx context.Context, o options, log *slog.Logger) error {
	id, err := client.LoadIdentity(o.identity, "")
	if err != nil {
		return fmt.Errorf("its own identity: %w", err)
	}
	appliance, err := client.New(client.Config{BaseURL: o.appliance, Identity: id, RootCAs: id.Roots(), Attempts: 2, Timeout: 10 * time.Second})
	if err != nil {
		return err
	}
	defer appliance.Close()
	// The port comes first: a start that does not get it is repeated every few seconds, and each would have cost the appliance a certificate.
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	defer l.Close()
	ra, err := newAuthority(ctx, appliance, log)
	if err != nil {
		return err
	}
	defer ra.close()
	go ra.keepCertificates(ctx, id)
	log.Info("the registration authority listens", "address", l.Addr().String(), "url", ra.url)
	return serve(ctx, ra.server(), l, log)
}

// grace is what requests that are under way have when the process is to end. The systemd unit waits for a little longer.
const grace = 10 * time.Second

// serve answers until ctx ends, and then those that it has begun to answer.
func serve(ctx context.Context, server *http.Server, l net.Listener, log *slog.Logger) error {
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(l, "", "") }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := server.Shutdown(end); err != nil {
		log.Warn("requests that were under way are cut off", "error", err)
		_ = server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
