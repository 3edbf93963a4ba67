// SPDX-License-Identifier: Apache-2.0

// Package child starts programs and reaps whatever falls to this process: it
// forks, hands terminals over, and tells how each process ended. It knows no
// containers.
//
//   - Nothing else in the process waits for children.
//   - Who is told of an end is told before the process is reaped, while the kernel
//     still has its status too.
//   - Processes are signalled by pidfd, which is opened while the number is known
//     to be the process's own.
package child
