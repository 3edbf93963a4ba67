// SPDX-License-Identifier: Apache-2.0

// Package crilog moves what a container writes from its pipes into its CRI log:
// what was read from a pipe is in the log once.
//
//   - Reading output and writing it to the log is one step (journal.go): a process
//     killed anywhere loses no byte and doubles none. The next one finishes the step.
//   - A log that can't be written loses what it is given, with a count; one whose
//     file system hangs stops the container's writes. Neither stops anything else.
//   - An attached client that does not read is dropped.
//   - Below the pod's log directory no symbolic link is followed.
//
// It does not rotate logs: the kubelet does, and Output.Reopen goes on in a new
// file. It knows neither processes nor clients.
package crilog
