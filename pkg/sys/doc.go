// SPDX-License-Identifier: Apache-2.0

// Package sys is the door to the kernel: mounts, pidfds, locks, pipes, devices,
// capabilities and what /proc and /sys tell about this machine.
//
// Each file is one topic and each function one idea of it. What makes something
// is idempotent, what removes something does not mind that it is gone, and an
// error names the path or process it is about. Kernel versions that matter are
// in the comments.
//
// The package knows nothing of pods, containers or runtimes and keeps no state.
// Only the wait for a lock outlives its call, when that gives up: no signal ends
// flock(2), which returns when the holder ends. Its larger topics are packages below
// it: cgroup, tree (directories that others made), program (programs of others),
// hostpath and netns.
package sys
