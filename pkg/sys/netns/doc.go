// SPDX-License-Identifier: Apache-2.0

// Package netns makes network namespaces, and user namespaces that own them, pins
// them at paths and runs functions in them.
//
// Making and removing may be repeated. A function runs in a namespace on a thread
// of its own, which comes back or ends: no other goroutine ever runs there.
//
// The package says which id of the host an id in a user namespace is, but chooses
// no ids, and configures no network (pkg/network does).
package netns
