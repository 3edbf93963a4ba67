// SPDX-License-Identifier: Apache-2.0

// Package pause carries the pod's infra process: a freestanding ELF file of
// about half a kilobyte, built by build.sh from pause.c and committed beside
// it, so that building this module needs no C compiler (CI rebuilds the files
// and compares).
//
// The process blocks TERM, INT and CHLD and waits: CHLD makes it reap every
// dead child, TERM and INT make it exit 0. It needs neither argv nor an
// environment nor to be PID 1, holds no descriptor and never allocates.
//
// The package does not run the process and knows nothing of pods.
package pause

import "bytes"

// Binary returns a fresh copy of the ELF file for the architecture this
// program was built for (amd64 or arm64; other architectures do not build).
func Binary() []byte { return bytes.Clone(elf) }
