// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// outlive keeps the monitor alive under every signal that a terminal, a logger
// or a habit may send it: with it would end the node's exit codes. SIGTERM ends
// it, SIGABRT makes it say where it is and die. The others are caught, not
// ignored: programs inherit what is ignored, and so would every container.
func outlive(ctx context.Context, log *slog.Logger) {
	// Nothing is said of SIGPIPE, since saying it would raise the next.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	others := make(chan os.Signal, 1)
	signal.Notify(others, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM)
	go func() {
		for {
			select {
			case s := <-others:
				log.Warn("signal ignored, SIGTERM ends the monitor", "signal", s.String())
			case <-ctx.Done():
				return
			}
		}
	}()
}
