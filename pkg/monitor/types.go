// SPDX-License-Identifier: Apache-2.0

package monitor

import "github.com/cri-shim/cri-shim/pkg/monitor/wire"

// Launch describes a container to start.
type Launch = wire.Launch

// Launched names a container's first process for good.
type Launched = wire.Launched

// Running is a container that the monitor watches.
type Running = wire.Running

// Exit is how a container or a process ended.
type Exit = wire.Exit

// AttachOptions choose the streams of an Attachment.
type AttachOptions = wire.Attach

// LaunchError says that a launched program itself failed.
type LaunchError = wire.LaunchError
