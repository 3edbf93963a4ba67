// SPDX-License-Identifier: Apache-2.0

// Package container is the life of containers: create, start, stop, remove,
// update, exec, attach, and what becomes of them when they end or when the
// daemon was away.
//
// Invariants:
//   - Creating makes files and mounts, never a process. Starting makes the
//     process, through the monitor, and nothing else.
//   - A record exists before the first side effect; teardown needs only the id
//     and undoes every one of them. It is the rollback of a failed create, the
//     end of a remove and the repair after a crash.
//   - Exit codes come from the monitor's exit feed and are committed before
//     they are acknowledged. Nothing polls.
//   - Operations run on the daemon's life; a repeated request joins.
//
// The package knows its pod only by the pod's record; it does not start, stop
// or network pods.
package container

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-shim/cri-shim/pkg/image"
	"github.com/cri-shim/cri-shim/pkg/monitor"
	"github.com/cri-shim/cri-shim/pkg/nri"
	"github.com/cri-shim/cri-shim/pkg/oci"
	"github.com/cri-shim/cri-shim/pkg/rootfs"
	"github.com/cri-shim/cri-shim/pkg/runc"
	"github.com/cri-shim/cri-shim/pkg/state"
	"github.com/cri-shim/cri-shim/pkg/sys/hostpath"
)

// Options are what the service works with.
type Options struct {
	Store   *state.Store
	Ops     *state.Ops
	Layout  state.Layout
	Images  *image.Service
	RootFS  *rootfs.Service
	Runtime *runc.Service
	Monitor *monitor.Client
	Plugins *nri.Service // nil: NRI is switched off
	Host    oci.Host
	Lookup  oci.Lookup
	Log     *slog.Logger
}

// Service runs containers.
type Service struct {
	Options
	paths hostpath.Paths

	began time.Time // of the daemon: what started before and has no exit may have ended with the node

	mu       sync.Mutex                  // guards the fields below
	signaled map[state.ContainerID]bool  // whose stop signal was sent
	refused  map[state.ContainerID]error // ends that could not be written down, and why
	waiters  map[*waiter]bool            // for ends
	execs    map[string]bool             // cgroups of the commands under way, by name
}

// New makes the service.
func New(o Options) *Service {
	return &Service{
		Options: o, began: time.Now(), signaled: map[state.ContainerID]bool{},
		refused: map[state.ContainerID]error{}, waiters: map[*waiter]bool{},
		execs: map[string]bool{},
	}
}

// lock takes the container's lock for the operation behind ctx.
func (s *Service) lock(ctx context.Context, id state.ContainerID) (func(), error) {
	return s.Ops.Lock(ctx, "container/"+string(id))
}

// readyPod returns the pod's record, or why nothing can start in it.
func (s *Service) readyPod(id state.PodID) (state.Pod, error) {
	pod, err := s.Store.Pod(string(id))
	if err != nil {
		return pod, err
	}
	if pod.Phase != state.PodReady {
		return pod, fmt.Errorf("pod %s is %s: %w", pod.ID, pod.Phase, errdefs.ErrFailedPrecondition)
	}
	return pod, nil
}
