// SPDX-License-Identifier: Apache-2.0

// Package confine builds what a process may not do: capabilities, seccomp filters, AppArmor profiles and SELinux labels.
//
// What a request names and this machine does not have is an error of class ErrFailedPrecondition, because the user counts
// on it. What it does not name gets the defaults of Kubernetes.
//
// The package has the machine's parts given as values (AppArmor, Seccomp). It loads one AppArmor profile of its own into
// the kernel and keeps the SELinux levels that are taken; it writes no others.
package confine
