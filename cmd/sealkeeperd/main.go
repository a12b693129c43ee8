// Command sealkeeperd is the signing appliance: it keeps issuer and status list keys in a PKCS#11 HSM and signs only what it built itself,
// from a request that policy allowed, after that fact is durable.
//
// Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 FENCED (something outside is ahead of the ledger), 4 the HSM refuses
// (PIN, missing or changed key), 5 a check found problems.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"sealkeeper/ledger"
	"sealkeeper/signer"
)

// version is set at build time: -ldflags "-X main.version=…".
var version = "development"

const (
	exitFailed = 1
	exitUsage  = 2
	exitFenced = 3
	exitHSM    = 4
	exitCheck  = 5
)

// coded is an error with its own exit code.
type coded struct {
	code int
	err  error
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "sealkeeperd",
		Short:         "Signing appliance for identity cards on phones",
		Long:          "sealkeeperd signs device-bound credentials and status lists with keys in a PKCS#11 HSM, after policy checks.\n\nExit codes: 0 done, 1 failed, 2 usage or configuration, 3 FENCED, 4 HSM refuses, 5 a check found problems.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &coded{exitUsage, err} })
	root.AddCommand(initCommand(), serveCommand(), checkCommand(), enrolCommand(), backupCommand(), restoreCommand(), acceptCommand(), versionCommand(), workerCommand(), tokenCommand())
	started := false
	marked(root, &started)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !started {
		err = &coded{exitUsage, fmt.Errorf("%w (see `%s --help`)", err, cmd.CommandPath())}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sealkeeperd:", err)
		os.Exit(exitCode(err))
	}
}

// marked notes when a command's own code starts: what cobra refuses before that (arguments, flags, commands) is wrong usage.
func marked(c *cobra.Command, started *bool) {
	if run := c.RunE; run != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return run(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		marked(sub, started)
	}
}

func exitCode(err error) int {
	var c *coded
	var f *ledger.Fenced
	switch {
	case errors.As(err, &c):
		return c.code
	case errors.As(err, &f), errors.Is(err, signer.ErrOldToken):
		return exitFenced
	case errors.Is(err, signer.ErrDown):
		return exitHSM
	}
	return exitFailed
}
