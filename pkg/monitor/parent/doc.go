// SPDX-License-Identifier: Apache-2.0

// Package parent is cri-monitor, the one small process per node that parents every
// container: it holds their stdio, writes their CRI logs, reaps them and keeps their
// exits until the daemon has taken notice. The daemon may stop, crash or be replaced
// at any time; containers notice nothing.
//
// # Invariants
//
//   - An exit is sent again on every connection until it is acknowledged.
//   - A slow client stops no container: it is dropped.
//   - Only root, and the monitor's own user, may connect.
//   - A request is taken from its socket inside the gate only: an upgrade finds it
//     there, or answered. No goroutine waits for the gate inside a socket.
//
// It does not restart anything, and keeps nothing over a reboot. What becomes of
// containers is package container's, what becomes of their output crilog's.
//
// # The monitor's directory
//
//	lock                 flock of the living monitor
//	journal              batches between pipe and log
//	exits.log            exits not acknowledged yet
//	ttyN                 console sockets, while a launch is under way
//	ID/state.json        record of a container, from before its launch to its exit
//	ID/exit.json         its exit, from before the reap to the exit log
//	ID/std{in,out,err}   named pipes, mode 0600, owned by the container's user
//	ID/tail              unfinished last lines
package parent
