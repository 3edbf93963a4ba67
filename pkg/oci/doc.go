// SPDX-License-Identifier: Apache-2.0

// Package oci turns CRI configuration into OCI runtime-spec documents.
//
// Pause builds the spec of a pod's infra container, Container that of an application container, Exec the process of an
// exec session. All are functions of their input: the machine is described by Host (read once), and the few questions
// whose answer depends on the request are asked through the functions of Lookup, which tests replace.
//
// Invariants:
//   - A field of the CRI messages is honoured, or refused with an error that names it, or it has an owner elsewhere;
//     fields_test.go walks the messages and fails on a field that is none of the three.
//   - An error is of class ErrInvalidArgument when the request can't be honoured anywhere, and ErrFailedPrecondition
//     when it can't be honoured on this machine. Nothing is dropped silently but what Kubernetes wants dropped
//     (hugepage sizes and swap limits the machine has no control for).
//   - The same input gives the same bytes: golden files under testdata hold the specs.
//   - Nothing here comes from the limits or environment of the daemon itself, other than through Host.
//
// The package makes no files, mounts or namespaces, starts nothing, knows no records and no images; paths it writes into
// a spec are the caller's. It does not check that host paths exist.
//
// Parts that need no spec are packages below: identity (users and groups), limits (resources), confine (capabilities,
// seccomp, AppArmor, SELinux) and refusal (errors that name a field).
package oci
