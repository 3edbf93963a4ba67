// SPDX-License-Identifier: Apache-2.0

// Package limits turns the resources of CRI into those of an OCI spec and back, and checks them.
//
// A field that is zero leaves what was there. Values are checked against what kernels accept and what this machine can
// limit; a value is never changed but for CPU shares, which become the nearest that the kernel has, and oom_score_adj,
// where this process may not give a lower one.
//
// The package writes no cgroups: the OCI runtime does.
package limits
