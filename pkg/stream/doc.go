// SPDX-License-Identifier: Apache-2.0

// Package stream serves exec, attach and port-forward sessions over HTTP, as
// SPDY or WebSocket connections.
//
// A session is asked for over CRI and answered with a URL; whoever dials the
// URL gets the session. The wire protocols are k8s.io/cri-streaming's, plus the
// two newer ones its server lacks and kubectl's libraries speak by default: v5
// WebSocket channels (stdin can be half-closed) and SPDY tunnelled through a
// WebSocket for port-forward.
//
// Invariants:
//   - A URL carries 128 random bits, works once, and for one minute. It is the
//     only thing that guards a session.
//   - The context a session runs on ends when its client's connection does, and
//     when the daemon does: no process and no goroutine waits for a client that
//     is gone.
//   - A client is told how its session ended, also by the daemon's stop. To SPDY
//     clients silence is success; so the status of a failed session goes into
//     the connection also when the client does not read, and no connection is
//     closed before its client has got what is in it, or is gone.
//   - Run returns when every session has ended, or soon after its client was cut off.
//
// The package does not know how a process gets into a container: it is handed
// functions for that.
package stream
