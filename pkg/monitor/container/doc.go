// SPDX-License-Identifier: Apache-2.0

// Package container parents containers: it launches one, holds its stdio, signals
// it, and takes its exit to the exit log; and it takes over what a monitor before
// this one left.
//
//   - A container's directory and record are there before its launch begins, so
//     that a successor has enough to go on from.
//   - Its exit is written down before it is reaped, is given out after its last
//     output is in its log, and comes after the answer to its launch.
//   - Stdio are named pipes the container has open for reading and writing: when
//     nobody reads, it blocks, and never gets EPIPE. A successor opens them by path.
//
// It runs the argv it is handed and knows nothing of OCI runtimes, images or pods,
// nor of clients: those are told through Node.Tell and attached through pipes.
package container
