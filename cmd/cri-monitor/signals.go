// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// caught are the signals that end nothing here.
type caught struct {
	pipe, others, upgrades chan os.Signal
}

// outlive keeps the monitor alive under every signal that a terminal, a logger
// or a habit may send it: with it would end the node's exit codes. SIGTERM ends
// it, SIGHUP has it execute its binary anew, SIGABRT makes it say where it is and
// die. The others are caught, not ignored: programs inherit what is ignored, and so
// would every container.
func outlive(ctx context.Context, log *slog.Logger) *caught {
	c := &caught{pipe: make(chan os.Signal, 1), others: make(chan os.Signal, 1), upgrades: make(chan os.Signal, 1)}
	c.catch()
	go func() {
		for {
			select {
			case s := <-c.others:
				log.Warn("signal ignored, SIGTERM ends the monitor", "signal", s.String())
			case <-ctx.Done():
				return
			}
		}
	}()
	return c
}

func (c *caught) catch() {
	signal.Notify(c.pipe, unix.SIGPIPE) // nothing is said of it, since saying it would raise the next
	signal.Notify(c.others, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM)
	signal.Notify(c.upgrades, unix.SIGHUP)
}

// ignore has the kernel drop them until the next image catches them: it begins with
// what is ignored still ignored, and what is caught deadly. No program is launched
// in between.
func (c *caught) ignore() (undo func()) {
	signal.Ignore(unix.SIGPIPE, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGHUP)
	return c.catch
}
