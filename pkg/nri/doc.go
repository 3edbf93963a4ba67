// SPDX-License-Identifier: Apache-2.0

// Package nri lets Node Resource Interface plugins see and shape pods and containers: it tells them of every step in
// their lives, applies the adjustments they ask for to OCI specs, and hands their updates of other containers to the
// caller.
//
// Invariants:
//   - A plugin that connects late misses nothing. It is synchronised with a snapshot, and no request is relayed, nor a
//     pod or container committed, between that snapshot and the plugin's registration.
//   - Each object's life is told once and in order: nothing of what was never announced, one stop, one removal, and a
//     stop before the removal of what ran. So the methods may be called from a teardown that is repeated.
//   - A plugin that does not answer within Options.RequestTimeout is disconnected (unless it asked to be kept) and the
//     request goes on without it. A plugin that answers with an error fails creations, starts and updates, and nothing
//     else: what is being stopped or removed is stopped or removed.
//   - Without a connected plugin a call takes an uncontended lock and a map entry; no message is built.
//   - A nil *Service is NRI switched off: every method does nothing.
//
// The package knows pods and containers only as the plain values it is given. It stores nothing, applies no update to
// a running container, reads no record, and serialises no object's operations: the caller holds the object's lock.
package nri
