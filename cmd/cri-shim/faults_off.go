// SPDX-License-Identifier: Apache-2.0

//go:build !faults

package main

import "github.com/cri-shim/cri-shim/pkg/state"

// injectFaults does nothing: only test/crash builds a daemon that can be made
// to fail.
func injectFaults(*state.Ops) {}
