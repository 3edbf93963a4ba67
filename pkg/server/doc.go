// SPDX-License-Identifier: Apache-2.0

// Package server answers the RPCs of CRI v1.
//
// Every RPC is: validate the request, one call into a domain package, translate
// the answer. What all RPCs share (status codes, log line, panics, the gate,
// size limits) is in one place, calls.go, for unary and streaming RPCs alike.
//
// Invariants:
//   - Validation is pure and names every fault of a request at once, as
//     InvalidArgument; nothing has happened then. Package oci validates what
//     ends up in specs, this one all else.
//   - Domain errors become status codes by their errdefs class only.
//   - List and Status RPCs answer from memory; a List RPC and its Stream form
//     share one function.
//   - Requests are never logged, only the ids and names in them: they carry
//     secrets.
//   - Times are time.Time until an answer is made, and become nanoseconds here.
//
// The package holds no state of pods or containers and starts no process.
package server
