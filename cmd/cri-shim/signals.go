// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// outlive keeps the daemon alive under signals that by default end a program
// and are sent for other reasons: SIGHUP, SIGUSR1 and SIGUSR2 by operators and
// tools that know daemons which reload or dump, SIGPIPE by the end of whoever
// reads the log. They are caught, not ignored: children would inherit that.
func outlive(ctx context.Context, log *slog.Logger) {
	// Nothing is said of SIGPIPE, since saying it would raise the next.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for {
			select {
			case s := <-asked:
				log.Warn("signal ignored: the configuration is read at start only", "signal", s.String())
			case <-ctx.Done():
				return
			}
		}
	}()
}
