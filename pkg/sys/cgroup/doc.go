// SPDX-License-Identifier: Apache-2.0

// Package cgroup finds, walks, kills and removes the cgroups of containers, on
// cgroup v1 and v2.
//
// A cgroup is named by its OCI cgroupsPath or by its directories on the host. A
// container may have made any number of cgroups below its own, at any depth: a
// walk holds a bounded number of descriptors and follows no path. A process is
// held by its pidfd before it is signalled, so that no other process is killed
// that has got its number. A cgroup that does not exist is empty.
//
// The package sets no limits but those of huge pages, reads no usage (pkg/stats
// does) and knows nothing of containers.
package cgroup
