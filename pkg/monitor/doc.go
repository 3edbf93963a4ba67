// SPDX-License-Identifier: Apache-2.0

// Package monitor is the daemon's end of the protocol between it and cri-monitor,
// the one small process per node that parents every container (package parent).
//
//   - One connection, made again whenever it breaks. Calls fail with an error of
//     class Unavailable while there is none.
//   - A second copy of every container's pipes, terminal and pidfd is held here for
//     the monitor's successor, and handed over at the first connection to it.
//   - Exits come in order and once in a process of the daemon; those that were not
//     acknowledged come again in the next.
//
// It restarts no container and keeps nothing on disk.
package monitor
