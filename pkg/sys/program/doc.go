// SPDX-License-Identifier: Apache-2.0

// Package program runs short-lived programs of others, such as CNI plugins and
// OCI runtimes, and captures their output.
//
// A program that was begun with a lock is let finish within its time limit, also
// when its caller gives up or this process dies; the next owner of the lock waits
// for it. A program without a lock dies with its caller. A program that is killed
// takes its process group along.
//
// The package does not interpret what a program prints, and starts no container.
package program
