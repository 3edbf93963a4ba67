// SPDX-License-Identifier: Apache-2.0

// Package state holds what the daemon knows about pods and containers.
//
// One record per object, one JSON file per record under the root directory,
// replaced atomically and flushed, with its directory, before a call that made
// it returns. In memory the same records are immutable values behind one Store:
// readers get copies and never see half a change.
//
// Invariants:
//   - A phase moves only through the tables in phase.go; every other change
//     goes through Update and cannot touch the phase, the id or the name.
//   - Every committed move is one Change on the feed, in commit order.
//   - A record is written before its first side effect in the kernel and
//     dropped after the last one is undone.
//   - A file that does not parse is set aside (renamed *.bad) and named in the
//     log; it costs one object, never the node.
//
// Files, under the root directory:
//
//	records/version                 layout version, "1"
//	records/boot                    boot id of the last run
//	records/pods/<id>.json          {"version":1,"pod":{…},"config":{…}}
//	records/containers/<id>.json    {"version":1,"container":{…},"config":{…},…}
//
// The package does not touch processes, mounts or networks: it is told.
package state
